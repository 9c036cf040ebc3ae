//! How a command is run: alone, queued, within a transaction, or as part of a batch.
//!
//! 1. A command that writes is one serializable transaction, run again after a conflict: a client
//!    never sees one, unless it asked for a transaction of its own with BEGIN.
//! 2. A run that did not commit leaves nothing behind: not in the session, not in the output.
//! 3. Nothing here waits. What must wait is handed back: a reply for the disk ([`Flow::Gate`],
//!    [`Flow::Seen`]), a command for room or for a quieter moment ([`Flow::Later`]).
//! 4. A *batch* is a run of neighbouring commands of one pipeline, the first a write, as one
//!    transaction: one commit instead of many. They take effect at one moment, in their order, which
//!    is one of the moments that each could have had alone. A batch that conflicts is run again, in
//!    the end command by command.

use crate::commands::{self, Handler, Spec};
use crate::failure::{self, Failure, Remedy, TOO_LARGE};
use crate::gates::{Class, Gate};
use crate::resp::{Args, Reply};
use crate::session::{Mode, OpenTransaction, Session};
use crate::shared::Shared;
use crate::store::{Cx, Store};
use isolith::{Durability, Error, Isolation, Timestamp, Transaction, TransactionOptions};
use std::time::Instant;

/// How often a conflict is answered by running again at once; then the core does something else first.
const RUNS: usize = 16;

