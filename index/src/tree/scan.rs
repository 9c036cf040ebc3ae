//! Scans of all layers: a merge of what each has, key by key, in either direction.
//!
//! 1. A key is visited once, when all sources that have it stand at it; then each is taken past it. So
//!    between two visits every source stands at its next key that was not visited.
//! 2. Range deletes are asked for each key that some layer has a version of, in every layer down to the one
//!    that decides.
//! 3. Where one run alone has a key and nothing hides it, the visitor is lent the value where the file has it.
//!    Elsewhere what the layers say is gathered first.
//! 4. Positions in files outlast the call, in [`FileCursors`]: they hold the files, no pin. Memtables are
//!    sought anew: nothing in them is held without a pin.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use isolith_wal::Lsn;

use super::View;
use super::files::{LevelSet, OpenFile, ReadError, overlapping};
use super::gather::Gathered;
use crate::block::Entry;
use crate::memtable::{Found, Lookup, Memtable, NodeRef};
use crate::merge::LentValue;
use crate::range_deletes::Cover;
use crate::slice::Slice;
use crate::sstable::{Cursor, FileError, FileValue, Sstable, ValueRef, is_above, is_below};
use crate::sync::Guard;
use crate::version::Kind;
use crate::{Direction, KeyRange, visible};

/// Nodes that are taken from a memtable at once, at first and at most.
const NODES_FIRST: usize = 8;
const NODES_MAX: usize = 128;
/// Versions of one key that are stepped over before it is sought behind them.
const STEPS_MAX: usize = 16;

