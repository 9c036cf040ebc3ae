//! The registry of live snapshots: who reads at which timestamp, and what pruning must therefore keep.
//!
//! A snapshot is a slot here, never an epoch pin: a long reader must not stop reclamation.
//!
//! Invariants:
//! 1. A slot is registered in this order: `open = S`, SeqCst fence, load the timestamp, `held =`
//!    timestamp, withdraw `open`. The pruner loads *visible*, the ends, `S`, fences, then the slots,
//!    `open` before `held`. So either it sees the slot, or the slot's owner, whose load comes after
//!    its fence, sees values at least as new as the pruner's.
//! 2. `open = L` means that the owner may come to hold any timestamp at or above `L`: it lowers the
//!    prune horizon to `L`.
//! 3. A slot that moves to a later timestamp keeps holding the old one until the new one is held.
//! 4. Register before loading a view of the data.

use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;
use isolith_index::PruneView;
use isolith_wal::Lsn;

use crate::sync::{AtomicBool, AtomicU64, Ordering, fence};
use crate::watermarks::Watermarks;

/// No timestamp: larger than every LSN, whose top bit is 0.
const NONE: u64 = u64::MAX;
/// Slots in the first block; each further block is twice as large.
#[cfg(not(loom))]
const FIRST_BLOCK: usize = 64;
#[cfg(loom)]
const FIRST_BLOCK: usize = 2;
/// Blocks at most: 64 · (2^16 − 1) slots, four million live snapshots.
#[cfg(not(loom))]
const BLOCKS: usize = 16;
#[cfg(loom)]
const BLOCKS: usize = 1;

#[derive(Debug)]
struct Slot {
    claimed: AtomicBool,
    open: AtomicU64,
    held: AtomicU64,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            open: AtomicU64::new(NONE),
            held: AtomicU64::new(NONE),
        }
    }
}

type Block = Box<[CachePadded<Slot>]>;

/// The slots of one database's live snapshots.
#[derive(Debug)]
pub struct SnapshotRegistry {
    blocks: [OnceLock<Block>; BLOCKS],
}

impl Default for SnapshotRegistry {
    fn default() -> Self {
        let registry = Self { blocks: std::array::from_fn(|_| OnceLock::new()) };
        if cfg!(loom) {
            // loom knows nothing of the order that a OnceLock gives.
            registry.block(0);
        }
        registry
    }
}

impl SnapshotRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a snapshot whose timestamp `load` chooses; `load` runs after the slot is open and
    /// must read a watermark of `marks` at or above `S`. `hint` spreads threads over the slots.
    /// `None` when four million snapshots are live.
    pub fn register(
        self: &Arc<Self>,
        marks: &Watermarks,
        hint: usize,
        load: impl FnOnce(&Watermarks) -> Lsn,
    ) -> Option<SnapshotSlot> {
        let (block, index) = self.claim(hint)?;
        let slot = SnapshotSlot { registry: Arc::clone(self), block, index };
        slot.hold(marks.acknowledged(), marks, load);
        Some(slot)
    }

    fn block(&self, number: usize) -> &Block {
        self.blocks[number]
            .get_or_init(|| (0..FIRST_BLOCK << number).map(|_| CachePadded::default()).collect())
    }

    fn claim(&self, hint: usize) -> Option<(usize, usize)> {
        for number in 0..BLOCKS {
            let slots = self.block(number);
            for step in 0..slots.len() {
                let index = (hint + step) % slots.len();
                let slot = &slots[index];
                // Relaxed: only a filter before the exchange.
                if !slot.claimed.load(Ordering::Relaxed)
                    // Acquire: pairs with the Release in `SnapshotSlot::drop`; the slot is empty.
                    && slot
                        .claimed
                        .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    return Some((number, index));
                }
            }
        }
        None
    }

    /// What must be kept, as of now: the timestamps that somebody reads at or may come to read at.
    /// The answer may be kept for later: an old view only prunes less.
    pub fn prune_view(&self, marks: &Watermarks) -> PruneView {
        // The order is the proof (rule 19): V, the ends, S, then the slots.
        let mut horizon = marks.visible();
        let mut needed = Vec::with_capacity(16);
        if !isolith_wal::planted!("prune-forgets-s") {
            marks.ends(&mut needed);
            needed.push(marks.acknowledged());
        }
        // SeqCst fence: pairs with the one in `SnapshotSlot::hold` (invariant 1).
        fence(Ordering::SeqCst);
        for block in &self.blocks {
            let Some(slots) = block.get() else { break };
            for slot in slots {
                // Acquire: pairs with the Release that withdraws `open` in `hold`; `held` is then
                // at least as new.
                let open = slot.open.load(Ordering::Acquire);
                if open != NONE {
                    horizon = horizon.min(Lsn::from_bits(open));
                }
                // Acquire: pairs with the Release of `held` in `SnapshotSlot::hold`, so that reads
                // through a released slot happen before what the pruner does next.
                let held = slot.held.load(Ordering::Acquire);
                if held != NONE {
                    needed.push(Lsn::from_bits(held));
                }
            }
        }
        PruneView::new(horizon, needed)
    }

    /// The oldest timestamp that a live snapshot holds, and how many snapshots are live.
    pub fn oldest(&self) -> (Option<Lsn>, usize) {
        let mut oldest = None;
        let mut count = 0;
        for block in &self.blocks {
            let Some(slots) = block.get() else { break };
            for slot in slots {
                // Relaxed: a statistic.
                let held = slot.held.load(Ordering::Relaxed);
                if held != NONE {
                    count += 1;
                    let held = Lsn::from_bits(held);
                    oldest = Some(oldest.map_or(held, |o: Lsn| o.min(held)));
                }
            }
        }
        (oldest, count)
    }
}

