//! The engine as a target, in memory and in this process, driven by the seam that never waits
//! (`Transaction::step`, `CommitSteps`, `Steps`).
//!
//! 1. Runs share a database: each has keys of its own, by a prefix. Its clock stands still but for the
//!    steps that let time pass.
//! 2. A blocked session can move once the lock table has woken it, and not before: a wake-up that is
//!    lost leaves it blocked for ever, and is seen.
//! 3. A refusal that does not say the truth, and whatever a run leaves behind, is a failure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use isolith::merge::ADD_I64;
use isolith::steps::Steps;
use isolith::{
    Age, BlockedBy, Builder, Clock, CommitInfo, CommitMode, CommitSteps, Concurrency, Database,
    Error, Keyspace, LockHolder, ManualClock, RangeLock, Savepoint, Step, Timestamp, Transaction,
    TransactionOptions,
};

use super::target::{
    Abort, AbortKind, Action, Answer, Contents, Encoded, Failure, Feature, Hold, Reply, Span,
    Start, Target, Terms, space_of,
};
use crate::executor::Bell;
use crate::oracle::Why;
use crate::refusals;

/// Runs on one database before a new one is taken: their range deletes pile up.
const RUNS_MAX: u64 = 1_000;
/// Keys that are looked at for sharing their warmth.
const HEAT_KEYS_MAX: usize = 8;

/// The keyspace of the keys that name none: no scenario can.
const KEYSPACE: &str = "the-laboratory";
/// Where the clock stands at first, in Unix milliseconds. A unit of time is one of them.
const NOW: u64 = 1_000_000;

/// The engine in memory.
pub struct Embedded {
    db: Database,
    steps: Steps,
    clock: ManualClock,
    /// When the run began.
    began: u64,
    /// Those that were named since the database was opened, [`KEYSPACE`] among them.
    keyspaces: BTreeMap<String, Keyspace>,
    /// The keyspaces that the run uses.
    used: Vec<String>,
    /// Those of them that were dropped, and by which session.
    dropped: BTreeMap<String, usize>,
    runs: u64,
    /// A run ended in the middle: who knows what is left of it.
    tainted: bool,
    actors: Vec<Actor>,
    controls: Vec<Concurrency>,
}

enum Stage {
    Waiting,
    Running(Transaction),
    /// An operation found a lock in its way.
    Blocked(Transaction, Action),
    /// A commit: handed in, or in front of a lock.
    Committing(CommitSteps, Handed),
    /// The commit that was handed in is decided, and nobody has been told.
    Decided(Option<Timestamp>),
    Over,
}

/// How far a commit is to go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handed {
    /// Into the queue.
    In,
    /// To its end.
    On,
}

struct Actor {
    terms: Terms,
    stage: Stage,
    bell: Arc<Bell>,
    waker: Waker,
    age: Option<Age>,
    savepoints: Vec<Savepoint>,
    committed: Option<Timestamp>,
}

impl Actor {
    fn new(terms: Terms) -> Actor {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        let (stage, savepoints) = (Stage::Waiting, Vec::new());
        Actor { terms, stage, bell, waker, age: None, savepoints, committed: None }
    }
}

fn broken(error: Error) -> Failure {
    Failure::Broken(format!("an unexpected error: {error:?}"))
}

fn misused(what: &str) -> Failure {
    Failure::Target(format!("the laboratory itself went wrong: {what}"))
}

fn database(clock: &ManualClock) -> Result<(Database, Steps), Failure> {
    let builder = Builder::in_memory().commit_mode(CommitMode::Stepped).threads(false);
    // How long locks are waited for is not among the things that are explored.
    let builder = builder.lock_timeout(Duration::from_secs(100_000));
    let db = builder.clock(Arc::new(clock.clone())).open();
    let db = db.map_err(|error| Failure::Target(error.to_string()))?;
    let steps = Steps::new(&db);
    Ok((db, steps))
}

impl Embedded {
    /// The engine with an empty database in memory.
    pub fn new() -> Result<Embedded, Failure> {
        let clock = ManualClock::new(NOW);
        let (db, steps) = database(&clock)?;
        let mut new = Embedded {
            db,
            steps,
            clock,
            began: NOW,
            keyspaces: BTreeMap::new(),
            used: Vec::new(),
            dropped: BTreeMap::new(),
            runs: 0,
            tainted: false,
            actors: Vec::new(),
            controls: Vec::new(),
        };
        new.name(KEYSPACE)?;
        Ok(new)
    }

