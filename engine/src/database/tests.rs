//! What the crate documentation promises of opening, closing, limits and errors.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use isolith_wal::{Durability, ManualClock, MemoryStorage};

use crate::error::ConflictOn;
use crate::*;

/// A database whose memtables, files and segments are so small that data is in files soon, and whose callers
/// do all the work.
pub(super) fn small_files(storage: &Arc<MemoryStorage>) -> Builder {
    Builder::new(None)
        .storage(Arc::clone(storage) as _)
        .memtable_bytes(16 << 10)
        .file_bytes(8 << 10)
        .segment_bytes(64 << 10)
        .durability(Durability::Buffered)
        .threads(false)
}

/// A database in memory that can be closed and opened again, and its clock.
pub(super) fn reopenable() -> (Builder, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1_000));
    let builder = Database::builder("memory")
        .storage(Arc::new(MemoryStorage::new()))
        .segment_bytes(256 << 10)
        .clock(Arc::clone(&clock) as Arc<dyn Clock>);
    (builder, clock)
}

fn text(value: Option<Slice>) -> Option<String> {
    value.map(|value| value.escape_ascii().to_string())
}

#[test]
fn what_was_committed_is_there_after_reopening() {
    let (builder, _) = reopenable();
    let db = builder.clone().open().unwrap();
    let a = db.keyspace("a").unwrap();
    let b = db.keyspace("b").unwrap();
    a.put("k1", "v1").unwrap();
    a.put("k2", "v2").unwrap();
    a.delete("k1").unwrap();
    db.transact(|tx| {
        tx.put(&a, "k3", "v3")?;
        tx.put(&b, "k3", "w3")
    })
    .unwrap();
    b.delete_range("x"..).unwrap();
    let last = db.visible();
    db.close().unwrap();
    assert!(matches!(a.get("k2"), Err(Error::Closed)));
    drop((a, b, db));

    let db = builder.open().unwrap();
    let (a, b) = (db.keyspace("a").unwrap(), db.keyspace("b").unwrap());
    assert_eq!(text(a.get("k1").unwrap()), None);
    assert_eq!(text(a.get("k2").unwrap()), Some("v2".into()));
    assert_eq!(text(b.get("k3").unwrap()), Some("w3".into()));
    a.put("k4", "v4").unwrap();
    assert!(db.visible() > last, "timestamps go on after a restart");
}

#[test]
fn dropped_handles_close_the_database() {
    let (builder, _) = reopenable();
    let keyspace = {
        let db = builder.clone().open().unwrap();
        db.keyspace("a").unwrap()
    };
    // The keyspace alone keeps it open, and so the directory is in use.
    keyspace.put("k", "v").unwrap();
    assert!(matches!(builder.clone().open(), Err(OpenError::Locked { .. })));
    drop(keyspace);
    let db = builder.open().unwrap();
    assert_eq!(text(db.keyspace("a").unwrap().get("k").unwrap()), Some("v".into()));
}

