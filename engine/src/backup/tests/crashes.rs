//! A copy that is cut short at any call, or in which any call fails: the source is unharmed, the target is
//! whole or refused.

use std::io;
use std::path::PathBuf;

use isolith_wal::faulty::{DiskKind, Fault, FaultyStorage, Survival};
use isolith_wal::{Access, DirectoryEntry, StorageFile, StorageLock};

use super::*;

/// A directory of a disk.
#[derive(Debug)]
struct Below {
    disk: FaultyStorage,
    name: &'static str,
}

impl Below {
    fn at(&self, path: &Path) -> PathBuf {
        Path::new(self.name).join(path)
    }
}

impl Storage for Below {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.open(&self.at(path), access)
    }
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.create_new(&self.at(path))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(&self.at(path))
    }
    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.disk.list(&self.at(directory))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(&self.at(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(&self.at(from), &self.at(to))
    }
    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        self.disk.sync_dir(&self.at(directory))
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.disk.try_lock(&self.at(path))
    }
    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let names = self.list(Path::new(""))?;
        match names.iter().any(|entry| Path::new(&entry.name) == path) {
            true => self.try_lock(path),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn link(&self, path: &Path, other: &dyn Storage, to: &Path) -> io::Result<()> {
        let other = other.display(Path::new(""));
        self.disk.link_here(&self.at(path), &Path::new(&other).join(to))
    }
    fn display(&self, path: &Path) -> String {
        self.at(path).display().to_string()
    }
}

fn below(disk: &FaultyStorage, name: &'static str) -> Arc<dyn Storage> {
    Arc::new(Below { disk: disk.clone(), name })
}

/// How a copy is made of the database in `source`.
type Copy = fn(&FaultyStorage) -> Result<Lsn, BackupError>;

/// A disk with a database in `source`: files on several levels, commits that only the log has, and a bulk load.
fn filled(kind: DiskKind) -> (FaultyStorage, State) {
    let disk = FaultyStorage::new(kind);
    for directory in ["source", "target"] {
        disk.create_dir(Path::new(directory)).expect("made");
    }
    let db = small(below(&disk, "source")).open().expect("opens");
    let [people, places] = ["people", "places"].map(|name| db.keyspace(name).expect("made"));
    for number in 0..300 {
        let value = format!("{number} {}", "v".repeat(150));
        people.put(format!("{:04}", number * 7 % 200), value).expect("put");
    }
    bulk_load(&places, 0);
    for number in 0..20 {
        places.put(format!("{number}"), "in the log").expect("put");
        people.delete(format!("{number:04}")).expect("deleted");
    }
    drop((people, places, db));
    let state = state(&small(below(&disk, "source")).open().expect("opens"));
    (disk, state)
}

fn checkpoint(disk: &FaultyStorage) -> Result<Lsn, BackupError> {
    let db = small(below(disk, "source")).open()?;
    let target = below(disk, "target");
    Ok(db.checkpoint_to(target, CheckpointOptions::default())?.timestamp)
}

fn checkpoint_by_copying(disk: &FaultyStorage) -> Result<Lsn, BackupError> {
    let db = small(below(disk, "source")).open()?;
    let target = below(disk, "target");
    Ok(db.checkpoint_to(target, CheckpointOptions { copy_files: true })?.timestamp)
}

fn restore_closed(disk: &FaultyStorage) -> Result<Lsn, BackupError> {
    let (source, target) = (below(disk, "source"), below(disk, "target"));
    Ok(restore_storages(&source, &[], || Ok(target), &RestoreOptions::default())?.timestamp)
}

