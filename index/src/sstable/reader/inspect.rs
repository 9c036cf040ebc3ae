//! Looks at every byte of a file, and goes on after the first damage.

use std::collections::BTreeMap;

use isolith_wal::Lsn;

use super::{FileValue, Indexed, Sstable};
use crate::block::{self, Block, Malformed, Position};
use crate::sstable::filter;
use crate::sstable::format::{
    self, FOOTER_BYTES, FileError, FileId, Framed, HEADER_BYTES, Section, ValueUse, damaged,
};
use crate::version::Kind;

/// What the data blocks turned out to hold.
#[derive(Debug, Default)]
struct Seen {
    entries: u64,
    keys: u64,
    deletes: u64,
    /// The last version, and the last separator.
    last: Option<(Vec<u8>, Lsn)>,
    separator: Option<(Vec<u8>, Lsn)>,
    /// Some block could not be looked into.
    gaps: bool,
    /// Of each value file, values that are referred to and their bytes there.
    values: BTreeMap<FileId, (u64, u64)>,
}

/// What is looked at block by block, beside the blocks.
struct Ends<'f> {
    index: Block<'f>,
    /// Passes all if it is damaged, which is told once.
    filter: &'f [u8],
    /// Whether the filter of prefixes can be looked at.
    prefixes: bool,
}

impl Sstable {
    /// Checks every block against its checksum, its zone, the index and the filter, the order of all versions,
    /// and what the file says of itself. Each damage is told with its place, and what can still be looked at
    /// is. `passed` is told of the bytes that were gone through. Gives the number of versions found.
    pub fn inspect(&self, told: &mut dyn FnMut(FileError), passed: &mut dyn FnMut(u64)) -> u64 {
        let mut seen = Seen::default();
        let mut end = HEADER_BYTES as u64;
        let format::Footer { filter, range_deletes, index, properties, prefix_filter } =
            self.footer;
        if index.bytes > 0 {
            let ends = self.index_block().map(|index| {
                let filter = self.filter().unwrap_or_default();
                Ends { index, filter, prefixes: self.prefix_filter().is_ok() }
            });
            let looked =
                ends.and_then(|ends| self.inspect_blocks(&ends, &mut seen, &mut end, told, passed));
            if let Err(error) = looked {
                seen.gaps = true;
                // What its frame does not tell, too.
                if self.checked_section(index).is_ok() {
                    told(error);
                }
            }
        }
        let before = end;
        for section in [filter, prefix_filter, range_deletes, index, properties] {
            if section.bytes == 0 {
                continue;
            }
            if section.offset != end && !seen.gaps {
                told(damaged(end, "there are bytes that belong to nothing, or to two sections"));
            }
            if let Err(error) = self.checked_section(section) {
                told(error);
            }
            end = section.offset.saturating_add(section.bytes);
        }
        if self.bytes() != end + FOOTER_BYTES as u64 && !seen.gaps {
            told(damaged(end, "there are bytes that belong to nothing, or to two sections"));
        }
        passed(self.bytes().saturating_sub(before));
        self.compare(&seen, told);
        seen.entries
    }

    /// Compares what was seen with what the file says of itself.
    fn compare(&self, seen: &Seen, told: &mut dyn FnMut(FileError)) {
        let mut wrong = |what| told(damaged(self.footer.properties.offset, what));
        let properties = &self.properties;
        if !seen.gaps && seen.entries != properties.entries {
            wrong("the number of versions is wrong");
        }
        if !seen.gaps && (seen.keys, seen.deletes) != (properties.keys, properties.deletes) {
            wrong("the number of keys or tombstones is wrong");
        }
        let uses = seen.values.iter().map(|(file, (values, bytes))| ValueUse {
            file: *file,
            values: *values,
            bytes: *bytes,
        });
        if !seen.gaps && !uses.eq(properties.values.iter().copied()) {
            wrong("what it refers to in value files is not what it says");
        }
        if self.range_deletes.len() as u64 != properties.range_deletes {
            wrong("the number of range deletes is wrong");
        }
        let zone = properties.stamp_min..=properties.stamp_max;
        let fits = |(start, end, stamp): &super::FileRangeDelete| {
            zone.contains(stamp)
                && **start >= *properties.smallest
                && end.as_deref().is_none_or(|end| end > &**start)
        };
        if !self.range_deletes.iter().all(fits) {
            told(damaged(self.footer.range_deletes.offset, "a range delete is not within bounds"));
        }
    }

