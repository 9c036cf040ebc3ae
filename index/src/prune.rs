//! Which versions may go, and their going.
//!
//! [`PruneView::keeps`] is the rule, a pure function; [`prune_chain`] applies it to a chain. The rule
//! is Steam's (Böttcher et al., 2019): judge against every timestamp that somebody may read at, not
//! only the oldest, so that one forgotten snapshot keeps one version of a key and not all since.
//!
//! 1. Kept, per key: the newest version's stamp, always (it is the validators' evidence); every
//!    version above the horizon (a reader may register anywhere there); for each needed timestamp the
//!    newest version at or below it, unless a range delete hides it there.
//! 2. A stale view keeps more, never less: timestamps leave the needed set only by moving up, and new
//!    ones are taken at or above the horizon or below it at a timestamp already needed.
//! 3. A version is read at the timestamps from its own stamp up to the next newer one's. A range
//!    delete hides it from some timestamp on, if at all: so if it is hidden at the least needed one
//!    of them, it is hidden at all of them, and those below it likewise.
//! 4. The chain's head is never unlinked. If nobody needs its value, a tombstone of the same stamp
//!    takes its place: no reader at a needed timestamp sees a difference, and what the validators look
//!    at stays the same.
//! 5. Only one thread unlinks from a chain, or replaces its head, at a time.
//! 6. What a kept merge builds on is kept: the merges under it and their base, unless a range delete
//!    lies between. But merges at or below the horizon are *folded*: a version of the same stamp that
//!    says the same by itself, or with less under it, takes the topmost one's place, so that a key
//!    that is merged into for ever has a short chain. An operator that fails leaves the run as it is.
//!    Where older layers lie under the memtable ([`Beneath`]), a run that the chain has no base for goes
//!    on down there: it never becomes a put here, and becomes one merge only if nothing there expires.
//! 7. Nothing is unlinked from under a merge, linked or not, that a reader may stand on: what it
//!    builds on goes with it or stays, and one that is kept for its stamp alone is replaced first. So
//!    who has found a merge may walk down from it at leisure.
#![expect(unsafe_code, reason = "unlinks and retires versions behind raw pointers")]

use std::borrow::Cow;
use std::ptr::NonNull;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::accounting::Accounting;
use crate::memtable::{Beneath, Memtable};
use crate::merge::{self, Base, MergeOperators, MergedValue, Operand};
use crate::node::NodePtr;
use crate::range_deletes::RangeDeletes;
use crate::sync::Guard;
use crate::version::{Kind, Value, Version, VersionRef};

/// A merge takes in what is under it unless that is more than so many times as large.
pub(crate) const GROWTH: usize = 4;

/// What a version weighs beside its bytes, in that comparison.
pub(crate) const MERGE_OVERHEAD: usize = 64;

/// A run of so many merges is folded into its base whatever that weighs.
pub(crate) const RUN_MAX: usize = 64;

/// What readers may still ask for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PruneView {
    /// Everything above it stays.
    pub horizon: Lsn,
    /// The timestamps that somebody reads at, or may: ascending, the horizon among them.
    pub needed: Vec<Lsn>,
    /// Everything at or below it is linked: at or above the horizon, which history that is retained
    /// holds far below it.
    pub linked: Lsn,
}

impl PruneView {
    /// The view in which only the newest version of each key is needed.
    pub fn newest_only() -> PruneView {
        PruneView { horizon: Lsn::MAX, needed: vec![Lsn::MAX], linked: Lsn::MAX }
    }

    /// The view of these timestamps, in any order, with this horizon.
    pub fn new(horizon: Lsn, needed: impl IntoIterator<Item = Lsn>) -> PruneView {
        let mut needed: Vec<Lsn> = needed.into_iter().chain([horizon]).collect();
        needed.sort_unstable();
        needed.dedup();
        PruneView { horizon, needed, linked: horizon }
    }

    /// The same, by somebody who knows that everything up to `linked` is linked.
    pub fn with_linked(self, linked: Lsn) -> PruneView {
        PruneView { linked: linked.max(self.horizon), ..self }
    }

    /// The least needed timestamp that a version stamped `stamp` can be read at.
    pub(crate) fn first_reader(&self, stamp: Lsn) -> Option<Lsn> {
        debug_assert!(self.needed.is_sorted(), "the needed timestamps ascend");
        self.needed.get(self.needed.partition_point(|&needed| needed < stamp)).copied()
    }

