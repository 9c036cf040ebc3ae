//! What a log that is closed in order leaves on the disk: no more than is needed.
//!
//! 1. Where all of it was released and none of that is retained, the mark of the close goes into a small segment of its own, which is begun
//!    like any other; those before it are removed once the mark is durable. A crash in between leaves what a
//!    crash leaves at any move to another segment: the log with the small one or without, and segments that
//!    lead to it or not.
//! 2. Otherwise the log stays as it is: what it has is replayed by the next open.
//! 3. Either way the segments go that were prepared and not used. They hold nothing, so it does not matter
//!    which of them a crash brings back.
//! 4. The small segment has room for the marks of some opens and closes: to open a database and to close it
//!    takes no room on a disk that is full.

use std::collections::VecDeque;

use crate::format::BLOCK;
use crate::log::Log;
use crate::segment::{SEGMENT_BYTES_MIN, Segment};

/// The marks that a segment has room for that is kept for the last one: of this close, of an open and of the
/// close after that.
const MARKS: u64 = 3;

impl Log {
    /// Sees to it that the mark of the close has its place, where nothing is under way any more and nothing
    /// will be. Gives the segments that were prepared for nothing.
    pub(crate) fn choose_last_segment(&self) -> VecDeque<Segment> {
        let (segments, bytes) = self.held_bytes();
        let is_small = segments == 1
            && bytes <= SEGMENT_BYTES_MIN
            && self.writer.lock().left() >= MARKS * BLOCK;
        let needless =
            self.options.retained_bytes == 0 && self.held.lock().is_needless(self.appended());
        // What cannot be made smaller, for want of room for the small one, stays as it is.
        let last = match needless && !is_small {
            true => self.prepare_segment(SEGMENT_BYTES_MIN).ok(),
            false => None,
        };
        self.space.with(|ledger| match ledger.has_block_here() || last.is_some() {
            true => ledger.end_in(last),
            // The mark needs one of them.
            false => VecDeque::new(),
        })
    }

    /// The mark is durable: removes these segments, and those that it made needless. What cannot be removed
    /// is no part of the log: the next open does it.
    pub(crate) fn give_back(&self, unused: VecDeque<Segment>) {
        for segment in unused {
            let _ = self.remove(segment.id);
        }
        let (durable_batch, durable) = self.commit.durable_batch();
        let mut held = self.held.lock();
        if held.is_needless(durable) {
            let released = held.release(durable, durable_batch, self.options.retained_bytes);
            drop(held);
            for segment in released {
                let _ = self.remove(segment.header.segment);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
