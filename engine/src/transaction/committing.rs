//! The way of a transaction through the commit window, in steps that never wait.
//!
//! Prepared outside of it: the record, the nodes, the versions, room in the log. Where a lock of
//! somebody else stands in the way of a write, the request comes back, gives its room in the log
//! back, locks what it writes, reserves anew and is validated and queued again.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use isolith_index::{Kind, Value, pin};
use isolith_txn::{
    Age, BlockedBy, Concurrency, Conflict, DeadlockPolicy, Interval, LockMode, LockTarget, Outcome,
    Request, SnapshotSlot, Space, SpaceWrites, Step, Verdict, Write, WriteSet,
};
use isolith_wal::{Lsn, Record};

use super::Transaction;
use super::locking::{Patience, acquire};
use crate::commit::Commit;
use crate::core::Core;
use crate::database::Open;
use crate::error::{ConflictOn, Error, LockHolder, Result};
use crate::merge::Operators;
use crate::pending::{CommitInfo, Pending};
use crate::record::{self, Named};
use crate::timers::Timer;

/// How often a request whose evidence left the ring is validated again outside the window before it
/// insists on being judged inside.
const SENT_BACK_MAX: u32 = 3;

enum Prepared {
    Nothing(Pending),
    Commit(Arc<Open>, Queued),
}

impl Transaction {
    /// Goes on until the commit is decided, waiting as long as it takes: the way of [`CommitSteps`],
    /// without a stop in between.
    pub(super) fn decide(mut self) -> Result<Pending> {
        match self.prepare(false, None)? {
            Prepared::Nothing(pending) => Ok(pending),
            Prepared::Commit(open, queued) => {
                let durability = queued.commit.durability;
                let lsn = queued.run(&open)?;
                let info = CommitInfo { timestamp: Some(lsn) };
                Ok(Pending::new(open, info, lsn, durability))
            }
        }
    }

    /// Makes the request: record, nodes, versions, room in the log; which leaves nothing of the
    /// transaction. After `Stalled` it is as it was.
    fn prepare(&mut self, steps: bool, waker: Option<Waker>) -> Result<Prepared> {
        self.check()?;
        self.check_size()?;
        let locks_reads = self.locks_reads();
        let open = Arc::clone(&self.open);
        if self.writes.is_empty() {
            if let (Some(locks), ..) = self.locking.take() {
                if !locks.begin_commit() {
                    return Err(open.wounded(&locks));
                }
                // Nothing else keeps a keyspace that was read under locks from being dropped.
                if let Some(dropped) = self.reads.borrow().dropped().filter(|_| locks_reads) {
                    return Err(open.dropped(dropped));
                }
                locks.release();
            }
            let info = CommitInfo { timestamp: None };
            let pending = Pending::new(open, info, self.observed.get(), self.durability);
            return Ok(Prepared::Nothing(pending));
        }
        open.check_writable()?;
        if let Some(slot) = &*self.slot.borrow() {
            open.keep(slot)?;
        }
        let deletes_only = self
            .writes
            .overlays()
            .iter()
            .all(|overlay| overlay.entries().all(|(_, write)| matches!(write, Write::Delete)));
        open.admit(self.writes.live_bytes(), deletes_only)?;
        if !isolith_wal::planted!("merge-counts-as-blind") {
            self.depend_on_merged();
        }
        // Room in the log first: it may be refused, and then nothing was touched.
        let record = || record_of(&self.writes, open.operators());
        let record = open.reserve(record, Some(open.stall_timeout()))?;
        let slot = self.slot.take();
        let read = slot.as_ref().map_or(Lsn::ZERO, SnapshotSlot::timestamp);
        let slot = slot.or_else(|| self.witness.take());
        let (locks, age, policy, mut patience) = self.locking.take();
        let overlays = std::mem::take(&mut self.writes).into_overlays();
        let mut writes = Vec::with_capacity(overlays.len());
        for overlay in overlays {
            let space = Arc::clone(&overlay.space);
            let mut prepared = space.prepare(overlay.entries().len());
            for range in overlay.ranges() {
                prepared.add_range_delete((range.lower_ref(), range.upper_ref()));
            }
            for (key, write) in overlay.into_entries() {
                add(&mut prepared, &space, &key, write);
            }
            if !prepared.is_empty() {
                writes.push(SpaceWrites::new(space, prepared));
            }
        }
        let reads = self.reads.take().into_spaces();
        let merges = writes.iter().any(SpaceWrites::merges);
        let request = Request::new(self.isolation, read, writes, reads);
        if let Some(locks) = locks
            && !isolith_wal::planted!("locks-released-before-installed")
        {
            request.set_locks(locks);
            // A merge takes no lock beforehand.
            if matches!(self.concurrency, Concurrency::Locking(_)) && !merges {
                request.cover();
            }
        }
        (patience.steps, patience.waker) = (steps, waker);
        let commit = Commit::new(request, self.durability, record, None);
        let queued = Queued { slot, age, policy, patience: Some(patience), ..Queued::new(commit) };
        Ok(Prepared::Commit(open, queued))
    }
}

