//! What each isolation level and concurrency control promises, one small story each; all stories of
//! all sizes are told by the interleaving explorer of the testkit.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use crate::error::ConflictOn;
use crate::steps::Steps;
use crate::*;

pub(super) const LOCKING: Concurrency = Concurrency::Locking(DeadlockPolicy::WoundWait);

fn database() -> (Database, Keyspace) {
    let db = Database::in_memory();
    let space = db.keyspace("space").unwrap();
    space.put("a", "1").unwrap();
    space.put("b", "1").unwrap();
    (db, space)
}

pub(super) fn begin(db: &Database, isolation: Isolation, concurrency: Concurrency) -> Transaction {
    db.begin_with(TransactionOptions { isolation, concurrency, ..Default::default() }).unwrap()
}

fn value(read: Result<Option<Slice>>) -> String {
    read.unwrap().map_or("-".into(), |value| value.escape_ascii().to_string())
}

/// A step that has to wait for a lock.
pub(super) fn blocked<T>(step: &Step<T, Error>) -> bool {
    matches!(step, Step::Blocked(BlockedBy::Lock))
}

#[test]
fn each_statement_of_read_committed_sees_what_is_committed() {
    for concurrency in [Concurrency::Optimistic, LOCKING, Concurrency::Auto] {
        let (db, space) = database();
        let mut tx = begin(&db, Isolation::ReadCommitted, concurrency);
        assert_eq!(value(tx.get(&space, "a")), "1");
        space.put("a", "2").unwrap();
        space.put("c", "1").unwrap();
        assert_eq!(value(tx.get(&space, "a")), "2");
        assert_eq!(tx.range(&space, ..).count(), 3);
        tx.put(&space, "b", "mine").unwrap();
        tx.commit().unwrap();
    }
}

#[test]
fn a_read_for_update_is_protected_at_every_level() {
    for isolation in Isolation::ALL {
        let (db, space) = database();
        let mut tx = begin(&db, isolation, Concurrency::Optimistic);
        assert_eq!(value(tx.get_for_update(&space, "a")), "1");
        space.put("a", "2").unwrap();
        tx.put(&space, "b", "2").unwrap();
        assert!(matches!(tx.commit(), Err(Error::Conflict { .. })), "{isolation}");
        let mut tx = begin(&db, isolation, LOCKING);
        assert_eq!(value(tx.get_for_update(&space, "a")), "2");
        let mut other = begin(&db, isolation, LOCKING);
        assert!(blocked(&other.step(|other| other.put(&space, "a", "3"))), "{isolation}");
        tx.put(&space, "a", "4").unwrap();
        tx.commit().unwrap();
        assert!(matches!(other.step(|other| other.put(&space, "a", "5")), Step::Ready(())));
        other.commit().unwrap();
        assert_eq!(value(space.get("a")), "5");
    }
}

#[test]
fn repeatable_read_protects_items_and_not_ranges() {
    let (db, space) = database();
    let change = |key: &str| {
        let mut tx = begin(&db, Isolation::RepeatableRead, Concurrency::Optimistic);
        assert_eq!(tx.range(&space, "a".."y").count(), 2);
        assert_eq!(value(tx.get(&space, "absent")), "-");
        space.put(key, "2").unwrap();
        tx.put(&space, "z", "2").unwrap();
        let result = tx.commit();
        space.delete("phantom").unwrap();
        space.delete("absent").unwrap();
        result
    };
    assert!(matches!(change("a"), Err(Error::Conflict { what: ConflictOn::Read(_), .. })));
    assert!(matches!(change("absent"), Err(Error::Conflict { what: ConflictOn::Read(_), .. })));
    assert!(change("phantom").is_ok());
}

#[test]
fn a_locked_range_keeps_phantoms_out_of_it_and_lets_others_be() {
    let (db, space) = database();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    // Stops early: what lies behind stays free.
    assert_eq!(tx.range(&space, "a"..).next().unwrap().unwrap().0, "a");
    let optimistic = |key: &str| {
        let mut other = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
        other.put(&space, key, "x").unwrap();
        let mut commit = other.commit_steps();
        let step = commit.step();
        (commit, step)
    };
    assert!(matches!(optimistic("c").1, Step::Ready(_)));
    let (waiting, step) = optimistic("a");
    assert!(blocked(&step));
    drop(waiting);
    assert_eq!(db.stats().locks.waiting, 0, "a commit that is dropped waits no more");
    // To the end: nothing can come behind the last key, nor between.
    assert_eq!(tx.range(&space, "b"..).count(), 2);
    for key in ["aa", "b", "d", "zzz"] {
        let free = matches!(optimistic(key).1, Step::Ready(_));
        assert_eq!(free, key == "aa", "{key}");
    }
    // Before the range and in an empty one.
    assert_eq!(tx.range(&space, "A".."B").rev().count(), 0);
    assert!(blocked(&optimistic("AB").1));
    assert!(matches!(optimistic("9").1, Step::Ready(_)));
    tx.put(&space, "a", "2").unwrap();
    tx.commit().unwrap();
    assert!(matches!(optimistic("d").1, Step::Ready(_)));
    assert_eq!(db.stats().locks.held, 0);
}

