//! Range deletes: one entry for a whole interval, with the stamp of its commit.
//!
//! ```text
//!   recent ──► 41 [d, k) ──► 38 [a, c) ──► ∅          a list, newest first, linked in the window
//!   skyline    [a, c): 30, 12   [c, f): 12   …         sorted, immutable, replaced as a whole
//! ```
//!
//! A reader looks through the short list, and then finds its key's stretch in the skyline by binary
//! search. *Folding*, outside the window, moves what the horizon has passed from the list's end into
//! a new skyline, and drops the stamps that no reader needs. A memtable without range deletes costs
//! its readers one load of a word that nobody writes.
//!
//! 1. A range delete hides a version if it covers the key and the version's stamp is *smaller*: a put
//!    in the same commit comes after it and survives. (A delete after the put is the commit's own
//!    business: its write set drops the put.)
//! 2. The list descends by stamp, and every stamp in it is above every stamp in the skyline, or equal
//!    while a fold is between publishing the skyline and cutting the list: then it is in both.
//! 3. The newest range delete stays in the list. So the window's leader is the only writer of the
//!    list's head, and the folder the only writer of the links behind it.
//! 4. One folder at a time (`folding`).
#![expect(unsafe_code, reason = "links, cuts and retires list entries and skylines")]

use std::ops::Bound;
use std::ptr::NonNull;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::KeyRange;
use crate::accounting::Accounting;
use crate::prune::{Freed, PruneView};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Guard, Ordering};

/// The list may be this long before a writer folds it.
const RECENT_MAX: usize = if cfg!(loom) { 1 } else { 16 };

/// The range deletes of one memtable.
pub(crate) struct RangeDeletes {
    recent: AtomicPtr<RangeDelete>,
    skyline: AtomicPtr<Skyline>,
    /// Entries of the list, for the decision to fold. A sum: Relaxed throughout.
    recent_len: AtomicUsize,
    folding: AtomicBool,
    accounting: Arc<Accounting>,
}

// SAFETY: list entries and skylines belong to no thread; all that threads share is atomic or constant.
unsafe impl Send for RangeDeletes {}
// SAFETY: as above.
unsafe impl Sync for RangeDeletes {}

/// One range delete: the keys from `start` up to `end`, excluded.
pub(crate) struct RangeDelete {
    stamp: AtomicU64,
    next: AtomicPtr<RangeDelete>,
    start: Box<[u8]>,
    /// None: to the last key of all.
    end: Option<Box<[u8]>>,
}

impl RangeDelete {
    /// The range delete of an interval; none if no key can be in it.
    ///
    /// Bounds are brought to one form: the smallest key above `k` is `k` and a zero byte.
    pub(crate) fn new(range: KeyRange<'_>) -> Option<Box<RangeDelete>> {
        let after = |key: &[u8]| [key, b"\0"].concat().into_boxed_slice();
        let start = match range.0 {
            Bound::Included(start) => start.into(),
            Bound::Excluded(start) => after(start),
            Bound::Unbounded => Box::default(),
        };
        let end = match range.1 {
            Bound::Included(end) => Some(after(end)),
            Bound::Excluded(end) => Some(end.into()),
            Bound::Unbounded => None,
        };
        if end.as_ref().is_some_and(|end| *end <= start) {
            return None;
        }
        Some(Box::new(RangeDelete {
            stamp: AtomicU64::new(0),
            next: AtomicPtr::new(std::ptr::null_mut()),
            start,
            end,
        }))
    }

    pub(crate) fn footprint(&self) -> usize {
        size_of::<RangeDelete>() + self.start.len() + self.end.as_ref().map_or(0, |end| end.len())
    }

    /// The interval, as bounds.
    pub(crate) fn range(&self) -> KeyRange<'_> {
        let end = self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(&self.start), end)
    }

    fn covers(&self, key: &[u8]) -> bool {
        *self.start <= *key && self.end.as_deref().is_none_or(|end| key < end)
    }

    fn overlaps(&self, start: &[u8], end: Option<&[u8]>) -> bool {
        end.is_none_or(|end| *self.start < *end)
            && self.end.as_deref().is_none_or(|own_end| start < own_end)
    }

    fn stamp(&self) -> Lsn {
        // Relaxed: written once before the entry was linked; the Acquire that led here pairs with
        // the linking Release.
        Lsn::from_bits(self.stamp.load(Ordering::Relaxed))
    }

    fn next<'g>(&self, _: &'g Guard) -> Option<&'g RangeDelete> {
        // SAFETY: entries are retired after they are cut; the guard is older than that cut, or the
        // link is null.
        // Acquire: pairs with the Release in `fold`, so that whoever finds the list cut finds the
        // skyline that has what was cut off.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }
}

