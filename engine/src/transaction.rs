//! A transaction: its reads, its private writes, and what it does to keep others from disturbing it.
//!
//! ```text
//!   Active ── prepare ──► Queued ── advance ──► Decided ── Pending::wait ──► acknowledged
//!     │           │        │  ▲  │
//!     │           │        └──┘  └── refused: nothing was changed
//!     │           │        sent back, or a lock in the way: it locks what it writes, is validated
//!     │           │        and queued again
//!     │           └── refused; for want of room in the log it stays Active
//!     └── drop, rollback, a wound: nothing was changed
//! ```
//!
//! [`Transaction::commit`] goes this way without a stop, [`CommitSteps`] stage by stage.
//!
//! How a key is read, by isolation level and concurrency control (protocol rules 5 to 10, 28):
//!
//! | | optimistic | locking |
//! |---|---|---|
//! | read committed | newest *visible*, each statement afresh | the same |
//! | repeatable read | at the read timestamp; the key is tracked | shared lock, then the newest |
//! | snapshot | at the read timestamp | the same |
//! | serializable | at the read timestamp; key or interval is tracked | shared lock on key or interval, then the newest |
//! | for share | tracked at any level | shared lock |
//! | for update | tracked at any level, and a touch: the key is written again as it is | update lock |
//! | untracked | at the read timestamp, or the newest *visible* | the same, without a lock |
//! | a write | private until the commit | exclusive lock, then private until the commit |
//! | a merge | private until the commit | the same: it takes no lock before |
//!
//! Auto is optimistic, but for keys that are hot: those it locks, and then what it read before must
//! still hold, or its level's promise is lost and it is refused at once.
//!
//! Invariants:
//! 1. The read timestamp is *visible* at the first read (or, under first-committer-wins, at the
//!    first write, after its lock if there is one), held by a slot in the registry until the
//!    transaction ends.
//! 2. Dropping a transaction at any point before its commit is decided changes nothing, and leaves
//!    no lock and no place in a queue behind.
//! 3. `observed` is the largest LSN that it has seen, tombstones included.
//! 4. What is read under a lock is read after the lock is in the table and the round that may not
//!    have seen it is over; and it is returned only if the lock was still held after the read.

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use isolith_index::{MergeFailure, Operand, Slice, Value, pin};
use isolith_txn::{
    Age, Concurrency, DeadlockPolicy, Isolation, LockMode, LockTarget, Merging, Overlay, ReadSet,
    Savepoint, SnapshotSlot, Watermarks, Write, WriteSet,
};
use isolith_wal::{Durability, Lsn};

use crate::catalog::put_expiry;
use crate::database::Open;
use crate::error::{ConflictOn, Error, Result};
use crate::keyspace::{Entry, KeyRange, Keyspace};
use crate::options::{KEY_BYTES_MAX, TransactionOptions, VALUE_BYTES_MAX, stored_expiry};
use crate::pending::{CommitInfo, Pending};
use crate::scan::{Range, prefix_interval};

mod committing;
mod locking;
mod many;
mod reading;

pub use committing::CommitSteps;
pub(crate) use committing::{Queued, add, encode};
pub use locking::Attempt;
use locking::Locking;
use reading::{Examined, Intent, Plan};

/// A transaction. Drop it, or call [`Transaction::rollback`], to undo everything; it is tied to no
/// thread and may be sent to another.
///
/// What a read-write transaction reads before its commit carries no promise until the commit is
/// acknowledged: it reads at *visible*, which a crash may still take back.
///
/// An operation of a transaction that locks may wait for other transactions. Where waiting is not
/// allowed, as on an executor's thread, use [`Transaction::run`] or [`Transaction::step`].
pub struct Transaction {
    open: Arc<Open>,
    isolation: Isolation,
    concurrency: Concurrency,
    durability: Durability,
    read_only: bool,
    now: u64,
    bytes_max: usize,
    slot: RefCell<Option<SnapshotSlot>>,
    /// Held by a transaction without a read timestamp since before its first read that may not change
    /// until the commit: so that whoever changes it leaves a trace.
    witness: OnceCell<SnapshotSlot>,
    reads: RefCell<ReadSet>,
    writes: WriteSet,
    observed: Cell<Lsn>,
    /// Set when what was read before turned out not to hold at a timestamp that the transaction had
    /// moved to: nothing that it reads or writes from then on would make sense.
    torn: OnceCell<Box<(Keyspace, ConflictOn, Lsn)>>,
    /// What it has read, where the first committer wins: its own merges of these keys, and no other
    /// reads, depend on it.
    seen: RefCell<Option<Box<Examined>>>,
    locking: Locking,
    /// Its share of the memory budget, once it is large.
    held: RefCell<Option<HeldBytes>>,
}

