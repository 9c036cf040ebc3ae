//! Random histories against a plain model: what is read through the inputs is read through the outputs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use isolith_wal::DatabaseId;

use super::*;
use crate::levels::{
    CompactionOptions, LevelFile, Levels, Plan, Reason, ValueUsage, pick, value_usage,
};
use crate::memtable::{Beneath, Found, Lookup};
use crate::merge::{self, Base, MergedValue, NoOperators, Operand};
use crate::sstable::{
    Compression, FileCursor, FileRangeDelete, FileValue, SstableOptions, ValueFile,
};
use crate::testing::Letters;
use crate::testing::Random;
use crate::version::Kind;
use crate::{LevelSet, Memtable, OpenFile, Tree, Value, flush_memtable, pin};

const DATABASE: DatabaseId = DatabaseId(7);
const EVERYTHING: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

fn lsn(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

/// Where the tests' files go.
struct Files {
    files: Vec<Arc<Sstable>>,
    values: Vec<Arc<ValueFile>>,
    begun: u64,
    cancelled: bool,
}

impl Files {
    fn new() -> Files {
        Files { files: Vec::new(), values: Vec::new(), begun: 0, cancelled: false }
    }

    /// The files, with the value files that they refer to: new ones, and those of the inputs.
    fn attached(&mut self, inputs: &[Arc<Sstable>]) {
        let known = inputs.iter().flat_map(|input| input.value_files());
        let known: Vec<_> = known.chain(&self.values).cloned().collect();
        for file in &mut self.files {
            Arc::get_mut(file).expect("nobody else has it").attach(&known);
            assert_eq!(file.value_files().len(), file.properties().values.len());
        }
    }
}

fn open_values(id: FileId, bytes: Vec<u8>) -> Arc<ValueFile> {
    let file = ValueFile::open(Box::new(bytes), DATABASE, id, Arc::new(|_| {}));
    Arc::new(file.expect("written just now"))
}

fn options() -> SstableOptions {
    SstableOptions { block_bytes: 128, ..SstableOptions::default() }
}

impl Outputs for Files {
    type Sink = Vec<u8>;

    fn begin(&mut self) -> io::Result<SstableWriter<Vec<u8>>> {
        self.begun += 1;
        SstableWriter::new(Vec::new(), DATABASE, FileId(1_000 + self.begun), options())
    }

    fn finish(&mut self, sink: Vec<u8>, properties: Properties) -> io::Result<()> {
        // The number stands in the header: value files are begun in between.
        let id = sink[32..40].try_into().map(u64::from_le_bytes).expect("a header");
        let file = Sstable::open(Box::new(sink), DATABASE, FileId(id));
        let file = file.expect("written just now");
        assert_eq!(*file.properties(), properties);
        self.files.push(file);
        Ok(())
    }

    fn begin_values(&mut self) -> io::Result<ValueWriter<Vec<u8>>> {
        self.begun += 1;
        ValueWriter::new(Vec::new(), DATABASE, FileId(1_000 + self.begun), Compression::Lz4)
    }

    fn finish_values(&mut self, file: FileId, sink: Vec<u8>) -> io::Result<()> {
        self.values.push(open_values(file, sink));
        Ok(())
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled
    }
}

/// Kind, time and value.
type Version = (Kind, u64, Vec<u8>);

/// Versions and range deletes in no particular files.
#[derive(Clone, Default, Debug)]
struct History {
    versions: BTreeMap<(Vec<u8>, Reverse<Lsn>), Version>,
    range_deletes: Vec<FileRangeDelete>,
}

/// What is read of a key: the value and when it expires, or the operator that failed.
type Read = Result<Option<(Vec<u8>, u64)>, u16>;

impl History {
    fn add(&mut self, other: &History) {
        self.versions.extend(other.versions.clone());
        self.range_deletes.extend(other.range_deletes.iter().cloned());
    }

    fn of(files: &[Arc<Sstable>]) -> History {
        let mut history = History::default();
        for file in files {
            let mut cursor = FileCursor::new(Arc::clone(file));
            let mut more = cursor.first().expect("sound");
            while more {
                let found = cursor.version().expect("sound").expect("one");
                let (key, stamp, kind, time, value) = found;
                let mut buffer = Vec::new();
                let value = value.read(key, &mut buffer).expect("sound").to_vec();
                let version = (kind, time, value);
                let known = history.versions.insert((key.to_vec(), Reverse(stamp)), version);
                assert!(known.is_none(), "a version is in two files");
                more = cursor.advance().expect("sound");
            }
            history.range_deletes.extend_from_slice(file.range_deletes());
        }
        history
    }

    fn within(&self, stamps: std::ops::RangeInclusive<u64>) -> History {
        let stamps = lsn(*stamps.start())..=lsn(*stamps.end());
        let mut part = self.clone();
        part.versions.retain(|(_, stamp), _| stamps.contains(&stamp.0));
        part.range_deletes.retain(|(.., stamp)| stamps.contains(stamp));
        part
    }

    fn covers<'h>(&'h self, key: &'h [u8]) -> impl Iterator<Item = Lsn> + 'h {
        let covers = move |(start, end, _): &&FileRangeDelete| {
            **start <= *key && end.as_deref().is_none_or(|end| key < end)
        };
        self.range_deletes.iter().filter(covers).map(|(.., stamp)| *stamp)
    }

    fn cover(&self, key: &[u8], read: Lsn) -> Lsn {
        self.covers(key).filter(|stamp| *stamp <= read).max().unwrap_or(Lsn::ZERO)
    }

    fn of_key(&self, key: &[u8]) -> impl Iterator<Item = (Lsn, &Version)> {
        let range = (key.to_vec(), Reverse(Lsn::MAX))..=(key.to_vec(), Reverse(Lsn::ZERO));
        self.versions.range(range).map(|((_, stamp), version)| (stamp.0, version))
    }

    /// What `key` is at `read`, and the largest stamp that was seen on it.
    fn read(&self, key: &[u8], read: Lsn, expired_before: u64) -> (Read, Lsn) {
        let cover = self.cover(key, read);
        let (mut run, mut base, mut observed) = (Vec::new(), None, cover);
        for (stamp, (kind, time, value)) in self.of_key(key) {
            if stamp > read {
                continue;
            }
            if stamp < cover {
                break;
            }
            observed = observed.max(stamp);
            match kind {
                Kind::Merge { operator } => {
                    run.push(Operand { operator: *operator, bytes: value, at_ms: *time });
                    continue;
                }
                Kind::Put => base = Some(Base { value, expires_at: *time }),
                Kind::Delete => {}
            }
            break;
        }
        run.reverse();
        let found = if run.is_empty() {
            Ok(base.map(|base| (base.value.to_vec(), base.expires_at)))
        } else {
            // What has expired is not looked at, and so does not fail.
            let expires_at = base.map_or(0, |base| base.expires_at);
            let revived = run.iter().any(|operand| operand.at_ms >= expires_at);
            if expires_at != 0 && expires_at <= expired_before && !revived {
                return (Ok(None), observed);
            }
            let folded = merge::fold(base, &run, &Letters);
            folded
                .map(|MergedValue { value, expires_at }| Some((value, expires_at)))
                .map_err(|failure| failure.operator)
        };
        let lives = |(_, expires_at): &(_, u64)| *expires_at == 0 || *expires_at > expired_before;
        (found.map(|found| found.filter(lives)), observed)
    }

    /// Something above `read` on the key.
    fn has_newer(&self, key: &[u8], read: Lsn) -> bool {
        self.of_key(key).any(|(stamp, _)| stamp > read)
            || self.covers(key).any(|stamp| stamp > read)
    }

    /// The commits with these numbers, in memory.
    fn memtable(&self, commits: std::ops::RangeInclusive<u64>) -> Arc<Memtable> {
        let memtable = Arc::new(Memtable::new(1));
        for commit in commits {
            let part = self.within(commit..=commit);
            let mut write = memtable.prepare(part.versions.len());
            for (start, end, _) in &part.range_deletes {
                let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                write.add_range_delete((Bound::Included(start), end));
            }
            for ((key, _), (kind, time, value)) in &part.versions {
                write.add(key, *kind, Value::new(value), *time);
            }
            write.install(lsn(commit));
        }
        memtable
    }

    /// The part from one key to another, as a file. One with an even number has its larger values apart.
    fn file(&self, id: u64, from: &[u8], to: Option<&[u8]>) -> Option<Arc<Sstable>> {
        let writer = SstableWriter::new(Vec::new(), DATABASE, FileId(id), options());
        let mut writer = writer.expect("memory");
        let values = ValueWriter::new(Vec::new(), DATABASE, FileId(id + 500), Compression::None);
        let mut values = values.expect("memory");
        let mut any = false;
        for ((key, stamp), (kind, time, value)) in &self.versions {
            if **key >= *from && to.is_none_or(|to| **key < *to) {
                if id.is_multiple_of(2) && *kind == Kind::Put && value.len() >= 4 {
                    let reference = values.add(key, value).expect("memory");
                    writer.add_large(key, stamp.0, *time, reference).expect("memory");
                } else {
                    writer.add(key, stamp.0, *kind, *time, value).expect("memory");
                }
                any = true;
            }
        }
        for (start, end, stamp) in &self.range_deletes {
            let start = (&**start).max(from);
            let end = match (end.as_deref(), to) {
                (Some(end), Some(to)) => Some(end.min(to)),
                (end, to) => end.or(to),
            };
            if end.is_none_or(|end| start < end) {
                writer.add_range_delete(start, end, *stamp);
                any = true;
            }
        }
        let (bytes, _) = writer.finish().expect("memory");
        let mut file =
            any.then(|| Sstable::open(Box::new(bytes), DATABASE, FileId(id)))?.expect("sound");
        let values = open_values(values.file(), values.finish().expect("memory"));
        Arc::get_mut(&mut file).expect("nobody else has it").attach([&values]);
        Some(file)
    }
}

const KEYS: [&str; 12] = ["", "a", "a\0", "aa", "ab", "b", "b\0\0", "ba", "c", "cab", "d", "e"];

fn any_key(random: &mut Random) -> Vec<u8> {
    KEYS[random.below(KEYS.len())].into()
}

/// A random history of so many commits. Merges above `late` began at or after `late_ms`.
fn history(random: &mut Random, commits: u64, merges: bool, late: u64, late_ms: u64) -> History {
    let mut history = History::default();
    for commit in 1..=commits {
        if random.below(6) == 0 {
            let (one, other) = (any_key(random), any_key(random));
            let end = (random.below(8) > 0).then(|| one.clone().max(other.clone()).into());
            let start = if end.is_some() { one.min(other) } else { one };
            if end.as_deref().is_none_or(|end: &[u8]| *start < *end) {
                history.range_deletes.push((start.into(), end, lsn(commit)));
            }
        }
        for _ in 0..random.below(4) {
            let key = any_key(random);
            let time = if random.below(3) == 0 { 1 + random.below(10) as u64 } else { 0 };
            let value = vec![b'a' + (commit % 26) as u8; random.below(4) * random.below(30)];
            let version = match random.below(if merges { 8 } else { 5 }) {
                0 | 1 => (Kind::Delete, 0, Vec::new()),
                2..=4 => (Kind::Put, time, value),
                other => {
                    let operator = if random.below(12) == 0 { 2 } else { u16::from(other == 5) };
                    let at_ms = random.below(10) as u64;
                    let at_ms = if commit > late { at_ms.max(late_ms) } else { at_ms };
                    (Kind::Merge { operator }, at_ms, value)
                }
            };
            history.versions.insert((key, Reverse(lsn(commit))), version);
        }
    }
    history
}

/// A history as files: some layers by stamp, each cut by keys or not.
fn files(
    random: &mut Random,
    history: &History,
    stamps: std::ops::RangeInclusive<u64>,
) -> Vec<Arc<Sstable>> {
    let mut cuts: BTreeSet<u64> =
        (0..random.below(5)).map(|_| pick_from(random, &stamps)).collect();
    cuts.insert(*stamps.end());
    let (mut first, mut id, mut files) = (*stamps.start(), 0, Vec::new());
    for last in cuts {
        let layer = history.within(first..=last);
        first = last + 1;
        let mut from = Vec::new();
        let keys: BTreeSet<_> = (0..random.below(4)).map(|_| behind(&any_key(random))).collect();
        for to in keys.into_iter().map(Some).chain([None]) {
            id += 1;
            files.extend(layer.file(id, &from, to.as_deref()));
            from = to.unwrap_or_default();
        }
    }
    files
}

fn pick_from(random: &mut Random, from: &std::ops::RangeInclusive<u64>) -> u64 {
    from.start() + random.below((from.end() - from.start() + 1) as usize) as u64
}

fn view(random: &mut Random, commits: u64) -> PruneView {
    let horizon = random.below(commits as usize + 2) as u64;
    if random.below(8) == 0 {
        return PruneView::newest_only();
    }
    let bound = if random.below(4) == 0 { commits } else { horizon } as usize + 1;
    let needed = (0..random.below(4)).map(|_| lsn(random.below(bound) as u64));
    PruneView::new(lsn(horizon), needed)
}

/// What must hold between a history's parts before and after.
struct Check<'c> {
    above: History,
    inputs: History,
    below: History,
    rules: CompactionRules<'c>,
    commits: u64,
}

