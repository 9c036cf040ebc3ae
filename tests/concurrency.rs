//! Real threads: invariants under every level and durability, snapshots that are kept while keys are
//! overwritten, closing under load, handles dropped anywhere, panics, and futures on an executor of
//! thirty lines.
//!
//! `ISOLITH_EFFORT=<factor>` makes the loads larger; the interleavings are the machine's.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use isolith::storage::memory::MemoryStorage;
use isolith::{
    Builder, CommitMode, Concurrency, Database, DeadlockPolicy, Durability, Error, Pending,
    TransactionOptions, Victim,
};
use isolith_testkit::dice::{Dice, effort, run_seed};
use isolith_testkit::executor::{Alarm, block_on, join_all};
use isolith_testkit::freezes::across_a_freeze;
use isolith_testkit::threads::{self, Load, Protection, REPEATABLE_READ, SERIALIZABLE};
use isolith_testkit::{Checked, contention};

fn load(name: &str, writers: usize, transactions: usize, keys: usize) -> Load {
    let (mix, seed) = (threads::strong(), run_seed(name));
    Load { mix, writers, transactions: transactions * effort(), keys, seed }
}

/// The protections of a mixture together, then each concurrency control by itself.
fn each_mix(mix: &[Protection], mut check: impl FnMut(&Load) -> Checked, load: &Load) {
    check(&Load { mix: mix.to_vec(), ..load.clone() }).unwrap();
    for control in Concurrency::ALL {
        let mix = mix.iter().copied().filter(|(_, concurrency)| *concurrency == control).collect();
        let transactions = load.transactions / 4;
        let alone = Load { mix, transactions, ..load.clone() };
        check(&alone).unwrap_or_else(|finding| panic!("{control}: {finding}"));
    }
}

#[test]
fn commits_are_judged_right_across_a_freeze() {
    across_a_freeze().unwrap();
}

fn with_mode(mode: CommitMode) -> Database {
    threads::threaded(Builder::in_memory().commit_mode(mode)).unwrap()
}

#[test]
fn money_is_neither_made_nor_lost() {
    let load = load("money_is_neither_made_nor_lost", 4, 1_500, 12);
    threads::bank(&with_mode(CommitMode::Combining), &load).unwrap();
    threads::bank(&with_mode(CommitMode::Serial), &load).unwrap();
    each_mix(&load.mix, |load| threads::bank(&Database::in_memory(), load), &load);
}

#[test]
fn money_is_neither_made_nor_lost_on_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let load = load("money_is_neither_made_nor_lost_on_a_disk", 3, 200, 8);
    let builder = Database::builder(directory.path().join("data")).segment_bytes(1 << 20);
    let db = builder.clone().open().unwrap();
    threads::bank(&db, &load).unwrap();
    db.close().unwrap();
    drop(db);
    let db = builder.open().unwrap();
    let sum: u64 = db
        .keyspace("accounts")
        .unwrap()
        .range(..)
        .map(|pair| u64::from_be_bytes(pair.unwrap().1.as_ref().try_into().unwrap()))
        .sum();
    assert_eq!(sum, 8 * 1_000);
}

#[test]
fn every_increment_counts() {
    let load = load("every_increment_counts", 4, 1_500, 3);
    threads::counters(&with_mode(CommitMode::Serial), &load).unwrap();
    each_mix(&load.mix, |load| threads::counters(&with_mode(CommitMode::Combining), load), &load);
}

#[test]
fn no_write_skew_under_serializable() {
    let load = load("no_write_skew_under_serializable", 4, 2_000, 4);
    let mix = [SERIALIZABLE, REPEATABLE_READ].concat();
    let serializable = Load { mix: SERIALIZABLE.to_vec(), ..load.clone() };
    threads::pairs(&with_mode(CommitMode::Combining), &serializable).unwrap();
    each_mix(&mix, |load| threads::pairs(&Database::in_memory(), load), &load);
}

#[test]
fn no_phantom_under_serializable() {
    let load = load("no_phantom_under_serializable", 4, 800, 5);
    each_mix(&SERIALIZABLE, |load| contention::places(&Database::in_memory(), load), &load);
}

