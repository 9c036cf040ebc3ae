//! One socket's state machine: bytes in, commands run, replies out in order.
//!
//! ```text
//!   received ──► input ──► parser ──► session ──► out ──► (released prefix) ──► driver
//!                                                  ▲
//!                                       marks: replies that wait for a gate
//! ```
//!
//! 1. Replies leave in the order of their commands: a reply that waits holds back what follows it.
//! 2. A reply that tells of a commit leaves only after its gate has opened; if the gate fails, the
//!    error takes its place.
//! 3. Bounds: while more than [`OUTPUT_BYTES_PAUSE`] of output or [`MARKS_MAX`] waiting replies are
//!    there, no further command of this connection runs and nothing is received from it. So a client
//!    that does not read is slowed down by its own socket, and holds one reply at most beyond that.
//! 4. An idle connection holds no buffer.
//! 5. A write that is the last of what has come in is not run at once, but before the turn ends, together
//!    with those of other connections (`together.rs`); until then it stays at the front of `input`.
//! 6. A command that is to be tried again stays where it is, at the front of `input`; what comes after
//!    it waits in order. While it waits for a lock, for a helper or for its next turn, a little more is
//!    received, so that the end of a client is noticed: its locks are not to be waited for by others.
//! 7. While a helper has the session (`helpers.rs`), `session` is a stand-in, and nothing is run.

use crate::batch::{Batch, BatchEnd};
use crate::commands::{self, Spec};
use crate::execute::{Flow, Later, Try};
use crate::failure;
use crate::gates::Gates;
use crate::helpers::Answer;
use crate::limits::Limit;
use crate::reactor::Token;
use crate::resp::{Parser, Reply, Step};
use crate::session::{Mode, Replies, Session};
use crate::shared::{Counter, Counters, Shared};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Output that is waiting for the client to read, or for its gates, before commands stop.
pub(crate) const OUTPUT_BYTES_PAUSE: usize = 1024 * 1024;
/// Replies that are waiting for their gates before commands stop.
pub(crate) const MARKS_MAX: usize = 1024;
/// How long a command waits for room in the log before the client is told `STALLED`: as long as the
/// engine lets a thread wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// What a client is told whose write would wait behind too many others for the disk.
const OVERLOADED: &str =
    "BUSY retry=after:100 too many replies wait for the disk already; nothing was done";
/// How often a batch that conflicts is run again before its commands are run one by one.
pub(crate) const BATCH_RUNS: u32 = 4;
/// Input that is taken in behind a command that waits for a lock.
const PARKED_INPUT_BYTES: usize = 64 * 1024;
/// What a client may do before it has proven who it is: so long, so many bytes of a request, so many of
/// replies that it does not read. As much as Redis allows.
const UNPROVEN_TIME: Duration = Duration::from_secs(10);
const UNPROVEN_INPUT_BYTES: usize = 16 * 1024;
const UNPROVEN_OUTPUT_BYTES: usize = 1024;
/// Buffers up to this size are kept for the next use.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

/// A reply (or several in a row) that waits for a gate. Places are counted from the first byte that
/// the connection ever sent.
struct Mark {
    start: u64,
    end: u64,
    /// How many replies lie between.
    replies: u32,
    at: isolith::Timestamp,
    open: bool,
}

/// A batch that has failed: nothing was done.
struct Abandoned {
    /// How far it had come.
    bytes: usize,
    /// It met another transaction.
    conflict: bool,
}

/// A command that is to be tried again.
struct Parked {
    why: Later,
    since: Instant,
}

/// What a connection works with, besides itself.
pub(crate) struct Work<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) core: usize,
    pub(crate) gates: &'a mut Gates,
    /// Those whose front command is to be run together, at the end of the turn (`together.rs`).
    pub(crate) together: &'a mut Vec<Token>,
    /// Unix milliseconds, as of the last wait: for figures, not for expiry.
    pub(crate) now_ms: u64,
}

