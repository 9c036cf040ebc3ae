//! What a manifest says: edits, the state that they come to, and their bytes.
//!
//! 1. Edits take effect in their order. One that contradicts what is there (a file that is live
//!    already, one that is not) is refused: it was written wrongly.
//! 2. A state is written as the edits that make it from nothing, so there is one encoding.
//! 3. Decoding never panics and believes no length.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use isolith_wal::{DatabaseId, Lsn};

use crate::block::{self, Malformed};
use crate::levels::{LEVELS, LevelFile, Levels, ValueShare};

/// A file as the manifest has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRecord {
    /// What compaction looks at.
    pub file: LevelFile,
    /// The smallest stamp in it.
    pub stamp_min: Lsn,
    /// The largest.
    pub stamp_max: Lsn,
}

impl AsRef<LevelFile> for FileRecord {
    fn as_ref(&self) -> &LevelFile {
        &self.file
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Edit {
    /// A file is live.
    AddFile {
        /// Its keyspace.
        space: u32,
        /// Its level.
        level: u8,
        /// The file.
        file: FileRecord,
    },
    /// A file is live no more. To move one to another level, remove it and add it there.
    RemoveFile {
        /// Its keyspace.
        space: u32,
        /// Its number.
        id: u64,
    },
    /// What the keyspace's records up to here say is in its files. Never goes back.
    Flushed {
        /// The keyspace.
        space: u32,
        /// The last such record.
        through: Lsn,
    },
    /// A keyspace is gone, with its files and all that is known of it.
    DropSpace {
        /// The keyspace.
        space: u32,
    },
    /// Every file has a smaller number than this. Goes up by itself when a file is added.
    NextFile(u64),
    /// Every keyspace has a smaller number than this.
    NextSpace(u32),
    /// A merge operator has a number.
    Operator {
        /// The number, for ever.
        number: u16,
        /// The operator's name.
        name: String,
    },
    /// Some value in the keyspace may expire.
    ExpiringSpace(u32),
    /// The log is not needed up to here: every keyspace has in files what it says. Never goes back.
    LogFloor(Lsn),
    /// What the engine wants to know of a keyspace. Replaces what was there.
    SpaceOptions {
        /// The keyspace.
        space: u32,
        /// Bytes of the engine's own.
        bytes: Vec<u8>,
    },
}

/// What is known of a keyspace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SpaceState {
    /// Its live files: level 0 newest first, the others by key.
    pub levels: Levels<FileRecord>,
    /// Records up to here are in files; [`Lsn::ZERO`]: none.
    pub flushed: Lsn,
    /// Whether some value in it may expire.
    pub expiring: bool,
    /// What the engine keeps here.
    pub options: Vec<u8>,
}

/// All that the manifest says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestState {
    /// Whose it is.
    pub database: DatabaseId,
    /// The keyspaces that something was said of.
    pub spaces: BTreeMap<u32, SpaceState>,
    /// The number of the next file.
    pub next_file: u64,
    /// The number of the next keyspace.
    pub next_space: u32,
    /// The log is not needed up to here, and may begin behind it.
    pub log_floor: Lsn,
    /// The merge operators by number.
    pub operators: BTreeMap<u16, String>,
}

/// Why an edit was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Contradiction(pub(crate) &'static str);

impl ManifestState {
    /// What a new database begins with.
    pub fn new(database: DatabaseId) -> ManifestState {
        ManifestState {
            database,
            spaces: BTreeMap::new(),
            next_file: 1,
            next_space: 1,
            log_floor: Lsn::ZERO,
            operators: BTreeMap::new(),
        }
    }

    /// Live files of all keyspaces.
    pub fn files(&self) -> impl Iterator<Item = &FileRecord> {
        self.spaces.values().flat_map(|space| space.levels.levels.iter().flatten())
    }

    /// Live value files of all keyspaces and their lengths, by number: those that live files refer to.
    pub fn value_files(&self) -> BTreeMap<u64, u64> {
        let shares = self.files().flat_map(|record| &record.file.values);
        shares.map(|share| (share.file, share.of_bytes)).collect()
    }