#[test]
fn a_name_has_one_user() {
    let load = load("a_name_has_one_user", 4, 1_500, 6);
    let mix = [SERIALIZABLE, REPEATABLE_READ].concat();
    each_mix(&mix, |load| contention::names(&Database::in_memory(), load), &load);
}

#[test]
fn each_job_of_a_queue_is_taken_once() {
    let load = load("each_job_of_a_queue_is_taken_once", 6, 500, 1);
    each_mix(&load.mix, |load| contention::queue(&Database::in_memory(), load), &load);
}

#[test]
fn who_is_wounded_has_seen_nothing_torn() {
    let load = load("who_is_wounded_has_seen_nothing_torn", 2, 2_000, 2);
    each_mix(&load.mix, |load| contention::wounds(&Database::in_memory(), load), &load);
}

#[test]
fn the_oldest_is_never_refused() {
    let load = load("the_oldest_is_never_refused", 3, 5, 30);
    for policy in [
        DeadlockPolicy::WoundWait,
        DeadlockPolicy::WaitDie,
        DeadlockPolicy::Detect(Victim::Youngest),
    ] {
        contention::oldest(&Database::in_memory(), &load, policy).unwrap();
    }
}

#[test]
fn snapshots_stay_exact_and_memory_bounded_under_overwriting() {
    let load = load("snapshots_stay_exact_and_memory_bounded_under_overwriting", 2, 6_000, 40);
    let db = with_mode(CommitMode::Combining);
    // Forty keys, up to ten snapshots: a thousandth of what was written.
    threads::overwriting(&db, &load, 4 << 20).unwrap();
}

#[test]
fn closing_under_writers_loses_nothing_acknowledged() {
    for round in 0..6 {
        let storage = Arc::new(MemoryStorage::new());
        let builder = Builder::in_memory().storage(storage).segment_bytes(1 << 20);
        let db = builder.clone().open().unwrap();
        let load = Load { mix: Vec::new(), writers: 3, transactions: 0, keys: 0, seed: round };
        let acknowledged = threads::until_closed(&db, &load).unwrap();
        assert!(matches!(db.begin(), Err(Error::Closed)));
        drop(db);
        let db = builder.open().unwrap();
        let space = db.keyspace("until closed").unwrap();
        for (writer, last) in acknowledged.iter().enumerate() {
            let value = space.get((writer as u64).to_be_bytes()).unwrap().unwrap();
            let found = u64::from_be_bytes(value.as_ref().try_into().unwrap());
            assert!(found >= *last, "writer {writer}: {found}, and {last} was acknowledged");
        }
    }
}

/// Handles of every kind, dropped in any order by any thread: the last one closes, whichever it is,
/// and gives the lock back.
#[test]
fn any_handle_may_be_the_last() {
    let mut dice = Dice::new(run_seed("any_handle_may_be_the_last"));
    let storage = Arc::new(MemoryStorage::new());
    let builder = Builder::in_memory().storage(storage).segment_bytes(1 << 20);
    for round in 0..60 * effort() as u64 {
        let db = builder.clone().open().unwrap();
        let space = db.keyspace("space").unwrap();
        if round > 0 {
            let value = space.get("round").unwrap().unwrap();
            assert_eq!(value.as_ref(), (round - 1).to_be_bytes());
        }
        space.put("round", round.to_be_bytes()).unwrap();
        let mut open = db.begin().unwrap();
        open.put(&space, "never", "committed").unwrap();
        let mut committed = db.begin().unwrap();
        committed.put(&space, "pending", round.to_be_bytes()).unwrap();
        let snapshot = db.snapshot().unwrap();
        let range = dice.is(1, 2).then(|| snapshot.range(&space, ..));
        let mut handles: Vec<Box<dyn std::any::Any + Send>> = vec![
            Box::new(snapshot),
            Box::new(open),
            Box::new(committed.commit_pending().unwrap()),
            Box::new(space),
            Box::new(db.clone()),
            Box::new(db),
        ];
        std::thread::scope(|scope| {
            while !handles.is_empty() {
                let handle = handles.swap_remove(dice.below(handles.len()));
                match dice.is(1, 2) {
                    true => drop(scope.spawn(move || drop(handle))),
                    false => drop(handle),
                }
            }
        });
        drop(range);
    }
}

