//! The modes of a lock, and which of them go together.

use std::fmt;

/// What a lock allows its holder, and keeps others from.
///
/// | held \ asked | Shared | Update | Exclusive | Merge |
/// |---|---|---|---|---|
/// | Shared | yes | yes | – | – |
/// | Update | yes | – | – | – |
/// | Exclusive | – | – | – | – |
/// | Merge | – | – | – | yes |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// Reads: nobody may change it meanwhile.
    Shared,
    /// Reads and means to write: admits readers, but nobody else who means to write. What keeps two
    /// read-modify-write transactions from each waiting for the other's shared lock.
    Update,
    /// Writes.
    Exclusive,
    /// Merges: any number may at once, since merges commute, but nobody may read or write.
    Merge,
}

use LockMode::{Exclusive, Merge, Shared, Update};

impl LockMode {
    /// Whether two transactions may hold these modes at once. Symmetric.
    pub fn is_compatible_with(self, other: LockMode) -> bool {
        matches!(
            (self, other),
            (Shared, Shared) | (Shared, Update) | (Update, Shared) | (Merge, Merge)
        )
    }

    /// Whether who holds this needs nothing more to do what `other` allows.
    pub fn covers(self, other: LockMode) -> bool {
        self.join(other) == self
    }

    /// The weakest mode that covers both.
    pub(super) fn join(self, other: LockMode) -> LockMode {
        match (self, other) {
            (a, b) if a == b => a,
            (Shared, Update) | (Update, Shared) => Update,
            _ => Exclusive,
        }
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shared => "shared",
            Update => "update",
            Exclusive => "exclusive",
            Merge => "merge",
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ALL: [LockMode; 4] = [Shared, Update, Exclusive, Merge];

    #[test]
    fn compatibility_is_symmetric_and_a_stronger_mode_admits_no_more() {
        for a in ALL {
            for b in ALL {
                assert_eq!(a.is_compatible_with(b), b.is_compatible_with(a));
                assert!(a.join(b).covers(a) && a.join(b).covers(b));
                assert_eq!(a.join(b), b.join(a));
                for c in ALL {
                    if a.covers(b) && a.is_compatible_with(c) {
                        assert!(b.is_compatible_with(c), "{a} covers {b}, and admits {c}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_join_conflicts_with_what_either_conflicts_with_and_with_nothing_more() {
        for a in ALL {
            for b in ALL {
                for c in ALL {
                    let either = a.is_compatible_with(c) && b.is_compatible_with(c);
                    assert_eq!(a.join(b).is_compatible_with(c), either, "{a}, {b} against {c}");
                }
            }
        }
    }
}
