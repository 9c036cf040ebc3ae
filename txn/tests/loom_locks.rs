//! Models of the lock table beside threads that come, wait, wound and go, run by loom over the real code:
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p isolith-txn --release --test loom_locks`
//!
//! Without `--cfg loom` this target is empty. Each model has been seen to fail on the breaks that its
//! comment names.

#![cfg(loom)]

use std::sync::Arc;
use std::task::{Wake, Waker};

use isolith_index::{Kind, Memtable, Value};
use isolith_txn::{
    Age, CommitRound, DeadlockPolicy, LockMode, LockOwner, LockStep, LockTable, LockTarget,
    Refusal, Space, SpaceWrites, Victim,
};
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread::{self, Thread};

const DETECT: DeadlockPolicy = DeadlockPolicy::Detect(Victim::Youngest);

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What every model has: a table, a keyspace, and something that the locks protect.
struct World {
    table: Arc<LockTable>,
    space: Arc<Space>,
    /// Loaded and stored, Relaxed, by who holds the lock: only the lock keeps an addition from being
    /// lost.
    sum: AtomicUsize,
}

impl World {
    fn new() -> Arc<World> {
        let space = Arc::new(Space::new(1, Arc::new(Memtable::new(1))));
        Arc::new(World { table: Arc::new(LockTable::new()), space, sum: AtomicUsize::new(0) })
    }

    fn owner(&self, age: u64, policy: DeadlockPolicy) -> LockOwner {
        self.table.owner(Age::from_bits(age), policy)
    }

    fn ask(&self, owner: &LockOwner, key: &[u8], mode: LockMode) -> LockStep {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        owner.lock(&self.space, LockTarget::Key(key), mode, Some(&waker))
    }

    /// Asks, and sleeps until there is an answer: a lost wake-up is a deadlock that loom reports.
    fn lock(&self, owner: &LockOwner, key: &[u8], mode: LockMode) -> Result<(), Refusal> {
        loop {
            match self.ask(owner, key, mode) {
                LockStep::Granted => return Ok(()),
                LockStep::Waiting => thread::park(),
                LockStep::Refused(refusal) => return Err(refusal),
            }
        }
    }

    fn add(&self) {
        let sum = self.sum.load(Ordering::Relaxed);
        self.sum.store(sum + 1, Ordering::Relaxed);
    }

    /// Everybody has gone.
    fn is_empty(&self) {
        let stats = self.table.stats();
        assert_eq!((stats.held, stats.waiting), (0, 0));
        assert!(!self.space.has_lockers());
    }
}

/// A lock is handed to two who may be parked. Fails where the waker is stored after the mutex was let go
/// of, where a release does not look at who waits, and without the waker's call.
#[test]
fn a_lock_is_handed_over_to_who_is_parked() {
    loom::model(|| {
        let world = World::new();
        let first = world.owner(1, DETECT);
        assert_eq!(world.ask(&first, b"k", LockMode::Exclusive), LockStep::Granted);
        let others: Vec<_> = [2, 3]
            .map(|age| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    let owner = world.owner(age, DETECT);
                    world.lock(&owner, b"k", LockMode::Exclusive).unwrap();
                    world.add();
                })
            })
            .into();
        world.add();
        drop(first);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(world.sum.load(Ordering::Relaxed), 3);
        world.is_empty();
    });
}

/// Two hold a lock shared; one upgrades while the other goes and a third waits for it exclusively. Nobody
/// comes between the shared lock and the exclusive one. Fails where the upgrade lets go of the shared lock
/// first.
#[test]
fn an_upgrade_loses_nothing_between_the_two_locks() {
    loom::model(|| {
        let world = World::new();
        let (reader, upgrader) = (world.owner(1, DETECT), world.owner(3, DETECT));
        assert_eq!(world.ask(&reader, b"k", LockMode::Shared), LockStep::Granted);
        assert_eq!(world.ask(&upgrader, b"k", LockMode::Shared), LockStep::Granted);
        let seen = world.sum.load(Ordering::Relaxed);
        let writer = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let writer = world.owner(2, DETECT);
                world.lock(&writer, b"k", LockMode::Exclusive).unwrap();
                world.add();
            })
        };
        let releaser = thread::spawn(move || drop(reader));
        world.lock(&upgrader, b"k", LockMode::Exclusive).unwrap();
        assert_eq!(world.sum.load(Ordering::Relaxed), seen, "changed under a shared lock");
        world.add();
        drop(upgrader);
        writer.join().unwrap();
        releaser.join().unwrap();
        assert_eq!(world.sum.load(Ordering::Relaxed), 2);
        world.is_empty();
    });
}

/// An older owner wants what a younger one holds, who may be parked on another lock. Fails where the wound
/// does not wake, and where a wounded owner is granted what it waited for.
#[test]
fn a_parked_waiter_learns_that_it_was_wounded() {
    loom::model(|| {
        let world = World::new();
        let older = world.owner(1, DeadlockPolicy::WoundWait);
        assert_eq!(world.ask(&older, b"far", LockMode::Exclusive), LockStep::Granted);
        let younger = world.owner(2, DeadlockPolicy::WoundWait);
        assert_eq!(world.ask(&younger, b"near", LockMode::Exclusive), LockStep::Granted);
        let waiter = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let refusal = world.lock(&younger, b"far", LockMode::Exclusive).unwrap_err();
                assert_eq!(refusal, Refusal::Wounded { by: Age::from_bits(1) });
                assert!(!younger.begin_commit());
            })
        };
        world.lock(&older, b"near", LockMode::Exclusive).unwrap();
        waiter.join().unwrap();
        assert_eq!(older.lock_count(), 2);
        drop(older);
        world.is_empty();
    });
}

/// A commit begins while an older owner wants the lock: either the commit is refused, or the older one waits
/// for it and finds what it wrote. Fails where the wound, or the commit, looks at the state and then stores it,
/// and where a committing owner is wounded.
#[test]
fn a_wound_and_a_commit_decide_by_one_word() {
    loom::model(|| {
        let world = World::new();
        let younger = Arc::new(world.owner(2, DeadlockPolicy::WoundWait));
        assert_eq!(world.ask(&younger, b"k", LockMode::Exclusive), LockStep::Granted);
        let leader = {
            let (world, younger) = (Arc::clone(&world), Arc::clone(&younger));
            thread::spawn(move || {
                let begun = younger.begin_commit();
                if begun {
                    world.add();
                    younger.release();
                }
                begun
            })
        };
        let older = world.owner(1, DeadlockPolicy::WoundWait);
        world.lock(&older, b"k", LockMode::Exclusive).unwrap();
        let seen = world.sum.load(Ordering::Relaxed);
        world.add();
        let committed = leader.join().unwrap();
        assert_eq!(
            seen,
            usize::from(committed),
            "the lock is had after the commit, or instead of it"
        );
        assert_eq!(younger.wounded_by().is_some(), !committed);
        drop((older, younger));
        world.is_empty();
    });
}

/// A commit that is waited for does not come about, and its owner asks for what the older one holds: it
/// gives way, whichever of the two asks first. Fails where neither the older one's wish is remembered nor
/// a circle looked for, and where a wound does not wake.
#[test]
fn who_comes_back_from_a_commit_gives_way() {
    loom::model(|| {
        let world = World::new();
        let younger = Arc::new(world.owner(2, DeadlockPolicy::WoundWait));
        assert_eq!(world.ask(&younger, b"k", LockMode::Exclusive), LockStep::Granted);
        let older = world.owner(1, DeadlockPolicy::WoundWait);
        assert_eq!(world.ask(&older, b"l", LockMode::Exclusive), LockStep::Granted);
        let leader = {
            let (world, younger) = (Arc::clone(&world), Arc::clone(&younger));
            thread::spawn(move || {
                if younger.begin_commit() {
                    younger.back_to_active();
                }
                let refused = world.lock(&younger, b"l", LockMode::Exclusive).is_err();
                younger.release();
                refused
            })
        };
        world.lock(&older, b"k", LockMode::Exclusive).unwrap();
        assert!(leader.join().unwrap(), "the older one never gives way");
        drop((older, younger));
        world.is_empty();
    });
}

/// A wait is given up while the lock is handed over: the lock goes to who waits behind, or back. Fails
/// where giving up leaves the grant in the table, or does not look at who waits behind.
#[test]
fn a_wait_given_up_leaves_no_lock_behind() {
    loom::model(|| {
        let world = World::new();
        let first = world.owner(1, DETECT);
        assert_eq!(world.ask(&first, b"k", LockMode::Exclusive), LockStep::Granted);
        let impatient = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let owner = world.owner(2, DETECT);
                if world.ask(&owner, b"k", LockMode::Exclusive) == LockStep::Waiting {
                    owner.cancel_wait(true);
                    assert_eq!(owner.holds(1, b"k"), None);
                }
                owner
            })
        };
        let patient = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let owner = world.owner(3, DETECT);
                world.lock(&owner, b"k", LockMode::Exclusive).unwrap();
            })
        };
        drop(first);
        drop(impatient.join().unwrap());
        patient.join().unwrap();
        world.is_empty();
    });
}

/// Two close a circle from two threads: one of them is refused, the other goes on. Fails where who waits
/// does not look for circles, or the victim is not woken.
#[test]
fn a_circle_is_broken_whoever_closes_it() {
    loom::model(|| {
        let world = World::new();
        let run = |world: &World, age, keys: [&[u8]; 2]| {
            let owner = world.owner(age, DETECT);
            let done = keys.iter().try_for_each(|key| world.lock(&owner, key, LockMode::Exclusive));
            if done.is_ok() && owner.begin_commit() {
                world.add();
                return true;
            }
            false
        };
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || run(&world, 2, [b"l", b"k"]))
        };
        assert!(run(&world, 1, [b"k", b"l"]), "the older one is never the victim");
        other.join().unwrap();
        world.is_empty();
    });
}

/// A reader that has just locked a key beside a round that may write it: it reads the same twice. Fails
/// without the fence in `begin` or the one in `on`, where the locker count is not raised, where the end of the
/// round is Relaxed, and where the reader does not wait for it.
#[test]
fn a_locking_reader_and_a_round_see_each_other() {
    loom::model(|| {
        let world = World::new();
        let round = Arc::new(CommitRound::new());
        let mut prepared = world.space.prepare(1);
        prepared.add(b"k", Kind::Put, Value::new(b""), 0);
        let writes = [SpaceWrites::new(Arc::clone(&world.space), prepared)];
        let leader = {
            let (world, round) = (Arc::clone(&world), Arc::clone(&round));
            thread::spawn(move || {
                round.begin();
                let stopped =
                    world.space.has_lockers() && world.table.stands_in_the_way(None, &writes);
                if !stopped {
                    world.add();
                }
                round.end();
                stopped
            })
        };
        let reader = world.owner(1, DETECT);
        assert_eq!(world.ask(&reader, b"k", LockMode::Shared), LockStep::Granted);
        round.await_even();
        let first = world.sum.load(Ordering::Relaxed);
        thread::yield_now();
        let second = world.sum.load(Ordering::Relaxed);
        assert_eq!(first, second, "what is locked was changed");
        let stopped = leader.join().unwrap();
        assert_eq!(second, usize::from(!stopped));
        drop(reader);
        world.is_empty();
    });
}
