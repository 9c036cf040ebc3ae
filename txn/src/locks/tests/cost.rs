//! What an uncontended lock costs, with its share of the release. For a calm machine:
//!
//! `cargo test -p isolith-txn --release --lib locks::tests::cost -- --ignored --nocapture`

use std::ops::Bound;
use std::sync::Arc;

use isolith_index::Slice;

use super::space;
use crate::locks::*;

/// What this thread has run so far, whoever else wanted the core; exact to a tick of the scheduler.
fn thread_nanoseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    text.split(' ').next().and_then(|run| run.parse().ok()).expect("a number")
}

/// Nanoseconds for each of `locks` locks of one owner on keys of their own, beside `others` locks of
/// somebody else.
fn nanoseconds(locks: usize, key_bytes: usize, others: usize) -> f64 {
    const OWNERS: usize = 200_000;
    let table = Arc::new(LockTable::new());
    let space = space(1);
    let key = |number: usize| {
        let mut key = vec![b'k'; key_bytes];
        key[key_bytes - 8..].copy_from_slice(&(number as u64).to_be_bytes());
        key
    };
    let other = table.owner(table.next_age(), DeadlockPolicy::WoundWait);
    let spread = |number: usize| key(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for number in 0..others {
        let target = spread(OWNERS * 64 + number);
        assert_eq!(
            other.lock(&space, LockTarget::Key(&target), LockMode::Shared, None),
            LockStep::Granted
        );
    }
    let keys: Vec<_> = (0..64 * locks).map(spread).collect();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let begin = thread_nanoseconds();
        for number in 0..OWNERS / locks {
            let owner = table.owner(table.next_age(), DeadlockPolicy::WoundWait);
            for lock in 0..locks {
                let target = LockTarget::Key(&keys[(number * locks + lock) % keys.len()]);
                let step = owner.lock(&space, target, LockMode::Exclusive, None);
                debug_assert_eq!(step, LockStep::Granted);
            }
        }
        let each = (thread_nanoseconds() - begin) / (OWNERS / locks * locks) as f64;
        best = best.min(each);
    }
    best
}

#[test]
#[ignore = "a measurement, for a calm machine"]
fn an_uncontended_lock_and_its_release() {
    for (locks, key_bytes, others) in
        [(1, 16, 0), (4, 16, 0), (16, 16, 0), (4, 32, 0), (4, 16, 1000), (4, 16, 100_000)]
    {
        let each = nanoseconds(locks, key_bytes, others);
        println!(
            "{locks:>3} locks an owner, keys of {key_bytes} bytes, beside {others:>6}: {each:.0} ns each"
        );
    }
}

#[test]
#[ignore = "a measurement, for a calm machine"]
fn the_extension_of_a_cursor() {
    const STEPS: usize = 100_000;
    let space = space(1);
    let table = Arc::new(LockTable::new());
    let keys: Vec<_> =
        (0..=STEPS).map(|n| Slice::from(format!("user:{n:010}").as_bytes())).collect();
    let stretches: Vec<_> = keys
        .windows(2)
        .map(|pair| Interval {
            lower: Bound::Excluded(pair[0].clone()),
            upper: Bound::Included(pair[1].clone()),
        })
        .collect();
    let mut best = f64::MAX;
    for _ in 0..5 {
        let owner = table.owner(table.next_age(), DeadlockPolicy::WoundWait);
        let begin = thread_nanoseconds();
        for stretch in &stretches {
            let step = owner.lock(&space, LockTarget::Range(stretch), LockMode::Shared, None);
            debug_assert_eq!(step, LockStep::Granted);
        }
        best = best.min((thread_nanoseconds() - begin) / STEPS as f64);
        assert_eq!(owner.lock_count(), 1);
    }
    println!("a cursor's extension: {best:.0} ns each");
}
