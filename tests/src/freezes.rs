//! Commits that a freeze comes between: what they were prepared for, and what they depend on, is not in the
//! memtable any more that is written to when they are decided.

use std::sync::Arc;

use isolith::steps::Steps;
use isolith::storage::memory::MemoryStorage;
use isolith::{
    Builder, CommitMode, CommitSteps, Concurrency, Database, Durability, Error, Isolation,
    Keyspace, Step, Transaction, TransactionOptions,
};

use crate::{Checked, Finding, ensure};

/// Where in the life of a commit the memtables are flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushed {
    /// While it waits for its decision.
    Queued,
    /// After it has read, before it is prepared.
    Read,
}

/// What the transaction depends on that another changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depends {
    Nothing,
    Key,
    AbsentKey,
    Range,
    /// It writes the key, and the first committer wins.
    Write,
}

struct World {
    db: Database,
    steps: Steps,
    keys: Keyspace,
}

impl World {
    fn new() -> Checked<Self> {
        let builder = Builder::in_memory().storage(Arc::new(MemoryStorage::new()));
        let builder = builder.commit_mode(CommitMode::Stepped).threads(false);
        let db = builder.durability(Durability::Buffered).open().map_err(unexpected)?;
        let steps = Steps::new(&db);
        let keys = steps.keyspace("keys").map_err(unexpected)?;
        let world = Self { db, steps, keys };
        world.put("known", "before")?;
        Ok(world)
    }

    fn put(&self, key: &str, value: &str) -> Checked {
        let mut transaction = self.db.begin().map_err(unexpected)?;
        transaction.put(&self.keys, key, value).map_err(unexpected)?;
        self.decide(transaction.commit_steps()).map_err(unexpected)
    }

    /// Steps rounds until a commit is decided.
    fn decide(&self, mut commit: CommitSteps) -> Result<(), Error> {
        loop {
            match commit.step() {
                Step::Ready(_) => return Ok(()),
                Step::Aborted(error) => return Err(error),
                Step::Blocked(_) => drop(self.steps.round(16)),
            }
        }
    }

    fn begin(&self, depends: Depends) -> Checked<Transaction> {
        let isolation = match depends {
            Depends::Write => Isolation::Snapshot,
            _ => Isolation::Serializable,
        };
        let concurrency = Concurrency::Optimistic;
        let options = TransactionOptions { isolation, concurrency, ..Default::default() };
        let transaction = self.db.begin_with(options).map_err(unexpected)?;
        match depends {
            Depends::Nothing => {}
            Depends::Key => drop(transaction.get(&self.keys, "known").map_err(unexpected)?),
            Depends::AbsentKey => drop(transaction.get(&self.keys, "new").map_err(unexpected)?),
            Depends::Range => drop(transaction.range(&self.keys, "m".."o").next()),
            // The timestamp is taken.
            Depends::Write => drop(transaction.get(&self.keys, "else").map_err(unexpected)?),
        }
        Ok(transaction)
    }
}

fn unexpected(error: impl std::fmt::Display) -> Finding {
    Finding::new(format!("unexpected: {error}"))
}

/// Every dependency, changed or not, with a flush at either place: what was changed is a conflict, what was
/// not is none, and what was committed is read.
pub fn across_a_freeze() -> Checked {
    use Depends::{AbsentKey, Key, Nothing, Range, Write};
    for depends in [Nothing, Key, AbsentKey, Range, Write] {
        for flushed in [Flushed::Queued, Flushed::Read] {
            for changed in [false, true] {
                let when = format!("{depends:?}, changed: {changed}, flushed: {flushed:?}");
                one(depends, flushed, changed)
                    .map_err(|finding| Finding::new(format!("{when}: {finding}")))?;
            }
        }
    }
    Ok(())
}

fn one(depends: Depends, flushed: Flushed, changed: bool) -> Checked {
    let world = World::new()?;
    let mut transaction = world.begin(depends)?;
    let other = match (changed, depends) {
        (false, _) | (_, Depends::Nothing) => "other",
        (_, Depends::Key | Depends::Write) => "known",
        (_, Depends::AbsentKey | Depends::Range) => "new",
    };
    world.put(other, "after")?;
    let own = if depends == Depends::Write { "known" } else { "own" };
    if flushed == Flushed::Read {
        world.db.flush().map_err(unexpected)?;
    }
    transaction.put(&world.keys, own, "mine").map_err(unexpected)?;
    let mut commit = transaction.commit_steps();
    let mut decided = None;
    if flushed == Flushed::Queued {
        match commit.step() {
            Step::Blocked(_) => world.db.flush().map_err(unexpected)?,
            // It was found before it was queued.
            Step::Aborted(error) => decided = Some(Err(error)),
            Step::Ready(_) => return Err(Finding::new("it was decided without a round")),
        }
    }
    let decided = decided.unwrap_or_else(|| world.decide(commit));
    let conflicts = changed && depends != Depends::Nothing;
    match decided {
        Ok(()) => {
            ensure!(!conflicts, "it was committed though what it depends on was changed");
            let found = world.keys.get(own).map_err(unexpected)?;
            ensure!(found.as_deref() == Some(b"mine"), "it was committed, and {found:?} is read");
        }
        Err(Error::Conflict { .. }) => {
            ensure!(conflicts, "it was refused though nothing was changed");
        }
        Err(other) => return Err(unexpected(other)),
    }
    let found = world.keys.get(other).map_err(unexpected)?;
    let expected = if conflicts || other != own { b"after".as_slice() } else { b"mine" };
    ensure!(found.as_deref() == Some(expected), "of the other's write {found:?} is read");
    Ok(())
}
