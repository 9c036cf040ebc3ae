//! What there is of a damaged database, and what is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use isolith_index::Slice;
use isolith_index::manifest::{
    FileRecord, MANIFEST, Manifest, ManifestError, ManifestRemains, ManifestState,
};
use isolith_index::sstable::{FileId, Lost, LostPart, SalvageCursor, Salvaged, claimed};
use isolith_txn::{Interval, SpaceId};
use isolith_wal::{Access, DatabaseId, Log, LogOpenError, LogOptions, Lsn, Storage, log_remains};

use super::logged::Decoded;
use super::merging::{self, FoundSpace};
use super::{LostPiece, SalvageProgress, SalvageReport};
use crate::catalog::{Definition, KeyspaceOptions};
use crate::core::SYSTEM_SPACE;
use crate::error::{OpenError, Result};
use crate::files::{self, DIRECTORY, file_name};
use crate::merge::Operators;
use crate::verify::Damage;

/// What says which files are live.
enum Live {
    /// The manifest.
    Known(ManifestState),
    /// Nothing: what is left of the manifest says something of some.
    Unknown(ManifestRemains),
}

/// A keyspace that is to be in the new database.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) name: String,
    /// Whether the name was lost, and with it the options.
    pub(super) made_up: bool,
    pub(super) options: KeyspaceOptions,
}

/// All that was found.
pub(super) struct Inventory {
    storage: Arc<dyn Storage>,
    pub(super) report: SalvageReport,
    pub(super) operators: Operators,
    database: DatabaseId,
    live: Live,
    spaces: BTreeMap<SpaceId, FoundSpace>,
    /// What was lost of which keyspace, before it is known what that is called.
    lost: Vec<(Option<SpaceId>, LostPiece)>,
    names: BTreeMap<SpaceId, Named>,
    /// Whether no name can have been lost.
    names_intact: bool,
}

impl Inventory {
    /// Looks at everything.
    pub(super) fn take(
        storage: &Arc<dyn Storage>,
        operators: Operators,
        progress: &mut SalvageProgress<'_>,
    ) -> Result<Inventory> {
        let (live, told) = live(storage)?;
        let database = match &live {
            Live::Known(state) => state.database,
            Live::Unknown(remains) => whose(&**storage, remains)?,
        };
        let live = match live {
            Live::Unknown(_) => {
                let remains = ManifestRemains::read(&**storage, Some(database));
                Live::Unknown(remains.unwrap_or_default())
            }
            known @ Live::Known(_) => known,
        };
        let mut inventory = Inventory {
            storage: Arc::clone(storage),
            report: SalvageReport::default(),
            operators,
            database,
            live,
            spaces: BTreeMap::new(),
            lost: Vec::new(),
            names: BTreeMap::new(),
            names_intact: true,
        };
        if let Some((offset, what)) = told {
            inventory.lose(MANIFEST, offset, None, None, what);
        }
        inventory.number_operators();
        inventory.files(progress);
        inventory.log();
        inventory.name()?;
        Ok(inventory)
    }

    fn lose(
        &mut self,
        file: &str,
        offset: u64,
        space: Option<SpaceId>,
        keys: Option<Interval>,
        what: impl Into<String>,
    ) {
        let file = self.storage.display(Path::new(file));
        let piece = LostPiece { file, offset, keyspace: None, keys, what: what.into() };
        self.lost.push((space, piece));
    }

    /// Gives operators the numbers that files have them under.
    fn number_operators(&mut self) {
        let known = match &self.live {
            Live::Known(state) => state.operators.clone(),
            Live::Unknown(remains) => {
                // Where a number's name may be lost, none of the user's own is to be taken for it.
                let mut known = remains.operators.clone();
                for number in Operators::numbers_in_doubt() {
                    known.entry(number).or_insert_with(|| format!("the lost name of {number}"));
                }
                known
            }
        };
        if self.operators.number_as(known).is_err() {
            let what = "the numbers of merge operators have gaps: values made by them may be lost";
            self.lose(MANIFEST, 0, None, None, what);
        }
    }

    // ---- files

