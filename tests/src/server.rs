//! Drives the server from outside: starts the real binary in a directory of its own, speaks RESP to
//! it over a socket, ends it in every way a process can end.
//!
//! 1. Nothing outlives a test: a [`Server`] that is dropped is killed, its directory removed.
//! 2. Nothing sleeps: a server is ready when it says so on its standard output.
//! 3. What `ISOLITH_DRIVER` names is how the server reaches its sockets (`--driver`), unless a test says:
//!    so all tests can be run with either driver.
//! 4. Every wait for a reply has an end ([`REPLY_WAIT`]), so that a server that hangs fails a test
//!    instead of the run.

use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::resp::{Connection, Limits};
pub use crate::resp::{Value, encode};

/// How long a reply may take before a test gives up.
pub const REPLY_WAIT: Duration = Duration::from_secs(60);
/// The largest value, and more.
const LIMITS: Limits = Limits { reply_bytes_max: 1 << 30 };

/// A running server.
pub struct Server {
    child: Child,
    address: SocketAddr,
    directory: Directory,
    binary: PathBuf,
    arguments: Vec<String>,
    /// Planted in it.
    bug: Option<String>,
}

enum Directory {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Server {
    /// Starts `binary` on a free port with an empty directory of its own.
    pub fn start(binary: &str, arguments: &[&str]) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Server::launch(binary, Directory::Temporary(directory), arguments, None)
    }

    /// As [`Server::start`], with a bug planted; `binary` is one of a planted build.
    pub fn start_planted(binary: &str, arguments: &[&str], bug: Option<&str>) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Server::launch(binary, Directory::Temporary(directory), arguments, bug)
    }

    /// Starts `binary` on a free port in `directory`, which stays.
    pub fn start_in(binary: &str, directory: &Path, arguments: &[&str]) -> Server {
        Server::launch(binary, Directory::Given(directory.to_owned()), arguments, None)
    }

    fn launch(binary: &str, directory: Directory, arguments: &[&str], bug: Option<&str>) -> Server {
        let arguments: Vec<String> =
            arguments.iter().map(|&argument| argument.to_owned()).collect();
        let bug = bug.map(str::to_owned);
        let (child, address) =
            spawn(Path::new(binary), directory.path(), &arguments, bug.as_deref());
        Server { child, address, directory, binary: binary.into(), arguments, bug }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
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
        rustix::process::kill_process(self.process(), signal).expect("the server is our child");
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("the server is our child")
    }

    /// Starts it again, after it has ended, on the same directory (and another port).
    pub fn restart(&mut self) {
        let bug = self.bug.as_deref();
        (self.child, self.address) =
            spawn(&self.binary, self.directory.path(), &self.arguments, bug);
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

fn spawn(
    binary: &Path,
    directory: &Path,
    arguments: &[String],
    bug: Option<&str>,
) -> (Child, SocketAddr) {
    let mut command = serve(binary, &directory.join("data"));
    if let Ok(driver) = std::env::var("ISOLITH_DRIVER")
        && !arguments.iter().any(|argument| argument == "--driver")
    {
        command.args(["--driver", &driver]);
    }
    command.args(arguments).envs(bug.map(|bug| ("ISOLITH_PLANT", bug)));
    // What it says is of use when a test fails.
    launch(command, |line| eprintln!("server: {line}")).unwrap_or_else(|why| panic!("{why}"))
}

/// The command that serves a directory at a free port of this machine.
pub fn serve(binary: &Path, directory: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["serve", "--listen", "127.0.0.1:0", "--dir"]).arg(directory);
    command
}

/// Starts a server and waits until it is ready. `says` gets the lines of its log.
///
/// # Errors
/// If it does not become ready; with what it said. It has ended then.
pub fn launch(
    mut command: Command,
    mut says: impl FnMut(&str) + Send + 'static,
) -> Result<(Child, SocketAddr), String> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("it cannot be started: {error}"))?;
    let mut line = String::new();
    let read = child.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
    let address = line.trim().strip_prefix("listening on ").and_then(|text| text.parse().ok());
    let errors = child.stderr.take();
    let Some(address) = address else {
        let _ = child.kill();
        let mut said = String::new();
        let _ = errors.map(|mut errors| errors.read_to_string(&mut said));
        let ended =
            child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        return Err(format!("the server did not start ({ended}, {read:?}, {line:?}): {said}"));
    };
    // Its log must not fill the pipe.
    std::thread::spawn(move || {
        let lines = errors.into_iter().flat_map(|errors| BufReader::new(errors).lines());
        lines.map_while(Result::ok).for_each(|line| says(&line));
    });
    Ok((child, address))
}

/// Runs `binary` to its end.
pub fn run(binary: &str, arguments: &[&str]) -> Output {
    Command::new(binary).args(arguments).output().expect("the binary starts")
}

/// One connection.
pub struct Client(Connection);

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        Ok(Client(Connection::connect(address, REPLY_WAIT, LIMITS)?))
    }

    /// The local end.
    pub fn local_address(&self) -> SocketAddr {
        self.0.local_address().expect("the socket is connected")
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
        Ok(self.0.send(bytes, deadline())?)
    }

    /// Says that nothing more will be sent.
    pub fn end(&mut self) {
        self.0.end().expect("the socket is connected");
    }

    /// Reads one reply.
    pub fn reply(&mut self) -> Value {
        self.try_reply().expect("a reply")
    }

    /// Reads one reply from a server that may be gone.
    pub fn try_reply(&mut self) -> io::Result<Value> {
        Ok(self.0.receive(deadline())?)
    }

    /// Everything until the server closes the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        self.0.rest(deadline())
    }

    /// True if the server has closed the connection and nothing is left to read.
    pub fn is_closed(&mut self) -> bool {
        !self.0.has_buffered() && !matches!(self.0.fill(deadline()), Ok(true))
    }
}

fn deadline() -> Instant {
    Instant::now() + REPLY_WAIT
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
