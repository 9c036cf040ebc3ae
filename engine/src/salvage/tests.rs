//! Whatever is damaged: salvage ends, the new database is sound, and every key that lies in nothing that was
//! told as lost has the value that it had.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::storage::Access;
use crate::storage::memory::MemoryStorage;
use crate::verify::{Verify, verify_storage};
use crate::{Durability, ManualClock, Transaction, merge};

mod hostile;

/// All that a database has: keyspace and key to value and expiry.
type Contents = BTreeMap<(String, Vec<u8>), (Vec<u8>, Option<u64>)>;

/// The bytes of every file.
type Image = BTreeMap<PathBuf, Vec<u8>>;

fn builder(storage: &Arc<MemoryStorage>) -> Builder {
    Builder::new(None)
        .storage(Arc::clone(storage) as _)
        .memtable_bytes(64 << 10)
        .file_bytes(4 << 10)
        .large_values(24)
        .segment_bytes(64 << 10)
        .durability(Durability::Buffered)
        .clock(Arc::new(ManualClock::new(1_000)))
        .threads(false)
}

fn contents(db: &Database) -> Contents {
    let mut contents = Contents::new();
    let snapshot = db.snapshot().expect("taken");
    for name in db.keyspaces() {
        let keyspace = db.keyspace_if_exists(&name).expect("open").expect("there");
        for pair in snapshot.range(&keyspace, ..) {
            let (key, _) = pair.expect("readable");
            let entry = snapshot.get_entry(&keyspace, &key).expect("readable").expect("there");
            let at = (name.clone(), key.to_vec());
            contents.insert(at, (entry.value.to_vec(), entry.expires_at));
        }
    }
    contents
}

fn image(storage: &dyn Storage) -> Image {
    let mut image = Image::new();
    let mut ahead = vec![PathBuf::new()];
    while let Some(directory) = ahead.pop() {
        for entry in storage.list(&directory).expect("listed") {
            let path = directory.join(&entry.name);
            if entry.is_directory {
                ahead.push(path);
                continue;
            }
            let file = storage.open(&path, Access::Read).expect("opened");
            let mut bytes = vec![0; file.len().expect("known") as usize];
            file.read_at(0, &mut bytes).expect("read");
            image.insert(path, bytes);
        }
    }
    image
}

fn restored(image: &Image) -> Arc<dyn Storage> {
    let storage = MemoryStorage::new();
    for (path, bytes) in image {
        storage.create_dir(path.parent().expect("a file")).expect("made");
        let file = storage.create_new(path).expect("new");
        file.write_at(0, bytes).expect("written");
    }
    Arc::new(storage)
}

/// A database, and what it had after each commit of its log that is in no file.
struct Damaged {
    image: Image,
    states: BTreeMap<Lsn, Contents>,
}

fn write(tx: &mut Transaction, space: &crate::Keyspace, number: u64) -> Result<()> {
    let key = |number: u64| format!("key{:03}", number % 97);
    match number % 11 {
        0 => tx.delete(space, key(number * 7)),
        1 | 2 => tx.merge(space, key(number * 5), merge::APPEND, format!("+{number}")),
        3 => tx.put_with(space, key(number * 3), "short", Some(500 + number % 2 * 10_000)),
        4 if number % 44 == 4 => tx.delete_range(space, key(number)..key(number + 5)),
        _ => tx.put(
            space,
            key(number),
            format!("value {number} {}", "v".repeat(number as usize % 70)),
        ),
    }
}

