//! Histories of others, with the verdicts that others published; and a few of our own.
//!
//! `ISOLITH_HISTORIES` names a folder of recorded histories (Elle's own tests, Jepsen's simulator,
//! elle-cli, Knossos) with a `MANIFEST.tsv`: file, format, source, origin, verdict. They are other
//! people's data and not part of this project; without the variable the test says that it skips.
//! The checker must agree with every verdict that falls in its levels; the others are listed in
//! [`ABOUT_SOMETHING_ELSE`], each with the reason.

use std::path::{Path, PathBuf};

use isolith_testkit::checker::{self, Inference, Question, Report, Verdict, Workload};
use isolith_testkit::history::convert;
use isolith_testkit::history::{Base, History, Level, Order, ReadError};

/// What somebody else said about a history.
#[derive(Debug)]
struct Published {
    question: Question,
    /// True: it holds; false: it is violated; none: not known.
    holds: Option<bool>,
    /// Some of these must be found, by name; nothing: any will do.
    anomalies: Vec<String>,
    /// Only anomalies whose names begin so were asked for; nothing: what the level forbids.
    only: &'static [&'static str],
}

/// Histories whose published verdict is not about what this checker judges, and why.
const ABOUT_SOMETHING_ELSE: &[(&str, &str)] = &[
    (
        "elle-cli/custom/comments.edn",
        "nobody published a verdict; two operations are open at once and no process is named, so \
         completions cannot be told apart",
    ),
    (
        "elle-cli/jepsen/counter.edn",
        "nothing is ever read in it: elle-cli calls that valid, this checker undecided",
    ),
    (
        "elle-cli/jepsen/counter.json",
        "nothing is ever read in it: elle-cli calls that valid, this checker undecided",
    ),
    (
        "elle-tests/rw-register-043.edn",
        "process 0 begins an operation while it has one open, which this reader refuses as a \
         contradiction and Elle's tests do not mind",
    ),
    (
        "elle-tests/rw-register-030.edn",
        "the verdict follows from an order of transactions that the test gives besides the history",
    ),
    (
        "elle-tests/rw-register-032.edn",
        "the verdict follows from an order of transactions that the test gives besides the history",
    ),
];

#[expect(clippy::disallowed_methods, reason = "the histories lie outside of the project")]
fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn read(path: &Path) -> Result<History, ReadError> {
    convert::read(bytes(path).as_slice(), None)
}

/// A published history. One is about registers that begin with 0, and says so in a comment only.
fn read_published(folder: &Path, file: &str) -> Result<History, ReadError> {
    let path = folder.join(file);
    if file != "knossos/good/multi-register.edn" {
        return read(&path);
    }
    let text = String::from_utf8(bytes(&path)).expect("text");
    let line =
        |kind: &str| format!("{{:type :{kind}, :process 99, :f :init, :value {{:x 0, :y 0}}}}");
    let begun = format!("[{} {}", line("invoke"), line("ok"));
    convert::read(text.replacen('[', &begun, 1).as_bytes(), None)
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("ISOLITH_HISTORIES").map(PathBuf::from)
}

/// File and verdict of each line of the manifest.
fn manifest(folder: &Path) -> Vec<(String, String)> {
    let text = String::from_utf8(bytes(&folder.join("MANIFEST.tsv"))).expect("text");
    let lines = text.lines().skip(1);
    lines
        .filter_map(|line| {
            let mut fields = line.split('\t');
            Some((fields.next()?.to_owned(), fields.next_back()?.to_owned()))
        })
        .collect()
}

/// Our own: file, level, what is found ("holds", "undecided", or an anomaly).
const OWN: &[(&str, &str, &str)] = &[
    ("write-skew.jsonl", "snapshot", "holds"),
    ("write-skew.jsonl", "serializable", "G2-item"),
    ("write-skew.jsonl", "repeatable-read", "G2-item"),
    ("lost-update.edn", "read-committed", "holds"),
    ("lost-update.edn", "snapshot", "lost-update"),
    ("aborted-read.json", "read-uncommitted", "undecided"),
    ("aborted-read.json", "read-committed", "G1a"),
    ("stale-read.jsonl", "serializable", "holds"),
    ("stale-read.jsonl", "strong-session-serializable", "holds"),
    ("stale-read.jsonl", "strict-serializable", "G-single-item-realtime"),
    ("crashed-writer.edn", "strict-serializable", "holds"),
    ("registers.txt", "strict-serializable", "holds"),
    ("fractured-read.txt", "read-committed", "holds"),
    ("fractured-read.txt", "read-atomic", "G-single-item"),
    ("registers.dbcop", "strict-serializable", "holds"),
    ("phantom.edn", "snapshot", "holds"),
    ("phantom.edn", "serializable", "G2"),
    ("torn-transfer.jsonl", "serializable", "wrong-total"),
];

