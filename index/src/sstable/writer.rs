//! Writes an SSTable: versions in order, then range deletes, once from beginning to end.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use isolith_wal::{DatabaseId, Lsn};

use super::filter;
use super::format::ValueUse;
use super::format::{self, Compression, FOOTER_BYTES, FileId, Footer, Place, Properties, Section};
use super::packing::{Group, Packing, Separator, UNDER_WAY};
use super::prefix::{self, PrefixExtractor};
use super::values::ValueRef;
use crate::block::{self, BlockBuilder, Entry, RESTART_EVERY, order};
use crate::hash::Hasher;
use crate::version::Kind;

/// How a file is written.
#[derive(Clone, Copy, Debug)]
pub struct SstableOptions {
    /// The number of the keyspace that the file is of. Readers go by the manifest: it is for who has lost
    /// that.
    pub space: u32,
    /// A data block is ended once it has so many bytes before compression.
    pub block_bytes: usize,
    /// How data blocks are compressed.
    pub compression: Compression,
    /// Bits of the filter for each key; 0: no filter.
    pub filter_bits_per_key: usize,
    /// What is a prefix, for a filter of those; it has so many bits for each prefix as the other for each key.
    pub prefixes: Option<PrefixExtractor>,
}

impl Default for SstableOptions {
    fn default() -> Self {
        Self {
            space: 0,
            block_bytes: 4096,
            compression: Compression::Lz4,
            filter_bits_per_key: 10,
            prefixes: None,
        }
    }
}

/// Where a file's bytes go, in order.
pub trait FileSink {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl FileSink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// A file that is being written.
pub struct SstableWriter<S> {
    sink: S,
    place: Place,
    options: SstableOptions,
    hasher: Hasher,
    data: BlockBuilder,
    index: BlockBuilder,
    /// The last version of the data block that was ended last, until its separator is known.
    ended: Option<Ended>,
    /// Of blocks that the index does not have yet: what it is to say of them, and where they lie. Of one there
    /// is always none: the separator of a block is known later than its place, or earlier where it is packed.
    separators: VecDeque<Separator>,
    sections: VecDeque<Section>,
    /// Who compresses blocks meanwhile, if anybody does; the blocks to be given, and what was.
    packing: Option<Arc<dyn Packing>>,
    group: Group,
    given: VecDeque<u64>,
    blocks: u64,
    zone: Zone,
    last_stamp: Lsn,
    hashes: Vec<u64>,
    /// Of prefixes.
    prefix_hashes: Vec<u64>,
    range_deletes: Vec<u8>,
    reach: Reach,
    properties: Properties,
    values: BTreeMap<FileId, ValueUse>,
    buffer: Vec<u8>,
    raw: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Zone {
    min: Lsn,
    max: Lsn,
}

impl Zone {
    const EMPTY: Zone = Zone { min: Lsn::MAX, max: Lsn::ZERO };

    fn add(&mut self, stamp: Lsn) {
        self.min = self.min.min(stamp);
        self.max = self.max.max(stamp);
    }
}

/// How far the range deletes reach.
#[derive(Debug, Default)]
enum Reach {
    #[default]
    Nowhere,
    To(Vec<u8>),
    /// To the last key of all.
    End,
}

#[derive(Debug)]
struct Ended {
    last_key: Vec<u8>,
    last_stamp: Lsn,
    zone: Zone,
}

impl<S: FileSink> SstableWriter<S> {
    /// Begins a file.
    pub fn new(
        mut sink: S,
        database: DatabaseId,
        file: FileId,
        options: SstableOptions,
    ) -> io::Result<Self> {
        let header = format::header(database, file, options.space);
        sink.append(&header)?;
        Ok(Self {
            sink,
            place: Place { database, file, offset: header.len() as u64 },
            options,
            hasher: filter::hasher(),
            data: BlockBuilder::new(RESTART_EVERY),
            index: BlockBuilder::of_index(),
            ended: None,
            separators: VecDeque::new(),
            sections: VecDeque::new(),
            packing: None,
            group: Group::new(options.compression),
            given: VecDeque::new(),
            blocks: 0,
            zone: Zone::EMPTY,
            last_stamp: Lsn::MAX,
            hashes: Vec::new(),
            prefix_hashes: Vec::new(),
            range_deletes: Vec::new(),
            reach: Reach::Nowhere,
            properties: Properties { stamp_min: Lsn::MAX, ..Properties::default() },
            values: BTreeMap::new(),
            buffer: Vec::new(),
            raw: Vec::new(),
        })
    }

    /// Has data blocks compressed by others. The file has the same bytes as without.
    pub fn pack_by(mut self, packing: Arc<dyn Packing>) -> Self {
        self.packing = Some(packing);
        self
    }

    /// Which file it is.
    pub fn file(&self) -> FileId {
        self.place.file
    }

    /// Bytes that the file has so far, what is still in memory or being packed left out.
    pub fn bytes(&self) -> u64 {
        self.place.offset
    }