impl Check<'_> {
    fn check(&self, files: &[Arc<Sstable>], done: &Compacted) {
        let rules = &self.rules;
        let outputs = History::of(files);
        let around = |middle: &History| {
            let mut all = self.below.clone();
            all.add(middle);
            all.add(&self.above);
            all
        };
        let (before, after) = (around(&self.inputs), around(&outputs));
        let view = rules.view;
        for read in (0..=self.commits + 1).map(lsn) {
            for key in KEYS.map(str::as_bytes) {
                let old = before.read(key, read, rules.expired_before);
                let new = after.read(key, read, rules.expired_before);
                let gone = rules.is_bottom() && old.1 <= rules.oldest().min(done.forgotten);
                let same = new.0 == old.0 && (new.1 == old.1 || new.1 == Lsn::ZERO && gone);
                // Others may have missed something, and are told.
                let told = after.has_newer(key, read) || read < done.forgotten;
                let counts = read >= view.horizon || view.needed.contains(&read);
                assert!(same || !counts && told, "{key:?} at {read}: {old:?}, then {new:?}");
            }
        }
        self.check_least(&outputs);
        let level: Vec<_> = files.iter().map(|file| level_file(file)).collect();
        for pair in level.windows(2) {
            assert!(!pair[0].overlaps(&pair[1]) && pair[0].smallest < pair[1].smallest, "{pair:?}");
        }
        for (file, known) in files.iter().zip(&level) {
            let range_deletes = file.range_deletes().len();
            let mut wrong = Vec::new();
            file.inspect(&mut |error| wrong.push(error), &mut |_| {});
            assert!(wrong.is_empty(), "{wrong:?}");
            self.check_values(file);
            assert!(file.verify().expect("sound") > 0 || range_deletes > 0, "an empty file");
            for fence in rules.fences {
                let beyond = known.largest.as_ref().is_none_or(|largest| **largest >= **fence);
                assert!(*known.smallest >= **fence || !beyond, "{known:?} crosses {fence:?}");
            }
            let part = History::of(std::slice::from_ref(file));
            let smallest = part.versions.keys().map(|(key, _)| &**key);
            let starts = part.range_deletes.iter().map(|(start, ..)| &**start);
            assert_eq!(smallest.chain(starts).min(), Some(&*known.smallest));
            let stamps = part.versions.keys().map(|(_, stamp)| stamp.0);
            let stamps = stamps.chain(part.range_deletes.iter().map(|(.., stamp)| *stamp));
            let properties = file.properties();
            assert_eq!(stamps.clone().min(), Some(properties.stamp_min));
            assert_eq!(stamps.max(), Some(properties.stamp_max));
        }
        assert_eq!(done.files, files.len() as u64);
        assert_eq!(done.versions_out, outputs.versions.len() as u64);
    }

    /// Values are where the rule wants them.
    fn check_values(&self, file: &Arc<Sstable>) {
        let mut cursor = FileCursor::new(Arc::clone(file));
        let mut more = cursor.first().expect("sound");
        while more {
            let (_, _, kind, _, value) = cursor.version().expect("sound").expect("one");
            match value {
                FileValue::Large(reference, _) => assert!(!self.rules.moves(reference)),
                FileValue::Here(bytes) => {
                    assert!(kind != Kind::Put || bytes.len() < self.rules.large_values);
                }
            }
            more = cursor.advance().expect("sound");
        }
    }

    /// Nothing is there that the rule does not ask for.
    fn check_least(&self, outputs: &History) {
        let (view, rules) = (self.rules.view, &self.rules);
        for key in KEYS.map(str::as_bytes) {
            let mut newer = None;
            let mut needed = BTreeSet::new();
            for (stamp, _) in self.inputs.of_key(key) {
                let hidden = stamp <= view.horizon
                    && view
                        .first_reader(stamp)
                        .is_some_and(|reader| self.inputs.cover(key, reader) > stamp);
                if newer.is_none_or(|newer| view.keeps(stamp, newer)) && !hidden {
                    needed.insert(stamp);
                }
                newer = Some(stamp);
            }
            let mut merge_above = None;
            for (stamp, (kind, time, value)) in outputs.of_key(key) {
                let built_on = merge_above.is_some_and(|cover| stamp >= cover);
                assert!(needed.contains(&stamp) || built_on, "{key:?} has {stamp}");
                if rules.is_bottom() && stamp <= rules.oldest() {
                    assert_ne!(*kind, Kind::Delete, "{key:?} has a tombstone");
                }
                let expired = *kind == Kind::Put && *time != 0 && *time <= rules.expired_before;
                assert!(!expired || built_on || rules.merges_above && value.is_empty());
                let merge = matches!(kind, Kind::Merge { .. });
                merge_above = merge.then(|| self.inputs.cover(key, stamp));
            }
        }
        for (_, _, stamp) in &outputs.range_deletes {
            assert!(!rules.is_bottom() || *stamp > rules.oldest(), "a range delete at the bottom");
        }
        for key in KEYS.map(str::as_bytes) {
            let kept: Vec<_> = outputs.covers(key).filter(|stamp| *stamp <= view.horizon).collect();
            let chosen: BTreeSet<_> = view
                .needed
                .iter()
                .map(|needed| self.inputs.cover(key, (*needed).min(view.horizon)))
                .collect();
            assert!(kept.iter().all(|stamp| chosen.contains(stamp)), "{key:?} {kept:?}");
            assert_eq!(kept.len(), kept.iter().collect::<BTreeSet<_>>().len(), "{key:?} {kept:?}");
        }
    }
}

