//! What readers may see of commits that are decided but not acknowledged, in every interleaving.
//!
//! Two writers of any durability, a reader, somebody who syncs, and the leader move in every order.
//! A few lines predict `S` exactly (what is durable, or was acknowledged at a weaker level); a reader
//! must see the state at `S` when it began, no more and no less, and an acknowledgement must come
//! exactly when its level says.

use std::sync::Arc;

use isolith::storage::memory::MemoryStorage;
use isolith::{
    Builder, CommitMode, CommitSteps, Database, Durability, Error, Keyspace, Snapshot, Step,
    Timestamp, Transaction, TransactionOptions, steps::Steps,
};

use crate::dice::Dice;
use crate::finding::{Checked, Finding};
use crate::{ensure, ensure_eq};

/// How somebody reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A read-only transaction.
    Transaction,
    /// A snapshot.
    Snapshot,
    /// Two autocommit reads: each has a moment of its own.
    Autocommit,
    /// A snapshot that is to include the writers' newest commit, acknowledged or not.
    SnapshotAfter,
    /// Two autocommit reads that are to include the writers' newest commit.
    GetAfter,
    /// A serializable transaction that changes nothing, and must wait for what it saw.
    ReadWrite,
}

/// Every way to read.
pub const READERS: [Reader; 6] = [
    Reader::Transaction,
    Reader::Snapshot,
    Reader::Autocommit,
    Reader::SnapshotAfter,
    Reader::GetAfter,
    Reader::ReadWrite,
];

/// Every durability.
pub const LEVELS: [Durability; 3] = [Durability::Sync, Durability::Os, Durability::Buffered];

/// A move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// A writer puts both keys and hands its commit in.
    Submit(usize),
    /// The leader decides the oldest commit that is queued.
    Decide,
    /// A writer waits for its acknowledgement.
    Acknowledge(usize),
    /// Somebody makes everything durable.
    Sync,
    /// The reader begins and reads the first key.
    ReadFirst,
    /// The reader reads the second key, and ends.
    ReadSecond,
}

/// Every order of the moves that makes sense.
pub fn schedules() -> Vec<Vec<Move>> {
    fn allowed(sofar: &[Move], next: Move) -> bool {
        let count = |wanted: Move| sofar.iter().filter(|made| **made == wanted).count();
        // The queue is first in, first out: who is decided by now?
        let decided = |who: usize| {
            let submitted = sofar.iter().filter_map(|made| match made {
                Move::Submit(who) => Some(*who),
                _ => None,
            });
            submitted.take(count(Move::Decide)).any(|one| one == who)
        };
        match next {
            Move::Submit(_) | Move::Acknowledge(_) | Move::Sync | Move::ReadFirst
                if count(next) > 0 =>
            {
                false
            }
            Move::Submit(_) | Move::Sync | Move::ReadFirst => true,
            Move::Decide => count(Move::Decide) < count(Move::Submit(0)) + count(Move::Submit(1)),
            Move::Acknowledge(who) => decided(who),
            Move::ReadSecond => count(Move::ReadFirst) == 1 && count(Move::ReadSecond) == 0,
        }
    }
    fn go(sofar: &mut Vec<Move>, all: &mut Vec<Vec<Move>>) {
        const MOVES: [Move; 8] = [
            Move::Submit(0),
            Move::Submit(1),
            Move::Decide,
            Move::Acknowledge(0),
            Move::Acknowledge(1),
            Move::Sync,
            Move::ReadFirst,
            Move::ReadSecond,
        ];
        let mut last = true;
        for next in MOVES {
            if allowed(sofar, next) {
                last = false;
                sofar.push(next);
                go(sofar, all);
                sofar.pop();
            }
        }
        if last {
            all.push(sofar.clone());
        }
    }
    let mut all = Vec::new();
    go(&mut Vec::new(), &mut all);
    all
}

/// A logged database whose rounds are stepped. For some thousand runs: where its log grows long, a flush
/// makes more durable than the few lines predict.
pub struct Stage {
    db: Database,
    steps: Steps,
    keyspace: Keyspace,
    runs: u64,
}

enum Open {
    Transaction(Box<Transaction>),
    Snapshot(Snapshot),
    Nothing,
}

/// What the few lines predict. Commits are counted from the start of the run.
#[derive(Default)]
struct Predicted {
    /// Who was decided, in order.
    decided: Vec<usize>,
    submitted: Vec<usize>,
    written: usize,
    durable: usize,
    weak: usize,
}

impl Predicted {
    fn s(&self) -> usize {
        self.durable.max(self.weak)
    }

    /// A batch is cut from all that is decided; it is synced if it must be or holds a `Sync` commit.
    fn write(&mut self, levels: [Durability; 2], sync: bool) {
        let batch = &self.decided[self.written..];
        let sync = sync || batch.iter().any(|who| levels[*who] == Durability::Sync);
        self.written = self.decided.len();
        if sync {
            self.durable = self.written;
        }
    }
}

