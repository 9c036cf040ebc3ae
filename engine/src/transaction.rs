//! A transaction: reads at one timestamp, writes private until it commits.
//!
//! ```text
//!   Active ── commit_steps ──► Preparing ──► Queued ──► Decided ──► acknowledged
//!     │                           │            │ ▲  (sent back: validated again, queued again)
//!     └── drop, rollback          └────────────┴─┴── refused
//! ```
//!
//! Invariants:
//! 1. The read timestamp is *visible* at the first read (or, under first-committer-wins, at the
//!    first write), held by a slot in the registry until the transaction ends.
//! 2. Dropping a transaction at any point before its commit is decided changes nothing.
//! 3. `observed` is the largest LSN that it has seen, tombstones included.

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use isolith_index::{Kind, Slice, Value, pin};
use isolith_txn::{
    BlockedBy, Conflict, Isolation, Outcome, Overlay, ReadSet, Request, Savepoint, SnapshotSlot,
    Space, SpaceWrites, Step, Verdict, Watermarks, Write, WriteSet,
};
use isolith_wal::{Durability, Lsn};

use crate::commit::Commit;
use crate::core::Core;
use crate::database::Open;
use crate::error::{ConflictOn, Error, Result};
use crate::keyspace::{Entry, KeyRange, Keyspace};
use crate::options::{KEY_BYTES_MAX, TransactionOptions, VALUE_BYTES_MAX, stored_expiry};
use crate::pending::{CommitInfo, Pending};
use crate::record;
use crate::scan::{Range, prefix_interval};

/// How often a request whose evidence left the ring is validated again outside the window before it
/// insists on being judged inside.
const SENT_BACK_MAX: u32 = 3;

/// A transaction. Drop it, or call [`Transaction::rollback`], to undo everything; it is tied to no
/// thread and may be sent to another.
///
/// What a read-write transaction reads before its commit carries no promise until the commit is
/// acknowledged: it reads at *visible*, which a crash may still take back.
pub struct Transaction {
    open: Arc<Open>,
    isolation: Isolation,
    durability: Durability,
    read_only: bool,
    now: u64,
    slot: OnceCell<SnapshotSlot>,
    reads: RefCell<ReadSet>,
    writes: WriteSet,
    observed: Cell<Lsn>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("isolation", &self.isolation)
            .field("durability", &self.durability)
            .field("read_timestamp", &self.read_timestamp())
            .finish_non_exhaustive()
    }
}

pub(crate) fn check_key(key: &[u8]) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Error::KeyTooLarge { bytes: key.len() });
    }
    Ok(())
}

pub(crate) fn check_value(value: &[u8]) -> Result<()> {
    if value.len() > VALUE_BYTES_MAX {
        return Err(Error::ValueTooLarge { bytes: value.len() });
    }
    Ok(())
}

pub(crate) fn value_of(bytes: &[u8]) -> Value {
    Value::new(bytes)
}

impl Transaction {
    pub(crate) fn new(open: Arc<Open>, options: TransactionOptions) -> Result<Self> {
        open.check_open()?;
        if !options.read_only {
            open.check_writable()?;
        }
        let durability = options.durability.unwrap_or(open.default_durability());
        let now = open.now();
        let transaction = Self {
            open,
            isolation: options.isolation,
            durability,
            read_only: options.read_only,
            now,
            slot: OnceCell::new(),
            reads: RefCell::default(),
            writes: WriteSet::default(),
            observed: Cell::new(Lsn::ZERO),
        };
        if options.read_only {
            transaction.read_at()?;
        }
        Ok(transaction)
    }

    /// What the transaction is protected from.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The timestamp that it reads at; `None` before its first read.
    pub fn read_timestamp(&self) -> Option<Lsn> {
        self.slot.get().map(SnapshotSlot::timestamp)
    }

    /// The time at which it began, in Unix milliseconds: expiry is judged against it throughout.
    pub fn now_ms(&self) -> u64 {
        self.now
    }

    /// Bytes that it holds in its read and write sets.
    pub fn bytes(&self) -> usize {
        self.writes.bytes() + self.reads.borrow().bytes()
    }

    /// Fixes the read timestamp at its first use.
    fn read_at(&self) -> Result<Lsn> {
        if let Some(slot) = self.slot.get() {
            return Ok(slot.timestamp());
        }
        let mark = if self.read_only { Watermarks::acknowledged } else { Watermarks::visible };
        let slot = self.open.register(mark)?;
        Ok(self.slot.get_or_init(|| slot).timestamp())
    }

