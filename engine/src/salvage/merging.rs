//! All versions that were found of a keyspace become one of each key.
//!
//! 1. Versions are merged by key, and of one key by stamp, wherever they were found. A version that was found
//!    twice counts once: as it is in the file that was written last, since what is in another, or in the log,
//!    may have been folded into it since. What was folded does not count again.
//! 2. A range delete hides what is older than itself; what has its own stamp was written after it, in the same
//!    commit.
//! 3. A value in a value file is read where it is needed. If it cannot be, it is lost, and what is older counts.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::ops::Bound;
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

/// What a file, or the log, has of a key.
struct OfKey {
    /// The file's number, or 0 for the log: what a version became of another has a larger one.
    written: u64,
    /// Newest first.
    versions: Vec<FoundVersion>,
}

/// Whether two versions of one stamp are what was committed, both of them.
fn is_same(one: &FoundVersion, other: &FoundVersion) -> bool {
    match (&one.value, &other.value) {
        _ if one.kind != other.kind => false,
        (FoundValue::Here(one_value), FoundValue::Here(other_value)) => {
            one.kind == Kind::Put || one_value == other_value
        }
        _ => true,
    }
}

/// One version for each stamp, newest first.
fn united(mut all: Vec<OfKey>) -> impl Iterator<Item = FoundVersion> {
    all.sort_by_key(|of| Reverse(of.written));
    // With the number of where it was found first.
    let mut united: BTreeMap<Reverse<Lsn>, (FoundVersion, usize)> = BTreeMap::new();
    for (number, of) in all.into_iter().enumerate() {
        // What is above this, and below what was met last, is part of that.
        let mut folded_above = None;
        for version in of.versions {
            let at = Reverse(version.stamp);
            match united.get_mut(&at) {
                Some((_, found)) if *found == number => {}
                Some((known, found)) => {
                    let (same, found) = (is_same(known, &version), *found);
                    // One that is in no value file cannot be lost with one.
                    if same
                        && let FoundValue::Here(value) = version.value
                        && matches!(known.value, FoundValue::Large(_))
                    {
                        known.value = FoundValue::Here(value);
                    }
                    let mut below = united.range((Bound::Excluded(at), Bound::Unbounded));
                    let next = below.find(|(_, (_, by))| *by <= found);
                    let next = next.map_or(Lsn::ZERO, |(Reverse(stamp), _)| *stamp);
                    folded_above = (!same).then_some(next);
                }
                None if folded_above.is_some_and(|above| version.stamp > above) => {}
                None => {
                    united.insert(at, (version, number));
                }
            }
        }
    }
    united.into_values().map(|(version, _)| version)
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
    /// The file's number.
    written: u64,
    cursor: SalvageCursor<'s>,
    assigned: Option<Lsn>,
}

impl Source<'_> {
    fn key(&self) -> Option<Vec<u8>> {
        self.cursor.version().map(|(key, ..)| key.to_vec())
    }

    /// Takes the versions of a key; false at the end of the file.
    fn take(&mut self, key: &[u8], into: &mut Vec<FoundVersion>) -> bool {
        while let Some((at, stamp, kind, time, value)) = self.cursor.version() {
            if at != key {
                return true;
            }
            let stamp = self.assigned.unwrap_or(stamp);
            let value = match value {
                SalvagedValue::Here(value) => FoundValue::Here(value.to_vec()),
                SalvagedValue::Large(reference) => FoundValue::Large(reference),
            };
            into.push(FoundVersion { stamp, kind, time, value });
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
        let (written, cursor) = (file.id().0, SalvageCursor::new(file));
        let mut source = Source { written, cursor, assigned: *assigned };
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
        let mut all = Vec::new();
        if let Some((_, of_log)) = logged.next_if(|(at, _)| **at == key) {
            let found = |version: &LoggedVersion| {
                let LoggedVersion { stamp, kind, time, .. } = *version;
                FoundVersion { stamp, kind, time, value: FoundValue::Here(version.value.clone()) }
            };
            all.push(OfKey { written: 0, versions: of_log.iter().rev().map(found).collect() });
        }
        while heads.peek().is_some_and(|Reverse((at, _))| *at == key) {
            let Some(Reverse((_, number))) = heads.pop() else { break };
            let (written, mut versions) = (sources[number].written, Vec::new());
            let more = sources[number].take(&key, &mut versions);
            all.push(OfKey { written, versions });
            if more {
                heads.extend(sources[number].key().map(|key| Reverse((key, number))));
            }
        }
        let cover = covering.stamp(&key);
        let uncovered = united(all).take_while(|version| version.stamp >= cover);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges by their operands, each with its stamp, newest first.
    fn of(written: u64, merges: &[(u64, &str)]) -> OfKey {
        let version = |(stamp, operand): &(u64, &str)| FoundVersion {
            stamp: Lsn::new(0, *stamp),
            kind: Kind::Merge { operator: 3 },
            time: 0,
            value: FoundValue::Here(operand.as_bytes().to_vec()),
        };
        OfKey { written, versions: merges.iter().map(version).collect() }
    }

    fn shown(all: Vec<OfKey>) -> Vec<(u64, String)> {
        let shown = |version: FoundVersion| match version.value {
            FoundValue::Here(value) => {
                (version.stamp.counter(), String::from_utf8(value).expect("text"))
            }
            FoundValue::Large(_) => panic!("a merge is never apart"),
        };
        united(all).map(shown).collect()
    }

    #[test]
    fn what_was_folded_does_not_count_again() {
        let expected = |merges: &[(u64, &str)]| -> Vec<(u64, String)> {
            merges.iter().map(|(stamp, operand)| (*stamp, (*operand).to_owned())).collect()
        };
        let input = || of(4, &[(3, "c"), (2, "b"), (1, "a")]);
        // A compaction's output beside what it was made of, whichever comes first.
        for all in [vec![input(), of(9, &[(3, "abc")])], vec![of(9, &[(3, "abc")]), input()]] {
            assert_eq!(shown(all), expected(&[(3, "abc")]));
        }
        // Of which a part is somebody's to read by itself.
        let output = of(9, &[(3, "bc"), (1, "a")]);
        assert_eq!(shown(vec![input(), output]), expected(&[(3, "bc"), (1, "a")]));
        // A flush beside the log, which goes on, and begins behind what was folded first.
        let log = of(0, &[(4, "d"), (3, "c"), (2, "b")]);
        assert_eq!(shown(vec![log, of(5, &[(3, "abc")])]), expected(&[(4, "d"), (3, "abc")]));
        // What is the same in both was not folded: all counts.
        let (upper, lower) = (of(7, &[(3, "c")]), of(2, &[(1, "a")]));
        let log = of(0, &[(3, "c"), (2, "b")]);
        let all = shown(vec![upper, lower, log]);
        assert_eq!(all, expected(&[(3, "c"), (2, "b"), (1, "a")]));
    }
}
