//! Random transactions by real threads at mixed levels and concurrency controls, each history judged
//! while the next one is made.
//!
//! A run is a sequence of *windows* ([`window`]). In a window each thread runs transactions that the
//! seed decides, and writes down what it did and saw; when all are done everything is read once more,
//! and the window goes to a judge, while the threads begin the next one. The judges' queue is bounded:
//! a load that they do not keep up with waits for them.
//!
//! 1. The seed determines each thread's operations, as far as they do not depend on what is read. How
//!    the threads interleave it does not determine, unless there is one.
//! 2. Every transaction of a run is judged, each at its own level; a window that could not be decided
//!    is never counted as one that holds.
//! 3. Memory is bounded by the windows that wait, not by the length of the run.
//!
//! | module | its one job |
//! |---|---|
//! | [`mix`] | how transactions are protected |
//! | [`client`] | what a target is asked for |
//! | [`tape`] | what a thread writes down |
//! | [`workload`] | what transactions do |
//! | [`worker`] | one thread |
//! | [`window`] | what is judged by itself |
//! | [`invariants`] | what a workload keeps besides |
//! | [`judge`] | the judges and their queue |
//! | [`embedded`] | the library as target |
//! | [`crash`] | the same on a disk that crashes |
//! | [`resp`] | a server as target |
//! | [`directory`] | the library on real files |
//! | [`killed`] | a server on real files, as a process that is killed |

pub mod mix;

pub mod client;

pub mod tape;

pub mod workload;

pub mod worker;

pub mod window;

pub mod invariants;

pub mod judge;

pub mod embedded;

pub mod crash;

pub mod resp;

pub mod directory;

pub mod killed;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use isolith::{Concurrency, Durability, Isolation, Timestamp};

use client::{Answer, Client, Failure, Terms, mark_of};
use judge::{Bench, Judges, Violation};
use mix::Mix;
use tape::{End, Entry, Key, Tape, Value};
use window::Window;
use worker::{Job, Worker};
use workload::{Course, Hand, Numbers, Workload};

use crate::dice::Dice;
use crate::finding::Finding;

/// What is stressed.
pub trait Target {
    /// A session.
    type Client: Client + Send;

    /// A new session.
    fn client(&self) -> Answer<Self::Client>;

    /// When commits may be acknowledged: transactions draw one of these.
    fn durabilities(&self) -> Vec<Durability> {
        vec![Durability::Sync]
    }

    /// Removes all keys; true if it is another database from now on. No session is open.
    fn clear(&mut self, window: u64) -> Answer<bool>;

    /// Called when a window's first state is there: from now on it may crash. It may end its life here,
    /// too.
    fn unleash(&mut self) -> Answer<Option<Recovery>> {
        Ok(None)
    }

    /// Brings it back after it was gone; no session is open. What it left is told.
    fn recover(&mut self) -> Answer<Recovery> {
        Err(Failure::Wrong(Finding::new("the database does not go on")))
    }

    /// Called when a window's transactions are over, before everything is read: it may end its life
    /// here, too.
    fn end_of_window(&mut self) -> Answer<Option<Recovery>> {
        Ok(None)
    }

    /// Looks for what transactions left behind. Called when none is open.
    fn inspect(&self) -> Answer {
        Ok(())
    }
}

/// What a target was found with after a crash.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// How the life before ended, for people.
    pub ended: String,
    /// Every commit up to here is there, and none after it. If the target does not tell: then whatever
    /// was acknowledged is there.
    pub last: Option<u64>,
    /// Where no timestamps tell, the last mark of each thread that is there ([`client::mark_of`]): its
    /// transactions up to there are there, and no later one.
    pub marks: Option<Vec<(Key, Value)>>,
    /// Commits that were acknowledged at one of these had to survive.
    pub promised: Vec<Durability>,
    /// So had these, however they were acknowledged.
    pub floor: u64,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many transactions, rounded up to whole windows.
    Transactions(u64),
    /// The windows that begin within this time.
    Time(Duration),
}

/// How a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// What transactions do.
    pub workload: Workload,
    /// How long.
    pub length: Length,
    /// Threads that run transactions.
    pub threads: usize,
    /// How these are protected.
    pub mix: Mix,
    /// What decides their choices.
    pub seed: u64,
    /// Transactions of a window.
    pub window: usize,
    /// Threads that judge.
    pub judges: usize,
}

