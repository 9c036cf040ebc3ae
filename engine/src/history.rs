//! How much of the past is kept, and for whom: the retention floor, the end of readers that are too
//! old, and what the sweep has found of history.
//!
//! Time comes in by [`Core::look_at_the_clock`], which the upkeep calls every round: it takes a sample
//! of `S`, raises the floor, and expires readers. Where there is no upkeep thread, those who prune call
//! it.
//!
//! 1. A sample is `S` first, then the time: so what was acknowledged by that time is not below it.
//! 2. The floor is the newest sample that is at least as old as the retention; at first `S` as it was
//!    recovered, since replay keeps only the newest version of a key. It only grows.
//! 3. Time as seen here does not go back: while the clock does, it stands.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use isolith_index::Freed;
use isolith_txn::SpaceId;
use isolith_wal::Lsn;
use parking_lot::Mutex;

use crate::core::Core;

/// Samples in a retention window, so that a long one takes little memory.
const SAMPLES: u64 = 1024;

/// What `S` was at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    unix_ms: u64,
    acknowledged: Lsn,
}

/// The history of one database.
#[derive(Debug)]
pub(crate) struct History {
    retention_ms: u64,
    snapshot_age_ms_max: u64,
    /// When the database was opened: the registry counts from here.
    opened_unix_ms: u64,
    /// Ascending in both, never empty; the first is the floor.
    samples: Mutex<VecDeque<Sample>>,
    snapshots_expired: AtomicU64,
    /// What the last pass over each keyspace has found.
    kept: Mutex<HashMap<SpaceId, Kept>>,
}

impl History {
    pub(crate) fn new(
        retention: Duration,
        snapshot_age_max: Duration,
        now: u64,
        recovered: Lsn,
    ) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // Less than a millisecond is not nothing.
        let retention_ms = if retention.is_zero() { 0 } else { millis(retention).max(1) };
        Self {
            retention_ms,
            snapshot_age_ms_max: millis(snapshot_age_max),
            opened_unix_ms: now,
            samples: Mutex::new(VecDeque::from([Sample { unix_ms: now, acknowledged: recovered }])),
            snapshots_expired: AtomicU64::new(0),
            kept: Mutex::default(),
        }
    }

    /// When the oldest reader began whose reads are still believed.
    pub(crate) fn oldest_reader_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.snapshot_age_ms_max)
    }

    /// Whether history is kept for its own sake.
    pub(crate) fn is_retained(&self) -> bool {
        self.retention_ms > 0
    }

    /// Notes a sample; the floor moves to what is returned.
    fn sample(&self, samples: &mut VecDeque<Sample>, sample: Sample) -> Lsn {
        let old =
            |sample: &Sample, now: u64| now.saturating_sub(sample.unix_ms) >= self.retention_ms;
        let last = samples.back().copied().unwrap_or(sample);
        let now = sample.unix_ms.max(last.unix_ms);
        if sample.acknowledged > last.acknowledged
            && now - last.unix_ms >= self.retention_ms / SAMPLES
        {
            samples.push_back(Sample { unix_ms: now, ..sample });
        }
        while samples.get(1).is_some_and(|next| old(next, now)) {
            samples.pop_front();
        }
        samples.front().map_or(Lsn::ZERO, |floor| floor.acknowledged)
    }

    /// The last `S` known to have been reached by a time; `None` for before the window.
    fn at(&self, unix_ms: u64) -> Option<Lsn> {
        let samples = self.samples.lock();
        let after = samples.partition_point(|sample| sample.unix_ms <= unix_ms);
        samples.get(after.checked_sub(1)?).map(|sample| sample.acknowledged)
    }

    /// Milliseconds since the floor was `S`.
    pub(crate) fn reach_ms(&self, now: u64) -> Option<u64> {
        let floor = self.samples.lock().front().copied();
        floor.filter(|_| self.is_retained()).map(|floor| now.saturating_sub(floor.unix_ms))
    }

    pub(crate) fn snapshots_expired(&self) -> u64 {
        // Relaxed: a statistic.
        self.snapshots_expired.load(Ordering::Relaxed)
    }

    /// A pass over a keyspace is complete. `spaces` are those that there are.
    pub(crate) fn note_kept(&self, space: SpaceId, kept: Kept, spaces: &[SpaceId]) {
        let mut all = self.kept.lock();
        all.insert(space, kept);
        all.retain(|id, _| spaces.contains(id));
    }

    /// What the last passes have found, all keyspaces together.
    pub(crate) fn kept(&self) -> Kept {
        let mut sum = Kept::default();
        for kept in self.kept.lock().values() {
            sum.versions += kept.versions;
            sum.bytes += kept.bytes;
            sum.add_oldest(kept.oldest, kept.oldest_bytes);
        }
        sum
    }
}

/// Versions that are not the newest of their key, as a pass of pruning left them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) versions: usize,
    pub(crate) bytes: usize,
    /// The oldest timestamp that was needed, if it was the same throughout.
    pub(crate) oldest: Option<Lsn>,
    /// Of the bytes, those that nothing but that timestamp needed.
    pub(crate) oldest_bytes: usize,
}

