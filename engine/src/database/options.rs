//! Options of keyspaces: kept, refused, and what each of them does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isolith_wal::ManualClock;

use super::tests::small_files;
use crate::storage::memory::MemoryStorage;
use crate::{
    BulkLoadOptions, Change, Compression, Database, Error, KeyspaceOptions, MergeError,
    MergeOperator, NEVER, OpenError, PrefixExtractor, PutOptions, Verify, merge,
};

fn default() -> KeyspaceOptions {
    KeyspaceOptions::default()
}

fn plain() -> KeyspaceOptions {
    KeyspaceOptions { compression: Compression::None, filter_bits_per_key: 0, ..default() }
}

fn prefixed(prefix: PrefixExtractor) -> KeyspaceOptions {
    KeyspaceOptions { prefix_filter: Some(prefix), ..default() }
}

#[test]
fn options_are_kept_by_the_log_and_by_files_until_the_keyspace_is_dropped() {
    let storage = Arc::new(MemoryStorage::new());
    let open = || small_files(&storage).open().expect("it opens");
    let reopened = |db: Database| {
        db.close().expect("closed");
        drop(db);
        open()
    };
    let mut db = open();
    let users = prefixed(PrefixExtractor::UpTo(b':'));
    let keyspace = db.keyspace_with("users", users.clone()).expect("made");
    assert_eq!(keyspace.options(), users);
    drop(keyspace);
    assert_eq!(db.keyspace("plain").expect("made").options(), default());
    db = reopened(db);
    assert_eq!(db.keyspace_with("users", users.clone()).expect("there").options(), users);
    let keyspace = db.keyspace("users").expect("there");
    keyspace.set_options(plain()).expect("set");
    assert_eq!(keyspace.options(), plain());
    drop(keyspace);
    for flushes in [false, true] {
        if flushes {
            db.flush().expect("flushed");
        }
        db = reopened(db);
        assert_eq!(db.keyspace("users").expect("there").options(), plain());
        assert!(db.verify(Verify::Full).expect("looked at").is_sound());
    }
    let refused = db.keyspace_with("users", users.clone());
    let differs = matches!(&refused, Err(Error::KeyspaceOptionsDiffer { keyspace, options })
        if keyspace == "users" && **options == plain());
    assert!(differs, "{refused:?}");
    let gone = db.keyspace("users").expect("there");
    assert!(db.drop_keyspace("users").expect("dropped"));
    let refused = gone.set_options(default());
    assert!(matches!(refused, Err(Error::KeyspaceDropped { .. })), "{refused:?}");
    drop(gone);
    db = reopened(db);
    assert_eq!(db.keyspace("users").expect("made anew").options(), default());
    let mut feed = db.changes(db.visible()).expect("it begins");
    db.keyspace("users").expect("there").set_options(plain()).expect("set");
    let commit = feed.next_commit().expect("readable").expect("one");
    let named = |change: &Change| matches!(change, Change::OptionsSet(keyspace) if keyspace.name.as_deref() == Some("users"));
    assert!(commit.changes.iter().all(named), "{commit:?}");
}

