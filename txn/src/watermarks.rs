//! How far the log has come: the four watermarks and the ends of batches under way.
//!
//! Invariants:
//! 1. *visible* is the largest LSN with every commit at or below it decided and installed. Only the
//!    leader of the commit window moves it, once per commit, after the commit's versions are linked.
//! 2. *written* and *durable* take only ends of contiguous batches, each cut from the prefix at or
//!    below *visible*; *weak* is the highest point acknowledged below `Sync`.
//! 3. `S = max(durable, weak) <= visible`. All four only grow.
//! 4. An end is in the list from before its batch is written until `S` has reached it, so whoever
//!    reads *visible*, then the ends, then `S` (the pruner) misses no future value of `S`. An end that
//!    `S` has passed can never become it again: commits below `Sync` raise *weak* above their batches'
//!    ends, and the list stays short although *durable* may not move for long.
//!
//! Cutting a batch reads *visible* and publishes it as the batch's end under one mutex, and the
//! pruner copies the ends under the same mutex: the two are atomic to each other, so the cut needs
//! no published intention of its own.

use crossbeam_utils::CachePadded;
use isolith_wal::Lsn;

use crate::sync::{AtomicU64, Mutex, Ordering};

/// The watermarks of one database. Shared by the commit window, the log and every reader.
#[derive(Debug)]
pub struct Watermarks {
    visible: CachePadded<AtomicU64>,
    written: CachePadded<AtomicU64>,
    durable: CachePadded<AtomicU64>,
    weak: CachePadded<AtomicU64>,
    /// Ends of sealed batches that `S` has not reached yet, ascending.
    ends: Mutex<Vec<Lsn>>,
    /// The last record handed to the log, for a bug that is planted.
    #[cfg(planted)]
    appended: AtomicU64,
}

impl Watermarks {
    /// All watermarks at `recovered`: what replay brought back is visible and durable.
    pub fn new(recovered: Lsn) -> Self {
        let at = || CachePadded::new(AtomicU64::new(recovered.bits()));
        Self {
            visible: at(),
            written: at(),
            durable: at(),
            weak: at(),
            ends: Mutex::new(Vec::with_capacity(64)),
            #[cfg(planted)]
            appended: at().into_inner(),
        }
    }

    /// Every commit at or below this is decided and its versions are linked.
    pub fn visible(&self) -> Lsn {
        // Acquire: pairs with the Release in `publish`; versions <= this are reachable.
        Lsn::from_bits(self.visible.load(Ordering::Acquire))
    }

    /// Everything at or below this was handed to the kernel.
    pub fn written(&self) -> Lsn {
        // Acquire: pairs with the Release in `advance_written`.
        Lsn::from_bits(self.written.load(Ordering::Acquire))
    }

    /// Everything at or below this is on stable storage.
    pub fn durable(&self) -> Lsn {
        // Acquire: pairs with the Release in `advance_durable`; implies visible >= durable.
        Lsn::from_bits(self.durable.load(Ordering::Acquire))
    }

    /// `S`: the highest point that somebody may have been told of. Read-only transactions begin here.
    pub fn acknowledged(&self) -> Lsn {
        // Acquire: pairs with the Release in `raise_weak`; versions <= weak are reachable.
        let weak = Lsn::from_bits(self.weak.load(Ordering::Acquire));
        self.durable().max(weak)
    }

    /// The window leader has linked every version of `lsn`.
    pub fn publish(&self, lsn: Lsn) {
        debug_assert!(lsn > self.visible(), "visible only grows");
        // Release: publishes the versions linked before it. Pairs with the Acquire in `visible`.
        self.visible.store(lsn.bits(), Ordering::Release);
    }

    /// A record was handed to the log and is not visible yet.
    #[cfg(planted)]
    pub fn note_appended(&self, lsn: Lsn) {
        self.appended.store(lsn.bits(), Ordering::SeqCst);
    }

    /// Acknowledges `lsn` below `Sync`. The window leader calls it for a `Buffered` commit right
    /// after [`Watermarks::publish`] and before the next one; an `Os` acknowledger calls it with a
    /// value of *written*. No other value is allowed: pruning counts on it (rule 17).
    pub fn raise_weak(&self, lsn: Lsn) {
        debug_assert!(lsn <= self.visible(), "weak never passes visible");
        // AcqRel: Release publishes the versions at or below `lsn` to the Acquire in
        // `acknowledged`; the raiser has itself acquired them through visible or written.
        self.weak.fetch_max(lsn.bits(), Ordering::AcqRel);
    }

