//! Drives small transactions through every interleaving, from one thread, and lets the judge look at
//! each history.
//!
//! A schedule is a sequence of moves. Each transaction begins with its first operation, does one
//! operation a move, and hands its commit in with its last move; the leader decides the oldest
//! commit that is queued with a move of its own. So what happens between an operation, the
//! pre-validation and the decision is enumerated, too.
//!
//! Runs share a database: each has keys of its own, by a prefix.

use isolith::{
    BlockedBy, Builder, CommitMode, CommitSteps, Database, Error, Isolation, Keyspace, Step,
    Timestamp, Transaction, TransactionOptions, steps::Steps,
};

use crate::ensure;
use crate::finding::{Checked, Finding};
use crate::oracle::{self, End, Trace, Verdicts};
use crate::programs::{Act, Answer, KEY_MAX, Key, Program, State, initial_value, value};

/// Runs on one database before a new one is taken: its range deletes pile up.
const RUNS_MAX: u64 = 1_000;
/// The leader's number in a schedule.
const LEADER: u8 = u8::MAX;

/// What an exploration has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Sets of programs on an initial state.
    pub cases: u64,
    /// Histories: one for each case and schedule.
    pub histories: u64,
    /// Moves made in them.
    pub moves: u64,
    /// What became of the transactions.
    pub verdicts: Verdicts,
}

/// Who moves, in order.
pub type Schedule = Vec<u8>;

/// Every schedule of transactions with so many operations each.
pub fn schedules(lengths: &[usize]) -> Vec<Schedule> {
    fn go(left: &mut [usize], queued: usize, sofar: &mut Schedule, all: &mut Vec<Schedule>) {
        if queued == 0 && left.iter().all(|moves| *moves == 0) {
            all.push(sofar.clone());
            return;
        }
        for who in 0..left.len() {
            if left[who] == 0 {
                continue;
            }
            left[who] -= 1;
            sofar.push(who as u8);
            go(left, queued + usize::from(left[who] == 0), sofar, all);
            sofar.pop();
            left[who] += 1;
        }
        if queued > 0 {
            sofar.push(LEADER);
            go(left, queued - 1, sofar, all);
            sofar.pop();
        }
    }
    let mut all = Vec::new();
    let mut left: Vec<usize> = lengths.iter().map(|operations| operations + 1).collect();
    go(&mut left, 0, &mut Schedule::new(), &mut all);
    all
}

/// A database whose rounds are stepped, and the runs made on it.
pub struct Explorer {
    db: Database,
    steps: Steps,
    keyspace: Keyspace,
    runs: u64,
    /// What was explored so far.
    pub explored: Explored,
}

enum Stage {
    Waiting,
    Running(Transaction),
    Queued(CommitSteps),
    Over,
}

struct Actor {
    stage: Stage,
    answers: Vec<Answer>,
    told_at_begin: usize,
    decided_at_end: usize,
    end: Option<Result<Option<Timestamp>, ()>>,
}

fn fail(error: Error) -> Finding {
    Finding::new(format!("an unexpected error: {error:?}"))
}

fn database() -> Checked<(Database, Steps, Keyspace)> {
    let builder = Builder::in_memory().commit_mode(CommitMode::Stepped);
    let db = builder.open().map_err(|error| Finding::new(error.to_string()))?;
    let steps = Steps::new(&db);
    let keyspace = steps.keyspace("space").map_err(fail)?;
    Ok((db, steps, keyspace))
}

impl Explorer {
    /// An explorer on a new database.
    pub fn new() -> Checked<Explorer> {
        let (db, steps, keyspace) = database()?;
        Ok(Explorer { db, steps, keyspace, runs: 0, explored: Explored::default() })
    }

    /// Runs the programs through each schedule, from a state in which `present` keys hold their
    /// initial values.
    pub fn explore(
        &mut self,
        present: &[Key],
        programs: &[Program],
        schedules: &[Schedule],
    ) -> Checked {
        self.explored.cases += 1;
        let initial: State = present.iter().map(|key| (*key, initial_value(*key))).collect();
        for schedule in schedules {
            let traces = self.run(&initial, programs, schedule)?;
            let verdicts = oracle::judge(&initial, &traces).map_err(|finding| {
                finding.after(format!("from {initial:?} by the schedule {schedule:?}"))
            })?;
            self.explored.histories += 1;
            self.explored.moves += schedule.len() as u64;
            self.explored.verdicts.add(verdicts);
        }
        Ok(())
    }

