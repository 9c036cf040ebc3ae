//! A copy has the commits up to its timestamp and no others; one that was cut short is never taken for whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isolith_wal::storage::memory::MemoryStorage;

use super::offline::restore_storages;
use super::*;
use crate::{BulkLoadOptions, Change, Changes, Durability, Keyspace, Verify};

mod crashes;
mod restoring;
mod values;

/// Everything in a database.
pub(super) type State = BTreeMap<(String, Vec<u8>), Vec<u8>>;

pub(super) fn state(db: &Database) -> State {
    let mut all = State::new();
    for name in db.keyspaces() {
        let keyspace = db.keyspace_if_exists(&name).expect("open").expect("there");
        for pair in keyspace.range(..) {
            let (key, value) = pair.expect("readable");
            all.insert((name.clone(), key.to_vec()), value.to_vec());
        }
    }
    all
}

/// Small files and segments, most values apart from their keys, and everything done by the caller.
pub(super) fn small(storage: Arc<dyn Storage>) -> crate::Builder {
    crate::Builder::new(None)
        .storage(storage)
        .memtable_bytes(16 << 10)
        .file_bytes(8 << 10)
        .large_values(6)
        .segment_bytes(64 << 10)
        .durability(Durability::Buffered)
        .threads(false)
}

/// What a feed of all changes comes to at a timestamp, the contents of bulk loads being known.
fn replayed(feed: &mut Changes, at: Lsn) -> (State, u64) {
    let (mut all, mut loads, mut commits) = (State::new(), 0, 0);
    let mut names = BTreeMap::new();
    while let Some(commit) = feed.next_commit().expect("the log is held") {
        if commit.timestamp > at {
            break;
        }
        commits += 1;
        for change in commit.changes {
            let name = |keyspace: &crate::ChangedKeyspace| -> String {
                names.get(&keyspace.id).cloned().unwrap_or_default()
            };
            match change {
                Change::Created(keyspace) => {
                    names.insert(keyspace.id, keyspace.name.expect("told").to_string());
                }
                Change::Dropped { name } => all.retain(|(space, _), _| **space != *name),
                Change::Put { keyspace, key, value, .. } => {
                    all.insert((name(&keyspace), key.to_vec()), value.to_vec());
                }
                Change::Delete { keyspace, key } => {
                    all.remove(&(name(&keyspace), key.to_vec()));
                }
                Change::BulkLoaded(keyspace) => {
                    for (key, value) in load(loads) {
                        all.insert((name(&keyspace), key.into_bytes()), value.into_bytes());
                    }
                    loads += 1;
                }
                other => unreachable!("{other:?}"),
            }
        }
    }
    (all, commits)
}

/// The pairs of the n-th bulk load: half of them replace some of the one before.
fn load(n: u32) -> impl Iterator<Item = (String, String)> {
    (0..60).map(move |key| (format!("{:06}", n * 30 + key), format!("load {n}")))
}

fn bulk_load(keyspace: &Keyspace, n: u32) {
    let mut bulk = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
    for (key, value) in load(n) {
        bulk.add(key, value).expect("added");
    }
    bulk.finish().expect("loaded");
}

const ACCOUNTS: u64 = 200;
const TOTAL: u64 = ACCOUNTS * 100;

fn balance(value: &[u8]) -> u64 {
    std::str::from_utf8(&value[..6]).expect("text").parse().expect("a number")
}

fn amount(balance: u64) -> String {
    format!("{balance:06}{}", "·".repeat(20))
}

/// Moves money between two keyspaces until it is told to stop.
fn transfer(db: &Database, seed: u64, stop: &AtomicBool) {
    let [left, right] = ["left", "right"].map(|name| db.keyspace(name).expect("there"));
    let mut random = seed * 7919 + 1;
    // Relaxed: it says no more than that it is over.
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (from, to) = (random >> 33, random >> 17);
        let key = |number: u64| format!("{:05}", number % ACCOUNTS);
        db.transact(|tx| {
            let (from, to) = (key(from), key(to));
            let read = |keyspace: &Keyspace, key: &str| {
                tx.get(keyspace, key).map(|value| value.map_or(0, |value| balance(&value)))
            };
            let (had, has) = (read(&left, &from)?, read(&right, &to)?);
            let moved = had.min(random % 50);
            tx.put(&left, &from, amount(had - moved))?;
            tx.put(&right, &to, amount(has + moved))
        })
        .expect("committed");
    }
}

