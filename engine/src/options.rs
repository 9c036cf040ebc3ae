//! What a database and a transaction can be asked for, with the defaults and their reasons.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use isolith_txn::{Age, Concurrency, Isolation};
use isolith_wal::{Clock, Durability, IoBackend, Storage, SystemClock};

use crate::database::Database;
use crate::error::OpenError;
use crate::merge::{MergeOperator, Operators};

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;
/// The longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 512 << 20;
/// Threads that compact unless it is said otherwise, and parts of a compaction without threads.
const THREADS_MAX: usize = 4;
const THREADS_REPEATABLE: usize = 2;
/// The longest that anything may be told to wait: beyond it, arithmetic on times would overflow.
pub(crate) const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How commits are decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitMode {
    /// A leader takes the queue of ready transactions and decides them in short rounds (flat
    /// combining).
    #[default]
    Combining,
    /// One transaction at a time under one mutex, the log's sync outside of it. The plain version:
    /// the oracle of the tests and the baseline of the benchmarks.
    Serial,
    /// Nobody leads: a test decides when a round happens (see [`steps`](crate::steps)).
    Stepped,
}

/// Gathers the options of a database and opens it.
#[derive(Clone)]
pub struct Builder {
    pub(crate) path: Option<PathBuf>,
    pub(crate) memory_bytes: usize,
    pub(crate) memtable_bytes: Option<usize>,
    pub(crate) file_bytes: Option<u64>,
    pub(crate) background_threads: Option<usize>,
    pub(crate) background_bytes_per_second: Option<u64>,
    pub(crate) large_values: usize,
    pub(crate) durability: Durability,
    pub(crate) commit_mode: CommitMode,
    pub(crate) io: IoBackend,
    pub(crate) segment_bytes: Option<u64>,
    pub(crate) log_retained_bytes: u64,
    pub(crate) log_depth_max: usize,
    pub(crate) transaction_bytes_max: usize,
    pub(crate) stall_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) isolation: Isolation,
    pub(crate) concurrency: Concurrency,
    pub(crate) retention: Duration,
    pub(crate) snapshot_age_max: Duration,
    pub(crate) buffered_delay: Duration,
    pub(crate) storage: Option<Arc<dyn Storage>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) threads: bool,
    pub(crate) read_only: bool,
    /// What is there is marked as unfinished, by whoever opens it to finish it.
    pub(crate) unfinished: bool,
    pub(crate) operators: Operators,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("path", &self.path)
            .field("memory_bytes", &self.memory_bytes)
            .field("durability", &self.durability)
            .field("commit_mode", &self.commit_mode)
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(crate) fn new(path: Option<&Path>) -> Self {
        Self {
            path: path.map(Path::to_path_buf),
            memory_bytes: 1 << 30,
            memtable_bytes: None,
            file_bytes: None,
            background_threads: None,
            background_bytes_per_second: None,
            large_values: 1 << 10,
            durability: Durability::Sync,
            commit_mode: CommitMode::default(),
            io: IoBackend::Auto,
            segment_bytes: None,
            log_retained_bytes: 0,
            log_depth_max: 4,
            transaction_bytes_max: 1 << 30,
            stall_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(5),
            isolation: Isolation::default(),
            concurrency: Concurrency::default(),
            retention: Duration::ZERO,
            snapshot_age_max: Duration::from_secs(24 * 3600),
            buffered_delay: Duration::from_millis(10),
            storage: None,
            clock: Arc::new(SystemClock),
            threads: true,
            read_only: false,
            unfinished: false,
            operators: Operators::default(),
        }
    }

    /// A database that lives in memory alone: no directory, no log; every commit counts as durable
    /// once it is visible, and all is gone with the last handle.
    pub fn in_memory() -> Self {
        Self::new(None)
    }

    /// Bytes of memory that the database may hold. Five eighths are for memtables: where they hold a
    /// quarter of the budget the largest is frozen and written to a file, and where they hold all of their
    /// share writes wait for that, and answer [`Error::Stalled`](crate::Error::Stalled) if it takes longer
    /// than [`Builder::stall_timeout`]. The reads and writes of open transactions may take a third of the
    /// budget. What is left keeps blocks of files that readers have had decompressed. What is mapped of files is
    /// the system's and is not counted. Default: 1 GiB.
    ///
    /// In memory alone nothing is written to files, and all of the budget is for keys and versions: beyond it
    /// writes are refused at once, but for deletes, which a reserve of a sixteenth on top admits.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self
    }

    /// What memtables may hold together before the largest is frozen and written to a file, in bytes.
    /// Default: a quarter of [`Builder::memory`].
    pub fn memtable_bytes(mut self, bytes: u64) -> Self {
        self.memtable_bytes = Some(usize::try_from(bytes).unwrap_or(usize::MAX));
        self
    }

    /// The size at which compaction ends a file and begins the next, in bytes. Default: 64 MiB, or half of
    /// what memtables may hold, if that is less.
    pub fn file_bytes(mut self, bytes: u64) -> Self {
        self.file_bytes = Some(bytes.max(4096));
        self
    }

    /// Threads that compact files at once, at least 1: a compaction of several files' size falls into as many
    /// parts, which lie side by side in the order of keys. Flushes have a thread of their own. As many apply the
    /// log's records when the database is opened, and from 2 on a bulk load has one more that compresses blocks.
    /// Without [`Builder::threads`] the caller does one part after the other. Default: one for each core, at
    /// most 4; without threads 2, so that what is done is the same on every machine.
    pub fn background_threads(mut self, threads: usize) -> Self {
        self.background_threads = Some(threads.max(1));
        self
    }

    /// Bytes of files that are written in a second, by the clock, in the long run: compactions wait for it, those
    /// of [`Database::compact`] included. Flushes do not wait, and compactions have less for it; what a bulk load
    /// writes is not counted. Too low a limit makes writers wait for compactions. Without [`Builder::threads`]
    /// there is none. Default: no limit.
    pub fn background_bytes_per_second(mut self, bytes: u64) -> Self {
        self.background_bytes_per_second = Some(bytes.max(1));
        self
    }

    /// What follows for [`Builder::background_threads`].
    pub(crate) fn background_threads_max(&self) -> usize {
        self.background_threads.unwrap_or_else(|| match self.starts_threads() {
            true => thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
            false => THREADS_REPEATABLE,
        })
    }

    /// From how many bytes on a value is kept apart from its key when a memtable is written to files: in a value
    /// file, so that compaction copies a reference and not the value. What becomes garbage there is given
    /// back once it is an eighth. 0: values stay beside their keys; those that are in value files stay there
    /// until these are given back. Default: 1 KiB.
    pub fn large_values(mut self, bytes: usize) -> Self {
        self.large_values = if bytes == 0 { usize::MAX } else { bytes };
        self
    }

    /// Threads that apply the log's records: without [`Builder::threads`] only the caller.
    pub(crate) fn replay_threads(&self) -> usize {
        if self.threads { self.background_threads_max() } else { 1 }
    }

    /// The durability of transactions that do not choose one. Default: [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How commits are decided. Default: [`CommitMode::Combining`].
    pub fn commit_mode(mut self, mode: CommitMode) -> Self {
        self.commit_mode = mode;
        self
    }

    /// Which system calls write the log. Default: [`IoBackend::Auto`], io_uring where it is allowed.
    pub fn io(mut self, io: IoBackend) -> Self {
        self.io = io;
        self
    }

    /// The size of a log segment in bytes; segments are zero-written ahead of use, and about three are kept.
    /// Default: 64 MiB, or an eighth of [`Builder::memory`], if that is less, but no less than 4 MiB.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// The size of a log segment that follows.
    pub(crate) fn log_segment_bytes(&self) -> u64 {
        let of_memory = (self.memory_bytes as u64 / 8).clamp(4 << 20, 64 << 20);
        self.segment_bytes.unwrap_or(of_memory)
    }

    /// Bytes of the log that are kept though everything in them is in files: whole segments, the oldest go
    /// first. A backup has what is kept, so that an older one can be carried on with it to any timestamp in
    /// between ([`restore`](crate::restore)), and [`Database::changes`] reaches that far back. Each segment
    /// takes two file descriptors. Default: 0, nothing is kept.
    pub fn log_retained(mut self, bytes: u64) -> Self {
        self.log_retained_bytes = bytes;
        self
    }

    /// Log batches in flight at once, 1 to 32. Default: 4.
    pub fn log_depth_max(mut self, batches: usize) -> Self {
        self.log_depth_max = batches.clamp(1, 32);
        self
    }

    /// The most that one transaction may hold, reads and writes, in bytes. Default: 1 GiB.
    pub fn transaction_bytes_max(mut self, bytes: usize) -> Self {
        self.transaction_bytes_max = bytes.min(1 << 30);
        self
    }

    /// How long a write waits for the log, or for memory, before it is refused with `Stalled`. Default: 10 s.
    pub fn stall_timeout(mut self, timeout: Duration) -> Self {
        self.stall_timeout = timeout.min(FOREVER);
        self
    }

    /// How long a transaction waits for a lock, unless it says otherwise, before the operation fails
    /// with [`Error::LockTimeout`](crate::Error::LockTimeout). Default: 5 s.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout.min(FOREVER);
        self
    }

    /// What transactions are protected from that do not choose: those of
    /// [`Database::begin`] and [`Database::transact`]. Default: [`Isolation::Serializable`].
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// How transactions that do not choose keep others from disturbing them. Default:
    /// [`Concurrency::Optimistic`].
    pub fn concurrency(mut self, concurrency: Concurrency) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How far back [`Database::snapshot_at`] reaches: every state of at least the last `time` can be
    /// read, by the clock. What this keeps counts as memory: when that is full, writes stall as ever.
    /// Opening keeps no history, so the window begins anew then. Default: zero, which keeps what live
    /// snapshots need and no more.
    ///
    /// History is found by walking a key's versions from the newest: a read far in the past of a key
    /// that is written all the time is slow.
    pub fn retention(mut self, time: Duration) -> Self {
        self.retention = time.min(FOREVER);
        self
    }

    /// How old a snapshot, or a transaction that has read, may become, by the clock: afterwards its
    /// reads and its commit answer [`Error::SnapshotTooOld`](crate::Error::SnapshotTooOld), and what
    /// was kept for it is freed. Looked at every 20 ms or so. Default: 24 hours, so that one that was
    /// forgotten does not hold its history for ever.
    pub fn snapshot_age_max(mut self, age: Duration) -> Self {
        self.snapshot_age_max = age.min(FOREVER);
        self
    }

    /// How long a `Buffered` commit may stay in the log's buffer. Default: 10 ms.
    pub fn buffered_delay(mut self, delay: Duration) -> Self {
        self.buffered_delay = delay.min(FOREVER);
        self
    }

    /// The files underneath; the path then only names the database in messages. For tests and for
    /// storage of one's own.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Where expiry, retention and the age of snapshots take the time from. Default: the system's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Whether the engine may start threads: one that drives the log for futures and delayed
    /// batches, one that prepares segments and sweeps. Without them all is done by the callers, in
    /// an order that a test can repeat, hashes included; futures then make progress only while
    /// somebody waits or writes, and nobody wakes one whose wait for a lock has taken too long.
    /// Default: true.
    pub fn threads(mut self, threads: bool) -> Self {
        self.threads = threads;
        self
    }

    /// Opens a database that is there without writing anything to its directory: what is in the log is
    /// replayed into memory. Several may have it open so at once, but nobody may have it open for writing
    /// meanwhile. Every write answers [`Error::ReadOnly`](crate::Error::ReadOnly). Default: false.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Registers an operator for merges, beside the supplied ones (see [`merge`](crate::merge)). Every
    /// opening of a database that has merges by it has to register it, under the same name and doing
    /// the same; otherwise the keys in question cannot be read until it does.
    pub fn merge_operator(mut self, name: &str, operator: impl MergeOperator) -> Self {
        self.operators.register(name, Arc::new(operator));
        self
    }

    /// Whether the engine's own threads do its work.
    pub(crate) fn starts_threads(&self) -> bool {
        self.threads && self.commit_mode != CommitMode::Stepped && !self.read_only
    }

    /// Opens the database, creating it if there is none, and replays its log.
    pub fn open(self) -> Result<Database, OpenError> {
        Database::open_with(self)
    }
}