#[test]
fn a_panic_inside_transact_rolls_back_and_leaves_the_database_usable() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        db.transact(|tx| -> Result<()> {
            tx.put(&a, "k", "half")?;
            panic!("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(a.get("k").unwrap(), None);
    a.put("k", "whole").unwrap();
    assert_eq!(db.stats().snapshots, 0, "its snapshot is gone");
}

#[test]
fn the_users_own_error_is_given_back_and_not_retried() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    let mut runs = 0;
    let error = db
        .transact(|tx| -> Result<()> {
            runs += 1;
            tx.put(&a, "k", "v")?;
            Err(tx.abort(std::fmt::Error))
        })
        .unwrap_err();
    assert_eq!(error.aborted::<std::fmt::Error>(), Some(&std::fmt::Error));
    assert_eq!((runs, a.get("k").unwrap()), (1, None));
}

#[test]
fn two_transactions_that_read_and_write_one_key_conflict_and_transact_retries() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    a.put("n", "0").unwrap();
    let mut runs = 0;
    db.transact(|tx| {
        runs += 1;
        let n = tx.get(&a, "n")?;
        if runs == 1 {
            a.put("n", "7")?;
        }
        tx.put(&a, "n", [n.as_deref().unwrap_or_default(), b"+"].concat())
    })
    .unwrap();
    assert_eq!((runs, text(a.get("n").unwrap())), (2, Some("7+".into())));

    let mut tx = db.begin().unwrap();
    tx.get(&a, "absent").unwrap();
    a.put("absent", "now there").unwrap();
    tx.put(&a, "other", "x").unwrap();
    match tx.commit() {
        Err(Error::Conflict { keyspace, what, .. }) => {
            assert_eq!(keyspace, "a");
            assert_eq!(what, ConflictOn::Read(Slice::from(&b"absent"[..])));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_examined_interval_is_protected_even_where_it_was_empty() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    for (scan_to, insert, conflict) in [("m", "c", true), ("m", "x", false)] {
        let mut tx = db.begin().unwrap();
        assert_eq!(tx.range(&a, "b"..scan_to).count(), 0);
        a.put(insert, "1").unwrap();
        tx.put(&a, "z", "1").unwrap();
        assert_eq!(tx.commit().is_err(), conflict, "insert of {insert}");
        a.delete(insert).unwrap();
    }
}

#[test]
fn a_scan_that_stops_early_depends_only_on_what_it_returned() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    for key in ["a", "b", "c", "d", "e", "f"] {
        a.put(key, key).unwrap();
    }
    for (change, forward, conflict) in
        [("b", true, true), ("e", true, false), ("e", false, true), ("b", false, false)]
    {
        let mut tx = db.begin().unwrap();
        if forward {
            assert_eq!(tx.range(&a, ..).take(2).count(), 2);
        } else {
            assert_eq!(tx.range(&a, ..).rev().take(2).count(), 2);
        }
        a.put(change, "changed").unwrap();
        tx.put(&a, "z", "1").unwrap();
        assert_eq!(tx.commit().is_err(), conflict, "{change}, forward {forward}");
        a.delete("z").unwrap();
    }
}

#[test]
fn first_committer_wins_under_snapshot_and_blind_writes_pass_under_serializable() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    for (isolation, conflict) in [(Isolation::Snapshot, true), (Isolation::Serializable, false)] {
        let options = TransactionOptions { isolation, ..Default::default() };
        let mut tx = db.begin_with(options).unwrap();
        tx.put(&a, "k", "mine").unwrap();
        a.put("k", "theirs").unwrap();
        assert_eq!(tx.commit().is_err(), conflict, "{isolation}");
    }
}

#[test]
fn own_writes_are_seen_by_gets_and_ranges_from_both_ends() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    for key in ["a", "b", "c", "d"] {
        a.put(key, "old").unwrap();
    }
    let mut tx = db.begin().unwrap();
    tx.delete(&a, "b").unwrap();
    tx.put(&a, "bb", "new").unwrap();
    let save = tx.savepoint();
    tx.delete_range(&a, "c"..).unwrap();
    tx.put(&a, "d", "newer").unwrap();
    let show = |tx: &Transaction, reverse: bool| {
        let range = tx.range(&a, ..);
        let mut pairs: Vec<_> = if reverse { range.rev().collect() } else { range.collect() };
        if reverse {
            pairs.reverse();
        }
        let show = |pair: Result<Pair>| {
            let (key, value) = pair.unwrap();
            format!("{}={}", key.escape_ascii(), value.escape_ascii())
        };
        pairs.into_iter().map(show).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(show(&tx, false), "a=old bb=new d=newer");
    assert_eq!(show(&tx, true), "a=old bb=new d=newer");
    assert_eq!(text(tx.get(&a, "c").unwrap()), None);
    tx.rollback_to(save).unwrap();
    assert_eq!(show(&tx, false), "a=old bb=new c=old d=old");
    tx.commit().unwrap();
    assert_eq!(text(a.get("bb").unwrap()), Some("new".into()));
}

#[test]
fn a_range_can_be_consumed_from_both_ends_and_each_key_comes_once() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    for n in 0..1000u32 {
        a.put(n.to_be_bytes(), "v").unwrap();
    }
    let mut range = a.range(10u32.to_be_bytes()..=900u32.to_be_bytes());
    let (mut low, mut high) = (Vec::new(), Vec::new());
    for turn in 0.. {
        let (side, next) = match turn % 3 {
            0 => (&mut high, range.next_back()),
            _ => (&mut low, range.next()),
        };
        let Some(pair) = next else { break };
        side.push(u32::from_be_bytes(pair.unwrap().0[..].try_into().unwrap()));
    }
    high.reverse();
    low.extend(high);
    assert_eq!(low, (10..=900).collect::<Vec<_>>());
}

