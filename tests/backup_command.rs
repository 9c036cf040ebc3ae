//! `isolith backup` and `restore`, and BACKUP of a server: as a shell and a client see them.

use isolith::{Database, Timestamp};
use isolith_testkit::server::{Client, Server, Value};
use std::path::Path;
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY).args(arguments).output().expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(arguments: &[&str]) -> serde_json::Value {
    let (code, out, error) = run(&[arguments, &["--format", "json"]].concat());
    assert_eq!(code, Some(0), "{arguments:?}: {out}{error}");
    serde_json::from_str(&out).expect("JSON")
}

/// The number in `k`, and how many keys there are.
fn counted(path: &Path) -> (u32, usize) {
    let db = Database::builder(path).read_only(true).open().expect("opens");
    let keyspace = db.keyspace_if_exists("numbers").expect("open").expect("there");
    let last = keyspace.get("last").expect("read").expect("there");
    let last = std::str::from_utf8(&last).expect("text").parse().expect("a number");
    (last, keyspace.range(..).count())
}

/// Commits number by number; when each was.
fn go_on(path: &Path, numbers: std::ops::Range<u32>) -> Vec<(u32, Timestamp)> {
    let db = Database::builder(path).log_retained(1 << 30).open().expect("opens");
    let keyspace = db.keyspace("numbers").expect("made");
    let one = |number: u32| {
        db.transact(|tx| {
            tx.put(&keyspace, format!("{number:05}"), vec![b'v'; 500])?;
            tx.put(&keyspace, "last", number.to_string())
        })
        .expect("committed");
        if number.is_multiple_of(50) {
            db.flush().expect("flushed");
        }
        (number, db.visible())
    };
    let made = numbers.map(one).collect();
    db.close().expect("closed");
    made
}

#[test]
fn a_database_is_backed_up_and_restored_to_its_end_and_to_commits_in_between() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (data, monday, tuesday) = (path("data"), path("monday"), path("tuesday"));
    let mut commits = go_on(Path::new(&data), 1..121);
    let told = json(&["backup", &data, &monday]);
    assert_eq!(told["timestamp"], commits[119].1.to_string());
    let from = told["restorable-from"].as_str().expect("text").parse::<Timestamp>();
    let from = from.expect("a timestamp");
    assert!(commits[99].1 <= from && from <= commits[119].1, "{told}");
    assert!(told["linked-bytes"].as_u64() > Some(0) && told["copied-bytes"] == 0, "{told}");
    assert_eq!(counted(Path::new(&monday)), (120, 121));
    let (code, out, error) = run(&["verify", &monday]);
    assert_eq!(code, Some(0), "{out}{error}");

    commits.extend(go_on(Path::new(&data), 121..260));
    let told = json(&["backup", &data, &tuesday, "--copy"]);
    assert!(told["linked-bytes"] == 0 && told["copied-bytes"].as_u64() > Some(0), "{told}");
    let some = [commits[99], commits[110], commits[119], commits[180], commits[258]];
    for (number, at) in some.into_iter().filter(|(_, at)| *at >= from) {
        for (by, log) in [("tuesday", &tuesday), ("data", &data)] {
            let target = path(&format!("{number} by {by}"));
            let at = at.to_string();
            let told = json(&["restore", &monday, &target, "--to", &at, "--log", log]);
            assert_eq!(told["timestamp"], at);
            assert_eq!(counted(Path::new(&target)), (number, number as usize + 1));
            go_on(Path::new(&target), number + 1..number + 3);
            assert_eq!(counted(Path::new(&target)), (number + 2, number as usize + 3));
        }
    }
    assert_eq!(counted(Path::new(&monday)), (120, 121));

    let refused = |arguments: &[&str], code: i32, says: &str| {
        let (exit, out, error) = run(arguments);
        assert!(exit == Some(code) && error.contains(says), "{arguments:?}: {exit:?} {out}{error}");
    };
    let early = commits[50].1.to_string();
    let reach = format!("from {from} to {}", commits[119].1);
    refused(&["restore", &monday, &path("early"), "--to", &early], 3, &reach);
    assert!(!Path::new(&path("early")).exists(), "nothing is made for what is out of reach");
    refused(&["restore", &monday, &path("x"), "--to", "yesterday"], 2, "EPOCH:COUNTER");
    refused(&["restore", &monday, &data], 3, "not empty");
    refused(&["backup", &data, &path("data/inside")], 3, "lies in");
    refused(&["backup", &path("nowhere"), &path("x")], 3, "nowhere");
    let open = Database::open(&data).expect("opens");
    refused(&["backup", &data, &path("x")], 3, "in use");
    drop(open);
    let (code, out, _) = run(&["backup", &data, &path("text")]);
    assert!(code == Some(0) && out.contains("every commit up to "), "{out}");
}

fn info(client: &mut Client, name: &str) -> Option<String> {
    let Value::Bulk(text) = client.line("INFO persistence") else { panic!("INFO is a text") };
    let text = String::from_utf8(text).expect("text");
    let prefix = format!("{name}:");
    text.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
}

/// Asks for a backup and waits for its end: how it ended.
fn back_up(client: &mut Client, name: &str) -> String {
    assert_eq!(client.line(&format!("BACKUP {name}")), Value::Simple("Backup started".into()));
    while info(client, "backup_in_progress").as_deref() == Some("1") {
        std::thread::yield_now();
    }
    assert_eq!(info(client, "last_backup").as_deref(), Some(name));
    info(client, "last_backup_status").expect("it has ended")
}

#[test]
fn a_server_backs_up_its_database_while_it_serves() {
    let directory = tempfile::tempdir().expect("a directory");
    let backups = directory.path().join("backups");
    let to = backups.display().to_string();
    let mut server = Server::start(BINARY, &["--backup-dir", &to, "--log-retained", "64M"]);
    let mut client = server.connect();
    for number in 1..=200 {
        client.line(&format!("SET k{number} {number}"));
    }
    for wrong in ["../x", "/x", ".", "..", ".hidden", "a/b", "a%20b"] {
        let Value::Error(error) = client.line(&format!("BACKUP {wrong}")) else {
            panic!("{wrong}")
        };
        assert!(error.starts_with("ERR a backup's name"), "{error}");
    }
    assert_eq!(info(&mut client, "last_backup_status"), None);
    assert_eq!(back_up(&mut client, "first"), "ok");
    let at = info(&mut client, "last_backup_timestamp").expect("told");
    client.line("SET k201 201");
    assert!(back_up(&mut client, "first").contains("is not empty"));
    assert_eq!(back_up(&mut client, "data"), "ok");
    assert!(server.terminate().success());

    let keys = |path: &Path| {
        let db = Database::builder(path).read_only(true).open().expect("opens");
        let keyspace = db.keyspace_if_exists("db0").expect("open").expect("there");
        (db.visible().to_string(), keyspace.range(..).count())
    };
    assert_eq!(keys(&backups.join("first")), (at, 200));
    assert_eq!(keys(&backups.join("data")).1, 201);
    // It is served as any database is.
    let mut server = Server::start_in(BINARY, &backups, &[]);
    let mut client = server.connect();
    assert_eq!(client.line("GET k201"), Value::Bulk(b"201".to_vec()));
    let Value::Error(error) = client.line("BACKUP third") else { panic!("refused") };
    assert!(error.contains("--backup-dir"), "{error}");
    assert!(server.terminate().success());
}
