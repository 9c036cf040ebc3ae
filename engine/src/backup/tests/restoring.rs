//! A backup is restored to where it ends, and with later logs to any timestamp in between.

use super::*;

/// A database that is written to in several lives, with the state after each commit.
struct Story {
    storage: Arc<MemoryStorage>,
    retained: u64,
    states: Vec<(Lsn, State)>,
    commits: u32,
    loads: u32,
}

impl Story {
    fn new(retained: u64) -> Story {
        let storage = Arc::new(MemoryStorage::new());
        Story { storage, retained, states: Vec::new(), commits: 0, loads: 0 }
    }

    fn open(&self) -> Database {
        small(self.storage()).log_retained(self.retained).open().expect("opens")
    }

    fn storage(&self) -> Arc<dyn Storage> {
        self.storage.clone()
    }

    fn note(&mut self, db: &Database) {
        self.states.push((db.visible(), state(db)));
    }

    /// Commits of all kinds.
    fn go_on(&mut self, db: &Database, commits: u32) {
        let [people, places] = ["people", "places"].map(|name| {
            let keyspace = db.keyspace(name).expect("made");
            self.note(db);
            keyspace
        });
        for _ in 0..commits {
            self.commits += 1;
            let n = self.commits;
            let key = format!("{:03}", n * 7 % 40);
            match n % 16 {
                3 => people.delete(key).expect("deleted"),
                5 => people.delete_range(key..format!("{:03}", n % 40 + 3)).expect("deleted"),
                7 => places.merge(key, "append", format!("{n},")).expect("merged"),
                9 if n % 64 == 9 => {
                    bulk_load(&places, self.loads);
                    self.loads += 1;
                }
                11 => drop(db.drop_keyspace("passing").expect("dropped")),
                13 => {
                    let passing = db.keyspace("passing").expect("made");
                    self.note(db);
                    passing.put("k", format!("{n}")).expect("put");
                }
                _ => people.put(key, format!("{n} {}", "v".repeat(300))).expect("put"),
            }
            self.note(db);
        }
    }

    fn at(&self, at: Lsn) -> &State {
        let place = self.states.partition_point(|(lsn, _)| *lsn <= at);
        &self.states[place - 1].1
    }
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new())
}

fn restored(
    base: &Arc<dyn Storage>,
    logs: &[Arc<dyn Storage>],
    to: Option<Lsn>,
) -> Result<(Checkpoint, State), BackupError> {
    let target = memory();
    let options = RestoreOptions { to, ..RestoreOptions::default() };
    let copy = restore_storages(base, logs, || Ok(Arc::clone(&target)), &options)?;
    let report =
        small(Arc::clone(&target)).verify(Verify::Full, &mut |_, _| {}).expect("looked at");
    assert!(report.is_sound(), "{:?}", report.damage);
    let read = small(Arc::clone(&target)).read_only(true).open().expect("opens");
    assert_eq!((read.visible(), copy.timestamp), (report.last, report.last));
    let found = state(&read);
    drop(read);
    let db = small(target).open().expect("opens");
    assert!(state(&db) == found);
    Ok((copy, found))
}

/// What is in one of two and not, or not so, in the other.
fn differ(found: &State, expected: &State) -> Vec<String> {
    let all = found.keys().chain(expected.keys());
    let differs = all.filter(|key| found.get(*key) != expected.get(*key));
    let shown = |value: Option<&Vec<u8>>| value.map(|v| v.escape_ascii().to_string());
    differs
        .map(|key| {
            format!("{key:?}: {:?} for {:?}", shown(found.get(key)), shown(expected.get(key)))
        })
        .collect()
}

fn copy_of(db: &Database) -> (Checkpoint, Arc<dyn Storage>) {
    let target = memory();
    let options = CheckpointOptions::default();
    (db.checkpoint_to(Arc::clone(&target), options).expect("copied"), target)
}

