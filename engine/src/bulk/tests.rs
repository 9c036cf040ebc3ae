//! What a bulk load leaves, among other writes, snapshots, transactions, crashes and calls that fail.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::storage::faulty::{DiskKind, Fault, FaultyStorage, Survival};
use crate::storage::memory::MemoryStorage;
use crate::{
    Builder, BulkLoadOptions, Database, Durability, Error, Isolation, Keyspace, OpenError,
    TransactionOptions,
};

fn small(storage: &Arc<MemoryStorage>) -> Database {
    Builder::new(None)
        .storage(Arc::clone(storage) as _)
        .memtable_bytes(16 << 10)
        .file_bytes(1 << 10)
        .segment_bytes(64 << 10)
        .durability(Durability::Buffered)
        .threads(false)
        .open()
        .expect("it opens")
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn contents(keyspace: &Keyspace) -> Model {
    let pair = |pair: crate::Result<(crate::Slice, crate::Slice)>| {
        let (key, value) = pair.expect("readable");
        (key.to_vec(), value.to_vec())
    };
    let forward: Vec<_> = keyspace.range(..).map(pair).collect();
    let mut reverse: Vec<_> = keyspace.range(..).rev().map(pair).collect();
    reverse.reverse();
    assert_eq!(forward, reverse);
    let model: Model = forward.into_iter().collect();
    for number in 0..1_000 {
        let key = key(number);
        let value = keyspace.get(&key).expect("readable").map(|value| value.to_vec());
        assert_eq!(value, model.get(&key).cloned(), "key {number}");
    }
    model
}

fn key(number: u64) -> Vec<u8> {
    format!("k{number:04}").into_bytes()
}

fn load(keyspace: &Keyspace, model: &mut Model, keys: impl Iterator<Item = u64>, value: &str) {
    let mut load = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
    for number in keys {
        let value = format!("{value}{number}").into_bytes();
        load.add(key(number), &value).expect("added");
        model.insert(key(number), value);
    }
    load.finish().expect("loaded");
}

#[test]
fn what_is_loaded_is_over_what_was_and_under_what_is_written_later() {
    let storage = Arc::new(MemoryStorage::new());
    let mut db = small(&storage);
    let mut keyspace = db.keyspace("data").expect("made");
    let mut model = Model::new();
    load(&keyspace, &mut model, 0..1_000, "first");
    assert_eq!(contents(&keyspace), model);
    let stats = db.stats().files.expect("files");
    assert!(stats.files > 1, "{stats:?}");
    assert_eq!(stats.levels.last().map(|(files, _)| *files), Some(stats.files), "{stats:?}");
    for round in 0..6 {
        for number in (0..1_000).step_by(7) {
            let value = format!("put{round}").into_bytes();
            keyspace.put(key(number), &value).expect("put");
            model.insert(key(number), value);
        }
        keyspace.delete_range(key(300)..key(310)).expect("deleted");
        (300..310).for_each(|number| drop(model.remove(&key(number))));
        load(&keyspace, &mut model, (round..1_000).step_by(3), "again");
        assert_eq!(contents(&keyspace), model, "round {round}");
        keyspace.delete(key(round)).expect("deleted");
        model.remove(&key(round));
        assert_eq!(contents(&keyspace), model, "round {round}, deleted");
        if round % 2 == 0 {
            drop(keyspace);
            db.close().expect("closed");
            drop(db);
            db = small(&storage);
            keyspace = db.keyspace("data").expect("there");
            assert_eq!(contents(&keyspace), model, "round {round}, reopened");
        }
        if round % 3 == 2 {
            db.compact().expect("compacted");
            assert_eq!(contents(&keyspace), model, "round {round}, compacted");
        }
    }
}

#[test]
fn snapshots_before_a_load_do_not_see_it_and_transactions_that_read_there_conflict() {
    for in_memory in [false, true] {
        let db = match in_memory {
            true => Database::in_memory(),
            false => small(&Arc::new(MemoryStorage::new())),
        };
        let keyspace = db.keyspace("data").expect("made");
        keyspace.put("k0001", "old").expect("put");
        let before = db.snapshot().expect("snapshot");
        let options =
            TransactionOptions { isolation: Isolation::Serializable, ..Default::default() };
        let begin = || db.begin_with(options).expect("begun");
        let (mut point, mut range, mut other) = (begin(), begin(), begin());
        assert!(point.get(&keyspace, "k0002").expect("read").is_none());
        assert_eq!(range.range(&keyspace, "k0003".."k0009").count(), 0);
        assert!(other.get(&keyspace, "z").expect("read").is_none());
        load(&keyspace, &mut Model::new(), 1..100, "v");
        assert_eq!(before.get(&keyspace, "k0001").expect("read").as_deref(), Some(&b"old"[..]));
        assert!(before.get(&keyspace, "k0002").expect("read").is_none());
        assert_eq!(before.range(&keyspace, ..).count(), 1);
        assert_eq!(before.range(&keyspace, ..).rev().count(), 1);
        point.put(&keyspace, "p", "1").expect("put");
        range.put(&keyspace, "r", "1").expect("put");
        other.put(&keyspace, "o", "1").expect("put");
        assert!(matches!(point.commit(), Err(Error::Conflict { .. })));
        assert!(matches!(range.commit(), Err(Error::Conflict { .. })));
        other.commit().expect("nobody touched what it read");
        assert_eq!(keyspace.len().expect("counted"), 100);
    }
}

#[test]
fn keys_out_of_order_are_refused_and_an_abandoned_load_leaves_nothing() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small(&storage);
    let keyspace = db.keyspace("data").expect("made");
    let mut load = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
    load.add("b", "1").expect("added");
    for key in ["a", "b"] {
        assert!(matches!(load.add(key, "2"), Err(Error::OutOfOrder { .. })));
    }
    for number in 0..3_000 {
        load.add(key(number), [7; 64]).expect("added");
    }
    drop(load);
    assert!(keyspace.is_empty().expect("read"));
    db.flush().expect("flushed");
    let load = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
    assert_eq!(load.finish().expect("nothing").timestamp, None);
    let files = db.stats().files.expect("files").files;
    drop((keyspace, db));
    let db = small(&storage);
    assert_eq!(db.stats().files.expect("files").files, files);
}

