//! Reads of many keys at once, and how much there is in a range.
//!
//! 1. All keys of a call are read at one timestamp, whatever commits meanwhile.
//! 2. They are looked up in key order, [`KEYS_PER_PIN`] at a time under one epoch pin: a block of a file is
//!    read and unpacked once for all keys that are in it. The answer is in the caller's order.
//! 3. What counts and sizes copies no value.

use std::ops::{Bound, ControlFlow};

use isolith_index::{Direction, FileCursors, Slice, pin};
use isolith_txn::{Interval, Watermarks};
use isolith_wal::Lsn;

use crate::error::Result;
use crate::keyspace::{Entry, KeyRange, Keyspace};
use crate::merge::Seen;
use crate::snapshot::Snapshot;

/// Keys that are looked up under one epoch pin at most.
const KEYS_PER_PIN: usize = 256;
/// Keys that are counted under one epoch pin at most.
const COUNTED_PER_PIN: usize = 1024;

/// The keys of a call, and their places in it, in key order.
pub(crate) struct Sorted<K> {
    keys: Vec<K>,
    order: Vec<usize>,
}

impl<K: AsRef<[u8]>> Sorted<K> {
    pub(crate) fn new(keys: impl IntoIterator<Item = K>) -> Self {
        let keys: Vec<K> = keys.into_iter().collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|&one, &other| keys[one].as_ref().cmp(keys[other].as_ref()));
        Self { keys, order }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The places of the keys in the call, ascending by key, with the keys.
    pub(crate) fn ascending(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.order.iter().map(|&at| (at, self.keys[at].as_ref()))
    }
}

impl Keyspace {
    /// What each of `wanted` is at `read`, which something holds: `told` its place in `wanted`, what is
    /// seen there, and the newest timestamp on the key at or below `read`. They ascend by key. `believe`
    /// is asked before what was read is told.
    pub(crate) fn look_up_many(
        &self,
        wanted: &[(usize, &[u8])],
        read: Lsn,
        now: u64,
        believe: impl Fn() -> Result<()>,
        mut told: impl FnMut(usize, Option<Entry>, Lsn) -> Result<()>,
    ) -> Result<()> {
        for wanted in wanted.chunks(KEYS_PER_PIN) {
            let guard = pin();
            let keys: Vec<&[u8]> = wanted.iter().map(|(_, key)| *key).collect();
            let mut found = Vec::with_capacity(keys.len());
            let view = self.space().view(&guard);
            view.lookup_many(&keys, read, &guard, |number, lookup| found.push((number, lookup)))?;
            believe()?;
            for (number, lookup) in found {
                let (at, key) = wanted[number];
                let seen = self.see(key, lookup.found, || now)?;
                told(at, seen.map(Seen::into_entry), lookup.observed)?;
            }
        }
        Ok(())
    }

    /// The values of several keys, in their order, all at the last acknowledged commit. They are looked
    /// up in key order through one view of the files.
    ///
    /// ```
    /// # let db = isolith::Database::in_memory();
    /// let stock = db.keyspace("stock")?;
    /// stock.put("apple", "3")?;
    /// stock.put("pear", "5")?;
    /// let found = stock.multi_get(["pear", "plum", "apple"])?;
    /// let found: Vec<_> = found.iter().map(|value| value.as_deref()).collect();
    /// assert_eq!(found, [Some(&b"5"[..]), None, Some(b"3")]);
    /// # Ok::<(), isolith::Error>(())
    /// ```
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Slice>>> {
        self.open().snapshot(Watermarks::acknowledged)?.multi_get(self, keys)
    }

    /// The number of keys within bounds at the last acknowledged commit. Exact, and linear in it.
    ///
    /// ```
    /// # let db = isolith::Database::in_memory();
    /// let log = db.keyspace("log")?;
    /// for day in 1..=31 {
    ///     log.put(format!("2026-10-{day:02}"), "entry")?;
    /// }
    /// assert_eq!(log.count("2026-10-10".."2026-10-20")?, 10);
    /// assert_eq!(log.size("2026-10-10".."2026-10-20")?, 10 * (10 + 5));
    /// assert_eq!(log.approximate_count("2026-10-10".."2026-10-20")?, 10);
    /// # Ok::<(), isolith::Error>(())
    /// ```
    pub fn count(&self, bounds: impl KeyRange) -> Result<u64> {
        self.open().snapshot(Watermarks::acknowledged)?.count(self, bounds)
    }

    /// The bytes of the keys within bounds and of their values, at the last acknowledged commit. Exact,
    /// and linear in the number of keys.
    pub fn size(&self, bounds: impl KeyRange) -> Result<u64> {
        self.open().snapshot(Watermarks::acknowledged)?.size(self, bounds)
    }

