//! Value files: large values apart from their keys, so that compaction copies a reference and not a value
//! (WiscKey: Lu et al., FAST 2016).
//!
//! ```text
//! file     │ header, 64 bytes │ value │ value │ … │ footer, 48 bytes │
//! value    │ bytes, compressed or not │ compression, 1 │ length before compression, 4 │ checksum, 4 │
//! ```
//!
//! `docs/format.md` shows every field.
//!
//! 1. A file is written once, from its beginning to its end, and never changed. What nobody refers to any
//!    more stays in it until the whole file goes.
//! 2. A value's checksum covers its *place* (database, file, offset) and its key, neither of which stands
//!    there: a reference that leads to another key's value, or to another file's, does not check.
//! 3. Nothing is believed before its checksum was.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use isolith_wal::DatabaseId;

use super::Pages;
use super::format::{self, Compression, FileError, FileId, Framed, Place, damaged, number_at};
use super::writer::FileSink;
use crate::block::{self, Malformed};

/// The first bytes of a file; no text.
const HEADER_MAGIC: [u8; 8] = *b"\x89isoval\n";
/// The last bytes of a file.
const FOOTER_MAGIC: [u8; 8] = *b"\nend\x89val";
/// Bytes in front of the first value.
const HEADER_BYTES: usize = 64;
/// Bytes behind the last value.
const FOOTER_BYTES: usize = 48;
/// Bytes of a value file that are no values.
pub const VALUE_FILE_OVERHEAD: u64 = (HEADER_BYTES + FOOTER_BYTES) as u64;
/// Of a value that takes no less, it is kept whether its checksum was found right: a bit for each stretch of
/// so many bytes, and no two of them begin in the same.
const CHECKED_BYTES_MIN: u64 = 1024;

/// Where a value is that is not beside its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValueRef {
    /// The value file.
    pub file: FileId,
    /// Where it begins there.
    pub offset: u64,
    /// Bytes that it takes there.
    pub bytes: u64,
    /// Bytes that were put.
    pub value_bytes: u64,
}

impl ValueRef {
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        for number in [self.file.0, self.offset, self.bytes, self.value_bytes] {
            block::put_number(into, number);
        }
    }

    pub(crate) fn decode(mut input: &[u8]) -> Result<ValueRef, Malformed> {
        let input = &mut input;
        let mut next = || block::number(input);
        let (file, offset) = (FileId(next()?), next()?);
        let (bytes, value_bytes) = (next()?, next()?);
        if !input.is_empty() {
            return Err(Malformed);
        }
        Ok(ValueRef { file, offset, bytes, value_bytes })
    }
}

/// What is in a value file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ValueTotals {
    /// Values.
    pub values: u64,
    /// Bytes of them as they were put.
    pub raw_bytes: u64,
}

/// A value file that is being written.
pub struct ValueWriter<S> {
    sink: S,
    place: Place,
    compression: Compression,
    totals: ValueTotals,
    buffer: Vec<u8>,
}

impl<S: FileSink> ValueWriter<S> {
    /// Begins a file.
    ///
    /// # Errors
    /// If the sink refuses its header.
    pub fn new(
        mut sink: S,
        database: DatabaseId,
        file: FileId,
        compression: Compression,
    ) -> io::Result<Self> {
        sink.append(&header(database, file))?;
        let place = Place { database, file, offset: HEADER_BYTES as u64 };
        let (totals, buffer) = (ValueTotals::default(), Vec::new());
        Ok(Self { sink, place, compression, totals, buffer })
    }

    /// Which file it is.
    pub fn file(&self) -> FileId {
        self.place.file
    }

    /// Bytes that the file has so far.
    pub fn bytes(&self) -> u64 {
        self.place.offset
    }

    /// Adds the value of a key.
    ///
    /// # Errors
    /// If the sink refuses it: then the file is of no use any more.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<ValueRef> {
        self.buffer.clear();
        format::pack(value, self.compression, &mut self.buffer);
        let checksum = self.place.checksum(&[key, &self.buffer]);
        self.buffer.extend_from_slice(&checksum.to_le_bytes());
        self.sink.append(&self.buffer)?;
        let (bytes, value_bytes) = (self.buffer.len() as u64, value.len() as u64);
        let reference =
            ValueRef { file: self.place.file, offset: self.place.offset, bytes, value_bytes };
        let reference = match isolith_wal::planted!("reference-to-the-end-of-its-value") {
            true => ValueRef { offset: reference.offset + bytes, ..reference },
            false => reference,
        };
        self.place.offset += bytes;
        self.totals.values += 1;
        self.totals.raw_bytes += value_bytes;
        Ok(reference)
    }

    /// Ends the file. What was written is given back; it is not synced.
    ///
    /// # Errors
    /// If the sink refuses its end.
    pub fn finish(mut self) -> io::Result<S> {
        self.sink.append(&footer(self.totals, self.place))?;
        Ok(self.sink)
    }
}

