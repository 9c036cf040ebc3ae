//! The side-car: a lock-free hash table from key to node, for point reads.
//!
//! Open addressing with linear probing over words of 64 bits: 16 bits of the hash above the node's
//! address. The place comes from the hash's top bits, the tag from its bottom bits. A lookup costs
//! one cache miss here, and one at the node; a miss mostly costs the first alone.
//!
//! A slot goes one way:
//!
//! ```text
//!            place (insert)
//!   EMPTY ───────────────────► entry          an entry stays, and stays where it is
//!      └─────────────────────► FROZEN         freeze (migration): no entry can come here any more
//! ```
//!
//! **Growth.** A table of twice the size is published with the old one as its `previous`. Inserters
//! move the old table's slots in chunks: an entry is copied, an empty slot is frozen, so that an
//! inserter that still works on the old table is sent to the new one. When every chunk is moved,
//! `previous` is cut and the old table retired. A lookup reads `previous` first, then the new table,
//! then what `previous` was: an entry is in the old table until it is in the new one, and it cannot be
//! cut in between unnoticed.
//!
//! 1. An entry is put into the first slot of its probe run that is empty, and slots never become empty
//!    again. So a run without holes leads to every entry, and a node is in a table at most once.
//! 2. When `ensure` has returned, every lookup that begins after finds the node.
//! 3. A table takes no more new entries than leave it a quarter empty, with the entries of `previous`
//!    counted as if every slot of it held one (`tickets`). So probing always ends, whatever the
//!    threads do.
//! 4. Nothing is ever removed: nodes live as long as the memtable.
#![expect(unsafe_code, reason = "follows and retires tables behind raw pointers")]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::accounting::Accounting;
use crate::hash::Hasher;
use crate::node::{Entry, Node, NodePtr};
use crate::sync::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Guard, Ordering, Published, prefetch,
};

const EMPTY: u64 = 0;
/// Not an entry: no node lies at address 1.
const FROZEN: u64 = 1;

const CAPACITY_MIN: usize = if cfg!(loom) { 2 } else { 64 };
/// Slots that are moved at once: one page of memory.
const CHUNK_SLOTS: usize = if cfg!(loom) { 1 } else { 256 };

/// The hash table from key to node.
pub(crate) struct Sidecar {
    current: AtomicPtr<Table>,
    accounting: Arc<Accounting>,
}

// SAFETY: tables belong to no thread; all that threads share of them is atomic or constant.
unsafe impl Send for Sidecar {}
// SAFETY: as above.
unsafe impl Sync for Sidecar {}

#[repr(C)]
struct Table {
    /// The place of a hash is `hash >> shift`. Constant.
    shift: u32,
    table: Published,
    slots: Box<[AtomicU64]>,
    /// The table that is being moved into this one; null when that is done.
    previous: AtomicPtr<Table>,
    migration: Migration,
}

/// How far the move out of `previous` is, and how much room there is; apart from what lookups read.
#[repr(align(64))]
struct Migration {
    /// New entries that this table may still take, less one for each that came.
    tickets: AtomicUsize,
    /// The next chunk that nobody has begun.
    next: AtomicUsize,
    /// Chunks that are not done.
    remaining: AtomicUsize,
    done: Box<[AtomicBool]>,
}

/// What became of an attempt to put an entry into a table.
#[derive(PartialEq, Eq)]
enum Placed {
    /// It is in.
    In,
    /// The run ended in a frozen slot: a newer table is to be used.
    Frozen,
    /// The table takes no more.
    Full,
}

