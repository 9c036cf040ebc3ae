//! Small transactions over a few keys, for exhaustive interleavings: what they do, and what each of
//! their operations must give on a given state. The judge of histories stands on the second; nothing
//! here knows the engine.
//!
//! Every put writes a value that nobody else writes, and every merge adds a bit that nobody else
//! adds, so that an answer tells whose writes it holds.

use std::fmt;
use std::ops::{BitAnd, BitOr};

use isolith::{Concurrency, Isolation};

/// A key: 0 is `a`.
pub type Key = u8;
/// Keys there are.
pub const KEYS: usize = 3;
/// The largest key that [`Act::First`] and [`Act::Last`] look at.
pub const KEY_MAX: Key = KEYS as Key - 1;
/// A value: who put it, and where in its program (the low eight bits), and the merges on top.
pub type Written = u32;
/// What the keys hold.
pub type State = [Option<Written>; KEYS];
/// What an operation gave: the keys that it found, and what they held.
pub type Answer = State;

/// The state in which no key holds anything; the answer that found nothing.
pub const NOTHING: State = [None; KEYS];

/// Some of the keys.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Keys(u8);

impl Keys {
    /// One key.
    pub const fn one(key: Key) -> Keys {
        Keys(1 << key)
    }

    /// None of them.
    pub const NONE: Keys = Keys(0);

    /// The keys between the two, both included.
    pub const fn between(lower: Key, upper: Key) -> Keys {
        Keys((2 << upper) - (1 << lower))
    }

    /// The keys that hold something.
    pub fn of(state: &State) -> Keys {
        (0..=KEY_MAX).filter(|key| state[usize::from(*key)].is_some()).collect()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this key is one of them.
    pub fn contains(self, key: Key) -> bool {
        !(self & Keys::one(key)).is_empty()
    }

    /// Whether some key is in both.
    pub fn touch(self, others: Keys) -> bool {
        !(self & others).is_empty()
    }

    /// Those that are not in `others`.
    pub fn without(self, others: Keys) -> Keys {
        Keys(self.0 & !others.0)
    }

    /// Each of them, ascending.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Key> {
        (0..=KEY_MAX).filter(move |key| self.contains(*key))
    }
}

impl BitOr for Keys {
    type Output = Keys;

    fn bitor(self, others: Keys) -> Keys {
        Keys(self.0 | others.0)
    }
}

impl BitAnd for Keys {
    type Output = Keys;

    fn bitand(self, others: Keys) -> Keys {
        Keys(self.0 & others.0)
    }
}

impl FromIterator<Key> for Keys {
    fn from_iter<I: IntoIterator<Item = Key>>(keys: I) -> Keys {
        keys.into_iter().fold(Keys::default(), |all, key| all | Keys::one(key))
    }
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A point read.
    Get(Key),
    /// A read of a key that will be changed.
    ForUpdate(Key),
    /// A read of a key that is to stay as it is.
    ForShare(Key),
    /// A put of a value that nobody else writes.
    Put(Key),
    /// A delete.
    Delete(Key),
    /// A merge that adds a bit which nobody else adds.
    Merge(Key),
    /// A scan of the keys between the two, both included.
    Scan(Key, Key),
    /// The first key there is: a scan that is left early.
    First,
    /// The last key there is: a scan in reverse that is left early.
    Last,
    /// A delete of the keys between the two, both included.
    DeleteRange(Key, Key),
    /// A shared lock on the keys between the two, both included, there or not.
    LockRange(Key, Key),
    /// Marks what was written so far.
    Savepoint,
    /// Undoes what was written since the last savepoint; nothing if there is none. What was read stays
    /// read, what was locked stays locked.
    RollbackTo,
}

/// A transaction: how it is protected and what it does before it commits.
#[derive(Clone, PartialEq, Eq)]
pub struct Program {
    /// Its level.
    pub isolation: Isolation,
    /// What keeps the level.
    pub concurrency: Concurrency,
    /// Its operations.
    pub acts: Vec<Act>,
}

