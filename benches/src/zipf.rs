//! Keys drawn as people use them: a few of them most of the time.
//!
//! Rank `r` (from 1) is drawn with a probability that goes with `1 / r^theta`: 0 is uniform, 0.99 is what
//! YCSB takes, and from 1 on a handful of keys gets most of all draws. By a table of sums and a
//! bisection: exact for every theta, and quick for the thousand keys that it is made for.

/// A source of ranks.
#[derive(Clone, Debug)]
pub struct Zipf {
    /// The chance of each rank or a smaller one; empty where all are alike.
    sums: Vec<f64>,
    ranks: u64,
}

impl Zipf {
    /// Draws from `0..ranks`, 0 the most often.
    ///
    /// # Panics
    /// If there are no ranks.
    pub fn new(ranks: u64, theta: f64) -> Self {
        assert!(ranks > 0, "nothing to draw from");
        if theta == 0.0 {
            return Self { sums: Vec::new(), ranks };
        }
        let mut sum = 0.0;
        let weights = (1..=ranks).map(|rank| (rank as f64).powf(-theta));
        let mut sums: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        for entry in &mut sums {
            *entry /= sum;
        }
        Self { sums, ranks }
    }

    /// The next rank.
    pub fn draw(&self, random: &mut Random) -> u64 {
        if self.sums.is_empty() {
            return random.next() % self.ranks;
        }
        // 53 random bits make a number in [0, 1).
        let point = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = self.sums.partition_point(|&sum| sum <= point) as u64;
        rank.min(self.ranks - 1)
    }
}

/// xorshift64*: quick, and repeatable by its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "a source of numbers that has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(theta: f64) -> Vec<u32> {
        let (zipf, mut random) = (Zipf::new(100, theta), Random::new(7));
        let mut counts = vec![0; 100];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn theta_zero_is_uniform() {
        assert!(counts(0.0).iter().all(|&count| (800..1200).contains(&count)));
    }

    #[test]
    fn the_second_rank_comes_two_to_the_theta_times_less_often() {
        for theta in [0.6, 0.99, 1.2] {
            let counts = counts(theta);
            let ratio = f64::from(counts[0]) / f64::from(counts[1]);
            assert!((ratio / 2f64.powf(theta) - 1.0).abs() < 0.1, "{theta}: {ratio}");
        }
    }
}
