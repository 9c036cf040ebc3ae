//! Reading the log while it is written: for those who follow the commits.
//!
//! 1. Records come in LSN order, each once, none left out, and only when they are durable.
//! 2. Nothing is locked while a file is read. A segment that is released meanwhile gets another number
//!    before anything else is written into it, so that what was read either checks under the number that it
//!    was read for, or did not come from there: then it is [`Gone`], if the segment is.
//! 3. A batch that is durable and does not check, in a segment that the log still has, is damage.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::error::{Gone, LogOpenError, LogReadError};
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, DatabaseId, HeaderCrc, Place, Records,
};
use crate::held::HeldSegment;
use crate::log::{Log, LogOptions};
use crate::lsn::Lsn;
use crate::replay::{self, EachRecord, ReplayReport, Wanted, Window};
use crate::segment;
use crate::storage::Storage;

/// Follows the log from some record on. See [`Log::read_after`].
#[derive(Debug)]
pub struct LogReader {
    log: Arc<Log>,
    segment: HeldSegment,
    /// Where the next batch begins.
    offset: u64,
    /// Of the batch before it.
    sequence: u64,
    crc: HeaderCrc,
    /// The LSN of the next batch's first record.
    next: Lsn,
    /// Records up to here were given.
    after: Lsn,
}

/// Where the log goes on.
enum Following {
    /// The segment is the last one.
    Here,
    /// Behind its end, in this one.
    At(HeldSegment),
    /// It was released, and what comes next is in this one.
    Released(HeldSegment),
}

/// What was found by [`Log::replay_only`].
#[derive(Clone, Debug)]
pub struct Replayed {
    /// Which database the log belongs to; `None`: there is no log.
    pub database: Option<DatabaseId>,
    /// The last record.
    pub last: Lsn,
    /// Every record after this one is in the log; not above what it was begun with. What lies before that
    /// was not read, and is known by the headers.
    pub begins: Lsn,
    /// Whether the log had been shut down in order.
    pub clean: bool,
    /// What was read.
    pub report: ReplayReport,
}

impl Log {
    /// Reads a log without opening it, as [`Log::open`] would, and changes nothing: a torn tail is left
    /// aside and not cut. Of the options only `database` and `begins` matter.
    pub fn replay_only(
        storage: &dyn Storage,
        options: &LogOptions,
        each: &mut EachRecord<'_>,
    ) -> Result<Replayed, LogOpenError> {
        Self::replay_wanted(storage, &Wanted::of(options, true), each)
    }

    /// [`Log::replay_only`] as far as the log is sound, whatever else lies in its directory: segments of other
    /// logs, and ones whose beginning is damaged, are passed over ([`log_remains`](crate::log_remains) tells
    /// of them). `database` should be given.
    pub fn replay_sound(
        storage: &dyn Storage,
        options: &LogOptions,
        each: &mut EachRecord<'_>,
    ) -> Result<Replayed, LogOpenError> {
        let mut wanted = Wanted::of(options, true);
        wanted.passes_over = true;
        Self::replay_wanted(storage, &wanted, each)
    }

    fn replay_wanted(
        storage: &dyn Storage,
        wanted: &Wanted,
        each: &mut EachRecord<'_>,
    ) -> Result<Replayed, LogOpenError> {
        let replay::Replayed { tail, kept, report, .. } = replay::replay(storage, wanted, each)?;
        Ok(Replayed {
            begins: kept.first().map_or(Lsn::ZERO, |first| first.header.previous_lsn),
            database: tail.as_ref().map(|tail| tail.database),
            last: tail.as_ref().map_or(Lsn::ZERO, |tail| tail.last),
            clean: tail.is_none_or(|tail| tail.clean),
            report,
        })
    }

    /// A reader of the records after `lsn`. What it has not read yet may be released, unless somebody
    /// [holds](Log::hold) it.
    pub fn read_after(self: &Arc<Log>, lsn: Lsn) -> Result<LogReader, Gone> {
        let segment = self.held.lock().after(lsn)?;
        Ok(LogReader::begin(self.clone(), segment, lsn))
    }
}

impl LogReader {
    fn begin(log: Arc<Log>, segment: HeldSegment, after: Lsn) -> LogReader {
        let header = segment.header;
        LogReader {
            log,
            segment,
            offset: BLOCK,
            sequence: header.first_batch - 1,
            crc: HeaderCrc(header.previous_crc),
            next: header.start,
            after,
        }
    }

