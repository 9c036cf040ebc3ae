//! What a database can tell of itself.

use isolith_txn::LockStats;
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
    /// Bytes of keys, versions and index.
    pub memory_bytes: usize,
    /// Bytes that may be used before writes stall.
    pub memory_bytes_max: usize,
    /// Live snapshots, those of running transactions included.
    pub snapshots: usize,
    /// The oldest timestamp that a live snapshot reads at.
    pub oldest_snapshot: Option<Lsn>,
    /// Locks held and waited for, and what was done about deadlocks.
    pub locks: LockStats,
    /// Keys (by bucket) that are hot: [`Concurrency::Auto`](crate::Concurrency::Auto) locks them.
    pub hot_keys: usize,
    /// Conflicts and lock waits that warmed keys so far.
    pub fights: u64,
    /// Transactions of [`Concurrency::Auto`](crate::Concurrency::Auto) that locked everything after
    /// several aborts.
    pub escalations: u64,
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
