//! Real threads on one database, and invariants that any broken isolation breaks: money that is
//! neither made nor lost, counters that count every increment, keys that change together, readers for
//! whom time does not run backwards.
//!
//! Each run says what it found wrong as a value. A run is decided by its seed only as far as the
//! threads' own choices go; their interleaving is the machine's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use isolith::{
    Concurrency, Database, Durability, Error, Isolation, Keyspace, PutOptions, Snapshot, Timestamp,
    Transaction, TransactionOptions,
};

use crate::dice::Dice;
use crate::finding::{Checked, Finding};
use crate::{ensure, ensure_eq};

/// How a transaction is protected.
pub type Protection = (Isolation, Concurrency);

const fn with_each_control(level: Isolation) -> [Protection; 7] {
    let mut all = [(level, Concurrency::Optimistic); 7];
    let mut at = 0;
    while at < all.len() {
        all[at].1 = Concurrency::ALL[at];
        at += 1;
    }
    all
}

/// Serializable, by each concurrency control.
pub const SERIALIZABLE: [Protection; 7] = with_each_control(Isolation::Serializable);
/// Snapshot, by each concurrency control.
pub const SNAPSHOT: [Protection; 7] = with_each_control(Isolation::Snapshot);
/// Repeatable read, by each concurrency control.
pub const REPEATABLE_READ: [Protection; 7] = with_each_control(Isolation::RepeatableRead);

/// Every way to protect a transaction from lost updates and from changes to the keys that it read,
/// or of which one of two that do the same is refused.
pub fn strong() -> Vec<Protection> {
    [SERIALIZABLE, SNAPSHOT, REPEATABLE_READ].concat()
}

/// Every durability.
pub const DURABILITIES: [Durability; 3] = [Durability::Buffered, Durability::Os, Durability::Sync];

/// How a run is to be.
#[derive(Clone, Debug)]
pub struct Load {
    /// How its transactions are protected: each takes one of these in turn.
    pub mix: Vec<Protection>,
    /// Threads that write.
    pub writers: usize,
    /// Transactions of each.
    pub transactions: usize,
    /// Keys that they write to.
    pub keys: usize,
    /// What decides their choices.
    pub seed: u64,
}

pub(crate) fn fail(error: Error) -> Finding {
    Finding::new(format!("an unexpected error: {error:?}"))
}

impl Load {
    pub(crate) fn options(&self, place: usize) -> TransactionOptions {
        let (isolation, concurrency) = self.mix[place % self.mix.len()];
        TransactionOptions { isolation, concurrency, ..options(place / self.mix.len()) }
    }
}

fn options(place: usize) -> TransactionOptions {
    TransactionOptions {
        durability: Some(DURABILITIES[place % 3]),
        ..TransactionOptions::default()
    }
}

/// Whether a transaction was refused for the sake of others, and may be tried again.
pub(crate) fn is_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Conflict { .. }
            | Error::Wounded { .. }
            | Error::Deadlock { .. }
            | Error::LockRefused { .. }
    )
}

pub(crate) fn name(key: usize) -> [u8; 8] {
    (key as u64).to_be_bytes()
}

pub(crate) fn number(bytes: &[u8]) -> Checked<u64> {
    let bytes = bytes.try_into().map_err(|_| Finding::new(format!("a torn value: {bytes:?}")))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Runs `writers` and, until they are done, `readers`; the first finding counts.
pub(crate) fn side_by_side(
    writers: Vec<Box<dyn FnOnce() -> Checked + Send + '_>>,
    readers: Vec<Box<dyn FnMut() -> Checked + Send + '_>>,
) -> Checked {
    let done = AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        let writers: Vec<_> = writers.into_iter().map(|writer| scope.spawn(writer)).collect();
        let readers: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                scope.spawn(move || -> Checked {
                    // Relaxed: only when to stop; at least one look after the last write.
                    loop {
                        let last = done.load(Ordering::Relaxed);
                        reader()?;
                        if last {
                            return Ok(());
                        }
                    }
                })
            })
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Checked>| match thread.join() {
            Ok(checked) => checked,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                Err(Finding::new(format!("a thread panicked: {}", text.unwrap_or("?"))))
            }
        };
        let written: Vec<Checked> = writers.into_iter().map(join).collect();
        done.store(true, Ordering::Relaxed);
        let read: Vec<Checked> = readers.into_iter().map(join).collect();
        written.into_iter().chain(read).collect()
    })
}

