//! The io_uring driver: one ring per core, entered once a turn.
//!
//! 1. A turn's sends, cancellations and new receives are handed over by the one system call that waits.
//! 2. Accepting and receiving go on by themselves (*multishot*); bytes arrive in buffers that the
//!    kernel picks out of a pool when it has some, so an idle connection holds none. What ends early
//!    (no buffer left, no room for a completion) is started again: by then the buffers are back.
//! 3. `receive(off)` cancels. What the kernel has taken from the socket by then is still told.
//! 4. A socket that is not received from is watched for being reset, as epoll does unasked.
//! 5. `close` cancels; the descriptor and a buffer being sent go when the kernel is done with them
//!    (`ring.rs`). Nothing is told of the token meanwhile, and its slot may be used again at once.

use super::waker::CoreWaker;
use super::{Completion, Driver, Token};
use ring::{Completing, Done, Op, Place, Sizes};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

mod buffers;
mod ring;

pub(crate) use ring::{Denied, Ring};

/// The sizes of a core's ring: 4 MiB to receive into, of which as much is memory as is used at once.
const SIZES: Sizes =
    Sizes { submissions: 256, completions: 4096, buffers: 256, buffer_bytes: 16 * 1024 };

struct Socket {
    token: Token,
    place: Place,
    /// Receiving is on.
    receiving: bool,
    /// The peer sends no more.
    ended: bool,
}

/// One core's ring with its sockets.
pub(crate) struct Uring {
    ring: Ring,
    waker: Arc<CoreWaker>,
    wake: Place,
    listener: Place,
    accepting: bool,
    /// By [`Token::slot`].
    sockets: Vec<Option<Socket>>,
    /// Sockets that were not received from when they were last looked at.
    quiet: Vec<Token>,
}

/// Makes a ring for each of `count` cores, after trying out whether io_uring does here what is needed
/// of it: each of its system calls, and each of its features, may be denied by itself.
pub(crate) fn rings(count: usize) -> Result<Vec<Ring>, Denied> {
    let completing = match attempt(Completing::Deferred) {
        Err(denied) if is_unknown(&denied) => {
            attempt(Completing::Cooperative)?;
            Completing::Cooperative
        }
        other => other.map(|()| Completing::Deferred)?,
    };
    (0..count).map(|_| Ring::new(SIZES, completing)).collect()
}

/// The kernel does not know the flags.
fn is_unknown(denied: &Denied) -> bool {
    Errno::from_io_error(&denied.error) == Some(Errno::INVAL)
}

/// Receives something through a ring, as the driver will.
fn attempt(completing: Completing) -> Result<(), Denied> {
    let mut ring = Ring::new(SIZES, completing)?;
    let denied = |error: io::Error| Denied { step: "io_uring_enter", error };
    let kind = (AddressFamily::UNIX, SocketType::STREAM);
    let (ours, theirs) = socketpair(kind.0, kind.1, SocketFlags::CLOEXEC, None)
        .map_err(|error| denied(error.into()))?;
    let place = ring.add(Token(0), ours);
    ring.receive(place);
    rustix::io::write(&theirs, b"?").map_err(|error| denied(error.into()))?;
    ring.wait(Some(Duration::from_secs(1))).map_err(denied)?;
    let refused = |error| Denied { step: "multishot receive", error };
    let done = ring.next().ok_or_else(|| refused(io::ErrorKind::TimedOut.into()))?;
    match (done.result, done.lent, done.over) {
        (Ok(1), Some(lent), false) if ring.bytes(&lent) == b"?" => {
            ring.give_back(lent);
            Ok(())
        }
        (Err(error), _, _) => Err(refused(error.into())),
        _ => Err(refused(io::ErrorKind::Unsupported.into())),
    }
}

impl Uring {
    pub(crate) fn new(
        mut ring: Ring,
        listener: TcpListener,
        waker: Arc<CoreWaker>,
    ) -> io::Result<Uring> {
        // Tokens of their own are not needed: their requests tell them apart.
        let listener = ring.add(Token(u64::MAX), listener.into());
        let wake = ring.add(Token(u64::MAX), waker.fd().try_clone_to_owned()?);
        ring.wake(wake);
        Ok(Uring {
            ring,
            waker,
            wake,
            listener,
            accepting: false,
            sockets: Vec::new(),
            quiet: Vec::new(),
        })
    }

    fn socket(&mut self, token: Token) -> Option<&mut Socket> {
        self.sockets.get_mut(token.slot())?.as_mut().filter(|socket| socket.token == token)
    }

