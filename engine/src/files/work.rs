//! Who does the work, and who waits for it: the threads that flush and compact, and writers that are held
//! back while memory is full of what is yet to be flushed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use isolith_index::pin;

use super::{Counters, Done, Files, WorkError};
use crate::core::Core;
use crate::error::StallReason;

/// How often those who do the work look for it unasked.
const ROUND: Duration = Duration::from_millis(200);
/// How often it is looked whether somebody still reads what was flushed.
const SOON: Duration = Duration::from_millis(2);
/// When it is tried again after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// What a writer is slowed down by for each file too many.
const SLOW: Duration = Duration::from_micros(500);
/// Turns that are given to the epoch to let go of flushed memtables.
pub(super) const EPOCH_TURNS: usize = 128;
const EPOCH_PAUSE: Duration = Duration::from_micros(200);

/// What is there to do, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Counts up when there is something new to do.
    pub(super) asked: u64,
    /// Counts up when memory was given back, or files were compacted.
    pub(super) done: u64,
    /// Why the last attempt failed.
    pub(super) failure: Option<String>,
    pub(super) over: bool,
}

impl Files {
    /// Asks for work. Without threads the caller does it.
    pub(crate) fn ask(&self, core: &Core) {
        if self.attended {
            self.work.lock().asked += 1;
            self.asked.notify_all();
        } else {
            // The flush first, and whatever becomes of it the compaction: it makes room, too.
            let (flushed, compacted) = (self.flush_due(core), self.compact_all(core));
            for result in [flushed, compacted] {
                let _ = result.inspect_err(|error| self.note_failure(error));
            }
        }
    }

    /// Waits until something was done, at most until `until`; returns whether it was.
    pub(super) fn wait_done(&self, until: Instant) -> bool {
        let mut work = self.work.lock();
        let before = work.done;
        while work.done == before && !work.over {
            if self.done.wait_until(&mut work, until).timed_out() {
                return false;
            }
        }
        !work.over
    }

    pub(super) fn note_done(&self) {
        let mut work = self.work.lock();
        work.done += 1;
        work.failure = None;
        drop(work);
        self.done.notify_all();
        self.asked.notify_all();
    }

    pub(super) fn note_failure(&self, error: &WorkError) {
        let mut work = self.work.lock();
        work.failure = Some(error.to_string());
        drop(work);
        self.done.notify_all();
    }

    /// Why the last attempt to write files failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.work.lock().failure.clone()
    }

    /// From now on threads end, and nobody waits for them.
    pub(crate) fn end(&self) {
        self.work.lock().over = true;
        if let Some(throttle) = &self.throttle {
            throttle.end();
        }
        self.asked.notify_all();
        self.done.notify_all();
    }

    /// Does one kind of work whenever it is asked for, until the end: for a thread of its own. After a
    /// failure it is tried again after a while.
    pub(crate) fn attend(&self, core: &Core, work: impl Fn(&Self, &Core) -> Done<bool>) {
        let mut seen = 0;
        loop {
            let result = work(self, core);
            let mut state = self.work.lock();
            if state.over {
                return;
            }
            match result {
                Ok(true) => continue,
                Ok(false) if state.asked != seen => seen = state.asked,
                Ok(false) => {
                    let waits_for_readers = !self.retired.lock().is_empty();
                    self.asked.wait_for(&mut state, if waits_for_readers { SOON } else { ROUND });
                }
                Err(error) => {
                    drop(state);
                    self.note_failure(&error);
                    let mut state = self.work.lock();
                    if !state.over {
                        self.asked.wait_for(&mut state, RETRY_AFTER);
                    }
                }
            }
        }
    }

    /// Makes a writer wait while memory is full of what is yet to be flushed, or while files are flushed
    /// faster than they are compacted; slows it down before. `used` is what memtables hold.
    pub(crate) fn hold_back(
        &self,
        core: &Core,
        mut used: usize,
        patience: Duration,
    ) -> Result<(), StallReason> {
        let deadline = Instant::now() + patience;
        let mut waited = false;
        loop {
            // Relaxed, here and below: a hint.
            let piled_up =
                || self.level0.load(Ordering::Relaxed) as usize >= self.options.slow_files;
            if used > self.options.active_bytes_max || self.is_log_long() {
                self.ask(core);
                if !self.attended {
                    used = self.reclaimed(core, false);
                }
            } else if !self.attended && piled_up() {
                // Files that were asked for one by one are compacted by nobody else.
                self.ask(core);
            }
            if !self.attended && used > self.options.memory_bytes_max {
                used = self.reclaimed(core, true);
            }
            // Relaxed: a count to slow down by; whoever sees an old one waits a turn later.
            let files = self.level0.load(Ordering::Relaxed) as usize;
            let full = used > self.options.memory_bytes_max;
            if !full && files < self.options.stop_files {
                let slow = files.saturating_sub(self.options.slow_files);
                if slow > 0 && self.attended && !patience.is_zero() {
                    std::thread::sleep(SLOW * slow as u32);
                }
                return Ok(());
            }
            if !waited {
                waited = true;
                Counters::count(&self.counters.stalls, 1);
            }
            if !self.attended || !self.wait_done(deadline) {
                return Err(match full {
                    true => StallReason::Flush {
                        bytes: used,
                        bytes_max: self.options.memory_bytes_max,
                        cause: self.failure(),
                    },
                    false => StallReason::Compaction { files },
                });
            }
            used = core.sum_memory();
        }
    }

    /// What memtables hold once those that were flushed are gone, for which it helps the epoch along; a
    /// patient caller waits a moment for somebody who has lost the processor while pinned.
    pub(super) fn reclaimed(&self, core: &Core, patient: bool) -> usize {
        for turn in 0..if patient { EPOCH_TURNS } else { EPOCH_TURNS / 8 } {
            if self.retired.lock().is_empty() {
                break;
            }
            if turn >= EPOCH_TURNS / 8 {
                std::thread::sleep(EPOCH_PAUSE);
            }
            if turn % 32 == 0 {
                core.forget();
            }
            pin().flush();
            self.retire();
        }
        core.sum_memory()
    }
}
