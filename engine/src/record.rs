//! The bytes of one commit in the log: the operations of one transaction, in keyspace and key order.
//!
//! ```text
//! record  := operation*
//! operation, by its first byte:
//!   1 put            keyspace varint · key length varint · key · value length varint · value
//!   2 put, expiring  keyspace varint · key length varint · key · expiry u64 LE (Unix ms) · value length varint · value
//!   3 delete         keyspace varint · key length varint · key
//!   4 range delete   keyspace varint · bounds byte · [lower length varint · lower] · [upper length varint · upper]
//!   5 merge          keyspace varint · key length varint · key · operator · begun u64 LE (Unix ms) · operand length varint · operand
//!   6 ingest         keyspace varint · 1 if values may expire, else 0 · files varint · (file u64 LE)*
//! operator: varint, 1 and up: the supplied ones, by number (`merge.rs`); 0: name length varint · name
//! bounds byte: bits 0–1 the lower end, bits 2–3 the upper: 0 unbounded, 1 included, 2 excluded
//! varint: LEB128, at most 10 bytes
//! ```
//!
//! An ingest brings sorted files whose versions have no stamp: they get that of the record.
//!
//! Within one record range deletes come before the puts and deletes of their keyspace: a put that
//! stands in the record survives them (`docs/format.md`).
//!
//! Decoding trusts nothing: a length is checked against the bytes that are there, and nothing is
//! allocated by a length that was read.

use std::ops::Bound;

use crate::merge::{NAME_BYTES_MAX, Operators};

