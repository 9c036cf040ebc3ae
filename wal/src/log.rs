//! The log: an ordered queue of opaque records that become durable in that order.
//!
//! 1. Records enter in LSN order, without gaps. What survives a crash is a prefix of them.
//! 2. An LSN is never given twice: an open after a crash begins a new recovery epoch, in a segment
//!    of its own, before it gives out any.
//! 3. The watermarks `written` and `durable` only rise, over contiguous completed batches, and stand
//!    only at ends that the [`Horizon`] sealed. `durable` passes a batch only if that batch was
//!    itself written synced, or a later fdatasync began after the batch was written.
//! 4. A failed write or sync poisons the log: both watermarks freeze where they are, and nothing is
//!    tried again. Not being able to prepare a segment only stalls writers.
//! 5. [`Log::append`] does no I/O and allocates nothing; [`Log::poll`] never waits for a disk.
//! 6. Only the process that opened the log writes it.
//!
//! A record's way: `reserve` (room, outside the commit window), `append` (into the queue, inside it),
//! then some leader cuts a batch from the queue, writes it, and moves the watermarks
//! (`group_commit.rs`), for which `wait` and `poll` wait.
//!
//! Lock order: `writer`, then one of `queue`, `held`, the space's lock or `pipeline`; none of these four
//! is held while another is taken. The horizon is called under `writer` (`seal`) or `pipeline`
//! (`written`, `durable`), and must not call back. No lock but `writer` is held across I/O, and it
//! only while a write is handed over, which does not wait for the disk.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::environment::{fork, random_seed};
use crate::error::{LogError, LogOpenError, PoisonCause, ReserveError, StallReason};
use crate::format::{
    BLOCK, BatchKind, DatabaseId, HeaderCrc, RECORD_BYTES_MAX, SegmentHeader, SegmentId,
};
use crate::group_commit::{Futures, GroupCommit};
use crate::held::{Held, HeldSegment, ReleaseCounters};
use crate::lsn::Lsn;
use crate::replay::{self, EachRecord, ReplayReport, Replayed, Tail, Wanted, io_error};
use crate::segment::{self, DIRECTORY, PrepareError, SEGMENT_BYTES_MIN, Segment};
use crate::space::{Attempt, Credit, Lack, Ledger, SOON_BYTES, Space};
use crate::storage::{IoBuffer, Storage};
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::writer::{Start, Writer};

/// How far a commit has come when it is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// It is queued; it is written within [`LogOptions::buffered_delay`]. Survives an orderly close.
    Buffered,
    /// It was handed to the kernel. Survives a crash of the process.
    Os,
    /// It is on stable storage. Survives power loss.
    #[default]
    Sync,
}

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Bytes of a segment. Rounded up to blocks; at least 32 KiB. A record larger than a quarter of
    /// it gets a segment of its own. Default 64 MiB.
    pub segment_bytes: u64,
    /// Batches in flight at once; 1 to 32. Default 4.
    pub depth_max: usize,
    /// A batch is cut when it holds this many bytes; a single larger record is its own batch.
    /// Default 1 MiB.
    pub batch_bytes_max: usize,
    /// Bytes of records that may be reserved and not yet written. Default 32 MiB.
    pub queue_bytes_max: usize,
    /// Records that may be reserved and not yet written; allocated at open. Default 16,384.
    pub queue_records_max: usize,
    /// How long a record that nobody waits for may stay in the queue before [`Log::drive`] writes it.
    /// Default 10 ms.
    pub buffered_delay: Duration,
    /// Whether threads will run [`Log::drive`] and [`Log::prepare`]. Without, segments are prepared
    /// by whoever reserves, in a deterministic order of storage calls. Default true.
    pub threads: bool,
    /// The database that the log must belong to, or that a new one is made for. `None`: whichever
    /// it finds, or a random one. Default `None`.
    pub database: Option<DatabaseId>,
    /// The records up to here are not needed, and their segments may be gone: what was given to
    /// [`Log::release`] must not be above it. They are not replayed. All records after it must be there,
    /// and so must this one have been: a log that begins after it, or ends before it, is damaged.
    /// Default [`Lsn::ZERO`]: all are needed.
    pub begins: Lsn,
    /// So many bytes of segments that were released stay for a while, for those who read the past: the oldest
    /// go first. Default 0.
    pub retained_bytes: u64,
    /// This record is known to have been durable: a log that ends before it is damaged. Default
    /// [`Lsn::ZERO`]: none is known of but what `begins` says.
    pub reaches: Lsn,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            depth_max: 4,
            batch_bytes_max: 1 << 20,
            queue_bytes_max: 32 << 20,
            queue_records_max: 1 << 14,
            buffered_delay: Duration::from_millis(10),
            threads: true,
            database: None,
            begins: Lsn::ZERO,
            retained_bytes: 0,
            reaches: Lsn::ZERO,
        }
    }
}

