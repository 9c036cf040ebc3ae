//! The library itself as what is stressed.
//!
//! Keys lie in two keyspaces in turn, some at a time, so that most transactions touch both.

use std::ops::Range;
use std::time::Duration;

use isolith::{
    Builder, Database, Error, Keyspace, Timestamp, Transaction, TransactionOptions, merge::APPEND,
};

use super::Target;
use super::client::{Abilities, Answer, Client, Ended, Failure, Reading, Terms, value_of};
use super::tape::{End, Key, Value};
use crate::finding::Finding;

/// Longer than any transaction of a stress has to wait for a lock, on however busy a machine: a wait
/// that lasts so long is one that nobody ends.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// A database with its keyspaces.
#[derive(Clone, Debug)]
pub struct Place {
    /// The database.
    pub db: Database,
    spaces: [Keyspace; 2],
    /// So many low bits of a key do not matter for where it lies.
    shift: u32,
}

impl Place {
    /// The keyspaces of an open database.
    pub fn new(db: Database, shift: u32) -> isolith::Result<Place> {
        let spaces = [db.keyspace("even")?, db.keyspace("odd")?];
        Ok(Place { db, spaces, shift })
    }

    /// A database in memory.
    pub fn in_memory(shift: u32) -> isolith::Result<Place> {
        Place::new(with_limits(Builder::in_memory()).open().map_err(Error::Open)?, shift)
    }

    /// Looks for what transactions left behind: none is open.
    pub fn inspect(&self) -> Answer {
        let locks = self.db.stats().locks;
        match (locks.held, locks.waiting) {
            (0, 0) => Ok(()),
            (held, waiting) => Err(Failure::Wrong(Finding::new(format!(
                "{held} locks are held and {waiting} waited for, though no transaction is open"
            )))),
        }
    }

    fn space(&self, key: Key) -> &Keyspace {
        &self.spaces[(key >> self.shift) as usize & 1]
    }

    /// Deletes everything, with one range delete or key by key.
    pub fn wipe(&self, by_range: bool) -> isolith::Result<()> {
        self.db.transact(|tx| {
            for space in &self.spaces {
                if by_range {
                    tx.delete_range(space, ..)?;
                    continue;
                }
                let keys: Vec<_> =
                    tx.range(space, ..).map(|pair| Ok(pair?.0)).collect::<Result<_, Error>>()?;
                for key in keys {
                    tx.delete(space, &key)?;
                }
            }
            Ok(())
        })
    }
}

/// The limits of a database that is stressed.
pub fn with_limits(builder: Builder) -> Builder {
    builder.lock_timeout(LOCK_TIMEOUT)
}

/// A session of the library.
#[derive(Debug)]
pub struct Embedded {
    place: Place,
    transaction: Option<Transaction>,
    /// Commits so far.
    commits: u32,
}

impl Embedded {
    /// A session.
    pub fn new(place: Place) -> Embedded {
        Embedded { place, transaction: None, commits: 0 }
    }

    /// Ends the transaction if the operation failed.
    fn answer<T>(&mut self, result: isolith::Result<T>) -> Answer<T> {
        result.map_err(|error| {
            self.transaction = None;
            failure(error)
        })
    }
}

fn open(transaction: &mut Option<Transaction>) -> &mut Transaction {
    transaction.as_mut().expect("a transaction is open")
}

/// What an error of an operation comes to.
pub(super) fn failure(error: Error) -> Failure {
    match error {
        Error::Conflict { .. }
        | Error::Wounded { .. }
        | Error::Deadlock { .. }
        | Error::LockRefused { .. } => Failure::Refused,
        Error::ReadOnly { .. } | Error::Closed | Error::Stalled { .. } => {
            Failure::Gone(error.to_string())
        }
        Error::LockTimeout { .. } => Failure::Wrong(Finding::new(format!(
            "nobody freed a lock for {} s: {error}",
            LOCK_TIMEOUT.as_secs()
        ))),
        other => Failure::Wrong(Finding::new(format!("an unexpected error: {other}: {other:?}"))),
    }
}

impl Client for Embedded {
    fn abilities(&self) -> Abilities {
        Abilities { append: true, scan: true, read_only: true, marks: false }
    }

    fn begin(&mut self, terms: &Terms) -> Answer {
        let options = TransactionOptions {
            isolation: terms.isolation,
            concurrency: terms.concurrency,
            durability: Some(terms.durability),
            read_only: terms.read_only,
            ..TransactionOptions::default()
        };
        let begun = self.place.db.begin_with(options);
        let begun = self.answer(begun)?;
        self.transaction = Some(begun);
        Ok(())
    }

