//! The write path's two halves, and the check of point reads.
//!
//! | | outside the window, any number of threads | inside it, one leader |
//! |---|---|---|
//! | [`Prepared`] | `add`, `add_range_delete`, `prune`, drop | `newest_above`, `install` |
//! | [`Watched`] | `add`, drop | `changed_since` |
//!
//! 1. What runs inside the window allocates nothing and frees nothing, provided that its thread is
//!    pinned already: a first pin may run the epoch's garbage.
//! 2. A `Prepared` owns its versions until `install` links them; dropped before, it frees them. The
//!    nodes that it made stay, empty.
//! 3. `install` happens once. Two at a time that write the same key would break the order of its chain (though
//!    no memory): the window has one leader, and a replay gives all of a key's versions to one thread. (Two that
//!    delete ranges of one memtable would break the order of these.)
#![expect(unsafe_code, reason = "owns versions that are not linked yet, and links them")]

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use isolith_wal::Lsn;

use crate::KeyRange;
use crate::memtable::Memtable;
use crate::merge::MergeOperators;
use crate::node::{Node, NodePtr};
use crate::prune::{Freed, PruneView, Pruning};
use crate::range_deletes::RangeDelete;
use crate::sync::{Guard, pin};
use crate::version::{Kind, Value, Version, VersionRef};
use crate::visible;

/// A transaction's writes to one keyspace, allocated and placed, on their way in.
pub struct Prepared {
    memtable: Arc<Memtable>,
    writes: Vec<Write>,
    ranges: Vec<RangeWrite>,
    /// Set by `install`, which gives the versions and the entries away.
    installed: AtomicBool,
}

struct RangeWrite {
    /// What it deletes, for as long as this value lives: the entry itself goes to the memtable.
    range: Box<RangeDelete>,
    /// Taken by `install`. The lock is never contended: it only makes the taking safe.
    entry: Mutex<Option<Box<RangeDelete>>>,
}

struct Write {
    node: NonNull<Node>,
    /// Owned until installed; linked and not to be touched after.
    version: NonNull<Version>,
    kind: Kind,
}

// SAFETY: nodes and the memtable are shared between threads as such; the versions belong to this value
// alone until they are linked.
unsafe impl Send for Prepared {}
// SAFETY: through `&Prepared` nodes' keys and chains are read, and chains pruned, which any thread may.
unsafe impl Sync for Prepared {}

impl Prepared {
    pub(crate) fn new(memtable: Arc<Memtable>, capacity: usize) -> Prepared {
        Prepared {
            memtable,
            writes: Vec::with_capacity(capacity),
            ranges: Vec::new(),
            installed: AtomicBool::new(false),
        }
    }

    /// Adds a write of `key`: finds its node, or inserts one, and makes the version ready.
    ///
    /// `expires_at` is in unix milliseconds, 0 = never. A tombstone takes [`Value::empty`]. If a key
    /// is added twice, the later write is the one that readers see.
    ///
    /// # Panics
    /// If it is installed.
    pub fn add(&mut self, key: &[u8], kind: Kind, value: Value, expires_at: u64) {
        assert!(!*self.installed.get_mut(), "a write is added before it is installed");
        let memtable = &*self.memtable;
        let guard = pin();
        let hash = memtable.hasher.hash(key);
        let node = memtable.sidecar.find(hash, key, &guard).unwrap_or_else(|| {
            // The winner and the loser of a race for the key both ensure the entry: whichever
            // installs first, its version is found.
            let node = memtable.map.insert(key, hash as u16, &guard);
            memtable.sidecar.ensure(hash, node.as_non_null(), &memtable.hasher, &guard);
            node
        });
        let node = node.as_non_null();
        let version = value.into_version(kind, expires_at);
        // SAFETY: this thread owns the version.
        memtable.accounting.add(unsafe { Version::footprint(version) });
        self.writes.push(Write { node, version, kind });
    }

    /// Adds the deletion of every key in the range. An interval that can hold no key adds nothing.
    ///
    /// # Panics
    /// If it is installed.
    pub fn add_range_delete(&mut self, range: KeyRange<'_>) {
        assert!(!*self.installed.get_mut(), "a write is added before it is installed");
        if let (Some(entry), Some(range)) = (RangeDelete::new(range), RangeDelete::new(range)) {
            self.memtable.accounting.add(entry.footprint());
            self.ranges.push(RangeWrite { range, entry: Mutex::new(Some(entry)) });
        }
    }