    /// About the number of keys within bounds, at next to no cost: by the indexes of files, and a look at
    /// 1,024 keys of each memtable at most. No data is read.
    ///
    /// Exact while the range is in memory, has at most 1,024 keys, written once or deleted by key, and is in
    /// no file. Otherwise:
    /// - a bound that lies in the middle of a file is taken to lie in the middle of one of its blocks (some
    ///   KiB): half a block too much or too little for each such bound and file;
    /// - a longer stretch of a memtable is reckoned from how its pages branch, within a factor of two;
    /// - a key counts once for each file and memtable that has a value of it, until they are compacted, and
    ///   keys that are deleted there or expired, or covered by a range delete, may count until then.
    pub fn approximate_count(&self, bounds: impl KeyRange) -> Result<u64> {
        Ok(self.estimate(&bounds.into_interval())?.keys.round() as u64)
    }

    /// About the bytes of the keys within bounds and of their values, as they were put: before compression.
    /// As cheap and as exact as [`Keyspace::approximate_count`].
    pub fn approximate_size(&self, bounds: impl KeyRange) -> Result<u64> {
        Ok(self.estimate(&bounds.into_interval())?.bytes.round() as u64)
    }

    fn estimate(&self, within: &Interval) -> Result<isolith_index::Estimate> {
        self.open().check_open()?;
        if within.is_empty() {
            return Ok(isolith_index::Estimate::default());
        }
        let guard = pin();
        let ends = (within.lower_ref(), within.upper_ref());
        Ok(self.space().view(&guard).estimate(ends, &guard)?)
    }
}

impl Snapshot {
    /// The values of several keys, in their order. They are looked up in key order through one view of
    /// the files.
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
        self.check_keyspace(keyspace)?;
        let sorted = Sorted::new(keys);
        let wanted: Vec<_> = sorted.ascending().collect();
        let mut entries = vec![None; sorted.len()];
        let tell = |at: usize, entry, _| {
            entries[at] = entry;
            Ok(())
        };
        let believe = || self.believe();
        keyspace.look_up_many(&wanted, self.timestamp(), self.now_ms(), believe, tell)?;
        Ok(entries)
    }

    /// The number of keys within bounds. Exact, and linear in it.
    pub fn count(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<u64> {
        let mut keys = 0;
        let files = FileCursors::keys_only();
        self.each_length(keyspace, bounds.into_interval(), files, |_| keys += 1)?;
        Ok(keys)
    }

    /// The bytes of the keys within bounds and of their values. Exact, and linear in the number of keys.
    pub fn size(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<u64> {
        let mut bytes = 0;
        let files = FileCursors::default();
        self.each_length(keyspace, bounds.into_interval(), files, |length| bytes += length as u64)?;
        Ok(bytes)
    }

    /// [`Keyspace::approximate_count`]: of what is there now, whatever moment this snapshot reads.
    pub fn approximate_count(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<u64> {
        self.check_keyspace(keyspace)?;
        keyspace.approximate_count(bounds)
    }

    /// [`Keyspace::approximate_size`]: of what is there now, whatever moment this snapshot reads.
    pub fn approximate_size(&self, keyspace: &Keyspace, bounds: impl KeyRange) -> Result<u64> {
        self.check_keyspace(keyspace)?;
        keyspace.approximate_size(bounds)
    }

    /// Goes over the keys within bounds: the bytes of each with its value.
    fn each_length(
        &self,
        keyspace: &Keyspace,
        mut within: Interval,
        mut files: FileCursors,
        mut told: impl FnMut(usize),
    ) -> Result<()> {
        self.check_keyspace(keyspace)?;
        while !within.is_empty() {
            self.check_open()?;
            let guard = pin();
            let (mut lengths, mut visits, mut failed) = (Vec::new(), 0, None);
            let mut reached: Option<Slice> = None;
            let ends = (within.lower_ref(), within.upper_ref());
            let (view, read) = (keyspace.space().view(&guard), self.timestamp());
            view.scan(ends, Direction::Forward, read, &mut files, &guard, |key, lookup| {
                match keyspace.see(key, lookup.found, || self.now_ms()) {
                    Ok(Some(seen)) => lengths.push(key.len() + seen.value().len()),
                    Ok(None) => {}
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                visits += 1;
                if visits == COUNTED_PER_PIN {
                    reached = Some(Slice::from(key));
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            })?;
            drop(guard);
            self.believe()?;
            if let Some(error) = failed {
                return Err(error);
            }
            lengths.into_iter().for_each(&mut told);
            let Some(reached) = reached else { return Ok(()) };
            within.lower = Bound::Excluded(reached);
        }
        Ok(())
    }
}
