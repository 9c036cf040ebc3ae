//! A database whose data goes to files all the time, against a map.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use isolith_index::Slice;
use isolith_index::sstable::FileId;

use super::tests::small_files;
use crate::files::file_name;
use crate::steps::Steps;
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, Storage};
use crate::{
    Builder, Concurrency, Database, Durability, Error, Isolation, Keyspace, TransactionOptions,
};

fn small(storage: &Arc<MemoryStorage>) -> Database {
    small_files(storage).open().expect("it opens")
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

fn compare(keyspace: &Keyspace, model: &BTreeMap<Vec<u8>, Vec<u8>>, when: &str) {
    let all = |pairs: Vec<crate::Result<(Slice, Slice)>>| -> Vec<(Vec<u8>, Vec<u8>)> {
        let pair = |pair: crate::Result<(Slice, Slice)>| {
            let (key, value) = pair.expect("readable");
            (key.to_vec(), value.to_vec())
        };
        pairs.into_iter().map(pair).collect()
    };
    let expected: Vec<_> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    let first_apart = |found: &[(Vec<u8>, Vec<u8>)], direction: &str| {
        let text = |pair: Option<&(Vec<u8>, Vec<u8>)>| {
            pair.map(|(key, value)| format!("{}={}", key.escape_ascii(), value.escape_ascii()))
        };
        for at in 0..found.len().max(expected.len()) {
            assert_eq!(
                text(found.get(at)),
                text(expected.get(at)),
                "{when}, {direction}, pair {at}"
            );
        }
    };
    first_apart(&all(keyspace.range(..).collect()), "forward");
    let mut reverse = all(keyspace.range(..).rev().collect());
    reverse.reverse();
    first_apart(&reverse, "in reverse");
    for number in 0..400 {
        let key = format!("k{number:03}").into_bytes();
        let value = keyspace.get(&key).expect("readable").map(|value| value.to_vec());
        assert_eq!(value, model.get(&key).cloned(), "{when}, key {number}");
    }
}

#[test]
fn what_was_written_is_read_through_flushes_compactions_and_reopenings() {
    for seed in 1..4 {
        let storage = Arc::new(MemoryStorage::new());
        let mut dice = Dice(seed * 0x9e37_79b9);
        let mut model = BTreeMap::new();
        let (mut flushes, mut compactions) = (0, 0);
        // With some seeds most values are apart from their keys.
        let small = |storage: &Arc<MemoryStorage>| {
            let large = if seed % 3 == 0 { 1 << 10 } else { 6 * seed as usize };
            small_files(storage).large_values(large).open().expect("it opens")
        };
        let mut db = small(&storage);
        let mut keyspace = db.keyspace("data").expect("made");
        for step in 0..12_000u64 {
            let key = format!("k{:03}", dice.roll(400)).into_bytes();
            match dice.roll(100) {
                0..70 => {
                    let value = format!("{step}{}", "v".repeat(dice.roll(60) as usize));
                    keyspace.put(&key, &value).expect("put");
                    model.insert(key, value.into_bytes());
                }
                70..85 => {
                    keyspace.delete(&key).expect("deleted");
                    model.remove(&key);
                }
                85..97 => {
                    let operand = format!("+{step}");
                    keyspace.merge(&key, crate::merge::APPEND, &operand).expect("merged");
                    model.entry(key).or_default().extend(operand.bytes());
                }
                97 if step % 3 == 0 => {
                    let end = format!("k{:03}", dice.roll(400)).into_bytes();
                    if key <= end {
                        keyspace.delete_range(&key[..]..&end[..]).expect("deleted");
                        let gone: Vec<_> = model.range(key..end).map(|(k, _)| k.clone()).collect();
                        gone.iter().for_each(|key| drop(model.remove(key)));
                    }
                }
                98 if step % 10 == 0 => {
                    let stats = db.stats().files.expect("files");
                    (flushes, compactions) =
                        (flushes + stats.flushes, compactions + stats.compactions);
                    drop(keyspace);
                    db.close().expect("closed");
                    drop(db);
                    db = small(&storage);
                    keyspace = db.keyspace("data").expect("there");
                    compare(&keyspace, &model, "reopened");
                }
                99 if step % 20 == 0 => db.compact().expect("compacted"),
                _ => {
                    let value = keyspace.get(&key).expect("readable");
                    assert_eq!(value.as_deref(), model.get(&key).map(Vec::as_slice));
                }
            }
        }
        compare(&keyspace, &model, "at the end");
        assert!(flushes > 10 && compactions > 3, "{flushes} flushes, {compactions} compactions");
        db.compact().expect("compacted");
        compare(&keyspace, &model, "compacted");
        let stats = db.stats().files.expect("files");
        let live: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(
            stats.bytes + stats.value_bytes < 3 * live as u64 + 20_000,
            "{live} bytes in {stats:?}"
        );
    }
}

#[test]
fn a_database_takes_many_times_its_memory() {
    for threads in [false, true] {
        let db = Builder::new(None)
            .storage(Arc::new(MemoryStorage::new()))
            .memory(4 << 20)
            .segment_bytes(1 << 20)
            .durability(Durability::Buffered)
            .threads(threads)
            .open()
            .expect("it opens");
        let keyspace = db.keyspace("data").expect("made");
        let value = vec![7; 16 << 10];
        for number in 0..2_000 {
            // Other tests hold epochs, and memory comes back late: without threads nobody waits for it.
            let mut put = keyspace.put(format!("k{number}"), &value);
            for _ in 0..10_000 {
                let Err(Error::Stalled { .. }) = put else { break };
                std::thread::yield_now();
                put = keyspace.put(format!("k{number}"), &value);
            }
            put.unwrap_or_else(|error| panic!("put {number}: {error}; {:?}", db.stats()));
        }
        let stats = db.stats();
        assert!(stats.memory_bytes <= 4 << 20, "{stats:?}");
        assert_eq!(keyspace.len().expect("readable"), 2_000);
        let files = stats.files.expect("files");
        assert!(files.log_floor > crate::Lsn::ZERO, "the log is released: {files:?}");
    }
}

#[test]
fn the_log_is_kept_while_it_is_not_known_whether_a_drop_is_durable() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small(&storage);
    let keyspace = db.keyspace("data").expect("made");
    let floor = || db.stats().files.expect("there are files").log_floor;
    let write_and_flush = || {
        keyspace.put("k", "v").expect("put");
        db.sync().expect("synced");
        db.flush().expect("flushed");
    };
    write_and_flush();
    let before = floor();
    let files = db.core().files().expect("there are files");
    files.note_dropping(true);
    write_and_flush();
    assert_eq!(floor(), before, "it may be all that has the dropped keyspace's data");
    files.note_dropping(false);
    write_and_flush();
    assert!(floor() > before);
}

