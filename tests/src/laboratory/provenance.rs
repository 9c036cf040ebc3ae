//! Who wrote a value: every put and every merge of a scenario leaves its mark in the number that is
//! stored.
//!
//! | bits | what |
//! |---|---|
//! | 0–7 | the put that wrote it; 255: it was there at first; 0: merges alone made it |
//! | 8–23 | one bit for each merge that went into it since |
//! | 24–63 | the value, as the scenario means it |
//!
//! Values have at most 35 bits ([`super::expression::VALUE_MAX`]), so that sixteen merges do not
//! overflow, and no merge is done twice, so that no bit carries.

use super::scenario::{Act, Scenario};
use super::target::Encoded;

const MERGES: u32 = 8;
const VALUE: u32 = 24;
/// The mark of what was there at first. Eight sessions of 31 puts do not get so far.
const FIRST: i64 = 0xff;

/// A step of a scenario: its session's place and its own.
pub type Place = (usize, usize);

/// Which puts and merges a scenario has.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    puts: Vec<Place>,
    merges: Vec<Place>,
}

impl Marks {
    /// Those of a scenario.
    pub fn of(scenario: &Scenario) -> Marks {
        let mut marks = Marks::default();
        for (who, session) in scenario.sessions.iter().enumerate() {
            for (place, step) in session.steps.iter().enumerate() {
                match step.act {
                    Act::Put { .. } => marks.puts.push((who, place)),
                    Act::Merge { .. } => marks.merges.push((who, place)),
                    _ => {}
                }
            }
        }
        marks
    }

    /// What a put stores.
    pub fn put(&self, place: Place, value: i64) -> Encoded {
        let number = self.puts.iter().position(|put| *put == place).map_or(0, |at| at + 1);
        value << VALUE | number as i64
    }

    /// What a merge adds.
    pub fn merge(&self, place: Place, delta: i64) -> i64 {
        let number = self.merges.iter().position(|merge| *merge == place).unwrap_or(0);
        (delta << VALUE) + (1 << (MERGES as usize + (number & 0xf)))
    }

    /// The sessions that had a part in a value.
    pub fn writers(&self, value: Encoded) -> Vec<usize> {
        let put = (value & 0xff) as usize;
        let put = put.checked_sub(1).and_then(|at| self.puts.get(at));
        let merged = |at: &usize| value >> (MERGES as usize + at) & 1 == 1;
        let merges = (0..self.merges.len()).filter(merged).map(|at| &self.merges[at]);
        put.into_iter().chain(merges).map(|(who, _)| *who).collect()
    }
}

/// What is stored for a value that is there at first.
pub fn initial(value: i64) -> Encoded {
    value << VALUE | FIRST
}

/// The value that is meant.
pub fn meant(value: Encoded) -> i64 {
    value >> VALUE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laboratory::scenario::parse;

    #[test]
    fn a_value_tells_who_wrote_it() {
        let text = "session a\n put x = -3\n merge x + 5\nsession b\n merge x + -9\n put x = 1";
        let marks = Marks::of(&parse("marks", text).unwrap());
        let put = marks.put((0, 0), -3);
        assert_eq!((meant(put), marks.writers(put)), (-3, vec![0]));
        let both = put + marks.merge((0, 1), 5) + marks.merge((1, 0), -9);
        assert_eq!((meant(both), marks.writers(both)), (-7, vec![0, 0, 1]));
        let first = initial(-1);
        assert_eq!((meant(first), marks.writers(first)), (-1, vec![]));
        let other = marks.put((1, 1), 1);
        assert_eq!((meant(other), marks.writers(other)), (1, vec![1]));
    }
}
