//! Models of a chain's head between the commit window's leader, a pruner that puts a tombstone in the
//! place of what a range delete hides, and a reader: every interleaving, under loom.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 CARGO_TARGET_DIR=target/loom \
//!     cargo test --release -p isolith-index --test loom_prune
//! ```
//!
//! When memory may be freed is not modelled here (see `sync`).
#![cfg(loom)]

use std::ops::Bound;
use std::sync::Arc;

use isolith_index::{Freed, KeyRange, Kind, Memtable, PruneView, Value, collect, pin};
use isolith_wal::Lsn;
use loom::thread;

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

fn put(memtable: &Arc<Memtable>, stamp: u64) {
    let mut write = memtable.prepare(1);
    write.add(b"k", Kind::Put, Value::new(&stamp.to_le_bytes()), 0);
    write.install(at(stamp));
}

fn prune(memtable: &Memtable, horizon: u64) -> Freed {
    memtable.prune_range(ALL, &PruneView::new(at(horizon), []), &pin())
}

/// The stamp of what a reader at `read` sees, which is in the value, too.
fn seen(memtable: &Memtable, read: u64) -> Option<u64> {
    let guard = pin();
    let version = memtable.lookup(b"k", at(read), &guard).version?;
    let stamp = version.stamp().counter();
    assert_eq!(version.value(), stamp.to_le_bytes());
    Some(stamp)
}

/// A memtable whose key has a value from 1, hidden since 2; and a thread that prunes it.
fn hidden_and_pruned(body: impl Fn(&Arc<Memtable>) + Send + Sync + 'static) {
    loom::model(move || {
        let memtable = Arc::new(Memtable::new(1));
        put(&memtable, 1);
        let mut delete = memtable.prepare(0);
        delete.add_range_delete(ALL);
        delete.install(at(2));
        drop(delete);
        let pruner = {
            let memtable = Arc::clone(&memtable);
            thread::spawn(move || prune(&memtable, 2).versions)
        };
        body(&memtable);
        let pruned = pruner.join().expect("no panic") + prune(&memtable, 3).versions;
        assert!((1..=2).contains(&pruned), "the value, and perhaps its tombstone: {pruned}");
        drop(memtable);
        collect();
    });
}

#[test]
fn a_writer_beside_the_replacing_of_the_newest_version_loses_nothing() {
    hidden_and_pruned(|memtable| {
        put(memtable, 3);
        assert_eq!((seen(memtable, 2), seen(memtable, 3)), (None, Some(3)));
        assert_eq!(memtable.newest(b"k", &pin()), at(3));
    });
}

#[test]
fn a_reader_from_before_the_range_delete_is_right_or_is_told() {
    hidden_and_pruned(|memtable| {
        let guard = pin();
        let lookup = memtable.lookup(b"k", at(1), &guard);
        assert!(lookup.skipped_newer && lookup.observed == at(1));
        if let Some(version) = lookup.version {
            assert_eq!(version.value(), 1u64.to_le_bytes());
        }
        assert_eq!(seen(memtable, 2), None);
        assert_eq!(memtable.newest(b"k", &guard), at(2));
    });
}
