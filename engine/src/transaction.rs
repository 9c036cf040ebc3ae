//! A transaction: its reads, its private writes, and what it does to keep others from disturbing it.
//!
//! ```text
//!   Active ── commit_steps ──► Preparing ──► Queued ──► Decided ──► acknowledged
//!     │                           │            │ ▲  (sent back, or a lock in the way: validated
//!     │                           │            │ │   and queued again)
//!     └── drop, rollback, wound   └────────────┴─┴── refused
//! ```
//!
//! How a key is read, by isolation level and concurrency control (protocol rules 5 to 10, 28):
//!
//! | | optimistic | locking |
//! |---|---|---|
//! | read committed | newest *visible*, each statement afresh | the same |
//! | repeatable read | at the read timestamp; the key is tracked | shared lock, then the newest |
//! | snapshot | at the read timestamp | the same |
//! | serializable | at the read timestamp; key or interval is tracked | shared lock on key or interval, then the newest |
//! | for update | tracked at any level, and a touch: the key is written again as it is | update lock |
//! | a write | private until the commit | exclusive lock, then private until the commit |
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

use std::cell::{Cell, OnceCell, RefCell, RefMut};
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use isolith_index::{Base, Found, MergeFailure, Operand, Slice, Value, pin};
use isolith_txn::{
    Age, Concurrency, DeadlockPolicy, Isolation, LockMode, LockTarget, Merging, Overlay, ReadSet,
    Savepoint, SnapshotSlot, SpaceId, Watermarks, Write, WriteSet,
};
use isolith_wal::{Durability, Lsn};

use crate::database::Open;
use crate::error::{ConflictOn, Error, Result};
use crate::keyspace::{Entry, KeyRange, Keyspace};
use crate::merge::Seen;
use crate::options::{KEY_BYTES_MAX, TransactionOptions, VALUE_BYTES_MAX, stored_expiry};
use crate::pending::{CommitInfo, Pending};
use crate::scan::{Range, prefix_interval};

mod committing;
mod locking;

pub use committing::CommitSteps;
pub(crate) use committing::{Queued, add, encode};
pub use locking::Attempt;
use locking::Locking;

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
}

/// What a transaction has read, and nobody looks at unless it merges into some of it.
#[derive(Debug, Default)]
struct Examined {
    keys: Vec<(SpaceId, Slice)>,
    bytes: usize,
    /// The intervals that it has examined: a key that was absent there was read, too.
    intervals: ReadSet,
}

impl Examined {
    fn bytes(&self) -> usize {
        self.bytes + self.intervals.bytes()
    }

    fn add(&mut self, space: SpaceId, key: &[u8]) {
        let again = |(last, known): &(SpaceId, Slice)| *last == space && **known == *key;
        if !self.keys.last().is_some_and(again) {
            self.keys.push((space, Slice::from(key)));
            self.bytes += key.len() + size_of::<(SpaceId, Slice)>();
        }
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

/// How much a range is locked (see [`Transaction::lock_range`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeLock {
    /// Nobody else may change, add or remove keys in the range.
    Shared,
    /// Nor may anybody else lock them, or read them under a lock.
    Exclusive,
}

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    /// What the level makes of it.
    Plain,
    /// The key shall not change before the commit.
    Share,
    /// The key is going to be changed.
    Update,
    /// It does not matter: neither lock nor dependency.
    Hint,
}

