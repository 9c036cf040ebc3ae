//! A disk that fills, for real: a small file system of this machine's kernel, through io_uring and through plain
//! system calls. Needs root, to mount it; says so where it is left out.

#![expect(clippy::disallowed_methods, reason = "the disk is filled behind the database's back")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use isolith::{Builder, Database, Error, IoBackend, Keyspace, Retry, StallReason, Verify};

/// What the file system holds, and how much of that is kept back at first.
const DISK_BYTES: u64 = 24 << 20;
const BALLAST_BYTES: usize = 12 << 20;
/// Writes that are refused one after the other before it is believed that the disk is full.
const REFUSALS: usize = 20;

/// A mounted file system; unmounted when it is dropped, in a test that failed as well.
struct Disk {
    mounted: PathBuf,
    /// Removed after the unmount: fields are dropped in order, `drop` comes first.
    _directory: tempfile::TempDir,
}

impl Disk {
    /// None: it may not be mounted here.
    fn mount() -> Result<Disk, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted = directory.path().join("disk");
        std::fs::create_dir(&mounted).map_err(|error| error.to_string())?;
        let size = format!("size={DISK_BYTES}");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "isolith-full-disk"])
            .arg(&mounted)
            .output()
            .map_err(|error| format!("mount: {error}"))?;
        match output.status.success() {
            true => Ok(Disk { mounted, _directory: directory }),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mounted.join(name)
    }

    fn ballast(&self) {
        std::fs::write(self.path("ballast"), vec![1; BALLAST_BYTES]).expect("there is room");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for all names, and when the last file is closed for the rest: what a test that failed
        // has open does not keep it.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.mounted).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.mounted.display());
        }
    }
}

fn builder(path: &Path, io: IoBackend) -> Builder {
    Database::builder(path)
        .io(io)
        .memory(4 << 20)
        .memtable_bytes(512 << 10)
        .file_bytes(256 << 10)
        .segment_bytes(512 << 10)
        .stall_timeout(Duration::from_millis(50))
}

/// What was acknowledged, and the key that may have been written by a commit whose end is not known.
#[derive(Default)]
struct Acknowledged {
    values: BTreeMap<u32, u32>,
    unknown: BTreeMap<u32, Vec<u32>>,
    round: u32,
}

impl Acknowledged {
    fn value(round: u32) -> Vec<u8> {
        // Not to be compressed away.
        let mut word = u64::from(round) + 1;
        let bytes = (0..250).flat_map(|_| {
            word = word
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            word.to_be_bytes()
        });
        bytes.collect()
    }

    /// One put of a new key, or of an old one. The error, if it was refused.
    fn put(&mut self, keyspace: &Keyspace) -> Option<Error> {
        self.round += 1;
        let key = if self.round.is_multiple_of(5) { self.round / 2 } else { self.round };
        match keyspace.put(key.to_be_bytes(), Acknowledged::value(self.round)) {
            Ok(()) => {
                self.values.insert(key, self.round);
                self.unknown.remove(&key);
                None
            }
            Err(error) => {
                if matches!(error, Error::CommitUnknown { .. }) {
                    self.unknown.entry(key).or_default().push(self.round);
                }
                Some(error)
            }
        }
    }

    fn check(&self, keyspace: &Keyspace, when: &str) {
        for (key, round) in &self.values {
            let found = keyspace.get(key.to_be_bytes()).expect("reads are served");
            let allowed = self.unknown.get(key).into_iter().flatten().chain([round]);
            let mut allowed = allowed.map(|round| Acknowledged::value(*round));
            let is_one = allowed.any(|value| found.as_deref() == Some(&*value));
            assert!(is_one, "{when}: key {key} of round {round} is not what was acknowledged");
        }
        let keys = keyspace.count(..).expect("reads are served") as usize;
        assert!(keys >= self.values.len() && keys <= self.values.len() + self.unknown.len());
    }
}