/// Three keyspaces with files on several levels, one that was dropped, and a tail in the log.
fn built() -> Damaged {
    let storage = Arc::new(MemoryStorage::new());
    let db = builder(&storage).open().expect("it opens");
    let spaces = ["accounts", "log", "words"].map(|name| {
        let mut options = KeyspaceOptions::default();
        match name {
            "log" => options.ttl = Some(std::time::Duration::from_secs(3_600)),
            "words" => options.prefix_filter = Some(crate::PrefixExtractor::Length(4)),
            _ => options.compression = crate::Compression::None,
        }
        db.keyspace_with(name, options).expect("made")
    });
    let dropped = db.keyspace("dropped").expect("made");
    let mut number = 0;
    for round in 0..4 {
        for space in &spaces {
            for _ in 0..40 {
                number += 1;
                db.transact(|tx| write(tx, space, number)).expect("written");
            }
        }
        if round < 3 {
            dropped.put(format!("{round}"), "x").expect("written");
        }
        db.flush().expect("flushed");
        if round == 1 {
            let words = db.keyspace("words").expect("there");
            let mut load = words.bulk_load(Default::default()).expect("begun");
            for number in 0..40 {
                load.add(format!("loaded{number:02}"), "v".repeat(40)).expect("added");
            }
            load.finish().expect("loaded");
        }
        if round == 2 {
            db.compact().expect("compacted");
            db.drop_keyspace("dropped").expect("dropped");
        }
    }
    let mut states = BTreeMap::from([(Lsn::ZERO, contents(&db))]);
    for round in 0..12 {
        let mut tx = db.begin().expect("begun");
        for space in &spaces {
            number += 1;
            write(&mut tx, space, number).expect("written");
        }
        if round == 5 {
            db.keyspace("late").expect("made");
        }
        let at = tx.commit().expect("committed").timestamp.expect("it wrote");
        states.insert(at, contents(&db));
    }
    db.close().expect("closed");
    drop((spaces, dropped));
    drop(db);
    Damaged { image: image(&*storage), states }
}

/// Salvages what is left, and checks all that is promised; gives the report, and what the new database has.
fn check(
    damaged: &Image,
    states: &BTreeMap<Lsn, Contents>,
    when: &str,
) -> (SalvageReport, Contents) {
    let storage = restored(damaged);
    let out = Arc::new(MemoryStorage::new());
    let report = salvage_storage(&storage, builder(&out), &mut |_, _| {});
    let report = report.unwrap_or_else(|error| panic!("{when}: {error}"));
    assert!(image(&*storage) == *damaged, "{when}: it was written to");
    let out: Arc<dyn Storage> = out;
    let sound = verify_storage(&out, Verify::Full, &mut |_, _| {}).expect("it can be looked at");
    assert!(sound.is_sound(), "{when}: {:?}", sound.damage);
    let db = Builder::new(None)
        .storage(out)
        .clock(Arc::new(ManualClock::new(1_000)))
        .read_only(true)
        .open()
        .expect("sound");
    let found = contents(&db);
    let truth = states.values().next_back().expect("one");
    let told = |(keyspace, key): &(String, Vec<u8>)| {
        report.lost.iter().any(|piece| {
            piece.keyspace.as_ref().is_none_or(|name| name == keyspace)
                && piece.keys.as_ref().is_none_or(|keys| keys.contains(key))
        })
    };
    let mut expected = truth;
    // Nothing but the end of the log, or the manifest: then it is known what there must be.
    if report.lost.iter().all(|piece| piece.file.contains("wal")) {
        expected = states.range(..=report.last).next_back().expect("the files").1;
    }
    let exact = report
        .lost
        .iter()
        .all(|piece| piece.file.contains("wal") || piece.file.contains("MANIFEST"));
    for at in expected.keys().chain(found.keys()) {
        if exact || !told(at) {
            let key = at.1.escape_ascii();
            assert_eq!(found.get(at), expected.get(at), "{when}: {} {key}: {report:#?}", at.0);
        }
    }
    (report, found)
}

