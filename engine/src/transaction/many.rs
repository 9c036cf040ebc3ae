//! A transaction reads several keys at once, and counts.
//!
//! 1. Each key is read as [`Transaction::get`] would: tracked, locked, or neither, own writes first.
//! 2. Keys that are locked are locked in key order, so that two such reads never wait for each other both
//!    ways. They come first: a lock may move the read timestamp on, and the others are read at it.
//! 3. Under read committed one call is one statement: all its keys are read at one timestamp.

use isolith_index::{Operand, Slice};
use isolith_txn::Write;
use isolith_wal::Lsn;

use super::Transaction;
use super::reading::{Intent, Plan};
use crate::error::Result;
use crate::keyspace::{Entry, KeyRange, Keyspace};
use crate::many::Sorted;

impl Transaction {
    /// The values of several keys, in their order: own writes first, then as the isolation level has it.
    /// Each is as if it were read by [`Transaction::get`], but all at one timestamp, under read committed
    /// as well. They are looked up in key order through one view of the files.
    ///
    /// ```
    /// # let db = isolith::Database::in_memory();
    /// let accounts = db.keyspace("accounts")?;
    /// accounts.put("alice", "100")?;
    /// let sum = db.transact(|tx| {
    ///     tx.put(&accounts, "bob", "20")?;
    ///     let balances = tx.multi_get(&accounts, ["alice", "bob", "carol"])?;
    ///     assert!(balances[2].is_none());
    ///     Ok(balances.iter().flatten().count())
    /// })?;
    /// assert_eq!(sum, 2);
    /// # Ok::<(), isolith::Error>(())
    /// ```
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Slice>>> {
        let entries = self.multi_get_entries(keyspace, keys)?;
        Ok(entries.into_iter().map(|entry| entry.map(|entry| entry.value)).collect())
    }

    /// The values of several keys and when they expire, in their order.
    pub fn multi_get_entries<K: AsRef<[u8]>>(
        &self,
        keyspace: &Keyspace,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Entry>>> {
        self.check()?;
        keyspace.check(&self.open)?;
        let sorted = Sorted::new(keys);
        let mut entries = vec![None; sorted.len()];
        let own = self.overlay(keyspace.space().id);
        let (mut tracked, mut untracked, mut merges) = (Vec::new(), Vec::new(), Vec::new());
        for (at, key) in sorted.ascending() {
            let own = own.and_then(|own| own.lookup(key));
            let merge = match own {
                Some(Write::Merge { operator, operand, at_ms }) => {
                    Some(Operand { operator: *operator, bytes: operand, at_ms: *at_ms })
                }
                Some(own) => {
                    entries[at] = self.own_entry(own);
                    continue;
                }
                None => None,
            };
            match self.plan(keyspace, key, Intent::Plain) {
                Plan::AtTimestamp { track: true } => tracked.push((at, key)),
                Plan::AtTimestamp { track: false } | Plan::AtVisible { track: false } => {
                    untracked.push((at, key));
                }
                plan => {
                    // With an own merge laid over.
                    entries[at] = self.read_by(keyspace, key, || plan)?.0;
                    self.note_seen(keyspace, key);
                    continue;
                }
            }
            merges.extend(merge.map(|merge| (at, key, merge)));
        }
        self.read_many(keyspace, &tracked, true, &mut entries)?;
        self.read_many(keyspace, &untracked, false, &mut entries)?;
        for (at, key, merge) in merges {
            entries[at] = Some(self.merged(keyspace, key, entries[at].as_ref(), merge)?);
        }
        self.check_size()?;
        Ok(entries)
    }

    /// Reads keys that are not locked, ascending, at the statement's or the transaction's timestamp.
    fn read_many(
        &self,
        keyspace: &Keyspace,
        wanted: &[(usize, &[u8])],
        track: bool,
        entries: &mut [Option<Entry>],
    ) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let by_statement = self.isolation.reads_by_statement() && !self.read_only;
        let statement = by_statement.then(|| self.statement()).transpose()?;
        let read = match &statement {
            Some(slot) => slot.timestamp(),
            None => self.read_at()?,
        };
        self.check_keyspace(keyspace, read)?;
        let believe = || match &statement {
            Some(slot) => keyspace.believe(slot),
            None => self.believe(),
        };
        let tell = |at: usize, entry, observed: Lsn| {
            entries[at] = entry;
            self.observe(observed);
            Ok(())
        };
        keyspace.look_up_many(wanted, read, self.now, believe, tell)?;
        for (number, (_, key)) in wanted.iter().enumerate() {
            if track {
                self.reads.borrow_mut().point(keyspace.space(), key);
            }
            self.note_seen(keyspace, key);
            if number.is_multiple_of(SIZE_CHECKED_EVERY) {
                self.check_size()?;
            }
        }
        Ok(())
    }

    /// The number of keys within bounds, own writes laid over. Exact, and linear in it; to the isolation
    /// level it is a scan of them all.
    pub fn count(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<u64> {
        let mut range = self.range(keyspace, bounds);
        range.try_fold(0, |count, pair| pair.map(|_| count + 1))
    }
}

/// Keys that are noted before the transaction's size is looked at again.
const SIZE_CHECKED_EVERY: usize = 64;
