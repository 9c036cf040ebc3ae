//! The reference model: a plain map of keyspace, key and versions, that says what any read at any
//! timestamp must give, and which commits must be refused. Obvious, slow, and without a line of the
//! engine's.
//!
//! 1. A commit's changes are applied in the order in which the transaction made them; a range delete
//!    becomes one deletion for each key that there is.
//! 2. A key's versions ascend by timestamp; a read at `R` sees the last one at or below `R`.
//! 3. A transaction's own view is the state at its read timestamp with its changes so far applied.
//!    Expiry is judged last: an own put that has expired still hides what lies under it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use isolith::{Isolation, Timestamp};

/// Bytes of a key or value.
pub type Bytes = Vec<u8>;
/// Two ends of a range of keys.
pub type Bounds = (Bound<Bytes>, Bound<Bytes>);
/// A keyspace's place in the order of creation. A dropped name that is created again is another one.
pub type SpaceNumber = usize;

/// A value and when it expires, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The value.
    pub value: Bytes,
    /// When it expires; `None` for never.
    pub expires_at: Option<u64>,
}

impl Stored {
    /// Whether it is still there at `now`.
    pub fn is_live(&self, now: u64) -> bool {
        self.expires_at.is_none_or(|at| at > now)
    }
}

/// One change that a commit makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A key gets a value (`Some`) or goes (`None`).
    Write(SpaceNumber, Bytes, Option<Stored>),
    /// Every key within bounds goes.
    DeleteRange(SpaceNumber, Bounds),
    /// Bytes are merged into a key's value, by a transaction that began at this time: joined to
    /// what is there when it commits, unless that had expired.
    Append(SpaceNumber, Bytes, Bytes, u64, End),
}

/// Where merged bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Behind what is there: the operator that the engine brings.
    Back,
    /// Before it: [`crate::sizes::Prepend`].
    Front,
}

/// What appending makes of a value.
fn append(base: Option<Stored>, bytes: &[u8], now: u64, end: End) -> Stored {
    let base = base.filter(|base| base.is_live(now));
    let Stored { mut value, expires_at } =
        base.unwrap_or(Stored { value: Bytes::new(), expires_at: None });
    match end {
        End::Back => value.extend_from_slice(bytes),
        End::Front => value.splice(..0, bytes.iter().copied()).for_each(drop),
    }
    Stored { value, expires_at }
}

#[derive(Clone, Debug)]
struct Space {
    name: String,
    created: Timestamp,
    dropped: Option<Timestamp>,
    keys: BTreeMap<Bytes, Vec<(Timestamp, Option<Stored>)>>,
}

/// What the database is and was.
#[derive(Clone, Debug, Default)]
pub struct Model {
    spaces: Vec<Space>,
    commits: Vec<(Timestamp, Vec<Change>)>,
    newest: Timestamp,
}

/// What must become of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// It may not be refused.
    None,
    /// It touches a range that another commit deleted, but no key that there ever was.
    Perhaps,
    /// It must be refused.
    Certain,
}

/// Whether `key` lies within `bounds`.
pub fn within(key: &[u8], bounds: &Bounds) -> bool {
    (match &bounds.0 {
        Bound::Included(lower) => key >= lower.as_slice(),
        Bound::Excluded(lower) => key > lower.as_slice(),
        Bound::Unbounded => true,
    }) && (match &bounds.1 {
        Bound::Included(upper) => key <= upper.as_slice(),
        Bound::Excluded(upper) => key < upper.as_slice(),
        Bound::Unbounded => true,
    })
}

/// Whether no key can lie within `bounds`.
pub fn is_empty(bounds: &Bounds) -> bool {
    // The smallest key that the lower end lets in; between `k` and `k\0` there is none.
    let first = match &bounds.0 {
        Bound::Included(lower) => lower.clone(),
        Bound::Excluded(lower) => [lower, &b"\0"[..]].concat(),
        Bound::Unbounded => Bytes::new(),
    };
    !within(&first, bounds)
}

