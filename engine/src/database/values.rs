//! Large values apart from their keys: what is read, what it costs, and what becomes of the room.

use std::path::Path;
use std::sync::Arc;

use isolith_index::pin;

use super::tests::small_files;
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, Storage};
use crate::{
    Builder, BulkLoadOptions, Database, Error, Keyspace, KeyspaceOptions, OpenError, Verify,
};

/// Noise of so many bytes: LZ4 saves nothing of it.
fn noise(mut seed: u64, bytes: usize) -> Vec<u8> {
    let next = || {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (seed >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

fn value(key: u64, version: u64) -> Vec<u8> {
    noise(key * 1_000 + version + 1, 1_500 + (key % 7) as usize * 300)
}

fn name(key: u64) -> String {
    format!("key{key:04}")
}

fn open(storage: &Arc<MemoryStorage>) -> (Database, Keyspace) {
    let db = small_files(storage).open().expect("it opens");
    let keyspace = db.keyspace("data").expect("there");
    (db, keyspace)
}

/// Brings everything to files, and these to rest.
fn settle(db: &Database) {
    db.flush().expect("flushed");
    let files = db.core().files().expect("files");
    files.compact_all(db.core()).expect("compacted");
}

/// Waits until no more is on disk than what is live: readers of other tests hold up the epoch, too.
fn await_removals(db: &Database, storage: &MemoryStorage) {
    loop {
        settle(db);
        let stats = db.stats().files.expect("files");
        let (bytes, values) = on_disk(storage);
        if values == stats.value_files && bytes == stats.bytes + stats.value_bytes {
            return;
        }
        pin().flush();
        std::thread::yield_now();
    }
}

/// Bytes below the directory of files, and how many of them are value files.
fn on_disk(storage: &MemoryStorage) -> (u64, usize) {
    let entries = storage.list(Path::new("sst")).expect("a directory");
    let length = |name: &str| {
        let file = storage.open(&Path::new("sst").join(name), Access::Read).expect("there");
        file.len().expect("its length")
    };
    let values = entries.iter().filter(|entry| entry.name.ends_with(".val")).count();
    (entries.iter().map(|entry| length(&entry.name)).sum(), values)
}

fn assert_sound(storage: &Arc<MemoryStorage>) {
    let report = small_files(storage).verify(Verify::Full, &mut |_, _| ()).expect("readable");
    assert!(report.is_sound() && report.orphans.is_empty(), "{report:?}");
    assert!(report.value_files > 0 && report.value_bytes > 0, "{report:?}");
}

const KEYS: u64 = 120;

fn put_all(keyspace: &Keyspace, version: u64) {
    for key in 0..KEYS {
        keyspace.put(name(key), value(key, version)).expect("put");
    }
}

#[test]
fn three_full_overwrites_take_little_more_room_than_the_values() {
    for seed in 1..4u64 {
        let storage = Arc::new(MemoryStorage::new());
        let (db, keyspace) = open(&storage);
        let mut version_of = vec![0; KEYS as usize];
        // Once in order, and then in another order, some keys more often than others.
        for step in 0..4 * KEYS {
            let key = if step < KEYS { step } else { noise(seed * 7_000 + step, 2)[1].into() };
            let key = if step % 3 == 0 { step % KEYS } else { key % KEYS };
            version_of[key as usize] += 1;
            keyspace.put(name(key), value(key, version_of[key as usize])).expect("put");
        }
        await_removals(&db, &storage);
        let live: usize = keyspace.range(..).map(|pair| pair.expect("read").1.len()).sum();
        let stats = db.stats().files.expect("files");
        let (bytes, _) = on_disk(&storage);
        assert!(bytes * 2 <= live as u64 * 3, "{bytes} bytes for {live} live: {stats:?}");
        assert!(stats.moved_bytes > 0, "{stats:?}");
        db.close().expect("closed");
        drop((db, keyspace));
        assert_sound(&storage);
        let (_db, keyspace) = open(&storage);
        for key in 0..KEYS {
            let expected =
                (version_of[key as usize] > 0).then(|| value(key, version_of[key as usize]));
            let found = keyspace.get(name(key)).expect("read").map(|value| value.to_vec());
            assert!(found == expected, "key {key}");
        }
    }
}

#[test]
fn compaction_does_not_write_large_values_again() {
    let written = |large: usize| {
        let storage = Arc::new(MemoryStorage::new());
        let db = small_files(&storage).large_values(large).open().expect("it opens");
        let keyspace = db.keyspace("data").expect("made");
        for step in 0..300u64 {
            keyspace.put(name(step * 7 % 300), value(step, 0)).expect("put");
        }
        settle(&db);
        db.stats().files.expect("files").write_amplification()
    };
    let (beside, apart) = (written(0), written(1_024));
    assert!(apart < 1.5 && apart * 2.0 < beside, "{apart} and {beside}");
}

#[test]
fn a_keyspace_says_itself_what_is_large() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).large_values(1_024).open().expect("it opens");
    let bytes_apart = |large_values: Option<usize>, bulk: bool| {
        let options = KeyspaceOptions { large_values, ..KeyspaceOptions::default() };
        let named = format!("{large_values:?} {bulk}");
        let keyspace = db.keyspace_with(&named, options).expect("made");
        let before = db.stats().files.expect("files").value_bytes;
        let values = (0..50).map(|key| (name(key), vec![key as u8; 500]));
        if bulk {
            let mut load = keyspace.bulk_load(Default::default()).expect("begun");
            values.for_each(|(key, value)| load.add(key, value).expect("added"));
            load.finish().expect("loaded");
        } else {
            values.for_each(|(key, value)| keyspace.put(key, value).expect("put"));
        }
        settle(&db);
        for key in 0..50 {
            assert!(
                keyspace
                    .get(name(key))
                    .expect("read")
                    .is_some_and(|value| *value == vec![key as u8; 500][..])
            );
        }
        db.stats().files.expect("files").value_bytes - before
    };
    for bulk in [false, true] {
        assert_eq!(bytes_apart(None, bulk), 0, "less than the database has as large");
        assert_eq!(bytes_apart(Some(501), bulk), 0);
        assert!(bytes_apart(Some(500), bulk) > 0);
        assert_eq!(bytes_apart(Some(0), bulk), 0);
    }
}

#[test]
fn what_is_read_keeps_its_value_files() {
    let storage = Arc::new(MemoryStorage::new());
    let (db, keyspace) = open(&storage);
    put_all(&keyspace, 1);
    settle(&db);
    let snapshot = db.snapshot().expect("a snapshot");
    let mut range = snapshot.range(&keyspace, ..);
    let first = range.next().expect("a pair").expect("read");
    assert!(*first.1 == *value(0, 1));
    for version in [2, 3] {
        put_all(&keyspace, version);
        settle(&db);
    }
    for (key, pair) in (1..KEYS).zip(&mut range) {
        assert!(*pair.expect("read").1 == *value(key, 1), "key {key}");
    }
    let (held, _) = on_disk(&storage);
    drop((range, snapshot));
    db.compact().expect("compacted");
    await_removals(&db, &storage);
    let (bytes, _) = on_disk(&storage);
    assert!(bytes * 3 < held * 2, "{bytes} bytes are left of {held}");
    db.close().expect("closed");
    drop((db, keyspace));
    assert_sound(&storage);
}

#[test]
fn a_dropped_keyspace_gives_its_value_files_back() {
    let storage = Arc::new(MemoryStorage::new());
    let (db, keyspace) = open(&storage);
    put_all(&keyspace, 1);
    settle(&db);
    assert!(on_disk(&storage).1 > 0);
    drop(keyspace);
    db.drop_keyspace("data").expect("dropped");
    await_removals(&db, &storage);
    assert_eq!(on_disk(&storage).1, 0);
}

#[test]
fn what_no_file_refers_to_is_removed_at_the_next_open() {
    let storage = Arc::new(MemoryStorage::new());
    let (db, keyspace) = open(&storage);
    put_all(&keyspace, 1);
    await_removals(&db, &storage);
    db.close().expect("closed");
    drop((db, keyspace));
    let before = on_disk(&storage);
    let orphan = Path::new("sst/0000000000ffffff.val");
    storage.create_new(orphan).expect("made").write_at(0, b"of a crash").expect("written");
    let report = small_files(&storage).verify(Verify::Full, &mut |_, _| ()).expect("readable");
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.orphans.len(), 1);
    drop(open(&storage));
    assert_eq!(on_disk(&storage), before);
    // A directory is none of them, whatever its name.
    storage.create_dir(Path::new("sst/0000000000fffffe.sst")).expect("made");
    drop(open(&storage));
}

