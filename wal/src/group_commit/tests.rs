//! The log on a disk that crashes, fails and runs full. One thread plays all roles, so that every run
//! repeats: it can hold several batches in flight and let them land in any order.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::error::{LogOpenError, ReserveError, StallReason};
use crate::format::DatabaseId;
use crate::log::{LogOptions, Opened};
use crate::storage::faulty::{DiskKind, Fault, FaultyStorage, Operation, Survival};
use crate::test_log::{Found, record_of, small};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        batch_bytes_max: 12 << 10,
        queue_records_max: 64,
        depth_max: 4,
        database: Some(DatabaseId(0x1501)),
        ..small()
    }
}

fn open(disk: &FaultyStorage) -> Result<(Opened, Found), LogOpenError> {
    open_after(disk, Lsn::ZERO)
}

fn open_after(disk: &FaultyStorage, begins: Lsn) -> Result<(Opened, Found), LogOpenError> {
    let mut found = Vec::new();
    let options = LogOptions { begins, ..options() };
    let opened = Log::open(disk.as_storage(), options, &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        Ok(())
    })?;
    Ok((opened, found))
}

/// Sends the next batch and leaves it in flight. `None`: nothing is queued, or the depth is reached.
fn launch(log: &Log) -> Option<Flight> {
    let appended = log.appended();
    let mut pipeline = log.commit.pipeline.lock();
    pipeline.want(appended, Durability::Os);
    if !pipeline.may_lead() {
        return None;
    }
    match pipeline.step() {
        Some(Turn::Lead) => {}
        Some(Turn::Flush(flush)) => {
            drop(pipeline);
            log.flush(flush);
            return None;
        }
        _ => return None,
    }
    drop(pipeline);
    let (leading, flight) = log.launch(Patience::Disk)?;
    leading.end();
    Some(flight)
}

/// How often something was synced.
fn syncs(log: &Log) -> u64 {
    let stats = log.stats();
    stats.synced_batches + stats.flushes
}

/// xorshift: enough to pick from.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// What a database was told, over all its lives.
#[derive(Clone, Default)]
struct Told {
    /// Every record that was ever appended, and its size.
    appended: BTreeMap<Lsn, usize>,
    /// What recovery found at the last open that succeeded, and the LSN that it then gave out first.
    kept: Vec<Lsn>,
    first_new: Lsn,
    /// What a manifest says: the records up to here are not needed.
    floor: Lsn,
    /// The watermarks of the life that ended in the crash.
    written: Lsn,
    durable: Lsn,
    /// The last shutdown of that life succeeded, and nothing was opened since.
    closed: bool,
}

impl Told {
    /// Checks what an open found against what was promised.
    fn check(&mut self, opened: &Opened, found: &Found, power_cut: bool, closed: bool) {
        let lsns: Vec<_> = found.iter().map(|(lsn, _)| *lsn).collect();
        let floor = self.floor;
        self.kept.retain(|lsn| *lsn > floor);
        assert!(opened.begins <= floor);
        assert!(lsns.starts_with(&self.kept), "what an earlier open had found is gone");
        for (lsn, bytes) in found {
            let size = self.appended.get(lsn).unwrap_or_else(|| panic!("{lsn} was never appended"));
            assert_eq!(bytes, record_of(*lsn, *size).bytes(), "{lsn} came back as something else");
        }
        let new = &lsns[self.kept.len()..];
        assert!(new.windows(2).all(|two| two[1] == two[0].next()), "a gap in {new:?}");
        if let Some(&first) = new.first() {
            let after = if floor >= self.first_new { floor.next() } else { self.first_new };
            assert_eq!(first, after, "a gap behind {floor}");
        }
        let promised = if power_cut { self.durable } else { self.written.max(self.durable) };
        let last = lsns.last().copied().unwrap_or(floor);
        assert!(last >= promised, "{promised} was promised, {last} is the last one");
        assert_eq!(opened.last, last);
        if let Some((&highest, _)) = self.appended.last_key_value() {
            assert!(opened.first_new > highest, "{} is given twice", opened.first_new);
            let whole = last == highest && opened.first_new == highest.next();
            assert!(whole || opened.first_new.epoch() > highest.epoch());
        }
        assert!(opened.clean || !closed, "it was closed in order");
        // Kept: recovery synced it.
        self.kept = lsns;
        self.first_new = opened.first_new;
        self.durable = last;
        self.written = last;
    }
}

