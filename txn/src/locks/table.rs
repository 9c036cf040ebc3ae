//! The lock table's state machine, written for plainness: lists, and a look at all of them.

use std::sync::Arc;
use std::task::Waker;

use isolith_index::{KeyRange, Prepared};

use super::cut::Span;
use super::policy::{DeadlockPolicy, Victim};
use super::{
    ACTIVE, Effects, Holder, Identity, LockMode, LockStats, LockStep, LockTarget, OVER, Refusal,
    WOUNDED, Wound,
};
use crate::read_set::Interval;
use crate::space::{Space, SpaceId};
use crate::validate::SpaceWrites;

/// Every owner that holds or waits, or has lost its locks.
#[derive(Debug, Default)]
pub(super) struct Table {
    owners: Vec<Owner>,
    stats: LockStats,
}

#[derive(Debug)]
struct Owner {
    identity: Arc<Identity>,
    locks: Vec<Lock>,
    request: Option<Request>,
    wound: Option<Wound>,
    /// An older owner that waits for this one's commit, and would have its locks if the commit does
    /// not come about.
    wanted_by: Option<u64>,
    /// Keyspaces whose locker count it has raised.
    spaces: Vec<Arc<Space>>,
}

#[derive(Clone, Debug)]
struct Lock {
    space: SpaceId,
    what: Interval,
    is_point: bool,
    mode: LockMode,
}

#[derive(Debug)]
struct Request {
    space: Arc<Space>,
    what: Interval,
    is_point: bool,
    /// The mode asked for.
    asked: LockMode,
    /// The mode that it comes to together with what is held.
    mode: LockMode,
    is_upgrade: bool,
    /// Granted, and its owner does not know yet: the locks it held before.
    before: Option<Vec<Lock>>,
    waker: Option<Waker>,
}

impl Request {
    fn is(&self, space: SpaceId, what: &Interval, is_point: bool, asked: LockMode) -> bool {
        (self.space.id, &self.what, self.is_point, self.asked) == (space, what, is_point, asked)
    }

    fn conflicts(&self, space: SpaceId, what: &Interval, mode: LockMode) -> bool {
        self.space.id == space && !self.mode.is_compatible_with(mode) && overlap(&self.what, what)
    }
}

/// Somebody in the way: which owner, and through what.
struct Blocker {
    owner: usize,
    holder: Holder,
}

fn overlap(a: &Interval, b: &Interval) -> bool {
    a.overlaps(b.lower_ref(), b.upper_ref())
}

fn as_interval(what: LockTarget<'_>) -> (Interval, bool) {
    match what {
        LockTarget::Key(key) => (Interval::point(key), true),
        LockTarget::Range(interval) => (interval.clone(), false),
    }
}

/// The modes that locks a write needs: of each key, by its place.
fn mode_of_write(_writes: &Prepared, _at: usize) -> LockMode {
    LockMode::Exclusive
}

impl Table {
    pub(super) fn stats(&self) -> LockStats {
        let waiting = |owner: &&Owner| owner.request.as_ref().is_some_and(|r| r.before.is_none());
        LockStats {
            held: self.owners.iter().map(|owner| owner.locks.len() as u64).sum(),
            waiting: self.owners.iter().filter(waiting).count() as u64,
            ..self.stats
        }
    }

    fn find(&self, serial: u64) -> Option<usize> {
        self.owners.iter().position(|owner| owner.identity.serial == serial)
    }

