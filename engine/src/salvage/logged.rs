//! What the log says, key by key, as far as it is followed.

use std::collections::BTreeMap;
use std::ops::Bound;

use isolith_index::Kind;
use isolith_index::sstable::FileRangeDelete;
use isolith_txn::SpaceId;
use isolith_wal::Lsn;

use crate::merge::Operators;
use crate::record::{Named, Operation, Operations};

/// A version that a record has.
pub(super) struct LoggedVersion {
    pub(super) stamp: Lsn,
    pub(super) kind: Kind,
    pub(super) time: u64,
    pub(super) value: Vec<u8>,
}

/// What the log says of a keyspace.
#[derive(Default)]
pub(super) struct Logged {
    /// Oldest first.
    pub(super) versions: BTreeMap<Vec<u8>, Vec<LoggedVersion>>,
    pub(super) range_deletes: Vec<FileRangeDelete>,
}

/// A record, decoded to its end before any of it is taken.
#[derive(Default)]
pub(super) struct Decoded {
    pub(super) spaces: Vec<(SpaceId, Logged)>,
    /// Files that it brings, with their keyspace.
    pub(super) brings: Vec<(SpaceId, u64)>,
}

impl Decoded {
    fn space(&mut self, id: SpaceId) -> &mut Logged {
        let at = match self.spaces.iter().position(|(other, _)| *other == id) {
            Some(at) => at,
            None => {
                self.spaces.push((id, Logged::default()));
                self.spaces.len() - 1
            }
        };
        &mut self.spaces[at].1
    }

    fn version(&mut self, space: SpaceId, key: &[u8], version: LoggedVersion) {
        self.space(space).versions.entry(key.to_vec()).or_default().push(version);
    }

    /// Decodes a record.
    pub(super) fn of(
        stamp: Lsn,
        record: &[u8],
        operators: &mut Operators,
    ) -> Result<Decoded, &'static str> {
        let mut decoded = Decoded::default();
        let mut operations = Operations::new(record);
        while let Some(operation) = operations.next()? {
            let plain = |kind, time, value: &[u8]| LoggedVersion {
                stamp,
                kind,
                time,
                value: value.to_vec(),
            };
            match operation {
                Operation::Put { space, key, value, expires_at } => {
                    decoded.version(space, key, plain(Kind::Put, expires_at, value));
                }
                Operation::Delete { space, key } => {
                    decoded.version(space, key, plain(Kind::Delete, 0, b""));
                }
                Operation::DeleteRange { space, lower, upper } => {
                    let behind = |key: &[u8]| [key, b"\0"].concat().into_boxed_slice();
                    let start = match lower {
                        Bound::Included(key) => key.into(),
                        Bound::Excluded(key) => behind(key),
                        Bound::Unbounded => Box::default(),
                    };
                    let end = match upper {
                        Bound::Included(key) => Some(behind(key)),
                        Bound::Excluded(key) => Some(key.into()),
                        Bound::Unbounded => None,
                    };
                    decoded.space(space).range_deletes.push((start, end, stamp));
                }
                Operation::Merge { space, key, operator, operand, at_ms } => {
                    let operator = match operator {
                        Named::Number(number) => number,
                        Named::Name(name) => operators.intern(name)?,
                    };
                    decoded.version(space, key, plain(Kind::Merge { operator }, at_ms, operand));
                }
                Operation::Ingest { space, files, .. } => {
                    decoded.brings.extend(files.iter().map(|file| (space, file)));
                }
            }
        }
        Ok(decoded)
    }
}
