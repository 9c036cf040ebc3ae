//! Which segments the log still has, and letting go of those that nobody needs.
//!
//! A segment is released when every record in it is at or below a *floor*: the owner of the log has them
//! elsewhere, durably, and says so when it opens the log again ([`LogOptions::begins`]).
//!
//! ```text
//! in use ──Log::release──► its header zeroed ──► under a new number ──► spare ──► in use
//!                     └──► removed (enough are spare, or it has an unusual size)
//! ```
//!
//! 1. A segment goes only when the header of the one after it is durable, and so is every batch of its
//!    own: so at each moment what a crash leaves has a segment from which the log above the floor can be
//!    followed, and nothing that is still under way is written into a file that was given away.
//! 2. A spare segment has a number that no batch was ever written under and a first block of zeros, both
//!    durable, before it is used. The old bytes behind it stay: their checksums cover the old number, so
//!    they can be taken for nothing (`format.rs`). The header says that they may be there (*recycled*).
//! 3. What is held ([`Log::hold`]) stays, and all after it.
//! 4. A crash leaves any of the released segments as they were, without header, renamed or gone. The next
//!    open begins behind them, and removes what it has no use for (`replay.rs`).

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Gone, ReleaseError};
use crate::format::{BLOCK, SegmentHeader, SegmentId};
use crate::log::Log;
use crate::lsn::Lsn;
use crate::segment::{self, DIRECTORY, Segment};
use crate::storage::{Access, StorageFile};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Segments that are kept spare at most.
const SPARE_MAX: usize = 2;

/// A segment that holds a part of the log.
#[derive(Clone, Debug)]
pub(crate) struct HeldSegment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: Arc<dyn StorageFile>,
    /// The header was durable when it came here: recovery made it so.
    pub(crate) settled: bool,
}

/// The log's segments in their order, the last one in use; and who wants to keep them.
#[derive(Debug)]
pub(crate) struct Held {
    segments: VecDeque<HeldSegment>,
    /// By number: everything after this is wanted.
    holds: Vec<(u64, Lsn)>,
    next_hold: u64,
    /// The records up to here are not needed, as was said last.
    floor: Lsn,
}

impl Held {
    /// These segments, of which nothing is needed up to `floor`.
    pub(crate) fn new(segments: Vec<HeldSegment>, floor: Lsn) -> Held {
        Held { segments: segments.into(), holds: Vec::new(), next_hold: 0, floor }
    }

    /// The log goes on in another segment.
    pub(crate) fn push(&mut self, segment: HeldSegment) {
        self.segments.push_back(segment);
    }

    /// Every record after this one is in the log.
    pub(crate) fn begins(&self) -> Lsn {
        self.segments.front().map_or(Lsn::ZERO, |first| first.header.previous_lsn)
    }

    /// Bytes of the segments that have what comes after `lsn`.
    fn bytes_after(&self, lsn: Lsn) -> u64 {
        let at = self.segments.partition_point(|held| held.header.previous_lsn <= lsn);
        self.segments.iter().skip(at.saturating_sub(1)).map(|held| held.header.capacity).sum()
    }

    /// The segment that has what comes after `lsn`.
    pub(crate) fn after(&self, lsn: Lsn) -> Result<HeldSegment, Gone> {
        let at = self.segments.partition_point(|held| held.header.previous_lsn <= lsn);
        let found = at.checked_sub(1).and_then(|at| self.segments.get(at));
        found.cloned().ok_or(Gone { begins: self.begins() })
    }

    /// The segment after this one, if there is one; `None`: this one is not there.
    pub(crate) fn follow(&self, id: SegmentId) -> Option<Option<HeldSegment>> {
        let at = self.segments.iter().position(|held| held.header.segment == id)?;
        Some(self.segments.get(at + 1).cloned())
    }

    /// Whether nothing is needed of a log that ends with the record `last`.
    pub(crate) fn is_needless(&self, last: Lsn) -> bool {
        self.floor >= last && self.floor > Lsn::ZERO && self.holds.is_empty()
    }

    /// Takes out what is not needed (invariants 1 and 3), but for the last `retained` bytes of it.
    /// `durable_batch`: the last batch that is durable.
    pub(crate) fn release(
        &mut self,
        floor: Lsn,
        durable_batch: u64,
        retained: u64,
    ) -> Vec<HeldSegment> {
        self.floor = self.floor.max(floor);
        let floor = self.holds.iter().map(|&(_, lsn)| lsn).fold(floor, Lsn::min);
        let is_free = |next: &HeldSegment| {
            floor > Lsn::ZERO
                && next.header.previous_lsn <= floor
                && (next.settled || durable_batch >= next.header.first_batch)
        };
        let free = self.segments.iter().skip(1).take_while(|next| is_free(next)).count();
        let mut bytes: u64 = self.segments.iter().take(free).map(|held| held.header.capacity).sum();
        let mut released = Vec::new();
        while bytes > retained
            && let Some(first) = self.segments.pop_front()
        {
            bytes -= first.header.capacity;
            released.push(first);
        }
        released
    }
}

/// Keeps everything after an LSN in the log, until it is dropped. See [`Log::hold`].
#[derive(Debug)]
pub struct LogHold {
    held: Arc<Mutex<Held>>,
    number: u64,
}

