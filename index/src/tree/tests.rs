//! The oracle is one memtable that has the whole history; what is tested has the same history split into
//! layers.

use std::ops::{Bound, ControlFlow};

use isolith_wal::DatabaseId;

use super::*;
use crate::levels::Levels;
use crate::sstable::{
    Compression, FileId, PrefixExtractor, Sstable, SstableOptions, SstableWriter, ValueFile,
    ValueWriter,
};
use crate::testing::Random;
use crate::testing::write_all;
use crate::{Beneath, Direction, Kind, MergeError, MergeOperators, MergedValue, NodeRef, Value};

const DATABASE: DatabaseId = DatabaseId(7);

fn at(counter: u64) -> Lsn {
    if counter == 0 { Lsn::ZERO } else { Lsn::new(0, counter) }
}

/// Operator 0 appends; operator 1 fails.
struct Text;

impl MergeOperators for Text {
    fn merge(
        &self,
        operator: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        match operator {
            0 => Ok([existing.unwrap_or(b"-"), operand].concat()),
            _ => Err(MergeError::new("never")),
        }
    }

    fn combine(&self, operator: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        match operator {
            0 => Ok([earlier, later].concat()),
            _ => Err(MergeError::new("never")),
        }
    }
}

/// What a reader finds: the value and its expiry, or why there is none; what was observed; whether
/// something newer was skipped.
type Outcome = (Result<Option<(Vec<u8>, u64)>, String>, Lsn, bool);

fn outcome(lookup: Lookup<'_>) -> Outcome {
    let merged = |folded: Result<MergedValue, crate::MergeFailure>, expires_at| match folded {
        Ok(merged) => {
            assert_eq!(merged.expires_at, expires_at);
            Ok(Some((merged.value, expires_at)))
        }
        Err(failure) => Err(failure.error.to_string()),
    };
    let Lookup { found, observed, skipped_newer } = lookup;
    let value = match found {
        Found::Absent => Ok(None),
        Found::Put(version) => Ok(Some((version.value().to_vec(), version.expires_at()))),
        Found::Stored(stored) => Ok(Some((stored.value.to_vec(), stored.expires_at))),
        Found::Lent(lent) => Ok(Some((lent.value.to_vec(), lent.expires_at))),
        Found::Merged(run) => merged(run.fold(&Text), run.expires_at()),
        Found::Run(run) => {
            assert_eq!(run.stamp, observed);
            merged(run.fold(&Text), run.expires_at())
        }
    };
    (value, observed, skipped_newer)
}

#[derive(Clone, Debug)]
enum What {
    Write(Vec<u8>, Kind, Vec<u8>, u64),
    Range(Vec<u8>, Option<Vec<u8>>),
}

/// Commits in order; the first has stamp 1.
type History = Vec<Vec<What>>;

const KEYS: usize = 60;

fn key(number: usize) -> Vec<u8> {
    // Some are the beginnings of others.
    format!("k{number:02}{}", "x".repeat(number % 3)).into_bytes()
}

/// Ten keys have one prefix, one, or a third of them.
const TENS: PrefixExtractor = PrefixExtractor::Length(2);
const EACH: PrefixExtractor = PrefixExtractor::Length(3);
const LONG: PrefixExtractor = PrefixExtractor::UpTo(b'x');

fn history(random: &mut Random, commits: usize) -> History {
    let commit = |random: &mut Random, stamp: usize| {
        let mut writes: Vec<What> = Vec::new();
        if random.below(12) == 0 {
            let start = key(random.below(KEYS));
            let end = Some(key(random.below(KEYS + 4))).filter(|_| random.below(6) > 0);
            writes.push(What::Range(start, end));
        }
        let mut keys: Vec<_> = (0..=random.below(4)).map(|_| random.below(KEYS)).collect();
        keys.sort_unstable();
        keys.dedup();
        for number in keys {
            let time = [0, 0, 40, 70][random.below(4)];
            let value = format!("{stamp}.{}", "v".repeat(random.below(40))).into_bytes();
            writes.push(match random.below(8) {
                0 => What::Write(key(number), Kind::Delete, Vec::new(), 0),
                1..=3 => {
                    let operator = u16::from(random.below(12) == 0);
                    What::Write(key(number), Kind::Merge { operator }, value, stamp as u64)
                }
                _ => What::Write(key(number), Kind::Put, value, time),
            });
        }
        writes
    };
    (1..=commits).map(|stamp| commit(random, stamp)).collect()
}

