//! Violations that are planted into clean histories of simulated stores: the checker must find every
//! one of them.

use std::collections::HashMap;

use crate::dice::{Dice, effort};
use crate::history::{History, Key, Level, Operation, Outcome, Transaction, Value};

use super::simulated::{Shape, Simulation};
use super::{Question, Verdict, Workload, judge};

/// An operation, with lists of its own.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    List(Key, Vec<Value>),
    Other(Operation),
}

/// A history that can be changed.
#[derive(Clone)]
struct Draft {
    names: History,
    transactions: Vec<(Transaction, Vec<Step>)>,
}

/// A place: a transaction, and which of its operations.
type Place = (usize, usize);

impl Draft {
    fn new(history: &History) -> Draft {
        let step = |operation: &Operation| match *operation {
            Operation::ReadList { key, list } => Step::List(key, history.list(key, list).to_vec()),
            other => Step::Other(other),
        };
        let transactions = (0..history.transactions().len())
            .map(|place| {
                let steps = history.operations(place).iter().map(step).collect();
                (history.transactions()[place], steps)
            })
            .collect();
        Draft { names: history.clone(), transactions }
    }

    fn history(&self) -> History {
        let mut history = History::new();
        for key in self.names.keys() {
            assert_eq!(history.key(&self.names.key_name(key).to_string()), key);
        }
        for (about, steps) in &self.transactions {
            let operations: Vec<Operation> = steps
                .iter()
                .map(|step| match step {
                    Step::List(key, list) => history.read_list(*key, list),
                    Step::Other(operation) => *operation,
                })
                .collect();
            history.push(*about, &operations);
        }
        history.finish();
        history
    }

    /// Every list that was read and acknowledged.
    fn lists(&self) -> Vec<(Place, Key, Vec<Value>)> {
        let mut found = Vec::new();
        for (place, (_, steps)) in self.transactions.iter().enumerate() {
            for (at, step) in steps.iter().enumerate() {
                if let Step::List(key, list) = step {
                    found.push(((place, at), *key, list.clone()));
                }
            }
        }
        found
    }

    /// Whether a transaction writes a key, or reads it elsewhere than at `at`.
    fn uses_again(&self, (place, at): Place, key: Key) -> bool {
        self.transactions[place].1.iter().enumerate().any(|(other, step)| {
            other != at
                && match step {
                    Step::List(of, _) => *of == key,
                    Step::Other(operation) => operation.key() == Some(key),
                }
        })
    }

    fn set(&mut self, (place, at): Place, list: Vec<Value>) {
        if let Step::List(_, old) = &mut self.transactions[place].1[at] {
            *old = list;
        }
    }

    /// Who appended what.
    fn writers(&self) -> HashMap<(Key, Value), usize> {
        let mut writers = HashMap::new();
        for (place, (_, steps)) in self.transactions.iter().enumerate() {
            for step in steps {
                if let Step::Other(
                    Operation::Append { key, value } | Operation::Write { key, value },
                ) = step
                {
                    writers.insert((*key, *value), place);
                }
            }
        }
        writers
    }

    fn names_at(&self, workload: Workload, level: Level) -> Vec<String> {
        let question = Question { closed: true, ..Question::new(workload, level) };
        let report = judge(&self.history(), &question);
        assert_eq!(report.verdict == Verdict::Violated, !report.found.is_empty());
        report.names()
    }
}

/// A way to spoil a history of lists: where it can be done, and which anomaly must be found (any, if
/// none is named), at which level.
struct Plant {
    name: &'static str,
    level: Level,
    expected: &'static str,
    spoil: fn(&Draft, &mut Dice) -> Option<Draft>,
}

const STRICT: Level = Level::STRICT_SERIALIZABLE;

fn plants() -> Vec<Plant> {
    let plant = |name, level, expected, spoil| Plant { name, level, expected, spoil };
    vec![
        plant("an acknowledged append is dropped", STRICT, "", dropped),
        plant(
            "two elements are swapped in one read",
            Level::READ_COMMITTED,
            "incompatible-order",
            swapped,
        ),
        plant("an aborted element is read", Level::READ_COMMITTED, "G1a", resurrected),
        plant(
            "a read sees one write of a transaction and misses another",
            Level::SNAPSHOT,
            "",
            split,
        ),
        plant("a read misses what was acknowledged before", STRICT, "", stale),
        plant("an element is read twice", Level::READ_COMMITTED, "duplicate-elements", doubled),
        plant(
            "an element is read that nobody appended",
            Level::READ_COMMITTED,
            "garbage-read",
            invented,
        ),
        plant("a transaction misses its own append", Level::SNAPSHOT, "internal", forgot),
        plant("an update is lost", Level::REPEATABLE_READ, "", lost),
        plant("commit timestamps are exchanged", STRICT, "timestamp-order", exchanged),
    ]
}

/// One of these, by dice.
fn one<T: Clone>(from: &[T], dice: &mut Dice) -> Option<T> {
    (!from.is_empty()).then(|| dice.pick(from).clone())
}

