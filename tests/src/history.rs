//! A recorded history as data: what each transaction did and saw, when, and how it ended.
//!
//! It is made for a million transactions in memory. Keys and odd values are interned, operations
//! lie in one arena, and so do the elements of what was read. Lists grow, so most reads of a list
//! are a prefix of the longest read of it: each key has that one list, its *spine*, and a read that
//! agrees with it is stored as a length.
//!
//! 1. Operations of a transaction are in the order in which it made them.
//! 2. After [`History::finish`] transactions are in the order of their invocation.
//! 3. A list that is stored as a length is a prefix of its key's spine.
//!
//! | workload | operations |
//! |---|---|
//! | list-append | `Append`, `ReadList`, `ReadUnknown` |
//! | read-write register, long fork | `Write`, `Read`, `ReadUnknown` |
//! | closed predicate | `Insert`, `Write`, `Delete`, `Read`, `ReadWhere`, `ReadUnknown`; the transaction that made the first state has `initial` set |
//! | bank | `Transfer`, `ReadWhere` of everything |
//! | set, set-full | `Append` of an element, `ReadList` in any order |
//! | counter | `Add`, `Read` |
//! | cas-register, multi-register | `Write`, `Read`, `CompareAndSet` |

pub mod convert;
pub mod dbcop;
pub mod edn;
pub mod jsonl;
pub mod plain;

mod assembly;
mod datum;
mod fault;
mod jepsen;
mod level;
mod meaning;
mod numbering;
mod raw;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU64;

pub use datum::Datum;
pub use fault::{Fault, Location, ReadError};
pub use level::{Base, Level, Order};

/// A key, by its place among the history's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u32);

impl Key {
    /// Its place.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A value: an integer, nothing, or something interned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Value(i64);

impl Value {
    /// Nothing is there.
    pub const NIL: Value = Value(i64::MIN);

    /// Values from here on are places among the interned ones.
    const INTERNED_MIN: i64 = 1 << 62;

    /// This integer, unless it is too large to stand for itself ([`History::integer`] takes all).
    pub const fn small(integer: i64) -> Option<Value> {
        if integer > i64::MIN && integer < Value::INTERNED_MIN {
            Some(Value(integer))
        } else {
            None
        }
    }

    /// The integer that it is, if it is one that stands for itself.
    pub const fn as_integer(self) -> Option<i64> {
        if self.0 > i64::MIN && self.0 < Value::INTERNED_MIN { Some(self.0) } else { None }
    }

    /// Whether nothing is there.
    pub const fn is_nil(self) -> bool {
        self.0 == i64::MIN
    }
}

/// Elements of one read: a prefix of the key's spine, or a place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    start: u32,
    length: u32,
}

impl List {
    const SPINE: u32 = u32::MAX;

    /// The count of elements (of pairs, twice the count).
    pub fn len(self) -> usize {
        self.length as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Whether it is a prefix of its key's spine.
    pub fn is_of_spine(self) -> bool {
        self.start == List::SPINE
    }
}

/// What a predicate read asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Predicate {
    /// Everything there is.
    All,
    /// Items of this value.
    Equals(Value),
    /// Items whose value has this remainder: the modulus, the remainder.
    Modulo(i64, i64),
    /// Items whose key is an integer from the first, up to but without the second.
    Between(i64, i64),
}

impl Predicate {
    /// Whether the item `key` is asked for while it has `value`; an absent one never is.
    pub fn matches(self, key: &Name, value: Value) -> bool {
        match self {
            _ if value.is_nil() => false,
            Predicate::All => true,
            Predicate::Between(from, to) => {
                matches!(key, Name::Integer(key) if (from..to).contains(key))
            }
            Predicate::Equals(wanted) => value == wanted,
            Predicate::Modulo(modulus, remainder) => value
                .as_integer()
                .and_then(|integer| integer.checked_rem_euclid(modulus))
                .is_some_and(|rest| rest == remainder),
        }
    }
}