/// Uses a log until the disk crashes or the steps are done. `Err`: an open failed without a crash.
fn live(disk: &FaultyStorage, seed: u64, steps: u64, told: &mut Told, power_cut: bool) {
    let mut dice = Dice::new(seed);
    let crashed = |told: &mut Told, log: &Log| {
        told.written = told.written.max(log.written());
        told.durable = told.durable.max(log.durable());
        disk.has_crashed()
    };
    let mut power_cut = power_cut;
    let mut step = 0;
    'lives: loop {
        let closed = std::mem::take(&mut told.closed);
        let (opened, found) = match open_after(disk, told.floor) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(disk.has_crashed() && FaultyStorage::is_crash(&error), "{error}");
                return;
            }
        };
        told.check(&opened, &found, power_cut, closed);
        power_cut = false;
        let log = &opened.log;
        let mut next = opened.first_new;
        let mut flights: Vec<Flight> = Vec::new();
        while step < steps {
            step += 1;
            match dice.below(14) {
                13 => {
                    let synced = syncs(log);
                    let wrote = log.write_to_kernel();
                    assert!(!wrote || flights.is_empty(), "not beside batches under way");
                    assert_eq!(syncs(log), synced, "and never to the disk");
                }
                12 => {
                    // Any record that is durable, most often the last one.
                    let durable = log.durable();
                    let mut told_of = told.appended.range(told.floor..=durable);
                    let some = told_of.nth(dice.below(20) as usize).map(|(lsn, _)| *lsn);
                    told.floor = told.floor.max(some.unwrap_or(durable));
                    if let Err(error) = log.release(told.floor) {
                        assert!(disk.has_crashed(), "{error}");
                    }
                }
                0..=4 => {
                    let size = match dice.below(10) {
                        0 => dice.below(12_000),
                        1 => dice.below(40_000),
                        _ => dice.below(600),
                    } as usize;
                    let level = [Durability::Sync, Durability::Os, Durability::Buffered]
                        [dice.below(3) as usize];
                    match log.reserve(size, None) {
                        Ok(credit) => {
                            told.appended.insert(next, size);
                            log.append(next, record_of(next, size), level, credit);
                            next = next.next();
                        }
                        // With batches held in flight the queue may be full.
                        Err(ReserveError::Stalled { reason: StallReason::LogQueue }) => {}
                        Err(error) => assert!(disk.has_crashed(), "{error}"),
                    }
                }
                5..=7 => flights.extend(launch(log)),
                8 | 9 if !flights.is_empty() => {
                    let flight = flights.swap_remove(dice.below(flights.len() as u64) as usize);
                    let _ = log.attend(flight);
                }
                10 => {
                    while !flights.is_empty() {
                        let at = dice.below(flights.len() as u64) as usize;
                        let _ = log.attend(flights.swap_remove(at));
                    }
                    let _ = log.sync();
                }
                11 if flights.is_empty() => match dice.below(3) {
                    0 => {
                        let closed = log.shutdown().is_ok();
                        if crashed(told, log) {
                            return;
                        }
                        assert!(closed);
                        told.closed = true;
                        continue 'lives;
                    }
                    _ => {
                        let _ = log.write_mark(BatchKind::Mark);
                    }
                },
                _ => {}
            }
            if crashed(told, log) {
                return;
            }
        }
        return;
    }
}

