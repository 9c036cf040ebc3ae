//! The subcommands that do something else than serving, and how each of them ends.
//!
//! They are thin: arguments in, a report out. What is judged, and how, is the library's
//! (`isolith_testkit`). A new subcommand is a module here with its arguments (`clap::Args`) and a
//! `run` that answers an [`Outcome`]; `config.rs` lists it, `main.rs` calls it.

use std::io::Write;

pub(crate) mod anomalies;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod database;
pub(crate) mod dump;
pub(crate) mod history;
mod progress;
pub(crate) mod salvage;

/// How a command ended, as its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// As asked; the check found nothing.
    Fine,
    /// The check found something.
    Found,
    /// The command line is wrong, or what it was given to read is malformed.
    Usage,
    /// It could not run, or what it was to look at failed.
    CouldNotRun,
    /// It could not be decided: never to be taken for a pass.
    Undecided,
}

impl Exit {
    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Exit::Fine => 0,
            Exit::Found => 1,
            Exit::Usage => 2,
            Exit::CouldNotRun => 3,
            Exit::Undecided => 4,
        }
    }

    /// Of two exits the one that says more: a violation is certain, whatever else is wrong.
    pub(crate) fn or_worse(self, other: Exit) -> Exit {
        let weight = |exit: Exit| match exit {
            Exit::Fine => 0,
            Exit::Undecided => 1,
            Exit::CouldNotRun => 2,
            Exit::Usage => 3,
            Exit::Found => 4,
        };
        if weight(other) > weight(self) { other } else { self }
    }

    /// This exit after a last step that may have failed, which is told: what was found stays found.
    pub(crate) fn after(self, last: Result<(), Failure>) -> Exit {
        match last {
            Ok(()) => self,
            Err(failure) => {
                eprintln!("isolith: {}", failure.message);
                self.or_worse(failure.exit)
            }
        }
    }
}

/// Why a command did not do what it was asked to: told on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it ends with.
    pub(crate) exit: Exit,
    /// For people, without the program's name.
    pub(crate) message: String,
}

impl Failure {
    /// It was asked for what makes no sense, or given what is malformed.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into() }
    }

    /// It could not run.
    pub(crate) fn could_not_run(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::CouldNotRun, message: message.into() }
    }
}

/// What every command answers.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Prints; a reader that went away is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::could_not_run(format!("cannot print: {error}")))
        }
        _ => Ok(()),
    }
}
