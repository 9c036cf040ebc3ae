//! The memtable: one keyspace's keys in memory, with all their versions.
//!
//! It joins the ordered map ([`crate::skiplist`]), the side-car for points ([`crate::sidecar`]), the
//! range deletes and the accounting, and is the crate's face. Reading:
//!
//! ```text
//!   lookup(key, read):  side-car ─► node ─► newest ─► … ─► the first version with stamp <= read
//!   scan(range):        map ─► leaf ─► its nodes in order, each as above
//! ```
//!
//! Writing has two halves, apart in time. [`Memtable::prepare`] and [`Prepared::add`] run outside the
//! commit window, on many threads at once: they find or insert the nodes and allocate the versions.
//! [`Prepared::install`] runs inside it, by one leader at a time: it stamps and links, and neither
//! allocates nor frees.
//!
//! 1. A key has at most one node, and the node stays while the memtable lives.
//! 2. When `add` has returned, every later lookup of the key finds the node. So when `install` has
//!    returned, every reader that is told so (the watermark's Release and Acquire) finds the version:
//!    a miss in the side-car is an answer.
//! 3. A read writes nothing that threads share.
//! 4. A version that [`PruneView`] keeps is never freed under a reader; any other lives until the pins
//!    of its unlinking's time have ended.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::accounting::Accounting;
use crate::hash::Hasher;
use crate::merge::{LentValue, MergeOperators, MergeRun, Merged, StoredValue};
use crate::node::NodePtr;
use crate::prune::{Freed, PruneView, Pruning};
use crate::range_deletes::RangeDeletes;
use crate::sidecar::Sidecar;
use crate::skiplist::Skiplist;
use crate::sync::{Guard, pin};
use crate::version::VersionRef;
use crate::{Direction, KeyRange, visible};

pub use crate::prepared::{Prepared, Watched};

/// The keys and versions of one keyspace, in memory. See the module's head for the rules.
pub struct Memtable {
    pub(crate) map: Skiplist,
    pub(crate) sidecar: Sidecar,
    pub(crate) range_deletes: RangeDeletes,
    pub(crate) hasher: Hasher,
    pub(crate) accounting: Arc<Accounting>,
    pub(crate) beneath: Beneath,
}

/// What older layers of its keyspace lie under a memtable. Pruning has to know, since what a merge builds
/// on may be down there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Beneath {
    /// None: a key without a base in its chain has none.
    #[default]
    Nothing,
    /// Some, without values that expire.
    Values,
    /// Some, and values there may expire.
    Expiring,
}

/// What a reader sees of a key.
#[derive(Clone, Debug)]
pub struct Lookup<'g> {
    /// The value, if the key has one at the read timestamp.
    pub found: Found<'g>,
    /// The largest stamp at or below the read timestamp that was seen on the key, tombstones and
    /// covering range deletes included; [`Lsn::ZERO`] if none.
    pub observed: Lsn,
    /// Whether something above the read timestamp was passed on the way.
    pub skipped_newer: bool,
}

/// The value that a reader sees. Whether it has expired is for the caller to judge.
#[derive(Clone, Debug)]
pub enum Found<'g> {
    /// None: the key was never written, its newest visible version is a tombstone, or a range delete
    /// hides that version.
    Absent,
    /// A value as it was put.
    Put(VersionRef<'g>),
    /// A value that is yet to be made, by merging.
    Merged(Merged<'g>),
    /// A value as it was put, out of a file.
    Stored(Box<StoredValue>),
    /// The same, lent for as long as a scan's visitor looks at it.
    Lent(&'g LentValue<'g>),
    /// A value that is yet to be made, by merging, where not all that it is made of is in one memtable.
    Run(Box<MergeRun>),
}

impl<'g> Lookup<'g> {
    /// What is seen of a key without a node and without a range delete.
    pub(crate) const NOTHING: Lookup<'static> =
        Lookup { found: Found::Absent, observed: Lsn::ZERO, skipped_newer: false };

    /// The put in a memtable that the reader sees; None also where it sees a merged value, or one out of
    /// a file.
    #[inline]
    pub fn put(&self) -> Option<VersionRef<'g>> {
        match self.found {
            Found::Put(version) => Some(version),
            Found::Absent
            | Found::Merged(_)
            | Found::Stored(_)
            | Found::Lent(_)
            | Found::Run(_) => None,
        }
    }
}

