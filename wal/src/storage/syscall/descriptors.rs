//! The two descriptors of an open file, and the ways a write becomes stable through them.

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use super::StablePath;
use super::directories::{length, open_at, same_file};
use crate::environment::random_seed;
use crate::storage::{
    Access, BLOCK_BYTES, FileMap, IoBuffer, Reach, check_range, opened_for_reading,
};

/// One open file (invariant 1 of the module above).
pub(in crate::storage) struct Descriptors {
    buffered: OwnedFd,
    /// Of the same file, with `O_DIRECT`.
    direct: Option<OwnedFd>,
    /// Set when a direct write was refused for its shape; never cleared.
    direct_refused: AtomicBool,
    /// Whether `RWF_DSYNC` is there.
    synced_write: bool,
    access: Access,
}

impl Descriptors {
    /// Adds what the access needs to an open descriptor of the file at `path`.
    pub(super) fn new(
        root: BorrowedFd<'_>,
        path: &Path,
        buffered: OwnedFd,
        access: Access,
        stable_path: StablePath,
    ) -> io::Result<Descriptors> {
        let direct = match access {
            Access::ReadWrite if stable_path.direct => open_direct(root, path, buffered.as_fd())?,
            _ => None,
        };
        Ok(Descriptors {
            buffered,
            direct,
            direct_refused: AtomicBool::new(false),
            synced_write: stable_path.synced_write,
            access,
        })
    }

    /// Where a write goes to come as far as `reach`, and the flags it takes along.
    pub(in crate::storage) fn route(&self, reach: Reach) -> Route<'_> {
        let flags = match reach {
            Reach::Stable if self.synced_write => ReadWriteFlags::DSYNC,
            _ => ReadWriteFlags::empty(),
        };
        // Relaxed: whoever sees a stale `false` is refused once more, and takes the other way.
        let refused = self.direct_refused.load(Ordering::Relaxed);
        let (descriptor, direct) = match &self.direct {
            Some(direct) if reach == Reach::Stable && !refused => (direct.as_fd(), true),
            _ => (self.buffered.as_fd(), false),
        };
        Route { descriptor, direct, flags, then_sync: reach == Reach::Stable && !self.synced_write }
    }

    /// Writes all of `bytes`, as far as `reach`.
    pub(in crate::storage) fn write_submitted(
        &self,
        offset: u64,
        bytes: &[u8],
        reach: Reach,
    ) -> io::Result<()> {
        let Route { descriptor, direct, flags, then_sync } = self.route(reach);
        match write_all(descriptor, offset, bytes, flags) {
            Err((Errno::INVAL, done)) if direct => {
                // Refused for its shape, not failed (invariant 3).
                // Relaxed: see `route`.
                self.direct_refused.store(true, Ordering::Relaxed);
                return self.write_submitted(offset + done as u64, &bytes[done..], reach);
            }
            other => other.map_err(|(error, _)| error)?,
        }
        if then_sync { self.sync() } else { Ok(()) }
    }

    /// Whether a write itself can wait for the disk, so that nothing has to follow it.
    pub(in crate::storage) fn syncs_in_write(&self) -> bool {
        self.synced_write
    }

    pub(in crate::storage) fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::Read => Err(opened_for_reading()),
        }
    }

    pub(in crate::storage) fn len(&self) -> io::Result<u64> {
        Ok(length(&rustix::fs::fstat(&self.buffered)?))
    }

    /// The file as it is long now (seam: [`StorageFile::map`](crate::StorageFile::map)).
    pub(in crate::storage) fn map(&self) -> io::Result<FileMap> {
        FileMap::mapped(&self.buffered, self.len()?)
    }

    pub(in crate::storage) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let at = offset.saturating_add(done as u64);
            if i64::try_from(at).is_err() {
                break; // past the end of every file
            }
            match retry_on_intr(|| rustix::io::pread(&self.buffered, &mut into[done..], at))? {
                0 => break,
                bytes => done += bytes,
            }
        }
        Ok(done)
    }

    pub(in crate::storage) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        check_range(offset, bytes.len())?;
        self.write_submitted(offset, bytes, Reach::Kernel)
    }

    pub(in crate::storage) fn sync(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.buffered))?)
    }
}

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {:?}", self.buffered, self.access)
    }
}

/// The way of one write.
pub(in crate::storage) struct Route<'a> {
    pub(in crate::storage) descriptor: BorrowedFd<'a>,
    /// Past the page cache: address, offset and length must be aligned.
    direct: bool,
    pub(in crate::storage) flags: ReadWriteFlags,
    /// An `fdatasync` has to follow.
    then_sync: bool,
}

