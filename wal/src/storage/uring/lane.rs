//! A ring for one write at a time: the only place where the kernel is given a pointer.
//!
//! 1. `load` is set from before an entry is pushed until its completion was taken from the ring, or
//!    the ring is known not to have taken the entry and is closed. While it is set nobody touches
//!    the buffer's bytes.
//! 2. A lane is owned: `&mut` or by value. So what it says of its own ring cannot change under it,
//!    but for what the kernel does.
//! 3. In a forked child a loaded lane is the parent's: neither its ring nor its buffer is touched.

#![expect(unsafe_code, reason = "the kernel reads the buffer through a pointer until it is done")]

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use crate::environment::fork;
use crate::storage::syscall::Descriptors;
use crate::storage::{IoBuffer, Reach};

/// What a write needs while it is in flight.
pub(super) struct Load {
    pub(super) descriptors: Arc<Descriptors>,
    pub(super) offset: u64,
    pub(super) buffer: IoBuffer,
}

/// A ring, with its write if there is one.
pub(in crate::storage) struct Lane {
    ring: IoUring,
    load: Option<Load>,
    /// Of the process that made the ring.
    generation: u64,
    /// Writes so far; given to each entry and expected back.
    count: u64,
}

impl Lane {
    /// A new ring. No optional flags are asked for, so that there are none to do without.
    pub(super) fn new() -> io::Result<Lane> {
        let ring = IoUring::new(1)?;
        Ok(Lane { ring, load: None, generation: fork::generation(), count: 0 })
    }

    /// Starts a synced write. The load comes back when the kernel did not take it, or when the ring
    /// is the parent process's; the ring is closed then.
    pub(super) fn start(mut self, load: Load) -> Result<Lane, Load> {
        assert!(self.load.is_none(), "a lane carries one write");
        if fork::generation() != self.generation {
            return Err(load);
        }
        self.count += 1;
        let route = load.descriptors.route(Reach::Stable);
        let Ok(bytes) = u32::try_from(load.buffer.len()) else { return Err(load) };
        let entry = opcode::Write::new(
            types::Fd(route.descriptor.as_raw_fd()),
            load.buffer.as_ptr(),
            bytes,
        )
        .offset(load.offset)
        .rw_flags(route.flags.bits() as i32)
        .build()
        .user_data(self.count);
        self.load = Some(load);
        // SAFETY: the entry's descriptor and its `bytes` bytes at the buffer's address must stay
        // valid until the kernel is done with them. Both belong to `self.load` now: the descriptor
        // is open while `descriptors` lives, and moving the `IoBuffer` does not move its heap
        // space. `self.load` is taken out in three places: `unload` after the completion was seen;
        // below, when the ring says that the entry was not taken, and is dropped without being
        // entered again; and `Drop`, which waits for the completion or leaks it.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "the ring of an idle lane is empty");
        loop {
            let submitted = self.ring.submit();
            // The kernel moves the head past what it takes before it returns, with or without an
            // error; nobody else enters this ring.
            if self.ring.submission().is_empty() {
                return Ok(self);
            }
            match submitted {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => break,
            }
        }
        Err(self.load.take().expect("it was put there above"))
    }

    /// Blocks until the write is done: the bytes written, or the kernel's error, and the load.
    /// `None` in a forked child.
    pub(super) fn finish(&mut self) -> Option<(Result<usize, Errno>, Load)> {
        if fork::generation() != self.generation {
            return None;
        }
        loop {
            if let Some(finished) = self.unload() {
                return Some(finished);
            }
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    // A filter has closed the ring to this thread. The completion still comes, and
                    // until then the buffer is not ours: look for it from time to time.
                    std::thread::sleep(Duration::from_micros(100));
                }
                _ => {}
            }
        }
    }

    /// Whether the write of an abandoned lane is over; its load is dropped then.
    pub(super) fn unload_if_done(&mut self) -> bool {
        fork::generation() == self.generation && self.unload().is_some()
    }

    fn unload(&mut self) -> Option<(Result<usize, Errno>, Load)> {
        let completion = self.ring.completion().next()?;
        assert_eq!(completion.user_data(), self.count, "one write, one completion");
        let result = match usize::try_from(completion.result()) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(Errno::from_raw_os_error(-completion.result())),
        };
        let load = self.load.take().expect("a completion is of a loaded lane");
        Some((result, load))
    }

    #[cfg(test)]
    pub(super) fn pretend_forked(&mut self) {
        self.generation = u64::MAX;
    }

    /// One entry through the ring and back, for `probe`.
    fn no_op(&mut self) -> io::Result<()> {
        let entry = opcode::Nop::new().build().user_data(self.count);
        // SAFETY: a no-op refers to no memory and no descriptor.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        assert!(pushed.is_ok(), "the ring of an idle lane is empty");
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    other?;
                    break;
                }
            }
        }
        match self.ring.completion().next() {
            Some(completion) if completion.result() == 0 => Ok(()),
            Some(completion) => Err(io::Error::from_raw_os_error(-completion.result())),
            None => Err(io::Error::other("a no-op did not complete")),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.load.is_some() && self.finish().is_none() {
            // A forked child: the parent's kernel requests refer to the parent's memory, so the
            // child could free its copy; but it must not take the parent's completion to know when.
            std::mem::forget(self.load.take());
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lane({} writes, loaded: {})", self.count, self.load.is_some())
    }
}

/// Where io_uring was refused, and how.
#[derive(Debug)]
pub(in crate::storage) struct Denied {
    pub(in crate::storage) step: &'static str,
    pub(in crate::storage) error: io::Error,
}

/// Finds out whether io_uring can be used: sets a ring up, asks it what it can do, and sends a
/// no-op through it. Each may be denied alone. The ring is returned for use.
pub(in crate::storage) fn probe() -> Result<Lane, Denied> {
    let denied = |step| move |error| Denied { step, error };
    let mut lane = Lane::new().map_err(denied("io_uring_setup"))?;
    let mut known = Probe::new();
    let submitter = lane.ring.submitter();
    submitter.register_probe(&mut known).map_err(denied("io_uring_register"))?;
    if !known.is_supported(opcode::Write::CODE) {
        let error = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        return Err(Denied { step: "IORING_OP_WRITE", error });
    }
    lane.no_op().map_err(denied("io_uring_enter"))?;
    Ok(lane)
}
