//! Replay on several threads, each with its share of the keys.
//!
//! ```text
//!   log ─► the caller: reads, checks, gathers ─batches─┬─► share 0: applies what is written to its keys
//!                                                      └─► share 1: …
//! ```
//!
//! 1. All versions of a key are applied by one thread, in the log's order. (The rule that one thread at a time
//!    installs in a memtable is for the order of chains, and so it is kept for each of them.)
//! 2. What is more than puts, deletes and merges under known names is applied by the caller, when all before it
//!    is applied and nothing behind it is given away: range deletes, the names of keyspaces, files that a commit
//!    brought with it.
//! 3. What is wrong with a record is found by the caller while it is at the record, as without threads.
//! 4. A log shorter than a batch starts no thread.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use isolith_wal::Lsn;
use parking_lot::{Condvar, Mutex};

use super::Replay;
use super::known::{Known, Share};

/// Bytes of records that are given away at once.
const BATCH_BYTES: usize = if cfg!(test) { 512 } else { 256 << 10 };
/// Batches that wait for a thread, beside the one that it has.
const WAITING: usize = 1;
/// Shares are bits.
const THREADS_MAX: usize = 64;

/// Records one after the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    records: Vec<Entry>,
}

struct Entry {
    lsn: Lsn,
    /// Where the record ends.
    end: usize,
    /// The shares that it writes in.
    shares: u64,
}

impl Batch {
    /// Applies what is in a share.
    fn apply(&self, known: &Known, share: Share) -> Result<(), String> {
        let mut from = 0;
        for Entry { lsn, end, shares } in &self.records {
            let record = self.bytes.get(from..*end).unwrap_or_default();
            from = *end;
            if shares & (1 << share.number) != 0 {
                let applied = known.apply_share(*lsn, record, share);
                applied.map_err(|what| format!("record {lsn}: {what}"))?;
            }
        }
        Ok(())
    }
}

type Given = (Arc<Batch>, Arc<Known>);

/// How far the threads are.
#[derive(Default)]
struct Progress {
    /// Batches that were given and are not applied, counted for each thread; and what failed.
    left: Mutex<(usize, Option<String>)>,
    changed: Condvar,
}

/// Counts a batch as done, however that ends.
struct Doing<'p> {
    progress: &'p Progress,
    failed: Option<String>,
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        let (left, failed) = &mut *self.progress.left.lock();
        *left -= 1;
        if let Some(what) = self.failed.take() {
            failed.get_or_insert(what);
        }
        self.progress.changed.notify_all();
    }
}

fn work(given: &Receiver<Given>, share: Share, progress: &Progress) {
    while let Ok((batch, known)) = given.recv() {
        let mut doing = Doing { progress, failed: Some("a thread panicked".into()) };
        doing.failed = batch.apply(&known, share).err();
    }
}

/// The threads, and what is gathered for them.
pub(super) struct Shares {
    threads: usize,
    batch: Batch,
    /// What the threads have of it; none: it may have changed.
    known: Option<Arc<Known>>,
    begun: Vec<(SyncSender<Given>, JoinHandle<()>)>,
    progress: Arc<Progress>,
}

impl Shares {
    pub(super) fn new(threads: usize) -> Self {
        let (threads, batch) = (threads.min(THREADS_MAX), Batch::default());
        Self { threads, batch, known: None, begun: Vec::new(), progress: Arc::default() }
    }

    /// Applies a record, at some time before [`Shares::end`] returns.
    pub(super) fn apply(
        &mut self,
        replay: &mut Replay<'_>,
        lsn: Lsn,
        record: &[u8],
    ) -> Result<(), String> {
        let shared = (self.threads > 1).then(|| replay.known.shares_of(lsn, record, self.threads));
        let Some(shares) = shared.flatten() else {
            self.settle(&replay.known)?;
            self.known = None;
            return replay.apply(lsn, record);
        };
        if shares != 0 {
            self.batch.bytes.extend_from_slice(record);
            let end = self.batch.bytes.len();
            self.batch.records.push(Entry { lsn, end, shares });
        }
        if self.batch.bytes.len() >= BATCH_BYTES { self.give(&replay.known) } else { Ok(()) }
    }

    /// Gives what was gathered to the threads.
    fn give(&mut self, known: &Known) -> Result<(), String> {
        if self.begun.is_empty() {
            self.begin();
        }
        if self.begun.len() < self.threads {
            // Not all are to be had, and each would have a share.
            return self.settle(known);
        }
        let batch = Arc::new(std::mem::take(&mut self.batch));
        let known = self.known.get_or_insert_with(|| Arc::new(known.clone()));
        for (thread, _) in &self.begun {
            self.progress.left.lock().0 += 1;
            if thread.send((Arc::clone(&batch), Arc::clone(known))).is_err() {
                self.progress.left.lock().0 -= 1;
                return Err("a thread of the replay is gone".into());
            }
        }
        Ok(())
    }

    fn begin(&mut self) {
        for number in 0..self.threads {
            let share = Share { number, of: self.threads };
            let (give, given) = sync_channel(WAITING);
            let progress = Arc::clone(&self.progress);
            let named = thread::Builder::new().name(format!("isolith-replay-{number}"));
            let Ok(thread) = named.spawn(move || work(&given, share, &progress)) else { return };
            self.begun.push((give, thread));
        }
    }

    /// Waits until all is applied that was given away, and applies the rest.
    fn settle(&mut self, known: &Known) -> Result<(), String> {
        let mut left = self.progress.left.lock();
        while left.0 > 0 {
            self.progress.changed.wait(&mut left);
        }
        if let Some(what) = left.1.take() {
            return Err(what);
        }
        drop(left);
        for number in 0..self.threads {
            self.batch.apply(known, Share { number, of: self.threads })?;
        }
        self.batch.bytes.clear();
        self.batch.records.clear();
        Ok(())
    }

    /// Applies all that is left, and ends the threads.
    pub(super) fn end(mut self, known: &Known) -> Result<(), String> {
        self.settle(known)
    }
}

impl Drop for Shares {
    fn drop(&mut self) {
        for (give, thread) in self.begun.drain(..) {
            drop(give);
            // A panic in there was already told, as a failure.
            let _ = thread.join();
        }
    }
}
