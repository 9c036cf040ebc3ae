//! The index beside `crossbeam-skiplist` and `RwLock<BTreeMap>`: point reads, scans of 100 keys,
//! inserts, and half reads half overwrites, by one and by two threads; and the memory of a key.
//!
//! `cargo bench -p isolith-bench --bench skiplist [-- get scan insert mixed memory]`
//!
//! Keys are 20 bytes (random decimals), values 100 bytes. The rivals hold `Vec<u8>` keys and values,
//! as a store of any keys must. A point read copies the value out; a scan touches each key and both
//! ends of each value. Writes to the index go the whole way of a commit: prepared, stamped and
//! installed under one lock, pruned. Ratios are medians of paired rounds: see `isolith_bench::paired`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::ops::{Bound, ControlFlow};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crossbeam_skiplist::SkipMap;
use isolith_bench::paired::{Rates, on_threads, ratio};
use isolith_index::{Direction, Kind, Memtable, NoOperators, PruneView, Value, pin};
use isolith_wal::Lsn;

const KEYS: usize = 1_000_000;
const VALUE_BYTES: usize = 100;
const SCAN_KEYS: usize = 100;

/// Counts live bytes, as asked of the allocator, while it is told to.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

#[expect(unsafe_code, reason = "an allocator is an unsafe trait")]
// SAFETY: every call is passed on to the system's allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

fn count(bytes: isize) {
    // Relaxed, both: the counting part of the bench is single-threaded.
    if COUNTS.load(Ordering::Relaxed) {
        LIVE_BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is compared.
trait Contender: Sync {
    fn name(&self) -> &'static str;
    fn get(&self, key: &[u8], out: &mut [u8; VALUE_BYTES]) -> bool;
    fn put(&self, key: &[u8], value: &[u8]);
    fn scan(&self, from: &[u8]) -> u64;
}

/// What a scan does with an entry: touches the key and both ends of the value.
fn touch(key: &[u8], value: &[u8]) -> u64 {
    u64::from(key[key.len() - 1]) + u64::from(value[0]) + u64::from(value[value.len() - 1])
}

struct Isolith {
    memtable: Arc<Memtable>,
    /// The commit window: the last stamp given out.
    window: Mutex<u64>,
    view: PruneView,
}

impl Isolith {
    fn new() -> Isolith {
        Isolith {
            memtable: Arc::new(Memtable::new(42)),
            window: Mutex::new(0),
            view: PruneView::newest_only(),
        }
    }
}

impl Contender for Isolith {
    fn name(&self) -> &'static str {
        "isolith"
    }

    fn get(&self, key: &[u8], out: &mut [u8; VALUE_BYTES]) -> bool {
        let guard = pin();
        match self.memtable.lookup(key, Lsn::MAX, &guard).put() {
            Some(version) => {
                out.copy_from_slice(version.value());
                true
            }
            None => false,
        }
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let guard = pin();
        let mut write = self.memtable.prepare(1);
        write.add(key, Kind::Put, Value::new(value), 0);
        {
            let mut last = self.window.lock().expect("no contender panics");
            *last += 1;
            write.install(Lsn::new(0, *last));
        }
        write.prune(&self.view, &NoOperators, &guard);
    }

    fn scan(&self, from: &[u8]) -> u64 {
        let guard = pin();
        let (mut left, mut sum) = (SCAN_KEYS, 0);
        let range = (Bound::Included(from), Bound::Unbounded);
        self.memtable.scan(range, Direction::Forward, &guard, |node| {
            if let Some(version) = node.lookup(Lsn::MAX).put() {
                sum += touch(node.key(), version.value());
                left -= 1;
            }
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        sum
    }
}

struct Crossbeam(SkipMap<Vec<u8>, Vec<u8>>);

impl Contender for Crossbeam {
    fn name(&self) -> &'static str {
        "crossbeam-skiplist"
    }

    fn get(&self, key: &[u8], out: &mut [u8; VALUE_BYTES]) -> bool {
        let found = self.0.get(key);
        if let Some(entry) = &found {
            out.copy_from_slice(entry.value());
        }
        found.is_some()
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), value.to_vec());
    }

    fn scan(&self, from: &[u8]) -> u64 {
        let range = (Bound::Included(from), Bound::Unbounded);
        let entries = self.0.range::<[u8], _>(range).take(SCAN_KEYS);
        entries.map(|entry| touch(entry.key(), entry.value())).sum()
    }
}