/// What a transaction has done to a key so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    /// Nothing.
    Nothing,
    /// Whatever the key held, it holds this now.
    Value(Option<Written>),
    /// It added this to whatever the key held.
    Plus(Written),
}

/// What a transaction has written so far, laid over any state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay([Own; KEYS]);

/// Which keys operations depend on or change, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Keys that were read one by one, there or not, and were not the transaction's own.
    pub points: Keys,
    /// Keys that its scans returned and that were not its own.
    pub returned: Keys,
    /// Keys that its scans went over, own ones included.
    pub scanned: Keys,
    /// Keys that it put or deleted: of a range delete all within its bounds.
    pub written: Keys,
    /// Keys that it merged into and did not write otherwise.
    pub merged: Keys,
    /// Keys that it read for update.
    pub claimed: Keys,
    /// Those of them whose mark was not undone.
    pub marks: Keys,
    /// Keys that it read for share, or locked.
    pub shared: Keys,
}

impl Overlay {
    /// Nothing was written.
    pub const EMPTY: Overlay = Overlay([Own::Nothing; KEYS]);

    /// What a key holds if in the state it holds `base`.
    pub fn over(&self, key: Key, base: Option<Written>) -> Option<Written> {
        match self.0[usize::from(key)] {
            Own::Nothing => base,
            Own::Value(value) => value,
            Own::Plus(bits) => Some(base.unwrap_or(0) + bits),
        }
    }

    /// Whether what the key holds no longer depends on the state.
    pub fn owns(&self, key: Key) -> bool {
        matches!(self.0[usize::from(key)], Own::Value(_))
    }

    /// What a key must hold in the state for the transaction to see `seen`; `None` if it could be
    /// anything or nothing at all would do.
    pub fn under(&self, key: Key, seen: Option<Written>) -> Option<Option<Written>> {
        match self.0[usize::from(key)] {
            Own::Nothing => Some(seen),
            Own::Value(_) => None,
            Own::Plus(bits) => match seen {
                Some(seen) if seen == bits => Some(None),
                Some(seen) => Some(Some(seen.wrapping_sub(bits))),
                None => None,
            },
        }
    }

    /// The state with everything laid over.
    pub fn on(&self, state: &State) -> State {
        std::array::from_fn(|key| self.over(key as Key, state[key]))
    }

    /// What `act` gives on a state.
    pub fn see(&self, act: Act, state: &State) -> Answer {
        let seen = self.on(state);
        let only =
            |keys: Keys| std::array::from_fn(|key| seen[key].filter(|_| keys.contains(key as Key)));
        match act {
            Act::Get(key) | Act::ForUpdate(key) | Act::ForShare(key) => only(Keys::one(key)),
            Act::Scan(lower, upper) => only(Keys::between(lower, upper)),
            Act::First => only(Keys::of(&seen).iter().next().into_iter().collect()),
            Act::Last => only(Keys::of(&seen).iter().next_back().into_iter().collect()),
            Act::Put(_)
            | Act::Delete(_)
            | Act::Merge(_)
            | Act::DeleteRange(..)
            | Act::LockRange(..)
            | Act::Savepoint
            | Act::RollbackTo => NOTHING,
        }
    }

    /// After `act`, the `place`-th of transaction `who`, gave `answer`.
    pub fn after(mut self, who: usize, place: usize, act: Act, answer: &Answer) -> Overlay {
        match act {
            Act::Put(key) => self.0[usize::from(key)] = Own::Value(Some(value(who, place))),
            Act::Delete(key) => self.0[usize::from(key)] = Own::Value(None),
            // What was read for update is as good as written.
            Act::ForUpdate(key) => {
                self.0[usize::from(key)] = Own::Value(answer[usize::from(key)]);
            }
            Act::Merge(key) => {
                let own = &mut self.0[usize::from(key)];
                let bit = merged_bit(who, place);
                *own = match *own {
                    Own::Nothing => Own::Plus(bit),
                    Own::Value(value) => Own::Value(Some(value.unwrap_or(0) + bit)),
                    Own::Plus(bits) => Own::Plus(bits + bit),
                };
            }
            Act::DeleteRange(lower, upper) => {
                for key in lower..=upper {
                    self.0[usize::from(key)] = Own::Value(None);
                }
            }
            Act::Get(_)
            | Act::ForShare(_)
            | Act::Scan(..)
            | Act::First
            | Act::Last
            | Act::LockRange(..)
            // Whoever goes through a program keeps what was written before.
            | Act::Savepoint
            | Act::RollbackTo => {}
        }
        self
    }
}