/// What the log is to hold of a transaction.
fn record_of(writes: &WriteSet, operators: &Operators) -> Vec<u8> {
    let mut record = Vec::with_capacity(writes.live_bytes());
    for overlay in writes.overlays() {
        for range in overlay.ranges() {
            let (lower, upper) = (range.lower_ref(), range.upper_ref());
            record::delete_range(&mut record, overlay.space.id, lower, upper);
        }
        for (key, write) in overlay.entries() {
            encode(&mut record, overlay.space.id, key, write, operators);
        }
    }
    record
}

/// Adds one write to a record.
pub(crate) fn encode(
    record: &mut Vec<u8>,
    space: u32,
    key: &[u8],
    write: &Write,
    operators: &Operators,
) {
    match write {
        Write::Put { value, expires_at } => {
            record::put(record, space, key, value, *expires_at);
        }
        Write::Delete => record::delete(record, space, key),
        Write::Merge { operator, operand, at_ms } => {
            let named = operators.named(*operator).map_or(Named::Number(*operator), Named::Name);
            record::merge(record, space, key, named, operand, *at_ms);
        }
    }
}

/// Adds one write to what will be installed.
pub(crate) fn add(prepared: &mut isolith_index::Prepared, space: &Space, key: &[u8], write: Write) {
    match write {
        Write::Put { value, expires_at } => {
            if expires_at != 0 {
                space.note_expiring();
            }
            prepared.add(key, Kind::Put, value, expires_at);
        }
        Write::Delete => prepared.add(key, Kind::Delete, Value::empty(), 0),
        Write::Merge { operator, operand, at_ms } => {
            space.note_merging();
            prepared.add(key, Kind::Merge { operator }, operand, at_ms);
        }
    }
}

/// A request on its way through the window.
#[derive(Debug)]
pub(crate) struct Queued {
    commit: Arc<Commit>,
    /// Held until the outcome is known.
    slot: Option<SnapshotSlot>,
    attempt: u32,
    age: Option<Age>,
    policy: DeadlockPolicy,
    /// How it waits for locks; `None`: it does not, and fails.
    patience: Option<Patience>,
    /// While it locks what it writes: the record, whose room in the log was given back.
    locking: Option<Option<Record>>,
    /// Its locks were taken for its writes alone, and protect nothing that it has read: if they are
    /// taken away it locks again, and nobody need know.
    locks_again: bool,
}

impl Queued {
    /// A request that fails rather than wait for a lock.
    pub(crate) fn new(commit: Arc<Commit>) -> Self {
        let policy = DeadlockPolicy::default();
        Self {
            commit,
            slot: None,
            attempt: 0,
            age: None,
            policy,
            patience: None,
            locking: None,
            locks_again: false,
        }
    }

    /// A request that waits for locks, as long as the database's default has it.
    pub(crate) fn patient(commit: Arc<Commit>, core: &Core) -> Self {
        let patience = Some(Patience::new(core.lock_timeout(), None));
        Self { patience, ..Self::new(commit) }
    }

