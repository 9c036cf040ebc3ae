//! A window: the part of a run that is judged by itself.
//!
//! A history is cut where it cannot matter: no key outlives its window, and no transaction of a window
//! begins before all of the one before are over. Dependencies between transactions are about keys, so
//! they stay inside; the order of sessions and of real time goes from a window to the next and never
//! back. So no cycle crosses windows: whoever judges each by itself has judged the whole run, and a run
//! as long as one likes is judged in the memory of a few windows.

use std::num::NonZeroU64;

use isolith::Isolation;

use super::tape::{ABSENT, End, Operation, Tape, Taped};
use super::workload::Course;
use crate::history::{self, History, Level, Order, Outcome, Predicate, Value};

/// What happened in a window.
#[derive(Debug)]
pub struct Window {
    /// Which of the run, from 0.
    pub number: u64,
    /// What its transactions do.
    pub course: Course,
    /// Who did what; a tape is a process.
    pub tapes: Vec<Tape>,
    /// The clock when it began.
    pub since: u64,
    /// Whether everything was read at the end: otherwise nothing can be missing.
    pub is_whole: bool,
}

impl Window {
    /// Transactions in it.
    pub fn transaction_count(&self) -> usize {
        self.tapes.iter().map(Tape::len).sum()
    }

    /// Operations in it.
    pub fn operation_count(&self) -> usize {
        self.tapes.iter().map(Tape::operation_count).sum()
    }

    /// Every transaction, thread by thread.
    pub fn transactions(&self) -> impl Iterator<Item = (u32, Taped<'_>)> {
        let tapes = self.tapes.iter().zip(0..);
        tapes.flat_map(|(tape, process)| tape.transactions().map(move |taped| (process, taped)))
    }

    /// The window as a history. Keys are numbers; `apart`: no other window's keys and positions are
    /// the same.
    pub fn history(&self, apart: bool) -> History {
        let keys = Keys { first: if apart { self.number as i64 * KEYS_MAX } else { 0 } };
        let since = if apart { 0 } else { self.since };
        let mut history = History::new();
        let (mut operations, mut values, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        for (process, taped) in self.transactions() {
            // Of what was not acknowledged, nothing that it saw was promised.
            let committed = taped.entry.is_committed();
            if !committed && !taped.writes() {
                continue;
            }
            operations.clear();
            let told = |operation: &&Operation| committed || operation.is_write();
            for &operation in taped.operations.iter().filter(told) {
                let operation = keys.told(&mut history, taped, operation, &mut values, &mut pairs);
                operations.push(operation);
            }
            history.push(transaction(process, taped, since), &operations);
        }
        history.finish();
        history
    }
}

/// Keys of a window at most, where windows are told apart.
const KEYS_MAX: i64 = 1 << 24;

/// The transaction as the judge takes it.
fn transaction(process: u32, taped: Taped<'_>, since: u64) -> history::Transaction {
    let entry = taped.entry;
    let position = |at: u64| u32::try_from(at - since + 1).unwrap_or(u32::MAX - 1);
    let (outcome, commit) = match entry.end {
        End::Committed(at) => (Outcome::Committed, at),
        End::Aborted => (Outcome::Aborted, None),
        End::Unknown(at) => (Outcome::Unknown, at),
    };
    let completed = match outcome {
        Outcome::Unknown => history::Transaction::NEVER,
        _ => position(entry.completed),
    };
    let mut told = history::Transaction::of(process);
    told.invoked = position(entry.invoked);
    told.completed = completed;
    told.outcome = outcome;
    told.level = Some(level(entry.level));
    told.commit = commit.and_then(NonZeroU64::new);
    told
}

/// What isolith promises at a level, as a level of histories: all of them keep to real time.
fn level(isolation: Isolation) -> Level {
    let level = match isolation {
        Isolation::ReadCommitted => Level::READ_COMMITTED,
        Isolation::RepeatableRead => Level::REPEATABLE_READ,
        Isolation::Snapshot => Level::SNAPSHOT,
        Isolation::Serializable => Level::SERIALIZABLE,
    };
    Level::new(level.base, Order::RealTime)
}

/// How keys are called.
struct Keys {
    first: i64,
}

impl Keys {
    fn told(
        &self,
        history: &mut History,
        taped: Taped<'_>,
        operation: Operation,
        values: &mut Vec<Value>,
        pairs: &mut Vec<(history::Key, Value)>,
    ) -> history::Operation {
        let name = |key: u32| self.first + i64::from(key);
        match operation {
            Operation::Read(key, value) => {
                let key = history.integer_key(name(key));
                let value = if value == ABSENT { Value::NIL } else { history.integer(value) };
                history::Operation::Read { key, value }
            }
            Operation::Write(key, value) => {
                let (key, value) = (history.integer_key(name(key)), history.integer(value));
                history::Operation::Write { key, value }
            }
            Operation::Delete(key) => {
                history::Operation::Delete { key: history.integer_key(name(key)) }
            }
            Operation::Append(key, value) => history::Operation::Append {
                key: history.integer_key(name(key)),
                value: history.integer(value),
            },
            Operation::List(key, elements) => {
                let key = history.integer_key(name(key));
                values.clear();
                values.extend(taped.elements(elements).iter().map(|&value| history.integer(value)));
                history.read_list(key, values)
            }
            Operation::Scan(from, to, elements) => {
                pairs.clear();
                for (key, value) in taped.pairs(elements) {
                    pairs.push((history.integer_key(name(key)), history.integer(value)));
                }
                history.read_where(Predicate::Between(name(from), name(to)), pairs)
            }
        }
    }
}
