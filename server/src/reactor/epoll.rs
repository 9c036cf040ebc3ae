//! The epoll driver: level-triggered readiness, turned into completions.
//!
//! 1. One receive buffer per core: an idle connection holds no buffer at all.
//! 2. `send` writes at once; what does not fit waits for `EPOLLOUT`. A send that was over at once is
//!    reported by the next `poll`, without a system call of its own.
//! 3. A socket is watched for `EPOLLOUT` only while a send is under way, and for `EPOLLIN` only while
//!    receiving is on, so that level triggering never spins.

use super::waker::CoreWaker;
use super::{Completion, Driver, Token};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with, recv, send};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// What one receive takes at most.
const RECEIVE_BYTES: usize = 64 * 1024;
/// How many events one wait takes at most.
const EVENTS: usize = 256;
/// Connections accepted in a row before others get their turn.
const ACCEPTS: usize = 64;

const LISTENER: u64 = u64::MAX;
const WAKER: u64 = u64::MAX - 1;

struct Socket {
    token: Token,
    fd: OwnedFd,
    receiving: bool,
    /// The buffer being sent, and how much of it is.
    sending: Option<(Vec<u8>, usize)>,
    /// What epoll watches for at present.
    watched: EventFlags,
}

enum Finished {
    Sent(Token, Vec<u8>),
    Broken(Token),
}

/// One core's epoll instance with its sockets.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    waker: Arc<CoreWaker>,
    listener: Option<TcpListener>,
    accepting: bool,
    /// By [`Token::slot`].
    sockets: Vec<Option<Socket>>,
    /// Completions of sends that were over at once.
    finished: Vec<Finished>,
    events: Vec<Event>,
    received: Vec<u8>,
}

