//! Loading many pairs at once: they go to sorted files directly, past the log and the memtables, and become
//! visible together.
//!
//! 1. Until [`BulkLoad::finish`] nothing is visible; then all of it is, at one timestamp. A crash leaves all
//!    or nothing. (How: `docs/decisions/0016`.)
//! 2. Pairs in order are written as they come. Pairs in any order are sorted in memory, and beyond the memory
//!    that was given in runs of files, which are merged in the end.

use std::sync::Arc;

use isolith_index::Value;
use isolith_txn::{Isolation, Request, Space, SpaceWrites, Write};
use isolith_wal::{Durability, Lsn};

use crate::catalog::put_expiry;
use crate::commit::Commit;
use crate::core::Core;
use crate::database::Open;
use crate::error::{Error, Result};
use crate::files::Loaded;
use crate::keyspace::Keyspace;
use crate::pending::CommitInfo;
use crate::transaction::{Queued, add, check_key, check_value};

/// How a bulk load goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLoadOptions {
    /// Whether keys come in ascending order, each once: then nothing is kept in memory, and another order is
    /// refused ([`Error::OutOfOrder`]). Otherwise they are sorted, and the last pair of a key counts.
    /// Default: true.
    pub sorted: bool,
    /// Bytes of memory for sorting. Default: 64 MiB.
    pub memory_bytes: usize,
    /// When the load is acknowledged. Default: the database's.
    pub durability: Option<Durability>,
}

impl Default for BulkLoadOptions {
    fn default() -> Self {
        Self { sorted: true, memory_bytes: 64 << 20, durability: None }
    }
}

impl BulkLoadOptions {
    /// For keys in any order.
    pub fn unsorted() -> Self {
        Self { sorted: false, ..Self::default() }
    }
}

/// What was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkLoaded {
    /// The commit; `None` if there was nothing to load.
    pub timestamp: Option<Lsn>,
    /// Pairs.
    pub entries: u64,
    /// Sorted files that were made.
    pub files: usize,
    /// Their bytes, and those of value files.
    pub bytes: u64,
}

/// Loads pairs into a keyspace: see [`Keyspace::bulk_load`]. Dropped before it is finished, it leaves
/// nothing.
#[must_use = "nothing is loaded until it is finished"]
#[derive(Debug)]
pub struct BulkLoad {
    open: Arc<Open>,
    space: Arc<Space>,
    options: BulkLoadOptions,
    /// `None` in memory.
    loaded: Option<Loaded>,
    last_key: Vec<u8>,
    buffer: Buffer,
    entries: u64,
    expiring: bool,
}

/// Pairs in the order they came in.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    pairs: Vec<Pair>,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    at: usize,
    key: u32,
    value: u32,
    expires_at: u64,
}

