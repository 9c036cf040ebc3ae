//! What is done to a database as a whole: checking it, opening it for reading only, compacting it.

use std::path::Path;
use std::sync::Arc;

use super::tests::small_files;
use crate::storage::memory::MemoryStorage;
use crate::storage::{Access, Storage};
use crate::{Database, Durability, Error, OpenError, Verify, VerifyReport};

/// Some thousand writes to two keyspaces, the last of them in the log only.
fn fill(db: &Database, from: u32) {
    for name in ["people", "places"] {
        let keyspace = db.keyspace(name).expect("made");
        for number in from..from + 2_000 {
            let key = format!("{name}/{:05}", number * 7919 % 3_000);
            match number % 10 {
                0 => keyspace.delete(&key).expect("deleted"),
                _ => keyspace.put(&key, format!("{number}, {}", "v".repeat(20))).expect("put"),
            }
        }
    }
}

fn all(db: &Database) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for name in db.keyspaces() {
        let keyspace = db.keyspace_if_exists(&name).expect("open").expect("there");
        for pair in keyspace.range(..) {
            let (key, value) = pair.expect("readable");
            all.push((name.clone(), key.to_vec(), value.to_vec()));
        }
    }
    all
}

fn verify(storage: &Arc<MemoryStorage>, how: Verify) -> VerifyReport {
    small_files(storage).verify(how, &mut |_, _| {}).expect("it can be looked at")
}

/// Every name and the bytes under it.
fn bytes(storage: &MemoryStorage) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for directory in ["", "wal", "sst"] {
        for entry in storage.list(Path::new(directory)).expect("listed") {
            if !entry.is_directory {
                let path = Path::new(directory).join(&entry.name);
                let file = storage.open(&path, Access::Read).expect("opened");
                let mut bytes = vec![0; entry.bytes as usize];
                let read = file.read_at(0, &mut bytes).expect("read");
                assert_eq!(read, bytes.len());
                all.push((path.display().to_string(), bytes));
            }
        }
    }
    all
}

#[test]
fn a_sound_database_is_found_sound_open_and_closed() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).open().expect("opens");
    fill(&db, 0);
    db.keyspace("gone").expect("made").put("k", "v").expect("put");
    db.drop_keyspace("gone").expect("dropped");
    fill(&db, 10_000);
    for how in [Verify::Quick, Verify::Full] {
        let mut last = (0, 0);
        let report = db.verify_with(how, &mut |done, total| last = (done, total)).expect("looked");
        assert!(report.is_sound(), "{:?}", report.damage);
        assert!(report.files > 2 && report.keyspaces == 2 && report.records > 0);
        assert_eq!(last, (report.bytes, report.bytes));
        assert_eq!(report.versions > 1_000, how == Verify::Full);
    }
    // Nobody else looks at it meanwhile.
    assert!(matches!(
        small_files(&storage).verify(Verify::Quick, &mut |_, _| {}),
        Err(OpenError::Locked { .. })
    ));
    db.close().expect("closed");
    drop(db);
    let report = verify(&storage, Verify::Full);
    assert!(report.is_sound(), "{:?}", report.damage);
    assert!(report.torn_tail.is_none());
    storage.create_new(Path::new("sst/ff.sst")).expect("made");
    let report = verify(&storage, Verify::Full);
    assert!(report.is_sound() && report.orphans.iter().any(|name| name.ends_with("sst/ff.sst")));
}

#[test]
fn a_bulk_load_is_found_sound_before_and_after_the_manifest_knows_its_commit() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).open().expect("opens");
    let keyspace = db.keyspace("people").expect("made");
    let mut load = keyspace.bulk_load(crate::BulkLoadOptions::default()).expect("begun");
    for number in 0..500 {
        load.add(format!("{number:05}"), "v").expect("added");
    }
    load.finish().expect("loaded");
    let open = db.verify(Verify::Full).expect("looked");
    assert!(open.is_sound() && open.versions == 500, "{open:?}");
    drop((keyspace, db));
    let closed = verify(&storage, Verify::Full);
    assert!(closed.is_sound() && closed.versions >= 500, "{closed:?}");
}

#[test]
fn every_damaged_file_is_named_and_the_others_are_looked_at() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).open().expect("opens");
    fill(&db, 0);
    db.flush().expect("flushed");
    fill(&db, 10_000);
    db.close().expect("closed");
    drop(db);
    let sound = verify(&storage, Verify::Full);
    let mut files = storage.list(Path::new("sst")).expect("listed");
    // Another test's pin may have kept one from being removed in time.
    files.retain(|file| !sound.orphans.iter().any(|orphan| orphan.ends_with(&file.name)));
    assert!(files.len() > 3);
    for file in &files {
        let path = Path::new("sst").join(&file.name);
        let open = storage.open(&path, Access::ReadWrite).expect("opened");
        let mut byte = [0];
        open.read_at(file.bytes / 4, &mut byte).expect("read");
        open.write_at(file.bytes / 4, &[byte[0] ^ 1]).expect("written");
    }
    let report = verify(&storage, Verify::Full);
    assert!(report.damage.len() >= files.len(), "{report:?} of {files:?}");
    for file in &files {
        assert!(report.damage.iter().any(|damage| damage.file.ends_with(&file.name)));
    }
    assert_eq!((report.files, report.records), (sound.files, sound.records));
    // One that is missing altogether.
    storage.remove(&Path::new("sst").join(&files[0].name)).expect("removed");
    assert!(verify(&storage, Verify::Quick).damage[0].file.ends_with(&files[0].name));
}

