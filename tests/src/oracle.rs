//! Judges a history by brute force: what each transaction saw, whether it committed, and in which
//! order. It knows the promises and no more; not how the engine keeps them.
//!
//! The states are those after each commit, in commit order. A *statement* is one operation; it must
//! be explained by one of the states between what had been told of and what was decided when it was
//! answered, with the transaction's own writes laid over. Each transaction is judged at its own
//! level, whatever the others are (Adya's mixing). One that changed something, having committed as
//! the p-th:
//! 1. **Serializable**: the state right before its commit explains every statement.
//! 2. **Snapshot**: one state, not older than what was told of before it began, explains every
//!    statement, and nobody who committed between that state and its own commit changed a key that
//!    it put or deleted, read for update or for share, or merged into having read it by itself or
//!    gone over it in a scan, there or not. (A merge into what was not looked at depends on nothing.)
//! 3. **RepeatableRead**: statements are explained by states that do not go backwards, and in the
//!    state right before its commit every key that it read one by one (there or not), and every key
//!    that a scan returned, holds what it read. A scan may miss what others inserted.
//! 4. **ReadCommitted**: each statement is explained by a state not older than what was told of when
//!    *it* began; these do not go backwards; what was read for update or for share is unchanged from
//!    that read to the commit.
//! 5. **Changed nothing**: as above with some state between its begin and its end in the place of the
//!    one before its commit.
//! 6. **Refused**: what it saw until then obeys its level, too; and there is a reason: somebody
//!    changed what it depends on, or, where locks are about, somebody who lived at the same time
//!    wanted what it wanted. One that can change nothing and takes no lock is never refused. A
//!    refusal that was not needed counts as *conservative*.

use isolith::{Concurrency, Isolation};

use crate::finding::Checked;
use crate::programs::{Act, Answer, Footprint, Key, Keys, Overlay, Program, State};
use crate::{ensure, ensure_eq};

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Somebody changed what it depends on.
    Conflict,
    /// Somebody older took its locks.
    Wounded,
    /// It was the victim of a cycle.
    Deadlock,
    /// It was not allowed to wait.
    LockRefused,
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Committed, as the n-th that changed something, counted from 1.
    Committed(usize),
    /// Committed without having changed anything.
    Unchanged,
    /// Refused.
    Refused(Why),
}

/// One operation that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it gave.
    pub answer: Answer,
    /// Commits that had been told of when it was first asked for.
    pub told: usize,
    /// Commits that had been decided when it was answered.
    pub decided: usize,
}

/// What is known of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it did.
    pub program: Program,
    /// Its operations that were answered: all of them unless it was refused before.
    pub statements: Vec<Statement>,
    /// Commits that had been told of when it began.
    pub told_at_begin: usize,
    /// Commits that had been decided when it ended.
    pub decided_at_end: usize,
    /// How it ended.
    pub end: End,
    /// The first and the last move of the history in which it was there.
    pub lived: (usize, usize),
}

/// How often what was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Transactions that changed something and committed.
    pub committed: u64,
    /// Transactions that committed and had changed nothing.
    pub unchanged: u64,
    /// Transactions that had to be refused, for a conflict.
    pub refused: u64,
    /// Transactions that were refused for a conflict and could have been let through.
    pub conservative: u64,
    /// Transactions whose locks were taken away.
    pub wounded: u64,
    /// Victims of cycles.
    pub deadlocks: u64,
    /// Transactions that were not allowed to wait.
    pub lock_refused: u64,
}

impl Verdicts {
    /// Adds others.
    pub fn add(&mut self, other: Verdicts) {
        self.committed += other.committed;
        self.unchanged += other.unchanged;
        self.refused += other.refused;
        self.conservative += other.conservative;
        self.wounded += other.wounded;
        self.deadlocks += other.deadlocks;
        self.lock_refused += other.lock_refused;
    }
}

/// A set of states, by their number.
type States = u64;

/// One commit: the state after it, and the keys that it changed.
pub(crate) struct Commit {
    pub(crate) state: State,
    pub(crate) changed: Keys,
    /// Those, and keys that it may have marked as changed without changing them.
    marked: Keys,
}

/// Judges a history that began on `initial`.
pub fn judge(initial: &State, traces: &[Trace]) -> Checked<Verdicts> {
    let commits = replay(initial, traces)?;
    let mut verdicts = Verdicts::default();
    for (who, trace) in traces.iter().enumerate() {
        let checked = Case::new(&commits, who, trace).judge(traces, &mut verdicts);
        checked.map_err(|finding| finding.after(format!("transaction {who}, {trace:?}")))?;
    }
    Ok(verdicts)
}

