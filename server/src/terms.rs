//! What transactions are begun with: the words of BEGIN, the defaults of a connection, those of the
//! server.
//!
//! Three layers, the nearest first: BEGIN itself, `CLIENT TRANSACTION`, and the server's [`Defaults`]
//! (`isolith serve`, `CONFIG SET`). Each says what it wishes, and leaves the rest to the next.

use crate::number;
use isolith::{Age, Concurrency, DeadlockPolicy, Durability, Isolation, TransactionOptions};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// Wishes for a transaction; `None` leaves it to the next layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) concurrency: Option<Concurrency>,
    pub(crate) durability: Option<Durability>,
    pub(crate) read_only: Option<bool>,
    /// How long the whole transaction may last; `Some(None)`: as long as it likes.
    pub(crate) timeout: Option<Option<Duration>>,
    /// How long one lock is waited for.
    pub(crate) lock_timeout: Option<Duration>,
    /// Of an earlier try.
    pub(crate) age: Option<Age>,
    /// Read only, as things were then (Unix milliseconds).
    pub(crate) at: Option<u64>,
    /// Read only, at a snapshot that is kept (SNAPSHOT OPEN).
    pub(crate) snapshot: Option<u64>,
}

/// Why words are no terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misread(pub(crate) String);

fn misread(text: impl Into<String>) -> Misread {
    Misread(text.into())
}

/// True if `argument` is `word`, in any case.
fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// A word fit for a parser of the engine's: `READ COMMITTED` and `read_committed` are
/// `read-committed`.
fn joined(first: &[u8], second: Option<&[u8]>) -> String {
    let mut word = String::from_utf8_lossy(first).to_lowercase();
    if let Some(second) = second {
        word.push('-');
        word.push_str(&String::from_utf8_lossy(second).to_lowercase());
    }
    word.replace('_', "-")
}

