//! Opening: the directory's lock, the storage, and the replay of the log.
//!
//! Replay installs each record as the commit that it was, in LSN order, with its own timestamp; what
//! no one can see any more is pruned on the way (by several threads: `shares.rs`). Keyspace 0 holds the names of all others: key = the
//! name, value = the number (u32, little endian), and options; its puts and deletes create, change and drop
//! keyspaces.

use std::collections::HashMap;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use isolith_index::manifest::{Edit, MANIFEST, MANIFEST_NEW};
use isolith_index::{Direction, FileCursors, Found, Memtable, Slice, pin};
use isolith_txn::{Space, SpaceId};
use isolith_wal::storage::syscall::SyscallStorage;
use isolith_wal::{
    Log, LogOpenError, LogOptions, Lsn, Storage, StorageLock, open_storage, random_seed,
};

use crate::catalog::{Catalog, Definition};
use crate::core::{Recovered, SYSTEM_SPACE};
use crate::error::{Error, OpenError};
use crate::files::{self, FileOptions, Files, OpenedFiles};
use crate::merge::Operators;
use crate::options::Builder;
use crate::record::{Named, Operation, Operations};

mod known;
mod shares;
#[cfg(test)]
mod tests;

use known::Known;
use shares::Shares;

/// The lock file of a database's directory.
const LOCK: &str = "LOCK";
/// The seed of a database without threads of its own.
const REPEATABLE_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Says of a directory that it holds a copy which was not finished.
pub(crate) const PARTIAL: &str = "PARTIAL";
/// What a database's directory may hold.
const NAMES: [&str; 5] = [LOCK, "wal", files::DIRECTORY, MANIFEST, MANIFEST_NEW];

fn memtable(seed: u64, id: SpaceId) -> Arc<Space> {
    Arc::new(Space::new(id, Arc::new(Memtable::new(seed ^ u64::from(id)))))
}

/// The keyspaces that the system keyspace names, and their options.
pub(crate) fn names(system: &Space) -> Result<Vec<(String, Definition)>, OpenError> {
    let (guard, mut cursors) = (pin(), FileCursors::default());
    let mut names = Vec::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let damaged = || OpenError::Corrupt {
        file: MANIFEST.into(),
        offset: 0,
        what: "a keyspace's name".into(),
    };
    let mut bad = false;
    let mut visit = |key: &[u8], found: Found<'_>| {
        let value = match found {
            Found::Absent => return ControlFlow::Continue(()),
            Found::Put(version) => Slice::from(version.value()),
            Found::Stored(stored) => stored.value,
            Found::Lent(lent) => Slice::from(lent.value),
            Found::Merged(_) | Found::Run(_) => Slice::from(&b""[..]),
        };
        match (std::str::from_utf8(key), Definition::decode(&value)) {
            (Ok(name), Ok(definition)) => names.push((name.to_owned(), definition)),
            _ => bad = true,
        }
        ControlFlow::Continue(())
    };
    let view = system.view(&guard);
    view.scan(all, Direction::Forward, Lsn::MAX, &mut cursors, &guard, |key, found| {
        visit(key, found.found)
    })
    .map_err(|error| open_read_error(Error::from(error)))?;
    if bad { Err(damaged()) } else { Ok(names) }
}

/// A damaged file, found while opening.
fn open_read_error(error: Error) -> OpenError {
    match error {
        Error::Corrupt { file, offset, what } => OpenError::Corrupt { file, offset, what },
        other => OpenError::Io {
            what: "reading the names of keyspaces".into(),
            source: io::Error::other(other.to_string()),
        },
    }
}

/// A database that lives in memory alone.
pub(crate) fn in_memory(options: &Builder) -> Recovered {
    let seed = random_seed();
    Recovered {
        log: None,
        files: None,
        backend: None,
        report: None,
        lock: None,
        last: Lsn::ZERO,
        first_new: Lsn::new(1, 1),
        system: memtable(seed, SYSTEM_SPACE),
        catalog: Catalog::new(),
        operators: options.operators.clone(),
        seed,
    }
}

