//! What the examples about transactions share: a mode from the command line, threads that work for a
//! while, and a line that says how it went.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use isolith::{Concurrency, Isolation, TransactionOptions};

/// An error ends an example with a status that is not 0.
pub(crate) type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

/// How long each mode is put to the test.
pub(crate) const WHILE: Duration = Duration::from_millis(200);

/// Threads that work at once.
const THREADS: usize = 4;

/// What a transaction is protected from, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    isolation: Isolation,
    concurrency: Concurrency,
}

impl Mode {
    pub(crate) fn options(self) -> TransactionOptions {
        let Mode { isolation, concurrency } = self;
        TransactionOptions { isolation, concurrency, ..Default::default() }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:15} {:28}", self.isolation.to_string(), self.concurrency.to_string())
    }
}

/// Every concurrency control at each of these levels.
pub(crate) fn every_mode(levels: &[Isolation]) -> Vec<Mode> {
    let at = |isolation| Concurrency::ALL.map(|concurrency| Mode { isolation, concurrency });
    levels.iter().copied().flat_map(at).collect()
}

/// The same, less what the words of the command line leave out, a control, a level, or one of each:
/// `locking:wait-die serializable`.
pub(crate) fn modes(levels: &[Isolation]) -> Result<Vec<Mode>, Box<dyn Error + Send + Sync>> {
    let mut modes = every_mode(levels);
    for word in std::env::args().skip(1) {
        match (word.parse::<Concurrency>(), word.parse::<Isolation>()) {
            (Ok(concurrency), _) => modes.retain(|mode| mode.concurrency == concurrency),
            (_, Ok(isolation)) => modes.retain(|mode| mode.isolation == isolation),
            (Err(control), Err(level)) => return Err(format!("{control}; {level}").into()),
        }
    }
    match modes.is_empty() {
        true => {
            let levels: Vec<_> = levels.iter().map(Isolation::to_string).collect();
            let levels = levels.join(", ");
            Err(format!("no mode is left: name one control, and one of the levels {levels}").into())
        }
        false => Ok(modes),
    }
}

/// Work that several threads do for a while.
#[derive(Debug, Default)]
pub(crate) struct Load {
    over: AtomicBool,
    done: AtomicU64,
    tries: AtomicU64,
    rate: f64,
    aborts: f64,
}

impl Load {
    /// Notes that a transaction is run, for the first time or again.
    pub(crate) fn tried(&self) {
        // Relaxed: a count, read when all threads have ended; so is `done`.
        self.tries.fetch_add(1, Ordering::Relaxed);
    }

    /// Runs `work(load, dice)` over and over in several threads.
    pub(crate) fn run(
        length: Duration,
        work: impl Fn(&Load, &mut Dice) -> isolith::Result<()> + Sync,
    ) -> isolith::Result<Load> {
        let mut load = Load::default();
        let start = Instant::now();
        thread::scope(|scope| {
            let (load, work) = (&load, &work);
            let spawn = |thread| {
                scope.spawn(move || -> isolith::Result<()> {
                    let mut dice = Dice(thread);
                    // Relaxed: who sees it late does one more.
                    while !load.over.load(Ordering::Relaxed) {
                        work(load, &mut dice)?;
                        load.done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            };
            let threads: Vec<_> = (1..=THREADS as u64).map(spawn).collect();
            thread::sleep(length);
            // Relaxed: as where it is read.
            load.over.store(true, Ordering::Relaxed);
            threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let (done, tries) = (*load.done.get_mut(), *load.tries.get_mut());
        load.rate = done as f64 / seconds;
        load.aborts = tries.saturating_sub(done) as f64 / seconds;
        Ok(load)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.0} a second, {:7.0} aborts", self.rate, self.aborts)
    }
}

/// Numbers without a pattern.
pub(crate) struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % sides
    }
}
