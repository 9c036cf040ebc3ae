//! The bytes of the log: segment headers, batch headers and records. No I/O here.
//!
//! `docs/format.md` shows every field; this file and that one change together.
//!
//! 1. All integers are little-endian. Everything starts and ends on a block of
//!    [`BLOCK_BYTES`](crate::BLOCK_BYTES).
//! 2. Every byte of a segment header and of a batch, padding included, is under a checksum, and the
//!    checksum is seeded with the place: database, segment and (for a batch) offset. A block that
//!    was misdirected, recycled, or copied from another database does not check.
//! 3. A batch header has a checksum of its own, which covers the payload's: so a header whose payload
//!    was torn still bears witness of how far the log was durable when it was written.
//! 4. Batches chain: each names the header checksum of the one before it.
//! 5. Decoding never panics and never allocates; a length is checked against what is there before it
//!    is used.
//!
//! ```text
//! segment  │ header block │ batch │ batch │ … │ zeros, or an earlier life's bytes, to the end │
//! batch    │ header, 64 bytes │ record │ record │ … │ zeros to the end of the block │
//! record   │ length, 4 bytes │ bytes │
//! ```

use std::fmt;

use crate::lsn::Lsn;
use crate::storage::{BLOCK_BYTES, IoBuffer};

/// The format number in every segment header. A reader refuses what is newer than itself.
pub const FORMAT_NUMBER: u32 = 1;

/// [`BLOCK_BYTES`] for offsets.
pub(crate) const BLOCK: u64 = BLOCK_BYTES as u64;

/// The first bytes of a segment; never all zero, and no text.
pub(crate) const SEGMENT_MAGIC: [u8; 8] = *b"\x89isolog\n";
/// The first bytes of a batch.
pub(crate) const BATCH_MAGIC: [u8; 4] = *b"\xb5bat";

/// Bytes of a batch header.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;
/// Bytes in front of each record: its length.
pub(crate) const RECORD_HEADER_BYTES: usize = 4;

/// The longest record, in bytes: a batch that holds it alone still counts its length in 32 bits.
pub const RECORD_BYTES_MAX: usize = u32::MAX as usize - (1 << 20);

/// Which database a log belongs to: drawn at random when the log is made, in every segment header,
/// and part of every checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DatabaseId(pub u128);

impl fmt::Debug for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseId({:032x})", self.0)
    }
}

/// A segment's own number, also its file name. Unique in the life of a database; the order of
/// segments in the log is told by the headers, not by the numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct SegmentId(pub(crate) u64);

impl SegmentId {
    /// Names no segment: "the log begins here".
    pub(crate) const NONE: SegmentId = SegmentId(0);
}

/// How many bytes a batch takes whose records, lengths included, take `payload`.
pub(crate) fn batch_bytes(payload: u64) -> u64 {
    (BATCH_HEADER_BYTES as u64 + payload).next_multiple_of(BLOCK)
}

/// How many bytes a record takes in a batch's payload.
pub(crate) fn framed_bytes(record: usize) -> u64 {
    (RECORD_HEADER_BYTES + record) as u64
}

/// The first block of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SegmentHeader {
    pub(crate) database: DatabaseId,
    pub(crate) segment: SegmentId,
    /// Bytes of the whole segment, this block included.
    pub(crate) capacity: u64,
    /// Whether recovery wrote it: then the log before it is known to end, durably, where this header
    /// says, and whatever lies behind that end is dead.
    pub(crate) cut: bool,
    /// Whether behind the log's bytes there may be any that an earlier life of the file left.
    pub(crate) recycled: bool,
    /// The LSN that the next record has; its epoch is the segment's.
    pub(crate) start: Lsn,
    /// Where the log before this segment ends: segment and offset behind its last batch.
    pub(crate) previous: SegmentId,
    pub(crate) previous_end: u64,
    /// The last LSN before this segment; [`Lsn::ZERO`] if there is none.
    pub(crate) previous_lsn: Lsn,
    /// The header checksum of the last batch before this segment; 0 if there is none.
    pub(crate) previous_crc: u32,
    /// The sequence of the segment's first batch.
    pub(crate) first_batch: u64,
    /// The last batch known to be durable when the header was written.
    pub(crate) durable_batch: u64,
}

