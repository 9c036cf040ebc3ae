//! Models of the orderings that `docs/concurrency.md` counts on, run by loom over the real code:
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p isolith-txn --release --test loom`
//!
//! Without `--cfg loom` this target is empty. Each model has been seen to fail on the breaks that its
//! comment names.

#![cfg(loom)]

use std::sync::Arc;

use isolith_txn::{Outcome, RequestState, SnapshotRegistry, Watermarks};
use isolith_wal::Lsn;
use loom::sync::atomic::{AtomicBool, Ordering, fence};
use loom::thread;

fn lsn(counter: u64) -> Lsn {
    Lsn::new(1, counter)
}

/// A chain of versions 1..=3 of one key; `gone` marks those that a pruner has removed.
struct Chain {
    gone: [AtomicBool; 4],
}

impl Chain {
    fn new() -> Self {
        Self { gone: std::array::from_fn(|_| AtomicBool::new(false)) }
    }

    /// Removes what the view does not need, of the versions up to `newest`.
    fn prune(&self, registry: &SnapshotRegistry, marks: &Watermarks) {
        let view = registry.prune_view(marks);
        let newest = marks.visible().counter();
        for version in 1..newest {
            let needed = lsn(version) > view.horizon
                || view.needed.iter().any(|&at| {
                    // The newest version at or below `at` is this one.
                    at >= lsn(version) && at < lsn(version + 1)
                });
            if !needed {
                self.gone[version as usize].store(true, Ordering::Release);
            }
        }
    }
}

/// A reader registers at `mark` while commits become visible and acknowledged and a pruner works:
/// the version that the reader sees is never removed.
///
/// Fails without the fence in `SnapshotSlot::hold` or the one in `prune_view`; with no `open`, or with
/// `open` withdrawn before `held` is stored; at S also with `open` = *visible*, and without S in the
/// view or with S loaded before *visible*.
fn registration_against_pruning(mark: fn(&Watermarks) -> Lsn, weak: bool) {
    loom::model(move || {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let chain = Arc::new(Chain::new());
        let writer = {
            let marks = Arc::clone(&marks);
            thread::spawn(move || {
                marks.publish(lsn(2));
                if weak {
                    marks.raise_weak(lsn(2));
                    marks.publish(lsn(3));
                } else {
                    assert_eq!(marks.seal(lsn(1)), lsn(2));
                    marks.publish(lsn(3));
                    marks.advance_durable(lsn(2));
                }
            })
        };
        let pruner = {
            let (marks, registry, chain) =
                (Arc::clone(&marks), Arc::clone(&registry), Arc::clone(&chain));
            thread::spawn(move || chain.prune(&registry, &marks))
        };
        let slot = registry.register(&marks, 0, mark).expect("a slot");
        let read = slot.timestamp();
        pruner.join().unwrap();
        writer.join().unwrap();
        assert!(
            !chain.gone[read.counter() as usize].load(Ordering::Acquire),
            "the version read at {read} was removed"
        );
        drop(slot);
    });
}

#[test]
fn a_snapshot_at_s_keeps_its_version_while_weak_rises() {
    registration_against_pruning(Watermarks::acknowledged, true);
}

/// Fails also without the ends of sealed batches in the view, and with an end that leaves their list
/// before *durable* is stored.
#[test]
fn a_snapshot_at_s_keeps_its_version_while_a_batch_becomes_durable() {
    registration_against_pruning(Watermarks::acknowledged, false);
}

#[test]
fn a_snapshot_at_visible_keeps_its_version() {
    registration_against_pruning(Watermarks::visible, true);
}

/// A slotless read at S after a pruner: either the version that it wants is there, or it can tell
/// that S has moved. Fails without S in the view.
#[test]
fn a_slotless_read_notices_that_its_version_may_be_gone() {
    loom::model(|| {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let chain = Arc::new(Chain::new());
        let writer = {
            let (marks, registry, chain) =
                (Arc::clone(&marks), Arc::clone(&registry), Arc::clone(&chain));
            thread::spawn(move || {
                marks.publish(lsn(2));
                marks.seal(lsn(1));
                chain.prune(&registry, &marks);
                marks.advance_durable(lsn(2));
                chain.prune(&registry, &marks);
            })
        };
        let at = marks.acknowledged();
        let gone = chain.gone[at.counter() as usize].load(Ordering::Acquire);
        if gone {
            assert_ne!(marks.acknowledged(), at, "the version is gone and S has not moved");
        }
        writer.join().unwrap();
    });
}

/// The owner of a request goes to sleep while the leader decides: it always wakes, and sees the LSN.
/// Fails where `finish` does not look at the sleeping bit, and where `sleep` sets it without looking at
/// what was there.
#[test]
fn a_sleeping_owner_is_woken_by_the_decision() {
    loom::model(|| {
        let state = Arc::new(RequestState::new());
        let leader = {
            let state = Arc::clone(&state);
            thread::spawn(move || {
                if state.finish(Outcome::Committed(lsn(7))) {
                    state.wake();
                }
            })
        };
        state.sleep();
        assert_eq!(state.outcome(), Some(Outcome::Committed(lsn(7))));
        leader.join().unwrap();
    });
}

/// The hand-over of the commit window: a committer that queues and finds the window taken is served
/// by the leader that looks at the queue after releasing it. Modelled on `engine/src/commit.rs`.
/// Fails without the fence, and where the leader does not look at the queue again.
#[test]
fn no_request_is_left_behind_when_the_window_is_handed_over() {
    struct Pipeline {
        window: AtomicBool,
        queued: AtomicBool,
        served: AtomicBool,
    }
    impl Pipeline {
        fn lead(&self) {
            loop {
                fence(Ordering::SeqCst);
                if !self.queued.load(Ordering::Relaxed) {
                    return;
                }
                let taken =
                    self.window.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
                if taken.is_err() {
                    return;
                }
                if self.queued.swap(false, Ordering::AcqRel) {
                    self.served.store(true, Ordering::Release);
                }
                self.window.store(false, Ordering::Release);
            }
        }
    }
    loom::model(|| {
        let pipeline = Arc::new(Pipeline {
            window: AtomicBool::new(true),
            queued: AtomicBool::new(false),
            served: AtomicBool::new(false),
        });
        let leader = {
            let pipeline = Arc::clone(&pipeline);
            thread::spawn(move || {
                // Its own round is over.
                pipeline.window.store(false, Ordering::Release);
                pipeline.lead();
            })
        };
        pipeline.queued.store(true, Ordering::Release);
        pipeline.lead();
        leader.join().unwrap();
        assert!(pipeline.served.load(Ordering::Acquire), "nobody served the request");
    });
}
