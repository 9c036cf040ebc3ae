//! The isolation levels that a history can be judged at, by name.
//!
//! A level is a base (what one may see of others' transactions) and an order that the transactions
//! must keep besides: none, that of each session, or real time. `serializable` with real time is
//! `strict-serializable`. What each of them forbids
//! is for the checker to say.

use std::fmt;

/// What a transaction may see of others, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// Writes do not interleave (Adya's PL-1).
    ReadUncommitted,
    /// Only what is committed is read (PL-2).
    ReadCommitted,
    /// All or nothing of another transaction is seen (Bailis and others, 2014).
    ReadAtomic,
    /// What is seen is closed under what was seen by it (Cerone and others, 2015).
    Causal,
    /// Items that were read do not change until the end (PL-2.99).
    RepeatableRead,
    /// Reads come from one snapshot, and of two concurrent writers of an item one commits (PL-SI).
    Snapshot,
    /// As if one after the other (PL-3).
    Serializable,
}

/// The order that a serialization must keep besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Order {
    /// None.
    Any,
    /// The order of each session's own transactions.
    Session,
    /// Real time: what was acknowledged before another began comes first.
    RealTime,
}

/// An isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Level {
    /// What may be seen of others.
    pub base: Base,
    /// The order that must be kept.
    pub order: Order,
}

const BASES: [(Base, &str); 7] = [
    (Base::ReadUncommitted, "read-uncommitted"),
    (Base::ReadCommitted, "read-committed"),
    (Base::ReadAtomic, "read-atomic"),
    (Base::Causal, "causal"),
    (Base::RepeatableRead, "repeatable-read"),
    (Base::Snapshot, "snapshot"),
    (Base::Serializable, "serializable"),
];

impl Level {
    /// `read-committed`.
    pub const READ_COMMITTED: Level = Level::new(Base::ReadCommitted, Order::Any);
    /// `repeatable-read`.
    pub const REPEATABLE_READ: Level = Level::new(Base::RepeatableRead, Order::Any);
    /// `snapshot`.
    pub const SNAPSHOT: Level = Level::new(Base::Snapshot, Order::Any);
    /// `serializable`.
    pub const SERIALIZABLE: Level = Level::new(Base::Serializable, Order::Any);
    /// `strict-serializable`.
    pub const STRICT_SERIALIZABLE: Level = Level::new(Base::Serializable, Order::RealTime);

    /// A level of these two.
    pub const fn new(base: Base, order: Order) -> Level {
        Level { base, order }
    }

    /// Every level, weakest base first.
    pub fn all() -> impl Iterator<Item = Level> {
        BASES.iter().flat_map(|(base, _)| {
            [Order::Any, Order::Session, Order::RealTime].map(|order| Level::new(*base, order))
        })
    }

    /// The level of a name: ours, or another that is in use for the same.
    pub fn parse(name: &str) -> Option<Level> {
        let name = name.strip_prefix(':').unwrap_or(name);
        if matches!(name, "strict-serializable" | "strict-1SR" | "linearizable") {
            return Some(Level::STRICT_SERIALIZABLE);
        }
        let (order, rest) = match name.strip_prefix("strong-session-") {
            Some(rest) => (Order::Session, rest),
            None => match name.strip_prefix("strong-") {
                Some(rest) => (Order::RealTime, rest),
                None => (Order::Any, name),
            },
        };
        let base = BASES.iter().find(|(_, known)| *known == rest).map(|(base, _)| *base);
        let base = base.or(match rest {
            "PL-1" => Some(Base::ReadUncommitted),
            "PL-2" => Some(Base::ReadCommitted),
            "causal-consistency" | "causal-cerone" => Some(Base::Causal),
            "PL-2.99" => Some(Base::RepeatableRead),
            "snapshot-isolation" | "si" | "PL-SI" => Some(Base::Snapshot),
            "PL-3" => Some(Base::Serializable),
            _ => None,
        });
        base.map(|base| Level::new(base, order))
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = BASES.iter().find(|(base, _)| base == self).map_or("", |(_, name)| *name);
        f.pad(name)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.base, self.order) {
            (Base::Serializable, Order::RealTime) => f.pad("strict-serializable"),
            (base, Order::Any) => base.fmt(f),
            (base, Order::Session) => f.pad(&format!("strong-session-{base}")),
            (base, Order::RealTime) => f.pad(&format!("strong-{base}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_found_by_its_name() {
        for level in Level::all() {
            assert_eq!(Level::parse(&level.to_string()), Some(level), "{level}");
        }
        assert_eq!(Level::parse("strong-serializable"), Some(Level::STRICT_SERIALIZABLE));
        assert_eq!(
            Level::parse("strong-session-snapshot-isolation"),
            Some(Level::new(Base::Snapshot, Order::Session))
        );
        assert_eq!(Level::parse("stronger"), None);
    }
}
