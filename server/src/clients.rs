//! Who is connected: what CLIENT LIST, CLIENT KILL and INFO know of the connections of all cores.
//!
//! A connection's record is written by its own core alone (apart from `killed`) and read by anyone;
//! the list of records is behind a mutex that is taken when a client comes, goes or is listed, never
//! by a command on data.

use crate::commands::{self, Spec};
use crate::shared::lock;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// The most connections at once, unless `--maxclients` says otherwise.
pub(crate) const CLIENTS_MAX: usize = 10_000;

/// One connection, as others see it.
pub(crate) struct Client {
    /// Never given twice.
    pub(crate) id: u64,
    pub(crate) peer: String,
    pub(crate) local: String,
    /// Unix milliseconds.
    pub(crate) since: u64,
    names: Mutex<Names>,
    // Relaxed everywhere below: each is a figure for a human, and orders nothing.
    db: AtomicU8,
    resp3: AtomicBool,
    used: AtomicU64,
    /// Commands queued by MULTI; -1 is `usize::MAX`.
    queued: AtomicUsize,
    watched: AtomicUsize,
    transaction: AtomicBool,
    /// Of its BEGIN transaction; 0 is none.
    age: AtomicU64,
    /// While its command waits for a lock: the ages of the transactions that stand in its way.
    waits_for: Mutex<Option<Vec<u64>>>,
    killed: AtomicBool,
}

#[derive(Default)]
struct Names {
    name: String,
    library: String,
    library_number: String,
    /// The last one that was not on data.
    command: Option<&'static Spec>,
    user: String,
}

/// Which of a client's names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Label {
    Name,
    Library,
    LibraryNumber,
}

/// What a session tells of itself.
pub(crate) struct Situation {
    pub(crate) db: u8,
    pub(crate) resp3: bool,
    pub(crate) queued: Option<usize>,
    pub(crate) watched: usize,
    pub(crate) transaction: bool,
}

impl Client {
    /// Sets one of its names.
    pub(crate) fn label(&self, label: Label, text: &str) {
        let mut names = lock(&self.names);
        let field = match label {
            Label::Name => &mut names.name,
            Label::Library => &mut names.library,
            Label::LibraryNumber => &mut names.library_number,
        };
        text.clone_into(field);
    }

    /// CLIENT SETNAME's name, empty if there is none.
    pub(crate) fn name(&self) -> String {
        lock(&self.names).name.clone()
    }

    /// Notes which user it is; empty: none yet.
    pub(crate) fn set_user(&self, name: &str) {
        name.clone_into(&mut lock(&self.names).user);
    }

    /// Which user it is.
    pub(crate) fn user(&self) -> String {
        lock(&self.names).user.clone()
    }

    /// Notes what it is doing; `now` in unix milliseconds.
    pub(crate) fn note(&self, now: u64, situation: &Situation) {
        // Relaxed: see the fields.
        self.used.store(now, Ordering::Relaxed);
        self.db.store(situation.db, Ordering::Relaxed);
        self.resp3.store(situation.resp3, Ordering::Relaxed);
        self.queued.store(situation.queued.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.watched.store(situation.watched, Ordering::Relaxed);
        self.transaction.store(situation.transaction, Ordering::Relaxed);
    }

    /// Notes its last administrative command (commands on data do not pay for this).
    pub(crate) fn note_command(&self, spec: &'static Spec) {
        lock(&self.names).command = Some(spec);
    }

    /// Notes the age of its transaction.
    pub(crate) fn age(&self, age: Option<u64>) {
        // Relaxed: see the fields.
        self.age.store(age.unwrap_or(0), Ordering::Relaxed);
    }

    /// Notes whom its command waits for; `None`: nobody.
    pub(crate) fn waits_for(&self, ages: Option<Vec<u64>>) {
        *lock(&self.waits_for) = ages;
    }

    /// Whom its command waits for, if it does.
    pub(crate) fn waiting(&self) -> Option<Vec<u64>> {
        lock(&self.waits_for).clone()
    }

    /// Asks its core to close it; the core must be woken.
    pub(crate) fn kill(&self) {
        // Release: pairs with the Acquire in `killed`; and the core is woken after this.
        self.killed.store(true, Ordering::Release);
    }

    /// True if it is to be closed.
    pub(crate) fn killed(&self) -> bool {
        // Acquire: pairs with the Release in `kill`.
        self.killed.load(Ordering::Acquire)
    }

    /// A line of CLIENT LIST, without its end.
    pub(crate) fn line(&self, now: u64) -> String {
        // Relaxed: see the fields.
        let queued = self.queued.load(Ordering::Relaxed);
        let mut flags = String::new();
        if queued != usize::MAX {
            flags.push('x');
        }
        if self.transaction.load(Ordering::Relaxed) {
            flags.push('T');
        }
        if lock(&self.waits_for).is_some() {
            flags.push('b');
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let names = lock(&self.names);
        let mut line = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd=-1 name={} age={} idle={} flags={flags} db={} sub=0 psub=0 \
             ssub=0 multi={} watch={} cmd={} user={} resp={} lib-name={} lib-ver={} tx-age={}",
            self.id,
            self.peer,
            self.local,
            names.name,
            now.saturating_sub(self.since) / 1000,
            // Relaxed: see the fields.
            now.saturating_sub(self.used.load(Ordering::Relaxed)) / 1000,
            self.db.load(Ordering::Relaxed),
            if queued == usize::MAX { -1 } else { queued as i64 },
            self.watched.load(Ordering::Relaxed),
            names.command.map_or_else(|| "NULL".into(), commands::full_name),
            if names.user.is_empty() { "(nobody)" } else { &names.user },
            if self.resp3.load(Ordering::Relaxed) { 3 } else { 2 },
            names.library,
            names.library_number,
            // Relaxed: see the fields.
            self.age.load(Ordering::Relaxed),
        );
        line
    }
}

/// All connections of all cores.
#[derive(Default)]
pub(crate) struct Clients {
    list: Mutex<BTreeMap<u64, Arc<Client>>>,
    next: AtomicU64,
}

impl Clients {
    /// Enters a new connection; `None` if there are `most` already.
    pub(crate) fn enter(
        &self,
        peer: String,
        local: String,
        now: u64,
        most: usize,
    ) -> Option<Arc<Client>> {
        let mut list = lock(&self.list);
        if list.len() >= most {
            return None;
        }
        let client = Arc::new(Client {
            // Relaxed: a counter; nothing else is ordered by it.
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            local,
            since: now,
            names: Mutex::default(),
            db: AtomicU8::new(0),
            resp3: AtomicBool::new(false),
            used: AtomicU64::new(now),
            queued: AtomicUsize::new(usize::MAX),
            watched: AtomicUsize::new(0),
            transaction: AtomicBool::new(false),
            age: AtomicU64::new(0),
            waits_for: Mutex::default(),
            killed: AtomicBool::new(false),
        });
        list.insert(client.id, client.clone());
        Some(client)
    }

    /// Removes a connection that is gone.
    pub(crate) fn leave(&self, id: u64) {
        lock(&self.list).remove(&id);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.list).len()
    }

    /// How many there have ever been.
    pub(crate) fn ever(&self) -> u64 {
        // Relaxed: a figure for a human.
        self.next.load(Ordering::Relaxed)
    }

    /// All of them, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.list).values().cloned().collect()
    }
}
