//! The planted bugs of transactions, each found by the command that users have: `isolith anomalies`.
//!
//! ```text
//! RUSTFLAGS="--cfg planted" CARGO_TARGET_DIR=target/planted cargo test -p isolith-server --test planted_anomalies -- --nocapture
//! ```
//!
//! In a planted build the command plants the bug that `ISOLITH_PLANT` names. Every command is run
//! without a bug first, and must find nothing. `docs/testing.md` has the same table.

#[cfg(not(planted))]
#[test]
fn planted_bugs_are_skipped() {
    println!("skipped: build with RUSTFLAGS=\"--cfg planted\" to plant bugs");
}

#[cfg(planted)]
mod planted {
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::process::Command;

    /// Each bug, and the command that finds it. Where schedules are chosen at random it is by the
    /// seed that the command has without being told, 1.
    const BUGS: [(&str, &str); 38] = [
        ("range-phantom", "matrix g2 --isolation serializable"),
        ("absent-key-untracked", "matrix tests/scenarios/absent.txt"),
        (
            "read-misses-range-delete",
            "matrix tests/scenarios/range-delete.txt --isolation serializable",
        ),
        ("put-misses-range-delete", "matrix tests/scenarios/blind.txt --isolation snapshot"),
        ("range-delete-misses-put", "matrix g-single-write-1 --isolation snapshot"),
        ("first-committer-does-not-win", "matrix p4 --isolation snapshot"),
        ("ring-not-consulted", "matrix g2 --isolation serializable"),
        (
            "points-validated-outside-alone",
            "matrix p4 g2-item --fine --isolation serializable --max 100",
        ),
        ("returned-keys-untracked", "matrix doctors --isolation repeatable-read"),
        ("for-update-untracked", "matrix p4c --isolation read-committed"),
        (
            "for-update-leaves-no-mark",
            "explore tests/scenarios/mark.txt --isolation read-committed",
        ),
        ("statements-share-a-timestamp", "replay tests/scenarios/statement.txt"),
        (
            "locks-not-checked-by-committers",
            "matrix g2-item p4 --isolation serializable --concurrency mixed --max 1000",
        ),
        (
            "weak-writer-passes-locks",
            "matrix g2-item p2 g-single --isolation mixed --concurrency mixed --max 8000",
        ),
        ("locks-released-before-installed", "matrix p4 --concurrency locking:detect"),
        ("absent-key-not-locked", "matrix tests/scenarios/absent.txt"),
        ("returned-keys-not-locked", "matrix doctors --isolation repeatable-read"),
        (
            "scan-locks-only-what-it-found",
            "matrix tests/scenarios/phantom.txt --isolation serializable --max 300",
        ),
        ("range-delete-locks-nothing", "matrix g-single-write-1 --isolation serializable"),
        ("upgrade-releases-shared", "matrix p4 --isolation serializable"),
        ("locked-at-an-old-timestamp", "replay tests/scenarios/locked.txt"),
        (
            "moved-on-without-validation",
            "matrix tests/scenarios/lock-range.txt --isolation serializable",
        ),
        (
            "wounded-commits",
            "matrix p4 g2-item tests/scenarios/upgrade.txt --fine --isolation serializable --concurrency locking --max 300",
        ),
        ("older-ones-wounded", "matrix p4 --concurrency locking"),
        ("wrong-victim", "matrix g0 p4 --concurrency locking:detect"),
        ("lost-wake-up", "matrix p4c --concurrency locking"),
        ("abort-leaks-locks", "matrix p4"),
        ("circles-not-searched", "matrix p4 --isolation serializable --concurrency locking:detect"),
        (
            "circles-through-ranges-missed",
            "matrix g-single-write-1 --isolation serializable --concurrency locking:detect",
        ),
        (
            "circles-of-three-missed",
            "matrix tests/scenarios/circle.txt --isolation serializable --concurrency locking:detect",
        ),
        ("own-write-missed-in-scan", "matrix tests/scenarios/own-writes.txt"),
        ("range-delete-hides-its-own-commit", "matrix tests/scenarios/own-writes.txt"),
        ("savepoint-keeps-range-delete", "matrix tests/scenarios/savepoint.txt"),
        ("newest-version-pruned", "matrix otv --isolation repeatable-read"),
        ("merge-counts-as-blind", "matrix tests/scenarios/read-merge.txt --isolation snapshot"),
        ("merged-over-expired", "matrix tests/scenarios/expired.txt"),
        ("expired-value-scanned", "matrix expiry"),
        ("dropped-keyspace-written", "matrix dropped"),
    ];