fn level_file(file: &Sstable) -> LevelFile {
    let properties = file.properties();
    LevelFile {
        id: file.id().0,
        bytes: file.bytes(),
        smallest: properties.smallest.clone(),
        largest: properties.largest.clone(),
        entries: properties.entries,
        deletes: properties.deletes + properties.range_deletes,
        values: Vec::new(),
    }
}

#[test]
fn readers_find_the_same_through_the_outputs() {
    let mut random = Random::from_environment("compaction");
    for _ in 0..3_000 {
        let commits = 1 + random.below(40) as u64;
        let below = if random.below(2) == 0 { 0 } else { random.below(commits as usize) as u64 };
        let above =
            commits - random.below((commits - below) as usize) as u64 * random.below(2) as u64;
        let expired_before = if random.below(2) == 0 { 0 } else { random.below(12) as u64 };
        let merges_above = random.below(2) == 0;
        let merges = random.below(3) > 0;
        let late_ms = if merges_above { 0 } else { expired_before };
        let history = history(&mut random, commits, merges, above, late_ms);
        let below_part = history.within(0..=below);
        let fences: BTreeSet<_> =
            (0..random.below(3)).map(|_| behind(&any_key(&mut random))).collect();
        let fences: Vec<&[u8]> = fences.iter().map(|fence| &**fence).collect();
        let view = view(&mut random, commits);
        let expires = |(kind, time, _): &Version| *kind == Kind::Put && *time != 0;
        let expiring = below_part.versions.values().any(expires);
        let beneath = if expiring { Beneath::Expiring } else { Beneath::Values };
        let inputs = files(&mut random, &history, below + 1..=above);
        let moved: BTreeSet<u64> =
            inputs.iter().flat_map(|file| file.value_files()).map(|file| file.id().0).collect();
        let moved: Vec<u64> = moved.into_iter().filter(|_| random.below(2) == 0).collect();
        let rules = CompactionRules {
            view: &view,
            operators: &Letters,
            beneath: if below == 0 { Beneath::Nothing } else { beneath },
            expired_before,
            merges_above,
            fences: &fences,
            file_bytes: if random.below(2) == 0 { 300 } else { 1 << 20 },
            large_values: [4, 30, usize::MAX][random.below(3)],
            moved: &moved,
            value_file_bytes: 200,
        };
        let mut outputs = Files::new();
        let mut done = Compacted::default();
        let points = match random.below(3) {
            0 => split_points(&inputs, 3).expect("sound"),
            1 => vec![behind(&any_key(&mut random))],
            _ => Vec::new(),
        };
        let mut from = Bound::Unbounded;
        for point in &points {
            let range = (from, Bound::Excluded(&**point));
            done.add(&compact(&inputs, range, &rules, &mut outputs).expect("sound"));
            from = Bound::Included(point);
        }
        let range = (from, Bound::Unbounded);
        done.add(&compact(&inputs, range, &rules, &mut outputs).expect("sound"));
        outputs.attached(&inputs);
        let check = Check {
            above: history.within(above + 1..=commits),
            inputs: history.within(below + 1..=above),
            below: below_part,
            rules,
            commits,
        };
        check.check(&outputs.files, &done);
    }
}