/// What became of a command.
pub(crate) enum Flow {
    /// Its reply may go out.
    Done,
    /// Its reply must wait for this.
    Gate(Gate),
    /// Its reply must wait until what it saw is acknowledged.
    Seen(Timestamp),
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
    fn conflicted(&self) {
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
        if let Handler::Control(run) = spec.handler {
            self.client.note_command(spec.name);
            return run(self, this, args, &mut reply);
        }
        match &mut self.mode {
            Mode::Plain => match spec.handler {
                Handler::Write(_) => self.write(this, spec, args, &mut reply),
                Handler::Read(_) => self.read(this, spec, args, &mut reply),
                _ => {
                    self.client.note_command(spec.name);
                    let _ = self.run(this.shared, spec, args, &mut reply, Store::Nothing);
                    Flow::Done
                }
            },
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
            Mode::Aborted(why) => {
                let text = format!("ABORTED {why}; nothing was done: send ROLLBACK");
                reply.error(&text);
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
        let mut cx = Cx { shared, session: self, store, observed: Timestamp::ZERO };
        let outcome = match spec.handler {
            Handler::Plain(run) | Handler::Read(run) | Handler::Write(run) => {
                run(&mut cx, args, reply)
            }
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
            Err(Failure::Engine(error)) => {
                reply.rewind(mark);
                Err(error)
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
                Flow::Seen(observed)
            }
            Err(error) => {
                reply.error(&failure::describe(&error));
                Flow::Done
            }
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
    /// be run again, and replaced by one error if it cannot succeed.
    pub(crate) fn transact(
        &mut self,
        this: Try<'_>,
        reply: &mut Reply<'_>,
        mut body: impl FnMut(&mut Session, &mut Transaction, &mut Reply<'_>) -> Result<bool, Error>,
    ) -> Flow {
        let mark = reply.mark();
        let durability = this.shared.durability;
        for _ in 0..RUNS {
            let outcome = begin(this.shared, durability).and_then(|mut txn| {
                let commit = body(self, &mut txn, reply)?;
                if reply.overflowed() || !commit {
                    return Ok(None);
                }
                txn.commit_pending().map(Some)
            });
            let error = match outcome {
                Ok(Some(pending)) => {
                    return Flow::Gate(self.committed(pending, durability));
                }
                Ok(None) => {
                    if reply.overflowed() {
                        overflow(reply, mark);
                    }
                    return Flow::Done;
                }
                Err(error) => error,
            };
            reply.rewind(mark);
            match failure::remedy(&error) {
                Remedy::RunAgain => this.conflicted(),
                Remedy::Wait if this.patient => return Flow::Later(Later::Stalled),
                _ => {
                    reply.error(&failure::describe(&error));
                    return Flow::Done;
                }
            }
        }
        Flow::Later(Later::Contention)
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
        let outcome = match &mut open.transaction {
            OpenTransaction::ReadOnly(snapshot) => self
                .run(this.shared, spec, args, reply, Store::Snapshot(snapshot))
                .map(|_| Flow::Seen(snapshot.timestamp())),
            OpenTransaction::ReadWrite(txn) => {
                // A command that fails half-way (a transaction that grows too large) leaves nothing.
                let save = spec.writes_many().then(|| txn.savepoint());
                let outcome = self.run(this.shared, spec, args, reply, Store::Transaction(txn));
                match (&outcome, save) {
                    (Err(_), Some(save)) => txn.rollback_to(save).and(outcome),
                    _ => outcome,
                }
                .map(|_| Flow::Done)
            }
        };
        self.mode = Mode::Open(open);
        match outcome {
            Ok(flow) => {
                if reply.overflowed() {
                    overflow(reply, mark);
                }
                flow
            }
            Err(error) => {
                reply.error(&failure::describe(&error));
                if matches!(failure::remedy(&error), Remedy::RunAgain | Remedy::GiveUp) {
                    self.abort("the transaction met another or cannot go on, and is rolled back");
                }
                Flow::Done
            }
        }
    }
}

/// Begins a serializable transaction.
pub(crate) fn begin(shared: &Shared, durability: Durability) -> Result<Transaction, Error> {
    shared.database.begin_with(TransactionOptions {
        isolation: Isolation::Serializable,
        durability: Some(durability),
        ..TransactionOptions::default()
    })
}

/// Puts an error in the place of a reply that grew too large.
fn overflow(reply: &mut Reply<'_>, mark: usize) {
    reply.rewind(mark);
    reply.error(&format!("{TOO_LARGE}: the reply is larger than a reply may be; ask for less"));
}

/// A batch under way: see rule 4 at the head of this file.
pub(crate) struct Batch {
    transaction: Transaction,
    durability: Durability,
    /// Commands run in it.
    pub(crate) commands: u32,
    bytes: usize,
}

impl Batch {
    const COMMANDS_MAX: u32 = 128;
    const BYTES_MAX: usize = 1024 * 1024;

    /// True if `spec` can open a batch in this session: a write on keys, outside transactions.
    pub(crate) fn may_begin(session: &Session, spec: &Spec) -> bool {
        matches!(session.mode, Mode::Plain)
            && matches!(spec.handler, Handler::Write(_))
            && spec.keys.any()
    }

    /// True if `spec` may come next.
    pub(crate) fn admits(&self, spec: &Spec) -> bool {
        matches!(spec.handler, Handler::Write(_) | Handler::Read(_))
            && spec.keys.any()
            && self.commands < Batch::COMMANDS_MAX
            && self.bytes < Batch::BYTES_MAX
    }

    pub(crate) fn begin(shared: &Shared) -> Result<Batch, Error> {
        let durability = shared.durability;
        Ok(Batch { transaction: begin(shared, durability)?, durability, commands: 0, bytes: 0 })
    }

    /// Runs one command in it. On an error the whole batch must be given up.
    pub(crate) fn run(
        &mut self,
        session: &mut Session,
        shared: &Shared,
        spec: &Spec,
        args: Args<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ()> {
        let mut reply = Reply::new(out, session.resp3);
        let store = Store::Transaction(&mut self.transaction);
        session.run(shared, spec, args, &mut reply, store).map_err(|_| ())?;
        self.commands += 1;
        self.bytes += args.bytes();
        if reply.overflowed() { Err(()) } else { Ok(()) }
    }

    /// Commits it.
    pub(crate) fn commit(self, session: &mut Session, this: Try<'_>) -> BatchEnd {
        match self.transaction.commit_pending() {
            Ok(pending) => BatchEnd::Gate(session.committed(pending, self.durability)),
            // It may have happened: it must not happen again.
            Err(error @ Error::CommitUnknown { .. }) => {
                BatchEnd::Unknown(failure::describe(&error))
            }
            Err(error) if failure::remedy(&error) == Remedy::RunAgain => {
                this.conflicted();
                BatchEnd::Conflict
            }
            Err(_) => BatchEnd::Refused,
        }
    }
}

/// How a batch ended.
pub(crate) enum BatchEnd {
    /// Committed: all its replies wait for this.
    Gate(Gate),
    /// Nobody knows: each of its replies is this error.
    Unknown(String),
    /// It met another transaction; nothing was done.
    Conflict,
    /// It cannot be; nothing was done. Its commands may do better one by one.
    Refused,
}
