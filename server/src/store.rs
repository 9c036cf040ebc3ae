//! Data as a command sees it: one face over a read at the latest point, a snapshot and a transaction,
//! so that a handler is written once and runs alone, in EXEC, and after BEGIN.

use crate::failure::Failure;
use crate::resp::Reply;
use crate::session::Session;
use crate::shared::Shared;
use crate::walk::{Sliced, Walk, Whole, Wide};
use isolith::{Concurrency, Entry, RangeLock, Slice, Snapshot, Timestamp, Transaction};
use std::ops::{Bound, ControlFlow};

/// Where a command reads, and whether it can write.
pub(crate) enum Store<'a> {
    /// No data at all.
    Nothing,
    /// Single reads, each at the latest point that includes what this connection has written.
    Latest,
    /// Several reads at one point.
    Snapshot(&'a Snapshot),
    /// Reads and writes.
    Transaction(&'a mut Transaction),
}

/// What a handler works with.
pub(crate) struct Cx<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) session: &'a mut Session,
    pub(crate) store: Store<'a>,
    /// The command may write what it reads: where that is locked, it is locked for it at once. Two that
    /// only shared the lock would stand in each other's way.
    pub(crate) for_update: bool,
    /// The newest commit that was seen: the reply must wait until it is acknowledged.
    pub(crate) observed: Timestamp,
}

/// What looking for a key is reckoned to cost, as bytes that are copied.
const KEY_BYTES: usize = 512;