impl Epoll {
    pub(crate) fn new(listener: TcpListener, waker: Arc<CoreWaker>) -> io::Result<Epoll> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, waker.fd(), EventData::new_u64(WAKER), EventFlags::IN)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::empty())?;
        listener.set_nonblocking(true)?;
        Ok(Epoll {
            epoll,
            waker,
            listener: Some(listener),
            accepting: false,
            sockets: Vec::new(),
            finished: Vec::new(),
            events: Vec::with_capacity(EVENTS),
            received: vec![0; RECEIVE_BYTES],
        })
    }

    fn socket(&mut self, token: Token) -> Option<&mut Socket> {
        self.sockets.get_mut(token.slot())?.as_mut().filter(|socket| socket.token == token)
    }

    /// Accepts what is waiting.
    fn accept_all(&mut self, visit: &mut dyn FnMut(Completion<'_>)) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listener.as_ref().filter(|_| self.accepting) else {
                return Ok(());
            };
            match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, _)) => visit(Completion::Accepted(socket)),
                Err(Errno::AGAIN) => return Ok(()),
                // The client has gone again: nothing to do with us.
                Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                Err(error) => {
                    self.accept(false)?;
                    visit(Completion::AcceptFailed(error.into()));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One readiness event of a connection.
    fn ready(&mut self, token: u64, flags: EventFlags, visit: &mut dyn FnMut(Completion<'_>)) {
        // Closed while this batch of events was being visited.
        let token = Token(token);
        let Some(Some(socket)) = self.sockets.get_mut(token.slot()) else { return };
        if socket.token != token {
            return;
        }
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        if socket.sending.is_some() && (broken || flags.contains(EventFlags::OUT)) {
            if let Some(finished) = socket.go_on(token) {
                visit(finished.completion());
            }
            watch(&self.epoll, socket);
        }
        if socket.receiving && (broken || flags.contains(EventFlags::IN)) {
            match recv(&socket.fd, &mut self.received[..], RecvFlags::empty()) {
                Ok((_, 0)) => {
                    socket.receiving = false;
                    watch(&self.epoll, socket);
                    visit(Completion::Ended(token));
                }
                Ok((_, bytes)) => {
                    visit(Completion::Received(token, &self.received[..bytes]));
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => visit(Completion::Broken(token)),
            }
        } else if broken {
            visit(Completion::Broken(token));
        }
    }
}

impl Driver for Epoll {
    fn adopt(&mut self, token: Token, fd: OwnedFd) -> io::Result<()> {
        let watched = EventFlags::IN;
        epoll::add(&self.epoll, &fd, EventData::new_u64(token.0), watched)?;
        if self.sockets.len() <= token.slot() {
            self.sockets.resize_with(token.slot() + 1, || None);
        }
        self.sockets[token.slot()] =
            Some(Socket { token, fd, receiving: true, sending: None, watched });
        Ok(())
    }

    fn receive(&mut self, token: Token, on: bool) {
        if let Some(Some(socket)) = self.sockets.get_mut(token.slot())
            && socket.token == token
        {
            socket.receiving = on;
            watch(&self.epoll, socket);
        }
    }

    fn send(&mut self, token: Token, buffer: Vec<u8>) {
        let Some(Some(socket)) = self.sockets.get_mut(token.slot()) else { return };
        if socket.token != token {
            return;
        }
        debug_assert!(socket.sending.is_none(), "one send at a time");
        socket.sending = Some((buffer, 0));
        match socket.go_on(token) {
            Some(finished) => self.finished.push(finished),
            None => watch(&self.epoll, socket),
        }
    }

    fn close(&mut self, token: Token) {
        if self.socket(token).is_some()
            && let Some(socket) = self.sockets[token.slot()].take()
        {
            // It cannot fail: the descriptor is ours, and was added.
            let _ = epoll::delete(&self.epoll, &socket.fd);
        }
    }

    fn accept(&mut self, on: bool) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        self.accepting = on;
        let flags = if on { EventFlags::IN } else { EventFlags::empty() };
        epoll::modify(&self.epoll, listener, EventData::new_u64(LISTENER), flags)?;
        Ok(())
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        visit: &mut dyn FnMut(Completion<'_>),
    ) -> io::Result<()> {
        if !self.finished.is_empty() {
            let mut finished = std::mem::take(&mut self.finished);
            for finished in finished.drain(..) {
                let (Finished::Sent(token, _) | Finished::Broken(token)) = &finished;
                let token = *token;
                if self.socket(token).is_some() {
                    visit(finished.completion());
                }
            }
            self.finished = finished;
            return Ok(());
        }
        let timeout = timeout.map(|timeout| rustix::time::Timespec {
            tv_sec: timeout.as_secs().min(3600) as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        });
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut outcome = Ok(());
        for event in &events {
            match event.data.u64() {
                LISTENER => outcome = outcome.and(self.accept_all(visit)),
                WAKER => {
                    self.waker.take_note();
                    visit(Completion::Woken);
                }
                token => self.ready(token, event.flags, visit),
            }
        }
        self.events = events;
        outcome
    }
}

impl Finished {
    fn completion<'a>(self) -> Completion<'a> {
        match self {
            Finished::Sent(token, buffer) => Completion::Sent(token, buffer),
            Finished::Broken(token) => Completion::Broken(token),
        }
    }
}

impl Socket {
    /// Sends as much as the kernel takes. `None`: there is more, and `EPOLLOUT` will tell when.
    fn go_on(&mut self, token: Token) -> Option<Finished> {
        let (buffer, sent) = self.sending.as_mut()?;
        while let Some(rest) = buffer.get(*sent..).filter(|rest| !rest.is_empty()) {
            match send(&self.fd, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(bytes) => *sent += bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                Err(_) => {
                    self.sending = None;
                    return Some(Finished::Broken(token));
                }
            }
        }
        self.sending.take().map(|(buffer, _)| Finished::Sent(token, buffer))
    }
}

/// Tells epoll what a socket is to be watched for, if that has changed.
fn watch(epoll: &OwnedFd, socket: &mut Socket) {
    let mut wanted = EventFlags::empty();
    wanted.set(EventFlags::IN, socket.receiving);
    wanted.set(EventFlags::OUT, socket.sending.is_some());
    if wanted != socket.watched {
        socket.watched = wanted;
        // It cannot fail: the descriptor is ours and was added, and nothing is allocated.
        let data = EventData::new_u64(socket.token.0);
        let _ = epoll::modify(epoll, socket.fd.as_fd(), data, wanted);
    }
}