    /// Takes an empty database.
    fn begin_afresh(&mut self) -> Result<(), Failure> {
        self.keyspaces.clear();
        (self.db, self.steps) = database(&self.clock)?;
        self.name(KEYSPACE)
    }

    /// Creates a keyspace, unless it is there.
    fn name(&mut self, name: &str) -> Result<(), Failure> {
        if !self.keyspaces.contains_key(name) {
            let keyspace = self.steps.keyspace(name).map_err(broken)?;
            self.keyspaces.insert(name.to_owned(), keyspace);
        }
        Ok(())
    }

    /// The keyspace of a key.
    fn keyspace(&self, key: &str) -> Result<&Keyspace, Failure> {
        let named = self.keyspaces.get(space_of(key).unwrap_or(KEYSPACE));
        named.ok_or_else(|| misused("a keyspace that was not announced"))
    }

    /// When what expires after so many units of time does so, in Unix milliseconds.
    fn time(&self, units: Option<u64>) -> Option<u64> {
        units.map(|units| self.began + units)
    }

    fn key(&self, key: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(8 + key.len());
        bytes.extend_from_slice(&self.runs.to_be_bytes());
        bytes.extend_from_slice(key.as_bytes());
        bytes
    }

    /// The bounds of a range: the last key included is the same as the key right behind it excluded.
    fn bounds(&self, span: &Span) -> std::ops::Range<Vec<u8>> {
        let mut upper = self.key(&span.upper);
        if span.inclusive {
            upper.push(0);
        }
        self.key(&span.lower)..upper
    }

    /// Makes all keys hot, or all cold. Keys that share their warmth would make a run depend on its
    /// keys' names: those are passed over.
    fn heat(&mut self, start: &Start<'_>) {
        let few = &start.keys[..start.keys.len().min(HEAT_KEYS_MAX)];
        loop {
            let apart = few.iter().all(|one| {
                self.steps.cool();
                self.warm(one);
                let hot = |space: &Keyspace, key: &str| self.steps.is_hot(space, self.key(key));
                let warm = |key: &&String| self.keyspace(key).is_ok_and(|space| hot(space, key));
                few.iter().filter(warm).eq([one])
            });
            if apart {
                break;
            }
            self.runs += 1;
        }
        self.steps.cool();
        start.keys.iter().filter(|_| start.hot).for_each(|key| self.warm(key));
    }

    fn warm(&self, key: &str) {
        if let Ok(keyspace) = self.keyspace(key) {
            self.steps.heat(keyspace, self.key(key));
        }
    }

    /// Writes what is there at first, in one commit.
    fn prepare(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        if start.setup.is_empty() {
            return Ok(());
        }
        let mut transaction = self.db.begin().map_err(broken)?;
        for (key, value) in start.setup {
            let until = self.time(start.expiring.get(key).copied());
            let (keyspace, name) = (self.keyspace(key)?, self.key(key));
            transaction.put_with(keyspace, name, value.to_string(), until).map_err(broken)?;
        }
        let mut commit = transaction.commit_steps();
        while let Step::Blocked(_) = commit.step() {
            self.steps.round(1);
        }
        Ok(())
    }

    fn begin(&mut self, session: usize) -> Result<Answer, Failure> {
        let actor = &mut self.actors[session];
        let Terms { isolation, concurrency } = actor.terms;
        let options = TransactionOptions { isolation, concurrency, ..Default::default() };
        let mut transaction = self.db.begin_with(options).map_err(broken)?;
        transaction.wake(Some(&actor.waker));
        actor.age = Some(transaction.age());
        actor.stage = Stage::Running(transaction);
        Ok(Answer::Done(Reply::Nothing))
    }

    /// Does an operation, or goes on with it.
    fn operate(
        &mut self,
        session: usize,
        mut transaction: Transaction,
        action: Action,
    ) -> Result<Answer, Failure> {
        self.actors[session].bell.silence();
        match transaction.step(|tx| self.operation(tx, &action)) {
            Step::Ready(reply) => {
                let reply = reply?;
                self.actors[session].stage = Stage::Running(transaction);
                Ok(Answer::Done(reply))
            }
            Step::Blocked(BlockedBy::Lock) => {
                self.actors[session].stage = Stage::Blocked(transaction, action);
                Ok(Answer::Blocked)
            }
            Step::Blocked(by) => Err(Failure::Broken(format!("an operation waits for {by:?}"))),
            Step::Aborted(error) => {
                drop(transaction);
                self.refused(session, error)
            }
        }
    }

