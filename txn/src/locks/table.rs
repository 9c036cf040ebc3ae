//! The lock table's state machine: every question is decided here, under one mutex.
//!
//! An owner has a *slot* from its first request until it is released; a keyspace has a *room* while somebody
//! has something in it. A request that nothing stands in the way of is granted on the spot, without a
//! look at anybody who waits. All others go through `decide`.
//!
//! 1. A slot's held keys are exactly the points at which it has a grant, and a room's stretches are
//!    looked through for the rest; so a release finds everything without a search.
//! 2. A point is in its room while somebody holds it or waits for it, and no longer.
//! 3. Whoever is taken out of a place, as a holder or as a request, is followed by a look at those who
//!    wait there (`promote_at`). Nothing else can set a waiter free, so no wake-up is lost.
//! 4. A slot with a request that waits is in exactly one queue: its point's or its room's.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::task::Waker;

use isolith_index::Slice;

use super::cut::{CutRef, INLINE_KEY_BYTES, Span, hold_key};
use super::policy::DeadlockPolicy;
use super::room::{Grant, Point, Room, SlotId, Stretch, Wanted};
use super::spans::Spans;
use super::{
    ACTIVE, Effects, Identity, LockMode, LockStats, LockStep, LockTarget, NO_SLOT, OVER, Refusal,
    WOUNDED, Wound,
};
use crate::read_set::Interval;
use crate::space::{Space, SpaceId};
use crate::validate::SpaceWrites;

/// A room's place in the table.
pub(super) type RoomId = u32;

/// Locks of a wounded owner that are released before the mutex is let go of.
const RELEASED_BY_WOUND: usize = 64;
/// Rooms that nobody is in are kept up to this number of rooms.
const ROOMS_KEPT: usize = 64;
/// Emptied lists of keys that are kept for reuse, and how long they may be.
const SPARE_LISTS: usize = 32;
const SPARE_KEYS: usize = 1024;
/// What a locked key takes beside the bytes of a long one: in the map and in its owner's list.
const POINT_BYTES: usize = 2 * size_of::<Slice>() + size_of::<Point>();

/// Every owner that has or had a lock, and every lock.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) slots: Vec<Slot>,
    free_slots: Vec<SlotId>,
    pub(super) rooms: Vec<Room>,
    free_rooms: Vec<RoomId>,
    room_of: BTreeMap<SpaceId, RoomId>,
    spare: Vec<Vec<Slice>>,
    pub(super) searches: u64,
    pub(super) stats: LockStats,
}

/// One owner.
#[derive(Debug)]
pub(super) struct Slot {
    /// Who; of a free slot, who was.
    pub(super) identity: Arc<Identity>,
    pub(super) held: Vec<Held>,
    pub(super) request: Option<Box<Request>>,
    wound: Option<Wound>,
    /// An older owner that would have wounded it has waited for its commit instead.
    is_wanted: bool,
    /// The last search for a circle that came by.
    pub(super) searched: u64,
}

/// What an owner has in one keyspace.
#[derive(Debug)]
pub(super) struct Held {
    space: Arc<Space>,
    pub(super) room: RoomId,
    pub(super) keys: Vec<Slice>,
}

/// A request that could not be granted on the spot.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) room: RoomId,
    pub(super) wanted: Wanted,
    /// The mode asked for.
    asked: LockMode,
    /// The mode that it comes to together with what is held at the same key.
    pub(super) mode: LockMode,
    /// Its owner holds something there already: it goes ahead of those who do not.
    pub(super) is_upgrade: bool,
    pub(super) is_queued: bool,
    pub(super) granted: Option<Before>,
    pub(super) waker: Option<Waker>,
}

/// What a lock that was handed over, and that its owner does not know of yet, took the place of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(pub(super) Option<LockMode>);

