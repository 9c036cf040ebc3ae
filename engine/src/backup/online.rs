//! A copy of a database that is in use.

use std::ops::ControlFlow;
use std::sync::Arc;

use isolith_wal::{Log, LogHold, Lsn, Storage};

use super::copying::{self, Plan, Take};
use super::{BackupError, Checkpoint, CheckpointOptions};
use crate::changes::read_error;
use crate::core::{Core, log_error};

/// Makes a copy in a storage that has nothing in it.
pub(super) fn checkpoint(
    core: &Core,
    target: &Arc<dyn Storage>,
    options: CheckpointOptions,
) -> Result<Checkpoint, BackupError> {
    let (Some(files), Some(log)) = (core.files(), core.log()) else {
        return Err(BackupError::NotOnDisk);
    };
    let pinned = files.pin(core).map_err(crate::Error::from)?;
    let made = copy_pinned(core, log, &pinned, target, options);
    drop(pinned);
    // What was superseded meanwhile goes. What fails is tried again by whoever flushes next.
    let _ = files.unpin(core);
    made
}

fn copy_pinned(
    core: &Core,
    log: &Arc<Log>,
    pinned: &crate::files::Pinned,
    target: &Arc<dyn Storage>,
    options: CheckpointOptions,
) -> Result<Checkpoint, BackupError> {
    let files = core.files().ok_or(BackupError::NotOnDisk)?;
    let at = pinned.at;
    log.sync().map_err(log_error)?;
    let floor = pinned.state.log_floor;
    let (begins, _hold) = match files.retains_log() {
        true => hold_all(log, floor),
        false => (floor, None),
    };
    let source = &**files.storage();
    let plan = Plan { source, state: &pinned.state, begins, at, options };
    copying::make(&plan, target, &mut |take| give(log, source, begins, at, take))
}

/// Keeps all that the log has: what is below the floor may go at any time.
fn hold_all(log: &Log, floor: Lsn) -> (Lsn, Option<LogHold>) {
    let begins = log.begins().min(floor);
    match log.hold(begins) {
        Ok(hold) => (begins, Some(hold)),
        // It was released just now. What is above the floor is pinned.
        Err(_) => (floor, None),
    }
}

/// Gives the records after `begins`, up to `at`, which is durable.
fn give(
    log: &Arc<Log>,
    source: &dyn Storage,
    begins: Lsn,
    at: Lsn,
    take: &mut Take<'_>,
) -> Result<(), BackupError> {
    let gone = |gone: isolith_wal::Gone| crate::Error::HistoryGone { begins: gone.begins };
    let mut reader = log.read_after(begins).map_err(gone)?;
    let mut taken = Ok(());
    if begins < at {
        let read = reader.read(&mut |lsn, record| {
            if lsn <= at {
                taken = take(source, lsn, record);
            }
            match taken.is_ok() && lsn < at {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        read.map_err(read_error)?;
    }
    taken
}
