//! The engine's own threads: one that drives the log, one that flushes memtables, one that compacts files (with
//! helpers while a compaction is large: `files/parts.rs`),
//! one that prepares segments and sweeps.
//!
//! The log's thread leads batches for futures and for `Buffered` commits whose delay is over, so
//! that `poll` never waits for a disk. The other keeps a segment zero-written ahead, deletes what has
//! expired, and prunes chains that nobody writes to any more. Neither keeps the database open: what
//! they hold is no handle. They end when the database is closed, and closing waits for them.

use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use isolith_index::{Direction, Kind, Slice, Value, pin};
use isolith_txn::{Isolation, ReadSet, Request, Space, SpaceId, SpaceWrites, Watermarks};
use isolith_wal::{Durability, Preparation};

use crate::commit::Commit;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::history::Kept;
use crate::merge::{self, Calm};
use crate::record;
use crate::transaction::Queued;

/// The time between two rounds of upkeep.
const ROUND: Duration = Duration::from_millis(20);
/// Keys looked at in one round, per keyspace.
const SWEEP_KEYS: usize = 1024;
/// The same where history is retained: nobody else prunes there.
const SWEEP_KEYS_RETAINED: usize = 8 * SWEEP_KEYS;
/// Keys looked at under one pin.
const STRETCH_KEYS: usize = 64;
/// Versions passed by in one round, on the average: a chain of a million that must stay is walked once
/// in a while, not every round.
const SWEEP_VERSIONS: usize = 32 << 10;
/// Expired keys deleted in one transaction.
const SWEEP_DELETES: usize = 128;

/// The threads of one database.
#[derive(Debug, Default)]
pub(crate) struct Background {
    threads: Vec<JoinHandle<()>>,
}

impl Background {
    /// Starts the threads. Where one cannot be had the database works without it: committers lead
    /// the log themselves.
    pub(crate) fn start(core: &Arc<Core>) -> Self {
        let mut threads = Vec::with_capacity(4);
        if let Some(log) = core.log() {
            let log = Arc::clone(log);
            let named = thread::Builder::new().name("isolith-log".into());
            threads.extend(named.spawn(move || log.drive()));
        }
        if let Some(files) = core.files() {
            for (name, work) in [
                ("isolith-flush", Files::flush_due as fn(&Files, &Core) -> _),
                ("isolith-compact", Files::compact_one),
            ] {
                let (files, core) = (Arc::clone(files), Arc::clone(core));
                let named = thread::Builder::new().name(name.into());
                threads.extend(named.spawn(move || files.attend(&core, work)));
            }
        }
        let core = Arc::clone(core);
        let named = thread::Builder::new().name("isolith-upkeep".into());
        threads.extend(named.spawn(move || upkeep(&core)));
        Self { threads }
    }

    /// Waits for the threads to end; they do once the log is shut down and the database closed.
    pub(crate) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            // The user's own clock or waker, called there, may hold a handle.
            if thread.thread().id() != thread::current().id() {
                thread.thread().unpark();
                // A panic in there was already reported by the panic hook.
                let _ = thread.join();
            }
        }
    }
}

fn upkeep(core: &Core) {
    let log = core.log();
    let mut sweeps = Sweeps::default();
    while core.check_open().is_ok() {
        sweeps.round(core);
        core.wake_due();
        match log.map(|log| log.prepare(ROUND)) {
            // It waited for the round's length, or has prepared a segment.
            Some(Preparation::Idle | Preparation::Prepared) => {}
            Some(Preparation::Over) if log.is_some_and(|log| log.poisoned().is_none()) => return,
            // In memory, after a failure, or with a poisoned log: reads go on, and so does pruning.
            Some(Preparation::Failed(_) | Preparation::Over) | None => thread::park_timeout(ROUND),
        }
    }
}

/// Where the sweep of each keyspace stands.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    passes: HashMap<SpaceId, Pass>,
    /// Which keyspace comes first: each in its turn, since it may use up what a round allows.
    first: usize,
    /// Versions passed by beyond what the rounds so far allow.
    debt: usize,
}

/// A pass over a keyspace that is under way.
#[derive(Debug, Default)]
struct Pass {
    after: Option<Slice>,
    /// What it has left so far.
    kept: Kept,
    /// Whether it has left out chains.
    partial: bool,
}

