//! Registers as the formats of other checkers want them: numbers for keys and values, and nothing but
//! reads, writes, sessions and whether a transaction committed.
//!
//! What those formats cannot say is either decided without harm, and remarked, or refused:
//!
//! - Keys and values that are not numbers get numbers.
//! - A transaction whose outcome is unknown is told as committed if a committed one read what it
//!   wrote, and as aborted otherwise: then nobody saw it, and without it the others are consistent
//!   if they are with it.
//! - Real time, levels and commit timestamps are left out. So are reads without an answer.
//! - Anything but reads and writes of registers is refused.

use std::collections::{HashMap, HashSet};

use super::convert::WriteError;
use super::{History, Key, Name, Operation, Outcome, Transaction, Value};

/// A read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) write: bool,
    pub(crate) key: u64,
    /// None: what the key began with.
    pub(crate) value: Option<u64>,
}

/// A transaction, in the order of the history.
#[derive(Debug)]
pub(crate) struct NumberedTransaction {
    pub(crate) session: u64,
    pub(crate) number: u64,
    pub(crate) committed: bool,
    pub(crate) accesses: Vec<Access>,
}

/// A history of registers in numbers.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) transactions: Vec<NumberedTransaction>,
    pub(crate) remarks: Vec<String>,
}

/// Which values are a key's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unique {
    /// A value is written to one key once.
    InKey,
    /// A value is written once in the whole history.
    InHistory,
}

impl Numbered {
    /// The history in numbers; values begin at 1.
    pub(crate) fn of(history: &History, unique: Unique) -> Result<Numbered, WriteError> {
        let mut remarks = Vec::new();
        let beginnings = beginnings(history)?;
        let keys = Numbers::of_keys(history, &mut remarks);
        let values = Numbers::of_values(history, &beginnings, unique, &mut remarks)?;
        let seen = seen(history);
        let (mut unknown, mut next_session) = (0, sessions_end(history));
        let mut transactions = Vec::new();
        for (place, transaction) in history.transactions().iter().enumerate() {
            if transaction.initial {
                continue;
            }
            let own = history.operations(place);
            let mut accesses = Vec::new();
            for operation in own {
                let Some((write, key, value)) = access(*operation, transaction)? else { continue };
                accesses.push(Access {
                    write,
                    key: keys.key(key),
                    value: values.value(key, value),
                });
            }
            let is_seen = || {
                own.iter().any(|operation| match operation {
                    Operation::Write { key, value } => seen.contains(&(*key, *value)),
                    _ => false,
                })
            };
            let committed = match transaction.outcome {
                Outcome::Committed => true,
                Outcome::Aborted => false,
                Outcome::Unknown => {
                    unknown += 1;
                    is_seen()
                }
            };
            let session = match transaction.process {
                Transaction::NOBODY => {
                    next_session += 1;
                    next_session - 1
                }
                process => process.into(),
            };
            let number = transactions.len() as u64 + 1;
            transactions.push(NumberedTransaction { session, number, committed, accesses });
        }
        if unknown > 0 {
            remarks.push(format!(
                "{unknown} transactions of unknown outcome: committed where somebody read of them, \
                 aborted otherwise"
            ));
        }
        if history.transactions().iter().any(|transaction| transaction.invoked > 0) {
            remarks.push("the format has no real time".to_owned());
        }
        Ok(Numbered { transactions, remarks })
    }
}

/// The read or the write that an operation is; none if it is a read without an answer.
fn access(
    operation: Operation,
    transaction: &Transaction,
) -> Result<Option<(bool, Key, Value)>, WriteError> {
    match operation {
        Operation::Write { key, value } if !value.is_nil() => Ok(Some((true, key, value))),
        Operation::Read { key, value } => Ok(Some((false, key, value))),
        Operation::ReadUnknown { .. } | Operation::ReadWhereUnknown { .. } => Ok(None),
        _ => Err(WriteError::Unsayable {
            what: "an operation that is no read or write of a register".to_owned(),
            line: transaction.line,
        }),
    }
}

