//! A transaction's locks, how it waits for them, and how it goes on without ever waiting.
//!
//! The lock table never blocks: it grants, queues or refuses. Here a thread parks on the answer
//! ([`acquire`]), a caller is told to come again ([`Transaction::step`]), or a future is woken
//! ([`Transaction::run`]). All three ask again by the same call, which finds its place in the queue.
//!
//! Invariants:
//! 1. A transaction that never locks has no owner in the table, no age, and pays nothing.
//! 2. While a transaction waits for a lock it holds nothing of the pipeline: no room in the log, no
//!    place in the queue of commits (protocol rule 16).
//! 3. A wait that is given up (a timeout, a dropped future) leaves no entry in the queue.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use isolith_txn::{
    Age, BlockedBy, DeadlockPolicy, Heat, Interval, LockMode, LockOwner, LockStep, LockTarget,
    Savepoint, Space, SpaceId, Step,
};

use super::{Transaction, policy};
use crate::admission::Pass;
use crate::core::Core;
use crate::error::{Error, LockHolder, Result};
use crate::keyspace::Keyspace;
use crate::options::{FOREVER, TransactionOptions};
use crate::timers::Timer;

/// How long, and in which manner, a lock is waited for.
#[derive(Debug)]
pub(crate) struct Patience {
    /// Never wait: say so, and have `waker` woken.
    pub(crate) steps: bool,
    pub(crate) waker: Option<Waker>,
    lock_timeout: Duration,
    /// The end of the whole transaction.
    deadline: Option<Instant>,
    /// The wait under way.
    wait: Option<Box<Wait>>,
}

/// What is waited for, and until when. A step that is run again asks first for what it holds already:
/// that neither ends this wait nor gives it more time.
#[derive(Debug)]
struct Wait {
    space: SpaceId,
    what: Waited,
    mode: LockMode,
    until: Instant,
}

#[derive(Debug)]
enum Waited {
    Key(Box<[u8]>),
    Range(Interval),
}

impl Wait {
    fn new(space: SpaceId, what: LockTarget<'_>, mode: LockMode, until: Instant) -> Self {
        let what = match what {
            LockTarget::Key(key) => Waited::Key(key.into()),
            LockTarget::Range(interval) => Waited::Range(interval.clone()),
        };
        Self { space, what, mode, until }
    }

    fn is_for(&self, space: SpaceId, what: LockTarget<'_>, mode: LockMode) -> bool {
        let same = match (&self.what, what) {
            (Waited::Key(known), LockTarget::Key(key)) => **known == *key,
            (Waited::Range(known), LockTarget::Range(interval)) => known == interval,
            _ => false,
        };
        same && self.space == space && self.mode == mode
    }
}

impl Patience {
    /// Waits by parking, for so long.
    pub(crate) fn new(lock_timeout: Duration, deadline: Option<Instant>) -> Self {
        Self { steps: false, waker: None, lock_timeout, deadline, wait: None }
    }

    /// When the wait under way is to be given up; `None` if there is none.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.wait.as_ref().map(|wait| wait.until)
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}

/// How often a thread that waits for a lock gives way before it parks: about what parking and waking
/// cost, so that a wait costs at most twice what the better choice would have (Karlin, Li, Manasse and
/// Owicki, 1991). Who holds the lock may be waiting for this very core.
const YIELDS: u32 = 64;

/// Wakes the thread that it was made for.
struct Sleeper {
    thread: Thread,
    woken: AtomicBool,
}

impl Sleeper {
    fn current() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), woken: AtomicBool::new(false) })
    }

    /// Waits until it is woken, or for so long; may come back without need.
    fn wait(&self, timeout: Duration) {
        for _ in 0..YIELDS {
            // Acquire, here and below: pairs with the Release in `wake`. Nothing is read on its
            // account but the lock table, which has a mutex.
            if self.woken.swap(false, Ordering::Acquire) {
                return;
            }
            thread::yield_now();
        }
        thread::park_timeout(timeout);
        self.woken.swap(false, Ordering::Acquire);
    }
}

impl Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

thread_local! {
    static SLEEPER: (Arc<Sleeper>, Waker) = {
        let sleeper = Sleeper::current();
        (Arc::clone(&sleeper), Waker::from(sleeper))
    };
}

