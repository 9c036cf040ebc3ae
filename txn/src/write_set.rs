//! What a transaction wants to change: private to it until the commit window.
//!
//! Invariants:
//! 1. Within one keyspace the ordered entries overlay the own range deletes, which overlay the
//!    database: a put after a range delete survives it, a range delete after a put removes the put.
//! 2. Once a savepoint exists every change leaves an undo, so that rolling back restores the overlay
//!    exactly as it was.
//! 3. `live` is the cost of what would be committed now, `undone` that of what only a rollback could
//!    bring back: both exact, so that what was overwritten is not charged for.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use isolith_index::{Base, MergeFailure, MergeOperators, MergedValue, Operand, Value, fold};

use crate::read_set::{Interval, KeyBound, before_or_at};
use crate::space::{Space, SpaceId};

/// One change to one key.
#[derive(Debug)]
pub enum Write {
    /// The key gets a value; `expires_at` is in Unix milliseconds, 0 for never.
    Put {
        /// The new value.
        value: Value,
        /// When it expires, in Unix milliseconds; 0 for never.
        expires_at: u64,
    },
    /// The key goes.
    Delete,
    /// An operator makes a new value of the key's value, whatever that is when the transaction
    /// commits.
    Merge {
        /// The operator's number.
        operator: u16,
        /// What is merged in.
        operand: Value,
        /// When the transaction began, in Unix milliseconds.
        at_ms: u64,
    },
}

impl Write {
    /// Bytes of what is written, the key apart.
    pub fn bytes(&self) -> usize {
        match self {
            Write::Put { value, .. } => value.len(),
            Write::Delete => 0,
            Write::Merge { operand, .. } => operand.len(),
        }
    }
}

/// What [`WriteSet::merge`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merging {
    /// The merge is in the write set.
    Done,
    /// The key has an own merge by another operator: nothing was changed. Its value has to be read
    /// first, and a put of the result to be written.
    NeedsValue,
}

/// One keyspace's share of a write set.
#[derive(Debug)]
pub struct Overlay {
    /// The keyspace.
    pub space: Arc<Space>,
    entries: BTreeMap<Box<[u8]>, Write>,
    /// Every key of `entries`, and what was undone.
    touched: Touched,
    ranges: Vec<Interval>,
}

/// Tells most keys that were never written from those that were, without a look at them: a Bloom filter
/// (Bloom 1970) of 256 bits and one hash.
#[derive(Debug, Default)]
struct Touched([u64; 4]);

impl Touched {
    /// The key's bit: by its length and its end, where keys differ most.
    fn bit(key: &[u8]) -> (usize, u64) {
        let end = key.last_chunk::<8>().map_or_else(
            || key.iter().fold(0, |end, &byte| end << 8 | u64::from(byte)),
            |end| u64::from_le_bytes(*end),
        );
        let mixed = (end ^ key.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 62) as usize, 1 << (mixed >> 56 & 63))
    }

    fn add(&mut self, key: &[u8]) {
        let (word, bit) = Touched::bit(key);
        self.0[word] |= bit;
    }

    fn has(&self, key: &[u8]) -> bool {
        let (word, bit) = Touched::bit(key);
        self.0[word] & bit != 0
    }
}

impl Overlay {
    /// What the transaction itself says of `key`: its write, a deletion by its own range delete, or
    /// `None` if it has not touched the key.
    pub fn lookup(&self, key: &[u8]) -> Option<&Write> {
        let own = self.touched.has(key).then(|| self.entries.get(key)).flatten();
        own.or_else(|| self.deletes(key).then_some(&Write::Delete))
    }

    /// Whether an own range delete covers `key` (an own later put may lie over it).
    pub fn deletes(&self, key: &[u8]) -> bool {
        self.ranges.iter().any(|range| range.contains(key))
    }

    /// The own writes within bounds, ascending.
    pub fn range<'a>(
        &'a self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a Write)> {
        // `BTreeMap::range` panics where the ends are inverted.
        let range =
            before_or_at(lower, upper).then(|| self.entries.range::<[u8], _>((lower, upper)));
        range.into_iter().flatten().map(|(key, write)| (&**key, write))
    }

    /// The own writes, ascending.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &Write)> {
        self.entries.iter().map(|(key, write)| (&**key, write))
    }

    /// The own writes, ascending, given away.
    pub fn into_entries(self) -> impl ExactSizeIterator<Item = (Box<[u8]>, Write)> {
        self.entries.into_iter()
    }

    /// The own range deletes, in the order in which they were made.
    pub fn ranges(&self) -> &[Interval] {
        &self.ranges
    }
}

