//! Ordered iteration over a keyspace, forward and reverse, with a transaction's own writes laid over.
//!
//! A [`Range`] fetches chunks: one epoch pin, one seek and a short walk each, so that a user may keep
//! the iterator for as long as it likes and never holds an epoch. Both ends may be consumed.
//!
//! Invariants:
//! 1. What is left to fetch lies strictly between the front chunk and the back chunk.
//! 2. In a transaction that tracks its reads the recorded interval reaches from the range's end to
//!    the last key *returned*; a fetched but unreturned key is not part of it. The end of the
//!    iteration records the whole range.
//! 3. In a transaction that locks its reads a chunk is looked for, locked, and fetched again: as an
//!    interval that reaches from the last chunk's end to this one's (serializable), or key by key
//!    (repeatable read). Nothing outside of what is locked is returned, so the stretch behind a
//!    locked end is open to nobody's phantom. Chunks begin with a single key: a scan that stops early
//!    has locked at most about twice what it returned (protocol rule 8).
//! 4. Where the transaction moves its read timestamp, which it does only if all that was returned still
//!    holds, what was fetched ahead is forgotten, and the iteration goes on at the new one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Bound, ControlFlow};

use isolith_index::{Direction, FileCursors, Slice, pin};
use isolith_txn::{Interval, IntervalId, KeyBound, SnapshotSlot, Write};
use isolith_wal::Lsn;

use crate::error::{Error, Result};
use crate::keyspace::Keyspace;
use crate::snapshot::Snapshot;
use crate::transaction::Transaction;

/// Keys in the first chunk; each further one is twice as large.
const CHUNK_FIRST: usize = 8;
/// The same where every key fetched is locked.
const CHUNK_FIRST_LOCKED: usize = 1;
/// Keys in a chunk at most.
const CHUNK_MAX: usize = 128;
/// Nodes looked at under one epoch pin at most: deleted keys count, too.
const VISITS_MAX: usize = 1024;

/// A key and its value.
pub type Pair = (Slice, Slice);

/// What a range reads through: a [`Snapshot`] or a [`Transaction`].
pub trait View {
    /// The transaction whose own writes lie over what is read, and which depends on it.
    fn transaction(&self) -> Option<&Transaction>;
    /// Whether it may still be read: before each item.
    fn check(&self) -> Result<()>;
    /// Whether what was just read may be believed: after each chunk.
    fn believe(&self) -> Result<()>;
}

impl View for Snapshot {
    fn transaction(&self) -> Option<&Transaction> {
        None
    }

    fn check(&self) -> Result<()> {
        self.check_open()
    }

    fn believe(&self) -> Result<()> {
        Snapshot::believe(self)
    }
}

impl View for &Transaction {
    fn transaction(&self) -> Option<&Transaction> {
        Some(self)
    }

    fn check(&self) -> Result<()> {
        self.check_running()
    }

    fn believe(&self) -> Result<()> {
        Transaction::check(self)
    }
}

/// The view, or why there is none: told once, as the next item.
type Source<V> = Result<V, Option<Error>>;

/// An iterator over keys and values in key order, from both ends, through a [`Snapshot`] (then it may
/// be sent to another thread) or a `&Transaction`. See
/// [`Transaction::range`](crate::Transaction::range), [`Snapshot::range`](crate::Snapshot::range)
/// and [`Keyspace::range`](crate::Keyspace::range).
pub struct Range<V> {
    source: Source<V>,
    keyspace: Keyspace,
    /// The timestamp that it reads at; `None`: what it reads it locks, and reads the newest.
    read: Option<Lsn>,
    /// Held for a statement of its own.
    statement: Option<SnapshotSlot>,
    now: u64,
    bounds: Interval,
    /// What is left to fetch; `None` when all is fetched.
    middle: Option<Interval>,
    front: VecDeque<Pair>,
    /// Descending.
    back: VecDeque<Pair>,
    chunk: usize,
    /// Where the two ends are in the files.
    front_files: RefCell<FileCursors>,
    back_files: RefCell<FileCursors>,
    front_interval: Option<IntervalId>,
    back_interval: Option<IntervalId>,
    /// The last keys returned at either end, for a transaction whose read timestamp may move.
    front_last: Option<Slice>,
    back_last: Option<Slice>,
}

