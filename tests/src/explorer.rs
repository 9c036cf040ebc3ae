//! Drives small transactions through every interleaving, from one thread, and lets the judge look at
//! each history.
//!
//! Each transaction begins with its first operation, does one operation a move, and hands its commit
//! in with its last move; the leader decides the oldest commit that is queued with a move of its own.
//! So what happens between an operation, the validation before the window and the decision is
//! enumerated, too. A move that finds a lock in its way leaves its transaction blocked: it moves again
//! once the lock table has woken it. A schedule is the sequence of choices among those who can move;
//! all of them are enumerated depth first, each history being played from its start.
//!
//! Beside the judge's verdicts it is a finding if
//! 1. nobody can move and somebody is not done: a deadlock that nobody broke, or a lost wake-up;
//! 2. a refusal does not say the truth: who wounded is not older, a holder or a member of a cycle is
//!    not there, the oldest of all is refused by a policy that spares it;
//! 3. something is left behind: a lock, a place in a queue, a snapshot.
//!
//! Over files, what befalls the versions is one more mover: a script of freezes, flushes, compactions and
//! prunings, whose next step may come at any time, before the first move of all, too.
//!
//! Runs share a database: each has keys of its own, by a prefix.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use isolith::{
    Age, BlockedBy, Builder, CommitMode, CommitSteps, Concurrency, Database, DeadlockPolicy,
    Durability, Error, Isolation, Keyspace, LockStats, RangeLock, Savepoint, Step, Timestamp,
    Transaction, TransactionOptions, steps::Steps,
};

use isolith::merge::ADD_I64;
use isolith::storage::memory::MemoryStorage;

use crate::anomalies::{Anomaly, History};
use crate::dice::Dice;
use crate::executor::Bell;
use crate::finding::{Checked, Finding, catching};
use crate::oracle::{self, End, Statement, Trace, Verdicts, Why};
use crate::programs::{
    Act, Answer, KEY_MAX, Key, Keys, NOTHING, Program, State, initial, merged_bit, value,
};
use crate::refusals;
use crate::{ensure, ensure_eq};

/// Runs on one database before a new one is taken: their range deletes pile up.
const RUNS_MAX: u64 = 1_000;
/// Moves that no history needs.
const MOVES_MAX: usize = 200;
/// The leader, where the movers are told.
const LEADER: u8 = u8::MAX;
/// Who freezes, flushes and compacts.
const KEEPER: u8 = u8::MAX - 1;
/// Runs on one database over files, and how often these are compacted in between.
const RUNS_OVER_FILES: u64 = 240;
const COMPACTED_EVERY: u64 = 12;

/// Every way to protect a transaction: each level with each concurrency control.
pub fn protections() -> Vec<(Isolation, Concurrency)> {
    let with = |level: Isolation| Concurrency::ALL.map(|control| (level, control));
    Isolation::ALL.into_iter().flat_map(with).collect()
}

/// Who is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ages {
    /// Who began first.
    Begun,
    /// Who began last, as if the others had been tried before.
    Reversed,
}

/// What a history begins on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// The keys that hold their initial values.
    pub present: Keys,
    /// Who is older.
    pub ages: Ages,
    /// The keys that have been fought for before.
    pub hot: Keys,
}

impl Beginning {
    /// These keys hold their initial values, who begins first is older, and nobody has fought yet.
    pub fn new(present: Keys) -> Beginning {
        Beginning { present, ages: Ages::Begun, hot: Keys::default() }
    }

