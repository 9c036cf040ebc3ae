//! The smallest scenario and schedule that still show something: sessions, steps and what was there
//! at first are left out as long as it stays, then the schedule with the fewest changes of session is
//! looked for. The same every time.
//!
//! What no serial order of the sessions shows at first, none shows in what is left: so what is left is
//! still about what happens side by side.

use super::explore::{Limits, explore};
use super::expression::{Expression, Pairs};
use super::play::{Given, Player, Run, Staging};
use super::scenario::{Act, Scenario, Step};
use super::target::{Failure, Target};

/// Runs that are looked at for each attempt.
const RUNS_MAX: u64 = 2_000;

/// A scenario and a run of it that show what is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The scenario; its schedule is the run's.
    pub scenario: Scenario,
    /// How it is staged.
    pub staging: Staging,
    /// What happened.
    pub run: Run,
    /// How it ended.
    pub played: Result<(), Failure>,
    /// Attempts that were made.
    pub attempts: u64,
}

/// Whether a run of a scenario shows what is looked for.
pub type Shows<'a> = dyn Fn(&Scenario, &Staging, &Run, &Result<(), Failure>) -> bool + 'a;

/// Shrinks what the first schedule of `scenario` shows. None if it does not show it.
pub fn shrink(
    scenario: &Scenario,
    staging: &Staging,
    target: &mut dyn Target,
    shows: &Shows<'_>,
) -> Result<Option<Shrunk>, Failure> {
    let mut shrinking = Shrinking { target, shows, attempts: 0, concurrent: false };
    shrinking.concurrent = !shrinking.shown_serially(scenario, staging)?;
    let Some(mut best) = shrinking.attempt(scenario, staging)? else { return Ok(None) };
    while let Some(smaller) = shrinking.smaller(&best)? {
        best = smaller;
    }
    best = shrinking.calmer(best)?;
    best.attempts = shrinking.attempts;
    Ok(Some(best))
}

struct Shrinking<'a> {
    target: &'a mut dyn Target,
    shows: &'a Shows<'a>,
    attempts: u64,
    /// Whether it takes sessions side by side to show it.
    concurrent: bool,
}

