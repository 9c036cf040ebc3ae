//! Log sequence numbers: the place of a commit in the log, and so its timestamp.
//!
//! ```text
//!  63 62                46 45                                           0
//! ┌──┬───────────────────┬──────────────────────────────────────────────┐
//! │ 0│  recovery epoch   │                    counter                   │
//! └──┴───────────────────┴──────────────────────────────────────────────┘
//!   1        17 bits                          46 bits
//! ```
//!
//! 1. Numbers compare as they were given out: a later epoch is above every number of an earlier
//!    one, and within an epoch the counter starts at 1 and has no gaps.
//! 2. Bit 63 is 0. It is kept to tell an undecided stamp from a decided one.
//! 3. [`Lsn::ZERO`] is no commit's number: it means "nothing yet".

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

const COUNTER_BITS: u32 = 46;
const EPOCH_BITS: u32 = 17;

/// A log sequence number. It counts commits, not bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// Before every commit.
    pub const ZERO: Lsn = Lsn(0);
    /// After every commit that can ever be.
    pub const MAX: Lsn = Lsn((1 << (COUNTER_BITS + EPOCH_BITS)) - 1);
    /// The last recovery epoch: 131,071 unclean opens.
    pub const EPOCH_MAX: u32 = (1 << EPOCH_BITS) - 1;
    /// The last counter of an epoch: 70 trillion commits, two years at a million a second.
    pub const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;

    /// The `counter`-th commit of a recovery epoch.
    ///
    /// # Panics
    /// If either part is above its maximum; recovery and the log check before they get there.
    pub const fn new(epoch: u32, counter: u64) -> Lsn {
        assert!(epoch <= Lsn::EPOCH_MAX, "the recovery epoch does not fit");
        assert!(counter <= Lsn::COUNTER_MAX, "the commit counter does not fit");
        Lsn(((epoch as u64) << COUNTER_BITS) | counter)
    }

    /// The number as it is stored. Bit 63 is dropped: whoever keeps something there takes it out
    /// first.
    pub const fn from_bits(bits: u64) -> Lsn {
        Lsn(bits & Lsn::MAX.0)
    }

    /// The number as it is stored; bit 63 is 0.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The recovery epoch that gave the number out.
    pub const fn epoch(self) -> u32 {
        (self.0 >> COUNTER_BITS) as u32
    }

    /// Its place within the epoch; 0 stands before the epoch's first commit.
    pub const fn counter(self) -> u64 {
        self.0 & Lsn::COUNTER_MAX
    }

    /// The LSN before this one, as bounds go: of the first of an epoch, the last that the epoch before could
    /// have had. [`Lsn::ZERO`] has none.
    #[must_use]
    pub const fn before(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// The commit after this one, in the same epoch.
    ///
    /// # Panics
    /// When the epoch's counter is used up, rather than run into the next epoch.
    pub const fn next(self) -> Lsn {
        assert!(self.counter() < Lsn::COUNTER_MAX, "the epoch's commit counter is used up");
        Lsn(self.0 + 1)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch(), self.counter())
    }
}

/// What is no `epoch:counter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseLsnError;

impl fmt::Display for ParseLsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected a timestamp, EPOCH:COUNTER, like 0:1234")
    }
}

impl std::error::Error for ParseLsnError {}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let number = |digits: &str| -> Option<u64> {
            // A number alone: no sign.
            let plain = digits.bytes().all(|digit| digit.is_ascii_digit());
            digits.parse().ok().filter(|_| plain)
        };
        let parts = text.split_once(':').and_then(|(epoch, counter)| {
            let epoch = u32::try_from(number(epoch)?).ok()?;
            Some((epoch, number(counter)?))
        });
        match parts {
            Some((epoch, counter)) if epoch <= Lsn::EPOCH_MAX && counter <= Lsn::COUNTER_MAX => {
                Ok(Lsn::new(epoch, counter))
            }
            _ => Err(ParseLsnError),
        }
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lsn({self})")
    }
}

/// A watermark: an [`Lsn`] that threads share. The caller picks each access's ordering and names
/// its partner there.
#[derive(Default)]
pub struct AtomicLsn(AtomicU64);

impl AtomicLsn {
    /// A watermark that stands at `lsn`.
    pub const fn new(lsn: Lsn) -> AtomicLsn {
        AtomicLsn(AtomicU64::new(lsn.0))
    }

    /// Where it stands.
    pub fn load(&self, order: Ordering) -> Lsn {
        Lsn(self.0.load(order))
    }

    /// Puts it at `lsn`.
    pub fn store(&self, lsn: Lsn, order: Ordering) {
        self.0.store(lsn.0, order);
    }

    /// Raises it to `lsn` if that is higher; returns where it stood before.
    pub fn fetch_max(&self, lsn: Lsn, order: Ordering) -> Lsn {
        Lsn(self.0.fetch_max(lsn.0, order))
    }
}

impl fmt::Debug for AtomicLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Relaxed: a figure for people, nothing is decided by it.
        write!(f, "AtomicLsn({})", self.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_as_they_went_in() {
        for (epoch, counter) in [(0, 0), (0, 1), (1, 0), (7, 99), (131_071, (1 << 46) - 1)] {
            let lsn = Lsn::new(epoch, counter);
            assert_eq!((lsn.epoch(), lsn.counter()), (epoch, counter));
            assert_eq!(Lsn::from_bits(lsn.bits()), lsn);
            assert_eq!(lsn.bits() >> 63, 0);
        }
        assert_eq!(Lsn::new(Lsn::EPOCH_MAX, Lsn::COUNTER_MAX), Lsn::MAX);
    }

    #[test]
    fn a_later_epoch_is_above_every_earlier_number() {
        assert!(Lsn::new(1, 0) > Lsn::new(0, Lsn::COUNTER_MAX));
        assert!(Lsn::new(1, 1) > Lsn::new(1, 0));
        assert!(Lsn::ZERO < Lsn::new(0, 1));
    }

    #[test]
    fn bit_63_is_never_part_of_a_number() {
        assert_eq!(Lsn::from_bits(u64::MAX), Lsn::MAX);
        assert_eq!(Lsn::from_bits((1 << 63) | 5), Lsn::new(0, 5));
    }

    #[test]
    #[should_panic(expected = "used up")]
    fn the_counter_does_not_run_into_the_next_epoch() {
        let _ = Lsn::new(3, Lsn::COUNTER_MAX).next();
    }

    #[test]
    fn a_watermark_only_rises_by_fetch_max() {
        let mark = AtomicLsn::new(Lsn::new(0, 5));
        // Relaxed throughout: one thread.
        assert_eq!(mark.fetch_max(Lsn::new(0, 3), Ordering::Relaxed), Lsn::new(0, 5));
        assert_eq!(mark.load(Ordering::Relaxed), Lsn::new(0, 5));
        mark.fetch_max(Lsn::new(1, 0), Ordering::Relaxed);
        assert_eq!(mark.load(Ordering::Relaxed), Lsn::new(1, 0));
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        for lsn in [Lsn::ZERO, Lsn::new(4, 20), Lsn::MAX] {
            assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        for wrong in [
            "",
            ":",
            "1",
            "1:",
            ":1",
            "+1:1",
            "1:-1",
            "1:1:1",
            "131072:1",
            "0:70368744177664",
            "a:1",
        ] {
            assert_eq!(wrong.parse::<Lsn>(), Err(ParseLsnError), "{wrong}");
        }
    }
}
