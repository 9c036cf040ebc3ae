//! Every error that a user can meet, and what to do about it.
//!
//! [`OpenError`] is what opening a database can come to; [`Error`] is everything after that.
//! [`Error::retry`] says whether trying again can help.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use isolith_index::sstable::FileError;
use isolith_index::{MergeError, ReadError, Slice};
use isolith_txn::{Age, ConflictKind, Interval, LockMode};
use isolith_wal::Lsn;

use crate::catalog::KeyspaceOptions;
use crate::files::told;

/// The result of an operation on a database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a failed operation came to.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another transaction changed what this one depends on. Nothing was changed.
    Conflict {
        /// The keyspace.
        keyspace: String,
        /// What the dependency was.
        what: ConflictOn,
        /// The commit that broke it, where it is known.
        other: Option<Lsn>,
        /// Whether transactions have been fighting for the key: with locks the next try would wait
        /// instead of failing.
        hot: bool,
    },
    /// An older transaction took this one's locks (wound-wait). Nothing was changed.
    Wounded {
        /// The older transaction.
        by: Age,
    },
    /// This transaction was chosen to break a deadlock. Nothing was changed.
    Deadlock {
        /// The cycle in the wait-for graph: each lock is one that the transaction of the next entry
        /// waits for, and the last one's waits for the first.
        cycle: Vec<LockHolder>,
    },
    /// A lock was not to be had, and the deadlock policy says not to wait for it (no-wait; wait-die,
    /// if an older transaction holds it).
    LockRefused {
        /// The locks that stood in the way.
        holders: Vec<LockHolder>,
    },
    /// A lock was not to be had in time. The transaction may go on without it.
    LockTimeout {
        /// The locks that stood in the way.
        holders: Vec<LockHolder>,
    },
    /// A key of a sorted bulk load is not above the one before. The pair was left out.
    OutOfOrder {
        /// The key.
        key: Slice,
        /// The one before.
        after: Slice,
    },
    /// The log does not go back to where a feed of changes is to begin.
    HistoryGone {
        /// It has what was committed after this.
        begins: Lsn,
    },
    /// The transaction has lasted longer than it may. Nothing was changed.
    TransactionTimeout,
    /// The operation would have to wait: only ever seen by the body of
    /// [`Transaction::step`](crate::Transaction::step), which has to return it.
    WouldWait,
    /// Writes do not go on at the moment. Nothing was changed.
    Stalled {
        /// What they wait for.
        reason: StallReason,
    },
    /// The log failed after the transaction was decided: it may or may not survive a restart.
    /// Never retried by isolith.
    CommitUnknown {
        /// The timestamp that it was decided at.
        at: Lsn,
    },
    /// The database accepts no more writes until it is reopened; reads go on.
    ReadOnly {
        /// Why.
        cause: String,
    },
    /// A file is damaged. What does not need it can still be read, and written.
    Corrupt {
        /// The file, below the database's directory.
        file: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// Files could not be written. Nothing was lost: what was to be in them is in the log, or in other files.
    Files {
        /// What the system said.
        cause: String,
    },
    /// A file could not be read.
    Unreadable {
        /// The file, below the database's directory.
        file: String,
        /// What the system said.
        cause: String,
    },
    /// The transaction was begun read-only.
    ReadOnlyTransaction,
    /// The transaction holds more than it may.
    TransactionTooLarge {
        /// Bytes that it holds.
        bytes: usize,
        /// Bytes that it may hold.
        bytes_max: usize,
    },
    /// A key is longer than [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX).
    KeyTooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A value is longer than [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
    ValueTooLarge {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A keyspace's name is empty or longer than 255 bytes.
    InvalidKeyspaceName,
    /// Options of a keyspace are out of bounds, or contradict each other.
    InvalidKeyspaceOptions {
        /// What is wrong with them.
        what: String,
    },
    /// The keyspace is there already, with other options:
    /// [`Keyspace::set_options`](crate::Keyspace::set_options) changes them.
    KeyspaceOptionsDiffer {
        /// Its name.
        keyspace: String,
        /// The options that it has.
        options: Box<KeyspaceOptions>,
    },
    /// This build leaves out what is asked for, or what a file needs: isolith is to be built with a feature.
    NeedsFeature {
        /// What needs it.
        what: String,
        /// The feature.
        feature: &'static str,
    },
    /// The keyspace was dropped.
    KeyspaceDropped {
        /// Its name.
        keyspace: String,
    },
    /// The keyspace belongs to another database.
    ForeignKeyspace {
        /// Its name.
        keyspace: String,
    },
    /// The savepoint is not a live one of this transaction.
    UnknownSavepoint,
    /// Four million snapshots are live at once.
    TooManySnapshots,
    /// The history that was to be read is gone, or may be: the snapshot or transaction is older than
    /// [`Builder::snapshot_age_max`](crate::Builder::snapshot_age_max), or the timestamp is below what
    /// [`Builder::retention`](crate::Builder::retention) keeps. Take a new one.
    SnapshotTooOld {
        /// The oldest timestamp from which on every one can be read. Below it those of live snapshots
        /// can.
        oldest: Lsn,
    },
    /// The timestamp is beyond the last acknowledged commit.
    TimestampAhead {
        /// The timestamp.
        timestamp: Lsn,
        /// The last acknowledged commit.
        acknowledged: Lsn,
    },
    /// An operator refuses an operand, or cannot merge into the value that a key has. Reads of the
    /// key fail until it is put or deleted.
    Merge {
        /// The keyspace.
        keyspace: String,
        /// The key.
        key: Slice,
        /// The operator's name.
        operator: String,
        /// What it said.
        why: MergeError,
    },
    /// No operator of this name is registered.
    UnknownOperator {
        /// The name.
        name: String,
    },
    /// The database was closed.
    Closed,
    /// This process was forked from the one that opened the database; only that one may use it.
    Forked,
    /// The user's own error, given to [`Transaction::abort`](crate::Transaction::abort).
    Aborted(Box<dyn StdError + Send + Sync>),
    /// The database could not be opened.
    Open(OpenError),
}

/// A lock that stood in somebody's way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// Whose it is.
    pub age: Age,
    /// Its mode.
    pub mode: LockMode,
    /// The keyspace.
    pub keyspace: String,
    /// The key or range of keys.
    pub what: Interval,
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { age, mode, keyspace, what } = self;
        write!(f, "{mode} lock of transaction {age} on {what} in '{keyspace}'")
    }
}

