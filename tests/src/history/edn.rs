//! EDN, the notation of Clojure and so of Jepsen: a reader of its own, and the writer.
//!
//! A history is a series of maps, one operation each, or one vector or list of them. Everything that
//! EDN and Clojure's printer have is read, also where histories never use it: records
//! (`#jepsen.history.Op{…}` is its map), tagged literals, ratios, decimals, characters, metadata,
//! namespaced maps, comments and discarded forms. Brackets nest so deep at most:
//! [`DEPTH_MAX`]; the reader is recursive.

use std::io::Read;

use super::History;
use super::assembly::{Assembly, Names};
use super::datum::Datum;
use super::fault::{Fault, ReadError};
use super::meaning;
use super::raw::Batch;
use super::source::Source;

/// How deep brackets may be nested.
pub const DEPTH_MAX: usize = 128;

/// Reads a history.
pub fn read(reader: impl Read) -> Result<History, ReadError> {
    let mut forms = Forms::new(Source::new(reader)?);
    let (mut assembly, mut batch, mut names) =
        (Assembly::default(), Batch::default(), Names::default());
    while let Some((datum, place)) = forms.next()? {
        batch.clear();
        meaning::add(&datum, place, &mut batch)?;
        assembly.take(&batch, &mut names)?;
    }
    assembly.finish()
}

/// Reads one value from a text that holds nothing else.
pub fn parse(text: &str) -> Result<Datum, ReadError> {
    let mut forms = Forms::new(Source::new(text.as_bytes())?);
    // The brackets around everything belong to the value here.
    forms.around = Around::Nothing;
    let first = forms.next()?;
    match (first, forms.next()?) {
        (Some((datum, _)), None) => Ok(datum),
        (None, _) => Err(ReadError::whole(Fault::Empty)),
        (_, Some((_, place))) => Err(Fault::syntax("something follows the value").at(place)),
    }
}

/// Whether brackets stand around all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Around {
    /// Nothing has been seen yet.
    Unknown,
    /// No.
    Nothing,
    /// Yes, closed by this.
    Open(u8),
    /// They have been closed.
    Closed,
}

/// The operations of a source, one after the other.
struct Forms<R> {
    source: Source<R>,
    around: Around,
}

impl<R: Read> Forms<R> {
    fn new(source: Source<R>) -> Forms<R> {
        Forms { source, around: Around::Unknown }
    }

    /// The next one, and where it begins.
    fn next(&mut self) -> Result<Option<(Datum, super::fault::Location)>, ReadError> {
        loop {
            let mut cursor = Cursor::new(self.source.rest(), self.source.is_ended());
            let step = self.around.step(&mut cursor);
            let at = cursor.at;
            match step {
                Ok(Step::Form(begin, datum)) => {
                    let place = self.source.place_of(begin);
                    self.source.take(at);
                    return Ok(Some((datum, place)));
                }
                Ok(Step::Bracket(around)) => {
                    self.around = around;
                    self.source.take(at);
                }
                Ok(Step::End) => {
                    self.source.take(at);
                    return Ok(None);
                }
                Err(Stop::Incomplete) => self.source.more()?,
                Err(Stop::Fault(fault)) => return Err(fault.at(self.source.place_of(at))),
            }
        }
    }
}

enum Step {
    Form(usize, Datum),
    Bracket(Around),
    End,
}

impl Around {
    fn step(self, cursor: &mut Cursor<'_>) -> Result<Step, Stop> {
        cursor.skip(0)?;
        let begin = cursor.at;
        let Some(byte) = cursor.peek()? else {
            return match self {
                Around::Open(_) => Err(Fault::Truncated("the list of operations").into()),
                _ => Ok(Step::End),
            };
        };
        match (self, byte) {
            (Around::Unknown, b'[' | b'(') => {
                cursor.at += 1;
                Ok(Step::Bracket(Around::Open(if byte == b'[' { b']' } else { b')' })))
            }
            (Around::Unknown, _) => Ok(Step::Bracket(Around::Nothing)),
            (Around::Open(close), byte) if byte == close => {
                cursor.at += 1;
                Ok(Step::Bracket(Around::Closed))
            }
            (Around::Closed, _) => {
                Err(Fault::syntax("something follows the list of operations").into())
            }
            _ => Ok(Step::Form(begin, cursor.form(0)?)),
        }
    }
}

