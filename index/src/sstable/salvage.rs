//! What can still be read of a file that is damaged, whatever of it that is.
//!
//! 1. Nothing is believed that does not check: a block counts if its checksum, which covers its place, is
//!    right, if it holds together, and if its versions lie between those of the blocks around it.
//! 2. Where the blocks are is told by the index, which the footer leads to; without the footer it is looked
//!    for; without it blocks are found one behind the other by their frames, which end with their lengths and
//!    checksums. Behind a block that is lost every place is tried where a frame may have ended.
//! 3. What is lost is told with its place, and between which keys it lay, as far as what is left says.
//! 4. Nothing here panics, or allocates by a length that was read and not checked.

use std::fmt;

use isolith_wal::{DatabaseId, Lsn};

use super::format::{
    self, FOOTER_BYTES, FileId, Footer, FramePlaces, HEADER_BYTES, Place, Properties, Section,
};
use super::reader::{FileRangeDelete, Indexed, Pages, decode_range_deletes};
use super::values::ValueRef;
use crate::block::{self, Block, Malformed, Position};
use crate::version::Kind;

/// How far a frame is looked for that begins where none is known to begin.
const FRAME_SOUGHT_MAX: usize = 1 << 20;

/// What was lost of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LostPart {
    /// Where it lay, from the beginning of the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
    /// What was there.
    pub lost: Lost,
}

/// What a damaged part of a file held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lost {
    /// Nothing that a key's value depends on.
    Nothing,
    /// Versions of keys above the first, or from it on (`true`), up to the second; none: no bound is known.
    Versions(Option<(Vec<u8>, bool)>, Option<Vec<u8>>),
    /// Range deletes: what they deleted may be there again.
    RangeDeletes,
}

/// What is left of a file.
pub struct Salvaged {
    pages: Box<dyn Pages>,
    place: Place,
    /// The keyspace that it says it is of.
    space: Option<u32>,
    properties: Option<Properties>,
    blocks: Vec<Section>,
    range_deletes: Vec<FileRangeDelete>,
    lost: Vec<LostPart>,
    entries: u64,
}

impl fmt::Debug for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Salvaged")
            .field("file", &self.place.file)
            .field("space", &self.space)
            .field("blocks", &self.blocks.len())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}

/// The database and the keyspace that a file's beginning names, if that is whole.
pub fn claimed(pages: &[u8]) -> Option<(DatabaseId, u32)> {
    format::claimed_by_header(pages)
}

/// Where a lost stretch begins: behind a version, or from a key on.
type After = Option<(Vec<u8>, bool)>;

impl Salvaged {
    /// Looks at every byte of a file.
    pub fn of(pages: Box<dyn Pages>, database: DatabaseId, file: FileId) -> Salvaged {
        let place = Place { database, file, offset: 0 };
        let mut salvaged = Salvaged {
            pages,
            place,
            space: None,
            properties: None,
            blocks: Vec::new(),
            range_deletes: Vec::new(),
            lost: Vec::new(),
            entries: 0,
        };
        salvaged.examine();
        salvaged
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        self.place.file
    }

    /// The keyspace that it says it is of, at its beginning or its end.
    pub fn space(&self) -> Option<u32> {
        self.space
    }

    /// The range deletes that are left.
    pub fn range_deletes(&self) -> &[FileRangeDelete] {
        &self.range_deletes
    }

    /// What is lost, by its place.
    pub fn lost(&self) -> &[LostPart] {
        &self.lost
    }

    /// Versions that are left.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// What the file says of itself, if that is left.
    pub fn properties(&self) -> Option<&Properties> {
        self.properties.as_ref()
    }

    fn lose(&mut self, offset: u64, what: impl Into<String>, lost: Lost) {
        self.lost.push(LostPart { offset, what: what.into(), lost });
    }

