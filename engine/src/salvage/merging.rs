//! All versions that were found of a keyspace become one of each key.
//!
//! 1. Versions are merged by key, and of one key by stamp, wherever they were found. A version that was found
//!    twice counts once.
//! 2. A range delete hides what is older than itself; what has its own stamp was written after it, in the same
//!    commit.
//! 3. A value in a value file is read where it is needed. If it cannot be, it is lost, and what is older counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::path::Path;

use isolith_index::sstable::{
    FileError, FileId, FileRangeDelete, SalvageCursor, Salvaged, SalvagedValue, ValueFile, ValueRef,
};
use isolith_index::{Base, Kind, Operand, fold};
use isolith_wal::{Access, DatabaseId, Lsn, Storage};

use super::logged::{Logged, LoggedVersion};
use crate::error::Result;
use crate::files::value_file_name;
use crate::merge::{Calm, Operators};

/// What was found of a keyspace.
#[derive(Default)]
pub(super) struct FoundSpace {
    /// With the stamp of all versions, where they were written before it was known, and the file's name.
    pub(super) files: Vec<(Salvaged, Option<Lsn>, String)>,
    pub(super) logged: Logged,
}

/// A key that is written.
pub(super) struct NewestEntry<'e> {
    pub(super) key: &'e [u8],
    pub(super) value: &'e [u8],
    pub(super) expires_at: Option<u64>,
}

/// A key whose value could not be made of what was merged into it, or is lost with its value file.
pub(super) struct LostValue {
    pub(super) file: String,
    pub(super) offset: u64,
    pub(super) key: Vec<u8>,
    pub(super) what: String,
}

/// What is left of the value files, each opened when it is first needed.
pub(super) struct Values<'s> {
    storage: &'s dyn Storage,
    database: DatabaseId,
    open: HashMap<FileId, Option<ValueFile>>,
}

impl<'s> Values<'s> {
    pub(super) fn new(storage: &'s dyn Storage, database: DatabaseId) -> Self {
        Self { storage, database, open: HashMap::new() }
    }