    fn files(&mut self, progress: &mut SalvageProgress<'_>) {
        let wanted: Vec<(FileId, Option<(SpaceId, FileRecord)>)> = match &self.live {
            Live::Known(state) => state
                .spaces
                .iter()
                .flat_map(|(space, of)| of.levels.levels.iter().flatten().map(move |f| (*space, f)))
                .map(|(space, file)| (FileId(file.file.id), Some((space, file.clone()))))
                .collect(),
            Live::Unknown(remains) => {
                let there = listed(&*self.storage);
                let there = there.into_iter().filter(|id| !remains.removed.contains(id));
                let ids: BTreeSet<u64> = there.chain(remains.files.keys().copied()).collect();
                let known = |id: u64| (FileId(id), remains.files.get(&id).cloned());
                ids.into_iter().map(known).collect()
            }
        };
        let storage = Arc::clone(&self.storage);
        let length = |id: FileId| {
            let file = storage.open(Path::new(&file_name(id)), Access::Read);
            file.and_then(|file| file.len()).unwrap_or(0)
        };
        let total = wanted.iter().map(|(id, _)| length(*id)).sum();
        let mut done = 0;
        for (id, known) in wanted {
            progress(done, total);
            self.file(id, known, None);
            done += length(id);
        }
        progress(total, total);
    }

    /// Looks at one file.
    fn file(
        &mut self,
        id: FileId,
        known: Option<(SpaceId, FileRecord)>,
        brought_at: Option<(SpaceId, Lsn)>,
    ) {
        let name = file_name(id);
        let (space, record) = match (known, brought_at) {
            (Some((space, record)), _) => (Some(space), Some(record)),
            (None, brought) => (brought.map(|(space, _)| space), None),
        };
        let bounds = record.as_ref().map(|record| {
            within(Some((&record.file.smallest, true)), record.file.largest.as_deref())
        });
        let opened = self.storage.open(Path::new(&name), Access::Read).and_then(|file| file.map());
        let pages = match opened {
            Ok(pages) => pages,
            Err(error) => {
                // Of a manifest that is damaged only a part is known: the file may have been compacted since.
                let gone = error.kind() == std::io::ErrorKind::NotFound;
                let what = match &self.live {
                    Live::Unknown(_) if gone => {
                        "the file is missing, and was live once; if it still was, all in it is lost"
                    }
                    _ if gone => "the file is missing: all in it is lost",
                    _ => "the file cannot be read: all in it is lost",
                };
                return self.lose(&name, 0, space, bounds, format!("{what} ({error})"));
            }
        };
        let salvaged = Salvaged::of(Box::new(pages), self.database, id);
        let space = space.or(salvaged.space());
        for part in salvaged.lost() {
            self.lost_part(&name, space, part, bounds.as_ref());
        }
        let Some(space) = space else {
            let what = "nothing says which keyspace the file is of: all in it is lost";
            return self.lose(&name, 0, None, None, what);
        };
        let mut assigned = None;
        if is_unassigned(&salvaged) {
            let stamp = record.map(|record| record.stamp_max).filter(|stamp| *stamp > Lsn::ZERO);
            assigned = Some(stamp.or(brought_at.map(|(_, at)| at)).unwrap_or(Lsn::ZERO));
        }
        if salvaged.entries() > 0 || !salvaged.range_deletes().is_empty() {
            self.report.files += 1;
            self.spaces.entry(space).or_default().files.push((salvaged, assigned, name));
        }
    }

    fn lost_part(
        &mut self,
        name: &str,
        space: Option<SpaceId>,
        part: &LostPart,
        bounds: Option<&Interval>,
    ) {
        let LostPart { offset, what, lost } = part;
        let keys = match lost {
            Lost::Nothing => {
                let file = self.storage.display(Path::new(name));
                let damage = Damage { file, offset: *offset, what: what.clone() };
                return self.report.damage.push(damage);
            }
            Lost::RangeDeletes => bounds.cloned(),
            Lost::Versions(None, None) => bounds.cloned(),
            Lost::Versions(after, through) => {
                let after = after.as_ref().map(|(key, with)| (&**key, *with));
                let mut keys = within(after, through.as_deref());
                if let Some(bounds) = bounds {
                    let Interval { lower, upper } = &mut keys;
                    if *lower == Bound::Unbounded {
                        lower.clone_from(&bounds.lower);
                    }
                    if *upper == Bound::Unbounded {
                        upper.clone_from(&bounds.upper);
                    }
                }
                Some(keys)
            }
        };
        let what = match lost {
            Lost::RangeDeletes => format!("{what}: what they deleted may be there again"),
            _ => {
                format!("{what}: versions are lost, older ones or deleted keys may be there again")
            }
        };
        self.lose(name, *offset, space, keys, what);
    }

    // ---- the log

