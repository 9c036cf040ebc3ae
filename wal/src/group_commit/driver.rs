//! The log's own thread: writes for futures, writes what nobody waits for when it has waited long
//! enough, and marks the end of a log that stands still.
//!
//! 1. It looks at the pipeline after every call and every tick, and sleeps without a deadline only
//!    when nothing is left that a later tick would do.
//! 2. Whoever leaves something for it changes the queue or the pipeline first and calls it then.

use std::time::Instant;

use crate::format::BatchKind;
use crate::log::{Durability, Log};
use crate::lsn::Lsn;
use crate::sync::{Ordering, yield_now};

impl Log {
    /// The body of the log's own thread: writes for futures, and what nobody waits for, until
    /// [`Log::shutdown`] or poison. More than one thread may run it; that keeps more than one batch
    /// in flight when all who wait are futures.
    pub fn drive(&self) {
        if self.is_forked() {
            return;
        }
        let _present = Present::new(self);
        // Records are written when they are older than one tick: after one to two of them.
        let tick = self.options.buffered_delay / 2;
        let mut seen = Seen { appended: self.appended(), batches: 0 };
        let mut next_tick = Some(Instant::now() + tick);
        loop {
            // AcqRel: pairs with the swap in `call_driver`. Before looking.
            self.commit.driver_called.swap(false, Ordering::AcqRel);
            let mut pipeline = self.commit.pipeline.lock();
            if pipeline.is_closing() || pipeline.poison().is_some() {
                return;
            }
            let step = pipeline.step();
            let ticket = self.commit.driver.ticket();
            drop(pipeline);
            if let Some(step) = step {
                if !self.take(Some(step)) {
                    yield_now();
                }
                continue;
            }
            match next_tick {
                Some(at) if at <= Instant::now() => {
                    let busy = self.tick(&mut seen);
                    next_tick = (busy || !self.fall_asleep(&seen)).then(|| Instant::now() + tick);
                }
                _ => {
                    self.commit.driver.wait(ticket, next_tick);
                    next_tick = next_tick.or_else(|| Some(Instant::now() + tick));
                }
            }
        }
    }

    /// What the driver does once in a while: asks for records that are older than a tick to be
    /// written, and marks the log's end when it has stood still for one. `true`: something happened
    /// since the last time.
    fn tick(&self, seen: &mut Seen) -> bool {
        let appended = self.appended();
        let mut pipeline = self.commit.pipeline.lock();
        let batches = pipeline.next_sequence();
        let old = std::mem::replace(seen, Seen { appended, batches });
        if old.appended > pipeline.taken() {
            pipeline.want(old.appended, Durability::Os);
        }
        let still = old.batches == batches && appended == pipeline.taken();
        let mark = still && pipeline.wants_mark();
        drop(pipeline);
        if mark {
            // If something came in between, the mark is not needed yet; if it failed, the next look
            // at the pipeline finds the poison.
            let _ = self.write_mark(BatchKind::Mark);
        }
        !still
    }

    /// Whether the driver may sleep without a deadline: nothing is there to be done later.
    fn fall_asleep(&self, seen: &Seen) -> bool {
        // Release: pairs with the Acquire in `rouse_driver`.
        self.commit.driver_sleeps.store(true, Ordering::Release);
        // Looked at after the flag was set, under the locks that those who leave something behind
        // have held before they look at the flag.
        let appended = self.appended();
        let pipeline = self.commit.pipeline.lock();
        let nothing = appended == seen.appended
            && pipeline.next_sequence() == seen.batches
            && !pipeline.wants_mark();
        drop(pipeline);
        if !nothing {
            // Relaxed: whoever found it set has notified us already.
            self.commit.driver_sleeps.store(false, Ordering::Relaxed);
        }
        nothing
    }
}

/// What the driver saw at its last tick.
struct Seen {
    appended: Lsn,
    /// The sequence of the next batch.
    batches: u64,
}

/// Counts a driver for as long as it drives.
struct Present<'a>(&'a Log);

impl Present<'_> {
    fn new(log: &Log) -> Present<'_> {
        // Relaxed: see `has_driver`.
        log.commit.drivers.fetch_add(1, Ordering::Relaxed);
        Present(log)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        // Relaxed: see `has_driver`.
        self.0.commit.drivers.fetch_sub(1, Ordering::Relaxed);
    }
}