    pub(crate) fn check(&self) -> Result<()> {
        self.open.check_open()
    }

    pub(crate) fn observe(&self, lsn: Lsn) {
        self.observed.set(self.observed.get().max(lsn));
    }

    pub(crate) fn overlay(&self, space: u32) -> Option<&Overlay> {
        self.writes.overlay(space)
    }

    /// The read set, if this transaction tracks what it reads.
    pub(crate) fn tracked_reads(&self) -> Option<RefMut<'_, ReadSet>> {
        (self.isolation.tracks_reads() && !self.read_only).then(|| self.reads.borrow_mut())
    }

    /// Refuses a keyspace that is not there at the read timestamp.
    fn check_keyspace(&self, keyspace: &Keyspace, read: Lsn) -> Result<()> {
        keyspace.check(&self.open)?;
        if !keyspace.space().exists_at(read) {
            return Err(keyspace.dropped());
        }
        Ok(())
    }

    fn check_size(&self) -> Result<()> {
        let (bytes, bytes_max) = (self.bytes(), self.open.transaction_bytes_max());
        if bytes > bytes_max {
            return Err(Error::TransactionTooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Reads one key: the entry, and the newest LSN at or below the read timestamp on that key,
    /// deletions included (`Lsn::ZERO` if it never had a version, or the write is its own).
    fn read(&self, keyspace: &Keyspace, key: &[u8], track: bool) -> Result<(Option<Entry>, Lsn)> {
        self.check()?;
        let space = keyspace.space();
        if let Some(own) = self.writes.overlay(space.id).and_then(|own| own.lookup(key)) {
            keyspace.check(&self.open)?;
            let entry = match own {
                Write::Put { value, expires_at } if *expires_at == 0 => {
                    Some(Entry { value: value.slice(), expires_at: None })
                }
                Write::Put { value, expires_at } if *expires_at > self.now => {
                    Some(Entry { value: value.slice(), expires_at: Some(*expires_at) })
                }
                _ => None,
            };
            return Ok((entry, Lsn::ZERO));
        }
        let read = self.read_at()?;
        self.check_keyspace(keyspace, read)?;
        let guard = pin();
        let found = space.memtable.lookup(key, read, &guard);
        self.observe(found.observed);
        let untracked = isolith_wal::planted!("absent-key-untracked") && found.version.is_none();
        if track && !self.read_only && !untracked {
            self.reads.borrow_mut().point(space, key);
            self.check_size()?;
        }
        let entry = found.version.filter(|version| version.live_at(self.now)).map(Entry::of);
        Ok((entry, found.observed))
    }

    /// The value of a key, if there is one: own writes first, then as of the read timestamp.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        Ok(self.get_entry(keyspace, key)?.map(|entry| entry.value))
    }

    /// The value of a key and when it expires, if there is one.
    pub fn get_entry(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        Ok(self.read(keyspace, key.as_ref(), self.isolation.tracks_reads())?.0)
    }

    /// Reads a key that this transaction is going to change: it commits only if nobody else has
    /// written the key by then, at any isolation level, and of two that do so one is refused.
    pub fn get_for_update(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Slice>> {
        self.check_write()?;
        let key = key.as_ref();
        check_key(key)?;
        let (entry, _) = self.read(keyspace, key, true)?;
        if self.isolation.tracks_reads() && self.overlay(keyspace.space().id).is_some() {
            // Its own write may have been a blind one: from here on it is not.
            self.read_at()?;
            self.reads.borrow_mut().point(keyspace.space(), key);
        }
        // A touch: the same value again, a version of its own.
        let touch = match &entry {
            Some(Entry { value, expires_at }) => {
                Write::Put { value: value_of(value), expires_at: expires_at.unwrap_or(0) }
            }
            None => Write::Delete,
        };
        self.writes.write(keyspace.space(), key, touch);
        self.check_size()?;
        Ok(entry.map(|entry| entry.value))
    }

    /// A tracked read that also gives the newest LSN on the key at or below the read timestamp,
    /// deletions included: `Lsn::ZERO` if it never had a version. What WATCH needs.
    pub fn observe_entry(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Observed<Option<Entry>>> {
        let (value, observed) = self.read(keyspace, key.as_ref(), true)?;
        Ok(Observed { value, observed })
    }

    /// Whether a key has a value.
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get_entry(keyspace, key)?.is_some())
    }

    /// The keys and values within bounds, own writes laid over, in key order, from either end.
    pub fn range(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Range<&Transaction> {
        self.scan(keyspace, bounds.into_interval())
    }

    /// The keys that begin with `prefix`, and their values.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range<&Transaction> {
        self.scan(keyspace, prefix_interval(prefix.as_ref()))
    }

    fn scan(&self, keyspace: &Keyspace, bounds: isolith_txn::Interval) -> Range<&Transaction> {
        let begin = || {
            self.check()?;
            self.check_size()?;
            let read = self.read_at()?;
            self.check_keyspace(keyspace, read)?;
            Ok(read)
        };
        match begin() {
            Ok(read) => Range::new(self, keyspace.clone(), read, self.now, bounds),
            Err(error) => Range::failed(keyspace.clone(), error),
        }
    }

    fn check_write(&self) -> Result<()> {
        self.check()?;
        if self.read_only {
            return Err(Error::ReadOnlyTransaction);
        }
        if self.isolation.first_committer_wins() {
            self.read_at()?;
        }
        Ok(())
    }

    fn write(&mut self, keyspace: &Keyspace, key: &[u8], write: Write) -> Result<()> {
        self.check_write()?;
        self.check_keyspace(keyspace, Lsn::MAX)?;
        self.writes.write(keyspace.space(), key, write);
        self.check_size()
    }

    /// Gives a key a value.
    pub fn put(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.put_with(keyspace, key, value, None)
    }

    /// Gives a key a value that expires, in Unix milliseconds.
    pub fn put_with(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expires_at: Option<u64>,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_key(key)?;
        check_value(value)?;
        let expires_at = stored_expiry(expires_at);
        self.write(keyspace, key, Write::Put { value: value_of(value), expires_at })
    }

    /// Removes a key; fine if it is absent.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        check_key(key)?;
        self.write(keyspace, key, Write::Delete)
    }

    /// Removes every key within bounds, own puts included; later puts survive it.
    pub fn delete_range(&mut self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<()> {
        let interval = bounds.into_interval();
        self.check_write()?;
        self.check_keyspace(keyspace, Lsn::MAX)?;
        if !interval.is_empty() {
            self.writes.delete_range(keyspace.space(), interval.lower, interval.upper);
        }
        self.check_size()
    }

    /// Marks the present state of the writes; savepoints nest.
    pub fn savepoint(&mut self) -> Savepoint {
        self.writes.savepoint()
    }

    /// Undoes every write made since `savepoint`, which stays usable; what was read stays read.
    pub fn rollback_to(&mut self, savepoint: Savepoint) -> Result<()> {
        if self.writes.rollback_to(savepoint) { Ok(()) } else { Err(Error::UnknownSavepoint) }
    }

    /// Wraps the caller's own error, to leave [`Database::transact`](crate::Database::transact)
    /// with: never retried.
    pub fn abort(&self, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::Aborted(error.into())
    }

    /// Undoes everything. The same as dropping the transaction.
    pub fn rollback(self) {}

    /// Commits, and returns once the commit is as durable as was asked.
    pub fn commit(self) -> Result<CommitInfo> {
        self.commit_pending()?.wait()
    }

    /// Commits, and returns once the commit is decided and visible: *not* acknowledged until the
    /// returned future is awaited.
    pub fn commit_pending(self) -> Result<Pending> {
        let mut steps = self.commit_steps();
        loop {
            match steps.decide_step() {
                Step::Ready(pending) => return Ok(pending),
                Step::Aborted(error) => return Err(error),
                // Only where a test steps the rounds; the pipeline itself waits otherwise.
                Step::Blocked(_) => std::thread::yield_now(),
            }
        }
    }

    /// The commit as steps that never wait.
    pub fn commit_steps(self) -> CommitSteps {
        CommitSteps { stage: Stage::Active(Box::new(self)) }
    }

    /// Makes the request: record, nodes, versions, room in the log.
    fn prepare(self) -> Result<Prepared> {
        self.check()?;
        self.check_size()?;
        let open = self.open;
        let read = self.slot.get().map_or(Lsn::ZERO, SnapshotSlot::timestamp);
        if self.writes.is_empty() {
            let info = CommitInfo { timestamp: None };
            let pending = Pending::new(open, info, self.observed.get(), self.durability);
            return Ok(Prepared::Nothing(pending));
        }
        open.check_writable()?;
        let deletes_only = self
            .writes
            .overlays()
            .iter()
            .all(|overlay| overlay.entries().all(|(_, write)| matches!(write, Write::Delete)));
        open.admit(self.writes.live_bytes(), deletes_only)?;
        let mut bytes = Vec::with_capacity(self.writes.live_bytes());
        let mut writes = Vec::with_capacity(self.writes.overlays().len());
        for overlay in self.writes.overlays() {
            for range in overlay.ranges() {
                let (lower, upper) = (range.lower_ref(), range.upper_ref());
                record::delete_range(&mut bytes, overlay.space.id, lower, upper);
            }
            for (key, write) in overlay.entries() {
                encode(&mut bytes, overlay.space.id, key, write);
            }
        }
        // Room in the log first: it may be refused, and then nothing else was touched.
        let record = open.reserve(bytes, Some(open.stall_timeout()))?;
        for overlay in self.writes.into_overlays() {
            let space = Arc::clone(&overlay.space);
            let mut prepared = space.memtable.prepare(overlay.entries().len());
            for range in overlay.ranges() {
                prepared.add_range_delete((range.lower_ref(), range.upper_ref()));
            }
            for (key, write) in overlay.into_entries() {
                add(&mut prepared, &space, &key, write);
            }
            if !prepared.is_empty() {
                writes.push(SpaceWrites::new(space, prepared));
            }
        }
        let reads = self.reads.into_inner().into_spaces();
        let request = Request::new(self.isolation, read, writes, reads);
        let commit = Commit::new(request, self.durability, record, None);
        Ok(Prepared::Commit(open, Queued { slot: self.slot.into_inner(), ..Queued::new(commit) }))
    }
}

/// Adds one write to a record.
pub(crate) fn encode(record: &mut Vec<u8>, space: u32, key: &[u8], write: &Write) {
    match write {
        Write::Put { value, expires_at } => {
            record::put(record, space, key, value, *expires_at);
        }
        Write::Delete => record::delete(record, space, key),
    }
}

/// Adds one write to what will be installed.
pub(crate) fn add(prepared: &mut isolith_index::Prepared, space: &Space, key: &[u8], write: Write) {
    match write {
        Write::Put { value, expires_at } => {
            if expires_at != 0 {
                space.note_expiring();
            }
            prepared.add(key, Kind::Put, value, expires_at);
        }
        Write::Delete => prepared.add(key, Kind::Delete, Value::empty(), 0),
    }
}

enum Prepared {
    Nothing(Pending),
    Commit(Arc<Open>, Queued),
}

/// A value with the newest LSN that was seen in reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed<T> {
    /// What was read.
    pub value: T,
    /// The largest LSN seen, deletions included; it is acknowledged once
    /// [`Database::acknowledged`](crate::Database::acknowledged) has reached it.
    pub observed: Lsn,
}

