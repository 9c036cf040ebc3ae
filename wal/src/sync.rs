//! The primitives that the log's threads meet on: parking_lot's and std's, or loom's under
//! `cfg(loom)`.
//!
//! [`Event`] is an event count on a futex. A waiter takes a ticket, looks at the state it waits for,
//! and sleeps only if nothing was notified since the ticket.
//!
//! 1. No wake-up is lost: a notification after the ticket makes `wait` return, whether it comes
//!    before, while or after the waiter falls asleep.
//! 2. A notification costs a system call only if somebody sleeps, and one call wakes any number.

#[cfg(not(loom))]
use std::time::Duration;
use std::time::Instant;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::thread::yield_now;
#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;
#[cfg(loom)]
pub(crate) use under_loom::{Mutex, MutexGuard};

#[cfg(loom)]
mod under_loom {
    pub(crate) use loom::sync::MutexGuard;

    /// loom's mutex with parking_lot's face: no poisoning.
    #[derive(Debug)]
    pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("a model that panicked is over")
        }
    }
}

/// What `wait` compares with: nothing was notified while it stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

/// An event count: see the head of the file.
#[derive(Debug)]
pub(crate) struct Event {
    /// Counts notifications; the futex.
    notified: AtomicU32,
    /// How many are asleep, or about to be.
    sleepers: AtomicU32,
    #[cfg(loom)]
    bed: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl Event {
    pub(crate) fn new() -> Event {
        Event {
            notified: AtomicU32::new(0),
            sleepers: AtomicU32::new(0),
            #[cfg(loom)]
            bed: (loom::sync::Mutex::new(()), loom::sync::Condvar::new()),
        }
    }

    /// Taken before looking at the state that decides whether to wait.
    pub(crate) fn ticket(&self) -> Ticket {
        // Acquire: pairs with the notifier's add: who sees its notification sees what it changed.
        Ticket(self.notified.load(Ordering::Acquire))
    }

    /// Whether something was notified since the ticket.
    pub(crate) fn is_notified(&self, ticket: Ticket) -> bool {
        // Acquire: as in `ticket`.
        self.notified.load(Ordering::Acquire) != ticket.0
    }

    /// Sleeps until something is notified after the ticket was taken, at most until `deadline`.
    /// Returns at once if it was already, and may return for no reason.
    pub(crate) fn wait(&self, ticket: Ticket, deadline: Option<Instant>) {
        // Relaxed, and then a SeqCst fence, here and in `announce`: the waiter stores `sleepers` and
        // then looks at `notified` (so does the kernel, under the futex's lock), the notifier stores
        // `notified` and then looks at `sleepers`. One of the two fences comes first, and whoever
        // passed the other one sees what was stored before it: either the number is found changed,
        // or the sleeper is found and woken.
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !self.is_notified(ticket) {
            self.sleep(ticket, deadline);
        }
        // Relaxed: a notifier that still counts us makes one call for nothing.
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes everybody who waits.
    pub(crate) fn notify_all(&self) {
        self.notify(i32::MAX as u32);
    }

    /// Wakes one sleeper. Whoever took a ticket and is not asleep yet stays awake as well.
    pub(crate) fn notify_one(&self) {
        self.notify(1);
    }

    /// Counts a notification. Whether somebody has to be woken for it.
    fn announce(&self) -> bool {
        // Release: publishes what the notifier changed before; pairs with the Acquire in `ticket` and
        // `is_notified`. The fence: see `wait`.
        self.notified.fetch_add(1, Ordering::Release);
        fence(Ordering::SeqCst);
        // Relaxed: ordered by the fence.
        self.sleepers.load(Ordering::Relaxed) > 0
    }

    #[cfg(not(loom))]
    fn notify(&self, sleepers: u32) {
        if self.announce() {
            // The kernel can refuse a wake only for an address that is no futex.
            let woken = rustix::thread::futex::wake(
                &self.notified,
                rustix::thread::futex::Flags::PRIVATE,
                sleepers,
            );
            debug_assert!(woken.is_ok());
        }
    }

    #[cfg(not(loom))]
    fn sleep(&self, ticket: Ticket, deadline: Option<Instant>) {
        let timeout = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => return,
            Some(left) => Some(rustix::thread::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            }),
            None => None,
        };
        // Woken, timed out, interrupted, or the number had changed: the caller looks again.
        let _ = rustix::thread::futex::wait(
            &self.notified,
            rustix::thread::futex::Flags::PRIVATE,
            ticket.0,
            timeout.as_ref(),
        );
    }

    #[cfg(loom)]
    fn notify(&self, sleepers: u32) {
        if self.announce() {
            // The lock stands for the futex's: a sleeper has looked and lain down, or not looked.
            let _bed = self.bed.0.lock().unwrap();
            match sleepers {
                1 => self.bed.1.notify_one(),
                _ => self.bed.1.notify_all(),
            }
        }
    }

    #[cfg(loom)]
    fn sleep(&self, ticket: Ticket, _deadline: Option<Instant>) {
        let bed = self.bed.0.lock().unwrap();
        if !self.is_notified(ticket) {
            drop(self.bed.1.wait(bed).unwrap());
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_notification_between_ticket_and_wait_is_not_lost() {
        let event = Event::new();
        let ticket = event.ticket();
        event.notify_one();
        event.wait(ticket, None);
        assert!(event.is_notified(ticket));
    }

    #[test]
    fn sleepers_wake_one_by_one_and_all_at_once() {
        let event = Arc::new(Event::new());
        let ticket = event.ticket();
        let sleepers: Vec<_> = (0..4)
            .map(|_| {
                let event = event.clone();
                std::thread::spawn(move || event.wait(ticket, None))
            })
            .collect();
        event.notify_all();
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    }

    #[test]
    fn a_deadline_in_the_past_returns_at_once() {
        let event = Event::new();
        event.wait(event.ticket(), Some(Instant::now()));
    }
}
