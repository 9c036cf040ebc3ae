//! Crash enumeration: a scripted life of a database on a disk that keeps no more than it promised,
//! ended at every single storage call, and what must be true afterwards.
//!
//! A *life* opens the database, compares it with the ledger of all that was promised before, and runs
//! a script on it, until the script ends or the disk crashes. Then the disk is rebooted into one of
//! the states that the crash may have left, and the next life begins.
//!
//! What must be true when a life begins:
//! 1. The database opens.
//! 2. What is there is a prefix of the commits in their order, each whole across its keyspaces:
//!    every name, key and value is the model's at the last commit that is there.
//! 3. That prefix reaches every commit that was acknowledged as far as the crash lets it: at `Sync`
//!    through a power cut, at `Os` through a killed process. Whatever a life has recovered is safe
//!    from then on.
//! 4. `S`, *durable* and *visible* stand at the end of that prefix.
//! 5. No timestamp is given out that was ever given out before, by any life.
//!
//! Lives nest: a second crash may end a life while it recovers, or afterwards.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use isolith::storage::faulty::{DiskKind, FaultyStorage, Survival};
use isolith::{Builder, Database, Durability, Error, Keyspace, ManualClock, OpenError, Pending};
use isolith::{Snapshot, Timestamp, TransactionOptions};

use crate::finding::{Checked, Finding};
use crate::model::{Change, End, Model, SpaceNumber, Stored};
use crate::operations::Span;
use crate::sizes::Sizes;
use crate::{ensure, ensure_eq};

pub mod damage;
pub mod enumerate;
pub mod script;

pub use script::{Script, Step, Write};

/// The time that the first life begins at.
pub const NOW: u64 = 1_000_000;
/// Segments as small as the log allows, so that they fill.
pub const SEGMENT_BYTES: u64 = Sizes::PLAIN.segment_bytes;

/// What was promised, and what happened, through all lives so far.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The commits that may be there.
    pub model: Model,
    /// Every timestamp that any life has given out.
    given: BTreeSet<Timestamp>,
    /// Commits up to here survive a power cut.
    synced: Timestamp,
    /// Commits up to here survive the end of the process.
    written: Timestamp,
    /// Whether a power cut has happened since the last life that opened.
    power_was_cut: bool,
    /// The time that has passed since [`NOW`].
    passed: u64,
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The script was run to its end, and the database dropped.
    Finished,
    /// The disk crashed.
    Crashed,
}

/// Options of a life.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Whether a call that fails without a crash is expected: then errors that say so are no
    /// findings, and reads must go on.
    pub faults: bool,
    /// How large memtables, files and segments are.
    pub sizes: Sizes,
}

impl Life {
    /// No call fails.
    pub const CALM: Life = Life { faults: false, sizes: Sizes::PLAIN };
    /// A call may fail. The log that failed is opened again on the same boot, where the page cache
    /// still shows what a failed sync did not bring to the disk.
    pub const FAULTY: Life = Life { faults: true, sizes: Sizes::PLAIN };

    /// The same with other sizes.
    pub fn with(self, sizes: Sizes) -> Life {
        Life { sizes, ..self }
    }
}

impl Ledger {
    /// Takes note of a crash that leaves the disk as `survival` says.
    pub fn crashed(&mut self, survival: Survival) {
        self.power_was_cut |= !matches!(survival, Survival::ProcessKilled(_));
    }

    /// The commit that must be there, all before it included.
    pub fn floor(&self) -> Timestamp {
        match self.power_was_cut {
            true => self.synced,
            false => self.synced.max(self.written),
        }
    }

    /// The time now.
    pub fn now(&self) -> u64 {
        NOW + self.passed
    }

    fn give(&mut self, at: Timestamp) -> Checked {
        ensure!(self.given.insert(at), "the timestamp {at} is given out for the second time");
        Ok(())
    }