#[test]
fn a_flushed_memtable_is_read_as_before() {
    let mut random = Random::from_environment("flush");
    for _ in 0..500 {
        let commits = 1 + random.below(40) as u64;
        let history = history(&mut random, commits, true, commits, 0);
        let memtable = history.memtable(1..=commits);
        let view = view(&mut random, commits);
        if random.below(3) == 0 {
            memtable.prune_range(EVERYTHING, &view, &NoOperators, &pin());
        }
        let rules = CompactionRules {
            view: &view,
            operators: &Letters,
            beneath: [Beneath::Nothing, Beneath::Expiring][random.below(2)],
            expired_before: random.below(5) as u64,
            merges_above: false,
            fences: &[],
            file_bytes: u64::MAX,
            large_values: [4, 30, usize::MAX][random.below(3)],
            moved: &[],
            value_file_bytes: 200,
        };
        let mut outputs = Files::new();
        let done = flush_memtable(&memtable, &rules, &mut outputs).expect("memory");
        outputs.attached(&[]);
        assert!(outputs.files.len() <= 1);
        let below = History::default();
        let check = Check { above: below.clone(), inputs: history, below, rules, commits };
        check.check(&outputs.files, &done);
    }
}

/// What a lookup in a tree comes to, judged as [`History::read`] does.
fn found(lookup: Lookup<'_>, expired_before: u64) -> Read {
    let lives = |expires_at: u64| expires_at == 0 || expires_at > expired_before;
    match lookup.found {
        Found::Stored(put) => {
            let value = (put.value.to_vec(), put.expires_at);
            Ok(Some(value).filter(|(_, expires_at)| lives(*expires_at)))
        }
        Found::Lent(put) => {
            let value = (put.value.to_vec(), put.expires_at);
            Ok(Some(value).filter(|(_, expires_at)| lives(*expires_at)))
        }
        Found::Run(run) if lives(run.expires_at()) => {
            let folded = run.fold(&Letters).map_err(|failure| failure.operator);
            folded.map(|MergedValue { value, expires_at }| Some((value, expires_at)))
        }
        Found::Run(_) | Found::Absent => Ok(None),
        Found::Put(_) | Found::Merged(_) => panic!("nothing is in memory"),
    }
}