/// Writes a list of locks, or that it is empty.
fn show_locks(f: &mut fmt::Formatter<'_>, locks: &[LockHolder]) -> fmt::Result {
    if locks.is_empty() {
        return write!(f, "a lock that is gone by now");
    }
    for (place, lock) in locks.iter().enumerate() {
        if place > 0 {
            write!(f, ", ")?;
        }
        write!(f, "{lock}")?;
    }
    Ok(())
}

/// What a conflict was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConflictOn {
    /// A key that was read has changed since.
    Read(Slice),
    /// An interval that was examined has changed since.
    Range(Interval),
    /// A key to be written was written by another first (first committer wins).
    Write(Slice),
    /// A range to be deleted was written to by another first.
    WriteRange,
}

impl ConflictOn {
    /// The kind of dependency.
    pub fn kind(&self) -> ConflictKind {
        match self {
            ConflictOn::Read(_) => ConflictKind::Read,
            ConflictOn::Range(_) => ConflictKind::Range,
            ConflictOn::Write(_) => ConflictKind::Write,
            ConflictOn::WriteRange => ConflictKind::WriteRange,
        }
    }
}

/// What stalled writes wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StallReason {
    /// The memory budget is used up. Deletes are still admitted, from a reserve.
    Memory {
        /// Bytes held.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// The disk has no room for the next log segment; it is tried again as time goes by.
    LogSpace {
        /// What the disk said.
        cause: String,
    },
    /// The log's queue is full: the disk does not keep up.
    LogQueue,
    /// Memory is full of what is yet to be written to files.
    Flush {
        /// Bytes held.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
        /// What the disk said, if the last attempt to write them failed.
        cause: Option<String>,
    },
    /// The reads and writes of open transactions take the share of memory that they may.
    Transactions {
        /// Bytes that they would hold.
        bytes: usize,
        /// Bytes allowed.
        bytes_max: usize,
    },
    /// Files are flushed faster than they are compacted.
    Compaction {
        /// Files that wait, in the keyspace that has the most.
        files: usize,
    },
    /// A bulk load waits for a moment in which nobody writes to the keyspace or holds locks in it.
    Writers,
}

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// It cannot: the request, or the database, has to change first.
    Never,
    /// Run the whole transaction again, with the [age](crate::Transaction::age) of this one.
    Now,
    /// Run it again with [`Concurrency::Locking`](crate::Concurrency::Locking): what it needs is
    /// fought for, and it would only fail again.
    WithLocks,
    /// Run it again after a while.
    After(Duration),
}

impl Error {
    /// What to do about this error.
    pub fn retry(&self) -> Retry {
        match self {
            Error::Conflict { hot: true, .. } => Retry::WithLocks,
            Error::Conflict { .. }
            | Error::Wounded { .. }
            | Error::Deadlock { .. }
            | Error::LockRefused { .. } => Retry::Now,
            Error::LockTimeout { .. } | Error::TransactionTimeout => {
                Retry::After(Duration::from_millis(10))
            }
            Error::Stalled { .. } => Retry::After(Duration::from_millis(100)),
            _ => Retry::Never,
        }
    }

