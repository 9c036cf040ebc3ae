//! What one thread did in one window, written down while it runs: flat, so that it costs next to
//! nothing, and complete, so that a judge needs nothing else.
//!
//! 1. Values are positive and unique within a run; 0 stands for a key without a value.
//! 2. A transaction's operations are those that were answered, in their order; what a transaction
//!    wrote is there whether or not it committed.
//! 3. `invoked` and `completed` are drawn from one counter, before the first operation and after the
//!    last: if one transaction's `completed` is less than another's `invoked`, it was over before the
//!    other began.

use isolith::{Durability, Isolation};

/// A value that a key can have: positive, and no two writes write the same.
pub type Value = i64;
/// A key, by its number within the window.
pub type Key = u32;
/// No value.
pub const ABSENT: Value = 0;

/// One operation that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A key's value, or [`ABSENT`].
    Read(Key, Value),
    /// A put.
    Write(Key, Value),
    /// A delete.
    Delete(Key),
    /// An element that was put behind a list.
    Append(Key, Value),
    /// A list, as its elements.
    List(Key, Elements),
    /// The keys from the first, included, to the second, excluded, and what was found there: elements
    /// are keys and values in turn.
    Scan(Key, Key, Elements),
}

/// A stretch of [`Tape::elements`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elements {
    start: u32,
    length: u32,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It committed, and was acknowledged; with its commit timestamp, if the target tells one.
    Committed(Option<u64>),
    /// It had no effect.
    Aborted,
    /// It may have committed, or not; with the timestamp that it was decided at, if it is known.
    Unknown(Option<u64>),
}

/// One transaction.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Before its first operation.
    pub invoked: u64,
    /// After its last.
    pub completed: u64,
    /// What it is promised.
    pub level: Isolation,
    /// When it is acknowledged.
    pub durability: Durability,
    /// Whether it was begun read-only.
    pub read_only: bool,
    /// The place of its protection in the mix.
    pub share: u16,
    /// The timestamp of the snapshot that it reads at, if the target tells.
    pub read_timestamp: Option<u64>,
    /// What it left at its thread's mark, if it did: they grow.
    pub mark: Option<Value>,
    /// How it ended.
    pub end: End,
    /// The end of its operations, which begin where the last transaction's end.
    operations_end: u32,
}

/// One thread's transactions of one window, in order.
#[derive(Clone, Debug, Default)]
pub struct Tape {
    entries: Vec<Entry>,
    operations: Vec<Operation>,
    elements: Vec<Value>,
}

/// A transaction with what it did.
#[derive(Clone, Copy, Debug)]
pub struct Taped<'a> {
    /// All but its operations.
    pub entry: &'a Entry,
    /// Its operations.
    pub operations: &'a [Operation],
    tape: &'a Tape,
}

impl<'a> Taped<'a> {
    /// A list's elements, or what a scan found.
    pub fn elements(&self, elements: Elements) -> &'a [Value] {
        self.tape.elements(elements)
    }

    /// What a scan found.
    pub fn pairs(&self, elements: Elements) -> impl Iterator<Item = (Key, Value)> + 'a {
        self.elements(elements).chunks_exact(2).map(|pair| (pair[0] as Key, pair[1]))
    }

    /// Whether it changes anything, if it commits.
    pub fn writes(&self) -> bool {
        self.operations.iter().any(Operation::is_write)
    }
}

impl Operation {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        use Operation::{Append, Delete, Write};
        matches!(self, Write(..) | Delete(_) | Append(..))
    }
}

impl Tape {
    /// Nothing is on it, and its memory stays.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.operations.clear();
        self.elements.clear();
    }

    /// Transactions on it.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Operations on it.
    pub fn operation_count(&self) -> usize {
        self.operations.len()
    }

    /// Writes down an operation of the transaction under way.
    #[inline]
    pub fn note(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Keeps what an operation found.
    #[inline]
    pub fn keep(&mut self, elements: impl IntoIterator<Item = Value>) -> Elements {
        let start = self.elements.len();
        self.elements.extend(elements);
        Elements { start: start as u32, length: (self.elements.len() - start) as u32 }
    }

    /// What an operation found.
    pub fn elements(&self, elements: Elements) -> &[Value] {
        let start = elements.start as usize;
        &self.elements[start..start + elements.length as usize]
    }

    /// Whether the transaction under way changes anything, if it commits.
    pub fn will_write(&self) -> bool {
        self.operations[self.under_way()..].iter().any(Operation::is_write)
    }

    /// Whether the transaction under way has put an element behind this list.
    pub fn has_appended(&self, list: Key) -> bool {
        let under_way = &self.operations[self.under_way()..];
        under_way
            .iter()
            .any(|operation| matches!(operation, Operation::Append(key, _) if *key == list))
    }

    fn under_way(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.operations_end as usize)
    }

    /// Ends the transaction under way.
    #[inline]
    pub fn end(&mut self, mut entry: Entry) {
        entry.operations_end = self.operations.len() as u32;
        self.entries.push(entry);
    }

    /// The transactions, in their order.
    pub fn transactions(&self) -> impl Iterator<Item = Taped<'_>> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let operations = &self.operations[start..entry.operations_end as usize];
            start = entry.operations_end as usize;
            Taped { entry, operations, tape: self }
        })
    }

    /// The transactions' ends, to be changed by what became known later.
    pub fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.entries.iter_mut()
    }

    /// Drops the transactions that are not wanted; what they did stays in memory, unseen.
    pub fn retain(&mut self, mut wanted: impl FnMut(Taped<'_>) -> bool) {
        let mut kept = Tape::default();
        for taped in self.transactions().filter(|taped| wanted(*taped)) {
            kept.copy(taped);
        }
        *self = kept;
    }

    fn copy(&mut self, taped: Taped<'_>) {
        for operation in taped.operations {
            let operation = match *operation {
                Operation::List(key, elements) => {
                    Operation::List(key, self.keep(taped.elements(elements).iter().copied()))
                }
                Operation::Scan(from, to, elements) => {
                    let elements = self.keep(taped.elements(elements).iter().copied());
                    Operation::Scan(from, to, elements)
                }
                other => other,
            };
            self.note(operation);
        }
        self.end(*taped.entry);
    }
}

impl Entry {
    /// A transaction that begins.
    pub fn begun(invoked: u64, level: Isolation, durability: Durability, share: usize) -> Entry {
        Entry {
            invoked,
            completed: invoked,
            level,
            durability,
            read_only: false,
            share: share as u16,
            read_timestamp: None,
            mark: None,
            end: End::Aborted,
            operations_end: 0,
        }
    }

    /// Whether it committed and was acknowledged.
    pub fn is_committed(&self) -> bool {
        matches!(self.end, End::Committed(_))
    }
}
