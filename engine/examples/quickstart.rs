//! The ten lines of the README: `cargo run --release -p isolith --example quickstart`.

use isolith::Database;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let db = Database::open("quickstart-data")?;
    let accounts = db.keyspace("accounts")?;
    accounts.put("alice", "100")?;
    accounts.put("bob", "20")?;

    // Moves 30 from alice to bob, or does nothing; runs again if somebody else was faster.
    db.transact(|tx| {
        let read = |name: &str| -> isolith::Result<i64> {
            let balance = tx.get(&accounts, name)?.unwrap_or_default();
            String::from_utf8_lossy(&balance).parse().map_err(|error| tx.abort(error))
        };
        let (alice, bob) = (read("alice")?, read("bob")?);
        if alice < 30 {
            return Err(tx.abort("alice has too little"));
        }
        tx.put(&accounts, "alice", (alice - 30).to_string())?;
        tx.put(&accounts, "bob", (bob + 30).to_string())
    })?;

    for pair in accounts.range("a".."c") {
        let (name, balance) = pair?;
        println!("{} has {}", name.escape_ascii(), balance.escape_ascii());
    }
    Ok(())
}
