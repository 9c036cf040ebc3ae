//! Stretches of keys that do not touch each other: the intervals that one owner holds in one mode.
//!
//! A cursor that moves extends its last stretch in place, so a scan is one entry however long.

use std::collections::BTreeMap;
use std::ops::Bound;

use isolith_index::Slice;

use super::cut::{Cut, CutRef, Span};

/// What one stretch takes beside the bytes of long keys.
const ENTRY_BYTES: usize = 2 * (size_of::<Slice>() + size_of::<Cut>());

/// Disjoint stretches of keys.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// From the first key of a stretch to the cut at which it ends. That no two touch is what lets one
    /// look at the nearest from below decide every question.
    ends: BTreeMap<Slice, Cut>,
    bytes: usize,
}

impl Spans {
    /// How many stretches.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The stretches, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = Span<'_>> {
        self.ends.iter().map(as_span)
    }

    /// The stretch that holds a key.
    pub(super) fn holding(&self, key: &[u8]) -> Option<Span<'_>> {
        let below = self.ends.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        below.map(as_span).next_back().filter(|span| span.to > CutRef::Before(key))
    }

    /// The last stretch that shares a key with this one.
    pub(super) fn overlapping(&self, span: Span<'_>) -> Option<Span<'_>> {
        let upper = match span.to {
            CutRef::Before(key) => Bound::Excluded(key),
            CutRef::After(key) => Bound::Included(key),
            CutRef::End => Bound::Unbounded,
        };
        let below = self.ends.range::<[u8], _>((Bound::Unbounded, upper));
        below.map(as_span).next_back().filter(|found| found.to > span.from)
    }

    /// Whether one stretch holds all of this one.
    pub(super) fn contain(&self, span: Span<'_>) -> bool {
        self.overlapping(span).is_some_and(|found| found.contains(span))
    }

    /// Adds a stretch, which becomes one with those that it touches.
    pub(super) fn add(&mut self, span: Span<'_>) {
        let first = match last_from(&mut self.ends, span.from) {
            Some((first, to)) if to.as_ref() >= span.from => {
                if to.as_ref() < span.to {
                    let longer = span.to.to_cut();
                    self.bytes = self.bytes + longer.bytes() - to.bytes();
                    *to = longer;
                }
                first
            }
            _ => {
                let (first, to) = (span.from.to_key(), span.to.to_cut());
                self.bytes += ENTRY_BYTES + first.len() + to.bytes();
                self.ends.insert(first.clone(), to);
                first
            }
        };
        self.absorb(&first);
    }

    /// Takes the first stretch out: its first key, and where it ends.
    pub(super) fn pop(&mut self) -> Option<(Slice, Cut)> {
        let (first, to) = self.ends.pop_first()?;
        self.bytes -= ENTRY_BYTES + first.len() + to.bytes();
        Some((first, to))
    }

    /// Joins the stretch that begins at `first` with those after it that it now reaches.
    fn absorb(&mut self, first: &Slice) {
        loop {
            let mut both =
                self.ends.range::<[u8], _>((Bound::Included(&**first), Bound::Unbounded));
            let (Some((_, to)), Some((next, _))) = (both.next(), both.next()) else { return };
            if CutRef::Before(next) > to.as_ref() {
                return;
            }
            let next = next.clone();
            let (Some(far), Some(to)) = (self.ends.remove(&next), self.ends.get_mut(first)) else {
                return;
            };
            self.bytes -= ENTRY_BYTES + next.len() + far.bytes();
            if far > *to {
                self.bytes = self.bytes + far.bytes() - to.bytes();
                *to = far;
            }
        }
    }
}

/// The last stretch that begins at the cut or before.
fn last_from<'a>(
    ends: &'a mut BTreeMap<Slice, Cut>,
    cut: CutRef<'_>,
) -> Option<(Slice, &'a mut Cut)> {
    let upper = match cut {
        CutRef::Before(key) => Bound::Included(key),
        CutRef::After(key) => {
            // The cut after a key is the one before its successor: nothing else fits between.
            let above = ends.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded));
            match above.map(|(first, _)| first).next() {
                Some(first) if first.strip_suffix(&[0]) == Some(key) => {
                    let first = first.clone();
                    return ends.get_mut(&first).map(|to| (first, to));
                }
                _ => Bound::Included(key),
            }
        }
        CutRef::End => Bound::Unbounded,
    };
    let below = ends.range_mut::<[u8], _>((Bound::Unbounded, upper));
    below.map(|(first, to)| (first.clone(), to)).next_back()
}

fn as_span<'a>((first, to): (&'a Slice, &'a Cut)) -> Span<'a> {
    Span { from: CutRef::Before(first), to: to.as_ref() }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::read_set::Interval;
    use isolith_wal::random_seed;

    fn random_interval(random: &mut impl FnMut(usize) -> usize) -> Interval {
        let mut bound = || {
            let key = ["", "\0", "a", "a\0", "b", "b\0", "b\0\0", "c"][random(8)];
            match random(5) {
                0 | 1 => Bound::Included(Slice::from(key)),
                2 | 3 => Bound::Excluded(Slice::from(key)),
                _ => Bound::Unbounded,
            }
        };
        Interval { lower: bound(), upper: bound() }
    }

    #[test]
    fn stretches_are_what_a_list_of_intervals_is() {
        let seed =
            std::env::var("ISOLITH_SEED").map_or_else(|_| random_seed(), |s| s.parse().unwrap());
        println!("ISOLITH_SEED={seed}");
        let mut state = seed;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        for _ in 0..3000 {
            let (mut spans, mut list) = (Spans::default(), Vec::<Interval>::new());
            for _ in 0..6 {
                let new = random_interval(&mut random);
                let asked = random_interval(&mut random);
                if !Span::of(&new).is_empty() {
                    spans.add(Span::of(&new));
                    let mut hull = new;
                    while let Some(at) =
                        list.iter().position(|old| Span::of(old).touches(Span::of(&hull)))
                    {
                        hull = Span::of(&list.swap_remove(at)).hull(Span::of(&hull)).to_interval();
                    }
                    list.push(hull);
                }
                assert_eq!(spans.len(), list.len(), "{spans:?} {list:?}");
                assert!(list.iter().all(|one| spans.contain(Span::of(one))), "{spans:?} {list:?}");
                let bytes = |span: Span<'_>| {
                    ENTRY_BYTES + span.from.to_key().len() + span.to.to_cut().bytes()
                };
                assert_eq!(spans.bytes(), spans.iter().map(bytes).sum::<usize>());
                if Span::of(&asked).is_empty() {
                    continue;
                }
                let any = list.iter().any(|one| Span::of(one).overlaps(Span::of(&asked)));
                assert_eq!(spans.overlapping(Span::of(&asked)).is_some(), any, "{asked} {spans:?}");
                let all = list.iter().any(|one| Span::of(one).contains(Span::of(&asked)));
                assert_eq!(spans.contain(Span::of(&asked)), all, "{asked} in {spans:?}");
                for key in ["", "\0", "a", "a\0", "a\0\0", "b", "b\0", "b\0\0", "c", "d"] {
                    let held = list.iter().any(|one| one.contains(key.as_bytes()));
                    assert_eq!(spans.holding(key.as_bytes()).is_some(), held, "{key:?} {spans:?}");
                }
            }
            while spans.pop().is_some() {}
            assert_eq!(spans.bytes(), 0);
        }
    }
}
