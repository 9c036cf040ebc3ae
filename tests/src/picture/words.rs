//! What happened, in words: the sentences that every form of the picture shares.

use super::selection::TRANSACTIONS_MAX;
use super::text::{SHORT_MAX, counted, cut, harmless, shown};
use super::{Edge, EdgeKind, End, Event, Intent, Operation, Outcome, Picture, Refusal, Verdict};

/// Keys and values of a scan that are told; the others are counted.
const PAIRS_MAX: usize = 6;
/// Columns of a transaction's name.
const NAME_MAX: usize = 20;
/// Edges of a long cycle that are told from its beginning, and as many from its end: those between
/// the transactions that are drawn.
const CYCLE_SHOWN: usize = TRANSACTIONS_MAX / 2 - 1;

fn short(bytes: &[u8]) -> String {
    shown(bytes, SHORT_MAX)
}

/// A part of the account, for whoever sets it in type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An edge (a place in the picture's edges); whether it closes the cycle.
    Edge(usize, bool),
    /// So many edges that are not told.
    Gap(usize),
}

impl Picture {
    /// How long what is there at first is there, behind it.
    pub(super) fn lasting(&self, key: &[u8]) -> String {
        let found = self.expiring.iter().find(|(expiring, _)| expiring == key);
        found.map_or(String::new(), |(_, units)| format!(" for {units} units of time"))
    }

