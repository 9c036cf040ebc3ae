//! The manifest: which files are live, and what else must be known to open a database.
//!
//! ```text
//! MANIFEST │ header, 1 block │ state │ edits │ edits │ … │ mark │
//! ```
//!
//! A log of small edits behind the state that they begin from. What an edit says holds from the moment
//! that it is durable: only then may a file that it removed be deleted, or the log be released.
//!
//! 1. The edits of one [`Manifest::append`] are all there or not there at all.
//! 2. Frames are written one after the other, each synced before the next: so at most the last one may
//!    be torn. A mark behind it, which nobody waits for and which the next frame overwrites, says that it
//!    is durable; so does every later frame. Where a frame is bad and something says that it was durable,
//!    that is damage; else it is a torn tail and cut.
//! 3. The file is not changed in the middle or cut: after a torn tail, and when it has grown to many times
//!    its content, its state is written to `MANIFEST.new`, synced, and renamed over it. So a state that
//!    begins a `MANIFEST` is durable.
//! 4. After a failed write or sync the manifest takes no more. What it says then is found out by opening
//!    it again.
//! 5. What the page cache alone may hold is not built on: a last frame that nothing says to be durable is
//!    written again when the manifest is opened.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use isolith_wal::{Access, BLOCK_BYTES, DatabaseId, Storage, StorageFile};

mod format;
mod remains;
mod state;

#[cfg(all(test, not(loom)))]
mod tests;

use format::{BadHeader, FrameKind, Framed, Place};

pub use format::FORMAT_NUMBER;
pub use remains::ManifestRemains;
pub use state::{Edit, FileRecord, ManifestState, SpaceState};

/// The manifest's name in the storage's root.
pub const MANIFEST: &str = "MANIFEST";
/// The name under which the next one is written.
pub const MANIFEST_NEW: &str = "MANIFEST.new";
/// A manifest that is shorter is not written anew.
const GROWN_BYTES_MIN: u64 = 256 << 10;
/// How many times its state a manifest may be long.
const GROWTH: u64 = 4;

/// What can go wrong with the manifest.
#[derive(Debug)]
pub enum ManifestError {
    /// A call to the system failed.
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were durable are damaged.
    Corrupt {
        /// The file.
        file: String,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What does not hold.
        what: &'static str,
    },
    /// A newer isolith wrote it.
    TooNew {
        /// The file.
        file: String,
        /// Its format number.
        found: u32,
        /// The highest that this build reads.
        supported: u32,
    },
    /// There is one already.
    Exists {
        /// The file.
        file: String,
    },
    /// An earlier write or sync failed: nothing more is written until it is opened again.
    Poisoned,
    /// It was opened for reading only.
    ReadOnly,
    /// The edits contradict what is there. Nothing was written.
    Refused {
        /// How.
        what: &'static str,
    },
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ManifestError::Io { path, source } => write!(f, "{path}: {source}"),
            ManifestError::Corrupt { file, offset, what } => {
                write!(f, "{file} is damaged at offset {offset}: {what}")
            }
            ManifestError::TooNew { file, found, supported } => write!(
                f,
                "{file} has format {found}, this build reads up to {supported}: open it with a \
                 newer isolith"
            ),
            ManifestError::Exists { file } => write!(f, "{file} is there already"),
            ManifestError::Poisoned => f.write_str("the manifest takes no writes any more"),
            ManifestError::ReadOnly => f.write_str("the manifest was opened for reading only"),
            ManifestError::Refused { what } => write!(f, "the manifest refused an edit: {what}"),
        }
    }
}

impl std::error::Error for ManifestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ManifestError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The open manifest. One at a time changes it.
#[derive(Debug)]
pub struct Manifest {
    storage: Arc<dyn Storage>,
    file: Arc<dyn StorageFile>,
    state: ManifestState,
    /// Of the last batch of edits.
    sequence: u64,
    /// Where the next frame goes.
    end: u64,
    /// It is written anew once it is this long.
    rewrite_at: u64,
    /// [`GROWN_BYTES_MIN`], but in tests.
    grown_bytes_min: u64,
    writable: bool,
    poisoned: bool,
}

