//! Values as a file has them: beside their keys, or by a reference into a value file.

use std::sync::Arc;

use super::Sstable;
use crate::block::{Entry, Malformed};
use crate::sstable::format::{FileError, FileId, damaged};
use crate::sstable::values::{ValueFile, ValueRef};

/// A value that was not looked for yet.
#[derive(Clone, Copy, Debug)]
pub enum FileValue<'v> {
    /// It is here.
    Here(&'v [u8]),
    /// It is in a value file.
    Large(ValueRef, &'v Sstable),
}

impl<'v> FileValue<'v> {
    /// The bytes: where they are, or in `buffer`.
    ///
    /// # Errors
    /// [`FileError::Values`] if they cannot be read.
    pub fn read(self, key: &[u8], buffer: &'v mut Vec<u8>) -> Result<&'v [u8], FileError> {
        match self {
            FileValue::Here(bytes) => Ok(bytes),
            FileValue::Large(reference, file) => {
                file.value_file(reference.file)?.read(key, reference, buffer)
            }
        }
    }

    /// Bytes that were put.
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(self) -> usize {
        match self {
            FileValue::Here(bytes) => bytes.len(),
            FileValue::Large(reference, _) => {
                usize::try_from(reference.value_bytes).unwrap_or(usize::MAX)
            }
        }
    }

    /// Bytes of it that are beside the key.
    pub(crate) fn bytes_here(self) -> usize {
        match self {
            FileValue::Here(bytes) => bytes.len(),
            FileValue::Large(..) => size_of::<ValueRef>(),
        }
    }
}

impl Sstable {
    /// Opens what it refers to: of `files` those that its properties name. It has to be done before the first
    /// read, while nobody else has the table.
    pub fn attach<'f>(&mut self, files: impl IntoIterator<Item = &'f Arc<ValueFile>>) {
        let needed = |id: FileId| self.properties.values.iter().any(|used| used.file == id);
        let mut values: Vec<_> =
            files.into_iter().filter(|file| needed(file.id())).cloned().collect();
        values.sort_by_key(|file| file.id());
        values.dedup_by_key(|file| file.id());
        self.values = values;
    }

    /// The value files that it refers to, by number.
    pub fn value_files(&self) -> &[Arc<ValueFile>] {
        &self.values
    }

    pub(super) fn value_file(&self, file: FileId) -> Result<&ValueFile, FileError> {
        let at = self.values.binary_search_by_key(&file, |file| file.id());
        at.ok().and_then(|at| self.values.get(at)).map(|file| &**file).ok_or_else(|| {
            let error = Box::new(damaged(0, "it is not there"));
            FileError::Values { file, error }
        })
    }

    /// The value of an entry.
    pub(crate) fn value<'v>(&'v self, entry: Entry<'v>) -> Result<FileValue<'v>, FileError> {
        if !entry.large {
            return Ok(FileValue::Here(entry.value));
        }
        match ValueRef::decode(entry.value) {
            Ok(reference) => Ok(FileValue::Large(reference, self)),
            Err(Malformed) => Err(damaged(0, "a reference to a value was written wrongly")),
        }
    }
}
