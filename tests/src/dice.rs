//! Seeds and effort: how a random test is repeated, and how long it looks.
//!
//! 1. A run is decided by its seed alone: `ISOLITH_SEED=<number>` repeats one, and every test prints
//!    the seed that it used.
//! 2. `ISOLITH_EFFORT=<factor>` multiplies what a test looks at; 1 is the everyday run.
//! 3. `ISOLITH_PART=<part>/<parts>` takes a whole enumeration part by part.

/// Randomness that is the same for the same seed for ever (SplitMix64: Steele, Lea and Flood).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice of this seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Any 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    /// True so many times out of so many.
    pub fn is(&mut self, chances: usize, of: usize) -> bool {
        self.below(of) < chances
    }

    /// One of `from`, which is not empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The seed of this run of the test `name`: the one from the environment, or a new one. Printed, so
/// that a failure can be repeated.
pub fn run_seed(name: &str) -> u64 {
    let seed = number("ISOLITH_SEED").unwrap_or_else(isolith_wal::random_seed);
    println!("{name}: repeat with ISOLITH_SEED={seed}");
    seed
}

/// How much a run looks at: 1 is the everyday run.
pub fn effort() -> usize {
    number("ISOLITH_EFFORT").map_or(1, |effort| usize::try_from(effort).unwrap_or(1).max(1))
}

/// Of an enumeration too long for every day, look at each `stride`-th case: each `everyday`-th at
/// effort 1, all of them from effort `everyday` on.
pub fn stride(everyday: usize) -> usize {
    (everyday / effort()).max(1)
}

/// Which part of a whole enumeration to look at, of how many: `ISOLITH_PART=3/16`, counted from 1;
/// else all of it.
pub fn part() -> (usize, usize) {
    let Ok(text) = std::env::var("ISOLITH_PART") else { return (1, 1) };
    let numbers = text
        .split_once('/')
        .and_then(|(part, of)| Some((part.trim().parse().ok()?, of.trim().parse().ok()?)));
    match numbers {
        Some((part, of)) if (1..=of).contains(&part) => (part, of),
        _ => panic!("ISOLITH_PART={text} is not a part, such as 3/16"),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    match text.trim().parse() {
        Ok(number) => Some(number),
        Err(_) => panic!("{variable}={text} is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_rolls() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            (0..5).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
    }
}
