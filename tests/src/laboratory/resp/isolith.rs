//! isolith as a target: a connection for each session, and one more that watches.
//!
//! ```text
//!   Idle ── BEGIN ──► Open ── a step is sent ──► Sent ── its reply is there ──► Answered ── told ──► Open
//!     ▲                                                                                     │
//!     └──── COMMIT, ROLLBACK, or an error that ended the transaction ◄──────────────────────┘
//! ```
//!
//! 1. A step is blocked if, and only if, `CLIENT WAITING` says so: no time is guessed from.
//! 2. A scenario's keyspaces are databases: `SELECT` goes before what is about another one. The first
//!    is that of the address, those that have names follow it.
//! 3. After each step all sessions have come to rest ([`Isolith::settle`]): each has answered, or waits.
//!    So what a scenario does next does not depend on how fast the server is.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::keys::{Keys, decoded, encoded};
use crate::laboratory::target::{
    Abort, AbortKind, Action, Answer, Contents, Failure, Feature, Hold, Reply, Start, Target,
    Terms, space_of,
};
use crate::resp::{Dialer, Line, Value};

/// How long a reply is waited for before it is asked whether the session waits; it doubles.
const PAUSE: Duration = Duration::from_micros(100);
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// How many databases there are.
const DATABASES: u32 = 16;

/// isolith behind a socket.
#[derive(Debug)]
pub(super) struct Isolith {
    label: String,
    dialer: Dialer,
    control: Line,
    /// Where the keys lie that name no keyspace.
    database: u32,
    /// The other keyspaces of the present run.
    spaces: Vec<String>,
    keys: Keys,
    sessions: Vec<Session>,
    /// Keys of the present run may be there.
    dirty: bool,
    /// The target has failed: nothing more is asked of it.
    failed: bool,
}

#[derive(Debug)]
struct Session {
    line: Line,
    /// The connection's number.
    id: i64,
    database: u32,
    terms: Terms,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle,
    Open,
    Sent(Action),
    Answered(Action, Value),
}

impl Session {
    fn new(mut line: Line, database: u32) -> Result<Session, Failure> {
        match line.ask(&["CLIENT", "ID"])? {
            Value::Integer(id) => {
                Ok(Session { line, id, database, terms: Terms::default(), state: State::Idle })
            }
            other => Err(line.unexpected("CLIENT ID", &other).into()),
        }
    }

    /// Takes the reply, if it is there until then.
    fn collect(&mut self, until: Instant) -> Result<(), Failure> {
        if let State::Sent(action) = &self.state
            && self.line.is_readable(until)?
        {
            let reply = self.line.receive(&format!("{action:?}"))?;
            self.state = State::Answered(action.clone(), reply);
        }
        Ok(())
    }
}

impl Isolith {
    /// One whose connections begin in this database.
    pub(super) fn new(label: String, dialer: Dialer, control: Line, database: u32) -> Isolith {
        Isolith {
            label,
            dialer,
            control,
            database,
            spaces: Vec::new(),
            keys: Keys::new(),
            sessions: Vec::new(),
            dirty: false,
            failed: false,
        }
    }

    /// The database of a keyspace.
    fn database(&self, space: Option<&str>) -> u32 {
        let place = self.spaces.iter().position(|one| Some(&one[..]) == space);
        let behind = place.map_or(0, |place| place as u32 + 1);
        (self.database + behind) % DATABASES
    }

    /// Those of the present run, each with its keyspace. That of the address is the last, so that
    /// whoever goes through them ends there.
    fn databases(&self) -> Vec<(Option<String>, u32)> {
        let named = self.spaces.iter().cloned().map(Some);
        named.chain([None]).map(|space| (space.clone(), self.database(space.as_deref()))).collect()
    }