#[test]
fn a_database_that_is_closed_keeps_no_log_that_it_does_not_need() {
    let storage = Arc::new(MemoryStorage::new());
    let log_bytes = || {
        let entries = storage.list(Path::new("wal")).expect("memory").into_iter();
        let files =
            entries.map(|entry| storage.open(&Path::new("wal").join(entry.name), Access::Read));
        files.map(|file| file.and_then(|file| file.len()).expect("memory")).sum::<u64>()
    };
    // Opened, with so many records replayed, and closed in order.
    let live = |records: u64, work: &dyn Fn(&Database, &Keyspace)| {
        let builder = small_files(&storage).memtable_bytes(16 << 20).segment_bytes(1 << 20);
        let db = builder.open().expect("it opens");
        assert_eq!(db.recovery().map(|report| report.records), Some(records));
        let keyspace = db.keyspace("data").expect("made, or there");
        work(&db, &keyspace);
        db.close().expect("closed");
    };
    live(0, &|_, keyspace| keyspace.put("a", [1; 1000]).expect("put"));
    // The little there is, is replayed.
    live(2, &|db, keyspace| {
        keyspace.put("b", [2; 1000]).expect("put");
        db.flush().expect("flushed");
        assert!(log_bytes() >= 1 << 20);
    });
    for round in 0..12 {
        assert_eq!(log_bytes(), 32 << 10, "round {round}");
        live(0, &|db, keyspace| {
            assert_eq!(keyspace.len().expect("readable"), 2);
            if round % 3 == 1 {
                keyspace.put("b", [round; 1000]).expect("put");
                db.flush().expect("flushed");
            }
        });
    }
    // More than is worth a replay goes to files.
    live(0, &|_, keyspace| {
        for number in 0..700u32 {
            keyspace.put(number.to_be_bytes(), [3; 8 << 10]).expect("put");
        }
    });
    assert_eq!(log_bytes(), 32 << 10);
    live(0, &|_, keyspace| assert_eq!(keyspace.len().expect("readable"), 702));
}

#[test]
fn files_that_were_asked_for_one_by_one_do_not_stop_writers_without_threads() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small(&storage);
    let keyspace = db.keyspace("data").expect("made");
    for round in 0..60u32 {
        keyspace.put(round.to_be_bytes(), "v").expect("there is nobody else who compacts");
        db.flush().expect("flushed");
    }
}

