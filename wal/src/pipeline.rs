//! Who writes the next batch, who waits, and how far the log has come: the decisions of group commit,
//! without threads and without I/O. `group_commit.rs` carries them out; all of it is guarded by one
//! lock there.
//!
//! 1. One thread at a time puts a batch together (`sealing`), so that sequences enter `in_flight` in
//!    order; it may do so only while fewer than `depth_max` batches are in flight.
//! 2. `written_*` pass a batch when it and all before it are written. `durable_*` follow over batches
//!    that were synced by their own write; past one that was not, only a flush carries them, and only
//!    up to what was written when the flush began.
//! 3. After a failure nothing advances any more.
//! 4. Somebody always owes the next step. Whenever [`Pipeline::may_lead`] holds and some thread waits
//!    for a batch that is not sealed, a thread that is awake is going to look again: the one that
//!    ended sealing or completed a batch hands over ([`Pipeline::heir`]) before it leaves, and a
//!    thread goes to wait only after it has seen, under the lock, that it may not lead.
//! 5. Who waits for which batch is counted exactly: a thread is counted when it goes to wait, and no
//!    more when its batch is completed or it comes back to look. A batch that its leader sent and
//!    left (`flight`) is left only where the count says that somebody waits for it, and that
//!    somebody is woken to attend to it.
//!
//! ```text
//!            may_lead → Turn::Lead            announce              done = true, in order
//!  queued ────────────────────────► sealing ──────────► in flight ─────────────────────► written
//!                                     │ nothing sealed                        │ own sync, or flush
//!                                     ▼                                       ▼
//!                                   free again                              durable
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::PoisonCause;
use crate::format::{BatchKind, SegmentId};
use crate::group_commit::Patience;
use crate::log::{DEPTH_LIMIT, Durability};
use crate::lsn::Lsn;
use crate::storage::{InFlight, Reach, StorageFile};
use crate::writer::Cut;

/// Events that waiters wait for: the batch with sequence `s` has event `s % TURNS`.
pub(crate) const TURNS: usize = 2 * DEPTH_LIMIT;
/// The event after the turns: a flush has ended.
pub(crate) const FLUSHED: usize = TURNS;
/// The event after that: a close finds less under way than before.
pub(crate) const QUIETER: usize = TURNS + 1;
/// All events.
pub(crate) const EVENTS: usize = TURNS + 2;

/// The event of a batch.
pub(crate) fn turn_of(sequence: u64) -> usize {
    (sequence % TURNS as u64) as usize
}

/// What a thread that needs something from the log does next.
pub(crate) enum Turn {
    /// It leads the next batch: `sealing` is its own now.
    Lead,
    /// It syncs what was written unsynced: `flushing` is its own now.
    Flush(Flush),
    /// It waits until this batch, which its leader sent and left, comes back from the disk.
    Attend(Flight),
    /// It waits for another thread.
    Follow(Place),
}

/// What somebody waits for, and is counted as waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The batch of this sequence.
    Batch(u64),
    /// The end of a flush.
    Flush,
}

impl Place {
    /// The event to wait for.
    pub(crate) fn event(self) -> usize {
        match self {
            Place::Batch(sequence) => turn_of(sequence),
            Place::Flush => FLUSHED,
        }
    }
}

/// A batch on its way to the disk.
pub(crate) struct Flight {
    pub(crate) cut: Cut,
    pub(crate) reach: Reach,
    /// Of whoever attends to it.
    pub(crate) patience: Patience,
    pub(crate) in_flight: Box<dyn InFlight>,
}

/// What a flush will have made durable.
pub(crate) struct Flush {
    pub(crate) sequence: u64,
    pub(crate) end: Lsn,
    pub(crate) files: Vec<Dirty>,
}

/// A file with unsynced writes.
#[derive(Clone)]
pub(crate) struct Dirty {
    pub(crate) file: Arc<dyn StorageFile>,
    /// The segment's number, for messages and to tell files apart.
    pub(crate) segment: SegmentId,
    /// The last batch written to it unsynced.
    sequence: u64,
}

