//! A copy, piece by piece: the marker, files, the log, the manifest; and what is done when it fails.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use isolith_index::manifest::{Manifest, ManifestState};
use isolith_index::sstable::FileId;
use isolith_wal::{Access, LogCopy, Lsn, Storage, copy, link_or_copy};

use super::{BackupError, Checkpoint, CheckpointOptions, shown};
use crate::catalog::Definition;
use crate::core::SYSTEM_SPACE;
use crate::error::OpenError;
use crate::files::{self, file_name, live_files, value_file_name};
use crate::options::Builder;
use crate::record::{Operation, Operations};
use crate::recovery::{self, PARTIAL};

/// What takes the records of a copy, in order, each with the storage that has the files it may bring.
pub(super) type Take<'t> = dyn FnMut(&dyn Storage, Lsn, &[u8]) -> Result<(), BackupError> + 't;

/// What gives them: those after where the log of the copy is to begin, up to the last one that it is to have.
pub(super) type Give<'g> = dyn FnMut(&mut Take<'_>) -> Result<(), BackupError> + 'g;

/// What is copied.
pub(super) struct Plan<'p> {
    /// Where its files are.
    pub(super) source: &'p dyn Storage,
    /// What they are.
    pub(super) state: &'p ManifestState,
    /// The log in the copy begins after this; not above the state's floor.
    pub(super) begins: Lsn,
    /// It ends with this.
    pub(super) at: Lsn,
    pub(super) options: CheckpointOptions,
}

/// How far back a copy can be restored: not before the last commit that its files have, nor before the drop of
/// a keyspace that had been there when its log began. The files of such a one are gone.
pub(super) struct Reach {
    floor: Lsn,
    /// Names of keyspaces that the log has from their beginning.
    created: BTreeSet<Vec<u8>>,
    pub(super) from: Lsn,
}

impl Reach {
    pub(super) fn new(state: &ManifestState) -> Reach {
        let (floor, from) = (state.log_floor, files::reaches(state));
        Reach { floor, created: BTreeSet::new(), from }
    }