    fn operation(
        &self,
        transaction: &mut Transaction,
        action: &Action,
    ) -> isolith::Result<Result<Reply, Failure>> {
        let of = match action {
            Action::Get(key, _)
            | Action::Put(key, ..)
            | Action::Merge(key, _)
            | Action::Delete(key) => key,
            Action::Scan(span) | Action::DeleteRange(span) | Action::LockRange(span) => &span.lower,
            _ => return Ok(Err(misused("it is no operation"))),
        };
        let space = match self.keyspace(of) {
            Ok(space) => space,
            Err(failure) => return Ok(Err(failure)),
        };
        match action {
            Action::Get(key, hold) => {
                let key = self.key(key);
                let found = match hold {
                    Hold::No => transaction.get(space, key)?,
                    Hold::Share => transaction.get_for_share(space, key)?,
                    Hold::Update => transaction.get_for_update(space, key)?,
                };
                return Ok(found.as_deref().map(decoded).transpose().map(Reply::Value));
            }
            Action::Scan(span) => {
                let pairs: Vec<isolith::Pair> =
                    transaction.range(space, self.bounds(span)).collect::<Result<_, _>>()?;
                return Ok(self.pairs(&pairs).map(Reply::Pairs));
            }
            Action::Put(key, value, until) => {
                let until = self.time(*until);
                transaction.put_with(space, self.key(key), value.to_string(), until)?;
            }
            Action::Merge(key, delta) => {
                transaction.merge(space, self.key(key), ADD_I64, delta.to_string())?;
            }
            Action::Delete(key) => transaction.delete(space, self.key(key))?,
            Action::DeleteRange(span) => transaction.delete_range(space, self.bounds(span))?,
            Action::LockRange(span) => {
                transaction.lock_range(space, self.bounds(span), RangeLock::Shared)?;
            }
            _ => {}
        }
        Ok(Ok(Reply::Nothing))
    }

    /// Takes the run's prefix off, and the numbers out of the text.
    fn pairs(&self, pairs: &[isolith::Pair]) -> Result<Vec<(String, Encoded)>, Failure> {
        let prefix = self.runs.to_be_bytes();
        let own = |(key, value): &isolith::Pair| {
            let key = key.strip_prefix(&prefix[..]).and_then(|key| str::from_utf8(key).ok());
            let Some(key) = key else {
                return Err(Failure::Broken(format!("a scan found {key:?} beyond its bounds")));
            };
            Ok((key.to_owned(), decoded(value)?))
        };
        if !pairs.windows(2).all(|pair| pair[0].0 < pair[1].0) {
            return Err(Failure::Broken(format!("a scan out of order: {pairs:?}")));
        }
        pairs.iter().map(own).collect()
    }

    /// Marks a point, or goes back to one.
    fn savepoint(
        &mut self,
        session: usize,
        mut transaction: Transaction,
        action: &Action,
    ) -> Result<Answer, Failure> {
        let actor = &mut self.actors[session];
        match action {
            Action::RollbackTo(number) => {
                let Some(savepoint) = actor.savepoints.get(*number).copied() else {
                    return Err(misused("no such savepoint"));
                };
                // Later ones are gone; this one stays.
                transaction.rollback_to(savepoint).map_err(broken)?;
            }
            _ => actor.savepoints.push(transaction.savepoint()),
        }
        actor.stage = Stage::Running(transaction);
        Ok(Answer::Done(Reply::Nothing))
    }

    /// Goes on with a commit as far as it is to go.
    fn commit(
        &mut self,
        session: usize,
        mut commit: CommitSteps,
        handed: Handed,
    ) -> Result<Answer, Failure> {
        self.actors[session].bell.silence();
        loop {
            match commit.step() {
                Step::Blocked(BlockedBy::Round) if handed == Handed::In => {
                    self.actors[session].stage = Stage::Committing(commit, Handed::In);
                    return Ok(Answer::Done(Reply::Nothing));
                }
                Step::Blocked(BlockedBy::Round) => {
                    if self.steps.round(1) == 0 {
                        return Err(Failure::Broken("a commit waits for an empty queue".into()));
                    }
                }
                Step::Blocked(BlockedBy::Lock) => {
                    self.actors[session].stage = Stage::Committing(commit, handed);
                    return Ok(Answer::Blocked);
                }
                Step::Blocked(by) => {
                    return Err(Failure::Broken(format!("in memory, a commit waits for {by:?}")));
                }
                Step::Ready(CommitInfo { timestamp, .. }) if handed == Handed::In => {
                    self.actors[session].stage = Stage::Decided(timestamp);
                    return Ok(Answer::Done(Reply::Nothing));
                }
                Step::Ready(CommitInfo { timestamp, .. }) => {
                    return Ok(self.told(session, timestamp));
                }
                Step::Aborted(error) => {
                    drop(commit);
                    return self.refused(session, error);
                }
            }
        }
    }

