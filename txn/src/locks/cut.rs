//! Cuts: the places between keys, by which intervals are compared exactly.
//!
//! An interval holds the keys between two cuts. The cut after a key is the cut before its successor,
//! which is the key and a zero byte; so two intervals touch exactly if the upper cut of the one is the
//! lower cut of the other, however their ends are spelled.
use std::cmp::Ordering;
use std::ops::Bound;

use isolith_index::{KeyRange, Slice};

use crate::read_set::Interval;

/// Keys up to this length are held in the slice itself.
pub(super) const INLINE_KEY_BYTES: usize = 22;

/// A copy of a key that is cheap to copy again.
pub(super) fn hold_key(key: &[u8]) -> Slice {
    if key.len() <= INLINE_KEY_BYTES { Slice::copy(key) } else { Slice::share(key.into()) }
}

/// A place between keys, borrowed.
#[derive(Clone, Copy, Debug)]
pub(super) enum CutRef<'a> {
    /// Right before a key.
    Before(&'a [u8]),
    /// Right after a key: before the key with a zero byte added.
    After(&'a [u8]),
    /// After every key.
    End,
}

use CutRef::{After, Before, End};

impl<'a> CutRef<'a> {
    /// Where an interval begins.
    pub(super) fn lower(bound: Bound<&'a [u8]>) -> Self {
        match bound {
            Bound::Included(key) => Before(key),
            Bound::Excluded(key) => After(key),
            Bound::Unbounded => Before(&[]),
        }
    }

    /// Where an interval ends.
    pub(super) fn upper(bound: Bound<&'a [u8]>) -> Self {
        match bound {
            Bound::Included(key) => After(key),
            Bound::Excluded(key) => Before(key),
            Bound::Unbounded => End,
        }
    }

    /// The first key after it; that of the end is after every key, and never asked for.
    pub(super) fn to_key(self) -> Slice {
        match self {
            Before(key) => hold_key(key),
            After(key) => hold_key(&[key, &[0]].concat()),
            End => Slice::default(),
        }
    }

    pub(super) fn to_cut(self) -> Cut {
        match self {
            Before(key) => Cut { key: key.into(), place: Place::Before },
            After(key) => Cut { key: key.into(), place: Place::After },
            End => Cut { key: Slice::default(), place: Place::End },
        }
    }
}

impl Ord for CutRef<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Before(a), Before(b)) | (After(a), After(b)) => a.cmp(b),
            (Before(a), After(b)) => order_before_after(a, b),
            (After(a), Before(b)) => order_before_after(b, a).reverse(),
            (End, End) => Ordering::Equal,
            (End, _) => Ordering::Greater,
            (_, End) => Ordering::Less,
        }
    }
}

/// How the cut before `a` compares with the one after `b`.
fn order_before_after(a: &[u8], b: &[u8]) -> Ordering {
    match a.cmp(b) {
        // At the successor of `b` the two are one cut; between `b` and its successor is no key.
        Ordering::Greater if a.strip_suffix(&[0]) == Some(b) => Ordering::Equal,
        Ordering::Equal => Ordering::Less,
        order => order,
    }
}

impl PartialOrd for CutRef<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for CutRef<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for CutRef<'_> {}

#[derive(Clone, Copy, Debug)]
enum Place {
    Before,
    After,
    End,
}

/// A place between keys.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    key: Slice,
    place: Place,
}

impl Cut {
    pub(super) fn as_ref(&self) -> CutRef<'_> {
        match self.place {
            Place::Before => Before(&self.key),
            Place::After => After(&self.key),
            Place::End => End,
        }
    }

    /// Bytes of its key.
    pub(super) fn bytes(&self) -> usize {
        self.key.len()
    }
}

impl Ord for Cut {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_ref().cmp(&other.as_ref())
    }
}