    /// Compares a database that was just opened, and forgets what the crash took.
    pub fn recovered(&mut self, db: &Database) -> Checked {
        let last = db.visible();
        let floor = self.floor();
        ensure!(last >= floor, "commits up to {floor} were promised, only {last} is there");
        let known = last == floor || self.model.is_commit(last);
        ensure!(known, "the last commit is {last}, which nobody has made");
        let marks = (db.acknowledged(), db.durable());
        ensure_eq!(marks, (last, last), "S and durable after recovery");
        self.model.truncate(last);
        self.compare(db, last)?;
        self.synced = last;
        self.written = last;
        self.power_was_cut = false;
        Ok(())
    }

    /// Compares everything in the database with the model at `at`, which is `S`.
    pub fn compare(&self, db: &Database, at: Timestamp) -> Checked {
        let names = self.model.names(at);
        let expected: Vec<_> = names.keys().cloned().collect();
        ensure_eq!(db.keyspaces(), expected, "the keyspaces at {at}");
        for (name, space) in names {
            let Some(keyspace) = db.keyspace_if_exists(&name).map_err(unexpected)? else {
                return Err(Finding::new(format!("keyspace '{name}' is not there")));
            };
            let found: Vec<_> = keyspace
                .range(..)
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()
                .map_err(unexpected)?;
            let expected = self.model.scan(space, &Span::All.bounds(), at, self.now());
            let shown = |pairs: &[(Vec<u8>, Vec<u8>)]| -> Vec<String> {
                let pair = |(key, value): &(Vec<u8>, Vec<u8>)| {
                    let start = &value[..value.len().min(24)];
                    format!("{}={}…{}", key.escape_ascii(), start.escape_ascii(), value.len())
                };
                pairs.iter().map(pair).collect()
            };
            if found != expected {
                let (found, expected) = (shown(&found), shown(&expected));
                return Err(Finding::new(format!(
                    "'{name}' at {at}: found {found:?}, expected {expected:?}"
                )));
            }
            for (key, value) in &expected {
                let got = keyspace.get(key).map_err(unexpected)?;
                ensure!(got.as_deref() == Some(value.as_slice()), "get and scan differ at {key:?}");
            }
        }
        Ok(())
    }
}

fn unexpected(error: Error) -> Finding {
    Finding::new(format!("an unexpected error: {error:?}"))
}

/// Opens the database on a disk, single-threaded and repeatable.
pub fn open(disk: &FaultyStorage) -> Result<Database, OpenError> {
    builder(disk, Sizes::PLAIN).open()
}

/// The options of a database on a disk, single-threaded and repeatable.
pub fn builder(disk: &FaultyStorage, sizes: Sizes) -> Builder {
    let builder = Builder::in_memory()
        .storage(disk.as_storage())
        .clock(Arc::new(ManualClock::new(NOW)))
        .stall_timeout(std::time::Duration::ZERO)
        .threads(false);
    sizes.of(builder)
}

/// One life on a disk.
pub fn live(
    disk: &FaultyStorage,
    ledger: &mut Ledger,
    script: &Script,
    life: Life,
) -> Checked<Ended> {
    let clock = ManualClock::new(ledger.now());
    let open = || builder(disk, life.sizes).clock(Arc::new(clock.clone())).open();
    let db = match open() {
        Ok(db) => db,
        Err(_) if disk.has_crashed() => return Ok(Ended::Crashed),
        // A call failed while it opened: nothing may be lost by that.
        Err(OpenError::Io { .. }) if life.faults => open().map_err(reopened)?,
        Err(error) => return Err(Finding::new(format!("it does not open: {error:?}"))),
    };
    if disk.has_crashed() {
        return Ok(Ended::Crashed); // At a call that recovery can do without.
    }
    ledger.recovered(&db)?;
    let poisoned = Cell::new(false);
    let (spaces, pending) = (Vec::new(), Vec::new());
    let snapshots = Vec::new();
    let mut living = Living { disk, ledger, db, clock, spaces, pending, snapshots, life, poisoned };
    for (place, step) in script.steps.iter().enumerate() {
        living.step(step).map_err(|finding| finding.after(format!("step {place}, {step:?}")))?;
        if disk.has_crashed() {
            return Ok(Ended::Crashed);
        }
    }
    living.check_reads()?;
    drop(living);
    match disk.has_crashed() {
        true => Ok(Ended::Crashed),
        false => Ok(Ended::Finished),
    }
}

