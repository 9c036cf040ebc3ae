//! Parses requests in place and incrementally: RESP arrays of bulk strings, and inline commands.
//!
//! 1. Nothing is allocated by a length that a client declares: the list of arguments grows by one
//!    entry per argument that has arrived, and the bytes stay where they were received.
//! 2. Work is linear in the bytes received: a request that arrives in many pieces is continued where
//!    the last piece ended, never parsed anew.
//! 3. However the bytes are cut into pieces, the commands are the same.
//! 4. After a [`ProtocolError`] the stream has no meaning any more: the connection says why and closes.
//!
//! ```text
//!            first byte '*'                    count > 0                 all arguments there
//!   Start ───────────────────► header line ───────────────► bulks ─────────────────────────► Ready
//!     │  any other byte                                                                        │
//!     └──────────────────────► inline line ────────────────────────────────────────────────────┤
//!     ▲                                                                             `finish`   │
//!     └────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Texts of the errors are those of Redis 7. Source: the RESP specification, and `networking.c` of
//! Redis 7.0 for which limits apply where.

use crate::limits::{BULK_BYTES_MAX, Limit, Limits, REQUEST_BYTES_MAX};
use std::fmt;

/// The longest line: an inline command, or the header of an array or a bulk.
pub(crate) const INLINE_BYTES_MAX: usize = 64 * 1024;
/// The most arguments of one command.
pub(crate) const ARGUMENTS_MAX: i64 = 1024 * 1024;
/// The most arguments, and the longest, of clients that have not proven who they are.
pub(crate) const ARGUMENTS_MAX_UNPROVEN: i64 = 10;
pub(crate) const BULK_BYTES_MAX_UNPROVEN: i64 = 16 * 1024;

/// Where an argument lies, counted from the first byte of its command. Requests are no longer than
/// [`REQUEST_BYTES_MAX`](crate::limits::REQUEST_BYTES_MAX), so four bytes each are enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Span {
        // Both are below REQUEST_BYTES_MAX, which `Parser::parse` has checked.
        Span { start: start as u32, end: end as u32 }
    }
}

/// The arguments of one command, its name first.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// How many there are, the name included.
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The argument at `index`, if there is one.
    pub(crate) fn get(&self, index: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(index)?;
        self.bytes.get(span.start as usize..span.end as usize)
    }

    /// The argument at `index`; empty when there is none. For indices that the command's arity
    /// has already vouched for.
    pub(crate) fn at(&self, index: usize) -> &'a [u8] {
        self.get(index).unwrap_or_default()
    }

    /// The arguments from `index` on.
    pub(crate) fn from(&self, index: usize) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.spans
            .get(index..)
            .unwrap_or_default()
            .iter()
            .map(move |span| bytes.get(span.start as usize..span.end as usize).unwrap_or_default())
    }

    /// The sum of the arguments' lengths.
    pub(crate) fn bytes(&self) -> usize {
        self.spans.iter().map(|span| (span.end - span.start) as usize).sum()
    }

    /// The length of the request up to its last argument's end: no less than [`bytes`](Args::bytes), and at
    /// no cost.
    pub(crate) fn extent(&self) -> usize {
        self.spans.last().map_or(0, |last| last.end as usize)
    }

    /// A copy that does not depend on the connection's buffer.
    pub(crate) fn to_owned(self) -> OwnedArgs {
        let mut owned = OwnedArgs {
            bytes: Vec::with_capacity(self.bytes()),
            spans: Vec::with_capacity(self.len()),
        };
        for argument in self.from(0) {
            let start = owned.bytes.len();
            owned.bytes.extend_from_slice(argument);
            owned.spans.push(Span::new(start, owned.bytes.len()));
        }
        owned
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.from(0).map(String::from_utf8_lossy)).finish()
    }
}

/// Arguments that own their bytes: what MULTI queues.
pub(crate) struct OwnedArgs {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl OwnedArgs {
    /// Lends them to a handler.
    pub(crate) fn lend(&self) -> Args<'_> {
        Args { bytes: &self.bytes, spans: &self.spans }
    }