/// Asks for a lock, and waits for it as `patience` has it. False: it would have to wait, and may not.
pub(crate) fn acquire(
    core: &Core,
    locks: &LockOwner,
    space: &Arc<Space>,
    what: LockTarget<'_>,
    mode: LockMode,
    patience: &mut Patience,
) -> Result<bool> {
    let mut first = true;
    loop {
        let step = match patience.steps {
            true => locks.lock(space, what, mode, patience.waker.as_ref()),
            // The fast path asks without a waker; who has to wait asks again with one.
            false if first => locks.lock(space, what, mode, None),
            false => SLEEPER.with(|(_, waker)| locks.lock(space, what, mode, Some(waker))),
        };
        match step {
            LockStep::Granted => {
                patience.wait.take_if(|wait| wait.is_for(space.id, what, mode));
                return Ok(true);
            }
            LockStep::Refused(refusal) => {
                patience.wait = None;
                core.admission().trouble();
                if let LockTarget::Key(key) = what {
                    core.warm(space.id, key, Heat::WAIT);
                }
                return Err(core.refused(refusal));
            }
            LockStep::Waiting => {}
        }
        // After the request is queued: whoever closes the database closes first and wakes then.
        if let Err(closed) = core.check_open() {
            locks.cancel_wait(false);
            patience.wait = None;
            return Err(closed);
        }
        let now = Instant::now();
        let until = match &patience.wait {
            Some(wait) if wait.is_for(space.id, what, mode) => wait.until,
            _ => {
                core.admission().trouble();
                if let LockTarget::Key(key) = what {
                    core.warm(space.id, key, Heat::WAIT);
                }
                let until = now + patience.lock_timeout;
                let until = patience.deadline.map_or(until, |deadline| until.min(deadline));
                patience.wait = Some(Box::new(Wait::new(space.id, what, mode, until)));
                until
            }
        };
        if now >= until {
            let holders = locks.cancel_wait(true);
            patience.wait = None;
            return Err(match patience.is_over() {
                true => Error::TransactionTimeout,
                false => Error::LockTimeout { holders: core.holders(holders) },
            });
        }
        if patience.steps {
            return Ok(false);
        }
        if first {
            first = false;
        } else {
            SLEEPER.with(|(sleeper, _)| sleeper.wait(until - now));
        }
    }
}

/// What a transaction has of the lock table, and how it waits.
pub(super) struct Locking {
    locks: OnceCell<Arc<LockOwner>>,
    /// Its place among those who fight for locks, if they are restricted.
    pass: OnceCell<Option<Pass>>,
    age: Cell<Option<Age>>,
    policy: DeadlockPolicy,
    /// The end of the whole transaction.
    deadline: Option<Instant>,
    patience: RefCell<Patience>,
    /// The state of the writes at the beginning of the step under way: what it goes back to if it has
    /// to wait, so that nothing within may go back further.
    pub(super) step: Cell<Option<Savepoint>>,
    /// What the step under way would have to wait for.
    blocked: Cell<Option<BlockedBy>>,
}

impl Locking {
    pub(super) fn new(core: &Core, options: &TransactionOptions) -> Self {
        let lock_timeout = options.lock_timeout.unwrap_or(core.lock_timeout());
        // A deadline beyond what clocks can tell is none.
        let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let lock_timeout = lock_timeout.min(FOREVER);
        Self {
            locks: OnceCell::new(),
            pass: OnceCell::new(),
            age: Cell::new(options.age),
            policy: policy(options.concurrency),
            deadline,
            patience: RefCell::new(Patience::new(lock_timeout, deadline)),
            step: Cell::new(None),
            blocked: Cell::new(None),
        }
    }

    pub(super) fn age(&self, core: &Core) -> Age {
        self.age.get().unwrap_or_else(|| {
            let age = core.locks().next_age();
            self.age.set(Some(age));
            age
        })
    }

    fn owner(&self, core: &Core) -> &Arc<LockOwner> {
        self.locks.get_or_init(|| Arc::new(core.locks().owner(self.age(core), self.policy)))
    }

    pub(super) fn bytes(&self) -> usize {
        self.locks.get().map_or(0, |locks| locks.bytes())
    }

