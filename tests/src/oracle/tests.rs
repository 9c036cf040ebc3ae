//! Histories by hand, and what the judge says of them at each level.

use isolith::DeadlockPolicy;

use super::*;
use crate::programs::{Written, initial, initial_value, merged_bit, value};

const LEVELS: [Isolation; 4] = Isolation::ALL;

/// What an operation gave: some keys with what they held.
fn gave(pairs: &[(Key, Written)]) -> Answer {
    let mut answer = crate::programs::NOTHING;
    for (key, value) in pairs {
        answer[usize::from(*key)] = Some(*value);
    }
    answer
}

fn old(key: Key) -> Answer {
    gave(&[(key, initial_value(key))])
}

fn none() -> Answer {
    gave(&[])
}

/// A transaction that saw no word of others when it began, and ended when two commits were decided.
fn trace(isolation: Isolation, acts: &[Act], answers: &[Answer], end: End) -> Trace {
    let concurrency = Concurrency::Optimistic;
    let program = Program { isolation, concurrency, acts: acts.to_vec() };
    let decided = match end {
        End::Committed(place) => place - 1,
        _ => 2,
    };
    let statement = |answer: &Answer| Statement { answer: *answer, told: 0, decided };
    let statements = answers.iter().map(statement).collect();
    let decided_at_end = if let End::Committed(place) = end { place } else { 2 };
    Trace { program, statements, told_at_begin: 0, decided_at_end, end, lived: (1, 9) }
}

fn locking(mut trace: Trace) -> Trace {
    trace.program.concurrency = Concurrency::Locking(DeadlockPolicy::WoundWait);
    trace
}

fn passes(traces: &[Trace]) -> bool {
    judge(&initial(Keys::between(0, 1)), traces).is_ok()
}

/// The levels at which a history passes, all of its transactions at the same one.
fn passing(history: impl Fn(Isolation) -> Vec<Trace>) -> Vec<Isolation> {
    LEVELS.into_iter().filter(|level| passes(&history(*level))).collect()
}

use Isolation::{ReadCommitted, RepeatableRead, Serializable, Snapshot};

#[test]
fn write_skew_of_items() {
    let found = passing(|level| {
        vec![
            trace(level, &[Act::Get(1), Act::Put(0)], &[old(1), none()], End::Committed(1)),
            trace(level, &[Act::Get(0), Act::Put(1)], &[old(0), none()], End::Committed(2)),
        ]
    });
    // A fresh statement was possible, and nothing says that this one was not.
    assert_eq!(found, [ReadCommitted, Snapshot]);
}

#[test]
fn write_skew_of_ranges() {
    let found = passing(|level| {
        let seen = [gave(&[(0, initial_value(0)), (1, initial_value(1))]), none()];
        vec![
            trace(level, &[Act::Scan(0, 2), Act::Put(2)], &seen, End::Committed(1)),
            trace(level, &[Act::Scan(0, 2), Act::Merge(2)], &seen, End::Committed(2)),
        ]
    });
    // Under snapshot a merge into what was looked at is an update of it.
    assert_eq!(found, [ReadCommitted, RepeatableRead]);
}

#[test]
fn lost_update() {
    let found = passing(|level| {
        let acts = [Act::Get(0), Act::Put(0)];
        [1, 2].map(|n| trace(level, &acts, &[old(0), none()], End::Committed(n))).to_vec()
    });
    assert_eq!(found, [ReadCommitted]);
    for act in [Act::ForUpdate(0), Act::ForShare(0)] {
        let found = passing(|level| {
            let acts = [act, Act::Put(0)];
            [1, 2].map(|n| trace(level, &acts, &[old(0), none()], End::Committed(n))).to_vec()
        });
        assert_eq!(found, [], "{act:?}");
    }
}

#[test]
fn read_skew() {
    let found = passing(|level| {
        let new = gave(&[(1, value(0, 1))]);
        let mut reader = trace(level, &[Act::Get(0), Act::Get(1)], &[old(0), new], End::Unchanged);
        for statement in &mut reader.statements {
            statement.decided = 1;
        }
        let writer =
            trace(level, &[Act::Put(0), Act::Put(1)], &[none(), none()], End::Committed(1));
        vec![writer, reader]
    });
    assert_eq!(found, [ReadCommitted]);
}

