//! What no mixture of levels and controls may bring about.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use super::levels::{LOCKING, begin, blocked};
use crate::error::ConflictOn;
use crate::steps::Steps;
use crate::*;

mod stress;

fn database() -> (Database, Keyspace) {
    let db = Database::in_memory();
    let space = db.keyspace("space").unwrap();
    (db, space)
}

fn text(value: Option<Slice>) -> String {
    value.map_or("-".into(), |value| value.escape_ascii().to_string())
}

#[test]
fn a_range_that_was_begun_follows_a_timestamp_that_moves() {
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        for reverse in [false, true] {
            let (db, space) = database();
            for key in ["a", "b", "c", "hot", "y", "z"] {
                space.put(key, "old").unwrap();
            }
            Steps::new(&db).heat(&space, "hot");
            let mut tx = begin(&db, isolation, Concurrency::Auto);
            let mut range = tx.range(&space, "a"..);
            let next = |range: &mut Range<&Transaction>| {
                let next = if reverse { range.next_back() } else { range.next() };
                next.map(|pair| {
                    let (key, value) = pair.unwrap();
                    format!("{}={}", key.escape_ascii(), value.escape_ascii())
                })
            };
            assert_eq!(next(&mut range).unwrap(), if reverse { "z=old" } else { "a=old" });
            // One commit changes a key that was fetched and not returned, one that is far away, and the
            // hot one.
            let mut other = db.begin().unwrap();
            for key in ["b", "y", "hot"] {
                other.put(&space, key, "new").unwrap();
            }
            other.delete(&space, "c").unwrap();
            other.put(&space, "d", "new").unwrap();
            other.commit().unwrap();
            assert_eq!(text(tx.get(&space, "hot").unwrap()), "new");
            let mut rest: Vec<_> = std::iter::from_fn(|| next(&mut range)).collect();
            rest.sort_unstable();
            let ends = if reverse { "a=old" } else { "z=old" };
            let mut expected = vec!["b=new", "d=new", "hot=new", "y=new", ends];
            expected.sort_unstable();
            assert_eq!(rest, expected, "{isolation}, reverse {reverse}");
            drop(range);
            tx.put(&space, "result", "").unwrap();
            tx.commit().unwrap();
        }
    }
}

#[test]
fn both_ends_of_a_range_follow_a_timestamp_that_moves() {
    let (db, space) = database();
    for key in b'a'..=b'g' {
        space.put([key], "old").unwrap();
    }
    Steps::new(&db).heat(&space, "hot");
    let tx = begin(&db, Isolation::Serializable, Concurrency::Auto);
    let mut range = tx.range(&space, "a"..="g");
    assert_eq!(range.next().unwrap().unwrap().0, "a");
    assert_eq!(range.next_back().unwrap().unwrap().0, "g");
    let mut other = db.begin().unwrap();
    other.put(&space, "hot", "new").unwrap();
    other.delete_range(&space, "c".."e").unwrap();
    other.put(&space, "ff", "new").unwrap();
    other.commit().unwrap();
    tx.get(&space, "hot").unwrap();
    assert_eq!(range.next_back().unwrap().unwrap().0, "ff");
    let left: Vec<_> = range.map(|pair| pair.unwrap().0).collect();
    assert_eq!(left, ["b", "e", "f"]);
}