    /// Does something in each of the run's databases.
    fn in_each<T>(
        &mut self,
        mut what: impl FnMut(&mut Self, Option<&str>) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let (all, several) = (self.databases(), !self.spaces.is_empty());
        let one = |(space, database): (Option<String>, u32)| {
            if several {
                self.control.expect_ok(&["SELECT", &database.to_string()])?;
            }
            what(self, space.as_deref())
        };
        all.into_iter().map(one).collect()
    }

    /// Sees to it that a step finds its keyspace.
    fn select(&mut self, session: usize, action: &Action) -> Result<(), Failure> {
        let key = match action {
            Action::Get(key, _)
            | Action::Put(key, ..)
            | Action::Merge(key, _)
            | Action::Delete(key) => key,
            Action::Scan(span) | Action::DeleteRange(span) | Action::LockRange(span) => &span.lower,
            _ => return Ok(()),
        };
        let database = self.database(space_of(key));
        let session = &mut self.sessions[session];
        if session.database != database {
            session.line.expect_ok(&["SELECT", &database.to_string()])?;
            session.database = database;
        }
        Ok(())
    }

    /// A step as a command.
    fn command(&self, session: usize, action: &Action) -> Result<Vec<Vec<u8>>, Failure> {
        let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
        let on = |name: &str, key: &str, more: Option<Vec<u8>>| {
            [name.as_bytes().to_vec(), self.keys.key(key)].into_iter().chain(more).collect()
        };
        let within = |name: &str, span| {
            let (start, end) = self.keys.bounds(span);
            vec![name.as_bytes().to_vec(), start, end]
        };
        Ok(match action {
            Action::Begin => {
                let Terms { isolation, concurrency } = self.sessions[session].terms;
                let (isolation, concurrency) = (isolation.to_string(), concurrency.to_string());
                let control = concurrency.strip_prefix("locking:");
                let (control, policy) = match control {
                    Some(policy) => ("locking", Some(policy)),
                    None => (concurrency.as_str(), None),
                };
                let mut begin = vec!["BEGIN", "ISOLATION", &isolation, "CONCURRENCY", control];
                begin.extend(policy.into_iter().flat_map(|policy| ["DEADLOCK", policy]));
                // A wait ends when a schedule says so.
                begin.extend(["LOCKTIMEOUT", "0"]);
                words(&begin)
            }
            Action::Get(key, Hold::No) => on("GET", key, None),
            Action::Get(key, Hold::Share) => on("GETFORSHARE", key, None),
            Action::Get(key, Hold::Update) => on("GETFORUPDATE", key, None),
            Action::Put(key, value, None) => on("SET", key, Some(encoded(*value))),
            Action::Merge(key, addend) => {
                let mut command: Vec<_> = on("MERGE", key, Some(b"add-i64".to_vec()));
                command.push(encoded(*addend));
                command
            }
            Action::Delete(key) => on("DEL", key, None),
            Action::Scan(span) => within("RANGE", span),
            Action::DeleteRange(span) => within("DELRANGE", span),
            Action::LockRange(span) => within("LOCKRANGE", span),
            Action::Savepoint(number) => words(&["SAVEPOINT", &format!("s{number}")]),
            Action::RollbackTo(number) => words(&["ROLLBACK", "TO", &format!("s{number}")]),
            Action::Commit => words(&["COMMIT"]),
            Action::Rollback => words(&["ROLLBACK"]),
            Action::Put(..) | Action::Pass(_) | Action::Drop(_) | Action::HandIn => {
                return Err(Failure::Target(format!("a server has no {action:?}")));
            }
        })
    }

