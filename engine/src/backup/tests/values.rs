//! Large values among everything else that happens to a database, drawn by a seed (`ISOLITH_SEED`,
//! `ISOLITH_EFFORT`): what is read, copied, restored, salvaged and found after a crash is what was committed.

use std::collections::BTreeSet;

use super::*;
use crate::{KeyspaceOptions, ManualClock, Snapshot};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.below(8) {
            0 => 0,
            1 => LARGE - 1,
            2 => LARGE,
            3 => 3_000 + self.below(3_000),
            4 if self.below(12) == 0 => 300_000,
            _ => self.below(2 * LARGE),
        };
        match self.below(3) {
            0 => vec![b'v'; length],
            _ => (0..length).map(|_| self.below(256) as u8).collect(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key{:02}", self.below(60)).into_bytes()
    }
}

const LARGE: usize = 500;
const NAMES: [&str; 2] = ["first", "second"];

/// What each key has, and when it expires.
type Model = BTreeMap<(String, Vec<u8>), (Vec<u8>, Option<u64>)>;

struct Attack {
    random: Random,
    storage: Arc<MemoryStorage>,
    clock: Arc<ManualClock>,
    db: Option<Database>,
    model: Model,
    /// Every value that a key ever had.
    ever: BTreeMap<(String, Vec<u8>), BTreeSet<Vec<u8>>>,
    /// Keys that were ever merged into.
    merged: BTreeSet<(String, Vec<u8>)>,
    snapshots: Vec<(Snapshot, State)>,
}

/// What is in one of two and not, or not so, in the other: their beginnings and lengths.
fn differ(found: &State, expected: &State) -> Vec<String> {
    let shown = |value: Option<&Vec<u8>>| {
        let value = value.map(|v| (v[..v.len().min(12)].escape_ascii().to_string(), v.len()));
        format!("{value:?}")
    };
    let all = found.keys().chain(expected.keys());
    let differs = all.filter(|key| found.get(*key) != expected.get(*key));
    let told = |key: &(String, Vec<u8>)| {
        let (found, expected) = (shown(found.get(key)), shown(expected.get(key)));
        format!("{} {}: {found} for {expected}", key.0, key.1.escape_ascii())
    };
    differs.map(told).collect()
}

/// The files as they are: what a process that dies now leaves.
fn as_it_is(storage: &dyn Storage) -> Arc<MemoryStorage> {
    let copy = MemoryStorage::new();
    for directory in ["", "sst", "wal"].map(Path::new) {
        let Ok(entries) = storage.list(directory) else { continue };
        copy.create_dir(directory).expect("made");
        for entry in entries.iter().filter(|entry| !entry.is_directory && entry.name != "LOCK") {
            let path = directory.join(&entry.name);
            let file = storage.open(&path, isolith_wal::Access::Read).expect("there");
            let mut bytes = vec![0; file.len().expect("known") as usize];
            file.read_at(0, &mut bytes).expect("read");
            copy.create_new(&path).expect("new").write_at(0, &bytes).expect("written");
        }
    }
    Arc::new(copy)
}

impl Attack {
    fn builder(&mut self, storage: Arc<dyn Storage>) -> crate::Builder {
        let large = [LARGE, LARGE, LARGE, 1, 0, 4_000][self.random.below(6)];
        let clock = Arc::clone(&self.clock);
        small(storage).large_values(large).clock(clock).durability(Durability::Sync)
    }

    fn open(&mut self) {
        let storage = Arc::clone(&self.storage);
        self.db = Some(self.builder(storage).open().expect("it opens"));
    }

    fn db(&self) -> &Database {
        self.db.as_ref().expect("open")
    }

    fn keyspace(&mut self) -> (String, Keyspace) {
        let name = NAMES[self.random.below(2)];
        (name.to_owned(), self.db().keyspace(name).expect("there"))
    }

    fn now(&self) -> u64 {
        self.db().core().now()
    }

    fn expected(&self) -> State {
        let now = self.now();
        let live = self.model.iter().filter(|(_, (_, at))| at.is_none_or(|at| at > now));
        live.map(|(key, (value, _))| (key.clone(), value.clone())).collect()
    }