/// Whether some key lies in both, neither of which is empty.
fn overlap(a: &Bounds, b: &Bounds) -> bool {
    !is_empty(&(a.0.clone(), b.1.clone())) && !is_empty(&(b.0.clone(), a.1.clone()))
}

impl Model {
    /// A database in which nothing ever happened before `newest`.
    pub fn new(newest: Timestamp) -> Model {
        Model { newest, ..Model::default() }
    }

    /// The last commit.
    pub fn newest(&self) -> Timestamp {
        self.newest
    }

    /// The number of commits.
    pub fn commits(&self) -> usize {
        self.commits.len()
    }

    // ---- changing

    /// A commit that creates a keyspace.
    pub fn create(&mut self, at: Timestamp, name: &str) -> SpaceNumber {
        self.push(at, Vec::new());
        self.spaces.push(Space {
            name: name.to_owned(),
            created: at,
            dropped: None,
            keys: BTreeMap::new(),
        });
        self.spaces.len() - 1
    }

    /// A commit that drops a keyspace.
    pub fn drop_space(&mut self, at: Timestamp, space: SpaceNumber) {
        self.push(at, Vec::new());
        self.spaces[space].dropped = Some(at);
    }

    /// A commit of these changes.
    pub fn commit(&mut self, at: Timestamp, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::Write(space, key, stored) => self.write(at, *space, key, stored.clone()),
                Change::DeleteRange(space, bounds) => {
                    let keys = self.spaces[*space].keys.keys();
                    let covered: Vec<_> = keys.filter(|key| within(key, bounds)).cloned().collect();
                    covered.iter().for_each(|key| self.write(at, *space, key, None));
                }
                Change::Append(space, key, bytes, now, end) => {
                    let versions = self.spaces[*space].keys.get(key);
                    let base = versions.and_then(|versions| versions.last()?.1.clone());
                    self.write(at, *space, key, Some(append(base, bytes, *now, *end)));
                }
            }
        }
        self.push(at, changes);
    }

    /// Forgets every commit after `at`: what a crash does to those that it takes.
    pub fn truncate(&mut self, at: Timestamp) {
        self.spaces.retain(|space| space.created <= at);
        for space in &mut self.spaces {
            space.dropped = space.dropped.filter(|dropped| *dropped <= at);
            for versions in space.keys.values_mut() {
                versions.retain(|(stamp, _)| *stamp <= at);
            }
        }
        self.commits.retain(|(stamp, _)| *stamp <= at);
        self.newest = at;
    }

    /// The timestamps of all commits, ascending.
    pub fn timestamps(&self) -> Vec<Timestamp> {
        self.commits.iter().map(|(at, _)| *at).collect()
    }

    /// Whether `at` is the timestamp of a commit.
    pub fn is_commit(&self, at: Timestamp) -> bool {
        self.commits.iter().any(|(stamp, _)| *stamp == at)
    }

    fn push(&mut self, at: Timestamp, changes: Vec<Change>) {
        assert!(at > self.newest, "commit timestamps ascend: {at} after {}", self.newest);
        self.newest = at;
        self.commits.push((at, changes));
    }

    fn write(&mut self, at: Timestamp, space: SpaceNumber, key: &[u8], stored: Option<Stored>) {
        let versions = self.spaces[space].keys.entry(key.to_owned()).or_default();
        versions.retain(|(stamp, _)| *stamp != at);
        versions.push((at, stored));
    }

    // ---- reading

    /// The keyspaces at `at`, by name.
    pub fn names(&self, at: Timestamp) -> BTreeMap<String, SpaceNumber> {
        let there = |(number, space): (usize, &Space)| {
            self.exists(number, at).then(|| (space.name.clone(), number))
        };
        self.spaces.iter().enumerate().filter_map(there).collect()
    }

    /// Whether a keyspace is there at `at`.
    pub fn exists(&self, space: SpaceNumber, at: Timestamp) -> bool {
        let space = &self.spaces[space];
        space.created <= at && space.dropped.is_none_or(|dropped| dropped > at)
    }

    /// Whether a keyspace was dropped, by now.
    pub fn is_dropped(&self, space: SpaceNumber) -> bool {
        self.spaces[space].dropped.is_some()
    }

    /// Whether a keyspace was dropped at or before `at`.
    pub fn is_dropped_at(&self, space: SpaceNumber, at: Timestamp) -> bool {
        self.spaces[space].dropped.is_some_and(|dropped| dropped <= at)
    }

    /// Every key that a keyspace ever had.
    pub fn keys(&self, space: SpaceNumber) -> Vec<Bytes> {
        self.spaces[space].keys.keys().cloned().collect()
    }

    /// Everything in a keyspace at `at`, expired values included.
    pub fn state(&self, space: SpaceNumber, at: Timestamp) -> BTreeMap<Bytes, Stored> {
        let newest = |versions: &Vec<(Timestamp, Option<Stored>)>| {
            versions.iter().rev().find(|(stamp, _)| *stamp <= at).and_then(|(_, s)| s.clone())
        };
        let keys = self.spaces[space].keys.iter();
        keys.filter_map(|(key, versions)| Some((key.clone(), newest(versions)?))).collect()
    }

    /// A key's value at `at`, if it is there and has not expired at `now`.
    pub fn read(&self, space: SpaceNumber, key: &[u8], at: Timestamp, now: u64) -> Option<Stored> {
        let versions = self.spaces[space].keys.get(key)?;
        let (_, stored) = versions.iter().rev().find(|(stamp, _)| *stamp <= at)?;
        stored.clone().filter(|stored| stored.is_live(now))
    }

    /// The timestamp of the newest version of a key at or below `at`, deletions of a key that there
    /// was included.
    pub fn stamp(&self, space: SpaceNumber, key: &[u8], at: Timestamp) -> Option<Timestamp> {
        let versions = self.spaces[space].keys.get(key)?;
        versions.iter().rev().map(|(stamp, _)| *stamp).find(|stamp| *stamp <= at)
    }

    /// Keys and values within bounds at `at`, ascending.
    pub fn scan(
        &self,
        space: SpaceNumber,
        bounds: &Bounds,
        at: Timestamp,
        now: u64,
    ) -> Vec<(Bytes, Bytes)> {
        live_within(self.state(space, at), bounds, now)
    }
}