/// How a read is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// At the read timestamp; tracked or not.
    AtTimestamp { track: bool },
    /// At the newest *visible*; tracked or not.
    AtVisible { track: bool },
    /// Under a lock, at the newest.
    Locked(LockMode),
    /// Under a lock, at the read timestamp, which nothing newer on the key may belie.
    LockedAtTimestamp(LockMode),
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
            reads: RefCell::default(),
            writes: WriteSet::default(),
            observed: Cell::new(Lsn::ZERO),
            torn: OnceCell::new(),
            seen: RefCell::new(None),
            locking,
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

    /// Whether what it reads is protected by locks rather than by validation.
    fn locks_reads(&self) -> bool {
        matches!(self.concurrency, Concurrency::Locking(_))
            && self.isolation.protects_items()
            && !self.read_only
    }

    /// Where the intervals that it examines are recorded, if they are.
    pub(crate) fn tracked_intervals(&self) -> Option<RefMut<'_, ReadSet>> {
        if self.isolation.first_committer_wins() && !self.read_only {
            let seen = self.seen.borrow_mut();
            return Some(RefMut::map(seen, |seen| &mut seen.get_or_insert_default().intervals));
        }
        let tracked = self.isolation.protects_intervals() && !self.read_only && !self.locks_reads();
        tracked.then(|| self.reads.borrow_mut())
    }

    /// Notes that a scan returned a key that it found in the database.
    pub(crate) fn returned(&self, keyspace: &Keyspace, key: &[u8]) {
        let by_items = self.isolation.protects_items() && !self.isolation.protects_intervals();
        let untracked = isolith_wal::planted!("returned-keys-untracked");
        if by_items && !self.read_only && !self.locks_reads() && !untracked {
            self.reads.borrow_mut().point(keyspace.space(), key);
        }
    }

    /// Notes that something of others was read at a key, if that may matter.
    fn note_seen(&self, keyspace: &Keyspace, key: &[u8]) -> bool {
        if !self.isolation.first_committer_wins() || self.read_only {
            return false;
        }
        let space = keyspace.space().id;
        let own = self.overlay(space).and_then(|own| own.lookup(key));
        let others = matches!(own, None | Some(Write::Merge { .. }));
        if others {
            self.seen.borrow_mut().get_or_insert_default().add(space, key);
        }
        others
    }

    /// Makes the transaction depend on the keys that it has read and merges into, where nothing else
    /// does: what is merged may have been made of what was read.
    fn depend_on_merged(&self) {
        let mut seen = self.seen.borrow_mut();
        let Some(seen) = &mut *seen else { return };
        let merged = self.writes.overlays().iter().flat_map(|overlay| {
            let merges = overlay.entries().filter(|(_, w)| matches!(w, Write::Merge { .. }));
            merges.map(move |(key, _)| (&overlay.space, key))
        });
        let mut merged = merged.peekable();
        if merged.peek().is_none() {
            return;
        }
        seen.keys.sort_unstable_by(|(a, key), (b, other)| (a, &**key).cmp(&(b, &**other)));
        for (space, key) in merged {
            let found =
                seen.keys.binary_search_by(|(id, seen)| (id, &**seen).cmp(&(&space.id, key)));
            if found.is_ok() || seen.intervals.has_examined(space.id, key) {
                self.reads.borrow_mut().point(space, key);
            }
        }
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
        Ok(())
    }

    /// Whether a key is fought for, as far as this transaction would do something about it.
    fn is_hot(&self, keyspace: &Keyspace, key: &[u8]) -> bool {
        self.concurrency == Concurrency::Auto
            && self.open.heat().is_hot(keyspace.space().id, key, self.open.marks().visible())
    }

    /// How a read is to be made (the table in the head of this file).
    fn plan(&self, keyspace: &Keyspace, key: &[u8], intent: Intent) -> Plan {
        use Concurrency::{Auto, Locking, Optimistic};
        let by_statement = self.isolation.reads_by_statement()
            && !isolith_wal::planted!("statements-share-a-timestamp");
        let protected = self.isolation.protects_items();
        let plain = |track| match by_statement {
            true => Plan::AtVisible { track },
            false => Plan::AtTimestamp { track },
        };
        if self.read_only {
            return Plan::AtTimestamp { track: false };
        }
        match (self.concurrency, intent) {
            (_, Intent::Hint) if self.locks_reads() => Plan::AtVisible { track: false },
            (_, Intent::Hint) => plain(false),
            (Locking(_), Intent::Plain) if protected => Plan::Locked(LockMode::Shared),
            (Locking(_), Intent::Plain) => plain(false),
            (Optimistic, Intent::Plain) => plain(protected),
            (Auto, Intent::Plain) if protected && self.is_hot(keyspace, key) => {
                // Who reads a key that is fought for is likely to write it: two shared locks would
                // only wait for each other.
                Plan::LockedAtTimestamp(LockMode::Update)
            }
            (Auto, Intent::Plain) => plain(protected),
            (Optimistic, _) => plain(!isolith_wal::planted!("for-update-untracked")),
            (Auto, _) if !self.is_hot(keyspace, key) => plain(true),
            (_, intent) => {
                let mode =
                    if intent == Intent::Share { LockMode::Shared } else { LockMode::Update };
                let newest = by_statement || self.locks_reads();
                if newest { Plan::Locked(mode) } else { Plan::LockedAtTimestamp(mode) }
            }
        }
    }

    /// Reads one key: the entry, and the newest LSN at or below the timestamp of the read on that
    /// key, deletions included (`Lsn::ZERO` if it never had a version, or the write is its own).
    fn read(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        intent: Intent,
    ) -> Result<(Option<Entry>, Lsn)> {
        let read = self.read_by(keyspace, key, || self.plan(keyspace, key, intent))?;
        if intent != Intent::Hint && self.note_seen(keyspace, key) {
            self.check_size()?;
        }
        Ok(read)
    }

    fn read_by(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        plan: impl FnOnce() -> Plan,
    ) -> Result<(Option<Entry>, Lsn)> {
        self.check_running()?;
        let space = keyspace.space();
        keyspace.check(&self.open)?;
        match self.writes.overlay(space.id).and_then(|own| own.lookup(key)) {
            Some(Write::Merge { operator, operand, at_ms }) => {
                let own = Operand { operator: *operator, bytes: operand, at_ms: *at_ms };
                let (base, observed) = self.read_others(keyspace, key, plan())?;
                Ok((Some(self.merged(keyspace, key, base.as_ref(), own)?), observed))
            }
            Some(own) => Ok((self.own_entry(own), Lsn::ZERO)),
            None => self.read_others(keyspace, key, plan()),
        }
    }

    /// What an own merge makes of what was found under it.
    fn merged(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        base: Option<&Entry>,
        own: Operand<'_>,
    ) -> Result<Entry> {
        let base = base.map(Entry::as_base);
        self.open.fold(keyspace.space(), key, base, &[own]).map(Entry::of_merged)
    }

    /// The same, but for what the transaction has written itself.
    fn read_others(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        plan: Plan,
    ) -> Result<(Option<Entry>, Lsn)> {
        let space = keyspace.space();
        let track = match plan {
            Plan::AtTimestamp { track } => track,
            Plan::AtVisible { track } => return self.read_visible(keyspace, key, track),
            Plan::Locked(mode) => return self.read_locked(keyspace, key, mode),
            Plan::LockedAtTimestamp(mode) => {
                self.lock_at_timestamp(keyspace, key, mode)?;
                self.isolation.protects_items()
            }
        };
        let read = self.read_at()?;
        self.check_keyspace(keyspace, read)?;
        let guard = pin();
        let found = space.memtable.lookup(key, read, &guard);
        self.believe()?;
        self.observe(found.observed);
        let untracked =
            isolith_wal::planted!("absent-key-untracked") && matches!(found.found, Found::Absent);
        if track && !self.read_only && !untracked {
            self.reads.borrow_mut().point(space, key);
            self.check_size()?;
        }
        let seen = self.open.see(space, key, found.found, || self.now)?;
        let entry = seen.map(Seen::into_entry);
        if let Plan::LockedAtTimestamp(_) = plan {
            self.locking.check(&self.open)?;
        }
        Ok((entry, found.observed))
    }

    /// What an own merge comes to in a scan that found `base` under it.
    pub(crate) fn merged_in_scan(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        base: Option<&Slice>,
    ) -> Result<Option<Slice>> {
        // What locks what it reads one by one has locked what was there, and this was not.
        if base.is_none() && self.locks_reads() && !self.isolation.protects_intervals() {
            return self.get(keyspace, key);
        }
        let own = self.overlay(keyspace.space().id).and_then(|own| own.lookup(key));
        let Some(Write::Merge { operator, operand, at_ms }) = own else { return Ok(None) };
        let own = Operand { operator: *operator, bytes: operand, at_ms: *at_ms };
        // The value is live, or the scan would not have found it; when it expires does not matter.
        let base = base.map(|value| Base { value, expires_at: 0 });
        let merged = self.open.fold(keyspace.space(), key, base, &[own])?;
        Ok(Some(Slice::from(merged.value)))
    }

    /// What an own write says of its key.
    fn own_entry(&self, own: &Write) -> Option<Entry> {
        match own {
            Write::Put { value, expires_at } if *expires_at == 0 => {
                Some(Entry { value: value.slice(), expires_at: None })
            }
            Write::Put { value, expires_at } if *expires_at > self.now => {
                Some(Entry { value: value.slice(), expires_at: Some(*expires_at) })
            }
            // A merge does not say it by itself.
            Write::Put { .. } | Write::Delete | Write::Merge { .. } => None,
        }
    }

    /// A statement of its own: the newest that is visible, which is never older than what an earlier
    /// statement saw.
    fn read_visible(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        track: bool,
    ) -> Result<(Option<Entry>, Lsn)> {
        let (entry, observed) =
            keyspace.read_newest(key, Watermarks::visible, Some(self.now), |seen| {
                seen.map(Seen::into_entry)
            })?;
        self.observe(observed);
        if track {
            self.reads.borrow_mut().point_at(keyspace.space(), key, observed);
            self.check_size()?;
        }
        Ok((entry, observed))
    }

    /// Locks the key, then reads the newest there is: it stays the newest while the lock is held.
    fn read_locked(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        mode: LockMode,
    ) -> Result<(Option<Entry>, Lsn)> {
        let absent = || keyspace.space().memtable.lookup(key, Lsn::MAX, &pin()).put().is_none();
        if !(isolith_wal::planted!("absent-key-not-locked") && absent()) {
            self.lock(keyspace, LockTarget::Key(key), mode)?;
        }
        self.await_round();
        let at = self.open.marks().visible();
        self.check_keyspace(keyspace, at)?;
        let guard = pin();
        let found = keyspace.space().memtable.lookup(key, at, &guard);
        let seen = self.open.see(keyspace.space(), key, found.found, || self.now)?;
        let entry = seen.map(Seen::into_entry);
        self.observe(found.observed);
        self.reads.borrow_mut().space(keyspace.space());
        // After the read: a lock that was taken away meanwhile protected nothing.
        self.locking.check(&self.open)?;
        self.check_size()?;
        Ok((entry, found.observed))
    }

    /// Locks the key, and makes sure that what is read at the read timestamp is the newest: takes
    /// the timestamp now if there is none, else moves it forward if the level allows and all that was
    /// read before still holds (protocol rule 28).
    fn lock_at_timestamp(&self, keyspace: &Keyspace, key: &[u8], mode: LockMode) -> Result<()> {
        self.lock(keyspace, LockTarget::Key(key), mode)?;
        self.await_round();
        if self.slot.borrow().is_none() {
            self.read_at()?;
            return Ok(());
        }
        let newest = keyspace.space().memtable.newest(key, &pin());
        self.reach(keyspace, newest, || ConflictOn::Write(Slice::from(key)))
    }

    /// Makes sure that the read timestamp is not older than `newest`, the newest on what was just
    /// locked: moves it forward if need be and the level allows. Otherwise it is a conflict.
    fn reach(&self, keyspace: &Keyspace, newest: Lsn, what: impl Fn() -> ConflictOn) -> Result<()> {
        if self.read_at()? >= newest || isolith_wal::planted!("locked-at-an-old-timestamp") {
            return Ok(());
        }
        if self.isolation.protects_items() {
            if self.advance() {
                return Ok(());
            }
            self.torn.get_or_init(|| Box::new((keyspace.clone(), what(), newest)));
        }
        Err(self.conflict_on(keyspace, what(), Some(newest)))
    }

    /// Moves the read timestamp to *visible*. False: something that was read before has changed since
    /// the old one.
    fn advance(&self) -> bool {
        let mut slot = self.slot.borrow_mut();
        let Some(slot) = &mut *slot else { return true };
        let since = slot.timestamp();
        // First the timestamp, then the look: what was installed up to it is seen.
        slot.advance(self.open.marks(), Watermarks::visible);
        isolith_wal::planted!("moved-on-without-validation")
            || self.reads.borrow().is_unchanged_since(since, &pin())
    }

    /// The error for a dependency that was found to be broken before the commit.
    fn conflict_on(&self, keyspace: &Keyspace, what: ConflictOn, other: Option<Lsn>) -> Error {
        let waste = self.reads.borrow().operations() + 1;
        self.open.conflict(keyspace.space().id, what, other, waste)
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
                return Ok(Range::locking(self, keyspace.clone(), self.now, bounds.clone()));
            }
            if self.isolation.reads_by_statement() && !self.read_only {
                let slot = self.statement()?;
                self.check_keyspace(keyspace, slot.timestamp())?;
                return Ok(Range::statement(
                    self,
                    keyspace.clone(),
                    slot,
                    self.now,
                    bounds.clone(),
                ));
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

    /// Merges `operand` into the value of a key, by the operator of this name (see
    /// [`merge`](crate::merge)). It reads nothing: unless this transaction reads the key as well, it
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
                false => space.memtable.newer_in(ends, read, &pin()),
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
        let mut steps = CommitSteps::new(self);
        steps.never_wait();
        steps
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
