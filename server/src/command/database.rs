//! `isolith verify`, `compact` and `stats`: what is done to a database's directory while nobody serves it.

use super::check::Print;
use super::{Exit, Failure, Outcome};
use clap::Args;
use isolith::{Database, FileStats, OpenError, Verify, VerifyReport};
use isolith_testkit::history::Datum;
use isolith_testkit::picture::text::{counted, harmless};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to check.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Checks a database that nobody has open for writing: every block of every file, what the \
                  manifest says of each, the order within and between files, the names of keyspaces, and \
                  the log, record by record. Nothing is written.\n\n\
                  Each damage is named with its file and offset; what can still be looked at is. Files \
                  that are not live are listed: the next open removes them.",
    after_help = "Exit codes: 0 sound, 1 damaged, 2 wrong options, 3 cannot be looked at (in use, not a \
                  database, of a newer format).\n\
                  Try: isolith verify isolith-data"
)]
pub(crate) struct VerifyCommand {
    /// The database's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Leave out the data blocks: only the ends and indexes of files, and the log.
    #[arg(long)]
    quick: bool,
    /// How to print what was found; json is one object.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

/// What to compact.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Writes a database anew: all that the log and the files hold, to the lowest level. What \
                  was overwritten or deleted gives its space back. It takes room for the result beside \
                  what is there.",
    after_help = "Exit codes: 0 done, 2 wrong options, 3 could not run (in use, damaged, disk full).\n\
                  Try: isolith compact isolith-data"
)]
pub(crate) struct Compact {
    /// The database's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// What to tell of.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Tells what a database that nobody has open for writing holds: the files of each level, \
                  the keyspaces, and the log that an open would replay. Nothing is written. A server \
                  tells of its own by INFO.",
    after_help = "Exit codes: 0 told, 2 wrong options, 3 could not run (in use, damaged, not a database).\n\
                  Try: isolith stats isolith-data --format json"
)]
pub(crate) struct StatsCommand {
    /// The database's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// How to print it; json is one object.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

fn refused(error: &OpenError) -> Failure {
    Failure::could_not_run(harmless(&error.to_string()))
}

pub(super) fn failed(error: &isolith::Error) -> Failure {
    Failure::could_not_run(harmless(&error.to_string()))
}

/// How far something has come, in a line on standard error, if that is a terminal.
pub(crate) struct Bar {
    what: &'static str,
    on_terminal: bool,
    shown: Option<Instant>,
}

impl Bar {
    /// Nothing is shown before the first step.
    pub(crate) fn new(what: &'static str) -> Bar {
        Bar { what, on_terminal: std::io::stderr().is_terminal(), shown: None }
    }

