//! The manifest after crashes, damage and failures: always a state that was there, or a typed error.

use isolith_wal::MemoryStorage;
use isolith_wal::faulty::{DiskKind, Fault, FaultyStorage, Operation, Survival};

use super::*;
use crate::levels::{LevelFile, ValueShare};
use isolith_wal::Lsn;

const DATABASE: DatabaseId = DatabaseId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);

fn file(id: u64, keys: (&str, Option<&str>), stamps: (u64, u64)) -> FileRecord {
    FileRecord {
        file: LevelFile {
            id,
            bytes: id % 50 * 1_000,
            smallest: keys.0.into(),
            largest: keys.1.map(Into::into),
            entries: id / 2,
            deletes: id % 3,
            values: (0..id % 3)
                .map(|n| ValueShare { file: id + n, values: n, bytes: 100 * n, of_bytes: 1_000 })
                .collect(),
        },
        stamp_min: Lsn::new(0, stamps.0),
        stamp_max: Lsn::new(3, stamps.1),
    }
}

fn add(space: u32, level: u8, file: FileRecord) -> Edit {
    Edit::AddFile { space, level, file }
}

/// Batches as an engine makes them: flushes, and a compaction every fourth.
fn batches(count: u64) -> Vec<Vec<Edit>> {
    let mut batches = vec![vec![
        Edit::NextSpace(3),
        Edit::ExpiringSpace(2),
        Edit::SpaceOptions { space: 1, bytes: b"options".to_vec() },
        Edit::Operator { number: 17, name: "average".into() },
    ]];
    for number in 1..count {
        let id = 2 * number;
        let mut batch = vec![
            add(1, 0, file(id, ("a", Some("m")), (10 * number, 10 * number + 9))),
            Edit::Flushed { space: 1, through: Lsn::new(0, 10 * number + 9) },
        ];
        if number % 4 == 0 {
            batch.extend((0..4).map(|back| Edit::RemoveFile { space: 1, id: id - 2 * back }));
            let below = file(id + 1, (&format!("k{number:04}"), None), (number, number));
            batch.push(add(1, 6, below));
        }
        if number % 3 == 0 {
            batch.push(Edit::LogFloor(Lsn::new(0, 10 * number)));
        }
        if number == 9 {
            batch.push(Edit::DropSpace { space: 2 });
        }
        batches.push(batch);
    }
    batches
}

/// The state after each number of batches.
fn states(batches: &[Vec<Edit>]) -> Vec<ManifestState> {
    let mut states = vec![ManifestState::new(DATABASE)];
    for batch in batches {
        let next = states[states.len() - 1].with(batch).expect("edits that follow");
        states.push(next);
    }
    states
}

fn reopened(storage: Arc<dyn Storage>) -> Manifest {
    Manifest::open(storage, false).expect("sound").expect("there")
}

#[test]
fn what_was_appended_is_there_after_opening_again() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    assert!(Manifest::open(storage.clone(), false).expect("nothing").is_none());
    let mut manifest = Manifest::create(storage.clone(), DATABASE).expect("memory");
    let batches = batches(20);
    for (batch, state) in batches.iter().zip(&states(&batches)[1..]) {
        manifest.append(batch).expect("memory");
        assert_eq!(manifest.state(), state);
        assert_eq!(reopened(storage.clone()).state(), state);
        let mut reader = Manifest::open(storage.clone(), true).expect("sound").expect("there");
        assert_eq!(reader.state(), state);
        assert!(matches!(reader.append(batch), Err(ManifestError::ReadOnly)));
    }
    assert!(matches!(
        Manifest::create(storage, DATABASE),
        Err(ManifestError::Exists { file }) if file.contains("MANIFEST")
    ));
}

