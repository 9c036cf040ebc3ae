//! Makes bytes durable in order.
//!
//! This crate is isolith's floor: it knows files, logs and syncs, and nothing of keys or
//! transactions. Everything above reaches the disk, the clock and randomness through it alone.
//!
//! Read the modules in this order:
//!
//! | module | its one job |
//! |---|---|
//! | [`lsn`] | the name of a commit's place in the log, which is also its timestamp |
//! | [`environment`] | time, randomness and forks, as seams that a test can hold still |
//! | [`storage`] | files, directories and syncs: the traits, and what they promise |

#[cfg(not(target_os = "linux"))]
compile_error!("isolith keeps its promises on Linux only: it needs RWF_DSYNC and O_DIRECT");

pub mod lsn;

pub mod environment;

pub mod storage;

pub use environment::{Clock, ManualClock, SystemClock, fork, random_seed};
pub use lsn::{AtomicLsn, Lsn};
pub use storage::backend::{BackendChoice, BackendKind, IoBackend, open_storage};
pub use storage::faulty;
pub use storage::memory::MemoryStorage;
pub use storage::{
    Access, BLOCK_BYTES, DirectoryEntry, InFlight, IoBuffer, Reach, Storage, StorageFile,
    StorageLock,
};
