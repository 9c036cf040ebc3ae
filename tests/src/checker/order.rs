//! Judges registers and predicates: looks for an order of each key's versions that the level allows.
//!
//! First the order that is known by itself: a cycle under it is a cycle under every order. Then whole
//! orders that commit timestamps or the times of the writers suggest; the first one without a
//! forbidden cycle proves that the level is kept. If none is, what follows about the order is added
//! (`saturate`), and that is tried again; each cycle of such an order names two
//! neighbours that could also be the other way round. At first all of them are turned at once, as long
//! as that leads on; then both ways are tried in turn, to the end or until the budget is spent.
//!
//! What times suggest: a transaction took effect before it was acknowledged, and before everything
//! that depends on it took effect. The earliest of these is its deadline, and versions whose order is
//! open are put in the order of their writers' deadlines.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::history::{History, Key, Transaction};

use super::anomaly::{Anomaly, Phenomenon};
use super::dependencies::{gather, timestamps};
use super::graph::{Adjacency, Levels};
use super::items::{Items, NONE};
use super::question::{Found, Gathered, Question, Report, Verdict};
use super::saturate::{Follows, saturate};
use super::witness::{Dependency, Edge, Witness};

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
        Report::undecided(super::NOTHING_DEPENDS)
    } else {
        complete(&mut items, question)
    };
    notes(&items, &mut report);
    report
}

