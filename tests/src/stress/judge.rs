//! The judges: threads that take windows from a short queue, while the load makes the next ones.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::invariants;
use super::tape::Tape;
use super::window::Window;
use super::workload::Workload;
use crate::checker::{self, Found, Question, Verdict};
use crate::finding::{Finding, catching};
use crate::history::{History, Level};

/// Who gets each window's history, in their order; nobody if there is none.
pub type Record<'a> = Option<&'a mut (dyn FnMut(&History) -> Result<(), String> + Send)>;

/// What was found wrong.
#[derive(Debug)]
pub struct Violation {
    /// The window.
    pub window: u64,
    /// What is wrong, for people.
    pub what: String,
    /// The window's history, where it shows what is wrong.
    pub history: Option<History>,
    /// The anomaly in it, if it is one that has a name.
    pub found: Option<Found>,
}

impl Violation {
    /// What is wrong, without a history that shows it.
    pub fn told(window: u64, what: impl ToString) -> Violation {
        Violation { window, what: what.to_string(), history: None, found: None }
    }
}

/// What the judges have said so far.
#[derive(Debug, Default)]
pub struct Verdicts {
    /// Windows that hold.
    pub held: u64,
    /// Processor time of all judges.
    pub busy: Duration,
    /// The first violation, and when it was found.
    pub violation: Option<(Duration, Violation)>,
    /// Windows that were not decided, and why the first was not.
    pub undecided: Option<(u64, String)>,
    /// Why the record ends early.
    pub not_recorded: Option<String>,
}

/// What the judges of a run share.
pub struct Bench<'a> {
    record: Mutex<Record<'a>>,
    records: bool,
    verdicts: Mutex<Verdicts>,
    /// Tapes to be written on again: their memory is there already.
    blank: Mutex<Vec<Vec<Tape>>>,
    began: Instant,
    stop: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic in between.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Bench<'a> {
    /// For a run that began then, and is to end when `stop` is set.
    pub fn new(record: Record<'a>, began: Instant, stop: Arc<AtomicBool>) -> Bench<'a> {
        let records = record.is_some();
        let (record, verdicts, blank) = (Mutex::new(record), Mutex::default(), Mutex::default());
        Bench { record, records, verdicts, blank, began, stop }
    }

    /// What they said.
    pub fn into_verdicts(self) -> Verdicts {
        self.verdicts.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn violated(&self, violation: Violation) {
        let mut verdicts = lock(&self.verdicts);
        let at = self.began.elapsed();
        let first = match &verdicts.violation {
            Some((_, known)) => violation.window < known.window,
            None => true,
        };
        if first {
            verdicts.violation = Some((at, violation));
        }
        // Relaxed: only when to stop.
        self.stop.store(true, Ordering::Relaxed);
    }

    fn judge(&self, mut window: Window) {
        let judged = catching(|| {
            self.look_at(&window);
            Ok(())
        });
        if let Err(panic) = judged {
            self.violated(Violation::told(window.number, panic));
        }
        window.tapes.iter_mut().for_each(Tape::clear);
        lock(&self.blank).push(window.tapes);
    }

    fn look_at(&self, window: &Window) {
        let history = window.history(self.records);
        if window.is_whole {
            self.record(&history);
        }
        if let Err(finding) = invariants::check(window) {
            self.record_last(window, &history);
            let history = Some(history);
            return self.violated(Violation { history, ..Violation::told(window.number, finding) });
        }
        let report = checker::judge(&history, &self.question(window));
        match report.verdict {
            Verdict::Holds => self.held(window),
            // A crash may end a window that has hardly begun.
            Verdict::Undecided(why) if why == checker::NOTHING_DEPENDS => self.held(window),
            Verdict::Violated => {
                let found = report.found.into_iter().next();
                let what = found.as_ref().map_or_else(String::new, |found| {
                    format!("{}: {}", found.anomaly, found.witness.prose(&history))
                });
                self.record_last(window, &history);
                let history = Some(history);
                let told = Violation::told(window.number, what);
                self.violated(Violation { history, found, ..told });
            }
            Verdict::Undecided(why) => {
                let mut verdicts = lock(&self.verdicts);
                verdicts.undecided.get_or_insert((0, why)).0 += 1;
            }
        }
    }

    fn record(&self, history: &History) {
        if let Some(record) = lock(&self.record).as_mut()
            && let Err(error) = record(history)
        {
            lock(&self.verdicts).not_recorded = Some(error);
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// A window that is violated ends the record: if it was judged up to a crash, it is there as far as
    /// it had come.
    fn record_last(&self, window: &Window, history: &History) {
        if !window.is_whole {
            self.record(history);
        }
        *lock(&self.record) = None;
    }

    fn held(&self, window: &Window) {
        lock(&self.verdicts).held += u64::from(window.is_whole);
    }

    /// Each transaction is judged at its own level, and every write is in the window.
    fn question(&self, window: &Window) -> Question {
        let workload = match window.course.workload {
            Workload::Append => checker::Workload::Append,
            _ => checker::Workload::Predicate,
        };
        let mut question = Question::new(workload, Level::STRICT_SERIALIZABLE);
        question.own_levels = true;
        question.closed = true;
        question
    }
}

/// The judges at work.
pub struct Judges<'b, 'a> {
    queue: SyncSender<Window>,
    bench: &'b Bench<'a>,
}

impl<'b, 'a> Judges<'b, 'a> {
    /// Starts so many; they end when this is dropped, and what was taken is judged.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, 'b>,
        count: usize,
        bench: &'b Bench<'a>,
    ) -> Judges<'b, 'a>
    where
        'b: 'scope,
    {
        let (queue, windows) = sync_channel(count);
        let windows = Arc::new(Mutex::new(windows));
        for _ in 0..count {
            let windows = Arc::clone(&windows);
            scope.spawn(move || work(bench, &windows));
        }
        Judges { queue, bench }
    }

    /// Takes a window, or waits until there is room for it.
    pub fn take(&self, window: Window) {
        // The judges end after this does: somebody receives.
        let _ = self.queue.send(window);
    }

    /// Takes note of what the load found by itself.
    pub fn found(&self, window: u64, finding: &Finding) {
        self.bench.violated(Violation::told(window, finding));
    }

    /// Windows that hold, so far.
    pub fn held(&self) -> u64 {
        lock(&self.bench.verdicts).held
    }

    /// Tapes to be written on again, if there are.
    pub fn blank(&self) -> Vec<Tape> {
        lock(&self.bench.blank).pop().unwrap_or_default()
    }
}

fn work(bench: &Bench<'_>, windows: &Mutex<Receiver<Window>>) {
    loop {
        let next = lock(windows).recv();
        let Ok(window) = next else { return };
        let began = Instant::now();
        bench.judge(window);
        lock(&bench.verdicts).busy += began.elapsed();
    }
}
