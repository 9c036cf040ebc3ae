//! Which workload a history is of, by its operations.

use std::collections::HashSet;

use crate::history::{History, Operation, Outcome};

use super::question::Workload;

/// What kinds of operations there are.
#[derive(Default)]
struct Seen {
    append: bool,
    list: bool,
    write: bool,
    item: bool,
    by_predicate: bool,
    /// There is a first state.
    first: bool,
    add: bool,
    compare: bool,
    transfer: bool,
    /// Reads of lists that were answered.
    lists: usize,
    /// A value was written twice to a key.
    repeated: bool,
    /// Operations stand alone, on a key that has no name.
    alone: bool,
}

impl Workload {
    /// The workload that a history is plainly of; none if its operations belong to several.
    pub fn of(history: &History) -> Option<Workload> {
        let seen = Seen::of(history);
        let registers = seen.write && !seen.append && !seen.list;
        match seen {
            Seen { transfer: true, append: false, write: false, add: false, .. } => {
                Some(Workload::Bank)
            }
            Seen { transfer: true, .. } => None,
            Seen { compare: true, append: false, list: false, add: false, .. } => {
                Some(Workload::CompareAndSet)
            }
            Seen { compare: true, .. } => None,
            Seen { add: true, append: false, list: false, write: false, item: false, .. } => {
                Some(Workload::Counter)
            }
            Seen { add: true, .. } => None,
            Seen { append: false, list: false, item: true, .. } => Some(Workload::Predicate),
            Seen { append: false, list: false, by_predicate: true, write, first, .. } => {
                Some(if write || first { Workload::Predicate } else { Workload::Bank })
            }
            Seen { item: true, .. } | Seen { by_predicate: true, .. } => None,
            Seen { append: true, write: false, alone: true, lists, .. }
            | Seen { list: true, write: false, alone: true, lists, .. } => {
                Some(if lists > 1 { Workload::SetFull } else { Workload::Set })
            }
            Seen { append: true, write: false, .. } | Seen { list: true, write: false, .. } => {
                Some(Workload::Append)
            }
            Seen { repeated: true, .. } | Seen { alone: true, .. } if registers => {
                Some(Workload::CompareAndSet)
            }
            Seen { append: false, list: false, .. } => Some(Workload::Register),
            _ => None,
        }
    }
}

impl Seen {
    fn of(history: &History) -> Seen {
        let mut seen = Seen { alone: history.is_of_one_key(), ..Seen::default() };
        let mut written = HashSet::new();
        for (place, transaction) in history.transactions().iter().enumerate() {
            seen.first |= transaction.initial;
            for operation in history.operations(place) {
                match operation {
                    Operation::Append { .. } => seen.append = true,
                    Operation::ReadList { .. } => {
                        seen.list = true;
                        seen.lists += usize::from(transaction.outcome == Outcome::Committed);
                    }
                    // The first state says nothing about who writes later.
                    Operation::Write { .. } if transaction.initial => {}
                    Operation::Write { key, value } => {
                        seen.write = true;
                        seen.repeated |= !written.insert((*key, *value));
                    }
                    Operation::Insert { .. } | Operation::Delete { .. } => seen.item = true,
                    Operation::ReadWhere { .. } | Operation::ReadWhereUnknown { .. } => {
                        seen.by_predicate = true;
                    }
                    Operation::Add { .. } => seen.add = true,
                    Operation::CompareAndSet { .. } => seen.compare = true,
                    Operation::Transfer { .. } => seen.transfer = true,
                    Operation::Read { .. } | Operation::ReadUnknown { .. } => {}
                }
            }
        }
        seen
    }
}
