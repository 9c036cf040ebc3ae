//! The faulty disk does what it says: each test names one promise of the model.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;
use crate::storage::BLOCK_BYTES;

const SEEDS: std::ops::Range<u64> = 0..400;
const KINDS: [DiskKind; 2] = [DiskKind::Fua, DiskKind::WriteThrough];

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A file of `blocks` zero blocks, synced, with a synced name.
fn prepared(disk: &FaultyStorage, name: &str, blocks: usize) -> Arc<dyn StorageFile> {
    let file = disk.create_new(path(name)).unwrap();
    file.write_at(0, &vec![0; blocks * BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    disk.sync_dir(path("")).unwrap();
    file
}

fn block(byte: u8) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

fn write_block(file: &dyn StorageFile, index: u64, byte: u8, reach: Reach) -> io::Result<()> {
    file.submit(index * BLOCK_BYTES as u64, block(byte), reach).wait().0
}

/// The file's bytes after a reboot; `None` if its name is gone.
fn after(disk: &FaultyStorage, survival: Survival, name: &str) -> Option<Vec<u8>> {
    bytes_of(&disk.reboot(survival), name)
}

fn bytes_of(disk: &FaultyStorage, name: &str) -> Option<Vec<u8>> {
    let file = match disk.open(path(name), Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("{error}"),
    };
    let mut bytes = vec![0xee; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    Some(bytes)
}

/// The first byte of each block.
fn heads(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect()
}

#[test]
fn a_stable_write_on_a_fua_disk_covers_itself_alone() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 3);
    write_block(&*file, 0, 1, Reach::Kernel).unwrap();
    write_block(&*file, 1, 2, Reach::Stable).unwrap();
    assert_eq!(heads(&after(&disk, Survival::Nothing, "f").unwrap()), [0, 2, 0]);
    assert_eq!(heads(&after(&disk, Survival::Everything, "f").unwrap()), [1, 2, 0]);
}

#[test]
fn a_stable_write_on_a_write_through_disk_covers_what_was_completed_before_on_every_file() {
    let disk = FaultyStorage::new(DiskKind::WriteThrough);
    let (file, other) = (prepared(&disk, "f", 4), prepared(&disk, "g", 1));
    write_block(&*file, 0, 1, Reach::Kernel).unwrap();
    other.write_at(0, b"x").unwrap();
    let in_flight = file.submit(2 * BLOCK_BYTES as u64, block(3), Reach::Kernel);
    write_block(&*file, 1, 2, Reach::Stable).unwrap();
    write_block(&*file, 3, 4, Reach::Kernel).unwrap();
    assert_eq!(heads(&after(&disk, Survival::Nothing, "f").unwrap()), [1, 2, 0, 0]);
    assert_eq!(after(&disk, Survival::Nothing, "g").unwrap()[0], b'x');
    drop(in_flight);
}

#[test]
fn a_sync_covers_the_completed_writes_of_its_file_not_those_in_flight_nor_other_files() {
    for kind in KINDS {
        let disk = FaultyStorage::new(kind);
        let (file, other) = (prepared(&disk, "f", 3), prepared(&disk, "g", 1));
        let in_flight = file.submit(0, block(1), Reach::Stable);
        file.write_at(BLOCK_BYTES as u64, b"22").unwrap();
        other.write_at(0, b"x").unwrap();
        file.sync().unwrap();
        file.write_at(2 * BLOCK_BYTES as u64, b"33").unwrap();
        assert_eq!(heads(&after(&disk, Survival::Nothing, "f").unwrap()), [0, b'2', 0]);
        assert_eq!(after(&disk, Survival::Nothing, "g").unwrap()[0], 0);
        assert!(in_flight.wait().0.is_err(), "the disk was rebooted under it");
    }
}

#[test]
fn a_write_in_flight_lands_whole_or_in_sectors_or_not() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 1);
    let in_flight = file.submit(0, block(7), Reach::Stable);
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let bytes = after(&disk, Survival::Random(seed), "f").unwrap();
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        for (sector, head) in bytes.chunks(512).zip(&sectors) {
            assert!(sector.iter().all(|byte| byte == head), "seed {seed}: a sector is never torn");
        }
        seen.insert(sectors);
    }
    assert!(seen.contains(&vec![0; 8]) && seen.contains(&vec![7; 8]));
    assert!(seen.contains(&vec![7, 7, 7, 0, 0, 0, 0, 0]), "a front");
    assert!(seen.contains(&vec![0, 0, 0, 7, 7, 7, 7, 7]), "a back without its front");
    drop(in_flight);
}