/// Figures of a memtable, for people and for budgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemtableStats {
    /// Keys ever written (or prepared), deleted ones included.
    pub nodes: usize,
    /// See [`Memtable::bytes`].
    pub bytes: usize,
    /// See [`Memtable::retired_bytes`].
    pub retired_bytes: usize,
    /// Levels of the ordered map.
    pub levels: usize,
    /// Slots of the hash table.
    pub slots: usize,
    /// Range deletes that are looked through one by one.
    pub range_deletes_recent: usize,
    /// Stretches of the folded range deletes.
    pub range_delete_stretches: usize,
}

impl Memtable {
    /// An empty memtable. `seed` keys the hash of the side-car: clients choose keys, so let it be one
    /// that they cannot guess.
    pub fn new(seed: u64) -> Memtable {
        Memtable::above(Beneath::Nothing, seed)
    }

    /// An empty memtable over older layers.
    pub fn above(beneath: Beneath, seed: u64) -> Memtable {
        let accounting = Accounting::new();
        // Both are held by an `Arc`, which keeps two counts in front.
        let counts = 2 * size_of::<usize>();
        accounting.add(size_of::<Memtable>() + size_of::<Accounting>() + 2 * counts);
        Memtable {
            map: Skiplist::new(Arc::clone(&accounting)),
            sidecar: Sidecar::new(Arc::clone(&accounting)),
            range_deletes: RangeDeletes::new(Arc::clone(&accounting)),
            hasher: Hasher::new(seed),
            accounting,
            beneath,
        }
    }

    /// Says what lies beneath, before anybody else has it.
    pub fn lie_above(&mut self, beneath: Beneath) {
        self.beneath = beneath;
    }

    /// What `key` is at `read`.
    #[inline]
    pub fn lookup<'g>(&'g self, key: &[u8], read: Lsn, guard: &'g Guard) -> Lookup<'g> {
        match self.sidecar.find(self.hasher.hash(key), key, guard) {
            Some(node) => visible::lookup(self, node, read, guard),
            None => visible::nothing(self, key, read, guard),
        }
    }

    /// The largest stamp on `key`, covering range deletes included; [`Lsn::ZERO`] if none.
    pub fn newest(&self, key: &[u8], guard: &Guard) -> Lsn {
        let node = self.sidecar.find(self.hasher.hash(key), key, guard);
        let newest = node.map_or(Lsn::ZERO, |node| visible::newest_version(node, guard));
        newest.max(self.range_deletes.cover(key, Lsn::MAX, guard).stamp)
    }

