//! Judges a history by brute force: what each transaction saw, whether it committed, and in which
//! order. It knows the promises and no more; not how the engine keeps them.
//!
//! The states are those after each commit, in commit order. Then:
//! 1. **Serializable**, changed something: alone on the state right before its commit it would have
//!    seen exactly what it saw. (The serial order is the commit order.)
//! 2. **Snapshot**, changed something: there is one state, not older than the commits that were told
//!    of before it began, on which alone it would have seen what it saw, and nobody who committed
//!    between that state and its own commit changed a key that it changed (first committer wins).
//! 3. **Changed nothing**: there is one state, not older than the commits told of before it began and
//!    not newer than those at its end, on which it would have seen what it saw. It is never refused.
//! 4. **Refused**: its reads, too, are those of one state; and somebody did change what it depends
//!    on. If it would have been correct to let it commit the refusal counts as *conservative*.
//! 5. A key read for update is one that it changes, at every level.

use std::collections::BTreeSet;

use isolith::Isolation;

use crate::finding::{Checked, Finding};
use crate::programs::{Alone, Answer, Key, Program, State};
use crate::{ensure, ensure_eq};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Committed, as the n-th that changed something, counted from 1.
    Committed(usize),
    /// Committed without having changed anything.
    Unchanged,
    /// Refused.
    Refused,
}

/// What is known of one transaction.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What it did.
    pub program: Program,
    /// What each operation gave.
    pub answers: Vec<Answer>,
    /// Commits that had been told of when it began.
    pub told_at_begin: usize,
    /// Commits that had been decided when it ended.
    pub decided_at_end: usize,
    /// How it ended.
    pub end: End,
}

/// How often what was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Transactions that changed something and committed.
    pub committed: u64,
    /// Transactions that had to be refused.
    pub refused: u64,
    /// Transactions that were refused and could have been let through.
    pub conservative: u64,
}

impl Verdicts {
    /// Adds others.
    pub fn add(&mut self, other: Verdicts) {
        self.committed += other.committed;
        self.refused += other.refused;
        self.conservative += other.conservative;
    }
}

/// One commit: the state after it, and the keys that it changed.
struct Commit {
    state: State,
    written: BTreeSet<Key>,
}

/// Judges a history that began on `initial`.
pub fn judge(initial: &State, traces: &[Trace]) -> Checked<Verdicts> {
    let commits = replay(initial, traces)?;
    let mut verdicts = Verdicts::default();
    for (who, trace) in traces.iter().enumerate() {
        let checked = judge_one(&commits, who, trace, &mut verdicts);
        checked.map_err(|finding| finding.after(format!("transaction {who}, {trace:?}")))?;
    }
    Ok(verdicts)
}

/// The states after each commit; the first is the initial one.
fn replay(initial: &State, traces: &[Trace]) -> Checked<Vec<Commit>> {
    let mut commits = vec![Commit { state: initial.clone(), written: BTreeSet::new() }];
    loop {
        let next = End::Committed(commits.len());
        let mut found = traces.iter().enumerate().filter(|(_, trace)| trace.end == next);
        let Some((who, trace)) = found.next() else { break };
        ensure!(found.next().is_none(), "two transactions committed as number {}", commits.len());
        let last = &commits[commits.len() - 1];
        let Alone { state, written, .. } = trace.program.alone(who, &last.state);
        commits.push(Commit { state, written });
    }
    let count = traces.iter().filter(|trace| matches!(trace.end, End::Committed(_))).count();
    ensure_eq!(commits.len() - 1, count, "the number of commits in a dense order");
    Ok(commits)
}