    /// The orders of ages, and the heat, that make a difference to these programs.
    pub fn that_matter(present: Keys, programs: &[Program]) -> Vec<Beginning> {
        let any = |matters: &dyn Fn(Concurrency) -> bool| {
            programs.iter().any(|program| matters(program.concurrency))
        };
        let aged = |control| {
            !matches!(
                control,
                Concurrency::Optimistic | Concurrency::Locking(DeadlockPolicy::NoWait)
            )
        };
        let ages: &[Ages] = match any(&aged) {
            true => &[Ages::Begun, Ages::Reversed],
            false => &[Ages::Begun],
        };
        // The heat of keys that no automatic transaction touches is not asked for.
        let automatic = programs.iter().filter(|program| program.concurrency == Concurrency::Auto);
        let touched = automatic.fold(Keys::NONE, |keys, program| {
            let (reads, changes) = program.reach();
            keys | reads | changes
        });
        let mut hot = vec![Keys::NONE];
        for keys in [Keys::one(0), Keys::between(0, KEY_MAX)] {
            if !hot.iter().any(|known| *known & touched == keys & touched) {
                hot.push(keys);
            }
        }
        let with = |ages: &Ages| {
            hot.iter().map(|hot| Beginning { present, ages: *ages, hot: *hot }).collect::<Vec<_>>()
        };
        ages.iter().flat_map(with).collect()
    }
}

/// What befalls versions while transactions are at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upheaval {
    /// The memtable is frozen.
    Freeze,
    /// The memtable is frozen, and what is frozen goes to files.
    Flush,
    /// The same, and all files become one.
    Compact,
    /// What nobody can see any more is pruned.
    Prune,
}

/// What an exploration has looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Sets of programs on an initial state with an order of ages.
    pub cases: u64,
    /// Histories.
    pub histories: u64,
    /// Moves made in them.
    pub moves: u64,
    /// Moves that found a lock in their way.
    pub waits: u64,
    /// What the lock table decided by policy and age: waits, wounds, circles and refusals.
    pub fights: u64,
    /// The circles among them.
    pub circles: u64,
    /// What became of the transactions.
    pub verdicts: Verdicts,
    /// Anomalies met where all transactions are protected in the same way, and how often.
    pub met: BTreeMap<(String, Anomaly), u64>,
}

impl Explored {
    /// Adds others.
    pub fn add(&mut self, other: &Explored) {
        self.cases += other.cases;
        self.histories += other.histories;
        self.moves += other.moves;
        self.waits += other.waits;
        self.fights += other.fights;
        self.circles += other.circles;
        self.verdicts.add(other.verdicts);
        for (key, count) in &other.met {
            *self.met.entry(key.clone()).or_default() += count;
        }
    }
}

/// How a transaction is protected, in words.
pub fn protection(isolation: Isolation, concurrency: Concurrency) -> String {
    format!("{isolation} {concurrency}")
}

/// The choices of a schedule: replayed, then the first of each kind.
#[derive(Debug, Default)]
struct Choices {
    /// Which of how many.
    taken: Vec<(usize, usize)>,
    at: usize,
    /// Choices beyond those that are replayed are rolled for, where not all are to be looked at.
    dice: Option<Dice>,
}

impl Choices {
    fn pick(&mut self, of: usize) -> Checked<usize> {
        if self.at == self.taken.len() {
            let first = self.dice.as_mut().map_or(0, |dice| dice.below(of));
            self.taken.push((first, of));
        }
        let (choice, before) = self.taken[self.at];
        self.at += 1;
        ensure_eq!(of, before, "movers of the same history played again");
        Ok(choice)
    }

    /// Goes on to the next schedule, if there is one.
    fn next(&mut self) -> bool {
        self.at = 0;
        while let Some((choice, of)) = self.taken.pop() {
            if choice + 1 < of {
                self.taken.push((choice + 1, of));
                return true;
            }
        }
        false
    }
}

enum Stage {
    Waiting,
    Running(Transaction),
    /// An operation found a lock in its way.
    Blocked(Transaction),
    /// The leader has not decided the commit yet.
    Queued(CommitSteps),
    /// The commit found a lock in its way.
    Locked(CommitSteps),
    Over,
}

struct Actor {
    stage: Stage,
    bell: Arc<Bell>,
    waker: Waker,
    age: Option<Age>,
    statements: Vec<Statement>,
    savepoint: Option<Savepoint>,
    told_at_begin: usize,
    /// What had been told of when the operation under way was first asked for.
    told: Option<usize>,
    decided_at_end: usize,
    end: Option<Result<Option<Timestamp>, Why>>,
    lived: (usize, usize),
}

