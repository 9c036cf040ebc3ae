//! The lock table: who holds what, who waits for it, and what is done about circles of waiting.
//!
//! One table per database, one mutex around a state machine that decides every question in one place
//! (`table`); whoever is to be woken is woken after the mutex is free. A point is the interval that
//! holds it alone, so absent keys and stretches between keys are locked like any other.
//!
//! An owner's state, one word:
//!
//! ```text
//!               begin_commit (window's leader)
//!     Active ────────────────────────────────► Committing
//!       │  ◄─────────────────────────────────────  │
//!       │               back_to_active             │ release
//!       │ wound (compare-and-swap)                 ▼
//!       └───────────► Wounded                     Over ◄── release, from any state
//! ```
//!
//! Invariants:
//! 1. Two live owners never hold locks at once whose modes conflict and whose intervals overlap. An
//!    owner is live while it is Active or Committing; the locks of others count for nothing, from the
//!    moment of the change of state, whether they are out of the table yet or not.
//! 2. An owner waits only if a conflicting lock of another live owner, or a conflicting request ahead
//!    of its own, stands in its way. Upgrades are ahead of other requests, older owners ahead of
//!    younger ones; a request is never ahead of one whose owner it waits for itself.
//! 3. There is no circle among those who wait: nobody begins to wait before the circles through itself
//!    are broken, and every new edge of the wait-for graph goes out from or comes in to who begins to wait.
//! 4. A keyspace's locker count is raised before a lock of it is in the table, and lowered after the
//!    owner's last one is out.
//! 5. No waker is called, and none dropped, under the mutex.

mod mode;
mod policy;

mod cut;
mod room;
mod spans;

mod blockers;
mod circle;
mod queue;
mod table;

#[cfg(all(test, not(loom)))]
mod tests;

use std::sync::{Arc, atomic};
use std::task::Waker;

pub use mode::LockMode;
pub use policy::{Age, DeadlockPolicy, Victim};

use isolith_wal::fork;

use crate::read_set::Interval;
use crate::space::{Space, SpaceId};
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering};
use crate::validate::SpaceWrites;
use room::SlotId;
use table::Table;

/// Locks released under one hold of the mutex.
const RELEASED_AT_ONCE: usize = 64;

/// A lock that stands in the way, or a link of a circle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// How old its owner is.
    pub age: Age,
    /// The mode in which it is held; for a request that is ahead, the mode that is asked for.
    pub mode: LockMode,
    /// The keyspace.
    pub space: SpaceId,
    /// What is locked.
    pub what: Interval,
}

/// What a lock is asked on.
#[derive(Clone, Copy, Debug)]
pub enum LockTarget<'a> {
    /// One key, there or not.
    Key(&'a [u8]),
    /// Every key within, there or not.
    Range(&'a Interval),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockStep {
    /// The lock is held.
    Granted,
    /// The request is queued. Its waker is called when it is worth asking again.
    Waiting,
    /// The request is refused, and nothing of it is left in the table.
    Refused(Refusal),
}

/// Why a lock was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Somebody older has taken this owner's locks.
    Wounded {
        /// Who.
        by: Age,
    },
    /// Somebody stands in the way, and the owner's policy is not to wait for them.
    Refused {
        /// What stands in the way.
        holders: Vec<Holder>,
    },
    /// This owner is the victim of a circle of waiting.
    Deadlock {
        /// The circle: each link a lock that the owner of the link before waits for.
        cycle: Vec<Holder>,
    },
}

/// How an owner came to lose its locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wound {
    /// Somebody older needed them.
    Older {
        /// Who.
        by: Age,
    },
    /// It was the victim of a circle of waiting that somebody else found.
    Deadlock {
        /// The circle: each link a lock that the owner of the link before waits for.
        cycle: Vec<Holder>,
    },
}

impl From<Wound> for Refusal {
    fn from(wound: Wound) -> Refusal {
        match wound {
            Wound::Older { by } => Refusal::Wounded { by },
            Wound::Deadlock { cycle } => Refusal::Deadlock { cycle },
        }
    }
}

