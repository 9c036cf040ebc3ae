//! List-append: every read of a list tells in which order its elements were appended.
//!
//! The longest list that was read of a key is the order of its versions; each other read must be a
//! prefix of it. An append that nobody read comes after all that were read. Elements of transactions
//! that aborted are no versions: edges go past them.
//!
//! Appended elements lie by key and value, and the order of each key points at them, so that every
//! question here is answered by a place in an array.

use std::collections::HashMap;

use crate::history::{Base, History, Key, List, Operation, Outcome, Value};

use super::anomaly::Phenomenon;
use super::dependencies::{gather, timestamps};
use super::graph::{Levels, possible};
use super::question::{Gathered, Question, Report, Verdict};
use super::unread::{self, Group};
use super::witness::{Dependency, Edge, Witness, list, value};

/// No place.
const NONE: u32 = u32::MAX;

/// An element that somebody appended.
#[derive(Clone, Copy, Debug)]
struct Element {
    value: Value,
    transaction: u32,
    /// How many the transaction appended to this key before.
    nth: u32,
    /// Whether it is the transaction's last one of this key.
    last: bool,
    /// Whether it is in the order of the key.
    read: bool,
}

/// Where each key's order is bad first: reads that are longer have seen it.
#[derive(Clone, Copy, Debug)]
struct Bad {
    aborted: u32,
    garbage: u32,
    duplicate: u32,
    /// An element without the one that its transaction appended before it.
    misplaced: u32,
}

/// A history of list-append, prepared.
struct Lists<'a> {
    history: &'a History,
    levels: &'a Levels,
    /// Elements by key, and there by value.
    elements: Vec<Element>,
    of_key: Vec<u32>,
    /// Per place of each key's order, who is there: a place among `elements`.
    order: Vec<u32>,
    order_of_key: Vec<u32>,
    /// Per place of each key's order, who of those that may have happened is there or next.
    next: Vec<u32>,
    /// Orders that are not the spine of their key.
    other_orders: HashMap<Key, Vec<Value>>,
    /// Elements that nobody read, by key.
    unread: HashMap<Key, Vec<u32>>,
    bad: Vec<Bad>,
}

/// Where a read is in the order of its key.
struct Placed<'a> {
    /// The list; none if it is the order's own beginning.
    stray: Option<&'a [Value]>,
    length: usize,
}

/// What a dependency costs of the budget at least: it is kept in memory while components are looked for.
const STEPS_PER_EDGE: u64 = 4;

/// Judges a history of list-append.
pub(super) fn judge(history: &History, question: &Question) -> Report {
    let levels = Levels::new(history, question);
    let lists = match Lists::new(history, &levels) {
        Ok(lists) => lists,
        Err(why) => return Report::new(Vec::new(), Verdict::Undecided(why)),
    };
    let mut gathered = Gathered::default();
    lists.direct(&mut gathered);
    let unread = lists.unread_edges();
    if unread > question.budget.steps / STEPS_PER_EDGE {
        let why = format!(
            "{unread} dependencies follow from appends that nobody read, more than the budget of {} \
             steps allows: read every list at the end",
            question.budget.steps
        );
        return Report::new(gathered.into_found(), Verdict::Undecided(why));
    }
    let edges = |visit: &mut dyn FnMut(Edge)| lists.edges(visit);
    let any = gather(history, &levels, question, &edges, &mut gathered);
    timestamps(history, &edges, &mut gathered);
    let found = gathered.into_found();
    if !found.is_empty() {
        Report::new(found, Verdict::Holds)
    } else if !any {
        Report::undecided(super::NOTHING_DEPENDS)
    } else {
        unread::judge(history, &levels, question, &edges, &lists.unread_groups())
    }
}

