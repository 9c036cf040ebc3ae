//! Files as they are written are read again: both ways, at every stamp, damaged and cut short.

use std::collections::BTreeMap;

use isolith_wal::DatabaseId;

use super::*;
use crate::sstable::{ValueFile, ValueWriter};
use crate::version::Kind;

const DATABASE: DatabaseId = DatabaseId(7);
const FILE: FileId = FileId(3);

/// Versions in order.
type Versions = BTreeMap<(Vec<u8>, std::cmp::Reverse<Lsn>), (Kind, u64, Vec<u8>)>;

use isolith_wal::Lsn;

fn lsn(counter: u64) -> Lsn {
    Lsn::new(1, counter)
}

/// Keys of many lengths that share beginnings, some with many versions.
fn versions(keys: u64, seed: u64) -> Versions {
    let mut random = seed | 1;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let mut versions = Versions::new();
    for number in 0..keys {
        let key = match next() % 4 {
            0 => format!("k{number:05}").into_bytes(),
            1 => format!("common/beginning/{number}").into_bytes(),
            2 => number.to_be_bytes().to_vec(),
            _ => vec![0xff; (number % 40) as usize],
        };
        let count = if next().is_multiple_of(50) { 300 } else { 1 + next() % 3 };
        for _ in 0..count {
            let kind = match next() % 4 {
                0 => Kind::Delete,
                1 => Kind::Merge { operator: next() as u16 },
                _ => Kind::Put,
            };
            let time = if next() % 3 == 0 { next() } else { 0 };
            let length = if kind == Kind::Delete { 0 } else { next() % 60 };
            let value = vec![next() as u8; length as usize];
            let stamp = lsn(1 + next() % 100_000);
            versions.insert((key.clone(), std::cmp::Reverse(stamp)), (kind, time, value));
        }
    }
    versions
}

fn write(versions: &Versions, options: SstableOptions) -> Vec<u8> {
    let writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
    write_to(writer, versions)
}

fn write_to(mut writer: SstableWriter<Vec<u8>>, versions: &Versions) -> Vec<u8> {
    for ((key, stamp), (kind, time, value)) in versions {
        writer.add(key, stamp.0, *kind, *time, value).expect("memory");
    }
    writer.add_range_delete(b"k1", Some(b"k2"), lsn(5));
    writer.add_range_delete(b"k1", None, lsn(4));
    writer.finish().expect("memory").0
}

fn open(bytes: Vec<u8>) -> Result<std::sync::Arc<Sstable>, FileError> {
    Sstable::open(Box::new(bytes), DATABASE, FILE)
}

fn every_option() -> impl Iterator<Item = SstableOptions> {
    let prefixes = Some(PrefixExtractor::Length(2));
    let compressions = [Compression::None, Compression::Lz4, Compression::Zstd(3)];
    compressions.into_iter().flat_map(move |compression| {
        [64, 4096].into_iter().flat_map(move |block_bytes| {
            [(0, None), (10, None), (10, prefixes)].map(|(filter_bits_per_key, prefixes)| {
                let space = 7;
                SstableOptions { space, block_bytes, compression, filter_bits_per_key, prefixes }
            })
        })
    })
}

#[test]
fn every_version_is_found_in_order_and_back() {
    let versions = versions(600, 1);
    for options in every_option() {
        let file = open(write(&versions, options)).expect("sound");
        assert_eq!(file.verify().expect("sound"), versions.len() as u64);
        let mut cursor = FileCursor::new(std::sync::Arc::clone(&file));
        let mut more = cursor.first().expect("sound");
        for ((key, stamp), (kind, time, value)) in &versions {
            assert!(more);
            let (found, at, of, expires, bytes) = cursor.version().expect("sound").expect("one");
            assert_eq!((found, at, of, expires), (&**key, stamp.0, *kind, *time));
            assert_eq!(bytes.read(key, &mut Vec::new()).expect("sound"), value);
            more = cursor.advance().expect("sound");
        }
        assert!(!more);
        let mut more = cursor.last().expect("sound");
        for ((key, stamp), _) in versions.iter().rev() {
            assert!(more);
            let found = cursor.version().expect("sound").expect("one");
            assert_eq!((found.0, found.1), (&**key, stamp.0));
            more = cursor.back().expect("sound");
        }
        assert!(!more);
        let ranges = file.range_deletes();
        assert_eq!(ranges.len(), 2);
        assert_eq!(ranges[0], (b"k1"[..].into(), Some(b"k2"[..].into()), lsn(5)));
        assert_eq!(file.properties().largest, None, "a range delete reaches to the last key");
    }
}

