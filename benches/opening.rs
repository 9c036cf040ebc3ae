//! How long it takes to open a database that was closed in order, or that was not.
//!
//! ```text
//! cargo bench -p isolith-bench --bench opening                          # 1 GiB of records
//! cargo bench -p isolith-bench --bench opening -- 10240 --rounds 11     # 10 GiB
//! cargo bench -p isolith-bench --bench opening -- 10240 --at /some/dir  # made there if need be, and left there
//! ```
//!
//! Records have keys of 16 bytes and values of 100, all of it noise, and are loaded in bulk; every record is
//! then on disk once. Some hundred thousand are overwritten, so that the log and the upper levels have something,
//! too. What is timed is `open`, and `open` with the first record read; the page cache is warm, but for the first
//! round. Every round ends with a write and a clean close.

use std::path::Path;
use std::time::{Duration, Instant};

use isolith::{BulkLoadOptions, Database, Durability};
use isolith_bench::scratch::Scratch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 100;
const MEMORY_BYTES: u64 = 256 << 20;

struct Options {
    records: u64,
    rounds: usize,
    at: Option<String>,
}

impl Options {
    fn parse() -> Options {
        let mut options = Options { records: 0, rounds: 11, at: None };
        let mut mebibytes = 1024;
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            match &*word {
                "--rounds" => {
                    let rounds = words.next().and_then(|word| word.parse().ok());
                    options.rounds = rounds.expect("a number of rounds");
                }
                "--at" => options.at = words.next(),
                number => mebibytes = number.parse().expect("MiB of records"),
            }
        }
        options.records = (mebibytes << 20) / (KEY_BYTES + VALUE_BYTES) as u64;
        options
    }
}

fn main() {
    let options = Options::parse();
    let scratch = options.at.is_none().then(|| Scratch::new("opening"));
    let path = match (&options.at, &scratch) {
        (Some(path), _) => Path::new(path),
        (None, Some(scratch)) => scratch.path(),
        (None, None) => return,
    };
    if !path.join("MANIFEST").exists() {
        make(path, options.records);
    }
    let mut opened: Vec<Duration> = Vec::new();
    let mut read: Vec<Duration> = Vec::new();
    for round in 0..options.rounds + 1 {
        let began = Instant::now();
        let db = open(path);
        let (open, number) = (began.elapsed(), round as u64 * 7919 % options.records);
        let data = db.keyspace("data").expect("there");
        let found = data.get(key(number)).expect("readable");
        assert_eq!(found.as_deref(), Some(&value(number)[..]), "it was loaded");
        let first = began.elapsed();
        if round == 0 {
            let files = db.stats().files.expect("a database on disk");
            println!("{} MiB in {} files", files.bytes >> 20, files.files);
        } else {
            opened.push(open);
            read.push(first);
        }
        data.put(key(number), value(number)).expect("put");
        db.close().expect("closed");
    }
    for (what, mut times) in [("open", opened), ("open and read a record", read)] {
        times.sort_unstable();
        let of = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let (middle, last) = (times.len() / 2, times.len().saturating_sub(1));
        println!("{what}: {:.1} ms (smallest {:.1}, largest {:.1})", of(middle), of(0), of(last));
    }
}

fn open(path: &Path) -> Database {
    let builder = Database::builder(path).memory(MEMORY_BYTES);
    builder.durability(Durability::Buffered).open().expect("it opens")
}

fn make(path: &Path, records: u64) {
    let db = open(path);
    let data = db.keyspace("data").expect("made");
    let mut load = data.bulk_load(BulkLoadOptions::default()).expect("begun");
    for number in 0..records {
        load.add(key(number), value(number)).expect("in order");
    }
    load.finish().expect("loaded");
    for batch in 0..200 {
        let numbers = (0..1000).map(|at| (batch * 1000 + at) * 7919 % records);
        db.transact(|tx| numbers.clone().try_for_each(|n| tx.put(&data, key(n), value(n))))
            .expect("overwritten");
    }
    drop(data);
    db.close().expect("closed");
}

/// In the order of the numbers.
fn key(number: u64) -> [u8; KEY_BYTES] {
    let mut key = [b'k'; KEY_BYTES];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key
}

/// Noise, the same for the same number.
fn value(number: u64) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    let mut random = number.wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1;
    for word in value.chunks_mut(8) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        word.copy_from_slice(&random.to_le_bytes()[..word.len()]);
    }
    value
}
