//! What happened in a run: who depends on whom, which anomalies that makes, and whether a level
//! forbids them.
//!
//! The version order of every key is the order of the commits: that of their timestamps where the
//! target tells all of them, else that in which they were told. Every put and merge is marked
//! ([`super::provenance`]), so it is known who wrote what was read; where a key was absent at several
//! times, it is the time that explains all that its reader read, if there is one.
//!
//! Between two committed transactions there is an edge
//! - `ww` if the second changed a key that the first had changed (but not by a merge alone),
//! - `wr` if the second read what the first wrote, or something later; on a *predicate* if a scan of
//!   the second missed what the first had deleted, or a range delete of it swept where the first had
//!   changed something,
//! - `rw` if the first read a version and the second wrote a later one; on a *predicate* if it was
//!   not an item: a key that a scan went over and did not return,
//! - *real-time* if the first was told of its commit before the second began.
//!
//! A cycle is forbidden if each `rw` in it comes out of a transaction whose level forbids it: under
//! serializable every one, under repeatable read those on items, under snapshot those that do not
//! follow upon another `rw` (Adya's mixing; Cerone and Gotsman, 2016, for snapshot). What no cycle
//! shows is looked for by itself: reads of what never was, reads that go backwards, own writes that
//! were not seen, writes that are gone, and writers under snapshot that did not meet.

use isolith::Isolation;

use super::play::{Came, End, Event, Run, Staging};
use super::provenance::{Marks, initial};
use super::scenario::Scenario;
use super::target::{AbortKind, Action, Encoded, Reply, Terms, space_of};
use crate::picture::EdgeKind;

/// Something that a level may forbid, by the name that Adya, Elle or Hermitage give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The name.
    pub name: &'static str,
    /// Whether a cycle needed real time, too.
    pub realtime: bool,
    /// Whether the levels of those who met it forbid it.
    pub forbidden: bool,
    /// The edges, each beginning where the one before ended. Empty if it is no cycle.
    pub cycle: Vec<Edge>,
    /// What it is if it is no cycle.
    pub says: String,
}

impl Found {
    /// The name, with the kind of order that the cycle needed.
    pub fn full_name(&self) -> String {
        format!("{}{}", self.name, if self.realtime { "-realtime" } else { "" })
    }
}

/// One session's transaction comes before another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The session that comes first.
    pub from: usize,
    /// The one that comes after.
    pub to: usize,
    /// In which way.
    pub kind: EdgeKind,
    /// What it is about.
    pub key: Option<String>,
    /// The event of `from` behind it.
    pub from_event: Option<usize>,
    /// The event of `to` behind it.
    pub to_event: Option<usize>,
}

/// What a judge has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Anomalies, the shortest cycle of each name, what is forbidden first.
    pub found: Vec<Found>,
    /// Every edge.
    pub edges: Vec<Edge>,
}

impl Judgement {
    /// The first that is forbidden.
    pub fn forbidden(&self) -> Option<&Found> {
        self.found.iter().find(|found| found.forbidden)
    }
}

/// Judges runs of one scenario.
#[derive(Clone, Debug)]
pub struct Judge {
    keys: Vec<String>,
    marks: Marks,
    initial: State,
}

/// What each key holds, and when that expires.
type State = Vec<Option<(Encoded, u64)>>;
/// The end of what does not expire.
const NEVER: u64 = u64::MAX;

/// What a key holds at a time.
fn live(stored: Option<(Encoded, u64)>, now: u64) -> Option<Encoded> {
    stored.filter(|(_, until)| *until > now).map(|(value, _)| value)
}

/// A change, in the order in which they were made.
#[derive(Clone, Debug, PartialEq)]
enum Change {
    /// With the time at which it expires.
    Put(usize, Encoded, u64),
    Merge(usize, i64),
    Delete(usize),
    /// By a range: whatever was there.
    Sweep(usize),
}

impl Change {
    fn key(&self) -> usize {
        match self {
            Change::Put(key, ..)
            | Change::Merge(key, _)
            | Change::Delete(key)
            | Change::Sweep(key) => *key,
        }
    }

