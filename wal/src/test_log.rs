//! What the tests of the log share: small logs in memory, records that say what they are, and copies
//! of a storage that a test can damage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::log::{Log, LogOptions, Opened, Record};
use crate::lsn::Lsn;
use crate::segment::DIRECTORY;
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, Storage};

/// Segments of 64 KiB, and no threads expected.
pub(crate) fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        batch_bytes_max: 32 << 10,
        queue_bytes_max: 1 << 20,
        queue_records_max: 256,
        threads: false,
        ..LogOptions::default()
    }
}

/// A record of `bytes` that only this LSN has.
pub(crate) fn record_of(lsn: Lsn, bytes: usize) -> Record {
    let mut record: Vec<u8> = Vec::with_capacity(bytes);
    let mut state = lsn.bits().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while record.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        record.extend_from_slice(&state.to_le_bytes());
    }
    record.truncate(bytes);
    Record::from(record)
}

pub(crate) type Found = Vec<(Lsn, Vec<u8>)>;

pub(crate) fn open(storage: &Arc<MemoryStorage>) -> (Opened, Found) {
    open_with(storage, small())
}

pub(crate) fn open_with(storage: &Arc<MemoryStorage>, options: LogOptions) -> (Opened, Found) {
    let mut found = Vec::new();
    let opened = Log::open(storage.clone(), options, &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        Ok(())
    });
    (opened.unwrap(), found)
}

/// The first `records` of epoch 0, each as it was made.
pub(crate) fn check_prefix(found: &Found, records: u64) {
    assert_eq!(found.len() as u64, records);
    for (index, (lsn, bytes)) in found.iter().enumerate() {
        assert_eq!(*lsn, Lsn::new(0, index as u64 + 1));
        assert_eq!(bytes, record_of(*lsn, bytes.len()).bytes(), "{lsn}");
    }
}

/// The log's files and their bytes.
pub(crate) fn files(storage: &dyn Storage) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(DIRECTORY);
    let entries = storage.list(directory).unwrap();
    let read = |name: &String| {
        let path = directory.join(name);
        let file = storage.open(&path, Access::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
        (path, bytes)
    };
    entries.iter().map(|entry| read(&entry.name)).collect()
}

/// A storage with these files.
pub(crate) fn of_files(files: &[(PathBuf, Vec<u8>)]) -> MemoryStorage {
    let storage = MemoryStorage::new();
    storage.create_dir(Path::new(DIRECTORY)).unwrap();
    for (path, bytes) in files {
        storage.create_new(path).unwrap().write_at(0, bytes).unwrap();
    }
    storage
}

/// The same files in a storage of their own.
pub(crate) fn copy(storage: &dyn Storage) -> MemoryStorage {
    of_files(&files(storage))
}