impl Overlay {
    /// What is left after a savepoint, which keeps it, or after going back to one.
    fn kept(self, act: Act, kept: &mut Option<Overlay>) -> Overlay {
        match act {
            Act::Savepoint => *kept = Some(self),
            Act::RollbackTo => return kept.unwrap_or(self),
            _ => {}
        }
        self
    }
}

impl Footprint {
    /// Adds what `act` depends on and changes, having given `answer` (`None`: it was not finished).
    pub fn add(&mut self, act: Act, own: &Overlay, answer: Option<&Answer>) {
        let foreign = |keys: Keys| -> Keys { keys.iter().filter(|key| !own.owns(*key)).collect() };
        match act {
            Act::Get(key) => self.points = self.points | foreign(Keys::one(key)),
            Act::ForUpdate(key) => {
                self.points = self.points | foreign(Keys::one(key));
                self.claimed = self.claimed | Keys::one(key);
                self.marks = self.marks | Keys::one(key);
            }
            Act::ForShare(key) => {
                self.points = self.points | foreign(Keys::one(key));
                self.shared = self.shared | Keys::one(key);
            }
            Act::Scan(lower, upper) => self.scan(Keys::between(lower, upper), own, answer),
            Act::First => {
                let found = answer.and_then(|answer| Keys::of(answer).iter().next());
                self.scan(Keys::between(0, found.unwrap_or(KEY_MAX)), own, answer);
            }
            Act::Last => {
                let found = answer.and_then(|answer| Keys::of(answer).iter().next_back());
                self.scan(Keys::between(found.unwrap_or(0), KEY_MAX), own, answer);
            }
            Act::Put(key) | Act::Delete(key) => self.written = self.written | Keys::one(key),
            Act::DeleteRange(lower, upper) => {
                self.written = self.written | Keys::between(lower, upper);
            }
            Act::Merge(key) => self.merged = self.merged | Keys::one(key),
            Act::LockRange(lower, upper) => {
                self.shared = self.shared | Keys::between(lower, upper);
            }
            Act::Savepoint | Act::RollbackTo => {}
        }
        self.merged = self.merged.without(self.written);
    }

    fn scan(&mut self, over: Keys, own: &Overlay, answer: Option<&Answer>) {
        self.scanned = self.scanned | over;
        if let Some(answer) = answer {
            let found = Keys::of(answer);
            self.returned =
                self.returned | found.iter().filter(|key| !own.owns(*key)).collect::<Keys>();
        }
    }

    /// Everything that it changes.
    pub fn changed(&self) -> Keys {
        self.written | self.merged
    }
}

impl Act {
    /// Whether it changes something, whatever keeps the level.
    pub fn changes(self) -> bool {
        matches!(self, Act::Put(_) | Act::Delete(_) | Act::Merge(_) | Act::DeleteRange(..))
    }

    /// Whether it gives an answer.
    pub fn reads(self) -> bool {
        !self.changes() && !matches!(self, Act::LockRange(..) | Act::Savepoint | Act::RollbackTo)
    }

    /// Whether it asks for more than to see something: a lock, or the right to change.
    pub fn claims(self) -> bool {
        matches!(self, Act::ForUpdate(_) | Act::ForShare(_) | Act::LockRange(..))
    }
}

/// The value that the `place`-th operation of transaction `who` puts.
pub fn value(who: usize, place: usize) -> Written {
    (1 + who * 16 + place) as Written
}