    fn examine(&mut self) {
        let (bytes, len) = (self.pages.len(), self.pages.len() as u64);
        if let Err(error) = self.pages.touch(0, len) {
            return self.lose(0, error.to_string(), Lost::Versions(None, None));
        }
        self.space = format::claimed_by_header(&self.pages).map(|(_, space)| space);
        let Place { database, file, .. } = self.place;
        if let Err(error) = format::check_header(&self.pages, database, file) {
            if self.space.is_some() {
                // Whole, and another file's.
                return self.lose(0, error.to_string(), Lost::Versions(None, None));
            }
            self.lose(0, error.to_string(), Lost::Nothing);
        }
        let end = bytes.checked_sub(FOOTER_BYTES).filter(|end| *end >= HEADER_BYTES);
        let footer = end.and_then(|end| {
            let place = Place { offset: end as u64, ..self.place };
            let footer = Footer::decode(&self.pages[end..], place).ok()?;
            Some((footer, format::space_in_footer(&self.pages[end..])))
        });
        match footer {
            Some((footer, space)) => {
                self.space = self.space.or(Some(space));
                self.by_footer(footer, end.unwrap_or_default() as u64);
            }
            None => {
                let at = end.unwrap_or_default() as u64;
                self.lose(at, "the footer is damaged, or cut off", Lost::Nothing);
                self.without_footer();
            }
        }
        self.lost.sort_by_key(|lost| lost.offset);
    }

    /// What a section holds, if it is whole.
    fn section(&self, section: Section) -> Result<Vec<u8>, String> {
        let place = Place { offset: section.offset, ..self.place };
        let framed = self.framed(section).ok_or("it lies outside of the file")?;
        format::unpack(framed, place).map_err(|error| error.to_string())
    }

    fn framed(&self, section: Section) -> Option<&[u8]> {
        let start = usize::try_from(section.offset).ok()?;
        let bytes = usize::try_from(section.bytes).ok()?;
        self.pages.get(start..start.checked_add(bytes)?)
    }

    fn by_footer(&mut self, footer: Footer, end: u64) {
        if footer.properties.bytes > 0 {
            self.take_properties(footer.properties);
        }
        for filter in [footer.filter, footer.prefix_filter] {
            if filter.bytes > 0
                && let Err(what) = self.section(filter)
            {
                self.lose(filter.offset, what, Lost::Nothing);
            }
        }
        if footer.range_deletes.bytes > 0 {
            self.take_range_deletes(footer.range_deletes);
        }
        if footer.index.bytes == 0 {
            return;
        }
        match self.index(footer.index) {
            Ok(index) => self.by_index(&index),
            Err(what) => {
                self.lose(footer.index.offset, what, Lost::Nothing);
                let behind =
                    [footer.filter, footer.prefix_filter, footer.range_deletes, footer.index];
                let behind = behind.iter().filter(|section| section.bytes > 0);
                let end = behind.map(|section| section.offset).min().unwrap_or(end);
                let frames = self.frames(end);
                self.by_frames(&frames, end, true);
            }
        }
    }

    fn take_properties(&mut self, section: Section) {
        let read = self.section(section).and_then(|bytes| {
            Properties::decode(&bytes).map_err(|Malformed| "it was written wrongly".into())
        });
        match read {
            Ok(properties) => self.properties = Some(properties),
            Err(what) => self.lose(section.offset, what, Lost::Nothing),
        }
    }

    fn take_range_deletes(&mut self, section: Section) {
        let read = self.section(section).and_then(|bytes| {
            decode_range_deletes(&bytes).map_err(|Malformed| "it was written wrongly".into())
        });
        match read {
            Ok(range_deletes) => self.range_deletes = range_deletes,
            Err(what) => self.lose(section.offset, what, Lost::RangeDeletes),
        }
    }

    /// The data blocks as the index has them: behind each, how far its keys may reach.
    fn index(&self, section: Section) -> Result<Vec<(Vec<u8>, Indexed)>, String> {
        let bytes = self.section(section)?;
        self.decode_index(&bytes).map_err(|Malformed| "it was written wrongly".into())
    }

    fn decode_index(&self, bytes: &[u8]) -> Result<Vec<(Vec<u8>, Indexed)>, Malformed> {
        let block = Block::new(bytes)?;
        let mut position = Position::default();
        let mut index = Vec::new();
        let mut more = position.first(&block)?;
        while more {
            let (key, entry) = position.entry(&block).ok_or(Malformed)?;
            if !position.is_of_index(&block) {
                return Err(Malformed);
            }
            index.push((key.to_vec(), Indexed::decode(entry.value)?));
            more = position.advance(&block)?.is_some();
        }
        Ok(index)
    }

