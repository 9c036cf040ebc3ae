//! `isolith verify`, `salvage`, `compact` and `stats` as a shell sees them: output and exit codes.

use std::path::Path;
use std::process::Command;

use isolith::Database;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(BINARY).args(arguments).output().expect("the command runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn made(path: &Path) -> Database {
    let db = Database::builder(path).memtable_bytes(64 << 10).open().expect("opens");
    let keyspace = db.keyspace("people").expect("made");
    for round in 0..3 {
        db.transact(|tx| {
            (0..2_000).try_for_each(|number| {
                tx.put(&keyspace, format!("{number:05}"), format!("{round} {number}"))
            })
        })
        .expect("committed");
        db.flush().expect("flushed");
    }
    keyspace.put("last", "in the log").expect("put");
    db
}

#[expect(clippy::disallowed_methods, reason = "damage is done behind the database's back")]
fn flip(path: &Path) -> String {
    let mut files: Vec<_> = std::fs::read_dir(path.join("sst"))
        .expect("listed")
        .map(|entry| entry.expect("one"))
        .collect();
    files.sort_by_key(|entry| entry.metadata().expect("its length").len());
    let largest = files.last().expect("a file");
    let mut bytes = std::fs::read(largest.path()).expect("read");
    bytes[1_000] ^= 1;
    std::fs::write(largest.path(), bytes).expect("written");
    largest.file_name().into_string().expect("text")
}

#[test]
fn a_database_is_verified_told_of_and_compacted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data");
    let dir = path.to_str().expect("text");
    let db = made(&path);
    for command in ["verify", "stats", "compact"] {
        let (code, _, error) = run(&[command, dir]);
        assert_eq!(code, Some(3), "in use: {error}");
        assert!(error.contains("in use"), "{error}");
    }
    db.close().expect("closed");
    drop(db);
    let (code, out, error) = run(&["verify", dir]);
    assert_eq!(code, Some(0), "{out}{error}");
    assert!(
        out.contains(": sound (") && out.contains("1 keyspaces") && error.is_empty(),
        "{out}{error}"
    );
    let (code, out, _) = run(&["verify", dir, "--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &told["sound"]), (Some(0), &true.into()));
    let (code, out, _) = run(&["stats", dir]);
    assert!(
        code == Some(0) && out.contains("keyspace people: ") && out.contains("records to replay"),
        "{out}"
    );
    let (code, out, error) = run(&["compact", dir]);
    assert_eq!(code, Some(0), "{out}{error}");
    let (code, out, _) = run(&["stats", dir, "--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &told["space-amplification-percent"]), (Some(0), &100.into()));
    assert_eq!(told["keyspaces"][0]["versions"], 2_001, "{out}");
    assert_eq!(told["keyspaces"][0]["name"], "people");

    let damaged = flip(&path);
    let (code, out, _) = run(&["verify", dir]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains(&damaged) && out.contains("offset"), "{out}");
    let (code, out, _) = run(&["verify", dir, "--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &told["sound"]), (Some(1), &false.into()));
    assert_eq!(run(&["verify", dir, "--quick"]).0, Some(0), "it does not look at blocks");
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("missing");
    for command in ["verify", "stats", "compact"] {
        let (code, _, error) = run(&[command, missing.to_str().expect("text")]);
        assert_eq!(code, Some(3), "{command}: {error}");
        assert!(!missing.exists(), "{command} made it");
        assert_eq!(run(&[command]).0, Some(2), "{command} without a directory");
    }
}

#[test]
fn what_is_sound_of_a_damaged_database_is_salvaged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data");
    let dir = path.to_str().expect("text");
    let out = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let db = made(&path);
    let (code, _, error) = run(&["salvage", dir, &out("one")]);
    assert_eq!(code, Some(3), "in use: {error}");
    db.close().expect("closed");
    drop(db);
    let (code, told, error) = run(&["salvage", dir, &out("one")]);
    assert_eq!(code, Some(0), "{told}{error}");
    assert!(told.contains("nothing was lost (2,001 keys in 1 keyspaces"), "{told}");
    let (code, _, error) = run(&["salvage", dir, &out("one")]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("is not empty"), "{error}");
    let file = flip(&path);
    let (code, told, error) = run(&["salvage", dir, &out("two"), "--format", "json"]);
    assert_eq!(code, Some(1), "{told}{error}");
    assert!(told.contains(&file) && told.contains("\"keyspace\":\"people\""), "{told}");
    let (code, told, error) = run(&["verify", &out("two")]);
    assert_eq!(code, Some(0), "{told}{error}");
    let db = Database::open(out("two")).expect("opens");
    let people = db.keyspace("people").expect("there");
    assert_eq!(people.get("last").expect("readable").as_deref(), Some(&b"in the log"[..]));
    let (code, _, _) = run(&["salvage", dir]);
    assert_eq!(code, Some(2));
}
