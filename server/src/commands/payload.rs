//! What DUMP gives and RESTORE takes: a value as Redis's RDB files have it, so that the two are exchangeable
//! with a Redis.
//!
//! | bytes | |
//! |---|---|
//! | 1 | type; 0 is a string, and all that is known here |
//! | … | the string: a length and its bytes, or an integer, or a length, a length and LZF |
//! | 2 | RDB format number, little-endian |
//! | 8 | CRC-64 of all before it, little-endian: reflected, polynomial ad93d23594c935a9 (Jones) |
//!
//! A length begins with two bits that say how it goes on: 00, six bits; 01, fourteen; 80 and 81 (hexadecimal),
//! 32 and 64 bits, big-endian; 11, none: c0, c1, c2 is an integer of 8, 16, 32 bits, little-endian, c3 is LZF.
//! Source: `rdb.c`, `crc64.c` and `lzf_d.c` of Redis 7.0.

use super::strings::STRING_BYTES_MAX;
use crate::number;

/// Redis 7.0's; a string is written the same in all that came since.
const FORMAT_WRITTEN: u16 = 10;
/// The newest that is read.
const FORMAT_MAX: u16 = 12;
const FOOTER_BYTES: usize = 10;

const WRONG: &str = "ERR DUMP payload version or checksum are wrong";
const BAD: &str = "ERR Bad data format";

/// A string as DUMP gives it: integers as such, as Redis has them; never compressed.
pub(super) fn write(value: &[u8]) -> Vec<u8> {
    let mut out = vec![0];
    match number::parse(value).and_then(|value| i32::try_from(value).ok()) {
        Some(value) => match (i8::try_from(value), i16::try_from(value)) {
            (Ok(value), _) => out.extend([&[0xc0][..], &value.to_le_bytes()].concat()),
            (_, Ok(value)) => out.extend([&[0xc1][..], &value.to_le_bytes()].concat()),
            _ => out.extend([&[0xc2][..], &value.to_le_bytes()].concat()),
        },
        None => {
            match value.len() {
                short @ 0..64 => out.push(short as u8),
                middle @ 64..16_384 => out.extend([0x40 | (middle >> 8) as u8, middle as u8]),
                // A string has 512 MiB at most.
                long => out.extend([&[0x80][..], &(long as u32).to_be_bytes()].concat()),
            }
            out.extend_from_slice(value);
        }
    }
    out.extend(FORMAT_WRITTEN.to_le_bytes());
    out.extend(crc64(&out).to_le_bytes());
    out
}

/// The string of a payload. The error is the text of the reply.
pub(super) fn read(payload: &[u8]) -> Result<Vec<u8>, &'static str> {
    let body = payload.len().checked_sub(FOOTER_BYTES).ok_or(WRONG)?;
    let (body, footer) = payload.split_at(body);
    let (format, crc) = footer.split_at(2);
    let format = u16::from_le_bytes(format.try_into().map_err(|_| WRONG)?);
    let crc = u64::from_le_bytes(crc.try_into().map_err(|_| WRONG)?);
    let summed = payload.get(..body.len() + 2).ok_or(WRONG)?;
    if format > FORMAT_MAX || crc64(summed) != crc {
        return Err(WRONG);
    }
    let rest = match body {
        [0, rest @ ..] => rest,
        [1..=22, ..] => return Err("ERR only strings can be restored: there are no other types"),
        _ => return Err(BAD),
    };
    let mut rest = Reader(rest);
    let value = rest.string()?;
    if rest.0.is_empty() { Ok(value) } else { Err(BAD) }
}

/// What is left of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BAD)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        self.take(N)?.try_into().map_err(|_| BAD)
    }

    fn length_from(&mut self, first: u8) -> Result<usize, &'static str> {
        let length = match first {
            0..0x40 => u64::from(first),
            0x40..0x80 => u64::from(first & 0x3f) << 8 | u64::from(self.array::<1>()?[0]),
            0x80 => u64::from(u32::from_be_bytes(self.array()?)),
            0x81 => u64::from_be_bytes(self.array()?),
            _ => return Err(BAD),
        };
        usize::try_from(length).ok().filter(|length| *length <= STRING_BYTES_MAX).ok_or(BAD)
    }

    fn length(&mut self) -> Result<usize, &'static str> {
        let [first] = self.array()?;
        self.length_from(first)
    }

    fn string(&mut self) -> Result<Vec<u8>, &'static str> {
        let [first] = self.array()?;
        Ok(match first {
            0xc0 => i8::from_le_bytes(self.array()?).to_string().into_bytes(),
            0xc1 => i16::from_le_bytes(self.array()?).to_string().into_bytes(),
            0xc2 => i32::from_le_bytes(self.array()?).to_string().into_bytes(),
            0xc3 => {
                let (packed, length) = (self.length()?, self.length()?);
                unpack(self.take(packed)?, length).ok_or(BAD)?
            }
            first => {
                let length = self.length_from(first)?;
                self.take(length)?.to_vec()
            }
        })
    }
}

/// LZF: runs of literals, and copies of what was written before. `None`: it is damaged. Memory grows with
/// what is unpacked, not with the length that was declared.
fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut input = packed.iter().copied();
    while let Some(control) = input.next() {
        if control < 32 {
            for _ in 0..=control {
                out.push(input.next()?);
            }
        } else {
            let mut run = usize::from(control >> 5);
            if run == 7 {
                run += usize::from(input.next()?);
            }
            let back = usize::from(control & 0x1f) << 8 | usize::from(input.next()?);
            let from = out.len().checked_sub(back + 1)?;
            // It may run into what it writes itself.
            for at in from..from + run + 2 {
                out.push(*out.get(at)?);
            }
        }
        if out.len() > length {
            return None;
        }
    }
    (out.len() == length).then_some(out)
}

const CRC: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let (mut crc, mut bit) = (index as u64, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x95ac_9329_ac4b_c9b5 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

fn crc64(bytes: &[u8]) -> u64 {
    let step = |crc: u64, byte: &u8| crc >> 8 ^ CRC[usize::from(crc as u8 ^ byte)];
    bytes.iter().fold(0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_redis() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn what_is_written_is_read() {
        let long = vec![7; 20_000];
        let middle = vec![b'x'; 64];
        for value in [&b""[..], b"1", b"-129", b"65536", b"2147483648", b"007", &middle, &long] {
            assert_eq!(read(&write(value)).as_deref(), Ok(value));
        }
    }

    #[test]
    fn damage_is_refused() {
        let good = write(b"a string");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(read(&bad).is_err(), "byte {at}");
            assert!(read(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn packed_strings_are_unpacked_and_never_beyond_their_length() {
        // "a", then 9 bytes from one back: a run that reads what it writes.
        assert_eq!(unpack(&[0, b'a', 0xe0, 0, 0], 10), Some(b"aaaaaaaaaa".to_vec()));
        assert_eq!(unpack(&[0, b'a', 0xe0, 0, 0], 9), None);
        assert_eq!(unpack(&[0, b'a', 0xe0, 0, 1], 10), None);
        assert_eq!(unpack(&[5, b'a'], 6), None);
    }
}
