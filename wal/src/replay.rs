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
//! 5. A log whose beginning was released is followed from the last segment that begins at or below what
//!    it was opened with ([`LogOptions::begins`](crate::LogOptions::begins)). Segments before that are
//!    kept as far as they lead to it, unread; others are what a crash left of released ones, and go. What
//!    was begun with must be there: a log that ends before it lost what was durable.
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
use crate::held::HeldSegment;
use crate::log::LogOptions;
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
    /// Segments that hold the log, those before what was read included.
    pub segments: u64,
    /// Batches, marks included.
    pub batches: u64,
    /// Records handed to the reader: those after what the log was opened with.
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
    /// Bytes from there to the last one that is not zero, in all segments. In a segment that was
    /// recycled: to the end of the last batch whose header is whole.
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
    /// The largest number that a segment has or had.
    pub(crate) last_id: SegmentId,
    /// The segments that hold the log, in order.
    pub(crate) kept: Vec<HeldSegment>,
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

/// What is asked of a log.
pub(crate) struct Wanted {
    pub(crate) database: Option<DatabaseId>,
    /// Records up to here are not needed.
    pub(crate) begins: Lsn,
    /// The log is damaged if it ends before this record.
    reaches: Lsn,
    /// Nothing is written, not even what was read already.
    pub(crate) read_only: bool,
    /// Segments that are not of this log, to go by their headers, are passed over; otherwise refused.
    pub(crate) passes_over: bool,
}

impl Wanted {
    pub(crate) fn of(options: &LogOptions, read_only: bool) -> Wanted {
        let LogOptions { database, begins, reaches, .. } = *options;
        let reaches = reaches.max(begins);
        Wanted { database, begins, reaches, read_only, passes_over: false }
    }
}

/// Reads the log, and makes durable what it read. `each` gets every record that is needed, in order.
pub(crate) fn replay(
    storage: &dyn Storage,
    wanted: &Wanted,
    each: &mut EachRecord<'_>,
) -> Result<Replayed, LogOpenError> {
    let mut found = find(storage, wanted.read_only)?;
    if wanted.passes_over {
        pass_over(&mut found, wanted.database);
    }
    let mut reader = Reader {
        storage,
        found,
        begins: wanted.begins,
        reaches: wanted.reaches,
        from: Position::default(),
    };
    let last_id = reader.last_id();
    let Some(first) = reader.first(wanted.database)? else {
        return reader.nothing_yet(last_id);
    };
    reader.from = reader.position(first);
    let mut report = ReplayReport::default();
    let (end, visited) = Walk::new(&reader).from(first, &mut report, each)?;
    let rest = reader.judge(&end, &visited)?;
    if !wanted.read_only && !planted!("cached-bytes-trusted") {
        reader.rewrite(&end, &visited)?;
    }
    reader.take_stock(end, rest, last_id, report, &visited)
}

/// Syncs and opens everything, and reads the first blocks.
fn find(storage: &dyn Storage, read_only: bool) -> Result<HashMap<SegmentId, Found>, LogOpenError> {
    let directory = Path::new(DIRECTORY);
    let mut found = HashMap::new();
    let entries = match storage.list(directory) {
        // Whoever writes has made it.
        Err(error) if read_only && error.kind() == io::ErrorKind::NotFound => Vec::new(),
        entries => entries.map_err(|error| io_error(storage, directory, error))?,
    };
    for entry in entries {
        let Some(id) = segment::parse_name(&entry.name).filter(|_| !entry.is_directory) else {
            continue;
        };
        let path = segment::path(id);
        let failed = |error| io_error(storage, &path, error);
        let access = if read_only { Access::Read } else { Access::ReadWrite };
        let file = storage.open(&path, access).map_err(failed)?;
        if !read_only && !planted!("recovery-syncs-nothing") {
            file.sync().map_err(failed)?;
        }
        let bytes = file.len().map_err(failed)?;
        let mut block = vec![0; BLOCK_BYTES];
        let read = file.read_at(0, &mut block).map_err(failed)?;
        let header = SegmentHeader::decode(&block[..read]);
        found.insert(id, Found { path, file, bytes, header });
    }
    if !read_only {
        storage.sync_dir(directory).map_err(|error| io_error(storage, directory, error))?;
    }
    Ok(found)
}

/// Takes segments that are another log's for ones that are not there, and those of which nothing says whose they
/// are for damaged ones of this.
fn pass_over(found: &mut HashMap<SegmentId, Found>, database: Option<DatabaseId>) {
    found.retain(|id, found| {
        let header = found.valid();
        header.is_none_or(|header| {
            header.segment == *id && database.is_none_or(|database| database == header.database)
        })
    });
    for segment in found.values_mut() {
        if let HeaderBlock::Foreign | HeaderBlock::TooNew(_) = segment.header {
            segment.header = HeaderBlock::Bad("it does not begin as a segment of this log");
        }
    }
}

