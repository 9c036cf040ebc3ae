//! The poll-style answer of everything that may have to wait.
//!
//! A transaction never blocks by itself: it says what it waits for. A test drives any interleaving
//! of any number of transactions from one thread with it; the blocking and the async API are thin
//! layers over it.

use isolith_wal::Lsn;

/// What one step of a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T, Why> {
    /// The step is done.
    Ready(T),
    /// The step waits; call again once what it waits for has happened.
    Blocked(BlockedBy),
    /// The transaction is over and has changed nothing.
    Aborted(Why),
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedBy {
    /// Somebody else's lock.
    Lock,
    /// A commit round: the transaction is queued and the window's leader has not decided it yet.
    Round,
    /// The log: the transaction is decided and visible, and waits until this LSN is as durable as
    /// its durability level asks.
    Log(Lsn),
}