/// What the range deletes say of one key.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cover {
    /// The largest stamp `<= read` of those that cover the key; ZERO if none.
    pub(crate) stamp: Lsn,
    /// Whether one above `read` covers it.
    pub(crate) skipped_newer: bool,
}

impl RangeDeletes {
    pub(crate) fn new(accounting: Arc<Accounting>) -> RangeDeletes {
        RangeDeletes {
            recent: AtomicPtr::new(std::ptr::null_mut()),
            skyline: AtomicPtr::new(std::ptr::null_mut()),
            recent_len: AtomicUsize::new(0),
            folding: AtomicBool::new(false),
            accounting,
        }
    }

    #[inline(always)]
    fn recent<'g>(&'g self, _: &'g Guard) -> Option<&'g RangeDelete> {
        // SAFETY: an entry that a pinned thread finds here is retired later, if ever.
        // Acquire: pairs with the Release in `link`; the entry is whole.
        unsafe { self.recent.load(Ordering::Acquire).as_ref() }
    }

    fn skyline<'g>(&'g self, _: &'g Guard) -> Option<&'g Skyline> {
        // SAFETY: a skyline that a pinned thread finds here is retired later, if ever.
        // Acquire: pairs with the Release in `fold`; the skyline is whole.
        unsafe { self.skyline.load(Ordering::Acquire).as_ref() }
    }

    /// Whether there are none.
    #[inline(always)]
    pub(crate) fn is_empty(&self, guard: &Guard) -> bool {
        self.recent(guard).is_none()
    }

    /// What a reader at `read` has to know of `key`.
    #[inline]
    pub(crate) fn cover(&self, key: &[u8], read: Lsn, guard: &Guard) -> Cover {
        match self.recent(guard) {
            None => Cover::default(),
            Some(first) => self.cover_slow(first, key, read, guard),
        }
    }

    #[cold]
    fn cover_slow(&self, first: &RangeDelete, key: &[u8], read: Lsn, guard: &Guard) -> Cover {
        let mut cover = Cover::default();
        let mut at = Some(first);
        while let Some(entry) = at {
            if entry.covers(key) {
                if entry.stamp() <= read {
                    cover.stamp = entry.stamp();
                    return cover;
                }
                cover.skipped_newer = true;
            }
            at = entry.next(guard);
        }
        // The list first, then the skyline: what a fold takes off the list is in the skyline before.
        if let Some(stamps) = self.skyline(guard).map(|skyline| skyline.stamps(key)) {
            match stamps.iter().position(|&stamp| stamp <= read) {
                Some(at) => {
                    cover.stamp = stamps[at];
                    cover.skipped_newer |= at > 0;
                }
                None => cover.skipped_newer |= !stamps.is_empty(),
            }
        }
        cover
    }

    /// The largest stamp of those that overlap the interval; ZERO if none.
    pub(crate) fn newest_overlapping(&self, range: KeyRange<'_>, guard: &Guard) -> Lsn {
        let Some(first) = self.recent(guard) else { return Lsn::ZERO };
        // The same normal form as the entries have; none: no key is in the interval.
        let Some(interval) = RangeDelete::new(range) else { return Lsn::ZERO };
        let mut at = Some(first);
        while let Some(entry) = at {
            if entry.overlaps(&interval.start, interval.end.as_deref()) {
                return entry.stamp();
            }
            at = entry.next(guard);
        }
        self.skyline(guard).map_or(Lsn::ZERO, |skyline| {
            skyline.newest_overlapping(&interval.start, interval.end.as_deref())
        })
    }

