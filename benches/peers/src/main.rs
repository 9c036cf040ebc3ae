//! isolith beside other embedded engines: the same records, the same driver, rounds in turn.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- [load] [read] [space] [open]
//!     [--rounds 11] [--records 1000000] [--memory-mib 64] [--turn-ms 200]
//! ```
//!
//! Records have keys of 16 bytes and values of 100, half of which is noise. In every round each engine has
//! a turn, and the order moves on with the rounds; what is compared are the turns of a round
//! ([`isolith_bench::paired`]). Processor time is the whole process's, the engines' threads included; the
//! resting engine's threads are idle.
//!
//! * `load`: into an empty database, from the first record to all being durable; sorted, and not.
//! * `read`: random gets and scans of 100 records, from compacted files, with data of half and of four times
//!   the memory.
//! * `space`: what the directory takes after a load and an overwriting of every record: at rest, after a
//!   compaction, and after a clean close.
//! * `open`: a cleanly closed database, from the call to the first record read.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use isolith_bench::paired::{Rates, interval, median, ratio};
use isolith_bench::scratch::Scratch;
use isolith_bench::zipf::Random;
use rustix::time::{ClockId, clock_gettime};

#[cfg(feature = "fjall")]
mod fjall_peer;
mod isolith_peer;
mod peer;

use peer::{Key, Open, Peer, Value};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The engines: ours first.
const ENGINES: &[(&str, Open)] = &[
    ("isolith", isolith_peer::open),
    #[cfg(feature = "fjall")]
    ("fjall", fjall_peer::open),
];

struct Options {
    parts: Vec<String>,
    only: Option<String>,
    rounds: usize,
    records: u64,
    memory_bytes: u64,
    turn: Duration,
}

impl Options {
    fn parse() -> Options {
        let mut options = Options {
            parts: Vec::new(),
            only: None,
            rounds: 11,
            records: 1_000_000,
            memory_bytes: 64 << 20,
            turn: Duration::from_millis(200),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut number = || -> u64 {
                let word = arguments.next().unwrap_or_default();
                word.parse().unwrap_or_else(|_| panic!("{argument} takes a number"))
            };
            match &*argument {
                "--rounds" => options.rounds = number() as usize,
                "--records" => options.records = number(),
                "--memory-mib" => options.memory_bytes = number() << 20,
                "--turn-ms" => options.turn = Duration::from_millis(number()),
                "--only" => options.only = arguments.next(),
                "load" | "read" | "space" | "open" => options.parts.push(argument),
                _ => panic!("{argument}: not an argument; see the head of main.rs"),
            }
        }
        options
    }

