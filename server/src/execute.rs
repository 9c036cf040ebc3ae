//! How a command is run: alone, queued, within a transaction, or as part of a batch.
//!
//! 1. A command that writes is one serializable transaction, run again after a conflict: a client
//!    never sees one, unless it asked for a transaction of its own with BEGIN. It is optimistic, from
//!    the second run on it has an age, and after [`RUNS`] runs it takes locks, so that it gets through.
//! 2. A run that did not commit leaves nothing behind: not in the session, not in the output.
//! 3. Nothing here waits. What must wait is handed back: a reply for the disk ([`Flow::Gate`],
//!    [`Flow::Seen`]), a command for a lock, for room or for a quieter moment ([`Flow::Later`]). A
//!    transaction that waits for a lock keeps its place in the queue: in the session, which owns it.
//! 4. A *batch* is a run of neighbouring commands of one pipeline, the first a write, or the writes of
//!    several connections (`together.rs`), as one transaction: one commit instead of many. They take effect at one moment, in their order, which
//!    is one of the moments that each could have had alone. A batch that conflicts is run again, in
//!    the end command by command; so is, at once, one that meets a lock, so that only those commands
//!    wait that have to.

use crate::commands::{self, Handler, Spec};
use crate::failure::{self, Failure, Remedy, TOO_LARGE};
use crate::gates::{Class, Gate};
use crate::resp::{Args, Reply};
use crate::session::{Mode, Open, OpenTransaction, Session};
use crate::shared::Shared;
use crate::store::{Cx, Store};
use crate::walk::{Sliced, Walk};
use isolith::{
    Age, BlockedBy, CommitSteps, Concurrency, DeadlockPolicy, Durability, Error, LockHolder,
    Pending, Step, Timestamp, Transaction, TransactionOptions,
};
use std::time::Instant;

/// How often a conflict is answered by running again at once; then the core does something else
/// first, and the transaction takes locks.
const RUNS: u32 = 16;

/// What became of a command.
pub(crate) enum Flow {
    /// Its reply may go out.
    Done,
    /// Its reply must wait for this.
    Gate(Gate),
    /// Its reply must wait until what it saw is acknowledged.
    Seen(Timestamp),
    /// As `Seen`, for a part of its reply; it goes on when it is run again.
    More(Timestamp),
    /// It has not run: try again.
    Later(Later),
    /// Its reply may go out, and is the last.
    Close,
}

/// Why a command is to be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Later {
    /// Too many conflicts in a row.
    Contention,
    /// The log or the memory has no room.
    Stalled,
    /// An operator wants it to wait: CLIENT PAUSE.
    Paused,
    /// It is more than a core may do in one go: for a helper.
    Elsewhere,
    /// A helper has it.
    Away,
    /// It is a walk that has had its turn: see `walk.rs`.
    Walking,
    /// Another transaction has a lock: when this connection is woken, and at this time at the latest.
    Locked(Option<Instant>),
}

impl Later {
    /// True if both are tried again for the same reason.
    pub(crate) fn is_like(self, other: Later) -> bool {
        // What a helper tries again is tried for the reason that it comes back with.
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
            || [self, other].contains(&Later::Away)
    }
}

/// The circumstances of one try.
#[derive(Clone, Copy)]
pub(crate) struct Try<'a> {
    pub(crate) shared: &'a Shared,
    /// Which core this is.
    pub(crate) core: usize,
    /// False: the client has waited long enough for room.
    pub(crate) patient: bool,
}

impl Try<'_> {
    pub(crate) fn conflicted(&self) {
        if let Some(counters) = self.shared.counters.get(self.core) {
            counters.conflicts.add(1);
        }
    }
}

