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

use crate::acl::{Denied, Refused, User};
use crate::clients::{Client, Situation};
use crate::commands::Spec;
use crate::execute::Underway;
use crate::helpers::Effort;
use crate::resp::{Args, OwnedArgs};
use crate::shared::Shared;
use crate::terms::Terms;
use crate::waits::LockWait;
use crate::walk::Walk;
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
    /// CLIENT REPLY.
    pub(crate) replies: Replies,
    /// Where CHANGES goes on: while it is kept, so is what it has not given.
    pub(crate) changes: Option<Box<isolith::Changes>>,
    /// A wide read of the front command that is not at its end; its reply may have begun.
    pub(crate) walk: Option<Box<Walk>>,
    /// What the command that runs may still do.
    pub(crate) effort: Effort,
    /// Who it has proven to be; `None`: nobody yet.
    user: Option<Arc<User>>,
    /// The generation of the users that `user` is of.
    users_seen: u64,
}

/// What is answered: CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replies {
    All,
    None,
    /// SKIP has just been said.
    NotThisAndNext,
    NotNext,
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
            replies: Replies::All,
            changes: None,
            walk: None,
            effort: Effort::default(),
            user: None,
            users_seen: 0,
        }
    }

    /// What a connection has in its place while a helper has it.
    pub(crate) fn stand_in(&self) -> Session {
        Session {
            db: self.db,
            resp3: self.resp3,
            replies: self.replies,
            user: self.user.clone(),
            users_seen: self.users_seen,
            ..Session::new(self.client.clone(), self.wait.stand_in())
        }
    }

    /// Makes it another user's.
    pub(crate) fn become_user(&mut self, user: Option<Arc<User>>) {
        self.client.set_user(user.as_ref().map_or("", |user| &user.name));
        self.user = user;
    }

    /// True if it may do more than say who it is.
    pub(crate) fn is_proven(&self) -> bool {
        self.user.is_some()
    }

    /// Whose it is.
    pub(crate) fn user_name(&self) -> &str {
        self.user.as_ref().map_or("", |user| &user.name)
    }

    /// True if every command may be run, and is answered: nothing needs to be looked up for each.
    pub(crate) fn is_plain(&mut self, shared: &Shared) -> bool {
        self.look_at_users(shared);
        self.replies == Replies::All
            && self.user.as_ref().is_some_and(|user| user.is_unrestricted())
    }

    /// Follows what has become of its user. Once before anything else, too: see `is_proven`.
    pub(crate) fn look_at_users(&mut self, shared: &Shared) {
        let generation = shared.users.generation();
        if self.users_seen == generation {
            return;
        }
        let first = self.users_seen == 0;
        self.users_seen = generation;
        self.user = match &self.user {
            Some(user) => shared.users.get(&user.name),
            None if first => shared.users.unproven(),
            None => None,
        };
        self.client.set_user(self.user.as_ref().map_or("", |user| &user.name));
    }

    /// Why a command may not be run, as the text of the reply; `None`: it may.
    pub(crate) fn refused(
        &mut self,
        shared: &Shared,
        spec: &'static Spec,
        args: Args<'_>,
    ) -> Option<String> {
        self.look_at_users(shared);
        let denied = match &self.user {
            None if spec.is("no-auth") => return None,
            None => return Some("NOAUTH Authentication required.".to_owned()),
            Some(user) if user.is_unrestricted() => return None,
            Some(user) => user.may(spec, args).err()?,
        };
        let (reason, object) = match &denied {
            Denied::Command(name) => ("command", name.clone().into_bytes()),
            Denied::Key(key) => ("key", key.clone()),
            Denied::Range => ("key", b"*".to_vec()),
        };
        let now = shared.now_ms();
        shared.users.refuse(Refused {
            count: 1,
            reason,
            context: if matches!(self.mode, Mode::Queueing(_)) { "multi" } else { "toplevel" },
            object,
            user: self.user_name().to_owned(),
            client: self.client.line(now),
            at: now,
        });
        Some(denied.text())
    }

    /// Back to what a new connection is (RESET), but for its token.
    pub(crate) fn reset(&mut self) {
        self.db = 0;
        self.resp3 = false;
        self.end();
        self.watched.clear();
        self.terms = Terms::default();
        self.replies = Replies::All;
        self.changes = None;
    }

    /// Rolls back whatever is open, queued or waiting.
    pub(crate) fn end(&mut self) {
        self.mode = Mode::Plain;
        self.underway = None;
        self.walk = None;
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
