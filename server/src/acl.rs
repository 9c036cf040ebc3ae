//! Users: who they are, who was refused what. A part of Redis's ACL.
//!
//! 1. A user never changes: a change puts another in its place and moves the generation. A session keeps its
//!    user and looks at the generation before each command, so that what was taken away is gone for all
//!    connections with the next command of each.
//! 2. The table is behind a mutex that is taken at AUTH, by the ACL commands, and by each session once after
//!    a change; never by a command on data otherwise.
//! 3. With a file, all users are of that file; ACL SAVE writes it anew, as a whole or not at all.

use crate::shared::lock;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

mod file;
mod user;

pub(crate) use user::{Denied, User};

/// Refusals that are kept, unless `acllog-max-len` says otherwise.
const LOG_ENTRIES: usize = 128;
/// Within this time the same refusal is counted, not listed again.
const LOG_GROUP_MS: u64 = 60_000;

/// All users.
pub(crate) struct Users {
    table: Mutex<BTreeMap<String, Arc<User>>>,
    /// Moves with each change of the table.
    generation: AtomicU64,
    refused: Mutex<VecDeque<Refused>>,
    refused_max: AtomicUsize,
    file: Option<PathBuf>,
}

/// A refusal, or several alike.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) count: u64,
    /// `auth`, `command` or `key`.
    pub(crate) reason: &'static str,
    /// `toplevel` or `multi`.
    pub(crate) context: &'static str,
    /// What it was about.
    pub(crate) object: Vec<u8>,
    pub(crate) user: String,
    /// The connection, as CLIENT LIST has it.
    pub(crate) client: String,
    /// Unix milliseconds, of the last.
    pub(crate) at: u64,
}

impl Default for Users {
    /// The default user alone, who may do everything.
    fn default() -> Users {
        Users::of(BTreeMap::new(), None)
    }
}

impl Users {
    fn of(mut table: BTreeMap<String, Arc<User>>, file: Option<&Path>) -> Users {
        table.entry("default".to_owned()).or_insert_with(|| Arc::new(User::open_default()));
        Users {
            table: Mutex::new(table),
            generation: AtomicU64::new(1),
            refused: Mutex::default(),
            refused_max: AtomicUsize::new(LOG_ENTRIES),
            file: file.map(Path::to_owned),
        }
    }

    /// Those of a file, or the default user alone, with this password if one is given. The error is a message
    /// for a human.
    pub(crate) fn open(file: Option<&Path>, password: Option<&str>) -> Result<Users, String> {
        let mut table = match file {
            Some(path) => file::read(path)?,
            None => BTreeMap::new(),
        };
        let default =
            table.entry("default".to_owned()).or_insert_with(|| Arc::new(User::open_default()));
        if let Some(password) = password {
            let mut user = User::clone(default);
            user.apply(b"resetpass")?;
            user.apply(&[b">", password.as_bytes()].concat())?;
            *default = Arc::new(user);
        }
        Ok(Users::of(table, file))
    }

    /// Moves with each change.
    pub(crate) fn generation(&self) -> u64 {
        // Acquire: pairs with the Release in `changed`; the table itself is behind its mutex.
        self.generation.load(Ordering::Acquire)
    }

    fn changed(&self) {
        // Release: pairs with the Acquire in `generation`.
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// A user, if there is one of this name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<User>> {
        lock(&self.table).get(name).cloned()
    }

    /// The user that a client is without a word: `default`, unless that has to prove itself.
    pub(crate) fn unproven(&self) -> Option<Arc<User>> {
        self.get("default").filter(|user| user.is_open())
    }

    /// The user who proves to be this one.
    pub(crate) fn prove(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        let known = std::str::from_utf8(name).ok().and_then(|name| self.get(name));
        // One who is not there takes as long as one who is.
        let user = known.unwrap_or_else(|| Arc::new(User::new("")));
        user.is_proven_by(password).then_some(user)
    }

    /// All users, by name.
    pub(crate) fn all(&self) -> Vec<Arc<User>> {
        lock(&self.table).values().cloned().collect()
    }