    fn log(&mut self) {
        let remains = log_remains(&*self.storage, Some(self.database));
        for (file, what) in remains.iter().flat_map(|remains| &remains.foreign) {
            self.lose_segment(file, what);
        }
        let (begins, reaches) = match &self.live {
            Live::Known(state) => (state.log_floor, files::reaches(state)),
            Live::Unknown(_) => match remains {
                Ok(remains) => {
                    for (file, what) in remains.damaged {
                        self.lose_segment(&file, what);
                    }
                    let Some(begins) = remains.begins else { return };
                    if begins > Lsn::ZERO && self.lost.is_empty() {
                        let what = format!(
                            "it is missing, and the log begins behind {begins}: what was in sorted files is lost"
                        );
                        self.lose(MANIFEST, 0, None, None, what);
                    }
                    (begins, Lsn::ZERO)
                }
                Err(error) => return self.lost_log(&error, Lsn::ZERO),
            },
        };
        let options =
            LogOptions { database: Some(self.database), begins, reaches, ..LogOptions::default() };
        let storage = Arc::clone(&self.storage);
        let (mut records, mut last, mut brought) = (0, Lsn::ZERO, Vec::new());
        let replayed = Log::replay_sound(&*storage, &options, &mut |lsn, record| {
            let decoded = Decoded::of(lsn, record, &mut self.operators)?;
            records += 1;
            last = lsn;
            brought.extend(decoded.brings.iter().map(|(space, file)| (*space, *file, lsn)));
            self.take_record(lsn, decoded);
            Ok(())
        });
        (self.report.records, self.report.last) = (records, last);
        match replayed {
            Ok(replayed) => {
                if let Some(tail) = replayed.report.torn_tail {
                    self.report.notes.push(format!(
                        "{}: {} bytes at offset {} were being written when the log ended, and never confirmed",
                        tail.file, tail.bytes, tail.offset
                    ));
                }
            }
            Err(error) => self.lost_log(&error, last),
        }
        self.brought(&brought);
    }

    fn lose_segment(&mut self, file: &str, what: &str) {
        let what = format!("{what}: what the segment had is lost, if it was of this log");
        let (file, offset) = (file.to_owned(), 0);
        let piece = LostPiece { file, offset, keyspace: None, keys: None, what };
        self.lost.push((None, piece));
    }

    fn lost_log(&mut self, error: &LogOpenError, last: Lsn) {
        let after = match last {
            Lsn::ZERO => "nothing was taken from the log".to_owned(),
            last => format!("the log was taken up to {last}, and nothing behind that"),
        };
        let (file, offset) = match error {
            LogOpenError::Corrupt { file, offset, .. }
            | LogOpenError::Refused { file, offset, .. } => (file.clone(), *offset),
            LogOpenError::Foreign { file, .. } | LogOpenError::FormatTooNew { file, .. } => {
                (file.clone(), 0)
            }
            LogOpenError::Io { path, .. } => (path.clone(), 0),
            _ => (self.storage.display(Path::new("wal")), 0),
        };
        let what = format!(
            "{error}; {after}: what was committed later, and is in no sorted file, is lost"
        );
        let piece = LostPiece { file, offset, keyspace: None, keys: None, what };
        self.lost.push((None, piece));
    }

    /// Takes from a record what is not in files: with a sound manifest what is newer, and what lies where
    /// something is lost.
    fn take_record(&mut self, lsn: Lsn, decoded: Decoded) {
        for (space, logged) in decoded.spaces {
            let flushed = self.flushed(space);
            let newer = lsn > flushed;
            let is_lost = |key: &[u8]| {
                self.lost.iter().any(|(of, piece)| {
                    *of == Some(space) && piece.keys.as_ref().is_none_or(|keys| keys.contains(key))
                })
            };
            let any_lost = self.lost.iter().any(|(of, _)| *of == Some(space));
            let kept: Vec<_> =
                logged.versions.into_iter().filter(|(key, _)| newer || is_lost(key)).collect();
            let into = &mut self.spaces.entry(space).or_default().logged;
            for (key, versions) in kept {
                into.versions.entry(key).or_default().extend(versions);
            }
            // One that is in files as well says nothing new of what lies elsewhere.
            if newer || any_lost {
                into.range_deletes.extend(logged.range_deletes);
            }
        }
    }

    /// Up to where a keyspace has in files what the log says.
    fn flushed(&self, space: SpaceId) -> Lsn {
        match &self.live {
            Live::Known(state) => state.spaces.get(&space).map_or(Lsn::ZERO, |of| of.flushed),
            Live::Unknown(_) => Lsn::ZERO,
        }
    }

