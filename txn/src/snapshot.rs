//! The registry of live snapshots: who reads at which timestamp, and what pruning must therefore keep.
//!
//! A snapshot is a slot here, never an epoch pin: a long reader must not stop reclamation.
//!
//! Invariants:
//! 1. A slot is registered in this order: `open = S`, SeqCst fence, load the timestamp, `held =`
//!    timestamp, withdraw `open`. The pruner loads *visible*, the ends, `S`, the floor, fences, then
//!    the slots, `open` before `held`. So either it sees the slot, or the slot's owner, whose load
//!    comes after its fence, sees values at least as new as the pruner's.
//! 2. `open = L` means that the owner may come to hold any timestamp at or above `L`: it lowers the
//!    prune horizon to `L`.
//! 3. A slot that moves to a later timestamp keeps holding the old one until the new one is held.
//! 4. Register before loading a view of the data.
//!
//! **The past.** Where history is retained there is a *floor*: pruning keeps everything above it, as
//! it does above the horizon, so that any timestamp at or above it can be read. It only grows.
//!
//! 5. Registering at a timestamp `t` of the past: `open = t`, SeqCst fence, load the floor, give up
//!    if it is beyond `t`; `held = t`, withdraw `open`. Let a pruner have loaded the floor `f`. If its
//!    fence comes first, the owner loads a floor of at least `f`: either it gives up, or `f <= t`, and
//!    what is read at `t` is above the pruner's horizon or is the version that the horizon reads. If
//!    the owner's fence comes first, the pruner sees `open = t` or `held = t`. Either way what is
//!    read at `t` stays.
//! 6. Below the floor a timestamp can be read only where a live snapshot holds it, by sharing its
//!    slot: a count of owners is raised from above 0, then `held` must still be `t`. From then on it
//!    stays `t` until the last owner has left, and it has been there, for every pruner to see, since
//!    before the first one read. A slot of one's own would be too late: a pruner may have passed it
//!    empty, and find the source's slot empty, too. Only snapshots are shared: they never move.
//!
//! **Expiry.** A reader that is too old loses its history, and learns of it.
//!
//! 7. A slot is marked expired, by Release, before any pruner ignores it; who ignores it has seen the
//!    mark, by Acquire, and unlinks by Release. The reader walks by Acquire, and looks at the mark
//!    *after* each read: if it has met anything that a pruner did for want of this slot, it sees the
//!    mark; if not, it has read what it was promised.
//! 8. A commit first marks its slot kept, which an expired one refuses, and a kept one never expires:
//!    so what the validation looks at is there.
//! 9. A slot that is taken anew has left `expired` behind: a pruner that still sees the old mark has
//!    fenced before the new owner, whose timestamp is then at least as new as the pruner's (1).

mod slot;

use std::sync::{Arc, OnceLock};

use crossbeam_utils::CachePadded;
use isolith_index::PruneView;
use isolith_wal::Lsn;

use self::slot::{NONE, Slot};
use crate::sync::{AtomicU64, Ordering, fence};
use crate::watermarks::Watermarks;

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

type Block = Box<[CachePadded<Slot>]>;

/// Who reads through a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// A transaction. Its slot has one owner, and may move to a later timestamp.
    Transaction,
    /// A snapshot. Its timestamp stands, so that others may join it.
    Snapshot,
}

/// The reader has been refused its history: it was too old.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expired;

/// Why a timestamp cannot be registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// It is beyond the last acknowledged commit.
    Ahead,
    /// Its history may be gone.
    TooOld,
    /// Four million snapshots are live.
    Full,
}

/// A live reader, as the statistics show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiveReader {
    /// The timestamp that it holds.
    pub timestamp: Lsn,
    /// Who reads there. Of several at one timestamp, the first to be found.
    pub reader: Reader,
    /// When it registered, or last moved: the registry's coarse time.
    pub since: u64,
}

/// The slots of one database's live snapshots.
#[derive(Debug)]
pub struct SnapshotRegistry {
    blocks: [OnceLock<Block>; BLOCKS],
    /// The retention floor; `NONE` where nothing is retained for its own sake.
    floor: CachePadded<AtomicU64>,
    /// Milliseconds since some beginning, as [`SnapshotRegistry::tick`] was last told.
    now: CachePadded<AtomicU64>,
}

impl Default for SnapshotRegistry {
    fn default() -> Self {
        let registry = Self {
            blocks: std::array::from_fn(|_| OnceLock::new()),
            floor: CachePadded::new(AtomicU64::new(NONE)),
            now: CachePadded::new(AtomicU64::new(0)),
        };
        if cfg!(loom) {
            // loom knows nothing of the order that a OnceLock gives.
            registry.block(0);
        }
        registry
    }
}

impl SnapshotRegistry {
    /// An empty registry, of a database that retains no history for its own sake.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty registry, of a database that retains history: at first everything after `floor`.
    pub fn with_floor(floor: Lsn) -> Self {
        let registry = Self::default();
        registry.raise_floor(floor);
        registry
    }

