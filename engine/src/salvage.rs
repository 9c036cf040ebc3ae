//! Takes out of a damaged database what is sound, into a new one, and tells what was lost.
//!
//! ```text
//!   manifest ──► which files are live          sound: those, and no others
//!                                              else:  every file that is there, by what it says of itself
//!   files ─────► blocks that check, versions   what does not check is told, with the keys between which it lay
//!   value files ─► values that check           each by the reference that its key has
//!   log ───────► records up to the first hole  behind it none, though they may be sound
//!                        │
//!                        ▼
//!   for each keyspace: versions merged by key and stamp ──► the newest of each key ──► bulk load into OUT
//! ```
//!
//! 1. The damaged database is only read.
//! 2. Nothing is taken that does not check. Each commit of the log is taken whole or not at all, and up to the
//!    first hole only: what was committed later may build on what is lost. So of what is in the log alone OUT
//!    has a state that there was.
//! 3. Stamps decide: the newest version or delete that was found of a key counts, wherever it was found. Where
//!    something newer is lost, what is older comes back; what is lost is told, as a range of keys as far as that
//!    is known.
//! 4. A key that lies in nothing that was told as lost has the value that it had.
//! 5. OUT has no history: one version of each key. Keyspaces keep their options, but for those whose name is lost.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use isolith_txn::Interval;
use isolith_wal::storage::syscall::SyscallStorage;
use isolith_wal::{Lsn, Storage};

use crate::catalog::KeyspaceOptions;
use crate::database::Database;
use crate::error::{Error, OpenError, Result};
use crate::options::{Builder, NEVER};
use crate::recovery::{self, PARTIAL};
use crate::verify::Damage;

mod inventory;
mod logged;
mod merging;

use inventory::{Inventory, Named};
use merging::Values;

/// Something that could not be recovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostPiece {
    /// The file that it was in.
    pub file: String,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The keyspace that it was of; `None`: it may have been any.
    pub keyspace: Option<String>,
    /// The keys that it may have said something about; `None`: any key.
    pub keys: Option<Interval>,
    /// What it was, and why it is lost.
    pub what: String,
}

impl fmt::Display for LostPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, offset {}: {}", self.file, self.offset, self.what)?;
        if let Some(keyspace) = &self.keyspace {
            write!(f, "; keyspace '{keyspace}'")?;
        }
        if let Some(keys) = &self.keys {
            write!(f, "; keys in {keys}")?;
        }
        Ok(())
    }
}

/// A keyspace of the new database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SalvagedKeyspace {
    /// Its name.
    pub name: String,
    /// Whether its own name was lost, and this one was made up from its number.
    pub made_up: bool,
    /// Keys that it has.
    pub keys: u64,
}

/// What became of a damaged database.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SalvageReport {
    /// The keyspaces of the new database, by name.
    pub keyspaces: Vec<SalvagedKeyspace>,
    /// Keys of all of them.
    pub keys: u64,
    /// Sorted files that something was taken from.
    pub files: u64,
    /// Commits taken from the log.
    pub records: u64,
    /// The last of them.
    pub last: Lsn,
    /// What was lost.
    pub lost: Vec<LostPiece>,
    /// What is damaged, and cost nothing.
    pub damage: Vec<Damage>,
    /// What else there is to know.
    pub notes: Vec<String>,
}

impl SalvageReport {
    /// Whether the new database has everything.
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }
}

/// Is told how many bytes of the files were looked at, and of how many.
pub type SalvageProgress<'p> = dyn FnMut(u64, u64) + 'p;

/// Takes what is sound out of the database in `from`, which nobody has open for writing and which is only
/// read, into the new one that `into` says: its directory must be empty, or not be there. The merge operators
/// that values need are those of `into`.
///
/// ```
/// # let directory = tempfile::tempdir()?;
/// # let (damaged, new) = (directory.path().join("damaged"), directory.path().join("new"));
/// use isolith::Database;
///
/// let db = Database::open(&damaged)?;
/// db.keyspace("accounts")?.put("alice", "100")?;
/// db.close()?;
/// drop(db);
///
/// let report = isolith::salvage(&damaged, Database::builder(&new), &mut |_, _| {})?;
/// assert!(report.is_complete());
/// let db = Database::open(&new)?;
/// assert_eq!(db.keyspace("accounts")?.get("alice")?.as_deref(), Some(&b"100"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Open`] if `from` cannot be looked at, nothing says which database it is, or `into` is not new; any
/// error of writing. What was written until then stays, and is not opened by anybody
/// ([`OpenError::Partial`]): remove it, and salvage again.
pub fn salvage(
    from: impl AsRef<Path>,
    into: Builder,
    progress: &mut SalvageProgress<'_>,
) -> Result<SalvageReport> {
    let storage = recovery::open_existing(from.as_ref())?;
    recovery::refuse_foreign(&*storage)?;
    let _lock = recovery::lock_shared(&*storage)?;
    refuse_within(&*storage, &into)?;
    salvage_storage(&storage, into, progress)
}

