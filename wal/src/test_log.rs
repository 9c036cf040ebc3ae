//! What the tests of the log share: small logs in memory, records that say what they are, and copies
//! of a storage that a test can damage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::log::{Log, LogOptions, Opened, Record};
use crate::lsn::Lsn;
use crate::segment::DIRECTORY;
use crate::storage::memory::MemoryStorage;
use crate::storage::{
    Access, DirectoryEntry, InFlight, IoBuffer, Reach, Storage, StorageFile, StorageLock,
};

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

/// A memory whose submitted writes take as long as a test likes.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlowStorage {
    memory: MemoryStorage,
    pace: Arc<Pace>,
}

/// When submitted writes are done.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<PaceState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct PaceState {
    /// Times that each write lets other threads go first.
    yields: u32,
    /// Writes wait while it is shut.
    shut: bool,
    /// How many wait.
    waiting: usize,
}

impl Pace {
    fn pass(&self) {
        let mut state = self.state.lock();
        let yields = state.yields;
        state.waiting += 1;
        self.changed.notify_all();
        while state.shut {
            self.changed.wait(&mut state);
        }
        state.waiting -= 1;
        drop(state);
        (0..yields).for_each(|_| std::thread::yield_now());
    }
}

impl SlowStorage {
    pub(crate) fn with_yields(yields: u32) -> SlowStorage {
        let storage = SlowStorage::default();
        storage.pace.state.lock().yields = yields;
        storage
    }

    /// Lets no write come to its end until [`SlowStorage::resume`].
    pub(crate) fn pause(&self) {
        self.pace.state.lock().shut = true;
    }

    pub(crate) fn resume(&self) {
        self.pace.state.lock().shut = false;
        self.pace.changed.notify_all();
    }

    /// Waits until so many writes are being waited for.
    pub(crate) fn await_writes(&self, count: usize) {
        let mut state = self.pace.state.lock();
        while state.waiting < count {
            self.pace.changed.wait(&mut state);
        }
    }
}

impl Storage for SlowStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.memory.open(path, access)?;
        Ok(Arc::new(SlowFile { file, pace: self.pace.clone() }))
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let file = self.memory.create_new(path)?;
        Ok(Arc::new(SlowFile { file, pace: self.pace.clone() }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.memory.create_dir(path)
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.memory.list(directory)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.memory.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.memory.rename(from, to)
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.memory.sync_dir(directory)
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.memory.try_lock(path)
    }
    fn display(&self, path: &Path) -> String {
        self.memory.display(path)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn StorageFile>,
    pace: Arc<Pace>,
}

impl StorageFile for SlowFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, into)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }
    fn sync(&self) -> io::Result<()> {
        self.pace.pass();
        self.file.sync()
    }
    fn submit(&self, offset: u64, buffer: IoBuffer, reach: Reach) -> Box<dyn InFlight> {
        Box::new(SlowWrite {
            write: self.file.submit(offset, buffer, reach),
            pace: self.pace.clone(),
        })
    }
}

struct SlowWrite {
    write: Box<dyn InFlight>,
    pace: Arc<Pace>,
}

impl InFlight for SlowWrite {
    fn wait(self: Box<Self>) -> (io::Result<()>, IoBuffer) {
        self.pace.pass();
        self.write.wait()
    }
}
