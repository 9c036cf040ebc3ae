//! Optimistic validation: the evidence that a commit is judged on, and the verdict.
//!
//! Outside the window a request is pre-validated up to a timestamp P: *visible*, loaded after the
//! reads were made. Inside it, [`decide`] checks what can have happened since: the heads of the keys
//! it read (or wrote, under first-committer-wins), and for its intervals the ring of recent write
//! sets, from P on. A request whose evidence has left the ring is sent back to pre-validate again; one
//! that was sent back three times insists, and the leader scans its intervals: everybody waits for
//! that once, but a long scan beside fast writers is not starved for ever.
//!
//! Sources: backward validation (Kung and Robinson), Silo's commit-time checks, HyPer's precision
//! locking over recent write sets.
//!
//! Invariants:
//! 1. [`decide`] is called by the window's leader alone. It does no I/O, allocates nothing, and
//!    calls no user code.
//! 2. Any foreign version newer than the read timestamp on a key that the level protects is a
//!    conflict, a tombstone or a touch included. A transaction that wrote nothing never comes here.
//! 3. The ring holds the write set of every commit in (floor, newest], but for shares whose memtable was
//!    frozen meanwhile: the request that needed them is stale, or was validated past them.
//! 4. Inside the window nothing but active memtables is looked at. What lies beneath them was judged
//!    outside; a freeze since makes the request stale, and it is sent back (protocol rules 12 to 14).

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, OnceLock};

use isolith_index::{Guard, KeyRange, Kind, Prepared, ReadError, Slice};
use isolith_wal::Lsn;

use crate::isolation::Isolation;
use crate::locks::{LockOwner, LockTable};
use crate::read_set::{Interval, SpaceReads, before_or_at, overlap};
use crate::space::{Space, SpaceId};
use crate::state::RequestState;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

/// Commits whose write sets are kept for validation of intervals.
const RECENT_COMMITS: usize = 4096;

/// Up to so many commits since the read timestamp, intervals are left to the ring alone: cheaper
/// than scanning the memtable.
const RING_ONLY_COMMITS: u64 = 64;

/// One keyspace's share of what a request installs.
#[derive(Debug)]
pub struct SpaceWrites {
    /// The keyspace.
    pub space: Arc<Space>,
    /// Nodes found and versions made, ready to be linked.
    pub prepared: Prepared,
    /// Whether the keys ascend, so that those of an interval are found without a look at all.
    ascending: bool,
}

impl SpaceWrites {
    /// A share to which nothing is added any more.
    pub fn new(space: Arc<Space>, prepared: Prepared) -> Self {
        let ascending = prepared.keys().is_sorted();
        Self { space, prepared, ascending }
    }

    /// Whether the memtable that it was prepared for was frozen since.
    fn is_stale(&self, guard: &Guard) -> bool {
        !Arc::ptr_eq(self.prepared.memtable(), self.space.view(guard).active())
    }

    /// The same writes, for the memtable that is active now.
    fn rebuilt(&self, guard: &Guard) -> Self {
        let prepared = self.prepared.rebuilt(self.space.view(guard).active());
        Self { space: Arc::clone(&self.space), prepared, ascending: self.ascending }
    }

