//! Group commit: whoever waits for a record writes for all who wait. No thread stands between a
//! committer and the disk; the driver thread leads only for futures and for records that nobody
//! waits for.
//!
//! 1. A leader seals, cuts a batch, sends it, waits for it, moves the watermarks, wakes those that
//!    they cover, and hands the lead on if records are left that somebody waits for.
//! 2. The horizon hears of an end before the log's own watermark shows it: a commit that was
//!    acknowledged is in every snapshot taken afterwards.
//! 3. No wake-up is lost. A waiter looks at the pipeline and takes its event's ticket under one lock;
//!    whoever changes the pipeline does so under that lock and notifies afterwards. So either the
//!    waiter sees the change, or its ticket is older than the notification. That nobody waits for a
//!    step which nobody owes is the pipeline's invariant 4.
//! 4. A future's waker is registered before the watermark is looked at, and wakers are taken after
//!    the watermark moved: one of the two sees the other.
//! 5. A thread that panics while it leads, attends to a batch, or flushes, poisons the log, rather
//!    than leave the others waiting.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::{FailedOperation, LogError, PoisonCause};
use crate::format::{BatchKind, SegmentId};
use crate::log::{Durability, Log, LogStats};
use crate::lsn::Lsn;
use crate::pipeline::{Advance, EVENTS, FLUSHED, Flight, Flush, Pipeline, QUIETER, Turn, turn_of};
use crate::segment;
use crate::storage::{IoBuffer, Reach};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, Event, Mutex, MutexGuard, Ordering, Ticket, yield_now,
};
use crate::writer::{Cut, NoSegment, Writer};

/// Buffers larger than this are freed after use.
const BUFFER_BYTES_KEPT: usize = 2 << 20;

/// Batches that one call of [`Log::write_to_kernel`] writes at most: what is queued may need more than one.
const KERNEL_ROUNDS: u32 = 4;

/// Rounds that a waiter looks for its batch before it sleeps.
const SPIN_ROUNDS: u32 = 2000;

/// What a thread that leads a batch may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The disk: it syncs what has to be synced.
    Disk,
    /// The kernel, which copies the batch into its memory: what has to be synced is left to others.
    Kernel,
}

mod driver;
mod futures;
mod roles;

pub(crate) use futures::Futures;

use roles::{Attending, Flushing, Leading};

/// What the log's threads share to write batches together.
pub(crate) struct GroupCommit {
    pipeline: Mutex<Pipeline>,
    shown: Shown,
    events: [Event; EVENTS],
    /// Threads that wait awake, and how many may: one less than there are processors, since a batch
    /// on its way leaves its leader's processor free, and the others have work to do.
    spinners: AtomicU32,
    spinners_max: u32,
    /// What drivers wait for.
    driver: Event,
    /// Threads in `drive`.
    drivers: AtomicU32,
    /// A driver was called, and none has looked since.
    driver_called: AtomicBool,
    /// A driver sleeps without a deadline.
    driver_sleeps: AtomicBool,
    counters: Counters,
}

/// What is looked at often and written once a batch; on a cache line of its own.
#[repr(align(64))]
struct Shown {
    /// The watermarks, as bits, for those who only look.
    written: AtomicU64,
    durable: AtomicU64,
    /// Whether the pipeline is poisoned.
    poisoned: AtomicBool,
}

/// Written by every follower; away from what others look at.
#[derive(Default)]
#[repr(align(64))]
struct Counters {
    batches: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    synced_batches: AtomicU64,
    flushes: AtomicU64,
    leads: AtomicU64,
    follows: AtomicU64,
    sleeps: AtomicU64,
    in_flight_max: AtomicU64,
}

fn count(counter: &AtomicU64, by: u64) {
    // Relaxed: a figure for people.
    counter.fetch_add(by, Ordering::Relaxed);
}

