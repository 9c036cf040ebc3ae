//! Reading the log back: follows it from its first batch to its last, and tells a torn tail from
//! damage. Changes no byte on disk; `log.rs` then cuts, durably, or goes on.
//!
//! 1. Every file and the directory is synced before it is read, and what no header says to be durable
//!    is written again, with the same bytes, and synced, before replay returns (`rewrite.rs`): what
//!    recovery builds on cannot be in the page cache only.
//! 2. The log ends at the first batch that is not whole, out of sequence or off the chain. That end
//!    is a torn tail only if nothing later bears witness against it. A witness is any batch header or
//!    segment header, of the same recovery epoch, that was written when the batch missing here was
//!    already durable; or any segment of a later epoch. With a witness the end is damage.
//! 3. A segment that recovery wrote (`cut`) ends the log before it exactly where it says; bytes
//!    behind that end are dead and not looked at.
//! 4. A file that is shorter than its header says, and a read that fails, are errors, not ends.
//!
//! Why the durable batch in the headers decides alone: a batch that was not durable when a later one
//! was submitted may be lost with the later one kept, however far apart they are (unsynced writes
//! reach the disk in any order). Between synced batches at most `depth_max` are in flight, so there a
//! hole more than that many batches back always has its witness.
//!
//! Why a batch whose header is whole and whose payload is torn still counts as a witness: its header
//! was written, so what it says was true.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::LogOpenError;
use crate::format::{
    BATCH_HEADER_BYTES, BLOCK, BatchHeader, BatchKind, DatabaseId, FORMAT_NUMBER, HeaderBlock,
    HeaderCrc, Place, Records, SegmentHeader, SegmentId, is_zero,
};
use crate::lsn::Lsn;
use crate::segment::{self, DIRECTORY, Segment};
use crate::storage::{Access, BLOCK_BYTES, Storage, StorageFile};

mod rewrite;

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// Who gets the records when a log is opened, in order. An error is passed on as
/// [`LogOpenError::Refused`], with the place.
pub type EachRecord<'a> = dyn FnMut(Lsn, &[u8]) -> Result<(), String> + 'a;

/// What was read when a log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayReport {
    /// Whether there was no log before.
    pub created: bool,
    /// Segments that hold the log.
    pub segments: u64,
    /// Batches, marks included.
    pub batches: u64,
    /// Records handed to the reader.
    pub records: u64,
    /// Bytes of those batches.
    pub bytes: u64,
    /// What was cut off behind the last whole batch.
    pub torn_tail: Option<TornTail>,
}

/// Batches that were under way when the log ended, never confirmed, and cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment file.
    pub file: String,
    /// Where the log ends in it, in bytes.
    pub offset: u64,
    /// Bytes from there to the last one that is not zero, in all segments.
    pub bytes: u64,
}

/// The end of a log that was read.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) database: DatabaseId,
    pub(crate) segment: Segment,
    /// Behind the last whole batch.
    pub(crate) offset: u64,
    /// The last batch; 0 if there is none.
    pub(crate) sequence: u64,
    pub(crate) crc: HeaderCrc,
    /// The last record's LSN.
    pub(crate) last: Lsn,
    /// The LSN that the next record would have in the same epoch.
    pub(crate) next: Lsn,
    /// Closed in order, and nothing behind.
    pub(crate) clean: bool,
}

/// What lies in the log's directory.
#[derive(Debug)]
pub(crate) struct Replayed {
    /// `None`: no log was ever begun.
    pub(crate) tail: Option<Tail>,
    /// Segments of nothing but zeros, to be used or removed.
    pub(crate) blank: Vec<Segment>,
    /// Files that hold nothing alive, to be removed once the end of the log is durable.
    pub(crate) dead: Vec<PathBuf>,
    /// The largest number that a segment has.
    pub(crate) last_id: SegmentId,
    pub(crate) report: ReplayReport,
}

struct Found {
    path: PathBuf,
    file: Arc<dyn StorageFile>,
    bytes: u64,
    header: HeaderBlock,
}

impl Found {
    fn valid(&self) -> Option<&SegmentHeader> {
        match &self.header {
            HeaderBlock::Valid(header) => Some(header),
            _ => None,
        }
    }
}