impl<S> fmt::Debug for ValueWriter<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueWriter").field("file", &self.place.file).finish_non_exhaustive()
    }
}

/// Told of a [superseded](ValueFile::supersede) value file when nobody refers to it any more, on whatever
/// thread that turns out.
pub type ValuesSuperseded = Arc<dyn Fn(FileId) + Send + Sync>;

/// An open value file. The sorted files that refer to it hold it.
pub struct ValueFile {
    pages: Box<dyn Pages>,
    /// Of the footer.
    place: Place,
    totals: ValueTotals,
    /// See [`CHECKED_BYTES_MIN`]. Relaxed: the bytes are the file's, and whoever does not see the bit checks
    /// once more.
    checked: Box<[AtomicU64]>,
    superseded: AtomicBool,
    on_superseded: ValuesSuperseded,
}

impl ValueFile {
    /// Opens a file: checks its ends. Values are checked when they are first read.
    ///
    /// # Errors
    /// If it cannot be read, or is not the file that was written under this number.
    pub fn open(
        pages: Box<dyn Pages>,
        database: DatabaseId,
        file: FileId,
        on_superseded: ValuesSuperseded,
    ) -> Result<ValueFile, FileError> {
        let len = pages.len();
        let end = len.checked_sub(FOOTER_BYTES).filter(|end| *end >= HEADER_BYTES);
        let end = end.ok_or_else(|| damaged(0, "the value file is cut short"))?;
        pages.touch(0, HEADER_BYTES as u64)?;
        check_header(&pages, database, file)?;
        let place = Place { database, file, offset: end as u64 };
        pages.touch(end as u64, FOOTER_BYTES as u64)?;
        let totals = read_footer(pages.get(end..).unwrap_or_default(), place)?;
        Ok(ValueFile::over(pages, place, totals, on_superseded))
    }

    /// What is left of a file, whose ends may be damaged or gone: each value is checked as ever.
    pub fn salvage(pages: Box<dyn Pages>, database: DatabaseId, file: FileId) -> ValueFile {
        let place = Place { database, file, offset: pages.len() as u64 };
        ValueFile::over(pages, place, ValueTotals::default(), Arc::new(|_| ()))
    }

    fn over(
        pages: Box<dyn Pages>,
        place: Place,
        totals: ValueTotals,
        on_superseded: ValuesSuperseded,
    ) -> ValueFile {
        let words = (pages.len() as u64).div_ceil(64 * CHECKED_BYTES_MIN);
        let checked = (0..words).map(|_| AtomicU64::new(0)).collect();
        let superseded = AtomicBool::new(false);
        ValueFile { pages, place, totals, checked, superseded, on_superseded }
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.place.file
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.pages.len() as u64
    }

    /// What is in it.
    pub fn totals(&self) -> ValueTotals {
        self.totals
    }

    /// The file is not live any more, and that is durable. When the last reference goes, the owner is told.
    pub fn supersede(&self) {
        // Relaxed: whoever drops the last reference comes after, by the reference count's own order.
        self.superseded.store(true, Ordering::Relaxed);
    }

