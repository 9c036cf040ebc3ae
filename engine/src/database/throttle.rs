//! The limit on what is written in the background, by a clock that a test sets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use isolith_wal::ManualClock;

use crate::storage::memory::MemoryStorage;
use crate::{Builder, Database, Durability, FileStats, Keyspace};

const RATE: u64 = 1 << 20;

/// A database whose clock stands still.
fn limited(storage: &Arc<MemoryStorage>) -> (Database, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000_000));
    let builder = Builder::new(None)
        .storage(Arc::clone(storage) as _)
        .clock(Arc::clone(&clock) as Arc<_>)
        .file_bytes(1 << 20)
        // What compaction writes is what this is about.
        .large_values(0)
        .segment_bytes(256 << 10)
        .durability(Durability::Buffered)
        .background_bytes_per_second(RATE);
    (builder.open().expect("it opens"), clock)
}

fn files(db: &Database) -> FileStats {
    db.stats().files.expect("files")
}

/// Waits until the files are as they are to be: that they never are ends it.
fn until(db: &Database, what: &str, mut done: impl FnMut(&FileStats) -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !done(&files(db)) {
        assert!(Instant::now() < limit, "{what} never came: {:?}", files(db));
        std::thread::yield_now();
    }
}

/// A file of level 0 with half a megabyte of noise.
fn put_file(keyspace: &Keyspace, round: u64, db: &Database) {
    let mut state = round + 1;
    for number in 0..512u64 {
        let value: Vec<u8> = (0..1024)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        keyspace.put(format!("k{number:04}"), value).expect("put");
    }
    db.flush().expect("flushed");
}

#[test]
fn a_compaction_waits_for_the_clock_and_a_flush_does_not() {
    let (db, clock) = limited(&Arc::new(MemoryStorage::new()));
    let keyspace = db.keyspace("data").expect("made");
    // More than there is at once: each flush returns all the same.
    for round in 0..6 {
        put_file(&keyspace, round, &db);
    }
    until(&db, "a wait", |files| files.background_waits > 0);
    let before = files(&db);
    assert_eq!((before.compactions, before.background_waited_ms), (0, 0), "{before:?}");
    assert_eq!(before.background_bytes_per_second, Some(RATE));
    put_file(&keyspace, 6, &db);
    assert_eq!(files(&db).compactions, 0, "no time has passed, and nothing is paid");
    until(&db, "the compaction", |files| {
        clock.advance(1);
        files.compactions > 0
    });
    let after = files(&db);
    assert!(after.background_waited_ms > 0, "{after:?}");
    let passed_ms = isolith_wal::Clock::unix_millis(&*clock) - 1_000_000;
    // Of what was there at first, and each part's last write: what follows has to wait.
    let paid = RATE * passed_ms / 1000 + 2 * RATE;
    let written = after.compacted_bytes_out + after.flushed_bytes;
    assert!(written <= paid, "{written} bytes, {paid} paid for");
    assert!(written > 3 * RATE, "{written} bytes: too few to wait for");
    assert_eq!(keyspace.len().expect("readable"), 512);
}

#[test]
fn the_end_of_a_database_does_not_wait_for_the_clock() {
    let storage = Arc::new(MemoryStorage::new());
    let (db, _) = limited(&storage);
    let keyspace = db.keyspace("data").expect("made");
    for round in 0..6 {
        put_file(&keyspace, round, &db);
    }
    until(&db, "a wait", |files| files.background_waits > 0);
    db.close().expect("closed");
    drop((keyspace, db));
    let (db, _) = limited(&storage);
    assert_eq!(db.keyspace("data").expect("there").len().expect("readable"), 512);
}