    /// Validates outside the window and hands the request in.
    fn submit(&mut self, core: &Core) -> Result<()> {
        // First the view, then the timestamp up to which it is checked.
        let guard = pin();
        if self.commit.request.is_stale(&guard) {
            self.commit = self.commit.rebuilt(&guard);
        }
        let request = &self.commit.request;
        let visible = core.marks().visible();
        if let Some(conflict) = request.pre_validate(visible, self.attempt, &guard)? {
            return Err(core.broken(request, &conflict));
        }
        drop(guard);
        if request.state.outcome().is_some() {
            request.state.requeue();
        }
        core.pipeline().decide(&self.commit);
        Ok(())
    }

    /// Goes on as far as it can: looks at the outcome, hands the request in again if it was sent
    /// back, locks what it writes if a lock was in the way.
    fn advance(&mut self, core: &Core) -> Result<Step<Lsn, Infallible>> {
        let result = self.go_on(core);
        if result.is_err()
            && !self.may_go_on(&result)
            && let Some(locks) = self.commit.request.locks()
        {
            // Not when the last who holds the request has let go of it: that may be a leader who has
            // lost its core.
            locks.release();
        }
        result
    }

    /// Whether it has its locks and lacks only room in the log: then it can be tried again.
    fn may_go_on<T>(&self, result: &Result<T>) -> bool {
        self.locking.is_some() && matches!(result, Err(Error::Stalled { .. }))
    }

    fn go_on(&mut self, core: &Core) -> Result<Step<Lsn, Infallible>> {
        loop {
            if self.locking.is_some() {
                match self.lock_writes(core) {
                    Ok(true) => {}
                    Ok(false) => return Ok(Step::Blocked(BlockedBy::Lock)),
                    Err(Error::Wounded { .. } | Error::Deadlock { .. }) if self.locks_again => {
                        self.begin_again();
                        continue;
                    }
                    Err(error) => return Err(error),
                }
                if let Some(record) = &mut self.locking {
                    self.commit.reserve_again(core, record)?;
                }
                self.locking = None;
                self.submit(core)?;
            }
            let request = &self.commit.request;
            match request.state.outcome() {
                None => return Ok(Step::Blocked(BlockedBy::Round)),
                Some(Outcome::Committed(lsn)) => {
                    self.slot = None;
                    // Visible by now: whoever gets the locks sees what was written.
                    if let Some(locks) = request.locks() {
                        locks.release();
                    }
                    core.after_commit(&self.commit);
                    return Ok(Step::Ready(lsn));
                }
                Some(Outcome::Refused) => match request.take_refusal() {
                    Some(Verdict::Conflict(conflict)) => {
                        return Err(core.broken(request, &conflict));
                    }
                    Some(Verdict::Dropped(space)) => return Err(core.dropped(space)),
                    _ => return Err(core.check_open().err().unwrap_or(Error::Closed)),
                },
                Some(Outcome::SentBack) => match request.take_refusal() {
                    Some(Verdict::Locked) if self.patience.is_none() => {
                        return Err(Error::LockRefused { holders: Vec::new() });
                    }
                    Some(Verdict::Locked) => {
                        self.locking = Some(self.commit.give_back_room());
                        continue;
                    }
                    Some(Verdict::Wounded) if self.locks_again => {
                        self.begin_again();
                        self.locking = Some(self.commit.give_back_room());
                        continue;
                    }
                    Some(Verdict::Wounded) => {
                        let lost = request.locks().map(|locks| core.wounded(locks));
                        return Err(lost.unwrap_or(Error::Closed));
                    }
                    _ => {
                        self.attempt += 1;
                        if self.attempt >= SENT_BACK_MAX {
                            request.insist();
                        }
                        self.submit(core)?;
                    }
                },
            }
        }
    }

    fn begin_again(&self) {
        if let Some(locks) = self.commit.request.locks() {
            locks.begin_again();
        }
    }

