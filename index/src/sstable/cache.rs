//! Data blocks that were decompressed, kept for whoever reads them next.
//!
//! 1. A block is kept under its file's number and its own: neither ever means other bytes while the database
//!    is open. What belongs to a file that is gone is left to be evicted.
//! 2. Only blocks whose checksum was found right are kept, and only those that readers asked for: who reads
//!    each block once (compaction, verification) neither fills the cache nor believes it.
//! 3. What it holds stays within its limit, which follows what else the database holds in memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use foldhash::fast::FixedState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::format::FileId;

/// A decompressed block.
pub(super) type Unpacked = Arc<Vec<u8>>;

/// A file's number, and the block's in it.
type BlockId = (u64, u64);

/// What a block takes beside its bytes: the counts, the place in the cache.
const OVERHEAD_BYTES: usize = 128;
/// The limit is told to the cache when it has changed by this part of itself.
const LIMIT_STEPS: u64 = 32;

/// Where there is no room, one missed block in so many is kept.
const KEPT_OF: u64 = 8;
/// How many are offered until it is looked again whether there is room.
const LOOK_EVERY: u64 = 64;

#[derive(Clone)]
struct Bytes;

impl Weighter<BlockId, Unpacked> for Bytes {
    fn weight(&self, _: &BlockId, block: &Unpacked) -> u64 {
        // Allocators round up, by up to a quarter.
        (block.capacity() + block.capacity() / 4 + OVERHEAD_BYTES) as u64
    }
}

/// Decompressed data blocks of a database's files, the most useful ones within a limit of bytes.
///
/// Who leaves is decided by [`quick_cache`]: a Clock-PRO (Jiang, Chen, Zhang, 2005), by which blocks that were
/// read once, as by a long scan, do not push out those that are read often.
pub struct BlockCache {
    blocks: Cache<BlockId, Unpacked, Bytes, FixedState>,
    /// The limit that the cache was told last; blocks that might have been kept; and whether there was no room
    /// when that was last looked at. Relaxed wherever these are touched: figures that guard nothing.
    limit: AtomicU64,
    offered: AtomicU64,
    full: AtomicBool,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, limit) = (self.bytes(), self.limit.load(Ordering::Relaxed));
        f.debug_struct("BlockCache").field("bytes", &bytes).field("limit", &limit).finish()
    }
}

impl BlockCache {
    /// An empty cache that may hold so many bytes.
    pub fn new(limit: u64) -> Self {
        // Places are made as they are needed.
        let places = usize::try_from(limit / 4096).unwrap_or(usize::MAX);
        let (hasher, lifecycle) = (FixedState::default(), DefaultLifecycle::default());
        let blocks = Cache::with(places, limit, Bytes, hasher, lifecycle);
        let (limit, offered) = (AtomicU64::new(limit), AtomicU64::new(0));
        Self { blocks, limit, offered, full: AtomicBool::new(false) }
    }

    /// From now on it may hold about so many bytes. What is above leaves at once.
    pub fn set_limit(&self, limit: u64) {
        let told = self.limit.load(Ordering::Relaxed);
        if told.abs_diff(limit) > told / LIMIT_STEPS {
            self.limit.store(limit, Ordering::Relaxed);
            self.blocks.set_capacity(limit);
        }
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.blocks.weight()
    }

    pub(super) fn get(&self, file: FileId, block: u64) -> Option<Unpacked> {
        self.blocks.get(&(file.0, block))
    }

    /// Whether a block that was just missed is to be kept. Where there is room each is; where another has to
    /// leave for it one in [`KEPT_OF`] is: what is read often comes in soon all the same, and the others do not
    /// pay for what is evicted before anybody asks for it.
    pub(super) fn wants(&self) -> bool {
        let offered = self.offered.fetch_add(1, Ordering::Relaxed);
        if offered.is_multiple_of(LOOK_EVERY) {
            let limit = self.limit.load(Ordering::Relaxed);
            self.full.store(self.bytes() >= limit - limit / 16, Ordering::Relaxed);
        }
        !self.full.load(Ordering::Relaxed) || offered.is_multiple_of(KEPT_OF)
    }