#[test]
fn a_key_is_read_as_of_any_time() {
    let versions = versions(300, 2);
    for options in every_option() {
        let file = open(write(&versions, options)).expect("sound");
        for ((key, _), _) in versions.iter().step_by(3) {
            for read in [0, 1, 500, 40_000, 99_999, 100_001].map(lsn) {
                let first = versions.range((key.clone(), std::cmp::Reverse(read))..).next();
                let expected = first.filter(|((found, _), _)| found == key).map(
                    |((_, stamp), (kind, time, value))| VersionAt {
                        stamp: stamp.0,
                        kind: *kind,
                        time: *time,
                        value: value.clone(),
                    },
                );
                assert_eq!(file.get(key, read).expect("sound"), expected, "{key:?} at {read:?}");
            }
            let mut absent = key.clone();
            absent.push(1);
            assert_eq!(file.get(&absent, Lsn::MAX).expect("sound"), None);
        }
    }
}

#[test]
fn large_values_are_found_through_their_references_and_only_there() {
    let versions = versions(300, 9);
    for options in every_option() {
        let values = FileId(8);
        let mut apart =
            ValueWriter::new(Vec::new(), DATABASE, values, options.compression).expect("memory");
        let mut writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
        let mut large = 0;
        for ((key, stamp), (kind, time, value)) in &versions {
            if *kind == Kind::Put && value.len() > 20 {
                let reference = apart.add(key, value).expect("memory");
                writer.add_large(key, stamp.0, *time, reference).expect("memory");
                large += 1;
            } else {
                writer.add(key, stamp.0, *kind, *time, value).expect("memory");
            }
        }
        let (bytes, properties) = writer.finish().expect("memory");
        let mut file = open(bytes).expect("sound");
        assert_eq!(*file.properties(), properties);
        let whole = apart.finish().expect("memory");
        let used = ValueUse {
            file: values,
            values: large,
            bytes: whole.len() as u64 - VALUE_FILE_OVERHEAD,
        };
        assert_eq!(properties.values, [used]);
        let attach = |file: &mut std::sync::Arc<Sstable>, bytes: Vec<u8>| {
            let tell = std::sync::Arc::new(|_| {});
            let opened = ValueFile::open(Box::new(bytes), DATABASE, values, tell).expect("sound");
            let table = std::sync::Arc::get_mut(file).expect("nobody else has it");
            table.attach([&std::sync::Arc::new(opened)]);
        };
        let inspected = |file: &Sstable| {
            let mut wrong = Vec::new();
            file.inspect(&mut |error| wrong.push(error), &mut |_| {});
            wrong
        };
        // Without the value file keys are read, and large values are not.
        let ((key, stamp), _) = versions
            .iter()
            .find(|(_, (kind, _, value))| *kind == Kind::Put && value.len() > 20)
            .expect("a large one");
        assert!(matches!(file.get(key, stamp.0), Err(FileError::Values { file: FileId(8), .. })));
        attach(&mut file, whole.clone());
        for ((key, stamp), (kind, time, value)) in &versions {
            let found = file.get(key, stamp.0).expect("sound").expect("one");
            assert_eq!((found.stamp, found.kind, found.time), (stamp.0, *kind, *time));
            assert_eq!(found.value, *value);
        }
        assert!(inspected(&file).is_empty());
        let mut damaged = whole;
        damaged[100] ^= 1;
        attach(&mut file, damaged);
        let wrong = inspected(&file);
        assert!(matches!(wrong[..], [FileError::Values { file: FileId(8), .. }]), "{wrong:?}");
    }
}

#[test]
fn a_seek_finds_the_first_at_or_after() {
    let versions = versions(200, 3);
    for options in every_option() {
        let file = open(write(&versions, options)).expect("sound");
        let mut cursor = FileCursor::new(file);
        for (key, stamp) in versions.keys() {
            for (key, stamp) in [
                (key.clone(), stamp.0),
                (key.clone(), Lsn::ZERO),
                (key.clone(), Lsn::MAX),
                ([key, &b"\0"[..]].concat(), Lsn::MAX),
                (key[..key.len() / 2].to_vec(), lsn(50)),
            ] {
                let expected = versions.range((key.clone(), std::cmp::Reverse(stamp))..).next();
                let found = cursor.seek(&key, stamp).expect("sound");
                assert_eq!(found, expected.is_some());
                if let Some(((expected, at), _)) = expected {
                    let found = cursor.version().expect("sound").expect("one");
                    assert_eq!((found.0, found.1), (&**expected, at.0));
                }
            }
        }
    }
}

