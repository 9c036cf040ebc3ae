//! Who has seen whom within a component, for all at once: vector clocks over the chains that sessions
//! make. A transaction's clock tells of each chain how many of its first ones come before it.

use std::collections::HashMap;

use crate::history::{History, Outcome, Transaction};

use super::graph::{Adjacency, Chain, Levels};
use super::witness::{Dependency, Edge};

/// Entries of all clocks at most: four bytes each.
const ENTRIES_MAX: usize = 1 << 27;

/// The clocks of a component's transactions.
pub(super) struct Clocks {
    /// Entries of a clock.
    width: usize,
    entries: Vec<u32>,
    /// Per transaction, its chain and how many of it come before.
    places: Vec<(u32, u32)>,
    members: Vec<u32>,
}

impl Clocks {
    /// By these edges of information, and by real time where the levels ask for it. None if they go in a
    /// circle, or if there are too many chains.
    pub(super) fn new<'e>(
        history: &History,
        levels: &Levels,
        members: &[u32],
        informed: impl Iterator<Item = &'e Edge> + Clone,
    ) -> Option<Clocks> {
        let time = Chain::new(history, levels, Some(members));
        let nodes = members.len();
        let all = nodes + time.len();
        let mut clocks =
            Clocks { width: 0, entries: Vec::new(), places: Vec::new(), members: members.to_vec() };
        clocks.width = clocks.make_chains(history, &time, informed.clone());
        if clocks.width.checked_mul(all).is_none_or(|entries| entries > ENTRIES_MAX) {
            return None;
        }
        let mut pairs: Vec<(u32, u32)> = informed
            .filter_map(|edge| Some((clocks.local(edge.from)?, clocks.local(edge.to)?)))
            .collect();
        pairs.extend(time.links(nodes));
        clocks.entries = vec![0; clocks.width * all];
        clocks.fill(&Adjacency::new(all, &pairs), &pairs, all).then_some(clocks)
    }

    fn local(&self, transaction: u32) -> Option<u32> {
        self.members.binary_search(&transaction).ok().map(|at| at as u32)
    }

    /// Puts each transaction behind the last of its session, where that comes before it; gives the count
    /// of chains.
    fn make_chains<'e>(
        &mut self,
        history: &History,
        time: &Chain,
        informed: impl Iterator<Item = &'e Edge>,
    ) -> usize {
        let sessions = informed.filter(|edge| edge.kind == Dependency::Process);
        let before: HashMap<u32, u32> = sessions.map(|edge| (edge.to, edge.from)).collect();
        let mut last: HashMap<u32, (u32, (u32, u32))> = HashMap::new();
        let mut chains = 0;
        for member in &self.members {
            let transaction = &history.transactions()[*member as usize];
            let follows = |(earlier, _): &&(u32, (u32, u32))| {
                let earlier_ends = history.transactions()[*earlier as usize].completed;
                before.get(member) == Some(earlier)
                    || time.len() > 0 && earlier_ends < transaction.invoked
            };
            let known = last.get(&transaction.process).filter(follows);
            let place = match known {
                Some((_, (chain, index))) => (*chain, index + 1),
                None => {
                    chains += 1;
                    (chains - 1, 0)
                }
            };
            // Nothing follows from the order of a session that nobody knows, nor from an outcome.
            let goes_on = transaction.process != Transaction::NOBODY
                && transaction.outcome == Outcome::Committed;
            if goes_on {
                last.insert(transaction.process, (*member, place));
            } else if known.is_some() {
                // It ends no chain: the next one comes behind the one before it.
                self.places.push((chains, 0));
                chains += 1;
                continue;
            }
            self.places.push(place);
        }
        chains as usize
    }

    /// Passes on what is known, in an order that keeps the edges; false if there is none.
    fn fill(&mut self, adjacency: &Adjacency, pairs: &[(u32, u32)], all: usize) -> bool {
        let mut missing = vec![0_u32; all];
        pairs.iter().for_each(|(_, to)| missing[*to as usize] += 1);
        let mut ready: Vec<u32> =
            (0..all as u32).filter(|node| missing[*node as usize] == 0).collect();
        let mut done = 0;
        let mut clock = vec![0; self.width];
        while let Some(node) = ready.pop() {
            done += 1;
            let node = node as usize;
            clock.copy_from_slice(&self.entries[node * self.width..][..self.width]);
            if let Some((chain, index)) = self.places.get(node) {
                let entry = &mut clock[*chain as usize];
                *entry = (*entry).max(index + 1);
            }
            for next in adjacency.of(node) {
                let theirs = &mut self.entries[*next as usize * self.width..][..self.width];
                theirs.iter_mut().zip(&clock).for_each(|(entry, new)| *entry = (*entry).max(*new));
                missing[*next as usize] -= 1;
                if missing[*next as usize] == 0 {
                    ready.push(*next);
                }
            }
        }
        done == all
    }

    /// Whether a transaction has seen another.
    pub(super) fn has_seen(&self, reader: u32, other: u32) -> bool {
        let (Some(reader), Some(other)) = (self.local(reader), self.local(other)) else {
            return false;
        };
        let (chain, index) = self.places[other as usize];
        self.entries[reader as usize * self.width + chain as usize] > index
    }
}