    /// `now`: when its transaction began.
    fn apply(&self, state: &mut State, now: u64) {
        match self {
            Change::Put(key, value, until) => state[*key] = Some((*value, *until)),
            Change::Merge(key, delta) => {
                let base = state[*key].filter(|(_, until)| *until > now);
                let (value, until) = base.unwrap_or((0, NEVER));
                state[*key] = Some((value.wrapping_add(*delta), until));
            }
            Change::Delete(key) | Change::Sweep(key) => state[*key] = None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Read {
    event: usize,
    key: usize,
    /// What lay under the transaction's own changes.
    value: Option<Encoded>,
    item: bool,
    /// The number of the commit whose version it is.
    version: Option<usize>,
}

#[derive(Clone, Debug)]
struct Transaction {
    session: usize,
    terms: Terms,
    begun: usize,
    /// The time at which it began: what it finds expired is judged by that.
    now: u64,
    /// The keyspace that it dropped.
    drops: Option<String>,
    /// The event of its first answered operation: its snapshot is not older.
    first: Option<usize>,
    /// The event in which its commit was asked for.
    asked: usize,
    /// The event in which it was told.
    ended: usize,
    timestamp: Option<u64>,
    told: usize,
    reads: Vec<Read>,
    /// With the event of each.
    changes: Vec<(usize, Change)>,
    /// Where it stands among the commits that changed something, from 1.
    number: Option<usize>,
    /// Keys that it changed, and those of them that it only merged into unread.
    changed: u64,
    merged: u64,
}

impl Judge {
    /// A judge for a scenario.
    pub fn of(scenario: &Scenario) -> Judge {
        let keys = scenario.keys();
        let until = |key: &String| scenario.expiring.get(key).copied().unwrap_or(NEVER);
        let value =
            |key: &String| scenario.setup.get(key).map(|value| (initial(*value), until(key)));
        let initial = keys.iter().map(value).collect();
        Judge { keys, marks: Marks::of(scenario), initial }
    }

    /// Judges a whole run.
    pub fn judge(&self, run: &Run, staging: &Staging) -> Judgement {
        let mut case = Case::new(self, run, staging, run.events.len(), None);
        let last = case.states.last().cloned().unwrap_or_default();
        let differs = |key: &&String| {
            let kept = self.key(key).and_then(|key| live(last[key], run.now));
            kept != run.end.get(*key).copied()
        };
        if let Some(key) = self.keys.iter().find(differs) {
            case.say(
                "lost-write",
                format!("{key} is not what the commits in their order make of it"),
            );
        }
        case.judge()
    }

    /// Whether a transaction that was aborted might have committed where it was aborted: as far as
    /// it had come, after all that had committed by then.
    pub fn was_needless(&self, run: &Run, staging: &Staging, session: usize) -> bool {
        let Some((event, End::Aborted(abort))) = &run.sessions[session].end else { return false };
        if abort.kind == AbortKind::Dropped {
            // There is nothing any more that it could read, or write to.
            return false;
        }
        let event = *event;
        let case = Case::new(self, run, staging, event + 1, Some(session));
        case.judge().forbidden().is_none()
    }

    fn key(&self, key: &str) -> Option<usize> {
        self.keys.binary_search_by(|own| own.as_str().cmp(key)).ok()
    }
}

struct Case<'a> {
    judge: &'a Judge,
    run: &'a Run,
    transactions: Vec<Transaction>,
    /// What was there after each commit that changed something; the first is the initial state.
    states: Vec<State>,
    found: Vec<Found>,
}

impl<'a> Case<'a> {
    /// The transactions that committed by event `until`; `assumed` as if it had there.
    fn new(
        judge: &'a Judge,
        run: &'a Run,
        staging: &Staging,
        until: usize,
        assumed: Option<usize>,
    ) -> Case<'a> {
        let states = vec![judge.initial.clone()];
        let (transactions, found) = (Vec::new(), Vec::new());
        let mut case = Case { judge, run, transactions, states, found };
        for (session, lived) in run.sessions.iter().enumerate() {
            let Some(begun) = lived.begun else { continue };
            let (ended, timestamp) = match &lived.end {
                Some((ended, End::Committed(at))) if *ended < until => (*ended, *at),
                _ if assumed == Some(session) => (until, None),
                _ => continue,
            };
            case.transaction(session, staging.terms[session], (begun, ended), timestamp, assumed);
        }
        case.number(assumed);
        case.versions();
        case
    }

    fn say(&mut self, name: &'static str, says: String) {
        if !self.found.iter().any(|found| found.name == name) {
            let (realtime, forbidden, cycle) = (false, true, Vec::new());
            self.found.push(Found { name, realtime, forbidden, cycle, says });
        }
    }

    /// What a session read and changed.
    fn transaction(
        &mut self,
        session: usize,
        terms: Terms,
        (begun, ended): (usize, usize),
        timestamp: Option<u64>,
        assumed: Option<usize>,
    ) {
        let told = self.run.told[session].unwrap_or(usize::MAX);
        let mut transaction = Transaction {
            session,
            terms,
            begun,
            now: self.time(begun),
            drops: None,
            first: None,
            asked: ended,
            ended,
            timestamp,
            told,
            reads: Vec::new(),
            changes: Vec::new(),
            number: None,
            changed: 0,
            merged: 0,
        };
        let mut savepoints: Vec<usize> = Vec::new();
        let events = self.run.events.iter().enumerate().take(ended + 1).skip(begun);
        for (at, event) in events.filter(|(_, event)| event.session == session) {
            let Some(action) = &event.action else { continue };
            if matches!(action, Action::HandIn | Action::Commit | Action::Drop(_)) {
                transaction.asked = transaction.asked.min(at);
            }
            let refused = matches!(event.came, Came::Aborted(_)) && assumed == Some(session);
            match &event.came {
                Came::Done(reply) => {
                    self.operation(&mut transaction, at, action, reply, &mut savepoints)
                }
                _ if refused => {
                    self.operation(&mut transaction, at, action, &Reply::Nothing, &mut savepoints);
                }
                _ => {}
            }
        }
        self.transactions.push(transaction);
    }

    fn operation(
        &mut self,
        transaction: &mut Transaction,
        event: usize,
        action: &Action,
        reply: &Reply,
        savepoints: &mut Vec<usize>,
    ) {
        if !matches!(action, Action::Begin | Action::Savepoint(_) | Action::RollbackTo(_)) {
            transaction.first.get_or_insert(event);
        }
        let judge = self.judge;
        let within = |span: &super::target::Span| {
            (0..judge.keys.len()).filter(|key| span.contains(&judge.keys[*key])).collect::<Vec<_>>()
        };
        let mut change = |change| transaction.changes.push((event, change));
        match (action, reply) {
            (Action::Get(key, _), Reply::Value(value)) => {
                if let Some(key) = judge.key(key) {
                    self.read(transaction, event, key, *value, true);
                }
            }
            (Action::Scan(span), Reply::Pairs(pairs)) => {
                for key in within(span) {
                    let found = pairs.iter().find(|(found, _)| *found == judge.keys[key]);
                    let value = found.map(|(_, value)| *value);
                    self.read(transaction, event, key, value, value.is_some());
                }
                if let Some((key, _)) =
                    pairs.iter().find(|(key, _)| judge.key(key).is_none() || !span.contains(key))
                {
                    self.say("internal", format!("a scan of {span} found {key}"));
                }
            }
            (Action::Put(key, value, until), _) => {
                let until = until.unwrap_or(NEVER);
                judge.key(key).into_iter().for_each(|key| change(Change::Put(key, *value, until)));
            }
            (Action::Drop(space), _) => {
                let of = |key: &usize| space_of(&judge.keys[*key]) == Some(space);
                (0..judge.keys.len()).filter(of).for_each(|key| change(Change::Sweep(key)));
                transaction.drops = Some(space.clone());
            }
            (Action::Merge(key, delta), _) => {
                judge.key(key).into_iter().for_each(|key| change(Change::Merge(key, *delta)));
            }
            (Action::Delete(key), _) => {
                judge.key(key).into_iter().for_each(|key| change(Change::Delete(key)));
            }
            (Action::DeleteRange(span), _) => {
                within(span).into_iter().for_each(|key| change(Change::Sweep(key)));
            }
            (Action::Savepoint(_), _) => savepoints.push(transaction.changes.len()),
            (Action::RollbackTo(number), _) => {
                savepoints.truncate(number + 1);
                transaction.changes.truncate(savepoints.last().copied().unwrap_or(0));
            }
            _ => {}
        }
    }

    /// A read, looked at under the transaction's own changes.
    fn read(
        &mut self,
        transaction: &mut Transaction,
        event: usize,
        key: usize,
        value: Option<Encoded>,
        item: bool,
    ) {
        let (mut own, mut added) = (None, None);
        for (_, change) in transaction.changes.iter().filter(|(_, change)| change.key() == key) {
            match change {
                Change::Put(_, value, until) => {
                    (own, added) = (Some(live(Some((*value, *until)), transaction.now)), None);
                }
                Change::Delete(_) | Change::Sweep(_) => (own, added) = (Some(None), None),
                Change::Merge(_, delta) => match &mut own {
                    Some(own) => *own = Some(own.unwrap_or(0).wrapping_add(*delta)),
                    None => added = Some(added.unwrap_or(0i64).wrapping_add(*delta)),
                },
            }
        }
        if let Some(own) = own {
            if own != value {
                let name = &self.judge.keys[key];
                self.say(
                    "internal",
                    format!("a transaction did not find {name} as it had left it"),
                );
            }
            return;
        }
        let value = match (value, added) {
            (Some(found), Some(added)) => {
                let below = found.wrapping_sub(added);
                (below != 0).then_some(below)
            }
            (None, Some(_)) => {
                let name = &self.judge.keys[key];
                return self
                    .say("internal", format!("a transaction did not find its merge into {name}"));
            }
            (value, None) => value,
        };
        transaction.reads.push(Read { event, key, value, item, version: None });
    }

    /// Numbers the commits that changed something, and makes the states after each.
    fn number(&mut self, assumed: Option<usize>) {
        let changing = |one: &Transaction| !one.changes.is_empty();
        let known = self
            .transactions
            .iter()
            .filter(|one| changing(one))
            .all(|one| one.timestamp.is_some() || assumed == Some(one.session));
        let mut order: Vec<usize> =
            (0..self.transactions.len()).filter(|at| changing(&self.transactions[*at])).collect();
        order.sort_by_key(|at| {
            let one = &self.transactions[*at];
            let last = assumed == Some(one.session);
            (last, if known { one.timestamp.unwrap_or(0) } else { one.told as u64 })
        });
        for at in order {
            let transaction = &mut self.transactions[at];
            let before = self.states.last().unwrap_or(&self.judge.initial).clone();
            let mut after = before.clone();
            let now = transaction.now;
            transaction.changes.iter().for_each(|(_, change)| change.apply(&mut after, now));
            transaction.number = Some(self.states.len());
            for key in (0..before.len()).filter(|key| before[*key] != after[*key]) {
                transaction.changed |= 1 << key;
                let mut own = transaction.changes.iter().filter(|(_, one)| one.key() == key);
                let read = transaction.reads.iter().any(|read| read.key == key);
                if !read && own.all(|(_, one)| matches!(one, Change::Merge(..))) {
                    transaction.merged |= 1 << key;
                }
            }
            self.states.push(after);
        }
    }

    /// Finds out which version each read read.
    fn versions(&mut self) {
        for at in 0..self.transactions.len() {
            let reads = self.transactions[at].reads.clone();
            let now = self.transactions[at].now;
            let holds =
                |state: usize, read: &Read| live(self.states[state][read.key], now) == read.value;
            let all = |state: &usize| reads.iter().all(|read| holds(*state, read));
            let own = self.transactions[at].number.unwrap_or(self.states.len());
            let mut preferred = (0..own).rev().find(all);
            let mut versions = Vec::with_capacity(reads.len());
            let mut never = Vec::new();
            for read in &reads {
                let decided = self.decided_by(read.event).min(own - 1);
                let candidates = preferred.into_iter().chain((0..=decided).rev());
                let state =
                    candidates.chain(0..self.states.len()).find(|state| holds(*state, read));
                match state {
                    Some(state) => {
                        preferred = Some(state);
                        let changed = |one: &Transaction| one.changed >> read.key & 1 == 1;
                        let numbers = self.transactions.iter().filter(|one| changed(one));
                        let before = numbers.filter_map(|one| one.number).filter(|n| *n <= state);
                        versions.push(Some(before.max().unwrap_or(0)));
                    }
                    None => {
                        versions.push(None);
                        never.push(*read);
                    }
                }
            }
            for (read, version) in self.transactions[at].reads.iter_mut().zip(versions) {
                read.version = version;
            }
            never.into_iter().for_each(|read| self.never_was(at, read));
        }
    }

    /// How many commits had been decided for sure when an event happened, or may have been.
    fn decided_by(&self, event: usize) -> usize {
        let asked = self.transactions.iter().filter(|one| one.asked <= event);
        asked.filter_map(|one| one.number).max().unwrap_or(0)
    }

    /// A read of what no commit left behind.
    fn never_was(&mut self, at: usize, read: Read) {
        let (key, who) = (&self.judge.keys[read.key], self.transactions[at].session);
        let expires = |state: &State| {
            let (value, until) = state[read.key].unwrap_or((0, NEVER));
            until != NEVER && (read.value.is_none() || read.value == Some(value))
        };
        if self.states.iter().any(expires) {
            let what = if read.value.is_some() { "after" } else { "as if it were" };
            return self.say(
                "expiry",
                format!("{key} was read {what} expired, by the time at which its reader began"),
            );
        }
        let Some(value) = read.value else {
            return self.say("internal", format!("{key} was read as absent, which it never was"));
        };
        let writers = self.judge.marks.writers(value);
        let committed = |who: &usize| self.transactions.iter().any(|one| one.session == *who);
        if writers.contains(&who) || writers.is_empty() {
            return self.say("internal", format!("{key} was read with a value that it never had"));
        }
        match writers.iter().all(committed) {
            true => self.say("G1b", format!("{key} was read as its writer did not leave it")),
            false => self.say("G1a", format!("{key} was read as nobody committed it")),
        }
    }

    fn judge(mut self) -> Judgement {
        self.after_drops();
        self.backwards();
        self.first_committer_wins();
        let edges = self.edges();
        self.cycles(&edges);
        let mut found = self.found;
        found.sort_by_key(|one| (!one.forbidden, one.cycle.len()));
        Judgement { found, edges }
    }

    /// How much time had passed when an event happened.
    fn time(&self, event: usize) -> u64 {
        let passed = |event: &Event| match (&event.action, &event.came) {
            (Some(Action::Pass(units)), Came::Done(_)) => *units,
            _ => 0,
        };
        self.run.events.iter().take(event).map(passed).sum()
    }

    /// Nobody writes to a keyspace that is not there any more.
    fn after_drops(&mut self) {
        let mut late = None;
        for drop in &self.transactions {
            let Some(space) = &drop.drops else { continue };
            let of = |key: usize| space_of(&self.judge.keys[key]) == Some(space);
            let wrote = |one: &Transaction| one.changes.iter().any(|(_, one)| of(one.key()));
            let after = |one: &&Transaction| one.number > drop.number && wrote(one);
            if self.transactions.iter().any(|one| after(&one)) {
                late = Some(space.clone());
            }
        }
        if let Some(space) = late {
            self.say("dropped-write", format!("{space} was written to after it had been dropped"));
        }
    }

    /// OTV: a transaction was seen, and later not; and reads of what was overwritten before the
    /// reader began.
    fn backwards(&mut self) {
        let mut vanished = None;
        for transaction in &self.transactions {
            let mut seen: Vec<usize> = Vec::new();
            for read in &transaction.reads {
                let Some(version) = read.version else { continue };
                let later = |writer: &&Transaction| {
                    writer.changed >> read.key & 1 == 1
                        && writer.number.is_some_and(|at| at > version && seen.contains(&at))
                };
                if self.transactions.iter().any(|writer| later(&writer)) {
                    vanished = Some(read.key);
                }
                seen.push(version);
            }
        }
        if let Some(key) = vanished {
            let key = &self.judge.keys[key];
            self.say(
                "OTV",
                format!("{key} was read as before a transaction that was seen already"),
            );
        }
    }

    /// Under snapshot nobody else may have written between the snapshot and the commit what a
    /// transaction writes.
    fn first_committer_wins(&mut self) {
        let mut lost = None;
        for later in &self.transactions {
            let (Some(number), Some(first)) = (later.number, later.first) else { continue };
            let written = later.changed & !later.merged;
            for earlier in self.transactions.iter().filter(|one| one.session != later.session) {
                let between = earlier.number.is_some_and(|at| at < number) && earlier.asked > first;
                if later.terms.isolation == Isolation::Snapshot && between {
                    let both = written & earlier.changed;
                    if both != 0 {
                        lost = Some(both.trailing_zeros() as usize);
                    }
                }
            }
        }
        if let Some(key) = lost {
            let key = &self.judge.keys[key];
            self.say(
                "first-committer-wins",
                format!("two at snapshot wrote {key} beside each other"),
            );
        }
    }

    fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for first in &self.transactions {
            for second in self.transactions.iter().filter(|one| one.session != first.session) {
                self.edges_between(first, second, &mut edges);
            }
        }
        edges
    }

