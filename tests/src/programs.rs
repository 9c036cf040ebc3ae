//! Small transactions over a few keys, for exhaustive interleavings: what they do, and what they do
//! when they run alone on a given state. The judge of histories stands on the second; nothing here
//! knows the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use isolith::Isolation;

/// A key: 0 is `a`.
pub type Key = u8;
/// A value: who wrote it, and where in its program.
pub type Written = u8;
/// What the keys hold.
pub type State = BTreeMap<Key, Written>;

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A point read.
    Get(Key),
    /// A read of a key that will be changed.
    ForUpdate(Key),
    /// A put of a value that nobody else writes.
    Put(Key),
    /// A delete.
    Delete(Key),
    /// A scan of the keys between the two, both included.
    Scan(Key, Key),
    /// The first key there is.
    First,
    /// The last key there is.
    Last,
    /// A delete of the keys between the two, both included.
    DeleteRange(Key, Key),
}

/// The largest key that [`Act::First`] and [`Act::Last`] look at.
pub const KEY_MAX: Key = 2;

/// A transaction: its level and what it does before it commits.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// Its level.
    pub isolation: Isolation,
    /// Its operations.
    pub acts: Vec<Act>,
}

/// What an operation gave: the pairs it saw, in the order in which it saw them.
pub type Answer = Vec<(Key, Written)>;

/// What a program does on a state when nobody else runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alone {
    /// What each operation gives.
    pub answers: Vec<Answer>,
    /// The state afterwards.
    pub state: State,
    /// Keys that it looked at in the state, there or not.
    pub read: BTreeSet<Key>,
    /// Keys that its scans went over, those that it had written itself included.
    pub scanned: BTreeSet<Key>,
    /// Keys that it changed: of a range delete all within its bounds.
    pub written: BTreeSet<Key>,
    /// Keys that it read for update.
    pub claimed: BTreeSet<Key>,
}

impl Act {
    /// Whether it makes the transaction one that changes something.
    pub fn changes(self) -> bool {
        !matches!(self, Act::Get(_) | Act::Scan(..) | Act::First | Act::Last)
    }
}

/// The value that the `place`-th operation of transaction `who` writes.
pub fn value(who: usize, place: usize) -> Written {
    (who * 16 + place) as Written
}

/// The value that a key holds at first.
pub fn initial_value(key: Key) -> Written {
    0xf0 + key
}

impl Program {
    /// Whether it changes anything.
    pub fn changes(&self) -> bool {
        self.acts.iter().any(|act| act.changes())
    }

    /// Runs it, as transaction `who`, on `state`.
    pub fn alone(&self, who: usize, state: &State) -> Alone {
        let mut alone = Alone { state: state.clone(), ..Alone::default() };
        let look = |alone: &mut Alone, key: Key| {
            if !alone.written.contains(&key) {
                alone.read.insert(key);
            }
            alone.state.get(&key).map(|value| (key, *value))
        };
        let step = |alone: &mut Alone, key: Key| {
            alone.scanned.insert(key);
            look(alone, key)
        };
        for (place, act) in self.acts.iter().enumerate() {
            let mut answer = Answer::new();
            match *act {
                Act::Get(key) => answer.extend(look(&mut alone, key)),
                Act::ForUpdate(key) => {
                    answer.extend(look(&mut alone, key));
                    alone.claimed.insert(key);
                    alone.written.insert(key);
                }
                Act::Put(key) => {
                    alone.state.insert(key, value(who, place));
                    alone.written.insert(key);
                }
                Act::Delete(key) => {
                    alone.state.remove(&key);
                    alone.written.insert(key);
                }
                Act::Scan(lower, upper) => {
                    for key in lower..=upper {
                        answer.extend(step(&mut alone, key));
                    }
                }
                Act::First => {
                    let found = (0..=KEY_MAX).find_map(|key| step(&mut alone, key));
                    answer.extend(found);
                }
                Act::Last => {
                    let found = (0..=KEY_MAX).rev().find_map(|key| step(&mut alone, key));
                    answer.extend(found);
                }
                Act::DeleteRange(lower, upper) => {
                    alone.state.retain(|key, _| !(lower..=upper).contains(key));
                    alone.written.extend(lower..=upper);
                }
            }
            alone.answers.push(answer);
        }
        alone
    }
}

/// Every sequence of one to `length` operations from `alphabet`.
pub fn sequences(alphabet: &[Act], length: usize) -> Vec<Vec<Act>> {
    let mut all: Vec<Vec<Act>> = vec![Vec::new()];
    let mut begin = 0;
    for _ in 0..length {
        let end = all.len();
        for prefix in begin..end {
            for act in alphabet {
                let longer = [all[prefix].as_slice(), &[*act]].concat();
                all.push(longer);
            }
        }
        begin = end;
    }
    all.split_off(1)
}

fn letter(key: Key) -> char {
    char::from(b'a' + key)
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Act::Get(key) => write!(f, "get {}", letter(key)),
            Act::ForUpdate(key) => write!(f, "get {} for update", letter(key)),
            Act::Put(key) => write!(f, "put {}", letter(key)),
            Act::Delete(key) => write!(f, "delete {}", letter(key)),
            Act::Scan(lower, upper) => write!(f, "scan {}..={}", letter(lower), letter(upper)),
            Act::First => write!(f, "first"),
            Act::Last => write!(f, "last"),
            Act::DeleteRange(lower, upper) => {
                write!(f, "delete {}..={}", letter(lower), letter(upper))
            }
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.isolation, self.acts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_all_there() {
        let alphabet = [Act::Get(0), Act::Put(0), Act::First];
        assert_eq!(sequences(&alphabet, 1).len(), 3);
        assert_eq!(sequences(&alphabet, 3).len(), 3 + 9 + 27);
    }

    #[test]
    fn own_writes_are_seen_and_are_not_reads_of_the_state() {
        let acts = vec![Act::Put(1), Act::First, Act::DeleteRange(0, 1), Act::Scan(0, 2)];
        let program = Program { isolation: Isolation::Snapshot, acts };
        let alone = program.alone(3, &State::from([(2, 9)]));
        assert_eq!(alone.answers[1], [(1, value(3, 0))]);
        assert_eq!(alone.answers[3], [(2, 9)]);
        assert_eq!(alone.read, BTreeSet::from([0, 2]));
        assert_eq!(alone.written, BTreeSet::from([0, 1]));
    }
}
