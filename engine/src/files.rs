//! The sorted files of a database: how memtables become files, files become other files, and which of
//! them are live.
//!
//! ```text
//!   active ──freeze──► frozen ──flush──► level 0 ──compact──► level n       the log is released behind it
//!          (window)            manifest            manifest
//! ```
//!
//! | module | its one job |
//! |---|---|
//! | `opening` | what is there when a database is opened |
//! | `flushing` | memtables become files, the log is released |
//! | `compaction` | files become other files |
//! | `parts` | a large compaction on several threads |
//! | `bulk` | files that a commit brings with it |
//! | `edits` | the manifest as it is changed |
//! | `work` | who does all this, and who waits for it |
//! | `sink` | the bytes of a new file |
//! | `throttle` | how many of them in a second |
//! | `values` | value files: opened with what refers to them, removed with the last of it |
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

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isolith_index::levels::{CompactionOptions, value_usage};
use isolith_index::manifest::{Edit, FileRecord, ManifestError, ManifestState};
use isolith_index::sstable::{BlockCache, FileId, Properties, SstableOptions, SstableWriter};
use isolith_index::{LevelSet, Memtable, OpenFile, ReadError, pin};
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Clock, DatabaseId, Log, LogHold, Lsn, Storage};
use parking_lot::{Condvar, Mutex};

use crate::core::Core;
use crate::error::Error;
use crate::options::Builder;
use crate::stats::FileStats;

mod bulk;
mod compaction;
mod edits;
mod ending;
mod flushing;
mod opening;
mod packing;
mod parts;
mod sink;
mod throttle;
mod values;
mod work;

pub(crate) use bulk::Loaded;
use edits::{Live, Owed};
use opening::{Doomed, open_cached, superseded};
pub(crate) use opening::{
    OpenedFiles, assigned, create, live_files, open, open_file, reaches, told,
};
use sink::Sink;
use throttle::{Throttle, Writer};
pub(crate) use values::{ValueFiles, value_file_name};
use work::{EPOCH_TURNS, Work};

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
    /// What the cache of blocks may hold where nothing else is in memory, and what it always may.
    pub(crate) cache_bytes_max: usize,
    pub(crate) cache_bytes_min: usize,
    /// So much of the log is kept behind its floor.
    pub(crate) log_retained_bytes: u64,
    /// So much of the log may be waited for by idle memtables.
    pub(crate) log_bytes_max: u64,
    /// A file that compaction writes is ended once it has so much; so is a value file.
    pub(crate) file_bytes: u64,
    /// Values of so many bytes or more go to value files.
    pub(crate) large_values: usize,
    /// When levels are compacted.
    pub(crate) levels: CompactionOptions,
    /// What may be written to files in a second; `None`: whatever is there to be written.
    pub(crate) bytes_per_second: Option<u64>,
    /// Threads that compact at once, and parts that a compaction may fall into.
    pub(crate) background_threads: usize,
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
            cache_bytes_max: memory_bytes - memory_bytes / 8,
            cache_bytes_min: memory_bytes / 32,
            log_retained_bytes: options.log_retained_bytes,
            log_bytes_max: (4 * segment_bytes).max(memory_bytes as u64),
            file_bytes: file,
            large_values: options.large_values,
            levels: CompactionOptions { base_bytes_max: 4 * file, ..CompactionOptions::default() },
            bytes_per_second: options.background_bytes_per_second,
            background_threads: options.background_threads_max(),
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
    pub(crate) compaction_parts: AtomicU64,
    pub(crate) compacted_bytes_in: AtomicU64,
    pub(crate) compacted_bytes_out: AtomicU64,
    pub(crate) moved_bytes: AtomicU64,
    pub(crate) stalls: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64, by: u64) {
        // Relaxed: a statistic.
        counter.fetch_add(by, Ordering::Relaxed);
    }
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
    /// Files that compaction found damaged, value files among them: it leaves them alone, and goes on with the
    /// others.
    damaged: Mutex<BTreeSet<u64>>,
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
    throttle: Option<Arc<Throttle>>,
    /// Files that are live no more and that nobody reads.
    doomed: Doomed,
    /// Blocks that readers have had decompressed.
    cache: Arc<BlockCache>,
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

/// Why files were not written.
#[derive(Debug)]
pub(crate) enum WorkError {
    /// The storage refused.
    Io { what: String, source: io::Error },
    /// The manifest did.
    Manifest(ManifestError),
    /// A file that was to be compacted, or was just written, cannot be read.
    Damaged(ReadError),
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
            WorkError::Damaged(error) => error.into(),
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
    /// Commits up to here are in these files, or in the log that comes with them; none of the files has
    /// anything above it.
    pub(crate) at: Lsn,
    _levels: Vec<Arc<LevelSet>>,
    _log: LogHold,
}