/// Looks for an order of all versions: at first one that times suggest, then with all that follows.
fn complete(items: &mut Items<'_>, question: &Question) -> Report {
    if Search::new(items, question).guess() {
        return Report::new(Vec::new(), Verdict::Holds);
    }
    let Follows { pairs, circular } = saturate(items);
    if circular || cyclic(items, &pairs).is_some() {
        // What the order that is known forbids is told in fewer words than what follows from it.
        let report = Search::new(items, question).report();
        if report.verdict == Verdict::Violated {
            return report;
        }
    }
    items.known.extend(pairs);
    items.known.sort_unstable();
    items.known.dedup();
    Search::new(items, question).report()
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
    if inference.writes_follow_reads
        && let Some(key) = cyclic(items, &[])
    {
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

/// What a writer's deadline is made of.
#[derive(Clone, Copy)]
enum Hint {
    Commit,
    Completion,
    Invocation,
}

/// What is forbidden under an order, if anything: the shortest case, and every cycle that was met.
type Forbidden = Option<(Found, Vec<Witness>)>;

struct Search<'a> {
    items: &'a Items<'a>,
    question: &'a Question,
    /// Keys whose order is asked for.
    keys: Vec<Key>,
    /// Per hint, the deadline of each transaction.
    deadlines: HashMap<u8, Vec<u64>>,
    steps: u64,
}

/// What an attempt costs however small the history is.
const ATTEMPT_STEPS: u64 = 2000;

/// In so many rounds at most all cycles are turned at once.
const ROUNDS_MAX: usize = 64;

impl<'a> Search<'a> {
    fn new(items: &'a Items<'a>, question: &'a Question) -> Search<'a> {
        let order = Partial::new(items, &items.known);
        let keys = items
            .history
            .keys()
            .filter(|key| !items.open.contains(key) && !total(items, &order, *key))
            .collect();
        Search { items, question, keys, deadlines: HashMap::new(), steps: 0 }
    }

    /// The hints that the history gives.
    fn hints(&self) -> impl Iterator<Item = Hint> + use<> {
        let mut transactions = self.items.history.transactions().iter();
        let commits = transactions.any(|transaction| transaction.commit.is_some());
        let commit = commits.then_some(Hint::Commit);
        commit.into_iter().chain([Hint::Completion, Hint::Invocation])
    }

    /// Whether the first order that a hint suggests is one.
    fn guess(mut self) -> bool {
        self.keys.is_empty()
            || self.hints().any(|hint| matches!(self.attempt(&[], hint), Some(None)))
    }

    fn report(mut self) -> Report {
        let mut first: Option<Found> = None;
        for hint in self.hints() {
            if self.repair(hint, &mut first) {
                return Report::new(Vec::new(), Verdict::Holds);
            }
        }
        // Each entry is a set of decisions that is still to be tried.
        let mut open: Vec<Vec<(u32, u32)>> = vec![Vec::new()];
        while let Some(decided) = open.pop() {
            if self.steps > self.question.budget.steps {
                return self.exhausted();
            }
            let Some(attempt) = self.attempt(&decided, Hint::Completion) else { continue };
            let Some((found, _)) = attempt else {
                return Report::new(Vec::new(), Verdict::Holds);
            };
            let partial = self.partial(&decided);
            let Some((before, after)) = self.choice(&partial, &found.witness) else { continue };
            for pair in [(before, after), (after, before)] {
                let mut decided = decided.clone();
                decided.push(pair);
                open.push(decided);
            }
        }
        let mut found = first.unwrap_or_else(|| self.impossible());
        found.witness.because =
            "every order of the versions that were written has such a cycle; one of them:"
                .to_owned();
        Report::new(vec![found], Verdict::Holds)
    }

    fn exhausted(&self) -> Report {
        Report::undecided(&format!(
            "no order of the versions of {} keys was found that keeps the level, and not all were \
             tried within the budget of {} steps",
            self.keys.len(),
            self.question.budget.steps
        ))
    }

    /// Turns what a hint suggests until nothing is forbidden under it; gives whether that succeeds.
    fn repair(&mut self, hint: Hint, first: &mut Option<Found>) -> bool {
        let mut decided: Vec<(u32, u32)> = Vec::new();
        let mut sure = 0;
        let known = self.partial(&[]);
        for _ in 0..ROUNDS_MAX {
            let Some(attempt) = self.attempt(&decided, hint) else {
                // What was turned last contradicts itself: only the first of it, then.
                if decided.len() <= sure + 1 {
                    return false;
                }
                decided.truncate(sure + 1);
                continue;
            };
            let Some((found, all)) = attempt else { return true };
            first.get_or_insert(found);
            sure = decided.len();
            let partial = self.partial(&decided);
            let mut turned = Vec::new();
            for witness in &all {
                if let Some((before, after)) = self.choice(&partial, witness) {
                    turned.push((after, before));
                } else if let Some((before, after)) = self.choice(&known, witness) {
                    // Turned the wrong way before: what was decided of that key is taken back.
                    let key = self.items.versions[before as usize].key;
                    decided.retain(|pair| self.items.versions[pair.0 as usize].key != key);
                    turned.insert(0, (after, before));
                }
            }
            sure = sure.min(decided.len());
            let idle = turned.is_empty();
            decided.extend(turned);
            if idle || self.steps > self.question.budget.steps / 2 {
                return false;
            }
        }
        false
    }

    /// What is said where not even one order keeps what is known.
    fn impossible(&self) -> Found {
        let anomaly = Anomaly::from(Phenomenon::CyclicVersions);
        Found { anomaly, count: 1, witness: Witness::of(Vec::new(), String::new()) }
    }

    fn partial(&self, decided: &[(u32, u32)]) -> Partial {
        let all: Vec<(u32, u32)> = self.items.known.iter().chain(decided).copied().collect();
        Partial::new(self.items, &all)
    }

    /// Completes the order and looks what is forbidden under it. None if the decisions contradict
    /// what is known.
    fn attempt(&mut self, decided: &[(u32, u32)], hint: Hint) -> Option<Forbidden> {
        let partial = self.partial(decided);
        if !self.deadlines.contains_key(&(hint as u8)) {
            let deadlines = self.deadlines_by(hint);
            self.deadlines.insert(hint as u8, deadlines);
        }
        let deadlines = &self.deadlines[&(hint as u8)];
        let rank = |version: u32| {
            let writer = self.items.versions[version as usize].writer;
            deadlines.get(writer as usize).copied().unwrap_or(0)
        };
        let mut order = Vec::new();
        for key in &self.keys {
            let sorted = partial.sort(self.items.range(*key), rank)?;
            order.extend(sorted.windows(2).map(|pair| (pair[0], pair[1])));
        }
        let mut gathered = Gathered::with_all();
        let mut steps = ATTEMPT_STEPS;
        let edges = |visit: &mut dyn FnMut(Edge)| self.items.edges(&order, visit);
        edges(&mut |_| steps += 1);
        gather(self.items.history, self.items.levels, self.question, &edges, &mut gathered);
        self.steps += steps;
        let all = gathered.take_all();
        let mut found = gathered.into_found();
        found.sort_by_key(|found| found.witness.transactions.len());
        Some(found.into_iter().next().map(|found| (found, all)))
    }

    fn deadlines_by(&self, hint: Hint) -> Vec<u64> {
        let transactions = self.items.history.transactions();
        let own = |transaction: &Transaction| match hint {
            Hint::Commit => transaction.commit.map_or(u64::MAX, std::num::NonZeroU64::get),
            Hint::Completion => transaction.completed.into(),
            Hint::Invocation => transaction.invoked.into(),
        };
        let mut deadlines: Vec<u64> = transactions.iter().map(own).collect();
        let mut pairs = Vec::new();
        self.items.edges(&[], &mut |edge| {
            let fixed =
                matches!(hint, Hint::Commit) && transactions[edge.from as usize].commit.is_some();
            if !fixed {
                pairs.push((edge.from, edge.to));
            }
        });
        for _ in 0..ROUNDS_MAX {
            let mut changed = false;
            for (from, to) in pairs.iter().rev() {
                let (known, next) = (deadlines[*from as usize], deadlines[*to as usize]);
                if next < known {
                    deadlines[*from as usize] = next;
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        let adjacency = Adjacency::new(transactions.len(), &pairs);
        let own: Vec<u64> = transactions.iter().map(own).collect();
        let sorted = in_order(&adjacency, &deadlines, &own);
        let mut places = vec![0; sorted.len()];
        for (place, transaction) in sorted.iter().enumerate() {
            places[*transaction as usize] = place as u64;
        }
        places
    }

    /// Two versions that the cycle has in an order that is not known.
    fn choice(&self, partial: &Partial, witness: &Witness) -> Option<(u32, u32)> {
        let free = |pair: &(u32, u32)| !partial.leads(pair.0, pair.1);
        witness.edges.iter().filter_map(|edge| self.pair(edge)).find(free)
    }

    /// The versions because of whose order an edge is there.
    fn pair(&self, edge: &Edge) -> Option<(u32, u32)> {
        let before = match edge.kind {
            Dependency::Ww => self.items.written_by(edge.from, edge.key)?,
            Dependency::Rw | Dependency::RwPredicate => {
                let version = self.items.version(edge.key, edge.before);
                version.unwrap_or_else(|| self.items.unborn(edge.key))
            }
            _ => return None,
        };
        Some((before, self.items.written_by(edge.to, edge.key)?))
    }
}

/// Transactions in an order that keeps the edges as far as they are no circle, the earliest deadline first,
/// and among equals who would have come first without.
fn in_order(adjacency: &Adjacency, deadlines: &[u64], own: &[u64]) -> Vec<u32> {
    let mut missing = vec![0_u32; deadlines.len()];
    for node in 0..deadlines.len() {
        for next in adjacency.of(node) {
            missing[*next as usize] += 1;
        }
    }
    let entry = |node: u32| (deadlines[node as usize], own[node as usize], node);
    let mut ready: BTreeSet<(u64, u64, u32)> = (0..deadlines.len() as u32)
        .filter(|node| missing[*node as usize] == 0)
        .map(entry)
        .collect();
    let mut sorted = Vec::with_capacity(deadlines.len());
    while let Some((_, _, node)) = ready.pop_first() {
        sorted.push(node);
        for next in adjacency.of(node as usize) {
            let left = &mut missing[*next as usize];
            *left -= 1;
            if *left == 0 {
                ready.insert(entry(*next));
            }
        }
    }
    let mut rest: Vec<_> =
        (0..deadlines.len() as u32).filter(|node| missing[*node as usize] > 0).map(entry).collect();
    rest.sort_unstable();
    sorted.extend(rest.into_iter().map(|(_, _, node)| node));
    sorted
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
