//! A scenario: a few sessions of one transaction each on a few keys, and what must hold in the end.
//! Its text form is described in `docs/anomalies.md`; [`parse`] reads it, `Display` writes it.
//!
//! 1. Every session ends with its only commit, rollback or drop of a keyspace; one that drops does
//!    nothing else. A keyspace is dropped once.
//! 2. A session's expressions use what the session itself has read before.
//! 3. Sizes are bounded by the constants of this module, whatever the text says.
//! 4. A key that is not in the keyspace that is there anyway has its own in its name: `stock/apples`.

mod lexer;
mod parser;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use isolith::{Concurrency, Isolation};

use super::expression::{Expression, Pairs};
use super::target::{Contents, Feature, Hold, Span, Target, Terms, space_of};

pub use parser::{parse, schedule};

/// Bytes that a scenario's text may have.
pub const TEXT_BYTES_MAX: usize = 64 << 10;
/// Sessions that a scenario may have.
pub const SESSIONS_MAX: usize = 8;
/// Steps that a session may have.
pub const STEPS_MAX: usize = 32;
/// Keys that a scenario may touch.
pub const KEYS_MAX: usize = 64;
/// Bytes that a name, a key or a label may have.
pub const NAME_BYTES_MAX: usize = 64;
/// Merges in a whole scenario.
pub const MERGES_MAX: usize = 16;
/// Keyspaces that a scenario may have, besides the one that is there anyway.
pub const KEYSPACES_MAX: usize = 8;
/// Units of time that pass in a step, or after which a value expires.
pub const UNITS_MAX: u64 = 1_000_000;
/// Expressions within expressions.
pub const DEPTH_MAX: usize = 32;

/// What is wrong with a scenario's text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1, in characters.
    pub column: usize,
    /// What is wrong, or what was expected.
    pub what: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for ParseError {}

/// A scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scenario {
    /// What it is called on the command line: `write-skew`.
    pub name: String,
    /// What people call it: `write skew`.
    pub title: String,
    /// The phenomenon's short name in the literature: `G2-item`.
    pub phenomenon: String,
    /// What it is, in a sentence or two.
    pub about: String,
    /// Who defined it, where.
    pub source: String,
    /// The levels that forbid its anomaly, if it says so.
    pub forbidden: Option<Vec<Isolation>>,
    /// What is there at first.
    pub setup: Contents,
    /// What of it expires, after so many units of time.
    pub expiring: BTreeMap<String, u64>,
    /// Who does what.
    pub sessions: Vec<Session>,
    /// True of the runs in which the anomaly happened.
    pub anomaly: Option<Expression>,
    /// True of all runs.
    pub invariants: Vec<Expression>,
    /// The schedule that shows it best: places of sessions, one for each move.
    pub schedule: Vec<usize>,
}

/// A session: one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// What it is called: `t1`.
    pub name: String,
    /// Its level, if it has one of its own.
    pub isolation: Option<Isolation>,
    /// Its concurrency control, if it has one of its own.
    pub concurrency: Option<Concurrency>,
    /// What it does; the last is its commit or rollback, or a drop.
    pub steps: Vec<Step>,
}

/// A step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub act: Act,
    /// If this holds. Otherwise the step does nothing.
    pub condition: Option<Expression>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Begins.
    Begin,
    /// Reads a key.
    Get {
        /// Which.
        key: String,
        /// What for.
        hold: Hold,
        /// The name that expressions call it by; the key otherwise.
        label: Option<String>,
    },
    /// Reads a range.
    Scan {
        /// Which.
        span: Span,
        /// The name that expressions call it by.
        label: Option<String>,
    },
    /// Writes a key.
    Put {
        /// Which.
        key: String,
        /// Its value.
        value: Expression,
        /// After how many units of time it expires; none for never.
        lasts: Option<u64>,
    },
    /// Adds to a key without reading it.
    Merge {
        /// Which.
        key: String,
        /// How much.
        delta: Expression,
    },
    /// Deletes a key.
    Delete(String),
    /// Deletes a range.
    DeleteRange(Span),
    /// Locks a range.
    LockRange(Span),
    /// Marks a point.
    Savepoint(String),
    /// Goes back to it.
    RollbackTo(String),
    /// Units of time pass.
    Pass(u64),
    /// Drops a keyspace.
    Drop(String),
    /// Commits.
    Commit,
    /// Rolls back.
    Rollback,
}

impl Act {
    /// Whether it ends the transaction.
    pub fn ends(&self) -> bool {
        matches!(self, Act::Drop(_) | Act::Commit | Act::Rollback)
    }

    /// What a target must have for it.
    pub fn feature(&self) -> Option<Feature> {
        match self {
            Act::Scan { .. } | Act::DeleteRange(_) | Act::LockRange(_) => Some(Feature::Ranges),
            Act::Get { hold: Hold::Share | Hold::Update, .. } => Some(Feature::Holds),
            Act::Merge { .. } => Some(Feature::Merges),
            Act::Savepoint(_) | Act::RollbackTo(_) => Some(Feature::Savepoints),
            Act::Put { lasts: Some(_), .. } | Act::Pass(_) => Some(Feature::Time),
            Act::Drop(_) => Some(Feature::Drops),
            _ => None,
        }
    }

