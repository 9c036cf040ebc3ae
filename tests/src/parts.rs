//! Large compactions in parts, with values beside their keys and apart from them, against a map: now and
//! for a snapshot, after a part that failed, and after opening again.

use std::collections::BTreeMap;

use isolith::merge::APPEND;
use isolith::steps::Steps;
use isolith::storage::faulty::{DiskKind, Fault, FaultyStorage, Operation};
use isolith::{Builder, Database, Keyspace, Pair, Snapshot};

use crate::dice::Dice;
use crate::finding::{Checked, Finding};
use crate::{ensure, ensure_eq};

/// Keys that are written.
const KEYS: usize = 900;
/// Threads that take parts, if there were any: without them the caller does one part after the other.
const PARTS: usize = 4;
/// Writes between two looks.
const WRITES: usize = 2_500;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn unexpected(error: impl std::fmt::Display) -> Finding {
    Finding::new(format!("an unexpected error: {error}"))
}

fn open(disk: &FaultyStorage, large_values: usize) -> Checked<(Database, Keyspace)> {
    let builder = Builder::in_memory().storage(disk.as_storage()).threads(false);
    let builder = builder.background_threads(PARTS).large_values(large_values);
    let builder = builder.memtable_bytes(16 << 10).file_bytes(4 << 10).segment_bytes(64 << 10);
    let db = builder.memory(4 << 20).open().map_err(unexpected)?;
    let keyspace = db.keyspace("data").map_err(unexpected)?;
    Ok((db, keyspace))
}

/// Puts, deletes, merges and range deletes.
fn write(keyspace: &Keyspace, model: &mut Model, dice: &mut Dice) -> isolith::Result<()> {
    for step in 0..WRITES {
        let key = format!("k{:03}", dice.below(KEYS)).into_bytes();
        match dice.below(100) {
            0..70 => {
                let value = format!("{step}{}", "v".repeat(dice.below(120))).into_bytes();
                keyspace.put(&key, &value)?;
                model.insert(key, value);
            }
            70..85 => {
                keyspace.delete(&key)?;
                model.remove(&key);
            }
            85..98 => {
                let operand = format!("+{step}");
                keyspace.merge(&key, APPEND, &operand)?;
                model.entry(key).or_default().extend(operand.bytes());
            }
            _ => {
                let end = [&key[..3], b"~"].concat();
                keyspace.delete_range(&key[..]..&end[..])?;
                model.retain(|known, _| *known < key || *known >= end);
            }
        }
    }
    Ok(())
}

fn same(found: impl Iterator<Item = isolith::Result<Pair>>, model: &Model, when: &str) -> Checked {
    let mut expected = model.iter();
    for pair in found {
        let (key, value) = pair.map_err(unexpected)?;
        let next = expected.next().map(|(key, value)| (&key[..], &value[..]));
        ensure_eq!(Some((&*key, &*value)), next, "{when}: {}", key.escape_ascii());
    }
    ensure!(expected.next().is_none(), "{when}: keys are missing at the end");
    Ok(())
}

/// A snapshot, and what has to be found there.
type Past = (Snapshot, Model);

fn look(keyspace: &Keyspace, model: &Model, past: Option<&Past>, when: &str) -> Checked {
    same(keyspace.range(..), model, when)?;
    for number in 0..KEYS {
        let key = format!("k{number:03}").into_bytes();
        let found = keyspace.get(&key).map_err(unexpected)?;
        ensure_eq!(
            found.as_deref(),
            model.get(&key).map(|value| &value[..]),
            "{when}: k{number:03}"
        );
    }
    if let Some((snapshot, model)) = past {
        same(snapshot.range(keyspace, ..), model, &format!("{when}, at a snapshot"))?;
    }
    Ok(())
}

/// Compacts in parts, again and again.
///
/// # Errors
/// What is not as in the map; a part whose failure is not told.
pub fn in_parts(seed: u64) -> Checked {
    for large_values in [0, 64] {
        let (disk, mut dice) = (FaultyStorage::new(DiskKind::Fua), Dice::new(seed));
        let mut model = Model::new();
        for life in 0..3 {
            let (db, keyspace) = open(&disk, large_values)?;
            let steps = Steps::new(&db);
            look(&keyspace, &model, None, &format!("opened for life {life}"))?;
            write(&keyspace, &mut model, &mut dice).map_err(unexpected)?;
            let past = (db.snapshot().map_err(unexpected)?, model.clone());
            write(&keyspace, &mut model, &mut dice).map_err(unexpected)?;
            steps.freeze(&keyspace);
            steps.flush().map_err(unexpected)?;
            disk.fail_next(Operation::Write, ".sst", Fault::Io);
            ensure!(steps.compact(&keyspace).is_err(), "a part has failed, and nobody is told");
            look(&keyspace, &model, Some(&past), "a part has failed")?;
            steps.compact(&keyspace).map_err(unexpected)?;
            look(&keyspace, &model, Some(&past), "compacted")?;
            drop(past);
            steps.compact(&keyspace).map_err(unexpected)?;
            look(&keyspace, &model, None, "compacted without a snapshot")?;
            let parts = db.stats().files.map_or(0, |files| files.compaction_parts);
            ensure!(parts > db.stats().files.map_or(0, |files| files.compactions), "no parts");
            drop((steps, keyspace));
            db.close().map_err(unexpected)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compactions_in_parts_keep_what_a_map_has() {
        for seed in 1..4 {
            in_parts(seed).unwrap_or_else(|finding| panic!("seed {seed}: {finding}"));
        }
    }
}
