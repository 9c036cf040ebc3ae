//! Wakers that are called at a time: what ends the wait of a future for a lock.
//!
//! Coarse and cheap: upkeep calls [`Timers::fire`] about every 20 ms. Blocking waits do not come here;
//! they park with a timeout of their own.

use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

/// Who is to be woken when.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    wakers: Mutex<Vec<(Instant, Waker)>>,
}

impl Timers {
    /// Wakes `waker` once `at` has come. The same waker for the same time is kept once.
    pub(crate) fn add(&self, at: Instant, waker: &Waker) {
        let mut wakers = self.wakers.lock();
        if !wakers.iter().any(|(known, other)| *known == at && other.will_wake(waker)) {
            wakers.push((at, waker.clone()));
        }
    }

    /// Wakes everybody whose time has come by `now`.
    pub(crate) fn fire(&self, now: Instant) {
        let due: Vec<_> = self.wakers.lock().extract_if(.., |(at, _)| *at <= now).collect();
        // Outside of the lock: a waker is the user's code.
        for (_, waker) in due {
            waker.wake();
        }
    }
}