#[test]
fn our_own_histories_are_what_they_were_written_to_be() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/histories");
    let mut wrong = Vec::new();
    for (file, level, expected) in OWN {
        let history = read(&folder.join(file)).unwrap_or_else(|why| panic!("{file}: {why}"));
        let workload = Workload::of(&history).unwrap_or_else(|| panic!("{file}: no workload"));
        let level = Level::parse(level).expect("a level");
        let report = checker::judge(&history, &Question::new(workload, level));
        let names = report.names();
        let is_right = match (&report.verdict, *expected) {
            (Verdict::Holds, expected) => expected == "holds",
            (Verdict::Undecided(_), expected) => expected == "undecided",
            (Verdict::Violated, expected) => names.iter().any(|name| name == expected),
        };
        if !is_right {
            let verdict = report.verdict;
            wrong.push(format!("{file} at {level}: {verdict:?} {names:?}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Each transaction at its own level.
    let history = read(&folder.join("mixed-levels.jsonl")).expect("a history");
    let mut question = Question::new(Workload::Append, Level::STRICT_SERIALIZABLE);
    assert_eq!(checker::judge(&history, &question).verdict, Verdict::Violated);
    question.own_levels = true;
    assert_eq!(checker::judge(&history, &question).verdict, Verdict::Holds);
    let why = read(&folder.join("half-a-line.jsonl")).expect_err("half a line");
    assert_eq!(why.to_string(), "line 2 (byte 125): it ends in the middle of an operation");
}

#[test]
fn published_verdicts_are_agreed_with() {
    let Some(folder) = folder() else {
        println!("SKIPPED: ISOLITH_HISTORIES does not name a folder of published histories");
        return;
    };
    let manifest = manifest(&folder);
    assert!(manifest.len() > 100, "the manifest lists {} histories", manifest.len());
    let (mut judged, mut questions, mut differ) = (0, 0, Vec::new());
    for (file, said) in &manifest {
        if let Some((_, why)) = ABOUT_SOMETHING_ELSE.iter().find(|(other, _)| other == file) {
            println!("{file}: {why}");
            // Whatever it is about, it is read or refused like any other.
            let _ = read_published(&folder, file);
            continue;
        }
        let history = read_published(&folder, file).unwrap_or_else(|why| panic!("{file}: {why}"));
        let published = published(file, said, &history);
        assert!(!published.is_empty(), "{file}: what does this verdict mean? {said}");
        judged += 1;
        for published in published {
            questions += 1;
            let report = checker::judge(&history, &published.question);
            if let Err(what) = agrees(&published, &report) {
                differ.push(format!("{file} at {}: {what}; {said}", published.question.level));
            }
        }
    }
    println!("{judged} histories, {questions} verdicts, {} apart", ABOUT_SOMETHING_ELSE.len());
    assert!(differ.is_empty(), "{} disagreements:\n{}", differ.len(), differ.join("\n"));
}

fn agrees(published: &Published, report: &Report) -> Result<(), String> {
    let mut names = report.names();
    if !published.only.is_empty() {
        names.retain(|name| published.only.iter().any(|only| name.starts_with(only)));
    }
    let holds = match &report.verdict {
        Verdict::Holds => Some(true),
        Verdict::Violated => Some(names.is_empty()),
        Verdict::Undecided(_) => None,
    };
    if holds != published.holds {
        return Err(format!(
            "published {:?}, found {:?} {names:?}",
            published.holds, report.verdict
        ));
    }
    let known = |name: &String| names.iter().any(|found| found == name || alike(found, name));
    if published.anomalies.is_empty() || published.anomalies.iter().any(known) {
        Ok(())
    } else {
        Err(format!("published {:?}, found {names:?}", published.anomalies))
    }
}

/// Whether both names are of the same kind of cycle; which of several shortest ones is shown, and
/// whether its edges are of items only, is chance.
fn alike(one: &str, other: &str) -> bool {
    let bare = |name: &str| name.trim_end_matches("-item").to_owned();
    bare(one) == bare(other)
}

/// What the manifest says of a file, as questions with their answers.
fn published(file: &str, said: &str, history: &History) -> Vec<Published> {
    let workload = match file {
        _ if file.contains("long-fork") => Workload::LongFork,
        _ if file.contains("set_full") => Workload::SetFull,
        _ if file.contains("/set.") => Workload::Set,
        _ => Workload::of(history).unwrap_or_else(|| panic!("{file}: of which workload?")),
    };
    match file.split('/').next() {
        Some("elle-tests") => vec![of_elles_tests(said, workload)],
        Some("jepsen-sim") => of_simulation(said, workload),
        Some("knossos") => {
            let holds = !said.starts_with("NOT");
            vec![plain(workload, Level::STRICT_SERIALIZABLE, Some(holds), &[])]
        }
        _ => of_others(file, workload),
    }
}

fn plain(workload: Workload, level: Level, holds: Option<bool>, anomalies: &[&str]) -> Published {
    let anomalies = anomalies.iter().map(|name| (*name).to_owned()).collect();
    Published { question: Question::new(workload, level), holds, anomalies, only: &[] }
}

/// `{:consistency-models [:serializable], :wfr-keys? true}: valid?=false [:G1c] not=#{…}`
fn of_elles_tests(said: &str, workload: Workload) -> Published {
    let (options, verdict) = said.split_once("}: valid?=").expect("options and a verdict");
    let models = between(options, ":consistency-models [", "]");
    let anomalies = between(options, ":anomalies [", "]");
    let (_, broken) = verdict.split_once("not=").expect("what it is not");
    let (level, only): (_, &[&str]) = match (models, anomalies) {
        // Of several models the one that it is not.
        (Some(models), _) => {
            let (not, may): (Vec<&str>, Vec<&str>) =
                models.split_whitespace().partition(|model| broken.contains(model));
            let level = not.into_iter().chain(may).find_map(Level::parse);
            (level.expect("a known model"), &[])
        }
        (None, Some(":G0")) => (Level::new(Base::ReadUncommitted, Order::Any), &["G0"]),
        (None, Some(":G1")) => (Level::READ_COMMITTED, &["G1"]),
        (None, Some(":internal")) => (Level::new(Base::ReadAtomic, Order::Any), &["internal"]),
        (None, Some(_)) => (Level::SERIALIZABLE, &["G2", "G-single", "G-nonadjacent"]),
        (None, None) => (Level::STRICT_SERIALIZABLE, &[]),
    };
    let granted = |name: &str| options.contains(&format!("{name}? true"));
    let inference = Inference {
        writes_follow_reads: granted(":wfr-keys"),
        sequential_keys: granted(":sequential-keys"),
        linearizable_keys: granted(":linearizable-keys"),
    };
    let (holds, rest) = verdict.split_once(' ').expect("a verdict and anomalies");
    let holds = match holds {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    let anomalies = names(between(rest, "[", "]").unwrap_or_default());
    Published {
        question: Question { inference, ..Question::new(workload, level) },
        holds,
        anomalies,
        only,
    }
}

/// `… = [false [:G0]] [true []] …`, at four levels.
fn of_simulation(said: &str, workload: Workload) -> Vec<Published> {
    let levels =
        [Level::READ_COMMITTED, Level::SNAPSHOT, Level::SERIALIZABLE, Level::STRICT_SERIALIZABLE];
    let (_, verdicts) = said.split_once(" = ").expect("four verdicts");
    let verdicts: Vec<&str> = verdicts.split("]]").filter(|text| !text.trim().is_empty()).collect();
    assert_eq!(verdicts.len(), levels.len(), "{said}");
    let pairs = levels.into_iter().zip(verdicts);
    pairs
        .map(|(level, verdict)| {
            let holds = Some(verdict.contains("true"));
            let anomalies = names(verdict.rsplit('[').next().unwrap_or_default());
            Published { question: Question::new(workload, level), holds, anomalies, only: &[] }
        })
        .collect()
}

/// Names of anomalies; some of Elle's are remarks.
fn names(text: &str) -> Vec<String> {
    let names = text.split_whitespace().map(|name| name.trim_start_matches(':').to_owned());
    names.filter(|name| name != "empty-transaction-graph").collect()
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(inside, _)| inside)
}

/// Verdicts in prose, put down here.
fn of_others(file: &str, workload: Workload) -> Vec<Published> {
    let strict = Level::STRICT_SERIALIZABLE;
    let (snapshot, serializable) = (Level::SNAPSHOT, Level::SERIALIZABLE);
    let holds = |level| plain(workload, level, Some(true), &[]);
    let violated = |level, names| plain(workload, level, Some(false), names);
    match file {
        "elle/paper-example.edn"
        | "elle-cli/elle/paper-example.edn"
        | "elle-cli/elle/paper-example.json" => vec![
            violated(snapshot, &["G-single"]),
            violated(serializable, &["G-single"]),
            violated(strict, &["G-single"]),
        ],
        "elle/si-without-g-single.edn" => vec![
            holds(snapshot),
            violated(serializable, &["G2-item"]),
            violated(strict, &["G-single-item-realtime"]),
        ],
        "elle/huge-scc.edn" => vec![
            holds(serializable),
            violated(strict, &["G2-item-realtime", "G-single-item-realtime"]),
            violated(Level::new(Base::Snapshot, Order::RealTime), &["G-single-item-realtime"]),
        ],
        "elle-cli/elle/list-append-gh-30.edn" => {
            vec![holds(snapshot), violated(serializable, &["G2-item"])]
        }
        "elle-cli/elle/rw-register.edn" | "elle-cli/elle/rw-register.json" => {
            let mut linearizable = violated(strict, &["cyclic-versions"]);
            linearizable.question.inference.linearizable_keys = true;
            vec![holds(strict), linearizable]
        }
        "elle-cli/jepsen/bank-tidb.edn" | "elle-cli/jepsen/bank-negative-balances.json" => {
            vec![violated(strict, &[])]
        }
        "elle-cli/jepsen/set_full.edn"
        | "elle-cli/jepsen/set_full.json"
        | "elle-cli/jepsen/long-fork.edn" => vec![violated(strict, &[])],
        _ => vec![holds(strict)],
    }
}