    /// One edge of each kind.
    fn edges_between(&self, first: &Transaction, second: &Transaction, edges: &mut Vec<Edge>) {
        let wrote = |one: &Transaction, key: usize| {
            let own = |(_, change): &&(usize, Change)| change.key() == key;
            one.changes.iter().rev().find(own).map(|(event, _)| *event)
        };
        let mut add = |kind, key: Option<usize>, from_event, to_event| {
            let key = key.map(|key| self.judge.keys[key].clone());
            let (from, to) = (first.session, second.session);
            edges.push(Edge { from, to, kind, key, from_event, to_event });
        };
        if let (Some(earlier), Some(later)) = (first.number, second.number) {
            let both = first.changed & second.changed & !second.merged;
            if earlier < later && both != 0 {
                let key = both.trailing_zeros() as usize;
                let events = (wrote(first, key), wrote(second, key));
                add(EdgeKind::WriteWrite, Some(key), events.0, events.1);
            }
        }
        if let Some(number) = first.number {
            let sees = |read: &&Read| {
                first.changed >> read.key & 1 == 1
                    && read.version.is_some_and(|version| version >= number)
            };
            for item in [true, false] {
                if let Some(read) = second.reads.iter().filter(sees).find(|read| read.item == item)
                {
                    let kind =
                        if item { EdgeKind::WriteRead } else { EdgeKind::PredicateWriteRead };
                    add(kind, Some(read.key), wrote(first, read.key), Some(read.event));
                }
            }
            let swept = |(_, change): &&(usize, Change)| match change {
                Change::Sweep(key) => {
                    (first.changed & !second.changed) >> key & 1 == 1
                        && second.number.is_some_and(|later| number < later)
                }
                _ => false,
            };
            if let Some((event, change)) = second.changes.iter().find(swept) {
                let key = change.key();
                let kind = EdgeKind::PredicateWriteRead;
                add(kind, Some(key), wrote(first, key), Some(*event));
            }
        }
        if let Some(number) = second.number {
            let overtaken = |read: &&Read| {
                second.changed >> read.key & 1 == 1
                    && read.version.is_some_and(|version| version < number)
            };
            for item in [true, false] {
                if let Some(read) = first.reads.iter().filter(overtaken).find(|r| r.item == item) {
                    let kind =
                        if item { EdgeKind::ReadWrite } else { EdgeKind::PredicateReadWrite };
                    add(kind, Some(read.key), Some(read.event), wrote(second, read.key));
                }
            }
        }
        if first.ended < second.begun {
            add(EdgeKind::RealTime, None, Some(first.ended), Some(second.begun));
        }
    }

