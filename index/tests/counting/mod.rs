//! An allocator that counts, thread by thread, and what the memory tests share.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use isolith_index::{Memtable, pin};

/// Counts what the running thread asks for and gives back.
struct Counting;

thread_local! {
    pub(crate) static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
    pub(crate) static CALLS: Cell<usize> = const { Cell::new(0) };
    pub(crate) static LARGEST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no cells any more: what it frees then is not counted.
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call is passed on to the system's allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lets the epoch run until nothing is retired.
pub(crate) fn settle(memtable: &Memtable) {
    for _ in 0..100_000 {
        if memtable.retired_bytes() == 0 {
            return;
        }
        pin().flush();
    }
    panic!("{} bytes stay retired though nobody is pinned", memtable.retired_bytes());
}