/// The sum of the numbers that a scan gives.
fn sum(pairs: impl Iterator<Item = isolith::Result<isolith::Pair>>) -> Checked<u64> {
    let mut sum = 0;
    for pair in pairs {
        sum += number(&pair.map_err(fail)?.1)?;
    }
    Ok(sum)
}

/// Transfers between accounts at every level and durability; sums are constant for every reader.
pub fn bank(db: &Database, load: &Load) -> Checked {
    const EACH: u64 = 1_000;
    let accounts = db.keyspace("accounts").map_err(fail)?;
    let audits = db.keyspace("audits").map_err(fail)?;
    db.transact(|tx| {
        (0..load.keys).try_for_each(|key| tx.put(&accounts, name(key), EACH.to_be_bytes()))
    })
    .map_err(fail)?;
    let total = EACH * load.keys as u64;
    let (accounts, audits) = (&accounts, &audits);
    let mut writers: Vec<Box<dyn FnOnce() -> Checked + Send + '_>> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            let mut dice = Dice::new(load.seed ^ writer as u64);
            for place in 0..load.transactions {
                let from = dice.below(load.keys);
                let to = (from + 1 + dice.below(load.keys - 1)) % load.keys;
                let amount = dice.below(20) as u64;
                let read = |tx: &mut Transaction, key: usize| -> isolith::Result<u64> {
                    let value = tx.get(accounts, name(key))?.unwrap_or_default();
                    number(&value).map_err(|finding| tx.abort(finding))
                };
                db.transact_with(load.options(place + writer), |tx| {
                    let (a, b) = (read(tx, from)?, read(tx, to)?);
                    let moved = amount.min(a);
                    tx.put(accounts, name(from), (a - moved).to_be_bytes())?;
                    tx.put(accounts, name(to), (b + moved).to_be_bytes())
                })
                .map_err(fail)?;
            }
            Ok(())
        }));
    }
    let mut round = 0;
    let readers: Vec<Box<dyn FnMut() -> Checked + Send + '_>> = vec![
        Box::new(move || {
            ensure_eq!(sum(accounts.range(..))?, total, "the sum by autocommit");
            let snapshot = db.snapshot().map_err(fail)?;
            ensure_eq!(sum(snapshot.range(accounts, ..).rev())?, total, "the sum in reverse");
            let reader = db.begin_read_only().map_err(fail)?;
            ensure_eq!(sum(reader.range(accounts, ..))?, total, "the sum of a reader");
            Ok(())
        }),
        Box::new(move || {
            // An audit that writes what it saw: what it saw holds at its commit, and even one that is
            // refused has seen no torn sum before.
            round += 1;
            let (isolation, concurrency) = SERIALIZABLE[round % SERIALIZABLE.len()];
            let options = TransactionOptions { isolation, concurrency, ..Default::default() };
            let mut audit = db.begin_with(options).map_err(fail)?;
            let mut found = 0;
            let mut values = Vec::new();
            let read = match round / SERIALIZABLE.len() % 2 {
                0 => audit.range(accounts, ..).try_for_each(|pair| {
                    values.push(pair?.1);
                    Ok(())
                }),
                _ => (0..load.keys).try_for_each(|key| {
                    values.extend(audit.get(accounts, name(key))?);
                    Ok(())
                }),
            };
            match read {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => return Ok(()),
                Err(error) => return Err(fail(error)),
            }
            for value in &values {
                found += number(value)?;
            }
            ensure_eq!(found, total, "the sum of an audit, {concurrency}");
            let put = audit.put(audits, "last", found.to_be_bytes());
            match put.and_then(|()| audit.commit()) {
                Ok(_) => Ok(()),
                Err(error) if is_refusal(&error) => Ok(()),
                Err(error) => Err(fail(error)),
            }
        }),
    ];
    side_by_side(writers, readers)?;
    ensure_eq!(sum(accounts.range(..))?, total, "the sum at the end");
    Ok(())
}