#[test]
fn an_unsorted_load_beyond_its_memory_is_sorted_and_the_last_pair_of_a_key_counts() {
    let db = small(&Arc::new(MemoryStorage::new()));
    for (name, memory_bytes) in [("runs", 4 << 10), ("one", 1 << 20), ("least", 1)] {
        let keyspace = db.keyspace(name).expect("made");
        let options = BulkLoadOptions { memory_bytes, ..BulkLoadOptions::unsorted() };
        let mut load = keyspace.bulk_load(options).expect("begun");
        let mut model = Model::new();
        let mut dice = 0x9e37_79b9u64;
        for step in 0..600u64 {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let value = format!("{step}").into_bytes();
            load.add(key(dice % 400), &value).expect("added");
            model.insert(key(dice % 400), value);
        }
        let loaded = load.finish().expect("loaded");
        assert_eq!(loaded.entries, model.len() as u64);
        assert_eq!(contents(&keyspace), model, "{name}");
    }
}

#[test]
fn values_of_a_load_expire() {
    let clock = Arc::new(crate::ManualClock::new(1_000));
    let storage = Arc::new(MemoryStorage::new());
    let db = Builder::new(None)
        .storage(storage as _)
        .clock(Arc::clone(&clock) as _)
        .threads(false)
        .open()
        .expect("it opens");
    let keyspace = db.keyspace("data").expect("made");
    let mut load = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
    load.add_expiring("a", "1", Some(2_000)).expect("added");
    load.add("b", "2").expect("added");
    load.finish().expect("loaded");
    assert_eq!(keyspace.len().expect("counted"), 2);
    clock.set(3_000);
    assert_eq!(keyspace.len().expect("counted"), 1);
}

fn on(disk: &FaultyStorage) -> Result<Database, OpenError> {
    Builder::new(None)
        .storage(disk.as_storage())
        .memtable_bytes(16 << 10)
        .file_bytes(1 << 10)
        .segment_bytes(64 << 10)
        .threads(false)
        .open()
}

/// Something old, and a load over it. Says whether the load is there for sure.
fn live(disk: &FaultyStorage) -> Result<(), Box<dyn std::error::Error>> {
    let db = on(disk)?;
    let keyspace = db.keyspace("data")?;
    for number in 0..20 {
        keyspace.put(key(number), "old")?;
    }
    let mut load = keyspace.bulk_load(BulkLoadOptions::default())?;
    for number in 10..100 {
        load.add(key(number), format!("new{number}"))?;
    }
    load.finish()?;
    // The manifest knows by now, or the next edit tells it first.
    keyspace.put(key(5), "later")?;
    db.flush()?;
    Ok(())
}

/// The states that there may be, in their order.
fn states() -> [Model; 4] {
    let old: Model = (0..20).map(|number| (key(number), b"old".to_vec())).collect();
    let mut loaded = old.clone();
    loaded.extend((10..100).map(|number| (key(number), format!("new{number}").into_bytes())));
    let mut later = loaded.clone();
    later.insert(key(5), b"later".to_vec());
    [Model::new(), old, loaded, later]
}