/// Every byte that is flipped is found, or belongs to nothing: then everything reads as before.
#[test]
fn no_flipped_byte_of_a_small_database_gives_a_wrong_answer_unnoticed() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).segment_bytes(32 << 10).open().expect("opens");
    let keyspace = db.keyspace("k").expect("made");
    for number in 0..40 {
        keyspace.put(format!("{number}"), "v".repeat(number)).expect("put");
    }
    db.flush().expect("flushed");
    keyspace.put("last", "in the log").expect("put");
    db.close().expect("closed");
    drop((keyspace, db));
    let before = all(&small_files(&storage).read_only(true).open().expect("opens"));
    let mut found = 0;
    for (name, content) in bytes(&storage) {
        let file = storage.open(Path::new(&name), Access::ReadWrite).expect("opened");
        let is_log = name.starts_with("wal");
        for (at, &byte) in content.iter().enumerate() {
            // Of the log's zeros some will do.
            if is_log && byte == 0 && at % 61 != 0 {
                continue;
            }
            file.write_at(at as u64, &[byte ^ 1 << (at % 8)]).expect("written");
            let report = small_files(&storage).verify(Verify::Full, &mut |_, _| {});
            match report {
                Ok(report) if report.is_sound() => {
                    let opened = small_files(&storage).read_only(true).open();
                    let now = all(&opened.unwrap_or_else(|error| panic!("{name} {at}: {error}")));
                    // What is torn at the end of the log was not to be told from what never was there.
                    assert!(
                        now == before || is_log && now.len() + 1 == before.len(),
                        "{name} {at}"
                    );
                }
                Ok(report) => {
                    found += 1;
                    assert!(report.damage[0].file.ends_with(&*name) || is_log, "{name} {at}");
                }
                Err(_) => found += 1,
            }
            file.write_at(at as u64, &[byte]).expect("written");
        }
    }
    assert!(found > 1_000, "{found}");
    assert!(verify(&storage, Verify::Full).is_sound());
}

#[test]
fn several_read_a_database_that_nobody_writes_and_change_nothing() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).open().expect("opens");
    fill(&db, 0);
    let expected = all(&db);
    let reader = || small_files(&storage).read_only(true).open();
    assert!(matches!(reader(), Err(OpenError::Locked { .. })));
    db.close().expect("closed");
    drop(db);
    let before = bytes(&storage);
    let readers = [reader().expect("opens"), reader().expect("opens")];
    assert!(matches!(small_files(&storage).open(), Err(OpenError::Locked { .. })));
    for db in &readers {
        assert_eq!(all(db), expected);
        let snapshot = db.snapshot().expect("taken");
        let people = db.keyspace("people").expect("there");
        assert_eq!(snapshot.get(&people, "nobody").expect("readable"), None);
        let refused = [
            people.put("a", "b").err(),
            people.delete("a").err(),
            people.delete_range(..).err(),
            db.transact(|tx| tx.put(&people, "a", "b")).err(),
            db.keyspace("another").err(),
            db.drop_keyspace("people").err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(Error::ReadOnly { .. })), "{error:?}");
        }
        assert_eq!(all(db), expected);
        assert!(db.stats().files.expect("files").files > 2);
        db.flush().and_then(|()| db.compact()).expect("nothing to do");
        db.close().expect("closed");
    }
    drop(readers);
    assert!(before == bytes(&storage), "something was written");
    assert_eq!(all(&small_files(&storage).open().expect("opens")), expected);
}

#[test]
fn a_crashed_database_is_read_as_it_lies_there() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small_files(&storage).durability(Durability::Os).open().expect("opens");
    fill(&db, 0);
    let (expected, copy) = (all(&db), Arc::new(MemoryStorage::new()));
    for (name, content) in bytes(&storage) {
        let path = Path::new(&name);
        copy.create_dir(path.parent().expect("below the root")).expect("made");
        copy.create_new(path).expect("made").write_at(0, &content).expect("written");
    }
    assert_eq!(all(&small_files(&copy).read_only(true).open().expect("opens")), expected);
    assert!(verify(&copy, Verify::Full).is_sound());
    assert_eq!(all(&small_files(&copy).open().expect("opens")), expected);
}

#[test]
fn what_is_not_there_is_not_made() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    assert!(Database::builder(&missing).read_only(true).open().is_err());
    assert!(crate::verify(&missing, Verify::Full, &mut |_, _| {}).is_err());
    let storage = Arc::new(MemoryStorage::new());
    let opened = small_files(&storage).read_only(true).open();
    assert!(matches!(opened, Err(OpenError::NotADatabase { .. })));
    assert!(!missing.exists() && storage.list(Path::new("")).expect("listed").is_empty());
}
