//! The seam of the laboratory: whatever runs transactions, and can be asked how far each is.
//!
//! 1. One thread drives a target: it submits a step for one session, and gets an answer at once:
//!    done, blocked or aborted. A target that has to wait to learn which (a server) waits inside
//!    `submit`, with a limit of its own.
//! 2. While a session is blocked nothing is submitted for it; it is polled until its step is done or
//!    the transaction aborted. After `Aborted`, a commit or a rollback nothing is submitted for it.
//! 3. A run is from `start` to `finish`; whatever a run left behind does not show in the next.
//! 4. What goes wrong with the target itself is a [`Failure`], never an answer.
//!
//! Values are whole numbers, as [`Encoded`] by the laboratory: a target stores them as they are, as
//! decimal text, and adds to them where it is told to merge.

use std::collections::BTreeMap;
use std::fmt;

use isolith::{Concurrency, Isolation};

/// A value as it is stored: the number that the scenario means, and who wrote it
/// (the low bits). To a target it is only a number.
pub type Encoded = i64;

/// What is there. A key that is not in the keyspace that all targets have is spelled with its own before
/// it: `stock/apples`.
pub type Contents = BTreeMap<String, Encoded>;

/// The keyspace of a key, if it is not in the one that all targets have.
pub fn space_of(key: &str) -> Option<&str> {
    key.split_once('/').map(|(space, _)| space)
}

/// What a transaction is begun with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// What it is protected from.
    pub isolation: Isolation,
    /// How.
    pub concurrency: Concurrency,
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.isolation, self.concurrency)
    }
}

/// A range of keys of one keyspace, in the order of their bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first key.
    pub lower: String,
    /// The last key, or the first beyond.
    pub upper: String,
    /// Whether `upper` belongs to it.
    pub inclusive: bool,
}

impl Span {
    /// All keys of a keyspace.
    pub fn of_space(space: &str) -> Span {
        // The sign behind a slash is 0.
        Span { lower: format!("{space}/"), upper: format!("{space}0"), inclusive: false }
    }

    /// Whether a key lies in it.
    pub fn contains(&self, key: &str) -> bool {
        let (lower, upper) = (self.lower.as_str(), self.upper.as_str());
        let within = key >= lower && (key < upper || self.inclusive && key == upper);
        within && space_of(key) == space_of(lower)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { lower, upper, inclusive } = self;
        write!(f, "{lower}..{}{upper}", if *inclusive { "=" } else { "" })
    }
}

/// What a read is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Hold {
    /// To know.
    #[default]
    No,
    /// To rely on it until the commit.
    Share,
    /// To write it.
    Update,
}

/// A step, as a target gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The transaction begins, at the terms that the run was started with.
    Begin,
    /// Reads a key.
    Get(String, Hold),
    /// Reads all that is there in a range.
    Scan(Span),
    /// Writes. The value may expire, when so many units of time have passed since the run began.
    Put(String, Encoded, Option<u64>),
    /// Adds, without reading.
    Merge(String, i64),
    /// Deletes a key.
    Delete(String),
    /// Deletes all that is there in a range.
    DeleteRange(Span),
    /// Locks a range for reading.
    LockRange(Span),
    /// Marks a point; they are numbered from 0 within a session.
    Savepoint(usize),
    /// Undoes what was written since a point.
    RollbackTo(usize),
    /// Hands the commit in, to be decided by `Commit`. Only where [`Target::offers`] it.
    HandIn,
    /// Units of time pass, for everybody.
    Pass(u64),
    /// Drops a keyspace, whoever uses it; the session has done nothing else, and is over.
    Drop(String),
    /// Commits.
    Commit,
    /// Rolls back.
    Rollback,
}

/// What a step gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    #[default]
    Nothing,
    /// A key's value.
    Value(Option<Encoded>),
    /// What a range holds, by key.
    Pairs(Vec<(String, Encoded)>),
    /// The transaction committed; the commit timestamp, if it has one and the target tells it.
    Committed(Option<u64>),
}

