//! Every scenario at every level under every control, through all its interleavings: what is
//! declared, what was observed, and how the rest was prevented.
//!
//! A run is *in danger* if a store that keeps nobody from anything ([`super::weak`]) shows the anomaly
//! in the same schedule. Where it was in danger and the anomaly did not happen it was prevented: by an
//! abort (a conflict was found, or a keyspace was gone), by a victim (a deadlock policy chose one), by
//! a block (somebody waited and nobody was aborted), or by the snapshot (what was read was older or
//! newer).
//!
//! An abort is *needless* if the judge would have let the transaction commit where it was aborted, as
//! far as it had come ([`Judge::was_needless`]).

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use isolith::{Concurrency, Isolation};

use crate::dice::Dice;

use super::explore::{Limits, explore};
use super::faults::{Fault, fault};
use super::judge::Judge;
use super::play::{Given, Player, Run, Staging};
use super::scenario::{Scenario, Session};
use super::target::{AbortKind, Failure, Feature, Target, Terms};
use super::weak::{Sees, Weak};

/// Which levels or controls the sessions get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Choice<T> {
    /// All the same.
    One(T),
    /// Every combination.
    Mixed,
}

/// A column of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protection {
    /// The level.
    pub isolation: Choice<Isolation>,
    /// The control.
    pub concurrency: Choice<Concurrency>,
    /// Whether every key has been fought for before: what `auto` looks at.
    pub hot: bool,
}

impl Protection {
    /// The control, as it is spelled, with the heat of the keys.
    pub fn control(&self) -> String {
        let hot = if self.hot { " (hot)" } else { "" };
        match self.concurrency {
            Choice::One(control) => format!("{control}{hot}"),
            Choice::Mixed => "mixed".into(),
        }
    }

    /// The level, as it is spelled.
    pub fn level(&self) -> String {
        match self.isolation {
            Choice::One(level) => level.to_string(),
            Choice::Mixed => "mixed".into(),
        }
    }

    /// The ways in which the sessions of a scenario can be protected so: all of them, or `count_max`
    /// chosen by `seed` where there are more. A session's own terms go before.
    pub fn stagings(&self, scenario: &Scenario, fine: bool, count_max: u64, seed: u64) -> Stagings {
        let choices: Vec<Vec<Terms>> =
            scenario.sessions.iter().map(|session| self.choices(session)).collect();
        let count = choices.iter().fold(1u128, |count, of| count.saturating_mul(of.len() as u128));
        let complete = count <= u128::from(count_max);
        let numbers: Vec<u128> = if complete {
            (0..count).collect()
        } else {
            let mut dice = Dice::new(seed);
            let mut any = || u128::from(dice.roll()) << 64 | u128::from(dice.roll());
            (0..count_max).map(|_| any() % count).collect()
        };
        let staging = |mut number: u128| {
            let of = |choices: &Vec<Terms>| {
                let digit = (number % choices.len() as u128) as usize;
                number /= choices.len() as u128;
                choices[digit]
            };
            Staging { terms: choices.iter().map(of).collect(), hot: self.hot, fine }
        };
        Stagings { stagings: numbers.into_iter().map(staging).collect(), complete }
    }

    /// The terms that a session may have.
    fn choices(&self, session: &Session) -> Vec<Terms> {
        let levels = match (session.isolation, self.isolation) {
            (Some(level), _) | (None, Choice::One(level)) => vec![level],
            (None, Choice::Mixed) => Isolation::ALL.to_vec(),
        };
        let controls = match (session.concurrency, self.concurrency) {
            (Some(control), _) | (None, Choice::One(control)) => vec![control],
            (None, Choice::Mixed) => Concurrency::ALL.to_vec(),
        };
        let with = |isolation: Isolation| {
            controls.iter().map(move |concurrency| Terms { isolation, concurrency: *concurrency })
        };
        levels.into_iter().flat_map(with).collect()
    }
}

/// Ways in which the sessions of a scenario are protected.
#[derive(Clone, Debug)]
pub struct Stagings {
    /// Each of them.
    pub stagings: Vec<Staging>,
    /// Whether these are all that there are.
    pub complete: bool,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.level(), self.control())
    }
}

/// The columns for these levels and controls: `auto` is looked at with cold and with hot keys.
pub fn protections(
    levels: &[Choice<Isolation>],
    controls: &[Choice<Concurrency>],
) -> Vec<Protection> {
    let mut columns = Vec::new();
    for isolation in levels {
        for concurrency in controls {
            let auto = *concurrency == Choice::One(Concurrency::Auto);
            for hot in if auto { &[false, true][..] } else { &[false] } {
                let (isolation, concurrency) = (*isolation, *concurrency);
                columns.push(Protection { isolation, concurrency, hot: *hot });
            }
        }
    }
    columns
}

/// What a level says to a scenario's anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// It never happens.
    Forbidden,
    /// It may.
    Allowed,
    /// That depends on who meets it: levels are mixed, or the scenario does not say.
    Depends,
}

impl fmt::Display for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Declared::Forbidden => "forbidden",
            Declared::Allowed => "allowed",
            Declared::Depends => "depends",
        })
    }
}

