//! Credits: what a record needs to be sure of before it may enter the log. So an append never meets
//! a full queue or a full disk.
//!
//! A credit holds room in the queue (bytes and one place) and room in prepared segments. The second
//! is charged as if the record were a batch of its own, in whole blocks: batches only merge records,
//! so what they take is never more than the sum of what was charged.
//!
//! 1. The charges outstanding, [`KEPT_BYTES`] with them, fit the prepared room however the records
//!    come to be cut into batches. A batch never spans segments, so a segment's end may stay unused,
//!    but by less than the largest charge outstanding: [`Ledger::room`] counts each segment with that
//!    much less.
//! 2. A record larger than a quarter of a segment brings a segment of its own along. Moving to it
//!    wastes the rest of the segment in use, so each such credit outstanding costs a whole segment.
//! 3. Taking records out of the queue returns their charges and uses up at most as much, in one step
//!    under the lock; moving to the next segment changes the room by nothing (the end left unused was
//!    not counted), or by what the large record had been charged for it. So 1 holds at all times.
//! 4. Preparing failed for want of space, or for anything else: writers stall with that reason, and go
//!    on when a later attempt succeeds. Nothing in the log is in doubt.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::error::{PoisonCause, ReserveError, StallReason};
use crate::format::{BLOCK, batch_bytes, framed_bytes};
use crate::segment::Segment;

/// Always kept: for the mark of a clean close, which carries no credit, and a block to spare.
pub(crate) const KEPT_BYTES: u64 = 2 * BLOCK;

/// With less room than this, and no prepared segment, a small one is prepared first.
const SHORT_BYTES: u64 = 1 << 20;
/// A segment that is prepared while somebody waits for it, or soon will.
pub(crate) const SOON_BYTES: u64 = 4 << 20;

/// What a record of `bytes` is charged: a batch of its own.
pub(crate) fn charge(bytes: usize) -> u64 {
    batch_bytes(framed_bytes(bytes))
}

/// The account of prepared room and queued records. Plain arithmetic, no waiting.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// Set once at open.
    segment_bytes: u64,
    queue_bytes_max: usize,
    queue_records_max: usize,

    /// Unused bytes of the segment in use.
    active_left: u64,
    /// Prepared segments, in the order in which they will be used.
    pool: VecDeque<Segment>,
    /// The sum of the charges outstanding, without large records.
    charged: u64,
    /// Charges outstanding, counted by their power of two.
    classes: [u32; 64],
    /// Large records outstanding.
    large: u64,
    /// Reserved and not yet written.
    queue_bytes: usize,
    queue_records: usize,
}

/// Where a mark finds its block.
#[derive(Debug)]
pub(crate) enum Block {
    /// In the segment in use.
    Here,
    /// In this one, which is in use from now on.
    Next(Segment),
}

/// What [`Ledger::reserve`] lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Records in the queue must be written first.
    Queue,
    /// A segment must be prepared first.
    Space,
    /// A large record must bring a segment of this many bytes.
    OwnSegment(u64),
}

impl Ledger {
    pub(crate) fn new(
        segment_bytes: u64,
        queue_bytes_max: usize,
        queue_records_max: usize,
    ) -> Ledger {
        Ledger {
            segment_bytes,
            queue_bytes_max,
            queue_records_max,
            active_left: 0,
            pool: VecDeque::new(),
            charged: 0,
            classes: [0; 64],
            large: 0,
            queue_bytes: 0,
            queue_records: 0,
        }
    }

    /// Whether a record of `bytes` brings its own segment.
    fn is_large(&self, bytes: usize) -> bool {
        charge(bytes) > self.segment_bytes / 4
    }

    /// Room that is sure to be usable, with `largest` the largest charge outstanding.
    fn room(&self, largest: u64) -> u64 {
        let unused_end = largest.max(BLOCK) - BLOCK;
        // A segment larger than usual (it came with a large record that was not written after all)
        // counts as a usual one: so none wastes more than that.
        let usable = |left: u64| left.min(self.segment_bytes - BLOCK).saturating_sub(unused_end);
        let pool: u64 = self.pool.iter().map(|segment| usable(segment.capacity - BLOCK)).sum();
        (usable(self.active_left) + pool).saturating_sub(self.large * self.segment_bytes)
    }