#[test]
fn a_damaged_file_is_told_and_holds_up_nobody_else() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small(&storage);
    let (bad, good) = (db.keyspace("bad").expect("made"), db.keyspace("good").expect("made"));
    for number in 0..200 {
        bad.put(format!("k{number:03}"), [b'v'; 100]).expect("put");
    }
    db.flush().expect("flushed");
    let guard = isolith_index::pin();
    let file = bad.space().view(&guard).levels().files().map(|file| file.meta().id).last();
    let name = file_name(FileId(file.expect("a file")));
    drop((guard, bad, good));
    db.close().expect("closed");
    drop(db);
    let file = storage.open(Path::new(&name), Access::ReadWrite).expect("there");
    let mut byte = [0];
    file.read_at(100, &mut byte).expect("readable");
    file.write_at(100, &[byte[0] ^ 1]).expect("writable");
    let db = small(&storage);
    let (bad, good) = (db.keyspace("bad").expect("there"), db.keyspace("good").expect("there"));
    let told = bad.get("k000").expect_err("its block is damaged");
    assert!(matches!(&told, Error::Corrupt { file, .. } if *file == name), "{told}");
    for number in 0..20_000u32 {
        let value = [7; 50];
        good.put(format!("k{:03}", number % 500), value).expect("others are not held up");
        if number % 10 == 0 {
            bad.put(format!("k{:03}", number % 500), value).expect("nor is it");
        }
        if number % 2_000 == 0 {
            db.flush().expect("flushed");
        }
    }
    let stats = db.stats().files.expect("files");
    assert!(stats.compactions > 3, "{stats:?}");
    let guard = isolith_index::pin();
    let level0 = good.space().view(&guard).levels().levels().levels[0].len();
    assert!(level0 <= 8, "{level0} files of level 0");
    assert_eq!(good.len().expect("readable"), 500);
    assert!(bad.get("k000").expect("written anew").is_some());
}

/// What compaction lets go of is no conflict of a statement that nobody's change has touched; and what
/// somebody did change is one, whatever compaction made of it.
#[test]
fn who_reads_for_update_by_statements_is_refused_for_its_own_keys_alone() {
    for (deleted, passes) in [("b", true), ("a", false)] {
        let db = small(&Arc::default());
        let (steps, keys) = (Steps::new(&db), db.keyspace("keys").expect("made"));
        keys.put("a", "1").expect("written");
        keys.put("b", "1").expect("written");
        let options = TransactionOptions {
            isolation: Isolation::ReadCommitted,
            concurrency: Concurrency::Auto,
            ..TransactionOptions::default()
        };
        let mut transaction = db.begin_with(options).expect("begun");
        transaction.get_for_share(&keys, "a").expect("read");
        transaction.get_for_update(&keys, "a").expect("read");
        keys.delete(deleted).expect("deleted");
        steps.freeze(&keys);
        steps.flush().expect("flushed");
        steps.compact(&keys).expect("compacted");
        transaction.put(&keys, "c", "1").expect("written");
        let refused = transaction.commit().err();
        assert_eq!(refused.is_none(), passes, "{deleted} was deleted: {refused:?}");
        assert!(passes || matches!(refused, Some(Error::Conflict { .. })), "{refused:?}");
        assert_eq!(db.stats().snapshots, 0, "nothing is held any more");
    }
}

#[test]
fn blocks_are_kept_in_memory_that_nothing_else_needs() {
    const MEMORY: u64 = 8 << 20;
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).memory(MEMORY).memtable_bytes(2 << 20).open().expect("it opens");
    let (read, written) =
        (db.keyspace("read").expect("made"), db.keyspace("written").expect("made"));
    let mut load = read.bulk_load(crate::BulkLoadOptions::default()).expect("begun");
    let keys = || (0..60_000u64).map(u64::to_be_bytes);
    keys().for_each(|key| load.add(key, [7; 100]).expect("added"));
    load.finish().expect("loaded");
    // Asked before the statistics, which look at what there is and trim the cache.
    let kept = || db.core().files().expect("there are files").cache_bytes();
    let read_all = || keys().for_each(|key| assert!(read.get(key).expect("readable").is_some()));
    read_all();
    let idle = kept();
    assert!(idle > MEMORY / 2, "{idle} bytes are kept");
    // What is written takes its place.
    for key in 0..12_000u64 {
        written.put(key.to_be_bytes(), [8; 500]).expect("put");
        if key % 500 == 0 {
            read.range(key.to_be_bytes()..)
                .take(500)
                .for_each(|pair| drop(pair.expect("readable")));
            let (kept, memory) = (kept(), db.stats().memory_bytes as u64);
            assert!(memory + kept <= MEMORY, "{memory} and {kept} bytes");
        }
    }
    assert!(kept() < idle);
}
