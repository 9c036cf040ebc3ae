//! What ends the server: a signal, or a core that has ended.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Why the server is to end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Signal(&'static str),
    /// SIGHUP: files are to be read anew.
    Reload,
    CoreEnded,
}

/// Where such events arrive.
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// Takes SIGTERM, SIGINT and SIGHUP over. A second signal ends the process at once, as it would have.
    pub(crate) fn new() -> io::Result<Events> {
        let (sender, receiver) = channel();
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
        let own = sender.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let mut count = 0;
            for signal in signals.forever() {
                if signal == SIGHUP {
                    let _ = own.send(Event::Reload);
                    continue;
                }
                let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
                if count > 0 {
                    tracing::warn!("{name} again: leaving at once; nothing acknowledged is lost");
                    let _ = signal_hook::low_level::emulate_default_handler(signal);
                }
                // Nobody listens any more only when the process is about to end anyway.
                count += 1;
                let _ = own.send(Event::Signal(name));
            }
        })?;
        Ok(Events { sender, receiver })
    }

    /// For a core to hold: dropped, it tells that the core has ended.
    pub(crate) fn notice(&self) -> Notice {
        Notice { sender: self.sender.clone() }
    }

    /// Waits for the first event.
    pub(crate) fn wait(&self) -> Event {
        // The sender that we hold ourselves keeps the channel open.
        self.receiver.recv().unwrap_or(Event::CoreEnded)
    }
}

/// See [`Events::notice`].
pub(crate) struct Notice {
    sender: Sender<Event>,
}

impl Drop for Notice {
    fn drop(&mut self) {
        let _ = self.sender.send(Event::CoreEnded);
    }
}