#[derive(Debug)]
enum Undo {
    Entry { overlay: usize, key: Box<[u8]>, before: Option<Write> },
    Range { overlay: usize, removed: Vec<(Box<[u8]>, Write)> },
}

/// A point in a transaction that it can roll back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Savepoint {
    undo: usize,
    /// No two savepoints have the same number, so that one that was rolled over, or that belongs to
    /// another transaction, is refused.
    number: u64,
}

/// The number of the next savepoint of any transaction.
static NEXT_SAVEPOINT: AtomicU64 = AtomicU64::new(0);

/// The private writes of one transaction.
#[derive(Debug, Default)]
pub struct WriteSet {
    overlays: Vec<Overlay>,
    undo: Vec<Undo>,
    /// Live savepoints, oldest first.
    savepoints: Vec<Savepoint>,
    live: usize,
    undone: usize,
}

/// What an entry costs beside its key and value, in bytes (an estimate for limits and budgets).
const ENTRY_OVERHEAD: usize = 64;

fn entry_cost(key_bytes: usize, write: &Write) -> usize {
    key_bytes + write.bytes() + ENTRY_OVERHEAD
}

fn range_cost(range: &Interval) -> usize {
    range.bytes() + ENTRY_OVERHEAD
}

impl Undo {
    /// What it costs to keep.
    fn cost(&self) -> usize {
        match self {
            Undo::Entry { key, before: Some(write), .. } => entry_cost(key.len(), write),
            Undo::Entry { key, before: None, .. } => key.len() + ENTRY_OVERHEAD,
            Undo::Range { removed, .. } => {
                let removed = removed.iter().map(|(key, write)| entry_cost(key.len(), write));
                ENTRY_OVERHEAD + removed.sum::<usize>()
            }
        }
    }
}

