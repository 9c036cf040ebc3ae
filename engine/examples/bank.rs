//! Transfers between accounts by many threads at once: no money is made, and none is lost.
//!
//! ```text
//! cargo run --release -p isolith --example bank                    # in every mode
//! cargo run --release -p isolith --example bank -- locking:wait-die serializable
//! ```
//!
//! A transfer reads two balances and writes both. That is safe at every level that notices when what
//! was read, or what is written, has changed; at read committed it is not, as the end shows.

pub(crate) mod common;

use std::time::Duration;

use common::{Load, Mode, Outcome};
use isolith::{Database, Isolation, Keyspace, Transaction, TransactionOptions};

const ACCOUNTS: u64 = 16;
const START: u64 = 100;

/// The levels at which a transfer is safe.
pub(crate) const LEVELS: [Isolation; 3] =
    [Isolation::RepeatableRead, Isolation::Snapshot, Isolation::Serializable];

fn main() -> Outcome {
    show(common::modes(&LEVELS)?, common::WHILE)
}

pub(crate) fn show(modes: Vec<Mode>, length: Duration) -> Outcome {
    modes.into_iter().try_for_each(|mode| run(mode, length))?;
    lose_a_deposit()
}

fn run(mode: Mode, length: Duration) -> Outcome {
    let db = Database::in_memory();
    let accounts = db.keyspace("accounts")?;
    for account in 0..ACCOUNTS {
        accounts.put(account.to_be_bytes(), START.to_be_bytes())?;
    }

    let load = Load::run(length, |load, dice| {
        let (from, to) = (dice.below(ACCOUNTS), dice.below(ACCOUNTS));
        let amount = dice.below(START);
        if dice.below(50) == 0 {
            // Somebody who only reads is never refused and never waits.
            let seen = total(&db, &accounts)?;
            assert_eq!(seen, ACCOUNTS * START, "seen while transfers are under way");
        }
        // Runs again by itself if another transfer got in the way.
        db.transact_with(mode.options(), |tx| {
            load.tried();
            let available = balance(tx, &accounts, from)?;
            if from == to || available < amount {
                return Ok(());
            }
            let other = balance(tx, &accounts, to)?;
            tx.put(&accounts, from.to_be_bytes(), (available - amount).to_be_bytes())?;
            tx.put(&accounts, to.to_be_bytes(), (other + amount).to_be_bytes())
        })
    })?;

    let sum = total(&db, &accounts)?;
    println!("{mode} {load}; the sum is {sum}");
    match sum == ACCOUNTS * START {
        true => Ok(()),
        false => Err("money was made or lost".into()),
    }
}

fn balance(tx: &Transaction, accounts: &Keyspace, account: u64) -> isolith::Result<u64> {
    Ok(tx.get(accounts, account.to_be_bytes())?.map_or(0, |value| number(&value)))
}

fn total(db: &Database, accounts: &Keyspace) -> isolith::Result<u64> {
    let tx = db.begin_read_only()?;
    tx.range(accounts, ..).map(|pair| Ok(number(&pair?.1))).sum()
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// Two deposits at read committed: each reads 100, each adds to it, and the second overwrites the
/// first. One level up the second is refused.
fn lose_a_deposit() -> Outcome {
    for (isolation, expected) in [(Isolation::ReadCommitted, 120), (Isolation::Snapshot, 110)] {
        let db = Database::in_memory();
        let accounts = db.keyspace("accounts")?;
        accounts.put(0u64.to_be_bytes(), START.to_be_bytes())?;

        let options = TransactionOptions { isolation, ..Default::default() };
        let (mut first, mut second) = (db.begin_with(options)?, db.begin_with(options)?);
        let (one, two) = (balance(&first, &accounts, 0)?, balance(&second, &accounts, 0)?);
        first.put(&accounts, 0u64.to_be_bytes(), (one + 10).to_be_bytes())?;
        second.put(&accounts, 0u64.to_be_bytes(), (two + 20).to_be_bytes())?;
        first.commit()?;
        let answer = second.commit().map_or_else(|error| error.to_string(), |_| "done".to_owned());

        let left = total(&db, &accounts)?;
        println!("{isolation}: 100, and deposits of 10 (done) and of 20 ({answer}): {left}");
        if left != expected {
            return Err(format!("{expected} was expected").into());
        }
    }
    println!("At read committed, read what you are going to change with get_for_update.");
    Ok(())
}
