//! How the machine reads: through every way that there is, which must all say the same; and what a
//! walk over a range gives and examines, by the model.

use isolith::{Entry, Keyspace, Pair, Result, Snapshot, Transaction};

use crate::model::{Bounds, Bytes, Stored};
use crate::operations::{Look, Walk, key};

/// Who reads.
pub(super) enum Through<'a> {
    Nobody,
    Snapshot(&'a Snapshot),
    Transaction(&'a Transaction),
}

/// What was read.
pub(super) enum Answer {
    Entry(Option<Stored>),
    Pairs(Vec<(Bytes, Bytes)>),
}

/// Reads in every way that there is, which must all say the same.
pub(super) fn read(through: &Through<'_>, keyspace: &Keyspace, look: &Look) -> Result<Answer> {
    match look {
        Look::Get(_, number) => {
            let key = key(*number);
            let (entry, value, there) = match through {
                Through::Nobody => {
                    let lent = keyspace.get_with(&key, <[u8]>::to_vec)?;
                    let value = keyspace.get(&key)?;
                    assert_eq!(value.as_deref(), lent.as_deref(), "get and get_with of {key:?}");
                    (keyspace.get_entry(&key)?, value, keyspace.contains(&key)?)
                }
                Through::Snapshot(snapshot) => (
                    snapshot.get_entry(keyspace, &key)?,
                    snapshot.get(keyspace, &key)?,
                    snapshot.contains(keyspace, &key)?,
                ),
                Through::Transaction(transaction) => (
                    transaction.get_entry(keyspace, &key)?,
                    transaction.get(keyspace, &key)?,
                    transaction.contains(keyspace, &key)?,
                ),
            };
            assert_eq!(entry.as_ref().map(|e| &e.value), value.as_ref(), "the ways of {key:?}");
            assert_eq!(entry.is_some(), there, "get and contains of {key:?}");
            Ok(Answer::Entry(entry.map(stored_of)))
        }
        Look::Scan(_, span, walk) => {
            let pairs = match (through, span.prefix()) {
                (Through::Nobody, Some(prefix)) => walk_range(keyspace.prefix(prefix), walk),
                (Through::Nobody, None) => walk_range(keyspace.range(span.bounds()), walk),
                (Through::Snapshot(snapshot), Some(prefix)) => {
                    walk_range(snapshot.prefix(keyspace, prefix), walk)
                }
                (Through::Snapshot(snapshot), None) => {
                    walk_range(snapshot.range(keyspace, span.bounds()), walk)
                }
                (Through::Transaction(transaction), Some(prefix)) => {
                    walk_range(transaction.prefix(keyspace, prefix), walk)
                }
                (Through::Transaction(transaction), None) => {
                    walk_range(transaction.range(keyspace, span.bounds()), walk)
                }
            };
            pairs.map(Answer::Pairs)
        }
    }
}

fn stored_of(entry: Entry) -> Stored {
    Stored { value: entry.value.to_vec(), expires_at: entry.expires_at }
}

fn walk_range(
    mut range: impl DoubleEndedIterator<Item = Result<Pair>>,
    walk: &Walk,
) -> Result<Vec<(Bytes, Bytes)>> {
    let mut pairs = Vec::new();
    for back in &walk.backs {
        let pair = if *back { range.next_back() } else { range.next() };
        if let Some(pair) = pair.transpose()? {
            pairs.push((pair.0.to_vec(), pair.1.to_vec()));
        }
    }
    if let Some(back) = walk.rest {
        pairs.extend(collect(range, back)?);
    }
    Ok(pairs)
}

pub(super) fn collect(
    mut range: impl DoubleEndedIterator<Item = Result<Pair>>,
    back: bool,
) -> Result<Vec<(Bytes, Bytes)>> {
    let mut pairs = Vec::new();
    while let Some(pair) = if back { range.next_back() } else { range.next() } {
        let (key, value) = pair?;
        pairs.push((key.to_vec(), value.to_vec()));
    }
    Ok(pairs)
}

/// What a walk over `all` gives, and the intervals that it examines: from the end where a step began
/// to the key that it gave, or to the other end if it gave none.
pub(super) fn walked(
    all: &[(Bytes, Bytes)],
    walk: &Walk,
    bounds: &Bounds,
) -> (Vec<(Bytes, Bytes)>, Vec<Bounds>) {
    use std::ops::Bound::Included;
    let mut left = all.iter();
    let (mut pairs, mut front, mut behind) = (Vec::new(), None, None);
    let mut step = |back: bool| {
        let pair = if back { left.next_back() } else { left.next() };
        match (back, pair) {
            (false, Some((key, _))) => front = Some(Included(key.clone())),
            (false, None) => front = Some(bounds.1.clone()),
            (true, Some((key, _))) => behind = Some(Included(key.clone())),
            (true, None) => behind = Some(bounds.0.clone()),
        }
        pairs.extend(pair.cloned());
        pair.is_some()
    };
    for back in &walk.backs {
        step(*back);
    }
    if let Some(back) = walk.rest {
        while step(back) {}
    }
    let front = front.map(|upper| (bounds.0.clone(), upper));
    let behind = behind.map(|lower| (lower, bounds.1.clone()));
    (pairs, front.into_iter().chain(behind).collect())
}