impl LogOptions {
    fn within_bounds(mut self) -> LogOptions {
        self.segment_bytes =
            self.segment_bytes.clamp(SEGMENT_BYTES_MIN, 1 << 40).next_multiple_of(BLOCK);
        self.depth_max = self.depth_max.clamp(1, DEPTH_LIMIT);
        self.batch_bytes_max = self.batch_bytes_max.clamp(BLOCK as usize, 1 << 30);
        self.queue_bytes_max = self.queue_bytes_max.max(1);
        self.queue_records_max = self.queue_records_max.max(1);
        self.buffered_delay = self.buffered_delay.min(WAIT_MAX);
        self
    }
}

/// The most batches in flight that any option can ask for.
pub(crate) const DEPTH_LIMIT: usize = if cfg!(loom) { 2 } else { 32 };

/// The longest that anything waits for a time, a month: beyond some centuries a point in time cannot
/// be told any more.
const WAIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The first segment of an epoch is made while a user waits for the database to open, so it is not
/// larger than this; the next ones are prepared ahead in full.
const FIRST_SEGMENT_BYTES_MAX: u64 = SOON_BYTES;

/// What the log asks of whoever decides commits. Called under the log's locks: must not call back,
/// nor wait.
pub trait Horizon: Send + Sync + 'static {
    /// Seals what may be written: publishes that an end after `last_end` is being sealed, then loads
    /// *visible*, publishes it as a sealed end, and returns it (`last_end` itself if nothing is new).
    /// Never more than was appended.
    fn seal(&self, last_end: Lsn) -> Lsn;
    /// Everything up to `end`, a sealed end, was handed to the kernel. Ends come in order.
    fn written(&self, end: Lsn);
    /// Everything up to `end`, a sealed end, is on stable storage. Ends come in order, and may skip
    /// some; every sealed end up to this one may be forgotten.
    fn durable(&self, end: Lsn);
}

/// A record's bytes, made outside the commit window. Opaque to the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(Vec<u8>);

impl Record {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many.
    #[expect(clippy::len_without_is_empty, reason = "an empty record is a record like others")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Vec<u8>> for Record {
    fn from(bytes: Vec<u8>) -> Record {
        Record(bytes)
    }
}

impl From<Box<[u8]>> for Record {
    fn from(bytes: Box<[u8]>) -> Record {
        Record(bytes.into_vec())
    }
}

/// A log that was opened, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The log, ready for its first append.
    pub log: Arc<Log>,
    /// The last record that was replayed; [`Lsn::ZERO`] if there is none. Both watermarks stand here.
    pub last: Lsn,
    /// The LSN of the first record to append.
    pub first_new: Lsn,
    /// Whether the log had been shut down in order (a new one counts as such).
    pub clean: bool,
    /// Which database the log belongs to.
    pub database: DatabaseId,
    /// Every record after this one is in the log; not above [`LogOptions::begins`].
    pub begins: Lsn,
    /// What was read.
    pub report: ReplayReport,
}

