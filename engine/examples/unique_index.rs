//! Users by number, and an index that keeps their addresses unique, while many sign up at once.
//!
//! ```text
//! cargo run --release -p isolith --example unique_index            # in every mode
//! cargo run --release -p isolith --example unique_index -- locking:detect repeatable-read
//! ```
//!
//! An index is a second keyspace that is written in the same transaction. Whoever signs up looks whether
//! the address is there and, if it is not, puts the user and the index entry. The look at an *absent* key
//! is protected like any other read from repeatable read up, and under snapshot the second to write the
//! entry is refused; at read committed two users get one address, as the end shows.

pub(crate) mod common;

use std::time::Duration;

use common::{Load, Mode, Outcome};
use isolith::{Database, Isolation, Keyspace, Transaction, TransactionOptions};

/// Addresses that are wanted.
const ADDRESSES: u64 = 50;
/// Users there may be; they change their addresses all the time.
const USERS: u64 = 40;

/// The levels at which an address stays unique.
pub(crate) const LEVELS: [Isolation; 3] =
    [Isolation::RepeatableRead, Isolation::Snapshot, Isolation::Serializable];

/// The users' addresses by number, and their numbers by address.
struct Users {
    by_number: Keyspace,
    by_address: Keyspace,
}

impl Users {
    fn new(db: &Database) -> isolith::Result<Self> {
        Ok(Self { by_number: db.keyspace("users")?, by_address: db.keyspace("users-by-address")? })
    }

    /// Gives the user this address, in place of the one before; false if it is taken.
    fn sign_up(&self, tx: &mut Transaction, user: &str, address: &str) -> isolith::Result<bool> {
        if tx.contains(&self.by_address, address)? {
            return Ok(false);
        }
        if let Some(old) = tx.get(&self.by_number, user)? {
            tx.delete(&self.by_address, old)?;
        }
        tx.put(&self.by_number, user, address)?;
        tx.put(&self.by_address, address, user)?;
        Ok(true)
    }

    /// The number of users, if each of them has an address of their own.
    fn check(&self, db: &Database) -> isolith::Result<Option<usize>> {
        let snapshot = db.snapshot()?;
        let mut users = 0;
        for pair in snapshot.range(&self.by_number, ..) {
            let (user, address) = pair?;
            if snapshot.get(&self.by_address, address)? != Some(user) {
                return Ok(None);
            }
            users += 1;
        }
        let entries = snapshot.range(&self.by_address, ..).count();
        Ok((entries == users).then_some(users))
    }
}

fn main() -> Outcome {
    show(common::modes(&LEVELS)?, common::WHILE)
}

pub(crate) fn show(modes: Vec<Mode>, length: Duration) -> Outcome {
    modes.into_iter().try_for_each(|mode| run(mode, length))?;
    share_an_address()
}

fn run(mode: Mode, length: Duration) -> Outcome {
    let db = Database::in_memory();
    let users = Users::new(&db)?;
    let load = Load::run(length, |load, dice| {
        let user = format!("user {:02}", dice.below(USERS));
        let address = format!("{}@example.org", dice.below(ADDRESSES));
        db.transact_with(mode.options(), |tx| {
            load.tried();
            users.sign_up(tx, &user, &address).map(drop)
        })
    })?;
    match users.check(&db)? {
        Some(count) => {
            println!("{mode} {load}; {count} users, each with an address of their own");
            Ok(())
        }
        None => Err("two users have one address, or the index is wrong".into()),
    }
}

/// Two sign up at read committed: both find the address free. One level up the second is refused.
fn share_an_address() -> Outcome {
    for (isolation, expected) in [(Isolation::ReadCommitted, None), (Isolation::Snapshot, Some(1))]
    {
        let db = Database::in_memory();
        let users = Users::new(&db)?;
        let options = TransactionOptions { isolation, ..Default::default() };
        let (mut first, mut second) = (db.begin_with(options)?, db.begin_with(options)?);
        users.sign_up(&mut first, "ada", "a@example.org")?;
        users.sign_up(&mut second, "alan", "a@example.org")?;
        first.commit()?;
        let refused = second.commit().is_err();
        let outcome = if refused { "the second is refused" } else { "both get it" };
        println!("{isolation}: two sign up with one address: {outcome}");
        if users.check(&db)? != expected {
            return Err("something else was expected".into());
        }
    }
    Ok(())
}
