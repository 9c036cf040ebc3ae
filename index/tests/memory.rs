//! The memory of a memtable over time: the commit window allocates and frees nothing, pruning frees
//! what it says, retired memory does not pile up.
#![cfg(not(loom))]

mod counting;

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use isolith_index::{Direction, KeyRange, Kind, Memtable, NoOperators, PruneView, Value, pin};
use isolith_wal::Lsn;

use counting::{CALLS, settle};

/// The tests take turns: a pin of one would hold back the garbage of another, and a thread frees what
/// another retired.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

#[test]
fn freed_bytes_are_what_pruning_says() {
    let _alone = alone();
    let memtable = Arc::new(Memtable::new(1));
    for stamp in 1..=100 {
        let mut write = memtable.prepare(1);
        write.add(b"key", Kind::Put, Value::new(&[1; 68]), 0);
        write.install(at(stamp));
    }
    let before = memtable.bytes();
    let all: KeyRange<'_> = (Bound::Unbounded, Bound::Unbounded);
    let view = PruneView::new(at(100), [at(50), at(51)]);
    let freed = memtable.prune_range(all, &view, &NoOperators, &pin());
    assert_eq!((freed.versions, freed.bytes), (97, 97 * 100));
    assert_eq!(memtable.bytes(), before - freed.bytes);
    settle(&memtable);
    assert_eq!(memtable.prune_range(all, &view, &NoOperators, &pin()).versions, 0);
}

#[test]
fn the_window_neither_allocates_nor_frees() {
    let _alone = alone();
    let memtable = Arc::new(Memtable::new(1));
    let keys: Vec<String> = (0..500).map(|n| format!("key{n}")).collect();
    let mut watched = memtable.watch();
    for key in &keys {
        watched.add(key.as_bytes());
    }
    for stamp in 1..=300 {
        let mut write = memtable.prepare(8);
        for n in 0..8 {
            let key = &keys[(stamp as usize * 7 + n * 13) % keys.len()];
            write.add(key.as_bytes(), Kind::Put, Value::new(&[0; 100]), 0);
        }
        write.add_range_delete((Bound::Included(b"x"), Bound::Excluded(b"y")));
        let _pinned = pin();
        let calls = CALLS.get();
        let _ = write.newest_above(at(stamp - 1));
        let _ = watched.changed_since(at(stamp));
        write.install(at(stamp));
        assert_eq!(CALLS.get(), calls, "commit {stamp}");
        write.prune(&PruneView::new(at(stamp), []), &NoOperators, &pin());
    }
}

#[test]
fn retired_memory_does_not_pile_up() {
    let _alone = alone();
    let overwrite = |value: &[u8], times: u64| {
        let memtable = Arc::new(Memtable::new(1));
        let mut most = 0;
        for stamp in 1..=times {
            let mut write = memtable.prepare(1);
            write.add(b"hot", Kind::Put, Value::new(value), 0);
            write.install(at(stamp));
            write.prune(&PruneView::new(at(stamp), []), &NoOperators, &pin());
            most = most.max(memtable.retired_bytes());
        }
        most
    };
    let small = overwrite(&[0; 100], 100_000);
    assert!(small <= 1 << 20, "{small} bytes of small versions were retired at once");
    let large = overwrite(&vec![0; 1 << 20], 500);
    assert!(large <= 16 << 20, "{large} bytes of large versions were retired at once");
}

#[test]
fn a_pinned_reader_holds_back_what_it_may_see_and_no_more() {
    let _alone = alone();
    let memtable = Arc::new(Memtable::new(1));
    let put = |stamp: u64| {
        let mut write = memtable.prepare(1);
        write.add(b"key", Kind::Put, Value::new(&stamp.to_le_bytes()), 0);
        write.install(at(stamp));
        write.prune(&PruneView::new(at(stamp), []), &NoOperators, &pin());
    };
    put(1);
    let guard = pin();
    let version = memtable.lookup(b"key", at(1), &guard).put().expect("a value");
    for stamp in 2..1000 {
        put(stamp);
    }
    // Unlinked and retired long ago, and still readable.
    assert_eq!(version.value(), 1u64.to_le_bytes());
    assert!(memtable.retired_bytes() > 0);
    drop(guard);
    settle(&memtable);
    let mut seen = 0;
    memtable.scan((Bound::Unbounded, Bound::Unbounded), Direction::Forward, &pin(), |node| {
        seen += usize::from(node.lookup(at(998)).put().is_none());
        ControlFlow::Continue(())
    });
    assert_eq!(seen, 1, "the version below the newest was pruned");
}

/// Two pruners and a writer on one key: a pruner that looked at the chain before it took the bit must
/// not go on from a version that the other has unlinked since.
#[test]
fn racing_pruners_retire_each_version_once() {
    const VERSIONS: u64 = 40_000;
    const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);
    let _alone = alone();
    let memtable = Arc::new(Memtable::new(1));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while memtable.newest(b"k", &pin()) < at(VERSIONS) {
                    memtable.prune_range(ALL, &PruneView::newest_only(), &NoOperators, &pin());
                }
            });
        }
        for stamp in 1..=VERSIONS {
            let mut write = memtable.prepare(1);
            write.add(b"k", Kind::Put, Value::new(&stamp.to_be_bytes()), 0);
            write.install(at(stamp));
        }
    });
    memtable.prune_range(ALL, &PruneView::newest_only(), &NoOperators, &pin());
    settle(&memtable);
    let guard = pin();
    let newest = memtable.lookup(b"k", at(VERSIONS), &guard).put().expect("a value");
    assert_eq!(newest.value(), VERSIONS.to_be_bytes());
}