impl Terms {
    /// Reads the words behind BEGIN and behind CLIENT TRANSACTION: in any order, in any case. The
    /// error is the text of the reply.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Result<Terms, Misread> {
        let mut terms = Terms::default();
        let mut policy = None;
        let mut words = words.peekable();
        while let Some(word) = words.next() {
            let mut value = || {
                let name = String::from_utf8_lossy(word).to_uppercase();
                words
                    .next()
                    .ok_or_else(|| misread(format!("ERR syntax error: {name} wants a value")))
            };
            match word {
                _ if is(word, "ISOLATION") => {
                    let mut level = value()?;
                    if is(level, "LEVEL") {
                        level = value()?;
                    }
                    // SQL writes them as two words.
                    let two = is(level, "READ") || is(level, "REPEATABLE");
                    let level = joined(level, if two { Some(value()?) } else { None });
                    let level = level.parse().map_err(|error| misread(format!("ERR {error}")))?;
                    terms.isolation = Some(level);
                }
                _ if is(word, "CONCURRENCY") => {
                    let control = joined(value()?, None);
                    let control =
                        control.parse().map_err(|error| misread(format!("ERR {error}")))?;
                    terms.concurrency = Some(control);
                }
                _ if is(word, "DEADLOCK") => {
                    let name = joined(value()?, None);
                    policy = Some(
                        name.parse::<DeadlockPolicy>()
                            .map_err(|error| misread(format!("ERR {error}")))?,
                    );
                }
                _ if is(word, "DURABILITY") => terms.durability = Some(durability(value()?)?),
                _ if is(word, "READ") => {
                    terms.read_only = Some(match value()? {
                        word if is(word, "ONLY") => true,
                        word if is(word, "WRITE") => false,
                        _ => return Err(misread("ERR syntax error: READ ONLY or READ WRITE")),
                    });
                }
                _ if is(word, "TIMEOUT") => terms.timeout = Some(limit(value()?)?),
                _ if is(word, "LOCKTIMEOUT") => {
                    terms.lock_timeout = Some(limit(value()?)?.unwrap_or(Duration::MAX));
                }
                _ if is(word, "AT") => {
                    let at = number::parse(value()?).and_then(|at| u64::try_from(at).ok());
                    let at = at.ok_or_else(|| misread("ERR AT is a time in Unix milliseconds"))?;
                    terms.at = Some(at);
                }
                _ if is(word, "SNAPSHOT") => {
                    let id = number::parse(value()?).and_then(|id| u64::try_from(id).ok());
                    let id = id.ok_or_else(|| misread("ERR SNAPSHOT is one of SNAPSHOT OPEN"))?;
                    terms.snapshot = Some(id);
                }
                _ if is(word, "AGE") => {
                    let age = number::parse(value()?).and_then(|age| u64::try_from(age).ok());
                    let age = age.ok_or_else(|| misread("ERR AGE is not one that was given"))?;
                    terms.age = Some(Age::from_bits(age));
                }
                _ => {
                    let word = String::from_utf8_lossy(word.get(..64).unwrap_or(word)).into_owned();
                    return Err(misread(format!("ERR syntax error at '{word}'")));
                }
            }
        }
        let past = terms.at.is_some() || terms.snapshot.is_some();
        if past && terms.read_only != Some(true) {
            return Err(misread("ERR the past is READ ONLY: AT and SNAPSHOT go with it"));
        }
        if terms.at.is_some() && terms.snapshot.is_some() {
            return Err(misread("ERR AT or SNAPSHOT, not both"));
        }
        match (policy, terms.concurrency) {
            (None, _) => {}
            // A policy is one of locking.
            (Some(policy), None | Some(Concurrency::Locking(_))) => {
                terms.concurrency = Some(Concurrency::Locking(policy));
            }
            (Some(_), Some(other)) => {
                return Err(misread(format!(
                    "ERR DEADLOCK is for CONCURRENCY LOCKING, not for {}",
                    other.to_string().to_uppercase()
                )));
            }
        }
        Ok(terms)
    }

    /// These, and what they leave open from `others`.
    pub(crate) fn or(self, others: &Terms) -> Terms {
        Terms {
            isolation: self.isolation.or(others.isolation),
            concurrency: self.concurrency.or(others.concurrency),
            durability: self.durability.or(others.durability),
            read_only: self.read_only.or(others.read_only),
            timeout: self.timeout.or(others.timeout),
            lock_timeout: self.lock_timeout.or(others.lock_timeout),
            age: self.age.or(others.age),
            at: self.at.or(others.at),
            snapshot: self.snapshot.or(others.snapshot),
        }
    }
}

/// Milliseconds; 0 is no limit.
fn limit(text: &[u8]) -> Result<Option<Duration>, Misread> {
    let millis = number::parse(text).and_then(|millis| u64::try_from(millis).ok());
    match millis {
        Some(0) => Ok(None),
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(misread("ERR a timeout is a number of milliseconds, 0 for none")),
    }
}

fn durability(word: &[u8]) -> Result<Durability, Misread> {
    match word {
        _ if is(word, "SYNC") => Ok(Durability::Sync),
        _ if is(word, "OS") => Ok(Durability::Os),
        _ if is(word, "BUFFERED") => Ok(Durability::Buffered),
        _ => Err(misread("ERR syntax error: DURABILITY SYNC, OS or BUFFERED")),
    }
}

/// What transactions get that nobody wished anything for, server-wide: set at start, and changed by
/// CONFIG SET.
///
/// Relaxed everywhere: each is a figure by itself, and orders nothing.
pub(crate) struct Defaults {
    pub(crate) durability: Durability,
    isolation: AtomicU8,
    /// The place in [`Concurrency::ALL`].
    concurrency: AtomicU8,
    /// Milliseconds; `u64::MAX` is no limit.
    lock_timeout: AtomicU64,
    transaction_timeout: AtomicU64,
    idle: AtomicU64,
}

