//! `isolith history`: recorded histories from one format into another.

use super::{Exit, Failure, Outcome};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
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
    }
}

fn convert(options: &Convert) -> Outcome {
    let to = options.to.or_else(|| Format::of_path(&options.output)).ok_or_else(|| {
        let output = options.output.display();
        Failure::usage(format!("{output} does not tell its format: say --to"))
    })?;
    let input = options.input.display();
    let history = read(&options.input, options.from).map_err(|error| match error.is_io() {
        true => Failure::could_not_run(format!("{input}: {error}")),
        false => Failure::usage(format!("{input}: {error}")),
    })?;
    let output = options.output.display();
    let written = match is_standard(&options.output) {
        true => convert::write(&history, to, std::io::stdout().lock()),
        false => create(&options.output)
            .map_err(WriteError::Io)
            .and_then(|file| convert::write(&history, to, file)),
    };
    let remarks = written.map_err(|error| match error {
        WriteError::Io(_) => Failure::could_not_run(format!("{output}: {error}")),
        _ => Failure::usage(format!("{input}: {error}")),
    })?;
    for remark in remarks {
        eprintln!("isolith: {output}: {remark}");
    }
    Ok(Exit::Fine)
}

/// Reads a history from a file or from standard input.
pub(super) fn read(path: &Path, format: Option<Format>) -> Result<history::History, ReadError> {
    if is_standard(path) {
        return convert::read(std::io::stdin().lock(), format);
    }
    let file = open(path).map_err(|error| ReadError::whole(Fault::Io(error)))?;
    convert::read(file, format)
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
