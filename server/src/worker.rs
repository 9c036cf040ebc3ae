//! One core: a thread, its listener, its connections, its gates.
//!
//! Nothing here is shared with another core but the engine, and what [`Shared`] has.
//!
//! One turn of the loop:
//!
//! ```text
//!   poll the driver ─► run what came in ─► a few slices ─► run what is run together ─► write the log ─┐
//!         ▲                                                                                          ▼
//!         └──────────────────────────────────────────────────────── send, close ◄─ look at the gates
//! ```
//!
//! 1. Replies of one turn leave in one send per connection: a pipeline is answered in one write.
//! 2. The loop sleeps in `poll` alone. What may change meanwhile wakes it: a socket, a gate (through
//!    the engine's futures), a lock that is free (`waits.rs`), shutdown and CLIENT KILL (through the same
//!    waker), and the earliest alarm of a connection.
//! 3. A turn is short: of wide reads (`walk.rs`) it runs [`SLICES`] slices, and what is long in other ways is
//!    run by helpers (`helpers.rs`).
//! 4. After a panic the thread ends, and with it the server: what was acknowledged is in the log.

use crate::acceptors::{Newcomer, Way};
use crate::connection::{Connection, Overdue, Work};
use crate::gates::{Gates, Opened, Place};
use crate::reactor::sealed::Sealed;
use crate::reactor::{Completion, Driver, Token};
use crate::session::Session;
use crate::shared::Shared;
use crate::terms::Limit;
use crate::together::{self, With};
use crate::waits::{LockWait, Wakeups};
use socket2::{SockRef, TcpKeepalive};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long a command that is to be tried again waits.
const RETRY: Duration = Duration::from_millis(1);
/// How long accepting rests when there are no file descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Slices of wide reads in one turn.
const SLICES: usize = 4;
/// How often idle transactions are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long clients have to take their last replies when the server stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// A write to the log that took longer than this was no copy into memory: the disk has more to do than it
/// can. For so long the core leaves writing to the log's own thread then, and serves who only reads.
const LOG_WRITE_MAX: Duration = Duration::from_millis(20);
const LOG_WRITE_REST: Duration = Duration::from_secs(1);

/// How long a connection may be silent before the kernel asks whether anybody is there.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(300);

struct Slot {
    generation: u32,
    connection: Option<Box<Connection>>,
}

/// The state of a core that its completions act on.
struct State {
    shared: Arc<Shared>,
    core: usize,
    gates: Gates,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Sockets that were accepted during this turn.
    newcomers: Vec<Newcomer>,
    /// Connections to look after at the end of this turn.
    dirty: Vec<Token>,
    /// Connections with a command that is run together with those of others.
    together: Vec<Token>,
    /// Connections with a command that is to be tried again before long.
    parked: Vec<Token>,
    /// When those are tried again.
    retry_at: Option<Instant>,
    /// Connections whose wide read waits for its turn.
    walking: VecDeque<Token>,
    /// Those that time brings something to, the earliest first.
    alarms: BTreeSet<(Instant, Token)>,
    /// Those that were woken, because a lock is free.
    wakeups: Arc<Wakeups>,
    opened: Vec<Opened>,
    now_ms: u64,
    /// Set while accepting rests.
    accept_at: Option<Instant>,
    /// Until when the core does not write to the log.
    log_rests_until: Option<Instant>,
    woken: bool,
}

/// A core: its driver and its state.
pub(crate) struct Worker<D> {
    driver: Sealed<D>,
    state: State,
    sweep_at: Instant,
    /// Set once the server is stopping.
    stop_by: Option<Instant>,
}