impl Shrinking<'_> {
    /// Whether one session after the other shows it, too, in some order.
    fn shown_serially(&mut self, scenario: &Scenario, staging: &Staging) -> Result<bool, Failure> {
        let steps = |who: usize| scenario.sessions[who].steps.len() + 1;
        for order in orders(scenario.sessions.len()) {
            let moves: Vec<usize> = order.iter().flat_map(|who| vec![*who; steps(*who)]).collect();
            let mut given = Given::new(&moves);
            let (run, played) = Player::new(scenario, staging, self.target).play(&mut given);
            let played = ours(played)?;
            if (self.shows)(scenario, staging, &run, &played) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A run that shows it: by the scenario's schedule, or else by any.
    fn attempt(
        &mut self,
        scenario: &Scenario,
        staging: &Staging,
    ) -> Result<Option<Shrunk>, Failure> {
        self.attempts += 1;
        let mut given = Given::new(&scenario.schedule);
        let (run, played) = Player::new(scenario, staging, self.target).play(&mut given);
        let played = ours(played)?;
        if (self.shows)(scenario, staging, &run, &played) {
            return Ok(Some(shrunk(scenario, staging, run, played)));
        }
        let limits = Limits { runs_max: RUNS_MAX, ..Limits::default() };
        let mut found = None;
        explore(scenario, staging, self.target, &limits, &mut |run, played| {
            let shown = (self.shows)(scenario, staging, run, &played);
            if shown {
                found = Some(shrunk(scenario, staging, run.clone(), played));
            }
            Ok(!shown)
        })?;
        Ok(found)
    }

    /// The first smaller scenario that still shows it.
    fn smaller(&mut self, best: &Shrunk) -> Result<Option<Shrunk>, Failure> {
        for (scenario, staging) in candidates(&best.scenario, &best.staging) {
            if !scenario.is_sound() {
                continue;
            }
            if self.concurrent && self.shown_serially(&scenario, &staging)? {
                continue;
            }
            if let Some(found) = self.attempt(&scenario, &staging)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The run with the fewest changes of session.
    fn calmer(&mut self, mut best: Shrunk) -> Result<Shrunk, Failure> {
        let (scenario, staging) = (best.scenario.clone(), best.staging.clone());
        let limits = Limits { runs_max: RUNS_MAX, ..Limits::default() };
        let unrest = |run: &Run| {
            let changes = run.moves.windows(2).filter(|pair| pair[0] != pair[1]).count();
            (changes, run.events.len())
        };
        explore(&scenario, &staging, self.target, &limits, &mut |run, played| {
            self.attempts += 1;
            let calmer = unrest(run) < unrest(&best.run);
            if calmer && (self.shows)(&scenario, &staging, run, &played) {
                best = shrunk(&scenario, &staging, run.clone(), played);
            }
            Ok(true)
        })?;
        Ok(best)
    }
}

/// Orders of so many sessions: all of them for a few, else each rotation.
fn orders(sessions: usize) -> Vec<Vec<usize>> {
    if sessions > 4 {
        let turned = |by: usize| (0..sessions).map(|who| (who + by) % sessions).collect();
        return (0..sessions).map(turned).collect();
    }
    let mut all = vec![Vec::new()];
    for who in 0..sessions {
        let placed = |order: &Vec<usize>| {
            let insert = |at: usize| [&order[..at], &[who], &order[at..]].concat();
            (0..=order.len()).map(insert).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(placed).collect();
    }
    all
}

fn ours(played: Result<(), Failure>) -> Result<Result<(), Failure>, Failure> {
    match played {
        Err(Failure::Target(why)) => Err(Failure::Target(why)),
        played => Ok(played),
    }
}

fn shrunk(scenario: &Scenario, staging: &Staging, run: Run, played: Result<(), Failure>) -> Shrunk {
    let mut scenario = scenario.clone();
    scenario.schedule.clone_from(&run.moves);
    Shrunk { scenario, staging: staging.clone(), run, played, attempts: 0 }
}

/// Scenarios with one thing less: a session, a step, a key that was there.
fn candidates(scenario: &Scenario, staging: &Staging) -> Vec<(Scenario, Staging)> {
    let mut found = Vec::new();
    for who in (0..scenario.sessions.len()).filter(|_| scenario.sessions.len() > 1) {
        found.extend(without_session(scenario, staging, who));
    }
    for (who, session) in scenario.sessions.iter().enumerate() {
        for (place, step) in session.steps.iter().enumerate() {
            let mut smaller = scenario.clone();
            if step.act.ends() {
                continue;
            }
            smaller.sessions[who].steps.remove(place);
            let nth = scenario.schedule.iter().enumerate().filter(|(_, moved)| **moved == who);
            if let Some((at, _)) = nth.map(|(at, moved)| (at, *moved)).nth(place) {
                smaller.schedule.remove(at);
            }
            found.push((smaller, staging.clone()));
            if step.condition.is_some() {
                let mut simpler = scenario.clone();
                simpler.sessions[who].steps[place].condition = None;
                found.push((simpler, staging.clone()));
            }
            if let Act::Get { hold, .. } = &step.act
                && *hold != super::target::Hold::No
            {
                let mut simpler = scenario.clone();
                if let Act::Get { hold, .. } = &mut simpler.sessions[who].steps[place].act {
                    *hold = super::target::Hold::No;
                }
                found.push((simpler, staging.clone()));
            }
        }
    }
    for key in scenario.setup.keys() {
        let mut smaller = scenario.clone();
        smaller.setup.remove(key);
        smaller.expiring.remove(key);
        found.push((smaller, staging.clone()));
    }
    found
}

/// The scenario without a session, if nothing that is asked in the end speaks of it.
fn without_session(
    scenario: &Scenario,
    staging: &Staging,
    gone: usize,
) -> Option<(Scenario, Staging)> {
    let (mut scenario, mut staging) = (scenario.clone(), staging.clone());
    let asked = scenario.anomaly.iter().chain(&scenario.invariants);
    if asked.into_iter().any(|expression| speaks_of(expression, gone)) {
        return None;
    }
    scenario.sessions.remove(gone);
    staging.terms.remove(gone);
    let lower = |who: &mut usize| *who -= usize::from(*who > gone);
    scenario.schedule.retain(|who| *who != gone);
    scenario.schedule.iter_mut().for_each(lower);
    for session in &mut scenario.sessions {
        for Step { act, condition } in &mut session.steps {
            if let Act::Put { value, .. } | Act::Merge { delta: value, .. } = act {
                renumber(value, &lower);
            }
            condition.iter_mut().for_each(|one| renumber(one, &lower));
        }
    }
    scenario.anomaly.iter_mut().for_each(|one| renumber(one, &lower));
    scenario.invariants.iter_mut().for_each(|one| renumber(one, &lower));
    Some((scenario, staging))
}

fn speaks_of(expression: &Expression, session: usize) -> bool {
    let mut found = false;
    expression.walk(&mut |inner| {
        found |= match inner {
            Expression::Read(who, _)
            | Expression::Ended(who, _)
            | Expression::Aggregate(_, Pairs::Read(who, _)) => *who == session,
            Expression::Before(first, second) | Expression::Precedes(first, second) => {
                [*first, *second].contains(&session)
            }
            _ => false,
        };
    });
    found
}

fn renumber(expression: &mut Expression, lower: &dyn Fn(&mut usize)) {
    match expression {
        Expression::Read(who, _)
        | Expression::Ended(who, _)
        | Expression::Aggregate(_, Pairs::Read(who, _)) => lower(who),
        Expression::Before(first, second) | Expression::Precedes(first, second) => {
            lower(first);
            lower(second);
        }
        Expression::Minus(inner) | Expression::Not(inner) => renumber(inner, lower),
        Expression::Two(_, left, right) => {
            renumber(left, lower);
            renumber(right, lower);
        }
        Expression::Number(_)
        | Expression::Absent
        | Expression::End(_)
        | Expression::Aggregate(_, Pairs::End(_)) => {}
    }
}