#[test]
fn a_backup_with_the_log_that_was_kept_is_restored_to_any_timestamp() {
    let mut story = Story::new(u64::MAX);
    let db = story.open();
    story.go_on(&db, 150);
    db.flush().expect("flushed");
    story.go_on(&db, 10);
    let (first, base) = copy_of(&db);
    assert_eq!(first.log_begins, Lsn::ZERO);
    story.go_on(&db, 100);
    db.flush().expect("flushed");
    let (middle, second) = copy_of(&db);
    drop(db);
    // The database is lost, and goes on in what was copied: in another epoch.
    let storage = Arc::new(MemoryStorage::new());
    let target: Arc<dyn Storage> = storage.clone();
    restore_storages(&second, &[], || Ok(target), &RestoreOptions::default()).expect("restored");
    story.storage = storage;
    let db = story.open();
    story.go_on(&db, 80);
    db.compact().expect("compacted");
    let (last, third) = copy_of(&db);
    drop(db);
    assert!(last.timestamp.epoch() > middle.timestamp.epoch());
    assert!(first.timestamp < middle.restorable_from, "{first:?} {middle:?}");

    let all: Vec<Lsn> = story.states.iter().map(|(lsn, _)| *lsn).collect();
    let (mut reached, mut gone) = (0, 0);
    for logs in [vec![third.clone(), second.clone()], vec![story.storage()]] {
        for to in all.iter().copied().filter(|to| *to >= first.restorable_from) {
            match restored(&base, &logs, Some(to)) {
                Ok((copy, found)) => {
                    assert!(copy.timestamp == to && copy.restorable_from >= first.restorable_from);
                    assert!(found == *story.at(to), "to {to}: {:?}", differ(&found, story.at(to)));
                    reached += 1;
                }
                // A bulk load whose files were compacted away since.
                Err(BackupError::Incomplete(_)) => gone += 1,
                Err(error) => panic!("to {to}: {error}"),
            }
        }
    }
    assert!(reached > 100 && gone > 0, "{reached} {gone}");
    // To its own end without any log, and no further back than its files.
    let (copy, found) = restored(&base, &[], None).expect("restored");
    assert!(copy.timestamp == first.timestamp && found == *story.at(first.timestamp));
    for to in [first.restorable_from.before(), Lsn::new(0, 1), middle.timestamp, Lsn::MAX] {
        let refused = restored(&base, &[], Some(to));
        let Err(BackupError::OutOfReach { to: told, from, until }) = refused else {
            panic!("{to}: {refused:?}");
        };
        assert_eq!((told, from, until), (to, first.restorable_from, first.timestamp));
    }
}

#[test]
fn a_log_that_does_not_go_on_from_a_backup_is_refused() {
    let mut story = Story::new(0);
    let db = story.open();
    story.go_on(&db, 100);
    let (first, base) = copy_of(&db);
    // Another database out of the backup, which goes its own way.
    let twin_storage = memory();
    let target = Arc::clone(&twin_storage);
    restore_storages(&base, &[], || Ok(target), &RestoreOptions::default()).expect("restored");
    let twin = small(twin_storage).open().expect("opens");
    twin.keyspace("people").expect("there").put("twin", "1").expect("put");
    let (_, twin) = copy_of(&twin);
    restored(&base, &[Arc::clone(&twin)], None).expect("it goes on from the backup");
    story.go_on(&db, 5);
    let (_, mine) = copy_of(&db);
    let refused = restored(&mine, &[Arc::clone(&twin)], None);
    assert!(matches!(refused, Err(BackupError::OtherHistory { .. })), "{refused:?}");
    // Nor on from a backup that has everything in files, and no commit in its log to compare.
    db.flush().expect("flushed");
    let (in_files, mine) = copy_of(&db);
    assert_eq!(in_files.log_begins, in_files.timestamp);
    let refused = restored(&mine, &[twin], None);
    assert!(matches!(refused, Err(BackupError::OtherHistory { .. })), "{refused:?}");

    story.go_on(&db, 400);
    db.compact().expect("compacted");
    story.go_on(&db, 5);
    let (late, log) = copy_of(&db);
    let refused = restored(&base, &[log], None);
    let Err(BackupError::LogGap { begins, needed, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((begins, needed), (late.log_begins, first.timestamp));

    let foreign = memory();
    small(Arc::clone(&foreign)).open().expect("opens").keyspace("k").expect("made");
    let refused = restored(&base, &[foreign], None);
    let Err(BackupError::Source(OpenError::NotADatabase { .. })) = refused else {
        panic!("{refused:?}");
    };
}