    /// Locks everything that the request writes, in key order. False: it has to wait, and may not.
    fn lock_writes(&mut self, core: &Core) -> Result<bool> {
        let request = &self.commit.request;
        if request.locks().is_none() {
            let age = self.age.unwrap_or_else(|| core.locks().next_age());
            request.set_locks(Arc::new(core.locks().owner(age, self.policy)));
            self.locks_again = true;
        }
        let (Some(locks), Some(patience)) = (request.locks(), &mut self.patience) else {
            return Ok(true);
        };
        for writes in request.writes.iter() {
            let space = &writes.space;
            for (key, kind) in writes.prepared.keys().zip(writes.prepared.kinds()) {
                let what = LockTarget::Key(key);
                let mode = match kind {
                    Kind::Merge { .. } => LockMode::Merge,
                    Kind::Put | Kind::Delete => LockMode::Exclusive,
                };
                if !acquire(core, locks, space, what, mode, patience)? {
                    return Ok(false);
                }
            }
            for (lower, upper) in writes.prepared.ranges() {
                let interval =
                    Interval { lower: lower.map(Into::into), upper: upper.map(Into::into) };
                let what = LockTarget::Range(&interval);
                if !acquire(core, locks, space, what, LockMode::Exclusive, patience)? {
                    return Ok(false);
                }
            }
        }
        request.cover();
        Ok(true)
    }

    /// Submits and waits for the outcome.
    pub(crate) fn run(mut self, core: &Core) -> Result<Lsn> {
        self.submit(core)?;
        loop {
            match self.advance(core)? {
                Step::Ready(lsn) => return Ok(lsn),
                // A test steps the rounds: the pipeline itself waits otherwise.
                Step::Blocked(_) => std::thread::yield_now(),
            }
        }
    }
}

enum Stage {
    Active(Box<Transaction>),
    Queued(Arc<Open>, Queued),
    Decided(Pending),
    Over,
}

/// A commit in steps that never wait, and as a future: the seam that the blocking and the async API
/// stand on, and that a test drives any interleaving with, from one thread.
///
/// Dropped before it is queued for a decision, or while it waits for a lock, it is rolled back, and
/// leaves no lock and no place in a queue.
pub struct CommitSteps {
    stage: Stage,
    waker: Option<Waker>,
    timer: Option<Timer>,
}

impl fmt::Debug for CommitSteps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.stage {
            Stage::Active(_) => "CommitSteps::Active",
            Stage::Queued(..) => "CommitSteps::Queued",
            Stage::Decided(_) => "CommitSteps::Decided",
            Stage::Over => "CommitSteps::Over",
        })
    }
}

impl CommitSteps {
    pub(super) fn new(transaction: Transaction) -> Self {
        Self { stage: Stage::Active(Box::new(transaction)), waker: None, timer: None }
    }

    /// Whom to wake when a commit that waits for a lock can go on. Waking may come without need.
    pub fn wake(&mut self, waker: Option<&Waker>) {
        self.waker = waker.cloned();
        if let Stage::Queued(_, Queued { patience: Some(patience), .. }) = &mut self.stage {
            patience.waker.clone_from(&self.waker);
        }
    }

    /// Until when a commit that waits for a lock waits; `None` if it does not.
    pub fn waits_until(&self) -> Option<std::time::Instant> {
        match &self.stage {
            Stage::Queued(_, Queued { patience: Some(patience), .. }) => patience.until(),
            _ => None,
        }
    }

    /// The transaction's age, for its next try; `None` if it has none, or the commit is decided.
    pub fn age(&self) -> Option<Age> {
        match &self.stage {
            Stage::Active(transaction) => Some(transaction.age()),
            Stage::Queued(_, queued) => {
                queued.commit.request.locks().map(|locks| locks.age()).or(queued.age)
            }
            Stage::Decided(_) | Stage::Over => None,
        }
    }

    /// The locks that the commit waits for, one of each transaction in its way, oldest first.
    pub fn waits_for(&self) -> Vec<LockHolder> {
        match &self.stage {
            Stage::Queued(open, queued) => {
                let locks = queued.commit.request.locks();
                open.holders(locks.map_or_else(Vec::new, |locks| locks.waits_for()))
            }
            _ => Vec::new(),
        }
    }

    /// Goes on as far as it can without waiting. `Ready` is the acknowledgement.
    pub fn step(&mut self) -> Step<CommitInfo, Error> {
        match self.decide_step() {
            Step::Ready(pending) if pending.is_ready() => match pending.wait() {
                Ok(info) => Step::Ready(info),
                Err(error) => Step::Aborted(error),
            },
            Step::Ready(pending) => {
                let at = pending.timestamp();
                self.stage = Stage::Decided(pending);
                Step::Blocked(BlockedBy::Log(at))
            }
            Step::Blocked(by) => Step::Blocked(by),
            Step::Aborted(error) => Step::Aborted(error),
        }
    }