/// A memtable with the part of a history that is above `after`, up to `through`, within `[from, to)`.
fn memtable(
    history: &History,
    (after, through): (usize, usize),
    from: &[u8],
    to: Option<&[u8]>,
) -> Arc<Memtable> {
    let memtable = Arc::new(Memtable::above(Beneath::Expiring, 3));
    for (number, commit) in history.iter().enumerate().take(through).skip(after) {
        let mut write = memtable.prepare(commit.len());
        for what in commit {
            match what {
                What::Write(key, kind, value, time) => {
                    if from <= key.as_slice() && to.is_none_or(|to| key.as_slice() < to) {
                        write.add(key, *kind, Value::new(value), *time);
                    }
                }
                What::Range(start, end) => {
                    let start = from.max(start.as_slice());
                    let end = match (end.as_deref(), to) {
                        (Some(end), Some(to)) => Some(end.min(to)),
                        (end, to) => end.or(to),
                    };
                    let end = end.map_or(Bound::Unbounded, Bound::Excluded);
                    write.add_range_delete((Bound::Included(start), end));
                }
            }
        }
        write.install(at(number as u64 + 1));
    }
    memtable
}

/// A file, and its value file: that of half of the files has something in it.
fn file_bytes(memtable: &Memtable, id: u64, random: &mut Random) -> Option<(Vec<u8>, Vec<u8>)> {
    let options = SstableOptions {
        space: 0,
        block_bytes: 40 << random.below(6),
        compression: [Compression::None, Compression::Lz4][random.below(2)],
        filter_bits_per_key: [0, 10][random.below(2)],
        prefixes: [None, Some(TENS), Some(EACH), Some(LONG)][random.below(4)],
    };
    let writer = SstableWriter::new(Vec::new(), DATABASE, FileId(id), options);
    let mut writer = writer.expect("memory");
    let mut values = value_writer(id, options.compression);
    let large = Some(&mut values).filter(|_| random.below(2) == 0);
    write_all(memtable, &mut writer, large).expect("memory");
    let (bytes, properties) = writer.finish().expect("memory");
    let any = properties.entries + properties.range_deletes > 0;
    any.then(|| (bytes, values.finish().expect("memory")))
}

/// The value file of a sorted file.
fn values_of(id: u64) -> FileId {
    FileId(1_000 + id)
}

fn value_writer(id: u64, compression: Compression) -> ValueWriter<Vec<u8>> {
    ValueWriter::new(Vec::new(), DATABASE, values_of(id), compression).expect("memory")
}

fn open_values(bytes: Vec<u8>, id: u64) -> Option<Arc<ValueFile>> {
    let tell = Arc::new(|_| unreachable!("none is superseded"));
    ValueFile::open(Box::new(bytes), DATABASE, values_of(id), tell).ok().map(Arc::new)
}

fn open((bytes, values): (Vec<u8>, Vec<u8>), id: u64) -> Arc<OpenFile> {
    let table = Sstable::open(Box::new(bytes), DATABASE, FileId(id)).expect("sound");
    let mut file = OpenFile::new(table, Arc::new(|_| unreachable!("none is superseded")));
    assert!(file.attach([&open_values(values, id).expect("sound")]));
    Arc::new(file)
}

/// A history in layers, and what lies under the active memtable as one.
struct Layered {
    tree: Tree,
    below: Arc<Memtable>,
}

