//! What a file says of one key, or of an interval.

use std::ops::Bound;

use isolith_wal::Lsn;

use super::{Cursor, Indexed, Sstable};
use crate::KeyRange;
use crate::block::{Entry, Position};
use crate::range_deletes::Cover;
use crate::sstable::filter;
use crate::sstable::format::FileError;

impl Sstable {
    /// What the range deletes say of a key to a reader at `read`.
    pub(crate) fn cover(&self, key: &[u8], read: Lsn) -> Cover {
        let mut cover = Cover::default();
        for (start, end, stamp) in &self.range_deletes {
            if **start <= *key && end.as_deref().is_none_or(|end| key < end) {
                match *stamp <= read {
                    true => cover.stamp = cover.stamp.max(*stamp),
                    false => cover.skipped_newer = true,
                }
            }
        }
        cover
    }

    /// Something newer than `above` within the range: the stamp of a range delete that overlaps it or else
    /// of the first such version. Blocks without anything that new are not looked into.
    pub(crate) fn newer_in(
        &self,
        range: KeyRange<'_>,
        above: Lsn,
    ) -> Result<Option<Lsn>, FileError> {
        if self.properties.stamp_max <= above {
            return Ok(None);
        }
        let newer = self
            .range_deletes
            .iter()
            .find(|(start, end, stamp)| *stamp > above && overlaps(range, start, end.as_deref()));
        if let Some((_, _, stamp)) = newer {
            return Ok(Some(*stamp));
        }
        let (lower, stamp) = match range.0 {
            Bound::Included(key) => (key, Lsn::MAX),
            Bound::Excluded(key) => (key, Lsn::ZERO),
            Bound::Unbounded => (&b""[..], Lsn::MAX),
        };
        let mut cursor = Cursor::default();
        if self.footer.index.bytes == 0
            || !cursor.in_index(self, |position, block| position.seek(block, lower, stamp))?
        {
            return Ok(None);
        }
        loop {
            let (indexed, is_last) = {
                let index = self.index_block()?;
                let entry = cursor.index.entry(&index).ok_or_else(|| self.index_damaged())?;
                let (separator, entry) = entry;
                let indexed = Indexed::decode(entry.value).map_err(|_| self.index_damaged())?;
                // Above the separator, or at it, there are only later blocks' versions.
                (indexed, is_above(range, separator))
            };
            if indexed.stamp_max > above {
                cursor.enter(self)?;
                let mut more = cursor.within(self, Position::first)?;
                while more {
                    let (key, entry) = cursor.entry(self)?.ok_or_else(|| self.index_damaged())?;
                    if is_above(range, key) {
                        return Ok(None);
                    }
                    if entry.stamp > above && !is_below(range, key) {
                        return Ok(Some(entry.stamp));
                    }
                    more = cursor.within(self, |at, block| Ok(at.advance(block)?.is_some()))?;
                }
            }
            if is_last || !cursor.in_index(self, |at, block| Ok(at.advance(block)?.is_some()))? {
                return Ok(None);
            }
        }
    }

    /// Bytes of memory that it takes beside what is mapped.
    pub(crate) fn memory_bytes(&self) -> usize {
        let range_deletes = self.range_deletes.iter().map(|(start, end, _)| {
            size_of::<super::FileRangeDelete>() + start.len() + end.as_ref().map_or(0, |e| e.len())
        });
        let properties = &self.properties;
        let largest = properties.largest.as_ref().map_or(0, Vec::len);
        size_of::<Sstable>()
            + size_of_val(&*self.checked)
            + range_deletes.sum::<usize>()
            + properties.smallest.len()
            + largest
    }
}

/// Whether the range ends before a key.
pub(crate) fn is_above(range: KeyRange<'_>, key: &[u8]) -> bool {
    match range.1 {
        Bound::Included(upper) => key > upper,
        Bound::Excluded(upper) => key >= upper,
        Bound::Unbounded => false,
    }
}

/// Whether the range begins after a key.
pub(crate) fn is_below(range: KeyRange<'_>, key: &[u8]) -> bool {
    match range.0 {
        Bound::Included(lower) => key < lower,
        Bound::Excluded(lower) => key <= lower,
        Bound::Unbounded => false,
    }
}