#[test]
fn a_copy_made_while_many_write_has_exactly_the_commits_up_to_its_timestamp() {
    let directory = tempfile::tempdir().expect("a directory");
    let builder = |path: &Path| {
        let sizes = Database::builder(path).memtable_bytes(64 << 10).file_bytes(32 << 10);
        sizes.segment_bytes(256 << 10).durability(Durability::Buffered)
    };
    let path = |name: &str| directory.path().join(name);
    let db = builder(&path("data")).open().expect("opens");
    let mut feed = db.changes(Lsn::ZERO).expect("from the beginning");
    let left = db.keyspace("left").expect("made");
    for account in 0..ACCOUNTS {
        left.put(format!("{account:05}"), amount(100)).expect("put");
    }
    db.keyspace("right").expect("made");
    let stop = AtomicBool::new(false);
    // Relaxed, both: it says no more than that it is over.
    let going = || !stop.load(Ordering::Relaxed);
    let mut made = Vec::new();
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let (db, stop) = (&db, &stop);
            scope.spawn(move || transfer(db, seed, stop));
        }
        scope.spawn(|| {
            let bulk = db.keyspace("bulk").expect("made");
            let mut n = 0;
            while going() {
                bulk_load(&bulk, n);
                n += 1;
            }
        });
        scope.spawn(|| {
            let mut n = 0;
            while going() {
                let name = format!("passing {n}");
                let keyspace = db.keyspace(&name).expect("made");
                for key in 0..20 {
                    keyspace.put(format!("{key}"), name.as_bytes()).expect("put");
                }
                db.flush().expect("flushed");
                db.drop_keyspace(&name).expect("dropped");
                n += 1;
            }
        });
        for n in 0..8 {
            let options = CheckpointOptions { copy_files: n % 4 == 3 };
            let acknowledged = db.acknowledged();
            let copy = db.checkpoint_with(path(&format!("copy {n}")), options).expect("copied");
            assert!(copy.timestamp >= acknowledged && copy.restorable_from <= copy.timestamp);
            assert!(copy.copied_bytes == 0 || options.copy_files, "{copy:?}");
            made.push(copy);
        }
        // Relaxed: the writers look again, and the scope joins them.
        stop.store(true, Ordering::Relaxed);
    });
    assert!(made.iter().any(|copy| copy.linked_bytes > 0), "{made:?}");
    for (n, copy) in made.iter().enumerate() {
        let (expected, commits) = replayed(&mut feed_again(&mut feed, &db), copy.timestamp);
        assert!(commits > 0);
        let path = path(&format!("copy {n}"));
        let report = crate::verify(&path, Verify::Full, &mut |_, _| {}).expect("looked at");
        assert!(report.is_sound(), "{:?}", report.damage);
        assert_eq!(report.last, copy.timestamp);
        let opened = builder(&path).open().expect("the copy opens");
        assert_eq!(opened.visible(), copy.timestamp);
        let found = state(&opened);
        assert!(found == expected, "{n}: {copy:?}");
        let money = |name| found.iter().filter(move |((space, _), _)| space == name);
        let sum: u64 = ["left", "right"]
            .map(|name| money(name).map(|(_, v)| balance(v)).sum::<u64>())
            .iter()
            .sum();
        assert_eq!(sum, TOTAL);
        // It goes on by itself, and disturbs nobody.
        let keyspace = opened.keyspace("left").expect("there");
        keyspace.put("mine", "1").expect("put");
        assert!(opened.visible().epoch() > copy.timestamp.epoch());
        opened.compact().expect("compacted");
        opened.close().expect("closed");
    }
    let report = db.verify(Verify::Full).expect("looked at");
    assert!(report.is_sound(), "{:?}", report.damage);
    let before = state(&db);
    db.close().expect("closed");
    drop((left, feed, db));
    assert!(state(&builder(&path("data")).open().expect("opens")) == before);
}