#[test]
fn a_locking_scan_by_items_never_misses_a_key_that_is_only_overwritten() {
    let (db, space) = database();
    // Deleted keys make the walk to the one that counts a long one.
    let mut tx = db.begin().unwrap();
    for n in 0..900u32 {
        tx.put(&space, n.to_be_bytes(), "").unwrap();
    }
    tx.commit().unwrap();
    let mut tx = db.begin().unwrap();
    for n in 0..900u32 {
        tx.delete(&space, n.to_be_bytes()).unwrap();
    }
    tx.commit().unwrap();
    space.put("key", "0").unwrap();
    // Relaxed: who sees it late puts once more.
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                space.put("key", "1").unwrap();
            }
        });
        for round in 0..3000 {
            let tx = begin(&db, Isolation::RepeatableRead, LOCKING);
            let found = tx.range(&space, ..).next().map(|pair| pair.map(|pair| pair.0));
            match found {
                Some(Ok(key)) => assert_eq!(key, "key"),
                Some(Err(error)) => assert_ne!(error.retry(), Retry::Never, "{error}"),
                None => {
                    // Relaxed, here and below: who sees it late does one round more.
                    over.store(true, Ordering::Relaxed);
                    panic!("missed in round {round}");
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn who_reads_under_locks_does_not_straddle_the_end_of_a_keyspace() {
    for isolation in [Isolation::RepeatableRead, Isolation::Serializable] {
        for by_scan in [false, true] {
            let (db, space) = database();
            let doomed = db.keyspace("doomed").unwrap();
            doomed.put("k", "1").unwrap();
            let tx = begin(&db, isolation, LOCKING);
            match by_scan {
                true => assert_eq!(tx.range(&doomed, ..).count(), 1),
                false => assert!(tx.get(&doomed, "k").unwrap().is_some()),
            }
            assert!(db.drop_keyspace("doomed").unwrap());
            space.put("x", "after").unwrap();
            assert_eq!(text(tx.get(&space, "x").unwrap()), "after");
            match tx.commit() {
                Err(Error::KeyspaceDropped { keyspace }) => assert_eq!(keyspace, "doomed"),
                other => panic!("{isolation}: {other:?}"),
            }
        }
    }
    // Who reads one moment throughout may: it read before the end.
    let (db, _) = database();
    let doomed = db.keyspace("doomed").unwrap();
    let tx = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
    tx.get(&doomed, "k").unwrap();
    assert!(db.drop_keyspace("doomed").unwrap());
    tx.commit().unwrap();
}

#[test]
fn what_is_read_under_the_lock_of_a_range_is_the_newest() {
    for isolation in [Isolation::RepeatableRead, Isolation::Snapshot, Isolation::Serializable] {
        for concurrency in [Concurrency::Optimistic, Concurrency::Auto, LOCKING] {
            let (db, space) = database();
            space.put("k", "old").unwrap();
            let mut tx = begin(&db, isolation, concurrency);
            tx.get(&space, "elsewhere").unwrap();
            space.put("k", "new").unwrap();
            let locked = tx.lock_range(&space, "k".."l", RangeLock::Shared);
            if isolation == Isolation::Snapshot {
                assert!(
                    matches!(locked, Err(Error::Conflict { what: ConflictOn::Range(_), .. })),
                    "{isolation} {concurrency}: {locked:?}"
                );
                continue;
            }
            locked.unwrap();
            assert_eq!(text(tx.get(&space, "k").unwrap()), "new", "{isolation} {concurrency}");
            tx.put(&space, "result", "").unwrap();
            tx.commit().unwrap();
        }
    }
}

#[test]
fn a_scan_locks_no_more_than_its_transaction_may_hold() {
    let (db, space) = database();
    let mut tx = db.begin().unwrap();
    for n in 0..20_000u32 {
        tx.put(&space, n.to_be_bytes(), "").unwrap();
    }
    tx.commit().unwrap();
    for concurrency in [Concurrency::Optimistic, LOCKING] {
        let isolation = Isolation::RepeatableRead;
        let bytes_max = Some(100_000);
        let options =
            TransactionOptions { isolation, concurrency, bytes_max, ..Default::default() };
        let tx = db.begin_with(options).unwrap();
        let found = tx.range(&space, ..).find_map(Result::err);
        assert!(matches!(found, Some(Error::TransactionTooLarge { .. })), "{found:?}");
        assert!(db.stats().locks.held < 5000);
        assert!(tx.bytes() < 200_000);
    }
}

#[derive(Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        // Relaxed: looked at by the thread that wakes.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A database in which a wait that nobody ends is noticed, and somebody who holds "a".
fn held() -> (Database, Keyspace, Transaction) {
    let db = Builder::in_memory().lock_timeout(Duration::from_secs(3600)).open().unwrap();
    let space = db.keyspace("space").unwrap();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.put(&space, "a", "held").unwrap();
    (db, space, holder)
}

fn wait_for_waiters(db: &Database, count: u64) {
    while db.stats().locks.waiting < count {
        thread::yield_now();
    }
}

#[test]
fn a_body_that_goes_on_though_it_has_to_wait_is_woken_all_the_same() {
    let (db, space, holder) = held();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    {
        let mut attempt = pin!(tx.run(|tx| {
            let _ = tx.put(&space, "a", "1");
            tx.put(&space, "b", "1")
        }));
        assert!(attempt.as_mut().poll(&mut cx).is_pending());
        assert_eq!((db.stats().locks.waiting, db.core().timers()), (1, 1));
        holder.commit().unwrap();
        // Relaxed: woken on this thread.
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(matches!(attempt.as_mut().poll(&mut cx), Poll::Ready(Ok(()))));
        assert_eq!(db.core().timers(), 0, "what is done keeps no waker");
    }
    tx.commit().unwrap();
    assert_eq!(text(space.get("a").unwrap()), "1");
}

#[test]
fn a_future_that_is_dropped_keeps_no_waker() {
    let (db, space, _holder) = held();
    let woken = Arc::new(Woken::default());
    for _ in 0..10 {
        let mut tx = begin(&db, Isolation::Serializable, LOCKING);
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut attempt = pin!(tx.run(|tx| tx.put(&space, "a", "1")));
        assert!(attempt.as_mut().poll(&mut cx).is_pending());
        assert!(attempt.as_mut().poll(&mut cx).is_pending());
        let mut tx = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
        tx.put(&space, "a", "1").unwrap();
        let mut commit = pin!(tx.commit_steps());
        assert!(commit.as_mut().poll(&mut cx).is_pending());
        assert_eq!(db.core().timers(), 2);
    }
    assert_eq!((db.core().timers(), Arc::strong_count(&woken)), (0, 1));
    assert_eq!(db.stats().locks.waiting, 0);
}

#[test]
fn a_step_within_a_step_does_not_make_the_outer_one_wait() {
    let (db, space, _holder) = held();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    let step = tx.step(|tx| {
        assert!(matches!(tx.step(|tx| tx.put(&space, "b", "1")), Step::Ready(())));
        tx.put(&space, "a", "1")
    });
    assert!(blocked(&step));
    assert_eq!(text(tx.get(&space, "b").unwrap()), "-", "undone with the outer one");
    let step = tx.step(|tx| {
        assert!(blocked(&tx.step(|tx| tx.put(&space, "a", "1"))));
        tx.put(&space, "b", "1")
    });
    assert!(blocked(&step), "what is within has not been done");
}

#[test]
fn a_wait_that_a_step_does_not_come_back_to_is_over() {
    let (db, space, _holder) = held();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    assert!(blocked(&tx.step(|tx| tx.put(&space, "a", "1"))));
    assert_eq!(db.stats().locks.waiting, 1);
    assert!(matches!(tx.step(|tx| tx.put(&space, "b", "1")), Step::Ready(())));
    assert_eq!((db.stats().locks.waiting, tx.waits_until()), (0, None));
    tx.commit().unwrap();
}

#[test]
fn a_panic_in_a_step_undoes_it_and_leaves_the_transaction_as_it_was() {
    let (db, space, _holder) = held();
    let options = TransactionOptions {
        concurrency: LOCKING,
        lock_timeout: Some(Duration::from_millis(1)),
        ..Default::default()
    };
    let mut tx = db.begin_with(options).unwrap();
    tx.put(&space, "c", "before").unwrap();
    for waits in [false, true] {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _ = tx.step(|tx| -> Result<()> {
                tx.put(&space, "b", "1")?;
                if waits {
                    assert!(tx.put(&space, "a", "1").is_err());
                }
                panic!("on purpose");
            });
        }));
        assert!(panicked.is_err());
        assert_eq!(db.stats().locks.waiting, 0);
    }
    assert_eq!(text(tx.get(&space, "b").unwrap()), "-");
    // It waits again where it may.
    assert!(matches!(tx.put(&space, "a", "1"), Err(Error::LockTimeout { .. })));
    tx.commit().unwrap();
    assert_eq!(text(space.get("c").unwrap()), "before");
}