#[test]
fn an_empty_file_and_one_of_range_deletes_alone_open() {
    let writer = SstableWriter::new(Vec::new(), DATABASE, FILE, SstableOptions::default());
    let (bytes, _) = writer.expect("memory").finish().expect("memory");
    let file = open(bytes).expect("sound");
    assert_eq!(file.verify().expect("sound"), 0);
    assert_eq!(file.get(b"a", Lsn::MAX).expect("sound"), None);
    let writer = SstableWriter::new(Vec::new(), DATABASE, FILE, SstableOptions::default());
    let mut writer = writer.expect("memory");
    writer.add_range_delete(b"c", Some(b"d"), lsn(9));
    writer.add_range_delete(b"a", Some(b"b"), lsn(8));
    let (bytes, properties) = writer.finish().expect("memory");
    assert_eq!(
        (&*properties.smallest, properties.largest.as_deref()),
        (&b"a"[..], Some(&b"d"[..]))
    );
    assert_eq!((properties.stamp_min, properties.stamp_max), (lsn(8), lsn(9)));
    assert!(!FileCursor::new(open(bytes).expect("sound")).first().expect("sound"));
}

#[test]
fn a_file_that_is_cut_behind_a_key_ends_at_the_key() {
    let largest = |last: Option<&[u8]>, end: &[u8]| {
        let writer = SstableWriter::new(Vec::new(), DATABASE, FILE, SstableOptions::default());
        let mut writer = writer.expect("memory");
        if let Some(last) = last {
            writer.add(last, lsn(1), Kind::Delete, 0, b"").expect("memory");
        }
        writer.add_range_delete(b"a", Some(end), lsn(9));
        writer.finish().expect("memory").1.largest
    };
    assert_eq!(largest(Some(b"k"), b"k\0").as_deref(), Some(&b"k"[..]));
    assert_eq!(largest(Some(b"m"), b"k\0").as_deref(), Some(&b"m"[..]));
    assert_eq!(largest(None, b"k\0\0").as_deref(), Some(&b"k\0"[..]));
    assert_eq!(largest(Some(b"k"), b"m").as_deref(), Some(&b"m"[..]));
}

#[test]
fn a_file_of_another_place_or_a_newer_format_is_refused() {
    let bytes = write(&versions(20, 4), SstableOptions::default());
    let open_as = |database, file| Sstable::open(Box::new(bytes.clone()), database, file);
    assert!(matches!(open_as(DatabaseId(8), FILE), Err(FileError::Damaged { .. })));
    assert!(matches!(open_as(DATABASE, FileId(4)), Err(FileError::Damaged { .. })));
    let mut newer = bytes;
    newer[8] = 2;
    assert!(matches!(open(newer), Err(FileError::TooNew { format: 2 })));
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let versions = versions(25, 5);
    for options in every_option().step_by(3) {
        let bytes = write(&versions, options);
        let damaged = |bytes: Vec<u8>| open(bytes).and_then(|file| file.verify());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(damaged(flipped).is_err(), "byte {at} of {}", bytes.len());
        }
        for len in 0..bytes.len() {
            assert!(damaged(bytes[..len].to_vec()).is_err(), "cut to {len}");
        }
    }
}

#[test]
fn blocks_that_changed_places_are_found() {
    let options = SstableOptions {
        space: 0,
        block_bytes: 256,
        compression: Compression::None,
        filter_bits_per_key: 0,
        prefixes: None,
    };
    let mut writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
    let mut ends = vec![writer.bytes()];
    for number in 0..200u64 {
        writer.add(&number.to_be_bytes(), lsn(1), Kind::Put, 0, &[1; 20]).expect("memory");
        if writer.bytes() != ends[ends.len() - 1] {
            ends.push(writer.bytes());
        }
    }
    let bytes = writer.finish().expect("memory").0;
    let (first, second, third) = (ends[0] as usize, ends[1] as usize, ends[2] as usize);
    assert_eq!(second - first, third - second, "blocks of one size");
    let mut swapped = bytes.clone();
    swapped[first..second].copy_from_slice(&bytes[second..third]);
    swapped[second..third].copy_from_slice(&bytes[first..second]);
    let found = open(swapped).and_then(|file| file.verify());
    assert!(matches!(found, Err(FileError::Damaged { offset: 64, .. })), "{found:?}");
}

