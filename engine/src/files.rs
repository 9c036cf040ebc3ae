//! The sorted files of a database: how memtables become files, files become other files, and which of
//! them are live.
//!
//! ```text
//!   active ──freeze──► frozen ──flush──► level 0 ──compact──► level n       the log is released behind it
//!          (window)            manifest            manifest
//! ```
//!
//! 1. A file is written under a number of its own, synced, and its name made durable, before the manifest
//!    says that it is live; it is removed only after the manifest has said, durably, that it is not, and
//!    the last reader has let go of it. So a crash leaves the old files or the new ones, and what is in
//!    neither set is an orphan, removed at the next open.
//! 2. A memtable is flushed only once the log is durable up to all that it holds (protocol rule 21): a file
//!    is never ahead of the log. The log is released only up to what every keyspace has in files.
//! 3. Memtables of a keyspace are flushed oldest first; a view is replaced under `changing`.
//! 4. Nothing here is called within the commit window, but for the freeze itself, which makes no memory
//!    and does no I/O there.
//! 5. What fails (a full disk) leaves everything as it was, is told to writers that wait for memory, and is
//!    tried again.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isolith_index::compact::CompactionRules;
use isolith_index::levels::{CompactionOptions, LEVELS, Levels};
use isolith_index::manifest::{Edit, FileRecord, Manifest, ManifestError, ManifestState};
use isolith_index::sstable::{
    FileError, FileId, Properties, Sstable, SstableOptions, SstableWriter,
};
use isolith_index::{
    Beneath, LevelSet, Memtable, OpenFile, ReadError, Superseded, flush_memtable, pin,
};
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Access, DatabaseId, Log, LogHold, Lsn, Storage};
use parking_lot::{Condvar, Mutex};

use crate::core::{Core, SYSTEM_SPACE};
use crate::error::{Error, OpenError, StallReason};
use crate::merge::Calm;
use crate::options::Builder;

use crate::stats::FileStats;

mod bulk;
mod compaction;
mod sink;

pub(crate) use bulk::Loaded;
use compaction::NewFiles;
use sink::Sink;

/// Where the files are, below the storage's root.
pub(crate) const DIRECTORY: &str = "sst";

/// The name of a file, below the database's directory.
pub(crate) fn file_name(file: FileId) -> String {
    format!("{DIRECTORY}/{:016x}.sst", file.0)
}

/// What files are made of, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileOptions {
    /// Memtables that hold so much together are frozen, the largest first.
    pub(crate) active_bytes_max: usize,
    /// Memtables, frozen ones included, that hold so much make writers wait.
    pub(crate) memory_bytes_max: usize,
    /// So much of the log may be waited for by idle memtables.
    pub(crate) log_bytes_max: u64,
    /// A file that compaction writes is ended once it has so much.
    pub(crate) file_bytes: u64,
    /// When levels are compacted.
    pub(crate) levels: CompactionOptions,
    /// Files of level 0 at which writers are slowed down, and at which they wait.
    pub(crate) slow_files: usize,
    pub(crate) stop_files: usize,
}

impl FileOptions {
    /// What follows from the options of a database.
    pub(crate) fn of(options: &Builder) -> Self {
        let (memory_bytes, segment_bytes) = (options.memory_bytes, options.log_segment_bytes());
        let active = options.memtable_bytes.unwrap_or(memory_bytes / 4).max(1);
        let file = options.file_bytes.unwrap_or(FILE_BYTES.min(active as u64 / 2).max(64 << 10));
        Self {
            active_bytes_max: active,
            memory_bytes_max: memory_bytes / 8 * 5,
            log_bytes_max: (4 * segment_bytes).max(memory_bytes as u64),
            file_bytes: file,
            levels: CompactionOptions { base_bytes_max: 4 * file, ..CompactionOptions::default() },
            slow_files: 12,
            stop_files: 24,
        }
    }
}

/// A memtable on its way to a file.
#[derive(Debug)]
struct Frozen {
    space: Arc<Space>,
    memtable: Arc<Memtable>,
    /// Nothing in it is above this.
    through: Lsn,
    /// The first commit in it.
    since: Lsn,
}

/// What files did since the database was opened.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) flushes: AtomicU64,
    pub(crate) flushed_bytes: AtomicU64,
    pub(crate) compactions: AtomicU64,
    pub(crate) compacted_bytes_in: AtomicU64,
    pub(crate) compacted_bytes_out: AtomicU64,
    pub(crate) stalls: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        // Relaxed: a statistic.
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

/// What is there to do, and what became of it.
#[derive(Debug, Default)]
struct Work {
    /// Counts up when there is something new to do.
    asked: u64,
    /// Counts up when memory was given back, or files were compacted.
    done: u64,
    /// Why the last attempt failed.
    failure: Option<String>,
    over: bool,
}