    pub(crate) fn apply(&mut self, edit: &Edit) -> Result<(), Contradiction> {
        match edit {
            Edit::AddFile { space, level, file } => self.add_file(*space, *level, file)?,
            Edit::RemoveFile { space, id } => {
                let levels = self.spaces.get_mut(space).map(|space| &mut space.levels.levels);
                let mut levels = levels.into_iter().flatten();
                let found = levels.find_map(|level| {
                    let at = level.iter().position(|file| file.file.id == *id)?;
                    Some(level.remove(at))
                });
                found.ok_or(Contradiction("a file is removed that is not there"))?;
            }
            Edit::Flushed { space, through } => {
                let flushed = &mut self.space(*space).flushed;
                if *flushed > *through {
                    return Err(Contradiction("what is flushed goes back"));
                }
                *flushed = *through;
            }
            Edit::DropSpace { space } => {
                self.spaces.remove(space);
            }
            Edit::NextFile(next) => self.next_file = self.next_file.max(*next),
            Edit::NextSpace(next) => self.next_space = self.next_space.max(*next),
            Edit::Operator { number, name } => {
                let known = self.operators.entry(*number).or_insert_with(|| name.clone());
                if known != name {
                    return Err(Contradiction("an operator's number is given twice"));
                }
            }
            Edit::ExpiringSpace(space) => self.space(*space).expiring = true,
            Edit::LogFloor(floor) => {
                if self.log_floor > *floor {
                    return Err(Contradiction("the log's floor goes back"));
                }
                self.log_floor = *floor;
            }
            Edit::SpaceOptions { space, bytes } => self.space(*space).options = bytes.clone(),
        }
        Ok(())
    }

    fn space(&mut self, space: u32) -> &mut SpaceState {
        self.spaces.entry(space).or_default()
    }

    fn add_file(&mut self, space: u32, level: u8, file: &FileRecord) -> Result<(), Contradiction> {
        let id = file.file.id;
        let highest = file.file.values.iter().map(|share| share.file).fold(id, u64::max);
        let Some(next) = highest.checked_add(1) else {
            return Err(Contradiction("a file has the last number of all"));
        };
        self.next_file = self.next_file.max(next);
        let levels = &mut self.space(space).levels.levels;
        if levels.iter().flatten().any(|known| known.file.id == id) {
            return Err(Contradiction("a file is added that is there"));
        }
        let level = usize::from(level);
        let files = levels.get_mut(level).ok_or(Contradiction("a file is on no level"))?;
        let at = files.partition_point(|known| order(level, known, file).is_lt());
        files.insert(at, file.clone());
        Ok(())
    }

    /// The edits that make this state from nothing.
    pub(crate) fn encode(&self, into: &mut Vec<u8>) {
        encode(&Edit::NextFile(self.next_file), into);
        encode(&Edit::NextSpace(self.next_space), into);
        encode(&Edit::LogFloor(self.log_floor), into);
        for (&number, name) in &self.operators {
            encode(&Edit::Operator { number, name: name.clone() }, into);
        }
        for (&space, state) in &self.spaces {
            // Even of a keyspace of which nothing else is known.
            encode(&Edit::Flushed { space, through: state.flushed }, into);
            if state.expiring {
                encode(&Edit::ExpiringSpace(space), into);
            }
            if !state.options.is_empty() {
                encode(&Edit::SpaceOptions { space, bytes: state.options.clone() }, into);
            }
            for (level, files) in (0..).zip(&state.levels.levels) {
                for file in files {
                    encode(&Edit::AddFile { space, level, file: file.clone() }, into);
                }
            }
        }
    }
}

/// The order of files in a level.
fn order(level: usize, left: &FileRecord, right: &FileRecord) -> Ordering {
    match level {
        0 => (right.stamp_max, right.file.id).cmp(&(left.stamp_max, left.file.id)),
        _ => (&left.file.smallest, left.file.id).cmp(&(&right.file.smallest, right.file.id)),
    }
}

const ADD_FILE: u8 = 1;
const REMOVE_FILE: u8 = 2;
const FLUSHED: u8 = 3;
const DROP_SPACE: u8 = 4;
const NEXT_FILE: u8 = 5;
const NEXT_SPACE: u8 = 6;
const OPERATOR: u8 = 7;
const EXPIRING_SPACE: u8 = 8;
const SPACE_OPTIONS: u8 = 9;
const LOG_FLOOR: u8 = 10;