    pub(super) fn holds(&self, space: SpaceId, key: &[u8]) -> bool {
        self.locks.get().is_some_and(|locks| locks.holds(space, key).is_some())
    }

    /// Refuses to go on after the transaction's time, or after it lost its locks.
    #[inline]
    pub(super) fn check(&self, core: &Core) -> Result<()> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::TransactionTimeout);
        }
        match self.locks.get() {
            Some(locks) if !locks.is_active() => Err(core.wounded(locks)),
            _ => Ok(()),
        }
    }

    /// The parts that a commit goes on with: the locks, who it is, how it waits.
    pub(super) fn take(
        &mut self,
    ) -> (Option<Arc<LockOwner>>, Option<Age>, DeadlockPolicy, Patience) {
        let mut patience = self.patience.replace(Patience::new(Duration::ZERO, None));
        let locks = self.locks.take();
        if patience.wait.take().is_some()
            && let Some(locks) = &locks
        {
            // A step was blocked, and the caller goes on without it.
            locks.cancel_wait(false);
        }
        (locks, self.age.get(), self.policy, patience)
    }
}

impl Transaction {
    /// Takes a lock, waiting for it if that is allowed.
    pub(super) fn lock(
        &self,
        keyspace: &Keyspace,
        what: LockTarget<'_>,
        mode: LockMode,
    ) -> Result<()> {
        let mut patience = self.locking.patience.borrow_mut();
        if !patience.steps {
            self.locking.pass.get_or_init(|| self.open.admission().enter());
        }
        let owner = self.locking.owner(&self.open);
        // A body that goes on though it was told to wait: another request would take the place of the one
        // that is queued, and nobody would wake the step.
        if patience.steps && self.locking.blocked.get().is_some() {
            return Err(Error::WouldWait);
        }
        if acquire(&self.open, owner, keyspace.space(), what, mode, &mut patience)? {
            return Ok(());
        }
        self.locking.blocked.set(Some(BlockedBy::Lock));
        Err(Error::WouldWait)
    }

    /// Locks an interval for reading it.
    pub(crate) fn lock_interval(&self, keyspace: &Keyspace, interval: &Interval) -> Result<()> {
        self.lock(keyspace, LockTarget::Range(interval), LockMode::Shared)
    }

    /// Locks a key for reading it.
    pub(crate) fn lock_item(&self, keyspace: &Keyspace, key: &[u8]) -> Result<()> {
        self.lock(keyspace, LockTarget::Key(key), LockMode::Shared)
    }

    /// Waits until every round is over that may not have seen this transaction's locks. Rounds are
    /// short and wait for nothing.
    pub(crate) fn await_round(&self) {
        if !isolith_wal::planted!("round-not-awaited") {
            self.open.pipeline().await_round();
        }
    }

    /// Runs `body` without ever waiting for a lock. [`Step::Blocked`]: it would have to; what `body`
    /// wrote is undone, while its reads, its locks and its place in the queue stay. Call again, from
    /// the start, once woken ([`Transaction::wake`]) or whenever it pleases. [`Step::Aborted`] carries
    /// the error of `body`.
    ///
    /// `body` has to return the errors of the transaction's operations as they are, and may roll back to
    /// savepoints that it has made itself, not to older ones. If it panics, what it wrote is undone,
    /// too. A step within a step that is blocked blocks the outer one.
    pub fn step<T>(&mut self, body: impl FnOnce(&mut Transaction) -> Result<T>) -> Step<T, Error> {
        let mut stepping = Stepping::begin(self);
        let result = body(stepping.transaction);
        let blocked = stepping.transaction.locking.blocked.get();
        stepping.end = if blocked.is_some() { End::Blocked } else { End::Returned };
        drop(stepping);
        match (blocked, result) {
            (Some(by), _) => Step::Blocked(by),
            (None, Ok(value)) => Step::Ready(value),
            (None, Err(error)) => Step::Aborted(error),
        }
    }

    /// Whom to wake when a step that was blocked can go on. Waking may come without need.
    pub fn wake(&mut self, waker: Option<&Waker>) {
        self.locking.patience.get_mut().waker = waker.cloned();
    }