impl Actor {
    /// Marks points and goes back to them, as far as that is what comes next: no moves of their own,
    /// since they touch nothing that others could see.
    fn savepoints(&mut self, program: &Program, decided: usize) -> Checked {
        let Stage::Running(transaction) = &mut self.stage else { return Ok(()) };
        while let Some(act) = program.acts.get(self.statements.len()) {
            match (act, self.savepoint) {
                (Act::Savepoint, _) => self.savepoint = Some(transaction.savepoint()),
                (Act::RollbackTo, Some(point)) => transaction.rollback_to(point).map_err(fail)?,
                (Act::RollbackTo, None) => {}
                _ => break,
            }
            self.statements.push(Statement { answer: NOTHING, told: decided, decided });
        }
        Ok(())
    }

    fn new() -> Actor {
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        Actor {
            stage: Stage::Waiting,
            bell,
            waker,
            age: None,
            statements: Vec::new(),
            savepoint: None,
            told_at_begin: 0,
            told: None,
            decided_at_end: 0,
            end: None,
            lived: (0, 0),
        }
    }

    fn can_move(&self) -> bool {
        match self.stage {
            Stage::Waiting | Stage::Running(_) => true,
            Stage::Blocked(_) | Stage::Locked(_) => self.bell.rung(),
            Stage::Queued(_) | Stage::Over => false,
        }
    }

    fn is_alive(&self) -> bool {
        !matches!(self.stage, Stage::Waiting | Stage::Over)
    }
}

/// What a history has come to so far.
struct Run<'a> {
    programs: &'a [Program],
    actors: Vec<Actor>,
    /// *Visible* before the first move.
    first: Timestamp,
    decided: usize,
    moves: usize,
    waits: u64,
    /// What the lock table had decided before, and then in this history; and circles that it had found.
    fights: u64,
    circles: u64,
    /// Who moved.
    schedule: Vec<u8>,
    /// The ages to begin with, the first to begin taking the last.
    ages: Vec<Age>,
    /// How much has befallen the versions.
    upset: usize,
}

/// A database whose rounds are stepped, and the runs made on it.
pub struct Explorer {
    mode: CommitMode,
    db: Database,
    steps: Steps,
    keyspace: Keyspace,
    runs: u64,
    /// Whether there are files under the memtable.
    over_files: bool,
    /// What befalls the versions, in this order, at any time.
    upheavals: Vec<Upheaval>,
    /// Memtables that became files and compactions, of the databases that are gone.
    gone: (u64, u64),
    /// What was explored so far.
    pub explored: Explored,
}

fn fail(error: Error) -> Finding {
    Finding::new(format!("an unexpected error: {error:?}"))
}

fn database(mode: CommitMode, over_files: bool) -> Checked<(Database, Steps, Keyspace)> {
    let mut builder = Builder::in_memory().commit_mode(mode).threads(false);
    if over_files {
        // A decision is the acknowledgement, as it is in memory.
        builder = builder
            .storage(Arc::new(MemoryStorage::new()))
            .segment_bytes(256 << 10)
            .durability(Durability::Buffered);
    }
    let db = builder
        // Time is not among the things that are explored.
        .lock_timeout(Duration::from_secs(100_000))
        .open()
        .map_err(|error| Finding::new(error.to_string()))?;
    let steps = Steps::new(&db);
    let keyspace = match mode {
        CommitMode::Stepped => steps.keyspace("explored"),
        _ => db.keyspace("explored"),
    };
    let keyspace = keyspace.map_err(fail)?;
    Ok((db, steps, keyspace))
}

impl Explorer {
    /// An explorer with a database of its own.
    pub fn new() -> Checked<Explorer> {
        Explorer::with(CommitMode::Stepped)
    }

    /// The same in another commit mode: commits are decided as soon as they are handed in.
    pub fn with(mode: CommitMode) -> Checked<Explorer> {
        Explorer::made(mode, false)
    }