impl<V> fmt::Debug for Range<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range")
            .field("keyspace", &self.keyspace.name())
            .field("bounds", &format_args!("{}", self.bounds))
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

/// All keys that begin with `prefix`.
pub(crate) fn prefix_interval(prefix: &[u8]) -> Interval {
    let mut upper = prefix.to_vec();
    while upper.last() == Some(&0xff) {
        upper.pop();
    }
    let upper = match upper.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(Slice::from(upper))
        }
        None => Bound::Unbounded,
    };
    Interval { lower: Bound::Included(Slice::from(prefix)), upper }
}

/// What a fetch brought.
struct Chunk {
    pairs: Vec<Pair>,
    /// The last key looked at; `None`: the interval's end.
    reached: Option<Slice>,
    observed: Lsn,
}

/// Cuts an interval behind the last key looked at: what was covered, and what is left.
fn split(
    within: Interval,
    reached: Option<Slice>,
    direction: Direction,
) -> (Interval, Option<Interval>) {
    match (reached, direction) {
        (None, _) => (within, None),
        (Some(key), Direction::Forward) => (
            Interval { lower: within.lower, upper: Bound::Included(key.clone()) },
            Some(Interval { lower: Bound::Excluded(key), upper: within.upper }),
        ),
        (Some(key), Direction::Reverse) => (
            Interval { lower: Bound::Included(key.clone()), upper: within.upper },
            Some(Interval { lower: within.lower, upper: Bound::Excluded(key) }),
        ),
    }
}

impl<'t> Range<&'t Transaction> {
    /// A range that is one statement, with a timestamp of its own.
    pub(crate) fn statement(
        transaction: &'t Transaction,
        keyspace: Keyspace,
        slot: SnapshotSlot,
        now: u64,
        bounds: Interval,
    ) -> Self {
        let range = Self::new(transaction, keyspace, slot.timestamp(), now, bounds);
        Self { statement: Some(slot), ..range }
    }

    /// A range that locks what it reads.
    pub(crate) fn locking(
        transaction: &'t Transaction,
        keyspace: Keyspace,
        now: u64,
        bounds: Interval,
    ) -> Self {
        Self::of(Ok(transaction), keyspace, None, now, bounds)
    }
}

impl<V: View> Range<V> {
    pub(crate) fn new(view: V, keyspace: Keyspace, read: Lsn, now: u64, bounds: Interval) -> Self {
        Self::of(Ok(view), keyspace, Some(read), now, bounds)
    }

    fn of(
        source: Source<V>,
        keyspace: Keyspace,
        read: Option<Lsn>,
        now: u64,
        bounds: Interval,
    ) -> Self {
        let middle = (!bounds.is_empty()).then(|| bounds.clone());
        Self {
            source,
            keyspace,
            read,
            statement: None,
            now,
            bounds,
            middle,
            front: VecDeque::new(),
            back: VecDeque::new(),
            chunk: if read.is_some() { CHUNK_FIRST } else { CHUNK_FIRST_LOCKED },
            front_files: RefCell::default(),
            back_files: RefCell::default(),
            front_interval: None,
            back_interval: None,
            front_last: None,
            back_last: None,
        }
    }

    /// The same for somebody who looks at keys alone: large values that files have are not read.
    pub(crate) fn keys_only(self) -> Self {
        let files = || RefCell::new(FileCursors::keys_only());
        Self { front_files: files(), back_files: files(), ..self }
    }

    pub(crate) fn failed(keyspace: Keyspace, error: Error) -> Self {
        let bounds = Interval { lower: Bound::Unbounded, upper: Bound::Unbounded };
        Self::of(Err(Some(error)), keyspace, Some(Lsn::ZERO), 0, bounds)
    }

