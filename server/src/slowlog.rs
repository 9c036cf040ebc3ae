//! The commands that took long: SLOWLOG.
//!
//! What counts is the time that a command ran, not that it waited: for a lock, for the disk, for its turn.
//! Commands with secrets in them are left out.

use crate::clients::Client;
use crate::resp::Args;
use crate::shared::lock;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

/// Arguments of one entry that are kept, and bytes of each.
const ARGUMENTS_KEPT: usize = 32;
const ARGUMENT_BYTES_KEPT: usize = 128;

/// One slow command.
#[derive(Clone, Debug)]
pub(crate) struct Slow {
    pub(crate) id: u64,
    /// Unix milliseconds.
    pub(crate) at: u64,
    pub(crate) took: Duration,
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) peer: String,
    pub(crate) name: String,
}

/// The newest slow commands of all cores.
pub(crate) struct SlowLog {
    // Relaxed, both: figures that order nothing.
    /// In microseconds; negative: nothing is slow.
    threshold: AtomicI64,
    entries_max: AtomicUsize,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    newest_first: VecDeque<Slow>,
    next: u64,
}

impl Default for SlowLog {
    fn default() -> SlowLog {
        SlowLog {
            threshold: AtomicI64::new(10_000),
            entries_max: AtomicUsize::new(128),
            entries: Mutex::default(),
        }
    }
}

impl SlowLog {
    /// `slowlog-log-slower-than`, in microseconds.
    pub(crate) fn threshold(&self) -> i64 {
        self.threshold.load(Ordering::Relaxed)
    }

    pub(crate) fn set_threshold(&self, micros: i64) {
        self.threshold.store(micros, Ordering::Relaxed);
    }

    /// `slowlog-max-len`.
    pub(crate) fn entries_max(&self) -> usize {
        self.entries_max.load(Ordering::Relaxed)
    }

    pub(crate) fn set_entries_max(&self, count: usize) {
        self.entries_max.store(count, Ordering::Relaxed);
        lock(&self.entries).newest_first.truncate(count);
    }

    /// True if this is slow.
    pub(crate) fn is_slow(&self, took: Duration) -> bool {
        let threshold = self.threshold();
        threshold >= 0 && took.as_micros() >= threshold.unsigned_abs().into()
    }

    /// Notes a command, or the first of several that were one transaction.
    pub(crate) fn note(&self, now_ms: u64, took: Duration, args: Args<'_>, client: &Client) {
        let kept = if args.len() > ARGUMENTS_KEPT { ARGUMENTS_KEPT - 1 } else { args.len() };
        let mut arguments: Vec<Vec<u8>> = args.from(0).take(kept).map(cut).collect();
        if args.len() > kept {
            arguments.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
        }
        let mut entries = lock(&self.entries);
        let id = entries.next;
        entries.next += 1;
        let (peer, name) = (client.peer.clone(), client.name());
        entries.newest_first.push_front(Slow { id, at: now_ms, took, arguments, peer, name });
        entries.newest_first.truncate(self.entries_max());
    }

    /// The newest ones.
    pub(crate) fn newest(&self, count: usize) -> Vec<Slow> {
        lock(&self.entries).newest_first.iter().take(count).cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        lock(&self.entries).newest_first.len()
    }

    pub(crate) fn clear(&self) {
        lock(&self.entries).newest_first.clear();
    }
}

fn cut(argument: &[u8]) -> Vec<u8> {
    match argument.get(..ARGUMENT_BYTES_KEPT) {
        Some(kept) if argument.len() > ARGUMENT_BYTES_KEPT => {
            let more = format!("... ({} more bytes)", argument.len() - ARGUMENT_BYTES_KEPT);
            [kept, more.as_bytes()].concat()
        }
        _ => argument.to_vec(),
    }
}