    /// What they hold in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}

/// Why a byte stream is not RESP. Displays as the text after `-ERR Protocol error: `.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    InlineTooBig,
    CountTooBig,
    BulkCountTooBig,
    UnbalancedQuotes,
    ArrayLength,
    BulkLength,
    ExpectedBulk(u8),
    ExpectedLineEnd,
    RequestTooBig,
    UnprovenArrayLength,
    UnprovenBulkLength,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::InlineTooBig => f.write_str("too big inline request"),
            ProtocolError::CountTooBig => f.write_str("too big mbulk count string"),
            ProtocolError::BulkCountTooBig => f.write_str("too big bulk count string"),
            ProtocolError::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::ArrayLength => f.write_str("invalid multibulk length"),
            ProtocolError::BulkLength => f.write_str("invalid bulk length"),
            ProtocolError::ExpectedBulk(got) => {
                write!(f, "expected '$', got '{}'", got.escape_ascii())
            }
            ProtocolError::ExpectedLineEnd => f.write_str("expected CRLF"),
            ProtocolError::UnprovenArrayLength => f.write_str("unauthenticated multibulk length"),
            ProtocolError::UnprovenBulkLength => f.write_str("unauthenticated bulk length"),
            ProtocolError::RequestTooBig => {
                f.write_str("request larger than client-query-buffer-limit")
            }
        }
    }
}

/// What [`Parser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// More bytes are needed.
    Incomplete,
    /// A whole command: look at it with [`Parser::args`], leave it with [`Parser::finish`].
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte of a request.
    Start,
    /// `missing` arguments are still to come; the next one's header is at `at`.
    Header { missing: u32 },
    /// The next argument has `length` bytes from `at` on.
    Bulk { missing: u32, length: usize },
    /// A whole command lies before `at`; `inline`: its arguments are in `unquoted`.
    Ready { inline: bool },
}

/// The parser of one connection.
pub(crate) struct Parser {
    state: State,
    /// How far the current request has been understood.
    at: usize,
    spans: Vec<Span>,
    /// The arguments of an inline command, quotes and escapes resolved.
    unquoted: Vec<u8>,
    /// The client has proven who it is, or need not.
    trusted: bool,
    /// The longest argument, and the longest request.
    bulk_bytes_max: i64,
    request_bytes_max: usize,
}

impl Parser {
    pub(crate) fn new() -> Parser {
        Parser {
            state: State::Start,
            at: 0,
            spans: Vec::new(),
            unquoted: Vec::new(),
            trusted: true,
            bulk_bytes_max: BULK_BYTES_MAX as i64,
            request_bytes_max: REQUEST_BYTES_MAX as usize,
        }
    }

    /// Says how long an argument and a request may be, from now on.
    pub(crate) fn allow(&mut self, limits: &Limits) {
        self.bulk_bytes_max = limits.value(Limit::Bulk).min(BULK_BYTES_MAX) as i64;
        self.request_bytes_max = limits.value(Limit::Request).min(REQUEST_BYTES_MAX) as usize;
    }

    /// Says whether the client has proven who it is, for what is parsed from now on.
    pub(crate) fn trust(&mut self, trusted: bool) {
        self.trusted = trusted;
    }