/// The files of one database.
pub(crate) struct Files {
    storage: Arc<dyn Storage>,
    database: DatabaseId,
    log: Arc<Log>,
    options: FileOptions,
    manifest: Mutex<Live>,
    next_file: AtomicU64,
    /// Held while some keyspace's view is replaced. Taken before the window's mutex.
    changing: Mutex<()>,
    /// Held by the one who flushes.
    flushing: Mutex<()>,
    /// Held by the one who compacts.
    compacting: Mutex<()>,
    /// Oldest first.
    frozen: Mutex<VecDeque<Frozen>>,
    /// Memtables that are in files by now, until nobody looks at them.
    retired: Mutex<Vec<Arc<Memtable>>>,
    work: Mutex<Work>,
    /// Waited for by those who do the work, and by those who need it.
    asked: Condvar,
    done: Condvar,
    /// Whether threads do the work. Otherwise writers do it themselves.
    attended: bool,
    /// Numbers of files that are live no more and that nobody reads.
    doomed: Arc<Mutex<Vec<FileId>>>,
    /// What the manifest is to be told of commits that brought files, before anything else.
    owed: Mutex<Owed>,
    /// The last commit up to which the log was released.
    released: Mutex<Lsn>,
    /// Whether a keyspace is being dropped, and it is not known yet that the drop is durable: until then
    /// the log may be all that has its data. Guarded by `changing` where it is set, and where it is read.
    dropping: AtomicBool,
    /// The files of level 0 of the keyspace that has the most. Relaxed: a hint for writers.
    level0: AtomicU64,
    pub(crate) counters: Counters,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Commits that brought files and that the manifest does not know: the log has them.
#[derive(Debug, Default)]
struct Owed {
    /// Nothing above this is released of the log.
    above: Option<Lsn>,
    edits: Vec<Edit>,
}

/// What an edit makes of memory, once it is known whether it was made.
type Finish = Box<dyn FnOnce(&Files, bool) + Send>;

/// The manifest, as far as it is known what it says.
struct Live {
    /// `None` after a failure: it is opened again before the next edit.
    manifest: Option<Manifest>,
    /// Edits of which it is not known whether they were made.
    uncertain: Option<(Vec<Edit>, Finish)>,
}

/// Whether the state has what an edit says, which was made together with `all`.
fn holds(edit: &Edit, all: &[Edit], state: &ManifestState) -> bool {
    let space = |space: &SpaceId| state.spaces.get(space);
    match edit {
        Edit::AddFile { space: of, level, file } => space(of).is_some_and(|known| {
            known.levels.levels[usize::from(*level)]
                .iter()
                .any(|other| other.file.id == file.file.id)
        }),
        Edit::RemoveFile { id, .. } => {
            let moved =
                |edit: &Edit| matches!(edit, Edit::AddFile { file, .. } if file.file.id == *id);
            all.iter().any(moved) || state.files().all(|other| other.file.id != *id)
        }
        Edit::Flushed { space: of, through } => {
            space(of).is_some_and(|known| known.flushed >= *through)
        }
        Edit::DropSpace { space: of } => space(of).is_none(),
        Edit::LogFloor(floor) => state.log_floor >= *floor,
        // They come with others that tell.
        Edit::NextFile(_)
        | Edit::NextSpace(_)
        | Edit::Operator { .. }
        | Edit::ExpiringSpace(_)
        | Edit::SpaceOptions { .. } => true,
    }
}

/// Why files were not written.
#[derive(Debug)]
pub(crate) enum WorkError {
    /// The storage refused.
    Io { what: String, source: io::Error },
    /// The manifest did.
    Manifest(ManifestError),
    /// A file that was to be compacted is damaged.
    Damaged(Error),
    /// The log is not, and will not be, durable up to what was to be flushed.
    Log(String),
    /// The database is being closed.
    Over,
}

impl fmt::Display for WorkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WorkError::Io { what, source } => write!(f, "{what}: {source}"),
            WorkError::Manifest(error) => error.fmt(f),
            WorkError::Damaged(error) => error.fmt(f),
            WorkError::Log(cause) => f.write_str(cause),
            WorkError::Over => f.write_str("the database is being closed"),
        }
    }
}

impl From<WorkError> for Error {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Damaged(error) => error,
            WorkError::Over => Error::Closed,
            other => Error::Files { cause: other.to_string() },
        }
    }
}

impl From<ManifestError> for WorkError {
    fn from(error: ManifestError) -> Self {
        WorkError::Manifest(error)
    }
}

type Done<T> = Result<T, WorkError>;

/// What is live at one moment, kept: its files are not removed, nor is the log released that comes with them.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) state: ManifestState,
    _levels: Vec<Arc<LevelSet>>,
    _log: LogHold,
}

