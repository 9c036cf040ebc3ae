//! `isolith anomalies stress` as a process: real files and `kill -9`, records, interruption, outputs that
//! cannot be written, servers that say nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use isolith_testkit::resp::Address;
use isolith_testkit::stress::mix::Mix;
use isolith_testkit::stress::resp::Network;
use isolith_testkit::stress::workload::Workload;
use isolith_testkit::stress::{Length, Options, run};

fn isolith(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isolith"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(arguments);
    command
}

/// What it printed and what it said, having ended so.
fn ends(code: i32, arguments: &[&str]) -> (String, String) {
    let Output { status, stdout, stderr } = isolith(arguments).output().expect("the command runs");
    let (out, err) =
        (String::from_utf8_lossy(&stdout).into_owned(), String::from_utf8_lossy(&stderr).into());
    assert_eq!(status.code(), Some(code), "{arguments:?}: {out}{err}");
    (out, err)
}

fn stress(arguments: &str) -> Vec<&str> {
    ["anomalies", "stress", "--format", "json"].into_iter().chain(arguments.split(' ')).collect()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

#[test]
fn a_killed_server_keeps_what_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, record) = (folder.path().join("files"), folder.path().join("run.jsonl"));
    let (dir, record) = (dir.to_str().unwrap(), record.to_str().unwrap());
    for workload in ["append", "register", "queue"] {
        let run = format!(
            "--workload {workload} --crash --dir {dir} --record {record} --transactions 1200 --seed 5"
        );
        let (out, _) = ends(0, &stress(&run));
        let report = json(&out);
        assert_eq!(report["verdict"], "holds");
        assert!(report["recoveries"].as_u64() > Some(0), "{workload}: nothing was killed");
        ends(0, &["check", record, "--own-levels", "--closed"]);
    }
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0, "files are left");
}

#[test]
fn files_are_closed_and_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let (out, _) = ends(0, &stress(&format!("--dir {dir} --transactions 4000 --window 500")));
    assert_eq!(json(&out)["recoveries"], 2);
    ends(3, &stress("--dir /dev/null/x --transactions 10"));
}

#[test]
fn a_run_through_crashes_is_recorded_as_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("run.jsonl");
    let record = record.to_str().unwrap();
    for workload in Workload::ALL.map(Workload::name) {
        let run = format!("--workload {workload} --crash --transactions 2000 --seed 3");
        ends(0, &stress(&format!("{run} --record {record}")));
        ends(0, &["check", record, "--own-levels", "--closed"]);
    }
}

#[test]
fn who_interrupts_is_told_what_was_judged() {
    let mut command = isolith(&["anomalies", "stress", "--seconds", "100000", "--threads", "2"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    // It listens to signals before it says anything.
    out.read_line(&mut text).unwrap();
    let process = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
    out.read_to_string(&mut text).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4), "{text}");
    assert!(text.contains("windows hold\ninterrupted"), "{text}");
}

#[test]
fn what_cannot_be_written_is_told_and_what_was_found_stays_found() {
    let (_, err) = ends(3, &stress("--transactions 20000 --record /dev/full"));
    assert!(
        err.contains("/dev/full: the history cannot be recorded") && err.contains("No space"),
        "{err}"
    );
    ends(3, &stress("--transactions 100 --record /nowhere/run.jsonl"));
    let skew = "tests/fixtures/histories/write-skew.jsonl";
    let mut doctors = tempfile::NamedTempFile::new().unwrap();
    doctors.write_all(DOCTORS.as_bytes()).unwrap();
    let doctors = doctors.path().to_str().unwrap();
    for page in ["/nowhere/page.html", "/dev/full"] {
        let level = ["check", skew, "--level", "serializable", "--html", page];
        let (out, err) = ends(1, &level);
        assert!(out.contains("G2-item") && err.contains(page), "{out}{err}");
        let (_, err) =
            ends(1, &["anomalies", "explore", doctors, "--isolation", "snapshot", "--html", page]);
        assert!(err.contains(page), "{err}");
    }
}

/// An invariant that snapshots break.
const DOCTORS: &str = "\
setup: d1 = 1, d2 = 1
session t1
  scan d1..=d2 as on
  put d1 = 0 if sum(on) == 2
session t2
  scan d1..=d2 as on
  put d2 = 0 if sum(on) == 2
invariant: d1 + d2 >= 1
";

#[test]
fn a_reader_that_goes_away_changes_no_verdict() {
    let skew = "tests/fixtures/histories/write-skew.jsonl";
    for (arguments, code) in [
        (vec!["check", skew, "--level", "serializable"], 1),
        (vec!["check", skew, "--level", "snapshot"], 0),
        (vec!["anomalies", "stress", "--transactions", "100"], 0),
        (vec!["anomalies", "list"], 0),
        (vec!["anomalies", "matrix", "p4"], 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = isolith(&arguments).stdout(writer).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}

/// Says that it is isolith, and nothing more.
fn silent() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = |mut stream: TcpStream| {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            if bytes[..count].windows(4).any(|word| word == b"INFO") {
                let _ = stream.write_all(b"$23\r\nisolith_version:0.1.0\r\n\r\n");
            }
        }
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

#[test]
fn a_server_that_says_nothing_is_noticed() {
    let wait = Duration::from_millis(200);
    let mut network = Network::connect(&Address::of(silent()), wait).unwrap();
    let options = Options {
        workload: Workload::Append,
        length: Length::Transactions(10),
        threads: 2,
        mix: Mix::all(),
        seed: 1,
        window: 10,
        judges: 1,
    };
    let why = run(&mut network, &options, None, |_| {}).unwrap_err();
    assert!(why.contains("failed at PING"), "{why}");
}