    /// The largest charge outstanding, rounded up to a power of two.
    fn largest(&self) -> u64 {
        match self.classes.iter().rposition(|&count| count > 0) {
            Some(class) => 1 << class,
            None => 0,
        }
    }

    fn class(charge: u64) -> usize {
        charge.next_power_of_two().trailing_zeros() as usize
    }

    /// Reserves for a record of `bytes`. `own` says that a large record brought its segment.
    pub(crate) fn reserve(&mut self, bytes: usize, own: bool) -> Result<(), Lack> {
        // A record larger than the whole queue goes in when the queue is empty.
        let full = self.queue_bytes > 0 && self.queue_bytes + bytes > self.queue_bytes_max;
        if full || self.queue_records >= self.queue_records_max {
            return Err(Lack::Queue);
        }
        let charge = charge(bytes);
        if self.is_large(bytes) {
            self.large += 1;
            let fits = self.room(self.largest()) >= self.charged + KEPT_BYTES;
            if !fits || !own {
                self.large -= 1;
                return Err(if fits { Lack::OwnSegment(charge + BLOCK) } else { Lack::Space });
            }
        } else {
            let largest = self.largest().max(1 << Self::class(charge));
            if self.room(largest) < self.charged + charge + KEPT_BYTES {
                return Err(Lack::Space);
            }
            self.charged += charge;
            self.classes[Self::class(charge)] += 1;
        }
        self.queue_bytes += bytes;
        self.queue_records += 1;
        Ok(())
    }

    /// Takes a block for a mark, which carries no credit: out of what is kept for the last one, or
    /// only of what is to spare.
    pub(crate) fn take_block(&mut self, kept: bool) -> Option<Block> {
        if !kept && self.room(self.largest()) < self.charged + KEPT_BYTES + BLOCK {
            return None;
        }
        if self.active_left >= BLOCK {
            self.active_left -= BLOCK;
            return Some(Block::Here);
        }
        let segment = self.pool.pop_front()?;
        self.active_left = segment.capacity - 2 * BLOCK;
        Some(Block::Next(segment))
    }

    /// Whether the last mark finds its block.
    pub(crate) fn has_block(&self) -> bool {
        self.active_left >= BLOCK || !self.pool.is_empty()
    }

    /// Whether it finds it in the segment in use.
    pub(crate) fn has_block_here(&self) -> bool {
        self.active_left >= BLOCK
    }

    /// A record's charge returns: it is in a batch now, or was never appended.
    pub(crate) fn discharge(&mut self, bytes: usize) {
        if self.is_large(bytes) {
            self.large -= 1;
        } else {
            let charge = charge(bytes);
            self.charged -= charge;
            self.classes[Self::class(charge)] -= 1;
        }
    }

    /// Records were written, or never appended: their places in the queue are free.
    pub(crate) fn leave_queue(&mut self, bytes: usize, records: usize) {
        self.queue_bytes -= bytes;
        self.queue_records -= records;
    }

    /// The segment in use takes a batch.
    pub(crate) fn use_up(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.active_left);
        self.active_left -= bytes;
    }

    /// Another segment is in use from now on, with `left` bytes behind its header.
    pub(crate) fn move_to(&mut self, left: u64) {
        self.active_left = left;
    }

    /// The next prepared segment that has room for a batch of `bytes`. (What is promised fits those that
    /// have room for the largest charge: of others nothing was counted, and they stay for marks.)
    pub(crate) fn next_segment(&mut self, bytes: u64) -> Option<Segment> {
        let fits = |segment: &Segment| segment.capacity - BLOCK >= bytes;
        self.pool.iter().position(fits).and_then(|at| self.pool.remove(at))
    }

    /// The segment that is to be prepared: where hardly any room is left a small one, which is there soon.
    pub(crate) fn next_capacity(&self) -> u64 {
        match self.pool.is_empty() && self.active_left < SHORT_BYTES {
            true => self.segment_bytes.min(SOON_BYTES),
            false => self.segment_bytes,
        }
    }

    /// The last mark goes into this segment, if one is given; gives back all that were prepared and that
    /// nothing will be written to.
    pub(crate) fn end_in(&mut self, last: Option<Segment>) -> VecDeque<Segment> {
        let unused = std::mem::take(&mut self.pool);
        if let Some(last) = last {
            self.active_left = 0;
            self.pool.push_back(last);
        }
        unused
    }

    /// A prepared segment of an unusual size that a large record could bring: one that came with a
    /// record that was not written after all.
    fn take_left_over(&mut self, capacity: u64) -> Option<Segment> {
        let good = |segment: &Segment| {
            segment.capacity >= capacity && segment.capacity != self.segment_bytes
        };
        self.pool.iter().position(good).and_then(|at| self.pool.remove(at))
    }

    /// A segment was prepared.
    pub(crate) fn add_segment(&mut self, segment: Segment) {
        self.pool.push_back(segment);
    }

    /// Segments prepared and not in use.
    pub(crate) fn spare(&self) -> usize {
        self.pool.len()
    }

    /// Whether a segment should be prepared ahead of need.
    pub(crate) fn wants_segment(&self) -> bool {
        self.pool.is_empty()
    }

    /// Whether more than half of the queue is taken.
    pub(crate) fn is_crowded(&self) -> bool {
        self.queue_bytes > self.queue_bytes_max / 2
            || self.queue_records > self.queue_records_max / 2
    }
}

