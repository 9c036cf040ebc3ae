//! The named anomalies, found in a history: which versions each transaction read and wrote, and the
//! order of the commits, is all that is looked at.
//!
//! The version order of every key is the commit order. Between two committed transactions there is a
//! *dependency*
//! - `ww` if the second wrote a later version of a key that the first wrote (but not by a merge into a
//!   key that it had not looked at: it would have done the same in any order),
//! - `wr` if the second read what the first wrote, or something later (a range read counts for every
//!   key that it went over),
//! - `rw` on an *item* if the first read a version of a key (an absent one, too; of a range read the
//!   keys that it returned) and the second wrote a later one,
//! - `rw` on a *range* if the second wrote a key that the first's range read went over and did not
//!   return.
//!
//! Anomalies are cycles of these (Adya, *Weak Consistency*, 1999; the names as in Hermitage and in
//! Cerone, Bernardi and Gotsman, 2015), and reads of what never was. Each is told with the
//! transactions whose reads were overtaken. Where levels are mixed a cycle is forbidden if each `rw`
//! in it comes out of a transaction whose level forbids it (Adya's mixing).

use std::fmt;

use isolith::Isolation;

use crate::finding::Checked;
use crate::oracle::{self, End, Statement, Trace};
use crate::programs::{Act, Footprint, KEY_MAX, Key, Keys, Overlay, State, Written};

/// Something that a level may forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// G0: writes of two transactions lie on each other in both orders.
    DirtyWrite,
    /// G1a: a value was read whose writer did not commit.
    AbortedRead,
    /// G1b: a value was read that its writer wrote over.
    IntermediateRead,
    /// G1c: information flows in a circle.
    CircularInformation,
    /// OTV: a transaction's writes are seen, and later not.
    ObservedTransactionVanishes,
    /// P4: a key was read, written by somebody else, and then by the reader.
    LostUpdate,
    /// G-single over items: some of another transaction's writes are seen, and some are not.
    ReadSkew,
    /// PMP, G-single over a range: what another transaction did is seen, its phantom is not.
    PredicateManyPreceders,
    /// G2-item: two read what the other writes.
    WriteSkew,
    /// G2: the same with ranges, in which nothing of it was found.
    PredicateWriteSkew,
    /// A read older than what had been told of when its transaction began.
    StaleRead,
}

impl Anomaly {
    /// Every anomaly.
    pub const ALL: [Anomaly; 11] = [
        Anomaly::DirtyWrite,
        Anomaly::AbortedRead,
        Anomaly::IntermediateRead,
        Anomaly::CircularInformation,
        Anomaly::ObservedTransactionVanishes,
        Anomaly::LostUpdate,
        Anomaly::ReadSkew,
        Anomaly::PredicateManyPreceders,
        Anomaly::WriteSkew,
        Anomaly::PredicateWriteSkew,
        Anomaly::StaleRead,
    ];

    /// Whether a transaction at this level may meet it.
    pub fn may_happen_at(self, level: Isolation) -> bool {
        match self {
            Anomaly::LostUpdate | Anomaly::ReadSkew => level == Isolation::ReadCommitted,
            Anomaly::PredicateManyPreceders => {
                matches!(level, Isolation::ReadCommitted | Isolation::RepeatableRead)
            }
            Anomaly::WriteSkew => {
                matches!(level, Isolation::ReadCommitted | Isolation::Snapshot)
            }
            Anomaly::PredicateWriteSkew => level != Isolation::Serializable,
            _ => false,
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Anomaly::DirtyWrite => "dirty write (G0)",
            Anomaly::AbortedRead => "aborted read (G1a)",
            Anomaly::IntermediateRead => "intermediate read (G1b)",
            Anomaly::CircularInformation => "circular information flow (G1c)",
            Anomaly::ObservedTransactionVanishes => "observed transaction vanishes (OTV)",
            Anomaly::LostUpdate => "lost update (P4)",
            Anomaly::ReadSkew => "read skew (G-single)",
            Anomaly::PredicateManyPreceders => "predicate-many-preceders (PMP)",
            Anomaly::WriteSkew => "write skew (G2-item)",
            Anomaly::PredicateWriteSkew => "predicate write skew (G2)",
            Anomaly::StaleRead => "stale read",
        })
    }
}

