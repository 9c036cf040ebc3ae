//! The storage seam: every file, directory and sync that isolith touches goes through these traits.
//!
//! Four implementations stand behind it: plain system calls, io_uring, memory, and a faulty disk
//! that can crash at any call. What the seam promises is what a POSIX file system promises, no more:
//!
//! 1. Bytes written with [`StorageFile::write_at`] or [`Reach::Kernel`] survive the process, not a
//!    power loss, until [`StorageFile::sync`] on that file succeeds after the write completed.
//! 2. A write at [`Reach::Stable`] that succeeded survives a power loss; it covers *itself only*,
//!    never an earlier unsynced write (a disk with FUA keeps no more than that).
//! 3. A created, renamed or removed name survives a power loss only after
//!    [`Storage::sync_dir`] on its directory succeeded.
//! 4. A failed write or sync says nothing about what reached the disk, and a later success says
//!    nothing about the failed one.
//!
//! Paths are relative to the storage's root, so that memory needs no real path: plain names joined
//! by `/`, neither absolute nor with `..` (`InvalidInput`). The empty path is the root itself.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

mod buffer;
mod map;

pub mod backend;
pub mod syscall;
pub mod uring;

mod sparse;

pub mod memory;

pub mod faulty;

pub use buffer::IoBuffer;
pub use map::FileMap;

/// The unit of direct I/O and of torn-write reasoning, in bytes: every offset and length given to
/// [`StorageFile::submit`] is a multiple of it.
pub const BLOCK_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads only; writes fail.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// How far a submitted write must have come before it counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Handed to the kernel: survives the process.
    Kernel,
    /// On stable storage: survives power loss (covers this write only, invariant 2).
    Stable,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// The name, without its directory.
    pub name: String,
    /// The file's length in bytes; 0 for a directory.
    pub bytes: u64,
    /// Whether the name is a directory.
    pub is_directory: bool,
}

/// A root directory and what can be done below it.
pub trait Storage: Send + Sync + Debug + 'static {
    /// Opens an existing file. `NotFound` if there is none.
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>>;
    /// Creates a file that must not exist yet (`AlreadyExists` otherwise), open for reading and
    /// writing. The name is durable only after [`Storage::sync_dir`].
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>>;
    /// Creates a directory and its missing parents; fine if it exists. Their names are durable when
    /// this returns.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory, sorted by name.
    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing the target atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, directory: &Path) -> io::Result<()>;
    /// Takes an exclusive lock on a (created if missing) file, held until the returned value is
    /// dropped. `WouldBlock` when another process or handle holds it.
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;
    /// Takes a lock that others may share, and that keeps away who wants it alone, on a file that is there
    /// (`NotFound` otherwise): nothing is written. `WouldBlock` when somebody holds it alone. Where a storage
    /// does not tell the two apart it is [`Storage::try_lock`].
    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.try_lock(path)
    }
    /// The descriptor of the root, where the storage is a directory of the file system: for [`link_or_copy`].
    fn root(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Gives a file another name in another storage, without copying it. `Unsupported` where the two do not
    /// lie in one file system. The name is durable after [`Storage::sync_dir`] on the other one.
    fn link(&self, path: &Path, other: &dyn Storage, to: &Path) -> io::Result<()> {
        let _ = (path, other, to);
        Err(io::ErrorKind::Unsupported.into())
    }
    /// A path for people: what a user would type to find `path` (for error messages).
    fn display(&self, path: &Path) -> String;
}

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Puts a file that does not change any more into another storage: by another name for the same bytes where
/// that is possible, else as a copy, synced. Returns the bytes that were copied. The name is durable after
/// [`Storage::sync_dir`].
pub fn link_or_copy(
    from: &dyn Storage,
    path: &Path,
    to: &dyn Storage,
    name: &Path,
) -> io::Result<u64> {
    match from.link(path, to, name) {
        Ok(()) => return Ok(0),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // Another file system, or one without links, or too many of them: copied instead. What is wrong
        // with the file is met again there.
        Err(_) => {}
    }
    let source = from.open(path, Access::Read)?;
    let length = source.len()?;
    copy(&*source, length, to, name)
}

