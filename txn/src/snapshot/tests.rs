//! The registry by itself: what a view needs, what is shared, what expires.

use super::*;

fn lsn(counter: u64) -> Lsn {
    Lsn::new(1, counter)
}

fn oldest(registry: &SnapshotRegistry) -> (Option<Lsn>, usize) {
    let (oldest, count) = registry.oldest();
    (oldest.map(|reader| reader.timestamp), count)
}

/// Marks with everything up to `last` acknowledged.
fn marks(last: u64) -> Watermarks {
    let marks = Watermarks::new(Lsn::ZERO);
    marks.publish(lsn(last));
    marks.raise_weak(lsn(last));
    marks
}

fn snapshot(registry: &Arc<SnapshotRegistry>, marks: &Watermarks) -> SnapshotSlot {
    registry.register_reader(Reader::Snapshot, marks, 0, Watermarks::acknowledged).unwrap()
}

#[test]
fn prune_view_holds_s_the_ends_and_every_live_snapshot() {
    let marks = Watermarks::new(Lsn::ZERO);
    let registry = Arc::new(SnapshotRegistry::new());
    marks.publish(lsn(1));
    let old = registry.register(&marks, 0, Watermarks::visible).unwrap();
    marks.publish(lsn(2));
    marks.seal(Lsn::ZERO);
    marks.publish(lsn(5));
    let view = registry.prune_view(&marks);
    assert_eq!(view.horizon, lsn(5));
    assert_eq!(view.needed, [Lsn::ZERO, lsn(1), lsn(2), lsn(5)]);
    drop(old);
    assert_eq!(registry.prune_view(&marks).needed, [Lsn::ZERO, lsn(2), lsn(5)]);
}

#[test]
fn a_snapshot_holds_its_old_timestamp_while_it_advances() {
    let marks = Watermarks::new(Lsn::ZERO);
    let registry = Arc::new(SnapshotRegistry::new());
    marks.publish(lsn(1));
    let mut slot = registry.register(&marks, 7, Watermarks::visible).unwrap();
    marks.publish(lsn(3));
    slot.advance(&marks, |marks| {
        let view = registry.prune_view(marks);
        assert_eq!(view.horizon, lsn(1));
        assert!(view.needed.contains(&lsn(1)));
        marks.visible()
    });
    assert_eq!(slot.timestamp(), lsn(3));
    assert_eq!(oldest(&registry), (Some(lsn(3)), 1));
}

#[test]
fn the_registry_grows_and_reuses_its_slots() {
    let marks = Watermarks::new(Lsn::ZERO);
    let registry = Arc::new(SnapshotRegistry::new());
    let many: Vec<_> = (0..1000)
        .map(|hint| registry.register(&marks, hint, Watermarks::acknowledged).unwrap())
        .collect();
    assert_eq!(registry.oldest().1, 1000);
    drop(many);
    assert_eq!(oldest(&registry), (None, 0));
    let one = registry.register(&marks, 3, Watermarks::acknowledged).unwrap();
    assert_eq!((one.block, one.index), (0, 3));
}

#[test]
fn everything_above_the_floor_is_kept_and_can_be_registered() {
    let registry = Arc::new(SnapshotRegistry::with_floor(lsn(2)));
    let marks = marks(9);
    let view = registry.prune_view(&marks);
    assert_eq!((view.horizon, view.needed), (lsn(2), vec![lsn(2), lsn(9)]));
    assert_eq!(registry.register_at(lsn(1), &marks, 0).err(), Some(Unreadable::TooOld));
    assert_eq!(registry.register_at(lsn(10), &marks, 0).err(), Some(Unreadable::Ahead));
    assert_eq!(oldest(&registry), (None, 0), "a refused reader leaves nothing");
    let past = registry.register_at(lsn(2), &marks, 0).unwrap();
    registry.raise_floor(lsn(5));
    registry.raise_floor(lsn(4));
    assert_eq!(registry.floor(), Some(lsn(5)));
    assert_eq!(registry.prune_view(&marks).needed, [lsn(2), lsn(5), lsn(9)]);
    drop(past);
    assert_eq!(registry.prune_view(&marks).needed, [lsn(5), lsn(9)]);
    assert_eq!(registry.register_at(lsn(2), &marks, 0).err(), Some(Unreadable::TooOld));
}