#[test]
fn what_was_seen_never_vanishes() {
    let found = passing(|level| {
        let new = gave(&[(0, value(0, 0))]);
        let reader = trace(level, &[Act::Get(0), Act::Get(1)], &[new, old(1)], End::Unchanged);
        let writer =
            trace(level, &[Act::Put(0), Act::Put(1)], &[none(), none()], End::Committed(1));
        vec![writer, reader]
    });
    assert_eq!(found, []);
}

#[test]
fn a_phantom_between_two_scans() {
    let found = passing(|level| {
        let writer = trace(level, &[Act::Put(2)], &[none()], End::Committed(1));
        let acts = [Act::Scan(1, 2), Act::Scan(1, 2)];
        let later = gave(&[(1, initial_value(1)), (2, value(0, 0))]);
        vec![writer, trace(level, &acts, &[old(1), later], End::Unchanged)]
    });
    assert_eq!(found, [ReadCommitted, RepeatableRead]);
    // An item that changes between the scans is another matter.
    let found = passing(|level| {
        let writer = trace(level, &[Act::Put(1)], &[none()], End::Committed(1));
        let acts = [Act::Scan(1, 2), Act::Scan(1, 2)];
        let later = gave(&[(1, value(0, 0))]);
        vec![writer, trace(level, &acts, &[old(1), later], End::Unchanged)]
    });
    assert_eq!(found, [ReadCommitted]);
}

#[test]
fn blind_writes_are_first_committer_wins_under_snapshot_alone() {
    let found = passing(|level| {
        let acts = [Act::Get(1), Act::Put(0)];
        let writer = trace(level, &[Act::Put(0), Act::Put(1)], &[none(); 2], End::Committed(1));
        let mut second = trace(level, &acts, &[old(1), none()], End::Committed(2));
        second.statements[0].decided = 0;
        vec![writer, second]
    });
    assert_eq!(found, [ReadCommitted]);
    let found = passing(|level| {
        let acts = [Act::Get(2), Act::Put(0)];
        let writer = trace(level, &[Act::Put(0), Act::Put(2)], &[none(); 2], End::Committed(1));
        let mut second =
            trace(level, &acts, &[gave(&[(2, value(0, 1))]), none()], End::Committed(2));
        second.statements[0].decided = 1;
        vec![writer, second]
    });
    assert_eq!(found, LEVELS);
}

#[test]
fn a_merge_that_is_not_looked_at_conflicts_with_nobody() {
    let merged = initial_value(1) + merged_bit(0, 0);
    let found = passing(|level| {
        let acts = [Act::Get(0), Act::Merge(1)];
        vec![
            trace(level, &[Act::Merge(1)], &[none()], End::Committed(1)),
            trace(level, &acts, &[old(0), none()], End::Committed(2)),
            {
                let both = merged + merged_bit(1, 1);
                let seen = gave(&[(1, both)]);
                trace(level, &[Act::Get(1)], &[seen], End::Unchanged)
            },
        ]
    });
    assert_eq!(found, LEVELS);
    // Looked at, it has to be the latest.
    let found = passing(|level| {
        let acts = [Act::Merge(1), Act::Get(1)];
        let seen = gave(&[(1, initial_value(1) + merged_bit(1, 0))]);
        vec![
            trace(level, &[Act::Merge(1)], &[none()], End::Committed(1)),
            trace(level, &acts, &[none(), seen], End::Committed(2)),
        ]
    });
    assert_eq!(found, [ReadCommitted]);
}

#[test]
fn a_read_older_than_what_was_told_is_found() {
    for level in LEVELS {
        let seen = |value| {
            let writer = trace(level, &[Act::Put(0)], &[none()], End::Committed(1));
            let mut reader = trace(level, &[Act::Get(0)], &[gave(&[(0, value)])], End::Unchanged);
            reader.told_at_begin = 1;
            reader.statements[0].told = 1;
            passes(&[writer, reader])
        };
        assert!(seen(value(0, 0)));
        assert!(!seen(initial_value(0)), "{level}");
    }
}