#[test]
fn writers_wait_for_a_locking_reader_whatever_they_are() {
    let (db, space) = database();
    let mut reader = begin(&db, Isolation::Serializable, LOCKING);
    assert_eq!(value(reader.get(&space, "a")), "1");
    thread::scope(|scope| {
        let autocommit = scope.spawn(|| space.put("a", "2"));
        let weak = scope.spawn(|| {
            let mut tx = begin(&db, Isolation::ReadCommitted, Concurrency::Optimistic);
            tx.delete_range(&space, "a"..="a")?;
            tx.commit()
        });
        while db.stats().locks.waiting < 2 {
            thread::yield_now();
        }
        assert_eq!(value(reader.get(&space, "a")), "1");
        reader.put(&space, "b", "2").unwrap();
        reader.commit().unwrap();
        autocommit.join().unwrap().unwrap();
        weak.join().unwrap().unwrap();
    });
    assert_eq!(db.stats().locks.held, 0);
}

#[test]
fn an_older_transaction_wounds_a_younger_one_which_learns_of_it() {
    let (db, space) = database();
    let old = begin(&db, Isolation::Serializable, LOCKING);
    let age = old.age();
    let young = begin(&db, Isolation::Serializable, LOCKING);
    assert_eq!(value(young.get(&space, "a")), "1");
    assert!(age < young.age());
    let mut old = old;
    old.put(&space, "a", "2").unwrap();
    assert!(matches!(young.get(&space, "b"), Err(Error::Wounded { by }) if by == age));
    assert!(matches!(young.commit(), Err(Error::Wounded { .. })));
    old.commit().unwrap();
}

#[test]
fn each_policy_answers_a_lock_in_the_way_as_it_says() {
    use DeadlockPolicy::{Detect, NoWait, WaitDie, WoundWait};
    for (policy, younger_waits) in
        [(WoundWait, true), (WaitDie, false), (NoWait, false), (Detect(Victim::Youngest), true)]
    {
        let (db, space) = database();
        let locking = Concurrency::Locking(policy);
        let mut old = begin(&db, Isolation::Serializable, locking);
        old.put(&space, "a", "2").unwrap();
        let mut young = begin(&db, Isolation::Serializable, locking);
        let step = young.step(|young| young.put(&space, "a", "3"));
        match younger_waits {
            true => assert!(blocked(&step), "{policy:?}"),
            false => match step {
                Step::Aborted(error @ Error::LockRefused { .. }) => {
                    assert_eq!(error.retry(), Retry::Now);
                    assert!(error.to_string().contains("exclusive"), "{error}");
                }
                step => panic!("{policy:?}: {step:?}"),
            },
        }
    }
}

#[test]
fn a_step_that_is_run_again_keeps_the_end_of_its_wait() {
    let (db, space) = database();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.put(&space, "b", "2").unwrap();
    let mut waiter = begin(&db, Isolation::Serializable, LOCKING);
    let both = |waiter: &mut Transaction| {
        waiter.put(&space, "a", "3")?;
        waiter.put(&space, "b", "3")
    };
    assert!(blocked(&waiter.step(both)));
    let until = waiter.waits_until();
    assert!(until.is_some());
    // What it holds already is granted again, and gives the wait no more time.
    assert!(blocked(&waiter.step(both)));
    assert_eq!(waiter.waits_until(), until);
    drop(holder);
    assert!(matches!(waiter.step(both), Step::Ready(())));
    assert_eq!(waiter.waits_until(), None);
}