    /// Shows the bar, some times a second.
    pub(crate) fn step(&mut self, done: u64, total: u64) {
        let recent = self.shown.is_some_and(|at| at.elapsed() < Duration::from_millis(100));
        if !self.on_terminal || recent && done < total {
            return;
        }
        self.shown = Some(Instant::now());
        let done = done.min(total);
        let parts =
            if total == 0 { 30 } else { (30 * u128::from(done) / u128::from(total)) as usize };
        let (full, rest) = ("#".repeat(parts), ".".repeat(30 - parts));
        // Whoever cannot be shown it goes without.
        let _ = write!(
            std::io::stderr(),
            "\r{} [{full}{rest}] {} of {}\x1b[K",
            self.what,
            bytes(done),
            bytes(total)
        );
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Bytes for people.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = "bytes";
    for next in units {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{value:.1} {unit}") }
}

pub(crate) fn text(text: &str) -> Datum {
    Datum::Text(text.to_owned())
}

pub(crate) fn count(count: u64) -> Datum {
    Datum::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

pub(crate) fn field(name: &str, value: Datum) -> (Datum, Datum) {
    (text(name), value)
}

pub(crate) fn json(fields: Vec<(Datum, Datum)>) -> String {
    let mut json = String::new();
    Datum::Map(fields).write_json(&mut json);
    json.push('\n');
    json
}

/// Checks a database.
pub(crate) fn verify(options: &VerifyCommand) -> Outcome {
    let how = if options.quick { Verify::Quick } else { Verify::Full };
    let mut bar = Bar::new("verifying");
    let report = isolith::verify(&options.dir, how, &mut |done, total| bar.step(done, total));
    drop(bar);
    let report = report.map_err(|error| refused(&error))?;
    let exit = if report.is_sound() { Exit::Fine } else { Exit::Found };
    let text = match options.format {
        Print::Text => verdict(&options.dir.display().to_string(), &report),
        Print::Json => verdict_json(&report),
    };
    Ok(exit.after(super::print(&text)))
}

fn verdict(dir: &str, report: &VerifyReport) -> String {
    let mut out = String::new();
    let verdict = if report.is_sound() { "sound" } else { "damaged" };
    let _ = writeln!(
        out,
        "{}: {verdict} ({} files, {}{}, {} versions, {} keyspaces; {} records in the log, up to {})",
        harmless(dir),
        counted(report.files),
        bytes(report.bytes),
        in_value_files(report.value_files, report.value_bytes),
        counted(report.versions),
        counted(report.keyspaces),
        counted(report.records),
        report.last,
    );
    for damage in &report.damage {
        let _ = writeln!(out, "  damaged: {}", harmless(&damage.to_string()));
    }
    if let Some(tail) = &report.torn_tail {
        let file = harmless(&tail.file);
        let _ = writeln!(out, "  {file}, offset {}: a torn tail, never confirmed", tail.offset);
    }
    for orphan in &report.orphans {
        let _ = writeln!(out, "  not live: {}", harmless(orphan));
    }
    out
}

/// What there is beside sorted files, if there is.
fn in_value_files(files: u64, size: u64) -> String {
    match files {
        0 => String::new(),
        files => format!(", {} value files, {}", counted(files), bytes(size)),
    }
}

fn verdict_json(report: &VerifyReport) -> String {
    let damage = report.damage.iter().map(|damage| {
        Datum::Map(vec![
            field("file", text(&damage.file)),
            field("offset", count(damage.offset)),
            field("what", text(&damage.what)),
        ])
    });
    let torn = report.torn_tail.as_ref().map_or(Datum::Nil, |tail| {
        Datum::Map(vec![
            field("file", text(&tail.file)),
            field("offset", count(tail.offset)),
            field("bytes", count(tail.bytes)),
        ])
    });
    json(vec![
        field("sound", Datum::Bool(report.is_sound())),
        field("files", count(report.files)),
        field("bytes", count(report.bytes)),
        field("value-files", count(report.value_files)),
        field("value-bytes", count(report.value_bytes)),
        field("versions", count(report.versions)),
        field("keyspaces", count(report.keyspaces)),
        field("records", count(report.records)),
        field("last", text(&report.last.to_string())),
        field("torn-tail", torn),
        field("orphans", Datum::Vector(report.orphans.iter().map(|name| text(name)).collect())),
        field("damage", Datum::Vector(damage.collect())),
    ])
}

/// Writes a database anew.
pub(crate) fn compact(options: &Compact) -> Outcome {
    // Opened for reading first: a directory that is no database does not become one.
    let files = |db: &Database| db.stats().files.unwrap_or_default();
    let read = Database::builder(&options.dir).read_only(true).open();
    let before = files(&read.map_err(|error| refused(&error))?);
    let db = Database::open(&options.dir).map_err(|error| refused(&error))?;
    db.compact().map_err(|error| failed(&error))?;
    let after = files(&db);
    db.close().map_err(|error| failed(&error))?;
    super::print(&format!(
        "{}: {} files, {}{}; before {} files, {}{}, and the log\n",
        harmless(&options.dir.display().to_string()),
        counted(after.files as u64),
        bytes(after.bytes),
        in_value_files(after.value_files as u64, after.value_bytes),
        counted(before.files as u64),
        bytes(before.bytes),
        in_value_files(before.value_files as u64, before.value_bytes),
    ))?;
    Ok(Exit::Fine)
}

/// Tells what a database holds.
pub(crate) fn stats(options: &StatsCommand) -> Outcome {
    let opened = Database::builder(&options.dir).read_only(true).open();
    let db = opened.map_err(|error| refused(&error))?;
    let text = match options.format {
        Print::Text => told(&options.dir.display().to_string(), &db),
        Print::Json => told_json(&db),
    };
    super::print(&text)?;
    Ok(Exit::Fine)
}

/// How many times what would do the files hold; `-` without files.
fn amplification(files: &FileStats) -> String {
    files.space_amplification().map_or("-".to_owned(), |times| format!("{times:.2}"))
}

fn told(dir: &str, db: &Database) -> String {
    let (stats, mut out) = (db.stats(), String::new());
    let files = stats.files.unwrap_or_default();
    let _ = writeln!(out, "{}: up to commit {}", harmless(dir), stats.visible);
    let _ = writeln!(
        out,
        "  files: {} with {}; space amplification about {}",
        counted(files.files as u64),
        bytes(files.bytes),
        amplification(&files)
    );
    if files.value_files > 0 {
        let _ = writeln!(
            out,
            "  value files: {} with {}, {} of it garbage",
            counted(files.value_files as u64),
            bytes(files.value_bytes),
            bytes(files.value_bytes.saturating_sub(files.value_bytes_live))
        );
    }
    for (level, (number, size)) in
        files.levels.iter().enumerate().filter(|(_, (files, _))| *files > 0)
    {
        let _ =
            writeln!(out, "    level {level}: {} with {}", counted(*number as u64), bytes(*size));
    }
    if let Some(log) = db.recovery() {
        let _ = writeln!(
            out,
            "  log: {} records to replay, {} in {} segments",
            counted(log.records),
            bytes(log.bytes),
            counted(log.segments)
        );
    }
    for keyspace in db.keyspace_stats() {
        let _ = writeln!(
            out,
            "  keyspace {}: {} files with {}{}, {} versions; {} of memory for what is in the log",
            harmless(&keyspace.name),
            counted(keyspace.files as u64),
            bytes(keyspace.bytes),
            in_value_files(keyspace.value_files as u64, keyspace.value_bytes),
            counted(keyspace.versions),
            bytes(keyspace.memory_bytes as u64)
        );
    }
    out
}

fn told_json(db: &Database) -> String {
    let stats = db.stats();
    let files = stats.files.unwrap_or_default();
    let pair = |(number, size): &(usize, u64)| {
        Datum::Map(vec![field("files", count(*number as u64)), field("bytes", count(*size))])
    };
    let keyspaces = db.keyspace_stats().into_iter().map(|keyspace| {
        Datum::Map(vec![
            field("name", text(&keyspace.name)),
            field("files", count(keyspace.files as u64)),
            field("bytes", count(keyspace.bytes)),
            field("value-files", count(keyspace.value_files as u64)),
            field("value-bytes", count(keyspace.value_bytes)),
            field("versions", count(keyspace.versions)),
            field("memory-bytes", count(keyspace.memory_bytes as u64)),
        ])
    });
    let percent = files.space_amplification().map(|times| (times * 100.0).round() as u64);
    let log = db.recovery();
    json(vec![
        field("last", text(&stats.visible.to_string())),
        field("files", count(files.files as u64)),
        field("bytes", count(files.bytes)),
        field("value-files", count(files.value_files as u64)),
        field("value-bytes", count(files.value_bytes)),
        field("value-bytes-live", count(files.value_bytes_live)),
        field("levels", Datum::Vector(files.levels.iter().map(pair).collect())),
        field("space-amplification-percent", percent.map_or(Datum::Nil, count)),
        field("log-records", count(log.map_or(0, |log| log.records))),
        field("log-bytes", count(log.map_or(0, |log| log.bytes))),
        field("log-segments", count(log.map_or(0, |log| log.segments))),
        field("keyspaces", Datum::Vector(keyspaces.collect())),
    ])
}
