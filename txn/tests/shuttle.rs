//! Many threads of random transactions over the lock table and the round, under random schedules that
//! shuttle makes and can repeat. Larger than what loom can go through, and no proof; one core's order
//! only, so it says nothing about atomics (loom does).
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test -p isolith-txn --release --test shuttle`
//!
//! `ISOLITH_SCHEDULES=n` sets how many schedules each test tries (3000). A failure prints its schedule, to
//! be given to `shuttle::replay`. Without `--cfg shuttle` this target is empty.
//!
//! What must hold, under any schedule: nobody waits for ever (shuttle reports it when all threads wait);
//! every transaction commits in the end, with its age kept; a reader that still has its locks has seen one
//! state; no addition is lost; and when all have gone, the table is empty.

#![cfg(shuttle)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use isolith_index::{Kind, Memtable, Value};
use isolith_txn::{
    CommitRound, DeadlockPolicy, Interval, KeyBound, LockMode, LockOwner, LockStep, LockTable,
    LockTarget, Space, SpaceWrites,
};
use shuttle::rand::Rng;
use shuttle::sync::Mutex;
use shuttle::thread::{self, Thread};

const KEYS: usize = 4;
const THREADS: usize = 5;
const TRANSACTIONS: usize = 3;
/// Tries after which a transaction says that it starves.
const TRIES_MAX: usize = 2000;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// A bank: the sum over all keys never changes.
struct Bank {
    table: Arc<LockTable>,
    space: Arc<Space>,
    round: CommitRound,
    window: Mutex<()>,
    balances: [AtomicI64; KEYS],
    committed: AtomicU64,
}

/// A transaction that has to be tried again.
struct TryAgain;

fn below(end: usize) -> usize {
    shuttle::rand::thread_rng().gen_range(0..end)
}

fn key(number: usize) -> [u8; 1] {
    [b'a' + number as u8]
}

impl Bank {
    fn new() -> Arc<Bank> {
        Arc::new(Bank {
            table: Arc::new(LockTable::new()),
            space: Arc::new(Space::new(1, Arc::new(Memtable::new(1)))),
            round: CommitRound::new(),
            window: Mutex::new(()),
            balances: [const { AtomicI64::new(100) }; KEYS],
            committed: AtomicU64::new(0),
        })
    }

    /// Asks until there is an answer; now and then gives up instead.
    fn lock(
        &self,
        owner: &LockOwner,
        what: LockTarget<'_>,
        mode: LockMode,
    ) -> Result<(), TryAgain> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            match owner.lock(&self.space, what, mode, Some(&waker)) {
                LockStep::Granted => return Ok(()),
                LockStep::Refused(_) => return Err(TryAgain),
                LockStep::Waiting if below(8) == 0 => {
                    owner.cancel_wait(true);
                    return Err(TryAgain);
                }
                LockStep::Waiting => thread::park(),
            }
        }
    }

    fn read(&self, number: usize) -> i64 {
        thread::yield_now();
        self.balances[number].load(Ordering::Relaxed)
    }

    /// Moves money between two keys, as `owner` or without locks of its own.
    fn transfer(&self, owner: Option<&LockOwner>, policy: DeadlockPolicy) -> Result<(), TryAgain> {
        let (from, to) = (below(KEYS), below(KEYS));
        if let Some(owner) = owner {
            for number in [from, to] {
                let first = [LockMode::Shared, LockMode::Update, LockMode::Exclusive][below(3)];
                self.lock(owner, LockTarget::Key(&key(number)), first)?;
                self.round.await_even();
            }
            for number in [from, to] {
                self.lock(owner, LockTarget::Key(&key(number)), LockMode::Exclusive)?;
            }
            self.round.await_even();
        }
        let mut prepared = self.space.prepare(2);
        let mut keys = [from, to];
        keys.sort_unstable();
        for number in &keys[usize::from(from == to)..] {
            prepared.add(&key(*number), Kind::Put, Value::new(b""), 0);
        }
        let writes = [SpaceWrites::new(Arc::clone(&self.space), prepared)];
        // Who has no locks and meets somebody's becomes a locker for the rest of its commit.
        let mut late: Option<LockOwner> = None;
        loop {
            let own = owner.or(late.as_ref());
            let window = self.window.lock().unwrap();
            self.round.begin();
            if own.is_some_and(|own| !own.begin_commit()) {
                self.round.end();
                return Err(TryAgain);
            }
            let stopped = self.space.has_lockers() && self.table.stands_in_the_way(own, &writes);
            if !stopped {
                // Additions: lost if two are in here at once, torn for who reads without its lock's leave.
                let taken = self.read(from) - 1;
                self.balances[from].store(taken, Ordering::Relaxed);
                let given = self.read(to) + 1;
                self.balances[to].store(given, Ordering::Relaxed);
                thread::yield_now();
                self.round.end();
                return Ok(());
            }
            if let Some(own) = own {
                own.back_to_active();
            }
            self.round.end();
            drop(window);
            let own = match owner {
                Some(own) => own,
                None => late.get_or_insert_with(|| self.table.owner(self.table.next_age(), policy)),
            };
            for number in keys {
                self.lock(own, LockTarget::Key(&key(number)), LockMode::Exclusive)?;
            }
        }
    }

    /// Locks the keys as a cursor does, and sums them up.
    fn audit(&self, owner: &LockOwner) -> Result<(), TryAgain> {
        let bound = |number: usize| KeyBound::Included((&key(number)).into());
        let forward = below(2) == 0;
        let mut sum = 0;
        for step in 0..KEYS {
            let number = if forward { step } else { KEYS - 1 - step };
            let stretch = match (forward, step) {
                (_, 0) => Interval { lower: bound(number), upper: bound(number) },
                (true, _) => Interval {
                    lower: KeyBound::Excluded((&key(number - 1)).into()),
                    upper: if step + 1 == KEYS { KeyBound::Unbounded } else { bound(number) },
                },
                (false, _) => Interval {
                    lower: if step + 1 == KEYS { KeyBound::Unbounded } else { bound(number) },
                    upper: KeyBound::Excluded((&key(number + 1)).into()),
                },
            };
            self.lock(owner, LockTarget::Range(&stretch), LockMode::Shared)?;
            self.round.await_even();
            sum += self.read(number);
        }
        if !owner.is_active() {
            return Err(TryAgain);
        }
        assert_eq!(owner.lock_count(), 1, "a cursor's stretch is one lock");
        assert_eq!(sum, 100 * KEYS as i64, "seen under locks that were not taken away");
        Ok(())
    }

    /// One transaction, tried until it commits, its age kept.
    fn transaction(&self, policies: &[DeadlockPolicy]) {
        let policy = policies[below(policies.len())];
        let age = self.table.next_age();
        let kind = below(4);
        for _ in 0..TRIES_MAX {
            let owner = self.table.owner(age, policy);
            let done = match kind {
                0 => self.transfer(None, policy),
                1 => self.audit(&owner),
                _ => self.transfer(Some(&owner), policy),
            };
            drop(owner);
            if done.is_ok() {
                self.committed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            thread::yield_now();
        }
        panic!("a transaction starves under {policy}");
    }
}

fn run(policies: &'static [DeadlockPolicy]) {
    let bank = Bank::new();
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let bank = Arc::clone(&bank);
            thread::spawn(move || {
                for _ in 0..TRANSACTIONS {
                    bank.transaction(policies);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(bank.committed.load(Ordering::Relaxed), (THREADS * TRANSACTIONS) as u64);
    let sum: i64 = bank.balances.iter().map(|balance| balance.load(Ordering::Relaxed)).sum();
    assert_eq!(sum, 100 * KEYS as i64);
    let stats = bank.table.stats();
    assert_eq!((stats.held, stats.waiting), (0, 0), "{stats:?}");
    assert!(!bank.space.has_lockers());
}

fn schedules() -> usize {
    std::env::var("ISOLITH_SCHEDULES").map_or(3000, |number| number.parse().unwrap())
}

#[test]
fn all_policies_at_once_under_random_schedules() {
    shuttle::check_random(|| run(&DeadlockPolicy::ALL), schedules());
}

#[test]
fn all_policies_at_once_with_few_switches() {
    shuttle::check_pct(|| run(&DeadlockPolicy::ALL), schedules(), 4);
}

#[test]
fn each_policy_alone() {
    for policy in DeadlockPolicy::ALL.chunks(1) {
        shuttle::check_random(move || run(policy), schedules() / 5);
    }
}