/// Every increment counts: by reading and writing, and by reading for update.
pub fn counters(db: &Database, load: &Load) -> Checked {
    let space = &db.keyspace("counters").map_err(fail)?;
    let mut writers: Vec<Box<dyn FnOnce() -> Checked + Send + '_>> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            let mut dice = Dice::new(load.seed ^ writer as u64);
            for place in 0..load.transactions {
                let key = name(dice.below(load.keys));
                let options = load.options(place + writer);
                db.transact_with(options, |tx| {
                    let value = match place % 3 {
                        0 => tx.get_for_update(space, key)?,
                        _ => tx.get(space, key)?,
                    };
                    let value = value.map_or(Ok(0), |value| number(&value));
                    let value = value.map_err(|finding| tx.abort(finding))?;
                    tx.put(space, key, (value + 1).to_be_bytes())
                })
                .map_err(fail)?;
            }
            Ok(())
        }));
    }
    side_by_side(writers, Vec::new())?;
    db.sync().map_err(fail)?;
    let expected = (load.writers * load.transactions) as u64;
    ensure_eq!(sum(space.range(..))?, expected, "the increments that count");
    Ok(())
}

/// Of the two keys of a pair at most one may be taken. Each taker looks at both and takes one: never
/// are both (write skew), under serializable, and under repeatable read where they look at keys; the
/// looks are point reads, scans, and reads of absence.
pub fn pairs(db: &Database, load: &Load) -> Checked {
    let space = &db.keyspace("pairs").map_err(fail)?;
    let mut writers: Vec<Box<dyn FnOnce() -> Checked + Send + '_>> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            let mut dice = Dice::new(load.seed ^ writer as u64);
            for place in 0..load.transactions {
                let pair = dice.below(load.keys);
                let own = [name(pair).as_slice(), &[(writer % 2) as u8]].concat();
                let other = [name(pair).as_slice(), &[(1 - writer % 2) as u8]].concat();
                let durability = Some(Durability::Buffered);
                let options = TransactionOptions { durability, ..load.options(place + writer) };
                // Repeatable read protects what is looked at key by key, there or not.
                let by_key = options.isolation == Isolation::RepeatableRead || place % 2 == 0;
                db.transact_with(options, |tx| {
                    let taken = match by_key {
                        true => tx.contains(space, &other)?,
                        false => {
                            let found =
                                tx.prefix(space, name(pair)).collect::<Result<Vec<_>, _>>()?;
                            found.iter().any(|(key, _)| key.as_ref() == other.as_slice())
                        }
                    };
                    match (taken, place % 5) {
                        (_, 4) => tx.delete(space, &own),
                        (true, _) => Ok(()),
                        (false, _) => tx.put(space, &own, "taken"),
                    }
                })
                .map_err(fail)?;
            }
            Ok(())
        }));
    }
    let look: Box<dyn FnMut() -> Checked + Send + '_> = Box::new(move || {
        let mut last = None;
        for found in space.range(..) {
            let (key, _) = found.map_err(fail)?;
            let pair = key[..8].to_vec();
            ensure!(last.as_ref() != Some(&pair), "both keys of the pair {pair:?} are taken");
            last = Some(pair);
        }
        Ok(())
    });
    side_by_side(writers, vec![look])
}

/// Keys that are always changed together, overwritten as fast as it goes. For every reader all of
/// them are of one round, rounds do not go backwards, and a snapshot that is kept reads the same for
/// ever; the memory stays within `bytes_max`.
pub fn overwriting(db: &Database, load: &Load, bytes_max: usize) -> Checked {
    let space = &db.keyspace("rounds").map_err(fail)?;
    let rounds = &AtomicU64::new(0);
    let write = move |round: u64, level: Durability| -> Checked {
        let options = TransactionOptions {
            isolation: Isolation::Serializable,
            durability: Some(level),
            ..TransactionOptions::default()
        };
        db.transact_with(options, |tx| {
            (0..load.keys).try_for_each(|key| tx.put(space, name(key), round.to_be_bytes()))
        })
        .map_err(fail)
    };
    write(0, Durability::Sync)?;
    let mut writers: Vec<Box<dyn FnOnce() -> Checked + Send + '_>> = Vec::new();
    for writer in 0..load.writers {
        writers.push(Box::new(move || {
            for place in 0..load.transactions {
                // Relaxed: only distinct numbers are wanted.
                let round = rounds.fetch_add(1, Ordering::Relaxed) + 1;
                write(round, DURABILITIES[(place + writer) % 16 / 7])?;
            }
            Ok(())
        }));
    }
    let readers: Vec<Box<dyn FnMut() -> Checked + Send + '_>> = vec![
        Box::new(kept_snapshots(db, space, load)),
        Box::new(move || {
            // Autocommit reads of a key never go back in the order of commits.
            let mut last = Timestamp::ZERO;
            for key in (0..load.keys).cycle().take(64) {
                let found = db.get_after(space, name(key), Timestamp::ZERO).map_err(fail)?;
                let value = found.value.map(|entry| number(&entry.value)).transpose()?;
                ensure!(value.is_some(), "a key that was always there is gone");
                ensure!(found.observed >= last, "{} was seen after {last}", found.observed);
                last = found.observed;
            }
            let (durable, visible) = (db.durable(), db.visible());
            ensure!(durable <= visible, "durable = {durable} has passed visible = {visible}");
            let memory = db.stats().memory_bytes;
            ensure!(memory <= bytes_max, "{memory} bytes are held, {bytes_max} are enough");
            Ok(())
        }),
    ];
    side_by_side(writers, readers)
}