    /// Where the first version may be, as far as it is known.
    fn smallest(&self) -> After {
        self.properties.as_ref().map(|properties| (properties.smallest.clone(), true))
    }

    fn by_index(&mut self, index: &[(Vec<u8>, Indexed)]) {
        let mut after = self.smallest();
        let mut last: Option<(Vec<u8>, Lsn)> = None;
        for (separator, indexed) in index {
            match self.check_block(indexed.section, &mut last) {
                Ok(entries) => {
                    self.entries += entries;
                    self.blocks.push(indexed.section);
                }
                Err(what) => {
                    let lost = Lost::Versions(after.clone(), Some(separator.clone()));
                    self.lose(indexed.section.offset, what, lost);
                }
            }
            // Some versions of the key may be in the block before, and others in this one.
            after = Some((separator.clone(), true));
        }
    }

    /// Reads a data block from its first to its last version; `last` is the version before it.
    fn check_block(
        &self,
        section: Section,
        last: &mut Option<(Vec<u8>, Lsn)>,
    ) -> Result<u64, String> {
        let bytes = self.section(section)?;
        let malformed = |Malformed| String::from("the block was written wrongly");
        let block = Block::new(&bytes).map_err(malformed)?;
        let mut position = Position::default();
        let mut more = position.first(&block).map_err(malformed)?;
        let (mut at, mut entries) = (last.clone(), 0);
        while more {
            let (key, entry) = position.entry(&block).ok_or_else(|| malformed(Malformed))?;
            let ascends = at.as_ref().is_none_or(|(before, stamp)| {
                block::order((before, *stamp), (key, entry.stamp)).is_lt()
            });
            if !ascends || position.is_of_index(&block) {
                return Err("its versions are not in order".into());
            }
            if entry.large {
                ValueRef::decode(entry.value).map_err(malformed)?;
            }
            let (known, stamp) = at.get_or_insert_default();
            known.clear();
            known.extend_from_slice(key);
            *stamp = entry.stamp;
            entries += 1;
            more = position.advance(&block).map_err(malformed)?.is_some();
        }
        if entries == 0 {
            return Err("it is empty".into());
        }
        *last = at;
        Ok(entries)
    }

    // ---- without a footer

    fn without_footer(&mut self) {
        let end = self.pages.len() as u64;
        let frames = self.frames(end);
        let index = frames.iter().position(|frame| self.index(*frame).is_ok());
        let Some(at) = index else {
            self.by_frames(&frames, end, false);
            let known = self.properties.as_ref().is_some_and(|known| known.range_deletes == 0);
            if !known {
                let what = "if the file had range deletes, they are lost";
                self.lose(end, what, Lost::RangeDeletes);
            }
            return;
        };
        if let Some(properties) = frames.get(at + 1) {
            self.take_properties(*properties);
        }
        let index = self.index(frames[at]).unwrap_or_default();
        self.by_index(&index);
        match self.properties.as_ref().map(|known| known.range_deletes) {
            Some(0) => {}
            // They lie right before the index.
            expected => {
                let before = at.checked_sub(1).map(|before| frames[before]);
                let before = before.filter(|section| !self.blocks.contains(section));
                let found = before.and_then(|section| {
                    let found = decode_range_deletes(&self.section(section).ok()?).ok()?;
                    expected.is_none_or(|expected| expected == found.len() as u64).then_some(found)
                });
                match found {
                    Some(found) => self.range_deletes = found,
                    None => {
                        let what = "if the file had range deletes, they are lost";
                        self.lose(frames[at].offset, what, Lost::RangeDeletes);
                    }
                }
            }
        }
    }

