//! What all handles of one database share, and what its own threads hold: watermarks, registry,
//! pipeline, log, catalog, memory budget, acknowledgement.
//!
//! Users' handles hold it through [`Open`](crate::database::Open), whose end closes the database; the
//! upkeep thread holds it alone, and so never keeps a database open nor closes it.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use isolith_index::{Memtable, PruneView, Value, pin};
use isolith_txn::{
    Expired, Heat, Holder, LockOwner, LockTable, Reader, Refusal, Request, SnapshotRegistry,
    SnapshotSlot, Space, SpaceId, SpaceWrites, Unreadable, Watermarks, Write,
};
use isolith_wal::{
    BackendChoice, Clock, Credit, Durability, Log, LogError, Lsn, Record, ReplayReport,
    ReserveError, StorageLock, fork,
};
use parking_lot::{Mutex, RwLock};

use crate::admission::Admission;
use crate::background::Background;
use crate::catalog::{Catalog, Definition, KeyspaceOptions};
use crate::commit::{Commit, Pipeline};
use crate::error::{Error, LockHolder, Result, StallReason};
use crate::files::{self, Files};
use crate::history::History;
use crate::merge::{Calm, Operators};
use crate::options::{Builder, TransactionOptions};
use crate::pending::CommitInfo;
use crate::stats::{FileStats, KeyspaceStats, OldestSnapshot, Stats};
use crate::timers::{Timer, Timers};
use crate::transaction::{Queued, add, encode};

/// The number of the keyspace that holds the names of all others.
pub(crate) const SYSTEM_SPACE: SpaceId = 0;
/// Commits whose chains are pruned together.
const PRUNE_COMMITS: usize = 32;
/// Versions that a chain may keep before its writers prune it less often.
const CHAIN_VERSIONS: usize = 32;
/// The share of the budget that deletes may use on top of it.
const DELETE_RESERVE: usize = 16;
/// The share of the budget that the reads and writes of open transactions may take.
const TRANSACTIONS_SHARE: usize = 3;
/// Bytes that may be prepared before the exact use is summed up again, unless memtables are to be small.
const MEMORY_SLACK: usize = 256 << 10;
/// Times that a writer without memory gives way to those who keep the epoch from passing: half of
/// them it yields, then it pauses.
const EPOCH_WAITS: usize = 200;
const EPOCH_PAUSE: Duration = Duration::from_micros(200);

/// A small number for the calling thread, to spread threads over slots.
pub(crate) fn thread_hint() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        // Relaxed: only distinct values are wanted.
        static HINT: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    HINT.with(|hint| *hint)
}

/// What all handles of one database share.
pub(crate) struct Core {
    marks: Arc<Watermarks>,
    registry: Arc<SnapshotRegistry>,
    pipeline: Pipeline,
    locks: Arc<LockTable>,
    admission: Arc<Admission>,
    heat: Heat,
    timers: Arc<Timers>,
    log: Option<Arc<Log>>,
    /// What is in files; `None` in memory.
    files: Option<Arc<Files>>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    transaction_bytes_max: usize,
    stall_timeout: Duration,
    lock_timeout: Duration,
    /// What `begin` and `transact` ask for.
    begin: TransactionOptions,
    seed: u64,
    system: Arc<Space>,
    catalog: RwLock<Catalog>,
    /// Those that the log names included, registered or not.
    operators: Operators,
    /// Held while a keyspace is created or dropped. Taken before `catalog`.
    definition: Mutex<()>,
    memory_bytes_max: usize,
    /// Bytes that may be prepared before the exact use is summed up again.
    memory_slack: usize,
    memory_used: AtomicUsize,
    /// Bytes prepared since `memory_used` was summed up.
    memory_since: AtomicUsize,
    /// Commits whose chains are due for pruning.
    prune_due: Mutex<Vec<Arc<[SpaceWrites]>>>,
    /// Batches of them that are left to the sweep, after one that walked past much and freed little.
    prune_rests: AtomicUsize,
    reclaimed: Mutex<Reclaimed>,
    /// Bytes of large transactions' reads and writes. Relaxed: a count that orders nothing.
    transaction_bytes: AtomicUsize,
    history: History,
    /// Whether an upkeep thread comes by.
    attended: bool,
    /// Whether it was opened for reading only.
    read_only: bool,
    pruned_bytes: AtomicU64,
    expired: AtomicU64,
    escalations: AtomicU64,
    closed: AtomicBool,
    /// The process generation that opened it (see `isolith_wal::fork`).
    generation: u64,
    backend: Option<BackendChoice>,
    recovery: Option<ReplayReport>,
    background: Mutex<Background>,
    /// Held until the end; dropped last.
    _lock: Option<Box<dyn StorageLock>>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("visible", &self.marks.visible()).finish_non_exhaustive()
    }
}

