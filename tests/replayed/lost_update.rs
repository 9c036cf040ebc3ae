//! lost update (P4). It was prevented: T2 was wounded by T1, which is older, before it wrote.
//!
//! Written by `isolith anomalies`: each step asserts what it gave when it was explored.

use std::time::Duration;

use isolith::steps::Steps;
use isolith::{
    BlockedBy, Builder, CommitInfo, CommitMode, CommitSteps, Concurrency, DeadlockPolicy, Error,
    Isolation, Step, TransactionOptions,
};

#[test]
fn lost_update() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing happens by itself: every step below is one, and no lock is waited for by time.
    let builder = Builder::in_memory().commit_mode(CommitMode::Stepped).threads(false);
    let db = builder.lock_timeout(Duration::from_secs(100_000)).open()?;
    let steps = Steps::new(&db);
    let keys = steps.keyspace("replay")?;
    // What is there at first.
    let mut first = db.begin()?;
    first.put(&keys, b"stock", b"3")?;
    let mut commit = first.commit_steps();
    let end = commit.step();
    ready(decided(&steps, &mut commit, end));

    // 1. T1 begins: serializable, locking:wound-wait.
    let mut t1 = db.begin_with(TransactionOptions {
        isolation: Isolation::Serializable,
        concurrency: Concurrency::Locking(DeadlockPolicy::WoundWait),
        ..TransactionOptions::default()
    })?;
    let _ = t1.age();

    // 2. T2 begins: serializable, locking:wound-wait.
    let mut t2 = db.begin_with(TransactionOptions {
        isolation: Isolation::Serializable,
        concurrency: Concurrency::Locking(DeadlockPolicy::WoundWait),
        ..TransactionOptions::default()
    })?;
    let _ = t2.age();

    // 3. T2 reads stock in order to write it and finds 3.
    let found = ready(t2.step(|tx| tx.get_for_update(&keys, b"stock")));
    assert_eq!(found.as_deref(), Some(&b"3"[..]));

    // 4. T1 reads stock in order to write it and finds 3.
    let found = ready(t1.step(|tx| tx.get_for_update(&keys, b"stock")));
    assert_eq!(found.as_deref(), Some(&b"3"[..]));

    // 5. T3 begins: serializable, locking:wound-wait.
    let mut t3 = db.begin_with(TransactionOptions {
        isolation: Isolation::Serializable,
        concurrency: Concurrency::Locking(DeadlockPolicy::WoundWait),
        ..TransactionOptions::default()
    })?;
    let _ = t3.age();

    // 6. T3 reads stock in order to write it, and waits for T1.
    waits(&t3.step(|tx| tx.get_for_update(&keys, b"stock")));

    // 7. T2 writes stock = 2 and is refused: an older transaction took its locks (T1): “wounded by
    // 1”.
    let error = aborted(t2.step(|tx| tx.put(&keys, b"stock", b"2")));
    assert!(matches!(error, Error::Wounded { .. }), "{error:?}");
    drop(t2);

    // 8. T1 writes stock = 2.
    ready(t1.step(|tx| tx.put(&keys, b"stock", b"2")));

    // 9. T1 asks for its commit.
    let mut t1_commit = t1.commit_steps();
    let t1_end = t1_commit.step();
    assert!(!matches!(t1_end, Step::Aborted(_)), "{t1_end:?}");

    // 10. The engine decides the oldest commit that was asked for.
    assert_eq!(steps.round(1), 1);

    // 11. T1 commits, at timestamp 2.
    ready(decided(&steps, &mut t1_commit, t1_end));

    // 12. T3 reads stock in order to write it and finds 2.
    let found = ready(t3.step(|tx| tx.get_for_update(&keys, b"stock")));
    assert_eq!(found.as_deref(), Some(&b"2"[..]));

    // 13. T3 writes stock = 1.
    ready(t3.step(|tx| tx.put(&keys, b"stock", b"1")));

    // 14. T3 asks for its commit.
    let mut t3_commit = t3.commit_steps();
    let t3_end = t3_commit.step();
    assert!(!matches!(t3_end, Step::Aborted(_)), "{t3_end:?}");

    // 15. The engine decides the oldest commit that was asked for.
    assert_eq!(steps.round(1), 1);

    // 16. T3 commits, at timestamp 3.
    ready(decided(&steps, &mut t3_commit, t3_end));
    Ok(())
}

/// The step is done.
fn ready<T: std::fmt::Debug>(step: Step<T, Error>) -> T {
    match step {
        Step::Ready(answer) => answer,
        other => panic!("not done: {other:?}"),
    }
}

/// The step waits for somebody's lock.
fn waits<T: std::fmt::Debug>(step: &Step<T, Error>) {
    assert!(matches!(step, Step::Blocked(BlockedBy::Lock)), "{step:?}");
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