    /// The keys that it touches: one, or a range.
    pub fn reach(&self) -> Option<Span> {
        match self {
            Act::Get { key, .. }
            | Act::Put { key, .. }
            | Act::Merge { key, .. }
            | Act::Delete(key) => {
                Some(Span { lower: key.clone(), upper: key.clone(), inclusive: true })
            }
            Act::Scan { span, .. } | Act::DeleteRange(span) | Act::LockRange(span) => {
                Some(span.clone())
            }
            Act::Drop(space) => Some(Span::of_space(space)),
            _ => None,
        }
    }

    /// Whether it changes something.
    pub fn writes(&self) -> bool {
        use Act::{Delete, DeleteRange, Drop, Merge, Put};
        matches!(self, Put { .. } | Merge { .. } | Delete(_) | DeleteRange(_) | Drop(_))
    }

    /// The expression in it.
    fn value(&self) -> Option<&Expression> {
        match self {
            Act::Put { value, .. } => Some(value),
            Act::Merge { delta, .. } => Some(delta),
            _ => None,
        }
    }
}

impl Scenario {
    /// Every key that is named in it, ascending.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: BTreeSet<String> = self.setup.keys().cloned().collect();
        for step in self.sessions.iter().flat_map(|session| &session.steps) {
            match &step.act {
                Act::Get { key, .. }
                | Act::Put { key, .. }
                | Act::Merge { key, .. }
                | Act::Delete(key) => {
                    keys.insert(key.clone());
                }
                _ => {}
            }
        }
        for expression in self.anomaly.iter().chain(&self.invariants) {
            expression.walk(&mut |inner| {
                if let Expression::End(key) = inner {
                    keys.insert(key.clone());
                }
            });
        }
        keys.into_iter().collect()
    }

    /// The keyspaces besides the one that is there anyway, ascending.
    pub fn spaces(&self) -> Vec<String> {
        let mut spaces: BTreeSet<String> = BTreeSet::new();
        let mut note = |key: &str| spaces.extend(space_of(key).map(str::to_owned));
        self.keys().iter().for_each(|key| note(key));
        let steps = self.sessions.iter().flat_map(|session| &session.steps);
        steps.filter_map(|step| step.act.reach()).for_each(|span| note(&span.lower));
        for expression in self.anomaly.iter().chain(&self.invariants) {
            expression.walk(&mut |inner| {
                if let Expression::Aggregate(_, Pairs::End(span)) = inner {
                    note(&span.lower);
                }
            });
        }
        spaces.into_iter().collect()
    }

    /// The terms of each session, where those that have none of their own get these.
    pub fn terms(&self, general: Terms) -> Vec<Terms> {
        let own = |session: &Session| Terms {
            isolation: session.isolation.unwrap_or(general.isolation),
            concurrency: session.concurrency.unwrap_or(general.concurrency),
        };
        self.sessions.iter().map(own).collect()
    }

    /// Whether a target can play it at these terms.
    pub fn fits(&self, target: &dyn Target, terms: &[Terms]) -> bool {
        let steps = || self.sessions.iter().flat_map(|session| &session.steps);
        let own_writes = || self.sessions.iter().any(Session::reads_its_writes);
        terms.iter().all(|terms| target.offers(Feature::Terms(*terms)))
            && steps().filter_map(|step| step.act.feature()).all(|feature| target.offers(feature))
            && (self.expiring.is_empty() || target.offers(Feature::Time))
            && (self.spaces().is_empty() || target.offers(Feature::Keyspaces))
            && (target.offers(Feature::OwnWrites) || !own_writes())
    }

    /// The sessions' names.
    pub fn names(&self) -> Vec<&str> {
        self.sessions.iter().map(|session| session.name.as_str()).collect()
    }

    /// Whether the rules of this module's head hold, for a scenario that was made by leaving parts of
    /// another out.
    pub fn is_sound(&self) -> bool {
        let mut sound = !self.sessions.is_empty();
        for (place, session) in self.sessions.iter().enumerate() {
            let mut known: BTreeSet<&str> = BTreeSet::new();
            let mut points: BTreeSet<&str> = BTreeSet::new();
            let mut scanned: Vec<&Span> = Vec::new();
            for step in &session.steps {
                for expression in step.condition.iter().chain(step.act.value()) {
                    expression.walk(&mut |inner| match inner {
                        Expression::Read(of, name)
                        | Expression::Aggregate(_, Pairs::Read(of, name)) => {
                            let in_scan = || scanned.iter().any(|span| span.contains(name));
                            sound &= *of == place && (known.contains(name.as_str()) || in_scan());
                        }
                        _ => {}
                    });
                }
                match &step.act {
                    Act::Get { key, label, .. } => {
                        known.insert(label.as_deref().unwrap_or(key));
                        known.insert(key);
                    }
                    Act::Put { key, .. } | Act::Delete(key) => {
                        known.insert(key);
                    }
                    Act::Scan { span, label } => {
                        known.extend(label.as_deref());
                        scanned.push(span);
                    }
                    Act::Savepoint(name) => {
                        points.insert(name);
                    }
                    Act::RollbackTo(name) => sound &= points.contains(name.as_str()),
                    Act::Drop(_) => sound &= session.only_drops(),
                    _ => {}
                }
            }
            let ends = session.steps.iter().filter(|step| step.act.ends()).count();
            sound &= ends == 1 && session.steps.last().is_some_and(|step| step.act.ends());
        }
        sound
    }
}

