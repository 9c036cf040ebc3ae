//! When a commit, or a transaction that changed nothing, may be told to its owner (protocol rule 17).

use std::task::{Context, Poll};

use isolith_wal::{Durability, Lsn};

use crate::core::{Core, log_error};
use crate::error::Result;
use crate::pending::CommitInfo;

impl Core {
    /// Whether everything at or below `at` is acknowledged for somebody who asks for `durability`.
    pub(crate) fn is_acknowledged(
        &self,
        at: Lsn,
        info: CommitInfo,
        durability: Durability,
    ) -> bool {
        let marks = self.marks();
        if info.timestamp.is_none() {
            return marks.acknowledged() >= at;
        }
        match durability {
            Durability::Sync => marks.durable() >= at || self.log().is_none(),
            // Its own way to the kernel, and nothing else: a later `Buffered` commit raises S above
            // it without having been written.
            Durability::Os => {
                let written = marks.written();
                if written >= at {
                    marks.raise_weak(match isolith_wal::planted!("weak-raised-too-far") {
                        true => marks.visible(),
                        false => written,
                    });
                }
                let reached = match isolith_wal::planted!("os-acknowledged-unwritten") {
                    true => marks.acknowledged(),
                    false => written,
                };
                reached >= at || self.log().is_none()
            }
            // The window's leader raised weak before it said that the commit was decided.
            Durability::Buffered => true,
        }
    }

    /// What to ask of the log for an acknowledgement: a transaction that changed nothing waits for
    /// what it saw, and even a `Buffered` one asks for a write, since only ends of batches may be
    /// acknowledged after the fact.
    fn level(info: CommitInfo, durability: Durability) -> Durability {
        match durability {
            Durability::Buffered if info.timestamp.is_none() => Durability::Os,
            level => level,
        }
    }

    /// Blocks until `at` is acknowledged.
    pub(crate) fn acknowledge(
        &self,
        at: Lsn,
        info: CommitInfo,
        durability: Durability,
    ) -> Result<()> {
        if self.is_acknowledged(at, info, durability) {
            return Ok(());
        }
        let Some(log) = self.log() else {
            // The window's leader has yet to raise weak to what it has made visible.
            while !self.is_acknowledged(at, info, durability) {
                std::thread::yield_now();
            }
            return Ok(());
        };
        let level = Self::level(info, durability);
        log.wait(at, level).map_err(log_error)?;
        if level != Durability::Sync {
            self.marks().raise_weak(self.marks().written());
        }
        Ok(())
    }

    /// The same as a poll that never does I/O.
    pub(crate) fn poll_acknowledged(
        &self,
        at: Lsn,
        info: CommitInfo,
        durability: Durability,
        cx: &mut Context<'_>,
    ) -> Poll<Result<()>> {
        if self.is_acknowledged(at, info, durability) {
            return Poll::Ready(Ok(()));
        }
        let Some(log) = self.log() else {
            // A few instructions of the window's leader are missing.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        let level = Self::level(info, durability);
        let poll = log.poll(at, level, cx).map_err(log_error);
        if let Poll::Ready(Ok(())) = poll
            && level != Durability::Sync
        {
            self.marks().raise_weak(self.marks().written());
        }
        poll
    }
}
