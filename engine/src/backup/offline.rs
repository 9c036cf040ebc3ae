//! Copies of databases that nobody has open for writing, and the logs that carry a copy further.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use isolith_index::manifest::{Manifest, ManifestState};
use isolith_wal::{DatabaseId, Log, LogOptions, Lsn, Storage, StorageLock};

use super::copying::{self, Plan, Reach, Take};
use super::{BackupError, Checkpoint, CheckpointOptions, shown, target};
use crate::error::OpenError;
use crate::files;
use crate::recovery;

/// What a restore is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// The last commit that the restored database is to have; `None`: all that there are.
    pub to: Option<Lsn>,
    /// Databases whose logs go on where the backup ends: later backups of the same database, or its own
    /// directory, while nobody has it open for writing. In any order.
    pub logs: Vec<PathBuf>,
    /// As in [`CheckpointOptions::copy_files`].
    pub copy_files: bool,
}

/// Copies the database in a directory that nobody has open for writing to another directory, which must be
/// empty or not there. Nothing is written in the source, and what a crash left unfinished there is left out.
///
/// # Errors
/// [`BackupError`]: [`Source`](BackupError::Source) if it is in use, damaged, or no database.
pub fn backup(
    source: impl AsRef<Path>,
    to: impl AsRef<Path>,
    options: CheckpointOptions,
) -> Result<Checkpoint, BackupError> {
    let CheckpointOptions { copy_files } = options;
    restore(source, to, RestoreOptions { copy_files, ..RestoreOptions::default() })
}

/// Makes a database out of a backup (or checkpoint, or any database that nobody has open for writing), in a
/// directory that is empty or not there: as it was at the end of the backup, or of the logs that were given,
/// or at the timestamp that was asked for. That must not be before [`Checkpoint::restorable_from`] of the
/// backup: what its files have cannot be taken out of them.
///
/// The restored database has the identity of the one that was backed up, since the checksums of its files
/// cover it, and the same timestamps up to where it was restored to. From there on both give out timestamps
/// of their own: a feed of changes that has followed the one cannot go on with the other.
///
/// # Errors
/// [`BackupError`]: [`OutOfReach`](BackupError::OutOfReach) with the range that can be reached.
pub fn restore(
    backup: impl AsRef<Path>,
    to: impl AsRef<Path>,
    options: RestoreOptions,
) -> Result<Checkpoint, BackupError> {
    let open = |path: &Path| recovery::open_existing(path);
    let base = open(backup.as_ref())?;
    let logs: Vec<_> = options.logs.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    let all: Vec<&dyn Storage> =
        std::iter::once(&base).chain(&logs).map(|storage| &**storage).collect();
    let to = to.as_ref();
    restore_storages(&base, &logs, || target(to, &all), &options)
}

/// The same over any storages; the target is asked for when it is known that there is something for it.
pub(super) fn restore_storages(
    base: &Arc<dyn Storage>,
    logs: &[Arc<dyn Storage>],
    target: impl FnOnce() -> Result<Arc<dyn Storage>, BackupError>,
    options: &RestoreOptions,
) -> Result<Checkpoint, BackupError> {
    let base = Source::open(base, None)?;
    let id = Some(base.state.database);
    let mut logs: Vec<Source> =
        logs.iter().map(|log| Source::open(log, id)).collect::<Result<_, _>>()?;
    logs.sort_by_key(|log| log.last);
    let mut chain = vec![(&base, base.begins)];
    let mut until = base.last;
    for log in &logs {
        let enough = options.to.is_some_and(|to| to <= until);
        if enough || log.last <= until {
            continue;
        }
        if let Some((before, _)) = chain.last() {
            log.check_goes_on_from(before)?;
        }
        chain.push((log, until));
        until = log.last;
    }
    let (at, from) = (options.to.unwrap_or(until), base.from);
    if at < from || at > until {
        return Err(BackupError::OutOfReach { to: at, from, until });
    }
    let plan = Plan {
        source: &*base.storage,
        state: &base.state,
        begins: base.begins,
        at,
        options: CheckpointOptions { copy_files: options.copy_files },
    };
    let target = target()?;
    copying::make(&plan, &target, &mut |take| {
        chain.iter().try_for_each(|(source, after)| source.give(*after, take))
    })
}