impl PartialOrd for Cut {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cut {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Cut {}

/// The keys between two cuts, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span<'a> {
    pub(super) from: CutRef<'a>,
    pub(super) to: CutRef<'a>,
}

impl<'a> Span<'a> {
    pub(super) fn new(lower: Bound<&'a [u8]>, upper: Bound<&'a [u8]>) -> Self {
        Span { from: CutRef::lower(lower), to: CutRef::upper(upper) }
    }

    pub(super) fn of(interval: &'a Interval) -> Self {
        Span::new(interval.lower_ref(), interval.upper_ref())
    }

    /// The span of one key.
    pub(super) fn point(key: &'a [u8]) -> Self {
        Span { from: Before(key), to: After(key) }
    }

    /// Whether some key lies in both.
    pub(super) fn overlaps(self, other: Span<'_>) -> bool {
        self.from < other.to && other.from < self.to
    }

    /// Whether every key of the other lies in this one.
    pub(super) fn contains(self, other: Span<'_>) -> bool {
        self.from <= other.from && other.to <= self.to
    }

    pub(super) fn to_bounds(self) -> KeyRange<'a> {
        let lower = match self.from {
            Before(key) => Bound::Included(key),
            After(key) => Bound::Excluded(key),
            // Only an empty span begins there.
            End => Bound::Unbounded,
        };
        let upper = match self.to {
            Before(key) => Bound::Excluded(key),
            After(key) => Bound::Included(key),
            End => Bound::Unbounded,
        };
        (lower, upper)
    }

    pub(super) fn to_interval(self) -> Interval {
        let lower = match self.from {
            Before([]) => Bound::Unbounded,
            Before(key) => Bound::Included(key.into()),
            After(key) => Bound::Excluded(key.into()),
            // Only an empty span begins there.
            End => Bound::Unbounded,
        };
        let upper = match self.to {
            Before(key) => Bound::Excluded(key.into()),
            After(key) => Bound::Included(key.into()),
            End => Bound::Unbounded,
        };
        Interval { lower, upper }
    }
}

/// What the plain double needs.
#[cfg(all(test, not(loom)))]
impl<'a> Span<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.from >= self.to
    }

    /// Whether they overlap, or nothing lies between them.
    pub(super) fn touches(self, other: Span<'_>) -> bool {
        self.from <= other.to && other.from <= self.to
    }

    /// The least span that contains both.
    pub(super) fn hull(self, other: Span<'a>) -> Span<'a> {
        Span { from: self.from.min(other.from), to: self.to.max(other.to) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::read_set::tests::{intervals, keys};

    #[test]
    fn spans_are_asked_about_the_keys_that_they_hold() {
        let all = keys(2, 4);
        let held =
            |span: &Interval| -> Vec<bool> { all.iter().map(|k| span.contains(k)).collect() };
        let all_intervals: Vec<_> =
            intervals(&keys(2, 2)).into_iter().map(|i| (held(&i), i)).collect();
        for (keys_a, a) in &all_intervals {
            assert_eq!(Span::of(a).is_empty(), !keys_a.contains(&true), "{a}");
            if Span::of(a).is_empty() {
                continue;
            }
            assert_eq!(held(&Span::of(a).to_interval()), *keys_a, "{a} and back");
            for (keys_b, b) in all_intervals.iter().filter(|(_, b)| !Span::of(b).is_empty()) {
                let (span_a, span_b) = (Span::of(a), Span::of(b));
                let pairs = || keys_a.iter().zip(keys_b);
                let contains = pairs().all(|(a, b)| *a || !*b);
                assert_eq!(span_a.overlaps(span_b), pairs().any(|(a, b)| *a && *b), "{a} and {b}");
                assert_eq!(span_a.contains(span_b), contains, "{a} and {b}");
                let hull = span_a.hull(span_b).to_interval();
                let neither =
                    all.iter().zip(pairs()).any(|(k, (a, b))| !a && !b && hull.contains(k));
                assert_eq!(span_a.touches(span_b), !neither, "{a} and {b}, hull {hull}");
                let cut = span_a.to.to_cut();
                assert!(cut.as_ref() == span_a.to && cut.bytes() <= 2);
            }
        }
    }
}
