//! Damage to the files of a database that is closed (the log, the sorted files, the manifest): flipped
//! bits, blocks zeroed or misdirected, files cut short, missing, exchanged, stale or foreign. Opening must tell it, with file and place, or it must
//! make no difference, or it must look like the torn tail that it may have been; never wrong data,
//! never a panic.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use isolith::storage::memory::MemoryStorage;
use isolith::storage::{Access, BLOCK_BYTES, Storage};
use isolith::{Builder, Database, Durability, Error, ManualClock, OpenError, Timestamp};

use super::{Ledger, Life, Script, Step, Write, live};
use crate::dice::Dice;
use crate::finding::{Checked, Finding, catching};
use crate::operations::Span;
use crate::sizes::Sizes;
use crate::{ensure, ensure_eq};

/// The directory of the log.
pub const LOG: &str = "wal";
/// What else there is: the files, and the one that says which of them are live.
const OTHERS: [&str; 2] = ["", "sst"];

/// The files of a database, as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// By path, below the database's directory; the lock is left out.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// One damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Bits of one byte flip.
    Flip {
        /// The file.
        file: String,
        /// The byte.
        offset: usize,
        /// The bits.
        mask: u8,
    },
    /// A block becomes zeros.
    Zero(String, usize),
    /// A block is overwritten by another one of the same or another file.
    Misdirect {
        /// What is copied: file and block.
        from: (String, usize),
        /// Where to.
        to: (String, usize),
    },
    /// A file ends early.
    Truncate(String, usize),
    /// A file is gone.
    Remove(String),
    /// Two files have each other's names.
    Exchange(String, String),
    /// A file has other bytes: those of a file that is not isolith's, or those that it had earlier.
    Foreign(String, Vec<u8>),
    /// Some bytes of a file lie at another place of it, too.
    Move {
        /// The file.
        file: String,
        /// From where.
        from: usize,
        /// To where.
        to: usize,
        /// How many.
        bytes: usize,
    },
}

/// What became of opening a damaged database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// An error that says which file is damaged, and where.
    Corrupt,
    /// Another typed error: not a database, or a newer format.
    Refused,
    /// It opened, and reads or the compaction said which file is damaged; all that was read was right.
    Unread,
    /// It made no difference.
    Harmless,
    /// The last batches looked torn and were cut.
    Cut(usize),
}

/// What became of many damages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Told, with file and place.
    pub corrupt: u64,
    /// Told by those who read.
    pub unread: u64,
    /// Refused as no database, or as one of a newer format.
    pub refused: u64,
    /// Without a difference.
    pub harmless: u64,
    /// Taken for a torn tail, and the most commits that such a cut took.
    pub cut: (u64, usize),
}

impl Tally {
    /// Adds one.
    pub fn add(&mut self, told: Told) {
        match told {
            Told::Corrupt => self.corrupt += 1,
            Told::Refused => self.refused += 1,
            Told::Unread => self.unread += 1,
            Told::Harmless => self.harmless += 1,
            Told::Cut(lost) => self.cut = (self.cut.0 + 1, self.cut.1.max(lost)),
        }
    }
}

/// A database whose life is over, and what it held.
#[derive(Debug)]
pub struct Closed {
    /// Its files.
    pub image: Image,
    /// What was promised.
    pub ledger: Ledger,
    /// Every commit's timestamp, in order.
    pub commits: Vec<Timestamp>,
    /// How large memtables, files and segments are.
    pub sizes: Sizes,
}

fn failed(error: io::Error) -> Finding {
    Finding::new(format!("the harness could not read or write its own files: {error}"))
}

impl Image {
    /// The files below `storage`.
    pub fn of(storage: &dyn Storage) -> Checked<Image> {
        let mut files = BTreeMap::new();
        for directory in OTHERS.into_iter().chain([LOG]) {
            let entries = match storage.list(Path::new(directory)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(failed)?,
            };
            for entry in entries {
                let path = Path::new(directory).join(&entry.name);
                if entry.is_directory || entry.name == "LOCK" {
                    continue;
                }
                let file = storage.open(&path, Access::Read).map_err(failed)?;
                let mut bytes = vec![0; file.len().map_err(failed)? as usize];
                file.read_at(0, &mut bytes).map_err(failed)?;
                files.insert(path.to_string_lossy().into_owned(), bytes);
            }
        }
        Ok(Image { files })
    }