/// A step of [`Log::prepare`].
#[derive(Clone, Debug)]
pub enum Preparation {
    /// Nothing was wanted.
    Idle,
    /// A segment was prepared.
    Prepared,
    /// It could not be; writers may be stalled. To be tried again.
    Failed(StallReason),
    /// The log is shut down or poisoned: no more will be wanted.
    Over,
}

/// What the log did since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches written, marks included.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them, headers and padding included.
    pub bytes: u64,
    /// Batches that were synced by their own write.
    pub synced_batches: u64,
    /// Separate fdatasync calls.
    pub flushes: u64,
    /// Times that a waiter led a batch itself.
    pub leads: u64,
    /// Times that a waiter waited for another's batch.
    pub follows: u64,
    /// Of these, times that it went to sleep.
    pub sleeps: u64,
    /// The most batches that were in flight together.
    pub in_flight_max: u64,
    /// Segments prepared.
    pub segments: u64,
    /// Segments that were released and used again.
    pub recycled_segments: u64,
    /// Segments that were released and removed.
    pub removed_segments: u64,
    /// Segments that hold the log now.
    pub held_segments: u64,
    /// Bytes of those.
    pub held_bytes: u64,
}

/// A record in the queue.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) record: Record,
    /// The bytes that its credit was for.
    pub(crate) credited: usize,
    /// The segment that a large record brings.
    pub(crate) own: Option<Box<Segment>>,
}

/// Records that are appended and in no batch yet. Away from the cache lines of its neighbours: every
/// commit writes it.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Queue {
    pub(crate) records: VecDeque<Queued>,
    /// The last record appended.
    pub(crate) appended: Lsn,
    /// The LSN that comes next.
    next: Lsn,
    /// The last record that was appended to be synced.
    pub(crate) synced: Lsn,
}

/// A segmented write-ahead log with group commit. Shared by all threads.
///
/// Dropped without [`Log::shutdown`], it leaves what a crash would: records still queued are lost.
pub struct Log {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) options: LogOptions,
    horizon: OnceLock<Arc<dyn Horizon>>,
    /// The fork generation of the process that opened the log.
    generation: u64,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) space: Arc<Space>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) commit: GroupCommit,
    pub(crate) futures: Mutex<Futures>,
    pub(crate) held: Arc<Mutex<Held>>,
    pub(crate) released: ReleaseCounters,
    /// Buffers of batches that were written, for the next ones.
    pub(crate) buffers: Mutex<Vec<IoBuffer>>,
    /// The number of the next segment.
    next_segment: AtomicU64,
    /// Segments prepared, for the statistics.
    segments: AtomicU64,
}