/// One operation of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Put an element at the end of a list, or into a set.
    Append {
        /// The list.
        key: Key,
        /// The element.
        value: Value,
    },
    /// Read a whole list, or a whole set.
    ReadList {
        /// The list.
        key: Key,
        /// Its elements.
        list: List,
    },
    /// Set a register.
    Write {
        /// The register.
        key: Key,
        /// The value; nil deletes.
        value: Value,
    },
    /// Read a register or a counter.
    Read {
        /// The register.
        key: Key,
        /// The value; nil if nothing was there.
        value: Value,
    },
    /// A read whose answer is not known.
    ReadUnknown {
        /// What was read.
        key: Key,
    },
    /// Make an item that is not there.
    Insert {
        /// The item.
        key: Key,
        /// Its value.
        value: Value,
    },
    /// Remove an item.
    Delete {
        /// The item.
        key: Key,
    },
    /// Read the items that a predicate asks for.
    ReadWhere {
        /// The place of the predicate.
        predicate: u32,
        /// Pairs of key and value.
        found: List,
    },
    /// A read by a predicate whose answer is not known.
    ReadWhereUnknown {
        /// The place of the predicate.
        predicate: u32,
    },
    /// Add to a counter.
    Add {
        /// The counter.
        key: Key,
        /// How much, in either direction.
        value: Value,
    },
    /// Set a register if it has a value.
    CompareAndSet {
        /// The register.
        key: Key,
        /// The pair of the value that it must have and the new one.
        pair: List,
    },
    /// Move an amount from an account to another.
    Transfer {
        /// The account that pays.
        from: Key,
        /// The pair of the other account and the amount.
        pair: List,
    },
}

impl Operation {
    /// The key, for those that have one.
    pub fn key(self) -> Option<Key> {
        match self {
            Operation::Append { key, .. }
            | Operation::ReadList { key, .. }
            | Operation::Write { key, .. }
            | Operation::Read { key, .. }
            | Operation::ReadUnknown { key }
            | Operation::Insert { key, .. }
            | Operation::Delete { key }
            | Operation::Add { key, .. }
            | Operation::CompareAndSet { key, .. }
            | Operation::Transfer { from: key, .. } => Some(key),
            Operation::ReadWhere { .. } | Operation::ReadWhereUnknown { .. } => None,
        }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was acknowledged.
    Committed,
    /// It surely did not happen.
    Aborted,
    /// It may have happened, then or later.
    Unknown,
}

/// A transaction, without its operations.
#[derive(Clone, Copy, Debug)]
pub struct Transaction {
    /// Who made it; [`Transaction::NOBODY`] if that is not known.
    pub process: u32,
    /// The position of its invocation among all events, from 1; 0 if that is not known.
    pub invoked: u32,
    /// The position of its completion; [`Transaction::NEVER`] if there is none.
    pub completed: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether it made the first state, before everything else.
    pub initial: bool,
    /// The level that it asked for, where the history says so.
    pub level: Option<Level>,
    /// The commit timestamp that the engine gave it, where the history says so.
    pub commit: Option<NonZeroU64>,
    /// The line of the source that told of it (its completion, or else its invocation); 0 if none.
    pub line: u32,
    /// Its operations, once it was pushed.
    pub operations: Place,
}

/// Where a transaction's operations lie.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    first: u32,
    count: u32,
}

impl Transaction {
    /// The position of a completion that never came.
    pub const NEVER: u32 = u32::MAX;

    /// The process of which nothing is known: no order follows from it.
    pub const NOBODY: u32 = u32::MAX;

    /// A committed transaction of which nothing else is known.
    pub fn of(process: u32) -> Transaction {
        Transaction {
            process,
            invoked: 0,
            completed: Transaction::NEVER,
            outcome: Outcome::Committed,
            initial: false,
            level: None,
            commit: None,
            line: 0,
            operations: Place::default(),
        }
    }
}

/// The name of a key or of an odd value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// An integer.
    Integer(i64),
    /// Anything else, as its format writes it.
    Text(Box<str>),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Integer(integer) => integer.fmt(f),
            Name::Text(text) => f.pad(text),
        }
    }
}

/// Names and their places.
#[derive(Clone, Debug, Default)]
struct Names {
    names: Vec<Name>,
    texts: HashMap<Box<str>, u32>,
    integers: HashMap<i64, u32>,
    /// Places of small integers, from 0, each plus one; 0 is not there.
    small: Vec<u32>,
}

/// Integers below this are looked up in a table.
const SMALL_MAX: usize = 1 << 22;

