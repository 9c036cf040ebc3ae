//! Opening: the directory's lock, the storage, and the replay of the log.
//!
//! Replay installs each record as the commit that it was, in LSN order, with its own timestamp; what
//! no one can see any more is pruned on the way. Keyspace 0 holds the names of all others: key = the
//! name, value = the number (u32, little endian); its puts and deletes create and drop keyspaces.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use isolith_index::{Kind, Memtable, PruneView, Value, pin};
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Log, LogOpenError, LogOptions, Lsn, Storage, open_storage, random_seed};

use crate::catalog::Catalog;
use crate::core::{Recovered, SYSTEM_SPACE};
use crate::error::OpenError;
use crate::merge::{Calm, Operators};
use crate::options::Builder;
use crate::record::{Named, Operation, Operations};

/// The lock file of a database's directory.
const LOCK: &str = "LOCK";
/// What a database's directory may hold.
const NAMES: [&str; 2] = [LOCK, "wal"];

fn memtable(seed: u64, id: SpaceId) -> Arc<Space> {
    Arc::new(Space::new(id, Arc::new(Memtable::new(seed ^ u64::from(id)))))
}

/// A database that lives in memory alone.
pub(crate) fn in_memory(options: &Builder) -> Recovered {
    let seed = random_seed();
    Recovered {
        log: None,
        backend: None,
        report: None,
        lock: None,
        last: Lsn::ZERO,
        first_new: Lsn::new(1, 1),
        system: memtable(seed, SYSTEM_SPACE),
        catalog: Catalog::new(),
        operators: options.operators.clone(),
        seed,
    }
}

/// Opens what `options` name.
pub(crate) fn recover(options: &Builder) -> Result<Recovered, OpenError> {
    options.operators.check()?;
    let (storage, backend) = match (&options.storage, &options.path) {
        (Some(storage), _) => (Arc::clone(storage), None),
        (None, None) => return Ok(in_memory(options)),
        (None, Some(path)) => {
            let what = format!("opening {}", path.display());
            let opened = open_storage(path, options.io);
            let (storage, backend) = opened.map_err(|source| OpenError::Io { what, source })?;
            (storage, Some(backend))
        }
    };
    refuse_foreign(&*storage)?;
    let lock = storage.try_lock(Path::new(LOCK)).map_err(|source| {
        let path = storage.display(Path::new(LOCK));
        match source.kind() {
            io::ErrorKind::WouldBlock => OpenError::Locked { path },
            _ => OpenError::Io { what: format!("locking {path}"), source },
        }
    })?;
    let seed = random_seed();
    let mut replay = Replay::new(seed, options.operators.clone());
    let log_options = LogOptions {
        segment_bytes: options.segment_bytes,
        depth_max: options.log_depth_max,
        buffered_delay: options.buffered_delay,
        threads: options.threads,
        ..LogOptions::default()
    };
    let opened = Log::open(storage, log_options, &mut |lsn, record| replay.apply(lsn, record))
        .map_err(open_error)?;
    Ok(Recovered {
        log: Some(opened.log),
        backend,
        report: Some(opened.report),
        lock: Some(lock),
        last: opened.last,
        first_new: opened.first_new,
        system: replay.system,
        catalog: replay.catalog,
        operators: replay.operators,
        seed,
    })
}

/// Refuses to make a database out of a directory that holds other things.
fn refuse_foreign(storage: &dyn Storage) -> Result<(), OpenError> {
    let root = Path::new("");
    let entries = storage.list(root).map_err(|source| OpenError::Io {
        what: format!("reading the directory {}", storage.display(root)),
        source,
    })?;
    let foreign = entries.iter().find(|entry| !NAMES.contains(&entry.name.as_str()));
    match foreign {
        Some(entry) if entry.name != "lost+found" => Err(OpenError::NotADatabase {
            path: storage.display(root),
            what: format!("it holds '{}', which isolith did not make", entry.name),
        }),
        _ => Ok(()),
    }
}

