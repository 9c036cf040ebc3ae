//! What a database finds of files when it is opened.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use isolith_index::levels::{LEVELS, Levels};
use isolith_index::manifest::{Edit, Manifest, ManifestError, ManifestState};
use isolith_index::sstable::{BlockCache, FileError, FileId, Sstable};
use isolith_index::{Beneath, LevelSet, Memtable, OpenFile, Superseded, pin};
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Access, DatabaseId, Lsn, Storage};
use parking_lot::Mutex;

use super::values::ValueFiles;
use super::{DIRECTORY, MERGES, add_edit, changed, file_name, value_file_name};
use crate::error::OpenError;

/// Names of files that are live no more and that nobody reads.
pub(crate) type Doomed = Arc<Mutex<Vec<String>>>;

/// What opening finds of files.
pub(crate) struct OpenedFiles {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) manifest: Manifest,
    pub(crate) state: ManifestState,
    pub(crate) doomed: Doomed,
    pub(crate) cache: Arc<BlockCache>,
    /// The levels of each keyspace.
    pub(crate) levels: HashMap<SpaceId, Arc<LevelSet>>,
}

impl fmt::Debug for OpenedFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedFiles").field("state", &self.state).finish_non_exhaustive()
    }
}

impl OpenedFiles {
    /// A keyspace over what is in its files.
    pub(crate) fn space(&self, seed: u64, id: SpaceId) -> Arc<Space> {
        let levels = self.levels.get(&id).cloned().unwrap_or_default();
        let known = self.state.spaces.get(&id);
        let expiring = known.is_some_and(|known| known.expiring);
        let beneath = match (levels.is_empty(), expiring) {
            (true, _) => Beneath::Nothing,
            (false, false) => Beneath::Values,
            (false, true) => Beneath::Expiring,
        };
        let memtable = Arc::new(Memtable::above(beneath, seed ^ u64::from(id)));
        let space = Arc::new(Space::over(id, memtable, levels));
        if expiring {
            space.note_expiring();
        }
        if known.is_some_and(|known| known.options.contains(&MERGES)) {
            space.note_merging();
        }
        space
    }
}

impl OpenedFiles {
    /// Puts files into a keyspace that a commit brought with it and that the manifest does not know yet.
    /// What was written before is in files, all of it. Returns what the manifest is to be told.
    pub(crate) fn ingest(
        &self,
        seed: u64,
        space: &Arc<Space>,
        lsn: Lsn,
        files: impl Iterator<Item = u64>,
    ) -> Result<Vec<Edit>, String> {
        let mut new = Vec::new();
        let mut values = ValueFiles::new(&*self.storage, self.state.database, &self.doomed);
        for id in files {
            let file = FileId(id);
            let damaged = |error: &dyn fmt::Display| {
                format!("its file {}: {error}", self.storage.display(Path::new(&file_name(file))))
            };
            let table = open_cached(&*self.storage, self.state.database, file, &self.cache)
                .and_then(|mut table| values.attach(&mut table).map(|()| table));
            let table = assigned(table.map_err(|error| damaged(&error))?, lsn);
            let table = table.map_err(|what| damaged(&what))?;
            new.push(OpenFile::new(table, superseded(&self.doomed)));
        }
        let guard = pin();
        let known = space.view(&guard).levels();
        let level = ingest_level(known, &new);
        let mut edits = ingest_edits(space, lsn, level, &new);
        edits.extend(space.may_expire().then_some(Edit::ExpiringSpace(space.id)));
        let new = new.into_iter().map(|file| (level, Arc::new(file)));
        let levels = changed(known, &[], new);
        let beneath = if space.may_expire() { Beneath::Expiring } else { Beneath::Values };
        let fresh = Arc::new(Memtable::above(beneath, seed ^ u64::from(space.id)));
        space.ingest(lsn, fresh, levels, &guard);
        Ok(edits)
    }

    /// Tells the manifest of files that commits brought with them, and removes what is there beside the
    /// live ones.
    pub(crate) fn settle(&mut self, ingested: &[(SpaceId, Vec<Edit>)]) -> Result<(), OpenError> {
        for (_, edits) in ingested {
            self.manifest.append(edits)?;
        }
        if !ingested.is_empty() {
            self.state = self.manifest.state().clone();
        }
        remove_orphans(&*self.storage, &self.state)
    }
}

