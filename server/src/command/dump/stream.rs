//! The two formats of a dump.
//!
//! JSON lines:
//!
//! ```text
//! {"isolith":"dump","format":1,"keyspaces":["a","b"]}
//! {"keyspace":"a","key":"k","value":{"base64":"AP8="},"expires_at":1700000000000}
//! {"end":true,"pairs":1}
//! ```
//!
//! Binary, all numbers little endian:
//!
//! ```text
//! magic 89 69 73 6f 64 6d 70 0a · format number u32 (1)
//! block*: payload length u32 · CRC-32 of (block number u64 · payload) u32 · payload: item*
//! item, by its first byte:
//!   1 keyspace: name length u32 · name; the pairs after it are its
//!   2 pair: expiry u64 (Unix ms; 0: never) · key length u32 · key · value length u32 · value
//!   3 end: pairs u64; nothing follows
//! ```

use super::DumpFormat;
use serde_json::{Map, Value, json};
use std::io::{self, BufRead, Read, Write};

const MAGIC: [u8; 8] = *b"\x89isodmp\n";
const FORMAT: u32 = 1;
/// A block is ended once it has so many bytes.
const BLOCK_BYTES: usize = 64 << 10;
/// A block has no more: the largest key and value, and one block.
const BLOCK_BYTES_MAX: u32 = 600 << 20;
const KEYSPACE: u8 = 1;
const PAIR: u8 = 2;
const END: u8 = 3;

/// Writes a dump.
pub(super) struct Writer<W> {
    out: W,
    format: DumpFormat,
    block: Vec<u8>,
    blocks: u64,
    keyspace: Option<String>,
}

impl<W: Write> Writer<W> {
    pub(super) fn begin(mut out: W, format: DumpFormat, names: &[String]) -> io::Result<Self> {
        match format {
            DumpFormat::Jsonl => {
                let line = json!({"isolith": "dump", "format": FORMAT, "keyspaces": names});
                writeln!(out, "{line}")?;
            }
            DumpFormat::Binary => {
                out.write_all(&MAGIC)?;
                out.write_all(&FORMAT.to_le_bytes())?;
            }
        }
        let mut writer = Writer { out, format, block: Vec::new(), blocks: 0, keyspace: None };
        if format == DumpFormat::Binary {
            names.iter().for_each(|name| writer.enter(name));
        }
        Ok(writer)
    }

    fn text(&mut self, bytes: &[u8]) {
        // Keys, values and names are bounded, far below.
        self.block.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.block.extend_from_slice(bytes);
    }

    fn enter(&mut self, name: &str) {
        if self.keyspace.as_deref() != Some(name) {
            self.block.push(KEYSPACE);
            self.text(name.as_bytes());
            self.keyspace = Some(name.to_owned());
        }
    }

    pub(super) fn pair(
        &mut self,
        keyspace: &str,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> io::Result<()> {
        if self.format == DumpFormat::Jsonl {
            let mut line = json!({"keyspace": keyspace, "key": datum(key), "value": datum(value)});
            if let (Some(at), Value::Object(line)) = (expires_at, &mut line) {
                line.insert("expires_at".into(), at.into());
            }
            return writeln!(self.out, "{line}");
        }
        self.enter(keyspace);
        self.block.push(PAIR);
        self.block.extend_from_slice(&expires_at.unwrap_or(0).to_le_bytes());
        self.text(key);
        self.text(value);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.out.write_all(&(self.block.len() as u32).to_le_bytes())?;
        self.out.write_all(&checksum(self.blocks, &self.block).to_le_bytes())?;
        self.out.write_all(&self.block)?;
        self.blocks += 1;
        self.block.clear();
        Ok(())
    }

    pub(super) fn end(mut self, pairs: u64) -> io::Result<W> {
        match self.format {
            DumpFormat::Jsonl => writeln!(self.out, "{}", json!({"end": true, "pairs": pairs}))?,
            DumpFormat::Binary => {
                self.block.push(END);
                self.block.extend_from_slice(&pairs.to_le_bytes());
                self.end_block()?;
            }
        }
        Ok(self.out)
    }
}

fn checksum(number: u64, payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&number.to_le_bytes());
    crc.update(payload);
    crc.finalize()
}

fn datum(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": encode(bytes)}),
    }
}

/// What a dump holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// There is a keyspace of this name.
    Keyspace(String),
    /// A pair.
    Pair { keyspace: String, key: Vec<u8>, value: Vec<u8>, expires_at: Option<u64> },
}