#[test]
fn levels_are_in_their_order_whatever_that_of_the_edits() {
    let mut state = ManifestState::new(DATABASE);
    let edits = [
        add(1, 0, file(9, ("a", None), (1, 10))),
        add(1, 0, file(3, ("a", None), (21, 30))),
        add(1, 0, file(5, ("a", None), (11, 20))),
        add(1, 2, file(6, ("m", None), (1, 2))),
        add(1, 2, file(7, ("a", Some("c")), (1, 2))),
    ];
    state = state.with(&edits).expect("new files");
    let ids = |level: usize| -> Vec<u64> {
        state.spaces[&1].levels.levels[level].iter().map(|file| file.file.id).collect()
    };
    assert_eq!(ids(0), [3, 5, 9], "newest first");
    assert_eq!(ids(2), [7, 6], "by key");
    assert_eq!(state.next_file, 10);
    assert_eq!(state.files().count(), 5);
}

#[test]
fn edits_that_contradict_are_refused_and_nothing_is_written() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let mut manifest = Manifest::create(storage.clone(), DATABASE).expect("memory");
    let batch = [
        add(1, 0, file(1, ("a", None), (1, 2))),
        Edit::Flushed { space: 1, through: Lsn::new(1, 1) },
        Edit::Operator { number: 20, name: "a".into() },
    ];
    manifest.append(&batch).expect("memory");
    let before = manifest.state().clone();
    for bad in [
        add(1, 3, file(1, ("a", None), (1, 2))),
        add(1, LEVELS_AND_ONE, file(2, ("a", None), (1, 2))),
        Edit::RemoveFile { space: 1, id: 2 },
        Edit::RemoveFile { space: 7, id: 1 },
        Edit::Flushed { space: 1, through: Lsn::new(0, 9) },
        Edit::Operator { number: 20, name: "b".into() },
        add(1, 3, file(u64::MAX, ("a", None), (1, 2))),
    ] {
        let both = [Edit::NextFile(100), bad];
        let refused = manifest.append(&both);
        assert!(matches!(refused, Err(ManifestError::Refused { .. })), "{refused:?}");
        assert_eq!(manifest.state(), &before, "{both:?}");
    }
    manifest.append(&[Edit::NextFile(50)]).expect("it goes on");
    assert_eq!(reopened(storage).state().next_file, 50);
}

const LEVELS_AND_ONE: u8 = crate::levels::LEVELS as u8;

#[test]
fn a_manifest_that_has_grown_is_written_anew() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let mut manifest =
        Manifest::create_grown(storage.clone(), ManifestState::new(DATABASE), 64 << 10)
            .expect("memory");
    let batches = batches(400);
    let mut longest = 0;
    for batch in &batches {
        manifest.append(batch).expect("memory");
        longest = longest.max(manifest.bytes());
    }
    assert!(longest <= 80 << 10, "{longest} bytes");
    let last = states(&batches).pop().expect("states");
    assert_eq!(manifest.state(), &last);
    assert_eq!(reopened(storage.clone()).state(), &last);
    let names: Vec<_> = storage.list(Path::new("")).expect("memory");
    assert_eq!(names.len(), 1, "{names:?}");
}

/// A disk with a manifest of `count` batches, synced, and its bytes.
fn written(count: u64) -> (FaultyStorage, Vec<u8>) {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let mut manifest = Manifest::create(disk.as_storage(), DATABASE).expect("a sound disk");
    for batch in batches(count) {
        manifest.append(&batch).expect("a sound disk");
    }
    let file = disk.open(Path::new(MANIFEST), Access::Read).expect("there");
    let mut bytes = vec![0; file.len().expect("its length") as usize];
    file.read_at(0, &mut bytes).expect("its bytes");
    (disk, bytes)
}

fn holding(bytes: &[u8]) -> Arc<dyn Storage> {
    let storage = MemoryStorage::new();
    let file = storage.create_new(Path::new(MANIFEST)).expect("memory");
    file.write_at(0, bytes).expect("memory");
    Arc::new(storage)
}