/// What each key begins with, where a first transaction says so.
fn beginnings(history: &History) -> Result<HashMap<Key, Value>, WriteError> {
    let mut beginnings = HashMap::new();
    for (place, transaction) in history.transactions().iter().enumerate() {
        if !transaction.initial {
            continue;
        }
        for operation in history.operations(place) {
            if let Some((true, key, value)) = access(*operation, transaction)? {
                beginnings.insert(key, value);
            }
        }
    }
    Ok(beginnings)
}

/// What committed transactions read.
fn seen(history: &History) -> HashSet<(Key, Value)> {
    let mut seen = HashSet::new();
    for (place, transaction) in history.transactions().iter().enumerate() {
        if transaction.outcome == Outcome::Committed {
            seen.extend(history.operations(place).iter().filter_map(|operation| match operation {
                Operation::Read { key, value } => Some((*key, *value)),
                _ => None,
            }));
        }
    }
    seen
}

/// The first session that nobody has.
fn sessions_end(history: &History) -> u64 {
    let named = history.transactions().iter().map(|transaction| transaction.process);
    named
        .filter(|process| *process != Transaction::NOBODY)
        .max()
        .map_or(0, |last| u64::from(last) + 1)
}

/// Names and their numbers.
struct Numbers {
    keys: HashMap<Key, u64>,
    values: HashMap<(Key, Value), u64>,
}

impl Numbers {
    fn key(&self, key: Key) -> u64 {
        self.keys.get(&key).copied().unwrap_or_default()
    }

    fn value(&self, key: Key, value: Value) -> Option<u64> {
        self.values.get(&(key, value)).copied()
    }

    fn of_keys(history: &History, remarks: &mut Vec<String>) -> Numbers {
        let own = |key: Key| match history.key_name(key) {
            Name::Integer(integer) => u64::try_from(*integer).ok(),
            Name::Text(_) => None,
        };
        let as_they_are: Option<HashMap<Key, u64>> =
            history.keys().map(|key| own(key).map(|number| (key, number))).collect();
        let keys = as_they_are.unwrap_or_else(|| {
            remarks.push("keys have become numbers, in the order in which they appear".to_owned());
            history.keys().zip(1..).collect()
        });
        Numbers { keys, values: HashMap::new() }
    }

    /// All values but those that keys begin with.
    fn of_values(
        history: &History,
        beginnings: &HashMap<Key, Value>,
        unique: Unique,
        remarks: &mut Vec<String>,
    ) -> Result<Numbers, WriteError> {
        let mut pairs = Vec::new();
        let mut known = HashSet::new();
        let mut written = HashSet::new();
        for (place, transaction) in history.transactions().iter().enumerate() {
            for operation in history.operations(place) {
                let Some((write, key, value)) = access(*operation, transaction)? else { continue };
                if write && !transaction.initial {
                    written.insert((key, value));
                }
                if known.insert((key, value)) {
                    pairs.push((key, value, transaction.line));
                }
            }
        }
        pairs.retain(|(key, value, _)| {
            let begins = beginnings.get(key).copied().unwrap_or(Value::NIL) == *value;
            !begins || written.contains(&(*key, *value))
        });
        if let Some((_, _, line)) = pairs.iter().find(|(_, value, _)| value.is_nil()) {
            let what = "a read of nothing of a key that begins with something".to_owned();
            return Err(WriteError::Unsayable { what, line: *line });
        }
        let mut taken = HashSet::new();
        let as_they_are: Option<HashMap<(Key, Value), u64>> = pairs
            .iter()
            .map(|(key, value, _)| {
                let number = value.as_integer().and_then(|integer| u64::try_from(integer).ok());
                let number = number.filter(|number| *number > 0)?;
                let own = unique == Unique::InKey || taken.insert(number);
                own.then_some(((*key, *value), number))
            })
            .collect();
        let values = as_they_are.unwrap_or_else(|| {
            remarks
                .push("values have become numbers, in the order in which they appear".to_owned());
            pairs.iter().map(|(key, value, _)| (*key, *value)).zip(1..).collect()
        });
        Ok(Numbers { keys: HashMap::new(), values })
    }
}
