//! Transactions that fight for keys, in every mode, side by side.
//!
//! ```text
//! cargo bench -p isolith-bench --bench contention                           # everything, about four minutes
//! cargo bench -p isolith-bench --bench contention -- --parts sweep          # one part: rmw, sweep, reads
//! cargo bench -p isolith-bench --bench contention -- \
//!     --parts rmw --keys 1000 --threads 2,8 --modes optimistic,auto --rounds 11 --turn 150
//! ```
//!
//! - `rmw`: read-modify-write transactions of two keys, over few keys and many, by 1, 2 and 8 threads.
//! - `sweep`: the same over 1,000 keys that are drawn more and more unequally (Zipf), for `auto` beside
//!   the two that it chooses between; in short transactions and in long ones (`--works`), which then
//!   pause, and read sixty-two keys more, drawn evenly, before they write.
//! - `reads`: what a lock, and what a transaction, adds to a read of one of a million keys.
//!
//! `--reads for-update` reads what is going to be written by `get_for_update`; `--isolation LEVEL` asks
//! for another level than serializable; `--memory` leaves the log out. The databases are below
//! `ISOLITH_BENCH_DIR`, or else in the temporary directory, and are removed.
//!
//! After each table stand the ratios that say whether a promise is kept. A ratio is the median of the
//! rounds, with the interval in which it lies with 95 % confidence; "kept" and "broken" say that the
//! whole interval lies on one side.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use isolith::{Concurrency, DeadlockPolicy, Isolation, TransactionOptions};
use isolith_bench::contention::{Contender, Mode, Reads, Turn, Work, key};
use isolith_bench::paired::{Interval, interval, median};
use isolith_bench::scratch::Scratch;
use isolith_bench::zipf::{Random, Zipf};

// The server's choice: the system's allocator has threads wait for each other where one frees what
// another has allocated, and that would be measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OPTIMISTIC: Mode = Mode::Combining(Concurrency::Optimistic);
const LOCKING: Mode = Mode::Combining(Concurrency::Locking(DeadlockPolicy::WoundWait));
const AUTO: Mode = Mode::Combining(Concurrency::Auto);

/// What the command line asks for.
struct Wanted {
    parts: Vec<String>,
    keys: Vec<u64>,
    threads: Vec<usize>,
    modes: Vec<Mode>,
    thetas: Vec<f64>,
    works: Vec<String>,
    rounds: usize,
    turn: Duration,
    reads: Reads,
    isolation: Isolation,
    memory: bool,
}

impl Wanted {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let list = "optimistic,locking:wound-wait,locking:wait-die,locking:no-wait,\
                    locking:detect,auto,serial";
        let mut wanted = Self {
            parts: ["rmw", "sweep", "reads"].map(str::to_owned).to_vec(),
            keys: vec![10, 1_000, 1_000_000],
            threads: vec![1, 2, 8],
            modes: items(list)?,
            thetas: vec![0.0, 0.6, 0.9, 0.99, 1.2],
            works: ["short", "long"].map(str::to_owned).to_vec(),
            rounds: 11,
            turn: Duration::from_millis(100),
            reads: Reads::Plain,
            isolation: Isolation::Serializable,
            memory: false,
        };
        let mut arguments = arguments.filter(|argument| argument != "--bench");
        while let Some(flag) = arguments.next() {
            if flag == "--memory" {
                wanted.memory = true;
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{flag} wants a value"))?;
            match flag.as_str() {
                "--parts" => wanted.parts = items(&value)?,
                "--keys" => wanted.keys = items(&value.replace('_', ""))?,
                "--threads" => wanted.threads = items(&value)?,
                "--modes" => wanted.modes = items(&value)?,
                "--thetas" => wanted.thetas = items(&value)?,
                "--works" => wanted.works = items(&value)?,
                "--rounds" => wanted.rounds = item(&value)?,
                "--turn" => wanted.turn = Duration::from_millis(item(&value)?),
                "--isolation" => wanted.isolation = item(&value)?,
                "--reads" if value == "plain" => wanted.reads = Reads::Plain,
                "--reads" if value == "for-update" => wanted.reads = Reads::ForUpdate,
                _ => return Err(format!("{flag} {value} is not understood")),
            }
        }
        Ok(wanted)
    }
}

fn item<T: FromStr<Err: ToString>>(word: &str) -> Result<T, String> {
    word.parse().map_err(|error: T::Err| format!("{word}: {}", error.to_string()))
}