/// The ledger, and those who wait for it.
#[derive(Debug)]
pub(crate) struct Space {
    state: Mutex<State>,
    told: Told,
}

/// Who is told of changes. Apart, since room appears with every batch, and a segment is wanted once in
/// thousands of them.
#[derive(Debug, Default)]
struct Told {
    /// Those who lack something: told of every change.
    lacking: Condvar,
    /// Those who prepare segments: told when one is wanted, and at the end.
    preparing: Condvar,
}

#[derive(Debug)]
struct State {
    ledger: Ledger,
    /// Counts what `Told::lacking` was notified of.
    changes: u64,
    /// Somebody waits for a segment.
    wanted: bool,
    /// A segment is being prepared.
    preparing: bool,
    /// Why the last attempt to prepare one failed; cleared by a success.
    failure: Option<StallReason>,
    ended: Option<Ended>,
}

#[derive(Clone, Debug)]
enum Ended {
    Closed,
    Poisoned(PoisonCause),
}

/// What came of trying to reserve.
pub(crate) enum Attempt {
    Taken {
        credit: Credit,
        crowded: bool,
    },
    /// With what [`Space::wait_for_change`] needs to know.
    Lacks(Lack, Seen),
    Over(ReserveError),
}

/// The changes that had happened when something was found lacking.
#[derive(Clone, Copy)]
pub(crate) struct Seen(u64);

impl State {
    fn change(&mut self, told: &Told) {
        self.changes += 1;
        told.lacking.notify_all();
        if self.ended.is_some() || self.wants_segment() && self.failure.is_none() {
            told.preparing.notify_all();
        }
    }

    /// Whether a segment should be prepared, and nobody is at it.
    fn wants_segment(&self) -> bool {
        (self.wanted || self.ledger.wants_segment()) && !self.preparing
    }
}

impl Space {
    pub(crate) fn new(ledger: Ledger) -> Space {
        let state = State {
            ledger,
            changes: 0,
            wanted: false,
            preparing: false,
            failure: None,
            ended: None,
        };
        Space { state: Mutex::new(state), told: Told::default() }
    }

    /// A step of arithmetic under the lock.
    pub(crate) fn with<R>(&self, step: impl FnOnce(&mut Ledger) -> R) -> R {
        step(&mut self.state.lock().ledger)
    }

    /// Tries to reserve for a record of `bytes`; `own` is the segment that a large one brings, taken
    /// only on success.
    pub(crate) fn attempt(self: &Arc<Self>, bytes: usize, own: &mut Option<Segment>) -> Attempt {
        let mut state = self.state.lock();
        match &state.ended {
            Some(Ended::Closed) => return Attempt::Over(ReserveError::Closed),
            Some(Ended::Poisoned(cause)) => {
                return Attempt::Over(ReserveError::Poisoned(cause.clone()));
            }
            None => {}
        }
        let mut result = state.ledger.reserve(bytes, own.is_some());
        if let Err(Lack::OwnSegment(capacity)) = result
            && let Some(left_over) = state.ledger.take_left_over(capacity)
        {
            *own = Some(left_over);
            result = state.ledger.reserve(bytes, true);
        }
        match result {
            Ok(()) => {
                let space = Some(self.clone());
                let credit = Credit { space, bytes, own: own.take().map(Box::new) };
                Attempt::Taken { credit, crowded: state.ledger.is_crowded() }
            }
            Err(lack) => {
                if lack == Lack::Space && !state.wanted {
                    state.wanted = true;
                    state.change(&self.told);
                }
                Attempt::Lacks(lack, Seen(state.changes))
            }
        }
    }

