//! Writes answers, in RESP2 or RESP3 as the client chose.
//!
//! 1. A reply never grows past [`REPLY_BYTES_MAX`]: beyond it nothing is written any more and
//!    [`Reply::overflowed`] says so; whoever runs the command puts an error in its place.
//! 2. Error texts and simple strings never contain a line end, whatever was put into them.

/// The most that the answer to one command may take: one value of the largest size fits.
pub(crate) const REPLY_BYTES_MAX: usize = 768 * 1024 * 1024;

/// Appends replies to a connection's output.
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    /// Where the current command's answer begins.
    start: usize,
    resp3: bool,
    overflowed: bool,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>, resp3: bool) -> Reply<'a> {
        let start = out.len();
        Reply { out, start, resp3, overflowed: false }
    }

    /// Goes on with an answer that `out` has the beginning of, and nothing else.
    pub(crate) fn going_on(out: &'a mut Vec<u8>, resp3: bool) -> Reply<'a> {
        Reply { out, start: 0, resp3, overflowed: false }
    }

    /// Switches the protocol for what follows (HELLO, RESET).
    pub(crate) fn speak(&mut self, resp3: bool) {
        self.resp3 = resp3;
    }

    /// True if the client speaks RESP3.
    pub(crate) fn resp3(&self) -> bool {
        self.resp3
    }

    /// The length of the output: a place to come back to with [`rewind`](Reply::rewind).
    pub(crate) fn mark(&self) -> usize {
        self.out.len()
    }

    /// Takes back everything after `mark`.
    pub(crate) fn rewind(&mut self, mark: usize) {
        self.out.truncate(mark);
        self.overflowed = false;
    }

    /// Takes everything after `mark` out, to be written later with [`raw`](Reply::raw).
    pub(crate) fn take(&mut self, mark: usize) -> Vec<u8> {
        self.out.split_off(mark)
    }

    /// True if the answer would have been larger than [`REPLY_BYTES_MAX`].
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Says that what was to be written did not fit.
    pub(crate) fn overflow(&mut self) {
        self.overflowed = true;
    }

    /// Bytes that are RESP already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        if self.out.len() - self.start + bytes.len() > REPLY_BYTES_MAX {
            self.overflowed = true;
        }
        if !self.overflowed {
            self.out.extend_from_slice(bytes);
        }
    }

    /// `+text`. Line ends become blanks.
    pub(crate) fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// `+OK`.
    pub(crate) fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// `-text`; the text begins with its code (`ERR …`). Line ends become blanks.
    pub(crate) fn error(&mut self, text: &str) {
        self.line(b'-', text);
    }

    /// `:value`.
    pub(crate) fn integer(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A count as an integer.
    pub(crate) fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A bulk string.
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len() as i64);
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// A bulk string, or null.
    pub(crate) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Text: a verbatim string in RESP3, a bulk string before.
    pub(crate) fn text(&mut self, text: &str) {
        if self.resp3 {
            self.header(b'=', text.len() as i64 + 4);
            self.raw(b"txt:");
            self.raw(text.as_bytes());
            self.raw(b"\r\n");
        } else {
            self.bulk(text.as_bytes());
        }
    }

    /// The null of RESP3, or RESP2's null bulk string.
    pub(crate) fn null(&mut self) {
        self.raw(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// The null of RESP3, or RESP2's null array (EXEC after a watched key changed).
    pub(crate) fn null_array(&mut self) {
        self.raw(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// The head of an array of `count` replies.
    pub(crate) fn array(&mut self, count: usize) {
        self.header(b'*', count as i64);
    }

    /// The head of a map of `count` pairs: a flat array in RESP2.
    pub(crate) fn map(&mut self, count: usize) {
        match self.resp3 {
            true => self.header(b'%', count as i64),
            false => self.header(b'*', count as i64 * 2),
        }
    }

    /// The head of a set of `count` replies: an array in RESP2.
    pub(crate) fn set(&mut self, count: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, count as i64);
    }

    fn header(&mut self, kind: u8, value: i64) {
        let mut digits = itoa::Buffer::new();
        self.raw(&[kind]);
        self.raw(digits.format(value).as_bytes());
        self.raw(b"\r\n");
    }

    fn line(&mut self, kind: u8, text: &str) {
        self.raw(&[kind]);
        let start = self.out.len();
        self.raw(text.as_bytes());
        for byte in self.out.iter_mut().skip(start) {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.raw(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(resp3: bool, write: impl FnOnce(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, resp3));
        String::from_utf8(out).expect("the tests write text")
    }

    #[test]
    fn both_protocols() {
        let all = |reply: &mut Reply<'_>| {
            reply.null();
            reply.null_array();
            reply.map(1);
            reply.set(2);
            reply.text("hi");
            reply.integer(-7);
        };
        assert_eq!(written(false, all), "$-1\r\n*-1\r\n*2\r\n*2\r\n$2\r\nhi\r\n:-7\r\n");
        assert_eq!(written(true, all), "_\r\n_\r\n%1\r\n~2\r\n=6\r\ntxt:hi\r\n:-7\r\n");
    }

    #[test]
    fn errors_keep_to_one_line() {
        assert_eq!(written(false, |reply| reply.error("ERR a\r\n+OK")), "-ERR a  +OK\r\n");
    }

    #[test]
    fn rewinding_takes_a_reply_back() {
        let text = written(false, |reply| {
            reply.ok();
            let mark = reply.mark();
            reply.array(3);
            reply.rewind(mark);
            reply.null();
        });
        assert_eq!(text, "+OK\r\n$-1\r\n");
    }
}