    /// Drops a keyspace, for everybody.
    fn drop_keyspace(&mut self, session: usize, name: &str) -> Result<Answer, Failure> {
        if !self.steps.drop_keyspace(name).map_err(broken)? {
            return Err(Failure::Broken(format!("the keyspace '{name}' was not there")));
        }
        self.dropped.insert(name.to_owned(), session);
        // Nobody has committed since.
        let timestamp = self.db.visible();
        Ok(self.told(session, Some(timestamp)))
    }

    fn told(&mut self, session: usize, timestamp: Option<Timestamp>) -> Answer {
        let actor = &mut self.actors[session];
        (actor.stage, actor.committed) = (Stage::Over, timestamp);
        Answer::Done(Reply::Committed(timestamp.map(Timestamp::counter)))
    }

    /// A transaction is over; the error has to say the truth.
    fn refused(&mut self, session: usize, error: Error) -> Result<Answer, Failure> {
        let alive = |age: &Age| {
            self.actors.iter().enumerate().any(|(other, actor)| {
                let over = matches!(actor.stage, Stage::Waiting | Stage::Over);
                other != session && !over && actor.age == Some(*age)
            })
        };
        let Some(own) = self.actors[session].age else {
            return Err(misused("a transaction that did not begin was refused"));
        };
        if let Error::KeyspaceDropped { keyspace } = &error {
            let Some(by) = self.dropped.get(keyspace) else {
                return Err(Failure::Broken(format!("nobody has dropped it: {error}")));
            };
            let (by, said) = (vec![*by], error.to_string());
            self.actors[session].stage = Stage::Over;
            return Ok(Answer::Aborted(Abort { kind: AbortKind::Dropped, by, said }));
        }
        let why = refusals::why(&error, own, session, &self.controls, &alive)
            .map_err(|finding| Failure::Broken(finding.to_string()))?;
        let kind = match why {
            Why::Conflict => AbortKind::Conflict,
            Why::Wounded => AbortKind::Wounded,
            Why::Deadlock => AbortKind::Deadlock,
            Why::LockRefused => AbortKind::LockRefused,
        };
        let by = match &error {
            Error::Wounded { by } => self.of_ages(&[*by], session),
            Error::Deadlock { cycle: locks } | Error::LockRefused { holders: locks } => {
                self.owners(locks, session)
            }
            Error::Conflict { other: Some(at), .. } => {
                let of = |actor: &Actor| actor.committed == Some(*at);
                self.actors.iter().position(of).into_iter().collect()
            }
            _ => Vec::new(),
        };
        let said = self.readable(&error);
        self.actors[session].stage = Stage::Over;
        Ok(Answer::Aborted(Abort { kind, by, said }))
    }

    /// An error's text without the prefixes of keys.
    fn readable(&self, error: &Error) -> String {
        let prefix: String = self.runs.to_be_bytes().escape_ascii().to_string();
        error.to_string().replace(&prefix, "")
    }

    fn owners(&self, locks: &[LockHolder], but: usize) -> Vec<usize> {
        let ages: Vec<Age> = locks.iter().map(|lock| lock.age).collect();
        self.of_ages(&ages, but)
    }

    fn of_ages(&self, ages: &[Age], but: usize) -> Vec<usize> {
        let has = |who: &usize| self.actors[*who].age.is_some_and(|age| ages.contains(&age));
        (0..self.actors.len()).filter(|who| *who != but).filter(has).collect()
    }
}

impl Target for Embedded {
    fn label(&self) -> String {
        "embedded".into()
    }

    fn offers(&self, _: Feature) -> bool {
        true
    }