impl Sweeps {
    /// Looks at the next keys of every keyspace: prunes their chains, deletes what has expired.
    pub(crate) fn round(&mut self, core: &Core) {
        core.look_at_the_clock();
        self.debt = self.debt.saturating_sub(SWEEP_VERSIONS);
        let mut spaces = core.spaces();
        spaces.sort_unstable_by_key(|(_, space)| space.id);
        let ids: Vec<SpaceId> = spaces.iter().map(|(_, space)| space.id).collect();
        self.passes.retain(|id, _| ids.contains(id));
        let first = self.first % spaces.len().max(1);
        spaces.rotate_left(first);
        self.first = self.first.wrapping_add(1);
        let indebted = self.debt > 0;
        for (_, space) in spaces {
            let expired = self.look(core, &space, &ids, indebted);
            for keys in expired.chunks(SWEEP_DELETES) {
                match delete_expired(core, &space, keys) {
                    // Somebody writes there, or has it locked: the next pass comes back.
                    Ok(()) | Err(Error::Conflict { .. } | Error::LockRefused { .. }) => {}
                    Err(_) => break,
                }
            }
        }
    }

    /// Looks at the next keys of one keyspace; returns those that have expired.
    fn look(
        &mut self,
        core: &Core,
        space: &Arc<Space>,
        ids: &[SpaceId],
        indebted: bool,
    ) -> Vec<Slice> {
        let mut expired = Vec::new();
        let retained = core.history().is_retained();
        let visits_max = if retained { SWEEP_KEYS_RETAINED } else { SWEEP_KEYS };
        // An old view only prunes less: one does for all stretches.
        let (read, view) = (core.marks().acknowledged(), core.prune_view());
        let pass = self.passes.entry(space.id).or_default();
        for _ in 0..visits_max / STRETCH_KEYS {
            // What has expired is looked for all the same; the chains wait for the next pass.
            let prunes = !indebted && self.debt < SWEEP_VERSIONS;
            if !prunes && !space.may_expire() {
                break;
            }
            let after = pass.after.take();
            let last = look_for_expired(core, space, after.as_ref(), &mut expired);
            let lower = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let upper = last.as_deref().map_or(Bound::Unbounded, Bound::Included);
            if prunes {
                let guard = pin();
                let (range, operators) = ((lower, upper), Calm(core.operators()));
                let pruned = space.active().prune_range(range, &view, &operators, &guard);
                core.count_pruned(pruned.bytes);
                self.debt += pruned.kept_versions + pruned.versions;
                let oldest = view.needed.first().copied().filter(|&oldest| oldest < read);
                pass.kept.add(oldest, &pruned);
            }
            pass.partial |= !prunes;
            if last.is_none() {
                let pass = std::mem::take(pass);
                if !pass.partial {
                    core.history().note_kept(space.id, pass.kept, ids);
                }
                break;
            }
            pass.after = last;
        }
        expired
    }
}

/// Looks for expired keys in the next stretch after `after`; returns the last key that it looked at,
/// unless it came to the end.
fn look_for_expired(
    core: &Core,
    space: &Space,
    after: Option<&Slice>,
    expired: &mut Vec<Slice>,
) -> Option<Slice> {
    let (now, read) = (core.now(), core.marks().acknowledged());
    let lower = after.map_or(Bound::Unbounded, |after| Bound::Excluded(&after[..]));
    let (mut visits, mut last, guard) = (0, None, pin());
    space.active().scan((lower, Bound::Unbounded), Direction::Forward, &guard, |node| {
        if space.may_expire()
            && merge::expires_at(node.lookup(read).found).is_some_and(|at| at <= now)
        {
            expired.push(Slice::from(node.key()));
        }
        visits += 1;
        if visits == STRETCH_KEYS {
            last = Some(Slice::from(node.key()));
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    last
}

/// Deletes those of `keys` that are still expired. It depends on what it read: a key that is written
/// meanwhile makes the commit fail, and nothing is lost. It does not wait for room in the log, which
/// this thread may be the one to make, nor for the log: what a crash takes back expires again.
fn delete_expired(core: &Core, space: &Arc<Space>, keys: &[Slice]) -> Result<()> {
    let (slot, now) = (core.register(Watermarks::visible)?, core.now());
    core.keep(&slot)?;
    let mut reads = ReadSet::default();
    let mut bytes = Vec::new();
    let mut doomed = Vec::new();
    for key in keys {
        let guard = pin();
        let found = space.view(&guard).lookup(key, slot.timestamp(), &guard)?;
        if merge::expires_at(found.found).is_some_and(|at| at <= now) {
            reads.point(space, key);
            record::delete(&mut bytes, space.id, key);
            doomed.push(key);
        }
    }
    if doomed.is_empty() {
        return Ok(());
    }
    let record = core.reserve(|| bytes, None)?;
    let mut prepared = space.prepare(doomed.len());
    for key in &doomed {
        prepared.add(key, Kind::Delete, Value::empty(), 0);
    }
    let writes = [SpaceWrites::new(Arc::clone(space), prepared)];
    let isolation = Isolation::Serializable;
    let request = Request::new(isolation, slot.timestamp(), writes, reads.into_spaces());
    let commit = Commit::new(request, Durability::Buffered, record, None);
    Queued::new(commit).run(core)?;
    core.count_expired(doomed.len() as u64);
    Ok(())
}