    /// Files that commits in the log bring.
    fn brought(&mut self, brought: &[(SpaceId, u64, Lsn)]) {
        let at: HashMap<u64, (SpaceId, Lsn)> =
            brought.iter().map(|(space, file, lsn)| (*file, (*space, *lsn))).collect();
        if let Live::Known(state) = &self.live {
            let live: BTreeSet<u64> = state.files().map(|record| record.file.id).collect();
            for (space, file, lsn) in brought {
                if !live.contains(file) && *lsn > self.flushed(*space) {
                    self.file(FileId(*file), None, Some((*space, *lsn)));
                }
            }
            return;
        }
        for (file, assigned, name) in self.spaces.values_mut().flat_map(|space| &mut space.files) {
            if let Some(stamp) = assigned.as_mut().filter(|stamp| **stamp == Lsn::ZERO) {
                match at.get(&file.id().0) {
                    Some((_, lsn)) => *stamp = *lsn,
                    None => self.report.notes.push(format!(
                        "{name}: it was loaded in bulk; when, and whether the load was finished, is not known: \
                         it is taken for older than all else"
                    )),
                }
            }
        }
    }

    // ---- keyspaces

    /// Gives the keyspaces their names, or others.
    fn name(&mut self) -> Result<()> {
        let system = self.spaces.remove(&SYSTEM_SPACE).unwrap_or_default();
        let (mut lost, mut named) = (Vec::new(), Vec::new());
        let storage = Arc::clone(&self.storage);
        let mut values = merging::Values::new(&*storage, self.database);
        merging::newest(&system, &self.operators, 0, &mut values, &mut lost, |entry| {
            let definition = Definition::decode(entry.value).ok();
            named.extend(std::str::from_utf8(entry.key).ok().map(str::to_owned).zip(definition));
            Ok(())
        })?;
        self.names_intact = !self.lost.iter().any(|(space, piece)| {
            // What was lost of the log, or of a file of any keyspace, may have been names.
            space.is_none_or(|space| space == SYSTEM_SPACE) && !piece.file.ends_with(MANIFEST)
        });
        for (name, Definition { id, options, .. }) in named {
            self.names.insert(id, Named { name, made_up: false, options });
        }
        let unnamed = |id: &SpaceId| !self.names.contains_key(id);
        let unnamed: Vec<SpaceId> = self.spaces.keys().copied().filter(unnamed).collect();
        for id in unnamed {
            if self.names_intact {
                // It was dropped.
                self.spaces.remove(&id);
                continue;
            }
            let mut name = format!("keyspace-{id}");
            while self.names.values().any(|taken| taken.name == name) {
                name.push('+');
            }
            self.report.notes.push(format!(
                "the name of keyspace {id} is lost, unless it had been dropped: it is called '{name}'"
            ));
            let options = KeyspaceOptions::default();
            self.names.insert(id, Named { name, made_up: true, options });
        }
        Ok(())
    }

    /// The keyspaces, by number.
    pub(super) fn named(&self) -> Vec<(SpaceId, Named)> {
        self.names.iter().map(|(id, named)| (*id, named.clone())).collect()
    }

    /// Whose files they are.
    pub(super) fn database(&self) -> DatabaseId {
        self.database
    }

    /// What was found of a keyspace, once.
    pub(super) fn take_space(&mut self, id: SpaceId) -> FoundSpace {
        self.spaces.remove(&id).unwrap_or_default()
    }

    /// The report, but for what the caller adds.
    pub(super) fn finish(self) -> SalvageReport {
        let mut report = self.report;
        let (names, intact) = (self.names, self.names_intact);
        let lost = self.lost.into_iter().filter_map(|(space, mut piece)| {
            piece.keyspace = match space {
                None => None,
                Some(SYSTEM_SPACE) => {
                    piece.what = format!("names of keyspaces: {}", piece.what);
                    piece.keys = None;
                    None
                }
                Some(space) => match names.get(&space) {
                    Some(named) => Some(named.name.clone()),
                    // A keyspace that was dropped has nothing to lose.
                    None if intact => return None,
                    None => None,
                },
            };
            Some(piece)
        });
        let lost: Vec<_> = lost.collect();
        report.lost.splice(0..0, lost);
        report
    }
}