/// Appends an edit.
pub(crate) fn encode(edit: &Edit, into: &mut Vec<u8>) {
    let mut put = |tag: u8, numbers: &[u64], texts: &[&[u8]]| {
        into.push(tag);
        for number in numbers {
            block::put_number(into, *number);
        }
        for text in texts {
            into.extend_from_slice(text);
        }
    };
    match edit {
        Edit::AddFile { space, level, file: FileRecord { file, stamp_min, stamp_max } } => {
            let numbers = [
                u64::from(*space),
                u64::from(*level),
                file.id,
                file.bytes,
                file.entries,
                file.deletes,
                stamp_min.bits(),
                stamp_max.bits(),
                file.smallest.len() as u64,
                file.largest.as_ref().map_or(0, |key| key.len() as u64 + 1),
            ];
            put(ADD_FILE, &numbers, &[&file.smallest, file.largest.as_deref().unwrap_or_default()]);
            block::put_number(into, file.values.len() as u64);
            for share in &file.values {
                for number in [share.file, share.values, share.bytes, share.of_bytes] {
                    block::put_number(into, number);
                }
            }
        }
        Edit::RemoveFile { space, id } => put(REMOVE_FILE, &[u64::from(*space), *id], &[]),
        Edit::Flushed { space, through } => {
            put(FLUSHED, &[u64::from(*space), through.bits()], &[]);
        }
        Edit::DropSpace { space } => put(DROP_SPACE, &[u64::from(*space)], &[]),
        Edit::NextFile(next) => put(NEXT_FILE, &[*next], &[]),
        Edit::NextSpace(next) => put(NEXT_SPACE, &[u64::from(*next)], &[]),
        Edit::Operator { number, name } => {
            put(OPERATOR, &[u64::from(*number), name.len() as u64], &[name.as_bytes()]);
        }
        Edit::LogFloor(floor) => put(LOG_FLOOR, &[floor.bits()], &[]),
        Edit::ExpiringSpace(space) => put(EXPIRING_SPACE, &[u64::from(*space)], &[]),
        Edit::SpaceOptions { space, bytes } => {
            put(SPACE_OPTIONS, &[u64::from(*space), bytes.len() as u64], &[bytes]);
        }
    }
}

/// What a file refers to in value files.
fn decode_shares(input: &mut &[u8]) -> Result<Vec<ValueShare>, Malformed> {
    let mut shares: Vec<ValueShare> = Vec::new();
    for _ in 0..block::number(input)? {
        let (file, values) = (block::number(input)?, block::number(input)?);
        let (bytes, of_bytes) = (block::number(input)?, block::number(input)?);
        if shares.last().is_some_and(|last| last.file >= file) {
            return Err(Malformed);
        }
        shares.push(ValueShare { file, values, bytes, of_bytes });
    }
    Ok(shares)
}

/// Takes an edit off the front.
pub(crate) fn decode(input: &mut &[u8]) -> Result<Edit, Malformed> {
    let narrow = |number: u64| u32::try_from(number).map_err(|_| Malformed);
    let tag = block::take(input, 1)?[0];
    let first = block::number(input)?;
    Ok(match tag {
        ADD_FILE => {
            let space = narrow(first)?;
            let level = u8::try_from(block::number(input)?).map_err(|_| Malformed)?;
            let mut numbers = [0; 6];
            for number in &mut numbers {
                *number = block::number(input)?;
            }
            let [id, bytes, entries, deletes, stamp_min, stamp_max] = numbers;
            let (smallest, largest) = (block::length(input)?, block::length(input)?);
            let smallest = block::take(input, smallest)?.to_vec();
            let largest = match largest.checked_sub(1) {
                Some(bytes) => Some(block::take(input, bytes)?.to_vec()),
                None => None,
            };
            let values = decode_shares(input)?;
            let file = LevelFile { id, bytes, smallest, largest, entries, deletes, values };
            let (stamp_min, stamp_max) = (Lsn::from_bits(stamp_min), Lsn::from_bits(stamp_max));
            let file = FileRecord { file, stamp_min, stamp_max };
            if usize::from(level) >= LEVELS {
                return Err(Malformed);
            }
            Edit::AddFile { space, level, file }
        }
        REMOVE_FILE => Edit::RemoveFile { space: narrow(first)?, id: block::number(input)? },
        FLUSHED => {
            let through = Lsn::from_bits(block::number(input)?);
            Edit::Flushed { space: narrow(first)?, through }
        }
        DROP_SPACE => Edit::DropSpace { space: narrow(first)? },
        NEXT_FILE => Edit::NextFile(first),
        NEXT_SPACE => Edit::NextSpace(narrow(first)?),
        OPERATOR => {
            let bytes = block::length(input)?;
            let name = String::from_utf8(block::take(input, bytes)?.to_vec());
            let number = u16::try_from(first).map_err(|_| Malformed)?;
            Edit::Operator { number, name: name.map_err(|_| Malformed)? }
        }
        EXPIRING_SPACE => Edit::ExpiringSpace(narrow(first)?),
        LOG_FLOOR => Edit::LogFloor(Lsn::from_bits(first)),
        SPACE_OPTIONS => {
            let bytes = block::length(input)?;
            let bytes = block::take(input, bytes)?.to_vec();
            Edit::SpaceOptions { space: narrow(first)?, bytes }
        }
        _ => return Err(Malformed),
    })
}