const SEGMENT_CUT: u32 = 1;
const SEGMENT_RECYCLED: u32 = 2;
/// Where the fields of a segment header end; zeros follow to the end of the block.
const SEGMENT_FIELDS_END: usize = 104;

/// What a first block turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HeaderBlock {
    /// All zeros: prepared and not in use, on its way from one use to the next, or torn before its
    /// first byte.
    Blank,
    /// Not one of ours: another program's file.
    Foreign,
    /// Ours, of a newer format.
    TooNew(u32),
    /// Ours, and damaged or torn.
    Bad(&'static str),
    Valid(SegmentHeader),
}

impl SegmentHeader {
    /// Appends the block to `into`.
    pub(crate) fn encode(&self, into: &mut IoBuffer) {
        let start = into.len();
        into.resize(start + BLOCK_BYTES);
        let block = &mut into[start..];
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(block, 8, FORMAT_NUMBER);
        block[16..32].copy_from_slice(&self.database.0.to_le_bytes());
        put_u64(block, 32, self.segment.0);
        put_u64(block, 40, self.capacity);
        put_u64(block, 48, self.start.bits());
        put_u64(block, 56, self.previous.0);
        put_u64(block, 64, self.previous_end);
        put_u64(block, 72, self.previous_lsn.bits());
        put_u64(block, 80, self.first_batch);
        put_u64(block, 88, self.durable_batch);
        put_u32(block, 96, self.previous_crc);
        let cut = if self.cut { SEGMENT_CUT } else { 0 };
        put_u32(block, 100, cut | if self.recycled { SEGMENT_RECYCLED } else { 0 });
        let crc = segment_crc(block);
        put_u32(block, 12, crc);
    }

    /// Reads a segment's first block; a shorter one (a file cut short) is padded with zeros in mind.
    pub(crate) fn decode(block: &[u8]) -> HeaderBlock {
        if is_zero(block) {
            return HeaderBlock::Blank;
        }
        if block.len() < BLOCK_BYTES {
            return HeaderBlock::Bad("a segment header that is shorter than its block");
        }
        let block = &block[..BLOCK_BYTES];
        if block[0..8] != SEGMENT_MAGIC {
            // A write torn inside the magic leaves some of its bytes and zeros for the rest.
            let torn = block.iter().zip(SEGMENT_MAGIC).all(|(&is, was)| is == was || is == 0);
            return match torn {
                true => HeaderBlock::Bad("a torn segment header"),
                false => HeaderBlock::Foreign,
            };
        }
        let format = u32_at(block, 8);
        if format > FORMAT_NUMBER {
            return HeaderBlock::TooNew(format);
        }
        if format == 0 || u32_at(block, 12) != segment_crc(block) {
            return HeaderBlock::Bad("the segment header's checksum does not match");
        }
        let flags = u32_at(block, 100);
        let header = SegmentHeader {
            database: DatabaseId(
                u128::from(u64_at(block, 16)) | u128::from(u64_at(block, 24)) << 64,
            ),
            segment: SegmentId(u64_at(block, 32)),
            capacity: u64_at(block, 40),
            cut: flags & SEGMENT_CUT != 0,
            recycled: flags & SEGMENT_RECYCLED != 0,
            start: Lsn::from_bits(u64_at(block, 48)),
            previous: SegmentId(u64_at(block, 56)),
            previous_end: u64_at(block, 64),
            previous_lsn: Lsn::from_bits(u64_at(block, 72)),
            first_batch: u64_at(block, 80),
            durable_batch: u64_at(block, 88),
            previous_crc: u32_at(block, 96),
        };
        let sound = flags & !(SEGMENT_CUT | SEGMENT_RECYCLED) == 0
            && is_zero(&block[SEGMENT_FIELDS_END..])
            && header.segment != SegmentId::NONE
            && header.capacity >= 2 * BLOCK
            && header.capacity.is_multiple_of(BLOCK)
            && header.start.counter() > 0
            && header.first_batch > header.durable_batch;
        match sound {
            true => HeaderBlock::Valid(header),
            false => HeaderBlock::Bad("the segment header contradicts itself"),
        }
    }
}