    /// A storage that holds these files.
    pub fn storage(&self) -> Checked<MemoryStorage> {
        let storage = MemoryStorage::new();
        storage.create_dir(Path::new(LOG)).map_err(failed)?;
        storage.create_dir(Path::new("sst")).map_err(failed)?;
        for (name, bytes) in &self.files {
            let file = storage.create_new(Path::new(name)).map_err(failed)?;
            file.write_at(0, bytes).map_err(failed)?;
        }
        Ok(storage)
    }

    /// The same files, damaged.
    pub fn with(&self, damage: &Damage) -> Image {
        let mut image = self.clone();
        let block = |index: usize, bytes: &Vec<u8>| {
            (index * BLOCK_BYTES).min(bytes.len())..((index + 1) * BLOCK_BYTES).min(bytes.len())
        };
        match damage.clone() {
            Damage::Flip { file, offset, mask } => {
                if let Some(bytes) = image.files.get_mut(&file) {
                    bytes[offset] ^= mask;
                }
            }
            Damage::Zero(file, index) => {
                if let Some(bytes) = image.files.get_mut(&file) {
                    let range = block(index, bytes);
                    bytes[range].fill(0);
                }
            }
            Damage::Misdirect { from, to } => {
                let source = &self.files[&from.0];
                let copied = source[block(from.1, source)].to_vec();
                if let Some(bytes) = image.files.get_mut(&to.0) {
                    let range = block(to.1, bytes);
                    let both = range.len().min(copied.len());
                    bytes[range][..both].copy_from_slice(&copied[..both]);
                }
            }
            Damage::Truncate(file, length) => {
                if let Some(bytes) = image.files.get_mut(&file) {
                    bytes.truncate(length);
                }
            }
            Damage::Remove(file) => drop(image.files.remove(&file)),
            Damage::Exchange(one, other) => {
                let bytes = (self.files[&one].clone(), self.files[&other].clone());
                image.files.insert(one, bytes.1);
                image.files.insert(other, bytes.0);
            }
            Damage::Foreign(file, bytes) => drop(image.files.insert(file, bytes)),
            Damage::Move { file, from, to, bytes } => {
                if let Some(content) = image.files.get_mut(&file) {
                    content.copy_within(from..from + bytes, to);
                }
            }
        }
        image
    }

    /// Blocks that are not all zeros: file and index.
    pub fn used_blocks(&self) -> Vec<(String, usize)> {
        let used = |(name, bytes): (&String, &Vec<u8>)| {
            let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
            let full = blocks.filter(|(_, block)| block.iter().any(|byte| *byte != 0));
            full.map(|(index, _)| (name.clone(), index)).collect::<Vec<_>>()
        };
        self.files.iter().flat_map(used).collect()
    }

    /// The last segment of the log that holds anything, by name.
    pub fn last_used(&self) -> Option<String> {
        self.log_blocks().pop().map(|(file, _)| file)
    }

    /// The file with the last used block of the log, and where in it the last byte is that is not zero.
    pub fn end_of_log(&self) -> Option<(String, usize)> {
        let file = self.last_used()?;
        let end = self.files.get(&file)?.iter().rposition(|byte| *byte != 0)?;
        Some((file, end))
    }

    fn log_blocks(&self) -> Vec<(String, usize)> {
        self.used_blocks().into_iter().filter(|(file, _)| is_log(file)).collect()
    }
}

/// Whether a file is of the log.
pub fn is_log(file: &str) -> bool {
    file.starts_with(LOG)
}

/// Flipped bits: so many in each file, evenly spread, or one in each byte if that is fewer.
pub fn flips_of_each_file(image: &Image, dice: &mut Dice, count: usize) -> Vec<Damage> {
    let mut flips = Vec::new();
    for (file, bytes) in &image.files {
        let step = (bytes.len() / count).max(1);
        for offset in (dice.below(step)..bytes.len()).step_by(step) {
            flips.push(Damage::Flip { file: file.clone(), offset, mask: 1 << dice.below(8) });
        }
    }
    flips
}

/// Bytes that lie elsewhere in their file, too: places and lengths at random, so many in each file.
pub fn moves_of_each_file(image: &Image, dice: &mut Dice, count: usize) -> Vec<Damage> {
    let mut moves = Vec::new();
    for (file, content) in image.files.iter().filter(|(_, content)| content.len() > 1) {
        for _ in 0..count {
            let bytes = 1 + dice.below(content.len().min(BLOCK_BYTES) - 1);
            let mut place = || dice.below(content.len() - bytes + 1);
            let (from, to) = (place(), place());
            moves.push(Damage::Move { file: file.clone(), from, to, bytes });
        }
    }
    moves
}