    /// A transaction's name.
    pub fn name(&self, transaction: usize) -> String {
        let known = self.transactions.get(transaction);
        let name = known.map(|known| cut(&harmless(&known.name), NAME_MAX, "…"));
        name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("T?{transaction}"))
    }

    /// Names, as `T1`, `T1 and T2`, `T1, T2 and T3`.
    pub fn names(&self, transactions: &[usize]) -> String {
        let names: Vec<String> = transactions.iter().map(|one| self.name(*one)).collect();
        match names.split_last() {
            None => String::new(),
            Some((last, [])) => last.clone(),
            Some((last, others)) => format!("{} and {last}", others.join(", ")),
        }
    }

    /// What the anomaly is called: `write skew (G2-item)`.
    pub fn title(&self) -> String {
        let (name, title) = (harmless(&self.anomaly.name), harmless(&self.anomaly.title));
        match (name.is_empty(), title.is_empty()) {
            (true, true) => "a history".into(),
            (false, true) => name,
            (true, false) => title,
            (false, false) if name == title => name,
            (false, false) => format!("{title} ({name})"),
        }
    }

    /// What became of it, in a sentence.
    pub fn verdict_sentence(&self) -> String {
        match &self.verdict {
            Verdict::Allowed => "It happened, and the levels in use allow it.".into(),
            Verdict::Forbidden(promise) if promise.is_empty() => {
                "It happened, and must not have: a promise is broken.".into()
            }
            Verdict::Forbidden(promise) => {
                format!("It happened, and is forbidden at {}: a promise is broken.", clean(promise))
            }
            Verdict::Prevented(how) if how.is_empty() => "It was prevented.".into(),
            Verdict::Prevented(how) => format!("It was prevented: {}.", clean(how)),
        }
    }

    /// The edges that contradict each other, in order; the middle of a long cycle is left out.
    pub fn told(&self) -> Vec<Told> {
        let known = |edge: &&usize| **edge < self.edges.len();
        let cycle: Vec<usize> = self.cycle.iter().filter(known).copied().collect();
        let length = cycle.len();
        let mut told = Vec::new();
        for (place, edge) in cycle.into_iter().enumerate() {
            let hidden = length.saturating_sub(2 * CYCLE_SHOWN);
            if length <= TRANSACTIONS_MAX || place < CYCLE_SHOWN || place >= length - CYCLE_SHOWN {
                told.push(Told::Edge(edge, place + 1 == length));
            } else if place == CYCLE_SHOWN {
                told.push(Told::Gap(hidden));
            }
        }
        told
    }

    /// The account in one paragraph: who was before whom and why, the contradiction, what became of
    /// it.
    pub fn prose(&self) -> String {
        let mut parts = Vec::new();
        for told in self.told() {
            match told {
                Told::Gap(count) => {
                    parts.push(format!("… {} more, each before the next …;", counted(count as u64)))
                }
                Told::Edge(edge, last) => {
                    let edge = &self.edges[edge];
                    let (from, to, why) =
                        (self.name(edge.from), self.name(edge.to), self.why(edge));
                    let however = if last && !parts.is_empty() { "however " } else { "" };
                    let end = if last { ": a contradiction." } else { ";" };
                    parts.push(format!("{however}{from} before {to}, because {why}{end}"));
                }
            }
        }
        parts.extend(self.remarks.iter().map(|remark| harmless(remark)));
        parts.push(self.verdict_sentence());
        parts.join(" ")
    }

    /// Why one transaction comes before another, as a clause.
    pub fn why(&self, edge: &Edge) -> String {
        if !edge.why.is_empty() {
            return clean(&edge.why);
        }
        let event = |place: Option<usize>| place.and_then(|place| self.events.get(place));
        let (first, second) = (event(edge.from_event), event(edge.to_event));
        let (from, to) = (self.name(edge.from), self.name(edge.to));
        let key = edge.key.as_deref().or_else(|| first.and_then(Event::key));
        let key = key.or_else(|| second.and_then(Event::key)).map_or("a key".into(), short);
        let effect = |event: Option<&Event>| {
            event.and_then(|event| event.effect(&key)).unwrap_or_else(|| format!("wrote {key}"))
        };
        let sight = |event: Option<&Event>| {
            let Some(event) = event else { return format!("read {key}") };
            event.sight(edge.key.as_deref()).unwrap_or_else(|| format!("read {key}"))
        };
        match edge.kind {
            EdgeKind::WriteWrite => match second.and_then(Event::overwrites) {
                Some(so) => format!("{from} {}, which {to} {so}", effect(first)),
                None => format!("{from} {} before {to} {}", effect(first), effect(second)),
            },
            EdgeKind::WriteRead => {
                format!("{to} {}, {}", sight(second), source(first, &from, &effect(first)))
            }
            EdgeKind::ReadWrite => match second.and_then(Event::overwrites) {
                Some(so) if !found_nothing(first) => {
                    format!("{from} {}, which {to} {so}", sight(first))
                }
                _ => format!("{from} {}, not seeing that {to} {}", sight(first), effect(second)),
            },
            EdgeKind::PredicateReadWrite => {
                format!("{from} {}, not seeing that {to} {}", sight(first), effect(second))
            }
            EdgeKind::PredicateWriteRead => {
                format!("{to} {}, seeing that {from} {}", sight(second), effect(first))
            }
            EdgeKind::Process => {
                let lane = self.transactions.get(edge.from).map(|one| one.lane);
                let lane = lane.and_then(|lane| self.lanes.get(lane));
                let lane = lane.map_or("the same session".into(), |lane| harmless(&lane.name));
                format!("{lane} did {from} first and then {to}")
            }
            EdgeKind::RealTime => format!("{from} was over before {to} began"),
        }
    }

    /// An event without its transaction, where there is little room: `read x = 0`.
    pub fn label(&self, event: &Event) -> String {
        let what = event.operation.label();
        match &event.outcome {
            Outcome::Done => match event.operation {
                Operation::Commit => match event.transaction.map(|one| self.end(one)) {
                    Some(End::Committed(Some(at))) => format!("committed, at {at}"),
                    _ => "committed".into(),
                },
                Operation::Rollback => "rolled back".into(),
                _ => what,
            },
            Outcome::Value(None) => format!("{what}: nothing"),
            Outcome::Value(Some(value)) => format!("{what} = {}", short(value)),
            Outcome::Pairs(pairs) => format!("{what}: {}", found(pairs)),
            // What is special comes first: the end may be cut.
            Outcome::Waits(_) => match self.waiting(event) {
                waiting if event.operation == Operation::Commit => format!("{what} {waiting}"),
                waiting => format!("{waiting}, to {what}"),
            },
            Outcome::Refused { why, by, .. } => {
                let by = match by.as_slice() {
                    [] => String::new(),
                    by => format!(" by {}", self.names(by)),
                };
                format!("{}{by}, at {what}", why.label())
            }
        }
    }

    /// What an event waits for.
    fn waiting(&self, event: &Event) -> String {
        match (&event.outcome, &event.operation) {
            (Outcome::Waits(whom), Operation::Commit) if whom.is_empty() => "asked for".into(),
            (Outcome::Waits(whom), _) if whom.is_empty() => "waits".into(),
            (Outcome::Waits(whom), _) => format!("waits for {}", self.names(whom)),
            _ => String::new(),
        }
    }

    /// An event as a sentence without its full stop: `T1 reads x and finds 0`.
    pub fn sentence(&self, event: &Event) -> String {
        let Some(transaction) = event.transaction else {
            return "The engine decides the oldest commit that was asked for".into();
        };
        let who = self.name(transaction);
        let asked = event.operation.sentence();
        match &event.outcome {
            Outcome::Done => match event.operation {
                Operation::Begin => match self.protection(transaction) {
                    protection if protection.is_empty() => format!("{who} begins"),
                    protection => format!("{who} begins: {protection}"),
                },
                Operation::Commit => match self.end(transaction) {
                    End::Committed(Some(at)) => format!("{who} commits, at timestamp {at}"),
                    _ => format!("{who} commits"),
                },
                Operation::Rollback => format!("{who} rolls back"),
                _ => format!("{who} {asked}"),
            },
            Outcome::Value(None) => format!("{who} {asked} and finds nothing"),
            Outcome::Value(Some(value)) => format!("{who} {asked} and finds {}", short(value)),
            Outcome::Pairs(pairs) => format!("{who} {asked} and finds {}", found(pairs)),
            Outcome::Waits(_) if event.operation == Operation::Commit => match &event.outcome {
                Outcome::Waits(whom) if !whom.is_empty() => {
                    format!("{who}'s commit waits for {}", self.names(whom))
                }
                _ => format!("{who} asks for its commit"),
            },
            Outcome::Waits(_) => format!("{who} {asked}, and {}", self.waiting(event)),
            Outcome::Refused { why, by, said } => {
                let by = match by.as_slice() {
                    [] => String::new(),
                    by => format!(" ({})", self.names(by)),
                };
                let said = match harmless(said) {
                    said if said.is_empty() => String::new(),
                    said => format!(": “{said}”"),
                };
                format!("{who} {asked} and is refused: {}{by}{said}", why.sentence())
            }
        }
    }

    /// How a transaction is protected: `serializable, optimistic`.
    pub fn protection(&self, transaction: usize) -> String {
        let Some(known) = self.transactions.get(transaction) else { return String::new() };
        let parts = [harmless(&known.isolation), harmless(&known.concurrency)];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
    }

    /// The same where it is the same for all, and there are several.
    pub fn protection_of_all(&self) -> Option<String> {
        let first = self.protection(0);
        let count = self.transactions.len();
        let same = (1..count).all(|other| self.protection(other) == first);
        (count > 1 && same && !first.is_empty()).then_some(first)
    }

    fn end(&self, transaction: usize) -> End {
        self.transactions.get(transaction).map_or(End::Unknown, |known| known.end.clone())
    }
}

