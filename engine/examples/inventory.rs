//! Goods in two warehouses that many sell from at once: never more than there are.
//!
//! ```text
//! cargo run --release -p isolith --example inventory               # in every mode
//! cargo run --release -p isolith --example inventory -- locking:no-wait serializable
//! ```
//!
//! Every sale promises that [`RESERVE`] pieces stay, over both warehouses together, and takes its piece
//! from one of them. So it depends on a key that it does not write: that is protected from repeatable
//! read up, but not under snapshot, where two sales from two warehouses pass each other by (write skew),
//! as the end shows.
//!
//! How many pieces have come and gone is one counter for everybody. It is not read but merged, and so
//! nobody is disturbed by it, in any mode.

pub(crate) mod common;

use std::time::Duration;

use common::{Load, Mode, Outcome};
use isolith::{Database, Isolation, Keyspace, Transaction, TransactionOptions, merge};

const WAREHOUSES: [&str; 2] = ["north", "south"];
/// Pieces that stay over both warehouses together.
const RESERVE: u64 = 10;
/// Pieces that a delivery brings.
const DELIVERY: u64 = 5;

/// The levels at which the reserve is safe.
pub(crate) const LEVELS: [Isolation; 2] = [Isolation::RepeatableRead, Isolation::Serializable];

fn main() -> Outcome {
    show(common::modes(&LEVELS)?, common::WHILE)
}

pub(crate) fn show(modes: Vec<Mode>, length: Duration) -> Outcome {
    modes.into_iter().try_for_each(|mode| run(mode, length))?;
    sell_the_reserve()
}

fn run(mode: Mode, length: Duration) -> Outcome {
    let db = Database::in_memory();
    let stock = open(&db)?;
    let balance = db.keyspace("balance")?;
    let load = Load::run(length, |load, dice| {
        let warehouse = WAREHOUSES[dice.below(2) as usize];
        let delivery = dice.below(DELIVERY + 1) == 0;
        db.transact_with(mode.options(), |tx| {
            load.tried();
            let pieces = match delivery {
                true => deliver(tx, &stock, warehouse)?,
                false if sell(tx, &stock, warehouse)? => -1,
                false => 0,
            };
            tx.merge(&balance, "pieces", merge::ADD_I64, pieces.to_string())
        })?;
        assert!(total(&db, &stock)? >= RESERVE, "the reserve is there at every moment");
        Ok(())
    })?;
    let left = total(&db, &stock)?;
    println!("{mode} {load}; {left} pieces are left");
    if left < RESERVE {
        return Err("more was sold than there was".into());
    }
    let balance = balance.get("pieces")?.unwrap_or_default();
    match String::from_utf8_lossy(&balance).parse::<i64>()? == left as i64 - RESERVE as i64 {
        true => Ok(()),
        false => Err("the counter and the warehouses do not agree".into()),
    }
}

fn open(db: &Database) -> isolith::Result<Keyspace> {
    let stock = db.keyspace("stock")?;
    for warehouse in WAREHOUSES {
        stock.put(warehouse, (RESERVE / 2).to_be_bytes())?;
    }
    Ok(stock)
}

fn pieces(tx: &Transaction, stock: &Keyspace, warehouse: &str) -> isolith::Result<u64> {
    Ok(tx.get(stock, warehouse)?.map_or(0, |value| number(&value)))
}

/// Brings pieces; how many.
fn deliver(tx: &mut Transaction, stock: &Keyspace, warehouse: &str) -> isolith::Result<i64> {
    let there = pieces(tx, stock, warehouse)?;
    tx.put(stock, warehouse, (there + DELIVERY).to_be_bytes())?;
    Ok(DELIVERY as i64)
}

/// Takes a piece from this warehouse, if the reserve is still there afterwards.
fn sell(tx: &mut Transaction, stock: &Keyspace, warehouse: &str) -> isolith::Result<bool> {
    let mut sum = 0;
    for place in WAREHOUSES {
        sum += pieces(tx, stock, place)?;
    }
    let there = pieces(tx, stock, warehouse)?;
    if sum <= RESERVE || there == 0 {
        return Ok(false);
    }
    tx.put(stock, warehouse, (there - 1).to_be_bytes())?;
    Ok(true)
}

fn total(db: &Database, stock: &Keyspace) -> isolith::Result<u64> {
    let snapshot = db.snapshot()?;
    snapshot.range(stock, ..).map(|pair| Ok(number(&pair?.1))).sum()
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

/// One piece more than the reserve, and two sales, one from each warehouse. Under snapshot both go
/// through; one level up the second is refused.
fn sell_the_reserve() -> Outcome {
    for (isolation, expected) in
        [(Isolation::Snapshot, RESERVE - 1), (Isolation::Serializable, RESERVE)]
    {
        let db = Database::in_memory();
        let stock = open(&db)?;
        stock.put(WAREHOUSES[0], (RESERVE / 2 + 1).to_be_bytes())?;

        let options = TransactionOptions { isolation, ..Default::default() };
        let (mut first, mut second) = (db.begin_with(options)?, db.begin_with(options)?);
        sell(&mut first, &stock, WAREHOUSES[0])?;
        sell(&mut second, &stock, WAREHOUSES[1])?;
        first.commit()?;
        let outcome = if second.commit().is_ok() { "both go through" } else { "one is refused" };

        let left = total(&db, &stock)?;
        println!("{isolation}: one piece too many, two sales: {outcome}, {left} of {RESERVE} left");
        if left != expected {
            return Err(format!("{expected} was expected").into());
        }
    }
    Ok(())
}