    /// The user's own error, if this is one of type `E`.
    pub fn aborted<E: StdError + 'static>(&self) -> Option<&E> {
        match self {
            Error::Aborted(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Wounded { by } => write!(
                f,
                "an older transaction ({by}) needed a lock of this one, which is rolled back; run it again"
            ),
            Error::Deadlock { cycle } => {
                write!(f, "chosen to break a deadlock: ")?;
                show_locks(f, cycle)?;
                write!(f, "; run the transaction again")
            }
            Error::LockRefused { holders } => {
                write!(f, "refused to wait for ")?;
                show_locks(f, holders)?;
                write!(f, "; run the transaction again")
            }
            Error::LockTimeout { holders } => {
                write!(f, "waited too long for ")?;
                show_locks(f, holders)
            }
            Error::TransactionTimeout => {
                write!(f, "the transaction has lasted longer than it may, and is rolled back")
            }
            Error::HistoryGone { begins } => write!(
                f,
                "the log does not go back so far: it has what was committed after {begins}"
            ),
            Error::OutOfOrder { key, after } => write!(
                f,
                "key '{}' comes after '{}': a sorted bulk load takes each key once, in ascending order",
                key.escape_ascii(),
                after.escape_ascii()
            ),
            Error::WouldWait => write!(f, "the operation would have to wait"),
            Error::Conflict { keyspace, what, other, .. } => {
                let show = |key: &Slice| key.escape_ascii().to_string();
                match what {
                    ConflictOn::Read(key) => {
                        write!(
                            f,
                            "key '{}' in '{keyspace}', read by this transaction, was changed by another",
                            show(key)
                        )?;
                    }
                    ConflictOn::Range(interval) => {
                        write!(
                            f,
                            "the range {interval} in '{keyspace}', examined by this transaction, was changed by another"
                        )?;
                    }
                    ConflictOn::Write(key) => {
                        write!(
                            f,
                            "key '{}' in '{keyspace}' was written by another transaction first",
                            show(key)
                        )?;
                    }
                    ConflictOn::WriteRange => {
                        write!(
                            f,
                            "a range to be deleted in '{keyspace}' was written to by another transaction first"
                        )?;
                    }
                }
                if let Some(other) = other {
                    write!(f, " (at {other})")?;
                }
                write!(f, "; run the transaction again")
            }
            Error::Stalled { reason } => write!(f, "writes are stalled: {reason}; try again later"),
            Error::CommitUnknown { at } => write!(
                f,
                "the log failed after the transaction was decided at {at}: reopen the database to learn whether it survived"
            ),
            Error::ReadOnly { cause } => {
                write!(f, "the database accepts no writes until it is reopened: {cause}")
            }
            Error::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at byte {offset}: {what}")
            }
            Error::Files { cause } => write!(f, "files could not be written: {cause}"),
            Error::Unreadable { file, cause } => write!(f, "{file} cannot be read: {cause}"),
            Error::ReadOnlyTransaction => write!(f, "the transaction was begun read-only"),
            Error::TransactionTooLarge { bytes, bytes_max } => write!(
                f,
                "the transaction holds {bytes} bytes of the {bytes_max} allowed: split it into smaller ones"
            ),
            Error::KeyTooLarge { bytes } => {
                write!(f, "a key of {bytes} bytes; at most {} are allowed", crate::KEY_BYTES_MAX)
            }
            Error::ValueTooLarge { bytes } => {
                write!(
                    f,
                    "a value of {bytes} bytes; at most {} are allowed",
                    crate::VALUE_BYTES_MAX
                )
            }
            Error::InvalidKeyspaceName => {
                write!(f, "a keyspace's name has 1 to 255 bytes")
            }
            Error::InvalidKeyspaceOptions { what } => write!(f, "a keyspace's options: {what}"),
            Error::KeyspaceOptionsDiffer { keyspace, .. } => {
                write!(f, "keyspace '{keyspace}' is there already, with other options")
            }
            Error::NeedsFeature { what, feature } => write!(
                f,
                "{what} needs the feature `{feature}`, which this build of isolith leaves out"
            ),
            Error::KeyspaceDropped { keyspace } => write!(f, "keyspace '{keyspace}' was dropped"),
            Error::ForeignKeyspace { keyspace } => {
                write!(f, "keyspace '{keyspace}' belongs to another database")
            }
            Error::UnknownSavepoint => {
                write!(f, "the savepoint is not a live one of this transaction")
            }
            Error::TooManySnapshots => write!(f, "too many snapshots are open at once"),
            Error::SnapshotTooOld { oldest } => write!(
                f,
                "the snapshot is too old: its history is no longer kept; the oldest timestamp that can be read is {oldest}"
            ),
            Error::TimestampAhead { timestamp, acknowledged } => write!(
                f,
                "timestamp {timestamp} cannot be read yet: the last acknowledged commit is {acknowledged}"
            ),
            Error::Merge { keyspace, key, operator, why } => {
                let key = key.escape_ascii();
                write!(f, "'{operator}' does not merge into key '{key}' in '{keyspace}': {why}")
            }
            Error::UnknownOperator { name } => {
                write!(
                    f,
                    "the merge operator '{name}' is not registered: open the database with it"
                )
            }
            Error::Closed => write!(f, "the database is closed"),
            Error::Forked => {
                write!(
                    f,
                    "this process was forked from the one that opened the database; open it anew"
                )
            }
            Error::Aborted(error) => write!(f, "{error}"),
            Error::Open(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Aborted(error) => Some(&**error),
            Error::Merge { why, .. } => Some(why),
            Error::Open(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ReadError> for Error {
    fn from(ReadError { file, error }: ReadError) -> Self {
        let (file, error) = told(file, error);
        match error {
            FileError::Damaged { offset, what } => {
                Error::Corrupt { file, offset, what: what.into() }
            }
            FileError::NeedsFeature { feature, .. } => Error::NeedsFeature { what: file, feature },
            other => Error::Unreadable { file, cause: other.to_string() },
        }
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Self {
        Error::Open(error)
    }
}

impl fmt::Display for StallReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StallReason::Memory { bytes, bytes_max } => {
                write!(f, "{bytes} of {bytes_max} bytes of memory are used")
            }
            StallReason::LogSpace { cause } => {
                write!(f, "no room for the next log segment ({cause})")
            }
            StallReason::LogQueue => write!(f, "the log's queue is full"),
            StallReason::Flush { bytes, bytes_max, cause } => {
                write!(f, "{bytes} of {bytes_max} bytes of memory wait to be written to files")?;
                match cause {
                    Some(cause) => write!(f, ", which failed ({cause}); it is tried again"),
                    None => Ok(()),
                }
            }
            StallReason::Transactions { bytes, bytes_max } => {
                write!(f, "open transactions hold {bytes} bytes, and {bytes_max} are allowed")
            }
            StallReason::Writers => {
                write!(f, "others write to the keyspace, or hold locks in it, all the time")
            }
            StallReason::Compaction { files } => {
                write!(f, "{files} flushed files wait for compaction")
            }
        }
    }
}

/// Why a database could not be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process, or another handle of this one, has it open.
    Locked {
        /// The lock file.
        path: String,
    },
    /// The directory holds files that are not isolith's.
    NotADatabase {
        /// The file or directory in question.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The directory holds a copy of a database that was not finished: a checkpoint, backup or restore was
    /// cut short.
    Partial {
        /// The directory.
        path: String,
    },
    /// A newer isolith wrote it.
    FormatTooNew {
        /// The file.
        path: String,
        /// Its format number.
        found: u32,
        /// The newest format number that this isolith reads.
        supported: u32,
    },
    /// A file is damaged: more than a crash can explain.
    Corrupt {
        /// The file.
        file: String,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A merge operator is registered under a name that it cannot have.
    InvalidOperator {
        /// The name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A keyspace's merges are by an operator that is not registered
    /// ([`KeyspaceOptions::merge_operator`](crate::KeyspaceOptions::merge_operator)).
    UnknownOperator {
        /// The keyspace.
        keyspace: String,
        /// The operator's name.
        name: String,
    },
    /// This build leaves out what a keyspace or a file needs: isolith is to be built with a feature.
    NeedsFeature {
        /// What needs it.
        what: String,
        /// The feature.
        feature: &'static str,
    },
    /// The operating system refused.
    Io {
        /// What was attempted.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Locked { path } => {
                write!(f, "the database is in use: another process holds {path}")
            }
            OpenError::NotADatabase { path, what } => {
                write!(f, "{path} is not an isolith database: {what}")
            }
            OpenError::Partial { path } => write!(
                f,
                "{path} holds a copy of a database that was not finished: remove it, and make it again"
            ),
            OpenError::FormatTooNew { path, found, supported } => write!(
                f,
                "{path} has format {found}, written by a newer isolith; this one reads up to {supported}"
            ),
            OpenError::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at byte {offset}: {what}")
            }
            OpenError::InvalidOperator { name, what } => {
                write!(f, "the merge operator '{name}': {what}")
            }
            OpenError::UnknownOperator { keyspace, name } => write!(
                f,
                "keyspace '{keyspace}' merges by '{name}', which is not registered: open the database with it"
            ),
            OpenError::NeedsFeature { what, feature } => write!(
                f,
                "{what} needs the feature `{feature}`, which this build of isolith leaves out"
            ),
            OpenError::Io { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl StdError for OpenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            OpenError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