fn items<T: FromStr<Err: ToString>>(words: &str) -> Result<Vec<T>, String> {
    words.split(',').map(|word| item(word.trim())).collect()
}

fn main() {
    let wanted = match Wanted::parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("{error}; the flags stand in the head of benches/contention.rs");
            std::process::exit(2);
        }
    };
    let start = Instant::now();
    for part in &wanted.parts {
        match part.as_str() {
            "rmw" => rmw(&wanted),
            "sweep" => sweep(&wanted),
            "reads" => reads(&wanted),
            other => {
                eprintln!("there is no part {other}; there are rmw, sweep and reads");
                std::process::exit(2);
            }
        }
    }
    println!("\n{:.0} s", start.elapsed().as_secs_f64());
}

/// One contender for each mode, filled with the same keys.
fn contenders(wanted: &Wanted, modes: &[Mode], keys: u64, scratch: &Path) -> Vec<Contender> {
    let directory = |mode: &Mode| scratch.join(mode.to_string().replace(':', "-"));
    modes
        .iter()
        .map(|mode| {
            let directory = (!wanted.memory).then(|| directory(mode));
            Contender::new(*mode, keys, directory.as_deref())
        })
        .collect()
}

/// The turns of each row, round by round.
struct Rows<R>(BTreeMap<R, Vec<Turn>>);

impl<R: Ord + Copy> Rows<R> {
    fn median(&self, row: R, of: impl Fn(&Turn) -> f64) -> f64 {
        median(&self.0[&row].iter().map(of).collect::<Vec<_>>())
    }

    /// The ratios of the rates of two rows, round by round; `None` if one of them was not run, or too
    /// few rounds were.
    fn ratio(&self, ours: R, theirs: R) -> Option<Interval> {
        let (ours, theirs) = (self.0.get(&ours)?, self.0.get(&theirs)?);
        let ratios: Vec<_> = ours.iter().zip(theirs).map(|(a, b)| a.rate() / b.rate()).collect();
        interval(&ratios)
    }

    /// A row of the table.
    fn print(&self, row: R, name: &str, baseline: Option<Interval>) {
        let mut sum = Turn::none();
        for turn in &self.0[&row] {
            sum.add(turn);
        }
        let micros = |quantile| sum.latency.value_at_quantile(quantile) as f64 / 1000.0;
        let baseline = baseline.map_or_else(|| "-".to_owned(), |ratio| ratio.to_string());
        println!(
            "| {name} | {:.1}k | {baseline} | {:.1}k | {:.1} % | {:.1} | {:.1} | {:.0} | {:.2} |",
            self.median(row, Turn::rate) / 1000.0,
            self.median(row, Turn::aborts) / 1000.0,
            100.0 * sum.wasted(),
            micros(0.5),
            micros(0.99),
            micros(0.999),
            sum.cpu.as_secs_f64() * 1e6 / sum.commits.max(1) as f64,
        );
        if sum.failures > 0 {
            println!("  {} transactions were given up: a lock wait timed out", sum.failures);
        }
    }
}

fn table(columns: &str, baseline: &str) {
    println!(
        "| {columns} | committed/s | : {baseline} | aborts/s | wasted | p50 µs | p99 µs | p999 µs | \
         CPU µs a commit |"
    );
    println!("|{}", "---|".repeat(columns.split('|').count() + 8));
}

/// A promise about a ratio: at least, or at most, so much.
fn promise(name: &str, ratio: Option<Interval>, at_least: bool, bound: f64) {
    let Some(ratio) = ratio else { return };
    let (above, below) = (ratio.low >= bound, ratio.high <= bound);
    let verdict = match (above, below) {
        (true, _) if at_least => "kept",
        (_, true) if !at_least => "kept",
        (false, false) => "not told apart",
        _ => "BROKEN",
    };
    let side = if at_least { "at least" } else { "at most" };
    println!("{name}: {ratio}, to be {side} {bound}: {verdict}");
}