#[test]
fn a_panic_inside_transact_leaves_nothing_behind() {
    let db = with_mode(CommitMode::Combining);
    let space = db.keyspace("space").unwrap();
    space.put("k", "before").unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        db.transact(|tx| -> isolith::Result<()> {
            tx.put(&space, "k", "inside")?;
            tx.delete_range(&space, ..)?;
            std::panic::panic_any("on purpose");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(space.get("k").unwrap().as_deref(), Some(&b"before"[..]));
    assert_eq!(db.stats().snapshots, 0);
    db.transact(|tx| tx.put(&space, "k", "after")).unwrap();
    assert_eq!(space.get("k").unwrap().as_deref(), Some(&b"after"[..]));
    db.close().unwrap();
}

// ---- futures

fn put(db: &Database, key: u64, durability: Durability) -> Pending {
    let space = db.keyspace("futures").unwrap();
    let durability = Some(durability);
    let options = TransactionOptions { durability, ..TransactionOptions::default() };
    let mut transaction = db.begin_with(options).unwrap();
    transaction.put(&space, key.to_be_bytes(), "v").unwrap();
    transaction.commit_pending().unwrap()
}

#[test]
fn futures_are_awaited_without_a_runtime() {
    let db = with_mode(CommitMode::Combining);
    for key in 0..200 * effort() as u64 {
        let pending = put(&db, key, threads::DURABILITIES[key as usize % 3]);
        let at = pending.timestamp();
        let info = block_on(pending).unwrap();
        assert_eq!(info.timestamp, Some(at));
        assert!(db.acknowledged() >= at);
    }
}

#[test]
fn one_thread_awaits_many_futures_while_others_commit() {
    let db = &with_mode(CommitMode::Combining);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            scope.spawn(move || {
                for round in 0..20 * effort() as u64 {
                    let pending: Vec<_> = (0..50)
                        .map(|n| put(db, thread << 32 | round << 8 | n, Durability::Sync))
                        .collect();
                    let newest = pending.iter().map(Pending::timestamp).max().unwrap();
                    for output in join_all(pending) {
                        output.unwrap();
                    }
                    assert!(db.durable() >= newest);
                }
            });
        }
    });
    assert_eq!(db.keyspace("futures").unwrap().len().unwrap(), 2 * 20 * effort() * 50);
}

/// Futures polled once and dropped, polled by one waker and then by another, never polled: each
/// commit is there, and the ones that are awaited get their word.
#[test]
fn futures_are_dropped_half_way_and_wakers_change() {
    let db = with_mode(CommitMode::Combining);
    let mut dice = Dice::new(run_seed("futures_are_dropped_half_way_and_wakers_change"));
    let count = 400 * effort() as u64;
    for key in 0..count {
        let mut pending = put(&db, key, *dice.pick(&threads::DURABILITIES));
        let other = Alarm::new();
        for _ in 0..dice.below(3) {
            let waker = Waker::from(other.clone());
            if let Poll::Ready(output) =
                Pin::new(&mut pending).poll(&mut Context::from_waker(&waker))
            {
                output.unwrap();
                break;
            }
        }
        match dice.below(4) {
            0 => drop(pending),
            1 => drop(block_on(pending).unwrap()),
            2 => drop(pending.wait().unwrap()),
            _ => std::mem::forget(db.pending(db.visible())),
        }
    }
    db.sync().unwrap();
    assert_eq!(db.keyspace("futures").unwrap().len().unwrap() as u64, count);
}

/// A future of a commit whose database is closed meanwhile still gets its word.
#[test]
fn a_close_answers_the_futures_that_wait() {
    for round in 0..20u64 {
        let db = with_mode(CommitMode::Combining);
        let pending: Vec<_> = (0..20).map(|n| put(&db, round << 8 | n, Durability::Sync)).collect();
        let closer = db.clone();
        std::thread::scope(|scope| {
            scope.spawn(move || closer.close().unwrap());
            for output in join_all(pending) {
                output.unwrap();
            }
        });
    }
}
