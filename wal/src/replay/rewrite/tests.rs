//! Opens of a disk whose cache shows more than the medium holds.

use crate::error::LogOpenError;
use crate::format::{BLOCK, DatabaseId};
use crate::log::{Durability, Log, LogOptions, Opened};
use crate::lsn::Lsn;
use crate::storage::faulty::{DiskKind, Fault, FaultyStorage, Operation, Survival};
use crate::test_log::{Found, record_of, small};

const KINDS: [DiskKind; 2] = [DiskKind::Fua, DiskKind::WriteThrough];

fn options() -> LogOptions {
    LogOptions { segment_bytes: 32 << 10, database: Some(DatabaseId(0x75)), ..small() }
}

fn open_and(disk: &FaultyStorage, mut then: impl FnMut()) -> Result<(Opened, Found), LogOpenError> {
    let mut found = Vec::new();
    let opened = Log::open(disk.as_storage(), options(), &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        then();
        Ok(())
    })?;
    Ok((opened, found))
}

fn open(disk: &FaultyStorage) -> Result<(Opened, Found), LogOpenError> {
    open_and(disk, || {})
}

fn append(log: &Log, lsn: Lsn, level: Durability) -> Lsn {
    let credit = log.reserve(3000, None).unwrap();
    log.append(lsn, record_of(lsn, 3000), level, credit);
    log.wait(lsn, level).unwrap();
    lsn.next()
}

/// A disk whose log holds one synced record, `unsynced` ones, and then a sync that failed at the
/// segment whose name ends with `failing`. `None`: no such segment was to be synced.
fn failed_sync(kind: DiskKind, unsynced: usize, failing: &str) -> Option<FaultyStorage> {
    let disk = FaultyStorage::new(kind);
    let (opened, _) = open(&disk).unwrap();
    let mut next = append(&opened.log, opened.first_new, Durability::Sync);
    for _ in 0..unsynced {
        next = append(&opened.log, next, Durability::Os);
    }
    disk.fail_next(Operation::Sync, failing, Fault::Io);
    opened.log.sync().is_err().then_some(disk)
}

/// The same disk, caches and all, for another try.
fn again(disk: &FaultyStorage) -> FaultyStorage {
    disk.reboot(Survival::ProcessKilled(1))
}

/// Opens, commits, cuts the power, and opens: what the first open found, and the commit, are there.
/// Returns how many records the first open found.
fn check(disk: &FaultyStorage, what: &dyn std::fmt::Display) -> usize {
    let (opened, mut expected) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let count = expected.len();
    let lsn = opened.first_new;
    append(&opened.log, lsn, Durability::Sync);
    drop(opened);
    expected.push((lsn, record_of(lsn, 3000).bytes().to_vec()));
    let cut = disk.reboot(Survival::Nothing);
    let (_, found) = open(&cut).unwrap_or_else(|error| panic!("{what}, power cut: {error}"));
    assert!(found == expected, "{what}: {} of {} are left", found.len(), expected.len());
    count
}

#[test]
fn what_only_the_cache_holds_after_a_failed_sync_is_on_the_disk_once_it_was_opened() {
    let mut disks = 0;
    for kind in KINDS {
        // In the first segment; into the second; over several, headers and all.
        for unsynced in [1, 4, 8, 30] {
            for segment in 1..=8 {
                let name = format!("{segment:016x}.log");
                let Some(disk) = failed_sync(kind, unsynced, &name) else { continue };
                disks += 1;
                let what = format!("{kind:?}, {unsynced} unsynced, {name}");
                assert_eq!(check(&disk, &what), unsynced + 1, "{what}");
            }
        }
    }
    assert!(disks >= 2 * 8, "{disks}");
}