    /// Takes note of the next record of the log.
    pub(super) fn note(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), String> {
        let mut operations = Operations::new(record);
        while let Some(operation) = operations.next()? {
            match operation {
                _ if lsn <= self.floor => {}
                Operation::Put { space: SYSTEM_SPACE, key, value, .. } => {
                    // It may also be given other options.
                    let creates = !Definition::decode(value)?.changes;
                    self.created.extend(creates.then(|| key.to_vec()));
                }
                Operation::Delete { space: SYSTEM_SPACE, key } if !self.created.remove(key) => {
                    self.from = self.from.max(lsn);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Makes a copy in a storage that has nothing in it.
pub(super) fn make(
    plan: &Plan<'_>,
    target: &Arc<dyn Storage>,
    give: &mut Give<'_>,
) -> Result<Checkpoint, BackupError> {
    refuse_unless_empty(&**target)?;
    mark(&**target)?;
    let mut copying = Copying {
        plan,
        target,
        known: BTreeSet::new(),
        missing: false,
        reach: Reach::new(plan.state),
        done: Checkpoint {
            timestamp: plan.at,
            restorable_from: Lsn::ZERO,
            log_begins: plan.begins,
            files: 0,
            linked_bytes: 0,
            copied_bytes: 0,
            log_bytes: 0,
        },
    };
    let made = copying.make(give);
    if made.is_err() {
        clear(&**target);
    }
    made?;
    let done = Checkpoint { restorable_from: copying.reach.from, ..copying.done };
    // From here on what is there is whole, whether the marker is gone or not.
    target
        .remove(Path::new(PARTIAL))
        .and_then(|()| target.sync_dir(Path::new("")))
        .map_err(|source| failed(&**target, PARTIAL, source))?;
    Ok(done)
}

fn failed(storage: &dyn Storage, path: &str, source: io::Error) -> BackupError {
    BackupError::Io { what: storage.display(Path::new(path)), source }
}

/// Whether a name is a directory that an attempt before this one may have left, with nothing in it.
fn is_left_over(target: &dyn Storage, name: &str) -> io::Result<bool> {
    Ok([files::DIRECTORY, LOG_DIRECTORY].contains(&name)
        && target.list(Path::new(name))?.is_empty())
}

fn refuse_unless_empty(target: &dyn Storage) -> Result<(), BackupError> {
    let io = |source| failed(target, "", source);
    for entry in target.list(Path::new("")).map_err(io)? {
        let counts = entry.name != "lost+found"
            && !(entry.is_directory && is_left_over(target, &entry.name).map_err(io)?);
        if counts {
            return Err(BackupError::TargetNotEmpty { path: shown(target) });
        }
    }
    Ok(())
}

/// Says, durably, that what is there is not whole.
fn mark(target: &dyn Storage) -> Result<(), BackupError> {
    let marked = target.create_new(Path::new(PARTIAL)).and_then(|file| {
        file.write_at(0, b"isolith: this copy was not finished\n")?;
        file.sync()?;
        target.sync_dir(Path::new(""))
    });
    marked.map_err(|source| match source.kind() {
        // Somebody else was faster.
        io::ErrorKind::AlreadyExists => BackupError::TargetNotEmpty { path: shown(target) },
        _ => {
            let _ = target.remove(Path::new(PARTIAL));
            failed(target, PARTIAL, source)
        }
    })
}

/// Removes what was begun, the marker last: where anything else is left, or may come back, it stays.
fn clear(target: &dyn Storage) {
    let cleared = || -> io::Result<()> {
        for directory in ["", files::DIRECTORY, LOG_DIRECTORY].map(Path::new) {
            let entries = match target.list(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                if !entry.is_directory && entry.name != PARTIAL {
                    target.remove(&directory.join(entry.name))?;
                }
            }
            target.sync_dir(directory)?;
        }
        target.remove(Path::new(PARTIAL))
    };
    // What fails here leaves the marker.
    let _ = cleared();
}

/// Where the log is, below the storage's root.
const LOG_DIRECTORY: &str = "wal";

struct Copying<'p> {
    plan: &'p Plan<'p>,
    target: &'p Arc<dyn Storage>,
    /// Files that are there by now.
    known: BTreeSet<u64>,
    /// Whether a file was not to be found that a commit brings: of a keyspace that was dropped later,
    /// perhaps.
    missing: bool,
    reach: Reach,
    done: Checkpoint,
}

impl Copying<'_> {
    fn make(&mut self, give: &mut Give<'_>) -> Result<(), BackupError> {
        let (plan, target) = (self.plan, self.target);
        let io = |path: &'static str| move |source| failed(&**target, path, source);
        target.create_dir(Path::new(files::DIRECTORY)).map_err(io(files::DIRECTORY))?;
        for name in live_files(plan.state) {
            self.file(plan.source, &name)?;
        }
        self.known.extend(plan.state.files().map(|record| record.file.id));
        self.known.extend(plan.state.value_files().into_keys());
        let floor = plan.state.log_floor;
        let mut log = LogCopy::begin(&**target, plan.state.database, plan.begins, floor)
            .map_err(io(LOG_DIRECTORY))?;
        give(&mut |source, lsn, record| {
            if lsn > plan.at {
                return Ok(());
            }
            log.add(lsn, record).map_err(io(LOG_DIRECTORY))?;
            self.brought(source, lsn, record)
        })?;
        let copied = log.finish().map_err(io(LOG_DIRECTORY))?;
        if copied.last != plan.at {
            let what = format!("the log ends with {}, and not with {}", copied.last, plan.at);
            return Err(io(LOG_DIRECTORY)(io::Error::other(what)));
        }
        self.done.log_bytes = copied.bytes;
        target.sync_dir(Path::new(files::DIRECTORY)).map_err(io(files::DIRECTORY))?;
        Manifest::create_with(Arc::clone(target), plan.state.clone()).map_err(|error| {
            BackupError::Io { what: "the manifest".into(), source: io::Error::other(error) }
        })?;
        if self.missing { self.try_to_open() } else { Ok(()) }
    }

    /// Puts a file of the source into the target. `NotFound` is the caller's.
    fn put(&mut self, source: &dyn Storage, name: &str) -> io::Result<()> {
        let path = Path::new(name);
        let copied = match self.plan.options.copy_files {
            false => link_or_copy(source, path, &**self.target, path)?,
            true => {
                let file = source.open(path, Access::Read)?;
                copy(&*file, file.len()?, &**self.target, path)?
            }
        };
        self.done.files += 1;
        self.done.copied_bytes += copied;
        if copied == 0 {
            self.done.linked_bytes += self.target.open(path, Access::Read)?.len()?;
        }
        Ok(())
    }

    fn file(&mut self, source: &dyn Storage, name: &str) -> Result<(), BackupError> {
        self.put(source, name).map_err(|error| {
            let what = format!("{} to {}", source.display(Path::new(name)), shown(&**self.target));
            BackupError::Io { what, source: error }
        })
    }

    /// Puts the files into the target that a commit brings and that are in no manifest yet.
    fn brought(
        &mut self,
        source: &dyn Storage,
        lsn: Lsn,
        record: &[u8],
    ) -> Result<(), BackupError> {
        let mut operations = Operations::new(record);
        let damaged = |what: String| OpenError::Corrupt {
            file: source.display(Path::new(LOG_DIRECTORY)),
            offset: 0,
            what: format!("record {lsn}: {what}"),
        };
        self.reach.note(lsn, record).map_err(damaged)?;
        while let Some(operation) = operations.next().map_err(|what| damaged(what.into()))? {
            let Operation::Ingest { space, files, .. } = operation else { continue };
            let state = self.plan.state;
            let flushed = state.spaces.get(&space).map_or(Lsn::ZERO, |known| known.flushed);
            if lsn <= flushed || lsn <= state.log_floor {
                continue;
            }
            for id in files.iter().filter(|id| !self.known.contains(id)).collect::<Vec<_>>() {
                if self.brought_file(source, id, &file_name(FileId(id)))? {
                    self.values_of(source, FileId(id))?;
                }
            }
        }
        Ok(())
    }

    /// Puts one of them into the target; false: it is not there.
    fn brought_file(
        &mut self,
        source: &dyn Storage,
        id: u64,
        name: &str,
    ) -> Result<bool, BackupError> {
        match source.open(Path::new(name), Access::Read) {
            Ok(_) => {
                self.file(source, name)?;
                self.known.insert(id);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.missing = true;
                Ok(false)
            }
            Err(error) => Err(failed(source, name, error)),
        }
    }

    /// Puts the value files into the target that one of them refers to.
    fn values_of(&mut self, source: &dyn Storage, file: FileId) -> Result<(), BackupError> {
        let opened = files::open_file(source, self.plan.state.database, file);
        let table = opened.map_err(|error| {
            let (name, error) = files::told(file, error);
            failed(source, &name, io::Error::other(error))
        })?;
        for used in &table.properties().values {
            if !self.known.contains(&used.file.0) {
                self.brought_file(source, used.file.0, &value_file_name(used.file))?;
            }
        }
        Ok(())
    }

    /// Opens the copy as whoever reads it would.
    fn try_to_open(&self) -> Result<(), BackupError> {
        let options = Builder::new(None).read_only(true);
        match recovery::read_only_over(Arc::clone(self.target), None, &options) {
            // The operators are registered by whoever will open it: all else was looked at before them.
            Ok(_) | Err(OpenError::UnknownOperator { .. }) => Ok(()),
            Err(error) => Err(BackupError::Incomplete(error)),
        }
    }
}
