//! The commit round: how a reader that has just got its lock and a leader that may not have seen it
//! keep out of each other's way.
//!
//! The leader of the commit window makes the number odd, fences, and looks at the locks; it makes it
//! even again when every decided commit of its round is visible. A locking reader puts its lock into
//! the table, fences, and looks at the number. So one of the two sees the other: either the leader
//! finds the lock, or the reader finds the number odd and waits for the end of the round, and then
//! reads what the round has written.

use crate::sync::{AtomicU64, Ordering, fence, hint, thread};

/// Looks so often before it offers the core to others.
const SPINS: u32 = 64;

/// Counts the commit rounds of one database; odd while one is on.
#[derive(Debug)]
pub struct CommitRound {
    number: AtomicU64,
}

/// A round that was on when somebody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRound(u64);

impl CommitRound {
    /// No round is on.
    pub fn new() -> Self {
        Self { number: AtomicU64::new(0) }
    }

    /// A round begins. For the window's leader, right after it has the window; what it loads from now
    /// on (the keyspaces' locker counts, the lock table) shows every lock whose owner did not see this.
    pub fn begin(&self) {
        // Relaxed: the window's leader alone stores it, and the window orders the leaders.
        let number = self.number.load(Ordering::Relaxed);
        debug_assert!(number.is_multiple_of(2), "the round before is over");
        // Relaxed: ordered by the fence.
        self.number.store(number + 1, Ordering::Relaxed);
        // SeqCst fence: pairs with the one in `on`.
        fence(Ordering::SeqCst);
    }

    /// The round is over: what it decided is visible.
    pub fn end(&self) {
        // Relaxed: as in `begin`.
        let number = self.number.load(Ordering::Relaxed);
        debug_assert!(!number.is_multiple_of(2), "a round is on");
        // Release: pairs with the Acquire in `on` and `is_over`; who sees the end sees *visible* as the round
        // left it.
        self.number.store(number + 1, Ordering::Release);
    }

    /// The round that is on, if any. For a locking reader that has just got its lock: a round that
    /// begins after this has answered finds the lock.
    pub fn on(&self) -> Option<OpenRound> {
        // SeqCst fence: pairs with the one in `begin`. The locker count and the lock were stored
        // before.
        fence(Ordering::SeqCst);
        // Acquire: pairs with the Release in `end`.
        let number = self.number.load(Ordering::Acquire);
        (!number.is_multiple_of(2)).then_some(OpenRound(number))
    }

    /// Whether that round is over.
    pub fn is_over(&self, round: OpenRound) -> bool {
        // Acquire: pairs with the Release in `end`.
        self.number.load(Ordering::Acquire) != round.0
    }

    /// Waits for the end of the round that is on, if any. A round takes microseconds, unless its
    /// leader has lost its core: this spins a little, then yields.
    pub fn await_even(&self) {
        let Some(round) = self.on() else { return };
        let mut spins = 0;
        while !self.is_over(round) {
            if spins < SPINS && !cfg!(loom) {
                spins += 1;
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
    }
}

impl Default for CommitRound {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_reader_waits_for_the_round_that_it_saw_and_for_no_other() {
        let round = CommitRound::new();
        assert_eq!(round.on(), None);
        round.await_even();
        round.begin();
        let seen = round.on().expect("a round is on");
        assert!(!round.is_over(seen));
        round.end();
        assert!(round.is_over(seen) && round.on().is_none());
        round.begin();
        assert!(round.is_over(seen), "a later round is another one");
        assert_ne!(round.on(), Some(seen));
    }
}