/// A file whose versions have their stamp: their own, or else that of the commit that brought it.
pub(crate) fn assigned(mut table: Arc<Sstable>, stamp: Lsn) -> Result<Arc<Sstable>, &'static str> {
    if table.is_unassigned() {
        let exclusive = Arc::get_mut(&mut table).filter(|_| stamp != Lsn::ZERO);
        exclusive.ok_or("it is not known which commit brought it")?.assign(stamp);
    }
    Ok(table)
}

/// The lowest level that new files can go to: nothing that is older may lie above them, nor beside them.
pub(super) fn ingest_level(levels: &LevelSet, new: &[OpenFile]) -> usize {
    let is_free = |level: &usize| {
        let files = &levels.levels().levels[*level];
        !files.iter().any(|file| new.iter().any(|new| new.meta().overlaps(file.meta())))
    };
    (0..LEVELS).take_while(is_free).last().unwrap_or(0)
}

/// What the manifest is told of files that a commit brought with it.
pub(super) fn ingest_edits(space: &Space, lsn: Lsn, level: usize, new: &[OpenFile]) -> Vec<Edit> {
    let added = new.iter().map(|file| add_edit(space.id, level, file));
    added.chain([Edit::Flushed { space: space.id, through: lsn }]).collect()
}

impl From<ManifestError> for OpenError {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Io { path, source } => OpenError::Io { what: path, source },
            ManifestError::Corrupt { file, offset, what } => {
                OpenError::Corrupt { file, offset, what: what.into() }
            }
            ManifestError::TooNew { file, found, supported } => {
                OpenError::FormatTooNew { path: file, found, supported }
            }
            other => OpenError::Io {
                what: "the manifest".into(),
                source: io::Error::other(other.to_string()),
            },
        }
    }
}

pub(super) fn read_error(storage: &dyn Storage, file: FileId, error: FileError) -> OpenError {
    let (name, error) = told(file, error);
    let name = storage.display(Path::new(&name));
    match error {
        FileError::Values { .. } => {
            OpenError::Corrupt { file: name, offset: 0, what: error.to_string() }
        }
        FileError::Io(source) if source.kind() == io::ErrorKind::NotFound => OpenError::Corrupt {
            file: name,
            offset: 0,
            what: "the manifest says that it is live, and it is not there".into(),
        },
        FileError::Io(source) => OpenError::Io { what: name, source },
        FileError::Damaged { offset, what } => {
            OpenError::Corrupt { file: name, offset, what: what.into() }
        }
        FileError::NeedsFeature { feature, .. } => OpenError::NeedsFeature { what: name, feature },
        FileError::TooNew { format } => OpenError::FormatTooNew {
            path: name,
            found: format,
            supported: isolith_index::sstable::FORMAT_NUMBER,
        },
    }
}

/// The name of the file that an error is about, and the error.
pub(crate) fn told(file: FileId, error: FileError) -> (String, FileError) {
    match error {
        FileError::Values { file, error } => (value_file_name(file), *error),
        error => (file_name(file), error),
    }
}

/// Opens one file, the value files that it refers to left out.
pub(crate) fn open_file(
    storage: &dyn Storage,
    database: DatabaseId,
    file: FileId,
) -> Result<Arc<Sstable>, FileError> {
    let pages = storage.open(Path::new(&file_name(file)), Access::Read)?.map()?;
    Sstable::open(Box::new(pages), database, file)
}

/// The same for readers: decompressed blocks are kept.
pub(super) fn open_cached(
    storage: &dyn Storage,
    database: DatabaseId,
    file: FileId,
    cache: &Arc<BlockCache>,
) -> Result<Arc<Sstable>, FileError> {
    let mut table = open_file(storage, database, file)?;
    if let Some(table) = Arc::get_mut(&mut table) {
        table.keep_in(cache);
    }
    Ok(table)
}

/// The log was durable up to here when the manifest was written: a file is never ahead of it.
pub(crate) fn reaches(state: &ManifestState) -> Lsn {
    let files = state.files().map(|record| record.stamp_max);
    let flushed = state.spaces.values().map(|known| known.flushed);
    files.chain(flushed).fold(state.log_floor, Lsn::max)
}