/// One client.
pub(crate) struct Connection {
    pub(crate) token: Token,
    pub(crate) session: Session,
    /// Received and not consumed: at most one command that is not whole, unless commands pause.
    input: Vec<u8>,
    parser: Parser,
    /// Written and not handed to the driver.
    out: Vec<u8>,
    /// The place of `out`'s first byte.
    out_start: u64,
    marks: VecDeque<Mark>,
    /// The number of `marks`' first element.
    marks_start: u64,
    parked: Option<Parked>,
    /// What a helper has made of the front command.
    answer: Option<Answer>,
    /// The front command's reply has begun, and what there is of it is at the end of `out`.
    begun: bool,
    /// How long the front command has run in earlier slices.
    spent: Duration,
    /// It is in the core's line of those that walk.
    pub(crate) in_line: bool,
    /// The front command, which is run together with those of others before this turn ends.
    joins: Option<&'static Spec>,
    /// The front command is to be run by itself: together with others it came to nothing.
    alone: bool,
    /// A buffer is with the driver, of so many bytes.
    sending: Option<usize>,
    /// Since when there is more output than the soft limit allows.
    soft_since: Option<Instant>,
    /// When the client was last heard of, in Unix milliseconds; 0: not yet.
    heard_ms: u64,
    /// Receiving is on.
    pub(crate) receiving: bool,
    /// The peer sends no more.
    ended: bool,
    /// Since when there is this connection.
    since: Instant,
    /// Close when everything is sent.
    closing: bool,
    broken: bool,
    /// Already in the core's list of connections to look after.
    pub(crate) dirty: bool,
    /// What the core has noted of [`alarm`](Connection::alarm).
    pub(crate) alarm_noted: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(token: Token, session: Session) -> Connection {
        Connection {
            token,
            session,
            input: Vec::new(),
            parser: Parser::new(),
            out: Vec::new(),
            out_start: 0,
            marks: VecDeque::new(),
            marks_start: 0,
            parked: None,
            answer: None,
            begun: false,
            spent: Duration::ZERO,
            in_line: false,
            joins: None,
            alone: false,
            sending: None,
            soft_since: None,
            heard_ms: 0,
            receiving: true,
            ended: false,
            since: Instant::now(),
            closing: false,
            broken: false,
            dirty: false,
            alarm_noted: None,
        }
    }

    /// Takes what has come in and runs what is whole.
    pub(crate) fn received(&mut self, bytes: &[u8], work: &mut Work<'_>) {
        if self.closing {
            return;
        }
        self.heard_ms = work.now_ms;
        if self.stands_aside() || self.joins.is_some() {
            self.input.extend_from_slice(bytes);
        } else if self.input.is_empty() {
            // The usual case: commands are parsed where they were received.
            let taken = self.run(bytes, work);
            if !self.closing {
                self.input.extend_from_slice(&bytes[taken..]);
            }
        } else {
            self.input.extend_from_slice(bytes);
            self.go_on(work);
        }
        if self.input.len() as u64 > work.shared.limits.value(Limit::Request) && !self.closing {
            self.refuse("ERR Protocol error: request larger than client-query-buffer-limit");
        }
        if !self.session.is_proven() {
            if self.input.len() > UNPROVEN_INPUT_BYTES && !self.closing {
                self.refuse("ERR Protocol error: unauthenticated request too large");
            }
            self.broken |= self.out.len() > UNPROVEN_OUTPUT_BYTES;
        }
    }

    /// Runs what is whole in `input`: after a pause, or when a parked command may try again.
    pub(crate) fn go_on(&mut self, work: &mut Work<'_>) {
        let mut input = std::mem::take(&mut self.input);
        let taken = self.run(&input, work);
        if self.closing || taken == input.len() {
            return;
        }
        input.drain(..taken);
        if input.len() < input.capacity() / 4 {
            input.shrink_to(2 * input.len());
        }
        self.input = input;
    }

    /// True if commands may run.
    fn may_run(&self) -> bool {
        !self.closing
            && !self.broken
            && self.out.len() < OUTPUT_BYTES_PAUSE
            && self.marks.len() < MARKS_MAX
    }

    /// True if there is something to run that could not run before.
    pub(crate) fn wants_to_run(&self) -> bool {
        !self.input.is_empty() && self.may_run() && self.is_there() && self.joins.is_none()
    }

    /// True if a command is to be tried again before long.
    pub(crate) fn tries_soon(&self) -> bool {
        self.parked.is_some() && !self.stands_aside()
    }

    /// True if something else than time brings the front command on: a lock, a helper, its turn.
    fn stands_aside(&self) -> bool {
        let why = self.parked.as_ref().map(|parked| parked.why);
        matches!(why, Some(Later::Locked(_) | Later::Away | Later::Walking))
    }

    /// True if the front command is a walk that waits for its turn.
    pub(crate) fn walks(&self) -> bool {
        matches!(&self.parked, Some(Parked { why: Later::Walking, .. }))
    }

    /// True if a helper has the front command.
    pub(super) fn is_away(&self) -> bool {
        matches!(&self.parked, Some(Parked { why: Later::Away, .. }))
    }