/// A manifest's bytes, understood.
struct Read {
    state: ManifestState,
    sequence: u64,
    /// Behind the last whole frame, marks left out.
    end: u64,
    /// Bytes of the state that it begins with, and of the header.
    base: u64,
    /// Everything up to `end` is known to be durable, and nothing but a mark follows.
    settled: bool,
}

impl Manifest {
    /// Opens the manifest; `None` if there is none. With `read_only` nothing is written.
    pub fn open(
        storage: Arc<dyn Storage>,
        read_only: bool,
    ) -> Result<Option<Manifest>, ManifestError> {
        Manifest::open_grown(storage, read_only, GROWN_BYTES_MIN)
    }

    fn open_grown(
        storage: Arc<dyn Storage>,
        read_only: bool,
        grown_bytes_min: u64,
    ) -> Result<Option<Manifest>, ManifestError> {
        let failed = |source| io_error(&*storage, MANIFEST, source);
        let access = if read_only { Access::Read } else { Access::ReadWrite };
        let file = match storage.open(Path::new(MANIFEST), access) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !read_only {
            // Its name may be in the cache only, and so may its bytes (invariant 5).
            storage.sync_dir(Path::new("")).map_err(failed)?;
            file.sync().map_err(failed)?;
        }
        let bytes = usize::try_from(file.len().map_err(failed)?)
            .map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        let mut content = vec![0; bytes];
        let read = file.read_at(0, &mut content).map_err(failed)?;
        content.truncate(read);
        let read = read_all(&*storage, &content)?;
        let mut manifest = Manifest {
            file,
            state: read.state,
            sequence: read.sequence,
            end: read.end,
            rewrite_at: (GROWTH * read.base).max(grown_bytes_min),
            grown_bytes_min,
            writable: !read_only,
            poisoned: false,
            storage,
        };
        if !read_only && !read.settled {
            manifest.rewrite()?;
        }
        Ok(Some(manifest))
    }

    /// Makes the manifest of a database that has none.
    pub fn create(
        storage: Arc<dyn Storage>,
        database: DatabaseId,
    ) -> Result<Manifest, ManifestError> {
        Manifest::create_with(storage, ManifestState::new(database))
    }

    /// Makes the manifest of a database that has none, with this state to begin with: of a copy.
    pub fn create_with(
        storage: Arc<dyn Storage>,
        state: ManifestState,
    ) -> Result<Manifest, ManifestError> {
        Manifest::create_grown(storage, state, GROWN_BYTES_MIN)
    }

    fn create_grown(
        storage: Arc<dyn Storage>,
        state: ManifestState,
        grown_bytes_min: u64,
    ) -> Result<Manifest, ManifestError> {
        match storage.open(Path::new(MANIFEST), Access::Read) {
            Ok(_) => {
                let file = storage.display(Path::new(MANIFEST));
                return Err(ManifestError::Exists { file });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(&*storage, MANIFEST, error)),
        }
        let (file, end) = write_new(&*storage, &state, 0)?;
        put_in_place(&*storage)?;
        Ok(Manifest {
            file,
            state,
            sequence: 0,
            end,
            rewrite_at: (GROWTH * end).max(grown_bytes_min),
            grown_bytes_min,
            writable: true,
            poisoned: false,
            storage,
        })
    }

    /// What it says, with all edits that were appended. After a failed append it may be ahead of what is
    /// durable, or not.
    pub fn state(&self) -> &ManifestState {
        &self.state
    }

    /// The file's length, in bytes.
    pub fn bytes(&self) -> u64 {
        self.end
    }

