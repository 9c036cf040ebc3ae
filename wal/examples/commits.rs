//! Durable commits per second by 1, 8, 32 and 128 threads, beside the raw rate of synced writes on
//! the same file system, measured in the same run.
//!
//! ```text
//! cargo run --release -p isolith-wal --example commits -- [DIRECTORY] [SECONDS] [DEPTHS] [THREADS]
//! ```
//!
//! DIRECTORY (default `.`) should be on the disk in question, not in memory; what is written there is
//! removed again. SECONDS (default 1) is for each figure. DEPTHS and THREADS are lists, `1,4` and
//! `1,8,32,128` by default.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use isolith_wal::{
    BLOCK_BYTES, Durability, IoBackend, IoBuffer, Log, LogOptions, Preparation, Reach, Record,
    Storage, open_storage,
};

const RECORD_BYTES: usize = 150;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".into());
    let seconds: f64 = arguments.next().map_or(Ok(1.0), |seconds| seconds.parse())?;
    let list =
        |text: Option<String>, default: &str| -> Result<Vec<usize>, std::num::ParseIntError> {
            text.as_deref().unwrap_or(default).split(',').map(str::parse).collect()
        };
    let depths = list(arguments.next(), "1,4")?;
    let threads = list(arguments.next(), "1,8,32,128")?;
    let time = Duration::from_secs_f64(seconds);

    println!("records of {RECORD_BYTES} bytes, one a commit, Durability::Sync; thousands a second");
    for backend in [IoBackend::Uring, IoBackend::Syscall] {
        let root = tempfile::tempdir_in(&directory)?;
        let (storage, choice) = match open_storage(root.path(), backend) {
            Ok(opened) => opened,
            Err(error) => {
                println!("\n{backend:?}: {error}");
                continue;
            }
        };
        println!("\n{choice:?}");
        let raw: Vec<_> = [1, 2, 4, 8]
            .map(|depth| Ok(format!("{depth}: {:.1}", raw_rate(&storage, depth, time)? / 1e3)))
            .into_iter()
            .collect::<Result<_, Box<dyn Error>>>()?;
        println!("raw synced 4 KiB writes, by writes in flight   {}", raw.join("   "));
        println!(
            "{:>5} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "depth",
            "threads",
            "commits",
            "batches",
            "a batch",
            "p50 µs",
            "p99 µs",
            "max µs",
            "cpu µs",
            "sleeps",
            "in flight"
        );
        for &depth in &depths {
            for &threads in &threads {
                commits(&directory, backend, depth, threads, time)?;
            }
        }
    }
    Ok(())
}

/// Synced writes a second with `depth` of them in flight, on a prepared file.
fn raw_rate(
    storage: &Arc<dyn Storage>,
    depth: usize,
    time: Duration,
) -> Result<f64, Box<dyn Error>> {
    const BLOCKS: usize = 4096;
    let path = Path::new("raw");
    let file = storage.create_new(path)?;
    file.write_at(0, &IoBuffer::zeroed(BLOCKS * BLOCK_BYTES))?;
    file.sync()?;
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut writes = 0;
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        let writers: Vec<_> = (0..depth)
            .map(|writer| {
                let (file, stop) = (&file, &stop);
                scope.spawn(move || -> Result<usize, std::io::Error> {
                    let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
                    let mut done = 0;
                    // Relaxed: a flag, no more.
                    while !stop.load(Ordering::Relaxed) {
                        let block = (done * depth + writer) % BLOCKS;
                        let write =
                            file.submit((block * BLOCK_BYTES) as u64, buffer, Reach::Stable);
                        let result;
                        (result, buffer) = write.wait();
                        result?;
                        done += 1;
                    }
                    Ok(done)
                })
            })
            .collect();
        std::thread::sleep(time);
        // Relaxed: a flag, no more.
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writes += writer.join().map_err(|_| "a writer panicked")??;
        }
        Ok(())
    })?;
    let rate = writes as f64 / start.elapsed().as_secs_f64();
    storage.remove(path)?;
    Ok(rate)
}

fn commits(
    directory: &str,
    backend: IoBackend,
    depth_max: usize,
    threads: usize,
    time: Duration,
) -> Result<(), Box<dyn Error>> {
    let root = tempfile::tempdir_in(directory)?;
    let (storage, _) = open_storage(root.path(), backend)?;
    let options = LogOptions { depth_max, ..LogOptions::default() };
    let opened = Log::open(storage, options, &mut |_, _| Ok(()))?;
    let log = &opened.log;
    let next = Mutex::new(opened.first_new);
    let stop = AtomicBool::new(false);
    let mut latencies = Vec::new();
    let mut elapsed = Duration::ZERO;
    let mut cpu = 0.0;
    std::thread::scope(|scope| -> Result<(), Box<dyn Error>> {
        scope.spawn(|| log.drive());
        scope.spawn(
            || {
                while !matches!(log.prepare(Duration::from_millis(100)), Preparation::Over) {}
            },
        );
        // The next segment is there before the clock starts.
        drop(log.reserve(1 << 20, Some(Duration::from_secs(60)))?);
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        let committers: Vec<_> = (0..threads)
            .map(|_| {
                let (next, stop) = (&next, &stop);
                scope.spawn(move || {
                    let mut latencies: Vec<u32> = Vec::new();
                    // Relaxed: a flag, no more.
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let record = Record::from(vec![7; RECORD_BYTES]);
                        let credit = log.reserve(RECORD_BYTES, Some(Duration::from_secs(10)));
                        let credit = credit.expect("the disk has room");
                        let lsn = {
                            let mut next = next.lock().expect("nobody panicked");
                            let lsn = *next;
                            log.append(lsn, record, Durability::Sync, credit);
                            *next = lsn.next();
                            lsn
                        };
                        log.wait(lsn, Durability::Sync).expect("the disk works");
                        latencies.push(begun.elapsed().as_micros() as u32);
                    }
                    latencies
                })
            })
            .collect();
        std::thread::sleep(time);
        // Relaxed: a flag, no more.
        stop.store(true, Ordering::Relaxed);
        for committer in committers {
            latencies.extend(committer.join().map_err(|_| "a committer panicked")?);
        }
        elapsed = start.elapsed();
        cpu = cpu_seconds() - cpu_start;
        log.shutdown()?;
        Ok(())
    })?;
    latencies.sort_unstable();
    let stats = log.stats();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!(
        "{depth_max:>5} {threads:>7} {:>9.1} {:>9.1} {:>9.1} {:>9} {:>9} {:>9} {:>9.1} {:>9.2} {:>9}",
        latencies.len() as f64 / elapsed.as_secs_f64() / 1e3,
        stats.batches as f64 / elapsed.as_secs_f64() / 1e3,
        stats.records as f64 / stats.batches as f64,
        at(0.5),
        at(0.99),
        at(1.0),
        cpu * 1e6 / latencies.len() as f64,
        stats.sleeps as f64 / stats.records as f64,
        stats.in_flight_max,
    );
    Ok(())
}

/// What this process has used, in user and kernel mode, in steps of 10 ms; 0 where it is not told.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