/// One live snapshot. Dropping it lets go of the history that it needs.
#[derive(Debug)]
pub struct SnapshotSlot {
    registry: Arc<SnapshotRegistry>,
    block: usize,
    index: usize,
}

impl SnapshotSlot {
    fn slot(&self) -> &Slot {
        // A slot is only made by `register`, after `claim` initialised its block.
        let block = self.registry.blocks[self.block].get();
        &block.expect("the block of a claimed slot exists")[self.index]
    }

    fn hold(&self, open: Lsn, marks: &Watermarks, load: impl FnOnce(&Watermarks) -> Lsn) -> Lsn {
        let slot = self.slot();
        #[cfg(planted)]
        if isolith_wal::planted!("snapshot-registered-without-recheck") {
            let timestamp = load(marks);
            isolith_wal::planted::dawdle();
            slot.held.store(timestamp.bits(), Ordering::Release);
            return timestamp;
        }
        // Relaxed: the fence below orders it before the load of the timestamp.
        slot.open.store(open.bits(), Ordering::Relaxed);
        // SeqCst fence: pairs with the one in `prune_view` (invariant 1).
        fence(Ordering::SeqCst);
        let timestamp = load(marks);
        debug_assert!(timestamp >= open, "a snapshot is never older than S when it was opened");
        // Release: pairs with the Acquire of `held` in `prune_view`.
        slot.held.store(timestamp.bits(), Ordering::Release);
        // Release: pairs with the Acquire of `open` in `prune_view`: who sees it withdrawn sees
        // `held`.
        slot.open.store(NONE, Ordering::Release);
        timestamp
    }

    /// The timestamp that this snapshot reads at.
    pub fn timestamp(&self) -> Lsn {
        // Relaxed: only the owner stores it.
        Lsn::from_bits(self.slot().held.load(Ordering::Relaxed))
    }

    /// Moves to a later timestamp, chosen by `load`; the old one is held until then.
    pub fn advance(&mut self, marks: &Watermarks, load: impl FnOnce(&Watermarks) -> Lsn) -> Lsn {
        self.hold(self.timestamp(), marks, load)
    }
}

impl Drop for SnapshotSlot {
    fn drop(&mut self) {
        let slot = self.slot();
        // Release: the owner's reads happen before a pruner that finds the slot empty (its Acquire
        // in `prune_view`).
        slot.held.store(NONE, Ordering::Release);
        // Release: pairs with the Acquire in `claim`.
        slot.claimed.store(false, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn lsn(counter: u64) -> Lsn {
        Lsn::new(1, counter)
    }

    #[test]
    fn prune_view_holds_s_the_ends_and_every_live_snapshot() {
        let marks = Watermarks::new(Lsn::ZERO);
        let registry = Arc::new(SnapshotRegistry::new());
        marks.publish(lsn(1));
        let old = registry.register(&marks, 0, Watermarks::visible).unwrap();
        marks.publish(lsn(2));
        marks.seal(Lsn::ZERO);
        marks.publish(lsn(5));
        let view = registry.prune_view(&marks);
        assert_eq!(view.horizon, lsn(5));
        assert_eq!(view.needed, [Lsn::ZERO, lsn(1), lsn(2), lsn(5)]);
        drop(old);
        assert_eq!(registry.prune_view(&marks).needed, [Lsn::ZERO, lsn(2), lsn(5)]);
    }

    #[test]
    fn a_snapshot_holds_its_old_timestamp_while_it_advances() {
        let marks = Watermarks::new(Lsn::ZERO);
        let registry = Arc::new(SnapshotRegistry::new());
        marks.publish(lsn(1));
        let mut slot = registry.register(&marks, 7, Watermarks::visible).unwrap();
        marks.publish(lsn(3));
        slot.advance(&marks, |marks| {
            let view = registry.prune_view(marks);
            assert_eq!(view.horizon, lsn(1));
            assert!(view.needed.contains(&lsn(1)));
            marks.visible()
        });
        assert_eq!(slot.timestamp(), lsn(3));
        assert_eq!(registry.oldest(), (Some(lsn(3)), 1));
    }

    #[test]
    fn the_registry_grows_and_reuses_its_slots() {
        let marks = Watermarks::new(Lsn::ZERO);
        let registry = Arc::new(SnapshotRegistry::new());
        let many: Vec<_> = (0..1000)
            .map(|hint| registry.register(&marks, hint, Watermarks::acknowledged).unwrap())
            .collect();
        assert_eq!(registry.oldest().1, 1000);
        drop(many);
        assert_eq!(registry.oldest(), (None, 0));
        let one = registry.register(&marks, 3, Watermarks::acknowledged).unwrap();
        assert_eq!((one.block, one.index), (0, 3));
    }
}
