//! The picture as a Rust test: a source text that drives the engine through the same schedule, by the
//! seam that never waits, and asserts that every step gives what it gave.
//!
//! The test passes as long as the engine does what it did; where that broke a promise, the test is
//! the case to mend. It uses nothing but the public interface of `isolith`.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;

use isolith::{Concurrency, DeadlockPolicy, Isolation, Victim};

use super::text::{harmless, wrap};
use super::{Event, Intent, Operation, Outcome, Picture, Refusal};

/// Columns of a comment.
const COMMENT_MAX: usize = 94;

/// Why a picture cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreplayable(String);

impl fmt::Display for Unreplayable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreplayable {}

/// How far a transaction is while the source is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Before,
    Open,
    /// Its commit was asked for.
    Asked,
    Over,
}

/// What the source uses, so that it imports that and no more.
#[derive(Debug, Default)]
struct Uses {
    names: BTreeSet<&'static str>,
    concurrency: BTreeSet<&'static str>,
    ready: bool,
    waits: bool,
    aborted: bool,
    commits: bool,
    error: bool,
    clock: bool,
}

/// When a replay begins, in Unix milliseconds; a unit of time is one of them.
const NOW: u64 = 1_000_000;

struct Writer<'a> {
    picture: &'a Picture,
    stages: Vec<Stage>,
    savepoints: Vec<Vec<usize>>,
    uses: Uses,
    body: String,
}

impl Picture {
    /// The source text of a file with one test.
    ///
    /// # Errors
    /// What the picture has to say about schedule, levels and concurrency controls is not enough, or
    /// it does what the engine has not.
    pub fn rust_test(&self) -> Result<String, Unreplayable> {
        if self.left_out > 0 {
            return Err(unreplayable("only a part of the history is in the picture"));
        }
        let mut writer = Writer {
            picture: self,
            stages: vec![Stage::Before; self.transactions.len()],
            savepoints: vec![Vec::new(); self.transactions.len()],
            uses: Uses { clock: self.takes_time(), ..Uses::default() },
            body: String::new(),
        };
        writer.initial();
        for (number, event) in self.events.iter().enumerate() {
            writer.event(number + 1, event)?;
        }
        Ok(writer.source())
    }
}

impl Picture {
    /// Whether something expires, or could.
    fn takes_time(&self) -> bool {
        let takes = |event: &Event| {
            matches!(event.operation, Operation::WriteUntil { .. } | Operation::Pass(_))
        };
        !self.expiring.is_empty() || self.events.iter().any(takes)
    }
}

fn unreplayable(why: impl Into<String>) -> Unreplayable {
    Unreplayable(why.into())
}

/// Bytes as a literal.
fn literal(bytes: &[u8]) -> String {
    format!("b\"{}\"", bytes.escape_ascii())
}

/// Bounds of a range, as an argument.
fn bounds(lower: &Option<Vec<u8>>, upper: &Option<Vec<u8>>) -> String {
    let slice = |bytes: &Vec<u8>| format!("&{}[..]", literal(bytes));
    match (lower, upper) {
        (None, None) => "..".into(),
        (Some(lower), None) => format!("{}..", slice(lower)),
        (None, Some(upper)) => format!("..{}", slice(upper)),
        (Some(lower), Some(upper)) => format!("{}..{}", slice(lower), slice(upper)),
    }
}

