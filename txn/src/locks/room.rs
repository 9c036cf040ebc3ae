//! One keyspace's locks, by their place among the keys.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;

use isolith_index::{KeyRange, Kind, Prepared, Slice};

use super::LockMode;
use super::cut::Span;
use super::spans::Spans;
use crate::read_set::Interval;
use crate::space::SpaceId;
use crate::validate::SpaceWrites;

/// An owner's place in the table.
pub(super) type SlotId = u32;

/// The locks of one keyspace, and who waits there.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) space: SpaceId,
    /// Owners that have something here.
    pub(super) users: usize,
    /// Keys that are locked by themselves, or waited for.
    pub(super) points: BTreeMap<Slice, Point>,
    /// Intervals that are locked: one entry per owner and mode, and one per interval that was handed over
    /// and not taken yet.
    pub(super) stretches: Vec<Stretch>,
    /// Who waits for an interval.
    pub(super) waiting_ranges: Vec<SlotId>,
    /// How many wait here, for whatever.
    pub(super) waiting: usize,
}

/// Who holds a mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) slot: SlotId,
    pub(super) mode: LockMode,
}

/// Who holds a key, and who waits for it. Most keys have one holder and nobody who waits: that case is
/// small and allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Point {
    first: Option<Grant>,
    rest: Option<Box<Rest>>,
}

#[derive(Debug, Default)]
struct Rest {
    more: Vec<Grant>,
    waiting: Vec<SlotId>,
}

impl Point {
    pub(super) fn held(by: Grant) -> Self {
        Self { first: Some(by), rest: None }
    }

    pub(super) fn grants(&self) -> impl Iterator<Item = Grant> {
        let more = self.rest.iter().flat_map(|rest| &rest.more);
        self.first.iter().chain(more).copied()
    }

    pub(super) fn mode_of(&self, slot: SlotId) -> Option<LockMode> {
        self.grants().find(|grant| grant.slot == slot).map(|grant| grant.mode)
    }

    pub(super) fn waiting(&self) -> &[SlotId] {
        self.rest.as_ref().map_or(&[], |rest| &rest.waiting)
    }

    pub(super) fn waiting_mut(&mut self) -> &mut Vec<SlotId> {
        &mut self.rest.get_or_insert_default().waiting
    }

    /// Gives the owner a mode; answers the one that it had.
    pub(super) fn set(&mut self, slot: SlotId, mode: LockMode) -> Option<LockMode> {
        let more = self.rest.iter_mut().flat_map(|rest| &mut rest.more);
        if let Some(grant) = self.first.iter_mut().chain(more).find(|grant| grant.slot == slot) {
            return Some(std::mem::replace(&mut grant.mode, mode));
        }
        let grant = Grant { slot, mode };
        match self.first {
            None => self.first = Some(grant),
            Some(_) => self.rest.get_or_insert_default().more.push(grant),
        }
        None
    }

    /// Takes the owner's mode away.
    pub(super) fn clear(&mut self, slot: SlotId) {
        if self.first.is_some_and(|grant| grant.slot == slot) {
            self.first = self.rest.as_mut().and_then(|rest| rest.more.pop());
        } else if let Some(rest) = &mut self.rest {
            rest.more.retain(|grant| grant.slot != slot);
        }
    }

    /// Nobody holds it and nobody waits for it.
    pub(super) fn is_idle(&self) -> bool {
        self.first.is_none() && self.waiting().is_empty()
    }
}

/// Intervals that one owner holds in one mode.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) slot: SlotId,
    pub(super) mode: LockMode,
    /// One interval that was handed over to who waited for it, kept apart until it is taken, so that it
    /// can be given back.
    pub(super) is_untaken: bool,
    pub(super) spans: Spans,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Key(Slice),
    Range(Interval),
}

