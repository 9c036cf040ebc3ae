//! What the replies of one core wait for.
//!
//! A reply that tells of a commit is held back until that commit is durable as promised; a reply that
//! shows what is not acknowledged yet, until it is. Each such wait is a *gate*. A core may have
//! thousands; it registers its waker with the engine for the earliest of each class alone.
//!
//! 1. Within a class gates open in the order of their timestamps: when the earliest is closed, so are
//!    the others. (Classes differ in what they wait for: a `Buffered` commit may be acknowledged
//!    before an older `Sync` one.)
//! 2. `drive` never blocks and does no I/O: it polls futures. What they wait for, the core has written
//!    before where that is only a copy into the kernel's memory ([`Gates::wait_for_kernel`]): cheaper
//!    than to have another thread do it and be woken.

use crate::reactor::Token;
use isolith::{Durability, Error, Pending, Timestamp};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The most that may be queued on one core before writes are refused.
const GATES_MAX: usize = 65_536;

/// What a gate waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The acknowledgement of a commit at this level.
    Commit(Durability),
    /// That everything seen is acknowledged.
    Seen,
}

impl Class {
    const COUNT: usize = 4;

    fn index(self) -> usize {
        match self {
            Class::Commit(Durability::Sync) => 0,
            Class::Commit(Durability::Os) => 1,
            Class::Commit(Durability::Buffered) => 2,
            Class::Seen => 3,
        }
    }
}

/// A wait that has not been queued yet.
pub(crate) struct Gate {
    pub(crate) class: Class,
    pub(crate) at: Timestamp,
    pub(crate) pending: Pin<Box<Pending>>,
}

impl Gate {
    pub(crate) fn new(class: Class, at: Timestamp, pending: Pending) -> Gate {
        Gate { class, at, pending: Box::pin(pending) }
    }
}

struct Queued {
    at: Timestamp,
    marks: Vec<Place>,
    pending: Pin<Box<Pending>>,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.at == other.at
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// Which reply waits: a connection's mark of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) token: Token,
    pub(crate) mark: u64,
}

/// A gate that has opened, or never will.
pub(crate) struct Opened {
    /// Who has waited for it.
    pub(crate) marks: Vec<Place>,
    pub(crate) outcome: Result<(), Error>,
}

/// The gates of one core.
pub(crate) struct Gates {
    queues: [BinaryHeap<Reverse<Queued>>; Class::COUNT],
    waker: Waker,
}

impl Gates {
    pub(crate) fn new(waker: Waker) -> Gates {
        Gates { queues: Default::default(), waker }
    }

    /// Queues a wait of one or more replies. It is first looked at by the next `drive`.
    pub(crate) fn push(&mut self, gate: Gate, marks: Vec<Place>) {
        let queued = Queued { at: gate.at, marks, pending: gate.pending };
        self.queues[gate.class.index()].push(Reverse(queued));
    }

    /// True if a gate may open as soon as the log is written, and need not wait for the disk.
    pub(crate) fn wait_for_kernel(&self) -> bool {
        [Class::Commit(Durability::Os), Class::Seen].into_iter().any(|class| {
            let first = self.queues[class.index()].peek();
            first.is_some_and(|Reverse(first)| !first.pending.is_ready())
        })
    }

    /// False if so many replies wait that no further commit is to be made.
    pub(crate) fn has_room(&self) -> bool {
        self.queues.iter().map(BinaryHeap::len).sum::<usize>() < GATES_MAX
    }

    /// Looks at one gate that has not been queued.
    pub(crate) fn poll(&self, gate: &mut Gate) -> Poll<Result<(), Error>> {
        let mut context = Context::from_waker(&self.waker);
        gate.pending.as_mut().poll(&mut context).map(|outcome| outcome.map(|_| ()))
    }

    /// Looks which gates are open; leaves the waker with the engine for the first closed one of
    /// each class.
    pub(crate) fn drive(&mut self, opened: &mut Vec<Opened>) {
        let mut context = Context::from_waker(&self.waker);
        for queue in &mut self.queues {
            while let Some(mut first) = queue.peek_mut() {
                let Poll::Ready(outcome) = first.0.pending.as_mut().poll(&mut context) else {
                    break;
                };
                let Reverse(queued) = std::collections::binary_heap::PeekMut::pop(first);
                let outcome = outcome.map(|_| ());
                opened.push(Opened { marks: queued.marks, outcome });
            }
        }
    }
}
