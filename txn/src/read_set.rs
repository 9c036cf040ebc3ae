//! What a transaction depends on: the keys that it read, absent ones included, and the intervals
//! that it *examined*: from the lower bound to the last position looked at, tombstones and empty
//! stretches included.
//!
//! Recording the examined interval, and not the keys that a scan returned, is what closes the
//! phantom hole (precision locking; HyPer's validation).

use std::fmt;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use isolith_index::{Guard, KeyRange, ReadError, Slice, Watched, pin};
use isolith_wal::Lsn;

use crate::space::{Space, SpaceId};

/// One end of an interval of keys.
pub type KeyBound = Bound<Slice>;

/// A logical range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The lower end.
    pub lower: KeyBound,
    /// The upper end.
    pub upper: KeyBound,
}

impl Interval {
    /// The interval that holds `key` alone.
    pub fn point(key: &[u8]) -> Self {
        Self { lower: Bound::Included(key.into()), upper: Bound::Included(key.into()) }
    }

    /// The lower end, borrowed.
    pub fn lower_ref(&self) -> Bound<&[u8]> {
        borrow(&self.lower)
    }

    /// The upper end, borrowed.
    pub fn upper_ref(&self) -> Bound<&[u8]> {
        borrow(&self.upper)
    }

    /// Both ends, borrowed.
    pub fn ends(&self) -> KeyRange<'_> {
        (self.lower_ref(), self.upper_ref())
    }

    /// Whether no key can lie within, for whatever reason: inverted ends, an end that excludes the
    /// empty key, or two excluded ends with no key between them.
    pub fn is_empty(&self) -> bool {
        !before_or_at(self.lower_ref(), self.upper_ref())
    }

    /// Whether `key` lies within.
    pub fn contains(&self, key: &[u8]) -> bool {
        RangeBounds::<[u8]>::contains(&self.ends(), key)
    }

    /// Bytes of the two ends.
    pub fn bytes(&self) -> usize {
        let length = |bound: &KeyBound| match bound {
            Bound::Included(key) | Bound::Excluded(key) => key.len(),
            Bound::Unbounded => 0,
        };
        length(&self.lower) + length(&self.upper)
    }
}

/// Whether some key at or above `lower` lies at or below `upper`.
pub(crate) fn before_or_at(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> bool {
    match (lower, upper) {
        (_, Bound::Excluded([])) => false,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Included(l), Bound::Included(u)) => l <= u,
        // The key right after `l` is `l` and a zero byte.
        (Bound::Excluded(l), Bound::Excluded(u)) => l < u && u.strip_suffix(&[0]) != Some(l),
        (Bound::Included(l), Bound::Excluded(u)) | (Bound::Excluded(l), Bound::Included(u)) => {
            l < u
        }
    }
}

/// Whether some key lies in both. Neither may be empty.
pub(crate) fn overlap(a: KeyRange<'_>, b: KeyRange<'_>) -> bool {
    before_or_at(a.0, b.1) && before_or_at(b.0, a.1)
}

/// Borrows a bound.
pub(crate) fn borrow(bound: &KeyBound) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.lower {
            Bound::Included(key) => write!(f, "[{}", key.escape_ascii())?,
            Bound::Excluded(key) => write!(f, "({}", key.escape_ascii())?,
            Bound::Unbounded => write!(f, "(-inf")?,
        }
        match &self.upper {
            Bound::Included(key) => write!(f, ", {}]", key.escape_ascii()),
            Bound::Excluded(key) => write!(f, ", {})", key.escape_ascii()),
            Bound::Unbounded => write!(f, ", +inf)"),
        }
    }
}

/// One keyspace's share of a read set.
#[derive(Debug)]
pub struct SpaceReads {
    /// The keyspace.
    pub space: Arc<Space>,
    /// What the reads saw: the keys may have nothing newer. `None`: the transaction's read timestamp.
    pub since: Option<Lsn>,
    /// The keys read.
    pub points: Watched,
    /// The intervals examined.
    pub intervals: Vec<Interval>,
}

impl SpaceReads {
    fn new(space: &Arc<Space>, since: Option<Lsn>) -> Self {
        let points = space.view(&pin()).active().watch();
        Self { space: Arc::clone(space), since, points, intervals: Vec::new() }
    }

    /// Whether the memtable that the points are looked for in was frozen meanwhile.
    pub(crate) fn is_stale(&self, guard: &Guard) -> bool {
        !Arc::ptr_eq(self.points.memtable(), self.space.view(guard).active())
    }

