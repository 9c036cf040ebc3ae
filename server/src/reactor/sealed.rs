//! TLS between the driver and a core's loop: what a driver hands up is opened, what the loop sends is sealed.
//! It is a driver itself, so that it works with any other, and that the loop knows nothing of it.
//!
//! ```text
//!   loop ── send ──► seal ──► (one send in flight) ──► driver ── bytes ──► open ──► loop
//! ```
//!
//! 1. A connection that is not sealed costs one look at an empty place.
//! 2. At most one send per token is in flight below, and `Sent` is handed up once all of the loop's buffer
//!    has left: what is sealed and not sent is bounded by what the loop sends at once.
//! 3. Nothing can be sent while the driver below is polled: what handshakes have to say is sent right after.
//! 4. An error of TLS is told to the peer, if it can be, and ends the connection.

use super::{Completion, Driver, Token};
use crate::tls::Tls;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Sealed connections over a driver.
pub(crate) struct Sealed<D> {
    driver: D,
    connections: HashMap<Token, Connection>,
    /// Those that have something to send.
    talkative: Vec<Token>,
    /// Buffers of the loop that have left without a send of the driver's.
    finished: Vec<(Token, Vec<u8>)>,
    opened: Vec<u8>,
}

struct Connection {
    tls: Tls,
    /// A send of the driver's is in flight.
    sending: bool,
    /// The loop's buffer, until all of it has left.
    owed: Option<Vec<u8>>,
}

impl<D: Driver> Sealed<D> {
    pub(crate) fn new(driver: D) -> Sealed<D> {
        Sealed {
            driver,
            connections: HashMap::new(),
            talkative: Vec::new(),
            finished: Vec::new(),
            opened: Vec::new(),
        }
    }

    /// Takes a connected socket over whose peer speaks TLS.
    pub(crate) fn adopt_sealed(&mut self, token: Token, fd: OwnedFd, tls: Tls) -> io::Result<()> {
        self.driver.adopt(token, fd)?;
        self.connections.insert(token, Connection { tls, sending: false, owed: None });
        Ok(())
    }

    /// Sends what a connection has to say, if nothing is being sent.
    fn flush(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.sending {
            return;
        }
        let bytes = connection.tls.take_unsent();
        if !bytes.is_empty() {
            connection.sending = true;
            self.driver.send(token, bytes);
        } else if let Some(buffer) = connection.owed.take() {
            self.finished.push((token, buffer));
        }
    }
}

impl<D: Driver> Driver for Sealed<D> {
    fn adopt(&mut self, token: Token, socket: OwnedFd) -> io::Result<()> {
        self.driver.adopt(token, socket)
    }

    fn receive(&mut self, token: Token, on: bool) {
        self.driver.receive(token, on);
    }

    fn send(&mut self, token: Token, buffer: Vec<u8>) {
        match self.connections.get_mut(&token) {
            None => self.driver.send(token, buffer),
            Some(connection) => {
                connection.tls.seal(&buffer);
                connection.owed = Some(buffer);
                self.flush(token);
            }
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(mut connection) = self.connections.remove(&token)
            && !connection.sending
        {
            // So that the peer can tell an end from a cut. If the socket does not take it, it is a cut.
            let farewell = connection.tls.farewell();
            if !farewell.is_empty() {
                self.driver.send(token, farewell);
            }
        }
        self.driver.close(token);
    }

    fn accept(&mut self, on: bool) -> io::Result<()> {
        self.driver.accept(on)
    }

    fn poll(
        &mut self,
        timeout: Option<Duration>,
        visit: &mut dyn FnMut(Completion<'_>),
    ) -> io::Result<()> {
        let mut finished = std::mem::take(&mut self.finished);
        let timeout = if finished.is_empty() { timeout } else { Some(Duration::ZERO) };
        for (token, buffer) in finished.drain(..) {
            if self.connections.contains_key(&token) {
                visit(Completion::Sent(token, buffer));
            }
        }
        let Sealed { driver, connections, talkative, opened, .. } = self;
        driver.poll(timeout, &mut |completion| match completion {
            Completion::Received(token, bytes) => match connections.get_mut(&token) {
                None => visit(Completion::Received(token, bytes)),
                Some(connection) => {
                    opened.clear();
                    let outcome = connection.tls.open(bytes, opened);
                    // Also what there is to say of an error.
                    talkative.push(token);
                    if !opened.is_empty() {
                        visit(Completion::Received(token, &opened[..]));
                    }
                    match outcome {
                        Ok(false) => {}
                        Ok(true) => visit(Completion::Ended(token)),
                        Err(error) => {
                            tracing::debug!(%error, "TLS failed");
                            visit(Completion::Broken(token));
                        }
                    }
                }
            },
            Completion::Sent(token, buffer) => match connections.get_mut(&token) {
                None => visit(Completion::Sent(token, buffer)),
                Some(connection) => {
                    connection.sending = false;
                    if connection.tls.has_to_send() {
                        talkative.push(token);
                    } else if let Some(owed) = connection.owed.take() {
                        visit(Completion::Sent(token, owed));
                    }
                }
            },
            other => visit(other),
        })?;
        while let Some(token) = self.talkative.pop() {
            self.flush(token);
        }
        Ok(())
    }
}
