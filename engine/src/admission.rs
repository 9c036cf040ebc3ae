//! How many transactions may fight for locks at once: *concurrency restriction*.
//!
//! Where many threads want the same few keys, more of them at work is less work done: each holds locks
//! while it waits for others or for a core, each hand-over costs two switches of context, and whoever is
//! refused runs again to be refused again. The remedy is to let no more take part than there are cores,
//! and to keep the others asleep *before* they hold anything: a transaction waits here for its first
//! lock, so that no circle of waiting can go through this door.
//!
//! - The door is open, and costs a load, until lock waits and refusals are frequent among the
//!   transactions that lock ([`Admission::trouble`]).
//! - Those inside who end make room for whoever comes first; every so many ends
//!   ([`SWAP_ENDS`]) the one that has waited longest is let in as well, so that nobody waits for ever.
//! - Restriction pays where a switch of context costs more than a transaction. If fewer end while one
//!   waits ([`LOOK`]) than would let one in, they are slow for a reason of their own (long ones, one
//!   that is left idle, nobody inside at all): the door opens, and stays open for long.
//! - Only calls that block wait here; steps and futures go through.
//!
//! Source: Dice, *Malthusian Locks* (EuroSys 2017), there for one mutex.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What one wait or refusal adds to the strife; each transaction that locks takes one off. So the door
/// closes once more than one in so many meets trouble.
const TROUBLE: i32 = 128;
/// Beyond it the door is closed.
const STRIFE: i32 = 256;
/// No further: it opens again soon after the trouble has ended.
const STRIFE_MAX: i32 = 4096;
/// Where the strife begins again after those inside were found slow: a hundred troubles away.
const SLOW: i32 = -100 * TROUBLE;
/// Ends after which the one that has waited longest is let in. A swap is two switches of context, and
/// the system often wakes the one beside who is still inside, while the core that was left stands idle;
/// the rarer it is, the longer the others wait.
const SWAP_ENDS: u64 = 128;
/// How long one waits before it looks whether enough have ended.
const LOOK: Duration = Duration::from_millis(4);

/// The door to the lock table of one database.
#[derive(Debug)]
pub(crate) struct Admission {
    /// How many may be inside while the door is closed.
    places: usize,
    /// [`LOOK`], where no test has all the time there is.
    look: Duration,
    /// How much trouble there was lately; below zero the door is kept open. Relaxed everywhere: a
    /// measure, which may be a little off.
    strife: AtomicI32,
    /// How many had to wait. Relaxed: a statistic.
    waits: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Those with a pass. Who came in while the door was open has none and is not counted.
    count: usize,
    ends: u64,
    /// Who waits, longest first.
    queue: VecDeque<Arc<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    thread: Thread,
    let_in: AtomicBool,
}

/// A place inside, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Pass(Arc<Admission>);

impl Admission {
    pub(crate) fn new(places: usize) -> Arc<Self> {
        Self::looking_after(places, LOOK)
    }

    fn looking_after(places: usize, look: Duration) -> Arc<Self> {
        Arc::new(Self {
            places: places.max(1),
            look,
            strife: AtomicI32::new(0),
            waits: AtomicU64::new(0),
            inside: Mutex::new(Inside::default()),
        })
    }

    /// Notes that a transaction has to wait for a lock, or lost what it did to somebody else's lock.
    pub(crate) fn trouble(&self) {
        // Relaxed, both: nothing is read on its account, and a count that is lost to another thread's
        // makes the door a little slower.
        let strife = self.strife.load(Ordering::Relaxed);
        if strife < STRIFE_MAX {
            self.strife.store(strife + TROUBLE, Ordering::Relaxed);
        }
    }

    /// Waits for a place, if the door is closed. For a transaction before its first lock.
    #[inline]
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Pass> {
        // Relaxed, both: as in `trouble`.
        let strife = self.strife.load(Ordering::Relaxed);
        if strife <= 0 {
            return None;
        }
        self.strife.store(strife - 1, Ordering::Relaxed);
        (strife > STRIFE).then(|| self.enter_closed())
    }

    /// How many had to wait here so far.
    pub(crate) fn waits(&self) -> u64 {
        // Relaxed: a statistic.
        self.waits.load(Ordering::Relaxed)
    }

