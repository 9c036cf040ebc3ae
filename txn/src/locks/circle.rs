//! The search for circles of waiting, and who is refused to break one.
//!
//! The wait-for graph is not kept: it is read off the queues, and only by who is about to wait. That is
//! enough, whatever the policies: every edge that is new since the last search goes out from that owner
//! (what it waits for) or comes in to it (who goes behind it in a queue). All others have only lost edges
//! since: a lock that is handed over stood in the same way as the request did.

use std::collections::VecDeque;

use super::policy::{DeadlockPolicy, Victim};
use super::room::{SlotId, Wanted};
use super::table::{Slot, Table};
use super::{ACTIVE, Holder, LockMode};

/// A step of the search: who, and through which step it was come by.
struct Step {
    at: SlotId,
    from: Option<usize>,
}

impl Table {
    /// A shortest circle of waiting through `me`: each waits for the next, and the last for the first,
    /// which is `me`.
    pub(super) fn circle(&mut self, me: SlotId) -> Option<Vec<SlotId>> {
        self.searches += 1;
        let search = self.searches;
        let mut steps = vec![Step { at: me, from: None }];
        let mut next = VecDeque::from([0]);
        let mut queues: Vec<SlotId> = Vec::new();
        while let Some(step) = next.pop_front() {
            let at = steps[step].at;
            let by_range = |at: SlotId| {
                let request = self.slots[at as usize].waits_for();
                request.is_some_and(|request| matches!(request.wanted, Wanted::Range(_)))
            };
            if isolith_wal::planted!("circles-not-searched") {
                return None;
            }
            if steps.len() > 2 && isolith_wal::planted!("circles-of-three-missed") {
                return None;
            }
            if by_range(at) && isolith_wal::planted!("circles-through-ranges-missed") {
                return None;
            }
            if queues.iter().any(|&seen| self.is_ahead_in_same_queue(at, seen)) {
                continue;
            }
            let (blockers, skipped) = self.blockers_and_skips(at);
            if !skipped {
                queues.push(at);
            }
            for blocker in blockers {
                if blocker == me {
                    let mut circle = vec![at];
                    let mut step = &steps[step];
                    while let Some(from) = step.from {
                        step = &steps[from];
                        circle.push(step.at);
                    }
                    circle.reverse();
                    return Some(circle);
                }
                let slot = &mut self.slots[blocker as usize];
                if slot.searched != search {
                    slot.searched = search;
                    if slot.waits_for().is_some() {
                        steps.push(Step { at: blocker, from: Some(step) });
                        next.push_back(steps.len() - 1);
                    }
                }
            }
        }
        None
    }

    /// Whether everybody who stands in the way of `at` stands in the way of `seen` too, because both
    /// want the same key, `seen` as strongly, and `at` is ahead. Keeps a search through a long queue
    /// linear.
    fn is_ahead_in_same_queue(&self, at: SlotId, seen: SlotId) -> bool {
        let (front, back) = (&self.slots[at as usize], &self.slots[seen as usize]);
        let (Some(ahead), Some(behind)) = (front.waits_for(), back.waits_for()) else {
            return false;
        };
        let conflicts = |mode: LockMode| !mode.is_compatible_with(ahead.mode);
        ahead.room == behind.room
            && behind.mode.covers(ahead.mode)
            && matches!((&ahead.wanted, &behind.wanted), (Wanted::Key(a), Wanted::Key(b)) if a == b)
            && front.place(ahead) < back.place(behind)
            && !self.rooms[ahead.room as usize].holds_any(seen, &ahead.wanted, conflicts)
    }

    /// Whom the circle is broken at, by the policy of who found it; none if nobody can be.
    pub(super) fn victim(&self, circle: &[SlotId], policy: DeadlockPolicy) -> Option<SlotId> {
        let slot = |at: &SlotId| -> &Slot { &self.slots[*at as usize] };
        let active = circle.iter().copied().filter(|at| slot(at).identity.state() == ACTIVE);
        match policy {
            DeadlockPolicy::Detect(Victim::FewestLocks) => active.min_by_key(|at| {
                let identity = &slot(at).identity;
                (identity.count(), std::cmp::Reverse(identity.rank()))
            }),
            _ => active.max_by_key(|at| slot(at).identity.rank()),
        }
    }

    /// The circle as its links: each a lock that the owner of the link before waits for.
    pub(super) fn links(&self, circle: &[SlotId]) -> Vec<Holder> {
        let next = circle.iter().cycle().skip(1);
        circle.iter().zip(next).filter_map(|(&at, &next)| self.link(at, next)).collect()
    }
}
