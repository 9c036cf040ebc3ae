//! Who is to be told when the log has come further, and does not block for it.
//!
//! 1. A waker is kept until the log has come as far as it waits for, or has ended, whether its future
//!    still lives or not. So there are at most as many as futures were polled in the time of a batch.
//! 2. The same waker is kept once for an LSN, however often its future is polled.

use std::collections::BTreeMap;
use std::task::Waker;

use crate::log::Durability;
use crate::lsn::Lsn;
use crate::pipeline::Advance;

/// The wakers of futures, by the LSN that they wait for.
#[derive(Default)]
pub(crate) struct Futures {
    written: BTreeMap<Lsn, Vec<Waker>>,
    durable: BTreeMap<Lsn, Vec<Waker>>,
}

impl Futures {
    fn of(&mut self, level: Durability) -> &mut BTreeMap<Lsn, Vec<Waker>> {
        match level {
            Durability::Sync => &mut self.durable,
            Durability::Os | Durability::Buffered => &mut self.written,
        }
    }

    pub(super) fn register(&mut self, lsn: Lsn, level: Durability, waker: &Waker) {
        let wakers = self.of(level).entry(lsn).or_default();
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
    }

    pub(super) fn forget(&mut self, lsn: Lsn, level: Durability, waker: &Waker) {
        let of = self.of(level);
        if let Some(wakers) = of.get_mut(&lsn) {
            wakers.retain(|known| !known.will_wake(waker));
            if wakers.is_empty() {
                of.remove(&lsn);
            }
        }
    }

    pub(super) fn take(&mut self, advance: &Advance) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for (of, end) in
            [(&mut self.written, advance.written), (&mut self.durable, advance.durable)]
        {
            let Some(end) = end else { continue };
            while let Some(first) = of.first_entry().filter(|first| *first.key() <= end) {
                wakers.append(&mut first.remove());
            }
        }
        wakers
    }

    pub(super) fn take_all(&mut self) -> Vec<Waker> {
        let of = std::mem::take(self);
        of.written.into_values().chain(of.durable.into_values()).flatten().collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.written.values().chain(self.durable.values()).map(Vec::len).sum()
    }
}
