//! Several damages at once, of every kind, drawn by a seed (`ISOLITH_SEED`, `ISOLITH_EFFORT`): salvage ends, what
//! it gives was committed once, and what lies in nothing that was told as lost is as it was.

use std::collections::BTreeSet;

use super::*;
use crate::storage::faulty::{DiskKind, FaultyStorage, Survival};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn new(what: &str) -> Random {
        let seed = std::env::var("ISOLITH_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(isolith_wal::random_seed);
        println!("{what}: ISOLITH_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

fn effort() -> usize {
    std::env::var("ISOLITH_EFFORT").ok().and_then(|factor| factor.parse().ok()).unwrap_or(1)
}

/// A database without merges, and every value that a key ever had.
struct Known {
    image: Image,
    states: BTreeMap<Lsn, Contents>,
    ever: BTreeMap<(String, Vec<u8>), BTreeSet<Vec<u8>>>,
}

fn known(seed: u64) -> Known {
    let mut random = Random(seed);
    let storage = Arc::new(MemoryStorage::new());
    // What is in files is what was flushed below.
    let db = builder(&storage).segment_bytes(32 << 10).memtable_bytes(4 << 20);
    let db = db.open().expect("it opens");
    let names = ["plain", "packed", "third"];
    let spaces = names.map(|name| {
        let mut options = KeyspaceOptions { block_bytes: 256, ..Default::default() };
        if name == "plain" {
            options.compression = crate::Compression::None;
        }
        db.keyspace_with(name, options).expect("made")
    });
    let mut ever = BTreeMap::<_, BTreeSet<Vec<u8>>>::new();
    let mut states = BTreeMap::new();
    for round in 0..700 {
        let mut tx = db.begin().expect("begun");
        for _ in 0..1 + random.below(3) {
            let at = random.below(3);
            let key = format!("key{:03}", random.below(120)).into_bytes();
            match random.below(12) {
                0 => tx.delete(&spaces[at], &key).expect("written"),
                1 if random.below(4) == 0 => {
                    let end = format!("key{:03}", random.below(120)).into_bytes();
                    let (from, to) = if key < end { (key, end) } else { (end, key) };
                    tx.delete_range(&spaces[at], from..to).expect("written");
                }
                _ => {
                    // Numbers and zeros, which look like ends of frames, and what cannot be compressed.
                    let length = random.below(90);
                    let value: Vec<u8> = match random.below(3) {
                        0 => (0..length as u64 / 8).flat_map(u64::to_le_bytes).collect(),
                        1 => vec![0; length],
                        _ => (0..length).map(|_| random.below(256) as u8).collect(),
                    };
                    tx.put(&spaces[at], &key, &value).expect("written");
                    ever.entry((names[at].to_owned(), key)).or_default().insert(value);
                }
            }
        }
        let committed = tx.commit().expect("committed");
        if round % 130 == 129 && round < 600 {
            db.flush().expect("flushed");
        }
        if round == 400 {
            db.compact().expect("compacted");
        }
        let at = committed.timestamp.unwrap_or(Lsn::ZERO);
        states.insert(if round < 520 { Lsn::ZERO } else { at }, contents(&db));
    }
    db.close().expect("closed");
    drop(spaces);
    drop(db);
    Known { image: image(&*storage), states, ever }
}

/// Does some harm; tells what.
fn harm(image: &mut Image, foreign: &Image, random: &mut Random) -> String {
    let paths: Vec<PathBuf> = image.keys().cloned().collect();
    let pick = |random: &mut Random, under: &str| {
        let of: Vec<_> = paths.iter().filter(|path| path.starts_with(under)).collect();
        (!of.is_empty()).then(|| of[random.below(of.len())].clone())
    };
    let under = ["", "sst", "wal"][random.below(3)];
    let Some(path) = pick(random, under) else { return "nothing".into() };
    let Some(other) = pick(random, under) else { return "nothing".into() };
    let shown = path.display().to_string();
    let bytes = image.get_mut(&path).expect("there");
    let length = bytes.len();
    let from = random.below(length);
    let span = [9, 300, 5000][random.below(3)];
    let to = (from + 1 + random.below(span)).min(length);
    match random.below(13) {
        0 | 1 => {
            for at in (0..4).map(|_| random.below(length)) {
                bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (at % 8));
            }
            format!("bits of {shown}")
        }
        2 => {
            bytes[from.min(to)..to].fill([0, 0xff, 7][random.below(3)]);
            format!("{shown}: {from}..{to} overwritten")
        }
        3 => {
            bytes.fill(0);
            format!("{shown}: zeros")
        }
        4 => {
            bytes.truncate(from);
            format!("{shown} cut at {from} of {length}")
        }
        5 => {
            image.remove(&path);
            format!("without {shown}")
        }
        6 => {
            let [one, two] = [&path, &other].map(|path| image[path].clone());
            image.insert(path, two);
            image.insert(other.clone(), one);
            format!("{shown} and {} exchanged", other.display())
        }
        7 => {
            let copy = image[&path].clone();
            let number = 1 + random.below(60);
            let extension = if path.starts_with("wal") { "log" } else { "sst" };
            let name = path.with_file_name(format!("{number:016x}.{extension}"));
            let told = format!("{shown} also at {}", name.display());
            image.insert(name, copy);
            told
        }
        8 | 9 => {
            let of: Vec<_> = foreign.keys().filter(|path| path.starts_with(under)).collect();
            let path = of[random.below(of.len())].clone();
            let told = format!("{} from elsewhere", path.display());
            image.insert(path.clone(), foreign[&path].clone());
            told
        }
        10 => {
            // Lengths and offsets in the headers and footers.
            let at = if random.below(2) == 0 { random.below(128) } else { length - length.min(96) };
            let end = (at + [4, 8][random.below(2)]).min(length);
            bytes[at.min(end)..end].fill(0xff);
            format!("{shown}: huge numbers at {at}")
        }
        11 => {
            bytes.extend(vec![0; random.below(70_000)]);
            format!("{shown}: zeros behind it")
        }
        _ => {
            let noise = (0..random.below(9_000)).map(|_| random.below(256) as u8).collect();
            image.insert("sst/00000000000000ff.sst".into(), noise);
            "a file of noise".into()
        }
    }
}

#[test]
fn whatever_is_done_to_files_what_is_given_was_committed_and_what_is_lost_is_told() {
    let mut random = Random::new("whatever_is_done_to_files");
    let (mut whole, mut refused, mut wrong) = (0, 0, Vec::new());
    for _ in 0..2 * effort() {
        let (known, foreign) = (known(random.0), known(random.0 + 1).image);
        for _ in 0..40 {
            let mut image = known.image.clone();
            let harms: Vec<String> =
                (0..1 + random.below(4)).map(|_| harm(&mut image, &foreign, &mut random)).collect();
            let when = format!("{harms:?}");
            let storage = restored(&image);
            let out = Arc::new(MemoryStorage::new());
            match salvage_storage(&storage, builder(&out), &mut |_, _| {}) {
                Ok(report) => {
                    whole += usize::from(report.is_complete());
                    wrong.extend(
                        judge(&known, &report, out)
                            .map(|what| format!("{when}: {what}: {report:#?}")),
                    );
                }
                Err(Error::Open(
                    OpenError::NotADatabase { .. } | OpenError::FormatTooNew { .. },
                )) => refused += 1,
                Err(error) => wrong.push(format!("{when}: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} times, first {}", wrong.len(), wrong[0]);
    println!("{whole} lost nothing, {refused} were refused");
    assert!(whole > 0);
}

/// What is wrong with what was salvaged.
fn judge(known: &Known, report: &SalvageReport, out: Arc<MemoryStorage>) -> Option<String> {
    let out: Arc<dyn Storage> = out;
    let sound = verify_storage(&out, Verify::Full, &mut |_, _| {}).expect("it can be looked at");
    if !sound.is_sound() {
        return Some(format!("{:?}", sound.damage));
    }
    let db = Builder::new(None).storage(out).read_only(true).open().expect("sound");
    let found = contents(&db);
    let named = |name: &str| report.keyspaces.iter().any(|of| of.name == name && !of.made_up);
    for ((keyspace, key), (value, _)) in &found {
        if !named(keyspace) {
            continue;
        }
        let ever = known.ever.get(&(keyspace.clone(), key.clone()));
        let ever = ever.is_some_and(|ever| ever.contains(value));
        if !ever {
            return Some(format!("{keyspace} {} never had that", key.escape_ascii()));
        }
    }
    let told = |(keyspace, key): &(String, Vec<u8>)| {
        report.lost.iter().any(|piece| {
            piece.keyspace.as_ref().is_none_or(|name| name == keyspace)
                && piece.keys.as_ref().is_none_or(|keys| keys.contains(key))
        })
    };
    let of_log = report.lost.iter().all(|piece| piece.file.contains("wal"));
    // A log whose end is gone as a whole looks as if the process had died there.
    let expected = known.states.range(..=report.last).next_back().expect("the files").1;
    for at in expected.keys().chain(found.keys()).filter(|at| of_log || !told(at)) {
        let key = at.1.escape_ascii();
        if found.get(at) != expected.get(at) {
            let (found, expected) = (found.get(at), expected.get(at));
            return Some(format!("{} {key} is {found:?}, and was {expected:?}", at.0));
        }
    }
    None
}

#[test]
fn a_salvage_that_is_cut_short_is_not_taken_for_a_whole_one() {
    let Damaged { image, states } = built();
    let from = restored(&image);
    let (mut whole, mut failed) = (false, 0);
    for blocks in (0..4_000).step_by(6) {
        let disk = FaultyStorage::new(DiskKind::Fua);
        disk.set_space(Some(blocks * 4096));
        let into = builder(&Arc::default()).storage(Arc::new(disk.clone()));
        let salvaged = salvage_storage(&from, into, &mut |_, _| {});
        disk.set_space(None);
        // As it is, and after a crash.
        for survival in [Survival::Everything, Survival::Nothing] {
            let disk = disk.reboot(survival);
            let opened = builder(&Arc::default()).storage(Arc::new(disk)).read_only(true).open();
            match (&salvaged, opened) {
                (Ok(_), Ok(db)) => {
                    assert_eq!(Some(&contents(&db)), states.values().next_back());
                    whole = true;
                }
                (Err(_), Err(OpenError::Partial { .. } | OpenError::NotADatabase { .. })) => {
                    failed += 1;
                }
                (salvaged, opened) => {
                    panic!("{blocks} blocks: {salvaged:?}, {:?}", opened.err())
                }
            }
        }
        if whole {
            break;
        }
    }
    assert!(whole && failed > 4, "{whole} {failed}");
}

#[test]
fn what_is_salvaged_does_not_go_into_what_is_damaged() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let db = Database::open(path("data")).expect("opens");
    db.keyspace("k").expect("made").put("k", "v").expect("put");
    db.close().expect("closed");
    drop(db);
    for within in ["data/out", "data/sst/out", "data", "nowhere/../data/out"] {
        let refused = salvage(path("data"), Database::builder(path(within)), &mut |_, _| {});
        assert!(matches!(refused, Err(Error::Open(OpenError::Io { .. }))), "{refused:?}");
    }
    drop(Database::open(path("data")).expect("as it was"));
    salvage(path("data"), Database::builder(path("out")), &mut |_, _| {}).expect("beside it");
    let out = Database::open(path("out")).expect("whole");
    assert!(out.keyspace("k").expect("there").get("k").expect("read").is_some());
}

#[test]
fn a_manifest_that_ends_too_early_does_not_cost_its_files() {
    let known = known(7);
    let whole = known.image[Path::new("MANIFEST")].len();
    let last = known.states.values().next_back().expect("one");
    for cut in (0..whole).step_by(1_000) {
        let mut image = known.image.clone();
        image.get_mut(Path::new("MANIFEST")).expect("there").truncate(cut);
        let out = Arc::new(MemoryStorage::new());
        let report = salvage_storage(&restored(&image), builder(&out), &mut |_, _| {});
        let report = report.expect("salvaged");
        let wrong = judge(&known, &report, Arc::clone(&out));
        assert!(wrong.is_none(), "cut at {cut} of {whole}: {wrong:?}: {report:#?}");
        let db = Builder::new(None).storage(out).read_only(true).open().expect("sound");
        let found = contents(&db);
        let kept = last.iter().filter(|(key, value)| found.get(*key) == Some(value)).count();
        assert_eq!(kept, last.len(), "cut at {cut} of {whole}");
    }
}

#[test]
fn a_segment_of_another_log_does_not_cost_this_one() {
    let Damaged { image, states } = built();
    let last = states.values().next_back().expect("one");
    let foreign = known(7).image;
    let segment = foreign.keys().find(|path| path.starts_with("wal")).expect("one");
    let ours = image.keys().find(|path| path.starts_with("wal")).expect("one");
    for bytes in [&foreign[segment], &image[ours], &vec![7; 9_000]] {
        let mut damaged = image.clone();
        damaged.insert("wal/00000000000000ff.log".into(), bytes.clone());
        let (report, found) = check(&damaged, &states, "with one more");
        assert!(!report.is_complete() && found == *last, "{report:#?}");
    }
}
