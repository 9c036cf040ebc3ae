//! Random programs over the whole embedded API against the reference model, from one thread: every
//! read, every verdict and every reopening is compared.
//!
//! `ISOLITH_SEED=<number>` repeats a run, `ISOLITH_EFFORT=<factor>` makes it longer. A failure is
//! shrunk to a small program and printed; the ones that were bugs stand below by name.

use std::cell::RefCell;
use std::ops::Bound;
use std::sync::Arc;

use isolith::storage::memory::MemoryStorage;
use isolith::{Builder, CommitMode, Database, Durability, TransactionOptions};
use isolith_testkit::dice::{effort, run_seed};
use isolith_testkit::machine::{self, Setting, Tally};
use isolith_testkit::operations::operation;
use isolith_testkit::sizes::Sizes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Runs `cases` random programs.
fn compare(name: &str, setting: Setting, cases: usize) -> Tally {
    let seed = run_seed(name);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(cases * effort()).unwrap_or(u32::MAX),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let total = RefCell::new(Tally::default());
    let program = prop::collection::vec(operation(), 1..160);
    let result = runner.run(&program, |program| {
        let tally = machine::run(setting, &program)
            .map_err(|finding| TestCaseError::fail(finding.to_string()))?;
        total.borrow_mut().add(&tally);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{name}, ISOLITH_SEED={seed}: {failure}");
    }
    let total = total.into_inner();
    println!("{name}: {total:?}");
    assert!(total.conflicts > 0 && total.commits > 0 && total.scans > 0, "{total:?}");
    assert!(total.pasts > 0 && total.forgotten > 0, "{total:?}");
    total
}

fn setting(mode: CommitMode, logged: bool, retention_ms: u64) -> Setting {
    Setting { mode, logged, strict: true, retention_ms, sizes: Sizes::PLAIN }
}

#[test]
fn the_engine_answers_as_the_model_does() {
    let setting = setting(CommitMode::Combining, true, 0);
    compare("the_engine_answers_as_the_model_does", setting, 2_500);
}

#[test]
fn the_serial_mode_answers_as_the_model_does() {
    let setting = setting(CommitMode::Serial, true, 0);
    compare("the_serial_mode_answers_as_the_model_does", setting, 800);
}

#[test]
fn a_database_in_memory_answers_as_the_model_does() {
    let setting = setting(CommitMode::Combining, false, 0);
    compare("a_database_in_memory_answers_as_the_model_does", setting, 800);
}

#[test]
fn retained_history_answers_as_the_model_does() {
    for (retention_ms, cases) in [(10, 600), (100, 300)] {
        let setting = setting(CommitMode::Combining, true, retention_ms);
        compare("retained_history_answers_as_the_model_does", setting, cases);
    }
}

/// Every few steps something is frozen, flushed, compacted and released.
#[test]
fn tiny_files_answer_as_the_model_does() {
    let name = "tiny_files_answer_as_the_model_does";
    for (mode, retention_ms, sizes, cases) in [
        (CommitMode::Combining, 0, Sizes::TINY, 300),
        (CommitMode::Combining, 0, Sizes::APART, 300),
        (CommitMode::Serial, 0, Sizes::TINY, 100),
        (CommitMode::Combining, 50, Sizes::APART, 200),
    ] {
        // A third of it has to be enough for what a program's transactions hold: it grows values to 250 kB.
        let sizes = Sizes { memory: Some(4 << 20), ..sizes };
        let setting = Setting { sizes, ..setting(mode, true, retention_ms) };
        let total = compare(name, setting, cases);
        assert!(total.flushes > 0 && total.compactions > 0, "{total:?}");
    }
}

// ---- what was found, each as small as it can be told

fn logged(storage: &MemoryStorage) -> Database {
    let builder = Builder::in_memory().storage(Arc::new(storage.clone())).threads(false);
    builder.open().expect("a database on storage in memory")
}

/// Its record was written and nothing else: with the keyspace gone, replay met an unknown keyspace.
#[test]
fn a_range_delete_that_can_hold_no_key_is_not_logged() {
    let storage = MemoryStorage::new();
    let db = logged(&storage);
    let space = db.keyspace("space").unwrap();
    let mut transaction = db.begin().unwrap();
    let between = (Bound::Excluded("k"), Bound::Excluded("k\0"));
    transaction.delete_range(&space, between).unwrap();
    transaction.delete_range(&space, .."").unwrap();
    db.drop_keyspace("space").unwrap();
    assert_eq!(transaction.commit().unwrap().timestamp, None);
    db.close().unwrap();
    drop((db, space));
    assert!(logged(&storage).keyspaces().is_empty());
}

#[test]
fn a_scan_of_inverted_bounds_depends_on_nothing() {
    let db = Database::in_memory();
    let space = db.keyspace("space").unwrap();
    let mut transaction = db.begin().unwrap();
    assert!(transaction.range(&space, "z".."a").next().is_none());
    space.delete_range(..).unwrap();
    transaction.put(&space, "k", "v").unwrap();
    assert!(transaction.commit().is_ok());
}

/// A later `Buffered` commit raises S above an `Os` one that no write has carried yet.
#[test]
fn a_buffered_commit_does_not_acknowledge_an_earlier_os_commit() {
    let storage = MemoryStorage::new();
    let db = logged(&storage);
    let space = db.keyspace("space").unwrap();
    let put = |key: &str, durability| {
        let durability = Some(durability);
        let options = TransactionOptions { durability, ..TransactionOptions::default() };
        let mut transaction = db.begin_with(options).unwrap();
        transaction.put(&space, key, "v").unwrap();
        transaction.commit_pending().unwrap()
    };
    let first = put("a", Durability::Os);
    let second = put("b", Durability::Buffered);
    assert!(second.is_ready());
    assert!(!first.is_ready());
    first.wait().unwrap();
}

/// The deleted range ends right where the scanned one begins: no key lies in both.
#[test]
fn ranges_that_only_touch_do_not_conflict() {
    let db = Database::in_memory();
    let space = db.keyspace("space").unwrap();
    let mut transaction = db.begin().unwrap();
    let scanned = (Bound::Excluded("b"), Bound::Excluded("d"));
    assert_eq!(transaction.range(&space, scanned).count(), 0);
    space.delete_range((Bound::Excluded("a"), Bound::Included("b"))).unwrap();
    transaction.put(&space, "k", "v").unwrap();
    assert!(transaction.commit().is_ok());
}
