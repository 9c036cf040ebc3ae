//! What no caller, schedule or option may bring about.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use isolith_wal::Durability;

use super::tests::reopenable;
use crate::error::ConflictOn;
use crate::*;

#[test]
fn a_conflict_over_a_deleted_range_does_not_name_some_other_key() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    let options = TransactionOptions { isolation: Isolation::Snapshot, ..Default::default() };
    let mut tx = db.begin_with(options).unwrap();
    tx.put(&a, "x", "1").unwrap();
    tx.delete_range(&a, "b".."m").unwrap();
    a.put("c", "theirs").unwrap();
    match tx.commit() {
        Err(Error::Conflict { what, .. }) => assert_eq!(what, ConflictOn::WriteRange),
        other => panic!("{other:?}"),
    }
}

#[test]
fn in_memory_a_reader_is_not_acknowledged_before_what_it_saw() {
    let db = Database::in_memory();
    // The window's leader is between *visible* and *weak*.
    let seen = Lsn::new(1, 1);
    db.core().marks().publish(seen);
    let mut pending = db.pending(seen);
    let mut context = Context::from_waker(Waker::noop());
    let poll = std::pin::Pin::new(&mut pending).poll(&mut context);
    assert!(poll.is_pending(), "S is {} still", db.acknowledged());
    let waiter = std::thread::spawn(move || pending.wait());
    db.core().marks().raise_weak(seen);
    waiter.join().unwrap().unwrap();
    let mut pending = db.pending(seen);
    assert!(matches!(std::pin::Pin::new(&mut pending).poll(&mut context), Poll::Ready(Ok(_))));
}

#[test]
fn the_sweep_never_waits_for_a_segment_that_only_its_own_thread_prepares() {
    let (builder, clock) = reopenable();
    let builder = builder.segment_bytes(32 << 10).stall_timeout(Duration::from_secs(3600));
    let db = builder.open().unwrap();
    const KEYS: u64 = 4_000;
    let keyspaces: Vec<_> = (0..4).map(|n| db.keyspace(&n.to_string()).unwrap()).collect();
    let mut tx = db.begin().unwrap();
    for n in 0..KEYS {
        let key = [n.to_be_bytes().as_slice(), &[7; 42]].concat();
        tx.put_with(&keyspaces[n as usize % 4], key, "", Some(2_000)).unwrap();
    }
    tx.commit().unwrap();
    clock.set(2_000);
    let begin = std::time::Instant::now();
    while db.stats().expired < KEYS {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} swept", db.stats().expired);
        std::thread::yield_now();
    }
}

#[test]
fn what_a_dropped_keyspace_held_is_free_once_nobody_uses_it() {
    let db = Builder::in_memory().threads(false).open().unwrap();
    let (read, written, other) =
        (db.keyspace("r").unwrap(), db.keyspace("w").unwrap(), db.keyspace("o").unwrap());
    let mut tx = db.begin().unwrap();
    tx.get(&read, "k").unwrap();
    tx.put(&other, "k", "v").unwrap();
    tx.commit().unwrap();
    written.put("k", "v").unwrap();
    let mut tx = db.begin().unwrap();
    tx.put(&written, "k", "v").unwrap();
    tx.put(&other, "k", "v").unwrap();
    tx.commit().unwrap();
    for keyspace in [read, written] {
        let memtable = Arc::downgrade(&keyspace.space().active());
        db.drop_keyspace(keyspace.name()).unwrap();
        let name = keyspace.name().to_owned();
        drop(keyspace);
        assert!(memtable.upgrade().is_none(), "of {name}");
    }
}

#[test]
fn a_dropped_keyspace_counts_against_the_budget_while_somebody_reads_it() {
    let db = Builder::in_memory().memory(4 << 20).threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    a.put("k", vec![7; 3 << 20]).unwrap();
    db.drop_keyspace("a").unwrap();
    let b = db.keyspace("b").unwrap();
    assert!(matches!(b.put("k", vec![7; 3 << 20]), Err(Error::Stalled { .. })));
    drop(a);
    b.put("k", vec![7; 3 << 20]).unwrap();
}