/// What is counted of a transaction's reads and writes.
struct HeldBytes {
    open: Arc<Open>,
    bytes: usize,
}

impl HeldBytes {
    /// Counts in steps what the transaction holds by now; refused if all transactions together hold too
    /// much.
    fn grow(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.bytes);
        if more >= HELD_BYTES_STEP {
            self.open.hold_for_transactions(more)?;
            self.bytes += more;
        }
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.open.release_of_transactions(self.bytes);
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("isolation", &self.isolation)
            .field("concurrency", &self.concurrency)
            .field("durability", &self.durability)
            .field("read_timestamp", &self.read_timestamp())
            .finish_non_exhaustive()
    }
}

/// Transactions are counted in the memory budget from this size on, and in such steps.
const HELD_BYTES_STEP: usize = 64 << 10;

/// How much a range is locked (see [`Transaction::lock_range`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeLock {
    /// Nobody else may change, add or remove keys in the range.
    Shared,
    /// Nor may anybody else lock them, or read them under a lock.
    Exclusive,
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

impl Transaction {
    pub(crate) fn new(open: Arc<Open>, options: TransactionOptions) -> Result<Self> {
        open.check_open()?;
        if !options.read_only {
            open.check_writable()?;
        }
        let durability = options.durability.unwrap_or(open.default_durability());
        let now = open.now();
        let bytes_max = open.transaction_bytes_max();
        let locking = Locking::new(&open, &options);
        let transaction = Self {
            open,
            isolation: options.isolation,
            concurrency: options.concurrency,
            durability,
            read_only: options.read_only,
            now,
            bytes_max: options.bytes_max.map_or(bytes_max, |bytes| bytes.min(bytes_max)),
            slot: RefCell::new(None),
            witness: OnceCell::new(),
            reads: RefCell::default(),
            writes: WriteSet::default(),
            observed: Cell::new(Lsn::ZERO),
            torn: OnceCell::new(),
            seen: RefCell::new(None),
            locking,
            held: RefCell::new(None),
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

    /// How it keeps others from disturbing it.
    pub fn concurrency(&self) -> Concurrency {
        self.concurrency
    }

    /// Its place among all transactions, for deadlock policies: hand it to the next try of the same
    /// work ([`TransactionOptions::age`]), and it goes before all that came later.
    pub fn age(&self) -> Age {
        self.locking.age(&self.open)
    }

    /// The timestamp that it reads at; `None` before its first read, and where each statement or
    /// each locked key has its own.
    pub fn read_timestamp(&self) -> Option<Lsn> {
        self.slot.borrow().as_ref().map(SnapshotSlot::timestamp)
    }

    /// The time at which it began, in Unix milliseconds: expiry is judged against it throughout.
    pub fn now_ms(&self) -> u64 {
        self.now
    }

    /// Bytes that it holds in its read and write sets and its locks.
    pub fn bytes(&self) -> usize {
        let seen = self.seen.borrow().as_ref().map_or(0, |seen| seen.bytes());
        let read = self.reads.borrow().bytes() + seen;
        self.writes.bytes() + read + self.locking.bytes()
    }

    /// Fixes the read timestamp at its first use.
    fn read_at(&self) -> Result<Lsn> {
        let mut slot = self.slot.borrow_mut();
        if let Some(slot) = &*slot {
            return Ok(slot.timestamp());
        }
        let mark = if self.read_only { Watermarks::acknowledged } else { Watermarks::visible };
        let registered = self.open.register(mark)?;
        Ok(slot.insert(registered).timestamp())
    }

    /// From now on nothing that is newer than *visible* goes without a trace, until the commit is
    /// decided.
    fn bear_witness(&self) -> Result<()> {
        if self.witness.get().is_none() {
            let _ = self.witness.set(self.statement()?);
        }
        Ok(())
    }

    /// Whether it may go on: the database is open, its time is not over, its locks are its own, and
    /// what it reads is still kept.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.check_running()?;
        self.believe()
    }

    /// The same but for what it reads, which is judged after each read.
    #[inline]
    pub(crate) fn check_running(&self) -> Result<()> {
        self.open.check_open()?;
        if let Some((keyspace, what, other)) = self.torn.get().map(|torn| &**torn) {
            return Err(self.conflict_on(keyspace, what.clone(), Some(*other)));
        }
        self.locking.check(&self.open)
    }

    /// Whether what was just read at the read timestamp may be believed: for after each such read,
    /// before its result is used.
    #[inline]
    fn believe(&self) -> Result<()> {
        self.slot.borrow().as_ref().map_or(Ok(()), |slot| self.open.believe(slot))
    }

    pub(crate) fn observe(&self, lsn: Lsn) {
        self.observed.set(self.observed.get().max(lsn));
    }

    /// A timestamp of its own for one statement: the newest *visible*.
    pub(crate) fn statement(&self) -> Result<SnapshotSlot> {
        self.open.register(Watermarks::visible)
    }

    /// The newest commit that is decided.
    pub(crate) fn visible(&self) -> Lsn {
        self.open.marks().visible()
    }

    pub(crate) fn overlay(&self, space: u32) -> Option<&Overlay> {
        self.writes.overlay(space)
    }

    /// Refuses a keyspace that is not there at the read timestamp.
    pub(crate) fn check_keyspace(&self, keyspace: &Keyspace, read: Lsn) -> Result<()> {
        keyspace.check(&self.open)?;
        if !keyspace.space().exists_at(read) {
            return Err(keyspace.dropped());
        }
        Ok(())
    }

    pub(crate) fn check_size(&self) -> Result<()> {
        let (bytes, bytes_max) = (self.bytes(), self.bytes_max);
        if bytes > bytes_max {
            return Err(Error::TransactionTooLarge { bytes, bytes_max });
        }
        if bytes < HELD_BYTES_STEP {
            return Ok(());
        }
        let mut held = self.held.borrow_mut();
        let held = held.get_or_insert_with(|| HeldBytes { open: Arc::clone(&self.open), bytes: 0 });
        held.grow(bytes)
    }

    /// The value of a key, if there is one: own writes first, then as the isolation level has it.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        Ok(self.get_entry(keyspace, key)?.map(|entry| entry.value))
    }

