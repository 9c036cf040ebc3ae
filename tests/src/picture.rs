//! The picture of an anomaly: who did what, who came before whom and why, and what that is called.
//! Whoever finds an anomaly fills a [`Picture`]; from it come prose, lanes for a terminal, a page for
//! a browser, and a Rust test that does the same again.
//!
//! 1. A picture is data: nothing is judged here. Places in its lists (`usize`) may be wrong without
//!    harm: what they name is left out.
//! 2. Keys and values are any bytes; they are escaped where they are shown.
//! 3. The events are in order of time, across all lanes: that is the schedule.

pub mod page;
pub mod recorded;
pub mod replay;
pub mod samples;
pub mod selection;
pub mod table;
pub mod terminal;
pub mod text;
pub mod words;

/// Everything there is to say about one history, or the part of it that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// What it is a picture of.
    pub anomaly: Anomaly,
    /// What became of it.
    pub verdict: Verdict,
    /// Sessions or processes, from left to right.
    pub lanes: Vec<Lane>,
    /// The transactions that take part.
    pub transactions: Vec<Transaction>,
    /// What is there before the first event.
    pub initial: Vec<(Vec<u8>, Vec<u8>)>,
    /// What of it expires, after so many units of time.
    pub expiring: Vec<(Vec<u8>, u64)>,
    /// Keyspaces besides the one of most keys: a key that begins with one of their names and a slash
    /// lies there.
    pub keyspaces: Vec<String>,
    /// The keys that have been fought for before, so that automatic control takes locks for them.
    pub hot: Vec<Vec<u8>>,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// Which transaction comes before which, and why.
    pub edges: Vec<Edge>,
    /// The edges (places in `edges`) that contradict each other, in order: each begins where the one
    /// before ended. Empty where nothing contradicts.
    pub cycle: Vec<usize>,
    /// Sentences that belong to the account and are no edge: `T2 read x = 1, which nobody committed.`
    pub remarks: Vec<String>,
    /// Commands that show it again.
    pub replay: Vec<String>,
    /// Transactions of the history that are not in the picture.
    pub left_out: u64,
}

/// A named anomaly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anomaly {
    /// As Adya, Elle or Hermitage call it: `G2-item`.
    pub name: String,
    /// As people call it: `write skew`.
    pub title: String,
    /// What it is, in a sentence or two.
    pub definition: String,
    /// Who defined it, where.
    pub source: String,
    /// The levels that forbid it.
    pub forbidden_by: Vec<String>,
}

/// What became of the anomaly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It happened, and whoever met it had not asked to be spared.
    #[default]
    Allowed,
    /// It happened, and must not have: the level that forbids it, as `serializable`, or several.
    Forbidden(String),
    /// It did not happen. How it was prevented, as a clause: `T2's commit was refused, because x had
    /// changed since T2 read it`.
    Prevented(String),
}

/// A session (of a scenario) or a process (of a recorded history).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// `session A`, `process 3`.
    pub name: String,
}

/// A transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// `T1`.
    pub name: String,
    /// Its place in the picture's lanes.
    pub lane: usize,
    /// The isolation level, as it is spelled: `read-committed`. Empty if it is not known.
    pub isolation: String,
    /// The concurrency control, as it is spelled: `locking:wound-wait`. Empty if it is not known.
    pub concurrency: String,
    /// What became of it.
    pub end: End,
    /// Where in the history it stands: `line 17 of history.jsonl`. Empty if that says nothing.
    pub place: String,
}

/// What became of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Nobody knows: its commit was never answered.
    #[default]
    Unknown,
    /// It committed; the commit timestamp, if it is known.
    Committed(Option<u64>),
    /// The engine refused it.
    Aborted,
    /// It gave up by itself.
    RolledBack,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is, a place in the picture's transactions. None: the engine's, as
    /// [`Operation::Round`].
    pub transaction: Option<usize>,
    /// What was asked for.
    pub operation: Operation,
    /// What came of it.
    pub outcome: Outcome,
    /// When, in nanoseconds since the history began, if that is known.
    pub at_ns: Option<u64>,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The transaction begins.
    Begin,
    /// Reads a key.
    Read {
        /// Which.
        key: Vec<u8>,
        /// With which intent.
        intent: Intent,
    },
    /// Reads all keys of a range, or all that a predicate holds for.
    Scan {
        /// How it is to be called: `a..m`, `value % 3 = 0`. Empty: from the bounds.
        predicate: String,
        /// The first key, included. None: from the beginning.
        lower: Option<Vec<u8>>,
        /// The first key beyond. None: to the end. The last key included is the same as the key
        /// right behind it (with a zero byte at its end), and is shown as such.
        upper: Option<Vec<u8>>,
    },
    /// Writes a value.
    Write {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Writes a value that expires, when so many units of time have passed since the first event.
    WriteUntil {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
        /// When it expires.
        until: u64,
    },
    /// Adds an element to a list, or a number to a counter: a merge, by the operator's name.
    Merge {
        /// The key.
        key: Vec<u8>,
        /// `append`, `add-i64`, …
        operator: String,
        /// What is merged into it.
        operand: Vec<u8>,
    },
    /// Deletes a key.
    Delete {
        /// Which.
        key: Vec<u8>,
    },
    /// Deletes all keys of a range.
    DeleteRange {
        /// The first key, included. None: from the beginning.
        lower: Option<Vec<u8>>,
        /// The first key beyond. None: to the end.
        upper: Option<Vec<u8>>,
    },
    /// Locks a range.
    LockRange {
        /// The first key, included. None: from the beginning.
        lower: Option<Vec<u8>>,
        /// The first key beyond. None: to the end.
        upper: Option<Vec<u8>>,
        /// Whether others may not even read it under a lock.
        exclusive: bool,
    },
    /// Marks a point that can be gone back to, by its number within the transaction.
    Savepoint(usize),
    /// Undoes what was written since a point.
    RollbackTo(usize),
    /// Units of time pass.
    Pass(u64),
    /// Drops a keyspace, at once and for everybody; the transaction has done nothing.
    DropKeyspace(String),
    /// Something that has no name here: a compare-and-set, a transfer.
    Other {
        /// The key that it is about, if it is about one.
        key: Option<Vec<u8>>,
        /// What was done, as `transfer 5 from a to b`.
        what: String,
    },
    /// Asks for the commit.
    Commit,
    /// Undoes everything.
    Rollback,
    /// The engine decides the oldest commit that was asked for.
    Round,
}

