//! `isolith history`: recorded histories from one format into another, and simulated ones.

use super::progress::{Counted, Shown};
use super::{Exit, Failure, Outcome};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use isolith_testkit::checker::simulated::{Shape, Simulation};
use isolith_testkit::history::Base;
use isolith_testkit::history::convert::{self, Format, WriteError};
use isolith_testkit::history::{self, Fault, ReadError};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What to do with recorded histories.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum History {
    /// Reads a history in one format and writes it in another.
    Convert(Convert),
    /// Writes a history of a store that exists only here and keeps its level.
    Generate(Generate),
}

/// What kind of history, and how long.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Writes a history of a store that exists only here and keeps its level: something \
                  to try a checker with, or to measure one.\n\n\
                  The same options write the same history.",
    after_help = "Exit codes: 0 written, 2 wrong options, 3 cannot be written.\n\
                  Try: isolith history generate big.jsonl --transactions 1000000"
)]
pub(crate) struct Generate {
    /// Where to write it; `-` is standard output.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// How many transactions.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    transactions: u32,
    /// What they do: appends to lists, reads and writes of registers, or these with deletions and
    /// reads by predicates.
    #[arg(long, default_value = "list-append", value_parser = ["list-append", "rw-register", "closed-predicate"])]
    workload: String,
    /// The level that the store keeps.
    #[arg(long, default_value = "serializable", value_parser = ["read-committed", "snapshot", "serializable"])]
    level: String,
    /// How many sessions take turns.
    #[arg(long, value_name = "N", default_value_t = 20)]
    sessions: u16,
    /// How many keys are in use at a time.
    #[arg(long, value_name = "N", default_value_t = 10)]
    keys: u16,
    /// After how many writes a key is retired for a new one.
    #[arg(long, value_name = "N", default_value_t = 32)]
    writes_per_key: u16,
    /// Which history.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The format that is written; what OUT ends with if not given.
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    to: Option<Format>,
}

/// From where to where.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Reads a history in one format and writes it in another.\n\n\
                  jsonl: JSON, one Jepsen operation a line (read also as one array). \
                  edn: Jepsen's own, for Elle and elle-cli. \
                  plain: r(key,value,session,transaction), for PolySI and IsoVista. \
                  dbcop: sessions of transactions, for dbcop.\n\n\
                  jsonl and edn keep everything. plain and dbcop have registers only, and no real \
                  time; what they cannot keep is said on standard error.",
    after_help = "Exit codes: 0 written, 2 the history is malformed, or the format cannot say it, \
                  3 cannot be read or written.\n\
                  Try: isolith history convert history.jsonl history.edn"
)]
pub(crate) struct Convert {
    /// The history; `-` is standard input.
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Where to write it; `-` is standard output.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// The format that is read; seen from its beginning if not given.
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    from: Option<Format>,
    /// The format that is written; what OUT ends with (.jsonl, .edn, .txt, .dbcop) if not given.
    #[arg(long, value_name = "FORMAT", value_parser = formats())]
    to: Option<Format>,
}

/// Formats by their names.
pub(super) fn formats() -> impl TypedValueParser<Value = Format> {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
        .try_map(|name| Format::parse(&name).ok_or("no format"))
}

/// Runs the subcommand.
pub(crate) fn run(command: &History) -> Outcome {
    match command {
        History::Convert(options) => convert(options),
        History::Generate(options) => generate(options),
    }
}

/// The format to write: what was said, or what the file's name ends with.
fn format_of(said: Option<Format>, output: &Path) -> Result<Format, Failure> {
    said.or_else(|| Format::of_path(output)).ok_or_else(|| {
        let output = output.display();
        Failure::usage(format!("{output} does not tell its format: say --to"))
    })
}

fn generate(options: &Generate) -> Outcome {
    let to = format_of(options.to, &options.output)?;
    let shape = match options.workload.as_str() {
        "rw-register" => Shape::Registers,
        "closed-predicate" => Shape::Items,
        _ => Shape::Lists,
    };
    let base = match options.level.as_str() {
        "read-committed" => Base::ReadCommitted,
        "snapshot" => Base::Snapshot,
        _ => Base::Serializable,
    };
    let simulation = Simulation {
        shape,
        base,
        transactions: options.transactions as usize,
        sessions: usize::from(options.sessions.max(1)),
        keys: usize::from(options.keys.max(1)),
        writes_per_key: usize::from(options.writes_per_key.max(1)),
        seed: options.seed,
        ..Simulation::default()
    };
    write(&simulation.run(), to, &options.output, "the history")
}

fn convert(options: &Convert) -> Outcome {
    let to = format_of(options.to, &options.output)?;
    let input = options.input.display();
    let mut shown = Shown::new();
    let history = read(&options.input, options.from, &mut shown);
    shown.clear();
    let history = history.map_err(|error| match error.is_io() {
        true => Failure::could_not_run(format!("{input}: {error}")),
        false => Failure::usage(format!("{input}: {error}")),
    })?;
    write(&history, to, &options.output, &input.to_string())
}

/// Writes a history, and says what the format cannot keep of it.
fn write(history: &history::History, to: Format, path: &Path, what: &str) -> Outcome {
    let output = path.display();
    let written = match is_standard(path) {
        true => convert::write(history, to, std::io::stdout().lock()),
        false => {
            create(path).map_err(WriteError::Io).and_then(|file| convert::write(history, to, file))
        }
    };
    let remarks = written.map_err(|error| match error {
        WriteError::Io(_) => Failure::could_not_run(format!("{output}: {error}")),
        _ => Failure::usage(format!("{what}: {error}")),
    })?;
    for remark in remarks {
        eprintln!("isolith: {output}: {remark}");
    }
    Ok(Exit::Fine)
}

/// Reads a history from a file or from standard input, and shows how far that is.
pub(super) fn read(
    path: &Path,
    format: Option<Format>,
    shown: &mut Shown,
) -> Result<history::History, ReadError> {
    let name = path.display().to_string();
    if is_standard(path) {
        let input = Counted::new(std::io::stdin().lock(), name, None, shown);
        return convert::read(input, format);
    }
    let file = open(path).map_err(|error| ReadError::whole(Fault::Io(error)))?;
    let bytes = file.metadata().ok().map(|about| about.len()).filter(|bytes| *bytes > 0);
    convert::read(Counted::new(file, name, bytes, shown), format)
}

/// Writes a page for a browser.
pub(super) fn write_page(path: &Path, html: &str) -> Result<(), Failure> {
    let written = create(path).and_then(|mut file| file.write_all(html.as_bytes()));
    written.map_err(|error| Failure::could_not_run(format!("{}: {error}", path.display())))
}

fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

#[expect(clippy::disallowed_methods, reason = "a history is a user's file, not the database's")]
fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

#[expect(clippy::disallowed_methods, reason = "a history is a user's file, not the database's")]
pub(super) fn create(path: &Path) -> std::io::Result<File> {
    File::create(path)
}
