//! All interleavings of a scenario, depth first, each played from its start.
//!
//! 1. *Reduction* (sleep sets: Godefroid, 1996): of schedules that differ only in the order of
//!    neighbouring moves that do not depend on each other, one is played. Which do, [`Dependence`]
//!    tells, and errs towards yes. Every outcome ([`Run::outcome`]) of all schedules is still seen.
//! 2. Past the cap schedules are chosen at random, by a seed.

use super::expression::Expression;
use super::play::{Choose, Player, Run, Staging};
use super::scenario::{Act, Scenario, overlap};
use super::target::{Failure, Hold, Span, Target};
use crate::dice::Dice;
use isolith::Concurrency;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs; beyond them schedules are chosen at random, as many again.
    pub runs_max: u64,
    /// Whether schedules that make no difference are left out.
    pub reduce: bool,
    /// What random schedules are chosen by.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { runs_max: 100_000, reduce: false, seed: 1 }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Runs, from beginning to end.
    pub runs: u64,
    /// Whether these are all that there are, but for those left out by reduction.
    pub complete: bool,
    /// Runs that were left in the middle, since others show the same.
    pub cut: u64,
}

/// Told of each run; answers whether to go on.
pub type Visit<'a> = dyn FnMut(&Run, Result<(), Failure>) -> Result<bool, Failure> + 'a;

/// Plays all schedules of a scenario. A [`Failure::Target`] ends it, and is what it ends with.
pub fn explore(
    scenario: &Scenario,
    staging: &Staging,
    target: &mut dyn Target,
    limits: &Limits,
    visit: &mut Visit<'_>,
) -> Result<Explored, Failure> {
    let mut explored = Explored::default();
    let bound = schedules(scenario, staging.fine);
    // Depth first and cut off, only a corner would be seen.
    if limits.reduce || bound <= u128::from(limits.runs_max) {
        let dependence =
            (limits.reduce && !staging.fine).then(|| Dependence::of(scenario, staging));
        let mut path = Path { nodes: Vec::new(), at: 0, dependence };
        let mut player = Player::new(scenario, staging, target);
        while explored.runs + explored.cut < limits.runs_max {
            path.at = 0;
            let (run, played) = player.play(&mut path);
            if run.cut {
                explored.cut += 1;
            } else {
                explored.runs += 1;
                if !passed(played, &run, visit)? {
                    return Ok(explored);
                }
            }
            if !path.next() {
                explored.complete = true;
                return Ok(explored);
            }
        }
    }
    let mut player = Player::new(scenario, staging, target);
    for number in 0..limits.runs_max {
        let mut dice = Rolled(Dice::new(Dice::new(limits.seed ^ number).roll()));
        let (run, played) = player.play(&mut dice);
        explored.runs += 1;
        if !passed(played, &run, visit)? {
            break;
        }
    }
    Ok(explored)
}

fn passed(played: Result<(), Failure>, run: &Run, visit: &mut Visit<'_>) -> Result<bool, Failure> {
    match played {
        Err(Failure::Target(why)) => Err(Failure::Target(why)),
        played => visit(run, played),
    }
}

/// How many schedules there are if nobody ever waits or is aborted.
pub fn schedules(scenario: &Scenario, fine: bool) -> u128 {
    let mut count = 1u128;
    let mut moves = 0u128;
    for session in &scenario.sessions {
        let own = session.steps.len() as u128 + u128::from(fine);
        for place in 1..=own {
            moves += 1;
            // Binomial by binomial: each division comes out even.
            count = count.saturating_mul(moves) / place;
        }
    }
    count
}

struct Rolled(Dice);

impl Choose for Rolled {
    fn choose(&mut self, able: &[usize], _: &Run) -> Option<usize> {
        Some(*self.0.pick(able))
    }
}

/// A choice among those who could move.
struct Node {
    able: Vec<usize>,
    /// Who moves now.
    chosen: usize,
    /// Whose move would lead to what was seen already.
    asleep: Vec<usize>,
    /// How many steps each session had done.
    done: Vec<usize>,
}

/// The choices of a schedule: replayed, then the first of each kind.
struct Path {
    nodes: Vec<Node>,
    at: usize,
    dependence: Option<Dependence>,
}

impl Choose for Path {
    fn choose(&mut self, able: &[usize], run: &Run) -> Option<usize> {
        if self.at == self.nodes.len() {
            let asleep = self.asleep(able);
            let chosen = able.iter().find(|who| !asleep.contains(who))?;
            let mut done = vec![0; run.sessions.len()];
            run.moves.iter().for_each(|who| done[*who] += 1);
            let able = able.to_vec();
            self.nodes.push(Node { able, chosen: *chosen, asleep, done });
        }
        let node = &self.nodes[self.at];
        self.at += 1;
        Some(node.chosen)
    }
}

