//! The limit on what is written to files in the background: a token bucket.
//!
//! 1. Flushes are counted and never wait: what they take, compactions have to leave. So a flush is not
//!    starved, and writers wait no longer for memory than they would without a limit.
//! 2. A compaction waits until what was written before is paid for by time. Where flushes take all there is
//!    it stands still, until level 0 is so full that writers wait (`Files::hold_back`) and there is nothing
//!    to be flushed.
//! 3. Time is that of the database's clock; one that goes back pays nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isolith_wal::Clock;
use parking_lot::{Condvar, Mutex};

/// The clock is looked at again after this, at the latest: it may be set.
const LOOK: Duration = Duration::from_millis(20);
/// What may be written at once after a pause: so much of a second's share, or this.
const BURST_SHARE: u64 = 4;
const BURST_BYTES_MIN: u64 = 256 << 10;

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writer {
    Flush,
    Compaction,
}

/// Bytes may be written for as long as some are left; each millisecond brings more.
#[derive(Debug)]
struct Bucket {
    bytes_per_second: u64,
    /// Thousandths of bytes; below zero where more was written than was there.
    left: i128,
    /// When it was last filled, in Unix milliseconds.
    filled_ms: u64,
    /// Times that a compaction had to wait, and for how long by the clock.
    waits: u64,
    waited_ms: u64,
    over: bool,
}

impl Bucket {
    fn new(bytes_per_second: u64, now_ms: u64) -> Self {
        let bytes_per_second = bytes_per_second.max(1);
        let left = Self::most(bytes_per_second);
        Self { bytes_per_second, left, filled_ms: now_ms, waits: 0, waited_ms: 0, over: false }
    }

    fn most(bytes_per_second: u64) -> i128 {
        i128::from((bytes_per_second / BURST_SHARE).max(BURST_BYTES_MIN)) * 1000
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        let more = i128::from(passed_ms) * i128::from(self.bytes_per_second);
        self.left = (self.left + more).min(Self::most(self.bytes_per_second));
        self.filled_ms = now_ms;
    }

    /// Takes so many bytes; otherwise gives the time until it can be tried again.
    fn take(&mut self, bytes: usize, writer: Writer, now_ms: u64) -> Result<(), Duration> {
        self.fill(now_ms);
        if writer == Writer::Compaction && self.left <= 0 && !self.over {
            let wait_ms = -self.left / i128::from(self.bytes_per_second) + 1;
            return Err(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(u64::MAX)));
        }
        self.left -= bytes as i128 * 1000;
        Ok(())
    }
}

/// What all that write in the background go by.
pub(super) struct Throttle {
    clock: Arc<dyn Clock>,
    bucket: Mutex<Bucket>,
    changed: Condvar,
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

impl Throttle {
    pub(super) fn new(bytes_per_second: u64, clock: &Arc<dyn Clock>) -> Self {
        let bucket = Mutex::new(Bucket::new(bytes_per_second, clock.unix_millis()));
        Self { clock: Arc::clone(clock), bucket, changed: Condvar::new() }
    }

    /// Waits until so many bytes may be written: a compaction does.
    pub(super) fn take(&self, bytes: usize, writer: Writer) {
        let began_ms = self.clock.unix_millis();
        let mut bucket = self.bucket.lock();
        let (mut now_ms, mut waits) = (began_ms, 0);
        while let Err(wait) = bucket.take(bytes, writer, now_ms) {
            bucket.waits += 1 - waits;
            waits = 1;
            self.changed.wait_for(&mut bucket, wait.min(LOOK));
            now_ms = parking_lot::MutexGuard::unlocked(&mut bucket, || self.clock.unix_millis());
        }
        bucket.waited_ms += now_ms.saturating_sub(began_ms);
    }

    /// From now on nobody waits.
    pub(super) fn end(&self) {
        self.bucket.lock().over = true;
        self.changed.notify_all();
    }

    /// Bytes in a second, times that somebody waited, and for how many milliseconds together.
    pub(super) fn figures(&self) -> (u64, u64, u64) {
        let bucket = self.bucket.lock();
        (bucket.bytes_per_second, bucket.waits, bucket.waited_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 8 << 20;
    const WRITE: usize = 256 << 10;

    #[test]
    fn a_compaction_writes_what_time_pays_for() {
        let mut bucket = Bucket::new(RATE, 0);
        let (mut now_ms, mut written) = (0, 0u64);
        while now_ms < 60_000 {
            match bucket.take(WRITE, Writer::Compaction, now_ms) {
                Ok(()) => written += WRITE as u64,
                Err(wait) => {
                    assert!(!wait.is_zero());
                    let wait = u64::try_from(wait.as_millis()).expect("short");
                    assert!(bucket.take(WRITE, Writer::Compaction, now_ms + wait - 1).is_err());
                    now_ms += wait;
                }
            }
        }
        let paid = RATE * 60;
        let most = paid + RATE / BURST_SHARE + WRITE as u64;
        assert!((paid..=most).contains(&written), "{written} bytes of {paid}");
    }

    #[test]
    fn a_flush_never_waits_and_a_compaction_pays_for_it() {
        let mut bucket = Bucket::new(RATE, 0);
        for _ in 0..64 {
            bucket.take(WRITE, Writer::Flush, 0).expect("a flush never waits");
        }
        // Sixteen megabytes are written, two of which were there: the rest takes a second and three quarters.
        let wait = bucket.take(WRITE, Writer::Compaction, 0).expect_err("it is to wait");
        assert_eq!(wait, Duration::from_millis(1751));
        bucket.take(WRITE, Writer::Flush, 1).expect("nor does the next one");
        bucket.take(WRITE, Writer::Compaction, 1751).expect_err("which took its share");
        bucket.take(WRITE, Writer::Compaction, 1783).expect("it is paid");
    }

    #[test]
    fn a_low_rate_pays_in_the_end_and_a_clock_that_goes_back_pays_nothing() {
        let mut bucket = Bucket::new(1, 0);
        bucket.take(WRITE + 1, Writer::Flush, 0).expect("a flush never waits");
        for now_ms in 0..=1000 {
            bucket.take(1, Writer::Compaction, now_ms).expect_err("it is to wait");
        }
        bucket.take(1, Writer::Compaction, 500).expect_err("as the clock was set back");
        bucket.take(1, Writer::Compaction, 501).expect("a second has passed, and some");
        bucket.over = true;
        bucket.take(1 << 40, Writer::Compaction, 0).expect("nobody waits at the end");
        bucket.take(1 << 40, Writer::Compaction, 0).expect("nobody waits at the end");
    }
}
