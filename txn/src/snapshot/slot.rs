//! One slot of the registry: what a reader announces there, and the word that says how it lives.
//!
//! | bits of the word | what |
//! |---|---|
//! | 0..22 | owners; 0: the slot is free; all ones: its last owner is leaving |
//! | 22 | the reader is a snapshot (else a transaction) |
//! | 23..25 | 0 live, 1 expired, 2 kept for a commit |
//! | 25..64 | when it was registered: the registry's coarse time, in milliseconds |
//!
//! ```text
//!              claim            expire
//!      free ────────► live ────────────► expired
//!        ▲            │  │ keep             │
//!        │            │  └────► kept        │
//!        └── leave ───┴──────────┴──────────┘
//! ```
//!
//! All of it is one word, so that an exchange judges all of it: what is expired is the very reader
//! whose age was looked at, and what is shared is neither leaving nor expired.

use super::Reader;
use crate::sync::{AtomicU64, Ordering};

/// No timestamp: larger than every LSN, whose top bit is 0.
pub(super) const NONE: u64 = u64::MAX;

const OWNERS: u64 = (1 << 22) - 1;
/// The owners of a slot whose last owner is leaving: nobody joins it.
const LEAVING: u64 = OWNERS;
const SNAPSHOT: u64 = 1 << 22;
const STATE: u64 = 3 << 23;
const LIVE: u64 = 0;
const EXPIRED: u64 = 1 << 23;
const KEPT: u64 = 2 << 23;
const SINCE: u32 = 25;
const SINCE_MAX: u64 = u64::MAX >> SINCE;

/// A slot's word, as somebody found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(u64);

impl Word {
    fn new(reader: Reader, now: u64) -> Self {
        let reader = if reader == Reader::Snapshot { SNAPSHOT } else { 0 };
        Self(1 | reader | LIVE | now.min(SINCE_MAX) << SINCE)
    }

    fn owners(self) -> u64 {
        self.0 & OWNERS
    }

    pub(super) fn is_free(self) -> bool {
        self.owners() == 0
    }

    pub(super) fn is_expired(self) -> bool {
        self.0 & STATE == EXPIRED
    }

    pub(super) fn reader(self) -> Reader {
        if self.0 & SNAPSHOT != 0 { Reader::Snapshot } else { Reader::Transaction }
    }

    /// When the reader registered.
    pub(super) fn since(self) -> u64 {
        self.0 >> SINCE
    }
}

#[derive(Debug)]
pub(super) struct Slot {
    word: AtomicU64,
    pub(super) open: AtomicU64,
    pub(super) held: AtomicU64,
}

impl Default for Slot {
    fn default() -> Self {
        Self { word: AtomicU64::new(0), open: AtomicU64::new(NONE), held: AtomicU64::new(NONE) }
    }
}

impl Slot {
    pub(super) fn word(&self) -> Word {
        // Acquire: pairs with the Releases in `expire` and `leave`: who finds a reader gone prunes
        // after that reader's reads; and whoever then sees what was pruned sees the mark.
        Word(self.word.load(Ordering::Acquire))
    }

    /// Takes a free slot. It holds no timestamp yet.
    pub(super) fn claim(&self, reader: Reader, now: u64) -> bool {
        // Relaxed: only a filter before the exchange.
        self.word.load(Ordering::Relaxed) == 0
            // Acquire: pairs with the Release in `leave`; the slot is empty.
            && self
                .word
                .compare_exchange(
                    0,
                    Word::new(reader, now).0,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_ok()
    }

    /// Exchanges the word as `next` says, until that says `None`.
    fn update(&self, success: Ordering, next: impl Fn(Word) -> Option<u64>) -> Option<Word> {
        // Relaxed: only a guess; the exchange has the last word.
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let new = next(Word(word))?;
            match self.word.compare_exchange_weak(word, new, success, Ordering::Relaxed) {
                Ok(_) => return Some(Word(word)),
                Err(found) => word = found,
            }
        }
    }

    /// Joins a snapshot that lives and holds `timestamp`. Who joined is an owner like any other.
    pub(super) fn share(&self, timestamp: u64) -> bool {
        let joined = self.update(Ordering::Acquire, |word| {
            let owners = word.owners();
            let open = word.reader() == Reader::Snapshot && word.0 & STATE == LIVE;
            (open && owners > 0 && owners + 1 < LEAVING).then_some(word.0 + 1)
        });
        if joined.is_none() {
            return false;
        }
        // Relaxed: it can only be `timestamp` if the slot's owner stored it, and from then on it
        // stays until the last owner, this one among them, has left.
        if self.held.load(Ordering::Relaxed) == timestamp {
            return true;
        }
        self.leave(Reader::Snapshot);
        false
    }

    /// Lets go of the slot; the last owner empties it.
    pub(super) fn leave(&self, reader: Reader) {
        if reader == Reader::Snapshot {
            // AcqRel: each owner's reads happen before what the last one does next.
            let left = self.update(Ordering::AcqRel, |word| {
                let owners = word.owners();
                Some(if owners == 1 { word.0 | LEAVING } else { word.0 - 1 })
            });
            if left.is_some_and(|word| word.owners() > 1) {
                return;
            }
        }
        // A transaction's slot is never shared: it has one owner.
        // Release: the owner's reads happen before a pruner that finds the slot empty.
        self.held.store(NONE, Ordering::Release);
        // Release: pairs with the Acquire in `claim` and in `word`.
        self.word.store(0, Ordering::Release);
    }

    /// Whether the reader may no longer read.
    pub(super) fn is_expired(&self) -> bool {
        // Relaxed: who has met a link that a pruner changed has acquired it, and with it the mark
        // that the pruner saw before; who has not, has read what it was promised.
        Word(self.word.load(Ordering::Relaxed)).is_expired()
    }

    /// Marks the reader expired that was found, if it still lives.
    pub(super) fn expire(&self, found: Word) -> bool {
        if found.0 & STATE != LIVE || found.is_free() || found.owners() == LEAVING {
            return false;
        }
        let expired = found.0 & !STATE | EXPIRED;
        // Release: the mark comes before everything that a pruner which sees it does; pairs with the
        // Acquire in `word`.
        self.word.compare_exchange(found.0, expired, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Keeps the reader from expiring, for good; false if it has.
    pub(super) fn keep(&self) -> bool {
        // Relaxed: the exchange decides between this and `expire`, and orders nothing else.
        let kept = self.update(Ordering::Relaxed, |word| {
            (!word.is_expired()).then_some(word.0 & !STATE | KEPT)
        });
        kept.is_some()
    }

    /// The reader has moved to a newer timestamp: its age counts from now on.
    pub(super) fn renew(&self, now: u64) {
        // Relaxed: as in `keep`.
        self.update(Ordering::Relaxed, |word| {
            let renewed = word.0 & !(SINCE_MAX << SINCE) | now.min(SINCE_MAX) << SINCE;
            (word.0 & STATE == LIVE).then_some(renewed)
        });
    }
}
