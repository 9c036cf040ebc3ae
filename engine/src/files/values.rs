//! Value files: how they are opened and attached to the sorted files that refer to them, and which of them go.
//!
//! 1. A value file is live as long as a live sorted file refers to it: nothing else is written down. It is
//!    durable before the manifest says that such a file is live.
//! 2. The sorted files that refer to it hold it open. It is superseded once no file of the levels does, and
//!    removed when the last reader lets go of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use isolith_index::sstable::{
    Compression, FileError, FileId, Sstable, ValueFile, ValueWriter, ValuesSuperseded,
};
use isolith_index::{LevelSet, OpenFile, ReadError};
use isolith_wal::{Access, DatabaseId, Storage};

use super::opening::Doomed;
use super::sink::Sink;
use super::throttle::Writer;
use super::{DIRECTORY, Done, Files, WorkError};

/// The name of a value file, below the database's directory.
pub(crate) fn value_file_name(file: FileId) -> String {
    format!("{DIRECTORY}/{:016x}.val", file.0)
}

/// Whom a value file tells that nobody refers to any more.
fn values_superseded(doomed: &Doomed) -> ValuesSuperseded {
    let doomed = Arc::clone(doomed);
    Arc::new(move |file| doomed.lock().push(value_file_name(file)))
}

/// Opens value files, each once.
pub(crate) struct ValueFiles<'s> {
    storage: &'s dyn Storage,
    database: DatabaseId,
    on_superseded: ValuesSuperseded,
    open: HashMap<FileId, Arc<ValueFile>>,
}

impl<'s> ValueFiles<'s> {
    /// For files that may be superseded later.
    pub(crate) fn new(storage: &'s dyn Storage, database: DatabaseId, doomed: &Doomed) -> Self {
        let on_superseded = values_superseded(doomed);
        Self { storage, database, on_superseded, open: HashMap::new() }
    }

    /// For files that are only looked at.
    pub(crate) fn for_reading(storage: &'s dyn Storage, database: DatabaseId) -> Self {
        let on_superseded: ValuesSuperseded = Arc::new(|_| ());
        Self { storage, database, on_superseded, open: HashMap::new() }
    }

    /// A value file.
    pub(crate) fn open(&mut self, file: FileId) -> Result<Arc<ValueFile>, FileError> {
        if let Some(known) = self.open.get(&file) {
            return Ok(Arc::clone(known));
        }
        let opened = self.open_anew(file).map_err(|error| {
            let error = Box::new(error);
            FileError::Values { file, error }
        })?;
        self.open.insert(file, Arc::clone(&opened));
        Ok(opened)
    }

    fn open_anew(&self, file: FileId) -> Result<Arc<ValueFile>, FileError> {
        let name = value_file_name(file);
        let pages = Box::new(self.storage.open(Path::new(&name), Access::Read)?.map()?);
        let told = Arc::clone(&self.on_superseded);
        ValueFile::open(pages, self.database, file, told).map(Arc::new)
    }

    /// The same, as far as it can be opened.
    pub(crate) fn attach_found(&mut self, table: &mut Arc<Sstable>) {
        let needed: Vec<FileId> = table.properties().values.iter().map(|used| used.file).collect();
        let files: Vec<_> = needed.into_iter().filter_map(|file| self.open(file).ok()).collect();
        if let Some(table) = Arc::get_mut(table) {
            table.attach(&files);
        }
    }

    /// Opens what a table refers to. Nobody else has the table yet.
    pub(crate) fn attach(&mut self, table: &mut Arc<Sstable>) -> Result<(), FileError> {
        let needed: Vec<FileId> = table.properties().values.iter().map(|used| used.file).collect();
        let files: Result<Vec<_>, _> = needed.into_iter().map(|file| self.open(file)).collect();
        let files = files?;
        if let Some(table) = Arc::get_mut(table) {
            table.attach(&files);
        }
        Ok(())
    }
}

/// Supersedes the value files that no file of the levels refers to any more.
pub(super) fn supersede_values(before: &LevelSet, after: &LevelSet) {
    let gone = before.value_files().iter().filter(|file| !after.has_value_file(file.id()));
    gone.for_each(|file| file.supersede());
}

/// Gives new files the value files that they refer to.
pub(super) fn attach_all(files: &mut [OpenFile], values: &[Arc<ValueFile>]) {
    for file in files {
        let alone = file.attach(values);
        debug_assert!(alone, "nobody reads a file before it is live");
    }
}

impl Files {
    /// Begins a value file.
    pub(super) fn new_values(
        &self,
        compression: Compression,
        writer: Option<Writer>,
    ) -> Done<ValueWriter<Sink>> {
        let file = self.next_id();
        let name = value_file_name(file);
        let failed = |source| self.io(&name, source);
        let sink = Sink::create(&self.storage, name.clone(), self.throttle.clone().zip(writer));
        let sink = sink.map_err(failed)?;
        ValueWriter::new(sink, self.database, file, compression).map_err(failed)
    }

    /// Makes a value file durable and opens it.
    pub(super) fn finish_values(&self, file: FileId, sink: Sink) -> Done<Arc<ValueFile>> {
        sink.sync().map_err(|source| self.io(&value_file_name(file), source))?;
        // What fails from here on leaves an orphan, for the next open.
        self.storage.sync_dir(Path::new(DIRECTORY)).map_err(|source| self.io(DIRECTORY, source))?;
        let mut files = ValueFiles::new(&*self.storage, self.database, &self.doomed);
        files.open(file).map_err(|error| WorkError::Damaged(ReadError { file, error }))
    }
}
