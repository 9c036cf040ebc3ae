//! What each anomaly of the checker is, in words for people, and who defined it.

use crate::checker::{self, Phenomenon};
use crate::history::{Base, Order};
use crate::picture::Anomaly;

const ADYA: &str = "Adya, Weak Consistency, 1999";
const ELLE: &str = "Kingsbury and Alvaro, Elle, 2020";
const JEPSEN: &str = "Jepsen's workloads";

/// The bases from which a level may be made, weakest first.
const BASES: [Base; 7] = [
    Base::ReadUncommitted,
    Base::ReadCommitted,
    Base::ReadAtomic,
    Base::Causal,
    Base::RepeatableRead,
    Base::Snapshot,
    Base::Serializable,
];

/// An anomaly of the checker, with its definition.
pub(super) fn of(anomaly: checker::Anomaly) -> Anomaly {
    let (title, definition, source) = words(anomaly.phenomenon);
    let order = match anomaly.order {
        Order::Any => "",
        Order::Session => " The order in which each session did its own is part of the circle.",
        Order::RealTime => {
            " Real time is part of the circle: what was over before something else began comes first."
        }
    };
    let forbids = |base: &Base| anomaly.phenomenon.forbidden_at(*base);
    let prefix = match anomaly.order {
        Order::Any => "",
        Order::Session => "strong-session-",
        Order::RealTime => "strong-",
    };
    Anomaly {
        name: anomaly.to_string(),
        title: title.into(),
        definition: format!("{definition}{order}"),
        source: source.into(),
        forbidden_by: BASES
            .iter()
            .filter(|base| forbids(base))
            .map(|base| format!("{prefix}{base}"))
            .collect(),
    }
}

/// Title, definition, source.
fn words(phenomenon: Phenomenon) -> (&'static str, &'static str, &'static str) {
    match phenomenon {
        Phenomenon::GarbageRead => {
            ("garbage read", "A transaction read a value that nobody wrote.", ELLE)
        }
        Phenomenon::DuplicateElements => {
            ("duplicate elements", "An element was appended once and read twice in one list.", ELLE)
        }
        Phenomenon::CyclicVersions => (
            "cyclic versions",
            "What was read of one key puts two of its versions before each other.",
            ELLE,
        ),
        Phenomenon::G0 => (
            "write cycle",
            "The writes of transactions lie on each other in a circle: neither wrote after the other.",
            "Adya, Weak Consistency, 1999, G0; P0 in Berenson et al., 1995",
        ),
        Phenomenon::G1a => (
            "aborted read",
            "A transaction that committed has read what another wrote and never committed.",
            "Adya, Weak Consistency, 1999, G1a",
        ),
        Phenomenon::G1b => (
            "intermediate read",
            "A transaction that committed has read what another wrote and then wrote over.",
            "Adya, Weak Consistency, 1999, G1b",
        ),
        Phenomenon::DirtyUpdate => (
            "dirty update",
            "A transaction that committed wrote on top of what another wrote and never committed.",
            ELLE,
        ),
        Phenomenon::IncompatibleOrder => (
            "incompatible order",
            "Two reads of one list show its elements in orders of which neither begins the other.",
            ELLE,
        ),
        Phenomenon::FutureRead => {
            ("future read", "A transaction read what it wrote itself only later.", ELLE)
        }
        Phenomenon::G1c => (
            "circular information flow",
            "Information flows in a circle: each transaction read or overwrote what the one before wrote.",
            "Adya, Weak Consistency, 1999, G1c",
        ),
        Phenomenon::Internal => (
            "internal inconsistency",
            "A transaction read something else than what its own earlier operations say is there.",
            "Cerone, Bernardi and Gotsman, A Framework for Transactional Consistency Models, 2015, INT",
        ),
        Phenomenon::LostUpdate => (
            "lost update",
            "Two transactions read the same version of a key and both replaced it: what one of them \
             did is lost on the other.",
            "Berenson et al., A Critique of ANSI SQL Isolation Levels, 1995, P4",
        ),
        Phenomenon::GSingleItem => (
            "read skew",
            "A transaction saw some of what another did, and not the rest: a circle with one overtaken read.",
            "Adya, Weak Consistency, 1999, G-single",
        ),
        Phenomenon::GSingle => (
            "read skew over a predicate",
            "A transaction saw some of what another did, and what its range or predicate found was \
             without the rest: a circle with one overtaken read.",
            "Adya, Weak Consistency, 1999, G-single",
        ),
        Phenomenon::GNonadjacentItem | Phenomenon::GNonadjacent => (
            "long fork",
            "Two groups of transactions saw two writes in opposite orders: a circle with several \
             overtaken reads, none next to another.",
            "Cerone and Gotsman, Analysing Snapshot Isolation, 2016; Elle's G-nonadjacent",
        ),
        Phenomenon::G2Item => (
            "write skew",
            "Transactions read what others of them overwrote: in a circle, with overtaken reads next \
             to each other.",
            "Adya, Weak Consistency, 1999, G2-item; A5B in Berenson et al., 1995",
        ),
        Phenomenon::G2 => (
            "write skew over a predicate",
            "Transactions read what others of them changed, by ranges or predicates too: in a circle, \
             with overtaken reads next to each other.",
            "Adya, Weak Consistency, 1999, G2",
        ),
        Phenomenon::PredicateReadMiss => (
            "predicate read that misses",
            "A read by a predicate did not find what matched it at all times.",
            ADYA,
        ),
        Phenomenon::TimestampOrder => (
            "timestamps out of order",
            "The commit timestamps that the engine gave contradict what was read.",
            "Clark et al., Validating Database System Isolation Level Implementations with Version \
             Certificate Recovery, 2024",
        ),
        Phenomenon::WrongTotal => (
            "wrong total",
            "Money was made or lost: the balances that one read saw do not add up.",
            JEPSEN,
        ),
        Phenomenon::NegativeBalance => {
            ("negative balance", "A balance fell below zero, where that is not allowed.", JEPSEN)
        }
        Phenomenon::UnexpectedAccount => (
            "unexpected account",
            "Accounts were read that nobody made, or some were missing.",
            JEPSEN,
        ),
        Phenomenon::LostElement => (
            "lost element",
            "An element was acknowledged, and was missing from every later read.",
            JEPSEN,
        ),
        Phenomenon::StaleElement => (
            "stale read of a set",
            "A read missed an element that had been acknowledged, or seen, before it began.",
            JEPSEN,
        ),
        Phenomenon::CounterBounds => (
            "counter out of bounds",
            "A counter was read at a value that no order of the additions around it gives.",
            JEPSEN,
        ),
        Phenomenon::LongFork => (
            "long fork",
            "Two reads saw two writes in opposite orders.",
            "Sovran et al., Transactional Storage for Geo-replicated Systems, 2011",
        ),
        Phenomenon::NotLinearizable => (
            "not linearizable",
            "No order of the operations that agrees with real time explains what they answered.",
            "Herlihy and Wing, Linearizability, 1990",
        ),
    }
}