/// Opens what `options` name.
pub(crate) fn recover(options: &Builder) -> Result<Recovered, OpenError> {
    options.operators.check()?;
    if options.read_only {
        return recover_read_only(options);
    }
    let (storage, backend) = match (&options.storage, &options.path) {
        (Some(storage), _) => (Arc::clone(storage), None),
        (None, None) => return Ok(in_memory(options)),
        (None, Some(path)) => {
            let what = format!("opening {}", path.display());
            let opened = open_storage(path, options.io);
            let (storage, backend) = opened.map_err(|source| OpenError::Io { what, source })?;
            (storage, Some(backend))
        }
    };
    match refuse_foreign(&*storage) {
        Err(OpenError::Partial { .. }) if options.unfinished => {}
        looked_at => looked_at?,
    }
    let lock = storage.try_lock(Path::new(LOCK)).map_err(|source| {
        let path = storage.display(Path::new(LOCK));
        match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { path },
            _ => OpenError::Io { what: format!("locking {path}"), source },
        }
    })?;
    // What it decides is repeatable where one thread does everything (`Builder::threads`).
    let seed = if options.threads { random_seed() } else { REPEATABLE_SEED };
    let found = files::open(&storage, false, options.memory_bytes)?;
    let state = found.as_ref().map(|found| found.state.clone());
    let mut replay = Replay::new(seed, options.operators.clone(), found.as_ref())?;
    let log_options = LogOptions {
        database: state.as_ref().map(|state| state.database),
        begins: state.as_ref().map_or(Lsn::ZERO, |state| state.log_floor),
        reaches: state.as_ref().map_or(Lsn::ZERO, files::reaches),
        segment_bytes: options.log_segment_bytes(),
        retained_bytes: options.log_retained_bytes,
        depth_max: options.log_depth_max,
        buffered_delay: options.buffered_delay,
        threads: options.threads,
        queue_bytes_max: (options.memory_bytes / 16).clamp(1 << 20, 32 << 20),
        ..LogOptions::default()
    };
    let mut shares = Shares::new(options.replay_threads());
    let mut apply = |lsn, record: &[u8]| shares.apply(&mut replay, lsn, record);
    let opened = Log::open(Arc::clone(&storage), log_options, &mut apply).map_err(open_error)?;
    shares.end(&replay.known).map_err(replay_error)?;
    let Replay { system, catalog, known, mut ingested, missing, .. } = replay;
    let Known { spaces, operators, .. } = known;
    if let Some(what) = missing.into_values().next() {
        let file = storage.display(Path::new(files::DIRECTORY));
        return Err(OpenError::Corrupt { file, offset: 0, what });
    }
    ingested.retain(|(id, _)| spaces.contains_key(id));
    check_options(&catalog, &operators)?;
    let mut found = match found {
        Some(found) => found,
        None => files::create(&storage, opened.database, options.memory_bytes)?,
    };
    found.settle(&ingested)?;
    let dropped = found.state.spaces.keys().filter(|id| !spaces.contains_key(*id)).copied();
    let dropped: Vec<SpaceId> = dropped.collect();
    let attended = options.starts_threads();
    let sizes = FileOptions::of(options);
    let files = Files::new(found, Arc::clone(&opened.log), sizes, attended, &options.clock);
    files.forget_spaces(&dropped).map_err(OpenError::from)?;
    Ok(Recovered {
        log: Some(opened.log),
        files: Some(Arc::new(files)),
        backend,
        report: Some(opened.report),
        lock: Some(lock),
        last: opened.last,
        first_new: opened.first_new,
        system,
        catalog,
        operators,
        seed,
    })
}

/// Refuses a database of whose keyspaces one asks for what is not registered, or what this build leaves out.
fn check_options(catalog: &Catalog, operators: &Operators) -> Result<(), OpenError> {
    for (keyspace, space) in &catalog.by_name {
        let checked = catalog.options(space.id).check(operators);
        let what = format!("keyspace '{keyspace}'");
        checked.map_err(|error| match error {
            Error::UnknownOperator { name } => {
                OpenError::UnknownOperator { keyspace: keyspace.to_string(), name }
            }
            Error::NeedsFeature { feature, .. } => OpenError::NeedsFeature { what, feature },
            other => {
                let what = format!("{what}: {other}");
                OpenError::Corrupt { file: MANIFEST.into(), offset: 0, what }
            }
        })?;
    }
    Ok(())
}

/// Opens what `options` name, and writes nothing: files are read where they are, the log is replayed into
/// memory, and what a crash left behind stays.
fn recover_read_only(options: &Builder) -> Result<Recovered, OpenError> {
    let storage = match (&options.storage, &options.path) {
        (Some(storage), _) => Arc::clone(storage),
        (None, None) => return Ok(in_memory(options)),
        (None, Some(path)) => open_existing(path)?,
    };
    refuse_foreign(&*storage)?;
    let lock = lock_shared(&*storage)?;
    read_only_over(storage, lock, options)
}

