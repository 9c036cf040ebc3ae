//! Who stands in whose way: the edges of the wait-for graph, read off the rooms.

use std::ops::ControlFlow;

use isolith_index::Slice;

use super::cut::Span;
use super::room::{Point, SlotId, Wanted};
use super::table::{Request, Slot, Table};
use super::{Age, Holder, Identity, LockMode, NO_SLOT};
use crate::read_set::Interval;

/// The place of a request in every queue: smaller goes first.
pub(super) type Place = (bool, (Age, u64));

/// Through what somebody stands in the way.
pub(super) enum Through<'a> {
    Key(&'a Slice),
    Span(Span<'a>),
    Request(&'a Wanted),
}

impl Through<'_> {
    fn to_interval(&self) -> Interval {
        match self {
            Through::Key(key) => Interval::point(key),
            Through::Span(span) => span.to_interval(),
            Through::Request(wanted) => wanted.to_interval(),
        }
    }
}

impl Slot {
    pub(super) fn place(&self, request: &Request) -> Place {
        (!request.is_upgrade, self.identity.rank())
    }
}

impl Request {
    /// Whether the two cannot both be granted.
    fn conflicts(&self, other: &Request) -> bool {
        self.room == other.room
            && !self.mode.is_compatible_with(other.mode)
            && self.wanted.overlaps(&other.wanted)
    }
}

impl Table {
    /// Goes through what stands in the way of the request of `me`; the same owner may come twice. True
    /// in `skipped` afterwards: a request ahead did not count because it waits for `me`.
    pub(super) fn visit_blockers(
        &self,
        me: SlotId,
        skipped: &mut bool,
        mut visit: impl FnMut(SlotId, LockMode, Through<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mine = &self.slots[me as usize];
        let Some(request) = mine.waits_for() else { return ControlFlow::Continue(()) };
        let room = &self.rooms[request.room as usize];
        let counts = |slot: SlotId, mode: LockMode| {
            slot != me
                && !mode.is_compatible_with(request.mode)
                && self.slots[slot as usize].counts()
        };
        let span = request.wanted.span();
        for stretch in &room.stretches {
            if counts(stretch.slot, stretch.mode)
                && let Some(span) = stretch.spans.overlapping(span)
            {
                visit(stretch.slot, stretch.mode, Through::Span(span))?;
            }
        }
        let mut look_at_point = |key: &Slice, point: &Point| {
            for grant in point.grants().filter(|grant| counts(grant.slot, grant.mode)) {
                visit(grant.slot, grant.mode, Through::Key(key))?;
            }
            point
                .waiting()
                .iter()
                .try_for_each(|&other| self.visit_if_ahead(me, request, other, skipped, &mut visit))
        };
        match &request.wanted {
            Wanted::Key(key) => {
                if let Some(point) = room.points.get(key) {
                    look_at_point(key, point)?;
                }
            }
            Wanted::Range(interval) => {
                room.points_within(interval)
                    .try_for_each(|(key, point)| look_at_point(key, point))?;
            }
        }
        room.waiting_ranges
            .iter()
            .try_for_each(|&other| self.visit_if_ahead(me, request, other, skipped, &mut visit))
    }

    fn visit_if_ahead(
        &self,
        me: SlotId,
        request: &Request,
        other: SlotId,
        skipped: &mut bool,
        visit: &mut impl FnMut(SlotId, LockMode, Through<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let (mine, theirs) = (&self.slots[me as usize], &self.slots[other as usize]);
        if other == me || !theirs.identity.is_live() {
            return ControlFlow::Continue(());
        }
        let Some(ahead) = theirs.waits_for() else { return ControlFlow::Continue(()) };
        if theirs.place(ahead) >= mine.place(request) || !ahead.conflicts(request) {
            return ControlFlow::Continue(());
        }
        let conflicts = |mode: LockMode| !mode.is_compatible_with(ahead.mode);
        if self.rooms[request.room as usize].holds_any(me, &ahead.wanted, conflicts) {
            *skipped = true;
            return ControlFlow::Continue(());
        }
        visit(other, ahead.mode, Through::Request(&ahead.wanted))
    }

    pub(super) fn is_blocked(&self, me: SlotId) -> bool {
        self.visit_blockers(me, &mut false, |_, _, _| ControlFlow::Break(())).is_break()
    }

    /// Who stands in the way of the request of `me`, youngest first; none if it does not wait.
    pub(super) fn blockers(&self, me: SlotId) -> Vec<SlotId> {
        self.blockers_and_skips(me).0
    }

    pub(super) fn blockers_and_skips(&self, me: SlotId) -> (Vec<SlotId>, bool) {
        let (mut blockers, mut skipped) = (Vec::new(), false);
        let _ = self.visit_blockers(me, &mut skipped, |at, _, _| {
            blockers.push(at);
            ControlFlow::Continue(())
        });
        blockers.sort_by_key(|at| std::cmp::Reverse(self.slots[*at as usize].identity.rank()));
        blockers.dedup();
        (blockers, skipped)
    }

    /// What stands in the way of the request of `me`, one lock of each owner, oldest first.
    pub(super) fn holders(&self, me: SlotId) -> Vec<Holder> {
        let mut holders: Vec<(SlotId, Holder)> = Vec::new();
        let Some(request) = self.slots[me as usize].waits_for() else { return Vec::new() };
        let space = self.rooms[request.room as usize].space;
        let _ = self.visit_blockers(me, &mut false, |at, mode, through| {
            if holders.last().is_none_or(|(last, _)| *last != at) {
                let age = self.slots[at as usize].identity.age;
                holders.push((at, Holder { age, mode, space, what: through.to_interval() }));
            }
            ControlFlow::Continue(())
        });
        holders.sort_by_key(|(at, _)| self.slots[*at as usize].identity.rank());
        holders.dedup_by_key(|(at, _)| *at);
        holders.into_iter().map(|(_, holder)| holder).collect()
    }

    /// Through what `other` stands in the way of `me`.
    pub(super) fn link(&self, me: SlotId, other: SlotId) -> Option<Holder> {
        let request = self.slots[me as usize].waits_for()?;
        let space = self.rooms[request.room as usize].space;
        let mut found = None;
        let _ = self.visit_blockers(me, &mut false, |at, mode, through| {
            if at != other {
                return ControlFlow::Continue(());
            }
            let age = self.slots[at as usize].identity.age;
            found = Some(Holder { age, mode, space, what: through.to_interval() });
            ControlFlow::Break(())
        });
        found
    }

    pub(super) fn standing_in_the_way_of(&self, identity: &Identity) -> Vec<Holder> {
        let me = identity.slot();
        if me == NO_SLOT { Vec::new() } else { self.holders(me) }
    }
}