    /// Follows simple cycles, each from the smallest session in it.
    fn cycles(&mut self, edges: &[Edge]) {
        let sessions = self.run.sessions.len();
        let mut next = vec![0u16; sessions];
        edges.iter().for_each(|edge| next[edge.from] |= 1 << edge.to);
        if !is_cyclic(&next) {
            return;
        }
        for first in 0..sessions {
            let mut path = vec![first];
            self.follow(&next, edges, &mut path);
        }
    }

    fn follow(&mut self, next: &[u16], edges: &[Edge], path: &mut Vec<usize>) {
        let (first, last) = (path[0], path[path.len() - 1]);
        for to in (first..next.len()).filter(|to| next[last] >> to & 1 == 1) {
            if to == first {
                self.name(edges, path);
            } else if !path.contains(&to) {
                path.push(to);
                self.follow(next, edges, path);
                path.pop();
            }
        }
    }

    /// Names what a cycle is an instance of; where one depends on another in several ways, each way
    /// is looked at.
    fn name(&mut self, edges: &[Edge], path: &[usize]) {
        let hop = |at: usize| (path[at], path[(at + 1) % path.len()]);
        let ways: Vec<Vec<&Edge>> = (0..path.len())
            .map(|at| edges.iter().filter(|edge| (edge.from, edge.to) == hop(at)).collect())
            .collect();
        let mut chosen = vec![0; path.len()];
        loop {
            let cycle: Vec<&Edge> =
                chosen.iter().zip(&ways).map(|(way, ways)| ways[*way]).collect();
            self.classify(&cycle);
            let Some(at) = (0..path.len()).find(|at| chosen[*at] + 1 < ways[*at].len()) else {
                return;
            };
            chosen[at] += 1;
            chosen[..at].fill(0);
        }
    }

