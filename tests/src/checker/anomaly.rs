//! The names of what can be wrong, and which level forbids which.
//!
//! Forbidden by a level, directly (a level forbids what the levels that it includes forbid):
//!
//! | level | forbids | source |
//! |---|---|---|
//! | read-uncommitted | G0, duplicate-elements, cyclic-versions, garbage-read | Adya PL-1; a version order is total and made of what was written |
//! | read-committed | G1a, G1b, G1c, dirty-update, incompatible-order, future-read | Adya PL-2; Elle counts the last three as G1 |
//! | read-atomic | internal, fractured reads (a G-single of two transactions) | Cerone, Bernardi and Gotsman 2015; Bailis and others 2014 |
//! | causal | a G-single through causality alone, session order included | Cerone, Bernardi and Gotsman 2015; Biswas and Enea 2019 |
//! | repeatable-read | G2-item (and so G-single-item), lost-update, internal | Adya PL-2.99 |
//! | snapshot | G-single, G-nonadjacent, lost-update, internal | Adya PL-SI; Cerone and Gotsman 2016: every cycle of snapshot isolation has two adjacent anti-dependencies |
//! | serializable | G2, predicate-read-miss, lost-update, internal | Adya PL-3 |
//! | strong-session-… | the same with the order of sessions: -process | Daudjee and Salem 2004, 2006 |
//! | strong-…, strict-serializable | the same with real time: -realtime | Adya PL-SS; Daudjee and Salem 2006 |
//!
//! Read-atomic includes read-committed, causal includes read-atomic, snapshot includes causal but for
//! the session order, repeatable-read includes read-committed, serializable includes them all.
//! In a history where each transaction has its own level, an edge of the graph counts if the level
//! of the transaction that depends on it says so (Adya's mixing theorem): a read dependency if the
//! reader is at read-committed or above, an anti-dependency if the reader's level protects that read.

use std::fmt;

use crate::history::{Base, Order};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phenomenon {
    /// A read of what no transaction wrote.
    GarbageRead,
    /// An element twice in one list.
    DuplicateElements,
    /// Versions of one key that come before each other.
    CyclicVersions,
    /// Write cycle.
    G0,
    /// Aborted read.
    G1a,
    /// Intermediate read.
    G1b,
    /// A committed write on top of an aborted one.
    DirtyUpdate,
    /// Two reads of a list of which neither is a prefix of the other.
    IncompatibleOrder,
    /// A read of what the same transaction wrote later.
    FutureRead,
    /// Circular information flow.
    G1c,
    /// A read that contradicts the same transaction's own earlier operations.
    Internal,
    /// Two transactions read one version and both replaced it.
    LostUpdate,
    /// A cycle with one anti-dependency, on an item.
    GSingleItem,
    /// A cycle with one anti-dependency, on a predicate.
    GSingle,
    /// A cycle with several anti-dependencies on items, none next to another (long fork).
    GNonadjacentItem,
    /// The same with a predicate among them.
    GNonadjacent,
    /// A cycle with adjacent anti-dependencies on items (write skew).
    G2Item,
    /// The same with a predicate among them.
    G2,
    /// A predicate read that misses what matched it at all times.
    PredicateReadMiss,
    /// The engine's commit timestamps contradict the order that was observed.
    TimestampOrder,
    /// Balances whose sum is not what it always is.
    WrongTotal,
    /// A balance below zero where that is not allowed.
    NegativeBalance,
    /// Accounts that are missing or that nobody made.
    UnexpectedAccount,
    /// An element that was acknowledged and then missing.
    LostElement,
    /// An element that is there, missing, and there again, or was missing after it was acknowledged.
    StaleElement,
    /// A counter outside of the bounds that its additions allow.
    CounterBounds,
    /// Two reads that saw two writes in opposite orders.
    LongFork,
    /// No order of the operations explains what they answered.
    NotLinearizable,
}

/// A phenomenon, and the order that it needs besides the dependencies: the suffix `-process` or
/// `-realtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Anomaly {
    /// What.
    pub phenomenon: Phenomenon,
    /// Whether the order of a session or real time is part of it.
    pub order: Order,
}