impl View {
    /// Visits the keys of `range` in order, or in reverse order, with what they are at `read`, until
    /// `visit` breaks. Keys without a visible value are visited too.
    ///
    /// Every key whose [`Prepared::add`](crate::Prepared::add) happened before this call is visited,
    /// exactly once; one that is added meanwhile may be. `cursors` may come from an earlier call, over the
    /// same tree: where this one begins right behind the key at which that one's visitor broke, and the
    /// files are the same, they are not sought again.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn scan<'g>(
        &'g self,
        range: KeyRange<'_>,
        direction: Direction,
        read: Lsn,
        cursors: &mut FileCursors,
        guard: &'g Guard,
        mut visit: impl FnMut(&[u8], Lookup<'_>) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        if self.alone {
            self.active.scan(range, direction, guard, |node| visit(node.key(), node.lookup(read)));
            return Ok(());
        }
        let result = self.scan_all(range, direction, read, cursors, guard, visit);
        if !matches!(result, Ok(ControlFlow::Break(()))) {
            // Nothing is left to go on with.
            cursors.positioned = None;
        }
        result.map(drop)
    }

    fn scan_all<'g>(
        &'g self,
        range: KeyRange<'_>,
        direction: Direction,
        read: Lsn,
        cursors: &mut FileCursors,
        guard: &'g Guard,
        mut visit: impl FnMut(&[u8], Lookup<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let keys_only = cursors.keys_only;
        let positioned = cursors.begin(&self.levels, range, direction)?;
        let Positioned { levels, runs, reached, .. } = positioned;
        let mut memtables: Vec<_> = self
            .memtables()
            .map(|memtable| MemtableSource::new(memtable, range, direction, guard))
            .collect();
        let mut lead = Lead::default();
        let may_lend = direction == Direction::Forward && !levels.has_range_deletes();
        loop {
            let Some(key) = lead.next(&memtables, runs, direction) else {
                return Ok(ControlFlow::Continue(()));
            };
            if is_above(range, key) || is_below(range, key) {
                return Ok(ControlFlow::Continue(()));
            }
            reached.clear();
            reached.extend_from_slice(key);
            let key = &**reached;
            // The memtables are asked anew for each key: what they hide may come meanwhile.
            if let Some(run) = lead.run(memtables.len())
                && may_lend
                && memtables.iter().all(|source| source.memtable.range_deletes.is_empty(guard))
                && let Some(flow) = runs[run].lend(levels, key, read, keys_only, &mut visit)?
            {
                match flow {
                    ControlFlow::Continue(()) => continue,
                    ControlFlow::Break(()) => return Ok(flow),
                }
            }
            let mut gathered = Gathered::keys_only(keys_only);
            for (number, source) in memtables.iter_mut().enumerate() {
                let node = if lead.may_have(number) { source.take(key) } else { None };
                if !gathered.is_decided() {
                    gathered.memtable(match node {
                        Some(node) => node.lookup(read),
                        None => visible::nothing(source.memtable, key, read, guard),
                    });
                }
            }
            for (number, run) in runs.iter_mut().enumerate() {
                let has_key = lead.may_have(memtables.len() + number) && run.key() == Some(key);
                if gathered.is_decided() {
                    if has_key {
                        run.skip(levels, key, direction)?;
                    }
                    continue;
                }
                let cover = levels.cover(number, key, read);
                if has_key {
                    run.gather(levels, key, direction, read, cover, &mut gathered)?;
                }
                gathered.end_of_file(cover);
            }
            if visit(key, gathered.finish()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

/// Which source is next. Where one has many keys in a row that no other has, it leads: its keys are compared
/// with the nearest key of all others alone, and not with each of theirs.
#[derive(Default)]
struct Lead {
    /// Memtables come first, then runs.
    source: Option<usize>,
    /// The nearest key of the others, if they have any.
    others: Option<Vec<u8>>,
}

impl Lead {
    /// Whether a source may be at the key that is next.
    fn may_have(&self, source: usize) -> bool {
        self.source.is_none_or(|lead| lead == source)
    }

    /// The run that leads; `before` sources come before the runs.
    fn run(&self, before: usize) -> Option<usize> {
        self.source?.checked_sub(before)
    }

    /// The next key of all.
    fn next<'k>(
        &mut self,
        memtables: &'k [MemtableSource<'_>],
        runs: &'k [RunCursor],
        direction: Direction,
    ) -> Option<&'k [u8]> {
        let key_of = |source: usize| match memtables.get(source) {
            Some(memtable) => memtable.key(),
            None => runs.get(source - memtables.len()).and_then(RunCursor::key),
        };
        if let Some(key) = self.source.and_then(key_of)
            && self.others.as_ref().is_none_or(|others| comes_before(direction, key, others))
        {
            return Some(key);
        }
        let mut first: Option<(usize, &[u8])> = None;
        let mut second: Option<&[u8]> = None;
        for source in 0..memtables.len() + runs.len() {
            let Some(key) = key_of(source) else { continue };
            match first {
                Some((_, known)) if !comes_before(direction, key, known) => {
                    if second.is_none_or(|second| comes_before(direction, key, second)) {
                        second = Some(key);
                    }
                }
                _ => {
                    second = first.map(|(_, known)| known);
                    first = Some((source, key));
                }
            }
        }
        let (source, key) = first?;
        // Where two have it, nobody leads.
        self.source = Some(source).filter(|_| second != Some(key));
        match second.filter(|_| self.source.is_some()) {
            Some(second) => {
                let others = self.others.get_or_insert_default();
                others.clear();
                others.extend_from_slice(second);
            }
            None => self.others = None,
        }
        Some(key)
    }
}

/// Whether one key is to be visited before another.
fn comes_before(direction: Direction, key: &[u8], other: &[u8]) -> bool {
    match direction {
        Direction::Forward => key < other,
        Direction::Reverse => key > other,
    }
}

/// A memtable in a scan: some of its nodes at a time.
struct MemtableSource<'g> {
    memtable: &'g Memtable,
    nodes: Vec<NodeRef<'g>>,
    at: usize,
    /// Whether there are more behind those.
    more: bool,
    limit: usize,
    direction: Direction,
    /// The far end of the range.
    end: Bound<Vec<u8>>,
    guard: &'g Guard,
}

impl<'g> MemtableSource<'g> {
    fn new(
        memtable: &'g Memtable,
        range: KeyRange<'_>,
        direction: Direction,
        guard: &'g Guard,
    ) -> Self {
        let end = match direction {
            Direction::Forward => range.1,
            Direction::Reverse => range.0,
        };
        let end = end.map(<[u8]>::to_vec);
        let (nodes, limit) = (Vec::new(), NODES_FIRST);
        let mut source = Self { memtable, nodes, at: 0, more: false, limit, direction, end, guard };
        source.fill(range);
        source
    }

