//! The dependency graph: which edges count at which level, and its strongly connected components.
//!
//! Real time is not drawn edge by edge. Completions form a chain: a transaction leads to its own
//! completion, a completion to the next one and to whoever began between the two. A path from one
//! transaction to another along the chain is exactly "acknowledged before the other began", and there
//! are three links for each transaction.

use std::collections::HashMap;

use crate::history::{Base, History, Level, Order, Outcome, Transaction};

use super::question::Question;
use super::witness::{Dependency, Edge};

/// The level of each transaction.
#[derive(Debug)]
pub(super) struct Levels {
    all: Level,
    each: Vec<Level>,
}

impl Levels {
    pub(super) fn new(history: &History, question: &Question) -> Levels {
        let all = with_order(question.level);
        let mixed = question.own_levels
            && history.transactions().iter().any(|transaction| transaction.level.is_some());
        let own = |transaction: &Transaction| transaction.level.map_or(all, with_order);
        let each =
            if mixed { history.transactions().iter().map(own).collect() } else { Vec::new() };
        Levels { all, each }
    }

    /// Whether all are judged at one level.
    pub(super) fn is_one(&self) -> bool {
        self.each.is_empty()
    }

    pub(super) fn of(&self, transaction: u32) -> Level {
        self.each.get(transaction as usize).copied().unwrap_or(self.all)
    }

    /// Whether this is true of the level of any transaction.
    pub(super) fn any(&self, wanted: impl Fn(Level) -> bool) -> bool {
        if self.each.is_empty() { wanted(self.all) } else { self.each.iter().any(|l| wanted(*l)) }
    }

    /// Whether an edge counts.
    pub(super) fn counts(&self, from: u32, to: u32, kind: Dependency) -> bool {
        match kind {
            Dependency::Ww => true,
            Dependency::Wr | Dependency::WrPredicate => self.of(to).base >= Base::ReadCommitted,
            Dependency::Rw => self.of(from).base >= Base::RepeatableRead,
            Dependency::RwPredicate => self.of(from).base >= Base::Snapshot,
            Dependency::Process | Dependency::RealTime => self.of(to).order >= Order::Session,
        }
    }

    /// Whether a cycle may leave a transaction by this anti-dependency after it came by another:
    /// with snapshots the transaction read before the one that it came by wrote.
    pub(super) fn may_follow(&self, transaction: u32) -> bool {
        self.of(transaction).base != Base::Snapshot
    }
}

/// Causality contains the order of sessions.
fn with_order(level: Level) -> Level {
    match level.base {
        Base::Causal => Level::new(level.base, level.order.max(Order::Session)),
        _ => level,
    }
}

/// Whether a transaction may have happened.
pub(super) fn possible(transaction: &Transaction) -> bool {
    transaction.outcome != Outcome::Aborted
}

/// Calls `visit` for each edge of the order of sessions that counts. Whose outcome is unknown may
/// happen later than whatever follows it; where real time counts and is known, it says the same.
pub(super) fn sessions(history: &History, levels: &Levels, visit: &mut dyn FnMut(Edge)) {
    if !levels.any(|level| level.order >= Order::Session) {
        return;
    }
    let transactions = history.transactions();
    let mut last: HashMap<u32, u32> = HashMap::new();
    for (place, transaction) in transactions.iter().enumerate() {
        let process = transaction.process;
        if process == Transaction::NOBODY || transaction.initial || !possible(transaction) {
            continue;
        }
        if let Some(slot) = last.get(&process) {
            let before = &transactions[*slot as usize];
            let untimed = before.completed == Transaction::NEVER || transaction.invoked == 0;
            let counts = match levels.of(place as u32).order {
                Order::Any => false,
                Order::Session => untimed || before.completed < transaction.invoked,
                Order::RealTime => untimed,
            };
            if counts {
                visit(Edge::order(*slot as usize, place, Dependency::Process));
            }
        }
        if transaction.outcome == Outcome::Committed {
            last.insert(process, place as u32);
        }
    }
}

/// Real time: the chain of completions.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// Per transaction, the rank of its completion; [`Chain::NONE`] if nothing follows from it.
    pub(super) rank: Vec<u32>,
    /// Transactions that must follow real time, by invocation.
    begun: Vec<u32>,
    /// Per rank, the first of those that began after this completion.
    first: Vec<u32>,
}

