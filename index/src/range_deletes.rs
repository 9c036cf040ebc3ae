//! Range deletes: one entry for a whole interval, with the stamp of its commit.
//!
//! ```text
//!   recent ──► 41 [d, k) ──► 38 [a, c) ──► ∅                  a list, newest first, linked in the window
//!   skyline ─► { [a, c): 38 } ─► { [a, c): 30, 12  [c, f): 12  … } ─► ∅      immutable, larger and older
//! ```
//!
//! A reader looks through the short list, and then finds its key's stretch in each skyline by binary
//! search. *Folding*, outside the window, moves what is known to be linked from the list's end into a
//! new skyline on top of the others, and drops the stamps that no reader needs. The new one takes in
//! those below it that are not [`GROWTH`] times as large (the logarithmic method of Bentley and Saxe,
//! 1980): so there are few, logarithmically many, and a range delete is copied logarithmically often.
//! A memtable without range deletes costs its readers one load of a word that nobody writes.
//!
//! 1. A range delete hides a version if it covers the key and the version's stamp is *smaller*: a put
//!    in the same commit comes after it and survives. (A delete after the put is the commit's own
//!    business: its write set drops the put.)
//! 2. Newest first: the list descends by stamp, so does each stretch's share of a skyline, and no
//!    stamp of a skyline is above one of a skyline on top of it, or of the list. What a fold has put
//!    into a skyline and not yet cut off the list is in both.
//! 3. The newest range delete stays in the list, be it folded or not (`folded`). So the window's leader
//!    is the only writer of the list's head, and the folder the only writer of the links behind it.
//! 4. One folder at a time (`folding`). A skyline's link to the one below is written before it is
//!    published and never again: who loads the topmost has all of them, of one moment.
//! 5. A stamp is dropped only for a newer one that covers the same key *in the skylines of the same
//!    moment*. So a reader at a timestamp that nobody holds, which misses the stamp that it wanted,
//!    passes a newer one and is told (`skipped_newer`), even if it looked at the list before.
#![expect(unsafe_code, reason = "links, cuts and retires list entries and skylines")]

use std::ops::Bound;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::KeyRange;
use crate::accounting::Accounting;
use crate::prune::{Freed, PruneView};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Guard, Ordering, Published};

/// The list may be this long before a writer folds it.
const RECENT_MAX: usize = if cfg!(loom) { 1 } else { 16 };

/// A skyline weighs more than this many times the one on top of it.
const GROWTH: usize = 4;

/// The range deletes of one memtable.
pub(crate) struct RangeDeletes {
    recent: AtomicPtr<RangeDelete>,
    /// The topmost one.
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
    /// Whether it is in a skyline, too. The folder's own: Relaxed, `folding` orders folders.
    folded: AtomicBool,
    start: Box<[u8]>,
    /// None: to the last key of all.
    end: Option<Box<[u8]>>,
    interval: Published,
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
            folded: AtomicBool::new(false),
            start,
            end,
            interval: Published::new(),
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
        self.interval.read();
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

