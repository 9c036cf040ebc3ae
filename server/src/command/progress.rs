//! How far a command is, on one line of a terminal that is written over; nothing where standard error is
//! no terminal.

use std::io::{IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use isolith_testkit::picture::text::{counted, harmless};

/// Nothing is shown of what is over within this time, nor more often.
const EVERY: Duration = Duration::from_millis(200);

/// The line.
#[derive(Debug)]
pub(super) struct Shown {
    on_terminal: bool,
    last: Instant,
    is_there: bool,
}

impl Shown {
    /// An empty one.
    pub(super) fn new() -> Shown {
        let on_terminal = std::io::stderr().is_terminal();
        Shown { on_terminal, last: Instant::now(), is_there: false }
    }

    /// Shows how far it is, if it was not just done.
    pub(super) fn show(&mut self, text: impl FnOnce() -> String) {
        if !self.on_terminal || self.last.elapsed() < EVERY {
            return;
        }
        (self.last, self.is_there) = (Instant::now(), true);
        // A terminal that is gone is no reason to stop.
        let _ = std::io::stderr().write_all(format!("\r\x1b[K{}", harmless(&text())).as_bytes());
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_there) {
            let _ = std::io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// Reads, and shows how much.
pub(super) struct Counted<'a, R> {
    reader: R,
    shown: &'a mut Shown,
    name: String,
    bytes: u64,
    /// Of how many, where that is known.
    of: Option<u64>,
}

impl<'a, R> Counted<'a, R> {
    /// Reads what is called so.
    pub(super) fn new(
        reader: R,
        name: String,
        of: Option<u64>,
        shown: &'a mut Shown,
    ) -> Counted<'a, R> {
        Counted { reader, shown, name, bytes: 0, of }
    }
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bytes += count as u64;
        let megabytes = |bytes: u64| counted(bytes >> 20);
        let (name, bytes, of) = (&self.name, self.bytes, self.of);
        self.shown.show(|| match of {
            Some(of) => format!("{name}: read {} of {} MiB", megabytes(bytes), megabytes(of)),
            None => format!("{name}: read {} MiB", megabytes(bytes)),
        });
        Ok(count)
    }
}