fn is_allowed(found: &Model, when: &str) -> usize {
    let states = states();
    let at = states.iter().position(|state| state == found);
    // Before the load the old pairs came one by one.
    let is_part =
        found.len() < 20 && found.iter().all(|(key, value)| states[1].get(key) == Some(value));
    at.or(is_part.then_some(0)).unwrap_or_else(|| panic!("{when}: {found:?}"))
}

#[test]
fn a_crash_at_any_call_leaves_all_of_a_load_or_nothing() {
    let whole = FaultyStorage::new(DiskKind::Fua);
    live(&whole).expect("it works");
    for call in 0..whole.call_count() {
        let disk = FaultyStorage::new(DiskKind::Fua);
        disk.crash_at(call);
        let _ = live(&disk);
        for survival in [Survival::Nothing, Survival::Everything, Survival::Random(call)] {
            let when = format!("call {call}, {survival:?}");
            let after = disk.reboot(survival);
            let db = on(&after).unwrap_or_else(|error| panic!("{when}: {error}"));
            let keyspace = db.keyspace("data").expect("made");
            let found = contents(&keyspace);
            is_allowed(&found, &when);
            // What was found stays, through everything.
            keyspace.put("k9999", "x").expect("put");
            keyspace.delete("k9999").expect("deleted");
            db.compact().unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(contents(&keyspace), found, "{when}");
            drop((keyspace, db));
            let db = on(&after).unwrap_or_else(|error| panic!("{when}: {error}"));
            assert_eq!(contents(&db.keyspace("data").expect("made")), found, "{when}");
        }
    }
}

#[test]
fn a_call_that_fails_takes_back_nothing_that_was_loaded() {
    let whole = FaultyStorage::new(DiskKind::Fua);
    live(&whole).expect("it works");
    let mut failures = 0;
    for call in 0..whole.call_count() {
        let disk = FaultyStorage::new(DiskKind::Fua);
        disk.fail_call(call, Fault::Io);
        let outcome = live(&disk);
        failures += u64::from(outcome.is_err());
        let db = on(&disk).unwrap_or_else(|error| panic!("call {call}: {error}"));
        let found = contents(&db.keyspace("data").expect("made"));
        let state = is_allowed(&found, &format!("call {call}"));
        assert!(outcome.is_err() || state == 3, "call {call}: state {state}");
    }
    assert!(failures > 0);
}

#[test]
fn a_load_survives_the_drop_of_its_keyspace_only_as_a_record() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let db = on(&disk).expect("it opens");
    let keyspace = db.keyspace("data").expect("made");
    load(&keyspace, &mut Model::new(), 0..100, "v");
    drop(keyspace);
    assert!(db.drop_keyspace("data").expect("dropped"));
    disk.crash_now();
    drop(db);
    for survival in [Survival::Nothing, Survival::Everything, Survival::Random(1)] {
        let db = on(&disk.reboot(survival)).expect("it opens");
        assert!(db.keyspace("data").expect("made").is_empty().expect("read"));
        assert_eq!(db.stats().files.expect("files").files, 0);
    }
}

#[test]
fn a_load_with_threads_leaves_the_same_files_as_one_without() {
    let run = |threads: bool| {
        let storage = Arc::new(MemoryStorage::new());
        let builder = Builder::new(None).storage(Arc::clone(&storage) as _).threads(threads);
        let database = builder.file_bytes(1 << 20).background_threads(2).open().expect("it opens");
        let keyspace = database.keyspace("loaded").expect("made");
        // One that is given up, with files on their way.
        let mut dropped = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
        let mut load = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
        for number in 0..40_000_u64 {
            let key = number.to_be_bytes();
            // What does not compress to next to nothing.
            let noise = |at: u64| (number * 12 + at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let value: Vec<u8> = (0..12).flat_map(|at| noise(at).to_be_bytes()).collect();
            load.add(key, &value).expect("added");
            dropped.add(key, &value).expect("added");
        }
        drop(dropped);
        let loaded = load.finish().expect("loaded");
        assert!(loaded.files > 1, "{loaded:?}");
        let pair = |pair: crate::Result<(crate::Slice, crate::Slice)>| {
            let (key, value) = pair.expect("readable");
            (key.to_vec(), value.to_vec())
        };
        let pairs: Model = keyspace.range(..).map(pair).collect();
        assert_eq!(pairs.len(), 40_000);
        let checked = database.verify(crate::Verify::Full).expect("looked at");
        assert!(checked.is_sound(), "{checked:?}");
        pairs
    };
    assert!(run(true) == run(false));
}