impl Kept {
    /// What a stretch of the pass has left, by a view whose oldest needed timestamp is `oldest`.
    pub(crate) fn add(&mut self, oldest: Option<Lsn>, freed: &Freed) {
        self.versions += freed.kept_versions;
        self.bytes += freed.kept_bytes;
        self.add_oldest(oldest, freed.kept_bytes_oldest);
    }

    /// Bytes count for the oldest of the oldest.
    fn add_oldest(&mut self, oldest: Option<Lsn>, bytes: usize) {
        match (self.oldest, oldest) {
            (Some(mine), Some(other)) if mine < other => {}
            (Some(mine), Some(other)) if mine == other => self.oldest_bytes += bytes,
            (Some(_), None) => {}
            _ => (self.oldest, self.oldest_bytes) = (oldest, bytes),
        }
    }
}

impl Core {
    /// Takes note of the time: raises the retention floor, expires readers that are too old.
    pub(crate) fn look_at_the_clock(&self) {
        let history = self.history();
        // First the mark, then the time (invariant 1).
        let acknowledged = self.marks().acknowledged();
        let unix_ms = self.now();
        let registry = self.registry();
        if history.is_retained() {
            let mut samples = history.samples.lock();
            let floor = history.sample(&mut samples, Sample { unix_ms, acknowledged });
            // Under the mutex: one thread at a time.
            registry.raise_floor(floor);
        }
        let now = registry.tick(unix_ms.saturating_sub(history.opened_unix_ms));
        if let Some(since) = now.checked_sub(history.snapshot_age_ms_max) {
            let expired = registry.expire(since) as u64;
            // Relaxed: a statistic.
            history.snapshots_expired.fetch_add(expired, Ordering::Relaxed);
        }
    }

    /// The last timestamp known to have been acknowledged by `unix_ms`.
    pub(crate) fn timestamp_at(&self, unix_ms: u64) -> Option<Lsn> {
        self.history().at(unix_ms).filter(|_| self.history().is_retained())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(counter: u64) -> Lsn {
        Lsn::new(1, counter)
    }

    fn history(retention_ms: u64) -> History {
        History::new(Duration::from_millis(retention_ms), Duration::MAX, 1_000, lsn(7))
    }

    fn sample(history: &History, unix_ms: u64, acknowledged: u64) -> u64 {
        let sample = Sample { unix_ms, acknowledged: lsn(acknowledged) };
        history.sample(&mut history.samples.lock(), sample).counter()
    }

    #[test]
    fn the_floor_is_the_newest_sample_that_is_old_enough() {
        let history = history(100);
        assert_eq!(sample(&history, 1_000, 7), 7);
        assert_eq!(sample(&history, 1_050, 20), 7);
        assert_eq!(sample(&history, 1_080, 30), 7);
        assert_eq!(sample(&history, 1_149, 30), 7);
        assert_eq!(sample(&history, 1_150, 40), 20);
        assert_eq!(sample(&history, 1_185, 40), 30);
        assert_eq!(sample(&history, 9_000, 40), 40, "nothing was written for long");
        assert_eq!(history.reach_ms(9_100), Some(9_100 - 1_150));
    }

    #[test]
    fn a_clock_that_goes_back_stands() {
        let history = history(100);
        assert_eq!(sample(&history, 2_000, 8), 7);
        assert_eq!(sample(&history, 1_500, 9), 7);
        assert_eq!(sample(&history, 2_100, 10), 9, "which was sampled at 2000, as far as we know");
    }

    #[test]
    fn a_time_is_found_by_the_last_sample_before_it() {
        let history = history(100);
        sample(&history, 1_050, 20);
        sample(&history, 1_080, 30);
        let at = |unix_ms| history.at(unix_ms).map(Lsn::counter);
        assert_eq!([at(999), at(1_000), at(1_049), at(1_050)], [None, Some(7), Some(7), Some(20)]);
        assert_eq!(at(5_000), Some(30));
    }

    #[test]
    fn a_long_window_takes_a_bounded_number_of_samples() {
        let history = history(3_600_000);
        for round in 0..400_000 {
            sample(&history, 1_000 + 20 * round, 7 + round);
        }
        let samples = history.samples.lock().len();
        assert!((1_000..=1_026).contains(&samples), "{samples}");
    }

    #[test]
    fn bytes_are_summed_for_the_oldest_timestamp() {
        let mut kept = Kept::default();
        let add = |kept: &mut Kept, oldest, bytes| kept.add_oldest(oldest, bytes);
        add(&mut kept, Some(lsn(5)), 10);
        add(&mut kept, Some(lsn(5)), 1);
        add(&mut kept, Some(lsn(9)), 50);
        add(&mut kept, None, 0);
        assert_eq!((kept.oldest, kept.oldest_bytes), (Some(lsn(5)), 11));
        add(&mut kept, Some(lsn(3)), 2);
        assert_eq!((kept.oldest, kept.oldest_bytes), (Some(lsn(3)), 2));
    }
}