/// A request on its way through the window.
#[derive(Debug)]
pub(crate) struct Queued {
    commit: Arc<Commit>,
    /// Held until the outcome is known.
    slot: Option<SnapshotSlot>,
    attempt: u32,
}

impl Queued {
    pub(crate) fn new(commit: Arc<Commit>) -> Self {
        Self { commit, slot: None, attempt: 0 }
    }

    /// Validates outside the window and hands the request in.
    fn submit(&mut self, core: &Core) -> Result<()> {
        let request = &self.commit.request;
        // First the view, then the timestamp up to which it is checked.
        let visible = core.marks().visible();
        if let Err(conflict) = request.pre_validate(visible, self.attempt, &pin()) {
            return Err(core.conflict(request, &conflict));
        }
        if self.attempt > 0 {
            request.state.requeue();
        }
        core.pipeline().decide(&self.commit);
        Ok(())
    }

    /// Looks at the outcome; hands the request in again if it was sent back. `None`: not decided.
    fn outcome(&mut self, core: &Core) -> Result<Option<Lsn>> {
        loop {
            let request = &self.commit.request;
            match request.state.outcome() {
                None => return Ok(None),
                Some(Outcome::Committed(lsn)) => {
                    self.slot = None;
                    core.after_commit(&self.commit);
                    return Ok(Some(lsn));
                }
                Some(Outcome::Refused) => {
                    return Err(match request.take_refusal() {
                        Some(Verdict::Conflict(conflict)) => core.conflict(request, &conflict),
                        Some(Verdict::Dropped(space)) => core.dropped(space),
                        _ => core.check_open().err().unwrap_or(Error::Closed),
                    });
                }
                Some(Outcome::SentBack) => {
                    self.attempt += 1;
                    if self.attempt >= SENT_BACK_MAX {
                        request.insist();
                    }
                    self.submit(core)?;
                    if core.pipeline().is_stepped() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Submits and waits for the outcome.
    pub(crate) fn run(mut self, core: &Core) -> Result<Lsn> {
        self.submit(core)?;
        loop {
            if let Some(lsn) = self.outcome(core)? {
                return Ok(lsn);
            }
            std::thread::yield_now();
        }
    }
}

enum Stage {
    Active(Box<Transaction>),
    Queued(Arc<Open>, Queued),
    Decided(Pending),
    Over,
}

/// A commit in steps that never wait: the seam that the blocking and the async API stand on, and
/// that a test drives any interleaving with, from one thread.
pub struct CommitSteps {
    stage: Stage,
}

impl fmt::Debug for CommitSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            Stage::Active(_) => "CommitSteps::Active",
            Stage::Queued(..) => "CommitSteps::Queued",
            Stage::Decided(_) => "CommitSteps::Decided",
            Stage::Over => "CommitSteps::Over",
        })
    }
}

