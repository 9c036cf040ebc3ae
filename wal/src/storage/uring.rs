//! The storage on io_uring: synced writes in flight, everything else by plain system calls.
//!
//! Syncs in flight pay (4.3k durable writes a second one at a time, 46k with sixteen at once), and a
//! thread that waits for its write should be woken by the kernel alone. So each write in flight has
//! a small ring of its own, a *lane*, out of a pool that all files of the storage share:
//!
//! 1. A lane is owned by one write from submission until its completion was seen. No lock is held
//!    meanwhile, no thread reaps for another, and the kernel wakes the waiter directly.
//! 2. The buffer and the descriptor of a write belong to its lane until the completion: dropping
//!    the [`InFlight`] gives the lane, loaded, back to the pool; dropping the storage waits for
//!    those.
//! 3. A submission that fails is judged by the ring, not by the error: only an entry that the
//!    kernel did not take is written in another way, and its ring is never entered again.
//! 4. A write for which there is no lane (too many in flight, no descriptors, or a filter that
//!    closed the ring since) is done by its waiter with system calls. The promise is the same.
//!
//! ```text
//!            take                  start                    finish
//!   pool ──────────► Lane, idle ──────────► Lane, loaded ──────────► Lane, idle ──► pool
//!     ▲                  │ refused: the ring is closed  │ dropped
//!     │                  ▼                              ▼
//!     └── emptied ◄── (system calls)                 pool, abandoned
//! ```
//!
//! `IORING_SETUP_DEFER_TASKRUN` would save interrupts, but asks that one thread submits and reaps
//! for ever, while a leader may hand its write to another thread to wait for. Writes at
//! [`Reach::Kernel`] are copies into the page cache and gain nothing from a ring.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::syscall::{Descriptors, SyscallStorage, postpone};
use super::{
    Access, DirectoryEntry, FileMap, Finished, InFlight, IoBuffer, Reach, Storage, StorageFile,
    StorageLock, check_submission,
};

mod lane;

#[cfg(test)]
mod tests;

use lane::{Lane, Load};

pub(super) use lane::{Denied, probe};

/// How many writes may be in flight through rings; more go by system calls. Sixteen already reach
/// what the disk gives.
const LANES_MAX: usize = 64;

/// A longer write is left to system calls, which the kernel cuts where it likes (it takes 2 GiB at
/// most).
const WRITE_BYTES_MAX: usize = 1 << 30;

/// A directory of the file system as a storage, with log writes on io_uring.
pub struct UringStorage {
    files: SyscallStorage,
    lanes: Arc<Lanes>,
}

impl UringStorage {
    /// Puts rings under a storage, with one to begin with.
    pub(super) fn new(files: SyscallStorage, first: Lane) -> UringStorage {
        let pool = Pool { idle: vec![first], abandoned: Vec::new(), alive: 1 };
        UringStorage { files, lanes: Arc::new(Lanes { pool: Mutex::new(pool) }) }
    }

    fn file(&self, descriptors: Arc<Descriptors>) -> Arc<dyn StorageFile> {
        Arc::new(UringFile { descriptors, lanes: self.lanes.clone() })
    }
}

impl Storage for UringStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.files.open_file(path, access)?))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.file(self.files.create_file(path)?))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.files.create_dir(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.files.list(directory)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.files.sync_dir(directory)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.files.try_lock(path)
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.files.try_lock_shared(path)
    }

    fn root(&self) -> Option<BorrowedFd<'_>> {
        self.files.root()
    }

    fn link(&self, path: &Path, other: &dyn Storage, to: &Path) -> io::Result<()> {
        self.files.link(path, other, to)
    }

    fn display(&self, path: &Path) -> String {
        self.files.display(path)
    }
}

impl fmt::Debug for UringStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringStorage({:?}, {:?})", self.files, self.lanes)
    }
}

/// The rings of a storage.
struct Lanes {
    pool: Mutex<Pool>,
}

struct Pool {
    /// The last one used is used next: its memory is warm.
    idle: Vec<Lane>,
    /// Loaded, and nobody waits for them.
    abandoned: Vec<Lane>,
    /// All lanes, those out with a write included.
    alive: usize,
}