/// The same over a storage that was looked at and is locked.
pub(crate) fn read_only_over(
    storage: Arc<dyn Storage>,
    lock: Option<Box<dyn StorageLock>>,
    options: &Builder,
) -> Result<Recovered, OpenError> {
    let seed = random_seed();
    let found = files::open(&storage, true, options.memory_bytes)?;
    let mut replay = Replay::new(seed, options.operators.clone(), found.as_ref())?;
    let log_options = LogOptions {
        database: found.as_ref().map(|found| found.state.database),
        begins: found.as_ref().map_or(Lsn::ZERO, |found| found.state.log_floor),
        reaches: found.as_ref().map_or(Lsn::ZERO, |found| files::reaches(&found.state)),
        ..LogOptions::default()
    };
    let mut shares = Shares::new(options.replay_threads());
    let mut apply = |lsn, record: &[u8]| shares.apply(&mut replay, lsn, record);
    let replayed = Log::replay_only(&*storage, &log_options, &mut apply).map_err(open_error)?;
    shares.end(&replay.known).map_err(replay_error)?;
    if found.is_none() && replayed.database.is_none() {
        return Err(OpenError::NotADatabase {
            path: storage.display(Path::new("")),
            what: "there is neither a manifest nor a log".into(),
        });
    }
    let Replay { system, catalog, known, missing, .. } = replay;
    if let Some(what) = missing.into_values().next() {
        let file = storage.display(Path::new(files::DIRECTORY));
        return Err(OpenError::Corrupt { file, offset: 0, what });
    }
    Ok(Recovered {
        log: None,
        files: None,
        backend: None,
        report: Some(replayed.report),
        lock,
        last: replayed.last,
        first_new: replayed.last.next(),
        system,
        catalog,
        operators: known.operators,
        seed,
    })
}

/// The storage of a directory that is there.
pub(crate) fn open_existing(path: &Path) -> Result<Arc<dyn Storage>, OpenError> {
    let what = || format!("opening {}", path.display());
    let storage = SyscallStorage::open_existing(path)
        .map_err(|source| OpenError::Io { what: what(), source })?;
    Ok(Arc::new(storage))
}

/// Keeps writers away, but not others who read. `None`: nobody has ever opened it for writing.
pub(crate) fn lock_shared(
    storage: &dyn Storage,
) -> Result<Option<Box<dyn StorageLock>>, OpenError> {
    let path = || storage.display(Path::new(LOCK));
    match storage.try_lock_shared(Path::new(LOCK)) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(OpenError::Locked { path: path() })
        }
        Err(source) => Err(OpenError::Io { what: format!("locking {}", path()), source }),
    }
}

/// Refuses to make a database out of a directory that holds other things, or half of a copy.
pub(crate) fn refuse_foreign(storage: &dyn Storage) -> Result<(), OpenError> {
    let root = Path::new("");
    let entries = storage.list(root).map_err(|source| OpenError::Io {
        what: format!("reading the directory {}", storage.display(root)),
        source,
    })?;
    if entries.iter().any(|entry| entry.name == PARTIAL) {
        return Err(OpenError::Partial { path: storage.display(root) });
    }
    let foreign = entries.iter().find(|entry| !NAMES.contains(&entry.name.as_str()));
    match foreign {
        Some(entry) if entry.name != "lost+found" => Err(OpenError::NotADatabase {
            path: storage.display(root),
            what: format!("it holds '{}', which isolith did not make", entry.name),
        }),
        _ => Ok(()),
    }
}

pub(crate) fn open_error(error: LogOpenError) -> OpenError {
    match error {
        LogOpenError::Io { path, source } => OpenError::Io { what: path, source },
        LogOpenError::Corrupt { file, offset, what } => OpenError::Corrupt { file, offset, what },
        LogOpenError::Refused { lsn, file, offset, what } => {
            OpenError::Corrupt { file, offset, what: format!("record {lsn}: {what}") }
        }
        LogOpenError::Foreign { file, what } => OpenError::NotADatabase { path: file, what },
        LogOpenError::FormatTooNew { file, found, supported } => {
            OpenError::FormatTooNew { path: file, found, supported }
        }
        LogOpenError::Write(cause) => OpenError::Io {
            what: "marking the log as open".into(),
            source: io::Error::new(cause.error.kind(), cause.to_string()),
        },
        LogOpenError::EpochsUsedUp => OpenError::Io {
            what: "opening the log".into(),
            source: io::Error::other(
                "it was recovered 131071 times, and no recovery epoch is left: load its data into a new database",
            ),
        },
    }
}

/// What a record could not be applied for that was found sound when it was read.
fn replay_error(what: String) -> OpenError {
    OpenError::Io { what: "replaying the log".into(), source: io::Error::other(what) }
}

/// The state that replay builds up.
struct Replay<'f> {
    seed: u64,
    /// What is in files.
    found: Option<&'f OpenedFiles>,
    system: Arc<Space>,
    catalog: Catalog,
    known: Known,
    /// What the manifest does not say yet of files that commits brought with them.
    ingested: Vec<(SpaceId, Vec<Edit>)>,
    /// What is wrong with such files, by keyspace.
    missing: HashMap<SpaceId, String>,
}

