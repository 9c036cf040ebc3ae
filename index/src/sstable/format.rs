//! The bytes of an SSTable around its blocks: header, frames, properties, footer. No I/O here.

use std::fmt;

use isolith_wal::{DatabaseId, Lsn};

use super::compress::{self, Packed};
use crate::block::{self, Malformed};

/// The format number in every header. A reader refuses what is newer than itself.
pub const FORMAT_NUMBER: u32 = 1;
/// The first bytes of a file; no text.
const HEADER_MAGIC: [u8; 8] = *b"\x89isosst\n";
/// The last bytes of a file.
const FOOTER_MAGIC: [u8; 8] = *b"\nend\x89sst";

/// Bytes in front of the first block.
pub(crate) const HEADER_BYTES: usize = 64;
/// Bytes behind the last block.
pub(crate) const FOOTER_BYTES: usize = 96;

/// Which file of a database: also its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileId(pub u64);

/// Why a file cannot be read.
#[derive(Debug)]
pub enum FileError {
    /// The storage failed.
    Io(std::io::Error),
    /// The bytes at an offset are not what was written there.
    Damaged {
        /// Where, from the beginning of the file.
        offset: u64,
        /// What is wrong with them.
        what: &'static str,
    },
    /// A format that this build does not know.
    TooNew {
        /// The number in the file.
        format: u32,
    },
    /// Bytes at an offset are compressed in a way that this build leaves out: it is to be built with the
    /// feature of this name.
    NeedsFeature {
        /// Where, from the beginning of the file.
        offset: u64,
        /// The feature.
        feature: &'static str,
    },
    /// A value file that the file refers to cannot be read.
    Values {
        /// Which.
        file: FileId,
        /// Why.
        error: Box<FileError>,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Io(error) => error.fmt(f),
            FileError::Damaged { offset, what } => write!(f, "damaged at offset {offset}: {what}"),
            FileError::TooNew { format } => {
                write!(f, "written in format {format}, and this build knows {FORMAT_NUMBER}")
            }
            FileError::NeedsFeature { offset, feature } => write!(
                f,
                "compressed at offset {offset} in a way that this build leaves out: build isolith with \
                 the feature `{feature}`"
            ),
            FileError::Values { file, error } => write!(f, "value file {}: {error}", file.0),
        }
    }
}

impl std::error::Error for FileError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            FileError::Io(error) => Some(error),
            FileError::Values { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<std::io::Error> for FileError {
    fn from(error: std::io::Error) -> Self {
        FileError::Io(error)
    }
}

/// The damage at an offset.
pub(crate) fn damaged(offset: u64, what: &'static str) -> FileError {
    FileError::Damaged { offset, what }
}

/// How blocks are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: fast both ways.
    #[default]
    Lz4,
    /// Zstandard, at a level: smaller, and slower to read. In a build without the feature `zstd` it is
    /// as [`Compression::None`].
    Zstd(i32),
}

/// Bytes of a frame behind what it holds: compression, length, checksum.
pub(crate) const FRAME_END_BYTES: usize = 9;
/// Where in the footer the keyspace's number lies.
const SPACE_IN_FOOTER: usize = 80;

/// Where in all databases a block lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) database: DatabaseId,
    pub(crate) file: FileId,
    pub(crate) offset: u64,
}

impl Place {
    fn hasher(self) -> crc32fast::Hasher {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.database.0.to_le_bytes());
        hasher.update(&self.file.0.to_le_bytes());
        hasher.update(&self.offset.to_le_bytes());
        hasher
    }

    pub(super) fn checksum(self, parts: &[&[u8]]) -> u32 {
        let mut hasher = self.hasher();
        for part in parts {
            hasher.update(part);
        }
        hasher.finalize()
    }
}

