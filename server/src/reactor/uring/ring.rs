//! A ring with all that its requests refer to: the only place where the kernel is given a pointer or a
//! descriptor of the server.
//!
//! 1. An *end* owns a descriptor, and a buffer while it is sent. It is freed when the ring was told to
//!    `remove` it and its last request is over: so no descriptor is closed, and no buffer freed, that
//!    the kernel may still use.
//! 2. At most one request of each kind ([`Op`]) is in flight per end. `busy` has its bit from when it
//!    was queued until its last completion was taken.
//! 3. Who drops the ring waits for its requests, which are cancelled. If the ring cannot be entered any
//!    more (a filter has closed it), their memory is left behind instead.
//! 4. An entry that does not fit into the submission queue waits in `backlog`: queueing makes no system
//!    call and does not fail. Entries are handed over in the order in which they were queued; so a
//!    cancellation never meets a request that was queued after it, whatever names are used again.
//!
//! ```text
//!   add ──► idle ──accept, receive, send, …──► busy ──last completion──► idle
//!             │                                 │ remove: cancelled
//!             └─────────remove──► freed ◄───────┴── last completion
//! ```

#![expect(unsafe_code, reason = "the kernel is given pointers and descriptors")]

use super::buffers::{Buffers, GROUP, Lent};
use crate::reactor::Token;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::net::{SendFlags, SocketFlags};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// One send takes at most so much; the kernel's own bound is a little below 2 GiB.
const SEND_BYTES_MAX: usize = 1 << 30;
/// How long a dropped ring waits for what is in flight before its memory is left behind.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often a turn has the kernel go on finishing what is pending, beyond the first time.
const PENDING_ROUNDS: u32 = 4;
/// Less than this was all there was; what has come since may wait for the next turn.
const PENDING_MIN: usize = 16;

/// How large a ring is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Entries that are submitted at once.
    pub(super) submissions: u32,
    /// Completions that have room; the kernel keeps more until they have been taken.
    pub(super) completions: u32,
    /// A power of two.
    pub(super) buffers: u16,
    pub(super) buffer_bytes: u32,
}

/// When the kernel finishes what was waiting for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completing {
    /// When the ring is entered, by its one thread (Linux 6.1).
    Deferred,
    /// On the thread's next system call of any kind.
    Cooperative,
}

/// Where io_uring was refused, and how.
#[derive(Debug)]
pub(crate) struct Denied {
    pub(super) step: &'static str,
    pub(super) error: io::Error,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

/// Names an end of its ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// What a request does. The values are bits of [`End::busy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    /// Accepts connections, one after the other.
    Accept = 1,
    /// Receives, again and again.
    Receive = 2,
    /// Sends one buffer.
    Send = 4,
    /// Reads an eventfd.
    Wake = 8,
    /// Waits for the peer to be gone, again and again.
    Hangup = 16,
}

impl Op {
    const ALL: [Op; 5] = [Op::Accept, Op::Receive, Op::Send, Op::Wake, Op::Hangup];
}

/// A completion.
pub(super) struct Done {
    /// Of the end.
    pub(super) token: Token,
    pub(super) place: Place,
    pub(super) op: Op,
    pub(super) result: Result<u32, Errno>,
    /// What was received, to be given back.
    pub(super) lent: Option<Lent>,
    /// What was accepted.
    pub(super) accepted: Option<OwnedFd>,
    /// The request is over; otherwise it will complete again.
    pub(super) over: bool,
}

struct End {
    token: Token,
    fd: OwnedFd,
    /// The kinds of its requests in flight.
    busy: u8,
    /// The buffer being sent, and how much of it is.
    sending: Option<(Vec<u8>, usize)>,
    /// Freed with its last request.
    leaving: bool,
}

/// One thread's ring.
pub(crate) struct Ring {
    ring: IoUring,
    /// The thread that enters it first is the one that it belongs to.
    enabled: bool,
    buffers: Buffers,
    /// By [`Place`].
    ends: Vec<Option<End>>,
    free: Vec<Place>,
    /// The bits of all `busy`.
    in_flight: usize,
    backlog: VecDeque<squeue::Entry>,
}