/// How often a protection was drawn, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Committed and acknowledged.
    pub committed: u64,
    /// Refused, or given up.
    pub aborted: u64,
    /// Nobody knows.
    pub unknown: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Windows that were begun.
    pub windows: u64,
    /// Windows that were judged, and hold.
    pub held: u64,
    /// Operations that were answered.
    pub operations: u64,
    /// By protection, as the mix lists them.
    pub tallies: Vec<Tally>,
    /// Times that the target was brought back.
    pub recoveries: u64,
    /// Until the last transaction.
    pub loaded: Duration,
    /// Until all was judged.
    pub judged: Duration,
    /// Processor time of all judges together.
    pub judging: Duration,
    /// The first violation and when it was found.
    pub violation: Option<(Duration, Violation)>,
    /// Windows that could not be decided, and why the first could not.
    pub undecided: Option<(u64, String)>,
    /// Whether it was stopped from outside, before it was over.
    pub interrupted: bool,
    /// Why the record ends early.
    pub not_recorded: Option<String>,
}

impl Report {
    /// All transactions together.
    pub fn total(&self) -> Tally {
        self.tallies.iter().fold(Tally::default(), |sum, tally| Tally {
            committed: sum.committed + tally.committed,
            aborted: sum.aborted + tally.aborted,
            unknown: sum.unknown + tally.unknown,
        })
    }
}

impl Tally {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.committed + self.aborted + self.unknown
    }

    fn count(&mut self, end: End) {
        *match end {
            End::Committed(_) => &mut self.committed,
            End::Aborted => &mut self.aborted,
            End::Unknown(_) => &mut self.unknown,
        } += 1;
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Since it began.
    pub elapsed: Duration,
    /// Transactions so far.
    pub transactions: u64,
    /// Windows so far.
    pub windows: u64,
    /// Windows that were judged.
    pub held: u64,
}

/// A seed for a run that has none.
pub fn random_seed() -> u64 {
    isolith_wal::random_seed()
}

/// Runs a stress and judges it. `record` gets each window's history, in order; `progress` is called
/// now and then.
///
/// # Errors
/// If the target could not be stressed.
pub fn run<T: Target>(
    target: &mut T,
    options: &Options,
    record: judge::Record<'_>,
    progress: impl FnMut(&Progress),
) -> Result<Report, String> {
    run_until(target, options, record, &Arc::default(), progress)
}

/// The same until `stop` is set: then what is under way is brought to an end, and judged. A run that has
/// found something sets it itself.
///
/// # Errors
/// If the target could not be stressed.
pub fn run_until<T: Target>(
    target: &mut T,
    options: &Options,
    record: judge::Record<'_>,
    stop: &Arc<AtomicBool>,
    mut progress: impl FnMut(&Progress),
) -> Result<Report, String> {
    let began = Instant::now();
    // Windows are recorded in their order: then one judge has to do.
    let count = if record.is_some() { 1 } else { options.judges.max(1) };
    let mut run = Run::new(options, stop);
    let bench = Bench::new(record, began, Arc::clone(stop));
    let result = thread::scope(|scope| {
        let judges = Judges::start(scope, count, &bench);
        let result = run.load(target, &judges, began, &mut progress);
        run.loaded = began.elapsed();
        result
    });
    result?;
    let verdicts = bench.into_verdicts();
    // Relaxed: only whether somebody wanted it to stop.
    let stopped = stop.load(Ordering::Relaxed);
    let by_itself = verdicts.violation.is_some() || verdicts.not_recorded.is_some();
    Ok(Report {
        interrupted: stopped && !by_itself,
        not_recorded: verdicts.not_recorded,
        windows: run.windows,
        held: verdicts.held,
        operations: run.operations,
        tallies: run.tallies,
        recoveries: run.recoveries,
        loaded: run.loaded,
        judged: began.elapsed(),
        judging: verdicts.busy,
        violation: verdicts.violation,
        undecided: verdicts.undecided,
    })
}

/// The side that makes the histories.
struct Run<'a> {
    options: &'a Options,
    stop: &'a AtomicBool,
    clock: Arc<AtomicU64>,
    dice: Dice,
    workers: Vec<Worker>,
    /// Sets up and audits.
    clerk: Worker,
    /// The largest commit timestamp until the clock stood at `noted`.
    given: u64,
    noted: u64,
    windows: u64,
    operations: u64,
    tallies: Vec<Tally>,
    recoveries: u64,
    loaded: Duration,
}

