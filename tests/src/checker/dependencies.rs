//! From the edges that a workload infers to the forbidden cycles among them.
//!
//! A workload gives its edges twice: once to cut the graph into components, and once more, with keys
//! and values, for those few that lie inside a component. So a history without cycles keeps no
//! evidence in memory.

use std::collections::{HashMap, HashSet};

use crate::history::{Base, History, Order, Outcome};

use super::anomaly::{Anomaly, Phenomenon};
use super::clocks::Clocks;
use super::cycles::{Component, classify};
use super::graph::{Adjacency, Chain, Levels, components, possible, sessions};
use super::question::{Gathered, Question};
use super::witness::{Dependency, Edge, Witness};

/// What calls its argument for each edge of data.
pub(super) type Edges<'a> = dyn Fn(&mut dyn FnMut(Edge)) + 'a;

/// Gathers the forbidden cycles. Gives whether any transaction depends on another at all.
pub(super) fn gather(
    history: &History,
    levels: &Levels,
    question: &Question,
    edges: &Edges<'_>,
    gathered: &mut Gathered,
) -> bool {
    let counts = |edge: &Edge| levels.counts(edge.from, edge.to, edge.kind);
    let (found, any) = cut(history, levels, edges, &counts);
    let mut steps_left = question.budget.steps;
    within(history, levels, edges, &counts, found, &mut |members, edges| {
        let component = Component::new(history, levels, members, edges);
        steps_left = steps_left.saturating_sub(component.gather(gathered, steps_left));
    });
    if levels.any(is_causal) {
        fractures(history, levels, edges, gathered);
    }
    any
}

/// The components among the edges that count, and whether there is any edge.
fn cut(
    history: &History,
    levels: &Levels,
    edges: &Edges<'_>,
    counts: &dyn Fn(&Edge) -> bool,
) -> (Vec<Vec<u32>>, bool) {
    let nodes = history.transactions().len();
    let mut pairs: Vec<(u32, u32)> = Vec::with_capacity(history.operation_count());
    let mut any = false;
    edges(&mut |edge| {
        any = true;
        if counts(&edge) {
            pairs.push((edge.from, edge.to));
        }
    });
    sessions(history, levels, &mut |edge| pairs.push((edge.from, edge.to)));
    let chain = Chain::new(history, levels, None);
    let any = any || !pairs.is_empty() || chain.has_pairs();
    let adjacency = Adjacency::new(nodes, &pairs);
    drop(pairs);
    (components(&adjacency, nodes, &chain), any)
}

/// Calls `visit` for each component with its edges.
fn within(
    history: &History,
    levels: &Levels,
    edges: &Edges<'_>,
    counts: &dyn Fn(&Edge) -> bool,
    found: Vec<Vec<u32>>,
    visit: &mut dyn FnMut(Vec<u32>, &[Edge]),
) {
    if found.is_empty() {
        return;
    }
    const NONE: u32 = u32::MAX;
    let mut of = vec![NONE; history.transactions().len()];
    for (number, members) in found.iter().enumerate() {
        for member in members {
            of[*member as usize] = number as u32;
        }
    }
    let mut inside: Vec<(u32, Edge)> = Vec::new();
    let mut take = |edge: Edge| {
        let number = of[edge.from as usize];
        if number != NONE && number == of[edge.to as usize] {
            inside.push((number, edge));
        }
    };
    edges(&mut |edge| {
        if counts(&edge) {
            take(edge);
        }
    });
    sessions(history, levels, &mut take);
    inside.sort_by_key(|(number, _)| *number);
    let mut rest = &inside[..];
    for (number, members) in found.into_iter().enumerate() {
        let here = rest.iter().take_while(|(of, _)| *of as usize == number).count();
        let edges: Vec<Edge> = rest[..here].iter().map(|(_, edge)| *edge).collect();
        rest = &rest[here..];
        visit(members, &edges);
    }
}