/// Which version of a key was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one of the n-th commit; 0 is the one before all.
    Of(usize),
    /// One whose writer did not commit.
    Aborted,
    /// One that its writer wrote over.
    Intermediate,
}

/// A read of one key, on its own or by a range read that went over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// The key.
    pub key: Key,
    /// What was found.
    pub version: Version,
    /// Whether it is an item: read on its own, or returned. Otherwise a range read went over it.
    pub item: bool,
}

/// One transaction of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Its level.
    pub isolation: Isolation,
    /// The number of its commit, if it changed something.
    pub commit: Option<usize>,
    /// Commits that had been told of when it began.
    pub told_at_begin: usize,
    /// What it read and had not written, in order.
    pub reads: Vec<Read>,
    /// The keys that it changed.
    pub writes: Keys,
    /// Those of them that it only merged into, without having looked at them.
    pub merges: Keys,
}

/// What happened: the transactions that committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// They, in any order.
    pub transactions: Vec<Observed>,
}

/// An anomaly, and the transactions that met it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Met {
    /// What.
    pub anomaly: Anomaly,
    /// Those of the history whose reads were overtaken, ascending.
    pub who: Vec<usize>,
    /// Whether their levels forbid it.
    pub forbidden: bool,
}

/// A dependency in a cycle.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    Forward,
    Item,
    Range,
}

/// The kinds of dependency between two transactions, as a set.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Kinds {
    ww: bool,
    wr: bool,
    rw_item: bool,
    rw_range: bool,
}

impl History {
    /// The history that was observed: who read which version follows from the values. A write that
    /// changes nothing (a delete of what is not there) makes no version. Where several versions
    /// would explain a read (a key was put and deleted again), it is the one of a state that explains
    /// all that the transaction read, or of the state that explained the statement before: so nothing
    /// is found that need not have happened.
    pub fn of(initial: &State, traces: &[Trace]) -> Checked<History> {
        let mut commits = oracle::replay(initial, traces)?;
        for place in 1..commits.len() {
            let (before, after) = (commits[place - 1].state, commits[place].state);
            let differs = |key: &Key| before[usize::from(*key)] != after[usize::from(*key)];
            commits[place].changed = (0..=KEY_MAX).filter(differs).collect();
        }
        let mut transactions = Vec::new();
        for (who, trace) in traces.iter().enumerate() {
            if matches!(trace.end, End::Refused(_)) {
                continue;
            }
            let answers: Vec<_> = trace.statements.iter().map(|one| one.answer).collect();
            let overlays = trace.program.overlays(who, &answers);
            let mut reads = Vec::new();
            let statements = || trace.program.acts.iter().zip(&overlays).zip(&trace.statements);
            let explains = |state: usize, (act, own): (&Act, &Overlay), statement: &Statement| {
                !act.reads()
                    || state <= statement.decided
                        && own.see(*act, &commits[state].state) == statement.answer
            };
            let all = |state: &usize| {
                statements().all(|(operation, statement)| explains(*state, operation, statement))
            };
            let mut preferred = (trace.told_at_begin..commits.len()).rev().find(all);
            for (operation, statement) in statements() {
                let (act, own) = operation;
                let states = 0..commits.len().min(statement.decided + 1);
                let whole = preferred
                    .into_iter()
                    .chain(states.clone().rev())
                    .find(|state| explains(*state, operation, statement));
                preferred = whole.or(preferred);
                // The version of a key that it read in this state, or in the last that would do.
                let version = |key: Key, needed: Option<Written>| {
                    let holds = |state: usize| commits[state].state[usize::from(key)] == needed;
                    let state = whole.filter(|state| holds(*state));
                    let Some(state) = state.or_else(|| states.clone().rev().find(|s| holds(*s)))
                    else {
                        return never_committed(traces, needed);
                    };
                    let wrote = |state: &usize| commits[*state].changed.contains(key);
                    Version::Of((0..=state).rev().find(wrote).unwrap_or(0))
                };
                for (key, item) in looked_at(*act, &statement.answer) {
                    let seen = statement.answer[usize::from(key)];
                    if let Some(needed) = own.under(key, seen) {
                        reads.push(Read { key, version: version(key, needed), item });
                    }
                }
            }
            let commit = match trace.end {
                End::Committed(place) => Some(place),
                _ => None,
            };
            let footprint = trace.program.footprint(&overlays, &answers);
            let Footprint { points, scanned, merged, .. } = footprint;
            transactions.push(Observed {
                isolation: trace.program.isolation,
                commit,
                told_at_begin: trace.told_at_begin,
                reads,
                writes: commit.map_or(Keys::default(), |place| commits[place].changed),
                merges: merged.without(points | scanned),
            });
        }
        Ok(History { transactions })
    }

