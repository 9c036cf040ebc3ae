//! The isolation levels on offer and what each asks of validation.

use std::fmt;
use std::str::FromStr;

/// What a transaction is protected from (Adya's generalized isolation definitions).
///
/// The levels are not one chain: blind writes are first-committer-wins under `Snapshot` alone, while
/// `RepeatableRead` and `Serializable` rely on what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Each statement reads what was committed when it began, and never anything older than an
    /// earlier statement saw (PL-2, statement snapshots). Lost updates, read skew and everything
    /// below are possible.
    ReadCommitted,
    /// Keys that were read, absent ones and those that a scan returned included, are unchanged at
    /// the commit (PL-2.99). Phantoms are possible.
    RepeatableRead,
    /// Reads one consistent snapshot; of two transactions that write the same key, the first to
    /// commit wins, blind writes included. Write skew (G2) is possible.
    Snapshot,
    /// Strict serializability: the serial order is the commit order and agrees with real time.
    #[default]
    Serializable,
}

impl Isolation {
    /// SQL's weakest level. No dirty read is possible here, so it is [`Isolation::ReadCommitted`].
    pub const READ_UNCOMMITTED: Isolation = Isolation::ReadCommitted;

    /// Every level, weakest first.
    pub const ALL: [Isolation; 4] = [
        Isolation::ReadCommitted,
        Isolation::RepeatableRead,
        Isolation::Snapshot,
        Isolation::Serializable,
    ];

    /// Whether the keys that the transaction read must be unchanged when it commits.
    pub fn protects_items(self) -> bool {
        matches!(self, Isolation::RepeatableRead | Isolation::Serializable)
    }

    /// Whether the intervals that the transaction examined must be unchanged when it commits.
    pub fn protects_intervals(self) -> bool {
        matches!(self, Isolation::Serializable)
    }

    /// Whether a key that the transaction wrote must be unchanged since its read timestamp.
    pub fn first_committer_wins(self) -> bool {
        matches!(self, Isolation::Snapshot)
    }

    /// Whether each statement reads at a timestamp of its own.
    pub fn reads_by_statement(self) -> bool {
        matches!(self, Isolation::ReadCommitted)
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::ReadCommitted => "read-committed",
            Isolation::RepeatableRead => "repeatable-read",
            Isolation::Snapshot => "snapshot",
            Isolation::Serializable => "serializable",
        })
    }
}

/// A word that names no isolation level, no concurrency control, or no deadlock policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownWord {
    pub(crate) word: String,
    pub(crate) expected: &'static str,
}

impl fmt::Display for UnknownWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is none of {}", self.word.escape_debug(), self.expected)
    }
}

impl std::error::Error for UnknownWord {}

impl FromStr for Isolation {
    type Err = UnknownWord;

    /// The names as `Display` writes them, in any case; `read-uncommitted` is `ReadCommitted`.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Ok(match word.to_ascii_lowercase().as_str() {
            "read-uncommitted" => Isolation::READ_UNCOMMITTED,
            "read-committed" => Isolation::ReadCommitted,
            "repeatable-read" => Isolation::RepeatableRead,
            "snapshot" => Isolation::Snapshot,
            "serializable" => Isolation::Serializable,
            _ => {
                let expected =
                    "read-uncommitted, read-committed, repeatable-read, snapshot, serializable";
                return Err(UnknownWord { word: word.into(), expected });
            }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_read_as_it_is_written() {
        for level in Isolation::ALL {
            assert_eq!(level.to_string().to_uppercase().parse(), Ok(level));
        }
        assert_eq!("read-uncommitted".parse(), Ok(Isolation::ReadCommitted));
        assert!("chaos".parse::<Isolation>().is_err());
    }
}