impl GroupCommit {
    pub(crate) fn new(depth_max: usize, sequence: u64, last: Lsn) -> GroupCommit {
        GroupCommit {
            pipeline: Mutex::new(Pipeline::new(depth_max, sequence, last)),
            shown: Shown {
                written: AtomicU64::new(last.bits()),
                durable: AtomicU64::new(last.bits()),
                poisoned: AtomicBool::new(false),
            },
            events: std::array::from_fn(|_| Event::new()),
            spinners: AtomicU32::new(0),
            spinners_max: match cfg!(loom) {
                true => 0,
                false => std::thread::available_parallelism().map_or(1, |n| n.get() as u32 - 1),
            },
            driver: Event::new(),
            drivers: AtomicU32::new(0),
            driver_called: AtomicBool::new(false),
            driver_sleeps: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }

    pub(crate) fn written(&self) -> Lsn {
        // Acquire: pairs with the Release in `publish`: who sees the watermark sees what its horizon
        // did for it.
        Lsn::from_bits(self.shown.written.load(Ordering::Acquire))
    }

    pub(crate) fn durable(&self) -> Lsn {
        // Acquire: as in `written`.
        Lsn::from_bits(self.shown.durable.load(Ordering::Acquire))
    }

    /// The last batch that is durable, and the end that is.
    pub(crate) fn durable_batch(&self) -> (u64, Lsn) {
        self.pipeline.lock().durable_batch()
    }

    pub(crate) fn poisoned(&self) -> Option<PoisonCause> {
        // Acquire: pairs with the Release in `Log::fail`; the cause is behind the lock anyway.
        match self.shown.poisoned.load(Ordering::Acquire) {
            true => self.pipeline.lock().poison().cloned(),
            false => None,
        }
    }

    fn has_reached(&self, lsn: Lsn, level: Durability) -> bool {
        match level {
            Durability::Buffered => true,
            Durability::Os => lsn <= self.written(),
            Durability::Sync => lsn <= self.durable(),
        }
    }

    /// Shows the watermarks to everybody: the horizon first (invariant 2). Called under the
    /// pipeline's lock, so that ends come in order.
    fn publish(&self, advance: &Advance, log: &Log) {
        if let Some(end) = advance.written {
            if let Some(horizon) = log.horizon() {
                horizon.written(end);
            }
            // Release: pairs with the Acquire in `written`.
            self.shown.written.store(end.bits(), Ordering::Release);
        }
        if let Some(end) = advance.durable {
            if let Some(horizon) = log.horizon() {
                horizon.durable(end);
            }
            // Release: pairs with the Acquire in `durable`.
            self.shown.durable.store(end.bits(), Ordering::Release);
        }
    }

    /// Has a driver look at the pipeline. Many futures may call before it comes: one call is enough.
    fn call_driver(&self) {
        // AcqRel: pairs with the swap in `drive`. If an earlier call is still open, the driver that
        // comes for it takes it back after this swap, and so sees what this caller left in the
        // pipeline.
        if !self.driver_called.swap(true, Ordering::AcqRel) {
            self.driver.notify_one();
        }
    }

    /// Wakes the driver if it sleeps without a deadline. For those who leave something behind that
    /// nobody waits for; costs one load otherwise.
    pub(crate) fn rouse_driver(&self) {
        // Acquire: pairs with the Release in `Log::fall_asleep`. A driver that stores the flag after
        // this load looks at the queue (or pipeline) under its lock after that, and finds what the
        // caller left there before this call.
        if self.driver_sleeps.load(Ordering::Acquire)
            && self.driver_sleeps.swap(false, Ordering::AcqRel)
        {
            self.driver.notify_all();
        }
    }

    /// Waits awake for a little while: to be woken from sleep takes longer than many a batch. `false`:
    /// it was not enough, or there are enough who do so.
    fn spin(&self, event: &Event, ticket: Ticket) -> bool {
        // Relaxed: a count that steers, no more.
        if self.spinners.fetch_add(1, Ordering::Relaxed) < self.spinners_max {
            for _ in 0..SPIN_ROUNDS {
                if event.is_notified(ticket) {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        // Relaxed: as above.
        self.spinners.fetch_sub(1, Ordering::Relaxed);
        event.is_notified(ticket)
    }

    pub(crate) fn has_driver(&self) -> bool {
        // Relaxed: whoever comes later looks at the pipeline itself, under its lock.
        self.drivers.load(Ordering::Relaxed) > 0
    }

    /// Has a close look again, if one was under way when the pipeline changed.
    fn tell_close(&self, closing: bool) {
        if closing {
            self.events[QUIETER].notify_all();
        }
    }

    /// Passes the lead on, if there is anything to lead. Takes the lock along, to notify after it.
    fn hand_over(&self, pipeline: MutexGuard<'_, Pipeline>) {
        let heir = pipeline.heir();
        let orphaned = heir.is_none() && pipeline.driver_may_lead();
        let closing = pipeline.is_closing();
        drop(pipeline);
        self.tell_close(closing);
        if let Some(place) = heir {
            self.events[place.event()].notify_one();
        } else if orphaned && self.has_driver() {
            self.call_driver();
        }
    }

    pub(crate) fn stats(&self) -> LogStats {
        // Relaxed: figures for people.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        LogStats {
            batches: read(&counters.batches),
            records: read(&counters.records),
            bytes: read(&counters.bytes),
            synced_batches: read(&counters.synced_batches),
            flushes: read(&counters.flushes),
            leads: read(&counters.leads),
            follows: read(&counters.follows),
            sleeps: read(&counters.sleeps),
            in_flight_max: read(&counters.in_flight_max),
            ..LogStats::default()
        }
    }
}

impl Log {
    /// Blocks until a record has come as far as `level` asks: `Sync` until it is durable, `Os` until
    /// it is written; for `Buffered` it returns at once. Writes the batch itself if nobody is at it.
    /// Call it once the horizon's *visible* has reached `lsn`, outside the commit window.
    pub fn wait(&self, lsn: Lsn, level: Durability) -> Result<(), LogError> {
        if self.is_forked() {
            return Err(LogError::Forked);
        }
        let mut followed = None;
        loop {
            if let Some(settled) = self.settled(lsn, level) {
                return settled;
            }
            let mut pipeline = self.commit.pipeline.lock();
            if let Some(place) = followed.take() {
                pipeline.back(place);
            }
            if pipeline.has_reached(lsn, level) || pipeline.poison().is_some() {
                continue;
            }
            if pipeline.is_closed() {
                return Err(LogError::Closed);
            }
            pipeline.want(lsn, level);
            match pipeline.turn(lsn) {
                Turn::Lead => {
                    drop(pipeline);
                    count(&self.commit.counters.leads, 1);
                    if !self.lead(Patience::Disk) {
                        // The record is about to become visible: its committer is a few
                        // instructions away from it.
                        yield_now();
                    }
                }
                Turn::Flush(flush) => {
                    drop(pipeline);
                    self.flush(flush);
                }
                Turn::Attend(flight) => {
                    drop(pipeline);
                    // A failure is found when looking again.
                    let _ = self.attend(flight);
                }
                Turn::Follow(place) => {
                    let event = &self.commit.events[place.event()];
                    let ticket = event.ticket();
                    drop(pipeline);
                    self.follow(event, ticket);
                    followed = Some(place);
                }
            }
        }
    }

    /// Like [`Log::wait`], as a step of a future: `Pending` registers the waker. Never does I/O; the
    /// thread in [`Log::drive`] writes for it. A future that is dropped needs to do nothing: its waker
    /// is dropped when the record has come that far, or the log ends.
    pub fn poll(
        &self,
        lsn: Lsn,
        level: Durability,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), LogError>> {
        if self.is_forked() {
            return Poll::Ready(Err(LogError::Forked));
        }
        if let Some(settled) = self.settled(lsn, level) {
            return Poll::Ready(settled);
        }
        self.futures.lock().register(lsn, level, context.waker());
        // Invariant 4: registered first, then looked.
        if let Some(settled) = self.settled(lsn, level) {
            self.futures.lock().forget(lsn, level, context.waker());
            return Poll::Ready(settled);
        }
        let mut pipeline = self.commit.pipeline.lock();
        if pipeline.is_closed() {
            return Poll::Ready(Err(LogError::Closed));
        }
        pipeline.want_of_driver(lsn, level);
        let owed = pipeline.driver_may_lead() || pipeline.wants_flush();
        drop(pipeline);
        if owed {
            self.commit.call_driver();
        }
        Poll::Pending
    }

    /// Whether the fate of a record is known, as far as `level` asks.
    fn settled(&self, lsn: Lsn, level: Durability) -> Option<Result<(), LogError>> {
        if self.commit.has_reached(lsn, level) {
            return Some(Ok(()));
        }
        let cause = self.commit.poisoned()?;
        // It may have come that far just before the log failed.
        match self.commit.has_reached(lsn, level) {
            true => Some(Ok(())),
            false => Some(Err(LogError::CommitUnknown { at: lsn, cause })),
        }
    }

    fn follow(&self, event: &Event, ticket: Ticket) {
        count(&self.commit.counters.follows, 1);
        if !self.commit.spin(event, ticket) {
            count(&self.commit.counters.sleeps, 1);
            event.wait(ticket, None);
        }
    }

    /// Writes what is queued, as somebody who waits for nothing in particular. `false`: there was
    /// nothing to do for this thread.
    pub(crate) fn write_out(&self) -> bool {
        let appended = self.appended();
        let mut pipeline = self.commit.pipeline.lock();
        pipeline.want(appended, Durability::Os);
        let step = pipeline.step();
        drop(pipeline);
        self.take(step)
    }

    /// The queue fills up: has it written.
    pub(crate) fn relieve(&self) {
        if self.commit.has_driver() {
            let appended = self.appended();
            let mut pipeline = self.commit.pipeline.lock();
            pipeline.want_of_driver(appended, Durability::Os);
            self.commit.hand_over(pipeline);
        }
    }

    /// Writes what is queued on this thread, if nothing is under way and nobody has asked for any of it to
    /// be on stable storage: so that it takes one copy into the kernel's memory. For a thread that
    /// polls records at [`Durability::Os`] and would rather write than be woken: call it before the
    /// poll. It never syncs, nor waits for another thread. `false`: nothing was written; whoever polls is
    /// woken when [`Log::drive`] has done it.
    pub fn write_to_kernel(&self) -> bool {
        if self.is_forked() {
            return false;
        }
        let (appended, synced) = {
            let queue = self.queue.lock();
            (queue.appended, queue.synced)
        };
        for round in 0..KERNEL_ROUNDS {
            if !self.commit.pipeline.lock().lead_unsynced(appended, synced) {
                return round > 0;
            }
            if !self.lead(Patience::Kernel) {
                return round > 0;
            }
        }
        true
    }

    fn take(&self, step: Option<Turn>) -> bool {
        match step {
            Some(Turn::Lead) => self.lead(Patience::Disk),
            Some(Turn::Flush(flush)) => {
                self.flush(flush);
                true
            }
            Some(Turn::Attend(flight)) => {
                // A failure is found when looking again.
                let _ = self.attend(flight);
                true
            }
            Some(Turn::Follow(_)) | None => false,
        }
    }

    /// Leads one batch, from the seal to the watermarks. The caller holds the lead (`sealing`).
    /// `false`: there was nothing to seal.
    fn lead(&self, patience: Patience) -> bool {
        let Some((leading, flight)) = self.launch(patience) else { return false };
        leading.end();
        // A failure is told by the poison: the caller finds it when it looks again.
        let _ = self.attend(flight);
        true
    }

    /// Seals, cuts and sends a batch. `None`: there was nothing to seal, or the log failed; the lead
    /// is given back then.
    fn launch(&self, patience: Patience) -> Option<(Leading<'_>, Flight)> {
        let leading = Leading { log: self, held: true };
        let mut writer = self.writer.lock();
        let seal = |last| match self.horizon() {
            Some(horizon) => horizon.seal(last),
            None => self.appended(),
        };
        let Some(end) = writer.sealed(seal) else {
            drop(writer);
            leading.nothing();
            return None;
        };
        let batch_bytes_max = self.options.batch_bytes_max;
        let cut = writer.cut_records(end, batch_bytes_max, &self.queue, &self.space);
        self.send(leading, writer, cut, patience).ok()
    }

    /// Writes a batch without records, when nothing else is under way; `false` if something is, or
    /// there is no room for it.
    pub(crate) fn write_mark(&self, kind: BatchKind) -> Result<bool, PoisonCause> {
        if !self.commit.pipeline.lock().lead_mark(kind) {
            return Ok(false);
        }
        let leading = Leading { log: self, held: true };
        let mut writer = self.writer.lock();
        let Some(cut) = writer.cut_mark(kind, &self.space) else {
            drop(writer);
            leading.nothing();
            return Ok(false);
        };
        let (leading, flight) = self.send(leading, writer, Ok(cut), Patience::Disk)?;
        leading.end();
        self.attend(flight)?;
        if kind == BatchKind::Clean {
            // Nothing is written any more: whoever still waits is told so.
            self.wake_everybody();
        }
        Ok(true)
    }

    /// Sends the batch that was cut.
    fn send<'a>(
        &'a self,
        leading: Leading<'a>,
        mut writer: MutexGuard<'_, Writer>,
        cut: Result<Cut, NoSegment>,
        patience: Patience,
    ) -> Result<(Leading<'a>, Flight), PoisonCause> {
        let cut = match cut {
            Ok(cut) => cut,
            Err(NoSegment) => {
                let error = io::Error::other("no segment was prepared for a reserved record");
                return Err(self.fail(FailedOperation::Broken, SegmentId::NONE, error));
            }
        };
        let synced = self.queue.lock().synced;
        let announced = {
            let mut pipeline = self.commit.pipeline.lock();
            let announced = pipeline.announce(&cut, synced, patience);
            // Relaxed: a figure for people.
            let in_flight = pipeline.in_flight() as u64;
            self.commit.counters.in_flight_max.fetch_max(in_flight, Ordering::Relaxed);
            announced
        };
        let announced = match announced {
            Ok(announced) => announced,
            Err(cause) => {
                // The log failed meanwhile: these records stay unwritten, like those behind them.
                writer.forget_records();
                drop(writer);
                leading.end();
                return Err(cause);
            }
        };
        let buffer = self.buffers.lock().pop().unwrap_or_default();
        let encoded = writer.encode(&cut, announced.durable_sequence, announced.durable, buffer);
        let reach = announced.reach;
        let sent = if planted!("acknowledge-before-sync") { Reach::Kernel } else { reach };
        let in_flight = cut.file.submit(encoded.offset, encoded.buffer, sent);
        writer.forget_records();
        Ok((leading, Flight { cut, reach, patience, in_flight }))
    }

    /// Waits for a batch, says how far the log has come, and sends the next one if it is waited for.
    /// That one is left to one of those who wait for it: being woken takes them about as long as half
    /// a batch takes on the disk, and so happens meanwhile. Only what nobody can be woken for is
    /// attended to here.
    fn attend(&self, flight: Flight) -> Result<(), PoisonCause> {
        let _attending = Attending { log: self };
        let mut next = Some(flight);
        while let Some(Flight { cut, reach, patience, in_flight }) = next {
            let (result, buffer) = in_flight.wait();
            self.keep(buffer);
            if let Err(error) = result
                && !planted!("failed-write-ignored")
            {
                return Err(self.fail(FailedOperation::Write, cut.segment, error));
            }
            next = self.complete(&cut, reach, patience);
        }
        Ok(())
    }

    fn keep(&self, buffer: IoBuffer) {
        if buffer.capacity() <= BUFFER_BYTES_KEPT {
            let mut buffers = self.buffers.lock();
            if buffers.len() < self.options.depth_max {
                buffers.push(buffer);
            }
        }
    }

    /// A batch came back from the disk. Returns the next one, if this thread has to attend to it.
    fn complete(&self, cut: &Cut, reach: Reach, patience: Patience) -> Option<Flight> {
        let counters = &self.commit.counters;
        count(&counters.batches, 1);
        count(&counters.records, cut.records as u64);
        count(&counters.bytes, cut.bytes);
        count(&counters.synced_batches, u64::from(reach == Reach::Stable));

        let mut woken = 0u64;
        let mut pipeline = self.commit.pipeline.lock();
        let advance = pipeline.complete(cut.sequence, |sequence| woken |= 1 << turn_of(sequence));
        self.commit.publish(&advance, self);
        let waits = patience == Patience::Disk;
        let flush = if waits { pipeline.begin_flush() } else { None };
        let owes_flush = pipeline.wants_flush();
        let idle = pipeline.wants_mark();
        let next = match waits && pipeline.lead_for_next() {
            true => {
                drop(pipeline);
                self.launch(patience).and_then(|(leading, flight)| leading.leave(flight))
            }
            false => {
                self.commit.hand_over(pipeline);
                None
            }
        };
        if owes_flush && !waits {
            self.commit.call_driver();
        }

        // Whoever waits for one of these batches finds it done, or a flush on its way.
        while woken != 0 {
            self.commit.events[woken.trailing_zeros() as usize].notify_all();
            woken &= woken - 1;
        }
        if cut.records > 0 {
            self.space.leave_queue(cut.credited_bytes, cut.records);
        }
        self.wake_futures(&advance);
        if idle {
            self.commit.rouse_driver();
        }
        if let Some(flush) = flush {
            self.flush(flush);
        }
        next
    }

    /// Syncs what was written unsynced, and goes on while more is wanted. The caller holds the flush
    /// (`flushing`).
    fn flush(&self, first: Flush) {
        let mut next = Some(first);
        while let Some(flush) = next {
            let flushing = Flushing { log: self, held: true };
            for dirty in &flush.files {
                if let Err(error) = dirty.file.sync()
                    && !planted!("failed-sync-ignored")
                {
                    self.fail(FailedOperation::Sync, dirty.segment, error);
                    return;
                }
            }
            count(&self.commit.counters.flushes, 1);
            let mut pipeline = self.commit.pipeline.lock();
            let advance = pipeline.flushed(&flush);
            self.commit.publish(&advance, self);
            next = pipeline.begin_flush();
            let idle = pipeline.wants_mark();
            let closing = pipeline.is_closing();
            drop(pipeline);
            self.commit.events[FLUSHED].notify_all();
            self.commit.tell_close(closing);
            self.wake_futures(&advance);
            flushing.end();
            if idle {
                // The driver may have gone to sleep when these batches were written and not synced.
                self.commit.rouse_driver();
            }
        }
    }

    /// Poisons the log, for good, and tells everybody. The first cause stays.
    fn fail(
        &self,
        operation: FailedOperation,
        segment: SegmentId,
        error: io::Error,
    ) -> PoisonCause {
        let path = match segment {
            SegmentId::NONE => segment::DIRECTORY.into(),
            segment => segment::path(segment),
        };
        let file = self.storage.display(&path);
        let cause = {
            let mut pipeline = self.commit.pipeline.lock();
            let cause = pipeline.fail(PoisonCause { operation, file, error: Arc::new(error) });
            // Release: pairs with the Acquire in `poisoned`. Under the lock: no watermark moves
            // after it is set.
            self.commit.shown.poisoned.store(true, Ordering::Release);
            cause
        };
        self.space.poison(&cause);
        self.wake_everybody();
        cause
    }

    /// For the end of the log: all who wait look again.
    fn wake_everybody(&self) {
        self.commit.events.iter().for_each(Event::notify_all);
        self.commit.driver.notify_all();
        let wakers = self.futures.lock().take_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    fn wake_futures(&self, advance: &Advance) {
        if *advance == Advance::default() {
            return;
        }
        // Invariant 4: the watermarks have moved.
        let wakers = self.futures.lock().take(advance);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Waits until nothing is under way and no more will be; `false` if another shutdown is at it,
    /// or the log failed.
    pub(crate) fn begin_closing(&self) -> bool {
        if !self.commit.pipeline.lock().close() {
            return false;
        }
        self.commit.driver.notify_all();
        loop {
            let mut pipeline = self.commit.pipeline.lock();
            if pipeline.is_quiet() || pipeline.poison().is_some() {
                return pipeline.poison().is_none();
            }
            // What can still be under way is a driver's mark, or what others wait for. Whoever ends
            // sealing, a batch or a flush says so; what nobody is at is done here.
            let step = pipeline.step();
            let event = &self.commit.events[QUIETER];
            let ticket = event.ticket();
            drop(pipeline);
            if !self.take(step) {
                event.wait(ticket, None);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod models;
