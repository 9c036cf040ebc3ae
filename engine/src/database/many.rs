//! Many keys at once say what the same keys say one by one, and counts what a scan finds.

use std::sync::Arc;

use super::levels::{LOCKING, begin, blocked};
use super::tests::small_files;
use crate::error::ConflictOn;
use crate::storage::memory::MemoryStorage;
use crate::*;

fn key(number: u64) -> String {
    format!("k{number:03}")
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Some keys, there or not, in any order, some twice.
    fn keys(&mut self, count: u64) -> Vec<String> {
        (0..self.roll(count)).map(|_| key(self.roll(220))).collect()
    }

    /// A range, and whether it goes up to the end of all keys.
    fn bounds(&mut self) -> std::ops::Range<String> {
        let from = self.roll(220);
        key(from)..key(from + self.roll(120))
    }
}

/// A database of 200 keys that is written all over: values, merges, deletes, expired values; in files of a
/// few KiB and in memory.
fn churned(dice: &mut Dice) -> (Database, Keyspace, Snapshot) {
    let storage = Arc::new(MemoryStorage::new());
    let clock = Arc::new(ManualClock::new(1_000));
    let db = small_files(&storage).clock(clock as _).open().expect("it opens");
    let space = db.keyspace("data").expect("made");
    let mut old = db.snapshot().expect("taken");
    for step in 0..4_000 {
        let key = key(dice.roll(200));
        match dice.roll(20) {
            0 => space.delete(&key),
            1 | 2 => space.merge(&key, merge::APPEND, "+"),
            3 => {
                let expires_at = Some(500 + dice.roll(2) * 1_000);
                space.put_with(&key, "short", PutOptions { expires_at, ..Default::default() })
            }
            _ => space.put(&key, format!("{step}{}", "v".repeat(dice.roll(60) as usize))),
        }
        .expect("written");
        if dice.roll(800) == 0 {
            space.delete_range(dice.bounds()).expect("deleted");
        }
        if step == 2_500 {
            old = db.snapshot().expect("taken");
            db.flush().expect("flushed");
        }
    }
    assert!(db.stats().files.is_some_and(|files| files.files > 0));
    (db, space, old)
}

#[test]
fn many_keys_are_what_each_of_them_is() {
    for seed in 1..4 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let (db, space, old) = churned(&mut dice);
        let now = db.snapshot().expect("taken");
        for _ in 0..40 {
            let keys = dice.keys(400);
            for snapshot in [&old, &now] {
                let one = |key: &String| snapshot.get_entry(&space, key).expect("readable");
                let expected: Vec<_> = keys.iter().map(one).collect();
                assert_eq!(snapshot.multi_get_entries(&space, &keys).expect("readable"), expected);
            }
            let one = |key: &String| space.get(key).expect("readable");
            let expected: Vec<_> = keys.iter().map(one).collect();
            assert_eq!(space.multi_get(&keys).expect("readable"), expected);
        }
        for isolation in Isolation::ALL {
            for concurrency in [Concurrency::Optimistic, LOCKING, Concurrency::Auto] {
                let mut tx = begin(&db, isolation, concurrency);
                for key in dice.keys(30) {
                    match dice.roll(4) {
                        0 => tx.delete(&space, key),
                        1 => tx.put_with(&space, key, "gone", Some(1)),
                        2 => tx.put(&space, key, "mine"),
                        _ => tx.merge(&space, key, merge::APPEND, "+mine"),
                    }
                    .expect("written");
                }
                let keys = dice.keys(300);
                let found = tx.multi_get_entries(&space, &keys).expect("readable");
                let one = |key: &String| tx.get_entry(&space, key).expect("readable");
                let expected: Vec<_> = keys.iter().map(one).collect();
                assert_eq!(found, expected, "{isolation} {concurrency:?}");
            }
        }
    }
}

#[test]
fn counts_and_sizes_are_those_of_a_scan() {
    let mut dice = Dice(77);
    let (db, space, old) = churned(&mut dice);
    let now = db.snapshot().expect("taken");
    for _ in 0..60 {
        let bounds = dice.bounds();
        for snapshot in [&old, &now] {
            let pairs: Result<Vec<_>> = snapshot.range(&space, bounds.clone()).collect();
            let pairs = pairs.expect("readable");
            let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
            let found = snapshot.count(&space, bounds.clone()).expect("readable");
            assert_eq!(found, pairs.len() as u64, "{bounds:?}");
            let found = snapshot.size(&space, bounds.clone()).expect("readable");
            assert_eq!(found, bytes as u64, "{bounds:?}");
        }
        let count = space.count(bounds.clone()).expect("readable");
        let mut tx = begin(&db, Isolation::Serializable, Concurrency::Auto);
        assert_eq!(tx.count(&space, bounds.clone()).expect("readable"), count);
        tx.delete_range(&space, ..).expect("deleted");
        tx.put(&space, &bounds.start, "mine").expect("written");
        let own = u64::from(bounds.start < bounds.end);
        assert_eq!(tx.count(&space, bounds).expect("readable"), own);
    }
    assert_eq!(space.len().expect("readable"), space.range(..).count());
    // More than are counted under one pin.
    let wide = db.keyspace("wide").expect("made");
    db.transact(|tx| (0..5_000).try_for_each(|number| tx.put(&wide, format!("{number:05}"), "v")))
        .expect("committed");
    assert_eq!(wide.count(..).expect("readable"), 5_000);
    assert_eq!(wide.size("00010"..="04000").expect("readable"), 3_991 * 6);
    wide.delete_range(.."00100").expect("deleted");
    assert_eq!(wide.count(..).expect("readable"), 4_900);
}