/// A clause of somebody else's, without what could do harm and without its full stop.
fn clean(clause: &str) -> String {
    harmless(clause.trim().trim_end_matches('.'))
}

/// Whose a value is that was read.
fn source(first: Option<&Event>, from: &str, effect: &str) -> String {
    match first.map(|event| &event.operation) {
        Some(Operation::Write { .. }) => format!("which {from} wrote"),
        Some(Operation::Merge { .. } | Operation::Delete { .. }) => {
            format!("seeing that {from} {effect}")
        }
        _ => format!("which {from} wrote"),
    }
}

fn found_nothing(event: Option<&Event>) -> bool {
    event.is_some_and(|event| event.outcome == Outcome::Value(None))
}

fn found(pairs: &[(Vec<u8>, Vec<u8>)]) -> String {
    if pairs.is_empty() {
        return "nothing".into();
    }
    let one = |(key, value): &(Vec<u8>, Vec<u8>)| format!("{} = {}", short(key), short(value));
    let mut shown: Vec<String> = pairs.iter().take(PAIRS_MAX).map(one).collect();
    if pairs.len() > PAIRS_MAX {
        shown.push(format!("{} more", counted((pairs.len() - PAIRS_MAX) as u64)));
    }
    shown.join(", ")
}

fn span(predicate: &str, lower: &Option<Vec<u8>>, upper: &Option<Vec<u8>>) -> String {
    if !predicate.is_empty() {
        return harmless(predicate);
    }
    let bound = |bound: &Option<Vec<u8>>| bound.as_deref().map(short).unwrap_or_default();
    match (lower, upper) {
        (None, None) => "all keys".into(),
        (_, Some(beyond)) if beyond.len() > 1 && beyond.ends_with(&[0]) => {
            format!("{}..={}", bound(lower), short(&beyond[..beyond.len() - 1]))
        }
        _ => format!("{}..{}", bound(lower), bound(upper)),
    }
}