impl Log {
    /// Opens the log below `storage`, making it if there is none. Every record goes to `replay`, in
    /// order. Then what a crash left half-written is cut off, durably, and a new recovery epoch
    /// begins; after a clean shutdown the old one goes on.
    pub fn open(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        replay: &mut EachRecord<'_>,
    ) -> Result<Opened, LogOpenError> {
        let options = options.within_bounds();
        let directory = Path::new(DIRECTORY);
        let made = storage.create_dir(directory).and_then(|()| storage.sync_dir(Path::new("")));
        made.map_err(|error| io_error(&*storage, directory, error))?;

        let wanted = Wanted::of(&options, false);
        let replayed = replay::replay(&*storage, &wanted, replay)?;
        let Replayed { tail, blank, dead, last_id, kept, report } = replayed;
        let storage_ref = &*storage;
        let mut opening =
            Opening { storage: storage_ref, options: &options, last_id, spare: Vec::new(), kept };
        opening.sort_out(blank)?;
        let clean = tail.as_ref().is_none_or(|tail| tail.clean);
        let start = match tail {
            None => opening.new_log()?,
            Some(tail) if tail.clean => opening.go_on(tail)?,
            Some(tail) => opening.new_epoch(tail)?,
        };
        // The end of the log is durable: what lay behind it can go. If it does not, it is looked at
        // and left aside again at the next open.
        for path in &dead {
            let _ = storage.remove(path);
        }
        if !dead.is_empty() {
            let _ = storage.sync_dir(directory);
        }

        let Opening { last_id, spare, kept, .. } = opening;
        let held = Held::new(kept, options.begins);
        let begins = held.begins();
        let held = Arc::new(Mutex::new(held));
        let (last, next, database) = (start.last, start.next, start.database);
        let mut ledger =
            Ledger::new(options.segment_bytes, options.queue_bytes_max, options.queue_records_max);
        ledger.move_to(start.segment.capacity - start.offset);
        spare.into_iter().for_each(|segment| ledger.add_segment(segment));
        let queue = Queue {
            records: VecDeque::with_capacity(options.queue_records_max),
            appended: last,
            next,
            synced: Lsn::ZERO,
        };
        let log = Log {
            horizon: OnceLock::new(),
            generation: fork::generation(),
            queue: Mutex::new(queue),
            space: Arc::new(Space::new(ledger)),
            commit: GroupCommit::new(options.depth_max, start.sequence, last),
            writer: Mutex::new(Writer::new(start, options.queue_records_max, held.clone())),
            held,
            released: ReleaseCounters::default(),
            futures: Mutex::new(Futures::default()),
            buffers: Mutex::new(Vec::with_capacity(options.depth_max)),
            next_segment: AtomicU64::new(last_id.0 + 1),
            segments: AtomicU64::new(0),
            options,
            storage,
        };
        if !report.created && clean && !planted!("open-mark-left-out") {
            // Durable before any LSN is given out, so that a crash from here on is not taken for the
            // shutdown that the log ended with.
            let marked = log.write_mark(BatchKind::Open).map_err(LogOpenError::Write)?;
            assert!(marked, "a segment for the mark was prepared above");
        }
        Ok(Opened { log: Arc::new(log), last, first_new: next, clean, database, begins, report })
    }

    /// Says who decides what may be written; once, before the first append. Without it, everything
    /// appended may be.
    ///
    /// # Panics
    /// When called twice.
    pub fn set_horizon(&self, horizon: Arc<dyn Horizon>) {
        assert!(self.horizon.set(horizon).is_ok(), "the horizon is set once");
    }

    pub(crate) fn horizon(&self) -> Option<&dyn Horizon> {
        self.horizon.get().map(|horizon| &**horizon)
    }

    pub(crate) fn is_forked(&self) -> bool {
        fork::generation() != self.generation
    }

    #[cfg(test)]
    pub(crate) fn pretend_forked(&mut self) {
        self.generation = u64::MAX;
    }

    /// Takes room for a record of up to `bytes`: in the queue and on disk. Call it before entering
    /// the commit window. With `wait`, blocks for at most that long, and may write queued records on
    /// this thread meanwhile; with `None`, refuses at once what would have to wait (but a record
    /// larger than a quarter of a segment always prepares its own segment here, on this thread).
    pub fn reserve(&self, bytes: usize, wait: Option<Duration>) -> Result<Credit, ReserveError> {
        if self.is_forked() {
            return Err(ReserveError::Forked);
        }
        if bytes > RECORD_BYTES_MAX {
            return Err(ReserveError::TooLarge { bytes_max: RECORD_BYTES_MAX });
        }
        let mut own = None;
        let mut deadline = None;
        let result = loop {
            let (lack, seen) = match self.space.attempt(bytes, &mut own) {
                Attempt::Taken { credit, crowded } => {
                    if crowded {
                        self.relieve();
                    }
                    break Ok(credit);
                }
                Attempt::Over(error) => break Err(error),
                Attempt::Lacks(lack, seen) => (lack, seen),
            };
            // What this thread can do itself.
            let inline = !self.options.threads;
            let failed = match lack {
                Lack::OwnSegment(capacity) => match self.prepare_segment(capacity) {
                    Ok(segment) => {
                        own = Some(segment);
                        continue;
                    }
                    Err(reason) => Some(reason),
                },
                Lack::Space if inline && self.space.begin_preparing() => {
                    match self.prepare_now() {
                        Ok(()) => continue,
                        // Nobody else will try.
                        Err(reason) => break Err(ReserveError::Stalled { reason }),
                    }
                }
                Lack::Queue if (inline || wait.is_some()) && self.write_out() => continue,
                Lack::Queue | Lack::Space => None,
            };
            let stalled = || {
                let reason = failed.clone();
                let reason = reason.unwrap_or_else(|| {
                    self.space.stall_reason(&lack, &self.storage.display(Path::new(DIRECTORY)))
                });
                Err(ReserveError::Stalled { reason })
            };
            let Some(wait) = wait else { break stalled() };
            let now = Instant::now();
            let deadline = *deadline.get_or_insert(now + wait.min(WAIT_MAX));
            // A segment of its own is tried for again now and then.
            let until = match failed {
                Some(_) => deadline.min(now + RETRY_AFTER),
                None => deadline,
            };
            if !self.space.wait_for_change(seen, until) && Instant::now() >= deadline {
                break stalled();
            }
        };
        if let Some(unused) = own {
            self.space.with(|ledger| ledger.add_segment(unused));
        }
        result
    }