/// Reads the whole log, and makes durable what it read. `each` gets every record in order.
pub(crate) fn replay(
    storage: &dyn Storage,
    database: Option<DatabaseId>,
    each: &mut EachRecord<'_>,
) -> Result<Replayed, LogOpenError> {
    let reader = Reader { storage, found: find(storage)? };
    let last_id = reader.found.keys().max().copied().unwrap_or(SegmentId::NONE);
    let Some(first) = reader.first(database)? else {
        return reader.nothing_yet(last_id);
    };
    let mut report = ReplayReport::default();
    let (end, visited) = Walk::new(&reader).from(first, &mut report, each)?;
    let rest = reader.judge(&end, &visited)?;
    if !planted!("cached-bytes-trusted") {
        reader.rewrite(&end, &visited)?;
    }
    reader.take_stock(end, rest, last_id, report, &visited)
}

/// Syncs and opens everything, and reads the first blocks.
fn find(storage: &dyn Storage) -> Result<HashMap<SegmentId, Found>, LogOpenError> {
    let directory = Path::new(DIRECTORY);
    let mut found = HashMap::new();
    for entry in storage.list(directory).map_err(|error| io_error(storage, directory, error))? {
        let Some(id) = segment::parse_name(&entry.name).filter(|_| !entry.is_directory) else {
            continue;
        };
        let path = segment::path(id);
        let failed = |error| io_error(storage, &path, error);
        let file = storage.open(&path, Access::ReadWrite).map_err(failed)?;
        if !planted!("recovery-syncs-nothing") {
            file.sync().map_err(failed)?;
        }
        let bytes = file.len().map_err(failed)?;
        let mut block = vec![0; BLOCK_BYTES];
        let read = file.read_at(0, &mut block).map_err(failed)?;
        let header = SegmentHeader::decode(&block[..read]);
        found.insert(id, Found { path, file, bytes, header });
    }
    storage.sync_dir(directory).map_err(|error| io_error(storage, directory, error))?;
    Ok(found)
}

pub(crate) fn io_error(storage: &dyn Storage, path: &Path, source: io::Error) -> LogOpenError {
    LogOpenError::Io { path: storage.display(path), source }
}

struct Reader<'a> {
    storage: &'a dyn Storage,
    found: HashMap<SegmentId, Found>,
}

/// What lies behind the end of the log.
#[derive(Default)]
struct Rest {
    /// Bytes from the end to the last one that is not zero, over all files.
    bytes: u64,
    /// The files, other than the log's own, that are nothing but zeros.
    blank: Vec<SegmentId>,
}

