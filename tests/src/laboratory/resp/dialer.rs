//! Connections to the target: made, authenticated, and asked one thing at a time.
//!
//! 1. A reply belongs to the command before it: what comes unasked ends the run.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::address::Address;
use crate::laboratory::target::Failure;
use crate::resp::{Connection, Limits, Trouble, Value, encode, encode_into};

/// What a reply of a small scenario never needs.
const LIMITS: Limits = Limits { reply_bytes_max: 16 << 20 };

/// Makes connections.
#[derive(Debug)]
pub(super) struct Dialer {
    address: Address,
    place: SocketAddr,
    wait: Duration,
}

impl Dialer {
    /// Finds the server, and makes the first connection; nothing may take longer than `wait` that is not a
    /// wait for another transaction.
    pub(super) fn find(address: &Address, wait: Duration) -> Result<(Dialer, Line), Failure> {
        let failed = |why: &dyn std::fmt::Display| {
            Failure::Target(format!("{address} cannot be reached: {why}"))
        };
        let places = (address.host.as_str(), address.port).to_socket_addrs();
        let mut last = failed(&"its name has no address");
        for place in places.map_err(|error| failed(&error))? {
            let dialer = Dialer { address: address.clone(), place, wait };
            match Connection::connect(place, wait, LIMITS) {
                Ok(connection) => {
                    let line = dialer.greet(connection)?;
                    return Ok((dialer, line));
                }
                Err(error) => last = failed(&error),
            }
        }
        Err(last)
    }

    /// One more connection.
    pub(super) fn dial(&self) -> Result<Line, Failure> {
        let connection = Connection::connect(self.place, self.wait, LIMITS);
        let connection = connection.map_err(|error| {
            Failure::Target(format!("{} takes no more connections: {error}", self.address))
        })?;
        self.greet(connection)
    }

    fn greet(&self, connection: Connection) -> Result<Line, Failure> {
        let Address { database, user, password, .. } = &self.address;
        let mut line = Line { connection, wait: self.wait, label: self.address.to_string() };
        match (user, password) {
            (_, None) => {}
            (None, Some(password)) => line.expect_ok(&["AUTH", password])?,
            (Some(user), Some(password)) => line.expect_ok(&["AUTH", user, password])?,
        }
        if *database != 0 {
            line.expect_ok(&["SELECT", &database.to_string()])?;
        }
        Ok(line)
    }
}

/// A connection that is asked one thing at a time.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    wait: Duration,
    label: String,
}

impl Line {
    /// How long anything may take.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// Sends a command. Nothing may have come unasked.
    pub(super) fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<(), Failure> {
        self.send_bytes(&encode(command), &name(command))
    }

    fn send_bytes(&mut self, bytes: &[u8], what: &str) -> Result<(), Failure> {
        if self.connection.has_buffered() {
            return Err(self.failure(what, "it had answered before it was asked"));
        }
        let sent = self.connection.send(bytes, Instant::now() + self.wait);
        sent.map_err(|trouble| self.trouble(what, &trouble))
    }

    /// Whether a reply begins to come, until then at the latest.
    pub(super) fn is_readable(&mut self, until: Instant) -> Result<bool, Failure> {
        self.connection.is_readable(until).map_err(|trouble| self.trouble("a command", &trouble))
    }

    /// The reply to what was sent.
    pub(super) fn receive(&mut self, what: &str) -> Result<Value, Failure> {
        let value = self.connection.receive(Instant::now() + self.wait);
        value.map_err(|trouble| self.trouble(what, &trouble))
    }

    /// Sends a command and gives the reply to it, an error, too.
    pub(super) fn ask<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Value, Failure> {
        self.send(command)?;
        self.receive(&name(command))
    }

    /// Sends several commands at once.
    pub(super) fn send_all(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| encode_into(&mut bytes, command));
        self.send_bytes(&bytes, &commands.last().map(|last| name(last)).unwrap_or_default())
    }

    /// Sends several commands at once and gives their replies.
    pub(super) fn ask_all(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<Value>, Failure> {
        self.send_all(commands)?;
        commands.iter().map(|command| self.receive(&name(command))).collect()
    }

    /// Sends a command that has to succeed.
    pub(super) fn expect_ok<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<(), Failure> {
        let reply = self.ask(command)?;
        match reply {
            Value::Error(text) => Err(self.refused(&name(command), &text)),
            _ => Ok(()),
        }
    }

    /// What the server refused and never should.
    pub(super) fn refused(&self, what: &str, text: &str) -> Failure {
        let hint = match text.split(' ').next() {
            Some("NOAUTH") => ": name user and password, resp://user:password@host",
            _ => "",
        };
        self.failure(what, &format!("it said \"{}\"{hint}", shortened(text)))
    }

    /// A reply of another shape than that of the command.
    pub(super) fn unexpected(&self, what: &str, reply: &Value) -> Failure {
        let shown = shortened(&reply.to_string());
        self.failure(what, &format!("it gave {shown}, which is no answer to it"))
    }

    fn trouble(&self, what: &str, trouble: &Trouble) -> Failure {
        self.failure(what, &trouble.to_string())
    }

    pub(super) fn failure(&self, what: &str, why: &str) -> Failure {
        Failure::Target(format!("{} failed at {what}: {why}", self.label))
    }
}

/// The first two words, where the second belongs to the command: never a password.
fn name<A: AsRef<[u8]>>(command: &[A]) -> String {
    let word = |at: usize| command.get(at).map(|word| String::from_utf8_lossy(word.as_ref()));
    let first = word(0).unwrap_or_default();
    match (&*first, word(1)) {
        ("CLIENT", Some(second)) => format!("{first} {second}"),
        _ => first.into_owned(),
    }
}

fn shortened(text: &str) -> String {
    const CHARS: usize = 200;
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