const SURVIVALS: [Survival; 10] = [
    Survival::Nothing,
    Survival::Everything,
    Survival::AllButFirst,
    Survival::LastOnly,
    Survival::NamesOnly,
    Survival::DataOnly,
    Survival::Random(1),
    Survival::Random(2),
    Survival::ProcessKilled(1),
    Survival::ProcessKilled(2),
];

fn is_power_cut(survival: Survival) -> bool {
    !matches!(survival, Survival::ProcessKilled(_))
}

fn seeds(default: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("ISOLITH_SEED") {
        Ok(seed) => vec![seed.parse().expect("ISOLITH_SEED is a number")],
        Err(_) => default.collect(),
    }
}

#[test]
fn a_crash_at_any_call_loses_nothing_promised_and_gives_no_lsn_twice() {
    for seed in seeds(0..3) {
        eprintln!("ISOLITH_SEED={seed}");
        for kind in [DiskKind::Fua, DiskKind::WriteThrough] {
            let whole = FaultyStorage::new(kind);
            live(&whole, seed, 60, &mut Told::default(), true);
            let calls = whole.calls();
            for call in calls.iter().filter(|call| call.operation.is_change()) {
                let disk = FaultyStorage::new(kind);
                disk.crash_at(call.number);
                let mut told = Told::default();
                live(&disk, seed, 60, &mut told, true);
                assert!(disk.has_crashed());
                for survival in SURVIVALS {
                    let rebooted = disk.reboot(survival);
                    let mut told = told.clone();
                    live(&rebooted, seed + 100, 12, &mut told, is_power_cut(survival));
                }
            }
        }
    }
}

#[test]
fn a_crash_at_any_call_of_recovery_loses_nothing_promised() {
    for seed in seeds(0..3) {
        eprintln!("ISOLITH_SEED={seed}");
        let mut dice = Dice::new(seed);
        let disk = FaultyStorage::new(DiskKind::Fua);
        // Some dozens of calls in: in the middle of something.
        disk.crash_at(40 + dice.below(80));
        let mut told = Told::default();
        live(&disk, seed, 100, &mut told, true);
        for survival in SURVIVALS {
            let told = told.clone();
            crash_in_recovery(&disk, survival, &told, is_power_cut(survival), 2);
        }
    }
}

/// Crashes an open of the rebooted disk at each of its calls, and the open after that as well.
fn crash_in_recovery(
    disk: &FaultyStorage,
    survival: Survival,
    told: &Told,
    power_cut: bool,
    depth: u32,
) {
    let whole = disk.reboot(survival);
    live(&whole, 7, 3, &mut told.clone(), power_cut);
    for call in whole.calls().iter().filter(|call| call.operation.is_change()) {
        let again = disk.reboot(survival);
        again.crash_at(call.number);
        let mut told = told.clone();
        live(&again, 7, 3, &mut told, power_cut);
        assert!(again.has_crashed());
        for survival in [Survival::Nothing, Survival::Random(3), Survival::ProcessKilled(3)] {
            // What the killed process had left unsynced is lost by a power cut after it.
            let power_cut = power_cut || is_power_cut(survival);
            if depth > 1 && call.number.is_multiple_of(3) {
                crash_in_recovery(&again, survival, &told, power_cut, depth - 1);
            } else {
                live(&again.reboot(survival), 8, 5, &mut told.clone(), power_cut);
            }
        }
    }
}

fn append(log: &Log, lsn: Lsn, bytes: usize, level: Durability) -> Lsn {
    let credit = log.reserve(bytes, None).unwrap();
    log.append(lsn, record_of(lsn, bytes), level, credit);
    lsn.next()
}

