//! The shortest cycle of each kind inside a strongly connected component.
//!
//! A cycle of a kind is found from one of its edges that must be there (for a G-single its one
//! anti-dependency): a breadth-first search over transactions and what the path has had so far.
//! Searches after the first are bounded by the shortest cycle so far. An edge whose ends are not in
//! one component of the kind's own edges is not tried, and where those are acyclic without the
//! anti-dependencies, a search stays between its two ends in their topological order.

use std::collections::VecDeque;

use crate::history::{History, Order};

use super::anomaly::{Anomaly, Phenomenon};
use super::graph::{Chain, Levels, tarjan};
use super::question::Gathered;
use super::witness::{Dependency, Edge, Witness};

/// A component, with everything between its members.
pub(super) struct Component<'a> {
    levels: &'a Levels,
    members: Vec<u32>,
    /// Edges by where they start, with members by their place in the component.
    edges: Vec<Local>,
    starts: Vec<u32>,
    chain: Chain,
}

#[derive(Clone, Copy)]
struct Local {
    from: u32,
    to: u32,
    edge: Edge,
}

/// How the anti-dependencies of a cycle lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Anti {
    None,
    One,
    Nonadjacent,
    Several,
}

/// A kind of cycle.
#[derive(Clone, Copy)]
struct Kind {
    anomaly: Anomaly,
    /// An edge that must be there.
    start: u8,
    /// What any other edge may be.
    others: u8,
    anti: Anti,
    /// No cycle of the kind is shorter, or a longer one will do.
    enough: usize,
}

const WW: u8 = Dependency::Ww.bit();
const WR: u8 = Dependency::Wr.bit() | Dependency::WrPredicate.bit();
const RW_ITEM: u8 = Dependency::Rw.bit();
const RW_PREDICATE: u8 = Dependency::RwPredicate.bit();
const RW: u8 = RW_ITEM | RW_PREDICATE;
const ORDERS: u8 = Dependency::Process.bit() | Dependency::RealTime.bit();

/// Every kind, the gravest first; within an order, what implies others before them.
fn kinds() -> impl Iterator<Item = Kind> {
    [Order::Any, Order::Session, Order::RealTime].into_iter().flat_map(|order| {
        let extra = match order {
            Order::Any => 0,
            Order::Session => Dependency::Process.bit(),
            Order::RealTime => ORDERS,
        };
        let data = WW | WR | extra;
        [
            (Phenomenon::G0, WW, WW | extra, Anti::None),
            (Phenomenon::G1c, WR, data, Anti::None),
            (Phenomenon::GSingleItem, RW_ITEM, data, Anti::One),
            (Phenomenon::GSingle, RW_PREDICATE, data, Anti::One),
            (Phenomenon::GNonadjacentItem, RW_ITEM, data | RW_ITEM, Anti::Nonadjacent),
            (Phenomenon::GNonadjacent, RW_PREDICATE, data | RW, Anti::Nonadjacent),
            (Phenomenon::G2Item, RW_ITEM, data | RW_ITEM, Anti::Several),
            (Phenomenon::G2, RW_PREDICATE, data | RW, Anti::Several),
        ]
        .map(|(phenomenon, start, others, anti)| Kind {
            anomaly: Anomaly { phenomenon, order },
            start,
            others,
            anti,
            enough: if anti == Anti::Nonadjacent { 4 } else { 2 },
        })
    })
}

/// What a path has had so far, as bits of a search state.
mod had {
    /// The last edge was an anti-dependency.
    pub(super) const ANTI_LAST: u32 = 1;
    /// Another anti-dependency than the start.
    pub(super) const ANTI: u32 = 2;
    /// The order that the kind asks for.
    pub(super) const ORDER: u32 = 4;
    /// The count of combinations.
    pub(super) const ALL: u32 = 8;
}

/// Marks of a search that need not be cleared between searches.
struct Marks {
    seen: Vec<u32>,
    round: u32,
    /// Per combination, from where on those who began later were visited.
    tail: [usize; had::ALL as usize],
    queue: VecDeque<u32>,
    steps: Vec<Step>,
}

