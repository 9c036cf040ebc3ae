//! Invocations and completions find each other: from the events of a source to a [`History`].
//!
//! 1. A process has at most one operation open. A completion closes it; what is open at the end, or
//!    was closed by `info`, has an unknown outcome and no completion.
//! 2. What a transaction did is told by its completion if that is `ok`, otherwise by its invocation;
//!    only an `ok` knows what was read, and in all else it repeats its invocation.
//! 3. A source without any invocation (some tests and formats record only what became of
//!    transactions) tells no real time. One that has some must have one for each completion.
//! 4. Operations that do not name their process follow each other; no session's order is known.

use std::collections::HashMap;
use std::num::NonZeroU64;

use super::fault::{Fault, Location, ReadError};
use super::raw::{Asked, Batch, Event, Function, Kind, ONLY, RawOperation, Scalar};
use super::{History, Key, Name, Operation, Outcome, Predicate, Transaction, Value};

/// An operation that has begun.
#[derive(Debug)]
struct Open {
    function: Function,
    line: u64,
    invoked: u32,
    level: Option<super::Level>,
    commit: Option<u64>,
    operations: Vec<Operation>,
}

/// The names of a batch among those of the history. One belongs to one batch, as long as that lives.
#[derive(Debug, Default)]
pub(crate) struct Names {
    keys: Vec<Option<Key>>,
    values: Vec<Option<Value>>,
}

/// Takes batches, gives a history.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    history: History,
    open: HashMap<Option<u32>, Open>,
    /// The line at which the last operation of a process ended.
    ended: HashMap<Option<u32>, u64>,
    /// Vectors to be used again.
    spare: Vec<Vec<Operation>>,
    position: u32,
    /// The last index, and its line.
    index: Option<(u64, u64)>,
    invocations: bool,
    /// The first completion without an invocation.
    alone: Option<(Location, Option<u32>)>,
    /// Whether processes are named, as the first operation has it.
    named: Option<bool>,
    mutex: bool,
    zero: bool,
    values: Vec<Value>,
    pairs: Vec<(Key, Value)>,
    stored: u64,
}

impl Assembly {
    /// One whose keys all begin with the value 0.
    pub(crate) fn from_zero() -> Assembly {
        Assembly { zero: true, ..Assembly::default() }
    }

    /// Takes the events of a batch.
    pub(crate) fn take(&mut self, batch: &Batch, names: &mut Names) -> Result<(), ReadError> {
        names.keys.resize(batch.names.len(), None);
        names.values.resize(batch.names.len(), None);
        for (place, event) in batch.events.iter().enumerate() {
            self.event(event, batch.operations_of(place), batch, names)
                .map_err(|fault| fault.at(event.place))?;
        }
        Ok(())
    }

    /// The history, once there is nothing more to take.
    pub(crate) fn finish(mut self) -> Result<History, ReadError> {
        if self.position == 0 {
            return Err(ReadError::whole(Fault::Empty));
        }
        if let (Some((place, process)), true) = (self.alone, self.invocations) {
            return Err(Fault::NotOpen { process, ended: None }.at(place));
        }
        let mut open: Vec<(Option<u32>, Open)> = self.open.drain().collect();
        open.sort_by_key(|(_, open)| open.invoked);
        for (process, open) in open {
            let process = process.unwrap_or(Transaction::NOBODY);
            self.history.push(
                Transaction {
                    invoked: open.invoked,
                    outcome: Outcome::Unknown,
                    initial: open.function == Function::Init,
                    level: open.level,
                    commit: open.commit.and_then(NonZeroU64::new),
                    line: line(open.line),
                    ..Transaction::of(process)
                },
                &open.operations,
            );
        }
        if self.mutex || self.zero {
            self.begin_with_zero();
        }
        self.history.finish();
        self.history.settle();
        Ok(self.history)
    }

    fn event(
        &mut self,
        event: &Event,
        operations: &[RawOperation],
        batch: &Batch,
        names: &mut Names,
    ) -> Result<(), Fault> {
        self.check_index(event)?;
        if *self.named.get_or_insert(event.process.is_some()) != event.process.is_some() {
            return Err(Fault::SomeProcesses);
        }
        self.mutex |= matches!(event.function, Function::Acquire | Function::Release);
        self.position = match self.position.checked_add(1) {
            Some(position) if position < Transaction::NEVER => position,
            _ => return Err(Fault::TooMany("events")),
        };
        match event.kind {
            Kind::Invoke => self.invocation(event, operations, batch, names),
            _ => self.completion(event, operations, batch, names),
        }
    }

    fn check_index(&mut self, event: &Event) -> Result<(), Fault> {
        let Some(index) = event.index else { return Ok(()) };
        match self.index {
            Some((before, line)) if index <= before => Err(Fault::Index { index, before, line }),
            _ => {
                self.index = Some((index, event.place.line));
                Ok(())
            }
        }
    }