/// Splits a history: the oldest part goes to levels 6, 5 and 4, where every stretch of keys has its own cuts,
/// then come files of level 0, frozen memtables, and the active one.
fn layered(history: &History, random: &mut Random) -> Layered {
    let whole = history.len();
    let mut cuts: Vec<_> = (0..5).map(|_| random.below(whole + 1)).collect();
    cuts.sort_unstable();
    if random.below(4) == 0 {
        cuts[4] = whole;
    }
    let [levels_end, files_1, files_end, frozen_1, frozen_end] = cuts[..] else { unreachable!() };
    let mut levels = Levels::default();
    let mut id = 0;
    let mut add = |levels: &mut Levels<Arc<OpenFile>>,
                   level: usize,
                   memtable: &Memtable,
                   random: &mut Random| {
        id += 1;
        if let Some(bytes) = file_bytes(memtable, id, random) {
            levels.levels[level].push(open(bytes, id));
        }
    };
    for (from, to) in [(files_1, files_end), (levels_end, files_1)] {
        add(&mut levels, 0, &memtable(history, (from, to), b"", None), random);
    }
    let mut fences: Vec<_> = (0..random.below(5)).map(|_| key(random.below(KEYS))).collect();
    fences.sort();
    fences.dedup();
    let mut from = Vec::new();
    for stretch in 0..=fences.len() {
        let to = fences.get(stretch).map(|to| &**to);
        let (a, b) = (random.below(levels_end + 1), random.below(levels_end + 1));
        let spans = [(6, 0, a.min(b)), (5, a.min(b), a.max(b)), (4, a.max(b), levels_end)];
        for (level, after, through) in spans {
            add(&mut levels, level, &memtable(history, (after, through), &from, to), random);
        }
        from = to.unwrap_or_default().to_vec();
    }
    // A memtable goes from active to frozen as it does in life.
    let all = |from, to| memtable(history, (from, to), b"", None);
    let levels = Arc::new(LevelSet::new(levels));
    let tree = Tree::new(all(files_end, frozen_1), levels);
    for (through, from, to) in [(frozen_1, frozen_1, frozen_end), (frozen_end, frozen_end, whole)] {
        let view = tree.view(&pin()).frozen_into(all(from, to), at(through as u64));
        tree.replace(view);
    }
    Layered { tree, below: all(0, frozen_end) }
}

#[test]
fn layers_say_what_one_memtable_would() {
    let mut random = Random::from_environment("layers_say_what_one_memtable_would");
    for _ in 0..30 {
        let commits = random.below(120);
        let history = history(&mut random, commits);
        let oracle = memtable(&history, (0, history.len()), b"", None);
        let layered = layered(&history, &mut random);
        let guard = pin();
        let view = layered.tree.view(&guard);
        let newest_below = layered.below.stats();
        assert!(newest_below.nodes == 0 || view.below_max() > Lsn::ZERO);
        for number in 0..KEYS + 2 {
            let key = key(number);
            for read in 0..=history.len() as u64 + 1 {
                let seen = view.lookup(&key, at(read), &guard).expect("sound files");
                let expected = outcome(oracle.lookup(&key, at(read), &guard));
                assert_eq!(outcome(seen), expected, "{} at {read}", key.escape_ascii());
            }
            let seen = outcome(view.lookup(&key, Lsn::MAX, &guard).expect("sound files"));
            assert_eq!(seen, outcome(oracle.lookup(&key, Lsn::MAX, &guard)));
            let newest = view.newest(&key, &guard).expect("sound files");
            assert_eq!(newest, oracle.newest(&key, &guard), "{}", key.escape_ascii());
            let below = layered.below.newest(&key, &guard);
            for above in (0..=history.len() as u64).step_by(7).map(at) {
                let seen = view.newest_below(&key, above, &guard).expect("sound files");
                assert!(if below > above { seen == below } else { seen <= above });
            }
        }
        for _ in 0..40 {
            let mut keys: Vec<_> = (0..random.below(40)).map(|_| key(random.below(KEYS))).collect();
            if random.below(4) > 0 {
                keys.sort();
            }
            let read = at(random.below(history.len() + 2) as u64);
            let mut seen = Vec::new();
            let told = |number, lookup| seen.push((number, outcome(lookup)));
            view.lookup_many(&keys, read, &guard, told).expect("sound files");
            let one = |key: &Vec<u8>| outcome(oracle.lookup(key, read, &guard));
            let expected: Vec<_> = keys.iter().map(one).enumerate().collect();
            assert_eq!(seen, expected, "{keys:?} at {read}");
        }
        for _ in 0..200 {
            let (lower, upper) = bounds(&mut random);
            let range = (lower.as_ref().map(|key| &**key), upper.as_ref().map(|key| &**key));
            let above = at(random.below(history.len() + 1) as u64);
            let newer = view.newer_in(range, above, &guard).expect("sound files");
            assert!(newer.is_none_or(|newer| newer > above));
            // A range delete that overlaps the range counts though no key may be in both.
            assert_eq!(newer.is_some(), oracle.newer_in(range, above, &guard).is_some());
            let below = view.newer_below_in(range, above, &guard).expect("sound files");
            let expected = layered.below.newer_in(range, above, &guard);
            assert_eq!(below.is_some(), expected.is_some());
        }
    }
}

