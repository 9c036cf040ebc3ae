//! SSTables: one immutable file of versions, in order.
//!
//! ```text
//! file     │ header, 64 bytes │ data block │ … │ filter │ prefix filter │ range deletes │ index │ properties │ footer, 96 bytes │
//! block    │ bytes, compressed or not │ compression, 1 │ length of the bytes before compression, 4 │ checksum, 4 │
//! ```
//!
//! `docs/format.md` shows every field. Every section after the header is a block in this frame; the
//! checksum covers the frame's *place*, too: database, file and offset, so that a block that was
//! misdirected, swapped, or is of another time, does not check.
//!
//! 1. A file is written once, from its beginning to its end, and never changed.
//! 2. It keeps true stamps: a conflict check after a flush finds what it would have found before.
//! 3. Versions of one key may cross from one data block to the next. The index has the last version of
//!    each block, and the smallest and largest stamp in it (its *zone*).
//! 4. A large value may be in a *value file* (`values`): the entry then has a reference to it, and the file's
//!    properties say how much it refers to in which value file.
//! 5. Nothing that is read is believed before its checksum was; nothing that was written wrongly makes a
//!    reader panic: it is [`FileError::Damaged`], with the place.

mod cache;
mod compress;
mod filter;
mod format;
mod packing;
mod prefix;
mod reader;
mod salvage;
mod values;
mod writer;

#[cfg(test)]
mod tests;

pub use cache::BlockCache;
pub use format::{Compression, FORMAT_NUMBER, FileError, FileId, Properties, ValueUse};
pub use packing::{Group, Packing};
pub use prefix::PrefixExtractor;
pub(crate) use reader::{Cursor, Probe, is_above, is_below};
pub use reader::{FileCursor, FileRangeDelete, FileSource, FileValue, Pages, Sstable, VersionAt};
pub use salvage::{
    Lost, LostPart, SalvageCursor, Salvaged, SalvagedValue, SalvagedVersion, claimed,
};
pub use values::{
    VALUE_FILE_OVERHEAD, ValueFile, ValueRef, ValueTotals, ValueWriter, ValuesSuperseded,
};
pub use writer::{FileSink, SstableOptions, SstableWriter};