#[test]
fn a_sound_database_is_copied() {
    let Damaged { image, states } = built();
    let (report, found) = check(&image, &states, "sound");
    assert!(report.is_complete() && report.damage.is_empty(), "{report:#?}");
    assert_eq!(Some(&found), states.values().next_back());
    let options = |image: &Image| {
        let db = Builder::new(None).storage(restored(image)).read_only(true).open().expect("sound");
        let names = db.keyspaces();
        let options = names.iter().map(|name| db.keyspace(name).expect("there").options());
        names.iter().cloned().zip(options).collect::<Vec<_>>()
    };
    let out: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let into = Builder::new(None).storage(Arc::clone(&out)).threads(false);
    salvage_storage(&restored(&image), into, &mut |_, _| {}).expect("sound");
    assert_eq!(options(&super::tests::image(&*out)), options(&image));
    let names: Vec<_> = report.keyspaces.iter().map(|keyspace| &*keyspace.name).collect();
    assert_eq!(names, ["accounts", "late", "log", "words"]);
    assert_eq!(report.keys, found.len() as u64);
    assert!(report.files > 3 && report.records > 10);
    assert!(image.keys().filter(|path| path.starts_with("sst")).count() > 4);
}

#[test]
fn a_bit_anywhere_costs_what_is_told() {
    let Damaged { image, states } = built();
    let (mut complete, mut lost) = (0, 0);
    for (path, bytes) in &image {
        // All of the beginning, where the headers are, in steps; and the rest in some more.
        let places = (0..128).step_by(9).chain((0..bytes.len()).step_by(bytes.len() / 40 + 1));
        for place in places.filter(|place| *place < bytes.len()) {
            let mut damaged = image.clone();
            damaged.get_mut(path).expect("there")[place] ^= 1 << (place % 8);
            let when = format!("a bit of {} at {place}", path.display());
            let (report, _) = check(&damaged, &states, &when);
            complete += usize::from(report.is_complete());
            lost += usize::from(!report.is_complete());
        }
    }
    assert!(complete > 20 && lost > 100, "{complete} lost nothing, {lost} something");
}

#[test]
fn files_that_are_cut_or_missing_cost_what_is_told() {
    let Damaged { image, states } = built();
    for (path, bytes) in &image {
        let mut damaged = image.clone();
        damaged.remove(path);
        let (report, _) = check(&damaged, &states, &format!("without {}", path.display()));
        let is_data = path.starts_with("sst") || path.ends_with("MANIFEST");
        assert!(!is_data || !report.is_complete(), "{}: {report:#?}", path.display());
        for part in 0..7 {
            let mut damaged = image.clone();
            damaged.get_mut(path).expect("there").truncate(bytes.len() * part / 7);
            check(&damaged, &states, &format!("{} cut to {part}/7", path.display()));
        }
    }
}

#[test]
fn without_a_manifest_and_with_more_damage_nothing_wrong_is_read() {
    let Damaged { image, states } = built();
    let mut without = image.clone();
    without.remove(Path::new("MANIFEST"));
    let (report, found) = check(&without, &states, "without a manifest");
    assert!(report.lost.iter().any(|piece| piece.file.contains("MANIFEST")));
    assert_eq!(Some(&found), states.values().next_back(), "{report:#?}");
    let truth = states.values().next_back().expect("one");
    let mut values: std::collections::BTreeSet<&[u8]> = Default::default();
    values.extend(states.values().flatten().map(|(_, (value, _))| &**value));
    for (path, bytes) in &without {
        for place in (0..bytes.len()).step_by(bytes.len() / 12 + 1) {
            let mut damaged = without.clone();
            damaged.get_mut(path).expect("there")[place] ^= 0x41;
            let storage = restored(&damaged);
            let out = Arc::new(MemoryStorage::new());
            let when = format!("no manifest, and {} at {place}", path.display());
            match salvage_storage(&storage, builder(&out), &mut |_, _| {}) {
                Ok(report) => assert!(!report.is_complete(), "{when}"),
                Err(error) => panic!("{when}: {error}"),
            }
            let out: Arc<dyn Storage> = out;
            let sound = verify_storage(&out, Verify::Full, &mut |_, _| {}).expect("readable");
            assert!(sound.is_sound(), "{when}");
        }
    }
    assert!(!truth.is_empty() && !values.is_empty());
}

