//! `isolith dump` and `isolith load` as a shell sees them: output and exit codes.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use isolith::{Database, PutOptions};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn run(arguments: &[&str], input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut stdin = child.stdin.take().expect("its input");
    let input = input.to_vec();
    // It may have ended without reading: then it says why.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("the command ends");
    writer.join().expect("written");
    let error = String::from_utf8(output.stderr).expect("text");
    (output.status.code(), output.stdout, error)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_database_goes_through_a_dump_into_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let (from, to) = (show(&folder.path().join("from")), show(&folder.path().join("to")));
    let db = Database::open(&from).expect("opened");
    let (one, two) = (db.keyspace("one").expect("made"), db.keyspace("two").expect("made"));
    db.keyspace("empty").expect("made");
    for number in 0..2_000 {
        one.put(format!("k{number:04}"), format!("v{number}")).expect("put");
    }
    let options = PutOptions { expires_at: Some(9_000_000_000_000), ..PutOptions::default() };
    two.put_with([0xff, 0], "text \"and\" more\n", options).expect("put");
    drop((one, two));
    db.close().expect("closed");
    drop(db);
    for format in ["jsonl", "binary"] {
        let (code, dump, error) = run(&["dump", &from, "--format", format], b"");
        assert_eq!((code, &*error), (Some(0), ""));
        let to = format!("{to}-{format}");
        let (code, _, error) = run(&["load", &to], &dump);
        assert_eq!(code, Some(0), "{error}");
        assert!(error.contains("one: 2,000 pairs loaded"), "{error}");
        let (code, again, _) = run(&["dump", &to, "--format", format], b"");
        assert_eq!(code, Some(0));
        assert!(again == dump, "{format}");
    }
    let (code, part, _) = run(&["dump", &from, "--keyspace", "two"], b"");
    assert_eq!(code, Some(0));
    let part = String::from_utf8(part).expect("text");
    assert_eq!(
        part.lines().nth(1),
        Some(
            r#"{"expires_at":9000000000000,"key":{"base64":"/wA="},"keyspace":"two","value":"text \"and\" more\n"}"#
        )
    );
}

#[test]
fn what_is_malformed_is_named_and_nothing_of_it_is_loaded() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = show(folder.path());
    let (code, _, error) = run(&["load", &dir], br#"{"keyspace":"a","key":"k","value":"old"}"#);
    assert_eq!(code, Some(0), "{error}");
    let input = br#"{"keyspace":"a","key":"k","value":"new"}
{"keyspace":"b","key":"k","value":"new"}
{"keyspace":"a","key":"k","value":
"#;
    let (code, _, error) = run(&["load", &dir], input);
    assert_eq!(code, Some(2));
    assert!(error.contains("line 3: it is no JSON"), "{error}");
    assert!(error.contains("nothing was loaded"), "{error}");
    let (code, dump, _) = run(&["dump", &dir], b"");
    assert_eq!(code, Some(0));
    let dump = String::from_utf8(dump).expect("text");
    assert!(dump.contains("old") && !dump.contains("new") && !dump.contains("\"b\""), "{dump}");
    let nowhere = show(&folder.path().join("nowhere"));
    assert_eq!(run(&["dump", &nowhere], b"").0, Some(3));
    assert_eq!(run(&["dump", &dir, "--keyspace", "none"], b"").0, Some(3));
    assert_eq!(run(&["dump", &dir, "--format", "xml"], b"").0, Some(2));
}