fn live_within(state: BTreeMap<Bytes, Stored>, bounds: &Bounds, now: u64) -> Vec<(Bytes, Bytes)> {
    let live = state.into_iter().filter(|(key, s)| within(key, bounds) && s.is_live(now));
    live.map(|(key, stored)| (key, stored.value)).collect()
}

/// What the model knows of a running transaction.
#[derive(Clone, Debug)]
pub struct ModelTransaction {
    /// Its level.
    pub isolation: Isolation,
    /// Whether it only reads.
    pub read_only: bool,
    /// The time at which it began.
    pub now: u64,
    /// Its read timestamp, once there is one.
    pub read_at: Option<Timestamp>,
    changes: Vec<Change>,
    points: BTreeSet<(SpaceNumber, Bytes)>,
    intervals: Vec<(SpaceNumber, Bounds)>,
    /// Under snapshot, what it has read of others: merges into that depend on it.
    seen: BTreeSet<(SpaceNumber, Bytes)>,
    seen_intervals: Vec<(SpaceNumber, Bounds)>,
}

impl ModelTransaction {
    /// A transaction that has done nothing.
    pub fn new(isolation: Isolation, read_only: bool, now: u64) -> ModelTransaction {
        ModelTransaction {
            isolation,
            read_only,
            now,
            read_at: None,
            changes: Vec::new(),
            points: BTreeSet::new(),
            intervals: Vec::new(),
            seen: BTreeSet::new(),
            seen_intervals: Vec::new(),
        }
    }