fn rmw(wanted: &Wanted) {
    println!("\nRead-modify-write of two keys, {}\n", setting(wanted));
    table("keys | threads | mode", "serial");
    let work = Work::short(wanted.reads);
    let mut promises = Vec::new();
    for &keys in &wanted.keys {
        let scratch = Scratch::new("contention");
        let mut contenders = contenders(wanted, &wanted.modes, keys, scratch.path());
        let draw = Zipf::new(keys, 0.0);
        let mut rows = Rows(BTreeMap::new());
        for round in 0..=wanted.rounds {
            for &threads in &wanted.threads {
                for place in 0..contenders.len() {
                    let at = (place + round) % contenders.len();
                    let options = contenders[at].options(wanted.isolation);
                    let turn = contenders[at].turn(threads, wanted.turn, options, work, &draw);
                    // The first round warms up.
                    if round > 0 {
                        rows.0.entry((threads, at)).or_default().push(turn);
                    }
                }
            }
        }
        contenders.iter().for_each(Contender::check);
        let serial = wanted.modes.iter().position(|mode| *mode == Mode::Serial);
        let optimistic = wanted.modes.iter().position(|mode| *mode == OPTIMISTIC);
        for &threads in &wanted.threads {
            for (at, mode) in wanted.modes.iter().enumerate() {
                let baseline = serial.and_then(|serial| {
                    rows.ratio((threads, at), (threads, serial)).filter(|_| serial != at)
                });
                rows.print((threads, at), &format!("{keys} | {threads} | {mode}"), baseline);
            }
        }
        for (at, mode) in wanted.modes.iter().enumerate() {
            let name = format!("{mode}, {keys} keys: 8 threads / 2 threads");
            promises.push((name, rows.ratio((8, at), (2, at)), 0.8));
        }
        for threads in [2, 8] {
            if let (Some(serial), Some(optimistic), 1000..) = (serial, optimistic, keys) {
                let name = format!("combining / serial, {keys} keys, {threads} threads");
                let ratio = rows.ratio((threads, optimistic), (threads, serial));
                promises.push((name, ratio, 1.0));
            }
        }
    }
    println!();
    for (name, ratio, bound) in promises {
        promise(&name, ratio, true, bound);
    }
}

fn setting(wanted: &Wanted) -> String {
    format!(
        "{}, {}, {} rounds of {} ms",
        wanted.isolation,
        if wanted.memory { "in memory" } else { "Buffered" },
        wanted.rounds,
        wanted.turn.as_millis()
    )
}

/// A point of the sweep: which work, theta, threads.
type Point = (usize, usize, usize);

fn sweep(wanted: &Wanted) {
    println!("\nOver 1,000 keys drawn unequally, {}", setting(wanted));
    println!("(long: before the writes a pause, and sixty-two reads of keys drawn evenly)\n");
    table("work | theta | threads | mode", "optimistic");
    let modes = [OPTIMISTIC, LOCKING, AUTO];
    let works = [("short", Work::short(wanted.reads)), ("long", Work::long(wanted.reads))];
    let works = works.iter().filter(|(name, _)| wanted.works.iter().any(|wanted| wanted == name));
    let works: Vec<_> = works.collect();
    let threads: Vec<usize> = wanted.threads.iter().copied().filter(|&n| n > 1).collect();
    let scratch = Scratch::new("contention");
    let mut contenders = contenders(wanted, &modes, 1000, scratch.path());
    let mut rows: Rows<(Point, usize)> = Rows(BTreeMap::new());
    let mut points = Vec::new();
    for (which, (name, work)) in works.iter().enumerate() {
        for (place, &theta) in wanted.thetas.iter().enumerate() {
            let draw = Zipf::new(1000, theta);
            // One number of threads after the other: `auto` learns, and what it learned of eight
            // threads is wrong for two.
            for &threads in &threads {
                for round in 0..=wanted.rounds {
                    for turn in 0..modes.len() {
                        let at = (turn + round) % modes.len();
                        let options = contenders[at].options(wanted.isolation);
                        let turn = contenders[at].turn(threads, wanted.turn, options, *work, &draw);
                        if round > 0 {
                            let row = ((which, place, threads), at);
                            rows.0.entry(row).or_default().push(turn);
                        }
                    }
                }
            }
            for &threads in &threads {
                let point = (which, place, threads);
                for (at, mode) in modes.iter().enumerate() {
                    let baseline = rows.ratio((point, at), (point, 0)).filter(|_| at != 0);
                    let name = format!("{name} | {theta} | {threads} | {mode}");
                    rows.print((point, at), &name, baseline);
                }
                points.push((point, format!("{name}, theta {theta}, {threads} threads")));
            }
        }
    }
    contenders.iter().for_each(Contender::check);
    println!();
    let (mut better_than_both, mut worse) = (0, 0);
    for (point, name) in points {
        let rate = |at| rows.median((point, at), Turn::rate);
        let better = if rate(0) >= rate(1) { 0 } else { 1 };
        let Some(ratio) = rows.ratio((point, 2), (point, better)) else { continue };
        let verdict = match ratio {
            Interval { low, .. } if low > 1.0 => {
                better_than_both += 1;
                "better than both"
            }
            Interval { high, .. } if high < 1.0 => {
                worse += 1;
                "WORSE"
            }
            _ => "not told apart",
        };
        println!("auto / {} (the better), {name}: {ratio}: {verdict}", modes[better]);
    }
    println!("auto: better than both at {better_than_both} points, worse at {worse}");
}

