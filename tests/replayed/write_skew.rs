//! write skew (G2-item). T1 before T2, because T1 read y = 1, which T2 overwrote with 0; however
//! T2 before T1, because T2 read x = 1, which T1 overwrote with 0: a contradiction. x + y >= 1
//! held before, and does not now. It happened, and the levels in use allow it.
//!
//! Written by `isolith anomalies`: each step asserts what it gave when it was explored.

use std::time::Duration;

use isolith::steps::Steps;
use isolith::{
    BlockedBy, Builder, CommitInfo, CommitMode, CommitSteps, Concurrency, Error, Isolation, Step,
    TransactionOptions,
};

#[test]
fn write_skew() -> Result<(), Box<dyn std::error::Error>> {
    // Nothing happens by itself: every step below is one, and no lock is waited for by time.
    let builder = Builder::in_memory().commit_mode(CommitMode::Stepped).threads(false);
    let db = builder.lock_timeout(Duration::from_secs(100_000)).open()?;
    let steps = Steps::new(&db);
    let keys = steps.keyspace("replay")?;
    // What is there at first.
    let mut first = db.begin()?;
    first.put(&keys, b"x", b"1")?;
    first.put(&keys, b"y", b"1")?;
    let mut commit = first.commit_steps();
    let end = commit.step();
    ready(decided(&steps, &mut commit, end));

    // 1. T1 begins: snapshot, optimistic.
    let mut t1 = db.begin_with(TransactionOptions {
        isolation: Isolation::Snapshot,
        concurrency: Concurrency::Optimistic,
        ..TransactionOptions::default()
    })?;
    let _ = t1.age();

    // 2. T1 reads x and finds 1.
    let found = ready(t1.step(|tx| tx.get(&keys, b"x")));
    assert_eq!(found.as_deref(), Some(&b"1"[..]));

    // 3. T1 reads y and finds 1.
    let found = ready(t1.step(|tx| tx.get(&keys, b"y")));
    assert_eq!(found.as_deref(), Some(&b"1"[..]));

    // 4. T2 begins: snapshot, optimistic.
    let mut t2 = db.begin_with(TransactionOptions {
        isolation: Isolation::Snapshot,
        concurrency: Concurrency::Optimistic,
        ..TransactionOptions::default()
    })?;
    let _ = t2.age();

    // 5. T2 reads x and finds 1.
    let found = ready(t2.step(|tx| tx.get(&keys, b"x")));
    assert_eq!(found.as_deref(), Some(&b"1"[..]));

    // 6. T2 reads y and finds 1.
    let found = ready(t2.step(|tx| tx.get(&keys, b"y")));
    assert_eq!(found.as_deref(), Some(&b"1"[..]));

    // 7. T1 writes x = 0.
    ready(t1.step(|tx| tx.put(&keys, b"x", b"0")));

    // 8. T2 writes y = 0.
    ready(t2.step(|tx| tx.put(&keys, b"y", b"0")));

    // 9. T1 asks for its commit.
    let mut t1_commit = t1.commit_steps();
    let t1_end = t1_commit.step();
    assert!(!matches!(t1_end, Step::Aborted(_)), "{t1_end:?}");

    // 10. The engine decides the oldest commit that was asked for.
    assert_eq!(steps.round(1), 1);

    // 11. T1 commits, at timestamp 2.
    ready(decided(&steps, &mut t1_commit, t1_end));

    // 12. T2 asks for its commit.
    let mut t2_commit = t2.commit_steps();
    let t2_end = t2_commit.step();
    assert!(!matches!(t2_end, Step::Aborted(_)), "{t2_end:?}");

    // 13. The engine decides the oldest commit that was asked for.
    assert_eq!(steps.round(1), 1);

    // 14. T2 commits, at timestamp 3.
    ready(decided(&steps, &mut t2_commit, t2_end));
    Ok(())
}

/// The step is done.
fn ready<T: std::fmt::Debug>(step: Step<T, Error>) -> T {
    match step {
        Step::Ready(answer) => answer,
        other => panic!("not done: {other:?}"),
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