#[test]
fn names_that_are_lost_are_made_up() {
    let Damaged { image, states } = built();
    let mut found_some = false;
    for path in image.keys().filter(|path| path.starts_with("sst")) {
        let mut damaged = image.clone();
        damaged.remove(path);
        let (report, found) = check(&damaged, &states, "without a file");
        if !report.keyspaces.iter().any(|keyspace| keyspace.made_up) {
            continue;
        }
        found_some = true;
        // Nothing else was in it.
        let of = |contents: &Contents| {
            let mut spaces: BTreeMap<String, Vec<[Vec<u8>; 2]>> = BTreeMap::new();
            for ((name, key), (value, _)) in contents {
                spaces.entry(name.clone()).or_default().push([key.clone(), value.clone()]);
            }
            let mut spaces: Vec<_> = spaces.into_values().collect();
            spaces.sort();
            spaces
        };
        assert_eq!(of(&found), of(states.values().next_back().expect("one")), "{report:#?}");
    }
    assert!(found_some, "no file had names alone");
}

#[test]
fn only_a_new_database_is_written_to_and_only_a_database_is_read() {
    let Damaged { image, .. } = built();
    let used = Arc::new(MemoryStorage::new());
    drop(builder(&used).open().expect("it opens"));
    let storage = restored(&image);
    let refused = salvage_storage(&storage, builder(&used), &mut |_, _| {});
    assert!(refused.expect_err("used").to_string().contains("is not empty"));
    let empty: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let into = builder(&Arc::new(MemoryStorage::new()));
    let refused = salvage_storage(&empty, into, &mut |_, _| {});
    assert!(matches!(refused, Err(Error::Open(OpenError::NotADatabase { .. }))));
}

#[test]
fn what_needs_an_operator_that_is_not_registered_is_told() {
    let storage = Arc::new(MemoryStorage::new());
    let with = || builder(&storage).merge_operator("joined", Joined);
    let db = with().open().expect("it opens");
    let space = db.keyspace("space").expect("made");
    space.put("a", "1").expect("written");
    // What is merged in a file of its own stays what it is.
    db.flush().expect("flushed");
    for key in ["a", "b"] {
        space.merge(key, "joined", "2").expect("merged");
    }
    db.flush().expect("flushed");
    space.merge("c", "joined", "3").expect("merged");
    db.close().expect("closed");
    let damaged: Arc<dyn Storage> = Arc::clone(&storage) as _;
    let out = Arc::new(MemoryStorage::new());
    let into = builder(&out).merge_operator("joined", Joined);
    let report = salvage_storage(&damaged, into, &mut |_, _| {}).expect("done");
    assert!(report.is_complete() && report.keys == 3, "{report:#?}");
    let report = salvage_storage(&damaged, builder(&Arc::default()), &mut |_, _| {}).expect("done");
    assert_eq!((report.keys, report.lost.len()), (1, 3), "{report:#?}");
    assert!(report.lost[0].to_string().contains("joined"), "{}", report.lost[0]);
    // Without the names of numbers no other operator is taken for it.
    storage.remove(Path::new("MANIFEST")).expect("removed");
    let into = builder(&Arc::default()).merge_operator("other", Joined);
    let report = salvage_storage(&damaged, into, &mut |_, _| {}).expect("done");
    assert_eq!(report.keys, 1, "{report:#?}");
}

struct Joined;

impl crate::MergeOperator for Joined {
    fn merge(&self, old: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, crate::MergeError> {
        Ok([old.unwrap_or_default(), operand].concat())
    }

    fn combine(&self, old: &[u8], operand: &[u8]) -> Result<Vec<u8>, crate::MergeError> {
        Ok([old, operand].concat())
    }
}