#[test]
fn a_segment_is_kept_until_the_next_one_is_durable() {
    for kind in [DiskKind::Fua, DiskKind::WriteThrough] {
        let disk = FaultyStorage::new(kind);
        let (opened, _) = open(&disk).unwrap();
        let log = &opened.log;
        let mut next = opened.first_new;
        // Up to the end of the segment, each batch synced.
        while log.stats().held_segments == 1 {
            log.wait(Lsn::from_bits(next.bits() - 1), Durability::Sync).unwrap();
            next = append(log, next, 3000, Durability::Sync);
            let flight = launch(log).unwrap();
            if log.stats().held_segments == 1 {
                log.attend(flight).unwrap();
                continue;
            }
            // The first batch of the next segment is under way.
            let floor = log.durable();
            assert_eq!(floor.next().next(), next);
            assert_eq!(log.release(floor).unwrap(), crate::Released::default());
            let after = disk.reboot(Survival::Nothing);
            let (again, found) = open_after(&after, floor).unwrap();
            assert!(found.is_empty() && again.last == floor && again.first_new.epoch() == 1);
            drop(flight);
        }
    }
}

#[test]
fn a_failed_write_freezes_durable_and_leaves_the_fate_unknown() {
    for kind in [DiskKind::Fua, DiskKind::WriteThrough] {
        for failing in 0..3usize {
            let disk = FaultyStorage::new(kind);
            let (opened, _) = open(&disk).unwrap();
            let log = &opened.log;
            let first = opened.first_new;
            let mut next = append(log, first, 10, Durability::Sync);
            log.wait(first, Durability::Sync).unwrap();

            // Three in flight; one fails, then the others land, in reverse order.
            let mut flights: Vec<_> = [1, 1, 2]
                .map(|records| {
                    (0..records).for_each(|_| next = append(log, next, 10, Durability::Sync));
                    launch(log).unwrap()
                })
                .into();
            disk.fail_next(Operation::Complete(Reach::Stable), "wal", Fault::Io);
            assert!(log.attend(flights.remove(failing)).is_err());
            flights.into_iter().rev().for_each(|flight| drop(log.attend(flight)));
            assert_eq!(log.durable(), first, "what lands after a failure does not count");
            let cause = log.poisoned().unwrap();
            assert_eq!(cause.operation, FailedOperation::Write);
            assert!(cause.file.ends_with(".log"), "{cause}");

            log.wait(first, Durability::Sync).unwrap();
            for counter in 2..=5 {
                let at = Lsn::new(0, counter);
                for level in [Durability::Os, Durability::Sync] {
                    let error = log.wait(at, level).unwrap_err();
                    assert!(matches!(error, LogError::CommitUnknown { at: lsn, .. } if lsn == at));
                }
                let mut context = Context::from_waker(Waker::noop());
                assert!(matches!(
                    log.poll(at, Durability::Sync, &mut context),
                    Poll::Ready(Err(LogError::CommitUnknown { .. }))
                ));
            }
            assert!(matches!(log.reserve(1, None), Err(ReserveError::Poisoned(_))));
            assert!(matches!(log.sync(), Err(LogError::Poisoned(_))));
            assert!(matches!(log.shutdown(), Err(LogError::Poisoned(_))));
            assert!(matches!(log.prepare(Duration::ZERO), crate::Preparation::Over));
            log.drive();
            drop(opened);
            let (again, found) = open(&disk).unwrap();
            assert!(!again.clean && !found.is_empty());
        }
    }
}

#[test]
fn a_failed_sync_is_never_repeated() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let first = opened.first_new;
    let next = append(log, first, 10, Durability::Os);
    log.wait(first, Durability::Os).unwrap();
    disk.fail_next(Operation::Sync, "wal", Fault::Io);
    assert!(matches!(log.wait(first, Durability::Sync), Err(LogError::CommitUnknown { .. })));
    assert_eq!(log.poisoned().unwrap().operation, FailedOperation::Sync);
    let calls = disk.call_count();
    assert!(log.wait(first, Durability::Sync).is_err() && log.sync().is_err());
    log.wait(first, Durability::Os).unwrap();
    assert_eq!((log.written(), log.durable()), (first, Lsn::ZERO));
    assert_eq!(disk.call_count(), calls);
    assert_eq!(next, Lsn::new(0, 2));
}

