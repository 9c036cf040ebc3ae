//! Models of a chain's head between the commit window's leader, a pruner that puts another version in
//! the newest one's place (a tombstone for what a range delete hides; a put for what merges come to),
//! and a reader: every interleaving, under loom.
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

use isolith_index::{
    Found, Freed, KeyRange, Kind, Memtable, MergeError, MergeOperators, PruneView, Value, collect,
    pin,
};
use isolith_wal::Lsn;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

/// Appends.
struct Digits;

impl MergeOperators for Digits {
    fn merge(
        &self,
        _: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        Ok([existing.unwrap_or_default(), operand].concat())
    }

    fn combine(&self, _: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        Ok([earlier, later].concat())
    }
}

fn merge(memtable: &Arc<Memtable>, stamp: u64) {
    let mut write = memtable.prepare(1);
    let digit = [b'0' + stamp as u8];
    write.add(b"k", Kind::Merge { operator: 0 }, Value::new(&digit), 0);
    write.install(at(stamp));
}

/// The digits that a reader at `read` sees, and whether it is told that it may have missed some.
fn digits(memtable: &Memtable, read: u64) -> (String, bool) {
    digits_with_pause(memtable, read, || {})
}

/// The same, with something between finding the newest version and walking on from it.
fn digits_with_pause(memtable: &Memtable, read: u64, pause: impl Fn()) -> (String, bool) {
    let guard = pin();
    let lookup = memtable.lookup(b"k", at(read), &guard);
    pause();
    let value = match lookup.found {
        Found::Absent => Vec::new(),
        Found::Put(version) => version.value().to_vec(),
        Found::Merged(merged) => merged.fold(&Digits).expect("it never fails").value,
        Found::Stored(_) | Found::Lent(_) | Found::Run(_) => {
            unreachable!("a memtable has no file")
        }
    };
    (String::from_utf8(value).expect("digits"), lookup.skipped_newer)
}

fn put(memtable: &Arc<Memtable>, stamp: u64) {
    let mut write = memtable.prepare(1);
    write.add(b"k", Kind::Put, Value::new(&stamp.to_le_bytes()), 0);
    write.install(at(stamp));
}

fn prune(memtable: &Memtable, horizon: u64) -> Freed {
    memtable.prune_range(ALL, &PruneView::new(at(horizon), []), &Digits, &pin())
}

/// The stamp of what a reader at `read` sees, which is in the value, too.
fn seen(memtable: &Memtable, read: u64) -> Option<u64> {
    let guard = pin();
    let version = memtable.lookup(b"k", at(read), &guard).put()?;
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
        if let Some(version) = lookup.put() {
            assert_eq!(version.value(), 1u64.to_le_bytes());
        }
        assert_eq!(seen(memtable, 2), None);
        assert_eq!(memtable.newest(b"k", &guard), at(2));
    });
}

/// A memtable whose key has three merges; and a thread that folds what is at or below 3.
fn merged_and_pruned(body: impl Fn(&Arc<Memtable>) + Send + Sync + 'static) {
    loom::model(move || {
        let memtable = Arc::new(Memtable::new(1));
        for stamp in 1..=3 {
            merge(&memtable, stamp);
        }
        let pruner = {
            let memtable = Arc::clone(&memtable);
            thread::spawn(move || prune(&memtable, 3).versions)
        };
        body(&memtable);
        assert_eq!(pruner.join().expect("no panic"), 3, "all but what they came to");
        drop(memtable);
        collect();
    });
}

#[test]
fn a_merge_beside_the_folding_of_those_under_it_loses_nothing() {
    merged_and_pruned(|memtable| {
        merge(memtable, 4);
        assert_eq!(digits(memtable, 4), ("1234".into(), false));
        assert_eq!(memtable.newest(b"k", &pin()), at(4));
    });
}

#[test]
fn a_reader_beside_the_folding_of_merges_is_right_or_is_told() {
    merged_and_pruned(|memtable| {
        assert_eq!(digits(memtable, 3), ("123".into(), false));
        let (seen, told) = digits(memtable, 2);
        assert!(told && (seen == "12" || seen.is_empty()), "{seen}");
    });
}

/// A reader from before a range delete, which has found a merge, walks down from it while the pruner
/// lets go of what the range delete hides.
#[test]
fn what_a_hidden_merge_builds_on_does_not_go_from_under_a_reader() {
    loom::model(|| {
        let memtable = Arc::new(Memtable::new(1));
        merge(&memtable, 1);
        merge(&memtable, 2);
        // loom tries what is to be tried around two accesses of one word; of those to a link it tries
        // few, since the pruner loads a link before it stores there.
        let turn = Arc::new(AtomicBool::new(false));
        let pruner = {
            let (memtable, turn) = (Arc::clone(&memtable), Arc::clone(&turn));
            thread::spawn(move || {
                turn.store(true, Ordering::Release);
                let mut delete = memtable.prepare(0);
                delete.add_range_delete(ALL);
                delete.install(at(3));
                drop(delete);
                prune(&memtable, 3);
                turn.store(false, Ordering::Release);
            })
        };
        let (seen, told) = digits_with_pause(&memtable, 2, || {
            turn.load(Ordering::Acquire);
        });
        assert!(seen == "12" || told, "{seen}");
        pruner.join().expect("no panic");
        drop(memtable);
        collect();
    });
}