fn range_of((lower, upper): &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> KeyRange<'_> {
    (lower.as_ref().map(|key| &**key), upper.as_ref().map(|key| &**key))
}

fn bound(random: &mut Random) -> Bound<Vec<u8>> {
    let key = key(random.below(KEYS + 2));
    match random.below(5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(key),
        _ => Bound::Excluded(key),
    }
}

/// The two ends of a range: any, or those of a prefix, or of a part of it.
fn bounds(random: &mut Random) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    if random.below(2) == 0 {
        return (bound(random), bound(random));
    }
    let mut prefix = key(random.below(KEYS + 2));
    prefix.truncate(2 + random.below(3));
    let mut end = prefix.clone();
    *end.last_mut().expect("not empty") += 1;
    if random.below(3) == 0 {
        prefix.push(b'0' + random.below(10) as u8);
    }
    let lower = [Bound::Included, Bound::Excluded][random.below(2)](prefix);
    (lower, Bound::Excluded(end))
}

#[test]
fn scans_go_over_all_layers_in_order() {
    let mut random = Random::from_environment("scans_go_over_all_layers_in_order");
    let (mut lent, mut passed_by) = (0, 0);
    for round in 0..45 {
        let commits = random.below(150);
        let mut history = history(&mut random, commits);
        // Files lend their values where nothing is deleted by ranges in them.
        let plain = [0, random.below(commits + 1), commits][round % 3];
        for writes in &mut history[..plain] {
            writes.retain(|what| !matches!(what, What::Range(..)));
        }
        let oracle = memtable(&history, (0, history.len()), b"", None);
        // The same in several ways: files change while a scan is between two chunks.
        let trees: Vec<_> = (0..3).map(|_| layered(&history, &mut random)).collect();
        for _ in 0..150 {
            let (lower, upper) = bounds(&mut random);
            let direction = [Direction::Forward, Direction::Reverse][random.below(2)];
            let read = at(random.below(history.len() + 2) as u64);
            let mut expected = Vec::new();
            let guard = pin();
            let range = (lower.as_ref().map(|key| &**key), upper.as_ref().map(|key| &**key));
            oracle.scan(range, direction, &guard, |node: NodeRef<'_>| {
                expected.push((node.key().to_vec(), outcome(node.lookup(read))));
                ControlFlow::Continue(())
            });
            for tree in &trees {
                let files = tree.tree.view(&guard).levels().files();
                passed_by +=
                    files.filter(|file| !file.table().may_have_in(range).expect("sound")).count();
            }
            drop(guard);
            let whole = (lower.clone(), upper.clone());
            let (mut lower, mut upper) = (lower.clone(), upper.clone());
            let chunk = 1 + random.below(20);
            let mut tree = random.below(3);
            let mut cursors = FileCursors::default();
            let mut seen = Vec::new();
            loop {
                let guard = pin();
                let range = (lower.as_ref().map(|key| &**key), upper.as_ref().map(|key| &**key));
                let before = seen.len();
                trees[tree]
                    .tree
                    .view(&guard)
                    .scan(range, direction, read, &mut cursors, &guard, |key, lookup| {
                        lent += usize::from(matches!(lookup.found, Found::Lent(_)));
                        seen.push((key.to_vec(), outcome(lookup)));
                        match seen.len() - before == chunk {
                            true => ControlFlow::Break(()),
                            false => ControlFlow::Continue(()),
                        }
                    })
                    .expect("sound files");
                if seen.len() - before < chunk {
                    break;
                }
                let last = Bound::Excluded(seen.last().expect("a chunk").0.clone());
                match direction {
                    Direction::Forward => lower = last,
                    Direction::Reverse => upper = last,
                }
                if random.below(6) == 0 {
                    tree = random.below(3);
                }
            }
            crate::testing::assert_same(&seen, &expected, &format!("{direction:?} at {read:?}"));
            let (guard, mut cursors) = (pin(), FileCursors::keys_only());
            let mut at = expected.iter();
            let view = trees[0].tree.view(&guard);
            view.scan(range_of(&whole), direction, read, &mut cursors, &guard, |key, lookup| {
                let (known, (value, observed, _)) = at.next().expect("a key");
                assert_eq!((key, lookup.observed), (&**known, *observed));
                let there = !matches!(lookup.found, Found::Absent);
                let merged = matches!(lookup.found, Found::Merged(_) | Found::Run(_));
                match merged {
                    true => assert_eq!(outcome(lookup).0, *value),
                    false => assert_eq!(Ok(there), value.as_ref().map(Option::is_some)),
                }
                ControlFlow::Continue(())
            })
            .expect("sound files");
            assert!(at.next().is_none());
        }
    }
    assert!(lent > 0, "no value was lent");
    assert!(passed_by > 1000, "{passed_by} files were passed by");
}