/// Over the whole block but the checksum's own field. The segment's number and the database are
/// fields, so the place is covered.
fn segment_crc(block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&block[..12]);
    crc.update(&block[16..BLOCK_BYTES]);
    crc.finalize()
}

/// Where a batch stands; seeds its checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) database: DatabaseId,
    pub(crate) segment: SegmentId,
    pub(crate) offset: u64,
}

impl Place {
    fn seed(&self) -> crc32fast::Hasher {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.database.0.to_le_bytes());
        crc.update(&self.segment.0.to_le_bytes());
        crc.update(&self.offset.to_le_bytes());
        crc
    }
}

/// What a batch is for, beside carrying records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BatchKind {
    /// Carries records.
    Records,
    /// Carries none: says that what lies before it is durable.
    Mark,
    /// Carries none: the log was closed in order, and nothing follows.
    Clean,
    /// Carries none: the log was opened again after a clean close, and more may follow.
    Open,
}

/// The first 64 bytes of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchHeader {
    pub(crate) kind: BatchKind,
    /// Counts batches from 1 through the life of the log, without gaps.
    pub(crate) sequence: u64,
    /// The LSN of the first record; the next ones count on. Without records: the LSN that the next
    /// record will have.
    pub(crate) first: Lsn,
    /// The last batch known to be durable when this one was written.
    pub(crate) durable_batch: u64,
    /// The durable watermark at that time.
    pub(crate) durable: Lsn,
    pub(crate) records: u32,
    /// Bytes of the records with their lengths; padding not counted.
    pub(crate) payload_bytes: u32,
    /// Over the payload and its padding.
    pub(crate) payload_crc: u32,
    /// The header checksum of the batch before; 0 for the log's first.
    pub(crate) previous_crc: u32,
}

impl BatchHeader {
    /// Bytes that the whole batch takes.
    pub(crate) fn batch_bytes(&self) -> u64 {
        batch_bytes(u64::from(self.payload_bytes))
    }

    /// The LSN after the batch's last record.
    pub(crate) fn next(&self) -> Option<Lsn> {
        let counter = self.first.counter().checked_add(u64::from(self.records))?;
        (counter <= Lsn::COUNTER_MAX).then(|| Lsn::new(self.first.epoch(), counter))
    }

    /// Reads a batch header at `place`. `None`: there is none, whatever else may be there.
    pub(crate) fn decode(bytes: &[u8], place: &Place) -> Option<(BatchHeader, HeaderCrc)> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        if bytes[..4] != BATCH_MAGIC {
            return None;
        }
        let crc = u32_at(bytes, 4);
        if crc != header_crc(bytes, place) {
            return None;
        }
        let kind = match u32_at(bytes, 56) {
            0 => BatchKind::Records,
            1 => BatchKind::Mark,
            2 => BatchKind::Clean,
            3 => BatchKind::Open,
            _ => return None,
        };
        let header = BatchHeader {
            kind,
            sequence: u64_at(bytes, 8),
            first: Lsn::from_bits(u64_at(bytes, 16)),
            durable_batch: u64_at(bytes, 24),
            durable: Lsn::from_bits(u64_at(bytes, 32)),
            records: u32_at(bytes, 40),
            payload_bytes: u32_at(bytes, 44),
            payload_crc: u32_at(bytes, 48),
            previous_crc: u32_at(bytes, 52),
        };
        let sound = u32_at(bytes, 60) == 0
            && header.durable_batch < header.sequence
            && header.first.counter() > 0
            && header.next().is_some()
            && (header.records > 0) == (kind == BatchKind::Records)
            && u64::from(header.payload_bytes)
                >= u64::from(header.records) * RECORD_HEADER_BYTES as u64;
        sound.then_some((header, HeaderCrc(crc)))
    }

    /// Whether `rest`, the batch's bytes behind its header, padding included, are the ones that the
    /// header was written for.
    pub(crate) fn covers(&self, rest: &[u8], place: &Place) -> bool {
        rest.len() as u64 == self.batch_bytes() - BATCH_HEADER_BYTES as u64
            && payload_crc(rest, place) == self.payload_crc
    }
}