#[test]
fn damage_anywhere_is_told_or_harmless() {
    let count = 6;
    let (_, bytes) = written(count);
    let last = states(&batches(count)).pop().expect("states");
    // Every byte that is not padding, and some of the padding.
    let places = (0..bytes.len()).filter(|&at| bytes[at] != 0 || at % 97 == 0 || at % 4096 < 64);
    let mut harmless = 0;
    for at in places {
        for mask in [1, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= mask;
            for read_only in [true, false] {
                match Manifest::open(holding(&damaged), read_only) {
                    Ok(opened) => {
                        assert_eq!(opened.expect("there").state(), &last, "byte {at}");
                        harmless += 1;
                    }
                    Err(ManifestError::Corrupt { offset, .. }) => {
                        assert!(offset <= at as u64, "byte {at} is told to be at {offset}");
                    }
                    Err(ManifestError::TooNew { .. }) => assert!((8..12).contains(&at)),
                    Err(other) => panic!("byte {at}: {other}"),
                }
            }
        }
    }
    assert!(harmless > 0, "the mark is not needed");
}

#[test]
fn a_manifest_cut_short_holds_a_state_that_was_or_is_told() {
    let count = 6;
    let (_, bytes) = written(count);
    let all = states(&batches(count));
    let mut seen = 0;
    for length in 0..bytes.len() {
        if length % 13 != 0 && !(length + 70).is_multiple_of(4096) && length % 4096 > 70 {
            continue;
        }
        let storage = holding(&bytes[..length]);
        match Manifest::open(storage.clone(), false) {
            Ok(opened) => {
                let mut opened = opened.expect("there");
                let at = all.iter().position(|state| state == opened.state());
                let at = at.expect("a state that was");
                assert!(at >= seen, "a longer file holds more");
                seen = at;
                opened.append(&[Edit::NextFile(1_000)]).expect("memory");
                assert_eq!(reopened(storage).state().next_file, 1_000);
            }
            Err(ManifestError::Corrupt { .. }) => assert_eq!(seen, 0, "{length} bytes"),
            Err(other) => panic!("{length} bytes: {other}"),
        }
    }
    assert_eq!(seen, all.len() - 1);
}

#[test]
fn a_block_of_another_place_is_damage() {
    let (_, bytes) = written(8);
    for (from, to) in [(3, 2), (2, 3), (4, 2), (1, 2)] {
        let mut moved = bytes.clone();
        moved.copy_within(from * 4096..(from + 1) * 4096, to * 4096);
        let opened = Manifest::open(holding(&moved), true);
        assert!(
            matches!(&opened, Err(ManifestError::Corrupt { offset, .. }) if *offset == 4096 * to as u64),
            "{from} to {to}: {opened:?}"
        );
    }
    let mut foreign = bytes;
    foreign[..4096].copy_from_slice(&format::file_header(DatabaseId(1)));
    assert!(matches!(
        Manifest::open(holding(&foreign), true),
        Err(ManifestError::Corrupt { offset: 4096, .. })
    ));
}

/// Appends batches from the `from`-th on until the disk crashes; how many went through.
fn append_until_crash(disk: &FaultyStorage, batches: &[Vec<Edit>], from: usize) -> usize {
    let opened = Manifest::open_grown(disk.as_storage(), false, 16 << 10);
    let created = match opened {
        Ok(None) => {
            Manifest::create_grown(disk.as_storage(), ManifestState::new(DATABASE), 16 << 10)
                .map(Some)
        }
        other => other,
    };
    let Ok(Some(mut manifest)) = created else { return from };
    for (number, batch) in batches.iter().enumerate().skip(from) {
        if let Err(error) = manifest.append(batch) {
            assert!(disk.has_crashed(), "{error}");
            assert!(matches!(manifest.append(batch), Err(ManifestError::Poisoned)));
            return number;
        }
    }
    batches.len()
}

