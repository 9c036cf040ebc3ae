//! The isolation levels on offer and what each asks of validation.

/// What a transaction is protected from (Adya's generalized isolation definitions).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Reads one consistent snapshot; of two transactions that write the same key, the first to
    /// commit wins, blind writes included. Write skew (G2) is possible.
    Snapshot,
    /// Strict serializability: the serial order is the commit order and agrees with real time.
    #[default]
    Serializable,
}

impl Isolation {
    /// Whether what the transaction read is validated at commit: items and examined intervals.
    pub fn tracks_reads(self) -> bool {
        matches!(self, Isolation::Serializable)
    }

    /// Whether a key that the transaction wrote must be unchanged since its read timestamp.
    pub fn first_committer_wins(self) -> bool {
        matches!(self, Isolation::Snapshot)
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Isolation::Snapshot => "snapshot",
            Isolation::Serializable => "serializable",
        })
    }
}
