//! `isolith serve` on real files as a process of its own, which is killed in the middle of the load (as
//! by `kill -9`), ended in order, started again, and killed while it starts.
//!
//! 1. A commit that was acknowledged when the kernel had it, or the disk, is there after every kill. One
//!    that was acknowledged at once may be gone, and with it all that came after it; an orderly end
//!    loses none.
//! 2. No timestamp tells which are there. So each thread leaves the number of its transaction at a key
//!    of its own, in the same transaction: those up to the one that is found there are there, no later
//!    one is. That also tells what became of a commit whose answer was lost with the process.
//! 3. A server that ends without being told to is a finding.
//!
//! It is killed by an operation of the load, after so many as the seed says, while the other threads and
//! that operation itself go on: commits are under way then.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use isolith::{Concurrency, Durability, Isolation};

use super::client::{Abilities, Answer, Client, Ended, Failure, MARKS, Reading, Terms};
use super::resp::{Network, Session};
use super::tape::{Key, Value};
use super::{Recovery, Target};
use crate::dice::Dice;
use crate::finding::Finding;
use crate::resp::Address;
use crate::server::{launch, serve};

/// Operations until it is killed, at most: a window of some hundred transactions makes as many.
const OPERATIONS_MAX: usize = 1_200;
/// Lines of its log that are told if it fails.
const LINES_MAX: usize = 20;

/// When commits are acknowledged.
const ALL: [Durability; 3] = [Durability::Sync, Durability::Os, Durability::Buffered];
/// Those of them that no kill takes away.
const KERNEL: [Durability; 2] = [Durability::Sync, Durability::Os];

/// A server whose process is ended.
#[derive(Debug)]
pub struct Killed {
    binary: PathBuf,
    directory: PathBuf,
    dice: Dice,
    life: Arc<Life>,
    network: Network,
}

/// One process.
#[derive(Debug)]
struct Life {
    child: Mutex<Child>,
    address: SocketAddr,
    said: Arc<Mutex<VecDeque<String>>>,
    /// Operations until it is killed; 0 if it is not to be.
    left: AtomicU64,
    /// Whether it was decided to kill it.
    condemned: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done by a panic in between.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Life {
    fn begin(binary: &Path, directory: &Path) -> Result<Life, String> {
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let lines = Arc::clone(&said);
        let mut command = serve(binary, directory);
        // Who interrupts the command does not mean the server: the command ends it.
        command.process_group(0).args(["--memory", "4G"]);
        let (child, address) = launch(command, move |line| {
            let mut lines = lock(&lines);
            lines.push_back(line.to_owned());
            if lines.len() > LINES_MAX {
                lines.pop_front();
            }
        })?;
        let (left, condemned) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Life { child: Mutex::new(child), address, said, left, condemned })
    }

    /// An operation is about to be done: it may be the one that kills.
    fn step(self: &Arc<Life>) {
        // Relaxed: counts alone; who takes the last one kills.
        let left = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left == Ok(1) {
            // Release: whoever finds the connection broken by the kill sees why. Pairs with the Acquire
            // in `is_condemned`.
            self.condemned.store(true, Ordering::Release);
            let life = Arc::clone(self);
            std::thread::spawn(move || life.kill());
        }
    }

    fn is_condemned(&self) -> bool {
        // Acquire: pairs with the Release in `step`.
        self.condemned.load(Ordering::Acquire)
    }

    /// Kills it, if it has not ended.
    fn kill(&self) {
        let mut child = lock(&self.child);
        // It has ended if this fails.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Ends it in order.
    fn terminate(&self) -> Answer {
        let mut child = lock(&self.child);
        let process = rustix::process::Pid::from_child(&child);
        let told = rustix::process::kill_process(process, rustix::process::Signal::TERM);
        let ended = told.map_err(std::io::Error::from).and_then(|()| child.wait());
        match ended {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.ended(status)),
            Err(error) => Err(Failure::Failed(format!("the server cannot be ended: {error}"))),
        }
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let said: Vec<String> = lock(&self.said).iter().cloned().collect();
        let said = said.join("\n");
        Failure::Wrong(Finding::new(format!("the server ended by itself ({status}): {said}")))
    }

    /// What a failure means: that it is gone, if it was killed.
    fn answer<T>(&self, answer: Answer<T>) -> Answer<T> {
        match answer {
            Err(Failure::Failed(why)) if self.is_condemned() => Err(Failure::Gone(why)),
            Err(Failure::Failed(why)) => match lock(&self.child).try_wait() {
                Ok(Some(status)) => Err(self.ended(status)),
                _ => Err(Failure::Failed(why)),
            },
            other => other,
        }
    }
}

impl Killed {
    /// Starts the first one, of this binary of isolith, on an empty directory. Nothing may take longer
    /// than `wait`.
    ///
    /// # Errors
    /// If it does not start; the text says why.
    pub fn new(
        binary: &Path,
        directory: &Path,
        seed: u64,
        wait: Duration,
    ) -> Result<Killed, String> {
        let life = Arc::new(Life::begin(binary, directory)?);
        let network = Network::connect(&Address::of(life.address), wait)?;
        let (binary, directory) = (binary.to_owned(), directory.to_owned());
        Ok(Killed { binary, directory, dice: Dice::new(seed), life, network })
    }