/// The checksum of a batch header: the link that the next batch names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct HeaderCrc(pub(crate) u32);

fn header_crc(header: &[u8], place: &Place) -> u32 {
    let mut crc = place.seed();
    crc.update(&header[..4]);
    crc.update(&header[8..BATCH_HEADER_BYTES]);
    crc.finalize()
}

fn payload_crc(rest: &[u8], place: &Place) -> u32 {
    let mut crc = place.seed();
    crc.update(rest);
    crc.finalize()
}

/// Writes one batch at the end of a buffer: `begin`, then records, then `finish`.
pub(crate) struct BatchWriter<'a> {
    buffer: &'a mut IoBuffer,
    start: usize,
    records: u32,
}

/// What the writer of a batch says in its header.
pub(crate) struct BatchSays {
    pub(crate) kind: BatchKind,
    pub(crate) sequence: u64,
    pub(crate) first: Lsn,
    pub(crate) durable_batch: u64,
    pub(crate) durable: Lsn,
    pub(crate) previous_crc: HeaderCrc,
}

impl<'a> BatchWriter<'a> {
    /// Leaves room for the header at the end of `buffer`, which must be at a block boundary.
    pub(crate) fn begin(buffer: &'a mut IoBuffer) -> BatchWriter<'a> {
        let start = buffer.len();
        debug_assert!(start.is_multiple_of(BLOCK_BYTES));
        buffer.resize(start + BATCH_HEADER_BYTES);
        BatchWriter { buffer, start, records: 0 }
    }

    /// Adds a record of at most [`RECORD_BYTES_MAX`] bytes.
    pub(crate) fn record(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= RECORD_BYTES_MAX);
        self.buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(bytes);
        self.records += 1;
    }

    /// Pads, and fills in the header. Returns the link for the next batch.
    pub(crate) fn finish(self, says: &BatchSays, place: &Place) -> HeaderCrc {
        let BatchWriter { buffer, start, records } = self;
        let payload_bytes = (buffer.len() - start - BATCH_HEADER_BYTES) as u32;
        buffer.pad_to_block();
        let (header, rest) = buffer[start..].split_at_mut(BATCH_HEADER_BYTES);
        header[..4].copy_from_slice(&BATCH_MAGIC);
        put_u64(header, 8, says.sequence);
        put_u64(header, 16, says.first.bits());
        put_u64(header, 24, says.durable_batch);
        put_u64(header, 32, says.durable.bits());
        put_u32(header, 40, records);
        put_u32(header, 44, payload_bytes);
        put_u32(header, 48, payload_crc(rest, place));
        put_u32(header, 52, says.previous_crc.0);
        let kind = match says.kind {
            BatchKind::Records => 0,
            BatchKind::Mark => 1,
            BatchKind::Clean => 2,
            BatchKind::Open => 3,
        };
        put_u32(header, 56, kind);
        put_u32(header, 60, 0);
        let crc = header_crc(header, place);
        put_u32(header, 4, crc);
        HeaderCrc(crc)
    }
}

/// The records of a payload, in order. Ends early, with `None` from [`Records::finished`], if the
/// lengths do not add up; a payload whose checksum matched always adds up.
pub(crate) struct Records<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Records<'a> {
    /// `payload` without header and padding.
    pub(crate) fn new(payload: &'a [u8], records: u32) -> Records<'a> {
        Records { rest: payload, left: records }
    }

    /// Whether all records were taken and no bytes are left.
    pub(crate) fn finished(&self) -> bool {
        self.left == 0 && self.rest.is_empty()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        let (length, rest) = self.rest.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let (record, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        self.left -= 1;
        Some(record)
    }
}

/// Whether every byte is zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In wide chunks: whole segments are looked at when a log is opened.
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |any, byte| any | byte) == 0)
        && rest.iter().all(|&byte| byte == 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests;