const NAMES: [(Phenomenon, &str); 28] = [
    (Phenomenon::GarbageRead, "garbage-read"),
    (Phenomenon::DuplicateElements, "duplicate-elements"),
    (Phenomenon::CyclicVersions, "cyclic-versions"),
    (Phenomenon::G0, "G0"),
    (Phenomenon::G1a, "G1a"),
    (Phenomenon::G1b, "G1b"),
    (Phenomenon::DirtyUpdate, "dirty-update"),
    (Phenomenon::IncompatibleOrder, "incompatible-order"),
    (Phenomenon::FutureRead, "future-read"),
    (Phenomenon::G1c, "G1c"),
    (Phenomenon::Internal, "internal"),
    (Phenomenon::LostUpdate, "lost-update"),
    (Phenomenon::GSingleItem, "G-single-item"),
    (Phenomenon::GSingle, "G-single"),
    (Phenomenon::GNonadjacentItem, "G-nonadjacent-item"),
    (Phenomenon::GNonadjacent, "G-nonadjacent"),
    (Phenomenon::G2Item, "G2-item"),
    (Phenomenon::G2, "G2"),
    (Phenomenon::PredicateReadMiss, "predicate-read-miss"),
    (Phenomenon::TimestampOrder, "timestamp-order"),
    (Phenomenon::WrongTotal, "wrong-total"),
    (Phenomenon::NegativeBalance, "negative-balance"),
    (Phenomenon::UnexpectedAccount, "unexpected-account"),
    (Phenomenon::LostElement, "lost-element"),
    (Phenomenon::StaleElement, "stale-element"),
    (Phenomenon::CounterBounds, "counter-bounds"),
    (Phenomenon::LongFork, "long-fork"),
    (Phenomenon::NotLinearizable, "not-linearizable"),
];

impl From<Phenomenon> for Anomaly {
    fn from(phenomenon: Phenomenon) -> Anomaly {
        Anomaly { phenomenon, order: Order::Any }
    }
}

impl Anomaly {
    /// The anomaly of a name.
    pub fn parse(name: &str) -> Option<Anomaly> {
        let (name, order) = match (name.strip_suffix("-process"), name.strip_suffix("-realtime")) {
            (Some(name), _) => (name, Order::Session),
            (_, Some(name)) => (name, Order::RealTime),
            _ => (name, Order::Any),
        };
        let phenomenon = NAMES.iter().find(|(_, known)| *known == name)?.0;
        Some(Anomaly { phenomenon, order })
    }

    /// Whether whoever has this anomaly has the other in any case.
    pub fn implies(self, other: Anomaly) -> bool {
        self.order <= other.order && self.phenomenon.implies(other.phenomenon)
    }
}

impl Phenomenon {
    /// Whether a cycle of this kind is one of the other kind, too.
    pub fn implies(self, other: Phenomenon) -> bool {
        use Phenomenon::*;
        let more: &[Phenomenon] = match self {
            G0 => &[G1c],
            GSingleItem => &[GSingle, GNonadjacentItem, GNonadjacent, G2Item, G2],
            GSingle => &[GNonadjacent, G2],
            GNonadjacentItem => &[GNonadjacent, G2Item, G2],
            GNonadjacent | G2Item => &[G2],
            _ => &[],
        };
        self == other || more.contains(&other)
    }

    /// Whether a level with this base forbids it. Cycles are found among the edges that a level
    /// counts, and those that it does not forbid have none.
    pub fn forbidden_at(self, base: Base) -> bool {
        use Phenomenon::*;
        match self {
            GarbageRead | DuplicateElements | CyclicVersions | G0 | TimestampOrder => true,
            G1a | G1b | G1c | DirtyUpdate | IncompatibleOrder | FutureRead => {
                base >= Base::ReadCommitted
            }
            Internal => base >= Base::ReadAtomic,
            GSingleItem => base >= Base::ReadAtomic,
            LostUpdate | GNonadjacentItem => base >= Base::RepeatableRead,
            GSingle | GNonadjacent => matches!(base, Base::Snapshot | Base::Serializable),
            G2Item => matches!(base, Base::RepeatableRead | Base::Serializable),
            G2 | PredicateReadMiss => base == Base::Serializable,
            WrongTotal | NegativeBalance | UnexpectedAccount | LostElement | StaleElement
            | CounterBounds | LongFork | NotLinearizable => true,
        }
    }
}

impl fmt::Display for Phenomenon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(known, _)| known == self).map_or("", |(_, name)| *name);
        f.pad(name)
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.order {
            Order::Any => self.phenomenon.fmt(f),
            Order::Session => f.pad(&format!("{}-process", self.phenomenon)),
            Order::RealTime => f.pad(&format!("{}-realtime", self.phenomenon)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_anomaly_is_found_by_its_name() {
        for (phenomenon, _) in NAMES {
            for order in [Order::Any, Order::Session, Order::RealTime] {
                let anomaly = Anomaly { phenomenon, order };
                assert_eq!(Anomaly::parse(&anomaly.to_string()), Some(anomaly), "{anomaly}");
            }
        }
        assert_eq!(Anomaly::parse("G9"), None);
    }

    #[test]
    fn a_cycle_is_also_what_it_is_a_case_of() {
        let named = |name| Anomaly::parse(name).unwrap();
        assert!(named("G-single-item").implies(named("G2-item-realtime")));
        assert!(named("G0-process").implies(named("G1c-realtime")));
        assert!(!named("G0-realtime").implies(named("G1c")));
        assert!(!named("G2-item").implies(named("G-single")));
    }
}
