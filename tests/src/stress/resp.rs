//! A server as what is stressed: isolith through `BEGIN … COMMIT`, any other that speaks the Redis
//! protocol through `WATCH`, `GET`, `MULTI`, the writes and `EXEC`.
//!
//! 1. Only keys below a prefix of the run's own are touched; they are deleted at its end.
//! 2. A commit whose answer was lost may have happened: it counts as unknown, never as one or the
//!    other.
//! 3. Writes to a server that only watches are kept here until the commit, and its transaction's own
//!    reads see them here.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use isolith::{Concurrency, Durability, Isolation};

use super::Target;
use super::client::{Abilities, Answer, Client, Ended, Failure, Reading, Terms, value_of};
use super::embedded::LOCK_TIMEOUT;
use super::mix::{Mix, Share};
use super::tape::{End, Key, Value};
use super::workload::Workload;
use crate::finding::Finding;
use crate::resp::{Address, Dialer, Line, Server, Unusable, Value as Reply, own_prefix, told};

type Command = Vec<Vec<u8>>;

/// Keys that are deleted at once.
const DELETED_AT_ONCE: usize = 1000;

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Failure {
        Failure::Failed(unusable.0)
    }
}

/// A server.
#[derive(Debug)]
pub struct Network {
    dialer: Dialer,
    label: String,
    dialect: Dialect,
    names: Names,
    dirty: bool,
}

/// How transactions are said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Begin,
    Watch,
}

impl Network {
    /// Connects. Nothing may take longer than `wait` that is not a wait for a lock; and who waits for a
    /// lock asks by another connection whether the server is there.
    ///
    /// # Errors
    /// If the server cannot be used; the text says why.
    pub fn connect(address: &Address, wait: Duration) -> Result<Network, String> {
        let found = || {
            let (dialer, mut control) = Dialer::find(address, wait)?;
            let server = Server::recognise(&mut control)?;
            Ok::<_, Unusable>((dialer, server))
        };
        let (dialer, server) = found().map_err(|unusable| unusable.0)?;
        let begins = server.is_isolith() && !address.watches();
        let dialect = if begins { Dialect::Begin } else { Dialect::Watch };
        let names =
            Names { prefix: own_prefix().into(), beyond: Arc::default(), failed: Arc::default() };
        Ok(Network { dialer, label: format!("{address} ({server})"), dialect, names, dirty: false })
    }

    /// The same server is at another place from now on.
    ///
    /// # Errors
    /// If it cannot be used there.
    pub fn moved(&mut self, address: &Address) -> Result<(), String> {
        let (dialer, _) = Dialer::find(address, self.dialer.wait()).map_err(|why| why.0)?;
        self.dialer = dialer;
        self.names.failed.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// What is there stays there.
    pub fn leave(&mut self) {
        self.dirty = false;
    }

    /// What it is called.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What users are told.
    pub fn remark(&self) -> String {
        format!(
            "only keys that begin with {} are touched, and deleted in the end",
            self.names.prefix
        )
    }

    /// Whether it has transactions that are protected so.
    pub fn offers(&self, share: &Share) -> bool {
        let Share { isolation, concurrency, .. } = share;
        self.dialect == Dialect::Begin
            || *isolation == Isolation::Serializable && *concurrency == Concurrency::Optimistic
    }

    /// Whether it has what a workload needs: who only watches keys has no ranges.
    pub fn runs(&self, workload: Workload) -> bool {
        self.dialect == Dialect::Begin || !matches!(workload, Workload::Predicate | Workload::Queue)
    }

    /// Why a run failed, with what it may have left there.
    pub fn told(&self, why: &str) -> String {
        told(why, &self.names.prefix)
    }

    /// Every protection that it has.
    pub fn mix(&self) -> Mix {
        match self.dialect {
            Dialect::Begin => Mix::all(),
            Dialect::Watch => Mix::only(Isolation::Serializable, Concurrency::Optimistic),
        }
    }

    fn delete_all(&self) -> Answer {
        let mut line = self.dialer.dial()?;
        match self.dialect {
            Dialect::Begin => {
                let (start, end) = self.names.all();
                line.expect_ok(&[b"DELRANGE".to_vec(), start, end])?;
            }
            Dialect::Watch => {
                let keys: Vec<_> = self.names.used().map(|key| self.names.of(key)).collect();
                for some in keys.chunks(DELETED_AT_ONCE) {
                    line.expect_ok(&[&[b"DEL".to_vec()], some].concat())?;
                }
            }
        }
        Ok(())
    }
}

impl Target for Network {
    type Client = Session;

    fn client(&self) -> Answer<Session> {
        Ok(Session::new(&self.dialer, self.names.clone(), self.dialect)?)
    }