/// Reads in one transaction.
const READS: usize = 16;
/// Keys that the reads are spread over.
const READ_KEYS: u64 = 1_000_000;

/// What is read in the part `reads`, and how.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    /// `Keyspace::get`.
    Bare,
    /// A read-only transaction for each.
    ReadOnly,
    /// A transaction for so many: without any dependency.
    Untracked,
    /// The same, tracked for validation.
    Tracked,
    /// The same, each under a shared lock.
    Locked,
}

fn reads(wanted: &Wanted) {
    use Reading::{Bare, Locked, ReadOnly, Tracked, Untracked};
    println!("\nReads of {READ_KEYS} keys, one thread, {} rounds\n", wanted.rounds);
    let contender = Contender::new(OPTIMISTIC, READ_KEYS, None);
    let all = [Bare, ReadOnly, Untracked, Tracked, Locked];
    let mut nanos: BTreeMap<Reading, Vec<f64>> = BTreeMap::new();
    for round in 0..=wanted.rounds {
        for place in 0..all.len() {
            let reading = all[(place + round) % all.len()];
            let start = Instant::now();
            let mut done = 0;
            let mut random = Random::new(round as u64);
            while start.elapsed() < wanted.turn {
                read_some(&contender, reading, &mut random);
                done += READS;
            }
            if round > 0 {
                let each = start.elapsed().as_secs_f64() * 1e9 / done as f64;
                nanos.entry(reading).or_default().push(each);
            }
        }
    }
    let each = |reading| median(&nanos[&reading]);
    println!("| a read | ns |\n|---|---|");
    println!("| `Keyspace::get` | {:.0} |", each(Bare));
    println!("| `get` in a read-only transaction of its own | {:.0} |", each(ReadOnly));
    println!("| `get_untracked`, {READS} in a transaction | {:.0} |", each(Untracked));
    println!("| `get`, optimistic, {READS} in a transaction | {:.0} |", each(Tracked));
    println!("| `get`, locking, {READS} in a transaction | {:.0} |\n", each(Locked));
    let paired = |of: &dyn Fn(f64, f64, f64) -> f64, a, b, c| {
        let (a, b, c): (&Vec<f64>, &Vec<f64>, &Vec<f64>) = (&nanos[&a], &nanos[&b], &nanos[&c]);
        let each: Vec<f64> = (0..a.len()).map(|at| of(a[at], b[at], c[at])).collect();
        interval(&each)
    };
    let lock =
        paired(&|locked, untracked, bare| (locked - untracked) / bare, Locked, Untracked, Bare);
    promise("an uncontended lock / the bare read that it protects", lock, false, 1.0);
    let one = paired(&|ours, bare, _| ours / bare, ReadOnly, Bare, Bare);
    promise("a read-only transaction of one get / the bare get", one, false, 1.5);
}

/// A batch of reads, of keys that `random` draws.
fn read_some(contender: &Contender, reading: Reading, random: &mut Random) {
    let (database, keyspace) = (&contender.database, &contender.keyspace);
    let mut next = || key(random.next() % READ_KEYS);
    let options = |concurrency| TransactionOptions { concurrency, ..Default::default() };
    let locking = Concurrency::Locking(DeadlockPolicy::WoundWait);
    match reading {
        Reading::Bare => {
            for _ in 0..READS {
                black_box(keyspace.get(next()).expect("a read"));
            }
        }
        Reading::ReadOnly => {
            for _ in 0..READS {
                let tx = database.begin_read_only().expect("a transaction");
                black_box(tx.get(keyspace, next()).expect("a read"));
            }
        }
        Reading::Untracked => {
            let tx = database.begin_with(options(Concurrency::Optimistic)).expect("a transaction");
            for _ in 0..READS {
                black_box(tx.get_untracked(keyspace, next()).expect("a read"));
            }
        }
        Reading::Tracked | Reading::Locked => {
            let concurrency =
                if reading == Reading::Locked { locking } else { Concurrency::Optimistic };
            let tx = database.begin_with(options(concurrency)).expect("a transaction");
            for _ in 0..READS {
                black_box(tx.get(keyspace, next()).expect("a read"));
            }
        }
    }
}