fn fail(error: Error) -> Finding {
    Finding::new(format!("an unexpected error: {error:?}"))
}

impl Stage {
    /// A new database.
    pub fn new() -> Checked<Stage> {
        let db = Builder::in_memory()
            .commit_mode(CommitMode::Stepped)
            .storage(Arc::new(MemoryStorage::new()))
            .threads(false)
            .open()
            .map_err(|error| Finding::new(error.to_string()))?;
        let steps = Steps::new(&db);
        let keyspace = steps.keyspace("space").map_err(fail)?;
        Ok(Stage { db, steps, keyspace, runs: 0 })
    }

    fn key(&self, key: u8) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&self.runs.to_be_bytes());
        bytes[8] = key;
        bytes
    }

    /// Runs one schedule and compares.
    pub fn run(&mut self, levels: [Durability; 2], reader: Reader, schedule: &[Move]) -> Checked {
        self.runs += 1;
        self.steps.log().map_err(fail)?;
        let start = self.db.visible();
        ensure_eq!(self.db.acknowledged(), start, "S after a sync");
        let mut predicted = Predicted::default();
        let mut commits: [Option<CommitSteps>; 2] = [None, None];
        let mut pending = [None, None];
        let mut open = Open::Nothing;
        let mut seen: Vec<(usize, Option<u8>)> = Vec::new();
        for next in schedule {
            match *next {
                Move::Submit(who) => {
                    let mut commit = self.submit(who, levels[who])?;
                    ensure!(matches!(commit.step(), Step::Blocked(_)), "a commit decided itself");
                    commits[who] = Some(commit);
                    predicted.submitted.push(who);
                }
                Move::Decide => {
                    ensure_eq!(self.steps.round(1), 1, "the commits decided by a round");
                    let who = predicted.submitted[predicted.decided.len()];
                    predicted.decided.push(who);
                    if levels[who] == Durability::Buffered {
                        predicted.weak = predicted.decided.len();
                    }
                    let at = Timestamp::new(
                        start.epoch(),
                        start.counter() + predicted.decided.len() as u64,
                    );
                    ensure_eq!(self.db.visible(), at, "visible");
                    pending[who] = commits[who].take().map(|commit| (commit, at));
                }
                Move::Acknowledge(who) => {
                    let Some((commit, at)) = pending[who].take() else { continue };
                    let place = (at.counter() - start.counter()) as usize;
                    self.acknowledge(commit, at, place, levels, who, &mut predicted)?;
                }
                Move::Sync => {
                    self.steps.log().map_err(fail)?;
                    if predicted.durable < predicted.decided.len() {
                        predicted.write(levels, true);
                    }
                }
                Move::ReadFirst | Move::ReadSecond => {
                    let key = u8::from(*next == Move::ReadSecond);
                    let found = self.read(&mut open, reader, key, start, &predicted)?;
                    seen.push(found);
                }
            }
            let s = (self.db.acknowledged().counter() - start.counter()) as usize;
            ensure_eq!(s, predicted.s(), "S after {next:?}");
            let durable = (self.db.durable().counter() - start.counter()) as usize;
            ensure_eq!(durable, predicted.durable, "durable after {next:?}");
        }
        for (expected, found) in seen {
            // Both writers put both keys: the last decided one is seen.
            let expected = predicted.decided[..expected].last().map(|who| *who as u8);
            ensure_eq!(found, expected, "what {reader:?} saw");
        }
        Ok(())
    }

    fn submit(&self, who: usize, durability: Durability) -> Checked<CommitSteps> {
        let durability = Some(durability);
        let options = TransactionOptions { durability, ..TransactionOptions::default() };
        let mut transaction = self.db.begin_with(options).map_err(fail)?;
        for key in [0, 1] {
            transaction.put(&self.keyspace, self.key(key), [who as u8]).map_err(fail)?;
        }
        Ok(transaction.commit_steps())
    }

    fn acknowledge(
        &self,
        mut commit: CommitSteps,
        at: Timestamp,
        place: usize,
        levels: [Durability; 2],
        who: usize,
        predicted: &mut Predicted,
    ) -> Checked {
        let reached = match levels[who] {
            Durability::Sync => predicted.durable >= place,
            Durability::Os => predicted.written >= place,
            Durability::Buffered => true,
        };
        // Asking is not waiting: it does no I/O.
        match commit.step() {
            Step::Ready(info) => {
                ensure!(reached, "{at} was acknowledged before it was as durable as asked");
                ensure_eq!(info.timestamp, Some(at), "the timestamp");
            }
            Step::Blocked(_) => {
                ensure!(!reached, "{at} is as durable as asked, and not acknowledged");
                let pending = match commit.into_pending() {
                    Some(pending) => pending,
                    None => return Err(Finding::new("a decided commit has nothing to wait for")),
                };
                let info = pending.wait().map_err(fail)?;
                ensure_eq!(info.timestamp, Some(at), "the timestamp");
                predicted.write(levels, levels[who] == Durability::Sync);
            }
            Step::Aborted(error) => return Err(fail(error)),
        }
        if levels[who] == Durability::Os {
            predicted.weak = predicted.weak.max(predicted.written);
        }
        Ok(())
    }

    /// Reads a key: how many commits had to be seen, and what was.
    fn read(
        &self,
        open: &mut Open,
        reader: Reader,
        key: u8,
        start: Timestamp,
        predicted: &Predicted,
    ) -> Checked<(usize, Option<u8>)> {
        let (s, visible) = (self.db.acknowledged(), self.db.visible());
        let place = |at: Timestamp| (at.counter() - start.counter()) as usize;
        let name = self.key(key);
        let one = |value: Option<isolith::Slice>| value.map(|value| value[0]);
        if matches!(open, Open::Nothing) {
            *open = match reader {
                Reader::Transaction => {
                    Open::Transaction(Box::new(self.db.begin_read_only().map_err(fail)?))
                }
                Reader::ReadWrite => Open::Transaction(Box::new(self.db.begin().map_err(fail)?)),
                Reader::Snapshot => Open::Snapshot(self.db.snapshot().map_err(fail)?),
                Reader::SnapshotAfter => {
                    Open::Snapshot(self.db.snapshot_after(visible).map_err(fail)?)
                }
                Reader::Autocommit | Reader::GetAfter => Open::Nothing,
            };
        }
        let (at, found) = match (&open, reader) {
            (Open::Transaction(transaction), _) => {
                let found = transaction.get(&self.keyspace, name).map_err(fail)?;
                (transaction.read_timestamp().unwrap_or(Timestamp::MAX), one(found))
            }
            (Open::Snapshot(snapshot), _) => {
                let found = snapshot.get(&self.keyspace, name).map_err(fail)?;
                (snapshot.timestamp(), one(found))
            }
            (Open::Nothing, Reader::GetAfter) => {
                let found = self.db.get_after(&self.keyspace, name, visible).map_err(fail)?;
                ensure!(found.observed <= visible, "observed {} > {visible}", found.observed);
                (visible, one(found.value.map(|entry| entry.value)))
            }
            (Open::Nothing, _) => (s, one(self.keyspace.get(name).map_err(fail)?)),
        };
        if key == 0 {
            let expected = match reader {
                Reader::Transaction | Reader::Snapshot | Reader::Autocommit => predicted.s(),
                _ => predicted.decided.len(),
            };
            ensure_eq!(place(at), expected, "where {reader:?} reads");
        } else if let Open::Transaction(transaction) = std::mem::replace(open, Open::Nothing) {
            // It changed nothing: acknowledged once what it saw is.
            let mut commit = transaction.commit_steps();
            let ready = matches!(commit.step(), Step::Ready(_));
            ensure_eq!(ready, place(at) <= predicted.s(), "the end of {reader:?}");
        }
        Ok((place(at), found))
    }
}

