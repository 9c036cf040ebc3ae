//! All levels, controls and policies at once, with every way to wait and to give up; and somebody
//! outside who notices when nothing moves.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::*;
use crate::database::tests::reopenable;

const ACCOUNTS: u64 = 12;
const TOTAL: u64 = ACCOUNTS * 100;
const SEATS: usize = 5;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future; gives up after `polls` polls.
fn block_on<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    for _ in 0..polls {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
        thread::park();
    }
    None
}

fn number(value: Option<Slice>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes((*value).try_into().unwrap()))
}

fn controls() -> Vec<Concurrency> {
    use DeadlockPolicy::{Detect, NoWait, WaitDie, WoundWait};
    let policies =
        [WoundWait, WaitDie, NoWait, Detect(Victim::Youngest), Detect(Victim::FewestLocks)];
    let others = [Concurrency::Optimistic, Concurrency::Auto, Concurrency::Auto];
    policies.map(Concurrency::Locking).into_iter().chain(others).collect()
}

/// Moves money between two accounts.
fn transfer(
    tx: &mut Transaction,
    space: &Keyspace,
    (from, to, amount): (u64, u64, u64),
    with_savepoint: bool,
) -> Result<()> {
    let weak = tx.isolation() == Isolation::ReadCommitted;
    let balance = |tx: &mut Transaction, account: u64| match weak {
        true => tx.get_for_update(space, account.to_be_bytes()).map(number),
        false => tx.get(space, account.to_be_bytes()).map(number),
    };
    let from_has = balance(tx, from)?;
    let amount = amount.min(from_has);
    tx.put(space, from.to_be_bytes(), (from_has - amount).to_le_bytes())?;
    if with_savepoint {
        let save = tx.savepoint();
        tx.delete_range(space, ..)?;
        tx.rollback_to(save)?;
    }
    let to_has = balance(tx, to)?;
    tx.put(space, to.to_be_bytes(), (to_has + amount).to_le_bytes())
}

/// The sum of all accounts, by a scan or one by one.
fn sum(tx: &Transaction, space: &Keyspace, how: u64) -> Result<u64> {
    let value = |pair: Result<Pair>| pair.map(|(_, value)| number(Some(value)));
    match how {
        0 => tx.range(space, ..).map(value).sum(),
        1 => tx.range(space, ..).rev().map(value).sum(),
        2 => {
            let mut range = tx.range(space, ..);
            let mut sum = 0;
            while let Some(pair) = range.next() {
                sum += value(pair)?;
                sum += range.next_back().map_or(Ok(0), value)?;
            }
            Ok(sum)
        }
        _ => (0..ACCOUNTS).map(|at| tx.get(space, at.to_be_bytes()).map(number)).sum(),
    }
}

/// Takes a seat in the row if one is free; with none free sometimes empties the row.
fn sit(tx: &mut Transaction, row: &Keyspace, who: u64, lock: bool, clear: bool) -> Result<()> {
    if lock {
        tx.lock_range(row, .., RangeLock::Exclusive)?;
    }
    let mut taken = 0;
    for pair in tx.range(row, ..) {
        pair?;
        taken += 1;
    }
    assert!(taken <= SEATS || tx.isolation() != Isolation::Serializable, "{taken} on the row");
    if taken < SEATS {
        return tx.put(row, who.to_be_bytes(), "");
    }
    if clear { tx.delete_range(row, ..) } else { Ok(()) }
}

/// Adds to two counters, by merges, by reading and writing, and by two operators on one key. Answers
/// how much.
fn count(tx: &mut Transaction, counters: &Keyspace, random: &mut Random) -> Result<u64> {
    let mut added = 0;
    for _ in 0..2 {
        let key = [random.below(3) as u8];
        match random.below(8) {
            0 | 1 => {
                let now = match tx.isolation() == Isolation::ReadCommitted {
                    true => tx.get_for_update(counters, key)?,
                    false => tx.get(counters, key)?,
                };
                tx.put(counters, key, (decimal(now) + 1).to_string())?;
            }
            2 => {
                tx.get(counters, key)?;
                tx.merge(counters, key, merge::ADD_I64, "1")?;
            }
            3 => {
                tx.merge(counters, key, merge::ADD_I64, "1")?;
                tx.get(counters, key)?;
            }
            4 => {
                tx.merge(counters, key, merge::ADD_I64, "1")?;
                tx.merge(counters, key, merge::MAX_I64, "0")?;
            }
            5 => {
                tx.merge(counters, key, merge::ADD_I64, "1")?;
                tx.range(counters, ..).try_for_each(|pair| pair.map(drop))?;
            }
            _ => tx.merge(counters, key, merge::ADD_I64, "1")?,
        }
        added += 1;
    }
    Ok(added)
}