/// The database's first value file, closed, after `change` was made to its bytes.
fn changed_value_file(change: impl Fn(&mut Vec<u8>)) -> (Arc<MemoryStorage>, String) {
    let storage = Arc::new(MemoryStorage::new());
    let (db, keyspace) = open(&storage);
    put_all(&keyspace, 1);
    settle(&db);
    db.close().expect("closed");
    drop((db, keyspace));
    let entries = storage.list(Path::new("sst")).expect("a directory");
    let found = entries.into_iter().find(|entry| entry.name.ends_with(".val")).expect("one");
    let found = format!("sst/{}", found.name);
    let path = Path::new(&found);
    let file = storage.open(path, Access::Read).expect("there");
    let mut bytes = vec![0; file.len().expect("its length") as usize];
    file.read_at(0, &mut bytes).expect("its bytes");
    change(&mut bytes);
    storage.remove(path).expect("removed");
    if !bytes.is_empty() {
        storage.create_new(path).expect("made").write_at(0, &bytes).expect("written");
    }
    (storage, found)
}

#[test]
fn a_damaged_value_is_told_with_its_file_and_the_others_are_read() {
    let (storage, file) = changed_value_file(|bytes| bytes[200] ^= 1);
    let report = small_files(&storage).verify(Verify::Full, &mut |_, _| ()).expect("readable");
    assert_eq!(report.damage.len(), 1, "{report:?}");
    assert!(report.damage[0].file.ends_with(&file) && report.damage[0].offset == 64, "{report:?}");
    let (db, keyspace) = open(&storage);
    let read = (0..KEYS).map(|key| keyspace.get(name(key)));
    let (good, bad): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
    assert_eq!((good.len() as u64, bad.len()), (KEYS - 1, 1));
    assert!(
        matches!(&bad[0], Err(Error::Corrupt { file: found, offset: 64, .. }) if *found == file)
    );
    // Who does not look at values does not meet it.
    assert_eq!(keyspace.len().expect("counted"), KEYS as usize);
    assert!(keyspace.range(..).any(|pair| pair.is_err()));
    // Its reference is copied, and the others are moved as ever.
    let damaged = (0..KEYS).find(|key| keyspace.get(name(*key)).is_err()).expect("one");
    for version in 2..5 {
        for key in (0..KEYS).filter(|key| *key != damaged && key % 3 > 0) {
            keyspace.put(name(key), value(key, version)).expect("put");
        }
        settle(&db);
    }
    let stats = db.stats().files.expect("files");
    assert!(stats.moved_bytes > 0, "{stats:?}");
    assert_eq!((0..KEYS).filter(|key| keyspace.get(name(*key)).is_err()).count(), 1);
}