#[test]
fn later_writes_survive_without_earlier_ones() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 3);
    for index in 0..3 {
        write_block(&*file, index, index as u8 + 1, Reach::Kernel).unwrap();
    }
    assert_eq!(heads(&after(&disk, Survival::AllButFirst, "f").unwrap()), [0, 2, 3]);
    assert_eq!(heads(&after(&disk, Survival::LastOnly, "f").unwrap()), [0, 0, 3]);
    let seen: BTreeSet<_> =
        SEEDS.map(|seed| heads(&after(&disk, Survival::Random(seed), "f").unwrap())).collect();
    for state in [[0, 0, 0], [1, 2, 3], [0, 2, 0], [1, 0, 3], [0, 0, 3], [1, 0, 0]] {
        assert!(seen.contains(state.as_slice()), "{state:?} is legal too");
    }
}

#[test]
fn an_overwritten_sector_holds_one_of_the_writes_never_an_older_one_than_was_synced() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 1);
    file.write_at(0, &[1; 512]).unwrap();
    write_block(&*file, 0, 2, Reach::Stable).unwrap();
    file.write_at(0, &[3; 512]).unwrap();
    file.write_at(100, &[4; 512]).unwrap();
    for seed in SEEDS {
        let bytes = after(&disk, Survival::Random(seed), "f").unwrap();
        let first = &bytes[..512];
        let three_then_four = [[3; 100].as_slice(), &[4; 412]].concat();
        assert!(first == [2; 512] || first == [3; 512] || first == three_then_four, "seed {seed}");
    }
}

#[test]
fn a_length_may_survive_without_its_bytes() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 0);
    file.write_at(0, &[1; 2000]).unwrap();
    let outrun = SEEDS.filter(|&seed| {
        let bytes = after(&disk, Survival::Random(seed), "f").unwrap();
        bytes.len() == 2000 && bytes.iter().all(|&byte| byte == 0)
    });
    assert!(outrun.count() > 0);
}

#[test]
fn a_synced_file_is_lost_with_its_unsynced_name() {
    for kind in KINDS {
        let disk = FaultyStorage::new(kind);
        let file = disk.create_new(path("f")).unwrap();
        file.write_at(0, b"bytes").unwrap();
        file.sync().unwrap();
        assert_eq!(after(&disk, Survival::Nothing, "f"), None);
        assert_eq!(after(&disk, Survival::DataOnly, "f"), None);
        assert_eq!(after(&disk, Survival::NamesOnly, "f").unwrap(), b"bytes");
        let disk = disk.reboot(Survival::Everything);
        assert_eq!(bytes_of(&disk, "f").unwrap(), b"bytes");
        assert_eq!(after(&disk, Survival::Nothing, "f").unwrap(), b"bytes", "sure by now");
    }
}

#[test]
fn a_synced_name_stays_without_its_unsynced_bytes() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    disk.create_new(path("f")).unwrap().write_at(0, b"bytes").unwrap();
    disk.sync_dir(path("")).unwrap();
    assert_eq!(after(&disk, Survival::Nothing, "f").unwrap(), b"");
}

#[test]
fn a_sync_of_one_directory_leaves_another_open() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    disk.create_dir(path("a/b")).unwrap();
    disk.create_new(path("a/f")).unwrap();
    disk.create_new(path("a/b/g")).unwrap();
    disk.sync_dir(path("a/b")).unwrap();
    let disk = disk.reboot(Survival::Nothing);
    assert_eq!(bytes_of(&disk, "a/b/g").unwrap(), b"");
    assert_eq!(bytes_of(&disk, "a/f"), None);
}

#[test]
fn an_unsynced_rename_leaves_the_old_or_the_new_never_a_mixture() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    for (name, bytes) in [("current", b"old"), ("next", b"new")] {
        let file = disk.create_new(path(name)).unwrap();
        file.write_at(0, bytes).unwrap();
        file.sync().unwrap();
    }
    disk.sync_dir(path("")).unwrap();
    disk.rename(path("next"), path("current")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in SEEDS {
        let disk = disk.reboot(Survival::Random(seed));
        seen.insert((bytes_of(&disk, "current"), bytes_of(&disk, "next")));
    }
    let states = [(Some(b"new".to_vec()), None), (Some(b"old".to_vec()), Some(b"new".to_vec()))];
    assert_eq!(seen, BTreeSet::from(states));
}

