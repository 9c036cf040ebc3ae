//! `isolith check` and `isolith history convert` as a shell sees them: output and exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/histories");
    folder.join(name).display().to_string()
}

fn run(arguments: &[&str], input: &[u8]) -> (Output, String, String) {
    let mut child = Command::new(BINARY)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    // It may have ended without reading: then it says why.
    let _ = child.stdin.take().expect("its input").write_all(input);
    let output = child.wait_with_output().expect("the command ends");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    (output, out, error)
}

fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let (output, out, error) = run(&[&["check"], arguments].concat(), b"");
    assert!(error.is_empty() || output.status.code() == Some(2), "{error}");
    (output.status.code(), out + &error)
}

#[test]
fn each_verdict_has_its_exit_code() {
    let file = fixture("write-skew.jsonl");
    let (code, text) = check(&[&file, "--level", "snapshot"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("holds at snapshot (list-append, 3 transactions, 8 operations)"));
    let (code, text) = check(&[&file, "--level", "serializable"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("G2-item") && text.contains("a contradiction."), "{text}");
    let (code, text) = check(&[&fixture("half-a-line.jsonl")]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("malformed: line 2 (byte 125): it ends in the middle"), "{text}");
    let (code, text) = check(&[&fixture("nobody-wrote-this.jsonl")]);
    assert_eq!(code, Some(3), "{text}");
    let (code, text) = check(&[&fixture("aborted-read.json"), "--level", "read-uncommitted"]);
    assert_eq!(code, Some(4), "{text}");
    for wrong in [&["--level", "total"][..], &["--workload", "chess"], &["--from", "xml"], &[]] {
        let file = if wrong.is_empty() { vec![] } else { vec![file.as_str()] };
        let (code, text) = check(&[file, wrong.to_vec()].concat());
        assert_eq!(code, Some(2), "{wrong:?} {text}");
    }
}

#[test]
fn of_several_files_the_worst_counts() {
    let level = ["--level", "serializable"];
    let (fine, skew) = (fixture("registers.txt"), fixture("write-skew.jsonl"));
    let (half, nowhere) = (fixture("half-a-line.jsonl"), fixture("nowhere"));
    for (files, expected) in [
        (&[&fine, &fine][..], 0),
        (&[&fine, &nowhere], 3),
        (&[&half, &nowhere], 2),
        (&[&half, &skew, &nowhere, &fine], 1),
    ] {
        let files: Vec<&str> = files.iter().map(|file| file.as_str()).collect();
        let (code, text) = check(&[&files[..], &level].concat());
        assert_eq!(code, Some(expected), "{text}");
        let verdicts = text.lines().filter(|line| line.starts_with(['/', '.'])).count();
        assert_eq!(verdicts, files.len(), "{text}");
    }
}

#[test]
fn programs_get_an_object_a_file() {
    let (skew, half) = (fixture("write-skew.jsonl"), fixture("half-a-line.jsonl"));
    let (code, text) =
        check(&[&skew, &half, "--format", "json", "--level", "repeatable-read", "--own-levels"]);
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    for part in ["\"verdict\":\"violated\"", "\"name\":\"G2-item\"", "\"kind\":\"rw\""] {
        assert!(lines[0].contains(part), "{text}");
    }
    for part in ["\"verdict\":\"malformed\"", "\"line\":2", "\"byte\":125"] {
        assert!(lines[1].contains(part), "{text}");
    }
}

#[test]
fn standard_input_is_a_file_like_any_other() {
    let history = b"w(1,1,0,1)\nr(1,1,1,2)\n";
    let (output, out, _) = run(&["check", "-", "--level", "snapshot"], history);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.starts_with("-: holds at snapshot (rw-register, 3 transactions"), "{out}");
    let (output, out, error) = run(&["history", "convert", "-", "-", "--to", "dbcop"], history);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(out.contains("{\"Write\":{\"variable\":1,\"version\":1}}"), "{out}");
}

#[test]
fn names_do_not_steer_the_terminal() {
    let history = "{:type :ok, :process 0, :value [[:r \"\u{1b}[2J\" [1]] [:append 1 1]]}";
    let (_, out, _) = run(&["check", "-", "--closed"], history.as_bytes());
    assert!(!out.contains('\u{1b}'), "{out:?}");
}

#[test]
fn what_is_converted_and_back_is_judged_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| -> PathBuf { folder.path().join(name) };
    let show = |path: &Path| path.display().to_string();
    let convert = |from: &str, to: &Path| {
        let (output, _, error) = run(&["history", "convert", from, &show(to)], b"");
        (output.status.code(), error)
    };
    let first = fixture("crashed-writer.edn");
    assert_eq!(convert(&first, &place("a.jsonl")), (Some(0), String::new()));
    assert_eq!(convert(&show(&place("a.jsonl")), &place("b.edn")), (Some(0), String::new()));
    let (code, text) = check(&[&first, &show(&place("a.jsonl")), &show(&place("b.edn"))]);
    assert_eq!(code, Some(0), "{text}");
    // Lists are nothing that registers can say; the format of a name that has none must be said.
    let (code, error) = convert(&first, &place("c.txt"));
    assert!(code == Some(2) && error.contains("no read or write of a register"), "{error}");
    let (code, error) = convert(&first, &place("c.json"));
    assert!(code == Some(2) && error.contains("say --to"), "{error}");
    let (code, error) = convert(&first, &place("no/such/folder.edn"));
    assert_eq!(code, Some(3), "{error}");
}