    /// Whether a version stamped `stamp` stays, when `newer` is the stamp of the next newer version of
    /// its key: it is above the horizon, or some needed timestamp is in `stamp..newer`.
    pub fn keeps(&self, stamp: Lsn, newer: Lsn) -> bool {
        stamp > self.horizon
            || !isolith_wal::planted!("newest-version-pruned")
                && self.first_reader(stamp).is_some_and(|reader| reader < newer)
    }

    /// Whether a version that stays does so for nothing but the oldest needed timestamp.
    fn keeps_for_oldest(&self, stamp: Lsn, newer: Lsn) -> bool {
        stamp <= self.horizon
            && self.needed.first().is_some_and(|&oldest| stamp <= oldest)
            && self.needed.get(1).is_none_or(|&next| next >= newer)
    }

    /// Whether a range delete hides a version of `key` stamped `stamp` wherever it would be needed.
    fn hides(&self, stamp: Lsn, key: &[u8], ranges: &RangeDeletes, guard: &Guard) -> bool {
        stamp <= self.horizon
            && self
                .first_reader(stamp)
                .is_some_and(|reader| ranges.cover(key, reader, guard).stamp > stamp)
    }
}

/// What a pruning took out, and what it came across and left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// Versions unlinked.
    pub versions: usize,
    /// The memory that they took. It is freed when no pinned reader can be looking at it.
    pub bytes: usize,
    /// Versions that stay though they are not the newest of their key.
    pub kept_versions: usize,
    /// The memory that they take.
    pub kept_bytes: usize,
    /// Of these, the bytes that nothing but the view's oldest needed timestamp asks for.
    pub kept_bytes_oldest: usize,
}

impl Freed {
    pub(crate) fn add(&mut self, other: Freed) {
        self.versions += other.versions;
        self.bytes += other.bytes;
        self.kept_versions += other.kept_versions;
        self.kept_bytes += other.kept_bytes;
        self.kept_bytes_oldest += other.kept_bytes_oldest;
    }
}

/// A round of pruning: what it takes to prune any chain of a memtable.
pub(crate) struct Pruning<'p> {
    pub(crate) memtable: &'p Memtable,
    pub(crate) view: &'p PruneView,
    pub(crate) operators: &'p dyn MergeOperators,
    /// Whether what range deletes hide goes, too.
    pub(crate) hiding: bool,
    pub(crate) guard: &'p Guard,
}

/// Ends a node's pruning however the round ends: operators are other people's code, and may panic.
struct Unlock<'n>(NodePtr<'n>);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

