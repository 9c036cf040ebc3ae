//! Reads an SSTable: one key, or versions in order from both ends.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use isolith_wal::{FileMap, Lsn};

use super::cache::{BlockCache, Unpacked};
use super::filter;
use super::format::{self, FileError, FileId, Footer, Framed, Place, Properties, Section, damaged};
use super::prefix::PrefixExtractor;
use super::values::ValueFile;
use crate::KeyRange;
use crate::block::{self, Block, Entry, Malformed, Position};
use crate::hash::Hasher;
use crate::version::Kind;

mod ahead;
mod ends;
mod estimate;
mod inspect;
mod lookup;
mod value;

use ahead::Ahead;
pub(super) use ends::decode_range_deletes;
pub use value::FileValue;

pub(crate) use lookup::{Probe, is_above, is_below};

/// A file's bytes in memory, mapped or read.
pub trait Pages: Deref<Target = [u8]> + Send + Sync + fmt::Debug + 'static {
    /// Called before the bytes of a range are looked at for the first time: brings them into memory, so
    /// that a device that fails is an error here and not a signal later.
    fn touch(&self, offset: u64, bytes: u64) -> std::io::Result<()>;

    /// Says that a range is going to be looked at soon. Waits for nothing.
    fn will_need(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }
}

impl Pages for FileMap {
    fn touch(&self, offset: u64, bytes: u64) -> std::io::Result<()> {
        FileMap::touch(self, offset, bytes)
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        FileMap::will_need(self, offset, bytes);
    }
}

impl Pages for Vec<u8> {
    fn touch(&self, _: u64, _: u64) -> std::io::Result<()> {
        Ok(())
    }
}

/// A range delete as a file has it: start, end (excluded; none: to the last key of all), stamp.
pub type FileRangeDelete = (Box<[u8]>, Option<Box<[u8]>>, Lsn);

/// An open SSTable.
pub struct Sstable {
    pages: Box<dyn Pages>,
    place: Place,
    footer: Footer,
    properties: Properties,
    /// The stamp of every version, where the file was written before it was known.
    assigned: Option<Lsn>,
    /// By their starts.
    range_deletes: Vec<FileRangeDelete>,
    furthest: Box<[usize]>,
    /// The index, once it was checked, and where the filter lies, once that was.
    index: OnceLock<CheckedIndex>,
    filter: OnceLock<(usize, usize)>,
    /// The same of the lines of the prefix filter, and whose prefixes they are.
    prefix_filter: OnceLock<Option<PrefixLines>>,
    /// Where its decompressed blocks are kept, if anywhere.
    cache: Option<Arc<BlockCache>>,
    /// The value files that it refers to, by number.
    values: Vec<Arc<ValueFile>>,
    hasher: Hasher,
}

/// Whose prefixes a filter has, and where its lines lie.
type PrefixLines = (PrefixExtractor, (usize, usize));

/// An index whose checksum was found right: it is read where it lies.
struct CheckedIndex {
    at: (usize, usize),
    /// A bit for each data block whose checksum was found right. Relaxed: the bytes are the file's, and
    /// whoever does not see the bit checks once more.
    checked: Box<[AtomicU64]>,
}

impl fmt::Debug for Sstable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sstable")
            .field("file", &self.place.file)
            .field("properties", &self.properties)
            .finish_non_exhaustive()
    }
}

/// A version that a file has of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionAt {
    /// The commit.
    pub stamp: Lsn,
    /// What it says of the key.
    pub kind: Kind,
    /// Expiry of a put, or when the transaction of a merge began; 0: none.
    pub time: u64,
    /// The value.
    pub value: Vec<u8>,
}

/// What the index says of a data block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Indexed {
    number: u64,
    pub(super) section: Section,
    stamp_min: Lsn,
    stamp_max: Lsn,
}

impl Indexed {
    pub(super) fn decode(mut value: &[u8]) -> Result<Self, Malformed> {
        let value = &mut value;
        let mut next = || block::number(value);
        let (number, offset, bytes) = (next()?, next()?, next()?);
        let (min, max) = (next()?, next()?);
        Ok(Self {
            number,
            section: Section { offset, bytes },
            stamp_min: Lsn::from_bits(min),
            stamp_max: Lsn::from_bits(max),
        })
    }
}

/// A data block: where it lies, or what it came to.
#[derive(Clone, Debug, Default)]
enum DataBlock {
    #[default]
    None,
    Plain {
        offset: usize,
        bytes: usize,
    },
    Unpacked(Vec<u8>),
    Kept(Unpacked),
}

