//! Errors as a client sees them: a code in capitals that a program can act on, then what to do.
//!
//! | code | meaning | the client should |
//! |---|---|---|
//! | `ERR` | the command is wrong | not repeat it |
//! | `EXECABORT` | MULTI's queue had errors; nothing was done | mend the queue |
//! | `CONFLICT` | a BEGIN transaction met another; nothing was done | begin again |
//! | `DEADLOCK` | a transaction lost its locks, or was refused one; nothing was done | begin again |
//! | `LOCKTIMEOUT` | a lock was not to be had in time; the command did nothing | go on, or roll back |
//! | `TXTIMEOUT` | a transaction has lasted too long; nothing was done | begin again |
//! | `SNAPSHOTTOOOLD` | what the transaction reads is not kept any more | read anew, and be quicker |
//! | `ABORTED` | the open transaction is rolled back already | send ROLLBACK |
//! | `STALLED` | no room now (log, memory); nothing was done | try again later |
//! | `BUSY` | too many long commands are waiting; nothing was done | try again later |
//! | `READONLY` | no writes: read-only transaction, or the disk failed | read on, or look at the disk |
//! | `COMMITUNKNOWN` | the log failed after the commit was decided | read back after a restart |
//!
//! Errors of the engine carry what a program decides by, behind the code: `retry=now`, `retry=locks`
//! (again with CONCURRENCY LOCKING: it would only fail again without), `retry=after:10` (milliseconds),
//! `retry=never`; and, of a BEGIN transaction, `age=17` for `BEGIN … AGE 17`, so that the next try goes
//! before everybody who came later, and nobody starves.

use isolith::{Age, Error, Retry, StallReason};
use std::borrow::Cow;

/// Why a handler did not do what it was asked.
pub(crate) enum Failure {
    /// What the client did wrong, as the text of its error. A handler says it before it has written
    /// anything: what it read still counts as read.
    Text(Cow<'static, str>),
    /// What the client merges, or has merged, is nothing that fits the value: its own error, too, and
    /// said before anything is written.
    Unreadable(Error),
    /// What the engine could not do.
    Engine(Error),
    /// It is more than a core may do in one go: a helper is to run it from its beginning. Said before
    /// anything is written that a savepoint does not take back.
    Elsewhere,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::Merge { .. } | Error::UnknownOperator { .. } => Failure::Unreadable(error),
            error => Failure::Engine(error),
        }
    }
}

impl Failure {
    pub(crate) fn text(text: impl Into<Cow<'static, str>>) -> Failure {
        Failure::Text(text.into())
    }
}

pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";
pub(crate) const TOO_LARGE: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

/// A syntax error.
pub(crate) fn syntax() -> Failure {
    Failure::text(SYNTAX)
}

/// What is to be done about an error of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Run the whole transaction again.
    RunAgain,
    /// Wait for room in the log, then run it again.
    Wait,
    /// Tell the client; the transaction may go on.
    Tell,
    /// Tell the client; the transaction is over.
    GiveUp,
}

/// Judges an error.
pub(crate) fn remedy(error: &Error) -> Remedy {
    match error {
        Error::Conflict { .. }
        | Error::Wounded { .. }
        | Error::Deadlock { .. }
        | Error::LockRefused { .. } => Remedy::RunAgain,
        // Memory comes back when somebody deletes: that is for the clients to do.
        // What the client itself holds does not go by waiting.
        Error::Stalled {
            reason: StallReason::Memory { .. } | StallReason::Transactions { .. },
        } => Remedy::Tell,
        Error::Stalled { .. } => Remedy::Wait,
        Error::KeyTooLarge { .. }
        | Error::ValueTooLarge { .. }
        | Error::TransactionTooLarge { .. }
        | Error::ReadOnlyTransaction
        | Error::LockTimeout { .. } => Remedy::Tell,
        _ => Remedy::GiveUp,
    }
}

/// The text of an error reply; `age` is that of the client's transaction.
pub(crate) fn describe(error: &Error, age: Option<Age>) -> String {
    let code = match error {
        Error::Conflict { .. } => "CONFLICT",
        Error::Wounded { .. } | Error::Deadlock { .. } | Error::LockRefused { .. } => "DEADLOCK",
        Error::LockTimeout { .. } => "LOCKTIMEOUT",
        Error::TransactionTimeout => "TXTIMEOUT",
        Error::SnapshotTooOld { .. } => "SNAPSHOTTOOOLD",
        Error::Stalled { .. } => "STALLED",
        Error::CommitUnknown { .. } => "COMMITUNKNOWN",
        Error::ReadOnly { .. } | Error::ReadOnlyTransaction => "READONLY",
        _ => return format!("ERR {error}"),
    };
    format!("{code} {} {error}", hint(error, age))
}

/// What a program decides on its next try by: see the head of this file.
pub(crate) fn hint(error: &Error, age: Option<Age>) -> String {
    let hint = match error.retry() {
        Retry::Never => "retry=never".to_owned(),
        Retry::Now => return retry_now(age),
        Retry::WithLocks => "retry=locks".to_owned(),
        Retry::After(pause) => format!("retry=after:{}", pause.as_millis()),
    };
    hint + &aged(age)
}

/// The hint that nothing speaks against another try.
pub(crate) fn retry_now(age: Option<Age>) -> String {
    "retry=now".to_owned() + &aged(age)
}

fn aged(age: Option<Age>) -> String {
    age.map(|age| format!(" age={age}")).unwrap_or_default()
}