/// Frames `raw` behind what `into` holds, which lies at `place.offset`. Compressed where that saves
/// an eighth at least.
pub(crate) fn frame(raw: &[u8], compression: Compression, place: Place, into: &mut Vec<u8>) {
    let start = into.len();
    pack(raw, compression, into);
    let checksum = place.checksum(&[&into[start..]]);
    into.extend_from_slice(&checksum.to_le_bytes());
}

/// Ends a frame that lacks only its checksum.
pub(super) fn seal(place: Place, into: &mut Vec<u8>) {
    let checksum = place.checksum(&[into]);
    into.extend_from_slice(&checksum.to_le_bytes());
}

/// A frame without its checksum.
pub(super) fn pack(raw: &[u8], compression: Compression, into: &mut Vec<u8>) {
    let start = into.len();
    let pays = |bytes: &usize| *bytes < raw.len() - raw.len() / 8;
    let tag = match compress::compress(raw, compression, into).filter(pays) {
        Some(bytes) => {
            into.truncate(start + bytes);
            compress::tag(compression)
        }
        None => {
            into.truncate(start);
            into.extend_from_slice(raw);
            compress::NONE
        }
    };
    into.push(tag);
    into.extend_from_slice(&u32::try_from(raw.len()).unwrap_or(u32::MAX).to_le_bytes());
}

/// What a frame holds.
pub(crate) enum Framed<'f> {
    /// The bytes as they lie there.
    Plain(&'f [u8]),
    /// Compressed bytes.
    Packed(Packed<'f>),
}

/// Checks a frame.
pub(crate) fn unframe(framed: &[u8], place: Place) -> Result<Framed<'_>, FileError> {
    let offset = place.offset;
    let short = || damaged(offset, "a block is cut short");
    let (body, checksum) = framed.split_last_chunk::<4>().ok_or_else(short)?;
    if place.checksum(&[body]) != u32::from_le_bytes(*checksum) {
        return Err(damaged(offset, "a block's checksum does not match"));
    }
    open_checked(framed, offset)
}

/// The same for a frame whose checksum was found right before.
pub(crate) fn open_checked(framed: &[u8], offset: u64) -> Result<Framed<'_>, FileError> {
    let short = || damaged(offset, "a block is cut short");
    let (body, _) = framed.split_last_chunk::<4>().ok_or_else(short)?;
    let (body, raw) = body.split_last_chunk::<4>().ok_or_else(short)?;
    let (tag, body) = body.split_last().ok_or_else(short)?;
    let raw = u32::from_le_bytes(*raw) as usize;
    match *tag {
        compress::NONE if raw == body.len() => Ok(Framed::Plain(body)),
        tag if compress::may_become(tag, body.len(), raw) => {
            Ok(Framed::Packed(Packed { tag, bytes: body, raw, offset }))
        }
        _ => Err(damaged(offset, "a block's frame does not hold together")),
    }
}

/// What a whole frame holds, as a copy.
pub(crate) fn unpack(framed: &[u8], place: Place) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    match unframe(framed, place)? {
        Framed::Plain(plain) => bytes.extend_from_slice(plain),
        Framed::Packed(packed) => packed.unpack(&mut bytes)?,
    }
    Ok(bytes)
}

// ---- frames that nothing leads to

/// Where frames may lie in bytes of which nothing else is known, by the few bytes at a frame's end that tell its
/// compression and length: all that do, and few others.
pub(crate) struct FramePlaces {
    /// Beginning and end of those that are not compressed: their length tells both.
    plain: Vec<(usize, usize)>,
    /// First and last place where one may begin that is compressed, and its end. By their ends.
    packed: Vec<(usize, usize, usize)>,
    /// Where one may begin, as another may have ended there: ascending.
    starts: Vec<usize>,
}