    /// Registers a transaction whose timestamp `load` chooses; `load` runs after the slot is open and
    /// must read a watermark of `marks` at or above `S`. `hint` spreads threads over the slots.
    /// `None` when four million snapshots are live.
    pub fn register(
        self: &Arc<Self>,
        marks: &Watermarks,
        hint: usize,
        load: impl FnOnce(&Watermarks) -> Lsn,
    ) -> Option<SnapshotSlot> {
        self.register_reader(Reader::Transaction, marks, hint, load)
    }

    /// Registers a reader of either kind.
    pub fn register_reader(
        self: &Arc<Self>,
        reader: Reader,
        marks: &Watermarks,
        hint: usize,
        load: impl FnOnce(&Watermarks) -> Lsn,
    ) -> Option<SnapshotSlot> {
        let mut slot = self.claim(reader, hint)?;
        slot.hold(marks.acknowledged(), marks, load);
        Some(slot)
    }

    /// Registers a snapshot at a timestamp of the past: at or above the floor, or one that a live
    /// snapshot holds, or `S` itself.
    pub fn register_at(
        self: &Arc<Self>,
        timestamp: Lsn,
        marks: &Watermarks,
        hint: usize,
    ) -> Result<SnapshotSlot, Unreadable> {
        if timestamp > marks.acknowledged() {
            return Err(Unreadable::Ahead);
        }
        if self.floor().is_some_and(|floor| floor <= timestamp) {
            let mut slot = self.claim(Reader::Snapshot, hint).ok_or(Unreadable::Full)?;
            if slot.hold_at(timestamp) {
                return Ok(slot);
            }
        }
        if let Some(slot) = self.share(timestamp) {
            return Ok(slot);
        }
        let mark = Watermarks::acknowledged;
        let slot = self.register_reader(Reader::Snapshot, marks, hint, mark);
        let slot = slot.ok_or(Unreadable::Full)?;
        if slot.timestamp() == timestamp { Ok(slot) } else { Err(Unreadable::TooOld) }
    }

    /// Joins a live snapshot that holds `timestamp` (invariant 6).
    fn share(self: &Arc<Self>, timestamp: Lsn) -> Option<SnapshotSlot> {
        self.slots().find_map(|(block, index, slot)| {
            // Relaxed: only a filter; `Slot::share` looks again.
            let found = slot.held.load(Ordering::Relaxed) == timestamp.bits()
                && slot.share(timestamp.bits());
            let (registry, reader) = (self, Reader::Snapshot);
            found.then(|| SnapshotSlot {
                registry: Arc::clone(registry),
                block,
                index,
                reader,
                timestamp,
            })
        })
    }

    fn block(&self, number: usize) -> &Block {
        self.blocks[number]
            .get_or_init(|| (0..FIRST_BLOCK << number).map(|_| CachePadded::default()).collect())
    }

    /// Every slot, with its place.
    fn slots(&self) -> impl Iterator<Item = (usize, usize, &Slot)> {
        let blocks = self.blocks.iter().map_while(OnceLock::get).enumerate();
        blocks.flat_map(|(number, slots)| {
            slots.iter().enumerate().map(move |(index, slot)| (number, index, &**slot))
        })
    }

    fn claim(self: &Arc<Self>, reader: Reader, hint: usize) -> Option<SnapshotSlot> {
        let now = self.now();
        for block in 0..BLOCKS {
            let slots = self.block(block);
            for step in 0..slots.len() {
                let index = (hint + step) % slots.len();
                if slots[index].claim(reader, now) {
                    let (registry, timestamp) = (Arc::clone(self), Lsn::MAX);
                    return Some(SnapshotSlot { registry, block, index, reader, timestamp });
                }
            }
        }
        None
    }

    /// The timestamp from which on everything is retained; `None` where nothing is.
    pub fn floor(&self) -> Option<Lsn> {
        // Relaxed: where it matters, the fences order it (invariant 5).
        let floor = self.floor.load(Ordering::Relaxed);
        (floor != NONE).then(|| Lsn::from_bits(floor))
    }

    /// Raises the floor to `to`, a value that `S` has had. One thread at a time.
    pub fn raise_floor(&self, to: Lsn) {
        if self.floor().is_none_or(|floor| floor < to) {
            // Relaxed: as in `floor`.
            self.floor.store(to.bits(), Ordering::Relaxed);
        }
    }