impl Slot {
    /// Whether its locks stand in anybody's way.
    pub(super) fn counts(&self) -> bool {
        let upgrades = || self.waits_for().is_some_and(|request| request.is_upgrade);
        let released = isolith_wal::planted!("upgrade-releases-shared") && upgrades();
        self.identity.is_live() && !released
    }

    /// Its request, if it waits.
    pub(super) fn waits_for(&self) -> Option<&Request> {
        self.request.as_deref().filter(|request| request.granted.is_none())
    }
}

impl Request {
    fn is(&self, space: SpaceId, rooms: &[Room], what: LockTarget<'_>, asked: LockMode) -> bool {
        self.asked == asked
            && rooms[self.room as usize].space == space
            && match (&self.wanted, what) {
                (Wanted::Key(mine), LockTarget::Key(key)) => &**mine == key,
                (Wanted::Range(mine), LockTarget::Range(interval)) => mine == interval,
                _ => false,
            }
    }
}

pub(super) fn point_bytes(key: &[u8]) -> usize {
    POINT_BYTES + if key.len() <= INLINE_KEY_BYTES { 0 } else { key.len() }
}

impl Table {
    pub(super) fn lock(
        &mut self,
        identity: &Arc<Identity>,
        space: &Arc<Space>,
        what: LockTarget<'_>,
        asked: LockMode,
        waker: Option<&Waker>,
        effects: &mut Effects,
    ) -> LockStep {
        if identity.state() == OVER {
            return LockStep::Refused(Refusal::Wounded { by: identity.age });
        }
        if let LockTarget::Range(interval) = what
            && interval.is_empty()
        {
            return LockStep::Granted;
        }
        let me = self.enter(identity);
        if std::mem::take(&mut self.slots[me as usize].is_wanted) {
            self.give_way(me, effects);
        }
        let slot = &mut self.slots[me as usize];
        if identity.state() == WOUNDED {
            let lost = Wound::Older { by: identity.age };
            return LockStep::Refused(slot.wound.clone().unwrap_or(lost).into());
        }
        if let Some(request) = &mut slot.request {
            if request.is(space.id, &self.rooms, what, asked) {
                if request.granted.is_some() {
                    self.take_over(me, effects);
                    return LockStep::Granted;
                }
                effects.drop_later(std::mem::replace(&mut request.waker, waker.cloned()));
                return LockStep::Waiting;
            }
            if self.has(me, space.id, what, asked) {
                return LockStep::Granted;
            }
            self.withdraw(me, effects);
        }
        let at = self.held_in(me, space);
        let step = match what {
            LockTarget::Key(key) => self.lock_key(me, at, key, asked, waker, effects),
            LockTarget::Range(interval) => self.lock_range(me, at, interval, asked, waker, effects),
        };
        if let LockStep::Refused(_) = step {
            self.leave_if_idle(me, at, effects);
        }
        step
    }

    /// Whether its owner knows that it holds what it asks for. What it was handed and does not know of
    /// does not count: that may be given back.
    fn has(&self, me: SlotId, space: SpaceId, what: LockTarget<'_>, asked: LockMode) -> bool {
        let slot = &self.slots[me as usize];
        let Some(held) = slot.held.iter().find(|held| held.space.id == space) else { return false };
        let room = &self.rooms[held.room as usize];
        let mut own =
            room.stretches.iter().filter(|s| s.slot == me && !s.is_untaken && s.mode.covers(asked));
        match what {
            LockTarget::Range(interval) => own.any(|s| s.spans.contain(Span::of(interval))),
            LockTarget::Key(key) => {
                let untaken = slot.request.as_deref().and_then(|request| match &request.wanted {
                    Wanted::Key(wanted) if request.room == held.room && **wanted == *key => {
                        request.granted
                    }
                    _ => None,
                });
                let now = || room.points.get(key).and_then(|point| point.mode_of(me));
                untaken.map_or_else(now, |Before(before)| before).is_some_and(|m| m.covers(asked))
                    || own.any(|stretch| stretch.spans.holding(key).is_some())
            }
        }
    }