/// *Visible* runs far ahead of `S`: a few keys are overwritten by commits that nobody acknowledges,
/// pruned all the while, and now and then one is awaited. Readers at `S` must find its versions.
pub fn lagging(seed: u64, commits: usize) -> Checked {
    let db = Builder::in_memory()
        .storage(Arc::new(MemoryStorage::new()))
        .threads(false)
        .open()
        .map_err(|error| Finding::new(error.to_string()))?;
    let space = db.keyspace("space").map_err(fail)?;
    let mut dice = Dice::new(seed);
    // What each key held, by the commit that wrote it.
    let mut history: Vec<Vec<(Timestamp, u64)>> = vec![Vec::new(); 3];
    let mut pending = Vec::new();
    for number in 0..commits as u64 {
        let mut transaction = db.begin().map_err(fail)?;
        let first = dice.below(history.len());
        for key in first..history.len() {
            transaction.put(&space, [key as u8], number.to_be_bytes()).map_err(fail)?;
        }
        let commit = transaction.commit_pending().map_err(fail)?;
        for versions in &mut history[first..] {
            versions.push((commit.timestamp(), number));
        }
        pending.push(commit);
        if dice.is(1, 80) {
            let commit = pending.swap_remove(dice.below(pending.len()));
            commit.wait().map_err(fail)?;
        }
        let s = db.acknowledged();
        let snapshot = db.snapshot().map_err(fail)?;
        ensure_eq!(snapshot.timestamp(), s, "a snapshot's timestamp");
        for (key, versions) in history.iter().enumerate() {
            let expected = versions.iter().rev().find(|(at, _)| *at <= s);
            let expected = expected.map(|(_, number)| number.to_be_bytes().to_vec());
            let found = space.get([key as u8]).map_err(fail)?.map(|value| value.to_vec());
            ensure_eq!(found, expected, "key {key} at S = {s}, visible {}", db.visible());
            let found = snapshot.get(&space, [key as u8]).map_err(fail)?;
            let found = found.map(|value| value.to_vec());
            ensure_eq!(found, expected, "key {key} of a snapshot at {s}");
        }
    }
    Ok(())
}
