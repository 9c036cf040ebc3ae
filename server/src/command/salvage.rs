//! `isolith salvage`: takes what is sound out of a damaged database.

use super::check::Print;
use super::database::{Bar, count, failed, field, json, text};
use super::{Exit, Outcome};
use clap::Args;
use isolith::{Database, SalvageReport};
use isolith_testkit::history::Datum;
use isolith_testkit::picture::text::{counted, harmless};
use std::fmt::Write as _;
use std::path::PathBuf;

/// What to salvage.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Takes what is sound out of a damaged database that nobody has open for writing, and writes \
                  it to a new one. The damaged one is only read.\n\n\
                  A block that does not check is left out, and told with the keys between which it lay; a \
                  file without its index or its end is looked through block by block; without the manifest \
                  every file that is there is taken, by what it says of itself; of the log what comes before \
                  the first hole is taken, and nothing behind it. The newest sound version of each key \
                  counts: where something newer is lost, older values or deleted keys may be there again.",
    after_help = "Exit codes: 0 nothing was lost, 1 something was, 2 wrong options, 3 could not run (in \
                  use, not a database, OUT is not empty, disk full).\n\
                  Try: isolith salvage isolith-data isolith-salvaged"
)]
pub(crate) struct Salvage {
    /// The damaged database's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Where the new database is to be: an empty directory, or none.
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// How to print what was lost; json is one object.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

/// Salvages a database.
pub(crate) fn salvage(options: &Salvage) -> Outcome {
    let mut bar = Bar::new("reading");
    let into = Database::builder(&options.out);
    let report = isolith::salvage(&options.dir, into, &mut |done, total| bar.step(done, total));
    drop(bar);
    let report = report.map_err(|error| failed(&error))?;
    let exit = if report.is_complete() { Exit::Fine } else { Exit::Found };
    let text = match options.format {
        Print::Text => told(&options.dir.display().to_string(), &report),
        Print::Json => told_json(&report),
    };
    Ok(exit.after(super::print(&text)))
}

fn told(dir: &str, report: &SalvageReport) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{}: {} ({} keys in {} keyspaces, from {} files and {} records of the log, up to {})",
        harmless(dir),
        if report.is_complete() { "nothing was lost" } else { "something was lost" },
        counted(report.keys),
        counted(report.keyspaces.len() as u64),
        counted(report.files),
        counted(report.records),
        report.last,
    );
    for piece in &report.lost {
        let _ = writeln!(out, "  lost: {}", harmless(&piece.to_string()));
    }
    for damage in &report.damage {
        let _ = writeln!(out, "  damaged, at no cost: {}", harmless(&damage.to_string()));
    }
    for note in &report.notes {
        let _ = writeln!(out, "  {}", harmless(note));
    }
    for keyspace in &report.keyspaces {
        let made_up = if keyspace.made_up { " (its name was lost)" } else { "" };
        let _ = writeln!(
            out,
            "  keyspace '{}': {} keys{made_up}",
            harmless(&keyspace.name),
            counted(keyspace.keys)
        );
    }
    out
}

fn told_json(report: &SalvageReport) -> String {
    let maybe = |value: Option<String>| value.map_or(Datum::Nil, |value| text(&value));
    let lost = report.lost.iter().map(|piece| {
        Datum::Map(vec![
            field("file", text(&piece.file)),
            field("offset", count(piece.offset)),
            field("keyspace", maybe(piece.keyspace.clone())),
            field("keys", maybe(piece.keys.as_ref().map(ToString::to_string))),
            field("what", text(&piece.what)),
        ])
    });
    let damage = report.damage.iter().map(|damage| {
        Datum::Map(vec![
            field("file", text(&damage.file)),
            field("offset", count(damage.offset)),
            field("what", text(&damage.what)),
        ])
    });
    let keyspaces = report.keyspaces.iter().map(|keyspace| {
        Datum::Map(vec![
            field("name", text(&keyspace.name)),
            field("name-lost", Datum::Bool(keyspace.made_up)),
            field("keys", count(keyspace.keys)),
        ])
    });
    json(vec![
        field("complete", Datum::Bool(report.is_complete())),
        field("keys", count(report.keys)),
        field("files", count(report.files)),
        field("records", count(report.records)),
        field("last", text(&report.last.to_string())),
        field("keyspaces", Datum::Vector(keyspaces.collect())),
        field("lost", Datum::Vector(lost.collect())),
        field("damage", Datum::Vector(damage.collect())),
        field("notes", Datum::Vector(report.notes.iter().map(|note| text(note)).collect())),
    ])
}
