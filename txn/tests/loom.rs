//! Models of the orderings that `docs/concurrency.md` counts on, run by loom over the real code:
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p isolith-txn --release --test loom`
//!
//! Without `--cfg loom` this target is empty. Each model has been seen to fail on the breaks that its
//! comment names.

#![cfg(loom)]

use std::sync::Arc;

use isolith_txn::{Outcome, Reader, RequestState, SnapshotRegistry, SnapshotSlot, Watermarks};
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

/// Marks with commits 1 to 3 visible and acknowledged, of a database that has recovered to 1.
fn three_commits() -> Arc<Watermarks> {
    let marks = Watermarks::new(lsn(1));
    marks.publish(lsn(2));
    marks.publish(lsn(3));
    marks.raise_weak(lsn(3));
    Arc::new(marks)
}

impl Chain {
    /// Prunes on a thread of its own.
    fn pruner(
        self: &Arc<Self>,
        registry: &Arc<SnapshotRegistry>,
        marks: &Arc<Watermarks>,
    ) -> thread::JoinHandle<()> {
        let (chain, registry, marks) = (Arc::clone(self), Arc::clone(registry), Arc::clone(marks));
        thread::spawn(move || chain.prune(&registry, &marks))
    }

    /// What a read at `at` finds is gone.
    fn has_lost(&self, at: Lsn) -> bool {
        self.gone[at.counter() as usize].load(Ordering::Acquire)
    }
}

fn snapshot(registry: &Arc<SnapshotRegistry>, marks: &Watermarks) -> SnapshotSlot {
    let slot = registry.register_reader(Reader::Snapshot, marks, 0, Watermarks::acknowledged);
    slot.expect("a slot")
}

/// Somebody registers at a timestamp of the past while the floor rises past it and a pruner works: it
/// is refused, or what it reads is never removed.
///
/// Fails without the fence in `SnapshotSlot::hold_at` or the one in `prune_view`; where the floor is
/// loaded before `open` is stored; and where the pruner loads the floor after the slots.
#[test]
fn what_is_registered_above_the_floor_is_kept() {
    loom::model(|| {
        let marks = three_commits();
        let registry = Arc::new(SnapshotRegistry::with_floor(lsn(1)));
        let chain = Arc::new(Chain::new());
        // Who raises the floor prunes, too: loom does not try a reader of the floor on one thread
        // before its writer on another and after a third.
        let upkeep = {
            let (registry, marks, chain) =
                (Arc::clone(&registry), Arc::clone(&marks), Arc::clone(&chain));
            thread::spawn(move || {
                registry.raise_floor(lsn(3));
                chain.prune(&registry, &marks);
            })
        };
        let pruner = chain.pruner(&registry, &marks);
        let slot = registry.register_at(lsn(1), &marks, 0).ok();
        pruner.join().unwrap();
        upkeep.join().unwrap();
        assert!(slot.is_none() || !chain.has_lost(lsn(1)), "read at {} and gone", lsn(1));
    });
}

/// A live snapshot's slot is shared while the snapshot is dropped and a pruner works: the share is
/// refused, or what it reads is never removed.
///
/// Fails where the slot is copied and not shared; where a slot that its last owner is leaving can be
/// joined; and where the first owner to leave empties the slot.
#[test]
fn a_shared_slot_keeps_what_its_source_kept() {
    loom::model(|| {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let chain = Arc::new(Chain::new());
        let source = snapshot(&registry, &marks);
        marks.publish(lsn(2));
        marks.raise_weak(lsn(2));
        let dropper = thread::spawn(move || drop(source));
        let pruner = chain.pruner(&registry, &marks);
        let shared = registry.register_at(lsn(1), &marks, 0).ok();
        pruner.join().unwrap();
        dropper.join().unwrap();
        assert!(shared.is_none() || !chain.has_lost(lsn(1)), "read at {} and gone", lsn(1));
        // Whoever is left, the slots are free in the end.
        drop(shared);
        assert_eq!(registry.oldest().1, 0);
    });
}

/// A slot is shared while its source is dropped and the slot is taken anew: nobody is in the slot of
/// another timestamp. Fails where `held` is not looked at after the count was raised.
#[test]
fn a_share_never_ends_up_at_another_timestamp() {
    loom::model(|| {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let source = snapshot(&registry, &marks);
        marks.publish(lsn(2));
        marks.raise_weak(lsn(2));
        let next = {
            let (registry, marks) = (Arc::clone(&registry), Arc::clone(&marks));
            thread::spawn(move || {
                drop(source);
                snapshot(&registry, &marks)
            })
        };
        let shared = registry.register_at(lsn(1), &marks, 0).ok();
        let next = next.join().unwrap();
        let needed = registry.prune_view(&marks).needed;
        assert!(shared.is_none() || needed.contains(&lsn(1)), "{needed:?}");
        drop(shared);
        assert_eq!(registry.prune_view(&marks).needed, [lsn(2)]);
        assert_eq!((next.timestamp(), registry.oldest().1), (lsn(2), 1));
    });
}

/// A reader's slot expires and a pruner works: whoever finds that a version is gone finds the mark,
/// too. Fails where the mark is looked at before the read, and where the reader reads by Relaxed. That
/// `expire` marks by Release is not needed for it: the mark cannot be unseen (coherence).
#[test]
fn a_reader_of_what_was_pruned_finds_that_it_has_expired() {
    loom::model(|| {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let chain = Arc::new(Chain::new());
        let slot = snapshot(&registry, &marks);
        marks.publish(lsn(2));
        marks.raise_weak(lsn(2));
        let pruner = chain.pruner(&registry, &marks);
        let reader = {
            let chain = Arc::clone(&chain);
            thread::spawn(move || {
                let lost = chain.has_lost(lsn(1));
                assert!(!lost || slot.check().is_err(), "the version is gone, and nothing says so");
            })
        };
        registry.expire(1);
        chain.prune(&registry, &marks);
        pruner.join().unwrap();
        reader.join().unwrap();
    });
}

/// A transaction commits while its slot expires and a pruner works: it is refused, or its evidence
/// stays. Fails where `keep` looks and then stores.
#[test]
fn a_commit_that_was_kept_finds_its_evidence() {
    loom::model(|| {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let chain = Arc::new(Chain::new());
        let slot = registry.register(&marks, 0, Watermarks::visible).expect("a slot");
        marks.publish(lsn(2));
        marks.raise_weak(lsn(2));
        let upkeep = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || registry.expire(1))
        };
        let pruner = chain.pruner(&registry, &marks);
        let kept = slot.keep_for_commit().is_ok();
        pruner.join().unwrap();
        let expired = upkeep.join().unwrap();
        assert_eq!(kept, expired == 0);
        assert!(!kept || !chain.has_lost(lsn(1)), "the commit's evidence is gone");
    });
}

/// A slot expires, is dropped and taken anew while a pruner works: that the last owner had expired is
/// no matter to the next one. Fails where `claim` leaves the mark.
#[test]
fn a_slot_taken_anew_is_not_expired() {
    loom::model(|| {
        let marks = Arc::new(Watermarks::new(lsn(1)));
        let registry = Arc::new(SnapshotRegistry::new());
        let chain = Arc::new(Chain::new());
        let slot = snapshot(&registry, &marks);
        registry.expire(1);
        let writer = {
            let marks = Arc::clone(&marks);
            thread::spawn(move || {
                marks.publish(lsn(2));
                marks.raise_weak(lsn(2));
            })
        };
        let pruner = chain.pruner(&registry, &marks);
        drop(slot);
        let next = snapshot(&registry, &marks);
        pruner.join().unwrap();
        writer.join().unwrap();
        assert!(next.check().is_ok() && !chain.has_lost(next.timestamp()));
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
