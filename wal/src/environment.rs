//! Time and randomness as seams, and the one thing the system does behind our back: fork.
//!
//! 1. Nothing above this crate reads a clock or a random source; it is handed a [`Clock`] and a
//!    seed, so that a run can be replayed.
//! 2. A test's [`ManualClock`] stands still until it is told to move.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

pub mod fork;

/// Where the time of day comes from.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970 began, UTC. May go backwards, as clocks of people do.
    fn unix_millis(&self) -> u64;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the seam for the clock")]
    fn unix_millis(&self) -> u64 {
        // A clock set before 1970 reads as 1970.
        let since = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that a test moves by hand. Clones show the same time.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// A clock that stands at `unix_millis`.
    pub fn new(unix_millis: u64) -> ManualClock {
        ManualClock(Arc::new(AtomicU64::new(unix_millis)))
    }

    /// Puts the clock at a time, forwards or backwards.
    pub fn set(&self, unix_millis: u64) {
        // Relaxed: the time orders no other memory.
        self.0.store(unix_millis, Ordering::Relaxed);
    }

    /// Moves the clock forwards.
    pub fn advance(&self, millis: u64) {
        // Relaxed: the time orders no other memory.
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn unix_millis(&self) -> u64 {
        // Relaxed: the time orders no other memory.
        self.0.load(Ordering::Relaxed)
    }
}

/// 64 bits from the operating system, different at every call: for hash seeds, jitter and the
/// identity of a database. Waits only on a machine that has just booted and has no randomness yet.
pub fn random_seed() -> u64 {
    let mut bytes = [0u8; 8];
    loop {
        match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
            Ok(8) => return u64::from_ne_bytes(bytes),
            Ok(_) | Err(rustix::io::Errno::INTR) => continue,
            // No such call, or forbidden: the standard library's keys come from the system by
            // other ways (/dev/urandom), once a thread, and differ at each call.
            Err(_) => return RandomState::new().hash_one(0u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_past_2024_and_a_manual_one_stands_still() {
        assert!(SystemClock.unix_millis() > 1_704_067_200_000);
        let clock = ManualClock::new(10);
        let same = clock.clone();
        assert_eq!(same.unix_millis(), 10);
        clock.advance(5);
        assert_eq!(same.unix_millis(), 15);
        clock.set(3);
        assert_eq!(same.unix_millis(), 3);
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