impl Ring {
    /// A ring that is not entered yet.
    pub(super) fn new(sizes: Sizes, completing: Completing) -> Result<Ring, Denied> {
        let denied = |step| move |error| Denied { step, error };
        let mut builder = IoUring::builder();
        builder.setup_cqsize(sizes.completions).setup_submit_all().setup_r_disabled().dontfork();
        builder.setup_taskrun_flag();
        match completing {
            Completing::Deferred => builder.setup_single_issuer().setup_defer_taskrun(),
            Completing::Cooperative => builder.setup_coop_taskrun(),
        };
        let ring: IoUring = builder.build(sizes.submissions).map_err(denied("io_uring_setup"))?;
        let parameters = ring.params();
        if !parameters.is_feature_ext_arg() || !parameters.is_feature_nodrop() {
            let error = io::Error::from(io::ErrorKind::Unsupported);
            return Err(Denied { step: "waiting with a timeout", error });
        }
        let mut buffers = Buffers::new(sizes.buffers, sizes.buffer_bytes)
            .map_err(denied("memory to receive into"))?;
        // SAFETY: `Drop` waits for all requests, or leaves the buffers behind; and of the fields
        // `ring` is dropped first.
        unsafe { buffers.register(&ring.submitter()) }.map_err(denied("io_uring_register"))?;
        Ok(Ring {
            ring,
            enabled: false,
            buffers,
            ends: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            backlog: VecDeque::new(),
        })
    }

    /// Takes a descriptor in. It must not be in non-blocking mode, or the kernel would not wait for it.
    pub(super) fn add(&mut self, token: Token, fd: OwnedFd) -> Place {
        let end = End { token, fd, busy: 0, sending: None, leaving: false };
        let place = self.free.pop().unwrap_or_else(|| {
            self.ends.push(None);
            Place((self.ends.len() - 1) as u32)
        });
        self.ends[place.0 as usize] = Some(end);
        place
    }

