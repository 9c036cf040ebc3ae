//! All interleavings of a scenario, depth first, each played from its start.
//!
//! 1. *Reduction* (sleep sets: Godefroid, 1996): of schedules that differ only in the order of
//!    neighbouring moves that do not depend on each other, one is played. Which do, [`Dependence`]
//!    tells, and errs towards yes. Every outcome ([`Run::outcome`]) of all schedules is still seen.
//! 2. Past the cap schedules are chosen at random, by a seed.

use super::expression::Expression;
use super::play::{Choose, Player, Run, Staging};
use super::scenario::{Act, Scenario, Session, Step, overlap};
use super::target::{Failure, Hold, Span, Target, Terms};
use crate::dice::Dice;
use isolith::{Concurrency, Isolation};

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
///
/// What a move depends on is what it can see and whom it can meet:
/// - a session's beginning, up to its first read (where its snapshot may be taken), on every commit;
/// - a read of the newest on the commits that write there; a read at a snapshot on no commit, a write
///   that is kept to itself on nothing;
/// - a commit on those of sessions that touch the same, where one changes it;
/// - where locks are taken, a move on whatever asks for a lock that does not go with its own, and on who
///   has asked for one by then; and where third sessions stand between them.
///
/// Sessions that are connected by nothing in common are independent of each other altogether.
#[derive(Clone, Debug)]
pub struct Dependence {
    sessions: Vec<Vec<Move>>,
    /// Somebody is under automatic control, which may lock what it reads for update.
    automatic: bool,
    /// Sessions of the same number touch something in common, or are connected through others.
    connected: Vec<usize>,
    /// Somebody takes locks.
    locks: bool,
    /// The scenario asks who committed or began first.
    ordered: bool,
}

#[derive(Clone, Debug)]
struct Move {
    reach: Option<Span>,
    writes: bool,
    /// It reads in order to write: others meet that like a write.
    claims: bool,
    /// It sees what is newest, and not what was when its transaction began.
    sees_newest: bool,
    /// It asks for a lock on what it touches, at once or by its commit.
    takes_lock: bool,
    /// It is the first: who begins first is older.
    first: bool,
    /// The transaction begins, or may take its snapshot.
    begins: bool,
    commits: bool,
    rolls_back: bool,
    drops: bool,
    /// Time passes: what has expired is another matter before and after, for everybody.
    passes: bool,
}

impl Move {
    fn of(act: &Act, terms: Terms, first: bool, begins: bool) -> Move {
        let reads = matches!(act, Act::Get { .. } | Act::Scan { .. });
        let holds = matches!(act, Act::Get { hold: Hold::Update | Hold::Share, .. });
        let Terms { isolation, concurrency } = terms;
        let optimistic = concurrency == Concurrency::Optimistic;
        let automatic = concurrency == Concurrency::Auto;
        let level = |levels: [Isolation; 2]| levels.contains(&isolation);
        let locks_reads = level([Isolation::RepeatableRead, Isolation::Serializable]);
        let by_lock = !optimistic && (holds || locks_reads) || automatic;
        let at_newest = isolation == Isolation::ReadCommitted || holds || by_lock;
        Move {
            reach: act.reach(),
            writes: act.writes(),
            claims: matches!(act, Act::Get { hold: Hold::Update, .. }),
            sees_newest: reads && at_newest,
            takes_lock: act.writes() || reads && by_lock || matches!(act, Act::LockRange(_)),
            first,
            begins,
            commits: matches!(act, Act::Commit | Act::Drop(_)),
            rolls_back: matches!(act, Act::Rollback),
            drops: matches!(act, Act::Drop(_)),
            passes: matches!(act, Act::Pass(_)),
        }
    }

    fn ends(&self) -> bool {
        self.commits || self.rolls_back
    }

    fn overlaps(&self, other: &Move) -> bool {
        matches!((&self.reach, &other.reach), (Some(own), Some(their)) if overlap(own, their))
    }

    /// Whether both touch something, and one of them changes it, or means to.
    fn touches(&self, other: &Move) -> bool {
        let changes = |one: &Move| one.writes || one.claims;
        self.overlaps(other) && (changes(self) || changes(other))
    }
}

impl Dependence {
    /// That of a scenario.
    pub fn of(scenario: &Scenario, staging: &Staging) -> Dependence {
        let asks = |act: &Act| matches!(act, Act::LockRange(_));
        let steps = || scenario.sessions.iter().flat_map(|session| &session.steps);
        let locks = staging.terms.iter().any(|terms| terms.concurrency != Concurrency::Optimistic)
            || steps().any(|step| asks(&step.act));
        let mut ordered = false;
        for expression in scenario.anomaly.iter().chain(&scenario.invariants) {
            expression.walk(&mut |inner| {
                ordered |= matches!(inner, Expression::Before(..) | Expression::Precedes(..));
            });
        }
        let moves = |(session, terms): (&Session, &Terms)| -> Vec<Move> {
            let sees =
                |act: &Act| matches!(act, Act::Get { .. } | Act::Scan { .. } | Act::LockRange(_));
            let first = session.steps.iter().position(|step| sees(&step.act));
            let last = first.unwrap_or(session.steps.len());
            let steps = session.steps.iter().enumerate();
            let of = |(place, step): (usize, &Step)| {
                Move::of(&step.act, *terms, place == 0, place <= last)
            };
            steps.map(of).collect()
        };
        let sessions: Vec<Vec<Move>> =
            scenario.sessions.iter().zip(&staging.terms).map(moves).collect();
        let automatic = staging.terms.iter().any(|terms| terms.concurrency == Concurrency::Auto);
        Dependence { connected: connected(&sessions), automatic, sessions, locks, ordered }
    }