#[test]
fn estimates_are_exact_in_memory_and_near_in_files() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).memtable_bytes(8 << 20).open().expect("it opens");
    let space = db.keyspace("data").expect("made");
    for number in 0..900 {
        space.put(key(number), "v".repeat(20)).expect("written");
    }
    space.delete(key(5)).expect("deleted");
    assert_eq!(space.approximate_count(key(0)..key(10)).expect("readable"), 9);
    assert_eq!(space.approximate_size(..key(10)).expect("readable"), 9 * 24);
    db.flush().expect("flushed");
    let bytes = 899 * 24;
    let near = |found: u64, expected: u64, by: u64| found.abs_diff(expected) <= by;
    // Of everything the file itself knows: the key of the delete counts as bytes.
    assert_eq!(space.approximate_count(..).expect("readable"), 899);
    assert!(near(space.approximate_size(..).expect("readable"), bytes, 4));
    for (from, to) in [(0, 450), (100, 900), (300, 310), (899, 900)] {
        let found = space.approximate_count(key(from)..key(to)).expect("readable");
        // A block has 4 KiB, so some 150 of these.
        assert!(near(found, to - from, 160), "{found} of {from}..{to}");
    }
    assert_eq!(space.approximate_count("x"..).expect("readable"), 0);
    assert_eq!(space.approximate_count(key(9)..key(3)).expect("readable"), 0);
    let snapshot = db.snapshot().expect("taken");
    assert_eq!(snapshot.approximate_count(&space, ..).expect("readable"), 899);
    let same = space.approximate_size(..).expect("readable");
    assert_eq!(snapshot.approximate_size(&space, ..).expect("readable"), same);
    drop(snapshot);
    db.drop_keyspace("data").expect("dropped");
    let gone = db.snapshot().expect("taken");
    assert!(matches!(gone.count(&space, ..), Err(Error::KeyspaceDropped { .. })));
    assert!(matches!(gone.multi_get(&space, ["a"]), Err(Error::KeyspaceDropped { .. })));
}

#[test]
fn many_keys_are_reads_of_each_to_the_isolation_level() {
    let db = Database::in_memory();
    let space = db.keyspace("space").expect("made");
    space.put("a", "1").expect("written");
    space.put("b", "1").expect("written");
    for isolation in Isolation::ALL {
        for changed in ["a", "absent"] {
            let mut tx = begin(&db, isolation, Concurrency::Optimistic);
            let before = tx.multi_get(&space, ["b", "absent", "a"]).expect("readable");
            assert!(before[0].is_some() && before[1].is_none() && before[2].is_some());
            space.put(changed, "2").expect("written");
            let again = tx.multi_get(&space, ["b", "absent", "a"]).expect("readable");
            assert_eq!(again != before, isolation == Isolation::ReadCommitted, "{isolation}");
            tx.put(&space, "other", "x").expect("written");
            let protected =
                matches!(isolation, Isolation::RepeatableRead | Isolation::Serializable);
            match tx.commit() {
                Err(Error::Conflict { what: ConflictOn::Read(_), .. }) => assert!(protected),
                done => assert!(done.is_ok() && !protected, "{isolation}, {changed}"),
            }
            space.delete("absent").expect("deleted");
            space.put("a", "1").expect("written");
        }
    }
    // What is merged of what was read depends on it, where the first committer wins.
    let mut tx = begin(&db, Isolation::Snapshot, Concurrency::Optimistic);
    tx.multi_get(&space, ["a", "b"]).expect("readable");
    tx.merge(&space, "a", merge::APPEND, "+").expect("merged");
    space.put("a", "3").expect("written");
    assert!(matches!(tx.commit(), Err(Error::Conflict { .. })));
    let mut reader = begin(&db, Isolation::Serializable, LOCKING);
    reader.multi_get(&space, ["b", "absent"]).expect("readable");
    for key in ["b", "absent"] {
        let mut writer = begin(&db, Isolation::Serializable, LOCKING);
        assert!(blocked(&writer.step(|writer| writer.put(&space, key, "2"))), "{key}");
    }
    reader.put(&space, "b", "3").expect("its own lock");
    reader.commit().expect("committed");
    // And a count is a scan.
    let mut tx = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
    assert_eq!(tx.count(&space, "a".."c").expect("readable"), 2);
    tx.put(&space, "z", "x").expect("written");
    space.put("aa", "phantom").expect("written");
    assert!(matches!(tx.commit(), Err(Error::Conflict { .. })));
}

#[test]
fn a_call_of_many_keys_is_one_statement() {
    let db = Database::in_memory();
    let space = db.keyspace("space").expect("made");
    let keys: Vec<String> = (0..400).map(key).collect();
    let all = |value: &str| {
        db.transact(|tx| keys.iter().try_for_each(|key| tx.put(&space, key, value)))
            .expect("written");
    };
    all("0");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..200 {
                all(&round.to_string());
            }
            // Relaxed: the scope joins whoever looks.
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let tx = begin(&db, Isolation::ReadCommitted, Concurrency::Optimistic);
            for found in [tx.multi_get(&space, &keys), space.multi_get(&keys)] {
                let found = found.expect("readable");
                assert!(found.iter().all(|value| *value == found[0]), "torn: {found:?}");
            }
        }
    });
}