impl Event {
    /// The key that it is about, if it is about one.
    pub fn key(&self) -> Option<&[u8]> {
        match &self.operation {
            Operation::Read { key, .. }
            | Operation::Write { key, .. }
            | Operation::Merge { key, .. }
            | Operation::Delete { key }
            | Operation::Other { key: Some(key), .. } => Some(key),
            _ => None,
        }
    }

    /// What a write did, in the past: `wrote x = 1`.
    fn effect(&self, key: &str) -> Option<String> {
        Some(match &self.operation {
            Operation::Write { value, .. } => format!("wrote {key} = {}", short(value)),
            Operation::Merge { operator, operand, .. } => match operator.as_str() {
                "append" => format!("appended {} to {key}", short(operand)),
                _ => format!("merged {} into {key} ({})", short(operand), harmless(operator)),
            },
            Operation::Delete { .. } => format!("deleted {key}"),
            Operation::Other { what, .. } => format!("did “{}”", harmless(what)),
            Operation::DeleteRange { lower, upper } => {
                format!("deleted {}", span("", lower, upper))
            }
            _ => return None,
        })
    }

    /// What a write did to what was there: `overwrote with 1`.
    fn overwrites(&self) -> Option<String> {
        match &self.operation {
            Operation::Write { value, .. } => Some(format!("overwrote with {}", short(value))),
            Operation::Delete { .. } | Operation::DeleteRange { .. } => Some("deleted".into()),
            _ => None,
        }
    }

    /// What a read saw, in the past: `read x = 0`; of a scan, what it found of the key.
    fn sight(&self, key: Option<&[u8]>) -> Option<String> {
        let (predicate, lower, upper) = match &self.operation {
            Operation::Read { key, .. } => {
                let key = short(key);
                return Some(match &self.outcome {
                    Outcome::Value(Some(value)) => format!("read {key} = {}", short(value)),
                    Outcome::Value(None) => format!("found no {key}"),
                    _ => format!("read {key}"),
                });
            }
            Operation::Scan { predicate, lower, upper } => (predicate, lower, upper),
            Operation::Other { what, .. } => return Some(format!("did “{}”", harmless(what))),
            _ => return None,
        };
        let what = span(predicate, lower, upper);
        let Outcome::Pairs(pairs) = &self.outcome else { return Some(format!("read {what}")) };
        Some(match key.map(|key| (key, pairs.iter().find(|(found, _)| found == key))) {
            None => format!("read {what} and found {}", found(pairs)),
            Some((key, None)) => format!("read {what} and found no {}", short(key)),
            Some((key, Some((_, value)))) => {
                format!("read {what} and found {} = {}", short(key), short(value))
            }
        })
    }
}

