//! Runs a program of [`Operation`]s on the engine and on the model at once, from one thread, and
//! compares every answer.
//!
//! What is compared:
//! 1. Each read, through every way there is to read it, at the timestamp that the engine says it
//!    reads at; and that timestamp itself: *visible* for a transaction, `S` for a reader.
//! 2. Each verdict: a commit that the model refuses must be refused. One that the model allows and
//!    the engine refuses is counted as needless.
//! 3. After each operation: *visible* is the model's newest commit, `S` lies between the last
//!    acknowledged commit and *visible* and never goes back, LSNs are dense.
//! 4. After each reopening: the same names, the same state, no commit lost.

use std::sync::Arc;
use std::time::Duration;

use isolith::storage::memory::MemoryStorage;
use isolith::{
    Builder, CommitMode, Database, Durability, Error, Isolation, Keyspace, ManualClock, Pending,
    PutOptions, Result, Savepoint, Snapshot, Timestamp, Transaction, TransactionOptions,
};

use crate::finding::{Checked, Finding};
use crate::model::{
    Bytes, Change, Conflict, Model, ModelTransaction, SpaceNumber, Stored, is_empty,
};
use crate::operations::{Action, Look, NAMES, Operation, SLOTS, Span, key};
use crate::sizes::Sizes;
use crate::{ensure, ensure_eq};

mod reading;

use reading::{Answer, Through, collect, read, walked};

/// Handles on dropped keyspaces that are kept, to be refused.
const STALE_MAX: usize = 3;
/// Snapshots kept at once.
const SNAPSHOTS_MAX: usize = 6;

/// Where a machine keeps its log, and how it decides commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// How commits are decided.
    pub mode: CommitMode,
    /// Whether there is a log (in memory), so that the database can be closed and opened again.
    pub logged: bool,
    /// Whether a commit that is refused although nothing it depends on has changed is a finding; it
    /// is counted otherwise.
    pub strict: bool,
    /// How long history is kept, in milliseconds of the machine's clock.
    pub retention_ms: u64,
    /// How large memtables, files and segments are.
    pub sizes: Sizes,
}

/// What a run has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Point reads compared.
    pub reads: u64,
    /// Scans compared.
    pub scans: u64,
    /// Transactions that committed changes.
    pub commits: u64,
    /// Transactions that were refused, as they had to be.
    pub conflicts: u64,
    /// Transactions that were refused although nothing that they depend on had changed.
    pub needless: u64,
    /// Times that the database was closed and opened again.
    pub reopenings: u64,
    /// Snapshots of the past that were given.
    pub pasts: u64,
    /// Snapshots of the past that were refused, as they had to be.
    pub forgotten: u64,
    /// Memtables that became files.
    pub flushes: u64,
    /// Compactions.
    pub compactions: u64,
}

impl Tally {
    /// Adds another run's.
    pub fn add(&mut self, other: &Tally) {
        self.reads += other.reads;
        self.scans += other.scans;
        self.commits += other.commits;
        self.conflicts += other.conflicts;
        self.needless += other.needless;
        self.reopenings += other.reopenings;
        self.pasts += other.pasts;
        self.forgotten += other.forgotten;
        self.flushes += other.flushes;
        self.compactions += other.compactions;
    }
}

struct Running {
    transaction: Transaction,
    model: ModelTransaction,
    savepoints: Vec<(Savepoint, usize)>,
}

struct Taken {
    snapshot: Snapshot,
    at: Timestamp,
    now: u64,
}

/// The engine and the model side by side.
pub struct Machine {
    setting: Setting,
    storage: MemoryStorage,
    clock: ManualClock,
    db: Database,
    model: Model,
    /// Handles on keyspaces: those that are there, and some on dropped ones.
    handles: Vec<(Keyspace, SpaceNumber)>,
    running: [Option<Running>; SLOTS],
    snapshots: Vec<Taken>,
    pending: Vec<(Pending, Timestamp)>,
    /// The newest commit that was acknowledged to us.
    acknowledged: Timestamp,
    /// `S` when it was last looked at.
    last_s: Timestamp,
    serial: u64,
    tally: Tally,
}

/// Runs a whole program.
pub fn run(setting: Setting, program: &[Operation]) -> Checked<Tally> {
    let mut machine = Machine::new(setting)?;
    for (step, operation) in program.iter().enumerate() {
        let checked = machine.apply(operation).and_then(|()| machine.check_marks());
        checked.map_err(|finding| finding.after(format!("step {step}: {operation:?}")))?;
    }
    machine.finish()
}

