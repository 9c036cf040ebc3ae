//! Checks a whole database: every file against itself and against the manifest, the files of a level against
//! each other, the names of keyspaces, and the log.
//!
//! 1. Nothing is written, and nothing is taken for granted that was checked before: files are opened anew.
//! 2. What is found is told with its file and offset, and what can still be looked at is. Where a thing
//!    cannot be found because of the damage (files that the manifest would name, records behind a hole of the
//!    log), that is said.
//! 3. A file that is there and not live is no damage: a crash leaves it, and the next open removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use isolith_index::levels::Levels;
use isolith_index::levels::{ValueUsage, value_usage};
use isolith_index::manifest::{FileRecord, MANIFEST, Manifest, ManifestError, ManifestState};
use isolith_index::sstable::{FileError, FileId, VALUE_FILE_OVERHEAD};
use isolith_index::{LevelSet, Memtable, OpenFile};
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Log, LogOpenError, LogOptions, LogReadError, Lsn, Storage, TornTail};

use crate::catalog::Definition;
use crate::core::{Core, SYSTEM_SPACE};
use crate::error::{Error, OpenError, Result};
use crate::files::{self, ValueFiles, file_name, value_file_name};
use crate::options::Builder;
use crate::record::{Operation, Operations};
use crate::recovery;

/// How closely a database is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// The ends, index and filter of each file, what the manifest says of it, the log. Not the data blocks.
    Quick,
    /// Everything: every block of every file, and the order of all versions.
    #[default]
    Full,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.file, self.offset, self.what)
    }
}

/// What a check of a database found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Live files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Live value files.
    pub value_files: u64,
    /// Bytes of them.
    pub value_bytes: u64,
    /// Versions found in them; 0 after [`Verify::Quick`].
    pub versions: u64,
    /// Keyspaces that have a name.
    pub keyspaces: u64,
    /// Records of the log that were looked at.
    pub records: u64,
    /// The last commit in the log.
    pub last: Lsn,
    /// Batches at the end of the log that were under way and never confirmed: the next open cuts them off.
    pub torn_tail: Option<TornTail>,
    /// Files that are not live. The next open removes them.
    pub orphans: Vec<String>,
    /// All that is damaged.
    pub damage: Vec<Damage>,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }
}

/// Is told how many bytes of the files were looked at, and of how many.
pub type VerifyProgress<'p> = dyn FnMut(u64, u64) + 'p;

/// Checks the database in a directory that nobody has open for writing, and writes nothing. An error says why
/// it could not be looked at.
pub fn verify(
    path: impl AsRef<Path>,
    how: Verify,
    progress: &mut VerifyProgress<'_>,
) -> Result<VerifyReport, OpenError> {
    let storage = recovery::open_existing(path.as_ref())?;
    recovery::refuse_foreign(&*storage)?;
    let _lock = recovery::lock_shared(&*storage)?;
    verify_storage(&storage, how, progress)
}

/// The same over any storage.
pub(crate) fn verify_storage(
    storage: &Arc<dyn Storage>,
    how: Verify,
    progress: &mut VerifyProgress<'_>,
) -> Result<VerifyReport, OpenError> {
    let mut check = Check::new(Arc::clone(storage), how, progress);
    let manifest = match Manifest::open(Arc::clone(storage), true) {
        Ok(manifest) => manifest,
        Err(ManifestError::Corrupt { file, offset, what }) => {
            let what = format!("{what}; without the manifest nothing else can be looked at");
            check.report.damage.push(Damage { file, offset, what });
            return Ok(check.report);
        }
        Err(error) => return Err(error.into()),
    };
    let state = manifest.map(|manifest| manifest.state().clone());
    if let Some(state) = &state {
        let system = check.files(state);
        check.names(state, system)?;
    }
    check.log(state.as_ref())?;
    check.orphans(state.as_ref())?;
    Ok(check.report)
}

/// Checks a database that is open.
pub(crate) fn verify_open(
    core: &Core,
    how: Verify,
    progress: &mut VerifyProgress<'_>,
) -> Result<VerifyReport> {
    let (Some(files), Some(log)) = (core.files(), core.log()) else {
        return Ok(VerifyReport::default());
    };
    let pinned = files.pin(core)?;
    let mut check = Check::new(Arc::clone(files.storage()), how, progress);
    check.files(&pinned.state);
    check.report.keyspaces = core.spaces().len() as u64;
    let mut reader = log
        .read_after(pinned.state.log_floor)
        .map_err(|gone| Error::Unreadable { file: "wal".into(), cause: gone.to_string() })?;
    let (records, mut undecoded) = (&mut check.report.records, None);
    let read = reader.read(&mut |lsn, record| {
        *records += 1;
        match decode(record) {
            Ok(()) => ControlFlow::Continue(()),
            Err(what) => {
                undecoded = Some(format!("record {lsn}: {what}"));
                ControlFlow::Break(())
            }
        }
    });
    check.report.last = reader.position();
    match read {
        Ok(()) => {}
        Err(LogReadError::Corrupt { file, offset, what }) => {
            check.report.damage.push(Damage { file, offset, what: what.into() });
        }
        Err(error) => check.damaged("wal", 0, error.to_string()),
    }
    if let Some(what) = undecoded {
        check.damaged("wal", 0, what);
    }
    let report = check.report;
    drop(pinned);
    // What fails is tried again by whoever flushes next.
    let _ = files.unpin(core);
    Ok(report)
}

