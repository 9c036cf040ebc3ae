//! What must hold in a window besides what its levels promise: sums, tokens, queues, forks, timestamps.
//!
//! Only committed transactions are asked, and each only for what its level promises.

use std::collections::BTreeMap;

use isolith::{Isolation, Timestamp};

use super::tape::{ABSENT, End, Entry, Key, Operation, Taped, Value};
use super::window::Window;
use super::workload::{ACCOUNTS, FORK, MONEY, TOKENS, Workload, group_of, keys_of, payload};
use crate::finding::{Checked, Finding};
use crate::{ensure, ensure_eq};

/// Checks a window.
pub fn check(window: &Window) -> Checked {
    timestamps(window)?;
    match window.course.workload {
        Workload::Append | Workload::Register | Workload::Rmw => Ok(()),
        Workload::Bank => each_committed(window, bank),
        Workload::Predicate => each_committed(window, predicate),
        Workload::LongFork => long_fork(window),
        Workload::Queue => queue(window),
    }
}

fn each_committed(window: &Window, check: fn(Taped<'_>) -> Checked) -> Checked {
    let committed = window.transactions().filter(|(_, taped)| taped.entry.is_committed());
    for (process, taped) in committed {
        check(taped).map_err(|finding| finding.after(shown(process, taped.entry)))?;
    }
    Ok(())
}

/// A transaction, named.
fn shown(process: u32, entry: &Entry) -> String {
    let (from, to) = (entry.invoked, entry.completed);
    format!("a {} transaction of process {process}, from {from} to {to}", entry.level)
}

/// No timestamp is given to two commits, and none to one that was over before another that has a
/// smaller one began.
fn timestamps(window: &Window) -> Checked {
    let mut commits: Vec<(u64, &Entry)> = window
        .transactions()
        .filter_map(|(_, taped)| match taped.entry.end {
            End::Committed(Some(at)) => Some((at, taped.entry)),
            _ => None,
        })
        .collect();
    commits.sort_unstable_by_key(|(at, _)| *at);
    let mut begun = 0; // The latest begin among the commits so far.
    for (place, (at, entry)) in commits.iter().enumerate() {
        let twice = place > 0 && commits[place - 1].0 == *at;
        let at = Timestamp::from_bits(*at);
        ensure!(!twice, "the commit timestamp {at} was given twice");
        ensure!(
            entry.completed > begun,
            "a commit at {at} was over before one with an earlier timestamp began"
        );
        begun = begun.max(entry.invoked);
    }
    Ok(())
}

/// Every look at a whole bank shows all its money.
fn bank(taped: Taped<'_>) -> Checked {
    let whole = i64::from(ACCOUNTS) * MONEY;
    if taped.writes() {
        return Ok(());
    }
    let mut by_key = 0;
    let mut sum = 0;
    for &operation in taped.operations {
        match operation {
            Operation::Scan(_, _, elements) => {
                let money: Value = taped.pairs(elements).map(|(_, value)| payload(value)).sum();
                ensure_eq!(money, whole, "the money that a scan found in a bank");
            }
            Operation::Read(_, value) => {
                by_key += 1;
                sum += payload(value);
            }
            _ => {}
        }
    }
    // Read committed reads each account at another time.
    if by_key == ACCOUNTS && taped.entry.level != Isolation::ReadCommitted {
        ensure_eq!(sum, whole, "the money that was read in a bank, account by account");
    }
    Ok(())
}

/// Every scan of a group shows all its tokens, unless its level lets keys appear and vanish.
fn predicate(taped: Taped<'_>) -> Checked {
    for &operation in taped.operations {
        if operation.is_write() {
            break; // What it sees from now on is its own.
        }
        let Operation::Scan(from, _, elements) = operation else { continue };
        let group = group_of(Workload::Predicate, from);
        for (key, value) in taped.pairs(elements) {
            let belongs = keys_of(Workload::Predicate, group).contains(&key)
                && payload(value) == Value::from(group);
            ensure!(belongs, "a scan of group {group} found {key} = {value}");
        }
        if taped.entry.level != Isolation::RepeatableRead {
            let tokens = taped.pairs(elements).count();
            ensure_eq!(tokens, TOKENS, "the tokens that a scan found in group {group}");
        }
    }
    Ok(())
}

/// Of what two readers saw of a group, one has all that the other has.
fn long_fork(window: &Window) -> Checked {
    let mut seen: BTreeMap<Key, BTreeMap<u8, (u32, Entry)>> = BTreeMap::new();
    for (process, taped) in window.transactions() {
        let one_state = taped.entry.is_committed()
            && taped.entry.level != Isolation::ReadCommitted
            && taped.operations.len() == FORK as usize
            && !taped.writes();
        if !one_state {
            continue;
        }
        let mut there = 0;
        let mut group = 0;
        for &operation in taped.operations {
            if let Operation::Read(key, value) = operation {
                group = group_of(Workload::LongFork, key);
                there |= u8::from(value != ABSENT) << (key % FORK);
            }
        }
        seen.entry(group).or_default().entry(there).or_insert((process, *taped.entry));
    }
    for (group, seen) in seen {
        // In the order of how much was seen each has to hold the one before.
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|(there, _)| there.count_ones());
        for pair in seen.windows(2) {
            let [(less, one), (more, other)] = pair else { continue };
            ensure!(
                less & more == *less,
                "two readers saw the inserts of group {group} in different orders: {} saw the keys \
                 {less:04b}, {} the keys {more:04b}",
                shown(one.0, &one.1),
                shown(other.0, &other.1)
            );
        }
    }
    Ok(())
}

