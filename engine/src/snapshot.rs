//! A reader's view: everything as it was at one timestamp, for as long as it is kept.

use std::sync::Arc;

use isolith_index::{Slice, pin};
use isolith_txn::SnapshotSlot;
use isolith_wal::Lsn;

use crate::database::Open;
use crate::error::{Error, Result};
use crate::keyspace::{Entry, KeyRange, Keyspace};
use crate::merge::Seen;
use crate::scan::{Range, prefix_interval};

/// A consistent view of the whole database at one timestamp. It never aborts and never waits; while
/// it lives, what it can see is kept, up to [`Builder::snapshot_age_max`](crate::Builder::snapshot_age_max):
/// then its reads answer [`Error::SnapshotTooOld`]. Cheap to clone, tied to no thread.
#[derive(Clone, Debug)]
pub struct Snapshot {
    open: Arc<Open>,
    slot: Arc<SnapshotSlot>,
    now: u64,
}

impl Snapshot {
    pub(crate) fn new(open: Arc<Open>, slot: SnapshotSlot) -> Self {
        let now = open.now();
        Self { open, slot: Arc::new(slot), now }
    }

    /// The timestamp that this snapshot reads at: it sees every commit at or below it.
    pub fn timestamp(&self) -> Lsn {
        self.slot.timestamp()
    }

    /// The value of a key, if there is one.
    pub fn get(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Slice>> {
        Ok(self.get_entry(keyspace, key)?.map(|entry| entry.value))
    }

    /// The value of a key and when it expires, if there is one.
    pub fn get_entry(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<Option<Entry>> {
        self.check_keyspace(keyspace)?;
        let read = self.timestamp();
        let (key, guard) = (key.as_ref(), pin());
        let found = keyspace.space().view(&guard).lookup(key, read, &guard)?;
        self.believe()?;
        let seen = self.open.see(keyspace.space(), key, found.found, || self.now)?;
        Ok(seen.map(Seen::into_entry))
    }

    /// Whether a key has a value.
    pub fn contains(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get_entry(keyspace, key)?.is_some())
    }

    /// The keys and values within bounds, in key order, from either end.
    pub fn range(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Range<Snapshot> {
        self.scan(keyspace, bounds.into_interval())
    }

    /// The keys that begin with `prefix`, and their values.
    pub fn prefix(&self, keyspace: &Keyspace, prefix: impl AsRef<[u8]>) -> Range<Snapshot> {
        self.scan(keyspace, prefix_interval(prefix.as_ref()))
    }

    pub(crate) fn scan(
        &self,
        keyspace: &Keyspace,
        bounds: isolith_txn::Interval,
    ) -> Range<Snapshot> {
        let keyspace = keyspace.clone();
        let read = self.timestamp();
        if let Err(error) = keyspace.check(&self.open) {
            return Range::failed(keyspace, error);
        }
        if !keyspace.space().exists_at(read) {
            let error = keyspace.dropped();
            return Range::failed(keyspace, error);
        }
        Range::new(self.clone(), keyspace, read, self.now, bounds)
    }

    /// The time that expiry is judged against, in Unix milliseconds: when it was made.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now
    }

    /// Refuses what cannot be read any more, and a keyspace that is not there at the timestamp.
    pub(crate) fn check_keyspace(&self, keyspace: &Keyspace) -> Result<()> {
        self.check_open()?;
        keyspace.check(&self.open)?;
        if !keyspace.space().exists_at(self.timestamp()) {
            return Err(keyspace.dropped());
        }
        Ok(())
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        self.open.check_open()
    }

    /// For after each read, before its result is used: whether what it looked at was still kept.
    pub(crate) fn believe(&self) -> Result<(), Error> {
        self.open.believe(&self.slot)
    }
}