    /// The changes so far.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// A mark for [`ModelTransaction::rollback_to`].
    pub fn savepoint(&self) -> usize {
        self.changes.len()
    }

    /// Forgets the changes since a mark; what was read stays read.
    pub fn rollback_to(&mut self, savepoint: usize) {
        self.changes.truncate(savepoint);
    }

    /// Whether the transaction itself has decided what a key holds.
    pub fn is_own(&self, space: SpaceNumber, key: &[u8]) -> bool {
        self.changes.iter().any(|change| match change {
            Change::Write(of, written, _) => *of == space && written == key,
            Change::DeleteRange(of, bounds) => *of == space && within(key, bounds),
            // What it comes to depends on what is there.
            Change::Append(..) => false,
        })
    }

    /// Whether all that it has done to a key so far is to merge into it at the other end.
    pub fn merges_otherwise(&self, space: SpaceNumber, key: &[u8], end: End) -> bool {
        let at_other = |change: &Change| {
            let Change::Append(of, merged, _, _, other) = change else { return false };
            *of == space && merged == key && *other != end
        };
        !self.is_own(space, key) && self.changes.iter().any(at_other)
    }

    /// Everything in a keyspace as this transaction sees it, expired values included.
    fn view(&self, model: &Model, space: SpaceNumber) -> BTreeMap<Bytes, Stored> {
        let mut state = self.read_at.map(|at| model.state(space, at)).unwrap_or_default();
        for change in &self.changes {
            match change {
                Change::Write(of, key, Some(stored)) if *of == space => {
                    state.insert(key.clone(), stored.clone());
                }
                Change::Write(of, key, None) if *of == space => drop(state.remove(key)),
                Change::DeleteRange(of, bounds) if *of == space => {
                    state.retain(|key, _| !within(key, bounds));
                }
                Change::Append(of, key, bytes, now, end) if *of == space => {
                    let base = state.remove(key);
                    state.insert(key.clone(), append(base, bytes, *now, *end));
                }
                _ => {}
            }
        }
        state
    }

    /// What a read of a key must give.
    pub fn read(&self, model: &Model, space: SpaceNumber, key: &[u8]) -> Option<Stored> {
        self.view(model, space).remove(key).filter(|stored| stored.is_live(self.now))
    }

    /// What a scan must give, ascending.
    pub fn scan(&self, model: &Model, space: SpaceNumber, bounds: &Bounds) -> Vec<(Bytes, Bytes)> {
        live_within(self.view(model, space), bounds, self.now)
    }

    /// Notes that a key was read: now the commit depends on it, if its level tracks reads and the key
    /// was not its own.
    pub fn track_point(&mut self, space: SpaceNumber, key: &[u8]) {
        let tracks = self.isolation == Isolation::Serializable;
        if tracks && !self.read_only && !self.is_own(space, key) {
            self.points.insert((space, key.to_owned()));
        }
        if self.isolation == Isolation::Snapshot && !self.is_own(space, key) {
            self.seen.insert((space, key.to_owned()));
        }
    }

    /// Whether a key was read, by itself or by a scan that went over it.
    fn has_seen(&self, space: SpaceNumber, key: &[u8]) -> bool {
        let went_over = |(of, bounds): &(SpaceNumber, Bounds)| *of == space && within(key, bounds);
        self.seen.contains(&(space, key.to_owned())) || self.seen_intervals.iter().any(went_over)
    }

    /// Notes that a key was read for update: the commit depends on it at every level, and under
    /// serializable even if the transaction has written it before, blindly.
    pub fn track_claim(&mut self, space: SpaceNumber, key: &[u8]) {
        if self.isolation == Isolation::Serializable || !self.is_own(space, key) {
            self.points.insert((space, key.to_owned()));
        }
    }

