//! Stores that promise little and keep nobody from anything, as targets: nobody waits, nobody is
//! aborted. They show which anomalies a schedule is in danger of, and the judges something to find.

use std::collections::BTreeMap;

use super::target::{
    Action, Answer, Contents, Encoded, Failure, Feature, Reply, Start, Target, space_of,
};

/// What a reader gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// What anybody has written, committed or not.
    Everything,
    /// What is committed when it reads, and its own writes.
    Committed,
    /// What was committed when it began, and its own writes; whoever commits last overwrites. Expiry is
    /// judged by the time at which it began, too; by the others by the time at which they read.
    Snapshot,
}

/// A value, and when it expires.
type Stored = (Encoded, Option<u64>);
/// What is there, expired or not.
type Store = BTreeMap<String, Stored>;

impl Sees {
    /// All of them.
    pub const ALL: [Sees; 3] = [Sees::Everything, Sees::Committed, Sees::Snapshot];
}

/// A change that is not committed.
#[derive(Clone, Debug)]
enum Change {
    Put(String, Stored),
    Merge(String, i64),
    Delete(String),
}

#[derive(Clone, Debug, Default)]
struct Session {
    changes: Vec<Change>,
    snapshot: Option<Store>,
    /// When it began.
    began: u64,
    /// What was there before each change that everybody saw.
    undo: Vec<(String, Option<Stored>)>,
    savepoints: BTreeMap<usize, usize>,
}

/// A weak store.
#[derive(Clone, Debug)]
pub struct Weak {
    sees: Sees,
    contents: Store,
    sessions: Vec<Session>,
    commits: u64,
    now: u64,
}

impl Weak {
    /// A store whose readers see this.
    pub fn new(sees: Sees) -> Weak {
        Weak { sees, contents: Store::new(), sessions: Vec::new(), commits: 0, now: 0 }
    }

    /// What a session sees.
    fn view(&mut self, session: usize) -> Contents {
        let (contents, mut now) = (&self.contents, self.now);
        let session = &mut self.sessions[session];
        let mut view = match self.sees {
            Sees::Everything => return live(contents, now),
            Sees::Committed => contents.clone(),
            Sees::Snapshot => {
                now = session.began;
                session.snapshot.get_or_insert_with(|| contents.clone()).clone()
            }
        };
        session.changes.iter().for_each(|change| apply(&mut view, change, now));
        live(&view, now)
    }

    fn change(&mut self, session: usize, change: Change) {
        self.view(session);
        if self.sees == Sees::Everything {
            let (Change::Put(key, _) | Change::Merge(key, _) | Change::Delete(key)) = &change;
            let before = self.contents.get(key).copied();
            self.sessions[session].undo.push((key.clone(), before));
            apply(&mut self.contents, &change, self.now);
        }
        self.sessions[session].changes.push(change);
    }

    fn roll_back(&mut self, session: usize, to: usize) {
        let session = &mut self.sessions[session];
        session.changes.truncate(to);
        while session.undo.len() > to {
            let Some((key, before)) = session.undo.pop() else { break };
            match before {
                Some(value) => drop(self.contents.insert(key, value)),
                None => drop(self.contents.remove(&key)),
            }
        }
    }
}

/// What has not expired.
fn live(store: &Store, now: u64) -> Contents {
    let live = store.iter().filter(|(_, (_, until))| until.is_none_or(|at| at > now));
    live.map(|(key, (value, _))| (key.clone(), *value)).collect()
}

fn apply(contents: &mut Store, change: &Change, now: u64) {
    match change {
        Change::Put(key, value) => drop(contents.insert(key.clone(), *value)),
        Change::Merge(key, delta) => {
            let stored = contents.entry(key.clone()).or_default();
            if stored.1.is_some_and(|at| at <= now) {
                *stored = (0, None);
            }
            stored.0 += delta;
        }
        Change::Delete(key) => drop(contents.remove(key)),
    }
}

impl Target for Weak {
    fn label(&self) -> String {
        format!("weak: {:?}", self.sees).to_lowercase()
    }

    fn offers(&self, feature: Feature) -> bool {
        feature != Feature::FineSteps
    }

    fn start(&mut self, start: &Start<'_>) -> Result<(), Failure> {
        let stored = |(key, value): (&String, &Encoded)| {
            (key.clone(), (*value, start.expiring.get(key).copied()))
        };
        self.contents = start.setup.iter().map(stored).collect();
        self.sessions = vec![Session::default(); start.sessions.len()];
        (self.commits, self.now) = (0, 0);
        Ok(())
    }

    fn submit(&mut self, session: usize, action: &Action) -> Result<Answer, Failure> {
        let mut reply = Reply::Nothing;
        match action {
            Action::Begin => self.sessions[session].began = self.now,
            Action::HandIn | Action::LockRange(_) => {}
            Action::Pass(units) => self.now += units,
            Action::Drop(space) => {
                self.contents.retain(|key, _| space_of(key) != Some(space));
                self.commits += 1;
                reply = Reply::Committed(Some(self.commits));
            }
            Action::Get(key, _) => reply = Reply::Value(self.view(session).get(key).copied()),
            Action::Scan(span) => {
                let view = self.view(session);
                let found = view.into_iter().filter(|(key, _)| span.contains(key));
                reply = Reply::Pairs(found.collect());
            }
            Action::Put(key, value, until) => {
                self.change(session, Change::Put(key.clone(), (*value, *until)));
            }
            Action::Merge(key, delta) => self.change(session, Change::Merge(key.clone(), *delta)),
            Action::Delete(key) => self.change(session, Change::Delete(key.clone())),
            Action::DeleteRange(span) => {
                let keys: Vec<String> = self.view(session).into_keys().collect();
                for key in keys.into_iter().filter(|key| span.contains(key)) {
                    self.change(session, Change::Delete(key));
                }
            }
            Action::Savepoint(number) => {
                let session = &mut self.sessions[session];
                session.savepoints.insert(*number, session.changes.len());
            }
            Action::RollbackTo(number) => {
                let to = self.sessions[session].savepoints.get(number).copied().unwrap_or(0);
                self.roll_back(session, to);
            }
            Action::Rollback => self.roll_back(session, 0),
            Action::Commit => {
                let changes = std::mem::take(&mut self.sessions[session].changes);
                if self.sees != Sees::Everything {
                    let now = self.now;
                    changes.iter().for_each(|change| apply(&mut self.contents, change, now));
                }
                self.commits += u64::from(!changes.is_empty());
                reply = Reply::Committed((!changes.is_empty()).then_some(self.commits));
            }
        }
        Ok(Answer::Done(reply))
    }

    fn poll(&mut self, _: usize) -> Result<Answer, Failure> {
        Ok(Answer::Blocked)
    }

    fn can_move(&mut self, _: usize) -> bool {
        false
    }

    fn waits_for(&mut self, _: usize) -> Vec<usize> {
        Vec::new()
    }

    fn finish(&mut self) -> Result<Contents, Failure> {
        Ok(live(&self.contents, self.now))
    }

    fn abandon(&mut self, _: bool) {}
}
