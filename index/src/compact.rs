//! Compaction: versions of many files, or of a memtable, become files of what somebody may still need.
//!
//! ```text
//!   files ──► sources: one order ──►┐
//!                                   ├─► keep: what of a key stays ──► output: files of a level
//!   memtable ──► flush ─────────────┘          ▲
//!   range deletes ──► ranges: what covers the key, and which of them stay
//! ```
//!
//! The rule is that of the `prune` module, applied to versions as they come by and not to a chain in memory.
//!
//! 1. A reader at a needed timestamp, or at one above the horizon, finds through the outputs and what lies
//!    below what it found through the inputs; and whoever asks for the newest stamp on a key still finds
//!    something above every timestamp that is read at, where there was.
//! 2. The outputs of one level do not overlap: a file ends between two keys, and range deletes are cut
//!    where it ends. Where that is not given from outside, it is right behind the last key `k` that was
//!    looked at: at `k` and a zero byte, so that the largest key that the file speaks of is `k`.
//! 3. Stamps stay as they are. Whose stamp is larger is what decides between the inputs, not which file it
//!    is in.
//! 4. *The bottom*: nothing below holds a key of the inputs. There a tombstone or a range delete at or
//!    below every timestamp that is read at has hidden all that it could, and goes. Nothing is left then
//!    that tells a reader from before: so the largest such stamp is reported ([`Compacted::forgotten`]).
//! 5. A large value stays where it is, and its reference is copied; but for those in value files that are to
//!    be emptied, which are written anew as if they came from a memtable.
//! 6. What has expired counts as a tombstone, unless a merge that stays builds on it: that one has to find
//!    out by itself whether it came in time.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::KeyRange;
use crate::memtable::Beneath;
use crate::merge::MergeOperators;
use crate::prune::PruneView;
use crate::sstable::{
    FileError, FileId, FileSink, Properties, Sstable, SstableWriter, ValueRef, ValueWriter,
};

mod keep;
mod ranges;
mod sources;

#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use keep::Keeper;
pub(crate) use ranges::RangeSweep;
use sources::Sources;

/// Versions between two looks at whether to go on.
const CANCEL_EVERY: u64 = 1024;
/// Separators that [`split_points`] looks at, about.
const SAMPLES: u64 = 1 << 16;

/// Where compaction's files come from and go to.
pub trait Outputs {
    /// What a file is written to.
    type Sink: FileSink;

    /// Begins a file.
    ///
    /// # Errors
    /// If it cannot be created: the compaction ends with this.
    fn begin(&mut self) -> io::Result<SstableWriter<Self::Sink>>;

    /// A file is whole. It is not synced.
    ///
    /// # Errors
    /// If it cannot be kept: the compaction ends with this.
    fn finish(&mut self, sink: Self::Sink, properties: Properties) -> io::Result<()>;

    /// Begins a value file. The files to which versions with such values go may be finished before it is.
    ///
    /// # Errors
    /// If it cannot be created: the compaction ends with this.
    fn begin_values(&mut self) -> io::Result<ValueWriter<Self::Sink>>;

    /// A value file is whole. It is not synced.
    ///
    /// # Errors
    /// If it cannot be kept: the compaction ends with this.
    fn finish_values(&mut self, file: FileId, sink: Self::Sink) -> io::Result<()>;

    /// A value that was to be moved out of this value file cannot be read. It is still referred to where it is.
    fn cannot_move(&mut self, file: FileId) {
        let _ = file;
    }

    /// Whether to give up. What was begun and what was finished is then the caller's to remove.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// What stays, and in files of what size.
#[derive(Clone, Copy)]
pub struct CompactionRules<'a> {
    /// What readers may still ask for.
    pub view: &'a PruneView,
    /// Folds merges.
    pub operators: &'a dyn MergeOperators,
    /// What older layers hold of the inputs' keys. Nothing: the files come to the bottom. Where values
    /// there may expire, merges whose base is there are not combined: which of them find it expired would
    /// be lost.
    pub beneath: Beneath,
    /// Values that expire at or before this, in unix milliseconds, have expired for everybody; 0: none.
    pub expired_before: u64,
    /// Whether newer files or memtables may hold merges. A value that has expired then keeps its expiry
    /// and loses only its bytes: a merge above it may have come in time, and expires with it.
    pub merges_above: bool,
    /// Keys between which outputs stay, ascending: no output has one key below such a key and another at
    /// or above it. See [`Levels::fences`](crate::levels::Levels::fences).
    pub fences: &'a [&'a [u8]],
    /// An output is ended behind the key that makes it this large.
    pub file_bytes: u64,
    /// What is put with so many bytes or more goes to a value file.
    pub large_values: usize,
    /// Value files, ascending: values that are there are written anew.
    pub moved: &'a [u64],
    /// A value file is ended once it has so many bytes.
    pub value_file_bytes: u64,
}

impl CompactionRules<'_> {
    /// Whether a value is to be written anew.
    fn moves(&self, reference: ValueRef) -> bool {
        self.moved.binary_search(&reference.file.0).is_ok()
    }

    /// Whether nothing lies below.
    fn is_bottom(&self) -> bool {
        self.beneath == Beneath::Nothing
    }

    /// The oldest timestamp that somebody reads at.
    fn oldest(&self) -> Lsn {
        self.view.needed.first().copied().unwrap_or(Lsn::ZERO)
    }
}