    fn lock_key(
        &mut self,
        me: SlotId,
        at: usize,
        key: &[u8],
        asked: LockMode,
        waker: Option<&Waker>,
        effects: &mut Effects,
    ) -> LockStep {
        let slots = &self.slots;
        let held = &slots[me as usize].held[at];
        let room = &mut self.rooms[held.room as usize];
        let is_live = |slot: SlotId| slots[slot as usize].counts();
        let mut is_free = room.waiting_ranges.is_empty();
        for stretch in &room.stretches {
            if stretch.slot == me {
                if stretch.mode.covers(asked) && stretch.spans.holding(key).is_some() {
                    return LockStep::Granted;
                }
            } else if !stretch.mode.is_compatible_with(asked)
                && stretch.spans.holding(key).is_some()
                && is_live(stretch.slot)
            {
                is_free = false;
            }
        }
        let mut mode = asked;
        match room.points.entry(hold_key(key)) {
            Entry::Vacant(vacant) => {
                if is_free {
                    let key = vacant.key().clone();
                    vacant.insert(Point::held(Grant { slot: me, mode }));
                    self.holds_now(me, at, key);
                    return LockStep::Granted;
                }
            }
            Entry::Occupied(mut occupied) => {
                let point = occupied.get_mut();
                if let Some(own) = point.mode_of(me) {
                    if own.covers(asked) {
                        return LockStep::Granted;
                    }
                    mode = own.join(asked);
                }
                is_free &= point.waiting().is_empty()
                    && point.grants().all(|grant| {
                        grant.slot == me
                            || grant.mode.is_compatible_with(mode)
                            || !is_live(grant.slot)
                    });
                if is_free {
                    if point.set(me, mode).is_none() {
                        let key = occupied.key().clone();
                        self.holds_now(me, at, key);
                    }
                    return LockStep::Granted;
                }
            }
        }
        self.ask(me, at, Wanted::Key(hold_key(key)), asked, mode, waker, effects)
    }

    fn lock_range(
        &mut self,
        me: SlotId,
        at: usize,
        interval: &Interval,
        asked: LockMode,
        waker: Option<&Waker>,
        effects: &mut Effects,
    ) -> LockStep {
        let room = &self.rooms[self.slots[me as usize].held[at].room as usize];
        let span = Span::of(interval);
        let mut own = room.stretches.iter().filter(|s| s.slot == me && s.mode.covers(asked));
        if own.any(|stretch| stretch.spans.contain(span)) {
            return LockStep::Granted;
        }
        let slots = &self.slots;
        let is_foreign = |slot: SlotId, mode: LockMode| {
            slot != me && !mode.is_compatible_with(asked) && slots[slot as usize].identity.is_live()
        };
        let is_free = room.waiting == 0
            && room.stretches.iter().all(|stretch| {
                !is_foreign(stretch.slot, stretch.mode) || stretch.spans.overlapping(span).is_none()
            })
            && room
                .points_within(interval)
                .all(|(_, point)| point.grants().all(|grant| !is_foreign(grant.slot, grant.mode)));
        if is_free {
            self.add_stretch(me, at, interval, asked);
            return LockStep::Granted;
        }
        self.ask(me, at, Wanted::Range(interval.clone()), asked, asked, waker, effects)
    }

    /// The long way: the request is looked at beside all others, and queued if it has to be.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, put together here")]
    fn ask(
        &mut self,
        me: SlotId,
        at: usize,
        wanted: Wanted,
        asked: LockMode,
        mode: LockMode,
        waker: Option<&Waker>,
        effects: &mut Effects,
    ) -> LockStep {
        let room = self.slots[me as usize].held[at].room;
        let is_upgrade = self.rooms[room as usize].holds_any(me, &wanted, |_| true);
        let request = Request {
            room,
            wanted,
            asked,
            mode,
            is_upgrade,
            is_queued: false,
            granted: None,
            waker: None,
        };
        self.slots[me as usize].request = Some(Box::new(request));
        let step = self.decide(me, effects);
        match step {
            LockStep::Granted => {
                if self.slots[me as usize].waits_for().is_some() {
                    self.grant(me);
                }
                self.take_over(me, effects);
            }
            LockStep::Waiting => {
                self.stats.waits += 1;
                if let Some(request) = &mut self.slots[me as usize].request {
                    request.waker = waker.cloned();
                }
            }
            LockStep::Refused(_) => self.withdraw_request(me, effects),
        }
        step
    }