/// What opening finds of files.
pub(crate) struct OpenedFiles {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) manifest: Manifest,
    pub(crate) state: ManifestState,
    pub(crate) doomed: Arc<Mutex<Vec<FileId>>>,
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
        for id in files {
            let file = FileId(id);
            let damaged = |error: &dyn fmt::Display| {
                format!("its file {}: {error}", self.storage.display(Path::new(&file_name(file))))
            };
            let table = open_file(&*self.storage, self.state.database, file);
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
fn ingest_level(levels: &LevelSet, new: &[OpenFile]) -> usize {
    let is_free = |level: &usize| {
        let files = &levels.levels().levels[*level];
        !files.iter().any(|file| new.iter().any(|new| new.meta().overlaps(file.meta())))
    };
    (0..LEVELS).take_while(is_free).last().unwrap_or(0)
}

/// What the manifest is told of files that a commit brought with it.
fn ingest_edits(space: &Space, lsn: Lsn, level: usize, new: &[OpenFile]) -> Vec<Edit> {
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

fn read_error(storage: &dyn Storage, file: FileId, error: FileError) -> OpenError {
    let name = storage.display(Path::new(&file_name(file)));
    match error {
        FileError::Io(source) if source.kind() == io::ErrorKind::NotFound => OpenError::Corrupt {
            file: name,
            offset: 0,
            what: "the manifest says that it is live, and it is not there".into(),
        },
        FileError::Io(source) => OpenError::Io { what: name, source },
        FileError::Damaged { offset, what } => {
            OpenError::Corrupt { file: name, offset, what: what.into() }
        }
        FileError::TooNew { format } => OpenError::FormatTooNew {
            path: name,
            found: format,
            supported: isolith_index::sstable::FORMAT_NUMBER,
        },
    }
}

/// Opens one file.
pub(crate) fn open_file(
    storage: &dyn Storage,
    database: DatabaseId,
    file: FileId,
) -> Result<Arc<Sstable>, FileError> {
    let pages = storage.open(Path::new(&file_name(file)), Access::Read)?.map()?;
    Sstable::open(Box::new(pages), database, file)
}

/// The log was durable up to here when the manifest was written: a file is never ahead of it.
pub(crate) fn reaches(state: &ManifestState) -> Lsn {
    let files = state.files().map(|record| record.stamp_max);
    let flushed = state.spaces.values().map(|known| known.flushed);
    files.chain(flushed).fold(state.log_floor, Lsn::max)
}

/// Whom a file tells that is live no more and that nobody reads.
fn superseded(doomed: &Arc<Mutex<Vec<FileId>>>) -> Superseded {
    let doomed = Arc::clone(doomed);
    Arc::new(move |table: Arc<Sstable>| doomed.lock().push(table.id()))
}

/// Opens the manifest and the files that it says are live. What is there beside them stays for now: the log
/// may tell of files that the manifest does not know yet.
/// `None`: there is no manifest.
pub(crate) fn open(
    storage: &Arc<dyn Storage>,
    read_only: bool,
) -> Result<Option<OpenedFiles>, OpenError> {
    let opened = Manifest::open(Arc::clone(storage), read_only).map_err(OpenError::from)?;
    let Some(manifest) = opened else { return Ok(None) };
    let state = manifest.state().clone();
    let doomed = Arc::default();
    let on_superseded = superseded(&doomed);
    let mut all = HashMap::new();
    for (&space, known) in &state.spaces {
        let mut levels: Levels<Arc<OpenFile>> = Levels::default();
        for (level, files) in known.levels.levels.iter().enumerate() {
            for record in files {
                let file = FileId(record.file.id);
                let table = open_file(&**storage, state.database, file)
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
    Ok(Some(OpenedFiles { storage, manifest, state, doomed, levels: all }))
}

/// Removes files that are not live: of a flush or compaction that a crash cut short, or not removed yet.
fn remove_orphans(storage: &dyn Storage, state: &ManifestState) -> Result<(), OpenError> {
    let directory = Path::new(DIRECTORY);
    let io = |source| OpenError::Io { what: storage.display(directory), source };
    storage.create_dir(directory).map_err(io)?;
    let live: BTreeSet<String> =
        state.files().map(|record| file_name(FileId(record.file.id))).collect();
    let mut removed = false;
    for entry in storage.list(directory).map_err(io)? {
        let name = format!("{DIRECTORY}/{}", entry.name);
        if !live.contains(&name) && entry.name.ends_with(".sst") {
            storage.remove(Path::new(&name)).map_err(io)?;
            removed = true;
        }
    }
    if removed { storage.sync_dir(directory).map_err(io) } else { Ok(()) }
}

/// Makes the manifest of a new database.
pub(crate) fn create(
    storage: &Arc<dyn Storage>,
    database: DatabaseId,
) -> Result<OpenedFiles, OpenError> {
    let manifest = Manifest::create(Arc::clone(storage), database).map_err(OpenError::from)?;
    let state = ManifestState::new(database);
    remove_orphans(&**storage, &state)?;
    let (storage, levels, doomed) = (Arc::clone(storage), HashMap::new(), Arc::default());
    Ok(OpenedFiles { storage, manifest, state, doomed, levels })
}

impl Files {
    pub(crate) fn new(
        opened: OpenedFiles,
        log: Arc<Log>,
        options: FileOptions,
        attended: bool,
    ) -> Self {
        let OpenedFiles { storage, manifest, state, doomed, levels } = opened;
        let level0 = levels.values().map(|levels| levels.levels().levels[0].len()).max();
        Self {
            storage,
            database: state.database,
            log,
            options,
            manifest: Mutex::new(Live { manifest: Some(manifest), uncertain: None }),
            next_file: AtomicU64::new(state.next_file),
            changing: Mutex::new(()),
            flushing: Mutex::new(()),
            compacting: Mutex::new(()),
            frozen: Mutex::default(),
            retired: Mutex::default(),
            work: Mutex::default(),
            asked: Condvar::new(),
            done: Condvar::new(),
            attended,
            doomed,
            owed: Mutex::default(),
            released: Mutex::new(state.log_floor),
            dropping: AtomicBool::new(false),
            level0: AtomicU64::new(level0.unwrap_or(0) as u64),
            counters: Counters::default(),
        }
    }

    // ---- the work, and those who wait for it

    /// Asks for work. Without threads the caller does it.
    pub(crate) fn ask(&self, core: &Core) {
        if self.attended {
            self.work.lock().asked += 1;
            self.asked.notify_all();
        } else {
            // The flush first, and whatever becomes of it the compaction: it makes room, too.
            let (flushed, compacted) = (self.flush_due(core), self.compact_all(core));
            for result in [flushed, compacted] {
                let _ = result.inspect_err(|error| self.note_failure(error));
            }
        }
    }

    /// Waits until something was done, at most until `until`; returns whether it was.
    fn wait_done(&self, until: Instant) -> bool {
        let mut work = self.work.lock();
        let before = work.done;
        while work.done == before && !work.over {
            if self.done.wait_until(&mut work, until).timed_out() {
                return false;
            }
        }
        !work.over
    }

    fn note_done(&self) {
        let mut work = self.work.lock();
        work.done += 1;
        work.failure = None;
        drop(work);
        self.done.notify_all();
        self.asked.notify_all();
    }

    fn note_failure(&self, error: &WorkError) {
        let mut work = self.work.lock();
        work.failure = Some(error.to_string());
        drop(work);
        self.done.notify_all();
    }

    /// Why the last attempt to write files failed, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.work.lock().failure.clone()
    }

    /// Figures.
    pub(crate) fn stats(&self, core: &Core) -> FileStats {
        let mut stats = FileStats {
            frozen: self.frozen.lock().len(),
            log_floor: *self.released.lock(),
            failure: self.failure(),
            // Relaxed, all: statistics.
            flushes: self.counters.flushes.load(Ordering::Relaxed),
            flushed_bytes: self.counters.flushed_bytes.load(Ordering::Relaxed),
            compactions: self.counters.compactions.load(Ordering::Relaxed),
            compacted_bytes_in: self.counters.compacted_bytes_in.load(Ordering::Relaxed),
            compacted_bytes_out: self.counters.compacted_bytes_out.load(Ordering::Relaxed),
            stalls: self.counters.stalls.load(Ordering::Relaxed),
            ..FileStats::default()
        };
        count_levels(&core.all_spaces(), &mut stats);
        stats
    }

    /// For the end of a database to which nobody commits any more: writes to files what would take long to
    /// replay. What fails is in the log.
    pub(crate) fn close(&self, core: &Core) {
        if Self::active_memtables(core).0 > REPLAY_BYTES {
            let _ = self.flush_everything(core);
        }
        // What was superseded goes now, if nobody reads it any more; else at the next open.
        for _ in 0..EPOCH_TURNS / 8 {
            pin().flush();
        }
        self.remove_doomed();
        self.end();
    }

    /// From now on threads end, and nobody waits for them.
    pub(crate) fn end(&self) {
        self.work.lock().over = true;
        self.asked.notify_all();
        self.done.notify_all();
    }

    /// Does one kind of work whenever it is asked for, until the end: for a thread of its own. After a
    /// failure it is tried again after a while.
    pub(crate) fn attend(&self, core: &Core, work: impl Fn(&Self, &Core) -> Done<bool>) {
        let mut seen = 0;
        loop {
            let result = work(self, core);
            let mut state = self.work.lock();
            if state.over {
                return;
            }
            match result {
                Ok(true) => continue,
                Ok(false) if state.asked != seen => seen = state.asked,
                Ok(false) => {
                    let waits_for_readers = !self.retired.lock().is_empty();
                    self.asked.wait_for(&mut state, if waits_for_readers { SOON } else { ROUND });
                }
                Err(error) => {
                    drop(state);
                    self.note_failure(&error);
                    let mut state = self.work.lock();
                    if !state.over {
                        self.asked.wait_for(&mut state, RETRY_AFTER);
                    }
                }
            }
        }
    }

    /// Makes a writer wait while memory is full of what is yet to be flushed, or while files are flushed
    /// faster than they are compacted; slows it down before. `used` is what memtables hold.
    pub(crate) fn hold_back(
        &self,
        core: &Core,
        mut used: usize,
        patience: Duration,
    ) -> Result<(), StallReason> {
        let deadline = Instant::now() + patience;
        let mut waited = false;
        loop {
            // Relaxed, here and below: a hint.
            let piled_up =
                || self.level0.load(Ordering::Relaxed) as usize >= self.options.slow_files;
            if used > self.options.active_bytes_max || self.is_log_long() {
                self.ask(core);
                if !self.attended {
                    used = self.reclaimed(core, false);
                }
            } else if !self.attended && piled_up() {
                // Files that were asked for one by one are compacted by nobody else.
                self.ask(core);
            }
            if !self.attended && used > self.options.memory_bytes_max {
                used = self.reclaimed(core, true);
            }
            let files = self.level0.load(Ordering::Relaxed) as usize;
            let full = used > self.options.memory_bytes_max;
            if !full && files < self.options.stop_files {
                let slow = files.saturating_sub(self.options.slow_files);
                if slow > 0 && self.attended && !patience.is_zero() {
                    std::thread::sleep(SLOW * slow as u32);
                }
                return Ok(());
            }
            if !waited {
                waited = true;
                Counters::count(&self.counters.stalls, 1);
            }
            if !self.attended || !self.wait_done(deadline) {
                return Err(match full {
                    true => StallReason::Flush {
                        bytes: used,
                        bytes_max: self.options.memory_bytes_max,
                        cause: self.failure(),
                    },
                    false => StallReason::Compaction { files },
                });
            }
            used = core.sum_memory();
        }
    }

    /// What memtables hold once those that were flushed are gone, for which it helps the epoch along; a
    /// patient caller waits a moment for somebody who has lost the processor while pinned.
    fn reclaimed(&self, core: &Core, patient: bool) -> usize {
        for turn in 0..if patient { EPOCH_TURNS } else { EPOCH_TURNS / 8 } {
            if self.retired.lock().is_empty() {
                break;
            }
            if turn >= EPOCH_TURNS / 8 {
                std::thread::sleep(EPOCH_PAUSE);
            }
            if turn % 32 == 0 {
                core.forget();
            }
            pin().flush();
            self.retire();
        }
        core.sum_memory()
    }

    // ---- the manifest

    /// Makes edits durable, then has `finish` make them true here; or told that they were not made, clean
    /// up. Where a failure leaves open which of the two it is, that is found out before the next edit.
    fn edit(&self, edits: Vec<Edit>, finish: Finish) -> Done<()> {
        let mut live = self.manifest.lock();
        self.settle(&mut live)?;
        let Some(manifest) = &mut live.manifest else {
            finish(self, false);
            return Err(ManifestError::Poisoned.into());
        };
        match manifest.append(&edits) {
            Ok(()) => {
                finish(self, true);
                Ok(())
            }
            // Nothing was written.
            Err(error @ ManifestError::Refused { .. }) => {
                finish(self, false);
                Err(error.into())
            }
            Err(error) => {
                *live = Live { manifest: None, uncertain: Some((edits, finish)) };
                Err(error.into())
            }
        }
    }

    /// After a failure: opens the manifest again, and finds out what became of the last edits.
    fn settle(&self, live: &mut Live) -> Done<()> {
        if live.manifest.is_some() {
            return self.pay(live);
        }
        let opened = Manifest::open(Arc::clone(&self.storage), false)?;
        let manifest = opened.ok_or(ManifestError::Poisoned)?;
        if let Some((edits, finish)) = live.uncertain.take() {
            let state = manifest.state();
            finish(self, edits.iter().all(|edit| holds(edit, &edits, state)));
        }
        live.manifest = Some(manifest);
        self.pay(live)
    }

    /// Tells the manifest what it is owed.
    fn pay(&self, live: &mut Live) -> Done<()> {
        let edits = std::mem::take(&mut self.owed.lock().edits);
        let Some(manifest) = live.manifest.as_mut().filter(|_| !edits.is_empty()) else {
            return Ok(());
        };
        if let Err(error) = manifest.append(&edits) {
            let owed = edits.clone();
            live.manifest = None;
            live.uncertain = Some((edits, Box::new(|files, made| files.paid(made, owed))));
            return Err(error.into());
        }
        self.paid(true, Vec::new());
        Ok(())
    }

    fn paid(&self, made: bool, edits: Vec<Edit>) {
        let above = if made { None } else { self.owed.lock().above };
        *self.owed.lock() = Owed { above, edits };
    }

    /// Where the files are.
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Keeps what is live now. Whoever drops it should [let go](Self::unpin) of what was superseded meanwhile.
    pub(crate) fn pin(&self, core: &Core) -> Done<Pinned> {
        // What a keyspace has in files changes under this lock, and only then is the log released.
        let mut live = self.manifest.lock();
        self.settle(&mut live)?;
        let manifest = live.manifest.as_ref().ok_or(ManifestError::Poisoned)?;
        let mut state = manifest.state().clone();
        let log =
            self.log.hold(state.log_floor).map_err(|gone| WorkError::Log(gone.to_string()))?;
        let spaces = core.all_spaces();
        let levels = spaces.iter().map(|space| Arc::clone(space.view(&pin()).levels())).collect();
        // One that has been dropped: the log says so, and its files may go at any time.
        state.spaces.retain(|id, _| spaces.iter().any(|space| space.id == *id));
        Ok(Pinned { state, _levels: levels, _log: log })
    }

    /// After something pinned was dropped: removes the files that were waited for.
    pub(crate) fn unpin(&self, core: &Core) -> Done<()> {
        self.remove_doomed();
        self.release_log(core)
    }

    /// The same, before new files are written.
    fn settle_first(&self) -> Done<()> {
        self.settle(&mut self.manifest.lock())
    }

    /// Names of merge operators that the manifest does not know yet.
    fn operator_edits(&self, core: &Core) -> Vec<Edit> {
        let live = self.manifest.lock();
        let known = live.manifest.as_ref().map(|manifest| &manifest.state().operators);
        let new = core.operators().all_named();
        new.filter(|(number, _)| known.is_none_or(|known| !known.contains_key(number)))
            .map(|(number, name)| Edit::Operator { number, name: name.to_owned() })
            .collect()
    }

    /// Says that a keyspace is about to be dropped, from before the decision on; and that this is over: the
    /// drop is durable, or was not decided. In between the log is not released.
    pub(crate) fn note_dropping(&self, dropping: bool) {
        let _changing = self.changing.lock();
        // Relaxed: under the mutex.
        self.dropping.store(dropping, Ordering::Relaxed);
    }

    /// A keyspace was dropped, durably: its files go when their last reader does.
    pub(crate) fn drop_space(&self, space: &Arc<Space>) -> Done<()> {
        let _flushing = self.flushing.lock();
        let _compacting = self.compacting.lock();
        let space = Arc::clone(space);
        let edits = vec![Edit::DropSpace { space: space.id }];
        self.edit(
            edits,
            Box::new(move |files, made| {
                if made {
                    files.frozen.lock().retain(|frozen| frozen.space.id != space.id);
                    space.view(&pin()).levels().files().for_each(|file| file.supersede());
                }
            }),
        )?;
        self.remove_doomed();
        Ok(())
    }

    /// Forgets keyspaces whose drop the log tells of.
    pub(crate) fn forget_spaces(&self, spaces: &[SpaceId]) -> Result<(), ManifestError> {
        if spaces.is_empty() {
            return Ok(());
        }
        let mut live = self.manifest.lock();
        let edits: Vec<Edit> = spaces.iter().map(|&space| Edit::DropSpace { space }).collect();
        live.manifest.as_mut().map_or(Ok(()), |manifest| manifest.append(&edits))
    }

    // ---- freeze and flush

    /// Freezes a keyspace's memtable, if anything was written to it.
    pub(crate) fn freeze(&self, core: &Core, space: &Arc<Space>) {
        let _changing = self.changing.lock();
        if space.dirty_since().is_none() || space.is_dropped() {
            return;
        }
        let memtable = space.active();
        let fresh = Arc::new(Memtable::new(core.seed() ^ u64::from(space.id)));
        let (through, since) = core.pipeline().freeze(space, fresh);
        let Some(since) = since else { return };
        let space = Arc::clone(space);
        self.frozen.lock().push_back(Frozen { space, memtable, through, since });
        core.forget();
    }

    /// Bytes that active memtables hold, and the keyspaces with the largest first.
    fn active_memtables(core: &Core) -> (usize, Vec<(usize, Arc<Space>)>) {
        let mut all: Vec<_> =
            core.all_spaces().into_iter().map(|space| (space.active().bytes(), space)).collect();
        all.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        (all.iter().map(|(bytes, _)| bytes).sum(), all)
    }

    /// Whether the log is longer than it need be.
    fn is_log_long(&self) -> bool {
        self.log.bytes_after(*self.released.lock()) > self.options.log_bytes_max
    }

    /// Freezes what is due, and flushes what is frozen. Returns whether there was anything.
    pub(crate) fn flush_due(&self, core: &Core) -> Done<bool> {
        let (mut bytes, spaces) = Self::active_memtables(core);
        for (held, space) in spaces {
            if bytes <= self.options.active_bytes_max {
                break;
            }
            self.freeze(core, &space);
            bytes -= held;
        }
        if self.is_log_long() && self.frozen.lock().is_empty() {
            let dirty = core.all_spaces().into_iter();
            let dirty = dirty.filter_map(|space| Some((space.dirty_since()?, space)));
            if let Some((_, space)) = dirty.min_by_key(|(since, _)| *since) {
                self.freeze(core, &space);
            }
        }
        self.flush_frozen(core)
    }

    /// Flushes every memtable that anything was written to.
    pub(crate) fn flush_everything(&self, core: &Core) -> Done<()> {
        for space in core.all_spaces() {
            self.freeze(core, &space);
        }
        self.flush_frozen(core)?;
        Ok(())
    }

    /// Writes everything to files, and all files anew to the lowest level.
    pub(crate) fn compact_everything(&self, core: &Core) -> Done<()> {
        self.flush_everything(core)?;
        for space in core.all_spaces() {
            self.compact_fully(core, &space)?;
        }
        self.release_log(core)
    }

    pub(crate) fn flush_frozen(&self, core: &Core) -> Done<bool> {
        let _flushing = self.flushing.lock();
        let mut any = false;
        while self.flush_oldest(core)? {
            any = true;
        }
        if any {
            self.release_log(core)?;
        }
        self.let_go(core);
        self.remove_doomed();
        Ok(any)
    }

    fn flush_oldest(&self, core: &Core) -> Done<bool> {
        let next = |frozen: &Frozen| {
            let memtable = Arc::clone(&frozen.memtable);
            (Arc::clone(&frozen.space), memtable, frozen.through)
        };
        self.settle_first()?;
        let Some((space, memtable, through)) = self.frozen.lock().front().map(next) else {
            return Ok(false);
        };
        if space.is_dropped() {
            self.frozen.lock().retain(|frozen| !Arc::ptr_eq(&frozen.memtable, &memtable));
        } else {
            self.flush(core, &space, &memtable, through)?;
        }
        drop(memtable);
        core.forget();
        self.count_level0(core);
        core.sum_memory();
        self.note_done();
        Ok(true)
    }

    fn flush(
        &self,
        core: &Core,
        space: &Arc<Space>,
        memtable: &Arc<Memtable>,
        through: Lsn,
    ) -> Done<()> {
        // A file is never ahead of the log.
        self.log.sync().map_err(|error| WorkError::Log(error.to_string()))?;
        let new = self.write_memtable(core, space, memtable)?;
        let mut edits = self.operator_edits(core);
        if space.may_expire() {
            edits.push(Edit::ExpiringSpace(space.id));
        }
        if space.may_merge() {
            edits.push(Edit::SpaceOptions { space: space.id, bytes: vec![MERGES] });
        }
        if space.id == SYSTEM_SPACE {
            edits.push(Edit::NextSpace(core.next_space()));
        }
        edits.extend(new.iter().map(|file| add_edit(space.id, 0, file)));
        edits.push(Edit::Flushed { space: space.id, through });
        let (space, memtable) = (Arc::clone(space), Arc::clone(memtable));
        self.edit(
            edits,
            Box::new(move |files, made| {
                if !made {
                    return new.iter().for_each(OpenFile::supersede);
                }
                let _changing = files.changing.lock();
                let guard = pin();
                let view = space.view(&guard);
                let new = new.into_iter().map(|file| (0, Arc::new(file)));
                let levels = changed(view.levels(), &[], new);
                let view = view.flushed(&memtable, levels);
                space.tree.replace(view);
                files.frozen.lock().retain(|frozen| !Arc::ptr_eq(&frozen.memtable, &memtable));
                files.retired.lock().push(memtable);
            }),
        )
    }

    /// Writes a memtable to files: none, if nothing in it is needed any more.
    fn write_memtable(
        &self,
        core: &Core,
        space: &Space,
        memtable: &Memtable,
    ) -> Done<Vec<OpenFile>> {
        let expired_before = core.expired_for_all();
        let (view, operators) = (core.prune_view(), Calm(core.operators()));
        let rules = self.rules(space, &view, &operators, expired_before);
        // A file of level 0 has all of its memtable: the files of that level overlap anyway.
        let rules = CompactionRules { file_bytes: u64::MAX, ..rules };
        let mut outputs = NewFiles::new(self);
        match flush_memtable(memtable, &rules, &mut outputs) {
            Ok(_) => {
                let files = outputs.take();
                let bytes = files.iter().map(|file| file.meta().bytes).sum();
                Counters::count(&self.counters.flushes, 1);
                Counters::count(&self.counters.flushed_bytes, bytes);
                Ok(files)
            }
            Err(error) => Err(outputs.error(error)),
        }
    }

    /// Lets go of what was flushed, and tells those who wait for memory.
    fn let_go(&self, core: &Core) {
        let before = self.retired.lock().len();
        self.reclaimed(core, false);
        let after = self.retired.lock().len();
        if after < before {
            self.note_done();
        }
    }

    /// Lets go of memtables that nobody looks at any more: here, and not on a reader's thread.
    fn retire(&self) {
        let mut gone = Vec::new();
        let mut retired = self.retired.lock();
        let mut at = 0;
        while at < retired.len() {
            if Arc::strong_count(&retired[at]) == 1 {
                gone.push(retired.swap_remove(at));
            } else {
                at += 1;
            }
        }
        let left = !retired.is_empty();
        drop(retired);
        if left {
            // What only waits for the epoch is helped along.
            pin().flush();
        }
        drop(gone);
    }

    /// Bytes of memtables that are in files and that somebody still looks at.
    pub(crate) fn retired_bytes(&self) -> usize {
        let retired = self.retired.lock();
        retired.iter().map(|memtable| memtable.bytes() + memtable.retired_bytes()).sum()
    }

    /// Releases the log up to what every keyspace has in files.
    fn release_log(&self, core: &Core) -> Done<()> {
        // First what is visible: what is written later is above.
        let mut floor = core.marks().visible().min(core.marks().durable());
        // Before memtables are asked: until the manifest knows of a commit's files, they are in no memtable.
        if let Some(above) = self.owed.lock().above {
            floor = floor.min(above);
        }
        // What is being frozen is dirty, or among the frozen ones.
        let changing = self.changing.lock();
        // Relaxed: under the mutex.
        if self.dropping.load(Ordering::Relaxed) {
            return Ok(());
        }
        for frozen in &*self.frozen.lock() {
            floor = floor.min(frozen.since.before());
        }
        for space in core.all_spaces() {
            if let Some(since) = space.dirty_since() {
                floor = floor.min(since.before());
            }
        }
        drop(changing);
        let mut released = self.released.lock();
        if floor <= *released {
            return Ok(());
        }
        let log = Arc::clone(&self.log);
        let release = move |_: &Self, made: bool| {
            if made {
                // What cannot be recycled or removed is no part of the log any more: the next open does it.
                let _ = log.release(floor);
            }
        };
        self.edit(vec![Edit::LogFloor(floor)], Box::new(release))?;
        *released = floor;
        Ok(())
    }

    fn count_level0(&self, core: &Core) {
        let guard = pin();
        let files = |space: &Arc<Space>| space.view(&guard).levels().levels().levels[0].len();
        let most = core.all_spaces().iter().map(files).max().unwrap_or(0);
        // Relaxed: a hint.
        self.level0.store(most as u64, Ordering::Relaxed);
    }

    // ---- files

    fn io(&self, path: &str, source: io::Error) -> WorkError {
        WorkError::Io { what: self.storage.display(Path::new(path)), source }
    }

    fn new_file(&self) -> Done<SstableWriter<Sink>> {
        self.new_file_with(SstableOptions::default())
    }

    fn new_file_with(&self, options: SstableOptions) -> Done<SstableWriter<Sink>> {
        // Relaxed: distinct numbers are all that is wanted.
        let file = FileId(self.next_file.fetch_add(1, Ordering::Relaxed));
        let name = file_name(file);
        let sink = Sink::create(&self.storage, file).map_err(|source| self.io(&name, source))?;
        SstableWriter::new(sink, self.database, file, options)
            .map_err(|source| self.io(&name, source))
    }

    /// Makes a file durable and opens it; `None`, and it is gone, if there is nothing in it.
    fn finish(&self, sink: Sink, properties: &Properties) -> Done<Option<OpenFile>> {
        let (file, name) = (sink.file(), file_name(sink.file()));
        if properties.entries + properties.range_deletes == 0 {
            return Ok(None);
        }
        sink.sync().map_err(|source| self.io(&name, source))?;
        // What fails from here on leaves an orphan, for the next open.
        self.storage.sync_dir(Path::new(DIRECTORY)).map_err(|source| self.io(DIRECTORY, source))?;
        let table = open_file(&*self.storage, self.database, file);
        let table =
            table.map_err(|error| WorkError::Damaged(Error::from(ReadError { file, error })))?;
        Ok(Some(OpenFile::new(table, superseded(&self.doomed))))
    }

    /// Removes the files that are not live and that nobody reads.
    fn remove_doomed(&self) {
        let doomed = std::mem::take(&mut *self.doomed.lock());
        for file in &doomed {
            // What cannot be removed is an orphan, for the next open.
            let _ = self.storage.remove(Path::new(&file_name(*file)));
        }
        if !doomed.is_empty() {
            let _ = self.storage.sync_dir(Path::new(DIRECTORY));
        }
    }
}

/// What a file that compaction writes has, unless memory is small.
const FILE_BYTES: u64 = 64 << 20;
/// In the manifest's options of a keyspace: somebody has merged into it.
pub(crate) const MERGES: u8 = 1;
/// Memtables that hold no more than this are left to replay when a database is closed.
const REPLAY_BYTES: usize = 4 << 20;
/// How often those who do the work look for it unasked.
const ROUND: Duration = Duration::from_millis(200);
/// How often it is looked whether somebody still reads what was flushed.
const SOON: Duration = Duration::from_millis(2);
/// When it is tried again after a failure.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// Turns that are given to the epoch to let go of flushed memtables.
const EPOCH_TURNS: usize = 128;
const EPOCH_PAUSE: Duration = Duration::from_micros(200);
/// What a writer is slowed down by for each file too many.
const SLOW: Duration = Duration::from_micros(500);

fn add_edit(space: SpaceId, level: usize, file: &OpenFile) -> Edit {
    let properties = file.table().properties();
    Edit::AddFile {
        space,
        level: level as u8,
        file: FileRecord {
            file: file.meta().clone(),
            stamp_min: properties.stamp_min,
            stamp_max: properties.stamp_max,
        },
    }
}

/// Adds up what keyspaces have in files.
pub(crate) fn count_levels(spaces: &[Arc<Space>], stats: &mut FileStats) {
    for space in spaces {
        let guard = pin();
        for (level, files) in space.view(&guard).levels().levels().levels.iter().enumerate() {
            if stats.levels.len() <= level {
                stats.levels.push((0, 0));
            }
            let bytes = files.iter().map(|file| file.meta().bytes).sum::<u64>();
            stats.levels[level].0 += files.len();
            stats.levels[level].1 += bytes;
            stats.files += files.len();
            stats.bytes += bytes;
        }
    }
}

/// Levels without some files and with others.
fn changed(
    levels: &LevelSet,
    remove: &[u64],
    add: impl IntoIterator<Item = (usize, Arc<OpenFile>)>,
) -> Arc<LevelSet> {
    let mut changed = levels.levels().clone();
    for files in &mut changed.levels {
        files.retain(|file| !remove.contains(&file.meta().id));
    }
    for (level, file) in add {
        let files = &mut changed.levels[level];
        let at = match level {
            0 => files.partition_point(|other| other.stamp_max() > file.stamp_max()),
            _ => files.partition_point(|other| other.meta().smallest < file.meta().smallest),
        };
        files.insert(at, file);
    }
    Arc::new(LevelSet::new(changed))
}