    /// Something newer than `above` within the range, if there is: the stamp of the first key in
    /// order that has one, or that of a range delete which overlaps the range. For checks of scanned
    /// intervals outside the commit window; linear in the keys of the range.
    pub fn newer_in(&self, range: KeyRange<'_>, above: Lsn, guard: &Guard) -> Option<Lsn> {
        let newest = self.range_deletes.newest_overlapping(range, guard);
        if newest > above {
            return Some(newest);
        }
        let mut found = None;
        self.map.scan(range, Direction::Forward, guard, |node| {
            let newest = visible::newest_version(node, guard);
            if newest > above {
                found = Some(newest);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
    }

    /// Visits the nodes of `range` in order, or in reverse order, until `visit` breaks. Keys without
    /// a visible value are visited too.
    ///
    /// Every key whose [`Prepared::add`] happened before this call is visited, exactly once; one that
    /// is added meanwhile may be.
    pub fn scan<'g>(
        &'g self,
        range: KeyRange<'_>,
        direction: Direction,
        guard: &'g Guard,
        mut visit: impl FnMut(NodeRef<'g>) -> ControlFlow<()>,
    ) {
        self.map
            .scan(range, direction, guard, |node| visit(NodeRef { node, memtable: self, guard }));
    }

    /// A write of up to `capacity` keys that is to be added to, then installed.
    pub fn prepare(self: &Arc<Self>, capacity: usize) -> Prepared {
        Prepared::new(Arc::clone(self), capacity)
    }

    /// A set of point reads that is to be checked.
    pub fn watch(self: &Arc<Self>) -> Watched {
        Watched::new(Arc::clone(self))
    }

    /// Prunes the chains of a whole range and folds the range deletes: for keys that no writer comes
    /// by again. What a range delete hides from everybody gives its memory back here, and only here.
    /// Linear in the keys of the range; pins per call, so go by stretches.
    pub fn prune_range(
        &self,
        range: KeyRange<'_>,
        view: &PruneView,
        operators: &dyn MergeOperators,
        guard: &Guard,
    ) -> Freed {
        let mut freed = self.range_deletes.fold(view, guard);
        let hiding = !self.range_deletes.is_empty(guard);
        let pruning = Pruning { memtable: self, view, operators, hiding, guard };
        self.map.scan(range, Direction::Forward, guard, |node| {
            freed.add(pruning.prune(node));
            ControlFlow::Continue(())
        });
        freed
    }

    /// Bytes of memory that the memtable holds: keys, versions, pages, tables and range deletes, what
    /// is prepared included, by the sizes that were asked of the allocator. Retired memory is out.
    pub fn bytes(&self) -> usize {
        self.accounting.bytes()
    }

    /// Bytes that were unlinked, and are not freed yet since a pinned thread may be looking at them.
    pub fn retired_bytes(&self) -> usize {
        self.accounting.retired_bytes()
    }

    /// Keys that have a node.
    pub fn nodes(&self) -> usize {
        self.accounting.nodes()
    }

    /// All figures at once (each by itself, not one moment's).
    pub fn stats(&self) -> MemtableStats {
        let guard = pin();
        let (range_deletes_recent, range_delete_stretches) = self.range_deletes.lens(&guard);
        MemtableStats {
            nodes: self.nodes(),
            bytes: self.bytes(),
            retired_bytes: self.retired_bytes(),
            levels: self.map.height(),
            slots: self.sidecar.slots(&guard),
            range_deletes_recent,
            range_delete_stretches,
        }
    }
}

impl fmt::Debug for Memtable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// A key in a scan.
#[derive(Clone, Copy)]
pub struct NodeRef<'g> {
    node: NodePtr<'g>,
    memtable: &'g Memtable,
    guard: &'g Guard,
}

impl<'g> NodeRef<'g> {
    /// The key, lent while the pin lasts.
    #[inline]
    pub fn key(self) -> &'g [u8] {
        self.node.key()
    }

    /// What the key is at `read`.
    #[inline]
    pub fn lookup(self, read: Lsn) -> Lookup<'g> {
        visible::lookup(self.memtable, self.node, read, self.guard)
    }

    /// All its versions, newest first.
    pub(crate) fn versions(self) -> impl Iterator<Item = VersionRef<'g>> {
        visible::versions(self.node, self.guard)
    }

    /// The largest stamp on the key, covering range deletes included; [`Lsn::ZERO`] if none.
    pub fn newest(self) -> Lsn {
        let cover = self.memtable.range_deletes.cover(self.key(), Lsn::MAX, self.guard);
        visible::newest_version(self.node, self.guard).max(cover.stamp)
    }
}

impl fmt::Debug for NodeRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeRef(b\"{}\", newest {})", self.key().escape_ascii(), self.newest())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