    fn read_timestamp(&self) -> Option<u64> {
        let transaction = self.transaction.as_ref()?;
        transaction.read_timestamp().map(|timestamp| timestamp.bits())
    }

    fn get(&mut self, key: Key, reading: Reading, value: &mut Vec<u8>) -> Answer<bool> {
        value.clear();
        let space = self.place.space(key);
        let name = key.to_be_bytes();
        let transaction = open(&mut self.transaction);
        let found = match reading {
            Reading::Plain => transaction.get(space, name),
            Reading::ForUpdate => transaction.get_for_update(space, name),
        };
        Ok(match self.answer(found)? {
            Some(found) => {
                value.extend_from_slice(&found);
                true
            }
            None => false,
        })
    }

    fn scan(&mut self, keys: Range<Key>, limit: usize, found: &mut Vec<(Key, Value)>) -> Answer {
        found.clear();
        let space = self.place.space(keys.start);
        let bounds = keys.start.to_be_bytes()..keys.end.to_be_bytes();
        let transaction = open(&mut self.transaction);
        let mut torn = None;
        let scan = || -> isolith::Result<()> {
            for pair in transaction.range(space, bounds).take(limit) {
                let (key, value) = pair?;
                match (key.as_ref().try_into(), value_of(&value)) {
                    (Ok(key), Ok(value)) => found.push((Key::from_be_bytes(key), value)),
                    _ => torn = Some(format!("a torn pair: {key:?} = {value:?}")),
                }
            }
            Ok(())
        };
        let result = scan();
        self.answer(result)?;
        torn.map_or(Ok(()), |torn| Err(Failure::Wrong(Finding::new(torn))))
    }

    fn put(&mut self, key: Key, value: &[u8]) -> Answer {
        let space = self.place.space(key);
        let result = open(&mut self.transaction).put(space, key.to_be_bytes(), value);
        self.answer(result)
    }

    fn delete(&mut self, key: Key) -> Answer {
        let space = self.place.space(key);
        let result = open(&mut self.transaction).delete(space, key.to_be_bytes());
        self.answer(result)
    }

    fn append(&mut self, key: Key, value: &[u8]) -> Answer {
        let space = self.place.space(key);
        let result = open(&mut self.transaction).merge(space, key.to_be_bytes(), APPEND, value);
        self.answer(result)
    }

    fn commit(&mut self) -> Answer<Ended> {
        let transaction = self.transaction.take().expect("a transaction is open");
        let mut observed = None;
        let committed = transaction.commit_pending().and_then(|pending| {
            observed = Some(pending.timestamp().bits());
            // Now and then others run while the commit is decided and not acknowledged.
            self.commits += 1;
            if self.commits.is_multiple_of(16) {
                std::thread::yield_now();
            }
            pending.wait()
        });
        let (end, then) = match committed {
            Ok(info) if info.timestamp.is_some() => {
                observed = None;
                (End::Committed(info.timestamp.map(Timestamp::bits)), Ok(()))
            }
            Ok(_) => (End::Committed(None), Ok(())),
            Err(Error::CommitUnknown { at }) => {
                let gone = Failure::Gone("the log failed".to_owned());
                (End::Unknown(Some(at.bits())), Err(gone))
            }
            Err(error) => match failure(error) {
                Failure::Refused => (End::Aborted, Ok(())),
                // Errors other than `CommitUnknown` say that nothing was changed.
                gone @ Failure::Gone(_) => (End::Aborted, Err(gone)),
                other => return Err(other),
            },
        };
        Ok(Ended { end, observed, then })
    }

    fn roll_back(&mut self) {
        self.transaction = None;
    }
}

/// Windows of one database.
const WINDOWS_MAX: u64 = 32;
/// From this window of a database on its keys lie below a range delete: each read has to look at it.
const BELOW_RANGE_DELETE: u64 = 24;

/// A database in memory.
#[derive(Debug)]
pub struct InMemory {
    place: Place,
}

impl InMemory {
    /// A new one.
    ///
    /// # Errors
    /// If it does not open.
    pub fn new(shift: u32) -> Answer<InMemory> {
        Place::in_memory(shift).map(|place| InMemory { place }).map_err(failure)
    }
}

impl Target for InMemory {
    type Client = Embedded;

    fn client(&self) -> Answer<Embedded> {
        Ok(Embedded::new(self.place.clone()))
    }

    fn clear(&mut self, window: u64) -> Answer<bool> {
        match window % WINDOWS_MAX {
            0 => {
                self.place = Place::in_memory(self.place.shift).map_err(failure)?;
                Ok(true)
            }
            of => self.place.wipe(of == BELOW_RANGE_DELETE).map(|()| false).map_err(failure),
        }
    }

    fn inspect(&self) -> Answer {
        self.place.inspect()
    }
}
