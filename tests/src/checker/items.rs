//! Registers, and items that are read by predicates: every value of a key is written once, so a read
//! tells whose version it saw. In which order versions were installed must be inferred:
//!
//! - nothing ("unborn") comes first, then what the initial transaction wrote;
//! - a version that a transaction read comes before the one by which it replaced it: the other way
//!   round information would flow in a circle, which read-committed and all above it forbid;
//! - what [`Inference`](super::question::Inference) grants besides.
//!
//! That order is partial. What violates the level under it violates it. Otherwise an order of each
//! key's versions is looked for under which the level is kept, first those that commit timestamps or
//! the times of the writers suggest, then by search (`order`).
//!
//! A read by a predicate chose a version of every item (Adya's version set): of what it returned, the
//! version that it returned; of what it did not, one that does not match. If only one version does
//! not, that is the one (Elle's closed predicate). Where several deletions leave it open which "nothing"
//! was read, nothing is concluded from that.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::history::{Base, History, Key, Name, Operation, Outcome, Predicate, Value};

use super::anomaly::Phenomenon;
use super::graph::{Levels, possible};
use super::question::{Gathered, Question};
use super::witness::{Dependency, Edge, Witness, value};

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// A version of an item.
#[derive(Clone, Copy, Debug)]
pub(super) struct Version {
    pub(super) key: Key,
    /// Nil where nothing is there: unborn, or deleted.
    pub(super) value: Value,
    /// Who installed it; nobody, if it is unborn or from outside of the history.
    pub(super) writer: u32,
}

/// A write that is no version.
#[derive(Clone, Copy, Debug)]
struct Other {
    transaction: u32,
    aborted: bool,
}

/// A read by a predicate, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Selected {
    predicate: u32,
    version: u32,
    reader: u32,
}

/// What a predicate may have chosen of a key that it did not return.
#[derive(Clone, Copy, Debug)]
struct Unseen {
    key: Key,
    /// The only version that does not match; none if there are several.
    only: u32,
    /// Whether every version matches.
    missed: bool,
}

/// The versions of all items, who read them, and what is known about their order.
pub(super) struct Items<'a> {
    pub(super) history: &'a History,
    pub(super) levels: &'a Levels,
    /// By key: unborn, values in their order, deletions.
    pub(super) versions: Vec<Version>,
    pub(super) of_key: Vec<u32>,
    /// Per key, how many deletions are at its end.
    deletions: Vec<u32>,
    /// Writes by key and value that are no version.
    others: HashMap<(Key, Value), Other>,
    /// Who read which version: version and reader, sorted.
    readers: Vec<(u32, u32)>,
    /// Sorted.
    selected: Vec<Selected>,
    /// Pairs of versions of which the first comes first.
    pub(super) known: Vec<(u32, u32)>,
    /// Keys with values from outside of the history.
    pub(super) open: HashSet<Key>,
    /// Reads of nothing of which it is open what they saw.
    pub(super) unresolved: usize,
}

/// The last write of each key by a transaction, and whether it is its only one.
fn writes(operations: &[Operation]) -> impl Iterator<Item = (usize, Key, Value)> {
    operations.iter().enumerate().filter_map(|(at, operation)| match *operation {
        Operation::Write { key, value } | Operation::Insert { key, value } => {
            Some((at, key, value))
        }
        Operation::Delete { key } => Some((at, key, Value::NIL)),
        _ => None,
    })
}

fn writes_later(operations: &[Operation], at: usize, key: Key) -> bool {
    writes(operations.get(at + 1..).unwrap_or_default()).any(|(_, of, _)| of == key)
}

/// Whether an operation before `at` wrote `key`.
fn wrote(operations: &[Operation], at: usize, key: Key) -> bool {
    writes(&operations[..at]).any(|(_, of, _)| of == key)
}

/// Whether anybody can have seen of a transaction that it happened. If nobody has, then a history that
/// holds with it holds without it, too: it is taken not to have happened.
fn shows(operations: &[Operation], read: &HashSet<(Key, Value)>) -> bool {
    writes(operations).any(|(_, key, value)| value.is_nil() || read.contains(&(key, value)))
}

