//! A large compaction in parts that lie side by side, on several threads at once.
//!
//! ```text
//!   inputs ──split──► part 0 │ part 1 │ part 2        a thread each, as far as there are
//!                        └────────┴────────┴──► outputs, joined in one edit of the manifest
//! ```
//!
//! 1. No key is in two parts, and so the outputs do not overlap.
//! 2. What fails in one part ends all, and none of what they wrote becomes live.
//! 3. Into which parts a compaction falls depends on its inputs and on options alone. Without threads the
//!    caller does one after the other, in their order.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use isolith_index::compact::{Compacted, CompactionRules, compact, split_points};
use isolith_index::sstable::Sstable;
use isolith_index::{Beneath, OpenFile};
use parking_lot::Mutex;

use super::compaction::{NewFiles, Picked, Written};
use super::{Counters, Done, Files, WorkError};
use crate::core::Core;
use crate::merge::Calm;

/// What a part comes to.
type Part = Done<(Written, Compacted)>;

impl Files {
    /// Writes what is needed of a compaction's inputs to new files, which are not live yet.
    pub(super) fn compact_files(
        &self,
        core: &Core,
        picked: &Picked,
        inputs: &[Arc<OpenFile>],
    ) -> Part {
        let Picked { space, plan, levels } = picked;
        let tables: Vec<Arc<Sstable>> =
            inputs.iter().map(|file| Arc::clone(file.table())).collect();
        // One for all parts: what a reader finds through one is as of the same moment as through another.
        let expired_before = core.expired_for_all();
        let view = core.prune_view();
        let fences = levels.levels().fences(plan);
        let bytes: u64 = inputs.iter().map(|file| file.meta().bytes).sum();
        let points = match self.parts_of(bytes) {
            1 => Vec::new(),
            parts => split_points(&tables, parts)
                .map_err(|error| NewFiles::new(self, core, space).error(error))?,
        };
        Counters::count(&self.counters.compaction_parts, points.len() as u64 + 1);
        let values: Vec<_> = tables.iter().flat_map(|table| table.value_files()).cloned().collect();
        let stop = AtomicBool::new(false);
        let part = |number: usize| {
            let operators = Calm(core.operators());
            let rules = self.rules(core, space, &view, &operators, expired_before);
            let beneath = if plan.bottom { Beneath::Nothing } else { rules.beneath };
            let rules = CompactionRules { beneath, fences: &fences, moved: &plan.moved, ..rules };
            let from = number.checked_sub(1).and_then(|before| points.get(before));
            let from = from.map_or(Bound::Unbounded, |from| Bound::Included(&**from));
            let to = points.get(number).map_or(Bound::Unbounded, |to| Bound::Excluded(&**to));
            let (from, to) = misplaced(from, to);
            let mut outputs = NewFiles::of_part(self, core, space, &stop);
            match compact(&tables, (from, to), &rules, &mut outputs) {
                Ok(compacted) => Ok((outputs.take(&values), compacted)),
                Err(error) => {
                    // Relaxed: whoever sees it late has only done more in vain.
                    stop.store(true, Ordering::Relaxed);
                    Err(outputs.error(error))
                }
            }
        };
        let threads = if self.attended { self.options.background_threads } else { 1 };
        joined(each(points.len() + 1, threads, &part))
    }

    /// Into how many parts a compaction of so many bytes falls: none is to be smaller than a file.
    fn parts_of(&self, bytes: u64) -> usize {
        let parts = bytes / self.options.file_bytes.max(1);
        usize::try_from(parts).unwrap_or(usize::MAX).clamp(1, self.options.background_threads)
    }
}

/// The ends of a part, but for planted bugs. A point is right behind a key: without its last byte it is that
/// key.
fn misplaced<'k>(from: Bound<&'k [u8]>, to: Bound<&'k [u8]>) -> (Bound<&'k [u8]>, Bound<&'k [u8]>) {
    let key_before = |end: Bound<&'k [u8]>| match end {
        Bound::Included(point) => Bound::Included(&point[..point.len().saturating_sub(1)]),
        Bound::Excluded(point) => Bound::Excluded(&point[..point.len().saturating_sub(1)]),
        Bound::Unbounded => Bound::Unbounded,
    };
    let twice = isolith_wal::planted!("part-begins-with-the-last-key-before");
    let lost = isolith_wal::planted!("part-ends-before-its-last-key");
    (if twice { key_before(from) } else { from }, if lost { key_before(to) } else { to })
}

/// The parts as one, if none has failed. What ended because another failed says nothing of why.
fn joined(parts: Vec<Part>) -> Part {
    let (mut written, mut compacted) = (Written::default(), Compacted::default());
    let mut failed: Option<WorkError> = None;
    for part in parts {
        match part {
            Ok((new, done)) => {
                written.files.extend(new.files);
                written.values.extend(new.values);
                compacted.add(&done);
            }
            Err(_) if isolith_wal::planted!("failed-part-overlooked") => {}
            Err(WorkError::Over) if failed.is_some() => {}
            Err(error) => {
                if failed.as_ref().is_none_or(|failed| matches!(failed, WorkError::Over)) {
                    failed = Some(error);
                }
            }
        }
    }
    match failed {
        None => Ok((written, compacted)),
        Some(error) => {
            // Not live, and never were.
            written.files.iter().for_each(OpenFile::supersede);
            written.values.iter().for_each(|file| file.supersede());
            Err(error)
        }
    }
}

/// Does each part, on so many threads at most, of which the caller is one; gives what they came to in their
/// order.
fn each<T: Send>(parts: usize, threads: usize, part: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(parts)));
    let work = || loop {
        // Relaxed: distinct numbers are all that is wanted.
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= parts {
            return;
        }
        let result = part(number);
        done.lock().push((number, result));
    };
    thread::scope(|scope| {
        for number in 1..threads.min(parts) {
            let named = thread::Builder::new().name(format!("isolith-part-{number}"));
            // Where a thread is not to be had the others do its parts.
            if named.spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let mut done = done.into_inner();
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_and_given_in_order() {
        for (parts, threads) in [(1, 1), (1, 4), (5, 1), (7, 3), (3, 9)] {
            let done: Vec<usize> = each(parts, threads, &|number| number);
            assert_eq!(done, (0..parts).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_failed_is_told_and_not_what_ended_because_of_it() {
        let over = || Err(WorkError::Over);
        let log = || Err(WorkError::Log("it failed".into()));
        let sound = || Ok((Written::default(), Compacted { files: 1, ..Compacted::default() }));
        for parts in [vec![sound(), over(), log()], vec![log(), over(), sound()]] {
            assert!(matches!(joined(parts), Err(WorkError::Log(_))));
        }
        assert!(matches!(joined(vec![sound(), over()]), Err(WorkError::Over)));
        let (_, done) = joined(vec![sound(), sound()]).expect("both are sound");
        assert_eq!(done.files, 2);
    }
}
