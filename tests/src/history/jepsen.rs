//! A history as Jepsen's events again: what `jsonl` and `edn` write.
//!
//! Events are in the order of their positions and numbered from 0. A transaction of unknown outcome
//! gets its `info` right behind its invocation: where it stood is not known to matter. A history
//! without real time has completions only, which are read as what they are.

use std::collections::HashMap;
use std::io::Write;

use super::convert::WriteError;
use super::raw::{ONLY, is_plain};
use super::{Datum, History, Key, Name, Operation, Outcome, Predicate, Transaction, Value, edn};

/// How a line of it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notation {
    Json,
    Edn,
}

/// Writes a history, its events numbered from `first`; the number of the event after the last.
pub(crate) fn write(
    history: &History,
    notation: Notation,
    first: usize,
    mut to: impl Write,
) -> Result<usize, WriteError> {
    let writer = Writer::new(history, notation)?;
    let mut line = String::new();
    let events = writer.events();
    let next = first + events.len();
    for (index, (place, kind)) in (first..).zip(events) {
        let event = writer.event(index, place, kind)?;
        line.clear();
        match notation {
            Notation::Json => event.write_json(&mut line),
            Notation::Edn => event.write_edn(&mut line),
        }
        line.push('\n');
        to.write_all(line.as_bytes())?;
    }
    Ok(next)
}

struct Writer<'a> {
    history: &'a History,
    /// Whether anything is known of real time.
    timed: bool,
    /// Whether processes are told.
    named: bool,
    /// The first process that nobody has.
    free: i64,
    bank: bool,
}

const INVOKE: &str = "invoke";