    /// The value of a key: where the file has it, or in `buffer` if it is compressed there.
    ///
    /// # Errors
    /// [`FileError::Values`].
    pub fn read<'v>(
        &'v self,
        key: &[u8],
        reference: ValueRef,
        buffer: &'v mut Vec<u8>,
    ) -> Result<&'v [u8], FileError> {
        self.find(key, reference, buffer).map_err(|error| self.told(error))
    }

    /// The error with the file that it is about.
    fn told(&self, error: FileError) -> FileError {
        FileError::Values { file: self.place.file, error: Box::new(error) }
    }

    fn find<'v>(
        &'v self,
        key: &[u8],
        reference: ValueRef,
        buffer: &'v mut Vec<u8>,
    ) -> Result<&'v [u8], FileError> {
        let ValueRef { offset, bytes, value_bytes, .. } = reference;
        let framed = self.framed(reference)?;
        let (word, bit) = (offset / CHECKED_BYTES_MIN / 64, 1 << (offset / CHECKED_BYTES_MIN % 64));
        let word = usize::try_from(word).ok().and_then(|word| self.checked.get(word));
        let word = word.filter(|_| bytes >= CHECKED_BYTES_MIN);
        // Relaxed, here and below: the bit says only that these bytes, which never change, were checked. Who does
        // not see it yet checks them again.
        if word.is_none_or(|word| word.load(Ordering::Relaxed) & bit == 0) {
            self.pages.touch(offset, bytes)?;
            let (body, checksum) = framed.split_last_chunk::<4>().ok_or_else(|| outside(offset))?;
            let place = Place { offset, ..self.place };
            if place.checksum(&[key, body]) != u32::from_le_bytes(*checksum) {
                return Err(damaged(offset, "a value's checksum does not match"));
            }
            if let Some(word) = word {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        let value: &[u8] = match format::open_checked(framed, offset)? {
            Framed::Plain(plain) => plain,
            Framed::Packed(packed) => {
                packed.unpack(buffer)?;
                buffer
            }
        };
        match value.len() as u64 == value_bytes {
            true => Ok(value),
            false => Err(damaged(offset, "a value is of another length than its reference says")),
        }
    }

    /// The bytes that a reference is about.
    fn framed(&self, reference: ValueRef) -> Result<&[u8], FileError> {
        let ValueRef { offset, bytes, .. } = reference;
        let end = offset.checked_add(bytes).filter(|end| *end <= self.place.offset);
        let range = end.filter(|_| offset >= HEADER_BYTES as u64).and_then(|end| {
            let (from, to) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
            self.pages.get(from..to)
        });
        range.ok_or_else(|| outside(offset))
    }

    /// Bytes of memory that it takes beside what is mapped.
    pub fn memory_bytes(&self) -> usize {
        size_of::<ValueFile>() + size_of_val(&*self.checked)
    }
}

fn outside(offset: u64) -> FileError {
    damaged(offset, "a value lies outside of the file")
}

impl Drop for ValueFile {
    fn drop(&mut self) {
        if *self.superseded.get_mut() {
            (self.on_superseded)(self.place.file);
        }
    }
}

impl fmt::Debug for ValueFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueFile")
            .field("file", &self.place.file)
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

/// The first bytes of a file.
fn header(database: DatabaseId, file: FileId) -> [u8; HEADER_BYTES] {
    format::header_of(HEADER_MAGIC, database, file, 0)
}

fn check_header(bytes: &[u8], database: DatabaseId, file: FileId) -> Result<(), FileError> {
    let other = "the file does not begin as a value file does";
    format::check_header_of(HEADER_MAGIC, other, bytes, |_| header(database, file))
}

/// The last bytes of a file that lie at `place`.
fn footer(totals: ValueTotals, place: Place) -> [u8; FOOTER_BYTES] {
    let mut footer = [0; FOOTER_BYTES];
    footer[..8].copy_from_slice(&totals.values.to_le_bytes());
    footer[8..16].copy_from_slice(&totals.raw_bytes.to_le_bytes());
    footer[40..].copy_from_slice(&FOOTER_MAGIC);
    let checksum = place.checksum(&[&footer[..36], &footer[40..]]);
    footer[36..40].copy_from_slice(&checksum.to_le_bytes());
    footer
}

