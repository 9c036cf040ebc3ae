//! `isolith anomalies` as users have it: what it prints, what it ends with, and what it says to bad
//! input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use isolith_testkit::laboratory::catalogue;

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isolith"));
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.arg("anomalies").args(arguments).output().expect("the command runs")
}

/// What it printed, having ended so.
fn ends(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    if code == 2 || code == 3 { err.into_owned() } else { out.into_owned() }
}

fn file(folder: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path: PathBuf = folder.path().join(name);
    #[expect(clippy::disallowed_methods, reason = "a scenario for the command to read")]
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

#[expect(clippy::disallowed_methods, reason = "what the command wrote")]
fn read(path: &str) -> String {
    String::from_utf8(std::fs::read(path).unwrap()).unwrap()
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|why| panic!("{why}: {text}"))
}

#[test]
fn the_catalogue_is_told_whole() {
    let text = ends(0, &["list"]);
    let listed = json(&ends(0, &["list", "--format", "json"]));
    for (scenario, object) in catalogue::all().iter().zip(listed.as_array().unwrap()) {
        assert!(text.contains(&scenario.name), "{}", scenario.name);
        assert_eq!(object["name"], *scenario.name);
        assert_eq!(object["text"], scenario.to_string());
    }
    assert_eq!(ends(0, &["show", "p4"]), catalogue::find("p4").unwrap().to_string());
}

#[test]
fn the_matrix_counts() {
    let cells =
        ends(0, &["matrix", "g2-item", "p4", "--format", "json", "--concurrency", "optimistic"]);
    let matrix = json(&cells);
    assert_eq!(matrix["target"], "embedded");
    assert_eq!(matrix["remarks"], serde_json::json!([]));
    let counts: Vec<String> = matrix["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| {
            let at = format!("{} {}", cell["scenario"], cell["isolation"]).replace('"', "");
            format!("{at} {}/{} {}", cell["observed"], cell["runs"], cell["declared"])
        })
        .collect();
    let expected = [
        r#"g2-item read-committed 64/70 "allowed""#,
        r#"g2-item repeatable-read 0/70 "forbidden""#,
        r#"g2-item snapshot 68/70 "allowed""#,
        r#"g2-item serializable 0/70 "forbidden""#,
        r#"p4 read-committed 18/20 "allowed""#,
        r#"p4 repeatable-read 0/20 "forbidden""#,
        r#"p4 snapshot 0/20 "forbidden""#,
        r#"p4 serializable 0/20 "forbidden""#,
    ];
    assert_eq!(counts, expected);
    let text = ends(
        0,
        &["matrix", "g2-item", "--isolation", "serializable", "--concurrency", "locking,auto"],
    );
    assert!(text.contains("g2-item") && text.contains("auto (hot)"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
}

#[test]
fn an_anomaly_is_explained_as_text_page_and_test() {
    let folder = tempfile::tempdir().unwrap();
    let (page, test) = (file(&folder, "page.html", ""), file(&folder, "test.rs", ""));
    let snapshot =
        ["explain", "g2-item", "--isolation", "snapshot", "--html", &page, "--rust", &test];
    let text = ends(0, &snapshot);
    assert!(text.contains("write skew") && text.contains("contradiction"), "{text}");
    assert!(text.contains("happened in 68"), "{text}");
    assert!(read(&page).contains("<svg"));
    assert!(read(&test).contains("#[test]"));
    let prevented = ends(0, &["explain", "g2-item", "--concurrency", "locking:detect"]);
    assert!(prevented.contains("prevented"), "{prevented}");
    let replayed = ["replay", "p4", "--schedule", "1 2 1 2 1 2", "--isolation", "read-committed"];
    assert!(ends(0, &replayed).contains("lost update"));
    let json = json(&ends(0, &[&replayed[..], &["--format", "json"]].concat()));
    assert_eq!(json["schedule"], "1 2 1 2 1 2");
    assert_eq!(json["met"][0], "lost-update");
}

#[test]
fn an_invariant_of_ones_own_is_looked_after() {
    let folder = tempfile::tempdir().unwrap();
    let text = "setup: x = 1, y = 1, z = 1\nsession a\nget z\nget x\nget y\nput x = 0 if x + y == 2\n\
                session b\nget x\nget y\nput y = 0 if x + y == 2\ninvariant: x + y >= 1\n";
    let mine = file(&folder, "mine.txt", text);
    assert!(ends(0, &["explore", &mine]).contains("Wrong, by runs: none"));
    let broken = ends(1, &["explore", &mine, "--isolation", "snapshot"]);
    assert!(broken.contains("x + y >= 1"), "{broken}");
    let shrunk = ends(1, &["shrink", &mine, "--isolation", "snapshot"]);
    assert!(shrunk.contains("invariant: x + y >= 1") && !shrunk.contains("get z"), "{shrunk}");
    let again = file(&folder, "again.txt", &shrunk);
    ends(1, &["replay", &again, "--isolation", "snapshot"]);
    let reduced = ["explore", &mine, "--isolation", "snapshot", "--reduce", "--format", "json"];
    assert!(ends(1, &reduced).contains("\"complete\":true"));
    let random = ["explore", &mine, "--max", "9", "--seed", "5"];
    assert!(ends(0, &random).contains("--seed 5"));
}

#[test]
fn bad_input_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let bad = file(&folder, "bad.txt", "session a\n  put x = y + 1\n");
    let told = ends(2, &["explore", &bad]);
    assert!(told.contains("line 2, column 11") && told.contains("has not read 'y'"), "{told}");
    let binary = file(&folder, "binary.txt", b"name: x\n\xff\xfe");
    assert!(ends(2, &["explore", &binary]).contains("line 2"));
    let huge = file(&folder, "huge.txt", "#".repeat(1 << 20));
    assert!(ends(2, &["explore", &huge]).contains("at most"));
    assert!(
        ends(2, &["explore", &file(&folder, "empty.txt", "")]).contains("at least one session")
    );
    for arguments in [
        &["explore", "no-such-file"][..],
        &["show", "nothing"],
        &["matrix", "nothing"],
        &["matrix", "--isolation", "weird"],
        &["matrix", "--target", "ftp://there"],
        &["matrix", "--max", "0"],
        &["replay", "p4", "--schedule", "1 3"],
        &["replay", "p4", "--terms", "snapshot/optimistic"],
        &["replay", "p4", "--terms", "snapshot"],
    ] {
        assert!(!ends(2, arguments).is_empty());
    }
    // A folder, and a server that is not there.
    ends(3, &["explore", &folder.path().to_string_lossy()]);
    ends(3, &["matrix", "p4", "--target", "resp://127.0.0.1:1"]);
    ends(3, &["explain", "p4", "--html", "/nowhere/at/all.html"]);
}
