//! A database: how it is opened, used and closed.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isolith_txn::{Concurrency, DeadlockPolicy, Watermarks};
use isolith_wal::{BackendChoice, Lsn, ReplayReport};

use crate::background::Background;
use crate::catalog::KeyspaceOptions;
use crate::core::{Core, Recovered, log_error, thread_hint};
use crate::error::{Error, OpenError, Result, Retry};
use crate::keyspace::{Entry, Keyspace};
use crate::options::{Builder, TransactionOptions};
use crate::pending::{CommitInfo, Pending};
use crate::snapshot::Snapshot;
use crate::stats::{KeyspaceStats, Stats};
use crate::transaction::{Observed, Transaction};
use crate::verify::{Verify, VerifyProgress, VerifyReport};

/// What every handle of a user holds: the last one gone closes the database.
#[derive(Debug)]
pub(crate) struct Open {
    core: Arc<Core>,
}

impl Deref for Open {
    type Target = Core;

    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // What fails here can be reported to nobody (see `Database`); recovery copes with it.
        let _ = self.core.close();
    }
}

impl Open {
    /// What is shared, without the hold on the database's being open.
    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn snapshot(self: &Arc<Self>, mark: fn(&Watermarks) -> Lsn) -> Result<Snapshot> {
        self.check_open()?;
        Ok(Snapshot::new(Arc::clone(self), self.register_snapshot(mark)?))
    }

    pub(crate) fn begin(self: &Arc<Self>, options: TransactionOptions) -> Result<Transaction> {
        Transaction::new(Arc::clone(self), options)
    }

    /// Runs `body` in transactions until one commits or the error is not worth a retry.
    pub(crate) fn transact<T>(
        self: &Arc<Self>,
        options: TransactionOptions,
        mut body: impl FnMut(&mut Transaction) -> Result<T>,
    ) -> Result<T> {
        let mut options = options;
        let mut backoff = Backoff::new(self.seed());
        loop {
            let mut transaction = self.begin(options)?;
            let result =
                body(&mut transaction).and_then(|value| transaction.commit().map(|_| value));
            match result {
                Err(error) if matches!(error.retry(), Retry::Now | Retry::WithLocks) => {
                    // From the second try on it goes before whoever came later.
                    options.age.get_or_insert_with(|| self.locks().next_age());
                    backoff.wait();
                    if options.concurrency == Concurrency::Auto && backoff.tries >= AUTO_TRIES {
                        self.count_escalation();
                        options.concurrency = Concurrency::Locking(DeadlockPolicy::WoundWait);
                    }
                }
                result => return result,
            }
        }
    }
}

/// Tries of a transaction with [`Concurrency::Auto`] before it locks everything.
const AUTO_TRIES: u32 = 8;

/// A handle on an open database. Cheap to clone, usable from any thread.
///
/// # Close, drop, fork, panic
///
/// - The last handle dropped ([`Database`], [`Keyspace`], [`Transaction`], [`Snapshot`],
///   [`Pending`] and iterators are all handles) closes the database as
///   [`Database::close`] does: everything committed is written and synced, then a mark says that the
///   shutdown was clean. A failure at that point cannot be reported by `drop`; call `close` to see it.
/// - After `close` every operation answers [`Error::Closed`].
/// - A forked child must not use a database that its parent opened: every operation there answers
///   [`Error::Forked`], and nothing is written. The parent is not disturbed.
/// - A panic inside [`Database::transact`] rolls its transaction back and goes on to the caller; the
///   database stays usable.
#[derive(Clone, Debug)]
pub struct Database {
    open: Arc<Open>,
}

