//! The picture of what the checker found in a recorded history: its witness, with everything that
//! the transactions of the witness did.
//!
//! The history says when a transaction was invoked and when it was over, not when its operations
//! happened: they are drawn evenly between.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Edge, EdgeKind, End, Event, Intent, Lane, Operation, Outcome, Picture, Transaction, Verdict,
};
use crate::checker::{Dependency, Found};
use crate::history::{self, History, Key, Level, Predicate, Value};

mod definitions;

/// Columns that the elements of a list may take.
const LIST_MAX: usize = 22;
/// Commit timestamps from here on are numbers for machines: they hold an epoch beside a counter.
const UNREADABLE: u64 = 1 << 32;

/// The picture of an anomaly that was found in a history which was judged at this level. `file`
/// names the history where lines are told (empty: it has no name).
pub fn of(history: &History, level: Level, found: &Found, file: &str) -> Picture {
    let mut drawing = Drawing::new(history, file);
    drawing.lanes_of(&found.witness.transactions);
    for place in &found.witness.transactions {
        drawing.transaction(*place);
    }
    let drawn_as = drawing.events();
    let witness = &found.witness;
    let edges: Vec<Edge> = witness.edges.iter().filter_map(|edge| drawing.edge(edge)).collect();
    let mut because =
        Some(&witness.because).filter(|because| !because.is_empty()).map(|one| sentence(one));
    let numbered = drawing.number_commits(&mut because);
    let shown = drawing.picture.transactions.len();
    let mut picture = Picture {
        anomaly: definitions::of(found.anomaly),
        verdict: Verdict::Forbidden(level.to_string()),
        cycle: if edges.len() == witness.edges.len() { (0..edges.len()).collect() } else { vec![] },
        edges,
        remarks: because.into_iter().collect(),
        left_out: history.transactions().len().saturating_sub(shown) as u64,
        ..drawing.picture
    };
    if found.count > 1 {
        let others = super::text::counted(found.count as u64);
        picture.remarks.push(format!("The same was met {others} times in the history."));
    }
    if !file.is_empty() {
        picture.replay.push(format!("isolith check {} --level {level}", shell(file)));
    }
    picture.remarks.push(drawn_as.into());
    if numbered {
        let place = "their places among those of these transactions";
        picture.remarks.push(format!("What stands for the commit timestamps is {place}."));
    }
    picture
}

impl Picture {
    /// The same of a history in which each transaction was judged at its own level.
    pub fn at_own_levels(mut self) -> Picture {
        self.verdict = Verdict::Forbidden("the levels of these transactions".into());
        self.replay.iter_mut().for_each(|command| command.push_str(" --own-levels"));
        self
    }
}

/// A reason as a sentence by itself; what introduces a list has none behind it here.
fn sentence(because: &str) -> String {
    let alone = because.trim_end_matches(':').trim_end_matches("; one of them");
    let mut chars = alone.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    // What begins with a name or a number stays as it is.
    match alone.split(' ').next().is_some_and(|word| word.chars().all(char::is_lowercase)) {
        true => format!("{first}{}.", chars.as_str()),
        false => format!("{alone}."),
    }
}

/// A word of a command line.
fn shell(word: &str) -> String {
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./=:".contains(char);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A picture that grows.
struct Drawing<'a> {
    history: &'a History,
    file: &'a str,
    picture: Picture,
    /// The numbers of the history's transactions in the picture.
    numbers: BTreeMap<usize, usize>,
    /// Of each, its place in the history.
    places: Vec<usize>,
    /// The lanes of processes.
    lanes: BTreeMap<u32, usize>,
}