impl<'a> Run<'a> {
    fn new(options: &'a Options, stop: &'a AtomicBool) -> Run<'a> {
        let threads = options.threads.max(1);
        let worker = |thread| Worker::new(thread as u16, Numbers::new(thread, threads + 1));
        Run {
            options,
            stop,
            clock: Arc::new(AtomicU64::new(1)),
            dice: Dice::new(options.seed),
            workers: (0..threads).map(worker).collect(),
            clerk: worker(threads),
            given: 0,
            noted: 0,
            windows: 0,
            operations: 0,
            tallies: vec![Tally::default(); options.mix.shares().len()],
            recoveries: 0,
            loaded: Duration::ZERO,
        }
    }

    fn load<T: Target>(
        &mut self,
        target: &mut T,
        judges: &Judges<'_, '_>,
        began: Instant,
        progress: &mut impl FnMut(&Progress),
    ) -> Result<(), String> {
        // Relaxed: only when to stop.
        while !self.is_over(began) && !self.stop.load(Ordering::Relaxed) {
            let finding = match self.window(target, judges) {
                Ok(()) => None,
                Err(Failure::Failed(why)) => return Err(why),
                Err(Failure::Wrong(finding)) => Some(finding),
                Err(Failure::Gone(why)) => Some(Finding::new(format!("it does not go on: {why}"))),
                Err(Failure::Refused) => {
                    Some(Finding::new("refused, though nobody else was there"))
                }
            };
            self.windows += 1;
            if let Some(finding) = finding {
                judges.found(self.windows - 1, &finding);
                break;
            }
            let transactions = self.tallies.iter().map(Tally::all).sum();
            let (elapsed, held) = (began.elapsed(), judges.held());
            progress(&Progress { elapsed, transactions, windows: self.windows, held });
        }
        Ok(())
    }

    fn is_over(&self, began: Instant) -> bool {
        match self.options.length {
            Length::Time(time) => began.elapsed() >= time,
            Length::Transactions(count) => self.windows * self.options.window as u64 >= count,
        }
    }

    fn window<T: Target>(&mut self, target: &mut T, judges: &Judges<'_, '_>) -> Answer {
        let number = self.windows;
        if target.clear(number)? {
            self.given = 0; // It gives timestamps of its own.
        }
        let (options, stop) = (self.options, self.stop);
        let course = Course::of(options.workload, options.window);
        let durabilities = target.durabilities();
        let clock = Arc::clone(&self.clock);
        let since = clock.load(Ordering::Relaxed);
        let (mix, durabilities) = (&options.mix, durabilities.as_slice());
        let job = Job { course, mix, durabilities, clock: &clock, stop };
        self.begin_window(judges);
        if course.workload.has_first_state() {
            clerk(&mut self.clerk, &mut target.client()?, &job, |hand| {
                workload::set_up(hand, &course)
            })?;
        }
        if let Some(recovery) = target.unleash()? {
            self.recovered(&recovery, durabilities)?;
        }
        while load(&mut self.workers, target, &job)? {
            let recovery = target.recover()?;
            let tapes = self.tapes();
            judges.take(Window { number, course, tapes, since, is_whole: false });
            self.recovered(&recovery, durabilities)?;
        }
        target.inspect()?;
        if let Some(recovery) = target.end_of_window()? {
            self.recovered(&recovery, durabilities)?;
        }
        self.audit(target, &job)?;
        self.note_timestamps()?;
        let everybody = self.workers.iter_mut().chain([&mut self.clerk]);
        let tapes: Vec<_> = everybody.map(|worker| std::mem::take(&mut worker.tape)).collect();
        self.count(&tapes);
        judges.take(Window { number, course, tapes, since, is_whole: true });
        Ok(())
    }

    fn begin_window(&mut self, judges: &Judges<'_, '_>) {
        let each = self.options.window.div_ceil(self.workers.len());
        let mut blank = judges.blank();
        for worker in self.workers.iter_mut().chain([&mut self.clerk]) {
            worker.tape = blank.pop().unwrap_or_default();
            worker.begin_window(self.dice.roll(), each);
        }
    }

    fn tapes(&self) -> Vec<Tape> {
        self.workers.iter().chain([&self.clerk]).map(|worker| worker.tape.clone()).collect()
    }

    fn count(&mut self, tapes: &[Tape]) {
        for taped in tapes[..self.workers.len()].iter().flat_map(Tape::transactions) {
            self.operations += taped.operations.len() as u64;
            self.tallies[usize::from(taped.entry.share)].count(taped.entry.end);
        }
    }

    /// Takes note of what a crash has left: what had to survive did, and what did not survive has not
    /// happened.
    fn recovered(&mut self, recovery: &Recovery, durabilities: &[Durability]) -> Answer {
        self.recoveries += 1;
        self.note_timestamps()?;
        if let Some(marks) = &recovery.marks {
            return self.resolve(marks, recovery);
        }
        let Some(last) = recovery.last else { return Ok(()) };
        let floor = recovery.floor;
        let after = |what: String| {
            Failure::Wrong(Finding::new(format!("after {}: {what}", recovery.ended)))
        };
        if last < floor {
            let (floor, last) = (Timestamp::from_bits(floor), Timestamp::from_bits(last));
            let what = format!("commits up to {floor} had survived before, only {last} is there");
            return Err(after(what));
        }
        let now = self.clock.fetch_add(1, Ordering::AcqRel);
        for worker in self.workers.iter_mut().chain([&mut self.clerk]) {
            for taped in worker.tape.transactions() {
                if let Some(lost) = lost(taped.entry, last, recovery, durabilities) {
                    return Err(after(lost));
                }
            }
            worker.tape.retain(|taped| taped.writes() || has_seen_at_most(taped.entry, last));
            for entry in worker.tape.entries_mut() {
                entry.end = match entry.end {
                    End::Committed(Some(at)) | End::Unknown(Some(at)) if at > last => End::Aborted,
                    End::Unknown(Some(at)) => {
                        // Only now is anybody told.
                        entry.completed = now;
                        End::Committed(Some(at))
                    }
                    end => end,
                };
            }
        }
        Ok(())
    }

    /// The same by the marks that threads have left.
    fn resolve(&mut self, marks: &[(Key, Value)], recovery: &Recovery) -> Answer {
        let now = self.clock.fetch_add(1, Ordering::AcqRel);
        let mut any_lost = false;
        for worker in &mut self.workers {
            let of = mark_of(worker.process());
            let last = marks.iter().find(|(key, _)| *key == of).map_or(0, |(_, mark)| *mark);
            for entry in worker.tape.entries_mut() {
                let Some(mark) = entry.mark else { continue };
                let wrong = match (entry.end, mark <= last) {
                    (End::Committed(_), true) => continue,
                    (End::Unknown(_), true) => {
                        // Only now is anybody told.
                        (entry.end, entry.completed) = (End::Committed(None), now);
                        continue;
                    }
                    (End::Aborted, _) if mark != last => continue,
                    (End::Aborted, _) => "a transaction that was refused is there".to_owned(),
                    (End::Unknown(_), false) => {
                        entry.end = End::Aborted;
                        continue;
                    }
                    (End::Committed(_), false)
                        if !recovery.promised.contains(&entry.durability) =>
                    {
                        (entry.end, any_lost) = (End::Aborted, true);
                        continue;
                    }
                    (End::Committed(_), false) => {
                        let acknowledged = entry.durability;
                        format!("a commit that was acknowledged at {acknowledged:?} is lost")
                    }
                };
                let what = format!("after {}: {wrong}", recovery.ended);
                return Err(Failure::Wrong(Finding::new(what)));
            }
        }
        if any_lost {
            // What these have seen may be lost; up to the crash it was judged.
            let everybody = self.workers.iter_mut().chain([&mut self.clerk]);
            everybody.for_each(|worker| worker.tape.retain(|taped| taped.writes()));
        }
        Ok(())
    }

    /// No timestamp is given out twice, over all lives.
    fn note_timestamps(&mut self) -> Answer {
        let (since, given) = (self.noted, self.given);
        for worker in self.workers.iter().chain([&self.clerk]) {
            let entries = worker.tape.transactions().map(|taped| taped.entry);
            for entry in entries.filter(|entry| entry.invoked >= since) {
                let (End::Committed(Some(at)) | End::Unknown(Some(at))) = entry.end else {
                    continue;
                };
                if at <= given {
                    let (at, given) = (Timestamp::from_bits(at), Timestamp::from_bits(given));
                    let what = format!("a commit at {at} comes after one at {given}");
                    return Err(Failure::Wrong(Finding::new(what)));
                }
                self.given = self.given.max(at);
            }
        }
        self.noted = self.clock.load(Ordering::Relaxed);
        Ok(())
    }

    /// Reads everything there is, a group at a time.
    fn audit<T: Target>(&mut self, target: &T, job: &Job<'_>) -> Answer {
        let groups = job.course.groups();
        let together = match job.course.workload {
            Workload::Append | Workload::Register | Workload::Rmw => 32,
            _ => 1,
        };
        let mut client = target.client()?;
        for first in groups.clone().step_by(together) {
            let some = first..groups.end.min(first + together as u32);
            clerk(&mut self.clerk, &mut client, job, |hand| {
                some.clone().try_for_each(|group| workload::audit(hand, &job.course, group))
            })?;
        }
        Ok(())
    }
}