impl LogHold {
    /// From here on only what comes after `lsn` is kept. It cannot go back.
    pub fn advance(&self, lsn: Lsn) {
        let mut held = self.held.lock();
        if let Some((_, kept)) = held.holds.iter_mut().find(|(number, _)| *number == self.number) {
            *kept = lsn.max(*kept);
        }
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        self.held.lock().holds.retain(|(number, _)| *number != self.number);
    }
}

/// What [`Log::release`] let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Segments that are used again.
    pub recycled: u64,
    /// Segments that were removed.
    pub removed: u64,
    /// Bytes of those that were removed.
    pub removed_bytes: u64,
}

/// Counted since the log was opened.
#[derive(Debug, Default)]
pub(crate) struct ReleaseCounters {
    pub(crate) recycled: AtomicU64,
    pub(crate) removed: AtomicU64,
}

impl Log {
    /// Lets go of the segments whose records are all at or below `floor`: nobody asks for them any more,
    /// and that is known durably elsewhere, since from now on the log has to be opened with
    /// [`LogOptions::begins`](crate::LogOptions::begins) at `floor` or above. What is above *durable* stays
    /// whatever the floor, and so does what is held, and the last
    /// [`LogOptions::retained_bytes`](crate::LogOptions::retained_bytes) of what is free to go.
    ///
    /// Does its I/O on this thread: write a block, sync it, rename, sync the directory, for each segment
    /// that is used again. An error is about a file that is no part of the log any more; the others are
    /// released all the same, and the next open removes it.
    pub fn release(&self, floor: Lsn) -> Result<Released, ReleaseError> {
        let mut done = Released::default();
        if self.is_forked() || self.poisoned().is_some() {
            return Ok(done);
        }
        let (durable_batch, durable) = self.commit.durable_batch();
        let released = {
            let retained = self.options.retained_bytes;
            self.held.lock().release(floor.min(durable), durable_batch, retained)
        };
        let mut failed = None;
        for HeldSegment { header, file, .. } in released {
            let usual = header.capacity == self.options.segment_bytes;
            let recycled = match usual && self.space.with(|ledger| ledger.spare()) < SPARE_MAX {
                true => self.recycle(header.segment, &*file),
                false => self.remove(header.segment).map(|()| None),
            };
            drop(file);
            match recycled {
                Ok(Some(segment)) => {
                    self.space.add_spare(segment);
                    done.recycled += 1;
                }
                Ok(None) => {
                    done.removed += 1;
                    done.removed_bytes += header.capacity;
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        // Relaxed: figures for people.
        self.released.recycled.fetch_add(done.recycled, Ordering::Relaxed);
        self.released.removed.fetch_add(done.removed, Ordering::Relaxed);
        failed.map_or(Ok(done), Err)
    }

    /// Gives a segment its next life (invariant 2).
    fn recycle(
        &self,
        old: SegmentId,
        file: &dyn StorageFile,
    ) -> Result<Option<Segment>, ReleaseError> {
        let id = self.next_segment_id();
        let (from, to) = (segment::path(old), segment::path(id));
        let storage = &*self.storage;
        let renamed = file
            .write_at(0, &[0; BLOCK as usize])
            .and_then(|()| file.sync())
            .and_then(|()| storage.rename(&from, &to));
        let path = if renamed.is_ok() { &to } else { &from };
        let ready = renamed
            .and_then(|()| storage.sync_dir(Path::new(DIRECTORY)))
            .and_then(|()| storage.open(&to, Access::ReadWrite));
        match ready {
            Ok(file) => {
                let capacity = self.options.segment_bytes;
                Ok(Some(Segment { id, file, capacity, recycled: true }))
            }
            Err(error) => {
                // Best effort: the next open removes it, too.
                let _ = storage.remove(path);
                Err(ReleaseError { file: storage.display(path), error })
            }
        }
    }

    pub(crate) fn remove(&self, id: SegmentId) -> Result<(), ReleaseError> {
        // Its name may come back with a crash: the next open removes it again.
        let path = segment::path(id);
        self.storage
            .remove(&path)
            .map_err(|error| ReleaseError { file: self.storage.display(&path), error })
    }

    /// Keeps everything after `lsn` in the log until the guard is dropped; fails if some of it is gone.
    pub fn hold(&self, lsn: Lsn) -> Result<LogHold, Gone> {
        let mut held = self.held.lock();
        if lsn < held.begins() {
            return Err(Gone { begins: held.begins() });
        }
        let number = held.next_hold;
        held.next_hold += 1;
        held.holds.push((number, lsn));
        Ok(LogHold { held: self.held.clone(), number })
    }

    /// Every record after this one is in the log; the ones up to it may be gone.
    pub fn begins(&self) -> Lsn {
        self.held.lock().begins()
    }

    /// What the segments take on disk that have the records after `lsn`, in bytes: what a
    /// [`release`](Log::release) of everything else would leave.
    pub fn bytes_after(&self, lsn: Lsn) -> u64 {
        self.held.lock().bytes_after(lsn)
    }

    /// Segments that hold the log, and their bytes.
    pub(crate) fn held_bytes(&self) -> (u64, u64) {
        let held = self.held.lock();
        (held.segments.len() as u64, held.bytes_after(held.begins()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