impl Names {
    fn text(&mut self, text: &str) -> u32 {
        if let Some(place) = self.texts.get(text) {
            return *place;
        }
        let place = self.add(Name::Text(text.into()));
        self.texts.insert(text.into(), place);
        place
    }

    fn integer(&mut self, integer: i64) -> u32 {
        match usize::try_from(integer) {
            Ok(small) if small < SMALL_MAX => {
                if small >= self.small.len() {
                    self.small.resize((small + 1).next_power_of_two(), 0);
                }
                if self.small[small] == 0 {
                    self.small[small] = self.add(Name::Integer(integer)) + 1;
                }
                self.small[small] - 1
            }
            _ => match self.integers.get(&integer) {
                Some(place) => *place,
                None => {
                    let place = self.add(Name::Integer(integer));
                    self.integers.insert(integer, place);
                    place
                }
            },
        }
    }

    fn add(&mut self, name: Name) -> u32 {
        let place = self.names.len() as u32;
        self.names.push(name);
        place
    }
}

/// A recorded history.
#[derive(Clone, Debug, Default)]
pub struct History {
    transactions: Vec<Transaction>,
    operations: Vec<Operation>,
    elements: Vec<Value>,
    /// The longest known list of each key.
    spines: Vec<Vec<Value>>,
    keys: Names,
    values: Names,
    predicates: Vec<Predicate>,
    predicate_places: HashMap<Predicate, u32>,
}

impl History {
    /// An empty history.
    pub fn new() -> History {
        History::default()
    }

    /// The key of this text.
    pub fn key(&mut self, text: &str) -> Key {
        let key = Key(self.keys.text(text));
        self.know(key)
    }

    /// The key that is this integer.
    pub fn integer_key(&mut self, integer: i64) -> Key {
        let key = Key(self.keys.integer(integer));
        self.know(key)
    }

    fn know(&mut self, key: Key) -> Key {
        if key.index() >= self.spines.len() {
            self.spines.resize(key.index() + 1, Vec::new());
        }
        key
    }

    /// The value that is this integer.
    pub fn integer(&mut self, integer: i64) -> Value {
        Value::small(integer)
            .unwrap_or_else(|| Value(Value::INTERNED_MIN + i64::from(self.values.integer(integer))))
    }

    /// The value of this text.
    pub fn text(&mut self, text: &str) -> Value {
        Value(Value::INTERNED_MIN + i64::from(self.values.text(text)))
    }

    /// A read of this list.
    pub fn read_list(&mut self, key: Key, list: &[Value]) -> Operation {
        let spine = &mut self.spines[key.index()];
        let shared = spine.len().min(list.len());
        if spine[..shared] == list[..shared] {
            spine.extend_from_slice(&list[shared..]);
            let list = List { start: List::SPINE, length: list.len() as u32 };
            return Operation::ReadList { key, list };
        }
        Operation::ReadList { key, list: self.store(list) }
    }

    /// A read by a predicate, that found these.
    pub fn read_where(&mut self, predicate: Predicate, found: &[(Key, Value)]) -> Operation {
        let predicate = self.predicate(predicate);
        let start = self.elements.len() as u32;
        self.elements.extend(found.iter().flat_map(|(key, value)| [Value(key.0.into()), *value]));
        let found = List { start, length: 2 * found.len() as u32 };
        Operation::ReadWhere { predicate, found }
    }

    /// A read by a predicate, whose answer is not known.
    pub fn read_where_unknown(&mut self, predicate: Predicate) -> Operation {
        Operation::ReadWhereUnknown { predicate: self.predicate(predicate) }
    }

    /// A compare-and-set.
    pub fn compare_and_set(&mut self, key: Key, old: Value, new: Value) -> Operation {
        Operation::CompareAndSet { key, pair: self.store(&[old, new]) }
    }

    /// A transfer between accounts.
    pub fn transfer(&mut self, from: Key, to: Key, amount: Value) -> Operation {
        Operation::Transfer { from, pair: self.store(&[Value(to.0.into()), amount]) }
    }

    fn predicate(&mut self, wanted: Predicate) -> u32 {
        *self.predicate_places.entry(wanted).or_insert_with(|| {
            self.predicates.push(wanted);
            self.predicates.len() as u32 - 1
        })
    }

    fn store(&mut self, elements: &[Value]) -> List {
        let list = List { start: self.elements.len() as u32, length: elements.len() as u32 };
        self.elements.extend_from_slice(elements);
        list
    }