    /// True if a command waits for a lock: it is run again when this connection is woken, or by its
    /// [`alarm`](Connection::alarm).
    pub(crate) fn waits_for_lock(&self) -> bool {
        matches!(&self.parked, Some(Parked { why: Later::Locked(_), .. }))
    }

    /// When time alone brings something about: a wait for a lock is over, or an open transaction.
    pub(crate) fn alarm(&self) -> Option<Instant> {
        match (&self.parked, &self.session.mode) {
            (Some(Parked { why: Later::Locked(until), .. }), _) => *until,
            (None, Mode::Open(open)) => open.deadline,
            _ => None,
        }
    }

    /// The alarm's time has come.
    pub(crate) fn ring(&mut self, now: Instant, work: &mut Work<'_>) {
        if self.waits_for_lock() {
            self.go_on(work);
        } else if let Mode::Open(open) = &self.session.mode
            && open.deadline.is_some_and(|deadline| deadline <= now)
        {
            let error = isolith::Error::TransactionTimeout;
            let hint = failure::hint(&error, open.age());
            self.session.abort(hint, "the transaction lasted longer than it may");
        }
    }

    /// False while a helper has the session: then nothing may be run.
    fn is_there(&self) -> bool {
        !self.is_away() || self.answer.is_some()
    }

    /// Counts one more.
    fn count(&self, work: &Work<'_>, figure: fn(&Counters) -> &Counter) {
        if let Some(counters) = work.shared.counters.get(work.core) {
            figure(counters).add(1);
        }
    }

    /// Runs whole commands from the front of `input`; returns how many bytes they took.
    fn run(&mut self, input: &[u8], work: &mut Work<'_>) -> usize {
        if !self.is_there() {
            return 0;
        }
        let parked = self.parked.take();
        let this = Try {
            shared: work.shared,
            core: work.core,
            patient: parked.as_ref().is_none_or(|parked| {
                parked.why != Later::Stalled || parked.since.elapsed() < PATIENCE
            }),
        };
        let (mut at, mut commands) = (0, 0);
        // Up to here commands run one by one: a batch of them has failed.
        let alone = std::mem::take(&mut self.alone) || parked.is_some();
        let mut singly_until = usize::from(alone);
        let mut batch_runs = 0;
        self.session.look_at_users(work.shared);
        self.parser.allow(&work.shared.limits);
        while self.may_run() {
            self.parser.trust(self.session.is_proven());
            match self.parser.parse(&input[at..]) {
                Ok(Step::Ready) => {}
                Ok(Step::Incomplete) => {
                    if self.parser.idle() {
                        at += self.parser.finish();
                    }
                    break;
                }
                Err(error) => {
                    self.count(work, |counters| &counters.protocol_errors);
                    self.refuse(&format!("ERR Protocol error: {error}"));
                    at = input.len();
                    break;
                }
            }
            let found = commands::find(self.parser.args(&input[at..]));
            if at >= singly_until
                && self.answer.is_none()
                && work.gates.has_room()
                && let Ok(spec) = &found
                && self.parser.is_last(&input[at..])
                && Batch::may_begin(&mut self.session, work.shared, spec)
                && !self.is_errand(spec, &input[at..], work)
            {
                self.joins = Some(spec);
                work.together.push(self.token);
                break;
            }
            if at >= singly_until
                && self.answer.is_none()
                && work.gates.has_room()
                && let Ok(first) = &found
                && let Some(end) = self.batch(first, &input[at..], this, work)
            {
                match end {
                    Ok((taken, run)) => {
                        at += taken;
                        commands += u64::from(run);
                        batch_runs = 0;
                    }
                    Err(Abandoned { conflict: true, .. }) if batch_runs < BATCH_RUNS => {
                        batch_runs += 1;
                    }
                    Err(tried) => {
                        singly_until = at + tried.bytes;
                        batch_runs = 0;
                    }
                }
                continue;
            }
            let before = self.out.len();
            let flow = self.run_one(found, &input[at..], this, work);
            match flow {
                Flow::Done => {}
                Flow::Gate(gate) => self.hold(gate, before, 1, work),
                Flow::Seen(observed) => self.hold_seen(observed, before, work),
                Flow::Close => self.closing = true,
                Flow::More(observed) => {
                    self.hold_seen(observed, before, work);
                    self.begun |= self.out.len() > before;
                    self.parked = Some(Parked { why: Later::Walking, since: Instant::now() });
                    break;
                }
                Flow::Later(why) => {
                    let since = match parked {
                        Some(parked) if commands == 0 && parked.why.is_like(why) => parked.since,
                        _ => Instant::now(),
                    };
                    self.out.truncate(before);
                    self.parked = Some(Parked { why, since });
                    break;
                }
            }
            self.begun = false;
            at += self.parser.finish();
            commands += 1;
        }
        if commands > 0 {
            self.ran(commands, work);
        }
        at
    }