#[test]
fn after_a_crash_at_any_call_the_state_is_the_old_or_the_new_one() {
    let batches = batches(14);
    let all = states(&batches);
    let dry = FaultyStorage::new(DiskKind::Fua);
    assert_eq!(append_until_crash(&dry, &batches, 0), batches.len());
    let calls = dry.call_count();
    assert!(
        dry.calls().iter().filter(|call| call.operation == Operation::Rename).count() >= 3,
        "it is written anew on the way"
    );
    let mut survivals = Survival::EXTREMES.to_vec();
    survivals.extend((0..6).map(Survival::Random));
    survivals.extend((0..3).map(Survival::ProcessKilled));
    for call in 1..=calls {
        let disk = FaultyStorage::new(DiskKind::Fua);
        disk.crash_at(call);
        let acknowledged = append_until_crash(&disk, &batches, 0);
        disk.crash_now();
        for &survival in &survivals {
            let after = disk.reboot(survival);
            let place = format!("call {call}, {survival:?}");
            let reader = Manifest::open(after.as_storage(), true);
            let seen = reader.unwrap_or_else(|why| panic!("{place}: {why}"));
            let opened = Manifest::open(after.as_storage(), false);
            let opened = opened.unwrap_or_else(|why| panic!("{place}: {why}"));
            let Some(manifest) = opened else {
                assert_eq!(acknowledged, 0, "{place}");
                continue;
            };
            assert_eq!(seen.map(|seen| seen.state), Some(manifest.state.clone()), "{place}");
            let found = all.iter().position(|state| state == manifest.state());
            let found = found.unwrap_or_else(|| panic!("{place}: a state that never was"));
            assert!((acknowledged..=acknowledged + 1).contains(&found), "{place}: {found}");
            drop(manifest);
            // What was opened is durable now, and the rest follows.
            let again = after.reboot(Survival::Nothing);
            assert_eq!(append_until_crash(&again, &batches, found), batches.len(), "{place}");
            let end = again.reboot(Survival::Nothing);
            let state = reopened(end.as_storage()).state;
            assert_eq!(&state, &all[batches.len()], "{place}");
        }
    }
}

#[test]
fn after_a_failed_call_the_manifest_takes_no_more_and_loses_nothing() {
    let batches = batches(8);
    let all = states(&batches);
    for operation in [Operation::Write, Operation::Sync] {
        for fault in [Fault::Io, Fault::NoSpace] {
            let disk = FaultyStorage::new(DiskKind::Fua);
            let mut manifest = Manifest::create(disk.as_storage(), DATABASE).expect("sound");
            for batch in &batches[..5] {
                manifest.append(batch).expect("sound");
            }
            disk.fail_next(operation, MANIFEST, fault);
            assert!(matches!(manifest.append(&batches[5]), Err(ManifestError::Io { .. })));
            assert!(matches!(manifest.append(&batches[5]), Err(ManifestError::Poisoned)));
            drop(manifest);
            // The page cache still has what the failed sync dropped: whoever reads it there builds on
            // it, so it must be durable.
            let found = reopened(disk.as_storage()).state;
            assert!(all[5..=6].contains(&found), "{operation:?} {fault:?}");
            let after = disk.reboot(Survival::Nothing);
            assert_eq!(reopened(after.as_storage()).state, found, "{operation:?} {fault:?}");
        }
    }
}

#[test]
fn a_full_disk_puts_off_writing_it_anew() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let grown = 8 * 4096;
    let mut manifest =
        Manifest::create_grown(disk.as_storage(), ManifestState::new(DATABASE), grown)
            .expect("a sound disk");
    let batches = batches(12);
    for (number, batch) in batches.iter().enumerate() {
        if manifest.bytes() + 4096 >= manifest.rewrite_at {
            // The edits take the old mark's block: room for theirs, not for another manifest.
            disk.set_space(Some(4096));
        }
        manifest.append(batch).unwrap_or_else(|why| panic!("batch {number}: {why}"));
        disk.set_space(None);
    }
    assert!(manifest.bytes() > grown);
    let last = states(&batches).pop().expect("states");
    assert_eq!(reopened(disk.as_storage()).state(), &last);
}
