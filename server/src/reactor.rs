//! The driver seam: how a core's loop reaches its sockets.
//!
//! The seam has the shape of completions, which serves io_uring as well as epoll: the loop says
//! what it wants (`adopt`, `receive`, `send`, `close`), and [`Driver::poll`] hands back what has
//! happened. Between the two the driver owns a buffer that is being sent, and lends the bytes that
//! it received, whether it read them into one buffer per core (epoll) or the kernel picked one of
//! its provided buffers (io_uring).
//!
//! 1. `poll` calls its visitor only with completions of tokens that are adopted and not closed.
//! 2. At most one send per token is in flight: overlapping sends could be reordered.
//! 3. Received bytes are valid during the visit alone: what the loop does not consume it copies.
//! 4. A buffer given to `send` comes back in `Sent`, or is dropped by the driver after `Broken` or
//!    `close`, as soon as nothing reads it any more.
//! 5. Turning receiving or accepting off stops what has not begun: what was taken from the socket by
//!    then may still be told, once.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub(crate) mod epoll;
pub(crate) mod sealed;
pub(crate) mod uring;
pub(crate) mod waker;

/// Names a connection within its core: a slot that is used again, and a generation, so that no name
/// is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Token(pub(crate) u64);

impl Token {
    pub(crate) fn new(slot: usize, generation: u32) -> Token {
        // A process has far fewer descriptors than 2^32; generations wrap only below the two
        // values that drivers keep for themselves.
        Token(u64::from(generation & 0x7fff_ffff) << 32 | (slot as u64 & 0xffff_ffff))
    }

    pub(crate) fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }
}

/// Something that has happened.
pub(crate) enum Completion<'a> {
    /// A client has connected. Its socket is not adopted yet.
    Accepted(OwnedFd),
    /// Accepting failed: out of file descriptors, or the like. Accepting is off until asked for.
    AcceptFailed(io::Error),
    /// Bytes have come in.
    Received(Token, &'a [u8]),
    /// The peer sends no more; it may still read. Receiving is off.
    Ended(Token),
    /// The connection is broken: nothing can be sent or received any more.
    Broken(Token),
    /// A send is over; here is its buffer.
    Sent(Token, Vec<u8>),
    /// The core's waker was woken.
    Woken,
}

/// What a core's loop asks of the kernel.
pub(crate) trait Driver {
    /// Takes a connected socket over, with receiving on.
    fn adopt(&mut self, token: Token, socket: OwnedFd) -> io::Result<()>;
    /// Turns receiving on or off: off is the back-pressure that a client feels.
    fn receive(&mut self, token: Token, on: bool);
    /// Sends the whole buffer; `Sent` or `Broken` follows.
    fn send(&mut self, token: Token, buffer: Vec<u8>);
    /// Closes the socket and forgets the token.
    fn close(&mut self, token: Token);
    /// Turns accepting on or off. Off at first.
    fn accept(&mut self, on: bool) -> io::Result<()>;
    /// Waits until something has happened, `timeout` is over or (rarely) for no reason; visits what
    /// has happened.
    fn poll(
        &mut self,
        timeout: Option<Duration>,
        visit: &mut dyn FnMut(Completion<'_>),
    ) -> io::Result<()>;
}

#[cfg(test)]
mod tests;
