//! A commit request's states and moves.
//!
//! ```text
//!              finish(Committed)
//!   Queued ─────────────────────────► Committed
//!    ▲  ├───── finish(Refused) ─────► Refused
//!    │  └───── finish(SentBack) ────► SentBack
//!    └──────── requeue ◄─────────────────┘
//! ```
//!
//! The owner alone creates and requeues; the window's leader alone calls `finish`. The owner
//! may sleep: it says so with a bit in the same word, so that the leader's last move sees it and
//! wakes it, and a decision that came first keeps it awake.

use isolith_wal::Lsn;

use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, Thread, thread};

const QUEUED: u32 = 0;
const COMMITTED: u32 = 1;
const REFUSED: u32 = 2;
const SENT_BACK: u32 = 3;
const ASLEEP: u32 = 1 << 31;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Decided and visible at this LSN.
    Committed(Lsn),
    /// Refused; the verdict says why. It took no LSN.
    Refused,
    /// The evidence that it was validated against is gone, or a lock is in the way (then the verdict
    /// says so): validate again, or lock, and requeue.
    SentBack,
}

/// The state word of one request, and whom to wake.
#[derive(Debug)]
pub struct RequestState {
    word: AtomicU32,
    lsn: AtomicU64,
    /// Who waits for the outcome: whoever queued the request last.
    owner: Mutex<Thread>,
}

impl RequestState {
    /// A queued request of the calling thread.
    pub fn new() -> Self {
        Self {
            word: AtomicU32::new(QUEUED),
            lsn: AtomicU64::new(0),
            owner: Mutex::new(thread::current()),
        }
    }

    /// The leader's last move. True: the owner sleeps, and the leader has to [`RequestState::wake`]
    /// it, once it is out of the window.
    #[must_use = "a sleeping owner must be woken"]
    pub fn finish(&self, outcome: Outcome) -> bool {
        let state = match outcome {
            Outcome::Committed(lsn) => {
                // Relaxed: published by the Release below.
                self.lsn.store(lsn.bits(), Ordering::Relaxed);
                COMMITTED
            }
            Outcome::Refused => REFUSED,
            Outcome::SentBack => SENT_BACK,
        };
        // Release: publishes the LSN, the verdict and the installed versions; pairs with the
        // Acquire in `outcome`. Acquire: pairs with the owner's Release in `sleep`.
        self.word.swap(state, Ordering::AcqRel) & ASLEEP != 0
    }

    /// Wakes the owner. It looks at the outcome before it sleeps again, so a wake-up that comes late
    /// does no harm.
    pub fn wake(&self) {
        self.owner.lock().unpark();
    }

    /// What became of the request; `None` while it is queued.
    pub fn outcome(&self) -> Option<Outcome> {
        // Acquire: pairs with the Release in `finish`.
        match self.word.load(Ordering::Acquire) & !ASLEEP {
            // Relaxed: ordered by the Acquire above.
            COMMITTED => Some(Outcome::Committed(Lsn::from_bits(self.lsn.load(Ordering::Relaxed)))),
            REFUSED => Some(Outcome::Refused),
            SENT_BACK => Some(Outcome::SentBack),
            _ => None,
        }
    }

    /// The owner parks until the leader's last move. Must be called by the thread that queued the
    /// request last, and only while a leader is sure to come.
    pub fn sleep(&self) {
        // Release: pairs with the Acquire of the swap in `finish`, whose caller then wakes. Acquire:
        // pairs with its Release, if the decision came first.
        let before = self.word.fetch_or(ASLEEP, Ordering::AcqRel) & !ASLEEP;
        if before == QUEUED {
            while self.outcome().is_none() {
                thread::park();
            }
        }
    }

    /// The owner, now the calling thread, queues a request again that was sent back.
    pub fn requeue(&self) {
        debug_assert_eq!(self.outcome(), Some(Outcome::SentBack));
        *self.owner.lock() = thread::current();
        // Relaxed: the queue publishes it to the next leader.
        self.word.store(QUEUED, Ordering::Relaxed);
    }
}

impl Default for RequestState {
    fn default() -> Self {
        Self::new()
    }
}