impl<D: Driver> Worker<D> {
    pub(crate) fn new(driver: D, shared: Arc<Shared>, core: usize, waker: Waker) -> Worker<D> {
        let state = State {
            core,
            wakeups: Wakeups::new(waker.clone()),
            alarms: BTreeSet::new(),
            gates: Gates::new(waker),
            slots: Vec::new(),
            free: Vec::new(),
            newcomers: Vec::new(),
            dirty: Vec::new(),
            together: Vec::new(),
            parked: Vec::new(),
            retry_at: None,
            walking: VecDeque::new(),
            opened: Vec::new(),
            now_ms: shared.now_ms(),
            accept_at: None,
            log_rests_until: None,
            woken: false,
            shared,
        };
        Worker {
            driver: Sealed::new(driver),
            state,
            sweep_at: Instant::now() + SWEEP,
            stop_by: None,
        }
    }

    /// Runs until the server stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        self.driver.accept(true)?;
        loop {
            let timeout = self.timeout();
            let state = &mut self.state;
            self.driver.poll(timeout, &mut |completion| state.visit(completion))?;
            self.timers()?;
            self.state.retry_parked();
            self.state.walk_on();
            self.state.look_at_gates();
            self.welcome();
            self.settle();
            if self.is_over()? {
                return Ok(());
            }
        }
    }

    /// How long the next wait may last.
    fn timeout(&self) -> Option<Duration> {
        let state = &self.state;
        if !state.walking.is_empty() {
            return Some(Duration::ZERO);
        }
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let soon = state.retry_at.map_or(SWEEP, until);
        let rest = state.accept_at.map_or(SWEEP, until);
        let stop = self.stop_by.map_or(SWEEP, until);
        let alarm = state.alarms.first().map_or(SWEEP, |(at, _)| until(*at));
        Some(soon.min(rest).min(stop).min(alarm))
    }

    /// What time has brought.
    fn timers(&mut self) -> io::Result<()> {
        let now = Instant::now();
        self.state.now_ms = self.state.shared.now_ms();
        if self.state.accept_at.is_some_and(|at| at <= now) {
            self.state.accept_at = None;
            if self.stop_by.is_none() {
                self.driver.accept(true)?;
            }
        }
        self.state.ring_alarms(now);
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP;
            self.state.expire_transactions();
            self.state.close_unproven(now);
            self.state.close_overdue(now);
        }
        Ok(())
    }

    /// Takes new connections in.
    fn welcome(&mut self) {
        for newcomer in std::mem::take(&mut self.state.newcomers) {
            if self.stop_by.is_some() {
                continue;
            }
            if let Err(error) = self.welcome_one(newcomer) {
                tracing::debug!(%error, "a client went before it was taken in");
            }
        }
    }

    fn welcome_one(&mut self, Newcomer { socket, way }: Newcomer) -> io::Result<()> {
        let (socket, peer, local) = match way {
            Way::Unix => {
                let path = self.state.shared.unix_socket.as_deref().unwrap_or(Path::new(""));
                let name = format!("{}:0", path.display());
                (socket, name.clone(), name)
            }
            Way::Tcp | Way::Tls => introduce(socket)?,
        };
        let tls = match (&self.state.shared.tls, way) {
            (Some((acceptor, _)), Way::Tls) => Some(acceptor.begin().map_err(io::Error::other)?),
            _ => None,
        };
        let state = &mut self.state;
        let Some(client) =
            state.shared.clients.enter(peer, local, state.now_ms, state.shared.clients_max)
        else {
            if let Some(counters) = state.shared.counters.get(state.core) {
                counters.refused.add(1);
            }
            // The socket is new: its buffer takes this, or the client does not get to know.
            let farewell = b"-ERR max number of clients reached\r\n";
            if tls.is_none() {
                let _ = rustix::net::send(&socket, farewell, rustix::net::SendFlags::DONTWAIT);
            }
            return Ok(());
        };
        let slot = state.free.pop().unwrap_or_else(|| {
            state.slots.push(Slot { generation: 0, connection: None });
            state.slots.len() - 1
        });
        let Some(place) = state.slots.get_mut(slot) else { return Ok(()) };
        let token = Token::new(slot, place.generation);
        let id = client.id;
        let adopted = match tls {
            Some(tls) => self.driver.adopt_sealed(token, socket, tls),
            None => self.driver.adopt(token, socket),
        };
        if let Err(error) = adopted {
            state.free.push(slot);
            state.shared.clients.leave(id);
            return Err(error);
        }
        let wait = LockWait::new(token, client.clone(), state.wakeups.clone());
        let mut session = Session::new(client, wait);
        session.look_at_users(&state.shared);
        place.connection = Some(Box::new(Connection::new(token, session)));
        Ok(())
    }

    /// Sends what may be sent, pauses and resumes receiving, closes what is over.
    fn settle(&mut self) {
        let mut dirty = std::mem::take(&mut self.state.dirty);
        for token in dirty.drain(..) {
            let Some(connection) = self.state.connection(token) else { continue };
            connection.dirty = false;
            if let Some(buffer) = connection.next_send() {
                let bytes = buffer.len() as u64;
                self.driver.send(token, buffer);
                if let Some(counters) = self.state.shared.counters.get(self.state.core) {
                    counters.sent_bytes.add(bytes);
                }
            }
            let State { shared, core, slots, .. } = &mut self.state;
            let Some(connection) = find(slots, token) else { continue };
            if connection.has_too_much(&shared.limits) {
                let_go(shared, *core, connection, Overdue::Output);
            }
            let wants = connection.wants_to_receive();
            if wants != connection.receiving {
                connection.receiving = wants;
                self.driver.receive(token, wants);
            }
            if connection.is_over() {
                self.driver.close(token);
                self.state.forget(token);
            }
        }
        // Its capacity is used again; `settle` itself adds nothing.
        self.state.dirty = dirty;
    }

    /// The end: stop accepting, finish what is in hand, leave.
    fn is_over(&mut self) -> io::Result<bool> {
        if !self.state.shared.stopping() {
            return Ok(false);
        }
        let now = Instant::now();
        let stop_by = match self.stop_by {
            Some(at) => at,
            None => {
                self.driver.accept(false)?;
                self.state.each(|connection| connection.close_soon());
                self.settle();
                *self.stop_by.insert(now + FAREWELL)
            }
        };
        let left = self.state.slots.iter().any(|slot| slot.connection.is_some());
        Ok(!left || now >= stop_by)
    }
}

