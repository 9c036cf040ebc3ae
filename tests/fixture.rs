//! A database of this format, kept beside the tests: what is written today has to be read by every later build
//! that says it knows the format.
//!
//! `tests/fixtures/database` was made by the test that is ignored here:
//!
//! ```text
//! cargo test -p isolith-server --test fixture -- --ignored
//! ```
//!
//! It is made anew when the format changes before its first release, and never after: then a second one is added.

#![expect(clippy::disallowed_methods, reason = "the files are copied behind the database's back")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use isolith::{
    BulkLoadOptions, Compression, Database, Durability, KeyspaceOptions, ManualClock,
    PrefixExtractor, PutOptions, Result, Verify, merge,
};

/// 2001 and 2100, in Unix milliseconds.
const LONG_AGO: u64 = 1_000_000_000_000;
const FAR_AHEAD: u64 = 4_102_444_800_000;
/// The year 2000: nothing had expired when it was written.
const WRITTEN_AT: u64 = 946_684_800_000;

/// Keyspace and key to value and expiry.
type Contents = BTreeMap<(String, String), (Vec<u8>, Option<u64>)>;

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/database")
}

fn value(number: u64) -> String {
    format!("value {number} {}", "abc".repeat(number as usize % 9))
}

/// Bytes that no compression makes fewer.
fn noise(bytes: usize) -> Vec<u8> {
    let mut word = 7u64;
    let mut next = || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (word >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// What is in the database: written down apart from how it was made.
fn expected() -> Contents {
    let mut all = Contents::new();
    let mut is = |space: &str, key: &str, value: &[u8], expires_at| {
        all.insert((space.to_owned(), key.to_owned()), (value.to_vec(), expires_at));
    };
    for number in 0..200u64 {
        let value = match number {
            // Deleted one by one, as a range in a file, and as a range in the log.
            _ if number % 10 == 3 || (50..60).contains(&number) || (120..125).contains(&number) => {
                continue;
            }
            _ if number % 7 == 0 => format!("again {number}"),
            _ => value(number),
        };
        is("plain", &format!("k{number:03}"), value.as_bytes(), None);
    }
    is("plain", "last", b"in the log", None);
    is("merged", "counter", b"-35", None);
    is("merged", "largest", b"90", None);
    is("merged", "text", b"one, two, three, four", None);
    let members: [&[u8]; 3] = [b"a", b"b", b"c"];
    is("merged", "set", &merge::encode_set(members), None);
    is("merged", "under a delete", b"5", None);
    is("expiring", "ahead", b"still there", Some(FAR_AHEAD));
    is("expiring", "in the log", b"still there", Some(FAR_AHEAD));
    is("expiring", "never", b"stays", None);
    for number in 0..40u64 {
        let written = if number == 7 { "over the load".to_owned() } else { value(number) };
        is("loaded", &format!("{number:02}"), written.as_bytes(), None);
    }
    is("large", "noise", &noise(9_000), None);
    is("large", "text", "large ".repeat(2_000).as_bytes(), None);
    is("in the log alone", "", b"an empty key", None);
    is("in the log alone", "empty value", b"", None);
    all
}

fn key(number: u64) -> String {
    format!("k{number:03}")
}

/// Writes what [`expected`] says, and some that is overwritten and deleted on the way.
fn fill(db: &Database) -> Result<()> {
    let plain = db.keyspace("plain")?;
    let merged = db.keyspace("merged")?;
    let expiring = db.keyspace("expiring")?;
    let zstd = KeyspaceOptions { compression: Compression::Zstd(3), ..Default::default() };
    let large = db.keyspace_with("large", zstd)?;
    let prefixes = KeyspaceOptions {
        prefix_filter: Some(PrefixExtractor::Length(2)),
        compression: Compression::None,
        ..Default::default()
    };
    db.keyspace_with("loaded", prefixes)?;
    db.keyspace("dropped")?.put("gone", "gone")?;
    db.transact(|tx| (0..200).try_for_each(|number| tx.put(&plain, key(number), value(number))))?;
    merged.put("counter", "5")?;
    merged.put("text", "one")?;
    merged.merge("largest", merge::MAX_I64, "90")?;
    merged.merge("set", merge::SET_UNION, merge::encode_set([&b"b"[..]]))?;
    merged.put("under a delete", "77")?;
    let until = |expires_at| PutOptions { expires_at: Some(expires_at), ..Default::default() };
    expiring.put_with("ahead", "still there", until(FAR_AHEAD))?;
    expiring.put_with("past", "gone", until(LONG_AGO))?;
    expiring.put("never", "stays")?;
    large.put("noise", noise(9_000))?;
    db.flush()?;
    db.compact()?;
    db.drop_keyspace("dropped")?;

    // On a level above.
    for number in (0..200).filter(|number| number % 10 == 3) {
        plain.delete(key(number))?;
    }
    plain.delete_range(key(50)..key(60))?;
    for number in (0..200).filter(|number| number % 7 == 0 && number % 10 != 3) {
        if !(50..60).contains(&number) {
            plain.put(key(number), format!("again {number}"))?;
        }
    }
    merged.merge("counter", merge::ADD_I64, "-50")?;
    merged.merge("text", merge::APPEND, ", two")?;
    merged.merge("set", merge::SET_UNION, merge::encode_set([&b"a"[..], b"b"]))?;
    merged.delete("under a delete")?;
    large.put("text", "large ".repeat(2_000))?;
    let loaded = db.keyspace("loaded")?;
    let mut load = loaded.bulk_load(BulkLoadOptions::default())?;
    for number in 0..40 {
        load.add(format!("{number:02}"), value(number))?;
    }
    load.finish()?;
    db.flush()?;

    // In the log alone.
    plain.delete_range(key(120)..=key(124))?;
    plain.put("last", "in the log")?;
    merged.merge("counter", merge::ADD_I64, "10")?;
    merged.merge("text", merge::APPEND, ", three")?;
    merged.merge("text", merge::APPEND, ", four")?;
    merged.merge("set", merge::SET_UNION, merge::encode_set([&b"c"[..]]))?;
    merged.merge("largest", merge::MAX_I64, "12")?;
    merged.merge("under a delete", merge::ADD_I64, "5")?;
    expiring.put_with("in the log", "still there", until(FAR_AHEAD))?;
    expiring.put_with("past in the log", "gone", until(LONG_AGO))?;
    loaded.put("07", "over the load")?;
    let alone = db.keyspace("in the log alone")?;
    alone.put("", "an empty key")?;
    alone.put("empty value", "")
}

/// All that can be read, in both directions and one by one.
fn contents(db: &Database) -> Contents {
    let mut contents = Contents::new();
    let snapshot = db.snapshot().expect("taken");
    for name in db.keyspaces() {
        let keyspace = db.keyspace_if_exists(&name).expect("open").expect("there");
        let pairs: Result<Vec<_>> = snapshot.range(&keyspace, ..).collect();
        let back: Result<Vec<_>> = snapshot.range(&keyspace, ..).rev().collect();
        let pairs = pairs.expect("readable");
        assert!(pairs.iter().eq(back.expect("readable").iter().rev()), "{name}");
        let keys = pairs.iter().map(|(key, _)| key);
        let entries = snapshot.multi_get_entries(&keyspace, keys).expect("readable");
        for ((key, value), entry) in pairs.iter().zip(entries) {
            let entry = entry.expect("there");
            assert_eq!(entry.value, *value);
            let key = String::from_utf8(key.to_vec()).expect("text");
            contents.insert((name.clone(), key), (value.to_vec(), entry.expires_at));
        }
    }
    contents
}

fn assert_expected(db: &Database, when: &str) {
    let (found, expected) = (contents(db), expected());
    for at in expected.keys().chain(found.keys()) {
        assert_eq!(found.get(at), expected.get(at), "{when}: {at:?}");
    }
}

fn copy(from: &Path, to: &Path) -> u64 {
    std::fs::create_dir_all(to).expect("made");
    let mut bytes = 0;
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("one");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        bytes += match path.is_dir() {
            true => copy(&path, &to),
            false => std::fs::copy(&path, &to).expect("copied"),
        };
    }
    bytes
}

#[test]
fn a_database_of_this_format_is_read_whatever_wrote_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data");
    let bytes = copy(&kept(), &path);
    assert!(bytes < 256 << 10, "{bytes} bytes are many to keep");
    let report = isolith::verify(&path, Verify::Full, &mut |_, _| {}).expect("looked at");
    assert!(report.is_sound(), "{:?}", report.damage);
    assert!(report.records > 10, "there is a tail in the log");

    let db = Database::builder(&path).read_only(true).open().expect("it opens");
    let files = db.stats().files.expect("it has files");
    let levels = files.levels.iter().filter(|(files, _)| *files > 0).count();
    assert!(levels >= 2 && files.value_files >= 2, "{files:?}");
    assert_expected(&db, "read only");
    drop(db);

    let salvaged = directory.path().join("salvaged");
    let into = Database::builder(&salvaged);
    let report = isolith::salvage(&path, into, &mut |_, _| {}).expect("salvaged");
    assert!(report.is_complete() && report.damage.is_empty(), "{report:?}");
    assert_expected(&Database::open(&salvaged).expect("it opens"), "salvaged");

    let db = Database::open(&path).expect("it opens");
    assert_expected(&db, "to be written");
    db.flush().expect("flushed");
    db.compact().expect("compacted");
    assert_expected(&db, "compacted");
    let plain = db.keyspace("plain").expect("there");
    plain.put("new", "written later").expect("written");
    db.close().expect("closed");
    drop((db, plain));
    let db = Database::open(&path).expect("it opens");
    let plain = db.keyspace("plain").expect("there");
    assert_eq!(plain.get("new").expect("readable").as_deref(), Some(&b"written later"[..]));
    plain.delete("new").expect("deleted");
    assert_expected(&db, "opened again");
}

/// Makes the database that is kept; see the head of this file.
#[test]
#[ignore = "writes into the source tree"]
fn make_the_database_that_is_kept() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data");
    let db = Database::builder(&path)
        .segment_bytes(32 << 10)
        .durability(Durability::Sync)
        .clock(Arc::new(ManualClock::new(WRITTEN_AT)))
        .threads(false)
        .open()
        .expect("it opens");
    fill(&db).expect("written");
    // As a crash leaves it: what is closed keeps nothing in the log.
    let kept = kept();
    if kept.exists() {
        std::fs::remove_dir_all(&kept).expect("removed");
    }
    copy(&path, &kept);
}
