//! Redis itself (Debian's `redis-server`), for tests that compare with it or judge it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::server::{Client, REPLY_WAIT};

/// True if `program` can be run; says so if not.
pub fn there(program: &str, arguments: &[&str]) -> bool {
    let found = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("SKIPPED: `{program} {}` does not run here", arguments.join(" "));
    }
    found
}

/// A Redis of its own, ended with the test.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Redis {
    /// Starts it and waits until it listens; `None`, and a line that says so, where it is not installed.
    ///
    /// # Panics
    /// If it does not start though it is there.
    pub fn start() -> Option<Redis> {
        if !there("redis-server", &["--version"]) {
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Free a moment ago: nobody else takes ports that fast.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let child = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "no", "--dir"])
            .arg(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        let redis = Redis { child, address, _directory: directory };
        let limit = Instant::now() + REPLY_WAIT;
        while let Err(error) = Client::connect(address) {
            assert!(Instant::now() < limit, "{error}");
            std::thread::yield_now();
        }
        Some(redis)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection.
    ///
    /// # Panics
    /// If it takes none.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).expect("redis-server accepts connections")
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
