//! Judges registers and predicates: looks for an order of each key's versions that the level allows.
//!
//! First the order that is known by itself: a cycle under it is a cycle under every order. Then whole
//! orders that commit timestamps or the times of the writers suggest; the first one without a
//! forbidden cycle proves that the level is kept. If none is, the cycle of such an order names two
//! neighbours that could also be the other way round, and both ways are tried in turn, to the end or
//! until the budget is spent.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::history::{History, Key, Transaction};

use super::anomaly::{Anomaly, Phenomenon};
use super::dependencies::{gather, timestamps};
use super::graph::Levels;
use super::items::{Items, NONE};
use super::question::{Found, Gathered, Question, Report, Verdict};
use super::witness::{Edge, Witness};

/// Judges a history of registers, with or without predicates.
pub(super) fn judge(history: &History, question: &Question) -> Report {
    let levels = Levels::new(history, question);
    let mut gathered = Gathered::default();
    let mut items = match Items::new(history, &levels, question, &mut gathered) {
        Ok(items) => items,
        Err(why) => return Report::undecided(&why),
    };
    grant(&mut items, question, &mut gathered);
    let edges = |visit: &mut dyn FnMut(Edge)| items.edges(&[], visit);
    let any = gather(history, &levels, question, &edges, &mut gathered);
    timestamps(history, &edges, &mut gathered);
    let found = gathered.into_found();
    let mut report = if !found.is_empty() {
        Report::new(found, Verdict::Holds)
    } else if !any {
        Report::undecided("no transaction depends on another")
    } else {
        Search::new(&items, question).report()
    };
    notes(&items, &mut report);
    report
}

fn notes(items: &Items<'_>, report: &mut Report) {
    if let Some(key) = items.open.iter().min() {
        report.notes.push(format!(
            "values of {} keys (one is {}) were read and not written in this history: somebody \
             else's writes are taken for granted there, and no order of versions is asked for",
            items.open.len(),
            items.history.key_name(*key)
        ));
    }
    if items.unresolved > 0 {
        report.notes.push(format!(
            "{} reads found nothing where several deletions leave open which: nothing follows \
             from them",
            items.unresolved
        ));
    }
}

