//! A disk that keeps no more than it promised: the storage of crash tests.
//!
//! It lives in memory, numbers every call, and can be told to crash at one of them. After the crash
//! [`FaultyStorage::reboot`] gives a new disk that holds one of the states in which a power cut may
//! legally have left the old one; the crashed one can be rebooted again and again, each time into
//! another of them.
//!
//! ```
//! use std::path::Path;
//! use isolith_wal::faulty::{DiskKind, FaultyStorage, Survival};
//! use isolith_wal::{Access, Storage};
//!
//! let disk = FaultyStorage::new(DiskKind::Fua);
//! let file = disk.create_new(Path::new("f"))?;
//! file.write_at(0, b"synced")?;
//! file.sync()?;
//! disk.sync_dir(Path::new(""))?;
//! file.write_at(6, b", unsynced")?;
//! disk.crash_now();
//! assert!(file.sync().is_err());
//!
//! let length = |survival| {
//!     disk.reboot(survival).open(Path::new("f"), Access::Read).unwrap().len().unwrap()
//! };
//! assert_eq!(length(Survival::Nothing), 6);
//! assert_eq!(length(Survival::Everything), 16);
//! assert!((6..=16).contains(&length(Survival::Random(1))));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What the model says:
//!
//! 1. Each file has two images: `now`, what reads see, and `disk`, what surely survives. Between
//!    them lies a list of unsynced writes. After a crash each 512-byte sector holds its surely
//!    surviving bytes, or what it held after any one of the unsynced writes that touched it.
//! 2. A write that was submitted and not waited for, the call that crashed, and a write that failed
//!    may each have landed, in part or whole, or not.
//! 3. A completed write at [`Reach::Stable`] is on `disk`. On a [`DiskKind::Fua`] disk it is
//!    alone there; on a [`DiskKind::WriteThrough`] disk every write completed before it follows.
//! 4. `sync` brings the file's completed writes to `disk`, and says nothing of its name. A failed
//!    `sync` drops them from the list for good: reads still see them (until the cache drops its clean
//!    pages), the next `sync` succeeds, and no crash finds them again. That is what kernels do.
//! 5. A created, renamed or removed name is sure once its directory was synced. Before that each
//!    change may survive or not, except that a change brings along the earlier ones of its names.
//! 6. Everything is decided by the calls and the seed: the same run gives the same states.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    Access, DirectoryEntry, InFlight, IoBuffer, Reach, Storage, StorageFile, StorageLock,
    check_range, check_submission, normal, opened_for_reading,
};

mod disk;
mod names;
mod survival;
mod trace;

#[cfg(test)]
mod tests;

use disk::{Disk, FileId, WriteId};

pub use survival::Survival;
pub use trace::{Call, Operation, Outcome};

/// What a synced write of the disk brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    /// A write at [`Reach::Stable`] makes itself stable and nothing else (forced unit access).
    Fua,
    /// A write at [`Reach::Stable`] flushes the device: all writes completed before it, on every
    /// file, are stable with it.
    WriteThrough,
}

/// How a call fails that was told to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EROFS`.
    ReadOnly,
}

/// A disk in memory that can crash, forget and fail. Clones are the same disk.
#[derive(Clone)]
pub struct FaultyStorage {
    disk: Arc<Mutex<Disk>>,
}

impl FaultyStorage {
    /// An empty disk.
    pub fn new(kind: DiskKind) -> FaultyStorage {
        FaultyStorage::from_disk(Disk::new(kind))
    }