/// Takes snapshots, keeps some of them, and reads all of them again and again.
fn kept_snapshots<'a>(
    db: &'a Database,
    space: &'a Keyspace,
    load: &'a Load,
) -> impl FnMut() -> Checked + Send + 'a {
    let mut kept: Vec<(Snapshot, u64)> = Vec::new();
    let mut dice = Dice::new(load.seed);
    let round_of = move |snapshot: &Snapshot| -> Checked<u64> {
        let mut round = None;
        let mut count = 0;
        for pair in snapshot.range(space, ..) {
            let found = number(&pair.map_err(fail)?.1)?;
            let same = *round.get_or_insert(found);
            let at = snapshot.timestamp();
            ensure!(found == same, "keys of the rounds {same} and {found} in one snapshot, {at}");
            count += 1;
        }
        ensure_eq!(count, load.keys, "the keys of a snapshot");
        round.ok_or_else(|| Finding::new("an empty snapshot"))
    };
    move || {
        let snapshot = db.snapshot().map_err(fail)?;
        let round = round_of(&snapshot)?;
        for key in 0..load.keys {
            let value = snapshot.get(space, name(key)).map_err(fail)?;
            let found = value.map(|value| number(&value)).transpose()?;
            ensure_eq!(found, Some(round), "key {key} of the snapshot {}", snapshot.timestamp());
        }
        if kept.len() < 8 {
            kept.push((snapshot, round));
        } else if dice.is(1, 4) {
            let place = dice.below(kept.len());
            kept[place] = (snapshot, round);
        }
        for (snapshot, round) in &kept {
            ensure_eq!(round_of(snapshot)?, *round, "the snapshot {}", snapshot.timestamp());
        }
        Ok(())
    }
}

/// Threads write until the database is closed under them. Returns what each had acknowledged: the
/// last number that it put under its own key.
pub fn until_closed(db: &Database, load: &Load) -> Checked<Vec<u64>> {
    let space = &db.keyspace("until closed").map_err(fail)?;
    let started = &AtomicU64::new(0);
    let writer = move |writer: usize| -> Checked<u64> {
        let mut acknowledged = 0;
        for next in 1u64.. {
            let options =
                PutOptions { durability: Some(DURABILITIES[writer % 3]), ..PutOptions::default() };
            match space.put_with(name(writer), next.to_be_bytes(), options) {
                Ok(()) => acknowledged = next,
                Err(Error::Closed) => return Ok(acknowledged),
                Err(error) => return Err(fail(error)),
            }
            // Relaxed: only to let everybody begin.
            started.fetch_add(u64::from(next == 20), Ordering::Relaxed);
        }
        Ok(acknowledged)
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..load.writers).map(|number| scope.spawn(move || writer(number))).collect();
        while started.load(Ordering::Relaxed) < load.writers as u64 {
            thread::yield_now();
        }
        db.close().map_err(fail)?;
        let join = |thread: thread::ScopedJoinHandle<'_, Checked<u64>>| {
            thread.join().unwrap_or_else(|_| Err(Finding::new("a writer panicked")))
        };
        threads.into_iter().map(join).collect()
    })
}

/// A database on storage in memory with its own threads, as users have it.
pub fn threaded(builder: isolith::Builder) -> Checked<Database> {
    let storage = Arc::new(isolith::storage::memory::MemoryStorage::new());
    let opened = builder.storage(storage).segment_bytes(1 << 20).open();
    opened.map_err(|error| Finding::new(error.to_string()))
}