#[test]
fn a_rename_that_survives_brings_along_what_it_stands_on() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    disk.create_dir(path("from")).unwrap();
    disk.create_dir(path("to")).unwrap();
    disk.create_new(path("from/x")).unwrap();
    disk.create_new(path("from/y")).unwrap();
    disk.rename(path("from/x"), path("to/x")).unwrap();
    disk.sync_dir(path("to")).unwrap();
    let disk = disk.reboot(Survival::Nothing);
    assert_eq!(disk.list(path("from")).unwrap(), []);
    assert_eq!(disk.list(path("to")).unwrap().len(), 1);
}

#[test]
fn an_unsynced_removal_may_come_back_with_its_bytes() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    prepared(&disk, "f", 1).write_at(0, b"unsynced").unwrap();
    disk.remove(path("f")).unwrap();
    assert_eq!(heads(&after(&disk, Survival::Nothing, "f").unwrap()), [0]);
    assert_eq!(heads(&after(&disk, Survival::DataOnly, "f").unwrap()), [b'u']);
    assert_eq!(after(&disk, Survival::Everything, "f"), None);
}

#[test]
fn a_created_directory_is_sure_unless_the_crash_was_there() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    disk.create_dir(path("a/b")).unwrap();
    disk.crash_at(2);
    assert!(disk.create_dir(path("a/b/c/d")).is_err());
    assert_eq!(disk.reboot(Survival::Nothing).list(path("a/b")).unwrap(), []);
    assert_eq!(disk.reboot(Survival::Everything).list(path("a/b/c")).unwrap().len(), 1);
    assert_eq!(disk.reboot(Survival::LastOnly).list(path("a/b/c")).unwrap().len(), 1);
    for seed in SEEDS {
        for survival in [Survival::Random(seed), Survival::ProcessKilled(seed)] {
            // Never a directory without the one that it is in.
            let disk = disk.reboot(survival);
            assert!(disk.list(path("a/b")).is_ok());
            assert!(disk.list(path("a/b/c/d")).is_err() || disk.list(path("a/b/c")).is_ok());
        }
    }
}

#[test]
fn a_failed_sync_loses_its_bytes_for_good_and_the_next_one_lies() {
    for kind in KINDS {
        let disk = FaultyStorage::new(kind);
        let file = prepared(&disk, "f", 2);
        file.write_at(0, b"lost").unwrap();
        disk.fail_next(Operation::Sync, "f", Fault::Io);
        assert_eq!(file.sync().unwrap_err().raw_os_error(), Some(libc::EIO));
        file.sync().unwrap();
        assert_eq!(heads(&bytes_of(&disk, "f").unwrap()), [b'l', 0], "reads still see them");
        for survival in Survival::EXTREMES.into_iter().chain(SEEDS.map(Survival::Random)) {
            assert_eq!(heads(&after(&disk, survival, "f").unwrap()), [0, 0], "{survival:?}");
        }
    }
}

#[test]
fn a_cache_without_clean_pages_shows_the_medium_and_what_is_still_to_be_synced() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 3);
    write_block(&*file, 0, 1, Reach::Stable).unwrap();
    write_block(&*file, 1, 2, Reach::Kernel).unwrap();
    disk.fail_next(Operation::Sync, "f", Fault::Io);
    assert!(file.sync().is_err());
    write_block(&*file, 2, 3, Reach::Kernel).unwrap();
    assert_eq!(heads(&bytes_of(&disk, "f").unwrap()), [1, 2, 3]);
    disk.drop_clean_pages();
    assert_eq!(heads(&bytes_of(&disk, "f").unwrap()), [1, 0, 3]);
    file.sync().unwrap();
    assert_eq!(heads(&after(&disk, Survival::Nothing, "f").unwrap()), [1, 0, 3]);
}

#[test]
fn a_failed_write_may_have_landed_until_its_place_is_written_again() {
    for operation in [Operation::Complete(Reach::Stable), Operation::Submit(Reach::Stable)] {
        let disk = FaultyStorage::new(DiskKind::Fua);
        let file = prepared(&disk, "f", 2);
        disk.fail_next(operation, "f", Fault::Io);
        assert!(write_block(&*file, 0, 9, Reach::Stable).is_err());
        assert_eq!(heads(&bytes_of(&disk, "f").unwrap()), [0, 0]);
        write_block(&*file, 1, 2, Reach::Stable).unwrap();
        let states = || SEEDS.map(|seed| after(&disk, Survival::Random(seed), "f").unwrap());
        let seen: BTreeSet<_> = states().map(|bytes| heads(&bytes)).collect();
        assert_eq!(seen, BTreeSet::from([vec![0, 2], vec![9, 2]]));

        let disk = disk.reboot(Survival::Nothing);
        let file = disk.open(path("f"), Access::ReadWrite).unwrap();
        disk.fail_next(operation, "f", Fault::Io);
        assert!(write_block(&*file, 0, 9, Reach::Stable).is_err());
        write_block(&*file, 0, 3, Reach::Stable).unwrap();
        let seen: BTreeSet<_> =
            SEEDS.map(|seed| heads(&after(&disk, Survival::Random(seed), "f").unwrap())).collect();
        assert_eq!(seen, BTreeSet::from([vec![3, 2]]));
    }
}

