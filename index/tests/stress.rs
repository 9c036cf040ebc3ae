//! Writers, readers, scanners and pruners at once, against a replay of what was committed.
//!
//! The test plays the engine: a window (a lock) in which commits get their stamps, a visible mark, and
//! a registry of readers from which writers take their prune views, in the order that the protocol
//! prescribes. Readers check what can be checked at once (a snapshot does not move; pairs of keys that
//! are always written together agree), and note what they saw. At the end the commits are replayed one
//! after the other, and every note must agree with the state at its timestamp.
#![cfg(not(loom))]

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex};

use isolith_index::{
    Direction, Found, Kind, Lookup, Memtable, MergeError, MergeOperators, PruneView, Value, pin,
};
use isolith_wal::{Lsn, random_seed};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("ISOLITH_SEED") {
        Ok(seed) => seed.parse().expect("ISOLITH_SEED is a number"),
        Err(_) => random_seed(),
    };
    println!("ISOLITH_SEED={seed}");
    seed
}

type Key = Vec<u8>;

/// One commit, as the window saw it: the range delete comes first, then the others.
struct Commit {
    range: Option<(Key, Key)>,
    writes: Vec<(Key, Write)>,
}

#[derive(Clone)]
enum Write {
    Put(Vec<u8>),
    Delete,
    Merge(Vec<u8>),
}

/// Appends, and keeps what was appended last.
struct Tail;

impl Tail {
    const BYTES: usize = 100;
}

impl MergeOperators for Tail {
    fn merge(
        &self,
        _: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        let all = [existing.unwrap_or_default(), operand].concat();
        Ok(all[all.len().saturating_sub(Tail::BYTES)..].to_vec())
    }

    fn combine(&self, _: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(0, Some(earlier), later)
    }
}

fn value_of(lookup: Lookup<'_>) -> Option<Vec<u8>> {
    match lookup.found {
        Found::Absent => None,
        Found::Put(version) => Some(version.value().to_vec()),
        Found::Merged(merged) => Some(merged.fold(&Tail).expect("it never fails").value),
        Found::Stored(_) | Found::Lent(_) | Found::Run(_) => {
            unreachable!("a memtable has no file")
        }
    }
}

/// What a reader saw at its timestamp.
enum Note {
    Point { read: u64, key: Key, value: Option<Vec<u8>> },
    Scan { read: u64, start: Key, end: Key, entries: Vec<(Key, Vec<u8>)> },
}

impl Note {
    fn read(&self) -> u64 {
        match self {
            Note::Point { read, .. } | Note::Scan { read, .. } => *read,
        }
    }
}

const READERS: usize = 3;
/// A slot's value while its reader is between two timestamps: OPEN(timestamp).
const OPEN: u64 = 1 << 62;
const FREE: u64 = u64::MAX;

/// The engine's part of the protocol, as small as it can be.
struct Engine {
    memtable: Arc<Memtable>,
    commits: Mutex<Vec<Commit>>,
    visible: AtomicU64,
    slots: [AtomicU64; READERS],
}

impl Engine {
    fn new(seed: u64) -> Engine {
        Engine {
            memtable: Arc::new(Memtable::new(seed)),
            commits: Mutex::new(Vec::new()),
            visible: AtomicU64::new(0),
            slots: [const { AtomicU64::new(FREE) }; READERS],
        }
    }

    fn commit(&self, commit: Commit, prune: bool) {
        let outer = pin();
        let mut write = self.memtable.prepare(commit.writes.len());
        if let Some((start, end)) = &commit.range {
            write.add_range_delete((Bound::Included(start), Bound::Excluded(end)));
        }
        for (key, value) in &commit.writes {
            match value {
                Write::Put(bytes) => write.add(key, Kind::Put, Value::new(bytes), 0),
                Write::Delete => write.add(key, Kind::Delete, Value::empty(), 0),
                Write::Merge(bytes) => {
                    write.add(key, Kind::Merge { operator: 0 }, Value::new(bytes), 0);
                }
            }
        }
        {
            let mut commits = self.commits.lock().expect("no writer panics");
            let stamp = commits.len() as u64 + 1;
            assert!(write.newest_above(Lsn::new(0, stamp - 1)).is_none(), "stamps ascend");
            write.install(Lsn::new(0, stamp));
            commits.push(commit);
            // Release: whoever reads this timestamp sees what was installed.
            self.visible.store(stamp, Ordering::Release);
        }
        if prune {
            write.prune(&self.prune_view(), &Tail, &outer);
        }
    }

