//! Workloads that are judged by an invariant and not by a graph: bank, set, set-full, counter and
//! long fork, as Jepsen judges them.
//!
//! | workload | what must be true |
//! |---|---|
//! | bank | every read has the same accounts, their balances sum up to the same, and none is negative unless that is allowed |
//! | set | the last read has every element that was acknowledged, and none that nobody tried to add |
//! | set-full | from its acknowledgement on, or from when it was first read, an element is in every read that begins later |
//! | counter | a read lies between what surely was added and what may have been added at that time |
//! | long-fork | of any two reads of the same keys one saw everything that the other saw |
//!
//! A lost element of a set violates every level; one that comes late (stale) is only against the
//! levels that keep real time. A counter may be read late at the levels that do not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::{History, Key, Operation, Order, Outcome, Transaction, Value};

use super::anomaly::Phenomenon;
use super::question::{Gathered, Question, Report, Verdict};
use super::witness::{Witness, value};

/// What is gathered, if anything was read at all.
fn report(gathered: Gathered, read: bool) -> Report {
    let otherwise =
        if read { Verdict::Holds } else { Verdict::Undecided("nothing was read".to_owned()) };
    Report::new(gathered.into_found(), otherwise)
}

/// Committed operations, each with the place of its transaction.
fn committed(history: &History) -> impl Iterator<Item = (usize, &Transaction, &Operation)> {
    history
        .transactions()
        .iter()
        .enumerate()
        .filter(|(_, transaction)| transaction.outcome == Outcome::Committed)
        .flat_map(|(place, transaction)| {
            history.operations(place).iter().map(move |operation| (place, transaction, operation))
        })
}

/// Judges a bank.
pub(super) fn bank(history: &History, question: &Question) -> Report {
    let mut gathered = Gathered::default();
    let mut expected: Option<(usize, Vec<Key>)> = None;
    let mut total = question.total;
    let mut first = None;
    for (place, _, operation) in committed(history) {
        let Operation::ReadWhere { found, .. } = *operation else { continue };
        let mut balances: Vec<(Key, Value)> = history.found(found).collect();
        balances.sort_unstable();
        let accounts: Vec<Key> = balances.iter().map(|(key, _)| *key).collect();
        let (reference, known) = expected.get_or_insert((place, accounts.clone()));
        if *known != accounts {
            gathered.meet(Phenomenon::UnexpectedAccount.into(), 2, || {
                let because = "T1 and T2 read balances of different accounts".to_owned();
                Witness::of(vec![*reference, place], because)
            });
        }
        let mut sum = 0_i64;
        for (key, balance) in &balances {
            let Some(amount) = balance.as_integer() else {
                gathered.meet(Phenomenon::UnexpectedAccount.into(), 1, || {
                    let name = history.key_name(*key);
                    let shown = value(history, *balance);
                    Witness::of(vec![place], format!("T1 read {shown} as the balance of {name}"))
                });
                continue;
            };
            sum = sum.saturating_add(amount);
            if amount < 0 && !question.negative {
                gathered.meet(Phenomenon::NegativeBalance.into(), 1, || {
                    let name = history.key_name(*key);
                    Witness::of(vec![place], format!("T1 read {amount} as the balance of {name}"))
                });
            }
        }
        let wanted = *total.get_or_insert(sum);
        let before = *first.get_or_insert(place);
        if sum != wanted {
            let since = if question.total.is_some() { Vec::new() } else { vec![before] };
            let who: Vec<usize> = std::iter::once(place).chain(since).collect();
            gathered.meet(Phenomenon::WrongTotal.into(), who.len(), || {
                Witness::of(who, format!("T1 read balances of {sum} in all and not of {wanted}"))
            });
        }
    }
    report(gathered, first.is_some())
}

/// An element of a set.
#[derive(Default)]
struct Element {
    /// Who tried to add it, and whether that may have happened.
    added: Vec<usize>,
    possible: bool,
    /// When it was surely there: it was acknowledged, or somebody had read it.
    known: Option<u32>,
    seen: bool,
}

/// Elements of a set by key and value, with when each was surely there.
fn elements(history: &History) -> BTreeMap<(Key, Value), Element> {
    let mut elements: BTreeMap<(Key, Value), Element> = BTreeMap::new();
    for (place, transaction) in history.transactions().iter().enumerate() {
        for operation in history.operations(place) {
            match *operation {
                Operation::Append { key, value } => {
                    let element = elements.entry((key, value)).or_default();
                    element.added.push(place);
                    element.possible |= transaction.outcome != Outcome::Aborted;
                    if transaction.outcome == Outcome::Committed {
                        let known = element.known.get_or_insert(transaction.completed);
                        *known = transaction.completed.min(*known);
                    }
                }
                Operation::ReadList { key, list } if transaction.outcome == Outcome::Committed => {
                    for value in history.list(key, list) {
                        let element = elements.entry((key, *value)).or_default();
                        element.seen = true;
                        let known = element.known.get_or_insert(transaction.completed);
                        *known = transaction.completed.min(*known);
                    }
                }
                _ => {}
            }
        }
    }
    elements
}

