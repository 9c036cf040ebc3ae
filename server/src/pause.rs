//! CLIENT PAUSE: commands that have to wait until an operator has done something.
//!
//! A command that is paused stays where it is, at the front of its connection's input, and is tried again
//! before long: the same way that one goes which finds no room. CLIENT itself is never paused, so that
//! CLIENT UNPAUSE is heard.

use crate::commands::Spec;
use std::sync::atomic::{AtomicU64, Ordering};

/// Until when.
#[derive(Default)]
pub(crate) struct Pause {
    // Relaxed, both: a command more or less that runs at the turn of a pause is no mistake.
    /// For commands that write, in Unix milliseconds; 0: no pause.
    writes: AtomicU64,
    /// For all commands.
    all: AtomicU64,
}

impl Pause {
    /// Pauses until then at least.
    pub(crate) fn until(&self, at: u64, writes_only: bool) {
        let cell = if writes_only { &self.writes } else { &self.all };
        // Relaxed, here and below: see the fields.
        cell.fetch_max(at, Ordering::Relaxed);
    }

    /// Ends it.
    pub(crate) fn end(&self) {
        self.writes.store(0, Ordering::Relaxed);
        self.all.store(0, Ordering::Relaxed);
    }

    /// True if a pause may be on: cheap, for every command.
    pub(crate) fn is_on(&self) -> bool {
        // Relaxed: see the fields.
        self.writes.load(Ordering::Relaxed) | self.all.load(Ordering::Relaxed) != 0
    }

    /// True if a command has to wait.
    pub(crate) fn holds(&self, spec: &Spec, now_ms: u64) -> bool {
        let writes = spec.may_commit();
        let until = match (self.all.load(Ordering::Relaxed), writes) {
            (all, true) => all.max(self.writes.load(Ordering::Relaxed)),
            (all, false) => all,
        };
        if self.writes.load(Ordering::Relaxed).max(self.all.load(Ordering::Relaxed)) <= now_ms {
            // Over for all: the next command need not look at the clock.
            self.end();
        }
        now_ms < until && !spec.is("unpausable")
    }
}