impl WriteSet {
    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.overlays.iter().all(|o| o.entries.is_empty() && o.ranges.is_empty())
    }

    /// Bytes of keys, values and overhead held, what a rollback could bring back included.
    pub fn bytes(&self) -> usize {
        self.live + self.undone
    }

    /// Bytes of keys, values and overhead that would be committed now.
    pub fn live_bytes(&self) -> usize {
        self.live
    }

    /// The keyspaces written to.
    pub fn overlays(&self) -> &[Overlay] {
        &self.overlays
    }

    /// The keyspaces written to, given away.
    pub fn into_overlays(self) -> Vec<Overlay> {
        self.overlays
    }

    /// One keyspace's share.
    pub fn overlay(&self, space: SpaceId) -> Option<&Overlay> {
        self.overlays.iter().find(|o| o.space.id == space)
    }

    fn overlay_index(&mut self, space: &Arc<Space>) -> usize {
        self.overlays.iter().position(|o| o.space.id == space.id).unwrap_or_else(|| {
            self.overlays.push(Overlay {
                space: Arc::clone(space),
                entries: BTreeMap::new(),
                touched: Touched::default(),
                ranges: Vec::new(),
            });
            self.overlays.len() - 1
        })
    }

    /// Adds a change of one key, over any earlier one.
    pub fn write(&mut self, space: &Arc<Space>, key: &[u8], write: Write) {
        let index = self.overlay_index(space);
        self.live += entry_cost(key.len(), &write);
        let overlay = &mut self.overlays[index];
        overlay.touched.add(key);
        let before = overlay.entries.insert(key.into(), write);
        if let Some(before) = &before {
            self.live -= entry_cost(key.len(), before);
        }
        self.keep(|| Undo::Entry { overlay: index, key: key.into(), before });
    }

    /// Merges into one key, without a look at the database: over an own put or deletion it makes a put
    /// of the result, over an own merge by the same operator one merge of the two.
    ///
    /// # Errors
    /// If the operator cannot: nothing was changed.
    pub fn merge(
        &mut self,
        space: &Arc<Space>,
        key: &[u8],
        operand: Operand<'_>,
        operators: &dyn MergeOperators,
    ) -> Result<Merging, MergeFailure> {
        let Operand { operator, bytes, at_ms } = operand;
        let own = self.overlay(space.id).and_then(|own| own.lookup(key));
        let base = match own {
            None => {
                let write = Write::Merge { operator, operand: Value::new(bytes), at_ms };
                self.write(space, key, write);
                return Ok(Merging::Done);
            }
            Some(Write::Merge { operator: other, .. }) if *other != operator => {
                return Ok(Merging::NeedsValue);
            }
            Some(Write::Merge { operand: earlier, .. }) => {
                let combined = operators
                    .combine(operator, earlier, bytes)
                    .map_err(|error| MergeFailure { operator, error })?;
                let write = Write::Merge { operator, operand: Value::from(combined), at_ms };
                self.write(space, key, write);
                return Ok(Merging::Done);
            }
            Some(Write::Put { value, expires_at }) => Some(Base { value, expires_at: *expires_at }),
            Some(Write::Delete) => None,
        };
        let MergedValue { value, expires_at } = fold(base, &[operand], operators)?;
        self.write(space, key, Write::Put { value: Value::from(value), expires_at });
        Ok(Merging::Done)
    }

    /// Keeps what it takes to undo a change, if there is a savepoint to go back to.
    fn keep(&mut self, undo: impl FnOnce() -> Undo) {
        if !self.savepoints.is_empty() {
            let undo = undo();
            self.undone += undo.cost();
            self.undo.push(undo);
        }
    }

    /// Deletes every key within bounds, own earlier puts included.
    pub fn delete_range(&mut self, space: &Arc<Space>, lower: KeyBound, upper: KeyBound) {
        let index = self.overlay_index(space);
        let range = Interval { lower, upper };
        self.live += range_cost(&range);
        let overlay = &mut self.overlays[index];
        let covered: Vec<Box<[u8]>> = overlay
            .range(range.lower_ref(), range.upper_ref())
            .map(|(key, _)| key.into())
            .collect();
        let mut removed = Vec::new();
        for key in covered {
            if let Some(write) = overlay.entries.remove(&key) {
                self.live -= entry_cost(key.len(), &write);
                removed.push((key, write));
            }
        }
        overlay.ranges.push(range);
        self.keep(|| Undo::Range { overlay: index, removed });
    }

    /// Marks the present state; savepoints nest.
    pub fn savepoint(&mut self) -> Savepoint {
        // Relaxed: only distinct values are wanted.
        let number = NEXT_SAVEPOINT.fetch_add(1, Ordering::Relaxed);
        let savepoint = Savepoint { undo: self.undo.len(), number };
        self.savepoints.push(savepoint);
        savepoint
    }

    /// Lets go of a savepoint that nobody will roll back to, if it is a live one.
    pub fn release(&mut self, savepoint: Savepoint) {
        if let Ok(position) = self.savepoints.binary_search_by_key(&savepoint.number, |s| s.number)
        {
            self.savepoints.remove(position);
        }
        if self.savepoints.is_empty() {
            self.undo.clear();
            self.undone = 0;
        }
    }

    /// Undoes every write made since `savepoint`, which stays; later savepoints go. False if the
    /// savepoint is not one of this transaction's live ones: nothing is undone then.
    pub fn rollback_to(&mut self, savepoint: Savepoint) -> bool {
        // Their numbers ascend.
        let Ok(position) = self.savepoints.binary_search_by_key(&savepoint.number, |s| s.number)
        else {
            return false;
        };
        self.savepoints.truncate(position + 1);
        while self.undo.len() > savepoint.undo
            && let Some(undo) = self.undo.pop()
        {
            self.undone -= undo.cost();
            match undo {
                Undo::Entry { overlay, key, before } => {
                    let entries = &mut self.overlays[overlay].entries;
                    let key_bytes = key.len();
                    let undone = match before {
                        Some(write) => {
                            self.live += entry_cost(key_bytes, &write);
                            entries.insert(key, write)
                        }
                        None => entries.remove(&key),
                    };
                    self.live -= undone.map_or(0, |write| entry_cost(key_bytes, &write));
                }
                Undo::Range { overlay, removed } => {
                    let overlay = &mut self.overlays[overlay];
                    if !isolith_wal::planted!("savepoint-keeps-range-delete") {
                        self.live -= overlay.ranges.pop().as_ref().map_or(0, range_cost);
                    }
                    let restored = removed.iter().map(|(key, write)| entry_cost(key.len(), write));
                    self.live += restored.sum::<usize>();
                    overlay.entries.extend(removed);
                }
            }
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use isolith_index::{Memtable, MergeError, Slice};

    fn space() -> Arc<Space> {
        Arc::new(Space::new(1, Arc::new(Memtable::new(1))))
    }

    fn put(text: &str) -> Write {
        Write::Put { value: Value::new(text.as_bytes()), expires_at: 0 }
    }

    fn show(set: &WriteSet) -> String {
        let Some(overlay) = set.overlay(1) else { return String::new() };
        let entries = overlay.entries().map(|(key, write)| match write {
            Write::Put { value, .. } => {
                format!("{}={}", key.escape_ascii(), value.escape_ascii())
            }
            Write::Delete => format!("{}-", key.escape_ascii()),
            Write::Merge { operator, operand, .. } => {
                format!("{}+{operator}:{}", key.escape_ascii(), operand.escape_ascii())
            }
        });
        let ranges = overlay.ranges().iter().map(|range| format!("{range}"));
        ranges.chain(entries).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn every_own_write_is_found_and_no_other_key() {
        let (space, mut set) = (space(), WriteSet::default());
        let keys: Vec<Vec<u8>> = (0..400u32)
            .map(|n| format!("{}{n:x}", "k".repeat(n as usize % 12)).into_bytes())
            .collect();
        for (at, key) in keys.iter().enumerate() {
            let found = |set: &WriteSet, key: &[u8]| {
                set.overlay(1).is_some_and(|own| own.lookup(key).is_some())
            };
            assert!(!found(&set, key));
            let savepoint = set.savepoint();
            set.write(&space, key, put("v"));
            assert!(set.rollback_to(savepoint) && !found(&set, key));
            set.write(&space, key, put("w"));
            assert!(keys[..=at].iter().all(|key| found(&set, key)));
        }
    }

    /// Every operator appends, up to 100 bytes; none takes an `x`.
    struct Append;

    impl MergeOperators for Append {
        fn merge(
            &self,
            _: u16,
            existing: Option<&[u8]>,
            operand: &[u8],
        ) -> Result<Vec<u8>, MergeError> {
            let both = [existing.unwrap_or_default(), operand].concat();
            let fits = !operand.contains(&b'x') && both.len() <= 100;
            fits.then_some(both).ok_or(MergeError::new("no"))
        }

        fn combine(&self, _: u16, a: &[u8], b: &[u8]) -> Result<Vec<u8>, MergeError> {
            self.merge(0, Some(a), b)
        }
    }

    fn merge(
        set: &mut WriteSet,
        space: &Arc<Space>,
        key: &[u8],
        operator: u16,
        text: &str,
    ) -> bool {
        let operand = Operand { operator, bytes: text.as_bytes(), at_ms: 50 };
        set.merge(space, key, operand, &Append) == Ok(Merging::Done)
    }

    #[test]
    fn an_own_merge_goes_over_what_is_written_and_two_are_one() {
        let (mut set, space) = (WriteSet::default(), space());
        set.write(&space, b"put", put("1"));
        set.write(&space, b"gone", Write::Delete);
        set.write(&space, b"old", Write::Put { value: Value::new(b"1"), expires_at: 50 });
        set.write(&space, b"young", Write::Put { value: Value::new(b"1"), expires_at: 51 });
        let (lower, upper) = range("r", "s");
        set.delete_range(&space, lower, upper);
        let save = set.savepoint();
        for key in [&b"put"[..], b"gone", b"old", b"young", b"r", b"free"] {
            assert!(merge(&mut set, &space, key, 7, "2"));
            assert!(merge(&mut set, &space, key, 7, "3"));
        }
        let after = "[r, s) free+7:23 gone=23 old=23 put=123 r=23 young=123";
        assert_eq!(show(&set), after);
        let overlay = set.overlay(1).expect("writes");
        let expiry = |key: &[u8]| match overlay.lookup(key) {
            Some(Write::Put { expires_at, .. }) => *expires_at,
            _ => u64::MAX,
        };
        assert_eq!((expiry(b"old"), expiry(b"young")), (0, 51));
        assert!(!merge(&mut set, &space, b"free", 7, "x"), "an operand that does not combine");
        assert!(!merge(&mut set, &space, b"free", 8, "4"), "another operator's");
        assert!(merge(&mut set, &space, b"put", 8, "4"));
        assert_eq!(show(&set), after.replace("put=123", "put=1234"), "what failed changed nothing");
        assert!(set.rollback_to(save));
        assert_eq!(show(&set), "[r, s) gone- old=1 put=1 young=1");
    }

    fn range(lower: &str, upper: &str) -> (KeyBound, KeyBound) {
        (Bound::Included(lower.as_bytes().into()), Bound::Excluded(upper.as_bytes().into()))
    }

    #[test]
    fn a_put_after_a_range_delete_survives_and_one_before_does_not() {
        let (mut set, space) = (WriteSet::default(), space());
        set.write(&space, b"b", put("1"));
        let (lower, upper) = range("a", "m");
        set.delete_range(&space, lower, upper);
        set.write(&space, b"c", put("2"));
        assert_eq!(show(&set), "[a, m) c=2");
        let overlay = set.overlay(1).unwrap();
        assert!(matches!(overlay.lookup(b"b"), Some(Write::Delete)));
        assert!(matches!(overlay.lookup(b"c"), Some(Write::Put { .. })));
        assert!(overlay.lookup(b"z").is_none());
    }

    #[test]
    fn rollback_restores_what_a_range_delete_removed() {
        let (mut set, space) = (WriteSet::default(), space());
        set.write(&space, b"b", put("1"));
        let outer = set.savepoint();
        set.write(&space, b"b", put("2"));
        let inner = set.savepoint();
        let (lower, upper) = range("a", "m");
        set.delete_range(&space, lower, upper);
        set.write(&space, b"c", Write::Delete);
        assert!(set.rollback_to(inner));
        assert_eq!(show(&set), "b=2");
        assert!(set.rollback_to(outer));
        assert_eq!(show(&set), "b=1");
        assert!(!set.rollback_to(inner), "a savepoint that was rolled over is refused");
        set.write(&space, b"d", put("4"));
        assert!(set.rollback_to(outer), "a savepoint can be used again");
        assert_eq!(show(&set), "b=1");
    }

    #[test]
    fn the_account_is_of_what_is_there_whatever_came_before() {
        let count = |set: &WriteSet| {
            let entries = |o: &Overlay| -> usize {
                o.entries().map(|(key, write)| entry_cost(key.len(), write)).sum::<usize>()
                    + o.ranges().iter().map(range_cost).sum::<usize>()
            };
            set.overlays().iter().map(entries).sum::<usize>()
        };
        let (mut set, space) = (WriteSet::default(), space());
        let mut random = 0x5eed_u64;
        let mut saves = Vec::new();
        for step in 0..20_000 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = [b'a' + (random >> 32) as u8 % 16];
            match random % 16 {
                0 => saves.push(set.savepoint()),
                1 if !saves.is_empty() => {
                    let back = (random >> 40) as usize % saves.len();
                    assert!(set.rollback_to(saves[back]));
                    saves.truncate(back + 1);
                }
                2 => {
                    let lower = Bound::Included(Slice::from(&key[..]));
                    set.delete_range(&space, lower, Bound::Excluded(b"k"[..].into()));
                }
                3 => set.write(&space, &key, Write::Delete),
                4..7 => {
                    let text = "m".repeat(random as usize >> 8 & 31);
                    merge(&mut set, &space, &key, (random >> 50) as u16 % 2, &text);
                }
                7 if step % 100 == 0 => (set, saves) = (WriteSet::default(), Vec::new()),
                _ => set.write(&space, &key, put(&"v".repeat(random as usize >> 8 & 63))),
            }
            assert_eq!(set.live_bytes(), count(&set), "step {step}");
            assert_eq!(set.undone, set.undo.iter().map(Undo::cost).sum::<usize>(), "step {step}");
        }
    }

    #[test]
    fn inverted_bounds_hold_nothing() {
        let (mut set, space) = (WriteSet::default(), space());
        set.write(&space, b"b", put("1"));
        let overlay = set.overlay(1).unwrap();
        let count = |l, u| overlay.range(l, u).count();
        assert_eq!(count(Bound::Included(b"c"), Bound::Excluded(b"a")), 0);
        assert_eq!(count(Bound::Excluded(b"b"), Bound::Excluded(b"b")), 0);
        assert_eq!(count(Bound::Unbounded, Bound::Included(b"b")), 1);
    }
}