/// A batch that was cut, on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Announced {
    pub(crate) reach: Reach,
    /// What the batch's header says of the log before it.
    pub(crate) durable_sequence: u64,
    pub(crate) durable: Lsn,
}

struct Sent {
    sequence: u64,
    records: u64,
    /// The sealed end that it completes.
    end: Option<Lsn>,
    reach: Reach,
    /// Its end must become durable, and its own write does not make it so.
    wants_flush: bool,
    done: bool,
    /// The write itself, while nobody attends to it.
    flight: Option<Flight>,
    /// Threads that wait for it.
    waiting: u32,
}

/// How far the watermarks came in one step.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Advance {
    pub(crate) written: Option<Lsn>,
    pub(crate) durable: Option<Lsn>,
}

pub(crate) struct Pipeline {
    depth_max: usize,
    sealing: bool,
    in_flight: VecDeque<Sent>,
    /// Of the next batch, and how many wait for it.
    next_sequence: u64,
    waiting_next: u32,
    /// The last LSN in a batch.
    taken: Lsn,
    /// The last sealed end that a batch completed: `taken`, unless a sealed stretch is half taken.
    ended: Lsn,
    /// The largest LSN that somebody wants written, and the largest that somebody wants durable.
    wanted: Lsn,
    wanted_durable: Lsn,
    /// The largest LSN that only a driver writes: nobody blocks for it.
    wanted_of_driver: Lsn,

    /// The contiguous completed prefix, and the largest sealed end in it.
    written_sequence: u64,
    written_end: Lsn,
    /// The last batch sent without a sync, and the last one in the written prefix.
    unsynced_sent: u64,
    unsynced_written: u64,
    /// What the last flush covered.
    flushed_sequence: u64,
    durable_sequence: u64,
    durable_end: Lsn,
    flush_wanted: bool,
    flushing: bool,
    dirty: Vec<Dirty>,

    /// The last batch carried records, and none after it says that it is durable.
    unmarked: bool,
    /// A shutdown has begun; and its mark, the last batch of all, is sent.
    closing: bool,
    closed: bool,
    poison: Option<PoisonCause>,
}

impl Pipeline {
    /// After a log whose last batch is `sequence` and last record `last`, all durable.
    pub(crate) fn new(depth_max: usize, sequence: u64, last: Lsn) -> Pipeline {
        Pipeline {
            depth_max,
            sealing: false,
            in_flight: VecDeque::with_capacity(depth_max),
            next_sequence: sequence + 1,
            waiting_next: 0,
            taken: last,
            ended: last,
            wanted: last,
            wanted_durable: last,
            wanted_of_driver: last,
            written_sequence: sequence,
            written_end: last,
            unsynced_sent: 0,
            unsynced_written: 0,
            flushed_sequence: 0,
            durable_sequence: sequence,
            durable_end: last,
            flush_wanted: false,
            flushing: false,
            dirty: Vec::new(),
            unmarked: false,
            closing: false,
            closed: false,
            poison: None,
        }
    }

    pub(crate) fn poison(&self) -> Option<&PoisonCause> {
        self.poison.as_ref()
    }

    /// Whether a record has come as far as `level` asks.
    pub(crate) fn has_reached(&self, lsn: Lsn, level: Durability) -> bool {
        match level {
            Durability::Buffered => true,
            Durability::Os => lsn <= self.written_end,
            Durability::Sync => lsn <= self.durable_end,
        }
    }

    /// Somebody wants a record to come as far as `level`.
    pub(crate) fn want(&mut self, lsn: Lsn, level: Durability) {
        self.wanted = self.wanted.max(lsn);
        if level != Durability::Sync || lsn <= self.durable_end {
            return;
        }
        self.wanted_durable = self.wanted_durable.max(lsn);
        if lsn <= self.written_end {
            self.flush_wanted = true;
        } else if let Some(batch) =
            self.in_flight.iter_mut().find(|batch| batch.end.is_some_and(|end| lsn <= end))
        {
            batch.wants_flush |= batch.reach != Reach::Stable;
        }
        // Otherwise the batch that completes its stretch is still to be announced, and will be asked
        // to be durable by `wanted_durable`.
    }