#[test]
fn names_of_dropped_keyspaces_do_not_pile_up() {
    let db = Builder::in_memory().threads(false).open().unwrap();
    for _ in 0..1_000 {
        db.keyspace("again").unwrap();
        db.drop_keyspace("again").unwrap();
    }
    let names = db.core().names_kept();
    assert!(names < 100, "{names} names kept");
}

#[test]
fn an_expiry_at_the_beginning_of_time_is_not_never() {
    let (builder, _) = reopenable();
    let db = builder.threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    a.put_with("k", "v", PutOptions { expires_at: Some(0), ..Default::default() }).unwrap();
    assert_eq!(a.get("k").unwrap(), None);
    let mut tx = db.begin().unwrap();
    tx.put_with(&a, "k", "v", Some(0)).unwrap();
    assert_eq!(tx.get(&a, "k").unwrap(), None);
}

#[test]
fn a_transaction_is_charged_for_what_it_holds_and_not_for_what_it_overwrote() {
    let db = Builder::in_memory().memory(4 << 20).transaction_bytes_max(2 << 20).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let mut tx = db.begin().unwrap();
    for _ in 0..10 {
        tx.put(&a, "k", vec![7; 1 << 20]).unwrap();
    }
    tx.delete_range(&a, "a".."z").unwrap();
    tx.put(&a, "l", vec![7; 1 << 20]).unwrap();
    tx.commit().unwrap();

    let mut tx = db.begin().unwrap();
    for _ in 0..10 {
        let save = tx.savepoint();
        tx.put(&a, "k", vec![7; 1 << 20]).unwrap();
        tx.rollback_to(save).unwrap();
    }
    tx.put(&a, "k", vec![7; 1 << 20]).unwrap();
    tx.commit().unwrap();

    // What a savepoint can bring back is held.
    let mut tx = db.begin().unwrap();
    tx.savepoint();
    let error = (0..10).find_map(|_| tx.put(&a, "k", vec![7; 1 << 20]).err());
    assert!(matches!(error, Some(Error::TransactionTooLarge { .. })), "{error:?}");
}

#[test]
fn all_transactions_together_hold_no_more_than_their_share_of_memory() {
    let db = Builder::in_memory().memory(6 << 20).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let mut open: Vec<_> = (0..4).map(|_| db.begin().unwrap()).collect();
    let mut put = |n: usize| open[n].put(&a, [n as u8], vec![7; 512 << 10]);
    (0..3).for_each(|n| put(n).unwrap());
    let refused = put(3).unwrap_err();
    let share = StallReason::Transactions { bytes: 0, bytes_max: 2 << 20 };
    let Error::Stalled { reason } = &refused else { panic!("{refused}") };
    assert_eq!(std::mem::discriminant(reason), std::mem::discriminant(&share), "{refused}");
    assert!(db.stats().transaction_bytes > 3 << 19, "{:?}", db.stats());
    drop(open);
    assert_eq!(db.stats().transaction_bytes, 0);
}

#[test]
fn a_single_put_obeys_the_limit_of_a_transaction() {
    let db = Builder::in_memory().transaction_bytes_max(10_000).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let error = a.put("k", vec![0; 20_000]).unwrap_err();
    assert!(matches!(error, Error::TransactionTooLarge { .. }), "{error}");
}

#[test]
fn the_longest_durations_mean_forever() {
    let (builder, _) = reopenable();
    let db = builder.buffered_delay(Duration::MAX).stall_timeout(Duration::MAX).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let options = PutOptions { durability: Some(Durability::Buffered), ..Default::default() };
    for n in 0..2_000u32 {
        a.put_with(n.to_be_bytes(), vec![1; 1_000], options).unwrap();
    }
    a.put("k", "v").unwrap();
}