    /// The first write whose key has something newer than `since` in the layers beneath the active
    /// memtable. A merge is no such write.
    fn changed_below(&self, since: Lsn, guard: &Guard) -> Result<Option<usize>, ReadError> {
        let view = self.space.view(guard);
        if view.below_max() <= since || isolith_wal::planted!("frozen-not-validated") {
            return Ok(None);
        }
        for (at, (key, kind)) in self.prepared.keys().zip(self.prepared.kinds()).enumerate() {
            if !matches!(kind, Kind::Merge { .. }) && view.newest_below(key, since, guard)? > since
            {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Whether there are merges among its writes.
    pub fn merges(&self) -> bool {
        self.prepared.kinds().any(|kind| matches!(kind, Kind::Merge { .. }))
    }

    /// Whether it writes within bounds.
    fn writes_within(&self, ends: KeyRange<'_>) -> bool {
        self.writes_key_within(ends) || self.prepared.ranges().any(|range| overlap(range, ends))
    }

    /// Whether it writes a key within bounds, range deletes left aside.
    pub(crate) fn writes_key_within(&self, ends: KeyRange<'_>) -> bool {
        let is_within = |key: &[u8]| RangeBounds::<[u8]>::contains(&ends, key);
        if !self.ascending {
            return self.prepared.keys().any(is_within);
        }
        let first = self.first_place(|key| before_or_at(ends.0, Bound::Included(key)));
        first < self.prepared.len() && is_within(self.prepared.key(first))
    }

    /// Where it writes a key, if it does and its keys ascend.
    pub(crate) fn place_of(&self, key: &[u8]) -> Option<usize> {
        let at = self.first_place(|written| written >= key);
        (at < self.prepared.len() && self.prepared.key(at) == key).then_some(at)
    }

    /// Whether its keys ascend.
    pub(crate) fn is_ascending(&self) -> bool {
        self.ascending
    }

    /// The first place whose key, and thus all after it, passes; for keys that ascend.
    fn first_place(&self, passes: impl Fn(&[u8]) -> bool) -> usize {
        let (mut from, mut to) = (0, self.prepared.len());
        while from < to {
            let middle = from + (to - from) / 2;
            if passes(self.prepared.key(middle)) {
                to = middle;
            } else {
                from = middle + 1;
            }
        }
        from
    }
}

/// A transaction that is ready to commit.
#[derive(Debug)]
pub struct Request {
    /// Where it stands, and whom to wake.
    pub state: RequestState,
    /// Its level.
    pub isolation: Isolation,
    /// The timestamp that it read at; `Lsn::ZERO` if it neither read nor needs first-committer-wins.
    pub read_timestamp: Lsn,
    /// What it changes. Shared with the ring and with pruning, which outlive the request: what it
    /// has read does not stay for them.
    pub writes: Arc<[SpaceWrites]>,
    /// What it depends on.
    pub reads: Vec<SpaceReads>,
    /// Its transaction's locks, if it has any. Set by the owner while the request is not queued.
    locks: OnceLock<Arc<LockOwner>>,
    /// Whether these locks cover all that it writes: then nobody else's can be in the way.
    covered: AtomicBool,
    /// Set once it was sent back so often that it is judged inside the window whatever it takes.
    insists: AtomicBool,
    /// P: intervals are validated up to here. Written by the owner while the request is not queued.
    validated_to: AtomicU64,
    refusal: Mutex<Option<Verdict>>,
}

/// What a conflict was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictKind {
    /// A key that the transaction read was changed since.
    Read,
    /// A key was changed, added or removed in an interval that the transaction examined.
    Range,
    /// A key that the transaction writes was written since it began (first committer wins).
    Write,
    /// A key was written in an interval that the transaction deletes (first committer wins).
    WriteRange,
}

/// Why a request was refused. Kept small and without owned bytes: it is made inside the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The kind of dependency that was broken.
    pub kind: ConflictKind,
    /// The keyspace.
    pub space: SpaceId,
    /// Which share of the request's reads or writes.
    pub share: usize,
    /// Which key or interval of it.
    pub item: usize,
    /// The commit that broke it, where it is known.
    pub other: Option<Lsn>,
}

/// The leader's judgement on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may commit.
    Commit,
    /// It may not: a dependency is broken.
    Conflict(Conflict),
    /// It may not: this keyspace was dropped.
    Dropped(SpaceId),
    /// It may not: an older transaction took its locks, or it was a deadlock's victim.
    Wounded,
    /// Not now: somebody's lock stands in the way. It has to lock what it writes first.
    Locked,
    /// Its evidence is too old to judge: validate again.
    SendBack,
}

impl Request {
    /// A request that was not yet pre-validated.
    pub fn new(
        isolation: Isolation,
        read_timestamp: Lsn,
        writes: impl Into<Arc<[SpaceWrites]>>,
        reads: Vec<SpaceReads>,
    ) -> Self {
        Self {
            state: RequestState::new(),
            isolation,
            read_timestamp,
            writes: writes.into(),
            reads,
            locks: OnceLock::new(),
            covered: AtomicBool::new(false),
            insists: AtomicBool::new(false),
            validated_to: AtomicU64::new(read_timestamp.bits()),
            refusal: Mutex::new(None),
        }
    }

