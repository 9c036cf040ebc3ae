//! What follows about the order of versions from who is known to come before whom.
//!
//! - If the writer of a version comes before the writer of another, so does the version: the other way
//!   round there would be a circle of dependencies.
//! - If the writer of a version comes before somebody who read another version of the same key, the
//!   version comes before that other one: otherwise it would have overtaken the read.
//!
//! What follows adds dependencies, from which more may follow. Only circles that the levels of all who
//! take part forbid are used: so whatever keeps the levels keeps what is concluded.

use super::graph::{Adjacency, Chain, Levels, sessions};
use super::items::{Items, NONE};
use super::witness::Edge;
use crate::history::Base;

/// Transactions at most: who comes before whom takes a bit for each pair.
const TRANSACTIONS_MAX: usize = 8_192;
/// Versions of a key at most: each pair is looked at.
const VERSIONS_MAX: usize = 512;
/// Rounds at most; what is left out then is looked for by search.
const ROUNDS_MAX: usize = 32;

/// What follows.
#[derive(Debug, Default)]
pub(super) struct Follows {
    /// Pairs of versions, of which the first comes first.
    pub(super) pairs: Vec<(u32, u32)>,
    /// Whether they make a circle of dependencies: then no order keeps the levels.
    pub(super) circular: bool,
}

/// Everything that follows, unless the history is too large for it.
pub(super) fn saturate(items: &Items<'_>) -> Follows {
    let mut all = Follows::default();
    if items.history.transactions().len() > TRANSACTIONS_MAX {
        return all;
    }
    for _ in 0..ROUNDS_MAX {
        let Some(more) = round(items, &all.pairs) else {
            all.circular = true;
            break;
        };
        let known = all.pairs.len();
        all.pairs.extend(more);
        all.pairs.sort_unstable();
        all.pairs.dedup();
        if all.pairs.len() == known {
            break;
        }
    }
    all
}

fn round(items: &Items<'_>, concluded: &[(u32, u32)]) -> Option<Vec<(u32, u32)>> {
    let levels = items.levels;
    let informs = |edge: &Edge| !edge.kind.is_anti();
    // Whoever is left by an anti-dependency may have been reached by one, but under snapshots.
    let any = |edge: &Edge| informs(edge) || levels.may_follow(edge.from);
    let informed = Before::new(items, concluded, &informs)?;
    let before = Before::new(items, concluded, &any)?;
    let mut more = Vec::new();
    for key in items.history.keys() {
        let range = items.range(key);
        if items.open.contains(&key) || range.len() > VERSIONS_MAX {
            continue;
        }
        let writers: Vec<(u32, u32)> = range
            .map(|version| (version as u32, items.versions[version].writer))
            .filter(|(_, writer)| *writer != NONE)
            .collect();
        for (version, writer) in &writers {
            for (other, earlier) in &writers {
                if before.leads(*earlier, *writer) {
                    more.push((*other, *version));
                }
            }
            for reader in items.readers_of(*version) {
                let before = match levels.of(reader).base {
                    base if base < Base::RepeatableRead => continue,
                    Base::Snapshot => &informed,
                    _ => &before,
                };
                for (other, earlier) in &writers {
                    if other != version && *earlier != reader && before.leads(*earlier, reader) {
                        more.push((*other, *version));
                    }
                }
            }
        }
    }
    Some(more)
}

/// Who comes before whom.
struct Before {
    words: usize,
    bits: Vec<u64>,
}

impl Before {
    /// By the edges that count and are wanted; none if they go in a circle.
    fn new(
        items: &Items<'_>,
        concluded: &[(u32, u32)],
        wanted: &dyn Fn(&Edge) -> bool,
    ) -> Option<Before> {
        let (history, levels): (_, &Levels) = (items.history, items.levels);
        let nodes = history.transactions().len();
        let chain = Chain::new(history, levels, None);
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        items.edges(concluded, &mut |edge| {
            if levels.counts(edge.from, edge.to, edge.kind) && wanted(&edge) {
                pairs.push((edge.from, edge.to));
            }
        });
        sessions(history, levels, &mut |edge| pairs.push((edge.from, edge.to)));
        pairs.extend(chain.links(nodes));
        pairs.sort_unstable();
        pairs.dedup();
        let all = nodes + chain.len();
        let adjacency = Adjacency::new(all, &pairs);
        let words = nodes.div_ceil(64);
        let mut before = Before { words, bits: vec![0; words * all] };
        let mut missing = vec![0_u32; all];
        pairs.iter().for_each(|(_, to)| missing[*to as usize] += 1);
        let mut ready: Vec<u32> =
            (0..all as u32).filter(|node| missing[*node as usize] == 0).collect();
        let mut done = 0;
        while let Some(node) = ready.pop() {
            done += 1;
            for next in adjacency.of(node as usize) {
                before.pass_on(node as usize, *next as usize, nodes);
                missing[*next as usize] -= 1;
                if missing[*next as usize] == 0 {
                    ready.push(*next);
                }
            }
        }
        (done == all).then_some(before)
    }

    /// Who comes before `from`, and `from` if it is a transaction, comes before `to`.
    fn pass_on(&mut self, from: usize, to: usize, nodes: usize) {
        for word in 0..self.words {
            self.bits[to * self.words + word] |= self.bits[from * self.words + word];
        }
        if from < nodes {
            self.bits[to * self.words + from / 64] |= 1 << (from % 64);
        }
    }

    fn leads(&self, from: u32, to: u32) -> bool {
        let (from, to) = (from as usize, to as usize);
        self.bits[to * self.words + from / 64] & 1 << (from % 64) != 0
    }
}
