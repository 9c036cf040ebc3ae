//! Plays a scenario once, by a schedule, and writes down what happened.
//!
//! 1. A move is one step of one session. Who is blocked cannot move; it goes on by itself as soon as
//!    the target lets it, and only then is the next move chosen.
//! 2. With fine steps (where the target has them) a commit is two moves, handing in and decision, and
//!    going on after a wait is a move of its own.
//! 3. A schedule that names who cannot move is passed over there; where it is too short, the first
//!    session that can move does.

use std::collections::BTreeMap;

use super::expression::{Ending, Scope, Value, saturated};
use super::provenance::{Marks, initial, meant};
use super::scenario::{Act, Scenario};
use super::target::{
    Abort, Action, Answer, Contents, Failure, Feature, Reply, Span, Start, Target, Terms,
};

/// Moves that no run needs.
const MOVES_MAX: usize = 10_000;

/// How a scenario is played, but for the schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staging {
    /// The terms of each session.
    pub terms: Vec<Terms>,
    /// Whether every key has been fought for before.
    pub hot: bool,
    /// Whether commits are decided apart from being handed in, and going on is a move.
    pub fine: bool,
}

impl Staging {
    /// Every session at terms of its own; cold keys, whole steps.
    pub fn new(terms: Vec<Terms>) -> Staging {
        Staging { terms, hot: false, fine: false }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose.
    pub session: usize,
    /// Which of its steps; none for a begin that the scenario does not spell out.
    pub step: Option<usize>,
    /// What was asked for; none for a step whose condition did not hold.
    pub action: Option<Action>,
    /// What came of it.
    pub came: Came,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// It is done.
    Done(Reply),
    /// It waits for these sessions; its end is an event of its own.
    Waits(Vec<usize>),
    /// The transaction was aborted.
    Aborted(Abort),
    /// Its condition did not hold.
    Skipped,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It committed, at this timestamp if the target tells.
    Committed(Option<u64>),
    /// It rolled back by itself.
    RolledBack,
    /// The target aborted it.
    Aborted(Abort),
}

/// What a session has done, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lived {
    /// The event that it began with.
    pub begun: Option<usize>,
    /// The event that it ended with, and how; none if the run came to nothing before.
    pub end: Option<(usize, End)>,
    /// What it read last, by key or label.
    pub read: BTreeMap<String, Value>,
    /// What its scans found, by label.
    pub scanned: BTreeMap<String, Vec<i64>>,
}

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// Who moved.
    pub moves: Vec<usize>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Units of time that have passed.
    pub now: u64,
    /// The sessions.
    pub sessions: Vec<Lived>,
    /// Whether it was left in the middle.
    pub cut: bool,
    /// What is there in the end, as it is stored.
    pub end: Contents,
    /// The place of each session's commit among the commits that were told, from 1.
    pub told: Vec<Option<usize>>,
}

impl Run {
    /// Whether a session committed.
    pub fn committed(&self, session: usize) -> bool {
        matches!(self.sessions[session].end, Some((_, End::Committed(_))))
    }

    /// Why a session was aborted by the target.
    pub fn abort(&self, session: usize) -> Option<&Abort> {
        match &self.sessions[session].end {
            Some((_, End::Aborted(abort))) => Some(abort),
            _ => None,
        }
    }

    fn timestamp(&self, session: usize) -> Option<u64> {
        match self.sessions[session].end {
            Some((_, End::Committed(at))) => at,
            _ => None,
        }
    }

    /// Whether anybody waited.
    pub fn waited(&self) -> bool {
        self.events.iter().any(|event| matches!(event.came, Came::Waits(_)))
    }

    /// What can be told of it from the outside: reads, ends and what is there. Two runs that differ
    /// in nothing else are the same outcome.
    pub fn outcome(&self) -> String {
        let mut text = format!("{:?}", self.end);
        for session in 0..self.sessions.len() {
            let replies =
                self.events.iter().filter(|event| event.session == session).filter_map(|event| {
                    match &event.came {
                        Came::Done(Reply::Committed(_)) => Some("committed".to_owned()),
                        Came::Done(reply) => Some(format!("{reply:?}")),
                        Came::Aborted(abort) => Some(abort.kind.to_string()),
                        Came::Skipped => Some("skipped".into()),
                        Came::Waits(_) => None,
                    }
                });
            text += &format!("; {}", replies.collect::<Vec<_>>().join(" "));
        }
        text
    }
}

