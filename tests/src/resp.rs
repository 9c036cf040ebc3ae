//! The Redis protocol from a client's side, for servers that nobody vouches for.
//!
//! 1. Every wait has an end: a deadline holds for a whole command or reply, however slowly its bytes
//!    come or go.
//! 2. A reply takes no more memory than [`Limits`] says, whatever it announces.
//! 3. What is no reply is told as such, with its first bytes.

mod address;
mod dialer;

pub use address::{Address, NoAddress};
pub use dialer::{Dialer, Line, Server, Unusable, own_prefix, told};

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Received at once, at most.
const CHUNK_BYTES: usize = 64 << 10;
/// The longest line: an error, a number, a length.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Arrays within arrays.
const DEPTH_MAX: usize = 16;
/// What an element takes beside its bytes.
const ELEMENT_BYTES: usize = size_of::<Value>();
/// Bytes of something unreadable that are shown.
const EXCERPT_BYTES: usize = 60;

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// A bulk or verbatim string.
    Bulk(Vec<u8>),
    /// Any null.
    Null,
    /// An array, a set or a push.
    Array(Vec<Value>),
    /// A map.
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// The bytes of a string reply.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(text) => Some(text.as_bytes()),
            Value::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text of a string reply.
    ///
    /// # Panics
    /// If it is none.
    pub fn text(&self) -> String {
        match self.bytes() {
            Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            None => panic!("not a string: {self}"),
        }
    }

    /// The elements of an array.
    ///
    /// # Panics
    /// If it is none.
    pub fn elements(self) -> Vec<Value> {
        match self {
            Value::Array(elements) => elements,
            other => panic!("not an array: {other}"),
        }
    }
}

/// As tests write what they expect: `+OK`, `-ERR …`, `:1`, `"text"`, `nil`, `[:1, nil]`,
/// `{"a": :1}`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Simple(text) => write!(f, "+{text}"),
            Value::Error(text) => write!(f, "-{text}"),
            Value::Integer(value) => write!(f, ":{value}"),
            Value::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Value::Null => f.write_str("nil"),
            Value::Array(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    write!(f, "{}{element}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("]")
            }
            Value::Map(pairs) => {
                f.write_str("{")?;
                for (index, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// A command as bytes.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, arguments);
    bytes
}

/// Appends a command: a pipeline grows.
pub fn encode_into<A: AsRef<[u8]>>(bytes: &mut Vec<u8>, arguments: &[A]) {
    bytes.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
}

/// How much is taken from a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one reply, with what its elements take.
    pub reply_bytes_max: usize,
}

/// Why there is no reply.
#[derive(Debug)]
pub enum Trouble {
    /// The other side has closed the connection.
    Closed,
    /// The time was over.
    Late,
    /// A reply that is larger than allowed, or announces that it is.
    TooLarge {
        /// What is allowed.
        bytes_max: usize,
    },
    /// What came is no reply; its beginning.
    NoReply(String),
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Closed => f.write_str("it closed the connection"),
            Trouble::Late => f.write_str("it did not answer in time"),
            Trouble::TooLarge { bytes_max } => {
                write!(f, "its reply is larger than the {bytes_max} bytes that are allowed")
            }
            Trouble::NoReply(excerpt) => {
                write!(f, "it does not speak the Redis protocol: it said \"{excerpt}\"")
            }
            Trouble::Io(error) => write!(f, "the connection failed: {error}"),
        }
    }
}

impl std::error::Error for Trouble {}

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> io::Error {
        match trouble {
            Trouble::Closed => ErrorKind::UnexpectedEof.into(),
            Trouble::Late => ErrorKind::TimedOut.into(),
            Trouble::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
                Trouble::Closed
            }
            ErrorKind::TimedOut => Trouble::Late,
            _ => Trouble::Io(error),
        }
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    limits: Limits,
    /// Received and not taken: what lies at `taken` and beyond.
    buffer: Vec<u8>,
    taken: usize,
}