    /// The same reads, for the memtable that is active now.
    pub(crate) fn rebuilt(&self, guard: &Guard) -> Self {
        Self {
            space: Arc::clone(&self.space),
            since: self.since,
            points: self.points.rebuilt(self.space.view(guard).active()),
            intervals: self.intervals.clone(),
        }
    }

    /// The first key with something newer than `since` in the layers beneath the active memtable.
    pub(crate) fn changed_below(
        &self,
        since: Lsn,
        guard: &Guard,
    ) -> Result<Option<usize>, ReadError> {
        let view = self.space.view(guard);
        // A read at a timestamp of its own is registered by a slot that may have expired.
        if self.since.is_some() && self.space.has_forgotten_since(since) {
            return Ok(Some(0));
        }
        if view.below_max() <= since || isolith_wal::planted!("frozen-not-validated") {
            return Ok(None);
        }
        for at in 0..self.points.len() {
            if view.newest_below(self.points.key(at), since, guard)? > since {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Whether nothing that was read is newer than `since` by now, as far as commits are installed.
    fn is_unchanged_since(&self, since: Lsn, guard: &Guard) -> Result<bool, ReadError> {
        let view = self.space.view(guard);
        // Where the memtable was frozen since, what came later is in another one.
        let changed = match !Arc::ptr_eq(self.points.memtable(), view.active()) {
            false => self.points.changed_since(since).is_some(),
            true => (0..self.points.len())
                .any(|at| view.active().newest(self.points.key(at), guard) > since),
        };
        if changed || self.changed_below(since, guard)?.is_some() {
            return Ok(false);
        }
        if self.space.is_unwritten_since(since) {
            return Ok(true);
        }
        for interval in &self.intervals {
            if view.newer_in(interval.ends(), since, guard)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn operations(&self) -> usize {
        self.points.len() + self.intervals.len()
    }
}

/// Names one interval of a read set that is still being extended by its cursor.
#[derive(Clone, Copy, Debug)]
pub struct IntervalId {
    space: usize,
    interval: usize,
}

/// What one transaction has read, as far as its level asks to know.
#[derive(Debug, Default)]
pub struct ReadSet {
    spaces: Vec<SpaceReads>,
    /// Single reads that each saw a timestamp of their own.
    single: Vec<SpaceReads>,
    bytes: usize,
}

impl ReadSet {
    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.spaces.is_empty() && self.single.is_empty()
    }

    /// Bytes of keys and overhead recorded.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a key lies in an interval that was examined.
    pub fn has_examined(&self, space: SpaceId, key: &[u8]) -> bool {
        let mut spaces = self.spaces.iter().filter(|reads| reads.space.id == space);
        spaces.any(|reads| reads.intervals.iter().any(|interval| interval.contains(key)))
    }

    /// Reads recorded: keys and intervals.
    pub fn operations(&self) -> usize {
        let reads = self.spaces.iter().chain(&self.single);
        reads.map(SpaceReads::operations).sum()
    }

    /// Hands the recorded reads over, for validation.
    pub fn into_spaces(mut self) -> Vec<SpaceReads> {
        self.spaces.append(&mut self.single);
        self.spaces
    }

    /// Whether nothing that was read at `since` has changed, as far as commits are installed: any
    /// newer version of a key or in an interval counts.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn is_unchanged_since(&self, since: Lsn, guard: &Guard) -> Result<bool, ReadError> {
        for reads in &self.spaces {
            if !reads.is_unchanged_since(since, guard)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A keyspace that was read and is dropped by now.
    pub fn dropped(&self) -> Option<SpaceId> {
        let spaces = self.spaces.iter().chain(&self.single).map(|reads| &reads.space);
        spaces.filter(|space| space.is_dropped()).map(|space| space.id).next()
    }

    /// Records that something of a keyspace was read under a lock: it may not be dropped before the
    /// commit.
    pub fn space(&mut self, space: &Arc<Space>) {
        self.space_index(space);
    }

    /// Records a read of one key, present or not, that saw everything up to `since`: for reads that do not
    /// share the transaction's read timestamp.
    pub fn point_at(&mut self, space: &Arc<Space>, key: &[u8], since: Lsn) {
        let mut reads = SpaceReads::new(space, Some(since));
        reads.points.add(key);
        self.single.push(reads);
        self.bytes += key.len() + 128;
    }

    fn space_index(&mut self, space: &Arc<Space>) -> usize {
        self.spaces.iter().position(|s| s.space.id == space.id).unwrap_or_else(|| {
            self.spaces.push(SpaceReads::new(space, None));
            self.spaces.len() - 1
        })
    }

    /// Records a read of one key, present or not.
    pub fn point(&mut self, space: &Arc<Space>, key: &[u8]) {
        let index = self.space_index(space);
        let points = &mut self.spaces[index].points;
        // The same key again and again, as in a loop that counts up, is one dependency.
        if points.len().checked_sub(1).is_some_and(|last| points.key(last) == key) {
            return;
        }
        points.add(key);
        self.bytes += key.len() + 32;
    }

    /// Records an interval whose ends a cursor will move with [`ReadSet::extend_upper`] or [`ReadSet::extend_lower`].
    pub fn interval(&mut self, space: &Arc<Space>, interval: Interval) -> IntervalId {
        let index = self.space_index(space);
        self.bytes += interval.bytes() + 64;
        let intervals = &mut self.spaces[index].intervals;
        intervals.push(interval);
        IntervalId { space: index, interval: intervals.len() - 1 }
    }

    /// Moves the upper end of an interval up to where its cursor has looked.
    pub fn extend_upper(&mut self, id: IntervalId, upper: KeyBound) {
        self.spaces[id.space].intervals[id.interval].upper = upper;
    }

    /// Moves the lower end of an interval down to where its reverse cursor has looked.
    pub fn extend_lower(&mut self, id: IntervalId, lower: KeyBound) {
        self.spaces[id.space].intervals[id.interval].lower = lower;
    }
}

#[cfg(all(test, not(loom)))]
pub(crate) mod tests {
    use super::*;

    fn interval(text: &str) -> Interval {
        let (lower, upper) = text[1..text.len() - 1].split_once(',').unwrap();
        let bound = |key: &str, closed: bool| match key {
            "" => Bound::Unbounded,
            key if closed => Bound::Included(key.as_bytes().into()),
            key => Bound::Excluded(key.as_bytes().into()),
        };
        Interval {
            lower: bound(lower, text.starts_with('[')),
            upper: bound(upper, text.ends_with(']')),
        }
    }

    #[test]
    fn overlap_is_decided_at_the_ends() {
        let table = "
            [a,c] [c,e] yes
            [a,c) [c,e] no
            [a,c] (c,e] no
            (a,c) (b,d) yes
            [a,b] [c,d] no
            (,) [x,x] yes
            (,b) [b,) no
            (,b] [b,) yes
            [m,n] (,) yes";
        for line in table.lines().filter(|line| !line.trim().is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            let (a, b) = (interval(words[0]), interval(words[1]));
            let expected = words[2] == "yes";
            assert_eq!(overlap(a.ends(), b.ends()), expected, "{line}");
            assert_eq!(overlap(b.ends(), a.ends()), expected, "{line} mirrored");
        }
    }

    /// All keys of up to `length` bytes, each smaller than `letters`.
    pub(crate) fn keys(letters: u8, length: usize) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = vec![vec![]];
        for length in 0..length {
            let longer: Vec<_> = keys.iter().filter(|k| k.len() == length).cloned().collect();
            for key in longer {
                keys.extend((0..letters).map(|byte| [&key[..], &[byte]].concat()));
            }
        }
        keys
    }

    /// All intervals whose ends are among `keys`, included or not, or open.
    pub(crate) fn intervals(keys: &[Vec<u8>]) -> Vec<Interval> {
        let ends = |key: &Vec<u8>| {
            let key = Slice::from(key.as_slice());
            [Bound::Included(key.clone()), Bound::Excluded(key), Bound::Unbounded]
        };
        let ends: Vec<KeyBound> = keys.iter().flat_map(ends).collect();
        let from = |lower: &KeyBound| {
            let lower = lower.clone();
            ends.iter().map(move |upper| Interval { lower: lower.clone(), upper: upper.clone() })
        };
        ends.iter().flat_map(from).collect()
    }

    #[test]
    fn an_interval_is_empty_exactly_if_no_key_fits() {
        let all = keys(3, 3);
        for interval in intervals(&keys(3, 2)) {
            let any = all.iter().any(|key| interval.contains(key));
            assert_eq!(interval.is_empty(), !any, "{interval}");
        }
    }

    #[test]
    fn intervals_overlap_exactly_if_a_key_lies_in_both() {
        let all = keys(3, 3);
        let ends = [keys(3, 1), vec![vec![0, 0], vec![1, 0]]].concat();
        let mut intervals = intervals(&ends);
        intervals.retain(|interval| !interval.is_empty());
        for a in &intervals {
            for b in &intervals {
                let shared = all.iter().any(|key| a.contains(key) && b.contains(key));
                assert_eq!(overlap(a.ends(), b.ends()), shared, "{a} and {b}");
            }
        }
    }

    #[test]
    fn a_point_holds_only_itself() {
        let point = Interval::point(b"k");
        assert!(point.contains(b"k"));
        assert!(!point.contains(b"j") && !point.contains(b"ka"));
    }
}