impl Wanted {
    pub(super) fn span(&self) -> Span<'_> {
        match self {
            Wanted::Key(key) => Span::point(key),
            Wanted::Range(interval) => Span::of(interval),
        }
    }

    pub(super) fn to_interval(&self) -> Interval {
        match self {
            Wanted::Key(key) => Interval::point(key),
            Wanted::Range(interval) => interval.clone(),
        }
    }

    pub(super) fn overlaps(&self, other: &Wanted) -> bool {
        match (self, other) {
            (Wanted::Key(a), Wanted::Key(b)) => a == b,
            (Wanted::Key(key), Wanted::Range(range)) | (Wanted::Range(range), Wanted::Key(key)) => {
                range.contains(key)
            }
            (Wanted::Range(_), Wanted::Range(_)) => self.span().overlaps(other.span()),
        }
    }
}

/// The mode of the lock that the write at a place would need.
pub(super) fn mode_of_write(writes: &Prepared, at: usize) -> LockMode {
    match writes.kind(at) {
        Kind::Merge { .. } => LockMode::Merge,
        Kind::Put | Kind::Delete => LockMode::Exclusive,
    }
}

impl Room {
    pub(super) fn new(space: SpaceId) -> Self {
        Self {
            space,
            users: 0,
            points: BTreeMap::new(),
            stretches: Vec::new(),
            waiting_ranges: Vec::new(),
            waiting: 0,
        }
    }

    /// The points within an interval that is not empty.
    pub(super) fn points_within(&self, interval: &Interval) -> Range<'_, Slice, Point> {
        self.points.range::<[u8], _>(interval.ends())
    }

    /// Whether the owner holds a lock that overlaps what is wanted and passes `is_meant`.
    pub(super) fn holds_any(
        &self,
        slot: SlotId,
        wanted: &Wanted,
        is_meant: impl Fn(LockMode) -> bool,
    ) -> bool {
        let meant = |point: &Point| point.mode_of(slot).is_some_and(&is_meant);
        let at_points = match wanted {
            Wanted::Key(key) => self.points.get(key).is_some_and(meant),
            Wanted::Range(interval) => self.points_within(interval).any(|(_, point)| meant(point)),
        };
        at_points || {
            let mut own = self.stretches.iter().filter(|s| s.slot == slot && is_meant(s.mode));
            own.any(|stretch| stretch.spans.overlapping(wanted.span()).is_some())
        }
    }

    /// Whether a grant that `counts` is in conflict with these writes. Allocates nothing.
    pub(super) fn stands_in_the_way(
        &self,
        writes: &SpaceWrites,
        counts: impl Fn(SlotId) -> bool,
    ) -> bool {
        let prepared = &writes.prepared;
        let stops = |point: &Point, mode: LockMode| {
            point.grants().any(|g| !g.mode.is_compatible_with(mode) && counts(g.slot))
        };
        // Whichever are fewer are gone through, the others looked up.
        let by_locks = self.points.len() < prepared.len();
        let at_keys = if by_locks && writes.is_ascending() {
            self.points.iter().any(|(key, point)| {
                let at = writes.place_of(key);
                at.is_some_and(|at| stops(point, mode_of_write(prepared, at)))
            })
        } else {
            !self.points.is_empty()
                && prepared.keys().enumerate().any(|(at, key)| {
                    let point = self.points.get(key);
                    point.is_some_and(|point| stops(point, mode_of_write(prepared, at)))
                })
        };
        at_keys
            || self.stretches.iter().any(|stretch| {
                let conflicts =
                    |at: usize| !mode_of_write(prepared, at).is_compatible_with(stretch.mode);
                let spans = &stretch.spans;
                let found = if stretch.mode != LockMode::Merge && spans.len() < prepared.len() {
                    spans.iter().any(|span| writes.writes_key_within(span.to_bounds()))
                } else {
                    let mut keys = prepared.keys().enumerate();
                    keys.any(|(at, key)| conflicts(at) && spans.holding(key).is_some())
                };
                found && counts(stretch.slot)
            })
            || prepared.ranges().any(|(lower, upper)| self.overlaps_range((lower, upper), &counts))
    }

    fn overlaps_range(&self, range: KeyRange<'_>, counts: &impl Fn(SlotId) -> bool) -> bool {
        let mut points = self.points.range::<[u8], _>(range);
        let span = Span::new(range.0, range.1);
        points.any(|(_, point)| point.grants().any(|grant| counts(grant.slot)))
            || self
                .stretches
                .iter()
                .any(|stretch| stretch.spans.overlapping(span).is_some() && counts(stretch.slot))
    }
}