    fn durabilities(&self) -> Vec<Durability> {
        match self.dialect {
            Dialect::Begin => vec![Durability::Sync, Durability::Os, Durability::Buffered],
            Dialect::Watch => vec![Durability::Sync],
        }
    }

    fn clear(&mut self, _: u64) -> Answer<bool> {
        if self.dirty {
            self.delete_all()?;
        }
        self.dirty = true;
        Ok(false)
    }

    fn inspect(&self) -> Answer {
        if self.dialect == Dialect::Watch {
            return Ok(());
        }
        let (start, end) = self.names.all();
        let word = |word: &str| word.as_bytes().to_vec();
        let begin = "BEGIN CONCURRENCY LOCKING DEADLOCK NO-WAIT".split(' ').map(word).collect();
        let lock = vec![word("LOCKRANGE"), start, end, word("EXCLUSIVE")];
        let mut line = self.dialer.dial()?;
        let replies = line.ask_all(&[begin, lock, vec![word("ROLLBACK")]])?;
        match &replies[1] {
            Reply::Simple(_) => Ok(()),
            Reply::Error(text) if text.starts_with("DEADLOCK") => {
                Err(wrong(format!("no transaction is open, and a lock is left behind: {text}")))
            }
            reply => Err(line.unexpected("LOCKRANGE", reply).into()),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What is left at a server that failed is told with the failure.
        if self.dirty && !self.names.failed.load(Ordering::Relaxed) {
            let _ = self.delete_all();
        }
    }
}

/// How keys are called there.
#[derive(Clone, Debug)]
struct Names {
    prefix: Arc<str>,
    /// No key at or beyond it was ever written.
    beyond: Arc<AtomicU32>,
    /// The server has failed: nothing more is asked of it.
    failed: Arc<AtomicBool>,
}

impl Names {
    fn of(&self, key: Key) -> Vec<u8> {
        [self.prefix.as_bytes(), &key.to_be_bytes()].concat()
    }

    fn key(&self, name: &[u8]) -> Option<Key> {
        let number = name.strip_prefix(self.prefix.as_bytes())?;
        Some(Key::from_be_bytes(number.try_into().ok()?))
    }

    /// The bounds of all keys: the first, and the first beyond.
    fn all(&self) -> (Vec<u8>, Vec<u8>) {
        let start = self.prefix.as_bytes().to_vec();
        let mut end = start.clone();
        end.extend([0xff; 5]);
        (start, end)
    }

    fn note(&self, key: Key) {
        // Relaxed, here and below: read when no session is open.
        self.beyond.fetch_max(key.saturating_add(1), Ordering::Relaxed);
    }

    fn failed<T>(&self, result: Result<T, Unusable>) -> Answer<T> {
        self.failed.fetch_or(result.is_err(), Ordering::Relaxed);
        Ok(result?)
    }

    fn used(&self) -> Range<Key> {
        0..self.beyond.load(Ordering::Relaxed)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    line: Line,
    dialer: Dialer,
    names: Names,
    dialect: Dialect,
    /// `BEGIN` goes with the first command behind it.
    begin: Option<Command>,
    /// What the commit is to do where keys are only watched, in order.
    writes: Vec<Command>,
    /// What keys hold after these.
    written: BTreeMap<Key, Written>,
}

#[derive(Clone, Debug)]
enum Written {
    Put(Vec<u8>),
    Deleted,
    /// Behind whatever is there.
    Appended(Vec<u8>),
}

impl Session {
    fn new(dialer: &Dialer, names: Names, dialect: Dialect) -> Result<Session, Unusable> {
        let (line, dialer) = (dialer.dial()?, dialer.clone());
        let (writes, written) = (Vec::new(), BTreeMap::new());
        Ok(Session { line, dialer, names, dialect, begin: None, writes, written })
    }

    /// Sends commands, and gives their replies. They may wait for locks.
    fn exchange(&mut self, commands: &[Command]) -> Answer<Vec<Reply>> {
        let (line, dialer) = (&mut self.line, &self.dialer);
        let replies = match self.dialect {
            Dialect::Watch => line.ask_all(commands),
            // The answer may be on its way when the time for a lock is over.
            Dialect::Begin => line.send_all(commands).and_then(|()| {
                let each = commands.iter();
                each.map(|command| line.receive_late(command, 2 * LOCK_TIMEOUT, dialer)).collect()
            }),
        };
        self.names.failed(replies)
    }

    fn command(&self, words: &[&str], key: Key, more: &[&[u8]]) -> Command {
        let mut command = vec![words[0].as_bytes().to_vec(), self.names.of(key)];
        command.extend(words[1..].iter().map(|word| word.as_bytes().to_vec()));
        command.extend(more.iter().map(|value| value.to_vec()));
        command
    }