    /// The same, for somebody who does not block for it.
    pub(crate) fn want_of_driver(&mut self, lsn: Lsn, level: Durability) {
        self.wanted_of_driver = self.wanted_of_driver.max(lsn);
        self.want(lsn, level);
    }

    /// Whether a batch may be put together that no blocked thread may care for.
    pub(crate) fn driver_may_lead(&self) -> bool {
        self.wanted_of_driver > self.ended && self.may_lead()
    }

    /// Whether a batch may, and should, be put together now.
    pub(crate) fn may_lead(&self) -> bool {
        !self.sealing
            && self.in_flight.len() < self.depth_max
            && self.is_worth_a_batch()
            && self.is_open()
    }

    /// Whether batches may still be written.
    fn is_open(&self) -> bool {
        self.poison.is_none() && !self.closed
    }

    /// Whether there is something to write, and it should not wait for a batch in flight to come
    /// back. It should if fewer records wait than are in flight: then most of those who commit are
    /// about to be answered and will commit again, and one batch for all of them costs fewer writes
    /// and fewer wake-ups than two. With nothing in flight nothing waits.
    fn is_worth_a_batch(&self) -> bool {
        let waiting = self.wanted.bits().saturating_sub(self.taken.bits());
        let in_flight: u64 =
            self.in_flight.iter().filter(|sent| !sent.done).map(|sent| sent.records).sum();
        self.is_half_taken() || waiting > 0 && waiting >= in_flight
    }

    /// A sealed stretch was longer than a batch, and the rest of it is to follow.
    pub(crate) fn is_half_taken(&self) -> bool {
        self.ended < self.taken
    }

    /// The next step of a thread that waits for `lsn`. To follow is to be counted; [`Pipeline::back`]
    /// undoes it.
    pub(crate) fn turn(&mut self, lsn: Lsn) -> Turn {
        if lsn <= self.written_end {
            return self.begin_flush().map_or(Turn::Follow(Place::Flush), Turn::Flush);
        }
        // Whose record is in flight already does not lead for others: it would be answered later.
        if lsn > self.ended && self.may_lead() {
            self.sealing = true;
            return Turn::Lead;
        }
        for sent in &mut self.in_flight {
            if let Some(flight) = sent.flight.take() {
                return Turn::Attend(flight);
            }
            if sent.end.is_some_and(|end| lsn <= end) {
                sent.waiting += 1;
                return Turn::Follow(Place::Batch(sent.sequence));
            }
        }
        self.waiting_next += 1;
        Turn::Follow(Place::Batch(self.next_sequence))
    }

    /// A thread that followed looks again.
    pub(crate) fn back(&mut self, from: Place) {
        let Place::Batch(sequence) = from else { return };
        if sequence == self.next_sequence {
            self.waiting_next -= 1;
        } else if let Some(sent) = self.sent(sequence) {
            sent.waiting -= 1;
        }
        // Otherwise the batch is done, and with it the count.
    }

    fn sent(&mut self, sequence: u64) -> Option<&mut Sent> {
        self.in_flight.iter_mut().find(|sent| sent.sequence == sequence)
    }

    /// Leaves a batch that was just sent to one of those who wait for it; the caller wakes one of
    /// them. Gives it back if nobody does.
    pub(crate) fn leave(&mut self, flight: Flight) -> Option<Flight> {
        let sent = self.sent(flight.cut.sequence).filter(|sent| sent.waiting > 0);
        match sent {
            Some(sent) => {
                debug_assert!(sent.flight.is_none());
                sent.flight = Some(flight);
                None
            }
            None => Some(flight),
        }
    }

    /// Whether to put a batch together now, on behalf of those who wait for it.
    pub(crate) fn lead_for_next(&mut self) -> bool {
        let lead = self.waiting_next > 0 && self.may_lead();
        self.sealing |= lead;
        lead
    }

    /// A step that could be done now for whoever waits, if there is one.
    pub(crate) fn step(&mut self) -> Option<Turn> {
        if let Some(flush) = self.begin_flush() {
            return Some(Turn::Flush(flush));
        }
        if let Some(flight) = self.in_flight.iter_mut().find_map(|sent| sent.flight.take()) {
            return Some(Turn::Attend(flight));
        }
        if self.may_lead() {
            self.sealing = true;
            return Some(Turn::Lead);
        }
        None
    }

