//! Files that are written before their commit: sorted runs of a bulk load, and the load itself.
//!
//! 1. The versions of such a file have no stamp. It gets that of its commit within the commit window, which
//!    the log's record tells (`record.rs`) and then the manifest (`docs/decisions/0016`).
//! 2. The files are durable before the record is, the record before the manifest's edit, and the log keeps
//!    the record until then.
//! 3. At the commit the keyspace has everything older in files, and none of these lies above the new ones.
//! 4. Where there are threads, one compresses blocks beside the caller (`packing.rs`), and a file is made durable
//!    while the next one is written. All of them are durable when the last one has ended.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isolith_index::sstable::{
    Compression, FileCursor, FileId, Properties, Sstable, SstableOptions, SstableWriter, ValueFile,
    ValueRef, ValueWriter,
};
use isolith_index::{Beneath, Kind, Memtable, OpenFile, ReadError, pin};
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Durability, Lsn};

use super::ending::{Ending, end_file};
use super::opening::{ingest_edits, ingest_level, open_cached, superseded};
use super::packing::Packer;
use super::sink::Sink;
use super::values::attach_all;
use super::{Done, Files, WorkError, changed, file_name, value_file_name};
use crate::catalog::KeyspaceOptions;
use crate::commit::Ingest;
use crate::core::Core;
use crate::error::{Error, Result, StallReason};
use crate::record;

/// How long it is waited for locks in the keyspace to go before it is looked again.
const PAUSE: Duration = Duration::from_millis(2);

/// Files below this are written by the caller alone: what is being packed takes that much.
const PACKED_FILE_BYTES_MIN: u64 = 1 << 20;
/// Files that are being made durable while another one is written.
const ENDING_MAX: usize = 2;

/// A pair under a merge of runs, the smallest key first and of one key the newest run.
type Head = Reverse<(Vec<u8>, Reverse<usize>)>;

/// Files that are written and not live: gone with it unless they are taken.
pub(crate) struct Loaded {
    files: Arc<Files>,
    options: SstableOptions,
    /// The size from which on values go to a value file.
    large_values: usize,
    writer: Option<(FileId, SstableWriter<Sink>)>,
    /// Who compresses blocks, where there are threads.
    packer: Option<Arc<Packer>>,
    /// Files that are written, oldest first, and on their way to being durable.
    ending: VecDeque<Ending>,
    /// The value file that is being written, and those that are whole.
    values: Option<ValueWriter<Sink>>,
    finished_values: Vec<Arc<ValueFile>>,
    finished: Vec<OpenFile>,
    /// Sorted runs that are to be merged, oldest first.
    runs: Vec<OpenFile>,
}

impl Loaded {
    pub(crate) fn new(files: &Arc<Files>, space: SpaceId, of: &KeyspaceOptions) -> Self {
        let (files, options) = (Arc::clone(files), of.of_files(space));
        let large_values = of.large_values_or(files.options.large_values);
        let helped = files.attended
            && files.options.background_threads > 1
            && files.options.file_bytes >= PACKED_FILE_BYTES_MIN;
        Self {
            files,
            options,
            large_values,
            writer: None,
            packer: helped.then(Arc::default),
            ending: VecDeque::new(),
            values: None,
            finished_values: Vec::new(),
            finished: Vec::new(),
            runs: Vec::new(),
        }
    }