    /// The same writes, for another memtable: for when this one was frozen before they were installed.
    ///
    /// # Panics
    /// If they are installed.
    pub fn rebuilt(&self, memtable: &Arc<Memtable>) -> Prepared {
        // Relaxed: installed by the window's leader, whose word the caller has had.
        let installed = self.installed.load(Ordering::Relaxed);
        assert!(!installed, "what is installed is in its memtable for good");
        let mut rebuilt = Prepared::new(Arc::clone(memtable), self.writes.len());
        for range in self.ranges() {
            rebuilt.add_range_delete(range);
        }
        for (at, write) in self.writes.iter().enumerate() {
            // SAFETY: not installed, so owned here, and alive as long as this value.
            let version = unsafe { VersionRef::new(write.version) };
            let value = Value::new(version.value());
            rebuilt.add(self.key(at), write.kind, value, version.expires_at());
        }
        rebuilt
    }

    /// Keys added.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.ranges.is_empty()
    }

    /// The memtable that it writes to.
    pub fn memtable(&self) -> &Arc<Memtable> {
        &self.memtable
    }

    fn node(&self, at: usize) -> NodePtr<'_> {
        // SAFETY: nodes live with the memtable, which this value holds.
        unsafe { NodePtr::new(self.writes[at].node) }
    }

    fn nodes(&self) -> impl ExactSizeIterator<Item = NodePtr<'_>> {
        (0..self.writes.len()).map(|at| self.node(at))
    }

    /// A key, by the place at which it was added.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn key(&self, at: usize) -> &[u8] {
        self.node(at).key()
    }

    /// The keys, in the order in which they were added.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.nodes().map(NodePtr::key)
    }

    /// What is written to a key, by the place at which it was added.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn kind(&self, at: usize) -> Kind {
        self.writes[at].kind
    }

    /// What is written to the keys, in the order in which they were added.
    pub fn kinds(&self) -> impl ExactSizeIterator<Item = Kind> {
        self.writes.iter().map(|write| write.kind)
    }

    /// The range deletes, in the order in which they were added.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = KeyRange<'_>> {
        self.ranges.iter().map(|write| write.range.range())
    }

    /// The first write whose key has something newer than `read`, covering range deletes included.
    /// A merge is no such write: it goes on top of whatever is there. For the window: no allocation.
    pub fn newest_above(&self, read: Lsn) -> Option<usize> {
        let guard = pin();
        let ranges = &self.memtable.range_deletes;
        let any_ranges =
            !ranges.is_empty(&guard) && !isolith_wal::planted!("put-misses-range-delete");
        (0..self.writes.len()).find(|&at| {
            let node = self.node(at);
            !matches!(self.writes[at].kind, Kind::Merge { .. })
                && (visible::newest_version(node, &guard) > read
                    || any_ranges && ranges.cover(node.key(), Lsn::MAX, &guard).stamp > read)
        })
    }

    /// Links every version and range delete, stamped `stamp`. For the window's leader: no allocation,
    /// nothing freed. Readers that see a watermark at or above `stamp`, which the leader publishes
    /// after, see all of it.
    ///
    /// # Panics
    /// If it is installed already.
    pub fn install(&self, stamp: Lsn) {
        // Relaxed: whoever drops this value has it alone, and so comes after.
        let before = self.installed.swap(true, Ordering::Relaxed);
        assert!(!before, "a write is installed once");
        let guard = pin();
        for write in &self.writes {
            // SAFETY: the node lives with the memtable, which this value holds. The version is owned
            // here, and given up now: `installed` keeps `drop` from it. This thread is pinned.
            unsafe { NodePtr::new(write.node).link(write.version, stamp) };
        }
        for write in &self.ranges {
            let mut entry = write.entry.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = entry.take() {
                self.memtable.range_deletes.link(entry, stamp, &guard);
            }
        }
    }

    /// Prunes the chains that it extended, and folds the range deletes when there are many. What its
    /// own range deletes hide is left to [`Memtable::prune_range`]. For outside the window, after
    /// `install`.
    pub fn prune(&self, view: &PruneView, operators: &dyn MergeOperators, guard: &Guard) -> Freed {
        let mut freed = Freed::default();
        let pruning = Pruning { memtable: &self.memtable, view, operators, hiding: false, guard };
        for node in self.nodes() {
            freed.add(pruning.prune(node));
        }
        if self.memtable.range_deletes.wants_fold() {
            freed.add(self.memtable.range_deletes.fold(view, guard));
        }
        freed
    }
}