#[derive(Clone, Copy)]
struct Step {
    state: u32,
    before: u32,
    /// The place of the edge; [`REAL_TIME`] if it is of real time.
    edge: u32,
    depth: u32,
}

const REAL_TIME: u32 = u32::MAX;
const NO_STEP: u32 = u32::MAX;

impl<'a> Component<'a> {
    /// The component of `members` (sorted), with `edges` of which both ends are members.
    pub(super) fn new(
        history: &'a History,
        levels: &'a Levels,
        members: Vec<u32>,
        edges: &[Edge],
    ) -> Component<'a> {
        let place = |node: u32| members.binary_search(&node).unwrap_or(0) as u32;
        let mut edges: Vec<Local> = edges
            .iter()
            .map(|edge| Local { from: place(edge.from), to: place(edge.to), edge: *edge })
            .collect();
        edges.sort_by_key(|edge| (edge.from, edge.edge.kind, edge.to));
        edges.dedup_by_key(|edge| (edge.from, edge.edge.kind, edge.to));
        let mut starts = vec![0; members.len() + 1];
        for edge in &edges {
            starts[edge.from as usize + 1] += 1;
        }
        for node in 1..starts.len() {
            starts[node] += starts[node - 1];
        }
        let chain = Chain::new(history, levels, Some(&members));
        Component { levels, members, edges, starts, chain }
    }

    /// Gathers the forbidden cycles: of each kind the shortest, but none that follows from one that
    /// was found. Gives the count of steps that it took; stops looking for shorter ones after
    /// `steps_max`.
    pub(super) fn gather(&self, gathered: &mut Gathered, steps_max: u64) -> u64 {
        let Some(forbidden) = self.forbidden() else { return 0 };
        let mut marks = Marks {
            seen: vec![0; self.members.len() * had::ALL as usize],
            round: 0,
            tail: [usize::MAX; had::ALL as usize],
            queue: VecDeque::new(),
            steps: Vec::new(),
        };
        let present = self.edges.iter().fold(0, |all, edge| all | edge.edge.kind.bit());
        let present =
            if self.chain.len() > 0 { present | Dependency::RealTime.bit() } else { present };
        let mut steps = 0;
        let mut met: Vec<Anomaly> = Vec::new();
        for kind in kinds() {
            let order_present = match kind.anomaly.order {
                Order::Any => true,
                Order::Session => present & Dependency::Process.bit() != 0,
                Order::RealTime => present & Dependency::RealTime.bit() != 0,
            };
            let implied = met.iter().any(|found| found.implies(kind.anomaly));
            if implied || !order_present || present & kind.start == 0 {
                continue;
            }
            let limit = steps + (steps_max.saturating_sub(steps)) / 4;
            if let Some(cycle) = self.shortest(kind, &forbidden, &mut marks, &mut steps, limit) {
                met.push(kind.anomaly);
                gathered.meet(kind.anomaly, cycle.len(), || Witness::cycle(cycle));
            }
        }
        if met.is_empty() {
            let cycle = self.any_cycle(&forbidden, &mut marks, &mut steps);
            gathered.meet(classify(&cycle), cycle.len(), || Witness::cycle(cycle));
        }
        steps
    }

    /// Per state (a member, and whether it was come to by an anti-dependency) its component among
    /// the states, if that has a cycle; none if no state is on a forbidden cycle.
    fn forbidden(&self) -> Option<Vec<u32>> {
        let count = self.members.len();
        let links = self.chain.len();
        let successor = |state: u32, nth: u32| self.next_state(state, nth, count, links);
        let mut of = vec![0; 2 * count];
        let mut number = 0;
        tarjan(2 * count + links, successor, |component| {
            if component.len() > 1 {
                number += 1;
                for state in component.iter().filter(|state| (**state as usize) < 2 * count) {
                    of[*state as usize] = number;
                }
            }
        });
        (number > 0).then_some(of)
    }

    /// The nth successor of a state. States that are not allowed are replaced by the state itself,
    /// which adds nothing.
    fn next_state(&self, state: u32, nth: u32, count: usize, links: usize) -> Option<u32> {
        let nth = nth as usize;
        if (state as usize) < 2 * count {
            let (node, anti) = ((state / 2) as usize, state % 2 == 1);
            let edges = self.of(node);
            return match edges.get(nth) {
                Some(edge) if !edge.edge.kind.is_anti() => Some(2 * edge.to),
                Some(_) if anti && !self.levels.may_follow(self.members[node]) => Some(state),
                Some(edge) => Some(2 * edge.to + 1),
                None => {
                    let rank = self.chain.rank.get(node).copied().unwrap_or(Chain::NONE);
                    (nth == edges.len() && rank != Chain::NONE).then(|| (2 * count) as u32 + rank)
                }
            };
        }
        let rank = state as usize - 2 * count;
        let last = rank + 1 == links;
        if nth == 0 && !last {
            return Some(state + 1);
        }
        let from = self.chain.after(rank as u32);
        let to = if last { self.chain.begun().len() } else { self.chain.after(rank as u32 + 1) };
        self.chain.begun()[from..to].get(nth - usize::from(!last)).map(|node| 2 * node)
    }

    fn of(&self, node: usize) -> &[Local] {
        &self.edges[self.starts[node] as usize..self.starts[node + 1] as usize]
    }

    /// The shortest cycle of a kind, or the shortest that was found within the limit.
    fn shortest(
        &self,
        kind: Kind,
        forbidden: &[u32],
        marks: &mut Marks,
        steps: &mut u64,
        limit: u64,
    ) -> Option<Vec<Edge>> {
        let within = self.order_of(kind.start | kind.others, kind.anomaly.order);
        let plain = match kind.anti {
            Anti::One => Some(self.order_of(kind.others, kind.anomaly.order)),
            _ => None,
        };
        let mut best: Option<Vec<Edge>> = None;
        for (at, start) in self.edges.iter().enumerate() {
            if kind.start & start.edge.kind.bit() == 0 {
                continue;
            }
            let same = |of: &[u32]| of[start.from as usize] == of[start.to as usize];
            let on_forbidden = [0, 1].iter().any(|from| {
                let to = 2 * start.to + u32::from(start.edge.kind.is_anti());
                let of = forbidden[to as usize];
                of != 0 && of == forbidden[(2 * start.from + from) as usize]
            });
            if !on_forbidden || !same(&within) {
                continue;
            }
            let bound = best.as_ref().map_or(u32::MAX, |best| best.len() as u32 - 1);
            if let Some(cycle) = self.search(at, kind, plain.as_deref(), bound, marks, steps) {
                let found = cycle.len();
                best = Some(cycle);
                if found <= kind.enough {
                    break;
                }
            }
            if *steps > limit {
                break;
            }
        }
        best
    }

    /// Per member, the number of its component among edges of these kinds. Who leads to another one
    /// has a number that is not smaller.
    fn order_of(&self, kinds: u8, order: Order) -> Vec<u32> {
        let count = self.members.len();
        let links = if order == Order::RealTime { self.chain.len() } else { 0 };
        let successor = |node: u32, nth: u32| {
            let nth = nth as usize;
            if (node as usize) < count {
                let edges = self.of(node as usize);
                return match edges.get(nth) {
                    Some(edge) if edge.edge.kind.bit() & kinds != 0 => Some(edge.to),
                    Some(_) => Some(node),
                    None => {
                        let rank = self.chain.rank.get(node as usize).copied();
                        let rank = rank.filter(|rank| *rank != Chain::NONE && links > 0);
                        rank.filter(|_| nth == edges.len()).map(|rank| count as u32 + rank)
                    }
                };
            }
            let rank = node as usize - count;
            let last = rank + 1 == links;
            if nth == 0 && !last {
                return Some(node + 1);
            }
            let from = self.chain.after(rank as u32);
            let to =
                if last { self.chain.begun().len() } else { self.chain.after(rank as u32 + 1) };
            self.chain.begun()[from..to].get(nth - usize::from(!last)).copied()
        };
        let mut of = vec![0; count + links];
        let mut number = 0;
        tarjan(count + links, successor, |component| {
            number += 1;
            for node in component {
                of[*node as usize] = number;
            }
        });
        of.truncate(count);
        of
    }

    /// The shortest cycle of a kind through one edge, of at most `bound` edges.
    fn search(
        &self,
        at: usize,
        kind: Kind,
        plain: Option<&[u32]>,
        bound: u32,
        marks: &mut Marks,
        visited: &mut u64,
    ) -> Option<Vec<Edge>> {
        let start = &self.edges[at];
        let goal = start.from;
        let floor = plain.map(|of| of[goal as usize]);
        if plain.zip(floor).is_some_and(|(of, floor)| of[start.to as usize] < floor) {
            return None;
        }
        marks.round += 1;
        marks.tail = [usize::MAX; had::ALL as usize];
        marks.queue.clear();
        marks.steps.clear();
        let first = start.to * had::ALL + u32::from(start.edge.kind.is_anti()) * had::ANTI_LAST;
        marks.seen[first as usize] = marks.round;
        marks.steps.push(Step { state: first, before: NO_STEP, edge: at as u32, depth: 1 });
        marks.queue.push_back(0);
        while let Some(step_at) = marks.queue.pop_front() {
            let step = marks.steps[step_at as usize];
            if step.depth >= bound {
                return None;
            }
            let (node, so_far) = (step.state / had::ALL, step.state % had::ALL);
            let range = self.starts[node as usize]..self.starts[node as usize + 1];
            for place in range {
                *visited += 1;
                let edge = &self.edges[place as usize];
                let bit = edge.edge.kind.bit();
                if kind.others & bit == 0 || !self.may(kind, node, so_far, bit) {
                    continue;
                }
                if plain.zip(floor).is_some_and(|(of, floor)| of[edge.to as usize] < floor) {
                    continue;
                }
                let next = after(so_far, edge.edge.kind, kind.anomaly.order);
                if let Some(cycle) = self.advance(step_at, edge.to, next, place, kind, marks) {
                    return Some(cycle);
                }
            }
            if kind.anomaly.order == Order::RealTime
                && let Some(cycle) =
                    self.real_time(step_at, (node, so_far), kind, plain.zip(floor), marks, visited)
            {
                return Some(cycle);
            }
        }
        None
    }

    /// Goes from a step to everybody who began after its member was acknowledged.
    fn real_time(
        &self,
        step_at: u32,
        (node, so_far): (u32, u32),
        kind: Kind,
        within: Option<(&[u32], u32)>,
        marks: &mut Marks,
        visited: &mut u64,
    ) -> Option<Vec<Edge>> {
        let rank =
            self.chain.rank.get(node as usize).copied().filter(|rank| *rank != Chain::NONE)?;
        let from = self.chain.after(rank);
        let to = marks.tail[so_far as usize].min(self.chain.begun().len());
        if from >= to {
            return None;
        }
        marks.tail[so_far as usize] = from;
        let next = after(so_far, Dependency::RealTime, kind.anomaly.order);
        for local in &self.chain.begun()[from..to] {
            *visited += 1;
            if within.is_some_and(|(of, floor)| of[*local as usize] < floor) {
                continue;
            }
            let found = self.advance(step_at, *local, next, REAL_TIME, kind, marks);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Visits a state from a step; gives the cycle if that closes it.
    fn advance(
        &self,
        before: u32,
        node: u32,
        so_far: u32,
        edge: u32,
        kind: Kind,
        marks: &mut Marks,
    ) -> Option<Vec<Edge>> {
        let state = node * had::ALL + so_far;
        if marks.seen[state as usize] == marks.round {
            return None;
        }
        marks.seen[state as usize] = marks.round;
        let depth = marks.steps[before as usize].depth + 1;
        marks.steps.push(Step { state, before, edge, depth });
        let here = marks.steps.len() as u32 - 1;
        let start = &self.edges[marks.steps[0].edge as usize];
        if node == start.from {
            let closes = self.closes(kind, start, so_far);
            return if closes { self.cycle(here, marks) } else { None };
        }
        marks.queue.push_back(here);
        None
    }

    /// Whether a path with this behind it may take an edge of this kind from a member.
    fn may(&self, kind: Kind, node: u32, so_far: u32, bit: u8) -> bool {
        let anti_again = bit & RW != 0 && so_far & had::ANTI_LAST != 0;
        !anti_again
            || (kind.anti != Anti::Nonadjacent
                && self.levels.may_follow(self.members[node as usize]))
    }

    /// Whether a path that came back to the start of its first edge is a cycle of the kind.
    fn closes(&self, kind: Kind, start: &Local, so_far: u32) -> bool {
        let order = kind.anomaly.order == Order::Any || so_far & had::ORDER != 0;
        let anti = match kind.anti {
            Anti::None | Anti::One => true,
            Anti::Nonadjacent | Anti::Several => so_far & had::ANTI != 0,
        };
        order && anti && self.may(kind, start.from, so_far, start.edge.kind.bit())
    }

    /// The cycle that ends with a step, if it goes through nobody twice.
    fn cycle(&self, last: u32, marks: &Marks) -> Option<Vec<Edge>> {
        let mut edges = Vec::new();
        let mut at = last;
        loop {
            let step = marks.steps[at as usize];
            let edge = if step.edge == REAL_TIME {
                let from = marks.steps[step.before as usize].state / had::ALL;
                let (from, to) = (self.members[from as usize], step.state / had::ALL);
                let to = self.members[to as usize];
                Edge::order(from as usize, to as usize, Dependency::RealTime)
            } else {
                self.edges[step.edge as usize].edge
            };
            edges.push(edge);
            if step.before == NO_STEP {
                break;
            }
            at = step.before;
        }
        edges.reverse();
        let mut through: Vec<u32> = edges.iter().map(|edge| edge.from).collect();
        through.sort_unstable();
        through.dedup();
        (through.len() == edges.len()).then_some(edges)
    }

    /// Some forbidden cycle, which there is.
    fn any_cycle(&self, forbidden: &[u32], marks: &mut Marks, steps: &mut u64) -> Vec<Edge> {
        let all = Kind {
            anomaly: Anomaly { phenomenon: Phenomenon::G2, order: Order::Any },
            start: u8::MAX,
            others: u8::MAX,
            anti: Anti::None,
            enough: usize::MAX,
        };
        for order in [Order::Any, Order::RealTime] {
            let kind = Kind { anomaly: Anomaly { order, ..all.anomaly }, ..all };
            if let Some(cycle) = self.shortest(kind, forbidden, marks, steps, u64::MAX) {
                return cycle;
            }
        }
        unreachable!("a component of states has a cycle")
    }
}

/// What a path has had after one more edge.
fn after(so_far: u32, edge: Dependency, order: Order) -> u32 {
    let wanted = match order {
        Order::Any => false,
        Order::Session => edge == Dependency::Process,
        Order::RealTime => edge == Dependency::RealTime,
    };
    let so_far = if wanted { so_far | had::ORDER } else { so_far };
    if edge.is_anti() { so_far | had::ANTI_LAST | had::ANTI } else { so_far & !had::ANTI_LAST }
}

/// What a cycle is called.
pub(super) fn classify(cycle: &[Edge]) -> Anomaly {
    let count =
        |wanted: fn(&Dependency) -> bool| cycle.iter().filter(|edge| wanted(&edge.kind)).count();
    let anti = count(|kind| kind.is_anti());
    let item = count(|kind| *kind == Dependency::RwPredicate) == 0;
    let adjacent = cycle
        .iter()
        .zip(cycle.iter().cycle().skip(1))
        .any(|(edge, next)| edge.kind.is_anti() && next.kind.is_anti());
    let phenomenon = match (anti, item) {
        (0, _) if count(|kind| kind.bit() & WR != 0) == 0 => Phenomenon::G0,
        (0, _) => Phenomenon::G1c,
        (1, true) => Phenomenon::GSingleItem,
        (1, false) => Phenomenon::GSingle,
        (_, true) if adjacent => Phenomenon::G2Item,
        (_, true) => Phenomenon::GNonadjacentItem,
        (_, false) if adjacent => Phenomenon::G2,
        (_, false) => Phenomenon::GNonadjacent,
    };
    let order = if count(|kind| *kind == Dependency::RealTime) > 0 {
        Order::RealTime
    } else if count(|kind| *kind == Dependency::Process) > 0 {
        Order::Session
    } else {
        Order::Any
    };
    Anomaly { phenomenon, order }
}
