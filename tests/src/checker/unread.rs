//! Appends that nobody read, under snapshot isolation: an order of them that it allows.
//!
//! Of several appends to one list that no read shows it is only known that they come after all that
//! were read. Where every cycle is forbidden, that does not matter: if there is none, the order in
//! which the transactions can be serialized is one for these appends, too. Snapshot isolation allows
//! cycles with adjacent anti-dependencies, and a write dependency between the two would forbid them;
//! so an order is looked for here, as for registers: first the one that commit timestamps or the
//! times of the writers suggest, then by turning around neighbours that a forbidden cycle goes through.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::history::{Base, History, Key, Value};

use super::dependencies::{Edges, gather};
use super::graph::Levels;
use super::question::{Found, Gathered, Question, Report, Verdict};
use super::witness::{Dependency, Edge};

/// Transactions that appended to a list what nobody read.
pub(super) struct Group {
    /// The list.
    pub(super) key: Key,
    /// Each transaction once, with the last value that it appended.
    pub(super) writers: Vec<(u32, Value)>,
}

/// A decision: the place of a group, and two of its transactions of which the first comes first.
type Decision = (usize, u32, u32);

/// Looks for orders of all groups under which nothing is forbidden.
pub(super) fn judge(
    history: &History,
    levels: &Levels,
    question: &Question,
    edges: &Edges<'_>,
    groups: &[Group],
) -> Report {
    if groups.is_empty() || !levels.any(|level| level.base == Base::Snapshot) {
        return Report::new(Vec::new(), Verdict::Holds);
    }
    Search { history, levels, question, edges, groups, steps: 0 }.report()
}

struct Search<'a> {
    history: &'a History,
    levels: &'a Levels,
    question: &'a Question,
    edges: &'a Edges<'a>,
    groups: &'a [Group],
    steps: u64,
}

impl Search<'_> {
    fn report(mut self) -> Report {
        // The one that needs the strongest order: the others can be avoided.
        let mut left: Option<Found> = None;
        // Each entry is a set of decisions that is still to be tried.
        let mut open: Vec<Vec<Decision>> = vec![Vec::new()];
        while let Some(decided) = open.pop() {
            if self.steps > self.question.budget.steps {
                return Report::undecided(&format!(
                    "no order of the appends to {} lists that nobody read was found that keeps the \
                     level, and not all were tried within the budget of {} steps",
                    self.groups.len(),
                    self.question.budget.steps
                ));
            }
            let Some(order) = self.order(&decided) else { continue };
            let Some(found) = self.forbidden(&order) else {
                return Report::new(Vec::new(), Verdict::Holds);
            };
            if let Some((group, before, after)) = choice(&decided, &order, &found) {
                for pair in [(group, before, after), (group, after, before)] {
                    let mut decided = decided.clone();
                    decided.push(pair);
                    open.push(decided);
                }
            }
            let order = |found: &Found| found.anomaly.order;
            if left.as_ref().is_none_or(|known| order(known) < order(&found)) {
                left = Some(found);
            }
        }
        let found = left.map(|mut found| {
            found.witness.because = "every order of the appends that nobody read has a cycle like \
                                     this one"
                .to_owned();
            found
        });
        Report::new(found.into_iter().collect(), Verdict::Holds)
    }

    /// The neighbours of every group in an order that keeps the decisions; none if they are cyclic.
    fn order(&self, decided: &[Decision]) -> Option<Vec<(usize, Edge)>> {
        let mut order = Vec::new();
        for (place, group) in self.groups.iter().enumerate() {
            let pairs: Vec<(u32, u32)> = decided
                .iter()
                .filter(|(of, ..)| *of == place)
                .map(|(_, before, after)| (*before, *after))
                .collect();
            let sorted = self.sort(group, &pairs)?;
            order.extend(sorted.windows(2).map(|pair| {
                let edge = Edge {
                    from: pair[0].0,
                    to: pair[1].0,
                    kind: Dependency::Ww,
                    key: group.key,
                    before: pair[0].1,
                    after: pair[1].1,
                };
                (place, edge)
            }));
        }
        Some(order)
    }

    fn sort(&self, group: &Group, pairs: &[(u32, u32)]) -> Option<Vec<(u32, Value)>> {
        let rank = |writer: u32| {
            let transaction = &self.history.transactions()[writer as usize];
            (transaction.commit, transaction.completed, writer)
        };
        let mut missing: HashMap<u32, usize> = HashMap::new();
        for (_, after) in pairs {
            *missing.entry(*after).or_default() += 1;
        }
        let values: HashMap<u32, Value> = group.writers.iter().copied().collect();
        let mut ready: BTreeSet<_> = group
            .writers
            .iter()
            .filter(|(writer, _)| !missing.contains_key(writer))
            .map(|(writer, _)| rank(*writer))
            .collect();
        let mut sorted = Vec::with_capacity(group.writers.len());
        while let Some((.., writer)) = ready.pop_first() {
            sorted.push((writer, values[&writer]));
            for (_, after) in pairs.iter().filter(|(before, _)| *before == writer) {
                let left = missing.get_mut(after)?;
                *left -= 1;
                if *left == 0 {
                    ready.insert(rank(*after));
                }
            }
        }
        (sorted.len() == group.writers.len()).then_some(sorted)
    }

    /// The shortest forbidden cycle under an order.
    fn forbidden(&mut self, order: &[(usize, Edge)]) -> Option<Found> {
        let mut gathered = Gathered::default();
        let mut steps = 0;
        let edges = |visit: &mut dyn FnMut(Edge)| {
            (self.edges)(visit);
            order.iter().for_each(|(_, edge)| visit(*edge));
        };
        edges(&mut |_| steps += 1);
        gather(self.history, self.levels, self.question, &edges, &mut gathered);
        self.steps += steps;
        gathered.into_found().into_iter().min_by_key(|found| found.witness.transactions.len())
    }
}

/// Two neighbours that the cycle has in an order that nothing decided.
fn choice(decided: &[Decision], order: &[(usize, Edge)], found: &Found) -> Option<Decision> {
    let on_cycle: HashSet<(Key, u32, u32)> = found
        .witness
        .edges
        .iter()
        .filter(|edge| edge.kind == Dependency::Ww)
        .map(|edge| (edge.key, edge.from, edge.to))
        .collect();
    order
        .iter()
        .filter(|(_, edge)| on_cycle.contains(&(edge.key, edge.from, edge.to)))
        .map(|(group, edge)| (*group, edge.from, edge.to))
        .find(|pair| !leads(decided, *pair))
}

/// Whether the decisions say that the first of two transactions comes first.
fn leads(decided: &[Decision], (group, from, to): Decision) -> bool {
    let mut open = vec![from];
    let mut seen = HashSet::new();
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        let next = decided.iter().filter(|(of, before, _)| (*of, *before) == (group, at));
        open.extend(next.map(|(.., after)| *after).filter(|after| seen.insert(*after)));
    }
    false
}