/// Files that end early: at the edges, and so many places of each.
pub fn truncations(image: &Image, dice: &mut Dice, count: usize) -> Vec<Damage> {
    let mut cuts = Vec::new();
    for (file, bytes) in &image.files {
        let edges = [0, 1, bytes.len() / 2, bytes.len().saturating_sub(1)];
        let random: Vec<usize> = (0..count).map(|_| dice.below(bytes.len().max(1))).collect();
        let places = edges.into_iter().chain(random).filter(|end| *end < bytes.len());
        cuts.extend(places.map(|end| Damage::Truncate(file.clone(), end)));
    }
    cuts
}

/// Files that are gone, that have each other's names, that are there twice, that are what they were.
pub fn whole_files(image: &Image, older: &Image) -> Vec<Damage> {
    let mut all = Vec::new();
    for (file, bytes) in &image.files {
        all.push(Damage::Remove(file.clone()));
        all.push(Damage::Foreign(file.clone(), vec![0; bytes.len()]));
        if let Some(before) = older.files.get(file).filter(|before| *before != bytes) {
            all.push(Damage::Foreign(file.clone(), before.clone()));
        }
        for (other, content) in &image.files {
            let kind = |name: &str| name.rsplit('.').next().map(str::to_owned);
            if other < file && kind(other) == kind(file) {
                all.push(Damage::Exchange(file.clone(), other.clone()));
            }
            if other != file && kind(other) == kind(file) {
                all.push(Damage::Foreign(file.clone(), content.clone()));
            }
        }
        // Under a name that no file has.
        if let Some((directory, name)) = file.split_once('/') {
            all.push(Damage::Foreign(format!("{directory}/f{}", &name[1..]), bytes.clone()));
        }
    }
    // Files that are live no more, back again.
    for (file, bytes) in older.files.iter().filter(|(file, _)| !image.files.contains_key(*file)) {
        all.push(Damage::Foreign(file.clone(), bytes.clone()));
    }
    all
}

/// Flipped bits of the log: all bytes of each header, some of the rest; each `each`-th of them.
pub fn flips(image: &Image, dice: &mut Dice, each: usize) -> Vec<Damage> {
    let mut flips = Vec::new();
    for (file, block) in image.log_blocks() {
        let places = (0..112).chain((112..BLOCK_BYTES).step_by(97));
        for place in places.skip(dice.below(each)).step_by(each) {
            let (offset, mask) = (block * BLOCK_BYTES + place, 1 << dice.below(8));
            flips.push(Damage::Flip { file: file.clone(), offset, mask });
        }
    }
    flips
}

/// Blocks of the log zeroed, and overwritten by others.
pub fn blocks(image: &Image, dice: &mut Dice) -> Vec<Damage> {
    let used = image.log_blocks();
    let mut all = Vec::new();
    for (file, block) in &used {
        all.push(Damage::Zero(file.clone(), *block));
        for _ in 0..3 {
            let from = dice.pick(&used).clone();
            all.push(Damage::Misdirect { from, to: (file.clone(), *block) });
        }
        // The block after it: perhaps still zeros, perhaps the batch that follows.
        if (block + 1) * BLOCK_BYTES < image.files[file].len() {
            let from = (file.clone(), *block);
            all.push(Damage::Misdirect { from, to: (file.clone(), block + 1) });
        }
    }
    all
}

/// A script of `Sync` commits alone: each is a batch of its own, over several segments.
pub fn synced_commits(count: usize) -> Script {
    let mut steps = vec![Step::Create("alpha"), Step::Create("beta")];
    for number in 0..count {
        let value = number.to_string().into_bytes();
        let both = [
            Write::Put("alpha", format!("key {}", number % 5), value.clone()),
            Write::Put("beta", "newest".into(), value),
        ];
        let more = vec![b'x'; if number % 4 == 3 { 5_000 } else { 10 }];
        let large = Write::Put("beta", format!("large {}", number % 3), more);
        steps.push(Step::Commit(Durability::Sync, both.into_iter().chain([large]).collect()));
    }
    Script { steps }
}

/// Enough for files of several blocks, on top of what there is, and something that only the log has.
pub fn for_blocks() -> Script {
    let mut steps = vec![Step::Create("alpha"), Step::Create("bulk")];
    for number in 0..120usize {
        let value = (0..90).map(|place| (place * number) as u8).collect();
        let write = Write::Put("bulk", format!("key {:03}", number * 37 % 100), value);
        steps.push(Step::Commit(Durability::Os, vec![write]));
    }
    let value = b"only in the log".to_vec();
    steps.push(Step::Commit(Durability::Sync, vec![Write::Put("alpha", "last".into(), value)]));
    Script { steps }
}