impl<'a> Writer<'a> {
    fn new(history: &'a History, notation: Notation) -> Result<Writer<'a>, WriteError> {
        if notation == Notation::Json {
            check_names(history)?;
        }
        let all = history.transactions();
        let processes = || {
            let all = all.iter().map(|transaction| transaction.process);
            all.filter(|process| *process != Transaction::NOBODY)
        };
        let has = |wanted: fn(&Operation) -> bool| {
            (0..all.len()).any(|place| history.operations(place).iter().any(wanted))
        };
        Ok(Writer {
            history,
            timed: all.iter().any(|transaction| transaction.invoked > 0),
            named: processes().next().is_some() || !is_sequence(all),
            free: processes().max().map_or(0, |last| i64::from(last) + 1),
            bank: has(|operation| matches!(operation, Operation::Transfer { .. }))
                || !has(|operation| !matches!(operation, Operation::ReadWhere { .. })),
        })
    }

    /// Places of transactions and the types of their events, in order.
    fn events(&self) -> Vec<(usize, &'static str)> {
        let mut events = Vec::new();
        for (place, transaction) in self.history.transactions().iter().enumerate() {
            let (kind, known) = match transaction.outcome {
                Outcome::Committed => ("ok", transaction.completed),
                Outcome::Aborted => ("fail", transaction.completed),
                Outcome::Unknown if self.timed => ("info", transaction.invoked),
                Outcome::Unknown => ("info", Transaction::NEVER),
            };
            // The first state comes first; what has no position keeps its place.
            let begun = if transaction.initial { 0 } else { transaction.invoked };
            if self.timed {
                events.push((begun, 0, place, INVOKE));
            }
            let ended = if transaction.initial { 0 } else { known };
            events.push((ended, 1, place, kind));
        }
        // Stable: an invocation stands before its completion at the same position.
        events.sort_by_key(|(position, ..)| *position);
        events.into_iter().map(|(_, _, place, kind)| (place, kind)).collect()
    }

    fn event(&self, index: usize, place: usize, kind: &'static str) -> Result<Datum, WriteError> {
        let transaction = &self.history.transactions()[place];
        let (function, value) = self.told(place, kind)?;
        let field = |name: &str, value| (keyword(name), value);
        let mut fields =
            vec![field("index", Datum::Int(index as i64)), field("type", keyword(kind))];
        if self.named {
            let process = match transaction.process {
                Transaction::NOBODY => self.free + place as i64,
                process => process.into(),
            };
            fields.push(field("process", Datum::Int(process)));
        }
        fields.push(field("f", keyword(function)));
        fields.push(field("value", value));
        if let Some(level) = transaction.level {
            fields.push(field("isolation", keyword(&level.to_string())));
        }
        if let (Some(commit), "ok") = (transaction.commit, kind) {
            let commit = i64::try_from(commit.get());
            fields.push(field("commit", commit.map_or(Datum::Nil, Datum::Int)));
        }
        Ok(Datum::Map(fields))
    }

    /// The function of a transaction and its value, at this event.
    fn told(&self, place: usize, kind: &str) -> Result<(&'static str, Datum), WriteError> {
        let operations = self.history.operations(place);
        let transaction = &self.history.transactions()[place];
        if transaction.initial {
            return Ok(("init", self.first_state(operations, transaction)?));
        }
        if let [operation] = operations
            && let Some(alone) = self.alone(*operation, kind)
        {
            return Ok(alone);
        }
        let within = operations.iter().map(|operation| self.within(*operation, kind));
        Ok(("txn", Datum::Vector(within.collect())))
    }

    fn first_state(
        &self,
        operations: &[Operation],
        transaction: &Transaction,
    ) -> Result<Datum, WriteError> {
        let entries = operations.iter().map(|operation| match operation {
            Operation::Write { key, value } | Operation::Insert { key, value } => {
                Ok((self.key(*key), self.value(*value)))
            }
            _ => Err(WriteError::Unsayable {
                what: "a first state that is not only written".to_owned(),
                line: transaction.line,
            }),
        });
        entries.collect::<Result<_, _>>().map(Datum::Map)
    }

    /// The operations that Jepsen's simple workloads have outside of transactions.
    fn alone(&self, operation: Operation, kind: &str) -> Option<(&'static str, Datum)> {
        let history = self.history;
        let only = operation.key().is_some_and(
            |key| matches!(history.key_name(key), Name::Text(name) if &**name == ONLY),
        );
        match operation {
            Operation::Transfer { from, pair } => {
                let (to, amount) = history.other_and_amount(pair);
                let fields = [
                    ("from", self.key(from)),
                    ("to", self.key(to)),
                    ("amount", self.value(amount)),
                ];
                let fields = fields.map(|(name, value)| (keyword(name), value));
                Some(("transfer", Datum::Map(fields.into())))
            }
            Operation::ReadWhere { predicate, .. }
                if self.bank && history.predicate_at(predicate) == Predicate::All =>
            {
                Some(("read", self.answer(operation, kind)))
            }
            Operation::Append { value, .. } | Operation::Add { value, .. } if only => {
                Some(("add", self.value(value)))
            }
            Operation::Write { value, .. } if only => Some(("write", self.value(value))),
            Operation::CompareAndSet { pair, .. } if only => {
                let (old, new) = history.old_and_new(pair);
                Some(("cas", Datum::Vector(vec![self.value(old), self.value(new)])))
            }
            Operation::Read { .. } | Operation::ReadList { .. } | Operation::ReadUnknown { .. }
                if only =>
            {
                Some(("read", self.answer(operation, kind)))
            }
            _ => None,
        }
    }

    /// What a read found, where an event knows it.
    fn answer(&self, operation: Operation, kind: &str) -> Datum {
        if kind == INVOKE {
            return Datum::Nil;
        }
        match operation {
            Operation::Read { value, .. } => self.value(value),
            Operation::ReadList { key, list } => Datum::Vector(
                self.history.list(key, list).iter().map(|value| self.value(*value)).collect(),
            ),
            Operation::ReadWhere { found, .. } => Datum::Map(
                self.history
                    .found(found)
                    .map(|(key, value)| (self.key(key), self.value(value)))
                    .collect(),
            ),
            _ => Datum::Nil,
        }
    }

    fn within(&self, operation: Operation, kind: &str) -> Datum {
        let three =
            |name: &str, key: Datum, value: Datum| Datum::Vector(vec![keyword(name), key, value]);
        match operation {
            Operation::Append { key, value } => three("append", self.key(key), self.value(value)),
            Operation::Write { key, value } => three("w", self.key(key), self.value(value)),
            Operation::Insert { key, value } => three("insert", self.key(key), self.value(value)),
            Operation::Add { key, value } => three("add", self.key(key), self.value(value)),
            Operation::Delete { key } => Datum::Vector(vec![keyword("delete"), self.key(key)]),
            Operation::Read { key, .. }
            | Operation::ReadList { key, .. }
            | Operation::ReadUnknown { key } => {
                three("r", self.key(key), self.answer(operation, kind))
            }
            Operation::ReadWhere { predicate, .. } | Operation::ReadWhereUnknown { predicate } => {
                three("rp", self.predicate(predicate), self.answer(operation, kind))
            }
            Operation::CompareAndSet { key, pair } => {
                let (old, new) = self.history.old_and_new(pair);
                let pair = Datum::Vector(vec![self.value(old), self.value(new)]);
                three("cas", self.key(key), pair)
            }
            Operation::Transfer { from, pair } => {
                let (to, amount) = self.history.other_and_amount(pair);
                let pair = Datum::Vector(vec![self.key(to), self.value(amount)]);
                three("transfer", self.key(from), pair)
            }
        }
    }

    fn predicate(&self, place: u32) -> Datum {
        let list = |name: &str, rest: &[Datum]| Datum::Vector([&[keyword(name)], rest].concat());
        match self.history.predicate_at(place) {
            Predicate::All => keyword("true"),
            Predicate::Equals(value) => list("=", &[self.value(value)]),
            Predicate::Modulo(modulus, rest) => {
                list("mod", &[Datum::Int(modulus), Datum::Int(rest)])
            }
            Predicate::Between(from, to) => list("between", &[Datum::Int(from), Datum::Int(to)]),
        }
    }

    fn key(&self, key: Key) -> Datum {
        datum_of(self.history.key_name(key))
    }

    fn value(&self, value: Value) -> Datum {
        self.history.value_name(value).map_or(Datum::Nil, |name| datum_of(&name))
    }
}

/// Whether transactions follow each other, none beside another.
fn is_sequence(transactions: &[Transaction]) -> bool {
    transactions.windows(2).all(|pair| pair[0].invoked == 0 || pair[0].completed < pair[1].invoked)
}

fn keyword(name: &str) -> Datum {
    Datum::Keyword(name.to_owned())
}

/// The value that a name stands for (see [`super::raw::Batch::scalar`]).
fn datum_of(name: &Name) -> Datum {
    match name {
        Name::Integer(integer) => Datum::Int(*integer),
        Name::Text(text) if is_plain(text) => keyword(text),
        Name::Text(text) => edn::parse(text).unwrap_or_else(|_| Datum::Text(text.to_string())),
    }
}

/// In JSON some names that differ would look the same: those of a keyword and of a string.
fn check_names(history: &History) -> Result<(), WriteError> {
    let check = |names: &mut dyn Iterator<Item = Name>| {
        let mut texts: HashMap<String, Name> = HashMap::new();
        for name in names {
            let mut text = String::new();
            datum_of(&name).write_json(&mut text);
            match texts.insert(text, name.clone()) {
                Some(other) if other != name => {
                    return Err(WriteError::SameName(other.to_string(), name.to_string()));
                }
                _ => {}
            }
        }
        Ok(())
    };
    check(&mut history.keys().map(|key| history.key_name(key).clone()))?;
    check(&mut history.names_of_values().cloned())
}