/// How often the anomaly was prevented, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prevented {
    /// A conflict was found, or a keyspace was gone.
    pub abort: u64,
    /// A deadlock policy chose somebody.
    pub victim: u64,
    /// Somebody waited, and nobody was aborted.
    pub block: u64,
    /// Something else was read.
    pub snapshot: u64,
}

/// A promise that was broken, and the run that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which scenario.
    pub scenario: Scenario,
    /// What is wrong.
    pub fault: Fault,
    /// What its level says to its anomaly.
    pub declared: Declared,
    /// The terms, and the rest of the stage.
    pub staging: Staging,
    /// What happened.
    pub run: Run,
}

/// A scenario at one level under one control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// The scenario's name.
    pub scenario: String,
    /// The level and the control.
    pub protection: Protection,
    /// Whether the target can play it at all.
    pub applicable: bool,
    /// What the level says.
    pub declared: Declared,
    /// Runs.
    pub runs: u64,
    /// Whether these are all interleavings; otherwise schedules were chosen at random.
    pub complete: bool,
    /// Runs in which the anomaly happened.
    pub observed: u64,
    /// Runs that were in danger of it.
    pub danger: u64,
    /// How it was prevented in the others of those.
    pub prevented: Prevented,
    /// Transactions that the target aborted.
    pub aborted: u64,
    /// Of those, needlessly.
    pub needless: u64,
    /// Of those that were aborted: by their reason.
    pub aborts: BTreeMap<AbortKind, u64>,
    /// Runs with each phenomenon that the judge saw.
    pub met: BTreeMap<String, u64>,
    /// Runs that broke a promise.
    pub broken: u64,
    /// The first of them.
    pub first: Option<Box<Broken>>,
}

/// What the matrix is about.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its rows.
    pub scenarios: Vec<Scenario>,
    /// Its columns.
    pub protections: Vec<Protection>,
    /// How much of each cell.
    pub limits: Limits,
    /// Whether commits are decided apart from being handed in.
    pub fine: bool,
    /// Threads that play.
    pub threads: usize,
}

/// Makes a target for a thread.
pub type Factory<'a> = dyn Fn() -> Result<Box<dyn Target>, Failure> + Sync + 'a;

