//! Decides who sees and who may change which version.
//!
//! This floor does no I/O, spawns nothing and reads no clock: its answers depend only on the calls
//! made to it. It stands on `index` (versions) and on `wal` for the word *LSN*.
//!
//! - [`Watermarks`]: how far the log has come: visible, written, durable, weak.
//! - [`SnapshotRegistry`]: who reads at which timestamp, and so what pruning must keep.
//! - [`Space`]: what a transaction knows of a keyspace.
//! - [`WriteSet`], [`ReadSet`]: what a transaction wants to change, and what it depends on.
//! - [`Request`], [`decide`]: a transaction that is ready to commit, and the verdict on it.
//! - [`LockTable`], [`LockOwner`]: who holds and who waits for what, and no deadlock.
//! - [`CommitRound`]: commits and locking readers keep out of each other's way.
//! - [`Isolation`], [`Concurrency`]: what a transaction is promised, and how the promise is kept.
//! - [`Heat`]: which keys are fought for.
//! - [`Step`]: the poll-style answer of everything that may have to wait.

#![forbid(unsafe_code)]

mod concurrency;
mod heat;
mod isolation;
mod locks;
mod round;
mod snapshot;
mod space;
mod state;
mod step;
mod sync;
mod validate;
mod watermarks;

mod read_set;
mod write_set;

pub use concurrency::Concurrency;
pub use heat::Heat;
pub use isolation::{Isolation, UnknownWord};
pub use locks::{
    Age, DeadlockPolicy, Holder, LockMode, LockOwner, LockStats, LockStep, LockTable, LockTarget,
    Refusal, Victim, Wound,
};
pub use read_set::{Interval, IntervalId, KeyBound, ReadSet, SpaceReads};
pub use round::{CommitRound, OpenRound};
pub use snapshot::{Expired, LiveReader, Reader, SnapshotRegistry, SnapshotSlot, Unreadable};
pub use space::{Space, SpaceId};
pub use state::{Outcome, RequestState};
pub use step::{BlockedBy, Step};
pub use validate::{Conflict, ConflictKind, Recent, Request, SpaceWrites, Verdict, decide};
pub use watermarks::Watermarks;
pub use write_set::{Merging, Overlay, Savepoint, Write, WriteSet};