/// One decoded operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Put { space: u32, key: &'a [u8], value: &'a [u8], expires_at: u64 },
    Delete { space: u32, key: &'a [u8] },
    DeleteRange { space: u32, lower: Bound<&'a [u8]>, upper: Bound<&'a [u8]> },
    Merge { space: u32, key: &'a [u8], operator: Named<'a>, operand: &'a [u8], at_ms: u64 },
    Ingest { space: u32, expiring: bool, files: Ingested<'a> },
}

/// The numbers of files that a record brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ingested<'a>(&'a [[u8; 8]]);

impl Ingested<'_> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

impl Operation<'_> {
    /// The keyspace that it is about.
    pub(crate) fn space(&self) -> u32 {
        match self {
            Operation::Put { space, .. }
            | Operation::Delete { space, .. }
            | Operation::DeleteRange { space, .. }
            | Operation::Merge { space, .. }
            | Operation::Ingest { space, .. } => *space,
        }
    }
}

/// An operator as records have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named<'a> {
    /// A supplied one.
    Number(u16),
    /// One of the user's own.
    Name(&'a str),
}

const PUT: u8 = 1;
const PUT_EXPIRING: u8 = 2;
const DELETE: u8 = 3;
const DELETE_RANGE: u8 = 4;
const MERGE: u8 = 5;
const INGEST: u8 = 6;

/// Adds a put; `expires_at` 0 means never.
pub(crate) fn put(into: &mut Vec<u8>, space: u32, key: &[u8], value: &[u8], expires_at: u64) {
    into.push(if expires_at == 0 { PUT } else { PUT_EXPIRING });
    varint(into, space.into());
    bytes(into, key);
    if expires_at != 0 {
        into.extend_from_slice(&expires_at.to_le_bytes());
    }
    bytes(into, value);
}

/// Adds a delete.
pub(crate) fn delete(into: &mut Vec<u8>, space: u32, key: &[u8]) {
    into.push(DELETE);
    varint(into, space.into());
    bytes(into, key);
}

/// Adds a range delete.
pub(crate) fn delete_range(
    into: &mut Vec<u8>,
    space: u32,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
) {
    into.push(DELETE_RANGE);
    varint(into, space.into());
    let code = |bound: &Bound<&[u8]>| match bound {
        Bound::Unbounded => 0u8,
        Bound::Included(_) => 1,
        Bound::Excluded(_) => 2,
    };
    into.push(code(&lower) | code(&upper) << 2);
    for bound in [lower, upper] {
        if let Bound::Included(key) | Bound::Excluded(key) = bound {
            bytes(into, key);
        }
    }
}

/// Adds a merge by a transaction that began at `at_ms`.
pub(crate) fn merge(
    into: &mut Vec<u8>,
    space: u32,
    key: &[u8],
    operator: Named<'_>,
    operand: &[u8],
    at_ms: u64,
) {
    into.push(MERGE);
    varint(into, space.into());
    bytes(into, key);
    match operator {
        Named::Number(number) => varint(into, number.into()),
        Named::Name(name) => {
            varint(into, 0);
            bytes(into, name.as_bytes());
        }
    }
    into.extend_from_slice(&at_ms.to_le_bytes());
    bytes(into, operand);
}

/// Adds files whose versions get the record's stamp.
pub(crate) fn ingest(
    into: &mut Vec<u8>,
    space: u32,
    expiring: bool,
    files: impl ExactSizeIterator<Item = u64>,
) {
    into.push(INGEST);
    varint(into, space.into());
    into.push(expiring.into());
    varint(into, files.len() as u64);
    files.for_each(|file| into.extend_from_slice(&file.to_le_bytes()));
}

fn bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

pub(crate) fn varint(into: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        into.push(number as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

/// Reads the operations of one record.
pub(crate) struct Operations<'a> {
    rest: &'a [u8],
}

impl<'a> Operations<'a> {
    pub(crate) fn new(record: &'a [u8]) -> Self {
        Self { rest: record }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next operation; `Ok(None)` at the end. After an error the rest is not to be read.
    pub(crate) fn next(&mut self) -> Result<Option<Operation<'a>>, &'static str> {
        let Some((&kind, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        let space = u32::try_from(self.varint()?).map_err(|_| "a keyspace number is too large")?;
        Ok(Some(match kind {
            PUT | PUT_EXPIRING => {
                let key = self.bytes()?;
                let expires_at = if kind == PUT { 0 } else { self.u64()? };
                Operation::Put { space, key, value: self.bytes()?, expires_at }
            }
            DELETE => Operation::Delete { space, key: self.bytes()? },
            DELETE_RANGE => {
                let (&code, rest) = self.rest.split_first().ok_or("a range delete is cut short")?;
                self.rest = rest;
                let lower = self.bound(code & 3)?;
                let upper = self.bound(code >> 2)?;
                Operation::DeleteRange { space, lower, upper }
            }
            MERGE => {
                let key = self.bytes()?;
                let operator = self.operator()?;
                let at_ms = self.u64()?;
                Operation::Merge { space, key, operator, operand: self.bytes()?, at_ms }
            }
            INGEST => {
                let (&expiring, rest) = self.rest.split_first().ok_or("an ingest is cut short")?;
                self.rest = rest;
                let files = self.varint()?;
                let length = usize::try_from(files).ok().and_then(|files| files.checked_mul(8));
                let bytes = length.and_then(|length| self.rest.split_at_checked(length));
                let (files, rest) = bytes.ok_or("an ingest is cut short")?;
                self.rest = rest;
                let files = Ingested(files.as_chunks().0);
                Operation::Ingest { space, expiring: expiring != 0, files }
            }
            _ => return Err("an operation of an unknown kind"),
        }))
    }

    fn operator(&mut self) -> Result<Named<'a>, &'static str> {
        let number = self.varint()?;
        if number == 0 {
            let name = self.bytes()?;
            let fits = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
            let name = std::str::from_utf8(name).ok().filter(|_| fits);
            return name.map(Named::Name).ok_or("an operator's name is none");
        }
        let number = u16::try_from(number).ok().filter(|&number| Operators::is_supplied(number));
        number.map(Named::Number).ok_or("a merge by an operator of an unknown number")
    }

    fn bound(&mut self, code: u8) -> Result<Bound<&'a [u8]>, &'static str> {
        Ok(match code {
            0 => Bound::Unbounded,
            1 => Bound::Included(self.bytes()?),
            2 => Bound::Excluded(self.bytes()?),
            _ => return Err("a range delete has an unknown bound"),
        })
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], &'static str> {
        let length = usize::try_from(self.varint()?).map_err(|_| "a length is too large")?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or("bytes are cut short")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn u64(&mut self) -> Result<u64, &'static str> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or("a time is cut short")?;
        self.rest = rest;
        Ok(u64::from_le_bytes(*bytes))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, &'static str> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first().ok_or("a number is cut short")?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err("a number is too large");
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is too long")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(record: &[u8]) -> Result<Vec<Operation<'_>>, &'static str> {
        let mut operations = Operations::new(record);
        let mut all = Vec::new();
        while let Some(operation) = operations.next()? {
            all.push(operation);
        }
        Ok(all)
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let mut record = Vec::new();
        delete_range(&mut record, 9, Bound::Included(b"a"), Bound::Unbounded);
        delete_range(&mut record, 9, Bound::Unbounded, Bound::Excluded(b"z"));
        put(&mut record, 1, b"key", &[7; 300], 0);
        put(&mut record, u32::MAX, b"", b"", 1_700_000_000_000);
        delete(&mut record, 0, b"gone");
        merge(&mut record, 3, b"key", Named::Number(4), b"operand", 1_700_000_000_000);
        merge(&mut record, 3, b"", Named::Name("mine"), b"", 0);
        assert_eq!(
            decode(&record).unwrap(),
            [
                Operation::DeleteRange {
                    space: 9,
                    lower: Bound::Included(b"a"),
                    upper: Bound::Unbounded
                },
                Operation::DeleteRange {
                    space: 9,
                    lower: Bound::Unbounded,
                    upper: Bound::Excluded(b"z")
                },
                Operation::Put { space: 1, key: b"key", value: &[7; 300], expires_at: 0 },
                Operation::Put {
                    space: u32::MAX,
                    key: b"",
                    value: b"",
                    expires_at: 1_700_000_000_000
                },
                Operation::Delete { space: 0, key: b"gone" },
                Operation::Merge {
                    space: 3,
                    key: b"key",
                    operator: Named::Number(4),
                    operand: b"operand",
                    at_ms: 1_700_000_000_000
                },
                Operation::Merge {
                    space: 3,
                    key: b"",
                    operator: Named::Name("mine"),
                    operand: b"",
                    at_ms: 0
                },
            ]
        );
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_an_error_or_another_record_never_a_panic() {
        let mut record = Vec::new();
        put(&mut record, 1, b"key", b"value", 5);
        delete_range(&mut record, 1, Bound::Excluded(b"a"), Bound::Included(b"b"));
        merge(&mut record, 1, b"key", Named::Number(1), b"1", 5);
        merge(&mut record, 1, b"key", Named::Name("mine"), b"1", 5);
        for cut in 0..record.len() {
            let _ = decode(&record[..cut]);
        }
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&damaged);
        }
        assert_eq!(decode(&[PUT, 0xff]), Err("a number is cut short"));
        assert_eq!(decode(&[77, 0]), Err("an operation of an unknown kind"));
        let operator = |bytes: &[u8]| decode(&[&[MERGE, 1, 0], bytes].concat()).map(drop);
        assert_eq!(operator(&[99]), Err("a merge by an operator of an unknown number"));
        assert_eq!(
            operator(&[0xff, 0xff, 0x7f]),
            Err("a merge by an operator of an unknown number")
        );
        assert_eq!(operator(&[0, 0]), Err("an operator's name is none"));
        assert_eq!(operator(&[0, 1, 0xff]), Err("an operator's name is none"));
        assert_eq!(operator(&[1, 0, 0]), Err("a time is cut short"));
        assert_eq!(
            decode(&[DELETE, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            Err("a number is too large")
        );
    }
}