    /// The value of a key and when it expires, if there is one.
    pub fn get_entry(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        Ok(self.read(keyspace, key.as_ref(), Intent::Plain)?.0)
    }

    /// Reads a key as a hint: without a lock, and without making the transaction depend on it. It
    /// may have changed by the time the transaction commits, at any level.
    pub fn get_untracked(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Slice>> {
        Ok(self.read(keyspace, key.as_ref(), Intent::Hint)?.0.map(|entry| entry.value))
    }

    /// Reads a key that shall not change before this transaction commits, at any isolation level:
    /// by a shared lock, or, where it is optimistic, by validation at the commit if the transaction
    /// writes anything.
    pub fn get_for_share(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Slice>> {
        self.check_write()?;
        check_key(key.as_ref())?;
        Ok(self.read(keyspace, key.as_ref(), Intent::Share)?.0.map(|entry| entry.value))
    }

    /// Reads a key that this transaction is going to change: it commits only if nobody else has
    /// written the key by then, at any isolation level, and of two that do so one waits or is
    /// refused. By an update lock, or, where the transaction is optimistic, by validation at the
    /// commit and by writing the key again as it is.
    pub fn get_for_update(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Slice>> {
        self.check_write()?;
        let key = key.as_ref();
        check_key(key)?;
        // Asked once: a key may cool down meanwhile.
        let plan = self.plan(keyspace, key, Intent::Update);
        let locked = matches!(plan, Plan::Locked(_) | Plan::LockedAtTimestamp(_));
        let own = self.overlay(keyspace.space().id).is_some_and(|own| own.lookup(key).is_some());
        let (entry, _) = self.read_by(keyspace, key, || plan)?;
        if locked {
            // An own write has an exclusive lock, or takes one now: it may have been a blind one.
            if own {
                self.lock_for_write(keyspace, key)?;
            }
            return Ok(entry.map(|entry| entry.value));
        }
        if own && self.isolation.protects_items() {
            // Its own write may have been a blind one: from here on it is not.
            self.read_at()?;
            self.reads.borrow_mut().point(keyspace.space(), key);
        }
        if isolith_wal::planted!("for-update-leaves-no-mark") {
            return Ok(entry.map(|entry| entry.value));
        }
        // A touch: the same value again, a version of its own.
        let touch = match &entry {
            Some(Entry { value, expires_at }) => {
                Write::Put { value: Value::new(value), expires_at: expires_at.unwrap_or(0) }
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
        let (value, observed) = self.read(keyspace, key.as_ref(), Intent::Share)?;
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
            if self.locks_reads() {
                self.check_keyspace(keyspace, self.open.marks().visible())?;
                self.reads.borrow_mut().space(keyspace.space());
                return Ok(Range::locking(self, keyspace.clone(), self.now, bounds));
            }
            if self.isolation.reads_by_statement() && !self.read_only {
                let slot = self.statement()?;
                self.check_keyspace(keyspace, slot.timestamp())?;
                return Ok(Range::statement(self, keyspace.clone(), slot, self.now, bounds));
            }
            let read = self.read_at()?;
            self.check_keyspace(keyspace, read)?;
            Ok(Range::new(self, keyspace.clone(), read, self.now, bounds))
        };
        begin().unwrap_or_else(|error| Range::failed(keyspace.clone(), error))
    }

    fn check_write(&self) -> Result<()> {
        self.check()?;
        if self.read_only {
            return Err(Error::ReadOnlyTransaction);
        }
        Ok(())
    }

    /// What a write takes before it is made: under locking the exclusive lock, and under
    /// first-committer-wins the read timestamp that nothing on the key may be newer than.
    fn lock_for_write(&self, keyspace: &Keyspace, key: &[u8]) -> Result<()> {
        let locked = match self.concurrency {
            Concurrency::Locking(_) => true,
            Concurrency::Optimistic => false,
            Concurrency::Auto => {
                self.locking.holds(keyspace.space().id, key) || self.is_hot(keyspace, key)
            }
        };
        match (locked, self.isolation.first_committer_wins()) {
            (true, true) => self.lock_at_timestamp(keyspace, key, LockMode::Exclusive),
            (true, false) => self.lock(keyspace, LockTarget::Key(key), LockMode::Exclusive),
            (false, true) => self.read_at().map(drop),
            (false, false) => Ok(()),
        }
    }

    fn write(&mut self, keyspace: &Keyspace, key: &[u8], write: Write) -> Result<()> {
        self.check_write()?;
        self.check_keyspace(keyspace, Lsn::MAX)?;
        self.lock_for_write(keyspace, key)?;
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

    /// Gives a key a value that expires, in Unix milliseconds: see
    /// [`PutOptions::expires_at`](crate::PutOptions::expires_at).
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
        let expires_at = put_expiry(keyspace.space(), expires_at, || self.now);
        self.write(keyspace, key, Write::Put { value: Value::new(value), expires_at })
    }

    /// Removes a key; fine if it is absent.
    pub fn delete(&mut self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        check_key(key)?;
        self.write(keyspace, key, Write::Delete)
    }

    /// Merges `operand` into the value of a key, by the operator of this name (see
    /// [`merge`](crate::merge)); by that of the keyspace's options where the name is empty. It reads nothing: unless this transaction reads the key as well, it
    /// conflicts with nobody, and waits only for those who hold a lock on the key, at the commit.
    ///
    /// # Errors
    /// [`Error::UnknownOperator`]; [`Error::Merge`] if the operator does not take the operand.
    pub fn merge(
        &mut self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        operator: &str,
        operand: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, bytes) = (key.as_ref(), operand.as_ref());
        check_key(key)?;
        check_value(bytes)?;
        self.check_write()?;
        self.check_keyspace(keyspace, Lsn::MAX)?;
        let space = keyspace.space();
        let operator = self.open.operator_for(space, key, operator, bytes)?;
        let operand = Operand { operator, bytes, at_ms: self.now };
        let merging = self.writes.merge(space, key, operand, self.open.operators());
        let merging = merging.map_err(|MergeFailure { operator, error }| {
            self.open.merge_error(space, key, operator, error)
        })?;
        if merging == Merging::NeedsValue {
            // A put of what was read: at every level it must not go over what comes meanwhile.
            let (base, _) = self.read(keyspace, key, Intent::Update)?;
            let Entry { value, expires_at } = self.merged(keyspace, key, base.as_ref(), operand)?;
            let expires_at = stored_expiry(expires_at);
            let value = Value::from(value);
            return self.write(keyspace, key, Write::Put { value, expires_at });
        }
        self.check_size()
    }

    /// Removes every key within bounds, own puts included; later puts survive it.
    pub fn delete_range(&mut self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<()> {
        let interval = bounds.into_interval();
        self.check_write()?;
        self.check_keyspace(keyspace, Lsn::MAX)?;
        if !interval.is_empty() {
            if let Concurrency::Locking(_) = self.concurrency
                && !isolith_wal::planted!("range-delete-locks-nothing")
            {
                self.lock(keyspace, LockTarget::Range(&interval), LockMode::Exclusive)?;
                self.await_round();
            }
            if self.isolation.first_committer_wins() {
                self.read_at()?;
            }
            self.writes.delete_range(keyspace.space(), interval.lower, interval.upper);
        }
        self.check_size()
    }

    /// Locks every key within bounds, there or not, until the transaction ends; by a lock whatever
    /// its concurrency control.
    ///
    /// Where the transaction reads at a timestamp that it took before and the range has changed since, it
    /// moves on to the present if its level allows and all that it read still holds; otherwise it is
    /// refused with [`Error::Conflict`].
    pub fn lock_range(
        &mut self,
        keyspace: &Keyspace,
        bounds: impl KeyRange,
        lock: RangeLock,
    ) -> Result<()> {
        let interval = bounds.into_interval();
        self.check_write()?;
        self.check_keyspace(keyspace, Lsn::MAX)?;
        if interval.is_empty() {
            return Ok(());
        }
        let mode = match lock {
            RangeLock::Shared => LockMode::Shared,
            RangeLock::Exclusive => LockMode::Exclusive,
        };
        self.lock(keyspace, LockTarget::Range(&interval), mode)?;
        self.await_round();
        // What is read under the lock at the read timestamp must be the newest, or the lock would
        // protect what is not there any more.
        if !self.isolation.reads_by_statement() && !self.locks_reads() {
            let read = self.read_at()?;
            let ends = (interval.lower_ref(), interval.upper_ref());
            let space = keyspace.space();
            let newer = match space.is_unwritten_since(read) {
                true => None,
                false => {
                    let guard = pin();
                    space.view(&guard).newer_in(ends, read, &guard)?
                }
            };
            let what = || ConflictOn::Range(interval.clone());
            self.reach(keyspace, newer.unwrap_or(Lsn::ZERO), what)?;
        }
        self.check_size()
    }

    /// Marks the present state of the writes; savepoints nest.
    pub fn savepoint(&mut self) -> Savepoint {
        self.writes.savepoint()
    }

    /// Undoes every write made since `savepoint`, which stays usable; what was read stays read, and
    /// what was locked stays locked.
    pub fn rollback_to(&mut self, savepoint: Savepoint) -> Result<()> {
        let too_old = self.locking.step.get().is_some_and(|step| savepoint < step);
        match !too_old && self.writes.rollback_to(savepoint) {
            true => Ok(()),
            false => Err(Error::UnknownSavepoint),
        }
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
        self.decide()
    }

    /// The commit as steps that never wait, and as a future.
    pub fn commit_steps(self) -> CommitSteps {
        CommitSteps::new(self)
    }
}

/// The policy for the locks of a transaction.
fn policy(concurrency: Concurrency) -> DeadlockPolicy {
    match concurrency {
        Concurrency::Locking(policy) => policy,
        Concurrency::Optimistic | Concurrency::Auto => DeadlockPolicy::WoundWait,
    }
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