impl Reader<'_> {
    fn corrupt(&self, id: SegmentId, offset: u64, what: impl Into<String>) -> LogOpenError {
        LogOpenError::Corrupt { file: self.shown(id), offset, what: what.into() }
    }

    fn foreign(&self, id: SegmentId, what: String) -> LogOpenError {
        LogOpenError::Foreign { file: self.shown(id), what }
    }

    fn shown(&self, id: SegmentId) -> String {
        self.storage.display(&segment::path(id))
    }

    fn io(&self, id: SegmentId, error: io::Error) -> LogOpenError {
        io_error(self.storage, &segment::path(id), error)
    }

    /// Segments in the order of their numbers, for messages and results that do not vary.
    fn ids(&self) -> Vec<SegmentId> {
        let mut ids: Vec<_> = self.found.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The segment that the log begins with, after a look at all headers. `None`: none is valid.
    fn first(&self, expected: Option<DatabaseId>) -> Result<Option<SegmentId>, LogOpenError> {
        let mut database = expected;
        let mut first = None;
        for id in self.ids() {
            let header = match &self.found[&id].header {
                HeaderBlock::Valid(header) => header,
                HeaderBlock::Foreign => {
                    return Err(self.foreign(id, "it does not begin like a log segment".into()));
                }
                &HeaderBlock::TooNew(found) => {
                    let file = self.shown(id);
                    return Err(LogOpenError::FormatTooNew {
                        file,
                        found,
                        supported: FORMAT_NUMBER,
                    });
                }
                HeaderBlock::Blank | HeaderBlock::Bad(_) => continue,
            };
            if header.segment != id {
                let was = segment::path(header.segment);
                return Err(self.foreign(id, format!("it was {} once", was.display())));
            }
            let ours = *database.get_or_insert(header.database);
            if header.database != ours {
                let what = format!("its database is {:?}, ours {ours:?}", header.database);
                return Err(self.foreign(id, what));
            }
            if header.previous == SegmentId::NONE
                && let Some(other) = first.replace(id)
            {
                let what = format!("it begins the log, and so does {}", self.shown(other));
                return Err(self.corrupt(id, 0, what));
            }
        }
        let valid = |id: &SegmentId| self.found[id].valid().is_some();
        match (first, self.ids().into_iter().find(valid)) {
            (Some(first), _) => Ok(Some(first)),
            (None, Some(orphan)) => Err(self.blame(orphan, None)),
            (None, None) => Ok(None),
        }
    }

    /// A segment is there that the log does not lead to. Names what is missing or damaged on the way:
    /// a segment before it, or the end of the log, if that is known.
    fn blame(&self, orphan: SegmentId, end: Option<(&End, &[SegmentId])>) -> LogOpenError {
        let mut id = orphan;
        for _ in 0..=self.found.len() {
            let Some(found) = self.found.get(&id) else {
                let what = format!("it is missing, and {} follows it", self.shown(orphan));
                return self.corrupt(id, 0, what);
            };
            if let Some((end, visited)) = end
                && visited.contains(&id)
            {
                return self.hole(end, &format!("{} was begun after it", self.shown(orphan)));
            }
            match &found.header {
                HeaderBlock::Valid(header) if header.previous != SegmentId::NONE => {
                    id = header.previous;
                }
                HeaderBlock::Bad(what) => return self.corrupt(id, 0, *what),
                HeaderBlock::Blank => {
                    let what = format!("its header is gone, and {} follows it", self.shown(orphan));
                    return self.corrupt(id, 0, what);
                }
                _ => break,
            }
        }
        self.corrupt(orphan, 0, "no segment leads to it")
    }

    /// No segment has a valid header. That is a log whose making was cut short, before anything
    /// could be in it, if nothing but (torn) first blocks was written.
    fn nothing_yet(self, last_id: SegmentId) -> Result<Replayed, LogOpenError> {
        let mut blank = Vec::new();
        let mut dead = Vec::new();
        for id in self.ids() {
            let found = &self.found[&id];
            let mut window = Window::new(&*found.file, found.bytes);
            let mut offset = BLOCK;
            while offset < found.bytes {
                let bytes = window.some(offset).map_err(|error| self.io(id, error))?;
                if !is_zero(bytes) {
                    let what = "the segment has bytes, and no segment has a header";
                    return Err(self.corrupt(id, 0, what));
                }
                offset += bytes.len() as u64;
            }
            match found.header {
                HeaderBlock::Blank => blank.push(id),
                _ => dead.push(found.path.clone()),
            }
        }
        let report = ReplayReport { created: true, ..ReplayReport::default() };
        let blank = self.segments(&blank);
        Ok(Replayed { tail: None, blank, dead, last_id, report })
    }

    fn segments(&self, ids: &[SegmentId]) -> Vec<Segment> {
        let segment = |id: &SegmentId| {
            let found = &self.found[id];
            Segment { id: *id, file: found.file.clone(), capacity: found.bytes }
        };
        ids.iter().map(segment).collect()
    }

    /// Looks for witnesses against `end` (invariant 2), and at what else lies behind it.
    fn judge(&self, end: &End, visited: &[SegmentId]) -> Result<Rest, LogOpenError> {
        let hole = end.sequence + 1;
        for id in self.ids() {
            if visited.contains(&id) {
                continue;
            }
            let Some(header) = self.found[&id].valid() else { continue };
            let (epoch, ours) = (header.start.epoch(), end.next.epoch());
            let witness = epoch > ours || epoch == ours && header.durable_batch >= hole;
            if witness && !planted!("hole-accepted") {
                return Err(self.blame(id, Some((end, visited))));
            }
        }
        let mut rest = Rest::default();
        self.scan(end, end.segment, end.offset, &mut rest)?;
        for id in self.ids() {
            if visited.contains(&id) {
                continue;
            }
            let before = rest.bytes;
            self.scan(end, id, 0, &mut rest)?;
            if rest.bytes == before {
                rest.blank.push(id);
            }
        }
        Ok(rest)
    }

    fn scan(
        &self,
        end: &End,
        id: SegmentId,
        from: u64,
        rest: &mut Rest,
    ) -> Result<(), LogOpenError> {
        let found = &self.found[&id];
        let mut window = Window::new(&*found.file, found.bytes);
        let mut last = from;
        let mut offset = from;
        while offset < found.bytes {
            let bytes = window.some(offset).map_err(|error| self.io(id, error))?;
            // All zero is the common case by far, and told at the speed of memory.
            if !is_zero(bytes) {
                for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                    let at = offset + index as u64 * BLOCK;
                    if is_zero(block) {
                        continue;
                    }
                    last = at + block.len() as u64;
                    let place = Place { database: end.database, segment: id, offset: at };
                    let Some((header, _)) = BatchHeader::decode(block, &place) else { continue };
                    let same = header.first.epoch() == end.next.epoch();
                    let witness = header.first.epoch() > end.next.epoch()
                        || same && header.durable_batch > end.sequence;
                    if witness && !planted!("hole-accepted") {
                        let what = format!(
                            "batch {} in {} at offset {at} was written after it",
                            header.sequence,
                            self.shown(id)
                        );
                        return Err(self.hole(end, &what));
                    }
                }
            }
            offset += bytes.len() as u64;
        }
        rest.bytes += last - from;
        Ok(())
    }

    fn hole(&self, end: &End, witness: &str) -> LogOpenError {
        let what =
            format!("batch {} is {}, but it was durable: {witness}", end.sequence + 1, end.why);
        self.corrupt(end.segment, end.offset, what)
    }

    fn take_stock(
        &self,
        end: End,
        rest: Rest,
        last_id: SegmentId,
        mut report: ReplayReport,
        visited: &[SegmentId],
    ) -> Result<Replayed, LogOpenError> {
        report.segments = visited.len() as u64;
        if rest.bytes > 0 {
            report.torn_tail = Some(TornTail {
                file: self.shown(end.segment),
                offset: end.offset,
                bytes: rest.bytes,
            });
        }
        let is_dead = |id: &SegmentId| !visited.contains(id) && !rest.blank.contains(id);
        let dead =
            self.ids().iter().filter(|id| is_dead(id)).map(|id| segment::path(*id)).collect();
        let found = &self.found[&end.segment];
        let tail = Tail {
            database: end.database,
            segment: Segment { id: end.segment, file: found.file.clone(), capacity: end.capacity },
            offset: end.offset,
            sequence: end.sequence,
            crc: end.crc,
            last: end.last,
            next: end.next,
            clean: end.closed && rest.bytes == 0,
        };
        let blank = self.segments(&rest.blank);
        Ok(Replayed { tail: Some(tail), blank, dead, last_id, report })
    }
}