    /// Adds the next version: ascending by key, and of one key descending by stamp.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn add(
        &mut self,
        key: &[u8],
        stamp: Lsn,
        kind: Kind,
        time: u64,
        value: &[u8],
    ) -> io::Result<()> {
        let entry = Entry { stamp, kind, time, value, large: false };
        self.push(key, entry, value.len() as u64)
    }

    /// Adds the next version, a put whose value is in a value file.
    ///
    /// # Panics
    /// If it is not the next one.
    pub fn add_large(
        &mut self,
        key: &[u8],
        stamp: Lsn,
        time: u64,
        reference: ValueRef,
    ) -> io::Result<()> {
        let ValueRef { file, bytes, value_bytes, .. } = reference;
        let used = self.values.entry(file).or_insert(ValueUse { file, values: 0, bytes: 0 });
        used.values += 1;
        used.bytes += bytes;
        let mut value = Vec::with_capacity(24);
        reference.encode(&mut value);
        let entry = Entry { stamp, kind: Kind::Put, time, value: &value, large: true };
        self.push(key, entry, value_bytes)
    }

    /// Adds a version whose value had so many bytes.
    fn push(&mut self, key: &[u8], entry: Entry<'_>, value_bytes: u64) -> io::Result<()> {
        let Entry { stamp, kind, .. } = entry;
        let (first, new_key) = match (&self.ended, self.data.is_empty()) {
            (_, false) => (false, self.check_order(self.data.last_key(), key, stamp)),
            (Some(ended), true) => (false, self.check_order(&ended.last_key, key, stamp)),
            (None, true) => (true, true),
        };
        if let Some(ended) = self.ended.take_if(|_| self.data.is_empty()) {
            self.index(ended, Some(key));
        }
        if first {
            self.properties.smallest = key.to_vec();
        }
        if new_key {
            self.properties.keys += 1;
            if self.options.filter_bits_per_key > 0 {
                self.hashes.push(self.hasher.hash(key));
            }
            if let Some(prefix) = self.options.prefixes.and_then(|of| of.prefix(key)) {
                let hash = self.hasher.hash(prefix);
                // Keys of one prefix come one after the other.
                if self.prefix_hashes.last() != Some(&hash) {
                    self.prefix_hashes.push(hash);
                }
            }
        }
        self.data.add(key, entry);
        self.last_stamp = stamp;
        self.zone.add(stamp);
        let properties = &mut self.properties;
        properties.entries += 1;
        properties.deletes += u64::from(kind == Kind::Delete);
        properties.raw_bytes += key.len() as u64 + value_bytes;
        properties.stamp_min = properties.stamp_min.min(stamp);
        properties.stamp_max = properties.stamp_max.max(stamp);
        if self.data.len() >= self.options.block_bytes {
            self.end_block()?;
        }
        Ok(())
    }

    /// Whether the version begins a new key.
    fn check_order(&self, last_key: &[u8], key: &[u8], stamp: Lsn) -> bool {
        let next = order((last_key, self.last_stamp), (key, stamp));
        assert!(next.is_lt(), "a version was added out of order");
        last_key != key
    }

    /// Adds a range delete: from `start` to `end` (excluded; none: to the last key of all). In any
    /// order; they are few.
    pub fn add_range_delete(&mut self, start: &[u8], end: Option<&[u8]>, stamp: Lsn) {
        let bytes = &mut self.range_deletes;
        block::put_number(bytes, stamp.bits());
        block::put_number(bytes, start.len() as u64);
        block::put_number(bytes, end.map_or(0, |end| end.len() as u64 + 1));
        bytes.extend_from_slice(start);
        bytes.extend_from_slice(end.unwrap_or_default());
        let properties = &mut self.properties;
        if properties.entries + properties.range_deletes == 0 || start < &*properties.smallest {
            properties.smallest = start.to_vec();
        }
        properties.range_deletes += 1;
        properties.stamp_min = properties.stamp_min.min(stamp);
        properties.stamp_max = properties.stamp_max.max(stamp);
        self.reach = match (std::mem::take(&mut self.reach), end) {
            (Reach::End, _) | (_, None) => Reach::End,
            (Reach::To(known), Some(end)) if *known >= *end => Reach::To(known),
            (_, Some(end)) => Reach::To(end.to_vec()),
        };
    }

    /// Frames `raw` and writes it.
    fn section(&mut self, raw: &[u8], compression: Compression) -> io::Result<Section> {
        self.buffer.clear();
        format::frame(raw, compression, self.place, &mut self.buffer);
        append(&mut self.sink, &mut self.place, &self.buffer)
    }

    fn end_block(&mut self) -> io::Result<()> {
        let last_key = self.data.last_key().to_vec();
        let zone = std::mem::replace(&mut self.zone, Zone::EMPTY);
        self.ended = Some(Ended { last_key, last_stamp: self.last_stamp, zone });
        if self.packing.is_some() {
            self.group.add(&mut self.data);
            return if self.group.is_full() { self.give() } else { Ok(()) };
        }
        let mut raw = std::mem::take(&mut self.raw);
        raw.clear();
        self.data.finish(&mut raw);
        let section = self.section(&raw, self.options.compression)?;
        self.raw = raw;
        self.sections.push_back(section);
        Ok(())
    }

