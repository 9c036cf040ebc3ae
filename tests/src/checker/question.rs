//! What is asked about a history, and the answer.

use std::fmt;

use crate::history::Level;

use super::anomaly::Anomaly;
use super::witness::Witness;

/// What the operations of a history mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// Transactions that append to lists and read them.
    Append,
    /// Transactions that read and write registers; every value is written once.
    Register,
    /// The same with inserts, deletes and reads by a predicate, over items that are all known.
    Predicate,
    /// Transfers between accounts, and reads of all balances.
    Bank,
    /// A set that grows and is read at the end.
    Set,
    /// A set that grows and is read all the time.
    SetFull,
    /// A counter.
    Counter,
    /// Keys that are written once, and reads of several.
    LongFork,
    /// Registers with compare-and-set, one operation or several at a time.
    CompareAndSet,
}

const WORKLOADS: [(Workload, &str); 9] = [
    (Workload::Append, "list-append"),
    (Workload::Register, "rw-register"),
    (Workload::Predicate, "closed-predicate"),
    (Workload::Bank, "bank"),
    (Workload::Set, "set"),
    (Workload::SetFull, "set-full"),
    (Workload::Counter, "counter"),
    (Workload::LongFork, "long-fork"),
    (Workload::CompareAndSet, "cas-register"),
];

impl Workload {
    /// Every workload.
    pub const ALL: [Workload; 9] = {
        let mut all = [Workload::Append; 9];
        let mut at = 0;
        while at < all.len() {
            all[at] = WORKLOADS[at].0;
            at += 1;
        }
        all
    };

    /// Its name.
    pub fn name(self) -> &'static str {
        WORKLOADS.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| *name)
    }

    /// The workload of a name.
    pub fn parse(name: &str) -> Option<Workload> {
        WORKLOADS.iter().find(|(_, known)| *known == name).map(|(workload, _)| *workload)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What may be taken for granted about the order of a register's versions. Elle has the same
/// options; without any, only what follows from the level itself is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inference {
    /// Within a transaction writes follow reads, even of values that nobody here wrote.
    pub writes_follow_reads: bool,
    /// Each key by itself keeps the order of each session.
    pub sequential_keys: bool,
    /// Each key by itself keeps real time.
    pub linearizable_keys: bool,
}

/// How much may be spent on searching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Edges and states that a search may visit.
    pub steps: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { steps: 100_000_000 }
    }
}

/// What is asked about a history.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// What its operations mean.
    pub workload: Workload,
    /// The level that everything is judged at.
    pub level: Level,
    /// Whether a transaction that declares a level is judged at that one.
    pub own_levels: bool,
    /// Whether all writes are in the history, so that a register's value from elsewhere is garbage.
    pub closed: bool,
    /// What may be taken for granted besides.
    pub inference: Inference,
    /// The sum of all balances of a bank; of the first read, if not given.
    pub total: Option<i64>,
    /// Whether a bank's balances may be negative.
    pub negative: bool,
    /// How much may be spent.
    pub budget: Budget,
}

impl Question {
    /// Whether the history is this workload's at this level, with nothing granted.
    pub fn new(workload: Workload, level: Level) -> Question {
        Question {
            workload,
            level,
            own_levels: false,
            closed: false,
            inference: Inference::default(),
            total: None,
            negative: false,
            budget: Budget::default(),
        }
    }
}

/// Whether the history can have come from a system that keeps the level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Holds,
    /// It cannot: see what was found.
    Violated,
    /// It is not known, and why.
    Undecided(String),
}

/// An anomaly that the level forbids.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which.
    pub anomaly: Anomaly,
    /// How often it was met; of cycles, in how many components.
    pub count: usize,
    /// The shortest case that was met.
    pub witness: Witness,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Report {
    /// The verdict.
    pub verdict: Verdict,
    /// What was found, the gravest first, each anomaly once.
    pub found: Vec<Found>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

impl Report {
    /// What follows from what was found, or else this verdict.
    pub(super) fn new(mut found: Vec<Found>, otherwise: Verdict) -> Report {
        found.sort_by_key(|found| found.anomaly);
        let verdict = if found.is_empty() { otherwise } else { Verdict::Violated };
        Report { verdict, found, notes: Vec::new() }
    }

    /// Nothing was found, and that says nothing.
    pub(super) fn undecided(why: &str) -> Report {
        Report::new(Vec::new(), Verdict::Undecided(why.to_owned()))
    }

    /// The names of what was found.
    pub fn names(&self) -> Vec<String> {
        self.found.iter().map(|found| found.anomaly.to_string()).collect()
    }
}

/// Gathers what is found: each anomaly once, with its shortest witness.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    found: Vec<Found>,
    /// Every witness, where that is asked for.
    all: Option<Vec<Witness>>,
}

impl Gathered {
    /// Takes one more; `witness` is asked for only if it may be the shortest.
    pub(super) fn meet(
        &mut self,
        anomaly: Anomaly,
        length: usize,
        witness: impl FnOnce() -> Witness,
    ) {
        let witness: Box<dyn FnOnce() -> Witness> = match &mut self.all {
            None => Box::new(witness),
            Some(all) => {
                let witness = witness();
                all.push(witness.clone());
                Box::new(|| witness)
            }
        };
        match self.found.iter_mut().find(|found| found.anomaly == anomaly) {
            None => self.found.push(Found { anomaly, count: 1, witness: witness() }),
            Some(found) => {
                found.count += 1;
                if length < found.witness.transactions.len() {
                    found.witness = witness();
                }
            }
        }
    }

    /// One that keeps every witness.
    pub(super) fn with_all() -> Gathered {
        Gathered { found: Vec::new(), all: Some(Vec::new()) }
    }

    /// Every witness, if they were kept.
    pub(super) fn take_all(&mut self) -> Vec<Witness> {
        self.all.take().unwrap_or_default()
    }

    pub(super) fn into_found(self) -> Vec<Found> {
        self.found
    }
}
