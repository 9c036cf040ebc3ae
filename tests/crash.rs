//! A life of a database ended at every storage call, on both kinds of disk, and recovered from every
//! kind of state that the crash may have left; calls that fail; a full disk; bits that flip.
//!
//! Everyday runs look at a share of it that the seed chooses; `ISOLITH_EFFORT=<n>` at more,
//! `ISOLITH_SEED=<number>` repeats. A failure names the call, the state and what was promised.

use isolith::storage::faulty::{DiskKind, Fault, FaultyStorage, Operation, Survival};
use isolith::{Durability, Error, PutOptions, Retry, StallReason};
use isolith_testkit::crash::damage::{self, Damage, Tally, Told};
use isolith_testkit::crash::enumerate::{Counts, Plan, enumerate, fail_each_call};
use isolith_testkit::crash::{self, DISKS, Life, Script};
use isolith_testkit::dice::{Dice, effort, run_seed, stride};
use isolith_testkit::sizes::Sizes;

fn plan(script: Script, seed: u64) -> Plan {
    let after = Script::going_on();
    let (sizes, random) = (Sizes::PLAIN, 2 * effort());
    Plan { disk: DISKS[0], script, after, stride: 1, random, nested: 0, sizes, seed }
}

/// The same where memtables and files are tiny, and values apart from their keys with every other seed.
fn tiny(script: Script, seed: u64) -> Plan {
    let after = Script::going_on_with_files();
    Plan { after, sizes: Sizes::tiny(seed), ..plan(script, seed) }
}

#[test]
fn a_crash_at_any_call_keeps_what_was_promised() {
    let seed = run_seed("a_crash_at_any_call_keeps_what_was_promised");
    let mut counts = Counts::default();
    for disk in DISKS {
        counts.add(enumerate(&Plan { disk, ..plan(Script::every_corner(), seed) }).unwrap());
    }
    println!("a_crash_at_any_call_keeps_what_was_promised: {counts:?}");
}

#[test]
fn a_crash_of_the_recovery_keeps_what_was_promised() {
    let seed = run_seed("a_crash_of_the_recovery_keeps_what_was_promised");
    let mut counts = Counts::default();
    for disk in DISKS {
        let plan = plan(Script::every_corner(), seed);
        let plan = Plan { disk, stride: stride(12), nested: stride(3), random: effort(), ..plan };
        counts.add(enumerate(&plan).unwrap());
    }
    println!("a_crash_of_the_recovery_keeps_what_was_promised: {counts:?}");
}

#[test]
fn a_crash_in_random_lives_keeps_what_was_promised() {
    let seed = run_seed("a_crash_in_random_lives_keeps_what_was_promised");
    let mut dice = Dice::new(seed);
    let mut counts = Counts::default();
    for life in 0..6 * effort() {
        let script = Script::random(dice.roll(), 40);
        let plan = plan(script.clone(), dice.roll());
        let plan = Plan { disk: DISKS[life % 2], stride: 5, random: 1, ..plan };
        counts.add(enumerate(&plan).unwrap_or_else(|finding| panic!("{script:?}\n{finding}")));
    }
    println!("a_crash_in_random_lives_keeps_what_was_promised: {counts:?}");
}

#[test]
fn a_call_that_fails_takes_nothing_and_reads_go_on() {
    let seed = run_seed("a_call_that_fails_takes_nothing_and_reads_go_on");
    let mut counts = Counts::default();
    for disk in DISKS {
        let plan =
            Plan { disk, random: 0, stride: stride(2), ..plan(Script::every_corner(), seed) };
        counts.add(fail_each_call(&plan, &[Fault::Io, Fault::NoSpace], Life::FAULTY).unwrap());
    }
    println!("a_call_that_fails_takes_nothing_and_reads_go_on: {counts:?}");
}

// ---- the same with tiny memtables and files

#[test]
fn a_crash_while_files_are_written_keeps_what_was_promised() {
    let seed = run_seed("a_crash_while_files_are_written_keeps_what_was_promised");
    let mut counts = Counts::default();
    for disk in DISKS {
        let plan = tiny(Script::through_files(), seed);
        let plan = Plan { disk, stride: stride(12), random: effort(), ..plan };
        counts.add(enumerate(&plan).unwrap());
        let plan = tiny(Script::every_corner(), seed);
        let plan = Plan { disk, stride: stride(12), random: effort(), ..plan };
        counts.add(enumerate(&plan).unwrap());
    }
    println!("a_crash_while_files_are_written_keeps_what_was_promised: {counts:?}");
}

#[test]
fn a_crash_of_the_recovery_of_files_keeps_what_was_promised() {
    let seed = run_seed("a_crash_of_the_recovery_of_files_keeps_what_was_promised");
    let mut counts = Counts::default();
    for disk in DISKS {
        let plan = tiny(Script::through_files(), seed);
        let plan = Plan { disk, stride: stride(60), nested: stride(24), random: effort(), ..plan };
        counts.add(enumerate(&plan).unwrap());
    }
    println!("a_crash_of_the_recovery_of_files_keeps_what_was_promised: {counts:?}");
}