/// The names of all files that are live, value files included.
pub(crate) fn live_files(state: &ManifestState) -> impl Iterator<Item = String> {
    let sorted = state.files().map(|record| file_name(FileId(record.file.id)));
    let values = state.value_files().into_keys().map(|file| value_file_name(FileId(file)));
    sorted.chain(values)
}

/// Whom a file tells that is live no more and that nobody reads.
pub(super) fn superseded(doomed: &Doomed) -> Superseded {
    let doomed = Arc::clone(doomed);
    Arc::new(move |table: Arc<Sstable>| doomed.lock().push(file_name(table.id())))
}

/// Opens the manifest and the files that it says are live. What is there beside them stays for now: the log
/// may tell of files that the manifest does not know yet.
/// `memory_bytes` is the budget of the database. `None`: there is no manifest.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    read_only: bool,
    memory_bytes: usize,
) -> Result<Option<OpenedFiles>, OpenError> {
    let opened = Manifest::open(Arc::clone(storage), read_only).map_err(OpenError::from)?;
    let Some(manifest) = opened else { return Ok(None) };
    let state = manifest.state().clone();
    let (doomed, cache) = (Arc::default(), new_cache(memory_bytes));
    let on_superseded = superseded(&doomed);
    let mut all = HashMap::new();
    let mut values = ValueFiles::new(&**storage, state.database, &doomed);
    for (&space, known) in &state.spaces {
        let mut levels: Levels<Arc<OpenFile>> = Levels::default();
        for (level, files) in known.levels.levels.iter().enumerate() {
            for record in files {
                let file = FileId(record.file.id);
                let table = open_cached(&**storage, state.database, file, &cache)
                    .and_then(|mut table| values.attach(&mut table).map(|()| table))
                    .map_err(|error| read_error(&**storage, file, error))?;
                let table = assigned(table, record.stamp_max).map_err(|what| {
                    let file = storage.display(Path::new(&file_name(file)));
                    OpenError::Corrupt { file, offset: 0, what: what.into() }
                })?;
                let found = OpenFile::new(table, Arc::clone(&on_superseded));
                if *found.meta() != record.file {
                    return Err(OpenError::Corrupt {
                        file: storage.display(Path::new(&file_name(file))),
                        offset: 0,
                        what: "it is not the file that the manifest means".into(),
                    });
                }
                levels.levels[level].push(Arc::new(found));
            }
        }
        all.insert(space, Arc::new(LevelSet::new(levels)));
    }
    let storage = Arc::clone(storage);
    Ok(Some(OpenedFiles { storage, manifest, state, doomed, cache, levels: all }))
}

/// Removes files that are not live: of a flush or compaction that a crash cut short, or not removed yet.
pub(super) fn remove_orphans(
    storage: &dyn Storage,
    state: &ManifestState,
) -> Result<(), OpenError> {
    let directory = Path::new(DIRECTORY);
    let io = |source| OpenError::Io { what: storage.display(directory), source };
    storage.create_dir(directory).map_err(io)?;
    let live: BTreeSet<String> = live_files(state).collect();
    let mut removed = false;
    for entry in storage.list(directory).map_err(io)? {
        let name = format!("{DIRECTORY}/{}", entry.name);
        let ours = entry.name.ends_with(".sst") || entry.name.ends_with(".val");
        if ours && !entry.is_directory && !live.contains(&name) {
            storage.remove(Path::new(&name)).map_err(io)?;
            removed = true;
        }
    }
    if removed { storage.sync_dir(directory).map_err(io) } else { Ok(()) }
}

/// A cache for a database of whose memory nothing is known yet.
fn new_cache(memory_bytes: usize) -> Arc<BlockCache> {
    Arc::new(BlockCache::new(memory_bytes as u64 / 4))
}

/// Makes the manifest of a new database.
pub(crate) fn create(
    storage: &Arc<dyn Storage>,
    database: DatabaseId,
    memory_bytes: usize,
) -> Result<OpenedFiles, OpenError> {
    let manifest = Manifest::create(Arc::clone(storage), database).map_err(OpenError::from)?;
    let state = ManifestState::new(database);
    remove_orphans(&**storage, &state)?;
    let (storage, levels, doomed) = (Arc::clone(storage), HashMap::new(), Arc::default());
    let cache = new_cache(memory_bytes);
    Ok(OpenedFiles { storage, manifest, state, doomed, cache, levels })
}
