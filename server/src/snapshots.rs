//! The snapshots that clients keep: SNAPSHOT OPEN.
//!
//! They are the server's, not a connection's: any may read at them (BEGIN READ ONLY SNAPSHOT), and they stay
//! until somebody closes them, or until they are older than `--snapshot-age-max`: then they hold nothing any
//! more, and reads at them say so.

use isolith::{Snapshot, Timestamp};
use std::collections::BTreeMap;

/// The most at once.
const SNAPSHOTS_MAX: usize = 1024;

/// By number.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// With when it was opened, in Unix milliseconds.
    kept: BTreeMap<u64, (Snapshot, u64)>,
    last: u64,
}

impl Snapshots {
    /// Keeps one; its number, or `None` if there are too many.
    pub(crate) fn keep(&mut self, snapshot: Snapshot, now_ms: u64) -> Option<u64> {
        if self.kept.len() >= SNAPSHOTS_MAX {
            return None;
        }
        self.last += 1;
        self.kept.insert(self.last, (snapshot, now_ms));
        Some(self.last)
    }

    /// One of them, to read at.
    pub(crate) fn get(&self, id: u64) -> Option<Snapshot> {
        self.kept.get(&id).map(|(snapshot, _)| snapshot.clone())
    }

    /// Closes one; whether it was there.
    pub(crate) fn close(&mut self, id: u64) -> bool {
        self.kept.remove(&id).is_some()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.kept.len()
    }

    /// All of them: number, timestamp, and since when.
    pub(crate) fn all(&self) -> impl Iterator<Item = (u64, Timestamp, u64)> {
        self.kept.iter().map(|(id, (snapshot, since))| (*id, snapshot.timestamp(), *since))
    }
}