fn decimal(value: Option<Slice>) -> u64 {
    value.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap())
}

#[test]
fn whatever_is_mixed_the_books_are_right_and_somebody_gets_on() {
    mix(Builder::in_memory());
}

#[test]
fn the_same_with_a_log_which_then_has_it_all() {
    let (builder, _) = reopenable();
    // A credit that is not given back would soon be missed.
    let builder = builder.stall_timeout(Duration::from_secs(2));
    mix(builder.clone());
    let db = builder.open().unwrap();
    let accounts = db.keyspace("accounts").unwrap();
    assert_eq!(sum(&db.begin_read_only().unwrap(), &accounts, 0).unwrap(), TOTAL);
}

fn mix(builder: Builder) {
    let seed = std::env::var("ISOLITH_SEED")
        .map_or_else(|_| isolith_wal::random_seed(), |seed| seed.parse().unwrap());
    println!("ISOLITH_SEED={seed}");
    let length = std::env::var("ISOLITH_STRESS_SECS").map_or(1, |secs| secs.parse().unwrap());
    let db = builder.lock_timeout(Duration::from_millis(500)).open().unwrap();
    let [accounts, row, counters] =
        ["accounts", "row", "counters"].map(|name| db.keyspace(name).unwrap());
    for account in 0..ACCOUNTS {
        accounts.put(account.to_be_bytes(), 100u64.to_le_bytes()).unwrap();
    }
    // Relaxed throughout: who sees that it is over late does one more, that nothing moves is looked for
    // over seconds, and what was added is read when all threads have ended.
    let (over, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    // What was added for sure, and what may have been.
    // Relaxed, all of them: sums that are read once the threads are joined, and a flag of which it does
    // not matter when it is seen.
    let (added, unsure) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = |thread: u64| {
        let mut random = Random(seed.wrapping_mul(2 * thread + 1) | 1);
        let controls = controls();
        let durabilities = [Durability::Sync, Durability::Os, Durability::Buffered];
        let mut age = None;
        while !over.load(Ordering::Relaxed) {
            let options = TransactionOptions {
                isolation: random.of(&Isolation::ALL),
                concurrency: random.of(&controls),
                age,
                timeout: (random.below(50) == 0).then_some(Duration::from_millis(1)),
                lock_timeout: (random.below(8) == 0).then_some(Duration::from_micros(200)),
                read_only: random.below(20) == 0,
                durability: Some(random.of(&durabilities)),
                ..Default::default()
            };
            let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
            let money = (from, if to == from { (to + 1) % ACCOUNTS } else { to }, random.below(30));
            let (what, how, dice) = (random.below(8), random.below(4), random.below(100));
            let mut tx = db.begin_with(options).unwrap();
            let (mut seen, mut adds) = (None, 0);
            let choices = random.below(u64::MAX) | 1;
            let mut body = |tx: &mut Transaction| match what {
                _ if options.read_only => {
                    seen = Some(sum(tx, &accounts, how)?);
                    Ok(())
                }
                0..=2 => transfer(tx, &accounts, money, dice < 10),
                3 => {
                    seen = Some(sum(tx, &accounts, how)?);
                    if dice < 50 { transfer(tx, &accounts, money, false) } else { Ok(()) }
                }
                6 | 7 => {
                    adds = count(tx, &counters, &mut Random(choices))?;
                    Ok(())
                }
                // Phantoms are kept out at one level alone.
                4 => sit(tx, &row, thread << 32 | money.2, dice < 30, dice % 2 == 0),
                _ => {
                    tx.lock_range(&accounts, money.0.to_be_bytes().., RangeLock::Shared)?;
                    tx.get_for_share(&accounts, money.1.to_be_bytes())?;
                    transfer(tx, &accounts, money, false)
                }
            };
            let isolation = options.isolation;
            if what == 4 && isolation != Isolation::Serializable {
                continue;
            }
            let result = match random.below(4) {
                0 | 1 => body(&mut tx),
                2 => block_on(tx.run(&mut body), 20).unwrap_or(Err(Error::WouldWait)),
                _ => loop {
                    match tx.step(&mut body) {
                        Step::Ready(()) => break Ok(()),
                        Step::Aborted(error) => break Err(error),
                        Step::Blocked(_) if random.below(200) == 0 => break Err(Error::WouldWait),
                        Step::Blocked(_) => thread::yield_now(),
                    }
                },
            };
            let my_age = tx.age();
            let result = result.and_then(|()| match random.below(8) {
                0 => {
                    drop(tx);
                    Err(Error::WouldWait)
                }
                1..=3 => tx.commit().map(drop),
                4 | 5 => block_on(tx.commit_steps(), 20).map_or_else(
                    || {
                        // Relaxed: read once all threads have ended.
                        unsure.fetch_add(adds, Ordering::Relaxed);
                        Err(Error::WouldWait)
                    },
                    |result| result.map(drop),
                ),
                6 => {
                    let mut steps = tx.commit_steps();
                    let _ = steps.step();
                    drop(steps);
                    // It may have been decided.
                    unsure.fetch_add(adds, Ordering::Relaxed);
                    Err(Error::WouldWait)
                }
                _ => tx.commit_pending().and_then(Pending::wait).map(drop),
            });
            match result {
                Ok(()) => {
                    moved.fetch_add(1, Ordering::Relaxed);
                    added.fetch_add(adds, Ordering::Relaxed);
                    age = None;
                    let by_scan = how < 3 && isolation == Isolation::RepeatableRead;
                    if let Some(sum) = seen
                        && (isolation != Isolation::ReadCommitted && !by_scan || options.read_only)
                    {
                        assert_eq!(sum, TOTAL, "{options:?} {what} {how}");
                    }
                }
                Err(Error::WouldWait | Error::TransactionTimeout | Error::LockTimeout { .. }) => {
                    age = None;
                }
                Err(error) => {
                    let again = matches!(error.retry(), Retry::Now | Retry::WithLocks);
                    assert!(again, "{error}");
                    age = Some(my_age);
                }
            }
        }
    };
    // Nobody's own operations fail but for time.
    let autocommit = || {
        let mut random = Random(seed | 1);
        while !over.load(Ordering::Relaxed) {
            let result = match random.below(3) {
                0 => accounts.delete_range("x"..),
                1 => row.delete_range(random.below(1 << 34).to_be_bytes()..),
                _ => accounts.delete("none"),
            };
            match result {
                Ok(()) | Err(Error::LockTimeout { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            thread::sleep(Duration::from_micros(random.below(300)));
        }
    };
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (1..=6).map(|thread| scope.spawn(move || work(thread))).collect();
        scope.spawn(autocommit);
        let (began, mut last) = (Instant::now(), (Instant::now(), 0));
        while began.elapsed() < Duration::from_secs(length)
            && !workers.iter().any(|worker| worker.is_finished())
        {
            thread::sleep(Duration::from_millis(20));
            let now = moved.load(Ordering::Relaxed);
            if now != last.1 {
                last = (Instant::now(), now);
            }
            if last.0.elapsed() > Duration::from_secs(5) {
                eprintln!("nothing moves: {:#?}\n{:#?}", db.stats(), db.core().locks());
                std::process::abort();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let stats = db.stats();
    println!("{} moved, {:?}", moved.load(Ordering::Relaxed), stats.locks);
    assert_eq!((stats.locks.held, stats.locks.waiting, stats.snapshots), (0, 0, 0));
    assert!(![&accounts, &row].iter().any(|space| space.space().has_lockers()));
    assert_eq!(sum(&db.begin_read_only().unwrap(), &accounts, 0).unwrap(), TOTAL);
    let counted: u64 = (0..3u8).map(|key| decimal(counters.get([key]).unwrap())).sum();
    let (added, unsure) = (added.into_inner(), unsure.into_inner());
    assert!((added..=added + unsure).contains(&counted), "{added}, {unsure}, {counted}");
    assert!(row.len().unwrap() <= SEATS);
    db.close().unwrap();
}
