//! Readers see each durable record once, in order, wherever the log goes meanwhile.

use std::time::Duration;

use super::*;
use crate::format::BatchKind;
use crate::log::{Durability, LogOptions};
use crate::storage::backend::{IoBackend, open_storage};
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, StorageFile};
use crate::sync::{AtomicU64, Ordering};
use crate::test_log::{files, of_files, open, record_of, small};

fn write(log: &Log, mut lsn: Lsn, records: u64, bytes: usize, level: Durability) -> Lsn {
    for _ in 0..records {
        let credit = log.reserve(bytes, None).unwrap();
        log.append(lsn, record_of(lsn, bytes), level, credit);
        log.wait(lsn, level).unwrap();
        lsn = lsn.next();
    }
    lsn
}

fn all(reader: &mut LogReader) -> Result<Vec<Lsn>, LogReadError> {
    let mut seen = Vec::new();
    reader.read(&mut |lsn, bytes| {
        assert_eq!(bytes, record_of(lsn, bytes.len()).bytes());
        seen.push(lsn);
        ControlFlow::Continue(())
    })?;
    Ok(seen)
}

fn counter(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

#[test]
fn a_reader_sees_what_is_after_its_place_over_segments_marks_and_epochs() {
    let storage = Arc::new(MemoryStorage::new());
    let mut expected = Vec::new();
    for life in 0..4 {
        let (opened, _) = open(&storage);
        let log = &opened.log;
        let mut next = opened.first_new;
        for bytes in [10, 9_000, 30_000, 100, 5_000] {
            let first = next;
            next = write(log, next, 3, bytes, Durability::Sync);
            expected.extend((0..3).map(|by| Lsn::from_bits(first.bits() + by)));
            log.write_mark(BatchKind::Mark).unwrap();
        }
        for (at, &lsn) in expected.iter().enumerate() {
            let mut reader = log.read_after(lsn).unwrap();
            assert_eq!(all(&mut reader).unwrap(), expected[at + 1..], "after {lsn}");
            assert_eq!(reader.position(), *expected.last().unwrap());
            assert_eq!(all(&mut reader).unwrap(), []);
        }
        let mut reader = log.read_after(Lsn::ZERO).unwrap();
        assert_eq!(all(&mut reader).unwrap(), expected);
        // Every other life ends in order.
        if life % 2 == 0 {
            log.shutdown().unwrap();
        }
    }
    assert_eq!(expected.last().unwrap().epoch(), 1);
}

#[test]
fn a_reader_that_has_enough_goes_on_where_it_was() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    // Many records to a batch.
    let mut next = opened.first_new;
    for _ in 0..10 {
        for _ in 0..20 {
            let credit = log.reserve(500, None).unwrap();
            log.append(next, record_of(next, 500), Durability::Sync, credit);
            next = next.next();
        }
        log.sync().unwrap();
    }
    let mut reader = log.read_after(counter(7)).unwrap();
    let mut seen = Vec::new();
    for step in (1..).take_while(|_| true) {
        let before = seen.len();
        reader
            .read(&mut |lsn, _| {
                seen.push(lsn.counter());
                if seen.len() < before + step {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })
            .unwrap();
        if seen.len() == before {
            break;
        }
    }
    assert_eq!(seen, (8..=200).collect::<Vec<_>>());
}

#[test]
fn what_is_not_durable_is_not_shown() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    let mut reader = log.read_after(Lsn::ZERO).unwrap();
    assert_eq!(all(&mut reader).unwrap(), []);
    let next = write(log, opened.first_new, 2, 10, Durability::Sync);
    let next = write(log, next, 20, 9_000, Durability::Os);
    assert_eq!(log.durable(), counter(2));
    assert_eq!(all(&mut reader).unwrap(), [counter(1), counter(2)]);
    assert_eq!(all(&mut reader).unwrap(), []);
    log.sync().unwrap();
    assert_eq!(all(&mut reader).unwrap(), (3..=22).map(counter).collect::<Vec<_>>());
    write(log, next, 1, 10, Durability::Sync);
    assert_eq!(all(&mut reader).unwrap(), [counter(23)]);
    // From a place that is not there yet.
    let mut later = log.read_after(counter(30)).unwrap();
    let next = write(log, counter(24), 6, 10, Durability::Sync);
    assert_eq!(all(&mut later).unwrap(), []);
    write(log, next, 3, 10, Durability::Sync);
    assert_eq!(all(&mut later).unwrap(), [31, 32].map(counter));
}

