//! What all cores share: the database, and the little that is not data.

use crate::acceptors::Newcomer;
use crate::acl::Users;
use crate::backups::Backups;
use crate::clients::{CLIENTS_MAX, Clients};
use crate::helpers::Helpers;
use crate::limits::Limits;
use crate::pause::Pause;
use crate::scans::Scans;
use crate::slowlog::SlowLog;
use crate::snapshots::Snapshots;
use crate::terms::Defaults;
use crate::tls::Acceptor;
use isolith::{Clock, Database, Error, Keyspace, SystemClock};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// SELECT's range. Each is a keyspace: `db0` … `db15`.
pub(crate) const DATABASES: u8 = 16;

/// One per process.
pub(crate) struct Shared {
    pub(crate) database: Database,
    /// One for each of [`DATABASES`], opened at start.
    keyspaces: Vec<Keyspace>,
    /// What transactions get that nobody wished anything for.
    pub(crate) defaults: Defaults,
    pub(crate) clients: Clients,
    /// The most at once.
    pub(crate) clients_max: usize,
    pub(crate) users: Users,
    pub(crate) pause: Pause,
    pub(crate) limits: Limits,
    pub(crate) snapshots: Mutex<Snapshots>,
    pub(crate) slowlog: SlowLog,
    pub(crate) backups: Backups,
    pub(crate) scans: Mutex<Scans>,
    pub(crate) helpers: Helpers,
    /// How many wide reads are under way: see `walk.rs`.
    pub(crate) walks: Arc<AtomicUsize>,
    /// Of each core, then of each helper.
    pub(crate) counters: Vec<Counters>,
    /// Set once, before the cores start.
    pub(crate) wakers: Vec<Waker>,
    /// Connections for each core that came another way than through its own listener.
    pub(crate) inboxes: Vec<Mutex<Vec<Newcomer>>>,
    /// For those that speak TLS, with the address that they come to.
    pub(crate) tls: Option<(Acceptor, SocketAddr)>,
    pub(crate) unix_socket: Option<PathBuf>,
    /// The configuration file, and the parameters that were set since it was read.
    pub(crate) config_file: Option<PathBuf>,
    pub(crate) config_changed: Mutex<BTreeSet<String>>,
    pub(crate) address: SocketAddr,
    pub(crate) directory: PathBuf,
    /// What the cores reach their sockets through.
    pub(crate) driver: &'static str,
    /// Unix milliseconds.
    pub(crate) since: u64,
    stopping: AtomicBool,
    /// See [`saved`](Shared::saved).
    saved: AtomicU64,
}

/// What one core (or helper) counts. Written by that thread alone, on a cache line pair of its own.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) commands: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) conflicts: Counter,
    pub(crate) refused: Counter,
    /// Parts of wide reads that were not their last.
    pub(crate) slices: Counter,
    /// Connections that were closed: for what they sent, for what they did not read, for their silence.
    pub(crate) protocol_errors: Counter,
    pub(crate) output_closed: Counter,
    pub(crate) idle_closed: Counter,
    /// Writes that were refused because too many wait for the disk.
    pub(crate) shed: Counter,
}

/// A figure with one writer.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        // Relaxed: one writer, and readers want a figure only; so no read-modify-write either.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        // Relaxed: a figure for a human.
        self.0.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// Opens the keyspaces.
    pub(crate) fn new(
        database: Database,
        defaults: Defaults,
        address: SocketAddr,
        directory: PathBuf,
        backups: Backups,
        wakers: Vec<Waker>,
        driver: &'static str,
    ) -> Result<Shared, Error> {
        let keyspaces = (0..DATABASES)
            .map(|db| database.keyspace(&format!("db{db}")))
            .collect::<Result<Vec<Keyspace>, Error>>()?;
        Ok(Shared {
            database,
            keyspaces,
            defaults,
            clients: Clients::default(),
            clients_max: CLIENTS_MAX,
            users: Users::default(),
            pause: Pause::default(),
            limits: Limits::default(),
            snapshots: Mutex::default(),
            slowlog: SlowLog::default(),
            backups,
            scans: Mutex::default(),
            helpers: Helpers::new(wakers.len()),
            walks: Arc::default(),
            counters: wakers.iter().map(|_| Counters::default()).collect(),
            inboxes: wakers.iter().map(|_| Mutex::default()).collect(),
            tls: None,
            unix_socket: None,
            config_file: None,
            config_changed: Mutex::default(),
            wakers,
            address,
            directory,
            driver,
            since: SystemClock.unix_millis(),
            stopping: AtomicBool::new(false),
            saved: AtomicU64::new(SystemClock.unix_millis()),
        })
    }

    /// The keyspace of a database number (which SELECT has checked).
    pub(crate) fn keyspace(&self, db: u8) -> &Keyspace {
        &self.keyspaces[usize::from(db % DATABASES)]
    }

    /// All of them.
    pub(crate) fn keyspaces(&self) -> &[Keyspace] {
        &self.keyspaces
    }

    /// Unix milliseconds.
    pub(crate) fn now_ms(&self) -> u64 {
        SystemClock.unix_millis()
    }

    /// When everything was on stable storage, as of the last time that somebody looked; Unix milliseconds.
    pub(crate) fn saved(&self) -> u64 {
        let (visible, now) = (self.database.visible(), self.now_ms());
        // Relaxed: a figure for a human.
        if self.database.durable() >= visible {
            self.saved.fetch_max(now, Ordering::Relaxed);
        }
        self.saved.load(Ordering::Relaxed)
    }

    /// The sum over the cores.
    pub(crate) fn total(&self, figure: impl Fn(&Counters) -> &Counter) -> u64 {
        self.counters.iter().map(|counters| figure(counters).value()).sum()
    }

    /// Asks all cores to finish what is in hand and to end.
    pub(crate) fn stop(&self) {
        // Release: pairs with the Acquire in `stopping`; the wake-up comes after.
        self.stopping.store(true, Ordering::Release);
        self.wake_all();
    }

    /// True once the server is stopping.
    pub(crate) fn stopping(&self) -> bool {
        // Acquire: pairs with the Release in `stop`.
        self.stopping.load(Ordering::Acquire)
    }

    /// Makes every core look around.
    pub(crate) fn wake_all(&self) {
        self.wakers.iter().for_each(Waker::wake_by_ref);
    }
}

/// Locks; a panic elsewhere does not matter to what these mutexes guard.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