    /// Goes on with a request. `input` begins where the request begins and holds everything of it
    /// that has arrived; empty requests before it are stepped over (and counted by [`finish`]).
    ///
    /// [`finish`]: Parser::finish
    pub(crate) fn parse(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        loop {
            match self.state {
                State::Ready { .. } => return Ok(Step::Ready),
                State::Start => match input.get(self.at) {
                    None => return Ok(Step::Incomplete),
                    Some(b'*') => {
                        let Some(count) = header(&input[self.at..], ProtocolError::CountTooBig)?
                        else {
                            return Ok(Step::Incomplete);
                        };
                        let value = count
                            .value
                            .filter(|&value| value <= ARGUMENTS_MAX)
                            .ok_or(ProtocolError::ArrayLength)?;
                        if !self.trusted && value > ARGUMENTS_MAX_UNPROVEN {
                            return Err(ProtocolError::UnprovenArrayLength);
                        }
                        self.at += count.bytes;
                        if value > 0 {
                            self.state = State::Header { missing: value as u32 };
                        }
                    }
                    Some(_) => {
                        if !self.inline(input)? {
                            return Ok(Step::Incomplete);
                        }
                    }
                },
                State::Header { missing: 0 } => self.state = State::Ready { inline: false },
                State::Header { missing } => {
                    let rest = &input[self.at..];
                    match rest.first() {
                        None => return Ok(Step::Incomplete),
                        Some(b'$') => {}
                        Some(&got) => return Err(ProtocolError::ExpectedBulk(got)),
                    }
                    let Some(length) = header(rest, ProtocolError::BulkCountTooBig)? else {
                        return Ok(Step::Incomplete);
                    };
                    let value = length
                        .value
                        .filter(|value| (0..=self.bulk_bytes_max).contains(value))
                        .ok_or(ProtocolError::BulkLength)?;
                    if !self.trusted && value > BULK_BYTES_MAX_UNPROVEN {
                        return Err(ProtocolError::UnprovenBulkLength);
                    }
                    self.at += length.bytes;
                    self.check_request(value as usize)?;
                    self.state = State::Bulk { missing, length: value as usize };
                }
                State::Bulk { missing, length } => {
                    let Some(end) = input.get(self.at + length..self.at + length + 2) else {
                        return Ok(Step::Incomplete);
                    };
                    if end != b"\r\n" {
                        return Err(ProtocolError::ExpectedLineEnd);
                    }
                    self.spans.push(Span::new(self.at, self.at + length));
                    self.at += length + 2;
                    self.state = State::Header { missing: missing - 1 };
                }
            }
        }
    }

    /// Refuses a request that would grow too large, before its bytes have come.
    fn check_request(&self, length: usize) -> Result<(), ProtocolError> {
        match self.at.saturating_add(length) > self.request_bytes_max {
            true => Err(ProtocolError::RequestTooBig),
            false => Ok(()),
        }
    }

    /// The command that [`parse`](Parser::parse) found; `input` as it was given there.
    pub(crate) fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        let bytes = match self.state {
            State::Ready { inline: true } => &self.unquoted,
            _ => input,
        };
        Args { bytes, spans: &self.spans }
    }

    /// Leaves the command that was found; returns how many bytes of the input it took. Also to be
    /// called after `Incomplete` with nothing begun, to drop empty requests: see [`idle`].
    ///
    /// [`idle`]: Parser::idle
    pub(crate) fn finish(&mut self) -> usize {
        let taken = self.at;
        self.state = State::Start;
        self.at = 0;
        self.spans.clear();
        self.unquoted.clear();
        // One request with a million arguments must not be paid for as long as the client stays.
        if self.spans.capacity() > 1024 {
            self.spans = Vec::new();
        }
        if self.unquoted.capacity() > 4096 {
            self.unquoted = Vec::new();
        }
        taken
    }

    /// True if a whole command has been found and not left.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// True if nothing follows the command that was found.
    pub(crate) fn is_last(&self, input: &[u8]) -> bool {
        self.at >= input.len()
    }

    /// Forgets what was parsed since the last `finish`: the same bytes will come again.
    pub(crate) fn restart(&mut self) {
        self.finish();
    }

    /// True if no request is under way: what was passed so far (empty requests) may be dropped.
    pub(crate) fn idle(&self) -> bool {
        self.state == State::Start
    }

    /// One inline line. False: it has not ended yet.
    fn inline(&mut self, input: &[u8]) -> Result<bool, ProtocolError> {
        let rest = &input[self.at..];
        let Some(end) = memchr::memchr(b'\n', rest) else {
            return match rest.len() > INLINE_BYTES_MAX {
                true => Err(ProtocolError::InlineTooBig),
                false => Ok(false),
            };
        };
        if end > INLINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooBig);
        }
        let line = &rest[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        split_line(line, &mut self.unquoted, &mut self.spans)?;
        self.at += end + 1;
        if !self.spans.is_empty() {
            self.state = State::Ready { inline: true };
        }
        Ok(true)
    }
}