    /// The value of a key; why it is lost.
    fn read(&mut self, key: &[u8], reference: ValueRef) -> Result<Vec<u8>, String> {
        let file = reference.file;
        let opened = self.open.entry(file).or_insert_with(|| {
            let found = self.storage.open(Path::new(&value_file_name(file)), Access::Read);
            let pages = found.and_then(|found| found.map()).ok()?;
            Some(ValueFile::salvage(Box::new(pages), self.database, file))
        });
        let opened = opened.as_ref().ok_or("the value file cannot be opened")?;
        let mut buffer = Vec::new();
        match opened.read(key, reference, &mut buffer) {
            Ok(value) => Ok(value.to_vec()),
            Err(FileError::Values { error, .. }) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// A version whose value was not looked for yet.
struct FoundVersion {
    stamp: Lsn,
    kind: Kind,
    time: u64,
    value: FoundValue,
}

enum FoundValue {
    Here(Vec<u8>),
    Large(ValueRef),
}

/// The versions of a key that count, newest first: its merges, and the newest under them whose value is not
/// lost.
fn that_count(
    key: &[u8],
    found: impl Iterator<Item = FoundVersion>,
    values: &mut Values<'_>,
    lost: &mut Vec<LostValue>,
) -> Vec<LoggedVersion> {
    let mut counted = Vec::new();
    for FoundVersion { stamp, kind, time, value } in found {
        let value = match value {
            FoundValue::Here(value) => value,
            FoundValue::Large(reference) => match values.read(key, reference) {
                Ok(value) => value,
                Err(what) => {
                    let file = values.storage.display(Path::new(&value_file_name(reference.file)));
                    let (offset, key) = (reference.offset, key.to_vec());
                    lost.push(LostValue { file, offset, key, what });
                    continue;
                }
            },
        };
        counted.push(LoggedVersion { stamp, kind, time, value });
        if !matches!(kind, Kind::Merge { .. }) {
            break;
        }
    }
    counted
}

/// The range deletes that cover a key, as keys ascend.
struct Covering {
    /// Those that begin further on, by their beginnings, last first.
    ahead: Vec<FileRangeDelete>,
    current: Vec<FileRangeDelete>,
}

impl Covering {
    fn new(mut all: Vec<FileRangeDelete>) -> Self {
        all.sort_by(|one, other| other.0.cmp(&one.0));
        Self { ahead: all, current: Vec::new() }
    }

    /// The newest range delete that covers a key, which is above those that were asked for before.
    fn stamp(&mut self, key: &[u8]) -> Lsn {
        while let Some(next) = self.ahead.pop_if(|(start, ..)| **start <= *key) {
            self.current.push(next);
        }
        self.current.retain(|(_, end, _)| end.as_deref().is_none_or(|end| key < end));
        self.current.iter().map(|(_, _, stamp)| *stamp).max().unwrap_or(Lsn::ZERO)
    }
}

/// Where versions come from: a file, from its first version to its last.
struct Source<'s> {
    cursor: SalvageCursor<'s>,
    assigned: Option<Lsn>,
}

impl Source<'_> {
    fn key(&self) -> Option<Vec<u8>> {
        self.cursor.version().map(|(key, ..)| key.to_vec())
    }

    /// Takes the versions of a key; false at the end of the file.
    fn take(&mut self, key: &[u8], into: &mut BTreeMap<Reverse<Lsn>, FoundVersion>) -> bool {
        while let Some((at, stamp, kind, time, value)) = self.cursor.version() {
            if at != key {
                return true;
            }
            let stamp = self.assigned.unwrap_or(stamp);
            let value = match value {
                SalvagedValue::Here(value) => FoundValue::Here(value.to_vec()),
                SalvagedValue::Large(reference) => FoundValue::Large(reference),
            };
            into.entry(Reverse(stamp)).or_insert(FoundVersion { stamp, kind, time, value });
            if !self.cursor.advance() {
                return false;
            }
        }
        false
    }
}

/// Has the newest version of each key written that has a value by `now`, in key order.
pub(super) fn newest(
    space: &FoundSpace,
    operators: &Operators,
    now: u64,
    values: &mut Values<'_>,
    lost: &mut Vec<LostValue>,
    mut write: impl FnMut(NewestEntry<'_>) -> Result<()>,
) -> Result<()> {
    let mut sources: Vec<Source<'_>> = Vec::new();
    let mut heads: BinaryHeap<Reverse<(Vec<u8>, usize)>> = BinaryHeap::new();
    for (file, assigned, _) in &space.files {
        let mut source = Source { cursor: SalvageCursor::new(file), assigned: *assigned };
        if source.cursor.advance() {
            heads.extend(source.key().map(|key| Reverse((key, sources.len()))));
            sources.push(source);
        }
    }
    let of_files = space.files.iter().flat_map(|(file, ..)| file.range_deletes());
    let range_deletes = of_files.chain(&space.logged.range_deletes).cloned();
    let mut covering = Covering::new(range_deletes.collect());
    let mut logged = space.logged.versions.iter().peekable();
    loop {
        let in_files = heads.peek().map(|Reverse((key, _))| key);
        let in_log = logged.peek().map(|(key, _)| *key);
        let Some(key) = in_files.into_iter().chain(in_log).min().cloned() else { return Ok(()) };
        let mut versions = BTreeMap::new();
        if let Some((_, of_log)) = logged.next_if(|(at, _)| **at == key) {
            for LoggedVersion { stamp, kind, time, value } in of_log {
                let (stamp, kind, time) = (*stamp, *kind, *time);
                let value = FoundValue::Here(value.clone());
                versions.insert(Reverse(stamp), FoundVersion { stamp, kind, time, value });
            }
        }
        while heads.peek().is_some_and(|Reverse((at, _))| *at == key) {
            let Some(Reverse((_, number))) = heads.pop() else { break };
            if sources[number].take(&key, &mut versions) {
                heads.extend(sources[number].key().map(|key| Reverse((key, number))));
            }
        }
        let cover = covering.stamp(&key);
        let uncovered = versions.into_values().take_while(|version| version.stamp >= cover);
        let versions = that_count(&key, uncovered, values, lost);
        let mut told = |what| {
            lost.push(LostValue { file: file_of(space), offset: 0, key: key.clone(), what });
        };
        if let Some((value, expires_at)) = resolve(&versions, operators, &mut told)
            && (expires_at == 0 || expires_at > now)
        {
            let expires_at = (expires_at != 0).then_some(expires_at);
            write(NewestEntry { key: &key, value: &value, expires_at })?;
        }
    }
}

/// A file to name where a key has no place of its own.
fn file_of(space: &FoundSpace) -> String {
    space.files.first().map_or_else(|| "wal".to_owned(), |(_, _, name)| name.clone())
}

/// The value that versions, newest first, come to, and when it expires (0: never). Where merges cannot be
/// made, it is what lies under them.
fn resolve(
    versions: &[LoggedVersion],
    operators: &Operators,
    told: &mut dyn FnMut(String),
) -> Option<(Vec<u8>, u64)> {
    let merges = versions.iter().take_while(|v| matches!(v.kind, Kind::Merge { .. })).count();
    let (merges, rest) = versions.split_at(merges);
    let base = rest.first().filter(|version| version.kind == Kind::Put);
    let under = base.map(|base| (base.value.clone(), base.time));
    let run = merges.iter().rev().filter_map(|version| match version.kind {
        Kind::Merge { operator } => {
            Some(Operand { operator, bytes: &version.value, at_ms: version.time })
        }
        Kind::Put | Kind::Delete => None,
    });
    let run: Vec<_> = run.collect();
    if run.is_empty() {
        return under;
    }
    let base = base.map(|base| Base { value: &base.value, expires_at: base.time });
    match fold(base, &run, &Calm(operators)) {
        Ok(merged) => Some((merged.value, merged.expires_at)),
        Err(failure) => {
            let name = operators.name(failure.operator);
            let kept = if under.is_some() { "the value under it is kept" } else { "it has none" };
            told(format!(
                "what was merged into a key by '{name}' could not be: {}; {kept}",
                failure.error
            ));
            under
        }
    }
}