impl Session {
    /// Whether nothing is done that a drop of a keyspace could not follow.
    fn only_drops(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.act, Act::Begin | Act::Pass(_) | Act::Drop(_)))
    }

    fn reads_its_writes(&self) -> bool {
        let mut written: Vec<Span> = Vec::new();
        for step in &self.steps {
            let Some(reach) = step.act.reach() else { continue };
            if step.act.writes() {
                written.push(reach);
            } else if written.iter().any(|span| overlap(span, &reach)) {
                return true;
            }
        }
        false
    }
}

/// Whether two ranges have a key in common. Ends count as common where that cannot be told.
pub fn overlap(one: &Span, other: &Span) -> bool {
    let ends_before = |first: &Span, second: &Span| {
        first.upper < second.lower || first.upper == second.lower && !first.inclusive
    };
    let same = space_of(&one.lower) == space_of(&other.lower);
    same && !ends_before(one, other) && !ends_before(other, one)
}

impl Step {
    /// Writes it as the text form has it.
    pub fn show(&self, names: &[&str], session: usize) -> String {
        let as_label = |label: &Option<String>| {
            label.as_ref().map_or(String::new(), |one| format!(" as {one}"))
        };
        let show = |expression: &Expression| expression.show(names, Some(session));
        let mut text = match &self.act {
            Act::Begin => "begin".into(),
            Act::Get { key, hold, label } => {
                let hold = match hold {
                    Hold::No => "",
                    Hold::Share => " for share",
                    Hold::Update => " for update",
                };
                format!("get {key}{hold}{}", as_label(label))
            }
            Act::Scan { span, label } => format!("scan {span}{}", as_label(label)),
            Act::Put { key, value, lasts } => {
                format!("put {key} = {}{}", show(value), lasting(*lasts))
            }
            Act::Merge { key, delta } => format!("merge {key} + {}", show(delta)),
            Act::Delete(key) => format!("delete {key}"),
            Act::DeleteRange(span) => format!("delete {span}"),
            Act::LockRange(span) => format!("lock {span}"),
            Act::Savepoint(name) => format!("savepoint {name}"),
            Act::RollbackTo(name) => format!("rollback to {name}"),
            Act::Pass(units) => format!("pass {units}"),
            Act::Drop(space) => format!("drop {space}"),
            Act::Commit => "commit".into(),
            Act::Rollback => "rollback".into(),
        };
        if let Some(condition) = &self.condition {
            text += &format!(" if {}", show(condition));
        }
        text
    }
}

/// How long a value is there, behind it.
fn lasting(units: Option<u64>) -> String {
    units.map_or(String::new(), |units| format!(" for {units}"))
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names();
        writeln!(f, "name: {}", self.name)?;
        let texts = [
            ("title", &self.title),
            ("phenomenon", &self.phenomenon),
            ("about", &self.about),
            ("source", &self.source),
        ];
        for (header, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            writeln!(f, "{header}: {text}")?;
        }
        if let Some(levels) = &self.forbidden {
            let words: Vec<String> = levels.iter().map(Isolation::to_string).collect();
            writeln!(
                f,
                "forbidden: {}",
                if words.is_empty() { "none".into() } else { words.join(" ") }
            )?;
        }
        if !self.setup.is_empty() {
            let pair = |(key, value): (&String, &i64)| {
                format!("{key} = {value}{}", lasting(self.expiring.get(key).copied()))
            };
            let pairs: Vec<String> = self.setup.iter().map(pair).collect();
            writeln!(f, "setup: {}", pairs.join(", "))?;
        }
        for (place, session) in self.sessions.iter().enumerate() {
            write!(f, "\nsession {}", session.name)?;
            let words = [
                session.isolation.map(|one| one.to_string()),
                session.concurrency.map(|one| one.to_string()),
            ];
            let words: Vec<String> = words.into_iter().flatten().collect();
            writeln!(f, "{}{}", if words.is_empty() { "" } else { ": " }, words.join(" "))?;
            for step in &session.steps {
                writeln!(f, "  {}", step.show(&names, place))?;
            }
        }
        writeln!(f)?;
        if let Some(anomaly) = &self.anomaly {
            writeln!(f, "anomaly: {}", anomaly.show(&names, None))?;
        }
        for invariant in &self.invariants {
            writeln!(f, "invariant: {}", invariant.show(&names, None))?;
        }
        if !self.schedule.is_empty() {
            let moves: Vec<String> =
                self.schedule.iter().map(|who| (who + 1).to_string()).collect();
            writeln!(f, "schedule: {}", moves.join(" "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