/// Whether some key that a range delete covers may be in the range. (The key right behind an excluded one
/// is that key and a zero byte: an end of that kind covers nothing behind it.)
fn overlaps(range: KeyRange<'_>, start: &[u8], end: Option<&[u8]>) -> bool {
    let begins_before_end = match (range.0, end) {
        (Bound::Unbounded, end) => end.is_none_or(|end| !end.is_empty()),
        (_, None) => true,
        (Bound::Included(lower), Some(end)) => lower < end,
        (Bound::Excluded(lower), Some(end)) => {
            lower < end && end.strip_prefix(lower).is_none_or(|rest| rest != b"\0")
        }
    };
    begins_before_end && !is_above(range, start)
}

/// Looks a key up in one file after another.
#[derive(Debug)]
pub(crate) struct Probe {
    hash: u64,
    cursor: Cursor,
}

impl Probe {
    /// For this key.
    pub(crate) fn new(key: &[u8]) -> Probe {
        Probe { hash: filter::hasher().hash(key), cursor: Cursor::default() }
    }

    /// Goes to the newest version of the key at or below `read`. Gives whether there is one, and whether
    /// there is one above.
    pub(crate) fn find(
        &mut self,
        file: &Sstable,
        key: &[u8],
        read: Lsn,
    ) -> Result<(bool, bool), FileError> {
        let filter = file.slice(file.filter);
        if !filter.is_empty() && !filter::may_have(filter, self.hash) {
            return Ok((false, false));
        }
        // If nothing in the file is above, it need not be looked for.
        let newest = if file.properties.stamp_max <= read { read } else { Lsn::MAX };
        match self.seek(file, key, newest)? {
            None => Ok((false, false)),
            Some(stamp) if stamp <= read => Ok((true, false)),
            Some(_) => Ok((self.seek(file, key, read)?.is_some(), true)),
        }
    }

    /// Goes to the newest version of the key at or below `newest`, if there is one: gives its stamp.
    fn seek(&mut self, file: &Sstable, key: &[u8], newest: Lsn) -> Result<Option<Lsn>, FileError> {
        match self.cursor.seek(file, key, newest)? {
            true => self.at(file, key),
            false => Ok(None),
        }
    }

    /// The stamp of the version that it is at, if that is one of the key.
    fn at(&self, file: &Sstable, key: &[u8]) -> Result<Option<Lsn>, FileError> {
        let entry = self.cursor.entry(file)?.filter(|(at, _)| *at == key);
        Ok(entry.map(|(_, entry)| entry.stamp))
    }

    /// The version that it is at.
    pub(crate) fn entry<'c>(
        &'c self,
        file: &'c Sstable,
    ) -> Result<Option<(&'c [u8], Entry<'c>)>, FileError> {
        self.cursor.entry(file)
    }

    /// Goes to the next older version of the key; false if there is none.
    pub(crate) fn older(&mut self, file: &Sstable, key: &[u8]) -> Result<bool, FileError> {
        Ok(self.cursor.advance(file)? && self.at(file, key)?.is_some())
    }
}

impl Cursor {
    /// Goes to the first version that is not below the range; false if there is none.
    pub(crate) fn seek_from(
        &mut self,
        file: &Sstable,
        lower: Bound<&[u8]>,
    ) -> Result<bool, FileError> {
        match lower {
            Bound::Unbounded => self.first(file),
            Bound::Included(key) => self.seek(file, key, Lsn::MAX),
            // No version has a stamp of 0.
            Bound::Excluded(key) => self.seek(file, key, Lsn::ZERO),
        }
    }

    /// Goes to the last version that is not above the range; false if there is none.
    pub(crate) fn seek_back_from(
        &mut self,
        file: &Sstable,
        upper: Bound<&[u8]>,
    ) -> Result<bool, FileError> {
        let found = match upper {
            Bound::Unbounded => false,
            Bound::Included(key) => self.seek(file, key, Lsn::ZERO)?,
            Bound::Excluded(key) => self.seek(file, key, Lsn::MAX)?,
        };
        if found { self.back(file) } else { self.last(file) }
    }
}
