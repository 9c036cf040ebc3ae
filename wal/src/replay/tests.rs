//! Torn tails are cut and damage is told, byte by byte.

use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::log::{Durability, Log, LogOptions};
use crate::storage::memory::MemoryStorage;
use crate::test_log::{self, check_prefix, files, of_files, open, open_with, record_of, small};

type Files = Vec<(PathBuf, Vec<u8>)>;

/// Appends records of these sizes, each synced as a batch of its own.
fn write(log: &Log, mut lsn: Lsn, sizes: &[usize]) -> Lsn {
    for &bytes in sizes {
        let credit = log.reserve(bytes, None).unwrap();
        log.append(lsn, record_of(lsn, bytes), Durability::Sync, credit);
        log.wait(lsn, Durability::Sync).unwrap();
        lsn = lsn.next();
    }
    lsn
}

fn reopened(files: &Files) -> Result<(crate::Opened, test_log::Found), LogOpenError> {
    let mut found = Vec::new();
    let opened = Log::open(Arc::new(of_files(files)), small(), &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        Ok(())
    })?;
    Ok((opened, found))
}

/// The byte after the last one that is not zero.
fn end_of(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)
}

/// A log of one segment with the given records, as a crash leaves it.
fn crashed(sizes: &[usize]) -> Files {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    write(&opened.log, opened.first_new, sizes);
    let files = files(&*storage);
    assert_eq!(files.len(), 1);
    files
}

#[test]
fn a_last_batch_torn_anywhere_is_cut_and_nothing_else() {
    let files = crashed(&[10, 5000, 7000]);
    let end = end_of(&files[0].1);
    let last = BLOCK_BYTES + 4096 + 8192;
    assert!(end > last + 7000);
    // What a tear leaves: a beginning of the batch, or an end of it, or blocks in the middle.
    for at in (last..end).step_by(7) {
        for keep_head in [true, false] {
            let mut torn = files.clone();
            match keep_head {
                true => torn[0].1[at..].fill(0),
                false => torn[0].1[last..=at].fill(0),
            }
            let (opened, found) = reopened(&torn).unwrap();
            check_prefix(&found, 2);
            assert_eq!(opened.first_new, Lsn::new(1, 1));
            assert_eq!(opened.last, Lsn::new(0, 2));
            let tail = opened.report.torn_tail.clone();
            if end_of(&torn[0].1) > last {
                assert_eq!(tail.unwrap().offset, last as u64);
            } else {
                assert_eq!(tail, None);
            }
            let next = write(&opened.log, opened.first_new, &[20]);
            assert_eq!(next, Lsn::new(1, 2));
        }
    }
}

#[test]
fn damage_before_the_last_batch_is_told_with_file_and_offset() {
    let files = crashed(&[10, 5000, 100, 30]);
    let batches = [4096, 8192, 16384, 20480];
    let last = batches[3];
    for at in (0..last).step_by(61).chain(batches[..3].iter().flat_map(|&at| at..at + 64)) {
        let mut damaged = files.clone();
        damaged[0].1[at] ^= 0x10;
        match reopened(&damaged) {
            Err(LogOpenError::Corrupt { file, offset, .. }) => {
                assert!(file.ends_with("0000000000000001.log"), "{file}");
                let expected = batches.iter().rev().find(|&&batch| batch <= at).copied();
                assert_eq!(offset, expected.unwrap_or(0) as u64, "damage at {at}");
            }
            Err(LogOpenError::Foreign { .. } | LogOpenError::FormatTooNew { .. }) if at < 16 => {}
            other => panic!("damage at {at}: {other:?}"),
        }
    }
}

#[test]
fn a_damaged_last_batch_with_a_mark_behind_it_is_damage() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    write(&opened.log, opened.first_new, &[10, 20]);
    assert!(opened.log.write_mark(crate::format::BatchKind::Mark).unwrap());
    let mut files = files(&*storage);
    files[0].1[8192 + 70] ^= 1;
    let error = reopened(&files).unwrap_err();
    assert!(matches!(error, LogOpenError::Corrupt { offset: 8192, .. }), "{error}");
    assert!(error.to_string().contains("batch 2 is not whole, but it was durable"), "{error}");
}

