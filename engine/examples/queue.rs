//! A queue with many consumers: each item is handed out exactly once, and first come is first served.
//!
//! ```text
//! cargo run --release -p isolith --example queue                   # in every mode
//! cargo run --release -p isolith --example queue -- auto snapshot
//! ```
//!
//! A queue is a keyspace whose keys grow: the first key is the oldest item. A consumer looks at it,
//! deletes it, and notes in a second keyspace who took it, all in one transaction. Under snapshot and
//! serializable nobody takes an item that is gone, and nobody overlooks an older one; at read committed
//! an item is handed out twice, as the end shows. (At repeatable read each is handed out once, but a scan
//! may overlook an item that is put while it runs, and so take a newer one first.)

pub(crate) mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Load, Mode, Outcome};
use isolith::{Database, Isolation, Keyspace, Transaction, TransactionOptions};

/// Items that wait when the consumers come.
const BACKLOG: u64 = 64;

/// The levels at which items are handed out once and in order.
pub(crate) const LEVELS: [Isolation; 2] = [Isolation::Snapshot, Isolation::Serializable];

fn main() -> Outcome {
    show(common::modes(&LEVELS)?, common::WHILE)
}

pub(crate) fn show(modes: Vec<Mode>, length: Duration) -> Outcome {
    modes.into_iter().try_for_each(|mode| run(mode, length))?;
    hand_out_twice()
}

fn run(mode: Mode, length: Duration) -> Outcome {
    let db = Database::in_memory();
    let (queue, taken) = (db.keyspace("queue")?, db.keyspace("taken")?);
    db.transact(|tx| (0..BACKLOG).try_for_each(|item| tx.put(&queue, item.to_be_bytes(), "work")))?;

    // Where to look: every item before it was taken. Without it each look would go over what is left of
    // them, since a deleted key keeps its place in memory for a while.
    let begin = AtomicU64::new(0);
    let load = Load::run(length, |load, dice| {
        let consumer = dice.below(1 << 16).to_string();
        let item = db.transact_with(mode.options(), |tx| {
            load.tried();
            // Relaxed: an older begin is as good.
            let Some(item) = pop(tx, &queue, begin.load(Ordering::Relaxed))? else { return Ok(0) };
            // Each consumer puts a new item at the end for the one that it takes.
            tx.put(&queue, (item + BACKLOG).to_be_bytes(), "more work")?;
            tx.put(&taken, item.to_be_bytes(), &consumer)?;
            Ok(item)
        })?;
        begin.fetch_max(item, Ordering::Relaxed);
        Ok(())
    })?;

    // Every item up to some point was taken, the rest of them still waits; and they were taken in order:
    // the commits that took them are.
    let tx = db.begin()?;
    let items: Vec<u64> =
        tx.range(&taken, ..).map(|pair| Ok(number(&pair?.0))).collect::<isolith::Result<_>>()?;
    let left: Vec<u64> =
        tx.range(&queue, ..).map(|pair| Ok(number(&pair?.0))).collect::<isolith::Result<_>>()?;
    let count = items.len() as u64;
    let commits: Vec<_> = items
        .iter()
        .map(|item| Ok(tx.observe_entry(&taken, item.to_be_bytes())?.observed))
        .collect::<isolith::Result<_>>()?;
    println!("{mode} {load}; {count} items");
    if !items.into_iter().chain(left).eq(0..count + BACKLOG) {
        return Err("an item was lost, or is still there though it was taken".into());
    }
    if !commits.is_sorted_by(|one, next| one < next) {
        return Err("an item was taken before an older one".into());
    }
    Ok(())
}

/// Takes the oldest item from `begin` on.
fn pop(tx: &mut Transaction, queue: &Keyspace, begin: u64) -> isolith::Result<Option<u64>> {
    let Some(first) = tx.range(queue, begin.to_be_bytes()..).next() else { return Ok(None) };
    let (item, _) = first?;
    tx.delete(queue, &item)?;
    Ok(Some(number(&item)))
}

fn number(key: &[u8]) -> u64 {
    key.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// Two consumers at read committed: both see the same item, and both delete it. One level up the second
/// is refused.
fn hand_out_twice() -> Outcome {
    for (isolation, expected) in [(Isolation::ReadCommitted, 2), (Isolation::Snapshot, 1)] {
        let db = Database::in_memory();
        let queue = db.keyspace("queue")?;
        queue.put(7u64.to_be_bytes(), "work")?;

        let options = TransactionOptions { isolation, ..Default::default() };
        let (mut first, mut second) = (db.begin_with(options)?, db.begin_with(options)?);
        let seen = [pop(&mut first, &queue, 0)?, pop(&mut second, &queue, 0)?];
        let done = [first.commit().is_ok(), second.commit().is_ok()];

        let times = seen.iter().zip(done).filter(|(item, done)| item.is_some() && *done).count();
        println!("{isolation}: an item that two consumers see is handed out {times} time(s)");
        if times != expected {
            return Err(format!("{expected} was expected").into());
        }
    }
    Ok(())
}
