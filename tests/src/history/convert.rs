//! Histories in any format: which one a file is in, reading it, writing it in another.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

use super::fault::{Fault, ReadError};
use super::jepsen::{self, Notation};
use super::{History, dbcop, edn, jsonl, plain};

/// How a history is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON, one operation a line, or an array of them.
    Jsonl,
    /// Jepsen's EDN.
    Edn,
    /// `r(key,value,session,transaction)`, one a line.
    Plain,
    /// dbcop's JSON: sessions of transactions of events.
    Dbcop,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::Jsonl, Format::Edn, Format::Plain, Format::Dbcop];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::Edn => "edn",
            Format::Plain => "plain",
            Format::Dbcop => "dbcop",
        }
    }

    /// The format of a name.
    pub fn parse(name: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.name() == name)
    }

    /// The format that a file's extension stands for. `.json` may be two of them.
    pub fn of_path(path: &Path) -> Option<Format> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "edn" => Some(Format::Edn),
            "txt" | "text" | "plain" => Some(Format::Plain),
            "dbcop" => Some(Format::Dbcop),
            _ => None,
        }
    }

    /// The format that a text begins as. JSON whose first bytes fit both of its formats is taken for
    /// operations.
    pub fn of_content(beginning: &[u8]) -> Format {
        let mut text = beginning.strip_prefix(b"\xef\xbb\xbf").unwrap_or(beginning).trim_ascii();
        while let Some(comment) = text.strip_prefix(b";") {
            let end = memchr::memchr(b'\n', comment).unwrap_or(comment.len());
            text = comment[end..].trim_ascii();
        }
        let bare: Vec<u8> =
            text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(64).collect();
        let begins = |with: &[u8]| bare.starts_with(with);
        if begins(b"r(") || begins(b"w(") {
            return Format::Plain;
        }
        if begins(b"[[")
            || ["params", "data", "info", "start", "end"]
                .iter()
                .any(|field| begins(format!("{{\"{field}\":").as_bytes()))
        {
            return Format::Dbcop;
        }
        if begins(b"{\"") || begins(b"[{\"") || begins(b"[]") {
            return Format::Jsonl;
        }
        Format::Edn
    }
}

/// Reads a history in this format, or in the one that it begins as.
pub fn read(mut reader: impl Read, format: Option<Format>) -> Result<History, ReadError> {
    /// Enough to see what a text is, beyond comments at its beginning.
    const BEGINNING_BYTES: u64 = 64 << 10;
    if let Some(format) = format {
        return read_as(reader, format);
    }
    let mut beginning = Vec::new();
    let read_in = reader.by_ref().take(BEGINNING_BYTES).read_to_end(&mut beginning);
    read_in.map_err(|error| ReadError::whole(Fault::Io(error)))?;
    let format = Format::of_content(&beginning);
    read_as(beginning.chain(reader), format)
}

fn read_as(reader: impl Read, format: Format) -> Result<History, ReadError> {
    match format {
        Format::Jsonl => jsonl::read(reader),
        Format::Edn => edn::read(reader),
        Format::Plain => plain::read(reader),
        Format::Dbcop => dbcop::read(reader),
    }
}

/// A history that could not be written.
#[derive(Debug)]
pub enum WriteError {
    /// Writing failed.
    Io(io::Error),
    /// The format cannot say this.
    Unsayable {
        /// What.
        what: String,
        /// The line of the source that it came from; 0 if none.
        line: u32,
    },
    /// Two names that would be written in the same way.
    SameName(String, String),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> WriteError {
        WriteError::Io(error)
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteError::Io(error) => write!(f, "cannot be written: {error}"),
            WriteError::Unsayable { what, line: 0 } => write!(f, "the format has no {what}"),
            WriteError::Unsayable { what, line } => {
                write!(f, "line {line}: the format cannot say {what}")
            }
            WriteError::SameName(one, other) => {
                write!(f, "{one} and {other} would be written in the same way")
            }
        }
    }
}

impl std::error::Error for WriteError {}

/// A history that is written part by part, as its parts come to an end.
#[derive(Debug)]
pub struct Parts<W> {
    to: W,
    notation: Notation,
    next: usize,
}

impl<W: Write> Parts<W> {
    /// Parts in a format that has an event a line; `None` for the others.
    pub fn new(format: Format, to: W) -> Option<Parts<W>> {
        let notation = match format {
            Format::Jsonl => Notation::Json,
            Format::Edn => Notation::Edn,
            Format::Plain | Format::Dbcop => return None,
        };
        Some(Parts { to, notation, next: 0 })
    }

    /// Writes the next part, all of whose transactions come after those of the parts before.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&mut self, history: &History) -> Result<(), WriteError> {
        self.next = jepsen::write(history, self.notation, self.next, &mut self.to)?;
        Ok(())
    }

    /// Writes what is still in buffers.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        Ok(self.to.flush()?)
    }
}

/// Writes a history in this format; says what the format could not keep.
pub fn write(history: &History, format: Format, to: impl Write) -> Result<Vec<String>, WriteError> {
    let mut to = io::BufWriter::new(to);
    let remarks = match format {
        Format::Jsonl => jepsen::write(history, Notation::Json, 0, &mut to).map(|_| Vec::new()),
        Format::Edn => jepsen::write(history, Notation::Edn, 0, &mut to).map(|_| Vec::new()),
        Format::Plain => plain::write(history, &mut to),
        Format::Dbcop => dbcop::write(history, &mut to),
    }?;
    to.flush()?;
    Ok(remarks)
}
