//! The buffers that the kernel receives into: it takes one when bytes have come in, and not before.
//!
//! They lie in one anonymous map, behind the ring of entries through which they are provided:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | entry 0: address, length, number; its last two bytes are the ring's tail |
//! | 16 · i | entry i |
//! | `start` + `bytes` · i | buffer i |
//!
//! 1. A buffer is the kernel's from when it was provided until a completion names it; then it is lent
//!    ([`Lent`]) until it is provided again. So it has one owner at any time.
//! 2. The map outlives the ring that it is registered with, and every request that may take a buffer.
//! 3. Memory is touched where bytes came in: buffers that were never used cost address space alone.

#![expect(
    unsafe_code,
    reason = "the kernel writes into these buffers, and reads the ring of entries"
)]

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use memmap2::{MmapMut, MmapRaw};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The one group of buffers of a ring.
pub(super) const GROUP: u16 = 0;

const ENTRY_BYTES: usize = size_of::<BufRingEntry>();
/// Buffers start at a multiple of this.
const ALIGNMENT: usize = 4096;

/// A buffer that a completion has named, with the bytes that came in.
pub(super) struct Lent {
    id: u16,
    bytes: u32,
}

/// The buffers of one ring.
pub(super) struct Buffers {
    /// Shared with nobody: counted so that it can be left behind when the kernel may still write.
    map: Arc<MmapRaw>,
    /// How many; a power of two.
    count: u16,
    /// The length of each.
    bytes: u32,
    /// Where the first one is.
    start: usize,
    /// How many have ever been provided.
    tail: u16,
}

impl Buffers {
    /// `count` buffers of `bytes` each; `count` is a power of two, at most 32,768.
    pub(super) fn new(count: u16, bytes: u32) -> io::Result<Buffers> {
        assert!(
            count.is_power_of_two() && bytes > 0,
            "a ring of entries has a power of two of them"
        );
        let start = (usize::from(count) * ENTRY_BYTES).next_multiple_of(ALIGNMENT);
        let map = MmapMut::map_anon(start + usize::from(count) * bytes as usize)?;
        Ok(Buffers { map: Arc::new(map.into()), count, bytes, start, tail: 0 })
    }

    /// Gives them all to a ring. Who calls this drops the buffers after the ring's last request.
    ///
    /// # Safety
    /// The ring must not receive into [`GROUP`] any more when `self` is dropped, unless
    /// [`Buffers::leave_behind`] was called.
    pub(super) unsafe fn register(&mut self, ring: &Submitter<'_>) -> io::Result<()> {
        let entries = self.map.as_mut_ptr() as u64;
        // SAFETY: the ring of entries must be valid until the ring is gone or takes no buffers any
        // more: it lies at the start of the map, which is long enough, aligned to a page, zeroed, and
        // lives as long as `self`; the rest is our caller's duty.
        unsafe { ring.register_buf_ring_with_flags(entries, self.count, GROUP, 0) }?;
        (0..self.count).for_each(|id| self.provide(id));
        Ok(())
    }

    /// The buffer that a completion has named.
    ///
    /// # Safety
    /// The completion is one of a request that took a buffer of [`GROUP`], and is asked for once.
    pub(super) unsafe fn lent(&self, id: u16, bytes: u32) -> Lent {
        assert!(id < self.count && bytes <= self.bytes, "the kernel fills the buffers that it has");
        Lent { id, bytes }
    }

    /// What came in.
    pub(super) fn bytes(&self, lent: &Lent) -> &[u8] {
        let at = self.start + usize::from(lent.id) * self.bytes as usize;
        // SAFETY: `Lent` is made by `lent` alone, which has checked that the range is within the map.
        // The kernel has written there for the last time (invariant 1), before it published the
        // completion, and the buffer is not provided again while `lent` is borrowed.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().add(at), lent.bytes as usize) }
    }

    /// The buffer may be used again.
    pub(super) fn give_back(&mut self, lent: Lent) {
        self.provide(lent.id);
    }

    /// Provides a buffer that nobody else has.
    fn provide(&mut self, id: u16) {
        let index = self.tail & (self.count - 1);
        let base = self.map.as_mut_ptr();
        let at = self.start + usize::from(id) * self.bytes as usize;
        // SAFETY: the entry lies within the ring of entries, aligned, as the map starts at a page and
        // `index` is below `count`. The kernel does not look at it before the tail has passed it, and
        // it has gone through the entry of a full turn ago: there are as many entries as buffers, and
        // the buffer provided now was not in the ring. The three setters leave the tail alone, which
        // shares entry 0. `at` is within the map: `id` is below `count`.
        unsafe {
            let entry = &mut *base.cast::<BufRingEntry>().add(usize::from(index));
            entry.set_addr(base.add(at) as u64);
            entry.set_len(self.bytes);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in entry 0, aligned to two bytes, within the map; the kernel only
        // reads it.
        let tail = unsafe {
            let tail = BufRingEntry::tail(base.cast_const().cast());
            AtomicU16::from_ptr(tail.cast_mut())
        };
        // Release: the entry is written before the kernel, which acquires the tail, sees it.
        tail.store(self.tail, Ordering::Release);
    }

    /// Never frees the memory: the kernel may still write there.
    pub(super) fn leave_behind(&self) {
        std::mem::forget(self.map.clone());
    }
}
