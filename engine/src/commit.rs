//! The commit pipeline: who decides, in which order, and how the order becomes visible.
//!
//! Invariants (numbered in `docs/concurrency.md`, from which the whole protocol is told):
//! 1. Commits are decided one at a time by whoever holds the window: the order of decisions is the
//!    order of LSNs, of the log, and of visibility.
//! 2. Inside the window there is no I/O, no allocation, no waiting and no user code. Records are
//!    encoded, nodes found, versions made and log credits taken before it; sleepers are woken,
//!    garbage is dropped and chains are pruned after it.
//! 3. For each commit, in this order: verdict, LSN, record into the log's queue, write set into the
//!    ring, versions linked, *visible*, *weak* (`Buffered`), outcome. So *visible* never passes a
//!    commit whose versions are not all linked, and nobody is told of a commit that is not visible.
//! 4. A refused request takes no LSN.
//! 5. A round is announced before the first look at foreign locks and is over after the last commit of
//!    it is visible: whoever gets a lock meanwhile waits for its end before reading (rules 8, 13).
//!
//! **Combining** (flat combining: Hendler, Incze, Shavit and Tzafrir): a committer that finds the
//! window free, or free soon, leads; others queue their request and wait for the leader's word. No wake-up is lost:
//! a committer queues, fences, then tries the window; a leader releases the window, fences, then
//! looks at the queue. One of the two sees the other.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use isolith_index::{Beneath, Guard, LevelSet, Memtable, pin};
use isolith_txn::{
    CommitRound, LockTable, Outcome, Recent, Request, Space, SpaceWrites, Verdict, Watermarks,
    decide,
};
use isolith_wal::{Credit, Durability, Log, Lsn, Record};
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::core::Core;
use crate::error::Result;
use crate::options::CommitMode;

/// Requests that can be queued at once; more wait before the queue.
const QUEUE_REQUESTS: usize = 1024;
/// Decisions in one round at most, so that the leader's own commit is not kept waiting.
const ROUND_REQUESTS: usize = 16;
/// Looks at the outcome before a waiting committer goes to sleep.
const SPINS: u32 = 2000;
/// Looks at the window before a committer queues: about as long as a decision or two. Led by another, a
/// commit moves from one core's cache to the other's and back, which costs more than to wait so long.
const TRIES: u32 = 200;

/// A request with what the log gets of it.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) request: Request,
    pub(crate) durability: Durability,
    /// The record and the room reserved for it; none where there is no log. Taken by the leader.
    record: Mutex<Option<(Record, Credit)>>,
    /// The keyspace that this commit drops.
    drops: Option<Arc<Space>>,
}

impl Commit {
    pub(crate) fn new(
        request: Request,
        durability: Durability,
        record: Option<(Record, Credit)>,
        drops: Option<Arc<Space>>,
    ) -> Arc<Self> {
        Arc::new(Self { request, durability, record: Mutex::new(record), drops })
    }

    /// The same commit for the memtables that are active now; the room in the log goes with it. For the
    /// owner, while the request is not queued.
    pub(crate) fn rebuilt(&self, guard: &Guard) -> Arc<Self> {
        let record = self.record.lock().take();
        Self::new(self.request.rebuilt(guard), self.durability, record, self.drops.clone())
    }

    /// Gives the room in the log back, for as long as a lock is waited for; the record stays with
    /// the caller. For the owner, while the request is not queued.
    pub(crate) fn give_back_room(&self) -> Option<Record> {
        self.record.lock().take().map(|(record, _)| record)
    }

    /// Takes room in the log again, for the record that was kept, and takes the record with it. If
    /// there is none, the record stays.
    pub(crate) fn reserve_again(&self, core: &Core, record: &mut Option<Record>) -> Result<()> {
        if let Some(bytes) = record.as_ref().map(Record::len) {
            let credit = core.room(bytes, Some(core.stall_timeout()))?;
            *self.record.lock() = record.take().zip(credit);
        }
        Ok(())
    }
}

/// What a decision leaves to be done when the window is free again: its owner to be woken, memory to
/// be freed.
#[derive(Debug)]
struct Decided {
    commit: Arc<Commit>,
    owner_sleeps: bool,
    /// What left the ring for it.
    _left: Option<Arc<[SpaceWrites]>>,
}