/// A limit that [`Defaults`] has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// How long one lock is waited for.
    Lock,
    /// How long a BEGIN transaction may last.
    Transaction,
    /// How long a BEGIN transaction may idle.
    Idle,
}

fn stored(limit: Option<Duration>) -> u64 {
    limit.and_then(|limit| u64::try_from(limit.as_millis()).ok()).unwrap_or(u64::MAX)
}

impl Defaults {
    pub(crate) fn new(durability: Durability) -> Defaults {
        let defaults = Defaults {
            durability,
            isolation: AtomicU8::new(0),
            concurrency: AtomicU8::new(0),
            lock_timeout: AtomicU64::new(5_000),
            transaction_timeout: AtomicU64::new(u64::MAX),
            idle: AtomicU64::new(60_000),
        };
        defaults.set_isolation(Isolation::default());
        defaults
    }

    pub(crate) fn isolation(&self) -> Isolation {
        let number = usize::from(self.isolation.load(Ordering::Relaxed));
        Isolation::ALL.get(number).copied().unwrap_or_default()
    }

    pub(crate) fn set_isolation(&self, isolation: Isolation) {
        let number = Isolation::ALL.iter().position(|known| *known == isolation);
        self.isolation.store(number.unwrap_or_default() as u8, Ordering::Relaxed);
    }

    pub(crate) fn concurrency(&self) -> Concurrency {
        let number = usize::from(self.concurrency.load(Ordering::Relaxed));
        Concurrency::ALL.get(number).copied().unwrap_or_default()
    }

    pub(crate) fn set_concurrency(&self, concurrency: Concurrency) {
        let number = Concurrency::ALL.iter().position(|known| *known == concurrency);
        self.concurrency.store(number.unwrap_or_default() as u8, Ordering::Relaxed);
    }

    fn cell(&self, limit: Limit) -> &AtomicU64 {
        match limit {
            Limit::Lock => &self.lock_timeout,
            Limit::Transaction => &self.transaction_timeout,
            Limit::Idle => &self.idle,
        }
    }

    /// A limit; `None` is none.
    pub(crate) fn limit(&self, limit: Limit) -> Option<Duration> {
        let millis = self.cell(limit).load(Ordering::Relaxed);
        (millis != u64::MAX).then(|| Duration::from_millis(millis))
    }

    pub(crate) fn set_limit(&self, limit: Limit, to: Option<Duration>) {
        self.cell(limit).store(stored(to), Ordering::Relaxed);
    }

    /// How long one lock is waited for.
    pub(crate) fn lock_timeout(&self) -> Duration {
        self.limit(Limit::Lock).unwrap_or(Duration::MAX)
    }