/// The bit that the `place`-th operation of transaction `who` adds.
pub fn merged_bit(who: usize, place: usize) -> Written {
    1 << (8 + who * 4 + place)
}

/// The value that a key holds at first.
pub fn initial_value(key: Key) -> Written {
    0xf0 + Written::from(key)
}

/// The state in which these keys hold their initial values.
pub fn initial(present: Keys) -> State {
    std::array::from_fn(|key| {
        let key = key as Key;
        present.contains(key).then(|| initial_value(key))
    })
}

impl Program {
    /// Whether it changes something, if only for a while, whatever keeps the level.
    pub fn changes(&self) -> bool {
        self.acts.iter().any(|act| act.changes())
    }

    /// Whether some of that is not undone.
    pub fn leaves_changes(&self) -> bool {
        let (mut now, mut then) = (false, None);
        for act in &self.acts {
            match act {
                Act::Savepoint => then = Some(now),
                Act::RollbackTo => now = then.unwrap_or(now),
                act => now |= act.changes(),
            }
        }
        now
    }

    /// Whether it asks for more than to see something.
    pub fn claims(&self) -> bool {
        self.acts.iter().any(|act| act.claims())
    }

    /// What its operations gave decides what it has written before each of them, and at the end.
    pub fn overlays(&self, who: usize, answers: &[Answer]) -> Vec<Overlay> {
        let mut overlays = vec![Overlay::EMPTY];
        let mut kept = None;
        for (place, (act, answer)) in self.acts.iter().zip(answers).enumerate() {
            let own = overlays[place];
            overlays.push(own.after(who, place, *act, answer).kept(*act, &mut kept));
        }
        overlays
    }

    /// What it depends on and changes: with the answers of the operations that were finished, and
    /// whatever the next one was about to do.
    pub fn footprint(&self, overlays: &[Overlay], answers: &[Answer]) -> Footprint {
        let mut footprint = Footprint::default();
        let mut kept = None;
        for ((place, act), own) in self.acts.iter().enumerate().zip(overlays) {
            footprint.add(*act, own, answers.get(place));
            let Footprint { written, merged, marks, .. } = footprint;
            match (act, kept) {
                (Act::Savepoint, _) => kept = Some((written, merged, marks)),
                (Act::RollbackTo, Some(then)) => {
                    (footprint.written, footprint.merged, footprint.marks) = then;
                }
                _ => {}
            }
        }
        footprint
    }

    /// The keys that its whole program may read, and those that it may change or claim.
    pub fn reach(&self) -> (Keys, Keys) {
        let mut footprint = Footprint::default();
        for act in &self.acts {
            footprint.add(*act, &Overlay::EMPTY, None);
        }
        let Footprint { points, scanned, written, merged, claimed, shared, .. } = footprint;
        (points | scanned | shared, written | merged | claimed)
    }

    /// Runs it, as transaction `who`, on `state` when nobody else runs: the answers, and the state
    /// afterwards.
    pub fn alone(&self, who: usize, state: &State) -> (Vec<Answer>, State) {
        let (mut own, mut kept) = (Overlay::EMPTY, None);
        let mut answers = Vec::with_capacity(self.acts.len());
        for (place, act) in self.acts.iter().enumerate() {
            let answer = own.see(*act, state);
            own = own.after(who, place, *act, &answer).kept(*act, &mut kept);
            answers.push(answer);
        }
        (answers, own.on(state))
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

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters: String = self.iter().map(letter).collect();
        write!(f, "{{{letters}}}")
    }
}

