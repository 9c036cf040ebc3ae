//! Wakes a core out of its wait, from any thread: an eventfd behind [`std::task::Wake`], so that the
//! futures of the engine can be polled with it.
//!
//! 1. A wake-up is never lost: the flag is cleared before the core looks at what it was woken for.
//! 2. Any number of wake-ups between two looks cost one system call.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

/// A core's waker.
pub(crate) struct CoreWaker {
    event: OwnedFd,
    /// True from the first wake-up until the core has taken note.
    woken: AtomicBool,
}

impl CoreWaker {
    pub(crate) fn new() -> io::Result<CoreWaker> {
        // Not in non-blocking mode, or a ring would not wait for it. Nobody else waits either: the
        // core reads only what is readable, and a write would wait only for a full counter.
        let event = eventfd(0, EventfdFlags::CLOEXEC)?;
        Ok(CoreWaker { event, woken: AtomicBool::new(false) })
    }

    /// Becomes readable when the core is woken.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Called by the core when `fd` was readable, before it looks at what may have changed.
    pub(crate) fn take_note(&self) {
        let mut count = [0; 8];
        // It cannot fail: there is something to read, and nobody else reads.
        let _ = rustix::io::read(&self.event, &mut count);
        self.clear();
    }

    /// The second half of [`take_note`](CoreWaker::take_note), where the kernel has read `fd` for us.
    pub(crate) fn clear(&self) {
        // AcqRel: Acquire pairs with the Release in `wake_by_ref`, so that what was written before
        // the wake-up is seen by the look that follows; Release keeps the look after the clearing.
        self.woken.swap(false, Ordering::AcqRel);
    }
}

impl Wake for CoreWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // AcqRel: Release pairs with the Acquire in `clear`. If the flag was set already, the
        // core has not looked yet, and will find what this call is about.
        if !self.woken.swap(true, Ordering::AcqRel) {
            // It can fail only if the counter is full: then the event is readable already.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::task::Waker;

    fn readable(waker: &CoreWaker) -> bool {
        let mut fds = [PollFd::new(&waker.event, PollFlags::IN)];
        let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&zero)).expect("poll works") == 1
    }

    #[test]
    fn wakes_again_after_the_core_took_note() {
        let core = Arc::new(CoreWaker::new().expect("an eventfd"));
        let waker = Waker::from(core.clone());
        assert!(!readable(&core));
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert!(readable(&core));
        core.take_note();
        assert!(!readable(&core));
        waker.wake();
        assert!(readable(&core));
    }
}
