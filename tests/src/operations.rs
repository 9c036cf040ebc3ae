//! The language of the model test: everything that a user of the embedded API can do, small enough
//! to be generated, shrunk and printed.
//!
//! Every operation is total: places, keys and keyspaces are numbers taken modulo what there is, and
//! an operation on a place that is empty does nothing. So any subsequence of a program is a program,
//! which is what lets proptest shrink a failure to its core.

use std::ops::Bound;

use isolith::{Durability, Isolation};

use crate::model::{Bounds, Bytes, End};

#[cfg(feature = "proptest")]
mod random;

#[cfg(feature = "proptest")]
pub use random::operation;

/// The names of keyspaces.
pub const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
/// Places for running transactions.
pub const SLOTS: usize = 3;

/// Keys that lie at each other's edges: prefixes, neighbours, the empty key, the largest bytes, and
/// some that agree in their first eight bytes.
const EDGES: [&[u8]; 14] = [
    b"",
    b"\0",
    b"a",
    b"a\0",
    b"aa",
    b"ab",
    b"abcdefgh",
    b"abcdefgh\0",
    b"abcdefghi",
    b"abcdefghiz",
    b"b",
    b"b\xff",
    b"\xff",
    b"\xff\xff",
];

/// The key of a number: an edge, or one of a crowd.
pub fn key(number: u8) -> Bytes {
    match EDGES.get(usize::from(number)) {
        Some(edge) => edge.to_vec(),
        None => format!("crowd {number:03}").into_bytes(),
    }
}

/// A value: how long, and whether it is unique or always the same.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Always the same bytes: only versions tell such writes apart.
    Same,
    /// No bytes.
    Empty,
    /// Different at each write, at least so long.
    Unique(u16),
}

impl Value {
    /// Its bytes, for the `serial`-th write of a run.
    pub fn bytes(self, serial: u64) -> Bytes {
        match self {
            Value::Same => b"same".to_vec(),
            Value::Empty => Vec::new(),
            Value::Unique(length) => {
                let mut bytes = format!("{serial}.").into_bytes();
                while bytes.len() < usize::from(length) {
                    bytes.push(b'a' + (bytes.len() % 23) as u8);
                }
                bytes
            }
        }
    }
}

/// A range of keys.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    /// Every key.
    All,
    /// Two ends, each excluded or included; inverted ones hold nothing.
    Between(u8, bool, u8, bool),
    /// From a key on.
    From(u8),
    /// Below a key.
    Below(u8),
    /// The keys that begin with the first so many bytes of a key.
    Prefix(u8, u8),
}

impl Span {
    /// The prefix, if this is one.
    pub fn prefix(self) -> Option<Bytes> {
        match self {
            Span::Prefix(number, length) => {
                let mut prefix = key(number);
                prefix.truncate(usize::from(length));
                Some(prefix)
            }
            _ => None,
        }
    }

    /// The two ends.
    pub fn bounds(self) -> Bounds {
        let end = |number, included| match included {
            true => Bound::Included(key(number)),
            false => Bound::Excluded(key(number)),
        };
        match self {
            Span::All => (Bound::Unbounded, Bound::Unbounded),
            Span::Between(lower, with_lower, upper, with_upper) => {
                (end(lower, with_lower), end(upper, with_upper))
            }
            Span::From(lower) => (end(lower, true), Bound::Unbounded),
            Span::Below(upper) => (Bound::Unbounded, end(upper, false)),
            Span::Prefix(..) => {
                let prefix = self.prefix().unwrap_or_default();
                let kept = prefix.iter().rposition(|byte| *byte < u8::MAX);
                let upper = kept.map(|last| {
                    let mut upper = prefix[..=last].to_vec();
                    upper[last] += 1;
                    upper
                });
                (Bound::Included(prefix), upper.map_or(Bound::Unbounded, Bound::Excluded))
            }
        }
    }
}

/// How an iterator is used: from which end each step is taken, and whether the rest is read, too. At
/// least one step is taken: an iterator that cannot be read says so with its first item.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Steps, `true` from the back.
    pub backs: Vec<bool>,
    /// Whether the iterator is then read to its end, from the front (`Some(false)`) or the back.
    pub rest: Option<bool>,
}

/// A read.
#[derive(Clone, Debug)]
pub enum Look {
    /// One key.
    Get(u8, u8),
    /// A range.
    Scan(u8, Span, Walk),
}

/// What is done within a transaction.
#[derive(Clone, Debug)]
pub enum Action {
    /// A read.
    Look(Look),
    /// A read of a key that is going to be changed.
    ForUpdate(u8, u8),
    /// A put, which lives for so many milliseconds.
    Put(u8, u8, Value, Option<u8>),
    /// A delete.
    Delete(u8, u8),
    /// A range delete.
    DeleteRange(u8, Span),
    /// A merge that joins bytes to one end.
    Append(u8, u8, Value, End),
    /// A new savepoint.
    Savepoint,
    /// Back to one of the savepoints.
    RollbackTo(u8),
}

/// One operation on the database. The first number of most is the keyspace.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Opens or creates a keyspace.
    Open(u8),
    /// Drops a keyspace.
    Drop(u8),
    /// An autocommit read.
    Look(Look),
    /// An autocommit put, which lives for so many milliseconds.
    Put(u8, u8, Value, Option<u8>, Durability),
    /// Many autocommit puts of one key, so that chains are pruned.
    Churn(u8, u8, u8),
    /// An autocommit delete.
    Delete(u8, u8),
    /// An autocommit range delete.
    DeleteRange(u8, Span),
    /// An autocommit merge that joins bytes to one end, so many times.
    Append(u8, u8, Value, u8, End),
    /// A compare-and-swap that expects what is there (or not), and puts or removes.
    Swap(u8, u8, bool, Option<Value>),
    /// Begins a transaction in a slot; what ran there is dropped.
    Begin(u8, Isolation, bool, Durability),
    /// Does something in the transaction of a slot; begins one there if none runs.
    In(u8, Action),
    /// Commits the transaction of a slot; its acknowledgement is awaited, or kept for later.
    Commit(u8, bool),
    /// Rolls the transaction of a slot back.
    Rollback(u8),
    /// Waits for an acknowledgement that was kept.
    Await(u8),
    /// Takes a snapshot, of what is acknowledged or of what is visible.
    Snapshot(bool),
    /// Takes a snapshot of the past: so many commits before the newest; 0 is beyond it.
    SnapshotAt(u8),
    /// Reads through a snapshot.
    Through(u8, Look),
    /// Drops a snapshot.
    Forget(u8),
    /// Moves the clock, in milliseconds.
    Advance(u8),
    /// Makes everything durable.
    Sync,
    /// Writes what is in memory to files.
    Flush,
    /// Writes all files anew.
    Compact,
    /// Closes (or only drops) the database and opens it again.
    Reopen(bool),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::within;

    #[test]
    fn a_prefix_holds_exactly_the_keys_that_begin_with_it() {
        for number in 0..=u8::MAX {
            for length in 0..10 {
                let span = Span::Prefix(number, length);
                let (prefix, bounds) = (span.prefix().unwrap_or_default(), span.bounds());
                for other in 0..=u8::MAX {
                    let key = key(other);
                    assert_eq!(key.starts_with(&prefix), within(&key, &bounds));
                }
            }
        }
    }
}