    /// Notes that an interval was examined.
    pub fn track_interval(&mut self, space: SpaceNumber, bounds: Bounds) {
        if self.isolation == Isolation::Serializable && !self.read_only && !is_empty(&bounds) {
            self.intervals.push((space, bounds));
        } else if self.isolation == Isolation::Snapshot && !is_empty(&bounds) {
            self.seen_intervals.push((space, bounds));
        }
    }

    /// Adds a change.
    pub fn change(&mut self, change: Change) {
        if !matches!(&change, Change::DeleteRange(_, bounds) if is_empty(bounds)) {
            self.changes.push(change);
        }
    }

    /// Whether a keyspace that it depends on was dropped.
    pub fn has_dropped(&self, model: &Model) -> bool {
        let written = self.changes.iter().map(|change| match change {
            Change::Write(space, ..)
            | Change::DeleteRange(space, _)
            | Change::Append(space, ..) => *space,
        });
        let read = self.points.iter().map(|(space, _)| *space);
        let examined = self.intervals.iter().map(|(space, _)| *space);
        written.chain(read).chain(examined).any(|space| model.is_dropped(space))
    }

    /// What must become of its commit, if it is decided now. A transaction that changes nothing is
    /// never refused.
    pub fn conflict(&self, model: &Model) -> Conflict {
        let Some(read_at) = self.read_at.filter(|_| !self.changes.is_empty()) else {
            return Conflict::None;
        };
        let mut worst = Conflict::None;
        let since = model.commits.iter().rev().take_while(|(at, _)| *at > read_at);
        for theirs in since.flat_map(|(_, changes)| changes) {
            match self.meets(theirs, model) {
                Conflict::Certain => return Conflict::Certain,
                Conflict::Perhaps => worst = Conflict::Perhaps,
                Conflict::None => {}
            }
        }
        worst
    }