#[test]
fn a_put_without_an_expiry_gets_that_of_its_keyspace() {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let storage = Arc::new(MemoryStorage::new());
    let open = || {
        let builder = small_files(&storage).clock(Arc::clone(&clock) as Arc<_>);
        builder.open().expect("it opens")
    };
    let db = open();
    let options = KeyspaceOptions { ttl: Some(Duration::from_secs(10)), ..default() };
    let cache = db.keyspace_with("cache", options).expect("made");
    let ends = |key: &str| cache.get_entry(key).expect("readable").expect("there").expires_at;
    cache.put("plain", "1").expect("put");
    assert_eq!(ends("plain"), Some(1_010_000));
    let own = PutOptions { expires_at: Some(1_005_000), ..PutOptions::default() };
    cache.put_with("own", "1", own).expect("put");
    assert_eq!(ends("own"), Some(1_005_000));
    let never = PutOptions { expires_at: Some(NEVER), ..PutOptions::default() };
    cache.put_with("never", "1", never).expect("put");
    assert_eq!(ends("never"), None);
    let mut transaction = db.begin().expect("begun");
    clock.advance(5_000);
    transaction.put(&cache, "transaction", "1").expect("put");
    transaction.put_with(&cache, "transaction, never", "1", Some(NEVER)).expect("put");
    transaction.commit().expect("committed");
    assert_eq!(ends("transaction"), Some(1_010_000), "by the time at which it began");
    assert_eq!(ends("transaction, never"), None);
    let mut load = cache.bulk_load(BulkLoadOptions::default()).expect("begun");
    load.add("loaded", "1").expect("added");
    load.add_expiring("loaded, never", "1", Some(NEVER)).expect("added");
    load.finish().expect("loaded");
    assert_eq!((ends("loaded"), ends("loaded, never")), (Some(1_015_000), None));
    db.flush().expect("flushed");
    clock.advance(5_000);
    let there = |db: &Database| -> Vec<String> {
        let pairs = db.keyspace("cache").expect("there").range(..);
        pairs.map(|pair| pair.expect("readable").0.escape_ascii().to_string()).collect()
    };
    assert_eq!(there(&db), ["loaded", "loaded, never", "never", "transaction, never"]);
    cache.set_options(default()).expect("set");
    cache.put("plain", "2").expect("put");
    assert_eq!(ends("plain"), None);
    cache
        .set_options(KeyspaceOptions { ttl: Some(Duration::from_millis(1)), ..default() })
        .expect("set");
    drop(cache);
    db.close().expect("closed");
    drop(db);
    let db = open();
    db.keyspace("cache").expect("there").put("short", "1").expect("put");
    clock.advance(1);
    assert!(!there(&db).contains(&"short".to_owned()), "the option is kept");
}

struct Longest;

impl MergeOperator for Longest {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        let existing = existing.unwrap_or_default();
        Ok(if existing.len() > operand.len() { existing } else { operand }.to_vec())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(Some(earlier), later)
    }
}

#[test]
fn merges_without_a_name_go_by_the_operator_of_the_keyspace_which_has_to_be_there() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).merge_operator("longest", Longest).open().expect("it opens");
    let by = |name: &str| KeyspaceOptions { merge_operator: Some(name.into()), ..default() };
    let refused = db.keyspace_with("words", by("shortest"));
    assert!(matches!(&refused, Err(Error::UnknownOperator { name }) if name == "shortest"));
    assert!(db.keyspaces().is_empty(), "nothing was made");
    let words = db.keyspace_with("words", by("longest")).expect("made");
    for word in ["one", "eleven", "two"] {
        words.merge("k", "", word).expect("merged");
    }
    let mut transaction = db.begin().expect("begun");
    transaction.merge(&words, "k", "", "seventeen").expect("merged");
    transaction.merge(&words, "k", merge::APPEND, "!").expect("merged by another");
    transaction.commit().expect("committed");
    assert_eq!(words.get("k").expect("readable").as_deref(), Some(&b"seventeen!"[..]));
    let refused = db.keyspace("plain").expect("made").merge("k", "", "word");
    assert!(matches!(&refused, Err(Error::UnknownOperator { name }) if name.is_empty()));
    drop(words);
    db.close().expect("closed");
    drop(db);
    let refused = small_files(&storage).open();
    let told = matches!(&refused, Err(OpenError::UnknownOperator { keyspace, name })
        if keyspace == "words" && name == "longest");
    assert!(told, "{refused:?}");
    small_files(&storage).read_only(true).open().expect("whoever only looks needs no operator");
}

/// Bytes of files with so many pairs that repeat themselves, or do not.
fn file_bytes(options: KeyspaceOptions, noise: bool) -> u64 {
    let db = small_files(&Arc::new(MemoryStorage::new())).open().expect("it opens");
    let keyspace = db.keyspace_with("data", options).expect("made");
    let mut state = 7u64;
    for number in 0..500 {
        let value: Vec<u8> = (0..100)
            .map(|at| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                if noise { (state >> 56) as u8 } else { b"once upon a time "[at % 17] }
            })
            .collect();
        keyspace.put(format!("k{number:04}"), value).expect("put");
    }
    db.compact().expect("compacted");
    assert!(db.verify(Verify::Full).expect("looked at").is_sound());
    assert_eq!(keyspace.len().expect("readable"), 500);
    db.stats().files.expect("files").bytes
}