impl Table {
    /// A table of `capacity` slots (a power of two, at least 2), into which `previous` with its
    /// `old_slots` is to be moved; null and 0 for the first.
    fn create(capacity: usize, previous: *mut Table, old_slots: usize) -> Box<Table> {
        let chunks = old_slots.div_ceil(CHUNK_SLOTS);
        Box::new(Table {
            shift: 64 - capacity.ilog2(),
            table: Published::new(),
            slots: empty_slots(capacity),
            previous: AtomicPtr::new(previous),
            migration: Migration {
                // Invariant 3: a new table has twice the slots of the old one.
                tickets: AtomicUsize::new((capacity - capacity / 4).saturating_sub(old_slots)),
                next: AtomicUsize::new(0),
                remaining: AtomicUsize::new(chunks),
                done: (0..chunks).map(|_| AtomicBool::new(false)).collect(),
            },
        })
    }

    fn footprint(&self) -> usize {
        size_of::<Table>() + self.slots.len() * 8 + self.migration.done.len()
    }

    /// The slots of a hash, in probing order.
    #[inline(always)]
    fn run(&self, hash: u64) -> impl Iterator<Item = &AtomicU64> {
        self.table.read();
        let mask = self.slots.len() - 1;
        let start = (hash >> self.shift) as usize;
        (0..self.slots.len()).map(move |step| &self.slots[(start + step) & mask])
    }

    /// The node of `key`, if it is in this table.
    #[inline(always)]
    fn find<'m>(&self, hash: u64, key: &[u8]) -> Option<NodePtr<'m>> {
        for slot in self.run(hash) {
            // Acquire: pairs with the Release in `place`; the node's key is whole.
            let bits = slot.load(Ordering::Acquire);
            if bits == FROZEN {
                return None;
            }
            let entry = Entry::from_bits(bits)?;
            if entry.tag() == hash as u16 {
                // SAFETY: an entry of this table, read with Acquire. The node lives with the
                // memtable, which the caller borrows for 'm.
                let node = unsafe { entry.node() };
                if node.key() == key {
                    return Some(node);
                }
            }
        }
        None
    }

