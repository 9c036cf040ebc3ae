//! Segments are released and used again, and the log above the floor stays what it was.

use std::time::Duration;

use super::*;
use crate::error::LogOpenError;
use crate::format::BatchKind;
use crate::log::{Durability, LogOptions, Opened};
use crate::storage::Storage;
use crate::storage::backend::{IoBackend, open_storage};
use crate::storage::memory::MemoryStorage;
use crate::test_log::{self, Found, files, of_files, record_of, small};

fn write(log: &Log, mut lsn: Lsn, records: u64, bytes: usize) -> Lsn {
    for _ in 0..records {
        let credit = log.reserve(bytes, None).unwrap();
        log.append(lsn, record_of(lsn, bytes), Durability::Sync, credit);
        log.wait(lsn, Durability::Sync).unwrap();
        lsn = lsn.next();
    }
    lsn
}

fn open_after(storage: &Arc<MemoryStorage>, begins: Lsn) -> Result<(Opened, Found), LogOpenError> {
    let mut found = Vec::new();
    let options = LogOptions { begins, ..small() };
    let opened = Log::open(storage.clone(), options, &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        Ok(())
    })?;
    Ok((opened, found))
}

fn lsns(found: &Found) -> Vec<u64> {
    found.iter().map(|(lsn, _)| lsn.counter()).collect()
}

fn counter(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

/// 100 records of 9,000 bytes in segments of 64 KiB, of which 12 KiB each: five to a segment.
fn hundred() -> (Arc<MemoryStorage>, Arc<Log>) {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = test_log::open(&storage);
    write(&opened.log, opened.first_new, 100, 9_000);
    (storage, opened.log)
}

#[test]
fn so_much_of_what_is_released_is_retained_and_is_there_after_reopening() {
    let storage = Arc::new(MemoryStorage::new());
    let retained_bytes = 5 * small().segment_bytes + 100;
    let options = LogOptions { retained_bytes, ..small() };
    let (opened, _) = test_log::open_with(&storage, options.clone());
    let log = opened.log;
    let mut next = opened.first_new;
    let mut last = Lsn::ZERO;
    for round in 0..40 {
        next = write(&log, next, 5, 9_000);
        log.release(log.durable()).unwrap();
        let (durable, kept) = (log.durable(), log.bytes_after(log.begins()));
        // What is free to go, and the segment in use.
        assert!(kept <= retained_bytes + small().segment_bytes, "{kept}");
        assert!(round < 8 || kept > 5 * small().segment_bytes, "{kept}");
        assert!(log.begins() >= last);
        last = log.begins();
        let mut reader = log.read_after(last).unwrap();
        let mut lsn = last;
        let each = &mut |at: Lsn, bytes: &[u8]| {
            lsn = lsn.next();
            assert!(at == lsn && bytes == record_of(lsn, 9_000).bytes());
            std::ops::ControlFlow::Continue(())
        };
        reader.read(each).unwrap();
        assert_eq!(lsn, durable);
    }
    assert!(last > Lsn::ZERO);
    drop(log);
    let floor = next.before();
    let found =
        Log::replay_only(&*storage, &LogOptions { begins: floor, ..small() }, &mut |_, _| {
            Err("nothing is needed".into())
        });
    assert_eq!(found.unwrap().begins, last);
    let reopened = LogOptions { begins: floor, ..options };
    let (opened, found) = test_log::open_with(&storage, reopened);
    assert!(found.is_empty());
    assert_eq!(opened.log.begins(), last);
    // Without the option they go.
    drop(opened);
    let (opened, _) = open_after(&storage, floor).unwrap();
    opened.log.release(floor).unwrap();
    assert_eq!(opened.log.begins(), floor);
}

#[test]
fn released_segments_are_used_again_and_the_log_stays_small() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = test_log::open(&storage);
    let log = &opened.log;
    let mut next = opened.first_new;
    for _ in 0..200 {
        next = write(log, next, 5, 9_000);
        log.release(log.durable()).unwrap();
        assert!(files(&*storage).len() <= 4, "{:?}", storage.list(Path::new(DIRECTORY)));
    }
    let stats = log.stats();
    assert!(stats.segments <= 4, "prepared {}", stats.segments);
    assert!(stats.recycled_segments > 190, "recycled {}", stats.recycled_segments);
    assert!(stats.held_segments <= 2 && stats.held_bytes <= 128 << 10);
    let floor = log.durable();
    log.shutdown().unwrap();
    let (again, found) = open_after(&storage, floor).unwrap();
    assert_eq!((lsns(&found), again.last, again.first_new), (vec![], floor, floor.next()));
    assert!(again.clean);
    assert_eq!(again.report.torn_tail, None);
    // And once more, behind a crash.
    write(&again.log, again.first_new, 3, 20);
    drop(again);
    let (after, found) = open_after(&storage, floor).unwrap();
    assert_eq!(lsns(&found), [1001, 1002, 1003]);
    assert!(!after.clean && after.first_new == Lsn::new(1, 1));
}