    /// What is to become of the request of `me`, which is not queued yet.
    fn decide(&mut self, me: SlotId, effects: &mut Effects) -> LockStep {
        let identity = Arc::clone(&self.slots[me as usize].identity);
        loop {
            let blockers = self.blockers(me);
            if blockers.is_empty() {
                return LockStep::Granted;
            }
            let blocking = |at: &SlotId| &self.slots[*at as usize].identity;
            let is_refused = match identity.policy {
                DeadlockPolicy::NoWait => true,
                DeadlockPolicy::WaitDie => {
                    blockers.iter().any(|at| blocking(at).is_older_than(&identity))
                }
                DeadlockPolicy::WoundWait | DeadlockPolicy::Detect(_) => false,
            };
            if is_refused {
                self.stats.refusals += 1;
                let holders = self.holders(me);
                return LockStep::Refused(Refusal::Refused { holders });
            }
            // From here on others see it: those who go behind it wait for it now.
            self.enqueue(me);
            if identity.policy == DeadlockPolicy::WoundWait && self.wound(me, &blockers, effects) {
                continue;
            }
            let Some(circle) = self.circle(me) else { return LockStep::Waiting };
            self.stats.deadlocks += 1;
            let victim = self.victim(&circle, identity.policy);
            let cycle = self.links(&circle);
            match victim {
                Some(victim) if victim != me && !isolith_wal::planted!("wrong-victim") => {
                    if self.slots[victim as usize].identity.exchange(ACTIVE, WOUNDED) {
                        self.strip(victim, Wound::Deadlock { cycle }, effects);
                    }
                }
                _ => return LockStep::Refused(Refusal::Deadlock { cycle }),
            }
        }
    }

    /// Wounds those of the blockers that are younger and still active. Whether there were any.
    fn wound(&mut self, me: SlotId, blockers: &[SlotId], effects: &mut Effects) -> bool {
        let identity = Arc::clone(&self.slots[me as usize].identity);
        let mut any = false;
        for &at in blockers {
            let other = Arc::clone(&self.slots[at as usize].identity);
            if !identity.is_older_than(&other) && !isolith_wal::planted!("older-ones-wounded") {
                continue;
            }
            if other.exchange(ACTIVE, WOUNDED) {
                self.stats.wounds += 1;
                self.strip(at, Wound::Older { by: identity.age }, effects);
                any = true;
            } else if other.is_live() {
                self.slots[at as usize].is_wanted = true;
            }
        }
        any
    }

    /// An older owner waited for a commit of `me` that did not come about: if it still waits, it has the
    /// locks now.
    fn give_way(&mut self, me: SlotId, effects: &mut Effects) {
        let identity = Arc::clone(&self.slots[me as usize].identity);
        let waits = |at: &SlotId| {
            let slot = &self.slots[*at as usize];
            slot.identity.policy == DeadlockPolicy::WoundWait
                && slot.identity.is_older_than(&identity)
                && slot.waits_for().is_some()
                && self.blockers(*at).contains(&me)
        };
        let older = (0..self.slots.len() as SlotId).filter(waits);
        let by = older.map(|at| self.slots[at as usize].identity.rank()).min();
        if let Some((by, _)) = by
            && identity.exchange(ACTIVE, WOUNDED)
        {
            self.stats.wounds += 1;
            self.strip(me, Wound::Older { by }, effects);
        }
    }
}