    /// Puts a record into the queue. Called inside the commit window: in LSN order, without gaps.
    /// The record may be shorter than its credit. No I/O and no allocation; a short lock.
    ///
    /// # Panics
    /// If `lsn` is not the next one, or the record is longer than its credit.
    pub fn append(&self, lsn: Lsn, record: Record, durability: Durability, credit: Credit) {
        assert!(record.len() <= credit.bytes(), "a record is longer than its credit");
        let mut queue = self.queue.lock();
        assert_eq!(lsn, queue.next, "records are appended in LSN order");
        let (credited, own) = credit.spend();
        queue.next = lsn.next();
        queue.appended = lsn;
        if durability == Durability::Sync {
            queue.synced = lsn;
        }
        // Within its capacity: every record in the queue holds a credit, and there are not more.
        debug_assert!(queue.records.len() < queue.records.capacity());
        queue.records.push_back(Queued { record, credited, own });
        drop(queue);
        if durability != Durability::Sync {
            self.commit.rouse_driver();
        }
    }

    /// The last record appended.
    pub(crate) fn appended(&self) -> Lsn {
        self.queue.lock().appended
    }

    /// Makes everything appended so far durable, whatever level it was appended at.
    pub fn sync(&self) -> Result<(), LogError> {
        let appended = self.appended();
        self.wait(appended, Durability::Sync).map_err(|error| match error {
            LogError::CommitUnknown { cause, .. } => LogError::Poisoned(cause),
            other => other,
        })
    }

    /// A step of the background thread that prepares segments: waits until one is wanted, `wait` at
    /// most, and prepares it. Call it in a loop until [`Preparation::Over`].
    pub fn prepare(&self, wait: Duration) -> Preparation {
        if self.is_forked() {
            return Preparation::Over;
        }
        match self.space.wait_until_wanted(Instant::now() + wait.min(WAIT_MAX)) {
            None => Preparation::Over,
            Some(false) => Preparation::Idle,
            Some(true) if !self.space.begin_preparing() => Preparation::Idle,
            Some(true) => match self.prepare_now() {
                Ok(()) => Preparation::Prepared,
                Err(reason) => Preparation::Failed(reason),
            },
        }
    }

    /// Prepares a segment for all, after `begin_preparing`.
    fn prepare_now(&self) -> Result<(), StallReason> {
        let capacity = self.space.with(|ledger| ledger.next_capacity());
        let result = self.prepare_segment(capacity);
        let failure = result.as_ref().err().cloned();
        self.space.end_preparing(result);
        failure.map_or(Ok(()), Err)
    }