/// Files in levels that are made and superseded as an engine would.
struct Lsm {
    history: History,
    levels: Levels<Arc<OpenFile>>,
    outputs: Files,
    view: PruneView,
    expired_before: u64,
    through: u64,
    large_values: usize,
}

impl Lsm {
    fn rules<'r>(&'r self, beneath: Beneath, fences: &'r [&'r [u8]]) -> CompactionRules<'r> {
        CompactionRules {
            view: &self.view,
            operators: &Letters,
            beneath,
            expired_before: self.expired_before,
            merges_above: true,
            fences,
            file_bytes: 700,
            large_values: self.large_values,
            moved: &[],
            value_file_bytes: 400,
        }
    }

    fn flush(&mut self, through: u64) {
        let memtable = self.history.memtable(self.through + 1..=through);
        self.through = through;
        let empty = self.levels.levels.iter().all(Vec::is_empty);
        let beneath = if empty { Beneath::Nothing } else { Beneath::Expiring };
        let mut outputs = Files { begun: self.outputs.begun, ..Files::new() };
        let rules = CompactionRules { file_bytes: u64::MAX, ..self.rules(beneath, &[]) };
        flush_memtable(&memtable, &rules, &mut outputs).expect("memory");
        self.outputs.begun = outputs.begun;
        outputs.attached(&[]);
        let files = outputs.files.into_iter().map(|file| open_file(&file));
        self.levels.levels[0].splice(0..0, files);
    }

    fn metas(&self) -> Levels<LevelFile> {
        let metas = |files: &Vec<Arc<OpenFile>>| files.iter().map(|f| f.meta().clone()).collect();
        Levels { levels: self.levels.levels.each_ref().map(metas) }
    }

    fn compact(&mut self, plan: &Plan) {
        let is_input = |file: &Arc<OpenFile>| {
            let id = file.meta().id;
            plan.upper.contains(&id) || plan.lower.contains(&id)
        };
        let files = self.levels.levels.iter().flatten();
        let mut added: Vec<_> = files.filter(|file| is_input(file)).map(Arc::clone).collect();
        if !plan.is_move() {
            let inputs: Vec<_> = added.iter().map(|file| Arc::clone(file.table())).collect();
            let levels = self.metas();
            let fences = levels.fences(plan);
            let beneath = if plan.bottom { Beneath::Nothing } else { Beneath::Expiring };
            let mut outputs = Files { begun: self.outputs.begun, ..Files::new() };
            let rules = CompactionRules { moved: &plan.moved, ..self.rules(beneath, &fences) };
            let mut from = Bound::Unbounded;
            let points = split_points(&inputs, 2).expect("sound");
            for point in &points {
                let range = (from, Bound::Excluded(&**point));
                compact(&inputs, range, &rules, &mut outputs).expect("sound");
                from = Bound::Included(point);
            }
            compact(&inputs, (from, Bound::Unbounded), &rules, &mut outputs).expect("sound");
            outputs.attached(&inputs);
            added = outputs.files.iter().map(open_file).collect();
            self.outputs.begun = outputs.begun;
        }
        for level in &mut self.levels.levels {
            level.retain(|file| !is_input(file));
        }
        let level = &mut self.levels.levels[plan.to];
        level.extend(added);
        level.sort_by(|left, right| left.meta().smallest.cmp(&right.meta().smallest));
    }

    /// Compacts until nothing is due: then there is little garbage.
    fn come_to_rest(&mut self, options: &CompactionOptions) {
        for turn in 0.. {
            let Some(plan) = pick(&self.metas(), options, &[]) else { break };
            self.compact(&plan);
            assert!(turn < 200, "it comes to no end: {plan}");
        }
        self.check();
        let usage = value_usage(self.levels.levels.iter().flatten().map(|file| file.meta()));
        let garbage: u64 = usage.values().map(ValueUsage::garbage).sum();
        let live: u64 = usage.values().map(|usage| usage.live).sum();
        assert!(garbage * 4 <= live, "{garbage} bytes of garbage, {live} live");
    }

    fn check(&self) {
        for level in &self.levels.levels[1..] {
            for pair in level.windows(2) {
                assert!(!pair[0].meta().overlaps(pair[1].meta()), "{level:?}");
            }
        }
        let levels = Arc::new(LevelSet::new(self.levels.clone()));
        let tree = Tree::new(Arc::new(Memtable::new(1)), levels);
        let guard = pin();
        let view = tree.view(&guard);
        let history = self.history.within(0..=self.through);
        let oldest = self.view.needed.first().copied().unwrap_or(Lsn::ZERO);
        for read in (0..=self.through).map(lsn) {
            if read < self.view.horizon && !self.view.needed.contains(&read) {
                continue;
            }
            for key in KEYS.map(str::as_bytes) {
                let lookup = view.lookup(key, read, &guard).expect("sound");
                let (expected, stamp) = history.read(key, read, self.expired_before);
                let observed = lookup.observed;
                assert_eq!(found(lookup, self.expired_before), expected, "{key:?} at {read}");
                let forgotten = observed == Lsn::ZERO && stamp <= oldest;
                assert!(observed == stamp || forgotten, "{key:?} at {read}");
            }
        }
    }
}