#[test]
fn values_expire_by_the_clock_and_are_swept() {
    let (builder, clock) = reopenable();
    let db = builder.threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let options = PutOptions { expires_at: Some(1_500), ..Default::default() };
    a.put_with("k", "v", options).unwrap();
    let mut tx = db.begin().unwrap();
    assert_eq!(text(a.get("k").unwrap()), Some("v".into()));
    clock.set(1_500);
    assert_eq!(a.get("k").unwrap(), None);
    assert_eq!(a.range(..).count(), 0);
    assert!(tx.get(&a, "k").unwrap().is_some(), "a transaction judges by the time it began");
    tx.rollback();
    steps::Steps::new(&db).upkeep();
    assert_eq!(db.stats().expired, 1);
    tx = db.begin().unwrap();
    assert_eq!(tx.observe_entry(&a, "k").unwrap().observed, db.visible(), "a tombstone now");
}

#[test]
fn a_full_memory_budget_refuses_writes_and_still_admits_deletes() {
    let db = Builder::in_memory().memory(2 << 20).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let mut stored = 0u32;
    let error = loop {
        match a.put(stored.to_be_bytes(), [7; 1000]) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Stalled { reason: StallReason::Memory { .. } }), "{error}");
    assert!(matches!(error.retry(), Retry::After(_)));
    assert!(stored > 500);
    // Memory is free once no thread of this process is pinned any more: not always at once.
    let insist = |write: &dyn Fn() -> Result<()>| {
        while let Err(error) = write() {
            assert!(matches!(error.retry(), Retry::After(_)), "{error}");
            std::thread::yield_now();
        }
    };
    for n in 0..stored {
        insist(&|| a.delete(n.to_be_bytes()));
    }
    assert_eq!(a.len().unwrap(), 0);
    insist(&|| a.put("again", "x"));
}

#[test]
fn limits_are_enforced_with_errors_that_name_them() {
    let db = Builder::in_memory().transaction_bytes_max(100_000).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let long = vec![b'k'; KEY_BYTES_MAX + 1];
    assert!(matches!(a.put(&long, ""), Err(Error::KeyTooLarge { bytes }) if bytes == long.len()));
    a.put(&long[1..], "fits").unwrap();
    let mut tx = db.begin().unwrap();
    assert!(matches!(tx.put(&a, "k", vec![0; 200_000]), Err(Error::TransactionTooLarge { .. })));
    assert!(matches!(db.keyspace(""), Err(Error::InvalidKeyspaceName)));
    assert!(matches!(db.keyspace(&"n".repeat(256)), Err(Error::InvalidKeyspaceName)));
    let other = Database::in_memory();
    assert!(matches!(other.begin().unwrap().get(&a, "k"), Err(Error::ForeignKeyspace { .. })));
}

#[test]
fn a_dropped_keyspace_is_gone_for_all_but_older_snapshots() {
    let (builder, _) = reopenable();
    let db = builder.clone().open().unwrap();
    let a = db.keyspace("a").unwrap();
    a.put("k", "v").unwrap();
    let before = db.snapshot().unwrap();
    let mut tx = db.begin().unwrap();
    tx.put(&a, "k", "late").unwrap();
    assert!(db.drop_keyspace("a").unwrap());
    assert!(!db.drop_keyspace("a").unwrap());
    assert_eq!(text(before.get(&a, "k").unwrap()), Some("v".into()));
    assert!(matches!(a.get("k"), Err(Error::KeyspaceDropped { .. })));
    assert!(matches!(a.put("k", "v"), Err(Error::KeyspaceDropped { .. })));
    assert!(matches!(tx.commit(), Err(Error::KeyspaceDropped { .. })));
    let again = db.keyspace("a").unwrap();
    assert_eq!(again.get("k").unwrap(), None);
    again.put("k", "second life").unwrap();
    drop((a, again, before, db));
    let db = builder.open().unwrap();
    assert_eq!(text(db.keyspace("a").unwrap().get("k").unwrap()), Some("second life".into()));
}

#[test]
fn a_range_delete_that_can_hold_no_key_leaves_no_trace() {
    use std::ops::Bound::{Excluded, Unbounded};
    let (builder, _) = reopenable();
    let db = builder.clone().open().unwrap();
    let a = db.keyspace("a").unwrap();
    let mut tx = db.begin().unwrap();
    tx.delete_range(&a, (Excluded("k"), Excluded("k\0"))).unwrap();
    tx.delete_range(&a, (Unbounded, Excluded(""))).unwrap();
    tx.delete_range(&a, "z".."a").unwrap();
    assert!(db.drop_keyspace("a").unwrap());
    assert_eq!(tx.commit().unwrap().timestamp, None);
    drop((a, db));
    builder.open().expect("no record writes to a keyspace that is gone");
}