    fn happened(&mut self, done: Done, visit: &mut dyn FnMut(Completion<'_>)) {
        match done.op {
            Op::Accept => self.accepted(done, visit),
            Op::Receive => self.received(done, visit),
            Op::Send => match (done.result, self.ring.sent(done.place)) {
                (Ok(_), Some(buffer)) => visit(Completion::Sent(done.token, buffer)),
                _ => visit(Completion::Broken(done.token)),
            },
            Op::Hangup => {
                let gone = u32::from((PollFlags::ERR | PollFlags::HUP).bits());
                if done.result.is_ok_and(|flags| flags & gone != 0) {
                    visit(Completion::Broken(done.token));
                }
            }
            Op::Wake => {
                done.lent.into_iter().for_each(|lent| self.ring.give_back(lent));
                self.waker.clear();
                visit(Completion::Woken);
                self.ring.wake(self.wake);
            }
        }
    }

    fn accepted(&mut self, done: Done, visit: &mut dyn FnMut(Completion<'_>)) {
        done.accepted.into_iter().for_each(|socket| visit(Completion::Accepted(socket)));
        if !done.over {
            return;
        }
        match done.result {
            Err(error) if self.accepting && !is_passing(error) => {
                self.accepting = false;
                visit(Completion::AcceptFailed(error.into()));
            }
            _ if self.accepting => self.ring.accept(self.listener),
            _ => {}
        }
    }

    fn received(&mut self, done: Done, visit: &mut dyn FnMut(Completion<'_>)) {
        if let Some(lent) = done.lent {
            if done.result.is_ok_and(|bytes| bytes > 0) {
                visit(Completion::Received(done.token, self.ring.bytes(&lent)));
            }
            self.ring.give_back(lent);
        }
        if !done.over {
            return;
        }
        let Some(socket) = self.socket(done.token) else { return };
        match done.result {
            Ok(0) => {
                (socket.receiving, socket.ended) = (false, true);
                self.quiet.push(done.token);
                visit(Completion::Ended(done.token));
            }
            // It ran out of buffers, or of room for completions, or was cancelled.
            Ok(_) | Err(Errno::NOBUFS | Errno::CANCELED | Errno::AGAIN | Errno::INTR) => {
                if socket.receiving {
                    self.ring.receive(done.place);
                }
            }
            Err(_) => visit(Completion::Broken(done.token)),
        }
    }

    /// Has an eye on the sockets that are not received from.
    fn watch_quiet(&mut self) {
        for token in std::mem::take(&mut self.quiet) {
            if let Some(socket) = self.socket(token).filter(|socket| !socket.receiving) {
                let place = socket.place;
                self.ring.hangup(place);
            }
        }
    }
}

/// True if accepting may go on after this: a client that has gone again, or a cancellation.
fn is_passing(error: Errno) -> bool {
    matches!(
        error,
        Errno::CANCELED | Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO
    )
}

impl Driver for Uring {
    fn adopt(&mut self, token: Token, socket: OwnedFd) -> io::Result<()> {
        let place = self.ring.add(token, socket);
        self.ring.receive(place);
        if self.sockets.len() <= token.slot() {
            self.sockets.resize_with(token.slot() + 1, || None);
        }
        self.sockets[token.slot()] = Some(Socket { token, place, receiving: true, ended: false });
        Ok(())
    }

    fn receive(&mut self, token: Token, on: bool) {
        let Some(socket) = self.socket(token) else { return };
        if socket.receiving == on || socket.ended {
            return;
        }
        socket.receiving = on;
        let place = socket.place;
        if on {
            // If it is still being cancelled it is started again when that is over.
            self.ring.receive(place);
        } else {
            self.ring.cancel(place, Op::Receive);
            self.quiet.push(token);
        }
    }

    fn send(&mut self, token: Token, buffer: Vec<u8>) {
        if let Some(socket) = self.socket(token) {
            let place = socket.place;
            self.ring.send(place, buffer);
        }
    }

    fn close(&mut self, token: Token) {
        if self.socket(token).is_some()
            && let Some(socket) = self.sockets[token.slot()].take()
        {
            self.ring.remove(socket.place);
        }
    }

    fn accept(&mut self, on: bool) -> io::Result<()> {
        let before = std::mem::replace(&mut self.accepting, on);
        if on {
            self.ring.accept(self.listener);
        } else if before {
            self.ring.cancel(self.listener, Op::Accept);
        }
        Ok(())
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        visit: &mut dyn FnMut(Completion<'_>),
    ) -> io::Result<()> {
        self.watch_quiet();
        self.ring.wait(timeout)?;
        self.ring.finish_pending()?;
        for _ in 0..self.ring.ready() {
            let Some(done) = self.ring.next() else { break };
            self.happened(done, visit);
        }
        Ok(())
    }
}

/// Rings for the conformance tests; none where io_uring is denied.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub(crate) fn usual() -> Option<Ring> {
        ring(SIZES, Completing::Deferred)
    }

    /// As on Linux 6.0.
    pub(crate) fn cooperative() -> Option<Ring> {
        ring(SIZES, Completing::Cooperative)
    }

    /// Always short of everything.
    pub(crate) fn tiny() -> Option<Ring> {
        let sizes = Sizes { submissions: 2, completions: 4, buffers: 2, buffer_bytes: 4096 };
        ring(sizes, Completing::Deferred)
    }

    fn ring(sizes: Sizes, completing: Completing) -> Option<Ring> {
        rings(0).inspect_err(|denied| eprintln!("{denied}")).ok()?;
        Some(Ring::new(sizes, completing).expect("a ring, as one was just made"))
    }
}

#[cfg(test)]
mod tests;