impl Writer<'_> {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.body, "    {line}");
    }

    /// The variable of the keyspace that a key lies in.
    fn space(&self, key: &[u8]) -> String {
        let names = self.picture.keyspaces.iter();
        let of = |name: &String| {
            key.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
        };
        match names.into_iter().position(of) {
            Some(place) => format!("keys_{}", place + 1),
            None => "keys".into(),
        }
    }

    /// That of a range.
    fn space_of(&self, lower: &Option<Vec<u8>>) -> String {
        self.space(lower.as_deref().unwrap_or_default())
    }

    fn initial(&mut self) {
        for key in &self.picture.hot {
            self.line(&format!("steps.heat(&{}, {});", self.space(key), literal(key)));
        }
        if self.picture.initial.is_empty() {
            return;
        }
        self.line("// What is there at first.");
        self.line("let mut first = db.begin()?;");
        for (key, value) in &self.picture.initial {
            let (space, name, value) = (self.space(key), literal(key), literal(value));
            let expires = self.picture.expiring.iter().find(|(expiring, _)| expiring == key);
            self.line(&match expires {
                Some((_, units)) => {
                    let at = NOW + units;
                    format!("first.put_with(&{space}, {name}, {value}, Some({at}))?;")
                }
                None => format!("first.put(&{space}, {name}, {value})?;"),
            });
        }
        self.line("let mut commit = first.commit_steps();");
        self.line("let end = commit.step();");
        self.line("ready(decided(&steps, &mut commit, end));");
        (self.uses.ready, self.uses.commits) = (true, true);
    }

    fn event(&mut self, number: usize, event: &Event) -> Result<(), Unreplayable> {
        self.body.push('\n');
        for line in wrap(&format!("{number}. {}.", self.picture.sentence(event)), COMMENT_MAX) {
            self.line(&format!("// {line}"));
        }
        let Some(who) = event.transaction else {
            self.line("assert_eq!(steps.round(1), 1);");
            return Ok(());
        };
        let Some(stage) = self.stages.get(who).copied() else {
            return Err(unreplayable(format!("step {number} is nobody's")));
        };
        let fits = match event.operation {
            Operation::Begin => stage == Stage::Before,
            Operation::Commit => matches!(stage, Stage::Open | Stage::Asked),
            _ => stage == Stage::Open,
        };
        if !fits {
            let name = self.picture.name(who);
            return Err(unreplayable(format!(
                "step {number} is not one that {name} can take then"
            )));
        }
        match &event.operation {
            Operation::Begin => self.begin(who),
            Operation::Commit => self.commit(who, event),
            Operation::Rollback => {
                self.line(&format!("t{}.rollback();", who + 1));
                self.stages[who] = Stage::Over;
                Ok(())
            }
            Operation::Savepoint(point) => {
                self.line(&format!("let t{}_point{point} = t{}.savepoint();", who + 1, who + 1));
                self.savepoints[who].push(*point);
                Ok(())
            }
            Operation::RollbackTo(point) if self.savepoints[who].contains(point) => {
                self.line(&format!("t{}.rollback_to(t{}_point{point})?;", who + 1, who + 1));
                Ok(())
            }
            Operation::RollbackTo(_) => Err(unreplayable("it goes back to an unknown point")),
            Operation::Pass(units) => {
                self.line(&format!("clock.advance({units});"));
                Ok(())
            }
            Operation::DropKeyspace(name) => {
                self.line(&format!("t{}.rollback();", who + 1));
                let name = name.escape_default();
                self.line(&format!("assert!(steps.drop_keyspace(\"{name}\")?);"));
                self.stages[who] = Stage::Over;
                Ok(())
            }
            operation => {
                let call = self.call(operation)?;
                self.operation(who, &call, event)
            }
        }
    }

    fn begin(&mut self, who: usize) -> Result<(), Unreplayable> {
        let known = &self.picture.transactions[who];
        let unknown = |what: &str| {
            unreplayable(format!("the {what} of {} is not known", self.picture.name(who)))
        };
        let isolation: Isolation = known.isolation.parse().map_err(|_| unknown("level"))?;
        let concurrency: Concurrency =
            known.concurrency.parse().map_err(|_| unknown("concurrency control"))?;
        let concurrency = self.concurrency(concurrency);
        self.uses.names.extend(["Concurrency", "Isolation", "TransactionOptions"]);
        let works = |event: &Event| {
            use Operation::{Begin, Commit, DropKeyspace, Pass, Rollback};
            let idle =
                matches!(event.operation, Begin | Commit | DropKeyspace(_) | Pass(_) | Rollback);
            event.transaction == Some(who) && !idle
        };
        let mutable = if self.picture.events.iter().any(works) { "mut " } else { "" };
        self.line(&format!("let {mutable}t{} = db.begin_with(TransactionOptions {{", who + 1));
        self.line(&format!("    isolation: Isolation::{isolation:?},"));
        self.line(&format!("    concurrency: {concurrency},"));
        self.line("    ..TransactionOptions::default()");
        self.line("})?;");
        // An age is given when it is first asked for.
        self.line(&format!("let _ = t{}.age();", who + 1));
        self.stages[who] = Stage::Open;
        Ok(())
    }

    fn concurrency(&mut self, concurrency: Concurrency) -> String {
        let Concurrency::Locking(policy) = concurrency else {
            return format!("Concurrency::{concurrency:?}");
        };
        self.uses.concurrency.insert("DeadlockPolicy");
        let policy = match policy {
            DeadlockPolicy::Detect(victim) => {
                self.uses.concurrency.insert("Victim");
                let victim = match victim {
                    Victim::Youngest => "Youngest",
                    Victim::FewestLocks => "FewestLocks",
                };
                format!("Detect(Victim::{victim})")
            }
            plain => format!("{plain:?}"),
        };
        format!("Concurrency::Locking(DeadlockPolicy::{policy})")
    }

    /// The call of an operation, on `tx`.
    fn call(&mut self, operation: &Operation) -> Result<String, Unreplayable> {
        Ok(match operation {
            Operation::Read { key, intent } => {
                let get = match intent {
                    Intent::Look => "get",
                    Intent::Share => "get_for_share",
                    Intent::Update => "get_for_update",
                };
                format!("tx.{get}(&{}, {})", self.space(key), literal(key))
            }
            Operation::Scan { lower: None, upper: None, predicate } if !predicate.is_empty() => {
                return Err(unreplayable("it reads by a predicate that is no range of keys"));
            }
            Operation::Scan { lower, upper, .. } => {
                let (space, bounds) = (self.space_of(lower), bounds(lower, upper));
                format!("tx.range(&{space}, {bounds}).collect::<isolith::Result<Vec<_>>>()")
            }
            Operation::Write { key, value } => {
                format!("tx.put(&{}, {}, {})", self.space(key), literal(key), literal(value))
            }
            Operation::WriteUntil { key, value, until } => {
                let (space, key, value) = (self.space(key), literal(key), literal(value));
                format!("tx.put_with(&{space}, {key}, {value}, Some({}))", NOW + until)
            }
            Operation::Merge { key, operator, operand } => {
                let (space, key, operand) = (self.space(key), literal(key), literal(operand));
                let operator = operator.escape_default();
                format!("tx.merge(&{space}, {key}, \"{operator}\", {operand})")
            }
            Operation::Delete { key } => {
                format!("tx.delete(&{}, {})", self.space(key), literal(key))
            }
            Operation::DeleteRange { lower, upper } => {
                format!("tx.delete_range(&{}, {})", self.space_of(lower), bounds(lower, upper))
            }
            Operation::LockRange { lower, upper, exclusive } => {
                self.uses.names.insert("RangeLock");
                let lock = if *exclusive { "Exclusive" } else { "Shared" };
                let (space, bounds) = (self.space_of(lower), bounds(lower, upper));
                format!("tx.lock_range(&{space}, {bounds}, RangeLock::{lock})")
            }
            _ => return Err(unreplayable("it does what the engine has no operation for")),
        })
    }

    fn operation(&mut self, who: usize, call: &str, event: &Event) -> Result<(), Unreplayable> {
        let tx = who + 1;
        let step = format!("t{tx}.step(|tx| {call})");
        match &event.outcome {
            Outcome::Done => {
                self.uses.ready = true;
                match event.operation {
                    // What it found is not known.
                    Operation::Read { .. } | Operation::Scan { .. } => {
                        self.line(&format!("let _ = ready({step});"));
                    }
                    _ => self.line(&format!("ready({step});")),
                }
            }
            Outcome::Value(value) => {
                self.uses.ready = true;
                self.line(&format!("let found = ready({step});"));
                let expected = match value {
                    Some(value) => format!("Some(&{}[..])", literal(value)),
                    None => "None".into(),
                };
                self.line(&format!("assert_eq!(found.as_deref(), {expected});"));
            }
            Outcome::Pairs(pairs) => {
                self.uses.ready = true;
                self.line(&format!("let found = ready({step});"));
                if pairs.is_empty() {
                    self.line("assert!(found.is_empty(), \"{found:?}\");");
                    return Ok(());
                }
                self.line("let found: Vec<_> = found.iter().map(|(key, value)| (&key[..], &value[..])).collect();");
                let pair = |(key, value): &(Vec<u8>, Vec<u8>)| {
                    format!("(&{}[..], &{}[..])", literal(key), literal(value))
                };
                let pairs: Vec<String> = pairs.iter().map(pair).collect();
                self.line(&format!("assert_eq!(found, [{}]);", pairs.join(", ")));
            }
            Outcome::Waits(_) => {
                self.uses.waits = true;
                self.line(&format!("waits(&{step});"));
            }
            Outcome::Refused { why, .. } => {
                let error = format!("aborted({step})");
                self.refused(*why, &error)?;
                self.line(&format!("drop(t{tx});"));
                self.stages[who] = Stage::Over;
            }
        }
        Ok(())
    }

    fn commit(&mut self, who: usize, event: &Event) -> Result<(), Unreplayable> {
        let tx = who + 1;
        self.uses.commits = true;
        if self.stages[who] == Stage::Open {
            self.line(&format!("let mut t{tx}_commit = t{tx}.commit_steps();"));
            self.line(&format!("let t{tx}_end = t{tx}_commit.step();"));
            self.stages[who] = Stage::Asked;
        }
        let decided = format!("decided(&steps, &mut t{tx}_commit, t{tx}_end)");
        match &event.outcome {
            // It lies in the queue, or is decided, and nobody has been told.
            Outcome::Waits(whom) if whom.is_empty() => {
                self.line(&format!(
                    "assert!(!matches!(t{tx}_end, Step::Aborted(_)), \"{{t{tx}_end:?}}\");"
                ));
            }
            Outcome::Waits(_) => {
                self.uses.waits = true;
                self.line(&format!("let t{tx}_end = {decided};"));
                self.line(&format!("waits(&t{tx}_end);"));
            }
            Outcome::Refused { why, .. } => {
                self.refused(*why, &format!("aborted({decided})"))?;
                self.line(&format!("drop(t{tx}_commit);"));
                self.stages[who] = Stage::Over;
            }
            _ => {
                self.uses.ready = true;
                self.line(&format!("ready({decided});"));
                self.stages[who] = Stage::Over;
            }
        }
        Ok(())
    }

    fn refused(&mut self, why: Refusal, error: &str) -> Result<(), Unreplayable> {
        let variant = match why {
            Refusal::Conflict => "Conflict",
            Refusal::Wounded => "Wounded",
            Refusal::Deadlock => "Deadlock",
            Refusal::LockRefused => "LockRefused",
            Refusal::KeyspaceDropped => "KeyspaceDropped",
            Refusal::Timeout => return Err(unreplayable("it depends on time")),
            Refusal::Other => return Err(unreplayable("the engine does not refuse like this")),
        };
        (self.uses.aborted, self.uses.error) = (true, true);
        self.line(&format!("let error = {error};"));
        self.line(&format!(
            "assert!(matches!(error, Error::{variant} {{ .. }}), \"{{error:?}}\");"
        ));
        Ok(())
    }

    /// Everything together.
    fn source(mut self) -> String {
        let mut source = String::new();
        let title = self.picture.title();
        let head = format!("{title}. {}", self.picture.prose());
        for line in wrap(&head, COMMENT_MAX) {
            let _ = writeln!(source, "//! {line}");
        }
        source.push_str("//!\n//! Written by `isolith anomalies`: each step asserts what it gave when it was explored.\n\n");
        self.uses.names.extend(["Builder", "CommitMode"]);
        let uses = &self.uses;
        let mut names = uses.names.clone();
        names.extend(&uses.concurrency);
        let mut need = |needed: bool, name: &'static str| {
            if needed {
                names.insert(name);
            }
        };
        need(uses.ready || uses.waits || uses.aborted || uses.commits, "Step");
        need(uses.commits, "CommitInfo");
        need(uses.commits, "CommitSteps");
        need(uses.waits || uses.commits, "BlockedBy");
        need(uses.clock, "ManualClock");
        need(uses.ready || uses.waits || uses.aborted || uses.commits || uses.error, "Error");
        let names: Vec<&str> = names.into_iter().collect();
        if uses.clock {
            source.push_str("use std::sync::Arc;\n");
        }
        source.push_str("use std::time::Duration;\n\nuse isolith::steps::Steps;\nuse isolith::{\n");
        for line in wrap(&format!("{},", names.join(", ")), COMMENT_MAX) {
            let _ = writeln!(source, "    {line}");
        }
        source.push_str("};\n\n");
        let _ = writeln!(
            source,
            "#[test]\nfn {}() -> Result<(), Box<dyn std::error::Error>> {{",
            self.name()
        );
        source.push_str(
            "    // Nothing happens by itself: every step below is one, and no lock is waited for by time.\n    \
             let builder = Builder::in_memory().commit_mode(CommitMode::Stepped).threads(false);\n    ",
        );
        if self.uses.clock {
            let _ = write!(
                source,
                "// Time passes where it is told to.\n    \
                 let clock = ManualClock::new({NOW});\n    \
                 let builder = builder.clock(Arc::new(clock.clone()));\n    "
            );
        }
        source.push_str(
            "let db = builder.lock_timeout(Duration::from_secs(100_000)).open()?;\n    \
             let steps = Steps::new(&db);\n",
        );
        let keys = if self.body.contains("&keys,") { "let keys = " } else { "" };
        let _ = writeln!(source, "    {keys}steps.keyspace(\"replay\")?;");
        for (place, name) in self.picture.keyspaces.iter().enumerate() {
            let name = name.escape_default();
            let variable = format!("keys_{}", place + 1);
            let used = self.body.contains(&format!("&{variable},"));
            let bound = if used { format!("let {variable} = ") } else { String::new() };
            let _ = writeln!(source, "    {bound}steps.keyspace(\"{name}\")?;");
        }
        for line in self.body.lines() {
            source.push_str(&self.without_unused_savepoint(line));
            source.push('\n');
        }
        source.push_str("    Ok(())\n}\n");
        self.helpers(&mut source);
        source
    }

    /// A line; a savepoint that nothing is rolled back to has a name that says so.
    fn without_unused_savepoint(&self, line: &str) -> String {
        let name = line.trim().strip_prefix("let ").and_then(|rest| rest.split_once(" = "));
        match name {
            Some((name, rest))
                if rest.ends_with(".savepoint();") && self.body.matches(name).count() == 1 =>
            {
                line.replacen(name, &format!("_{name}"), 1)
            }
            _ => line.to_owned(),
        }
    }

    fn helpers(&self, source: &mut String) {
        if self.uses.ready {
            source.push_str(
                "\n/// The step is done.\n\
                 fn ready<T: std::fmt::Debug>(step: Step<T, Error>) -> T {\n    \
                 match step {\n        \
                 Step::Ready(answer) => answer,\n        \
                 other => panic!(\"not done: {other:?}\"),\n    }\n}\n",
            );
        }
        if self.uses.waits {
            source.push_str(
                "\n/// The step waits for somebody's lock.\n\
                 fn waits<T: std::fmt::Debug>(step: &Step<T, Error>) {\n    \
                 assert!(matches!(step, Step::Blocked(BlockedBy::Lock)), \"{step:?}\");\n}\n",
            );
        }
        if self.uses.aborted {
            source.push_str(
                "\n/// The transaction was refused.\n\
                 fn aborted<T: std::fmt::Debug>(step: Step<T, Error>) -> Error {\n    \
                 match step {\n        \
                 Step::Aborted(error) => error,\n        \
                 other => panic!(\"not refused: {other:?}\"),\n    }\n}\n",
            );
        }
        if self.uses.commits {
            source.push_str(
                "\n/// Goes on with a commit until it is decided, or a lock is in its way.\n\
                 fn decided(\n    steps: &Steps,\n    commit: &mut CommitSteps,\n    \
                 so_far: Step<CommitInfo, Error>,\n) -> Step<CommitInfo, Error> {\n    \
                 let mut now = match so_far {\n        \
                 Step::Blocked(_) => commit.step(),\n        \
                 other => other,\n    };\n    \
                 while let Step::Blocked(BlockedBy::Round) = now {\n        \
                 assert_eq!(steps.round(1), 1, \"it waits for an empty queue\");\n        \
                 now = commit.step();\n    }\n    now\n}\n",
            );
        }
    }

    /// A name for the test, from what the anomaly is called.
    fn name(&self) -> String {
        let anomaly = &self.picture.anomaly;
        let called = if anomaly.title.is_empty() { &anomaly.name } else { &anomaly.title };
        let mut name = String::new();
        for char in harmless(called).chars() {
            match char.to_ascii_lowercase() {
                char if char.is_ascii_alphanumeric() => name.push(char),
                _ if name.is_empty() || name.ends_with('_') => {}
                _ => name.push('_'),
            }
        }
        let name: String = name.trim_end_matches('_').chars().take(60).collect();
        // A name must not begin with a digit, nor be a word of the language.
        match name.chars().next() {
            Some(first) if first.is_ascii_alphabetic() && name.contains('_') => name,
            _ => format!("the_schedule_{name}").trim_end_matches('_').to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::samples;

    #[test]
    fn what_is_not_known_cannot_be_replayed() {
        let why = |change: &dyn Fn(&mut Picture)| {
            let mut picture = samples::write_skew();
            change(&mut picture);
            picture.rust_test().unwrap_err().to_string()
        };
        assert_eq!(
            why(&|picture| picture.transactions[0].concurrency.clear()),
            "the concurrency control of T1 is not known"
        );
        assert_eq!(
            why(&|picture| picture.events[0].operation = Operation::Rollback),
            "step 1 is not one that T1 can take then"
        );
        assert_eq!(why(&|picture| picture.events[1].transaction = Some(9)), "step 2 is nobody's");
        assert!(why(&|picture| picture.left_out = 1).contains("only a part"));
        let other = Operation::Other { key: None, what: "hope".into() };
        assert!(
            why(&|picture| picture.events[1].operation = other.clone()).contains("no operation")
        );
    }

    #[test]
    fn names_are_names_in_rust() {
        for (title, expected) in [
            ("write skew", "write_skew"),
            ("9 lives", "the_schedule_9_lives"),
            ("loop", "the_schedule_loop"),
            ("*/ } fn main() {", "fn_main"),
            ("大", "the_schedule"),
        ] {
            let mut picture = samples::write_skew();
            picture.anomaly.title = title.into();
            let source = picture.rust_test().unwrap();
            assert!(source.contains(&format!("fn {expected}() ->")), "{title}: {source}");
        }
    }
}