/// Whether what a transaction that changed nothing has seen is there up to this commit.
fn has_seen_at_most(entry: &Entry, last: u64) -> bool {
    entry.is_committed() && entry.read_timestamp.is_some_and(|seen| seen <= last)
}

/// What of a transaction's promise a crash has broken.
fn lost(
    entry: &Entry,
    last: u64,
    recovery: &Recovery,
    durabilities: &[Durability],
) -> Option<String> {
    let is_promised = |durability: &Durability| recovery.promised.contains(durability);
    let acknowledged = entry.durability;
    let shown = Timestamp::from_bits;
    match (entry.end, entry.read_timestamp) {
        (End::Committed(Some(at)), _) if at > last && is_promised(&acknowledged) => Some(format!(
            "the commit at {} was acknowledged at {acknowledged:?}, and is lost: {} is the last that \
             is there",
            shown(at),
            shown(last)
        )),
        // Who changes nothing is shown what anybody was told of, at whatever durability.
        (End::Committed(None), Some(seen))
            if seen > last && durabilities.iter().all(is_promised) =>
        {
            Some(format!(
                "a transaction saw the commit at {} and was acknowledged, and what it saw is lost: {} \
                 is the last commit that is there",
                shown(seen),
                shown(last)
            ))
        }
        _ => None,
    }
}

