//! Other ways in than the cores' own listeners: TLS and a Unix socket. A thread each waits for connections
//! and hands them to the cores in turn.

use crate::shared::{Shared, lock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

/// How often such a thread looks whether the server stops.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How long accepting rests when there are no file descriptors left.
const REST: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A way in.
pub(crate) enum Door {
    Tls(TcpListener),
    Unix(UnixListener),
}

/// A connection that came another way than through a core's own listener.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) socket: OwnedFd,
    pub(crate) way: Way,
}

/// How a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Tcp,
    Tls,
    Unix,
}

/// Opens a door; it closes when the server stops.
pub(crate) fn open(shared: Arc<Shared>, door: Door) -> io::Result<()> {
    let name = match &door {
        Door::Tls(listener) => {
            listener.set_nonblocking(true)?;
            "tls-listener"
        }
        Door::Unix(listener) => {
            listener.set_nonblocking(true)?;
            "unix-listener"
        }
    };
    std::thread::Builder::new().name(name.into()).spawn(move || watch(&shared, &door))?;
    Ok(())
}

fn watch(shared: &Shared, door: &Door) {
    let mut turn = 0;
    while !shared.stopping() {
        let fd = match door {
            Door::Tls(listener) => listener.as_fd(),
            Door::Unix(listener) => listener.as_fd(),
        };
        // Interrupted, or nothing: the loop looks again.
        let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&LOOK));
        match accept(door) {
            Ok(newcomer) => {
                shared.hand_over(turn, newcomer);
                turn += 1;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections at the moment");
                // Nothing is waited for but time.
                let _ = poll(&mut [], Some(&REST));
            }
        }
    }
}

fn accept(door: &Door) -> io::Result<Newcomer> {
    let (socket, way): (OwnedFd, Way) = match door {
        Door::Tls(listener) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            (stream.into(), Way::Tls)
        }
        Door::Unix(listener) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            (stream.into(), Way::Unix)
        }
    };
    Ok(Newcomer { socket, way })
}

impl Shared {
    /// Gives a connection to a core.
    fn hand_over(&self, turn: usize, newcomer: Newcomer) {
        let core = turn % self.inboxes.len().max(1);
        if let (Some(inbox), Some(waker)) = (self.inboxes.get(core), self.wakers.get(core)) {
            lock(inbox).push(newcomer);
            waker.wake_by_ref();
        }
    }

    /// What was given to a core.
    pub(crate) fn take_over(&self, core: usize) -> Vec<Newcomer> {
        self.inboxes.get(core).map(|inbox| std::mem::take(&mut *lock(inbox))).unwrap_or_default()
    }
}