    /// Puts an entry into the table, if it is not there. `copying`: it comes from `previous`, and so
    /// needs no ticket.
    fn place(&self, hash: u64, entry: Entry, copying: bool) -> Placed {
        let mut ticket = copying;
        let mut outcome = Placed::Full;
        for slot in self.run(hash) {
            // Acquire: pairs with the Release in `freeze` (FROZEN: the new table is then seen as
            // current) and in `place`.
            let mut bits = slot.load(Ordering::Acquire);
            if bits == EMPTY {
                if !ticket && !self.take_ticket() {
                    return Placed::Full;
                }
                ticket = true;
                // Release: publishes the node's key, for threads that have it from here. Pairs with
                // the Acquire in `find`, `place` and `freeze`. Acquire on failure: as above.
                match slot.compare_exchange(
                    EMPTY,
                    entry.bits(),
                    Ordering::Release,
                    Ordering::Acquire,
                ) {
                    Ok(_) => return Placed::In,
                    Err(other) => bits = other,
                }
            }
            if bits == FROZEN {
                outcome = Placed::Frozen;
                break;
            }
            if bits == entry.bits() {
                outcome = Placed::In;
                break;
            }
        }
        if ticket && !copying {
            // Relaxed: a count, as in `take_ticket`.
            self.migration.tickets.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    fn take_ticket(&self) -> bool {
        // Relaxed: a count of its own; what it bounds is the number of successful exchanges, each of
        // which is made by a holder of a ticket.
        let tickets = &self.migration.tickets;
        tickets.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }

    /// Ends a slot's life as a place for new entries; returns the entry if it has one.
    fn freeze(slot: &AtomicU64) -> Option<Entry> {
        // Acquire: pairs with the Release in `place`; the node's key is about to be hashed.
        let mut bits = slot.load(Ordering::Acquire);
        if bits == EMPTY {
            // Release: whoever finds the slot frozen sees the table that this thread moves into as
            // current. Pairs with the Acquire in `place`. Acquire on failure: as above.
            match slot.compare_exchange(EMPTY, FROZEN, Ordering::Release, Ordering::Acquire) {
                Ok(_) => return None,
                Err(other) => bits = other,
            }
        }
        if bits == FROZEN { None } else { Entry::from_bits(bits) }
    }

    /// Moves one chunk of `old` into this table. May be done twice, by two threads at once.
    fn move_chunk(&self, old: &Table, chunk: usize, hasher: &Hasher) {
        let from = chunk * CHUNK_SLOTS;
        let slots = &old.slots[from..(from + CHUNK_SLOTS).min(old.slots.len())];
        let mut entries = [None; CHUNK_SLOTS];
        for (slot, entry) in slots.iter().zip(&mut entries) {
            *entry = Table::freeze(slot);
            if let Some(entry) = entry {
                // SAFETY: an entry of a table, read with Acquire; nodes live with the memtable.
                let node: NodePtr<'_> = unsafe { entry.node() };
                prefetch(node.as_non_null().as_ptr());
            }
        }
        for entry in entries.into_iter().flatten() {
            // SAFETY: as above.
            let node: NodePtr<'_> = unsafe { entry.node() };
            let placed = self.place(hasher.hash(node.key()), entry, true);
            // Full cannot be (invariant 3). Frozen means that this table was moved on already, which
            // begins only when all of `old` is in it: somebody else has done this chunk.
            assert!(placed != Placed::Full, "a new table holds all of the old one");
        }
    }
}

#[cfg(not(loom))]
fn empty_slots(capacity: usize) -> Box<[AtomicU64]> {
    let slots = Box::<[AtomicU64]>::new_zeroed_slice(capacity);
    // SAFETY: an atomic number is valid at all bits zero, which is EMPTY. Fresh zeroed pages come
    // from the system as they are touched, so a large table costs its inserters no pause.
    unsafe { slots.assume_init() }
}

#[cfg(loom)]
fn empty_slots(capacity: usize) -> Box<[AtomicU64]> {
    (0..capacity).map(|_| AtomicU64::new(EMPTY)).collect()
}

impl Sidecar {
    pub(crate) fn new(accounting: Arc<Accounting>) -> Sidecar {
        let table = Table::create(CAPACITY_MIN, std::ptr::null_mut(), 0);
        accounting.add(table.footprint());
        Sidecar { current: AtomicPtr::new(Box::into_raw(table)), accounting }
    }

    /// The table that is current.
    #[inline(always)]
    fn current<'g>(&'g self, _: &'g Guard) -> &'g Table {
        // SAFETY: never null; a table that was current when a pinned thread looked is retired later,
        // and freed only when that pin has ended, after 'g.
        // Acquire: pairs with the Release in `grow`; the table is whole.
        unsafe { &*self.current.load(Ordering::Acquire) }
    }

    /// The table that is being moved into `table`, if any.
    #[inline(always)]
    fn previous<'g>(table: &'g Table, _: &'g Guard) -> Option<&'g Table> {
        // SAFETY: retired only after the Release in `finish` made this null; whoever loads it while
        // pinned keeps it until the pin ends.
        // Acquire: pairs with that Release: once it is null, all its entries are seen in `table`.
        unsafe { table.previous.load(Ordering::Acquire).as_ref() }
    }

    /// The node of `key`, if it was ensured before this call (or meanwhile).
    #[inline]
    pub(crate) fn find<'g>(
        &'g self,
        hash: u64,
        key: &[u8],
        guard: &'g Guard,
    ) -> Option<NodePtr<'g>> {
        let table = self.current(guard);
        let previous = Sidecar::previous(table, guard);
        table.find(hash, key).or_else(|| previous.and_then(|previous| previous.find(hash, key)))
    }

    /// Sees to it that every lookup from now on finds the node.
    pub(crate) fn ensure(&self, hash: u64, node: NonNull<Node>, hasher: &Hasher, guard: &Guard) {
        let entry = Entry::new(node, hash as u16);
        loop {
            let table = self.current(guard);
            if let Some(previous) = Sidecar::previous(table, guard) {
                self.help(table, previous, hasher, guard);
            }
            match table.place(hash, entry, false) {
                Placed::In => return,
                // The freezing thread had the newer table; so has this one when it looks again.
                Placed::Frozen => {}
                Placed::Full => self.grow(table, hasher, guard),
            }
        }
    }