/// The place of a damage, and what it is.
fn damage_of(error: FileError) -> (u64, String) {
    match error {
        FileError::Damaged { offset, what } => (offset, what.to_owned()),
        other => (0, other.to_string()),
    }
}

/// Whether a record can be read to its end.
fn decode(record: &[u8]) -> Result<(), String> {
    let mut operations = Operations::new(record);
    while operations.next()?.is_some() {}
    Ok(())
}

struct Check<'p> {
    storage: Arc<dyn Storage>,
    how: Verify,
    progress: &'p mut dyn FnMut(u64, u64),
    report: VerifyReport,
    /// The names of keyspaces, as files have them, and then the log.
    names: BTreeMap<String, SpaceId>,
    /// Files that commits in the log bring.
    brought: Vec<u64>,
}

impl<'p> Check<'p> {
    fn new(
        storage: Arc<dyn Storage>,
        how: Verify,
        progress: &'p mut VerifyProgress<'_>,
    ) -> Check<'p> {
        let report = VerifyReport::default();
        Check { storage, how, progress, report, names: BTreeMap::new(), brought: Vec::new() }
    }

    fn damaged(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        let file = self.storage.display(Path::new(file));
        self.report.damage.push(Damage { file, offset, what: what.into() });
    }

    /// Looks at every live file; gives those of the names, unless one of them cannot be opened.
    fn files(&mut self, state: &ManifestState) -> Option<LevelSet> {
        let total = state.files().map(|record| record.file.bytes).sum();
        let mut done = 0;
        let storage = Arc::clone(&self.storage);
        let mut values = ValueFiles::for_reading(&*storage, state.database);
        self.values(state, &mut values);
        (self.progress)(done, total);
        let mut system: Option<Levels<Arc<OpenFile>>> = Some(Levels::default());
        let mut known = BTreeSet::new();
        for (&space, of) in &state.spaces {
            for (level, files) in of.levels.levels.iter().enumerate() {
                for record in files {
                    if !known.insert(record.file.id) {
                        self.damaged(MANIFEST, 0, format!("file {} is live twice", record.file.id));
                    }
                    let open = self.file(state, record, &mut values, &mut done, total);
                    if space == SYSTEM_SPACE {
                        match (open, &mut system) {
                            (Some(open), Some(system)) => system.levels[level].push(Arc::new(open)),
                            _ => system = None,
                        }
                    }
                }
                self.order(level, files);
            }
        }
        system.map(LevelSet::new)
    }

    /// Looks at the value files by themselves. What is in them is looked at with what refers to it.
    fn values(&mut self, state: &ManifestState, values: &mut ValueFiles<'_>) {
        let mut owners: BTreeMap<u64, SpaceId> = BTreeMap::new();
        for (&space, of) in &state.spaces {
            let files = of.levels.levels.iter().flatten().map(|record| &record.file);
            for (id, ValueUsage { bytes, values: used, live }) in value_usage(files) {
                let name = value_file_name(FileId(id));
                self.report.value_files += 1;
                self.report.value_bytes += bytes;
                if owners.insert(id, space).is_some() {
                    self.damaged(&name, 0, "two keyspaces refer to it");
                }
                match values.open(FileId(id)) {
                    Err(error) => {
                        let (offset, what) = damage_of(files::told(FileId(id), error).1);
                        self.damaged(&name, offset, what);
                    }
                    Ok(file) if file.bytes() != bytes => {
                        self.damaged(&name, 0, "it is not as long as the manifest says");
                    }
                    Ok(file) => {
                        let there = bytes.saturating_sub(VALUE_FILE_OVERHEAD);
                        if live > there || used > file.totals().values {
                            self.damaged(&name, 0, "more of it is referred to than there is");
                        }
                    }
                }
            }
        }
    }

    /// Looks at one file.
    fn file(
        &mut self,
        state: &ManifestState,
        record: &FileRecord,
        values: &mut ValueFiles<'_>,
        done: &mut u64,
        total: u64,
    ) -> Option<OpenFile> {
        let id = FileId(record.file.id);
        let (name, before) = (file_name(id), *done);
        self.report.files += 1;
        self.report.bytes += record.file.bytes;
        let told = |error: FileError| {
            let (name, error) = files::told(id, error);
            let (offset, what) = damage_of(error);
            (name, offset, what)
        };
        let mut damage = Vec::new();
        let opened = files::open_file(&*self.storage, state.database, id).and_then(|mut table| {
            values.attach_found(&mut table);
            files::assigned(table, record.stamp_max)
                .map_err(|what| FileError::Damaged { offset: 0, what })
        });
        let open = match opened {
            Err(error) => {
                damage.push(told(error));
                None
            }
            Ok(table) => {
                let open = OpenFile::new(table, Arc::new(|_| ()));
                let properties = open.table().properties();
                let stamps = (properties.stamp_min, properties.stamp_max);
                // Of value files that cannot be opened it was told already.
                let whole = open.table().value_files().len() == properties.values.len();
                let meant = *open.meta() == record.file || !whole;
                if !meant || stamps != (record.stamp_min, record.stamp_max) {
                    let what = "it is not the file that the manifest means".into();
                    damage.push((name.clone(), 0, what));
                }
                match self.how {
                    Verify::Quick => damage.extend(open.table().check_ends().err().map(told)),
                    Verify::Full => {
                        let progress = &mut self.progress;
                        let mut tell = |error| damage.push(told(error));
                        self.report.versions += open.table().inspect(&mut tell, &mut |bytes| {
                            *done += bytes;
                            progress((*done).min(total), total);
                        });
                    }
                }
                Some(open)
            }
        };
        *done = before + record.file.bytes;
        (self.progress)(*done, total);
        for (name, offset, what) in damage {
            self.damaged(&name, offset, what);
        }
        open
    }

    /// Looks at the files of a level side by side.
    fn order(&mut self, level: usize, files: &[FileRecord]) {
        for pair in files.windows(2) {
            let [before, after] = pair else { continue };
            let overlap = before.file.overlaps(&after.file);
            let wrong = match level {
                // Newest first, as far as they have something to do with each other.
                0 => overlap && before.stamp_min <= after.stamp_max,
                _ => overlap || before.file.smallest >= after.file.smallest,
            };
            if wrong {
                let what = format!(
                    "it is not in order with {} on level {level}",
                    file_name(FileId(after.file.id))
                );
                self.damaged(&file_name(FileId(before.file.id)), 0, what);
            }
        }
    }

    /// Reads the names of keyspaces from their files.
    fn names(&mut self, state: &ManifestState, system: Option<LevelSet>) -> Result<(), OpenError> {
        let Some(system) = system else { return Ok(()) };
        let memtable = Arc::new(Memtable::new(0));
        let system = Space::over(SYSTEM_SPACE, memtable, Arc::new(system));
        match recovery::names(&system) {
            Ok(names) => {
                for (name, Definition { id, .. }) in names {
                    if id >= state.next_space || id == SYSTEM_SPACE {
                        let what =
                            format!("keyspace '{name}' has number {id}, which was not given");
                        self.damaged(MANIFEST, 0, what);
                    }
                    self.names.insert(name, id);
                }
                let mut ids: Vec<_> = self.names.values().collect();
                ids.sort_unstable();
                if ids.windows(2).any(|pair| pair[0] == pair[1]) {
                    self.damaged(MANIFEST, 0, "two keyspaces have the same number");
                }
                Ok(())
            }
            // Told with its file.
            Err(OpenError::Corrupt { .. }) if !self.report.is_sound() => Ok(()),
            Err(OpenError::Corrupt { file, offset, what }) => {
                self.report.damage.push(Damage { file, offset, what });
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Lists the files that are not live.
    fn orphans(&mut self, state: Option<&ManifestState>) -> Result<(), OpenError> {
        let live = state.into_iter().flat_map(files::live_files);
        // The log may bring some that the manifest is yet to be told of.
        let brought = self.brought.iter().map(|&id| FileId(id));
        let database = state.map(|state| state.database);
        let brought = brought.flat_map(|id| {
            let open = |database| files::open_file(&*self.storage, database, id).ok();
            let table = database.and_then(open);
            let used = table.into_iter().flat_map(|table| table.properties().values.clone());
            let used: Vec<_> = used.map(|used| value_file_name(used.file)).collect();
            used.into_iter().chain([file_name(id)])
        });
        let live: BTreeSet<String> = live.chain(brought).collect();
        let directory = Path::new(files::DIRECTORY);
        let entries = match self.storage.list(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(source) => {
                return Err(OpenError::Io { what: self.storage.display(directory), source });
            }
        };
        let names = entries.iter().map(|entry| format!("{}/{}", files::DIRECTORY, entry.name));
        let orphans = names.filter(|name| !live.contains(name));
        let shown = orphans.map(|name| self.storage.display(Path::new(&name))).collect();
        self.report.orphans = shown;
        Ok(())
    }

    /// Follows the log to its end, and looks at what its records say.
    fn log(&mut self, state: Option<&ManifestState>) -> Result<(), OpenError> {
        let options = LogOptions {
            database: state.map(|state| state.database),
            begins: state.map_or(Lsn::ZERO, |state| state.log_floor),
            ..LogOptions::default()
        };
        let flushed = |id: SpaceId| {
            let known = state.and_then(|state| state.spaces.get(&id));
            known.map_or(Lsn::ZERO, |known| known.flushed)
        };
        let (names, mut brought) = (&mut self.names, Vec::new());
        // Where their files are damaged, names may be missing without fault of the log's.
        let all_named = self.report.damage.is_empty();
        let replayed = Log::replay_only(&*self.storage, &options, &mut |lsn, record| {
            let mut operations = Operations::new(record);
            while let Some(operation) = operations.next()? {
                let space = operation.space();
                if let Operation::Ingest { files, .. } = operation {
                    brought.extend(files.iter());
                }
                let is_system = space == SYSTEM_SPACE;
                if lsn <= flushed(space) || lsn <= flushed(SYSTEM_SPACE) {
                    continue;
                }
                match operation {
                    Operation::Put { key, value, .. } if is_system => {
                        let name = String::from_utf8(key.to_vec());
                        match (name, Definition::decode(value)) {
                            (Ok(name), Ok(defined)) => drop(names.insert(name, defined.id)),
                            _ => return Err("it does not name a keyspace".into()),
                        }
                    }
                    Operation::Delete { key, .. } if is_system => {
                        let gone = names.retain_out(key);
                        if !gone && all_named {
                            return Err("a keyspace is dropped that does not exist".into());
                        }
                    }
                    _ if is_system => return Err("it does not name a keyspace".into()),
                    _ if all_named && !names.values().any(|id| *id == space) => {
                        return Err("it writes to an unknown keyspace".into());
                    }
                    _ => {}
                }
            }
            Ok(())
        });
        self.brought = brought;
        match replayed {
            Ok(replayed) => {
                self.report.records = replayed.report.records;
                self.report.last = replayed.last;
                self.report.torn_tail = replayed.report.torn_tail;
                let ahead = |record: &&FileRecord| record.stamp_max > replayed.last;
                let ahead = state.and_then(|state| state.files().find(ahead));
                if let Some(record) = ahead {
                    let what = format!(
                        "it has commit {}, and the log ends with {}",
                        record.stamp_max, replayed.last
                    );
                    self.damaged(&file_name(FileId(record.file.id)), 0, what);
                }
            }
            Err(LogOpenError::Corrupt { file, offset, what }) => {
                let what = format!("{what}; what the log has behind it was not looked at");
                self.report.damage.push(Damage { file, offset, what });
            }
            Err(LogOpenError::Refused { lsn, file, offset, what }) => {
                let what = format!("record {lsn}: {what}");
                self.report.damage.push(Damage { file, offset, what });
            }
            Err(LogOpenError::Foreign { file, what }) => {
                self.report.damage.push(Damage { file, offset: 0, what });
            }
            Err(error) => return Err(recovery::open_error(error)),
        }
        self.report.keyspaces = self.names.len() as u64;
        Ok(())
    }
}

/// Removing a name that is given as bytes.
trait RetainOut {
    /// Whether it was there.
    fn retain_out(&mut self, name: &[u8]) -> bool;
}

impl RetainOut for BTreeMap<String, SpaceId> {
    fn retain_out(&mut self, name: &[u8]) -> bool {
        std::str::from_utf8(name).is_ok_and(|name| self.remove(name).is_some())
    }
}

impl Builder {
    /// Checks what these options would open, without opening it: see [`verify`].
    pub fn verify(
        &self,
        how: Verify,
        progress: &mut VerifyProgress<'_>,
    ) -> Result<VerifyReport, OpenError> {
        match (&self.storage, &self.path) {
            (Some(storage), _) => {
                recovery::refuse_foreign(&**storage)?;
                let _lock = recovery::lock_shared(&**storage)?;
                verify_storage(storage, how, progress)
            }
            (None, Some(path)) => verify(path, how, progress),
            (None, None) => Ok(VerifyReport::default()),
        }
    }
}