#[test]
fn what_did_not_commit_or_was_written_over_is_never_seen() {
    for level in LEVELS {
        let acts = [Act::Put(0), Act::Put(0)];
        let writer = trace(level, &acts, &[none(), none()], End::Committed(1));
        let reads = |seen| {
            let reader = trace(level, &[Act::Get(0)], &[gave(&[(0, seen)])], End::Unchanged);
            passes(&[writer.clone(), reader])
        };
        assert!(reads(value(0, 1)));
        // What it wrote over, and what nobody who committed wrote.
        assert!(!reads(value(0, 0)));
        assert!(!reads(value(2, 0)));
    }
}

#[test]
fn nothing_is_seen_before_it_is_decided() {
    for level in LEVELS {
        let writer = trace(level, &[Act::Put(0)], &[none()], End::Committed(1));
        let seen = gave(&[(0, value(0, 0))]);
        let mut reader = trace(level, &[Act::Get(0)], &[seen], End::Unchanged);
        reader.statements[0].decided = 0;
        assert!(!passes(&[writer, reader]), "{level}");
    }
}

#[test]
fn a_conflict_needs_somebody_who_changed_what_matters_to_the_level() {
    let refused = |level, act: Act| {
        let seen = Overlay::EMPTY.see(act, &initial(Keys::between(0, 1)));
        let refused =
            trace(level, &[act, Act::Put(2)], &[seen, none()], End::Refused(Why::Conflict));
        let writer = trace(level, &[Act::Put(0)], &[none()], End::Committed(1));
        let mut alone = refused.clone();
        alone.decided_at_end = 0;
        alone.statements.iter_mut().for_each(|statement| statement.decided = 0);
        assert!(!passes(&[alone]), "{level}, {act:?}");
        let mut refused = refused;
        refused.decided_at_end = 1;
        passes(&[refused, writer])
    };
    let with = |act| LEVELS.into_iter().filter(|level| refused(*level, act)).collect::<Vec<_>>();
    assert_eq!(with(Act::Get(0)), [RepeatableRead, Serializable]);
    assert_eq!(with(Act::Get(1)), []);
    assert_eq!(with(Act::ForUpdate(0)), LEVELS);
    assert_eq!(with(Act::ForShare(0)), LEVELS);
    assert_eq!(with(Act::Scan(0, 1)), [RepeatableRead, Serializable]);
}

#[test]
fn a_refused_wait_needs_somebody_who_wanted_the_same() {
    let acts = [Act::Get(1), Act::Put(0)];
    let refused = |why| locking(trace(Serializable, &acts, &[old(1)], End::Refused(why)));
    let writer = |act| locking(trace(Serializable, &[act], &[none()], End::Committed(1)));
    for why in [Why::Wounded, Why::Deadlock, Why::LockRefused] {
        assert!(passes(&[refused(why), writer(Act::Put(0))]));
        assert!(!passes(&[refused(why), writer(Act::Put(2))]));
        let mut gone = writer(Act::Put(0));
        gone.lived = (10, 11);
        assert!(!passes(&[refused(why), gone]));
        // Nobody locks anything.
        let mut both = [refused(why), writer(Act::Put(0))];
        both.iter_mut().for_each(|one| one.program.concurrency = Concurrency::Optimistic);
        assert!(!passes(&both));
    }
}

#[test]
fn who_only_reads_and_takes_no_lock_is_never_refused() {
    let reader = trace(Serializable, &[Act::Get(0)], &[old(0)], End::Refused(Why::Conflict));
    let writer = trace(Serializable, &[Act::Put(0)], &[none()], End::Committed(1));
    assert!(!passes(&[reader, writer]));
}

#[test]
fn each_is_judged_at_its_own_level() {
    let of = |first, second| {
        passes(&[
            trace(first, &[Act::Get(1), Act::Put(0)], &[old(1), none()], End::Committed(1)),
            trace(second, &[Act::Get(0), Act::Put(1)], &[old(0), none()], End::Committed(2)),
        ])
    };
    // The first saw the state before its own commit; the second did not.
    assert!(of(Serializable, ReadCommitted));
    assert!(of(Serializable, Snapshot));
    assert!(!of(ReadCommitted, Serializable));
    assert!(!of(Snapshot, RepeatableRead));
}
