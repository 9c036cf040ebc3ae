//! Transactions that fight for keys: read-modify-write of two keys, by any number of threads.
//!
//! A *turn* is a short run of one contender. Contenders take turns, round after round, in an order that
//! moves on with each round, so that all of them meet the same machine; what is compared are the turns of
//! one round. Every transaction adds one to each of two counters, and [`Contender::check`] adds the
//! counters up: a lost update would be found here, too.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use isolith::{
    CommitMode, Concurrency, Database, Durability, Isolation, Keyspace, Slice, Transaction,
    TransactionOptions,
};
use rustix::time::{ClockId, clock_gettime};

use crate::zipf::{Random, Zipf};

/// Bytes of a value: a counter and its padding.
const VALUE_BYTES: usize = 100;
/// Keys of one transaction while a keyspace is filled.
const LOAD_KEYS: u64 = 1000;
/// The longest latency that is told from longer ones.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;

/// How commits are made and conflicts are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A concurrency control over the combining commit.
    Combining(Concurrency),
    /// Optimistic, one commit at a time under a mutex: the baseline.
    Serial,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mode::Combining(concurrency) => concurrency.fmt(f),
            Mode::Serial => f.write_str("serial"),
        }
    }
}

impl std::str::FromStr for Mode {
    type Err = String;

    /// `serial`, or the name of a [`Concurrency`].
    fn from_str(word: &str) -> Result<Self, String> {
        if word == "serial" {
            return Ok(Mode::Serial);
        }
        word.parse().map(Mode::Combining).map_err(|error| error.to_string())
    }
}

/// How a transaction reads what it is going to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// As any other key.
    Plain,
    /// For update.
    ForUpdate,
}

/// What a transaction does besides reading two keys and writing them.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// How it reads the two.
    pub reads: Reads,
    /// Further keys that it reads then, drawn evenly.
    pub others: usize,
    /// Whether it gives way to others before that, as one does that waits for its user.
    pub pauses: bool,
}

impl Work {
    /// Nothing besides.
    pub fn short(reads: Reads) -> Self {
        Self { reads, others: 0, pauses: false }
    }

    /// A pause, and sixty-two keys more.
    pub fn long(reads: Reads) -> Self {
        Self { reads, others: 62, pauses: true }
    }
}

/// One mode with a database of its own.
#[derive(Debug)]
pub struct Contender {
    /// Its mode.
    pub mode: Mode,
    /// Its database.
    pub database: Database,
    /// The keyspace that is fought in.
    pub keyspace: Keyspace,
    keys: u64,
    commits: u64,
}

/// The key of a number: twenty bytes, spread over the whole key space.
pub fn key(number: u64) -> [u8; 20] {
    let mut key = [0; 20];
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    key[..8].copy_from_slice(&spread.to_be_bytes());
    key[8..16].copy_from_slice(&number.to_be_bytes());
    key
}

fn value(counter: u64) -> [u8; VALUE_BYTES] {
    let mut value = [7; VALUE_BYTES];
    value[..8].copy_from_slice(&counter.to_le_bytes());
    value
}

fn counter(value: &[u8]) -> u64 {
    u64::from_le_bytes(*value.first_chunk().expect("a counter"))
}

/// What one turn came to.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Transactions that were committed.
    pub commits: u64,
    /// Times that a transaction was run, those that were rolled back included.
    pub tries: u64,
    /// Transactions given up: a lock was not to be had in time.
    pub failures: u64,
    /// From the start of the threads to the end of the last of them.
    pub elapsed: Duration,
    /// Processor time of the whole process meanwhile.
    pub cpu: Duration,
    /// Nanoseconds from a transaction's first try to its acknowledgement.
    pub latency: Histogram<u64>,
}

impl Turn {
    /// Transactions committed per second.
    pub fn rate(&self) -> f64 {
        self.commits as f64 / self.elapsed.as_secs_f64()
    }

    /// The share of tries that came to nothing.
    pub fn wasted(&self) -> f64 {
        self.tries.saturating_sub(self.commits) as f64 / self.tries.max(1) as f64
    }

    /// Tries that were rolled back, per second.
    pub fn aborts(&self) -> f64 {
        self.tries.saturating_sub(self.commits) as f64 / self.elapsed.as_secs_f64()
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 2).expect("bounds that make a histogram")
}

impl Contender {
    /// Opens a database, in a directory or in memory, and fills it with `keys` counters.
    ///
    /// # Panics
    /// If the database cannot be had.
    pub fn new(mode: Mode, keys: u64, directory: Option<&Path>) -> Self {
        let builder = match directory {
            Some(directory) => Database::builder(directory),
            None => isolith::Builder::in_memory(),
        };
        let commit_mode = match mode {
            Mode::Combining(_) => CommitMode::Combining,
            Mode::Serial => CommitMode::Serial,
        };
        let builder = builder.durability(Durability::Buffered).commit_mode(commit_mode);
        let database = builder.memory(4 << 30).open().expect("a database");
        let keyspace = database.keyspace("counters").expect("a keyspace");
        for first in (0..keys).step_by(LOAD_KEYS as usize) {
            let fill = |tx: &mut Transaction| {
                (first..keys.min(first + LOAD_KEYS))
                    .try_for_each(|number| tx.put(&keyspace, key(number), value(0)))
            };
            database.transact(fill).expect("room for all keys");
        }
        database.sync().expect("a sync");
        Self { mode, database, keyspace, keys, commits: 0 }
    }