/// Lives a script on a calm disk. `orderly`: it is closed at the end; otherwise its power is cut.
pub fn closed(script: &Script, orderly: bool) -> Checked<Closed> {
    use isolith::storage::faulty::{DiskKind, FaultyStorage, Operation, Survival};
    let disk = FaultyStorage::new(DiskKind::Fua);
    let mut ledger = Ledger::default();
    live(&disk, &mut ledger, script, Life::CALM)?;
    let mut calls = disk.calls().into_iter().rev();
    if !orderly {
        // The same again, without the last write: that is the mark of the close.
        let mark = calls.find(|call| matches!(call.operation, Operation::Submit(_)));
        let Some(mark) = mark else { return Err(Finding::new("a life without a write")) };
        let disk = FaultyStorage::new(DiskKind::Fua);
        disk.crash_at(mark.number);
        ledger = Ledger::default();
        live(&disk, &mut ledger, script, Life::CALM)?;
        ledger.crashed(Survival::Nothing);
        return image_of(&disk.reboot(Survival::Nothing), ledger);
    }
    // An orderly close made everything durable.
    ledger.synced = ledger.model.newest();
    image_of(&disk.reboot(Survival::Nothing), ledger)
}

fn image_of(disk: &dyn Storage, ledger: Ledger) -> Checked<Closed> {
    let commits = ledger.model.timestamps();
    Ok(Closed { image: Image::of(disk)?, ledger, commits, sizes: Sizes::PLAIN })
}

/// Lives two scripts, one after the other, with these sizes, each to its orderly end; what there was in
/// between comes second.
pub fn closed_twice(first: &Script, second: &Script, sizes: Sizes) -> Checked<(Closed, Image)> {
    use isolith::storage::faulty::{DiskKind, FaultyStorage};
    let disk = FaultyStorage::new(DiskKind::Fua);
    let mut ledger = Ledger::default();
    live(&disk, &mut ledger, first, Life::CALM.with(sizes))?;
    let older = Image::of(&disk)?;
    live(&disk, &mut ledger, second, Life::CALM.with(sizes))?;
    ledger.synced = ledger.model.newest();
    let closed = image_of(&disk, ledger)?;
    Ok((Closed { sizes, ..closed }, older))
}

/// Whether a read failed in a way that tells of a damaged file.
fn tells(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Unreadable { .. })
}

impl Closed {
    /// Opens the database with the damage, and says what it came to. A finding if wrong data is
    /// shown, the error names no place, or there is a panic.
    pub fn open_with(&self, damage: &Damage) -> Checked<Told> {
        let told = catching(|| self.open_image(&self.image.with(damage)));
        told.map_err(|finding| finding.after(format!("{damage:?}")))
    }

    /// Opens the database with each damage; a cut may take at most `cut_max` commits.
    pub fn open_with_each(&self, damages: &[Damage], cut_max: usize) -> Checked<Tally> {
        let mut tally = Tally::default();
        for damage in damages {
            let told = self.open_with(damage)?;
            let allowed = !matches!(told, Told::Cut(lost) if lost > cut_max);
            ensure!(allowed, "{damage:?}: commits were silently lost, {told:?}");
            tally.add(told);
        }
        Ok(tally)
    }

    fn open(&self, image: &Image) -> Checked<(MemoryStorage, Result<Database, OpenError>)> {
        let storage = image.storage()?;
        let builder = Builder::in_memory()
            .storage(Arc::new(storage.clone()))
            .clock(Arc::new(ManualClock::new(self.ledger.now())))
            .stall_timeout(Duration::ZERO)
            .threads(false);
        Ok((storage, self.sizes.of(builder).open()))
    }

    /// Reads everything, twice: before and after all files were written anew. What is read is right, or
    /// an error that tells of the damage; `false` if there was one.
    fn read_all(&self, db: &Database, ledger: &Ledger, last: Timestamp) -> Checked<bool> {
        let mut whole = self.read_once(db, ledger, last)?;
        match db.compact() {
            Ok(()) => {}
            Err(error) if tells(&error) => whole = false,
            Err(error) => return Err(super::unexpected(error)),
        }
        whole &= self.read_once(db, ledger, last).map_err(|f| f.after("after a compaction"))?;
        Ok(whole)
    }

