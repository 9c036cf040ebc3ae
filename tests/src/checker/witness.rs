//! Why one transaction comes before another, as data and in words.

use std::fmt::{self, Write as _};

use crate::history::{History, Key, Operation, Outcome, Value};

/// Why a transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dependency {
    /// Its version of a key comes before the other's.
    Ww,
    /// The other read what it wrote.
    Wr,
    /// It read a version that the other replaced.
    Rw,
    /// The other read by a predicate, and saw that it had written an item.
    WrPredicate,
    /// It read by a predicate, and the other changed what matches.
    RwPredicate,
    /// It is the earlier one of a session.
    Process,
    /// It was acknowledged before the other began.
    RealTime,
}

impl Dependency {
    /// Whether it is an anti-dependency.
    pub fn is_anti(self) -> bool {
        matches!(self, Dependency::Rw | Dependency::RwPredicate)
    }

    /// Whether it is an order that the level asks for, rather than a dependency of data.
    pub fn is_order(self) -> bool {
        matches!(self, Dependency::Process | Dependency::RealTime)
    }

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Dependency::Ww => "ww",
            Dependency::Wr => "wr",
            Dependency::Rw => "rw",
            Dependency::WrPredicate => "wr predicate",
            Dependency::RwPredicate => "rw predicate",
            Dependency::Process => "process",
            Dependency::RealTime => "real time",
        })
    }
}

/// An edge of the dependency graph. For the orders key and values mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The place of the transaction that comes first.
    pub from: u32,
    /// The place of the one that depends on it.
    pub to: u32,
    /// Why.
    pub kind: Dependency,
    /// The key.
    pub key: Key,
    /// What the first wrote or read; nil if nothing was there.
    pub before: Value,
    /// What the second wrote or read; nil if it deleted, or found nothing.
    pub after: Value,
}

impl Edge {
    /// An edge of order.
    pub(super) fn order(from: usize, to: usize, kind: Dependency) -> Edge {
        let (from, to) = (from as u32, to as u32);
        Edge { from, to, kind, key: Key(0), before: Value::NIL, after: Value::NIL }
    }
}

/// What shows that an anomaly is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The transactions that take part, by place; of a cycle, in its order.
    pub transactions: Vec<usize>,
    /// The cycle: each edge ends where the next begins. Empty if the anomaly is not a cycle.
    pub edges: Vec<Edge>,
    /// What is wrong, where that is not a cycle.
    pub because: String,
}

impl Witness {
    /// Something that is not a cycle.
    pub(super) fn of(transactions: Vec<usize>, because: String) -> Witness {
        Witness { transactions, edges: Vec::new(), because }
    }

    /// A cycle.
    pub(super) fn cycle(edges: Vec<Edge>) -> Witness {
        let transactions = edges.iter().map(|edge| edge.from as usize).collect();
        Witness { transactions, edges, because: String::new() }
    }

    /// The witness in words: the transactions with their names, and why they cannot all be.
    pub fn prose(&self, history: &History) -> String {
        let mut text = String::new();
        for (number, place) in self.transactions.iter().enumerate() {
            let _ = writeln!(text, "  T{} = {}", number + 1, transaction(history, *place));
        }
        if !self.because.is_empty() {
            let _ = writeln!(text, "  {}", self.because);
        }
        let last = self.edges.len().saturating_sub(1);
        let number = |place: u32| {
            self.transactions
                .iter()
                .position(|known| *known == place as usize)
                .map_or(0, |at| at + 1)
        };
        for (at, edge) in self.edges.iter().enumerate() {
            let (from, to) = (number(edge.from), number(edge.to));
            let why = reason(history, edge, from, to);
            let lead = if at == last && at > 0 { "However, " } else { "" };
            let end = if at == last { ": a contradiction" } else { "" };
            let _ = writeln!(text, "  {lead}T{from} comes before T{to}, because {why}{end}.");
        }
        text
    }
}