/// The same over any storage.
pub(crate) fn salvage_storage(
    storage: &Arc<dyn Storage>,
    into: Builder,
    progress: &mut SalvageProgress<'_>,
) -> Result<SalvageReport> {
    refuse_used(&into)?;
    let operators = into.operators.clone();
    let inventory = Inventory::take(storage, operators, progress)?;
    let target = mark_unfinished(&into)?;
    let out = Builder { unfinished: true, ..into }.open()?;
    let report = fill(storage, inventory, &out)?;
    out.close()?;
    if let Some(target) = target {
        target.remove(Path::new(PARTIAL)).map_err(|error| failed(&*target, PARTIAL, error))?;
        target.sync_dir(Path::new("")).map_err(|error| failed(&*target, "", error))?;
    }
    Ok(report)
}

fn failed(storage: &dyn Storage, path: &str, source: std::io::Error) -> Error {
    Error::Open(OpenError::Io { what: storage.display(Path::new(path)), source })
}

/// Refuses to make a database within the one that is read: that one would not be opened any more.
fn refuse_within(from: &dyn Storage, into: &Builder) -> Result<()> {
    let Some(path) = into.path.as_ref().filter(|_| into.storage.is_none()) else { return Ok(()) };
    let io = |source| {
        let what = format!("opening {}", path.display());
        Error::Open(OpenError::Io { what, source })
    };
    match SyscallStorage::is_within(path, from).map_err(io)? {
        true => Err(io(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "it lies in the directory that is salvaged",
        ))),
        false => Ok(()),
    }
}

/// Says, durably, that what will be in the new database is not all, until it is.
fn mark_unfinished(into: &Builder) -> Result<Option<Arc<dyn Storage>>> {
    let target: Arc<dyn Storage> = match (&into.storage, &into.path) {
        (Some(storage), _) => Arc::clone(storage),
        (None, Some(path)) => {
            let what = format!("opening {}", path.display());
            let opened = SyscallStorage::open(path);
            Arc::new(opened.map_err(|source| Error::Open(OpenError::Io { what, source }))?)
        }
        (None, None) => return Ok(None),
    };
    let marked = target.create_new(Path::new(PARTIAL)).and_then(|file| {
        file.write_at(0, b"isolith: this salvage was not finished\n")?;
        file.sync()?;
        target.sync_dir(Path::new(""))
    });
    marked.map_err(|error| failed(&*target, PARTIAL, error))?;
    Ok(Some(target))
}

/// Refuses to write to anything but a new database.
fn refuse_used(into: &Builder) -> Result<()> {
    let storage = match (&into.storage, &into.path) {
        (Some(storage), _) => Arc::clone(storage),
        (None, Some(path)) => match recovery::open_existing(path) {
            Ok(storage) => storage,
            Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        },
        (None, None) => return Ok(()),
    };
    let root = Path::new("");
    let shown = storage.display(root);
    let entries = storage.list(root).map_err(|source| {
        let what = format!("reading the directory {shown}");
        Error::Open(OpenError::Io { what, source })
    })?;
    match entries.iter().find(|entry| entry.name != "lost+found") {
        None => Ok(()),
        Some(entry) => {
            let what = format!("{shown} is not empty: it holds '{}'", entry.name);
            let source = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            Err(Error::Open(OpenError::Io { what, source }))
        }
    }
}

/// Writes the newest version of each key, keyspace by keyspace.
fn fill(
    storage: &Arc<dyn Storage>,
    mut inventory: Inventory,
    out: &Database,
) -> Result<SalvageReport> {
    let now = out.core().now();
    for (id, Named { name, made_up, options }) in inventory.named() {
        let keyspace = match out.keyspace_with(&name, options.clone()) {
            Err(Error::UnknownOperator { name: operator }) => {
                inventory.report.notes.push(format!(
                    "keyspace '{name}' has '{operator}' for its merge operator, which is not registered: it \
                     has none now"
                ));
                out.keyspace_with(&name, KeyspaceOptions { merge_operator: None, ..options })?
            }
            made => made?,
        };
        let mut load = keyspace.bulk_load(Default::default())?;
        let space = inventory.take_space(id);
        let mut lost = Vec::new();
        let mut values = Values::new(&**storage, inventory.database());
        let operators = &inventory.operators;
        let outcome = merging::newest(&space, operators, now, &mut values, &mut lost, |entry| {
            // Not what the keyspace gives to what says nothing.
            load.add_expiring(entry.key, entry.value, entry.expires_at.or(Some(NEVER)))
        });
        outcome?;
        let keys = load.entries();
        load.finish()?;
        let report = &mut inventory.report;
        report.keys += keys;
        report.keyspaces.push(SalvagedKeyspace { name: name.clone(), made_up, keys });
        report.lost.extend(lost.into_iter().map(|lost| LostPiece {
            file: lost.file,
            offset: lost.offset,
            keyspace: Some(name.clone()),
            keys: Some(Interval::point(&lost.key)),
            what: lost.what,
        }));
    }
    let mut report = inventory.finish();
    report.keyspaces.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(report)
}

#[cfg(test)]
mod tests;
