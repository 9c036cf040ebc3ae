//! Compactions in parts: what they leave is what one in a piece leaves, and what fails in one part fails all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isolith_index::sstable::FileId;

use super::tests::small_files;
use crate::files::{DIRECTORY, file_name};
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, Storage};
use crate::{Database, Error, Keyspace, Snapshot, Verify, merge};

/// Key and value, and when it expires.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(keyspace: &Keyspace, snapshot: &Snapshot) -> Pairs {
    let pair = |pair: crate::Result<crate::Pair>| {
        let (key, value) = pair.expect("readable");
        (key.to_vec(), value.to_vec())
    };
    snapshot.range(keyspace, ..).map(pair).collect()
}

/// The same history for every database: puts, deletes, merges and range deletes over some hundred keys, with
/// snapshots here and there.
fn fill(db: &Database, seed: u64) -> (Keyspace, Vec<Snapshot>, Pairs) {
    let keyspace = db.keyspace("data").expect("made");
    let mut state = seed | 1;
    let mut roll = move |sides: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % sides
    };
    let (mut snapshots, mut model) = (Vec::new(), BTreeMap::<Vec<u8>, Vec<u8>>::new());
    for step in 0..6_000u64 {
        let key = format!("k{:04}", roll(1500)).into_bytes();
        match roll(100) {
            0..75 => {
                let value = format!("{step}{}", "v".repeat(roll(90) as usize)).into_bytes();
                keyspace.put(&key, &value).expect("put");
                model.insert(key, value);
            }
            75..85 => {
                keyspace.delete(&key).expect("deleted");
                model.remove(&key);
            }
            85..98 => {
                let operand = format!("+{step}");
                keyspace.merge(&key, merge::APPEND, &operand).expect("merged");
                model.entry(key).or_default().extend(operand.bytes());
            }
            98 => {
                let end = [&key[..4], b"~"].concat();
                keyspace.delete_range(&key[..]..&end[..]).expect("deleted");
                model.retain(|known, _| *known < key || *known >= end);
            }
            _ if snapshots.len() < 6 => snapshots.push(db.snapshot().expect("taken")),
            _ => {}
        }
    }
    (keyspace, snapshots, model.into_iter().collect())
}

#[test]
fn parts_leave_what_one_piece_leaves_to_every_snapshot() {
    for seed in 1..4 {
        let mut seen: Option<Vec<Pairs>> = None;
        for (threads, attended) in [(1, false), (2, false), (5, false), (1, true), (4, true)] {
            let builder = small_files(&Arc::new(MemoryStorage::new()));
            let builder = builder.background_threads(threads).threads(attended);
            // Memory is given back late where other tests hold epochs, and threads may be slow.
            let builder = builder.stall_timeout(Duration::from_secs(60));
            let db = builder.memory(4 << 20).open().expect("it opens");
            let (keyspace, snapshots, model) = fill(&db, seed);
            db.compact().expect("compacted");
            let now = db.snapshot().expect("taken");
            assert!(pairs(&keyspace, &now) == model, "{threads} threads");
            let all: Vec<Pairs> =
                snapshots.iter().map(|snapshot| pairs(&keyspace, snapshot)).collect();
            let first = seen.get_or_insert_with(|| all.clone());
            assert!(*first == all, "snapshots with {threads} threads");
            assert!(db.verify(Verify::Full).expect("looked at").is_sound());
            let stats = db.stats().files.expect("files");
            assert!(stats.compaction_parts <= stats.compactions * threads as u64, "{stats:?}");
            assert!(threads > 1 || stats.compaction_parts <= stats.compactions, "{stats:?}");
            if !attended && threads > 1 {
                // Moves have none, small ones have one.
                assert!(stats.compaction_parts > stats.compactions, "{stats:?}");
            }
            // The space is given back as by one piece.
            drop((now, snapshots));
            db.compact().expect("compacted");
            let versions: u64 = db.keyspace_stats().iter().map(|known| known.versions).sum();
            assert!(versions as usize <= model.len(), "{versions} of {}", model.len());
        }
    }
}

/// Names of the files that are there.
fn there(storage: &MemoryStorage) -> BTreeSet<String> {
    let entries = storage.list(Path::new(DIRECTORY)).expect("listed");
    entries.into_iter().map(|entry| format!("{DIRECTORY}/{}", entry.name)).collect()
}

#[test]
fn what_fails_in_one_part_fails_all_and_leaves_nothing() {
    for attended in [false, true] {
        let storage = Arc::new(MemoryStorage::new());
        let open = |attended| {
            let builder = small_files(&storage).background_threads(4).threads(attended);
            builder.open().expect("it opens")
        };
        let db = open(false);
        let (keyspace, snapshots, model) = fill(&db, 7);
        drop(snapshots);
        db.compact().expect("compacted");
        let guard = isolith_index::pin();
        let files: Vec<u64> =
            keyspace.space().view(&guard).levels().files().map(|file| file.meta().id).collect();
        drop((guard, keyspace));
        db.close().expect("closed");
        drop(db);
        assert!(files.len() > 2, "{files:?}");
        // A block in the middle of the last file: the last part comes upon it.
        let name = file_name(FileId(files[files.len() - 1]));
        let file = storage.open(Path::new(&name), Access::ReadWrite).expect("there");
        let mut byte = [0];
        file.read_at(1000, &mut byte).expect("readable");
        file.write_at(1000, &[byte[0] ^ 1]).expect("writable");
        let before = there(&storage);
        let db = open(attended);
        let told = db.compact().expect_err("a block is damaged");
        assert!(matches!(&told, Error::Corrupt { file, .. } if *file == name), "{told}");
        db.close().expect("closed");
        drop(db);
        // Mended, all of it is as it was. The next open removes files that readers elsewhere held, and none that
        // the failed parts wrote.
        file.write_at(1000, &byte).expect("writable");
        let after = there(&storage);
        assert!(after.contains(&name), "{after:?}");
        let db = open(false);
        let live = there(&storage);
        assert!(after.difference(&live).all(|file| before.contains(file)), "{after:?}, {live:?}");
        let keyspace = db.keyspace("data").expect("there");
        assert!(pairs(&keyspace, &db.snapshot().expect("taken")) == model);
        db.compact().expect("compacted");
        assert!(pairs(&keyspace, &db.snapshot().expect("taken")) == model);
    }
}
