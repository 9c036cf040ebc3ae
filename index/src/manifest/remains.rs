//! What a damaged manifest still says.
//!
//! 1. Nothing is believed that does not check, and nothing is taken for all there was: between two frames
//!    that are whole there may have been others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use isolith_wal::{Access, BLOCK_BYTES, DatabaseId, Storage};

use super::format::{self, Framed, Place};
use super::{Edit, FileRecord, MANIFEST, state};

/// What is left of a manifest.
#[derive(Clone, Debug, Default)]
pub struct ManifestRemains {
    /// Whose it is, if its first block is whole.
    pub database: Option<DatabaseId>,
    /// The format of a manifest that is whole, and of a newer format than this build knows.
    pub newer: Option<u32>,
    /// Files that were live, with their keyspace, as they were told of last.
    pub files: BTreeMap<u64, (u32, FileRecord)>,
    /// Files that were live no more.
    pub removed: BTreeSet<u64>,
    /// Merge operators by their numbers.
    pub operators: BTreeMap<u16, String>,
}

impl ManifestRemains {
    /// Reads what is whole. Where its first block is not, `database` says whose it is. A manifest that is
    /// not there says nothing.
    pub fn read(
        storage: &dyn Storage,
        database: Option<DatabaseId>,
    ) -> io::Result<ManifestRemains> {
        let file = match storage.open(Path::new(MANIFEST), Access::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            opened => opened?,
        };
        let length = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut bytes = vec![0; length];
        let read = file.read_at(0, &mut bytes)?;
        bytes.truncate(read);
        let mut remains = ManifestRemains {
            database: format::read_file_header(&bytes).ok(),
            newer: format::newer(&bytes),
            ..ManifestRemains::default()
        };
        let Some(database) = remains.database.or(database) else { return Ok(remains) };
        let mut offset = BLOCK_BYTES;
        while let Some(frame) = bytes.get(offset..).filter(|rest| !rest.is_empty()) {
            let place = Place { database, offset: offset as u64 };
            offset += match format::read_frame(frame, place) {
                Framed::Whole(_, payload, length) => {
                    remains.take(payload);
                    length
                }
                Framed::Torn(_) | Framed::Nothing => BLOCK_BYTES,
            };
        }
        Ok(remains)
    }

    fn take(&mut self, mut payload: &[u8]) {
        while !payload.is_empty() {
            let Ok(edit) = state::decode(&mut payload) else { return };
            match edit {
                Edit::AddFile { space, file, .. } => {
                    self.removed.remove(&file.file.id);
                    self.files.insert(file.file.id, (space, file));
                }
                Edit::RemoveFile { id, .. } => {
                    self.files.remove(&id);
                    self.removed.insert(id);
                }
                Edit::DropSpace { space } => {
                    let gone = self.files.iter().filter(|(_, (of, _))| *of == space);
                    let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
                    for id in gone {
                        self.files.remove(&id);
                        self.removed.insert(id);
                    }
                }
                Edit::Operator { number, name } => {
                    self.operators.insert(number, name);
                }
                _ => {}
            }
        }
    }
}