    /// Whether another commit's change touches what this one depends on.
    fn meets(&self, theirs: &Change, model: &Model) -> Conflict {
        let point = |space: SpaceNumber, key: &[u8]| match theirs {
            Change::Write(of, written, _) | Change::Append(of, written, ..) => {
                *of == space && written == key
            }
            Change::DeleteRange(of, bounds) => *of == space && within(key, bounds),
        };
        let range = |space: SpaceNumber, bounds: &Bounds| match theirs {
            Change::Write(of, written, _) | Change::Append(of, written, ..)
                if *of == space && within(written, bounds) =>
            {
                Conflict::Certain
            }
            Change::DeleteRange(of, deleted) if *of == space && overlap(bounds, deleted) => {
                let mut keys = model.spaces[space].keys.keys();
                match keys.any(|key| within(key, bounds) && within(key, deleted)) {
                    true => Conflict::Certain,
                    false => Conflict::Perhaps,
                }
            }
            _ => Conflict::None,
        };
        if self.points.iter().any(|(space, key)| point(*space, key)) {
            return Conflict::Certain;
        }
        let mut ranges: Vec<_> =
            self.intervals.iter().map(|(s, bounds)| range(*s, bounds)).collect();
        if self.isolation == Isolation::Snapshot {
            ranges.extend(self.changes.iter().map(|own| match own {
                Change::Write(space, key, _) if point(*space, key) => Conflict::Certain,
                Change::Append(space, key, ..)
                    if self.has_seen(*space, key) && point(*space, key) =>
                {
                    Conflict::Certain
                }
                // A merge that is not read conflicts with nobody.
                Change::Write(..) | Change::Append(..) => Conflict::None,
                Change::DeleteRange(space, bounds) => range(*space, bounds),
            }));
        }
        [Conflict::Certain, Conflict::Perhaps]
            .into_iter()
            .find(|conflict| ranges.contains(conflict))
            .unwrap_or(Conflict::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(counter: u64) -> Timestamp {
        Timestamp::new(1, counter)
    }

    fn put(key: &str, value: &str) -> Change {
        let stored = Stored { value: value.into(), expires_at: None };
        Change::Write(0, key.into(), Some(stored))
    }

    fn bounds(lower: &str, upper: &str) -> Bounds {
        (Bound::Included(lower.into()), Bound::Excluded(upper.into()))
    }

    fn model() -> Model {
        let mut model = Model::default();
        model.create(at(1), "space");
        model.commit(at(2), vec![put("a", "1"), put("b", "2")]);
        model.commit(at(3), vec![Change::DeleteRange(0, bounds("a", "c")), put("b", "3")]);
        model
    }

    #[test]
    fn each_timestamp_has_its_own_state() {
        let model = model();
        let read = |key: &str, counter| {
            model.read(0, key.as_bytes(), at(counter), 0).map(|stored| stored.value)
        };
        assert_eq!((read("a", 1), read("a", 2), read("a", 3)), (None, Some(b"1".into()), None));
        assert_eq!((read("b", 2), read("b", 3)), (Some(b"2".into()), Some(b"3".into())));
    }

    #[test]
    fn the_levels_differ_in_what_refuses_them() {
        let mut model = model();
        model.commit(at(4), vec![put("a", "9")]);
        let conflict = |isolation, reads: &[&str], writes: &[&str]| {
            let mut transaction = ModelTransaction::new(isolation, false, 0);
            transaction.read_at = Some(at(3));
            reads.iter().for_each(|key| transaction.track_point(0, key.as_bytes()));
            writes.iter().for_each(|key| transaction.change(put(key, "x")));
            transaction.conflict(&model)
        };
        use Isolation::{Serializable, Snapshot};
        assert_eq!(conflict(Serializable, &["a"], &["b"]), Conflict::Certain);
        assert_eq!(conflict(Serializable, &["a"], &[]), Conflict::None);
        assert_eq!(conflict(Serializable, &[], &["a"]), Conflict::None);
        assert_eq!(conflict(Snapshot, &["a"], &["b"]), Conflict::None);
        assert_eq!(conflict(Snapshot, &[], &["a"]), Conflict::Certain);
    }

    #[test]
    fn a_phantom_is_a_conflict_and_a_range_delete_of_nothing_only_perhaps() {
        let mut model = model();
        let mut transaction = ModelTransaction::new(Isolation::Serializable, false, 0);
        transaction.read_at = Some(at(3));
        transaction.track_interval(0, bounds("m", "p"));
        transaction.change(put("b", "x"));
        model.commit(at(4), vec![Change::DeleteRange(0, bounds("n", "z"))]);
        assert_eq!(transaction.conflict(&model), Conflict::Perhaps);
        model.commit(at(5), vec![put("n", "new")]);
        assert_eq!(transaction.conflict(&model), Conflict::Certain);
    }

    #[test]
    fn own_changes_are_seen_in_order_and_undone_in_order() {
        let model = model();
        let mut transaction = ModelTransaction::new(Isolation::Snapshot, false, 0);
        transaction.read_at = Some(at(2));
        transaction.change(put("c", "own"));
        let savepoint = transaction.savepoint();
        transaction.change(Change::DeleteRange(0, bounds("a", "z")));
        transaction.change(put("b", "late"));
        let all = (Bound::Unbounded, Bound::Unbounded);
        let scan = |transaction: &ModelTransaction| {
            let pairs = transaction.scan(&model, 0, &all);
            pairs.iter().map(|(key, value)| [&key[..], b"=", value].concat()).collect::<Vec<_>>()
        };
        assert_eq!(scan(&transaction), [b"b=late".to_vec()]);
        transaction.rollback_to(savepoint);
        assert_eq!(scan(&transaction), [b"a=1".to_vec(), b"b=2".to_vec(), b"c=own".to_vec()]);
    }
}
