//! Files become other files: fewer versions, larger files, deeper levels.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isolith_index::compact::{CompactError, Compacted, CompactionRules, Outputs};
use isolith_index::levels::{Plan, pick};
use isolith_index::manifest::Edit;
use isolith_index::sstable::{
    FileId, Properties, SstableOptions, SstableWriter, ValueFile, ValueWriter,
};
use isolith_index::{Beneath, LevelSet, OpenFile, PruneView, ReadError, pin};
use isolith_txn::Space;

use super::sink::Sink;
use super::throttle::Writer;
use super::values::{attach_all, supersede_values};
use super::{Counters, Done, Files, WorkError, add_edit, changed};
use crate::core::Core;
use crate::merge::Calm;

/// The files that a flush or a compaction writes. What was finished and is not taken away is removed.
pub(super) struct NewFiles<'a> {
    files: &'a Files,
    options: SstableOptions,
    writer: Writer,
    /// Set when another part of the same compaction has failed.
    stop: Option<&'a AtomicBool>,
    /// The file that is being written.
    begun: FileId,
    finished: Vec<OpenFile>,
    values: Vec<Arc<ValueFile>>,
    failed: Option<WorkError>,
}

impl<'a> NewFiles<'a> {
    pub(super) fn new(files: &'a Files, core: &Core, space: &Space) -> Self {
        let options = core.keyspace_options(space.id).of_files(space.id);
        let (writer, begun) = (Writer::Flush, FileId(0));
        let (finished, values) = (Vec::new(), Vec::new());
        Self { files, options, writer, stop: None, begun, finished, values, failed: None }
    }

    /// For a part of a compaction, which ends early once `stop` is set.
    pub(super) fn of_part(
        files: &'a Files,
        core: &Core,
        space: &Space,
        stop: &'a AtomicBool,
    ) -> Self {
        let mut new = Self::new(files, core, space);
        (new.writer, new.stop) = (Writer::Compaction, Some(stop));
        new
    }

    /// The files, and new value files to which they refer; from here on they are the caller's. `known` are the
    /// value files to which the inputs refer.
    pub(super) fn take(mut self, known: &[Arc<ValueFile>]) -> Written {
        let values = std::mem::take(&mut self.values);
        let mut files = std::mem::take(&mut self.finished);
        let all: Vec<_> = known.iter().chain(&values).cloned().collect();
        attach_all(&mut files, &all);
        Written { files, values }
    }

    /// Why writing failed.
    pub(super) fn error(&mut self, error: CompactError) -> WorkError {
        if let Some(failed) = self.failed.take() {
            return failed;
        }
        match error {
            CompactError::Input { file, error } => WorkError::Damaged(ReadError { file, error }),
            CompactError::Output(source) => self.files.io(super::DIRECTORY, source),
            CompactError::Cancelled => WorkError::Over,
        }
    }

    /// Keeps what failed, to be told in full later.
    fn told<T>(&mut self, result: Done<T>) -> io::Result<T> {
        result.map_err(|error| {
            let short = io::Error::other(error.to_string());
            self.failed = Some(error);
            short
        })
    }
}

impl Outputs for NewFiles<'_> {
    type Sink = Sink;

    fn begin(&mut self) -> io::Result<SstableWriter<Sink>> {
        let begun = self.files.new_file(self.options, Some(self.writer));
        let begun = self.told(begun)?;
        self.begun = begun.file();
        Ok(begun)
    }

    fn finish(&mut self, sink: Sink, properties: Properties) -> io::Result<()> {
        let finished = self.files.finish(self.begun, sink, &properties);
        let finished = self.told(finished)?;
        self.finished.extend(finished);
        Ok(())
    }

    fn begin_values(&mut self) -> io::Result<ValueWriter<Sink>> {
        let begun = self.files.new_values(self.options.compression, Some(self.writer));
        self.told(begun)
    }

    fn finish_values(&mut self, file: FileId, sink: Sink) -> io::Result<()> {
        let finished = self.files.finish_values(file, sink);
        let finished = self.told(finished)?;
        self.values.push(finished);
        Ok(())
    }

    fn cannot_move(&mut self, file: FileId) {
        self.files.damaged.lock().insert(file.0);
    }

    fn is_cancelled(&self) -> bool {
        // Relaxed: see `compact_files`.
        let stop = self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        stop || self.files.work.lock().over
    }
}

impl Drop for NewFiles<'_> {
    fn drop(&mut self) {
        // Not live, and never was.
        self.finished.iter().for_each(OpenFile::supersede);
        self.values.iter().for_each(|file| file.supersede());
    }
}

/// What a flush or a compaction wrote.
#[derive(Default)]
pub(super) struct Written {
    pub(super) files: Vec<OpenFile>,
    /// New value files: the files hold those that they refer to.
    pub(super) values: Vec<Arc<ValueFile>>,
}

impl Written {
    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        let files: u64 = self.files.iter().map(|file| file.meta().bytes).sum();
        files + self.values.iter().map(|file| file.bytes()).sum::<u64>()
    }
}