/// The states after each commit; the first is the initial one.
pub(crate) fn replay(initial: &State, traces: &[Trace]) -> Checked<Vec<Commit>> {
    let mut commits = vec![Commit { state: *initial, changed: Keys::NONE, marked: Keys::NONE }];
    loop {
        let next = End::Committed(commits.len());
        let mut found = traces.iter().enumerate().filter(|(_, trace)| trace.end == next);
        let Some((who, trace)) = found.next() else { break };
        ensure!(found.next().is_none(), "two transactions committed as number {}", commits.len());
        let last = &commits[commits.len() - 1];
        let (answers, state) = trace.program.alone(who, &last.state);
        let overlays = trace.program.overlays(who, &answers);
        let footprint = trace.program.footprint(&overlays, &answers);
        let mut changed = footprint.changed();
        // An optimistic read for update leaves a mark that others see as a change.
        if trace.program.concurrency == Concurrency::Optimistic {
            changed = changed | footprint.marks;
        }
        let marked = changed | footprint.claimed;
        commits.push(Commit { state, changed, marked });
    }
    let count = traces.iter().filter(|trace| matches!(trace.end, End::Committed(_))).count();
    ensure_eq!(commits.len() - 1, count, "the number of commits in a dense order");
    Ok(commits)
}

/// The states with numbers from `first` to `last`.
fn between(first: usize, last: usize) -> States {
    if first > last {
        return 0;
    }
    (u64::MAX >> (63 - (last - first))) << first
}

fn numbers(states: States) -> impl DoubleEndedIterator<Item = usize> {
    (0..64).filter(move |number| states >> number & 1 == 1)
}

/// A transaction in front of the judge.
struct Case<'a> {
    commits: &'a [Commit],
    who: usize,
    trace: &'a Trace,
    answers: Vec<Answer>,
    /// What it had written before each operation, and at the end.
    overlays: Vec<Overlay>,
    /// For each statement the states that explain it.
    explained: Vec<States>,
}

