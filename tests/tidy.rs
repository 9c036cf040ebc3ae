//! The house rules that a machine can check: imports point one way, every file says what it is for,
//! files and clocks are reached through their seams, the format and its description agree, documents
//! are linked, and nothing names a path of somebody's machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What each crate may use of the others. Tests and benches may use any.
const MAY_USE: [(&str, &[&str]); 5] = [
    ("wal", &[]),
    ("index", &["isolith_wal"]),
    ("txn", &["isolith_wal", "isolith_index"]),
    ("engine", &["isolith_wal", "isolith_index", "isolith_txn"]),
    // The laboratory judges histories and tries isolation levels: `isolith check`, `isolith anomalies`.
    ("server", &["isolith", "isolith_testkit"]),
];

/// Where files and clocks may be touched: the seams, and code that is not part of the product.
const SEAMS: [&str; 10] = [
    "wal/src/storage",
    "wal/src/environment",
    "wal/examples",
    "engine/examples",
    "benches",
    "tests",
    // The command's own files (a configuration, a generated document), not the database's.
    "server/src/main.rs",
    "server/src/commands/reference.rs",
    // The configuration, the users, the certificates.
    "server/src/files.rs",
    // The histories, scenarios and reports of the subcommands.
    "server/src/command/",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[expect(clippy::disallowed_methods, reason = "this test reads the source tree itself")]
fn text(path: &str) -> String {
    let bytes = std::fs::read(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every file of the project below `directory`, relative to its root, sorted.
fn files(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    for entry in entries.map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        let hidden = name.starts_with('.') && name != ".ci";
        let built = ["target", "isolith-data", "__pycache__"].contains(&name.as_str());
        match entry.file_type().unwrap() {
            kind if hidden || built || kind.is_symlink() => {}
            kind if kind.is_dir() => found.extend(files(&path)),
            _ => found.push(path),
        }
    }
    found.sort();
    found
}

fn sources(directory: &str) -> Vec<String> {
    files(directory).into_iter().filter(|path| path.ends_with(".rs")).collect()
}

/// The lines of a source that are not comments, up to its unit tests.
fn code(path: &str) -> Vec<(usize, String)> {
    text(path)
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.to_owned()))
        .take_while(|(_, line)| !line.starts_with("mod tests {"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect()
}

#[test]
fn imports_point_one_way() {
    let crates = ["isolith_wal", "isolith_index", "isolith_txn", "isolith_server", "isolith_bench"];
    for (directory, allowed) in MAY_USE {
        for path in sources(&format!("{directory}/src")) {
            for (number, line) in code(&path) {
                for used in crates {
                    let itself = used == format!("isolith_{directory}");
                    let uses = line.contains(&format!("{used}::"));
                    assert!(!uses || itself || allowed.contains(&used), "{path}:{number}: {line}");
                }
                let uses_engine = line.contains("isolith::") && !line.contains("_isolith::");
                let may = allowed.contains(&"isolith") || directory == "engine";
                assert!(!uses_engine || may, "{path}:{number}: {line}");
            }
        }
        // The same in the manifests, where a dependency alone would already be one.
        let manifest = text(&format!("{directory}/Cargo.toml"));
        let (before_tests, _) =
            manifest.split_once("[dev-dependencies]").unwrap_or((&manifest, ""));
        for line in before_tests.lines().filter(|line| line.starts_with("isolith")) {
            let name = line.split(['.', ' ', '=']).next().unwrap_or_default().replace('-', "_");
            assert!(allowed.contains(&name.as_str()), "{directory}/Cargo.toml: {line}");
        }
    }
}

#[test]
fn every_source_says_what_it_is_for() {
    let silent: Vec<String> =
        sources("").into_iter().filter(|path| !text(path).starts_with("//! ")).collect();
    assert!(silent.is_empty(), "no head comment: {silent:#?}");
}

#[test]
fn files_and_clocks_are_reached_through_their_seams() {
    for path in sources("") {
        let is_test = path.contains("/tests/") || path.ends_with("tests.rs");
        let is_seam = SEAMS.iter().any(|seam| path.starts_with(seam));
        // Tests by another name.
        let is_test = is_test || path.ends_with("hostile.rs") || path.ends_with("cost.rs");
        if is_test || is_seam {
            continue;
        }
        for (number, line) in code(&path) {
            for forbidden in ["std::fs", "SystemTime", "std::os::unix::fs", "rand::"] {
                // Not where it only ends a longer name.
                let names = line.match_indices(forbidden).any(|(at, _)| {
                    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                });
                assert!(!names, "{path}:{number}: {line}");
            }
        }
    }
}

#[test]
fn the_format_and_its_description_agree() {
    let description = text("docs/format.md");
    let number = isolith_wal::FORMAT_NUMBER;
    assert!(description.contains(&format!("Format number {number}.")), "the format number");
    let block = isolith_wal::BLOCK_BYTES;
    assert!(description.contains(&format!("**block** of {block} bytes")), "the block");
    let source = text("wal/src/format.rs");
    let constant = |name: &str| -> u64 {
        let line = source.lines().find(|line| line.contains(&format!("const {name}:")));
        let line = line.unwrap_or_else(|| panic!("wal/src/format.rs has no constant {name}"));
        let value = line.split('=').nth(1).unwrap_or_default().trim().trim_end_matches(';');
        value.replace('_', "").parse().unwrap_or_else(|_| panic!("{name} = {value}"))
    };
    let header = constant("BATCH_HEADER_BYTES");
    assert!(description.contains(&format!("header, {header} bytes")), "a batch's header");
    let records = isolith_wal::RECORD_BYTES_MAX.to_string();
    let plain = description.replace(',', "");
    assert!(plain.contains(&records), "the longest record, {records} bytes");
}

#[test]
fn every_document_can_be_reached() {
    let roots = ["README.md", "ARCHITECTURE.md"].map(text).concat();
    for path in files("docs") {
        // A directory that is linked stands for what is in it.
        let directory = Path::new(&path).parent().map(|parent| format!("{}/", parent.display()));
        let linked = roots.contains(&path)
            || directory.is_some_and(|above| above != "docs/" && roots.contains(&above));
        assert!(linked, "{path} is linked neither from README.md nor from ARCHITECTURE.md");
    }
}

/// Links between the documents, and to files of the source, lead somewhere.
#[test]
fn links_lead_somewhere() {
    let documents = files("").into_iter().filter(|path| path.ends_with(".md"));
    let mut broken = BTreeMap::new();
    for path in documents {
        let directory = Path::new(&path).parent().unwrap_or(Path::new("")).to_owned();
        let text = text(&path);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets {
            let file = target.split('#').next().unwrap_or_default();
            let is_local = !file.is_empty() && !file.contains("://") && !file.contains(' ');
            if is_local && !root().join(&directory).join(file).exists() {
                broken.entry(path.clone()).or_insert_with(BTreeSet::new).insert(file.to_owned());
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

#[test]
fn nothing_names_a_path_of_a_machine() {
    // Put together, so that this file does not name them.
    let places = ["work", "root", "home"].map(|name| format!("/{name}/"));
    for path in files("") {
        if path == "Cargo.lock" {
            continue;
        }
        for (number, line) in text(&path).lines().enumerate() {
            for place in &places {
                let at = line.find(place);
                // `network/` and the like: only where a path begins.
                let begins = at.is_some_and(|at| {
                    let before = line[..at].chars().next_back();
                    before.is_none_or(|c| c.is_whitespace() || "\"'`(=:".contains(c))
                });
                assert!(!begins, "{path}:{}: {line}", number + 1);
            }
        }
    }
}