    /// Whether a memtable that it was made for was frozen since: it has to be [`Request::rebuilt`].
    pub fn is_stale(&self, guard: &Guard) -> bool {
        self.writes.iter().any(|writes| writes.is_stale(guard))
            || self.reads.iter().any(|reads| reads.is_stale(guard))
    }

    /// The same request for the memtables that are active now. For the owner, while it is not queued.
    pub fn rebuilt(&self, guard: &Guard) -> Request {
        let writes: Vec<_> = self.writes.iter().map(|writes| writes.rebuilt(guard)).collect();
        let reads = self.reads.iter().map(|reads| reads.rebuilt(guard)).collect();
        let request = Request::new(self.isolation, self.read_timestamp, writes, reads);
        if let Some(locks) = self.locks() {
            request.set_locks(Arc::clone(locks));
        }
        // Relaxed, all: written by the owner, who is the caller.
        let covered = self.covered.load(Ordering::Relaxed);
        request.covered.store(covered, Ordering::Relaxed);
        request.insists.store(self.insists.load(Ordering::Relaxed), Ordering::Relaxed);
        request
    }

    /// Pre-validation, outside the window: everything up to `visible`, which the caller loaded after it
    /// found that the request is not stale. What lies beneath the active memtables is judged here alone:
    /// the window looks at nothing but them, and sends back what is stale. `attempt` counts how often the
    /// request was sent back.
    ///
    /// # Errors
    /// If a file cannot be read that may hold evidence.
    pub fn pre_validate(
        &self,
        visible: Lsn,
        attempt: u32,
        guard: &Guard,
    ) -> Result<Option<Conflict>, ReadError> {
        let since = self.read_timestamp;
        if let Some(conflict) = self.changed_below(guard)? {
            return Ok(Some(conflict));
        }
        if visible == since {
            return Ok(None);
        }
        if let Some(conflict) = self.changed_points() {
            return Ok(Some(conflict));
        }
        let near = visible.epoch() == since.epoch()
            && visible.counter() - since.counter() <= RING_ONLY_COMMITS;
        let mut spaces = self.intervals().map(|(_, space, ..)| space);
        // The ring has forgotten what was written to frozen memtables.
        let remembered = |space: &Arc<Space>| space.view(guard).below_max() <= since;
        if near
            && attempt == 0
            && (spaces.all(remembered) || isolith_wal::planted!("ring-trusted-past-a-freeze"))
        {
            return Ok(None);
        }
        for (share, space, item, kind, interval) in self.intervals() {
            if space.is_unwritten_since(since) {
                continue;
            }
            if let Some(other) = space.view(guard).newer_in(interval, since, guard)? {
                let space = space.id;
                return Ok(Some(Conflict { kind, space, share, item, other: Some(other) }));
            }
        }
        // Relaxed: the queue publishes it to the leader.
        self.validated_to.store(visible.bits(), Ordering::Relaxed);
        Ok(None)
    }

    /// A point that was changed, or under first-committer-wins a key to be written, as far as the layers
    /// beneath the active memtables tell.
    fn changed_below(&self, guard: &Guard) -> Result<Option<Conflict>, ReadError> {
        let since = self.read_timestamp;
        for (share, reads) in self.reads.iter().enumerate() {
            if let Some(item) = reads.changed_below(reads.since.unwrap_or(since), guard)? {
                let (kind, space) = (ConflictKind::Read, reads.space.id);
                return Ok(Some(Conflict { kind, space, share, item, other: None }));
            }
        }
        if self.isolation.first_committer_wins()
            && !isolith_wal::planted!("first-committer-does-not-win")
        {
            for (share, writes) in self.writes.iter().enumerate() {
                if let Some(item) = writes.changed_below(since, guard)? {
                    let (kind, space) = (ConflictKind::Write, writes.space.id);
                    return Ok(Some(Conflict { kind, space, share, item, other: None }));
                }
            }
        }
        Ok(None)
    }

    /// The locks of the transaction that it commits.
    pub fn locks(&self) -> Option<&Arc<LockOwner>> {
        self.locks.get()
    }

    /// Hands over the transaction's locks, once, while the request is not queued.
    pub fn set_locks(&self, locks: Arc<LockOwner>) {
        let _ = self.locks.set(locks);
    }

