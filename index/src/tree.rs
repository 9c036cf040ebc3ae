//! One keyspace's versions, in memory and in files: what a reader asks.
//!
//! ```text
//!   Tree ─► View ─► active memtable                  where commits go
//!                   frozen memtables, newest first   on their way to files
//!                   LevelSet                         files, level by level
//! ```
//!
//! A [`View`] is made once and never changed: whoever writes a file, or freezes a memtable, makes a new
//! one and [replaces](Tree::replace) the old, which readers that are pinned go on reading.
//!
//! 1. Layers are disjoint in stamps, key by key: all that a layer says of a key, range deletes included,
//!    is newer than what the layers under it say. Of memtables that holds for whole layers.
//! 2. So the first layer that says anything of a key at or below the read timestamp decides; only a run of
//!    merges without a base goes on downwards, at the same timestamp.
//! 3. A reader takes its timestamp first and then the view: so every version that it may see is in it.
//!    What is linked later, into a memtable that its view does not have, is above its timestamp.
//! 4. What a newer version lets pruning take away, in a file or in memory, a reader without a slot is
//!    told of (`skipped_newer`): the newer one is in the same layer or above.

use std::fmt;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::KeyRange;
use crate::memtable::{Found, Lookup, Memtable};
use crate::sync::{AtomicPtr, Guard, Ordering, Published, defer, pin};

mod files;
mod gather;
mod many;
mod scan;

pub use files::{LevelSet, OpenFile, ReadError, Superseded};
use gather::Gathered;
pub use many::Estimate;
pub use scan::FileCursors;

/// One keyspace: a pointer to its [`View`] of the moment.
pub struct Tree {
    view: AtomicPtr<View>,
}

impl Tree {
    /// A tree of one memtable and what is in files under it.
    pub fn new(active: Arc<Memtable>, levels: Arc<LevelSet>) -> Tree {
        let view = View::new(active, Vec::new(), levels);
        Tree { view: AtomicPtr::new(Box::into_raw(Box::new(view))) }
    }

    /// The view of the moment, lent while the pin lasts. A reader takes its timestamp before.
    #[inline]
    #[expect(unsafe_code, reason = "follows the pointer to the view under the caller's pin")]
    pub fn view<'g>(&'g self, _: &'g Guard) -> &'g View {
        // Acquire: pairs with the Release in `replace`; the view is whole.
        let view = self.view.load(Ordering::Acquire);
        // SAFETY: never null: made from a box in `new` and `replace`. It is retired after it was taken
        // from here, so not freed while a guard lasts under which it was found here; and the tree's own
        // borrow keeps `drop` away.
        let view = unsafe { &*view };
        view.whole.read();
        view
    }

    /// Puts another view in the place of the one that is there. The caller sees to it that there is one
    /// replacing at a time, and that the new view was derived from the one that it replaces.
    ///
    /// The old one, and what only it holds on to, is dropped on whatever thread the epoch comes to an end
    /// on. A memtable takes long to drop: whoever takes one out keeps a reference until it is the last.
    #[expect(unsafe_code, reason = "retires the view that was replaced")]
    pub fn replace(&self, view: View) {
        let guard = pin();
        let view = Box::into_raw(Box::new(view));
        // Release: publishes the view. Pairs with the Acquire in `view`. Acquire: the old view may be
        // another thread's.
        let old = self.view.swap(view, Ordering::AcqRel);
        // SAFETY: out of reach for whoever pins from now on; it came from a box, is taken out once by the
        // swap, and so freed once. A view is `Send` and holds nothing borrowed.
        unsafe { defer(&guard, move || drop(Box::from_raw(old))) };
        // A thread that does nothing else would keep it among its own garbage.
        guard.flush();
    }
}

impl Drop for Tree {
    #[expect(unsafe_code, reason = "frees the last view")]
    fn drop(&mut self) {
        // Relaxed: nobody else has the tree any more.
        let view = self.view.load(Ordering::Relaxed);
        // SAFETY: from a box, still in its place and so not retired; exclusive, as no guard's borrow of
        // the tree lasts.
        drop(unsafe { Box::from_raw(view) });
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view(&pin()).fmt(f)
    }
}

/// The memtables and files of a keyspace at one moment.
pub struct View {
    active: Arc<Memtable>,
    /// Newest first.
    frozen: Vec<Arc<Memtable>>,
    /// For each frozen memtable, its largest stamp or one above it.
    through: Vec<Lsn>,
    levels: Arc<LevelSet>,
    below_max: Lsn,
    /// Whether there is nothing but the active memtable.
    alone: bool,
    whole: Published,
}

impl View {
    fn new(
        active: Arc<Memtable>,
        frozen: Vec<(Arc<Memtable>, Lsn)>,
        levels: Arc<LevelSet>,
    ) -> View {
        let (frozen, through): (Vec<_>, Vec<_>) = frozen.into_iter().unzip();
        let below_max = through.iter().copied().fold(levels.stamp_max(), Lsn::max);
        let alone = frozen.is_empty() && levels.is_empty();
        View { active, frozen, through, levels, below_max, alone, whole: Published::new() }
    }

    /// The memtable that commits go to.
    #[inline]
    pub fn active(&self) -> &Arc<Memtable> {
        &self.active
    }

    /// The memtables that take no commits any more and are not in files yet, newest first.
    pub fn frozen(&self) -> &[Arc<Memtable>] {
        &self.frozen
    }

    /// The files.
    pub fn levels(&self) -> &Arc<LevelSet> {
        &self.levels
    }

    /// A stamp that nothing under the active memtable is above; [`Lsn::ZERO`] if there is nothing.
    #[inline]
    pub fn below_max(&self) -> Lsn {
        self.below_max
    }

    fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.active).chain(&self.frozen)
    }

    fn frozen_through(&self) -> impl Iterator<Item = (Arc<Memtable>, Lsn)> {
        self.frozen.iter().cloned().zip(self.through.iter().copied())
    }

    /// This view with a new active memtable; what was active is frozen. Nothing is linked into that any
    /// more, and nothing in it is above `through`.
    #[must_use]
    pub fn frozen_into(&self, active: Arc<Memtable>, through: Lsn) -> View {
        let frozen = std::iter::once((Arc::clone(&self.active), through));
        View::new(active, frozen.chain(self.frozen_through()).collect(), Arc::clone(&self.levels))
    }

    /// This view without a frozen memtable, which `levels` has in files.
    #[must_use]
    pub fn flushed(&self, memtable: &Arc<Memtable>, levels: Arc<LevelSet>) -> View {
        let others = self.frozen_through().filter(|(other, _)| !Arc::ptr_eq(other, memtable));
        View::new(Arc::clone(&self.active), others.collect(), levels)
    }

    /// This view with other files, which say the same.
    #[must_use]
    pub fn with_levels(&self, levels: Arc<LevelSet>) -> View {
        View::new(Arc::clone(&self.active), self.frozen_through().collect(), levels)
    }

    /// What `key` is at `read`.
    ///
    /// # Errors
    /// The file that cannot be read.
    #[inline]
    pub fn lookup<'g>(
        &'g self,
        key: &[u8],
        read: Lsn,
        guard: &'g Guard,
    ) -> Result<Lookup<'g>, ReadError> {
        let lookup = self.active.lookup(key, read, guard);
        let decided = lookup.observed != Lsn::ZERO && !matches!(lookup.found, Found::Merged(_));
        if decided || self.alone {
            return Ok(lookup);
        }
        self.lookup_below(lookup, key, read, guard)
    }

    #[inline(never)]
    fn lookup_below<'g>(
        &'g self,
        in_active: Lookup<'g>,
        key: &[u8],
        read: Lsn,
        guard: &'g Guard,
    ) -> Result<Lookup<'g>, ReadError> {
        let mut gathered = Gathered::default();
        gathered.memtable(in_active);
        for memtable in &self.frozen {
            if gathered.is_decided() {
                return Ok(gathered.finish());
            }
            gathered.memtable(memtable.lookup(key, read, guard));
        }
        if !gathered.is_decided() {
            self.levels.gather(key, read, &mut gathered)?;
        }
        Ok(gathered.finish())
    }

    /// The largest stamp on `key`, covering range deletes included; [`Lsn::ZERO`] if none.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn newest(&self, key: &[u8], guard: &Guard) -> Result<Lsn, ReadError> {
        match self.active.newest(key, guard) {
            Lsn::ZERO => self.newest_below(key, Lsn::ZERO, guard),
            newest => Ok(newest),
        }
    }

    /// The same of what lies under the active memtable. What is at or below `above` need not be told:
    /// files without anything newer are not looked into.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn newest_below(&self, key: &[u8], above: Lsn, guard: &Guard) -> Result<Lsn, ReadError> {
        if self.below_max <= above {
            return Ok(Lsn::ZERO);
        }
        let frozen = self.frozen.iter().map(|memtable| memtable.newest(key, guard));
        match frozen.into_iter().find(|newest| *newest != Lsn::ZERO) {
            Some(newest) => Ok(newest),
            None => self.levels.newest(key, above),
        }
    }

    /// Something newer than `above` within the range, if there is: the stamp of one such version or range
    /// delete. For checks of scanned intervals outside the commit window; linear in the keys of the range,
    /// as far as files have anything that new.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn newer_in(
        &self,
        range: KeyRange<'_>,
        above: Lsn,
        guard: &Guard,
    ) -> Result<Option<Lsn>, ReadError> {
        match self.active.newer_in(range, above, guard) {
            None => self.newer_below_in(range, above, guard),
            newer => Ok(newer),
        }
    }

    /// The same of what lies under the active memtable.
    ///
    /// # Errors
    /// The file that cannot be read.
    fn newer_below_in(
        &self,
        range: KeyRange<'_>,
        above: Lsn,
        guard: &Guard,
    ) -> Result<Option<Lsn>, ReadError> {
        if self.below_max <= above {
            return Ok(None);
        }
        for (memtable, through) in self.frozen.iter().zip(&self.through) {
            if *through > above
                && let Some(newer) = memtable.newer_in(range, above, guard)
            {
                return Ok(Some(newer));
            }
        }
        self.levels.newer_in(range, above)
    }

    /// Bytes of memory that the memtables hold: see [`Memtable::bytes`].
    pub fn bytes(&self) -> usize {
        self.memtables().map(|memtable| memtable.bytes()).sum()
    }

    /// Bytes that the memtables unlinked and that are not freed yet: see [`Memtable::retired_bytes`].
    pub fn retired_bytes(&self) -> usize {
        self.memtables().map(|memtable| memtable.retired_bytes()).sum()
    }

    /// Keys that have a node, memtable by memtable.
    pub fn nodes(&self) -> usize {
        self.memtables().map(|memtable| memtable.nodes()).sum()
    }

    /// Bytes of the files.
    pub fn file_bytes(&self) -> u64 {
        self.levels.file_bytes()
    }

    /// Versions in the files.
    pub fn file_entries(&self) -> u64 {
        self.levels.file_entries()
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.levels.files().count()
    }

    /// Bytes of memory that the open files hold. What is mapped of them is the system's, and not counted.
    pub fn file_memory_bytes(&self) -> usize {
        self.levels.memory_bytes()
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("active", &self.active)
            .field("frozen", &self.frozen)
            .field("levels", &self.levels)
            .field("below_max", &self.below_max)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