    /// A number that no segment ever had.
    pub(crate) fn next_segment_id(&self) -> SegmentId {
        // Relaxed: only the number itself matters, that nobody else has it.
        SegmentId(self.next_segment.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn prepare_segment(&self, capacity: u64) -> Result<Segment, StallReason> {
        let id = self.next_segment_id();
        match segment::prepare(&*self.storage, id, capacity, None) {
            Ok(segment) => {
                // Relaxed: a figure for people.
                self.segments.fetch_add(1, Ordering::Relaxed);
                Ok(segment)
            }
            Err(PrepareError { path, error }) => Err(StallReason::LogSpace {
                file: self.storage.display(&path),
                error: Some(Arc::new(error)),
            }),
        }
    }

    /// Writes and syncs all that is queued, then says on disk that the log was closed in order; stops
    /// [`Log::drive`]. No more records may be appended; credits not used are void. A second call
    /// finds the log closed, and does nothing.
    ///
    /// What is not needed any more is given back to the file system: segments that were prepared and not
    /// used; and where everything was [released](Log::release), all but a small segment with the mark of the
    /// close.
    pub fn shutdown(&self) -> Result<(), LogError> {
        if self.is_forked() {
            return Err(LogError::Forked);
        }
        self.space.close();
        if !planted!("close-writes-nothing") {
            self.sync()?;
        }
        if self.begin_closing() {
            // Where there is no room even for this block, the log is closed without it, and the next
            // open takes a new epoch.
            if self.has_room_for_mark() {
                let unused = self.choose_last_segment();
                self.write_mark(BatchKind::Clean).map_err(LogError::Poisoned)?;
                self.give_back(unused);
            }
        }
        self.poisoned().map_or(Ok(()), |cause| Err(LogError::Poisoned(cause)))
    }

    /// Room for the last mark is kept as soon as the first record was reserved. Before that there may
    /// be none, right after an open.
    fn has_room_for_mark(&self) -> bool {
        let has_room = || self.space.with(|ledger| ledger.has_block());
        has_room()
            || match self.prepare_segment(SEGMENT_BYTES_MIN) {
                Ok(segment) => {
                    self.space.with(|ledger| ledger.add_segment(segment));
                    has_room()
                }
                Err(_) => false,
            }
    }

    /// Everything up to here was handed to the kernel.
    pub fn written(&self) -> Lsn {
        self.commit.written()
    }

    /// Everything up to here is on stable storage.
    pub fn durable(&self) -> Lsn {
        self.commit.durable()
    }

    /// Why the log takes no more writes, if it failed.
    pub fn poisoned(&self) -> Option<PoisonCause> {
        self.commit.poisoned()
    }

    /// What the log did so far.
    pub fn stats(&self) -> LogStats {
        let (held_segments, held_bytes) = self.held_bytes();
        LogStats {
            // Relaxed: figures for people.
            segments: self.segments.load(Ordering::Relaxed),
            recycled_segments: self.released.recycled.load(Ordering::Relaxed),
            removed_segments: self.released.removed.load(Ordering::Relaxed),
            held_segments,
            held_bytes,
            ..self.commit.stats()
        }
    }
}

/// How soon a large record tries again to prepare its segment.
const RETRY_AFTER: Duration = Duration::from_millis(100);

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Log({:?}, written {}, durable {})", self.storage, self.written(), self.durable())
    }
}

/// The steps of an open that change the disk.
struct Opening<'a> {
    storage: &'a dyn Storage,
    options: &'a LogOptions,
    last_id: SegmentId,
    /// Prepared segments that an earlier run left, or that there is no use for yet.
    spare: Vec<Segment>,
    /// The segments that hold the log, in order.
    kept: Vec<HeldSegment>,
}