impl Path {
    /// Who sleeps at a new node: whose move was seen before the last one, or slept there, and does
    /// not depend on it.
    fn asleep(&self, able: &[usize]) -> Vec<usize> {
        let (Some(last), Some(dependence)) = (self.nodes.last(), &self.dependence) else {
            return Vec::new();
        };
        let step = |who: usize| (who, last.done[who]);
        let independent = |who: &&usize| !dependence.between(step(**who), step(last.chosen));
        let sleepers = last.asleep.iter().filter(|who| able.contains(who)).filter(independent);
        sleepers.copied().collect()
    }

    /// Goes on to the next schedule, if there is one.
    fn next(&mut self) -> bool {
        while let Some(mut node) = self.nodes.pop() {
            if self.dependence.is_some() {
                node.asleep.push(node.chosen);
            }
            let after = |who: &&usize| **who > node.chosen && !node.asleep.contains(who);
            if let Some(next) = node.able.iter().find(after) {
                node.chosen = *next;
                self.nodes.push(node);
                return true;
            }
        }
        false
    }
}

/// Which moves of different sessions may make a difference to each other.
#[derive(Clone, Debug)]
pub struct Dependence {
    sessions: Vec<Vec<Move>>,
    locks: bool,
    ordered: bool,
}

#[derive(Clone, Debug)]
struct Move {
    reach: Option<Span>,
    writes: bool,
    /// The transaction begins or takes its snapshot.
    begins: bool,
    commits: bool,
    rolls_back: bool,
    /// Others touch what it touches, and one of them changes or holds it.
    contested: bool,
}

fn is_for_update(act: &Act) -> bool {
    matches!(act, Act::Get { hold: Hold::Update, .. })
}

impl Dependence {
    /// That of a scenario.
    pub fn of(scenario: &Scenario, staging: &Staging) -> Dependence {
        let locks_by_hand = |act: &Act| matches!(act, Act::LockRange(_));
        let steps = || scenario.sessions.iter().flat_map(|session| &session.steps);
        let locks = staging.terms.iter().any(|terms| terms.concurrency != Concurrency::Optimistic)
            || steps().any(|step| locks_by_hand(&step.act));
        let mut ordered = false;
        for expression in scenario.anomaly.iter().chain(&scenario.invariants) {
            expression.walk(&mut |inner| ordered |= matches!(inner, Expression::Before(..)));
        }
        let sessions = scenario.sessions.iter().enumerate().map(|(who, session)| {
            let first = session.steps.iter().position(|step| !matches!(step.act, Act::Begin));
            let moves = session.steps.iter().enumerate().map(|(place, step)| {
                let reach = step.act.reach();
                let others = scenario.sessions.iter().enumerate().filter(|(other, _)| *other != who);
                let mut theirs = others.flat_map(|(_, other)| &other.steps);
                let contested = theirs.any(|their| {
                    matches!((&reach, their.act.reach()), (Some(own), Some(their)) if overlap(own, &their))
                });
                Move {
                    reach,
                    // An optimistic read for update leaves a mark that others meet like a write.
                    writes: step.act.writes() || is_for_update(&step.act),
                    begins: Some(place) <= first,
                    commits: matches!(step.act, Act::Commit),
                    rolls_back: matches!(step.act, Act::Rollback),
                    contested,
                }
            });
            moves.collect()
        });
        Dependence { sessions: sessions.collect(), locks, ordered }
    }

    /// Whether the order of two moves, each a session and its step, may make a difference.
    pub fn between(&self, one: (usize, usize), other: (usize, usize)) -> bool {
        let get =
            |(who, step): (usize, usize)| self.sessions.get(who).and_then(|moves| moves.get(step));
        let (Some(first), Some(second)) = (get(one), get(other)) else { return true };
        if one.0 == other.0 {
            return true;
        }
        let ends = |a: &Move| a.commits || a.rolls_back;
        if first.begins && second.begins && self.locks {
            // Who begins first is older.
            return true;
        }
        if first.begins && second.commits || second.begins && first.commits {
            return true;
        }
        if first.commits && second.commits && self.ordered {
            return true;
        }
        if self.locks {
            // Who waits, who is wounded and where it learns of it hang together through others, too.
            let apart = |who: usize, own: &Move| match ends(own) {
                true => self.sessions[who].iter().all(|step| !step.contested),
                false => !own.contested,
            };
            return !(apart(one.0, first) && apart(other.0, second));
        }
        match (ends(first), ends(second)) {
            (true, true) => self.meet(one.0, other.0),
            (true, false) => self.touches(one.0, second),
            (false, true) => self.touches(other.0, first),
            (false, false) => false,
        }
    }

    /// Whether two sessions touch something in common.
    fn meet(&self, one: usize, other: usize) -> bool {
        self.sessions[other].iter().any(|theirs| self.touches(one, theirs))
    }

    /// Whether a session touches what a move touches, and one of the two changes it.
    fn touches(&self, who: usize, theirs: &Move) -> bool {
        let Some(reach) = &theirs.reach else { return false };
        self.sessions[who].iter().any(|own| {
            let overlaps = own.reach.as_ref().is_some_and(|own| overlap(own, reach));
            overlaps && (own.writes || theirs.writes)
        })
    }
}