    /// Waits until something changed since it was lacking, at most until the deadline. `false`: it
    /// passed.
    pub(crate) fn wait_for_change(&self, seen: Seen, deadline: Instant) -> bool {
        let mut state = self.state.lock();
        while state.changes == seen.0 {
            if self.told.lacking.wait_until(&mut state, deadline).timed_out() {
                return false;
            }
        }
        true
    }

    /// Why a writer that lacks something stalls.
    pub(crate) fn stall_reason(&self, lack: &Lack, directory: &str) -> StallReason {
        match lack {
            Lack::Queue => StallReason::LogQueue,
            Lack::Space | Lack::OwnSegment(_) => {
                self.state.lock().failure.clone().unwrap_or_else(|| StallReason::LogSpace {
                    file: directory.to_owned(),
                    error: None,
                })
            }
        }
    }

    /// Records left the queue.
    pub(crate) fn leave_queue(&self, bytes: usize, records: usize) {
        let mut state = self.state.lock();
        state.ledger.leave_queue(bytes, records);
        state.change(&self.told);
    }

    /// Takes on the task of preparing a segment if one is wanted and nobody is at it.
    pub(crate) fn begin_preparing(&self) -> bool {
        let mut state = self.state.lock();
        let begin = state.ended.is_none() && state.wants_segment();
        state.preparing |= begin;
        begin
    }

    /// The task is done, or failed.
    pub(crate) fn end_preparing(&self, result: Result<Segment, StallReason>) {
        let mut state = self.state.lock();
        state.preparing = false;
        match result {
            Ok(segment) => {
                state.ledger.add_segment(segment);
                state.failure = None;
                state.wanted = false;
            }
            Err(reason) => state.failure = Some(reason),
        }
        state.change(&self.told);
    }

    /// A segment is there that nobody had to prepare.
    pub(crate) fn add_spare(&self, segment: Segment) {
        let mut state = self.state.lock();
        state.ledger.add_segment(segment);
        state.failure = None;
        state.wanted = false;
        state.change(&self.told);
    }

    /// Waits until a segment is wanted, at most until the deadline. `None`: the log is over.
    pub(crate) fn wait_until_wanted(&self, deadline: Instant) -> Option<bool> {
        let mut state = self.state.lock();
        loop {
            if state.ended.is_some() {
                return None;
            }
            // After a failure the next attempt waits for the deadline: space does not come back in a
            // moment.
            let wanted = state.wants_segment();
            if wanted && state.failure.is_none() {
                return Some(true);
            }
            if self.told.preparing.wait_until(&mut state, deadline).timed_out() {
                return Some(wanted);
            }
        }
    }

    /// No more credits.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.ended.get_or_insert(Ended::Closed);
        state.change(&self.told);
    }

    /// No more credits, because the log failed.
    pub(crate) fn poison(&self, cause: &PoisonCause) {
        let mut state = self.state.lock();
        state.ended = Some(Ended::Poisoned(cause.clone()));
        state.change(&self.told);
    }
}

/// Room for one record, in the queue and in the log. Dropped unused, it goes back.
#[derive(Debug)]
pub struct Credit {
    /// `None` once the record is appended.
    space: Option<Arc<Space>>,
    bytes: usize,
    /// The segment that a large record brings.
    own: Option<Box<Segment>>,
}

impl Credit {
    /// The largest record that it is good for, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The credit is with the record now: the log discharges it when the record is written.
    pub(crate) fn spend(mut self) -> (usize, Option<Box<Segment>>) {
        self.space = None;
        (self.bytes, self.own.take())
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        let Some(space) = self.space.take() else { return };
        let mut state = space.state.lock();
        state.ledger.discharge(self.bytes);
        state.ledger.leave_queue(self.bytes, 1);
        if let Some(own) = self.own.take() {
            state.ledger.add_segment(*own);
        }
        state.change(&space.told);
    }
}

#[cfg(test)]
mod tests;