/// The bounds of a range of keys.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Cx<'_> {
    /// The time against which expiry is judged, in unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.store {
            Store::Transaction(txn) => txn.now_ms(),
            _ => self.shared.now_ms(),
        }
    }

    /// To be called before as many bytes are read, copied or looked at. Refused where that is more than a
    /// core may do in one go.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), Failure> {
        if self.session.effort.spend(bytes) { Ok(()) } else { Err(Failure::Elsewhere) }
    }

    /// The live value of `key` in the selected database, with its expiry.
    pub(crate) fn entry(&mut self, key: &[u8]) -> Result<Option<Entry>, Failure> {
        let entry = self.look_up(key)?;
        self.spend(KEY_BYTES + entry.as_ref().map_or(0, |entry| entry.value.len()))?;
        Ok(entry)
    }

    fn look_up(&mut self, key: &[u8]) -> Result<Option<Entry>, Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Nothing => Ok(None),
            Store::Latest => {
                let read = self.shared.database.get_after(keyspace, key, self.session.token)?;
                self.observed = self.observed.max(read.observed);
                Ok(read.value)
            }
            Store::Snapshot(snapshot) => Ok(snapshot.get_entry(keyspace, key)?),
            Store::Transaction(txn) => {
                if self.for_update && matches!(txn.concurrency(), Concurrency::Locking(_)) {
                    txn.get_for_update(keyspace, key)?;
                }
                Ok(txn.get_entry(keyspace, key)?)
            }
        }
    }

    /// Whether a key is there. One whose value cannot be told is: a merge did not fit it.
    pub(crate) fn is_there(&mut self, key: &[u8]) -> Result<bool, Failure> {
        match self.entry(key) {
            Ok(entry) => Ok(entry.is_some()),
            Err(Failure::Unreadable(_)) => Ok(true),
            Err(failure) => Err(failure),
        }
    }

    /// Merges an operand into the value of a key, without reading it.
    pub(crate) fn merge(
        &mut self,
        key: &[u8],
        operator: &str,
        operand: &[u8],
    ) -> Result<(), Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Transaction(txn) => Ok(txn.merge(keyspace, key, operator, operand)?),
            _ => Err(read_only()),
        }
    }

    /// The value of a key that is going to be changed: nobody else changes it before the commit.
    pub(crate) fn value_for_update(&mut self, key: &[u8]) -> Result<Option<Slice>, Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Transaction(txn) => Ok(txn.get_for_update(keyspace, key)?),
            _ => Err(read_only()),
        }
    }

    /// The value of a key that nobody may change before the commit.
    pub(crate) fn value_for_share(&mut self, key: &[u8]) -> Result<Option<Slice>, Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Transaction(txn) => Ok(txn.get_for_share(keyspace, key)?),
            // What it reads never changes.
            _ => Ok(self.entry(key)?.map(|entry| entry.value)),
        }
    }

    /// Locks a range of keys, there or not, until the transaction ends.
    pub(crate) fn lock_range(&mut self, bounds: Bounds, lock: RangeLock) -> Result<(), Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Transaction(_) if is_empty(&bounds) => Ok(()),
            Store::Transaction(txn) => Ok(txn.lock_range(keyspace, bounds, lock)?),
            _ => Err(read_only()),
        }
    }

    /// Writes a value; it is gone from `expires_at` (unix milliseconds) on. `None`: as the keyspace says;
    /// [`isolith::NEVER`]: never.
    pub(crate) fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<(), Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Transaction(txn) => Ok(txn.put_with(keyspace, key, value, expires_at)?),
            _ => Err(read_only()),
        }
    }

    /// Deletes a key, there or not.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<(), Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        match &mut self.store {
            Store::Transaction(txn) => {
                txn.delete(keyspace, key)?;
                Ok(())
            }
            _ => Err(read_only()),
        }
    }

    /// Deletes everything within `bounds` in a database.
    pub(crate) fn delete_range(&mut self, db: u8, bounds: Bounds) -> Result<(), Failure> {
        let keyspace = self.shared.keyspace(db);
        match &mut self.store {
            Store::Transaction(_) if is_empty(&bounds) => Ok(()),
            Store::Transaction(txn) => Ok(txn.delete_range(keyspace, bounds)?),
            _ => Err(read_only()),
        }
    }

    /// How many live keys there are.
    pub(crate) fn count(&mut self) -> Result<u64, Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        self.spend(keyspace.approximate_len().saturating_mul(KEY_BYTES))?;
        match &mut self.store {
            Store::Nothing | Store::Latest => Ok(0),
            Store::Snapshot(snapshot) => Ok(snapshot.count(keyspace, ..)?),
            Store::Transaction(txn) => Ok(txn.count(keyspace, ..)?),
        }
    }

    /// Visits the live keys within `bounds`, in order or in reverse, until `visit` breaks.
    pub(crate) fn scan(
        &mut self,
        bounds: Bounds,
        reverse: bool,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let keyspace = self.shared.keyspace(self.session.db);
        if is_empty(&bounds) {
            return Ok(());
        }
        let (effort, mut too_much) = (&mut self.session.effort, false);
        let visit = |key: &[u8], value: &[u8]| {
            too_much = !effort.spend(KEY_BYTES + key.len() + value.len());
            if too_much { ControlFlow::Break(()) } else { visit(key, value) }
        };
        match &mut self.store {
            Store::Nothing | Store::Latest => {}
            Store::Snapshot(snapshot) => {
                let range = snapshot.range(keyspace, bounds);
                if reverse { walk(range.rev(), visit)? } else { walk(range, visit)? }
            }
            Store::Transaction(txn) => {
                let range = txn.range(keyspace, bounds);
                if reverse { walk(range.rev(), visit)? } else { walk(range, visit)? }
            }
        }
        if too_much { Err(Failure::Elsewhere) } else { Ok(()) }
    }

    /// Answers a wide read: in slices where it reads a snapshot on a core, of which this is the first.
    pub(crate) fn answer(&mut self, wide: Wide, reply: &mut Reply<'_>) -> Result<(), Failure> {
        if let Store::Snapshot(snapshot) = &self.store
            && !self.session.effort.is_boundless()
        {
            let keyspace = self.shared.keyspace(self.session.db).clone();
            let mut walk = Walk::new((*snapshot).clone(), keyspace, wide, reply.resp3());
            if walk.advance(reply)? == Sliced::More {
                walk.enter(&self.shared.walks);
                self.session.walk = Some(Box::new(walk));
            }
            return Ok(());
        }
        let (bounds, reverse, none) = (wide.bounds.clone(), wide.reverse, wide.limit == 0);
        let mut whole = Whole::new(wide, reply.resp3());
        if !none {
            self.scan(bounds, reverse, |key, value| match whole.take(key, value) {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            })?;
        }
        whole.tell(reply);
        Ok(())
    }
}

fn walk<S: AsRef<[u8]>>(
    range: impl Iterator<Item = Result<(S, S), isolith::Error>>,
    mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
) -> Result<(), Failure> {
    for item in range {
        let (key, value) = item?;
        if visit(key.as_ref(), value.as_ref()).is_break() {
            break;
        }
    }
    Ok(())
}

/// True if nothing can lie within (also bounds the wrong way round, which a client may send).
pub(crate) fn is_empty((start, end): &Bounds) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (
            Bound::Included(start) | Bound::Excluded(start),
            Bound::Included(end) | Bound::Excluded(end),
        ) => start >= end,
    }
}

fn read_only() -> Failure {
    Failure::text("READONLY this transaction was begun as READ ONLY; ROLLBACK and begin another")
}