    /// Says that the locks cover all that it writes, exclusively. For the owner, while the request is
    /// not queued.
    pub fn cover(&self) {
        // Relaxed: the queue publishes it to the leader.
        self.covered.store(true, Ordering::Relaxed);
    }

    /// From now on the request is never sent back: where the ring does not reach, the leader scans
    /// its intervals inside the window. For the owner, before it queues the request again.
    pub fn insist(&self) {
        // Relaxed: the queue publishes it to the leader.
        self.insists.store(true, Ordering::Relaxed);
    }

    /// Reads and writes in it: the work that is in vain if it is refused.
    pub fn operations(&self) -> usize {
        let reads: usize = self.reads.iter().map(SpaceReads::operations).sum();
        reads + self.writes.iter().map(|writes| writes.prepared.len()).sum::<usize>()
    }

    /// Every interval that must not have changed: examined ones, and under first-committer-wins the
    /// own range deletes.
    fn intervals(
        &self,
    ) -> impl Iterator<Item = (usize, &Arc<Space>, usize, ConflictKind, KeyRange<'_>)> {
        let examined = self.reads.iter().enumerate().flat_map(|(share, reads)| {
            reads.intervals.iter().enumerate().map(move |(item, interval)| {
                (share, &reads.space, item, ConflictKind::Range, interval.ends())
            })
        });
        let deleted = self
            .writes
            .iter()
            .filter(|_| self.isolation.first_committer_wins())
            .filter(|_| !isolith_wal::planted!("range-delete-misses-put"))
            .enumerate()
            .flat_map(|(share, writes)| {
                writes.prepared.ranges().enumerate().map(move |(item, ends)| {
                    (share, &writes.space, item, ConflictKind::WriteRange, ends)
                })
            });
        examined.chain(deleted)
    }

    fn changed_points(&self) -> Option<Conflict> {
        let since = self.read_timestamp;
        for (share, reads) in self.reads.iter().enumerate() {
            if let Some(item) = reads.points.changed_since(reads.since.unwrap_or(since)) {
                let (kind, space) = (ConflictKind::Read, reads.space.id);
                return Some(Conflict { kind, space, share, item, other: None });
            }
        }
        if self.isolation.first_committer_wins()
            && !isolith_wal::planted!("first-committer-does-not-win")
        {
            for (share, writes) in self.writes.iter().enumerate() {
                if let Some(item) = writes.prepared.newest_above(since) {
                    let (kind, space) = (ConflictKind::Write, writes.space.id);
                    return Some(Conflict { kind, space, share, item, other: None });
                }
            }
        }
        None
    }

    /// Leaves the reason for a refusal to the owner.
    pub fn refuse(&self, verdict: Verdict) {
        *self.refusal.lock() = Some(verdict);
    }

    /// The reason for the refusal, taken once.
    pub fn take_refusal(&self) -> Option<Verdict> {
        self.refusal.lock().take()
    }

    /// The key that a conflict was about, for the error; `None` for an interval.
    pub fn conflict_key(&self, conflict: &Conflict) -> Option<Slice> {
        match conflict.kind {
            ConflictKind::Read => {
                Some(self.reads.get(conflict.share)?.points.key(conflict.item).into())
            }
            ConflictKind::Write => {
                Some(self.writes.get(conflict.share)?.prepared.keys().nth(conflict.item)?.into())
            }
            ConflictKind::Range | ConflictKind::WriteRange => None,
        }
    }

    /// The interval that a conflict was about, for the error.
    pub fn conflict_interval(&self, conflict: &Conflict) -> Option<Interval> {
        let reads = self.reads.get(conflict.share)?;
        (conflict.kind == ConflictKind::Range)
            .then(|| reads.intervals.get(conflict.item).cloned())?
    }
}

/// The write sets of the most recent commits, oldest first. Guarded by the window's leadership.
#[derive(Debug)]
pub struct Recent {
    entries: VecDeque<(Lsn, Arc<[SpaceWrites]>)>,
    /// Every commit at or below this has left the ring.
    floor: Lsn,
}

impl Recent {
    /// An empty ring for a database whose newest commit is `recovered`.
    pub fn new(recovered: Lsn) -> Self {
        Self { entries: VecDeque::with_capacity(RECENT_COMMITS), floor: recovered }
    }