    fn fill(&mut self, range: KeyRange<'_>) {
        self.nodes.clear();
        (self.at, self.more) = (0, false);
        let (nodes, limit) = (&mut self.nodes, self.limit);
        let mut more = false;
        self.memtable.scan(range, self.direction, self.guard, |node| {
            nodes.push(node);
            more = nodes.len() == limit;
            if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        self.more = more;
        self.limit = (limit * 2).min(NODES_MAX);
    }

    fn key(&self) -> Option<&'g [u8]> {
        self.nodes.get(self.at).map(|node| node.key())
    }

    /// The node of the key, if it is the next; goes past it.
    fn take(&mut self, key: &[u8]) -> Option<NodeRef<'g>> {
        let node = *self.nodes.get(self.at).filter(|node| node.key() == key)?;
        self.at += 1;
        if self.at == self.nodes.len() && self.more {
            let end = std::mem::replace(&mut self.end, Bound::Unbounded);
            let (begin, far) = (Bound::Excluded(node.key()), end.as_ref().map(|end| &**end));
            self.fill(match self.direction {
                Direction::Forward => (begin, far),
                Direction::Reverse => (far, begin),
            });
            self.end = end;
        }
        Some(node)
    }
}

/// Where a scan is in the files, from one chunk of keys to the next. It holds the files, and so the room
/// that they take, until it is dropped or a scan comes to its end.
#[derive(Debug, Default)]
pub struct FileCursors {
    positioned: Option<Positioned>,
    keys_only: bool,
}

#[derive(Debug)]
struct Positioned {
    levels: Arc<LevelSet>,
    direction: Direction,
    /// The key that was visited last.
    reached: Vec<u8>,
    /// The far end of the range: nothing behind it was looked at.
    end: Bound<Vec<u8>>,
    runs: Vec<RunCursor>,
}

impl FileCursors {
    /// For a scan that does not look at values: large ones that files have are not read, and shown as empty.
    pub fn keys_only() -> FileCursors {
        FileCursors { positioned: None, keys_only: true }
    }

    /// The positions at the beginning of a range.
    fn begin(
        &mut self,
        levels: &Arc<LevelSet>,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Result<&mut Positioned, ReadError> {
        let goes_on = |positioned: &Positioned| positioned.goes_on(levels, range, direction);
        let positioned = match self.positioned.take().filter(goes_on) {
            Some(positioned) => positioned,
            None => Positioned::seek(levels, range, direction)?,
        };
        Ok(self.positioned.insert(positioned))
    }
}

impl Positioned {
    fn seek(
        levels: &Arc<LevelSet>,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Result<Positioned, ReadError> {
        let end = match direction {
            Direction::Forward => range.1,
            Direction::Reverse => range.0,
        };
        let runs = (0..levels.runs()).map(|run| RunCursor::seek(levels, run, range, direction));
        let runs = runs.collect::<Result<_, _>>()?;
        let end = end.map(<[u8]>::to_vec);
        Ok(Positioned { levels: Arc::clone(levels), direction, reached: Vec::new(), end, runs })
    }

    /// Whether a scan of this range goes on where this one is.
    fn goes_on(&self, levels: &Arc<LevelSet>, range: KeyRange<'_>, direction: Direction) -> bool {
        let (begin, end) = match direction {
            Direction::Forward => range,
            Direction::Reverse => (range.1, range.0),
        };
        let not_behind = |key: &[u8], known: &[u8]| match direction {
            Direction::Forward => key <= known,
            Direction::Reverse => key >= known,
        };
        let within = match (end, &self.end) {
            (_, Bound::Unbounded) => true,
            (Bound::Unbounded, _) => false,
            (Bound::Included(end), Bound::Excluded(known)) => {
                end != known && not_behind(end, known)
            }
            (
                Bound::Included(end) | Bound::Excluded(end),
                Bound::Included(known) | Bound::Excluded(known),
            ) => not_behind(end, known),
        };
        Arc::ptr_eq(&self.levels, levels)
            && self.direction == direction
            && begin == Bound::Excluded(&*self.reached)
            && within
    }
}

/// A place in a run of files.
#[derive(Debug)]
struct RunCursor {
    run: usize,
    /// The files that the scan may come to: numbers within the run.
    from: usize,
    to: usize,
    /// The one that it is in.
    file: usize,
    cursor: Cursor,
    /// Whether it is at a version.
    valid: bool,
    /// Versions of one key, oldest first, as far as they matter: for the way back.
    versions: Vec<Held>,
    /// A large value that was compressed.
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Held {
    stamp: Lsn,
    kind: Kind,
    time: u64,
    value: HeldValue,
    /// The file that it is in, by its number in the run.
    file: usize,
}

#[derive(Debug)]
enum HeldValue {
    Here(Slice),
    Large(ValueRef),
}

impl RunCursor {
    fn seek(
        levels: &LevelSet,
        run: usize,
        range: KeyRange<'_>,
        direction: Direction,
    ) -> Result<RunCursor, ReadError> {
        let files = levels.run(run);
        let near = overlapping(files, range);
        let from = near.first().map_or(0, |first| {
            files.partition_point(|file| file.meta().smallest < first.meta().smallest)
        });
        let (mut from, mut to) = (from, from + near.len());
        // What lies between two files with keys of one prefix has no others: only the ends are asked.
        let passed_by = |file: usize| match files.get(file) {
            Some(file) => file.told(file.table().may_have_in(range)).map(|may| !may),
            None => Ok(false),
        };
        while from < to && passed_by(from)? {
            from += 1;
        }
        while from < to && passed_by(to - 1)? {
            to -= 1;
        }
        let mut at = RunCursor {
            run,
            from,
            to,
            file: from,
            cursor: Cursor::default(),
            valid: false,
            versions: Vec::new(),
            buffer: Vec::new(),
        };
        if from == to {
            return Ok(at);
        }
        match direction {
            Direction::Forward => {
                at.valid = at.within(levels, |cursor, file| cursor.seek_from(file, range.0))?;
                // A file may reach up to the first key of the next one, which is not to be seen then.
                while !at.valid && at.file + 1 < to {
                    at.file += 1;
                    at.valid = at.within(levels, |cursor, file| cursor.seek_from(file, range.0))?;
                }
            }
            Direction::Reverse => {
                at.file = to - 1;
                at.valid =
                    at.within(levels, |cursor, file| cursor.seek_back_from(file, range.1))?;
            }
        }
        at.over_files(levels, direction)?;
        Ok(at)
    }