    /// Every anomaly in it, once for the same transactions.
    pub fn anomalies(&self) -> Vec<Met> {
        let mut found = Vec::new();
        for (who, transaction) in self.transactions.iter().enumerate() {
            self.reads_of(who, transaction, &mut found);
        }
        let count = self.transactions.len();
        let kinds: Vec<Vec<Kinds>> =
            (0..count).map(|from| (0..count).map(|to| self.kinds(from, to)).collect()).collect();
        for first in 0..count {
            self.cycles(&kinds, &mut vec![first], &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The first anomaly that is forbidden.
    pub fn forbidden(&self) -> Option<Met> {
        self.anomalies().into_iter().find(|met| met.forbidden)
    }

    fn later_than(&self, version: usize, key: Key, up_to: usize) -> bool {
        self.transactions.iter().any(|writer| {
            writer.writes.contains(key)
                && writer.commit.is_some_and(|commit| commit > version && commit <= up_to)
        })
    }

    /// What is wrong with reads by themselves.
    fn reads_of(&self, who: usize, transaction: &Observed, found: &mut Vec<Met>) {
        let mut meet = |anomaly| found.push(Met { anomaly, who: vec![who], forbidden: true });
        let mut seen: Vec<usize> = Vec::new();
        for read in &transaction.reads {
            match read.version {
                Version::Aborted => meet(Anomaly::AbortedRead),
                Version::Intermediate => meet(Anomaly::IntermediateRead),
                Version::Of(version) => {
                    if self.later_than(version, read.key, transaction.told_at_begin) {
                        meet(Anomaly::StaleRead);
                    }
                    let vanished = self.transactions.iter().any(|writer| {
                        writer.writes.contains(read.key)
                            && writer.commit.is_some_and(|at| at > version && seen.contains(&at))
                    });
                    if vanished {
                        meet(Anomaly::ObservedTransactionVanishes);
                    }
                    seen.push(version);
                }
            }
        }
    }

    /// How the second transaction depends on the first.
    fn kinds(&self, from: usize, to: usize) -> Kinds {
        let mut kinds = Kinds::default();
        if from == to {
            return kinds;
        }
        let (first, second) = (&self.transactions[from], &self.transactions[to]);
        if let (Some(earlier), Some(later)) = (first.commit, second.commit) {
            kinds.ww = earlier < later && first.writes.touch(second.writes.without(second.merges));
        }
        if let Some(commit) = first.commit {
            kinds.wr = second.reads.iter().any(|read| match read.version {
                Version::Of(version) => first.writes.contains(read.key) && version >= commit,
                _ => false,
            });
        }
        if let Some(commit) = second.commit {
            let overtaken = |read: &&Read| match read.version {
                Version::Of(version) => second.writes.contains(read.key) && version < commit,
                _ => false,
            };
            kinds.rw_item = first.reads.iter().filter(overtaken).any(|read| read.item);
            kinds.rw_range = first.reads.iter().filter(overtaken).any(|read| !read.item);
        }
        kinds
    }

    /// Follows simple cycles that begin with the smallest of their transactions.
    fn cycles(&self, kinds: &[Vec<Kinds>], path: &mut Vec<usize>, found: &mut Vec<Met>) {
        let (first, last) = (path[0], path[path.len() - 1]);
        for next in first..self.transactions.len() {
            if kinds[last][next] == Kinds::default() {
                continue;
            }
            if next == first && path.len() > 1 {
                self.name(kinds, path, found);
            } else if !path.contains(&next) {
                path.push(next);
                self.cycles(kinds, path, found);
                path.pop();
            }
        }
    }

    /// Names what a cycle is an instance of. Where a transaction depends on another in several ways,
    /// each counts.
    fn name(&self, kinds: &[Vec<Kinds>], path: &[usize], found: &mut Vec<Met>) {
        let next = |at: usize| path[(at + 1) % path.len()];
        let of = |at: usize| kinds[path[at]][next(at)];
        if (0..path.len()).all(|at| of(at).ww) {
            found.push(Met { anomaly: Anomaly::DirtyWrite, who: path.to_vec(), forbidden: true });
        }
        let choices: Vec<Vec<Edge>> = (0..path.len())
            .map(|at| {
                let kinds = of(at);
                let all = [
                    (kinds.ww || kinds.wr, Edge::Forward),
                    (kinds.rw_item, Edge::Item),
                    (kinds.rw_range, Edge::Range),
                ];
                all.into_iter().filter(|(there, _)| *there).map(|(_, edge)| edge).collect()
            })
            .collect();
        let mut chosen = vec![0; path.len()];
        loop {
            let edge = |at: usize| choices[at][chosen[at]];
            let overtaken: Vec<usize> =
                (0..path.len()).filter(|at| edge(*at) != Edge::Forward).collect();
            let only = |wanted: Edge| overtaken.iter().all(|at| edge(*at) == wanted);
            let anomaly = match overtaken[..] {
                [] if (0..path.len()).any(|at| of(at).wr) => Some(Anomaly::CircularInformation),
                [] => None,
                [at] if only(Edge::Item) && self.updates_what_it_read(path[at], next(at)) => {
                    Some(Anomaly::LostUpdate)
                }
                [_] if only(Edge::Item) => Some(Anomaly::ReadSkew),
                [_] => Some(Anomaly::PredicateManyPreceders),
                _ if only(Edge::Item) => Some(Anomaly::WriteSkew),
                _ => Some(Anomaly::PredicateWriteSkew),
            };
            if let Some(anomaly) = anomaly {
                let forbids = |at: &usize| match self.transactions[path[*at]].isolation {
                    Isolation::Serializable => true,
                    Isolation::Snapshot => overtaken.len() == 1,
                    Isolation::RepeatableRead => edge(*at) == Edge::Item,
                    Isolation::ReadCommitted => false,
                };
                let forbidden = overtaken.iter().all(forbids);
                let mut who: Vec<usize> = overtaken.iter().map(|at| path[*at]).collect();
                if who.is_empty() {
                    who = path.to_vec();
                }
                who.sort_unstable();
                found.push(Met { anomaly, who, forbidden });
            }
            // The next choice of edges, or the end.
            let Some(at) = (0..path.len()).find(|at| chosen[*at] + 1 < choices[*at].len()) else {
                break;
            };
            chosen[at] += 1;
            chosen[..at].fill(0);
        }
    }

    /// Whether `who` read an item, `other` wrote it, and `who` wrote it afterwards.
    fn updates_what_it_read(&self, who: usize, other: usize) -> bool {
        let (who, other) = (&self.transactions[who], &self.transactions[other]);
        let Some((commit, between)) = who.commit.zip(other.commit) else { return false };
        who.reads.iter().any(|read| {
            let overtaken = matches!(read.version, Version::Of(version) if version < between);
            let both = who.writes.without(who.merges) & other.writes;
            read.item && overtaken && between < commit && both.contains(read.key)
        })
    }
}

/// The keys that an operation looked at, and whether each is an item.
fn looked_at(act: Act, answer: &State) -> Vec<(Key, bool)> {
    let found = Keys::of(answer);
    let range = |keys: Keys| keys.iter().map(|key| (key, found.contains(key))).collect();
    match act {
        Act::Get(key) | Act::ForUpdate(key) | Act::ForShare(key) => vec![(key, true)],
        Act::Scan(lower, upper) => range(Keys::between(lower, upper)),
        Act::First => range(Keys::between(0, found.iter().next().unwrap_or(KEY_MAX))),
        Act::Last => range(Keys::between(found.iter().next_back().unwrap_or(0), KEY_MAX)),
        _ => Vec::new(),
    }
}

/// What a value is that no state ever held.
fn never_committed(traces: &[Trace], value: Option<Written>) -> Version {
    let writer = value.map(|value| (value as usize & 0xff).wrapping_sub(1) / 16);
    let committed = writer
        .and_then(|who| traces.get(who))
        .is_some_and(|trace| matches!(trace.end, End::Committed(_)));
    if committed { Version::Intermediate } else { Version::Aborted }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Anomaly::*;

    /// A history in words: one transaction a line, in any order; `c2` is its commit, `told 1` what it
    /// knew, `ra0` a read of version 0 of `a`, `sb0` a range read that went over `b` and did not
    /// return it, `wa` a write.
    fn history(lines: &[&str]) -> History {
        let transaction = |line: &&str| {
            let mut observed = Observed {
                isolation: Isolation::Serializable,
                commit: None,
                told_at_begin: 0,
                reads: Vec::new(),
                writes: Keys::default(),
                merges: Keys::default(),
            };
            for word in line.split_whitespace() {
                let mut letters = word.chars();
                let kind = letters.next().unwrap();
                let key = |letter: char| letter as Key - b'a';
                match kind {
                    'c' => observed.commit = Some(letters.as_str().parse().unwrap()),
                    't' => observed.told_at_begin = letters.as_str().parse().unwrap(),
                    'm' => {
                        let key = Keys::one(key(letters.next().unwrap()));
                        observed.writes = observed.writes | key;
                        observed.merges = observed.merges | key;
                    }
                    'w' => {
                        observed.writes = observed.writes | Keys::one(key(letters.next().unwrap()))
                    }
                    _ => {
                        let key = key(letters.next().unwrap());
                        let version = match letters.as_str() {
                            "?" => Version::Aborted,
                            "~" => Version::Intermediate,
                            number => Version::Of(number.parse().unwrap()),
                        };
                        observed.reads.push(Read { key, version, item: kind == 'r' });
                    }
                }
            }
            observed
        };
        History { transactions: lines.iter().map(transaction).collect() }
    }

    fn found(lines: &[&str]) -> Vec<(Anomaly, Vec<usize>)> {
        history(lines).anomalies().into_iter().map(|met| (met.anomaly, met.who)).collect()
    }

    #[test]
    fn a_serial_history_has_no_anomaly() {
        assert_eq!(found(&["c1 ra0 wa wb", "c2 ra1 sb1 wb", "t2 ra1 rb2"]), []);
    }

    #[test]
    fn reads_of_what_never_was() {
        assert_eq!(found(&["ra?"]), [(AbortedRead, vec![0])]);
        assert_eq!(found(&["ra~"]), [(IntermediateRead, vec![0])]);
        assert_eq!(found(&["c1 wa", "t1 ra0"]), [(StaleRead, vec![1])]);
    }

    #[test]
    fn information_in_a_circle() {
        // Each has read what the other wrote.
        let met = found(&["c1 rb2 wa", "c2 ra1 wb"]);
        assert_eq!(met, [(CircularInformation, vec![0, 1])]);
    }

    #[test]
    fn a_transaction_that_was_seen_vanishes() {
        let met = found(&["c1 wa wb", "ra1 rb0"]);
        assert_eq!(met, [(ObservedTransactionVanishes, vec![1]), (ReadSkew, vec![1])]);
        // In the other order it is read skew alone.
        assert_eq!(found(&["c1 wa wb", "ra0 rb1"]), [(ReadSkew, vec![1])]);
    }

    #[test]
    fn a_lost_update() {
        let met = found(&["c1 ra0 wa", "c2 ra0 wa"]);
        assert!(met.contains(&(LostUpdate, vec![1])), "{met:?}");
        // A blind write over it loses nothing.
        assert_eq!(found(&["c1 ra0 wa", "c2 wa"]), []);
    }

    #[test]
    fn predicate_many_preceders() {
        // The phantom `a` is missed, `b` of the same writer is seen.
        assert_eq!(found(&["c1 wa wb", "sa0 rb1"]), [(PredicateManyPreceders, vec![1])]);
        assert_eq!(found(&["c1 wa", "sa0 ra1"]), [(PredicateManyPreceders, vec![1])]);
    }

    #[test]
    fn write_skew_over_items_and_over_ranges() {
        let both = vec![0, 1];
        assert_eq!(found(&["c1 rb0 wa", "c2 ra0 wb"]), [(WriteSkew, both.clone())]);
        assert_eq!(found(&["c1 sb0 wa", "c2 sa0 wb"]), [(PredicateWriteSkew, both.clone())]);
        assert_eq!(found(&["c1 rb0 wa", "c2 sa0 wb"]), [(PredicateWriteSkew, both)]);
    }

    #[test]
    fn three_make_a_circle_too() {
        let met = found(&["c1 ra0 wb", "c2 rb0 wc", "c3 rc0 wa"]);
        assert_eq!(met, [(WriteSkew, vec![0, 1, 2])]);
        // The read-only anomaly of snapshot isolation (Fekete, O'Neil and O'Neil, 2004).
        let met = found(&["c2 ra0 rb0 wa", "c1 rb0 wb", "t1 ra0 rb1"]);
        assert_eq!(met, [(WriteSkew, vec![0, 2])]);
    }

    #[test]
    fn a_mixed_cycle_is_forbidden_if_each_of_its_readers_forbids_its_own_part() {
        use Isolation::{ReadCommitted, RepeatableRead, Serializable, Snapshot};
        let forbidden = |lines: &[&str], levels: &[Isolation]| {
            let mut history = history(lines);
            for (transaction, level) in history.transactions.iter_mut().zip(levels) {
                transaction.isolation = *level;
            }
            history.forbidden().is_some()
        };
        let skew = ["c1 rb0 wa", "c2 ra0 wb"];
        assert!(forbidden(&skew, &[Serializable, Serializable]));
        assert!(forbidden(&skew, &[Serializable, RepeatableRead]));
        assert!(!forbidden(&skew, &[Serializable, Snapshot]));
        assert!(!forbidden(&skew, &[ReadCommitted, Serializable]));
        let phantom = ["c1 rb0 wa", "c2 sa0 wb"];
        assert!(forbidden(&phantom, &[RepeatableRead, Serializable]));
        assert!(!forbidden(&phantom, &[Serializable, RepeatableRead]));
        let lost = ["c1 ra0 wa", "c2 ra0 wa"];
        for (level, may) in [(ReadCommitted, true), (Snapshot, false), (RepeatableRead, false)] {
            assert_eq!(forbidden(&lost, &[level, level]), !may, "{level}");
        }
    }

    #[test]
    fn a_merge_into_what_was_not_looked_at_follows_nobody() {
        assert_eq!(found(&["c1 wa wb", "c2 rb0 ma"]), []);
        assert_eq!(found(&["c1 wa wb", "c2 rb0 wa"]), [(ReadSkew, vec![1])]);
        // It is followed like any other write.
        assert_eq!(found(&["c1 ma mb", "ra1 rb0"]).len(), 2);
    }

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(found(&["c1 ra0 wa", "c2 rb0 wb"]), []);
    }
}
