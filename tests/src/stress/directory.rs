//! The library on real files, closed in order and opened again between windows.
//!
//! A run has a directory of its own within the one that it is given: nothing that was there is touched.

use std::path::{Path, PathBuf};

use isolith::{Database, Durability};

use super::client::{Answer, Failure};
use super::embedded::{self, Embedded, Place};
use super::{Recovery, Target};
use crate::finding::Finding;

/// A directory that a run has for itself. It stays until it is removed.
#[derive(Clone, Debug)]
pub struct Own(PathBuf);

impl Own {
    /// A new one within `directory`, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be made.
    #[expect(clippy::disallowed_methods, reason = "where a database is to be is no part of it")]
    pub fn within(directory: &Path) -> Result<Own, String> {
        let own = directory.join(format!("stress-{:016x}", isolith_wal::random_seed()));
        let made = std::fs::create_dir_all(&own);
        made.map_err(|error| format!("{}: {error}", own.display()))?;
        Ok(Own(own))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it with all that the run made.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(self) -> Result<(), String> {
        std::fs::remove_dir_all(&self.0).map_err(|error| format!("{}: {error}", self.0.display()))
    }
}

/// Memory of the database: it keeps the keys of all windows, as long as it is open.
const MEMORY_BYTES: u64 = 4 << 30;
/// Windows that pass between an orderly close and the next.
const WINDOWS_OPEN: u64 = 4;

/// A database in a directory.
#[derive(Debug)]
pub struct InDirectory {
    directory: PathBuf,
    /// None while it is opened again.
    place: Option<Place>,
    shift: u32,
    windows: u64,
}

impl InDirectory {
    /// A new one.
    ///
    /// # Errors
    /// If it does not open.
    pub fn new(directory: &Path, shift: u32) -> Answer<InDirectory> {
        let directory = directory.to_owned();
        let mut new = InDirectory { directory, place: None, shift, windows: 0 };
        let opened = new.open().map_err(|error| Failure::Failed(error.to_string()))?;
        new.settle(opened)?;
        Ok(new)
    }

    fn open(&self) -> Result<Database, isolith::OpenError> {
        embedded::with_limits(Database::builder(&self.directory).memory(MEMORY_BYTES)).open()
    }

    fn settle(&mut self, db: Database) -> Answer {
        self.place = Some(Place::new(db, self.shift).map_err(embedded::failure)?);
        Ok(())
    }

    fn place(&self) -> Answer<&Place> {
        self.place.as_ref().ok_or_else(|| Failure::Gone("it is closed".to_owned()))
    }
}

impl Target for InDirectory {
    type Client = Embedded;

    fn client(&self) -> Answer<Embedded> {
        Ok(Embedded::new(self.place()?.clone()))
    }

    fn durabilities(&self) -> Vec<Durability> {
        vec![Durability::Sync, Durability::Os, Durability::Buffered]
    }

    fn clear(&mut self, window: u64) -> Answer<bool> {
        let wiped = self.place()?.wipe(window.is_multiple_of(2));
        wiped.map(|()| false).map_err(embedded::failure)
    }

    fn end_of_window(&mut self) -> Answer<Option<Recovery>> {
        self.windows += 1;
        if !self.windows.is_multiple_of(WINDOWS_OPEN) {
            return Ok(None);
        }
        let ended = "an orderly close".to_owned();
        let closed = self.place.take().map_or(Ok(()), |place| place.db.close());
        closed.map_err(embedded::failure)?;
        let db = self.open().map_err(|error| {
            Failure::Wrong(Finding::new(format!("after {ended} it does not open: {error}")))
        })?;
        let last = Some(db.visible().bits());
        self.settle(db)?;
        let promised = self.durabilities();
        Ok(Some(Recovery { ended, last, marks: None, promised, floor: 0 }))
    }

    fn inspect(&self) -> Answer {
        self.place()?.inspect()
    }
}