#[test]
fn a_hole_among_unsynced_batches_is_no_damage() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let mut lsn = write(&opened.log, opened.first_new, &[10]);
    for _ in 0..9 {
        let credit = opened.log.reserve(10, None).unwrap();
        opened.log.append(lsn, record_of(lsn, 10), Durability::Os, credit);
        opened.log.wait(lsn, Durability::Os).unwrap();
        lsn = lsn.next();
    }
    let mut files = files(&*storage);
    files[0].1[2 * 4096..3 * 4096].fill(0);
    let (again, found) = reopened(&files).unwrap();
    check_prefix(&found, 1);
    assert_eq!(again.report.torn_tail.unwrap().bytes, 8 * 4096 + 4096);

    // Once they are synced, and another batch says so, it is.
    opened.log.sync().unwrap();
    write(&opened.log, lsn, &[10]);
    let mut files = test_log::files(&*storage);
    files[0].1[2 * 4096..3 * 4096].fill(0);
    let error = reopened(&files).unwrap_err();
    assert!(matches!(error, LogOpenError::Corrupt { offset: 8192, .. }), "{error}");
}

#[test]
fn dead_batches_behind_a_cut_stay_dead() {
    let files = crashed(&[10, 20, 30]);
    let mut torn = files.clone();
    torn[0].1[8192..12288].fill(0);
    // Batch 3 was written when batch 2 was durable, so this is damage …
    assert!(reopened(&torn).is_err());
    // … but had both been in flight, it would be a torn tail: made so by cutting batch 3 as well.
    torn[0].1[12288 + 4096..].fill(0);
    torn[0].1[12288 + 64..12288 + 70].fill(0);
    torn[0].1[12288..12288 + 16].fill(0);
    let storage = Arc::new(of_files(&torn));
    let (opened, found) = open(&storage);
    check_prefix(&found, 1);
    write(&opened.log, opened.first_new, &[40, 50]);
    // The bytes of the cut batches come back: they are not looked at.
    let path = &files[0].0;
    let file = storage.open(path, Access::ReadWrite).unwrap();
    file.write_at(0, &files[0].1).unwrap();
    let (again, found) = open(&storage);
    let lsns: Vec<_> = found.iter().map(|(lsn, _)| *lsn).collect();
    assert_eq!(lsns, [Lsn::new(0, 1), Lsn::new(1, 1), Lsn::new(1, 2)]);
    assert_eq!(again.first_new, Lsn::new(2, 1));
    // But what was kept must stay readable: the cut says that it was durable.
    drop(again);
    file.write_at(4096, &[0; 64]).unwrap();
    let error = Log::open(storage, small(), &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, LogOpenError::Corrupt { offset: 4096, .. }), "{error}");
}

#[test]
fn a_mark_of_a_clean_close_that_is_lost_costs_an_epoch_only() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    write(&opened.log, opened.first_new, &[10]);
    opened.log.shutdown().unwrap();
    let whole = files(&*storage);
    assert!(reopened(&whole).unwrap().0.clean);
    let mut lost = whole.clone();
    lost[0].1[8192..].fill(0);
    let (again, found) = reopened(&lost).unwrap();
    check_prefix(&found, 1);
    assert!(!again.clean && again.first_new == Lsn::new(1, 1));

    // A clean close, a clean open, and then damage to the mark of that open: not taken for clean.
    let (opened, _) = open(&storage);
    let damaged = {
        let mut files = files(&*storage);
        files[0].1[12288] ^= 1;
        files
    };
    drop(opened);
    let (again, _) = reopened(&damaged).unwrap();
    assert!(!again.clean && again.first_new == Lsn::new(1, 1));
}

#[test]
fn a_missing_segment_is_told_by_name() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    write(&opened.log, opened.first_new, &[9000; 30]);
    let files = files(&*storage);
    assert!(files.len() > 4);
    for missing in 0..files.len() - 2 {
        let mut rest = files.clone();
        let (path, _) = rest.remove(missing);
        let error = reopened(&rest).unwrap_err();
        let LogOpenError::Corrupt { file, .. } = &error else { panic!("{error}") };
        assert!(file.ends_with(path.to_str().unwrap()), "{error}, not {path:?}");

        let mut damaged = files.clone();
        damaged[missing].1[100] ^= 1;
        let error = reopened(&damaged).unwrap_err();
        let LogOpenError::Corrupt { file, offset: 0, .. } = &error else { panic!("{error}") };
        assert!(file.ends_with(path.to_str().unwrap()), "{error}, not {path:?}");

        let mut short = files.clone();
        short[missing].1.truncate(40_000);
        let error = reopened(&short).unwrap_err();
        assert!(matches!(error, LogOpenError::Corrupt { offset: 40_000, .. }), "{error}");
    }
}