/// Adds what the question grants about the order of versions, unless it is cyclic.
fn grant(items: &mut Items<'_>, question: &Question, gathered: &mut Gathered) {
    let inference = question.inference;
    if let Some(key) = cyclic(items, &[]).filter(|_| inference.writes_follow_reads) {
        meet_cyclic(items, key, gathered);
    }
    let sources = [
        (inference.sequential_keys, sequential as fn(&Items<'_>) -> Vec<(u32, u32)>),
        (inference.linearizable_keys, linearizable),
    ];
    for (granted, pairs) in sources {
        if !granted {
            continue;
        }
        let pairs = pairs(items);
        match cyclic(items, &pairs) {
            Some(key) => meet_cyclic(items, key, gathered),
            None => items.known.extend(pairs),
        }
    }
}

fn meet_cyclic(items: &Items<'_>, key: Key, gathered: &mut Gathered) {
    let writers: Vec<usize> = items
        .range(key)
        .map(|version| items.versions[version].writer)
        .filter(|writer| *writer != NONE)
        .map(|writer| writer as usize)
        .collect();
    gathered.meet(Phenomenon::CyclicVersions.into(), writers.len(), || {
        let name = items.history.key_name(key);
        Witness::of(writers, format!("versions of {name} come before each other"))
    });
}

/// A key of which the known order, with these pairs, is cyclic.
fn cyclic(items: &Items<'_>, pairs: &[(u32, u32)]) -> Option<Key> {
    let all: Vec<(u32, u32)> = items.known.iter().chain(pairs).copied().collect();
    let order = Partial::new(items, &all);
    items.history.keys().find(|key| order.sort(items.range(*key), |_| 0).is_none())
}

/// What a transaction first and last had of each key that it used.
fn used(items: &Items<'_>) -> Vec<Vec<(Key, u32, u32)>> {
    let mut used: Vec<Vec<(Key, u32, u32)>> = vec![Vec::new(); items.history.transactions().len()];
    for (version, reader) in items.readers() {
        let key = items.versions[version as usize].key;
        let last = items.written_by(reader, key).unwrap_or(version);
        used[reader as usize].push((key, version, last));
    }
    for (at, version) in items.versions.iter().enumerate() {
        let Some(uses) = used.get_mut(version.writer as usize) else { continue };
        if uses.iter().all(|(key, ..)| *key != version.key) {
            uses.push((version.key, at as u32, at as u32));
        }
    }
    used
}

fn committed(transaction: &Transaction) -> bool {
    transaction.outcome == crate::history::Outcome::Committed
}

/// Pairs of versions that follow each other in a session.
fn sequential(items: &Items<'_>) -> Vec<(u32, u32)> {
    let mut pairs = Vec::new();
    let mut last: HashMap<(u32, Key), u32> = HashMap::new();
    for (transaction, uses) in items.history.transactions().iter().zip(used(items)) {
        if !committed(transaction) || transaction.process == Transaction::NOBODY {
            continue;
        }
        for (key, first, after) in uses {
            let before = last.insert((transaction.process, key), after);
            pairs.extend(before.filter(|before| *before != first).map(|before| (before, first)));
        }
    }
    pairs
}

/// Pairs of versions that follow each other in real time.
fn linearizable(items: &Items<'_>) -> Vec<(u32, u32)> {
    let transactions = items.history.transactions();
    let used = used(items);
    // Begins and ends in their order; who ends when another begins is concurrent with it.
    let mut events: Vec<(u32, bool, usize)> = Vec::new();
    for (place, transaction) in transactions.iter().enumerate() {
        let timed = transaction.invoked > 0 && transaction.completed != Transaction::NEVER;
        if committed(transaction) && timed && !transaction.initial {
            events.push((transaction.invoked, false, place));
            events.push((transaction.completed, true, place));
        }
    }
    events.sort_unstable();
    let mut frontier: HashMap<Key, Vec<(usize, u32)>> = HashMap::new();
    let mut before: HashMap<(usize, Key), Vec<usize>> = HashMap::new();
    let mut pairs = BTreeSet::new();
    for (_, end, place) in events {
        for (key, first, last) in &used[place] {
            let front = frontier.entry(*key).or_default();
            if end {
                let passed = before.remove(&(place, *key)).unwrap_or_default();
                front.retain(|(who, _)| !passed.contains(who));
                front.push((place, *last));
            } else {
                before.insert((place, *key), front.iter().map(|(who, _)| *who).collect());
                let earlier = front.iter().map(|(_, version)| *version);
                pairs.extend(earlier.filter(|v| v != first).map(|version| (version, *first)));
            }
        }
    }
    pairs.into_iter().collect()
}

/// A partial order of versions.
struct Partial {
    /// Sorted pairs.
    pairs: Vec<(u32, u32)>,
}

impl Partial {
    fn new(items: &Items<'_>, pairs: &[(u32, u32)]) -> Partial {
        debug_assert!(pairs.iter().all(|(before, after)| {
            items.versions[*before as usize].key == items.versions[*after as usize].key
        }));
        let mut pairs = pairs.to_vec();
        pairs.sort_unstable();
        pairs.dedup();
        Partial { pairs }
    }

    fn after(&self, version: u32) -> impl Iterator<Item = u32> {
        let from = self.pairs.partition_point(|(before, _)| *before < version);
        self.pairs[from..].iter().take_while(move |(of, _)| *of == version).map(|(_, to)| *to)
    }

    /// A key's versions in an order that keeps this one, lower ranks first; none if it is cyclic.
    fn sort(&self, range: std::ops::Range<usize>, rank: impl Fn(u32) -> u64) -> Option<Vec<u32>> {
        let start = range.start;
        let mut missing = vec![0; range.len()];
        for version in range.clone() {
            for after in self.after(version as u32) {
                missing[after as usize - start] += 1;
            }
        }
        let mut ready: BTreeSet<(u64, u32)> = range
            .clone()
            .filter(|version| missing[version - start] == 0)
            .map(|version| (rank(version as u32), version as u32))
            .collect();
        let mut sorted = Vec::with_capacity(range.len());
        while let Some((_, version)) = ready.pop_first() {
            sorted.push(version);
            for after in self.after(version) {
                let left = &mut missing[after as usize - start];
                *left -= 1;
                if *left == 0 {
                    ready.insert((rank(after), after));
                }
            }
        }
        (sorted.len() == range.len()).then_some(sorted)
    }

    /// Whether one version is known to come before another.
    fn leads(&self, from: u32, to: u32) -> bool {
        let mut open = vec![from];
        let mut seen = HashSet::new();
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            open.extend(self.after(at).filter(|next| seen.insert(*next)));
        }
        false
    }
}

/// By what versions are sorted where their order is not known.
#[derive(Clone, Copy)]
enum Hint {
    Commit,
    Completion,
    Invocation,
}

struct Search<'a> {
    items: &'a Items<'a>,
    question: &'a Question,
    /// Keys whose order is asked for.
    keys: Vec<Key>,
    steps: u64,
}