/// Judges a set by its last read.
pub(super) fn set(history: &History) -> Report {
    let mut gathered = Gathered::default();
    let mut last: HashMap<Key, (usize, BTreeSet<Value>)> = HashMap::new();
    for (place, _, operation) in committed(history) {
        if let Operation::ReadList { key, list } = *operation {
            last.insert(key, (place, history.list(key, list).iter().copied().collect()));
        }
    }
    for ((key, element), about) in elements(history) {
        let Some((read, found)) = last.get(&key) else { continue };
        let shown = value(history, element);
        let acknowledged = about.added.iter().find(|place| {
            history.transactions()[**place].outcome == Outcome::Committed
                && history.transactions()[**place].completed
                    < history.transactions()[*read].invoked.max(1)
        });
        if let Some(adder) = acknowledged.filter(|_| !found.contains(&element)) {
            gathered.meet(Phenomenon::LostElement.into(), 2, || {
                let because = format!("T1 added {shown}, and T2, the last read, misses it");
                Witness::of(vec![*adder, *read], because)
            });
        }
        unexpected(history, &about, &shown, found.contains(&element), *read, &mut gathered);
    }
    report(gathered, !last.is_empty())
}

/// An element that is there although nobody added it.
fn unexpected(
    history: &History,
    about: &Element,
    shown: &str,
    found: bool,
    read: usize,
    gathered: &mut Gathered,
) {
    if !found || about.possible {
        return;
    }
    match about.added.first() {
        None => gathered.meet(Phenomenon::GarbageRead.into(), 1, || {
            Witness::of(vec![read], format!("T1 read {shown}, which nobody added"))
        }),
        Some(adder) => gathered.meet(Phenomenon::G1a.into(), 2, || {
            debug_assert!(history.transactions()[*adder].outcome == Outcome::Aborted);
            Witness::of(vec![read, *adder], format!("T1 read {shown}, T2's, and T2 aborted"))
        }),
    }
}

/// Judges a set by all of its reads.
pub(super) fn set_full(history: &History, question: &Question) -> Report {
    let mut gathered = Gathered::default();
    let elements = elements(history);
    let mut reads: HashMap<Key, Vec<(usize, u32, BTreeSet<Value>)>> = HashMap::new();
    for (place, transaction, operation) in committed(history) {
        if let Operation::ReadList { key, list } = *operation {
            let mut found = BTreeSet::new();
            for element in history.list(key, list) {
                if !found.insert(*element) {
                    gathered.meet(Phenomenon::DuplicateElements.into(), 1, || {
                        let shown = value(history, *element);
                        Witness::of(vec![place], format!("T1 read {shown} twice"))
                    });
                }
            }
            reads.entry(key).or_default().push((place, transaction.invoked, found));
        }
    }
    for ((key, element), about) in &elements {
        let reads = reads.get(key).map_or(&[][..], Vec::as_slice);
        let shown = value(history, *element);
        if let Some((read, ..)) = reads.iter().find(|(.., found)| found.contains(element)) {
            unexpected(history, about, &shown, true, *read, &mut gathered);
        }
        let Some(known) = about.known else { continue };
        let later = || reads.iter().filter(|(_, invoked, _)| *invoked > known);
        let missing = later().rev().find(|(.., found)| !found.contains(element));
        let Some((read, invoked, _)) = missing else { continue };
        let again = later().any(|(_, at, found)| at > invoked && found.contains(element));
        let adder = about.added.first().copied().unwrap_or(*read);
        if !again {
            gathered.meet(Phenomenon::LostElement.into(), 2, || {
                let because =
                    format!("{shown} was there after T1, and T2 and all later reads miss it");
                Witness::of(vec![adder, *read], because)
            });
        } else if question.level.order == Order::RealTime {
            gathered.meet(Phenomenon::StaleElement.into(), 2, || {
                let because =
                    format!("{shown} was there after T1, and T2, which began later, misses it");
                Witness::of(vec![adder, *read], because)
            });
        }
    }
    report(gathered, !reads.is_empty())
}

/// An event of a counter, in the order of time.
#[derive(Clone, Copy)]
enum Event {
    /// An addition may have happened from now on.
    Begin(i64),
    /// An addition has happened.
    Commit(i64),
    /// It turned out that it never did.
    Abort(i64),
    ReadBegin(usize),
    ReadEnd(usize, i64),
}