    fn from_disk(disk: Disk) -> FaultyStorage {
        FaultyStorage { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The same disk as the floors above take it.
    pub fn as_storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    // ---- crashing

    /// Crashes the disk at its `call`-th call, counted from 1 since it was new or rebooted: that
    /// call and all later ones fail. What the call was about to do may have happened or not.
    pub fn crash_at(&self, call: u64) {
        self.disk.lock().crash_at = Some(call);
    }

    /// Crashes the disk between two calls.
    pub fn crash_now(&self) {
        self.disk.lock().crashed = true;
    }

    /// Whether the disk has crashed.
    pub fn has_crashed(&self) -> bool {
        self.disk.lock().crashed
    }

    /// Whether an error is that of a call to a crashed disk (possibly wrapped by others).
    pub fn is_crash(error: &(dyn std::error::Error + 'static)) -> bool {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if inner.is_some_and(|inner| inner.is::<Crashed>()) || error.is::<Crashed>() {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// The disk after the power came back (or after the process was killed: see [`Survival`]), with
    /// call numbers from 1 and no faults planned. Crashes this one if it has not yet. Says the same
    /// at every call with the same `survival`.
    pub fn reboot(&self, survival: Survival) -> FaultyStorage {
        let mut disk = self.disk.lock();
        disk.crashed = true;
        FaultyStorage::from_disk(survival::reboot(&disk, survival))
    }

    // ---- faults

    /// Makes the `call`-th call fail once, if it is reached.
    pub fn fail_call(&self, call: u64, fault: Fault) {
        self.disk.lock().plan(trace::When::Call(call), fault);
    }

    /// Makes the next call of this kind fail, once, whose path contains `path_part`.
    pub fn fail_next(&self, operation: Operation, path_part: &str, fault: Fault) {
        self.disk.lock().plan(trace::When::Next(operation, path_part.to_owned()), fault);
    }

    /// Lets files grow by `bytes` (in whole blocks of 4 KiB) before writes fail with `ENOSPC`;
    /// `None` lifts the limit. Overwriting takes no space, removing a file gives its space back.
    pub fn set_space(&self, bytes: Option<u64>) {
        let mut disk = self.disk.lock();
        disk.capacity = bytes.map(|bytes| disk.used() + bytes);
    }

    /// Gives `bytes` of space back to a limited disk.
    pub fn add_space(&self, bytes: u64) {
        let mut disk = self.disk.lock();
        disk.capacity = disk.capacity.map(|capacity| capacity + bytes);
    }

    /// Flips the bits of `mask` in one byte of a file, on the medium and in every cache. Not a
    /// counted call.
    pub fn flip_bits(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let mut disk = self.disk.lock();
        let file = disk.names.file(&normal(path)?)?;
        disk.flip_bits(file, offset, mask)
    }

    /// Forgets what the page cache holds clean: from here on reads see the medium, and the completed
    /// writes that are still to be synced. It makes a difference after a failed `sync` only (model
    /// 4). Not a counted call.
    pub fn drop_clean_pages(&self) {
        self.disk.lock().drop_clean_pages();
    }

    /// Gives a file of this disk another name on it, as a link of [`Storage::link`] between two directories of
    /// one file system would: for storages that are parts of a disk. Counted as a creation.
    pub fn link_here(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        let mut disk = self.disk.lock();
        disk.call(Operation::Create, &to, |disk, fate| {
            let file = disk.names.file(&from)?;
            disk.names.create(&to, file, fate)
        })
    }

    // ---- looking

    /// How many calls there have been up to the crash, the crashing one included.
    pub fn call_count(&self) -> u64 {
        self.disk.lock().calls.len() as u64
    }

    /// The calls so far, for reports.
    pub fn calls(&self) -> Vec<Call> {
        self.disk.lock().calls.clone()
    }

    /// How many writes and changes of names a crash might undo now.
    pub fn unsynced_count(&self) -> usize {
        self.disk.lock().unsynced_count()
    }
}

impl Storage for FaultyStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let path = normal(path)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::Open, &path, |disk, fate| {
            fate.refuse()?;
            let file = disk.names.file(&path)?;
            Ok(self.handle(file, path.clone(), access))
        })
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let path = normal(path)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::Create, &path, |disk, fate| {
            let file = disk.create(&path, fate)?;
            Ok(self.handle(file, path.clone(), Access::ReadWrite))
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::CreateDir, &path, |disk, fate| disk.names.create_dir(&path, fate))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let directory = normal(directory)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::List, &directory, |disk, fate| {
            fate.refuse()?;
            disk.list(&directory)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::Remove, &path, |disk, fate| disk.names.remove(&path, fate))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        let shown = format!("{} -> {}", from.display(), to.display());
        let mut disk = self.disk.lock();
        disk.call(Operation::Rename, Path::new(&shown), |disk, fate| {
            disk.names.rename(&from, &to, fate)
        })
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let directory = normal(directory)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::SyncDir, &directory, |disk, fate| {
            disk.names.sync_dir(&directory, fate)
        })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let path = normal(path)?;
        let mut disk = self.disk.lock();
        disk.call(Operation::Lock, &path, |disk, fate| {
            let file = match disk.names.exists(&path) {
                true => {
                    fate.refuse()?;
                    disk.names.file(&path)?
                }
                false => disk.create(&path, fate)?,
            };
            match disk.locked.insert(file) {
                true => {
                    let lock: Box<dyn StorageLock> = Box::new(Lock { disk: self.clone(), file });
                    Ok(lock)
                }
                false => Err(io::ErrorKind::WouldBlock.into()),
            }
        })
    }