fn reopened(error: OpenError) -> Finding {
    Finding::new(format!("it does not open after one call had failed: {error:?}"))
}

struct Living<'a> {
    disk: &'a FaultyStorage,
    ledger: &'a mut Ledger,
    db: Database,
    clock: ManualClock,
    /// Keyspaces that were opened in this life.
    spaces: Vec<Keyspace>,
    /// Snapshots that are held, and the time at which they were taken.
    snapshots: Vec<(Snapshot, u64)>,
    /// Commits that were decided, and whose acknowledgement nobody has waited for.
    pending: Vec<(Pending, Timestamp, Durability)>,
    life: Life,
    /// Whether the log has failed.
    poisoned: Cell<bool>,
}

impl Living<'_> {
    fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Create(name) => {
                let result = self.db.keyspace(name);
                let there = self.ledger.model.names(self.ledger.model.newest());
                let created = match there.contains_key(*name) {
                    true => None,
                    false => self.decided(|ledger, at| {
                        ledger.model.create(at, name);
                    })?,
                };
                if let Some(keyspace) = self.accept(result)? {
                    self.spaces.push(keyspace);
                    created.into_iter().for_each(|at| self.acknowledged(at, Durability::Sync));
                }
            }
            Step::Drop(name) => {
                let result = self.db.drop_keyspace(name);
                let there = self.ledger.model.names(self.ledger.model.newest());
                let dropped = match there.get(*name) {
                    Some(space) => {
                        self.decided(|ledger, at| ledger.model.drop_space(at, *space))?
                    }
                    None => None,
                };
                if self.accept(result)?.is_some() {
                    dropped.into_iter().for_each(|at| self.acknowledged(at, Durability::Sync));
                }
            }
            Step::Commit(durability, writes) => {
                let result = self.transaction(*durability, writes);
                let result = result.and_then(|transaction| transaction.commit_pending());
                let at = self.committed(writes)?;
                if let (Some(pending), Some(at)) = (self.accept(result)?, at) {
                    let result = pending.wait();
                    if self.accept(result)?.is_some() {
                        self.acknowledged(at, *durability);
                    }
                }
            }
            Step::Decide(durability, writes) => {
                let result = self.transaction(*durability, writes);
                let result = result.and_then(|transaction| transaction.commit_pending());
                let at = self.committed(writes)?;
                if let (Some(pending), Some(at)) = (self.accept(result)?, at) {
                    self.pending.push((pending, at, *durability));
                }
            }
            Step::Await => {
                // The newest first: it covers the others.
                while let Some((pending, at, durability)) = self.pending.pop() {
                    let result = pending.wait();
                    if self.accept(result)?.is_some() {
                        self.acknowledged(at, durability);
                    }
                }
            }
            Step::Sync => {
                let result = self.db.sync();
                if self.accept(result)?.is_some() {
                    self.acknowledged(self.ledger.model.newest(), Durability::Sync);
                }
            }
            Step::Flush => {
                let result = self.db.flush();
                self.accept(result)?;
            }
            Step::Compact => {
                let result = self.db.compact();
                self.accept(result)?;
            }
            Step::Advance(millis) => {
                self.clock.advance(*millis);
                self.ledger.passed += millis;
            }
            Step::Snapshot => {
                let result = self.db.snapshot();
                if let Some(snapshot) = self.accept(result)? {
                    self.snapshots.push((snapshot, self.ledger.now()));
                }
            }
            Step::Reopen => self.reopen()?,
        }
        if !self.disk.has_crashed() {
            self.check_snapshots()?;
        }
        if self.life.faults && !self.disk.has_crashed() {
            self.check_reads()?;
        }
        Ok(())
    }

    /// What an operation gave; `None` if it failed in a way that is allowed here.
    fn accept<T>(&self, result: isolith::Result<T>) -> Checked<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.disk.has_crashed() => Ok(None),
            Err(Error::CommitUnknown { .. } | Error::ReadOnly { .. }) if self.life.faults => {
                self.poisoned.set(true);
                Ok(None)
            }
            // The second: a keyspace that could not be created.
            Err(
                Error::Stalled { .. }
                | Error::KeyspaceDropped { .. }
                | Error::Files { .. }
                | Error::Unreadable { .. },
            ) if self.life.faults => Ok(None),
            Err(error) => Err(unexpected(error)),
        }
    }

    fn keyspace(&self, name: &str) -> isolith::Result<Keyspace> {
        let known = self.spaces.iter().rev().find(|keyspace| keyspace.name() == name);
        if let Some(known) = known {
            return Ok(known.clone());
        }
        let found = self.db.keyspace_if_exists(name)?;
        found.ok_or_else(|| Error::KeyspaceDropped { keyspace: name.to_owned() })
    }

    fn transaction(
        &self,
        durability: Durability,
        writes: &[Write],
    ) -> isolith::Result<isolith::Transaction> {
        let durability = Some(durability);
        let options = TransactionOptions { durability, ..TransactionOptions::default() };
        let mut transaction = self.db.begin_with(options)?;
        for write in writes {
            let keyspace = self.keyspace(write.space())?;
            match write {
                Write::Put(_, key, value) => transaction.put(&keyspace, key, value)?,
                Write::Delete(_, key) => transaction.delete(&keyspace, key)?,
                Write::PutUntil(_, key, value, at) => {
                    transaction.put_with(&keyspace, key, value, Some(*at))?;
                }
                Write::Append(_, key, value) => {
                    transaction.merge(&keyspace, key, End::Back.operator(), value)?;
                }
                Write::Prepend(_, key, value) => {
                    transaction.merge(&keyspace, key, End::Front.operator(), value)?;
                }
                Write::DeleteRange(_, lower, upper) => {
                    transaction.delete_range(&keyspace, lower.as_str()..upper.as_str())?;
                }
            }
        }
        Ok(transaction)
    }

    /// Takes note of the commit of `writes`, if there was one.
    fn committed(&mut self, writes: &[Write]) -> Checked<Option<Timestamp>> {
        let names = self.ledger.model.names(self.ledger.model.newest());
        let now = self.ledger.now();
        let joined = |space: SpaceNumber, key: &String, value: &Vec<u8>, end| {
            Change::Append(space, key.as_bytes().to_vec(), value.clone(), now, end)
        };
        let change = |write: &Write| {
            use std::ops::Bound::{Excluded, Included};
            let space = *names.get(write.space())?;
            Some(match write {
                Write::Put(_, key, value) => {
                    let stored = Stored { value: value.clone(), expires_at: None };
                    Change::Write(space, key.as_bytes().to_vec(), Some(stored))
                }
                Write::Delete(_, key) => Change::Write(space, key.as_bytes().to_vec(), None),
                Write::PutUntil(_, key, value, at) => {
                    let stored = Stored { value: value.clone(), expires_at: Some(*at) };
                    Change::Write(space, key.as_bytes().to_vec(), Some(stored))
                }
                Write::Append(_, key, value) => joined(space, key, value, End::Back),
                Write::Prepend(_, key, value) => joined(space, key, value, End::Front),
                Write::DeleteRange(_, lower, upper) => {
                    let ends = (lower.as_bytes().to_vec(), upper.as_bytes().to_vec());
                    Change::DeleteRange(space, (Included(ends.0), Excluded(ends.1)))
                }
            })
        };
        let changes: Option<Vec<_>> = writes.iter().map(change).collect();
        self.decided(|ledger, at| ledger.model.commit(at, changes.unwrap_or_default()))
    }

    /// Takes note of a commit, if *visible* says that there was one.
    fn decided(&mut self, note: impl FnOnce(&mut Ledger, Timestamp)) -> Checked<Option<Timestamp>> {
        let at = self.db.visible();
        if at == self.ledger.model.newest() {
            return Ok(None);
        }
        self.ledger.give(at)?;
        note(self.ledger, at);
        Ok(Some(at))
    }

    fn acknowledged(&mut self, at: Timestamp, durability: Durability) {
        let ledger = &mut *self.ledger;
        match durability {
            Durability::Sync => ledger.synced = ledger.synced.max(at),
            Durability::Os => ledger.written = ledger.written.max(at),
            Durability::Buffered => {}
        }
    }

    /// Reads go on, whatever has failed: exact, at `S`.
    fn check_reads(&self) -> Checked {
        let s = self.db.acknowledged();
        let promised = self.ledger.synced.max(self.ledger.written);
        ensure!(s >= promised, "S = {s} is before {promised}, which was acknowledged");
        let snapshot = self.db.snapshot().map_err(unexpected)?;
        ensure_eq!(snapshot.timestamp(), s, "a snapshot's timestamp");
        self.check_snapshot(&snapshot, self.ledger.now())
    }

    /// Snapshots that are held show what they showed.
    fn check_snapshots(&self) -> Checked {
        self.snapshots.iter().try_for_each(|(snapshot, now)| self.check_snapshot(snapshot, *now))
    }

    fn check_snapshot(&self, snapshot: &Snapshot, now: u64) -> Checked {
        let s = snapshot.timestamp();
        let model = &self.ledger.model;
        for (name, space) in model.names(s) {
            if model.is_dropped(space) {
                continue; // It, and what has its name now, is not there at `s`.
            }
            let Some(keyspace) = self.db.keyspace_if_exists(&name).map_err(unexpected)? else {
                continue; // Its drop was decided, and is not acknowledged.
            };
            let found: Vec<_> = snapshot
                .range(&keyspace, ..)
                .map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()
                .map_err(unexpected)?;
            let expected = model.scan(space, &Span::All.bounds(), s, now);
            ensure!(found == expected, "'{name}' at {s}: found {found:?}, not {expected:?}");
            for (key, value) in &expected {
                let got = snapshot.get(&keyspace, key).map_err(unexpected)?;
                ensure!(got.as_deref() == Some(value.as_slice()), "get and scan differ at {key:?}");
            }
        }
        Ok(())
    }

    fn reopen(&mut self) -> Checked {
        self.pending.clear();
        self.spaces.clear();
        self.snapshots.clear();
        let closed = self.db.close();
        if self.accept(closed)?.is_some() {
            self.acknowledged(self.ledger.model.newest(), Durability::Sync);
        }
        let poisoned = self.poisoned.get();
        if poisoned && self.ledger.model.commits().is_multiple_of(2) {
            // The kernel may drop what a failed sync has left in its cache, at any time: then
            // nothing unsynced is left, as after a power cut.
            self.disk.drop_clean_pages();
            self.ledger.power_was_cut = true;
        }
        // The last handle: it gives the lock back.
        self.db = Database::in_memory();
        let builder = builder(self.disk, self.life.sizes).clock(Arc::new(self.clock.clone()));
        let opened = match builder.clone().open() {
            Err(OpenError::Io { .. }) if self.life.faults => builder.open(),
            opened => opened,
        };
        match opened {
            Ok(db) => {
                self.db = db;
                self.poisoned.set(false);
            }
            Err(_) if self.disk.has_crashed() => return Ok(()),
            Err(error) => return Err(Finding::new(format!("it does not open: {error:?}"))),
        }
        if self.disk.has_crashed() {
            return Ok(());
        }
        let before = self.ledger.model.newest();
        self.ledger.recovered(&self.db)?;
        let lost = self.ledger.model.newest() < before;
        ensure!(poisoned || !lost, "an orderly close has lost commits");
        Ok(())
    }
}

/// Both kinds of disk.
pub const DISKS: [DiskKind; 2] = [DiskKind::Fua, DiskKind::WriteThrough];