    /// Until when a blocked step waits: after it the step answers
    /// [`Error::LockTimeout`]. `None` if nothing is waited for.
    pub fn waits_until(&self) -> Option<Instant> {
        self.locking.patience.borrow().until()
    }

    /// The locks that a blocked step waits for, one of each transaction in its way, oldest first;
    /// empty if it waits for none, or need not wait any more.
    pub fn waits_for(&self) -> Vec<LockHolder> {
        let locks = self.locking.locks.get();
        self.open.holders(locks.map_or_else(Vec::new, |locks| locks.waits_for()))
    }

    /// Gives up the wait of a step that was blocked: its place in the queue is gone. What was locked
    /// before stays locked.
    pub fn cancel_wait(&mut self) {
        self.locking.patience.get_mut().wait = None;
        if let Some(locks) = self.locking.locks.get() {
            locks.cancel_wait(false);
        }
    }

    /// Runs `body` as a future, which waits for locks without holding up its thread: `body` is run
    /// [step](Transaction::step) by step, from the start after each wait, so keep side effects out of
    /// it. Dropping the future gives up the wait.
    ///
    /// The timeout of a lock is looked at by the engine's upkeep, about every 20 ms.
    pub fn run<T, F>(&mut self, body: F) -> Attempt<'_, F>
    where
        F: FnMut(&mut Transaction) -> Result<T>,
    {
        Attempt { transaction: self, body, waits: false, timer: None }
    }
}

/// A step under way, and its end, however it comes about.
struct Stepping<'t> {
    transaction: &'t mut Transaction,
    save: Savepoint,
    /// The beginning of the step that it is in.
    outer: Option<Savepoint>,
    /// Whether it is a step within a step.
    within: bool,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Panicked,
    Blocked,
    Returned,
}

impl<'t> Stepping<'t> {
    fn begin(transaction: &'t mut Transaction) -> Self {
        let save = transaction.writes.savepoint();
        let outer = transaction.locking.step.replace(Some(save));
        let within = std::mem::replace(&mut transaction.locking.patience.get_mut().steps, true);
        if !within {
            transaction.locking.blocked.set(None);
        }
        Self { transaction, save, outer, within, end: End::Panicked }
    }
}

impl Drop for Stepping<'_> {
    fn drop(&mut self) {
        let transaction = &mut *self.transaction;
        if self.end != End::Returned {
            transaction.writes.rollback_to(self.save);
        }
        transaction.writes.release(self.save);
        transaction.locking.step.set(self.outer);
        let patience = transaction.locking.patience.get_mut();
        patience.steps = self.within;
        if !self.within {
            transaction.locking.blocked.set(None);
            // A wait that the body did not come back to is over.
            if self.end != End::Blocked && patience.wait.is_some() {
                transaction.cancel_wait();
            }
        }
    }
}

/// The future of [`Transaction::run`].
#[must_use = "futures do nothing unless polled"]
pub struct Attempt<'t, F> {
    transaction: &'t mut Transaction,
    body: F,
    waits: bool,
    timer: Option<Timer>,
}

impl<F> fmt::Debug for Attempt<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("waits", &self.waits).finish_non_exhaustive()
    }
}

/// Nothing in it is pinned: `body` is only ever called, never polled.
impl<F> Unpin for Attempt<'_, F> {}

impl<T, F: FnMut(&mut Transaction) -> Result<T>> Future for Attempt<'_, F> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.timer = None;
        let patience = this.transaction.locking.patience.get_mut();
        let before = patience.waker.replace(cx.waker().clone());
        let step = this.transaction.step(&mut this.body);
        this.transaction.locking.patience.get_mut().waker = before;
        this.waits = matches!(step, Step::Blocked(_));
        match step {
            Step::Ready(value) => Poll::Ready(Ok(value)),
            Step::Aborted(error) => Poll::Ready(Err(error)),
            Step::Blocked(_) => {
                let until = this.transaction.waits_until();
                this.timer = until.map(|until| this.transaction.open.wake_at(until, cx.waker()));
                Poll::Pending
            }
        }
    }
}

impl<F> Drop for Attempt<'_, F> {
    fn drop(&mut self) {
        if self.waits {
            self.transaction.cancel_wait();
        }
    }
}