impl Operation {
    /// What is asked for, where there is little room.
    pub(super) fn label(&self) -> String {
        match self {
            Operation::Begin => "begin".into(),
            Operation::Read { key, intent } => match intent {
                Intent::Look => format!("read {}", short(key)),
                Intent::Share => format!("read {} for share", short(key)),
                Intent::Update => format!("read {} for update", short(key)),
            },
            Operation::Scan { predicate, lower, upper } => {
                format!("read {}", span(predicate, lower, upper))
            }
            Operation::Write { key, value } => format!("write {} = {}", short(key), short(value)),
            Operation::WriteUntil { key, value, until } => {
                format!("write {} = {} until {until}", short(key), short(value))
            }
            Operation::Merge { key, operator, operand } => match operator.as_str() {
                "append" => format!("append {} to {}", short(operand), short(key)),
                _ => format!("{} {} to {}", harmless(operator), short(operand), short(key)),
            },
            Operation::Delete { key } => format!("delete {}", short(key)),
            Operation::DeleteRange { lower, upper } => {
                format!("delete {}", span("", lower, upper))
            }
            Operation::LockRange { lower, upper, .. } => {
                format!("lock {}", span("", lower, upper))
            }
            Operation::Savepoint(point) => format!("mark point {point}"),
            Operation::RollbackTo(point) => format!("go back to point {point}"),
            Operation::Pass(units) => format!("let {units} pass"),
            Operation::DropKeyspace(name) => format!("drop {}", harmless(name)),
            Operation::Other { what, .. } => harmless(what),
            Operation::Commit => "commit".into(),
            Operation::Rollback => "roll back".into(),
            Operation::Round => "decide".into(),
        }
    }

    /// The same as the rest of a sentence: `reads x`.
    fn sentence(&self) -> String {
        match self {
            Operation::Begin => "begins".into(),
            Operation::Read { key, intent } => match intent {
                Intent::Look => format!("reads {}", short(key)),
                Intent::Share => format!("reads {} under a shared lock", short(key)),
                Intent::Update => format!("reads {} in order to write it", short(key)),
            },
            Operation::Scan { predicate, lower, upper } => {
                format!("reads {}", span(predicate, lower, upper))
            }
            Operation::Write { key, value } => format!("writes {} = {}", short(key), short(value)),
            Operation::WriteUntil { key, value, until } => {
                format!("writes {} = {}, to expire at {until}", short(key), short(value))
            }
            Operation::Merge { key, operator, operand } => match operator.as_str() {
                "append" => format!("appends {} to {}", short(operand), short(key)),
                _ => {
                    let operator = harmless(operator);
                    format!("merges {} into {} ({operator})", short(operand), short(key))
                }
            },
            Operation::Delete { key } => format!("deletes {}", short(key)),
            Operation::DeleteRange { lower, upper } => {
                format!("deletes {}", span("", lower, upper))
            }
            Operation::LockRange { lower, upper, exclusive } => {
                let how = if *exclusive { "locks" } else { "locks, for reading," };
                format!("{how} {}", span("", lower, upper))
            }
            Operation::Savepoint(point) => format!("marks point {point}"),
            Operation::RollbackTo(point) => format!("goes back to point {point}"),
            Operation::Pass(units) => format!("lets {units} units of time pass"),
            Operation::DropKeyspace(name) => format!("drops the keyspace {}", harmless(name)),
            Operation::Other { what, .. } => format!("does: {}", harmless(what)),
            Operation::Commit => "asks for its commit".into(),
            Operation::Rollback => "rolls back".into(),
            Operation::Round => "decides".into(),
        }
    }
}

impl Refusal {
    /// What it is called where there is little room.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Conflict => "conflict",
            Refusal::Wounded => "wounded",
            Refusal::Deadlock => "victim of a deadlock",
            Refusal::LockRefused => "lock refused",
            Refusal::Timeout => "timed out",
            Refusal::KeyspaceDropped => "keyspace dropped",
            Refusal::Other => "refused",
        }
    }

    /// The same as a clause.
    pub fn sentence(self) -> &'static str {
        match self {
            Refusal::Conflict => "what it depends on was changed meanwhile",
            Refusal::Wounded => "an older transaction took its locks",
            Refusal::Deadlock => "it was chosen to break a deadlock",
            Refusal::LockRefused => "a lock is not to be had, and the policy does not let it wait",
            Refusal::Timeout => "it had waited long enough",
            Refusal::KeyspaceDropped => "a keyspace that it uses was dropped",
            Refusal::Other => "the request failed",
        }
    }
}