    /// The same over files in memory: memtables can be frozen, flushed and compacted.
    pub fn over_files() -> Checked<Explorer> {
        Explorer::made(CommitMode::Stepped, true)
    }

    fn made(mode: CommitMode, over_files: bool) -> Checked<Explorer> {
        let (db, steps, keyspace) = database(mode, over_files)?;
        let (explored, upheavals) = (Explored::default(), Vec::new());
        let (runs, gone) = (0, (0, 0));
        Ok(Explorer { mode, db, steps, keyspace, runs, over_files, upheavals, gone, explored })
    }

    /// How many memtables have become files so far, and how many compactions there were.
    pub fn flushes_and_compactions(&self) -> (u64, u64) {
        let files = self.db.stats().files.unwrap_or_default();
        (self.gone.0 + files.flushes, self.gone.1 + files.compactions)
    }

    /// From now on this befalls the versions in each history, in this order: each at any time.
    pub fn upset_by(&mut self, upheavals: &[Upheaval]) {
        self.upheavals = upheavals.to_vec();
    }

    /// One history, by a schedule that the seed decides.
    pub fn history(
        &mut self,
        beginning: Beginning,
        programs: &[Program],
        seed: u64,
    ) -> Checked<Vec<Trace>> {
        let mut choices = Choices { dice: Some(Dice::new(seed)), ..Choices::default() };
        self.run(&initial(beginning.present), beginning, programs, &mut choices).1
    }

    /// All histories of the programs, by every schedule, in the order in which they are explored; and how
    /// often the lock table decided by policy and age in them, and found circles. Nobody judges them.
    pub fn histories(
        &mut self,
        beginning: Beginning,
        programs: &[Program],
    ) -> Checked<(Vec<Vec<Trace>>, u64, u64)> {
        let (mut choices, mut all) = (Choices::default(), Vec::new());
        let (mut fights, mut circles) = (0, 0);
        let initial = initial(beginning.present);
        loop {
            let (run, traces) = self.run(&initial, beginning, programs, &mut choices);
            (fights, circles) = (fights + run.fights, circles + run.circles);
            all.push(traces?);
            if !choices.next() {
                return Ok((all, fights, circles));
            }
        }
    }

    /// Runs the programs through every schedule.
    pub fn explore(&mut self, beginning: Beginning, programs: &[Program]) -> Checked {
        self.go(beginning, programs, Choices::default(), usize::MAX)
    }

    /// The same through so many schedules that the dice choose.
    pub fn sample(
        &mut self,
        beginning: Beginning,
        programs: &[Program],
        dice: &mut Dice,
        schedules: usize,
    ) -> Checked {
        for _ in 0..schedules {
            let dice = Some(Dice::new(dice.roll()));
            let choices = Choices { dice, ..Choices::default() };
            self.go(beginning, programs, choices, 1)?;
        }
        Ok(())
    }

    fn go(
        &mut self,
        beginning: Beginning,
        programs: &[Program],
        mut choices: Choices,
        schedules: usize,
    ) -> Checked {
        self.explored.cases += 1;
        let initial = initial(beginning.present);
        let same = programs.iter().all(|program| {
            let first = &programs[0];
            (program.isolation, program.concurrency) == (first.isolation, first.concurrency)
        });
        for _ in 0..schedules {
            let (run, checked) = self.run(&initial, beginning, programs, &mut choices);
            let context = || {
                let mut upheavals = self.upheavals.iter();
                let mut name = |mover: &u8| match (*mover, upheavals.as_slice()) {
                    (KEEPER, [next, ..]) => {
                        upheavals.next();
                        format!("{next:?}")
                    }
                    (mover, _) => name(mover),
                };
                let movers: Vec<String> = run.schedule.iter().map(&mut name).collect();
                format!("{programs:?}, {beginning:?}, moves: {}", movers.join(" "))
            };
            let judged = checked.and_then(|traces| {
                let verdicts = oracle::judge(&initial, &traces)?;
                let met = History::of(&initial, &traces)?.anomalies();
                if let Some(met) = met.iter().find(|met| met.forbidden) {
                    return Err(Finding::new(format!("{}, met by {:?}", met.anomaly, met.who)));
                }
                self.explored.verdicts.add(verdicts);
                for met in met.iter().filter(|_| same) {
                    let protection = protection(programs[0].isolation, programs[0].concurrency);
                    *self.explored.met.entry((protection, met.anomaly)).or_default() += 1;
                }
                Ok(())
            });
            if let Err(finding) = judged {
                return Err(finding.after(context()));
            }
            self.explored.histories += 1;
            self.explored.moves += run.moves as u64;
            self.explored.waits += run.waits;
            self.explored.fights += run.fights;
            self.explored.circles += run.circles;
            if !choices.next() {
                break;
            }
        }
        Ok(())
    }