/// What became of files that were to be committed.
#[derive(Debug)]
pub(crate) enum Ingest {
    /// They are there; with the memtable that was active before.
    Done(Lsn, Arc<Memtable>),
    /// The database is closed.
    Closed,
    /// The keyspace is dropped.
    Dropped,
    /// Somebody wrote to the keyspace meanwhile: it has to be flushed.
    Written,
    /// Somebody holds a lock in the keyspace.
    Locked,
}

/// What the window's leader owns.
#[derive(Debug)]
struct Window {
    next: Lsn,
    recent: Recent,
    closed: bool,
}

/// The pipeline of one database.
#[derive(Debug)]
pub(crate) struct Pipeline {
    mode: CommitMode,
    queue: ArrayQueue<Arc<Commit>>,
    window: Mutex<Window>,
    round: CommitRound,
    locks: Arc<LockTable>,
    marks: Arc<Watermarks>,
    log: Option<Arc<Log>>,
    commits: AtomicU64,
    refusals: AtomicU64,
    sent_back: AtomicU64,
}

impl Pipeline {
    pub(crate) fn new(
        mode: CommitMode,
        marks: Arc<Watermarks>,
        locks: Arc<LockTable>,
        log: Option<Arc<Log>>,
        first_new: Lsn,
    ) -> Self {
        let recovered = marks.visible();
        Self {
            mode,
            queue: ArrayQueue::new(QUEUE_REQUESTS),
            window: Mutex::new(Window {
                next: first_new,
                recent: Recent::new(recovered),
                closed: false,
            }),
            round: CommitRound::new(),
            locks,
            marks,
            log,
            commits: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            sent_back: AtomicU64::new(0),
        }
    }

