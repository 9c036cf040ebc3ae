//! What a database can tell of itself.

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
    /// Requests sent back to validate again because their evidence had left the ring.
    pub sent_back: u64,
    /// Bytes of keys, versions and index.
    pub memory_bytes: usize,
    /// Bytes that may be used before writes stall.
    pub memory_bytes_max: usize,
    /// Live snapshots, those of running transactions included.
    pub snapshots: usize,
    /// The oldest timestamp that a live snapshot reads at.
    pub oldest_snapshot: Option<Lsn>,
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
}
