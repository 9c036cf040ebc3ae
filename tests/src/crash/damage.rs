//! Damage to the files of a database that is closed: flipped bits, blocks zeroed or misdirected, files
//! cut short, missing, exchanged or foreign. Opening must tell it, with file and place, or it must
//! make no difference, or it must look like the torn tail that it may have been; never wrong data,
//! never a panic.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use isolith::storage::memory::MemoryStorage;
use isolith::storage::{Access, BLOCK_BYTES, Storage};
use isolith::{Builder, Database, Durability, ManualClock, OpenError, Timestamp};

use super::{Ledger, Life, NOW, SEGMENT_BYTES, Script, Step, Write, live};
use crate::dice::Dice;
use crate::finding::{Checked, Finding, catching};
use crate::{ensure, ensure_eq};

/// The directory of the log.
const LOG: &str = "wal";

/// The files of a database, as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Log segments by name, in the log's directory.
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
    /// A file that is not isolith's has a segment's name.
    Foreign(String, Vec<u8>),
}

/// What became of opening a damaged database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// An error that says which file is damaged, and where.
    Corrupt,
    /// Another typed error: not a database, or a newer format.
    Refused,
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
}

fn failed(error: io::Error) -> Finding {
    Finding::new(format!("the harness could not read or write its own files: {error}"))
}

impl Image {
    /// The files below `storage`.
    pub fn of(storage: &dyn Storage) -> Checked<Image> {
        let mut files = BTreeMap::new();
        for entry in storage.list(Path::new(LOG)).map_err(failed)? {
            let path = Path::new(LOG).join(&entry.name);
            let file = storage.open(&path, Access::Read).map_err(failed)?;
            let mut bytes = vec![0; file.len().map_err(failed)? as usize];
            file.read_at(0, &mut bytes).map_err(failed)?;
            files.insert(entry.name, bytes);
        }
        Ok(Image { files })
    }

    /// A storage that holds these files.
    pub fn storage(&self) -> Checked<MemoryStorage> {
        let storage = MemoryStorage::new();
        storage.create_dir(Path::new(LOG)).map_err(failed)?;
        for (name, bytes) in &self.files {
            let file = storage.create_new(&Path::new(LOG).join(name)).map_err(failed)?;
            file.write_at(0, bytes).map_err(failed)?;
        }
        Ok(storage)
    }

    /// The same files, damaged.
    pub fn with(&self, damage: &Damage) -> Image {
        let mut image = self.clone();
        let block = |index: usize| index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES;
        match damage.clone() {
            Damage::Flip { file, offset, mask } => {
                if let Some(bytes) = image.files.get_mut(&file) {
                    bytes[offset] ^= mask;
                }
            }
            Damage::Zero(file, index) => {
                if let Some(bytes) = image.files.get_mut(&file) {
                    bytes[block(index)].fill(0);
                }
            }
            Damage::Misdirect { from, to } => {
                let copied = self.files[&from.0][block(from.1)].to_vec();
                if let Some(bytes) = image.files.get_mut(&to.0) {
                    bytes[block(to.1)].copy_from_slice(&copied);
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

    /// The last file that holds anything, by name.
    pub fn last_used(&self) -> Option<String> {
        self.used_blocks().pop().map(|(file, _)| file)
    }
}

/// Flipped bits: all bytes of each header, some of the rest; each `each`-th of them.
pub fn flips(image: &Image, dice: &mut Dice, each: usize) -> Vec<Damage> {
    let mut flips = Vec::new();
    for (file, block) in image.used_blocks() {
        let places = (0..112).chain((112..BLOCK_BYTES).step_by(97));
        for place in places.skip(dice.below(each)).step_by(each) {
            let (offset, mask) = (block * BLOCK_BYTES + place, 1 << dice.below(8));
            flips.push(Damage::Flip { file: file.clone(), offset, mask });
        }
    }
    flips
}

/// Blocks zeroed, and blocks overwritten by others.
pub fn blocks(image: &Image, dice: &mut Dice) -> Vec<Damage> {
    let used = image.used_blocks();
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
    Ok(Closed { image: Image::of(disk)?, ledger, commits })
}

fn open(image: &Image) -> Checked<(MemoryStorage, Result<Database, OpenError>)> {
    let storage = image.storage()?;
    let opened = Builder::in_memory()
        .storage(Arc::new(storage.clone()))
        .clock(Arc::new(ManualClock::new(NOW)))
        .segment_bytes(SEGMENT_BYTES)
        .threads(false)
        .open();
    Ok((storage, opened))
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

    fn open_image(&self, image: &Image) -> Checked<Told> {
        let (storage, opened) = open(image)?;
        let db = match opened {
            Ok(db) => db,
            Err(OpenError::Corrupt { file, offset, what }) => {
                let name = file.rsplit('/').next().unwrap_or_default();
                let known = image.files.get(name).or_else(|| self.image.files.get(name));
                let Some(bytes) = known else {
                    return Err(Finding::new(format!("'{file}' is no file of the log ({what})")));
                };
                // Just behind its end: a file that is too short.
                let within = offset <= bytes.len() as u64;
                ensure!(within, "{file} has no byte {offset} ({what})");
                ensure!(!what.is_empty(), "the damage of {file} is not told");
                // Nothing was changed: it says the same again.
                let unchanged = Image::of(&storage)?;
                ensure!(unchanged == *image, "a database that was refused was changed");
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
        ledger.compare(&db, last)?;
        // It can be used: what is written now is there after the next opening.
        let space = db.keyspace("after the damage").map_err(super::unexpected)?;
        space.put("k", "v").map_err(super::unexpected)?;
        db.close().map_err(super::unexpected)?;
        drop((db, space));
        let (_, again) = open(&Image::of(&storage)?)?;
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