    /// Commits, refusals and send-backs so far.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        // Relaxed: statistics.
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.commits), load(&self.refusals), load(&self.sent_back))
    }

    /// Hands a request in and, unless rounds are stepped by a test, waits for its outcome.
    pub(crate) fn decide(&self, commit: &Arc<Commit>) -> Option<Outcome> {
        match self.mode {
            CommitMode::Serial => {
                let guard = pin();
                let own = std::iter::once(Arc::clone(commit));
                self.tenure(self.window.lock(), own, &guard);
            }
            CommitMode::Stepped => self.enqueue(commit),
            CommitMode::Combining => {
                let guard = pin();
                if let Some(window) = self.window_soon() {
                    let own = std::iter::once(Arc::clone(commit));
                    self.tenure(window, own.chain(self.queued()), &guard);
                    drop(guard);
                    self.lead();
                } else {
                    drop(guard);
                    self.enqueue(commit);
                    self.lead();
                    return Some(self.wait(commit));
                }
            }
        }
        commit.request.state.outcome()
    }

    /// The window, if it is free by now or soon.
    fn window_soon(&self) -> Option<MutexGuard<'_, Window>> {
        for _ in 0..TRIES {
            if !self.window.is_locked()
                && let Some(window) = self.window.try_lock()
            {
                return Some(window);
            }
            std::hint::spin_loop();
        }
        None
    }

    fn enqueue(&self, commit: &Arc<Commit>) {
        let mut commit = Arc::clone(commit);
        while let Err(full) = self.queue.push(commit) {
            commit = full;
            if self.mode == CommitMode::Combining {
                self.lead();
            }
            std::thread::yield_now();
        }
    }

    /// Leads, round after round, while there are requests and nobody else does.
    fn lead(&self) {
        loop {
            // SeqCst: between this thread's push or release of the window and its look at the
            // queue and the window; pairs with itself in every other thread (module head).
            fence(Ordering::SeqCst);
            if self.queue.is_empty() {
                return;
            }
            let guard = pin();
            let Some(window) = self.window.try_lock() else { return };
            self.tenure(window, self.queued(), &guard);
        }
    }

    /// The queued requests, oldest first.
    fn queued(&self) -> impl Iterator<Item = Arc<Commit>> {
        // An empty queue is found so by two loads; `pop` would fence.
        std::iter::from_fn(|| (!self.queue.is_empty()).then(|| self.queue.pop()).flatten())
    }

    /// Holds the window for one round, then wakes those who sleep and drops what nobody needs any
    /// more. The caller has pinned the epoch before it took the window: a first pin may collect
    /// garbage, which has no place inside (invariant 2).
    fn tenure(
        &self,
        mut window: MutexGuard<'_, Window>,
        requests: impl Iterator<Item = Arc<Commit>>,
        guard: &Guard,
    ) -> usize {
        let mut decided = [const { None }; ROUND_REQUESTS];
        let requests = requests.take(ROUND_REQUESTS);
        self.round.begin();
        let count = self.round(&mut window, requests, &mut decided, guard);
        self.round.end();
        drop(window);
        for decided in decided.into_iter().flatten() {
            if decided.owner_sleeps {
                decided.commit.request.state.wake();
            }
        }
        count
    }

    /// Waits for the end of the round that is on, if any: for whoever has just got a lock, before it
    /// reads.
    pub(crate) fn await_round(&self) {
        self.round.await_even();
    }

    /// Lets go of what the ring holds of keyspaces that were dropped, and of memtables that were frozen;
    /// `empty` stands in for it.
    pub(crate) fn forget(&self, empty: impl Fn() -> SpaceWrites) {
        let guard = pin();
        let forgotten = self.window.lock().recent.forget(empty, &guard);
        // Requests may have been queued meanwhile.
        if self.mode == CommitMode::Combining {
            self.lead();
        }
        drop(forgotten);
    }

    /// Puts `fresh` over what a keyspace has, between two rounds: commits up to the answer's timestamp are
    /// in what lies beneath, later ones go to it. Also says which commit was the first to write to what
    /// is frozen now.
    pub(crate) fn freeze(&self, space: &Space, fresh: Arc<Memtable>) -> (Lsn, Option<Lsn>) {
        let guard = pin();
        let mut fresh = fresh;
        let window = self.window.lock();
        // Whoever makes a value that expires has noted so before it comes here.
        if let Some(fresh) = Arc::get_mut(&mut fresh) {
            let expiring = space.may_expire();
            fresh.lie_above(if expiring { Beneath::Expiring } else { Beneath::Values });
        }
        let through = self.marks.visible();
        let since = space.freeze(fresh, through, &guard);
        drop(window);
        if self.mode == CommitMode::Combining {
            self.lead();
        }
        (through, since)
    }

    /// Commits files that were written without a stamp: between two rounds they get the next one, `install`
    /// makes levels of them, and the record goes into the log. Nobody else may freeze, flush or compact
    /// the keyspace meanwhile. The levels are made within the window, which is rare and takes as long as
    /// copying the list of files.
    pub(crate) fn ingest(
        &self,
        space: &Space,
        fresh: Arc<Memtable>,
        durability: Durability,
        record: &mut Option<(Record, Credit)>,
        install: impl FnOnce(Lsn) -> Arc<LevelSet>,
    ) -> Ingest {
        let (guard, nothing): (_, Arc<[SpaceWrites]>) = (pin(), Arc::new([]));
        let mut window = self.window.lock();
        // Whoever gets a lock after this look waits for the end of the round (invariant 5).
        self.round.begin();
        let ingest = if window.closed || window.next.counter() >= Lsn::COUNTER_MAX {
            Ingest::Closed
        } else if space.is_dropped() {
            Ingest::Dropped
        } else if space.dirty_since().is_some() || !space.view(&guard).frozen().is_empty() {
            Ingest::Written
        } else if space.has_lockers() {
            Ingest::Locked
        } else {
            let lsn = window.next;
            window.next = lsn.next();
            if let (Some(log), Some((record, credit))) = (&self.log, record.take()) {
                log.append(lsn, record, durability, credit);
            }
            // Who depends on the keyspace is found stale, for its memtable: the ring need not tell more.
            let _left = window.recent.push(lsn, nothing);
            let memtable = space.ingest(lsn, fresh, install(lsn), &guard);
            self.marks.publish(lsn);
            if self.log.is_none() || durability == Durability::Buffered {
                self.marks.raise_weak(lsn);
            }
            self.count(&self.commits);
            Ingest::Done(lsn, memtable)
        };
        self.round.end();
        drop(window);
        if self.mode == CommitMode::Combining {
            self.lead();
        }
        ingest
    }

    /// Waits for the leader's word: spins shortly, since a wake-up costs many times a decision, then
    /// sleeps. A leader is sure to come: the request is queued and `lead` found the window taken.
    fn wait(&self, commit: &Commit) -> Outcome {
        let state = &commit.request.state;
        for spin in 0..SPINS {
            if let Some(outcome) = state.outcome() {
                return outcome;
            }
            if spin % 64 == 63 {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        state.sleep();
        loop {
            if let Some(outcome) = state.outcome() {
                return outcome;
            }
            std::thread::yield_now();
        }
    }

    /// One round: judges and applies each request (invariants 2 to 4). What is left to do for each
    /// goes to `done`.
    fn round(
        &self,
        window: &mut Window,
        requests: impl Iterator<Item = Arc<Commit>>,
        done: &mut [Option<Decided>; ROUND_REQUESTS],
        guard: &Guard,
    ) -> usize {
        let mut decided = 0;
        for (commit, done) in requests.zip(done) {
            decided += 1;
            let request = &commit.request;
            let exhausted = window.next.counter() >= Lsn::COUNTER_MAX;
            let mut left = None;
            // Refused without a reason: the owner finds it.
            let over = window.closed || exhausted;
            let verdict = (!over).then(|| decide(request, &window.recent, &self.locks, guard));
            let owner_sleeps = match verdict {
                None => {
                    self.count(&self.refusals);
                    request.state.finish(Outcome::Refused)
                }
                Some(Verdict::Commit) => {
                    let lsn = window.next;
                    window.next = lsn.next();
                    if let (Some(log), Some((record, credit))) =
                        (&self.log, commit.record.lock().take())
                    {
                        log.append(lsn, record, commit.durability, credit);
                    }
                    #[cfg(planted)]
                    if isolith_wal::planted!("batch-cut-beyond-visible") {
                        self.marks.note_appended(lsn);
                        isolith_wal::planted::dawdle();
                    }
                    #[cfg(planted)]
                    if isolith_wal::planted!("round-not-awaited") {
                        isolith_wal::planted::dawdle();
                    }
                    #[cfg(planted)]
                    if isolith_wal::planted!("visible-before-installed") {
                        self.marks.publish(lsn);
                        isolith_wal::planted::dawdle();
                    }
                    left = window.recent.push(lsn, Arc::clone(&request.writes));
                    for writes in request.writes.iter() {
                        writes.space.note_write(lsn);
                        writes.prepared.install(lsn);
                    }
                    if let Some(space) = &commit.drops {
                        space.drop_at(lsn);
                    }
                    if !isolith_wal::planted!("visible-before-installed") {
                        self.marks.publish(lsn);
                    }
                    let weak = self.log.is_none() || commit.durability == Durability::Buffered;
                    if weak && !isolith_wal::planted!("weak-not-raised") {
                        self.marks.raise_weak(lsn);
                    }
                    self.count(&self.commits);
                    request.state.finish(Outcome::Committed(lsn))
                }
                Some(verdict @ (Verdict::SendBack | Verdict::Locked | Verdict::Wounded)) => {
                    self.count(&self.sent_back);
                    if verdict != Verdict::SendBack {
                        request.refuse(verdict);
                    }
                    request.state.finish(Outcome::SentBack)
                }
                Some(verdict) => {
                    self.count(&self.refusals);
                    request.refuse(verdict);
                    request.state.finish(Outcome::Refused)
                }
            };
            *done = Some(Decided { commit, owner_sleeps, _left: left });
        }
        decided
    }

    /// Counts under the window's mutex: a plain addition.
    fn count(&self, counter: &AtomicU64) {
        // Relaxed: a statistic, written only by the window's leader.
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Decides up to `requests` queued requests: a test's hand on the window.
    pub(crate) fn step(&self, requests: usize) -> usize {
        let guard = pin();
        self.tenure(self.window.lock(), self.queued().take(requests), &guard)
    }

    /// From now on every request is refused.
    pub(crate) fn close(&self) {
        self.window.lock().closed = true;
        self.lead();
    }
}