fn open_file(file: &Arc<Sstable>) -> Arc<OpenFile> {
    Arc::new(OpenFile::new(Arc::clone(file), Arc::new(|_| {})))
}

#[test]
fn levels_that_are_flushed_and_compacted_are_read_as_one_history() {
    let mut random = Random::from_environment("levels");
    let (mut deepest, mut emptied) = (0, 0);
    for round in 0..30 {
        let commits = 300;
        let mut lsm = Lsm {
            history: history(&mut random, commits, true, commits, 0),
            levels: Levels::default(),
            outputs: Files::new(),
            view: PruneView::new(Lsn::ZERO, []),
            expired_before: 0,
            through: 0,
            large_values: if round % 3 == 0 { usize::MAX } else { 4 },
        };
        let options = CompactionOptions {
            level0_files: 1 + random.below(4),
            base_bytes_max: 300,
            growth: 3,
            ..CompactionOptions::default()
        };
        while lsm.through < commits {
            let through = commits.min(lsm.through + 1 + random.below(30) as u64);
            // What readers need moves up: some timestamps are let go, and a new one is taken.
            let horizon = lsm.view.horizon.counter();
            let horizon = horizon + random.below((through - horizon) as usize + 1) as u64;
            let held = lsm.view.needed.iter().copied();
            let held: Vec<_> = held.filter(|_| random.below(3) > 0).collect();
            lsm.view = PruneView::new(lsn(horizon), held);
            lsm.expired_before += u64::from(random.below(4) == 0);
            lsm.flush(through);
            lsm.check();
            for _ in 0..4 {
                let Some(plan) = pick(&lsm.metas(), &options, &[]) else { break };
                lsm.compact(&plan);
                lsm.check();
                emptied += usize::from(plan.reason == Reason::Garbage);
                let used = lsm.levels.levels[1..].iter().filter(|level| !level.is_empty());
                deepest = deepest.max(used.count());
            }
        }
        lsm.come_to_rest(&options);
    }
    assert!(emptied > 5, "value files are emptied on the way, and not {emptied}");
    assert!(deepest > 2, "levels below each other are read, and not {deepest}");
}

/// Rules under which only the newest of each key is needed.
fn newest_only(view: &PruneView, bottom: bool) -> CompactionRules<'_> {
    CompactionRules {
        view,
        operators: &Letters,
        beneath: if bottom { Beneath::Nothing } else { Beneath::Values },
        expired_before: 0,
        merges_above: true,
        fences: &[],
        file_bytes: 1 << 20,
        large_values: usize::MAX,
        moved: &[],
        value_file_bytes: 1 << 20,
    }
}

/// The versions of one key, newest first, after a compaction: `stamp kind value`, comma between.
fn compacted(rules: &CompactionRules<'_>, versions: &str) -> String {
    let mut history = History::default();
    for version in versions.split(',').map(str::trim) {
        let mut words = version.split_whitespace();
        let stamp = words.next().expect("a stamp").parse().expect("a number");
        let (kind, value) = match words.next().expect("a kind") {
            "put" => (Kind::Put, words.next().expect("a value")),
            "delete" => (Kind::Delete, ""),
            operator => {
                let operator = operator.strip_prefix("merge").expect("a kind");
                let operator = operator.parse().expect("a number");
                (Kind::Merge { operator }, words.next().expect("an operand"))
            }
        };
        let time = words.next().map_or(0, |time| time.parse().expect("a time"));
        let value = value.as_bytes().to_vec();
        history.versions.insert((b"key".to_vec(), Reverse(lsn(stamp))), (kind, time, value));
    }
    let inputs: Vec<_> = history.file(1, b"", None).into_iter().collect();
    let mut outputs = Files::new();
    compact(&inputs, EVERYTHING, rules, &mut outputs).expect("sound");
    let written = History::of(&outputs.files);
    let version = |(stamp, (kind, time, value)): (Lsn, &Version)| {
        let kind = match kind {
            Kind::Put => "put".to_owned(),
            Kind::Delete => "delete".to_owned(),
            Kind::Merge { operator } => format!("merge{operator}"),
        };
        let text = format!("{} {kind} {}", stamp.counter(), value.escape_ascii());
        let text = text.trim_end().to_owned();
        if *time == 0 { text } else { format!("{text} {time}") }
    };
    written.of_key(b"key").map(version).collect::<Vec<_>>().join(", ")
}

