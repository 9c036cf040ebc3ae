//! A fixed number of read-modify-write transactions by one thread, for counting instructions and for
//! comparing two versions of the engine: it uses nothing but what the first version had.
//!
//! ```text
//! cargo bench -p isolith-bench --bench commits -- 200000
//! valgrind --tool=callgrind target/release/deps/commits-* 20000      # and 40000: the difference counts
//! ```

use std::hint::black_box;
use std::time::Instant;

use isolith::Builder;

const KEYS: u64 = 1000;

fn main() {
    let count: u64 =
        std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(200_000);
    // Without threads of the engine, whose instructions would be counted, too.
    let database = Builder::in_memory().threads(false).open().expect("a database");
    let keyspace = database.keyspace("counters").expect("a keyspace");
    let key = |number: u64| (number % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    for number in 0..KEYS {
        keyspace.put(key(number), [7; 100]).expect("a put");
    }
    let start = Instant::now();
    for number in 0..count {
        let (first, second) = (key(number * 7), key(number * 13 + 1));
        database
            .transact(|tx| {
                black_box(tx.get(&keyspace, first)?);
                black_box(tx.get(&keyspace, second)?);
                tx.put(&keyspace, first, [8; 100])?;
                tx.put(&keyspace, second, [9; 100])
            })
            .expect("a commit");
    }
    let nanos = start.elapsed().as_nanos() as f64 / count.max(1) as f64;
    println!("{count} transactions of two reads and two writes: {nanos:.0} ns each");
}