#[test]
fn a_crash_in_random_lives_with_files_keeps_what_was_promised() {
    let seed = run_seed("a_crash_in_random_lives_with_files_keeps_what_was_promised");
    let mut dice = Dice::new(seed);
    let mut counts = Counts::default();
    for life in 0..6 * effort() {
        let script = Script::random(dice.roll(), 50);
        let plan = tiny(script.clone(), dice.roll());
        let plan = Plan { disk: DISKS[life % 2], stride: 23, random: 1, ..plan };
        counts.add(enumerate(&plan).unwrap_or_else(|finding| panic!("{script:?}\n{finding}")));
    }
    println!("a_crash_in_random_lives_with_files_keeps_what_was_promised: {counts:?}");
}

#[test]
fn a_call_that_fails_while_files_are_written_takes_nothing() {
    let seed = run_seed("a_call_that_fails_while_files_are_written_takes_nothing");
    let mut counts = Counts::default();
    for disk in DISKS {
        let plan = tiny(Script::through_files(), seed);
        let plan = Plan { disk, random: 0, stride: stride(24), ..plan };
        counts.add(fail_each_call(&plan, &[Fault::Io, Fault::NoSpace], Life::FAULTY).unwrap());
    }
    println!("a_call_that_fails_while_files_are_written_takes_nothing: {counts:?}");
}

// ---- a disk that fills

/// Writers stall with the reason, reads go on, and writers go on when there is space.
#[test]
fn a_full_disk_stalls_writers_until_there_is_space() {
    for disk in DISKS {
        for space in (0..6).map(|blocks| blocks * 3 * 4096) {
            let disk = FaultyStorage::new(disk);
            let db = crash::open(&disk).unwrap();
            let keyspace = db.keyspace("space").unwrap();
            disk.set_space(Some(space));
            let mut written = 0u32;
            let mut stalls = 0;
            while written < 60 {
                match keyspace.put(written.to_be_bytes(), [7; 3_000]) {
                    Ok(()) => written += 1,
                    Err(error) => {
                        let stalled = matches!(
                            &error,
                            Error::Stalled { reason: StallReason::LogSpace { .. } }
                        );
                        assert!(stalled, "with {space} bytes after {written}: {error:?}");
                        assert!(matches!(error.retry(), Retry::After(_)));
                        assert_eq!(keyspace.len().unwrap(), written as usize);
                        stalls += 1;
                        disk.add_space(5 * 4096);
                    }
                }
                assert!(stalls < 1000, "it does not go on");
            }
            assert!(stalls > 0, "the disk never filled");
            drop((db, keyspace));
            let after = disk.reboot(Survival::Nothing);
            let db = crash::open(&after).unwrap();
            assert_eq!(db.keyspace("space").unwrap().len().unwrap(), 60);
        }
    }
}

/// A database that was closed in order opens on a full disk, and shows what it holds.
#[test]
fn a_full_disk_opens_after_an_orderly_close() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let db = crash::open(&disk).unwrap();
    for number in 0..20u32 {
        db.keyspace("space").unwrap().put(number.to_be_bytes(), [7; 3_000]).unwrap();
    }
    db.close().unwrap();
    drop(db);
    disk.set_space(Some(0));
    let db = crash::open(&disk).unwrap();
    assert_eq!(db.keyspace("space").unwrap().len().unwrap(), 20);
}

// ---- damage

#[test]
fn damage_to_a_database_closed_in_order_is_told_or_makes_no_difference() {
    let name = "damage_to_a_database_closed_in_order_is_told_or_makes_no_difference";
    let mut dice = Dice::new(run_seed(name));
    for script in [damage::synced_commits(24), Script::every_corner()] {
        let closed = damage::closed(&script, true).unwrap();
        let mut all = damage::flips(&closed.image, &mut dice, stride(4));
        all.extend(damage::blocks(&closed.image, &mut dice));
        let tally = closed.open_with_each(&all, 0).unwrap();
        println!("{name}: {tally:?}");
        assert!(tally.corrupt > 0);
    }
}

/// With each batch synced by itself only the last one has no witness.
#[test]
fn damage_after_a_power_cut_is_told_but_for_the_last_batch() {
    let name = "damage_after_a_power_cut_is_told_but_for_the_last_batch";
    let mut dice = Dice::new(run_seed(name));
    let closed = damage::closed(&damage::synced_commits(24), false).unwrap();
    let mut all = damage::flips(&closed.image, &mut dice, stride(4));
    all.extend(damage::blocks(&closed.image, &mut dice));
    let tally = closed.open_with_each(&all, 1).unwrap();
    println!("{name}: {tally:?}");
    assert!(tally.corrupt > 0 && tally.cut.0 > 0);
}