    /// One history.
    pub fn run(
        &mut self,
        initial: &State,
        programs: &[Program],
        schedule: &[u8],
    ) -> Checked<Vec<Trace>> {
        self.runs += 1;
        if self.runs.is_multiple_of(RUNS_MAX) {
            (self.db, self.steps, self.keyspace) = database()?;
        }
        self.prepare(initial)?;
        let first = self.db.visible();
        let mut decided = 0;
        let mut told = 0;
        let new = || Actor {
            stage: Stage::Waiting,
            answers: Vec::new(),
            told_at_begin: 0,
            decided_at_end: 0,
            end: None,
        };
        let mut actors: Vec<Actor> = programs.iter().map(|_| new()).collect();
        for mover in schedule {
            if *mover == LEADER {
                // A commit that was refused before it was queued left its decision to nobody.
                let before = self.db.visible();
                self.steps.round(1);
                decided += usize::from(self.db.visible() > before);
            } else {
                let who = usize::from(*mover);
                let program = &programs[who];
                self.advance(&mut actors[who], who, program, told)?;
            }
            for actor in &mut actors {
                if let Stage::Queued(commit) = &mut actor.stage {
                    let end = match commit.step() {
                        Step::Blocked(BlockedBy::Round) => continue,
                        Step::Blocked(by) => {
                            return Err(Finding::new(format!(
                                "in memory, a commit waits for {by:?}"
                            )));
                        }
                        Step::Ready(info) => Ok(info.timestamp),
                        Step::Aborted(Error::Conflict { .. }) => Err(()),
                        Step::Aborted(error) => return Err(fail(error)),
                    };
                    actor.end = Some(end);
                    actor.decided_at_end = decided;
                    actor.stage = Stage::Over;
                }
            }
            // In memory a decision is the acknowledgement.
            told = decided;
        }
        let mut traces = Vec::with_capacity(actors.len());
        for (actor, program) in actors.into_iter().zip(programs) {
            let end = match actor.end {
                Some(Ok(Some(at))) => {
                    ensure!(at > first, "a commit at {at}, not after {first}");
                    End::Committed((at.counter() - first.counter()) as usize)
                }
                Some(Ok(None)) => End::Unchanged,
                Some(Err(())) => End::Refused,
                None => return Err(Finding::new("a commit was never decided")),
            };
            traces.push(Trace {
                program: program.clone(),
                answers: actor.answers,
                told_at_begin: actor.told_at_begin,
                decided_at_end: actor.decided_at_end,
                end,
            });
        }
        Ok(traces)
    }

    /// Writes the initial values in one commit.
    fn prepare(&mut self, initial: &State) -> Checked {
        let mut transaction = self.db.begin().map_err(fail)?;
        for (key, value) in initial {
            transaction.put(&self.keyspace, self.key(*key), [*value]).map_err(fail)?;
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
    fn advance(&self, actor: &mut Actor, who: usize, program: &Program, told: usize) -> Checked {
        if matches!(actor.stage, Stage::Waiting) {
            let isolation = program.isolation;
            let options = TransactionOptions { isolation, ..TransactionOptions::default() };
            let transaction = self.db.begin_with(options).map_err(fail)?;
            actor.stage = Stage::Running(transaction);
            actor.told_at_begin = told;
        }
        let place = actor.answers.len();
        match std::mem::replace(&mut actor.stage, Stage::Over) {
            Stage::Running(mut transaction) if place < program.acts.len() => {
                let answer = self.act(&mut transaction, program.acts[place], value(who, place));
                actor.answers.push(answer.map_err(fail)?);
                actor.stage = Stage::Running(transaction);
            }
            Stage::Running(transaction) => {
                actor.stage = Stage::Queued(transaction.commit_steps());
            }
            _ => return Err(Finding::new("a schedule moves a transaction that is over")),
        }
        Ok(())
    }

    fn act(&self, transaction: &mut Transaction, act: Act, value: u8) -> isolith::Result<Answer> {
        let space = &self.keyspace;
        let pair = |(key, value): isolith::Pair| (key[8], value[0]);
        let one = |key: Key, value: Option<isolith::Slice>| {
            value.map(|value| (key, value[0])).into_iter().collect()
        };
        let every = self.key(0)..=self.key(KEY_MAX);
        Ok(match act {
            Act::Get(key) => one(key, transaction.get(space, self.key(key))?),
            Act::ForUpdate(key) => one(key, transaction.get_for_update(space, self.key(key))?),
            Act::Put(key) => {
                transaction.put(space, self.key(key), [value])?;
                Answer::new()
            }
            Act::Delete(key) => {
                transaction.delete(space, self.key(key))?;
                Answer::new()
            }
            Act::Scan(lower, upper) => {
                let range = transaction.range(space, self.key(lower)..=self.key(upper));
                range.map(|found| found.map(pair)).collect::<Result<_, _>>()?
            }
            Act::First => {
                let found = transaction.range(space, every).next().transpose()?;
                found.map(pair).into_iter().collect()
            }
            Act::Last => {
                let found = transaction.range(space, every).next_back().transpose()?;
                found.map(pair).into_iter().collect()
            }
            Act::DeleteRange(lower, upper) => {
                transaction.delete_range(space, self.key(lower)..=self.key(upper))?;
                Answer::new()
            }
        })
    }
}

/// Every way to give each of `count` transactions a level.
pub fn level_mixes(count: usize) -> Vec<Vec<Isolation>> {
    let levels = [Isolation::Serializable, Isolation::Snapshot];
    (0..1usize << count).map(|mix| (0..count).map(|who| levels[mix >> who & 1]).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_keep_the_order_of_each_transaction_and_end_decided() {
        let all = schedules(&[1, 1]);
        // Two moves each; the leader twice, never before a commit is queued.
        assert_eq!(all.len(), 14);
        for schedule in &all {
            assert_eq!(schedule.len(), 6);
            assert_eq!(schedule.last(), Some(&LEADER));
        }
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