/// What a compaction did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// Versions read.
    pub versions_in: u64,
    /// Versions written.
    pub versions_out: u64,
    /// Bytes of the keys and values read; those of values that stay in value files left out.
    pub bytes_in: u64,
    /// Bytes of the keys and values written.
    pub bytes_out: u64,
    /// Bytes of values that were moved out of value files.
    pub bytes_moved: u64,
    /// Values that were made of merges.
    pub folded: u64,
    /// Values that had expired.
    pub expired: u64,
    /// Files written.
    pub files: u64,
    /// The largest stamp that went without leaving anything newer on its key; [`Lsn::ZERO`]: none. A reader
    /// below it that is not in the view's needed timestamps may have missed something, and cannot tell.
    pub forgotten: Lsn,
}

impl Compacted {
    /// Adds what another part of the same compaction did.
    pub fn add(&mut self, other: &Compacted) {
        self.versions_in += other.versions_in;
        self.versions_out += other.versions_out;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.bytes_moved += other.bytes_moved;
        self.folded += other.folded;
        self.expired += other.expired;
        self.files += other.files;
        self.forgotten = self.forgotten.max(other.forgotten);
    }
}

/// Why there are no outputs.
#[derive(Debug)]
pub enum CompactError {
    /// An input cannot be read.
    Input {
        /// Which.
        file: FileId,
        /// Why.
        error: FileError,
    },
    /// An output cannot be written.
    Output(io::Error),
    /// [`Outputs::is_cancelled`].
    Cancelled,
}

impl fmt::Display for CompactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CompactError::Input { file, error } => write!(f, "file {}: {error}", file.0),
            CompactError::Output(error) => write!(f, "a new file cannot be written: {error}"),
            CompactError::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for CompactError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CompactError::Input { error, .. } => Some(error),
            CompactError::Output(error) => Some(error),
            CompactError::Cancelled => None,
        }
    }
}

impl From<io::Error> for CompactError {
    fn from(error: io::Error) -> Self {
        CompactError::Output(error)
    }
}

/// Writes what is needed of the inputs' keys within `range`. The inputs are in any order: any set of files
/// in which a version with a larger stamp hides one with a smaller.
///
/// # Errors
/// [`CompactError`]: then none of what was written is to be used.
pub fn compact<O: Outputs>(
    inputs: &[Arc<Sstable>],
    range: KeyRange<'_>,
    rules: &CompactionRules<'_>,
    outputs: &mut O,
) -> Result<Compacted, CompactError> {
    let (from, to) = (from(range.0), to(range.1));
    let mut range_deletes = Vec::new();
    for file in inputs {
        range_deletes.extend_from_slice(file.range_deletes());
    }
    if isolith_wal::planted!("part-overlooks-earlier-range-deletes") {
        range_deletes.retain(|(start, ..)| **start >= *from);
    }
    let ranges = RangeSweep::new(range_deletes, &from, to.as_deref());
    let mut sources = Sources::new(inputs, &from, to)?;
    let mut keeper = Keeper::new(rules, ranges, outputs);
    let mut versions = 0u64;
    while let Some((key, stamp, kind, time, value)) = sources.version()? {
        keeper.version(key, stamp, kind, time, value)?;
        sources.advance()?;
        versions += 1;
        if versions.is_multiple_of(CANCEL_EVERY) && keeper.is_cancelled() {
            return Err(CompactError::Cancelled);
        }
    }
    keeper.finish()
}

/// The first key of a range.
fn from(bound: Bound<&[u8]>) -> Vec<u8> {
    match bound {
        Bound::Included(key) => key.to_vec(),
        Bound::Excluded(key) => behind(key),
        Bound::Unbounded => Vec::new(),
    }
}

/// The first key behind a range; none: it reaches to the last key of all.
fn to(bound: Bound<&[u8]>) -> Option<Vec<u8>> {
    match bound {
        Bound::Included(key) => Some(behind(key)),
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Unbounded => None,
    }
}

/// The smallest key above `key`.
fn behind(key: &[u8]) -> Vec<u8> {
    [key, b"\0"].concat()
}

/// Keys at which the inputs fall into about so many parts of one size: part `n` is from point `n - 1`,
/// included, to point `n`, excluded. Fewer where keys are large or few. Compacted by themselves, the parts
/// give files that do not overlap.
///
/// # Errors
/// The input whose index cannot be read.
pub fn split_points(inputs: &[Arc<Sstable>], parts: usize) -> Result<Vec<Vec<u8>>, CompactError> {
    let blocks = inputs
        .iter()
        .map(|file| file.blocks().map_err(|error| CompactError::Input { file: file.id(), error }));
    let blocks: u64 = blocks.sum::<Result<_, _>>()?;
    let every = blocks.div_ceil(SAMPLES).max(1);
    let mut samples: Vec<(Vec<u8>, u64)> = Vec::new();
    for file in inputs {
        let (mut number, mut bytes) = (0, 0);
        let sampled = file.each_block(|last_key, block_bytes| {
            number += 1;
            bytes += block_bytes;
            if number % every == 0 {
                samples.push((last_key.to_vec(), std::mem::take(&mut bytes)));
            }
        });
        sampled.map_err(|error| CompactError::Input { file: file.id(), error })?;
    }
    samples.sort_unstable();
    let total: u64 = samples.iter().map(|(_, bytes)| bytes).sum();
    let part = total.div_ceil(parts.max(1) as u64).max(1);
    let mut points: Vec<Vec<u8>> = Vec::new();
    let (mut bytes, mut next) = (0, part);
    for (key, block_bytes) in &samples {
        bytes += block_bytes;
        if bytes < next || bytes >= total || points.len() + 1 >= parts {
            continue;
        }
        let point = behind(key);
        if points.last().is_none_or(|last| *last < point) {
            points.push(point);
        }
        next = (bytes / part + 1) * part;
    }
    Ok(points)
}