/// The bytes of a sorted file and of its value file.
type Pair = [Vec<u8>; 2];

/// A tree with an empty memtable over one file of level 3, and the bytes of the file and its value file.
fn over_one_file(history: &History) -> (Pair, fn(Pair) -> Option<Tree>) {
    let written = memtable(history, (0, history.len()), b"", None);
    let options = SstableOptions { block_bytes: 200, ..SstableOptions::default() };
    let writer = SstableWriter::new(Vec::new(), DATABASE, FileId(9), options);
    let mut writer = writer.expect("memory");
    let mut values = value_writer(9, Compression::Lz4);
    write_all(&written, &mut writer, Some(&mut values)).expect("memory");
    let (bytes, _) = writer.finish().expect("memory");
    let tree = |[bytes, values]: Pair| {
        let table = Sstable::open(Box::new(bytes), DATABASE, FileId(9)).ok()?;
        let mut file = OpenFile::new(table, Arc::new(|_| {}));
        assert!(file.attach([&open_values(values, 9)?]));
        let mut levels = Levels::default();
        levels.levels[3].push(Arc::new(file));
        let active = Arc::new(Memtable::above(Beneath::Expiring, 1));
        Some(Tree::new(active, Arc::new(LevelSet::new(levels))))
    };
    ([bytes, values.finish().expect("memory")], tree)
}