#[test]
fn a_thread_that_waits_is_woken_whatever_waker_was_set_for_steps() {
    let (db, space, holder) = held();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut tx = begin(&db, Isolation::Serializable, LOCKING);
            tx.wake(Some(Waker::noop()));
            tx.put(&space, "a", "1")?;
            tx.commit()
        });
        wait_for_waiters(&db, 1);
        holder.commit().unwrap();
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn who_waits_for_a_lock_learns_that_the_database_is_closed() {
    let (db, space, holder) = held();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    let mut attempt = pin!(tx.run(|tx| tx.put(&space, "a", "1")));
    assert!(attempt.as_mut().poll(&mut cx).is_pending());
    thread::scope(|scope| {
        let waiters = [
            scope.spawn(|| space.put("a", "1")),
            scope.spawn(|| space.delete_range(..)),
            scope.spawn(|| db.transact(|tx| tx.put(&space, "a", "1"))),
            scope.spawn(|| begin(&db, Isolation::Snapshot, LOCKING).put(&space, "a", "1")),
        ];
        wait_for_waiters(&db, 5);
        db.close().unwrap();
        for waiter in waiters {
            assert!(matches!(waiter.join().unwrap(), Err(Error::Closed)));
        }
    });
    // Relaxed: woken before `close` returned, on this thread.
    assert!(woken.0.load(Ordering::Relaxed) > 0);
    assert!(matches!(attempt.as_mut().poll(&mut cx), Poll::Ready(Err(Error::Closed))));
    assert!(matches!(holder.commit(), Err(Error::Closed)));
    assert_eq!((db.stats().locks.held, db.stats().locks.waiting), (0, 0));
}

