//! Why a history could not be read, and where.

use std::fmt;

/// Where in the source: for people, and for an editor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The line, from 1; 0 if the source as a whole is meant.
    pub line: u64,
    /// The offset in bytes from the source's beginning.
    pub offset: u64,
}

/// A history that could not be read.
#[derive(Debug)]
pub struct ReadError {
    /// Where.
    pub place: Location,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a history.
#[derive(Debug)]
pub enum Fault {
    /// The source itself failed.
    Io(std::io::Error),
    /// There is no operation in it.
    Empty,
    /// It is not UTF-8.
    NotUtf8,
    /// It is not what its format allows.
    Syntax(String),
    /// It ends in the middle of something.
    Truncated(&'static str),
    /// Brackets are nested deeper than this.
    TooDeep(usize),
    /// One operation is longer than this many bytes.
    TooLong(usize),
    /// There is more than can be counted.
    TooMany(&'static str),
    /// A field that is needed is not there.
    Missing(&'static str),
    /// A field or a part of it is not what it should be.
    Wrong {
        /// Which.
        what: &'static str,
        /// What is there.
        found: String,
        /// What may be there.
        expected: &'static str,
    },
    /// An operation of no workload that is judged.
    UnknownOperation(String),
    /// A process begins an operation while it has one open.
    StillOpen {
        /// Which; none if operations do not say.
        process: Option<u32>,
        /// The line of the open one.
        since: u64,
    },
    /// A completion of what never began, or is complete already.
    NotOpen {
        /// Of which process; none if operations do not say.
        process: Option<u32>,
        /// The line at which its last operation ended, if it had one.
        ended: Option<u64>,
    },
    /// A completion names another function than its invocation.
    OtherFunction {
        /// The invocation's.
        invoked: String,
        /// The completion's.
        completed: String,
        /// The line of the invocation.
        since: u64,
    },
    /// A completion tells other operations than its invocation.
    OtherOperations {
        /// The line of the invocation.
        since: u64,
    },
    /// An index that is not larger than the one before.
    Index {
        /// It.
        index: u64,
        /// The largest so far.
        before: u64,
        /// The line of that one.
        line: u64,
    },
    /// Some operations of a history name their process, others do not.
    SomeProcesses,
    /// A transaction of two sessions.
    TwoSessions {
        /// The transaction.
        transaction: u64,
        /// Its first session.
        first: u64,
        /// Its other session.
        second: u64,
    },
    /// Two names that are the same in the format that is written.
    SameName(String),
}

impl ReadError {
    /// An error of the source as a whole.
    pub fn whole(fault: Fault) -> ReadError {
        ReadError { place: Location::default(), fault }
    }

    /// Whether the source failed, instead of being malformed.
    pub fn is_io(&self) -> bool {
        matches!(self.fault, Fault::Io(_))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.line {
            0 => self.fault.fmt(f),
            line => write!(f, "line {line} (byte {}): {}", self.place.offset, self.fault),
        }
    }
}

impl std::error::Error for ReadError {}

impl Fault {
    /// Text that is not of the format.
    pub fn syntax(what: impl Into<String>) -> Fault {
        Fault::Syntax(what.into())
    }

    /// A part that is not what it should be. What was found is cut to a reasonable length.
    pub fn wrong(what: &'static str, found: impl fmt::Display, expected: &'static str) -> Fault {
        Fault::Wrong { what, found: shortened(&found.to_string()), expected }
    }

    /// This fault at a place.
    pub fn at(self, place: Location) -> ReadError {
        ReadError { place, fault: self }
    }
}

/// At most some dozens of characters of a text.
pub(crate) fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn of_process(f: &mut fmt::Formatter<'_>, process: Option<u32>) -> fmt::Result {
    match process {
        Some(process) => write!(f, "process {process}"),
        None => f.write_str("the only process (operations do not name theirs)"),
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io(error) => write!(f, "cannot be read: {error}"),
            Fault::Empty => f.write_str("there is no operation in it"),
            Fault::NotUtf8 => f.write_str("not UTF-8"),
            Fault::Syntax(what) => f.write_str(what),
            Fault::Truncated(what) => write!(f, "it ends in the middle of {what}"),
            Fault::TooDeep(most) => write!(f, "brackets are nested deeper than {most}"),
            Fault::TooLong(most) => write!(f, "an operation is longer than {most} bytes"),
            Fault::TooMany(what) => write!(f, "more {what} than can be counted"),
            Fault::Missing(field) => write!(f, "an operation without its {field}"),
            Fault::Wrong { what, found, expected } => {
                write!(f, "{what} is {found}, expected {expected}")
            }
            Fault::UnknownOperation(name) => {
                write!(f, "{name} is an operation of no workload that is judged")
            }
            Fault::StillOpen { process, since } => {
                of_process(f, *process)?;
                write!(f, " begins an operation while the one of line {since} is open")
            }
            Fault::NotOpen { process, ended } => {
                of_process(f, *process)?;
                f.write_str(" completes an operation that it has not begun")?;
                match ended {
                    Some(line) => write!(f, "; its last one was complete at line {line}"),
                    None => Ok(()),
                }
            }
            Fault::OtherFunction { invoked, completed, since } => {
                write!(f, "completes {completed}, but line {since} began {invoked}")
            }
            Fault::OtherOperations { since } => {
                write!(f, "other operations than those that line {since} began")
            }
            Fault::Index { index, before, line } if index == before => {
                write!(f, "index {index} is that of line {line}, too")
            }
            Fault::Index { index, before, line } => {
                write!(f, "index {index} after {before} (line {line}): indices must grow")
            }
            Fault::SomeProcesses => {
                f.write_str("some operations name their process, others do not")
            }
            Fault::TwoSessions { transaction, first, second } => {
                write!(f, "transaction {transaction} is of session {first}, and of {second}, too")
            }
            Fault::SameName(name) => write!(f, "two names would both be written as {name}"),
        }
    }
}
