//! What a file says of one key, or of an interval.

use std::cell::Cell;
use std::ops::Bound;
use std::sync::Arc;

use isolith_wal::Lsn;

use super::{Cursor, FileRangeDelete, Indexed, Sstable};
use crate::KeyRange;
use crate::block::{Entry, Position};
use crate::range_deletes::Cover;
use crate::sstable::filter;
use crate::sstable::format::{FileError, ValueUse};
use crate::sstable::values::ValueFile;

/// For each range delete in the middle of a stretch of them, which of the stretch reaches furthest. (The
/// stretches are those of a binary search: so those that cover a key are found in time logarithmic for each.)
pub(super) fn furthest(range_deletes: &[FileRangeDelete]) -> Box<[usize]> {
    fn fill(
        all: &[FileRangeDelete],
        from: usize,
        to: usize,
        furthest: &mut [usize],
    ) -> Option<usize> {
        if from >= to {
            return None;
        }
        let middle = from + (to - from) / 2;
        let (left, right) =
            (fill(all, from, middle, furthest), fill(all, middle + 1, to, furthest));
        let further = |one: usize, other: usize| match (&all[one].1, &all[other].1) {
            (Some(end), Some(others)) if end < others => other,
            (Some(_), None) => other,
            _ => one,
        };
        let found = left.into_iter().chain(right).fold(middle, further);
        furthest[middle] = found;
        Some(found)
    }
    let mut furthest = vec![0; range_deletes.len()].into_boxed_slice();
    fill(range_deletes, 0, range_deletes.len(), &mut furthest);
    furthest
}

impl Sstable {
    /// What the range deletes say of a key to a reader at `read`.
    #[inline]
    pub(crate) fn cover(&self, key: &[u8], read: Lsn) -> Cover {
        let mut cover = Cover::default();
        if !self.range_deletes.is_empty() {
            self.cover_among(0, self.range_deletes.len(), key, read, &mut cover);
        }
        cover
    }

    /// What those of a stretch say.
    fn cover_among(&self, from: usize, to: usize, key: &[u8], read: Lsn, cover: &mut Cover) {
        if from >= to {
            return;
        }
        let middle = from + (to - from) / 2;
        let reaches = |at: usize| self.range_deletes[at].1.as_deref().is_none_or(|end| key < end);
        if !reaches(self.furthest[middle]) {
            return;
        }
        self.cover_among(from, middle, key, read, cover);
        let (start, _, stamp) = &self.range_deletes[middle];
        if **start <= *key {
            if reaches(middle) {
                match *stamp <= read {
                    true => cover.stamp = cover.stamp.max(*stamp),
                    false => cover.skipped_newer = true,
                }
            }
            self.cover_among(middle + 1, to, key, read, cover);
        }
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
        if !self.may_have_in(range)? {
            return Ok(None);
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
            if indexed.stamp_max > above || self.assigned.is_some() {
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
            let ends = start.len() + end.as_ref().map_or(0, |end| end.len());
            size_of::<FileRangeDelete>() + size_of::<usize>() + ends
        });
        let properties = &self.properties;
        let largest = properties.largest.as_ref().map_or(0, Vec::len);
        size_of::<Sstable>()
            + self.index.get().map_or(0, |index| size_of_val(&*index.checked))
            + range_deletes.sum::<usize>()
            + properties.smallest.len()
            + largest
            + properties.values.len() * size_of::<ValueUse>()
            + self.values.len() * size_of::<Arc<ValueFile>>()
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

thread_local! {
    /// A cursor that a probe of this thread left behind, for its buffers.
    static SPARE: Cell<Option<Cursor>> = const { Cell::new(None) };
}

/// Buffers larger than this are not kept for the next probe.
const SPARE_BYTES_MAX: usize = 256 << 10;

/// Looks a key up in one file after another.
#[derive(Debug)]
pub(crate) struct Probe {
    hash: u64,
    cursor: Cursor,
}

impl Probe {
    /// For this key.
    pub(crate) fn new(key: &[u8]) -> Probe {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        Probe { hash: filter::hasher().hash(key), cursor: spare.unwrap_or_default() }
    }

    /// Goes on to another key, best a later one of the same file: what lies in the same block is not read
    /// again.
    pub(crate) fn aim(&mut self, key: &[u8]) {
        self.hash = filter::hasher().hash(key);
    }

    /// Goes to the newest version of the key at or below `read`. Gives whether there is one, and whether
    /// there is one above.
    pub(crate) fn find(
        &mut self,
        file: &Sstable,
        key: &[u8],
        read: Lsn,
    ) -> Result<(bool, bool), FileError> {
        if !filter::may_have(file.filter()?, self.hash) {
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

impl Drop for Probe {
    fn drop(&mut self) {
        let mut cursor = std::mem::take(&mut self.cursor);
        // The next one may be for another database's file of the same number.
        cursor.forget();
        if cursor.buffer_bytes() <= SPARE_BYTES_MAX {
            // A thread that is ending keeps nothing.
            let _ = SPARE.try_with(|spare| spare.set(Some(cursor)));
        }
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