impl Sstable {
    /// The bytes of a section, touched; checked to lie in the file.
    fn section(&self, section: Section) -> Result<&[u8], FileError> {
        let outside = || damaged(section.offset, "a block lies outside of the file");
        let start = usize::try_from(section.offset).map_err(|_| outside())?;
        let bytes = usize::try_from(section.bytes).map_err(|_| outside())?;
        let end = start.checked_add(bytes).ok_or_else(outside)?;
        let framed = self.pages.get(start..end).ok_or_else(outside)?;
        Ok(framed)
    }

    fn place(&self, section: Section) -> Place {
        Place { offset: section.offset, ..self.place }
    }

    fn checked_section(&self, section: Section) -> Result<Framed<'_>, FileError> {
        let framed = self.section(section)?;
        self.pages.touch(section.offset, section.bytes)?;
        format::unframe(framed, self.place(section))
    }

    /// What a section holds, as a copy.
    fn whole(&self, section: Section) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::new();
        match self.checked_section(section)? {
            Framed::Plain(plain) => bytes.extend_from_slice(plain),
            Framed::Packed(packed) => packed.unpack(&mut bytes)?,
        }
        Ok(bytes)
    }

    /// Where a section's bytes lie that is never compressed.
    fn plain(&self, section: Section) -> Result<(usize, usize), FileError> {
        match self.checked_section(section)? {
            // In the file, since it was found there.
            Framed::Plain(plain) => Ok((section.offset as usize, plain.len())),
            Framed::Packed(_) => Err(damaged(section.offset, "it was written wrongly")),
        }
    }

    fn slice(&self, (offset, bytes): (usize, usize)) -> &[u8] {
        self.pages.get(offset..offset + bytes).unwrap_or_default()
    }

    fn index_block(&self) -> Result<Block<'_>, FileError> {
        Block::new(self.slice(self.index()?.at)).map_err(|_| self.index_damaged())
    }

    fn index_damaged(&self) -> FileError {
        damaged(self.footer.index.offset, "the index was written wrongly")
    }

    /// Whether its versions have no stamp yet: they were written, all with [`Lsn::ZERO`], before the commit
    /// that they belong to.
    pub fn is_unassigned(&self) -> bool {
        let properties = &self.properties;
        properties.entries > 0 && properties.range_deletes == 0 && properties.stamp_max == Lsn::ZERO
    }

    /// Gives every version of an [unassigned](Sstable::is_unassigned) file its stamp. It stays a thing of
    /// memory: the manifest keeps it.
    pub fn assign(&mut self, stamp: Lsn) {
        debug_assert!(self.is_unassigned(), "the versions have their stamps");
        self.assigned = Some(stamp);
        (self.properties.stamp_min, self.properties.stamp_max) = (stamp, stamp);
    }

    /// What it holds.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.place.file
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Its range deletes, by their starts.
    pub fn range_deletes(&self) -> &[FileRangeDelete] {
        &self.range_deletes
    }

    /// False if no version of the key is in the file; true if there may be one.
    pub fn may_have(&self, key: &[u8]) -> Result<bool, FileError> {
        Ok(filter::may_have(self.filter()?, self.hasher.hash(key)))
    }

    /// False if no version of a key in the range is in the file; true if there may be one. Range deletes are
    /// not looked at.
    pub(crate) fn may_have_in(&self, range: KeyRange<'_>) -> Result<bool, FileError> {
        let Some((extractor, lines)) = self.prefix_filter()? else { return Ok(true) };
        let Some(prefix) = extractor.of_range(range) else { return Ok(true) };
        Ok(filter::may_have(self.slice(lines), self.hasher.hash(prefix)))
    }

    /// Whether the prefix filter lets a key of the file pass: it has to.
    fn prefix_passes(&self, key: &[u8]) -> Result<bool, FileError> {
        let Some((extractor, lines)) = self.prefix_filter()? else { return Ok(true) };
        let passes = |prefix| filter::may_have(self.slice(lines), self.hasher.hash(prefix));
        Ok(extractor.prefix(key).is_none_or(passes))
    }

    /// The newest version of a key at or below `read`.
    pub fn get(&self, key: &[u8], read: Lsn) -> Result<Option<VersionAt>, FileError> {
        if self.footer.index.bytes == 0 || !self.may_have(key)? {
            return Ok(None);
        }
        let mut cursor = Cursor::default();
        if !cursor.seek(self, key, read)? {
            return Ok(None);
        }
        let found = cursor.entry(self)?.filter(|(found, _)| *found == key);
        let Some((_, entry)) = found else { return Ok(None) };
        let mut buffer = Vec::new();
        let value = self.value(entry)?.read(key, &mut buffer)?.to_vec();
        let Entry { stamp, kind, time, .. } = entry;
        Ok(Some(VersionAt { stamp, kind, time, value }))
    }

    /// Data blocks, about: as many as checksums were kept for.
    pub(crate) fn blocks(&self) -> Result<u64, FileError> {
        match self.footer.index.bytes {
            0 => Ok(0),
            _ => Ok(64 * self.index()?.checked.len() as u64),
        }
    }

    /// Goes over the data blocks: a key that is not below the block's and below the next block's, and the
    /// bytes of the block.
    pub(crate) fn each_block(&self, mut visit: impl FnMut(&[u8], u64)) -> Result<(), FileError> {
        if self.footer.index.bytes == 0 {
            return Ok(());
        }
        let block = self.index_block()?;
        let mut position = Position::default();
        let mut more = position.first(&block).map_err(|Malformed| self.index_damaged())?;
        while more {
            let (key, entry) = position.entry(&block).ok_or_else(|| self.index_damaged())?;
            let indexed = Indexed::decode(entry.value).map_err(|Malformed| self.index_damaged())?;
            visit(key, indexed.section.bytes);
            let next = position.advance(&block).map_err(|Malformed| self.index_damaged())?;
            more = next.is_some();
        }
        Ok(())
    }

    /// Reads every block and checks it, and the order of all versions; gives how many there are. What is
    /// damaged is told with its place.
    pub fn verify(self: &Arc<Self>) -> Result<u64, FileError> {
        for word in self.index.get().into_iter().flat_map(|index| &index.checked) {
            // Relaxed, as wherever bits of `checked` are touched: see there.
            word.store(0, Ordering::Relaxed);
        }
        let mut cursor = FileCursor::new(Arc::clone(self));
        let mut last: Option<(Vec<u8>, Lsn)> = None;
        let mut entries = 0;
        let mut more = cursor.first()?;
        while more {
            let (key, entry) = cursor.cursor.entry(self)?.ok_or_else(|| self.index_damaged())?;
            let in_order = last.as_ref().is_none_or(|(last, stamp)| {
                block::order((last, *stamp), (key, entry.stamp)).is_lt()
            });
            if !in_order || !self.may_have(key)? || !self.prefix_passes(key)? {
                return Err(damaged(cursor.cursor.offset, "the versions are not in order"));
            }
            let (known, stamp) = last.get_or_insert_default();
            known.clear();
            known.extend_from_slice(key);
            *stamp = entry.stamp;
            entries += 1;
            more = cursor.advance()?;
        }
        match entries == self.properties.entries {
            true => Ok(entries),
            false => Err(damaged(self.footer.properties.offset, "the number of versions is wrong")),
        }
    }

    /// Has its decompressed blocks kept. It has to be done before the first read, while nobody else has the table.
    pub fn keep_in(&mut self, cache: &Arc<BlockCache>) {
        self.cache = Some(Arc::clone(cache));
    }

    /// A data block that is kept.
    fn kept(&self, number: u64) -> Option<Unpacked> {
        self.cache.as_ref()?.get(self.id(), number)
    }

    /// Reads a data block; its checksum is looked at when it is the first time. It is kept, unless it is read
    /// `once`.
    fn load(&self, indexed: Indexed, once: bool, into: &mut DataBlock) -> Result<(), FileError> {
        let section = indexed.section;
        let checked = &self.index()?.checked;
        let (word, bit) = (indexed.number / 64, 1 << (indexed.number % 64));
        let word = usize::try_from(word).ok().and_then(|word| checked.get(word));
        let word = word.ok_or_else(|| self.index_damaged())?;
        // Relaxed, here and below: the bit says only that these bytes, which never change, were checked. Who does
        // not see it yet checks them again.
        let framed = if word.load(Ordering::Relaxed) & bit == 0 {
            let framed = self.checked_section(section)?;
            word.fetch_or(bit, Ordering::Relaxed);
            framed
        } else {
            format::open_checked(self.section(section)?, section.offset)?
        };
        match framed {
            Framed::Plain(plain) => {
                // In the file, since it was found there.
                let offset = section.offset as usize;
                *into = DataBlock::Plain { offset, bytes: plain.len() };
            }
            Framed::Packed(packed) => {
                let mut bytes = match std::mem::take(into) {
                    DataBlock::Unpacked(bytes) => bytes,
                    _ => Vec::new(),
                };
                packed.unpack(&mut bytes)?;
                *into = match self.cache.as_deref().filter(|cache| !once && cache.wants()) {
                    Some(cache) => {
                        let unpacked = Arc::new(bytes);
                        cache.keep(self.id(), indexed.number, &unpacked);
                        DataBlock::Kept(unpacked)
                    }
                    None => DataBlock::Unpacked(bytes),
                };
            }
        }
        Ok(())
    }

    fn open_block<'b>(&'b self, data: &'b DataBlock, offset: u64) -> Result<Block<'b>, FileError> {
        let bytes = match data {
            DataBlock::None => &[],
            DataBlock::Plain { offset, bytes } => self.slice((*offset, *bytes)),
            DataBlock::Unpacked(bytes) => bytes,
            DataBlock::Kept(bytes) => bytes,
        };
        Block::new(bytes).map_err(|Malformed| damaged(offset, "a block was written wrongly"))
    }
}

