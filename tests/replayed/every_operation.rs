//! every operation. It was prevented: nothing of it is an anomaly.
//!
//! Written by `isolith anomalies`: each step asserts what it gave when it was explored.

use std::sync::Arc;
use std::time::Duration;

use isolith::steps::Steps;
use isolith::{
    BlockedBy, Builder, CommitInfo, CommitMode, CommitSteps, Concurrency, DeadlockPolicy, Error,
    Isolation, ManualClock, RangeLock, Step, TransactionOptions,
};

#[test]
fn every_operation() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing happens by itself: every step below is one, and no lock is waited for by time.
    let builder = Builder::in_memory().commit_mode(CommitMode::Stepped).threads(false);
    // Time passes where it is told to.
    let clock = ManualClock::new(1000000);
    let builder = builder.clock(Arc::new(clock.clone()));
    let db = builder.lock_timeout(Duration::from_secs(100_000)).open()?;
    let steps = Steps::new(&db);
    let keys = steps.keyspace("replay")?;
    steps.keyspace("gone")?;
    let keys_2 = steps.keyspace("other")?;
    steps.heat(&keys, b"nobody");
    // What is there at first.
    let mut first = db.begin()?;
    first.put(&keys, b"k1", b"1")?;
    first.put(&keys, b"k2", b"2")?;
    first.put_with(&keys, b"n", b"2", Some(1000009))?;
    let mut commit = first.commit_steps();
    let end = commit.step();
    ready(decided(&steps, &mut commit, end));

    // 1. T1 begins: serializable, optimistic.
    let mut t1 = db.begin_with(TransactionOptions {
        isolation: Isolation::Serializable,
        concurrency: Concurrency::Optimistic,
        ..TransactionOptions::default()
    })?;
    let _ = t1.age();

    // 2. T1 writes "\"odd\"\u{0}\xff'\\" = "\"odd\"\u{0}\xff'\\".
    ready(t1.step(|tx| tx.put(&keys, b"\"odd\"\x00\xff\'\\", b"\"odd\"\x00\xff\'\\")));

    // 3. T1 marks point 0.
    let t1_point0 = t1.savepoint();

    // 4. T1 deletes "\"odd\"\u{0}\xff'\\".
    ready(t1.step(|tx| tx.delete(&keys, b"\"odd\"\x00\xff\'\\")));

    // 5. T1 goes back to point 0.
    t1.rollback_to(t1_point0)?;

    // 6. T1 writes z = 3, to expire at 5.
    ready(t1.step(|tx| tx.put_with(&keys, b"z", b"3", Some(1000005))));

    // 7. T1 writes other/k = 4.
    ready(t1.step(|tx| tx.put(&keys_2, b"other/k", b"4")));

    // 8. T1 lets 7 units of time pass.
    clock.advance(7);

    // 9. T1 reads z and finds 3.
    let found = ready(t1.step(|tx| tx.get(&keys, b"z")));
    assert_eq!(found.as_deref(), Some(&b"3"[..]));

    // 10. T4 begins: serializable, optimistic.
    let t4 = db.begin_with(TransactionOptions {
        isolation: Isolation::Serializable,
        concurrency: Concurrency::Optimistic,
        ..TransactionOptions::default()
    })?;
    let _ = t4.age();

    // 11. T4 drops the keyspace gone.
    t4.rollback();
    assert!(steps.drop_keyspace("gone")?);

    // 12. T1 reads "\"odd\"\u{0}\xff'\\" under a shared lock and finds "\"odd\"\u{0}\xff'\\".
    let found = ready(t1.step(|tx| tx.get_for_share(&keys, b"\"odd\"\x00\xff\'\\")));
    assert_eq!(found.as_deref(), Some(&b"\"odd\"\x00\xff\'\\"[..]));

    // 13. T1 merges 5 into n (add-i64).
    ready(t1.step(|tx| tx.merge(&keys, b"n", "add-i64", b"5")));

    // 14. T1 reads n and finds 7.
    let found = ready(t1.step(|tx| tx.get(&keys, b"n")));
    assert_eq!(found.as_deref(), Some(&b"7"[..]));

    // 15. T1 reads k..n and finds k1 = 1, k2 = 2.
    let found = ready(t1.step(|tx| tx.range(&keys, &b"k"[..]..&b"n"[..]).collect::<isolith::Result<Vec<_>>>()));
    let found: Vec<_> = found.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    assert_eq!(found, [(&b"k1"[..], &b"1"[..]), (&b"k2"[..], &b"2"[..])]);

    // 16. T1 deletes k..k9.
    ready(t1.step(|tx| tx.delete_range(&keys, &b"k"[..]..&b"k9"[..])));

    // 17. T1 reads k..n and finds nothing.
    let found = ready(t1.step(|tx| tx.range(&keys, &b"k"[..]..&b"n"[..]).collect::<isolith::Result<Vec<_>>>()));
    assert!(found.is_empty(), "{found:?}");

    // 18. T1 locks l..=m.
    ready(t1.step(|tx| tx.lock_range(&keys, &b"l"[..]..&b"m\x00"[..], RangeLock::Exclusive)));

    // 19. T2 begins: repeatable-read, locking:no-wait.
    let mut t2 = db.begin_with(TransactionOptions {
        isolation: Isolation::RepeatableRead,
        concurrency: Concurrency::Locking(DeadlockPolicy::NoWait),
        ..TransactionOptions::default()
    })?;
    let _ = t2.age();

    // 20. T2 locks, for reading, l..=m and is refused: a lock is not to be had, and the policy does
    // not let it wait (T1).
    let error = aborted(t2.step(|tx| tx.lock_range(&keys, &b"l"[..]..&b"m\x00"[..], RangeLock::Shared)));
    assert!(matches!(error, Error::LockRefused { .. }), "{error:?}");
    drop(t2);

    // 21. T1 reads ..a.
    let _ = ready(t1.step(|tx| tx.range(&keys, ..&b"a"[..]).collect::<isolith::Result<Vec<_>>>()));

    // 22. T3 begins: read-committed, auto.
    let mut t3 = db.begin_with(TransactionOptions {
        isolation: Isolation::ReadCommitted,
        concurrency: Concurrency::Auto,
        ..TransactionOptions::default()
    })?;
    let _ = t3.age();

    // 23. T3 reads nobody and finds nothing.
    let found = ready(t3.step(|tx| tx.get(&keys, b"nobody")));
    assert_eq!(found.as_deref(), None);

    // 24. T3 rolls back.
    t3.rollback();

    // 25. T1 asks for its commit.
    let mut t1_commit = t1.commit_steps();
    let t1_end = t1_commit.step();
    assert!(!matches!(t1_end, Step::Aborted(_)), "{t1_end:?}");

    // 26. The engine decides the oldest commit that was asked for.
    assert_eq!(steps.round(1), 1);

    // 27. T1 commits.
    ready(decided(&steps, &mut t1_commit, t1_end));
    Ok(())
}

/// The step is done.
fn ready<T: std::fmt::Debug>(step: Step<T, Error>) -> T {
    match step {
        Step::Ready(answer) => answer,
        other => panic!("not done: {other:?}"),
    }
}

/// The transaction was refused.
fn aborted<T: std::fmt::Debug>(step: Step<T, Error>) -> Error {
    match step {
        Step::Aborted(error) => error,
        other => panic!("not refused: {other:?}"),
    }
}

/// Goes on with a commit until it is decided, or a lock is in its way.
fn decided(
    steps: &Steps,
    commit: &mut CommitSteps,
    so_far: Step<CommitInfo, Error>,
) -> Step<CommitInfo, Error> {
    let mut now = match so_far {
        Step::Blocked(_) => commit.step(),
        other => other,
    };
    while let Step::Blocked(BlockedBy::Round) = now {
        assert_eq!(steps.round(1), 1, "it waits for an empty queue");
        now = commit.step();
    }
    now
}
