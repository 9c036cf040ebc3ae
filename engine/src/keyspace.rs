//! A named, ordered map of keys to values, and its autocommit operations.

use std::fmt;
use std::ops::{
    Bound, Range as StdRange, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive,
};
use std::sync::Arc;

use isolith_index::{Found, Slice, Value, VersionRef, pin};
use isolith_txn::{Interval, KeyBound, SnapshotSlot, Space, Watermarks, Write};
use isolith_wal::Lsn;

use crate::catalog::{KeyspaceOptions, put_expiry};
use crate::database::Open;
use crate::error::{Error, Result};
use crate::merge::Seen;
use crate::options::{PutOptions, TransactionOptions};
use crate::scan::{Range, prefix_interval};
use crate::snapshot::Snapshot;
use crate::transaction::{check_key, check_value};

/// Tries without a snapshot slot before an autocommit read takes one.
const SLOTLESS_TRIES: usize = 3;

/// A value and when it expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Slice,
    /// When it expires, in Unix milliseconds; `None` for never.
    pub expires_at: Option<u64>,
}

impl Entry {
    pub(crate) fn of(version: VersionRef<'_>) -> Self {
        let expires_at = version.expires_at();
        Self { value: version.slice(), expires_at: (expires_at != 0).then_some(expires_at) }
    }
}

/// A range of keys: any of Rust's range expressions over anything that is bytes, `..` included, or
/// a pair of bounds.
pub trait KeyRange {
    /// The two ends, copied.
    fn into_interval(self) -> Interval;
}

fn copied<K: AsRef<[u8]>>(lower: Bound<K>, upper: Bound<K>) -> Interval {
    let copy = |bound: Bound<K>| -> KeyBound { bound.map(|key| Slice::from(key.as_ref())) };
    Interval { lower: copy(lower), upper: copy(upper) }
}

impl KeyRange for RangeFull {
    fn into_interval(self) -> Interval {
        Interval { lower: Bound::Unbounded, upper: Bound::Unbounded }
    }
}

impl<K: AsRef<[u8]>> KeyRange for StdRange<K> {
    fn into_interval(self) -> Interval {
        copied(Bound::Included(self.start), Bound::Excluded(self.end))
    }
}

