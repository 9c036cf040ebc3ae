//! Connections to a server: made, authenticated, and asked one thing at a time.
//!
//! 1. A reply belongs to the command before it: what comes unasked ends the run.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use super::{Address, Connection, Limits, Trouble, Value, encode, encode_into};

/// What every key begins with that is written to a server which is examined.
const PREFIX: &str = "isolith-laboratory:";
/// What a reply of a small scenario never needs.
const LIMITS: Limits = Limits { reply_bytes_max: 16 << 20 };

/// A server that cannot be used, and why: it is down, hangs, or is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

/// Makes connections.
#[derive(Clone, Debug)]
pub struct Dialer {
    address: Address,
    place: SocketAddr,
    wait: Duration,
}

impl Dialer {
    /// Finds the server, and makes the first connection; nothing may take longer than `wait` that is not a
    /// wait for another transaction.
    pub fn find(address: &Address, wait: Duration) -> Result<(Dialer, Line), Unusable> {
        let failed =
            |why: &dyn fmt::Display| Unusable(format!("{address} cannot be reached: {why}"));
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

    /// How long anything may take.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// One more connection.
    pub fn dial(&self) -> Result<Line, Unusable> {
        let connection = Connection::connect(self.place, self.wait, LIMITS);
        let connection = connection.map_err(|error| {
            Unusable(format!("{} takes no more connections: {error}", self.address))
        })?;
        self.greet(connection)
    }

    /// Whether the server is there at all.
    fn look(&self) -> Result<(), Unusable> {
        let dialer = Dialer { wait: self.wait / 2, ..self.clone() };
        dialer.dial()?.ask(&["PING"]).map(drop)
    }

    fn greet(&self, connection: Connection) -> Result<Line, Unusable> {
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
pub struct Line {
    connection: Connection,
    wait: Duration,
    label: String,
}

impl Line {
    /// How long anything may take.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Sends a command. Nothing may have come unasked.
    pub fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<(), Unusable> {
        self.send_bytes(&encode(command), &name(command))
    }

    fn send_bytes(&mut self, bytes: &[u8], what: &str) -> Result<(), Unusable> {
        if self.connection.has_buffered() {
            return Err(self.failure(what, "it had answered before it was asked"));
        }
        let sent = self.connection.send(bytes, Instant::now() + self.wait);
        sent.map_err(|trouble| self.trouble(what, &trouble))
    }

    /// Whether a reply begins to come, until then at the latest.
    pub fn is_readable(&mut self, until: Instant) -> Result<bool, Unusable> {
        self.connection.is_readable(until).map_err(|trouble| self.trouble("a command", &trouble))
    }

    /// The reply to what was sent.
    pub fn receive(&mut self, what: &str) -> Result<Value, Unusable> {
        let value = self.connection.receive(Instant::now() + self.wait);
        value.map_err(|trouble| self.trouble(what, &trouble))
    }

    /// The reply to a command that may wait for another transaction, as long as `longest`. A server that
    /// is not there any more is noticed within the time that anything may take.
    pub fn receive_late(
        &mut self,
        command: &[Vec<u8>],
        longest: Duration,
        dialer: &Dialer,
    ) -> Result<Value, Unusable> {
        let end = Instant::now() + longest;
        while Instant::now() < end && !self.is_readable(Instant::now() + self.wait / 2)? {
            dialer.look()?;
        }
        self.receive(&name(command))
    }

    /// Sends a command and gives the reply to it, an error, too.
    pub fn ask<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<Value, Unusable> {
        self.send(command)?;
        self.receive(&name(command))
    }

    /// Sends several commands at once.
    pub fn send_all(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<(), Unusable> {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| encode_into(&mut bytes, command));
        self.send_bytes(&bytes, &commands.last().map(|last| name(last)).unwrap_or_default())
    }

    /// Sends several commands at once and gives their replies.
    pub fn ask_all(&mut self, commands: &[Vec<Vec<u8>>]) -> Result<Vec<Value>, Unusable> {
        self.send_all(commands)?;
        commands.iter().map(|command| self.receive(&name(command))).collect()
    }

    /// Sends a command that has to succeed.
    pub fn expect_ok<A: AsRef<[u8]>>(&mut self, command: &[A]) -> Result<(), Unusable> {
        let reply = self.ask(command)?;
        match reply {
            Value::Error(text) => Err(self.refused(&name(command), &text)),
            _ => Ok(()),
        }
    }

    /// What the server refused and never should.
    pub fn refused(&self, what: &str, text: &str) -> Unusable {
        let hint = match text.split(' ').next() {
            Some("NOAUTH") => ": name user and password, resp://user:password@host",
            _ => "",
        };
        self.failure(what, &format!("it said \"{}\"{hint}", shortened(text)))
    }

    /// A reply of another shape than that of the command.
    pub fn unexpected(&self, what: &str, reply: &Value) -> Unusable {
        let shown = shortened(&reply.to_string());
        self.failure(what, &format!("it gave {shown}, which is no answer to it"))
    }

    fn trouble(&self, what: &str, trouble: &Trouble) -> Unusable {
        self.failure(what, &trouble.to_string())
    }

    /// A server that went wrong at this command.
    pub fn failure(&self, what: &str, why: &str) -> Unusable {
        Unusable(format!("{} failed at {what}: {why}", self.label))
    }
}

/// What a server says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    name: String,
    version: String,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl Server {
    /// Asks by `INFO`: `isolith_version:0.1.0` goes before the `redis_version` that it is like.
    pub fn recognise(control: &mut Line) -> Result<Server, Unusable> {
        let reply = control.ask(&["INFO", "server"])?;
        let text = match &reply {
            Value::Error(text) => return Err(control.refused("INFO", text)),
            reply => match reply.bytes() {
                Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                None => return Err(control.unexpected("INFO", reply)),
            },
        };
        let versions = text.lines().filter_map(|line| {
            let (name, version) = line.split_once("_version:")?;
            Some((name, version.trim()))
        });
        let versions: Vec<_> =
            versions.filter(|(name, _)| !["gcc", "os", "proto"].contains(name)).collect();
        // Whoever is like Redis says Redis's version, too.
        let own = versions.iter().find(|(name, _)| *name != "redis");
        let (name, version) =
            own.or(versions.first()).copied().unwrap_or(("a server", "of no name"));
        Ok(Server { name: name.to_owned(), version: version.to_owned() })
    }

    /// Whether it is isolith.
    pub fn is_isolith(&self) -> bool {
        self.name == "isolith"
    }
}

/// A beginning of keys that nobody else uses: it holds 64 random bits.
pub fn own_prefix() -> String {
    format!("{PREFIX}{:016x}:", isolith_wal::random_seed())
}

/// A failure of a server, with what it leaves behind.
pub fn told(why: &str, prefix: &str) -> String {
    match why.contains(PREFIX) {
        true => why.to_owned(),
        false => format!("{why}; keys that begin with {prefix} may be left there"),
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