    /// Counts commands that were run.
    fn ran(&self, commands: u64, work: &Work<'_>) {
        self.session.client.note(work.now_ms, &self.session.situation());
        if let Some(counters) = work.shared.counters.get(work.core) {
            counters.commands.add(commands);
        }
    }

    /// Runs the front command, or goes on with it; its reply, as far as there is one, is in `out`.
    fn run_one(
        &mut self,
        found: Result<&'static Spec, String>,
        input: &[u8],
        this: Try<'_>,
        work: &mut Work<'_>,
    ) -> Flow {
        let (before, began) = (self.out.len(), Instant::now());
        let spec = found.as_ref().ok().copied();
        let answer = self.answer.take();
        let is_back = answer.is_some();
        let (mut flow, took) = match (answer, spec) {
            (Some(mut answer), _) => {
                match self.out.is_empty() && self.out.capacity() < answer.out.len() {
                    true => self.out = answer.out,
                    false => self.out.append(&mut answer.out),
                }
                (answer.flow, answer.took)
            }
            (None, Some(spec)) if !work.gates.has_room() && spec.may_commit() => {
                self.count(work, |counters| &counters.shed);
                Reply::new(&mut self.out, self.session.resp3).error(OVERLOADED);
                (Flow::Done, Duration::ZERO)
            }
            (None, Some(spec)) if self.is_errand(spec, input, work) => {
                (Flow::Later(Later::Elsewhere), Duration::ZERO)
            }
            (None, _) => {
                let args = self.parser.args(input);
                let flow = self.session.execute(this, found, args, &mut self.out);
                (flow, began.elapsed())
            }
        };
        debug_assert!(!is_back || !matches!(flow, Flow::Later(Later::Elsewhere)));
        if let (Flow::Later(Later::Elsewhere), Some(spec)) = (&flow, spec) {
            self.out.truncate(before);
            flow = self.send_away(spec, input, this, work);
        }
        let took = std::mem::take(&mut self.spent) + took;
        match flow {
            Flow::Later(_) => {}
            Flow::More(_) if self.session.replies == Replies::All => {
                self.count(work, |counters| &counters.slices);
                self.spent = took;
                return flow;
            }
            // Nobody wants to know.
            Flow::More(_) => self.session.walk = None,
            _ => {}
        }
        self.note_if_slow(took, spec, input, &flow, work);
        if !self.is_answered(&flow) {
            self.out.truncate(before);
            if !matches!(flow, Flow::Later(_) | Flow::Close) {
                flow = Flow::Done;
            }
        }
        flow
    }

    /// Whether the command that was just run is answered (CLIENT REPLY).
    fn is_answered(&mut self, flow: &Flow) -> bool {
        if matches!(flow, Flow::Later(_)) {
            return true;
        }
        match self.session.replies {
            Replies::All => true,
            Replies::None => false,
            Replies::NotThisAndNext => {
                self.session.replies = Replies::NotNext;
                false
            }
            Replies::NotNext => {
                self.session.replies = Replies::All;
                false
            }
        }
    }

    /// Notes what ran for long: SLOWLOG.
    fn note_if_slow(
        &self,
        took: Duration,
        spec: Option<&Spec>,
        input: &[u8],
        flow: &Flow,
        work: &Work<'_>,
    ) {
        let slowlog = &work.shared.slowlog;
        if slowlog.threshold() < 0 || matches!(flow, Flow::Later(_)) {
            return;
        }
        if slowlog.is_slow(took) && spec.is_some_and(|spec| !spec.is("secret")) {
            let args = self.parser.args(input);
            slowlog.note(work.shared.now_ms(), took, args, &self.session.client);
        }
    }