/// A feed from the beginning, as long as another one holds the log.
fn feed_again(held: &mut Changes, db: &Database) -> Changes {
    assert_eq!(held.position(), Lsn::ZERO);
    db.changes(Lsn::ZERO).expect("it is held")
}

#[test]
fn what_cannot_be_copied_and_where_to_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let in_memory = Database::in_memory();
    assert!(matches!(in_memory.checkpoint(path("copy")), Err(BackupError::NotOnDisk)));
    let db = Database::open(path("data")).expect("opens");
    db.keyspace("k").expect("made").put("k", "v").expect("put");
    for within in ["data", "data/copy", "data/wal/copy", "data/sst"] {
        let refused = db.checkpoint(path(within));
        assert!(matches!(refused, Err(BackupError::TargetWithinSource { .. })), "{within}");
    }
    // What would be made on the way leads back.
    let refused = db.checkpoint(path("nowhere/../data/copy"));
    assert!(matches!(refused, Err(BackupError::Io { .. })), "{refused:?}");
    let missing = SyscallStorage::open_existing(&path("data/copy")).is_err();
    assert!(missing, "nothing was made there");
    db.checkpoint(path("copy")).expect("copied");
    for there in [path("copy"), directory.path().to_owned()] {
        let refused = db.checkpoint(&there);
        assert!(matches!(refused, Err(BackupError::TargetNotEmpty { .. })), "{there:?}");
    }
    let in_use = backup(path("data"), path("other"), CheckpointOptions::default());
    assert!(matches!(in_use, Err(BackupError::Source(OpenError::Locked { .. }))), "{in_use:?}");
    db.close().expect("closed");
    assert!(matches!(db.checkpoint(path("late")), Err(BackupError::Database(Error::Closed))));
    drop(db);
    let read = Database::builder(path("data")).read_only(true).open().expect("opens");
    assert!(matches!(read.checkpoint(path("copy 2")), Err(BackupError::NotOnDisk)));
    let copied = backup(path("data"), path("copy 2"), CheckpointOptions::default());
    assert_eq!(copied.expect("several may read").timestamp, read.visible());
    let nothing = backup(path("copy 3"), path("copy 4"), CheckpointOptions::default());
    assert!(matches!(nothing, Err(BackupError::Source(OpenError::Io { .. }))), "{nothing:?}");
    let storage = SyscallStorage::open(&path("empty")).expect("made");
    let nothing = backup(path("empty"), path("copy 4"), CheckpointOptions::default());
    assert!(matches!(nothing, Err(BackupError::Source(OpenError::NotADatabase { .. }))));
    // What was not finished is never opened.
    storage.create_new(Path::new("PARTIAL")).expect("made");
    let partial = |error| assert!(matches!(error, OpenError::Partial { .. }), "{error}");
    partial(Database::open(path("empty")).expect_err("refused"));
    partial(Database::builder(path("empty")).read_only(true).open().expect_err("refused"));
    partial(crate::verify(path("empty"), Verify::Quick, &mut |_, _| {}).expect_err("refused"));
}

#[test]
fn an_empty_database_is_copied_and_so_is_one_that_was_never_written_to() {
    let source = Arc::new(MemoryStorage::new());
    let mut last = Lsn::ZERO;
    for round in 0..3 {
        let db = small(source.clone()).open().expect("opens");
        let target = Arc::new(MemoryStorage::new());
        let copy = db.checkpoint_to(target.clone(), CheckpointOptions::default()).expect("copied");
        assert_eq!((copy.timestamp, copy.files > 0), (last, round == 2));
        let opened = small(target).open().expect("opens");
        assert_eq!((opened.visible(), state(&opened)), (last, state(&db)));
        if round == 1 {
            db.keyspace("k").expect("made").put("k", "v").expect("put");
            db.flush().expect("flushed");
            db.drop_keyspace("k").expect("dropped");
            db.flush().expect("flushed");
        }
        last = db.visible();
    }
}
