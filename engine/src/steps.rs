//! A test's hand on the clockwork: with [`CommitMode::Stepped`](crate::CommitMode::Stepped) nothing
//! happens by itself, so that any interleaving of any number of transactions can be driven from one
//! thread.
//!
//! ```
//! use isolith::{Builder, BlockedBy, CommitMode, Step};
//!
//! let db = Builder::in_memory().commit_mode(CommitMode::Stepped).open()?;
//! let steps = isolith::steps::Steps::new(&db);
//! let accounts = steps.keyspace("accounts")?;
//!
//! let mut tx = db.begin()?;
//! tx.put(&accounts, "alice", "100")?;
//! let mut commit = tx.commit_steps();
//! assert!(matches!(commit.step(), Step::Blocked(BlockedBy::Round)));
//! assert_eq!(steps.round(1), 1);
//! assert!(matches!(commit.step(), Step::Ready(_)));
//! # Ok::<(), isolith::Error>(())
//! ```

use isolith_txn::LockStats;

use crate::database::Database;
use crate::error::Result;
use crate::keyspace::Keyspace;

/// Steps a database whose commit mode is `Stepped`.
#[derive(Clone, Debug)]
pub struct Steps {
    db: Database,
}

impl Steps {
    /// Steps for `db`.
    pub fn new(db: &Database) -> Self {
        Self { db: db.clone() }
    }

    /// Decides up to `requests` (at most 16) of the queued requests, oldest first; returns how many
    /// there were.
    pub fn round(&self, requests: usize) -> usize {
        self.db.core().pipeline().step(requests)
    }

    /// Makes everything that is visible durable.
    pub fn log(&self) -> Result<()> {
        self.db.sync()
    }

    /// One round of upkeep: expired values are queued for deletion, chains are pruned.
    pub fn upkeep(&self) {
        crate::background::Sweeps::default().round(self.db.core());
    }

    /// Freezes what was written to a keyspace: what comes later goes to another memtable. In memory, and
    /// where nothing was written, it does nothing.
    pub fn freeze(&self, keyspace: &Keyspace) {
        let core = self.db.core();
        if let Some(files) = core.files() {
            files.freeze(core, keyspace.space());
        }
    }

    /// Writes frozen memtables to files. In memory it does nothing.
    pub fn flush(&self) -> Result<()> {
        let core = self.db.core();
        match core.files() {
            Some(files) => Ok(files.flush_frozen(core).map(drop)?),
            None => Ok(()),
        }
    }

    /// Writes all files of a keyspace anew to its lowest level. In memory it does nothing.
    pub fn compact(&self, keyspace: &Keyspace) -> Result<()> {
        let core = self.db.core();
        match core.files() {
            Some(files) => Ok(files.compact_fully(core, keyspace.space())?),
            None => Ok(()),
        }
    }

    /// Locks held and waited for at the moment.
    pub fn locks(&self) -> LockStats {
        self.db.core().locks().stats()
    }

    /// All keys are cold: nobody has fought for any of them.
    pub fn cool(&self) {
        self.db.core().heat().cool();
    }

    /// Makes a key hot, as if transactions had been fighting for it.
    pub fn heat(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) {
        for _ in 0..8 {
            self.db.core().warm(keyspace.space().id, key.as_ref(), usize::MAX);
        }
    }

    /// Whether a key is hot. Another one may have made it so: buckets are shared.
    pub fn is_hot(&self, keyspace: &Keyspace, key: impl AsRef<[u8]>) -> bool {
        let (space, now) = (keyspace.space().id, self.db.visible());
        self.db.core().heat().is_hot(space, key.as_ref(), now)
    }

    /// Opens or creates a keyspace, leading the round that this takes.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.leading(|| self.db.keyspace(name))
    }

    /// Drops a keyspace, leading the rounds that this takes; false if there is none of that name. What
    /// was queued before is decided before.
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        self.leading(|| self.db.drop_keyspace(name))
    }

    /// Decides what is queued until `work`, which waits for that, is done.
    fn leading<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let worker = scope.spawn(work);
            while !worker.is_finished() {
                self.round(1);
                std::thread::yield_now();
            }
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