    /// Takes what lies in frames one behind the other for data blocks, as far as it is. `whole`: they
    /// went up to `end`; otherwise there may have been more.
    fn by_frames(&mut self, frames: &[Section], end: u64, whole: bool) {
        let mut after = self.smallest();
        let mut last: Option<(Vec<u8>, Lsn)> = None;
        let mut reached = HEADER_BYTES as u64;
        // What lay between two blocks that are sound is lost between their keys.
        let mut gap: Option<(u64, After)> = None;
        for frame in frames {
            if frame.offset > reached && gap.is_none() {
                gap = Some((reached, after.clone()));
            }
            reached = frame.offset.saturating_add(frame.bytes);
            let Ok(entries) = self.check_block(*frame, &mut last) else { continue };
            if let Some((offset, after)) = gap.take() {
                let first = self.first_key(*frame);
                let what = "there is no sound block here";
                self.lose(offset, what, Lost::Versions(after, first));
            }
            self.entries += entries;
            self.blocks.push(*frame);
            after = last.as_ref().map(|(key, _)| (key.clone(), true));
        }
        if gap.is_none() && (reached < end || !whole) {
            gap = Some((reached, after));
        }
        if let Some((offset, after)) = gap {
            let largest = self.properties.as_ref().and_then(|known| known.largest.clone());
            let what = "there is no sound block from here on";
            self.lose(offset, what, Lost::Versions(after, largest));
        }
    }

    fn first_key(&self, section: Section) -> Option<Vec<u8>> {
        let bytes = self.section(section).ok()?;
        let block = Block::new(&bytes).ok()?;
        let mut position = Position::default();
        position.first(&block).ok()?;
        Some(position.entry(&block)?.0.to_vec())
    }

    /// The frames before `end` that check, in order.
    fn frames(&self, end: u64) -> Vec<Section> {
        let end = usize::try_from(end).unwrap_or(usize::MAX).min(self.pages.len());
        let bytes = &self.pages[..end];
        let places = FramePlaces::of(bytes);
        let mut frames = Vec::new();
        let mut start = HEADER_BYTES.min(end);
        // Whether something says that a frame begins at `start`.
        let mut known = true;
        while start < end {
            let sought = if known { end } else { end.min(start.saturating_add(FRAME_SOUGHT_MAX)) };
            let place = Place { offset: start as u64, ..self.place };
            let candidates = places.ends(start, sought).into_iter();
            if let Some(at) = format::frame_from(bytes, place, candidates) {
                frames.push(Section { offset: start as u64, bytes: (at - start) as u64 });
                (start, known) = (at, true);
                continue;
            }
            // A frame that is lost may end with what looks like an end.
            let Some(next) = places.next_start(start + 1) else { break };
            (start, known) = (next, false);
        }
        frames
    }
}

/// Goes over the versions that are left of a file, in their order. It holds one block at a time.
#[derive(Debug)]
pub struct SalvageCursor<'s> {
    file: &'s Salvaged,
    /// The next block.
    next: usize,
    block: Vec<u8>,
    position: Position,
}

/// A version: its key, stamp, kind, time and value.
pub type SalvagedVersion<'c> = (&'c [u8], Lsn, Kind, u64, SalvagedValue<'c>);

/// A value as what is left of a file has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SalvagedValue<'c> {
    /// It is here.
    Here(&'c [u8]),
    /// It is in a value file: [`ValueFile::read`](super::ValueFile::read) has it, if that is left.
    Large(ValueRef),
}

impl<'s> SalvageCursor<'s> {
    /// Before the first version.
    pub fn new(file: &'s Salvaged) -> Self {
        Self { file, next: 0, block: Vec::new(), position: Position::default() }
    }

    /// Goes to the next version; false at the end. A block that cannot be read any more is passed over.
    pub fn advance(&mut self) -> bool {
        if let Ok(block) = Block::new(&self.block)
            && self.position.advance(&block).is_ok_and(|entry| entry.is_some())
        {
            return true;
        }
        while let Some(section) = self.file.blocks.get(self.next) {
            self.next += 1;
            self.block = self.file.section(*section).unwrap_or_default();
            self.position.reset();
            if let Ok(block) = Block::new(&self.block)
                && self.position.first(&block).unwrap_or(false)
            {
                return true;
            }
        }
        self.block.clear();
        false
    }

    /// The version that it is at.
    pub fn version(&self) -> Option<SalvagedVersion<'_>> {
        let block = Block::new(&self.block).ok()?;
        let (key, entry) = self.position.entry(&block)?;
        let value = match entry.large {
            true => SalvagedValue::Large(ValueRef::decode(entry.value).ok()?),
            false => SalvagedValue::Here(entry.value),
        };
        Some((key, entry.stamp, entry.kind, entry.time, value))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