/// Judges a counter. Between the invocation and the completion of a read, the lowest that it may see
/// is what was surely added before, with all additions that take away and may have happened; the
/// highest the other way round.
pub(super) fn counter(history: &History, question: &Question) -> Report {
    let mut gathered = Gathered::default();
    let mut events: HashMap<Key, Vec<(u32, Event)>> = HashMap::new();
    for (place, transaction) in history.transactions().iter().enumerate() {
        for operation in history.operations(place) {
            match *operation {
                Operation::Add { key, value } => {
                    let amount = value.as_integer().unwrap_or(0);
                    let events = events.entry(key).or_default();
                    events.push((transaction.invoked, Event::Begin(amount)));
                    match transaction.outcome {
                        Outcome::Committed => {
                            events.push((transaction.completed, Event::Commit(amount)));
                        }
                        Outcome::Aborted => {
                            events.push((transaction.completed, Event::Abort(amount)));
                        }
                        Outcome::Unknown => {}
                    }
                }
                Operation::Read { key, value } if transaction.outcome == Outcome::Committed => {
                    let Some(read) = value.as_integer() else { continue };
                    let events = events.entry(key).or_default();
                    events.push((transaction.invoked, Event::ReadBegin(place)));
                    events.push((transaction.completed, Event::ReadEnd(place, read)));
                }
                _ => {}
            }
        }
    }
    let mut any = false;
    for events in events.values_mut() {
        events.sort_by_key(|(at, _)| *at);
        any |= bounds(events, question.level.order == Order::RealTime, &mut gathered);
    }
    report(gathered, any)
}

/// Goes through the events of one counter; gives whether it was read.
fn bounds(events: &[(u32, Event)], real_time: bool, gathered: &mut Gathered) -> bool {
    let (mut lower, mut upper) = (0_i64, 0_i64);
    // Reads that are open, with the bounds so far.
    let mut open: HashMap<usize, (i64, i64)> = HashMap::new();
    let mut any = false;
    // Where real time does not count, a read may see any earlier state.
    let (mut lowest, mut highest) = (0_i64, 0_i64);
    for (_, event) in events {
        match *event {
            Event::Begin(amount) if amount >= 0 => upper = upper.saturating_add(amount),
            Event::Begin(amount) => lower = lower.saturating_add(amount),
            Event::Commit(amount) if amount >= 0 => lower = lower.saturating_add(amount),
            Event::Commit(amount) => upper = upper.saturating_add(amount),
            Event::Abort(amount) if amount >= 0 => upper = upper.saturating_sub(amount),
            Event::Abort(amount) => lower = lower.saturating_sub(amount),
            Event::ReadBegin(place) => {
                let from = if real_time { (lower, upper) } else { (lowest, highest) };
                open.insert(place, (from.0.min(lower), from.1.max(upper)));
            }
            Event::ReadEnd(place, read) => {
                any = true;
                let Some((low, high)) = open.remove(&place) else { continue };
                if read < low || read > high {
                    gathered.meet(Phenomenon::CounterBounds.into(), 1, || {
                        let because =
                            format!("T1 read {read}, and the counter was between {low} and {high}");
                        Witness::of(vec![place], because)
                    });
                }
            }
        }
        (lowest, highest) = (lowest.min(lower), highest.max(upper));
        for (low, high) in open.values_mut() {
            (*low, *high) = ((*low).min(lower), (*high).max(upper));
        }
    }
    any
}

/// Judges reads of keys that are written once each.
pub(super) fn long_fork(history: &History) -> Report {
    let mut gathered = Gathered::default();
    let mut groups: HashMap<Vec<Key>, Vec<(usize, Vec<Value>)>> = HashMap::new();
    for (place, transaction) in history.transactions().iter().enumerate() {
        if transaction.outcome != Outcome::Committed {
            continue;
        }
        let mut reads: Vec<(Key, Value)> = history
            .operations(place)
            .iter()
            .filter_map(|operation| match *operation {
                Operation::Read { key, value } => Some((key, value)),
                _ => None,
            })
            .collect();
        reads.sort_unstable();
        if reads.len() > 1 {
            let (keys, values) = reads.into_iter().unzip();
            groups.entry(keys).or_default().push((place, values));
        }
    }
    let any = !groups.is_empty();
    for (keys, reads) in groups {
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Report::undecided("a transaction reads a key twice");
        }
        if let Some(report) = forks(history, &keys, &reads, &mut gathered) {
            return report;
        }
    }
    report(gathered, any)
}

/// Finds two reads of a group that each saw what the other missed. Reads that differ from one that
/// saw less are compared only once each, in the order of how much they saw.
fn forks(
    history: &History,
    keys: &[Key],
    reads: &[(usize, Vec<Value>)],
    gathered: &mut Gathered,
) -> Option<Report> {
    let mut different: Vec<&(usize, Vec<Value>)> = reads.iter().collect();
    different.sort_by(|a, b| a.1.cmp(&b.1));
    different.dedup_by(|a, b| a.1 == b.1);
    different.sort_by_key(|(_, values)| values.iter().filter(|value| !value.is_nil()).count());
    for pair in different.windows(2) {
        let [(first, less), (second, more)] = pair else { continue };
        for (at, (less, more)) in less.iter().zip(more).enumerate() {
            if less.is_nil() || more == less {
                continue;
            }
            if !more.is_nil() {
                let name = history.key_name(keys[at]);
                return Some(Report::undecided(&format!("{name} was written more than once")));
            }
            gathered.meet(Phenomenon::LongFork.into(), 2, || {
                let because = format!(
                    "T1 saw {} and T2 did not, and T2 saw others that T1 did not",
                    history.key_name(keys[at])
                );
                Witness::of(vec![*first, *second], because)
            });
        }
    }
    None
}