    fn invocation(
        &mut self,
        event: &Event,
        operations: &[RawOperation],
        batch: &Batch,
        names: &mut Names,
    ) -> Result<(), Fault> {
        if let Some(open) = self.open.get(&event.process) {
            return Err(Fault::StillOpen { process: event.process, since: open.line });
        }
        self.invocations = true;
        let mut known = self.spare.pop().unwrap_or_default();
        self.operations(operations, false, batch, names, &mut known)?;
        let open = Open {
            function: event.function,
            line: event.place.line,
            invoked: self.position,
            level: event.level,
            commit: event.commit,
            operations: known,
        };
        self.open.insert(event.process, open);
        Ok(())
    }

    fn completion(
        &mut self,
        event: &Event,
        operations: &[RawOperation],
        batch: &Batch,
        names: &mut Names,
    ) -> Result<(), Fault> {
        let (outcome, done) = match event.kind {
            Kind::Ok => (Outcome::Committed, true),
            Kind::Fail => (Outcome::Aborted, false),
            Kind::Info | Kind::Invoke => (Outcome::Unknown, false),
        };
        let begun = self.open.remove(&event.process);
        if let Some(begun) = &begun
            && begun.function != event.function
        {
            return Err(Fault::OtherFunction {
                invoked: begun.function.name().to_owned(),
                completed: event.function.name().to_owned(),
                since: begun.line,
            });
        }
        if begun.is_none() {
            self.stands_alone(event)?;
        }
        let mut known = self.spare.pop().unwrap_or_default();
        if done || begun.is_none() {
            self.operations(operations, done, batch, names, &mut known)?;
        }
        let (invoked, level, commit) = match begun {
            None => (0, None, None),
            Some(Open { line, invoked, level, commit, operations: mut tried, .. }) => {
                if !done {
                    std::mem::swap(&mut known, &mut tried);
                } else if event.function != Function::Init && !self.are_same(&tried, &known) {
                    return Err(Fault::OtherOperations { since: line });
                }
                tried.clear();
                self.spare.push(tried);
                (invoked, level, commit)
            }
        };
        let process = event.process.unwrap_or(Transaction::NOBODY);
        let never = outcome == Outcome::Unknown;
        let transaction = Transaction {
            invoked,
            completed: if never { Transaction::NEVER } else { self.position },
            outcome,
            initial: event.function == Function::Init,
            level: event.level.or(level),
            commit: event.commit.or(commit).and_then(NonZeroU64::new),
            line: line(event.place.line),
            ..Transaction::of(process)
        };
        self.history.push(transaction, &known);
        known.clear();
        self.spare.push(known);
        self.ended.insert(event.process, event.place.line);
        Ok(())
    }

    /// A completion without an invocation: allowed where there is no invocation at all.
    fn stands_alone(&mut self, event: &Event) -> Result<(), Fault> {
        if self.invocations {
            let ended = self.ended.get(&event.process).copied();
            return Err(Fault::NotOpen { process: event.process, ended });
        }
        if !event.told {
            return Err(Fault::Missing("value"));
        }
        self.alone.get_or_insert((event.place, event.process));
        Ok(())
    }

    /// Whether what took place is what was tried, but for what was read.
    fn are_same(&self, tried: &[Operation], done: &[Operation]) -> bool {
        let mut pairs = tried.iter().zip(done);
        tried.len() == done.len() && pairs.all(|(tried, done)| self.is_same(*tried, *done))
    }

    fn is_same(&self, tried: Operation, done: Operation) -> bool {
        use Operation::*;
        // What is written may be known only later.
        let may_become = |tried: Value, done: Value| tried.is_nil() || tried == done;
        match (tried, done) {
            (Append { key, value }, Append { key: other, value: found })
            | (Write { key, value }, Write { key: other, value: found })
            | (Insert { key, value }, Insert { key: other, value: found })
            | (Add { key, value }, Add { key: other, value: found }) => {
                key == other && may_become(value, found)
            }
            (Delete { key }, Delete { key: other })
            | (ReadUnknown { key }, Read { key: other, .. } | ReadList { key: other, .. }) => {
                key == other
            }
            // All accounts.
            (ReadUnknown { key }, ReadWhere { .. }) => {
                matches!(self.history.key_name(key), Name::Text(name) if **name == *ONLY)
            }
            (
                ReadWhereUnknown { predicate },
                ReadWhere { predicate: other, .. } | ReadWhereUnknown { predicate: other },
            ) => predicate == other,
            (CompareAndSet { key, pair }, CompareAndSet { key: other, pair: found }) => {
                let pairs = (self.history.old_and_new(pair), self.history.old_and_new(found));
                key == other && pairs.0 == pairs.1
            }
            (Transfer { from, pair }, Transfer { from: other, pair: found }) => {
                let pairs =
                    (self.history.other_and_amount(pair), self.history.other_and_amount(found));
                from == other && pairs.0 == pairs.1
            }
            _ => false,
        }
    }

