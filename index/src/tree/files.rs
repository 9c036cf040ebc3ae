//! The files of a keyspace, held open, and what they say of a key.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isolith_wal::Lsn;

use super::gather::Gathered;
use crate::KeyRange;
use crate::levels::{LEVELS, LevelFile, Levels, ValueShare};
use crate::range_deletes::{Cover, RangeDelete};
use crate::sstable::{FileError, FileId, Probe, Sstable, ValueFile};

/// A file that could not be read.
#[derive(Debug)]
pub struct ReadError {
    /// Which.
    pub file: FileId,
    /// Why.
    pub error: FileError,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sorted file {}: {}", self.file.0, self.error)
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Told of a [superseded](OpenFile::supersede) file when nobody reads it any more, on whatever thread that
/// turns out, inside of an epoch's end. It passes the file on to a thread that has time for closing and
/// removing it.
pub type Superseded = Arc<dyn Fn(Arc<Sstable>) + Send + Sync>;

/// A live file.
pub struct OpenFile {
    meta: LevelFile,
    table: Arc<Sstable>,
    superseded: AtomicBool,
    on_superseded: Superseded,
}

impl OpenFile {
    /// A file that is, or is about to be, part of the levels.
    pub fn new(table: Arc<Sstable>, on_superseded: Superseded) -> OpenFile {
        let meta = meta_of(&table);
        OpenFile { meta, table, superseded: AtomicBool::new(false), on_superseded }
    }

    /// Gives it the value files that it refers to: see [`Sstable::attach`]. False if others hold the table
    /// already.
    pub fn attach<'f>(&mut self, files: impl IntoIterator<Item = &'f Arc<ValueFile>>) -> bool {
        let Some(table) = Arc::get_mut(&mut self.table) else { return false };
        table.attach(files);
        self.meta = meta_of(&self.table);
        true
    }

    /// What picking looks at of it.
    pub fn meta(&self) -> &LevelFile {
        &self.meta
    }

    /// The open file.
    pub fn table(&self) -> &Arc<Sstable> {
        &self.table
    }

    /// Its largest stamp.
    pub fn stamp_max(&self) -> Lsn {
        self.table.properties().stamp_max
    }

    /// Gives its versions their stamp: see [`Sstable::assign`]. False if others hold the table already.
    pub fn assign(&mut self, stamp: Lsn) -> bool {
        let table = Arc::get_mut(&mut self.table);
        table.map(|table| table.assign(stamp)).is_some()
    }

    /// The file is not live any more, and that is durable. When the last reference goes, the owner is told.
    pub fn supersede(&self) {
        // Relaxed: whoever drops the last reference comes after, by the reference count's own order.
        self.superseded.store(true, Ordering::Relaxed);
    }

    fn spans(&self, key: &[u8]) -> bool {
        *self.meta.smallest <= *key && self.reaches(key)
    }

    /// Whether it reaches up to the key.
    pub(super) fn reaches(&self, key: &[u8]) -> bool {
        self.meta.largest.as_deref().is_none_or(|largest| key <= largest)
    }

    fn failed(&self, error: FileError) -> ReadError {
        ReadError { file: self.table.id(), error }
    }

    /// The same result, with the file's number.
    pub(super) fn told<T>(&self, result: Result<T, FileError>) -> Result<T, ReadError> {
        result.map_err(|error| self.failed(error))
    }

    pub(super) fn gather(
        &self,
        probe: &mut Probe,
        key: &[u8],
        read: Lsn,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), FileError> {
        let cover = self.table.cover(key, read);
        let (mut found, skipped_newer) = probe.find(&self.table, key, read)?;
        if skipped_newer {
            gathered.skipped_newer();
        }
        while found {
            let Some((_, entry)) = probe.entry(&self.table)? else { break };
            let version = (entry.stamp, entry.kind, entry.time);
            let more = gathered.version(key, cover, version, self.table.value(entry)?)?;
            found = more && probe.older(&self.table, key)?;
        }
        gathered.end_of_file(cover);
        Ok(())
    }

