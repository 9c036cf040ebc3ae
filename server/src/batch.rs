//! A batch: commands as one transaction (rule 4 of `execute.rs`), neighbours in one pipeline, or of several
//! connections (`together.rs`).

use crate::commands::{Handler, Spec};
use crate::execute::{Try, Underway, begin};
use crate::failure::{self, Remedy};
use crate::gates::{Class, Gate};
use crate::resp::{Args, Reply};
use crate::session::{Mode, Session};
use crate::shared::Shared;
use crate::store::Store;
use isolith::{BlockedBy, Durability, Error, Step, Transaction};

/// A batch under way.
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
    pub(crate) fn may_begin(session: &mut Session, shared: &Shared, spec: &Spec) -> bool {
        matches!(session.mode, Mode::Plain)
            && session.is_plain(shared)
            && !shared.pause.is_on()
            && matches!(spec.handler, Handler::Write(_))
            && spec.keys.any()
    }

    /// True if `spec` may come next.
    pub(crate) fn admits(&self, spec: &Spec) -> bool {
        matches!(spec.handler, Handler::Write(_) | Handler::Read(_))
            && spec.keys.any()
            && self.has_room()
    }

    /// True if another command may come.
    pub(crate) fn has_room(&self) -> bool {
        self.commands < Batch::COMMANDS_MAX && self.bytes < Batch::BYTES_MAX
    }

    pub(crate) fn begin(shared: &Shared) -> Result<Batch, Error> {
        let durability = shared.defaults.durability;
        let transaction = begin(shared, &Underway::default())?;
        Ok(Batch { transaction, durability, commands: 0, bytes: 0 })
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
        session.effort.begin();
        let outcome = session.run(shared, spec, args, &mut reply, store);
        // Alone it is handed to a helper.
        session.effort.take_exceeded();
        outcome.map_err(|_| ())?;
        self.commands += 1;
        self.bytes += args.bytes();
        if reply.overflowed() { Err(()) } else { Ok(()) }
    }

    /// Commits it. All whose commands are in it have seen the commit.
    pub(crate) fn commit(self, this: Try<'_>) -> BatchEnd {
        let mut steps = self.transaction.commit_steps();
        loop {
            return match steps.decide_step() {
                Step::Ready(pending) => {
                    let at = pending.timestamp();
                    BatchEnd::Gate(Gate::new(Class::Commit(self.durability), at, pending))
                }
                // It may have happened: it must not happen again.
                Step::Aborted(error @ Error::CommitUnknown { .. }) => {
                    BatchEnd::Unknown(failure::describe(&error, None))
                }
                Step::Aborted(error) if failure::remedy(&error) == Remedy::RunAgain => {
                    this.conflicted();
                    BatchEnd::Conflict
                }
                Step::Aborted(_) | Step::Blocked(BlockedBy::Lock) => BatchEnd::Refused,
                // Another core leads, and is about to answer.
                Step::Blocked(_) => {
                    std::thread::yield_now();
                    continue;
                }
            };
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
    /// It cannot be, or meets a lock; nothing was done. Its commands may do better one by one.
    Refused,
}
