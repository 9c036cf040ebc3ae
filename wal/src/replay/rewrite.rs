//! Making sure that what replay read is on the disk, and not in the page cache only.
//!
//! A sync that succeeds is not enough. After a failed one, or a failed writeback that nobody was told
//! of, kernels keep the bytes in the cache and call them clean: they are read as if nothing had
//! happened, and the next sync succeeds without writing them. A new epoch, or an open mark, behind
//! such bytes would bear witness for what a power cut then takes away. So they are written once more,
//! which makes them dirty, and synced.
//!
//! 1. What is written: every batch behind the last one that a header *attests*, that is, says to be
//!    durable; and the header of each segment none of whose batches is attested. What a header
//!    attests was synced, with success, before the header was made, and needs nothing. It does not
//!    matter whether that header is itself on the disk. A segment that recovery wrote attests all of
//!    the log before it, segment headers included.
//! 2. All of it is durable before anything is written that calls it so.
//! 3. The bytes are the ones that are there. A crash in the middle of it leaves in each sector what
//!    was on the disk, or what was read: a batch that was durable stays whole, one that was not is
//!    there more or less than before, as after any crash. No header that may become durable by it
//!    attests more than was durable before it: so none is a witness against a hole among them.
//! 4. The bytes are read again, and checked again, before they are written: the cache may have let go
//!    of them since replay read them. Then the open fails, nothing but sound batches was written,
//!    and the next open finds what there really is.
//! 5. A write or sync that fails fails the open, and the next one does all of it again: nothing was
//!    written meanwhile that attests it.

use std::io;

use super::{End, Reader, Window};
use crate::error::LogOpenError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, HeaderCrc, Place, SegmentHeader, SegmentId,
};
use crate::segment;
use crate::storage::BLOCK_BYTES;

/// The part of a segment that the log goes through.
struct Stretch<'a> {
    id: SegmentId,
    header: &'a SegmentHeader,
    /// The offset behind its last batch.
    end: u64,
    /// Its last batch; the one before its first if it has none.
    last: u64,
    crc: HeaderCrc,
}

impl Reader<'_> {
    /// Makes durable what is not attested to be so. `visited`: the log's segments in their order.
    pub(super) fn rewrite(&self, end: &End, visited: &[SegmentId]) -> Result<(), LogOpenError> {
        if planted!("recovery-syncs-nothing") {
            return Ok(());
        }
        let headers: Vec<_> =
            visited.iter().filter_map(|id| Some((*id, self.found[id].valid()?))).collect();
        let begun = headers.iter().rposition(|(_, header)| header.cut).unwrap_or(0);
        for (index, &(id, header)) in headers.iter().enumerate().skip(begun) {
            let stretch = match headers.get(index + 1) {
                Some((_, next)) => Stretch {
                    id,
                    header,
                    end: next.previous_end,
                    last: next.first_batch - 1,
                    crc: HeaderCrc(next.previous_crc),
                },
                None => Stretch { id, header, end: end.offset, last: end.sequence, crc: end.crc },
            };
            let is_attested = header.first_batch <= end.attested && stretch.last <= end.attested;
            if !is_attested {
                self.rewrite_stretch(&stretch, end.attested).map_err(|error| self.io(id, error))?;
            }
        }
        Ok(())
    }

    fn rewrite_stretch(&self, stretch: &Stretch<'_>, attested: u64) -> io::Result<()> {
        let Stretch { id, header: segment, end, last, crc } = *stretch;
        let file = &*self.found[&id].file;
        if segment.first_batch > attested {
            segment::write_header(file, segment)?;
        }
        let mut window = Window::new(file, end);
        let mut offset = BLOCK;
        let mut at = (segment.first_batch - 1, HeaderCrc(segment.previous_crc));
        while offset < end {
            let place = Place { database: segment.database, segment: id, offset };
            let block = window.exactly(offset, BLOCK_BYTES)?;
            let (header, crc) = BatchHeader::decode(block, &place)
                .filter(|(header, _)| (header.sequence, header.previous_crc) == (at.0 + 1, at.1.0))
                .filter(|(header, _)| header.batch_bytes() <= end - offset)
                .ok_or_else(|| changed(offset))?;
            let bytes = header.batch_bytes();
            if header.sequence > attested {
                let batch = window.exactly(offset, bytes as usize)?;
                if !header.covers(&batch[BATCH_HEADER_BYTES..], &place) {
                    return Err(changed(offset));
                }
                file.write_at(offset, batch)?;
            }
            at = (header.sequence, crc);
            offset += bytes;
        }
        if at != (last, crc) {
            return Err(changed(offset));
        }
        file.sync()
    }
}

fn changed(offset: u64) -> io::Error {
    io::Error::other(format!(
        "the batch at offset {offset} was there, and is not when it is read again: it was never on \
         the disk. The next open goes by what is there"
    ))
}

#[cfg(all(test, not(loom)))]
mod tests;