/// A header line: its number, if it is one, and how many bytes the line takes with its CRLF.
struct Header {
    value: Option<i64>,
    bytes: usize,
}

/// Reads the header line (`*3\r\n`, `$5\r\n`) that `rest` begins with. `None`: not whole yet.
fn header(rest: &[u8], too_big: ProtocolError) -> Result<Option<Header>, ProtocolError> {
    // Nearly all are as short as this; the rest of the function would read them the same.
    match *rest {
        [_, ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            return Ok(Some(Header { value: Some(i64::from(ones - b'0')), bytes: 4 }));
        }
        [_, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => {
            let value = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            return Ok(Some(Header { value: Some(value), bytes: 5 }));
        }
        _ => {}
    }
    let Some(end) = memchr::memchr(b'\n', rest) else {
        return if rest.len() > INLINE_BYTES_MAX { Err(too_big) } else { Ok(None) };
    };
    if end > INLINE_BYTES_MAX {
        return Err(too_big);
    }
    let digits = rest[1..end].strip_suffix(b"\r").ok_or(ProtocolError::ExpectedLineEnd)?;
    Ok(Some(Header { value: crate::number::parse(digits), bytes: end + 1 }))
}

/// Splits an inline line into arguments: separated by blanks; `"…"` with the escapes of C and
/// `\xHH`; `'…'` with `\'` alone. A closing quote must be followed by a blank or the end.
fn split_line(
    line: &[u8],
    unquoted: &mut Vec<u8>,
    spans: &mut Vec<Span>,
) -> Result<(), ProtocolError> {
    let mut bytes = line.iter().copied().peekable();
    loop {
        while bytes.next_if(|byte| is_blank(*byte)).is_some() {}
        if bytes.peek().is_none() {
            return Ok(());
        }
        let start = unquoted.len();
        while let Some(byte) = bytes.next_if(|byte| !is_blank(*byte)) {
            match byte {
                b'"' => loop {
                    match bytes.next().ok_or(ProtocolError::UnbalancedQuotes)? {
                        b'"' => break,
                        b'\\' => {
                            let escape = bytes.next().ok_or(ProtocolError::UnbalancedQuotes)?;
                            let mut ahead = bytes.clone();
                            let digits = (ahead.next().and_then(hex), ahead.next().and_then(hex));
                            unquoted.push(match (escape, digits) {
                                (b'x', (Some(high), Some(low))) => {
                                    bytes = ahead;
                                    high << 4 | low
                                }
                                (b'n', _) => b'\n',
                                (b'r', _) => b'\r',
                                (b't', _) => b'\t',
                                (b'b', _) => 8,
                                (b'a', _) => 7,
                                (other, _) => other,
                            });
                        }
                        other => unquoted.push(other),
                    }
                },
                b'\'' => loop {
                    match bytes.next().ok_or(ProtocolError::UnbalancedQuotes)? {
                        b'\'' => break,
                        b'\\' if bytes.next_if_eq(&b'\'').is_some() => unquoted.push(b'\''),
                        other => unquoted.push(other),
                    }
                },
                other => {
                    unquoted.push(other);
                    continue;
                }
            }
            // A quoted part has just closed.
            if bytes.peek().is_some_and(|byte| !is_blank(*byte)) {
                return Err(ProtocolError::UnbalancedQuotes);
            }
        }
        spans.push(Span::new(start, unquoted.len()));
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | 0)
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests;