#[test]
fn a_deadlock_is_found_and_its_victim_told_the_cycle() {
    let (db, space) = database();
    let locking = Concurrency::Locking(DeadlockPolicy::Detect(Victim::Youngest));
    let mut first = begin(&db, Isolation::Serializable, locking);
    first.put(&space, "a", "2").unwrap();
    let mut second = begin(&db, Isolation::Serializable, locking);
    second.put(&space, "b", "2").unwrap();
    assert!(blocked(&first.step(|first| first.put(&space, "b", "3"))));
    let [holder] = &first.waits_for()[..] else { panic!("{:?}", first.waits_for()) };
    assert_eq!((holder.age, holder.mode), (second.age(), LockMode::Exclusive));
    match second.step(|second| second.put(&space, "a", "3")) {
        Step::Aborted(Error::Deadlock { cycle }) => assert_eq!(cycle.len(), 2, "{cycle:?}"),
        step => panic!("{step:?}"),
    }
    drop(second);
    assert!(matches!(first.step(|first| first.put(&space, "b", "3")), Step::Ready(())));
    first.commit().unwrap();
    assert_eq!(db.stats().locks.deadlocks, 1);
}

#[test]
fn a_wait_has_an_end() {
    let (db, space) = database();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.put(&space, "a", "2").unwrap();
    let short = TransactionOptions {
        concurrency: LOCKING,
        lock_timeout: Some(Duration::from_millis(5)),
        ..Default::default()
    };
    let mut waiter = db.begin_with(short).unwrap();
    match waiter.put(&space, "a", "3") {
        Err(Error::LockTimeout { holders }) => assert_eq!(holders[0].keyspace, "space"),
        other => panic!("{other:?}"),
    }
    waiter.put(&space, "b", "3").unwrap();
    waiter.commit().unwrap();
    let ends = TransactionOptions { timeout: Some(Duration::from_millis(5)), ..short };
    let mut waiter = db.begin_with(ends).unwrap();
    thread::sleep(Duration::from_millis(6));
    assert!(matches!(waiter.put(&space, "b", "4"), Err(Error::TransactionTimeout)));
    drop(waiter);
    assert_eq!(db.stats().locks.waiting, 0);
    assert_eq!(db.stats().locks.timeouts, 1);
}