impl FramePlaces {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let (mut plain, mut packed, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut zeros = 0;
        for (at, window) in bytes.windows(FRAME_END_BYTES).enumerate() {
            let end = at + FRAME_END_BYTES;
            // Where zeros were written over the end of one the next may begin behind them.
            if window[0] != 0 && zeros >= FRAME_END_BYTES {
                starts.push(at);
            }
            zeros = if window[0] == 0 { zeros + 1 } else { 0 };
            let raw = number_at(window, 1) as usize;
            match window[0] {
                // No block is empty. Zeros would all be ends of such.
                _ if raw == 0 => {}
                compress::NONE => {
                    if let Some(start) = at.checked_sub(raw) {
                        plain.push((start, end));
                        starts.extend([start, end]);
                    }
                }
                tag => {
                    if let Some((least, most)) = compress::bytes_that_become(tag, raw)
                        && let Some(last) = at.checked_sub(least)
                    {
                        packed.push((at.saturating_sub(most), last, end));
                        starts.push(end);
                    }
                }
            }
        }
        plain.sort_unstable();
        starts.sort_unstable();
        starts.dedup();
        Self { plain, packed, starts }
    }

    /// Where one may begin, at `from` or behind it.
    pub(crate) fn next_start(&self, from: usize) -> Option<usize> {
        self.starts.get(self.starts.partition_point(|at| *at < from)).copied()
    }

    /// Where one may end that begins at `start`, not behind `sought`: ascending.
    pub(crate) fn ends(&self, start: usize, sought: usize) -> Vec<usize> {
        let plain = &self.plain[self.plain.partition_point(|(at, _)| *at < start)..];
        let plain = plain.iter().take_while(|(at, _)| *at == start).map(|(_, end)| *end);
        let packed = &self.packed[self.packed.partition_point(|(.., end)| *end <= start)..];
        let packed = packed.iter().take_while(|(.., end)| *end <= sought);
        let packed = packed.filter(|(first, last, _)| (*first..=*last).contains(&start));
        let mut ends: Vec<_> = plain.chain(packed.map(|(.., end)| *end)).collect();
        ends.retain(|end| *end <= sought);
        ends.sort_unstable();
        ends
    }
}

/// Where the frame ends that begins at `place`, if one does: at the first of the `ends`, which ascend, at
/// which the checksum is right.
pub(crate) fn frame_from(
    bytes: &[u8],
    place: Place,
    ends: impl Iterator<Item = usize>,
) -> Option<usize> {
    let mut reached = usize::try_from(place.offset).ok()?;
    let mut hasher = place.hasher();
    for end in ends {
        let body_end = end.checked_sub(4)?;
        hasher.update(bytes.get(reached..body_end)?);
        reached = body_end;
        if hasher.clone().finalize() == number_at(bytes, body_end) {
            return Some(end);
        }
    }
    None
}

/// The first bytes of a sorted file.
pub(crate) fn header(database: DatabaseId, file: FileId, space: u32) -> [u8; HEADER_BYTES] {
    header_of(HEADER_MAGIC, database, file, space)
}

/// The first bytes of a file that begins with `magic`.
pub(super) fn header_of(
    magic: [u8; 8],
    database: DatabaseId,
    file: FileId,
    space: u32,
) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&magic);
    header[8..12].copy_from_slice(&FORMAT_NUMBER.to_le_bytes());
    header[16..32].copy_from_slice(&database.0.to_le_bytes());
    header[32..40].copy_from_slice(&file.0.to_le_bytes());
    header[40..44].copy_from_slice(&space.to_le_bytes());
    let checksum = checksum_around(&header, 12);
    header[12..16].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The checksum over all but the four bytes at `at`.
pub(super) fn checksum_around(bytes: &[u8], at: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..at]);
    hasher.update(&bytes[at + 4..]);
    hasher.finalize()
}

/// Checks the first bytes of a sorted file, of whichever keyspace.
pub(crate) fn check_header(
    bytes: &[u8],
    database: DatabaseId,
    file: FileId,
) -> Result<(), FileError> {
    check_header_of(HEADER_MAGIC, "the file does not begin as a sorted file does", bytes, |found| {
        header(database, file, number_at(found, 40))
    })
}

