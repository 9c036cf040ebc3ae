//! Helpers: a few threads that run what would hold up a core.
//!
//! A core runs a command itself as long as that is short. What waits for the disk, and what turns out to be
//! more than [`EFFORT_BYTES`] of work, it hands over as an *errand*: the command, and the session that it
//! belongs to. The connection keeps a stand-in, runs nothing meanwhile, and gets both the session and the reply
//! back through its core.
//!
//! 1. A session is in one place: with its connection, in the queue, or with a helper. So nothing of it needs a
//!    lock, and a command means the same wherever it is run: alone, in EXEC, after BEGIN.
//! 2. An errand begins from the beginning: what the core has tried is rolled back.
//! 3. The queue is bounded by [`ERRANDS_MAX`]: beyond it the client is told `BUSY`, and nothing is done.
//! 4. What comes back to a connection that is gone is dropped: its transaction is rolled back.

use crate::commands::{Handler, Spec};
use crate::execute::{Flow, Try};
use crate::reactor::Token;
use crate::resp::{Args, OwnedArgs};
use crate::session::{Mode, Session};
use crate::shared::{Shared, lock};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// What a command may do on a core, in bytes that it reads, copies or looks at; a key counts for some hundred.
pub(crate) const EFFORT_BYTES: usize = 1024 * 1024;
/// Arguments of a command that a core runs itself.
const ARGUMENTS_MAX: usize = 1024;
/// Errands that may wait for a helper.
const ERRANDS_MAX: usize = 1024;

/// What a client is told whose errand nobody takes.
pub(crate) const BUSY: &str =
    "BUSY retry=after:100 too many long commands are waiting for a helper; nothing was done";

/// What a command may still do where it runs.
#[derive(Debug)]
pub(crate) struct Effort {
    left: usize,
    boundless: bool,
    exceeded: bool,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { left: EFFORT_BYTES, boundless: false, exceeded: false }
    }
}

impl Effort {
    /// A command (or a run of it) begins.
    pub(crate) fn begin(&mut self) {
        self.left = EFFORT_BYTES;
    }

    /// Takes so many bytes' worth. False: that is too much for a core.
    pub(crate) fn spend(&mut self, bytes: usize) -> bool {
        if self.boundless {
            return true;
        }
        self.exceeded |= self.left < bytes;
        self.left = self.left.saturating_sub(bytes);
        !self.exceeded
    }

    /// True if nothing is too much: a helper runs it.
    pub(crate) fn is_boundless(&self) -> bool {
        self.boundless
    }

    /// True, once, if it was too much: a helper is to run the command from its beginning.
    pub(crate) fn take_exceeded(&mut self) -> bool {
        std::mem::take(&mut self.exceeded)
    }
}

impl Session {
    /// True if a command is known to be long before it is begun.
    pub(crate) fn is_errand(&self, spec: &Spec, args: Args<'_>) -> bool {
        if !self.is_proven() || self.walk.is_some() {
            return false;
        }
        match (&self.mode, spec.handler) {
            (Mode::Queueing(queue), Handler::Control(_)) if spec.name == "exec" => {
                queue.commands.len() > ARGUMENTS_MAX
                    || queue.bytes > EFFORT_BYTES
                    || queue.commands.iter().any(|(spec, _)| spec.is("away"))
            }
            // It is queued, and no more.
            (Mode::Queueing(_), _) | (_, Handler::Control(_)) => false,
            _ => spec.is("away") || args.len() > ARGUMENTS_MAX || args.extent() > EFFORT_BYTES,
        }
    }
}

/// A command on its way to a helper, with the session that it belongs to.
pub(crate) struct Errand {
    pub(crate) token: Token,
    pub(crate) core: usize,
    pub(crate) session: Session,
    pub(crate) spec: &'static Spec,
    pub(crate) args: OwnedArgs,
    /// See [`Try::patient`].
    pub(crate) patient: bool,
}

/// What comes back.
pub(crate) struct Returned {
    pub(crate) token: Token,
    pub(crate) session: Session,
    pub(crate) answer: Answer,
}

/// What a helper has made of a command.
pub(crate) struct Answer {
    pub(crate) out: Vec<u8>,
    pub(crate) flow: Flow,
    pub(crate) took: Duration,
}

/// The errands of all cores, and what comes back from them.
pub(crate) struct Helpers {
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// For each core.
    returned: Vec<Mutex<Vec<Returned>>>,
}

#[derive(Default)]
struct Queue {
    errands: VecDeque<Errand>,
    /// How many helpers are at work.
    under_way: usize,
    done: u64,
    closed: bool,
}

/// What INFO tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) waiting: usize,
    pub(crate) under_way: usize,
    pub(crate) done: u64,
}

impl Helpers {
    pub(crate) fn new(cores: usize) -> Helpers {
        Helpers {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            returned: (0..cores).map(|_| Mutex::default()).collect(),
        }
    }

    /// Takes an errand, or gives it back if there are too many.
    pub(crate) fn take(&self, errand: Errand) -> Result<(), Box<Errand>> {
        let mut queue = lock(&self.queue);
        if queue.errands.len() >= ERRANDS_MAX || queue.closed {
            return Err(Box::new(errand));
        }
        queue.errands.push_back(errand);
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    /// Runs errands until [`close`](Helpers::close). `helper` is this one's number.
    pub(crate) fn work(&self, shared: &Shared, helper: usize) {
        while let Some(errand) = self.next(true) {
            self.run(errand, shared, helper);
        }
    }

    /// Runs what is waiting, and no more.
    #[cfg(test)]
    pub(crate) fn work_off(&self, shared: &Shared) {
        while let Some(errand) = self.next(false) {
            self.run(errand, shared, 0);
        }
    }

    fn next(&self, wait: bool) -> Option<Errand> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            if let Some(errand) = queue.errands.pop_front() {
                queue.under_way += 1;
                return Some(errand);
            }
            if !wait {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, errand: Errand, shared: &Shared, helper: usize) {
        let Errand { token, core, mut session, spec, args, patient } = errand;
        let this = Try { shared, core: shared.wakers.len() + helper, patient };
        let (began, mut out) = (Instant::now(), Vec::new());
        session.effort.boundless = true;
        let flow = session.execute(this, Ok(spec), args.lend(), &mut out);
        session.effort.boundless = false;
        let answer = Answer { out, flow, took: began.elapsed() };
        {
            let mut queue = lock(&self.queue);
            queue.under_way -= 1;
            queue.done += 1;
        }
        if let Some(returned) = self.returned.get(core) {
            lock(returned).push(Returned { token, session, answer });
            shared.wakers.get(core).map(Waker::wake_by_ref);
        }
    }

    /// What has come back to a core.
    pub(crate) fn returned(&self, core: usize) -> Vec<Returned> {
        self.returned.get(core).map(|all| std::mem::take(&mut *lock(all))).unwrap_or_default()
    }

    /// Ends the helpers, once each has done what it has in hand. What waits is dropped.
    pub(crate) fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        let waiting = std::mem::take(&mut queue.errands);
        drop(queue);
        self.arrived.notify_all();
        drop(waiting);
    }

    pub(crate) fn figures(&self) -> Figures {
        let queue = lock(&self.queue);
        Figures { waiting: queue.errands.len(), under_way: queue.under_way, done: queue.done }
    }
}