#[test]
fn any_call_can_be_made_to_fail_once() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    disk.fail_call(1, Fault::NoSpace);
    disk.fail_next(Operation::SyncDir, "", Fault::Io);
    disk.fail_next(Operation::Rename, "b", Fault::ReadOnly);
    assert_eq!(disk.create_new(path("a")).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.list(path("")).unwrap(), []);
    disk.create_new(path("a")).unwrap();
    assert!(disk.sync_dir(path("")).is_err());
    assert_eq!(after_clone(&disk), None, "a failed directory sync made nothing sure");
    assert!(disk.rename(path("a"), path("b")).is_err());
    assert_eq!(disk.list(path("")).unwrap()[0].name, "a");
    disk.rename(path("a"), path("b")).unwrap();
    disk.sync_dir(path("")).unwrap();
    assert!(after(&disk, Survival::Nothing, "b").is_some());
}

/// What a power cut would leave of `a`, without cutting the power.
fn after_clone(disk: &FaultyStorage) -> Option<Vec<u8>> {
    let bytes = after(disk, Survival::Nothing, "a");
    disk.disk.lock().crashed = false;
    bytes
}

#[test]
fn space_runs_out_in_whole_blocks_and_can_be_given_back() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 1);
    disk.set_space(Some(2 * BLOCK_BYTES as u64));
    let full = |result: io::Result<()>| result.unwrap_err().kind() == ErrorKind::StorageFull;
    assert!(full(file.write_at(BLOCK_BYTES as u64, &[1; 3 * BLOCK_BYTES])));
    assert_eq!(heads(&bytes_of(&disk, "f").unwrap()), [0, 1, 1], "what fitted is there");
    file.write_at(0, &[2; BLOCK_BYTES]).unwrap(); // overwriting takes nothing
    assert!(full(file.write_at(3 * BLOCK_BYTES as u64, b"x")));
    let other = disk.create_new(path("g")).unwrap();
    assert!(full(write_block(&*other, 0, 1, Reach::Stable)));
    disk.add_space(BLOCK_BYTES as u64);
    write_block(&*other, 0, 1, Reach::Stable).unwrap();
    assert!(full(other.write_at(BLOCK_BYTES as u64, b"x")));
    disk.remove(path("f")).unwrap();
    other.write_at(BLOCK_BYTES as u64, b"x").unwrap();
    disk.set_space(None);
    other.write_at(0, &[1; 64 * BLOCK_BYTES]).unwrap();
}

#[test]
fn a_crash_stops_that_call_and_all_later_ones() {
    let run = |disk: &FaultyStorage| -> io::Result<()> {
        disk.create_dir(path("d"))?;
        let _lock = disk.try_lock(path("LOCK"))?;
        let file = disk.create_new(path("d/f"))?;
        file.write_at(0, &[1; 2 * BLOCK_BYTES])?;
        file.sync()?;
        disk.sync_dir(path("d"))?;
        write_block(&*file, 0, 2, Reach::Stable)?;
        write_block(&*file, 1, 2, Reach::Kernel)?;
        disk.rename(path("d/f"), path("d/g"))?;
        disk.list(path("d"))?;
        disk.open(path("d/g"), Access::Read)?.read_at(0, &mut [0; 4])?;
        disk.remove(path("d/g"))
    };
    let disk = FaultyStorage::new(DiskKind::Fua);
    run(&disk).unwrap();
    let calls = disk.call_count();
    assert_eq!(calls, 15);
    assert!(!disk.has_crashed());
    for call in 1..=calls {
        let crashing = FaultyStorage::new(DiskKind::Fua);
        crashing.crash_at(call);
        let error = run(&crashing).unwrap_err();
        assert!(FaultyStorage::is_crash(&error), "{error}");
        assert!(crashing.has_crashed());
        assert_eq!(crashing.call_count(), call);
        assert_eq!(crashing.calls().last().unwrap().outcome, Outcome::Crashed);
        assert!(FaultyStorage::is_crash(&crashing.list(path("")).unwrap_err()));
        for survival in Survival::EXTREMES.into_iter().chain((0..8).map(Survival::Random)) {
            // Every state is a working disk.
            let disk = crashing.reboot(survival);
            assert_eq!(disk.call_count(), 0);
            disk.create_dir(path("d")).unwrap();
            drop(disk.try_lock(path("LOCK")).unwrap());
            let bytes = bytes_of(&disk, "d/f").or_else(|| bytes_of(&disk, "d/g"));
            let removed = call == calls && disk.list(path("d")).unwrap().is_empty();
            if (8..=calls).contains(&call) && !removed {
                // Written, and its name synced: from then on it is there.
                assert_eq!(heads(&bytes.unwrap()).len(), 2, "call {call}, {survival:?}");
            }
        }
    }
    let shown: Vec<_> = disk.calls().iter().map(Call::to_string).collect();
    assert_eq!(shown[3], "#4 Write d/f at 0, 8192 bytes");
    assert_eq!(shown[10], "#11 Rename d/f -> d/g");
}