#[test]
fn a_synced_batch_after_unsynced_ones_flushes_them_first() {
    // On this disk a synced write brings nothing else along.
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let mut next = opened.first_new;
    for _ in 0..3 {
        next = append(log, next, 10, Durability::Os);
        log.wait(Lsn::new(0, next.counter() - 1), Durability::Os).unwrap();
    }
    assert_eq!((log.written(), log.durable()), (Lsn::new(0, 3), Lsn::ZERO));
    append(log, next, 10, Durability::Sync);
    log.wait(next, Durability::Sync).unwrap();
    assert_eq!((log.durable(), log.stats().flushes), (next, 1));
    // From then on synced writes are enough again.
    append(log, next.next(), 10, Durability::Sync);
    log.wait(next.next(), Durability::Sync).unwrap();
    assert_eq!(log.stats().flushes, 1);
    let (_, found) = open(&disk.reboot(Survival::Nothing)).unwrap();
    assert_eq!(found.len(), 5);
}

#[test]
fn who_polls_may_write_what_only_the_kernel_has_to_get() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let last = |next: Lsn| Lsn::from_bits(next.bits() - 1);
    let mut next = opened.first_new;
    assert!(!log.write_to_kernel(), "there is nothing");
    // More than two batches hold.
    (0..9).for_each(|_| next = append(log, next, 3000, Durability::Os));
    assert!(log.write_to_kernel());
    assert_eq!((log.written(), log.durable()), (last(next), Lsn::ZERO));
    let mut context = Context::from_waker(Waker::noop());
    assert!(log.poll(last(next), Durability::Os, &mut context).is_ready());
    assert!(!log.write_to_kernel(), "nothing is new");

    // Beside a batch under way it might have to wait.
    next = append(log, next, 10, Durability::Os);
    let flight = launch(log).unwrap();
    next = append(log, next, 10, Durability::Os);
    assert!(!log.write_to_kernel());
    log.attend(flight).unwrap();
    assert!(log.write_to_kernel());

    // What has to reach the disk is left to those who wait for it.
    let batches = log.stats().batches;
    next = append(log, next, 10, Durability::Sync);
    next = append(log, next, 10, Durability::Os);
    assert!(!log.write_to_kernel() && log.stats().batches == batches);
    log.wait(last(next), Durability::Sync).unwrap();
    assert!(matches!(log.poll(last(next), Durability::Sync, &mut context), Poll::Ready(Ok(()))));
    next = append(log, next, 10, Durability::Os);
    assert!(log.poll(last(next), Durability::Sync, &mut context).is_pending());
    assert!(!log.write_to_kernel(), "somebody wants it synced");
    log.sync().unwrap();
}

#[test]
fn a_sync_that_is_asked_for_under_way_is_not_done_by_who_writes_to_the_kernel() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let mut lsn = opened.first_new;
    // Before the batch is sent, and after.
    for late in [false, true] {
        let next = append(log, lsn, 10, Durability::Os);
        let synced = syncs(log);
        assert!(log.commit.pipeline.lock().lead_unsynced(lsn, Lsn::ZERO));
        let ask = || log.commit.pipeline.lock().want(lsn, Durability::Sync);
        if !late {
            ask();
        }
        let (leading, flight) = log.launch(Patience::Kernel).unwrap();
        leading.end();
        if late {
            ask();
        }
        log.attend(flight).unwrap();
        assert!(log.written() >= lsn && log.durable() < lsn);
        assert_eq!(syncs(log), synced);
        // Relaxed: one thread.
        assert!(log.commit.driver_called.swap(false, Ordering::Relaxed), "the driver owes it");
        log.wait(lsn, Durability::Sync).unwrap();
        assert!(log.durable() >= lsn);
        lsn = next;
    }
}