/// A place in a file: in the index, and in the data block that the index is at.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    index: Position,
    data: DataBlock,
    /// Of the data block.
    offset: u64,
    /// Which file's and which block `data` is; none: none.
    loaded: Option<(FileId, u64)>,
    position: Position,
    ahead: Ahead,
    /// Every block is read once: none is kept, and none that was kept is believed.
    once: bool,
}

impl Cursor {
    /// Loads the block that the index is at.
    fn enter(&mut self, file: &Sstable) -> Result<(), FileError> {
        let index = file.index_block()?;
        let (_, entry) = self.index.entry(&index).ok_or_else(|| file.index_damaged())?;
        let indexed = Indexed::decode(entry.value).map_err(|Malformed| file.index_damaged())?;
        self.offset = indexed.section.offset;
        self.position.reset();
        let block = (file.id(), indexed.number);
        if self.loaded == Some(block) {
            return Ok(());
        }
        self.loaded = None;
        let kept = if self.once { None } else { file.kept(indexed.number) };
        match kept {
            Some(kept) => self.data = DataBlock::Kept(kept),
            None => {
                if let Some((offset, bytes)) = self.ahead.enter(indexed.number, indexed.section) {
                    file.pages.will_need(offset, bytes);
                }
                file.load(indexed, self.once, &mut self.data)?;
            }
        }
        self.loaded = Some(block);
        Ok(())
    }