fn opened(error: impl std::fmt::Display) -> Finding {
    Finding::new(format!("the database could not be opened: {error}"))
}

impl Machine {
    /// A new database with two keyspaces.
    pub fn new(setting: Setting) -> Checked<Machine> {
        let storage = MemoryStorage::new();
        let clock = ManualClock::new(1_000_000);
        let db = open(setting, &storage, &clock)?;
        let model = Model::new(db.visible());
        let mut machine = Machine {
            setting,
            storage,
            clock,
            model,
            handles: Vec::new(),
            running: [const { None }; SLOTS],
            snapshots: Vec::new(),
            pending: Vec::new(),
            acknowledged: db.acknowledged(),
            last_s: db.acknowledged(),
            db,
            serial: 0,
            tally: Tally::default(),
        };
        machine.open_keyspace(NAMES[0])?;
        machine.open_keyspace(NAMES[1])?;
        Ok(machine)
    }

    /// Compares the final states, closed and reopened if there is a log.
    pub fn finish(mut self) -> Checked<Tally> {
        match self.setting.logged {
            true => self.reopen(true)?,
            false => self.check_state()?,
        }
        Ok(self.tally)
    }

    fn now(&self) -> u64 {
        isolith::Clock::unix_millis(&self.clock)
    }

    fn handle(&self, number: u8) -> Option<(Keyspace, SpaceNumber)> {
        let count = self.handles.len();
        (count > 0).then(|| self.handles[usize::from(number) % count].clone())
    }