/// When memory was last reclaimed.
#[derive(Debug, Default)]
struct Reclaimed {
    /// The number of commits then.
    commits: u64,
    /// Writers that have asked for it since.
    asked: u64,
    /// Versions that it left though they are not the newest of their key.
    kept: usize,
}

/// What recovery brings to a database that is being opened.
pub(crate) struct Recovered {
    pub(crate) log: Option<Arc<Log>>,
    pub(crate) files: Option<Arc<Files>>,
    pub(crate) backend: Option<BackendChoice>,
    pub(crate) report: Option<ReplayReport>,
    pub(crate) lock: Option<Box<dyn StorageLock>>,
    pub(crate) last: Lsn,
    pub(crate) first_new: Lsn,
    pub(crate) system: Arc<Space>,
    pub(crate) catalog: Catalog,
    pub(crate) operators: Operators,
    pub(crate) seed: u64,
}

impl Core {
    pub(crate) fn new(options: &Builder, recovered: Recovered) -> Arc<Self> {
        let marks = Arc::new(Watermarks::new(recovered.last));
        if let Some(log) = &recovered.log {
            log.set_horizon(Arc::clone(&marks) as Arc<dyn isolith_wal::Horizon>);
        }
        let clock = Arc::clone(&options.clock);
        let (retention, age_max) = (options.retention, options.snapshot_age_max);
        let history = History::new(retention, age_max, clock.unix_millis(), recovered.last);
        let registry = match history.is_retained() {
            true => SnapshotRegistry::with_floor(recovered.last),
            false => SnapshotRegistry::new(),
        };
        let locks = Arc::new(LockTable::new());
        let core = Arc::new(Self {
            pipeline: Pipeline::new(
                options.commit_mode,
                Arc::clone(&marks),
                Arc::clone(&locks),
                recovered.log.clone(),
                recovered.first_new,
            ),
            locks,
            admission: Admission::new(thread::available_parallelism().map_or(1, usize::from)),
            heat: Heat::new(),
            timers: Arc::default(),
            lock_timeout: options.lock_timeout,
            begin: TransactionOptions {
                isolation: options.isolation,
                concurrency: options.concurrency,
                ..TransactionOptions::default()
            },
            prune_due: Mutex::new(Vec::with_capacity(PRUNE_COMMITS)),
            prune_rests: AtomicUsize::new(0),
            reclaimed: Mutex::default(),
            transaction_bytes: AtomicUsize::new(0),
            marks,
            registry: Arc::new(registry),
            log: recovered.log,
            files: recovered.files,
            clock,
            durability: options.durability,
            transaction_bytes_max: options.transaction_bytes_max,
            stall_timeout: options.stall_timeout,
            seed: recovered.seed,
            system: recovered.system,
            catalog: RwLock::new(recovered.catalog),
            operators: recovered.operators,
            definition: Mutex::new(()),
            memory_bytes_max: options.memory_bytes,
            memory_slack: options
                .memtable_bytes
                .map_or(MEMORY_SLACK, |bytes| MEMORY_SLACK.min(bytes / 4)),
            memory_used: AtomicUsize::new(0),
            memory_since: AtomicUsize::new(usize::MAX / 2),
            history,
            attended: options.starts_threads(),
            read_only: options.read_only,
            pruned_bytes: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            escalations: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            generation: fork::generation(),
            backend: recovered.backend,
            recovery: recovered.report,
            background: Mutex::new(Background::default()),
            _lock: recovered.lock,
        });
        // What replay left in memory is not the cache's.
        core.sum_memory();
        // Relaxed: the first write looks at what there is to be flushed.
        core.memory_since.store(usize::MAX / 2, Ordering::Relaxed);
        core
    }

    pub(crate) fn marks(&self) -> &Watermarks {
        &self.marks
    }

    pub(crate) fn registry(&self) -> &SnapshotRegistry {
        &self.registry
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    pub(crate) fn files(&self) -> Option<&Arc<Files>> {
        self.files.as_ref()
    }

    pub(crate) fn log(&self) -> Option<&Arc<Log>> {
        self.log.as_ref()
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.unix_millis()
    }

    pub(crate) fn default_durability(&self) -> Durability {
        self.durability
    }

    pub(crate) fn stall_timeout(&self) -> Duration {
        self.stall_timeout
    }

    pub(crate) fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }

    /// The options of transactions that do not choose.
    pub(crate) fn default_transaction(&self) -> TransactionOptions {
        self.begin
    }

    pub(crate) fn locks(&self) -> &Arc<LockTable> {
        &self.locks
    }

    pub(crate) fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub(crate) fn heat(&self) -> &Heat {
        &self.heat
    }

    /// Notes that a key is fought for, and how many operations were in vain.
    pub(crate) fn warm(&self, space: SpaceId, key: &[u8], waste: usize) {
        self.heat.warm(space, key, waste, self.marks.visible());
    }

    /// Wakes somebody later, as long as the answer is kept: its wait for a lock has a limit.
    pub(crate) fn wake_at(&self, at: Instant, waker: &Waker) -> Timer {
        self.timers.add(at, waker)
    }

    /// Wakers that wait for their time.
    #[cfg(test)]
    pub(crate) fn timers(&self) -> usize {
        self.timers.len()
    }

    /// Wakes those whose time has come. For upkeep.
    pub(crate) fn wake_due(&self) {
        self.timers.fire(Instant::now());
    }

    /// Locks with the names of their keyspaces.
    pub(crate) fn holders(&self, holders: Vec<Holder>) -> Vec<LockHolder> {
        let named = |Holder { age, mode, space, what }| LockHolder {
            age,
            mode,
            keyspace: self.name_of(space),
            what,
        };
        holders.into_iter().map(named).collect()
    }