    /// Fetches the next chunk from one end of what is left.
    fn fetch(&mut self, direction: Direction) -> Result<()> {
        let Some(middle) = self.middle.take() else { return Ok(()) };
        let limit = self.chunk;
        self.chunk = (self.chunk * 2).min(CHUNK_MAX);
        let chunk = match (self.read, self.transaction()) {
            (None, Some(transaction)) => self.lock_chunk(transaction, &middle, direction, limit)?,
            (read, _) => self.walk(&middle, direction, read.unwrap_or(Lsn::ZERO), limit)?,
        };
        // A lock that was taken away meanwhile protected nothing; what expired may have been pruned.
        self.believe()?;
        let Chunk { mut pairs, reached, observed } = chunk;
        // What was covered by this chunk, and what is left after it.
        let (covered, left) = split(middle, reached, direction);
        if let Some(transaction) = self.transaction() {
            transaction.observe(observed);
            transaction.check_size()?;
            self.lay_over(transaction, &covered, &mut pairs, direction)?;
        }
        self.middle = left.filter(|left| !left.is_empty());
        match direction {
            Direction::Forward => self.front.extend(pairs),
            Direction::Reverse => self.back.extend(pairs),
        }
        Ok(())
    }

    /// Reads up to `limit` pairs from one end of an interval.
    fn walk(
        &self,
        within: &Interval,
        direction: Direction,
        read: Lsn,
        limit: usize,
    ) -> Result<Chunk> {
        let mut pairs: Vec<Pair> = Vec::with_capacity(limit.min(CHUNK_MAX));
        let mut reached: Option<Slice> = None;
        let mut observed = Lsn::ZERO;
        let mut failed = None;
        let visits_max = if limit == usize::MAX { usize::MAX } else { VISITS_MAX };
        let mut visits = 0;
        let guard = pin();
        let ends = (within.lower_ref(), within.upper_ref());
        let files = match direction {
            Direction::Forward => &self.front_files,
            Direction::Reverse => &self.back_files,
        };
        let (view, files) = (self.keyspace.space().view(&guard), &mut *files.borrow_mut());
        view.scan(ends, direction, read, files, &guard, |key, found| {
            observed = observed.max(found.observed);
            let now = || if isolith_wal::planted!("expired-value-scanned") { 0 } else { self.now };
            match self.keyspace.see(key, found.found, now) {
                Ok(Some(seen)) => pairs.push((Slice::from(key), seen.into_slice())),
                Ok(None) => {}
                // Nobody is to see it.
                Err(_) if self.is_overwritten(key) => {}
                Err(error) => {
                    failed = Some(error);
                    return ControlFlow::Break(());
                }
            }
            visits += 1;
            if pairs.len() == limit || visits == visits_max {
                reached = Some(Slice::from(key));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        match failed {
            None => Ok(Chunk { pairs, reached, observed }),
            Some(error) => Err(error),
        }
    }

    /// Whether an own write hides whatever the database has of a key.
    fn is_overwritten(&self, key: &[u8]) -> bool {
        let own = self.transaction().and_then(|own| own.overlay(self.keyspace.space().id));
        let write = own.and_then(|own| own.lookup(key));
        matches!(write, Some(Write::Put { .. } | Write::Delete))
    }

    /// Looks for a chunk, locks it, and reads it again: now nobody can change it, if the locks are
    /// still held, which [`Range::fetch`] looks at next.
    fn lock_chunk(
        &self,
        transaction: &Transaction,
        within: &Interval,
        direction: Direction,
        limit: usize,
    ) -> Result<Chunk> {
        // Looked for at a timestamp that is held: what is not found is not locked key by key, nor
        // returned; and values of merges are not made of what is being pruned.
        let slot = transaction.statement()?;
        let found = self.walk(within, direction, slot.timestamp(), limit)?;
        self.keyspace.believe(&slot)?;
        drop(slot);
        if !transaction.isolation().protects_intervals() {
            for (key, _) in &found.pairs {
                if !isolith_wal::planted!("returned-keys-not-locked") {
                    transaction.lock_item(&self.keyspace, key)?;
                }
            }
            transaction.await_round();
            let mut chunk = Chunk { pairs: Vec::new(), ..found };
            let (guard, at) = (pin(), transaction.visible());
            for (key, _) in found.pairs {
                let now = self.keyspace.space().view(&guard).lookup(&key, at, &guard)?;
                chunk.observed = chunk.observed.max(now.observed);
                if self.is_overwritten(&key) {
                    continue;
                }
                if let Some(seen) = self.keyspace.see(&key, now.found, || self.now)? {
                    chunk.pairs.push((key, seen.into_slice()));
                }
            }
            return Ok(chunk);
        }
        // What was found may be gone by the time the lock is there; it only says how far to lock.
        let (mut covered, _) = split(within.clone(), found.reached.clone(), direction);
        if isolith_wal::planted!("scan-locks-only-what-it-found")
            && let (Some((first, _)), Some((last, _))) = (found.pairs.first(), found.pairs.last())
        {
            let (lower, upper) = if first <= last { (first, last) } else { (last, first) };
            covered.lower = Bound::Included(lower.clone());
            covered.upper = Bound::Included(upper.clone());
        }
        transaction.lock_interval(&self.keyspace, &covered)?;
        transaction.await_round();
        let chunk = self.walk(&covered, direction, transaction.visible(), usize::MAX)?;
        Ok(Chunk { reached: found.reached, ..chunk })
    }

    /// Whether what was just read may be believed.
    fn believe(&self) -> Result<()> {
        match (&self.source, &self.statement) {
            (_, Some(slot)) => self.keyspace.believe(slot),
            (Ok(view), None) => view.believe(),
            (Err(_), None) => Ok(()),
        }
    }

    fn transaction(&self) -> Option<&Transaction> {
        self.source.as_ref().ok()?.transaction()
    }

    /// Lays the transaction's own writes over a chunk.
    fn lay_over(
        &self,
        transaction: &Transaction,
        covered: &Interval,
        pairs: &mut Vec<Pair>,
        direction: Direction,
    ) -> Result<()> {
        let Some(overlay) = transaction.overlay(self.keyspace.space().id) else { return Ok(()) };
        if isolith_wal::planted!("own-write-missed-in-scan") {
            return Ok(());
        }
        let order = |a: &[u8], b: &[u8]| match direction {
            Direction::Forward => a.cmp(b),
            Direction::Reverse => b.cmp(a),
        };
        pairs.retain(|(key, _)| matches!(overlay.lookup(key), None | Some(Write::Merge { .. })));
        let before = pairs.len();
        for (key, write) in overlay.range(covered.lower_ref(), covered.upper_ref()) {
            match write {
                Write::Put { value, expires_at } if *expires_at == 0 || *expires_at > self.now => {
                    pairs.push((Slice::from(key), value.slice()));
                }
                Write::Put { .. } | Write::Delete => {}
                Write::Merge { .. } => {
                    let base = pairs[..before].binary_search_by(|(other, _)| order(other, key));
                    let base = base.ok().map(|at| &mut pairs[at].1);
                    let value = transaction.merged_in_scan(&self.keyspace, key, base.as_deref())?;
                    match (base, value) {
                        (Some(base), Some(value)) => *base = value,
                        (None, Some(value)) => pairs.push((Slice::from(key), value)),
                        (_, None) => {}
                    }
                }
            }
        }
        if pairs.len() > before {
            pairs.sort_unstable_by(|(a, _), (b, _)| order(a, b));
        }
        Ok(())
    }

    /// Records how far the front end has looked.
    fn examined_front(&mut self, upper: KeyBound) {
        if self.bounds.is_empty() {
            return;
        }
        let transaction = self.source.as_ref().ok().and_then(V::transaction);
        let Some(mut reads) = transaction.and_then(Transaction::tracked_intervals) else { return };
        if isolith_wal::planted!("range-phantom") {
            if let KeyBound::Included(key) = &upper {
                reads.interval(self.keyspace.space(), Interval::point(key));
            }
            return;
        }
        match self.front_interval {
            Some(id) => reads.extend_upper(id, upper),
            None => {
                let interval = Interval { lower: self.bounds.lower.clone(), upper };
                self.front_interval = Some(reads.interval(self.keyspace.space(), interval));
            }
        }
    }

    /// Records how far the back end has looked.
    fn examined_back(&mut self, lower: KeyBound) {
        if self.bounds.is_empty() {
            return;
        }
        let transaction = self.source.as_ref().ok().and_then(V::transaction);
        let Some(mut reads) = transaction.and_then(Transaction::tracked_intervals) else { return };
        match self.back_interval {
            Some(id) => reads.extend_lower(id, lower),
            None => {
                let interval = Interval { lower, upper: self.bounds.upper.clone() };
                self.back_interval = Some(reads.interval(self.keyspace.space(), interval));
            }
        }
    }

    /// What stops the iteration before the next item: the range was never begun, or the snapshot
    /// that it reads may not be read any more.
    fn failure(&mut self) -> Option<Error> {
        let error = match &mut self.source {
            Err(error) => {
                self.middle = None;
                return error.take();
            }
            Ok(view) => view.check().err(),
        }?;
        Some(self.stop(error))
    }

    /// Ends the iteration with an error.
    fn stop(&mut self, error: Error) -> Error {
        self.source = Err(None);
        self.middle = None;
        self.front.clear();
        self.back.clear();
        error
    }

    /// Makes the transaction depend on a key that is returned, if its level asks for that.
    fn returned(&mut self, key: &Slice, direction: Direction) {
        let Some(transaction) = self.transaction() else { return };
        let own = transaction.overlay(self.keyspace.space().id);
        if own.is_none_or(|own| matches!(own.lookup(key), None | Some(Write::Merge { .. }))) {
            transaction.returned(&self.keyspace, key);
        }
        match direction {
            Direction::Forward => self.front_last = Some(key.clone()),
            Direction::Reverse => self.back_last = Some(key.clone()),
        }
    }

    /// Goes on at the transaction's read timestamp if that has moved (invariant 4).
    fn follow(&mut self) {
        let now = self.transaction().and_then(Transaction::read_timestamp);
        if self.statement.is_some() || self.read.is_none() || now.is_none() || now == self.read {
            return;
        }
        self.read = now;
        let behind = |last: &Option<Slice>| last.clone().map(Bound::Excluded);
        let left = Interval {
            lower: behind(&self.front_last).unwrap_or_else(|| self.bounds.lower.clone()),
            upper: behind(&self.back_last).unwrap_or_else(|| self.bounds.upper.clone()),
        };
        self.middle = Some(left).filter(|left| !left.is_empty());
        self.front.clear();
        self.back.clear();
    }
}

impl<V: View> Iterator for Range<V> {
    type Item = Result<Pair>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failure() {
            return Some(Err(error));
        }
        self.follow();
        while self.front.is_empty() && self.middle.is_some() {
            if let Err(error) = self.fetch(Direction::Forward) {
                return Some(Err(self.stop(error)));
            }
        }
        match self.front.pop_front().or_else(|| self.back.pop_back()) {
            Some(pair) => {
                if self.transaction().is_some() {
                    self.returned(&pair.0, Direction::Forward);
                    self.examined_front(Bound::Included(pair.0.clone()));
                }
                Some(Ok(pair))
            }
            None => {
                self.examined_front(self.bounds.upper.clone());
                None
            }
        }
    }
}

impl<V: View> DoubleEndedIterator for Range<V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if let Some(error) = self.failure() {
            return Some(Err(error));
        }
        self.follow();
        while self.back.is_empty() && self.middle.is_some() {
            if let Err(error) = self.fetch(Direction::Reverse) {
                return Some(Err(self.stop(error)));
            }
        }
        match self.back.pop_front().or_else(|| self.front.pop_back()) {
            Some(pair) => {
                self.returned(&pair.0, Direction::Reverse);
                self.examined_back(Bound::Included(pair.0.clone()));
                Some(Ok(pair))
            }
            None => {
                self.examined_back(self.bounds.lower.clone());
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        let show = |prefix: &[u8]| prefix_interval(prefix).to_string();
        assert_eq!(show(b"ab"), "[ab, ac)");
        assert_eq!(show(b"a\xff"), "[a\\xff, b)");
        assert_eq!(show(b"\xff\xff"), "[\\xff\\xff, +inf)");
        assert_eq!(show(b""), "[, +inf)");
    }
}