    /// The last record that was given, or the one that it began after.
    pub fn position(&self) -> Lsn {
        self.after
    }

    /// Gives the records that are durable by now, until there are no more or `each` has enough. Then call
    /// it again when there may be others: [`Log::durable`] says how far it will come.
    pub fn read(
        &mut self,
        each: &mut dyn FnMut(Lsn, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), LogReadError> {
        let durable = self.log.durable();
        // Everything up to `durable` is written, and marks before it are: so where a record is due there
        // is a batch, or the end of the segment.
        while self.next <= durable {
            let file = self.segment.file.clone();
            let mut window = Window::growing(&*file, self.segment.header.capacity);
            while self.next <= durable {
                match self.following()? {
                    Following::Here => {}
                    Following::At(next) if next.header.previous_end == self.offset => {
                        self.enter(next)?;
                        break;
                    }
                    Following::At(_) => {}
                    Following::Released(next) => {
                        *self = LogReader::begin(self.log.clone(), next, self.after);
                        break;
                    }
                }
                match self.batch(&mut window, each) {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(())) => return Ok(()),
                    // Invariant 2.
                    Err(error) => match self.following()? {
                        Following::Released(_) => {}
                        _ => return Err(error),
                    },
                }
            }
        }
        Ok(())
    }

    /// Whether the segment is still there, and where the log goes on.
    fn following(&self) -> Result<Following, Gone> {
        let held = self.log.held.lock();
        Ok(match held.follow(self.segment.header.segment) {
            Some(None) => Following::Here,
            Some(Some(next)) => Following::At(next),
            // It may have ended with what was given last.
            None => Following::Released(held.after(self.after)?),
        })
    }

    fn corrupt(&self, what: &'static str) -> LogReadError {
        LogReadError::Corrupt { file: self.file(), offset: self.offset, what }
    }

    fn file(&self) -> String {
        self.log.storage.display(&segment::path(self.segment.header.segment))
    }

    /// Goes on to the next segment.
    fn enter(&mut self, segment: HeldSegment) -> Result<(), LogReadError> {
        let header = segment.header;
        if header.first_batch != self.sequence + 1 || header.previous_crc != self.crc.0 {
            return Err(self.corrupt("the log goes on from another batch"));
        }
        self.segment = segment;
        self.offset = BLOCK;
        self.next = header.start;
        Ok(())
    }

    /// Reads one batch, which is durable.
    fn batch(
        &mut self,
        window: &mut Window<'_>,
        each: &mut dyn FnMut(Lsn, &[u8]) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LogReadError> {
        let segment = self.segment.header;
        let failed = |source| LogReadError::Io { path: self.file(), source };
        let place =
            Place { database: segment.database, segment: segment.segment, offset: self.offset };
        let left = segment.capacity - self.offset;
        if left < BLOCK {
            return Err(self.corrupt("a durable batch is missing"));
        }
        let block = window.exactly(self.offset, BLOCK as usize).map_err(failed)?;
        let (header, crc) = BatchHeader::decode(block, &place)
            .filter(|(header, _)| {
                header.sequence == self.sequence + 1
                    && header.first == self.next
                    && header.previous_crc == self.crc.0
                    && header.batch_bytes() <= left
            })
            .ok_or_else(|| self.corrupt("a durable batch is not there"))?;
        let bytes = header.batch_bytes();
        let batch = window.exactly(self.offset, bytes as usize).map_err(failed)?;
        let rest = &batch[BATCH_HEADER_BYTES..];
        let Some(next) = header.next().filter(|_| header.covers(rest, &place)) else {
            return Err(self.corrupt("a durable batch is not whole"));
        };
        let mut records = Records::new(&rest[..header.payload_bytes as usize], header.records);
        let mut lsn = header.first;
        for record in &mut records {
            if lsn > self.after {
                self.after = lsn;
                // The batch is read again then, but for what was given.
                if each(lsn, record).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            lsn = Lsn::from_bits(lsn.bits() + 1);
        }
        if !records.finished() {
            return Err(self.corrupt("the lengths of its records do not add up"));
        }
        self.offset += bytes;
        self.sequence = header.sequence;
        self.crc = crc;
        self.next = next;
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
