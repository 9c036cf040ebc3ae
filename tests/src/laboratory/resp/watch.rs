//! Any server with Redis's transactions as a target: `WATCH` and `GET` for a read, `MULTI`, the writes
//! and `EXEC` for a commit.
//!
//! 1. Writes are kept here until the commit: the server has no transaction before.
//! 2. Nothing tells whether such a server's command waits for another client. So one that has not
//!    answered after [`BLOCKED_AFTER`] counts as blocked, and the remarks say so.

use std::time::{Duration, Instant};

use isolith::{Concurrency, Isolation};

use super::keys::{Keys, decoded, encoded};
use crate::laboratory::target::{
    Abort, AbortKind, Action, Answer, Contents, Failure, Feature, Hold, Reply, Start, Target, Terms,
};
use crate::resp::{Dialer, Line, Unusable, Value};

/// After so long a step counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(250);

type Command = Vec<Vec<u8>>;

/// A server that watches keys.
#[derive(Debug)]
pub(super) struct Watching {
    label: String,
    dialer: Dialer,
    control: Line,
    keys: Keys,
    sessions: Vec<Session>,
    /// The keys of the present run, as long as they may be there.
    dirty: Vec<String>,
    /// The target has failed: nothing more is asked of it.
    failed: bool,
}

#[derive(Debug)]
struct Session {
    line: Line,
    /// What the commit is to do.
    writes: Vec<Command>,
    /// What was sent and not answered: the step, and how many replies there will be.
    sent: Option<(Action, usize)>,
    /// It has watched something and not ended.
    open: bool,
}

impl Watching {
    pub(super) fn new(label: String, dialer: Dialer, control: Line) -> Watching {
        let keys = Keys::new();
        Watching {
            label,
            dialer,
            control,
            keys,
            sessions: Vec::new(),
            dirty: Vec::new(),
            failed: false,
        }
    }

    /// A write that waits for the commit.
    fn write(&self, action: &Action) -> Option<Command> {
        let on = |name: &str, key: &str| vec![name.as_bytes().to_vec(), self.keys.key(key)];
        Some(match action {
            Action::Put(key, value, None) => [on("SET", key), vec![encoded(*value)]].concat(),
            Action::Merge(key, addend) => [on("INCRBY", key), vec![encoded(*addend)]].concat(),
            Action::Delete(key) => on("DEL", key),
            _ => return None,
        })
    }

    /// What a step sends.
    fn commands(&mut self, session: usize, action: &Action) -> Result<Vec<Command>, Failure> {
        let word = |word: &str| vec![word.as_bytes().to_vec()];
        Ok(match action {
            Action::Begin => Vec::new(),
            Action::Get(key, Hold::No) => {
                let on = |name: &str| vec![name.as_bytes().to_vec(), self.keys.key(key)];
                vec![on("WATCH"), on("GET")]
            }
            Action::Put(..) | Action::Merge(..) | Action::Delete(_) => {
                let write = self.write(action);
                self.sessions[session].writes.extend(write);
                Vec::new()
            }
            Action::Commit => {
                let writes = std::mem::take(&mut self.sessions[session].writes);
                [vec![word("MULTI")], writes, vec![word("EXEC")]].concat()
            }
            Action::Rollback => {
                self.sessions[session].writes.clear();
                vec![word("UNWATCH")]
            }
            other => {
                return Err(Failure::Target(format!("{} has no {other:?}", self.label)));
            }
        })
    }

    /// The answer, once replies begin to come.
    fn answer(&mut self, session: usize) -> Result<Answer, Failure> {
        let this = &mut self.sessions[session];
        let Some((action, count)) = this.sent.clone() else {
            return Ok(Answer::Done(Reply::Nothing));
        };
        if count > 0 && !this.line.is_readable(Instant::now() + BLOCKED_AFTER)? {
            return Ok(Answer::Blocked);
        }
        this.sent = None;
        let what = format!("{action:?}");
        let replies = (0..count).map(|_| this.line.receive(&what));
        let replies = replies.collect::<Result<Vec<Value>, Unusable>>()?;
        this.open = !matches!(action, Action::Commit | Action::Rollback);
        if let Some(Value::Error(text)) =
            replies.iter().find(|reply| matches!(reply, Value::Error(_)))
        {
            return Err(this.line.refused(&what, text).into());
        }
        Ok(Answer::Done(match (&action, replies.last()) {
            (Action::Get(..), Some(Value::Null)) => Reply::Value(None),
            (Action::Get(..), Some(reply @ Value::Bulk(bytes))) => {
                let value = decoded(bytes).ok_or_else(|| this.line.unexpected(&what, reply))?;
                Reply::Value(Some(value))
            }
            (Action::Commit, Some(Value::Null)) => {
                let said = "EXEC gave nil: a key that was watched had changed".to_owned();
                return Ok(Answer::Aborted(Abort {
                    kind: AbortKind::Conflict,
                    by: Vec::new(),
                    said,
                }));
            }
            (Action::Commit, Some(Value::Array(results))) => {
                match results.iter().find(|result| matches!(result, Value::Error(_))) {
                    Some(wrong) => return Err(this.line.unexpected("EXEC", wrong).into()),
                    None => Reply::Committed(None),
                }
            }
            (Action::Get(..) | Action::Commit, Some(reply)) => {
                return Err(this.line.unexpected(&what, reply).into());
            }
            _ => Reply::Nothing,
        }))
    }

