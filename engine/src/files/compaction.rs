//! Files become other files: fewer versions, larger files, deeper levels.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isolith_index::compact::{CompactError, Compacted, CompactionRules, Outputs};
use isolith_index::levels::{Plan, pick};
use isolith_index::manifest::Edit;
use isolith_index::sstable::{Properties, SstableOptions, SstableWriter};
use isolith_index::{Beneath, LevelSet, OpenFile, PruneView, ReadError, pin};
use isolith_txn::Space;

use super::sink::Sink;
use super::throttle::Writer;
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
    finished: Vec<OpenFile>,
    failed: Option<WorkError>,
}

impl<'a> NewFiles<'a> {
    pub(super) fn new(files: &'a Files, core: &Core, space: &Space) -> Self {
        let options = core.keyspace_options(space.id).of_files(space.id);
        let writer = Writer::Flush;
        Self { files, options, writer, stop: None, finished: Vec::new(), failed: None }
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

    /// The files; from here on they are the caller's.
    pub(super) fn take(mut self) -> Vec<OpenFile> {
        std::mem::take(&mut self.finished)
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
        self.told(begun)
    }

    fn finish(&mut self, sink: Sink, properties: Properties) -> io::Result<()> {
        let finished = self.files.finish(sink, &properties);
        let finished = self.told(finished)?;
        self.finished.extend(finished);
        Ok(())
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
        let (new, compacted) = match plan.is_move() {
            true => (inputs.clone(), Compacted::default()),
            false => {
                let (new, compacted) = self.compact_files(core, picked, &inputs)?;
                (new.into_iter().map(Arc::new).collect(), compacted)
            }
        };
        let mut edits: Vec<Edit> =
            old.iter().map(|&id| Edit::RemoveFile { space: space.id, id }).collect();
        edits.extend(new.iter().map(|file| add_edit(space.id, plan.to, file)));
        let is_move = plan.is_move();
        if !is_move {
            let bytes = |files: &[Arc<OpenFile>]| files.iter().map(|file| file.meta().bytes).sum();
            Counters::count(&self.counters.compacted_bytes_in, bytes(&inputs));
            Counters::count(&self.counters.compacted_bytes_out, bytes(&new));
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
                    return;
                }
                // Before the view shows it: who reads the view can know what it may have missed.
                space.note_forgotten(compacted.forgotten);
                let _changing = files.changing.lock();
                let guard = pin();
                let view = space.view(&guard);
                let new = new.iter().map(|file| (to, Arc::clone(file)));
                let view = view.with_levels(changed(view.levels(), &old, new));
                space.tree.replace(view);
            }),
        )?;
        self.count_level0(core);
        Counters::count(&self.counters.compactions, 1);
        self.note_done();
        Ok(())
    }
}