    /// Appends edits that take effect together, in their order. Durable when this returns `Ok`; after an
    /// error other than [`Refused`](ManifestError::Refused) it is not known whether they are there, and
    /// no more are taken.
    pub fn append(&mut self, edits: &[Edit]) -> Result<(), ManifestError> {
        if !self.writable {
            return Err(ManifestError::ReadOnly);
        }
        if self.poisoned {
            return Err(ManifestError::Poisoned);
        }
        if edits.is_empty() {
            return Ok(());
        }
        let state = self.state.with(edits).map_err(|why| ManifestError::Refused { what: why.0 })?;
        let mut payload = Vec::new();
        for edit in edits {
            state::encode(edit, &mut payload);
        }
        let (sequence, durable) = (self.sequence + 1, self.sequence);
        let place = Place { database: self.state.database, offset: self.end };
        let frame = format::frame(FrameKind::Edits, sequence, durable, &payload, place)
            .ok_or(ManifestError::Refused { what: "the edits are longer than a frame can be" })?;
        // From here on until the end: whoever leaves early leaves it poisoned.
        self.poisoned = true;
        let failed = |source| io_error(&*self.storage, MANIFEST, source);
        self.file.write_at(self.end, &frame).map_err(failed)?;
        self.file.sync().map_err(failed)?;
        self.state = state;
        self.sequence = sequence;
        self.end += frame.len() as u64;
        if self.end < self.rewrite_at {
            self.mark();
        } else {
            self.rewrite_if_possible()?;
        }
        self.poisoned = false;
        Ok(())
    }

    /// Says that what is written is durable. Nobody waits for this to be durable in turn, and nothing
    /// depends on it: a mark that is missing, on a full disk say, is made up for by the next open.
    fn mark(&self) {
        let place = Place { database: self.state.database, offset: self.end };
        let mark = format::frame(FrameKind::Mark, self.sequence, self.sequence, &[], place);
        let _ = self.file.write_at(self.end, &mark.unwrap_or_default());
    }