impl Scope for Run {
    fn read(&self, session: usize, name: &str) -> Value {
        self.sessions[session].read.get(name).copied().unwrap_or(Value::Unread)
    }

    fn scanned(&self, session: usize, label: &str) -> Option<Vec<i64>> {
        self.sessions[session].scanned.get(label).cloned()
    }

    fn end(&self, key: &str) -> Value {
        self.end.get(key).map_or(Value::Absent, |value| Value::Number(meant(*value)))
    }

    fn within(&self, span: &Span) -> Vec<i64> {
        let pairs = self.end.iter().filter(|(key, _)| span.contains(key));
        pairs.map(|(_, value)| meant(*value)).collect()
    }

    fn ended(&self, session: usize, ending: Ending) -> bool {
        let over = self.sessions[session].end.is_some();
        over && self.committed(session) == (ending == Ending::Committed)
    }

    fn before(&self, first: usize, second: usize) -> bool {
        match (self.timestamp(first), self.timestamp(second)) {
            (Some(one), Some(other)) => one < other,
            _ => matches!((self.told[first], self.told[second]), (Some(a), Some(b)) if a < b),
        }
    }

    fn precedes(&self, first: usize, second: usize) -> bool {
        let ended = self.sessions[first].end.as_ref().map(|(event, _)| *event);
        let begun = self.sessions[second].begun;
        self.committed(first) && matches!((ended, begun), (Some(one), Some(other)) if one < other)
    }
}

/// Who moves next.
pub trait Choose {
    /// One of `able`, which is not empty and ascending; none to leave the run there. `run` is what
    /// happened so far.
    fn choose(&mut self, able: &[usize], run: &Run) -> Option<usize>;
}

/// A schedule that is given.
#[derive(Clone, Debug, Default)]
pub struct Given {
    moves: std::vec::IntoIter<usize>,
}

impl Given {
    /// These moves.
    pub fn new(moves: &[usize]) -> Given {
        Given { moves: Vec::from(moves).into_iter() }
    }
}

impl Choose for Given {
    fn choose(&mut self, able: &[usize], _: &Run) -> Option<usize> {
        Some(self.moves.by_ref().find(|who| able.contains(who)).unwrap_or(able[0]))
    }
}

/// Plays scenarios on a target.
pub struct Player<'a> {
    scenario: &'a Scenario,
    staging: &'a Staging,
    target: &'a mut dyn Target,
    marks: Marks,
    keys: Vec<String>,
    spaces: Vec<String>,
    setup: Contents,
}

/// Where a session is.
#[derive(Clone, Debug, Default)]
struct Lane {
    next: usize,
    handed: bool,
    blocked: Option<(Option<usize>, Action)>,
    savepoints: Vec<String>,
}

