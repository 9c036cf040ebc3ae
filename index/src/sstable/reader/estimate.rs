//! How much of a file lies within a range of keys, by its index alone.
//!
//! 1. No data block is read: a range that ends within a block is taken to end in its middle. So an estimate is
//!    off by at most half a block at either end, as far as blocks hold equally much.

use std::ops::Bound;

use isolith_wal::Lsn;

use super::{Cursor, Indexed, Sstable};
use crate::KeyRange;
use crate::block::{Malformed, Position};
use crate::sstable::format::FileError;
use crate::tree::Estimate;

impl Sstable {
    /// About how many keys and bytes it has in the range: versions that are no deletes, and their keys and
    /// values as they were put.
    pub(crate) fn estimate(&self, range: KeyRange<'_>) -> Result<Estimate, FileError> {
        let properties = &self.properties;
        let mut cursor = Cursor::default();
        if self.footer.index.bytes == 0 || !cursor.in_index(self, Position::last)? {
            return Ok(Estimate::default());
        }
        let blocks = (self.block_under(&cursor)? + 1) as f64;
        let from = match range.0 {
            Bound::Included(key) | Bound::Excluded(key) if *key > *properties.smallest => {
                self.middle_of_block(&mut cursor, key)?.unwrap_or(blocks)
            }
            _ => 0.0,
        };
        let to = match range.1 {
            Bound::Included(key) | Bound::Excluded(key)
                if properties.largest.as_deref().is_none_or(|largest| key < largest) =>
            {
                self.middle_of_block(&mut cursor, key)?.unwrap_or(blocks)
            }
            _ => blocks,
        };
        // Both ends within one block: it may hold anything up to the whole of it.
        let covered = if from == to { 0.5 } else { (to - from).max(0.0) };
        let part = covered.min(blocks) / blocks;
        let puts = properties.entries.saturating_sub(properties.deletes);
        Ok(Estimate { keys: puts as f64 * part, bytes: properties.raw_bytes as f64 * part })
    }

    /// The number of the block that has the key, or would have it, and half a block; none: it is behind all.
    fn middle_of_block(&self, cursor: &mut Cursor, key: &[u8]) -> Result<Option<f64>, FileError> {
        let found = cursor.in_index(self, |position, block| position.seek(block, key, Lsn::MAX))?;
        if !found {
            return Ok(None);
        }
        Ok(Some(self.block_under(cursor)? as f64 + 0.5))
    }

    /// The number of the block that a cursor is at in the index.
    fn block_under(&self, cursor: &Cursor) -> Result<u64, FileError> {
        let index = self.index_block()?;
        let (_, entry) = cursor.index.entry(&index).ok_or_else(|| self.index_damaged())?;
        let indexed = Indexed::decode(entry.value).map_err(|Malformed| self.index_damaged())?;
        Ok(indexed.number)
    }
}
