//! Writing a log that holds records of another one, each with the LSN that it has there: for copies of a
//! database.
//!
//! 1. The copy holds every record that it is given, and says in its first header after which one it begins.
//!    Records of one recovery epoch have no gaps; another epoch begins with a segment of its own, as recovery
//!    would have begun it.
//! 2. A segment's header is written behind its batches, and is as long as they are: nothing is prepared.
//!    Each segment is synced before the next one begins, and so attests it.
//! 3. At the end a mark, written once all before it is synced, attests the last segment: what is missing of
//!    the copy later is damage, never a torn tail. It is not marked as closed, so that whoever opens it
//!    begins an epoch of its own, and gives out no LSN that the other log gives out in the meantime.
//! 4. Where records are needed from some LSN on only, a segment begins there.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::format::{
    BLOCK, BatchKind, BatchSays, BatchWriter, DatabaseId, HeaderCrc, Place, SegmentHeader,
    SegmentId, framed_bytes,
};
use crate::lsn::Lsn;
use crate::segment::{self, DIRECTORY};
use crate::storage::{IoBuffer, Storage, StorageFile};

/// A batch is ended once its records have so many bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// A segment is ended once it has so many bytes.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A log that is being written from records of another. What is left of one that is dropped before
/// [`LogCopy::finish`] is no log.
pub struct LogCopy<'s> {
    storage: &'s dyn Storage,
    database: DatabaseId,
    /// A segment begins behind it.
    floor: Lsn,
    segment: Option<Open>,
    /// The number of the last segment.
    number: u64,
    /// Where the segment before the next one ends.
    previous: (SegmentId, u64),
    /// The last batch, and its checksum.
    sequence: u64,
    crc: HeaderCrc,
    /// The last record in a batch; where the copy begins, if there is none.
    written: Lsn,
    /// The last record; where the copy begins, if there is none.
    last: Lsn,
    /// Records that are in no batch yet: where each ends, and the bytes.
    ends: Vec<usize>,
    records: Vec<u8>,
    bytes: u64,
    buffer: IoBuffer,
}

/// The segment that is being written.
struct Open {
    header: SegmentHeader,
    file: Arc<dyn StorageFile>,
    offset: u64,
}

/// A log that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogCopied {
    /// The last record; where the copy begins, if there is none.
    pub last: Lsn,
    /// Bytes of its segments.
    pub bytes: u64,
}

impl<'s> LogCopy<'s> {
    /// Begins the log below a storage that has none. It will have the records after `begins`, of which those
    /// up to `floor` are there to be looked at only: it is to be opened with
    /// [`begins`](crate::LogOptions::begins) at `floor`.
    pub fn begin(
        storage: &'s dyn Storage,
        database: DatabaseId,
        begins: Lsn,
        floor: Lsn,
    ) -> io::Result<LogCopy<'s>> {
        storage.create_dir(Path::new(DIRECTORY))?;
        Ok(LogCopy {
            storage,
            database,
            floor,
            segment: None,
            number: 0,
            previous: (SegmentId::NONE, 0),
            sequence: 0,
            crc: HeaderCrc::default(),
            written: begins,
            last: begins,
            ends: Vec::new(),
            records: Vec::new(),
            bytes: 0,
            buffer: IoBuffer::with_capacity(0),
        })
    }

    /// Adds the next record. `InvalidInput`, and it is left out, if it does not come after the last one.
    pub fn add(&mut self, lsn: Lsn, record: &[u8]) -> io::Result<()> {
        let follows = match self.last.epoch() == lsn.epoch() {
            // Nothing is known of what came right before the first one.
            true => lsn.bits() == self.last.bits() + 1,
            false => lsn > self.last,
        };
        if !follows {
            let what = format!("record {lsn} does not follow {}", self.last);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let begins_anew =
            lsn.epoch() != self.last.epoch() || self.last <= self.floor && lsn > self.floor;
        let full = self.records.len() as u64 + framed_bytes(record.len()) > BATCH_BYTES;
        if begins_anew || full {
            self.write_batch()?;
        }
        if begins_anew || self.segment.as_ref().is_some_and(|open| open.offset >= SEGMENT_BYTES) {
            self.end_segment()?;
        }
        if self.segment.is_none() {
            self.begin_segment(lsn)?;
        }
        self.records.extend_from_slice(record);
        self.ends.push(self.records.len());
        self.last = lsn;
        Ok(())
    }

    /// Ends the log: it is durable when this returns, with its names.
    pub fn finish(mut self) -> io::Result<LogCopied> {
        self.write_batch()?;
        if self.segment.is_none() {
            self.begin_segment(self.last.next())?;
        }
        if let Some(open) = &self.segment {
            open.file.sync()?;
        }
        self.write(BatchKind::Mark, self.sequence, self.last)?;
        self.end_segment()?;
        self.storage.sync_dir(Path::new(DIRECTORY))?;
        Ok(LogCopied { last: self.last, bytes: self.bytes })
    }

    fn begin_segment(&mut self, start: Lsn) -> io::Result<()> {
        let segment = SegmentId(self.number + 1);
        let (previous, previous_end) = self.previous;
        let header = SegmentHeader {
            database: self.database,
            segment,
            capacity: 0,
            cut: previous != SegmentId::NONE && start.epoch() != self.last.epoch(),
            recycled: false,
            start,
            previous,
            previous_end,
            previous_lsn: self.last,
            previous_crc: self.crc.0,
            first_batch: self.sequence + 1,
            durable_batch: self.sequence,
        };
        let file = self.storage.create_new(&segment::path(segment))?;
        self.number = segment.0;
        self.segment = Some(Open { header, file, offset: BLOCK });
        Ok(())
    }

    /// Invariant 2.
    fn end_segment(&mut self) -> io::Result<()> {
        let Some(Open { mut header, file, offset }) = self.segment.take() else { return Ok(()) };
        header.capacity = offset;
        segment::write_header(&*file, &header)?;
        file.sync()?;
        self.previous = (header.segment, offset);
        self.bytes += offset;
        Ok(())
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let Some(open) = self.segment.as_ref().filter(|_| !self.ends.is_empty()) else {
            return Ok(());
        };
        let (durable_batch, durable) = (open.header.durable_batch, open.header.previous_lsn);
        self.write(BatchKind::Records, durable_batch, durable)
    }

    /// Writes what waits as a batch; a mark, if nothing does.
    fn write(&mut self, kind: BatchKind, durable_batch: u64, durable: Lsn) -> io::Result<()> {
        let Some(open) = &mut self.segment else { return Ok(()) };
        let first = match self.written == open.header.previous_lsn {
            true => open.header.start,
            false => self.written.next(),
        };
        let sequence = self.sequence + 1;
        self.buffer.clear();
        let mut batch = BatchWriter::begin(&mut self.buffer);
        let mut from = 0;
        for end in self.ends.drain(..) {
            batch.record(&self.records[from..end]);
            from = end;
        }
        self.records.clear();
        let says =
            BatchSays { kind, sequence, first, durable_batch, durable, previous_crc: self.crc };
        let segment = open.header.segment;
        let place = Place { database: self.database, segment, offset: open.offset };
        self.crc = batch.finish(&says, &place);
        open.file.write_at(open.offset, &self.buffer)?;
        open.offset += self.buffer.len() as u64;
        self.sequence = sequence;
        self.written = self.last;
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