    fn display(&self, path: &Path) -> String {
        format!("faulty:{}", path.display())
    }
}

impl FaultyStorage {
    fn handle(&self, file: FileId, path: PathBuf, access: Access) -> Arc<dyn StorageFile> {
        Arc::new(File { disk: self.clone(), file, path, access })
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.lock();
        let state = if disk.crashed { "crashed" } else { "up" };
        write!(f, "FaultyStorage({:?}, {state} after {} calls)", disk.kind, disk.calls.len())
    }
}

struct Lock {
    disk: FaultyStorage,
    file: FileId,
}

impl StorageLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.disk.lock().locked.remove(&self.file);
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lock(of {:?})", self.disk)
    }
}

struct File {
    disk: FaultyStorage,
    file: FileId,
    /// As it was opened, for the list of calls.
    path: PathBuf,
    access: Access,
}

impl File {
    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(opened_for_reading()),
        }
    }
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        let mut disk = self.disk.disk.lock();
        disk.call(Operation::Length, &self.path, |disk, fate| {
            fate.refuse()?;
            Ok(disk.length(self.file))
        })
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk.disk.lock();
        disk.call_at(Operation::Read, &self.path, offset, into.len(), |disk, fate| {
            fate.refuse()?;
            Ok(disk.read(self.file, offset, into))
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        check_range(offset, bytes.len())?;
        let mut disk = self.disk.disk.lock();
        disk.call_at(Operation::Write, &self.path, offset, bytes.len(), |disk, fate| {
            let write = disk.begin_write(self.file, offset, bytes);
            disk.finish_write(self.file, write, Reach::Kernel, fate)
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk.disk.lock();
        disk.call(Operation::Sync, &self.path, |disk, fate| disk.sync(self.file, fate))
    }

    fn submit(&self, offset: u64, buffer: IoBuffer, reach: Reach) -> Box<dyn InFlight> {
        let mut disk = self.disk.disk.lock();
        let checked = self.check_writable().and_then(|()| check_submission(offset, &buffer));
        let operation = Operation::Submit(reach);
        let write = checked.and_then(|()| {
            disk.call_at(operation, &self.path, offset, buffer.len(), |disk, fate| {
                let write = disk.begin_write(self.file, offset, &buffer);
                fate.refuse().map(|()| write).inspect_err(|_| disk.abandon_write(self.file, write))
            })
        });
        let (disk, file, path) = (self.disk.clone(), self.file, self.path.clone());
        Box::new(Flight { disk, file, path, offset, write, reach, buffer })
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({}, {:?})", self.path.display(), self.access)
    }
}

/// Between submission and completion. Dropped, it stays in flight for ever: nobody knows whether it
/// landed (model 2).
struct Flight {
    disk: FaultyStorage,
    file: FileId,
    path: PathBuf,
    offset: u64,
    write: io::Result<WriteId>,
    reach: Reach,
    buffer: IoBuffer,
}

impl InFlight for Flight {
    fn wait(self: Box<Self>) -> (io::Result<()>, IoBuffer) {
        let Flight { disk, file, path, offset, write, reach, buffer } = *self;
        let result = write.and_then(|write| {
            let operation = Operation::Complete(reach);
            disk.disk.lock().call_at(operation, &path, offset, buffer.len(), |disk, fate| {
                disk.finish_write(file, write, reach, fate)
            })
        });
        (result, buffer)
    }
}

/// Every call's answer once the disk has crashed.
#[derive(Debug)]
struct Crashed;

impl fmt::Display for Crashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk has crashed")
    }
}

impl std::error::Error for Crashed {}