impl<'a> Lists<'a> {
    fn new(history: &'a History, levels: &'a Levels) -> Result<Lists<'a>, String> {
        let (elements, of_key) = elements(history)?;
        let mut lists = Lists {
            history,
            levels,
            elements,
            of_key,
            order: Vec::new(),
            order_of_key: Vec::with_capacity(history.key_count() + 1),
            next: Vec::new(),
            other_orders: other_orders(history),
            unread: HashMap::new(),
            bad: Vec::with_capacity(history.key_count()),
        };
        for key in history.keys() {
            lists.order_of_key.push(lists.order.len() as u32);
            let bad = lists.place(key);
            lists.bad.push(bad);
        }
        lists.order_of_key.push(lists.order.len() as u32);
        lists.link();
        Ok(lists)
    }

    /// Puts the elements of a key into its order.
    fn place(&mut self, key: Key) -> Bad {
        let mut bad = Bad { aborted: NONE, garbage: NONE, duplicate: NONE, misplaced: NONE };
        let values = match self.other_orders.get(&key) {
            Some(values) => values.as_slice(),
            None => self.history.spine(key),
        };
        let range = self.of_key[key.index()] as usize..self.of_key[key.index() + 1] as usize;
        let here = &mut self.elements[range.clone()];
        for (at, value) in values.iter().enumerate() {
            let at = at as u32;
            let Some(found) = find(here, *value) else {
                bad.garbage = bad.garbage.min(at);
                self.order.push(NONE);
                continue;
            };
            let element = &mut here[found];
            if element.read {
                bad.duplicate = bad.duplicate.min(at);
            }
            element.read = true;
            let transaction = &self.history.transactions()[element.transaction as usize];
            if !possible(transaction) {
                bad.aborted = bad.aborted.min(at);
            }
            self.order.push((range.start + found) as u32);
        }
        let unread: Vec<u32> = range
            .filter(|place| {
                let element = &self.elements[*place];
                !element.read
                    && possible(&self.history.transactions()[element.transaction as usize])
            })
            .map(|place| place as u32)
            .collect();
        if !unread.is_empty() {
            self.unread.insert(key, unread);
        }
        Bad { misplaced: self.misplaced(key), ..bad }
    }

    /// The first place in the order of a key, which was put last, of an element that is there
    /// without the one that its transaction appended before it.
    fn misplaced(&self, key: Key) -> u32 {
        let order = &self.order[self.order_of_key[key.index()] as usize..];
        let at = |place: usize| self.elements.get(order[place] as usize);
        let follows = |before: &Element, element: &Element| {
            before.transaction == element.transaction && before.nth + 1 == element.nth
        };
        let mut seen: Option<HashMap<(u32, u32), usize>> = None;
        for place in 0..order.len() {
            let Some(element) = at(place).filter(|element| element.nth > 0) else { continue };
            let before = place.checked_sub(1).and_then(at);
            if before.is_some_and(|before| follows(before, element)) {
                continue;
            }
            let seen = seen.get_or_insert_with(|| {
                let known = (0..order.len()).filter_map(|place| at(place).map(|at| (at, place)));
                known.rev().map(|(at, place)| ((at.transaction, at.nth), place)).collect()
            });
            let before = seen.get(&(element.transaction, element.nth - 1));
            let writer = &self.history.transactions()[element.transaction as usize];
            if possible(writer) && before.is_none_or(|before| *before > place) {
                return place as u32;
            }
        }
        NONE
    }

    /// For each place, finds who of those that may have happened is there or next.
    fn link(&mut self) {
        self.next = vec![NONE; self.order.len()];
        for key in self.history.keys() {
            let range = self.range(key);
            let mut next = NONE;
            for place in range.rev() {
                let element = self.order[place];
                if element != NONE && possible(self.writer(element)) {
                    next = element;
                }
                self.next[place] = next;
            }
        }
    }

    fn writer(&self, element: u32) -> &crate::history::Transaction {
        &self.history.transactions()[self.elements[element as usize].transaction as usize]
    }

    fn range(&self, key: Key) -> std::ops::Range<usize> {
        self.order_of_key[key.index()] as usize..self.order_of_key[key.index() + 1] as usize
    }

    /// The order of a key.
    fn values(&self, key: Key) -> &[Value] {
        self.other_orders.get(&key).map_or_else(|| self.history.spine(key), Vec::as_slice)
    }

    /// The place of an element, by its value.
    fn element(&self, key: Key, value: Value) -> Option<u32> {
        let from = self.of_key[key.index()] as usize;
        let here = &self.elements[from..self.of_key[key.index() + 1] as usize];
        find(here, value).map(|at| (from + at) as u32)
    }

    fn placed(&self, key: Key, read: List) -> Placed<'_> {
        let straight = self.other_orders.is_empty() || !self.other_orders.contains_key(&key);
        if read.is_of_spine() && straight {
            return Placed { stray: None, length: read.len() };
        }
        let list = self.history.list(key, read);
        let stray = (!self.values(key).starts_with(list)).then_some(list);
        Placed { stray, length: list.len() }
    }

    /// Keys to which several transactions appended what nobody read.
    fn unread_groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (key, unread) in &self.unread {
            let mut writers: Vec<(u32, u32, Value)> = unread
                .iter()
                .map(|element| self.elements[*element as usize])
                .map(|element| (element.transaction, element.nth, element.value))
                .collect();
            writers.sort_unstable();
            let mut last: Vec<(u32, Value)> = Vec::with_capacity(writers.len());
            for (writer, _, value) in writers {
                match last.last_mut().filter(|(before, _)| *before == writer) {
                    Some((_, before)) => *before = value,
                    None => last.push((writer, value)),
                }
            }
            if last.len() > 1 {
                groups.push(Group { key: *key, writers: last });
            }
        }
        groups.sort_unstable_by_key(|group| group.key);
        groups
    }

    /// Calls `visit` for each edge of data.
    fn edges(&self, visit: &mut dyn FnMut(Edge)) {
        for key in self.history.keys() {
            self.write_edges(key, visit);
        }
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            if transaction.outcome != Outcome::Committed {
                continue;
            }
            for operation in self.history.operations(place) {
                if let Operation::ReadList { key, list } = *operation {
                    self.read_edges(place as u32, key, list, visit);
                }
            }
        }
    }

    fn write_edges(&self, key: Key, visit: &mut dyn FnMut(Edge)) {
        let mut before: Option<&Element> = None;
        for place in self.range(key) {
            let element = self.order[place];
            if element == NONE || !possible(self.writer(element)) {
                continue;
            }
            let element = &self.elements[element as usize];
            if let Some(before) = before {
                edge(key, before, element, visit);
            }
            before = Some(element);
        }
        if let Some(before) = before {
            for place in self.unread.get(&key).into_iter().flatten() {
                edge(key, before, &self.elements[*place as usize], visit);
            }
        }
    }

    /// What a read saw last of others, and the place of what comes next, if that is known.
    fn seen_by(&self, reader: u32, key: Key, read: List) -> (u32, Option<usize>) {
        let placed = self.placed(key, read);
        let range = self.range(key);
        let foreign = |place: &usize| {
            let element = self.elements.get(self.order[*place] as usize);
            element.is_none_or(|element| element.transaction != reader)
        };
        match placed.stray {
            None => {
                let at = range.start + placed.length;
                // Behind the reader's own elements is what it saw of others.
                let last = (range.start..at).rev().find(foreign);
                (last.map_or(NONE, |last| self.order[last]), Some(at))
            }
            Some(list) => {
                let last = list.last().and_then(|value| self.element(key, *value)).unwrap_or(NONE);
                let at = range.clone().find(|at| last != NONE && self.order[*at] == last);
                (last, at.map(|at| at + 1))
            }
        }
    }

    /// Whose read overtook what is at this place: none if nobody's, since it is the end of the list.
    fn next_at(&self, key: Key, place: usize) -> Option<u32> {
        let next = (place < self.range(key).end).then(|| self.next[place]);
        next.filter(|element| *element != NONE)
    }

    /// How many dependencies follow from appends that nobody read: each comes after every read of the
    /// whole list.
    fn unread_edges(&self) -> u64 {
        let mut count: u64 = 0;
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            for operation in self.history.operations(place) {
                let Operation::ReadList { key, list } = *operation else { continue };
                let unread = self.unread.get(&key).map_or(0, Vec::len) as u64;
                if unread == 0 || transaction.outcome != Outcome::Committed {
                    continue;
                }
                let (_, next) = self.seen_by(place as u32, key, list);
                if next.is_some_and(|next| self.next_at(key, next).is_none()) {
                    count = count.saturating_add(unread);
                }
            }
        }
        count
    }

    fn read_edges(&self, reader: u32, key: Key, read: List, visit: &mut dyn FnMut(Edge)) {
        let (last, next) = self.seen_by(reader, key, read);
        let mut seen = Value::NIL;
        if last != NONE {
            let element = &self.elements[last as usize];
            seen = element.value;
            if element.transaction != reader && possible(self.writer(last)) {
                visit(Edge {
                    from: element.transaction,
                    to: reader,
                    kind: Dependency::Wr,
                    key,
                    before: seen,
                    after: seen,
                });
            }
        }
        let Some(next) = next else { return };
        let mut overtaken = |element: u32| {
            let element = &self.elements[element as usize];
            if element.transaction != reader {
                visit(Edge {
                    from: reader,
                    to: element.transaction,
                    kind: Dependency::Rw,
                    key,
                    before: seen,
                    after: element.value,
                });
            }
        };
        match self.next_at(key, next) {
            Some(element) => overtaken(element),
            None => {
                for element in self.unread.get(&key).into_iter().flatten() {
                    overtaken(*element);
                }
            }
        }
    }

    /// Gathers what is wrong with reads and versions by themselves.
    fn direct(&self, gathered: &mut Gathered) {
        let mut replaced: Vec<u32> = vec![NONE; self.order.len() + self.history.key_count()];
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            if transaction.outcome != Outcome::Committed {
                continue;
            }
            let base = self.levels.of(place as u32).base;
            let operations = self.history.operations(place);
            for (at, operation) in operations.iter().enumerate() {
                if let Operation::ReadList { key, list } = *operation {
                    self.read(place, key, list, base, gathered);
                    if base >= Base::RepeatableRead && replaces(operations, at, key) {
                        self.replace(place, key, list, &mut replaced, gathered);
                    }
                }
            }
            if repeats(operations) {
                self.own(place, operations, base, gathered);
            }
        }
        self.dirty_updates(gathered);
    }

    /// What one read shows.
    fn read(&self, place: usize, key: Key, read: List, base: Base, gathered: &mut Gathered) {
        let name = || self.history.key_name(key);
        let placed = self.placed(key, read);
        let forbidden = |phenomenon: Phenomenon| phenomenon.forbidden_at(base);
        if let Some(stray) = placed.stray {
            self.stray(place, key, stray, base, gathered);
            return;
        }
        let bad = self.bad[key.index()];
        let length = placed.length as u32;
        let values = self.values(key);
        let show = |at: u32| value(self.history, values[at as usize]);
        if bad.garbage < length {
            gathered.meet(Phenomenon::GarbageRead.into(), 1, || {
                let because =
                    format!("T1 read {} in {}, which nobody appended", show(bad.garbage), name());
                Witness::of(vec![place], because)
            });
        }
        if bad.duplicate < length {
            gathered.meet(Phenomenon::DuplicateElements.into(), 1, || {
                let because = format!("T1 read {} twice in {}", show(bad.duplicate), name());
                Witness::of(vec![place], because)
            });
        }
        let range = self.range(key);
        if bad.aborted < length && forbidden(Phenomenon::G1a) {
            let writer = self.elements[self.order[range.start + bad.aborted as usize] as usize];
            gathered.meet(Phenomenon::G1a.into(), 2, || {
                let because = format!(
                    "T1 read {} in {}, which T2 appended, and T2 aborted",
                    show(bad.aborted),
                    name()
                );
                Witness::of(vec![place, writer.transaction as usize], because)
            });
        }
        if bad.misplaced < length && forbidden(Phenomenon::IncompatibleOrder) {
            let writer = self.elements[self.order[range.start + bad.misplaced as usize] as usize];
            gathered.meet(Phenomenon::IncompatibleOrder.into(), 2, || {
                let because = format!(
                    "T1 read {} in {} without what T2 had appended before it",
                    show(bad.misplaced),
                    name()
                );
                Witness::of(vec![place, writer.transaction as usize], because)
            });
        }
        if length > 0 {
            let last = self.order[range.start + length as usize - 1];
            self.intermediate(place, key, last, base, gathered);
        }
    }

    fn intermediate(&self, place: usize, key: Key, last: u32, base: Base, gathered: &mut Gathered) {
        let Some(element) = self.elements.get(last as usize) else { return };
        let writer = element.transaction as usize;
        if element.last || writer == place || !Phenomenon::G1b.forbidden_at(base) {
            return;
        }
        gathered.meet(Phenomenon::G1b.into(), 2, || {
            let because = format!(
                "T1 read {} up to {}, which is not the last that T2 appended to it",
                self.history.key_name(key),
                value(self.history, element.value)
            );
            Witness::of(vec![place, writer], because)
        });
    }

    /// What a read shows that is not a prefix of the order.
    fn stray(
        &self,
        place: usize,
        key: Key,
        elements: &[Value],
        base: Base,
        gathered: &mut Gathered,
    ) {
        let name = self.history.key_name(key);
        if Phenomenon::IncompatibleOrder.forbidden_at(base) {
            gathered.meet(Phenomenon::IncompatibleOrder.into(), 2, || {
                let other = self.reader_of_order(key).unwrap_or(place);
                let because = format!(
                    "T1 read {name} = {} and T2 read {name} = {}: neither is the beginning of the other",
                    list(self.history, elements),
                    list(self.history, self.values(key)),
                );
                Witness::of(vec![place, other], because)
            });
        }
        let mut seen = std::collections::HashSet::new();
        for element in elements {
            let shown = || value(self.history, *element);
            if !seen.insert(*element) {
                gathered.meet(Phenomenon::DuplicateElements.into(), 1, || {
                    Witness::of(vec![place], format!("T1 read {} twice in {name}", shown()))
                });
            }
            let Some(found) = self.element(key, *element) else {
                gathered.meet(Phenomenon::GarbageRead.into(), 1, || {
                    let because = format!("T1 read {} in {name}, which nobody appended", shown());
                    Witness::of(vec![place], because)
                });
                continue;
            };
            if !possible(self.writer(found)) && Phenomenon::G1a.forbidden_at(base) {
                let writer = self.elements[found as usize].transaction as usize;
                gathered.meet(Phenomenon::G1a.into(), 2, || {
                    let because =
                        format!("T1 read {} in {name}, which T2 appended, and T2 aborted", shown());
                    Witness::of(vec![place, writer], because)
                });
            }
        }
        if let Some(last) = elements.last().and_then(|last| self.element(key, *last)) {
            self.intermediate(place, key, last, base, gathered);
        }
    }

    fn reader_of_order(&self, wanted: Key) -> Option<usize> {
        let order = self.values(wanted);
        (0..self.history.transactions().len()).find(|place| {
            self.history.operations(*place).iter().any(|operation| {
                matches!(operation, Operation::ReadList { key, list }
                    if *key == wanted && self.history.list(*key, *list) == order)
            })
        })
    }

    /// A transaction that read a version and replaced it: the second one has lost an update.
    fn replace(
        &self,
        place: usize,
        key: Key,
        read: List,
        replaced: &mut [u32],
        gathered: &mut Gathered,
    ) {
        let placed = self.placed(key, read);
        if placed.stray.is_some() {
            return;
        }
        let slot = self.range(key).start + key.index() + placed.length;
        let before = std::mem::replace(&mut replaced[slot], place as u32);
        if before == NONE || before as usize == place {
            return;
        }
        gathered.meet(Phenomenon::LostUpdate.into(), 2, || {
            let because = format!(
                "T1 and T2 both read {} = {} and appended to it: one did not see the other",
                self.history.key_name(key),
                list(self.history, self.history.list(key, read)),
            );
            Witness::of(vec![before as usize, place], because)
        });
    }

    /// Whether reads agree with the transaction's own earlier operations and with none of its later.
    fn own(&self, place: usize, operations: &[Operation], base: Base, gathered: &mut Gathered) {
        let mut known: HashMap<Key, (Option<&[Value]>, Vec<Value>)> = HashMap::new();
        let mut later: HashMap<(Key, Value), usize> = HashMap::new();
        for (at, operation) in operations.iter().enumerate() {
            if let Operation::Append { key, value } = *operation {
                later.insert((key, value), at);
            }
        }
        for (at, operation) in operations.iter().enumerate() {
            match *operation {
                Operation::Append { key, value } => known.entry(key).or_default().1.push(value),
                Operation::ReadUnknown { key } => {
                    known.remove(&key);
                }
                Operation::ReadList { key, list: read } => {
                    let read = self.history.list(key, read);
                    let (before, own) = known.entry(key).or_default();
                    let agrees = match before {
                        Some(before) => {
                            read.len() == before.len() + own.len()
                                && read.starts_with(before)
                                && read.ends_with(own)
                        }
                        None => read.ends_with(own),
                    };
                    if !agrees && Phenomenon::Internal.forbidden_at(base) {
                        gathered.meet(Phenomenon::Internal.into(), 1, || {
                            let because = format!(
                                "T1 read {} = {}, against its own earlier operations",
                                self.history.key_name(key),
                                list(self.history, read)
                            );
                            Witness::of(vec![place], because)
                        });
                    }
                    known.insert(key, (Some(read), Vec::new()));
                    self.future(place, at, key, read, &later, base, gathered);
                }
                _ => {}
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one read in the context of its transaction")]
    fn future(
        &self,
        place: usize,
        at: usize,
        key: Key,
        read: &[Value],
        later: &HashMap<(Key, Value), usize>,
        base: Base,
        gathered: &mut Gathered,
    ) {
        if !Phenomenon::FutureRead.forbidden_at(base) {
            return;
        }
        let appended = later.iter().filter(|((of, _), when)| *of == key && **when > at);
        for ((_, element), _) in appended {
            if read.contains(element) {
                gathered.meet(Phenomenon::FutureRead.into(), 1, || {
                    let because = format!(
                        "T1 read {} in {} before it appended it",
                        value(self.history, *element),
                        self.history.key_name(key)
                    );
                    Witness::of(vec![place], because)
                });
            }
        }
    }

    /// Committed elements right behind aborted ones.
    fn dirty_updates(&self, gathered: &mut Gathered) {
        for key in self.history.keys() {
            if self.bad[key.index()].aborted == NONE {
                continue;
            }
            let mut aborted: Option<Element> = None;
            for place in self.range(key) {
                let Some(element) = self.elements.get(self.order[place] as usize) else { continue };
                let outcome = self.history.transactions()[element.transaction as usize].outcome;
                let base = self.levels.of(element.transaction).base;
                match (outcome, aborted) {
                    (Outcome::Aborted, _) => aborted = Some(*element),
                    (Outcome::Committed, Some(under))
                        if Phenomenon::DirtyUpdate.forbidden_at(base) =>
                    {
                        let who = vec![under.transaction as usize, element.transaction as usize];
                        gathered.meet(Phenomenon::DirtyUpdate.into(), 2, || {
                            let because = format!(
                                "T2 appended {} to {} on top of {}, which T1 appended, and T1 aborted",
                                value(self.history, element.value),
                                self.history.key_name(key),
                                value(self.history, under.value)
                            );
                            Witness::of(who, because)
                        });
                        aborted = None;
                    }
                    (Outcome::Committed, _) => aborted = None,
                    (Outcome::Unknown, _) => {}
                }
            }
        }
    }
}

fn edge(key: Key, before: &Element, after: &Element, visit: &mut dyn FnMut(Edge)) {
    if before.transaction != after.transaction {
        visit(Edge {
            from: before.transaction,
            to: after.transaction,
            kind: Dependency::Ww,
            key,
            before: before.value,
            after: after.value,
        });
    }
}

/// Whether a transaction whose operation `at` is a read of `key` has not touched the key before, and
/// appends to it afterwards.
fn replaces(operations: &[Operation], at: usize, key: Key) -> bool {
    operations[..at].iter().all(|operation| operation.key() != Some(key))
        && operations[at + 1..]
            .iter()
            .any(|operation| matches!(operation, Operation::Append { key: of, .. } if *of == key))
}

/// Whether some key is met twice.
fn repeats(operations: &[Operation]) -> bool {
    const FEW: usize = 16;
    if operations.len() <= FEW {
        return operations.iter().enumerate().any(|(at, operation)| {
            operations[..at].iter().any(|before| before.key() == operation.key())
        });
    }
    let mut seen = std::collections::HashSet::new();
    !operations.iter().all(|operation| seen.insert(operation.key()))
}

/// Every element by key and value, and where each key's begin.
fn elements(history: &History) -> Result<(Vec<Element>, Vec<u32>), String> {
    let mut of_key = vec![0_u32; history.key_count() + 2];
    for place in 0..history.transactions().len() {
        for operation in history.operations(place) {
            match operation {
                Operation::Append { key, .. } => of_key[key.index() + 2] += 1,
                Operation::ReadList { .. } | Operation::ReadUnknown { .. } => {}
                _ => {
                    return Err("there are operations other than appends and reads of lists".into());
                }
            }
        }
    }
    for key in 2..of_key.len() {
        of_key[key] += of_key[key - 1];
    }
    let count = of_key.last().copied().unwrap_or(0) as usize;
    let nothing = Element { value: Value::NIL, transaction: NONE, nth: 0, last: true, read: false };
    let mut elements = vec![nothing; count];
    let mut slots = of_key[1..].to_vec();
    for place in 0..history.transactions().len() {
        for operation in history.operations(place) {
            let Operation::Append { key, value } = *operation else { continue };
            let slot = slots[key.index()] as usize;
            // The transaction's own earlier element of the key, if any, is the one just before.
            let mut nth = 0;
            if slot > of_key[key.index() + 1] as usize
                && elements[slot - 1].transaction == place as u32
            {
                elements[slot - 1].last = false;
                nth = elements[slot - 1].nth + 1;
            }
            let transaction = place as u32;
            elements[slot] = Element { value, transaction, nth, last: true, read: false };
            slots[key.index()] += 1;
        }
    }
    of_key.remove(0);
    for key in history.keys() {
        let range = of_key[key.index()] as usize..of_key[key.index() + 1] as usize;
        let here = &mut elements[range];
        if !here.is_sorted_by_key(|element| element.value) {
            here.sort_by_key(|element| element.value);
        }
        if let Some(pair) = here.windows(2).find(|pair| pair[0].value == pair[1].value) {
            let (shown, name) = (value(history, pair[0].value), history.key_name(key));
            return Err(format!("{shown} was appended to {name} twice: reads cannot tell which"));
        }
    }
    Ok((elements, of_key))
}

/// The place of a value among elements that are sorted by it.
fn find(elements: &[Element], value: Value) -> Option<usize> {
    // Values mostly count from one.
    let guess = value.as_integer().and_then(|integer| usize::try_from(integer - 1).ok());
    if let Some(at) = guess
        && elements.get(at).is_some_and(|element| element.value == value)
    {
        return Some(at);
    }
    elements.binary_search_by_key(&value, |element| element.value).ok()
}

/// Orders of keys of which a longer list was read than the spine.
fn other_orders(history: &History) -> HashMap<Key, Vec<Value>> {
    let mut found: HashMap<Key, Vec<Value>> = HashMap::new();
    for (place, transaction) in history.transactions().iter().enumerate() {
        if transaction.outcome != Outcome::Committed {
            continue;
        }
        for operation in history.operations(place) {
            let Operation::ReadList { key, list } = *operation else { continue };
            if list.is_of_spine() {
                continue;
            }
            let longest = found.get(&key).map_or(history.spine(key).len(), Vec::len);
            if list.len() > longest {
                found.insert(key, history.list(key, list).to_vec());
            }
        }
    }
    found
}
