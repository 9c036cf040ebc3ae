//! Registers with compare-and-set: whether there is one order of the operations, within real time or
//! at least within each session, that explains every answer. A complete search over states (Lowe,
//! "Testing for linearizability", 2017; Wing and Gong): at each event it holds every combination of
//! what the registers may be and which open operations have already happened. Operations of unknown
//! outcome that do the same are counted and not told apart, which keeps crashed ones affordable.
//!
//! A transaction of several operations happens at one moment. A failed compare-and-set did not happen.
//! Values may repeat here, so no graph can be drawn; levels weaker than serializable are undecided.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::history::{Base, History, Key, Operation, Order, Outcome, Transaction, Value};

use super::anomaly::Phenomenon;
use super::question::{Found, Question, Report, Verdict};
use super::witness::Witness;

/// What may be the case: the values of all registers, who of the open ones has happened, and how many
/// of each kind of the unknown ones have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    values: BTreeMap<Key, Value>,
    happened: Vec<u32>,
    crashed: BTreeMap<u32, u32>,
}

/// Judges registers with compare-and-set.
pub(super) fn judge(history: &History, question: &Question) -> Report {
    if question.level.base != Base::Serializable {
        return Report::undecided(
            "compare-and-set is judged at serializable and strict-serializable only",
        );
    }
    for place in 0..history.transactions().len() {
        for operation in history.operations(place) {
            let known = matches!(
                operation,
                Operation::Read { .. }
                    | Operation::Write { .. }
                    | Operation::ReadUnknown { .. }
                    | Operation::CompareAndSet { .. }
                    | Operation::Delete { .. }
                    | Operation::Insert { .. }
            );
            if !known {
                return Report::undecided("there are operations other than those of registers");
            }
        }
    }
    Linear::new(history, question).report()
}

struct Linear<'a> {
    history: &'a History,
    question: &'a Question,
    /// Transactions of unknown outcome that have begun, by what they do: how many, and one of them.
    begun: HashMap<u32, u32>,
    kinds: Vec<u32>,
    kind_of: HashMap<u32, u32>,
    steps: u64,
}