/// Counts of a lock table. All but the first two only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockStats {
    /// Locks in the table now.
    pub held: u64,
    /// Requests that wait now.
    pub waiting: u64,
    /// Requests that had to wait.
    pub waits: u64,
    /// Owners that lost their locks to an older one.
    pub wounds: u64,
    /// Circles of waiting that were broken by refusing somebody.
    pub deadlocks: u64,
    /// Requests refused by wait-die or no-wait.
    pub refusals: u64,
    /// Waits that were given up because their time was over.
    pub timeouts: u64,
}

/// The locks of one database.
#[derive(Debug)]
pub struct LockTable {
    table: Mutex<Table>,
    next_age: AtomicU64,
    next_serial: AtomicU64,
    /// The process that it belongs to: in a forked child the mutex may be locked for ever.
    generation: u64,
}

impl LockTable {
    /// A table without locks.
    pub fn new() -> Self {
        Self {
            table: Mutex::new(Table::default()),
            next_age: AtomicU64::new(1),
            next_serial: AtomicU64::new(1),
            generation: fork::generation(),
        }
    }

    /// The age of a transaction that begins now for the first time.
    pub fn next_age(&self) -> Age {
        // Relaxed: only the number matters.
        Age::from_bits(self.next_age.fetch_add(1, Ordering::Relaxed))
    }

    /// An owner without locks. It costs the table nothing before it asks for one.
    pub fn owner(self: &Arc<Self>, age: Age, policy: DeadlockPolicy) -> LockOwner {
        // Relaxed: only the number matters.
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        let identity = Identity {
            age,
            serial,
            policy,
            state: AtomicU32::new(ACTIVE),
            slot: atomic::AtomicU32::new(NO_SLOT),
            count: atomic::AtomicUsize::new(0),
            bytes: atomic::AtomicUsize::new(0),
        };
        LockOwner { table: Arc::clone(self), identity: Arc::new(identity) }
    }

    /// Whether a lock of somebody else is in conflict with these writes: with an exclusive lock on each
    /// key and each range delete. `own` is exempt. For the window's leader: no allocation; it need not
    /// be called where no keyspace that is written to [has lockers](Space::has_lockers).
    pub fn stands_in_the_way(&self, own: Option<&LockOwner>, writes: &[SpaceWrites]) -> bool {
        if !writes.iter().any(|share| share.space.has_lockers())
            || isolith_wal::planted!("locks-not-checked-by-committers")
        {
            return false;
        }
        self.table.lock().stands_in_the_way(own.map(|own| &*own.identity), writes)
    }

    /// Wakes everybody who waits for a lock, to look whether it is worth it still.
    pub fn wake_all(&self) {
        let mut effects = Effects::default();
        self.table.lock().wake_all(&mut effects);
        effects.carry_out(self);
    }

    /// What is held and waited for, and what was done about it.
    pub fn stats(&self) -> LockStats {
        self.table.lock().stats()
    }
}

impl Default for LockTable {
    fn default() -> Self {
        Self::new()
    }
}

/// What is left to do once the mutex is free.
#[derive(Debug, Default)]
struct Effects {
    wake: Vec<Waker>,
    drop: Vec<Waker>,
    /// Keyspaces that may go now.
    spaces: Vec<Arc<Space>>,
    /// Owners that were wounded and have locks in the table still.
    stripped: Vec<Arc<Identity>>,
}

impl Effects {
    fn wake(&mut self, waker: Option<Waker>) {
        self.wake.extend(waker);
    }

    fn drop_later(&mut self, waker: Option<Waker>) {
        self.drop.extend(waker);
    }

    fn carry_out(self, table: &LockTable) {
        for waker in self.wake {
            waker.wake();
        }
        for identity in self.stripped {
            release(table, &identity, false);
        }
    }
}

