//! What one connection has selected, queued, watched and begun.
//!
//! ```text
//!           MULTI                          EXEC, DISCARD
//!   Plain ─────────► Queueing ─────────────────────────────► Plain
//!     │     BEGIN          COMMIT                decided
//!     └────────────► Open ────────► Committing ────────────► Plain
//!                     │ ROLLBACK                                 ▲
//!                     ├──────────────────────────────────────────┤
//!                     │ a conflict, a lost lock, out of time     │
//!                     └────────► Aborted ────────────────────────┘
//!                                          COMMIT (an error), ROLLBACK
//! ```
//!
//! 1. `Aborted` exists so that the rest of a pipeline never runs outside the transaction that it was
//!    meant for.
//! 2. Whatever state a connection dies in, nothing of it is committed: dropping a session rolls back.
//! 3. What waits for a lock, or for room, is kept here: a BEGIN transaction and its commit in `mode`,
//!    that of a command outside of BEGIN in `underway`. The command that it is for stays at the front of
//!    the connection's input, so that nothing else of the session can be run meanwhile.
//! 4. `token` is the newest commit that this connection made or saw; later reads are never older.

use crate::clients::{Client, Situation};
use crate::commands::Spec;
use crate::execute::Underway;
use crate::resp::OwnedArgs;
use crate::terms::Terms;
use crate::waits::LockWait;
use isolith::{Age, CommitSteps, Durability, Savepoint, Snapshot, Timestamp, Transaction};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The most that MULTI may queue.
pub(crate) const QUEUE_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// One connection's state between commands.
pub(crate) struct Session {
    pub(crate) client: Arc<Client>,
    pub(crate) db: u8,
    pub(crate) resp3: bool,
    pub(crate) mode: Mode,
    /// A command of the open transaction runs, which has `mode` with it.
    pub(crate) inside: bool,
    pub(crate) watched: WatchedKeys,
    pub(crate) token: Timestamp,
    /// What BEGIN's transactions are begun with, unless it says otherwise (CLIENT TRANSACTION).
    pub(crate) terms: Terms,
    /// A transaction of the server's own that waits: the front command's.
    pub(crate) underway: Option<Box<Underway>>,
    pub(crate) wait: LockWait,
}

/// See the head of this file.
pub(crate) enum Mode {
    Plain,
    Queueing(Queue),
    Open(Open),
    /// COMMIT waits for a lock, or for room.
    Committing(Committing),
    Aborted(Aborted),
}

/// What MULTI has queued.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) commands: Vec<(&'static Spec, OwnedArgs)>,
    pub(crate) bytes: usize,
    /// A command could not be queued: EXEC will refuse.
    pub(crate) spoilt: bool,
}

/// A BEGIN transaction.
pub(crate) struct Open {
    pub(crate) transaction: OpenTransaction,
    pub(crate) durability: Durability,
    pub(crate) used: Instant,
    /// When its time is over.
    pub(crate) deadline: Option<Instant>,
    /// By name, oldest first.
    pub(crate) savepoints: Vec<(Vec<u8>, Savepoint)>,
}

/// A BEGIN transaction whose commit is not decided.
pub(crate) struct Committing {
    pub(crate) steps: Box<CommitSteps>,
    pub(crate) durability: Durability,
    pub(crate) age: Age,
}

/// A BEGIN transaction that is rolled back, and not ended by its client.
pub(crate) struct Aborted {
    /// What a program needs for its next try: `retry=now age=17`.
    pub(crate) hint: String,
    pub(crate) why: String,
}

impl Aborted {
    /// The error for a command; `then` is what to do.
    pub(crate) fn error(&self, then: &str) -> String {
        let Aborted { hint, why } = self;
        format!("ABORTED {hint} {why}; nothing was done: {then}")
    }
}

/// Where its commands run.
pub(crate) enum OpenTransaction {
    /// Boxed: most sessions never have one.
    ReadWrite(Box<Transaction>),
    ReadOnly(Box<Snapshot>),
}

/// The keys that are watched, by database and name.
pub(crate) type WatchedKeys = BTreeMap<(u8, Vec<u8>), Watched>;

/// A key as WATCH saw it.
pub(crate) struct Watched {
    /// The newest version of the key, deletions included: the same value again is a change.
    pub(crate) stamp: Timestamp,
    /// Whether it was there (and not expired).
    pub(crate) live: bool,
}

impl Session {
    pub(crate) fn new(client: Arc<Client>, wait: LockWait) -> Session {
        Session {
            client,
            db: 0,
            resp3: false,
            mode: Mode::Plain,
            inside: false,
            watched: WatchedKeys::new(),
            token: Timestamp::ZERO,
            terms: Terms::default(),
            underway: None,
            wait,
        }
    }

    /// Back to what a new connection is (RESET), but for its token.
    pub(crate) fn reset(&mut self) {
        self.db = 0;
        self.resp3 = false;
        self.end();
        self.watched.clear();
        self.terms = Terms::default();
    }

    /// Rolls back whatever is open, queued or waiting.
    pub(crate) fn end(&mut self) {
        self.mode = Mode::Plain;
        self.underway = None;
        self.client.age(None);
        self.wait.over();
    }

    /// Notes that something was seen that may not be acknowledged yet.
    pub(crate) fn saw(&mut self, observed: Timestamp) {
        self.token = self.token.max(observed);
    }

    /// A command could not be run or queued: a MULTI under way is spoilt.
    pub(crate) fn spoil(&mut self) {
        if let Mode::Queueing(queue) = &mut self.mode {
            queue.spoilt = true;
        }
    }

    /// Ends the open transaction, keeping its place: see `Aborted`.
    pub(crate) fn abort(&mut self, hint: String, why: impl Into<String>) {
        self.mode = Mode::Aborted(Aborted { hint, why: why.into() });
        self.client.age(None);
    }

    /// For CLIENT LIST.
    pub(crate) fn situation(&self) -> Situation {
        Situation {
            db: self.db,
            resp3: self.resp3,
            queued: match &self.mode {
                Mode::Queueing(queue) => Some(queue.commands.len()),
                _ => None,
            },
            watched: self.watched.len(),
            transaction: self.inside
                || matches!(self.mode, Mode::Open(_) | Mode::Committing(_) | Mode::Aborted(_)),
        }
    }
}
