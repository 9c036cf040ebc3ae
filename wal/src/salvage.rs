//! What of a damaged log can still be followed, where nothing else says where it begins.
//!
//! 1. Nothing is written.
//! 2. Of segments that do not lead to each other the newest chain counts: older ones were released, and what
//!    they say may have been taken back since, by records that are gone.

use std::io;
use std::path::Path;

use crate::error::LogOpenError;
use crate::format::{DatabaseId, HeaderBlock, SegmentHeader};
use crate::lsn::Lsn;
use crate::replay::io_error;
use crate::segment::{self, DIRECTORY};
use crate::storage::{Access, BLOCK_BYTES, Storage};

/// What the headers of a log say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogRemains {
    /// Whose segments they are, each once for every segment.
    pub databases: Vec<DatabaseId>,
    /// The newest segments that lead to each other begin behind this; none: no segment of the database has
    /// a sound header.
    pub begins: Option<Lsn>,
    /// Segments whose header is not sound: name and why.
    pub damaged: Vec<(String, &'static str)>,
    /// Segments that are no part of this log, to go by their header: name and why.
    pub foreign: Vec<(String, &'static str)>,
}

/// Looks at the header of every segment; those of `database`, if it is known, are put in order.
pub fn log_remains(
    storage: &dyn Storage,
    database: Option<DatabaseId>,
) -> Result<LogRemains, LogOpenError> {
    let directory = Path::new(DIRECTORY);
    let entries = match storage.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LogRemains::default()),
        entries => entries.map_err(|error| io_error(storage, directory, error))?,
    };
    let mut remains = LogRemains::default();
    let mut headers: Vec<SegmentHeader> = Vec::new();
    for entry in entries {
        let Some(id) = segment::parse_name(&entry.name).filter(|_| !entry.is_directory) else {
            continue;
        };
        let path = segment::path(id);
        let failed = |error| io_error(storage, &path, error);
        let file = storage.open(&path, Access::Read).map_err(failed)?;
        let mut block = vec![0; BLOCK_BYTES];
        let read = file.read_at(0, &mut block).map_err(failed)?;
        let shown = || storage.display(&path);
        let mut foreign = |what| remains.foreign.push((shown(), what));
        match SegmentHeader::decode(&block[..read]) {
            HeaderBlock::Valid(header) if header.segment == id => {
                remains.databases.push(header.database);
                match database.is_none_or(|database| database == header.database) {
                    true => headers.push(header),
                    false => foreign("it is of another database"),
                }
            }
            HeaderBlock::Valid(_) => foreign("it is another segment's header"),
            HeaderBlock::Blank => {}
            HeaderBlock::Foreign => foreign("it does not begin like a log segment"),
            HeaderBlock::TooNew(_) => foreign("it is of a newer format"),
            HeaderBlock::Bad(what) => remains.damaged.push((shown(), what)),
        }
    }
    let position = |header: &SegmentHeader| (header.start.epoch(), header.first_batch);
    let mut at = headers.iter().max_by_key(|header| position(header));
    while let Some(header) = at {
        remains.begins = Some(header.previous_lsn);
        at = headers.iter().find(|before| {
            before.segment == header.previous && position(before) < position(header)
        });
    }
    Ok(remains)
}
