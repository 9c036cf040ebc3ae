//! One thread that flushes a memtable and compacts files, all in memory: no device.
//!
//! `cargo bench -p isolith-bench --bench compaction`
//!
//! A million versions, keys of 20 bytes (random decimals), values of 100 bytes that compress to about a
//! half. *Flushed*: four files of level 0 become files of the lowest level. *Overwritten*: the same keys
//! are in two of the files each. *Down*: a tenth of a level meets the rest. Megabytes are those of the keys
//! and values that are read. Medians of five rounds.

use std::hint::black_box;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use isolith_index::compact::{CompactionRules, Outputs, compact};
use isolith_index::sstable::{
    Compression, FileId, Properties, Sstable, SstableOptions, SstableWriter, ValueWriter,
};
use isolith_index::{Beneath, Kind, Memtable, NoOperators, PruneView, Value, flush_memtable};
use isolith_wal::{DatabaseId, Lsn};

const VERSIONS: u64 = 1_000_000;
const VALUE_BYTES: usize = 100;
const ROUNDS: usize = 5;
const DATABASE: DatabaseId = DatabaseId(1);

struct Files {
    files: Vec<(FileId, Vec<u8>)>,
    options: SstableOptions,
}

impl Files {
    fn new(compression: Compression) -> Files {
        let options = SstableOptions { compression, ..SstableOptions::default() };
        Files { files: Vec::new(), options }
    }

    fn next(&self) -> FileId {
        FileId(1 + self.files.len() as u64)
    }

    fn open(self) -> Vec<Arc<Sstable>> {
        let files = self.files.into_iter();
        files
            .map(|(id, bytes)| Sstable::open(Box::new(bytes), DATABASE, id).expect("sound"))
            .collect()
    }
}

impl Outputs for Files {
    type Sink = Vec<u8>;

    fn begin(&mut self) -> io::Result<SstableWriter<Vec<u8>>> {
        SstableWriter::new(Vec::with_capacity(80 << 20), DATABASE, self.next(), self.options)
    }

    fn finish(&mut self, sink: Vec<u8>, _: Properties) -> io::Result<()> {
        self.files.push((self.next(), sink));
        Ok(())
    }

    fn begin_values(&mut self) -> io::Result<ValueWriter<Vec<u8>>> {
        unreachable!("no value is large")
    }

    fn finish_values(&mut self, _: FileId, _: Vec<u8>) -> io::Result<()> {
        unreachable!("no value is large")
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn key(number: u64) -> [u8; 20] {
    let text = format!("{:020}", mixed(number));
    let mut key = [0; 20];
    key.copy_from_slice(text.as_bytes());
    key
}

/// Half of it is noise.
fn value(number: u64) -> [u8; VALUE_BYTES] {
    let mut value = [b'v'; VALUE_BYTES];
    for (at, word) in value[..VALUE_BYTES / 2].chunks_mut(8).enumerate() {
        let noise = mixed(number.wrapping_mul(31).wrapping_add(at as u64)).to_le_bytes();
        word.copy_from_slice(&noise[..word.len()]);
    }
    value
}

/// A file of these keys, with stamps from `first_stamp` on.
fn file(into: &mut Files, numbers: impl Iterator<Item = u64>, first_stamp: u64) {
    let mut keys: Vec<_> = numbers.map(|number| (key(number), number)).collect();
    keys.sort_unstable();
    let mut writer = into.begin().expect("memory");
    for (key, number) in keys {
        let stamp = Lsn::new(0, first_stamp + number % VERSIONS);
        writer.add(&key, stamp, Kind::Put, 0, &value(number)).expect("memory");
    }
    let (sink, properties) = writer.finish().expect("memory");
    into.finish(sink, properties).expect("memory");
}

fn rules(view: &PruneView) -> CompactionRules<'_> {
    CompactionRules {
        view,
        operators: &NoOperators,
        beneath: Beneath::Nothing,
        expired_before: 0,
        merges_above: false,
        fences: &[],
        file_bytes: 64 << 20,
        large_values: usize::MAX,
        moved: &[],
        value_file_bytes: 64 << 20,
    }
}

fn report(name: &str, mut round: impl FnMut() -> (u64, u64)) {
    let mut seen: Vec<(f64, f64)> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            let (bytes, versions) = round();
            let seconds = began.elapsed().as_secs_f64();
            (bytes as f64 / 1e6 / seconds, seconds * 1e9 / versions as f64)
        })
        .collect();
    seen.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (rate, each) = seen[ROUNDS / 2];
    println!("{name:32} {rate:7.0} MB/s {each:7.0} ns a version");
}

fn main() {
    let view = PruneView::newest_only();
    let rules = rules(&view);
    let everything = (Bound::Unbounded, Bound::Unbounded);
    for compression in [Compression::None, Compression::Lz4] {
        let quarter = VERSIONS / 4;
        let half = VERSIONS / 2;
        let mut flushed = Files::new(compression);
        let mut overwritten = Files::new(compression);
        for number in 0..4 {
            file(&mut flushed, (number * quarter)..(number + 1) * quarter, 1);
            file(
                &mut overwritten,
                (number % 2) * quarter..(number % 2 + 1) * quarter,
                1 + number * half,
            );
        }
        let mut down = Files::new(compression);
        file(&mut down, 0..VERSIONS / 10, 1 + VERSIONS);
        file(&mut down, VERSIONS / 10..VERSIONS, 1);
        for (name, files) in [("flushed", flushed), ("overwritten", overwritten), ("down", down)] {
            let inputs = files.open();
            report(&format!("{name}, {compression:?}"), || {
                let mut outputs = Files::new(compression);
                let done = compact(&inputs, everything, &rules, &mut outputs).expect("sound");
                black_box(&outputs.files);
                (done.bytes_in, done.versions_in)
            });
        }
        let memtable = Arc::new(Memtable::new(1));
        for number in 0..VERSIONS {
            let mut write = memtable.prepare(1);
            write.add(&key(number), Kind::Put, Value::new(&value(number)), 0);
            write.install(Lsn::new(0, 1 + number));
        }
        report(&format!("a memtable's flush, {compression:?}"), || {
            let mut outputs = Files::new(compression);
            let done = flush_memtable(&memtable, &rules, &mut outputs).expect("memory");
            black_box(&outputs.files);
            (done.bytes_in, done.versions_in)
        });
    }
}