    /// Takes the lead to write records up to `appended` without a sync, if nothing is under way and none of
    /// them has to be synced: `synced` is the last record appended to be so.
    pub(crate) fn lead_unsynced(&mut self, appended: Lsn, synced: Lsn) -> bool {
        let lead = appended > self.ended
            && synced.max(self.wanted_durable) <= self.ended
            && !self.flush_wanted
            && self.is_quiet()
            && !self.closing
            && self.is_open();
        if lead {
            self.want(appended, Durability::Os);
            self.sealing = true;
        }
        lead
    }

    /// Takes the lead for a mark, if nothing is under way. Once a shutdown has begun only its own
    /// mark may follow.
    pub(crate) fn lead_mark(&mut self, kind: BatchKind) -> bool {
        let timely = self.closing == (kind == BatchKind::Clean);
        let lead = timely && self.is_quiet() && self.is_open();
        self.sealing |= lead;
        lead
    }

    /// Nothing is being put together, in flight or being flushed.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.sealing && self.in_flight.is_empty() && !self.flushing
    }

    /// A batch was cut: `last` is its last record (the one before it, for a mark), `end` the sealed
    /// end that it completes, `appended_synced` the last record appended to be synced. An error: the
    /// log failed meanwhile, nothing may be written.
    pub(crate) fn announce(
        &mut self,
        cut: &Cut,
        appended_synced: Lsn,
        patience: Patience,
    ) -> Result<Announced, PoisonCause> {
        debug_assert!(self.sealing && cut.sequence == self.next_sequence);
        if let Some(cause) = &self.poison {
            return Err(cause.clone());
        }
        // Marks are synced: they bear witness for what is before them.
        let sync = cut.records == 0 || appended_synced.max(self.wanted_durable) > self.ended;
        // A synced write covers itself only. Behind an unsynced one it would be of no use before a
        // flush, which then covers both.
        let covers = self.unsynced_sent <= self.flushed_sequence;
        let syncs = sync && patience == Patience::Disk;
        let reach = match syncs && (covers || planted!("unsynced-batch-counted-durable")) {
            true => Reach::Stable,
            false => Reach::Kernel,
        };
        if reach == Reach::Kernel {
            self.unsynced_sent = cut.sequence;
            self.note_dirty(cut);
        }
        self.in_flight.push_back(Sent {
            sequence: cut.sequence,
            records: cut.records as u64,
            end: cut.end,
            reach,
            wants_flush: sync && cut.end.is_some() && reach == Reach::Kernel,
            done: false,
            flight: None,
            waiting: std::mem::take(&mut self.waiting_next),
        });
        self.next_sequence += 1;
        self.taken = cut.last;
        if let Some(end) = cut.end {
            self.ended = end;
        }
        self.unmarked = cut.records > 0;
        self.closed |= cut.kind == BatchKind::Clean;
        Ok(Announced { reach, durable_sequence: self.durable_sequence, durable: self.durable_end })
    }

    fn note_dirty(&mut self, cut: &Cut) {
        match self.dirty.iter_mut().find(|dirty| dirty.segment == cut.segment) {
            Some(dirty) => dirty.sequence = cut.sequence,
            None => self.dirty.push(Dirty {
                file: cut.file.clone(),
                segment: cut.segment,
                sequence: cut.sequence,
            }),
        }
    }

    /// The thread that was sealing is done with it, whether or not a batch came of it.
    pub(crate) fn end_sealing(&mut self) {
        debug_assert!(self.sealing);
        self.sealing = false;
    }

    /// Batches in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The last batch that is durable, and the end that is.
    pub(crate) fn durable_batch(&self) -> (u64, Lsn) {
        (self.durable_sequence, self.durable_end)
    }

    /// Of the next batch.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// A batch was written. Returns what became of the watermarks; `woken` gets the sequences that
    /// waiters may have waited for.
    pub(crate) fn complete(&mut self, sequence: u64, mut woken: impl FnMut(u64)) -> Advance {
        if let Some(sent) = self.sent(sequence) {
            sent.done = true;
        }
        let written_before = self.written_end;
        while self.poison.is_none()
            && let Some(batch) = self.in_flight.pop_front_if(|batch| batch.done)
        {
            debug_assert_eq!(batch.sequence, self.written_sequence + 1);
            self.written_sequence = batch.sequence;
            if batch.reach == Reach::Kernel {
                self.unsynced_written = batch.sequence;
            }
            if let Some(end) = batch.end {
                self.written_end = end;
            }
            self.flush_wanted |= batch.wants_flush;
            woken(batch.sequence);
        }
        Advance {
            written: (self.written_end > written_before).then_some(self.written_end),
            durable: self.advance_durable(),
        }
    }

    /// Takes on the flush, if one is wanted and nobody is at it.
    pub(crate) fn begin_flush(&mut self) -> Option<Flush> {
        if !self.wants_flush() {
            return None;
        }
        self.flush_wanted = false;
        if self.durable_sequence == self.written_sequence {
            return None;
        }
        self.flushing = true;
        Some(Flush {
            sequence: self.written_sequence,
            end: self.written_end,
            files: self.dirty.clone(),
        })
    }

    /// The flush succeeded.
    pub(crate) fn flushed(&mut self, flush: &Flush) -> Advance {
        debug_assert!(self.flushing);
        self.flushing = false;
        if self.poison.is_some() {
            return Advance::default();
        }
        self.flushed_sequence = flush.sequence;
        self.dirty.retain(|dirty| dirty.sequence > flush.sequence);
        if self.durable_sequence < flush.sequence && self.unsynced_written > flush.sequence {
            // Unsynced batches were written since it began: it covers what it covers.
            self.durable_sequence = flush.sequence;
            let durable = (flush.end > self.durable_end).then_some(flush.end);
            self.durable_end = self.durable_end.max(flush.end);
            return Advance { written: None, durable };
        }
        Advance { written: None, durable: self.advance_durable() }
    }

    /// If every written batch was synced by its own write or by a flush, all of them are durable.
    fn advance_durable(&mut self) -> Option<Lsn> {
        let unsynced = self.unsynced_written > self.flushed_sequence
            && !planted!("unsynced-batch-counted-durable");
        if self.poison.is_some() || unsynced {
            return None;
        }
        self.durable_sequence = self.written_sequence;
        let advanced = self.written_end > self.durable_end;
        self.durable_end = self.written_end;
        advanced.then_some(self.durable_end)
    }

    /// The log failed. Returns the cause that stands: the first one.
    pub(crate) fn fail(&mut self, cause: PoisonCause) -> PoisonCause {
        self.poison.get_or_insert(cause).clone()
    }

    /// Whether a flush is owed and nobody is at it.
    pub(crate) fn wants_flush(&self) -> bool {
        self.flush_wanted && !self.flushing && self.poison.is_none()
    }

    /// The flush's thread failed.
    pub(crate) fn end_flushing(&mut self) {
        self.flushing = false;
    }

    /// Whom to wake when nobody leads though somebody might: those who wait for the batch after the
    /// last one; else those who wait for the last one, if more of its stretch is to come.
    pub(crate) fn heir(&self) -> Option<Place> {
        if !self.may_lead() {
            return None;
        }
        if self.waiting_next > 0 {
            return Some(Place::Batch(self.next_sequence));
        }
        let last = self.in_flight.back().filter(|sent| sent.waiting > 0);
        last.map(|sent| Place::Batch(sent.sequence))
    }

    /// Whether the last batch's records are durable and no mark says so yet, with nothing under way.
    pub(crate) fn wants_mark(&self) -> bool {
        self.unmarked
            && !self.closing
            && self.is_quiet()
            && self.poison.is_none()
            && self.durable_sequence == self.written_sequence
    }

    /// The last LSN in a batch.
    pub(crate) fn taken(&self) -> Lsn {
        self.taken
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether this is the one shutdown that ends the log.
    pub(crate) fn close(&mut self) -> bool {
        !std::mem::replace(&mut self.closing, true)
    }
}