    #[cold]
    fn enter_closed(self: &Arc<Self>) -> Pass {
        let pass = Pass(Arc::clone(self));
        let mut inside = self.inside.lock();
        if inside.count < self.places {
            inside.count += 1;
            return pass;
        }
        // Relaxed: a statistic.
        self.waits.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { thread: thread::current(), let_in: AtomicBool::new(false) };
        let waiter = Arc::new(waiter);
        inside.queue.push_back(Arc::clone(&waiter));
        let (mut ends, mut since) = (inside.ends, Instant::now());
        drop(inside);
        loop {
            thread::park_timeout(self.look);
            // Acquire: pairs with the Release of the pass that let this one in, and counted it.
            if waiter.let_in.load(Ordering::Acquire) {
                return pass;
            }
            let now = Instant::now();
            if now - since < self.look {
                // Unparked for something else.
                continue;
            }
            let mut inside = self.inside.lock();
            // Acquire: as above; under the mutex nobody lets it in any more.
            if inside.ends - ends < SWAP_ENDS && !waiter.let_in.load(Ordering::Acquire) {
                // Relaxed: a measure that orders nothing.
                self.strife.store(SLOW, Ordering::Relaxed);
                inside.queue.retain(|other| !Arc::ptr_eq(other, &waiter));
                inside.count += 1;
                return pass;
            }
            (ends, since) = (inside.ends, now);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.0.inside.lock();
        inside.count -= 1;
        inside.ends += 1;
        if inside.queue.is_empty() {
            return;
        }
        // Relaxed: as in `trouble`.
        let open = self.0.strife.load(Ordering::Relaxed) <= STRIFE;
        if (open || inside.ends.is_multiple_of(SWAP_ENDS))
            && let Some(next) = inside.queue.pop_front()
        {
            inside.count += 1;
            // Release: pairs with the Acquire of the one who waits.
            next.let_in.store(true, Ordering::Release);
            drop(inside);
            next.thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(places: usize) -> Arc<Admission> {
        close(Admission::new(places))
    }

    fn close(admission: Arc<Admission>) -> Arc<Admission> {
        for _ in 0..STRIFE_MAX / TROUBLE {
            admission.trouble();
        }
        admission
    }

    #[test]
    fn the_door_is_open_until_there_is_trouble_and_opens_again_after_it() {
        let admission = Admission::new(1);
        assert!(admission.enter().is_none());
        for _ in 0..=STRIFE / TROUBLE {
            admission.trouble();
        }
        assert!(admission.enter().is_some(), "closed, with a place");
        let open = (0..=2 * STRIFE).find(|_| admission.enter().is_none());
        assert!(open.is_some_and(|n| n <= TROUBLE), "it opened after {open:?} without trouble");
    }

    #[test]
    fn who_waits_is_let_in_after_a_number_of_ends() {
        // Nobody lets himself in meanwhile, however slow the other is.
        let admission = close(Admission::looking_after(1, Duration::from_secs(3600)));
        let first = admission.enter();
        thread::scope(|scope| {
            let second = scope.spawn(|| admission.enter());
            while admission.inside.lock().queue.is_empty() {
                thread::yield_now();
            }
            // The first comes and goes, and takes the place that it left itself.
            drop(first);
            let mut ends = 1;
            while !admission.inside.lock().queue.is_empty() {
                drop(admission.enter());
                ends += 1;
            }
            assert!(ends <= SWAP_ENDS, "{ends}");
            assert!(second.join().expect("no panic").is_some());
        });
        assert_eq!(admission.inside.lock().count, 0);
        assert!(admission.waits() > 0);
    }

    #[test]
    fn the_door_opens_if_nobody_ends() {
        let admission = closed(1);
        let idle = admission.enter();
        assert!(idle.is_some());
        // By the same thread: nothing else would ever let it in.
        assert!(admission.enter().is_some());
        assert!(admission.enter().is_none(), "the door stays open");
        // Relaxed: this thread wrote it.
        assert!(admission.strife.load(Ordering::Relaxed) < 0);
        drop(idle);
        assert_eq!(admission.inside.lock().count, 0);
    }

    #[test]
    fn every_thread_gets_through() {
        let admission = closed(2);
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        admission.trouble();
                        drop(admission.enter());
                    }
                });
            }
        });
        let inside = admission.inside.lock();
        assert_eq!((inside.count, inside.queue.len()), (0, 0));
    }
}
