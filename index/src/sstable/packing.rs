//! Data blocks on their way from a writer to its file, compressed by others meanwhile.
//!
//! ```text
//!   writer: entries ─► raw blocks ─group─► Packing::give ⋯ Packing::take ─► checksums, file, index
//!                                              pack(), on any thread
//! ```
//!
//! 1. Groups are taken in the order in which they were given, and only once so many later ones were given: what
//!    a file comes to depends on what was added to it alone, and not on who packed when.
//! 2. A file that is written this way has the same blocks as one that is not.

use std::fmt;

use isolith_wal::Lsn;

use super::format::{self, Compression, Section};
use crate::block::{self, BlockBuilder, Entry};
use crate::version::Kind;

/// Bytes of blocks, before compression, that are packed at once.
const GROUP_BYTES: usize = 64 << 10;
/// Groups that are given before the first of them is taken.
pub(super) const UNDER_WAY: usize = 4;

/// Blocks that are to be compressed.
#[derive(Debug)]
pub struct Group {
    compression: Compression,
    raw: Vec<u8>,
    /// Where each block ends in `raw`.
    raw_ends: Vec<usize>,
    packed: Vec<u8>,
    /// Where each block ends in `packed`.
    packed_ends: Vec<usize>,
}

impl Group {
    pub(super) fn new(compression: Compression) -> Self {
        let (raw, packed) = (Vec::new(), Vec::new());
        Self { compression, raw, raw_ends: Vec::new(), packed, packed_ends: Vec::new() }
    }

    /// Ends a block and adds it.
    pub(super) fn add(&mut self, block: &mut BlockBuilder) {
        block.finish(&mut self.raw);
        self.raw_ends.push(self.raw.len());
    }

    pub(super) fn is_full(&self) -> bool {
        self.raw.len() >= GROUP_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.raw_ends.is_empty()
    }

    /// Compresses the blocks, where that pays.
    pub fn pack(&mut self) {
        let mut from = 0;
        for &to in &self.raw_ends {
            format::pack(&self.raw[from..to], self.compression, &mut self.packed);
            self.packed_ends.push(self.packed.len());
            from = to;
        }
    }

    /// The blocks in frames that lack their checksums.
    pub(super) fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.packed_ends.iter();
        ends.scan(0, |from, &to| Some(&self.packed[std::mem::replace(from, to)..to]))
    }

    /// Empty again, with its room.
    pub(super) fn clear(&mut self) {
        self.raw.clear();
        self.raw_ends.clear();
        self.packed.clear();
        self.packed_ends.clear();
    }
}

/// Packs groups, on whatever threads.
pub trait Packing: Send + Sync + fmt::Debug {
    /// Takes a group over, and gives the number by which it is asked for.
    fn give(&self, group: Group) -> u64;

    /// Gives a group back once it is [packed](Group::pack), by the caller if need be. `None`: whoever had it
    /// is gone.
    fn take(&self, number: u64) -> Option<Group>;
}

/// What the index says of a data block beside its place.
#[derive(Debug)]
pub(super) struct Separator {
    /// Not below the block's last version, and below the next block's first.
    pub(super) key: Vec<u8>,
    pub(super) stamp: Lsn,
    pub(super) stamp_min: Lsn,
    pub(super) stamp_max: Lsn,
}

impl Separator {
    /// Tells the index of block number `number`.
    pub(super) fn add_to(self, index: &mut BlockBuilder, number: u64, section: Section) {
        let Separator { key, stamp, stamp_min, stamp_max } = self;
        let mut value = Vec::with_capacity(40);
        let Section { offset, bytes } = section;
        for number in [number, offset, bytes, stamp_min.bits(), stamp_max.bits()] {
            block::put_number(&mut value, number);
        }
        index.add(&key, Entry { stamp, kind: Kind::Put, time: 0, value: &value, large: false });
    }
}