impl<'a> Linear<'a> {
    fn new(history: &'a History, question: &'a Question) -> Linear<'a> {
        let mut kinds: Vec<u32> = Vec::new();
        let mut kind_of = HashMap::new();
        for (place, transaction) in history.transactions().iter().enumerate() {
            if transaction.outcome != Outcome::Unknown {
                continue;
            }
            let same = kinds.iter().position(|kind| alike(history, *kind as usize, place));
            let kind = same.unwrap_or_else(|| {
                kinds.push(place as u32);
                kinds.len() - 1
            });
            kind_of.insert(place as u32, kind as u32);
        }
        Linear { history, question, begun: HashMap::new(), kinds, kind_of, steps: 0 }
    }

    /// Invocations and completions in their order, each of committed and unknown transactions.
    fn events(&self) -> Vec<(u32, bool, u32)> {
        let mut events = Vec::new();
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            if transaction.outcome == Outcome::Aborted || transaction.initial {
                continue;
            }
            events.push((transaction.invoked, false, place as u32));
            if transaction.outcome == Outcome::Committed {
                events.push((transaction.completed, true, place as u32));
            }
        }
        events.sort_unstable();
        events
    }

    fn report(mut self) -> Report {
        let mut start = State::default();
        let transactions = self.history.transactions();
        for place in (0..transactions.len()).filter(|place| transactions[*place].initial) {
            self.apply(place as u32, &mut start.values);
        }
        if self.question.level.order != Order::RealTime
            || transactions.iter().all(|transaction| transaction.completed == Transaction::NEVER)
        {
            return self.sessions(start);
        }
        let mut states = HashSet::from([start]);
        let mut open: Vec<u32> = Vec::new();
        for (_, ends, place) in self.events() {
            if !ends {
                match self.kind_of.get(&place) {
                    Some(kind) => *self.begun.entry(*kind).or_default() += 1,
                    None => open.push(place),
                }
                continue;
            }
            let Some(next) = self.complete(states, &open, place) else { return self.exhausted() };
            open.retain(|other| *other != place);
            if next.is_empty() {
                return Self::impossible(place, &open);
            }
            states = next;
        }
        if transactions.iter().all(|transaction| transaction.outcome != Outcome::Committed) {
            return Report::undecided("nothing was acknowledged");
        }
        Report::new(Vec::new(), Verdict::Holds)
    }

    fn exhausted(&self) -> Report {
        Report::undecided(&format!(
            "not every order was tried within the budget of {} steps",
            self.question.budget.steps
        ))
    }

    fn impossible(place: u32, open: &[u32]) -> Report {
        /// So many of those that ran at the time are shown.
        const SHOWN_MAX: usize = 8;
        let others = open.iter().take(SHOWN_MAX).map(|other| *other as usize);
        let who: Vec<usize> = std::iter::once(place as usize).chain(others).collect();
        let because = "there is no order of everything up to T1 that explains all answers; the \
                       others ran at the time"
            .to_owned();
        let found = Found {
            anomaly: Phenomenon::NotLinearizable.into(),
            count: 1,
            witness: Witness::of(who, because),
        };
        Report::new(vec![found], Verdict::Holds)
    }

    /// Every state in which `place` has happened, from these; none if the budget is spent.
    fn complete(
        &mut self,
        states: HashSet<State>,
        open: &[u32],
        place: u32,
    ) -> Option<HashSet<State>> {
        let mut done = HashSet::new();
        let mut seen: HashSet<State> = HashSet::new();
        let mut left: Vec<State> = states.into_iter().collect();
        while let Some(state) = left.pop() {
            self.steps += 1;
            if self.steps > self.question.budget.steps / 16 {
                return None;
            }
            if let Ok(at) = state.happened.binary_search(&place) {
                let mut state = state;
                state.happened.remove(at);
                done.insert(state);
                continue;
            }
            if !seen.insert(state.clone()) {
                continue;
            }
            for other in open {
                let Err(at) = state.happened.binary_search(other) else { continue };
                let mut next = state.clone();
                if self.apply(*other, &mut next.values) {
                    next.happened.insert(at, *other);
                    left.push(next);
                }
            }
            for (kind, count) in &self.begun {
                let used = state.crashed.get(kind).copied().unwrap_or(0);
                let mut next = state.clone();
                let changes = used < *count
                    && self.apply(self.kinds[*kind as usize], &mut next.values)
                    && next.values != state.values;
                if changes {
                    next.crashed.insert(*kind, used + 1);
                    left.push(next);
                }
            }
        }
        Some(done)
    }

    /// Lets a transaction happen; gives whether its answers fit.
    fn apply(&self, place: u32, values: &mut BTreeMap<Key, Value>) -> bool {
        for operation in self.history.operations(place as usize) {
            match *operation {
                Operation::Write { key, value } | Operation::Insert { key, value } => {
                    values.insert(key, value);
                }
                Operation::Delete { key } => {
                    values.insert(key, Value::NIL);
                }
                Operation::Read { key, value }
                    if values.get(&key).copied().unwrap_or(Value::NIL) != value =>
                {
                    return false;
                }
                Operation::CompareAndSet { key, pair } => {
                    let (old, new) = self.history.old_and_new(pair);
                    if values.get(&key).copied().unwrap_or(Value::NIL) != old {
                        return false;
                    }
                    values.insert(key, new);
                }
                _ => {}
            }
        }
        true
    }

    /// Without real time: each session's transactions in their order (all on their own if sessions do
    /// not count), depth first over how far each has come.
    fn sessions(mut self, start: State) -> Report {
        let keep = self.question.level.order != Order::Any;
        let mut sessions: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        let mut optional: Vec<u32> = Vec::new();
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            match transaction.outcome {
                Outcome::Aborted => {}
                _ if transaction.initial => {}
                Outcome::Unknown => optional.push(place as u32),
                Outcome::Committed => {
                    let ordered = keep && transaction.process != Transaction::NOBODY;
                    let own = if ordered { 0 } else { place as u32 + 1 };
                    let session = if ordered { transaction.process } else { 0 };
                    sessions.entry((session, own)).or_default().push(place as u32);
                }
            }
        }
        let sessions: Vec<Vec<u32>> = sessions.into_values().collect();
        let goal: Vec<u32> = sessions.iter().map(|session| session.len() as u32).collect();
        let first = (vec![0_u32; sessions.len()], vec![false; optional.len()], start.values);
        let mut seen = HashSet::new();
        let mut left = vec![first];
        while let Some((at, used, values)) = left.pop() {
            if at == goal {
                return Report::new(Vec::new(), Verdict::Holds);
            }
            self.steps += 1;
            if self.steps > self.question.budget.steps / 16 {
                return self.exhausted();
            }
            if !seen.insert((at.clone(), used.clone(), values.clone())) {
                continue;
            }
            for (number, session) in sessions.iter().enumerate() {
                let Some(place) = session.get(at[number] as usize) else { continue };
                let mut next = values.clone();
                if self.apply(*place, &mut next) {
                    let mut at = at.clone();
                    at[number] += 1;
                    left.push((at, used.clone(), next));
                }
            }
            for (number, place) in optional.iter().enumerate().filter(|(number, _)| !used[*number])
            {
                let mut next = values.clone();
                if self.apply(*place, &mut next) && next != values {
                    let mut used = used.clone();
                    used[number] = true;
                    left.push((at.clone(), used, next));
                }
            }
        }
        let last = sessions.iter().filter_map(|session| session.last().copied()).max();
        Self::impossible(last.unwrap_or(0), &[])
    }
}

/// Whether two transactions of unknown outcome do the same.
fn alike(history: &History, one: usize, other: usize) -> bool {
    let (first, second) = (history.operations(one), history.operations(other));
    first.len() == second.len()
        && first.iter().zip(second).all(|pair| match pair {
            (
                Operation::CompareAndSet { key, pair },
                Operation::CompareAndSet { key: key_too, pair: pair_too },
            ) => key == key_too && history.old_and_new(*pair) == history.old_and_new(*pair_too),
            (first, second) => first == second,
        })
}