pub(crate) fn io_error(storage: &dyn Storage, path: &Path, source: io::Error) -> LogOpenError {
    LogOpenError::Io { path: storage.display(path), source }
}

struct Reader<'a> {
    storage: &'a dyn Storage,
    found: HashMap<SegmentId, Found>,
    /// Records up to here are not needed.
    begins: Lsn,
    /// It was durable up to here at least.
    reaches: Lsn,
    /// Where the segment stands that is read first.
    from: Position,
}

/// Where a segment stands in the log: its recovery epoch, and its first batch.
type Position = (u32, u64);

impl SegmentHeader {
    fn position(&self) -> Position {
        (self.start.epoch(), self.first_batch)
    }
}

/// What lies in a segment behind the end of the log.
struct Scan {
    /// Bytes that may have been written there.
    bytes: u64,
    /// There is nothing but zeros.
    is_blank: bool,
}

/// What lies behind the end of the log, in all segments.
#[derive(Default)]
struct Rest {
    /// As in [`TornTail`].
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

    /// Where a segment stands that has a header.
    fn position(&self, id: SegmentId) -> Position {
        let header = self.found.get(&id).and_then(Found::valid);
        header.map_or(Position::default(), SegmentHeader::position)
    }

    /// Whether a segment stands before the one that is read first.
    fn is_before(&self, header: &SegmentHeader) -> bool {
        header.position() < self.from
    }

    /// The largest number that a segment has, or that one is remembered to have had.
    fn last_id(&self) -> SegmentId {
        let headers = self.found.values().filter_map(Found::valid);
        let known = self.found.keys().copied().chain(headers.map(|header| header.previous));
        known.max().unwrap_or(SegmentId::NONE)
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
        if self.begins > Lsn::ZERO {
            first = self.last_to_begin_with();
        }
        match (first, self.ids().into_iter().find(valid)) {
            (Some(first), _) => Ok(Some(first)),
            (None, Some(orphan)) => Err(self.blame(orphan, None)),
            (None, None) => Ok(None),
        }
    }

    /// The last segment before which there is nothing that is needed.
    ///
    /// It is part of the log. A segment that is not, since a later epoch cut the log before it, begins
    /// behind that cut: then so does the segment of the later epoch begin at or below `begins`, and stands
    /// later.
    fn last_to_begin_with(&self) -> Option<SegmentId> {
        let headers = self.found.values().filter_map(Found::valid);
        let enough = headers.filter(|header| header.previous_lsn <= self.begins);
        enough.max_by_key(|header| header.position()).map(|header| header.segment)
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
        if self.reaches > Lsn::ZERO {
            let file = self.storage.display(Path::new(DIRECTORY));
            let what =
                format!("no segment of the log is there, but record {} was durable", self.reaches);
            return Err(LogOpenError::Corrupt { file, offset: 0, what });
        }
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
        Ok(Replayed { tail: None, blank, dead, last_id, kept: Vec::new(), report })
    }

    fn segments(&self, ids: &[SegmentId]) -> Vec<Segment> {
        let segment = |id: &SegmentId| {
            let found = &self.found[id];
            let capacity = found.bytes;
            Segment { id: *id, file: found.file.clone(), capacity, recycled: false }
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
            if self.is_before(header) {
                continue;
            }
            let (epoch, ours) = (header.start.epoch(), end.next.epoch());
            let witness = epoch > ours || epoch == ours && header.durable_batch >= hole;
            if witness && !planted!("hole-accepted") {
                return Err(self.blame(id, Some((end, visited))));
            }
        }
        if end.last < self.reaches {
            let what = format!("the log ends with record {}, but {} was", end.last, self.reaches);
            return Err(self.corrupt(end.segment, end.offset, what + " durable"));
        }
        let mut rest = Rest::default();
        rest.bytes += self.scan(end, end.segment, end.offset)?.bytes;
        for id in self.ids() {
            let before = |header| self.is_before(header);
            if visited.contains(&id) || self.found[&id].valid().is_some_and(before) {
                continue;
            }
            let scan = self.scan(end, id, 0)?;
            rest.bytes += scan.bytes;
            if scan.is_blank {
                rest.blank.push(id);
            }
        }
        Ok(rest)
    }