#[test]
fn a_damaged_block_is_an_error_and_says_which_file() {
    let mut random = Random::from_environment("a_damaged_block_is_an_error_and_says_which_file");
    let history = history(&mut random, 60);
    let oracle = memtable(&history, (0, history.len()), b"", None);
    let (bytes, tree_of) = over_one_file(&history);
    let guard = pin();
    let read = at(history.len() as u64);
    let (mut refused, mut damaged) = (0, 0);
    let filter = crate::testing::filter_of(&bytes[0]);
    let places = (0..2).flat_map(|file| (0..bytes[file].len()).map(move |place| (file, place)));
    for (file, place) in places.step_by(3) {
        let mut bytes = bytes.clone();
        bytes[file][place] ^= 1 << random.below(8);
        let Some(tree) = tree_of(bytes) else {
            refused += 1;
            continue;
        };
        let view = tree.view(&guard);
        let mut errors = 0;
        for number in 0..KEYS {
            let key = key(number);
            match view.lookup(&key, read, &guard) {
                Ok(seen) => {
                    assert_eq!(outcome(seen), outcome(oracle.lookup(&key, read, &guard)));
                }
                Err(error) => {
                    assert_eq!(error.file, FileId(9));
                    let place = ["damaged at offset", "value file 1009: damaged at offset"][file];
                    assert!(error.to_string().starts_with(&format!("sorted file 9: {place}")));
                    errors += 1;
                }
            }
            if let Ok(newest) = view.newest(&key, &guard) {
                assert_eq!(newest, oracle.newest(&key, &guard));
            }
        }
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut cursors = FileCursors::default();
            let all = (Bound::Unbounded, Bound::Unbounded);
            let scanned = view.scan(all, direction, read, &mut cursors, &guard, |key, lookup| {
                let expected = oracle.lookup(key, read, &guard);
                assert_eq!(outcome(lookup), outcome(expected));
                ControlFlow::Continue(())
            });
            let in_filter = file == 0 && filter.contains(&place);
            let all_right = scanned.is_ok() && !in_filter;
            assert!(errors == 0 || !all_right, "a scan comes by every block");
            assert!(scanned.is_ok() || !in_filter, "and has no use for the filter");
        }
        damaged += usize::from(errors > 0);
    }
    assert!(refused > 0 && damaged > 0, "{refused} refused, {damaged} damaged");
}

