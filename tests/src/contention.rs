//! Loads in which transactions want the same things: a room with so many places, names that belong to
//! one, a queue that each takes its first from, an old one among many young ones. Beside the money,
//! the counters and the pairs of [`threads`](crate::threads), under any mixture of protections that
//! forbids what would break the invariant.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use isolith::{
    Concurrency, Database, DeadlockPolicy, Durability, Isolation, Transaction, TransactionOptions,
};

use crate::dice::Dice;
use crate::finding::{Checked, Finding};
use crate::threads::{Load, fail, is_refusal, name, number, side_by_side};
use crate::{ensure, ensure_eq};

type Writers<'a> = Vec<Box<dyn FnOnce() -> Checked + Send + 'a>>;

fn buffered(load: &Load, place: usize) -> TransactionOptions {
    TransactionOptions { durability: Some(Durability::Buffered), ..load.options(place) }
}

/// A room has `load.keys` places. Who enters counts who is there: never are there more (phantoms).
/// For serializable alone.
pub fn places(db: &Database, load: &Load) -> Checked {
    let room = &db.keyspace("room").map_err(fail)?;
    let mut writers: Writers<'_> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            let mut dice = Dice::new(load.seed ^ writer as u64);
            for place in 0..load.transactions {
                let guest = [name(dice.below(1 << 20)), name(writer)].concat();
                db.transact_with(buffered(load, place + writer), |tx| {
                    let mut there = 0;
                    let mut first = None;
                    for pair in tx.range(room, ..) {
                        let (key, _) = pair?;
                        there += 1;
                        first = first.or(Some(key));
                    }
                    match first {
                        Some(first) if there >= load.keys => tx.delete(room, first),
                        _ => tx.put(room, &guest, "there"),
                    }
                })
                .map_err(fail)?;
            }
            Ok(())
        }));
    }
    let look: Box<dyn FnMut() -> Checked + Send + '_> = Box::new(move || {
        let there = db.snapshot().map_err(fail)?.range(room, ..).count();
        ensure!(there <= load.keys, "{there} are in a room with {} places", load.keys);
        Ok(())
    });
    side_by_side(writers, vec![look])
}

/// Users take names that nobody has: a name has one user, and a user the name that it thinks it has.
/// Repeatable read is enough: a name that was free is a key that was read.
pub fn names(db: &Database, load: &Load) -> Checked {
    let users = &db.keyspace("users").map_err(fail)?;
    let index = &db.keyspace("users by name").map_err(fail)?;
    let mut writers: Writers<'_> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            let mut dice = Dice::new(load.seed ^ writer as u64);
            for place in 0..load.transactions {
                let user = name(dice.below(load.keys));
                let wanted = name(dice.below(load.keys));
                db.transact_with(buffered(load, place + writer), |tx| {
                    if tx.contains(index, wanted)? {
                        return Ok(());
                    }
                    if let Some(before) = tx.get(users, user)? {
                        tx.delete(index, &before)?;
                    }
                    tx.put(users, user, wanted)?;
                    tx.put(index, wanted, user)
                })
                .map_err(fail)?;
            }
            Ok(())
        }));
    }
    let look: Box<dyn FnMut() -> Checked + Send + '_> = Box::new(move || {
        let snapshot = db.snapshot().map_err(fail)?;
        let mut taken = BTreeSet::new();
        for pair in snapshot.range(users, ..) {
            let (user, has) = pair.map_err(fail)?;
            ensure!(taken.insert(has.to_vec()), "two users have the name {has:?}");
            let owner = snapshot.get(index, &has).map_err(fail)?;
            ensure_eq!(owner.as_deref(), Some(&*user), "the user of a name");
        }
        ensure_eq!(snapshot.range(index, ..).count(), taken.len(), "names in the index");
        Ok(())
    });
    side_by_side(writers, vec![look])
}

/// Half of the threads put jobs into a queue, the others each take its first: every job is taken once.
pub fn queue(db: &Database, load: &Load) -> Checked {
    let jobs = &db.keyspace("jobs").map_err(fail)?;
    let next = &AtomicU64::new(0);
    let taken = &Mutex::new(Vec::new());
    let mut writers: Writers<'_> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            for place in 0..load.transactions {
                let options = buffered(load, place + writer);
                if writer % 2 == 0 {
                    // Relaxed: only distinct numbers are wanted.
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    db.transact_with(options, |tx| tx.put(jobs, job.to_be_bytes(), "job"))
                        .map_err(fail)?;
                    continue;
                }
                let job = db.transact_with(options, |tx| {
                    let first = tx.range(jobs, ..).next().transpose()?;
                    if let Some((job, _)) = &first {
                        tx.delete(jobs, job)?;
                    }
                    Ok(first.map(|(job, _)| job))
                });
                if let Some(job) = job.map_err(fail)? {
                    taken.lock().map_err(|_| Finding::new("poisoned"))?.push(number(&job)?);
                }
            }
            Ok(())
        }));
    }
    side_by_side(writers, Vec::new())?;
    let mut all = taken.lock().map_err(|_| Finding::new("poisoned"))?.clone();
    let count = all.len();
    for pair in jobs.range(..) {
        all.push(number(&pair.map_err(fail)?.0)?);
    }
    all.sort_unstable();
    let left = all.len() - count;
    all.dedup();
    // Relaxed: every thread has been joined.
    let put = next.load(Ordering::Relaxed);
    ensure_eq!(all.len() as u64, put, "jobs that were taken once ({count}) or are left ({left})");
    Ok(())
}