impl Connection {
    /// Connects, within this time.
    pub fn connect(address: SocketAddr, wait: Duration, limits: Limits) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, wait)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, limits, buffer: Vec::new(), taken: 0 })
    }

    /// The local end.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Says that nothing more will be sent.
    pub fn end(&self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Sends bytes.
    pub fn send(&mut self, mut bytes: &[u8], deadline: Instant) -> Result<(), Trouble> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(Trouble::Closed),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::OUT, deadline)? {
                        return Err(Trouble::Late);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether something of a reply is there, or the end of the connection, until then at the latest.
    pub fn is_readable(&mut self, until: Instant) -> Result<bool, Trouble> {
        Ok(self.has_buffered() || self.wait(PollFlags::IN, until)?)
    }

    /// Whether something was received that nobody has taken.
    pub fn has_buffered(&self) -> bool {
        self.taken < self.buffer.len()
    }

    /// One reply.
    pub fn receive(&mut self, deadline: Instant) -> Result<Value, Trouble> {
        let mut room = self.limits.reply_bytes_max;
        self.value(deadline, &mut room, DEPTH_MAX)
    }

    /// What was received and not taken, and all that comes until the connection ends or the time is
    /// over.
    pub fn rest(&mut self, deadline: Instant) -> Vec<u8> {
        while let Ok(true) = self.fill(deadline) {}
        self.buffer.split_off(self.taken)
    }

    /// Receives something. False: the other side has closed the connection.
    pub fn fill(&mut self, deadline: Instant) -> Result<bool, Trouble> {
        if self.taken > CHUNK_BYTES {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(read) => {
                    self.buffer.extend_from_slice(&chunk[..read]);
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(PollFlags::IN, deadline)? {
                        return Err(Trouble::Late);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// False: nothing until then.
    fn wait(&self, what: PollFlags, until: Instant) -> Result<bool, Trouble> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [PollFd::new(&self.stream, what)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Trouble::Io(error.into())),
            }
        }
    }

    fn value(
        &mut self,
        deadline: Instant,
        room: &mut usize,
        depth: usize,
    ) -> Result<Value, Trouble> {
        self.charge(room, ELEMENT_BYTES)?;
        let line = self.line(deadline, room)?;
        let (Some(kind), Ok(rest)) = (line.first(), str::from_utf8(line.get(1..).unwrap_or(&[])))
        else {
            return Err(no_reply(&line));
        };
        let number = || rest.parse::<i64>().map_err(|_| no_reply(&line));
        Ok(match kind {
            b'+' => Value::Simple(rest.to_owned()),
            b'-' => Value::Error(rest.to_owned()),
            b':' => Value::Integer(number()?),
            b'_' => Value::Null,
            b'$' | b'=' => match usize::try_from(number()?) {
                Err(_) => Value::Null,
                Ok(length) => {
                    let mut bytes = self.bulk(length, deadline, room)?;
                    if *kind == b'=' {
                        bytes.drain(..bytes.len().min(4));
                    }
                    Value::Bulk(bytes)
                }
            },
            b'*' | b'~' | b'>' | b'%' => match usize::try_from(number()?) {
                Err(_) => Value::Null,
                Ok(_) if depth == 0 => return Err(no_reply(&line)),
                Ok(length) if *kind == b'%' => {
                    let mut pairs = Vec::new();
                    for _ in 0..length {
                        let key = self.value(deadline, room, depth - 1)?;
                        pairs.push((key, self.value(deadline, room, depth - 1)?));
                    }
                    Value::Map(pairs)
                }
                Ok(length) => {
                    let mut elements = Vec::new();
                    for _ in 0..length {
                        elements.push(self.value(deadline, room, depth - 1)?);
                    }
                    Value::Array(elements)
                }
            },
            _ => return Err(no_reply(&line)),
        })
    }

    /// Takes bytes out of what a reply may still take.
    fn charge(&self, room: &mut usize, bytes: usize) -> Result<(), Trouble> {
        let bytes_max = self.limits.reply_bytes_max;
        *room = room.checked_sub(bytes).ok_or(Trouble::TooLarge { bytes_max })?;
        Ok(())
    }

    /// A line without its end.
    fn line(&mut self, deadline: Instant, room: &mut usize) -> Result<Vec<u8>, Trouble> {
        let mut looked_at = 0;
        loop {
            let received = &self.buffer[self.taken..];
            if let Some(end) = received[looked_at..].iter().position(|byte| *byte == b'\n') {
                let line = received[..looked_at + end].to_vec();
                self.taken += looked_at + end + 1;
                self.charge(room, line.len())?;
                return match line.strip_suffix(b"\r") {
                    Some(line) => Ok(line.to_vec()),
                    None => Err(no_reply(&line)),
                };
            }
            looked_at = received.len();
            // What cannot become a reply any more need not be waited for.
            let begins_well = received.first().is_none_or(|kind| b"+-:_$=*~>%".contains(kind));
            if !begins_well || looked_at > LINE_BYTES_MAX {
                return Err(no_reply(received));
            }
            if !self.fill(deadline)? {
                return Err(match looked_at {
                    0 => Trouble::Closed,
                    _ => no_reply(&self.buffer[self.taken..]),
                });
            }
        }
    }

    /// The bytes of a bulk string, and their end.
    fn bulk(
        &mut self,
        length: usize,
        deadline: Instant,
        room: &mut usize,
    ) -> Result<Vec<u8>, Trouble> {
        self.charge(room, length)?;
        while self.buffer.len() - self.taken < length + 2 {
            if !self.fill(deadline)? {
                return Err(Trouble::Closed);
            }
        }
        let bytes = self.buffer[self.taken..self.taken + length].to_vec();
        let end = &self.buffer[self.taken + length..self.taken + length + 2];
        if end != b"\r\n" {
            return Err(no_reply(end));
        }
        self.taken += length + 2;
        Ok(bytes)
    }
}

fn no_reply(said: &[u8]) -> Trouble {
    let excerpt = said.get(..EXCERPT_BYTES).unwrap_or(said);
    let more = if excerpt.len() < said.len() { "…" } else { "" };
    Trouble::NoReply(format!("{}{more}", excerpt.escape_ascii()))
}