    /// The mark first, then the slots: an open slot lowers the horizon to what it may become.
    fn prune_view(&self) -> PruneView {
        let mut horizon = self.visible.load(Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let mut needed = Vec::new();
        for slot in &self.slots {
            match slot.load(Ordering::SeqCst) {
                FREE => {}
                open if open & OPEN != 0 => horizon = horizon.min(open & !OPEN),
                read => needed.push(Lsn::new(0, read)),
            }
        }
        PruneView::new(Lsn::new(0, horizon), needed)
    }

    fn register(&self, slot: usize) -> u64 {
        let slot = &self.slots[slot];
        slot.store(OPEN | self.visible.load(Ordering::SeqCst), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let read = self.visible.load(Ordering::SeqCst);
        slot.store(read, Ordering::SeqCst);
        read
    }

    fn point(&self, key: &[u8], read: u64) -> Option<Vec<u8>> {
        let guard = pin();
        value_of(self.memtable.lookup(key, Lsn::new(0, read), &guard))
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        direction: Direction,
        read: u64,
    ) -> Vec<(Key, Vec<u8>)> {
        let guard = pin();
        let mut entries = Vec::new();
        let range = (Bound::Included(start), Bound::Excluded(end));
        self.memtable.scan(range, direction, &guard, |node| {
            if let Some(value) = value_of(node.lookup(Lsn::new(0, read))) {
                entries.push((node.key().to_vec(), value));
            }
            ControlFlow::Continue(())
        });
        entries
    }
}

/// Keys come in pairs that every commit writes together: `a…` and `b…` of one number.
fn pair(n: usize) -> [Key; 2] {
    ["a", "b"].map(|half| format!("{half}{n:06}").into_bytes())
}

/// What a run does beside puts and deletes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    RangeDeletes,
    Merges,
}

fn writer(engine: &Engine, mut random: Random, keys: usize, commits: usize, beside: Beside) {
    for _ in 0..commits {
        let mut writes = BTreeMap::new();
        for _ in 0..1 + random.below(3) {
            // Half of the writes go to a few hot keys, so that chains grow and are pruned.
            let n = if random.below(2) == 0 { random.below(8) } else { random.below(keys) };
            let len = if random.below(50) == 0 { 2000 } else { random.below(60) };
            let mut bytes = random.next().to_le_bytes().to_vec();
            bytes.resize(8 + len, 7);
            let write = match random.below(6) {
                0 => Write::Delete,
                2.. if beside == Beside::Merges => Write::Merge(bytes),
                _ => Write::Put(bytes),
            };
            for key in pair(n) {
                writes.insert(key, write.clone());
            }
        }
        let range = (beside == Beside::RangeDeletes && random.below(40) == 0).then(|| {
            let (a, b) = (random.below(keys), random.below(keys));
            // One half only: pairs may then differ by the deleted half being gone.
            (pair(a.min(b))[0].clone(), pair(a.max(b))[0].clone())
        });
        let commit = Commit { range, writes: writes.into_iter().collect() };
        engine.commit(commit, random.below(4) > 0);
        if random.below(200) == 0 {
            let view = engine.prune_view();
            engine.memtable.prune_range((Bound::Unbounded, Bound::Unbounded), &view, &Tail, &pin());
        }
    }
}

fn reader(
    engine: &Engine,
    slot: usize,
    mut random: Random,
    keys: usize,
    beside: Beside,
    done: &AtomicBool,
) -> Vec<Note> {
    let mut notes = Vec::new();
    // Relaxed: one more round does no harm.
    while !done.load(Ordering::Relaxed) {
        let read = engine.register(slot);
        for _ in 0..4 {
            let n = if random.below(2) == 0 { random.below(8) } else { random.below(keys) };
            let [a, b] = pair(n);
            let value = engine.point(&a, read);
            if beside != Beside::RangeDeletes {
                assert_eq!(value, engine.point(&b, read), "halves of pair {n} at {read}");
            }
            assert_eq!(value, engine.point(&a, read), "key {n} at {read}, seen twice");
            if notes.len() < 100_000 {
                notes.push(Note::Point { read, key: a, value });
            }
        }
        let n = random.below(keys);
        let (start, end) =
            (pair(n)[0].clone(), pair(n + random.below(200))[random.below(2)].clone());
        let entries = engine.scan(&start, &end, Direction::Forward, read);
        let mut reverse = engine.scan(&start, &end, Direction::Reverse, read);
        reverse.reverse();
        assert!(entries == reverse, "a scan and its reverse at {read}");
        if notes.len() < 100_000 && random.below(8) == 0 {
            notes.push(Note::Scan { read, start, end, entries });
        }
        engine.slots[slot].store(FREE, Ordering::SeqCst);
    }
    notes
}

fn replay(commits: &[Commit], mut notes: Vec<Note>) -> usize {
    notes.sort_by_key(Note::read);
    let mut state: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
    let mut stamp = 0;
    let count = notes.len();
    for note in notes {
        while stamp < note.read() {
            let commit = &commits[stamp as usize];
            if let Some((start, end)) = &commit.range {
                state.retain(|key, _| !(start <= key && key < end));
            }
            for (key, value) in &commit.writes {
                let merged = match value {
                    Write::Put(value) => Some(value.clone()),
                    Write::Delete => None,
                    Write::Merge(operand) => {
                        let existing = state.get(key).map(Vec::as_slice);
                        Some(Tail.merge(0, existing, operand).expect("it never fails"))
                    }
                };
                match merged {
                    Some(value) => drop(state.insert(key.clone(), value)),
                    None => drop(state.remove(key)),
                }
            }
            stamp += 1;
        }
        match note {
            Note::Point { read, key, value } => {
                assert!(value.as_ref() == state.get(&key), "{} at {read}", key.escape_ascii());
            }
            Note::Scan { read, start, end, entries } => {
                let expected = if start < end {
                    state.range(start..end).map(|(k, v)| (k.clone(), v.clone())).collect()
                } else {
                    Vec::new()
                };
                assert!(entries == expected, "a scan at {read}");
            }
        }
    }
    count
}

fn run(keys: usize, commits: usize, beside: Beside) {
    let seed = seed();
    let engine = Engine::new(seed);
    let done = AtomicBool::new(false);
    let notes = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|n| {
                let engine = &engine;
                scope.spawn(move || writer(engine, Random(seed ^ n), keys, commits, beside))
            })
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|slot| {
                let (engine, done) = (&engine, &done);
                let random = Random(seed ^ (100 + slot as u64));
                scope.spawn(move || reader(engine, slot, random, keys, beside, done))
            })
            .collect();
        let written: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        done.store(true, Ordering::Relaxed);
        let notes =
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader's checks"));
        let notes: Vec<Note> = notes.collect();
        written.into_iter().for_each(|writer| writer.expect("a writer's checks"));
        notes
    });
    let commits = engine.commits.lock().expect("nobody panicked");
    assert_eq!(commits.len() as u64, engine.visible.load(Ordering::Relaxed));
    assert!(replay(&commits, notes) > 0);
}