#[test]
fn batches_that_land_out_of_order_move_the_watermarks_in_order() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let mut next = opened.first_new;
    let mut flights = Vec::new();
    for records in [1, 1, 2, 4] {
        (0..records).for_each(|_| next = append(log, next, 10, Durability::Sync));
        flights.push(launch(log).unwrap());
    }
    (0..9).for_each(|_| next = append(log, next, 10, Durability::Sync));
    assert!(launch(log).is_none(), "four may be in flight");
    for (index, expected) in [(2, 0), (1, 0), (0, 4), (0, 8)] {
        log.attend(flights.remove(index)).unwrap();
        assert_eq!(log.durable().counter(), expected);
    }
    log.sync().unwrap();
    assert_eq!(log.durable().next(), next);
    // Had the power gone while the first was in flight, the others would have been lost with it.
}

#[test]
fn a_few_records_wait_for_the_batch_in_flight_to_come_back() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let mut next = opened.first_new;
    (0..4).for_each(|_| next = append(log, next, 10, Durability::Sync));
    let first = launch(log).unwrap();
    (0..3).for_each(|_| next = append(log, next, 10, Durability::Sync));
    assert!(launch(log).is_none(), "three wait, four are in flight");
    next = append(log, next, 10, Durability::Sync);
    let second = launch(log).expect("as many wait as are in flight");
    next = append(log, next, 10, Durability::Sync);
    assert!(launch(log).is_none());
    log.attend(second).unwrap();
    assert!(launch(log).is_none(), "the first one is still in flight");
    log.attend(first).unwrap();
    log.attend(launch(log).expect("nothing is in flight")).unwrap();
    assert_eq!(log.durable().next(), next);
}