impl Table {
    fn enter(&mut self, identity: &Arc<Identity>) -> SlotId {
        let slot = identity.slot();
        if slot != NO_SLOT {
            return slot;
        }
        let slot = match self.free_slots.pop() {
            Some(free) => {
                self.slots[free as usize].identity = Arc::clone(identity);
                free
            }
            None => {
                self.slots.push(Slot {
                    identity: Arc::clone(identity),
                    held: Vec::new(),
                    request: None,
                    wound: None,
                    is_wanted: false,
                    searched: 0,
                });
                (self.slots.len() - 1) as SlotId
            }
        };
        identity.set_slot(slot);
        slot
    }

    /// Where the slot's list has the keyspace.
    fn held_in(&mut self, me: SlotId, space: &Arc<Space>) -> usize {
        let held = &self.slots[me as usize].held;
        if let Some(at) = held.iter().rposition(|held| held.space.id == space.id) {
            return at;
        }
        let room = self.room_for(space.id);
        self.rooms[room as usize].users += 1;
        space.add_locker();
        let keys = self.spare.pop().unwrap_or_default();
        let held = &mut self.slots[me as usize].held;
        held.push(Held { space: Arc::clone(space), room, keys });
        held.len() - 1
    }

    fn room_for(&mut self, space: SpaceId) -> RoomId {
        if let Some(room) = self.room_of.get(&space) {
            return *room;
        }
        let room = match self.free_rooms.pop() {
            Some(free) => {
                self.rooms[free as usize].space = space;
                free
            }
            None => {
                self.rooms.push(Room::new(space));
                (self.rooms.len() - 1) as RoomId
            }
        };
        self.room_of.insert(space, room);
        room
    }

    fn holds_now(&mut self, me: SlotId, at: usize, key: Slice) {
        let slot = &mut self.slots[me as usize];
        slot.identity.account(1, point_bytes(&key) as isize);
        slot.held[at].keys.push(key);
        self.stats.held += 1;
    }

    pub(super) fn add_stretch(
        &mut self,
        me: SlotId,
        at: usize,
        interval: &Interval,
        mode: LockMode,
    ) {
        let slot = &self.slots[me as usize];
        let stretches = &mut self.rooms[slot.held[at].room as usize].stretches;
        let own = stretches.iter().position(|s| s.slot == me && s.mode == mode);
        let own = own.unwrap_or_else(|| {
            stretches.push(Stretch { slot: me, mode, is_untaken: false, spans: Spans::default() });
            stretches.len() - 1
        });
        let spans = &mut stretches[own].spans;
        let (count, bytes) = (spans.len() as isize, spans.bytes() as isize);
        spans.add(Span::of(interval));
        let more = spans.len() as isize - count;
        slot.identity.account(more, spans.bytes() as isize - bytes);
        self.stats.held = self.stats.held.wrapping_add_signed(more as i64);
    }

    /// Takes everything from an owner that was just wounded; what is too much for one hold of the mutex is
    /// left to the effects.
    fn strip(&mut self, at: SlotId, wound: Wound, effects: &mut Effects) {
        let slot = &mut self.slots[at as usize];
        slot.wound = Some(wound);
        self.end_request(at, effects, Effects::wake);
        if self.release_some(at, RELEASED_BY_WOUND, effects) {
            effects.stripped.push(Arc::clone(&self.slots[at as usize].identity));
        }
    }

    /// Takes the request of an owner that is not live any more out of its queue. A lock that it was
    /// handed stays, for the release.
    fn end_request(
        &mut self,
        at: SlotId,
        effects: &mut Effects,
        waker_goes: fn(&mut Effects, Option<Waker>),
    ) {
        self.dequeue(at);
        if let Some(request) = self.slots[at as usize].request.take() {
            self.promote_at(request.room, &request.wanted, effects);
            waker_goes(effects, request.waker);
        }
    }