/// Checks the first bytes of a file: that they begin with `magic` (`other` says that they do not), check, and are
/// what they are to be.
pub(super) fn check_header_of(
    magic: [u8; 8],
    other: &'static str,
    bytes: &[u8],
    to_be: impl FnOnce(&[u8; HEADER_BYTES]) -> [u8; HEADER_BYTES],
) -> Result<(), FileError> {
    let header: &[u8; HEADER_BYTES] =
        bytes.first_chunk().ok_or_else(|| damaged(0, "the file is shorter than its header"))?;
    if header[..8] != magic {
        return Err(damaged(0, other));
    }
    let format = number_at(header, 8);
    if format > FORMAT_NUMBER {
        return Err(FileError::TooNew { format });
    }
    if number_at(header, 12) != checksum_around(header, 12) {
        return Err(damaged(0, "the header's checksum does not match"));
    }
    if *header != to_be(header) {
        return Err(damaged(0, "the file belongs to another place"));
    }
    Ok(())
}

/// The database and the keyspace that a file's first bytes name, if they are whole.
pub(crate) fn claimed_by_header(bytes: &[u8]) -> Option<(DatabaseId, u32)> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    let whole = header[..8] == HEADER_MAGIC
        && number_at(header, 8) <= FORMAT_NUMBER
        && number_at(header, 12) == checksum_around(header, 12);
    let database = header[16..].first_chunk().map(|bytes| u128::from_le_bytes(*bytes))?;
    whole.then(|| (DatabaseId(database), number_at(header, 40)))
}

/// The keyspace that a whole footer names.
pub(crate) fn space_in_footer(footer: &[u8]) -> u32 {
    number_at(footer, SPACE_IN_FOOTER)
}

pub(super) fn number_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..)
        .and_then(|bytes| bytes.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A section of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Section {
    pub(crate) offset: u64,
    /// Its frame included; 0: the file has no such section.
    pub(crate) bytes: u64,
}

/// Where the sections lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Footer {
    pub(crate) filter: Section,
    pub(crate) range_deletes: Section,
    pub(crate) index: Section,
    pub(crate) properties: Section,
    pub(crate) prefix_filter: Section,
}

impl Footer {
    pub(crate) fn encode(&self, place: Place, space: u32) -> [u8; FOOTER_BYTES] {
        let mut footer = [0; FOOTER_BYTES];
        footer[SPACE_IN_FOOTER..][..4].copy_from_slice(&space.to_le_bytes());
        let Footer { filter, range_deletes, index, properties, prefix_filter } = *self;
        let sections = [filter, range_deletes, index, properties, prefix_filter];
        for (section, field) in sections.iter().zip(footer.chunks_exact_mut(16)) {
            field[..8].copy_from_slice(&section.offset.to_le_bytes());
            field[8..].copy_from_slice(&section.bytes.to_le_bytes());
        }
        footer[88..].copy_from_slice(&FOOTER_MAGIC);
        let checksum = place.checksum(&[&footer[..84], &footer[88..]]);
        footer[84..88].copy_from_slice(&checksum.to_le_bytes());
        footer
    }

    /// The footer of a file that ends at `place.offset + FOOTER_BYTES`.
    pub(crate) fn decode(bytes: &[u8], place: Place) -> Result<Footer, FileError> {
        let offset = place.offset;
        let footer: &[u8; FOOTER_BYTES] =
            bytes.first_chunk().ok_or_else(|| damaged(offset, "the file has no footer"))?;
        if footer[88..] != FOOTER_MAGIC {
            return Err(damaged(offset, "the file does not end as a sorted file does"));
        }
        if number_at(footer, 84) != place.checksum(&[&footer[..84], &footer[88..]]) {
            return Err(damaged(offset, "the footer's checksum does not match"));
        }
        let mut sections = footer.chunks_exact(16).map(|field| {
            let (offset, bytes) = field.split_at(8);
            let number =
                |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            Section { offset: number(offset), bytes: number(bytes) }
        });
        let mut section = || {
            let section = sections.next().unwrap_or_default();
            let end = section.offset.checked_add(section.bytes);
            match end.is_some_and(|end| end <= offset) {
                true => Ok(section),
                false => Err(damaged(offset, "a section lies outside of the file")),
            }
        };
        Ok(Footer {
            filter: section()?,
            range_deletes: section()?,
            index: section()?,
            properties: section()?,
            prefix_filter: section()?,
        })
    }
}