/// Files cut short, missing, exchanged. A last segment that is gone takes its witnesses along: the
/// one case that is known to look like an earlier end (`docs/recovery.md`).
#[test]
fn damage_to_whole_files_is_told() {
    for orderly in [true, false] {
        let closed = damage::closed(&damage::synced_commits(24), orderly).unwrap();
        let names = closed.image.files.keys().filter(|file| damage::is_log(file));
        let names: Vec<String> = names.cloned().collect();
        let last = closed.image.last_used().unwrap();
        let mut tally = Tally::default();
        let mut all = Vec::new();
        for (place, name) in names.iter().enumerate() {
            all.push(Damage::Remove(name.clone()));
            for other in &names[..place] {
                all.push(Damage::Exchange(name.clone(), other.clone()));
            }
            let length = closed.image.files[name].len();
            for end in [0, 1, 511, 4095, 4096, 4097, 3 * 4096, length - 4096, length - 1] {
                all.push(Damage::Truncate(name.clone(), end));
            }
            for bytes in [vec![], vec![0; 10], b"not a segment".to_vec(), vec![0xa5; 8192]] {
                all.push(Damage::Foreign(name.clone(), bytes));
            }
        }
        let new = "wal/00000000000000ff.log".to_owned();
        for bytes in [vec![0; 4096], vec![], b"not a segment".to_vec()] {
            all.push(Damage::Foreign(new.clone(), bytes));
        }
        all.push(Damage::Foreign("wal/notes.txt".into(), b"not a segment".to_vec()));
        for damage in all {
            let told = closed.open_with(&damage).unwrap();
            let gap = match &damage {
                Damage::Remove(file) => *file == last,
                // As if it were gone.
                Damage::Foreign(file, _) | Damage::Truncate(file, _) => *file == last,
                _ => false,
            };
            assert!(gap || !matches!(told, Told::Cut(_)), "{damage:?}: {told:?}");
            tally.add(told);
        }
        println!("damage_to_whole_files_is_told: orderly {orderly}, {tally:?}");
    }
}

/// Every file of a database with many files: the manifest, the sorted files, the log.
#[test]
fn damage_to_any_file_is_told_or_makes_no_difference() {
    let name = "damage_to_any_file_is_told_or_makes_no_difference";
    let seed = run_seed(name);
    let mut dice = Dice::new(seed);
    let sizes = Sizes::tiny(seed);
    let sizes = Sizes { memtable_bytes: Some(6 << 10), file_bytes: Some(8 << 10), ..sizes };
    let (first, second) = (Script::through_files(), damage::for_blocks());
    let (closed, older) = damage::closed_twice(&first, &second, sizes).unwrap();
    let mut all = damage::flips_of_each_file(&closed.image, &mut dice, 60 * effort());
    all.extend(damage::moves_of_each_file(&closed.image, &mut dice, 6 * effort()));
    all.extend(damage::truncations(&closed.image, &mut dice, 6 * effort()));
    all.extend(damage::whole_files(&closed.image, &older));
    let mut tally = Tally::default();
    let (last, end) = closed.image.end_of_log().unwrap();
    for damage in all {
        let told = closed.open_with(&damage).unwrap();
        let gap = match &damage {
            Damage::Remove(file) | Damage::Foreign(file, _) | Damage::Truncate(file, _) => {
                *file == last
            }
            // Over the mark that ends the log: nothing is left that tells of what was before it.
            Damage::Move { file, to, bytes, .. } => {
                *file == last && (*to..to + bytes).contains(&end)
            }
            _ => false,
        };
        assert!(gap || !matches!(told, Told::Cut(_)), "{damage:?}: {told:?}");
        tally.add(told);
    }
    println!("{name}: {tally:?}");
    assert!(tally.corrupt > 0 && tally.harmless > 0, "{tally:?}");
}

// ---- what was found, each as small as it can be told

/// A failed fdatasync leaves the bytes in the page cache, clean: a reopening on the same boot reads
/// them there, and its own sync writes nothing. So it writes them again before it builds on them.
#[test]
fn a_failed_sync_and_a_reopening_do_not_promise_what_is_only_cached() {
    let disk = FaultyStorage::new(DiskKind::Fua);
    let db = crash::open(&disk).unwrap();
    let keyspace = db.keyspace("space").unwrap();
    let durability = Some(Durability::Os);
    let options = PutOptions { durability, ..PutOptions::default() };
    keyspace.put_with("a", "only in the cache", options).unwrap();
    disk.fail_next(Operation::Sync, "wal", Fault::Io);
    assert!(db.sync().is_err());
    drop((db, keyspace));
    let db = crash::open(&disk).unwrap();
    let keyspace = db.keyspace("space").unwrap();
    let shown = keyspace.get("a").unwrap();
    keyspace.put("b", "synced").unwrap();
    drop((db, keyspace));
    let db = crash::open(&disk.reboot(Survival::Nothing)).unwrap();
    let keyspace = db.keyspace("space").unwrap();
    assert_eq!(keyspace.get("a").unwrap(), shown);
    assert_eq!(keyspace.get("b").unwrap().as_deref(), Some(&b"synced"[..]));
}