impl Pruning<'_> {
    fn accounting(&self) -> &Arc<Accounting> {
        &self.memtable.accounting
    }

    /// Whether a range delete hides a version stamped `stamp` wherever it would be needed, if this
    /// round is to look at that.
    fn hidden(&self, node: NodePtr<'_>, stamp: Lsn) -> bool {
        let ranges = &self.memtable.range_deletes;
        self.hiding && self.view.hides(stamp, node.key(), ranges, self.guard)
    }

    /// What a merge stamped `stamp` builds on begins at this stamp.
    fn cover(&self, node: NodePtr<'_>, stamp: Lsn) -> Lsn {
        self.memtable.range_deletes.cover(node.key(), stamp, self.guard).stamp
    }

    /// Unlinks and retires the versions of one chain that the view does not keep, and folds merges.
    /// Does nothing if another thread is at it.
    pub(crate) fn prune(&self, node: NodePtr<'_>) -> Freed {
        // SAFETY: it is called below with heads that were loaded under `guard`.
        let is_waste = |version| unsafe {
            Version::outweighs_tombstone(version) && self.hidden(node, Version::stamp(version))
        };
        // A look without the bit, for the usual chain of one version.
        // SAFETY: pinned by `guard` since before the head was loaded.
        let any = |version| unsafe { Version::next(version) }.is_some() || is_waste(version);
        if !node.newest_version().is_some_and(any) || !node.try_lock() {
            return Freed::default();
        }
        let _unlock = Unlock(node);
        // Loaded anew, under the bit: the head seen before may have been superseded and unlinked by
        // another pruner since, and what follows it would be retired twice.
        let Some(newest) = node.newest_version() else { return Freed::default() };
        let mut freed = Freed::default();
        // SAFETY: `guard` pins this thread since before the head was loaded, and the bit makes it the
        // chain's only pruner, so that what is linked stays linked but for what is done here.
        unsafe {
            // First of all: nothing goes from under a merge that is still linked (invariant 7).
            let mut kept = newest;
            if is_waste(newest) {
                kept = Value::empty().into_version(Kind::Delete, 0);
                self.supersede(node, None, newest, kept, 1, &mut freed);
            }
            self.unlink(node, kept, &mut freed);
        }
        freed
    }

    /// Folds the newest merge of a chain under which all is linked, if it is one of many, and leaves
    /// the rest: where all history is kept, a read of the newest then has a short way. Does nothing if
    /// another thread is at it.
    pub(crate) fn fold_newest(&self, node: NodePtr<'_>) -> Freed {
        let mut freed = Freed::default();
        // SAFETY: pinned by `guard` since before the head was loaded.
        let is_merge = |version| unsafe { Version::is_merge(version) };
        if !node.newest_version().is_some_and(is_merge) || !node.try_lock() {
            return freed;
        }
        let _unlock = Unlock(node);
        let mut above = None;
        let mut at = node.newest_version();
        // SAFETY: pinned, and the chain's only pruner: what is reached is not freed. Of
        // a merge at or below `linked` all that is older is there, range deletes included.
        unsafe {
            while let Some(version) =
                at.filter(|&version| Version::stamp(version) > self.view.linked)
            {
                (above, at) = (at, Version::next(version));
            }
            if let Some(version) = at.filter(|&version| is_merge(version)) {
                let cover = self.cover(node, Version::stamp(version));
                self.fold(node, above, version, cover, &mut freed);
            }
        }
        freed
    }

    /// Goes down the chain from `newest`, which stays: folds merges that stay, and unlinks what does
    /// not.
    ///
    /// # Safety
    /// This thread is the chain's pruner, pinned since before `newest` was loaded from its head, or
    /// was put there by this thread.
    unsafe fn unlink(&self, node: NodePtr<'_>, newest: NonNull<Version>, freed: &mut Freed) {
        let mut above = None;
        let mut kept = newest;
        // The stamp of what came before it.
        let mut newer = Lsn::MAX;
        // SAFETY: only the pruner unlinks (caller), so every version is reached through its chain and
        // not freed while this thread is pinned. Each run of unlinked versions is retired once, after
        // it was unlinked.
        unsafe {
            loop {
                let stamp = Version::stamp(kept);
                // What a merge that stays builds on stays, down to the base.
                let mut builds_on = None;
                if Version::is_merge(kept) {
                    let cover = self.cover(node, stamp);
                    if stamp <= self.view.horizon {
                        kept = self.fold(node, above, kept, cover, freed);
                    }
                    builds_on = Version::is_merge(kept).then_some(cover);
                }
                if above.is_some() {
                    let bytes = Version::footprint(kept);
                    freed.kept_versions += 1;
                    freed.kept_bytes += bytes;
                    if self.view.keeps_for_oldest(stamp, newer) {
                        freed.kept_bytes_oldest += bytes;
                    }
                }
                let first = Version::next(kept);
                newer = stamp;
                let mut run = Freed::default();
                let mut at = first;
                while let Some(version) = at {
                    let stamp = Version::stamp(version);
                    if builds_on.is_some_and(|cover| stamp >= cover)
                        || self.view.keeps(stamp, newer) && !self.hidden(node, stamp)
                    {
                        break;
                    }
                    newer = stamp;
                    run.versions += 1;
                    run.bytes += Version::footprint(version);
                    at = Version::next(version);
                }
                if let Some(first) = first.filter(|_| run.versions > 0) {
                    Version::relink(kept, at);
                    let free = move || free_run(first, run.versions);
                    self.accounting().retire(self.guard, run.bytes, free);
                    freed.add(run);
                }
                let Some(next) = at else { return };
                (above, kept) = (Some(kept), next);
            }
        }
    }

    /// Puts what the merge `topmost` and those under it come to in its place, if that is worth it;
    /// returns what is in its place now. `above` is the version over it; None: it was the head.
    ///
    /// A run of merges becomes a put where its base is not much larger than all of them. Else those
    /// of them that nobody reads by themselves become one merge, each taking in the one under it
    /// unless that is much larger (the logarithmic method, as for range deletes): so an append to a
    /// long value does not copy the value each time, and yet a run has few merges.
    ///
    /// # Safety
    /// As for [`Pruning::unlink`]; `topmost` is a merge of the chain that a reader at its stamp sees,
    /// and `cover` what [`Pruning::cover`] says of it.
    unsafe fn fold(
        &self,
        node: NodePtr<'_>,
        above: Option<NonNull<Version>>,
        topmost: NonNull<Version>,
        cover: Lsn,
        freed: &mut Freed,
    ) -> NonNull<Version> {
        // SAFETY: as in `unlink`: what is reached from `topmost` is in the chain, or was unlinked by
        // this call.
        let top = unsafe { VersionRef::new(topmost) };
        let mut merges = Vec::new();
        // How many of them nobody reads by themselves, the topmost apart.
        let (mut own, mut is_own) = (0, true);
        let mut base = None;
        let mut base_stays = false;
        let mut newer = top.stamp();
        let mut next = Some(top);
        while let Some(version) = next.filter(|version| version.stamp() >= cover) {
            let stamp = version.stamp();
            let first = merges.is_empty();
            let stays = !first && self.view.keeps(stamp, newer) && !self.hidden(node, stamp);
            is_own &= !stays;
            if let Kind::Merge { operator } = version.kind() {
                own += usize::from(is_own && !first);
                let (bytes, at_ms) = (version.value(), version.expires_at());
                merges.push(Operand { operator, bytes, at_ms });
            } else {
                (base, base_stays) = (Some(version), stays);
                break;
            }
            newer = stamp;
            next = version.older();
        }
        if merges.len() == 1 && (base.is_none() || base_stays) {
            return topmost;
        }
        // Whether the base, if there is one, lies in an older layer.
        let open_ended = base.is_none() && cover == Lsn::ZERO;
        let open_ended = open_ended && self.memtable.beneath != Beneath::Nothing;
        let put = base.filter(|base| base.kind() == Kind::Put);
        let put = put.map(|put| Base { value: put.value(), expires_at: put.expires_at() });
        let weight = |bytes: &[u8]| bytes.len() + MERGE_OVERHEAD;
        let base_weight = put.map_or(0, |put| weight(put.value));
        let run_weight: usize = merges.iter().map(|merge| weight(merge.bytes)).sum();
        // Above the horizon all stays, and this is one more.
        let spare = top.stamp() > self.view.horizon;
        let light = base_weight <= GROWTH * run_weight;
        let long = merges.len() >= RUN_MAX;
        if !open_ended && (light && long || !spare && (light || long)) {
            let run: Vec<Operand<'_>> = merges.iter().rev().copied().collect();
            if let Ok(MergedValue { value, expires_at }) = merge::fold(put, &run, self.operators) {
                let put = Value::from(value).into_version(Kind::Put, expires_at);
                // SAFETY: fresh, and what follows `topmost` follows it.
                unsafe { self.supersede(node, above, topmost, put, 1, freed) };
                return put;
            }
        }
        if spare {
            return topmost;
        }
        // Which of them find a base expired is lost in combining.
        if put.is_some_and(|put| put.expires_at != 0)
            || open_ended && self.memtable.beneath == Beneath::Expiring
        {
            return topmost;
        }
        let mut combined = Cow::Borrowed(merges[0].bytes);
        let (operator, at_ms, mut taken) = (merges[0].operator, merges[0].at_ms, 0);
        for merge in &merges[1..=own] {
            if merge.operator != operator || weight(merge.bytes) > GROWTH * weight(&combined) {
                break;
            }
            match self.operators.combine(operator, merge.bytes, &combined) {
                Ok(both) => combined = Cow::Owned(both),
                Err(_) => break,
            }
            taken += 1;
        }
        if taken == 0 {
            return topmost;
        }
        let merge = Value::new(&combined).into_version(Kind::Merge { operator }, at_ms);
        // SAFETY: fresh; the `taken` versions after `topmost` have gone into it.
        unsafe { self.supersede(node, above, topmost, merge, 1 + taken, freed) };
        merge
    }

    /// Puts `version` in the place of the `count` versions from `topmost` on, with the stamp of that,
    /// and retires them.
    ///
    /// # Safety
    /// As for [`Pruning::fold`]; the caller owns `version` and gives it up, and no reader whom the view
    /// knows of sees a difference.
    unsafe fn supersede(
        &self,
        node: NodePtr<'_>,
        above: Option<NonNull<Version>>,
        topmost: NonNull<Version>,
        version: NonNull<Version>,
        count: usize,
        freed: &mut Freed,
    ) {
        // SAFETY: the versions are linked (caller), `version` is not until `replace` or `relink`
        // publishes it, and the others are unlinked when they are retired: as one run, once.
        unsafe {
            let mut run = Freed::default();
            let mut below = Some(topmost);
            for _ in 0..count {
                let Some(old) = below else { break };
                run.versions += 1;
                run.bytes += Version::footprint(old);
                below = Version::next(old);
            }
            let bytes = Version::footprint(version);
            let replaced = above.is_none() && node.replace(topmost, version, below);
            if !replaced {
                Version::stamp_for_link(version, Version::stamp(topmost), as_ptr(below));
                let mut over = above.or_else(|| node.newest_version());
                // Somebody wrote the key meanwhile: what came on top leads to `topmost`.
                while let Some(at) = over.filter(|&at| Version::next(at) != Some(topmost)) {
                    over = Version::next(at);
                }
                let over = over.expect("what was the head is still linked");
                Version::relink(over, Some(version));
            }
            self.accounting().add(bytes);
            let free = move || free_run(topmost, run.versions);
            self.accounting().retire(self.guard, run.bytes, free);
            freed.add(Freed { bytes: run.bytes.saturating_sub(bytes), ..run });
        }
    }
}

