//! Directories by descriptor: opening, making and syncing them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use super::{DIRECTORY_MODE, FILE_MODE};

pub(super) fn open_at(base: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    retry_on_intr(|| rustix::fs::openat(base, path, flags | OFlags::CLOEXEC, FILE_MODE))
}

pub(super) fn open_directory(base: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(open_at(base, path, OFlags::RDONLY | OFlags::DIRECTORY)?)
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(base: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let directory = open_directory(base, path)?;
    match retry_on_intr(|| rustix::fs::fsync(&directory)) {
        // The file system says that its directories are not synced by hand (some over a network):
        // there is nothing more to ask for.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory and its missing parents, each a durable name before the next is made.
pub(super) fn create_directories(base: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut existing = path;
    loop {
        let looked_at = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
        match retry_on_intr(|| rustix::fs::statat(base, looked_at, AtFlags::empty())) {
            Ok(stat) if is_directory(&stat) => {
                // Whoever made it may have been killed before its name was durable. Its parent may
                // be closed to us; then it was not we who made it.
                let _ = sync_directory(base, &looked_at.join(".."));
                break;
            }
            Ok(_) => return Err(Errno::NOTDIR.into()),
            Err(Errno::NOENT) => {
                missing.push(existing);
                existing = existing.parent().ok_or(Errno::NOENT)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for directory in missing.into_iter().rev() {
        match rustix::fs::mkdirat(base, directory, DIRECTORY_MODE) {
            // Somebody else was faster.
            Ok(()) | Err(Errno::EXIST) => sync_directory(base, &directory.join(".."))?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Directories, pipes, devices and sockets are not read as files.
pub(super) fn refuse_other_than_files(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR.into()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

pub(super) fn same_file(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The length that a file's status gives, in bytes.
pub(super) fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Whether a directory is another one, or lies somewhere below it.
pub(super) fn lies_within(inner: BorrowedFd<'_>, outer: BorrowedFd<'_>) -> io::Result<bool> {
    let outer = rustix::fs::fstat(outer)?;
    let mut directory = open_directory(inner, Path::new("."))?;
    loop {
        let stat = rustix::fs::fstat(&directory)?;
        if same_file(&stat, &outer) {
            return Ok(true);
        }
        let parent = open_directory(directory.as_fd(), Path::new(".."))?;
        if same_file(&rustix::fs::fstat(&parent)?, &stat) {
            return Ok(false);
        }
        directory = parent;
    }
}

/// Whether what was opened is still what the path names.
pub(super) fn still_named(base: BorrowedFd<'_>, path: &Path, file: impl AsFd) -> io::Result<bool> {
    match rustix::fs::statat(base, path, AtFlags::empty()) {
        Ok(stat) => Ok(same_file(&stat, &rustix::fs::fstat(file)?)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