/// Plays all cells, in the order of the plan: the protections of the first scenario first.
/// `progress` is told how many are done, and of how many.
pub fn play(
    plan: &Plan,
    factory: &Factory<'_>,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<Vec<Cell>, Failure> {
    let count = plan.scenarios.len() * plan.protections.len();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let cells: Mutex<Vec<Option<Cell>>> = Mutex::new(vec![None; count]);
    let failed: Mutex<Option<Failure>> = Mutex::new(None);
    let lock =
        |failure| *failed.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(failure);
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                let mut target = match factory() {
                    Ok(target) => target,
                    Err(failure) => return lock(failure),
                };
                let mut dangers = Dangers::default();
                loop {
                    // Relaxed: a counter of what is taken, and nothing else.
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let over = failed.lock().is_ok_and(|failed| failed.is_some());
                    if at >= count || over {
                        return;
                    }
                    let scenario = &plan.scenarios[at / plan.protections.len()];
                    let protection = plan.protections[at % plan.protections.len()];
                    match cell(plan, scenario, protection, &mut *target, &mut dangers) {
                        Ok(cell) => {
                            if let Ok(mut cells) = cells.lock() {
                                cells[at] = Some(cell);
                            }
                            progress(done.fetch_add(1, Ordering::Relaxed) + 1, count);
                        }
                        Err(failure) => return lock(failure),
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|poison| poison.into_inner()) {
        Some(failure) => Err(failure),
        None => {
            let cells = cells.into_inner().unwrap_or_else(|poison| poison.into_inner());
            Ok(cells.into_iter().flatten().collect())
        }
    }
}

/// What a level says to a scenario.
pub fn declared(scenario: &Scenario, protection: &Protection) -> Declared {
    let own = scenario.sessions.iter().any(|session| session.isolation.is_some());
    match (&scenario.forbidden, protection.isolation) {
        (Some(forbidden), _) if forbidden.len() == Isolation::ALL.len() => Declared::Forbidden,
        (Some(forbidden), Choice::One(level)) if !own => match forbidden.contains(&level) {
            true => Declared::Forbidden,
            false => Declared::Allowed,
        },
        _ => Declared::Depends,
    }
}

fn cell(
    plan: &Plan,
    scenario: &Scenario,
    protection: Protection,
    target: &mut dyn Target,
    dangers: &mut Dangers,
) -> Result<Cell, Failure> {
    let Limits { runs_max, seed, .. } = plan.limits;
    let Stagings { stagings, complete } = protection.stagings(scenario, plan.fine, runs_max, seed);
    let fits = |staging: &Staging| {
        scenario.fits(target, &staging.terms)
            && (!staging.hot || target.offers(Feature::Heat))
            && (!staging.fine || target.offers(Feature::FineSteps))
    };
    let mut cell = Cell {
        scenario: scenario.name.clone(),
        protection,
        applicable: stagings.iter().any(fits),
        declared: declared(scenario, &protection),
        runs: 0,
        complete,
        observed: 0,
        danger: 0,
        prevented: Prevented::default(),
        aborted: 0,
        needless: 0,
        aborts: BTreeMap::new(),
        met: BTreeMap::new(),
        broken: 0,
        first: None,
    };
    let judge = Judge::of(scenario);
    let stagings: Vec<_> = stagings.iter().filter(|staging| fits(staging)).collect();
    // The limit is the cell's: many combinations share it.
    let runs_max = (runs_max / (stagings.len() as u64).max(1)).max(1);
    for (number, staging) in (0..).zip(stagings) {
        let limits = Limits { runs_max, seed: seed.wrapping_add(number << 32), ..plan.limits };
        let mut counting = Counting { scenario, staging, judge: &judge, dangers, cell: &mut cell };
        let explored = explore(scenario, staging, target, &limits, &mut |run, played| {
            counting.count(run, played);
            Ok(true)
        })?;
        cell.complete &= explored.complete;
    }
    Ok(cell)
}

/// Which schedules of a scenario are in danger, as far as that was asked before.
#[derive(Default)]
struct Dangers {
    scenario: String,
    known: HashMap<Vec<u8>, bool>,
}

impl Dangers {
    fn of(&mut self, scenario: &Scenario, staging: &Staging, run: &Run) -> bool {
        if self.scenario != scenario.name {
            self.known.clear();
            self.scenario.clone_from(&scenario.name);
        }
        let moves: Vec<u8> = whole_steps(staging, run).iter().map(|who| *who as u8).collect();
        *self.known.entry(moves).or_insert_with_key(|moves| {
            let moves: Vec<usize> = moves.iter().map(|who| usize::from(*who)).collect();
            is_in_danger(scenario, staging, &moves)
        })
    }
}

/// The moves without those that only fine steps have.
fn whole_steps(staging: &Staging, run: &Run) -> Vec<usize> {
    if !staging.fine {
        return run.moves.clone();
    }
    let asked = run.events.iter().scan(vec![None; run.sessions.len()], |last, event| {
        let again = last[event.session] == event.step;
        last[event.session] = event.step;
        Some((event.session, event.step.is_some() && !again))
    });
    asked.filter(|(_, first)| *first).map(|(who, _)| who).collect()
}

/// Whether a store that keeps nobody from anything shows the anomaly in this schedule.
pub fn is_in_danger(scenario: &Scenario, staging: &Staging, moves: &[usize]) -> bool {
    let Some(anomaly) = &scenario.anomaly else { return false };
    let staging = Staging::new(staging.terms.clone());
    Sees::ALL.iter().any(|sees| {
        let mut store = Weak::new(*sees);
        let (run, played) =
            Player::new(scenario, &staging, &mut store).play(&mut Given::new(moves));
        played.is_ok() && anomaly.holds(&run)
    })
}

struct Counting<'a> {
    scenario: &'a Scenario,
    staging: &'a Staging,
    judge: &'a Judge,
    dangers: &'a mut Dangers,
    cell: &'a mut Cell,
}

impl Counting<'_> {
    fn count(&mut self, run: &Run, played: Result<(), Failure>) {
        self.cell.runs += 1;
        let declared = self.cell.declared;
        let (judged, fault) =
            fault(self.scenario, self.staging, declared, self.judge, run, &played);
        if let Some(fault) = fault {
            self.cell.broken += 1;
            self.cell.first.get_or_insert_with(|| {
                let (scenario, staging, run) =
                    (self.scenario.clone(), self.staging.clone(), run.clone());
                Box::new(Broken { scenario, fault, declared, staging, run })
            });
        }
        if played.is_err() {
            return;
        }
        for found in judged.found {
            *self.cell.met.entry(found.full_name()).or_default() += 1;
        }
        for session in 0..run.sessions.len() {
            let Some(abort) = run.abort(session) else { continue };
            self.cell.aborted += 1;
            *self.cell.aborts.entry(abort.kind).or_default() += 1;
            let needless = self.judge.was_needless(run, self.staging, session);
            self.cell.needless += u64::from(needless);
        }
        let Some(anomaly) = &self.scenario.anomaly else { return };
        let observed = anomaly.holds(run);
        self.cell.observed += u64::from(observed);
        let danger = observed || self.dangers.of(self.scenario, self.staging, run);
        self.cell.danger += u64::from(danger);
        if danger && !observed {
            self.prevented(run);
        }
    }

    fn prevented(&mut self, run: &Run) {
        let kinds = || (0..run.sessions.len()).filter_map(|who| run.abort(who)).map(|one| one.kind);
        let prevented = &mut self.cell.prevented;
        let found = |kind| matches!(kind, AbortKind::Conflict | AbortKind::Dropped);
        let by = if kinds().any(found) {
            &mut prevented.abort
        } else if kinds().next().is_some() {
            &mut prevented.victim
        } else if run.waited() {
            &mut prevented.block
        } else {
            &mut prevented.snapshot
        };
        *by += 1;
    }
}