struct Locked(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Contender for Locked {
    fn name(&self) -> &'static str {
        "RwLock<BTreeMap>"
    }

    fn get(&self, key: &[u8], out: &mut [u8; VALUE_BYTES]) -> bool {
        let map = self.0.read().expect("no contender panics");
        let found = map.get(key);
        if let Some(value) = found {
            out.copy_from_slice(value);
        }
        found.is_some()
    }

    fn put(&self, key: &[u8], value: &[u8]) {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.0.write().expect("no contender panics").insert(key, value);
    }

    fn scan(&self, from: &[u8]) -> u64 {
        let map = self.0.read().expect("no contender panics");
        let range = (Bound::Included(from), Bound::Unbounded);
        map.range::<[u8], _>(range).take(SCAN_KEYS).map(|(key, value)| touch(key, value)).sum()
    }
}

fn contenders() -> [Box<dyn Contender>; 3] {
    [
        Box::new(Isolith::new()),
        Box::new(Crossbeam(SkipMap::new())),
        Box::new(Locked(RwLock::new(BTreeMap::new()))),
    ]
}

fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn make_keys() -> Vec<[u8; 20]> {
    let mut state = 7;
    (0..KEYS)
        .map(|_| {
            let mut key = [0; 20];
            key.copy_from_slice(format!("{:020}", next(&mut state)).as_bytes());
            key
        })
        .collect()
}

const VALUE: [u8; VALUE_BYTES] = [b'v'; VALUE_BYTES];

/// Runs `turn(contender, round)` for each contender in turn, the first one another each round.
fn rounds(
    contenders: &[Box<dyn Contender>; 3],
    rounds: usize,
    operations: usize,
    turn: impl Fn(&dyn Contender, usize) -> Duration,
) -> [Rates; 3] {
    let mut rates: [Rates; 3] = Default::default();
    for round in 0..rounds {
        for step in 0..3 {
            let at = (round + step) % 3;
            rates[at].push(operations, turn(&*contenders[at], round));
        }
    }
    rates
}

