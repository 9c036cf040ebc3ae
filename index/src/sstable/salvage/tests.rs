//! A file is damaged in every way that a test can think of: what is left is right, and what is not left is
//! told.

use std::collections::BTreeMap;

use super::super::{Compression, FileId, PrefixExtractor, SstableOptions, SstableWriter};
use super::*;
use crate::testing::Random;

const DATABASE: DatabaseId = DatabaseId(9);
const FILE: FileId = FileId(4);
const SPACE: u32 = 6;

type Versions = BTreeMap<(Vec<u8>, std::cmp::Reverse<Lsn>), (Kind, u64, Vec<u8>)>;

fn versions(random: &mut Random) -> Versions {
    let mut versions = Versions::new();
    for number in 0..70 {
        let key = format!("key{:03}{}", number, "x".repeat(random.below(20))).into_bytes();
        for _ in 0..1 + random.below(3) {
            let stamp = std::cmp::Reverse(Lsn::new(0, 1 + random.below(10_000) as u64));
            let value = vec![b'a' + random.below(26) as u8; random.below(60)];
            let kind = [Kind::Put, Kind::Delete, Kind::Merge { operator: 3 }][random.below(3)];
            versions.insert((key.clone(), stamp), (kind, random.below(2) as u64, value));
        }
    }
    versions
}

/// A reference to a value that is in no file.
fn apart(stamp: Lsn, value: &[u8]) -> ValueRef {
    let bytes = value.len() as u64;
    ValueRef { file: FileId(99), offset: stamp.counter(), bytes, value_bytes: u64::from(value[0]) }
}

fn written(versions: &Versions, random: &mut Random, range_deletes: bool) -> Vec<u8> {
    let options = SstableOptions {
        space: SPACE,
        block_bytes: 60 << random.below(4),
        compression: [Compression::None, Compression::Lz4, Compression::Zstd(1)][random.below(3)],
        filter_bits_per_key: [0, 10][random.below(2)],
        prefixes: [None, Some(PrefixExtractor::Length(3))][random.below(2)],
    };
    let mut writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
    for ((key, stamp), (kind, time, value)) in versions {
        if *kind == Kind::Put && value.len() > 40 {
            writer.add_large(key, stamp.0, *time, apart(stamp.0, value)).expect("memory");
        } else {
            writer.add(key, stamp.0, *kind, *time, value).expect("memory");
        }
    }
    if range_deletes {
        writer.add_range_delete(b"key01", Some(b"key02"), Lsn::new(0, 77));
    }
    writer.finish().expect("memory").0
}

fn lies_in(key: &[u8], lost: &LostPart) -> bool {
    let Lost::Versions(after, through) = &lost.lost else { return false };
    let after = after.as_ref().is_none_or(|(after, with)| key > &**after || *with && key == after);
    after && through.as_deref().is_none_or(|through| key <= through)
}

/// Checks what is left of a file; gives how many versions are not.
fn check(bytes: Vec<u8>, versions: &Versions, range_deletes: bool, when: &str) -> usize {
    let salvaged = Salvaged::of(Box::new(bytes), DATABASE, FILE);
    let mut left = versions.clone();
    let mut cursor = SalvageCursor::new(&salvaged);
    let (mut entries, mut last) = (0, None);
    while cursor.advance() {
        let (key, stamp, kind, time, value) = cursor.version().expect("at a version");
        let at = (key.to_vec(), std::cmp::Reverse(stamp));
        let was = left.remove(&at).unwrap_or_else(|| panic!("{when}: never written, or twice"));
        assert_eq!((was.0, was.1), (kind, time), "{when}");
        match value {
            SalvagedValue::Here(value) => assert_eq!(was.2, value, "{when}"),
            SalvagedValue::Large(reference) => {
                assert_eq!(reference, apart(stamp, &was.2), "{when}")
            }
        }
        assert!(last.as_ref() < Some(&at), "{when}: out of order");
        last = Some(at);
        entries += 1;
    }
    assert_eq!(entries, salvaged.entries());
    for (key, _) in left.keys() {
        let told = salvaged.lost().iter().any(|lost| lies_in(key, lost));
        assert!(told, "{when}: {} is lost and not told: {salvaged:?}", key.escape_ascii());
    }
    match salvaged.range_deletes() {
        [] if range_deletes => {
            let told = |lost: &LostPart| {
                matches!(lost.lost, Lost::RangeDeletes | Lost::Versions(None, None))
            };
            assert!(salvaged.lost().iter().any(told), "{when}: {salvaged:?}");
        }
        [] => {}
        found => assert_eq!(found.len(), usize::from(range_deletes), "{when}"),
    }
    if left.is_empty() || salvaged.entries() > 0 {
        assert_eq!(salvaged.space(), Some(SPACE), "{when}: {salvaged:?}");
    }
    left.len()
}