#[test]
fn files_are_compressed_as_their_keyspace_says_and_only_where_it_pays() {
    let by = |compression| KeyspaceOptions { compression, block_bytes: 16 << 10, ..default() };
    let (none, lz4) = (by(Compression::None), by(Compression::Lz4));
    let (raw, packed) = (file_bytes(none.clone(), false), file_bytes(lz4.clone(), false));
    assert!(packed * 3 < raw, "{packed} of {raw} bytes");
    assert_eq!(file_bytes(lz4, true), file_bytes(none.clone(), true), "noise stays as it is");
    #[cfg(feature = "zstd")]
    {
        let best = file_bytes(by(Compression::Zstd(19)), false);
        assert!(best < packed, "{best} bytes and {packed}");
        assert_eq!(file_bytes(by(Compression::Zstd(19)), true), file_bytes(none.clone(), true));
    }
    let blind = KeyspaceOptions { filter_bits_per_key: 0, ..none.clone() };
    let wide = KeyspaceOptions { filter_bits_per_key: 64, ..none.clone() };
    let (blind, ten, wide) =
        (file_bytes(blind, true), file_bytes(none, true), file_bytes(wide, true));
    assert!(blind + 500 < ten && ten + 500 * 6 < wide, "{blind}, {ten}, {wide} bytes");
}

/// Scans by prefix and by range over files that were written under one option and another, against a map.
#[test]
fn scans_find_the_same_whatever_prefixes_files_know_of() {
    let extractors = [
        None,
        Some(PrefixExtractor::Length(2)),
        Some(PrefixExtractor::Length(5)),
        Some(PrefixExtractor::UpTo(b':')),
    ];
    for seed in 1..3u64 {
        let mut state = seed * 0x9e37_79b9;
        let mut roll = move |sides: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % sides
        };
        let db = small_files(&Arc::new(MemoryStorage::new())).open().expect("it opens");
        let keyspace = db.keyspace("data").expect("made");
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for step in 0..4_000u64 {
            let user = roll(60);
            let key = match roll(12) {
                0 => format!("u{user:02}").into_bytes(),
                1 => vec![b'u'; roll(3) as usize + 1],
                2 => [&b"\xff\xff"[..], &[roll(3) as u8]].concat(),
                _ => format!("u{user:02}:{}", roll(20)).into_bytes(),
            };
            match roll(200) {
                0..150 => {
                    let value = format!("{step} {}", "v".repeat(roll(40) as usize)).into_bytes();
                    keyspace.put(&key, &value).expect("put");
                    model.insert(key, value);
                }
                150..170 => {
                    keyspace.delete(&key).expect("deleted");
                    model.remove(&key);
                }
                170 => {
                    let end = [&key[..], b"~"].concat();
                    keyspace.delete_range(&key[..]..&end[..]).expect("deleted");
                    model.retain(|known, _| *known < key || *known >= end);
                }
                171 => {
                    let prefix_filter = extractors[roll(4) as usize];
                    keyspace
                        .set_options(KeyspaceOptions { prefix_filter, ..default() })
                        .expect("set");
                }
                172 => db.flush().expect("flushed"),
                173 if step % 4 == 0 => db.compact().expect("compacted"),
                _ => {
                    let prefix = &key[..key.len().min(roll(6) as usize)];
                    let expected: Vec<_> =
                        model.iter().filter(|(known, _)| known.starts_with(prefix)).collect();
                    let pairs = |pair: crate::Result<crate::Pair>| {
                        let (key, value) = pair.expect("readable");
                        (key.to_vec(), value.to_vec())
                    };
                    let mut found: Vec<_> = match roll(2) {
                        0 => keyspace.prefix(prefix).map(pairs).collect(),
                        _ => keyspace.prefix(prefix).rev().map(pairs).collect(),
                    };
                    found.sort_unstable();
                    let found: Vec<_> = found.iter().map(|(key, value)| (key, value)).collect();
                    assert!(found == expected, "{} at step {step}", prefix.escape_ascii());
                }
            }
        }
        let files = db.stats().files.expect("files");
        assert!(files.flushes > 20 && files.compactions > 5, "{files:?}");
    }
}
