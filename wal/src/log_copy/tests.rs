//! A copy has the records that it was given, with their LSNs, and goes on as a log of its own.

use std::sync::Arc;

use super::*;
use crate::error::LogOpenError;
use crate::log::{Durability, Log, LogOptions};
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, DirectoryEntry};
use crate::test_log::{Found, open_with, record_of, small};

const ID: DatabaseId = DatabaseId(7);

/// Records of three epochs: of 1, 2, … bytes, and some that are larger than a batch.
fn history() -> Found {
    let mut all = Found::new();
    for (epoch, records) in [(0, 40), (2, 1), (3, 90)] {
        for counter in 1..=records {
            let lsn = Lsn::new(epoch, counter);
            let bytes = if counter % 30 == 7 { 3 << 20 } else { counter as usize * 100 };
            all.push((lsn, record_of(lsn, bytes).bytes().to_vec()));
        }
    }
    all
}

fn copied(records: &[(Lsn, Vec<u8>)], begins: Lsn, floor: Lsn) -> Arc<MemoryStorage> {
    let storage = Arc::new(MemoryStorage::new());
    let mut copy = LogCopy::begin(&*storage, ID, begins, floor).unwrap();
    for (lsn, record) in records {
        copy.add(*lsn, record).unwrap();
    }
    let done = copy.finish().unwrap();
    assert_eq!(done.last, records.last().map_or(begins, |(lsn, _)| *lsn));
    storage
}

fn options(begins: Lsn) -> LogOptions {
    LogOptions { begins, database: Some(ID), ..small() }
}

fn read(storage: &MemoryStorage, begins: Lsn) -> Result<(Lsn, Lsn, Found), LogOpenError> {
    let mut found = Found::new();
    let replayed = Log::replay_only(storage, &options(begins), &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        Ok(())
    })?;
    assert_eq!(replayed.report.torn_tail, None);
    Ok((replayed.begins, replayed.last, found))
}

#[test]
fn a_copy_has_its_records_from_wherever_it_begins_and_goes_on_in_an_epoch_of_its_own() {
    let all = history();
    let places = [0, 1, 39, 40, 41, 42, 100, all.len()];
    for begin in places {
        for floor in places.into_iter().filter(|floor| *floor >= begin) {
            let at = |place: usize| place.checked_sub(1).map_or(Lsn::ZERO, |last| all[last].0);
            let storage = copied(&all[begin..], at(begin), at(floor));
            let (begins, last, found) = read(&storage, at(floor)).unwrap();
            let expected = if at(floor) == Lsn::ZERO { Lsn::ZERO } else { at(begin) };
            assert_eq!((begins, last), (expected, all[all.len() - 1].0));
            assert!(found == all[floor..], "from {begin}, read from {floor}");
            let (begins, _, found) = read(&storage, at(begin)).unwrap();
            assert!(begins == at(begin) && found == all[begin..]);

            let (opened, found) = open_with(&storage, options(at(floor)));
            assert!(found == all[floor..]);
            assert_eq!(opened.first_new, Lsn::new(4, 1));
            let credit = opened.log.reserve(3, None).unwrap();
            opened.log.append(opened.first_new, vec![1, 2, 3].into(), Durability::Sync, credit);
            opened.log.wait(opened.first_new, Durability::Sync).unwrap();
            drop(opened);
            let (_, last, found) = read(&storage, at(floor)).unwrap();
            assert_eq!((last, found.len()), (Lsn::new(4, 1), all.len() - floor + 1));
        }
    }
}

#[test]
fn a_copy_without_records_is_a_log() {
    let storage = copied(&[], Lsn::ZERO, Lsn::ZERO);
    assert_eq!(read(&storage, Lsn::ZERO).unwrap(), (Lsn::ZERO, Lsn::ZERO, vec![]));
    let storage = copied(&[], Lsn::new(3, 9), Lsn::new(3, 9));
    let (_, last, found) = read(&storage, Lsn::new(3, 9)).unwrap();
    assert_eq!((last, found.len()), (Lsn::new(3, 9), 0));
    assert_eq!(open_with(&storage, options(Lsn::new(3, 9))).0.first_new, Lsn::new(4, 1));
}

#[test]
fn a_record_that_does_not_follow_is_refused() {
    let storage = MemoryStorage::new();
    let mut copy = LogCopy::begin(&storage, ID, Lsn::new(1, 4), Lsn::ZERO).unwrap();
    for wrong in [Lsn::new(1, 4), Lsn::new(1, 6), Lsn::new(0, 9)] {
        assert_eq!(copy.add(wrong, b"").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    copy.add(Lsn::new(1, 5), b"").unwrap();
    assert_eq!(copy.finish().unwrap().last, Lsn::new(1, 5));
}

/// A copy is whole, so there is no torn tail: whatever is missing is damage, but for the last mark and a last
/// segment that is gone as a whole.
#[test]
fn what_is_missing_of_a_copy_is_damage() {
    let all: Found = history().into_iter().filter(|(_, record)| record.len() < 1 << 20).collect();
    let mut all = all;
    for (place, (lsn, _)) in all.iter_mut().enumerate() {
        *lsn = Lsn::new(place as u32 / 51, place as u64 % 51 + 1);
    }
    let begins = all[19].0;
    let copy = || copied(&all[20..], begins, all[30].0);
    let directory = Path::new(DIRECTORY);
    let entries: Vec<DirectoryEntry> = copy().list(directory).unwrap();
    assert!(entries.len() >= 2, "{entries:?}");
    for (index, entry) in entries.iter().enumerate() {
        let path = directory.join(&entry.name);
        let is_last = index + 1 == entries.len();
        let end = if is_last { entry.bytes - BLOCK } else { entry.bytes };
        for offset in (0..end).step_by(700) {
            let storage = copy();
            let file = storage.open(&path, Access::ReadWrite).unwrap();
            let mut byte = [0];
            file.read_at(offset, &mut byte).unwrap();
            file.write_at(offset, &[byte[0] ^ 0x10]).unwrap();
            let told = read(&storage, begins);
            assert!(told.is_err(), "{} at {offset}", entry.name);
        }
        if is_last {
            continue;
        }
        let storage = copy();
        storage.remove(&path).unwrap();
        assert!(read(&storage, begins).is_err(), "without {}", entry.name);
    }
}
