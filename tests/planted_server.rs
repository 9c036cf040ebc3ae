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

    use isolith_testkit::laboratory::resp::WAIT;
    use isolith_testkit::server::Server;
    use isolith_testkit::stress::resp::Network;
    use isolith_testkit::stress::workload::Workload;
    use isolith_testkit::stress::{self, Length, Options};

    const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

    /// Each bug, and the command that finds it at the address that is put for ADDRESS.
    const BUGS: [(&str, &str); 4] = [
        (
            "level-named-is-forgotten",
            "matrix g2-item --isolation serializable --target resp://ADDRESS",
        ),
        (
            "watch-looks-for-presence",
            "matrix p4 --isolation serializable --concurrency optimistic --target resp+watch://ADDRESS",
        ),
        (
            "rollback-to-does-nothing",
            "matrix tests/scenarios/savepoint.txt --target resp://ADDRESS",
        ),
        (
            "wake-up-not-passed-on",
            "matrix p4c --isolation read-committed --concurrency locking:wound-wait --target resp://ADDRESS",
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

    /// Whether a stress of the server finds something.
    fn stress(bug: Option<&str>) -> bool {
        let server = Server::start_planted(BINARY, &["--durability", "buffered"], bug);
        let address = format!("resp://{}", server.address()).parse().expect("an address");
        let mut target = Network::connect(&address, WAIT).expect("a server");
        let (workload, mix) = (Workload::Append, target.mix());
        let length = Length::Transactions(10_000);
        let options =
            Options { workload, length, threads: 4, mix, seed: 1, window: 500, judges: 1 };
        let report = stress::run(&mut target, &options, None, |_| {}).expect("it runs");
        report.violation.is_some()
    }

    #[test]
    fn the_stress_finds_readers_of_no_one_point() {
        assert!(!stress(None));
        assert!(stress(Some("read-only-at-no-one-point")));
    }

    #[test]
    fn the_command_finds_every_one() {
        for (bug, command) in BUGS {
            assert_eq!(run(command, None), Some(0), "{command} finds something where nothing is");
            assert_eq!(run(command, Some(bug)), Some(1), "{command} misses {bug}");
        }
    }
}