    /// Looks at a segment from an offset on, behind the end of the log.
    fn scan(&self, end: &End, id: SegmentId, from: u64) -> Result<Scan, LogOpenError> {
        let found = &self.found[&id];
        // There may be bytes of an earlier life: what is without a header may be on its way to the next.
        let is_recycled = match &found.header {
            HeaderBlock::Valid(header) => header.recycled,
            header => *header == HeaderBlock::Blank,
        };
        let mut window = Window::new(&*found.file, found.bytes);
        let mut last = from;
        let mut last_batch = from;
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
                    if header.sequence > end.sequence {
                        last_batch = found.bytes.min(at.saturating_add(header.batch_bytes()));
                    }
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
        let behind = if is_recycled { last_batch } else { last };
        Ok(Scan { bytes: behind - from, is_blank: last == from })
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
        let mut kept = match self.begins {
            Lsn::ZERO => Vec::new(),
            _ => self.leading_to(visited),
        };
        kept.extend(visited);
        report.segments = kept.len() as u64;
        if rest.bytes > 0 {
            report.torn_tail = Some(TornTail {
                file: self.shown(end.segment),
                offset: end.offset,
                bytes: rest.bytes,
            });
        }
        let is_dead = |id: &SegmentId| !kept.contains(id) && !rest.blank.contains(id);
        let dead =
            self.ids().iter().filter(|id| is_dead(id)).map(|id| segment::path(*id)).collect();
        let found = &self.found[&end.segment];
        let tail = Tail {
            database: end.database,
            segment: Segment {
                id: end.segment,
                file: found.file.clone(),
                capacity: end.capacity,
                recycled: found.valid().is_some_and(|header| header.recycled),
            },
            offset: end.offset,
            sequence: end.sequence,
            crc: end.crc,
            last: end.last,
            next: end.next,
            clean: end.closed && rest.bytes == 0,
        };
        let blank = self.segments(&rest.blank);
        let held = |id: &SegmentId| {
            let found = &self.found[id];
            let header = *found.valid()?;
            Some(HeldSegment { header, file: found.file.clone(), settled: true })
        };
        let kept = kept.iter().filter_map(held).collect();
        Ok(Replayed { tail: Some(tail), blank, dead, last_id, kept, report })
    }

    /// The segments that lead to those that were read, as far as they are there.
    fn leading_to(&self, visited: &[SegmentId]) -> Vec<SegmentId> {
        let mut leading = Vec::new();
        let mut at = visited.first().and_then(|id| self.found[id].valid());
        while let Some(header) = at {
            let before = self.found.get(&header.previous);
            at = before.and_then(|before| {
                let valid = before.valid()?;
                let fits = valid.position() < header.position()
                    && valid.previous_lsn <= header.previous_lsn
                    && valid.capacity <= before.bytes
                    && valid.capacity >= header.previous_end;
                fits.then_some(valid)
            });
            leading.extend(at.map(|before| before.segment));
        }
        leading.reverse();
        leading
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
        if self.visited.is_empty() && reader.begins > Lsn::ZERO {
            self.at.sequence = header.first_batch - 1;
            self.at.last = header.previous_lsn;
            self.at.crc = HeaderCrc(header.previous_crc);
        } else if self.visited.is_empty() {
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
            match self.batch(&mut window, limit, each, &mut report.records)? {
                Step::Batch(header) => {
                    report.batches += 1;
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
            let ours = header.cut && !self.reader.is_before(header);
            if !ours || header.previous != self.at.segment {
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
                    && !self.reader.is_before(header)
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
        given: &mut u64,
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
            if lsn > reader.begins {
                each(lsn, record).map_err(|what| LogOpenError::Refused {
                    lsn,
                    file: reader.shown(id),
                    offset: at.offset,
                    what,
                })?;
                *given += 1;
            }
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
pub(crate) struct Window<'a> {
    file: &'a dyn StorageFile,
    /// Reads stop here.
    end: u64,
    /// Bytes to read at once.
    ahead: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn StorageFile, end: u64) -> Window<'a> {
        Window { file, end, ahead: WINDOW_BYTES, start: 0, bytes: Vec::new() }
    }

    /// For who does not know how much there will be to read: little at first.
    pub(crate) fn growing(file: &'a dyn StorageFile, end: u64) -> Window<'a> {
        Window { ahead: 2 * BLOCK_BYTES, ..Window::new(file, end) }
    }

    /// As many bytes from `offset`, which is before the end, as are at hand.
    fn some(&mut self, offset: u64) -> io::Result<&[u8]> {
        self.exactly(offset, (self.end - offset).min(WINDOW_BYTES as u64) as usize)
    }

    /// `length` bytes from `offset`; both were checked to lie before the end.
    pub(crate) fn exactly(&mut self, offset: u64, length: usize) -> io::Result<&[u8]> {
        let held = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + length as u64 > held {
            let wanted = (self.end - offset).min(length.max(self.ahead) as u64) as usize;
            self.ahead = (2 * self.ahead).min(WINDOW_BYTES);
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
