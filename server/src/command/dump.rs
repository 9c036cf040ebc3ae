//! `isolith dump` and `isolith load`: a database as a stream of pairs, and back.
//!
//! | file | its job |
//! |---|---|
//! | `dump.rs` | the commands |
//! | `dump/stream.rs` | what the two formats look like, and reading them |

use super::{Exit, Failure, Outcome};
use clap::{Args, ValueEnum};
use isolith::{BulkLoad, BulkLoadOptions, Database, Error, OpenError};
use isolith_testkit::picture::text::counted;
use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod stream;

use stream::{Item, ReadError, Reader, Writer};

/// What a dump looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DumpFormat {
    /// JSON, an object a line.
    Jsonl,
    /// Bytes, with checksums.
    Binary,
}

/// What to dump, and how.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Writes all pairs of a database to standard output, as of one moment.\n\n\
                  jsonl: a line that begins the dump, a line for each pair, a line that ends it: \
                  {\"keyspace\":\"k\",\"key\":\"a\",\"value\":\"1\",\"expires_at\":1700000000000}; \
                  keys and values that are no text are {\"base64\":\"…\"}; expiry in Unix \
                  milliseconds, left out for never. \
                  binary: smaller and faster, with checksums.\n\n\
                  The database must not be open elsewhere.",
    after_help = "Exit codes: 0 written, 2 wrong options, 3 the database cannot be read, or the output not written.\n\
                  Try: isolith dump isolith-data > data.jsonl"
)]
pub(crate) struct Dump {
    /// The database's directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only this keyspace; may be given more than once.
    #[arg(long, value_name = "NAME")]
    keyspace: Vec<String>,
    /// What is written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = DumpFormat::Jsonl)]
    format: DumpFormat,
}

/// Where to load a dump.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Reads pairs from standard input, as `isolith dump` writes them, into a database. \
                  The format is seen from its beginning. Pairs may come in any order; of a key that \
                  comes more than once the last pair counts, and over a pair that is in the database \
                  already the loaded one.\n\n\
                  Nothing is loaded before the input was read and checked to its end; then each \
                  keyspace is loaded at once. Lines of JSON that begin with no dump's first line need no \
                  last line: other programs may write them.",
    after_help = "Exit codes: 0 loaded, 2 the input is malformed, and nothing was loaded, 3 the input cannot be read, or the database not written.\n\
                  Try: isolith load isolith-data < data.jsonl"
)]
pub(crate) struct Load {
    /// The database's directory; created if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Load all pairs into this keyspace, whatever the input says.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
    /// Bytes of memory for sorting, for each keyspace, like 64M.
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = crate::config::parse_size)]
    memory: u64,
}

/// How far it is, on a terminal.
struct Progress {
    shown: Option<(Instant, Instant)>,
}

impl Progress {
    fn new() -> Progress {
        let now = Instant::now();
        Progress { shown: io::stderr().is_terminal().then_some((now, now)) }
    }

    fn show(&mut self, what: &str, pairs: u64) {
        let Some((begun, last)) = &mut self.shown else { return };
        if pairs.is_multiple_of(1024) && last.elapsed() >= Duration::from_millis(200) {
            *last = Instant::now();
            let rate = pairs as f64 / begun.elapsed().as_secs_f64();
            eprint!("\r\x1b[K{what}: {} pairs, {rate:.0} a second", counted(pairs));
        }
    }