/// Writes until the disk takes no more: every refusal says why. Gives the causes.
fn fill(acknowledged: &mut Acknowledged, keyspace: &Keyspace, when: &str) -> Vec<String> {
    let mut causes = Vec::new();
    for _ in 0..100_000 {
        let Some(error) = acknowledged.put(keyspace) else {
            causes.clear();
            continue;
        };
        let cause = match &error {
            Error::Stalled { reason: StallReason::LogSpace { cause } } => cause.clone(),
            Error::Stalled { reason: StallReason::Flush { cause, .. } } => {
                cause.clone().unwrap_or_default()
            }
            other => panic!("{when}: {other:?}"),
        };
        assert!(matches!(error.retry(), Retry::After(_)), "{when}: {error}");
        causes.push(cause);
        if causes.len() == REFUSALS {
            return causes;
        }
    }
    panic!("{when}: the disk is never full")
}

fn story(io: IoBackend) -> Result<(), String> {
    let disk = Disk::mount()?;
    disk.ballast();
    let path = disk.path("data");
    let when = format!("{io:?}");
    let db = match builder(&path, io).open() {
        Ok(db) => db,
        Err(error) => return Err(format!("{io:?} does not work here: {error}")),
    };
    let keyspace = db.keyspace("space").expect("made");
    let mut acknowledged = Acknowledged::default();
    let causes = fill(&mut acknowledged, &keyspace, &when);
    let says_why = |cause: &String| cause.contains("No space left on device");
    assert!(causes.iter().any(says_why), "{when}: {causes:?}");
    acknowledged.check(&keyspace, "on a full disk");
    let failure = db.stats().files.and_then(|files| files.failure);
    assert!(failure.as_ref().is_none_or(says_why), "{when}: {failure:?}");

    // Room again: writes go on, without a restart.
    std::fs::remove_file(disk.path("ballast")).expect("removed");
    let before = acknowledged.values.len();
    for attempt in 0.. {
        if acknowledged.put(&keyspace).is_none() && acknowledged.values.len() >= before + 100 {
            break;
        }
        assert!(attempt < 10_000, "{when}: writes do not go on");
    }
    acknowledged.check(&keyspace, "with room again");
    db.flush().expect("there is room");
    assert_eq!(db.stats().files.and_then(|files| files.failure), None, "{when}");

    // Full again, and left as if the process had been killed there.
    fill(&mut acknowledged, &keyspace, &when);
    acknowledged.check(&keyspace, "full again");
    drop(keyspace);
    drop(db);
    // Opening needs some room for a log segment of its own.
    let room = Disk::mount()?;
    let copied = Command::new("cp").arg("-r").arg(&path).arg(room.path("data")).status();
    assert!(copied.is_ok_and(|status| status.success()), "a disk of the same size takes it");
    for path in [&path, &room.path("data")] {
        let report = isolith::verify(path, Verify::Full, &mut |_, _| {}).expect("it can be read");
        assert!(report.is_sound(), "{when}: {:?}", report.damage);
        let db = Database::builder(path).read_only(true).open().expect("it opens to be read");
        let keyspace = db.keyspace_if_exists("space").expect("open").expect("there");
        acknowledged.check(&keyspace, "read after a restart");
    }
    drop(disk);
    Ok(())
}

#[test]
fn a_real_disk_that_fills_loses_nothing_and_goes_on_when_there_is_room() {
    for io in [IoBackend::Syscall, IoBackend::Uring] {
        if let Err(why) = story(io) {
            println!("SKIPPED with {io:?}: no file system of its own could be mounted: {why}");
        }
    }
}

/// A file system that is left mounted would fill the machine's memory, run by run.
#[test]
fn what_was_mounted_is_unmounted_though_a_test_fails() {
    let Ok(disk) = Disk::mount() else {
        println!("SKIPPED: no file system of its own could be mounted");
        return;
    };
    let mounted = disk.mounted.clone();
    let is_mounted = || {
        let all = std::fs::read_to_string("/proc/mounts").expect("Linux");
        all.contains(mounted.to_str().expect("text"))
    };
    assert!(is_mounted());
    let open = std::fs::File::create(disk.path("open")).expect("made");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _disk = disk;
        panic!("as a test does that fails");
    }));
    assert!(failed.is_err() && !is_mounted());
    drop(open);
}
