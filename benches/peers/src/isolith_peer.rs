//! isolith as a peer: `Buffered` commits of a thousand records, ended by a sync.

use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use isolith::{Database, Durability, Keyspace};

use crate::peer::{Key, Peer, Records};

/// Records of one transaction.
const BATCH: usize = 1000;

struct Isolith {
    database: Database,
    records: Keyspace,
}

/// Opens a database.
pub(crate) fn open(directory: &Path, memory_bytes: u64) -> Box<dyn Peer> {
    let builder = Database::builder(directory).memory(memory_bytes);
    let database = builder.durability(Durability::Buffered).open().expect("a database");
    let records = database.keyspace("records").expect("a keyspace");
    Box::new(Isolith { database, records })
}

impl Peer for Isolith {
    fn load_sorted(&self, records: Records<'_>) {
        let options = isolith::BulkLoadOptions::default();
        let mut load = self.records.bulk_load(options).expect("a load");
        for (key, value) in records {
            load.add(key, value).expect("in order");
        }
        load.finish().expect("a load's end");
        self.database.sync().expect("a sync");
    }

    fn load(&self, records: Records<'_>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            batch.clear();
            batch.extend(records.take(BATCH));
            if batch.is_empty() {
                break;
            }
            let put_all = |tx: &mut isolith::Transaction| {
                batch.iter().try_for_each(|(key, value)| tx.put(&self.records, key, value))
            };
            self.database.transact(put_all).expect("a commit");
        }
        self.database.sync().expect("a sync");
    }

    fn get(&self, key: &Key) -> Option<usize> {
        self.records.get(key).expect("a get").map(|value| value.len())
    }

    fn scan(&self, from: &Key, records: usize) -> (usize, usize) {
        let range = self.records.range((Bound::Included(&from[..]), Bound::Unbounded));
        range.take(records).fold((0, 0), |(count, bytes), pair| {
            let (_, value) = pair.expect("a pair");
            (count + 1, bytes + value.len())
        })
    }

    fn rest(&self) {
        let progress = || {
            let files = self.database.stats().files.expect("a database on disk");
            (files.flushes, files.compactions, files.frozen, files.files)
        };
        // Nothing tells that there is nothing to do: that nothing has happened for a while does.
        let mut before = progress();
        loop {
            std::thread::sleep(Duration::from_millis(1500));
            let now = progress();
            if now == before && now.2 == 0 {
                return;
            }
            before = now;
        }
    }

    fn settle(&self) {
        self.database.compact().expect("a compaction");
    }

    fn close(self: Box<Self>) {
        self.database.close().expect("a clean close");
    }
}