    /// Every key holds 0 before anything else: a mutex is free, a register of the plain format has
    /// the value that it begins with.
    fn begin_with_zero(&mut self) {
        let value = self.history.integer(0);
        let writes: Vec<Operation> =
            self.history.keys().map(|key| Operation::Write { key, value }).collect();
        let first = Transaction { initial: true, ..Transaction::of(Transaction::NOBODY) };
        self.history.push(first, &writes);
    }

    /// Translates operations; `done`: what they read is known.
    fn operations(
        &mut self,
        raw: &[RawOperation],
        done: bool,
        batch: &Batch,
        names: &mut Names,
        to: &mut Vec<Operation>,
    ) -> Result<(), Fault> {
        for operation in raw {
            let operation = self.operation(*operation, done, batch, names)?;
            to.push(operation);
        }
        Ok(())
    }

    fn operation(
        &mut self,
        raw: RawOperation,
        done: bool,
        batch: &Batch,
        names: &mut Names,
    ) -> Result<Operation, Fault> {
        Ok(match raw {
            RawOperation::Read { key, .. } | RawOperation::ReadList { key, .. } if !done => {
                Operation::ReadUnknown { key: self.key(key, batch, names) }
            }
            RawOperation::ReadWhere { asked, found } => match (found, done) {
                (Some(found), true) => {
                    self.pairs.clear();
                    for pair in batch.elements_of(found).chunks_exact(2) {
                        let key = self.key(pair[0], batch, names);
                        let value = self.value(pair[1], batch, names);
                        self.pairs.push((key, value));
                    }
                    self.count(found.length)?;
                    let predicate = self.predicate(asked, batch, names);
                    self.history.read_where(predicate, &self.pairs)
                }
                _ => {
                    let predicate = self.predicate(asked, batch, names);
                    self.history.read_where_unknown(predicate)
                }
            },
            RawOperation::ReadList { key, list } => {
                let key = self.key(key, batch, names);
                let mut values = std::mem::take(&mut self.values);
                values.clear();
                for element in batch.elements_of(list) {
                    values.push(self.value(*element, batch, names));
                }
                self.count(list.length)?;
                let operation = self.history.read_list(key, &values);
                self.values = values;
                operation
            }
            RawOperation::Read { key, value } => Operation::Read {
                key: self.key(key, batch, names),
                value: self.value(value, batch, names),
            },
            RawOperation::Append { key, value } => Operation::Append {
                key: self.key(key, batch, names),
                value: self.value(value, batch, names),
            },
            RawOperation::Write { key, value } => Operation::Write {
                key: self.key(key, batch, names),
                value: self.value(value, batch, names),
            },
            RawOperation::Insert { key, value } => Operation::Insert {
                key: self.key(key, batch, names),
                value: self.value(value, batch, names),
            },
            RawOperation::Delete { key } => Operation::Delete { key: self.key(key, batch, names) },
            RawOperation::Add { key, value } => Operation::Add {
                key: self.key(key, batch, names),
                value: self.value(value, batch, names),
            },
            RawOperation::CompareAndSet { key, old, new } => {
                self.count(2)?;
                let key = self.key(key, batch, names);
                let (old, new) = (self.value(old, batch, names), self.value(new, batch, names));
                self.history.compare_and_set(key, old, new)
            }
            RawOperation::Transfer { from, to, amount } => {
                self.count(2)?;
                let (from, to) = (self.key(from, batch, names), self.key(to, batch, names));
                let amount = self.value(amount, batch, names);
                self.history.transfer(from, to, amount)
            }
        })
    }

    fn predicate(&mut self, asked: Asked, batch: &Batch, names: &mut Names) -> Predicate {
        match asked {
            Asked::All => Predicate::All,
            Asked::Equals(value) => Predicate::Equals(self.value(value, batch, names)),
            Asked::Modulo(modulus, rest) => Predicate::Modulo(modulus, rest),
            Asked::Between(from, to) => Predicate::Between(from, to),
        }
    }

    /// The history counts its elements in 32 bits.
    fn count(&mut self, elements: u32) -> Result<(), Fault> {
        self.stored += u64::from(elements);
        if self.stored < u64::from(u32::MAX) { Ok(()) } else { Err(Fault::TooMany("elements")) }
    }

    fn key(&mut self, scalar: Scalar, batch: &Batch, names: &mut Names) -> Key {
        match scalar {
            Scalar::Nil => self.history.key("nil"),
            Scalar::Integer(integer) => self.history.integer_key(integer),
            Scalar::Name(name) => *names.keys[name as usize]
                .get_or_insert_with(|| self.history.key(&batch.names[name as usize])),
        }
    }

    fn value(&mut self, scalar: Scalar, batch: &Batch, names: &mut Names) -> Value {
        match scalar {
            Scalar::Nil => Value::NIL,
            Scalar::Integer(integer) => self.history.integer(integer),
            Scalar::Name(name) => *names.values[name as usize]
                .get_or_insert_with(|| self.history.text(&batch.names[name as usize])),
        }
    }
}

/// A line as a transaction keeps it.
fn line(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(0)
}