    /// All skylines of one moment, newest first.
    fn skylines<'g>(&'g self, guard: &'g Guard) -> impl Iterator<Item = &'g Skyline> {
        std::iter::successors(self.skyline(guard), |skyline| skyline.below(guard))
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
        // The list first, then the skylines: what a fold takes off the list is in a skyline before.
        for skyline in self.skylines(guard) {
            // Descending, and many where history is retained.
            let stamps = skyline.stamps(key);
            let newer = stamps.partition_point(|&stamp| stamp > read);
            cover.skipped_newer |= newer > 0;
            if let Some(&stamp) = stamps.get(newer) {
                cover.stamp = stamp;
                return cover;
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
        self.skylines(guard)
            .map(|skyline| skyline.newest_overlapping(&interval.start, interval.end.as_deref()))
            .find(|&newest| newest > Lsn::ZERO)
            .unwrap_or(Lsn::ZERO)
    }

    /// Goes over all of them: start, end (excluded; none: to the last key of all) and stamp. What a fold
    /// has brought together comes as stretches.
    pub(crate) fn each(&self, guard: &Guard, mut visit: impl FnMut(&[u8], Option<&[u8]>, Lsn)) {
        let mut at = self.recent(guard);
        while let Some(entry) = at {
            entry.interval.read();
            visit(&entry.start, entry.end.as_deref(), entry.stamp());
            at = entry.next(guard);
        }
        for skyline in self.skylines(guard) {
            skyline.outline.read();
            for stretch in 0..skyline.len() {
                let end = (stretch + 1 < skyline.len()).then(|| skyline.start(stretch + 1));
                for stamp in skyline.of_stretch(stretch) {
                    visit(skyline.start(stretch), end, *stamp);
                }
            }
        }
    }

    /// Links an entry, stamped. For the window's leader: no allocation, nothing freed.
    pub(crate) fn link(&self, entry: Box<RangeDelete>, stamp: Lsn, _: &Guard) {
        // Relaxed, both: published by the exchange below.
        entry.stamp.store(stamp.bits(), Ordering::Relaxed);
        let entry = Box::into_raw(entry);
        // Relaxed: a sum.
        self.recent_len.fetch_add(1, Ordering::Relaxed);
        // Acquire: pairs with the Release below in an earlier link; the older entry is published
        // along with this one. The guard keeps it from being freed and made anew at its address.
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

    /// Moves what the view knows to be linked from the list into the skylines (the newest entry stays in
    /// the list, too), and drops stamps that nobody needs. Does nothing if another thread is
    /// at it.
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
            && next.stamp() > view.linked
        {
            last_kept = next;
        }
        let cut: Vec<&RangeDelete> =
            std::iter::successors(last_kept.next(guard), |entry| entry.next(guard)).collect();
        let passed = Some(last_kept).filter(|entry| entry.stamp() <= view.linked);
        let fresh = |entry: &&RangeDelete| !entry.folded.load(Ordering::Relaxed);
        let added: Vec<&RangeDelete> =
            passed.into_iter().chain(cut.iter().copied()).filter(fresh).collect();
        let mut freed = Freed::default();
        if !added.is_empty() {
            freed.add(self.stack(&added, view, guard));
        }
        if let Some(entry) = passed {
            entry.folded.store(true, Ordering::Relaxed);
        }
        if cut.is_empty() {
            return freed;
        }
        let list_bytes: usize = cut.iter().map(|entry| entry.footprint()).sum();
        let first_cut = last_kept.next.load(Ordering::Relaxed);
        // Release: whoever finds the list cut here finds the new skyline. Pairs with the Acquire in
        // `RangeDelete::next`.
        last_kept.next.store(std::ptr::null_mut(), Ordering::Release);
        self.recent_len.fetch_sub(cut.len(), Ordering::Relaxed);
        // SAFETY: unlinked just now, by the only folder. The entries came from boxes and are freed
        // once; their links, from `first_cut` on, are written by nobody any more.
        unsafe {
            self.accounting.retire(guard, list_bytes, move || free_list(first_cut));
        }
        freed.bytes += list_bytes;
        freed
    }

    /// Puts entries (newest first, and none older than what is there) on top of the skylines, and
    /// merges what has to be. For the only folder.
    fn stack(&self, added: &[&RangeDelete], view: &PruneView, guard: &Guard) -> Freed {
        // What stays of the published ones; and on top of that, oldest first, what is new.
        let mut rest = self.skyline(guard);
        let mut fresh: Vec<Skyline> = Vec::new();
        // Few at a time: a skyline is made of entries in quadratic time, and merged in linear.
        for entries in added.rchunks(RECENT_MAX) {
            let mut run = Skyline::of(entries, view);
            while let Some(below) = fresh.last().or(rest) {
                if !run.replaces(below, view) {
                    if below.weight() > GROWTH * run.weight() {
                        break;
                    }
                    run = Skyline::merge(&run, below, view);
                }
                if fresh.pop().is_none() {
                    rest = rest.and_then(|skyline| skyline.below(guard));
                }
            }
            fresh.push(run);
        }
        // Relaxed: the folder alone writes it, and `folding` orders folders.
        let mut taken = self.skyline.load(Ordering::Relaxed);
        let mut rest_at = taken;
        while !rest_at.is_null() && !rest.is_some_and(|rest| std::ptr::eq(rest_at, rest)) {
            // SAFETY: published, and retired by nobody but this thread, further down.
            rest_at = unsafe { (*rest_at).below };
        }
        let mut linked = rest_at;
        let mut after = 0;
        for mut skyline in fresh {
            after += skyline.footprint();
            skyline.below = linked;
            linked = Box::into_raw(Box::new(skyline));
        }
        self.accounting.add(after);
        // Release: publishes the skylines. Pairs with the Acquire in `skyline`.
        self.skyline.store(linked, Ordering::Release);

        let mut before = 0;
        while taken != rest_at {
            let old = taken;
            // SAFETY: it came from a box, and no published skyline leads to it any more: what is
            // reachable begins with the new ones, and goes on at `rest`, which is further down. It is
            // taken off by the only folder, and so retired and freed once.
            unsafe {
                let bytes = (*old).footprint();
                before += bytes;
                taken = (*old).below;
                self.accounting.retire(guard, bytes, move || free_skyline(old));
            }
        }
        Freed { bytes: before.saturating_sub(after), ..Freed::default() }
    }

    /// Entries in the list, and stretches in the skylines.
    pub(crate) fn lens(&self, guard: &Guard) -> (usize, usize) {
        let stretches = self.skylines(guard).map(Skyline::len).sum();
        (self.recent_len.load(Ordering::Relaxed), stretches)
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

/// Frees one skyline; returns its bytes. Those below are left alone.
///
/// # Safety
/// It came from a box, and no thread can reach it any more.
unsafe fn free_skyline(skyline: *mut Skyline) -> usize {
    // SAFETY: exclusive (caller), and freed once.
    let skyline = unsafe { Box::from_raw(skyline) };
    skyline.footprint()
}

impl Drop for RangeDeletes {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no thread looks any more, and what was retired is not linked. Relaxed:
        // exclusive.
        unsafe {
            free_list(self.recent.load(Ordering::Relaxed));
            let mut at = self.skyline.load(Ordering::Relaxed);
            while !at.is_null() {
                let below = (*at).below;
                free_skyline(at);
                at = below;
            }
        }
    }
}

/// Where some of the range deletes stand over the keys: stretch `i` goes from start `i` to the next
/// one, the last stretch to the end of all keys. Immutable.
struct Skyline {
    /// The starts, one after the other, the first one that of a range delete.
    keys: Box<[u8]>,
    /// Of each start, where it ends in `keys`.
    key_ends: Box<[usize]>,
    /// Of each stretch, where its stamps end in `stamps`.
    ends: Box<[usize]>,
    /// Each stretch's stamps, descending. A gap between range deletes has none.
    stamps: Box<[Lsn]>,
    /// The least of the stamps.
    oldest: Lsn,
    /// The next older skyline, or null. Constant once published.
    below: *mut Skyline,
    outline: Published,
}

impl Skyline {
    fn len(&self) -> usize {
        self.ends.len()
    }

    /// What a merge with it costs: stretches, or stamps where those are more.
    fn weight(&self) -> usize {
        self.len().max(self.stamps.len())
    }

    fn footprint(&self) -> usize {
        size_of::<Skyline>()
            + self.keys.len()
            + (self.key_ends.len() + self.ends.len()) * size_of::<usize>()
            + self.stamps.len() * size_of::<Lsn>()
    }

    fn below<'g>(&self, _: &'g Guard) -> Option<&'g Skyline> {
        // SAFETY: it was reachable when this one was published. If it is retired, then not before
        // this one: so the pin that keeps this one keeps it, too.
        unsafe { self.below.as_ref() }
    }

    fn start(&self, stretch: usize) -> &[u8] {
        let from = if stretch == 0 { 0 } else { self.key_ends[stretch - 1] };
        &self.keys[from..self.key_ends[stretch]]
    }

    fn of_stretch(&self, stretch: usize) -> &[Lsn] {
        let from = if stretch == 0 { 0 } else { self.ends[stretch - 1] };
        &self.stamps[from..self.ends[stretch]]
    }

    /// How many stretches begin at or before `key`: the last of them is the key's.
    fn begun(&self, key: &[u8]) -> usize {
        self.outline.read();
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            if self.start(middle) <= key {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    /// The stamps of the last of so many stretches.
    fn last_of(&self, begun: usize) -> &[Lsn] {
        begun.checked_sub(1).map_or(&[], |stretch| self.of_stretch(stretch))
    }

    /// The stamps of the range deletes that cover `key`, newest first.
    fn stamps(&self, key: &[u8]) -> &[Lsn] {
        self.last_of(self.begun(key))
    }

    fn newest_overlapping(&self, start: &[u8], end: Option<&[u8]>) -> Lsn {
        let from = self.begun(start).saturating_sub(1);
        (from..self.len())
            .take_while(|&at| end.is_none_or(|end| self.start(at) < end))
            .filter_map(|at| self.of_stretch(at).first().copied())
            .max()
            .unwrap_or(Lsn::ZERO)
    }

    /// Whether `older` may go as a whole: this one, which is newer, covers wherever it does, and
    /// nobody needs a timestamp from between the two.
    fn replaces(&self, older: &Skyline, view: &PruneView) -> bool {
        let Some(last) = older.len().checked_sub(1) else { return true };
        let Some(from) = self.begun(older.start(0)).checked_sub(1) else { return false };
        let open = !older.of_stretch(last).is_empty();
        let mut oldest = Lsn::ZERO;
        for at in from..self.len() {
            if at > from && !open && self.start(at) >= older.start(last) {
                break;
            }
            match self.of_stretch(at).last() {
                Some(&stamp) => oldest = oldest.max(stamp),
                None => return false,
            }
        }
        !view.keeps(older.oldest, oldest)
    }

    /// The skyline of some entries (newest first), without the stamps that `view` does not keep.
    fn of(entries: &[&RangeDelete], view: &PruneView) -> Skyline {
        let mut cuts: Vec<&[u8]> = entries.iter().map(|entry| &*entry.start).collect();
        cuts.extend(entries.iter().filter_map(|entry| entry.end.as_deref()));
        cuts.sort_unstable();
        cuts.dedup();
        let mut outline = Outline::default();
        for cut in cuts {
            let covering = entries.iter().filter(|entry| entry.covers(cut));
            outline.add(cut, covering.map(|entry| entry.stamp()), view);
        }
        outline.finish()
    }

    /// Two in one, without the stamps that `view` does not keep.
    fn merge(newer: &Skyline, older: &Skyline, view: &PruneView) -> Skyline {
        let mut outline = Outline::default();
        // Stretches begun of each.
        let (mut in_newer, mut in_older) = (0, 0);
        let next = |of: &Skyline, begun: usize| (begun < of.len()).then_some(begun);
        loop {
            let cut = match (next(newer, in_newer), next(older, in_older)) {
                (Some(a), Some(b)) => newer.start(a).min(older.start(b)),
                (Some(a), None) => newer.start(a),
                (None, Some(b)) => older.start(b),
                (None, None) => return outline.finish(),
            };
            in_newer += usize::from(next(newer, in_newer).is_some_and(|at| newer.start(at) == cut));
            in_older += usize::from(next(older, in_older).is_some_and(|at| older.start(at) == cut));
            let stamps = newer.last_of(in_newer).iter().chain(older.last_of(in_older));
            outline.add(cut, stamps.copied(), view);
        }
    }
}

/// A skyline in the making.
#[derive(Default)]
struct Outline {
    keys: Vec<u8>,
    key_ends: Vec<usize>,
    ends: Vec<usize>,
    stamps: Vec<Lsn>,
    /// Where in `stamps` those of the last stretch begin.
    last_from: usize,
}

impl Outline {
    /// The next stretch, with all its stamps (newest first). It keeps its newest, as a key keeps its
    /// newest version, and those that `view` keeps. One that says the same as the stretch before it
    /// is one with it.
    fn add(&mut self, start: &[u8], stamps: impl Iterator<Item = Lsn>, view: &PruneView) {
        #[cfg(all(test, not(loom)))]
        tests::STRETCHES_MADE.set(tests::STRETCHES_MADE.get() + 1);
        let from = self.stamps.len();
        let mut above = None;
        for stamp in stamps {
            if above.is_none_or(|above| view.keeps(stamp, above)) {
                self.stamps.push(stamp);
            }
            above = Some(stamp);
        }
        if !self.ends.is_empty() && self.stamps[self.last_from..from] == self.stamps[from..] {
            self.stamps.truncate(from);
            return;
        }
        self.keys.extend_from_slice(start);
        self.key_ends.push(self.keys.len());
        self.ends.push(self.stamps.len());
        self.last_from = from;
    }

    fn finish(self) -> Skyline {
        Skyline {
            oldest: self.stamps.iter().min().copied().unwrap_or(Lsn::ZERO),
            keys: self.keys.into(),
            key_ends: self.key_ends.into(),
            ends: self.ends.into(),
            stamps: self.stamps.into(),
            below: std::ptr::null_mut(),
            outline: Published::new(),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