/// Copies the first `length` bytes of a file to a new one, synced; blocks of zeros are left out.
pub fn copy(
    source: &dyn StorageFile,
    length: u64,
    to: &dyn Storage,
    name: &Path,
) -> io::Result<u64> {
    let target = to.create_new(name)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut offset = 0;
    while offset < length {
        let wanted = (length - offset).min(COPY_BYTES as u64) as usize;
        let read = source.read_at(offset, &mut buffer[..wanted])?;
        if read < wanted {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let last = offset + read as u64 == length;
        for (index, block) in buffer[..read].chunks(BLOCK_BYTES).enumerate() {
            let at = offset + (index * BLOCK_BYTES) as u64;
            let ends = last && at + block.len() as u64 == length;
            if ends || block.iter().any(|byte| *byte != 0) {
                target.write_at(at, block)?;
            }
        }
        offset += read as u64;
    }
    target.sync()?;
    Ok(length)
}

/// Held for as long as the lock is wanted.
pub trait StorageLock: Send + Sync + Debug {}

/// One open file. All methods take `&self` and may be called by many threads at once.
pub trait StorageFile: Send + Sync + Debug + 'static {
    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads until `into` is full or the file ends; returns the bytes read.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes`, buffered and unsynced; extends the file as needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// fdatasync: everything that completed before this call is on stable storage when it returns.
    fn sync(&self) -> io::Result<()>;
    /// The file's bytes in memory, as it is long now: for a file that will not be changed any more.
    fn map(&self) -> io::Result<FileMap> {
        let bytes = usize::try_from(self.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut copy = vec![0; bytes];
        let read = self.read_at(0, &mut copy)?;
        copy.truncate(read);
        Ok(FileMap::copied(copy.into()))
    }
    /// Starts a write of the whole buffer at a block-aligned offset, inside bytes that were written
    /// before (a prepared segment). Several may be in flight on one file. The buffer belongs to the
    /// kernel until [`InFlight::wait`] gives it back. A misaligned offset, or a length that is 0 or
    /// not a multiple of [`BLOCK_BYTES`], is `InvalidInput`; a write beyond the end extends the
    /// file, slowly. Without io_uring the write is carried out by whoever waits for it, on the
    /// waiter's thread: so let each writer wait for its own, soon.
    fn submit(&self, offset: u64, buffer: IoBuffer, reach: Reach) -> Box<dyn InFlight>;
}

/// A write under way. Dropping it without waiting must keep the buffer alive until the kernel is
/// done with it.
pub trait InFlight: Send {
    /// Blocks until all of the buffer is written, or an error says that it is not known how much of
    /// it is; gives the buffer back for reuse.
    fn wait(self: Box<Self>) -> (io::Result<()>, IoBuffer);
}

/// A write that was over before anybody waited for it.
struct Finished {
    result: io::Result<()>,
    buffer: IoBuffer,
}

impl InFlight for Finished {
    fn wait(self: Box<Self>) -> (io::Result<()>, IoBuffer) {
        (self.result, self.buffer)
    }
}

/// The rules of [`StorageFile::submit`] that need no look at the file.
fn check_submission(offset: u64, buffer: &IoBuffer) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    let bytes = buffer.len() as u64;
    if bytes == 0 || !bytes.is_multiple_of(block) || !offset.is_multiple_of(block) {
        return Err(invalid(format!(
            "a submitted write of {bytes} bytes at offset {offset} does not fill whole blocks"
        )));
    }
    check_range(offset, buffer.len())
}

/// Whether `offset..offset + bytes` can be addressed in a file at all.
fn check_range(offset: u64, bytes: usize) -> io::Result<()> {
    match offset.checked_add(bytes as u64) {
        Some(end) if i64::try_from(end).is_ok() => Ok(()),
        _ => Err(invalid(format!("a write of {bytes} bytes at offset {offset} has no end"))),
    }
}

/// A path as the seam understands it: relative, without `.`; `InvalidInput` when it leaves the root.
fn normal(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(invalid(format!(
                    "the path {} leaves the storage's root",
                    path.display()
                )));
            }
        }
    }
    Ok(plain)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// The same error that the kernel gives for a write through a descriptor opened for reading.
fn opened_for_reading() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
