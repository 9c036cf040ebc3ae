//! SCAN's cursors.
//!
//! A client may use a cursor on any connection, may repeat it, and may forget it; it is a number. The
//! store is ordered, so an iteration is a last key. Here the two are joined: a cursor is the number of
//! an iteration and of its step.
//!
//! 1. Every key that is there during a whole iteration is returned: a step begins right after the last
//!    key of the step before.
//! 2. The last two steps of an iteration can be asked for: a client that lost an answer may repeat.
//! 3. Memory is bounded: the iterations that were used longest ago are forgotten beyond
//!    [`ITERATIONS_MAX`] or [`KEYS_BYTES_MAX`]. A forgotten cursor is an error, never a gap.
//!
//! Cursors stay below 2^53, for clients that keep them in a double. The table is behind a mutex that
//! only SCAN takes.

use std::collections::{BTreeMap, HashMap};

/// The most iterations under way at once.
pub(crate) const ITERATIONS_MAX: usize = 16_384;
/// The most bytes of keys that iterations may hold.
pub(crate) const KEYS_BYTES_MAX: usize = 64 * 1024 * 1024;

const STEP_BITS: u32 = 20;
const ITERATION_BITS: u32 = 32;

/// Where a step begins: after this key, in this keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) db: u8,
    pub(crate) after: Vec<u8>,
}

struct Iteration {
    step: u64,
    /// Of `step`, and of the step before.
    positions: [Option<Position>; 2],
    /// Its place in the order of use.
    used: u64,
}

impl Iteration {
    fn bytes(&self) -> usize {
        self.positions.iter().flatten().map(|position| position.after.len()).sum()
    }
}

/// The iterations under way.
#[derive(Default)]
pub(crate) struct Scans {
    iterations: HashMap<u64, Iteration>,
    /// Iterations by last use.
    order: BTreeMap<u64, u64>,
    bytes: usize,
    next: u64,
    clock: u64,
}

impl Scans {
    /// The position that a cursor stands for. `None`: there is no such cursor (any more).
    pub(crate) fn position(&self, cursor: u64) -> Option<Position> {
        let (number, step) = split(cursor)?;
        let iteration = self.iterations.get(&number)?;
        let back = iteration.step.wrapping_sub(step) & ((1 << STEP_BITS) - 1);
        iteration.positions.get(back as usize)?.clone()
    }

    /// Goes on from `cursor` (0: begins) to `position`; returns the new cursor.
    pub(crate) fn advance(&mut self, cursor: u64, position: Position) -> u64 {
        let known = split(cursor).and_then(|(number, step)| {
            let iteration = self.iterations.remove(&number)?;
            self.order.remove(&iteration.used);
            self.bytes -= iteration.bytes();
            Some((number, step, iteration))
        });
        let (number, iteration) = match known {
            Some((number, step, mut iteration)) => {
                let asked = iteration.step.wrapping_sub(step) & ((1 << STEP_BITS) - 1);
                let from = iteration.positions.get_mut(asked as usize).and_then(Option::take);
                let step = (step + 1) & ((1 << STEP_BITS) - 1);
                (number, Iteration { step, positions: [Some(position), from], used: 0 })
            }
            None => {
                self.next = self.next % ((1 << ITERATION_BITS) - 1) + 1;
                (self.next, Iteration { step: 0, positions: [Some(position), None], used: 0 })
            }
        };
        self.clock += 1;
        self.bytes += iteration.bytes();
        self.order.insert(self.clock, number);
        let cursor = number << STEP_BITS | iteration.step;
        if let Some(old) =
            self.iterations.insert(number, Iteration { used: self.clock, ..iteration })
        {
            // The numbers have wrapped onto an iteration that was never finished.
            self.order.remove(&old.used);
            self.bytes -= old.bytes();
        }
        while self.iterations.len() > ITERATIONS_MAX || self.bytes > KEYS_BYTES_MAX {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some(iteration) = self.iterations.remove(&oldest) {
                self.bytes -= iteration.bytes();
            }
        }
        cursor
    }
}

fn split(cursor: u64) -> Option<(u64, u64)> {
    let number = cursor >> STEP_BITS;
    (number != 0).then_some((number, cursor & ((1 << STEP_BITS) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: &str) -> Position {
        Position { db: 0, after: key.as_bytes().to_vec() }
    }

    #[test]
    fn last_two_steps_can_be_asked_for() {
        let mut scans = Scans::default();
        let first = scans.advance(0, at("a"));
        let second = scans.advance(first, at("b"));
        assert_eq!(scans.position(first), Some(at("a")));
        assert_eq!(scans.position(second), Some(at("b")));
        let third = scans.advance(second, at("c"));
        assert_eq!(scans.position(first), None);
        assert_eq!(scans.position(second), Some(at("b")));
        // The client never saw `third`, and repeats.
        let again = scans.advance(second, at("c2"));
        assert_eq!(again, third);
        assert_eq!(scans.position(again), Some(at("c2")));
        assert_eq!(scans.position(second), Some(at("b")));
    }

    #[test]
    fn forgotten_iterations_are_unknown_and_memory_is_bounded() {
        let mut scans = Scans::default();
        let first = scans.advance(0, at("a"));
        for _ in 0..ITERATIONS_MAX {
            scans.advance(0, at("b"));
        }
        assert_eq!(scans.position(first), None);
        assert_eq!(scans.iterations.len(), ITERATIONS_MAX);
        assert_eq!(scans.order.len(), ITERATIONS_MAX);
        for _ in 0..2_000 {
            scans.advance(0, Position { db: 0, after: vec![0; 65_536] });
        }
        assert!(scans.bytes <= KEYS_BYTES_MAX);
    }

    #[test]
    fn unknown_cursors_are_refused_and_cursors_fit_a_double() {
        let mut scans = Scans::default();
        assert_eq!(scans.position(7), None);
        assert_eq!(scans.position(u64::MAX), None);
        let mut cursor = 0;
        for _ in 0..(1 << STEP_BITS) + 3 {
            cursor = scans.advance(cursor, at("k"));
            assert!(cursor != 0 && cursor < 1 << 53);
        }
        assert_eq!(scans.position(cursor), Some(at("k")));
    }
}