#[test]
fn a_scan_of_inverted_bounds_depends_on_nothing() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    let mut tx = db.begin().unwrap();
    assert_eq!(tx.range(&a, "z".."b").count(), 0);
    a.delete_range("a"..).unwrap();
    tx.put(&a, "k", "v").unwrap();
    tx.commit().unwrap();
}

#[test]
fn compare_and_swap_changes_only_what_it_expected() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    assert_eq!(a.compare_and_swap("k", None, Some(b"1")).unwrap(), Ok(()));
    let refused = a.compare_and_swap("k", None, Some(b"2")).unwrap();
    assert_eq!(refused.map_err(text), Err(Some("1".into())));
    assert_eq!(a.compare_and_swap("k", Some(b"1"), None).unwrap(), Ok(()));
    assert_eq!(a.get("k").unwrap(), None);
}

#[test]
fn a_read_only_transaction_sees_only_what_is_acknowledged_and_writes_nothing() {
    let (builder, _) = reopenable();
    let db = builder.threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let mut tx = db.begin().unwrap();
    tx.put(&a, "k", "v").unwrap();
    let pending = tx.commit_pending().unwrap();
    assert_eq!(a.get("k").unwrap(), None, "decided is not acknowledged");
    let token = pending.timestamp();
    let own = db.get_after(&a, "k", token).unwrap();
    assert_eq!((text(own.value.map(|e| e.value)), own.observed), (Some("v".into()), token));
    assert!(db.acknowledged() < token);
    assert!(db.begin().unwrap().get(&a, "k").unwrap().is_some(), "read-write begins at visible");
    pending.wait().unwrap();
    let mut read = db.begin_read_only().unwrap();
    assert_eq!(text(read.get(&a, "k").unwrap()), Some("v".into()));
    assert!(matches!(read.put(&a, "k", "w"), Err(Error::ReadOnlyTransaction)));
}

#[test]
fn weaker_durability_is_acknowledged_and_sync_raises_it() {
    let (builder, _) = reopenable();
    let db = builder.buffered_delay(Duration::from_secs(3600)).threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    for durability in [Durability::Buffered, Durability::Os, Durability::Sync] {
        let options = PutOptions { durability: Some(durability), ..Default::default() };
        a.put_with("k", format!("{durability:?}"), options).unwrap();
        assert_eq!(text(a.get("k").unwrap()), Some(format!("{durability:?}")));
    }
    let options = PutOptions { durability: Some(Durability::Buffered), ..Default::default() };
    a.put_with("k", "last", options).unwrap();
    assert!(db.durable() < db.visible());
    db.sync().unwrap();
    assert_eq!(db.durable(), db.visible());
}

#[test]
fn a_directory_with_other_things_in_it_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test plants a foreign file")]
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    let error = Database::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
}

#[test]
fn who_polls_a_commit_may_hand_it_to_the_kernel_himself() {
    use std::task::{Context, Poll, Waker};
    let (builder, _) = reopenable();
    let db = builder.durability(Durability::Os).threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let put = |durability| {
        let options = TransactionOptions { durability, ..TransactionOptions::default() };
        let mut tx = db.begin_with(options).unwrap();
        tx.put(&a, "k", "v").unwrap();
        tx.commit_pending().unwrap()
    };
    let mut context = Context::from_waker(Waker::noop());
    let (mut first, mut second) = (put(None), put(None));
    assert!(!first.is_ready() && a.get("k").unwrap().is_none());
    assert!(db.write_to_kernel() && first.is_ready());
    assert!(db.durable() < first.timestamp(), "it is not synced");
    assert!(matches!(Pin::new(&mut second).poll(&mut context), Poll::Ready(Ok(_))));
    assert!(matches!(Pin::new(&mut first).poll(&mut context), Poll::Ready(Ok(_))));
    assert_eq!(text(a.get("k").unwrap()), Some("v".into()));
    assert!(!db.write_to_kernel(), "there is nothing more");
    let synced = put(Some(Durability::Sync));
    assert!(!db.write_to_kernel(), "the disk is for others");
    synced.wait().unwrap();
}
