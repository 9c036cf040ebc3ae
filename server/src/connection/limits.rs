//! What a connection may take of the server, and when it is let go: see `limits.rs`.

use super::Connection;
use crate::limits::Limits;
use std::time::Instant;

/// Why a connection is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// Its client has said nothing for too long.
    Idle,
    /// Its client does not read.
    Output,
}

impl Connection {
    /// Replies that wait: for the client to read, or for their gates.
    pub(crate) fn output_bytes(&self) -> usize {
        self.out.len() + self.sending.unwrap_or(0)
    }

    /// Looks at its output: true if there is more than there may be at any time.
    pub(crate) fn has_too_much(&mut self, limits: &Limits) -> bool {
        let bytes = self.output_bytes();
        if limits.is_over_soft(bytes) {
            self.soft_since.get_or_insert_with(Instant::now);
        } else {
            self.soft_since = None;
        }
        limits.is_over_hard(bytes)
    }

    /// Why it is to be let go by now, if it is; `now_ms` in Unix milliseconds.
    pub(crate) fn overdue(&self, limits: &Limits, now: Instant, now_ms: u64) -> Option<Overdue> {
        if let Some(since) = self.soft_since
            && now.saturating_duration_since(since) >= limits.soft_time()
        {
            return Some(Overdue::Output);
        }
        // What waits for a lock, a helper or room is not idle.
        let idle = limits.idle().filter(|_| self.parked.is_none() && self.marks.is_empty())?;
        let heard = if self.heard_ms == 0 { self.session.client.since } else { self.heard_ms };
        (u128::from(now_ms.saturating_sub(heard)) >= idle.as_millis()).then_some(Overdue::Idle)
    }
}