    /// What these terms come to.
    pub(crate) fn settle(&self, terms: &Terms) -> TransactionOptions {
        let isolation = match isolith::planted!("level-named-is-forgotten") {
            true => Some(Isolation::Snapshot),
            false => terms.isolation,
        };
        TransactionOptions {
            isolation: isolation.unwrap_or_else(|| self.isolation()),
            concurrency: terms.concurrency.unwrap_or_else(|| self.concurrency()),
            durability: Some(terms.durability.unwrap_or(self.durability)),
            read_only: terms.read_only.unwrap_or(false),
            age: terms.age,
            timeout: terms.timeout.unwrap_or_else(|| self.limit(Limit::Transaction)),
            lock_timeout: Some(terms.lock_timeout.unwrap_or_else(|| self.lock_timeout())),
            bytes_max: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Terms, String> {
        let words: Vec<&[u8]> = line.split_whitespace().map(str::as_bytes).collect();
        Terms::parse(words.into_iter()).map_err(|Misread(text)| text)
    }

    fn settled(line: &str) -> String {
        let terms = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let options = Defaults::new(Durability::Sync).settle(&terms);
        let limit = |limit: Option<Duration>| limit.map_or(0, |limit| limit.as_millis());
        format!(
            "{} {} {:?}{} {} {} {}",
            options.isolation,
            options.concurrency,
            options.durability.expect("always settled"),
            if options.read_only { " read only" } else { "" },
            limit(options.timeout),
            limit(options.lock_timeout),
            options.age.map_or(0, Age::bits),
        )
    }

    #[test]
    fn terms_are_taken_in_any_order_and_case() {
        for (line, expected) in [
            ("", "serializable optimistic Sync 0 5000 0"),
            (
                "read only durability OS isolation snapshot",
                "snapshot optimistic Os read only 0 5000 0",
            ),
            (
                "Timeout 250 ISOLATION LEVEL Read Committed AGE 17 concurrency LOCKING",
                "read-committed locking:wound-wait Sync 250 5000 17",
            ),
            ("ISOLATION REPEATABLE READ", "repeatable-read optimistic Sync 0 5000 0"),
            ("ISOLATION repeatable_read", "repeatable-read optimistic Sync 0 5000 0"),
            ("ISOLATION READ-UNCOMMITTED", "read-committed optimistic Sync 0 5000 0"),
            (
                "ISOLATION READ UNCOMMITTED READ ONLY",
                "read-committed optimistic Sync read only 0 5000 0",
            ),
            ("CONCURRENCY LOCKING:WAIT-DIE", "serializable locking:wait-die Sync 0 5000 0"),
            ("DEADLOCK NO-WAIT CONCURRENCY LOCKING", "serializable locking:no-wait Sync 0 5000 0"),
            (
                "DEADLOCK detect:fewest-locks",
                "serializable locking:detect:fewest-locks Sync 0 5000 0",
            ),
            ("CONCURRENCY AUTO LOCKTIMEOUT 7", "serializable auto Sync 0 7 0"),
            ("TIMEOUT 0 READ WRITE", "serializable optimistic Sync 0 5000 0"),
        ] {
            assert_eq!(settled(line), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_term_is_refused() {
        for (line, expected) in [
            ("READ", "ERR syntax error: READ wants a value"),
            ("ISOLATION", "ERR syntax error: ISOLATION wants a value"),
            ("ISOLATION CHAOS", "'chaos' is none of"),
            ("ISOLATION READ", "ISOLATION wants a value"),
            ("CONCURRENCY HOPE", "'hope' is none of"),
            ("DEADLOCK HOPE", "none of wound-wait, wait-die, no-wait, detect"),
            ("CONCURRENCY AUTO DEADLOCK DETECT", "ERR DEADLOCK is for CONCURRENCY LOCKING"),
            ("TIMEOUT soon", "milliseconds"),
            ("TIMEOUT -1", "milliseconds"),
            ("AGE -1", "AGE"),
            ("AT 5", "READ ONLY"),
            ("READ ONLY AT noon", "AT is a time"),
            ("NOW", "ERR syntax error at 'NOW'"),
        ] {
            let error = read(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn nearer_terms_go_first() {
        let connection = read("ISOLATION SNAPSHOT TIMEOUT 9").expect("terms");
        let begin = read("TIMEOUT 0 CONCURRENCY AUTO").expect("terms");
        let both = begin.or(&connection);
        assert_eq!(both, read("ISOLATION SNAPSHOT TIMEOUT 0 CONCURRENCY AUTO").expect("terms"));
    }

    #[test]
    fn every_default_is_given_back_as_it_was_set() {
        let defaults = Defaults::new(Durability::Sync);
        for isolation in Isolation::ALL {
            defaults.set_isolation(isolation);
            assert_eq!(defaults.isolation(), isolation);
        }
        for concurrency in Concurrency::ALL {
            defaults.set_concurrency(concurrency);
            assert_eq!(defaults.concurrency(), concurrency);
        }
        for limit in [None, Some(Duration::from_millis(1))] {
            defaults.set_limit(Limit::Transaction, limit);
            assert_eq!(defaults.limit(Limit::Transaction), limit);
        }
    }
}