/// Why a dump cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The input failed.
    Io(io::Error),
    /// It is no dump, or a damaged one.
    Malformed { place: String, what: String },
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

/// Reads a dump, of either format.
pub(super) struct Reader<R> {
    input: R,
    binary: bool,
    /// Lines read, or blocks.
    at: u64,
    pairs: u64,
    /// What a first line told that is yet to be given.
    names: Vec<String>,
    /// Whether the end has to be told, and was.
    wants_end: bool,
    ended: bool,
    block: Vec<u8>,
    from: usize,
    keyspace: Option<String>,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn begin(mut input: R) -> Result<Self, ReadError> {
        let binary = input.fill_buf()?.first() == Some(&MAGIC[0]);
        let mut reader = Reader {
            input,
            binary,
            at: 0,
            pairs: 0,
            names: Vec::new(),
            wants_end: binary,
            ended: false,
            block: Vec::new(),
            from: 0,
            keyspace: None,
        };
        if binary {
            let mut start = [0; 12];
            reader.exactly(&mut start)?;
            if start[..8] != MAGIC {
                return Err(reader.malformed("it is no dump"));
            }
            if start[8..] != FORMAT.to_le_bytes() {
                return Err(reader.malformed("a dump of a format that this isolith does not know"));
            }
        }
        Ok(reader)
    }

    /// Where the last item stood.
    pub(super) fn place(&self) -> String {
        match self.binary {
            true => format!("block {}", self.at),
            false => format!("line {}", self.at),
        }
    }

    fn malformed(&self, what: impl Into<String>) -> ReadError {
        ReadError::Malformed { place: self.place(), what: what.into() }
    }