impl Files {
    pub(crate) fn new(
        opened: OpenedFiles,
        log: Arc<Log>,
        options: FileOptions,
        attended: bool,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let OpenedFiles { storage, manifest, state, doomed, cache, levels } = opened;
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
            damaged: Mutex::default(),
            frozen: Mutex::default(),
            retired: Mutex::default(),
            work: Mutex::default(),
            asked: Condvar::new(),
            done: Condvar::new(),
            attended,
            // Without threads it would be the callers who wait, for a time that perhaps only they let pass.
            throttle: options
                .bytes_per_second
                .filter(|_| attended)
                .map(|bytes| Arc::new(Throttle::new(bytes, clock))),
            doomed,
            cache,
            owed: Mutex::default(),
            released: Mutex::new(state.log_floor),
            dropping: AtomicBool::new(false),
            level0: AtomicU64::new(level0.unwrap_or(0) as u64),
            counters: Counters::default(),
        }
    }

    /// Leaves to the cache of blocks what is left of memory beside so many bytes.
    pub(crate) fn share_memory(&self, used: usize) {
        let FileOptions { cache_bytes_max, cache_bytes_min, .. } = self.options;
        let left = cache_bytes_max.saturating_sub(used).max(cache_bytes_min);
        self.cache.set_limit(left as u64);
    }

    /// Bytes that the cache of blocks holds.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
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
            compaction_parts: self.counters.compaction_parts.load(Ordering::Relaxed),
            compacted_bytes_in: self.counters.compacted_bytes_in.load(Ordering::Relaxed),
            compacted_bytes_out: self.counters.compacted_bytes_out.load(Ordering::Relaxed),
            moved_bytes: self.counters.moved_bytes.load(Ordering::Relaxed),
            stalls: self.counters.stalls.load(Ordering::Relaxed),
            cache_bytes: self.cache_bytes(),
            ..FileStats::default()
        };
        if let Some(throttle) = &self.throttle {
            let (bytes_per_second, waits, waited_ms) = throttle.figures();
            stats.background_bytes_per_second = Some(bytes_per_second);
            (stats.background_waits, stats.background_waited_ms) = (waits, waited_ms);
        }
        count_levels(&core.all_spaces(), &mut stats);
        stats
    }

    /// For the end of a database to which nobody commits any more: writes to files what would take long to
    /// replay, or keep much of the log. What fails is in the log.
    pub(crate) fn close(&self, core: &Core) {
        let log_bytes = self.log.bytes_after(*self.released.lock());
        let replay = Self::active_memtables(core).0.max(log_bytes as usize);
        if replay > REPLAY_BYTES {
            let _ = self.flush_everything(core);
        }
        // If everything is in files by now, that is to be known before the log ends: it keeps nothing then.
        if !isolith_wal::planted!("close-writes-nothing") && self.log.sync().is_ok() {
            let _ = self.release_log(core);
        }
        // What was superseded goes now, if nobody reads it any more; else at the next open.
        for _ in 0..EPOCH_TURNS / 8 {
            pin().flush();
        }
        self.remove_doomed();
        self.end();
    }

    // ---- files

    fn io(&self, path: &str, source: io::Error) -> WorkError {
        WorkError::Io { what: self.storage.display(Path::new(path)), source }
    }

    /// A number that no file has.
    fn next_id(&self) -> FileId {
        // Relaxed: distinct numbers are all that is wanted.
        FileId(self.next_file.fetch_add(1, Ordering::Relaxed))
    }

    fn new_file(
        &self,
        options: SstableOptions,
        writer: Option<Writer>,
    ) -> Done<SstableWriter<Sink>> {
        let file = self.next_id();
        let name = file_name(file);
        let pace = self.throttle.clone().zip(writer);
        let sink = Sink::create(&self.storage, name.clone(), pace);
        let sink = sink.map_err(|source| self.io(&name, source))?;
        SstableWriter::new(sink, self.database, file, options)
            .map_err(|source| self.io(&name, source))
    }

    /// Makes a file durable and opens it, the value files that it refers to left out; `None`, and it is gone,
    /// if there is nothing in it.
    fn finish(&self, file: FileId, sink: Sink, properties: &Properties) -> Done<Option<OpenFile>> {
        let name = file_name(file);
        if properties.entries + properties.range_deletes == 0 {
            return Ok(None);
        }
        sink.sync().map_err(|source| self.io(&name, source))?;
        // What fails from here on leaves an orphan, for the next open.
        self.storage.sync_dir(Path::new(DIRECTORY)).map_err(|source| self.io(DIRECTORY, source))?;
        let table = open_cached(&*self.storage, self.database, file, &self.cache);
        let table = table.map_err(|error| WorkError::Damaged(ReadError { file, error }))?;
        Ok(Some(OpenFile::new(table, superseded(&self.doomed))))
    }

    /// Removes the files that are not live and that nobody reads.
    fn remove_doomed(&self) {
        let doomed = std::mem::take(&mut *self.doomed.lock());
        for file in &doomed {
            // What cannot be removed is an orphan, for the next open.
            let _ = self.storage.remove(Path::new(file));
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
/// Memtables that hold no more than this are left to replay when a database is closed, if the log that has
/// them takes no more either.
const REPLAY_BYTES: usize = 4 << 20;

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
                stats.value_levels.push(0);
            }
            let bytes = files.iter().map(|file| file.meta().bytes).sum::<u64>();
            stats.levels[level].0 += files.len();
            stats.levels[level].1 += bytes;
            let shares = files.iter().flat_map(|file| &file.meta().values);
            stats.value_levels[level] += shares.map(|share| share.bytes).sum::<u64>();
            stats.files += files.len();
            stats.bytes += bytes;
        }
        let usage = value_usage(space.view(&guard).levels().files().map(|file| file.meta()));
        stats.value_files += usage.len();
        for usage in usage.values() {
            stats.value_bytes += usage.bytes;
            stats.value_bytes_live += usage.live;
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