#[test]
fn a_commit_ends_the_wait_of_a_step_that_was_given_up() {
    let db = Builder::in_memory().commit_mode(CommitMode::Stepped).open().unwrap();
    let steps = Steps::new(&db);
    let space = steps.keyspace("space").unwrap();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.put(&space, "a", "held").unwrap();
    let mut tx = begin(&db, Isolation::Serializable, LOCKING);
    tx.put(&space, "b", "1").unwrap();
    assert!(blocked(&tx.step(|tx| tx.put(&space, "a", "1"))));
    assert_eq!(db.stats().locks.waiting, 1);
    let mut commit = tx.commit_steps();
    assert!(matches!(commit.step(), Step::Blocked(BlockedBy::Round)));
    assert_eq!(db.stats().locks.waiting, 0);
    steps.round(1);
    assert!(matches!(commit.step(), Step::Ready(_)));
    drop(holder);
    assert_eq!(db.stats().locks.held, 0);
}

#[test]
fn commits_that_are_given_up_while_they_wait_give_everything_back() {
    let (builder, _) = super::tests::reopenable();
    let builder = builder.lock_timeout(Duration::from_secs(3600));
    let db = builder.memory(64 << 20).open().unwrap();
    let space = db.keyspace("space").unwrap();
    space.put("a", "").unwrap();
    let mut holder = begin(&db, Isolation::Serializable, LOCKING);
    holder.get(&space, "a").unwrap();
    let before = db.stats().memory_bytes;
    let value = vec![7; 100_000];
    // In all far more than the log's queue and the memory budget hold.
    for round in 0..3000 {
        let mut tx = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
        tx.put(&space, "a", &value).unwrap();
        let mut commit = tx.commit_steps();
        let step = commit.step();
        assert!(blocked(&step), "{round}: {step:?}");
        if round % 2 == 0 {
            assert!(blocked(&commit.step()));
        }
        drop(commit);
    }
    let stats = db.stats();
    assert!(stats.memory_bytes < before + (1 << 20), "{before} {}", stats.memory_bytes);
    assert_eq!((stats.locks.waiting, stats.snapshots), (0, 0));
    holder.put(&space, "b", "").unwrap();
    holder.commit().unwrap();
    space.put("a", "1").unwrap();
    assert_eq!(db.stats().locks.held, 0);
}