    fn read_once(&self, db: &Database, ledger: &Ledger, last: Timestamp) -> Checked<bool> {
        let mut whole = true;
        let names = ledger.model.names(last);
        ensure_eq!(db.keyspaces(), names.keys().cloned().collect::<Vec<_>>(), "the keyspaces");
        for (name, space) in names {
            let keyspace = db.keyspace_if_exists(&name).map_err(super::unexpected)?;
            let Some(keyspace) = keyspace else { continue };
            let expected = ledger.model.scan(space, &Span::All.bounds(), last, ledger.now());
            for back in [false, true] {
                let mut range = keyspace.range(..);
                let mut next = || if back { range.next_back() } else { range.next() };
                let mut found = 0;
                let failed = loop {
                    let pair = match next() {
                        None => break false,
                        Some(Err(error)) if tells(&error) => break true,
                        Some(pair) => pair.map_err(super::unexpected)?,
                    };
                    let at = if back { expected.len().checked_sub(found + 1) } else { Some(found) };
                    let wanted = at.and_then(|at| expected.get(at));
                    let same =
                        wanted.is_some_and(|(k, v)| k[..] == pair.0[..] && v[..] == pair.1[..]);
                    ensure!(same, "'{name}' shows {:?}, not {wanted:?}", pair.0);
                    found += 1;
                };
                ensure!(failed || found == expected.len(), "'{name}' shows only {found} pairs");
                whole &= !failed;
            }
            let there = |key: &Vec<u8>| expected.iter().find(|(k, _)| k == key).map(|(_, v)| v);
            let all = ledger.model.keys(space);
            for key in all.into_iter().chain([b"".to_vec(), b"e".to_vec(), b"zz".to_vec()]) {
                match keyspace.get(&key) {
                    Err(error) if tells(&error) => whole = false,
                    found => {
                        let found = found.map_err(super::unexpected)?.map(|value| value.to_vec());
                        ensure!(found.as_ref() == there(&key), "'{name}': {key:?} shows {found:?}");
                    }
                }
            }
        }
        Ok(whole)
    }

    fn open_image(&self, image: &Image) -> Checked<Told> {
        let (storage, opened) = self.open(image)?;
        let db = match opened {
            Ok(db) => db,
            Err(OpenError::Corrupt { file, offset, what }) => {
                let name = file.rsplit(':').next().unwrap_or_default();
                let known = image.files.get(name).or_else(|| self.image.files.get(name));
                // A file that a stale manifest names, or a segment that was released and that a manifest
                // that is gone knew not to be needed.
                let missing = name.starts_with("sst/") || what.contains("missing");
                if known.is_none() && missing {
                    return Ok(Told::Corrupt);
                }
                let Some(bytes) = known else {
                    return Err(Finding::new(format!("'{file}' is no file of it ({what})")));
                };
                // Just behind its end: a file that is too short.
                let within = offset <= bytes.len() as u64;
                ensure!(within, "{file} has no byte {offset} ({what})");
                ensure!(!what.is_empty(), "the damage of {file} is not told");
                // Nothing was changed: it says the same again.
                let unchanged = Image::of(&storage)?;
                for name in unchanged.files.keys().chain(image.files.keys()) {
                    let same = unchanged.files.get(name) == image.files.get(name);
                    ensure!(same, "a database that was refused was changed: {name} ({what})");
                }
                return Ok(Told::Corrupt);
            }
            Err(OpenError::NotADatabase { .. } | OpenError::FormatTooNew { .. }) => {
                return Ok(Told::Refused);
            }
            Err(error) => return Err(Finding::new(format!("an unexpected error: {error:?}"))),
        };
        let last = db.visible();
        let position = self.commits.iter().position(|at| *at == last);
        let Some(position) = position else {
            return Err(Finding::new(format!("the last commit is {last}, which nobody has made")));
        };
        let mut ledger = self.ledger.clone();
        ledger.model.truncate(last);
        if !self.read_all(&db, &ledger, last)? {
            return Ok(Told::Unread);
        }
        // It can be used: what is written now is there after the next opening.
        let space = db.keyspace("after the damage").map_err(super::unexpected)?;
        space.put("k", "v").map_err(super::unexpected)?;
        db.close().map_err(super::unexpected)?;
        drop((db, space));
        let (_, again) = self.open(&Image::of(&storage)?)?;
        let again = again.map_err(|error| Finding::new(format!("not open again: {error:?}")))?;
        let space = again.keyspace("after the damage").map_err(super::unexpected)?;
        let value = space.get("k").map_err(super::unexpected)?;
        ensure_eq!(value.as_deref(), Some(&b"v"[..]), "what was written after the damage");
        match self.commits.len() - 1 - position {
            0 => Ok(Told::Harmless),
            lost => Ok(Told::Cut(lost)),
        }
    }
}
