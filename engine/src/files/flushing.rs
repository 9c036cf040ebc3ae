//! Memtables become files: they are frozen between two rounds of commits, written when the log is durable up
//! to all that they hold, and let go when nobody reads them any more; the log is released behind them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isolith_index::compact::CompactionRules;
use isolith_index::manifest::Edit;
use isolith_index::{Memtable, OpenFile, flush_memtable, pin};
use isolith_txn::Space;
use isolith_wal::Lsn;

use super::compaction::{NewFiles, Written};
use super::{Counters, Done, Files, Frozen, MERGES, WorkError, add_edit, changed};
use crate::core::{Core, SYSTEM_SPACE};
use crate::merge::Calm;

impl Files {
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
    pub(super) fn active_memtables(core: &Core) -> (usize, Vec<(usize, Arc<Space>)>) {
        let mut all: Vec<_> =
            core.all_spaces().into_iter().map(|space| (space.active().bytes(), space)).collect();
        all.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        (all.iter().map(|(bytes, _)| bytes).sum(), all)
    }

    /// Whether the log is longer than it need be.
    pub(super) fn is_log_long(&self) -> bool {
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
        // What that made garbage of is given back, if it is much.
        self.compact_all(core)?;
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

    pub(super) fn flush_oldest(&self, core: &Core) -> Done<bool> {
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

    pub(super) fn flush(
        &self,
        core: &Core,
        space: &Arc<Space>,
        memtable: &Arc<Memtable>,
        through: Lsn,
    ) -> Done<()> {
        // A file is never ahead of the log.
        self.log.sync().map_err(|error| WorkError::Log(error.to_string()))?;
        let Written { files: new, values } = self.write_memtable(core, space, memtable)?;
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
                    values.iter().for_each(|file| file.supersede());
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
    pub(super) fn write_memtable(
        &self,
        core: &Core,
        space: &Space,
        memtable: &Memtable,
    ) -> Done<Written> {
        let expired_before = core.expired_for_all();
        let (view, operators) = (core.prune_view(), Calm(core.operators()));
        let rules = self.rules(core, space, &view, &operators, expired_before);
        // A file of level 0 has all of its memtable: the files of that level overlap anyway.
        let rules = CompactionRules { file_bytes: u64::MAX, ..rules };
        let mut outputs = NewFiles::new(self, core, space);
        match flush_memtable(memtable, &rules, &mut outputs) {
            Ok(_) => {
                let written = outputs.take(&[]);
                Counters::count(&self.counters.flushes, 1);
                Counters::count(&self.counters.flushed_bytes, written.bytes());
                Ok(written)
            }
            Err(error) => Err(outputs.error(error)),
        }
    }

    /// Lets go of what was flushed, and tells those who wait for memory.
    pub(super) fn let_go(&self, core: &Core) {
        let before = self.retired.lock().len();
        self.reclaimed(core, false);
        let after = self.retired.lock().len();
        if after < before {
            self.note_done();
        }
    }

    /// Lets go of memtables that nobody looks at any more: here, and not on a reader's thread.
    pub(super) fn retire(&self) {
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
    pub(super) fn release_log(&self, core: &Core) -> Done<()> {
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

    pub(super) fn count_level0(&self, core: &Core) {
        let (guard, damaged) = (pin(), self.damaged.lock());
        let files = |space: &Arc<Space>| {
            let levels = space.view(&guard).levels();
            // Where a file is damaged nothing is gained by waiting for its compaction.
            let waits = !levels.files().any(|file| damaged.contains(&file.meta().id));
            if waits { levels.levels().levels[0].len() } else { 0 }
        };
        let most = core.all_spaces().iter().map(files).max().unwrap_or(0);
        // Relaxed: a hint.
        self.level0.store(most as u64, Ordering::Relaxed);
    }
}
