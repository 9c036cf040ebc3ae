//! Strings as rows of bits: bit 0 is the highest of the first byte.
//!
//! Where a command of Redis 7.0 looks for the key before it reads the rest of its arguments, so does this:
//! what is wrong with them is not told where the key is not there.

use super::strings::{STRING_BYTES_MAX, check_length, integer, kept, value_of};
use super::{Outcome, is};
use crate::failure::{Failure, syntax};
use crate::number;
use crate::resp::{Args, Reply};
use crate::store::Cx;

/// `SETBIT key offset value`
pub(super) fn setbit(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let offset = bit_offset(args.at(2), None)?;
    let bit = match number::parse(args.at(3)) {
        Some(0) => 0u8,
        Some(1) => 1,
        _ => return Err(Failure::text("ERR bit is not an integer or out of range")),
    };
    let entry = cx.entry(args.at(1))?;
    let mut value = value_of(&entry).unwrap_or_default().to_vec();
    let (place, shift) = (offset / 8, 7 - offset % 8);
    let grows = place >= value.len();
    if grows {
        cx.spend(place)?;
        value.resize(place + 1, 0);
    }
    let Some(byte) = value.get_mut(place) else { return Ok(()) };
    let old = *byte >> shift & 1;
    *byte = *byte & !(1 << shift) | bit << shift;
    if grows || old != bit {
        cx.put(args.at(1), &value, kept(&entry))?;
    }
    reply.integer(i64::from(old));
    Ok(())
}

/// `GETBIT key offset`
pub(super) fn getbit(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let offset = bit_offset(args.at(2), None)?;
    let entry = cx.entry(args.at(1))?;
    let byte = value_of(&entry).unwrap_or_default().get(offset / 8).copied().unwrap_or(0);
    reply.integer(i64::from(byte >> (7 - offset % 8) & 1));
    Ok(())
}

/// A place among the bits of a string. With `bits`, `#n` counts in fields of so many.
fn bit_offset(text: &[u8], bits: Option<u32>) -> Result<usize, Failure> {
    let (text, unit) = match (text, bits) {
        ([b'#', rest @ ..], Some(bits)) => (rest, i64::from(bits)),
        (text, _) => (text, 1),
    };
    number::parse(text)
        .and_then(|offset| offset.checked_mul(unit))
        .and_then(|offset| usize::try_from(offset).ok())
        .filter(|offset| offset / 8 < STRING_BYTES_MAX)
        .ok_or_else(|| Failure::text("ERR bit offset is not an integer or out of range"))
}

/// A part of a string: whole bytes, with bits to leave out at either end.
struct Part<'a> {
    bytes: &'a [u8],
    /// The place of the first bit.
    start: usize,
    /// Bits of the first and of the last byte that do not belong to it.
    before: u8,
    behind: u8,
}

