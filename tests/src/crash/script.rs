//! What a life does: scripts written by hand to reach every corner, and random ones.

use isolith::Durability;

use crate::dice::Dice;

/// One write of a commit: keyspace, key, value.
#[derive(Clone, PartialEq, Eq)]
pub enum Write {
    /// A put.
    Put(&'static str, String, Vec<u8>),
    /// A delete.
    Delete(&'static str, String),
    /// A put of a value that expires at a time, in Unix milliseconds.
    PutUntil(&'static str, String, Vec<u8>, u64),
    /// A merge that appends.
    Append(&'static str, String, Vec<u8>),
    /// A merge by an operator that the engine does not bring: it prepends.
    Prepend(&'static str, String, Vec<u8>),
    /// A delete of every key from the first, included, to the second, excluded.
    DeleteRange(&'static str, String, String),
}

impl Write {
    /// The keyspace.
    pub fn space(&self) -> &'static str {
        match self {
            Write::Put(space, ..)
            | Write::Delete(space, _)
            | Write::PutUntil(space, ..)
            | Write::Append(space, ..)
            | Write::Prepend(space, ..)
            | Write::DeleteRange(space, ..) => space,
        }
    }
}

/// One step of a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Creates a keyspace, if it is not there.
    Create(&'static str),
    /// Drops a keyspace.
    Drop(&'static str),
    /// Commits, and waits for the acknowledgement.
    Commit(Durability, Vec<Write>),
    /// Commits, and does not wait.
    Decide(Durability, Vec<Write>),
    /// Waits for every commit that nobody has waited for.
    Await,
    /// Makes everything durable.
    Sync,
    /// Writes what is in memory to files.
    Flush,
    /// Writes all files anew.
    Compact,
    /// Moves the clock on, in milliseconds.
    Advance(u64),
    /// Takes a snapshot, which is kept until the database is closed, and looked at after every step.
    Snapshot,
    /// Closes the database and opens it again.
    Reopen,
}

/// A sequence of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The steps.
    pub steps: Vec<Step>,
}

fn put(space: &'static str, key: &str, value: &str) -> Write {
    Write::Put(space, key.to_owned(), value.as_bytes().to_vec())
}

fn append(space: &'static str, key: &str, value: &str) -> Write {
    Write::Append(space, key.to_owned(), value.as_bytes().to_vec())
}

/// A value of so many bytes that no other has.
fn large(bytes: usize, mark: u8) -> Vec<u8> {
    (0..bytes).map(|place| (place as u8).wrapping_mul(31) ^ mark).collect()
}

impl Script {
    /// Every corner once: levels mixed, several keyspaces in one commit, range deletes, keyspaces
    /// created, dropped and created again, full segments, records of several blocks and of more than
    /// a segment, commits that nobody waits for, an orderly reopening in between.
    pub fn every_corner() -> Script {
        use Durability::{Buffered, Os, Sync};
        let both = |value: &str| vec![put("alpha", "both", value), put("beta", "both", value)];
        let mut steps = vec![
            Step::Create("alpha"),
            Step::Create("beta"),
            Step::Commit(Sync, both("1")),
            Step::Commit(Os, vec![put("alpha", "a", "os")]),
            Step::Commit(
                Sync,
                vec![append("alpha", "both", "+sync"), append("beta", "m", "+sync")],
            ),
            Step::Commit(Buffered, vec![put("alpha", "b", "buffered")]),
            Step::Commit(Buffered, vec![put("beta", "b", "buffered"), put("alpha", "c", "x")]),
            Step::Commit(
                Sync,
                vec![
                    Write::DeleteRange("alpha", "a".into(), "c".into()),
                    Write::Put("beta", "large".into(), large(9_000, 1)),
                    put("alpha", "bb", "after the range delete"),
                ],
            ),
            Step::Commit(Os, both("2")),
            Step::Commit(Os, vec![append("beta", "both", "+os"), append("beta", "m", "+os")]),
            Step::Commit(Os, vec![Write::Delete("beta", "b".into())]),
            Step::Sync,
            Step::Create("gamma"),
            Step::Commit(Sync, vec![put("gamma", "k", "first"), put("alpha", "k", "first")]),
            Step::Drop("gamma"),
            Step::Create("gamma"),
            Step::Commit(Buffered, vec![put("gamma", "k", "second")]),
            Step::Decide(Sync, both("3")),
            Step::Decide(Os, vec![put("gamma", "l", "decided")]),
            Step::Await,
            Step::Decide(Buffered, vec![put("alpha", "open", "before the close")]),
            Step::Reopen,
            Step::Commit(Os, both("4")),
            Step::Commit(Os, vec![Write::Put("beta", "huge".into(), large(40_000, 2))]),
            Step::Commit(Sync, vec![Write::Put("alpha", "large".into(), large(12_000, 3))]),
        ];
        // Enough to fill a segment a few times, every level in turn.
        for (place, level) in [Sync, Os, Buffered, Sync, Os, Os, Sync, Buffered].iter().enumerate()
        {
            let value = Write::Put("alpha", "fill".into(), large(6_000, place as u8));
            steps.push(Step::Commit(*level, vec![value, put("beta", "fill", &place.to_string())]));
        }
        steps.push(Step::Decide(Sync, both("5")));
        steps.push(Step::Commit(Os, vec![put("gamma", "m", "os")]));
        steps.push(Step::Commit(Sync, both("6")));
        steps.push(Step::Decide(Buffered, both("7")));
        Script { steps }
    }

    /// A short life after a crash: it writes at every level, creates, drops and reopens.
    pub fn going_on() -> Script {
        use Durability::{Buffered, Os, Sync};
        let both = |value: &str| vec![put("alpha", "on", value), put("omega", "on", value)];
        Script {
            steps: vec![
                Step::Create("alpha"),
                Step::Create("omega"),
                Step::Commit(Os, both("1")),
                Step::Commit(Sync, both("2")),
                Step::Commit(Buffered, both("3")),
                Step::Drop("omega"),
                Step::Commit(
                    Sync,
                    vec![
                        Write::DeleteRange("alpha", "b".into(), "l".into()),
                        put("alpha", "on", "4"),
                    ],
                ),
                Step::Decide(Os, vec![put("alpha", "on", "5")]),
            ],
        }
    }

    /// What files go through: flushes and compactions of everything, by themselves and asked for, with
    /// deletes, expiry, merges that cross files, snapshots held, keyspaces dropped in between.
    pub fn through_files() -> Script {
        use Durability::{Buffered, Os, Sync};
        let text = |number: usize| format!("value {number} {}", "-".repeat(40));
        let mut steps = vec![Step::Create("alpha"), Step::Create("beta")];
        for number in 0..36usize {
            let key = format!("k{}", number * 7 % 10);
            let mut writes = vec![put("alpha", &key, &text(number)), append("beta", "m", "+a")];
            match number % 6 {
                0 => writes.push(Write::Prepend("beta", "m".into(), b"p".to_vec())),
                1 => writes.push(Write::Delete("alpha", format!("k{}", number % 10))),
                2 => writes.push(Write::DeleteRange("alpha", "k2".into(), "k5".into())),
                3 => {
                    let at = super::NOW + 40 * number as u64;
                    let key = format!("e{}", number % 3);
                    writes.push(Write::PutUntil("beta", key, text(number).into_bytes(), at));
                }
                4 => writes.push(append("beta", &format!("e{}", number % 3), "+e")),
                _ => writes.push(Write::Put("beta", key, large(600, number as u8))),
            }
            let level = [Sync, Os, Buffered][number % 3];
            steps.push(Step::Commit(level, writes));
            match number {
                5 | 20 => steps.push(Step::Snapshot),
                8 | 15 | 27 => steps.push(Step::Flush),
                11 => steps.extend([Step::Create("gamma"), Step::Flush]),
                13 | 30 => steps.push(Step::Commit(Os, vec![put("gamma", "k", &text(number))])),
                17 => steps.extend([Step::Drop("gamma"), Step::Create("gamma")]),
                18 | 33 => steps.push(Step::Compact),
                23 => steps.push(Step::Advance(600)),
                25 => steps.push(Step::Reopen),
                _ => {}
            }
        }
        steps.push(Step::Decide(Os, vec![put("alpha", "open", "x")]));
        Script { steps }
    }

    /// A short life over files that a crash has left.
    pub fn going_on_with_files() -> Script {
        let mut script = Script::going_on();
        let more = (0..6u8).map(|number| {
            let value = Write::Put("alpha", format!("more {number}"), large(700, number));
            Step::Commit(Durability::Os, vec![value, append("alpha", "m", "+more")])
        });
        script.steps.extend(more);
        script.steps.extend([Step::Flush, Step::Compact]);
        script.steps.push(Step::Commit(Durability::Sync, vec![put("alpha", "end", "x")]));
        script
    }

    /// A script of so many steps that the seed decides.
    pub fn random(seed: u64, length: usize) -> Script {
        const SPACES: [&str; 3] = ["alpha", "beta", "gamma"];
        const LEVELS: [Durability; 3] = [Durability::Sync, Durability::Os, Durability::Buffered];
        let mut dice = Dice::new(seed);
        let mut steps = vec![Step::Create("alpha"), Step::Create("beta"), Step::Create("gamma")];
        for place in 0..length {
            let mut writes = Vec::new();
            for _ in 0..=dice.below(3) {
                let space = *dice.pick(&SPACES);
                let key = format!("{}", dice.below(6));
                writes.push(match dice.below(12) {
                    10 => Write::Prepend(space, key, format!("{place}+").into_bytes()),
                    11 => {
                        let at = super::NOW + dice.below(400) as u64;
                        Write::PutUntil(space, key, format!("until {at}").into_bytes(), at)
                    }
                    8 | 9 => Write::Append(space, key, format!("+{place}").into_bytes()),
                    0 => Write::Delete(space, key),
                    1 => Write::DeleteRange(space, key, format!("{}", dice.below(7))),
                    2 => Write::Put(space, key, large(*dice.pick(&[4_000, 9_000, 30_000]), 7)),
                    _ => Write::Put(space, key, format!("value {place}").into_bytes()),
                });
            }
            // Ends the wrong way round hold nothing: the commit would have no timestamp.
            writes.retain(|write| match write {
                Write::DeleteRange(_, lower, upper) => lower < upper,
                _ => true,
            });
            if writes.is_empty() {
                continue;
            }
            let level = *dice.pick(&LEVELS);
            match dice.below(20) {
                14 | 15 => steps.push(Step::Flush),
                16 => steps.push(Step::Compact),
                17 => steps.push(Step::Advance(dice.below(60) as u64)),
                18 => steps.push(Step::Snapshot),
                0 => steps.push(Step::Sync),
                1 => steps.push(Step::Reopen),
                2 => {
                    let name = *dice.pick(&SPACES);
                    steps.extend([Step::Drop(name), Step::Create(name)]);
                }
                3 | 4 => steps.push(Step::Decide(level, writes)),
                5 => steps.push(Step::Await),
                _ => steps.push(Step::Commit(level, writes)),
            }
        }
        Script { steps }
    }
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Write::Put(space, key, value) if value.len() > 40 => {
                write!(f, "{space}/{key} = {} bytes", value.len())
            }
            Write::Put(space, key, value) => write!(f, "{space}/{key} = {}", value.escape_ascii()),
            Write::PutUntil(space, key, value, at) => {
                write!(f, "{space}/{key} = {} until {at}", value.escape_ascii())
            }
            Write::Prepend(space, key, value) => {
                write!(f, "{} + {space}/{key}", value.escape_ascii())
            }
            Write::Delete(space, key) => write!(f, "{space}/{key} deleted"),
            Write::Append(space, key, value) => {
                write!(f, "{space}/{key} + {}", value.escape_ascii())
            }
            Write::DeleteRange(space, lower, upper) => {
                write!(f, "{space}/{lower}..{upper} deleted")
            }
        }
    }
}