fn report(what: &str, threads: usize, rates: &[Rates; 3]) {
    let [ours, crossbeam, locked] = rates;
    println!(
        "| {what} | {threads} | {:.0}k | {:.0}k | {:.0}k | {} | {} | {} |",
        ours.median() / 1e3,
        crossbeam.median() / 1e3,
        locked.median() / 1e3,
        ratio(ours, crossbeam),
        ratio(ours, locked),
        ours.0.len(),
    );
}

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wants = |what: &str| wanted.is_empty() || wanted.iter().any(|arg| arg == what);
    let keys = make_keys();
    if wants("memory") {
        memory(&keys);
    }
    println!(
        "| 1M keys of 20 B, values of 100 B | threads | isolith/s | crossbeam/s | BTreeMap/s | \
         isolith : crossbeam [95 %] | isolith : BTreeMap [95 %] | rounds |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    // The maps are filled in any case; filled in turns, that is the measure of inserts.
    let mut full = contenders();
    for threads in [1, 2] {
        if threads == 2 && !wants("insert") {
            break;
        }
        let chunks = 20;
        let chunk = KEYS / chunks;
        let mut rates: [Rates; 3] = Default::default();
        // Filled several times: a single fill has too few rounds for a narrow interval.
        for _ in 0..if wants("insert") { 3 } else { 1 } {
            full = contenders();
            let filled = rounds(&full, chunks, chunk, |contender, round| {
                let part = &keys[round * chunk..][..chunk];
                on_threads(threads, |thread| {
                    for key in part.iter().skip(thread).step_by(threads) {
                        contender.put(key, &VALUE);
                    }
                })
            });
            for (rates, filled) in rates.iter_mut().zip(filled) {
                rates.0.extend(filled.0);
            }
        }
        if wants("insert") {
            report("insert into an empty map, up to 1M", threads, &rates);
        }
    }
    for threads in [1, 2] {
        if wants("get") {
            let each = 60_000;
            let rates = rounds(&full, 15, each * threads, |contender, round| {
                on_threads(threads, |thread| {
                    let mut state = (round * 2 + thread) as u64;
                    let mut out = [0; VALUE_BYTES];
                    for _ in 0..each {
                        let key = &keys[next(&mut state) as usize % KEYS];
                        assert!(contender.get(key, &mut out), "{}", contender.name());
                        black_box(&mut out);
                    }
                })
            });
            report("get, uniform", threads, &rates);
        }
        if wants("miss") || wants("get") {
            let each = 60_000;
            let rates = rounds(&full, 15, each * threads, |contender, round| {
                on_threads(threads, |thread| {
                    let mut state = (round * 2 + thread) as u64;
                    let mut out = [0; VALUE_BYTES];
                    for _ in 0..each {
                        let mut key = keys[next(&mut state) as usize % KEYS];
                        key[19] ^= 64;
                        assert!(!contender.get(&key, &mut out), "{}", contender.name());
                    }
                })
            });
            report("get, absent", threads, &rates);
        }
        if wants("scan") {
            let each = 6_000;
            let rates = rounds(&full, 15, each * threads, |contender, round| {
                on_threads(threads, |thread| {
                    let mut state = (round * 2 + thread) as u64;
                    for _ in 0..each {
                        let key = &keys[next(&mut state) as usize % KEYS];
                        black_box(contender.scan(key));
                    }
                })
            });
            report("scan of 100", threads, &rates);
        }
        if wants("mixed") {
            let each = 60_000;
            let rates = rounds(&full, 15, each * threads, |contender, round| {
                on_threads(threads, |thread| {
                    let mut state = (round * 2 + thread) as u64;
                    let mut out = [0; VALUE_BYTES];
                    for _ in 0..each {
                        let random = next(&mut state) as usize;
                        let key = &keys[random % KEYS];
                        if random >> 40 & 1 == 0 {
                            contender.put(key, &VALUE);
                        } else {
                            assert!(contender.get(key, &mut out), "{}", contender.name());
                            black_box(&mut out);
                        }
                    }
                })
            });
            report("half gets, half overwrites", threads, &rates);
        }
    }
}

/// Fills each contender alone and prints what a key takes.
fn memory(keys: &[[u8; 20]]) {
    println!("| memory of 1M keys | bytes a key, as asked of the allocator |");
    println!("|---|---|");
    for (at, name) in ["isolith", "crossbeam-skiplist", "RwLock<BTreeMap>"].iter().enumerate() {
        // Relaxed, both: the counting part of the bench is single-threaded.
        LIVE_BYTES.store(0, Ordering::Relaxed);
        COUNTS.store(true, Ordering::Relaxed);
        let ours = Isolith::new();
        let crossbeam = Crossbeam(SkipMap::new());
        let locked = Locked(RwLock::new(BTreeMap::new()));
        let contender: &dyn Contender = [&ours as &dyn Contender, &crossbeam, &locked][at];
        for key in keys {
            contender.put(key, &VALUE);
        }
        for _ in 0..1000 {
            pin().flush();
        }
        // Relaxed, both: as above.
        COUNTS.store(false, Ordering::Relaxed);
        let live = LIVE_BYTES.load(Ordering::Relaxed);
        println!("| {name} | {:.1} |", live as f64 / KEYS as f64);
        if at == 0 {
            println!(
                "| of which isolith counts itself | {:.1} |",
                ours.memtable.bytes() as f64 / KEYS as f64
            );
        }
    }
    println!();
}