#[test]
fn a_sound_file_loses_nothing() {
    let mut random = Random::from_environment("a_sound_file_loses_nothing");
    for range_deletes in [false, true] {
        let versions = versions(&mut random);
        let bytes = written(&versions, &mut random, range_deletes);
        assert_eq!(claimed(&bytes), Some((DATABASE, SPACE)));
        let salvaged = Salvaged::of(Box::new(bytes.clone()), DATABASE, FILE);
        assert_eq!(salvaged.lost(), []);
        assert_eq!(check(bytes.clone(), &versions, range_deletes, "sound"), 0);
        // Another database's, or another file's: nothing of it is believed.
        for (database, file) in [(DatabaseId(1), FILE), (DATABASE, FileId(5))] {
            let foreign = Salvaged::of(Box::new(bytes.clone()), database, file);
            assert_eq!(foreign.entries(), 0);
            assert_eq!(foreign.lost()[0].lost, Lost::Versions(None, None));
        }
    }
}

#[test]
fn a_bit_costs_a_block_at_most() {
    let mut random = Random::from_environment("a_bit_costs_a_block_at_most");
    for range_deletes in [false, true] {
        let versions = versions(&mut random);
        let bytes = written(&versions, &mut random, range_deletes);
        let mut lost = 0;
        for place in 0..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[place] ^= 1 << random.below(8);
            let when = format!("a bit at {place} of {}", bytes.len());
            let told = Salvaged::of(Box::new(bytes.clone()), DATABASE, FILE).lost().to_vec();
            assert!(!told.is_empty(), "{when}");
            let gone = check(bytes, &versions, range_deletes, &when);
            // A version may have 100 bytes, and a block not quite 600.
            assert!(gone <= 60, "{when}: {gone} versions");
            lost += gone;
        }
        assert!(lost > 0);
    }
}

#[test]
fn a_file_that_is_cut_short_keeps_what_lies_before() {
    let mut random = Random::from_environment("a_file_that_is_cut_short_keeps_what_lies_before");
    for range_deletes in [false, true] {
        let versions = versions(&mut random);
        let bytes = written(&versions, &mut random, range_deletes);
        let gone = |length: usize| {
            let when = format!("cut at {length} of {}", bytes.len());
            check(bytes[..length].to_vec(), &versions, range_deletes, &when)
        };
        let mut before = versions.len();
        for length in HEADER_BYTES..bytes.len() {
            let now = gone(length);
            assert!(now <= before, "more is lost of {length} bytes than of fewer");
            before = now;
        }
        assert_eq!(before, 0, "only the footer is cut");
        for length in 0..HEADER_BYTES {
            assert_eq!(gone(length), versions.len());
        }
    }
}