/// Why reading stopped.
enum Stop {
    /// The bytes ended, but not the source.
    Incomplete,
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Stop {
        Stop::Fault(fault)
    }
}

/// A place in bytes of which more may follow.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    ended: bool,
}

impl<'a> Cursor<'a> {
    fn new(bytes: &'a [u8], ended: bool) -> Cursor<'a> {
        Cursor { bytes, at: 0, ended }
    }

    /// The next byte; none at the end of the source.
    fn peek(&self) -> Result<Option<u8>, Stop> {
        match self.bytes.get(self.at) {
            Some(byte) => Ok(Some(*byte)),
            None if self.ended => Ok(None),
            None => Err(Stop::Incomplete),
        }
    }

    fn peek_in(&self, what: &'static str) -> Result<u8, Stop> {
        self.peek()?.ok_or_else(|| Fault::Truncated(what).into())
    }

    fn bump(&mut self, what: &'static str) -> Result<u8, Stop> {
        let byte = self.peek_in(what)?;
        self.at += 1;
        Ok(byte)
    }

    /// Passes over white space, commas, comments and discarded forms.
    fn skip(&mut self, depth: usize) -> Result<(), Stop> {
        while let Some(byte) = self.peek()? {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b',' | 0x0b | 0x0c => self.at += 1,
                b';' => self.skip_line()?,
                b'#' => match self.bytes.get(self.at + 1) {
                    Some(b'_') => {
                        self.at += 2;
                        self.deeper(depth)?;
                        self.form(depth + 1)?;
                    }
                    Some(b'!') => self.skip_line()?,
                    None if !self.ended => return Err(Stop::Incomplete),
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn skip_line(&mut self) -> Result<(), Stop> {
        match memchr::memchr(b'\n', &self.bytes[self.at..]) {
            Some(length) => self.at += length + 1,
            None if self.ended => self.at = self.bytes.len(),
            None => return Err(Stop::Incomplete),
        }
        Ok(())
    }

    fn deeper(&self, depth: usize) -> Result<(), Stop> {
        if depth < DEPTH_MAX { Ok(()) } else { Err(Fault::TooDeep(DEPTH_MAX).into()) }
    }

    /// One value, within so many brackets.
    fn form(&mut self, depth: usize) -> Result<Datum, Stop> {
        self.skip(depth)?;
        self.deeper(depth)?;
        match self.peek_in("a value")? {
            b'{' => {
                self.at += 1;
                Ok(Datum::Map(self.map(depth)?))
            }
            b'[' => self.sequence(b']', depth).map(Datum::Vector),
            b'(' => self.sequence(b')', depth).map(Datum::List),
            b'"' => {
                self.at += 1;
                self.string().map(Datum::Text)
            }
            b':' => self.keyword(),
            b'\\' => self.character(),
            b'#' => self.dispatch(depth),
            b'^' => {
                self.at += 1;
                self.form(depth + 1)?;
                self.form(depth + 1)
            }
            byte @ (b'}' | b']' | b')') => {
                let bracket = char::from(byte);
                Err(Fault::syntax(format!("a {bracket} that closes nothing")).into())
            }
            _ => self.number_or_symbol(),
        }
    }

    /// From the opening bracket to the closing one.
    fn sequence(&mut self, close: u8, depth: usize) -> Result<Vec<Datum>, Stop> {
        self.at += 1;
        let mut elements = Vec::new();
        loop {
            self.skip(depth)?;
            if self.peek_in("a list")? == close {
                self.at += 1;
                return Ok(elements);
            }
            elements.push(self.form(depth + 1)?);
        }
    }

    /// Behind the opening bracket.
    fn map(&mut self, depth: usize) -> Result<Vec<(Datum, Datum)>, Stop> {
        let mut entries: Vec<(Datum, Datum)> = Vec::new();
        loop {
            self.skip(depth)?;
            if self.peek_in("a map")? == b'}' {
                self.at += 1;
                break;
            }
            let key = self.form(depth + 1)?;
            self.skip(depth)?;
            if self.peek_in("a map")? == b'}' {
                return Err(Fault::syntax(format!("the key {key} has no value")).into());
            }
            let value = self.form(depth + 1)?;
            entries.push((key, value));
        }
        if let Some(key) = key_given_twice(&entries) {
            return Err(Fault::syntax(format!("the key {key} is there twice")).into());
        }
        Ok(entries)
    }

    /// What begins with a `#`.
    fn dispatch(&mut self, depth: usize) -> Result<Datum, Stop> {
        self.at += 1;
        match self.peek_in("a value")? {
            b'{' => self.sequence(b'}', depth).map(Datum::Set),
            b'#' => {
                self.at += 1;
                Ok(Datum::Number(format!("##{}", self.token()?)))
            }
            b':' => self.namespaced_map(depth),
            b'^' => {
                self.at += 1;
                self.form(depth + 1)?;
                self.form(depth + 1)
            }
            byte if byte.is_ascii_alphabetic() => {
                let tag = self.token()?.to_owned();
                let is_record = tag.contains('.');
                match self.form(depth + 1)? {
                    Datum::Map(entries) if is_record => Ok(Datum::Map(entries)),
                    datum => Ok(Datum::Tagged(tag, Box::new(datum))),
                }
            }
            _ => Err(Fault::syntax("a # with what EDN does not have").into()),
        }
    }

    /// `#:name{:a 1}` is `{:name/a 1}`.
    fn namespaced_map(&mut self, depth: usize) -> Result<Datum, Stop> {
        self.at += 1;
        // A second colon stands for an alias, as in keywords.
        let name = self.token()?;
        let name = name.strip_prefix(':').unwrap_or(name).to_owned();
        if name.is_empty() || name.starts_with(':') {
            return Err(Fault::syntax("a namespace without a name").into());
        }
        self.skip(depth)?;
        if self.bump("a map")? != b'{' {
            return Err(Fault::syntax("a namespace without its map").into());
        }
        let mut entries = self.map(depth)?;
        for (key, _) in &mut entries {
            if let Datum::Keyword(key) = key {
                *key = match key.strip_prefix("_/") {
                    Some(bare) => bare.to_owned(),
                    None if key.contains('/') => continue,
                    None => format!("{name}/{key}"),
                };
            }
        }
        Ok(Datum::Map(entries))
    }

    fn keyword(&mut self) -> Result<Datum, Stop> {
        self.at += 1;
        if self.peek()? == Some(b':') {
            self.at += 1;
        }
        let name = self.token()?;
        // A name that begins with a colon would be written as what is read as another.
        if name.is_empty() || name.starts_with(':') {
            return Err(Fault::syntax("a colon without a name").into());
        }
        Ok(Datum::Keyword(name.to_owned()))
    }

    /// Behind the opening quote.
    fn string(&mut self) -> Result<String, Stop> {
        let mut text = Vec::new();
        loop {
            let rest = &self.bytes[self.at..];
            let plain = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            text.extend_from_slice(&rest[..plain]);
            self.at += plain;
            if self.bump("a string")? == b'"' {
                return String::from_utf8(text).map_err(|_| Fault::NotUtf8.into());
            }
            let letter = self.escape()?;
            text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }

    /// Behind the backslash.
    fn escape(&mut self) -> Result<char, Stop> {
        Ok(match self.bump("a string")? {
            b't' => '\t',
            b'r' => '\r',
            b'n' => '\n',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'\\' => '\\',
            b'"' => '"',
            b'/' => '/',
            b'u' => return self.escape_unicode(),
            digit @ b'0'..=b'7' => {
                let mut code = u32::from(digit - b'0');
                for _ in 0..2 {
                    match self.peek_in("a string")? {
                        digit @ b'0'..=b'7' => code = code * 8 + u32::from(digit - b'0'),
                        _ => break,
                    }
                    self.at += 1;
                }
                char::from_u32(code).ok_or_else(|| Fault::syntax("no such character"))?
            }
            _ => return Err(Fault::syntax("a backslash before what needs none").into()),
        })
    }

    /// Behind `\u`. Characters beyond 16 bits are written as a pair.
    fn escape_unicode(&mut self) -> Result<char, Stop> {
        let first = self.four_digits()?;
        let code = match first {
            0xd800..=0xdbff => {
                let pair = (self.bump("a string")?, self.bump("a string")?);
                let second = if pair == (b'\\', b'u') { self.four_digits()? } else { 0 };
                match second {
                    0xdc00..=0xdfff => 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00),
                    _ => return Err(Fault::syntax("half a pair of surrogates").into()),
                }
            }
            code => code,
        };
        char::from_u32(code).ok_or_else(|| Fault::syntax("half a pair of surrogates").into())
    }

    fn four_digits(&mut self) -> Result<u32, Stop> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = char::from(self.bump("a character")?).to_digit(16);
            let digit = digit.ok_or_else(|| Fault::syntax("\\u without its four digits"))?;
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn character(&mut self) -> Result<Datum, Stop> {
        self.at += 1;
        // Any one character, also one that ends a token, then what belongs to its name.
        let begin = self.at;
        let first = self.bump("a character")?;
        while self.peek()?.is_some_and(|byte| {
            if first < 0x80 { byte.is_ascii_alphanumeric() } else { (0x80..0xc0).contains(&byte) }
        }) {
            self.at += 1;
        }
        let name = text_of(&self.bytes[begin..self.at])?;
        let letter = match name {
            "newline" => Some('\n'),
            "return" => Some('\r'),
            "space" => Some(' '),
            "tab" => Some('\t'),
            "formfeed" => Some('\u{c}'),
            "backspace" => Some('\u{8}'),
            name => single_character(name),
        };
        letter.map(Datum::Character).ok_or_else(|| {
            Fault::syntax(format!("no character is called {}", super::fault::shortened(name)))
                .into()
        })
    }

    /// Up to what ends a name or a number.
    fn token(&mut self) -> Result<&'a str, Stop> {
        let begin = self.at;
        while self.peek()?.is_some_and(|byte| !is_end(byte)) {
            self.at += 1;
        }
        let bytes = self.bytes;
        text_of(&bytes[begin..self.at])
    }

    fn number_or_symbol(&mut self) -> Result<Datum, Stop> {
        let begin = self.at;
        let token = self.token()?;
        if token.is_empty() {
            let letter = char::from(self.peek_in("a value")?);
            return Err(Fault::syntax(format!("{letter:?} begins nothing")).into());
        }
        let digits = token.trim_start_matches(['+', '-']);
        let is_number = digits.as_bytes().first().is_some_and(u8::is_ascii_digit)
            && token.len() - digits.len() <= 1;
        match token {
            "nil" => Ok(Datum::Nil),
            "true" => Ok(Datum::Bool(true)),
            "false" => Ok(Datum::Bool(false)),
            token if is_number => number(token).ok_or_else(|| {
                self.at = begin;
                Fault::syntax(format!("no number is {}", super::fault::shortened(token))).into()
            }),
            token => Ok(Datum::Symbol(token.to_owned())),
        }
    }
}

/// The key of an earlier entry, too.
pub(crate) fn key_given_twice(entries: &[(Datum, Datum)]) -> Option<&Datum> {
    const FEW: usize = 16;
    if entries.len() <= FEW {
        let mut keys = entries.iter().enumerate();
        return keys
            .find(|(place, (key, _))| entries[..*place].iter().any(|(earlier, _)| earlier == key))
            .map(|(_, (key, _))| key);
    }
    let mut seen = std::collections::HashSet::new();
    entries.iter().map(|(key, _)| key).find(|key| !seen.insert(*key))
}

fn text_of(bytes: &[u8]) -> Result<&str, Stop> {
    std::str::from_utf8(bytes).map_err(|_| Fault::NotUtf8.into())
}

fn is_end(byte: u8) -> bool {
    matches!(
        byte,
        b' ' | b'\t'
            | b'\n'
            | b'\r'
            | b','
            | 0x0b
            | 0x0c
            | b'"'
            | b';'
            | b'^'
            | b'@'
            | b'`'
            | b'~'
            | b'\\'
            | b'('
            | b')'
            | b'['
            | b']'
            | b'{'
            | b'}'
    )
}

fn single_character(name: &str) -> Option<char> {
    let mut letters = name.chars();
    let first = letters.next()?;
    match (first, letters.as_str()) {
        (letter, "") => Some(letter),
        ('u', digits) if digits.len() == 4 => {
            u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)
        }
        ('o', digits) if (1..=3).contains(&digits.len()) => {
            u32::from_str_radix(digits, 8).ok().and_then(char::from_u32)
        }
        _ => None,
    }
}

/// A number of EDN or Clojure. What is whole and fits 64 bits is an integer, whatever its notation.
fn number(token: &str) -> Option<Datum> {
    let unsigned = token.strip_prefix('+').unwrap_or(token);
    let digits = unsigned.strip_prefix('-').unwrap_or(unsigned);
    let whole = digits.strip_suffix('N').unwrap_or(digits);
    let all = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if all(whole) {
        if whole.len() > 1 && whole.starts_with('0') {
            return radix(unsigned, whole.trim_start_matches('0'), 8);
        }
        let text = unsigned.strip_suffix('N').unwrap_or(unsigned);
        return Some(text.parse().map_or_else(|_| Datum::Number(text.to_owned()), Datum::Int));
    }
    if let Some(digits) = whole.strip_prefix("0x").or_else(|| whole.strip_prefix("0X")) {
        return radix(unsigned, digits, 16);
    }
    if let Some((base, digits)) = whole.split_once(['r', 'R']) {
        let base = base.parse().ok().filter(|base| (2..=36).contains(base))?;
        return radix(unsigned, digits, base);
    }
    if let Some((above, below)) = digits.split_once('/') {
        return (all(above) && all(below)).then(|| Datum::Number(unsigned.to_owned()));
    }
    if !is_fraction(digits) {
        return None;
    }
    // One notation for each number of floating point; decimals are exact, and stay as they are.
    let floating = unsigned.parse::<f64>().ok().filter(|_| !digits.ends_with('M'));
    Some(Datum::Number(floating.map_or_else(|| unsigned.to_owned(), |float| format!("{float:?}"))))
}

fn radix(signed: &str, digits: &str, base: u32) -> Option<Datum> {
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    if digits.is_empty() {
        return (base == 8).then_some(Datum::Int(0));
    }
    let number = i64::from_str_radix(digits, base).ok()?;
    Some(Datum::Int(if signed.starts_with('-') { -number } else { number }))
}

/// Digits, then a fraction or an exponent or both, perhaps marked as a decimal.
fn is_fraction(digits: &str) -> bool {
    let all = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = digits.strip_suffix('M').unwrap_or(digits);
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = exponent.map(|text| text.strip_prefix(['+', '-']).unwrap_or(text));
    !whole.is_empty()
        && all(whole)
        && all(fraction)
        && exponent.is_none_or(|text| !text.is_empty() && all(text))
}
