//! The two ends of a file: what is read when it is opened, and what is left for the first who needs it.
//!
//! 1. Header, footer, properties and range deletes are checked at open: some hundred bytes, however long the
//!    file is.
//! 2. The index and the filters grow with the file. Each is checked once, when it is first looked at, and what is
//!    damaged is told to whoever looks, each time.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use isolith_wal::{DatabaseId, Lsn};

use super::{CheckedIndex, FileRangeDelete, Indexed, Pages, PrefixLines, Sstable, lookup};
use crate::block::{self, Block, Malformed, Position};
use crate::sstable::filter;
use crate::sstable::format::{
    self, FOOTER_BYTES, FileError, FileId, Footer, HEADER_BYTES, Place, Properties, damaged,
};
use crate::sstable::prefix;

impl Sstable {
    /// Opens a file: checks its header and its end. The index, the filters and the data blocks are checked when
    /// they are first touched.
    ///
    /// # Errors
    /// What is damaged there, a newer format, or the storage's failure.
    pub fn open(
        pages: Box<dyn Pages>,
        database: DatabaseId,
        file: FileId,
    ) -> Result<Arc<Self>, FileError> {
        let len = pages.len();
        pages.touch(0, (HEADER_BYTES as u64).min(len as u64))?;
        format::check_header(&pages, database, file)?;
        let Some(end) = len.checked_sub(FOOTER_BYTES).filter(|end| *end >= HEADER_BYTES) else {
            return Err(damaged(0, "the file is cut short"));
        };
        let place = Place { database, file, offset: end as u64 };
        pages.touch(end as u64, FOOTER_BYTES as u64)?;
        let footer = Footer::decode(&pages[end..], place)?;
        let mut sstable = Self {
            pages,
            place,
            footer,
            properties: Properties::default(),
            assigned: None,
            range_deletes: Vec::new(),
            furthest: Box::default(),
            index: OnceLock::new(),
            filter: OnceLock::new(),
            prefix_filter: OnceLock::new(),
            cache: None,
            values: Vec::new(),
            hasher: filter::hasher(),
        };
        sstable.read_ends()?;
        Ok(Arc::new(sstable))
    }

    fn read_ends(&mut self) -> Result<(), FileError> {
        let Footer { range_deletes, properties, .. } = self.footer;
        let malformed = |Malformed| damaged(properties.offset, "it was written wrongly");
        let bytes = self.whole(properties)?;
        self.properties = Properties::decode(&bytes).map_err(malformed)?;
        if range_deletes.bytes > 0 {
            let malformed = |Malformed| damaged(range_deletes.offset, "it was written wrongly");
            let bytes = self.whole(range_deletes)?;
            self.range_deletes = decode_range_deletes(&bytes).map_err(malformed)?;
            self.range_deletes.sort_unstable_by(|left, right| left.0.cmp(&right.0));
            self.furthest = lookup::furthest(&self.range_deletes);
        }
        Ok(())
    }

    /// Checks the index and the filters, if nobody has yet.
    ///
    /// # Errors
    /// What is damaged there, or the storage's failure.
    pub fn check_ends(&self) -> Result<(), FileError> {
        if self.footer.index.bytes > 0 {
            self.index()?;
        }
        self.filter()?;
        self.prefix_filter().map(drop)
    }

    /// The index of a file that has one.
    #[inline]
    pub(super) fn index(&self) -> Result<&CheckedIndex, FileError> {
        match self.index.get() {
            Some(index) => Ok(index),
            None => self.check_index(),
        }
    }

    #[cold]
    fn check_index(&self) -> Result<&CheckedIndex, FileError> {
        let section = self.footer.index;
        let malformed = |Malformed| damaged(section.offset, "it was written wrongly");
        let at = self.plain(section)?;
        let block = Block::new(self.slice(at)).map_err(malformed)?;
        let mut last = Position::default();
        last.last(&block).map_err(malformed)?;
        let (_, entry) = last.entry(&block).ok_or(Malformed).map_err(malformed)?;
        let number = Indexed::decode(entry.value).map_err(malformed)?.number;
        // A block takes several bytes of the file: the number of blocks is bounded by its length.
        if number >= self.pages.len() as u64 {
            return Err(malformed(Malformed));
        }
        let checked = (0..(number + 1).div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        // Of several who check it at once one is kept: they have all found the same bytes.
        Ok(self.index.get_or_init(|| CheckedIndex { at, checked }))
    }

    /// The filter; empty, which passes all, if there is none.
    #[inline]
    pub(super) fn filter(&self) -> Result<&[u8], FileError> {
        match self.filter.get() {
            Some(at) => Ok(self.slice(*at)),
            None => self.check_filter(),
        }
    }

    #[cold]
    fn check_filter(&self) -> Result<&[u8], FileError> {
        let section = self.footer.filter;
        let at = if section.bytes > 0 { self.plain(section)? } else { (0, 0) };
        Ok(self.slice(*self.filter.get_or_init(|| at)))
    }

    /// The filter of prefixes, if there is one.
    #[inline]
    pub(super) fn prefix_filter(&self) -> Result<Option<PrefixLines>, FileError> {
        match self.prefix_filter.get() {
            Some(known) => Ok(*known),
            None => self.check_prefix_filter(),
        }
    }

    #[cold]
    fn check_prefix_filter(&self) -> Result<Option<PrefixLines>, FileError> {
        let section = self.footer.prefix_filter;
        let mut found = None;
        if section.bytes > 0 {
            let at = self.plain(section)?;
            let raw = self.slice(at);
            let extractor = prefix::extractor_of(raw)
                .ok_or_else(|| damaged(section.offset, "it was written wrongly"))?;
            found = Some((extractor, (at.0, prefix::lines(raw).len())));
        }
        Ok(*self.prefix_filter.get_or_init(|| found))
    }
}

pub(in crate::sstable) fn decode_range_deletes(
    mut input: &[u8],
) -> Result<Vec<FileRangeDelete>, Malformed> {
    let input = &mut input;
    let mut range_deletes = Vec::new();
    while !input.is_empty() {
        let stamp = Lsn::from_bits(block::number(input)?);
        let (start, end) = (block::length(input)?, block::length(input)?);
        let start = block::take(input, start)?.into();
        let end = match end.checked_sub(1) {
            Some(bytes) => Some(block::take(input, bytes)?.into()),
            None => None,
        };
        range_deletes.push((start, end, stamp));
    }
    Ok(range_deletes)
}
