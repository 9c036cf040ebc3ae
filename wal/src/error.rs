//! What can go wrong with the log, one type for each operation.
//!
//! 1. An error names the file it is about, as the user would find it.
//! 2. What a caller may try again (`ReserveError::Stalled`) is apart from what is over (poison).

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::lsn::Lsn;

/// Why the log stopped accepting writes, for good: a write or sync of it failed, and what reached
/// the disk is not known. Only opening the log again finds out.
#[derive(Clone, Debug)]
pub struct PoisonCause {
    /// What failed.
    pub operation: FailedOperation,
    /// The segment file.
    pub file: String,
    /// What the system said.
    pub error: Arc<io::Error>,
}

/// The operation that poisoned a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedOperation {
    /// Writing a batch.
    Write,
    /// Syncing batches that were written before.
    Sync,
    /// None: the log found its own state broken, or a panic passed through it.
    Broken,
}

impl fmt::Display for PoisonCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match self.operation {
            FailedOperation::Write => "writing",
            FailedOperation::Sync => "syncing",
            FailedOperation::Broken => "keeping the order of",
        };
        write!(f, "{operation} {} failed: {}", self.file, self.error)
    }
}

/// Why a commit, or a sync, was not confirmed.
#[derive(Clone, Debug)]
pub enum LogError {
    /// The log failed after the record was appended and before it was as durable as asked: it may or
    /// may not be there after the next open. Never to be tried again blindly.
    CommitUnknown {
        /// The record.
        at: Lsn,
        /// What failed.
        cause: PoisonCause,
    },
    /// The log failed earlier; nothing more is written until it is opened again.
    Poisoned(PoisonCause),
    /// The log was shut down.
    Closed,
    /// This process was forked from the one that opened the log, which alone may write it.
    Forked,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::CommitUnknown { at, cause } => {
                write!(f, "whether commit {at} is durable is unknown: {cause}")
            }
            LogError::Poisoned(cause) => write!(f, "the log takes no writes any more: {cause}"),
            LogError::Closed => f.write_str("the log is closed"),
            LogError::Forked => f.write_str("the log belongs to the process that opened it"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogError::CommitUnknown { cause, .. } | LogError::Poisoned(cause) => {
                Some(&*cause.error)
            }
            LogError::Closed | LogError::Forked => None,
        }
    }
}

/// Why the log took no reservation.
#[derive(Clone, Debug)]
pub enum ReserveError {
    /// Not now; trying again later may work.
    Stalled {
        /// What is short.
        reason: StallReason,
    },
    /// Larger than any record may be, ever.
    TooLarge {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// See [`LogError::Poisoned`].
    Poisoned(PoisonCause),
    /// The log was shut down.
    Closed,
    /// See [`LogError::Forked`].
    Forked,
}

/// What a stalled writer waits for.
#[derive(Clone, Debug)]
pub enum StallReason {
    /// No segment could be prepared; writers go on once one can be.
    LogSpace {
        /// The file that could not be made, or the log's directory while one is still being made.
        file: String,
        /// What the system said; `None` while a segment is still being made.
        error: Option<Arc<io::Error>>,
    },
    /// As many records wait to be written as may.
    LogQueue,
}

impl fmt::Display for StallReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StallReason::LogSpace { file, error: Some(error) } => {
                write!(f, "there is no room for the log: preparing {file} failed: {error}")
            }
            StallReason::LogSpace { file, error: None } => {
                write!(f, "the next log segment in {file} is still being prepared")
            }
            StallReason::LogQueue => f.write_str("the log's queue is full; the disk lags behind"),
        }
    }
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReserveError::Stalled { reason } => reason.fmt(f),
            ReserveError::TooLarge { bytes_max } => {
                write!(f, "a log record may have {bytes_max} bytes at most")
            }
            ReserveError::Poisoned(cause) => {
                write!(f, "the log takes no writes any more: {cause}")
            }
            ReserveError::Closed => f.write_str("the log is closed"),
            ReserveError::Forked => f.write_str("the log belongs to the process that opened it"),
        }
    }
}

