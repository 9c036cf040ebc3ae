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
//! | `format` | the bytes of the log |
//! | `segment`, `space` | segments prepared ahead, and credits for the room in them |
//! | `writer`, `pipeline`, `group_commit` | putting batches together; who does it, who waits |
//! | `held` | which segments are still needed, and what becomes of the others |
//! | `replay` | reading the log back; a torn tail is told from damage |
//! | `reader` | reading it while it is written |
//! | `log_copy` | writing a log that holds the records of another |
//! | `log` | the log itself: open, reserve, append, wait |

#[cfg(not(target_os = "linux"))]
compile_error!("isolith keeps its promises on Linux only: it needs RWF_DSYNC and O_DIRECT");

/// Whether a bug was planted by a test: see the module `planted` in a build with `--cfg planted`;
/// the constant `false` in every other.
#[macro_export]
macro_rules! planted {
    ($bug:literal) => {{
        #[cfg(planted)]
        let planted = $crate::planted::is_planted($bug);
        #[cfg(not(planted))]
        let planted = false;
        planted
    }};
}

#[cfg(planted)]
pub mod planted;

pub mod lsn;

pub mod environment;

pub mod storage;

mod error;

mod sync;

mod format;

mod segment;

mod space;

mod writer;

mod pipeline;

mod closing;
mod group_commit;

mod held;

mod replay;

mod reader;

mod salvage;

mod log;

mod log_copy;

#[cfg(test)]
mod test_log;

pub use environment::{Clock, ManualClock, SystemClock, fork, random_seed};
pub use error::{
    FailedOperation, Gone, LogError, LogOpenError, LogReadError, PoisonCause, ReleaseError,
    ReserveError, StallReason,
};
pub use format::{DatabaseId, FORMAT_NUMBER, RECORD_BYTES_MAX};
pub use held::{LogHold, Released};
pub use log::{Durability, Horizon, Log, LogOptions, LogStats, Opened, Preparation, Record};
pub use log_copy::{LogCopied, LogCopy};
pub use lsn::{AtomicLsn, Lsn, ParseLsnError};
pub use reader::{LogReader, Replayed};
pub use replay::{EachRecord, ReplayReport, TornTail};
pub use salvage::{LogRemains, log_remains};
pub use space::Credit;
pub use storage::backend::{BackendChoice, BackendKind, IoBackend, open_storage};
pub use storage::faulty;
pub use storage::memory::MemoryStorage;
pub use storage::{
    Access, BLOCK_BYTES, DirectoryEntry, FileMap, InFlight, IoBuffer, Reach, Storage, StorageFile,
    StorageLock, copy, link_or_copy,
};