fn dropped(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let writers = draft.writers();
    let mut candidates = Vec::new();
    for ((place, _), key, list) in draft.lists() {
        let reader = &draft.transactions[place].0;
        for element in list {
            let writer = writers[&(key, element)];
            if draft.transactions[writer].0.completed < reader.invoked {
                candidates.push((key, element));
            }
        }
    }
    let (key, element) = one(&candidates, dice)?;
    let mut spoiled = draft.clone();
    let writer = writers[&(key, element)];
    for (place, (_, steps)) in spoiled.transactions.iter_mut().enumerate() {
        for step in steps.iter_mut().filter(|_| place != writer) {
            if let Step::List(of, list) = step
                && *of == key
            {
                list.retain(|other| *other != element);
            }
        }
    }
    Some(spoiled)
}

fn swapped(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let lists = draft.lists();
    let candidates: Vec<_> = lists
        .iter()
        .filter(|((place, at), key, list)| {
            let others = lists.iter().filter(|((other, ..), of, longer)| {
                other != place && of == key && longer.len() >= list.len()
            });
            list.len() >= 2 && others.count() > 0 && !draft.uses_again((*place, *at), *key)
        })
        .cloned()
        .collect();
    let (place, _, mut list) = one(&candidates, dice)?;
    let at = dice.below(list.len() - 1);
    list.swap(at, at + 1);
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn resurrected(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let mut candidates = Vec::new();
    for (about, steps) in &draft.transactions {
        for step in steps.iter().filter(|_| about.outcome == Outcome::Aborted) {
            if let Step::Other(Operation::Append { key, value }) = step {
                let reads = draft.lists().into_iter().filter(|(_, of, _)| of == key);
                candidates.extend(reads.map(|(place, _, list)| (place, list, *value)));
            }
        }
    }
    let (place, mut list, value) = one(&candidates, dice)?;
    list.push(value);
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn split(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let writers = draft.writers();
    let lists = draft.lists();
    let mut candidates = Vec::new();
    for (place, key, list) in &lists {
        for (at, element) in list.iter().enumerate() {
            let writer = writers[&(*key, *element)];
            // Another element of the same writer that the reader saw last in another list.
            let also = lists.iter().any(|((other, _), of, seen)| {
                *other == place.0
                    && of != key
                    && seen.last().is_some_and(|last| writers[&(*of, *last)] == writer)
            });
            if also && writer != place.0 && !draft.uses_again(*place, *key) {
                candidates.push((*place, list[..at].to_vec()));
                break;
            }
        }
    }
    let (place, list) = one(&candidates, dice)?;
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn stale(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let writers = draft.writers();
    let mut candidates = Vec::new();
    for (place, key, list) in draft.lists() {
        let invoked = draft.transactions[place.0].0.invoked;
        for (at, element) in list.iter().enumerate() {
            let about = &draft.transactions[writers[&(key, *element)]].0;
            if about.completed < invoked && !draft.uses_again(place, key) {
                candidates.push((place, list[..at].to_vec()));
            }
        }
    }
    let (place, list) = one(&candidates, dice)?;
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn doubled(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let lists: Vec<_> = draft.lists().into_iter().filter(|(_, _, list)| !list.is_empty()).collect();
    let (place, _, mut list) = one(&lists, dice)?;
    let again = list[dice.below(list.len())];
    list.push(again);
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn invented(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let (place, _, mut list) = one(&draft.lists(), dice)?;
    list.insert(dice.below(list.len() + 1), Value::small(1_000_000).unwrap());
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn forgot(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let writers = draft.writers();
    let own: Vec<_> = draft
        .lists()
        .into_iter()
        .filter(|((place, at), key, list)| {
            // The own element is the last, and nothing of the key comes after the read.
            let last = list.last().is_some_and(|last| writers[&(*key, *last)] == *place);
            last && draft.transactions[*place].1[at + 1..].iter().all(|step| match step {
                Step::List(of, _) => of != key,
                Step::Other(operation) => operation.key() != Some(*key),
            })
        })
        .collect();
    let (place, _, mut list) = one(&own, dice)?;
    list.pop();
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn lost(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    // A transaction that read a list and appended to it is made to have read what the one before it
    // had read that did the same.
    let mut updates: HashMap<Key, Vec<(Place, Vec<Value>)>> = HashMap::new();
    for (place, key, list) in draft.lists() {
        let steps = &draft.transactions[place.0].1;
        let appends = |step: &Step| matches!(step, Step::Other(Operation::Append { key: of, .. }) if *of == key);
        let first = steps[..place.1].iter().all(|step| match step {
            Step::List(of, _) => *of != key,
            Step::Other(operation) => operation.key() != Some(key),
        });
        let once = steps[place.1 + 1..]
            .iter()
            .all(|step| !matches!(step, Step::List(of, _) if *of == key));
        if first && once && steps[place.1 + 1..].iter().any(appends) {
            updates.entry(key).or_default().push((place, list));
        }
    }
    let mut candidates = Vec::new();
    for updates in updates.values_mut() {
        updates.sort_by_key(|(_, list)| list.len());
        candidates.extend(
            updates
                .windows(2)
                .filter(|pair| pair[0].0.0 != pair[1].0.0)
                .map(|pair| (pair[1].0, pair[0].1.clone())),
        );
    }
    candidates.sort_by_key(|(place, _)| *place);
    let (place, list) = one(&candidates, dice)?;
    let mut spoiled = draft.clone();
    spoiled.set(place, list);
    Some(spoiled)
}

fn exchanged(draft: &Draft, dice: &mut Dice) -> Option<Draft> {
    let writers = draft.writers();
    let mut candidates = Vec::new();
    for (_, key, list) in draft.lists() {
        for pair in list.windows(2) {
            let (first, second) = (writers[&(key, pair[0])], writers[&(key, pair[1])]);
            let known = |place: usize| draft.transactions[place].0.commit.is_some();
            if first != second && known(first) && known(second) {
                candidates.push((first, second));
            }
        }
    }
    let (first, second) = one(&candidates, dice)?;
    let mut spoiled = draft.clone();
    let commit = spoiled.transactions[first].0.commit;
    spoiled.transactions[first].0.commit = spoiled.transactions[second].0.commit;
    spoiled.transactions[second].0.commit = commit;
    Some(spoiled)
}

#[test]
fn everything_that_is_planted_into_lists_is_found() {
    for plant in plants() {
        let mut planted = 0;
        for seed in 0..20 * effort() as u64 {
            let history = Simulation {
                seed,
                transactions: 150,
                sessions: 8,
                keys: 4,
                writes_per_key: 20,
                aborted: 100,
                ..Simulation::default()
            }
            .run();
            let clean = Draft::new(&history);
            assert_eq!(clean.names_at(Workload::Append, STRICT), Vec::<String>::new());
            let mut dice = Dice::new(seed);
            for _ in 0..5 {
                let Some(spoiled) = (plant.spoil)(&clean, &mut dice) else { continue };
                planted += 1;
                let names = spoiled.names_at(Workload::Append, plant.level);
                let found = match plant.expected {
                    "" => !names.is_empty(),
                    expected => names.iter().any(|name| name == expected),
                };
                assert!(found, "{} (seed {seed}) is not among {names:?}", plant.name);
            }
        }
        assert!(planted > 10, "{} was planted {planted} times", plant.name);
    }
}

/// Reads of registers that were acknowledged: where, of what, and what.
fn reads(draft: &Draft) -> Vec<(Place, Key, Value)> {
    let mut found = Vec::new();
    for (place, (about, steps)) in draft.transactions.iter().enumerate() {
        for (at, step) in steps.iter().enumerate() {
            if let Step::Other(Operation::Read { key, value }) = step
                && about.outcome == Outcome::Committed
                && !draft.uses_again((place, at), *key)
            {
                found.push(((place, at), *key, *value));
            }
        }
    }
    found
}

fn reading(draft: &Draft, (place, at): Place, key: Key, value: Value) -> Draft {
    let mut spoiled = draft.clone();
    spoiled.transactions[place].1[at] = Step::Other(Operation::Read { key, value });
    spoiled
}

#[test]
fn everything_that_is_planted_into_registers_is_found() {
    for seed in 0..20 * effort() as u64 {
        let simulation = Simulation {
            shape: Shape::Registers,
            seed,
            transactions: 100,
            sessions: 6,
            keys: 4,
            aborted: 100,
            unknown: 0,
            ..Simulation::default()
        };
        let clean = Draft::new(&simulation.run());
        let writers = clean.writers();
        let mut dice = Dice::new(seed);
        for (place, key, value) in reads(&clean) {
            let (planted, expected) = match dice.below(3) {
                0 => (Value::small(1_000_000).unwrap(), "garbage-read"),
                1 => {
                    let aborted = writers.iter().find(|((of, _), writer)| {
                        *of == key && clean.transactions[**writer].0.outcome == Outcome::Aborted
                    });
                    let Some(((_, value), _)) = aborted else { continue };
                    (*value, "G1a")
                }
                _ => {
                    // The state before anything, although something was there for long.
                    let Some(writer) = writers.get(&(key, value)) else { continue };
                    let (writer, reader) =
                        (clean.transactions[*writer].0, clean.transactions[place.0].0);
                    if writer.completed >= reader.invoked {
                        continue;
                    }
                    (Value::NIL, "G-single-item-realtime")
                }
            };
            let names = reading(&clean, place, key, planted).names_at(Workload::Register, STRICT);
            let found = names
                .iter()
                .any(|name| name == expected || (planted.is_nil() && name.starts_with('G')));
            assert!(found, "{expected} (seed {seed}) is not among {names:?}");
        }
    }
}