    /// `DEL` or `MGET` of the run's keys.
    fn on_all(&self, name: &str) -> Option<Command> {
        let keys = self.dirty.iter().map(|key| self.keys.key(key));
        (!self.dirty.is_empty())
            .then(|| std::iter::once(name.as_bytes().to_vec()).chain(keys).collect())
    }

    fn clean(&mut self) -> Result<(), Failure> {
        if let Some(command) = self.on_all("DEL") {
            self.control.expect_ok(&command)?;
            self.dirty.clear();
        }
        Ok(())
    }

    fn contents(&mut self) -> Result<Contents, Failure> {
        let Some(command) = self.on_all("MGET") else { return Ok(Contents::new()) };
        let reply = self.control.ask(&command)?;
        let values = match &reply {
            Value::Array(values) if values.len() == self.dirty.len() => values,
            other => return Err(self.control.unexpected("MGET", other).into()),
        };
        let mut contents = Contents::new();
        for (key, value) in self.dirty.iter().zip(values) {
            match value.bytes().map(decoded) {
                None if *value == Value::Null => {}
                Some(Some(value)) => drop(contents.insert(key.clone(), value)),
                _ => return Err(self.control.unexpected("MGET", value).into()),
            }
        }
        Ok(contents)
    }

    fn told(&mut self, failure: Failure) -> Failure {
        self.failed |= matches!(failure, Failure::Target(_));
        self.keys.told(failure, !self.dirty.is_empty())
    }
}

impl Target for Watching {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn remarks(&self) -> Vec<String> {
        vec![
            self.keys.remark(),
            "a transaction is WATCH and GET for reads, MULTI, the writes and EXEC for the commit"
                .to_owned(),
            format!(
                "a step without an answer after {} ms counts as blocked: this server does not say",
                BLOCKED_AFTER.as_millis()
            ),
        ]
    }

    fn offers(&self, feature: Feature) -> bool {
        match feature {
            Feature::Terms(Terms { isolation, concurrency }) => {
                isolation == Isolation::Serializable && concurrency == Concurrency::Optimistic
            }
            Feature::Merges => true,
            Feature::Ranges
            | Feature::Holds
            | Feature::Savepoints
            | Feature::Keyspaces
            | Feature::Drops
            | Feature::Time
            | Feature::OwnWrites
            | Feature::FineSteps
            | Feature::Heat => false,
        }
    }

    fn start(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        if self.sessions.iter().any(|session| session.open || session.sent.is_some()) {
            self.abandon(true);
        }
        let begun = self.clean().and_then(|()| {
            self.keys.next_run();
            self.dirty = start.keys.to_vec();
            if let Some(command) = self.keys.set_up(start.setup) {
                self.control.expect_ok(&command)?;
            }
            while self.sessions.len() < start.sessions.len() {
                let line = self.dialer.dial()?;
                self.sessions.push(Session { line, writes: Vec::new(), sent: None, open: false });
            }
            Ok(())
        });
        begun.map_err(|failure| self.told(failure))
    }

    fn submit(&mut self, session: usize, action: &Action) -> Result<Answer, Failure> {
        let sent = self.commands(session, action).and_then(|commands| {
            let this = &mut self.sessions[session];
            this.sent = Some((action.clone(), commands.len()));
            Ok(this.line.send_all(&commands)?)
        });
        sent.and_then(|()| self.answer(session)).map_err(|failure| self.told(failure))
    }

    fn poll(&mut self, session: usize) -> Result<Answer, Failure> {
        self.answer(session).map_err(|failure| self.told(failure))
    }

    fn can_move(&mut self, _: usize) -> bool {
        true
    }

    fn waits_for(&mut self, _: usize) -> Vec<usize> {
        Vec::new()
    }

    fn finish(&mut self) -> Result<Contents, Failure> {
        let contents = self.contents();
        let cleaned = contents.and_then(|contents| self.clean().map(|()| contents));
        cleaned.map_err(|failure| self.told(failure))
    }

    fn abandon(&mut self, _: bool) {
        // A connection that goes watches nothing any more.
        self.sessions.clear();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.abandon(true);
        // What is left at a target that failed was told with the failure.
        if !self.failed {
            let _ = self.clean();
        }
    }
}