fn open_error(error: LogOpenError) -> OpenError {
    match error {
        LogOpenError::Io { path, source } => OpenError::Io { what: path, source },
        LogOpenError::Corrupt { file, offset, what } => OpenError::Corrupt { file, offset, what },
        LogOpenError::Refused { lsn, file, offset, what } => {
            OpenError::Corrupt { file, offset, what: format!("record {lsn}: {what}") }
        }
        LogOpenError::Foreign { file, what } => OpenError::NotADatabase { path: file, what },
        LogOpenError::FormatTooNew { file, found, supported } => {
            OpenError::FormatTooNew { path: file, found, supported }
        }
        LogOpenError::Write(cause) => OpenError::Io {
            what: "marking the log as open".into(),
            source: io::Error::new(cause.error.kind(), cause.to_string()),
        },
        LogOpenError::EpochsUsedUp => OpenError::Io {
            what: "opening the log".into(),
            source: io::Error::other(
                "it was recovered 131071 times, and no recovery epoch is left: load its data into a new database",
            ),
        },
    }
}

/// The state that replay builds up.
struct Replay {
    seed: u64,
    system: Arc<Space>,
    catalog: Catalog,
    spaces: HashMap<SpaceId, Arc<Space>>,
    /// Those that are registered, and the names of others that the log has.
    operators: Operators,
}

impl Replay {
    fn new(seed: u64, operators: Operators) -> Self {
        let system = memtable(seed, SYSTEM_SPACE);
        let spaces = HashMap::from([(SYSTEM_SPACE, Arc::clone(&system))]);
        let catalog = Catalog::new();
        Self { seed, system, catalog, spaces, operators }
    }

    /// Installs one record. All of it is decoded before any of it is installed.
    fn apply(&mut self, lsn: Lsn, record: &[u8]) -> Result<(), String> {
        let mut shares: Vec<(SpaceId, isolith_index::Prepared)> = Vec::new();
        let mut operations = Operations::new(record);
        while let Some(operation) = operations.next()? {
            let id = match operation {
                Operation::Put { space, .. }
                | Operation::Delete { space, .. }
                | Operation::DeleteRange { space, .. }
                | Operation::Merge { space, .. } => space,
            };
            if shares.last().is_none_or(|(last, _)| *last != id) {
                let space = self.spaces.get(&id).ok_or("it writes to an unknown keyspace")?;
                shares.push((id, space.memtable.prepare(1)));
            }
            let Some((_, prepared)) = shares.last_mut() else { continue };
            match operation {
                Operation::Put { key, value, expires_at, .. } => {
                    if expires_at != 0
                        && let Some(space) = self.spaces.get(&id)
                    {
                        space.note_expiring();
                    }
                    prepared.add(key, Kind::Put, Value::new(value), expires_at);
                }
                Operation::Delete { key, .. } => {
                    prepared.add(key, Kind::Delete, Value::empty(), 0);
                }
                Operation::DeleteRange { lower, upper, .. } => {
                    prepared.add_range_delete((lower, upper));
                }
                Operation::Merge { key, operator, operand, at_ms, .. } => {
                    let operator = match operator {
                        Named::Number(number) => number,
                        Named::Name(name) => self.operators.intern(name)?,
                    };
                    prepared.add(key, Kind::Merge { operator }, Value::new(operand), at_ms);
                }
            }
            if id == SYSTEM_SPACE {
                self.define(operation)?;
            }
        }
        if isolith_wal::planted!("torn-multi-keyspace-replay") {
            shares.truncate(1);
        }
        let guard = pin();
        let view = PruneView::newest_only();
        for (_, prepared) in &shares {
            prepared.install(lsn);
            prepared.prune(&view, &Calm(&self.operators), &guard);
        }
        Ok(())
    }

    /// Creates or drops a keyspace, as an operation on keyspace 0 says.
    fn define(&mut self, operation: Operation<'_>) -> Result<(), String> {
        let name = |key| std::str::from_utf8(key).map_err(|_| "a keyspace's name is not UTF-8");
        match operation {
            Operation::Put { key, value, .. } => {
                let name = name(key)?;
                let id = value.try_into().map(u32::from_le_bytes);
                let id = id.map_err(|_| "a keyspace's number is not four bytes long")?;
                if self.spaces.contains_key(&id) {
                    return Err("a keyspace's number is given twice".into());
                }
                let space = memtable(self.seed, id);
                self.spaces.insert(id, Arc::clone(&space));
                self.catalog.insert(name, space);
            }
            Operation::Delete { key, .. } => {
                let dropped = self.catalog.remove(name(key)?);
                let dropped = dropped.ok_or("a keyspace is dropped that does not exist")?;
                self.spaces.remove(&dropped.id);
            }
            Operation::DeleteRange { .. } => return Err("a range of keyspaces is dropped".into()),
            Operation::Merge { .. } => return Err("something is merged into a keyspace".into()),
        }
        Ok(())
    }
}