    fn classify(&mut self, cycle: &[&Edge]) {
        use EdgeKind::{PredicateReadWrite, ReadWrite, RealTime, WriteWrite};
        let is_rw = |edge: &Edge| matches!(edge.kind, ReadWrite | PredicateReadWrite);
        let before = |at: usize| cycle[(at + cycle.len() - 1) % cycle.len()];
        let overtaken: Vec<usize> = (0..cycle.len()).filter(|at| is_rw(cycle[*at])).collect();
        let items = overtaken.iter().all(|at| cycle[*at].kind == ReadWrite);
        let realtime = cycle.iter().any(|edge| edge.kind == RealTime);
        let apart = overtaken.iter().all(|at| cycle.len() > 1 && !is_rw(before(*at)));
        let stale = cycle.len() == 2 && realtime && overtaken.len() == 1;
        let name = match overtaken[..] {
            [] if cycle.iter().all(|edge| matches!(edge.kind, WriteWrite | RealTime)) => "G0",
            [] => "G1c",
            [_] if stale => "stale-read",
            [at] if items && self.updates(cycle[at]) => "lost-update",
            [_] if items => "G-single-item",
            [_] => "G-single",
            _ if apart => "G-nonadjacent",
            _ if items => "G2-item",
            _ => "G2",
        };
        let level = |session: usize| {
            let of = |one: &&Transaction| one.session == session;
            self.transactions
                .iter()
                .find(of)
                .map_or(Isolation::ReadCommitted, |one| one.terms.isolation)
        };
        let forbids = |at: &usize| match level(cycle[*at].from) {
            Isolation::Serializable => true,
            Isolation::Snapshot => !is_rw(before(*at)),
            Isolation::RepeatableRead => cycle[*at].kind == ReadWrite,
            Isolation::ReadCommitted => false,
        };
        let forbidden = stale || overtaken.iter().all(forbids);
        let same = |one: &&mut Found| {
            one.name == name && one.forbidden == forbidden && (stale || one.realtime == realtime)
        };
        let realtime = realtime && !stale;
        let cycle: Vec<Edge> = cycle.iter().map(|edge| (*edge).clone()).collect();
        match self.found.iter_mut().find(same) {
            Some(one) if one.cycle.len() > cycle.len() => one.cycle = cycle,
            Some(_) => {}
            None => {
                self.found.push(Found { name, realtime, forbidden, cycle, says: String::new() })
            }
        }
    }

    /// Whether the reader of an `rw` edge wrote the key after the other had.
    fn updates(&self, edge: &Edge) -> bool {
        let of = |session: usize| self.transactions.iter().find(|one| one.session == session);
        let (Some(reader), Some(writer)) = (of(edge.from), of(edge.to)) else { return false };
        let both = reader.changed & !reader.merged & writer.changed;
        reader.number > writer.number
            && reader.reads.iter().any(|read| {
                let older = read.version < writer.number;
                read.item && older && both >> read.key & 1 == 1
            })
    }
}

/// Whether a graph, as a set of successors for each node, has a cycle.
fn is_cyclic(next: &[u16]) -> bool {
    let mut left: u16 = ((1u32 << next.len()) - 1) as u16;
    loop {
        let ends = (0..next.len()).filter(|at| left >> at & 1 == 1 && next[*at] & left == 0);
        let ends = ends.fold(0u16, |ends, at| ends | 1 << at);
        if ends == 0 {
            return left != 0;
        }
        left &= !ends;
    }
}