    /// Whether the order of two moves, each a session and its step, may make a difference.
    pub fn between(&self, one: (usize, usize), other: (usize, usize)) -> bool {
        let get =
            |(who, step): (usize, usize)| self.sessions.get(who).and_then(|moves| moves.get(step));
        let (Some(first), Some(second)) = (get(one), get(other)) else { return true };
        if one.0 == other.0 || first.passes || second.passes {
            return true;
        }
        let connected = self.connected[one.0] == self.connected[other.0];
        let commits = first.commits && second.commits;
        let begins = first.begins && second.commits || second.begins && first.commits;
        if (commits || begins) && self.ordered || begins && connected {
            return true;
        }
        if !connected {
            return false;
        }
        if !self.locks {
            return self.seen(one.0, first, other.0, second);
        }
        let older = first.first && second.first;
        older || self.locked(one, other) || self.seen(one.0, first, other.0, second)
    }

    /// Whether two moves may meet through locks. With what either asks for (an end: with all that its
    /// session has locked, or locks to commit) nothing may be in conflict that the other's session has
    /// asked for by then: so none of the two waits for the other, is wounded by it, or frees it.
    ///
    /// Third sessions: who waits for somebody that ends goes on, and does whatever it does. Otherwise,
    /// of three, nobody goes on who could not move before, and if only one of the moves meets the third,
    /// the other makes no difference to that. Of more, chains are possible.
    fn locked(&self, one: (usize, usize), other: (usize, usize)) -> bool {
        let asked = |(who, step): (usize, usize)| {
            let moves = &self.sessions[who];
            if moves[step].ends() { &moves[..] } else { &moves[..=step] }
        };
        let asks = |(who, step): (usize, usize)| {
            let moves = &self.sessions[who];
            if moves[step].ends() { &moves[..] } else { &moves[step..=step] }
        };
        let meet = |ours: &[Move], theirs: &[Move]| {
            ours.iter().any(|own| theirs.iter().any(|their| self.conflict(own, their)))
        };
        if meet(asks(one), asked(other)) || meet(asks(other), asked(one)) {
            return true;
        }
        let meets_third = |at: (usize, usize)| {
            let third = |who: &usize| *who != one.0 && *who != other.0;
            (0..self.sessions.len()).filter(third).any(|who| meet(asks(at), &self.sessions[who]))
        };
        let (first, second) = (meets_third(one), meets_third(other));
        let ends = |at: (usize, usize)| self.sessions[at.0][at.1].ends();
        match self.sessions.len() {
            ..=3 => first && (second || ends(one)) || second && ends(other),
            _ => first || second,
        }
    }

    /// Whether the locks that two moves ask for do not go together.
    fn conflict(&self, own: &Move, their: &Move) -> bool {
        let both = own.takes_lock && their.takes_lock;
        both && (own.touches(their) || self.automatic && own.overlaps(their))
    }

    /// Whether one may see the other, or their commits meet.
    fn seen(&self, one: usize, first: &Move, other: usize, second: &Move) -> bool {
        match (first.ends(), second.ends()) {
            (true, true) => {
                first.commits && second.commits && {
                    let mut theirs = self.sessions[other].iter();
                    theirs.any(|their| self.sessions[one].iter().any(|own| own.touches(their)))
                }
            }
            (true, false) => self.shows(one, first, second),
            (false, true) => self.shows(other, second, first),
            (false, false) => false,
        }
    }

    /// Whether the end of a session may show in a move of another one.
    fn shows(&self, who: usize, end: &Move, other: &Move) -> bool {
        let touches = |own: &Move| own.overlaps(other) && (own.writes || own.claims);
        end.drops && end.overlaps(other)
            || end.commits && other.sees_newest && self.sessions[who].iter().any(touches)
    }
}

/// A number for each session, the same for those that are connected.
fn connected(sessions: &[Vec<Move>]) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..sessions.len()).collect();
    for one in 0..sessions.len() {
        for other in 0..one {
            let meet = sessions[one]
                .iter()
                .any(|own| sessions[other].iter().any(|their| own.overlaps(their)));
            if meet {
                let (from, to) = (numbers[one], numbers[other]);
                numbers
                    .iter_mut()
                    .filter(|number| **number == from)
                    .for_each(|number| *number = to);
            }
        }
    }
    numbers
}