#[test]
fn a_reader_that_lags_behind_is_told_unless_its_part_is_held() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    let next = write(log, opened.first_new, 50, 9_000, Durability::Sync);
    let mut lagging = log.read_after(counter(3)).unwrap();
    let mut in_between = log.read_after(Lsn::ZERO).unwrap();
    let mut left = 12;
    in_between
        .read(&mut |_, _| {
            left -= 1;
            if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    let hold = log.hold(counter(20)).unwrap();
    let mut held = log.read_after(counter(20)).unwrap();
    log.release(counter(50)).unwrap();
    // The released segments are used again, and written over.
    let next = write(log, next, 30, 9_000, Durability::Sync);
    for reader in [&mut lagging, &mut in_between] {
        match all(reader) {
            Err(LogReadError::Gone(gone)) => assert_eq!(gone.begins, log.begins()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(log.read_after(counter(3)).unwrap_err().begins, log.begins());
    assert_eq!(all(&mut held).unwrap(), (21..=80).map(counter).collect::<Vec<_>>());
    hold.advance(held.position());
    log.release(counter(80)).unwrap();
    write(log, next, 5, 9_000, Durability::Sync);
    assert_eq!(all(&mut held).unwrap(), (81..=85).map(counter).collect::<Vec<_>>());
}

#[test]
fn a_reader_does_not_miss_a_segment_that_it_has_read_to_its_end() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    let next = write(log, opened.first_new, 50, 9_000, Durability::Sync);
    let mut reader = log.read_after(Lsn::ZERO).unwrap();
    let following = log.held.lock().follow(reader.segment.header.segment);
    let end = following.flatten().unwrap().header.previous_lsn;
    let enough = |lsn| if lsn < end { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
    reader.read(&mut |lsn, _| enough(lsn)).unwrap();
    assert_eq!(reader.position(), end);
    let _hold = log.hold(end).unwrap();
    log.release(counter(50)).unwrap();
    assert_eq!(log.begins(), end);
    // What is released is written over.
    write(log, next, 10, 9_000, Durability::Sync);
    let expected: Vec<_> = (end.counter() + 1..=60).map(counter).collect();
    assert_eq!(all(&mut reader).unwrap(), expected);
}

#[test]
fn damage_is_told_with_file_and_offset() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    write(&opened.log, opened.first_new, 3, 5_000, Durability::Sync);
    let (path, bytes) = files(&*storage).remove(0);
    let file: Arc<dyn StorageFile> = storage.open(&path, Access::ReadWrite).unwrap();
    // Three batches of 8 KiB behind the header.
    for at in (4096..4096 + 3 * 8192).step_by(41) {
        file.write_at(at, &[bytes[at as usize] ^ 0x20]).unwrap();
        let mut reader = opened.log.read_after(Lsn::ZERO).unwrap();
        let error = all(&mut reader).unwrap_err();
        let begins = 4096 + (at - 4096) / 8192 * 8192;
        assert!(
            matches!(&error, LogReadError::Corrupt { file, offset, .. }
                if *offset == begins && file.ends_with(".log")),
            "{error} at {at}"
        );
        assert_eq!(reader.position().counter(), (begins - 4096) / 8192);
        file.write_at(at, &bytes[at as usize..=at as usize]).unwrap();
    }
}

#[test]
fn a_reader_follows_while_others_commit_and_release() {
    let root = tempfile::tempdir().unwrap();
    follow(Arc::new(MemoryStorage::new()));
    // The reads go through the page cache, the writes past it.
    follow(open_storage(root.path(), IoBackend::Auto).unwrap().0);
}

fn follow(storage: Arc<dyn Storage>) {
    let options = LogOptions { depth_max: 4, segment_bytes: 32 << 10, ..small() };
    let opened = Log::open(storage, options, &mut |_, _| Ok(())).unwrap();
    let log = &opened.log;
    let next = std::sync::Mutex::new(opened.first_new);
    let committing = AtomicU64::new(3);
    let hold = log.hold(Lsn::ZERO).unwrap();
    let mut seen = Vec::new();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (next, committing) = (&next, &committing);
            scope.spawn(move || {
                for number in 0..150 {
                    let wait = Some(Duration::from_secs(60));
                    let credit = log.reserve(2_500, wait).unwrap();
                    let level =
                        if number % 4 == thread { Durability::Os } else { Durability::Sync };
                    let lsn = {
                        let mut next = next.lock().unwrap();
                        let lsn = *next;
                        *next = lsn.next();
                        log.append(lsn, record_of(lsn, 2_500), level, credit);
                        lsn
                    };
                    log.wait(lsn, level).unwrap();
                }
                log.sync().unwrap();
                // Release: pairs with the Acquire below: who sees the last one sees all durable.
                committing.fetch_sub(1, Ordering::Release);
            });
        }
        let mut reader = log.read_after(Lsn::ZERO).unwrap();
        loop {
            // Acquire: pairs with the Release above.
            let over = committing.load(Ordering::Acquire) == 0;
            seen.extend(all(&mut reader).unwrap());
            hold.advance(reader.position());
            log.release(log.durable()).unwrap();
            if over {
                break;
            }
        }
    });
    assert_eq!(seen, (1..=450).map(counter).collect::<Vec<_>>());
    assert!(log.stats().recycled_segments > 0);
}