    /// Something that changes data.
    fn write(&mut self) {
        let ((name, keyspace), key) = (self.keyspace(), self.random.key());
        let at = (name.clone(), key.clone());
        match self.random.below(14) {
            0 => {
                keyspace.delete(&key).expect("deleted");
                self.model.remove(&at);
            }
            1 => {
                let end = self.random.key();
                if key < end {
                    keyspace.delete_range(key.clone()..end.clone()).expect("deleted");
                    self.model.retain(|(of, at), _| *of != name || *at < key || *at >= end);
                }
            }
            2 | 3 => {
                let operand = self.random.value();
                keyspace.merge(&key, crate::merge::APPEND, &operand).expect("merged");
                let now = self.now();
                self.merged.insert(at.clone());
                let live = self.model.remove(&at);
                let live = live.filter(|(_, until)| until.is_none_or(|until| until > now));
                let (mut value, until) = live.unwrap_or_default();
                value.extend(operand);
                self.model.insert(at, (value, until));
            }
            4 => {
                let until = self.now() + 1 + self.random.below(5_000) as u64;
                let value = self.random.value();
                let mut tx = self.db().begin().expect("begun");
                tx.put_with(&keyspace, &key, &value, Some(until)).expect("put");
                tx.commit().expect("committed");
                self.model.insert(at, (value, Some(until)));
            }
            5 if self.random.below(8) == 0 => {
                let mut load = keyspace.bulk_load(BulkLoadOptions::default()).expect("begun");
                for number in 0..20 + self.random.below(30) {
                    let (key, value) =
                        (format!("key{number:02}").into_bytes(), self.random.value());
                    load.add(&key, &value).expect("added");
                    self.model.insert((name.clone(), key), (value, None));
                }
                load.finish().expect("loaded");
            }
            6 if self.random.below(40) == 0 => {
                drop(keyspace);
                self.snapshots.clear();
                self.db().drop_keyspace(&name).expect("dropped");
                self.model.retain(|(of, _), _| *of != name);
            }
            _ => {
                let value = self.random.value();
                keyspace.put(&key, &value).expect("put");
                self.model.insert(at, (value, None));
            }
        }
    }

    /// Something that changes none.
    fn disturb(&mut self) {
        match self.random.below(16) {
            0..4 => self.db().flush().expect("flushed"),
            4 => self.db().compact().expect("compacted"),
            5 => self.clock.advance(self.random.below(3_000) as u64),
            6 => {
                let large = [None, Some(0), Some(LARGE), Some(2_000)][self.random.below(4)];
                let (_, keyspace) = self.keyspace();
                let options = KeyspaceOptions { large_values: large, ..keyspace.options() };
                keyspace.set_options(options).expect("set");
            }
            7 | 8 => {
                let snapshot = self.db().snapshot().expect("taken");
                let seen = self.seen(&snapshot);
                self.snapshots.push((snapshot, seen));
            }
            9 if !self.snapshots.is_empty() => {
                let (snapshot, seen) = self.snapshots.remove(0);
                assert!(self.seen(&snapshot) == seen, "a snapshot sees something else");
            }
            10 => self.copy(),
            11 => self.crash(),
            12 => {
                self.snapshots.clear();
                self.db().close().expect("closed");
                self.db = None;
                self.open();
            }
            13 => self.salvage(),
            _ => self.compare(),
        }
    }

    /// What a snapshot sees that does not expire.
    fn seen(&self, snapshot: &Snapshot) -> State {
        let mut all = State::new();
        for name in NAMES {
            let keyspace = self.db().keyspace(name).expect("there");
            for pair in snapshot.range(&keyspace, ..) {
                let (key, value) = pair.expect("readable");
                let entry = snapshot.get_entry(&keyspace, &key).expect("readable").expect("there");
                if entry.expires_at.is_none() {
                    all.insert((name.to_owned(), key.to_vec()), value.to_vec());
                }
            }
        }
        all
    }

    fn compare(&self) {
        let (found, expected) = (state(self.db()), self.expected());
        assert!(found == expected, "{:?}", differ(&found, &expected));
    }

    fn assert_whole(&mut self, storage: &Arc<dyn Storage>, what: &str) {
        let looked_at = small(Arc::clone(storage)).verify(Verify::Full, &mut |_, _| {});
        let report = looked_at.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(report.is_sound(), "{what}: {:?}", report.damage);
        let builder = self.builder(Arc::clone(storage)).read_only(self.random.below(2) == 0);
        let db = builder.open().unwrap_or_else(|error| panic!("{what}: {error}"));
        let (found, expected) = (state(&db), self.expected());
        assert!(found == expected, "{what}: {:?}", differ(&found, &expected));
    }