    /// What runs there.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Starts it again.
    fn next_life(&mut self, ended: &str, promised: &[Durability]) -> Answer<Recovery> {
        let mut ended = ended.to_owned();
        loop {
            let life = Life::begin(&self.binary, &self.directory).map_err(|why| {
                Failure::Wrong(Finding::new(format!("after {ended} it does not start: {why}")))
            })?;
            // What recovery wrote is not synced by an orderly end, either.
            if self.dice.is(1, 4) {
                life.kill();
                ended.push_str(", then killed right after it had recovered");
                continue;
            }
            self.life = Arc::new(life);
            let moved = self.network.moved(&Address::of(self.life.address));
            self.life.answer(moved.map_err(Failure::Failed))?;
            let (marks, promised) = (Some(self.marks()?), promised.to_vec());
            return Ok(Recovery { ended, last: None, marks, promised, floor: 0 });
        }
    }

    /// The last mark of each thread that is there.
    fn marks(&self) -> Answer<Vec<(Key, Value)>> {
        let read = || {
            let mut session = self.network.client()?;
            session.begin(&Terms {
                isolation: Isolation::Serializable,
                concurrency: Concurrency::Optimistic,
                durability: Durability::Sync,
                read_only: true,
            })?;
            let mut marks = Vec::new();
            session.scan(MARKS..Key::MAX, usize::from(u16::MAX), &mut marks)?;
            session.roll_back();
            Ok(marks)
        };
        self.life.answer(read())
    }

    fn arm(&mut self) {
        let operations = 1 + self.dice.below(OPERATIONS_MAX) as u64;
        self.life.left.store(operations, Ordering::Relaxed);
    }
}

impl Target for Killed {
    type Client = KilledSession;

    fn client(&self) -> Answer<KilledSession> {
        let session = self.life.answer(self.network.client())?;
        Ok(KilledSession { session, life: Arc::clone(&self.life) })
    }

    fn durabilities(&self) -> Vec<Durability> {
        ALL.to_vec()
    }

    fn clear(&mut self, window: u64) -> Answer<bool> {
        let cleared = self.network.clear(window);
        self.life.answer(cleared)
    }

    fn unleash(&mut self) -> Answer<Option<Recovery>> {
        if self.dice.is(3, 4) {
            self.arm();
        }
        Ok(None)
    }

    fn recover(&mut self) -> Answer<Recovery> {
        self.life.kill();
        let recovery = self.next_life("kill -9", &KERNEL)?;
        self.arm();
        Ok(recovery)
    }

    fn end_of_window(&mut self) -> Answer<Option<Recovery>> {
        // Nobody is there any more who would notice.
        self.life.left.store(0, Ordering::Relaxed);
        match self.dice.below(4) {
            0 if !self.life.is_condemned() => {
                self.life.terminate()?;
                self.next_life("an orderly end", &ALL).map(Some)
            }
            1 | 2 if !self.life.is_condemned() => Ok(None),
            _ => {
                self.life.kill();
                self.next_life("kill -9", &KERNEL).map(Some)
            }
        }
    }

    fn inspect(&self) -> Answer {
        match self.life.is_condemned() {
            true => Ok(()), // It is being killed.
            false => self.life.answer(self.network.inspect()),
        }
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.network.leave();
        self.life.kill();
    }
}

/// A connection to a server that may be killed.
#[derive(Debug)]
pub struct KilledSession {
    session: Session,
    life: Arc<Life>,
}

impl KilledSession {
    fn ask<T>(&mut self, what: impl FnOnce(&mut Session) -> Answer<T>) -> Answer<T> {
        self.life.step();
        let answer = what(&mut self.session);
        self.life.answer(answer)
    }
}

impl Client for KilledSession {
    fn abilities(&self) -> Abilities {
        Abilities { marks: true, ..self.session.abilities() }
    }

    fn begin(&mut self, terms: &Terms) -> Answer {
        self.session.begin(terms)
    }

    fn get(&mut self, key: Key, reading: Reading, value: &mut Vec<u8>) -> Answer<bool> {
        self.ask(|session| session.get(key, reading, value))
    }

    fn scan(&mut self, keys: Range<Key>, limit: usize, found: &mut Vec<(Key, Value)>) -> Answer {
        self.ask(|session| session.scan(keys, limit, found))
    }

    fn put(&mut self, key: Key, value: &[u8]) -> Answer {
        self.ask(|session| session.put(key, value))
    }

    fn delete(&mut self, key: Key) -> Answer {
        self.ask(|session| session.delete(key))
    }

    fn append(&mut self, key: Key, value: &[u8]) -> Answer {
        self.ask(|session| session.append(key, value))
    }

    fn commit(&mut self) -> Answer<Ended> {
        self.ask(Session::commit)
    }

    fn roll_back(&mut self) {
        self.session.roll_back();
    }
}