impl Lanes {
    /// A lane for one write, if one is to be had without waiting.
    fn take(&self) -> Option<Lane> {
        {
            let mut pool = self.pool.lock();
            let Pool { idle, abandoned, alive } = &mut *pool;
            idle.extend(abandoned.extract_if(.., Lane::unload_if_done));
            if let Some(lane) = idle.pop() {
                return Some(lane);
            }
            if *alive == LANES_MAX {
                return None;
            }
            *alive += 1;
        }
        // Some ten microseconds, outside the lock.
        match Lane::new() {
            Ok(lane) => Some(lane),
            Err(_) => {
                self.forget_one();
                None
            }
        }
    }

    fn give_back(&self, lane: Lane) {
        self.pool.lock().idle.push(lane);
    }

    fn abandon(&self, lane: Lane) {
        self.pool.lock().abandoned.push(lane);
    }

    fn forget_one(&self) {
        self.pool.lock().alive -= 1;
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pool = self.pool.lock();
        write!(f, "{} rings, {} idle", pool.alive, pool.idle.len())
    }
}

struct UringFile {
    descriptors: Arc<Descriptors>,
    lanes: Arc<Lanes>,
}

impl StorageFile for UringFile {
    fn len(&self) -> io::Result<u64> {
        self.descriptors.len()
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.descriptors.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.descriptors.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.descriptors.sync()
    }

    fn map(&self) -> io::Result<FileMap> {
        self.descriptors.map()
    }

    fn submit(&self, offset: u64, buffer: IoBuffer, reach: Reach) -> Box<dyn InFlight> {
        if let Err(error) =
            self.descriptors.check_writable().and_then(|()| check_submission(offset, &buffer))
        {
            return Box::new(Finished { result: Err(error), buffer });
        }
        let descriptors = self.descriptors.clone();
        let fits = buffer.len() <= WRITE_BYTES_MAX;
        let lane = match reach {
            Reach::Stable if fits && descriptors.syncs_in_write() => self.lanes.take(),
            _ => None,
        };
        let Some(lane) = lane else {
            return postpone(descriptors, offset, buffer, reach);
        };
        match lane.start(Load { descriptors, offset, buffer }) {
            Ok(lane) => Box::new(Flight { lane: Some(lane), lanes: self.lanes.clone() }),
            Err(Load { descriptors, offset, buffer }) => {
                self.lanes.forget_one();
                postpone(descriptors, offset, buffer, reach)
            }
        }
    }
}

impl fmt::Debug for UringFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringFile({:?})", self.descriptors)
    }
}

/// A synced write in flight.
struct Flight {
    /// Taken by `wait`, or by the drop.
    lane: Option<Lane>,
    lanes: Arc<Lanes>,
}

impl InFlight for Flight {
    fn wait(mut self: Box<Self>) -> (io::Result<()>, IoBuffer) {
        let mut lane =
            self.lane.take().expect("a lane is taken once: by the waiter or by the drop");
        let finished = lane.finish();
        match finished {
            Some((result, load)) => {
                self.lanes.give_back(lane);
                let written = settle(result, &load);
                (written, load.buffer)
            }
            // In a forked child: the write, its buffer and its ring are the parent's.
            None => {
                (Err(io::Error::other("the write belongs to the parent process")), IoBuffer::new())
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.take() {
            self.lanes.abandon(lane);
        }
    }
}

/// What a completion means, and what is left to do.
fn settle(result: Result<usize, Errno>, load: &Load) -> io::Result<()> {
    let Load { descriptors, offset, buffer } = load;
    let done = match result {
        Ok(bytes) => bytes,
        // Refused before anything was written: for its shape or its flags, for want of something,
        // or because the thread that submitted it has gone. System calls do it, or say why not.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::AGAIN | Errno::INTR | Errno::CANCELED) => 0,
        Err(error) => return Err(error.into()),
    };
    match &buffer[done.min(buffer.len())..] {
        [] => Ok(()),
        rest => descriptors.write_submitted(offset + done as u64, rest, Reach::Stable),
    }
}