#[test]
fn a_future_waits_without_a_thread_and_leaves_nothing_when_dropped() {
    let (db, space) = database();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.put(&space, "a", "2").unwrap();
    let mut waiter = begin(&db, Isolation::Serializable, LOCKING);
    let mut cx = Context::from_waker(Waker::noop());
    {
        let mut attempt = pin!(waiter.run(|tx| {
            tx.put(&space, "b", "3")?;
            tx.put(&space, "a", "3")
        }));
        assert!(attempt.as_mut().poll(&mut cx).is_pending());
        assert_eq!(db.stats().locks.waiting, 1);
    }
    assert_eq!(db.stats().locks.waiting, 0, "its place in the queue went with the future");
    {
        let mut attempt = pin!(waiter.run(|tx| tx.put(&space, "a", "3")));
        assert!(attempt.as_mut().poll(&mut cx).is_pending());
        holder.commit().unwrap();
        assert!(matches!(attempt.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
    }
    let mut commit = pin!(waiter.commit_steps());
    let info = loop {
        if let Poll::Ready(result) = commit.as_mut().poll(&mut cx) {
            break result.unwrap();
        }
    };
    assert!(info.timestamp.is_some());
    assert_eq!(value(space.get("a")), "3");
    assert_eq!(value(space.get("b")), "1", "what a step wrote that had to wait is undone");
    assert_eq!(db.stats().locks.held, 0);
}

#[test]
fn first_committer_wins_is_known_at_the_lock() {
    let (db, space) = database();
    let mut tx = begin(&db, Isolation::Snapshot, LOCKING);
    assert_eq!(value(tx.get(&space, "b")), "1");
    space.put("a", "2").unwrap();
    let refused = tx.put(&space, "a", "3");
    assert!(matches!(refused, Err(Error::Conflict { what: ConflictOn::Write(_), .. })));
    drop(tx);
    // The timestamp is taken after the first lock: nothing can have come between.
    let mut tx = begin(&db, Isolation::Snapshot, LOCKING);
    tx.put(&space, "a", "4").unwrap();
    tx.commit().unwrap();
}

#[test]
fn auto_locks_what_is_fought_for_and_moves_its_timestamp() {
    let (db, space) = database();
    Steps::new(&db).heat(&space, "a");
    assert_eq!(db.stats().hot_keys, 1);
    let mut tx = begin(&db, Isolation::Serializable, Concurrency::Auto);
    assert_eq!(value(tx.get(&space, "b")), "1");
    space.put("a", "4").unwrap();
    assert_eq!(value(tx.get(&space, "a")), "4", "the timestamp moved: b has not changed");
    assert_eq!(db.stats().locks.held, 1);
    tx.put(&space, "a", "5").unwrap();
    let mut other = begin(&db, Isolation::Serializable, Concurrency::Auto);
    assert!(blocked(&other.step(|other| other.get(&space, "a"))));
    tx.commit().unwrap();
    let Step::Ready(seen) = other.step(|other| other.get(&space, "a")) else { panic!() };
    assert_eq!(seen.as_deref(), Some(&b"5"[..]));
    other.put(&space, "a", "6").unwrap();
    other.commit().unwrap();
    // What was read before has changed: the timestamp cannot move.
    let tx = begin(&db, Isolation::Serializable, Concurrency::Auto);
    assert_eq!(value(tx.get(&space, "b")), "1");
    space.put("b", "2").unwrap();
    space.put("a", "7").unwrap();
    match tx.get(&space, "a") {
        Err(error @ Error::Conflict { .. }) => assert_eq!(error.retry(), Retry::WithLocks),
        other => panic!("{other:?}"),
    }
    // Who goes on all the same gets no further.
    assert!(matches!(tx.get(&space, "b"), Err(Error::Conflict { .. })));
    assert!(matches!(tx.commit(), Err(Error::Conflict { .. })));
}

#[test]
fn counters_are_exact_under_every_control() {
    use DeadlockPolicy::{Detect, NoWait, WaitDie, WoundWait};
    let locking =
        [WoundWait, WaitDie, NoWait, Detect(Victim::Youngest), Detect(Victim::FewestLocks)];
    let controls = [Concurrency::Optimistic, Concurrency::Auto]
        .into_iter()
        .chain(locking.map(Concurrency::Locking));
    let (db, space) = database();
    space.put("a", 0u32.to_le_bytes()).unwrap();
    let controls: Vec<_> = controls.collect();
    thread::scope(|scope| {
        for (number, concurrency) in controls.iter().enumerate() {
            let (db, space) = (&db, &space);
            scope.spawn(move || {
                for round in 0..50 {
                    let isolation = match (number + round) % 3 {
                        0 => Isolation::RepeatableRead,
                        1 => Isolation::Snapshot,
                        _ => Isolation::Serializable,
                    };
                    let options = TransactionOptions {
                        isolation,
                        concurrency: *concurrency,
                        ..Default::default()
                    };
                    db.transact_with(options, |tx| {
                        let now = tx.get(space, "a")?.unwrap_or_default();
                        let now = u32::from_le_bytes((*now).try_into().unwrap());
                        tx.put(space, "a", (now + 1).to_le_bytes())
                    })
                    .unwrap();
                }
            });
        }
    });
    let sum = space.get("a").unwrap().unwrap();
    assert_eq!(u32::from_le_bytes((*sum).try_into().unwrap()), 350);
    assert_eq!((db.stats().locks.held, db.stats().locks.waiting), (0, 0));
}

#[test]
fn a_write_that_locks_only_at_its_commit_is_never_told_of_a_wound() {
    let (db, space) = database();
    let old = begin(&db, Isolation::Serializable, LOCKING);
    let age = old.age();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.put(&space, "b", "2").unwrap();
    let mut optimistic = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
    optimistic.put(&space, "a", "3").unwrap();
    optimistic.put(&space, "b", "3").unwrap();
    let mut commit = optimistic.commit_steps();
    // It has the lock of the first key, and waits for that of the second.
    assert!(blocked(&commit.step()));
    assert!(age < holder.age());
    assert_eq!(value(old.get(&space, "a")), "1");
    assert_eq!(db.stats().locks.wounds, 1);
    holder.commit().unwrap();
    assert!(blocked(&commit.step()), "for the old one now");
    old.commit().unwrap();
    assert!(matches!(commit.step(), Step::Ready(_)));
    assert_eq!(value(space.get("a")), "3");
    assert_eq!((db.stats().locks.held, db.stats().locks.waiting), (0, 0));
}

#[test]
fn a_step_goes_back_no_further_than_it_began() {
    let (db, space) = database();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    let before = tx.savepoint();
    tx.put(&space, "a", "2").unwrap();
    let step = tx.step(|tx| {
        let within = tx.savepoint();
        tx.put(&space, "b", "2")?;
        tx.rollback_to(within)?;
        tx.rollback_to(before)
    });
    assert!(matches!(step, Step::Aborted(Error::UnknownSavepoint)), "{step:?}");
    assert_eq!(value(tx.get(&space, "a")), "2");
    tx.rollback_to(before).unwrap();
    assert_eq!(value(tx.get(&space, "a")), "1");
}