impl Prepared {
    /// Folds the newest merges of the chains that it merged into, and the range deletes, where there
    /// are many, and prunes nothing: for when history is retained, and pruning would walk it for
    /// nothing.
    pub fn fold(&self, view: &PruneView, operators: &dyn MergeOperators, guard: &Guard) {
        let memtable = &*self.memtable;
        let pruning = Pruning { memtable, view, operators, hiding: false, guard };
        for (at, write) in self.writes.iter().enumerate() {
            if matches!(write.kind, Kind::Merge { .. }) {
                pruning.fold_newest(self.node(at));
            }
        }
        if memtable.range_deletes.wants_fold() {
            memtable.range_deletes.fold(view, guard);
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let mut freed = 0;
        if !*self.installed.get_mut() {
            for write in &self.writes {
                // SAFETY: not installed, so owned here and never shared; freed once.
                freed += unsafe { Version::free(write.version) };
            }
            freed += self.ranges.iter().map(|write| write.range.footprint()).sum::<usize>();
        }
        if freed > 0 {
            self.memtable.accounting.sub(freed);
        }
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared")
            .field("keys", &self.writes.len())
            .field("ranges", &self.ranges.len())
            .field("installed", &self.installed.load(Ordering::Relaxed))
            .finish()
    }
}

/// Point reads that a transaction depends on.
pub struct Watched {
    memtable: Arc<Memtable>,
    reads: Vec<Read>,
    /// The absent keys, one after the other.
    absent: Vec<u8>,
}

enum Read {
    /// The key has a node: it is remembered, and need not be looked up again.
    Present(NonNull<Node>),
    /// It had none: it is looked up again by its hash and its place in `absent`.
    Absent { hash: u64, from: usize, to: usize },
}

// SAFETY: nodes are shared between threads as such, and live with the memtable, which is held.
unsafe impl Send for Watched {}
// SAFETY: as above; nothing is written through `&Watched`.
unsafe impl Sync for Watched {}

impl Watched {
    pub(crate) fn new(memtable: Arc<Memtable>) -> Watched {
        Watched { memtable, reads: Vec::new(), absent: Vec::new() }
    }

    /// The same reads, to be looked for in another memtable.
    pub fn rebuilt(&self, memtable: &Arc<Memtable>) -> Watched {
        let mut rebuilt = Watched::new(Arc::clone(memtable));
        (0..self.reads.len()).for_each(|at| rebuilt.add(self.key(at)));
        rebuilt
    }

    /// Adds a read of `key`.
    pub fn add(&mut self, key: &[u8]) {
        let guard = pin();
        let hash = self.memtable.hasher.hash(key);
        let read = match self.memtable.sidecar.find(hash, key, &guard) {
            Some(node) => Read::Present(node.as_non_null()),
            None => {
                let from = self.absent.len();
                self.absent.extend_from_slice(key);
                Read::Absent { hash, from, to: self.absent.len() }
            }
        };
        self.reads.push(read);
    }

    /// Reads added.
    pub fn len(&self) -> usize {
        self.reads.len()
    }

    /// Whether no read was added.
    pub fn is_empty(&self) -> bool {
        self.reads.is_empty()
    }

    /// The memtable that was read.
    pub fn memtable(&self) -> &Arc<Memtable> {
        &self.memtable
    }

    /// The key of a read, by the place at which it was added.
    pub fn key(&self, at: usize) -> &[u8] {
        match self.reads[at] {
            // SAFETY: nodes live with the memtable, which this value holds.
            Read::Present(node) => unsafe { NodePtr::new(node) }.key(),
            Read::Absent { from, to, .. } => &self.absent[from..to],
        }
    }

    /// The first read whose key has something newer than `read`, covering range deletes included.
    /// For the window: no allocation.
    pub fn changed_since(&self, read: Lsn) -> Option<usize> {
        let guard = pin();
        let ranges = &self.memtable.range_deletes;
        let any_ranges =
            !ranges.is_empty(&guard) && !isolith_wal::planted!("read-misses-range-delete");
        (0..self.reads.len()).find(|&at| {
            let node = match self.reads[at] {
                // SAFETY: nodes live with the memtable, which this value holds.
                Read::Present(node) => Some(unsafe { NodePtr::new(node) }),
                Read::Absent { hash, from, to } => {
                    self.memtable.sidecar.find(hash, &self.absent[from..to], &guard)
                }
            };
            node.is_some_and(|node| visible::newest_version(node, &guard) > read)
                || any_ranges && ranges.cover(self.key(at), Lsn::MAX, &guard).stamp > read
        })
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").field("reads", &self.reads.len()).finish()
    }
}