/// What a read is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// To know.
    #[default]
    Look,
    /// To know it still holds at the commit, under a shared lock.
    Share,
    /// To write it.
    Update,
}

/// What came of what was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It is done: what needs no answer.
    #[default]
    Done,
    /// A read's answer; None: there is nothing. Lists, too, as the text that shows them.
    Value(Option<Vec<u8>>),
    /// A scan's answer.
    Pairs(Vec<(Vec<u8>, Vec<u8>)>),
    /// It waits, for these transactions' locks; the operation's end is an event of its own. A commit
    /// that waits for nobody waits for its round.
    Waits(Vec<usize>),
    /// It was refused, and with it the transaction.
    Refused {
        /// By what.
        why: Refusal,
        /// Because of whom, as far as that is known.
        by: Vec<usize>,
        /// What the engine or the server said.
        said: String,
    },
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// What was read had changed, or somebody else had committed first.
    Conflict,
    /// An older transaction took its locks (wound-wait).
    Wounded,
    /// It was chosen as the victim of a deadlock.
    Deadlock,
    /// The policy does not let it wait (wait-die, no-wait).
    LockRefused,
    /// It had waited long enough.
    Timeout,
    /// A keyspace that it uses was dropped.
    KeyspaceDropped,
    /// Anything else.
    #[default]
    Other,
}

/// One transaction comes before another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who comes first, a place in the picture's transactions.
    pub from: usize,
    /// Who comes after.
    pub to: usize,
    /// In which way.
    pub kind: EdgeKind,
    /// What it is about, if it is about one key.
    pub key: Option<Vec<u8>>,
    /// The event of `from` behind it, a place in the picture's events.
    pub from_event: Option<usize>,
    /// The event of `to` behind it.
    pub to_event: Option<usize>,
    /// A clause that says why: `T1 read x = 0, which T2 overwrote with 1`. Empty: it is made from
    /// the kind, the key and the events.
    pub why: String,
}

/// In which way one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeKind {
    /// The second overwrote what the first wrote.
    WriteWrite,
    /// The second read what the first wrote.
    WriteRead,
    /// The second overwrote what the first read.
    ReadWrite,
    /// What the second wrote changes what a predicate of the first found.
    PredicateReadWrite,
    /// What a predicate of the second found shows what the first wrote.
    PredicateWriteRead,
    /// The same session or process did one after the other.
    Process,
    /// The first was over before the second began.
    RealTime,
}

impl Edge {
    /// An edge; the rest is set where it is known.
    pub fn new(from: usize, to: usize, kind: EdgeKind) -> Edge {
        Edge { from, to, kind, key: None, from_event: None, to_event: None, why: String::new() }
    }
}

impl Event {
    /// An event of a transaction.
    pub fn new(transaction: usize, operation: Operation, outcome: Outcome) -> Event {
        Event { transaction: Some(transaction), operation, outcome, at_ns: None }
    }
}

impl EdgeKind {
    /// Every kind.
    pub const ALL: [EdgeKind; 7] = [
        EdgeKind::WriteWrite,
        EdgeKind::WriteRead,
        EdgeKind::ReadWrite,
        EdgeKind::PredicateReadWrite,
        EdgeKind::PredicateWriteRead,
        EdgeKind::Process,
        EdgeKind::RealTime,
    ];

    /// What it is called where there is little room.
    pub fn short(self) -> &'static str {
        match self {
            EdgeKind::WriteWrite => "ww",
            EdgeKind::WriteRead => "wr",
            EdgeKind::ReadWrite => "rw",
            EdgeKind::PredicateReadWrite => "predicate rw",
            EdgeKind::PredicateWriteRead => "predicate wr",
            EdgeKind::Process => "process",
            EdgeKind::RealTime => "real-time",
        }
    }

    /// What it means.
    pub fn meaning(self) -> &'static str {
        match self {
            EdgeKind::WriteWrite => "the second overwrote or added to what the first wrote",
            EdgeKind::WriteRead => "the second read what the first wrote",
            EdgeKind::ReadWrite => "the second overwrote or added to what the first read",
            EdgeKind::PredicateReadWrite => {
                "the second changed what a range or predicate of the first finds"
            }
            EdgeKind::PredicateWriteRead => {
                "a range or predicate of the second shows what the first wrote"
            }
            EdgeKind::Process => "the same session did one after the other",
            EdgeKind::RealTime => "the first was over before the second began",
        }
    }
}
