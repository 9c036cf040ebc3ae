//! Segment files: their names, and how one is prepared.
//!
//! 1. A segment is written full of zeros and synced, its name included, before any batch goes into
//!    it: a later synced write then changes no metadata of the file system, which halves its cost.
//!    One that was released has been through this, and is used again as it is but for its header
//!    (`held.rs`).
//! 2. It is named by a number that no other segment of this database ever had. The number says
//!    nothing about order: a segment made for one large record is used before others that were
//!    prepared earlier. The headers link the segments to a log.
//! 3. A segment that could not be prepared is removed again; its sync is never repeated.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::format::{SegmentHeader, SegmentId};
use crate::storage::{BLOCK_BYTES, IoBuffer, Storage, StorageFile};

/// The log's directory, below the storage's root.
pub(crate) const DIRECTORY: &str = "wal";

/// Zeros written by one call.
const ZEROS_BYTES: usize = 1 << 20;
/// Zeros written between two syncs, so that the log's own small writes do not queue behind a whole
/// segment of them.
const ZEROS_BYTES_PER_SYNC: u64 = 8 << 20;

/// The smallest segment: a header, and batches worth the name.
pub(crate) const SEGMENT_BYTES_MIN: u64 = 8 * BLOCK_BYTES as u64;

/// The path of a segment below the storage's root.
pub(crate) fn path(segment: SegmentId) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{:016x}.log", segment.0))
}

/// The segment that a name in the log's directory stands for, if it is a segment's.
pub(crate) fn parse_name(name: &str) -> Option<SegmentId> {
    let digits = name.strip_suffix(".log")?;
    let plain = digits.len() == 16
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let number = plain.then(|| u64::from_str_radix(digits, 16).ok())??;
    (number != SegmentId::NONE.0).then_some(SegmentId(number))
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) file: Arc<dyn StorageFile>,
    /// Its size in bytes.
    pub(crate) capacity: u64,
    /// Whether it holds the bytes of an earlier life.
    pub(crate) recycled: bool,
}

/// A segment could not be prepared.
#[derive(Debug)]
pub(crate) struct PrepareError {
    pub(crate) path: PathBuf,
    pub(crate) error: io::Error,
}

/// Makes a segment of zeros, or with its header already in place, durable with its name.
pub(crate) fn prepare(
    storage: &dyn Storage,
    id: SegmentId,
    capacity: u64,
    header: Option<&SegmentHeader>,
) -> Result<Segment, PrepareError> {
    let path = path(id);
    let fill = |file: &dyn StorageFile| -> io::Result<()> {
        let zeros = IoBuffer::zeroed(ZEROS_BYTES.min(capacity as usize));
        let mut written = 0;
        while written < capacity {
            let bytes = (zeros.len() as u64).min(capacity - written);
            file.write_at(written, &zeros[..bytes as usize])?;
            written += bytes;
            if written.is_multiple_of(ZEROS_BYTES_PER_SYNC) && written < capacity {
                file.sync()?;
            }
        }
        file.sync()?;
        // Only now: a header says that the whole segment is there.
        if let Some(header) = header {
            write_header(file, header)?;
            file.sync()?;
        }
        if planted!("missing-directory-sync") {
            return Ok(());
        }
        storage.sync_dir(Path::new(DIRECTORY))
    };
    let file = match storage.create_new(&path) {
        Ok(file) => file,
        Err(error) => return Err(PrepareError { path, error }),
    };
    match fill(&*file) {
        Ok(()) => Ok(Segment { id, file, capacity, recycled: false }),
        Err(error) => {
            drop(file);
            // Best effort: what stays is blank, or a header that nothing was acknowledged under, and
            // the next open clears it away.
            let _ = storage.remove(&path);
            Err(PrepareError { path, error })
        }
    }
}

/// Puts the header into a prepared segment, unsynced.
pub(crate) fn write_header(file: &dyn StorageFile, header: &SegmentHeader) -> io::Result<()> {
    let mut block = IoBuffer::with_capacity(BLOCK_BYTES);
    header.encode(&mut block);
    file.write_at(0, &block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Access;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn names_and_numbers_are_the_same_thing() {
        for number in [1, 0xabc, u64::MAX] {
            let path = path(SegmentId(number));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(parse_name(name), Some(SegmentId(number)));
        }
        for other in [
            "LOCK",
            "0000000000000000.log",
            "00000000000000ABC.log",
            "000000000000000A.log",
            "+00000000000000a.log",
            "000000000000000a.log.tmp",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_prepared_segment_is_all_zeros_and_as_long_as_asked() {
        let storage = MemoryStorage::new();
        storage.create_dir(Path::new(DIRECTORY)).unwrap();
        let capacity = 3 * ZEROS_BYTES as u64 + 4096;
        prepare(&storage, SegmentId(7), capacity, None).unwrap();
        let file = storage.open(&path(SegmentId(7)), Access::Read).unwrap();
        assert_eq!(file.len().unwrap(), capacity);
        let mut bytes = vec![1; capacity as usize];
        assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
        assert!(crate::format::is_zero(&bytes));
        let again = prepare(&storage, SegmentId(7), capacity, None).unwrap_err();
        assert_eq!(again.error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(again.path, path(SegmentId(7)));
    }
}
