//! The engine's figures, each beside a baseline of the same run.
//!
//! ```text
//! cargo bench -p isolith-bench --bench engine                  # everything, some minutes
//! cargo bench -p isolith-bench --bench engine -- sync          # one part: points, buffered, sync, replay
//! ISOLITH_BENCH_DIR=/some/disk cargo bench … -- sync           # files on that file system
//! ```
//!
//! - `points`: reads of existing keys through `Keyspace::get`, 1 and 2 threads.
//! - `buffered`: `Buffered` puts by 1 and 2 threads, combining beside serial commits.
//! - `sync`: `Sync` puts by 1, 8, 32 and 128 threads, and in the same run the raw rate of 4 KiB
//!   writes made durable one at a time on the same file system (a prepared file, `O_DIRECT` and
//!   `RWF_DSYNC`): what one writer without group commit can reach at most.
//! - `replay`: opening a database that was not closed, in MB of log per second.

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use isolith::storage::syscall::SyscallStorage;
use isolith::storage::{BLOCK_BYTES, IoBuffer, Reach, Storage};
use isolith::{CommitMode, Database, Durability, Keyspace};
use isolith_bench::contention::key;
use isolith_bench::scratch::Scratch;

const KEYS: u64 = 1_000_000;
const VALUE: [u8; 100] = [7; 100];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|w| w == part);
    let directory = Scratch::new("engine");
    if wants("points") {
        points();
    }
    if wants("buffered") {
        buffered(directory.path());
    }
    if wants("sync") {
        sync(directory.path());
    }
    if wants("replay") {
        replay(directory.path());
    }
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Runs `work` in `threads` threads for a while; operations per second of all together.
fn rate(threads: u64, length: Duration, work: impl Fn(u64, &mut u64) + Sync) -> f64 {
    let (stop, total) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (stop, total, work) = (&stop, &total, &work);
            scope.spawn(move || {
                let mut random = 0x1234_5678_9abc_def1 ^ (thread + 1) << 32;
                let mut done = 0;
                // Relaxed: a late look costs one more operation.
                while !stop.load(Ordering::Relaxed) {
                    work(thread, &mut random);
                    done += 1;
                }
                // Relaxed: the end of the scope orders it before the sum is read.
                total.fetch_add(done, Ordering::Relaxed);
            });
        }
        std::thread::sleep(length);
        // Relaxed: see above.
        stop.store(true, Ordering::Relaxed);
    });
    // Relaxed: all threads have ended.
    total.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// Median, first and last of a few measurements, in thousands per second.
fn spread(mut rates: Vec<f64>) -> String {
    rates.sort_unstable_by(f64::total_cmp);
    let thousand = |rate: f64| rate / 1000.0;
    format!(
        "{:9.1} k/s  ({:.1} to {:.1}, {} runs)",
        thousand(rates[rates.len() / 2]),
        thousand(rates[0]),
        thousand(rates[rates.len() - 1]),
        rates.len()
    )
}

fn load(keyspace: &Keyspace) {
    for number in 0..KEYS {
        keyspace.put(key(number), VALUE).expect("a put");
    }
}

fn points() {
    let db = Database::in_memory();
    let keyspace = db.keyspace("bench").expect("a keyspace");
    load(&keyspace);
    println!("points: Keyspace::get over {KEYS} keys of 20 bytes, values of 100 bytes");
    for threads in [1, 2] {
        let run = || {
            rate(threads, Duration::from_millis(700), |_, random| {
                black_box(keyspace.get(key(next(random) % KEYS)).expect("a read"));
            })
        };
        println!("  {threads} thread(s)  {}", spread((0..11).map(|_| run()).collect()));
    }
}