impl Chain {
    pub(super) const NONE: u32 = u32::MAX;

    /// The chain of those of `members` (all, if none are given) whose level asks for real time.
    pub(super) fn new(history: &History, levels: &Levels, members: Option<&[u32]>) -> Chain {
        if !levels.any(|level| level.order == Order::RealTime) {
            return Chain::default();
        }
        let transactions = history.transactions();
        let all: Vec<u32>;
        let members = match members {
            Some(members) => members,
            None => {
                all = (0..transactions.len() as u32).collect();
                &all
            }
        };
        let at = |local: &u32| &transactions[members[*local as usize] as usize];
        let mut begun: Vec<u32> = (0..members.len() as u32)
            .filter(|local| {
                let transaction = at(local);
                let level = levels.of(members[*local as usize]);
                possible(transaction)
                    && !transaction.initial
                    && transaction.invoked > 0
                    && level.order == Order::RealTime
            })
            .collect();
        begun.sort_by_key(|local| at(local).invoked);
        let mut ended: Vec<u32> = (0..members.len() as u32)
            .filter(|local| {
                let transaction = at(local);
                transaction.outcome == Outcome::Committed
                    && transaction.completed != Transaction::NEVER
            })
            .collect();
        ended.sort_by_key(|local| at(local).completed);
        let mut rank = vec![Chain::NONE; members.len()];
        let mut first = Vec::with_capacity(ended.len() + 1);
        let mut next = 0;
        for (place, local) in ended.iter().enumerate() {
            rank[*local as usize] = place as u32;
            let completed = at(local).completed;
            while begun.get(next).is_some_and(|local| at(local).invoked <= completed) {
                next += 1;
            }
            first.push(next as u32);
        }
        first.push(begun.len() as u32);
        Chain { rank, begun, first }
    }

    /// The count of completions.
    pub(super) fn len(&self) -> usize {
        self.first.len().saturating_sub(1)
    }

    /// Whether anybody follows anybody.
    pub(super) fn has_pairs(&self) -> bool {
        self.first.first().is_some_and(|first| (*first as usize) < self.begun.len())
    }

    /// Who must follow the completion of this rank: a tail of [`Chain::begun`] from here on.
    pub(super) fn after(&self, rank: u32) -> usize {
        self.first[rank as usize] as usize
    }

    /// Those who must follow real time, by invocation.
    pub(super) fn begun(&self) -> &[u32] {
        &self.begun
    }

    /// The chain as edges: transactions are numbered as they are, its links from `nodes` on.
    pub(super) fn links(&self, nodes: usize) -> impl Iterator<Item = (u32, u32)> {
        let link = move |rank: usize| (nodes + rank) as u32;
        let ends = (0..).zip(&self.rank).filter(|(_, rank)| **rank != Chain::NONE);
        let ends = ends.map(move |(node, rank)| (node, link(*rank as usize)));
        let onward = (1..self.len()).map(move |rank| (link(rank - 1), link(rank)));
        let begins = (0..self.len())
            .flat_map(move |rank| self.between(rank).iter().map(move |node| (link(rank), *node)));
        ends.chain(onward).chain(begins)
    }

    /// Who began between this completion and the next.
    fn between(&self, rank: usize) -> &[u32] {
        &self.begun[self.first[rank] as usize..self.first[rank + 1] as usize]
    }
}

/// Edges by where they start.
#[derive(Debug)]
pub(super) struct Adjacency {
    starts: Vec<u32>,
    targets: Vec<u32>,
}

impl Adjacency {
    pub(super) fn new(nodes: usize, edges: &[(u32, u32)]) -> Adjacency {
        let mut starts = vec![0_u32; nodes + 2];
        for (from, _) in edges {
            starts[*from as usize + 2] += 1;
        }
        for node in 2..starts.len() {
            starts[node] += starts[node - 1];
        }
        let mut targets = vec![0; edges.len()];
        for (from, to) in edges {
            let place = &mut starts[*from as usize + 1];
            targets[*place as usize] = *to;
            *place += 1;
        }
        Adjacency { starts, targets }
    }