const ACTIVE: u32 = 0;
const COMMITTING: u32 = 1;
const WOUNDED: u32 = 2;
const OVER: u32 = 3;

/// The slot of an owner that has none.
const NO_SLOT: SlotId = SlotId::MAX;

/// Who an owner is, and the word that says how far it is.
#[derive(Debug)]
struct Identity {
    age: Age,
    /// Never given twice; decides between owners of one age.
    serial: u64,
    policy: DeadlockPolicy,
    state: AtomicU32,
    /// Its place in the table; guarded by the table's mutex.
    slot: atomic::AtomicU32,
    /// Its locks, and the bytes that they take; stored under the table's mutex.
    count: atomic::AtomicUsize,
    bytes: atomic::AtomicUsize,
}

impl Identity {
    fn slot(&self) -> SlotId {
        // Relaxed: the mutex orders it.
        self.slot.load(atomic::Ordering::Relaxed)
    }

    fn set_slot(&self, slot: SlotId) {
        // Relaxed: the mutex orders it.
        self.slot.store(slot, atomic::Ordering::Relaxed);
    }

    fn count(&self) -> usize {
        // Relaxed: a number for its owner, and for the choice of a victim.
        self.count.load(atomic::Ordering::Relaxed)
    }

    /// Adds to what it holds. Under the table's mutex.
    fn account(&self, locks: isize, bytes: isize) {
        for (sum, more) in [(&self.count, locks), (&self.bytes, bytes)] {
            // Relaxed: stored under the mutex alone, so nothing comes between.
            let now = sum.load(atomic::Ordering::Relaxed).wrapping_add_signed(more);
            sum.store(now, atomic::Ordering::Relaxed);
        }
    }

    /// It holds nothing any more. Under the table's mutex.
    fn account_nothing(&self) {
        // Relaxed: as in `account`.
        self.count.store(0, atomic::Ordering::Relaxed);
        self.bytes.store(0, atomic::Ordering::Relaxed);
    }

    /// The order of queues: smaller goes first.
    fn rank(&self) -> (Age, u64) {
        (self.age, self.serial)
    }

    fn is_older_than(&self, other: &Identity) -> bool {
        self.rank() < other.rank()
    }

    fn state(&self) -> u32 {
        // Acquire: pairs with the Release of the exchanges in `exchange`.
        self.state.load(Ordering::Acquire)
    }

    /// Whether its locks count.
    fn is_live(&self) -> bool {
        matches!(self.state(), ACTIVE | COMMITTING)
    }