impl fmt::Debug for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Act::Get(key) => write!(f, "get {}", letter(key)),
            Act::ForUpdate(key) => write!(f, "get {} for update", letter(key)),
            Act::ForShare(key) => write!(f, "get {} for share", letter(key)),
            Act::Put(key) => write!(f, "put {}", letter(key)),
            Act::Delete(key) => write!(f, "delete {}", letter(key)),
            Act::Merge(key) => write!(f, "merge {}", letter(key)),
            Act::Scan(lower, upper) => write!(f, "scan {}..={}", letter(lower), letter(upper)),
            Act::Savepoint => write!(f, "savepoint"),
            Act::RollbackTo => write!(f, "rollback"),
            Act::First => write!(f, "first"),
            Act::Last => write!(f, "last"),
            Act::DeleteRange(lower, upper) => {
                write!(f, "delete {}..={}", letter(lower), letter(upper))
            }
            Act::LockRange(lower, upper) => {
                write!(f, "lock {}..={}", letter(lower), letter(upper))
            }
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.isolation, self.concurrency, self.acts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(acts: &[Act]) -> Program {
        let (isolation, concurrency) = (Isolation::Snapshot, Concurrency::Optimistic);
        Program { isolation, concurrency, acts: acts.to_vec() }
    }

    #[test]
    fn sequences_are_all_there() {
        let alphabet = [Act::Get(0), Act::Put(0), Act::First];
        assert_eq!(sequences(&alphabet, 1).len(), 3);
        assert_eq!(sequences(&alphabet, 3).len(), 3 + 9 + 27);
    }

    #[test]
    fn own_writes_are_seen_and_are_not_reads_of_the_state() {
        let program = program(&[Act::Put(1), Act::First, Act::DeleteRange(0, 1), Act::Scan(0, 2)]);
        let state = [None, None, Some(9)];
        let (answers, after) = program.alone(3, &state);
        assert_eq!(answers[1], [None, Some(value(3, 0)), None]);
        assert_eq!(answers[3], state);
        assert_eq!(after, state);
        let footprint = program.footprint(&program.overlays(3, &answers), &answers);
        assert_eq!(footprint.points, Keys::default());
        assert_eq!(footprint.returned, Keys::one(2));
        assert_eq!(footprint.scanned, Keys::between(0, 2));
        assert_eq!(footprint.written, Keys::between(0, 1));
    }

    #[test]
    fn what_is_rolled_back_was_read_and_not_written() {
        use Act::{ForUpdate, Get, Merge, Put, RollbackTo, Savepoint};
        let program =
            program(&[Put(0), Savepoint, Put(1), Merge(2), ForUpdate(0), RollbackTo, Get(1)]);
        let (answers, after) = program.alone(1, &initial(Keys::one(1)));
        assert_eq!(answers[6], [None, Some(initial_value(1)), None]);
        assert_eq!(after, [Some(value(1, 0)), Some(initial_value(1)), None]);
        let footprint = program.footprint(&program.overlays(1, &answers), &answers);
        assert_eq!((footprint.written, footprint.merged), (Keys::one(0), Keys::NONE));
        assert_eq!((footprint.claimed, footprint.marks), (Keys::one(0), Keys::NONE));
        assert_eq!(footprint.points, Keys::one(1));
        assert!(program.changes() && program.leaves_changes());
        let undone = [Savepoint, Put(1), RollbackTo].to_vec();
        assert!(!Program { acts: undone, ..program }.leaves_changes());
    }

    #[test]
    fn merges_lie_on_what_is_there() {
        let program = program(&[Act::Merge(0), Act::Get(0), Act::Merge(1), Act::Put(1)]);
        let (answers, after) = program.alone(1, &initial(Keys::one(0)));
        let merged = initial_value(0) + merged_bit(1, 0);
        assert_eq!(answers[1], [Some(merged), None, None]);
        assert_eq!(after, [Some(merged), Some(value(1, 3)), None]);
        let overlays = program.overlays(1, &answers);
        assert_eq!(overlays[1].under(0, Some(merged)), Some(Some(initial_value(0))));
        assert_eq!(overlays[1].under(0, Some(merged_bit(1, 0))), Some(None));
        let footprint = program.footprint(&overlays, &answers);
        // What lies under its own merge was read; a merge below its own put is part of the put.
        assert_eq!(footprint.points, Keys::one(0));
        assert_eq!((footprint.merged, footprint.written), (Keys::one(0), Keys::one(1)));
    }
}
