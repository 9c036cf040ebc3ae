//! Keyed hash of a key: 64 bits, of which the side-car takes the top for the place and the bottom for
//! the tag.
//!
//! Clients choose keys, so the multiplier words are secret: derived from a seed that the engine draws
//! from the operating system. With known words an attacker could pick keys whose product is zero
//! whatever the state (the weakness of unkeyed multiply-fold hashes); with secret ones that is a
//! guess at 64 bits. It is not a cryptographic hash: it keeps probe runs short, nothing more.
//!
//! 1. Equal keys have equal hashes; nothing else is promised, and nothing but speed hangs on it.

/// The secret words.
pub(crate) struct Hasher {
    words: [u64; 4],
}

impl Hasher {
    /// The hasher of this seed. The words come from SplitMix64 (Steele, Lea, Flood, 2014).
    pub(crate) fn new(seed: u64) -> Hasher {
        let mut state = seed;
        let words = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) | 1
        });
        Hasher { words }
    }

    /// The hash of `key`.
    #[inline]
    pub(crate) fn hash(&self, key: &[u8]) -> u64 {
        let [start, low_word, high_word, end] = self.words;
        let mut state = start ^ key.len() as u64;
        let mut rest = key;
        while rest.len() > 16 {
            state = fold(eight(rest) ^ low_word ^ state, eight(&rest[8..]) ^ high_word);
            rest = &rest[16..];
        }
        // The last 1..=16 bytes, read as two words that may overlap.
        let (low, high) = match rest.len() {
            8..=16 => (eight(rest), eight(&rest[rest.len() - 8..])),
            4..=7 => (four(rest), four(&rest[rest.len() - 4..])),
            1..=3 => (
                u64::from(rest[0]) | u64::from(rest[rest.len() / 2]) << 8,
                u64::from(rest[rest.len() - 1]),
            ),
            _ => (0, 0),
        };
        fold(fold(low ^ low_word ^ state, high ^ high_word), end)
    }
}

/// Both halves of the 128-bit product, folded into one.
#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

#[inline(always)]
fn eight(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn four(bytes: &[u8]) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[..4]);
    u64::from(u32::from_le_bytes(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_length_and_every_byte_counts() {
        let hasher = Hasher::new(7);
        let mut seen = HashSet::new();
        let key: Vec<u8> = (0..70u8).map(|b| b.wrapping_mul(37)).collect();
        for len in 0..=key.len() {
            assert!(seen.insert(hasher.hash(&key[..len])), "length {len}");
            for at in 0..len {
                let mut other = key[..len].to_vec();
                other[at] ^= 1;
                assert!(seen.insert(hasher.hash(&other)), "length {len}, byte {at}");
            }
        }
    }

    #[test]
    fn seeds_give_unrelated_hashes() {
        assert_ne!(Hasher::new(1).hash(b"key"), Hasher::new(2).hash(b"key"));
    }

    #[test]
    fn counting_keys_spread_over_places_and_tags() {
        let hasher = Hasher::new(3);
        let (mut places, mut tags) = (vec![0u32; 256], vec![0u32; 256]);
        for i in 0..65_536u32 {
            let hash = hasher.hash(format!("user{i:016}").as_bytes());
            places[(hash >> 56) as usize] += 1;
            tags[(hash & 255) as usize] += 1;
        }
        // 256 expected in each, with a standard deviation of 16: seven of them is never chance.
        for counts in [places, tags] {
            assert!(counts.iter().all(|&n| (144..368).contains(&n)), "{counts:?}");
        }
    }
}