#[test]
fn without_a_floor_only_s_and_live_snapshots_can_be_registered() {
    let registry = Arc::new(SnapshotRegistry::new());
    let marks = marks(3);
    let source = snapshot(&registry, &marks);
    marks.publish(lsn(4));
    assert_eq!(registry.register_at(lsn(4), &marks, 0).err(), Some(Unreadable::Ahead));
    marks.raise_weak(lsn(4));
    assert_eq!(registry.register_at(lsn(4), &marks, 0).unwrap().timestamp(), lsn(4));
    assert_eq!(registry.register_at(lsn(2), &marks, 0).err(), Some(Unreadable::TooOld));
    assert_eq!(registry.register_at(lsn(3), &marks, 0).unwrap().timestamp(), lsn(3));
    drop(source);
    assert_eq!(registry.register_at(lsn(3), &marks, 0).err(), Some(Unreadable::TooOld));
}

#[test]
fn a_shared_slot_holds_its_timestamp_until_the_last_owner_leaves() {
    let registry = Arc::new(SnapshotRegistry::new());
    let marks = marks(1);
    let source = snapshot(&registry, &marks);
    marks.publish(lsn(5));
    marks.raise_weak(lsn(5));
    let first = registry.register_at(lsn(1), &marks, 0).unwrap();
    let second = registry.register_at(lsn(1), &marks, 0).unwrap();
    assert_eq!((first.block, first.index), (source.block, source.index), "one slot");
    for owner in [source, second] {
        drop(owner);
        assert_eq!(oldest(&registry), (Some(lsn(1)), 1));
        assert_eq!(registry.prune_view(&marks).needed, [lsn(1), lsn(5)]);
    }
    drop(first);
    assert_eq!(oldest(&registry), (None, 0));
    assert_eq!(snapshot(&registry, &marks).index, 0, "the slot is free again");
}

#[test]
fn a_transaction_shares_its_slot_with_nobody() {
    let registry = Arc::new(SnapshotRegistry::new());
    let marks = marks(1);
    let _transaction = registry.register(&marks, 0, Watermarks::visible).unwrap();
    marks.publish(lsn(2));
    marks.raise_weak(lsn(2));
    assert_eq!(registry.register_at(lsn(1), &marks, 0).err(), Some(Unreadable::TooOld));
}

#[test]
fn an_expired_reader_is_told_and_pruning_ignores_it() {
    let registry = Arc::new(SnapshotRegistry::new());
    let marks = marks(1);
    registry.tick(100);
    let old = snapshot(&registry, &marks);
    registry.tick(50);
    registry.tick(200);
    marks.publish(lsn(2));
    marks.raise_weak(lsn(2));
    let young = snapshot(&registry, &marks);
    assert_eq!(registry.oldest().0.map(|oldest| oldest.since), Some(100));
    assert_eq!(registry.expire(100), 0);
    assert_eq!(registry.expire(101), 1);
    assert_eq!(registry.expire(101), 0, "once");
    assert_eq!((old.check(), young.check()), (Err(Expired), Ok(())));
    assert_eq!(registry.prune_view(&marks).needed, [lsn(2)]);
    assert_eq!(oldest(&registry), (Some(lsn(2)), 1));
    assert_eq!(registry.register_at(lsn(1), &marks, 0).err(), Some(Unreadable::TooOld));
    drop(old);
    let anew = registry.register(&marks, 0, Watermarks::visible).unwrap();
    assert_eq!((anew.index, anew.check()), (0, Ok(())), "the next owner has not expired");
}

#[test]
fn a_commit_and_expiry_exclude_each_other() {
    let registry = Arc::new(SnapshotRegistry::new());
    let marks = marks(1);
    let begin = || registry.register(&marks, 0, Watermarks::visible).unwrap();
    let (kept, expired) = (begin(), begin());
    assert_eq!(kept.keep_for_commit(), Ok(()));
    assert_eq!(registry.expire(1), 1);
    assert_eq!((kept.check(), expired.check()), (Ok(()), Err(Expired)));
    assert_eq!(expired.keep_for_commit(), Err(Expired));
    assert_eq!(kept.keep_for_commit(), Ok(()));
}

#[test]
fn a_transaction_that_advances_is_young_again() {
    let registry = Arc::new(SnapshotRegistry::new());
    let marks = marks(1);
    let mut slot = registry.register(&marks, 0, Watermarks::visible).unwrap();
    registry.tick(1000);
    slot.advance(&marks, Watermarks::visible);
    assert_eq!(registry.expire(1000), 0);
    assert_eq!(registry.expire(1001), 1);
    slot.advance(&marks, Watermarks::visible);
    assert_eq!(slot.check(), Err(Expired), "what has expired stays so");
}