impl<K: AsRef<[u8]> + Clone> KeyRange for RangeInclusive<K> {
    fn into_interval(self) -> Interval {
        let (start, end) = self.into_inner();
        copied(Bound::Included(start), Bound::Included(end))
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeFrom<K> {
    fn into_interval(self) -> Interval {
        copied(Bound::Included(self.start), Bound::Unbounded)
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeTo<K> {
    fn into_interval(self) -> Interval {
        copied(Bound::Unbounded, Bound::Excluded(self.end))
    }
}

impl<K: AsRef<[u8]>> KeyRange for RangeToInclusive<K> {
    fn into_interval(self) -> Interval {
        copied(Bound::Unbounded, Bound::Included(self.end))
    }
}

impl<K: AsRef<[u8]>> KeyRange for (Bound<K>, Bound<K>) {
    fn into_interval(self) -> Interval {
        copied(self.0, self.1)
    }
}

/// A named, ordered map of keys to values. Cheap to clone, usable from any thread; it keeps the
/// database open.
///
/// Its own operations commit by themselves. A read sees the last acknowledged commit and writes no
/// memory that threads share.
#[derive(Clone)]
pub struct Keyspace {
    open: Arc<Open>,
    space: Arc<Space>,
    name: Arc<str>,
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyspace").field(&self.name).finish()
    }
}

impl Keyspace {
    pub(crate) fn new(open: Arc<Open>, space: Arc<Space>, name: Arc<str>) -> Self {
        Self { open, space, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its options. (Of one that was dropped: the defaults.)
    pub fn options(&self) -> KeyspaceOptions {
        KeyspaceOptions::clone(&self.open.keyspace_options(self.space.id))
    }

    /// Gives it other options, durably: for puts, and for files that are written from now on. Files that are
    /// there stay as they are until they are compacted ([`Database::compact`](crate::Database::compact)
    /// compacts all), values keep the expiry that they were put with.
    ///
    /// # Errors
    /// [`Error::InvalidKeyspaceOptions`], [`Error::UnknownOperator`], [`Error::NeedsFeature`];
    /// [`Error::KeyspaceDropped`].
    pub fn set_options(&self, options: KeyspaceOptions) -> Result<()> {
        self.open.check_open()?;
        options.check(self.open.operators())?;
        self.open.redefine(&self.name, &self.space, options)
    }

    pub(crate) fn open(&self) -> &Arc<Open> {
        &self.open
    }

    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }

    pub(crate) fn dropped(&self) -> Error {
        Error::KeyspaceDropped { keyspace: self.name.to_string() }
    }

    /// Whether what was just read through `slot` may be believed.
    pub(crate) fn believe(&self, slot: &SnapshotSlot) -> Result<()> {
        self.open.believe(slot)
    }

    /// Refuses a keyspace of another database.
    pub(crate) fn check(&self, open: &Arc<Open>) -> Result<()> {
        if Arc::ptr_eq(&self.open, open) {
            return Ok(());
        }
        Err(Error::ForeignKeyspace { keyspace: self.name.to_string() })
    }

    /// Reads a key at the newest timestamp that `mark` gives, without a slot where that is safe: if
    /// the walk skipped a newer version, a pruner may have removed the one that was wanted, unless
    /// the mark has not moved (protocol rule 6). Returns the largest LSN seen, too.
    pub(crate) fn read_newest<R>(
        &self,
        key: &[u8],
        mark: fn(&Watermarks) -> Lsn,
        now: Option<u64>,
        read: impl FnOnce(Option<Seen<'_>>) -> R,
    ) -> Result<(R, Lsn)> {
        self.open.check_open()?;
        let marks = self.open.marks();
        let guard = pin();
        for _ in 0..SLOTLESS_TRIES {
            // First the timestamp, then the versions.
            let at = mark(marks);
            let found = self.space.view(&guard).lookup(key, at, &guard)?;
            #[cfg(planted)]
            if isolith_wal::planted!("read-without-recheck") {
                isolith_wal::planted::dawdle();
                let found = self.space.view(&guard).lookup(key, at, &guard)?;
                return Ok((read(self.alive(key, found.found, at, now)?), found.observed));
            }
            if found.skipped_newer && mark(marks) != at {
                continue;
            }
            return Ok((read(self.alive(key, found.found, at, now)?), found.observed));
        }
        loop {
            let slot = self.open.register(mark)?;
            let at = slot.timestamp();
            let found = self.space.view(&guard).lookup(key, at, &guard)?;
            // A thread that was stopped for long between the two takes another.
            if slot.check().is_ok() {
                return Ok((read(self.alive(key, found.found, at, now)?), found.observed));
            }
        }
    }

    /// The value that a reader found, unless it has expired.
    #[inline]
    pub(crate) fn see<'g>(
        &self,
        key: &[u8],
        found: Found<'g>,
        now: impl FnOnce() -> u64,
    ) -> Result<Option<Seen<'g>>> {
        self.open.see(&self.space, key, found, now)
    }

    /// What is there, unless it has expired by `now` (`None`: by the clock); an error if the keyspace
    /// does not exist at `at`.
    #[inline]
    fn alive<'g>(
        &self,
        key: &[u8],
        found: Found<'g>,
        at: Lsn,
        now: Option<u64>,
    ) -> Result<Option<Seen<'g>>> {
        if !self.space.exists_at(at) {
            return Err(self.dropped());
        }
        // The clock is read only for a value that can expire.
        self.open.see(&self.space, key, found, || now.unwrap_or_else(|| self.open.now()))
    }

    /// The value of a key, if there is one.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        let slice = |seen: Option<Seen<'_>>| seen.map(Seen::into_slice);
        Ok(self.read_newest(key.as_ref(), Watermarks::acknowledged, None, slice)?.0)
    }