fn as_ptr(version: Option<NonNull<Version>>) -> *mut Version {
    version.map_or(std::ptr::null_mut(), NonNull::as_ptr)
}

/// Frees `count` versions that follow each other from `first`; returns their bytes.
///
/// # Safety
/// They were unlinked as one run, and no thread can reach them any more.
unsafe fn free_run(first: NonNull<Version>, count: usize) -> usize {
    let mut freed = 0;
    let mut at = Some(first);
    for _ in 0..count {
        let version = at.expect("an unlinked version keeps its link");
        // SAFETY: exclusive (caller); within the run each link leads to the next of the run, since
        // nobody writes the links of what was unlinked.
        unsafe {
            at = Version::next(version);
            freed += Version::free(version);
        }
    }
    freed
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(counter: u64) -> Lsn {
        Lsn::new(0, counter)
    }

    /// Text in, text out: a chain's stamps, a horizon, the needed timestamps; what stays.
    fn kept(stamps: &[u64], horizon: u64, needed: &[u64]) -> Vec<u64> {
        let view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
        let mut kept = vec![stamps[0]];
        for pair in stamps.windows(2) {
            if view.keeps(at(pair[1]), at(pair[0])) {
                kept.push(pair[1]);
            }
        }
        kept
    }

    #[test]
    fn newest_version_always_stays() {
        assert_eq!(kept(&[9], 20, &[]), [9]);
        assert_eq!(kept(&[9, 8, 7], 20, &[]), [9]);
    }

    #[test]
    fn versions_above_the_horizon_stay_and_the_one_that_the_horizon_reads() {
        assert_eq!(kept(&[30, 25, 20, 15, 10], 20, &[]), [30, 25, 20]);
        assert_eq!(kept(&[30, 25, 20, 15, 10], 22, &[]), [30, 25, 20]);
        assert_eq!(kept(&[30, 25, 20, 15, 10], 9, &[]), [30, 25, 20, 15, 10]);
    }

    #[test]
    fn each_needed_timestamp_keeps_the_one_version_that_it_reads() {
        let stamps: Vec<u64> = (1..=10).rev().map(|n| n * 10).collect();
        assert_eq!(kept(&stamps, 100, &[35, 37, 39]), [100, 30]);
        assert_eq!(kept(&stamps, 100, &[30]), [100, 30]);
        assert_eq!(kept(&stamps, 100, &[29, 71]), [100, 70, 20]);
        assert_eq!(kept(&stamps, 100, &[5]), [100]);
    }

    #[test]
    fn what_one_commit_wrote_twice_goes() {
        assert_eq!(kept(&[10, 10, 5], 10, &[10]), [10]);
        assert_eq!(kept(&[10, 10, 5], 10, &[7]), [10, 5]);
    }

    #[test]
    fn rule_agrees_with_reading_every_timestamp() {
        // All subsets of stamps and needed timestamps in 1..=5, all horizons: what a reader at a
        // needed timestamp, or at any above the horizon, sees must be kept, and nothing else below.
        for stamps in 1..32u32 {
            for needed in 0..32u32 {
                for horizon in 0..=5u64 {
                    let stamps: Vec<u64> =
                        (1..=5).rev().filter(|n| stamps >> (n - 1) & 1 == 1).collect();
                    let mut reads: Vec<u64> =
                        (1..=5).filter(|n| needed >> (n - 1) & 1 == 1).collect();
                    let kept = kept(&stamps, horizon, &reads);
                    reads.push(horizon);
                    reads.extend(horizon + 1..=6);
                    let mut seen: Vec<u64> = reads
                        .iter()
                        .filter_map(|read| stamps.iter().find(|&stamp| stamp <= read).copied())
                        .chain([stamps[0]])
                        .collect();
                    seen.sort_unstable();
                    seen.dedup();
                    seen.reverse();
                    assert_eq!(kept, seen, "{stamps:?}, horizon {horizon}, reads {reads:?}");
                }
            }
        }
    }
}