/// Why the edge is there, of transactions with these numbers.
fn reason(history: &History, edge: &Edge, from: usize, to: usize) -> String {
    let key = history.key_name(edge.key);
    let before = || value(history, edge.before);
    let after = || value(history, edge.after);
    let appended = |place: u32, wanted: Value| {
        history.operations(place as usize).iter().any(|operation| {
            matches!(operation, Operation::Append { key, value } if (*key, *value) == (edge.key, wanted))
        })
    };
    match edge.kind {
        Dependency::Ww if appended(edge.to, edge.after) => {
            format!("T{to} appended {} to {key} after T{from} appended {}", after(), before())
        }
        Dependency::Ww => {
            format!("T{to} replaced T{from}'s {key} = {} by {}", before(), after())
        }
        Dependency::Wr if appended(edge.from, edge.after) => {
            format!("T{from} appended {} to {key} and T{to} read it", after())
        }
        Dependency::Wr if edge.after.is_nil() => {
            format!("T{from} deleted {key} and T{to} did not find it")
        }
        Dependency::Wr => format!("T{from} wrote {key} = {} and T{to} read it", after()),
        Dependency::Rw if appended(edge.to, edge.after) => {
            format!("T{from} read {key} without {}, which T{to} appended", after())
        }
        Dependency::Rw if edge.before.is_nil() => {
            format!("T{from} read {key} before there was anything, and T{to} wrote {}", after())
        }
        Dependency::Rw => {
            format!("T{from} read {key} = {}, which T{to} replaced by {}", before(), after())
        }
        Dependency::WrPredicate => format!(
            "T{from} made {key} {}, and that is what T{to}'s read by a predicate saw of it",
            after()
        ),
        Dependency::RwPredicate => format!(
            "T{from}'s read by a predicate saw {key} as {}, and T{to} made it {}",
            before(),
            after()
        ),
        Dependency::Process => format!("T{from} is the earlier transaction of the same session"),
        Dependency::RealTime => format!("T{from} was acknowledged before T{to} began"),
    }
}

/// A value as words have it.
pub(super) fn value(history: &History, value: Value) -> String {
    history.value_name(value).map_or_else(|| "nil".to_owned(), |name| name.to_string())
}

/// At most so many elements of a list are written out at either end.
const SHOWN_MAX: usize = 12;

/// A list as words have it.
pub(super) fn list(history: &History, elements: &[Value]) -> String {
    let show = |elements: &[Value]| {
        elements.iter().map(|element| value(history, *element)).collect::<Vec<_>>().join(" ")
    };
    if elements.len() <= 2 * SHOWN_MAX {
        return format!("[{}]", show(elements));
    }
    let (first, last) = (&elements[..SHOWN_MAX], &elements[elements.len() - SHOWN_MAX..]);
    format!("[{} … {}]", show(first), show(last))
}

/// A transaction as words have it.
pub fn transaction(history: &History, place: usize) -> String {
    let about = &history.transactions()[place];
    let operations: Vec<String> =
        history.operations(place).iter().map(|each| operation(history, *each)).collect();
    let mut text = format!("[{}]", operations.join(", "));
    if about.initial {
        text.push_str(", the first state");
    } else if about.line > 0 {
        let _ = write!(text, ", line {}", about.line);
    } else {
        let _ = write!(text, ", number {place}");
    }
    match about.outcome {
        Outcome::Committed => {}
        Outcome::Aborted => text.push_str(", aborted"),
        Outcome::Unknown => text.push_str(", outcome unknown"),
    }
    text
}

/// An operation as words have it.
pub fn operation(history: &History, operation: Operation) -> String {
    let value = |of: Value| value(history, of);
    let key = |key: crate::history::Key| history.key_name(key).to_string();
    match operation {
        Operation::Append { key: of, value: element } => {
            format!("append {} {}", key(of), value(element))
        }
        Operation::ReadList { key: of, list: elements } => {
            format!("read {} = {}", key(of), list(history, history.list(of, elements)))
        }
        Operation::Write { key: of, value: new } => format!("write {} = {}", key(of), value(new)),
        Operation::Read { key: of, value: found } => format!("read {} = {}", key(of), value(found)),
        Operation::ReadUnknown { key: of } => format!("read {} = ?", key(of)),
        Operation::Insert { key: of, value: new } => format!("insert {} = {}", key(of), value(new)),
        Operation::Delete { key: of } => format!("delete {}", key(of)),
        Operation::ReadWhere { predicate, found } => {
            let found: Vec<String> = history
                .found(found)
                .map(|(of, value_of)| format!("{} = {}", key(of), value(value_of)))
                .collect();
            let predicate = self::predicate(history, predicate);
            format!("read where {predicate}: {{{}}}", found.join(", "))
        }
        Operation::ReadWhereUnknown { predicate } => {
            format!("read where {}: ?", self::predicate(history, predicate))
        }
        Operation::Add { key: of, value: amount } => format!("add {} {}", key(of), value(amount)),
        Operation::CompareAndSet { key: of, pair } => {
            let (old, new) = history.old_and_new(pair);
            format!("set {} from {} to {}", key(of), value(old), value(new))
        }
        Operation::Transfer { from, pair } => {
            let (to, amount) = history.other_and_amount(pair);
            format!("transfer {} from {} to {}", value(amount), key(from), key(to))
        }
    }
}

fn predicate(history: &History, place: u32) -> String {
    use crate::history::Predicate;
    match history.predicate_at(place) {
        Predicate::All => "true".to_owned(),
        Predicate::Equals(wanted) => format!("value = {}", value(history, wanted)),
        Predicate::Modulo(modulus, remainder) => format!("value mod {modulus} = {remainder}"),
        Predicate::Between(from, to) => format!("{from} <= key < {to}"),
    }
}
