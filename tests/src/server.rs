//! Drives the server from outside: starts the real binary in a directory of its own, speaks RESP to
//! it over a socket, ends it in every way a process can end.
//!
//! 1. Nothing outlives a test: a [`Server`] that is dropped is killed, its directory removed.
//! 2. Nothing sleeps: a server is ready when it says so on its standard output.
//! 3. Every wait for a reply has an end ([`REPLY_WAIT`]), so that a server that hangs fails a test
//!    instead of the run.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// How long a reply may take before a test gives up.
pub const REPLY_WAIT: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    child: Child,
    address: SocketAddr,
    directory: Directory,
    binary: PathBuf,
    arguments: Vec<String>,
}

enum Directory {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Server {
    /// Starts `binary` on a free port with an empty directory of its own.
    pub fn start(binary: &str, arguments: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Server::launch(binary, Directory::Temporary(directory), arguments)
    }

    /// Starts `binary` on a free port in `directory`, which stays.
    pub fn start_in(binary: &str, directory: &Path, arguments: &[&str]) -> Server {
        Server::launch(binary, Directory::Given(directory.to_owned()), arguments)
    }

    fn launch(binary: &str, directory: Directory, arguments: &[&str]) -> Server {
        let arguments: Vec<String> =
            arguments.iter().map(|&argument| argument.to_owned()).collect();
        let (child, address) = spawn(Path::new(binary), directory.path(), &arguments);
        Server { child, address, directory, binary: binary.into(), arguments }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its database's directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).expect("the server accepts connections")
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the server is our child");
        self.child.wait().expect("the server is our child");
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).expect("the server is our child");
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the server is our child")
    }

    /// Starts it again, after it has ended, on the same directory (and another port).
    pub fn restart(&mut self) {
        (self.child, self.address) = spawn(&self.binary, self.directory.path(), &self.arguments);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Directory {
    fn path(&self) -> &Path {
        match self {
            Directory::Temporary(directory) => directory.path(),
            Directory::Given(path) => path,
        }
    }
}

fn spawn(binary: &Path, directory: &Path, arguments: &[String]) -> (Child, SocketAddr) {
    let mut child = Command::new(binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--dir"])
        .arg(directory.join("data"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    let output = child.stdout.take().expect("the output is piped");
    let read = BufReader::new(output).read_line(&mut line);
    let address = line.trim().strip_prefix("listening on ").and_then(|text| text.parse().ok());
    let mut errors = child.stderr.take().expect("the errors are piped");
    let Some(address) = address else {
        let mut said = String::new();
        let _ = errors.read_to_string(&mut said);
        panic!("the server did not start ({read:?}, {line:?}): {said}");
    };
    // Its log must not fill the pipe; what it says is of use when a test fails.
    std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            eprintln!("server: {line}");
        }
    });
    (child, address)
}

/// Runs `binary` to its end.
pub fn run(binary: &str, arguments: &[&str]) -> Output {
    Command::new(binary).args(arguments).output().expect("the binary starts")
}

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
    /// The text of a string reply.
    pub fn text(&self) -> String {
        match self {
            Value::Simple(text) => text.clone(),
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("not a string: {other}"),
        }
    }

    /// The elements of an array.
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

/// One connection.
pub struct Client {
    stream: TcpStream,
    /// Received and not read.
    buffer: VecDeque<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_WAIT))?;
        stream.set_write_timeout(Some(REPLY_WAIT))?;
        Ok(Client { stream, buffer: VecDeque::new() })
    }

    /// The local end.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("the socket is connected")
    }

    /// Sends a command and reads its reply.
    pub fn command<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Value {
        self.send(&encode(arguments));
        self.reply()
    }

    /// Sends a command written as a line of words; `""` is the empty word.
    pub fn line(&mut self, line: &str) -> Value {
        self.command(&words(line))
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("the server takes what is sent");
    }

    /// Sends bytes to a server that may be gone.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("the socket is connected");
    }

    /// Reads one reply.
    pub fn reply(&mut self) -> Value {
        self.try_reply().expect("a reply")
    }

    /// Reads one reply from a server that may be gone.
    pub fn try_reply(&mut self) -> io::Result<Value> {
        let line = self.read_line()?;
        let (kind, rest) = line.split_at(1);
        let count = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => Value::Simple(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Integer(count()?),
            "_" => Value::Null,
            "$" | "=" => match usize::try_from(count()?) {
                Err(_) => Value::Null,
                Ok(length) => {
                    let mut bytes = self.read_bytes(length)?;
                    self.read_bytes(2)?;
                    if kind == "=" {
                        bytes.drain(..4);
                    }
                    Value::Bulk(bytes)
                }
            },
            "*" | "~" | ">" => match usize::try_from(count()?) {
                Err(_) => Value::Null,
                Ok(length) => Value::Array(
                    (0..length).map(|_| self.try_reply()).collect::<io::Result<Vec<Value>>>()?,
                ),
            },
            "%" => Value::Map(
                (0..count()?)
                    .map(|_| Ok((self.try_reply()?, self.try_reply()?)))
                    .collect::<io::Result<Vec<(Value, Value)>>>()?,
            ),
            _ => return Err(io::Error::other(format!("not RESP: {line:?}"))),
        })
    }

    /// Everything until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while let Ok(true) = self.fill() {}
        self.buffer.drain(..).collect()
    }

    /// True if the server has closed the connection and nothing is left to read.
    pub fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !matches!(self.fill(), Ok(true))
    }

    fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::InvalidData)?;
                return String::from_utf8(line.to_vec()).map_err(io::Error::other);
            }
            self.fill_or_fail()?;
        }
    }

    fn read_bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill_or_fail()?;
        }
        Ok(self.buffer.drain(..count).collect())
    }

    fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill()? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// False: the server has closed the connection.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 64 * 1024];
        let read = self.stream.read(&mut bytes)?;
        self.buffer.extend(&bytes[..read]);
        Ok(read > 0)
    }
}

/// A command as bytes.
pub fn encode<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Several lines of words as bytes: a pipeline.
pub fn pipeline(lines: &str) -> Vec<u8> {
    lines
        .lines()
        .filter(|line| !line.trim().is_empty())
        .flat_map(|line| encode(&words(line)))
        .collect()
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(|word| if word == "\"\"" { "" } else { word }.to_owned()).collect()
}

/// Runs a script of lines `command => reply`, the reply as [`Value`] displays it. Replies that vary
/// are written as a Rust-like alternative: `a | b`. Empty lines and lines that begin with `#` are
/// left out.
pub fn script(client: &mut Client, script: &str) {
    for line in script.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (command, expected) =
            line.split_once("=>").unwrap_or_else(|| panic!("a script line has a reply: {line}"));
        let got = client.line(command).to_string().trim_end().to_owned();
        let mut alternatives = expected.split(" | ").map(str::trim);
        assert!(
            alternatives.any(|expected| expected == got),
            "{}\n  expected {}\n  got      {got}",
            command.trim(),
            expected.trim()
        );
    }
}