fn is_causal(level: crate::history::Level) -> bool {
    matches!(level.base, Base::ReadAtomic | Base::Causal)
}

/// Gathers what read-atomic and causal forbid besides cycles of information: somebody saw a
/// transaction (for causal also through others), and of a key that this one wrote an older version.
fn fractures(history: &History, levels: &Levels, edges: &Edges<'_>, gathered: &mut Gathered) {
    let counts = |edge: &Edge| match edge.kind {
        Dependency::Rw => is_causal(levels.of(edge.from)),
        Dependency::RwPredicate => false,
        _ => true,
    };
    let (found, _) = cut(history, levels, edges, &counts);
    within(history, levels, edges, &counts, found, &mut |members, edges| {
        let fractured = Fractured::new(history, levels, &members, edges);
        let cycles = members.iter().filter_map(|reader| fractured.of(*reader));
        for cycle in cycles.take(FRACTURES_MAX) {
            let order = classify(&cycle).order;
            let anomaly = Anomaly { phenomenon: Phenomenon::GSingleItem, order };
            gathered.meet(anomaly, cycle.len(), || Witness::cycle(cycle));
        }
    });
}

/// Fractured reads of one component that are looked at: more of them say nothing new.
const FRACTURES_MAX: usize = 64;

/// A component, to look for fractured reads in.
struct Fractured<'a> {
    history: &'a History,
    levels: &'a Levels,
    /// Edges of information, by where they end.
    informed: HashMap<u32, Vec<Edge>>,
    /// Anti-dependencies, by where they start.
    overtaken: HashMap<u32, Vec<Edge>>,
    /// Write dependencies, by where they start.
    replaced: HashMap<u32, Vec<Edge>>,
    /// When members were acknowledged, in that order.
    ended: Vec<(u32, u32)>,
    /// Who has seen whom, where causality is asked of everybody.
    clocks: Option<Clocks>,
}