/// A compaction that was picked.
pub(super) struct Picked {
    pub(super) space: Arc<Space>,
    pub(super) plan: Plan,
    pub(super) levels: Arc<LevelSet>,
}

impl Files {
    /// What a compaction or flush of a keyspace keeps.
    pub(super) fn rules<'r>(
        &self,
        core: &Core,
        space: &Space,
        view: &'r PruneView,
        operators: &'r Calm<'r>,
        expired_before: u64,
    ) -> CompactionRules<'r> {
        CompactionRules {
            view,
            operators,
            expired_before: if space.may_expire() { expired_before } else { 0 },
            merges_above: space.may_merge(),
            beneath: if space.may_expire() { Beneath::Expiring } else { Beneath::Values },
            fences: &[],
            file_bytes: self.options.file_bytes,
            large_values: core
                .keyspace_options(space.id)
                .large_values_or(self.options.large_values),
            moved: &[],
            value_file_bytes: self.options.file_bytes,
        }
    }

    /// Compacts until nothing is due. Returns whether anything was.
    pub(crate) fn compact_all(&self, core: &Core) -> Done<bool> {
        let mut any = false;
        while self.compact_one(core)? {
            any = true;
        }
        Ok(any)
    }

    /// Carries out the compaction that is due most, if one is.
    pub(crate) fn compact_one(&self, core: &Core) -> Done<bool> {
        let _compacting = self.compacting.lock();
        self.settle_first()?;
        self.remove_doomed();
        let Some(picked) = self.pick(core) else { return Ok(false) };
        let done = self.carry_out(core, &picked);
        if let Err(WorkError::Damaged(error)) = &done {
            self.damaged.lock().insert(error.file.0);
            self.count_level0(core);
        }
        done.map(|()| true)
    }

    /// Compacts a keyspace to its lowest level, whatever there is.
    pub(crate) fn compact_fully(&self, core: &Core, space: &Arc<Space>) -> Done<()> {
        let _compacting = self.compacting.lock();
        self.settle_first()?;
        let levels = Arc::clone(space.view(&pin()).levels());
        let Some(plan) = levels.levels().everything() else { return Ok(()) };
        let picked = Picked { space: Arc::clone(space), plan, levels };
        self.carry_out(core, &picked)?;
        self.remove_doomed();
        Ok(())
    }

    fn pick(&self, core: &Core) -> Option<Picked> {
        let (guard, damaged) = (pin(), self.damaged.lock());
        let damaged: Vec<u64> = damaged.iter().copied().collect();
        core.all_spaces().into_iter().filter(|space| !space.is_dropped()).find_map(|space| {
            let levels = Arc::clone(space.view(&guard).levels());
            let plan = pick(levels.levels(), &self.options.levels, &damaged)?;
            Some(Picked { space, plan, levels })
        })
    }

    fn carry_out(&self, core: &Core, picked: &Picked) -> Done<()> {
        let Picked { space, plan, levels } = picked;
        let inputs: Vec<Arc<OpenFile>> = levels
            .files()
            .filter(|file| {
                plan.upper.contains(&file.meta().id) || plan.lower.contains(&file.meta().id)
            })
            .cloned()
            .collect();
        let old: Vec<u64> = inputs.iter().map(|file| file.meta().id).collect();
        let (new, new_values, compacted) = match plan.is_move() {
            true => (inputs.clone(), Vec::new(), Compacted::default()),
            false => {
                let (written, compacted) = self.compact_files(core, picked, &inputs)?;
                Counters::count(&self.counters.compacted_bytes_out, written.bytes());
                Counters::count(&self.counters.moved_bytes, compacted.bytes_moved);
                let new = written.files.into_iter().map(Arc::new).collect();
                (new, written.values, compacted)
            }
        };
        let mut edits: Vec<Edit> =
            old.iter().map(|&id| Edit::RemoveFile { space: space.id, id }).collect();
        edits.extend(new.iter().map(|file| add_edit(space.id, plan.to, file)));
        let is_move = plan.is_move();
        if !is_move {
            let bytes = inputs.iter().map(|file| file.meta().bytes).sum();
            Counters::count(&self.counters.compacted_bytes_in, bytes);
        }
        let (space, to) = (Arc::clone(space), plan.to);
        self.edit(
            edits,
            Box::new(move |files, made| {
                let gone = if made { &inputs } else { &new };
                if !is_move {
                    gone.iter().for_each(|file| file.supersede());
                }
                if !made {
                    return new_values.iter().for_each(|file| file.supersede());
                }
                // Before the view shows it: who reads the view can know what it may have missed.
                space.note_forgotten(compacted.forgotten);
                let _changing = files.changing.lock();
                let guard = pin();
                let view = space.view(&guard);
                let new = new.iter().map(|file| (to, Arc::clone(file)));
                let levels = changed(view.levels(), &old, new);
                supersede_values(view.levels(), &levels);
                space.tree.replace(view.with_levels(levels));
            }),
        )?;
        self.count_level0(core);
        Counters::count(&self.counters.compactions, 1);
        self.note_done();
        Ok(())
    }
}