    fn inspect_blocks(
        &self,
        ends: &Ends<'_>,
        seen: &mut Seen,
        end: &mut u64,
        told: &mut dyn FnMut(FileError),
        passed: &mut dyn FnMut(u64),
    ) -> Result<(), FileError> {
        let index = &ends.index;
        let wrong = |Malformed| self.index_damaged();
        let mut position = Position::default();
        let mut more = position.first(index).map_err(wrong)?;
        let mut number = 0;
        while more {
            let (key, entry) = position.entry(index).ok_or_else(|| self.index_damaged())?;
            let indexed = Indexed::decode(entry.value).map_err(wrong)?;
            let Section { offset, bytes } = indexed.section;
            if indexed.number != number || offset != *end {
                told(damaged(offset, "the index leads to another place than the block's"));
            }
            number += 1;
            if let Err(error) = self.inspect_block(indexed, (key, entry.stamp), ends, seen, told) {
                seen.gaps = true;
                told(error);
            }
            seen.separator = Some((key.to_vec(), entry.stamp));
            *end = offset.saturating_add(bytes);
            passed(bytes);
            more = position.advance(index).map_err(wrong)?.is_some();
        }
        Ok(())
    }

    fn inspect_block(
        &self,
        indexed: Indexed,
        separator: (&[u8], Lsn),
        ends: &Ends<'_>,
        seen: &mut Seen,
        told: &mut dyn FnMut(FileError),
    ) -> Result<(), FileError> {
        let offset = indexed.section.offset;
        let malformed = |Malformed| damaged(offset, "a block was written wrongly");
        let mut unpacked = Vec::new();
        let bytes = match self.checked_section(indexed.section)? {
            Framed::Plain(plain) => plain,
            Framed::Packed(packed) => {
                packed.unpack(&mut unpacked)?;
                &unpacked
            }
        };
        let block = Block::new(bytes).map_err(malformed)?;
        let mut position = Position::default();
        let mut more = position.first(&block).map_err(malformed)?;
        let mut value = Vec::new();
        // Of this block: what came before it may be lost.
        let mut entries = 0;
        while more {
            let (key, entry) = position.entry(&block).ok_or_else(|| malformed(Malformed))?;
            let above = |before: &Option<(Vec<u8>, Lsn)>| {
                before.as_ref().is_none_or(|(before, stamp)| {
                    block::order((before, *stamp), (key, entry.stamp)).is_lt()
                })
            };
            if !above(&seen.last) || !above(&seen.separator) {
                return Err(damaged(offset, "the versions are not in order"));
            }
            if block::order((key, entry.stamp), separator).is_gt() {
                return Err(damaged(offset, "a version is above what the index says"));
            }
            if entry.stamp < indexed.stamp_min || entry.stamp > indexed.stamp_max {
                return Err(damaged(offset, "a version is outside of its block's zone"));
            }
            let properties = &self.properties;
            // Those of a file that a commit brought have none of their own.
            let stamp = self.assigned.filter(|_| entry.stamp == Lsn::ZERO).unwrap_or(entry.stamp);
            if stamp < properties.stamp_min
                || stamp > properties.stamp_max
                || *key < *properties.smallest
                || properties.largest.as_deref().is_some_and(|largest| key > largest)
            {
                return Err(damaged(offset, "a version is outside of the file's bounds"));
            }
            if !filter::may_have(ends.filter, self.hasher.hash(key)) {
                return Err(damaged(self.footer.filter.offset, "the filter denies a key"));
            }
            if ends.prefixes && !self.prefix_passes(key)? {
                let offset = self.footer.prefix_filter.offset;
                return Err(damaged(offset, "the filter of prefixes denies a key"));
            }
            let is_new = seen.last.as_ref().is_none_or(|(last, _)| *last != *key);
            let (last, stamp) = seen.last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            *stamp = entry.stamp;
            seen.keys += u64::from(is_new);
            seen.deletes += u64::from(entry.kind == Kind::Delete);
            seen.entries += 1;
            entries += 1;
            if let FileValue::Large(reference, _) = self.value(entry)? {
                let (values, bytes) = seen.values.entry(reference.file).or_default();
                *values += 1;
                *bytes = bytes.saturating_add(reference.bytes);
                // That a whole file is missing is told by whoever looked for it.
                if let Ok(file) = self.value_file(reference.file)
                    && let Err(error) = file.read(key, reference, &mut value)
                {
                    told(error);
                }
            }
            more = position.advance(&block).map_err(malformed)?.is_some();
        }
        if entries == 0 { Err(damaged(offset, "a block is empty")) } else { Ok(()) }
    }
}
