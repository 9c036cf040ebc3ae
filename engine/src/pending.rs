//! A commit that is decided and visible, and waits for the log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use isolith_wal::{Durability, Lsn};

use crate::database::Open;
use crate::error::Result;

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitInfo {
    /// The commit's timestamp; `None` if the transaction changed nothing.
    pub timestamp: Option<Lsn>,
}

/// A commit that is decided and visible to transactions that begin now, and is *not acknowledged*
/// until this is awaited: a crash may still take it back.
///
/// A future on any runtime, or [`Pending::wait`] to block. Polling never does I/O: the engine's log
/// thread writes. Dropping it gives up the acknowledgement, not the commit.
#[must_use = "the commit is not acknowledged until this is awaited"]
#[derive(Debug)]
pub struct Pending {
    open: Arc<Open>,
    info: CommitInfo,
    /// What must be acknowledged; `Lsn::ZERO` for nothing.
    at: Lsn,
    durability: Durability,
}

impl Pending {
    pub(crate) fn new(open: Arc<Open>, info: CommitInfo, at: Lsn, durability: Durability) -> Self {
        Self { open, info, at, durability }
    }

    /// The commit's timestamp; for a transaction that changed nothing, the newest commit that it
    /// saw.
    pub fn timestamp(&self) -> Lsn {
        self.at
    }

    /// Whether it is acknowledged, without waiting or registering anything.
    pub fn is_ready(&self) -> bool {
        self.open.is_acknowledged(self.at, self.info, self.durability)
    }

    /// Blocks until the commit is acknowledged at its durability.
    pub fn wait(self) -> Result<CommitInfo> {
        self.open.acknowledge(self.at, self.info, self.durability)?;
        Ok(self.info)
    }
}

impl Future for Pending {
    type Output = Result<CommitInfo>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let info = self.info;
        self.open.poll_acknowledged(self.at, info, self.durability, cx).map_ok(|()| info)
    }
}