/// Runs the threads until their parts are done; true if the database has gone away.
fn load<T: Target>(workers: &mut [Worker], target: &T, job: &Job<'_>) -> Answer<bool> {
    let clients = workers.iter().map(|_| target.client()).collect::<Answer<Vec<_>>>()?;
    let answers: Vec<Answer> = thread::scope(|scope| {
        let pairs = workers.iter_mut().zip(clients);
        let start = |(worker, client)| scope.spawn(move || run_worker(worker, client, job));
        let threads: Vec<_> = pairs.map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    let mut gone = false;
    for answer in answers {
        match answer {
            Ok(()) => {}
            Err(Failure::Gone(_)) => gone = true,
            Err(other) => return Err(other),
        }
    }
    Ok(gone)
}

fn run_worker<C: Client>(worker: &mut Worker, mut client: C, job: &Job<'_>) -> Answer {
    let answer = worker.run(&mut client, job);
    if matches!(answer, Err(Failure::Wrong(_) | Failure::Failed(_))) {
        // Relaxed: only when to stop.
        job.stop.store(true, Ordering::Relaxed);
    }
    answer
}

fn panicked(panic: Box<dyn std::any::Any + Send>) -> Answer {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
    Err(Failure::Wrong(Finding::new(format!("a thread panicked: {text}"))))
}

/// A transaction of the one who sets up and audits, while nobody else is there.
fn clerk<C: Client>(
    clerk: &mut Worker,
    client: &mut C,
    job: &Job<'_>,
    body: impl FnOnce(&mut Hand<'_, C>) -> Answer,
) -> Answer {
    let terms = Terms {
        isolation: Isolation::Serializable,
        concurrency: Concurrency::Optimistic,
        durability: Durability::Sync,
        read_only: false,
    };
    clerk.transaction(client, job, terms, 0, |hand| body(hand).map(|()| true))
}
