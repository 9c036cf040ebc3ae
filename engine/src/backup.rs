//! Copies of a database: a checkpoint of one that is in use, a backup of one that is closed, and what becomes
//! of either when it is restored.
//!
//! A copy is a database of its own: sorted files, under another name where the file system allows, since they
//! never change; the part of the log that they do not have, written anew with its LSNs; a manifest. It has the
//! commits up to one timestamp, all of them and no others, and opens as any database does.
//!
//! 1. What is in files when the copy begins is pinned, with the log from there on: nothing of it is removed
//!    meanwhile. The timestamp is chosen after that, so that no file has anything later.
//! 2. `PARTIAL` is durable in the target before anything else is there, and goes when all else is durable. A
//!    directory that has it is not opened. So after a crash a copy is whole, or refused, or not there.
//! 3. Nothing is written in the source.
//! 4. The copy has its source's identity: the checksums of its files and of its log cover it, and a file
//!    under two names cannot have two. It begins a recovery epoch of its own when it is first opened, so that
//!    it gives out no timestamp that the source gives out before its own next recovery.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use isolith_wal::storage::syscall::SyscallStorage;
use isolith_wal::{Lsn, Storage};

use crate::database::Database;
use crate::error::{Error, OpenError};

mod copying;
mod offline;
mod online;

pub use offline::{RestoreOptions, backup, restore};

/// How a copy is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointOptions {
    /// Copy the sorted files, rather than give them a second name where source and target lie in one file
    /// system. A second name costs neither time nor space, and damage to the one is damage to the other.
    /// Default: false.
    pub copy_files: bool,
}

/// A copy that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// It has the commits up to this one.
    pub timestamp: Lsn,
    /// The earliest timestamp that it can be restored to: its sorted files have commits up to there, or a
    /// keyspace was dropped whose files are gone.
    pub restorable_from: Lsn,
    /// The log in it has the commits after this one.
    pub log_begins: Lsn,
    /// Sorted files in it.
    pub files: u64,
    /// Of their bytes, those that were linked: they take no space of their own as long as the source has them.
    pub linked_bytes: u64,
    /// Of their bytes, those that were copied.
    pub copied_bytes: u64,
    /// Bytes of its log.
    pub log_bytes: u64,
}

/// Why a copy was not made. What was begun of it is removed; where that fails too it stays behind, marked as
/// unfinished. The source is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum BackupError {
    /// The target is there and has something in it.
    TargetNotEmpty {
        /// The target.
        path: String,
    },
    /// The target is the source's directory, or lies in it.
    TargetWithinSource {
        /// The target.
        path: String,
    },
    /// There is nothing on disk to be copied: the database lives in memory, or was opened for reading only
    /// ([`backup()`] copies such a one).
    NotOnDisk,
    /// The timestamp to restore to is not among those that can be reached.
    OutOfReach {
        /// The timestamp.
        to: Lsn,
        /// The earliest that can be reached with what was given.
        from: Lsn,
        /// The latest.
        until: Lsn,
    },
    /// A log that was to go on from a backup begins too late: commits between them are missing.
    LogGap {
        /// The database whose log it is.
        path: String,
        /// It has the commits after this one.
        begins: Lsn,
        /// The backup, and the logs before this one, end here.
        needed: Lsn,
    },
    /// A log that was to go on from a backup is of a database that has gone another way since.
    OtherHistory {
        /// The database whose log it is.
        path: String,
        /// A commit that the two have not in common.
        at: Lsn,
    },
    /// The source, or a log, cannot be read.
    Source(OpenError),
    /// The database that is to be copied refuses.
    Database(Error),
    /// The copy would not open: a bulk load that the log tells of brought files that are gone.
    Incomplete(OpenError),
    /// A call to the system failed.
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackupError::TargetNotEmpty { path } => {
                write!(
                    f,
                    "{path} is not empty: a copy goes to a directory that is empty or not there"
                )
            }
            BackupError::TargetWithinSource { path } => {
                write!(f, "{path} lies in the directory that is to be copied")
            }
            BackupError::NotOnDisk => {
                write!(f, "the database lives in memory, or was opened for reading only")
            }
            BackupError::OutOfReach { to, from, until } => write!(
                f,
                "timestamp {to} cannot be restored from what was given: it reaches from {from} to {until}"
            ),
            BackupError::LogGap { path, begins, needed } => write!(
                f,
                "the log in {path} begins after {begins}, and what comes before it ends with {needed}: the commits between them are missing"
            ),
            BackupError::OtherHistory { path, at } => write!(
                f,
                "the log in {path} is of a database that has gone another way: commit {at} is not the same there"
            ),
            BackupError::Source(error) => write!(f, "{error}"),
            BackupError::Database(error) => write!(f, "{error}"),
            BackupError::Incomplete(error) => write!(f, "the copy would not open: {error}"),
            BackupError::Io { what, source } => write!(f, "{what}: {source}"),
        }
    }
}

impl std::error::Error for BackupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BackupError::Source(error) | BackupError::Incomplete(error) => Some(error),
            BackupError::Database(error) => Some(error),
            BackupError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Error> for BackupError {
    fn from(error: Error) -> Self {
        BackupError::Database(error)
    }
}

impl From<OpenError> for BackupError {
    fn from(error: OpenError) -> Self {
        BackupError::Source(error)
    }
}

impl Database {
    /// Makes a copy of the database in another directory, which must be empty or not there, while others read
    /// and write: with every commit up to one timestamp, and none after it. Everything that was acknowledged
    /// before the call is in it, and durable there when this returns.
    ///
    /// Sorted files are linked where the file system allows it, else copied; of the log what they do not have
    /// is written anew, and what [`Builder::log_retained`](crate::Builder::log_retained) keeps. The copy opens
    /// as any database, also for writing. It has the [identity](crate::restore) of this one.
    ///
    /// # Errors
    /// [`BackupError`]; the database itself is not touched by it.
    pub fn checkpoint(&self, path: impl AsRef<Path>) -> Result<Checkpoint, BackupError> {
        self.checkpoint_with(path, CheckpointOptions::default())
    }

    /// [`Database::checkpoint`] with options.
    pub fn checkpoint_with(
        &self,
        path: impl AsRef<Path>,
        options: CheckpointOptions,
    ) -> Result<Checkpoint, BackupError> {
        let path = path.as_ref();
        let open = self.handle();
        open.check_open()?;
        let files = open.files().ok_or(BackupError::NotOnDisk)?;
        let target = target(path, &[&**files.storage()])?;
        self.checkpoint_to(target, options)
    }

    /// [`Database::checkpoint`] into a storage of one's own.
    pub fn checkpoint_to(
        &self,
        target: Arc<dyn Storage>,
        options: CheckpointOptions,
    ) -> Result<Checkpoint, BackupError> {
        self.handle().check_open()?;
        online::checkpoint(self.core(), &target, options)
    }
}

/// Opens the directory that a copy is to go to, and makes it if need be.
fn target(path: &Path, sources: &[&dyn Storage]) -> Result<Arc<dyn Storage>, BackupError> {
    let io = |source| BackupError::Io { what: format!("opening {}", path.display()), source };
    for source in sources {
        if SyscallStorage::is_within(path, *source).map_err(io)? {
            return Err(BackupError::TargetWithinSource { path: path.display().to_string() });
        }
    }
    Ok(Arc::new(SyscallStorage::open(path).map_err(io)?))
}

/// A storage for people.
fn shown(storage: &dyn Storage) -> String {
    storage.display(Path::new(""))
}

#[cfg(test)]
mod tests;
