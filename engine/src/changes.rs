//! Following the commits of a database: what each of them changed, in their order.
//!
//! 1. Commits come in the order of their timestamps, each once, none left out, and none that a crash could
//!    still take back.
//! 2. What a feed has not given yet stays in the log for as long as the feed lives. Over a restart it stays
//!    only until it is in files; a feed that begins before what is left is told so ([`Error::HistoryGone`]).

use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use isolith_index::Slice;
use isolith_txn::{Interval, KeyBound, SpaceId};
use isolith_wal::{LogHold, LogReadError, LogReader, Lsn};

use crate::catalog::Definition;
use crate::core::SYSTEM_SPACE;
use crate::database::{Database, Open};
use crate::error::{Error, Result};
use crate::record::{Named, Operation, Operations};

/// Records that are read at once.
const READ_RECORDS: usize = 256;
/// Bytes of records that are read at once, about.
const READ_BYTES: usize = 1 << 20;

/// What one commit changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its timestamp.
    pub timestamp: Lsn,
    /// What it changed. Within a keyspace range deletes come first: what is put by the same commit survives
    /// them.
    pub changes: Vec<Change>,
}

/// A keyspace, as a feed tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKeyspace {
    /// Its number, which is never given twice in a database.
    pub id: u32,
    /// Its name; `None` if it was dropped, and created before the feed began.
    pub name: Option<Arc<str>>,
}

/// One operation of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A keyspace was created.
    Created(ChangedKeyspace),
    /// A keyspace was given other options.
    OptionsSet(ChangedKeyspace),
    /// The keyspace of this name was dropped, with all that was in it.
    Dropped {
        /// Its name.
        name: Arc<str>,
    },
    /// A key was given a value.
    Put {
        /// Where.
        keyspace: ChangedKeyspace,
        /// The key.
        key: Slice,
        /// The value.
        value: Slice,
        /// When it expires, in Unix milliseconds.
        expires_at: Option<u64>,
    },
    /// A key was removed.
    Delete {
        /// Where.
        keyspace: ChangedKeyspace,
        /// The key.
        key: Slice,
    },
    /// All keys of a range were removed.
    DeleteRange {
        /// Where.
        keyspace: ChangedKeyspace,
        /// The range.
        range: Interval,
    },
    /// Something was merged into a key.
    Merge {
        /// Where.
        keyspace: ChangedKeyspace,
        /// The key.
        key: Slice,
        /// The operator's name.
        operator: String,
        /// What was merged.
        operand: Slice,
        /// When the transaction began, in Unix milliseconds: an old value that had expired by then was none.
        begun_ms: u64,
    },
    /// Pairs were loaded in bulk, past the log: a snapshot at or after the commit has them, the feed does not.
    BulkLoaded(ChangedKeyspace),
}

/// The commits of a database in their order. See [`Database::changes`].
#[derive(Debug)]
pub struct Changes {
    open: Arc<Open>,
    reader: LogReader,
    hold: LogHold,
    /// What was read ahead.
    read: VecDeque<(Lsn, Box<[u8]>)>,
    /// The last commit that was given.
    position: Lsn,
    /// Names that the log told of, newest last; those of dropped keyspaces stay.
    names: Vec<(SpaceId, Arc<str>)>,
}

impl Changes {
    /// The last commit that was given, or the one that the feed began after: to go on from there later.
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The next commit; `None` if there is none that is acknowledged and durable by now. Ask again later.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the log is damaged, [`Error::Unreadable`] if it cannot be read.
    pub fn next_commit(&mut self) -> Result<Option<Commit>> {
        self.open.check_open()?;
        if self.read.is_empty() {
            self.read_ahead()?;
        }
        let acknowledged = self.open.marks().acknowledged();
        let Some((lsn, record)) = self.read.pop_front_if(|(lsn, _)| *lsn <= acknowledged) else {
            return Ok(None);
        };
        let changes = self.decode(&record).map_err(|what| Error::Corrupt {
            file: "the log".into(),
            offset: 0,
            what: format!("record {lsn}: {what}"),
        })?;
        self.position = lsn;
        self.hold.advance(lsn);
        Ok(Some(Commit { timestamp: lsn, changes }))
    }