impl<'a> Case<'a> {
    fn new(commits: &'a [Commit], who: usize, trace: &'a Trace) -> Case<'a> {
        let answers: Vec<Answer> = trace.statements.iter().map(|one| one.answer).collect();
        let overlays = trace.program.overlays(who, &answers);
        let acts = trace.program.acts.iter();
        let explained = acts
            .zip(&overlays)
            .zip(&answers)
            .map(|((act, own), answer)| {
                let explains = |commit: &Commit| own.see(*act, &commit.state) == *answer;
                let places = commits.iter().enumerate().filter(|(_, commit)| explains(commit));
                places.fold(0, |states, (place, _)| states | 1 << place)
            })
            .collect();
        Case { commits, who, trace, answers, overlays, explained }
    }

    fn judge(&self, traces: &[Trace], verdicts: &mut Verdicts) -> Checked {
        let Trace { program, told_at_begin: told, decided_at_end: decided, end, .. } = self.trace;
        for (place, (states, statement)) in
            self.explained.iter().zip(&self.trace.statements).enumerate()
        {
            let (act, Statement { answer, decided, .. }) = (program.acts[place], statement);
            let seen = states & between(0, *decided) != 0;
            ensure!(seen, "no state so far explains {act:?}, which gave {answer:?}");
        }
        if !matches!(end, End::Refused(_)) {
            ensure_eq!(self.answers.len(), program.acts.len(), "operations that were answered");
        }
        match *end {
            End::Committed(place) => {
                let writes = program.leaves_changes() || program.claims();
                ensure!(writes, "it changes nothing and took a timestamp");
                ensure!(place > *told, "it committed before it began");
                verdicts.committed += 1;
                self.keeps_its_level(place - 1, place - 1)
            }
            End::Unchanged => {
                ensure!(!program.leaves_changes(), "it changes something and took no timestamp");
                verdicts.unchanged += 1;
                self.keeps_its_level(*told, *decided)
            }
            End::Refused(why) => {
                let last = self.trace.statements.last().map_or(*told, |last| last.decided);
                self.saw_one_view(*told, last)?;
                self.has_a_reason(why, traces, verdicts)
            }
        }
    }

    /// The states that explain every statement.
    fn whole(&self) -> States {
        self.explained.iter().fold(u64::MAX, |whole, states| whole & states)
    }

    /// What it depends on and changes. What was rolled back to a savepoint is not changed; what was read
    /// and locked meanwhile counts.
    fn footprint(&self) -> Footprint {
        self.trace.program.footprint(&self.overlays, &self.answers)
    }

    /// Whether nobody who committed after state `from`, up to state `to`, changed one of `keys`.
    fn unchanged(&self, keys: Keys, from: usize, to: usize) -> bool {
        from >= to || !self.commits[from + 1..=to].iter().any(|commit| commit.changed.touch(keys))
    }

    /// The level's promise to a transaction that committed: `first` to `last` are the states that
    /// its commit may have stood on.
    fn keeps_its_level(&self, first: usize, last: usize) -> Checked {
        let trace = self.trace;
        let commits_something = matches!(trace.end, End::Committed(_));
        match trace.program.isolation {
            Isolation::Serializable => {
                let whole = self.whole() & between(first, last);
                ensure!(whole != 0, "no state that its commit may stand on explains what it saw");
            }
            Isolation::Snapshot => {
                let whole = self.whole() & between(trace.told_at_begin, last);
                ensure!(whole != 0, "no state explains what it saw");
                if commits_something {
                    let Footprint { points, scanned, written, merged, claimed, shared, .. } =
                        self.footprint();
                    let keys = written | claimed | shared | (merged & (points | scanned));
                    let wins = numbers(whole).any(|begun| self.unchanged(keys, begun, last));
                    ensure!(wins, "no state explains what it saw without a lost update");
                }
            }
            Isolation::RepeatableRead => {
                let items = self.items() & between(first, last);
                ensure!(items != 0, "an item that it read is not what it was when it committed");
                let found = self.statements(0, 0, &mut Vec::new(), &|_| true);
                ensure!(found, "no states that do not go backwards explain its statements");
            }
            Isolation::ReadCommitted => {
                // Where nothing was changed and nothing locked there is no commit to hold until.
                let holds = commits_something
                    || matches!(trace.program.concurrency, Concurrency::Locking(_));
                let kept = |chosen: &[usize]| {
                    let acts = trace.program.acts.iter().zip(&self.overlays);
                    !holds
                        || acts.zip(chosen).all(|((act, own), from)| match held_by(*act, own) {
                            Some(keys) => self.unchanged(keys, *from, last),
                            None => true,
                        })
                };
                let found = self.statements(0, 0, &mut Vec::new(), &kept);
                ensure!(found, "no states explain its statements with what it holds unchanged");
            }
        }
        Ok(())
    }

    /// What a transaction that was refused saw until then: no torn view where the level forbids one.
    fn saw_one_view(&self, first: usize, last: usize) -> Checked {
        match self.trace.program.isolation {
            Isolation::Serializable | Isolation::Snapshot => {
                let whole = self.whole() & between(first, last);
                ensure!(whole != 0, "no state explains what it saw before it was refused");
            }
            Isolation::RepeatableRead => {
                let items = self.items() & between(first, last);
                ensure!(items != 0, "the items that it saw before it was refused are torn");
                let found = self.statements(0, 0, &mut Vec::new(), &|_| true);
                ensure!(found, "no states that do not go backwards explain its statements");
            }
            Isolation::ReadCommitted => {
                let found = self.statements(0, 0, &mut Vec::new(), &|_| true);
                ensure!(found, "no states that do not go backwards explain its statements");
            }
        }
        Ok(())
    }

    /// The states in which every key that it read, and every key that a scan returned, holds what
    /// it read.
    fn items(&self) -> States {
        let holds = |state: &State| {
            self.trace.program.acts.iter().zip(&self.overlays).zip(&self.answers).all(
                |((act, own), answer)| {
                    let same = |key: Key| {
                        own.over(key, state[usize::from(key)]) == answer[usize::from(key)]
                    };
                    let mut seen = Footprint::default();
                    seen.add(*act, own, Some(answer));
                    (seen.points | seen.returned).iter().all(same)
                },
            )
        };
        let places = self.commits.iter().enumerate().filter(|(_, commit)| holds(&commit.state));
        places.fold(0, |states, (place, _)| states | 1 << place)
    }

    /// Whether there are states, one for each statement and never going backwards, that explain them
    /// and that `accepts` accepts.
    fn statements(
        &self,
        place: usize,
        least: usize,
        chosen: &mut Vec<usize>,
        accepts: &dyn Fn(&[usize]) -> bool,
    ) -> bool {
        let Some(statement) = self.trace.statements.get(place) else { return accepts(chosen) };
        let Program { isolation, concurrency, .. } = &self.trace.program;
        let fresh = *isolation == Isolation::ReadCommitted
            || matches!(concurrency, Concurrency::Locking(_)) && *isolation != Isolation::Snapshot;
        let told = if fresh { statement.told } else { self.trace.told_at_begin };
        let act = self.trace.program.acts[place];
        if !act.reads() {
            chosen.push(least);
            let found = self.statements(place + 1, least, chosen, accepts);
            chosen.pop();
            return found;
        }
        let states = self.explained[place] & between(told.max(least), statement.decided);
        numbers(states).any(|state| {
            chosen.push(state);
            let found = self.statements(place + 1, state, chosen, accepts);
            chosen.pop();
            found
        })
    }

    /// Whether there is a reason to refuse it.
    fn has_a_reason(&self, why: Why, traces: &[Trace], verdicts: &mut Verdicts) -> Checked {
        let Trace { program, told_at_begin, decided_at_end, .. } = self.trace;
        let passive = !program.changes() && !program.claims();
        let locks = |program: &Program| {
            program.concurrency != Concurrency::Optimistic
                || program.acts.iter().any(|act| matches!(act, Act::LockRange(..)))
        };
        ensure!(!passive || locks(program), "it only reads, takes no locks, and was refused");
        if why == Why::Conflict {
            let auto = program.concurrency == Concurrency::Auto;
            ensure!(!passive || auto, "it only reads and was refused for a conflict");
            let footprint = self.footprint();
            let Footprint { points, returned, scanned, claimed, shared, .. } = footprint;
            let depends = claimed
                | shared
                | match program.isolation {
                    // A scan depends on all that it went over, own writes or not.
                    Isolation::Serializable => points | scanned,
                    Isolation::RepeatableRead => points | returned,
                    Isolation::Snapshot => {
                        footprint.written | (footprint.merged & (points | scanned))
                    }
                    Isolation::ReadCommitted => Keys::default(),
                };
            let since = &self.commits[told_at_begin + 1..=*decided_at_end];
            let touched = since.iter().any(|commit| commit.marked.touch(depends));
            ensure!(touched, "it was refused although nobody touched what it depends on");
            let latest = 1 << *decided_at_end;
            let conservative = match program.isolation {
                Isolation::Serializable => self.whole() & latest != 0,
                Isolation::RepeatableRead => self.items() & latest != 0,
                Isolation::Snapshot | Isolation::ReadCommitted => false,
            };
            verdicts.conservative += u64::from(conservative);
            verdicts.refused += u64::from(!conservative);
            return Ok(());
        }
        let met = traces.iter().enumerate().any(|(who, other)| {
            let (mine, theirs) = (wants(program), wants(&other.program));
            who != self.who
                && other.lived.0 <= self.trace.lived.1
                && self.trace.lived.0 <= other.lived.1
                && (locks(program) || locks(&other.program))
                && (mine.1.touch(theirs.0 | theirs.1) || mine.0.touch(theirs.1))
        });
        ensure!(met, "{why:?}, although nobody beside it wanted what it wants");
        match why {
            Why::Wounded => verdicts.wounded += 1,
            Why::Deadlock => verdicts.deadlocks += 1,
            _ => verdicts.lock_refused += 1,
        }
        Ok(())
    }
}

