//! The end of the log: where the next batch goes, and putting it together. One thread at a time owns
//! it, the log's leader.
//!
//! 1. Batches follow each other without gaps in sequence, LSN and chain. No block is written twice.
//! 2. A segment's header goes out in one write with its first batch: moving to the next segment costs
//!    no I/O of its own, and no batch is durable before its segment's header is.
//! 3. Records are taken up to a *sealed end* only, and the log's watermarks stand at sealed ends
//!    only. If a sealed stretch does not fit one batch it becomes several: only the last of them
//!    carries the end. (A watermark in between would be a snapshot that pruning never heard of.)

use std::sync::Arc;

use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchKind, BatchSays, BatchWriter, DatabaseId, HeaderCrc, Place,
    SegmentHeader, SegmentId, batch_bytes, framed_bytes,
};
use crate::held::{Held, HeldSegment};
use crate::log::{Queue, Queued};
use crate::lsn::Lsn;
use crate::segment::Segment;
use crate::space::{Block, Space};
use crate::storage::{IoBuffer, StorageFile};
use crate::sync::Mutex;

/// The place behind the last batch.
#[derive(Debug)]
pub(crate) struct Writer {
    database: DatabaseId,
    active: Segment,
    /// Hears of every segment that is begun.
    held: Arc<Mutex<Held>>,
    /// Where the next batch goes.
    offset: u64,
    /// Not yet written: goes out with the segment's first batch.
    header: Option<SegmentHeader>,
    /// Of the last batch.
    sequence: u64,
    crc: HeaderCrc,
    /// The last record in a batch, and the one that comes next.
    last: Lsn,
    next: Lsn,
    /// The end of the sealed stretch that is being written, while records of it are left.
    sealed: Option<Lsn>,
    /// The records of the batch being put together.
    taken: Vec<Queued>,
}

/// Where a writer begins.
pub(crate) struct Start {
    pub(crate) database: DatabaseId,
    pub(crate) segment: Segment,
    pub(crate) offset: u64,
    /// For a segment whose header is still to be written.
    pub(crate) header: Option<SegmentHeader>,
    pub(crate) sequence: u64,
    pub(crate) crc: HeaderCrc,
    pub(crate) last: Lsn,
    pub(crate) next: Lsn,
}

/// A batch as it was cut from the queue.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) kind: BatchKind,
    pub(crate) sequence: u64,
    pub(crate) first: Lsn,
    /// The last LSN in the log with this batch.
    pub(crate) last: Lsn,
    /// The sealed end that it completes, if it completes one.
    pub(crate) end: Option<Lsn>,
    pub(crate) records: usize,
    /// What its records had reserved in the queue.
    pub(crate) credited_bytes: usize,
    /// The whole batch, in bytes.
    pub(crate) bytes: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) segment: SegmentId,
}

/// A batch as it goes to the disk.
pub(crate) struct Encoded {
    pub(crate) offset: u64,
    pub(crate) buffer: IoBuffer,
}

/// There was no prepared segment, though every record had its credit: the log's own accounts are
/// wrong.
#[derive(Debug)]
pub(crate) struct NoSegment;

impl Writer {
    pub(crate) fn new(start: Start, records_max: usize, held: Arc<Mutex<Held>>) -> Writer {
        Writer {
            database: start.database,
            active: start.segment,
            held,
            offset: start.offset,
            header: start.header,
            sequence: start.sequence,
            crc: start.crc,
            last: start.last,
            next: start.next,
            sealed: None,
            taken: Vec::with_capacity(records_max),
        }
    }

    /// Bytes left behind the last batch.
    pub(crate) fn left(&self) -> u64 {
        self.active.capacity - self.offset
    }

    /// The end up to which records may be taken: what is left of the last sealed stretch, or what
    /// `seal` says. `None`: nothing new.
    pub(crate) fn sealed(&mut self, seal: impl FnOnce(Lsn) -> Lsn) -> Option<Lsn> {
        if self.sealed.is_none() {
            let end = seal(self.last);
            assert!(end >= self.last, "a sealed end went back from {} to {end}", self.last);
            self.sealed = (end > self.last).then_some(end);
        }
        self.sealed
    }