impl Opening<'_> {
    /// Keeps blank segments that are whole; removes those whose preparation was cut short. They may
    /// hold the space that the next step needs.
    ///
    /// The syncs of a preparation may have failed, and it may have ended before the segment was
    /// removed: then its length is in the cache only, and no sync brings it to the disk. So the last
    /// block is written again. What a power cut takes of the zeros before it reads as zeros again.
    fn sort_out(&mut self, blank: Vec<Segment>) -> Result<(), LogOpenError> {
        for segment in blank {
            if segment.capacity == self.options.segment_bytes {
                let last = segment.capacity - BLOCK;
                segment
                    .file
                    .write_at(last, &[0; BLOCK as usize])
                    .and_then(|()| segment.file.sync())
                    .map_err(|error| io_error(self.storage, &segment::path(segment.id), error))?;
                self.spare.push(segment);
            } else {
                let path = segment::path(segment.id);
                drop(segment);
                self.storage.remove(&path).map_err(|error| io_error(self.storage, &path, error))?;
            }
        }
        Ok(())
    }

    fn new_log(&mut self) -> Result<Start, LogOpenError> {
        let drawn = || DatabaseId(u128::from(random_seed()) << 64 | u128::from(random_seed()));
        let database = self.options.database.unwrap_or_else(drawn);
        let next = Lsn::new(0, 1);
        self.begin(SegmentHeader {
            database,
            segment: SegmentId::NONE,
            capacity: 0,
            cut: false,
            recycled: false,
            start: next,
            previous: SegmentId::NONE,
            previous_end: 0,
            previous_lsn: Lsn::ZERO,
            previous_crc: 0,
            first_batch: 1,
            durable_batch: 0,
        })
    }

    /// After a crash: the log ends where it was found to end, durably, and another epoch begins.
    fn new_epoch(&mut self, tail: Tail) -> Result<Start, LogOpenError> {
        let epoch = tail.next.epoch() + 1;
        if epoch > Lsn::EPOCH_MAX {
            return Err(LogOpenError::EpochsUsedUp);
        }
        self.begin(SegmentHeader {
            database: tail.database,
            segment: SegmentId::NONE,
            capacity: 0,
            cut: true,
            recycled: false,
            start: if planted!("lsn-given-twice") { tail.next } else { Lsn::new(epoch, 1) },
            previous: tail.segment.id,
            previous_end: tail.offset,
            previous_lsn: tail.last,
            previous_crc: tail.crc.0,
            first_batch: tail.sequence + 1,
            // Replay made sure of it.
            durable_batch: tail.sequence,
        })
    }

    /// Makes the segment of `header`, durable, out of a spare one if there is one (so that a full
    /// disk can be opened).
    fn begin(&mut self, mut header: SegmentHeader) -> Result<Start, LogOpenError> {
        let segment = if let Some(spare) = self.spare.pop() {
            header.segment = spare.id;
            header.capacity = spare.capacity;
            let path = segment::path(spare.id);
            segment::write_header(&*spare.file, &header)
                .and_then(|()| spare.file.sync())
                .map_err(|error| io_error(self.storage, &path, error))?;
            spare
        } else {
            self.last_id = SegmentId(self.last_id.0 + 1);
            header.segment = self.last_id;
            header.capacity = self.options.segment_bytes.min(FIRST_SEGMENT_BYTES_MAX);
            segment::prepare(self.storage, self.last_id, header.capacity, Some(&header))
                .map_err(|PrepareError { path, error }| io_error(self.storage, &path, error))?
        };
        self.kept.push(HeldSegment { header, file: segment.file.clone(), settled: true });
        Ok(Start {
            database: header.database,
            segment,
            offset: BLOCK,
            header: None,
            sequence: header.first_batch - 1,
            crc: HeaderCrc(header.previous_crc),
            last: header.previous_lsn,
            next: header.start,
        })
    }

    /// After a clean shutdown: the log goes on where it ended. If its segment is full, the next one
    /// must be there for the first mark.
    fn go_on(&mut self, tail: Tail) -> Result<Start, LogOpenError> {
        if tail.segment.capacity - tail.offset < BLOCK && self.spare.is_empty() {
            self.last_id = SegmentId(self.last_id.0 + 1);
            let capacity = self.options.segment_bytes.min(FIRST_SEGMENT_BYTES_MAX);
            let next = segment::prepare(self.storage, self.last_id, capacity, None)
                .map_err(|PrepareError { path, error }| io_error(self.storage, &path, error))?;
            self.spare.push(next);
        }
        Ok(Start {
            database: tail.database,
            segment: tail.segment,
            offset: tail.offset,
            header: None,
            sequence: tail.sequence,
            crc: tail.crc,
            last: tail.last,
            next: tail.next,
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