#[test]
fn registered_readers_see_their_snapshot_while_writers_prune() {
    run(2_000, 15_000, Beside::Nothing);
}

#[test]
fn range_deletes_are_seen_whole_beside_writers_and_folds() {
    run(500, 6_000, Beside::RangeDeletes);
}

#[test]
fn merges_read_the_same_before_and_after_they_are_folded() {
    run(300, 10_000, Beside::Merges);
}

#[test]
fn everything_added_before_is_found_by_lookups_and_scans() {
    // Keys only ever added; the map and the hash table grow all the while.
    const EACH: usize = 15_000;
    let seed = seed();
    let memtable = Arc::new(Memtable::new(seed));
    let key =
        |thread: usize, n: usize| Random(seed ^ ((thread * EACH + n) as u64)).next().to_be_bytes();
    let window = Mutex::new(0u64);
    let progress = [AtomicUsize::new(0), AtomicUsize::new(0)];
    std::thread::scope(|scope| {
        for (thread, progress) in progress.iter().enumerate() {
            let (memtable, window) = (&memtable, &window);
            scope.spawn(move || {
                for n in 0..EACH {
                    let mut write = memtable.prepare(1);
                    write.add(&key(thread, n), Kind::Put, Value::new(&n.to_le_bytes()), 0);
                    let mut last = window.lock().expect("nobody panics");
                    *last += 1;
                    write.install(Lsn::new(0, *last));
                    drop(last);
                    progress.store(n + 1, Ordering::Release);
                }
            });
        }
        for direction in [Direction::Forward, Direction::Reverse] {
            let (memtable, progress) = (&memtable, &progress);
            scope.spawn(move || {
                loop {
                    let before =
                        [0, 1].map(|thread: usize| progress[thread].load(Ordering::Acquire));
                    let mut seen = Vec::new();
                    let guard = pin();
                    memtable.scan(
                        (Bound::Unbounded, Bound::Unbounded),
                        direction,
                        &guard,
                        |node| {
                            seen.push(<[u8; 8]>::try_from(node.key()).expect("keys of 8 bytes"));
                            ControlFlow::Continue(())
                        },
                    );
                    drop(guard);
                    if direction == Direction::Reverse {
                        seen.reverse();
                    }
                    assert!(seen.is_sorted_by(|a, b| a < b), "in order, nothing twice");
                    for (thread, &count) in before.iter().enumerate() {
                        for n in 0..count {
                            let key = key(thread, n);
                            assert!(seen.binary_search(&key).is_ok(), "key {n} of {thread}");
                            let guard = pin();
                            let version = memtable.lookup(&key, Lsn::MAX, &guard).put();
                            assert_eq!(version.expect("a value").value(), n.to_le_bytes());
                        }
                    }
                    if before == [EACH; 2] {
                        break;
                    }
                }
            });
        }
    });
    assert_eq!(memtable.nodes(), 2 * EACH);
}