    /// What must be kept, as of now: the timestamps that somebody reads at or may come to read at.
    /// The answer may be kept for later: an old view only prunes less.
    pub fn prune_view(&self, marks: &Watermarks) -> PruneView {
        // The order is the proof (rule 19): V, the ends, S, the floor, then the slots.
        let visible = marks.visible();
        let mut horizon = visible;
        let mut needed = Vec::with_capacity(16);
        if !isolith_wal::planted!("prune-forgets-s") {
            marks.ends(&mut needed);
            needed.push(marks.acknowledged());
        }
        if let Some(floor) = self.floor() {
            horizon = horizon.min(floor);
        }
        // SeqCst fence: pairs with the ones in `SnapshotSlot::hold` and `hold_at` (invariants 1, 5).
        fence(Ordering::SeqCst);
        for (_, _, slot) in self.slots() {
            let word = slot.word();
            if word.is_free() || word.is_expired() {
                continue;
            }
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
        PruneView::new(horizon, needed).with_linked(visible)
    }

    /// Tells the time, in milliseconds since some beginning: slots that register from now on are as
    /// old as this. It never goes back; returns where it stands.
    pub fn tick(&self, now: u64) -> u64 {
        // Relaxed: a coarse time; it orders nothing.
        self.now.fetch_max(now, Ordering::Relaxed).max(now)
    }

    /// Where the time stands (see [`SnapshotRegistry::tick`]).
    pub fn now(&self) -> u64 {
        // Relaxed: as in `tick`.
        self.now.load(Ordering::Relaxed)
    }

    /// Refuses their history to all readers that registered before `since`, but for those that are
    /// committing. Returns how many there were.
    pub fn expire(&self, since: u64) -> usize {
        let expire = |slot: &Slot| {
            let word = slot.word();
            word.since() < since && slot.expire(word)
        };
        self.slots().filter(|(_, _, slot)| expire(slot)).count()
    }

    /// The live reader that holds the oldest timestamp, and how many live. Expired ones do not count.
    pub fn oldest(&self) -> (Option<LiveReader>, usize) {
        let live = self.slots().filter_map(|(_, _, slot)| {
            let word = slot.word();
            // Relaxed: a statistic.
            let held = slot.held.load(Ordering::Relaxed);
            let lives = held != NONE && !word.is_free() && !word.is_expired();
            let timestamp = Lsn::from_bits(held);
            lives.then(|| LiveReader { timestamp, reader: word.reader(), since: word.since() })
        });
        live.fold((None, 0), |(oldest, count), reader| {
            let older = |oldest: &LiveReader| oldest.timestamp <= reader.timestamp;
            (Some(oldest.filter(older).unwrap_or(reader)), count + 1)
        })
    }
}

/// One live snapshot. Dropping it lets go of the history that it needs.
#[derive(Debug)]
pub struct SnapshotSlot {
    registry: Arc<SnapshotRegistry>,
    block: usize,
    index: usize,
    reader: Reader,
    /// What the slot holds.
    timestamp: Lsn,
}

impl SnapshotSlot {
    fn slot(&self) -> &Slot {
        // A `SnapshotSlot` is only made of a slot that exists.
        let block = self.registry.blocks[self.block].get();
        &block.expect("the block of a claimed slot exists")[self.index]
    }

    fn hold(&mut self, open: Lsn, marks: &Watermarks, load: impl FnOnce(&Watermarks) -> Lsn) {
        let slot = self.slot();
        #[cfg(planted)]
        if isolith_wal::planted!("snapshot-registered-without-recheck") {
            let timestamp = load(marks);
            isolith_wal::planted::dawdle();
            slot.held.store(timestamp.bits(), Ordering::Release);
            self.timestamp = timestamp;
            return;
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
        self.timestamp = timestamp;
    }

    /// Holds a timestamp of the past, if the floor is not beyond it (invariant 5).
    fn hold_at(&mut self, timestamp: Lsn) -> bool {
        let slot = self.slot();
        // Relaxed: the fence below orders it before the load of the floor.
        slot.open.store(timestamp.bits(), Ordering::Relaxed);
        // SeqCst fence: pairs with the one in `prune_view` (invariant 5).
        fence(Ordering::SeqCst);
        let readable = self.registry.floor().is_some_and(|floor| floor <= timestamp);
        if readable {
            // Release: pairs with the Acquire of `held` in `prune_view`.
            slot.held.store(timestamp.bits(), Ordering::Release);
        }
        // Release: as in `hold`.
        slot.open.store(NONE, Ordering::Release);
        self.timestamp = timestamp;
        readable
    }

    /// The timestamp that this snapshot reads at.
    pub fn timestamp(&self) -> Lsn {
        self.timestamp
    }

    /// Whether what was just read through this slot may be believed: for after each read, before its
    /// result is used (invariant 7).
    #[inline]
    pub fn check(&self) -> Result<(), Expired> {
        if self.slot().is_expired() { Err(Expired) } else { Ok(()) }
    }

    /// Keeps the slot from expiring until it is dropped: for a commit, before it is validated.
    pub fn keep_for_commit(&self) -> Result<(), Expired> {
        if self.slot().keep() { Ok(()) } else { Err(Expired) }
    }

    /// Moves a transaction's slot to a later timestamp, chosen by `load`; the old one is held until
    /// then. Its age begins anew; one that has expired stays so.
    pub fn advance(&mut self, marks: &Watermarks, load: impl FnOnce(&Watermarks) -> Lsn) -> Lsn {
        debug_assert!(self.reader == Reader::Transaction, "a snapshot's timestamp stands");
        self.hold(self.timestamp, marks, load);
        self.slot().renew(self.registry.now());
        self.timestamp
    }
}

impl Drop for SnapshotSlot {
    fn drop(&mut self) {
        self.slot().leave(self.reader);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