/// Opens what is in the source and in the target, which may be refused: whether it was whole.
fn check(disk: &FaultyStorage, expected: &State, what: &str) -> bool {
    let source = small(below(disk, "source")).open();
    let source = source.unwrap_or_else(|error| panic!("{what}: the source: {error}"));
    assert!(state(&source) == *expected, "{what}: the source");
    drop(source);
    match small(below(disk, "target")).read_only(true).open() {
        Ok(copy) => {
            assert!(state(&copy) == *expected, "{what}: the target");
            drop(copy);
            let copy = small(below(disk, "target")).open().expect("for writing, too");
            assert!(state(&copy) == *expected, "{what}: the target");
            true
        }
        // The second: nothing is there yet, or any more, not even a log.
        Err(OpenError::Partial { .. } | OpenError::NotADatabase { .. }) => false,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// The numbers of the calls that a copy makes.
fn rehearse(template: &FaultyStorage, expected: &State, copy: Copy) -> Vec<u64> {
    let disk = template.reboot(Survival::Everything);
    copy(&disk).expect("copied");
    let calls = disk.calls();
    assert!(check(&disk, expected, "calm"));
    let changes = calls.iter().filter(|call| call.operation.is_change());
    changes.map(|call| call.number).collect()
}

fn crash_everywhere(kind: DiskKind, copy: Copy) {
    let (template, expected) = filled(kind);
    let calls = rehearse(&template, &expected, copy);
    let (mut whole, mut refused) = (0, 0);
    for &call in &calls {
        let disk = template.reboot(Survival::Everything);
        disk.crash_at(call);
        let finished = copy(&disk).is_ok();
        let others = [Survival::LastOnly, Survival::Random(call), Survival::ProcessKilled(call)];
        for survival in [Survival::Nothing, Survival::Everything].into_iter().chain(others) {
            let what = format!("crash at {call} of {calls:?}, left {survival:?}");
            let is_whole = check(&disk.reboot(survival), &expected, &what);
            assert!(is_whole || !finished, "{what}: it was told to be finished");
            *if is_whole { &mut whole } else { &mut refused } += 1;
        }
    }
    assert!(whole > 0 && refused > 50, "{whole} {refused}");
}

#[test]
fn a_checkpoint_that_crashes_at_any_call_is_whole_or_refused() {
    crash_everywhere(DiskKind::Fua, checkpoint);
    crash_everywhere(DiskKind::WriteThrough, checkpoint_by_copying);
}

#[test]
fn a_restore_that_crashes_at_any_call_is_whole_or_refused() {
    crash_everywhere(DiskKind::Fua, restore_closed);
}

#[test]
fn a_copy_in_which_any_call_fails_is_cleared_away_or_refused_and_can_be_made_again() {
    let (template, expected) = filled(DiskKind::Fua);
    for copy in [checkpoint as Copy, restore_closed] {
        let calls = rehearse(&template, &expected, copy);
        let mut again = 0;
        for call in 1..=calls.last().copied().unwrap_or(0) {
            for fault in [Fault::Io, Fault::NoSpace] {
                let disk = template.reboot(Survival::Everything);
                disk.fail_call(call, fault);
                let made = copy(&disk);
                let what = format!("{fault:?} at {call} of {calls:?}");
                let is_whole = check(&disk, &expected, &what);
                let Err(error) = made else {
                    assert!(is_whole, "{what}");
                    continue;
                };
                // It may have failed when all was there, as the marker went or was to go.
                if !is_whole && !error.to_string().contains("PARTIAL") {
                    let second = restore_closed(&disk);
                    second.unwrap_or_else(|second| panic!("{what}: {error}, then {second}"));
                    assert!(check(&disk, &expected, &what));
                    again += 1;
                }
            }
        }
        assert!(again > 20, "{again}");
    }
}

#[test]
fn a_disk_that_fills_leaves_the_source_as_it_was_and_the_target_empty() {
    let (template, expected) = filled(DiskKind::Fua);
    let mut failed = 0;
    for blocks in 0..40 {
        let disk = template.reboot(Survival::Everything);
        let db = small(below(&disk, "source")).open().expect("opens");
        disk.set_space(Some(blocks * 4096));
        let made = db.checkpoint_to(below(&disk, "target"), CheckpointOptions { copy_files: true });
        disk.set_space(None);
        failed += u32::from(made.is_err());
        db.keyspace("people").expect("there").put("later", "1").expect("put");
        db.keyspace("people").expect("there").delete("later").expect("deleted");
        drop(db);
        assert_eq!(check(&disk, &expected, &format!("{blocks} blocks")), made.is_ok());
        assert!(made.is_ok() || restore_closed(&disk).is_ok());
    }
    assert!((5..40).contains(&failed), "{failed}");
}
