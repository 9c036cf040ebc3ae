//! Paired comparisons on a noisy machine.
//!
//! Two programs that run one after the other meet different machines: a neighbour wakes up, the
//! frequency moves. So contenders are run in short turns, one after the other, many times over, and
//! what is compared is each *round's* ratio: noise that lasts longer than a round cancels. The median
//! of the ratios is reported with an interval from their order statistics (the sign test's, exact for
//! any distribution): with 95 % confidence the true median lies in it.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// One contender's operations per second, round by round.
#[derive(Clone, Debug, Default)]
pub struct Rates(pub Vec<f64>);

impl Rates {
    /// Notes `operations` done in `elapsed`.
    pub fn push(&mut self, operations: usize, elapsed: Duration) {
        self.0.push(operations as f64 / elapsed.as_secs_f64());
    }

    /// The median rate.
    pub fn median(&self) -> f64 {
        median(&self.0)
    }
}

/// A median with the interval in which it lies with 95 % confidence.
#[derive(Clone, Copy, Debug)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The median of what was seen.
    pub median: f64,
    /// The upper end.
    pub high: f64,
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} [{:.2}, {:.2}]", self.median, self.low, self.high)
    }
}

/// How much faster `ours` is than `theirs`, by rounds.
///
/// # Panics
/// If they did not run the same number of rounds, or fewer than six.
pub fn ratio(ours: &Rates, theirs: &Rates) -> Interval {
    assert_eq!(ours.0.len(), theirs.0.len(), "a round has both");
    let ratios: Vec<f64> = ours.0.iter().zip(&theirs.0).map(|(a, b)| a / b).collect();
    interval(&ratios).expect("fewer than six rounds bound nothing at 95 %")
}

/// The median of some values with its interval; `None` if there are fewer than six.
pub fn interval(values: &[f64]) -> Option<Interval> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = interval_rank(sorted.len())?;
    let (low, high) = (sorted[rank], sorted[sorted.len() - 1 - rank]);
    Some(Interval { low, median: median(&sorted), high })
}

/// How many of the smallest (and of the largest) of `n` values lie outside the 95 % interval of their
/// median; none if there are too few for one.
fn interval_rank(n: usize) -> Option<usize> {
    // P(at most k of n fall below the median) = sum of C(n, i) / 2^n.
    let mut probability = 0.5f64.powi(n as i32);
    let mut sum = 0.0;
    let mut rank = None;
    for k in 0..n {
        sum += probability;
        if sum > 0.025 {
            break;
        }
        rank = Some(k);
        probability *= (n - k) as f64 / (k + 1) as f64;
    }
    rank
}

/// The median of some values; not a number if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Runs `work(thread)` on so many threads at once; returns the time from the moment when all were
/// ready to the moment when the last was done.
pub fn on_threads(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    if threads == 1 {
        let start = Instant::now();
        work(0);
        return start.elapsed();
    }
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    work(thread);
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        for handle in handles {
            handle.join().expect("a contender does not panic");
        }
        start.elapsed()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interval_is_the_sign_tests() {
        // Tables of the sign test: at 95 % two-sided, 6 values have none outside, 11 one, 20 five.
        assert_eq!(interval_rank(5), None);
        assert_eq!(interval_rank(6), Some(0));
        assert_eq!(interval_rank(11), Some(1));
        assert_eq!(interval_rank(20), Some(5));
    }

    #[test]
    fn ratio_of_equals_is_one() {
        let rates = Rates((1..=11).map(f64::from).collect());
        let interval = ratio(&rates, &rates);
        assert_eq!((interval.low, interval.median, interval.high), (1.0, 1.0, 1.0));
    }
}