#[test]
fn a_strange_file_is_refused() {
    let mine = crashed(&[10]);
    let other = crashed(&[20, 30]);
    // Another database's segment beside ours, and one of ours under a wrong number.
    for bytes in [&other[0].1, &mine[0].1] {
        let mut mixed = mine.clone();
        mixed.push(("wal/0000000000000007.log".into(), bytes.clone()));
        let error = reopened(&mixed).unwrap_err();
        assert!(matches!(error, LogOpenError::Foreign { .. }), "{error}");
    }
    let mut not_a_log = mine.clone();
    not_a_log.push(("wal/00000000000000aa.log".into(), b"Dear diary, ".repeat(1000)));
    assert!(matches!(reopened(&not_a_log), Err(LogOpenError::Foreign { .. })));
    let mut newer = mine.clone();
    newer[0].1[8] = 2;
    let error = reopened(&newer).unwrap_err();
    assert!(matches!(error, LogOpenError::FormatTooNew { found: 2, supported: 1, .. }), "{error}");
    // Names that are no segments' are none of our business.
    let mut notes = mine.clone();
    notes.push(("wal/README".into(), vec![1; 10]));
    assert!(reopened(&notes).is_ok());
    let ours = LogOptions { database: Some(DatabaseId(7)), ..small() };
    let error = Log::open(Arc::new(of_files(&mine)), ours, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, LogOpenError::Foreign { .. }), "{error}");
}

#[test]
fn a_batch_moved_to_another_place_does_not_count() {
    let mut files = crashed(&[10, 10, 10]);
    let batch = files[0].1[8192..12288].to_vec();
    files[0].1[12288..16384].copy_from_slice(&batch);
    // Batch 3 is overwritten by a copy of batch 2: cut, since nothing says that it was durable.
    let (_, found) = reopened(&files).unwrap();
    check_prefix(&found, 2);
}

#[test]
fn a_batch_of_another_history_does_not_join_the_chain() {
    // The same database, place, sequence and LSN, written after another first batch.
    let lives = [[10, 10], [20, 10]].map(|sizes| {
        let storage = Arc::new(MemoryStorage::new());
        let ours = LogOptions { database: Some(DatabaseId(7)), ..small() };
        let (opened, _) = open_with(&storage, ours);
        write(&opened.log, opened.first_new, &sizes);
        files(&*storage)
    });
    let [mut ours, theirs] = lives;
    ours[0].1[8192..12288].copy_from_slice(&theirs[0].1[8192..12288]);
    check_prefix(&reopened(&ours).unwrap().1, 1);
}

#[test]
fn a_reader_that_refuses_a_record_is_told_where_it_is() {
    let files = crashed(&[10, 20, 30]);
    let error = Log::open(Arc::new(of_files(&files)), small(), &mut |lsn, _| match lsn.counter() {
        2 => Err("no".into()),
        _ => Ok(()),
    })
    .unwrap_err();
    let LogOpenError::Refused { lsn, offset, what, .. } = error else { panic!("{error}") };
    assert_eq!((lsn, offset, &*what), (Lsn::new(0, 2), 8192, "no"));
}

#[test]
fn a_log_whose_making_was_cut_short_is_made_again() {
    let header = crashed(&[])[0].1[..4096].to_vec();
    let torn_header = [&header[..30], &[0; 4066][..]].concat();
    for first in
        [vec![], vec![0; 20_000], vec![0; 64 << 10], torn_header.clone(), header[..3].to_vec()]
    {
        let storage = Arc::new(of_files(&[("wal/0000000000000001.log".into(), first.clone())]));
        let (opened, found) = open(&storage);
        assert!(found.is_empty() && opened.report.created);
        let next = write(&opened.log, opened.first_new, &[10, 20]);
        assert_eq!(next, Lsn::new(0, 3));
        drop(opened);
        check_prefix(&open(&storage).1, 2);
    }
    // A batch under a damaged header is no beginning.
    let mut files = crashed(&[10]);
    files[0].1[50] ^= 1;
    assert!(matches!(reopened(&files), Err(LogOpenError::Corrupt { offset: 0, .. })));
}

#[test]
fn what_is_left_behind_the_end_is_removed_or_used() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    write(&opened.log, opened.first_new, &[10]);
    drop(opened);
    let mut files = files(&*storage);
    files.push(("wal/0000000000000005.log".into(), vec![0; 64 << 10]));
    files.push(("wal/0000000000000006.log".into(), vec![0; 5000]));
    files.push(("wal/0000000000000007.log".into(), vec![7; 64 << 10]));
    files.last_mut().unwrap().1[..8].fill(0);
    let storage = Arc::new(of_files(&files));
    let (opened, _) = open_with(&storage, small());
    let names: Vec<_> = test_log::files(&*storage).into_iter().map(|(path, _)| path).collect();
    let expected = ["wal/0000000000000001.log", "wal/0000000000000005.log"].map(PathBuf::from);
    assert_eq!(names, expected);
    let next = write(&opened.log, opened.first_new, &[9000; 20]);
    assert_eq!(next, Lsn::new(1, 21));
}