#[test]
fn merges_become_a_put_where_their_base_is_known() {
    let view = PruneView::new(lsn(100), []);
    let (lower, bottom) = (newest_only(&view, false), newest_only(&view, true));
    assert_eq!(compacted(&lower, "9 merge0 c, 8 merge0 b, 7 put a"), "9 put abc");
    assert_eq!(compacted(&lower, "9 merge0 c, 8 merge0 b, 7 delete"), "9 put -bc");
    assert_eq!(compacted(&lower, "9 merge0 c, 8 merge0 b"), "9 merge0 bc");
    assert_eq!(compacted(&bottom, "9 merge0 c, 8 merge0 b"), "9 put -bc");
    assert_eq!(compacted(&lower, "9 merge1 c, 8 merge1 b"), "9 merge1 c, 8 merge1 b");
    assert_eq!(
        compacted(&lower, "9 merge0 c, 8 merge2 b, 7 put a"),
        "9 merge0 c, 8 merge2 b, 7 put a"
    );
    assert_eq!(compacted(&lower, "9 merge2 c, 8 merge0 b, 7 put a"), "9 merge2 c, 8 put ab");
}

#[test]
fn merges_over_what_may_expire_below_stay_apart() {
    let view = PruneView::new(lsn(100), []);
    let rules = CompactionRules { beneath: Beneath::Expiring, ..newest_only(&view, false) };
    assert_eq!(compacted(&rules, "9 merge0 c 60, 8 merge0 b 40"), "9 merge0 c 60, 8 merge0 b 40");
    assert_eq!(compacted(&rules, "9 merge0 c 60, 8 merge0 b 40, 7 put a 50"), "9 put -c");
}

#[test]
fn a_large_base_that_somebody_reads_is_not_copied() {
    let view = PruneView::new(lsn(100), [lsn(7)]);
    let rules = newest_only(&view, false);
    let large = "x".repeat(1_000);
    let seen = compacted(&rules, &format!("9 merge0 c, 8 merge0 b, 7 put {large}"));
    assert_eq!(seen, format!("9 merge0 bc, 7 put {large}"));
    let seen = compacted(&rules, "9 merge0 c, 8 merge0 b, 7 put a");
    assert_eq!(seen, "9 put abc, 7 put a");
}

#[test]
fn a_long_run_that_stays_has_a_put_on_top() {
    let view = PruneView::new(lsn(7), []);
    let long: Vec<_> = (8..80).rev().map(|stamp| format!("{stamp} merge0 x")).collect();
    let long = long.join(", ");
    let (newest, rest) = long.split_once(", ").expect("many");
    let lower = newest_only(&view, false);
    assert_eq!(compacted(&lower, &long), long, "a base may be below");
    let value = "x".repeat(72);
    let seen = compacted(&newest_only(&view, true), &long);
    assert_eq!(seen, format!("79 put -{value}, {rest}"));
    let seen = compacted(&lower, &format!("{long}, 7 put a"));
    assert_eq!(seen, format!("79 put a{value}, {rest}, 7 put a"));
    assert_eq!(compacted(&lower, &seen), seen);
    let few = newest.replace("79", "90") + ", " + &seen;
    assert_eq!(compacted(&lower, &few), few);
}

#[test]
fn a_run_that_is_too_long_for_memory_is_written_as_it_comes() {
    let mut history = History::default();
    for stamp in 1..=30 {
        let version = (Kind::Merge { operator: 0 }, 0, vec![stamp as u8; 1 << 20]);
        history.versions.insert((b"key".to_vec(), Reverse(lsn(stamp))), version);
    }
    let inputs: Vec<_> = history.file(1, b"", None).into_iter().collect();
    let view = PruneView::new(lsn(7), []);
    let mut outputs = Files::new();
    let rules = newest_only(&view, true);
    compact(&inputs, EVERYTHING, &rules, &mut outputs).expect("sound");
    let written = History::of(&outputs.files);
    let kinds: Vec<_> = written.of_key(b"key").map(|(stamp, version)| (stamp, version.0)).collect();
    let mut expected: Vec<_> =
        (8..=30).rev().map(|stamp| (lsn(stamp), Kind::Merge { operator: 0 })).collect();
    expected.push((lsn(7), Kind::Put));
    assert_eq!(kinds, expected);
}

#[test]
fn a_tombstone_goes_at_the_bottom_once_nobody_reads_below_it() {
    let view = PruneView::new(lsn(100), [lsn(8)]);
    let (lower, bottom) = (newest_only(&view, false), newest_only(&view, true));
    assert_eq!(compacted(&lower, "8 delete, 7 put a"), "8 delete");
    assert_eq!(compacted(&bottom, "8 delete, 7 put a"), "");
    assert_eq!(compacted(&bottom, "9 delete, 7 put a"), "9 delete, 7 put a");
    assert_eq!(compacted(&bottom, "9 delete, 7 delete"), "9 delete");
}

