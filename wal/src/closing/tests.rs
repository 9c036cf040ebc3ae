//! What a close leaves on the disk, and that nothing is lost by it.

use std::sync::Arc;

use super::*;
use crate::log::{Durability, LogOptions, Opened};
use crate::lsn::Lsn;
use crate::storage::Storage;
use crate::storage::faulty::{DiskKind, FaultyStorage, Survival};
use crate::storage::memory::MemoryStorage;
use crate::test_log::{files, record_of, small};

fn open(storage: &(impl Storage + Clone + 'static), begins: Lsn) -> (Opened, Vec<u64>) {
    let mut found = Vec::new();
    let options = LogOptions { begins, ..small() };
    let opened = Log::open(Arc::new(storage.clone()), options, &mut |lsn, _| {
        found.push(lsn.counter());
        Ok(())
    });
    (opened.expect("sound"), found)
}

/// Five records to a segment, each durable; as far as the disk lets them. Gives the last one.
fn write(log: &Log, mut next: Lsn, records: u64) -> Lsn {
    for _ in 0..records {
        let Ok(credit) = log.reserve(9_000, None) else { break };
        log.append(next, record_of(next, 9_000), Durability::Sync, credit);
        if log.wait(next, Durability::Sync).is_err() {
            break;
        }
        next = next.next();
    }
    log.durable()
}

fn bytes(storage: &impl Storage) -> Vec<u64> {
    files(storage).iter().map(|(_, bytes)| bytes.len() as u64).collect()
}

#[test]
fn where_nothing_is_needed_a_small_segment_is_left() {
    let storage = MemoryStorage::new();
    let (opened, _) = open(&storage, Lsn::ZERO);
    let last = write(&opened.log, opened.first_new, 23);
    opened.log.release(last).expect("memory");
    opened.log.shutdown().expect("memory");
    assert_eq!(bytes(&storage), [SEGMENT_BYTES_MIN]);
    let mut next = opened.first_new;
    for round in 0..20 {
        // Now and then something is written in between, and released or not.
        let (opened, found) = open(&storage, last);
        assert!(opened.clean, "round {round}");
        assert_eq!(opened.report.torn_tail, None);
        assert_eq!(found, [0u64; 0]);
        assert!(opened.first_new >= next);
        next = opened.first_new;
        opened.log.shutdown().expect("memory");
        assert_eq!(bytes(&storage), [SEGMENT_BYTES_MIN], "round {round}");
    }
    let (opened, _) = open(&storage, last);
    let more = write(&opened.log, opened.first_new, 7);
    drop(opened);
    let (opened, found) = open(&storage, last);
    assert_eq!((found, opened.last, opened.clean), ((24..=30).collect(), more, false));
}

#[test]
fn what_is_needed_stays_and_what_was_prepared_goes() {
    for held in [false, true] {
        let storage = MemoryStorage::new();
        let (opened, _) = open(&storage, Lsn::ZERO);
        let log = &opened.log;
        let last = write(log, opened.first_new, 23);
        let from = Lsn::new(0, if held { 21 } else { 22 });
        let hold = held.then(|| log.hold(from).expect("there"));
        // All but the last record, or all but what is held: what was released is spare now.
        log.release(if held { last } else { last.before() }).expect("memory");
        assert!(bytes(&storage).len() > 1);
        log.shutdown().expect("memory");
        drop(hold);
        let (opened, found) = open(&storage, from);
        assert!(opened.clean);
        assert_eq!((found.last(), bytes(&storage).len()), (Some(&23), 1));
    }
}

/// At each call of a close, whatever the disk keeps: the log is there as far as it is needed, and can be used.
#[test]
fn a_crash_at_any_call_of_a_close_loses_nothing() {
    let live = |disk: &FaultyStorage| {
        let opened = Log::open(Arc::new(disk.clone()), small(), &mut |_, _| Ok(())).ok()?;
        let last = write(&opened.log, opened.first_new, 12);
        let _ = opened.log.release(last);
        let before = disk.call_count();
        let _ = opened.log.shutdown();
        Some((last, before))
    };
    for kind in [DiskKind::Fua, DiskKind::WriteThrough] {
        let whole = FaultyStorage::new(kind);
        let (floor, before) = live(&whole).expect("a calm disk");
        let mut crashes = 0;
        for call in whole.calls().iter().filter(|call| call.number > before) {
            let disk = FaultyStorage::new(kind);
            disk.crash_at(call.number);
            live(&disk);
            crashes += u64::from(disk.has_crashed());
            for survival in [
                Survival::Nothing,
                Survival::Everything,
                Survival::Random(call.number),
                Survival::ProcessKilled(call.number),
            ] {
                let disk = disk.reboot(survival);
                for round in 0..3 {
                    let (opened, found) = open(&disk, floor);
                    assert_eq!((found, opened.last), (vec![], floor), "{call:?}, {survival:?}");
                    assert!(opened.report.torn_tail.is_none() || round == 0);
                    opened.log.shutdown().expect("calm");
                    assert_eq!(bytes(&disk), [SEGMENT_BYTES_MIN], "{call:?}, {survival:?}");
                }
                let (opened, _) = open(&disk, floor);
                write(&opened.log, opened.first_new, 6);
                drop(opened);
                assert_eq!(open(&disk.reboot(Survival::Nothing), floor).1.len(), 6);
            }
        }
        assert!(crashes > 4, "{crashes} crashes");
    }
}