impl<'a> Player<'a> {
    /// Plays a scenario so on a target.
    pub fn new(
        scenario: &'a Scenario,
        staging: &'a Staging,
        target: &'a mut dyn Target,
    ) -> Player<'a> {
        let stored = |(key, value): (&String, &i64)| (key.clone(), initial(*value));
        let setup = scenario.setup.iter().map(stored).collect();
        let (marks, keys, spaces) = (Marks::of(scenario), scenario.keys(), scenario.spaces());
        Player { scenario, staging, target, marks, keys, spaces, setup }
    }

    /// Plays once. What happened until a failure is told, too; so is a panic.
    pub fn play(&mut self, choose: &mut dyn Choose) -> (Run, Result<(), Failure>) {
        let mut run = Run {
            sessions: vec![Lived::default(); self.scenario.sessions.len()],
            told: vec![None; self.scenario.sessions.len()],
            ..Run::default()
        };
        let played = crate::finding::catching(|| Ok(self.go(&mut run, choose)));
        let result = match played {
            Ok(result) => result,
            Err(panic) => Err(Failure::Broken(panic.to_string())),
        };
        if result.is_err() {
            self.target.abandon(true);
        }
        (run, result)
    }

    fn go(&mut self, run: &mut Run, choose: &mut dyn Choose) -> Result<(), Failure> {
        let Staging { terms, hot, .. } = self.staging;
        let (setup, expiring) = (&self.setup, &self.scenario.expiring);
        let (keys, spaces) = (&self.keys[..], &self.spaces[..]);
        let start = Start { setup, expiring, keys, spaces, sessions: terms, hot: *hot };
        self.target.start(&start)?;
        let mut lanes = vec![Lane::default(); terms.len()];
        loop {
            let able = self.able(run, &lanes);
            if able.is_empty() {
                if run.sessions.iter().all(|session| session.end.is_some()) {
                    break;
                }
                return Err(Failure::Broken(
                    "nobody can move, and somebody is not done: a deadlock that nobody broke, or \
                     a wake-up that was lost"
                        .into(),
                ));
            }
            let Some(who) = choose.choose(&able, run) else {
                run.cut = true;
                self.target.abandon(false);
                return Ok(());
            };
            run.moves.push(who);
            if run.moves.len() > MOVES_MAX {
                return Err(Failure::Broken("they move for ever".into()));
            }
            self.advance(run, &mut lanes[who], who)?;
            if !self.staging.fine {
                self.resume(run, &mut lanes)?;
            }
        }
        run.end = self.target.finish()?;
        Ok(())
    }

    fn able(&mut self, run: &Run, lanes: &[Lane]) -> Vec<usize> {
        let fine = self.staging.fine;
        let mut able = |who: &usize| {
            run.sessions[*who].end.is_none()
                && (lanes[*who].blocked.is_none() || fine && self.target.can_move(*who))
        };
        (0..lanes.len()).filter(|who| able(who)).collect()
    }

    /// Lets everybody go on who can.
    fn resume(&mut self, run: &mut Run, lanes: &mut [Lane]) -> Result<(), Failure> {
        let mut moved = true;
        while moved {
            moved = false;
            for (who, lane) in lanes.iter_mut().enumerate() {
                if lane.blocked.is_some() && self.target.can_move(who) {
                    self.go_on(run, lane, who)?;
                    moved |= lane.blocked.is_none();
                }
            }
        }
        Ok(())
    }

    /// A move: the next step, or going on after a wait.
    fn advance(&mut self, run: &mut Run, lane: &mut Lane, who: usize) -> Result<(), Failure> {
        if lane.blocked.is_some() {
            return self.go_on(run, lane, who);
        }
        let place = lane.next;
        let step = &self.scenario.sessions[who].steps[place];
        if run.sessions[who].begun.is_none() {
            let spelled = matches!(step.act, Act::Begin);
            self.submit(run, lane, who, spelled.then_some(place), Action::Begin)?;
            run.sessions[who].begun = Some(run.events.len() - 1);
            if spelled {
                lane.next += 1;
                return Ok(());
            }
        }
        let holds = step.condition.as_ref().is_none_or(|condition| condition.holds(run));
        if !holds {
            lane.next += 1;
            let (step, action) = (Some(place), None);
            run.events.push(Event { session: who, step, action, came: Came::Skipped });
            return Ok(());
        }
        let fine = self.staging.fine && self.target.offers(Feature::FineSteps);
        let action = match &step.act {
            Act::Commit if fine && !lane.handed => {
                lane.handed = true;
                Action::HandIn
            }
            act => {
                lane.next += 1;
                self.action(run, lane, who, place, act)
            }
        };
        self.submit(run, lane, who, Some(place), action)
    }

    fn action(&self, run: &Run, lane: &mut Lane, who: usize, place: usize, act: &Act) -> Action {
        let number = |value: Value| saturated(value.number());
        match act {
            Act::Begin => Action::Begin,
            Act::Get { key, hold, .. } => Action::Get(key.clone(), *hold),
            Act::Scan { span, .. } => Action::Scan(span.clone()),
            Act::Put { key, value, lasts } => {
                let value = number(value.evaluate(run));
                let until = lasts.map(|units| run.now + units);
                Action::Put(key.clone(), self.marks.put((who, place), value), until)
            }
            Act::Merge { key, delta } => {
                let delta = number(delta.evaluate(run));
                Action::Merge(key.clone(), self.marks.merge((who, place), delta))
            }
            Act::Delete(key) => Action::Delete(key.clone()),
            Act::DeleteRange(span) => Action::DeleteRange(span.clone()),
            Act::LockRange(span) => Action::LockRange(span.clone()),
            Act::Savepoint(name) => {
                lane.savepoints.push(name.clone());
                Action::Savepoint(lane.savepoints.len() - 1)
            }
            Act::RollbackTo(name) => {
                let number = lane.savepoints.iter().position(|one| one == name).unwrap_or(0);
                lane.savepoints.truncate(number + 1);
                Action::RollbackTo(number)
            }
            Act::Pass(units) => Action::Pass(*units),
            Act::Drop(space) => Action::Drop(space.clone()),
            Act::Commit => Action::Commit,
            Act::Rollback => Action::Rollback,
        }
    }

    fn submit(
        &mut self,
        run: &mut Run,
        lane: &mut Lane,
        who: usize,
        step: Option<usize>,
        action: Action,
    ) -> Result<(), Failure> {
        let answer = self.target.submit(who, &action)?;
        self.answered(run, lane, who, step, action, answer)
    }

    fn go_on(&mut self, run: &mut Run, lane: &mut Lane, who: usize) -> Result<(), Failure> {
        let answer = self.target.poll(who)?;
        if let (Answer::Blocked, false) = (&answer, self.staging.fine) {
            return Ok(());
        }
        let Some((step, action)) = lane.blocked.take() else { return Ok(()) };
        self.answered(run, lane, who, step, action, answer)
    }

    fn answered(
        &mut self,
        run: &mut Run,
        lane: &mut Lane,
        who: usize,
        step: Option<usize>,
        action: Action,
        answer: Answer,
    ) -> Result<(), Failure> {
        let event = run.events.len();
        let came = match answer {
            Answer::Done(reply) => {
                let session = &mut run.sessions[who];
                match (&action, &reply) {
                    (Action::Commit | Action::Drop(_), Reply::Committed(at)) => {
                        session.end = Some((event, End::Committed(*at)));
                        let told = run.told.iter().flatten().count();
                        run.told[who] = Some(told + 1);
                    }
                    (Action::Commit | Action::Drop(_), _) => {
                        return Err(Failure::Target("a commit was answered with a value".into()));
                    }
                    (Action::Pass(units), _) => run.now += units,
                    (Action::Rollback, _) => session.end = Some((event, End::RolledBack)),
                    _ => self.remember(&mut run.sessions[who], who, step, &action, &reply),
                }
                Came::Done(reply)
            }
            Answer::Blocked => {
                lane.blocked = Some((step, action.clone()));
                Came::Waits(self.target.waits_for(who))
            }
            Answer::Aborted(abort) => {
                run.sessions[who].end = Some((event, End::Aborted(abort.clone())));
                Came::Aborted(abort)
            }
        };
        run.events.push(Event { session: who, step, action: Some(action), came });
        Ok(())
    }

    /// What expressions will find.
    fn remember(
        &self,
        session: &mut Lived,
        who: usize,
        step: Option<usize>,
        action: &Action,
        reply: &Reply,
    ) {
        let act = step.map(|step| &self.scenario.sessions[who].steps[step].act);
        let seen = |value: Option<i64>| value.map_or(Value::Absent, |v| Value::Number(meant(v)));
        match (action, reply) {
            (Action::Get(key, _), Reply::Value(value)) => {
                if let Some(Act::Get { label: Some(label), .. }) = act {
                    session.read.insert(label.clone(), seen(*value));
                }
                session.read.insert(key.clone(), seen(*value));
            }
            (Action::Scan(span), Reply::Pairs(pairs)) => {
                if let Some(Act::Scan { label: Some(label), .. }) = act {
                    let values = pairs.iter().map(|(_, value)| meant(*value)).collect();
                    session.scanned.insert(label.clone(), values);
                }
                for key in self.keys.iter().filter(|key| span.contains(key)) {
                    let found = pairs.iter().find(|(found, _)| found == key);
                    session.read.insert(key.clone(), seen(found.map(|(_, value)| *value)));
                }
            }
            (Action::Put(key, value, _), _) => {
                session.read.insert(key.clone(), seen(Some(*value)));
            }
            (Action::Delete(key), _) => {
                session.read.insert(key.clone(), Value::Absent);
            }
            _ => {}
        }
    }
}
