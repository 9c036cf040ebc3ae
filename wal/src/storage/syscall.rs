//! The storage on plain system calls: a directory of the file system, without io_uring.
//!
//! 1. A file open for writing has two descriptors: one through the page cache, one that passes it by
//!    (`O_DIRECT`), both of the same file. Writes at [`Reach::Stable`] go to the second with
//!    `RWF_DSYNC`, so that the call returns when the bytes, and nothing else, are on stable storage.
//! 2. What the file system cannot do is found out once, at open, by trying it on a nameless file
//!    ([`StablePath`]). Every substitute promises at least as much.
//! 3. Every call is repeated on `EINTR`, and goes on after a short write. Nothing else is tried
//!    again: a failed write or sync is told to the caller (seam invariant 4). `EINVAL` from a direct
//!    write is no failed write but a refusal before it: the buffered descriptor takes over.
//! 4. [`SyscallStorage::open`] and `create_dir` return once the directories that they made, and
//!    the one that was there already, are durable names in their parents.
//! 5. Everything is addressed relative to the root's descriptor: renaming or moving the root while
//!    it is open changes nothing.
//!
//! A submitted write is carried out by whoever waits for it, in `wait`: so writes of several threads
//! are in flight together, without threads of our own.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{
    Access, DirectoryEntry, FileMap, Finished, InFlight, IoBuffer, Reach, Storage, StorageFile,
    StorageLock, check_submission, normal,
};
use crate::environment::fork;

mod descriptors;
mod directories;

use descriptors::find_stable_path;
use directories::{
    create_directories, is_directory, length, lies_within, open_at, open_directory,
    refuse_other_than_files, still_named, sync_directory,
};

pub(super) use descriptors::Descriptors;

/// Owner writes, group reads, less what the umask takes away: data is not for everybody.
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);

/// How a write at [`Reach::Stable`] is done on this file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StablePath {
    /// Past the page cache (`O_DIRECT`); otherwise through it.
    pub direct: bool,
    /// The write itself waits for the disk (`RWF_DSYNC`); otherwise an `fdatasync` follows it.
    pub synced_write: bool,
}

impl fmt::Display for StablePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.direct, self.synced_write) {
            (true, true) => "direct synced writes (O_DIRECT, RWF_DSYNC)",
            (true, false) => "direct writes, each followed by fdatasync (no RWF_DSYNC here)",
            (false, true) => "buffered synced writes (RWF_DSYNC; no O_DIRECT here)",
            (false, false) => "buffered writes, each followed by fdatasync",
        })
    }
}

/// A directory of the file system as a storage.
pub struct SyscallStorage {
    /// As the user named it, for messages.
    shown: PathBuf,
    /// The root; every path is resolved from here.
    root: OwnedFd,
    stable_path: StablePath,
}

impl SyscallStorage {
    /// Opens a directory, made durably with its missing parents if it is not there, and finds out
    /// how it takes synced writes. Fails with what the system says; nothing in it is changed.
    pub fn open(root: &Path) -> io::Result<SyscallStorage> {
        let shown = root.to_owned();
        let path = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        create_directories(CWD, path)?;
        let root = open_directory(CWD, path)?;
        let stable_path = find_stable_path(root.as_fd());
        Ok(SyscallStorage { shown, root, stable_path })
    }

    /// Opens a directory that is there.
    pub fn open_existing(root: &Path) -> io::Result<SyscallStorage> {
        let shown = root.to_owned();
        let path = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        let root = open_directory(CWD, path)?;
        let stable_path = find_stable_path(root.as_fd());
        Ok(SyscallStorage { shown, root, stable_path })
    }