impl<'f> Replay<'f> {
    fn new(
        seed: u64,
        mut operators: Operators,
        found: Option<&'f OpenedFiles>,
    ) -> Result<Self, OpenError> {
        let space = |id| match found {
            Some(found) => found.space(seed, id),
            None => memtable(seed, id),
        };
        let system = space(SYSTEM_SPACE);
        let mut spaces = HashMap::from([(SYSTEM_SPACE, Arc::clone(&system))]);
        let mut catalog = Catalog::new();
        let mut flushed = HashMap::new();
        if let Some(found) = found {
            let damaged = |what: &str| OpenError::Corrupt {
                file: MANIFEST.into(),
                offset: 0,
                what: what.into(),
            };
            let known = found.state.operators.iter().map(|(number, name)| (*number, name.clone()));
            operators.number_as(known).map_err(damaged)?;
            for (name, Definition { id, options, .. }) in names(&system)? {
                let space = space(id);
                spaces.insert(id, Arc::clone(&space));
                catalog.insert(&name, space, options);
            }
            catalog.next = catalog.next.max(found.state.next_space);
            flushed = found.state.spaces.iter().map(|(id, known)| (*id, known.flushed)).collect();
        }
        Ok(Self {
            seed,
            found,
            system,
            catalog,
            known: Known { spaces, operators, flushed },
            ingested: Vec::new(),
            missing: HashMap::new(),
        })
    }

    /// Installs one record. All of it is decoded before any of it is installed.
    fn apply(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), String> {
        let mut shares = Vec::new();
        let mut operations = Operations::new(record);
        while let Some(operation) = operations.next()? {
            let id = operation.space();
            if self.known.is_flushed(lsn, id) {
                continue;
            }
            if let Operation::Ingest { expiring, files, .. } = operation {
                let space = self.known.spaces.get(&id);
                let space = space.ok_or("it brings files to an unknown keyspace")?;
                if expiring {
                    space.note_expiring();
                }
                let found = self.found.ok_or("it brings files where there are none")?;
                match found.ingest(self.seed, space, lsn, files.iter()) {
                    Ok(edits) => self.ingested.push((id, edits)),
                    // If the keyspace is dropped further on they may be gone.
                    Err(what) => drop(self.missing.insert(id, what)),
                }
                continue;
            }
            if let Operation::Merge { operator: Named::Name(name), .. } = operation {
                self.known.operators.intern(name)?;
            }
            self.known.add(&mut shares, operation)?;
            if id == SYSTEM_SPACE {
                self.define(operation)?;
            }
        }
        if isolith_wal::planted!("torn-multi-keyspace-replay") {
            shares.truncate(1);
        }
        for (id, _) in &shares {
            if let Some(space) = self.known.spaces.get(id) {
                space.note_write(lsn);
            }
        }
        self.known.install(lsn, &shares);
        Ok(())
    }

    /// Creates or drops a keyspace, as an operation on keyspace 0 says.
    fn define(&mut self, operation: Operation<'_>) -> Result<(), String> {
        let name = |key| std::str::from_utf8(key).map_err(|_| "a keyspace's name is not UTF-8");
        match operation {
            Operation::Put { key, value, .. } => {
                let name = name(key)?;
                let Definition { id, options, changes } = Definition::decode(value)?;
                if changes {
                    let space = self.catalog.space(name).filter(|space| space.id == id).cloned();
                    let space = space.ok_or("a keyspace is given options that does not exist")?;
                    self.catalog.set_options(&space, options);
                    return Ok(());
                }
                if self.known.spaces.contains_key(&id) {
                    return Err("a keyspace's number is given twice".into());
                }
                // Created before its files, and named since.
                let space = match self.found {
                    Some(found) => found.space(self.seed, id),
                    None => memtable(self.seed, id),
                };
                self.known.spaces.insert(id, Arc::clone(&space));
                self.catalog.insert(name, space, options);
            }
            Operation::Delete { key, .. } => {
                let dropped = self.catalog.remove(name(key)?);
                let dropped = dropped.ok_or("a keyspace is dropped that does not exist")?;
                self.known.spaces.remove(&dropped.id);
                self.missing.remove(&dropped.id);
            }
            Operation::DeleteRange { .. } => return Err("a range of keyspaces is dropped".into()),
            Operation::Merge { .. } => return Err("something is merged into a keyspace".into()),
            Operation::Ingest { .. } => return Err("files are brought to the names".into()),
        }
        Ok(())
    }
}