#[test]
fn whatever_the_floor_what_is_above_it_is_replayed() {
    let (storage, log) = hundred();
    for floor in [1, 2, 17, 50, 51, 99, 100] {
        log.release(counter(floor)).unwrap();
        assert!(log.begins() <= counter(floor) && log.begins() >= counter(floor.saturating_sub(6)));
        let copy = Arc::new(test_log::copy(&*storage));
        let (opened, found) = open_after(&copy, counter(floor)).unwrap();
        assert_eq!(lsns(&found), (floor + 1..=100).collect::<Vec<_>>(), "floor {floor}");
        assert_eq!(opened.last, counter(100));
        assert_eq!(opened.report.records, 100 - floor);
        assert_eq!(opened.begins, log.begins());
        assert!(found.iter().all(|(lsn, bytes)| *bytes == record_of(*lsn, 9_000).bytes()));
    }
    // The disk space is that of two spare segments and the one in use.
    assert_eq!(files(&*storage).len(), 3);
}

#[test]
fn nothing_above_durable_is_released_and_a_floor_of_zero_releases_nothing() {
    let (_storage, log) = hundred();
    assert_eq!(log.release(Lsn::ZERO).unwrap(), Released::default());
    let mut next = counter(101);
    for _ in 0..20 {
        let credit = log.reserve(9_000, None).unwrap();
        log.append(next, record_of(next, 9_000), Durability::Os, credit);
        log.wait(next, Durability::Os).unwrap();
        next = next.next();
    }
    log.release(next).unwrap();
    assert!(log.begins() <= log.durable(), "{} {}", log.begins(), log.durable());
    log.sync().unwrap();
    log.release(next).unwrap();
    assert!(log.begins() > counter(110));
}

#[test]
fn what_is_held_stays() {
    let (storage, log) = hundred();
    let hold = log.hold(counter(40)).unwrap();
    let other = log.hold(counter(60)).unwrap();
    log.release(counter(100)).unwrap();
    assert!(log.begins() <= counter(40) && log.begins() > counter(30));
    let gone = log.hold(counter(10)).unwrap_err();
    assert_eq!(gone.begins, log.begins());
    hold.advance(counter(80));
    hold.advance(counter(20));
    log.release(counter(100)).unwrap();
    assert!(log.begins() <= counter(60) && log.begins() > counter(50));
    drop(other);
    log.release(counter(100)).unwrap();
    assert!(log.begins() <= counter(80) && log.begins() > counter(70));
    // What an open does not need is kept as long as it leads to what it needs.
    let begins = log.begins();
    let (again, found) = open_after(&storage, counter(100)).unwrap();
    assert_eq!((lsns(&found), again.begins), (vec![], begins));
    drop(hold);
    again.log.release(counter(100)).unwrap();
    assert!(again.log.begins() > counter(90));
    assert_eq!(again.log.bytes_after(counter(100)), 64 << 10);
}