    /// Adds a transaction with its operations, which were made by this history.
    pub fn push(&mut self, mut transaction: Transaction, operations: &[Operation]) {
        let first = self.operations.len() as u32;
        transaction.operations = Place { first, count: operations.len() as u32 };
        self.operations.extend_from_slice(operations);
        self.transactions.push(transaction);
    }

    /// Puts the transactions into the order of their invocation, once all are there.
    pub fn finish(&mut self) {
        self.transactions.sort_by_key(|transaction| match transaction {
            Transaction { initial: true, .. } => (0, 0),
            Transaction { invoked: 0, completed, .. } => (1, *completed),
            Transaction { invoked, .. } => (1, *invoked),
        });
    }

    /// Gives operations that were read one by one the meaning that they have beside the others, once
    /// all are there: nil read of a key that is a list is an empty list, and what is added to a key
    /// that is read as a whole is an element of a set.
    pub fn settle(&mut self) {
        let mut lists = vec![false; self.key_count()];
        let mut singles = vec![false; self.key_count()];
        let mut any_list = false;
        for operation in &self.operations {
            match operation {
                Operation::Append { key, .. } | Operation::ReadList { key, .. } => {
                    lists[key.index()] = true;
                    any_list = true;
                }
                Operation::Read { key, value } => singles[key.index()] |= !value.is_nil(),
                Operation::Write { key, .. }
                | Operation::Insert { key, .. }
                | Operation::Delete { key }
                | Operation::CompareAndSet { key, .. } => singles[key.index()] = true,
                _ => {}
            }
        }
        let empty = List { start: List::SPINE, length: 0 };
        for operation in &mut self.operations {
            match *operation {
                // Of a key that nobody ever touched, its neighbours tell.
                Operation::Read { key, value }
                    if value.is_nil()
                        && (lists[key.index()] || (any_list && !singles[key.index()])) =>
                {
                    *operation = Operation::ReadList { key, list: empty };
                }
                Operation::Add { key, value } if lists[key.index()] => {
                    *operation = Operation::Append { key, value };
                }
                _ => {}
            }
        }
    }

    /// The same, as a store would have it that does not tell when commits took effect.
    pub fn without_commits(mut self) -> History {
        self.transactions.iter_mut().for_each(|transaction| transaction.commit = None);
        self
    }

    /// The same, where every transaction asks for this level.
    pub fn at_level(mut self, level: Level) -> History {
        self.transactions.iter_mut().for_each(|transaction| transaction.level = Some(level));
        self
    }

    /// The transactions.
    pub fn transactions(&self) -> &[Transaction] {
        &self.transactions
    }

    /// The operations of a transaction, by its place.
    pub fn operations(&self, transaction: usize) -> &[Operation] {
        let Place { first, count } = self.transactions[transaction].operations;
        &self.operations[first as usize..first as usize + count as usize]
    }

    /// The count of all operations.
    pub fn operation_count(&self) -> usize {
        self.operations.len()
    }

    /// The count of keys.
    pub fn key_count(&self) -> usize {
        self.keys.names.len()
    }