    /// Cancels its requests; the descriptor is closed when they are over. Nothing of this end is
    /// reported any more.
    pub(super) fn remove(&mut self, place: Place) {
        let Some(end) = self.end(place) else { return };
        end.leaving = true;
        if end.busy == 0 {
            self.free(place);
        } else {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::fd(Fd(end.fd.as_raw_fd())).all());
            self.push(entry.build());
        }
    }

    /// Starts to accept.
    pub(super) fn accept(&mut self, place: Place) {
        self.start(place, Op::Accept, |end| {
            let flags = SocketFlags::CLOEXEC.bits() as i32;
            opcode::AcceptMulti::new(Fd(end.fd.as_raw_fd())).flags(flags).build()
        });
    }

    /// Starts to receive.
    pub(super) fn receive(&mut self, place: Place) {
        self.start(place, Op::Receive, |end| {
            opcode::RecvMulti::new(Fd(end.fd.as_raw_fd()), GROUP).build()
        });
    }

    /// Reads an eventfd, as soon as there is something to read.
    pub(super) fn wake(&mut self, place: Place) {
        self.start(place, Op::Wake, |end| {
            opcode::Read::new(Fd(end.fd.as_raw_fd()), std::ptr::null_mut(), 8)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT)
        });
    }

    /// Waits for the peer to be gone. The result is a set of poll's flags.
    pub(super) fn hangup(&mut self, place: Place) {
        // No flags are asked for: the kernel adds those of errors and of hanging up.
        self.start(place, Op::Hangup, |end| {
            opcode::PollAdd::new(Fd(end.fd.as_raw_fd()), 0).multi(true).build()
        });
    }

    /// Sends the whole buffer; [`Ring::sent`] gives it back when that is over.
    pub(super) fn send(&mut self, place: Place, buffer: Vec<u8>) {
        let Some(end) = self.end(place) else { return };
        assert!(end.busy & Op::Send as u8 == 0, "one send at a time");
        end.sending = Some((buffer, 0));
        self.send_rest(place);
    }

    fn send_rest(&mut self, place: Place) {
        self.start(place, Op::Send, |end| {
            let rest = end.sending.as_ref().and_then(|(buffer, sent)| buffer.get(*sent..));
            let rest = rest.unwrap_or_default();
            // The kernel goes on by itself after a short send, where it can.
            let flags = (SendFlags::NOSIGNAL | SendFlags::from_bits_retain(MSG_WAITALL)).bits();
            let bytes = rest.len().min(SEND_BYTES_MAX) as u32;
            opcode::Send::new(Fd(end.fd.as_raw_fd()), rest.as_ptr(), bytes)
                .flags(flags as i32)
                .build()
        });
    }

    /// The buffer of a send that is over.
    pub(super) fn sent(&mut self, place: Place) -> Option<Vec<u8>> {
        let end = self.end(place).filter(|end| end.busy & Op::Send as u8 == 0)?;
        end.sending.take().map(|(buffer, _)| buffer)
    }

    /// Asks a request to end, if there is one; its last completion follows.
    pub(super) fn cancel(&mut self, place: Place, op: Op) {
        if self.end(place).is_none_or(|end| end.busy & op as u8 == 0) {
            return;
        }
        let builder = CancelBuilder::user_data(name(place, op));
        self.push(opcode::AsyncCancel2::new(builder).build());
    }

    /// What was received.
    pub(super) fn bytes(&self, lent: &Lent) -> &[u8] {
        self.buffers.bytes(lent)
    }

    /// What was received is not needed any more.
    pub(super) fn give_back(&mut self, lent: Lent) {
        self.buffers.give_back(lent);
    }

    /// Hands over what is queued, and waits for a completion.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if !self.enabled {
            self.ring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        while !self.refill() {
            let before = self.backlog.len();
            self.entered(|ring| ring.submit())?;
            if self.ring.submission().is_full() && self.backlog.len() == before {
                // It takes nothing before completions have been taken.
                return Ok(());
            }
        }
        match timeout {
            Some(timeout) => {
                let time = Timespec::from(timeout.min(Duration::from_secs(3600)));
                let arguments = SubmitArgs::new().timespec(&time);
                self.entered(|ring| ring.submitter().submit_with_args(1, &arguments))
            }
            None => self.entered(|ring| ring.submit_and_wait(1)),
        }
    }

    /// Has the kernel finish what else is pending. It ends some twenty at a time, and says if that was not
    /// all: then a turn need not be so small.
    pub(super) fn finish_pending(&mut self) -> io::Result<()> {
        let mut before = 0;
        for _ in 0..PENDING_ROUNDS {
            let ready = self.ready();
            if ready - before < PENDING_MIN || !self.ring.submission().taskrun() {
                break;
            }
            before = ready;
            self.entered(|ring| ring.submit())?;
        }
        Ok(())
    }

    /// Enters the ring. It is no error that there was nothing, or that completions are to be taken
    /// first; queued entries stay queued.
    fn entered(&mut self, enter: impl FnOnce(&IoUring) -> io::Result<usize>) -> io::Result<()> {
        match enter(&self.ring) {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Moves entries out of the backlog; true if it is empty.
    fn refill(&mut self) -> bool {
        while let Some(entry) = self.backlog.front() {
            // SAFETY: see `push`.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return false;
            }
            self.backlog.pop_front();
        }
        true
    }

    /// How many completions are there to be taken.
    pub(super) fn ready(&mut self) -> usize {
        self.ring.completion().len()
    }

    /// The next completion of an end that has not been removed.
    pub(super) fn next(&mut self) -> Option<Done> {
        loop {
            let completion = self.ring.completion().next()?;
            if let Some(done) = self.take(&completion) {
                return Some(done);
            }
        }
    }

    /// Takes a completion; `None` if nobody is to know.
    fn take(&mut self, completion: &cqueue::Entry) -> Option<Done> {
        let result = match u32::try_from(completion.result()) {
            Ok(result) => Ok(result),
            Err(_) => Err(Errno::from_raw_os_error(-completion.result())),
        };
        let lent = cqueue::buffer_select(completion.flags()).map(|id| {
            // SAFETY: buffers are taken by `Receive` and `Wake`, both from `GROUP`; a completion is
            // taken once.
            unsafe { self.buffers.lent(id, result.unwrap_or(0)) }
        });
        // A cancellation's own completion has no name.
        let (place, op) = unname(completion.user_data())?;
        let accepted = match result {
            // SAFETY: the kernel has just opened this descriptor for us, and says so once.
            Ok(fd) if op == Op::Accept => Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
            _ => None,
        };
        let over = !cqueue::more(completion.flags());
        let end = self.ends.get_mut(place.0 as usize)?.as_mut()?;
        assert!(end.busy & op as u8 != 0, "a request completes until it is over");
        if over {
            end.busy &= !(op as u8);
            self.in_flight -= 1;
        }
        if end.leaving {
            let idle = end.busy == 0;
            lent.into_iter().for_each(|lent| self.buffers.give_back(lent));
            if idle {
                self.free(place);
            }
            return None;
        }
        if op == Op::Send
            && let (Ok(bytes), Some((buffer, sent))) = (result, end.sending.as_mut())
        {
            *sent += bytes as usize;
            if bytes > 0 && *sent < buffer.len() {
                self.send_rest(place);
                return None;
            }
        }
        Some(Done { token: end.token, place, op, result, lent, accepted, over })
    }

    fn end(&mut self, place: Place) -> Option<&mut End> {
        self.ends.get_mut(place.0 as usize)?.as_mut().filter(|end| !end.leaving)
    }

    fn free(&mut self, place: Place) {
        self.ends[place.0 as usize] = None;
        self.free.push(place);
    }

    /// Queues a request of an end, unless one of its kind is in flight.
    fn start(&mut self, place: Place, op: Op, entry: impl FnOnce(&End) -> squeue::Entry) {
        let Some(end) = self.end(place) else { return };
        if end.busy & op as u8 != 0 {
            return;
        }
        end.busy |= op as u8;
        let entry = entry(end).user_data(name(place, op));
        self.in_flight += 1;
        self.push(entry);
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: what an entry refers to must stay valid until its last completion. Descriptors
        // belong to an end, which is not freed before (invariant 1); `remove` names one of an end that
        // is still busy. The one pointer is that of `send_rest`, into the heap space of
        // `End::sending`, which does not move, is not written to, and is dropped by `sent` and `free`
        // when the send is over, or by `Drop`. `Receive` and `Wake` write into `buffers` alone.
        let queue = |ring: &mut IoUring| unsafe { ring.submission().push(&entry) }.is_ok();
        if !self.backlog.is_empty() || !queue(&mut self.ring) {
            self.backlog.push_back(entry);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.enabled {
            // Nothing was ever handed over.
            return;
        }
        self.ends.iter_mut().flatten().for_each(|end| end.leaving = true);
        let give_up = Instant::now() + FAREWELL;
        let mut before = 0;
        while self.in_flight > 0 && Instant::now() < give_up {
            // The kernel ends some twenty at a time.
            if self.in_flight != before {
                before = self.in_flight;
                self.push(opcode::AsyncCancel2::new(CancelBuilder::any()).build());
            }
            if self.wait(Some(FAREWELL / 50)).is_err() {
                break;
            }
            // Of ends that leave nothing is reported.
            while self.next().is_some() {}
        }
        if self.in_flight > 0 {
            self.buffers.leave_behind();
            let sending = self.ends.iter_mut().flatten().filter_map(|end| end.sending.take());
            sending.for_each(|(buffer, _)| std::mem::forget(buffer));
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} in flight, {} queued)", self.in_flight, self.backlog.len())
    }
}

/// `MSG_WAITALL`, which rustix knows for receiving alone.
const MSG_WAITALL: u32 = rustix::net::RecvFlags::WAITALL.bits();

/// How a request is told from others: never 0.
fn name(place: Place, op: Op) -> u64 {
    u64::from(place.0) << 8 | op as u64
}

fn unname(name: u64) -> Option<(Place, Op)> {
    let op = Op::ALL.into_iter().find(|op| *op as u64 == name & 0xff)?;
    Some((Place((name >> 8) as u32), op))
}