impl<'a> Items<'a> {
    pub(super) fn new(
        history: &'a History,
        levels: &'a Levels,
        question: &Question,
        gathered: &mut Gathered,
    ) -> Result<Items<'a>, String> {
        let mut items = Items {
            history,
            levels,
            versions: Vec::new(),
            of_key: Vec::new(),
            deletions: Vec::new(),
            others: HashMap::new(),
            readers: Vec::new(),
            selected: Vec::new(),
            known: Vec::new(),
            open: HashSet::new(),
            unresolved: 0,
        };
        items.install(question.closed)?;
        items.read(question, gathered);
        items.readers.sort_unstable();
        items.readers.dedup();
        items.selected.sort_unstable();
        items.selected.dedup();
        items.first_versions();
        items.replaced(question);
        Ok(items)
    }

    /// Makes the versions of every key.
    fn install(&mut self, closed: bool) -> Result<(), String> {
        let mut written: Vec<Version> = Vec::with_capacity(self.history.operation_count());
        let read = self.read_where_unknown();
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            let operations = self.history.operations(place);
            for operation in operations {
                check(operation)?;
            }
            if transaction.outcome == Outcome::Unknown && !shows(operations, &read) {
                continue;
            }
            for (at, key, value) in writes(operations) {
                let last = !writes_later(operations, at, key);
                if last && possible(transaction) {
                    written.push(Version { key, value, writer: place as u32 });
                } else if !value.is_nil() {
                    let other =
                        Other { transaction: place as u32, aborted: !possible(transaction) };
                    self.others.insert((key, value), other);
                }
            }
        }
        // Nil sorts first; deletions go to the end of their key.
        let order = |version: &Version| (version.key, version.value.is_nil(), version.value);
        written.sort_by_key(order);
        let twice = |pair: &&[Version]| {
            let (first, second) = (pair[0], pair[1]);
            (first.key, first.value) == (second.key, second.value) && !first.value.is_nil()
        };
        if let Some(pair) = written.windows(2).find(twice) {
            let (name, shown) =
                (self.history.key_name(pair[0].key), value(self.history, pair[0].value));
            return Err(format!("{name} = {shown} was written twice: reads cannot tell which"));
        }
        let outside = if closed { Vec::new() } else { self.outside(&written) };
        let mut outside = outside.into_iter().peekable();
        let mut rest = written.into_iter().peekable();
        for key in self.history.keys() {
            self.of_key.push(self.versions.len() as u32);
            self.versions.push(Version { key, value: Value::NIL, writer: NONE });
            let mut deletions = Vec::new();
            let first = self.versions.len();
            while let Some(version) = rest.next_if(|version| version.key == key) {
                if version.value.is_nil() {
                    deletions.push(version);
                } else {
                    self.versions.push(version);
                }
            }
            while let Some((key, value)) = outside.next_if(|(of, _)| *of == key) {
                self.open.insert(key);
                self.versions.push(Version { key, value, writer: NONE });
            }
            self.versions[first..].sort_by_key(|version| version.value);
            self.deletions.push(deletions.len() as u32);
            self.versions.extend(deletions);
        }
        self.of_key.push(self.versions.len() as u32);
        Ok(())
    }

    /// What was read, where there are transactions that may have happened or not.
    fn read_where_unknown(&self) -> HashSet<(Key, Value)> {
        let mut read = HashSet::new();
        let transactions = self.history.transactions();
        if transactions.iter().all(|transaction| transaction.outcome != Outcome::Unknown) {
            return read;
        }
        for place in 0..transactions.len() {
            for operation in self.history.operations(place) {
                match *operation {
                    Operation::Read { key, value } => {
                        read.insert((key, value));
                    }
                    Operation::ReadWhere { found, .. } => read.extend(self.history.found(found)),
                    _ => {}
                }
            }
        }
        read
    }

    /// Values that were read and that nobody wrote, sorted.
    fn outside(&self, written: &[Version]) -> Vec<(Key, Value)> {
        let mut found = Vec::new();
        let mut look = |key: Key, value: Value| {
            let order = |version: &Version| (version.key, version.value.is_nil(), version.value);
            let known = value.is_nil()
                || written.binary_search_by_key(&(key, false, value), order).is_ok()
                || self.others.contains_key(&(key, value));
            if !known {
                found.push((key, value));
            }
        };
        for place in 0..self.history.transactions().len() {
            for operation in self.history.operations(place) {
                match *operation {
                    Operation::Read { key, value } => look(key, value),
                    Operation::ReadWhere { found, .. } => {
                        self.history.found(found).for_each(|(key, value)| look(key, value));
                    }
                    _ => {}
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    pub(super) fn range(&self, key: Key) -> Range<usize> {
        self.of_key[key.index()] as usize..self.of_key[key.index() + 1] as usize
    }

    pub(super) fn unborn(&self, key: Key) -> u32 {
        self.of_key[key.index()]
    }

    /// The initial transaction's version of a key.
    fn initial(&self, key: Key) -> Option<u32> {
        self.range(key).map(|at| at as u32).find(|at| {
            let writer = self.versions[*at as usize].writer;
            self.history
                .transactions()
                .get(writer as usize)
                .is_some_and(|transaction| transaction.initial)
        })
    }

    /// The version of a value; of nil, if only one can have been read.
    pub(super) fn version(&self, key: Key, value: Value) -> Option<u32> {
        let range = self.range(key);
        let deletions = self.deletions[key.index()] as usize;
        if value.is_nil() {
            return match deletions {
                0 => Some(self.unborn(key)),
                1 if self.initial(key).is_some() => Some(range.end as u32 - 1),
                _ => None,
            };
        }
        let from = range.start + 1;
        let values = &self.versions[from..range.end - deletions];
        let at = values.binary_search_by_key(&value, |version| version.value).ok()?;
        Some((from + at) as u32)
    }

    /// Goes through all reads.
    fn read(&mut self, question: &Question, gathered: &mut Gathered) {
        let unseen = self.unseen();
        let mut replaced: HashMap<u32, u32> = HashMap::new();
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            if transaction.outcome != Outcome::Committed {
                continue;
            }
            let operations = self.history.operations(place);
            for (at, operation) in operations.iter().enumerate() {
                match *operation {
                    Operation::Read { key, value } => {
                        self.own(place, operations, at, (key, value), gathered);
                        self.seen(place, key, value, question.closed, gathered);
                        if wrote(operations, at, key) {
                            continue;
                        }
                        if let Some(version) = self.version(key, value) {
                            self.readers.push((version, place as u32));
                            self.lost_update(place, at, version, &mut replaced, gathered);
                        } else if value.is_nil() {
                            self.unresolved += 1;
                        }
                    }
                    Operation::ReadWhere { predicate, found } => {
                        let found: Vec<(Key, Value)> = self.history.found(found).collect();
                        for (key, value) in &found {
                            if !wrote(operations, at, *key) {
                                self.seen(place, *key, *value, question.closed, gathered);
                            }
                        }
                        let unseen = &unseen[&predicate];
                        self.select(place, at, predicate, &found, unseen, gathered);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What the value of one read shows by itself.
    fn seen(&self, place: usize, key: Key, read: Value, closed: bool, gathered: &mut Gathered) {
        if read.is_nil() || self.version(key, read).is_some() {
            return;
        }
        let base = self.levels.of(place as u32).base;
        let (name, shown) = (self.history.key_name(key), value(self.history, read));
        match self.others.get(&(key, read)) {
            Some(other) if other.transaction as usize == place => {}
            Some(other) => {
                let phenomenon = if other.aborted { Phenomenon::G1a } else { Phenomenon::G1b };
                if phenomenon.forbidden_at(base) {
                    let why = if other.aborted { "and T2 aborted" } else { "and then replaced" };
                    gathered.meet(phenomenon.into(), 2, || {
                        let because = format!("T1 read {name} = {shown}, which T2 wrote, {why}");
                        Witness::of(vec![place, other.transaction as usize], because)
                    });
                }
            }
            None if closed => gathered.meet(Phenomenon::GarbageRead.into(), 1, || {
                Witness::of(vec![place], format!("T1 read {name} = {shown}, which nobody wrote"))
            }),
            None => {}
        }
    }

    /// Whether a read agrees with the transaction's own operations on the key before it.
    fn own(
        &self,
        place: usize,
        operations: &[Operation],
        at: usize,
        (key, read): (Key, Value),
        gathered: &mut Gathered,
    ) {
        let before = operations[..at].iter().rev().find_map(|operation| match *operation {
            Operation::Read { key: of, value }
            | Operation::Write { key: of, value }
            | Operation::Insert { key: of, value }
                if of == key =>
            {
                Some(value)
            }
            Operation::Delete { key: of } if of == key => Some(Value::NIL),
            _ => None,
        });
        let base = self.levels.of(place as u32).base;
        if let Some(before) = before.filter(|before| *before != read)
            && Phenomenon::Internal.forbidden_at(base)
        {
            gathered.meet(Phenomenon::Internal.into(), 1, || {
                let because = format!(
                    "T1 read {} = {} after it had read or written {} itself",
                    self.history.key_name(key),
                    value(self.history, read),
                    value(self.history, before)
                );
                Witness::of(vec![place], because)
            });
        }
        let later = writes(&operations[at..]).any(|(_, of, value)| (of, value) == (key, read));
        if later && !read.is_nil() && before.is_none() && Phenomenon::FutureRead.forbidden_at(base)
        {
            gathered.meet(Phenomenon::FutureRead.into(), 1, || {
                let name = self.history.key_name(key);
                let shown = value(self.history, read);
                Witness::of(vec![place], format!("T1 read {name} = {shown} before it wrote it"))
            });
        }
    }

    /// Two transactions that read one version and both replaced it.
    fn lost_update(
        &self,
        place: usize,
        at: usize,
        version: u32,
        replaced: &mut HashMap<u32, u32>,
        gathered: &mut Gathered,
    ) {
        let operations = self.history.operations(place);
        let key = self.versions[version as usize].key;
        let base = self.levels.of(place as u32).base;
        if !Phenomenon::LostUpdate.forbidden_at(base) || !writes_later(operations, at, key) {
            return;
        }
        if let Some(before) = replaced.insert(version, place as u32)
            && before as usize != place
        {
            gathered.meet(Phenomenon::LostUpdate.into(), 2, || {
                let because = format!(
                    "T1 and T2 both read {} = {} and replaced it: one did not see the other",
                    self.history.key_name(key),
                    value(self.history, self.versions[version as usize].value)
                );
                Witness::of(vec![before as usize, place], because)
            });
        }
    }

    /// The versions that a read by a predicate must have chosen.
    fn select(
        &mut self,
        place: usize,
        at: usize,
        predicate: u32,
        found: &[(Key, Value)],
        unseen: &[Unseen],
        gathered: &mut Gathered,
    ) {
        let operations = self.history.operations(place);
        let reader = place as u32;
        let mut returned: Vec<Key> = Vec::with_capacity(found.len());
        for (key, value) in found {
            returned.push(*key);
            if let Some(version) =
                self.version(*key, *value).filter(|_| !wrote(operations, at, *key))
            {
                self.selected.push(Selected { reader, predicate, version });
            }
        }
        returned.sort_unstable();
        for unseen in unseen {
            if returned.binary_search(&unseen.key).is_ok() || wrote(operations, at, unseen.key) {
                continue;
            }
            if unseen.only != NONE {
                self.selected.push(Selected { reader, predicate, version: unseen.only });
            }
            let base = self.levels.of(reader).base;
            if unseen.missed && Phenomenon::PredicateReadMiss.forbidden_at(base) {
                gathered.meet(Phenomenon::PredicateReadMiss.into(), 1, || {
                    let name = self.history.key_name(unseen.key);
                    let because =
                        format!("T1's read by a predicate misses {name}, which always matched");
                    Witness::of(vec![place], because)
                });
            }
        }
    }

    /// Per predicate, the keys of which it matters that they were not returned.
    fn unseen(&self) -> HashMap<u32, Vec<Unseen>> {
        let mut asked: HashSet<u32> = HashSet::new();
        for place in 0..self.history.transactions().len() {
            for operation in self.history.operations(place) {
                if let Operation::ReadWhere { predicate, .. } = operation {
                    asked.insert(*predicate);
                }
            }
        }
        if asked.is_empty() {
            return HashMap::new();
        }
        let candidates = Candidates::new(self);
        asked.into_iter().map(|predicate| (predicate, candidates.unseen(self, predicate))).collect()
    }

    fn matches(&self, predicate: u32, version: u32) -> bool {
        let Version { key, value, .. } = self.versions[version as usize];
        self.history.predicate_at(predicate).matches(self.history.key_name(key), value)
    }

    /// What comes first of each key: nothing, then what the initial transaction wrote.
    fn first_versions(&mut self) {
        for key in self.history.keys() {
            let unborn = self.unborn(key);
            match self.initial(key) {
                Some(initial) => {
                    self.known.push((unborn, initial));
                    let others = self.range(key).skip(1).map(|at| at as u32);
                    self.known.extend(
                        others.filter(|at| *at != initial).map(|version| (initial, version)),
                    );
                }
                None => {
                    let others = self.range(key).skip(1);
                    self.known.extend(others.map(|version| (unborn, version as u32)));
                }
            }
        }
    }

    /// Versions that a transaction read and then replaced.
    fn replaced(&mut self, question: &Question) {
        let granted = question.inference.writes_follow_reads;
        let mut pairs = Vec::new();
        for (version, reader) in &self.readers {
            let Version { key, writer, .. } = self.versions[*version as usize];
            let sound = self.levels.of(*reader).base >= Base::ReadCommitted
                && (writer != NONE || *version == self.unborn(key));
            if !sound && !granted {
                continue;
            }
            if let Some(own) = self.written_by(*reader, key) {
                pairs.push((*version, own));
            }
        }
        self.known.extend(pairs);
        self.drop_implied();
    }

    /// The version that a transaction installed of a key.
    pub(super) fn written_by(&self, transaction: u32, key: Key) -> Option<u32> {
        let operations = self.history.operations(transaction as usize);
        let (_, _, value) = writes(operations).filter(|(_, of, _)| *of == key).last()?;
        if !value.is_nil() {
            return self.version(key, value);
        }
        let range = self.range(key);
        let deletions = self.deletions[key.index()] as usize;
        (range.end - deletions..range.end)
            .find(|at| self.versions[*at].writer == transaction)
            .map(|at| at as u32)
    }

    /// Drops that the first version comes before another where something else of the key does, too.
    fn drop_implied(&mut self) {
        let first: HashSet<u32> = self
            .history
            .keys()
            .flat_map(|key| [Some(self.unborn(key)), self.initial(key)])
            .flatten()
            .collect();
        let led: HashSet<u32> = self
            .known
            .iter()
            .filter(|(before, _)| {
                !first.contains(before) && self.versions[*before as usize].writer != NONE
            })
            .map(|(_, after)| *after)
            .collect();
        let kept = |(before, after): &(u32, u32)| !first.contains(before) || !led.contains(after);
        self.known.retain(kept);
        self.known.sort_unstable();
        self.known.dedup();
    }

    /// Versions and who read them.
    pub(super) fn readers(&self) -> impl Iterator<Item = (u32, u32)> {
        self.readers.iter().copied()
    }

    pub(super) fn readers_of(&self, version: u32) -> impl Iterator<Item = u32> {
        let from = self.readers.partition_point(|(of, _)| *of < version);
        self.readers[from..].iter().take_while(move |(of, _)| *of == version).map(|(_, who)| *who)
    }

    /// Calls `visit` for each edge of data that follows if versions are in this order, too.
    pub(super) fn edges(&self, order: &[(u32, u32)], visit: &mut dyn FnMut(Edge)) {
        for (version, reader) in &self.readers {
            let Version { key, value, writer } = self.versions[*version as usize];
            if writer != NONE && writer != *reader {
                let kind = Dependency::Wr;
                visit(Edge { from: writer, to: *reader, kind, key, before: value, after: value });
            }
        }
        for (before, after) in self.known.iter().chain(order) {
            let (first, second) = (self.versions[*before as usize], self.versions[*after as usize]);
            if second.writer == NONE {
                continue;
            }
            let mut edge = |from: u32, kind| {
                if from != second.writer {
                    visit(Edge {
                        from,
                        to: second.writer,
                        kind,
                        key: first.key,
                        before: first.value,
                        after: second.value,
                    });
                }
            };
            if first.writer != NONE {
                edge(first.writer, Dependency::Ww);
            }
            self.readers_of(*before).for_each(|reader| edge(reader, Dependency::Rw));
        }
        self.predicate_edges(order, visit);
    }

    fn predicate_edges(&self, order: &[(u32, u32)], visit: &mut dyn FnMut(Edge)) {
        if self.selected.is_empty() {
            return;
        }
        let mut after: Vec<(u32, u32)> = self.known.iter().chain(order).copied().collect();
        after.sort_unstable();
        after.dedup();
        let mut changes = Changes::new(self, &after);
        for Selected { predicate, version, reader } in &self.selected {
            let Version { key, value, writer } = self.versions[*version as usize];
            if writer != NONE && writer != *reader {
                let (from, kind) = (writer, Dependency::WrPredicate);
                visit(Edge { from, to: *reader, kind, key, before: value, after: value });
            }
            for change in changes.behind(*predicate, *version) {
                let Version { value: new, writer, .. } = self.versions[*change as usize];
                if writer != *reader {
                    let (to, kind) = (writer, Dependency::RwPredicate);
                    visit(Edge { from: *reader, to, kind, key, before: value, after: new });
                }
            }
        }
    }
}

/// The versions behind each one that are the next to change whether a predicate asks for the item.
///
/// Versions from which one way leads on to another that is asked for alike share what lies behind:
/// so a long order of versions is gone through once, however many read at its beginning.
struct Changes<'i, 'h> {
    items: &'i Items<'h>,
    /// Which version comes before which, sorted.
    after: &'i [(u32, u32)],
    /// The predicate that `known` is about.
    predicate: u32,
    /// By version, where in `found` its changes lie.
    known: HashMap<u32, Range<usize>>,
    found: Vec<u32>,
    path: Vec<u32>,
}

impl<'i, 'h> Changes<'i, 'h> {
    fn new(items: &'i Items<'h>, after: &'i [(u32, u32)]) -> Changes<'i, 'h> {
        let (known, found, path) = (HashMap::new(), Vec::new(), Vec::new());
        Changes { items, after, predicate: NONE, known, found, path }
    }

    /// The changes behind a version. Whoever asks for one predicate after the other is answered fast.
    fn behind(&mut self, predicate: u32, version: u32) -> &[u32] {
        if self.predicate != predicate {
            self.predicate = predicate;
            self.known.clear();
            self.found.clear();
        }
        let mut at = version;
        self.path.clear();
        let place = loop {
            if let Some(place) = self.known.get(&at) {
                break place.clone();
            }
            self.path.push(at);
            let mut next = self.next(at);
            match (next.next(), next.next()) {
                // What is known of an order may go in a circle: no way is longer than all versions.
                (Some(one), None)
                    if self.matches(one) == self.matches(at)
                        && self.path.len() < self.items.versions.len() =>
                {
                    at = one;
                }
                _ => break self.search(at),
            }
        };
        for passed in self.path.drain(..) {
            self.known.insert(passed, place.clone());
        }
        &self.found[place]
    }

    fn search(&mut self, version: u32) -> Range<usize> {
        let matched = self.matches(version);
        let start = self.found.len();
        let mut open = vec![version];
        let mut seen: HashSet<u32> = HashSet::new();
        while let Some(at) = open.pop() {
            for next in self.next(at) {
                if !seen.insert(next) {
                    continue;
                }
                let writer = self.items.versions[next as usize].writer;
                if self.matches(next) == matched || writer == NONE {
                    open.push(next);
                } else {
                    self.found.push(next);
                }
            }
        }
        start..self.found.len()
    }

    fn next(&self, version: u32) -> impl Iterator<Item = u32> + use<'i, 'h> {
        let from = self.after.partition_point(|(before, _)| *before < version);
        self.after[from..]
            .iter()
            .take_while(move |(before, _)| *before == version)
            .map(|(_, at)| *at)
    }

    fn matches(&self, version: u32) -> bool {
        self.items.matches(self.predicate, version)
    }
}

fn check(operation: &Operation) -> Result<(), String> {
    match operation {
        Operation::Write { .. }
        | Operation::Read { .. }
        | Operation::ReadUnknown { .. }
        | Operation::Insert { .. }
        | Operation::Delete { .. }
        | Operation::ReadWhere { .. }
        | Operation::ReadWhereUnknown { .. } => Ok(()),
        _ => Err("there are operations other than reads and writes of registers".to_owned()),
    }
}

/// Keys by what predicates ask for, so that a predicate looks only at keys that it can match.
struct Candidates {
    valued: Vec<Key>,
    /// Those of them that are integers, by these.
    by_number: Vec<(i64, Key)>,
    by_value: HashMap<Value, Vec<Key>>,
    by_rest: HashMap<(i64, i64), Vec<Key>>,
    /// Keys whose only version is the initial transaction's.
    untouched: Vec<Key>,
}

impl Candidates {
    fn new(items: &Items<'_>) -> Candidates {
        let moduli: HashSet<i64> = (0..items.history.predicate_count())
            .filter_map(|at| match items.history.predicate_at(at as u32) {
                Predicate::Modulo(modulus, _) => Some(modulus),
                _ => None,
            })
            .collect();
        let mut candidates = Candidates {
            valued: Vec::new(),
            by_number: Vec::new(),
            by_value: HashMap::new(),
            by_rest: HashMap::new(),
            untouched: Vec::new(),
        };
        for key in items.history.keys() {
            let range = items.range(key);
            if range.len() == 2 && items.initial(key).is_some() {
                candidates.untouched.push(key);
            }
            let values = items.versions[range].iter().map(|version| version.value);
            let mut any = false;
            for value in values.filter(|value| !value.is_nil()) {
                any = true;
                push(candidates.by_value.entry(value).or_default(), key);
                for modulus in &moduli {
                    let rest =
                        value.as_integer().and_then(|value| value.checked_rem_euclid(*modulus));
                    if let Some(rest) = rest {
                        push(candidates.by_rest.entry((*modulus, rest)).or_default(), key);
                    }
                }
            }
            if any {
                candidates.valued.push(key);
                if let Name::Integer(number) = items.history.key_name(key) {
                    candidates.by_number.push((*number, key));
                }
            }
        }
        candidates.by_number.sort_unstable();
        candidates
    }

    fn unseen(&self, items: &Items<'_>, predicate: u32) -> Vec<Unseen> {
        let between: Vec<Key>;
        let keys: &[Key] = match items.history.predicate_at(predicate) {
            Predicate::All => &self.valued,
            Predicate::Between(from, to) => {
                let first = self.by_number.partition_point(|(number, _)| *number < from);
                let rest = self.by_number[first..].iter();
                between =
                    rest.take_while(|(number, _)| *number < to).map(|(_, key)| *key).collect();
                &between
            }
            Predicate::Equals(value) => self.by_value.get(&value).map_or(&[], Vec::as_slice),
            Predicate::Modulo(modulus, rest) => {
                self.by_rest.get(&(modulus, rest)).map_or(&[], Vec::as_slice)
            }
        };
        let matches_any =
            |key: &&Key| items.range(**key).any(|version| items.matches(predicate, version as u32));
        let mut unseen: Vec<Unseen> =
            keys.iter().filter(matches_any).map(|key| unseen_of(items, predicate, *key)).collect();
        // One key that only the initial transaction wrote tells as much as all of them.
        let silent = self.untouched.iter().find(|key| !matches_any(key));
        unseen.extend(silent.map(|key| unseen_of(items, predicate, *key)));
        unseen
    }
}

fn push(keys: &mut Vec<Key>, key: Key) {
    if keys.last() != Some(&key) {
        keys.push(key);
    }
}

/// What a read by a predicate may have chosen of a key that it did not return.
fn unseen_of(items: &Items<'_>, predicate: u32, key: Key) -> Unseen {
    // The initial transaction's version is there from the start: unborn cannot be chosen.
    let skip = usize::from(items.initial(key).is_some());
    let mut left = items
        .range(key)
        .skip(skip)
        .map(|version| version as u32)
        .filter(|version| !items.matches(predicate, *version));
    let (first, second) = (left.next(), left.next());
    let only = if second.is_some() { NONE } else { first.unwrap_or(NONE) };
    Unseen { key, only, missed: first.is_none() }
}