    /// Sends commands of a transaction, `BEGIN` with the first; gives the last one's reply. An error
    /// ends the transaction.
    fn ask(&mut self, commands: Vec<Command>) -> Answer<Reply> {
        let commands: Vec<Command> = self.begin.take().into_iter().chain(commands).collect();
        let replies = self.exchange(&commands)?;
        let wrong = replies.iter().position(|reply| matches!(reply, Reply::Error(_)));
        let place = wrong.unwrap_or(replies.len() - 1);
        match replies.into_iter().nth(place) {
            Some(Reply::Error(text)) => Err(self.refused(&commands[place], &text)),
            Some(reply) => Ok(reply),
            None => Err(Failure::Failed("no command was sent".into())),
        }
    }

    /// What an error comes to; whatever is open is rolled back.
    fn refused(&mut self, command: &Command, text: &str) -> Failure {
        let name = String::from_utf8_lossy(&command[0]).into_owned();
        // It may be over already: then this is an error, too.
        if name != "COMMIT"
            && let Err(unusable) = self.line.ask(&["ROLLBACK"])
        {
            return unusable.into();
        }
        match text.split(' ').next() {
            Some("CONFLICT" | "DEADLOCK") => Failure::Refused,
            Some("LOCKTIMEOUT") => {
                let seconds = LOCK_TIMEOUT.as_secs();
                wrong(format!("nobody freed a lock for {seconds} s: {text}"))
            }
            _ => self.line.refused(&name, text).into(),
        }
    }

    fn write(&mut self, command: Command, key: Key, written: Written) -> Answer {
        self.names.note(key);
        match self.dialect {
            Dialect::Begin => self.ask(vec![command]).map(drop),
            Dialect::Watch => {
                self.writes.push(command);
                let before = self.written.remove(&key);
                self.written.insert(key, written.after(before));
                Ok(())
            }
        }
    }

    fn unexpected(&self, what: &str, reply: &Reply) -> Failure {
        self.line.unexpected(what, reply).into()
    }

    /// `EXEC` of the writes; false if a key that was watched has changed.
    fn exec(&mut self) -> Answer<bool> {
        let word = |word: &str| vec![word.as_bytes().to_vec()];
        let writes = std::mem::take(&mut self.writes);
        let commands = [vec![word("MULTI")], writes, vec![word("EXEC")]].concat();
        let replies = self.exchange(&commands)?;
        if let Some(Reply::Error(text)) =
            replies.iter().find(|reply| matches!(reply, Reply::Error(_)))
        {
            return Err(self.line.refused("EXEC", text).into());
        }
        match replies.last() {
            Some(Reply::Null) => Ok(false),
            Some(Reply::Array(results)) => {
                match results.iter().find(|result| matches!(result, Reply::Error(_))) {
                    Some(result) => Err(self.unexpected("EXEC", result)),
                    None => Ok(true),
                }
            }
            reply => Err(self.unexpected("EXEC", reply.unwrap_or(&Reply::Null))),
        }
    }
}

impl Written {
    /// This after what was written before.
    fn after(self, before: Option<Written>) -> Written {
        match (self, before) {
            (Written::Appended(more), Some(Written::Put(value))) => {
                Written::Put([value, more].concat())
            }
            (Written::Appended(more), Some(Written::Appended(first))) => {
                Written::Appended([first, more].concat())
            }
            (Written::Appended(more), Some(Written::Deleted)) => Written::Put(more),
            (written, _) => written,
        }
    }
}

impl Client for Session {
    fn abilities(&self) -> Abilities {
        let begins = self.dialect == Dialect::Begin;
        Abilities { append: true, scan: begins, read_only: begins, marks: false }
    }

    fn begin(&mut self, terms: &Terms) -> Answer {
        self.writes.clear();
        self.written.clear();
        if self.dialect == Dialect::Begin {
            let Terms { isolation, concurrency, durability, read_only } = terms;
            let durability = match durability {
                Durability::Sync => "sync",
                Durability::Os => "os",
                Durability::Buffered => "buffered",
            };
            let read_only = if *read_only { " READ ONLY" } else { "" };
            // A control's policy is behind its colon: CONCURRENCY takes both as one word.
            let begin = format!(
                "BEGIN ISOLATION {isolation} CONCURRENCY {concurrency} DURABILITY {durability} \
                 LOCKTIMEOUT {}{read_only}",
                LOCK_TIMEOUT.as_millis()
            );
            self.begin = Some(begin.split(' ').map(|word| word.as_bytes().to_vec()).collect());
        }
        Ok(())
    }

