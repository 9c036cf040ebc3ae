//! Wakers that are called at a time: what ends the wait of a future for a lock.
//!
//! Coarse and cheap: upkeep calls [`Timers::fire`] about every 20 ms. Blocking waits do not come here;
//! they park with a timeout of their own.
//!
//! A waker stays here no longer than the [`Timer`] that its future holds: it keeps a task alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

/// When, and a number that makes it one of a kind.
type Key = (Instant, u64);

/// Who is to be woken when.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    by_time: BTreeMap<Key, Waker>,
    next: u64,
}

/// A waker that is to be called at a time; dropped, it is not.
#[derive(Debug)]
pub(crate) struct Timer {
    timers: Arc<Timers>,
    key: Key,
}

impl Timers {
    /// Wakes `waker` once `at` has come.
    pub(crate) fn add(self: &Arc<Self>, at: Instant, waker: &Waker) -> Timer {
        // Before the lock: a waker is the user's code.
        let waker = waker.clone();
        let mut wakers = self.wakers.lock();
        let key = (at, wakers.next);
        wakers.next += 1;
        wakers.by_time.insert(key, waker);
        Timer { timers: Arc::clone(self), key }
    }

    /// Wakes everybody whose time has come by `now`.
    pub(crate) fn fire(&self, now: Instant) {
        let due = {
            let mut wakers = self.wakers.lock();
            let later = wakers.by_time.split_off(&(now, u64::MAX));
            std::mem::replace(&mut wakers.by_time, later)
        };
        for waker in due.into_values() {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.wakers.lock().by_time.len()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // Dropped after the lock is let go of.
        let waker = self.timers.wakers.lock().by_time.remove(&self.key);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            // Relaxed: looked at by the thread that wakes.
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_is_due_is_woken_once_and_who_has_gone_is_not_kept() {
        let timers = Arc::new(Timers::default());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let both = [timers.add(now, &waker), timers.add(now, &waker)];
        let later = timers.add(now + second, &waker);
        let gone = timers.add(now, &waker);
        drop(gone);
        timers.fire(now);
        timers.fire(now);
        assert_eq!((woken.0.load(Ordering::Relaxed), timers.len()), (2, 1));
        drop((both, later));
        drop(waker);
        assert_eq!((timers.len(), Arc::strong_count(&woken)), (0, 1));
    }
}
