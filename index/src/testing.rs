//! What the crate's random tests share: seeded numbers that can be replayed.

/// A small generator (SplitMix64): the same seed gives the same run.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `ISOLITH_SEED` or else by the system; prints the seed, which the test harness shows
    /// when the test fails.
    pub(crate) fn from_environment(what: &str) -> Random {
        let seed = match std::env::var("ISOLITH_SEED") {
            Ok(seed) => seed.parse().expect("ISOLITH_SEED is a number"),
            Err(_) => isolith_wal::random_seed(),
        };
        println!("{what}: ISOLITH_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Asserts that two sequences are the same; says where they part, not all that is in them.
#[track_caller]
pub(crate) fn assert_same<T: PartialEq + std::fmt::Debug>(seen: &[T], expected: &[T], what: &str) {
    let differs = seen.iter().zip(expected).position(|(a, b)| a != b);
    let at = differs.unwrap_or(seen.len().min(expected.len()));
    assert!(
        differs.is_none() && seen.len() == expected.len(),
        "{what}: {} seen, {} expected; at {at}: {:?} seen, {:?} expected",
        seen.len(),
        expected.len(),
        seen.get(at),
        expected.get(at)
    );
}
