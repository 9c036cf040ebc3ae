//! Connections whose command waits for a lock of another transaction: how they are woken, and how
//! others see that they wait.
//!
//! A core never waits for a lock. The engine is given a waker of the connection; called from any
//! thread, it notes the connection in its core's list and wakes the core, which runs the command again.
//!
//! 1. No wake-up is lost: `begin` comes before the engine is asked, and a wake-up after it either is
//!    seen by `parked`, or comes after it and takes back what it said.
//! 2. Whoever lets go of a lock has called the wakers by then: once a COMMIT or ROLLBACK is answered,
//!    nobody is said to wait for its locks who could go on (CLIENT WAITING relies on this).

use crate::clients::Client;
use crate::reactor::Token;
use crate::shared::lock;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

/// The connections of one core that are to look at their locks again.
pub(crate) struct Wakeups {
    tokens: Mutex<Vec<Token>>,
    core: Waker,
}

impl Wakeups {
    /// `core` wakes the core.
    pub(crate) fn new(core: Waker) -> Arc<Wakeups> {
        Arc::new(Wakeups { tokens: Mutex::default(), core })
    }

    /// Who has been woken since the last call.
    pub(crate) fn take(&self) -> Vec<Token> {
        std::mem::take(&mut *lock(&self.tokens))
    }
}

/// How a connection waits for locks.
pub(crate) struct LockWait {
    wakeup: Arc<Wakeup>,
    waker: Waker,
    /// The client is said to wait, or was until it was woken.
    told: Cell<bool>,
}

impl LockWait {
    pub(crate) fn new(token: Token, client: Arc<Client>, wakeups: Arc<Wakeups>) -> LockWait {
        let wakeup = Arc::new(Wakeup { token, client, woken: AtomicBool::new(false), wakeups });
        LockWait { waker: Waker::from(wakeup.clone()), wakeup, told: Cell::new(false) }
    }

    /// Another of the same connection, for its session's stand-in.
    pub(crate) fn stand_in(&self) -> LockWait {
        let (wakeup, waker) = (self.wakeup.clone(), self.waker.clone());
        LockWait { wakeup, waker, told: Cell::new(false) }
    }

    /// True if it was woken since `begin`.
    pub(crate) fn is_woken(&self) -> bool {
        // Acquire: pairs with the AcqRel in `wake_by_ref`.
        self.wakeup.woken.load(Ordering::Acquire)
    }

    /// What wakes this connection.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// To be called before the engine is asked for a lock.
    pub(crate) fn begin(&self) {
        self.over();
        // Relaxed: what has happened so far is about to be looked at; a wake-up that matters comes
        // after the engine was asked, whose mutex orders it behind this.
        if self.wakeup.woken.load(Ordering::Relaxed) {
            self.wakeup.woken.store(false, Ordering::Relaxed);
        }
    }

    /// The command waits, for the transactions with these ages.
    pub(crate) fn parked(&self, ages: Vec<u64>) {
        self.told.set(true);
        self.wakeup.client.waits_for(Some(ages));
        // Acquire: pairs with the AcqRel in `wake_by_ref`. Either it has set the flag already, which
        // is seen here, or it comes to the client's mutex after the line above.
        if self.wakeup.woken.load(Ordering::Acquire) {
            self.wakeup.client.waits_for(None);
        }
    }

    /// The command waits no more.
    pub(crate) fn over(&self) {
        if self.told.replace(false) {
            self.wakeup.client.waits_for(None);
        }
    }
}

struct Wakeup {
    token: Token,
    client: Arc<Client>,
    /// From the first wake-up until `begin`: later ones have nothing to add.
    woken: AtomicBool,
    wakeups: Arc<Wakeups>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // AcqRel: Release pairs with the Acquire in `parked`.
        if !self.woken.swap(true, Ordering::AcqRel) && !isolith::planted!("wake-up-not-passed-on") {
            self.client.waits_for(None);
            lock(&self.wakeups.tokens).push(self.token);
            self.wakeups.core.wake_by_ref();
        }
    }
}
