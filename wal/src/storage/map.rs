//! A file's bytes in memory.
//!
//! Where the storage is a file system the file is mapped (`memmap2`), and its pages are the page cache's:
//! they belong to the system, not to the database's memory. Elsewhere the map is a copy.
//!
//! 1. A file is mapped only once it is written whole and never changed again, so a map's bytes are as
//!    constant as a slice promises. What other programs do to the file is beyond us (`SECURITY.md`).
//! 2. A page that cannot be had is told by [`FileMap::touch`] as an error: a file that was cut short
//!    behind our back, a device that fails. Without that, or long after it, the system's answer is the
//!    signal `SIGBUS`, which ends the process.
#![expect(unsafe_code, reason = "a map is a slice over memory that a file backs")]

use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;

use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;

/// The bytes of a file that does not change any more.
pub struct FileMap(Bytes);

enum Bytes {
    Mapped(Mmap),
    Copied(Box<[u8]>),
}

impl FileMap {
    /// A copy, for storages that have no pages.
    pub(super) fn copied(bytes: Box<[u8]>) -> FileMap {
        FileMap(Bytes::Copied(bytes))
    }

    /// Maps a file of the file system as it is long now.
    pub(super) fn mapped(file: impl AsFd, bytes: u64) -> io::Result<FileMap> {
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::from(Errno::FBIG))?;
        if bytes == 0 {
            // The system maps no empty files.
            return Ok(FileMap::copied(Box::default()));
        }
        let file = file.as_fd();
        // SAFETY: nobody of this project writes to the file from here on (invariant 1): sorted files are
        // written under a name of their own, mapped when they are whole, and only ever removed, which
        // leaves the map's pages in place.
        let map = unsafe { MmapOptions::new().len(bytes).map(&file) }?;
        Ok(FileMap(Bytes::Mapped(map)))
    }

    /// Brings the pages of a range into memory. Afterwards the bytes can be looked at, as long as the
    /// system keeps them. The range is cut to the map.
    pub fn touch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let Bytes::Mapped(map) = &self.0 else { return Ok(()) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(map.len() - start);
        if bytes == 0 {
            return Ok(());
        }
        loop {
            match map.advise_range(Advice::PopulateRead, start, bytes) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Before Linux 5.14: the bytes are taken on trust.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells the system that a range is going to be read soon: it begins to bring the pages in, and nobody
    /// waits for them. The range is cut to the map.
    pub fn will_need(&self, offset: u64, bytes: u64) {
        let Bytes::Mapped(map) = &self.0 else { return };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(map.len());
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(map.len() - start);
        if bytes > 0 {
            // A hint: nothing is lost without it.
            let _ = map.advise_range(Advice::WillNeed, start, bytes);
        }
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Copied(bytes) => bytes,
        }
    }
}

impl fmt::Debug for FileMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let manner = if matches!(self.0, Bytes::Mapped(_)) { "mapped" } else { "copied" };
        write!(f, "FileMap({} bytes, {manner})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::storage::syscall::SyscallStorage;
    use crate::storage::{Access, Storage};

    #[test]
    fn a_map_shows_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let storage = SyscallStorage::open(directory.path()).unwrap();
        let bytes: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        let file = storage.create_new(Path::new("f")).unwrap();
        assert!(file.map().unwrap().is_empty());
        file.write_at(0, &bytes).unwrap();
        let map = storage.open(Path::new("f"), Access::Read).unwrap().map().unwrap();
        map.touch(0, 10_000).unwrap();
        map.touch(9_999, u64::MAX).unwrap();
        map.touch(u64::MAX, 1).unwrap();
        map.will_need(5_000, u64::MAX);
        map.will_need(u64::MAX, 1);
        assert_eq!(&*map, &*bytes);
        storage.remove(Path::new("f")).unwrap();
        assert_eq!(&*map, &*bytes, "a removed file keeps its pages");
    }

    #[test]
    fn a_file_that_was_cut_short_is_an_error_and_no_signal() {
        let directory = tempfile::tempdir().unwrap();
        let storage = SyscallStorage::open(directory.path()).unwrap();
        let file = storage.create_new(Path::new("f")).unwrap();
        file.write_at(0, &[7; 40_000]).unwrap();
        let map = file.map().unwrap();
        #[expect(clippy::disallowed_methods, reason = "what another program does to the file")]
        let other = std::fs::OpenOptions::new().write(true).open(directory.path().join("f"));
        other.unwrap().set_len(4096).unwrap();
        map.touch(0, 4096).unwrap();
        assert_eq!(map[0], 7);
        assert!(map.touch(20_000, 100).is_err());
    }
}