    fn exactly(&mut self, into: &mut [u8]) -> Result<(), ReadError> {
        self.input.read_exact(into).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.malformed("it ends in the middle"),
            _ => ReadError::Io(error),
        })
    }

    /// The next item; `None` at the end, which is where the dump says so.
    pub(super) fn next(&mut self) -> Result<Option<Item>, ReadError> {
        if let Some(name) = self.names.pop() {
            return Ok(Some(Item::Keyspace(name)));
        }
        let item = if self.binary { self.next_item() } else { self.next_line() }?;
        self.pairs += u64::from(matches!(item, Some(Item::Pair { .. })));
        Ok(item)
    }

    fn end(&mut self, pairs: u64) -> Result<(), ReadError> {
        if pairs != self.pairs {
            let found = self.pairs;
            return Err(
                self.malformed(format!("it has {found} pairs, and says that it has {pairs}"))
            );
        }
        self.ended = true;
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<Item>, ReadError> {
        loop {
            let mut line = Vec::new();
            let read = self.input.read_until(b'\n', &mut line)?;
            self.at += 1;
            if read == 0 {
                return match self.wants_end && !self.ended {
                    true => Err(self.malformed("the dump is cut short: its last line is missing")),
                    false => Ok(None),
                };
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            if self.ended {
                return Err(self.malformed("something comes after the end"));
            }
            let value = serde_json::from_slice(&line)
                .map_err(|error| self.malformed(format!("it is no JSON: {error}")))?;
            let Value::Object(mut line) = value else {
                return Err(self.malformed("it is no JSON object"));
            };
            if line.get("isolith").is_some() {
                self.first_line(&line)?;
                if let Some(name) = self.names.pop() {
                    return Ok(Some(Item::Keyspace(name)));
                }
            } else if line.get("end") == Some(&Value::Bool(true)) {
                let pairs = line.get("pairs").and_then(Value::as_u64);
                let pairs = pairs.ok_or_else(|| self.malformed("'pairs' is no number"))?;
                self.end(pairs)?;
            } else {
                let pair = pair(&mut line).map_err(|what| self.malformed(what))?;
                return Ok(Some(pair));
            }
        }
    }

    fn first_line(&mut self, line: &Map<String, Value>) -> Result<(), ReadError> {
        if line.get("isolith") != Some(&"dump".into()) || self.at != 1 {
            return Err(self.malformed("a dump begins in a place of its own"));
        }
        if line.get("format") != Some(&FORMAT.into()) {
            return Err(self.malformed("a dump of a format that this isolith does not know"));
        }
        let names = line.get("keyspaces").and_then(Value::as_array);
        let names: Option<Vec<String>> =
            names.and_then(|all| all.iter().map(|name| name.as_str().map(str::to_owned)).collect());
        self.names = names.ok_or_else(|| self.malformed("'keyspaces' is no list of names"))?;
        self.wants_end = true;
        Ok(())
    }

    fn next_item(&mut self) -> Result<Option<Item>, ReadError> {
        if self.ended {
            let more = self.from < self.block.len() || !self.input.fill_buf()?.is_empty();
            return match more {
                true => Err(self.malformed("something comes after the end")),
                false => Ok(None),
            };
        }
        if self.from == self.block.len() {
            self.read_block()?;
        }
        match self.byte()? {
            KEYSPACE => {
                let name = self.bytes()?;
                let name = String::from_utf8(name);
                let name = name.map_err(|_| self.malformed("a keyspace's name is not UTF-8"))?;
                self.keyspace = Some(name.clone());
                Ok(Some(Item::Keyspace(name)))
            }
            PAIR => {
                let expires_at = self.number()?;
                let (key, value) = (self.bytes()?, self.bytes()?);
                let keyspace = self.keyspace.clone();
                let keyspace = keyspace.ok_or_else(|| self.malformed("a pair of no keyspace"))?;
                let expires_at = (expires_at != 0).then_some(expires_at);
                Ok(Some(Item::Pair { keyspace, key, value, expires_at }))
            }
            END => {
                let pairs = self.number()?;
                self.end(pairs)?;
                self.next_item()
            }
            _ => Err(self.malformed("an item of an unknown kind")),
        }
    }

    fn read_block(&mut self) -> Result<(), ReadError> {
        self.at += 1;
        let mut head = [0; 8];
        self.exactly(&mut head)?;
        let [length, crc] = [&head[..4], &head[4..]]
            .map(|bytes| bytes.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte)));
        if length == 0 || length > BLOCK_BYTES_MAX {
            return Err(self.malformed("a block of an impossible length"));
        }
        self.block.clear();
        self.from = 0;
        // Grows with what is there, whatever the length says.
        let read = (&mut self.input).take(length.into()).read_to_end(&mut self.block)?;
        if read < length as usize {
            return Err(self.malformed("it ends in the middle"));
        }
        match checksum(self.at - 1, &self.block) == crc {
            true => Ok(()),
            false => Err(self.malformed("its checksum is wrong")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&[u8], ReadError> {
        let end = self.from.checked_add(count).filter(|end| *end <= self.block.len());
        let end = end.ok_or_else(|| self.malformed("an item is cut short"))?;
        let from = std::mem::replace(&mut self.from, end);
        Ok(&self.block[from..end])
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<u64, ReadError> {
        Ok(self.take(8)?.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
    }

    fn bytes(&mut self) -> Result<Vec<u8>, ReadError> {
        let length = self.take(4)?.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte));
        Ok(self.take(length)?.to_vec())
    }
}

fn pair(line: &mut Map<String, Value>) -> Result<Item, String> {
    let mut bytes = |name: &str| match line.remove(name) {
        Some(Value::String(text)) => Ok(text.into_bytes()),
        Some(Value::Object(object)) if object.len() == 1 => {
            let text = object.get("base64").and_then(Value::as_str);
            text.and_then(decode).ok_or_else(|| format!("'{name}' is not in base64"))
        }
        Some(_) => Err(format!("'{name}' is neither a text nor {{\"base64\": …}}")),
        None => Err(format!("'{name}' is missing")),
    };
    let (key, value) = (bytes("key")?, bytes("value")?);
    let keyspace = match line.remove("keyspace") {
        Some(Value::String(name)) => name,
        Some(_) => return Err("'keyspace' is no text".into()),
        None => return Err("'keyspace' is missing".into()),
    };
    let expires_at = match line.remove("expires_at") {
        None | Some(Value::Null) => None,
        Some(at) => Some(at.as_u64().ok_or("'expires_at' is no number of milliseconds")?),
    };
    match line.keys().next() {
        Some(unknown) => Err(format!("'{}' is unknown", unknown.escape_debug())),
        None => Ok(Item::Pair { keyspace, key, value, expires_at }),
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648).
fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .enumerate()
            .fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= chunk.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for digit in &text[..text.len() - padding] {
        let value = DIGITS.iter().position(|known| known == digit)? as u32;
        bits = bits << 6 | value;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    // What is left over says nothing.
    (bits == 0).then_some(bytes)
}

#[cfg(test)]
mod tests;