impl Database {
    /// Opens the database in a directory with the default options, creating it if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Database, OpenError> {
        Self::builder(path).open()
    }

    /// Options for the database in a directory.
    pub fn builder(path: impl AsRef<Path>) -> Builder {
        Builder::new(Some(path.as_ref()))
    }

    /// A database that lives in memory alone, with the default options.
    pub fn in_memory() -> Database {
        let builder = Builder::in_memory();
        let recovered = crate::recovery::in_memory(&builder);
        Self::start(&builder, recovered)
    }

    pub(crate) fn open_with(options: Builder) -> Result<Database, OpenError> {
        let recovered = crate::recovery::recover(&options)?;
        Ok(Self::start(&options, recovered))
    }

    pub(crate) fn handle(&self) -> &Arc<Open> {
        &self.open
    }

    fn start(options: &Builder, recovered: Recovered) -> Database {
        let core = Core::new(options, recovered);
        if options.starts_threads() {
            core.attend(Background::start(&core));
        }
        Database { open: Arc::new(Open { core }) }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.open.core()
    }

    /// Opens a keyspace, creating it durably if there is none of this name, with the default options. One
    /// that is there has the options that it has.
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        match self.keyspace_if_exists(name)? {
            Some(keyspace) => Ok(keyspace),
            None => self.define(name, KeyspaceOptions::default()),
        }
    }

    /// Opens a keyspace that has these options, creating it durably with them if there is none of this name.
    /// They are as durable as the keyspace, and need not be told again.
    ///
    /// ```
    /// # fn main() -> isolith::Result<()> {
    /// # let db = isolith::Database::in_memory();
    /// use isolith::{KeyspaceOptions, PrefixExtractor};
    /// use std::time::Duration;
    ///
    /// // Keys like `user:17`; a scan of one user's passes by files that have nothing of that user.
    /// let sessions = db.keyspace_with(
    ///     "sessions",
    ///     KeyspaceOptions {
    ///         prefix_filter: Some(PrefixExtractor::UpTo(b':')),
    ///         ttl: Some(Duration::from_secs(3600)),
    ///         ..KeyspaceOptions::default()
    ///     },
    /// )?;
    /// sessions.put("user:17", "here")?;
    /// assert!(sessions.get_entry("user:17")?.unwrap().expires_at.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::KeyspaceOptionsDiffer`] if it is there with others; [`Error::InvalidKeyspaceOptions`],
    /// [`Error::UnknownOperator`], [`Error::NeedsFeature`].
    pub fn keyspace_with(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        options.check(self.open.operators())?;
        let keyspace = match self.keyspace_if_exists(name)? {
            Some(keyspace) => keyspace,
            None => self.define(name, options.clone())?,
        };
        // Another thread may have been faster.
        let known = keyspace.options();
        if known == options {
            return Ok(keyspace);
        }
        let (keyspace, options) = (name.to_owned(), Box::new(known));
        Err(Error::KeyspaceOptionsDiffer { keyspace, options })
    }

    fn define(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        if name.is_empty() || name.len() > 255 {
            return Err(Error::InvalidKeyspaceName);
        }
        let (name, space) = self.open.core().define(name, options)?;
        Ok(Keyspace::new(Arc::clone(&self.open), space, name))
    }

    /// Opens a keyspace; `None` if there is none of this name.
    pub fn keyspace_if_exists(&self, name: &str) -> Result<Option<Keyspace>> {
        self.open.check_open()?;
        let named = self.open.named(name);
        Ok(named.map(|(name, space)| Keyspace::new(Arc::clone(&self.open), space, name)))
    }

    /// The names of all keyspaces, sorted.
    pub fn keyspaces(&self) -> Vec<String> {
        let mut names: Vec<_> =
            self.open.spaces().into_iter().map(|(name, _)| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// Drops a keyspace with all its keys; false if there is none of this name. Snapshots taken
    /// before go on reading it through the handles that they use; every other operation on it
    /// answers [`Error::KeyspaceDropped`].
    pub fn drop_keyspace(&self, name: &str) -> Result<bool> {
        self.open.core().drop_keyspace(name)
    }

    /// Begins a transaction with the database's defaults: serializable and optimistic, unless its
    /// [`Builder`] said otherwise.
    pub fn begin(&self) -> Result<Transaction> {
        self.begin_with(self.open.default_transaction())
    }

    /// Begins a transaction.
    pub fn begin_with(&self, options: TransactionOptions) -> Result<Transaction> {
        self.open.begin(options)
    }

    /// Begins a transaction that only reads: at the last acknowledged commit; it never aborts and
    /// never waits.
    pub fn begin_read_only(&self) -> Result<Transaction> {
        self.begin_with(TransactionOptions { read_only: true, ..Default::default() })
    }

    /// Runs `body` in a transaction with the database's defaults and commits it; runs it again, in a
    /// new one of the same age, as long as the error is one to run again for at once
    /// ([`Retry::Now`], [`Retry::WithLocks`]). `body` may therefore run several times: keep side
    /// effects out of it. Leave with [`Transaction::abort`] to roll back with an error of your own.
    pub fn transact<T>(&self, body: impl FnMut(&mut Transaction) -> Result<T>) -> Result<T> {
        self.transact_with(self.open.default_transaction(), body)
    }

    /// [`Database::transact`] with options.
    pub fn transact_with<T>(
        &self,
        options: TransactionOptions,
        body: impl FnMut(&mut Transaction) -> Result<T>,
    ) -> Result<T> {
        self.open.transact(options, body)
    }

    /// A consistent view at the last acknowledged commit.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.open.snapshot(Watermarks::acknowledged)
    }

    /// A consistent view at a timestamp of the past: that of a live [`Snapshot`], or any that
    /// [`Builder::retention`] still keeps; [`Error::SnapshotTooOld`] for others. A timestamp beyond the
    /// last acknowledged commit is refused with [`Error::TimestampAhead`]. What was kept is not kept
    /// over a restart.
    ///
    /// Where a live snapshot is joined, the two are as old as the older one: they expire together.
    pub fn snapshot_at(&self, timestamp: Lsn) -> Result<Snapshot> {
        self.open.check_open()?;
        Ok(Snapshot::new(Arc::clone(&self.open), self.open.register_at(timestamp)?))
    }

    /// The timestamp to read at for the state at a time (Unix milliseconds): that of the last commit
    /// known to have been acknowledged by then, to within a thousandth of the retention window and
    /// 20 ms. `None` before the window, and without [`Builder::retention`].
    pub fn timestamp_at(&self, unix_ms: u64) -> Option<Lsn> {
        self.open.timestamp_at(unix_ms)
    }

    /// A consistent view that includes the commit `token`, which the caller made itself and which
    /// may not be acknowledged yet. What it shows is acknowledged once [`Database::acknowledged`]
    /// has reached the view's timestamp.
    pub fn snapshot_after(&self, token: Lsn) -> Result<Snapshot> {
        if token > self.open.marks().acknowledged() {
            self.open.snapshot(Watermarks::visible)
        } else {
            self.snapshot()
        }
    }

    /// Reads a key so that the commit `token`, which the caller made itself and which may not be
    /// acknowledged yet, is seen. The result is acknowledged once [`Database::acknowledged`] has
    /// reached `observed`.
    pub fn get_after(
        &self,
        keyspace: &Keyspace,
        key: impl AsRef<[u8]>,
        token: Lsn,
    ) -> Result<Observed<Option<Entry>>> {
        keyspace.check(&self.open)?;
        let (value, observed) = keyspace.entry_after(key.as_ref(), token)?;
        Ok(Observed { value, observed })
    }

    /// The last commit that somebody may have been told of: where snapshots begin.
    pub fn acknowledged(&self) -> Lsn {
        self.open.marks().acknowledged()
    }

    /// The last commit that is decided and installed.
    pub fn visible(&self) -> Lsn {
        self.open.marks().visible()
    }

    /// The last commit that is on stable storage.
    pub fn durable(&self) -> Lsn {
        if self.open.log().is_none() { self.visible() } else { self.open.marks().durable() }
    }

    /// A future that is ready once everything at or below `observed` is acknowledged.
    pub fn pending(&self, observed: Lsn) -> Pending {
        let info = CommitInfo { timestamp: None };
        // Nothing beyond has been seen by anybody; nor would it ever be acknowledged.
        let at = observed.min(self.visible());
        Pending::new(Arc::clone(&self.open), info, at, self.open.default_durability())
    }

    /// A future that is ready once everything at or below `observed` is on stable storage, whatever durability
    /// it was committed with.
    pub fn pending_durable(&self, observed: Lsn) -> Pending {
        let at = observed.min(self.visible());
        let info = CommitInfo { timestamp: Some(at) };
        Pending::new(Arc::clone(&self.open), info, at, isolith_wal::Durability::Sync)
    }

    /// Hands the commits so far to the operating system, in the calling thread, if the log has nothing under
    /// way and none of them has to be on stable storage: that takes one copy into the system's memory. For a
    /// thread that polls [`Pending`]s of [`Durability::Os`](crate::Durability::Os) and would rather write than
    /// be woken: call it before the poll, which finds them ready. It never syncs and waits for no other thread;
    /// like every write to a file it may take long where the system has too much to write already. `false`: it
    /// wrote nothing, and the polls leave that to the engine's own thread.
    pub fn write_to_kernel(&self) -> bool {
        self.open.log().is_some_and(|log| log.write_to_kernel())
    }

    /// Makes every commit so far as durable as [`Durability::Sync`](crate::Durability::Sync).
    pub fn sync(&self) -> Result<()> {
        self.open.check_open()?;
        match self.open.log() {
            Some(log) => log.sync().map_err(log_error),
            None => Ok(()),
        }
    }

    /// Writes everything that is in memory to files, and all files anew, to the lowest level: whatever nobody
    /// can see any more is gone then, and its space given back. Reads and writes go on meanwhile. In memory
    /// it does nothing.
    pub fn compact(&self) -> Result<()> {
        self.open.check_open()?;
        match self.open.files() {
            Some(files) => Ok(files.compact_everything(self.open.core())?),
            None => Ok(()),
        }
    }

    /// Writes what is in memory to files now. It is in the log in any case; the next opening is faster, and
    /// the log shorter.
    pub fn flush(&self) -> Result<()> {
        self.open.check_open()?;
        match self.open.files() {
            Some(files) => Ok(files.flush_everything(self.open.core())?),
            None => Ok(()),
        }
    }

    /// Checks every file of the database and its log, while it is used. What is found is in the report; an
    /// error says that it could not be looked at. In memory there is nothing to check.
    pub fn verify(&self, how: Verify) -> Result<VerifyReport> {
        self.verify_with(how, &mut |_, _| {})
    }

    /// [`Database::verify`], telling how far it has come: bytes of files, and of how many.
    pub fn verify_with(
        &self,
        how: Verify,
        progress: &mut VerifyProgress<'_>,
    ) -> Result<VerifyReport> {
        self.open.check_open()?;
        crate::verify::verify_open(self.open.core(), how, progress)
    }

    /// Closes the database: everything committed is written and synced. Every handle's operations
    /// answer [`Error::Closed`] from now on. Idempotent.
    pub fn close(&self) -> Result<()> {
        self.open.close()
    }

    /// How the log is written, and why so; `None` in memory.
    pub fn backend(&self) -> Option<&BackendChoice> {
        self.open.backend()
    }

    /// What opening found in the log: how much was replayed, and whether a torn tail was cut; `None`
    /// in memory.
    pub fn recovery(&self) -> Option<&ReplayReport> {
        self.open.recovery()
    }

    /// What each keyspace holds, by name.
    pub fn keyspace_stats(&self) -> Vec<KeyspaceStats> {
        self.open.keyspace_stats()
    }

    /// Counters and gauges.
    pub fn stats(&self) -> Stats {
        self.open.stats()
    }
}

/// Randomized exponential backoff between the tries of a transaction: at first a few spins, at most
/// about four milliseconds.
struct Backoff {
    random: u64,
    tries: u32,
}

impl Backoff {
    fn new(seed: u64) -> Self {
        Self {
            random: seed ^ (thread_hint() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            tries: 0,
        }
    }

    fn wait(&mut self) {
        // xorshift64: only spread is wanted.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.tries += 1;
        if self.tries <= 3 {
            // Whoever was in the way may be waiting for this core.
            for _ in 0..1 << self.tries {
                std::thread::yield_now();
            }
            return;
        }
        let micros_max = 1u64 << self.tries.min(12);
        std::thread::sleep(Duration::from_micros(self.random % micros_max));
    }
}

#[cfg(test)]
mod files;
#[cfg(test)]
mod history;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hostile_levels;
#[cfg(test)]
mod levels;
#[cfg(test)]
mod many;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod options;
#[cfg(test)]
mod parts;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod throttle;
#[cfg(test)]
mod values;
