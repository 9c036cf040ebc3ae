//! Keeps versions of keys.
//!
//! A [`Memtable`] is an ordered, concurrent map from keys to chains of versions, each stamped with the
//! log sequence number of its commit. Any number of threads read it, at any timestamp, without
//! writing memory that threads share; any number prepare writes; one at a time, the leader of the
//! commit window, links them. This crate never hands out a timestamp and never decides who may see or
//! write: it stores the stamps that it is given and answers for the timestamps that it is asked for.
//!
//! ```
//! use std::sync::Arc;
//! use isolith_index::{Kind, Memtable, Value, pin};
//! use isolith_wal::Lsn;
//!
//! let memtable = Arc::new(Memtable::new(42));
//! let mut write = memtable.prepare(1);
//! write.add(b"alice", Kind::Put, Value::new(b"100"), 0);
//! write.install(Lsn::new(0, 1));
//!
//! let guard = pin();
//! let seen = memtable.lookup(b"alice", Lsn::new(0, 1), &guard);
//! assert_eq!(seen.put().unwrap().value(), b"100");
//! assert!(memtable.lookup(b"alice", Lsn::ZERO, &guard).put().is_none());
//! ```
//!
//! Read the modules in this order:
//!
//! | module | its one job |
//! |---|---|
//! | `memtable` | the whole, and what a reader may rely on |
//! | `prepared` | the two halves of a write, and the check of point reads |
//! | `version` | values, versions, and the rule which version a reader sees |
//! | `node` | one per key: its chain |
//! | `visible` | a chain joined with the range deletes |
//! | `merge` | what a run of merges comes to |
//! | `sidecar`, `hash` | from a key to its node |
//! | `skiplist`, `page`, `scan` | the keys in order |
//! | `range_deletes` | deletes of whole intervals |
//! | `prune` | which versions may go, and their going |
//! | [`compact`], `flush` | what of files and memtables stays |
//! | `tree` | a keyspace: its memtables and files, as one |
//! | [`levels`] | which files are compacted next |
//! | [`manifest`] | which files are live, durably |
//! | `accounting` | what the memory comes to |
//! | `slice` | the bytes that a user holds |
//! | `sync` | the real atomics and epochs, or loom's |
//!
//! All unsafe pointer work of the project is in this crate, behind a safe interface.

use std::ops::Bound;

mod memtable;
mod prepared;

mod merge;
mod node;
mod version;
mod visible;

mod hash;
mod sidecar;

mod page;
mod scan;
mod skiplist;

mod range_deletes;

mod prune;

mod block;
pub mod sstable;

pub mod compact;
mod flush;
pub mod levels;
pub mod manifest;
mod tree;

mod accounting;
mod slice;
mod sync;

#[cfg(loom)]
#[doc(hidden)]
pub mod parts;
#[cfg(all(test, not(loom)))]
mod testing;

pub use flush::flush_memtable;
pub use memtable::{Beneath, Found, Lookup, Memtable, MemtableStats, NodeRef, Prepared, Watched};
pub use merge::{
    Base, LentValue, MergeError, MergeFailure, MergeOperators, MergeRun, Merged, MergedValue,
    NoOperators, Operand, StoredOperand, StoredValue, fold,
};
pub use prune::{Freed, PruneView};
pub use slice::{SHARED_BYTES_MIN, Slice};
#[cfg(loom)]
pub use sync::collect;
pub use sync::{Guard, pin};
pub use tree::{Estimate, FileCursors, LevelSet, OpenFile, ReadError, Superseded, Tree, View};
pub use version::{Kind, Value, VersionRef};

/// An interval of keys.
pub type KeyRange<'k> = (Bound<&'k [u8]>, Bound<&'k [u8]>);

/// Which way a scan goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Reverse,
}
