//! Data of many times the memory budget: loaded, read, scanned, overwritten, reopened, on real files; with
//! the process's own memory beside the budget all the while.
//!
//! ```text
//! cargo bench -p isolith-bench --bench outgrow                         # 64 MiB of memory, 640 MiB of data
//! cargo bench -p isolith-bench --bench outgrow -- 512 5120             # 512 MiB, 5 GiB: ten minutes or so
//! ISOLITH_BENCH_DIR=/some/disk cargo bench … -- 512 5120               # on that file system
//! ```
//!
//! Memory is what the system says that the process has for itself (`RssAnon`): pages that are mapped from
//! files belong to the system, which takes them back when it wants them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isolith::{Database, Durability, Keyspace};
use isolith_bench::scratch::Scratch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VALUE_BYTES: usize = 100;
const KEY_BYTES: usize = 16;
/// Puts in one transaction.
const BATCH: u64 = 1000;
/// How long reads are measured.
const READING: Duration = Duration::from_secs(5);

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (memory, data) = match numbers[..] {
        [memory, data, ..] => (memory << 20, data << 20),
        _ => (64 << 20, 640 << 20),
    };
    let keys = data / (KEY_BYTES + VALUE_BYTES) as u64;
    let scratch = Scratch::new("outgrow");
    let open = || {
        let started = Instant::now();
        let builder = Database::builder(scratch.path()).memory(memory);
        let db = builder.durability(Durability::Buffered).open().expect("it opens");
        (db, started.elapsed())
    };
    let peak = Peak::default();
    std::thread::scope(|scope| {
        scope.spawn(|| peak.watch());
        let (db, _) = open();
        let data = db.keyspace("data").expect("made");
        println!("{keys} records, {} MiB of memory\n", memory >> 20);
        println!("| step | seconds | a second | most memory, MiB | on disk, MiB |");
        println!("|---|---|---|---|---|");
        let row = |step: &str, seconds: f64, count: u64, db: &Database| {
            let files = db.stats().files.map_or(0, |files| files.bytes);
            let rate = count as f64 / seconds;
            let (peak, disk) = (peak.take() >> 20, files >> 20);
            println!("| {step} | {seconds:.1} | {rate:.0} | {peak} | {disk} |");
        };
        let (seconds, ()) = timed(|| write_all(&db, &data, keys, 0));
        row("load, random order", seconds, keys, &db);
        let (seconds, count) = timed(|| read_for(&data, keys, READING));
        row("random reads", seconds, count, &db);
        let (seconds, count) = timed(|| scan_for(&data, keys, READING));
        row("scans of 100", seconds, count, &db);
        let (seconds, ()) = timed(|| write_all(&db, &data, keys, 1));
        row("overwrite everything", seconds, keys, &db);
        let (seconds, ()) = timed(|| settle(&db));
        row("until compaction has nothing to do", seconds, 1, &db);
        println!("{:?}", db.stats().files);
        let (seconds, count) = timed(|| check_all(&data, keys, 1));
        row("a scan of everything, checked", seconds, count, &db);
        let (seconds, ()) = timed(|| db.close().expect("closed"));
        row("close", seconds, 1, &db);
        drop((data, db));
        let (db, opened) = open();
        println!("\nopened in {:.1} ms", opened.as_secs_f64() * 1e3);
        let data = db.keyspace("data").expect("there");
        let (_, count) = timed(|| check_all(&data, keys, 1));
        assert_eq!(count, keys, "nothing is lost");
        peak.stop();
    });
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = Instant::now();
    let result = work();
    (started.elapsed().as_secs_f64(), result)
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// The keys are 0 to `keys` scattered over all keys there can be, by an odd factor: each has its own.
fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'k'; KEY_BYTES];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

/// Half of the bytes can be compressed.
fn value(number: u64, generation: u64) -> [u8; VALUE_BYTES] {
    let mut value = [b'v'; VALUE_BYTES];
    let mut random = number ^ generation << 60 ^ 0x5eed_0000_1234_5678;
    for chunk in value[..VALUE_BYTES / 2].chunks_mut(8) {
        let bytes = next(&mut random).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
    value
}

fn write_all(db: &Database, data: &Keyspace, keys: u64, generation: u64) {
    for batch in 0..keys.div_ceil(BATCH) {
        let mut transaction = db.begin().expect("open");
        for number in batch * BATCH..((batch + 1) * BATCH).min(keys) {
            transaction.put(data, key(number), value(number, generation)).expect("put");
        }
        transaction.commit().expect("committed");
    }
}

fn read_for(data: &Keyspace, keys: u64, length: Duration) -> u64 {
    let (started, mut random, mut count) = (Instant::now(), 0x1234_5678_9abc_def1, 0);
    while started.elapsed() < length {
        for _ in 0..100 {
            let number = next(&mut random) % keys;
            let found = data.get(key(number)).expect("readable").expect("there");
            assert_eq!(*found, value(number, 0), "{number}");
            count += 1;
        }
    }
    count
}

fn scan_for(data: &Keyspace, keys: u64, length: Duration) -> u64 {
    let (started, mut random, mut count) = (Instant::now(), 0x1234_5678_9abc_def1, 0);
    while started.elapsed() < length {
        let from = key(next(&mut random) % keys);
        let scan = data.range(&from[..]..).take(100);
        scan.for_each(|pair| assert_eq!(pair.expect("readable").1.len(), VALUE_BYTES));
        count += 1;
    }
    count
}

/// Every key is there, with the value of this generation; how many there are.
fn check_all(data: &Keyspace, keys: u64, generation: u64) -> u64 {
    // The inverse of the factor that scatters the keys, so that a key tells its number.
    let inverse = (0..6).fold(0x9e37_79b9_7f4a_7c15_u64, |inverse: u64, _| {
        let product = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(inverse);
        inverse.wrapping_mul(2_u64.wrapping_sub(product))
    });
    let mut count = 0;
    for pair in data.range(..) {
        let (key, found) = pair.expect("readable");
        let (scattered, _) = key.split_first_chunk::<8>().expect("a key of ours");
        let number = u64::from_be_bytes(*scattered).wrapping_mul(inverse);
        assert!(number < keys, "a key that nobody wrote");
        assert_eq!(*found, value(number, generation), "{number}");
        count += 1;
    }
    assert_eq!(count, keys, "nothing is lost");
    count
}

fn settle(db: &Database) {
    let done = || db.stats().files.map(|files| (files.flushes, files.compactions, files.frozen));
    let (mut last, mut quiet) = (done(), 0);
    // A compaction may take some seconds.
    while quiet < 10 {
        std::thread::sleep(Duration::from_secs(1));
        let now = done();
        quiet = if now == last { quiet + 1 } else { 0 };
        last = now;
    }
}

/// The most anonymous memory that the process has had.
#[derive(Default)]
struct Peak {
    bytes: AtomicU64,
    over: AtomicBool,
}

impl Peak {
    fn watch(&self) {
        // Relaxed, all: figures for people.
        while !self.over.load(Ordering::Relaxed) {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            self.bytes.fetch_max(kib.unwrap_or(0) << 10, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn take(&self) -> u64 {
        // Relaxed: see `watch`.
        self.bytes.swap(0, Ordering::Relaxed)
    }

    fn stop(&self) {
        // Relaxed: see `watch`.
        self.over.store(true, Ordering::Relaxed);
    }
}