fn buffered(directory: &Path) {
    println!("buffered: Buffered puts over 1000 keys, 100 bytes of value, in the log's buffer");
    for threads in [1, 2] {
        let mut rates = [Vec::new(), Vec::new()];
        for run in 0..11 {
            for (mode, rates) in
                [CommitMode::Combining, CommitMode::Serial].into_iter().zip(&mut rates)
            {
                let path = directory.join(format!("buffered-{threads}-{run}-{mode:?}"));
                let builder = Database::builder(&path).durability(Durability::Buffered);
                let db = builder.commit_mode(mode).open().expect("a database");
                let keyspace = db.keyspace("bench").expect("a keyspace");
                rates.push(rate(threads, Duration::from_millis(500), |_, random| {
                    keyspace.put(key(next(random) % 1000), VALUE).expect("a put");
                }));
                drop((keyspace, db));
                let _ = std::fs::remove_dir_all(path);
            }
        }
        let mut ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let [combining, serial] = rates;
        println!("  {threads} thread(s), combining  {}", spread(combining));
        println!("  {threads} thread(s), serial     {}", spread(serial));
        println!(
            "  {threads} thread(s), combining / serial, paired: median {:.2}, {:.2} to {:.2}",
            ratios[ratios.len() / 2],
            ratios[1],
            ratios[ratios.len() - 2]
        );
    }
}

/// Durable 4 KiB writes per second, one at a time, on a file that was written before.
fn raw_rate(directory: &Path) -> f64 {
    let storage = SyscallStorage::open(directory).expect("a storage");
    let name = Path::new("raw");
    let blocks = 4096;
    let file = storage.create_new(name).expect("a file");
    file.write_at(0, &vec![0; blocks * BLOCK_BYTES]).expect("room");
    file.sync().expect("a sync");
    let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
    let (start, mut writes) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_millis(700) {
        let offset = writes % blocks as u64 * BLOCK_BYTES as u64;
        let (result, back) = file.submit(offset, buffer, Reach::Stable).wait();
        result.expect("a write");
        buffer = back;
        writes += 1;
    }
    let rate = writes as f64 / start.elapsed().as_secs_f64();
    drop(file);
    storage.remove(name).expect("the file goes");
    rate
}

fn sync(directory: &Path) {
    let path = directory.join("sync");
    let db = Database::open(&path).expect("a database");
    let keyspace = db.keyspace("bench").expect("a keyspace");
    let backend = db.backend().map(ToString::to_string).unwrap_or_default();
    println!("sync: Sync puts, 100 bytes of value; the log is written by {backend}");
    let threads = [1, 8, 32, 128];
    let mut rates = vec![Vec::new(); threads.len()];
    let mut raw = Vec::new();
    for _ in 0..11 {
        raw.push(raw_rate(directory));
        for (&threads, rates) in threads.iter().zip(&mut rates) {
            rates.push(rate(threads, Duration::from_millis(700), |_, random| {
                keyspace.put(key(next(random) % 100_000), VALUE).expect("a put");
            }));
        }
    }
    println!("  raw 4 KiB writes, one at a time  {}", spread(raw.clone()));
    for (threads, rates) in threads.iter().zip(rates) {
        let mut ratios: Vec<f64> = rates.iter().zip(&raw).map(|(a, b)| a / b).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        println!(
            "  {threads:3} thread(s)  {}, {:.2} of raw ({:.2} to {:.2})",
            spread(rates),
            ratios[ratios.len() / 2],
            ratios[1],
            ratios[ratios.len() - 2]
        );
    }
}

/// Copies a directory, with what is below it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).expect("a copy");
        }
    }
}

fn replay(directory: &Path) {
    let (path, crashed) = (directory.join("replay"), directory.join("crashed"));
    let builder = Database::builder(&path).durability(Durability::Buffered).memory(4 << 30);
    let db = builder.open().expect("a database");
    load(&db.keyspace("bench").expect("a keyspace"));
    db.sync().expect("a sync");
    // As a crash at this moment leaves it: what is closed in order keeps nothing in the log.
    copy(&path, &crashed);
    drop(db);
    let mut times = Vec::new();
    let mut written = 0;
    for _ in 0..5 {
        let builder = Database::builder(&crashed).memory(4 << 30).read_only(true);
        let start = Instant::now();
        let db = builder.open().expect("a database");
        times.push(start.elapsed());
        let recovered = db.recovery().expect("it was not closed");
        assert!(recovered.records >= KEYS, "all of it is replayed: {recovered:?}");
        written = recovered.bytes;
    }
    times.sort_unstable();
    let median = times[times.len() / 2].as_secs_f64();
    println!(
        "replay: {KEYS} commits, {:.1} MB of batches: {median:.2} s, {:.0} MB/s, {:.0} k commits/s",
        written as f64 / 1e6,
        written as f64 / 1e6 / median,
        KEYS as f64 / 1e3 / median
    );
}