    /// Gives the group away, and writes the one that was given so many before it.
    fn give(&mut self) -> io::Result<()> {
        let Some(packing) = self.packing.clone() else { return Ok(()) };
        let mut group = Group::new(self.options.compression);
        if self.given.len() >= UNDER_WAY {
            group = self.take(&*packing)?;
        }
        let group = std::mem::replace(&mut self.group, group);
        self.given.push_back(packing.give(group));
        Ok(())
    }

    /// Writes the group that was given first. It is given back to be filled again.
    fn take(&mut self, packing: &dyn Packing) -> io::Result<Group> {
        let gone = || io::Error::other("a thread that compressed blocks is gone");
        let number = self.given.pop_front().ok_or_else(gone)?;
        let mut group = packing.take(number).ok_or_else(gone)?;
        for frame in group.frames() {
            self.buffer.clear();
            self.buffer.extend_from_slice(frame);
            format::seal(self.place, &mut self.buffer);
            let section = append(&mut self.sink, &mut self.place, &self.buffer)?;
            self.sections.push_back(section);
        }
        group.clear();
        self.tell_index();
        Ok(group)
    }

    /// Writes all that was given, and what is left to give.
    fn take_all(&mut self) -> io::Result<()> {
        let Some(packing) = self.packing.clone() else { return Ok(()) };
        if !self.group.is_empty() {
            self.give()?;
        }
        while !self.given.is_empty() {
            self.take(&*packing)?;
        }
        Ok(())
    }

    /// What the index is to say of a block, now that the key after it is known.
    fn index(&mut self, ended: Ended, next: Option<&[u8]>) {
        let Ended { last_key, last_stamp, zone } = ended;
        let shared = next.map_or(0, |next| block::common(&last_key, next));
        let separator = next.filter(|_| shared + 1 < last_key.len());
        let separator = separator.and_then(|next| next.get(..shared + 1).filter(|s| *s != next));
        let (key, stamp) = match separator {
            // Above every version of the block and below the next one.
            Some(separator) => (separator.to_vec(), Lsn::ZERO),
            None => (last_key, last_stamp),
        };
        let (stamp_min, stamp_max) = (zone.min, zone.max);
        self.separators.push_back(Separator { key, stamp, stamp_min, stamp_max });
        self.tell_index();
    }

    /// Tells the index of the blocks of which everything is known.
    fn tell_index(&mut self) {
        while !self.sections.is_empty()
            && let Some(separator) = self.separators.pop_front()
            && let Some(section) = self.sections.pop_front()
        {
            separator.add_to(&mut self.index, self.blocks, section);
            self.blocks += 1;
        }
    }

    /// Ends the file. What was written is given back; it is not synced.
    pub fn finish(mut self) -> io::Result<(S, Properties)> {
        if !self.data.is_empty() {
            self.end_block()?;
        }
        let mut footer = Footer::default();
        let mut largest = match std::mem::take(&mut self.reach) {
            Reach::Nowhere => Some(Vec::new()),
            // The key right before the end, where there is one: of files that are cut behind a key, each
            // ends below where the next begins.
            Reach::To(mut end) => {
                let _ = end.pop_if(|last| *last == 0);
                Some(end)
            }
            Reach::End => None,
        };
        self.take_all()?;
        if let Some(ended) = self.ended.take() {
            largest = largest.map(|reach| reach.max(ended.last_key.clone()));
            self.index(ended, None);
        } else if self.properties.range_deletes == 0 {
            largest = None;
        }
        self.properties.largest = largest;
        self.properties.values = self.values.values().copied().collect();
        if !self.hashes.is_empty() {
            let mut raw = Vec::new();
            filter::build(&self.hashes, self.options.filter_bits_per_key, &mut raw);
            footer.filter = self.section(&raw, Compression::None)?;
        }
        let bits = self.options.filter_bits_per_key;
        if let Some(extractor) = self.options.prefixes.filter(|_| bits > 0)
            && self.properties.entries > 0
        {
            let mut raw = Vec::new();
            prefix::build(extractor, &self.prefix_hashes, bits, &mut raw);
            footer.prefix_filter = self.section(&raw, Compression::None)?;
        }
        if !self.range_deletes.is_empty() {
            let raw = std::mem::take(&mut self.range_deletes);
            footer.range_deletes = self.section(&raw, self.options.compression)?;
        }
        if !self.index.is_empty() {
            let mut raw = Vec::new();
            self.index.finish(&mut raw);
            footer.index = self.section(&raw, Compression::None)?;
        }
        let mut raw = Vec::new();
        self.properties.encode(&mut raw);
        footer.properties = self.section(&raw, Compression::None)?;
        self.sink.append(&footer.encode(self.place, self.options.space))?;
        self.place.offset += FOOTER_BYTES as u64;
        Ok((self.sink, self.properties))
    }
}

/// Appends bytes to a file; gives where they lie.
fn append(sink: &mut impl FileSink, place: &mut Place, bytes: &[u8]) -> io::Result<Section> {
    sink.append(bytes)?;
    let section = Section { offset: place.offset, bytes: bytes.len() as u64 };
    place.offset += section.bytes;
    Ok(section)
}
