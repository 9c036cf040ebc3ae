//! Stores that promise little and keep nobody from anything, as targets: nobody waits, nobody is
//! aborted. They show which anomalies a schedule is in danger of, and the judges something to find.

use std::collections::BTreeMap;

use super::target::{Action, Answer, Contents, Encoded, Failure, Feature, Reply, Start, Target};

/// What a reader gets to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sees {
    /// What anybody has written, committed or not.
    Everything,
    /// What is committed when it reads, and its own writes.
    Committed,
    /// What was committed when it began, and its own writes; whoever commits last overwrites.
    Snapshot,
}

impl Sees {
    /// All of them.
    pub const ALL: [Sees; 3] = [Sees::Everything, Sees::Committed, Sees::Snapshot];
}

/// A change that is not committed.
#[derive(Clone, Debug)]
enum Change {
    Put(String, Encoded),
    Merge(String, i64),
    Delete(String),
}

#[derive(Clone, Debug, Default)]
struct Session {
    changes: Vec<Change>,
    snapshot: Option<Contents>,
    /// What was there before each change that everybody saw.
    undo: Vec<(String, Option<Encoded>)>,
    savepoints: BTreeMap<usize, usize>,
}

/// A weak store.
#[derive(Clone, Debug)]
pub struct Weak {
    sees: Sees,
    contents: Contents,
    sessions: Vec<Session>,
    commits: u64,
}

impl Weak {
    /// A store whose readers see this.
    pub fn new(sees: Sees) -> Weak {
        Weak { sees, contents: Contents::new(), sessions: Vec::new(), commits: 0 }
    }

    /// What a session sees.
    fn view(&mut self, session: usize) -> Contents {
        let contents = &self.contents;
        let session = &mut self.sessions[session];
        let mut view = match self.sees {
            Sees::Everything => return contents.clone(),
            Sees::Committed => contents.clone(),
            Sees::Snapshot => session.snapshot.get_or_insert_with(|| contents.clone()).clone(),
        };
        session.changes.iter().for_each(|change| apply(&mut view, change));
        view
    }

    fn change(&mut self, session: usize, change: Change) {
        self.view(session);
        if self.sees == Sees::Everything {
            let (Change::Put(key, _) | Change::Merge(key, _) | Change::Delete(key)) = &change;
            let before = self.contents.get(key).copied();
            self.sessions[session].undo.push((key.clone(), before));
            apply(&mut self.contents, &change);
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

fn apply(contents: &mut Contents, change: &Change) {
    match change {
        Change::Put(key, value) => drop(contents.insert(key.clone(), *value)),
        Change::Merge(key, delta) => *contents.entry(key.clone()).or_default() += delta,
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
        self.contents.clone_from(start.setup);
        self.sessions = vec![Session::default(); start.sessions.len()];
        self.commits = 0;
        Ok(())
    }

    fn submit(&mut self, session: usize, action: &Action) -> Result<Answer, Failure> {
        let mut reply = Reply::Nothing;
        match action {
            Action::Begin | Action::HandIn | Action::LockRange(_) => {}
            Action::Get(key, _) => reply = Reply::Value(self.view(session).get(key).copied()),
            Action::Scan(span) => {
                let view = self.view(session);
                let found = view.into_iter().filter(|(key, _)| span.contains(key));
                reply = Reply::Pairs(found.collect());
            }
            Action::Put(key, value) => self.change(session, Change::Put(key.clone(), *value)),
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
                    changes.iter().for_each(|change| apply(&mut self.contents, change));
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
        Ok(self.contents.clone())
    }

    fn abandon(&mut self, _: bool) {}
}