    fn enter(&mut self, identity: &Arc<Identity>) -> usize {
        self.find(identity.serial).unwrap_or_else(|| {
            self.owners.push(Owner {
                identity: Arc::clone(identity),
                locks: Vec::new(),
                request: None,
                wound: None,
                wanted_by: None,
                spaces: Vec::new(),
            });
            self.owners.len() - 1
        })
    }

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
        let (what, is_point) = as_interval(what);
        if what.is_empty() {
            return LockStep::Granted;
        }
        let me = self.enter(identity);
        if let Some(refusal) = self.lost(me, effects) {
            return LockStep::Refused(refusal);
        }
        if let Some(request) = &mut self.owners[me].request {
            if request.is(space.id, &what, is_point, asked) {
                if request.before.is_some() {
                    self.owners[me].request = None;
                    return LockStep::Granted;
                }
                let old = std::mem::replace(&mut request.waker, waker.cloned());
                effects.drop_later(old);
                return LockStep::Waiting;
            }
            self.cancel(identity.serial, false, effects);
        }
        if self.covers(me, space.id, &what, asked) {
            return LockStep::Granted;
        }
        let owner = &mut self.owners[me];
        if !owner.spaces.iter().any(|known| known.id == space.id) {
            space.add_locker();
            owner.spaces.push(Arc::clone(space));
        }
        let here = owner.locks.iter().filter(|lock| lock.space == space.id);
        let same = |lock: &&Lock| is_point && lock.is_point && lock.what == what;
        let mode = here.clone().find(same).map_or(asked, |lock| lock.mode.join(asked));
        let is_upgrade = here.clone().any(|lock| overlap(&lock.what, &what));
        owner.request = Some(Request {
            space: Arc::clone(space),
            what,
            is_point,
            asked,
            mode,
            is_upgrade,
            before: None,
            waker: None,
        });
        let step = self.decide(me, effects);
        let me = self.find(identity.serial).expect("who asks is not forgotten");
        match &step {
            LockStep::Granted => {
                self.grant(me);
                let request = self.owners[me].request.take();
                effects.drop_later(request.and_then(|request| request.waker));
            }
            LockStep::Waiting => {
                self.stats.waits += 1;
                if let Some(request) = &mut self.owners[me].request {
                    request.waker = waker.cloned();
                }
            }
            LockStep::Refused(_) => self.withdraw(me, effects),
        }
        step
    }

    /// Whether the owner has lost its locks, or loses them now because an older one waited for a commit
    /// that did not come about.
    fn lost(&mut self, me: usize, effects: &mut Effects) -> Option<Refusal> {
        if let Some(serial) = self.owners[me].wanted_by.take()
            && let Some(older) = self.find(serial)
            && self.owners[older].request.as_ref().is_some_and(|r| r.before.is_none())
            && self.blockers(older).iter().any(|blocker| blocker.owner == me)
            && self.owners[me].identity.exchange(ACTIVE, WOUNDED)
        {
            let by = self.owners[older].identity.age;
            self.stats.wounds += 1;
            self.strip(me, Wound::Older { by }, effects);
        }
        let owner = &self.owners[me];
        (owner.identity.state() == WOUNDED).then(|| match owner.wound.clone() {
            Some(wound) => wound.into(),
            None => Refusal::Wounded { by: owner.identity.age },
        })
    }

    /// What is to become of the request that `me` has just made.
    fn decide(&mut self, me: usize, effects: &mut Effects) -> LockStep {
        let identity = Arc::clone(&self.owners[me].identity);
        loop {
            let blockers = self.blockers(me);
            if blockers.is_empty() {
                return LockStep::Granted;
            }
            let holders = |blockers: Vec<Blocker>| blockers.into_iter().map(|b| b.holder).collect();
            match identity.policy {
                DeadlockPolicy::WoundWait => {
                    let mut any = false;
                    for at in blockers.iter().map(|blocker| blocker.owner) {
                        let other = Arc::clone(&self.owners[at].identity);
                        if !identity.is_older_than(&other) {
                            continue;
                        }
                        if other.exchange(ACTIVE, WOUNDED) {
                            self.stats.wounds += 1;
                            self.strip(at, Wound::Older { by: identity.age }, effects);
                            any = true;
                        } else if other.is_live() {
                            self.want(at, me);
                        }
                    }
                    if any {
                        continue;
                    }
                }
                DeadlockPolicy::WaitDie => {
                    let older =
                        |b: &Blocker| self.owners[b.owner].identity.is_older_than(&identity);
                    if blockers.iter().any(older) {
                        self.stats.refusals += 1;
                        return LockStep::Refused(Refusal::Refused { holders: holders(blockers) });
                    }
                }
                DeadlockPolicy::NoWait => {
                    self.stats.refusals += 1;
                    return LockStep::Refused(Refusal::Refused { holders: holders(blockers) });
                }
                DeadlockPolicy::Detect(_) => {}
            }
            let Some(circle) = self.circle(me) else { return LockStep::Waiting };
            self.stats.deadlocks += 1;
            let victim = self.victim(&circle, identity.policy);
            let cycle = circle.into_iter().map(|link| link.holder).collect();
            match victim {
                Some(at) if at != me => {
                    if self.owners[at].identity.exchange(ACTIVE, WOUNDED) {
                        self.strip(at, Wound::Deadlock { cycle }, effects);
                    }
                }
                _ => return LockStep::Refused(Refusal::Deadlock { cycle }),
            }
        }
    }

    fn want(&mut self, at: usize, me: usize) {
        let older = self.owners[at].wanted_by.and_then(|serial| self.find(serial));
        let mine = self.owners[me].identity.rank();
        if older.is_none_or(|older| mine < self.owners[older].identity.rank()) {
            self.owners[at].wanted_by = Some(self.owners[me].identity.serial);
        }
    }

    fn victim(&self, circle: &[Blocker], policy: DeadlockPolicy) -> Option<usize> {
        let active =
            circle.iter().map(|l| l.owner).filter(|&at| self.owners[at].identity.state() == ACTIVE);
        let rank = |at: &usize| self.owners[*at].identity.rank();
        match policy {
            DeadlockPolicy::Detect(Victim::FewestLocks) => {
                active.min_by_key(|at| (self.owners[*at].locks.len(), std::cmp::Reverse(rank(at))))
            }
            _ => active.max_by_key(rank),
        }
    }

    /// A circle of waiting through `me`: each link is in the way of the owner of the one before.
    fn circle(&self, me: usize) -> Option<Vec<Blocker>> {
        fn walk(
            table: &Table,
            me: usize,
            at: usize,
            seen: &mut Vec<usize>,
        ) -> Option<Vec<Blocker>> {
            for blocker in table.blockers(at) {
                if blocker.owner == me {
                    return Some(vec![blocker]);
                }
                if !seen.contains(&blocker.owner) {
                    seen.push(blocker.owner);
                    if let Some(mut rest) = walk(table, me, blocker.owner, seen) {
                        rest.insert(0, blocker);
                        return Some(rest);
                    }
                }
            }
            None
        }
        walk(self, me, me, &mut Vec::new())
    }

    /// Who stands in the way of the request of `me`, oldest first; none if it does not wait.
    fn blockers(&self, me: usize) -> Vec<Blocker> {
        let mine = &self.owners[me];
        let Some(request) = mine.request.as_ref().filter(|request| request.before.is_none()) else {
            return Vec::new();
        };
        let order = |owner: &Owner, request: &Request| (!request.is_upgrade, owner.identity.rank());
        let mut blockers = Vec::new();
        for (at, other) in self.owners.iter().enumerate() {
            if at == me || !other.identity.is_live() {
                continue;
            }
            let space = request.space.id;
            let held = other
                .locks
                .iter()
                .find(|lock| lock.space == space && request.conflicts(space, &lock.what, lock.mode))
                .map(|lock| (lock.mode, lock.what.clone()));
            let asked = other.request.as_ref().filter(|theirs| {
                theirs.before.is_none()
                    && theirs.conflicts(space, &request.what, request.mode)
                    && order(other, theirs) < order(mine, request)
                    && !mine.locks.iter().any(|l| theirs.conflicts(l.space, &l.what, l.mode))
            });
            if let Some((mode, what)) = held.or(asked.map(|r| (r.mode, r.what.clone()))) {
                let holder = Holder { age: other.identity.age, mode, space, what };
                blockers.push(Blocker { owner: at, holder });
            }
        }
        blockers.sort_by_key(|blocker| self.owners[blocker.owner].identity.rank());
        blockers
    }

    fn covers(&self, me: usize, space: SpaceId, what: &Interval, asked: LockMode) -> bool {
        self.owners[me].locks.iter().any(|lock| {
            lock.space == space
                && lock.mode.covers(asked)
                && Span::of(&lock.what).contains(Span::of(what))
        })
    }

    /// Puts the lock that `me` asks for among its locks.
    fn grant(&mut self, me: usize) {
        let owner = &mut self.owners[me];
        let Some(request) = &owner.request else { return };
        let (space, mode) = (request.space.id, request.mode);
        let mut lock = Lock { space, what: request.what.clone(), is_point: request.is_point, mode };
        if lock.is_point {
            owner
                .locks
                .retain(|held| !(held.is_point && held.space == space && held.what == lock.what));
        } else {
            while let Some(at) = owner.locks.iter().position(|held| {
                !held.is_point
                    && held.space == space
                    && held.mode == mode
                    && Span::of(&held.what).touches(Span::of(&lock.what))
            }) {
                let held = owner.locks.swap_remove(at).what;
                lock.what = Span::of(&held).hull(Span::of(&lock.what)).to_interval();
            }
        }
        owner.locks.push(lock);
    }

    /// Grants every request that nothing stands in the way of any more, first in the queue first.
    fn promote(&mut self, effects: &mut Effects) {
        let mut waiting: Vec<_> = (0..self.owners.len())
            .filter(|&at| self.owners[at].request.as_ref().is_some_and(|r| r.before.is_none()))
            .collect();
        waiting.sort_by_key(|&at| {
            let owner = &self.owners[at];
            (owner.request.as_ref().is_some_and(|r| !r.is_upgrade), owner.identity.rank())
        });
        for at in waiting {
            if self.blockers(at).is_empty() {
                let before = self.owners[at].locks.clone();
                self.grant(at);
                if let Some(request) = &mut self.owners[at].request {
                    request.before = Some(before);
                    effects.wake(request.waker.take());
                }
            }
        }
    }

    /// Takes the request of `me` out of the queue.
    fn withdraw(&mut self, me: usize, effects: &mut Effects) {
        if let Some(request) = self.owners[me].request.take() {
            if let Some(before) = request.before {
                self.owners[me].locks = before;
            }
            effects.drop_later(request.waker);
        }
        self.leave_spaces(me);
        self.promote(effects);
    }

    fn leave_spaces(&mut self, me: usize) {
        let owner = &mut self.owners[me];
        let (locks, request) = (&owner.locks, &owner.request);
        owner.spaces.retain(|space| {
            let stays = locks.iter().any(|lock| lock.space == space.id)
                || request.as_ref().is_some_and(|request| request.space.id == space.id);
            if !stays {
                space.remove_locker();
            }
            stays
        });
    }

    /// Takes everything from an owner that was made Wounded.
    fn strip(&mut self, at: usize, wound: Wound, effects: &mut Effects) {
        let owner = &mut self.owners[at];
        owner.wound = Some(wound);
        owner.locks.clear();
        if let Some(request) = owner.request.take() {
            effects.wake(request.waker);
        }
        self.leave_spaces(at);
        self.promote(effects);
    }

    pub(super) fn cancel(
        &mut self,
        serial: u64,
        timed_out: bool,
        effects: &mut Effects,
    ) -> Vec<Holder> {
        let Some(me) = self.find(serial) else { return Vec::new() };
        let holders = self.blockers(me).into_iter().map(|blocker| blocker.holder).collect();
        if timed_out && self.owners[me].request.is_some() {
            self.stats.timeouts += 1;
        }
        self.withdraw(me, effects);
        holders
    }

    /// Takes the locks of an owner out; whether some are left. `forget`: the owner is over.
    pub(super) fn release(
        &mut self,
        serial: u64,
        _at_once: usize,
        forget: bool,
        effects: &mut Effects,
    ) -> bool {
        let Some(me) = self.find(serial) else { return false };
        let owner = &mut self.owners[me];
        owner.locks.clear();
        if let Some(request) = owner.request.take() {
            effects.drop_later(request.waker);
        }
        self.leave_spaces(me);
        if forget {
            self.owners.swap_remove(me);
        }
        self.promote(effects);
        false
    }

    pub(super) fn stands_in_the_way(&self, own: Option<u64>, writes: &[SpaceWrites]) -> bool {
        let others = self
            .owners
            .iter()
            .filter(|owner| Some(owner.identity.serial) != own && owner.identity.is_live());
        others.flat_map(|owner| &owner.locks).any(|lock| {
            writes.iter().filter(|share| share.space.id == lock.space).any(|share| {
                let prepared = &share.prepared;
                let key = (0..prepared.len()).any(|at| {
                    !mode_of_write(prepared, at).is_compatible_with(lock.mode)
                        && lock.what.contains(prepared.key(at))
                });
                let within = |(lower, upper): KeyRange<'_>| lock.what.overlaps(lower, upper);
                key || prepared.ranges().any(within)
            })
        })
    }

    pub(super) fn holds(&self, serial: u64, space: SpaceId, key: &[u8]) -> Option<LockMode> {
        let owner = &self.owners[self.find(serial)?];
        let here = owner.locks.iter().filter(|l| l.space == space && l.what.contains(key));
        here.map(|lock| lock.mode).reduce(LockMode::join)
    }

    pub(super) fn wound_of(&self, serial: u64) -> Option<Wound> {
        self.owners[self.find(serial)?].wound.clone()
    }

    pub(super) fn bytes_of(&self, serial: u64) -> usize {
        let Some(at) = self.find(serial) else { return 0 };
        self.owners[at].locks.iter().map(|l| size_of::<Lock>() + l.what.bytes()).sum()
    }

    pub(super) fn count_of(&self, serial: u64) -> usize {
        self.find(serial).map_or(0, |at| self.owners[at].locks.len())
    }
}