impl CommitSteps {
    /// Goes on as far as it can without waiting. `Ready` is the acknowledgement.
    pub fn step(&mut self) -> Step<CommitInfo, Error> {
        if !matches!(self.stage, Stage::Decided(_)) {
            match self.decide_step() {
                Step::Ready(pending) => self.stage = Stage::Decided(pending),
                Step::Blocked(by) => return Step::Blocked(by),
                Step::Aborted(error) => return Step::Aborted(error),
            }
        }
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Decided(pending) if pending.is_ready() => match pending.wait() {
                Ok(info) => Step::Ready(info),
                Err(error) => Step::Aborted(error),
            },
            Stage::Decided(pending) => {
                let at = pending.timestamp();
                self.stage = Stage::Decided(pending);
                Step::Blocked(BlockedBy::Log(at))
            }
            _ => Step::Aborted(Error::Closed),
        }
    }

    /// The future of a commit that was decided; `None` before that, or after the end.
    pub fn into_pending(self) -> Option<Pending> {
        match self.stage {
            Stage::Decided(pending) => Some(pending),
            _ => None,
        }
    }

    /// Goes on until the commit is decided and visible.
    fn decide_step(&mut self) -> Step<Pending, Error> {
        let (open, mut queued) = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Active(transaction) => match transaction.prepare() {
                Ok(Prepared::Nothing(pending)) => return Step::Ready(pending),
                Ok(Prepared::Commit(open, mut queued)) => match queued.submit(&open) {
                    Ok(()) => (open, queued),
                    Err(error) => return Step::Aborted(error),
                },
                Err(error) => return Step::Aborted(error),
            },
            Stage::Queued(open, queued) => (open, queued),
            Stage::Decided(pending) => return Step::Ready(pending),
            Stage::Over => return Step::Aborted(Error::Closed),
        };
        match queued.outcome(&open) {
            Ok(Some(lsn)) => {
                let info = CommitInfo { timestamp: Some(lsn) };
                let durability = queued.commit.durability;
                Step::Ready(Pending::new(open, info, lsn, durability))
            }
            Ok(None) => {
                self.stage = Stage::Queued(open, queued);
                Step::Blocked(BlockedBy::Round)
            }
            Err(error) => Step::Aborted(error),
        }
    }
}

impl Core {
    /// The error for a broken dependency.
    pub(crate) fn conflict(&self, request: &Request, conflict: &Conflict) -> Error {
        let what = if let Some(interval) = request.conflict_interval(conflict) {
            ConflictOn::Range(interval)
        } else {
            match (conflict.kind, request.conflict_key(conflict)) {
                (isolith_txn::ConflictKind::Read, Some(key)) => ConflictOn::Read(key),
                (_, Some(key)) => ConflictOn::Write(key),
                (_, None) => ConflictOn::WriteRange,
            }
        };
        Error::Conflict { keyspace: self.name_of(conflict.space), what, other: conflict.other }
    }
}