#[test]
fn a_value_file_that_is_cut_short_or_missing_is_told_at_the_open() {
    for change in [|bytes: &mut Vec<u8>| bytes.truncate(900), Vec::clear] {
        let (storage, file) = changed_value_file(change);
        let found = small_files(&storage).open();
        let told =
            matches!(&found, Err(OpenError::Corrupt { file: of, .. }) if of.ends_with(&file));
        assert!(told, "{found:?}");
        let report = small_files(&storage).verify(Verify::Quick, &mut |_, _| ()).expect("readable");
        assert_eq!(report.damage.len(), 1, "{report:?}");
        assert!(report.damage[0].file.ends_with(&file), "{report:?}");
    }
}

#[test]
fn a_bulk_load_has_its_large_values_apart() {
    let storage = Arc::new(MemoryStorage::new());
    let (db, keyspace) = open(&storage);
    keyspace.put(name(3), value(3, 9)).expect("put");
    for options in [
        BulkLoadOptions::default(),
        BulkLoadOptions { memory_bytes: 20_000, ..BulkLoadOptions::unsorted() },
    ] {
        let mut load = keyspace.bulk_load(options).expect("begun");
        for key in 0..KEYS {
            load.add(name(key), value(key, 1)).expect("added");
        }
        // What is given up leaves nothing.
        drop(load);
        let mut load = keyspace.bulk_load(options).expect("begun");
        for key in 0..KEYS {
            load.add(name(key), value(key, 2)).expect("added");
        }
        load.finish().expect("loaded");
    }
    let stats = db.stats().files.expect("files");
    assert!(stats.value_files > 0 && stats.value_bytes > stats.bytes, "{stats:?}");
    await_removals(&db, &storage);
    db.close().expect("closed");
    drop((db, keyspace));
    assert_sound(&storage);
    let (_db, keyspace) = open(&storage);
    assert!((0..KEYS).all(|key| {
        keyspace.get(name(key)).expect("read").is_some_and(|found| *found == *value(key, 2))
    }));
}

#[test]
fn values_stay_readable_when_the_threshold_changes() {
    let storage = Arc::new(MemoryStorage::new());
    let open = |large: usize| -> (Database, Keyspace) {
        let builder: Builder = small_files(&storage).large_values(large);
        let db = builder.open().expect("it opens");
        let keyspace = db.keyspace("data").expect("there");
        (db, keyspace)
    };
    for (round, large) in [1_024, 0, 4, 2_000].into_iter().enumerate() {
        let (db, keyspace) = open(large);
        for key in (0..KEYS).filter(|key| key % 4 >= round as u64) {
            keyspace.put(name(key), value(key, round as u64)).expect("put");
        }
        await_removals(&db, &storage);
        for key in 0..KEYS {
            let version = (key % 4).min(round as u64);
            let found = keyspace.get(name(key)).expect("read").expect("there");
            assert!(*found == *value(key, version), "round {round}, key {key}");
        }
        db.close().expect("closed");
    }
    assert_sound(&storage);
    // Off for good: once everything was written anew nothing is apart.
    let (db, keyspace) = open(0);
    for key in 0..KEYS {
        keyspace.put(name(key), value(key, 9)).expect("put");
    }
    settle(&db);
    db.compact().expect("compacted");
    settle(&db);
    assert_eq!(db.stats().files.expect("files").value_files, 0);
}