#[test]
fn what_has_expired_goes_unless_a_merge_may_build_on_it() {
    let view = PruneView::new(lsn(100), []);
    let rules = CompactionRules { expired_before: 50, ..newest_only(&view, true) };
    let nobody = CompactionRules { merges_above: false, ..rules };
    assert_eq!(compacted(&rules, "9 put a 50, 7 put b"), "9 put 50");
    assert_eq!(compacted(&nobody, "9 put a 50, 7 put b"), "");
    assert_eq!(compacted(&nobody, "9 put a 51, 7 put b"), "9 put a 51");
    let lower = CompactionRules { beneath: Beneath::Values, ..nobody };
    assert_eq!(compacted(&lower, "9 put a 50, 7 put b"), "9 delete");
    assert_eq!(compacted(&lower, "101 merge0 c 40, 9 put a 50"), "101 merge0 c 40, 9 put a 50");
    let seen = compacted(&lower, "101 merge0 c 40, 9 merge0 b 40, 8 put a 50");
    assert_eq!(seen, "101 merge0 c 40, 9 put ab 50");
    assert_eq!(compacted(&lower, "9 merge0 c 40, 8 put a 50"), "9 delete");
}

#[test]
fn a_range_delete_is_cut_where_a_file_ends() {
    let mut history = History::default();
    for number in 0..400u32 {
        let key = number.to_be_bytes().to_vec();
        history.versions.insert((key, Reverse(lsn(9))), (Kind::Put, 0, vec![number as u8; 40]));
    }
    history.range_deletes.push((Box::default(), None, lsn(8)));
    let inputs: Vec<_> = history.file(1, b"", None).into_iter().collect();
    let view = PruneView::new(lsn(7), []);
    let rules = CompactionRules { file_bytes: 1_000, ..newest_only(&view, true) };
    let mut outputs = Files::new();
    let done = compact(&inputs, EVERYTHING, &rules, &mut outputs).expect("sound");
    assert!(done.files > 3, "{done:?}");
    let mut from: Vec<u8> = Vec::new();
    for file in &outputs.files {
        let [(start, end, stamp)] = file.range_deletes() else { panic!("one range delete each") };
        assert_eq!((&**start, *stamp), (&*from, lsn(8)));
        from = end.as_deref().map(Into::into).unwrap_or_default();
    }
    assert!(from.is_empty(), "the last reaches to the end");
}

#[test]
fn a_damaged_input_is_an_error_that_names_it() {
    let mut random = Random::from_environment("damaged inputs");
    let history = history(&mut random, 60, true, 60, 0);
    let view = PruneView::new(lsn(100), []);
    let rules = newest_only(&view, true);
    let file = history.file(1, b"", None).expect("something");
    let bytes = {
        let mut writer =
            SstableWriter::new(Vec::new(), DATABASE, FileId(2), options()).expect("memory");
        for ((key, stamp), (kind, time, value)) in &history.versions {
            writer.add(key, stamp.0, *kind, *time, value).expect("memory");
        }
        writer.finish().expect("memory").0
    };
    let filter = crate::testing::filter_of(&bytes);
    for at in 64..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let Ok(damaged) = Sstable::open(Box::new(bytes), DATABASE, FileId(2)) else { continue };
        if filter.contains(&at) {
            // A compaction has no use for it, and its outputs have filters of their own.
            assert!(damaged.check_ends().is_err(), "byte {at}");
            continue;
        }
        let inputs = [Arc::clone(&file), damaged];
        let result = compact(&inputs, EVERYTHING, &rules, &mut Files::new());
        let named = matches!(result, Err(CompactError::Input { file: FileId(2), .. }));
        assert!(named, "byte {at}: {result:?}");
    }
}

#[test]
fn a_cancelled_compaction_finishes_nothing() {
    let mut history = History::default();
    for number in 0..5_000u32 {
        let key = number.to_be_bytes().to_vec();
        history.versions.insert((key, Reverse(lsn(9))), (Kind::Put, 0, Vec::new()));
    }
    let inputs: Vec<_> = history.file(1, b"", None).into_iter().collect();
    let view = PruneView::new(lsn(7), []);
    let mut outputs = Files { cancelled: true, ..Files::new() };
    let result = compact(&inputs, EVERYTHING, &newest_only(&view, true), &mut outputs);
    assert!(matches!(result, Err(CompactError::Cancelled)), "{result:?}");
    assert!(outputs.files.is_empty());
}

#[test]
fn parts_are_of_one_size() {
    let mut history = History::default();
    for number in 0..8_000u32 {
        let key = number.to_be_bytes().to_vec();
        let value = number.wrapping_mul(0x9e37_79b9).to_be_bytes().repeat(4);
        history.versions.insert((key, Reverse(lsn(9))), (Kind::Put, 0, value));
    }
    let half = 4_000u32.to_be_bytes();
    let inputs = [history.file(1, b"", Some(&half)), history.file(3, &half, None)];
    let inputs: Vec<_> = inputs.into_iter().flatten().collect();
    let points = split_points(&inputs, 4).expect("sound");
    let counts =
        points.iter().map(|point| history.versions.keys().filter(|(key, _)| key < point).count());
    for (part, count) in counts.enumerate() {
        assert!(count.abs_diff((part + 1) * 2_000) < 100, "{count} before point {part}");
    }
    assert_eq!(points.len(), 3);
    assert!(split_points(&inputs, 1).expect("sound").is_empty());
}