/// Why a target aborted a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AbortKind {
    /// What it read had changed, or somebody else had committed first.
    Conflict,
    /// An older transaction took its locks.
    Wounded,
    /// It was chosen to break a circle of waiting.
    Deadlock,
    /// It may not wait for a lock.
    LockRefused,
    /// It has waited too long.
    Timeout,
    /// A keyspace that it uses was dropped.
    Dropped,
}

impl AbortKind {
    /// Every kind.
    pub const ALL: [AbortKind; 6] = [
        AbortKind::Conflict,
        AbortKind::Wounded,
        AbortKind::Deadlock,
        AbortKind::LockRefused,
        AbortKind::Timeout,
        AbortKind::Dropped,
    ];
}

impl fmt::Display for AbortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AbortKind::Conflict => "conflict",
            AbortKind::Wounded => "wounded",
            AbortKind::Deadlock => "deadlock",
            AbortKind::LockRefused => "lock refused",
            AbortKind::Timeout => "timeout",
            AbortKind::Dropped => "keyspace dropped",
        })
    }
}

/// An aborted transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Why.
    pub kind: AbortKind,
    /// The sessions that stood in the way, as far as the target tells.
    pub by: Vec<usize>,
    /// What the target said.
    pub said: String,
}

/// How far a session's step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done.
    Done(Reply),
    /// It waits for others.
    Blocked,
    /// The transaction is over, and changed nothing.
    Aborted(Abort),
}

/// What is asked of a target beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Transactions at these terms.
    Terms(Terms),
    /// Ranges: scans, range deletes, locks on them.
    Ranges,
    /// Reads for update or share.
    Holds,
    /// Merges.
    Merges,
    /// Savepoints.
    Savepoints,
    /// Keyspaces besides the one that all targets have.
    Keyspaces,
    /// Keyspaces that are dropped.
    Drops,
    /// Values that expire, and time that passes when it is told to.
    Time,
    /// Reads after the transaction's first write that see it.
    OwnWrites,
    /// Commits handed in apart from their decision, and resumption as a step of its own
    /// ([`Target::can_move`]).
    FineSteps,
    /// Keys that are hot from the start ([`Start::hot`]).
    Heat,
}

/// How a run begins.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// What is there at first.
    pub setup: &'a Contents,
    /// What of it expires, after so many units of time.
    pub expiring: &'a BTreeMap<String, u64>,
    /// Every key that may be touched, ascending.
    pub keys: &'a [String],
    /// The keyspaces besides the one that all targets have, ascending.
    pub spaces: &'a [String],
    /// One for each session.
    pub sessions: &'a [Terms],
    /// Whether all keys have been fought for before.
    pub hot: bool,
}

/// Why a run came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The target cannot be used: it is down, hangs, or speaks another language.
    Target(String),
    /// The target broke a promise that is not about what was read or written: nobody can move, a
    /// refusal does not say the truth, something was left behind.
    Broken(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Target(why) | Failure::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Failure {}

/// Whatever runs transactions.
pub trait Target {
    /// What it is called: `embedded`, `resp://127.0.0.1:6379`.
    fn label(&self) -> String;

    /// What users are told about how it is used, a sentence each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether it has this. What it has not is shown as not applicable.
    fn offers(&self, feature: Feature) -> bool;

    /// A run begins: what the last one wrote is gone, and this is there instead.
    fn start(&mut self, start: &Start<'_>) -> Result<(), Failure>;

    /// The next step of a session.
    fn submit(&mut self, session: usize, action: &Action) -> Result<Answer, Failure>;

    /// Asks a blocked session's step how far it is.
    fn poll(&mut self, session: usize) -> Result<Answer, Failure>;

    /// Whether polling a blocked session may find it further. True if the target cannot know.
    fn can_move(&mut self, session: usize) -> bool;

    /// The sessions that a blocked one waits for, as far as the target knows.
    fn waits_for(&mut self, session: usize) -> Vec<usize>;

    /// Every session is over: what is there now. Looks for what was left behind.
    fn finish(&mut self) -> Result<Contents, Failure>;

    /// Ends a run in the middle: whatever is open is rolled back. `broken`: because of a failure, so
    /// that the target had better begin afresh.
    fn abandon(&mut self, broken: bool);
}