/// The connection that a token names, if it is still there.
fn find(slots: &mut [Slot], token: Token) -> Option<&mut Connection> {
    let connection = slots.get_mut(token.slot())?.connection.as_deref_mut()?;
    (connection.token == token).then_some(connection)
}

/// Ends a connection that takes too much.
fn let_go(shared: &Shared, core: usize, connection: &mut Connection, why: Overdue) {
    let peer = &connection.session.client.peer;
    let output = connection.output_bytes();
    let counters = shared.counters.get(core);
    match why {
        Overdue::Idle => tracing::debug!(%peer, "closed: nothing was heard of it for `timeout`"),
        Overdue::Output => {
            tracing::warn!(%peer, output, "closed: it does not read (client-output-buffer-limit)");
        }
    }
    if let Some(counters) = counters {
        match why {
            Overdue::Idle => counters.idle_closed.add(1),
            Overdue::Output => counters.output_closed.add(1),
        }
    }
    connection.broken();
}

/// A TCP connection, and its two ends.
fn introduce(socket: OwnedFd) -> io::Result<(OwnedFd, String, String)> {
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    // A client that has vanished without a word is noticed after a while.
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    let (peer, local) = (stream.peer_addr()?.to_string(), stream.local_addr()?.to_string());
    Ok((stream.into(), peer, local))
}

impl State {
    fn connection(&mut self, token: Token) -> Option<&mut Connection> {
        find(&mut self.slots, token)
    }

