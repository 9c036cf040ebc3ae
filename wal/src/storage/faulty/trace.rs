//! The list of calls, and the faults planned for calls to come.

use std::fmt;
use std::io;

use super::{Crashed, Fault, Reach};

/// What a call asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Opening a file.
    Open,
    /// Creating a file.
    Create,
    /// Creating a directory.
    CreateDir,
    /// Listing a directory.
    List,
    /// Removing a file.
    Remove,
    /// Renaming a file.
    Rename,
    /// Making a directory's names durable.
    SyncDir,
    /// Taking a lock.
    Lock,
    /// Asking for a file's length.
    Length,
    /// Reading.
    Read,
    /// A buffered write.
    Write,
    /// Syncing a file.
    Sync,
    /// Handing over a write.
    Submit(Reach),
    /// Waiting for a write that was handed over.
    Complete(Reach),
}

impl Operation {
    /// Whether the disk differs after the call. A crash at any other call leaves the same states as
    /// a crash at the next one that changes something: enumerations may skip it.
    pub fn is_change(self) -> bool {
        use Operation::{Length, List, Open, Read};
        !matches!(self, Open | List | Length | Read)
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked for.
    Done,
    /// It failed with this kind of error.
    Failed(io::ErrorKind),
    /// The disk crashed here.
    Crashed,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Counted from 1.
    pub number: u64,
    /// What it asked for.
    pub operation: Operation,
    /// Of what, relative to the root; `from -> to` for a rename.
    pub path: String,
    /// Where in the file and how many bytes, for reads and writes.
    pub extent: Option<(u64, usize)>,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "." } else { &self.path };
        write!(f, "#{} {:?} {path}", self.number, self.operation)?;
        if let Some((offset, bytes)) = self.extent {
            write!(f, " at {offset}, {bytes} bytes")?;
        }
        match self.outcome {
            Outcome::Done => Ok(()),
            Outcome::Failed(kind) => write!(f, ": {kind}"),
            Outcome::Crashed => f.write_str(": CRASH"),
        }
    }
}

/// What becomes of a call, decided before it does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Succeed,
    Fail(Fault),
    Crash,
}

impl Fate {
    /// The error that the call ends with, if it does.
    pub(super) fn refuse(self) -> io::Result<()> {
        match self {
            Fate::Succeed => Ok(()),
            Fate::Crash => Err(io::Error::other(Crashed)),
            Fate::Fail(fault) => Err(io::Error::from_raw_os_error(match fault {
                Fault::Io => libc::EIO,
                Fault::NoSpace => libc::ENOSPC,
                Fault::ReadOnly => libc::EROFS,
            })),
        }
    }
}

/// Which call a planned fault is for.
#[derive(Clone, Debug)]
pub(super) enum When {
    Call(u64),
    Next(Operation, String),
}

impl When {
    pub(super) fn is(&self, number: u64, operation: Operation, path: &str) -> bool {
        match self {
            When::Call(call) => *call == number,
            When::Next(kind, part) => *kind == operation && path.contains(part.as_str()),
        }
    }
}
