//! Large values beside their keys, and apart from them: what is written, what is taken on disk, how fast they
//! are read.
//!
//! ```text
//! cargo bench -p isolith-bench --bench large_values                    # values of 16 KiB, 128 MiB of them
//! cargo bench -p isolith-bench --bench large_values -- 1 128           # of 1 KiB, 128 MiB
//! ```
//!
//! (Numbers are powers of two.) Values are noise, so that LZ4 saves nothing. They are put in random order, and then all of them again, in
//! other orders, twice. 32 MiB of memory, `Durability::Buffered`.

use std::time::{Duration, Instant};

use isolith::{Database, Durability, Keyspace};
use isolith_bench::scratch::Scratch;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of memory.
const MEMORY: u64 = 32 << 20;
/// Rounds of writing everything.
const ROUNDS: u64 = 3;
/// Reads that are timed at a time, and how often, in turns.
const READS: u64 = 4_000;
const TURNS: u64 = 11;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let (value, data) = match numbers[..] {
        [value, data, ..] => (value << 10, data << 20),
        _ => (16 << 10, 128 << 20),
    };
    let keys = (data / value).next_power_of_two();
    println!("{keys} values of {value} bytes, written {ROUNDS} times\n");
    println!("| values | seconds | write amplification | on disk : live | moved, MiB |");
    println!("|---|---|---|---|---|");
    let beside = Written::new("beside", 0, keys, value);
    let apart = Written::new("apart", 1 << 10, keys, value);
    let (mut gets, mut scans) = (Vec::new(), Vec::new());
    for turn in 0..TURNS {
        gets.push((beside.gets(turn, keys), apart.gets(turn, keys)));
        scans.push((beside.scan(), apart.scan()));
    }
    println!("\n| read | beside | apart | apart : beside |");
    println!("|---|---|---|---|");
    for (what, mut pairs) in [("gets a second", gets), ("values scanned a second", scans)] {
        pairs.sort_by(|left, right| (left.1 / left.0).total_cmp(&(right.1 / right.0)));
        let (low, high) = (pairs[1], pairs[pairs.len() - 2]);
        let (beside, apart) = pairs[pairs.len() / 2];
        let ratio = |(beside, apart): (f64, f64)| apart / beside;
        println!(
            "| {what} | {beside:.0} | {apart:.0} | {:.2} [{:.2}, {:.2}] |",
            apart / beside,
            ratio(low),
            ratio(high)
        );
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn key(number: u64) -> [u8; 8] {
    mixed(number).to_be_bytes()
}

/// A database whose values were all written several times, at rest.
struct Written {
    data: Keyspace,
    _db: Database,
    _scratch: Scratch,
}

impl Written {
    fn new(name: &str, large: usize, keys: u64, value: u64) -> Written {
        let scratch = Scratch::new(name);
        let builder = Database::builder(scratch.path()).memory(MEMORY).large_values(large);
        let db = builder.durability(Durability::Buffered).open().expect("it opens");
        let data = db.keyspace("data").expect("made");
        let began = Instant::now();
        let mut bytes = vec![0; value as usize];
        for round in 0..ROUNDS {
            for step in 0..keys {
                // Another order each time: an odd number has no factor with a power of two.
                let number = (step * (2 * round + 0x9e37) + round) % keys;
                let noise = bytes.chunks_exact_mut(8).enumerate();
                noise.for_each(|(at, word)| {
                    word.copy_from_slice(
                        &mixed(step << 32 | round << 24 | at as u64).to_le_bytes(),
                    );
                });
                data.put(key(number), &bytes).expect("put");
            }
        }
        db.flush().expect("flushed");
        let seconds = began.elapsed().as_secs_f64();
        at_rest(&db);
        let files = db.stats().files.expect("files");
        let live = (data.len().expect("counted") as u64 * value) as f64;
        println!(
            "| {name} | {seconds:.1} | {:.2} | {:.2} | {} |",
            files.write_amplification(),
            (files.bytes + files.value_bytes) as f64 / live,
            files.moved_bytes >> 20
        );
        Written { data, _db: db, _scratch: scratch }
    }

    /// Random reads a second.
    fn gets(&self, turn: u64, keys: u64) -> f64 {
        let began = Instant::now();
        let mut found = 0;
        for read in 0..READS {
            let number = mixed(turn * READS + read) % keys;
            let read = self.data.get_with(key(number), |value| value.len()).expect("read");
            found += usize::from(read.is_some());
        }
        assert!(found > 0, "something is there");
        READS as f64 / began.elapsed().as_secs_f64()
    }

    /// Values a second of a scan over everything.
    fn scan(&self) -> f64 {
        let began = Instant::now();
        let (count, bytes) = self.data.range(..).fold((0u64, 0), |(count, bytes), pair| {
            (count + 1, bytes + pair.expect("read").1.len())
        });
        assert!(bytes > 0, "something is there");
        count as f64 / began.elapsed().as_secs_f64()
    }
}

/// Waits until nothing is compacted any more.
fn at_rest(db: &Database) {
    let compactions = || db.stats().files.map_or(0, |files| files.compactions);
    let mut seen = compactions();
    loop {
        std::thread::sleep(Duration::from_millis(1_000));
        let now = compactions();
        if std::mem::replace(&mut seen, now) == now {
            return;
        }
    }
}