    /// Does one operation on both and compares.
    pub fn apply(&mut self, operation: &Operation) -> Checked {
        match operation {
            Operation::Open(name) => self.open_keyspace(NAMES[usize::from(*name)]),
            Operation::Drop(name) => self.drop_keyspace(NAMES[usize::from(*name)]),
            Operation::Look(look) => self.look(look),
            Operation::Put(space, key_number, value, lives, durability) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let (key, stored) = (key(*key_number), self.stored(*value, *lives));
                let options =
                    PutOptions { expires_at: stored.expires_at, durability: Some(*durability) };
                let result = keyspace.put_with(&key, &stored.value, options);
                self.autocommit(result, space, Some(Change::Write(space, key, Some(stored))))
            }
            Operation::Churn(space, key_number, times) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                for _ in 0..*times {
                    let stored = self.stored(crate::operations::Value::Unique(1), None);
                    let key = key(*key_number);
                    let durability = Some(Durability::Buffered);
                    let options = PutOptions { expires_at: None, durability };
                    let result = keyspace.put_with(&key, &stored.value, options);
                    let change = Change::Write(space, key, Some(stored));
                    self.autocommit(result, space, Some(change))?;
                }
                Ok(())
            }
            Operation::Delete(space, key_number) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let key = key(*key_number);
                let result = keyspace.delete(&key);
                self.autocommit(result, space, Some(Change::Write(space, key, None)))
            }
            Operation::Append(space, key_number, value, times, end) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                for _ in 0..*times {
                    let (key, value) = (key(*key_number), self.stored(*value, None).value);
                    let result = keyspace.merge(&key, end.operator(), &value);
                    let change = Change::Append(space, key, value, self.now(), *end);
                    self.autocommit(result, space, Some(change))?;
                }
                Ok(())
            }
            Operation::DeleteRange(space, span) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let bounds = span.bounds();
                let result = keyspace.delete_range(bounds.clone());
                let change = (!is_empty(&bounds)).then_some(Change::DeleteRange(space, bounds));
                self.autocommit(result, space, change)
            }
            Operation::Swap(space, key_number, matching, new) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let new = new.map(|value| self.stored(value, None));
                self.swap(&keyspace, space, key(*key_number), *matching, new)
            }
            Operation::Begin(slot, isolation, read_only, durability) => {
                let options = TransactionOptions {
                    isolation: *isolation,
                    durability: Some(*durability),
                    read_only: *read_only,
                    ..TransactionOptions::default()
                };
                let transaction = self.db.begin_with(options).map_err(unexpected)?;
                let mut model = ModelTransaction::new(*isolation, *read_only, self.now());
                ensure_eq!(transaction.now_ms(), model.now, "the time of a transaction");
                if *read_only {
                    model.read_at = transaction.read_timestamp();
                    ensure_eq!(model.read_at, Some(self.db.acknowledged()), "a reader's timestamp");
                }
                let running = Running { transaction, model, savepoints: Vec::new() };
                self.running[usize::from(*slot)] = Some(running);
                Ok(())
            }
            Operation::In(slot, action) => {
                let begin = Operation::Begin(*slot, Isolation::default(), false, Durability::Os);
                let slot_of = usize::from(*slot);
                if self.running[slot_of].is_none() {
                    self.apply(&begin)?;
                }
                let Some(mut running) = self.running[slot_of].take() else { return Ok(()) };
                let checked = self.act(&mut running, action);
                self.running[slot_of] = Some(running);
                checked
            }
            Operation::Commit(slot, wait) => match self.running[usize::from(*slot)].take() {
                Some(running) => self.commit(running, *wait),
                None => Ok(()),
            },
            Operation::Rollback(slot) => {
                if let Some(running) = self.running[usize::from(*slot)].take() {
                    running.transaction.rollback();
                }
                Ok(())
            }
            Operation::Await(place) => {
                if self.pending.is_empty() {
                    return Ok(());
                }
                let place = usize::from(*place) % self.pending.len();
                let (pending, at) = self.pending.swap_remove(place);
                pending.wait().map_err(unexpected)?;
                self.acknowledged = self.acknowledged.max(at);
                Ok(())
            }
            Operation::Snapshot(of_visible) => self.snapshot(*of_visible),
            Operation::SnapshotAt(back) => self.snapshot_at((*back).into()),
            Operation::Through(place, look) => {
                if self.snapshots.is_empty() {
                    return Ok(());
                }
                let place = usize::from(*place) % self.snapshots.len();
                let taken = self.snapshots.swap_remove(place);
                let through = Through::Snapshot(&taken.snapshot);
                let checked = self.look_at(&through, look, taken.at, taken.now);
                self.snapshots.push(taken);
                checked
            }
            Operation::Forget(place) => {
                if !self.snapshots.is_empty() {
                    self.snapshots.swap_remove(usize::from(*place) % self.snapshots.len());
                }
                Ok(())
            }
            Operation::Advance(millis) => {
                self.clock.advance((*millis).into());
                Ok(())
            }
            Operation::Sync => {
                self.db.sync().map_err(unexpected)?;
                self.acknowledged = self.model.newest();
                Ok(())
            }
            Operation::Flush => self.db.flush().map_err(unexpected),
            Operation::Compact => self.db.compact().map_err(unexpected),
            Operation::Reopen(orderly) if self.setting.logged => self.reopen(*orderly),
            Operation::Reopen(_) => Ok(()),
        }
    }

    // ---- the marks

    fn check_marks(&mut self) -> Checked {
        ensure_eq!(self.db.visible(), self.model.newest(), "visible");
        let s = self.db.acknowledged();
        let (low, high) = (self.acknowledged.max(self.last_s), self.db.visible());
        ensure!(low <= s && s <= high, "S = {s} is not within {low}..={high}");
        self.last_s = s;
        Ok(())
    }

    /// The timestamp of the commit that was just made.
    fn next_commit(&self) -> Checked<Timestamp> {
        let (newest, at) = (self.model.newest(), self.db.visible());
        let follows = match at.epoch() == newest.epoch() {
            true => at.counter() == newest.counter() + 1,
            false => at.epoch() > newest.epoch() && at.counter() == 1,
        };
        ensure!(follows, "a commit at {at} after one at {newest}");
        Ok(at)
    }

    fn stored(&mut self, value: crate::operations::Value, lives: Option<u8>) -> Stored {
        self.serial += 1;
        let expires_at = lives.map(|millis| self.now() + u64::from(millis));
        Stored { value: value.bytes(self.serial), expires_at }
    }

    // ---- autocommit

    fn autocommit(
        &mut self,
        result: Result<()>,
        space: SpaceNumber,
        change: Option<Change>,
    ) -> Checked {
        if self.model.is_dropped(space) {
            return expect_dropped(result);
        }
        result.map_err(unexpected)?;
        if let Some(change) = change {
            let at = self.next_commit()?;
            self.model.commit(at, vec![change]);
            self.acknowledged = at;
        }
        Ok(())
    }

    fn swap(
        &mut self,
        keyspace: &Keyspace,
        space: SpaceNumber,
        key: Bytes,
        matching: bool,
        new: Option<Stored>,
    ) -> Checked {
        let found = self.model.read(space, &key, self.model.newest(), self.now());
        let found = found.map(|stored| stored.value);
        let expected = match matching {
            true => found.clone(),
            false => Some(b"surely another value".to_vec()),
        };
        let bytes = new.as_ref().map(|stored| stored.value.as_slice());
        let result = keyspace.compare_and_swap(&key, expected.as_deref(), bytes);
        if self.model.is_dropped(space) {
            return expect_dropped(result.map(drop));
        }
        let swapped = result.map_err(unexpected)?;
        if matching {
            ensure!(swapped.is_ok(), "compare_and_swap found {swapped:?} instead of {expected:?}");
            return self.autocommit(Ok(()), space, Some(Change::Write(space, key, new)));
        }
        let shown = swapped.map_err(|found| found.map(|slice| slice.to_vec()));
        ensure_eq!(shown, Err(found), "compare_and_swap of another value");
        Ok(())
    }

    fn look(&mut self, look: &Look) -> Checked {
        let (at, now) = (self.db.acknowledged(), self.now());
        self.look_at(&Through::Nobody, look, at, now)
    }

    // ---- keyspaces

    fn open_keyspace(&mut self, name: &str) -> Checked {
        let there = self.model.names(self.model.newest()).get(name).copied();
        let keyspace = self.db.keyspace(name).map_err(unexpected)?;
        ensure_eq!(keyspace.name(), name, "a keyspace's name");
        let space = match there {
            Some(space) => space,
            None => {
                let at = self.next_commit()?;
                self.acknowledged = at;
                self.model.create(at, name)
            }
        };
        if self.handles.iter().all(|(_, known)| *known != space) {
            self.handles.push((keyspace, space));
        }
        Ok(())
    }

    fn drop_keyspace(&mut self, name: &str) -> Checked {
        let there = self.model.names(self.model.newest()).get(name).copied();
        let dropped = self.db.drop_keyspace(name).map_err(unexpected)?;
        ensure_eq!(dropped, there.is_some(), "whether '{name}' was there to be dropped");
        if let Some(space) = there {
            let at = self.next_commit()?;
            self.acknowledged = at;
            self.model.drop_space(at, space);
        }
        let model = &self.model;
        let stale = self.handles.iter().filter(|(_, space)| model.is_dropped(*space)).count();
        if stale > STALE_MAX {
            let oldest = self.handles.iter().position(|(_, space)| model.is_dropped(*space));
            oldest.map(|oldest| self.handles.remove(oldest));
        }
        Ok(())
    }

    // ---- snapshots

    fn snapshot(&mut self, of_visible: bool) -> Checked {
        let (s, visible) = (self.db.acknowledged(), self.db.visible());
        let snapshot = match of_visible {
            true => self.db.snapshot_after(visible),
            false => self.db.snapshot(),
        };
        let snapshot = snapshot.map_err(unexpected)?;
        let expected = if of_visible { visible } else { s };
        self.keep(snapshot, expected)
    }

    /// Takes a snapshot `back` commits before the newest: given exactly if that is retained, or if
    /// somebody holds it already.
    fn snapshot_at(&mut self, back: usize) -> Checked {
        let (commits, newest) = (self.model.timestamps(), self.model.newest());
        let at = match back.checked_sub(1) {
            None => Timestamp::new(newest.epoch(), newest.counter() + 1),
            Some(back) => *commits.iter().rev().nth(back).unwrap_or(&Timestamp::ZERO),
        };
        let (s, floor) = (self.db.acknowledged(), self.db.stats().retention_floor);
        ensure_eq!(floor.is_some(), self.setting.retention_ms > 0, "a retention floor");
        ensure!(floor.is_none_or(|floor| floor <= s), "the floor {floor:?} is beyond S = {s}");
        let held = self.snapshots.iter().any(|taken| taken.at == at);
        let readable = floor.is_some_and(|floor| floor <= at) || held || at == s;
        match self.db.snapshot_at(at) {
            Ok(snapshot) if at <= s && readable => {
                self.tally.pasts += 1;
                self.keep(snapshot, at)
            }
            Err(Error::TimestampAhead { timestamp, acknowledged }) if at > s => {
                ensure_eq!((timestamp, acknowledged), (at, s), "a timestamp that is ahead");
                Ok(())
            }
            Err(Error::SnapshotTooOld { oldest }) if at <= s && !readable => {
                ensure_eq!(oldest, floor.unwrap_or(s), "the oldest timestamp");
                self.tally.forgotten += 1;
                Ok(())
            }
            other => {
                let other = other.map(|snapshot| snapshot.timestamp());
                Err(Finding::new(format!("{at}, with S = {s}, floor {floor:?}: {other:?}")))
            }
        }
    }

    fn keep(&mut self, snapshot: Snapshot, at: Timestamp) -> Checked {
        ensure_eq!(snapshot.timestamp(), at, "a snapshot's timestamp");
        if self.snapshots.len() == SNAPSHOTS_MAX {
            self.snapshots.remove(0);
        }
        self.snapshots.push(Taken { snapshot, at, now: self.now() });
        Ok(())
    }

    // ---- transactions

    fn act(&mut self, running: &mut Running, action: &Action) -> Checked {
        match action {
            Action::Look(look) => self.look_in(running, look),
            Action::ForUpdate(space, key_number) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                self.for_update(running, &keyspace, space, &key(*key_number))
            }
            Action::Put(space, key_number, value, lives) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let (key, stored) = (key(*key_number), self.stored(*value, *lives));
                let transaction = &mut running.transaction;
                let result =
                    transaction.put_with(&keyspace, &key, &stored.value, stored.expires_at);
                self.change(running, result, space, Change::Write(space, key, Some(stored)))
            }
            Action::Delete(space, key_number) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let key = key(*key_number);
                let result = running.transaction.delete(&keyspace, &key);
                self.change(running, result, space, Change::Write(space, key, None))
            }
            Action::Append(space, key_number, value, end) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let (key, value) = (key(*key_number), self.stored(*value, None).value);
                let result = running.transaction.merge(&keyspace, &key, end.operator(), &value);
                let other = running.model.merges_otherwise(space, &key, *end);
                let mut change = Change::Append(space, key.clone(), value, running.model.now, *end);
                if other && !running.model.read_only && !self.model.is_dropped(space) {
                    // Two operators on one key: it is read in order to be written, and put.
                    self.read_timestamp(running)?;
                    running.model.track_claim(space, &key);
                    let mut merged = running.model.clone();
                    merged.change(change);
                    change =
                        Change::Write(space, key.clone(), merged.read(&self.model, space, &key));
                }
                self.change(running, result, space, change)
            }
            Action::DeleteRange(space, span) => {
                let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
                let bounds = span.bounds();
                let result = running.transaction.delete_range(&keyspace, bounds.clone());
                self.change(running, result, space, Change::DeleteRange(space, bounds))
            }
            Action::Savepoint => {
                let savepoint = running.transaction.savepoint();
                running.savepoints.push((savepoint, running.model.savepoint()));
                Ok(())
            }
            Action::RollbackTo(place) => {
                if running.savepoints.is_empty() {
                    return Ok(());
                }
                let place = usize::from(*place) % running.savepoints.len();
                let (savepoint, mark) = running.savepoints[place];
                running.transaction.rollback_to(savepoint).map_err(unexpected)?;
                running.model.rollback_to(mark);
                for (gone, _) in running.savepoints.drain(place + 1..) {
                    let again = running.transaction.rollback_to(gone);
                    ensure!(
                        matches!(again, Err(Error::UnknownSavepoint)),
                        "a savepoint that was rolled over gave {again:?}"
                    );
                }
                Ok(())
            }
        }
    }

    /// Takes over the read timestamp that the engine has chosen, and checks it.
    fn read_timestamp(&self, running: &mut Running) -> Checked {
        let chosen = running.transaction.read_timestamp();
        match running.model.read_at {
            Some(_) => ensure_eq!(chosen, running.model.read_at, "a fixed read timestamp"),
            None if chosen.is_some() => {
                ensure_eq!(chosen, Some(self.db.visible()), "a new read timestamp");
                running.model.read_at = chosen;
            }
            None => {}
        }
        Ok(())
    }

    fn look_in(&mut self, running: &mut Running, look: &Look) -> Checked {
        let (Look::Get(space, _) | Look::Scan(space, ..)) = look;
        let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
        let through = Through::Transaction(&running.transaction);
        let answer = read(&through, &keyspace, look);
        self.read_timestamp(running)?;
        let model = &mut running.model;
        let own = matches!(look, Look::Get(_, number) if model.is_own(space, &key(*number)));
        if !own {
            let Some(at) = model.read_at else {
                return Err(Finding::new("a read without a read timestamp"));
            };
            if self.model.is_dropped_at(space, at) {
                return expect_dropped(answer.map(drop));
            }
        }
        match (look, answer.map_err(unexpected)?) {
            (Look::Get(_, number), Answer::Entry(found)) => {
                let key = key(*number);
                ensure_eq!(found, model.read(&self.model, space, &key), "key {key:?}");
                model.track_point(space, &key);
                self.tally.reads += 1;
            }
            (Look::Scan(_, span, walk), Answer::Pairs(found)) => {
                let bounds = span.bounds();
                let all = model.scan(&self.model, space, &bounds);
                let (expected, examined) = walked(&all, walk, &bounds);
                ensure_eq!(found, expected, "a scan");
                examined.into_iter().for_each(|interval| model.track_interval(space, interval));
                self.tally.scans += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn for_update(
        &mut self,
        running: &mut Running,
        keyspace: &Keyspace,
        space: SpaceNumber,
        key: &[u8],
    ) -> Checked {
        let result = running.transaction.get_for_update(keyspace, key);
        if running.model.read_only {
            return expect_read_only(result.map(drop));
        }
        self.read_timestamp(running)?;
        let model = &mut running.model;
        if !model.is_own(space, key)
            && model.read_at.is_some_and(|at| self.model.is_dropped_at(space, at))
        {
            return expect_dropped(result.map(drop));
        }
        let found = result.map_err(unexpected)?.map(|slice| slice.to_vec());
        let expected = model.read(&self.model, space, key);
        ensure_eq!(found, expected.clone().map(|stored| stored.value), "key {key:?} for update");
        model.track_claim(space, key);
        model.change(Change::Write(space, key.to_vec(), expected));
        self.tally.reads += 1;
        Ok(())
    }

    fn change(
        &mut self,
        running: &mut Running,
        result: Result<()>,
        space: SpaceNumber,
        change: Change,
    ) -> Checked {
        if running.model.read_only {
            return expect_read_only(result);
        }
        self.read_timestamp(running)?;
        if self.model.is_dropped(space) {
            return expect_dropped(result);
        }
        result.map_err(unexpected)?;
        running.model.change(change);
        Ok(())
    }

    fn commit(&mut self, running: Running, wait: bool) -> Checked {
        let Running { transaction, model, .. } = running;
        let conflict = model.conflict(&self.model);
        let dropped = model.has_dropped(&self.model);
        let changes = model.changes().to_vec();
        let nothing = changes.is_empty();
        let pending = match transaction.commit_pending() {
            Ok(pending) => pending,
            Err(Error::Conflict { .. }) if !nothing => {
                match conflict {
                    Conflict::None if !dropped => {
                        self.tally.needless += 1;
                        ensure!(!self.setting.strict, "a commit was refused for nothing");
                    }
                    _ => self.tally.conflicts += 1,
                }
                return Ok(());
            }
            Err(Error::KeyspaceDropped { .. }) if dropped && !nothing => return Ok(()),
            Err(error) => return Err(unexpected(error)),
        };
        ensure!(
            nothing || conflict != Conflict::Certain,
            "a commit that had to be refused was not"
        );
        ensure!(nothing || !dropped, "a commit to a dropped keyspace was not refused");
        let at = match nothing {
            true => pending.timestamp(),
            false => {
                let at = self.next_commit()?;
                ensure_eq!(pending.timestamp(), at, "the timestamp of a commit");
                self.model.commit(at, changes);
                self.tally.commits += 1;
                at
            }
        };
        if !wait {
            self.pending.push((pending, at));
            return Ok(());
        }
        let info = pending.wait().map_err(unexpected)?;
        ensure_eq!(info.timestamp, (!nothing).then_some(at), "what a commit says of itself");
        self.acknowledged = self.acknowledged.max(at);
        Ok(())
    }

    // ---- reading

    /// Reads outside of a read-write transaction, and compares.
    fn look_at(&mut self, through: &Through<'_>, look: &Look, at: Timestamp, now: u64) -> Checked {
        let (Look::Get(space, _) | Look::Scan(space, ..)) = look;
        let Some((keyspace, space)) = self.handle(*space) else { return Ok(()) };
        let answer = read(through, &keyspace, look);
        if self.model.is_dropped_at(space, at) {
            return expect_dropped(answer.map(drop));
        }
        match (look, answer.map_err(unexpected)?) {
            (Look::Get(_, number), Answer::Entry(found)) => {
                let key = key(*number);
                ensure_eq!(found, self.model.read(space, &key, at, now), "key {key:?} at {at}");
                self.tally.reads += 1;
            }
            (Look::Scan(_, span, walk), Answer::Pairs(found)) => {
                let bounds = span.bounds();
                let all = self.model.scan(space, &bounds, at, now);
                ensure_eq!(found, walked(&all, walk, &bounds).0, "a scan at {at}");
                self.tally.scans += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn check_state(&mut self) -> Checked {
        self.db.sync().map_err(unexpected)?;
        let names = self.model.names(self.model.newest());
        ensure_eq!(self.db.keyspaces(), names.keys().cloned().collect::<Vec<_>>(), "the keyspaces");
        let (at, now) = (self.model.newest(), self.now());
        for (name, space) in names {
            let Some(keyspace) = self.db.keyspace_if_exists(&name).map_err(unexpected)? else {
                return Err(Finding::new(format!("keyspace '{name}' is gone")));
            };
            let all = Span::All.bounds();
            let found = collect(keyspace.range(..), false).map_err(unexpected)?;
            let expected = self.model.scan(space, &all, at, now);
            ensure_eq!(found, expected, "all of '{name}'");
            ensure_eq!(keyspace.len().map_err(unexpected)?, expected.len(), "len of '{name}'");
        }
        Ok(())
    }

    // ---- closing

    fn count_files(&mut self) {
        if let Some(files) = self.db.stats().files {
            self.tally.flushes += files.flushes;
            self.tally.compactions += files.compactions;
        }
    }

    fn reopen(&mut self, orderly: bool) -> Checked {
        self.count_files();
        self.running = [const { None }; SLOTS];
        self.pending.clear();
        self.snapshots.clear();
        let handles = std::mem::take(&mut self.handles);
        if orderly {
            self.db.close().map_err(unexpected)?;
            let refused = self.db.begin().map(drop);
            ensure!(matches!(refused, Err(Error::Closed)), "begin after close: {refused:?}");
            if let Some((keyspace, _)) = handles.first() {
                let refused = keyspace.put("k", "v");
                ensure!(matches!(refused, Err(Error::Closed)), "put after close: {refused:?}");
                let refused = keyspace.get("k").map(drop);
                ensure!(matches!(refused, Err(Error::Closed)), "get after close: {refused:?}");
            }
        }
        drop(handles);
        // The last handle: its drop closes, and gives the lock back.
        self.db = Database::in_memory();
        self.db = open(self.setting, &self.storage, &self.clock)?;
        self.acknowledged = self.model.newest();
        self.last_s = self.acknowledged;
        self.tally.reopenings += 1;
        for (name, space) in self.model.names(self.model.newest()) {
            let keyspace = self.db.keyspace_if_exists(&name).map_err(unexpected)?;
            let Some(keyspace) = keyspace else {
                return Err(Finding::new(format!("keyspace '{name}' is lost")));
            };
            self.handles.push((keyspace, space));
        }
        self.check_marks()?;
        self.check_state()
    }
}

fn open(setting: Setting, storage: &MemoryStorage, clock: &ManualClock) -> Checked<Database> {
    let mut builder = Builder::in_memory()
        .commit_mode(setting.mode)
        .clock(Arc::new(clock.clone()))
        .retention(Duration::from_millis(setting.retention_ms))
        .threads(false);
    builder = setting.sizes.of(builder);
    if setting.logged {
        builder = builder.storage(Arc::new(storage.clone()));
    }
    builder.open().map_err(opened)
}

fn unexpected(error: impl std::fmt::Debug) -> Finding {
    Finding::new(format!("an unexpected error: {error:?}"))
}

fn expect_dropped(result: Result<()>) -> Checked {
    match result {
        Err(Error::KeyspaceDropped { .. }) => Ok(()),
        other => Err(Finding::new(format!("a dropped keyspace gave {other:?}"))),
    }
}

fn expect_read_only(result: Result<()>) -> Checked {
    match result {
        Err(Error::ReadOnlyTransaction) => Ok(()),
        other => Err(Finding::new(format!("a write in a read-only transaction gave {other:?}"))),
    }
}