    /// Lends the value of a key to `read` without copying it. `read` runs under an epoch pin: keep
    /// it short.
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        let lend = |seen: Option<Seen<'_>>| seen.map(|seen| read(seen.value()));
        Ok(self.read_newest(key.as_ref(), Watermarks::acknowledged, None, lend)?.0)
    }

    /// The value of a key and when it expires, if there is one.
    pub fn get_entry(&self, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        let entry = |seen: Option<Seen<'_>>| seen.map(Seen::into_entry);
        Ok(self.read_newest(key.as_ref(), Watermarks::acknowledged, None, entry)?.0)
    }

    /// Reads at *visible*, or at `S` if that covers `token` already; with the newest LSN seen.
    pub(crate) fn entry_after(&self, key: &[u8], token: Lsn) -> Result<(Option<Entry>, Lsn)> {
        let entry = |seen: Option<Seen<'_>>| seen.map(Seen::into_entry);
        let mark = if token > self.open.marks().acknowledged() {
            Watermarks::visible
        } else {
            Watermarks::acknowledged
        };
        self.read_newest(key, mark, None, entry)
    }

    /// Whether a key has a value.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let some = |seen: Option<Seen<'_>>| seen.is_some();
        Ok(self.read_newest(key.as_ref(), Watermarks::acknowledged, None, some)?.0)
    }

    /// Gives a key a value. Returns once the put is as durable as the database's default asks.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, PutOptions::default())
    }

    /// [`Keyspace::put`] with an expiry or a durability of its own.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: PutOptions,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_key(key)?;
        check_value(value)?;
        let expires_at = put_expiry(&self.space, options.expires_at, || self.open.now());
        let write = Write::Put { value: Value::new(value), expires_at };
        self.open.core().commit_one(&self.space, key, write, options.durability)
    }

    /// Removes a key; fine if it is absent.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let key = key.as_ref();
        check_key(key)?;
        self.open.core().commit_one(&self.space, key, Write::Delete, None)
    }

    /// Merges `operand` into the value of a key, by the operator of this name (see
    /// [`merge`](crate::merge)); by that of the keyspace's options where the name is empty. It reads nothing, and conflicts with nobody but those who hold a lock
    /// on the key.
    ///
    /// # Errors
    /// [`Error::UnknownOperator`]; [`Error::Merge`] if the operator does not take the operand.
    pub fn merge(
        &self,
        key: impl AsRef<[u8]>,
        operator: &str,
        operand: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, operand) = (key.as_ref(), operand.as_ref());
        check_key(key)?;
        check_value(operand)?;
        let operator = self.open.operator_for(&self.space, key, operator, operand)?;
        let (operand, at_ms) = (Value::new(operand), self.open.now());
        let write = Write::Merge { operator, operand, at_ms };
        self.open.core().commit_one(&self.space, key, write, None)
    }

    /// Removes every key within bounds: one operation, visible at once, whatever it covers.
    pub fn delete_range(&self, bounds: impl KeyRange) -> Result<()> {
        let mut transaction = self.open.begin(TransactionOptions::default())?;
        transaction.delete_range(self, bounds)?;
        transaction.commit()?;
        Ok(())
    }

    /// Replaces the value of a key if it is `expected` (`None`: absent) by `new` (`None`: removes
    /// it). `Ok(Err(found))` says what was there instead, and changes nothing.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<Result<(), Option<Slice>>> {
        let key = key.as_ref();
        self.open.transact(TransactionOptions::default(), |transaction| {
            let found = transaction.get(self, key)?;
            if found.as_deref() != expected {
                return Ok(Err(found));
            }
            match new {
                Some(value) => transaction.put(self, key, value)?,
                None => transaction.delete(self, key)?,
            }
            Ok(Ok(()))
        })
    }

    /// The keys and values within bounds at the last acknowledged commit, in key order, from either
    /// end. The iterator reads one snapshot, which it holds.
    pub fn range(&self, bounds: impl KeyRange) -> Range<Snapshot> {
        self.scan(bounds.into_interval())
    }

    /// The keys that begin with `prefix`, and their values.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range<Snapshot> {
        self.scan(prefix_interval(prefix.as_ref()))
    }

    fn scan(&self, bounds: Interval) -> Range<Snapshot> {
        match self.open.snapshot(Watermarks::acknowledged) {
            Ok(snapshot) => snapshot.scan(self, bounds),
            Err(error) => Range::failed(self.clone(), error),
        }
    }

    /// The number of keys at the last acknowledged commit. Exact, and linear in the number of keys.
    pub fn len(&self) -> Result<usize> {
        Ok(usize::try_from(self.count(..)?).unwrap_or(usize::MAX))
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.range(..).keys_only().next().transpose()?.is_none())
    }

    /// An upper bound of the number of keys, at no cost: deleted and expired keys count until they
    /// are cleaned up.
    pub fn approximate_len(&self) -> usize {
        let guard = pin();
        let view = self.space.view(&guard);
        view.nodes() + usize::try_from(view.file_entries()).unwrap_or(usize::MAX)
    }
}