    /// The future of a commit that was decided; `None` before that, or after the end.
    pub fn into_pending(self) -> Option<Pending> {
        match self.stage {
            Stage::Decided(pending) => Some(pending),
            _ => None,
        }
    }

    /// Goes on until the commit is decided and visible. After [`Error::Stalled`] for want of room in the
    /// log it may be called again: then it tries anew. Dropped instead, it is rolled back.
    pub fn decide_step(&mut self) -> Step<Pending, Error> {
        let (open, mut queued) = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Active(mut transaction) => match transaction.prepare(true, self.waker.clone()) {
                Ok(Prepared::Nothing(pending)) => return Step::Ready(pending),
                Ok(Prepared::Commit(open, mut queued)) => match queued.submit(&open) {
                    Ok(()) => (open, queued),
                    Err(error) => return Step::Aborted(error),
                },
                Err(error) => {
                    if let Error::Stalled { .. } = error {
                        self.stage = Stage::Active(transaction);
                    }
                    return Step::Aborted(error);
                }
            },
            Stage::Queued(open, queued) => (open, queued),
            Stage::Decided(pending) => return Step::Ready(pending),
            Stage::Over => return Step::Aborted(Error::Closed),
        };
        let result = queued.advance(&open);
        let may_go_on = queued.may_go_on(&result);
        match result {
            Ok(Step::Ready(lsn)) => {
                let info = CommitInfo { timestamp: Some(lsn) };
                let durability = queued.commit.durability;
                Step::Ready(Pending::new(open, info, lsn, durability))
            }
            Ok(Step::Blocked(by)) => {
                self.stage = Stage::Queued(open, queued);
                Step::Blocked(by)
            }
            Err(error) => {
                if may_go_on {
                    self.stage = Stage::Queued(open, queued);
                }
                Step::Aborted(error)
            }
        }
    }
}

impl Future for CommitSteps {
    type Output = Result<CommitInfo>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.timer = None;
        this.wake(Some(cx.waker()));
        let mut pending = match this.decide_step() {
            Step::Ready(pending) => pending,
            Step::Aborted(error) => return Poll::Ready(Err(error)),
            Step::Blocked(BlockedBy::Lock) => {
                if let (Some(until), Stage::Queued(open, _)) = (this.waits_until(), &this.stage) {
                    this.timer = Some(open.wake_at(until, cx.waker()));
                }
                return Poll::Pending;
            }
            Step::Blocked(_) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        };
        let poll = Pin::new(&mut pending).poll(cx);
        if poll.is_pending() {
            this.stage = Stage::Decided(pending);
        }
        poll
    }
}

impl Core {
    /// The error for a dependency that validation found to be broken.
    fn broken(&self, request: &Request, conflict: &Conflict) -> Error {
        let what = if let Some(interval) = request.conflict_interval(conflict) {
            ConflictOn::Range(interval)
        } else {
            match (conflict.kind, request.conflict_key(conflict)) {
                (isolith_txn::ConflictKind::Read, Some(key)) => ConflictOn::Read(key),
                (_, Some(key)) => ConflictOn::Write(key),
                (_, None) => ConflictOn::WriteRange,
            }
        };
        self.conflict(conflict.space, what, conflict.other, request.operations())
    }

    /// The error for a conflict, which warms the key that it was about.
    pub(crate) fn conflict(
        &self,
        space: isolith_txn::SpaceId,
        what: ConflictOn,
        other: Option<Lsn>,
        waste: usize,
    ) -> Error {
        let hot = match &what {
            ConflictOn::Read(key) | ConflictOn::Write(key) => {
                self.warm(space, key, waste);
                self.heat().is_hot(space, key, self.marks().visible())
            }
            ConflictOn::Range(_) | ConflictOn::WriteRange => false,
        };
        Error::Conflict { keyspace: self.name_of(space), what, other, hot }
    }
}