/// A database that is read.
struct Source {
    storage: Arc<dyn Storage>,
    state: ManifestState,
    /// Its log has the commits after this one.
    begins: Lsn,
    /// The last one.
    last: Lsn,
    /// The earliest that it can be restored to.
    from: Lsn,
    /// What it says; `None`: it is in no log any more.
    last_record: Option<Vec<u8>>,
    _lock: Option<Box<dyn StorageLock>>,
}

impl Source {
    /// Opens a database for reading, and reads its log to the end.
    fn open(
        storage: &Arc<dyn Storage>,
        database: Option<DatabaseId>,
    ) -> Result<Source, BackupError> {
        recovery::refuse_foreign(&**storage)?;
        let lock = recovery::lock_shared(&**storage)?;
        let manifest = Manifest::open(Arc::clone(storage), true).map_err(OpenError::from)?;
        let state = manifest.map(|manifest| manifest.state().clone());
        let options = LogOptions {
            database: database.or(state.as_ref().map(|state| state.database)),
            begins: state.as_ref().map_or(Lsn::ZERO, |state| state.log_floor),
            reaches: state.as_ref().map_or(Lsn::ZERO, files::reaches),
            ..LogOptions::default()
        };
        let mut last_record = None;
        let mut reach = state.as_ref().map(Reach::new);
        let mut keep = |lsn, record: &[u8]| {
            reach.as_mut().map_or(Ok(()), |reach| reach.note(lsn, record))?;
            let kept: &mut Vec<u8> = last_record.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(record);
            Ok(())
        };
        let replayed =
            Log::replay_only(&**storage, &options, &mut keep).map_err(recovery::open_error)?;
        let found = state.as_ref().map(|state| state.database).or(replayed.database);
        let Some(id) = found else {
            let what = "there is neither a manifest nor a log".into();
            return Err(OpenError::NotADatabase { path: shown(&**storage), what }.into());
        };
        if database.is_some_and(|database| database != id) {
            let what = "it is another database than the backup".into();
            return Err(OpenError::NotADatabase { path: shown(&**storage), what }.into());
        }
        Ok(Source {
            storage: Arc::clone(storage),
            state: state.unwrap_or_else(|| ManifestState::new(id)),
            begins: replayed.begins,
            last: replayed.last,
            from: reach.map_or(Lsn::ZERO, |reach| reach.from),
            last_record,
            _lock: lock,
        })
    }

    /// Gives the records after an LSN that the log has.
    fn give(&self, after: Lsn, take: &mut Take<'_>) -> Result<(), BackupError> {
        let mut failed = None;
        let options = LogOptions {
            database: Some(self.state.database),
            begins: after,
            ..LogOptions::default()
        };
        let replayed = Log::replay_only(&*self.storage, &options, &mut |lsn, record| {
            // What the log begins with may be less than all that it has.
            take(&*self.storage, lsn, record).map_err(|error| {
                let short = error.to_string();
                failed = Some(error);
                short
            })
        });
        match (replayed, failed) {
            (_, Some(error)) => Err(error),
            (Ok(_), None) => Ok(()),
            (Err(error), None) => Err(recovery::open_error(error).into()),
        }
    }

    /// Refuses a log that does not go on where what was read `before` it ends.
    fn check_goes_on_from(&self, before: &Source) -> Result<(), BackupError> {
        let (path, needed) = (shown(&*self.storage), before.last);
        if self.begins > needed {
            return Err(BackupError::LogGap { path, begins: self.begins, needed });
        }
        if self.begins == needed {
            return Ok(());
        }
        // Where what was before has all in files there is only the timestamp to go by.
        let expected = before.last_record.as_deref();
        let mut same = None;
        self.give(needed.before(), &mut |_, lsn, record| {
            same.get_or_insert_with(|| lsn == needed && expected.is_none_or(|it| it == record));
            Ok(())
        })?;
        match same {
            Some(true) => Ok(()),
            _ => Err(BackupError::OtherHistory { path, at: needed }),
        }
    }
}