/// What became of an item.
#[derive(Default)]
struct Item {
    put: bool,
    taken: Option<(u32, Entry)>,
    may_be_taken: bool,
    left: bool,
}

/// Each item is taken at most once, the first one first, and none is lost.
fn queue(window: &Window) -> Checked {
    let mut items: BTreeMap<Key, Item> = BTreeMap::new();
    for (process, taped) in window.transactions() {
        let (committed, aborted) = (taped.entry.is_committed(), taped.entry.end == End::Aborted);
        for &operation in taped.operations {
            match operation {
                Operation::Write(key, _) if committed && !is_tail(key) => {
                    let item = items.entry(key).or_default();
                    ensure!(!item.put, "the place {key} of a queue was filled twice");
                    item.put = true;
                }
                Operation::Delete(key) if committed => {
                    let item = items.entry(key).or_default();
                    if let Some((other, entry)) = &item.taken {
                        return Err(Finding::new(format!(
                            "the item {key} was taken twice: by {}, and by {}",
                            shown(*other, entry),
                            shown(process, taped.entry)
                        )));
                    }
                    item.taken = Some((process, *taped.entry));
                }
                Operation::Delete(key) if !aborted => {
                    items.entry(key).or_default().may_be_taken = true;
                }
                Operation::Scan(_, _, elements) if committed => {
                    let found = taped.pairs(elements).map(|(key, _)| key);
                    for key in found.filter(|key| !is_tail(*key)) {
                        items.entry(key).or_default().left = true;
                    }
                }
                _ => {}
            }
        }
    }
    in_order(&items)?;
    for (key, item) in items.iter().filter(|_| window.is_whole) {
        let gone = item.taken.is_some() || item.may_be_taken;
        ensure!(gone || item.left || !item.put, "the item {key} was put and never found again");
        ensure!(
            item.taken.is_none() || !item.left,
            "the item {key} was taken, and is there at the end"
        );
    }
    Ok(())
}

fn is_tail(key: Key) -> bool {
    keys_of(Workload::Queue, group_of(Workload::Queue, key)).start == key
}

/// No item was taken before one that stood ahead of it, by real time.
fn in_order(items: &BTreeMap<Key, Item>) -> Checked {
    // From the back: the item behind that was taken first, in the same queue.
    let mut first: Option<(Key, u64)> = None;
    for (&key, item) in items.iter().rev() {
        let Some((process, entry)) = &item.taken else { continue };
        let queue = group_of(Workload::Queue, key);
        first = first.filter(|(behind, _)| group_of(Workload::Queue, *behind) == queue);
        if let Some((behind, completed)) = first {
            ensure!(
                completed > entry.invoked,
                "the item {behind} was taken before {key}, which stood ahead of it and was taken \
                 by {}",
                shown(*process, entry)
            );
        }
        if first.is_none_or(|(_, completed)| entry.completed < completed) {
            first = Some((key, entry.completed));
        }
    }
    Ok(())
}