    fn clear(&self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn open(dir: &Path) -> Result<Database, Failure> {
    Database::open(dir).map_err(|error: OpenError| Failure::could_not_run(error.to_string()))
}

fn failed(error: Error) -> Failure {
    Failure::could_not_run(error.to_string())
}

/// Runs `isolith dump`.
pub(crate) fn dump(options: &Dump) -> Outcome {
    if !options.dir.join("wal").is_dir() {
        let dir = options.dir.display();
        return Err(Failure::could_not_run(format!("there is no database in {dir}")));
    }
    let db = open(&options.dir)?;
    let mut names = match options.keyspace.is_empty() {
        true => db.keyspaces(),
        false => options.keyspace.clone(),
    };
    names.sort();
    names.dedup();
    let snapshot = db.snapshot().map_err(failed)?;
    let out = BufWriter::with_capacity(1 << 20, io::stdout().lock());
    let unwritable = |error: io::Error| Failure::could_not_run(format!("cannot write: {error}"));
    let mut writer = Writer::begin(out, options.format, &names).map_err(unwritable)?;
    let mut progress = Progress::new();
    let mut pairs = 0;
    for name in &names {
        let keyspace = db.keyspace_if_exists(name).map_err(failed)?.ok_or_else(|| {
            Failure::could_not_run(format!(
                "there is no keyspace '{name}'; there are {:?}",
                db.keyspaces()
            ))
        })?;
        for pair in snapshot.range(&keyspace, ..) {
            let (key, _) = pair.map_err(failed)?;
            let Some(entry) = snapshot.get_entry(&keyspace, &key).map_err(failed)? else {
                continue;
            };
            writer.pair(name, &key, &entry.value, entry.expires_at).map_err(unwritable)?;
            pairs += 1;
            progress.show("dumped", pairs);
        }
    }
    writer.end(pairs).and_then(|mut out| out.flush()).map_err(unwritable)?;
    progress.clear();
    Ok(Exit::Fine)
}

/// What is being loaded, and what there was not before.
struct Loading<'d> {
    db: &'d Database,
    options: BulkLoadOptions,
    loads: BTreeMap<String, BulkLoad>,
    created: Vec<String>,
}

impl Loading<'_> {
    fn of(&mut self, name: &str) -> Result<&mut BulkLoad, Error> {
        if !self.loads.contains_key(name) {
            if self.db.keyspace_if_exists(name)?.is_none() {
                self.created.push(name.to_owned());
            }
            let load = self.db.keyspace(name)?.bulk_load(self.options)?;
            self.loads.insert(name.to_owned(), load);
        }
        // It is there: inserted right above, if it was not.
        self.loads.get_mut(name).ok_or(Error::InvalidKeyspaceName)
    }

    /// Takes back what was begun.
    fn abandon(self) {
        drop(self.loads);
        for name in &self.created {
            // A keyspace that stays is empty.
            let _ = self.db.drop_keyspace(name);
        }
    }
}

/// Runs `isolith load`.
pub(crate) fn load(options: &Load) -> Outcome {
    let db = open(&options.dir)?;
    let memory_bytes = usize::try_from(options.memory).unwrap_or(usize::MAX);
    let bulk = BulkLoadOptions { memory_bytes, ..BulkLoadOptions::unsorted() };
    let mut loading =
        Loading { db: &db, options: bulk, loads: BTreeMap::new(), created: Vec::new() };
    let mut progress = Progress::new();
    let read = read_all(options, &mut loading, &mut progress);
    progress.clear();
    if let Err(failure) = read {
        loading.abandon();
        return Err(failure);
    }
    let mut done: Vec<String> = Vec::new();
    for (name, load) in loading.loads {
        let loaded = load.finish().map_err(|error| {
            let before = match done.is_empty() {
                true => "nothing was loaded".to_owned(),
                false => format!("these keyspaces were loaded before: {}", done.join(", ")),
            };
            Failure::could_not_run(format!("keyspace '{name}': {error}; {before}"))
        })?;
        eprintln!("isolith: {name}: {} pairs loaded", counted(loaded.entries));
        done.push(name);
    }
    db.close().map_err(failed)?;
    Ok(Exit::Fine)
}

fn read_all(
    options: &Load,
    loading: &mut Loading<'_>,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let input = BufReader::with_capacity(1 << 20, io::stdin().lock());
    let told = |error: ReadError| match error {
        ReadError::Io(error) => {
            Failure::could_not_run(format!("the input cannot be read: {error}; nothing was loaded"))
        }
        ReadError::Malformed { place, what } => {
            Failure::usage(format!("the input is malformed: {place}: {what}; nothing was loaded"))
        }
    };
    let mut reader = Reader::begin(input).map_err(told)?;
    let mut pairs = 0;
    while let Some(item) = reader.next().map_err(told)? {
        let place = reader.place();
        let added = match item {
            Item::Keyspace(name) => {
                let name = options.keyspace.as_deref().unwrap_or(&name);
                loading.of(name).map(drop)
            }
            Item::Pair { keyspace, key, value, expires_at } => {
                pairs += 1;
                progress.show("read", pairs);
                let name = options.keyspace.as_deref().unwrap_or(&keyspace);
                loading.of(name).and_then(|load| load.add_expiring(key, value, expires_at))
            }
        };
        added.map_err(|error| match error {
            Error::KeyTooLarge { .. }
            | Error::ValueTooLarge { .. }
            | Error::InvalidKeyspaceName => Failure::usage(format!(
                "the input is malformed: {place}: {error}; nothing was loaded"
            )),
            error => Failure::could_not_run(format!("{error}; nothing was loaded")),
        })?;
    }
    Ok(())
}