    fn start(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        self.actors.clear();
        self.runs += 1;
        if std::mem::take(&mut self.tainted) {
            self.begin_afresh()?;
        } else if self.runs.is_multiple_of(RUNS_MAX) {
            let snapshots = self.db.stats().snapshots;
            if snapshots != 0 {
                return Err(Failure::Broken(format!("{snapshots} snapshots are left behind")));
            }
            self.begin_afresh()?;
        }
        let gone = std::mem::take(&mut self.dropped);
        self.keyspaces.retain(|name, _| !gone.contains_key(name));
        start.spaces.iter().try_for_each(|name| self.name(name))?;
        self.used = start.spaces.to_vec();
        self.began = self.clock.unix_millis();
        self.controls = start.sessions.iter().map(|terms| terms.concurrency).collect();
        if self.controls.contains(&Concurrency::Auto) {
            self.heat(start);
        }
        self.prepare(start)?;
        self.actors = start.sessions.iter().map(|terms| Actor::new(*terms)).collect();
        Ok(())
    }

    fn submit(&mut self, session: usize, action: &Action) -> Result<Answer, Failure> {
        let stage = std::mem::replace(&mut self.actors[session].stage, Stage::Over);
        match (stage, action) {
            (Stage::Waiting, Action::Begin) => self.begin(session),
            (Stage::Running(tx), Action::Savepoint(_) | Action::RollbackTo(_)) => {
                self.savepoint(session, tx, action)
            }
            (Stage::Running(tx), Action::Rollback) => {
                tx.rollback();
                Ok(Answer::Done(Reply::Nothing))
            }
            (Stage::Running(tx), Action::Drop(name)) => {
                // It has done nothing.
                tx.rollback();
                self.drop_keyspace(session, name)
            }
            (stage @ Stage::Running(_), Action::Pass(units)) => {
                self.clock.advance(*units);
                self.actors[session].stage = stage;
                Ok(Answer::Done(Reply::Nothing))
            }
            (Stage::Running(tx), Action::HandIn | Action::Commit) => {
                let mut commit = tx.commit_steps();
                commit.wake(Some(&self.actors[session].waker));
                let handed = if *action == Action::HandIn { Handed::In } else { Handed::On };
                self.commit(session, commit, handed)
            }
            (Stage::Committing(commit, Handed::In), Action::Commit) => {
                self.commit(session, commit, Handed::On)
            }
            (Stage::Decided(timestamp), Action::Commit) => Ok(self.told(session, timestamp)),
            (Stage::Running(tx), _) => self.operate(session, tx, action.clone()),
            _ => Err(misused("a step of a session that cannot move")),
        }
    }

    fn poll(&mut self, session: usize) -> Result<Answer, Failure> {
        match std::mem::replace(&mut self.actors[session].stage, Stage::Over) {
            Stage::Blocked(transaction, action) => self.operate(session, transaction, action),
            Stage::Committing(commit, handed) => self.commit(session, commit, handed),
            _ => Err(misused("a session that is not blocked is polled")),
        }
    }

    fn can_move(&mut self, session: usize) -> bool {
        self.actors[session].bell.rung()
    }

    fn waits_for(&mut self, session: usize) -> Vec<usize> {
        match &self.actors[session].stage {
            Stage::Blocked(transaction, _) => self.owners(&transaction.waits_for(), session),
            Stage::Committing(commit, _) => self.owners(&commit.waits_for(), session),
            _ => Vec::new(),
        }
    }

    fn finish(&mut self) -> Result<Contents, Failure> {
        let locks = self.steps.locks();
        if locks.held != 0 || locks.waiting != 0 {
            return Err(Failure::Broken(format!(
                "{} locks and {} places in queues are left behind",
                locks.held, locks.waiting
            )));
        }
        self.actors.clear();
        let reader = self.db.begin_read_only().map_err(broken)?;
        let mut contents = Contents::new();
        let there = self.used.iter().filter(|name| !self.dropped.contains_key(*name));
        for name in there.map(String::as_str).chain([KEYSPACE]) {
            let Some(keyspace) = self.keyspaces.get(name) else { continue };
            let pairs: Result<Vec<isolith::Pair>, Error> =
                reader.prefix(keyspace, self.runs.to_be_bytes()).collect();
            contents.extend(self.pairs(&pairs.map_err(broken)?)?);
        }
        Ok(contents)
    }

    fn abandon(&mut self, broken: bool) {
        self.actors.clear();
        self.tainted |= broken;
    }
}

fn decoded(bytes: &[u8]) -> Result<Encoded, Failure> {
    let number = str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Failure::Broken(format!("a value that nobody wrote: {bytes:?}")))
}