/// Disks on which an open has something to do.
fn starts() -> Vec<(&'static str, FaultyStorage)> {
    let closed = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&closed).unwrap();
    append(&opened.log, opened.first_new, Durability::Os);
    opened.log.shutdown().unwrap();
    let spare = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&spare).unwrap();
    append(&opened.log, opened.first_new, Durability::Sync);
    crate::segment::prepare(&spare, crate::format::SegmentId(9), options().segment_bytes, None)
        .unwrap();
    vec![
        ("new", FaultyStorage::new(DiskKind::Fua)),
        ("closed", closed),
        ("with a spare segment", spare),
        ("failed in one segment", failed_sync(DiskKind::Fua, 3, "1.log").unwrap()),
        ("failed over segments", failed_sync(DiskKind::Fua, 16, "2.log").unwrap()),
    ]
}

#[test]
fn an_open_that_fails_at_any_call_leaves_no_trap_for_the_next_one() {
    for (name, start) in starts() {
        let whole = again(&start);
        let expected = open(&whole).unwrap().1.len();
        for call in whole.calls() {
            for removals_fail in [false, true] {
                let disk = again(&start);
                disk.fail_call(call.number, Fault::Io);
                if removals_fail {
                    disk.fail_next(Operation::Remove, "wal", Fault::Io);
                }
                let what = format!("{name}, {call}, removals fail: {removals_fail}");
                let failed = open(&disk).is_err();
                assert!(failed || call.operation.is_change(), "{what}");
                assert_eq!(check(&disk, &what), expected, "{what}");
            }
        }
    }
}

#[test]
fn an_open_that_crashes_at_any_call_opens_again() {
    let survivals = (1..8).map(Survival::Random).chain(Survival::EXTREMES);
    let survivals: Vec<_> = survivals.chain((1..3).map(Survival::ProcessKilled)).collect();
    for (name, start) in starts() {
        let whole = again(&start);
        let all = open(&whole).unwrap().1.len();
        let promised = usize::from(all > 0);
        for call in whole.calls().iter().filter(|call| call.operation.is_change()) {
            let disk = again(&start);
            disk.crash_at(call.number);
            assert!(open(&disk).is_err() && disk.has_crashed());
            for survival in &survivals {
                let what = format!("{name}, {call}, {survival:?}");
                let left = check(&disk.reboot(*survival), &what);
                let killed = matches!(survival, Survival::ProcessKilled(_));
                assert!(left >= if killed { all } else { promised }, "{what}: {left}");
            }
        }
    }
}

#[test]
fn what_the_cache_lets_go_of_while_it_is_read_is_no_part_of_the_log() {
    for (unsynced, failing) in [(1, "1.log"), (3, "1.log"), (16, "1.log"), (16, "2.log")] {
        let disk = failed_sync(DiskKind::Fua, unsynced, failing).unwrap();
        let mut left = unsynced + 1;
        let at_the_last = || {
            left -= 1;
            if left == 0 {
                disk.drop_clean_pages();
            }
        };
        let error = open_and(&disk, at_the_last).map(drop).unwrap_err();
        assert!(matches!(error, LogOpenError::Io { .. }), "{error}");
        assert!(error.to_string().contains("never on the disk"), "{error}");
        let left = check(&disk, &failing);
        assert!((1..=unsynced).contains(&left), "{left}");
    }
}

#[test]
fn what_a_header_attests_is_not_written_again() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let (opened, _) = open(&disk).unwrap();
    let mut next = opened.first_new;
    for _ in 0..20 {
        next = append(&opened.log, next, Durability::Sync);
    }
    drop(opened);
    let rewritten = |disk: &FaultyStorage, from: u64| {
        let calls = disk.calls().split_off(from as usize);
        let old = |path: &str| ["1.log", "2.log", "3.log"].iter().any(|name| path.ends_with(name));
        let writes = calls.into_iter().filter(|call| call.operation == Operation::Write);
        writes.filter(|call| old(&call.path)).map(|call| call.extent.unwrap()).collect::<Vec<_>>()
    };
    // The last batch is the only one that none behind it speaks of: seven of 20 fit in a segment.
    let calls = disk.call_count();
    open(&disk).unwrap();
    assert_eq!(rewritten(&disk, calls), [(6 * BLOCK, BLOCK as usize)]);
    // The new epoch's header speaks of it.
    let calls = disk.call_count();
    open(&disk).unwrap();
    assert_eq!(rewritten(&disk, calls), []);
}