    /// Links an entry, stamped. For the window's leader: no allocation, nothing freed.
    pub(crate) fn link(&self, entry: Box<RangeDelete>, stamp: Lsn) {
        // Relaxed, both: published by the exchange below.
        entry.stamp.store(stamp.bits(), Ordering::Relaxed);
        let entry = Box::into_raw(entry);
        // Relaxed: a sum.
        self.recent_len.fetch_add(1, Ordering::Relaxed);
        // Acquire: pairs with the Release below in an earlier link; the older entry is published
        // along with this one.
        let mut below = self.recent.load(Ordering::Acquire);
        loop {
            // SAFETY: still this thread's own.
            unsafe { (*entry).next.store(below, Ordering::Relaxed) };
            // Release: publishes the entry. Pairs with the Acquire in `recent`.
            match self.recent.compare_exchange(below, entry, Ordering::Release, Ordering::Acquire) {
                Ok(_) => return,
                Err(newer) => below = newer,
            }
        }
    }

    /// Whether a writer should fold.
    pub(crate) fn wants_fold(&self) -> bool {
        self.recent_len.load(Ordering::Relaxed) > RECENT_MAX
    }

    /// Moves what is at or below the view's horizon from the list into the skyline, the newest entry
    /// excepted, and drops stamps that nobody needs. Does nothing if another thread is at it.
    pub(crate) fn fold(&self, view: &PruneView, guard: &Guard) -> Freed {
        // Acquire: pairs with the Release at the end; the last fold's links and skyline are seen.
        if self.folding.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return Freed::default();
        }
        let freed = self.fold_locked(view, guard);
        self.folding.store(false, Ordering::Release);
        freed
    }

    fn fold_locked(&self, view: &PruneView, guard: &Guard) -> Freed {
        let Some(mut last_kept) = self.recent(guard) else { return Freed::default() };
        while let Some(next) = last_kept.next(guard)
            && next.stamp() > view.horizon
        {
            last_kept = next;
        }
        let mut folded = Vec::new();
        let mut at = last_kept.next(guard);
        while let Some(entry) = at {
            folded.push(entry);
            at = entry.next(guard);
        }
        if folded.is_empty() {
            return Freed::default();
        }
        let old = self.skyline(guard);
        let skyline = Skyline::fold(old, &folded, view);
        let list_bytes: usize = folded.iter().map(|entry| entry.footprint()).sum();
        let before = list_bytes + old.map_or(0, Skyline::footprint);
        let after = skyline.footprint();
        let count = folded.len();
        self.accounting.add(after);
        // Relaxed: the folder alone writes it, and `folding` orders folders.
        let old = self.skyline.load(Ordering::Relaxed);
        // Release: publishes the skyline. Pairs with the Acquire in `skyline`.
        self.skyline.store(Box::into_raw(Box::new(skyline)), Ordering::Release);
        let first_cut = last_kept.next.load(Ordering::Relaxed);
        // Release: whoever finds the list cut here finds the new skyline. Pairs with the Acquire in
        // `RangeDelete::next`.
        last_kept.next.store(std::ptr::null_mut(), Ordering::Release);
        self.recent_len.fetch_sub(count, Ordering::Relaxed);
        // SAFETY: unlinked just now, by the only folder: the entries behind the cut, and the skyline
        // that was replaced. Both came from boxes and are freed once; the entries' links, from
        // `first_cut` on, are written by nobody any more.
        unsafe {
            self.accounting.retire(guard, list_bytes, move || free_list(first_cut));
            if let Some(old) = NonNull::new(old) {
                self.accounting.retire(guard, old.as_ref().footprint(), move || free_skyline(old));
            }
        }
        Freed { versions: 0, bytes: before.saturating_sub(after) }
    }

    /// Entries in the list, and stretches in the skyline.
    pub(crate) fn lens(&self, guard: &Guard) -> (usize, usize) {
        (
            self.recent_len.load(Ordering::Relaxed),
            self.skyline(guard).map_or(0, |skyline| skyline.starts.len()),
        )
    }
}

/// Frees a list of entries; returns their bytes.
///
/// # Safety
/// They came from boxes, and no thread can reach them any more.
unsafe fn free_list(first: *mut RangeDelete) -> usize {
    let mut freed = 0;
    let mut at = first;
    while !at.is_null() {
        // SAFETY: exclusive (caller), each entry once, as the list has no loops.
        let entry = unsafe { Box::from_raw(at) };
        // Relaxed: exclusive.
        at = entry.next.load(Ordering::Relaxed);
        freed += entry.footprint();
    }
    freed
}

