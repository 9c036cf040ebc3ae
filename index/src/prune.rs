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
#![expect(unsafe_code, reason = "unlinks and retires versions behind raw pointers")]

use std::ptr::NonNull;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::accounting::Accounting;
use crate::node::NodePtr;
use crate::range_deletes::RangeDeletes;
use crate::sync::Guard;
use crate::version::{Kind, Value, Version};

/// What readers may still ask for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PruneView {
    /// Everything above it stays.
    pub horizon: Lsn,
    /// The timestamps that somebody reads at, or may: ascending, the horizon among them.
    pub needed: Vec<Lsn>,
}

impl PruneView {
    /// The view in which only the newest version of each key is needed.
    pub fn newest_only() -> PruneView {
        PruneView { horizon: Lsn::MAX, needed: vec![Lsn::MAX] }
    }

    /// The view of these timestamps, in any order, with this horizon.
    pub fn new(horizon: Lsn, needed: impl IntoIterator<Item = Lsn>) -> PruneView {
        let mut needed: Vec<Lsn> = needed.into_iter().chain([horizon]).collect();
        needed.sort_unstable();
        needed.dedup();
        PruneView { horizon, needed }
    }

    /// The least needed timestamp that a version stamped `stamp` can be read at.
    fn first_reader(&self, stamp: Lsn) -> Option<Lsn> {
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

/// Unlinks and retires the versions of one chain that `view` does not keep; with `hiding`, also what
/// these range deletes hide. Does nothing if another thread is at it.
pub(crate) fn prune_chain(
    node: NodePtr<'_>,
    view: &PruneView,
    hiding: Option<&RangeDeletes>,
    accounting: &Arc<Accounting>,
    guard: &Guard,
) -> Freed {
    let mut freed = Freed::default();
    let hidden = |stamp| hiding.is_some_and(|r| view.hides(stamp, node.key(), r, guard));
    // SAFETY: it is called below with heads that were loaded under `guard`.
    let is_waste = |version| unsafe {
        Version::outweighs_tombstone(version) && hidden(Version::stamp(version))
    };
    // A look without the bit, for the usual chain of one version.
    // SAFETY: pinned by `guard` since before the head was loaded.
    let any = |version| unsafe { Version::next(version) }.is_some() || is_waste(version);
    if !node.newest_version().is_some_and(any) || !node.try_lock() {
        return freed;
    }
    // Loaded anew, under the bit: the head seen before may have been superseded and unlinked by
    // another pruner since, and what follows it would be retired twice.
    let Some(newest) = node.newest_version() else {
        node.unlock();
        return freed;
    };
    // SAFETY: `guard` pins this thread, and the bit makes it the chain's only pruner,
    // so that what is linked stays linked but for what is done here; a new head may come on top of
    // `newest`, which is no matter in the loop, and makes `replace` fail. Each run of unlinked versions
    // is retired once, after it was unlinked.
    unsafe {
        let mut kept = newest;
        let mut above = Version::stamp(newest);
        let mut at = Version::next(newest);
        let stays = |stamp, above| view.keeps(stamp, above) && !hidden(stamp);
        while let Some(version) = at {
            let stamp = Version::stamp(version);
            if stays(stamp, above) {
                let bytes = Version::footprint(version);
                freed.kept_versions += 1;
                freed.kept_bytes += bytes;
                if view.keeps_for_oldest(stamp, above) {
                    freed.kept_bytes_oldest += bytes;
                }
                kept = version;
                above = stamp;
                at = Version::next(version);
                continue;
            }
            // Find the whole run that goes, unlink it, then retire it.
            let first = version;
            let mut run = Freed::default();
            while let Some(version) = at {
                let stamp = Version::stamp(version);
                if stays(stamp, above) {
                    break;
                }
                above = stamp;
                run.versions += 1;
                run.bytes += Version::footprint(version);
                at = Version::next(version);
            }
            Version::relink(kept, at);
            accounting.retire(guard, run.bytes, move || free_run(first, run.versions));
            freed.add(run);
        }
        if is_waste(newest) {
            let tombstone = Value::empty().into_version(Kind::Delete, 0);
            let (bytes, less) = (Version::footprint(newest), Version::footprint(tombstone));
            if node.replace(newest, tombstone) {
                accounting.add(less);
                accounting.retire(guard, bytes, move || free_run(newest, 1));
                freed.versions += 1;
                freed.bytes += bytes - less;
            } else {
                // Somebody wrote the key meanwhile. What they put it on is pruned another time.
                Version::free(tombstone);
            }
        }
    }
    node.unlock();
    freed
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