    /// Runs `act` on a connection, and has it looked after at the end of the turn.
    fn with(&mut self, token: Token, act: impl FnOnce(&mut Connection, &mut Work<'_>)) {
        let Some(slot) = self.slots.get_mut(token.slot()) else { return };
        let Some(connection) = slot.connection.as_deref_mut() else { return };
        if connection.token != token {
            return;
        }
        let mut work = Work {
            shared: &self.shared,
            core: self.core,
            gates: &mut self.gates,
            together: &mut self.together,
            now_ms: self.now_ms,
        };
        act(connection, &mut work);
        if connection.tries_soon() {
            self.parked.push(token);
            self.retry_at.get_or_insert_with(|| Instant::now() + RETRY);
        }
        if connection.walks() && !connection.in_line {
            connection.in_line = true;
            self.walking.push_back(token);
        }
        let alarm = connection.alarm();
        if alarm != connection.alarm_noted {
            if let Some(at) = std::mem::replace(&mut connection.alarm_noted, alarm) {
                self.alarms.remove(&(at, token));
            }
            self.alarms.extend(alarm.map(|at| (at, token)));
        }
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(token);
        }
    }

    /// Runs `act` on every connection.
    fn each(&mut self, mut act: impl FnMut(&mut Connection)) {
        let tokens: Vec<Token> = self
            .slots
            .iter()
            .filter_map(|slot| slot.connection.as_ref().map(|connection| connection.token))
            .collect();
        tokens.into_iter().for_each(|token| self.with(token, |connection, _| act(connection)));
    }

    /// Something has happened.
    fn visit(&mut self, completion: Completion<'_>) {
        match completion {
            Completion::Accepted(socket) => {
                self.newcomers.push(Newcomer { socket, way: Way::Tcp });
            }
            Completion::AcceptFailed(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                self.accept_at = Some(Instant::now() + ACCEPT_REST);
            }
            Completion::Received(token, bytes) => {
                if let Some(counters) = self.shared.counters.get(self.core) {
                    counters.received_bytes.add(bytes.len() as u64);
                }
                self.with(token, |connection, work| connection.received(bytes, work));
            }
            Completion::Ended(token) => self.with(token, |connection, _| connection.ended()),
            Completion::Broken(token) => self.with(token, |connection, _| connection.broken()),
            Completion::Sent(token, buffer) => self.with(token, |connection, work| {
                connection.sent(buffer);
                if connection.wants_to_run() {
                    connection.go_on(work);
                }
            }),
            Completion::Woken => self.woken = true,
        }
    }

    /// Tries again what could not run.
    fn retry_parked(&mut self) {
        if self.retry_at.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.retry_at = None;
        for token in std::mem::take(&mut self.parked) {
            self.with(token, |connection, work| {
                if connection.tries_soon() {
                    connection.go_on(work);
                }
            });
        }
        // A connection may have been noted twice: once by itself, once by more input.
        self.parked.sort_unstable();
        self.parked.dedup();
    }

    /// Goes on with some of the wide reads, in turn.
    fn walk_on(&mut self) {
        for _ in 0..SLICES.min(self.walking.len()) {
            let Some(token) = self.walking.pop_front() else { return };
            if let Some(connection) = self.connection(token) {
                connection.in_line = false;
            }
            self.with(token, |connection, work| {
                if connection.walks() {
                    connection.go_on(work);
                }
            });
        }
    }

    /// Releases the replies whose gates have opened.
    fn look_at_gates(&mut self) {
        if std::mem::take(&mut self.woken) {
            self.each_killed();
            for returned in self.shared.helpers.returned(self.core) {
                let token = returned.token;
                self.with(token, |connection, work| connection.returned(returned, work));
            }
            self.look_at_locks();
            self.newcomers.extend(self.shared.take_over(self.core));
        }
        loop {
            self.run_together();
            self.write_log();
            let mut opened = std::mem::take(&mut self.opened);
            self.gates.drive(&mut opened);
            let any = !opened.is_empty();
            for Opened { marks, outcome } in opened.drain(..) {
                for Place { token, mark } in marks {
                    self.with(token, |connection, work| {
                        connection.opened(mark, &outcome);
                        if connection.wants_to_run() {
                            connection.go_on(work);
                        }
                    });
                }
            }
            self.opened = opened;
            // Commands that were held up by a full queue of marks may have made new gates.
            if !any {
                return;
            }
        }
    }