    /// Applies rules to a user, who is made if there is none; all of them or none. The error is the text of a
    /// reply.
    pub(crate) fn set<'a>(
        &self,
        name: &str,
        rules: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), String> {
        let mut table = lock(&self.table);
        let mut user = table.get(name).map_or_else(|| User::new(name), |user| User::clone(user));
        for rule in rules {
            user.apply(rule).map_err(|why| {
                // A password does not belong into an error.
                let rule = match rule {
                    [b'>' | b'<' | b'#' | b'!', ..] => "(a password)".into(),
                    rule => String::from_utf8_lossy(rule),
                };
                format!("ERR Error in ACL SETUSER modifier '{rule}': {why}")
            })?;
        }
        table.insert(name.to_owned(), Arc::new(user));
        self.changed();
        Ok(())
    }

    /// Gives the user `default` this password alone, or, if it is empty, none: then whoever connects is that
    /// user, as far as it is on. The error is the text of a reply.
    pub(crate) fn require(&self, password: &[u8]) -> Result<(), String> {
        let rules = match password {
            [] => vec![b"nopass".to_vec()],
            password => vec![b"resetpass".to_vec(), [b">", password].concat()],
        };
        self.set("default", rules.iter().map(Vec::as_slice))
    }

    /// Removes users; how many there were.
    pub(crate) fn remove<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut table = lock(&self.table);
        let gone = names.filter_map(|name| table.remove(std::str::from_utf8(name).ok()?)).count();
        self.changed();
        gone
    }

    /// Writes the file. The error is the text of a reply.
    pub(crate) fn save(&self) -> Result<(), String> {
        let path = self.file.as_deref().ok_or(NO_FILE)?;
        file::write(path, &self.all()).map_err(|error| {
            tracing::error!(%error, path = %path.display(), "the users are not saved");
            format!("ERR There was an error trying to save the ACLs: {error}")
        })
    }

    /// Takes all users from the file, which must be right as a whole. The error is the text of a reply.
    pub(crate) fn load(&self) -> Result<(), String> {
        let path = self.file.as_deref().ok_or(NO_FILE)?;
        let mut table = file::read(path).map_err(|why| format!("ERR {why}"))?;
        table.entry("default".to_owned()).or_insert_with(|| Arc::new(User::open_default()));
        *lock(&self.table) = table;
        self.changed();
        Ok(())
    }

    /// Notes a refusal.
    pub(crate) fn refuse(&self, entry: Refused) {
        let mut log = lock(&self.refused);
        let like = log.iter().position(|known| {
            known.reason == entry.reason
                && known.context == entry.context
                && known.object == entry.object
                && known.user == entry.user
                && entry.at.saturating_sub(known.at) < LOG_GROUP_MS
        });
        let before = like.and_then(|at| log.remove(at)).map_or(0, |known| known.count);
        log.push_front(Refused { count: before + entry.count, ..entry });
        log.truncate(self.refusals_max());
    }

    /// How many refusals are kept: `acllog-max-len`.
    pub(crate) fn refusals_max(&self) -> usize {
        // Relaxed: a figure; what it is for is behind a mutex.
        self.refused_max.load(Ordering::Relaxed)
    }

    /// Sets how many are kept, from the next refusal on.
    pub(crate) fn keep_refusals(&self, count: usize) {
        // Relaxed: see `refusals_max`.
        self.refused_max.store(count, Ordering::Relaxed);
    }

    /// The newest refusals.
    pub(crate) fn refusals(&self, count: usize) -> Vec<Refused> {
        lock(&self.refused).iter().take(count).cloned().collect()
    }

    /// Forgets them.
    pub(crate) fn forget_refusals(&self) {
        lock(&self.refused).clear();
    }
}

const NO_FILE: &str = "ERR This Redis instance is not configured to use an ACL file. You may want \
                       to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE \
                       (assuming you have a Redis configuration file set) in order to store users \
                       in the Redis configuration.";