impl Session {
    /// Runs, queues or refuses one command; its reply is appended to `out`.
    /// `found` is what the table says of it.
    pub(crate) fn execute(
        &mut self,
        this: Try<'_>,
        found: Result<&'static Spec, String>,
        args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Flow {
        let mut reply = Reply::new(out, self.resp3);
        if let Some(walk) = self.walk.take() {
            return self.walk_on(walk, &mut reply);
        }
        let spec = match found {
            Ok(spec) => spec,
            Err(_) if commands::is_http(args) => {
                let peer = &self.client.peer;
                tracing::warn!(%peer, "speaks HTTP, as a web page that attacks would: closed");
                return Flow::Close;
            }
            Err(text) => {
                self.spoil();
                reply.error(&text);
                return Flow::Done;
            }
        };
        if let Some(text) = self.refused(this.shared, spec, args) {
            self.spoil();
            reply.error(&text);
            return Flow::Done;
        }
        let pause = &this.shared.pause;
        if pause.is_on() && pause.holds(spec, this.shared.now_ms()) {
            return Flow::Later(Later::Paused);
        }
        if let Handler::Control(run) = spec.handler {
            self.client.note_command(spec);
            return run(self, this, args, &mut reply);
        }
        match &mut self.mode {
            Mode::Plain => match spec.handler {
                Handler::Write(_) => self.write(this, spec, args, &mut reply),
                Handler::Read(_) => self.read(this, spec, args, &mut reply),
                Handler::Inside(_) => {
                    reply.error(&outside(spec));
                    Flow::Done
                }
                _ => {
                    self.client.note_command(spec);
                    let outcome = self.run(this.shared, spec, args, &mut reply, Store::Nothing);
                    // A command without a reply would leave the client behind by one.
                    if let Err(error) = outcome {
                        reply.error(&failure::describe(&error, None));
                    }
                    Flow::Done
                }
            },
            Mode::Queueing(queue) if matches!(spec.handler, Handler::Inside(_)) => {
                queue.spoilt = true;
                reply.error(&outside(spec));
                Flow::Done
            }
            Mode::Queueing(queue) => {
                let owned = args.to_owned();
                queue.bytes += owned.bytes();
                if queue.bytes > crate::session::QUEUE_BYTES_MAX {
                    queue.spoilt = true;
                    reply.error("ERR MULTI has queued more than 1 GiB");
                    return Flow::Done;
                }
                queue.commands.push((spec, owned));
                reply.simple("QUEUED");
                Flow::Done
            }
            Mode::Open(_) => self.within(this, spec, args, &mut reply),
            Mode::Aborted(aborted) => {
                reply.error(&aborted.error("send ROLLBACK"));
                Flow::Done
            }
            // COMMIT is the only command that is run until it is decided.
            Mode::Committing(_) => {
                reply.error("ERR the transaction is being committed");
                Flow::Done
            }
        }
    }

    /// Calls a handler. An error that is the client's becomes its reply; one of the engine is
    /// returned, with the reply taken back.
    pub(crate) fn run(
        &mut self,
        shared: &Shared,
        spec: &Spec,
        args: Args<'_>,
        reply: &mut Reply<'_>,
        store: Store<'_>,
    ) -> Result<Timestamp, Error> {
        let mark = reply.mark();
        let for_update = matches!(spec.handler, Handler::Write(_));
        let mut cx = Cx { shared, session: self, store, for_update, observed: Timestamp::ZERO };
        let outcome = match spec.handler {
            Handler::Plain(run)
            | Handler::Read(run)
            | Handler::Write(run)
            | Handler::Inside(run) => run(&mut cx, args, reply),
            // Never queued, never in a batch, and run by `execute` itself.
            Handler::Control(_) | Handler::Container => Ok(()),
        };
        let observed = cx.observed;
        match outcome {
            Ok(()) => Ok(observed),
            Err(Failure::Text(text)) => {
                reply.rewind(mark);
                reply.error(&text);
                Ok(observed)
            }
            Err(Failure::Unreadable(error)) => {
                reply.rewind(mark);
                reply.error(&failure::describe(&error, None));
                Ok(observed)
            }
            Err(Failure::Engine(error)) => {
                reply.rewind(mark);
                Err(error)
            }
            // Nobody is told of this error: `Effort::take_exceeded` is asked first.
            Err(Failure::Elsewhere) => {
                reply.rewind(mark);
                Err(Error::ReadOnlyTransaction)
            }
        }
    }

    /// The next slice of a wide read.
    fn walk_on(&mut self, mut walk: Box<Walk>, reply: &mut Reply<'_>) -> Flow {
        let at = walk.timestamp();
        match walk.advance(reply) {
            Ok(Sliced::Done) => Flow::Seen(at),
            Ok(Sliced::More) => {
                self.walk = Some(walk);
                Flow::More(at)
            }
            Err(error) if !walk.has_begun() => {
                reply.error(&failure::describe(&error, None));
                Flow::Done
            }
            ended => {
                let why = ended.map_or_else(|error| error.to_string(), |_| "it moved".to_owned());
                tracing::warn!(peer = %self.client.peer, "a reply cannot be ended, so its connection is: {why}");
                Flow::Close
            }
        }
    }

    /// A command that reads, alone.
    fn read(
        &mut self,
        this: Try<'_>,
        spec: &'static Spec,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let mark = reply.mark();
        self.effort.begin();
        let outcome = if spec.keys.count(args.len()) == 1 {
            self.run(this.shared, spec, args, reply, Store::Latest)
        } else {
            this.shared.database.snapshot_after(self.token).and_then(|snapshot| {
                self.run(this.shared, spec, args, reply, Store::Snapshot(&snapshot))?;
                Ok(snapshot.timestamp())
            })
        };
        match outcome {
            Ok(_) if reply.overflowed() => {
                overflow(reply, mark);
                Flow::Done
            }
            Ok(observed) => {
                self.saw(observed);
                self.seen(observed)
            }
            Err(_) if self.effort.take_exceeded() => Flow::Later(Later::Elsewhere),
            Err(error) => {
                reply.error(&failure::describe(&error, None));
                Flow::Done
            }
        }
    }

    /// How a command's reply that shows `observed` goes out.
    fn seen(&self, observed: Timestamp) -> Flow {
        match self.walk {
            Some(_) => Flow::More(observed),
            None => Flow::Seen(observed),
        }
    }

    /// A command that writes, alone.
    fn write(
        &mut self,
        this: Try<'_>,
        spec: &'static Spec,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Flow {
        self.transact(this, reply, |session, txn, reply| {
            session.run(this.shared, spec, args, reply, Store::Transaction(txn)).map(|_| true)
        })
    }

    /// Runs `body` in a serializable transaction of the server's durability until it commits.
    /// `body` says whether what it wrote is to be committed; its replies are taken back if it is to
    /// be run again, and replaced by one error if it cannot succeed. What has to wait goes on where it
    /// was when this is called again.
    pub(crate) fn transact(
        &mut self,
        this: Try<'_>,
        reply: &mut Reply<'_>,
        mut body: impl FnMut(&mut Session, &mut Transaction, &mut Reply<'_>) -> Result<bool, Error>,
    ) -> Flow {
        let mark = reply.mark();
        let mut own = self.underway.take().map_or_else(Underway::default, |own| *own);
        for _ in 0..RUNS {
            let error = match self.advance(this, &mut own, reply, &mut body) {
                Ok(Advance::Decided(pending)) => {
                    return Flow::Gate(self.committed(pending, this.shared.defaults.durability));
                }
                Ok(Advance::Nothing) => {
                    if reply.overflowed() {
                        overflow(reply, mark);
                    }
                    return Flow::Done;
                }
                Ok(Advance::Waits(until)) => {
                    reply.rewind(mark);
                    self.underway = Some(Box::new(own));
                    return Flow::Later(Later::Locked(until));
                }
                Err(error) => error,
            };
            reply.rewind(mark);
            if self.effort.take_exceeded() {
                return Flow::Later(Later::Elsewhere);
            }
            match failure::remedy(&error) {
                Remedy::RunAgain => {
                    this.conflicted();
                    own.tries = own.tries.saturating_add(1);
                }
                Remedy::Wait if this.patient => {
                    self.underway = Some(Box::new(own));
                    return Flow::Later(Later::Stalled);
                }
                _ => {
                    reply.error(&failure::describe(&error, None));
                    return Flow::Done;
                }
            }
        }
        self.underway = Some(Box::new(own));
        Flow::Later(Later::Contention)
    }

    /// One run of a transaction of the server's own, or the rest of one that had to wait.
    fn advance(
        &mut self,
        this: Try<'_>,
        own: &mut Underway,
        reply: &mut Reply<'_>,
        body: &mut impl FnMut(&mut Session, &mut Transaction, &mut Reply<'_>) -> Result<bool, Error>,
    ) -> Result<Advance, Error> {
        self.wait.begin();
        self.effort.begin();
        let mark = reply.mark();
        let mut steps = match std::mem::take(&mut own.stage) {
            Stage::Deciding { steps, replies, db, resp3 } => {
                (self.db, self.resp3) = (db, resp3);
                reply.raw(&replies);
                *steps
            }
            stage => {
                let mut txn = match stage {
                    Stage::Running(txn) => *txn,
                    _ => begin(this.shared, own)?,
                };
                if own.tries > 0 {
                    own.age.get_or_insert_with(|| txn.age());
                }
                let commit = if own.with_locks() {
                    txn.wake(Some(self.wait.waker()));
                    match txn.step(|txn| body(self, txn, reply)) {
                        Step::Ready(commit) => commit,
                        Step::Aborted(error) => return Err(error),
                        Step::Blocked(_) => {
                            self.wait.parked(ages(&txn.waits_for()));
                            let until = txn.waits_until();
                            own.stage = Stage::Running(Box::new(txn));
                            return Ok(Advance::Waits(until));
                        }
                    }
                } else {
                    body(self, &mut txn, reply)?
                };
                if reply.overflowed() || !commit {
                    return Ok(Advance::Nothing);
                }
                txn.commit_steps()
            }
        };
        if let Some(pending) = self.decide(&mut steps)? {
            return Ok(Advance::Decided(pending));
        }
        own.age = own.age.or(steps.age());
        let until = steps.waits_until();
        let (steps, replies) = (Box::new(steps), reply.take(mark));
        own.stage = Stage::Deciding { steps, replies, db: self.db, resp3: self.resp3 };
        Ok(Advance::Waits(until))
    }

    /// Goes on with a commit until it is decided. `None`: it has to wait for a lock, and this connection
    /// is woken.
    pub(crate) fn decide(&mut self, steps: &mut CommitSteps) -> Result<Option<Pending>, Error> {
        let mut asked = false;
        loop {
            match steps.decide_step() {
                Step::Ready(pending) => return Ok(Some(pending)),
                Step::Aborted(error) => return Err(error),
                Step::Blocked(BlockedBy::Lock) if asked => {
                    self.wait.parked(ages(&steps.waits_for()));
                    return Ok(None);
                }
                // Most commits meet no lock, and need no waker: so the first look goes without.
                Step::Blocked(BlockedBy::Lock) => {
                    steps.wake(Some(self.wait.waker()));
                    asked = true;
                }
                // Another core leads, and is about to answer.
                Step::Blocked(_) => std::thread::yield_now(),
            }
        }
    }

    /// Notes a commit of this connection.
    pub(crate) fn committed(&mut self, pending: isolith::Pending, durability: Durability) -> Gate {
        let at = pending.timestamp();
        self.saw(at);
        Gate::new(Class::Commit(durability), at, pending)
    }

    /// A command within BEGIN … COMMIT.
    fn within(
        &mut self,
        this: Try<'_>,
        spec: &'static Spec,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Flow {
        let Mode::Open(mut open) = std::mem::replace(&mut self.mode, Mode::Plain) else {
            return Flow::Done;
        };
        open.used = Instant::now();
        let mark = reply.mark();
        self.effort.begin();
        self.inside = true;
        let step = match &mut open.transaction {
            OpenTransaction::ReadOnly(snapshot) => {
                let store = match isolith::planted!("read-only-at-no-one-point") {
                    true => Store::Latest,
                    false => Store::Snapshot(snapshot),
                };
                let outcome = self.run(this.shared, spec, args, reply, store);
                match outcome {
                    Ok(_) => Step::Ready(self.seen(snapshot.timestamp())),
                    Err(error) => Step::Aborted(error),
                }
            }
            OpenTransaction::ReadWrite(txn) => {
                self.wait.begin();
                txn.step(|txn| {
                    // A command that fails half-way (a transaction that grows too large, a lock that
                    // is not to be had) leaves nothing.
                    let save = spec.writes_many().then(|| txn.savepoint());
                    let outcome = self.run(this.shared, spec, args, reply, Store::Transaction(txn));
                    match (&outcome, save) {
                        (Err(_), Some(save)) => txn.rollback_to(save).and(outcome),
                        _ => outcome,
                    }
                    .map(|_| Flow::Done)
                })
            }
        };
        self.inside = false;
        match step {
            Step::Ready(flow) => {
                if reply.overflowed() {
                    overflow(reply, mark);
                }
                self.mode = Mode::Open(open);
                flow
            }
            Step::Blocked(_) => {
                reply.rewind(mark);
                let mut until = None;
                if let OpenTransaction::ReadWrite(txn) = &open.transaction {
                    self.wait.parked(ages(&txn.waits_for()));
                    until = txn.waits_until();
                }
                self.mode = Mode::Open(open);
                Flow::Later(Later::Locked(until))
            }
            Step::Aborted(_) if self.effort.take_exceeded() => {
                self.mode = Mode::Open(open);
                Flow::Later(Later::Elsewhere)
            }
            Step::Aborted(error) => {
                let age = open.age();
                reply.error(&failure::describe(&error, age));
                self.mode = Mode::Open(open);
                if matches!(failure::remedy(&error), Remedy::RunAgain | Remedy::GiveUp) {
                    let why = "the transaction met another or cannot go on, and is rolled back";
                    self.abort(failure::hint(&error, age), why);
                }
                Flow::Done
            }
        }
    }
}

impl Open {
    /// How old its transaction is; none if it only reads.
    pub(crate) fn age(&self) -> Option<Age> {
        match &self.transaction {
            OpenTransaction::ReadWrite(txn) => Some(txn.age()),
            OpenTransaction::ReadOnly(_) => None,
        }
    }
}

/// A transaction of the server's own (a command's, or EXEC's) that is not decided, as it is kept while
/// its connection is parked.
#[derive(Default)]
pub(crate) struct Underway {
    /// Runs that came to nothing.
    tries: u32,
    /// From the second run on: it goes before who came later.
    age: Option<Age>,
    stage: Stage,
}

impl Underway {
    /// Too many runs have come to nothing: it locks what it touches.
    fn with_locks(&self) -> bool {
        self.tries >= RUNS
    }
}

/// How far a transaction of the server's own has come.
#[derive(Default)]
enum Stage {
    /// It is to be begun.
    #[default]
    New,
    /// A command in it waits for a lock; it is run again from its beginning.
    Running(Box<Transaction>),
    /// Its commit waits for a lock: with its replies, and what the session will be.
    Deciding { steps: Box<CommitSteps>, replies: Vec<u8>, db: u8, resp3: bool },
}

/// How far a run came.
enum Advance {
    Decided(Pending),
    /// There is nothing to be committed.
    Nothing,
    /// It waits for a lock, until then at most.
    Waits(Option<Instant>),
}

/// Whose locks they are.
fn ages(locks: &[LockHolder]) -> Vec<u64> {
    let mut ages: Vec<u64> = locks.iter().map(|lock| lock.age.bits()).collect();
    ages.sort_unstable();
    ages.dedup();
    ages
}

/// The error for a command that only makes sense within BEGIN.
fn outside(spec: &Spec) -> String {
    format!("ERR {} without BEGIN", spec.name.to_uppercase())
}

/// Begins a serializable transaction of the server's own.
pub(crate) fn begin(shared: &Shared, own: &Underway) -> Result<Transaction, Error> {
    let locking = Concurrency::Locking(DeadlockPolicy::WoundWait);
    shared.database.begin_with(TransactionOptions {
        concurrency: if own.with_locks() { locking } else { Concurrency::Optimistic },
        durability: Some(shared.defaults.durability),
        age: own.age,
        lock_timeout: Some(shared.defaults.lock_timeout()),
        ..TransactionOptions::default()
    })
}

/// Puts an error in the place of a reply that grew too large.
fn overflow(reply: &mut Reply<'_>, mark: usize) {
    reply.rewind(mark);
    reply.error(&format!("{TOO_LARGE}: the reply is larger than a reply may be; ask for less"));
}