    fn newest(&self, probe: &mut Probe, key: &[u8]) -> Result<Lsn, FileError> {
        let cover = self.table.cover(key, Lsn::MAX).stamp;
        let newest = match probe.find(&self.table, key, Lsn::MAX)?.0 {
            true => probe.entry(&self.table)?.map_or(Lsn::ZERO, |(_, entry)| entry.stamp),
            false => Lsn::ZERO,
        };
        Ok(newest.max(cover))
    }
}

/// What picking looks at of a file. Of a value file that is not attached the length is not known, and 0.
fn meta_of(table: &Sstable) -> LevelFile {
    let properties = table.properties();
    let whole = |id: FileId| {
        let file = table.value_files().iter().find(|file| file.id() == id);
        file.map_or(0, |file| file.bytes())
    };
    let values = properties.values.iter().map(|used| ValueShare {
        file: used.file.0,
        values: used.values,
        bytes: used.bytes,
        of_bytes: whole(used.file),
    });
    LevelFile {
        id: table.id().0,
        bytes: table.bytes(),
        smallest: properties.smallest.clone(),
        largest: properties.largest.clone(),
        entries: properties.entries,
        deletes: properties.deletes + properties.range_deletes,
        values: values.collect(),
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if *self.superseded.get_mut() {
            (self.on_superseded)(Arc::clone(&self.table));
        }
    }
}

impl AsRef<LevelFile> for OpenFile {
    fn as_ref(&self) -> &LevelFile {
        &self.meta
    }
}

impl AsRef<LevelFile> for Arc<OpenFile> {
    fn as_ref(&self) -> &LevelFile {
        &self.meta
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.meta.fmt(f)
    }
}

/// The live files of a keyspace. It is made once and never changed.
#[derive(Debug, Default)]
pub struct LevelSet {
    levels: Levels<Arc<OpenFile>>,
    /// Newest first: each file of level 0, then each further level that has files.
    runs: Vec<Run>,
    stamp_max: Lsn,
    /// The value files that they refer to, by number.
    values: Vec<Arc<ValueFile>>,
}

/// Files that do not overlap: one of level 0, or a further level.
#[derive(Clone, Copy, Debug)]
struct Run {
    level: usize,
    from: usize,
    to: usize,
    range_deletes: bool,
}

impl LevelSet {
    /// These files. From level 1 on they ascend by key and do not overlap.
    pub fn new(levels: Levels<Arc<OpenFile>>) -> LevelSet {
        let files = || levels.levels.iter().flatten();
        let stamp_max = files().map(|file| file.stamp_max()).max().unwrap_or(Lsn::ZERO);
        let mut runs = Vec::new();
        let mut run = |level: usize, from: usize, to: usize| {
            let files = &levels.levels[level][from..to];
            let ascending = files.windows(2).all(|pair| {
                pair[0].meta.largest.as_ref().is_some_and(|end| *end <= pair[1].meta.smallest)
            });
            debug_assert!(ascending, "the files of level {level} ascend and do not overlap");
            let range_deletes = files.iter().any(|file| !file.table.range_deletes().is_empty());
            if !files.is_empty() {
                runs.push(Run { level, from, to, range_deletes });
            }
        };
        for file in 0..levels.levels[0].len() {
            run(0, file, file + 1);
        }
        for level in 1..LEVELS {
            run(level, 0, levels.levels[level].len());
        }
        let mut values: Vec<_> =
            files().flat_map(|file| file.table.value_files()).cloned().collect();
        values.sort_unstable_by_key(|file| file.id());
        values.dedup_by_key(|file| file.id());
        LevelSet { levels, runs, stamp_max, values }
    }

    /// The value files that they refer to, by number. With [these](LevelSet::files) they are all that a
    /// reader needs.
    pub fn value_files(&self) -> &[Arc<ValueFile>] {
        &self.values
    }

    /// Whether one of the files refers to a value file.
    pub fn has_value_file(&self, id: FileId) -> bool {
        self.values.binary_search_by_key(&id, |file| file.id()).is_ok()
    }

