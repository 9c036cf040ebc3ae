//! Bugs of the server, each found across a network by the commands that users have.
//!
//! ```text
//! RUSTFLAGS="--cfg planted" CARGO_TARGET_DIR=target/planted cargo test -p isolith-server --test planted_server
//! ```
//!
//! The server is one of a planted build, with the bug that `ISOLITH_PLANT` names. Every command is run on
//! a sound server first, and must find nothing. `docs/testing.md` has the same table.

#[cfg(not(planted))]
#[test]
fn planted_bugs_are_skipped() {
    println!("skipped: build with RUSTFLAGS=\"--cfg planted\" to plant bugs");
}

#[cfg(planted)]
mod planted {
    use std::path::Path;
    use std::process::Command;

    use isolith_testkit::server::Server;

    const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

    /// Each bug, and the command that finds it at the address that is put for ADDRESS.
    const BUGS: [(&str, &str); 6] = [
        (
            "level-named-is-forgotten",
            "matrix g2-item --isolation serializable --target resp://ADDRESS",
        ),
        (
            "watch-looks-for-presence",
            "matrix p4 --isolation serializable --concurrency optimistic --target resp+watch://ADDRESS",
        ),
        (
            "watch-misses-deletion",
            "matrix tests/scenarios/delete-skew.txt --isolation serializable --concurrency optimistic --target resp+watch://ADDRESS",
        ),
        (
            "rollback-to-does-nothing",
            "matrix tests/scenarios/savepoint.txt --target resp://ADDRESS",
        ),
        (
            "wake-up-not-passed-on",
            "matrix p4c --isolation read-committed --concurrency locking:wound-wait --target resp://ADDRESS",
        ),
        (
            "read-only-at-no-one-point",
            "stress --workload append --transactions 20000 --threads 4 --seed 1 --target resp://ADDRESS",
        ),
    ];

    /// The exit code of `isolith anomalies …`.
    fn run(command: &str, bug: Option<&str>) -> Option<i32> {
        let server = Server::start_planted(BINARY, &["--durability", "buffered"], bug);
        let command = command.replace("ADDRESS", &server.address().to_string());
        let mut child = Command::new(BINARY);
        child.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        child.arg("anomalies").args(command.split(' ')).env_remove("ISOLITH_PLANT");
        child.output().expect("the command runs").status.code()
    }

    #[test]
    fn the_command_finds_every_one() {
        for (bug, command) in BUGS {
            assert_eq!(run(command, None), Some(0), "{command} finds something where nothing is");
            assert_eq!(run(command, Some(bug)), Some(1), "{command} misses {bug}");
        }
    }
}