    /// Moves from one state to the next; false if it was not in the first.
    fn exchange(&self, from: u32, to: u32) -> bool {
        // Release: who sees the new state sees what its mover did before. Acquire: and the other way
        // round; begin_commit and wound are each other's partners.
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// What one transaction holds in the table, and what it waits for. Dropping it cancels the wait and
/// releases everything.
#[derive(Debug)]
pub struct LockOwner {
    table: Arc<LockTable>,
    identity: Arc<Identity>,
}

impl LockOwner {
    /// How old its transaction is.
    pub fn age(&self) -> Age {
        self.identity.age
    }

    /// What it does about others that stand in its way.
    pub fn policy(&self) -> DeadlockPolicy {
        self.identity.policy
    }

    /// Asks for a lock. The same call again asks how the request fares that waits, and puts `waker` in
    /// the place of the one before; another target or mode while one waits cancels that one first. An
    /// empty interval is granted and locks nothing.
    ///
    /// `waker` is called once the request was granted, or the owner has lost its locks. It is stored under
    /// the mutex that decides the request, so no wake-up is lost.
    pub fn lock(
        &self,
        space: &Arc<Space>,
        what: LockTarget<'_>,
        mode: LockMode,
        waker: Option<&Waker>,
    ) -> LockStep {
        let mut effects = Effects::default();
        let step = {
            let mut table = self.table.table.lock();
            table.lock(&self.identity, space, what, mode, waker, &mut effects)
        };
        effects.carry_out(&self.table);
        step
    }

    /// What stands in the way of the request that waits, one lock of each owner, oldest first; nothing if
    /// none waits, or if it was granted meanwhile.
    pub fn waits_for(&self) -> Vec<Holder> {
        self.table.table.lock().standing_in_the_way_of(&self.identity)
    }

    /// Gives up the request that waits, if there is one, and a lock that it was given and has not been
    /// told of: what was held before is held again. Answers what stood in its way; `timed_out` is for the
    /// statistics.
    pub fn cancel_wait(&self, timed_out: bool) -> Vec<Holder> {
        let mut effects = Effects::default();
        let holders = self.table.table.lock().cancel(&self.identity, timed_out, &mut effects);
        effects.carry_out(&self.table);
        holders
    }

    /// The mode in which it holds a key, through whatever lock.
    pub fn holds(&self, space: SpaceId, key: &[u8]) -> Option<LockMode> {
        self.table.table.lock().holds(&self.identity, space, key)
    }

    /// Whether it has its locks still, and its commit has not begun.
    pub fn is_active(&self) -> bool {
        self.identity.state() == ACTIVE
    }

    /// How it lost its locks, if it did.
    pub fn wounded_by(&self) -> Option<Wound> {
        if self.identity.state() != WOUNDED {
            return None;
        }
        self.table.table.lock().wound_of(&self.identity)
    }

    /// Its commit begins: nobody can take its locks any more. False if somebody has. For the window's
    /// leader; lock-free.
    #[must_use = "who has lost its locks must not commit"]
    pub fn begin_commit(&self) -> bool {
        self.identity.exchange(ACTIVE, COMMITTING)
    }

    /// Its commit did not come about, and it goes on. For the window's leader; lock-free. An older owner
    /// that would have taken its locks meanwhile takes them when it next asks for one.
    pub fn back_to_active(&self) {
        let was_committing = self.identity.exchange(COMMITTING, ACTIVE);
        debug_assert!(was_committing, "only a commit that has begun can be taken back");
    }

    /// Gives up all locks, whether somebody has taken them or not, and begins anew with none, at the
    /// same age. For work that has seen nothing under them. Not while its commit may be decided.
    pub fn begin_again(&self) {
        // Wounded by itself, if by nobody else: from here on its locks count for nothing.
        let _ = self.identity.exchange(ACTIVE, WOUNDED);
        release(&self.table, &self.identity, true);
        let _ = self.identity.exchange(WOUNDED, ACTIVE);
    }

    /// Bytes that its locks take.
    pub fn bytes(&self) -> usize {
        // Relaxed: only the number matters.
        self.identity.bytes.load(atomic::Ordering::Relaxed)
    }

    /// Locks that it holds; a stretch locked bit by bit is one.
    pub fn lock_count(&self) -> usize {
        self.identity.count()
    }

    /// Cancels the wait and releases everything, as dropping it does: the transaction is over, and a
    /// lock asked for after this is refused.
    ///
    /// In a forked child it does nothing.
    pub fn release(&self) {
        if fork::generation() != self.table.generation {
            return;
        }
        // Release: what the transaction did happens before what others do that see its locks gone.
        let before = self.identity.state.swap(OVER, Ordering::AcqRel);
        if before == OVER || before == ACTIVE && isolith_wal::planted!("abort-leaks-locks") {
            return;
        }
        release(&self.table, &self.identity, true);
    }
}

impl Drop for LockOwner {
    fn drop(&mut self) {
        // Nobody else has it any more, so a slot that it has not now it will never have.
        if self.identity.slot() != NO_SLOT {
            self.release();
        }
    }
}

/// Takes the locks of an owner that is not live any more out of the table, some at a time.
fn release(table: &LockTable, identity: &Identity, forget: bool) {
    loop {
        let mut effects = Effects::default();
        let more = table.table.lock().release(identity, RELEASED_AT_ONCE, forget, &mut effects);
        effects.carry_out(table);
        if !more {
            return;
        }
    }
}