    /// Moves within the data block.
    fn within<T>(
        &mut self,
        file: &Sstable,
        go: impl FnOnce(&mut Position, &Block<'_>) -> Result<T, Malformed>,
    ) -> Result<T, FileError> {
        let block = file.open_block(&self.data, self.offset)?;
        go(&mut self.position, &block)
            .map_err(|Malformed| damaged(self.offset, "a block was written wrongly"))
    }

    /// Moves in the index.
    fn in_index<T>(
        &mut self,
        file: &Sstable,
        go: impl FnOnce(&mut Position, &Block<'_>) -> Result<T, Malformed>,
    ) -> Result<T, FileError> {
        let block = file.index_block()?;
        go(&mut self.index, &block).map_err(|Malformed| file.index_damaged())
    }

    /// Reads the block that it is entered into next, whichever it is.
    pub(crate) fn forget(&mut self) {
        self.loaded = None;
    }

    /// Bytes that its buffers take.
    fn buffer_bytes(&self) -> usize {
        let unpacked = match &self.data {
            DataBlock::Unpacked(bytes) => bytes.capacity(),
            DataBlock::Kept(bytes) => bytes.capacity(),
            DataBlock::None | DataBlock::Plain { .. } => 0,
        };
        unpacked + self.index.key().len() + self.position.key().len()
    }

    /// The key that it is at; what it was is told when it is at none.
    pub(crate) fn key(&self) -> &[u8] {
        self.position.key()
    }

    pub(crate) fn entry<'c>(
        &'c self,
        file: &'c Sstable,
    ) -> Result<Option<(&'c [u8], Entry<'c>)>, FileError> {
        let block = file.open_block(&self.data, self.offset)?;
        let entry = self.position.entry(&block);
        Ok(match file.assigned {
            None => entry,
            Some(stamp) => entry.map(|(key, entry)| (key, Entry { stamp, ..entry })),
        })
    }

    pub(crate) fn first(&mut self, file: &Sstable) -> Result<bool, FileError> {
        if file.footer.index.bytes == 0 || !self.in_index(file, Position::first)? {
            return Ok(false);
        }
        self.enter(file)?;
        self.within(file, Position::first)
    }

    pub(crate) fn last(&mut self, file: &Sstable) -> Result<bool, FileError> {
        if file.footer.index.bytes == 0 || !self.in_index(file, Position::last)? {
            return Ok(false);
        }
        self.enter(file)?;
        self.within(file, Position::last)
    }

    pub(crate) fn advance(&mut self, file: &Sstable) -> Result<bool, FileError> {
        if self.within(file, |position, block| Ok(position.advance(block)?.is_some()))? {
            return Ok(true);
        }
        if !self.in_index(file, |position, block| Ok(position.advance(block)?.is_some()))? {
            return Ok(false);
        }
        self.enter(file)?;
        self.within(file, Position::first)
    }

    pub(crate) fn back(&mut self, file: &Sstable) -> Result<bool, FileError> {
        if self.within(file, Position::back)? {
            return Ok(true);
        }
        if !self.in_index(file, Position::back)? {
            return Ok(false);
        }
        self.enter(file)?;
        self.within(file, Position::last)
    }

    pub(crate) fn seek(
        &mut self,
        file: &Sstable,
        key: &[u8],
        stamp: Lsn,
    ) -> Result<bool, FileError> {
        let found = self.seek_stored(file, key, stamp)?;
        // By its own stamp the only version of the key was not passed over.
        match file.assigned {
            Some(assigned) if found && stamp < assigned && self.key() == key => self.advance(file),
            _ => Ok(found),
        }
    }

    /// The same by the stamps that are in the file.
    fn seek_stored(&mut self, file: &Sstable, key: &[u8], stamp: Lsn) -> Result<bool, FileError> {
        if file.footer.index.bytes == 0
            || !self.in_index(file, |position, block| position.seek(block, key, stamp))?
        {
            return Ok(false);
        }
        self.enter(file)?;
        if self.within(file, |position, block| position.seek(block, key, stamp))? {
            return Ok(true);
        }
        // A separator lies behind the last version of its block.
        self.advance(file)
    }
}

/// Goes over a file's versions, in order and back, past the cache. It owns the file, not a pin.
#[derive(Debug)]
pub struct FileCursor {
    file: Arc<Sstable>,
    cursor: Cursor,
}

/// A version under a cursor: its key, stamp, kind, time and value.
pub type FileSource<'c> = (&'c [u8], Lsn, Kind, u64, FileValue<'c>);

impl FileCursor {
    /// At no version yet.
    pub fn new(file: Arc<Sstable>) -> Self {
        Self { file, cursor: Cursor { once: true, ..Cursor::default() } }
    }