    pub(super) fn of(&self, node: usize) -> &[u32] {
        &self.targets[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

/// The strongly connected components of more than one transaction, each sorted.
pub(super) fn components(adjacency: &Adjacency, nodes: usize, chain: &Chain) -> Vec<Vec<u32>> {
    let links = chain.len();
    let successor = |node: u32, nth: u32| {
        let (node, nth) = (node as usize, nth as usize);
        if node < nodes {
            let targets = adjacency.of(node);
            return targets.get(nth).copied().or_else(|| {
                let rank = chain.rank.get(node).copied().unwrap_or(Chain::NONE);
                (nth == targets.len() && rank != Chain::NONE).then(|| nodes as u32 + rank)
            });
        }
        let rank = node - nodes;
        match nth {
            0 if rank + 1 < links => Some(node as u32 + 1),
            0 => chain.between(rank).first().copied(),
            _ if rank + 1 < links => chain.between(rank).get(nth - 1).copied(),
            _ => chain.between(rank).get(nth).copied(),
        }
    };
    let mut found = Vec::new();
    tarjan(nodes + links, successor, |component| {
        let mut members: Vec<u32> =
            component.iter().copied().filter(|node| (*node as usize) < nodes).collect();
        if members.len() > 1 {
            members.sort_unstable();
            found.push(members);
        }
    });
    found
}

/// Tarjan's algorithm, without recursion. `successor` gives the nth successor of a node until there
/// is none; `found` gets each component once, those that others lead to first.
pub(super) fn tarjan(
    nodes: usize,
    successor: impl Fn(u32, u32) -> Option<u32>,
    mut found: impl FnMut(&[u32]),
) {
    const UNSEEN: u32 = 0;
    const DONE: u32 = u32::MAX;
    // Per node, when it was seen, or the earliest that it leads back to.
    let mut low = vec![UNSEEN; nodes];
    let mut stack: Vec<u32> = Vec::new();
    let mut path: Vec<(u32, u32, u32)> = Vec::new();
    let mut time = 0;
    for root in 0..nodes as u32 {
        if low[root as usize] != UNSEEN {
            continue;
        }
        time += 1;
        low[root as usize] = time;
        stack.push(root);
        path.push((root, 0, time));
        while let Some((node, nth, seen)) = path.last_mut() {
            match successor(*node, *nth) {
                Some(next) => {
                    *nth += 1;
                    match low[next as usize] {
                        UNSEEN => {
                            time += 1;
                            low[next as usize] = time;
                            stack.push(next);
                            path.push((next, 0, time));
                        }
                        DONE => {}
                        other => low[*node as usize] = low[*node as usize].min(other),
                    }
                }
                None => {
                    let (node, seen) = (*node, *seen);
                    path.pop();
                    let lowest = low[node as usize];
                    if lowest == seen {
                        let at = stack.iter().rposition(|member| *member == node).unwrap_or(0);
                        found(&stack[at..]);
                        for member in stack.drain(at..) {
                            low[member as usize] = DONE;
                        }
                    } else if let Some((before, _, _)) = path.last() {
                        low[*before as usize] = low[*before as usize].min(lowest);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(nodes: usize, edges: &[(u32, u32)]) -> Vec<Vec<u32>> {
        let adjacency = Adjacency::new(nodes, edges);
        let mut found = components(&adjacency, nodes, &Chain::default());
        found.sort();
        found
    }

    #[test]
    fn components_are_what_leads_back() {
        assert_eq!(found(3, &[(0, 1), (1, 2), (0, 2)]), Vec::<Vec<u32>>::new());
        assert_eq!(
            found(5, &[(0, 1), (1, 0), (1, 2), (2, 3), (3, 4), (4, 2)]),
            [vec![0, 1], vec![2, 3, 4]]
        );
        assert_eq!(found(4, &[(0, 1), (1, 2), (2, 3), (3, 0), (2, 0)]), [vec![0, 1, 2, 3]]);
    }

    #[test]
    fn a_long_ring_needs_no_deep_stack() {
        let nodes = 300_000;
        let edges: Vec<(u32, u32)> = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
        assert_eq!(found(nodes as usize, &edges).len(), 1);
    }
}
