//! Which keys are fought for: the temperature that [`Concurrency::Auto`](crate::Concurrency::Auto)
//! decides by.
//!
//! A conflict warms the key's bucket by the work that it wasted, counted in operations; a wait for a
//! lock by [`Heat::WAIT`], about what it costs. Commits let it cool: its temperature halves with every
//! [`HALF_LIFE`] commits that the database decides. So no clock is read, a run can be repeated, and a key
//! is hot as long as about sixteen operations are wasted for it with each commit, or every commit
//! waits for it: to put a thread to sleep and wake it costs as much as dozens of operations, so that short
//! transactions do better to run again.
//!
//! Buckets are by hash of keyspace and key: a hot key warms itself and, rarely, a stranger that shares
//! its bucket, which then is locked without need. That costs a lock, never an answer.
//!
//! Source: MOCC (Wang and Kimura, 2016), whose temperatures are by page.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};

use isolith_wal::Lsn;

use crate::space::SpaceId;
use crate::sync::{AtomicU64, Ordering};

/// Buckets: a power of two.
const BUCKETS: usize = 1 << 12;
/// The most that one conflict adds: a very long transaction is one transaction still.
const WASTE_MAX: usize = 1 << 13;
/// From here on a key is hot.
const HOT: u64 = 1 << 15;
/// The most that a bucket holds: so it cools within a few half-lives, however long it was fought for.
const TEMPERATURE_MAX: u64 = (1 << 17) - 1;
/// Commits in which a temperature halves.
const HALF_LIFE: u64 = 1 << 10;
/// Bits of a bucket that hold the temperature; the others hold the half-life, counted from the first
/// commit, that it was written in.
const TEMPERATURE_BITS: u32 = 17;

/// The temperatures of one database's keys.
#[derive(Debug)]
pub struct Heat {
    buckets: Box<[AtomicU64]>,
    hasher: RandomState,
    /// The commit counter up to which some key may be hot: beyond it nobody needs to hash a key.
    hot_until: AtomicU64,
    conflicts: AtomicU64,
}

impl Default for Heat {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            hasher: RandomState::new(),
            hot_until: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
        }
    }
}

/// The temperature of a bucket's word at a commit counter.
fn temperature(word: u64, now: u64) -> u64 {
    let (temperature, then) = (word & ((1 << TEMPERATURE_BITS) - 1), word >> TEMPERATURE_BITS);
    let half_lives = (now / HALF_LIFE).saturating_sub(then);
    temperature.checked_shr(u32::try_from(half_lives).unwrap_or(u32::MAX)).unwrap_or(0)
}

impl Heat {
    /// The waste that a wait for a lock counts as.
    pub const WAIT: usize = 16;

    /// All keys are cold.
    pub fn new() -> Self {
        Self::default()
    }

    fn bucket(&self, space: SpaceId, key: &[u8]) -> &AtomicU64 {
        let mut hasher = self.hasher.build_hasher();
        space.hash(&mut hasher);
        key.hash(&mut hasher);
        &self.buckets[hasher.finish() as usize & (BUCKETS - 1)]
    }

    /// Notes that a transaction was refused for this key and `waste` operations were in vain, or that
    /// it had to wait for a lock ([`Heat::WAIT`]), when `now` was the newest commit.
    pub fn warm(&self, space: SpaceId, key: &[u8], waste: usize, now: Lsn) {
        let now = now.counter();
        let bucket = self.bucket(space, key);
        // Relaxed, all: temperatures order no other memory, and a lost update is a little heat.
        let warmer = temperature(bucket.load(Ordering::Relaxed), now) + waste.min(WASTE_MAX) as u64;
        let warmer = warmer.min(TEMPERATURE_MAX);
        bucket.store((now / HALF_LIFE) << TEMPERATURE_BITS | warmer, Ordering::Relaxed);
        self.conflicts.fetch_add(1, Ordering::Relaxed);
        if warmer >= HOT {
            // A temperature of at most TEMPERATURE_MAX is below HOT after three half-lives.
            self.hot_until.fetch_max(now + 4 * HALF_LIFE, Ordering::Relaxed);
        }
    }

    /// Whether a key is worth a lock, when `now` is the newest commit.
    pub fn is_hot(&self, space: SpaceId, key: &[u8], now: Lsn) -> bool {
        let now = now.counter();
        // Relaxed: see `warm`.
        now <= self.hot_until.load(Ordering::Relaxed)
            && temperature(self.bucket(space, key).load(Ordering::Relaxed), now) >= HOT
    }

    /// All keys are cold again.
    pub fn cool(&self) {
        // Relaxed, all: see `warm`.
        self.hot_until.store(0, Ordering::Relaxed);
        if self.conflicts.swap(0, Ordering::Relaxed) > 0 {
            self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
        }
    }

    /// Hot buckets, and conflicts noted so far.
    pub fn stats(&self, now: Lsn) -> (usize, u64) {
        // Relaxed: statistics.
        let hot = |b: &&AtomicU64| temperature(b.load(Ordering::Relaxed), now.counter()) >= HOT;
        (self.buckets.iter().filter(hot).count(), self.conflicts.load(Ordering::Relaxed))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(counter: u64) -> Lsn {
        Lsn::new(0, counter)
    }

    #[test]
    fn a_key_is_hot_while_it_is_fought_for_and_cools_with_commits() {
        let heat = Heat::new();
        assert!(!heat.is_hot(1, b"k", at(10)));
        heat.warm(1, b"k", 4, at(10));
        assert!(!heat.is_hot(1, b"k", at(10)), "a conflict happens to everybody");
        for _ in 0..4 {
            heat.warm(1, b"k", 1_000_000, at(20));
        }
        assert!(heat.is_hot(1, b"k", at(20)));
        assert!(!heat.is_hot(2, b"k", at(20)), "another keyspace's key");
        assert!(!heat.is_hot(1, b"k", at(20 + HALF_LIFE)));
        for _ in 0..2 * TEMPERATURE_MAX {
            heat.warm(1, b"k", 1, at(HALF_LIFE));
        }
        assert!(heat.is_hot(1, b"k", at(2 * HALF_LIFE)));
        assert!(!heat.is_hot(1, b"k", at(5 * HALF_LIFE)));
        assert_eq!(heat.stats(at(HALF_LIFE)), (1, 5 + 2 * TEMPERATURE_MAX));
    }

    #[test]
    fn a_little_waste_that_goes_on_for_ever_heats_nothing() {
        let heat = Heat::new();
        for commits in 0..100 * HALF_LIFE {
            heat.warm(1, b"k", 4, at(commits));
            assert!(!heat.is_hot(1, b"k", at(commits)), "after {commits}");
        }
    }
}