    /// Moves one chunk that nobody has begun, if there is one.
    fn help(&self, table: &Table, previous: &Table, hasher: &Hasher, guard: &Guard) {
        let chunks = table.migration.done.len();
        // Relaxed, both: a chunk that is handed out twice, or late, is moved all the same.
        if table.migration.next.load(Ordering::Relaxed) < chunks {
            let chunk = table.migration.next.fetch_add(1, Ordering::Relaxed);
            if chunk < chunks {
                table.move_chunk(previous, chunk, hasher);
                self.finish(table, previous, chunk, guard);
            }
        }
    }

    /// Notes that a chunk is moved; after the last, cuts and retires the old table.
    fn finish(&self, table: &Table, previous: &Table, chunk: usize, guard: &Guard) {
        let migration = &table.migration;
        // Release: the chunk's copies are made. Pairs with the Acquire in `grow`. Only the first to
        // say so counts.
        if migration.done[chunk].swap(true, Ordering::AcqRel) {
            return;
        }
        // AcqRel: whoever does the last chunk has all the others' copies behind it.
        if migration.remaining.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // Relaxed: `previous` was reached through it, and only this thread changes it, below.
        let old = migrated(table.previous.load(Ordering::Relaxed), previous);
        let bytes = previous.footprint();
        // Release: all entries are in `table`. Pairs with the Acquire in `previous`.
        table.previous.store(std::ptr::null_mut(), Ordering::Release);
        // SAFETY: `current` left the old table when this one was published, and `previous` does so
        // now: threads that pin from now on cannot reach it. Only one thread counts down to zero.
        // The pointer is that of `Box::into_raw`.
        unsafe {
            self.accounting.retire(guard, bytes, move || {
                drop(Box::from_raw(old));
                bytes
            });
        }
    }

    /// Publishes a table of twice the size, if `full` is still current.
    fn grow(&self, full: &Table, hasher: &Hasher, guard: &Guard) {
        // Relaxed: only compared; `full` is what `current` returned.
        let old = self.current.load(Ordering::Relaxed);
        if !std::ptr::eq(old, full) {
            return;
        }
        // One move at a time: first end the one that goes on. A thread that stopped in the middle of
        // a chunk is not waited for: its chunk is moved again.
        if let Some(previous) = Sidecar::previous(full, guard) {
            for (chunk, done) in full.migration.done.iter().enumerate() {
                // Acquire: pairs with the Release in `finish`.
                if !done.load(Ordering::Acquire) {
                    full.move_chunk(previous, chunk, hasher);
                    self.finish(full, previous, chunk, guard);
                }
            }
        }
        let table = Table::create(full.slots.len() * 2, old, full.slots.len());
        let bytes = table.footprint();
        let new = Box::into_raw(table);
        self.accounting.add(bytes);
        // Release: publishes the table. Pairs with the Acquire in `current`.
        if self.current.compare_exchange(old, new, Ordering::Release, Ordering::Relaxed).is_err() {
            self.accounting.sub(bytes);
            // SAFETY: made above and never shared.
            drop(unsafe { Box::from_raw(new) });
        }
    }

    /// Slots of the current table.
    pub(crate) fn slots(&self, guard: &Guard) -> usize {
        self.current(guard).slots.len()
    }
}

/// Asserts that the table to be retired is the one that was moved.
fn migrated(stored: *mut Table, moved: &Table) -> *mut Table {
    assert!(std::ptr::eq(stored, moved), "a table has one previous table");
    stored
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: no thread uses the tables any more. The current one and the one that
        // is being moved into it are the only ones not retired.
        unsafe {
            // Relaxed: exclusive.
            let table = Box::from_raw(self.current.load(Ordering::Relaxed));
            let previous = table.previous.load(Ordering::Relaxed);
            if !previous.is_null() {
                drop(Box::from_raw(previous));
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