    /// Takes locks of an owner that is not live any more out of the table; whether some are left.
    /// `forget`: the owner is over, and has its slot no longer once all are out.
    pub(super) fn release(
        &mut self,
        identity: &Identity,
        at_once: usize,
        forget: bool,
        effects: &mut Effects,
    ) -> bool {
        let me = identity.slot();
        // What a wounder left for later may have been done meanwhile by the owner, who has begun again.
        if me == NO_SLOT || !forget && identity.is_live() {
            return false;
        }
        if forget {
            self.end_request(me, effects, Effects::drop_later);
        }
        if self.release_some(me, at_once, effects) {
            return true;
        }
        if forget {
            let slot = &mut self.slots[me as usize];
            (slot.wound, slot.is_wanted) = (None, false);
            identity.set_slot(NO_SLOT);
            self.free_slots.push(me);
        }
        false
    }

    fn release_some(&mut self, me: SlotId, at_once: usize, effects: &mut Effects) -> bool {
        let mut left = at_once;
        while let Some(held) = self.slots[me as usize].held.last_mut() {
            let room = held.room;
            while let Some(key) = held_key(&mut self.slots, me) {
                self.release_key(me, room, key, effects);
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
            while let Some(at) =
                self.rooms[room as usize].stretches.iter().position(|s| s.slot == me)
            {
                let place = &mut self.rooms[room as usize];
                let Some((first, to)) = place.stretches[at].spans.pop() else {
                    place.stretches.swap_remove(at);
                    continue;
                };
                self.stats.held -= 1;
                if place.waiting > 0 {
                    let from = CutRef::Before(&first);
                    let span = Span { from, to: to.as_ref() };
                    self.promote_at(room, &Wanted::Range(span.to_interval()), effects);
                }
                left -= 1;
                if left == 0 {
                    return true;
                }
            }
            if let Some(held) = self.slots[me as usize].held.pop() {
                self.leave(held, effects);
            }
        }
        self.slots[me as usize].identity.account_nothing();
        false
    }

    fn release_key(&mut self, me: SlotId, room: RoomId, key: Slice, effects: &mut Effects) {
        self.stats.held -= 1;
        let place = &mut self.rooms[room as usize];
        let wanted = (place.waiting > 0).then(|| Wanted::Key(key.clone()));
        if let Entry::Occupied(mut point) = place.points.entry(key) {
            point.get_mut().clear(me);
            if point.get().is_idle() {
                point.remove();
            }
        }
        if let Some(wanted) = wanted {
            self.promote_at(room, &wanted, effects);
        }
    }

    pub(super) fn leave_if_idle(&mut self, me: SlotId, at: usize, effects: &mut Effects) {
        let slot = &mut self.slots[me as usize];
        let held = &slot.held[at];
        let stretches = &self.rooms[held.room as usize].stretches;
        if held.keys.is_empty() && !stretches.iter().any(|stretch| stretch.slot == me) {
            let held = slot.held.swap_remove(at);
            self.leave(held, effects);
        }
    }

    /// An owner's last lock in a keyspace is out.
    fn leave(&mut self, held: Held, effects: &mut Effects) {
        held.space.remove_locker();
        if Arc::strong_count(&held.space) == 1 {
            // The keyspace goes with it: not under the mutex.
            effects.spaces.push(held.space);
        }
        if self.spare.len() < SPARE_LISTS && (1..=SPARE_KEYS).contains(&held.keys.capacity()) {
            self.spare.push(held.keys);
        }
        let room = &mut self.rooms[held.room as usize];
        room.users -= 1;
        if room.users == 0 && self.room_of.len() > ROOMS_KEPT {
            self.room_of.remove(&room.space);
            self.free_rooms.push(held.room);
        }
    }
}

/// The last key that the slot holds in the last of its keyspaces, taken out of its list.
fn held_key(slots: &mut [Slot], me: SlotId) -> Option<Slice> {
    slots[me as usize].held.last_mut()?.keys.pop()
}

impl Table {
    pub(super) fn stats(&self) -> LockStats {
        self.stats
    }

