//! The bytes of the manifest around its edits: the header and the frames. No I/O here.
//!
//! `docs/format.md` shows every field; this file and that one change together.
//!
//! 1. Everything begins and ends on a block, so that a write never touches a block that holds what was
//!    acknowledged.
//! 2. Every byte of a frame is under a checksum that covers the frame's *place*, too: database and
//!    offset. The header of a frame has a checksum of its own: it bears witness of what was durable
//!    though what follows it was torn.

use isolith_wal::{BLOCK_BYTES, DatabaseId};

/// The format number in the header. A reader refuses what is newer than itself.
pub const FORMAT_NUMBER: u32 = 1;
/// The first bytes of the file; no text.
const FILE_MAGIC: [u8; 8] = *b"\x89isoman\n";
/// The first bytes of a frame.
const FRAME_MAGIC: [u8; 4] = *b"\xb5man";
/// Bytes of a frame in front of its payload.
const FRAME_HEADER_BYTES: usize = 40;

/// What a frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FrameKind {
    /// The edits that make the whole state.
    State,
    /// Edits that take effect together.
    Edits,
    /// Nothing: says that all before it is durable. The next frame takes its place.
    Mark,
}

/// A frame's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameHeader {
    pub(crate) kind: FrameKind,
    /// Counts batches of edits through the life of the database; a state's is that of the last batch in
    /// it, a mark's that of the batch before it.
    pub(crate) sequence: u64,
    /// The last batch known to be durable when this was written.
    pub(crate) durable: u64,
    pub(crate) payload_bytes: u32,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) database: DatabaseId,
    pub(crate) offset: u64,
}

impl Place {
    fn checksum(self, parts: &[&[u8]]) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.database.0.to_le_bytes());
        hasher.update(&self.offset.to_le_bytes());
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// The first block of the file.
pub(crate) fn file_header(database: DatabaseId) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[..8].copy_from_slice(&FILE_MAGIC);
    block[8..12].copy_from_slice(&FORMAT_NUMBER.to_le_bytes());
    block[16..32].copy_from_slice(&database.0.to_le_bytes());
    let checksum = crc_around(&block, 12);
    block[12..16].copy_from_slice(&checksum.to_le_bytes());
    block
}

/// The checksum over all but the four bytes at `at`.
fn crc_around(bytes: &[u8], at: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..at]);
    hasher.update(&bytes[at + 4..]);
    hasher.finalize()
}

/// What is wrong with a first block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BadHeader {
    Damaged(&'static str),
    TooNew(u32),
}

/// Reads the first block.
pub(crate) fn read_file_header(bytes: &[u8]) -> Result<DatabaseId, BadHeader> {
    let Some(block) = bytes.get(..BLOCK_BYTES) else {
        return Err(BadHeader::Damaged("the file is shorter than its header"));
    };
    if block[..8] != FILE_MAGIC {
        return Err(BadHeader::Damaged("the file does not begin as a manifest does"));
    }
    let format = u32_at(block, 8);
    if format > FORMAT_NUMBER {
        return Err(BadHeader::TooNew(format));
    }
    if format == 0 || u32_at(block, 12) != crc_around(block, 12) {
        return Err(BadHeader::Damaged("the header's checksum does not match"));
    }
    Ok(DatabaseId(u128::from(u64_at(block, 16)) | u128::from(u64_at(block, 24)) << 64))
}

/// The format number of a first block that is whole, and newer than this build.
pub(crate) fn newer(bytes: &[u8]) -> Option<u32> {
    let block = bytes.get(..BLOCK_BYTES)?;
    let whole = block[..8] == FILE_MAGIC && u32_at(block, 12) == crc_around(block, 12);
    Some(u32_at(block, 8)).filter(|format| whole && *format > FORMAT_NUMBER)
}

/// A frame's bytes, whole blocks; `None` if the payload is longer than a frame can be.
pub(crate) fn frame(
    kind: FrameKind,
    sequence: u64,
    durable: u64,
    payload: &[u8],
    place: Place,
) -> Option<Vec<u8>> {
    let payload_bytes = u32::try_from(payload.len()).ok()?;
    let bytes = (FRAME_HEADER_BYTES + payload.len()).next_multiple_of(BLOCK_BYTES);
    let mut frame = vec![0; bytes];
    let (header, rest) = frame.split_at_mut(FRAME_HEADER_BYTES);
    rest[..payload.len()].copy_from_slice(payload);
    let kind: u32 = match kind {
        FrameKind::State => 0,
        FrameKind::Edits => 1,
        FrameKind::Mark => 2,
    };
    header[..4].copy_from_slice(&FRAME_MAGIC);
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&durable.to_le_bytes());
    header[24..28].copy_from_slice(&kind.to_le_bytes());
    header[28..32].copy_from_slice(&payload_bytes.to_le_bytes());
    header[32..36].copy_from_slice(&place.checksum(&[rest]).to_le_bytes());
    let checksum = place.checksum(&[&header[..4], &header[8..]]);
    header[4..8].copy_from_slice(&checksum.to_le_bytes());
    Some(frame)
}

/// What lies where a frame may begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framed<'f> {
    /// A whole frame: its header, its payload, and how many bytes it takes.
    Whole(FrameHeader, &'f [u8], usize),
    /// A header, and what follows is not what it was written for.
    Torn(FrameHeader),
    /// No frame.
    Nothing,
}

/// Reads the frame at the beginning of `bytes`, which lie at `place`.
pub(crate) fn read_frame(bytes: &[u8], place: Place) -> Framed<'_> {
    let Some((header, rest)) = bytes.split_at_checked(FRAME_HEADER_BYTES) else {
        return Framed::Nothing;
    };
    if header[..4] != FRAME_MAGIC
        || u32_at(header, 4) != place.checksum(&[&header[..4], &header[8..]])
    {
        return Framed::Nothing;
    }
    let kind = match u32_at(header, 24) {
        0 => FrameKind::State,
        1 => FrameKind::Edits,
        2 => FrameKind::Mark,
        _ => return Framed::Nothing,
    };
    let payload_bytes = u32_at(header, 28);
    let (sequence, durable) = (u64_at(header, 8), u64_at(header, 16));
    let says = FrameHeader { kind, sequence, durable, payload_bytes };
    let payload_bytes = payload_bytes as usize;
    let whole = (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES);
    let Some(rest) = rest.get(..whole - FRAME_HEADER_BYTES) else {
        return Framed::Torn(says);
    };
    if u32_at(header, 32) != place.checksum(&[rest]) {
        return Framed::Torn(says);
    }
    Framed::Whole(says, &rest[..payload_bytes], whole)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