/// Where a walk stopped.
struct End {
    database: DatabaseId,
    segment: SegmentId,
    capacity: u64,
    offset: u64,
    sequence: u64,
    /// The last batch that a header on the way says to be durable.
    attested: u64,
    crc: HeaderCrc,
    last: Lsn,
    next: Lsn,
    /// The last batch says that the log was closed.
    closed: bool,
    /// Why the batch here was not taken.
    why: &'static str,
}

/// Follows the log, batch by batch.
struct Walk<'a> {
    reader: &'a Reader<'a>,
    visited: Vec<SegmentId>,
    at: End,
}

impl<'a> Walk<'a> {
    fn new(reader: &'a Reader<'a>) -> Walk<'a> {
        let at = End {
            database: DatabaseId::default(),
            segment: SegmentId::NONE,
            capacity: 0,
            offset: 0,
            sequence: 0,
            attested: 0,
            crc: HeaderCrc::default(),
            last: Lsn::ZERO,
            next: Lsn::ZERO,
            closed: false,
            why: "missing",
        };
        Walk { reader, visited: Vec::new(), at }
    }

    /// Follows the log from its first segment to its end; also returns the segments it is in.
    fn from(
        mut self,
        first: SegmentId,
        report: &mut ReplayReport,
        each: &mut EachRecord<'_>,
    ) -> Result<(End, Vec<SegmentId>), LogOpenError> {
        let mut next = Some(first);
        while let Some(id) = next {
            self.enter(id)?;
            next = self.through(report, each)?;
        }
        Ok((self.at, self.visited))
    }

    /// Moves into a segment whose header was checked against the end before it.
    fn enter(&mut self, id: SegmentId) -> Result<(), LogOpenError> {
        let reader = self.reader;
        let found = &reader.found[&id];
        let Some(header) = found.valid() else { return Err(reader.blame(id, None)) };
        if self.visited.contains(&id) {
            return Err(reader.corrupt(id, 0, "the log leads back to this segment"));
        }
        if header.capacity > found.bytes {
            let what = format!("the file ends here, its header says at {}", header.capacity);
            return Err(reader.corrupt(id, found.bytes, what));
        }
        if self.visited.is_empty() {
            if header.first_batch != 1 || header.previous_lsn != Lsn::ZERO {
                return Err(reader.corrupt(
                    id,
                    0,
                    "it begins the log, but not with its first batch",
                ));
            }
            self.at.crc = HeaderCrc(header.previous_crc);
        }
        self.visited.push(id);
        self.at.database = header.database;
        self.at.segment = id;
        self.at.capacity = header.capacity;
        self.at.offset = BLOCK;
        self.at.attested = self.at.attested.max(header.durable_batch);
        self.at.next = header.start;
        self.at.closed = false;
        Ok(())
    }

    /// Reads the batches of the current segment. Returns the segment that the log goes on in.
    fn through(
        &mut self,
        report: &mut ReplayReport,
        each: &mut EachRecord<'_>,
    ) -> Result<Option<SegmentId>, LogOpenError> {
        let reader = self.reader;
        let id = self.at.segment;
        let found = &reader.found[&id];
        let cut = self.cut()?;
        let limit = match cut {
            Some((next, header)) if header.previous_end > self.at.capacity => {
                let what = format!("it says that {} ends behind its end", reader.shown(id));
                return Err(reader.corrupt(next, 0, what));
            }
            Some((_, header)) => header.previous_end,
            None => self.at.capacity,
        };
        let mut window = Window::new(&*found.file, self.at.capacity);
        loop {
            if let Some((next, header)) = cut
                && self.at.offset == limit
            {
                return match self.joins(header) {
                    true => Ok(Some(next)),
                    false => Err(reader.corrupt(next, 0, "it does not fit the log before it")),
                };
            }
            match self.batch(&mut window, limit, each)? {
                Step::Batch(header) => {
                    report.batches += 1;
                    report.records += u64::from(header.records);
                    report.bytes += header.batch_bytes();
                }
                Step::Not(why) => {
                    self.at.why = why;
                    break;
                }
            }
        }
        if let Some((next, _)) = cut {
            let what = format!(
                "batch {} is {}, but {} says that the log reaches offset {limit}",
                self.at.sequence + 1,
                self.at.why,
                reader.shown(next)
            );
            return Err(reader.corrupt(id, self.at.offset, what));
        }
        Ok(self.rotation())
    }

    /// The segment that recovery began behind this one, if there is one.
    fn cut(&self) -> Result<Option<(SegmentId, &'a SegmentHeader)>, LogOpenError> {
        let mut cut = None;
        for id in self.reader.ids() {
            let Some(header) = self.reader.found[&id].valid() else { continue };
            if !header.cut || header.previous != self.at.segment {
                continue;
            }
            if let Some((other, _)) = cut.replace((id, header)) {
                let what = format!("two segments follow it, {} as well", self.reader.shown(other));
                return Err(self.reader.corrupt(id, 0, what));
            }
        }
        Ok(cut)
    }

    /// The segment that says that the log went on in it from exactly here.
    fn rotation(&self) -> Option<SegmentId> {
        let follows = |id: &SegmentId| {
            self.reader.found[id].valid().is_some_and(|header| {
                !header.cut
                    && header.previous == self.at.segment
                    && header.previous_end == self.at.offset
                    && header.start == self.at.next
                    && self.joins(header)
            })
        };
        self.reader.ids().into_iter().find(follows)
    }

    fn joins(&self, header: &SegmentHeader) -> bool {
        let epoch = self.at.next.epoch();
        header.first_batch == self.at.sequence + 1
            && header.previous_crc == self.at.crc.0
            && header.previous_lsn == self.at.last
            && ((header.start.epoch() > epoch) == header.cut || planted!("lsn-given-twice"))
    }

    /// Reads one batch, and takes it if it is the next one.
    fn batch(
        &mut self,
        window: &mut Window<'_>,
        limit: u64,
        each: &mut EachRecord<'_>,
    ) -> Result<Step, LogOpenError> {
        let reader = self.reader;
        let at = &mut self.at;
        let id = at.segment;
        let place = Place { database: at.database, segment: id, offset: at.offset };
        let failed = |error| reader.io(id, error);
        if at.offset == limit {
            return Ok(Step::Not("missing"));
        }
        let block = window.exactly(at.offset, BLOCK_BYTES).map_err(failed)?;
        let Some((header, crc)) = BatchHeader::decode(block, &place) else {
            return Ok(Step::Not(if is_zero(block) { "missing" } else { "not whole" }));
        };
        if header.sequence != at.sequence + 1
            || header.previous_crc != at.crc.0
            || header.first != at.next
        {
            return Ok(Step::Not("not the one that belongs here"));
        }
        let bytes = header.batch_bytes();
        if bytes > limit - at.offset {
            return Ok(Step::Not("longer than its place"));
        }
        let rest =
            &window.exactly(at.offset, bytes as usize).map_err(failed)?[BATCH_HEADER_BYTES..];
        if !header.covers(rest, &place) && !planted!("crc-not-checked") {
            return Ok(Step::Not("not whole"));
        }
        let mut records = Records::new(&rest[..header.payload_bytes as usize], header.records);
        let mut lsn = header.first;
        for record in &mut records {
            each(lsn, record).map_err(|what| LogOpenError::Refused {
                lsn,
                file: reader.shown(id),
                offset: at.offset,
                what,
            })?;
            at.last = lsn;
            lsn = Lsn::from_bits(lsn.bits() + 1);
        }
        if !records.finished() {
            // The checksum matched: whoever wrote this was broken, and so is what follows.
            return Err(reader.corrupt(id, at.offset, "the lengths of its records do not add up"));
        }
        let Some(next) = header.next() else {
            return Err(reader.corrupt(id, at.offset, "its commits run over the epoch's counter"));
        };
        at.offset += bytes;
        at.sequence = header.sequence;
        at.attested = at.attested.max(header.durable_batch);
        at.crc = crc;
        at.next = next;
        at.closed = header.kind == BatchKind::Clean;
        Ok(Step::Batch(header))
    }
}

enum Step {
    Batch(BatchHeader),
    Not(&'static str),
}

/// Reads a file through a buffer that is refilled forwards.
struct Window<'a> {
    file: &'a dyn StorageFile,
    /// Reads stop here.
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn StorageFile, end: u64) -> Window<'a> {
        Window { file, end, start: 0, bytes: Vec::new() }
    }

    /// As many bytes from `offset`, which is before the end, as are at hand.
    fn some(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.exactly(offset, (self.end - offset).min(WINDOW_BYTES as u64) as usize)
    }

    /// `length` bytes from `offset`; both were checked to lie before the end.
    fn exactly(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let held = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + length as u64 > held {
            let wanted = (self.end - offset).min(length.max(WINDOW_BYTES) as u64) as usize;
            self.bytes.clear();
            self.bytes.resize(wanted, 0);
            self.start = offset;
            let read = self.file.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
            if read < length {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("{read} bytes instead of {length} at offset {offset}"),
                ));
            }
        }
        let from = (offset - self.start) as usize;
        Ok(&self.bytes[from..from + length])
    }
}

#[cfg(test)]
mod tests;
