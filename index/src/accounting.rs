//! What a memtable's memory comes to, and the way of everything that leaves it.
//!
//! 1. `bytes` counts every allocation that the memtable owns and that is linked, or prepared to be:
//!    by the size that was asked of the allocator, rounding and headers of its own left out.
//! 2. What is unlinked moves from `bytes` to `retired` at once, and leaves `retired` when the epoch
//!    lets it be freed. `bytes + retired` is what is allocated.
#![expect(unsafe_code, reason = "hands deferred frees to the epoch")]

use std::sync::Arc;

use crate::sync::{AtomicUsize, Guard, Ordering, defer};

/// Once this much was retired since the last flush, the epoch's garbage is flushed: its bags count
/// objects, and 64 large values are a lot of memory.
const RETIRED_BYTES_FLUSH: usize = 1 << 20;

/// The counters of one memtable. Every access is Relaxed: they are sums, and order nothing.
pub(crate) struct Accounting {
    bytes: AtomicUsize,
    retired: AtomicUsize,
    nodes: AtomicUsize,
    unflushed: AtomicUsize,
}

impl Accounting {
    pub(crate) fn new() -> Arc<Accounting> {
        Arc::new(Accounting {
            bytes: AtomicUsize::new(0),
            retired: AtomicUsize::new(0),
            nodes: AtomicUsize::new(0),
            unflushed: AtomicUsize::new(0),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn retired_bytes(&self) -> usize {
        self.retired.load(Ordering::Relaxed)
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes.load(Ordering::Relaxed)
    }

    /// `bytes` more are linked or prepared.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` were freed that nobody else could see.
    pub(crate) fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// One node more.
    pub(crate) fn add_node(&self) {
        self.nodes.fetch_add(1, Ordering::Relaxed);
    }

    /// Retires something of `bytes`, which was unlinked: `free` runs when no pinned thread can hold
    /// it any more, and returns the bytes that it freed.
    ///
    /// # Safety
    /// Threads that pin from now on cannot reach what `free` frees; `free` may run on any thread and
    /// after the memtable is gone.
    pub(crate) unsafe fn retire(
        self: &Arc<Self>,
        guard: &Guard,
        bytes: usize,
        free: impl FnOnce() -> usize + 'static,
    ) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.retired.fetch_add(bytes, Ordering::Relaxed);
        let accounting = Arc::clone(self);
        let freeing = move || {
            let freed = free();
            accounting.retired.fetch_sub(freed, Ordering::Relaxed);
        };
        // SAFETY: unreachable and free of borrows (caller); the counters come along by count.
        unsafe { defer(guard, freeing) };
        if self.unflushed.fetch_add(bytes, Ordering::Relaxed) + bytes > RETIRED_BYTES_FLUSH {
            self.unflushed.store(0, Ordering::Relaxed);
            guard.flush();
        }
    }
}
