//! A source of bytes, read in pieces, that knows the line and the offset of what is looked at.

use std::io::Read;

use super::fault::{Fault, Location, ReadError};

/// No operation is longer: what is longer is not a history, and would only fill the memory.
pub(crate) const OPERATION_BYTES_MAX: usize = 256 << 20;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// The byte order mark of UTF-8, which some editors put before everything.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A reader, and what has been read and not been taken yet.
#[derive(Debug)]
pub(crate) struct Source<R> {
    reader: R,
    buffer: Vec<u8>,
    /// Before this everything has been taken.
    start: usize,
    /// Where `start` is.
    place: Location,
    /// Whether there is nothing more to read.
    ended: bool,
}

impl<R: Read> Source<R> {
    /// A source, beyond its byte order mark.
    pub(crate) fn new(reader: R) -> Result<Source<R>, ReadError> {
        let place = Location { line: 1, offset: 0 };
        let mut source = Source { reader, buffer: Vec::new(), start: 0, place, ended: false };
        source.fill(1)?;
        if source.rest().starts_with(MARK) {
            source.take(MARK.len());
        }
        Ok(source)
    }

    /// What has been read and not been taken.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Where that begins.
    pub(crate) fn place(&self) -> Location {
        self.place
    }

    /// Where its byte `at` is.
    pub(crate) fn place_of(&self, at: usize) -> Location {
        place_after(self.place, &self.rest()[..at.min(self.rest().len())])
    }

    /// Whether nothing comes after what has been read.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// Takes so many bytes.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.place = self.place_of(bytes);
        self.start += bytes.min(self.rest().len());
    }

    /// Takes so many bytes that hold so many ends of lines.
    pub(crate) fn take_lines(&mut self, bytes: usize, lines: u64) {
        self.place.line += lines;
        self.place.offset += bytes as u64;
        self.start += bytes;
    }

    /// Reads more, at least as much as there is already, so that looking again costs little.
    pub(crate) fn more(&mut self) -> Result<(), ReadError> {
        if self.rest().len() > OPERATION_BYTES_MAX {
            return Err(Fault::TooLong(OPERATION_BYTES_MAX).at(self.place));
        }
        self.fill(self.rest().len().max(PIECE_BYTES))
    }

    /// Reads until so many bytes have come in, or the end.
    pub(crate) fn fill(&mut self, bytes: usize) -> Result<(), ReadError> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let wanted = (self.buffer.len() + bytes) as u64;
        while !self.ended && (self.buffer.len() as u64) < wanted {
            let missing = wanted - self.buffer.len() as u64;
            let mut limited = self.reader.by_ref().take(missing.max(PIECE_BYTES as u64));
            match limited.read_to_end(&mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) => return Err(Fault::Io(error).at(self.place)),
            }
        }
        Ok(())
    }
}

/// The place behind some text.
pub(crate) fn place_after(place: Location, text: &[u8]) -> Location {
    let lines = memchr::memchr_iter(b'\n', text).count() as u64;
    Location { line: place.line + lines, offset: place.offset + text.len() as u64 }
}
