//! Reads the common form of a line by hand: known fields, plain names, integers of up to 18 digits.
//!
//! It answers how much it has read, or nothing as soon as it meets anything else, also where that is
//! an error: the batch is then as it was before (but for names, which do no harm).

use crate::history::Level;
use crate::history::fault::Location;
use crate::history::raw::{Batch, Event, Function, Kind, RawOperation, Scalar, Span, is_plain};

/// Adds the event that the line holds; the count of bytes that it took.
pub(super) fn add(line: &[u8], place: Location, batch: &mut Batch) -> Option<usize> {
    let (operations, elements) = (batch.operations.len(), batch.elements.len());
    let mut cursor = Cursor { bytes: line, at: 0 };
    let event = cursor.event(place, batch);
    if let (Some(event), true) = (event, cursor.at == line.len()) {
        batch.events.push(event);
        return Some(cursor.at);
    }
    batch.operations.truncate(operations);
    batch.elements.truncate(elements);
    None
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What has been found of an event.
#[derive(Default)]
struct Found {
    kind: Option<Kind>,
    process: Option<u32>,
    index: Option<u64>,
    level: Option<Level>,
    commit: Option<u64>,
    /// Whether there were operations, or null.
    value: Option<bool>,
    time: bool,
    function: bool,
}

/// Sets what has not been set.
fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

impl<'a> Cursor<'a> {
    fn event(&mut self, place: Location, batch: &mut Batch) -> Option<Event> {
        let first = u32::try_from(batch.operations.len()).ok()?;
        let mut found = Found::default();
        self.expect(b'{')?;
        loop {
            self.field(&mut found, batch)?;
            if !self.goes_on(b'}')? {
                break;
            }
        }
        let kind = found.kind?;
        if !found.value.unwrap_or(false) && matches!(kind, Kind::Invoke | Kind::Ok) {
            return None;
        }
        Some(Event {
            kind,
            function: Function::Transaction,
            process: Some(found.process?),
            index: found.index,
            level: found.level,
            commit: found.commit,
            place,
            told: true,
            first,
        })
    }

    fn field(&mut self, found: &mut Found, batch: &mut Batch) -> Option<()> {
        let name = self.string()?;
        self.expect(b':')?;
        match name {
            b"index" => once(&mut found.index, self.natural()?),
            b"process" => {
                let process = u32::try_from(self.natural()?).ok().filter(|id| *id < u32::MAX)?;
                once(&mut found.process, process)
            }
            b"time" => {
                self.integer()?;
                let again = std::mem::replace(&mut found.time, true);
                (!again).then_some(())
            }
            b"type" => {
                let kind = Kind::of(std::str::from_utf8(self.string()?).ok()?)?;
                once(&mut found.kind, kind)
            }
            b"f" => {
                let again = std::mem::replace(&mut found.function, true);
                (self.string()? == b"txn" && !again).then_some(())
            }
            b"commit" => once(&mut found.commit, self.natural()?),
            b"isolation" => {
                let level = Level::parse(std::str::from_utf8(self.string()?).ok()?)?;
                once(&mut found.level, level)
            }
            b"value" => {
                let told = self.value(batch)?;
                once(&mut found.value, told)
            }
            _ => None,
        }
    }

    /// The operations of a transaction; whether there are any to tell.
    fn value(&mut self, batch: &mut Batch) -> Option<bool> {
        if self.null()? {
            return Some(false);
        }
        self.expect(b'[')?;
        if self.is_next(b']')? {
            return Some(true);
        }
        loop {
            let operation = self.operation(batch)?;
            batch.operations.push(operation);
            if !self.goes_on(b']')? {
                return Some(true);
            }
        }
    }

    fn operation(&mut self, batch: &mut Batch) -> Option<RawOperation> {
        self.expect(b'[')?;
        let name = self.string()?;
        self.expect(b',')?;
        let key = self.scalar(batch)?;
        let operation = match (name, self.goes_on(b']')?) {
            (b"r", false) => return Some(RawOperation::Read { key, value: Scalar::Nil }),
            (_, false) => return None,
            (b"r", true) if self.peek()? == b'[' => {
                RawOperation::ReadList { key, list: self.list(batch)? }
            }
            (b"r", true) => RawOperation::Read { key, value: self.scalar(batch)? },
            (b"append", true) => RawOperation::Append { key, value: self.scalar(batch)? },
            (b"w", true) => RawOperation::Write { key, value: self.scalar(batch)? },
            _ => return None,
        };
        self.expect(b']')?;
        Some(operation)
    }

    fn list(&mut self, batch: &mut Batch) -> Option<Span> {
        let start = u32::try_from(batch.elements.len()).ok()?;
        self.expect(b'[')?;
        if !self.is_next(b']')? {
            loop {
                let element = self.scalar(batch)?;
                batch.elements.push(element);
                if !self.goes_on(b']')? {
                    break;
                }
            }
        }
        let end = u32::try_from(batch.elements.len()).ok()?;
        Some(Span { start, length: end - start })
    }

    fn scalar(&mut self, batch: &mut Batch) -> Option<Scalar> {
        match self.peek()? {
            b'"' => {
                let text = std::str::from_utf8(self.string()?).ok()?;
                is_plain(text).then(|| batch.name(text))
            }
            b'n' => self.null()?.then_some(Scalar::Nil),
            _ => self.integer().map(Scalar::Integer),
        }
    }

    fn blank(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    /// The next byte behind white space.
    fn peek(&mut self) -> Option<u8> {
        self.blank();
        self.bytes.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.is_next(byte)?.then_some(())
    }

    /// Takes this byte if it comes next.
    fn is_next(&mut self, byte: u8) -> Option<bool> {
        let is = self.peek()? == byte;
        self.at += usize::from(is);
        Some(is)
    }

    /// Behind an element: whether another follows (a comma), or the end.
    fn goes_on(&mut self, end: u8) -> Option<bool> {
        if self.is_next(b',')? {
            return Some(true);
        }
        self.expect(end)?;
        Some(false)
    }

    fn null(&mut self) -> Option<bool> {
        if self.peek()? != b'n' {
            return Some(false);
        }
        let is = self.bytes[self.at..].starts_with(b"null");
        self.at += 4;
        is.then_some(true)
    }

    /// What stands between quotes; none if it has escapes or control characters.
    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let begin = self.at;
        loop {
            match self.bytes.get(self.at)? {
                b'"' => break,
                b'\\' | 0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        Some(&self.bytes[begin..self.at - 1])
    }

    fn natural(&mut self) -> Option<u64> {
        self.integer().and_then(|integer| u64::try_from(integer).ok())
    }

    fn integer(&mut self) -> Option<i64> {
        /// So many digits fit 64 bits, whatever they are.
        const DIGITS_MAX: usize = 18;
        let negative = self.is_next(b'-')?;
        let begin = self.at;
        let mut number = 0_i64;
        while let Some(digit @ b'0'..=b'9') = self.bytes.get(self.at) {
            if self.at - begin == DIGITS_MAX {
                return None;
            }
            number = number * 10 + i64::from(digit - b'0');
            self.at += 1;
        }
        let digits = &self.bytes[begin..self.at];
        let zeros = digits.len() > 1 && digits[0] == b'0';
        let odd = matches!(self.bytes.get(self.at), Some(b'.' | b'e' | b'E'));
        if digits.is_empty() || zeros || odd || (negative && number == 0) {
            return None;
        }
        Some(if negative { -number } else { number })
    }
}