    /// Adds the next pair, whose key is above all before.
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8], expires_at: u64) -> Result<()> {
        let full = |writer: &SstableWriter<Sink>| writer.bytes() >= self.files.options.file_bytes;
        if self.writer.as_ref().is_some_and(|(_, writer)| full(writer)) {
            self.end_file()?;
        }
        if self.writer.is_none() {
            let (file, mut writer) = self.files.begin_file(self.options)?;
            if let Some(packer) = &self.packer {
                writer = writer.pack_by(Arc::clone(packer) as _);
            }
            self.writer = Some((file, writer));
        }
        let large = match value.len() >= self.large_values {
            true => Some(self.add_value(key, value)?),
            false => None,
        };
        let Some((file, writer)) = &mut self.writer else { return Ok(()) };
        let added = match large {
            Some(reference) => writer.add_large(key, Lsn::ZERO, expires_at, reference),
            None => writer.add(key, Lsn::ZERO, Kind::Put, expires_at, value),
        };
        Ok(added.map_err(|source| self.files.io(&file_name(*file), source))?)
    }

    /// Adds a value to a value file.
    fn add_value(&mut self, key: &[u8], value: &[u8]) -> Result<ValueRef> {
        let full = self.files.options.file_bytes;
        if self.values.as_ref().is_some_and(|values| values.bytes() >= full) {
            self.end_values()?;
        }
        let values = match &mut self.values {
            Some(values) => values,
            none => none.insert(self.files.new_values(self.options.compression, None)?),
        };
        let name = value_file_name(values.file());
        Ok(values.add(key, value).map_err(|source| self.files.io(&name, source))?)
    }

    fn end_values(&mut self) -> Result<()> {
        let Some(values) = self.values.take() else { return Ok(()) };
        let file = values.file();
        let ended = values.finish().map_err(|source| self.files.io(&value_file_name(file), source));
        let ended = ended.and_then(|sink| self.files.finish_values(file, sink))?;
        self.finished_values.push(ended);
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        let Some((file, writer)) = self.writer.take() else { return Ok(()) };
        match writer.finish() {
            Ok((sink, properties)) => {
                let ending = end_file(&self.files, file, sink, properties, self.packer.is_some());
                self.ending.push_back(ending);
                self.end_all_but(ENDING_MAX)
            }
            Err(source) => {
                self.files.doomed.lock().push(file_name(file));
                Err(self.files.io(&file_name(file), source).into())
            }
        }
    }

    /// Waits until no more than so many files are on their way to being durable.
    fn end_all_but(&mut self, left: usize) -> Result<()> {
        while self.ending.len() > left
            && let Some(ending) = self.ending.pop_front()
        {
            self.finished.extend(ending.wait()?);
        }
        Ok(())
    }

    /// Writes a run of pairs in order, to be merged later.
    pub(crate) fn add_run<'p>(
        &mut self,
        pairs: impl Iterator<Item = (&'p [u8], &'p [u8], u64)>,
    ) -> Result<()> {
        // A run is read once, and soon.
        let plain = SstableOptions {
            compression: Compression::None,
            filter_bits_per_key: 0,
            ..self.options
        };
        let (file, mut writer) = self.files.begin_file(plain)?;
        let io = |source| self.files.io(&file_name(file), source);
        let written = pairs.map(|(key, value, expires_at)| {
            writer.add(key, Lsn::ZERO, Kind::Put, expires_at, value)
        });
        let written: std::io::Result<()> = written.collect();
        let table = written
            .and_then(|()| writer.finish())
            .and_then(|(sink, _): (Sink, Properties)| sink.end())
            .map_err(io)
            .and_then(|()| self.files.reopen(file));
        match table {
            Ok(table) => {
                self.runs.push(OpenFile::new(table, superseded(&self.files.doomed)));
                Ok(())
            }
            Err(error) => {
                self.files.doomed.lock().push(file_name(file));
                Err(error.into())
            }
        }
    }

    pub(crate) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Merges the runs: of a key that is in several the newest counts. Returns the number of pairs.
    pub(crate) fn merge_runs(&mut self) -> Result<u64> {
        let runs = std::mem::take(&mut self.runs);
        let merged = self.merge(&runs);
        runs.iter().for_each(OpenFile::supersede);
        drop(runs);
        self.files.remove_doomed();
        merged
    }

    fn merge(&mut self, runs: &[OpenFile]) -> Result<u64> {
        let mut cursors: Vec<FileCursor> =
            runs.iter().map(|run| FileCursor::new(Arc::clone(run.table()))).collect();
        let mut heads: BinaryHeap<Head> = BinaryHeap::new();
        for (run, cursor) in cursors.iter_mut().enumerate() {
            let file = runs[run].table().id();
            let damaged = |error| Error::from(ReadError { file, error });
            if cursor.first().map_err(damaged)?
                && let Some((key, ..)) = cursor.version().map_err(damaged)?
            {
                heads.push(Reverse((key.to_vec(), Reverse(run))));
            }
        }
        let mut last: Option<Vec<u8>> = None;
        let mut pairs = 0;
        while let Some(Reverse((mut key, Reverse(run)))) = heads.pop() {
            let file = runs[run].table().id();
            let damaged = |error| Error::from(ReadError { file, error });
            if last.as_ref() != Some(&key) {
                if let Some((_, _, _, expires_at, value)) =
                    cursors[run].version().map_err(damaged)?
                {
                    // Of a run, and so beside its key.
                    let mut buffer = Vec::new();
                    self.add(&key, value.read(&key, &mut buffer).map_err(damaged)?, expires_at)?;
                    pairs += 1;
                }
                let known = last.get_or_insert_default();
                known.clear();
                known.extend_from_slice(&key);
            }
            if cursors[run].advance().map_err(damaged)?
                && let Some((next, ..)) = cursors[run].version().map_err(damaged)?
            {
                if *next <= *key {
                    return Err(damaged(cursors[run].out_of_order()));
                }
                key.clear();
                key.extend_from_slice(next);
                heads.push(Reverse((key, Reverse(run))));
            }
        }
        Ok(pairs)
    }

    /// Ends the last file. Returns how many there are, and their bytes with those of value files.
    pub(crate) fn end(&mut self) -> Result<(usize, u64)> {
        self.end_file()?;
        self.end_values()?;
        self.end_all_but(0)?;
        attach_all(&mut self.finished, &self.finished_values);
        let values: u64 = self.finished_values.iter().map(|file| file.bytes()).sum();
        let bytes: u64 = self.finished.iter().map(|file| file.meta().bytes).sum();
        Ok((self.finished.len(), bytes + values))
    }

    /// Commits the files to a keyspace. Returns once that is decided and visible, not when it is durable.
    pub(crate) fn commit(
        mut self,
        core: &Core,
        space: &Arc<Space>,
        expiring: bool,
        durability: Durability,
    ) -> Result<Lsn> {
        if expiring {
            space.note_expiring();
        }
        let files = Arc::clone(&self.files);
        let lsn = files.ingest(core, space, &mut self.finished, expiring, durability)?;
        // The levels hold them.
        self.finished_values.clear();
        Ok(lsn)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some((file, _)) = &self.writer {
            self.files.doomed.lock().push(file_name(*file));
        }
        let ended = self.ending.drain(..).filter_map(|ending| ending.wait().ok().flatten());
        self.finished.extend(ended);
        self.finished.iter().chain(&self.runs).for_each(OpenFile::supersede);
        self.finished_values.iter().for_each(|file| file.supersede());
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (finished, runs) = (&self.finished, &self.runs);
        f.debug_struct("Loaded")
            .field("finished", finished)
            .field("runs", runs)
            .finish_non_exhaustive()
    }
}