    /// The file that it goes over.
    pub(crate) fn id(&self) -> FileId {
        self.file.id()
    }

    /// The damage that the version it is at is not above the one before.
    pub fn out_of_order(&self) -> FileError {
        damaged(self.cursor.offset, "the versions are not in order")
    }

    /// The version that the cursor is at.
    pub fn version(&self) -> Result<Option<FileSource<'_>>, FileError> {
        let Some((key, entry)) = self.cursor.entry(&self.file)? else { return Ok(None) };
        let value = self.file.value(entry)?;
        Ok(Some((key, entry.stamp, entry.kind, entry.time, value)))
    }

    /// Goes to the first version; false if there is none.
    pub fn first(&mut self) -> Result<bool, FileError> {
        self.cursor.first(&self.file)
    }

    /// Goes to the last version; false if there is none.
    pub fn last(&mut self) -> Result<bool, FileError> {
        self.cursor.last(&self.file)
    }

    /// Goes to the next version; false at the end.
    pub fn advance(&mut self) -> Result<bool, FileError> {
        self.cursor.advance(&self.file)
    }

    /// Goes to the version before; false at the beginning.
    pub fn back(&mut self) -> Result<bool, FileError> {
        self.cursor.back(&self.file)
    }

    /// Goes to the newest version of `key` at or below `stamp`, or the first version of a later key.
    pub fn seek(&mut self, key: &[u8], stamp: Lsn) -> Result<bool, FileError> {
        self.cursor.seek(&self.file, key, stamp)
    }
}
