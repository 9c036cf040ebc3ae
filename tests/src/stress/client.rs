//! What a stress needs of a database: a session that runs one transaction after the other.

use std::ops::Range;

use isolith::{Concurrency, Durability, Isolation};

use super::tape::{End, Key, Value};
use crate::finding::Finding;

/// How a transaction is begun.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What it is protected from.
    pub isolation: Isolation,
    /// How it keeps others from disturbing it.
    pub concurrency: Concurrency,
    /// When its commit is acknowledged.
    pub durability: Durability,
    /// Whether it only reads.
    pub read_only: bool,
}

/// Why an operation was not answered.
#[derive(Debug)]
pub enum Failure {
    /// The transaction was refused for the sake of others: it had no effect.
    Refused,
    /// The database is gone for now: it crashed, or refuses all writes since its log failed.
    Gone(String),
    /// A target that is not ours to judge failed: nothing can be said.
    Failed(String),
    /// What must not happen.
    Wrong(Finding),
}

/// What an operation answers.
pub type Answer<T = ()> = Result<T, Failure>;

/// How a commit ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// The newest commit that a transaction which changed nothing has seen, if the target tells.
    pub observed: Option<u64>,
    /// Whether the session can go on.
    pub then: Answer,
}

/// How a read protects what it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// As the level has it.
    Plain,
    /// For an update of it: unchanged until the commit, at every level.
    ForUpdate,
}

/// What a target has beyond reading and writing keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Puts bytes behind a value without reading it.
    pub append: bool,
    /// Reads ranges of keys.
    pub scan: bool,
    /// Begins transactions read-only.
    pub read_only: bool,
    /// Whoever writes leaves its number at its thread's own key ([`mark_of`]), so that it is known after
    /// a crash which transactions are there, where no timestamps tell.
    pub marks: bool,
}

/// The first of the keys that threads leave marks at. No workload has so many keys.
pub const MARKS: Key = 0xffff_0000;

/// The key at which a thread leaves its marks.
pub fn mark_of(process: u16) -> Key {
    MARKS + Key::from(process)
}

/// One session. At most one transaction is open; after a [`Failure`] there is none.
pub trait Client {
    /// What it has.
    fn abilities(&self) -> Abilities;

    /// Begins a transaction.
    fn begin(&mut self, terms: &Terms) -> Answer;

    /// The timestamp that the open transaction reads at, if it is read-only and the target tells.
    fn read_timestamp(&self) -> Option<u64> {
        None
    }

    /// Reads a key into `value`, which is cleared; false if it has none.
    fn get(&mut self, key: Key, reading: Reading, value: &mut Vec<u8>) -> Answer<bool>;

    /// Reads the first keys of a range and their values, at most `limit`, into `found`, which is
    /// cleared.
    fn scan(&mut self, keys: Range<Key>, limit: usize, found: &mut Vec<(Key, Value)>) -> Answer;

    /// Writes a key.
    fn put(&mut self, key: Key, value: &[u8]) -> Answer;

    /// Deletes a key.
    fn delete(&mut self, key: Key) -> Answer;

    /// Puts bytes behind a key's value.
    fn append(&mut self, key: Key, value: &[u8]) -> Answer;

    /// Commits. A failure says that nothing is known of it.
    fn commit(&mut self) -> Answer<Ended>;

    /// Undoes the open transaction.
    fn roll_back(&mut self);
}

/// A number as it is stored.
pub fn bytes_of(value: Value) -> [u8; 8] {
    value.to_be_bytes()
}

/// The number that is stored.
pub fn value_of(bytes: &[u8]) -> Answer<Value> {
    match bytes.try_into() {
        Ok(bytes) => Ok(Value::from_be_bytes(bytes)),
        Err(_) => Err(Failure::Wrong(Finding::new(format!("a torn value: {bytes:?}")))),
    }
}
