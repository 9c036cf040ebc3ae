//! **isolith**: a concurrent embedded storage engine with MVCC: an ordered, durable, transactional
//! key-value store that many threads read and write at once.
//!
//! ```
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("data");
//! use isolith::Database;
//!
//! let db = Database::open(path)?;
//! let accounts = db.keyspace("accounts")?;
//! accounts.put("alice", "100")?;
//!
//! db.transact(|tx| {
//!     let balance = tx.get(&accounts, "alice")?.unwrap_or_default();
//!     tx.put(&accounts, "bob", &balance)?;
//!     tx.delete(&accounts, "alice")
//! })?;
//! assert_eq!(accounts.get("bob")?.as_deref(), Some(&b"100"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is promised
//!
//! - **An acknowledged commit survives** what its [`Durability`] says, and is there whole or not at
//!   all, across every keyspace that it touched. What survives a crash is a prefix of the commit
//!   order.
//! - **Each transaction chooses its [`Isolation`] and its [`Concurrency`]**; different ones run beside
//!   each other, and each gets what its level promises. [`Isolation::Serializable`] is strict: the
//!   serial order is the commit order and agrees with real time.
//! - **Who only reads a snapshot never waits and is never aborted**: a [`Snapshot`], a read-only
//!   transaction, the reads of a [`Keyspace`]. An optimistic transaction waits for nobody while it
//!   reads.
//! - **Damage is told, never passed on**: see [`OpenError::Corrupt`].
//! - **After a failed write or sync of the log** the database stops accepting writes and says so
//!   ([`Error::ReadOnly`]); reads go on.
//!
//! # Where to begin
//!
//! [`Database`] opens and closes; [`Keyspace`] has operations that commit by themselves;
//! [`Transaction`] groups them; [`TransactionOptions`] chooses what protects it, and how; [`merge`]
//! has changes that conflict with nobody; [`Snapshot`] reads a moment in time; [`Error::retry`] says
//! what to do about an error. What close, drop, fork and a panic do stands at [`Database`].

#![forbid(unsafe_code)]

mod database;
mod keyspace;
pub mod merge;
mod options;
mod transaction;

mod acknowledge;
mod admission;
mod catalog;
mod commit;
mod core;
mod files;
mod many;
mod pending;
mod scan;
mod snapshot;
mod timers;

mod background;
mod backup;
mod bulk;
mod changes;
mod history;
mod record;
mod recovery;

mod error;
mod stats;

mod salvage;
mod verify;

pub mod steps;

pub use backup::{BackupError, Checkpoint, CheckpointOptions, RestoreOptions, backup, restore};
pub use bulk::{BulkLoad, BulkLoadOptions, BulkLoaded};
pub use catalog::KeyspaceOptions;
pub use changes::{Change, ChangedKeyspace, Changes, Commit};
pub use database::Database;
pub use error::{ConflictOn, Error, LockHolder, OpenError, Result, Retry, StallReason};
pub use keyspace::{Entry, KeyRange, Keyspace};
pub use merge::{MergeError, MergeOperator};
pub use options::{
    Builder, CommitMode, KEY_BYTES_MAX, NEVER, PutOptions, TransactionOptions, VALUE_BYTES_MAX,
};
pub use pending::{CommitInfo, Pending};
pub use salvage::{LostPiece, SalvageProgress, SalvageReport, SalvagedKeyspace, salvage};
pub use scan::{Pair, Range};
pub use snapshot::Snapshot;
pub use stats::{FileStats, KeyspaceStats, OldestSnapshot, Stats};
pub use transaction::{Attempt, CommitSteps, Observed, RangeLock, Transaction};
pub use verify::{Damage, Verify, VerifyProgress, VerifyReport, verify};

/// Bugs on purpose, in a build that tests the tests.
#[doc(hidden)]
pub use isolith_wal::planted;

pub use isolith_index::Slice;
pub use isolith_index::sstable::{Compression, PrefixExtractor};
pub use isolith_txn::{
    Age, BlockedBy, Concurrency, ConflictKind, DeadlockPolicy, Interval, Isolation, KeyBound,
    LockMode, LockStats, Reader, Savepoint, Step, UnknownWord, Victim,
};
pub use isolith_wal::{
    BackendChoice, Clock, Durability, IoBackend, LogStats, Lsn, Lsn as Timestamp, ManualClock,
    ParseLsnError as ParseTimestampError, ReplayReport, SystemClock, TornTail,
};

/// The storage seam: other places for the files than a directory.
pub mod storage {
    pub use isolith_wal::storage::*;
}

/// What may cross threads, and that nothing borrows.
const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}
    const fn sent<T: Send + 'static>() {}
    shared::<Database>();
    shared::<Keyspace>();
    shared::<Snapshot>();
    shared::<Pending>();
    shared::<Error>();
    shared::<OpenError>();
    shared::<Slice>();
    shared::<Builder>();
    sent::<Transaction>();
    sent::<CommitSteps>();
    sent::<Range<Snapshot>>();
};