#[test]
fn a_superseded_file_is_told_of_when_the_last_reader_has_gone() {
    let told = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let table = {
        let history = vec![vec![What::Write(key(1), Kind::Put, b"v".to_vec(), 0)]];
        let written = memtable(&history, (0, 1), b"", None);
        let bytes = file_bytes(&written, 4, &mut Random::from_environment("superseded"));
        Sstable::open(Box::new(bytes.expect("a version").0), DATABASE, FileId(4)).expect("sound")
    };
    let file = {
        let told = Arc::clone(&told);
        let tell = move |table: Arc<Sstable>| {
            assert_eq!(table.id(), FileId(4));
            // Relaxed, here and below: it is told by this thread.
            told.fetch_add(1, Ordering::Relaxed);
        };
        Arc::new(OpenFile::new(table, Arc::new(tell)))
    };
    let mut levels = Levels::default();
    levels.levels[0].push(Arc::clone(&file));
    let levels = Arc::new(LevelSet::new(levels));
    file.supersede();
    drop(file);
    let mut cursors = FileCursors::default();
    {
        let active = Arc::new(Memtable::above(Beneath::Values, 1));
        let tree = Tree::new(active, levels);
        let guard = pin();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let broken = |_: &[u8], _: Lookup<'_>| ControlFlow::Break(());
        tree.view(&guard)
            .scan(all, Direction::Forward, at(1), &mut cursors, &guard, broken)
            .expect("a sound file");
    }
    assert_eq!(told.load(Ordering::Relaxed), 0, "a scan that is to go on holds it");
    drop(cursors);
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn readers_find_what_was_there_while_views_change() {
    let mut random = Random::from_environment("readers_find_what_was_there_while_views_change");
    let history = history(&mut random, 80);
    let oracle = memtable(&history, (0, history.len()), b"", None);
    // All say the same. Those that are taken out are dropped while readers go on.
    let others: Vec<_> = (0..12).map(|_| layered(&history, &mut random).tree).collect();
    let tree = layered(&history, &mut random).tree;
    std::thread::scope(|scope| {
        let (tree, oracle, history) = (&tree, &oracle, &history);
        let read_all = move || {
            for number in 0..KEYS {
                let guard = pin();
                let (key, read) = (key(number), at(history.len() as u64));
                let seen = tree.view(&guard).lookup(&key, read, &guard).expect("sound files");
                assert_eq!(outcome(seen), outcome(oracle.lookup(&key, read, &guard)));
            }
        };
        let readers = [scope.spawn(read_all), scope.spawn(read_all)];
        for other in &others {
            let guard = pin();
            let view = other.view(&guard);
            tree.replace(view.with_levels(Arc::clone(view.levels())));
            read_all();
        }
        for reader in readers {
            reader.join().expect("a reader");
        }
    });
}

/// Keys in memory, in files, or in both: `keys` ascending ones, of which some are written last.
fn spread(keys: usize, in_memory: impl Fn(usize) -> bool, random: &mut Random) -> Tree {
    let put = |number: usize| {
        let value = vec![b'v'; 10 + number % 20];
        vec![What::Write(format!("{number:06}").into_bytes(), Kind::Put, value, 0)]
    };
    // Not in order: pages are as full as chance has them.
    let mut numbers: Vec<_> = (0..keys).collect();
    for at in 0..keys {
        numbers.swap(at, random.below(keys));
    }
    let (active, filed): (Vec<_>, Vec<_>) = numbers.into_iter().partition(|key| in_memory(*key));
    let [active, filed] = [active, filed].map(|keys| {
        let history: History = keys.into_iter().map(put).collect();
        memtable(&history, (0, history.len()), b"", None)
    });
    let mut levels = Levels::default();
    levels.levels[2].extend(file_bytes(&filed, 5, random).map(|bytes| open(bytes, 5)));
    Tree::new(active, Arc::new(LevelSet::new(levels)))
}

#[test]
fn estimates_come_near_what_is_there() {
    const COUNT: usize = 20_000;
    let mut random = Random::from_environment("estimates_come_near_what_is_there");
    let places: [fn(usize) -> bool; 3] = [|_| true, |_| false, |number| number % 3 == 0];
    for (place, in_memory) in places.into_iter().enumerate() {
        let tree = spread(COUNT, in_memory, &mut random);
        let guard = pin();
        let view = tree.view(&guard);
        for _ in 0..300 {
            let from = random.below(COUNT);
            let to = from + random.below(COUNT - from);
            let (lower, upper) = (format!("{from:06}"), format!("{to:06}"));
            let (mut lower, mut upper) =
                (Bound::Included(lower.as_bytes()), Bound::Excluded(upper.as_bytes()));
            let (mut first, mut end) = (from, to);
            if random.below(5) == 0 {
                (lower, first) = (Bound::Unbounded, 0);
            }
            if random.below(5) == 0 {
                (upper, end) = (Bound::Unbounded, COUNT);
            }
            let keys = (end - first) as f64;
            let bytes: usize = (first..end).map(|number| 6 + 10 + number % 20).sum();
            let found = view.estimate((lower, upper), &guard).expect("a sound file");
            // Blocks of less than 1.5 KiB hold at most 70 of these; pages are at least half full.
            let near = |found: f64, is: f64, one: f64| {
                found >= 0.5 * is - 80.0 * one && found <= 2.0 * is + 80.0 * one
            };
            assert!(near(found.keys, keys, 1.0), "{place}: {found:?} of {keys} from {first}");
            assert!(near(found.bytes, bytes as f64, 30.0), "{place}: {found:?} of {bytes}");
            if place == 0 && keys < 1024.0 {
                assert_eq!((found.keys, found.bytes), (keys, bytes as f64), "few are counted");
            }
        }
        let all = view.estimate((Bound::Unbounded, Bound::Unbounded), &guard).expect("sound");
        assert!((all.keys - COUNT as f64).abs() < 0.5, "all is known: {all:?}");
        let none = (Bound::Included(&b"9"[..]), Bound::Unbounded);
        assert_eq!(view.estimate(none, &guard).expect("sound"), Estimate::default());
    }
}