    /// Whether a path, which need not be there yet, is another storage's root or lies below it. Never so
    /// where that one is no directory. `InvalidInput` where it goes back (`..`) from what is not there: where
    /// that leads is only known once it was made.
    pub fn is_within(path: &Path, other: &dyn Storage) -> io::Result<bool> {
        let Some(outer) = other.root() else { return Ok(false) };
        for existing in path.ancestors() {
            let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
            match open_directory(CWD, existing) {
                Ok(inner) => return lies_within(inner.as_fd(), outer),
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && existing.ends_with("..") =>
                {
                    let what = format!("'..' behind what is not there: {}", existing.display());
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        lies_within(CWD, outer)
    }

    /// How this file system takes writes at [`Reach::Stable`].
    pub fn stable_path(&self) -> StablePath {
        self.stable_path
    }

    /// The descriptors behind [`Storage::open`].
    pub(super) fn open_file(&self, path: &Path, access: Access) -> io::Result<Arc<Descriptors>> {
        let path = below_root(path)?;
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // Before it is opened: that of a pipe would wait for whoever writes into it.
        refuse_other_than_files(&rustix::fs::statat(&self.root, &path, AtFlags::empty())?)?;
        let buffered = open_at(self.root.as_fd(), &path, flags)?;
        let root = self.root.as_fd();
        Descriptors::new(root, &path, buffered, access, self.stable_path).map(Arc::new)
    }

    /// The descriptors behind [`Storage::create_new`].
    pub(super) fn create_file(&self, path: &Path) -> io::Result<Arc<Descriptors>> {
        let path = below_root(path)?;
        let root = self.root.as_fd();
        let buffered = open_at(root, &path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        Descriptors::new(root, &path, buffered, Access::ReadWrite, self.stable_path).map(Arc::new)
    }

    fn lock_file(&self, path: &Path) -> io::Result<FileLock> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        self.lock(path, flags, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(&self, path: &Path, flags: OFlags, operation: FlockOperation) -> io::Result<FileLock> {
        let path = below_root(path)?;
        loop {
            let file = open_at(self.root.as_fd(), &path, flags)?;
            retry_on_intr(|| rustix::fs::flock(&file, operation))?;
            // Whoever removed or replaced the file between the open and the lock left us with a
            // lock that nobody else will look at.
            if still_named(self.root.as_fd(), &path, &file)? {
                return Ok(FileLock { file, generation: fork::generation() });
            }
        }
    }
}

impl Storage for SyscallStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SyscallFile { descriptors: self.open_file(path, access)? }))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(SyscallFile { descriptors: self.create_file(path)? }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        create_directories(self.root.as_fd(), &below_root(path)?)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let directory = open_directory(self.root.as_fd(), &below_root(directory)?)?;
        let mut entries = Vec::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match rustix::fs::statat(&directory, name, AtFlags::empty()) {
                Ok(stat) => stat,
                // Removed since it was listed, or a link to nowhere.
                Err(Errno::NOENT | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            };
            let is_directory = is_directory(&stat);
            let bytes = if is_directory { 0 } else { length(&stat) };
            let name = name.to_string_lossy().into_owned();
            entries.push(DirectoryEntry { name, bytes, is_directory });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, &below_root(path)?, AtFlags::empty())?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (below_root(from)?, below_root(to)?);
        // rename(2) would move a directory; the seam renames files.
        if is_directory(&rustix::fs::statat(&self.root, &from, AtFlags::SYMLINK_NOFOLLOW)?) {
            return Err(Errno::ISDIR.into());
        }
        Ok(rustix::fs::renameat(&self.root, &from, &self.root, &to)?)
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        sync_directory(self.root.as_fd(), &below_root(directory)?)
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        Ok(Box::new(self.lock_file(path)?))
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let operation = FlockOperation::NonBlockingLockShared;
        Ok(Box::new(self.lock(path, OFlags::RDONLY, operation)?))
    }

    fn root(&self) -> Option<BorrowedFd<'_>> {
        Some(self.root.as_fd())
    }

    fn link(&self, path: &Path, other: &dyn Storage, to: &Path) -> io::Result<()> {
        let target = other.root().ok_or(io::ErrorKind::Unsupported)?;
        let (path, to) = (below_root(path)?, below_root(to)?);
        Ok(rustix::fs::linkat(&self.root, &path, target, &to, AtFlags::empty())?)
    }

    fn display(&self, path: &Path) -> String {
        self.shown.join(path).display().to_string()
    }
}

impl fmt::Debug for SyscallStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyscallStorage({}, {})", self.shown.display(), self.stable_path)
    }
}

/// A file whose submitted writes are carried out by whoever waits for them.
struct SyscallFile {
    descriptors: Arc<Descriptors>,
}

impl StorageFile for SyscallFile {
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
        match self.descriptors.check_writable().and_then(|()| check_submission(offset, &buffer)) {
            Ok(()) => postpone(self.descriptors.clone(), offset, buffer, reach),
            Err(error) => Box::new(Finished { result: Err(error), buffer }),
        }
    }
}

impl fmt::Debug for SyscallFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyscallFile({:?})", self.descriptors)
    }
}

/// Leaves a checked write to its waiter.
pub(super) fn postpone(
    descriptors: Arc<Descriptors>,
    offset: u64,
    buffer: IoBuffer,
    reach: Reach,
) -> Box<dyn InFlight> {
    Box::new(Postponed(Some(Write { descriptors, offset, buffer, reach })))
}

struct Write {
    descriptors: Arc<Descriptors>,
    offset: u64,
    buffer: IoBuffer,
    reach: Reach,
}

/// A write that its waiter carries out. Dropped, it is carried out too: it was submitted.
struct Postponed(Option<Write>);

impl Postponed {
    fn run(&mut self) -> Option<(io::Result<()>, IoBuffer)> {
        let Write { descriptors, offset, buffer, reach } = self.0.take()?;
        let result = descriptors.write_submitted(offset, &buffer, reach);
        Some((result, buffer))
    }
}