    /// Adds a commit; gives back the one that leaves.
    pub fn push(&mut self, lsn: Lsn, writes: Arc<[SpaceWrites]>) -> Option<Arc<[SpaceWrites]>> {
        let mut left = None;
        if self.entries.len() == RECENT_COMMITS
            && let Some((lsn, writes)) = self.entries.pop_front()
        {
            self.floor = lsn;
            left = Some(writes);
        }
        self.entries.push_back((lsn, writes));
        left
    }

    /// Lets go of what nobody is judged by any more, and which would keep its memtable: what was written
    /// to keyspaces that were dropped since, and to memtables that were frozen (who is judged inside the
    /// window was validated outside of it up to a timestamp after the freeze, or is stale). `empty` stands
    /// in for it. What a commit under way still uses stays for now. The answer is for the caller to drop
    /// outside the window.
    pub fn forget(&mut self, empty: impl Fn() -> SpaceWrites, guard: &Guard) -> Vec<SpaceWrites> {
        let is_over = |share: &SpaceWrites| {
            !share.prepared.is_empty() && (share.space.is_dropped() || share.is_stale(guard))
        };
        let mut forgotten = Vec::new();
        for (_, writes) in &mut self.entries {
            if !writes.iter().any(is_over) {
                continue;
            }
            for share in Arc::get_mut(writes).into_iter().flatten() {
                if is_over(share) {
                    forgotten.push(std::mem::replace(share, empty()));
                }
            }
        }
        forgotten
    }

    /// Whether every commit after `since` is still here.
    fn covers(&self, since: Lsn) -> bool {
        since >= self.floor
    }

    fn writer_within(&self, since: Lsn, space: SpaceId, ends: KeyRange<'_>) -> Option<Lsn> {
        self.entries
            .iter()
            .rev()
            .take_while(|(lsn, _)| *lsn > since)
            .find(|(_, writes)| {
                writes.iter().any(|share| share.space.id == space && share.writes_within(ends))
            })
            .map(|(lsn, _)| *lsn)
    }
}

/// Judges a request inside the commit window, and takes its transaction out of reach of wounds if it
/// may commit.
pub fn decide(request: &Request, recent: &Recent, locks: &LockTable, guard: &Guard) -> Verdict {
    let own = request.locks.get().map(|own| &**own);
    if own.is_some_and(|own| !own.begin_commit() && !isolith_wal::planted!("wounded-commits")) {
        return Verdict::Wounded;
    }
    let verdict = judge(request, recent, locks, guard);
    if verdict != Verdict::Commit
        && let Some(own) = own
    {
        own.back_to_active();
    }
    verdict
}

/// Whether somebody else's lock stands in the way of what the request writes. The round is odd by
/// now: whoever locks from here on waits for its end before reading.
fn is_locked_out(request: &Request, locks: &LockTable) -> bool {
    // Relaxed: written by the owner before it queued the request.
    !request.covered.load(Ordering::Relaxed)
        && request.writes.iter().any(|writes| writes.space.has_lockers())
        && locks.stands_in_the_way(request.locks.get().map(|own| &**own), &request.writes)
}