impl<'a> Search<'a> {
    fn new(items: &'a Items<'a>, question: &'a Question) -> Search<'a> {
        let order = Partial::new(items, &items.known);
        let keys = items
            .history
            .keys()
            .filter(|key| !items.open.contains(key) && !total(items, &order, *key))
            .collect();
        Search { items, question, keys, steps: 0 }
    }

    fn report(mut self) -> Report {
        if self.keys.is_empty() {
            return Report::new(Vec::new(), Verdict::Holds);
        }
        let mut first: Option<Found> = None;
        for hint in [Hint::Commit, Hint::Completion, Hint::Invocation] {
            let Some((_, found)) = self.attempt(&[], hint) else { break };
            match found {
                None => return Report::new(Vec::new(), Verdict::Holds),
                Some(found) => {
                    first.get_or_insert(found);
                }
            }
        }
        // Each entry is a set of decisions that is still to be tried.
        let mut open: Vec<Vec<(u32, u32)>> = vec![Vec::new()];
        while let Some(decided) = open.pop() {
            if self.steps > self.question.budget.steps {
                let names = self.keys.len();
                return Report::undecided(&format!(
                    "no order of the versions of {names} keys was found that keeps the level, and \
                     not all were tried within the budget of {} steps",
                    self.question.budget.steps
                ));
            }
            let Some((order, found)) = self.attempt(&decided, Hint::Completion) else { continue };
            let Some(found) = found else {
                return Report::new(Vec::new(), Verdict::Holds);
            };
            let Some((before, after)) = self.choice(&decided, &order, &found.witness) else {
                continue;
            };
            for pair in [(before, after), (after, before)] {
                let mut decided = decided.clone();
                decided.push(pair);
                open.push(decided);
            }
        }
        let mut found = first.unwrap_or_else(|| self.impossible());
        found.witness.because = "every order of the versions that were written has a cycle like \
                                 this one"
            .to_owned();
        Report::new(vec![found], Verdict::Holds)
    }

    /// What is said where not even one order keeps what is known.
    fn impossible(&self) -> Found {
        let anomaly = Anomaly::from(Phenomenon::CyclicVersions);
        Found { anomaly, count: 1, witness: Witness::of(Vec::new(), String::new()) }
    }

    /// Completes the order and looks what is forbidden under it. None if the decisions contradict
    /// what is known.
    fn attempt(
        &mut self,
        decided: &[(u32, u32)],
        hint: Hint,
    ) -> Option<(Vec<(u32, u32)>, Option<Found>)> {
        let all: Vec<(u32, u32)> = self.items.known.iter().chain(decided).copied().collect();
        let partial = Partial::new(self.items, &all);
        let mut order = Vec::new();
        for key in &self.keys {
            let sorted =
                partial.sort(self.items.range(*key), |version| self.rank(version, hint))?;
            order.extend(sorted.windows(2).map(|pair| (pair[0], pair[1])));
        }
        let mut gathered = Gathered::default();
        let mut steps = 0;
        let edges = |visit: &mut dyn FnMut(Edge)| self.items.edges(&order, visit);
        edges(&mut |_| steps += 4);
        gather(self.items.history, self.items.levels, self.question, &edges, &mut gathered);
        self.steps += steps;
        let mut found = gathered.into_found();
        found.sort_by_key(|found| found.witness.transactions.len());
        Some((order, found.into_iter().next()))
    }

    fn rank(&self, version: u32, hint: Hint) -> u64 {
        let writer = self.items.versions[version as usize].writer;
        let Some(writer) = self.items.history.transactions().get(writer as usize) else { return 0 };
        match hint {
            Hint::Commit => writer.commit.map_or(u64::MAX, std::num::NonZeroU64::get),
            Hint::Completion => writer.completed.into(),
            Hint::Invocation => writer.invoked.into(),
        }
    }

    /// Two versions that the cycle has in an order that is not known.
    fn choice(
        &self,
        decided: &[(u32, u32)],
        order: &[(u32, u32)],
        witness: &Witness,
    ) -> Option<(u32, u32)> {
        let all: Vec<(u32, u32)> = self.items.known.iter().chain(decided).copied().collect();
        let partial = Partial::new(self.items, &all);
        let versions = &self.items.versions;
        let of_edge = |edge: &Edge| {
            let kind = edge.kind;
            let ordered = kind.is_anti() || kind == super::witness::Dependency::Ww;
            ordered.then_some((edge.key, edge.to))
        };
        let wanted: HashSet<(Key, u32)> = witness.edges.iter().filter_map(of_edge).collect();
        // An anti-dependency on a predicate may lie further along: every pair of its key counts.
        let keys: HashSet<Key> = wanted.iter().map(|(key, _)| *key).collect();
        let exact = |pair: &&(u32, u32)| {
            let after = versions[pair.1 as usize];
            wanted.contains(&(after.key, after.writer))
        };
        let near = |pair: &&(u32, u32)| keys.contains(&versions[pair.1 as usize].key);
        let free = |pair: &&(u32, u32)| !partial.leads(pair.0, pair.1);
        order
            .iter()
            .filter(exact)
            .find(free)
            .or_else(|| order.iter().filter(near).find(free))
            .copied()
    }
}

/// Whether the order of a key's versions is known wholly.
fn total(items: &Items<'_>, order: &Partial, key: Key) -> bool {
    match order.sort(items.range(key), |_| 0) {
        Some(sorted) => {
            sorted.windows(2).all(|pair| order.after(pair[0]).any(|after| after == pair[1]))
        }
        None => true,
    }
}