impl InFlight for Postponed {
    fn wait(mut self: Box<Self>) -> (io::Result<()>, IoBuffer) {
        self.run().expect("a write is taken once: by its waiter or by its drop")
    }
}

impl Drop for Postponed {
    fn drop(&mut self) {
        // Nobody waits for it, so nobody is told.
        let _ = self.run();
    }
}

/// A `flock(2)`.
struct FileLock {
    file: OwnedFd,
    /// Of the process that took it.
    generation: u64,
}

impl StorageLock for FileLock {}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing is not enough where a child was forked meanwhile: it holds the same lock. But a
        // child that drops its copy must not unlock the parent's.
        if fork::generation() == self.generation {
            // Nothing can be done about a failure; the descriptor is closed next.
            let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
        }
    }
}

impl fmt::Debug for FileLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileLock({:?})", self.file)
    }
}

/// The path from the root's descriptor; `.` for the root itself.
fn below_root(path: &Path) -> io::Result<PathBuf> {
    let plain = normal(path)?;
    Ok(if plain.as_os_str().is_empty() { PathBuf::from(".") } else { plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &tempfile::TempDir) -> SyscallStorage {
        SyscallStorage::open(&directory.path().join("deep/root")).unwrap()
    }

    #[test]
    fn a_missing_root_is_made_with_its_parents() {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(&directory);
        storage.create_new(Path::new("f")).unwrap();
        assert!(directory.path().join("deep/root/f").is_file());
        assert!(storage.display(Path::new("f")).ends_with("deep/root/f"));
        // A second open finds it, and leaves nothing behind from looking around.
        assert_eq!(open(&directory).list(Path::new("")).unwrap().len(), 1);
    }

    #[test]
    fn a_path_below_the_root_is_told_before_it_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(&directory);
        let link = directory.path().join("link");
        rustix::fs::symlink(directory.path().join("deep"), &link).unwrap();
        let within = |path: &Path| SyscallStorage::is_within(path, &storage).unwrap();
        let root = directory.path().join("deep/root");
        assert!(within(&root) && within(&root.join("a/b")) && within(&link.join("root/a")));
        assert!(!within(directory.path()) && !within(&link) && !within(&link.join("rooted")));
        assert!(!within(Path::new("nowhere")) && !within(Path::new("")));
        assert!(within(&link.join("root/../root/a")));
        // Made as it is named, this would lie below the root.
        let back = directory.path().join("nowhere/../deep/root/a");
        let error = SyscallStorage::is_within(&back, &storage).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn what_is_no_file_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(&directory);
        storage.create_dir(Path::new("directory")).unwrap();
        let pipe = directory.path().join("deep/root/pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from(0o600), 0).unwrap();
        rustix::fs::symlink("/dev/zero", directory.path().join("deep/root/device")).unwrap();
        for (name, kind) in [
            ("directory", io::ErrorKind::IsADirectory),
            ("pipe", io::ErrorKind::InvalidInput),
            ("device", io::ErrorKind::InvalidInput),
            ("nothing", io::ErrorKind::NotFound),
        ] {
            for access in [Access::Read, Access::ReadWrite] {
                let refused = storage.open(Path::new(name), access).unwrap_err();
                assert_eq!(refused.kind(), kind, "{name}");
            }
        }
    }

    #[test]
    fn a_root_that_is_a_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = SyscallStorage::open(file.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        let error = SyscallStorage::open(&file.path().join("below")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn the_root_may_be_moved_while_it_is_open() {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(&directory);
        rustix::fs::rename(directory.path().join("deep"), directory.path().join("moved")).unwrap();
        storage.create_new(Path::new("f")).unwrap().write_at(0, b"x").unwrap();
        assert!(directory.path().join("moved/root/f").is_file());
    }

    #[test]
    fn a_forked_child_neither_prolongs_a_lock_nor_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, theirs) = (open(&directory), open(&directory));
        let lock = Path::new("LOCK");
        let held = ours.lock_file(lock).unwrap();
        // A forked child inherits the descriptor and a copy of the value.
        let inherited = rustix::io::dup(&held.file).unwrap();
        let copy = FileLock { file: inherited, generation: held.generation + 1 };
        let lingering = rustix::io::dup(&held.file).unwrap();
        drop(copy);
        assert_eq!(theirs.try_lock(lock).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        theirs.try_lock(lock).unwrap();
        drop(lingering);
    }

    #[test]
    fn a_removed_lock_file_locks_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let storage = open(&directory);
        let lock = Path::new("LOCK");
        let held = storage.try_lock(lock).unwrap();
        storage.remove(lock).unwrap();
        let again = storage.try_lock(lock).unwrap();
        assert_eq!(storage.try_lock(lock).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop((held, again));
    }
}