/// What a file refers to of one value file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValueUse {
    /// The value file.
    pub file: FileId,
    /// Values.
    pub values: u64,
    /// Bytes that they take there.
    pub bytes: u64,
}

/// What a file holds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Properties {
    /// Versions of keys.
    pub entries: u64,
    /// Keys that have a version in it.
    pub keys: u64,
    /// Tombstones among the versions.
    pub deletes: u64,
    /// Range deletes.
    pub range_deletes: u64,
    /// Bytes of keys and values as they were put, those in value files included.
    pub raw_bytes: u64,
    /// The smallest stamp, range deletes included.
    pub stamp_min: Lsn,
    /// The largest.
    pub stamp_max: Lsn,
    /// The smallest key that it says something about, the beginnings of range deletes included.
    pub smallest: Vec<u8>,
    /// The largest key that has a version in it or is covered by a range delete: where that ends at a
    /// key and a zero byte, that key, and else its end, as there is no last key before it. None if a range
    /// delete reaches to the last key of all, and in a file without anything.
    pub largest: Option<Vec<u8>>,
    /// The value files that it refers to, ascending.
    pub values: Vec<ValueUse>,
}

impl Properties {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        let numbers = [
            self.entries,
            self.keys,
            self.deletes,
            self.range_deletes,
            self.raw_bytes,
            self.stamp_min.bits(),
            self.stamp_max.bits(),
            self.smallest.len() as u64,
            self.largest.as_ref().map_or(0, |key| key.len() as u64 + 1),
        ];
        for number in numbers {
            block::put_number(into, number);
        }
        into.extend_from_slice(&self.smallest);
        into.extend_from_slice(self.largest.as_deref().unwrap_or_default());
        block::put_number(into, self.values.len() as u64);
        for ValueUse { file, values, bytes } in &self.values {
            for number in [file.0, *values, *bytes] {
                block::put_number(into, number);
            }
        }
    }

    pub(crate) fn decode(mut input: &[u8]) -> Result<Properties, Malformed> {
        let input = &mut input;
        let mut numbers = [0; 7];
        for number in &mut numbers {
            *number = block::number(input)?;
        }
        let [entries, keys, deletes, range_deletes, raw_bytes, stamp_min, stamp_max] = numbers;
        let (smallest, largest) = (block::length(input)?, block::length(input)?);
        let smallest = block::take(input, smallest)?.to_vec();
        let largest = match largest.checked_sub(1) {
            Some(bytes) => Some(block::take(input, bytes)?.to_vec()),
            None => None,
        };
        let mut values: Vec<ValueUse> = Vec::new();
        for _ in 0..block::number(input)? {
            let (file, number) = (FileId(block::number(input)?), block::number(input)?);
            if values.last().is_some_and(|last| last.file >= file) {
                return Err(Malformed);
            }
            values.push(ValueUse { file, values: number, bytes: block::number(input)? });
        }
        if !input.is_empty() {
            return Err(Malformed);
        }
        let (stamp_min, stamp_max) = (Lsn::from_bits(stamp_min), Lsn::from_bits(stamp_max));
        Ok(Properties {
            entries,
            keys,
            deletes,
            range_deletes,
            raw_bytes,
            stamp_min,
            stamp_max,
            smallest,
            largest,
            values,
        })
    }
}