/// Two keys that are always changed together, by writers that are older than every reader: whoever
/// reads the two has seen a pair, even if its locks are taken away by the time it knows.
pub fn wounds(db: &Database, load: &Load) -> Checked {
    let space = &db.keyspace("two").map_err(fail)?;
    let mut writers: Writers<'_> = Vec::new();
    for writer in 0..load.writers {
        let age = Some(db.begin().map_err(fail)?.age());
        writers.push(Box::new(move || {
            for place in 0..load.transactions {
                let options = TransactionOptions { age, ..buffered(load, place + writer) };
                let value = name(place * load.writers + writer);
                let write = |tx: &mut Transaction| {
                    tx.put(space, "one", value)?;
                    tx.put(space, "two", value)
                };
                db.transact_with(options, write).map_err(fail)?;
            }
            Ok(())
        }));
    }
    let mut round = 0;
    let read: Box<dyn FnMut() -> Checked + Send + '_> = Box::new(move || {
        for _ in 0..16 {
            round += 1;
            let reader = db.begin_with(buffered(load, round)).map_err(fail)?;
            let both =
                reader.get(space, "one").and_then(|one| Ok((one, reader.get(space, "two")?)));
            match both {
                Ok((one, two)) => ensure_eq!(one, two, "what is always changed together"),
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    });
    side_by_side(writers, vec![read])
}

/// A long transaction among many short ones that write what it needs. They are all younger: by wound-
/// wait, wait-die and detection it is never refused, and so does not even have to try again.
pub fn oldest(db: &Database, load: &Load, policy: DeadlockPolicy) -> Checked {
    let space = &db.keyspace("needed by all").map_err(fail)?;
    let done = &AtomicBool::new(false);
    let started = &AtomicU64::new(0);
    for round in 0..load.transactions {
        let options = TransactionOptions {
            isolation: Isolation::Serializable,
            concurrency: Concurrency::Locking(policy),
            durability: Some(Durability::Buffered),
            ..Default::default()
        };
        // Relaxed, all: when to begin and when to stop, and nothing else.
        done.store(false, Ordering::Relaxed);
        started.store(0, Ordering::Relaxed);
        let mut old = db.begin_with(options).map_err(fail)?;
        // An age is taken when it is first asked for.
        old.age();
        thread::scope(|scope| -> Checked {
            let mut storm = Vec::new();
            for writer in 0..load.writers {
                storm.push(scope.spawn(move || -> Checked {
                    let mut dice = Dice::new(load.seed ^ (round << 8 | writer) as u64);
                    while !done.load(Ordering::Relaxed) {
                        let (one, two) = (dice.below(load.keys), dice.below(load.keys));
                        let mut young = db.begin_with(options).map_err(fail)?;
                        let result = young
                            .get(space, name(one))
                            .and_then(|_| young.put(space, name(two), name(writer)))
                            .and_then(|()| young.put(space, name(one), name(writer)))
                            .and_then(|()| young.commit());
                        match result {
                            Ok(_) => {}
                            Err(error) if is_refusal(&error) => {}
                            Err(error) => return Err(fail(error)),
                        }
                        started.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                }));
            }
            while started.load(Ordering::Relaxed) < load.writers as u64 {
                thread::yield_now();
            }
            let mut work = || {
                for key in (0..load.keys).rev() {
                    old.get(space, name(key))?;
                    thread::yield_now();
                    old.put(space, name(key), "old")?;
                }
                Ok(())
            };
            let worked = work();
            let worked = worked.and_then(|()| old.commit());
            done.store(true, Ordering::Relaxed);
            for thread in storm {
                thread.join().map_err(|_| Finding::new("a thread panicked"))??;
            }
            match worked {
                Ok(_) => Ok(()),
                Err(error) => {
                    Err(Finding::new(format!("{policy}: the oldest was refused: {error}")))
                }
            }
        })?;
    }
    Ok(())
}