    pub(super) fn keep(&self, file: FileId, block: u64, unpacked: &Unpacked) {
        // If somebody is just changing that part of the cache the next reader keeps it.
        let _ = self.blocks.try_insert((file.0, block), Arc::clone(unpacked));
    }
}

#[cfg(test)]
mod tests {
    use isolith_wal::{DatabaseId, Lsn};

    use super::*;
    use crate::sstable::{Compression, FileCursor, Sstable, SstableOptions, SstableWriter};
    use crate::version::Kind;

    const KEYS: u64 = 4000;

    /// A file of the same number whatever its content, which compresses.
    fn file(value: u8, cache: &Arc<BlockCache>) -> Arc<Sstable> {
        let options = SstableOptions { compression: Compression::Lz4, ..SstableOptions::default() };
        let (database, id) = (DatabaseId(7), FileId(3));
        let mut writer = SstableWriter::new(Vec::new(), database, id, options).expect("in memory");
        for key in 0..KEYS {
            let (key, stamp) = (key.to_be_bytes(), Lsn::new(1, 1));
            writer.add(&key, stamp, Kind::Put, 0, &[value; 100]).expect("in memory");
        }
        let (bytes, _) = writer.finish().expect("in memory");
        let mut table = Sstable::open(Box::new(bytes), database, id).expect("sound");
        Arc::get_mut(&mut table).expect("new").keep_in(cache);
        table
    }

    fn get(table: &Sstable, key: u64) -> u8 {
        let found = table.get(&key.to_be_bytes(), Lsn::new(1, 1)).expect("sound").expect("there");
        found.value[0]
    }

    #[test]
    fn a_block_that_was_read_is_read_from_the_cache() {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let (one, other) = (file(1, &cache), file(2, &cache));
        assert_eq!(get(&one, 9), 1);
        let bytes = cache.bytes();
        assert!(bytes > 0);
        // Of the same number, though nobody has two such: so it is seen where the block comes from.
        assert_eq!(get(&other, 9), 1);
        assert_eq!(get(&other, KEYS - 1), 2, "another block");
        assert!(cache.bytes() > bytes);
    }

    #[test]
    fn who_reads_each_block_once_neither_fills_the_cache_nor_believes_it() {
        let cache = Arc::new(BlockCache::new(1 << 20));
        let (one, other) = (file(1, &cache), file(2, &cache));
        let all = |table: &Arc<Sstable>| {
            let mut cursor = FileCursor::new(Arc::clone(table));
            let (mut more, mut values) = (cursor.first().expect("sound"), Vec::new());
            while more {
                let (key, .., value) = cursor.version().expect("sound").expect("one");
                values.push(value.read(key, &mut Vec::new()).expect("sound")[0]);
                more = cursor.advance().expect("sound");
            }
            values
        };
        assert!(all(&one) == vec![1; KEYS as usize] && one.verify().expect("sound") == KEYS);
        assert_eq!(cache.bytes(), 0);
        (0..KEYS).for_each(|key| assert_eq!(get(&one, key), 1));
        assert!(all(&other) == vec![2; KEYS as usize]);
    }

    #[test]
    fn what_it_holds_stays_within_the_limit_and_follows_it() {
        let cache = Arc::new(BlockCache::new(64 << 10));
        let table = file(1, &cache);
        for key in 0..KEYS {
            assert_eq!(get(&table, key), 1);
            assert!(cache.bytes() <= 64 << 10);
        }
        assert!(cache.bytes() > 32 << 10, "{} bytes", cache.bytes());
        cache.set_limit(16 << 10);
        assert!(cache.bytes() <= 16 << 10);
        cache.set_limit(4 << 20);
        // More of them than are passed by until it is looked again whether there is room.
        (0..4).flat_map(|_| 0..KEYS).for_each(|key| assert_eq!(get(&table, key), 1));
        assert!(cache.bytes() > KEYS * 108, "all of it: {} bytes", cache.bytes());
    }
}