#[test]
fn a_log_that_begins_too_late_or_ends_too_early_is_damage() {
    let (storage, log) = hundred();
    log.release(counter(50)).unwrap();
    let missing = open_after(&storage, counter(40)).unwrap_err();
    assert!(matches!(missing, LogOpenError::Corrupt { .. }), "{missing}");
    assert!(open_after(&storage, Lsn::ZERO).is_err());
    let early = open_after(&Arc::new(test_log::copy(&*storage)), counter(101)).unwrap_err();
    assert!(early.to_string().contains("ends with record 0:100, but 0:101 was durable"), "{early}");
    let empty = open_after(&Arc::new(MemoryStorage::new()), counter(1)).unwrap_err();
    assert!(empty.to_string().contains("no segment of the log is there"), "{empty}");
    // A segment that is needed, gone or with a damaged header.
    let whole = files(&*storage);
    let (mut told, mut harmless) = (0, 0);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at].1[50] ^= 1;
        let mut removed = whole.clone();
        removed.remove(at);
        for files in [damaged, removed] {
            match open_after(&Arc::new(of_files(&files)), counter(50)) {
                Ok((_, found)) => {
                    // A spare one, or the one that ends with the floor; or the last one, whose end is
                    // its own witness.
                    assert!(lsns(&found).starts_with(&(51..=95).collect::<Vec<_>>()));
                    harmless += 1;
                }
                Err(LogOpenError::Corrupt { .. }) => told += 1,
                Err(LogOpenError::Foreign { .. }) => told += 1,
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(told >= 14 && harmless >= 4, "told {told}, harmless {harmless}");
}

#[test]
fn released_segments_that_come_back_are_no_part_of_the_log() {
    let (storage, log) = hundred();
    let before = files(&*storage);
    log.release(counter(50)).unwrap();
    write(&log, counter(101), 20, 9_000);
    let after = files(&*storage);
    let gone: Vec<_> =
        before.iter().filter(|(path, _)| after.iter().all(|(other, _)| other != path)).collect();
    assert!(gone.len() > 8);
    // Each alone, each but one, all; as they were, or with their header zeroed.
    for mask in (0..1u32 << gone.len()).step_by(13).chain([(1 << gone.len()) - 1]) {
        let mut files = after.clone();
        for (at, (path, bytes)) in gone.iter().enumerate() {
            if mask & 1 << at != 0 {
                let mut bytes = bytes.clone();
                if (mask >> 1) & 1 << at == 0 {
                    bytes[..4096].fill(0);
                }
                files.push((path.clone(), bytes));
            }
        }
        let storage = Arc::new(of_files(&files));
        let (opened, found) = open_after(&storage, counter(50)).unwrap();
        assert_eq!(lsns(&found), (51..=120).collect::<Vec<_>>());
        assert_eq!(opened.report.torn_tail, None);
        write(&opened.log, opened.first_new, 3, 100);
        opened.log.shutdown().unwrap();
        let (again, found) = open_after(&storage, counter(120)).unwrap();
        assert_eq!(lsns(&found), [1, 2, 3]);
        assert!(again.clean);
    }
}

/// A log that ends in a segment that was recycled, with the batches of its earlier life behind.
fn recycled() -> (Vec<(std::path::PathBuf, Vec<u8>)>, usize) {
    let (storage, log) = hundred();
    log.release(counter(100)).unwrap();
    let next = write(&log, counter(101), 7, 9_000);
    assert_eq!(next, counter(108));
    let id = log.held.lock().segments.back().unwrap().header.segment;
    let files = files(&*storage);
    let at = files.iter().position(|(path, _)| *path == segment::path(id)).unwrap();
    (files, at)
}

#[test]
fn a_last_batch_torn_anywhere_in_a_recycled_segment_is_cut_and_nothing_else() {
    let (files, at) = recycled();
    let bytes = &files[at].1;
    // Two batches of 12 KiB, and behind them what was there before.
    let last = (1..bytes.len() / 4096)
        .rev()
        .map(|block| block * 4096)
        .find(|&offset| {
            let place = crate::format::Place {
                database: database_of(bytes),
                segment: segment::parse_name(files[at].0.file_name().unwrap().to_str().unwrap())
                    .unwrap(),
                offset: offset as u64,
            };
            crate::format::BatchHeader::decode(&bytes[offset..], &place).is_some()
        })
        .unwrap();
    assert!(!crate::format::is_zero(&bytes[last + 12288..]), "there are old bytes");
    // A tear leaves old bytes where new ones were to go: those of the other block, say.
    let old = bytes[last + 12288..].to_vec();
    for torn_at in (last..last + 9_000).step_by(101) {
        for keep_head in [true, false] {
            let mut torn = files.clone();
            let range = if keep_head { torn_at..last + 12288 } else { last..torn_at + 1 };
            for place in range {
                torn[at].1[place] = old[(place - last) % old.len()];
            }
            if torn == files {
                continue;
            }
            let (opened, found) = open_after(&Arc::new(of_files(&torn)), counter(100)).unwrap();
            assert_eq!(lsns(&found), (101..=106).collect::<Vec<_>>(), "{torn_at} {keep_head}");
            assert_eq!(opened.first_new, Lsn::new(1, 1));
        }
    }
    // Damage before it is told.
    for place in (0..last).step_by(53) {
        let mut damaged = files.clone();
        damaged[at].1[place] ^= 4;
        let opened = open_after(&Arc::new(of_files(&damaged)), counter(100));
        assert!(opened.is_err(), "damage at {place}");
    }
}

fn database_of(header: &[u8]) -> crate::format::DatabaseId {
    match SegmentHeader::decode(&header[..4096]) {
        crate::format::HeaderBlock::Valid(header) => header.database,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_recycled_segment_is_closed_and_opened_as_others_are() {
    let (files, _) = recycled();
    let storage = Arc::new(of_files(&files));
    for _ in 0..3 {
        let (opened, _) = open_after(&storage, counter(100)).unwrap();
        opened.log.shutdown().unwrap();
    }
    let (opened, found) = open_after(&storage, counter(100)).unwrap();
    assert!(opened.clean && opened.report.torn_tail.is_none());
    assert_eq!(opened.first_new.epoch(), 1, "one epoch for the crash, none for the closes");
    assert_eq!(lsns(&found), (101..=107).collect::<Vec<_>>());
    assert!(opened.log.write_mark(BatchKind::Mark).unwrap());
}

#[test]
fn segments_are_released_under_threads_that_commit() {
    let root = tempfile::tempdir().unwrap();
    let storages = [
        open_storage(root.path(), IoBackend::Auto).unwrap().0,
        Arc::new(MemoryStorage::new()) as Arc<dyn Storage>,
    ];
    for storage in storages {
        let options = LogOptions { depth_max: 4, segment_bytes: 32 << 10, ..small() };
        let opened = Log::open(storage.clone(), options.clone(), &mut |_, _| Ok(())).unwrap();
        let log = &opened.log;
        let next = std::sync::Mutex::new(opened.first_new);
        let committing = AtomicU64::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..100 {
                        let credit = log.reserve(3_000, Some(Duration::from_secs(60))).unwrap();
                        let lsn = {
                            let mut next = next.lock().unwrap();
                            let lsn = *next;
                            *next = lsn.next();
                            let level =
                                if number % 3 == 0 { Durability::Os } else { Durability::Sync };
                            log.append(lsn, record_of(lsn, 3_000), level, credit);
                            lsn
                        };
                        log.wait(lsn, Durability::Os).unwrap();
                    }
                    // Release: pairs with the Acquire below; nothing hangs on it but the end.
                    committing.fetch_sub(1, Ordering::Release);
                });
            }
            scope.spawn(|| {
                // Acquire: pairs with the Release above.
                while committing.load(Ordering::Acquire) > 0 {
                    log.release(log.durable()).unwrap();
                    std::thread::yield_now();
                }
            });
        });
        log.sync().unwrap();
        log.release(counter(390)).unwrap();
        let stats = log.stats();
        assert!(stats.held_bytes < 400 * 3_000, "{stats:?}");
        // As a crash of the process leaves it.
        let begins = log.begins();
        let mut found = Vec::new();
        let options = LogOptions { begins: counter(390).max(begins), ..options };
        Log::open(storage, options, &mut |lsn, record| {
            assert_eq!(record, record_of(lsn, 3_000).bytes());
            found.push(lsn.counter());
            Ok(())
        })
        .unwrap();
        assert_eq!(found, (counter(390).max(begins).counter() + 1..=400).collect::<Vec<_>>());
    }
}