    fn get(&mut self, key: Key, reading: Reading, value: &mut Vec<u8>) -> Answer<bool> {
        value.clear();
        let mine = self.written.get(&key).cloned();
        if let Some(Written::Put(mine)) = &mine {
            value.extend_from_slice(mine);
        }
        if let Some(Written::Put(_) | Written::Deleted) = mine {
            return Ok(matches!(mine, Some(Written::Put(_))));
        }
        let commands = match (self.dialect, reading) {
            (Dialect::Watch, _) => {
                vec![self.command(&["WATCH"], key, &[]), self.command(&["GET"], key, &[])]
            }
            (Dialect::Begin, Reading::Plain) => vec![self.command(&["GET"], key, &[])],
            (Dialect::Begin, Reading::ForUpdate) => {
                vec![self.command(&["GETFORUPDATE"], key, &[])]
            }
        };
        let found = match self.ask(commands)? {
            Reply::Null => false,
            Reply::Bulk(bytes) => {
                value.extend_from_slice(&bytes);
                true
            }
            reply => return Err(self.unexpected("GET", &reply)),
        };
        match mine {
            Some(Written::Appended(more)) => {
                value.extend_from_slice(&more);
                Ok(true)
            }
            _ => Ok(found),
        }
    }

    fn scan(&mut self, keys: Range<Key>, limit: usize, found: &mut Vec<(Key, Value)>) -> Answer {
        found.clear();
        let (start, end) = (self.names.of(keys.start), self.names.of(keys.end));
        let mut command = vec![b"RANGE".to_vec(), start, end];
        if limit < usize::MAX {
            command.extend([b"LIMIT".to_vec(), limit.to_string().into_bytes()]);
        }
        let reply = self.ask(vec![command])?;
        let Reply::Array(flat) = &reply else { return Err(self.unexpected("RANGE", &reply)) };
        for pair in flat.chunks(2) {
            let [Reply::Bulk(name), Reply::Bulk(value)] = pair else {
                return Err(self.unexpected("RANGE", &reply));
            };
            match self.names.key(name) {
                Some(key) => found.push((key, value_of(value)?)),
                None => return Err(self.unexpected("RANGE", &reply)),
            }
        }
        Ok(())
    }

    fn put(&mut self, key: Key, value: &[u8]) -> Answer {
        let command = self.command(&["SET"], key, &[value]);
        self.write(command, key, Written::Put(value.to_vec()))
    }

    fn delete(&mut self, key: Key) -> Answer {
        let command = self.command(&["DEL"], key, &[]);
        self.write(command, key, Written::Deleted)
    }

    fn append(&mut self, key: Key, value: &[u8]) -> Answer {
        let command = match self.dialect {
            Dialect::Begin => self.command(&["MERGE", "append"], key, &[value]),
            Dialect::Watch => self.command(&["APPEND"], key, &[value]),
        };
        self.write(command, key, Written::Appended(value.to_vec()))
    }

    fn commit(&mut self) -> Answer<Ended> {
        let committed = match self.dialect {
            Dialect::Watch => self.exec(),
            Dialect::Begin => match self.ask(vec![vec![b"COMMIT".to_vec()]]) {
                Ok(Reply::Simple(_)) => Ok(true),
                Ok(reply) => Err(self.unexpected("COMMIT", &reply)),
                Err(Failure::Refused) => Ok(false),
                Err(failure) => Err(failure),
            },
        };
        let end = if committed? { End::Committed(None) } else { End::Aborted };
        Ok(Ended { end, observed: None, then: Ok(()) })
    }

    fn roll_back(&mut self) {
        let command = match self.dialect {
            Dialect::Watch => "UNWATCH",
            // It has not been begun there.
            Dialect::Begin if self.begin.take().is_some() => return,
            Dialect::Begin => "ROLLBACK",
        };
        // If it does not get there, the next command will not either.
        let _ = self.line.ask(&[command]);
    }
}

fn wrong(what: String) -> Failure {
    Failure::Wrong(Finding::new(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_before_is_seen() {
        let put = |text: &str| Written::Put(text.into());
        let appended = |text: &str| Written::Appended(text.into());
        for (written, before, expected) in [
            (appended("b"), None, "Appended([98])"),
            (appended("b"), Some(put("a")), "Put([97, 98])"),
            (appended("b"), Some(appended("a")), "Appended([97, 98])"),
            (appended("b"), Some(Written::Deleted), "Put([98])"),
            (put("b"), Some(appended("a")), "Put([98])"),
            (Written::Deleted, Some(put("a")), "Deleted"),
        ] {
            assert_eq!(format!("{:?}", written.after(before)), expected);
        }
    }
}