    /// A checkpoint, and a restored copy of it. Both are written to, and what they came from is not.
    fn copy(&mut self) {
        let first: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        self.db().checkpoint_to(Arc::clone(&first), CheckpointOptions::default()).expect("copied");
        let second: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let target = Arc::clone(&second);
        restore_storages(&first, &[], || Ok(target), &RestoreOptions::default()).expect("restored");
        for copy in [&first, &second] {
            self.assert_whole(copy, "a copy");
            let db = self.builder(Arc::clone(copy)).open().expect("opens");
            db.keyspace(NAMES[0]).expect("there").delete_range(..).expect("deleted");
            db.flush().expect("flushed");
            db.compact().expect("compacted");
        }
        self.compare();
    }

    fn crash(&mut self) {
        let left: Arc<dyn Storage> = as_it_is(&*self.storage);
        self.assert_whole(&left, "after a crash");
    }

    fn salvage(&mut self) {
        let left: Arc<dyn Storage> = as_it_is(&*self.storage);
        let without_manifest = self.random.below(2) == 0;
        if without_manifest {
            left.remove(Path::new("MANIFEST")).expect("removed");
        }
        let out: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let into = self.builder(Arc::clone(&out));
        let report = crate::salvage::salvage_storage(&left, into, &mut |_, _| {}).expect("sound");
        let of_manifest = report.lost.iter().all(|piece| piece.file.contains("MANIFEST"));
        assert!(of_manifest, "{report:#?}");
        if !without_manifest {
            return self.assert_whole(&out, "salvaged");
        }
        // What was deleted or superseded, and is still there, may have come back: also under merges.
        let db = self.builder(out).open().expect("opens");
        for (key, value) in state(&db) {
            if self.merged.contains(&key) {
                continue;
            }
            let ever = self.ever.get(&key).is_some_and(|ever| ever.contains(&value));
            assert!(ever, "{} {} never was that", key.0, key.1.escape_ascii());
        }
    }
}

#[test]
fn large_values_stay_what_they_are_whatever_happens() {
    let seed = std::env::var("ISOLITH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(isolith_wal::random_seed);
    let effort = std::env::var("ISOLITH_EFFORT").ok().and_then(|factor| factor.parse().ok());
    for round in 0..4 * effort.unwrap_or(1) {
        println!("ISOLITH_SEED={}", seed + round);
        let mut attack = Attack {
            random: Random(seed + round),
            storage: Arc::new(MemoryStorage::new()),
            clock: Arc::new(ManualClock::new(1_000)),
            db: None,
            model: Model::new(),
            ever: BTreeMap::new(),
            merged: BTreeSet::new(),
            snapshots: Vec::new(),
        };
        attack.open();
        for _ in 0..120 {
            for _ in 0..attack.random.below(12) {
                attack.write();
                for (key, (value, _)) in &attack.model {
                    attack.ever.entry(key.clone()).or_default().insert(value.clone());
                }
            }
            attack.disturb();
        }
        attack.compare();
    }
}

#[test]
fn a_database_in_use_is_found_sound_and_copied_while_large_values_move() {
    let storage = Arc::new(MemoryStorage::new());
    let db = small(storage).threads(true).large_values(LARGE).background_threads(2);
    let db = db.open().expect("opens");
    let keyspace = db.keyspace("data").expect("made");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (keyspace, stop) = (&keyspace, &stop);
            scope.spawn(move || {
                let mut random = Random(writer);
                // Relaxed: it orders nothing.
                while !stop.load(Ordering::Relaxed) {
                    match random.below(20) {
                        0 => {
                            let from = random.key();
                            let to = [&from[..], b"~"].concat();
                            keyspace.delete_range(from..to).expect("deleted");
                        }
                        _ => keyspace.put(random.key(), random.value()).expect("put"),
                    }
                }
            });
        }
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let (mut looked_at, mut moved) = (0, 0);
            while looked_at < 12 || moved == 0 {
                let report = db.verify(Verify::Full).expect("looked at");
                assert!(report.is_sound(), "{:?}", report.damage);
                let target: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
                let options = CheckpointOptions::default();
                db.checkpoint_to(Arc::clone(&target), options).expect("copied");
                let copied = small(target).verify(Verify::Full, &mut |_, _| {}).expect("looked at");
                assert!(copied.is_sound() && copied.orphans.is_empty(), "{copied:?}");
                moved = db.stats().files.expect("files").moved_bytes;
                looked_at += 1;
            }
        }));
        // Relaxed: whoever writes looks again, and the scope joins him.
        stop.store(true, Ordering::Relaxed);
        judged.expect("no false alarm");
    });
}