impl<'a> Fractured<'a> {
    fn new(
        history: &'a History,
        levels: &'a Levels,
        members: &[u32],
        edges: &[Edge],
    ) -> Fractured<'a> {
        let (mut informed, mut overtaken, mut replaced) =
            (HashMap::new(), HashMap::new(), HashMap::new());
        for edge in edges {
            let (map, at): (&mut HashMap<u32, Vec<Edge>>, u32) = match edge.kind {
                Dependency::Ww => (&mut replaced, edge.from),
                Dependency::Rw | Dependency::RwPredicate => (&mut overtaken, edge.from),
                _ => (&mut informed, edge.to),
            };
            map.entry(at).or_default().push(*edge);
        }
        let mut ended: Vec<(u32, u32)> = members
            .iter()
            .map(|member| (&history.transactions()[*member as usize], *member))
            .filter(|(transaction, _)| transaction.outcome == Outcome::Committed)
            .map(|(transaction, member)| (transaction.completed, member))
            .collect();
        ended.sort_unstable();
        let causal = levels.is_one() && levels.any(|level| level.base == Base::Causal);
        let all = || informed.values().flatten();
        let clocks = causal.then(|| Clocks::new(history, levels, members, all())).flatten();
        Fractured { history, levels, informed, overtaken, replaced, ended, clocks }
    }

    /// The cycle of a reader whose reads are fractured.
    fn of(&self, reader: u32) -> Option<Vec<Edge>> {
        let overtaken = self.overtaken.get(&reader)?;
        if let Some(clocks) = &self.clocks {
            // Most have seen nothing newer: only of the others it is looked for how.
            let seen = |other: u32| clocks.has_seen(reader, other);
            overtaken.iter().find_map(|edge| self.newer(reader, edge, &seen))?;
        }
        let seen = self.seen(reader);
        let (mut path, newer) = overtaken
            .iter()
            .find_map(|edge| self.newer(reader, edge, &|other| seen.contains_key(&other)))?;
        self.back(&seen, newer, reader, &mut path);
        Some(path)
    }

    /// Whether a reader has seen who wrote what overtook one of its reads, or a later version of the same
    /// key: the way there, and whom.
    fn newer(
        &self,
        reader: u32,
        overtaken: &Edge,
        seen: &dyn Fn(u32) -> bool,
    ) -> Option<(Vec<Edge>, u32)> {
        const NONE: usize = usize::MAX;
        let mut steps = vec![(*overtaken, NONE)];
        let mut met = HashSet::from([reader, overtaken.to]);
        let mut at = 0;
        while let Some((last, _)) = steps.get(at).copied() {
            if seen(last.to) {
                let before = |at: &usize| Some(steps[*at].1).filter(|before| *before != NONE);
                let mut path: Vec<Edge> =
                    std::iter::successors(Some(at), before).map(|at| steps[at].0).collect();
                path.reverse();
                return Some((path, last.to));
            }
            for next in self.replaced.get(&last.to).into_iter().flatten() {
                if next.key == overtaken.key && met.insert(next.to) {
                    steps.push((*next, at));
                }
            }
            at += 1;
        }
        None
    }

    /// Whom a reader has seen, each with the edge that leads on to the reader: who comes before it in
    /// its session or in real time, whom it read from, and for causality also whom these have seen.
    fn seen(&self, reader: u32) -> HashMap<u32, Edge> {
        let mut seen = HashMap::new();
        let through = self.levels.of(reader).base == Base::Causal;
        self.follow(reader, &mut seen, |edge, _| through || edge.kind == Dependency::Process);
        self.follow(reader, &mut seen, |_, node| through || node == reader);
        seen
    }

    /// Goes back from a reader along the edges of information that are wanted.
    fn follow(
        &self,
        reader: u32,
        seen: &mut HashMap<u32, Edge>,
        wanted: impl Fn(&Edge, u32) -> bool,
    ) {
        let level = self.levels.of(reader);
        let mut ended = self.ended.iter().peekable();
        let mut queue = std::collections::VecDeque::from([reader]);
        while let Some(node) = queue.pop_front() {
            let mut meet = |edge: Edge| {
                if edge.from != reader && !seen.contains_key(&edge.from) {
                    seen.insert(edge.from, edge);
                    queue.push_back(edge.from);
                }
            };
            for edge in self.informed.get(&node).into_iter().flatten() {
                if wanted(edge, node) {
                    meet(*edge);
                }
            }
            if level.order == Order::RealTime && (level.base == Base::Causal || node == reader) {
                let began = self.history.transactions()[node as usize].invoked;
                while let Some((_, before)) = ended.next_if(|(ended, _)| *ended < began) {
                    meet(Edge::order(*before as usize, node as usize, Dependency::RealTime));
                }
            }
        }
    }

    fn back(&self, seen: &HashMap<u32, Edge>, from: u32, reader: u32, path: &mut Vec<Edge>) {
        let mut at = from;
        while let Some(edge) = seen.get(&at).filter(|_| at != reader) {
            path.push(*edge);
            at = edge.to;
        }
    }
}

/// Gathers where commit timestamps contradict what was observed.
pub(super) fn timestamps(history: &History, edges: &Edges<'_>, gathered: &mut Gathered) {
    let transactions = history.transactions();
    if transactions.iter().all(|transaction| transaction.commit.is_none()) {
        return;
    }
    edges(&mut |edge| {
        let (from, to) = (&transactions[edge.from as usize], &transactions[edge.to as usize]);
        let informs =
            matches!(edge.kind, Dependency::Ww | Dependency::Wr | Dependency::WrPredicate);
        let Some((first, second)) = from.commit.zip(to.commit).filter(|_| informs) else { return };
        if first > second && possible(from) && possible(to) {
            gathered.meet(Phenomenon::TimestampOrder.into(), 2, || Witness {
                transactions: vec![edge.from as usize, edge.to as usize],
                edges: vec![edge],
                because: format!("the engine says that T1 committed at {first} and T2 at {second}"),
            });
        }
    });
}
