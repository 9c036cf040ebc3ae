//! One scenario through all its interleavings, counted: what `explore` and `explain` tell.

use std::collections::{BTreeMap, BTreeSet};

use super::explore::{Explored, Limits, explore};
use super::faults::{Fault, fault};
use super::judge::{Judge, Judgement};
use super::matrix::{Declared, Protection, declared};
use super::play::{Given, Player, Run, Staging};
use super::scenario::Scenario;
use super::target::{Failure, Target};

/// Outcomes that are told apart; beyond them they are only counted as more.
const OUTCOMES_MAX: usize = 100_000;

/// A run, and what there is to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What happened.
    pub run: Run,
    /// Who depends on whom.
    pub judged: Judgement,
    /// What is wrong with it, if anything.
    pub fault: Option<Fault>,
}

/// What was found in all runs of a scenario.
#[derive(Clone, Debug)]
pub struct Examined {
    /// What the level says to the scenario's anomaly.
    pub declared: Declared,
    /// What was looked at.
    pub explored: Explored,
    /// How many outcomes there are.
    pub outcomes: usize,
    /// Runs in which the scenario's anomaly happened.
    pub observed: u64,
    /// Transactions that were aborted, and how many of them needlessly.
    pub aborted: (u64, u64),
    /// Runs with each phenomenon that the judge saw.
    pub met: BTreeMap<String, u64>,
    /// Runs with each fault.
    pub faults: BTreeMap<String, u64>,
    /// The first run that has a fault.
    pub first: Option<Seen>,
    /// The first run in which the anomaly happened.
    pub shown: Option<Seen>,
}

/// Plays a scenario once, and looks at it.
pub fn look(
    scenario: &Scenario,
    staging: &Staging,
    declared: Declared,
    target: &mut dyn Target,
    schedule: &[usize],
) -> Result<Seen, Failure> {
    let mut given = Given::new(schedule);
    let (run, played) = Player::new(scenario, staging, target).play(&mut given);
    if let Err(Failure::Target(why)) = played {
        return Err(Failure::Target(why));
    }
    let judge = Judge::of(scenario);
    let (judged, fault) = fault(scenario, staging, declared, &judge, &run, &played);
    Ok(Seen { run, judged, fault })
}

/// Plays a scenario through all its interleavings.
pub fn examine(
    scenario: &Scenario,
    staging: &Staging,
    protection: &Protection,
    target: &mut dyn Target,
    limits: &Limits,
) -> Result<Examined, Failure> {
    let judge = Judge::of(scenario);
    let mut examined = Examined {
        declared: declared(scenario, protection),
        explored: Explored::default(),
        outcomes: 0,
        observed: 0,
        aborted: (0, 0),
        met: BTreeMap::new(),
        faults: BTreeMap::new(),
        first: None,
        shown: None,
    };
    let mut outcomes = BTreeSet::new();
    examined.explored = explore(scenario, staging, target, limits, &mut |run, played| {
        let (judged, fault) = fault(scenario, staging, examined.declared, &judge, run, &played);
        let seen = || Seen { run: run.clone(), judged: judged.clone(), fault: fault.clone() };
        if outcomes.len() < OUTCOMES_MAX {
            outcomes.insert(run.outcome());
        }
        for found in &judged.found {
            *examined.met.entry(found.full_name()).or_default() += 1;
        }
        for session in (0..run.sessions.len()).filter(|session| run.abort(*session).is_some()) {
            examined.aborted.0 += 1;
            examined.aborted.1 += u64::from(judge.was_needless(run, staging, session));
        }
        let happened = scenario.anomaly.as_ref().is_some_and(|anomaly| anomaly.holds(run));
        examined.observed += u64::from(happened);
        if happened && examined.shown.is_none() {
            examined.shown = Some(seen());
        }
        if let Some(fault) = &fault {
            *examined.faults.entry(fault.label()).or_default() += 1;
            if examined.first.is_none() {
                examined.first = Some(seen());
            }
        }
        Ok(true)
    })?;
    examined.outcomes = outcomes.len();
    Ok(examined)
}