/// What says which files are live, and if it is not the manifest, why.
fn live(storage: &Arc<dyn Storage>) -> Result<(Live, Option<(u64, String)>)> {
    const CONSEQUENCE: &str = "which files were live is not known: all that are there were taken, one \
                               that is missing is not noticed, and deleted keys may be there again";
    let (offset, what) = match Manifest::open(Arc::clone(storage), true) {
        Ok(Some(manifest)) if !is_outdated(&**storage, manifest.state()) => {
            return Ok((Live::Known(manifest.state().clone()), None));
        }
        Ok(Some(_)) => (
            0,
            "its end is missing: what is needed with it is gone, and files that it lacks are there"
                .into(),
        ),
        Ok(None) => (0, "it is missing".to_owned()),
        Err(ManifestError::Corrupt { offset, what, .. }) => (offset, what.to_owned()),
        Err(error) => (0, error.to_string()),
    };
    let remains = ManifestRemains::read(&**storage, None).unwrap_or_default();
    if let Some(found) = remains.newer {
        let path = storage.display(Path::new(MANIFEST));
        let supported = isolith_index::manifest::FORMAT_NUMBER;
        return Err(OpenError::FormatTooNew { path, found, supported }.into());
    }
    // A database that never got as far as its first file has no manifest.
    if listed(&**storage).is_empty() && offset == 0 && remains.database.is_none() {
        let young = what == "it is missing";
        let told = (!young).then(|| (offset, format!("{what}; {CONSEQUENCE}")));
        return Ok((Live::Unknown(remains), told));
    }
    Ok((Live::Unknown(remains), Some((offset, format!("{what}; {CONSEQUENCE}")))))
}

/// Whether a manifest that holds together lost its end: where that was cut off between two edits it looks as if
/// it had never been. But the log is released, and files are removed, only once the manifest has the files that
/// make them needless.
fn is_outdated(storage: &dyn Storage, state: &ManifestState) -> bool {
    let known: BTreeSet<u64> = state.files().map(|record| record.file.id).collect();
    let there: BTreeSet<u64> = listed(storage).into_iter().collect();
    let begins = log_remains(storage, Some(state.database)).unwrap_or_default().begins;
    let released = begins.is_none_or(|begins| begins > state.log_floor);
    !there.is_subset(&known) && (released || !known.is_subset(&there))
}

/// The numbers of the sorted files that are there.
fn listed(storage: &dyn Storage) -> Vec<u64> {
    let entries = storage.list(Path::new(DIRECTORY)).unwrap_or_default();
    let number = |name: &str| u64::from_str_radix(name.strip_suffix(".sst")?, 16).ok();
    entries.iter().filter_map(|entry| number(&entry.name)).collect()
}

/// Whose files these are, by what most of them say.
fn whose(storage: &dyn Storage, remains: &ManifestRemains) -> Result<DatabaseId> {
    let mut votes: BTreeMap<u128, usize> = BTreeMap::new();
    if let Some(database) = remains.database {
        return Ok(database);
    }
    for id in listed(storage) {
        let name = file_name(FileId(id));
        let mut bytes = [0; 64];
        let read = storage
            .open(Path::new(&name), Access::Read)
            .and_then(|file| file.read_at(0, &mut bytes));
        if let Some((database, _)) = claimed(&bytes[..read.unwrap_or(0)]) {
            *votes.entry(database.0).or_default() += 1;
        }
    }
    for database in log_remains(storage, None).unwrap_or_default().databases {
        *votes.entry(database.0).or_default() += 1;
    }
    let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
    let Some((database, _)) = most else {
        let path = storage.display(Path::new(""));
        let what = "nothing that is whole in it says which database it is".into();
        return Err(OpenError::NotADatabase { path, what }.into());
    };
    Ok(DatabaseId(database))
}

/// Whether the versions of a file were written before their stamp was known.
fn is_unassigned(file: &Salvaged) -> bool {
    let mut cursor = SalvageCursor::new(file);
    let first = cursor.advance().then(|| cursor.version().map(|(_, stamp, ..)| stamp)).flatten();
    first == Some(Lsn::ZERO)
}

/// An interval of keys: behind the first, or from it on; up to the second.
fn within(after: Option<(&[u8], bool)>, through: Option<&[u8]>) -> Interval {
    let lower = match after {
        Some((key, true)) => Bound::Included(Slice::from(key)),
        Some((key, false)) => Bound::Excluded(Slice::from(key)),
        None => Bound::Unbounded,
    };
    let upper = through.map_or(Bound::Unbounded, |key| Bound::Included(Slice::from(key)));
    Interval { lower, upper }
}