#[test]
fn every_damaged_block_is_told_and_the_others_are_looked_at() {
    let versions = versions(400, 3);
    let options = SstableOptions { block_bytes: 512, ..SstableOptions::default() };
    let bytes = write(&versions, options);
    let inspect = |bytes: Vec<u8>| {
        let (mut found, mut passed) = (Vec::new(), 0);
        let length = bytes.len() as u64;
        let file = open(bytes).expect("its ends are whole");
        let entries = file.inspect(&mut |error| found.push(error), &mut |bytes| passed += bytes);
        assert!(passed <= length && passed > length / 2);
        (entries, found)
    };
    let (entries, found) = inspect(bytes.clone());
    assert_eq!(entries, versions.len() as u64);
    assert!(found.is_empty(), "{found:?}");
    // The first third of a file is blocks.
    let third = bytes.len() / 3;
    for flips in [vec![100], vec![100, third], vec![100, third / 2, third]] {
        let mut damaged = bytes.clone();
        flips.iter().for_each(|at| damaged[*at] ^= 4);
        let (left, found) = inspect(damaged);
        assert_eq!(found.len(), flips.len(), "{found:?}");
        for (error, at) in found.iter().zip(flips) {
            let FileError::Damaged { offset, .. } = error else { panic!("{error}") };
            assert!(*offset <= at as u64 && *offset + 2048 > at as u64, "{error} for {at}");
        }
        assert!(left > entries / 2 && left < entries);
    }
}

#[test]
fn a_damaged_index_or_filter_is_told_by_whoever_looks_at_it() {
    let versions = versions(400, 6);
    let bytes = write(&versions, SstableOptions::default());
    let footer = bytes.len() - 96;
    let section = |field: usize| {
        let field = &bytes[footer + field..][..8];
        u64::from_le_bytes(field.try_into().expect("eight bytes"))
    };
    let key = &versions.keys().next().expect("one").0;
    for (offset, is_index) in [(section(0), false), (section(32), true)] {
        let mut flipped = bytes.clone();
        flipped[offset as usize + 20] ^= 1;
        let told = |error: FileError| match error {
            FileError::Damaged { offset, .. } => offset,
            other => panic!("{other}"),
        };
        let file = open(flipped).expect("its ends are whole");
        // Each time, by whatever leads there.
        assert_eq!(file.check_ends().map_err(told), Err(offset));
        assert_eq!(file.get(key, Lsn::MAX).map_err(told), Err(offset));
        let mut cursor = FileCursor::new(std::sync::Arc::clone(&file));
        assert_eq!(cursor.first().map_err(told), if is_index { Err(offset) } else { Ok(true) });
        assert_eq!(cursor.seek(key, Lsn::MAX).is_err(), is_index);
        assert_eq!(file.verify().map_err(told), Err(offset));
        let mut found = Vec::new();
        file.inspect(&mut |error| found.push(told(error)), &mut |_| ());
        assert_eq!(found, [offset]);
    }
}

/// Packs what it was given when that is taken, or one later given before.
#[derive(Debug, Default)]
struct Later(std::sync::Mutex<(u64, BTreeMap<u64, Group>)>);

impl Packing for Later {
    fn give(&self, mut group: Group) -> u64 {
        let (next, known) = &mut *self.0.lock().expect("no panic");
        *next += 1;
        if next.is_multiple_of(2) {
            group.pack();
        }
        known.insert(*next, group);
        *next
    }

    fn take(&self, number: u64) -> Option<Group> {
        let (_, known) = &mut *self.0.lock().expect("no panic");
        assert_eq!(known.keys().next(), Some(&number), "in the order they were given in");
        let mut group = known.remove(&number)?;
        if !number.is_multiple_of(2) {
            group.pack();
        }
        Some(group)
    }
}

#[test]
fn a_file_whose_blocks_others_compress_has_the_same_bytes() {
    for (keys, block_bytes) in [(0, 512), (1, 512), (30, 512), (20_000, 512), (20_000, 9000)] {
        let versions = versions(keys, 5);
        let options = SstableOptions { block_bytes, ..SstableOptions::default() };
        let writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
        let packed = write_to(writer.pack_by(std::sync::Arc::new(Later::default())), &versions);
        assert!(packed == write(&versions, options), "{keys} keys");
    }
}

#[test]
fn who_compresses_blocks_and_is_gone_is_an_error() {
    #[derive(Debug)]
    struct Gone;
    impl Packing for Gone {
        fn give(&self, _: Group) -> u64 {
            0
        }
        fn take(&self, _: u64) -> Option<Group> {
            None
        }
    }
    let options = SstableOptions::default();
    let writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
    let mut writer = writer.pack_by(std::sync::Arc::new(Gone));
    writer.add(b"key", lsn(1), Kind::Put, 0, b"value").expect("nothing is given yet");
    assert!(writer.finish().is_err());
}