    /// The key that it is at.
    fn key(&self) -> Option<&[u8]> {
        self.valid.then(|| self.cursor.key())
    }

    fn open_file<'l>(&self, levels: &'l LevelSet) -> Option<&'l Arc<OpenFile>> {
        levels.run(self.run).get(self.file)
    }

    /// Does something with the file that it is in.
    fn within<T: Default>(
        &mut self,
        levels: &LevelSet,
        go: impl FnOnce(&mut Cursor, &Sstable) -> Result<T, FileError>,
    ) -> Result<T, ReadError> {
        match self.open_file(levels) {
            Some(file) => file.told(go(&mut self.cursor, file.table())),
            None => Ok(T::default()),
        }
    }

    /// Goes to the next file while it is at the end of one.
    fn over_files(&mut self, levels: &LevelSet, direction: Direction) -> Result<(), ReadError> {
        while !self.valid {
            match direction {
                Direction::Forward if self.file + 1 < self.to => {
                    self.file += 1;
                    self.valid = self.within(levels, Cursor::first)?;
                }
                Direction::Reverse if self.file > self.from => {
                    self.file -= 1;
                    self.valid = self.within(levels, Cursor::last)?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Goes to the next version in the direction, of whatever key.
    fn step(&mut self, levels: &LevelSet, direction: Direction) -> Result<(), ReadError> {
        self.valid = match direction {
            Direction::Forward => self.within(levels, Cursor::advance)?,
            Direction::Reverse => self.within(levels, Cursor::back)?,
        };
        self.over_files(levels, direction)
    }

    /// Goes past a key.
    fn skip(
        &mut self,
        levels: &LevelSet,
        key: &[u8],
        direction: Direction,
    ) -> Result<(), ReadError> {
        for _ in 0..STEPS_MAX {
            if self.key() != Some(key) {
                return Ok(());
            }
            self.step(levels, direction)?;
        }
        if self.key() == Some(key) {
            // All versions of a key are in one file.
            let behind = Bound::Excluded(key);
            self.valid = match direction {
                Direction::Forward => self.within(levels, |at, file| at.seek_from(file, behind))?,
                Direction::Reverse => {
                    self.within(levels, |at, file| at.seek_back_from(file, behind))?
                }
            };
            self.over_files(levels, direction)?;
        }
        Ok(())
    }

    /// Where the version that it is at is a put that the reader sees: has it visited, and goes past the key.
    fn lend(
        &mut self,
        levels: &LevelSet,
        key: &[u8],
        read: Lsn,
        keys_only: bool,
        visit: &mut impl FnMut(&[u8], Lookup<'_>) -> ControlFlow<()>,
    ) -> Result<Option<ControlFlow<()>>, ReadError> {
        let Some(file) = self.open_file(levels) else { return Ok(None) };
        let Some((_, entry)) = file.told(self.cursor.entry(file.table()))? else { return Ok(None) };
        let Entry { stamp, kind: Kind::Put, time: expires_at, .. } = entry else {
            return Ok(None);
        };
        if stamp > read {
            return Ok(None);
        }
        let value = match file.told(file.table().value(entry))? {
            FileValue::Large(..) if keys_only => &[],
            value => file.told(value.read(key, &mut self.buffer))?,
        };
        let lent = LentValue { value, expires_at, stamp };
        let found = Found::Lent(&lent);
        let flow = visit(key, Lookup { found, observed: stamp, skipped_newer: false });
        self.step(levels, Direction::Forward)?;
        self.skip(levels, key, Direction::Forward)?;
        Ok(Some(flow))
    }

    /// Adds what the run's versions of the key that it is at say, and goes past the key.
    fn gather(
        &mut self,
        levels: &LevelSet,
        key: &[u8],
        direction: Direction,
        read: Lsn,
        cover: Cover,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), ReadError> {
        match direction {
            Direction::Forward => self.gather_forward(levels, key, read, cover, gathered)?,
            Direction::Reverse => self.gather_back(levels, key, read, cover, gathered)?,
        }
        self.skip(levels, key, direction)
    }

    /// From the newest version downwards.
    fn gather_forward(
        &mut self,
        levels: &LevelSet,
        key: &[u8],
        read: Lsn,
        cover: Cover,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), ReadError> {
        let mut above = 0;
        while self.key() == Some(key) {
            let Some(file) = self.open_file(levels) else { break };
            let Some((_, entry)) = file.told(self.cursor.entry(file.table()))? else { break };
            if entry.stamp > read {
                gathered.skipped_newer();
                above += 1;
                if above == STEPS_MAX {
                    self.valid = self.within(levels, |at, file| at.seek(file, key, read))?;
                    self.over_files(levels, Direction::Forward)?;
                } else {
                    self.step(levels, Direction::Forward)?;
                }
                continue;
            }
            let version = (entry.stamp, entry.kind, entry.time);
            let value = file.table().value(entry);
            let more = value.and_then(|value| gathered.version(key, cover, version, value));
            if !file.told(more)? {
                break;
            }
            self.step(levels, Direction::Forward)?;
        }
        Ok(())
    }

    /// From the oldest version upwards: what a later one makes of no account is forgotten.
    fn gather_back(
        &mut self,
        levels: &LevelSet,
        key: &[u8],
        read: Lsn,
        cover: Cover,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), ReadError> {
        self.versions.clear();
        while self.key() == Some(key) {
            let Some(file) = self.open_file(levels) else { break };
            let Some((_, entry)) = file.told(self.cursor.entry(file.table()))? else { break };
            if entry.stamp > read {
                gathered.skipped_newer();
                break;
            }
            if !matches!(entry.kind, Kind::Merge { .. }) {
                self.versions.clear();
            }
            let (stamp, kind, time) = (entry.stamp, entry.kind, entry.time);
            let value = match file.told(file.table().value(entry))? {
                FileValue::Here(bytes) => HeldValue::Here(Slice::copy(bytes)),
                FileValue::Large(reference, _) => HeldValue::Large(reference),
            };
            self.versions.push(Held { stamp, kind, time, value, file: self.file });
            self.step(levels, Direction::Reverse)?;
        }
        for held in self.versions.drain(..).rev() {
            let Some(file) = levels.run(self.run).get(held.file) else { break };
            let value = match &held.value {
                HeldValue::Here(bytes) => FileValue::Here(bytes),
                HeldValue::Large(reference) => FileValue::Large(*reference, file.table()),
            };
            let version = (held.stamp, held.kind, held.time);
            if !file.told(gathered.version(key, cover, version, value))? {
                break;
            }
        }
        Ok(())
    }
}