#[test]
fn a_full_disk_stalls_writers_until_there_is_space() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    disk.set_space(Some(0));
    let mut next = opened.first_new;
    let stalled = loop {
        match log.reserve(3000, None) {
            Ok(credit) => {
                log.append(next, record_of(next, 3000), Durability::Sync, credit);
                // Whoever has a credit finds room.
                log.wait(next, Durability::Sync).unwrap();
                next = next.next();
            }
            Err(error) => break error,
        }
    };
    let ReserveError::Stalled { reason: StallReason::LogSpace { file, error } } = &stalled else {
        panic!("{stalled}")
    };
    assert!(file.contains("wal") && error.is_some(), "{stalled}");
    assert!(log.poisoned().is_none());
    assert_eq!(log.durable().next(), next);
    assert!(log.reserve(3000, Some(Duration::ZERO)).is_err());
    disk.add_space(1 << 20);
    next = append(log, next, 3000, Durability::Sync);
    log.sync().unwrap();
    // Full again, it can still be closed, and opened, and opened after a crash.
    disk.set_space(Some(0));
    log.shutdown().unwrap();
    drop(opened);
    let (again, found) = open(&disk).unwrap();
    assert!(again.clean);
    assert_eq!(found.len() as u64, next.counter() - 1);
    drop(again);
    let crashed = disk.reboot(Survival::Nothing);
    match open(&crashed) {
        Ok(_) => {}
        Err(LogOpenError::Io { source, .. }) => {
            // No segment was spare: the new epoch needs one. Nothing is lost by that.
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            crashed.add_space(1 << 20);
            assert_eq!(open(&crashed).unwrap().1.len(), found.len());
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_read_error_is_no_end_of_the_log() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    append(&opened.log, opened.first_new, 10, Durability::Sync);
    opened.log.sync().unwrap();
    drop(opened);
    let rebooted = disk.reboot(Survival::Nothing);
    let (_, found) = open(&rebooted).unwrap();
    assert_eq!(found.len(), 1);
    for call in rebooted.calls() {
        let failing = disk.reboot(Survival::Nothing);
        failing.fail_call(call.number, Fault::Io);
        if let Ok((opened, found)) = open(&failing) {
            // What may fail is the removal of dead files.
            assert!(matches!(call.operation, Operation::Remove | Operation::SyncDir), "{call}");
            assert_eq!((found.len(), opened.first_new), (1, Lsn::new(1, 1)));
        }
        // Whatever failed: the next open finds all of it.
        let (_, found) = open(&failing.reboot(Survival::Nothing)).unwrap();
        assert_eq!(found.len(), 1, "{call}");
    }
}

/// Panics in one of its calls.
struct Broken(&'static str);

impl crate::Horizon for Broken {
    fn seal(&self, last_end: Lsn) -> Lsn {
        assert_ne!(self.0, "seal", "this panic is part of the test");
        last_end.max(Lsn::new(0, last_end.counter() + 1))
    }
    fn written(&self, _: Lsn) {
        assert_ne!(self.0, "written", "this panic is part of the test");
    }
    fn durable(&self, _: Lsn) {
        assert_ne!(self.0, "durable", "this panic is part of the test");
    }
}

#[test]
fn a_horizon_that_panics_poisons_the_log_instead_of_leaving_others_waiting() {
    for call in ["seal", "written", "durable"] {
        for first in [Durability::Os, Durability::Sync] {
            let disk = FaultyStorage::new(DiskKind::Fua);
            let (opened, _) = open(&disk).unwrap();
            let log = &opened.log;
            log.set_horizon(Arc::new(Broken(call)));
            append(log, opened.first_new, 10, first);
            std::thread::scope(|scope| {
                let leader = scope.spawn(|| log.wait(Lsn::new(0, 1), first));
                let panicked = leader.join().is_err();
                assert_eq!(panicked, call != "durable" || first == Durability::Sync);
                // The flush of what was written unsynced.
                let flusher = scope.spawn(|| log.wait(Lsn::new(0, 1), Durability::Sync));
                assert_eq!(flusher.join().is_err(), !panicked);
            });
            assert!(matches!(
                log.wait(Lsn::new(0, 1), Durability::Sync),
                Err(LogError::CommitUnknown { .. })
            ));
            assert_eq!(log.poisoned().unwrap().operation, FailedOperation::Broken);
        }
    }
}

#[test]
fn nothing_follows_the_mark_of_a_close() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let log = &opened.log;
    let (first, second) = (opened.first_new, opened.first_new.next());
    let late = log.reserve(10, None).unwrap();
    append(log, first, 10, Durability::Buffered);
    log.shutdown().unwrap();
    let calls = disk.call_count();
    assert_eq!(log.durable(), first);
    assert!(matches!(log.reserve(10, None), Err(ReserveError::Closed)));
    assert!(matches!(log.write_mark(BatchKind::Mark), Ok(false)));
    // A record that comes too late, against the rules, is not waited for.
    log.append(second, record_of(second, 10), Durability::Sync, late);
    assert!(matches!(log.wait(second, Durability::Sync), Err(LogError::Closed)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(
        log.poll(second, Durability::Sync, &mut context),
        Poll::Ready(Err(LogError::Closed))
    ));
    log.wait(first, Durability::Sync).unwrap();
    log.drive();
    assert_eq!(disk.call_count(), calls);
    assert!(open(&disk).unwrap().0.clean);
}

#[test]
fn a_forked_child_writes_nothing() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let mut log = Arc::into_inner(opened.log).unwrap();
    // As in a child of the process that opened it.
    log.pretend_forked();
    let calls = disk.call_count();
    assert!(matches!(log.reserve(10, None), Err(ReserveError::Forked)));
    assert!(matches!(log.wait(Lsn::ZERO, Durability::Sync), Err(LogError::Forked)));
    assert!(matches!(log.shutdown(), Err(LogError::Forked)));
    assert!(matches!(log.sync(), Err(LogError::Forked)));
    log.drive();
    assert_eq!(disk.call_count(), calls);
}