    /// Writes the manifest anew because it has grown. It does without if there is no room for another.
    fn rewrite_if_possible(&mut self) -> Result<(), ManifestError> {
        match write_new(&*self.storage, &self.state, self.sequence) {
            Ok((file, end)) => self.replace(file, end),
            Err(ManifestError::Io { source, .. })
                if source.kind() == io::ErrorKind::StorageFull =>
            {
                // What was begun is removed by the next attempt.
                self.rewrite_at = 2 * self.end;
                self.mark();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn rewrite(&mut self) -> Result<(), ManifestError> {
        let (file, end) = write_new(&*self.storage, &self.state, self.sequence)?;
        self.replace(file, end)
    }

    fn replace(&mut self, file: Arc<dyn StorageFile>, end: u64) -> Result<(), ManifestError> {
        put_in_place(&*self.storage)?;
        self.file = file;
        self.end = end;
        self.rewrite_at = (GROWTH * end).max(self.grown_bytes_min);
        Ok(())
    }
}

impl ManifestState {
    /// The state after these edits.
    fn with(&self, edits: &[Edit]) -> Result<ManifestState, state::Contradiction> {
        let mut state = self.clone();
        for edit in edits {
            state.apply(edit)?;
        }
        Ok(state)
    }
}

/// Writes a whole manifest under its other name, and syncs it.
fn write_new(
    storage: &dyn Storage,
    state: &ManifestState,
    sequence: u64,
) -> Result<(Arc<dyn StorageFile>, u64), ManifestError> {
    let failed = |source| io_error(storage, MANIFEST_NEW, source);
    let path = Path::new(MANIFEST_NEW);
    let file = match storage.create_new(path) {
        // Left by an attempt that did not come to its end.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            storage.remove(path).map_err(failed)?;
            storage.create_new(path).map_err(failed)?
        }
        created => created.map_err(failed)?,
    };
    let mut bytes = format::file_header(state.database);
    let mut payload = Vec::new();
    state.encode(&mut payload);
    let place = Place { database: state.database, offset: bytes.len() as u64 };
    let frame = format::frame(FrameKind::State, sequence, sequence, &payload, place)
        .ok_or(ManifestError::Refused { what: "the state is longer than a frame can be" })?;
    bytes.extend_from_slice(&frame);
    file.write_at(0, &bytes).map_err(failed)?;
    file.sync().map_err(failed)?;
    Ok((file, bytes.len() as u64))
}

/// The new manifest takes the old one's name, durably.
fn put_in_place(storage: &dyn Storage) -> Result<(), ManifestError> {
    storage
        .rename(Path::new(MANIFEST_NEW), Path::new(MANIFEST))
        .and_then(|()| storage.sync_dir(Path::new("")))
        .map_err(|error| io_error(storage, MANIFEST, error))
}

fn io_error(storage: &dyn Storage, path: &str, source: io::Error) -> ManifestError {
    ManifestError::Io { path: storage.display(Path::new(path)), source }
}

/// Reads a manifest, and tells a torn tail from damage.
fn read_all(storage: &dyn Storage, bytes: &[u8]) -> Result<Read, ManifestError> {
    let shown = || storage.display(Path::new(MANIFEST));
    let corrupt =
        |offset: usize, what| ManifestError::Corrupt { file: shown(), offset: offset as u64, what };
    let database = format::read_file_header(bytes).map_err(|bad| match bad {
        BadHeader::Damaged(what) => corrupt(0, what),
        BadHeader::TooNew(found) => {
            ManifestError::TooNew { file: shown(), found, supported: format::FORMAT_NUMBER }
        }
    })?;
    let frame_at = |offset: usize| {
        let place = Place { database, offset: offset as u64 };
        format::read_frame(bytes.get(offset..).unwrap_or_default(), place)
    };
    let mut state = ManifestState::new(database);
    let mut offset = BLOCK_BYTES;
    let Framed::Whole(header, payload, length) = frame_at(offset) else {
        return Err(corrupt(offset, "the state that the manifest begins with is not whole"));
    };
    if header.kind != FrameKind::State {
        return Err(corrupt(offset, "the manifest does not begin with a state"));
    }
    let mut sequence = header.sequence;
    apply_all(&mut state, payload).map_err(|what| corrupt(offset, what))?;
    offset += length;
    let base = offset as u64;
    // Known to be durable: the state, before the file had its name.
    let mut durable = sequence;
    let mut rest = offset;
    loop {
        match frame_at(offset) {
            Framed::Whole(header, payload, length)
                if header.kind == FrameKind::Edits
                    && sequence.checked_add(1) == Some(header.sequence) =>
            {
                apply_all(&mut state, payload).map_err(|what| corrupt(offset, what))?;
                sequence = header.sequence;
                durable = durable.max(header.durable);
                offset += length;
                rest = offset;
            }
            Framed::Whole(header, _, length)
                if header.kind == FrameKind::Mark && header.sequence == sequence =>
            {
                durable = durable.max(header.durable);
                rest = offset + length;
                break;
            }
            _ => break,
        }
    }
    let behind = bytes.get(rest..).unwrap_or_default();
    for at in (offset..bytes.len()).step_by(BLOCK_BYTES) {
        if let Framed::Whole(header, ..) | Framed::Torn(header) = frame_at(at)
            && header.durable > sequence
        {
            return Err(corrupt(offset, "edits that were durable are not whole"));
        }
    }
    let settled = durable == sequence && behind.iter().all(|&byte| byte == 0);
    Ok(Read { state, sequence, end: offset as u64, base, settled })
}

fn apply_all(state: &mut ManifestState, mut payload: &[u8]) -> Result<(), &'static str> {
    while !payload.is_empty() {
        let edit = state::decode(&mut payload).map_err(|_| "an edit does not hold together")?;
        state.apply(&edit).map_err(|why| why.0)?;
    }
    Ok(())
}