fn read_footer(bytes: &[u8], place: Place) -> Result<ValueTotals, FileError> {
    let at = place.offset;
    let found: &[u8; FOOTER_BYTES] =
        bytes.first_chunk().ok_or_else(|| damaged(at, "the file has no footer"))?;
    if found[40..] != FOOTER_MAGIC {
        return Err(damaged(at, "the file does not end as a value file does"));
    }
    if number_at(found, 36) != place.checksum(&[&found[..36], &found[40..]]) {
        return Err(damaged(at, "the footer's checksum does not match"));
    }
    let long = |at: usize| {
        let bytes = found.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    Ok(ValueTotals { values: long(0), raw_bytes: long(8) })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const DATABASE: DatabaseId = DatabaseId(7);
    const FILE: FileId = FileId(11);

    fn pairs() -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut noise = 5u64;
        let mut next = move || {
            noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (noise >> 56) as u8
        };
        let mut pair = |number: usize| {
            let length = [0, 1, 7, 900, 1014, 1015, 1016, 5000, 70_000][number % 9];
            let packs = number.is_multiple_of(2);
            let value = (0..length).map(|_| if packs { b'v' } else { next() }).collect();
            (format!("key{number}").into_bytes(), value)
        };
        (0..40).map(&mut pair).collect()
    }

    fn written(compression: Compression) -> (Vec<u8>, Vec<ValueRef>) {
        let mut writer = ValueWriter::new(Vec::new(), DATABASE, FILE, compression).expect("memory");
        let add = |(key, value): (Vec<u8>, Vec<u8>)| writer.add(&key, &value).expect("memory");
        let references = pairs().into_iter().map(add).collect();
        (writer.finish().expect("memory"), references)
    }

    fn open(bytes: Vec<u8>) -> Result<ValueFile, FileError> {
        ValueFile::open(Box::new(bytes), DATABASE, FILE, Arc::new(|_| {}))
    }

    #[test]
    fn every_value_is_read_again_and_only_for_its_own_key() {
        for compression in [Compression::None, Compression::Lz4] {
            let (bytes, references) = written(compression);
            let file = open(bytes).expect("sound");
            assert_eq!(file.totals().values, references.len() as u64);
            for first in [true, false] {
                for ((key, value), reference) in pairs().iter().zip(&references) {
                    let mut buffer = Vec::new();
                    if first {
                        assert!(file.read(b"other", *reference, &mut buffer).is_err());
                    }
                    let found = file.read(key, *reference, &mut buffer).expect("sound");
                    assert!(found == value, "{reference:?}");
                    let mut encoded = Vec::new();
                    reference.encode(&mut encoded);
                    assert_eq!(ValueRef::decode(&encoded), Ok(*reference));
                }
            }
            let packed: u64 = references.iter().map(|reference| reference.bytes).sum();
            assert_eq!(file.bytes(), packed + VALUE_FILE_OVERHEAD);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let (bytes, references) = written(Compression::Lz4);
        let pairs = pairs();
        let sound = |bytes: Vec<u8>| {
            let file = open(bytes)?;
            for ((key, _), reference) in pairs.iter().zip(&references) {
                file.read(key, *reference, &mut Vec::new())?;
            }
            Ok::<(), FileError>(())
        };
        sound(bytes.clone()).expect("nothing is damaged yet");
        for at in (0..bytes.len()).filter(|at| at % 37 == 0 || *at < 70 || at + 60 > bytes.len()) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(sound(flipped).is_err(), "byte {at}");
        }
        for len in (0..bytes.len()).step_by(97) {
            assert!(open(bytes[..len].to_vec()).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_reference_that_leads_elsewhere_is_damage_with_its_file() {
        let (bytes, references) = written(Compression::None);
        let file = open(bytes).expect("sound");
        let right = references[7];
        for wrong in [
            ValueRef { offset: right.offset + 1, ..right },
            ValueRef { offset: u64::MAX, ..right },
            ValueRef { offset: 0, ..right },
            ValueRef { bytes: u64::MAX, ..right },
            ValueRef { bytes: right.bytes - 1, ..right },
            ValueRef { bytes: 0, ..right },
            ValueRef { value_bytes: right.value_bytes + 1, ..right },
            references[6],
        ] {
            let found = file.read(b"key7", wrong, &mut Vec::new()).map(<[u8]>::len);
            assert!(
                matches!(&found, Err(FileError::Values { file: FILE, error })
                    if matches!(**error, FileError::Damaged { .. })),
                "{wrong:?}: {found:?}"
            );
        }
        assert!(file.read(b"key7", right, &mut Vec::new()).is_ok());
    }

    #[test]
    fn a_file_of_another_place_or_a_newer_format_is_refused() {
        let (bytes, _) = written(Compression::None);
        let open_as = |database, file| {
            let pages = Box::new(bytes.clone());
            ValueFile::open(pages, database, file, Arc::new(|_| {})).map(drop)
        };
        assert!(matches!(open_as(DatabaseId(8), FILE), Err(FileError::Damaged { .. })));
        assert!(matches!(open_as(DATABASE, FileId(4)), Err(FileError::Damaged { .. })));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert!(matches!(open(newer), Err(FileError::TooNew { format: 2 })));
    }
}
