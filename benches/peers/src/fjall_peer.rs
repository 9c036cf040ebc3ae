//! fjall as a peer: its own defaults (LZ4, leveled compaction, blocks of 4 KiB, filters), the block cache
//! and the memtables as large as they are told to be.
//!
//! Its documentation advises a cache of a quarter of the memory, or all of it; it gets all, and its
//! memtable a quarter more. A batch is handed to the system when it is committed and synced at the end
//! (`PersistMode::SyncAll`). Sorted loads are ingested, past the journal and straight to files.

use std::path::Path;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use crate::peer::{Key, Peer, Records};

/// Records of one batch.
const BATCH: usize = 1000;

struct Fjall {
    database: Database,
    records: Keyspace,
}

/// Opens a database.
pub(crate) fn open(directory: &Path, memory_bytes: u64) -> Box<dyn Peer> {
    let database = Database::builder(directory).cache_size(memory_bytes).open();
    let database = database.expect("a database");
    let options = || KeyspaceCreateOptions::default().max_memtable_size(memory_bytes / 4);
    let records = database.keyspace("records", options).expect("a keyspace");
    Box::new(Fjall { database, records })
}

impl Fjall {
    fn persist(&self) {
        self.database.persist(PersistMode::SyncAll).expect("a sync");
    }
}

impl Peer for Fjall {
    fn load_sorted(&self, records: Records<'_>) {
        let mut ingestion = self.records.start_ingestion().expect("an ingestion");
        for (key, value) in records {
            ingestion.write(key, value).expect("a write");
        }
        ingestion.finish().expect("an ingestion's end");
        self.persist();
    }

    fn load(&self, records: Records<'_>) {
        loop {
            let mut batch = self.database.batch();
            for (key, value) in records.take(BATCH) {
                batch.insert(&self.records, key, value);
            }
            if batch.is_empty() {
                break;
            }
            batch.commit().expect("a commit");
        }
        self.persist();
    }

    fn get(&self, key: &Key) -> Option<usize> {
        self.records.get(key).expect("a get").map(|value| value.len())
    }

    fn scan(&self, from: &Key, records: usize) -> (usize, usize) {
        let range = self.records.range(*from..);
        range.take(records).fold((0, 0), |(count, bytes), guard| {
            let (_, value) = guard.into_inner().expect("a pair");
            (count + 1, bytes + value.len())
        })
    }

    fn rest(&self) {
        let progress = || {
            let database = &self.database;
            let waiting = database.outstanding_flushes() + database.active_compactions();
            (database.compactions_completed(), waiting)
        };
        let mut before = progress();
        loop {
            std::thread::sleep(Duration::from_millis(1500));
            let now = progress();
            if now == before && now.1 == 0 {
                return;
            }
            before = now;
        }
    }

    fn settle(&self) {
        // Neither is documented; nothing that is does as much.
        self.records.rotate_memtable_and_wait().expect("a flush");
        self.records.major_compact().expect("a compaction");
    }

    fn close(self: Box<Self>) {
        self.persist();
    }
}