impl<'a> Part<'a> {
    fn whole(bytes: &'a [u8]) -> Part<'a> {
        Part { bytes, start: 0, before: 0, behind: 0 }
    }

    /// From `start` to `end`, both included, negative ones from the end, in bytes or in bits. `None`: it is
    /// empty.
    fn of(value: &'a [u8], start: i64, end: i64, in_bits: bool) -> Option<Part<'a>> {
        let length = value.len() as i64 * if in_bits { 8 } else { 1 };
        let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
        let (start, end) = (place(start), place(end).min(length - 1));
        if start > end {
            return None;
        }
        let (first, last) = if in_bits { (start / 8, end / 8) } else { (start, end) };
        let bytes = value.get(first as usize..=last as usize)?;
        let (before, behind) = if in_bits { (start % 8, 7 - end % 8) } else { (0, 0) };
        let start = first as usize * 8;
        Some(Part { bytes, start, before: before as u8, behind: behind as u8 })
    }

    /// A byte of it, with its foreign bits as `fill` has them.
    fn byte(&self, index: usize, fill: u8) -> u8 {
        let mut mask = 0xff;
        if index == 0 {
            mask &= 0xffu16.wrapping_shr(self.before.into()) as u8;
        }
        if index + 1 == self.bytes.len() {
            mask &= 0xffu16.wrapping_shl(self.behind.into()) as u8;
        }
        self.bytes.get(index).copied().unwrap_or(fill) & mask | fill & !mask
    }
}

/// `BITCOUNT key [start end [BYTE | BIT]]`
pub(super) fn bitcount(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let Some(entry) = cx.entry(args.at(1))? else {
        reply.integer(0);
        return Ok(());
    };
    let part = match args.len() {
        2 => Some(Part::whole(&entry.value)),
        4 | 5 => {
            let (start, end) = (integer(args.at(2))?, integer(args.at(3))?);
            // Told before the unit is looked at, and not so by BITPOS: as in Redis.
            match start < 0 && end < 0 && start > end {
                true => None,
                false => Part::of(&entry.value, start, end, unit(args.get(4))?),
            }
        }
        _ => return Err(syntax()),
    };
    let count = part.map_or(0, |part| match part.bytes {
        [] => 0,
        // Only the ends have foreign bits.
        [_] => i64::from(part.byte(0, 0).count_ones()),
        [_, middle @ .., _] => {
            let ends = part.byte(0, 0).count_ones() + part.byte(middle.len() + 1, 0).count_ones();
            middle.iter().map(|byte| i64::from(byte.count_ones())).sum::<i64>() + i64::from(ends)
        }
    });
    reply.integer(count);
    Ok(())
}

/// True for BIT, false for BYTE and where nothing is said.
fn unit(word: Option<&[u8]>) -> Result<bool, Failure> {
    match word {
        None => Ok(false),
        Some(word) if is(word, "BIT") => Ok(true),
        Some(word) if is(word, "BYTE") => Ok(false),
        Some(_) => Err(syntax()),
    }
}

/// `BITPOS key bit [start [end [BYTE | BIT]]]`
pub(super) fn bitpos(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let bit = match integer(args.at(2))? {
        0 => 0,
        1 => 1u8,
        _ => return Err(Failure::text("ERR The bit argument must be 1 or 0.")),
    };
    let Some(entry) = cx.entry(args.at(1))? else {
        reply.integer(if bit == 1 { -1 } else { 0 });
        return Ok(());
    };
    let end_given = args.len() >= 5;
    let part = match args.len() {
        3 => Part::of(&entry.value, 0, -1, false),
        4..=6 => {
            let start = integer(args.at(3))?;
            let in_bits = unit(args.get(5))?;
            let end = if end_given { integer(args.at(4))? } else { -1 };
            Part::of(&entry.value, start, end, in_bits)
        }
        _ => return Err(syntax()),
    };
    let Some(part) = part else {
        reply.integer(-1);
        return Ok(());
    };
    // Looked for among bytes that hold nothing else than the other bit.
    let other = if bit == 1 { 0x00 } else { 0xff };
    let found = (0..part.bytes.len()).find(|index| part.byte(*index, other) != other);
    let place = match found {
        Some(index) => {
            let byte = part.byte(index, other) ^ other;
            (part.start + index * 8) as i64 + i64::from(byte.leading_zeros())
        }
        // Zeros follow a string, unless an end was named.
        None if bit == 0 && !end_given => (part.start + part.bytes.len() * 8) as i64,
        None => -1,
    };
    reply.integer(place);
    Ok(())
}

/// `BITOP AND | OR | XOR | NOT destkey key [key ...]`
pub(super) fn bitop(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    type Join = fn(u8, u8) -> u8;
    let join: Option<Join> = match args.at(1) {
        word if is(word, "AND") => Some(|one, other| one & other),
        word if is(word, "OR") => Some(|one, other| one | other),
        word if is(word, "XOR") => Some(|one, other| one ^ other),
        word if is(word, "NOT") => None,
        _ => return Err(syntax()),
    };
    if join.is_none() && args.len() != 4 {
        let text = "ERR BITOP NOT must be called with a single source key.";
        return Err(Failure::text(text));
    }
    let mut sources = args.from(3);
    let first = sources.next().unwrap_or_default();
    let mut result = value_of(&cx.entry(first)?).unwrap_or_default().to_vec();
    match join {
        None => result.iter_mut().for_each(|byte| *byte = !*byte),
        Some(join) => {
            for key in sources {
                let entry = cx.entry(key)?;
                let value = value_of(&entry).unwrap_or_default();
                result.resize(result.len().max(value.len()), 0);
                let others = value.iter().copied().chain(std::iter::repeat(0));
                result.iter_mut().zip(others).for_each(|(byte, other)| *byte = join(*byte, other));
            }
        }
    }
    match result.is_empty() {
        true => cx.delete(args.at(2))?,
        false => cx.put(args.at(2), &result, None)?,
    }
    reply.count(result.len());
    Ok(())
}

/// What BITFIELD does where a number does not fit.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// A field: where it is, and how it is read.
#[derive(Clone, Copy)]
struct Field {
    offset: usize,
    bits: u32,
    signed: bool,
}

#[derive(Clone, Copy)]
enum Change {
    Get,
    Set(i64),
    Add(i64),
}

impl Field {
    fn parse(kind: &[u8], offset: &[u8]) -> Result<Field, Failure> {
        let invalid = || {
            Failure::text(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not \
                 supported but i64 is.",
            )
        };
        let (signed, bits) = match kind {
            [b'i', bits @ ..] => (true, bits),
            [b'u', bits @ ..] => (false, bits),
            _ => return Err(invalid()),
        };
        let most = if signed { 64 } else { 63 };
        let bits = number::parse(bits).filter(|bits| (1..=most).contains(bits));
        let bits = bits.ok_or_else(invalid)? as u32;
        Ok(Field { offset: bit_offset(offset, Some(bits))?, bits, signed })
    }

    fn read(self, value: &[u8]) -> i128 {
        let bit = |at: usize| {
            let byte = value.get(at / 8).copied().unwrap_or(0);
            i128::from(byte >> (7 - at % 8) & 1)
        };
        let places = self.offset..self.offset + self.bits as usize;
        let number = places.fold(0, |number, at| number << 1 | bit(at));
        self.signed_of(number)
    }

    fn write(self, value: &mut [u8], number: i128) {
        for place in 0..self.bits {
            let at = self.offset + place as usize;
            let bit = (number >> (self.bits - 1 - place) & 1) as u8;
            if let Some(byte) = value.get_mut(at / 8) {
                let shift = 7 - at % 8;
                *byte = *byte & !(1 << shift) | bit << shift;
            }
        }
    }

    fn signed_of(self, number: i128) -> i128 {
        let low = number & ((1 << self.bits) - 1);
        let negative = self.signed && low >> (self.bits - 1) & 1 == 1;
        if negative { low - (1 << self.bits) } else { low }
    }

    /// What becomes of a number in this field; `None`: nothing.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i128> {
        let (least, most) = match self.signed {
            true => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            false => (0, (1 << self.bits) - 1),
        };
        match overflow {
            _ if (least..=most).contains(&number) => Some(number),
            Overflow::Wrap => Some(self.signed_of(number)),
            Overflow::Saturate => Some(number.clamp(least, most)),
            Overflow::Fail => None,
        }
    }

    /// What is to be set, as this field reads it: an unsigned one takes a negative number for a very large
    /// one.
    fn given(self, number: i64) -> i128 {
        if self.signed { i128::from(number) } else { i128::from(number as u64) }
    }
}

fn fields(args: Args<'_>, read_only: bool) -> Result<Vec<(Field, Change, Overflow)>, Failure> {
    let mut fields = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut at = 2;
    while at < args.len() {
        let left = args.len() - at - 1;
        let (change, taken) = match args.at(at) {
            word if is(word, "GET") && left >= 2 => (Some(Change::Get), 3),
            word if is(word, "SET") && left >= 3 => (Some(Change::Set(0)), 4),
            word if is(word, "INCRBY") && left >= 3 => (Some(Change::Add(0)), 4),
            word if is(word, "OVERFLOW") && left >= 1 => {
                overflow = match args.at(at + 1) {
                    word if is(word, "WRAP") => Overflow::Wrap,
                    word if is(word, "SAT") => Overflow::Saturate,
                    word if is(word, "FAIL") => Overflow::Fail,
                    _ => return Err(Failure::text("ERR Invalid OVERFLOW type specified")),
                };
                (None, 2)
            }
            _ => return Err(syntax()),
        };
        if let Some(change) = change {
            let field = Field::parse(args.at(at + 1), args.at(at + 2))?;
            let change = match change {
                Change::Get => Change::Get,
                _ if read_only => {
                    let text = "ERR BITFIELD_RO only supports the GET subcommand";
                    return Err(Failure::text(text));
                }
                Change::Set(_) => Change::Set(integer(args.at(at + 3))?),
                Change::Add(_) => Change::Add(integer(args.at(at + 3))?),
            };
            fields.push((field, change, overflow));
        }
        at += taken;
    }
    Ok(fields)
}

/// `BITFIELD key [GET type offset | [OVERFLOW WRAP | SAT | FAIL] SET type offset value | INCRBY type offset
/// increment ...]`
pub(super) fn bitfield(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let fields = fields(args, false)?;
    let entry = cx.entry(args.at(1))?;
    let mut value = value_of(&entry).unwrap_or_default().to_vec();
    let end = fields
        .iter()
        .filter(|(_, change, _)| !matches!(change, Change::Get))
        .map(|(field, ..)| (field.offset + field.bits as usize - 1) / 8 + 1)
        .max()
        .unwrap_or(0);
    check_length(end)?;
    let before = value.clone();
    value.resize(value.len().max(end), 0);
    reply.array(fields.len());
    for (field, change, overflow) in fields {
        let old = field.read(&value);
        let (new, answer) = match change {
            Change::Get => (None, Some(old)),
            Change::Set(number) => {
                let new = field.fit(field.given(number), overflow);
                (new, new.map(|_| old))
            }
            Change::Add(number) => {
                let new = field.fit(old + i128::from(number), overflow);
                (new, new)
            }
        };
        if let Some(new) = new {
            field.write(&mut value, new);
        }
        match answer {
            // A field has 64 bits at most, and 63 if it has no sign.
            Some(answer) => reply.integer(answer as i64),
            None => reply.null(),
        }
    }
    if value != before {
        cx.put(args.at(1), &value, kept(&entry))?;
    }
    Ok(())
}

/// `BITFIELD_RO key [GET type offset ...]`
pub(super) fn bitfield_ro(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let fields = fields(args, true)?;
    let entry = cx.entry(args.at(1))?;
    let value = value_of(&entry).unwrap_or_default();
    reply.array(fields.len());
    fields.iter().for_each(|(field, ..)| reply.integer(field.read(value) as i64));
    Ok(())
}