impl<'a> Drawing<'a> {
    fn new(history: &'a History, file: &'a str) -> Drawing<'a> {
        Drawing {
            history,
            file,
            picture: Picture::default(),
            numbers: BTreeMap::new(),
            places: Vec::new(),
            lanes: BTreeMap::new(),
        }
    }

    /// Adds the lanes of the processes that take part, in the order of their numbers.
    fn lanes_of(&mut self, places: &[usize]) {
        let known = places.iter().filter_map(|place| self.history.transactions().get(*place));
        let named = known.filter(|one| !one.initial && one.process != history::Transaction::NOBODY);
        let processes: BTreeSet<u32> = named.map(|one| one.process).collect();
        for process in processes {
            self.lanes.insert(process, self.picture.lanes.len());
            self.picture.lanes.push(Lane { name: format!("process {process}") });
        }
    }

    /// Adds a transaction of the history.
    fn transaction(&mut self, place: usize) {
        let Some(about) = self.history.transactions().get(place) else { return };
        if self.numbers.contains_key(&place) {
            return;
        }
        let number = self.places.len();
        self.numbers.insert(place, number);
        self.places.push(place);
        let lanes = &mut self.picture.lanes;
        let mut lane = |name: String| {
            lanes.push(Lane { name });
            lanes.len() - 1
        };
        let lane = match about.process {
            _ if about.initial => lane("the first state".into()),
            history::Transaction::NOBODY => lane(format!("T{}", number + 1)),
            process => {
                *self.lanes.entry(process).or_insert_with(|| lane(format!("process {process}")))
            }
        };
        self.picture.transactions.push(Transaction {
            name: format!("T{}", number + 1),
            lane,
            isolation: about.level.map_or(String::new(), |level| level.to_string()),
            concurrency: String::new(),
            end: match about.outcome {
                history::Outcome::Committed => End::Committed(about.commit.map(|at| at.get())),
                history::Outcome::Aborted => End::Aborted,
                history::Outcome::Unknown => End::Unknown,
            },
            place: match about.line {
                0 => format!("number {place}"),
                line if self.file.is_empty() => format!("line {line}"),
                line => format!("{}:{line}", self.file),
            },
        });
    }

    /// Adds what the transactions did, in the order of time as far as it is known; and says how
    /// far that is.
    fn events(&mut self) -> &'static str {
        let mut events: Vec<(f64, Event)> = Vec::new();
        let (mut begins, mut ends) = (true, true);
        // Who is not known to have ended is drawn as if that was soon.
        let soon = 0.9;
        for (number, place) in self.places.iter().enumerate() {
            let about = &self.history.transactions()[*place];
            let ended = about.completed != history::Transaction::NEVER;
            let (from, to) = match (about.invoked, ended) {
                _ if about.initial => (0.0, soon),
                (0, true) => {
                    begins = false;
                    (f64::from(about.completed) - soon, f64::from(about.completed))
                }
                (0, false) => {
                    (begins, ends) = (false, false);
                    (number as f64 + 1.0, number as f64 + 1.0 + soon)
                }
                (invoked, true) => (f64::from(invoked), f64::from(about.completed)),
                (invoked, false) => (f64::from(invoked), f64::from(invoked) + soon),
            };
            let operations = self.history.operations(*place);
            let step = (to - from) / (operations.len() + 1) as f64;
            events.push((from, Event::new(number, Operation::Begin, Outcome::Done)));
            for (at, operation) in operations.iter().enumerate() {
                let (asked, answered) = self.operation(*operation);
                events.push((from + step * (at + 1) as f64, Event::new(number, asked, answered)));
            }
            let end = match about.outcome {
                history::Outcome::Committed => Event::new(number, Operation::Commit, Outcome::Done),
                history::Outcome::Aborted => Event::new(number, Operation::Rollback, Outcome::Done),
                history::Outcome::Unknown => {
                    Event::new(number, Operation::Commit, Outcome::Waits(Vec::new()))
                }
            };
            events.push((to, end));
        }
        events.sort_by(|one, other| one.0.total_cmp(&other.0));
        self.picture.events = events.into_iter().map(|(_, event)| event).collect();
        match (begins, ends) {
            (_, false) => "In which order these transactions ran the history does not say.",
            (false, true) => "When these transactions began the history does not say.",
            (true, true) => {
                "The history says when each transaction began and ended; what it did is drawn \
                 evenly in between."
            }
        }
    }

    /// Gives commit timestamps that are no numbers for people their places among those that are shown,
    /// in what was found, too. False: there are none.
    fn number_commits(&mut self, because: &mut Option<String>) -> bool {
        let commit = |one: &Transaction| match one.end {
            End::Committed(at) => at,
            _ => None,
        };
        let known: BTreeSet<u64> = self.picture.transactions.iter().filter_map(commit).collect();
        if known.last().is_none_or(|last| *last < UNREADABLE) {
            return false;
        }
        let place = |at: u64| known.range(..=at).count() as u64;
        for one in &mut self.picture.transactions {
            if let End::Committed(Some(at)) = &mut one.end {
                *at = place(*at);
            }
        }
        if let Some(because) = because {
            let told = known.iter().filter(|at| **at >= UNREADABLE);
            *because = told.fold(because.clone(), |told, at| {
                told.replace(&at.to_string(), &place(*at).to_string())
            });
        }
        true
    }

    fn key(&self, key: Key) -> Vec<u8> {
        self.history.key_name(key).to_string().into_bytes()
    }

    fn value(&self, value: Value) -> Vec<u8> {
        let name = self.history.value_name(value);
        name.map_or_else(|| b"nil".to_vec(), |name| name.to_string().into_bytes())
    }

    /// A list: what does not fit is left out where it matters least, towards its beginning.
    fn list(&self, elements: &[Value]) -> Vec<u8> {
        let show = |element: &Value| String::from_utf8_lossy(&self.value(*element)).into_owned();
        let mut last = Vec::new();
        let mut room = LIST_MAX;
        for element in elements.iter().rev().map(show) {
            let needed = element.chars().count() + 1;
            if needed > room && !last.is_empty() {
                last.push("…".to_owned());
                break;
            }
            room = room.saturating_sub(needed);
            last.push(element);
        }
        last.reverse();
        format!("[{}]", last.join(" ")).into_bytes()
    }

    fn operation(&self, operation: history::Operation) -> (Operation, Outcome) {
        let read = |key| Operation::Read { key: self.key(key), intent: Intent::Look };
        let merge = |key, operator: &str, operand| Operation::Merge {
            key: self.key(key),
            operator: operator.into(),
            operand: self.value(operand),
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let scan = |predicate| Operation::Scan {
            predicate: self.predicate(self.history.predicate_at(predicate)),
            lower: None,
            upper: None,
        };
        match operation {
            history::Operation::Append { key, value } => {
                (merge(key, "append", value), Outcome::Done)
            }
            history::Operation::Add { key, value } => (merge(key, "add", value), Outcome::Done),
            history::Operation::ReadList { key, list } => {
                let list = self.list(self.history.list(key, list));
                (read(key), Outcome::Value(Some(list)))
            }
            history::Operation::Read { key, value } if value.is_nil() => {
                (read(key), Outcome::Value(None))
            }
            history::Operation::Read { key, value } => {
                (read(key), Outcome::Value(Some(self.value(value))))
            }
            history::Operation::ReadUnknown { key } => (read(key), Outcome::Done),
            history::Operation::Write { key, value } if value.is_nil() => {
                (Operation::Delete { key: self.key(key) }, Outcome::Done)
            }
            history::Operation::Write { key, value }
            | history::Operation::Insert { key, value } => {
                (Operation::Write { key: self.key(key), value: self.value(value) }, Outcome::Done)
            }
            history::Operation::Delete { key } => {
                (Operation::Delete { key: self.key(key) }, Outcome::Done)
            }
            history::Operation::ReadWhere { predicate, found } => {
                let pairs = self.history.found(found);
                let pairs = pairs.map(|(key, value)| (self.key(key), self.value(value)));
                (scan(predicate), Outcome::Pairs(pairs.collect()))
            }
            history::Operation::ReadWhereUnknown { predicate } => (scan(predicate), Outcome::Done),
            history::Operation::CompareAndSet { key, pair } => {
                let (old, new) = self.history.old_and_new(pair);
                let (old, new) = (text(self.value(old)), text(self.value(new)));
                let what = format!("set {} from {old} to {new}", text(self.key(key)));
                (Operation::Other { key: Some(self.key(key)), what }, Outcome::Done)
            }
            history::Operation::Transfer { from, pair } => {
                let (to, amount) = self.history.other_and_amount(pair);
                let amount = text(self.value(amount));
                let (from, to) = (text(self.key(from)), text(self.key(to)));
                let what = format!("transfer {amount} from {from} to {to}");
                (Operation::Other { key: None, what }, Outcome::Done)
            }
        }
    }

    fn predicate(&self, predicate: Predicate) -> String {
        match predicate {
            Predicate::All => "everything".into(),
            Predicate::Equals(value) => {
                format!("value = {}", String::from_utf8_lossy(&self.value(value)))
            }
            Predicate::Modulo(modulus, remainder) => format!("value mod {modulus} = {remainder}"),
            Predicate::Between(from, to) => format!("{from} <= key < {to}"),
        }
    }

    /// An edge of the witness, with the events behind it where they are found.
    fn edge(&self, edge: &crate::checker::Edge) -> Option<Edge> {
        let from = *self.numbers.get(&(edge.from as usize))?;
        let to = *self.numbers.get(&(edge.to as usize))?;
        let kind = match edge.kind {
            Dependency::Ww => EdgeKind::WriteWrite,
            Dependency::Wr => EdgeKind::WriteRead,
            Dependency::Rw => EdgeKind::ReadWrite,
            Dependency::WrPredicate => EdgeKind::PredicateWriteRead,
            Dependency::RwPredicate => EdgeKind::PredicateReadWrite,
            Dependency::Process => EdgeKind::Process,
            Dependency::RealTime => EdgeKind::RealTime,
        };
        let mut drawn = Edge::new(from, to, kind);
        if edge.kind.is_order() {
            return Some(drawn);
        }
        let key = self.key(edge.key);
        let write = |number, value: Value| self.write_of(number, &key, value);
        (drawn.from_event, drawn.to_event) = match edge.kind {
            Dependency::Ww => (write(from, edge.before), write(to, edge.after)),
            Dependency::Wr => (write(from, edge.after), self.read_of(to, &key)),
            Dependency::Rw => (self.read_of(from, &key), write(to, edge.after)),
            Dependency::WrPredicate => (write(from, edge.after), self.scan_of(to)),
            _ => (self.scan_of(from), write(to, edge.after)),
        };
        drawn.key = Some(key);
        Some(drawn)
    }

    fn event_of(&self, number: usize, is: &dyn Fn(&Event) -> bool) -> Option<usize> {
        let own = |event: &Event| event.transaction == Some(number) && is(event);
        self.picture.events.iter().position(own)
    }

    /// The write of this value, or else the last of the key.
    fn write_of(&self, number: usize, key: &[u8], value: Value) -> Option<usize> {
        let value = self.value(value);
        let writes = |event: &Event| match &event.operation {
            Operation::Write { key: own, .. }
            | Operation::Merge { key: own, .. }
            | Operation::Delete { key: own }
            | Operation::Other { key: Some(own), .. } => own == key,
            _ => false,
        };
        let exactly = |event: &Event| match &event.operation {
            Operation::Write { value: own, .. } | Operation::Merge { operand: own, .. } => {
                *own == value
            }
            _ => false,
        };
        let found = self.event_of(number, &|event| writes(event) && exactly(event));
        let any = || {
            let own = |event: &Event| event.transaction == Some(number) && writes(event);
            self.picture.events.iter().rposition(own)
        };
        found.or_else(any)
    }

    fn read_of(&self, number: usize, key: &[u8]) -> Option<usize> {
        let reads = |event: &Event| match &event.operation {
            Operation::Read { key: own, .. } | Operation::Other { key: Some(own), .. } => {
                own == key
            }
            _ => false,
        };
        self.event_of(number, &reads).or_else(|| self.scan_of(number))
    }

    fn scan_of(&self, number: usize) -> Option<usize> {
        self.event_of(number, &|event| matches!(event.operation, Operation::Scan { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Question, Verdict as Judged, Workload, judge};

    /// Three transactions of list-append, of which two do not see each other.
    fn skew() -> History {
        let mut history = History::new();
        let (x, y) = (history.key("x"), history.key("y"));
        let [one, two] = [1, 2].map(|integer| history.integer(integer));
        let read = |history: &mut History, key, list: &[Value]| history.read_list(key, list);
        let about = |process, invoked, completed| history::Transaction {
            invoked,
            completed,
            line: invoked,
            ..history::Transaction::of(process)
        };
        let first = [read(&mut history, y, &[]), history::Operation::Append { key: x, value: one }];
        let second =
            [read(&mut history, x, &[]), history::Operation::Append { key: y, value: two }];
        let third = [read(&mut history, x, &[one]), read(&mut history, y, &[two])];
        history.push(about(0, 1, 3), &first);
        history.push(about(1, 2, 4), &second);
        history.push(about(0, 5, 6), &third);
        history.finish();
        history
    }

    #[test]
    fn what_the_checker_found_is_drawn_with_its_operations() {
        let history = skew();
        let level = Level::SERIALIZABLE;
        let report = judge(&history, &Question::new(Workload::Append, level));
        assert_eq!(report.verdict, Judged::Violated);
        let picture = of(&history, level, &report.found[0], "some history.jsonl");
        assert_eq!(picture.anomaly.name, "G2-item");
        assert_eq!(picture.cycle, [0, 1]);
        let prose = picture.prose();
        assert!(prose.contains("read y = [], not seeing that T"), "{prose}");
        assert!(prose.contains("however"), "{prose}");
        assert!(prose.contains("appended 1 to x"), "{prose}");
        assert_eq!(picture.replay, ["isolith check 'some history.jsonl' --level serializable"]);
        assert_eq!(picture.left_out, 1);
        assert_eq!(picture.transactions[0].place, "some history.jsonl:1");
        assert!(picture.html().contains("id=\"edge-1\""));
    }

    /// Two transactions that committed at these timestamps, the second having read what the first wrote.
    fn committed_at(timestamps: [u64; 2]) -> Picture {
        let mut history = History::new();
        let (x, one) = (history.key("x"), history.integer(1));
        let about = |process, invoked, at| history::Transaction {
            invoked,
            completed: invoked + 1,
            line: invoked,
            commit: std::num::NonZero::new(at),
            ..history::Transaction::of(process)
        };
        let read = history.read_list(x, &[one]);
        let append = history::Operation::Append { key: x, value: one };
        history.push(about(0, 1, timestamps[0]), &[append]);
        history.push(about(1, 3, timestamps[1]), &[read]);
        history.finish();
        let level = Level::SERIALIZABLE;
        let report = judge(&history, &Question::new(Workload::Append, level));
        of(&history, level, &report.found[0], "")
    }

    #[test]
    fn commit_timestamps_are_numbers_for_people() {
        let large = (1 << 46) + 77;
        let picture = committed_at([large + 5, large]);
        let ends: Vec<&End> = picture.transactions.iter().map(|one| &one.end).collect();
        assert_eq!(ends, [&End::Committed(Some(2)), &End::Committed(Some(1))]);
        let (html, prose) = (picture.html(), picture.prose());
        assert!(html.contains("committed, at 2"), "{html}");
        assert!(prose.contains("T1 committed at 2 and T2 at 1"), "{prose}");
        assert!(!html.contains(&large.to_string()) && !prose.contains(&large.to_string()));
        assert!(prose.contains("their places among"), "{prose}");
        // What others recorded is shown as they did.
        let picture = committed_at([9, 7]);
        let prose = picture.prose();
        assert!(prose.contains("T1 committed at 9 and T2 at 7"), "{prose}");
        assert!(!prose.contains("their places among"), "{prose}");
    }

    #[test]
    fn long_lists_keep_their_end() {
        let mut history = History::new();
        let values: Vec<Value> = (100..200).map(|integer| history.integer(integer)).collect();
        let drawing = Drawing::new(&history, "");
        assert_eq!(drawing.list(&values), "[… 195 196 197 198 199]".as_bytes());
        assert_eq!(drawing.list(&values[..3]), b"[100 101 102]");
        assert_eq!(drawing.list(&[]), b"[]");
    }

    #[test]
    fn witnesses_name_only_what_is_there() {
        let history = skew();
        let level = Level::SERIALIZABLE;
        let mut report = judge(&history, &Question::new(Workload::Append, level));
        let found = &mut report.found[0];
        found.witness.transactions.push(99);
        found.witness.edges[0].to = 77;
        let picture = of(&history, level, found, "");
        assert_eq!(picture.transactions.len(), 2);
        assert!(picture.cycle.is_empty());
        assert_eq!(picture.edges.len(), 1);
    }
}