    /// Comes back when every session has answered or waits for others.
    fn settle(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.control.wait();
        let mut pause = PAUSE;
        let mut before = Vec::new();
        loop {
            let until = Instant::now() + pause;
            self.sessions.iter_mut().try_for_each(|session| session.collect(until))?;
            let sent: Vec<i64> = self
                .sessions
                .iter()
                .filter(|session| matches!(session.state, State::Sent(_)))
                .map(|session| session.id)
                .collect();
            if sent.is_empty() {
                return Ok(());
            }
            let waiting = self.waiting(&sent)?;
            match sent.iter().all(|id| waiting.contains_key(id)) {
                // Of several, one may have been looked at before another one woke it: so twice.
                true if sent.len() == 1 || sent == before => return Ok(()),
                true => before = sent,
                false => {
                    before.clear();
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
            if Instant::now() > deadline {
                let why = "it neither answers nor says in CLIENT WAITING that the command waits";
                return Err(self.control.failure("a step", why).into());
            }
        }
    }

    /// Those of the connections whose command waits, and for transactions of which ages.
    fn waiting(&mut self, ids: &[i64]) -> Result<BTreeMap<i64, Vec<i64>>, Failure> {
        let ids = ids.iter().map(i64::to_string);
        let command: Vec<String> =
            ["CLIENT", "WAITING"].map(str::to_owned).into_iter().chain(ids).collect();
        let reply = self.control.ask(&command)?;
        let pairs = match &reply {
            Value::Array(flat) => flat.chunks(2).map(integers).collect(),
            _ => None,
        };
        Ok(pairs.ok_or_else(|| self.control.unexpected("CLIENT WAITING", &reply))?)
    }

    /// The ages of the sessions' transactions.
    fn ages(&mut self) -> Result<Vec<Option<i64>>, Failure> {
        let reply = self.control.ask(&["CLIENT", "LIST"])?;
        let list = reply.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let list = list.ok_or_else(|| self.control.unexpected("CLIENT LIST", &reply))?;
        let number = |line: &str, field: &str| {
            line.split(' ').find_map(|word| word.strip_prefix(field)?.parse::<i64>().ok())
        };
        let ages: BTreeMap<i64, i64> = list
            .lines()
            .filter_map(|line| Some((number(line, "id=")?, number(line, "tx-age=")?)))
            .collect();
        Ok(self.sessions.iter().map(|session| ages.get(&session.id).copied()).collect())
    }

    /// What a reply says about a step.
    fn answer(&mut self, session: usize, action: &Action, reply: Value) -> Result<Answer, Failure> {
        let is_last = matches!(action, Action::Commit | Action::Rollback);
        if let Value::Error(text) = &reply {
            return self.aborted(session, action, text);
        }
        self.sessions[session].state = if is_last { State::Idle } else { State::Open };
        let wrong = |this: &Self| this.control.unexpected(&format!("{action:?}"), &reply);
        Ok(Answer::Done(match (action, &reply) {
            (Action::Get(..), Value::Null) => Reply::Value(None),
            (Action::Get(..), Value::Bulk(bytes)) => {
                Reply::Value(Some(decoded(bytes).ok_or_else(|| wrong(self))?))
            }
            (Action::Scan(_), Value::Array(flat)) => {
                Reply::Pairs(self.pairs(flat).ok_or_else(|| wrong(self))?)
            }
            (Action::Delete(_), Value::Integer(_)) => Reply::Nothing,
            (Action::Commit, Value::Simple(_)) => Reply::Committed(None),
            (Action::Get(..) | Action::Scan(_) | Action::Delete(_), _) => {
                return Err(wrong(self).into());
            }
            (_, Value::Simple(_)) => Reply::Nothing,
            _ => return Err(wrong(self).into()),
        }))
    }

    /// Keys and values of a range, as RESP2 has them: one after the other.
    fn pairs(&self, flat: &[Value]) -> Option<Vec<(String, i64)>> {
        flat.chunks(2)
            .map(|pair| match pair {
                [key, value] => Some((self.keys.name(key.bytes()?)?, decoded(value.bytes()?)?)),
                _ => None,
            })
            .collect()
    }

    fn aborted(&mut self, session: usize, action: &Action, text: &str) -> Result<Answer, Failure> {
        let Some(kind) = kind(text) else {
            return Err(self.control.refused(&format!("{action:?}"), text).into());
        };
        let ages = self.ages()?;
        let by = named_ages(text)
            .filter_map(|age| ages.iter().position(|known| *known == Some(age)))
            .filter(|other| *other != session)
            .collect();
        // A commit that fails is over; anything else leaves something to be rolled back.
        if *action != Action::Commit {
            self.sessions[session].line.expect_ok(&["ROLLBACK"])?;
        }
        self.sessions[session].state = State::Idle;
        self.settle()?;
        Ok(Answer::Aborted(Abort { kind, by, said: text.to_owned() }))
    }

    /// Contents of the run's keys, which are deleted; nobody may hold a lock there.
    fn take_contents(&mut self) -> Result<Contents, Failure> {
        let all = self.in_each(|this, _| this.take_contents_here())?;
        self.dirty = false;
        Ok(all.into_iter().flatten().collect())
    }

    fn take_contents_here(&mut self) -> Result<Contents, Failure> {
        let (start, end) = self.keys.whole_run();
        let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let range = |name: &str| vec![name.as_bytes().to_vec(), start.clone(), end.clone()];
        let lock = [range("LOCKRANGE"), vec![b"EXCLUSIVE".to_vec()]].concat();
        let commands: [Vec<Vec<u8>>; 5] = [
            words("BEGIN ISOLATION SERIALIZABLE CONCURRENCY LOCKING DEADLOCK NO-WAIT"),
            lock,
            range("RANGE"),
            range("DELRANGE"),
            words("COMMIT"),
        ];
        let replies = self.control.ask_all(&commands)?;
        match &replies[..] {
            [Value::Simple(_), Value::Simple(_), Value::Array(flat), _, Value::Simple(_)] => {
                let pairs = self.pairs(flat);
                let pairs = pairs.ok_or_else(|| self.control.unexpected("RANGE", &replies[2]))?;
                Ok(pairs.into_iter().collect())
            }
            [_, Value::Error(text), ..] if text.starts_with("DEADLOCK") => Err(Failure::Broken(
                format!("every transaction is over, and a lock is left behind: {text}"),
            )),
            _ => {
                let wrong = replies.iter().find(|reply| matches!(reply, Value::Error(_)));
                Err(self.control.unexpected("RANGE", wrong.unwrap_or(&Value::Null)).into())
            }
        }
    }

    /// Deletes what the last run has left, once its transactions are gone.
    fn clean(&mut self) -> Result<(), Failure> {
        if self.dirty {
            self.in_each(|this, _| {
                let (start, end) = this.keys.whole_run();
                Ok(this.control.expect_ok(&[b"DELRANGE".to_vec(), start, end])?)
            })?;
            self.dirty = false;
        }
        Ok(())
    }

    fn told(&mut self, failure: Failure) -> Failure {
        self.failed |= matches!(failure, Failure::Target(_));
        self.keys.told(failure, self.dirty)
    }
}

impl Target for Isolith {
    fn label(&self) -> String {
        self.label.clone()
    }

    fn remarks(&self) -> Vec<String> {
        vec![
            self.keys.remark(),
            "a step is blocked when CLIENT WAITING says that its connection waits".to_owned(),
        ]
    }

    fn offers(&self, feature: Feature) -> bool {
        match feature {
            Feature::Terms(_)
            | Feature::Ranges
            | Feature::Holds
            | Feature::Merges
            | Feature::Savepoints
            | Feature::Keyspaces
            | Feature::OwnWrites => true,
            // No command drops a keyspace, and nobody tells a server's clock to go on.
            Feature::Drops | Feature::Time | Feature::FineSteps | Feature::Heat => false,
        }
    }

    fn start(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        if self.sessions.iter().any(|session| !matches!(session.state, State::Idle)) {
            self.abandon(true);
        }
        let begun = self.clean().and_then(|()| {
            self.keys.next_run();
            self.spaces = start.spaces.to_vec();
            self.dirty = true;
            self.in_each(|this, space| {
                let here = start.setup.iter().filter(|(key, _)| space_of(key) == space);
                let here = here.map(|(key, value)| (key.clone(), *value)).collect();
                match this.keys.set_up(&here) {
                    Some(command) => Ok(this.control.expect_ok(&command)?),
                    None => Ok(()),
                }
            })?;
            while self.sessions.len() < start.sessions.len() {
                self.sessions.push(Session::new(self.dialer.dial()?, self.database)?);
            }
            Ok(())
        });
        for (session, terms) in self.sessions.iter_mut().zip(start.sessions) {
            session.terms = *terms;
        }
        begun.map_err(|failure| self.told(failure))
    }

    fn submit(&mut self, session: usize, action: &Action) -> Result<Answer, Failure> {
        let selected = self.select(session, action);
        let sent = selected.and_then(|()| self.command(session, action)).and_then(|command| {
            let this = &mut self.sessions[session];
            this.state = State::Sent(action.clone());
            Ok(this.line.send(&command)?)
        });
        sent.and_then(|()| self.poll(session)).map_err(|failure| self.told(failure))
    }

    fn poll(&mut self, session: usize) -> Result<Answer, Failure> {
        let answer = self.settle().and_then(|()| {
            match std::mem::replace(&mut self.sessions[session].state, State::Idle) {
                State::Answered(action, reply) => self.answer(session, &action, reply),
                state => {
                    self.sessions[session].state = state;
                    Ok(Answer::Blocked)
                }
            }
        });
        answer.map_err(|failure| self.told(failure))
    }

    fn can_move(&mut self, session: usize) -> bool {
        matches!(self.sessions[session].state, State::Answered(..))
    }

    fn waits_for(&mut self, session: usize) -> Vec<usize> {
        let id = self.sessions[session].id;
        let found = self.waiting(&[id]).and_then(|waiting| Ok((waiting, self.ages()?)));
        let Ok((mut waiting, ages)) = found else { return Vec::new() };
        let holders = waiting.remove(&id).unwrap_or_default();
        let is_holder = |age: &Option<i64>| age.is_some_and(|age| holders.contains(&age));
        let all = ages.iter().enumerate();
        all.filter(|(other, age)| *other != session && is_holder(age)).map(|(at, _)| at).collect()
    }

    fn finish(&mut self) -> Result<Contents, Failure> {
        self.take_contents().map_err(|failure| self.told(failure))
    }

    fn abandon(&mut self, _: bool) {
        // A connection that goes is rolled back, whatever it waits for.
        self.sessions.clear();
    }
}

impl Drop for Isolith {
    fn drop(&mut self) {
        self.abandon(true);
        // What is left at a target that failed was told with the failure.
        if !self.failed {
            let _ = self.clean();
        }
    }
}

/// A number and an array of numbers.
fn integers(pair: &[Value]) -> Option<(i64, Vec<i64>)> {
    let [Value::Integer(id), Value::Array(ages)] = pair else { return None };
    let age = |value: &Value| match value {
        Value::Integer(age) => Some(*age),
        _ => None,
    };
    Some((*id, ages.iter().map(age).collect::<Option<_>>()?))
}

/// What an error of a transaction means; `None` if it is about something else.
fn kind(text: &str) -> Option<AbortKind> {
    let code = text.split(' ').next()?;
    Some(match code {
        "CONFLICT" => AbortKind::Conflict,
        "DEADLOCK" if text.contains("chosen to break") => AbortKind::Deadlock,
        "DEADLOCK" if text.contains("refused to wait") => AbortKind::LockRefused,
        "DEADLOCK" => AbortKind::Wounded,
        "LOCKTIMEOUT" | "TXTIMEOUT" => AbortKind::Timeout,
        _ => return None,
    })
}

/// The ages of other transactions that an error names: `transaction 17`, `an older transaction (17)`.
fn named_ages(text: &str) -> impl Iterator<Item = i64> {
    text.match_indices("transaction ").filter_map(|(at, word)| {
        let rest = text[at + word.len()..].trim_start_matches('(');
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    })
}
