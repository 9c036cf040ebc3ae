//! Threads' shared words and epochs: the real ones, or loom's when the crate is built to be modelled.
//!
//! Under `--cfg loom` the atomics are loom's, and so every interleaving and every stale value that
//! the memory model allows is tried. `crossbeam-epoch` does not run under this crate's loom: there a
//! [`Guard`] is a token, and what is retired is kept until the model calls [`collect`]. What the
//! models therefore leave out is *when* memory is freed; AddressSanitizer over the stress tests looks
//! at that.

#[cfg(not(loom))]
pub use real::{Guard, pin};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};
#[cfg(loom)]
pub use modelled::{Guard, collect, pin};

#[cfg(not(loom))]
mod real {
    /// A pin of the epoch: what the thread sees in a memtable while it has one is not freed.
    ///
    /// Keep it for one operation, not across a wait, a system call or a user's own code: it holds
    /// back every memtable's garbage. A type of our own, so that no pin of another collector can be
    /// taken for one of these.
    #[derive(Debug)]
    pub struct Guard(crossbeam_epoch::Guard);

    /// Pins the running thread. Within another pin this costs next to nothing; by itself it is a
    /// fence, and now and then some of the epoch's garbage is freed along with it.
    #[inline]
    pub fn pin() -> Guard {
        Guard(crossbeam_epoch::pin())
    }

    impl Guard {
        /// Hands the thread's garbage over to be freed, and frees some that is due.
        pub fn flush(&self) {
            self.0.flush();
        }

        /// # Safety
        /// As for [`super::defer`].
        #[expect(unsafe_code, reason = "hands a raw pointer's release to the epoch collector")]
        pub(super) unsafe fn defer(&self, free: impl FnOnce() + 'static) {
            // SAFETY: the caller's promise is exactly what `defer_unchecked` asks for: unreachable
            // for later pins, and callable from another thread; `'static` keeps borrowed data out.
            unsafe { self.0.defer_unchecked(free) }
        }
    }
}

/// Runs `free` once no thread that is pinned now can still be looking.
///
/// # Safety
/// What `free` frees must already be unreachable for threads that pin from now on, and `free` must be
/// sound on any thread and at any later time.
#[expect(unsafe_code, reason = "hands a raw pointer's release to the epoch collector")]
pub(crate) unsafe fn defer(guard: &Guard, free: impl FnOnce() + 'static) {
    // SAFETY: the caller's promise is passed on.
    unsafe { guard.defer(free) }
}

/// Stands for plain memory that one thread writes before it publishes it with a Release, and others
/// read after an Acquire. It has no size and does nothing; under loom it makes the model fail if a
/// reader gets there without such a pair.
pub(crate) struct Published {
    #[cfg(loom)]
    memory: loom::cell::UnsafeCell<()>,
}

impl Published {
    /// The memory is written, by the thread that makes this.
    #[inline(always)]
    pub(crate) fn new() -> Published {
        Published {
            #[cfg(loom)]
            memory: loom::cell::UnsafeCell::new(()),
        }
    }

    /// The memory is about to be read.
    #[inline(always)]
    pub(crate) fn read(&self) {
        #[cfg(loom)]
        self.memory.with(|_| ());
    }
}

/// Asks for the cache line at `at`, without waiting for it. Any address is fine, mapped or not.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    #[expect(unsafe_code, reason = "the intrinsic is an unsafe fn")]
    // SAFETY: a prefetch never faults and changes nothing that the program can see; SSE is part of
    // every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = at;
}

#[cfg(loom)]
mod modelled {
    use std::cell::RefCell;

    thread_local! {
        // loom runs all threads of a model on one thread of the system, so this is one list.
        static RETIRED: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
    }

    /// Stands in for an epoch pin; retired memory outlives every guard of the model.
    #[derive(Debug)]
    pub struct Guard(());

    /// Stands in for `crossbeam_epoch::pin`.
    pub fn pin() -> Guard {
        Guard(())
    }

    impl Guard {
        /// # Safety
        /// None is needed: what is retired outlives the model.
        #[expect(unsafe_code, reason = "has the signature of the real guard's method")]
        pub(super) unsafe fn defer(&self, free: impl FnOnce() + 'static) {
            RETIRED.with(|retired| retired.borrow_mut().push(Box::new(free)));
        }

        /// Does nothing: see [`collect`].
        pub fn flush(&self) {}
    }

    /// Frees what was retired. A model calls it at its end, when all its threads are joined.
    pub fn collect() {
        loop {
            let retired = RETIRED.with(|retired| std::mem::take(&mut *retired.borrow_mut()));
            if retired.is_empty() {
                return;
            }
            retired.into_iter().for_each(|free| free());
        }
    }
}