#[test]
fn replaying_only_changes_nothing_and_sees_what_an_open_would() {
    let storage = Arc::new(MemoryStorage::new());
    assert!(Log::replay_only(&*storage, &small(), &mut |_, _| Ok(())).unwrap().database.is_none());
    assert!(storage.list(std::path::Path::new("")).unwrap().is_empty());
    let (opened, _) = open(&storage);
    let next = write(&opened.log, opened.first_new, 20, 9_000, Durability::Sync);
    opened.log.release(counter(8)).unwrap();
    write(&opened.log, next, 2, 9_000, Durability::Sync);
    let mut whole = files(&*storage);
    for torn in [false, true] {
        if torn {
            // The last batch that was written: the largest record is in it.
            let last = record_of(counter(22), 9_000);
            let hits = whole.iter_mut().filter_map(|(_, bytes)| {
                let needle = &last.bytes()[8_000..8_100];
                let at = bytes.windows(100).position(|window| window == needle)?;
                Some(&mut bytes[at])
            });
            hits.for_each(|byte| *byte ^= 1);
        }
        let copy = of_files(&whole);
        let options = LogOptions { begins: counter(8), ..small() };
        let mut seen = Vec::new();
        let replayed = Log::replay_only(&copy, &options, &mut |lsn, _| {
            seen.push(lsn.counter());
            Ok(())
        })
        .unwrap();
        assert_eq!(files(&copy), whole);
        let last = if torn { 21 } else { 22 };
        assert_eq!(seen, (9..=last).collect::<Vec<_>>());
        assert_eq!((replayed.last, replayed.clean), (counter(last), false));
        assert_eq!(replayed.database, Some(opened.database));
        let mut again = Vec::new();
        let reopened = Log::open(Arc::new(copy), options, &mut |lsn, _| {
            again.push(lsn.counter());
            Ok(())
        })
        .unwrap();
        assert_eq!((seen, replayed.report), (again, reopened.report));
    }
}