    /// Cuts the next batch: its end is the current *visible*, put in the list of ends if it is
    /// beyond `last_end`. Returns that end; `last_end` itself means that there is nothing to write.
    pub fn seal(&self, last_end: Lsn) -> Lsn {
        let mut ends = self.ends.lock();
        let acknowledged = self.acknowledged();
        ends.retain(|&end| end > acknowledged);
        let end = self.visible();
        #[cfg(planted)]
        let end = match isolith_wal::planted!("batch-cut-beyond-visible") {
            true => end.max(Lsn::from_bits(self.appended.load(Ordering::SeqCst))),
            false => end,
        };
        if end > last_end {
            ends.push(end);
        }
        end.max(last_end)
    }

    /// The contiguous prefix up to `end` was handed to the kernel.
    pub fn advance_written(&self, end: Lsn) {
        // Release: pairs with the Acquire in `written`. fetch_max: callers come in order but for a
        // synced batch, which moves both marks.
        self.written.fetch_max(end.bits(), Ordering::Release);
    }

    /// The contiguous prefix up to `end` is on stable storage.
    pub fn advance_durable(&self, end: Lsn) {
        debug_assert!(
            end <= self.visible() || isolith_wal::planted!("batch-cut-beyond-visible"),
            "durable never passes visible"
        );
        self.advance_written(end);
        // Release: pairs with the Acquire in `durable`. Stored before the ends leave the list
        // (invariant 4).
        self.durable.fetch_max(end.bits(), Ordering::Release);
        self.ends.lock().retain(|&e| e > end);
    }

    /// Copies the ends of sealed batches into `into`.
    pub(crate) fn ends(&self, into: &mut Vec<Lsn>) {
        into.extend_from_slice(&self.ends.lock());
    }
}

impl isolith_wal::Horizon for Watermarks {
    fn seal(&self, last_end: Lsn) -> Lsn {
        Watermarks::seal(self, last_end)
    }

    fn written(&self, end: Lsn) {
        self.advance_written(end);
    }

    fn durable(&self, end: Lsn) {
        self.advance_durable(end);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn lsn(counter: u64) -> Lsn {
        Lsn::new(1, counter)
    }

    #[test]
    fn acknowledged_is_the_larger_of_durable_and_weak() {
        let marks = Watermarks::new(Lsn::ZERO);
        marks.publish(lsn(1));
        marks.publish(lsn(2));
        assert_eq!(marks.acknowledged(), Lsn::ZERO);
        marks.raise_weak(lsn(1));
        assert_eq!(marks.acknowledged(), lsn(1));
        assert_eq!(marks.seal(Lsn::ZERO), lsn(2));
        marks.advance_durable(lsn(2));
        assert_eq!(marks.acknowledged(), lsn(2));
        marks.raise_weak(lsn(1));
        assert_eq!(marks.acknowledged(), lsn(2));
    }

    #[test]
    fn ends_do_not_pile_up_while_nothing_is_synced() {
        let marks = Watermarks::new(Lsn::ZERO);
        let mut last = Lsn::ZERO;
        for counter in 1..1000 {
            marks.publish(lsn(counter));
            marks.raise_weak(lsn(counter));
            last = marks.seal(last);
        }
        assert_eq!(marks.durable(), Lsn::ZERO);
        let mut ends = Vec::new();
        marks.ends(&mut ends);
        assert!(ends.len() <= 1, "{} ends", ends.len());
    }

    #[test]
    fn an_end_stays_listed_until_it_is_durable() {
        let marks = Watermarks::new(Lsn::ZERO);
        let ends = |marks: &Watermarks| {
            let mut ends = Vec::new();
            marks.ends(&mut ends);
            ends
        };
        marks.publish(lsn(1));
        assert_eq!(marks.seal(Lsn::ZERO), lsn(1));
        marks.publish(lsn(2));
        assert_eq!(marks.seal(lsn(1)), lsn(2));
        assert_eq!(marks.seal(lsn(2)), lsn(2), "nothing new: no end is added");
        assert_eq!(ends(&marks), [lsn(1), lsn(2)]);
        marks.advance_durable(lsn(1));
        assert_eq!(ends(&marks), [lsn(2)]);
    }
}