    /// One history: how far it came, and what is known of each transaction.
    fn run<'a>(
        &mut self,
        initial: &State,
        beginning: Beginning,
        programs: &'a [Program],
        choices: &mut Choices,
    ) -> (Run<'a>, Checked<Vec<Trace>>) {
        let mut run = Run {
            programs,
            actors: programs.iter().map(|_| Actor::new()).collect(),
            first: Timestamp::ZERO,
            decided: 0,
            moves: 0,
            waits: 0,
            fights: 0,
            circles: 0,
            schedule: Vec::new(),
            ages: Vec::new(),
            upset: 0,
        };
        let traces = catching(|| self.play(&mut run, initial, beginning, choices));
        (run, traces)
    }

    fn play(
        &mut self,
        run: &mut Run<'_>,
        initial: &State,
        beginning: Beginning,
        choices: &mut Choices,
    ) -> Checked<Vec<Trace>> {
        self.runs += 1;
        let runs_max = if self.over_files { RUNS_OVER_FILES } else { RUNS_MAX };
        if self.runs.is_multiple_of(runs_max) {
            ensure_eq!(self.db.stats().snapshots, 0, "snapshots that are left behind");
            self.gone = self.flushes_and_compactions();
            (self.db, self.steps, self.keyspace) = database(self.mode, self.over_files)?;
        } else if self.over_files && self.runs.is_multiple_of(COMPACTED_EVERY) {
            self.steps.flush().map_err(fail)?;
            self.steps.compact(&self.keyspace).map_err(fail)?;
        }
        if run.programs.iter().any(|program| program.concurrency == Concurrency::Auto) {
            self.heat(beginning.hot);
        }
        self.prepare(initial)?;
        if beginning.ages == Ages::Reversed {
            let age = |_| self.db.begin().map(|transaction| transaction.age());
            run.ages = run.programs.iter().map(age).collect::<Result<_, _>>().map_err(fail)?;
        }
        run.first = self.db.visible();
        let locks = self.steps.locks();
        (run.fights, run.circles) = (fights(&locks), locks.deadlocks);
        loop {
            let mut movers: Vec<u8> = (0..run.actors.len())
                .filter(|who| run.actors[*who].can_move())
                .map(|who| who as u8)
                .collect();
            if run.actors.iter().any(|actor| matches!(actor.stage, Stage::Queued(_))) {
                movers.push(LEADER);
            }
            if movers.is_empty() {
                let done = run.actors.iter().all(|actor| matches!(actor.stage, Stage::Over));
                ensure!(done, "nobody can move, and somebody is not done");
                break;
            }
            if run.upset < self.upheavals.len() {
                movers.push(KEEPER);
            }
            let mover = movers[choices.pick(movers.len())?];
            run.schedule.push(mover);
            run.moves += 1;
            ensure!(run.moves <= MOVES_MAX, "they move for ever");
            match mover {
                LEADER => {
                    self.steps.round(1);
                }
                KEEPER => {
                    self.upset(self.upheavals[run.upset])?;
                    run.upset += 1;
                }
                who => self.advance(run, usize::from(who))?,
            }
            run.decided = (self.db.visible().counter() - run.first.counter()) as usize;
            for who in 0..run.actors.len() {
                if let Stage::Queued(_) = run.actors[who].stage {
                    self.commit(run, who)?;
                }
            }
        }
        let locks = self.steps.locks();
        (run.fights, run.circles) = (fights(&locks) - run.fights, locks.deadlocks - run.circles);
        ensure_eq!(locks.held, 0, "locks that are left behind");
        ensure_eq!(locks.waiting, 0, "places in queues that are left behind");
        let traces = run.actors.iter().zip(run.programs).map(|(actor, program)| {
            let end = match actor.end {
                Some(Ok(Some(at))) => {
                    ensure!(at > run.first, "a commit at {at}, not after {}", run.first);
                    End::Committed((at.counter() - run.first.counter()) as usize)
                }
                Some(Ok(None)) => End::Unchanged,
                Some(Err(why)) => End::Refused(why),
                None => return Err(Finding::new("a transaction has no end")),
            };
            Ok(Trace {
                program: program.clone(),
                statements: actor.statements.clone(),
                told_at_begin: actor.told_at_begin,
                decided_at_end: actor.decided_at_end,
                end,
                lived: actor.lived,
            })
        });
        traces.collect()
    }

    fn upset(&self, upheaval: Upheaval) -> Checked {
        if upheaval == Upheaval::Prune {
            self.steps.upkeep();
            return Ok(());
        }
        self.steps.freeze(&self.keyspace);
        if upheaval != Upheaval::Freeze {
            self.steps.flush().map_err(fail)?;
        }
        if upheaval == Upheaval::Compact {
            self.steps.compact(&self.keyspace).map_err(fail)?;
        }
        Ok(())
    }

    /// Makes these keys hot and no others. Keys that share their warmth would make a history depend
    /// on its keys' names: those are passed over.
    fn heat(&mut self, hot: Keys) {
        self.steps.cool();
        loop {
            for key in hot.iter() {
                self.steps.heat(&self.keyspace, self.key(key));
            }
            let warm = |key: &Key| self.steps.is_hot(&self.keyspace, self.key(*key));
            if hot == Keys::NONE || Keys::between(0, KEY_MAX).iter().filter(warm).eq(hot.iter()) {
                return;
            }
            self.steps.cool();
            self.runs += 1;
        }
    }

    /// Writes the initial values in one commit.
    fn prepare(&mut self, initial: &State) -> Checked {
        let mut transaction = self.db.begin().map_err(fail)?;
        for (key, value) in initial.iter().enumerate() {
            if let Some(value) = value {
                let key = self.key(key as Key);
                transaction.put(&self.keyspace, key, encoded(*value)).map_err(fail)?;
            }
        }
        if self.over_files {
            // A memtable is frozen only if something was written to it: not as the run before had it.
            let beside = self.key(u8::MAX);
            transaction.put(&self.keyspace, beside, "").map_err(fail)?;
        }
        let mut commit = transaction.commit_steps();
        while let Step::Blocked(_) = commit.step() {
            self.steps.round(1);
        }
        Ok(())
    }

    fn key(&self, key: Key) -> [u8; 9] {
        let mut bytes = [0; 9];
        bytes[..8].copy_from_slice(&self.runs.to_be_bytes());
        bytes[8] = key;
        bytes
    }

    /// The next move of a transaction.
    fn advance(&self, run: &mut Run<'_>, who: usize) -> Checked {
        let program = &run.programs[who];
        let (decided, moves) = (run.decided, run.moves);
        let actor = &mut run.actors[who];
        if matches!(actor.stage, Stage::Waiting) {
            let options = TransactionOptions {
                isolation: program.isolation,
                concurrency: program.concurrency,
                age: run.ages.pop(),
                ..TransactionOptions::default()
            };
            let mut transaction = self.db.begin_with(options).map_err(fail)?;
            transaction.wake(Some(&actor.waker));
            actor.age = Some(transaction.age());
            actor.stage = Stage::Running(transaction);
            // In memory a decision is the acknowledgement.
            actor.told_at_begin = decided;
            actor.lived.0 = moves;
        }
        actor.bell.silence();
        actor.savepoints(program, decided)?;
        let place = actor.statements.len();
        match std::mem::replace(&mut actor.stage, Stage::Over) {
            Stage::Running(mut transaction) | Stage::Blocked(mut transaction)
                if place < program.acts.len() =>
            {
                let act = program.acts[place];
                let told = *actor.told.get_or_insert(decided);
                match transaction.step(|tx| self.act(tx, act, who, place)) {
                    Step::Ready(answer) => {
                        let answer = answer?;
                        actor.statements.push(Statement { answer, told, decided });
                        actor.told = None;
                        actor.stage = Stage::Running(transaction);
                    }
                    Step::Blocked(BlockedBy::Lock) => {
                        run.waits += 1;
                        actor.stage = Stage::Blocked(transaction);
                    }
                    Step::Blocked(by) => {
                        return Err(Finding::new(format!("an operation waits for {by:?}")));
                    }
                    Step::Aborted(error) => {
                        drop(transaction);
                        return self.refused(run, who, error);
                    }
                }
                Ok(())
            }
            Stage::Running(transaction) => {
                let mut commit = transaction.commit_steps();
                commit.wake(Some(&actor.waker));
                actor.stage = Stage::Queued(commit);
                self.commit(run, who)
            }
            Stage::Locked(commit) => {
                actor.stage = Stage::Queued(commit);
                self.commit(run, who)
            }
            _ => Err(Finding::new("a transaction that is over moves")),
        }
    }

    /// Asks a commit that was handed in what has become of it.
    fn commit(&self, run: &mut Run<'_>, who: usize) -> Checked {
        let actor = &mut run.actors[who];
        let Stage::Queued(commit) = &mut actor.stage else { return Ok(()) };
        let end = match commit.step() {
            Step::Blocked(BlockedBy::Round) => return Ok(()),
            Step::Blocked(BlockedBy::Lock) => {
                run.waits += 1;
                let stage = std::mem::replace(&mut actor.stage, Stage::Over);
                if let Stage::Queued(commit) = stage {
                    actor.stage = Stage::Locked(commit);
                }
                return Ok(());
            }
            Step::Blocked(by) => {
                return Err(Finding::new(format!("in memory, a commit waits for {by:?}")));
            }
            Step::Ready(info) => info.timestamp,
            Step::Aborted(error) => return self.refused(run, who, error),
        };
        run.decided = (self.db.visible().counter() - run.first.counter()) as usize;
        actor.end = Some(Ok(end));
        actor.stage = Stage::Over;
        actor.decided_at_end = run.decided;
        actor.lived.1 = run.moves;
        Ok(())
    }

    /// A transaction is over; the error has to say the truth.
    fn refused(&self, run: &mut Run<'_>, who: usize, error: Error) -> Checked {
        let others = || (0..run.actors.len()).filter(|other| *other != who);
        let alive = |age: &Age| {
            others()
                .any(|other| run.actors[other].age == Some(*age) && run.actors[other].is_alive())
        };
        let Some(own) = run.actors[who].age else {
            return Err(Finding::new("it has no age"));
        };
        let controls: Vec<Concurrency> =
            run.programs.iter().map(|program| program.concurrency).collect();
        let why = refusals::why(&error, own, who, &controls, &alive)?;
        run.decided = (self.db.visible().counter() - run.first.counter()) as usize;
        let actor = &mut run.actors[who];
        actor.end = Some(Err(why));
        actor.stage = Stage::Over;
        actor.decided_at_end = run.decided;
        actor.lived.1 = run.moves;
        Ok(())
    }

    /// One operation. What it gives is checked for its form here, and for its content by the judge.
    fn act(
        &self,
        transaction: &mut Transaction,
        act: Act,
        who: usize,
        place: usize,
    ) -> isolith::Result<Checked<Answer>> {
        let space = &self.keyspace;
        let value = encoded(value(who, place));
        let one = |key: Key, value: Option<isolith::Slice>| {
            let mut answer = NOTHING;
            answer[usize::from(key)] = value.as_deref().map(decoded);
            Ok(answer)
        };
        let every = self.key(0)..=self.key(KEY_MAX);
        Ok(match act {
            Act::Get(key) => one(key, transaction.get(space, self.key(key))?),
            Act::ForUpdate(key) => one(key, transaction.get_for_update(space, self.key(key))?),
            Act::ForShare(key) => one(key, transaction.get_for_share(space, self.key(key))?),
            Act::Put(key) => {
                transaction.put(space, self.key(key), value)?;
                Ok(NOTHING)
            }
            Act::Delete(key) => {
                transaction.delete(space, self.key(key))?;
                Ok(NOTHING)
            }
            Act::Merge(key) => {
                let bit = encoded(merged_bit(who, place));
                transaction.merge(space, self.key(key), ADD_I64, bit)?;
                Ok(NOTHING)
            }
            Act::Scan(lower, upper) => {
                let range = transaction.range(space, self.key(lower)..=self.key(upper));
                self.pairs(range.collect::<Result<_, _>>()?)
            }
            Act::First => {
                let found = transaction.range(space, every).next().transpose()?;
                self.pairs(found.into_iter().collect())
            }
            Act::Last => {
                let found = transaction.range(space, every).next_back().transpose()?;
                self.pairs(found.into_iter().collect())
            }
            Act::DeleteRange(lower, upper) => {
                transaction.delete_range(space, self.key(lower)..=self.key(upper))?;
                Ok(NOTHING)
            }
            // Done beforehand.
            Act::Savepoint | Act::RollbackTo => Ok(NOTHING),
            Act::LockRange(lower, upper) => {
                let range = self.key(lower)..=self.key(upper);
                transaction.lock_range(space, range, RangeLock::Shared)?;
                Ok(NOTHING)
            }
        })
    }

    fn pairs(&self, pairs: Vec<isolith::Pair>) -> Checked<Answer> {
        let ascending = pairs.windows(2).all(|pair| pair[0].0 < pair[1].0);
        ensure!(ascending, "a scan out of order: {pairs:?}");
        let mut answer = NOTHING;
        for (key, value) in &pairs {
            let own = key.len() == 9 && key[..8] == self.runs.to_be_bytes() && key[8] <= KEY_MAX;
            ensure!(own, "a scan beyond its bounds: {pairs:?}");
            answer[usize::from(key[8])] = Some(decoded(value));
        }
        Ok(answer)
    }
}