#[test]
fn a_savepoint_of_another_transaction_is_refused() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    let (mut one, mut two) = (db.begin().unwrap(), db.begin().unwrap());
    one.savepoint();
    let foreign = two.savepoint();
    one.put(&a, "k", "v").unwrap();
    assert!(matches!(one.rollback_to(foreign), Err(Error::UnknownSavepoint)));
}

#[test]
fn of_two_reads_for_update_one_is_refused_even_after_blind_puts() {
    let db = Database::in_memory();
    let a = db.keyspace("a").unwrap();
    let (mut one, mut two) = (db.begin().unwrap(), db.begin().unwrap());
    for tx in [&mut one, &mut two] {
        tx.put(&a, "k", "v").unwrap();
        tx.get_for_update(&a, "k").unwrap();
    }
    one.commit().unwrap();
    assert!(matches!(two.commit(), Err(Error::Conflict { .. })));
}

#[test]
fn a_range_delete_gives_its_memory_back() {
    let db = Builder::in_memory().memory(4 << 20).threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let filled = (0..).find(|n: &u32| a.put(n.to_be_bytes(), vec![7; 10_000]).is_err()).unwrap();
    assert!(filled > 100);
    a.delete_range(..).unwrap();
    for _ in 0..100 {
        steps::Steps::new(&db).upkeep();
    }
    a.put("again", vec![7; 10_000]).unwrap();
}

#[test]
fn a_writer_that_found_memory_full_gets_in_once_the_snapshot_that_held_it_is_gone() {
    let db = Builder::in_memory().memory(4 << 20).threads(false).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let mut snapshots = Vec::new();
    while a.put("k", vec![7; 10_000]).is_ok() {
        snapshots.push(db.snapshot().unwrap());
    }
    assert!(snapshots.len() > 100);
    assert!(a.put("k", vec![7; 10_000]).is_err());
    drop(snapshots);
    let after = (0..1000).find(|_| a.put("k", vec![7; 10_000]).is_ok());
    assert!(after.is_some(), "{:?}", db.stats());
}

/// A clock that the upkeep thread can be caught in.
#[derive(Default)]
struct Trap {
    armed: parking_lot::Mutex<bool>,
    changed: parking_lot::Condvar,
    caught: AtomicBool,
}

impl Clock for Trap {
    fn unix_millis(&self) -> u64 {
        if std::thread::current().name() == Some("isolith-upkeep") {
            let mut armed = self.armed.lock();
            // SeqCst, here and below: a test's flag, in the plainest order.
            self.caught.store(*armed, Ordering::SeqCst);
            while *armed {
                self.changed.wait(&mut armed);
            }
        }
        1
    }
}

#[test]
fn the_last_handle_closes_the_database_even_while_upkeep_is_at_work() {
    let trap = Arc::new(Trap::default());
    let (builder, _) = reopenable();
    let builder = builder.clock(Arc::clone(&trap) as Arc<dyn Clock>);
    let db = builder.clone().open().unwrap();
    let a = db.keyspace("a").unwrap();
    let options = PutOptions { durability: Some(Durability::Buffered), ..Default::default() };
    a.put_with("k", "v", options).unwrap();
    *trap.armed.lock() = true;
    while !trap.caught.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let over = Arc::new(AtomicBool::new(false));
    let release = {
        let (trap, over) = (Arc::clone(&trap), Arc::clone(&over));
        let shared = Arc::downgrade(db.core());
        std::thread::spawn(move || {
            // Until the last handle has begun to close the database, or has failed to.
            let is_open = || shared.upgrade().is_some_and(|shared| shared.check_open().is_ok());
            while is_open() && !over.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            *trap.armed.lock() = false;
            trap.changed.notify_all();
        })
    };
    drop((a, db));
    let opened = builder.open();
    over.store(true, Ordering::SeqCst);
    release.join().unwrap();
    opened.unwrap();
}
