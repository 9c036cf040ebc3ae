//! The lock table's state machine again, written for plainness: lists, and a look at all of them. What the
//! real one is compared with.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::locks::cut::Span;
use crate::locks::policy::{DeadlockPolicy, Victim};
use crate::locks::room::mode_of_write;
use crate::locks::{
    ACTIVE, Effects, Holder, Identity, LockMode, LockStats, LockStep, LockTarget, OVER, Refusal,
    WOUNDED, Wound,
};
use crate::read_set::{Interval, overlap};
use crate::space::{Space, SpaceId};
use crate::validate::SpaceWrites;

/// Every owner that holds or waits, or has lost its locks.
#[derive(Debug, Default)]
pub(super) struct PlainTable {
    owners: Vec<Owner>,
    stats: LockStats,
}

#[derive(Debug)]
struct Owner {
    identity: Arc<Identity>,
    locks: Vec<Lock>,
    request: Option<Request>,
    wound: Option<Wound>,
    /// An older owner waited for its commit, and would have its locks if the commit does not come
    /// about.
    is_wanted: bool,
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
        self.space.id == space
            && !self.mode.is_compatible_with(mode)
            && overlap(self.what.ends(), what.ends())
    }
}

/// Somebody in the way: which owner, and through what.
#[derive(Clone)]
struct Blocker {
    owner: usize,
    holder: Holder,
}

fn as_interval(what: LockTarget<'_>) -> (Interval, bool) {
    match what {
        LockTarget::Key(key) => (Interval::point(key), true),
        LockTarget::Range(interval) => (interval.clone(), false),
    }
}

fn covers(locks: &[Lock], space: SpaceId, what: &Interval, asked: LockMode) -> bool {
    locks.iter().any(|lock| {
        lock.space == space
            && lock.mode.covers(asked)
            && Span::of(&lock.what).contains(Span::of(what))
    })
}

impl PlainTable {
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
                is_wanted: false,
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
                    self.join_touching(me);
                    return LockStep::Granted;
                }
                let old = std::mem::replace(&mut request.waker, waker.cloned());
                effects.drop_later(old);
                return LockStep::Waiting;
            }
            // What it was handed and does not know of does not count.
            let known = self.owners[me].request.as_ref().and_then(|r| r.before.as_ref());
            if covers(known.unwrap_or(&self.owners[me].locks), space.id, &what, asked) {
                return LockStep::Granted;
            }
            self.cancel(identity.serial, false, effects);
        }
        if covers(&self.owners[me].locks, space.id, &what, asked) {
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
        let is_upgrade = here.clone().any(|lock| overlap(lock.what.ends(), what.ends()));
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
                if self.owners[me].request.as_ref().is_some_and(|r| r.before.is_none()) {
                    self.grant(me);
                }
                self.join_touching(me);
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
        if std::mem::take(&mut self.owners[me].is_wanted) {
            let mine = Arc::clone(&self.owners[me].identity);
            let older = (0..self.owners.len()).filter(|&at| {
                let identity = &self.owners[at].identity;
                identity.policy == DeadlockPolicy::WoundWait
                    && identity.is_older_than(&mine)
                    && self.blockers(at).iter().any(|blocker| blocker.owner == me)
            });
            let oldest = older.map(|at| self.owners[at].identity.rank()).min();
            if let Some((by, _)) = oldest
                && mine.exchange(ACTIVE, WOUNDED)
            {
                self.stats.wounds += 1;
                self.strip(me, Wound::Older { by }, effects);
            }
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
                            self.owners[at].is_wanted = true;
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

    /// A shortest circle of waiting through `me`: each link is in the way of the owner of the one before.
    fn circle(&self, me: usize) -> Option<Vec<Blocker>> {
        let mut paths: VecDeque<(usize, Vec<Blocker>)> = VecDeque::from([(me, Vec::new())]);
        let mut seen = Vec::new();
        while let Some((at, path)) = paths.pop_front() {
            // Youngest first.
            for blocker in self.blockers(at).into_iter().rev() {
                let owner = blocker.owner;
                let mut longer = path.clone();
                longer.push(blocker);
                if owner == me {
                    return Some(longer);
                }
                if !seen.contains(&owner) {
                    seen.push(owner);
                    paths.push_back((owner, longer));
                }
            }
        }
        None
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

    /// Puts the lock that `me` asks for among its locks.
    fn grant(&mut self, me: usize) {
        let owner = &mut self.owners[me];
        let Some(request) = &owner.request else { return };
        let (space, mode) = (request.space.id, request.mode);
        let lock = Lock { space, what: request.what.clone(), is_point: request.is_point, mode };
        if lock.is_point {
            owner
                .locks
                .retain(|held| !(held.is_point && held.space == space && held.what == lock.what));
        }
        owner.locks.push(lock);
    }

    /// Makes one of intervals of one mode that touch.
    fn join_touching(&mut self, me: usize) {
        let locks = &mut self.owners[me].locks;
        let pair = |locks: &[Lock]| {
            let pairs = (0..locks.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
            pairs.into_iter().find(|&(a, b)| {
                let (a, b) = (&locks[a], &locks[b]);
                !a.is_point
                    && !b.is_point
                    && (a.space, a.mode) == (b.space, b.mode)
                    && Span::of(&a.what).touches(Span::of(&b.what))
            })
        };
        while let Some((a, b)) = pair(locks) {
            let other = locks.swap_remove(a).what;
            let joined = Span::of(&other).hull(Span::of(&locks[b].what)).to_interval();
            locks[b].what = joined;
        }
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

    /// Takes out an owner that is over.
    pub(super) fn release(&mut self, serial: u64, effects: &mut Effects) {
        let Some(me) = self.find(serial) else { return };
        let owner = &mut self.owners[me];
        owner.locks.clear();
        if let Some(request) = owner.request.take() {
            effects.drop_later(request.waker);
        }
        self.leave_spaces(me);
        self.owners.swap_remove(me);
        self.promote(effects);
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
                let within = |range| overlap(lock.what.ends(), range);
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

    pub(super) fn count_of(&self, serial: u64) -> usize {
        self.find(serial).map_or(0, |at| self.owners[at].locks.len())
    }

    /// The table's promises, looked at one by one.
    pub(super) fn check(&self) {
        for (at, owner) in self.owners.iter().enumerate() {
            let blockers = self.blockers(at);
            let waits = owner.request.as_ref().is_some_and(|request| request.before.is_none());
            assert_eq!(waits, !blockers.is_empty(), "who waits waits for somebody: {owner:?}");
            assert!(self.circle(at).is_none(), "nobody waits in a circle: {owner:?}");
            let (live, rest) = (owner.identity.is_live(), &self.owners[at + 1..]);
            assert!(live || owner.locks.is_empty() && owner.request.is_none(), "{owner:?}");
            for lock in &owner.locks {
                for theirs in rest.iter().flat_map(|other| &other.locks) {
                    assert!(
                        lock.mode.is_compatible_with(theirs.mode)
                            || lock.space != theirs.space
                            || !overlap(lock.what.ends(), theirs.what.ends()),
                        "{lock:?} beside {theirs:?}"
                    );
                }
            }
        }
    }
}