    pub(super) fn stands_in_the_way(&self, own: Option<&Identity>, writes: &[SpaceWrites]) -> bool {
        let own = own.map_or(NO_SLOT, Identity::slot);
        let counts = |at: SlotId| at != own && self.slots[at as usize].identity.is_live();
        writes.iter().filter(|share| share.space.has_lockers()).any(|share| {
            let room = self.room_of.get(&share.space.id);
            room.is_some_and(|room| self.rooms[*room as usize].stands_in_the_way(share, counts))
        })
    }

    pub(super) fn holds(
        &self,
        identity: &Identity,
        space: SpaceId,
        key: &[u8],
    ) -> Option<LockMode> {
        let me = identity.slot();
        let room = &self.rooms[*self.room_of.get(&space)? as usize];
        let own = room.stretches.iter().filter(|s| s.slot == me && s.spans.holding(key).is_some());
        let point = room.points.get(key).and_then(|point| point.mode_of(me));
        own.map(|stretch| stretch.mode).chain(point).reduce(LockMode::join)
    }

    /// Wakes everybody who waits.
    pub(super) fn wake_all(&mut self, effects: &mut Effects) {
        for slot in &mut self.slots {
            if let Some(request) = &mut slot.request {
                effects.wake(request.waker.take());
            }
        }
    }

    pub(super) fn wound_of(&self, identity: &Identity) -> Option<Wound> {
        let me = identity.slot();
        (me != NO_SLOT).then(|| self.slots[me as usize].wound.clone())?
    }
}

#[cfg(all(test, not(loom)))]
impl Table {
    /// The head comment's promises, and the sums, looked at one by one.
    pub(super) fn check(&self) {
        let (mut held, mut waiting) = (0, 0);
        for (at, slot) in self.slots.iter().enumerate() {
            let me = at as SlotId;
            if self.free_slots.contains(&me) {
                assert!(slot.held.is_empty() && slot.request.is_none() && slot.wound.is_none());
                continue;
            }
            let (mut locks, mut bytes) = (0, 0);
            for place in &slot.held {
                let room = &self.rooms[place.room as usize];
                assert_eq!(room.space, place.space.id);
                for key in &place.keys {
                    assert!(room.points[key].mode_of(me).is_some(), "{key:?} of {slot:?}");
                    (locks, bytes) = (locks + 1, bytes + point_bytes(key));
                }
                let at_points = room.points.values().filter(|point| point.mode_of(me).is_some());
                assert_eq!(at_points.count(), place.keys.len(), "{slot:?} in {room:?}");
                let own: Vec<_> = room.stretches.iter().filter(|s| s.slot == me).collect();
                (locks, bytes) = own.iter().fold((locks, bytes), |(locks, bytes), stretch| {
                    (locks + stretch.spans.len(), bytes + stretch.spans.bytes())
                });
                let requests = slot.request.iter().filter(|r| r.room == place.room).count();
                assert!(!place.keys.is_empty() || !own.is_empty() || requests > 0, "{slot:?}");
            }
            assert_eq!(slot.identity.count(), locks, "{slot:?}");
            assert_eq!(slot.identity.bytes.load(std::sync::atomic::Ordering::Relaxed), bytes);
            held += locks;
            let Some(request) = &slot.request else { continue };
            assert_eq!(request.is_queued, request.granted.is_none(), "{slot:?}");
            waiting += usize::from(request.is_queued);
        }
        assert_eq!((self.stats.held, self.stats.waiting), (held as u64, waiting as u64));
        for room in &self.rooms {
            let mut queued = room.waiting_ranges.len();
            for (key, point) in &room.points {
                assert!(!point.is_idle(), "{key:?} in {room:?}");
                queued += point.waiting().len();
            }
            assert_eq!(room.waiting, queued, "{room:?}");
            let users = self.slots.iter().flat_map(|slot| &slot.held);
            let users = users.filter(|held| held.space.id == room.space).count();
            assert_eq!(room.users, users);
        }
    }
}