/// Frees a skyline; returns its bytes.
///
/// # Safety
/// It came from a box, and no thread can reach it any more.
unsafe fn free_skyline(skyline: NonNull<Skyline>) -> usize {
    // SAFETY: exclusive (caller), and freed once.
    let skyline = unsafe { Box::from_raw(skyline.as_ptr()) };
    skyline.footprint()
}

impl Drop for RangeDeletes {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no thread looks any more. Relaxed: exclusive.
        unsafe {
            free_list(self.recent.load(Ordering::Relaxed));
            if let Some(skyline) = NonNull::new(self.skyline.load(Ordering::Relaxed)) {
                free_skyline(skyline);
            }
        }
    }
}

/// Where the range deletes' stamps stand over the keys: stretch `i` goes from `starts[i]` to
/// `starts[i + 1]`, the last one to the end of all keys. Immutable.
#[derive(Default)]
struct Skyline {
    starts: Box<[Box<[u8]>]>,
    /// Of each stretch, where its stamps end in `stamps`.
    ends: Box<[usize]>,
    /// Each stretch's stamps, descending. A gap between range deletes has none.
    stamps: Box<[Lsn]>,
}

impl Skyline {
    fn footprint(&self) -> usize {
        size_of::<Skyline>()
            + self.starts.len() * (size_of::<Box<[u8]>>() + size_of::<usize>())
            + self.starts.iter().map(|start| start.len()).sum::<usize>()
            + self.stamps.len() * size_of::<Lsn>()
    }

    fn of(&self, stretch: usize) -> &[Lsn] {
        let from = if stretch == 0 { 0 } else { self.ends[stretch - 1] };
        &self.stamps[from..self.ends[stretch]]
    }

    /// The stamps of the range deletes that cover `key`, newest first.
    fn stamps(&self, key: &[u8]) -> &[Lsn] {
        match self.starts.partition_point(|start| **start <= *key) {
            0 => &[],
            after => self.of(after - 1),
        }
    }

    fn newest_overlapping(&self, start: &[u8], end: Option<&[u8]>) -> Lsn {
        let from = self.starts.partition_point(|other| **other <= *start).saturating_sub(1);
        (from..self.starts.len())
            .take_while(|&at| end.is_none_or(|end| *self.starts[at] < *end))
            .filter_map(|at| self.of(at).first().copied())
            .max()
            .unwrap_or(Lsn::ZERO)
    }

    /// The skyline of `old` and the entries of `added` (newest first, newer than all in `old`),
    /// without the stamps that `view` does not keep. Each stretch keeps its newest, as a key keeps
    /// its newest version.
    fn fold(old: Option<&Skyline>, added: &[&RangeDelete], view: &PruneView) -> Skyline {
        let empty = Skyline::default();
        let old = old.unwrap_or(&empty);
        let mut cuts: Vec<&[u8]> = old.starts.iter().map(|start| &**start).collect();
        cuts.extend(added.iter().map(|entry| &*entry.start));
        cuts.extend(added.iter().filter_map(|entry| entry.end.as_deref()));
        cuts.sort_unstable();
        cuts.dedup();

        let (mut starts, mut ends, mut stamps) = (Vec::new(), Vec::new(), Vec::<Lsn>::new());
        let mut before = 0..0;
        for cut in cuts {
            let from = stamps.len();
            let all = added.iter().filter(|entry| entry.covers(cut)).map(|entry| entry.stamp());
            let mut above = None;
            for stamp in all.chain(old.stamps(cut).iter().copied()) {
                if above.is_none_or(|above| view.keeps(stamp, above)) {
                    stamps.push(stamp);
                }
                above = Some(stamp);
            }
            // A stretch that says the same as the one before it is one with it.
            if !starts.is_empty() && stamps[before.clone()] == stamps[from..] {
                stamps.truncate(from);
                continue;
            }
            starts.push(cut.into());
            ends.push(stamps.len());
            before = from..stamps.len();
        }
        Skyline { starts: starts.into(), ends: ends.into(), stamps: stamps.into() }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
