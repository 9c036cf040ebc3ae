//! What a database can tell of itself.

use isolith_txn::{LockStats, Reader};
use isolith_wal::{LogStats, Lsn};

/// A database's counters and gauges, read without stopping anybody: each is exact by itself, all
/// together are not of one instant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Commits decided since the database was opened.
    pub commits: u64,
    /// Commits refused: conflicts, dropped keyspaces.
    pub refusals: u64,
    /// Requests sent back: to validate again because their evidence had left the ring, or to lock
    /// what they write because somebody else's lock stood in the way.
    pub sent_back: u64,
    /// Bytes of keys, versions and index, and of what open files hold in memory.
    pub memory_bytes: usize,
    /// Bytes of the reads and writes of open transactions, those of less than 64 KiB left out.
    pub transaction_bytes: usize,
    /// Bytes that may be used before writes stall.
    pub memory_bytes_max: usize,
    /// Live snapshots, those of running transactions included, expired ones not.
    pub snapshots: usize,
    /// The live snapshot that reads at the oldest timestamp, and what it holds back.
    pub oldest_snapshot: Option<OldestSnapshot>,
    /// Snapshots and transactions that were refused their history because they were older than
    /// [`Builder::snapshot_age_max`](crate::Builder::snapshot_age_max).
    pub snapshots_expired: u64,
    /// Every timestamp from here to the last acknowledged commit can be read by
    /// [`Database::snapshot_at`](crate::Database::snapshot_at); `None` without
    /// [`Builder::retention`](crate::Builder::retention).
    pub retention_floor: Option<Lsn>,
    /// How long ago the floor was the last acknowledged commit, in milliseconds: the part of the past
    /// that can be read is at least as long.
    pub retention_reach_ms: Option<u64>,
    /// Versions that are not the newest of their key, as the last complete sweep left them: once a
    /// round of 20 ms it looks at some thousand keys of each keyspace.
    pub history_versions: usize,
    /// The memory that these take, in bytes. Part of `memory_bytes`.
    pub history_bytes: usize,
    /// Locks held and waited for, and what was done about deadlocks.
    pub locks: LockStats,
    /// Keys (by bucket) that are hot: [`Concurrency::Auto`](crate::Concurrency::Auto) locks them.
    pub hot_keys: usize,
    /// Conflicts and lock waits that warmed keys so far.
    pub fights: u64,
    /// Transactions of [`Concurrency::Auto`](crate::Concurrency::Auto) that locked everything after
    /// several aborts.
    pub escalations: u64,
    /// Transactions that had to wait before their first lock, because more fought for locks than there
    /// are cores.
    pub admission_waits: u64,
    /// The last commit that is visible.
    pub visible: Lsn,
    /// The last commit that is on stable storage.
    pub durable: Lsn,
    /// Versions removed because nobody could see them any more, in bytes.
    pub pruned_bytes: u64,
    /// Values removed because they had expired.
    pub expired: u64,
    /// The log's own; `None` in memory.
    pub log: Option<LogStats>,
    /// Of the sorted files; `None` in memory.
    pub files: Option<FileStats>,
}

/// What is in files, and what was done about it since the database was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStats {
    /// Live sorted files.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Live value files, where large values are.
    pub value_files: usize,
    /// Bytes of them.
    pub value_bytes: u64,
    /// Bytes of the values there that sorted files refer to. The others are garbage, until their value file is
    /// emptied.
    pub value_bytes_live: u64,
    /// Bytes of the values that the files of each level refer to, all keyspaces together.
    pub value_levels: Vec<u64>,
    /// Files of each level, and their bytes, all keyspaces together.
    pub levels: Vec<(usize, u64)>,
    /// Memtables that are frozen and not yet in files.
    pub frozen: usize,
    /// Memtables written to files.
    pub flushes: u64,
    /// Bytes that this wrote, value files included.
    pub flushed_bytes: u64,
    /// Compactions, those that only moved a file to another level included.
    pub compactions: u64,
    /// Parts that they fell into, each compacted by itself: see
    /// [`Builder::background_threads`](crate::Builder::background_threads).
    pub compaction_parts: u64,
    /// Bytes of files that were compacted.
    pub compacted_bytes_in: u64,
    /// Bytes of the files that they became, new value files included.
    pub compacted_bytes_out: u64,
    /// What may be written to files in a second:
    /// [`Builder::background_bytes_per_second`](crate::Builder::background_bytes_per_second).
    pub background_bytes_per_second: Option<u64>,
    /// Times that a compaction waited for that.
    pub background_waits: u64,
    /// How long they waited, in milliseconds by the database's clock.
    pub background_waited_ms: u64,
    /// Bytes of values that were moved from one value file to another, to be rid of garbage.
    pub moved_bytes: u64,
    /// Times that a writer waited for a flush or a compaction.
    pub stalls: u64,
    /// Bytes of memory that the cache of decompressed blocks holds, beside [`Stats::memory_bytes`].
    pub cache_bytes: u64,
    /// The last commit that needs no log any more.
    pub log_floor: Lsn,
    /// Why the last attempt to write files failed; `None` if it did not. It is tried again.
    pub failure: Option<String>,
}

impl FileStats {
    /// Bytes written to files for each byte that was flushed.
    pub fn write_amplification(&self) -> f64 {
        let written = (self.flushed_bytes + self.compacted_bytes_out) as f64;
        written / self.flushed_bytes.max(1) as f64
    }
}

impl FileStats {
    /// How many times the space is taken that would do, about: bytes of all files, value files included, for
    /// each byte of the lowest level in use and of the values that it refers to. `None` without files.
    pub fn space_amplification(&self) -> Option<f64> {
        let lowest = self.levels.iter().rposition(|(_, bytes)| *bytes > 0)?;
        let values = self.value_levels.get(lowest).copied().unwrap_or(0);
        let (_, bytes) = *self.levels.get(lowest)?;
        Some((self.bytes + self.value_bytes) as f64 / (bytes + values) as f64)
    }
}

/// What a keyspace holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceStats {
    /// Its name.
    pub name: String,
    /// Its live files.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// The value files that they refer to.
    pub value_files: usize,
    /// Bytes of them, garbage included.
    pub value_bytes: u64,
    /// Versions in them, those that nobody needs any more included.
    pub versions: u64,
    /// Bytes that its memtables hold.
    pub memory_bytes: usize,
}

/// The snapshot that holds back the most history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OldestSnapshot {
    /// The timestamp that it reads at.
    pub timestamp: Lsn,
    /// Whether it is a snapshot (an iterator of autocommit reads holds one, too) or a transaction.
    pub reader: Reader,
    /// Milliseconds since it was taken, or since the transaction last moved to a later timestamp. To
    /// within the length of an upkeep's round, 20 ms; without upkeep it stands still.
    pub age_ms: u64,
    /// Commits acknowledged since: nothing older than its timestamp is kept but what it reads.
    pub commits_behind: u64,
    /// Bytes of versions that the last complete sweep left for this timestamp alone: neither another
    /// snapshot nor the retention window asks for them. `None` before a sweep has met it.
    pub bytes_held: Option<usize>,
}