    fn has(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|known| known == part)
    }

    fn engines(&self) -> Vec<(&'static str, Open)> {
        let wanted = |name: &str| self.only.as_deref().is_none_or(|only| only == name);
        ENGINES.iter().copied().filter(|(name, _)| wanted(name)).collect()
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn key(number: u64) -> Key {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mixed(number).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Half of it is noise; another `era` has another value for every key.
fn value(number: u64, era: u64) -> Value {
    let mut value = [b'v'; 100];
    for (at, word) in value[..50].chunks_mut(8).enumerate() {
        let noise = mixed(number.wrapping_mul(31).wrapping_add(at as u64) ^ (era << 56));
        word.copy_from_slice(&noise.to_le_bytes()[..word.len()]);
    }
    value
}

fn record(number: u64, era: u64) -> (Key, Value) {
    (key(number), value(number, era))
}

/// Bytes of a record as it is given.
const RECORD_BYTES: u64 = 116;

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Turns of each engine, and what they say together.
struct Table {
    name: String,
    engines: Vec<&'static str>,
    rates: Vec<Rates>,
    /// Microseconds of processor time for each operation.
    cpu: Vec<Vec<f64>>,
}

impl Table {
    fn new(name: impl Into<String>, engines: &[(&'static str, Open)]) -> Table {
        Table {
            name: name.into(),
            engines: engines.iter().map(|(name, _)| *name).collect(),
            rates: vec![Rates::default(); engines.len()],
            cpu: vec![Vec::new(); engines.len()],
        }
    }

    /// Notes a turn of an engine: so many operations.
    fn turn(&mut self, engine: usize, run: impl FnOnce() -> u64) {
        let (cpu, began) = (cpu_time(), Instant::now());
        let operations = run();
        let elapsed = began.elapsed();
        let cpu = cpu_time().saturating_sub(cpu);
        self.rates[engine].push(operations as usize, elapsed);
        self.cpu[engine].push(cpu.as_secs_f64() * 1e6 / operations as f64);
    }

    /// Prints a line for each engine: rate, processor time, and how much faster the first one is.
    fn print(&self) {
        for (engine, name) in self.engines.iter().enumerate() {
            let (rates, cpu) = (&self.rates[engine], &self.cpu[engine]);
            let beside = |of: &dyn Fn() -> String| if engine > 0 { of() } else { "-".into() };
            let faster = beside(&|| match rates.0.len() {
                0..6 => format!("{:.2}", self.rates[0].median() / rates.median()),
                _ => ratio(&self.rates[0], rates).to_string(),
            });
            let cheaper = beside(&|| {
                let ratios: Vec<f64> = cpu.iter().zip(&self.cpu[0]).map(|(a, b)| a / b).collect();
                interval(&ratios).map_or_else(
                    || format!("{:.2}", median(&ratios)),
                    |interval| interval.to_string(),
                )
            });
            println!(
                "| {} | {name} | {:.0} | {:.3} | {faster} | {cheaper} |",
                self.name,
                rates.median(),
                median(cpu)
            );
        }
    }
}

/// The engines' numbers in the order of a round.
fn order(round: usize, engines: usize) -> impl Iterator<Item = usize> {
    (0..engines).map(move |turn| (turn + round) % engines)
}

fn remove(directory: &Path) {
    let _ = std::fs::remove_dir_all(directory);
}

fn load(options: &Options, scratch: &Path) {
    let engines = options.engines();
    let mut sorted: Vec<u64> = (0..options.records).collect();
    sorted.sort_unstable_by_key(|number| mixed(*number));
    let mut tables = [Table::new("load, sorted", &engines), Table::new("load, unsorted", &engines)];
    for round in 0..options.rounds {
        for (which, table) in tables.iter_mut().enumerate() {
            for engine in order(round, engines.len()) {
                let directory = scratch.join("load");
                let peer = engines[engine].1(&directory, options.memory_bytes);
                table.turn(engine, || {
                    match which {
                        0 => peer.load_sorted(&mut sorted.iter().map(|n| record(*n, 0))),
                        _ => peer.load(&mut (0..options.records).map(|n| record(n, 0))),
                    }
                    options.records
                });
                assert_eq!(peer.get(&key(options.records / 2)), Some(100), "it was loaded");
                peer.close();
                remove(&directory);
            }
        }
    }
    tables.iter().for_each(Table::print);
}

/// Does something over and over for about a turn.
fn repeat(length: Duration, mut run: impl FnMut()) -> u64 {
    let began = Instant::now();
    let mut times = 0;
    while began.elapsed() < length {
        for _ in 0..64 {
            run();
        }
        times += 64;
    }
    times
}

fn read(options: &Options, scratch: &Path) {
    for (what, halves) in [("0.5", 1), ("4", 8)] {
        let records = halves * options.memory_bytes / 2 / RECORD_BYTES;
        let engines = options.engines();
        let directory = |name: &str| scratch.join(format!("read-{name}"));
        let peers: Vec<Box<dyn Peer>> = engines
            .iter()
            .map(|(name, open)| {
                let peer = open(&directory(name), options.memory_bytes);
                peer.load(&mut (0..records).map(|n| record(n, 0)));
                peer.settle();
                peer.rest();
                peer
            })
            .collect();
        let mut gets = Table::new(format!("get, data {what} x memory"), &engines);
        let mut scans = Table::new(format!("scan of 100, data {what} x memory"), &engines);
        // The first rounds warm the caches, and are not counted.
        for round in 0..options.rounds + 2 {
            let mut warming = [Table::new("", &engines), Table::new("", &engines)];
            let (gets, scans) = match round {
                0 | 1 => {
                    let [gets, scans] = &mut warming;
                    (gets, scans)
                }
                _ => (&mut gets, &mut scans),
            };
            for engine in order(round, engines.len()) {
                let (peer, mut random) = (&peers[engine], Random::new(round as u64));
                gets.turn(engine, || {
                    repeat(options.turn, || {
                        let found = peer.get(&key(random.next() % records));
                        assert_eq!(black_box(found), Some(100), "every key is there");
                    })
                });
            }
            for engine in order(round, engines.len()) {
                let (peer, mut random) = (&peers[engine], Random::new(round as u64));
                scans.turn(engine, || {
                    repeat(options.turn, || {
                        black_box(peer.scan(&key(random.next() % records), 100));
                    })
                });
            }
        }
        gets.print();
        scans.print();
        drop(peers);
        engines.iter().for_each(|(name, _)| remove(&directory(name)));
    }
}

/// Bytes that a directory's files take on the disk.
fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
            Ok(metadata) => 512 * metadata.blocks(),
            Err(_) => 0,
        })
        .sum()
}

fn space(options: &Options, scratch: &Path) {
    for (name, open) in options.engines() {
        let directory = scratch.join("space");
        let mebibytes = || disk_bytes(&directory) as f64 / f64::from(1 << 20);
        let peer = open(&directory, options.memory_bytes);
        peer.load(&mut (0..options.records).map(|n| record(n, 0)));
        peer.settle();
        peer.rest();
        let once = mebibytes();
        // In another order than the one before.
        let again = |n: u64| record(options.records - 1 - n, 1);
        peer.load(&mut (0..options.records).map(again));
        peer.rest();
        let rest = mebibytes();
        peer.settle();
        peer.rest();
        let settled = mebibytes();
        peer.close();
        let closed = mebibytes();
        println!(
            "| space, MiB | {name} | once {once:.1} | overwritten, at rest {rest:.1} | \
             compacted {settled:.1} | closed {closed:.1} |"
        );
        remove(&directory);
    }
}

fn reopen(options: &Options, scratch: &Path) {
    let engines = options.engines();
    let directories: Vec<PathBuf> =
        engines.iter().map(|(name, _)| scratch.join(format!("open-{name}"))).collect();
    for (engine, (_, open)) in engines.iter().enumerate() {
        let peer = open(&directories[engine], options.memory_bytes);
        peer.load(&mut (0..options.records).map(|n| record(n, 0)));
        peer.rest();
        peer.close();
    }
    let mut table = Table::new("opens/s", &engines);
    for round in 0..options.rounds {
        for engine in order(round, engines.len()) {
            let mut opened = None;
            table.turn(engine, || {
                let peer = engines[engine].1(&directories[engine], options.memory_bytes);
                let found = peer.get(&key(round as u64));
                assert_eq!(found, Some(100), "it was loaded");
                opened = Some(peer);
                1
            });
            if let Some(peer) = opened {
                peer.close();
            }
        }
    }
    table.print();
    directories.iter().for_each(|directory| remove(directory));
}

fn main() {
    let options = Options::parse();
    let scratch = Scratch::new("peers");
    println!(
        "| what | engine | operations/s | CPU us each | isolith is faster by | and cheaper by |"
    );
    println!("|---|---|---|---|---|---|");
    let run = |part: &str, run: fn(&Options, &Path)| {
        if options.has(part) {
            run(&options, scratch.path());
        }
    };
    run("load", load);
    run("read", read);
    run("space", space);
    run("open", reopen);
}