/// The key that an operation wants to stay as it is until the commit, at every level. What it has
/// written itself it has not read.
fn held_by(act: Act, own: &Overlay) -> Option<Keys> {
    match act {
        Act::ForUpdate(key) | Act::ForShare(key) if !own.owns(key) => Some(Keys::one(key)),
        _ => None,
    }
}

/// The keys on which a program may ask for shared locks, and those for others.
fn wants(program: &Program) -> (Keys, Keys) {
    let (reads, changes) = program.reach();
    let asked = |act: &Act| match act {
        Act::ForUpdate(key) | Act::ForShare(key) => Keys::one(*key),
        Act::LockRange(lower, upper) => Keys::between(*lower, *upper),
        _ => Keys::default(),
    };
    let asked = program.acts.iter().fold(Keys::default(), |keys, act| keys | asked(act));
    let reads = match (program.isolation, program.concurrency) {
        (_, Concurrency::Optimistic) => asked,
        (Isolation::ReadCommitted | Isolation::Snapshot, _) => asked,
        _ => reads | asked,
    };
    // Auto takes what it reads of hot keys for what it is going to change.
    match program.concurrency {
        Concurrency::Auto => (reads, changes | reads),
        _ => (reads, changes),
    }
}

#[cfg(test)]
mod tests;
