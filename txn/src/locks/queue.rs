//! Queues, and the hand-over of locks to who waits in them.
//!
//! Whoever is taken out of a place, as a holder or as a request, is followed by `promote_at` there.

use isolith_index::Slice;

use super::cut::Span;
use super::room::{SlotId, Stretch, Wanted};
use super::spans::Spans;
use super::table::{Before, Request, RoomId, Table, point_bytes};
use super::{Effects, Holder, Identity, LockMode, NO_SLOT};

impl Table {
    pub(super) fn enqueue(&mut self, me: SlotId) {
        let Some(request) = &mut self.slots[me as usize].request else { return };
        if std::mem::replace(&mut request.is_queued, true) {
            return;
        }
        let room = &mut self.rooms[request.room as usize];
        room.waiting += 1;
        self.stats.waiting += 1;
        match &request.wanted {
            Wanted::Key(key) => {
                room.points.entry(key.clone()).or_default().waiting_mut().push(me);
            }
            Wanted::Range(_) => room.waiting_ranges.push(me),
        }
    }

    pub(super) fn dequeue(&mut self, me: SlotId) {
        let Some(request) = &mut self.slots[me as usize].request else { return };
        if !std::mem::take(&mut request.is_queued) {
            return;
        }
        let room = &mut self.rooms[request.room as usize];
        room.waiting -= 1;
        self.stats.waiting -= 1;
        match &request.wanted {
            Wanted::Key(key) => {
                if let Some(point) = room.points.get_mut(key) {
                    point.waiting_mut().retain(|at| *at != me);
                    if point.is_idle() {
                        room.points.remove(key);
                    }
                }
            }
            Wanted::Range(_) => room.waiting_ranges.retain(|at| *at != me),
        }
    }

    /// The lock that `me` waits for is its own from now on, to be taken or given back.
    pub(super) fn grant(&mut self, me: SlotId) {
        // The point must not go meanwhile: the lock first, then the queue.
        let slot = &mut self.slots[me as usize];
        let Some(request) = &mut slot.request else { return };
        let room_id = request.room;
        let room = &mut self.rooms[room_id as usize];
        self.stats.held += 1;
        match &request.wanted {
            Wanted::Key(key) => {
                let before = room.points.entry(key.clone()).or_default().set(me, request.mode);
                request.granted = Some(Before(before));
                if before.is_some() {
                    self.stats.held -= 1;
                } else {
                    slot.identity.account(1, point_bytes(key) as isize);
                    let held = slot.held.iter_mut().find(|held| held.room == room_id);
                    if let Some(held) = held {
                        held.keys.push(key.clone());
                    }
                }
            }
            Wanted::Range(interval) => {
                let mut spans = Spans::default();
                spans.add(Span::of(interval));
                slot.identity.account(1, spans.bytes() as isize);
                request.granted = Some(Before(None));
                room.stretches.push(Stretch {
                    slot: me,
                    mode: request.mode,
                    is_untaken: true,
                    spans,
                });
            }
        }
        self.dequeue(me);
    }

    /// The owner learns that its request was granted.
    pub(super) fn take_over(&mut self, me: SlotId, effects: &mut Effects) {
        let Some(request) = self.slots[me as usize].request.take() else { return };
        if let Wanted::Range(interval) = &request.wanted {
            self.take_untaken(me, request.room);
            let held = &self.slots[me as usize].held;
            if let Some(at) = held.iter().position(|held| held.room == request.room) {
                self.add_stretch(me, at, interval, request.mode);
            }
        }
        effects.drop_later(request.waker);
    }

    /// Takes out the interval that was handed over.
    pub(super) fn take_untaken(&mut self, me: SlotId, room: RoomId) {
        let stretches = &mut self.rooms[room as usize].stretches;
        if let Some(at) = stretches.iter().position(|s| s.slot == me && s.is_untaken) {
            let stretch = stretches.swap_remove(at);
            self.stats.held -= 1;
            self.slots[me as usize].identity.account(-1, -(stretch.spans.bytes() as isize));
        }
    }

    /// Grants whatever nothing stands in the way of any more among those who wait there.
    pub(super) fn promote_at(&mut self, room: RoomId, wanted: &Wanted, effects: &mut Effects) {
        let place = &self.rooms[room as usize];
        if place.waiting == 0 {
            return;
        }
        let mut candidates: Vec<SlotId> = match wanted {
            Wanted::Key(key) => {
                place.points.get(key).map_or(Vec::new(), |point| point.waiting().to_vec())
            }
            Wanted::Range(interval) => {
                let points = place.points_within(interval);
                points.flat_map(|(_, point)| point.waiting()).copied().collect()
            }
        };
        candidates.extend(place.waiting_ranges.iter().filter(|&&at| {
            let request = self.slots[at as usize].waits_for();
            request.is_some_and(|request| request.wanted.overlaps(wanted))
        }));
        // In whatever order: who is behind another that can be granted is behind it until it is, and then
        // in its way.
        for at in candidates {
            if self.slots[at as usize].waits_for().is_some() && !self.is_blocked(at) {
                self.grant(at);
                if let Some(request) = &mut self.slots[at as usize].request
                    && !isolith_wal::planted!("lost-wake-up")
                {
                    effects.wake(request.waker.take());
                }
            }
        }
    }

    /// Takes the request of `me` back, and what it was handed.
    pub(super) fn withdraw(&mut self, me: SlotId, effects: &mut Effects) {
        let Some(room) = self.slots[me as usize].request.as_ref().map(|request| request.room)
        else {
            return;
        };
        self.withdraw_request(me, effects);
        let held = &self.slots[me as usize].held;
        if let Some(at) = held.iter().position(|held| held.room == room) {
            self.leave_if_idle(me, at, effects);
        }
    }

    pub(super) fn withdraw_request(&mut self, me: SlotId, effects: &mut Effects) {
        self.dequeue(me);
        let Some(request) = self.slots[me as usize].request.take() else { return };
        match (&request.granted, &request.wanted) {
            (None, _) => {}
            (Some(Before(before)), Wanted::Key(key)) => self.set_back(me, &request, key, *before),
            (Some(_), Wanted::Range(_)) => self.take_untaken(me, request.room),
        }
        self.promote_at(request.room, &request.wanted, effects);
        effects.drop_later(request.waker);
    }

    /// Holds a key as it did before it was handed a stronger lock.
    fn set_back(&mut self, me: SlotId, request: &Request, key: &Slice, before: Option<LockMode>) {
        let points = &mut self.rooms[request.room as usize].points;
        let Some(point) = points.get_mut(key) else { return };
        if let Some(mode) = before {
            point.set(me, mode);
            return;
        }
        point.clear(me);
        if point.is_idle() {
            points.remove(key);
        }
        self.stats.held -= 1;
        let slot = &mut self.slots[me as usize];
        slot.identity.account(-1, -(point_bytes(key) as isize));
        if let Some(held) = slot.held.iter_mut().find(|held| held.room == request.room) {
            let last = held.keys.pop();
            debug_assert_eq!(last.as_ref(), Some(key), "nothing is locked over a lock not taken");
        }
    }

    pub(super) fn cancel(
        &mut self,
        identity: &Identity,
        timed_out: bool,
        effects: &mut Effects,
    ) -> Vec<Holder> {
        let me = identity.slot();
        if me == NO_SLOT || self.slots[me as usize].request.is_none() {
            return Vec::new();
        }
        let holders = self.holders(me);
        self.stats.timeouts += u64::from(timed_out);
        self.withdraw(me, effects);
        holders
    }
}
