//! The filter of a file: says of most keys that the file does not have, that it does not have them.
//!
//! A *blocked Bloom filter* (Putze, Sanders and Singler, 2007): a key's bits all lie in one line of 64
//! bytes, so that a look costs one cache miss. Ten bits a key and six probes pass about one in eighty
//! keys that are not there.
//!
//! Our own, since it is forty lines whose bytes are part of the file format: a crate's filter may change
//! with its versions. Xor and ribbon filters take a quarter less room and need all keys in memory, several
//! times over, while they are built.
//!
//! 1. A key that was added always passes.

use crate::hash::Hasher;

/// Bytes of a line.
const LINE_BYTES: usize = 64;
/// Bits set for each key.
const PROBES: u32 = 6;
/// Seed of the hash.
const SEED: u64 = 0x69_73_6f_6c_69_74_68;

/// The hash that places keys in filters: the same in every file, so it is part of the format. Whoever
/// chooses keys that pass it makes reads slower, not wrong.
pub(crate) fn hasher() -> Hasher {
    Hasher::new(SEED)
}

/// A key's line, and the bits in it.
fn place(hash: u64, lines: usize) -> (usize, impl Iterator<Item = (usize, u8)>) {
    // The upper half scaled to the number of lines, the lower half for the bits.
    let line = ((hash >> 32) * lines as u64) >> 32;
    let mut bits = (hash as u32).wrapping_mul(0x9e37_79b9) | 1;
    let probes = (0..PROBES).map(move |_| {
        let bit = (bits >> 23) as usize;
        bits = bits.wrapping_mul(0x85eb_ca6b).rotate_left(13) | 1;
        (bit / 8, 1 << (bit % 8))
    });
    (line as usize, probes)
}

/// The filter over these hashes.
pub(crate) fn build(hashes: &[u64], bits_per_key: usize, into: &mut Vec<u8>) {
    let lines = (hashes.len() * bits_per_key).div_ceil(8 * LINE_BYTES).max(1);
    let start = into.len();
    into.resize(start + lines * LINE_BYTES, 0);
    let filter = &mut into[start..];
    for hash in hashes {
        let (line, probes) = place(*hash, lines);
        let line = &mut filter[line * LINE_BYTES..][..LINE_BYTES];
        for (byte, bit) in probes {
            line[byte] |= bit;
        }
    }
}

/// Whether a key with this hash may have been added. A filter without a whole line passes all.
pub(crate) fn may_have(filter: &[u8], hash: u64) -> bool {
    let lines = filter.len() / LINE_BYTES;
    if lines == 0 {
        return true;
    }
    let (line, mut probes) = place(hash, lines);
    let line = &filter[line * LINE_BYTES..][..LINE_BYTES];
    probes.all(|(byte, bit)| line[byte] & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_passes_and_little_else_does() {
        let hasher = hasher();
        let hash = |number: u32| hasher.hash(format!("key{number:08}").as_bytes());
        let added: Vec<_> = (0..100_000).map(hash).collect();
        let mut filter = Vec::new();
        build(&added, 10, &mut filter);
        assert!(added.iter().all(|hash| may_have(&filter, *hash)));
        let wrong = (100_000..300_000).filter(|number| may_have(&filter, hash(*number))).count();
        assert!(wrong < 200_000 / 50, "{wrong} of 200,000 pass");
    }

    #[test]
    fn an_empty_filter_has_nothing_and_none_passes_all() {
        let mut filter = Vec::new();
        build(&[], 10, &mut filter);
        assert!(!may_have(&filter, 1));
        assert!(may_have(&[], 1));
    }
}