#[test]
fn the_call_that_crashed_may_have_happened() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 1);
    disk.crash_at(disk.call_count() + 1);
    assert!(file.write_at(0, b"x").is_err());
    assert_eq!(heads(&after(&disk, Survival::Nothing, "f").unwrap()), [0]);
    assert_eq!(heads(&after(&disk, Survival::Everything, "f").unwrap()), [b'x']);

    let disk = disk.reboot(Survival::Nothing);
    disk.crash_at(1);
    assert!(disk.rename(path("f"), path("g")).is_err());
    assert!(after(&disk, Survival::Nothing, "f").is_some());
    assert!(after(&disk, Survival::Everything, "g").is_some());
}

#[test]
fn a_killed_process_leaves_everything_as_unsynced_as_it_was() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 2);
    file.write_at(0, b"unsynced").unwrap();
    disk.create_new(path("g")).unwrap();
    let in_flight = file.submit(BLOCK_BYTES as u64, block(5), Reach::Stable);
    let mut landed = BTreeSet::new();
    for seed in SEEDS {
        let next = disk.reboot(Survival::ProcessKilled(seed));
        let bytes = heads(&bytes_of(&next, "f").unwrap());
        assert_eq!(bytes[0], b'u');
        landed.insert(bytes[1]);
        assert!(bytes_of(&next, "g").is_some());
        let later = next.reboot(Survival::Nothing);
        assert_eq!(heads(&bytes_of(&later, "f").unwrap()), [0, 0], "read, but never synced");
        assert!(bytes_of(&later, "g").is_none());

        let next = disk.reboot(Survival::ProcessKilled(seed));
        next.open(path("f"), Access::ReadWrite).unwrap().sync().unwrap();
        next.sync_dir(path("")).unwrap();
        let later = next.reboot(Survival::Nothing);
        assert_eq!(heads(&bytes_of(&later, "f").unwrap()), bytes, "synced by the next process");
        assert!(bytes_of(&later, "g").is_some());
    }
    assert_eq!(landed, BTreeSet::from([0, 5]));
    drop(in_flight);
}

#[test]
fn flipped_bits_stay_flipped() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 1);
    file.write_at(10, b"a").unwrap();
    disk.flip_bits(path("f"), 10, 0b11).unwrap();
    assert_eq!(bytes_of(&disk, "f").unwrap()[10], b'a' ^ 0b11);
    assert_eq!(after(&disk, Survival::Everything, "f").unwrap()[10], b'a' ^ 0b11);
    assert_eq!(after(&disk, Survival::Nothing, "f").unwrap()[10], 0b11);
    assert!(disk.flip_bits(path("f"), BLOCK_BYTES as u64, 1).is_err());
    assert!(disk.flip_bits(path("none"), 0, 1).is_err());
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let file = prepared(&disk, "f", 8);
    for index in 0..8 {
        write_block(&*file, index, index as u8 + 1, Reach::Kernel).unwrap();
        disk.create_new(path(&format!("g{index}"))).unwrap();
    }
    let state = |seed| {
        let disk = disk.reboot(Survival::Random(seed));
        (bytes_of(&disk, "f"), disk.list(path("")).unwrap())
    };
    assert_eq!(state(3), state(3));
    let different: BTreeSet<_> = SEEDS.map(|seed| state(seed).0).collect();
    assert!(different.len() > SEEDS.count() / 3);
    assert_eq!(disk.unsynced_count(), 16);
}