    /// What its transactions ask for.
    pub fn options(&self, isolation: Isolation) -> TransactionOptions {
        let concurrency = match self.mode {
            Mode::Combining(concurrency) => concurrency,
            Mode::Serial => Concurrency::Optimistic,
        };
        TransactionOptions { isolation, concurrency, ..Default::default() }
    }

    /// Runs `threads` threads for about `length`; each draws two different keys, reads both and writes
    /// both, over and over, with what else `work` has.
    pub fn turn(
        &mut self,
        threads: usize,
        length: Duration,
        options: TransactionOptions,
        work: Work,
        keys: &Zipf,
    ) -> Turn {
        let (stop, barrier) = (AtomicBool::new(false), Barrier::new(threads + 1));
        let seed = self.commits;
        let this = &*self;
        let mut turn = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|thread| {
                    let (stop, barrier) = (&stop, &barrier);
                    let random = Random::new(seed << 8 | thread as u64);
                    scope.spawn(move || {
                        let mut turn = Turn::none();
                        barrier.wait();
                        this.work(stop, options, work, keys, random, &mut turn);
                        turn
                    })
                })
                .collect();
            let cpu = cpu_time();
            barrier.wait();
            let start = Instant::now();
            std::thread::sleep(length);
            // Relaxed: a late look costs one more transaction.
            stop.store(true, Ordering::Relaxed);
            let mut sum = Turn::none();
            for worker in workers {
                sum.add(&worker.join().expect("a worker does not panic"));
            }
            Turn { elapsed: start.elapsed(), cpu: cpu_time().saturating_sub(cpu), ..sum }
        });
        self.commits += turn.commits;
        turn.tries = turn.tries.max(turn.commits);
        turn
    }

    fn work(
        &self,
        stop: &AtomicBool,
        options: TransactionOptions,
        work: Work,
        keys: &Zipf,
        mut random: Random,
        turn: &mut Turn,
    ) {
        let read = |tx: &mut Transaction, key: &[u8]| -> isolith::Result<Option<Slice>> {
            match work.reads {
                Reads::Plain => tx.get(&self.keyspace, key),
                Reads::ForUpdate => tx.get_for_update(&self.keyspace, key),
            }
        };
        let mut others = Vec::with_capacity(work.others);
        // Relaxed: see `turn`.
        while !stop.load(Ordering::Relaxed) {
            let first = keys.draw(&mut random);
            let second = loop {
                let second = keys.draw(&mut random);
                if second != first {
                    break second;
                }
            };
            let (first, second) = (key(first), key(second));
            others.clear();
            others.extend((0..work.others).map(|_| key(random.next() % self.keys)));
            let begun = Instant::now();
            let result = self.database.transact_with(options, |tx| {
                turn.tries += 1;
                let a = read(tx, &first)?.expect("every key is there");
                let b = read(tx, &second)?.expect("every key is there");
                if work.pauses {
                    std::thread::yield_now();
                }
                for other in &others {
                    black_box(tx.get(&self.keyspace, other)?);
                }
                tx.put(&self.keyspace, first, value(counter(&a) + 1))?;
                tx.put(&self.keyspace, second, value(counter(&b) + 1))
            });
            match result {
                Ok(()) => {
                    turn.commits += 1;
                    let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    turn.latency.saturating_record(nanos);
                }
                Err(error) if matches!(error.retry(), isolith::Retry::After(_)) => {
                    turn.failures += 1;
                }
                Err(error) => panic!("{}: {error}", self.mode),
            }
        }
    }

    /// Whether every committed transaction, and no other, has left its mark: the counters add up.
    ///
    /// # Panics
    /// If they do not.
    pub fn check(&self) {
        let snapshot = self.database.snapshot().expect("a snapshot");
        let pairs = snapshot.range(&self.keyspace, ..).map(|pair| pair.expect("a pair"));
        let (keys, sum) =
            pairs.fold((0, 0), |(keys, sum), (_, value)| (keys + 1, sum + counter(&value)));
        assert_eq!(
            (keys, sum),
            (self.keys, 2 * self.commits),
            "{}: keys, and the sum of their counters",
            self.mode
        );
    }
}

impl Turn {
    /// Of no length.
    pub fn none() -> Self {
        Self {
            commits: 0,
            tries: 0,
            failures: 0,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            latency: histogram(),
        }
    }

    /// Adds another's counts and latencies.
    pub fn add(&mut self, other: &Turn) {
        self.commits += other.commits;
        self.tries += other.tries;
        self.failures += other.failures;
        self.elapsed += other.elapsed;
        self.cpu += other.cpu;
        self.latency.add(&other.latency).expect("histograms of the same bounds");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [&str; 7] = [
        "optimistic",
        "locking:wound-wait",
        "locking:wait-die",
        "locking:no-wait",
        "locking:detect",
        "auto",
        "serial",
    ];

    /// No update is lost in any mode, on two keys that everybody wants. A smoke test of the bench, too.
    #[test]
    fn counters_add_up_in_every_mode() {
        for mode in MODES {
            let directory = tempfile::tempdir().expect("a directory");
            let mode: Mode = mode.parse().expect("a mode");
            for directory in [Some(directory.path()), None] {
                let mut contender = Contender::new(mode, 4, directory);
                for work in [Work::short(Reads::Plain), Work::long(Reads::ForUpdate)] {
                    let options = contender.options(Isolation::Serializable);
                    let keys = Zipf::new(4, 0.99);
                    let length = Duration::from_millis(30);
                    let turn = contender.turn(3, length, options, work, &keys);
                    assert!(turn.commits > 0 && turn.failures == 0, "{mode}: {turn:?}");
                    contender.check();
                }
            }
        }
    }
}