impl Buffer {
    fn add(&mut self, key: &[u8], value: &[u8], expires_at: u64) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        // Both are bounded, far below.
        let (key, value) = (key.len() as u32, value.len() as u32);
        self.pairs.push(Pair { at, key, value, expires_at });
    }

    fn used(&self) -> usize {
        self.bytes.len() + self.pairs.len() * size_of::<Pair>()
    }

    /// Puts the pairs in order; of one key the last counts.
    fn sort(&mut self) {
        let bytes = &self.bytes;
        let key = |pair: &Pair| &bytes[pair.at..pair.at + pair.key as usize];
        // What came later lies further on.
        self.pairs.sort_unstable_by(|left, right| {
            key(left).cmp(key(right)).then_with(|| right.at.cmp(&left.at))
        });
        self.pairs.dedup_by(|right, left| key(left) == key(right));
    }

    fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8], u64)> {
        self.pairs.iter().map(|pair| {
            let (key, rest) = self.bytes[pair.at..].split_at(pair.key as usize);
            (key, &rest[..pair.value as usize], pair.expires_at)
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.pairs.clear();
    }
}

impl BulkLoad {
    pub(crate) fn new(open: &Arc<Open>, space: &Arc<Space>, options: BulkLoadOptions) -> Self {
        let of = open.keyspace_options(space.id);
        Self {
            open: Arc::clone(open),
            space: Arc::clone(space),
            options,
            loaded: open.files().map(|files| Loaded::new(files, space.id, &of)),
            last_key: Vec::new(),
            buffer: Buffer::default(),
            entries: 0,
            expiring: false,
        }
    }

    /// Adds a pair.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] if keys are to ascend and this one does not: the pair is left out, and the load
    /// may go on.
    pub fn add(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.add_expiring(key, value, None)
    }

    /// Adds a pair that expires, in Unix milliseconds: see
    /// [`PutOptions::expires_at`](crate::PutOptions::expires_at).
    ///
    /// # Errors
    /// As [`BulkLoad::add`].
    pub fn add_expiring(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expires_at: Option<u64>,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        check_key(key)?;
        check_value(value)?;
        let expires_at = put_expiry(&self.space, expires_at, || self.open.now());
        if self.options.sorted {
            if self.entries > 0 && *key <= *self.last_key {
                let (key, after) = (key.into(), self.last_key.as_slice().into());
                return Err(Error::OutOfOrder { key, after });
            }
            match &mut self.loaded {
                Some(loaded) => loaded.add(key, value, expires_at)?,
                None => self.buffer.add(key, value, expires_at),
            }
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
        } else {
            let more = key.len() + value.len() + size_of::<Pair>();
            let full = self.buffer.used() + more > self.options.memory_bytes;
            if full && self.loaded.is_some() && !self.buffer.pairs.is_empty() {
                self.spill()?;
            }
            self.buffer.add(key, value, expires_at);
        }
        self.entries += 1;
        self.expiring |= expires_at != 0;
        Ok(())
    }

    /// Pairs so far; of keys that came more than once all.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Writes a sorted run of what is in memory.
    fn spill(&mut self) -> Result<()> {
        self.buffer.sort();
        if let Some(loaded) = &mut self.loaded {
            loaded.add_run(self.buffer.pairs())?;
        }
        self.buffer.clear();
        Ok(())
    }

    /// Commits what was added: all of it is visible when this returns, and as durable as was asked. What the
    /// keyspace had of the same keys is overwritten; other keys stay.
    ///
    /// It waits for transactions that hold locks in the keyspace, and flushes what others have written to it.
    ///
    /// # Errors
    /// [`Error::Stalled`] if others write to the keyspace, or hold locks there, all the time. Nothing was
    /// loaded then.
    pub fn finish(mut self) -> Result<BulkLoaded> {
        self.open.check_open()?;
        self.open.check_writable()?;
        if self.entries == 0 {
            return Ok(BulkLoaded { timestamp: None, entries: 0, files: 0, bytes: 0 });
        }
        let durability = self.options.durability.unwrap_or(self.open.default_durability());
        let Some(mut loaded) = self.loaded.take() else { return self.commit_in_memory(durability) };
        if loaded.has_runs() {
            self.loaded = Some(loaded);
            self.spill()?;
            let Some(again) = self.loaded.take() else { return Err(Error::Closed) };
            loaded = again;
            self.buffer = Buffer::default();
            self.entries = loaded.merge_runs()?;
        } else if !self.options.sorted {
            self.buffer.sort();
            for (key, value, expires_at) in self.buffer.pairs() {
                loaded.add(key, value, expires_at)?;
            }
            self.entries = self.buffer.pairs.len() as u64;
        }
        let (files, bytes) = loaded.end()?;
        let core = self.open.core();
        let lsn = loaded.commit(core, &self.space, self.expiring, durability)?;
        core.acknowledge(lsn, CommitInfo { timestamp: Some(lsn) }, durability)?;
        Ok(BulkLoaded { timestamp: Some(lsn), entries: self.entries, files, bytes })
    }

    /// Without files it is a commit like any other.
    fn commit_in_memory(mut self, durability: Durability) -> Result<BulkLoaded> {
        self.buffer.sort();
        let core: &Core = self.open.core();
        core.admit(self.buffer.used(), false)?;
        let mut prepared = self.space.active().prepare(self.buffer.pairs.len());
        for (key, value, expires_at) in self.buffer.pairs() {
            let write = Write::Put { value: Value::new(value), expires_at };
            add(&mut prepared, &self.space, key, write);
        }
        let entries = self.buffer.pairs.len() as u64;
        let writes = [SpaceWrites::new(Arc::clone(&self.space), prepared)];
        let request = Request::new(Isolation::Serializable, Lsn::ZERO, writes, Vec::new());
        let lsn = Queued::patient(Commit::new(request, durability, None, None), core).run(core)?;
        core.acknowledge(lsn, CommitInfo { timestamp: Some(lsn) }, durability)?;
        Ok(BulkLoaded { timestamp: Some(lsn), entries, files: 0, bytes: 0 })
    }
}

impl Keyspace {
    /// Loads many pairs at once, much faster than by puts: they are written to sorted files directly, and
    /// become visible together when the load is [finished](BulkLoad::finish).
    ///
    /// ```
    /// # fn main() -> isolith::Result<()> {
    /// # let db = isolith::Database::in_memory();
    /// use isolith::BulkLoadOptions;
    ///
    /// let words = db.keyspace("words")?;
    /// let mut load = words.bulk_load(BulkLoadOptions::default())?;
    /// for word in ["ant", "bee", "cat"] {
    ///     load.add(word, "1")?;
    /// }
    /// assert!(words.is_empty()?);
    /// load.finish()?;
    /// assert_eq!(words.len()?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn bulk_load(&self, options: BulkLoadOptions) -> Result<BulkLoad> {
        let (open, space) = (self.open(), self.space());
        open.check_open()?;
        open.check_writable()?;
        if space.is_dropped() {
            return Err(self.dropped());
        }
        Ok(BulkLoad::new(open, space, options))
    }
}

#[cfg(test)]
mod tests;
