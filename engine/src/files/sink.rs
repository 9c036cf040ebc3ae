//! Where the bytes of a new file go.

use std::io;
use std::path::Path;
use std::sync::Arc;

use isolith_index::sstable::FileSink;
use isolith_wal::{Storage, StorageFile};

use super::throttle::{Throttle, Writer};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A file that is being written, front to back. Dropped before it was synced, it is removed: a disk that was
/// full is not to be filled by what was tried.
#[derive(Debug)]
pub(super) struct Sink {
    storage: Arc<dyn Storage>,
    file: Arc<dyn StorageFile>,
    name: String,
    offset: u64,
    buffer: Vec<u8>,
    /// What it goes by, and as whom.
    pace: Option<(Arc<Throttle>, Writer)>,
    kept: bool,
}

impl Sink {
    /// Makes the file. Its name is not durable yet.
    pub(super) fn create(
        storage: &Arc<dyn Storage>,
        name: String,
        pace: Option<(Arc<Throttle>, Writer)>,
    ) -> io::Result<Self> {
        let file = storage.create_new(Path::new(&name))?;
        let (storage, buffer) = (Arc::clone(storage), Vec::with_capacity(BUFFER_BYTES));
        Ok(Self { storage, file, name, offset: 0, buffer, pace, kept: false })
    }

    fn write_out(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = if buffer.is_empty() { Ok(()) } else { self.write(&buffer) };
        buffer.clear();
        self.buffer = buffer;
        written
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some((throttle, writer)) = &self.pace {
            throttle.take(bytes.len(), *writer);
        }
        self.file.write_at(self.offset, bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn end(mut self) -> io::Result<()> {
        self.write_out()?;
        self.kept = true;
        Ok(())
    }

    /// Writes what is left, and makes all of it durable.
    pub(super) fn sync(mut self) -> io::Result<()> {
        self.write_out()?;
        self.file.sync()?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed is an orphan, for the next open.
            let _ = self.storage.remove(Path::new(&self.name));
        }
    }
}

impl FileSink for Sink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() >= BUFFER_BYTES {
            // A large value is not copied once more.
            self.write_out()?;
            return self.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.write_out() } else { Ok(()) }
    }
}
