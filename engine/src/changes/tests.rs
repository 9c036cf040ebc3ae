//! What a feed tells, over restarts too, and what it keeps of the log.

use std::sync::Arc;

use isolith_index::Slice;

use crate::storage::memory::MemoryStorage;
use crate::{
    Builder, BulkLoadOptions, Change, Changes, Commit, Database, Durability, Error, Lsn, PutOptions,
};

fn open(storage: &Arc<MemoryStorage>) -> Database {
    Builder::new(None)
        .storage(Arc::clone(storage) as _)
        .memtable_bytes(16 << 10)
        .segment_bytes(64 << 10)
        .threads(false)
        .open()
        .expect("it opens")
}

fn all(changes: &mut Changes) -> Vec<Commit> {
    std::iter::from_fn(|| changes.next_commit().expect("readable")).collect()
}

/// A commit in one line.
fn text(commit: &Commit) -> String {
    let show = |bytes: &Slice| bytes.escape_ascii().to_string();
    let name = |keyspace: &crate::ChangedKeyspace| {
        keyspace.name.as_deref().map_or(format!("#{}", keyspace.id), str::to_owned)
    };
    let changes = commit.changes.iter().map(|change| match change {
        Change::Created(keyspace) => format!("create {}", name(keyspace)),
        Change::OptionsSet(keyspace) => format!("options of {}", name(keyspace)),
        Change::Dropped { name } => format!("drop {name}"),
        Change::Put { keyspace, key, value, expires_at } => {
            let expiry = expires_at.map_or(String::new(), |at| format!(" until {at}"));
            format!("put {} {}={}{expiry}", name(keyspace), show(key), show(value))
        }
        Change::Delete { keyspace, key } => format!("delete {} {}", name(keyspace), show(key)),
        Change::DeleteRange { keyspace, range } => format!("delete {} {range}", name(keyspace)),
        Change::Merge { keyspace, key, operator, operand, .. } => {
            format!("merge {} {}<{operator}<{}", name(keyspace), show(key), show(operand))
        }
        Change::BulkLoaded(keyspace) => format!("load {}", name(keyspace)),
    });
    changes.collect::<Vec<_>>().join("; ")
}

#[test]
fn a_feed_tells_every_commit_once_and_in_order_over_a_restart_too() {
    let storage = Arc::new(MemoryStorage::new());
    let db = open(&storage);
    let data = db.keyspace("data").expect("made");
    let mut early = db.changes(Lsn::ZERO).expect("it begins");
    assert_eq!(all(&mut early).iter().map(text).collect::<Vec<_>>(), ["create data"]);
    assert_eq!(early.next_commit().expect("readable"), None);
    data.put("a", "1").expect("put");
    let options = PutOptions { expires_at: Some(9_000_000_000_000), ..PutOptions::default() };
    data.put_with("b", "2", options).expect("put");
    db.transact(|txn| {
        txn.delete(&data, "a")?;
        txn.put(&data, "c", "3")
    })
    .expect("committed");
    data.merge("n", crate::merge::ADD_I64, "5").expect("merged");
    data.delete_range("x".."z").expect("deleted");
    let mut load = data.bulk_load(BulkLoadOptions::default()).expect("begun");
    load.add("q", "1").expect("added");
    let loaded = load.finish().expect("loaded");
    let other = db.keyspace("other").expect("made");
    other.put("o", "1").expect("put");
    drop(other);
    db.drop_keyspace("other").expect("dropped");
    let commits = all(&mut early);
    assert!(commits.is_sorted_by_key(|commit| commit.timestamp));
    assert!(commits.iter().any(|commit| Some(commit.timestamp) == loaded.timestamp));
    let expected = [
        "put data a=1",
        "put data b=2 until 9000000000000",
        "delete data a; put data c=3",
        "merge data n<add-i64<5",
        "delete data [\"x\", \"z\")",
        "load data",
        "create other",
        "put other o=1",
        "drop other",
    ];
    let told: Vec<_> = commits.iter().map(text).collect();
    assert_eq!(told.len(), expected.len(), "{told:?}");
    for (told, expected) in told.iter().zip(expected) {
        if !expected.contains('[') {
            assert_eq!(told, expected);
        }
    }
    let position = commits[2].timestamp;
    drop((early, data));
    db.close().expect("closed");
    drop(db);
    let db = open(&storage);
    let again = all(&mut db.changes(position).expect("it is there"));
    assert_eq!(again, commits[3..]);
}

#[test]
fn a_feed_keeps_the_log_and_without_one_history_goes() {
    let db = open(&Arc::new(MemoryStorage::new()));
    let data = db.keyspace("data").expect("made");
    let begin = db.changes(Lsn::ZERO).expect("it begins").position();
    let mut kept = db.changes(begin).expect("it begins");
    let value = vec![7; 4 << 10];
    for number in 0..200 {
        data.put(format!("{number}"), &value).expect("put");
    }
    db.flush().expect("flushed");
    let commits = all(&mut kept);
    assert_eq!(commits.len(), 201, "the log keeps what a feed has not given");
    for number in 0..200 {
        data.put(format!("{number}"), &value).expect("put");
    }
    db.flush().expect("flushed");
    assert_eq!(all(&mut kept).len(), 200);
    db.flush().expect("flushed");
    data.put("last", &value).expect("put");
    db.flush().expect("flushed");
    let Err(Error::HistoryGone { begins }) = db.changes(begin) else {
        panic!("the log was released");
    };
    assert!(begins > begin);
    let rest = all(&mut db.changes(begins).expect("that much is there"));
    assert_eq!(rest.last().map(text).map(|text| text.starts_with("put data last=")), Some(true));
}

#[test]
fn a_feed_gives_only_what_is_durable_and_acknowledged() {
    let storage = Arc::new(MemoryStorage::new());
    let db = open(&storage);
    let data = db.keyspace("data").expect("made");
    let mut changes = db.changes(Lsn::ZERO).expect("it begins");
    assert_eq!(all(&mut changes).len(), 1);
    let buffered = PutOptions { durability: Some(Durability::Buffered), ..PutOptions::default() };
    data.put_with("a", "1", buffered).expect("put");
    assert_eq!(all(&mut changes), []);
    data.put("b", "2").expect("put");
    assert_eq!(all(&mut changes).len(), 2);
    assert!(matches!(Database::in_memory().changes(Lsn::ZERO), Err(Error::HistoryGone { .. })));
}