/// What a transaction is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransactionOptions {
    /// What it is protected from. Default: serializable.
    pub isolation: Isolation,
    /// How it keeps others from disturbing it. Default: optimistic.
    pub concurrency: Concurrency,
    /// When its commit is acknowledged. Default: the database's.
    pub durability: Option<Durability>,
    /// A read-only transaction reads at the last acknowledged commit, never aborts and never waits.
    pub read_only: bool,
    /// The age of an earlier try of the same work ([`Transaction::age`](crate::Transaction::age)), so
    /// that it goes before those who came later and does not starve. Default: a new one, when it is
    /// needed. [`Database::transact`] sees to it by itself.
    pub age: Option<Age>,
    /// How long the transaction may last; afterwards every operation answers
    /// [`Error::TransactionTimeout`](crate::Error::TransactionTimeout). Default: for ever.
    pub timeout: Option<Duration>,
    /// How long it waits for one lock. Default: the database's
    /// ([`Builder::lock_timeout`]).
    pub lock_timeout: Option<Duration>,
    /// The most that it may hold, reads, writes and locks, in bytes. Default: the database's
    /// ([`Builder::transaction_bytes_max`]), which is also the most.
    pub bytes_max: Option<usize>,
}

/// An expiry that never comes: for a value that is to live for ever in a keyspace whose values expire unless
/// they are put otherwise ([`KeyspaceOptions::ttl`](crate::KeyspaceOptions::ttl)).
pub const NEVER: u64 = u64::MAX;

/// An expiry as versions store it: 0 is never. The first millisecond of Unix time is taken for the
/// second one.
pub(crate) fn stored_expiry(expires_at: Option<u64>) -> u64 {
    expires_at.filter(|at| *at != NEVER).map_or(0, |at| at.max(1))
}

/// What a single put is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct PutOptions {
    /// When the value expires, in Unix milliseconds; [`NEVER`] if it does not. Default: what the keyspace
    /// says ([`KeyspaceOptions::ttl`](crate::KeyspaceOptions::ttl)), which is never, unless it says otherwise.
    pub expires_at: Option<u64>,
    /// When the put is acknowledged. Default: the database's.
    pub durability: Option<Durability>,
}