fn judge_one(commits: &[Commit], who: usize, trace: &Trace, verdicts: &mut Verdicts) -> Checked {
    // The states on which it would have seen, alone, what it saw.
    let explains = |place: &usize| {
        let alone = trace.program.alone(who, &commits[*place].state);
        alone.answers == trace.answers
    };
    let candidates = |last: usize| (trace.told_at_begin..=last).filter(explains);
    match trace.end {
        End::Unchanged => {
            ensure!(!trace.program.changes(), "it changes something and took no timestamp");
            let explained = candidates(trace.decided_at_end).next().is_some();
            ensure!(explained, "no state explains what it saw");
        }
        End::Committed(place) => {
            ensure!(trace.program.changes(), "it changes nothing and took a timestamp");
            ensure!(place > trace.told_at_begin, "it committed before it began");
            verdicts.committed += 1;
            match trace.program.isolation {
                Isolation::Serializable => {
                    let seen = explains(&(place - 1));
                    ensure!(seen, "the state before its commit does not explain what it saw");
                }
                Isolation::Snapshot => {
                    let alone = |place: usize| trace.program.alone(who, &commits[place].state);
                    let allowed = candidates(place - 1).any(|begun| {
                        let written = alone(begun).written;
                        let mut between = commits[begun + 1..place].iter();
                        between.all(|commit| commit.written.is_disjoint(&written))
                    });
                    ensure!(allowed, "no state explains what it saw without a lost update");
                }
                level => return Err(Finding::new(format!("{level} is judged by nobody"))),
            }
        }
        End::Refused => {
            ensure!(trace.program.changes(), "it changes nothing and was refused");
            let begun: Vec<usize> = candidates(trace.decided_at_end).collect();
            let Some(latest) = begun.last() else {
                return Err(Finding::new("no state explains what it saw before it was refused"));
            };
            let reasons = |place: usize| {
                let alone = trace.program.alone(who, &commits[place].state);
                match trace.program.isolation {
                    // A scan depends on all that it went over, own writes or not; so does a read
                    // for update.
                    Isolation::Serializable => &(&alone.read | &alone.scanned) | &alone.claimed,
                    _ => alone.written,
                }
            };
            let touched = begun.iter().any(|begun| {
                let depends = reasons(*begun);
                let mut since = commits[begun + 1..=trace.decided_at_end].iter();
                since.any(|commit| !commit.written.is_disjoint(&depends))
            });
            ensure!(touched, "it was refused although nobody touched what it depends on");
            let conservative = trace.program.isolation == Isolation::Serializable
                && *latest == trace.decided_at_end;
            verdicts.conservative += u64::from(conservative);
            verdicts.refused += u64::from(!conservative);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::{Act, initial_value, value};

    fn trace(isolation: Isolation, acts: &[Act], answers: &[Answer], end: End) -> Trace {
        let program = Program { isolation, acts: acts.to_vec() };
        let answers = answers.to_vec();
        Trace { program, answers, told_at_begin: 0, decided_at_end: 2, end }
    }

    fn both() -> State {
        State::from([(0, initial_value(0)), (1, initial_value(1))])
    }

    /// Two transactions that each read what the other writes, from the initial state.
    fn write_skew(isolation: Isolation) -> Vec<Trace> {
        let old = |key: Key| vec![(key, initial_value(key))];
        vec![
            trace(isolation, &[Act::Get(1), Act::Put(0)], &[old(1), vec![]], End::Committed(1)),
            trace(isolation, &[Act::Get(0), Act::Put(1)], &[old(0), vec![]], End::Committed(2)),
        ]
    }

    #[test]
    fn write_skew_is_an_anomaly_of_one_level_alone() {
        assert!(judge(&both(), &write_skew(Isolation::Snapshot)).is_ok());
        assert!(judge(&both(), &write_skew(Isolation::Serializable)).is_err());
    }

    #[test]
    fn a_lost_update_is_an_anomaly_of_both() {
        for isolation in [Isolation::Snapshot, Isolation::Serializable] {
            let acts = [Act::Get(0), Act::Put(0)];
            let answers = [vec![(0, initial_value(0))], vec![]];
            let traces = [1, 2].map(|n| trace(isolation, &acts, &answers, End::Committed(n)));
            assert!(judge(&both(), &traces).is_err(), "{isolation}");
        }
    }

    #[test]
    fn a_blind_overwrite_is_first_committer_wins_under_snapshot_alone() {
        let judged = |isolation| {
            let acts = [Act::Get(1), Act::Put(0)];
            let answers = [vec![(1, initial_value(1))], vec![]];
            let writer = |n| trace(isolation, &acts, &answers, End::Committed(n));
            judge(&both(), &[writer(1), writer(2)]).is_ok()
        };
        assert!(judged(Isolation::Serializable));
        // The second could have begun after the first: nothing that it saw says otherwise.
        assert!(judged(Isolation::Snapshot));
        let acts = [Act::Get(0), Act::Put(1)];
        let answers = [vec![(0, initial_value(0))], vec![]];
        let first = trace(Isolation::Snapshot, &[Act::Put(0)], &[vec![]], End::Committed(1));
        let second = trace(Isolation::Snapshot, &acts, &answers, End::Committed(2));
        assert!(judge(&both(), &[first.clone(), second]).is_ok());
        let acts = [Act::Get(0), Act::Put(0)];
        let third = trace(Isolation::Snapshot, &acts, &answers, End::Committed(2));
        assert!(judge(&both(), &[first, third]).is_err());
    }

    #[test]
    fn a_read_older_than_what_was_told_is_found() {
        let writer = trace(Isolation::Snapshot, &[Act::Put(0)], &[vec![]], End::Committed(1));
        let seen = |value| {
            let mut reader =
                trace(Isolation::Snapshot, &[Act::Get(0)], &[vec![(0, value)]], End::Unchanged);
            reader.told_at_begin = 1;
            reader.decided_at_end = 1;
            judge(&both(), &[writer.clone(), reader]).is_ok()
        };
        assert!(seen(value(0, 0)));
        assert!(!seen(initial_value(0)));
    }

    #[test]
    fn a_refusal_needs_a_reason() {
        let acts = [Act::Get(0), Act::Put(1)];
        let answers = [vec![(0, initial_value(0))], vec![]];
        let refused = trace(Isolation::Serializable, &acts, &answers, End::Refused);
        let mut alone = refused.clone();
        alone.decided_at_end = 0;
        assert!(judge(&both(), &[alone]).is_err());
        let mut with_reason = refused;
        with_reason.decided_at_end = 1;
        let writer = trace(Isolation::Serializable, &[Act::Put(0)], &[vec![]], End::Committed(1));
        let verdicts = judge(&both(), &[with_reason, writer]).unwrap();
        assert_eq!((verdicts.refused, verdicts.conservative), (1, 0));
    }
}