    /// The files, level by level.
    pub fn levels(&self) -> &Levels<Arc<OpenFile>> {
        &self.levels
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<OpenFile>> {
        self.levels.levels.iter().flatten()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The largest stamp in them; [`Lsn::ZERO`] if there is none.
    pub fn stamp_max(&self) -> Lsn {
        self.stamp_max
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> u64 {
        self.files().map(|file| file.meta.bytes).sum()
    }

    /// Versions in all files.
    pub fn file_entries(&self) -> u64 {
        self.files().map(|file| file.meta.entries).sum()
    }

    /// Bytes of memory that they hold, what is mapped left out.
    pub fn memory_bytes(&self) -> usize {
        let files = self.files().map(|file| size_of::<OpenFile>() + file.table.memory_bytes());
        let values = self.values.iter().map(|file| file.memory_bytes());
        files.chain(values).sum()
    }

    /// Whether some file has range deletes.
    pub(super) fn has_range_deletes(&self) -> bool {
        self.runs.iter().any(|run| run.range_deletes)
    }

    /// How many runs there are, newest first.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// The files of a run, ascending.
    pub(super) fn run(&self, run: usize) -> &[Arc<OpenFile>] {
        self.runs.get(run).map_or(&[], |run| &self.levels.levels[run.level][run.from..run.to])
    }

    /// The file of a run that may say something of a key.
    pub(super) fn file_at<'f>(files: &'f [Arc<OpenFile>], key: &[u8]) -> Option<&'f Arc<OpenFile>> {
        let behind = files.partition_point(|file| *file.meta.smallest <= *key);
        files.get(behind.checked_sub(1)?).filter(|file| file.spans(key))
    }

    /// What the range deletes of a run say of a key.
    pub(super) fn cover(&self, run: usize, key: &[u8], read: Lsn) -> Cover {
        match self.runs.get(run) {
            Some(known) if known.range_deletes => LevelSet::file_at(self.run(run), key)
                .map_or(Cover::default(), |file| file.table.cover(key, read)),
            _ => Cover::default(),
        }
    }

    /// Adds what the files say of a key at `read`.
    pub(super) fn gather(
        &self,
        key: &[u8],
        read: Lsn,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), ReadError> {
        let mut probe = Probe::new(key);
        for run in 0..self.runs() {
            let Some(file) = LevelSet::file_at(self.run(run), key) else { continue };
            file.told(file.gather(&mut probe, key, read, gathered))?;
            if gathered.is_decided() {
                break;
            }
        }
        Ok(())
    }

    /// The largest stamp on a key, if it is above `above`; else that, or a smaller one.
    pub(super) fn newest(&self, key: &[u8], above: Lsn) -> Result<Lsn, ReadError> {
        let mut probe = Probe::new(key);
        for run in 0..self.runs() {
            let file = LevelSet::file_at(self.run(run), key);
            let Some(file) = file.filter(|file| file.stamp_max() > above) else { continue };
            let newest = file.told(file.newest(&mut probe, key))?;
            if newest != Lsn::ZERO {
                return Ok(newest);
            }
        }
        Ok(Lsn::ZERO)
    }

    /// Something newer than `above` within the range.
    pub(super) fn newer_in(
        &self,
        range: KeyRange<'_>,
        above: Lsn,
    ) -> Result<Option<Lsn>, ReadError> {
        // An interval that no key is in overlaps nothing.
        if self.stamp_max <= above || RangeDelete::new(range).is_none() {
            return Ok(None);
        }
        for run in 0..self.runs() {
            for file in overlapping(self.run(run), range) {
                if let Some(newer) = file.told(file.table.newer_in(range, above))? {
                    return Ok(Some(newer));
                }
            }
        }
        Ok(None)
    }
}

/// Those of ascending files that may say something of a key in the range.
pub(super) fn overlapping<'f>(
    files: &'f [Arc<OpenFile>],
    range: KeyRange<'_>,
) -> &'f [Arc<OpenFile>] {
    let from = match range.0 {
        Bound::Included(key) | Bound::Excluded(key) => {
            files.partition_point(|file| !file.reaches(key))
        }
        Bound::Unbounded => 0,
    };
    let to = match range.1 {
        Bound::Included(key) => files.partition_point(|file| *file.meta.smallest <= *key),
        Bound::Excluded(key) => files.partition_point(|file| *file.meta.smallest < *key),
        Bound::Unbounded => files.len(),
    };
    files.get(from..to).unwrap_or_default()
}