#[test]
fn whatever_is_overwritten_nothing_wrong_is_read() {
    let mut random = Random::from_environment("whatever_is_overwritten_nothing_wrong_is_read");
    let (mut most, mut all) = (0, 0);
    for round in 0..400 {
        let range_deletes = random.below(2) == 0;
        let versions = versions(&mut random);
        let whole = written(&versions, &mut random, range_deletes);
        let mut bytes = whole.clone();
        for _ in 0..1 + random.below(4) {
            let (from, long) = (random.below(bytes.len()), 1 + random.below(200));
            let to = (from + long).min(bytes.len());
            // The header's claim is checked by itself.
            let fill = random.below(256) as u8;
            bytes[from.max(HEADER_BYTES).min(to)..to].fill(fill);
        }
        if random.below(3) == 0 {
            // As if the end were another file's.
            let end = bytes.len() - FOOTER_BYTES;
            bytes[end..].fill(0);
        }
        let gone = check(bytes, &versions, range_deletes, &format!("round {round}"));
        most += usize::from(gone < versions.len());
        all += usize::from(gone == versions.len());
    }
    assert!(most > 300, "{most} files kept something, {all} nothing");
}

/// A file without an index, and where its blocks lie.
fn without_index(versions: &Versions, compression: Compression) -> (Vec<u8>, Vec<Section>) {
    let options = SstableOptions {
        space: SPACE,
        block_bytes: 200,
        compression,
        filter_bits_per_key: 0,
        ..SstableOptions::default()
    };
    let mut writer = SstableWriter::new(Vec::new(), DATABASE, FILE, options).expect("memory");
    for ((key, stamp), (kind, time, value)) in versions {
        writer.add(key, stamp.0, *kind, *time, value).expect("memory");
    }
    let mut bytes = writer.finish().expect("memory").0;
    let blocks = Salvaged::of(Box::new(bytes.clone()), DATABASE, FILE).blocks;
    let last = blocks.last().expect("it has some");
    bytes.truncate((last.offset + last.bytes) as usize);
    (bytes, blocks)
}

#[test]
fn a_block_whose_neighbour_is_overwritten_is_found() {
    let mut random = Random::from_environment("a_block_whose_neighbour_is_overwritten_is_found");
    let versions = versions(&mut random);
    // Zeros leave no end of the block before. One that is not compressed says where it begins; one that is, is
    // found right behind the zeros.
    for (compression, fill) in
        [(Compression::None, 0), (Compression::None, 7), (Compression::Lz4, 0)]
    {
        let (bytes, blocks) = without_index(&versions, compression);
        assert!(blocks.len() > 10);
        for lost in 0..blocks.len() {
            let mut damaged = bytes.clone();
            let Section { offset, bytes } = blocks[lost];
            damaged[offset as usize..(offset + bytes) as usize].fill(fill);
            let left = Salvaged::of(Box::new(damaged.clone()), DATABASE, FILE).blocks;
            let expected: Vec<_> = blocks.iter().copied().filter(|b| *b != blocks[lost]).collect();
            assert_eq!(left, expected, "block {lost}, {compression:?}");
            check(damaged, &versions, false, &format!("block {lost}, {compression:?}"));
        }
    }
}

#[test]
fn what_looks_much_like_frames_is_passed_over() {
    // Every place in zeros looks like the end of an empty frame; in small numbers, of frames of a few bytes.
    let zeros = vec![0; 4 << 20];
    assert_eq!(FramePlaces::of(&zeros).next_start(0), None);
    let salvaged = Salvaged::of(Box::new(zeros), DATABASE, FILE);
    assert_eq!((salvaged.entries(), salvaged.lost().is_empty()), (0, false));

    let numbers: Vec<u8> = (0..64_000_u64).flat_map(u64::to_le_bytes).collect();
    let places = FramePlaces::of(&numbers);
    let (mut start, mut starts, mut pairs) = (0, 0, 0);
    while let Some(next) = places.next_start(start + 1) {
        pairs += places.ends(next, numbers.len()).len();
        (start, starts) = (next, starts + 1);
    }
    assert!(pairs <= 2 * starts, "{pairs} frames may lie at {starts} places");
}