/// The second descriptor; `None` where the file (reached through a link, on another file system)
/// cannot have one, or where its name means another file by now.
fn open_direct(
    root: BorrowedFd<'_>,
    path: &Path,
    buffered: BorrowedFd<'_>,
) -> io::Result<Option<OwnedFd>> {
    let direct = match open_at(root, path, OFlags::WRONLY | OFlags::DIRECT) {
        Ok(direct) => direct,
        Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let same = same_file(&rustix::fs::fstat(&direct)?, &rustix::fs::fstat(buffered)?);
    Ok(same.then_some(direct))
}

/// Writes to the last byte. On failure also says how many bytes went before.
fn write_all(
    descriptor: BorrowedFd<'_>,
    offset: u64,
    bytes: &[u8],
    flags: ReadWriteFlags,
) -> Result<(), (Errno, usize)> {
    let mut done = 0;
    while done < bytes.len() {
        let (rest, at) = (&bytes[done..], offset + done as u64);
        let written = retry_on_intr(|| match flags.is_empty() {
            true => rustix::io::pwrite(descriptor, rest, at),
            false => rustix::io::pwritev2(descriptor, &[IoSlice::new(rest)], at, flags),
        });
        match written {
            Ok(0) => return Err((Errno::IO, done)),
            Ok(bytes) => done += bytes,
            Err(error) => return Err((error, done)),
        }
    }
    Ok(())
}

/// Tries on a nameless file what the file system can do.
///
/// A directory that cannot be written to, or a full disk, shows nothing: then the usual is assumed,
/// and a refusal at the first real write is handled there.
pub(super) fn find_stable_path(root: BorrowedFd<'_>) -> StablePath {
    let block = IoBuffer::zeroed(BLOCK_BYTES);
    let tried = |flags| {
        open_probe(root, flags).map(|file| {
            let write = |flags| write_all(file.as_fd(), 0, &block, flags).map_err(|(e, _)| e);
            (write(ReadWriteFlags::DSYNC), write(ReadWriteFlags::empty()))
        })
    };
    for direct in [true, false] {
        let flags = if direct { OFlags::DIRECT } else { OFlags::empty() };
        return match tried(flags) {
            Err(Errno::INVAL) if direct => continue,
            Ok((_, Err(Errno::INVAL))) if direct => continue,
            // The plain write is taken, the synced one refused.
            Ok((Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS), Ok(()))) => {
                StablePath { direct, synced_write: false }
            }
            _ => StablePath { direct, synced_write: true },
        };
    }
    StablePath { direct: false, synced_write: true }
}

/// A file without a name, or one whose name is removed at once.
fn open_probe(root: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | flags;
    // O_TMPFILE holds the bit of O_DIRECTORY; together they are its whole value.
    match open_at(root, Path::new("."), OFlags::TMPFILE | flags) {
        // Not here, as far as the many ways of saying it can be told from a refusal of O_DIRECT.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT) => {}
        other => return other,
    }
    let name = format!(".isolith-probe-{:016x}", random_seed());
    let probe = open_at(root, Path::new(&name), OFlags::CREATE | OFlags::EXCL | flags);
    // A failed open for direct I/O may have made the name all the same.
    let _ = rustix::fs::unlinkat(root, &name, AtFlags::empty());
    probe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::syscall::SyscallStorage;

    #[test]
    fn the_way_found_at_open_is_one_that_works_here() {
        let directory = tempfile::tempdir().unwrap();
        let storage = SyscallStorage::open(directory.path()).unwrap();
        println!("{}", storage.stable_path());
        let file = storage.create_file(Path::new("f")).unwrap();
        let mut block = IoBuffer::zeroed(BLOCK_BYTES);
        block.fill(3);
        file.write_submitted(0, &block, Reach::Stable).unwrap();
        assert_eq!(file.route(Reach::Stable).direct, storage.stable_path().direct);
        assert_eq!(file.len().unwrap(), BLOCK_BYTES as u64);
    }

    #[test]
    fn every_substitute_writes_the_same_bytes() {
        for direct in [true, false] {
            for synced_write in [true, false] {
                let directory = tempfile::tempdir().unwrap();
                let root = rustix::fs::open(
                    directory.path(),
                    OFlags::DIRECTORY | OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )
                .unwrap();
                let path = Path::new("f");
                let buffered = open_at(root.as_fd(), path, OFlags::RDWR | OFlags::CREATE).unwrap();
                let stable_path = StablePath { direct, synced_write };
                let file =
                    Descriptors::new(root.as_fd(), path, buffered, Access::ReadWrite, stable_path)
                        .unwrap();
                let mut blocks = IoBuffer::zeroed(2 * BLOCK_BYTES);
                blocks.fill(7);
                file.write_submitted(BLOCK_BYTES as u64, &blocks, Reach::Stable).unwrap();
                let mut read = vec![1; 4 * BLOCK_BYTES];
                assert_eq!(file.read_at(0, &mut read).unwrap(), 3 * BLOCK_BYTES, "{stable_path}");
                assert!(read[..BLOCK_BYTES].iter().all(|&byte| byte == 0));
                assert!(read[BLOCK_BYTES..3 * BLOCK_BYTES].iter().all(|&byte| byte == 7));
            }
        }
    }

    #[test]
    fn a_direct_write_refused_for_its_shape_goes_through_the_page_cache() {
        let directory = tempfile::tempdir().unwrap();
        let storage = SyscallStorage::open(directory.path()).unwrap();
        let file = storage.create_file(Path::new("f")).unwrap();
        // An odd length, which direct I/O does not take (where it is there at all).
        file.write_submitted(0, b"odd", Reach::Stable).unwrap();
        let mut read = [0; 3];
        file.read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"odd");
    }
}