#[test]
fn a_panic_in_a_transaction_that_holds_locks_lets_go_of_them() {
    let (db, space, holder) = held();
    drop(holder);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let options = TransactionOptions { concurrency: LOCKING, ..Default::default() };
        db.transact_with(options, |tx| {
            tx.put(&space, "a", "1")?;
            tx.range(&space, ..).for_each(drop);
            if true {
                panic!("on purpose");
            }
            Ok(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!((db.stats().locks.held, db.stats().locks.waiting), (0, 0));
    space.put("a", "2").unwrap();
}

#[test]
fn a_commit_that_has_its_locks_and_finds_no_room_in_the_log_is_tried_again() {
    let (builder, _) = super::tests::reopenable();
    let builder = builder.lock_timeout(Duration::from_secs(3600));
    let db = builder.stall_timeout(Duration::ZERO).open().unwrap();
    let space = db.keyspace("space").unwrap();
    let value = vec![7; 100_000];
    let mut stalled = 0;
    for _ in 0..3 {
        let reader = begin(&db, Isolation::Serializable, LOCKING);
        reader.get(&space, "a").unwrap();
        let mut tx = begin(&db, Isolation::Serializable, Concurrency::Optimistic);
        tx.put(&space, "a", &value).unwrap();
        let mut commit = tx.commit_steps();
        while !blocked(&commit.step()) {
            thread::yield_now();
        }
        // Others take all the room there is.
        loop {
            let mut other = begin(&db, Isolation::ReadCommitted, Concurrency::Optimistic);
            other.put(&space, "b", &value).unwrap();
            if matches!(other.commit_steps().step(), Step::Aborted(Error::Stalled { .. })) {
                break;
            }
        }
        drop(reader);
        loop {
            match commit.step() {
                Step::Ready(_) => break,
                Step::Aborted(Error::Stalled { .. }) => stalled += 1,
                Step::Aborted(error) => panic!("{error}"),
                Step::Blocked(by) => assert_ne!(by, BlockedBy::Lock),
            }
            thread::yield_now();
        }
    }
    assert!(stalled > 0, "it was never short of room");
    assert_eq!((db.stats().locks.held, db.stats().locks.waiting), (0, 0));
}

#[test]
fn a_merge_by_a_second_operator_loses_nobody_elses_work() {
    for isolation in Isolation::ALL {
        for concurrency in [Concurrency::Optimistic, Concurrency::Auto, LOCKING] {
            let (db, space) = database();
            space.put("n", "1").unwrap();
            let mut tx = begin(&db, isolation, concurrency);
            tx.merge(&space, "n", merge::ADD_I64, "1").unwrap();
            // What the two come to is a put of what was read.
            tx.merge(&space, "n", merge::MAX_I64, "0").unwrap();
            let mut other = begin(&db, Isolation::ReadCommitted, Concurrency::Optimistic);
            other.merge(&space, "n", merge::ADD_I64, "10").unwrap();
            let mut commit = other.commit_steps();
            let waits = blocked(&commit.step());
            let mine = tx.commit().is_ok();
            if waits {
                assert!(matches!(commit.step(), Step::Ready(_)));
            }
            let expected = if mine { "12" } else { "11" };
            assert_eq!(text(space.get("n").unwrap()), expected, "{isolation} {concurrency}");
        }
    }
}

#[test]
fn at_snapshot_who_merges_what_it_has_read_loses_nobody_elses_work() {
    for concurrency in [Concurrency::Optimistic, Concurrency::Auto, LOCKING] {
        let ways = [(0, true), (1, true), (2, true), (3, false), (4, false), (5, true), (6, false)];
        for (how, conflicts) in ways {
            let (db, space) = database();
            for key in ["m", "n", "o"] {
                space.put(key, "1").unwrap();
            }
            let mut tx = begin(&db, Isolation::Snapshot, concurrency);
            // Its timestamp is taken now.
            tx.get(&space, "elsewhere").unwrap();
            match how {
                0 => drop(tx.get(&space, "n").unwrap()),
                1 => assert_eq!(tx.range(&space, "m"..="o").count(), 3),
                2 => {
                    tx.merge(&space, "n", merge::ADD_I64, "1").unwrap();
                    tx.get(&space, "n").unwrap();
                }
                3 => drop(tx.get(&space, "m").unwrap()),
                // It is not there, and was looked for; or it lies behind where the scan stopped.
                5 => assert_eq!(tx.range(&space, "m"..="o").count(), 3),
                6 => drop(tx.range(&space, "m"..="o").next().unwrap().unwrap()),
                _ => {}
            }
            let key = if how >= 5 { "mm" } else { "n" };
            tx.merge(&space, key, merge::ADD_I64, "1").unwrap();
            space.merge(key, merge::ADD_I64, "10").unwrap();
            let conflict = matches!(tx.commit(), Err(Error::Conflict { .. }));
            assert_eq!(conflict, conflicts, "{concurrency} {how}");
        }
    }
}