impl std::error::Error for ReserveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReserveError::Poisoned(cause) => Some(&*cause.error),
            ReserveError::Stalled { reason: StallReason::LogSpace { error: Some(error), .. } } => {
                Some(&**error)
            }
            _ => None,
        }
    }
}

/// A part of the log that was asked for is not there any more: it was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// What comes after this record is there.
    pub begins: Lsn,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log has only what comes after {}", self.begins)
    }
}

impl std::error::Error for Gone {}

/// Why records of an open log could not be read.
#[derive(Debug)]
pub enum LogReadError {
    /// They were released.
    Gone(Gone),
    /// A call to the system failed.
    Io {
        /// The segment file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were durable are damaged.
    Corrupt {
        /// The segment file.
        file: String,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What does not hold.
        what: &'static str,
    },
}

impl From<Gone> for LogReadError {
    fn from(gone: Gone) -> LogReadError {
        LogReadError::Gone(gone)
    }
}

impl fmt::Display for LogReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogReadError::Gone(gone) => gone.fmt(f),
            LogReadError::Io { path, source } => write!(f, "{path}: {source}"),
            LogReadError::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at offset {offset}: {what}")
            }
        }
    }
}

impl std::error::Error for LogReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogReadError::Io { source, .. } => Some(source),
            LogReadError::Gone(gone) => Some(gone),
            LogReadError::Corrupt { .. } => None,
        }
    }
}

/// A segment that the log does not need any more could not be used again, or removed. The log itself is
/// as it was, without that segment.
#[derive(Debug)]
pub struct ReleaseError {
    /// The segment file.
    pub file: String,
    /// What the system said.
    pub error: io::Error,
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was not released: {}", self.file, self.error)
    }
}

impl std::error::Error for ReleaseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Why a log was not opened. Nothing was changed, but that blank or dead segments may be gone.
#[derive(Debug)]
pub enum LogOpenError {
    /// A call to the system failed.
    Io {
        /// The file or directory.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were durable are damaged. Nothing of the log was cut.
    Corrupt {
        /// The segment file.
        file: String,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What does not hold.
        what: String,
    },
    /// A file in the log's directory is not this log's.
    Foreign {
        /// The file.
        file: String,
        /// How it is known.
        what: String,
    },
    /// A newer isolith wrote this log.
    FormatTooNew {
        /// The segment file.
        file: String,
        /// Its format number.
        found: u32,
        /// The highest that this build reads.
        supported: u32,
    },
    /// The reader of the records refused one.
    Refused {
        /// The record.
        lsn: Lsn,
        /// The segment file that holds it.
        file: String,
        /// Where its batch begins, in bytes.
        offset: u64,
        /// What the reader said.
        what: String,
    },
    /// The log was read, and the mark that says that it is open could not be written.
    Write(PoisonCause),
    /// Every recovery epoch was used: 131,071 opens after a crash.
    EpochsUsedUp,
}

impl fmt::Display for LogOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogOpenError::Io { path, source } => write!(f, "{path}: {source}"),
            LogOpenError::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at offset {offset}: {what}")
            }
            LogOpenError::Foreign { file, what } => {
                write!(f, "{file} does not belong to this log: {what}")
            }
            LogOpenError::FormatTooNew { file, found, supported } => write!(
                f,
                "{file} has format {found}, this build reads up to {supported}: open it with a \
                 newer isolith"
            ),
            LogOpenError::Refused { lsn, file, offset, what } => {
                write!(f, "record {lsn} in {file}, batch at offset {offset}: {what}")
            }
            LogOpenError::Write(cause) => cause.fmt(f),
            LogOpenError::EpochsUsedUp => f.write_str("the log was recovered too many times"),
        }
    }
}

impl std::error::Error for LogOpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LogOpenError::Io { source, .. } => Some(source),
            LogOpenError::Write(cause) => Some(&*cause.error),
            _ => None,
        }
    }
}