    /// Cuts the next batch: the longest prefix of the queue up to `end` that fits.
    pub(crate) fn cut_records(
        &mut self,
        end: Lsn,
        batch_bytes_max: usize,
        queue: &Mutex<Queue>,
        space: &Space,
    ) -> Result<Cut, NoSegment> {
        debug_assert!(self.taken.is_empty());
        // Only this thread takes from the queue, so its front stays between the two locks.
        let (first_bytes, own) = {
            let mut queue = queue.lock();
            let front = queue.records.front_mut().expect("a sealed record was appended before");
            (batch_bytes(framed_bytes(front.record.len())), front.own.take())
        };
        let alone = own.is_some();
        if let Some(own) = own {
            self.move_to(*own, space);
        } else if first_bytes > self.left() {
            let next = space.with(|ledger| {
                let segment = ledger.next_segment(first_bytes)?;
                ledger.move_to(segment.capacity - BLOCK);
                Some(segment)
            });
            self.begin(next.ok_or(NoSegment)?);
        }
        if first_bytes > self.left() {
            return Err(NoSegment);
        }

        assert_eq!(end.epoch(), self.next.epoch(), "only this epoch's commits are queued");
        let sealed = end.bits() - self.next.bits() + 1;
        let limit = self.left().min((batch_bytes_max as u64).max(first_bytes));
        let mut payload = 0;
        {
            let mut queue = queue.lock();
            let mut count = 0;
            for queued in &queue.records {
                let longer = payload + framed_bytes(queued.record.len());
                let fits = batch_bytes(longer) <= limit && queued.own.is_none();
                if count as u64 == sealed || count > 0 && (alone || !fits) {
                    break;
                }
                payload = longer;
                count += 1;
            }
            self.taken.extend(queue.records.drain(..count));
        }

        let records = self.taken.len();
        let bytes = batch_bytes(payload);
        let credited_bytes = self.taken.iter().map(|queued| queued.credited).sum();
        space.with(|ledger| {
            for queued in &self.taken {
                ledger.discharge(queued.credited);
            }
            ledger.use_up(bytes);
        });
        let first = self.next;
        self.last = Lsn::from_bits(first.bits() + records as u64 - 1);
        self.next = Lsn::from_bits(first.bits() + records as u64);
        self.sealed = self.sealed.filter(|&end| end > self.last);
        let end = self.sealed.is_none().then_some(self.last);
        self.sequence += 1;
        Ok(Cut {
            kind: BatchKind::Records,
            sequence: self.sequence,
            first,
            last: self.last,
            end,
            records,
            credited_bytes,
            bytes,
            file: self.active.file.clone(),
            segment: self.active.id,
        })
    }

    /// Cuts a batch without records. `None`: there is no room for it.
    pub(crate) fn cut_mark(&mut self, kind: BatchKind, space: &Space) -> Option<Cut> {
        // An open precedes all promises, and a close uses what is kept for it. The marks in between
        // must leave that, and what was promised.
        let kept = kind != BatchKind::Mark;
        match space.with(|ledger| ledger.take_block(kept))? {
            Block::Here => {}
            Block::Next(segment) => self.begin(segment),
        }
        self.sequence += 1;
        Some(Cut {
            kind,
            sequence: self.sequence,
            first: self.next,
            last: self.last,
            end: None,
            records: 0,
            credited_bytes: 0,
            bytes: BLOCK,
            file: self.active.file.clone(),
            segment: self.active.id,
        })
    }

    fn move_to(&mut self, segment: Segment, space: &Space) {
        space.with(|ledger| ledger.move_to(segment.capacity - BLOCK));
        self.begin(segment);
    }

    /// The log goes on in another segment.
    fn begin(&mut self, segment: Segment) {
        let header = SegmentHeader {
            database: self.database,
            segment: segment.id,
            capacity: segment.capacity,
            cut: false,
            recycled: segment.recycled,
            start: self.next,
            previous: self.active.id,
            previous_end: self.offset,
            previous_lsn: self.last,
            previous_crc: self.crc.0,
            first_batch: self.sequence + 1,
            durable_batch: 0,
        };
        let file = segment.file.clone();
        self.held.lock().push(HeldSegment { header, file, settled: false });
        self.header = Some(header);
        self.active = segment;
        self.offset = BLOCK;
    }

    /// Puts the batch that was just cut into `buffer`, saying how far the log is durable now.
    pub(crate) fn encode(
        &mut self,
        cut: &Cut,
        durable_batch: u64,
        durable: Lsn,
        mut buffer: IoBuffer,
    ) -> Encoded {
        buffer.clear();
        let mut offset = self.offset;
        let header = self.header.take();
        buffer.reserve((cut.bytes + if header.is_some() { BLOCK } else { 0 }) as usize);
        if let Some(mut header) = header {
            header.durable_batch = durable_batch;
            header.encode(&mut buffer);
            offset -= BLOCK;
        }
        let place = Place { database: self.database, segment: self.active.id, offset: self.offset };
        let mut batch = BatchWriter::begin(&mut buffer);
        for queued in &self.taken {
            batch.record(queued.record.bytes());
        }
        let says = BatchSays {
            kind: cut.kind,
            sequence: cut.sequence,
            first: cut.first,
            durable_batch,
            durable,
            previous_crc: self.crc,
        };
        self.crc = batch.finish(&says, &place);
        debug_assert!(buffer.len() >= BATCH_HEADER_BYTES);
        self.offset += cut.bytes;
        Encoded { offset, buffer }
    }

    /// The records are in the buffer: frees them.
    pub(crate) fn forget_records(&mut self) {
        self.taken.clear();
    }
}