impl Files {
    fn reopen(&self, file: FileId) -> Done<Arc<Sstable>> {
        let table = open_cached(&*self.storage, self.database, file, &self.cache);
        table.map_err(|error| WorkError::Damaged(ReadError { file, error }))
    }

    /// Commits files without stamps, and tells the manifest of them.
    fn ingest(
        &self,
        core: &Core,
        space: &Arc<Space>,
        new: &mut Vec<OpenFile>,
        expiring: bool,
        durability: Durability,
    ) -> Result<Lsn> {
        let deadline = Instant::now() + core.stall_timeout();
        let _flushing = self.flushing.lock();
        let _compacting = self.compacting.lock();
        loop {
            self.settle_first()?;
            // Everything older goes to files, so that nothing older lies above the new ones.
            self.freeze(core, space);
            while self.flush_oldest(core)? {}
            let ids = new.iter().map(|file| file.meta().id);
            let encoded = || {
                let mut bytes = Vec::new();
                record::ingest(&mut bytes, space.id, expiring, ids);
                bytes
            };
            let mut record = core.reserve(encoded, Some(core.stall_timeout()))?;
            let beneath = if space.may_expire() { Beneath::Expiring } else { Beneath::Values };
            let fresh = Arc::new(Memtable::above(beneath, core.seed() ^ u64::from(space.id)));
            let changing = self.changing.lock();
            let known = Arc::clone(space.view(&pin()).levels());
            let level = ingest_level(&known, new);
            self.owed.lock().above = Some(core.marks().visible());
            let mut edits = Vec::new();
            let install = |lsn| {
                for file in new.iter_mut() {
                    let alone = file.assign(lsn);
                    debug_assert!(alone, "nobody reads a file before it is live");
                }
                edits = ingest_edits(space, lsn, level, new);
                let new = new.drain(..).map(|file| (level, Arc::new(file)));
                changed(&known, &[], new)
            };
            let pipeline = core.pipeline();
            let ingest = pipeline.ingest(space, fresh, durability, &mut record, install);
            drop(changing);
            if let Ingest::Done(lsn, memtable) = ingest {
                self.retired.lock().push(memtable);
                core.forget();
                self.tell(space, edits);
                self.count_level0(core);
                self.note_done();
                return Ok(lsn);
            }
            self.owed.lock().above = None;
            match ingest {
                Ingest::Closed => return Err(Error::Closed),
                Ingest::Dropped => return Err(core.dropped(space.id)),
                _ if Instant::now() >= deadline => {
                    return Err(Error::Stalled { reason: StallReason::Writers });
                }
                Ingest::Locked => std::thread::sleep(PAUSE),
                _ => {}
            }
        }
    }

    /// Tells the manifest of a commit's files, once the log has the commit. Where that fails it is owed: the
    /// log tells the next open.
    fn tell(&self, space: &Arc<Space>, mut edits: Vec<super::Edit>) {
        edits.extend(space.may_expire().then_some(super::Edit::ExpiringSpace(space.id)));
        // Whoever changes or looks at the manifest pays what is owed: not before the record is durable. If it
        // never is, the log has failed, and the next open goes by what it has.
        let synced = self.log.sync().map_err(|error| WorkError::Log(error.to_string()));
        let told = synced.and_then(|()| {
            self.owed.lock().edits = edits;
            self.settle_first()
        });
        if let Err(error) = told {
            self.note_failure(&error);
        }
    }

    fn begin_file(&self, options: SstableOptions) -> Done<(FileId, SstableWriter<Sink>)> {
        let writer = self.new_file(options, None)?;
        Ok((writer.file(), writer))
    }
}