fn judge(request: &Request, recent: &Recent, locks: &LockTable, guard: &Guard) -> Verdict {
    let read = request.reads.iter().map(|reads| &reads.space);
    let mut spaces = request.writes.iter().map(|writes| &writes.space).chain(read);
    if let Some(space) = spaces.find(|space| space.is_dropped())
        && !isolith_wal::planted!("dropped-keyspace-written")
    {
        return Verdict::Dropped(space.id);
    }
    // What it was prepared for has to be what is written to.
    if request.is_stale(guard) && !isolith_wal::planted!("frozen-memtable-written") {
        return Verdict::SendBack;
    }
    if let Some(conflict) = request.changed_points()
        && !isolith_wal::planted!("points-validated-outside-alone")
    {
        return Verdict::Conflict(conflict);
    }
    // Relaxed: written by the owner before it queued the request.
    let validated_to = Lsn::from_bits(request.validated_to.load(Ordering::Relaxed));
    for (share, space, item, kind, ends) in request.intervals() {
        if space.is_unwritten_since(validated_to) || isolith_wal::planted!("ring-not-consulted") {
            continue;
        }
        let writer = if recent.covers(validated_to) {
            recent.writer_within(validated_to, space.id, ends)
        // Relaxed: written by the owner before it queued the request.
        } else if request.insists.load(Ordering::Relaxed) {
            space.view(guard).active().newer_in(ends, validated_to, guard)
        } else {
            return Verdict::SendBack;
        };
        if let Some(other) = writer {
            let space = space.id;
            return Verdict::Conflict(Conflict { kind, space, share, item, other: Some(other) });
        }
    }
    let weak = request.isolation == Isolation::ReadCommitted;
    if is_locked_out(request, locks) && !(weak && isolith_wal::planted!("weak-writer-passes-locks"))
    {
        return Verdict::Locked;
    }
    Verdict::Commit
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::read_set::ReadSet;
    use isolith_index::{Beneath, Kind, Memtable, Value, pin};

    struct World {
        space: Arc<Space>,
        recent: Recent,
        next: Lsn,
    }

    impl World {
        fn new() -> Self {
            let space = Arc::new(Space::new(1, Arc::new(Memtable::new(7))));
            Self { space, recent: Recent::new(Lsn::ZERO), next: Lsn::new(0, 1) }
        }

        fn put(&mut self, key: &str) {
            self.put_all(&[key]);
        }

        fn put_all(&mut self, keys: &[&str]) {
            let mut prepared = self.space.prepare(keys.len());
            for key in keys {
                prepared.add(key.as_bytes(), Kind::Put, Value::new(b"v"), 0);
            }
            let writes = [SpaceWrites::new(Arc::clone(&self.space), prepared)];
            let lsn = self.next;
            self.next = lsn.next();
            self.space.note_write(lsn);
            writes[0].prepared.install(lsn);
            self.recent.push(lsn, Arc::from(writes));
        }

        fn visible(&self) -> Lsn {
            Lsn::new(0, self.next.counter() - 1)
        }

        fn scan(&self, lower: &str, upper: &str) -> Request {
            let mut reads = ReadSet::default();
            let lower = Bound::Included(lower.as_bytes().into());
            let upper = Bound::Excluded(upper.as_bytes().into());
            reads.interval(&self.space, Interval { lower, upper });
            Request::new(Isolation::Serializable, self.visible(), [], reads.into_spaces())
        }

        fn decide(&self, request: &Request) -> Verdict {
            decide(request, &self.recent, &LockTable::new(), &pin())
        }
    }

    #[test]
    fn intervals_are_judged_by_the_ring_alone_while_it_reaches_back() {
        let mut world = World::new();
        world.put("z");
        let (clean, broken) = (world.scan("a", "c"), world.scan("a", "d"));
        world.put("c");
        for request in [&clean, &broken] {
            let validated = request.pre_validate(world.visible(), 0, &pin()).expect("no files");
            assert_eq!(validated, None, "left to the ring");
        }
        assert_eq!(world.decide(&clean), Verdict::Commit);
        let Verdict::Conflict(conflict) = world.decide(&broken) else { panic!("a phantom passed") };
        assert_eq!((conflict.kind, conflict.other), (ConflictKind::Range, Some(world.visible())));
    }

    #[test]
    fn a_request_is_sent_back_when_its_evidence_has_left_and_judged_once_it_insists() {
        for (key, conflict) in [("z", false), ("b", true)] {
            let mut world = World::new();
            world.put("z");
            let request = world.scan("a", "c");
            let validated = request.pre_validate(world.visible(), 0, &pin()).expect("no files");
            assert_eq!(validated, None, "nothing has changed");
            world.put(key);
            for _ in 0..RECENT_COMMITS {
                world.put("y");
            }
            assert_eq!(world.decide(&request), Verdict::SendBack);
            request.insist();
            assert_eq!(matches!(world.decide(&request), Verdict::Conflict(_)), conflict);
            let validated = request.pre_validate(world.visible(), 1, &pin()).expect("no files");
            assert_eq!(validated.is_some(), conflict, "outside the window it is seen, too");
        }
    }

    #[test]
    fn a_commit_of_many_keys_is_found_in_an_interval_exactly_if_it_writes_there() {
        for keys in [&["b", "d", "f", "h"][..], &["h", "b", "f", "d"]] {
            let mut world = World::new();
            world.put("z");
            let since = world.visible();
            world.put_all(keys);
            let table = [("a", "b", false), ("a", "c", true), ("c", "d", false), ("d", "e", true)];
            for (lower, upper, writes) in
                table.into_iter().chain([("g", "i", true), ("i", "z", false)])
            {
                let ends = (Bound::Included(lower.as_bytes()), Bound::Excluded(upper.as_bytes()));
                let found = world.recent.writer_within(since, 1, ends);
                assert_eq!(found.is_some(), writes, "{keys:?} in [{lower}, {upper})");
            }
            let open = (Bound::Excluded(&b"h"[..]), Bound::Unbounded);
            assert_eq!(world.recent.writer_within(since, 1, open), None, "{keys:?} above h");
        }
    }

    #[test]
    fn what_was_written_to_a_dropped_keyspace_leaves_the_ring() {
        let mut world = World::new();
        let other = World::new();
        world.put("a");
        world.put("b");
        let held = Arc::clone(&world.recent.entries[1].1);
        let memtable = other.space.active();
        let empty = || SpaceWrites::new(Arc::clone(&other.space), memtable.prepare(0));
        assert!(world.recent.forget(empty, &pin()).is_empty(), "it lives");
        world.space.drop_at(world.next);
        assert_eq!(world.recent.forget(empty, &pin()).len(), 1, "the other is in use");
        drop(held);
        assert_eq!(world.recent.forget(empty, &pin()).len(), 1);
    }

    #[test]
    fn a_keyspace_that_nobody_wrote_to_needs_no_evidence() {
        let mut world = World::new();
        let quiet = World::new();
        world.put("z");
        let mut request = world.scan("a", "c");
        request.reads = quiet.scan("a", "c").reads;
        for _ in 0..=RECENT_COMMITS {
            world.put("b");
        }
        assert_eq!(world.decide(&request), Verdict::Commit);
    }

    #[test]
    fn what_was_prepared_for_a_frozen_memtable_is_sent_back_and_judged_by_what_it_is_now() {
        for (key, conflict) in [("z", false), ("b", true)] {
            let mut world = World::new();
            world.put("z");
            let mut reads = ReadSet::default();
            reads.point(&world.space, b"b");
            let reads = reads.into_spaces();
            let mut prepared = world.space.prepare(1);
            prepared.add(b"a", Kind::Put, Value::new(b"v"), 0);
            let writes = [SpaceWrites::new(Arc::clone(&world.space), prepared)];
            let since = world.visible();
            let request = Request::new(Isolation::Serializable, since, writes, reads);
            let guard = pin();
            assert_eq!(request.pre_validate(since, 0, &guard).expect("no files"), None);
            world.put(key);
            let fresh = Arc::new(Memtable::above(Beneath::Values, 8));
            world.space.freeze(fresh, world.visible(), &guard);
            let memtable = world.space.active();
            let empty = || SpaceWrites::new(Arc::clone(&world.space), memtable.prepare(0));
            assert_eq!(world.recent.forget(empty, &guard).len(), 2);
            assert_eq!(world.decide(&request), Verdict::SendBack);
            let request = request.rebuilt(&guard);
            let validated = request.pre_validate(world.visible(), 1, &guard).expect("no files");
            assert_eq!(validated.is_some(), conflict, "{key}");
            if !conflict {
                assert_eq!(world.decide(&request), Verdict::Commit);
            }
        }
    }

    #[test]
    fn a_phantom_in_a_frozen_memtable_is_found_though_the_ring_has_forgotten_it() {
        for (key, conflict) in [("z", false), ("b", true)] {
            let mut world = World::new();
            world.put("z");
            let request = world.scan("a", "c");
            world.put(key);
            let guard = pin();
            let fresh = Arc::new(Memtable::above(Beneath::Values, 8));
            world.space.freeze(fresh, world.visible(), &guard);
            let memtable = world.space.active();
            let empty = || SpaceWrites::new(Arc::clone(&world.space), memtable.prepare(0));
            drop(world.recent.forget(empty, &guard));
            let request = request.rebuilt(&guard);
            let validated = request.pre_validate(world.visible(), 0, &guard).expect("no files");
            assert_eq!(validated.is_some(), conflict, "{key}");
        }
    }
}