    fn read_ahead(&mut self) -> Result<()> {
        let (read, mut bytes) = (&mut self.read, 0);
        let mut each = |lsn: Lsn, record: &[u8]| {
            bytes += record.len();
            read.push_back((lsn, record.into()));
            match read.len() < READ_RECORDS && bytes < READ_BYTES {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        self.reader.read(&mut each).map_err(read_error)
    }

    fn keyspace(&self, id: SpaceId) -> ChangedKeyspace {
        let told = self.names.iter().find(|(known, _)| *known == id);
        let name = told.map(|(_, name)| Arc::clone(name));
        ChangedKeyspace { id, name: name.or_else(|| self.open.name_if_known(id)) }
    }

    fn decode(&mut self, record: &[u8]) -> Result<Vec<Change>, String> {
        let mut operations = Operations::new(record);
        let mut changes = Vec::new();
        while let Some(operation) = operations.next()? {
            let keyspace = self.keyspace(operation.space());
            changes.push(match operation {
                Operation::Put { space: SYSTEM_SPACE, key, value, .. } => {
                    let name: Arc<str> = std::str::from_utf8(key)
                        .map_err(|_| "a keyspace's name is not UTF-8")?
                        .into();
                    let Definition { id, changes, .. } = Definition::decode(value)?;
                    let keyspace = ChangedKeyspace { id, name: Some(Arc::clone(&name)) };
                    if changes {
                        Change::OptionsSet(keyspace)
                    } else {
                        self.names.push((id, name));
                        Change::Created(keyspace)
                    }
                }
                Operation::Delete { space: SYSTEM_SPACE, key } => {
                    let name =
                        std::str::from_utf8(key).map_err(|_| "a keyspace's name is not UTF-8")?;
                    Change::Dropped { name: name.into() }
                }
                Operation::Put { key, value, expires_at, .. } => Change::Put {
                    keyspace,
                    key: key.into(),
                    value: value.into(),
                    expires_at: (expires_at != 0).then_some(expires_at),
                },
                Operation::Delete { key, .. } => Change::Delete { keyspace, key: key.into() },
                Operation::DeleteRange { lower, upper, .. } => {
                    let copy = |bound: Bound<&[u8]>| -> KeyBound { bound.map(Slice::from) };
                    let range = Interval { lower: copy(lower), upper: copy(upper) };
                    Change::DeleteRange { keyspace, range }
                }
                Operation::Merge { key, operator, operand, at_ms, .. } => Change::Merge {
                    keyspace,
                    key: key.into(),
                    operator: match operator {
                        Named::Name(name) => name.to_owned(),
                        Named::Number(number) => self.open.operators().name(number).to_owned(),
                    },
                    operand: operand.into(),
                    begun_ms: at_ms,
                },
                Operation::Ingest { .. } => Change::BulkLoaded(keyspace),
            });
        }
        Ok(changes)
    }
}

pub(crate) fn read_error(error: LogReadError) -> Error {
    match error {
        LogReadError::Gone(gone) => Error::HistoryGone { begins: gone.begins },
        LogReadError::Corrupt { file, offset, what } => {
            Error::Corrupt { file, offset, what: what.into() }
        }
        LogReadError::Io { path, source } => {
            Error::Unreadable { file: path, cause: source.to_string() }
        }
    }
}

impl Database {
    /// Follows the commits after `from`: the position of an earlier feed, [`Timestamp`](crate::Timestamp)
    /// of a snapshot, or zero for all that there ever were.
    ///
    /// The feed gives what is acknowledged and durable. While it lives, the log keeps what it has not given:
    /// a feed that is left lying takes space on disk. Without one the log is kept only until what it says is
    /// in files.
    ///
    /// # Errors
    /// [`Error::HistoryGone`] if the log begins later, or if there is none: a database in memory.
    pub fn changes(&self, from: Lsn) -> Result<Changes> {
        let open = self.handle();
        open.check_open()?;
        let Some(log) = open.log() else {
            return Err(Error::HistoryGone { begins: open.marks().visible() });
        };
        let gone = |gone: isolith_wal::Gone| Error::HistoryGone { begins: gone.begins };
        // First it is held, then read: what is there then stays.
        let hold = log.hold(from).map_err(gone)?;
        let reader = log.read_after(from).map_err(gone)?;
        let (open, read, names) = (Arc::clone(open), VecDeque::new(), Vec::new());
        Ok(Changes { open, reader, hold, read, position: from, names })
    }
}

#[cfg(test)]
mod tests;