/// What a lock table has decided by policy and age so far.
fn fights(locks: &LockStats) -> u64 {
    locks.waits + locks.wounds + locks.deadlocks + locks.refusals
}

/// The mover, for people.
fn name(mover: u8) -> String {
    match mover {
        LEADER => "leader".into(),
        KEEPER => "keeper".into(),
        who => format!("t{who}"),
    }
}

/// The form that the operator which adds takes.
fn encoded(value: u32) -> String {
    value.to_string()
}

fn decoded(bytes: &[u8]) -> u32 {
    // A value of another form is one that nobody wrote.
    str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Movers of a made-up history: two with two moves each.
    #[test]
    fn every_schedule_is_played_once() {
        let mut choices = Choices::default();
        let mut played = Vec::new();
        loop {
            let mut left = [2, 2];
            let mut schedule = Vec::new();
            while left != [0, 0] {
                let movers: Vec<usize> = (0..2).filter(|who| left[*who] > 0).collect();
                let mover = movers[choices.pick(movers.len()).unwrap()];
                left[mover] -= 1;
                schedule.push(mover);
            }
            played.push(schedule);
            if !choices.next() {
                break;
            }
        }
        assert_eq!(played.len(), 6);
        played.sort();
        played.dedup();
        assert_eq!(played.len(), 6);
    }
}