    /// The error for a lock that was refused.
    pub(crate) fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Wounded { by } => Error::Wounded { by },
            Refusal::Refused { holders } => Error::LockRefused { holders: self.holders(holders) },
            Refusal::Deadlock { cycle } => Error::Deadlock { cycle: self.holders(cycle) },
        }
    }

    /// The error for a transaction that lost its locks.
    pub(crate) fn wounded(&self, locks: &LockOwner) -> Error {
        self.admission.trouble();
        locks.wounded_by().map_or(Error::Closed, |wound| self.refused(wound.into()))
    }

    pub(crate) fn transaction_bytes_max(&self) -> usize {
        self.transaction_bytes_max
    }

    /// Refuses a database that is closed, or that belongs to this process's parent.
    #[inline]
    pub(crate) fn check_open(&self) -> Result<()> {
        if fork::generation() != self.generation {
            return Err(Error::Forked);
        }
        // Relaxed: a late look only delays the refusal; the window has the last word.
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// Refuses writes after the log has failed, and where none are wanted.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly { cause: "it was opened for reading only".into() });
        }
        match self.log.as_ref().and_then(|log| log.poisoned()) {
            Some(cause) => Err(Error::ReadOnly { cause: cause.to_string() }),
            None => Ok(()),
        }
    }

    /// The name of a keyspace, for messages.
    pub(crate) fn name_of(&self, space: SpaceId) -> String {
        let catalog = self.catalog.read();
        catalog.all.get(&space).map_or_else(|| format!("#{space}"), |(name, _)| name.to_string())
    }

    /// The name of a keyspace that exists, or that somebody still uses.
    pub(crate) fn name_if_known(&self, space: SpaceId) -> Option<Arc<str>> {
        self.catalog.read().all.get(&space).map(|(name, _)| Arc::clone(name))
    }

    pub(crate) fn dropped(&self, space: SpaceId) -> Error {
        Error::KeyspaceDropped { keyspace: self.name_of(space) }
    }

    /// Registers a snapshot at the timestamp that `mark` gives.
    pub(crate) fn register(&self, mark: fn(&Watermarks) -> Lsn) -> Result<SnapshotSlot> {
        let slot = self.registry.register(&self.marks, thread_hint(), mark);
        slot.ok_or(Error::TooManySnapshots)
    }

    /// The same for a snapshot, which others may join.
    pub(crate) fn register_snapshot(&self, mark: fn(&Watermarks) -> Lsn) -> Result<SnapshotSlot> {
        let (reader, hint) = (Reader::Snapshot, thread_hint());
        let slot = self.registry.register_reader(reader, &self.marks, hint, mark);
        slot.ok_or(Error::TooManySnapshots)
    }

    /// Registers a snapshot at a timestamp of the past.
    pub(crate) fn register_at(&self, timestamp: Lsn) -> Result<SnapshotSlot> {
        let slot = self.registry.register_at(timestamp, &self.marks, thread_hint());
        slot.map_err(|why| match why {
            Unreadable::Ahead => {
                Error::TimestampAhead { timestamp, acknowledged: self.marks.acknowledged() }
            }
            Unreadable::TooOld => self.too_old(),
            Unreadable::Full => Error::TooManySnapshots,
        })
    }

    fn too_old(&self) -> Error {
        let oldest = self.registry.floor().unwrap_or_else(|| self.marks.acknowledged());
        Error::SnapshotTooOld { oldest }
    }

    /// Whether what was just read through `slot` may be believed: for after each read, before its
    /// result is used.
    #[inline]
    pub(crate) fn believe(&self, slot: &SnapshotSlot) -> Result<()> {
        slot.check().map_err(|Expired| self.too_old())
    }

    /// Keeps a slot from expiring: for a commit, before it is validated.
    pub(crate) fn keep(&self, slot: &SnapshotSlot) -> Result<()> {
        slot.keep_for_commit().map_err(|Expired| self.too_old())
    }

    // ---- memory

    /// Sums up what keys, versions and index hold.
    pub(crate) fn sum_memory(&self) -> usize {
        let catalog = self.catalog.read();
        // What was pruned is memory until the epoch has passed.
        let held = |space: &Arc<Space>| {
            let guard = pin();
            let view = space.view(&guard);
            view.bytes() + view.retired_bytes() + view.file_memory_bytes()
        };
        let retired = self.files.as_ref().map_or(0, |files| files.retired_bytes());
        let bytes = held(&self.system) + catalog.all().map(|space| held(&space)).sum::<usize>();
        let bytes = bytes + retired;
        if let Some(files) = &self.files {
            // Relaxed: see `hold_for_transactions`.
            files.share_memory(bytes + self.transaction_bytes.load(Ordering::Relaxed));
        }
        // Relaxed: the budget is enforced to within MEMORY_SLACK per thread.
        self.memory_since.store(0, Ordering::Relaxed);
        self.memory_used.store(bytes, Ordering::Relaxed);
        bytes
    }

    /// Counts what a transaction holds; refused where all of them together would hold more than a third of
    /// the budget.
    pub(crate) fn hold_for_transactions(&self, bytes: usize) -> Result<()> {
        let bytes_max = self.memory_bytes_max / TRANSACTIONS_SHARE;
        // Relaxed, here and below: a count that orders nothing.
        let held = self.transaction_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > bytes_max {
            // Relaxed: see above.
            self.transaction_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let reason = StallReason::Transactions { bytes: held, bytes_max };
            return Err(Error::Stalled { reason });
        }
        Ok(())
    }

    /// A transaction is over, or its writes are counted elsewhere.
    pub(crate) fn release_of_transactions(&self, bytes: usize) {
        // Relaxed: see `hold_for_transactions`.
        self.transaction_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Of these, what is unlinked and waits for the epoch to pass.
    fn retired_bytes(&self) -> usize {
        let retired = |space: &Arc<Space>| space.view(&pin()).retired_bytes();
        let catalog = self.catalog.read();
        retired(&self.system) + catalog.all().map(|space| retired(&space)).sum::<usize>()
    }

    /// Admits a write of about `bytes`, or says that memory is used up. Deletes may use a reserve on
    /// top, so that a full database can be emptied.
    pub(crate) fn admit(&self, bytes: usize, deletes_only: bool) -> Result<()> {
        let reserve = if deletes_only { self.memory_bytes_max / DELETE_RESERVE } else { 0 };
        let bytes_max = self.memory_bytes_max.saturating_add(reserve);
        // Relaxed: see `sum_memory`.
        let since = self.memory_since.fetch_add(bytes, Ordering::Relaxed);
        let used = self.memory_used.load(Ordering::Relaxed);
        if since.saturating_add(bytes) <= self.memory_slack
            && used.saturating_add(since + bytes) <= bytes_max
        {
            return Ok(());
        }
        let mut used = self.sum_memory();
        if let Some(files) = &self.files {
            let held_back = files.hold_back(self, used, self.stall_timeout);
            return held_back.map_err(|reason| Error::Stalled { reason });
        }
        if used.saturating_add(bytes) > bytes_max && self.reclaim() {
            used = self.sum_memory();
        }
        // What only waits for the epoch to pass is as good as free: somebody has lost the processor for
        // a moment while pinned.
        for wait in 0..EPOCH_WAITS {
            let fits = |used: usize| used.saturating_add(bytes) <= bytes_max;
            if fits(used) || !fits(used.saturating_sub(self.retired_bytes())) {
                break;
            }
            pin().flush();
            if wait < EPOCH_WAITS / 2 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(EPOCH_PAUSE);
            }
            used = self.sum_memory();
        }
        if used.saturating_add(bytes) <= bytes_max {
            return Ok(());
        }
        let reason = StallReason::Memory { bytes: used, bytes_max: self.memory_bytes_max };
        Err(Error::Stalled { reason })
    }

    // ---- commit

    /// A record, and room in the log for it; `None`, and nothing is encoded, where there is no log.
    pub(crate) fn reserve(
        &self,
        record: impl FnOnce() -> Vec<u8>,
        patience: Option<Duration>,
    ) -> Result<Option<(Record, Credit)>> {
        if self.log.is_none() {
            return Ok(None);
        }
        let record = Record::from(record());
        Ok(self.room(record.len(), patience)?.map(|credit| (record, credit)))
    }

    /// Room in the log for so many bytes; `None` where there is no log.
    pub(crate) fn room(&self, bytes: usize, patience: Option<Duration>) -> Result<Option<Credit>> {
        let Some(log) = &self.log else { return Ok(None) };
        log.reserve(bytes, patience).map(Some).map_err(|error| reserve_error(error, bytes))
    }

    /// Commits one write by itself.
    pub(crate) fn commit_one(
        &self,
        space: &Arc<Space>,
        key: &[u8],
        write: Write,
        durability: Option<Durability>,
    ) -> Result<()> {
        let durability = durability.unwrap_or(self.durability);
        let lsn = self.decide_one(space, key, write, durability, None)?;
        let info = CommitInfo { timestamp: Some(lsn) };
        self.acknowledge(lsn, info, durability)
    }

    /// Commits one blind write; returns once it is decided. It may drop a keyspace with it.
    fn decide_one(
        &self,
        space: &Arc<Space>,
        key: &[u8],
        write: Write,
        durability: Durability,
        drops: Option<Arc<Space>>,
    ) -> Result<Lsn> {
        self.check_open()?;
        self.check_writable()?;
        let bytes = key.len() + write.bytes() + 64;
        if bytes > self.transaction_bytes_max && space.id != SYSTEM_SPACE {
            let bytes_max = self.transaction_bytes_max;
            return Err(Error::TransactionTooLarge { bytes, bytes_max });
        }
        self.admit(bytes, matches!(write, Write::Delete))?;
        let encoded = || {
            let mut record = Vec::with_capacity(bytes);
            encode(&mut record, space.id, key, &write, &self.operators);
            record
        };
        // Room in the log first: it may be refused, and then nothing else was touched.
        let record = self.reserve(encoded, Some(self.stall_timeout))?;
        let mut prepared = space.prepare(1);
        add(&mut prepared, space, key, write);
        let writes = [SpaceWrites::new(Arc::clone(space), prepared)];
        let isolation = isolith_txn::Isolation::Serializable;
        let request = Request::new(isolation, Lsn::ZERO, writes, Vec::new());
        let commit = Commit::new(request, durability, record, drops);
        Queued::patient(commit, self).run(self)
    }

    /// After a commit was decided, outside the window: its chains are due for pruning. They wait until
    /// a few commits have come together and are pruned then, by one fresh view: a version that was
    /// just overwritten can only go once *visible* and S have passed its successor. Where history is
    /// retained nothing that was just overwritten can go, and long chains would be walked for
    /// nothing: the upkeep's sweep prunes alone, but for range deletes and merges, which have to be folded.
    pub(crate) fn after_commit(&self, commit: &Commit) {
        let folds = |w: &SpaceWrites| w.merges() || w.prepared.ranges().next().is_some();
        if self.history.is_retained() && self.attended && !commit.request.writes.iter().any(folds) {
            return;
        }
        // Held by another thread: the upkeep's sweep comes by these chains, too.
        let Some(mut due) = self.prune_due.try_lock() else { return };
        due.push(Arc::clone(&commit.request.writes));
        if due.len() == PRUNE_COMMITS {
            let batch = std::mem::replace(&mut *due, Vec::with_capacity(PRUNE_COMMITS));
            drop(due);
            if !self.attended {
                self.look_at_the_clock();
            }
            if self.history.is_retained() && self.attended {
                return self.fold_only(&batch);
            }
            // Relaxed, here and below: a hint.
            let rests = self.prune_rests.load(Ordering::Relaxed);
            if rests > 0 {
                self.prune_rests.store(rests - 1, Ordering::Relaxed);
                return self.fold_only(&batch);
            }
            let (keys, kept) = self.prune(&batch);
            self.prune_rests.store(kept / (CHAIN_VERSIONS * keys.max(1)), Ordering::Relaxed);
        }
    }

    /// Folds what these commits merged and deleted by range, and prunes nothing.
    fn fold_only(&self, commits: &[Arc<[SpaceWrites]>]) {
        let (view, guard, operators) = (self.prune_view(), pin(), Calm(&self.operators));
        for writes in commits.iter().flat_map(|writes| writes.iter()) {
            writes.prepared.fold(&view, &operators, &guard);
        }
    }

    /// Prunes the chains that these commits extended. Returns how many, and the versions that it
    /// walked past.
    fn prune(&self, commits: &[Arc<[SpaceWrites]>]) -> (usize, usize) {
        let view = self.prune_view();
        let guard = pin();
        let operators = Calm(&self.operators);
        let (mut bytes, mut keys, mut kept) = (0, 0, 0);
        for writes in commits.iter().flat_map(|writes| writes.iter()) {
            let freed = writes.prepared.prune(&view, &operators, &guard);
            bytes += freed.bytes;
            keys += writes.prepared.keys().len();
            kept += freed.kept_versions;
        }
        self.count_pruned(bytes);
        (keys, kept)
    }

    /// Lets go of dropped keyspaces and frozen memtables, as far as nobody uses them: neither pruning nor
    /// validation needs what was written to them.
    pub(crate) fn forget(&self) {
        let due = std::mem::take(&mut *self.prune_due.lock());
        self.prune(&due);
        drop(due);
        let memtable = self.system.active();
        let empty = || SpaceWrites::new(Arc::clone(&self.system), memtable.prepare(0));
        self.pipeline.forget(empty);
    }

    /// Prunes everything at once, for a writer that found no memory left. Returns whether it was
    /// worth trying: many refused writers must not each walk through all keys.
    fn reclaim(&self) -> bool {
        let Some(mut last) = self.reclaimed.try_lock() else { return false };
        let spaces = self.spaces();
        let keys: usize = spaces.iter().map(|(_, space)| space.active().nodes()).sum();
        let commits = self.pipeline.counts().0;
        last.asked += 1;
        // Where nobody commits any more, a snapshot that goes may free memory, too.
        let news = commits.saturating_sub(last.commits).max(last.asked);
        if news < 64.max((keys + last.kept) as u64 / 16) {
            return false;
        }
        self.look_at_the_clock();
        self.forget();
        let view = self.prune_view();
        let mut kept = 0;
        for (_, space) in spaces {
            let all = (Bound::Unbounded, Bound::Unbounded);
            let freed = space.active().prune_range(all, &view, &Calm(&self.operators), &pin());
            self.count_pruned(freed.bytes);
            kept += freed.kept_versions;
        }
        *last = Reclaimed { commits, asked: 0, kept };
        // What was unlinked is freed once the epoch has passed: help it along.
        for _ in 0..4 {
            pin().flush();
        }
        true
    }

    pub(crate) fn operators(&self) -> &Operators {
        &self.operators
    }

    /// What pruning must keep, as of now.
    pub(crate) fn prune_view(&self) -> PruneView {
        self.registry.prune_view(&self.marks)
    }

    pub(crate) fn count_pruned(&self, bytes: usize) {
        if bytes > 0 {
            // Relaxed: a statistic.
            self.pruned_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    // ---- keyspaces

    /// All living keyspaces, that of the names included.
    pub(crate) fn all_spaces(&self) -> Vec<Arc<Space>> {
        let catalog = self.catalog.read();
        std::iter::once(&self.system).chain(catalog.by_name.values()).map(Arc::clone).collect()
    }

    /// The number of the next keyspace.
    pub(crate) fn next_space(&self) -> SpaceId {
        self.catalog.read().next
    }

    /// What expires at or before this, in Unix milliseconds, has expired for everybody: for those, too, who
    /// judge by the time at which they began, and may be as old as snapshots may become.
    pub(crate) fn expired_for_all(&self) -> u64 {
        self.history.oldest_reader_ms(self.now())
    }

    pub(crate) fn spaces(&self) -> Vec<(Arc<str>, Arc<Space>)> {
        let catalog = self.catalog.read();
        catalog.by_name.iter().map(|(name, space)| (Arc::clone(name), Arc::clone(space))).collect()
    }

    /// The keyspace of a name, if there is one.
    pub(crate) fn named(&self, name: &str) -> Option<(Arc<str>, Arc<Space>)> {
        let catalog = self.catalog.read();
        let (name, space) = catalog.by_name.get_key_value(name)?;
        Some((Arc::clone(name), Arc::clone(space)))
    }

    /// The options of a keyspace.
    pub(crate) fn keyspace_options(&self, space: SpaceId) -> Arc<KeyspaceOptions> {
        self.catalog.read().options(space)
    }

    /// The keyspace of a name, created durably if there is none.
    pub(crate) fn define(
        &self,
        name: &str,
        options: KeyspaceOptions,
    ) -> Result<(Arc<str>, Arc<Space>)> {
        let _definition = self.definition.lock();
        if let Some(named) = self.named(name) {
            return Ok(named);
        }
        let id = self.catalog.write().next_number();
        let memtable = Arc::new(Memtable::new(self.seed ^ u64::from(id)));
        let space = Arc::new(Space::new(id, memtable));
        let definition = Definition { id, options, changes: false };
        self.commit_definition(name, &definition)?;
        self.catalog.write().insert(name, Arc::clone(&space), definition.options);
        Ok((name.into(), space))
    }

    fn commit_definition(&self, name: &str, definition: &Definition) -> Result<()> {
        let write = Write::Put { value: Value::new(&definition.encode()), expires_at: 0 };
        self.commit_one(&self.system, name.as_bytes(), write, Some(Durability::Sync))
    }

    /// Gives a keyspace other options, durably.
    pub(crate) fn redefine(
        &self,
        name: &str,
        space: &Arc<Space>,
        options: KeyspaceOptions,
    ) -> Result<()> {
        let _definition = self.definition.lock();
        if !self.named(name).is_some_and(|(_, named)| Arc::ptr_eq(&named, space)) {
            return Err(self.dropped(space.id));
        }
        let definition = Definition { id: space.id, options, changes: true };
        self.commit_definition(name, &definition)?;
        self.catalog.write().set_options(space, definition.options);
        Ok(())
    }

    /// Drops the keyspace of a name; false if there is none.
    pub(crate) fn drop_keyspace(&self, name: &str) -> Result<bool> {
        self.check_open()?;
        let _definition = self.definition.lock();
        let Some(space) = self.catalog.read().space(name).cloned() else { return Ok(false) };
        let dropped = Arc::clone(&space);
        let (name_bytes, write) = (name.as_bytes(), Write::Delete);
        let note_dropping = |dropping| {
            if let Some(files) = &self.files {
                files.note_dropping(dropping);
            }
        };
        note_dropping(true);
        let decided =
            self.decide_one(&self.system, name_bytes, write, Durability::Sync, Some(space));
        let lsn = decided.inspect_err(|_| note_dropping(false))?;
        self.catalog.write().remove(name);
        self.forget();
        self.sum_memory();
        let info = CommitInfo { timestamp: Some(lsn) };
        // Where it is not known to be durable, the log stays as long as it is: it has failed.
        self.acknowledge(lsn, info, Durability::Sync)?;
        note_dropping(false);
        if let Some(files) = &self.files {
            // What fails here is done by the next open, which finds files of a keyspace that is not there.
            let _ = files.drop_space(&dropped);
        }
        Ok(true)
    }

    /// Names of keyspaces in memory, those of dropped ones included.
    #[cfg(test)]
    pub(crate) fn names_kept(&self) -> usize {
        self.catalog.read().all.len()
    }

    /// What each keyspace holds, by name.
    pub(crate) fn keyspace_stats(&self) -> Vec<KeyspaceStats> {
        let told = |(name, space): (Arc<str>, Arc<Space>)| {
            let guard = pin();
            let view = space.view(&guard);
            KeyspaceStats {
                name: name.to_string(),
                files: view.files(),
                bytes: view.file_bytes(),
                value_files: view.levels().value_files().len(),
                value_bytes: view.levels().value_files().iter().map(|file| file.bytes()).sum(),
                versions: view.file_entries(),
                memory_bytes: view.bytes(),
            }
        };
        let mut all: Vec<_> = self.spaces().into_iter().map(told).collect();
        all.sort_by(|left, right| left.name.cmp(&right.name));
        all
    }

    /// Counters and gauges.
    pub(crate) fn stats(&self) -> Stats {
        let (commits, refusals, sent_back) = self.pipeline.counts();
        let (oldest, snapshots) = self.registry.oldest();
        let (visible, acknowledged) = (self.marks.visible(), self.marks.acknowledged());
        let kept = self.history.kept();
        let (hot_keys, fights) = self.heat.stats(visible);
        let now = self.registry.now();
        let oldest_snapshot = oldest.map(|oldest| OldestSnapshot {
            timestamp: oldest.timestamp,
            reader: oldest.reader,
            age_ms: now.saturating_sub(oldest.since),
            commits_behind: commits_between(oldest.timestamp, acknowledged),
            bytes_held: (kept.oldest == Some(oldest.timestamp)).then_some(kept.oldest_bytes),
        });
        // Relaxed: statistics.
        Stats {
            commits,
            refusals,
            sent_back,
            memory_bytes: self.sum_memory(),
            memory_bytes_max: self.memory_bytes_max,
            transaction_bytes: self.transaction_bytes.load(Ordering::Relaxed),
            snapshots,
            oldest_snapshot,
            snapshots_expired: self.history.snapshots_expired(),
            retention_floor: self.registry.floor(),
            retention_reach_ms: self.history.reach_ms(self.now()),
            history_versions: kept.versions,
            history_bytes: kept.bytes,
            locks: self.locks.stats(),
            hot_keys,
            fights,
            visible,
            durable: if self.log.is_none() { visible } else { self.marks.durable() },
            // Relaxed, all three: counts that order nothing.
            pruned_bytes: self.pruned_bytes.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
            escalations: self.escalations.load(Ordering::Relaxed),
            admission_waits: self.admission.waits(),
            log: self.log.as_ref().map(|log| log.stats()),
            files: match &self.files {
                Some(files) => Some(files.stats(self)),
                None if self.read_only => {
                    let mut stats = FileStats::default();
                    files::count_levels(&self.all_spaces(), &mut stats);
                    Some(stats)
                }
                None => None,
            },
        }
    }

    pub(crate) fn backend(&self) -> Option<&BackendChoice> {
        self.backend.as_ref()
    }

    pub(crate) fn recovery(&self) -> Option<&ReplayReport> {
        self.recovery.as_ref()
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Takes charge of the threads, to wait for them at the end.
    pub(crate) fn attend(&self, background: Background) {
        *self.background.lock() = background;
    }

    /// A transaction of `Auto` gave up being optimistic.
    pub(crate) fn count_escalation(&self) {
        // Relaxed: a statistic.
        self.escalations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_expired(&self, count: u64) {
        // Relaxed: a statistic.
        self.expired.fetch_add(count, Ordering::Relaxed);
    }

    /// Closes: refuses new work, writes and syncs all that was committed, marks the shutdown clean.
    pub(crate) fn close(&self) -> Result<()> {
        if fork::generation() != self.generation {
            return Err(Error::Forked);
        }
        // Relaxed: a hint for those who begin something; the window has the last word.
        self.closed.store(true, Ordering::Relaxed);
        // Whoever comes second does the same again, so that it, too, returns only when all is written
        // and synced, and with the same failure if there was one.
        self.pipeline.close();
        // Who waits for a lock finds it closed.
        self.locks.wake_all();
        if let Some(files) = &self.files {
            files.close(self);
        }
        let result = match &self.log {
            Some(log) => log.shutdown().map_err(log_error),
            None => Ok(()),
        };
        // Taken out of the lock, which a thread that is being waited for must not find held.
        let mut background = std::mem::take(&mut *self.background.lock());
        background.join();
        result
    }
}

/// Commits after `from` up to `to`. A recovery begins a new epoch, and its counter anew: nothing that
/// lives is older than the recovery.
fn commits_between(from: Lsn, to: Lsn) -> u64 {
    let before = if from.epoch() == to.epoch() { from.counter() } else { 0 };
    to.counter().saturating_sub(before)
}

/// The error for a failed log, to somebody who waits for it.
pub(crate) fn log_error(error: LogError) -> Error {
    match error {
        LogError::CommitUnknown { at, .. } => Error::CommitUnknown { at },
        LogError::Poisoned(cause) => Error::ReadOnly { cause: cause.to_string() },
        LogError::Closed => Error::Closed,
        LogError::Forked => Error::Forked,
    }
}

/// The error for a record of so many bytes that the log has no room for.
fn reserve_error(error: ReserveError, bytes: usize) -> Error {
    match error {
        ReserveError::Stalled { reason } => Error::Stalled {
            reason: match reason {
                isolith_wal::StallReason::LogQueue => StallReason::LogQueue,
                reason => StallReason::LogSpace { cause: reason.to_string() },
            },
        },
        ReserveError::TooLarge { bytes_max } => Error::TransactionTooLarge { bytes, bytes_max },
        ReserveError::Poisoned(cause) => Error::ReadOnly { cause: cause.to_string() },
        ReserveError::Closed => Error::Closed,
        ReserveError::Forked => Error::Forked,
    }
}