    /// Runs as many neighbouring commands as can be one transaction, if there is more than one.
    /// `None`: this is no place for a batch. `Ok`: how many bytes and commands it took. `Err`: nothing
    /// was done.
    fn batch(
        &mut self,
        first: &'static Spec,
        input: &[u8],
        this: Try<'_>,
        work: &mut Work<'_>,
    ) -> Option<Result<(usize, u32), Abandoned>> {
        if self.parser.is_last(input) || !Batch::may_begin(&mut self.session, this.shared, first) {
            return None;
        }
        let mut batch = Batch::begin(this.shared).ok()?;
        let before = self.out.len();
        let (mut at, mut next) = (0, Some(first));
        while let Some(spec) = next {
            let args = self.parser.args(&input[at..]);
            if batch.run(&mut self.session, this.shared, spec, args, &mut self.out).is_err() {
                return Some(Err(self.abandon(at, before, false)));
            }
            at += self.parser.finish();
            next = match self.parser.parse(&input[at..]) {
                Ok(Step::Ready) if self.out.len() - before < OUTPUT_BYTES_PAUSE => {
                    commands::find(self.parser.args(&input[at..]))
                        .ok()
                        .filter(|spec| batch.admits(spec))
                }
                // Not whole, or refused: `run` comes to it again, and says so.
                _ => None,
            };
        }
        let run = batch.commands;
        match batch.commit(this) {
            BatchEnd::Gate(gate) => {
                self.session.saw(gate.at);
                self.hold(gate, before, run, work);
            }
            BatchEnd::Unknown(error) => {
                self.out.truncate(before);
                let mut reply = Reply::new(&mut self.out, self.session.resp3);
                (0..run).for_each(|_| reply.error(&error));
            }
            BatchEnd::Conflict => return Some(Err(self.abandon(at, before, true))),
            BatchEnd::Refused => return Some(Err(self.abandon(at, before, false))),
        }
        Some(Ok((at, run)))
    }

    /// Takes a batch back that has come to `at`.
    fn abandon(&mut self, at: usize, before: usize, conflict: bool) -> Abandoned {
        self.out.truncate(before);
        let here = if self.parser.is_ready() { at + self.parser.finish() } else { at };
        self.parser.restart();
        Abandoned { bytes: here.max(1), conflict }
    }

    /// The last words to a client that does not speak the protocol.
    fn refuse(&mut self, text: &str) {
        Reply::new(&mut self.out, self.session.resp3).error(text);
        self.closing = true;
        self.joins = None;
        self.input = Vec::new();
    }

    /// The peer sends no more; what has come in is still run and answered.
    pub(crate) fn ended(&mut self) {
        self.ended = true;
        self.receiving = false;
    }

    /// Nothing can be sent or received any more.
    pub(crate) fn broken(&mut self) {
        self.broken = true;
    }

    /// Finish what has been run, then close (shutdown, CLIENT KILL).
    pub(crate) fn close_soon(&mut self) {
        self.closing = true;
        // What a helper has is in hand.
        if !self.is_away() {
            self.parked = None;
        }
        self.joins = None;
        self.input = Vec::new();
        // Now, not when the last reply has left: others may wait for its locks.
        self.session.end();
    }

    /// Whether to receive.
    pub(crate) fn wants_to_receive(&self) -> bool {
        let room = match &self.parked {
            None => true,
            Some(_) => self.stands_aside() && self.input.len() < PARKED_INPUT_BYTES,
        };
        !self.ended && room && self.may_run()
    }

    /// True if nothing is left to do but to close.
    pub(crate) fn is_over(&self) -> bool {
        let empty = self.out.is_empty() && self.marks.is_empty() && self.sending.is_none();
        let idle = empty && !self.is_away();
        let ended = self.ended && (self.parked.is_none() || self.is_forsaken());
        self.broken || (idle && (self.closing || ended))
    }

    /// True if the peer has gone while a command of its transaction waits for a lock, and nothing is left
    /// that could commit it.
    fn is_forsaken(&self) -> bool {
        matches!(self.session.mode, Mode::Open(_))
            && self.waits_for_lock()
            && self.parser.is_last(&self.input)
    }

    /// True if its client should have proven by now who it is.
    pub(crate) fn is_unproven_at(&self, now: Instant) -> bool {
        !self.session.is_proven() && now.saturating_duration_since(self.since) >= UNPROVEN_TIME
    }

    /// Rolls an open transaction back that has not been used for too long.
    pub(crate) fn expire_transaction(&mut self, limit: Duration) {
        match &self.session.mode {
            // What waits is not idle.
            Mode::Open(_) if self.parked.is_some() || self.session.walk.is_some() => {}
            Mode::Open(open) if open.used.elapsed() >= limit => {
                let hint = failure::retry_now(open.age());
                let idle = format!("the transaction was idle for {}", show(limit));
                self.session.abort(hint, idle);
            }
            _ => {}
        }
    }
}

/// A time as a client reads it.
fn show(limit: Duration) -> String {
    match limit.as_millis() {
        millis if millis.is_multiple_of(1000) => format!("{} s", millis / 1000),
        millis => format!("{millis} ms"),
    }
}

mod away;
mod joining;
mod limits;
pub(crate) use limits::Overdue;
mod replies;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use joining::Joined;