    /// Runs the commands that are run together.
    fn run_together(&mut self) {
        if self.together.is_empty() {
            return;
        }
        let (shared, core) = (self.shared.clone(), self.core);
        while !self.together.is_empty() {
            let mut tokens = std::mem::take(&mut self.together);
            let mut from = 0;
            while from < tokens.len() {
                let with: &mut With<'_> = &mut |token, act| self.with(token, act);
                from += together::run(&tokens[from..], &shared, core, with);
            }
            if self.together.is_empty() {
                // Its capacity is used again.
                tokens.clear();
                self.together = tokens;
                return;
            }
        }
    }

    /// Writes what this turn's commands have committed, if the kernel is all that it has to get to.
    fn write_log(&mut self) {
        if !self.gates.wait_for_kernel() {
            return;
        }
        let began = Instant::now();
        if self.log_rests_until.is_some_and(|until| began < until) {
            return;
        }
        self.log_rests_until = None;
        self.shared.database.write_to_kernel();
        if began.elapsed() > LOG_WRITE_MAX {
            self.log_rests_until = Some(began + LOG_WRITE_REST);
        }
    }

    /// Goes on with the commands whose locks may be free.
    fn look_at_locks(&mut self) {
        for token in self.wakeups.take() {
            self.with(token, |connection, work| {
                if connection.waits_for_lock() {
                    connection.go_on(work);
                }
            });
        }
    }

    /// Tells the connections whose time has come.
    fn ring_alarms(&mut self, now: Instant) {
        while let Some((at, token)) = self.alarms.first().copied()
            && at <= now
        {
            self.alarms.pop_first();
            if let Some(connection) = self.connection(token) {
                connection.alarm_noted = None;
            }
            self.with(token, |connection, work| connection.ring(now, work));
        }
    }

    /// Closes the connections that CLIENT KILL has named.
    fn each_killed(&mut self) {
        let killed: Vec<Token> = self
            .slots
            .iter()
            .filter_map(|slot| slot.connection.as_ref())
            .filter(|connection| connection.session.client.killed())
            .map(|connection| connection.token)
            .collect();
        killed.into_iter().for_each(|token| {
            self.with(token, |connection, _| connection.close_soon());
        });
    }

    /// Rolls back transactions that have been idle for too long: a forgotten one would hold history.
    fn expire_transactions(&mut self) {
        let Some(limit) = self.shared.defaults.limit(Limit::Idle) else { return };
        for slot in &mut self.slots {
            if let Some(connection) = &mut slot.connection {
                connection.expire_transaction(limit);
            }
        }
    }

    /// Closes the connections whose clients have not said who they are in time.
    fn close_unproven(&mut self, now: Instant) {
        let late: Vec<Token> = self
            .slots
            .iter()
            .filter_map(|slot| slot.connection.as_ref())
            .filter(|connection| connection.is_unproven_at(now))
            .map(|connection| connection.token)
            .collect();
        late.into_iter().for_each(|token| {
            self.with(token, |connection, _| connection.broken());
        });
    }

    /// Closes the connections whose clients are silent, or do not read, for too long.
    fn close_overdue(&mut self, now: Instant) {
        let (shared, core, now_ms) = (self.shared.clone(), self.core, self.now_ms);
        let connections = self.slots.iter().filter_map(|slot| slot.connection.as_ref());
        let overdue: Vec<(Token, Overdue)> = connections
            .filter_map(|one| Some((one.token, one.overdue(&shared.limits, now, now_ms)?)))
            .collect();
        for (token, why) in overdue {
            self.with(token, |connection, _| let_go(&shared, core, connection, why));
        }
    }

    /// A connection is closed: its slot is free, and its transaction rolled back.
    fn forget(&mut self, token: Token) {
        let Some(slot) = self.slots.get_mut(token.slot()) else { return };
        if let Some(connection) = slot.connection.take() {
            if let Some(at) = connection.alarm_noted {
                self.alarms.remove(&(at, token));
            }
            self.shared.clients.leave(connection.session.client.id);
        }
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(token.slot());
    }
}