    /// The name of a key.
    pub fn key_name(&self, key: Key) -> &Name {
        &self.keys.names[key.index()]
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = Key> + use<> {
        (0..self.keys.names.len() as u32).map(Key)
    }

    /// Whether operations name no key, as those of one register, set or counter do not.
    pub fn is_of_one_key(&self) -> bool {
        matches!(self.keys.names.as_slice(), [Name::Text(name)] if **name == *raw::ONLY)
    }

    /// The names of the values that do not stand for themselves.
    pub fn names_of_values(&self) -> impl Iterator<Item = &Name> {
        self.values.names.iter()
    }

    /// The name of a value; none for nil.
    pub fn value_name(&self, value: Value) -> Option<Name> {
        match value.as_integer() {
            Some(integer) => Some(Name::Integer(integer)),
            None if value.is_nil() => None,
            None => self.values.names.get((value.0 - Value::INTERNED_MIN) as usize).cloned(),
        }
    }

    /// The elements of a read of `key`.
    pub fn list(&self, key: Key, list: List) -> &[Value] {
        if list.is_of_spine() { &self.spines[key.index()][..list.len()] } else { self.stored(list) }
    }

    /// The longest list that is known of a key, before any that contradicts it.
    pub fn spine(&self, key: Key) -> &[Value] {
        &self.spines[key.index()]
    }

    /// What a predicate read found.
    pub fn found(&self, found: List) -> impl Iterator<Item = (Key, Value)> {
        self.stored(found).chunks_exact(2).map(|pair| (Key(pair[0].0 as u32), pair[1]))
    }

    /// The old and the new value of a compare-and-set.
    pub fn old_and_new(&self, pair: List) -> (Value, Value) {
        let pair = self.stored(pair);
        (pair[0], pair[1])
    }

    /// The other account and the amount of a transfer.
    pub fn other_and_amount(&self, pair: List) -> (Key, Value) {
        let pair = self.stored(pair);
        (Key(pair[0].0 as u32), pair[1])
    }

    /// A predicate, by its place.
    pub fn predicate_at(&self, place: u32) -> Predicate {
        self.predicates[place as usize]
    }

    /// The count of predicates.
    pub fn predicate_count(&self) -> usize {
        self.predicates.len()
    }

    fn stored(&self, list: List) -> &[Value] {
        &self.elements[list.start as usize..list.start as usize + list.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(integers: &[i64]) -> Vec<Value> {
        integers.iter().map(|integer| Value::small(*integer).unwrap()).collect()
    }

    #[test]
    fn lists_that_agree_share_their_elements() {
        let mut history = History::new();
        let key = history.key("x");
        for read in [&[1, 2][..], &[1], &[1, 2, 3], &[2, 1], &[]] {
            let Operation::ReadList { list, .. } = history.read_list(key, &values(read)) else {
                panic!("not a list");
            };
            assert_eq!(history.list(key, list), values(read));
            assert_eq!(list.is_of_spine(), read != [2, 1]);
        }
        assert_eq!(history.spine(key), values(&[1, 2, 3]));
        assert_eq!(history.elements.len(), 2);
    }

    #[test]
    fn operations_and_transactions_are_small() {
        assert!(size_of::<Operation>() <= 16);
        assert!(size_of::<Transaction>() <= 40);
    }

    #[test]
    fn names_come_back() {
        let mut history = History::new();
        let (text, small, large) =
            (history.key(":x"), history.integer_key(7), history.integer_key(1 << 40));
        assert_eq!(history.key(":x"), text);
        assert_eq!(history.integer_key(7), small);
        assert_eq!(history.integer_key(1 << 40), large);
        assert_eq!(history.key_name(text).to_string(), ":x");
        assert_eq!(history.key_name(large).to_string(), (1_i64 << 40).to_string());
        for integer in [0, -1, i64::MAX, i64::MIN, 1 << 62] {
            let value = history.integer(integer);
            assert!(!value.is_nil());
            assert_eq!(history.value_name(value), Some(Name::Integer(integer)));
        }
        let text = history.text("a");
        assert_eq!(history.value_name(text), Some(Name::Text("a".into())));
        assert_eq!(history.value_name(Value::NIL), None);
    }

    #[test]
    fn transactions_are_in_the_order_of_invocation() {
        let mut history = History::new();
        for (process, invoked) in [(0, 3), (1, 1), (2, 2)] {
            history.push(Transaction { invoked, ..Transaction::of(process) }, &[]);
        }
        history.push(Transaction { initial: true, invoked: 9, ..Transaction::of(3) }, &[]);
        history.finish();
        let processes: Vec<u32> = history.transactions().iter().map(|txn| txn.process).collect();
        assert_eq!(processes, [3, 1, 2, 0]);
    }

    #[test]
    fn predicates_ask_for_what_is_there() {
        let three = Value::small(3).unwrap();
        let at = |predicate: Predicate, value| predicate.matches(&Name::Integer(7), value);
        assert!(at(Predicate::All, three) && !at(Predicate::All, Value::NIL));
        assert!(at(Predicate::Modulo(2, 1), three) && !at(Predicate::Modulo(2, 0), three));
        assert!(!at(Predicate::Modulo(0, 0), three));
        assert!(at(Predicate::Equals(three), three));
        assert!(at(Predicate::Between(7, 8), three) && !at(Predicate::Between(0, 7), three));
        assert!(!Predicate::Between(0, 9).matches(&Name::Text("x".into()), three));
    }
}