    /// Those that need a log and a crash. One thread and a seed repeat a run to the last storage call.
    const NEED_A_CRASH: [&str; 12] = [
        "acknowledge-before-sync",
        "missing-directory-sync",
        "unsynced-batch-counted-durable",
        "lsn-given-twice",
        "open-mark-left-out",
        "recovery-syncs-nothing",
        "close-writes-nothing",
        "torn-multi-keyspace-replay",
        "failed-write-ignored",
        "failed-sync-ignored",
        "cached-bytes-trusted",
        "weak-not-raised",
    ];
    const CRASH: &str = "stress --crash --threads 1 --transactions 20000 --seed 2";

    /// Those that only a race of threads shows: how they interleave is not decided by the seed, so they
    /// are looked for more than once.
    const NEED_THREADS: [&str; 5] = [
        "prune-forgets-s",
        "batch-cut-beyond-visible",
        "round-not-awaited",
        "snapshot-registered-without-recheck",
        "visible-before-installed",
    ];
    const THREADS: &str = "stress --crash --threads 4 --transactions 20000 --seed";

    /// Those that only a killed process shows: when it is killed is decided by the seed, what is under way
    /// then is not.
    const NEED_A_KILL: [&str; 1] = ["os-acknowledged-unwritten"];
    const KILL: &str = "stress --crash --threads 4 --transactions 4000 --dir DIR --seed";

    /// The exit code of `isolith anomalies …`.
    fn run(arguments: &str, bug: Option<&str>) -> Option<i32> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isolith"));
        command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        command.arg("anomalies").args(arguments.split(' ')).env_remove("ISOLITH_PLANT");
        command.envs(bug.map(|bug| ("ISOLITH_PLANT", bug)));
        command.output().expect("the command runs").status.code()
    }

    #[test]
    fn the_command_finds_every_one() {
        let commands: BTreeSet<&str> = BUGS.iter().map(|(_, command)| *command).collect();
        let sound = commands.into_iter().filter(|command| run(command, None) != Some(0));
        let sound: Vec<&str> = sound.collect();
        assert!(sound.is_empty(), "they find something where nothing is wrong: {sound:#?}");
        let missed = BUGS.iter().filter(|(bug, command)| run(command, Some(bug)) != Some(1));
        let missed: Vec<_> = missed.collect();
        assert!(missed.is_empty(), "not found: {missed:#?}");
    }

    #[test]
    fn the_stress_finds_those_that_need_a_crash() {
        assert_eq!(run(CRASH, None), Some(0));
        let missed = NEED_A_CRASH.iter().filter(|bug| run(CRASH, Some(bug)) != Some(1));
        let missed: Vec<_> = missed.collect();
        assert!(missed.is_empty(), "not found by {CRASH}: {missed:#?}");
    }

    #[test]
    fn the_stress_finds_those_that_need_a_kill() {
        let folder = tempfile::tempdir().expect("a directory");
        let dir = folder.path().to_str().expect("a path without blanks");
        let command = |seed: u32| format!("{KILL} {seed}").replace("DIR", dir);
        assert_eq!(run(&command(1), None), Some(0));
        let finds = |bug: &str| (1..=5).any(|seed| run(&command(seed), Some(bug)) == Some(1));
        let missed: Vec<_> = NEED_A_KILL.iter().filter(|bug| !finds(bug)).collect();
        assert!(missed.is_empty(), "not found by {KILL} 1 to 5: {missed:#?}");
    }

    #[test]
    fn the_stress_finds_those_that_need_threads() {
        let command = |seed: u32| format!("{THREADS} {seed}");
        assert_eq!(run(&command(1), None), Some(0));
        let finds = |bug: &str| (1..=5).any(|seed| run(&command(seed), Some(bug)) == Some(1));
        let missed: Vec<_> = NEED_THREADS.iter().filter(|bug| !finds(bug)).collect();
        assert!(missed.is_empty(), "not found by {THREADS} 1 to 5: {missed:#?}");
    }
}
