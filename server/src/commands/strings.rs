//! Strings: GET, SET and their kin.

use super::{Outcome, is};
use crate::extended::{self, Extended};
use crate::failure::{Failure, NOT_AN_INTEGER, TOO_LARGE, syntax};
use crate::limits::BULK_BYTES_MAX;
use crate::number;
use crate::resp::{Args, Reply};
use crate::store::Cx;
use isolith::{Entry, NEVER};

/// The longest string.
pub(super) const STRING_BYTES_MAX: usize = BULK_BYTES_MAX as usize;

/// `GET key`
pub(super) fn get(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?;
    reply.bulk_or_null(value_of(&entry));
    Ok(())
}

/// `MGET key [key ...]`
pub(super) fn mget(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(args.len() - 1);
    for key in args.from(1) {
        let entry = cx.entry(key)?;
        reply.bulk_or_null(value_of(&entry));
        if reply.overflowed() {
            break;
        }
    }
    Ok(())
}

/// `STRLEN key`
pub(super) fn strlen(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?;
    reply.count(value_of(&entry).map_or(0, <[u8]>::len));
    Ok(())
}

/// `GETRANGE key start end`, both ends included, negative from the end.
pub(super) fn getrange(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (start, end) = (integer(args.at(2))?, integer(args.at(3))?);
    let entry = cx.entry(args.at(1))?;
    let value = value_of(&entry).unwrap_or_default();
    let length = value.len() as i64;
    let place = |index: i64| if index < 0 { length.saturating_add(index) } else { index };
    // A range that lies wholly before the string is empty, as in Redis.
    let wrong_way = start < 0 && end < 0 && start > end;
    let (start, end) = (place(start).max(0), place(end).max(0).min(length - 1));
    let range = start as usize..(end + 1).max(0) as usize;
    reply.bulk(if wrong_way { b"" } else { value.get(range).unwrap_or_default() });
    Ok(())
}

/// When an option says that a value ends.
#[derive(Clone, Copy)]
enum Ends {
    /// Not said.
    Never,
    Keep,
    At(u64),
}

/// A unit and an origin for times that clients give.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) seconds: bool,
    pub(super) absolute: bool,
}

impl Scale {
    /// The scale of an option of SET and GETEX.
    fn of(option: &[u8]) -> Option<Scale> {
        let scale = |seconds, absolute| Some(Scale { seconds, absolute });
        match option {
            _ if is(option, "EX") => scale(true, false),
            _ if is(option, "PX") => scale(false, false),
            _ if is(option, "EXAT") => scale(true, true),
            _ if is(option, "PXAT") => scale(false, true),
            _ => None,
        }
    }

    /// A time in unix milliseconds. `None`: it does not fit.
    pub(super) fn apply(self, amount: i64, now_ms: u64) -> Option<i64> {
        let millis = if self.seconds { amount.checked_mul(1000)? } else { amount };
        if self.absolute { Some(millis) } else { millis.checked_add(i64::try_from(now_ms).ok()?) }
    }
}

/// The time that `text` gives, which must lie after 1970 and be given as more than nothing.
fn expiry(cx: &Cx<'_>, command: &str, scale: Scale, text: &[u8]) -> Result<u64, Failure> {
    let amount = integer(text)?;
    Some(amount)
        .filter(|amount| *amount > 0)
        .and_then(|amount| scale.apply(amount, cx.now_ms()))
        .and_then(|at| u64::try_from(at).ok())
        .ok_or_else(|| invalid_expiry(command))
}

/// The error of a time that cannot be.
pub(super) fn invalid_expiry(command: &str) -> Failure {
    Failure::text(format!("ERR invalid expire time in '{command}' command"))
}

/// Writes a value that ends at `at`; if that is past, nothing is there afterwards.
fn put_until(cx: &mut Cx<'_>, key: &[u8], value: &[u8], at: u64) -> Outcome {
    if at <= cx.now_ms() { cx.delete(key) } else { cx.put(key, value, Some(at)) }
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub(super) fn set(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (key, value) = (args.at(1), args.at(2));
    if args.len() == 3 {
        cx.put(key, value, None)?;
        reply.ok();
        return Ok(());
    }
    let (mut if_absent, mut if_present, mut old) = (false, false, false);
    let mut ends = Ends::Never;
    let mut options = args.from(3);
    while let Some(option) = options.next() {
        match option {
            _ if is(option, "NX") && !if_present => if_absent = true,
            _ if is(option, "XX") && !if_absent => if_present = true,
            _ if is(option, "GET") => old = true,
            _ if is(option, "KEEPTTL") && matches!(ends, Ends::Never) => ends = Ends::Keep,
            _ => {
                let scale = Scale::of(option).filter(|_| matches!(ends, Ends::Never));
                let (Some(scale), Some(time)) = (scale, options.next()) else {
                    return Err(syntax());
                };
                ends = Ends::At(expiry(cx, "set", scale, time)?);
            }
        }
    }
    let looks = if_absent || if_present || old || matches!(ends, Ends::Keep);
    let entry = if looks { cx.entry(key)? } else { None };
    let refused = if_absent && entry.is_some() || if_present && entry.is_none();
    if !refused {
        match ends {
            Ends::Never => cx.put(key, value, None)?,
            Ends::Keep => cx.put(key, value, kept(&entry))?,
            Ends::At(at) => put_until(cx, key, value, at)?,
        }
    }
    match (old, refused) {
        (true, _) => reply.bulk_or_null(value_of(&entry)),
        (false, true) => reply.null(),
        (false, false) => reply.ok(),
    }
    Ok(())
}

/// `SETNX key value`
pub(super) fn setnx(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let absent = cx.entry(args.at(1))?.is_none();
    if absent {
        cx.put(args.at(1), args.at(2), None)?;
    }
    reply.integer(i64::from(absent));
    Ok(())
}

/// `SETEX key seconds value`
pub(super) fn setex(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let scale = Scale { seconds: true, absolute: false };
    let at = expiry(cx, "setex", scale, args.at(2))?;
    put_until(cx, args.at(1), args.at(3), at)?;
    reply.ok();
    Ok(())
}

/// `PSETEX key milliseconds value`
pub(super) fn psetex(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let scale = Scale { seconds: false, absolute: false };
    let at = expiry(cx, "psetex", scale, args.at(2))?;
    put_until(cx, args.at(1), args.at(3), at)?;
    reply.ok();
    Ok(())
}

/// `GETSET key value`
pub(super) fn getset(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?;
    cx.put(args.at(1), args.at(2), None)?;
    reply.bulk_or_null(value_of(&entry));
    Ok(())
}

/// `GETDEL key`
pub(super) fn getdel(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?;
    if entry.is_some() {
        cx.delete(args.at(1))?;
    }
    reply.bulk_or_null(value_of(&entry));
    Ok(())
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub(super) fn getex(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let ends = match (args.get(2), args.get(3), args.len()) {
        (None, ..) => None,
        (Some(option), None, _) if is(option, "PERSIST") => Some(Ends::Never),
        (Some(option), Some(time), 4) => {
            let scale = Scale::of(option).ok_or_else(syntax)?;
            Some(Ends::At(expiry(cx, "getex", scale, time)?))
        }
        _ => return Err(syntax()),
    };
    let entry = cx.entry(args.at(1))?;
    if let (Some(ends), Some(entry)) = (ends, &entry) {
        match ends {
            Ends::At(at) => put_until(cx, args.at(1), &entry.value, at)?,
            _ if entry.expires_at.is_some() => cx.put(args.at(1), &entry.value, Some(NEVER))?,
            _ => {}
        }
    }
    reply.bulk_or_null(value_of(&entry));
    Ok(())
}

/// `MSET key value [key value ...]`
pub(super) fn mset(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    put_pairs(cx, "mset", args)?;
    reply.ok();
    Ok(())
}

/// `MSETNX key value [key value ...]`
pub(super) fn msetnx(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err(Failure::text(super::wrong_arity("msetnx")));
    }
    for key in args.from(1).step_by(2) {
        if cx.entry(key)?.is_some() {
            reply.integer(0);
            return Ok(());
        }
    }
    put_pairs(cx, "msetnx", args)?;
    reply.integer(1);
    Ok(())
}

fn put_pairs(cx: &mut Cx<'_>, command: &str, args: Args<'_>) -> Outcome {
    if args.len().is_multiple_of(2) {
        return Err(Failure::text(super::wrong_arity(command)));
    }
    let pairs = args.from(1).step_by(2).zip(args.from(2).step_by(2));
    for (key, value) in pairs {
        cx.put(key, value, None)?;
    }
    Ok(())
}

/// `INCR key`
pub(super) fn incr(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    add(cx, args.at(1), 1, reply)
}

/// `DECR key`
pub(super) fn decr(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    add(cx, args.at(1), -1, reply)
}

/// `INCRBY key increment`
pub(super) fn incrby(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    add(cx, args.at(1), integer(args.at(2))?, reply)
}

/// `DECRBY key decrement`
pub(super) fn decrby(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let amount = integer(args.at(2))?
        .checked_neg()
        .ok_or_else(|| Failure::text("ERR decrement would overflow"))?;
    add(cx, args.at(1), amount, reply)
}

fn add(cx: &mut Cx<'_>, key: &[u8], amount: i64, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(key)?;
    let value = value_of(&entry).map_or(Ok(0), integer)?;
    let sum = value
        .checked_add(amount)
        .ok_or_else(|| Failure::text("ERR increment or decrement would overflow"))?;
    let mut digits = itoa::Buffer::new();
    let text = digits.format(sum).as_bytes();
    cx.put(key, text, kept(&entry))?;
    reply.integer(sum);
    Ok(())
}

/// The expiry of a value that is changed and not set anew; of none that of its keyspace.
pub(super) fn kept(entry: &Option<Entry>) -> Option<u64> {
    entry.as_ref().map(|entry| entry.expires_at.unwrap_or(NEVER))
}

/// `INCRBYFLOAT key increment`
pub(super) fn incrbyfloat(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    // `None`: infinite, which is a number to read and never one to write.
    let float = |text: &[u8]| match Extended::parse(text) {
        None if extended::is_infinite(text) => Ok(None),
        None => Err(Failure::text("ERR value is not a valid float")),
        number => Ok(number),
    };
    let entry = cx.entry(args.at(1))?;
    let value = float(value_of(&entry).unwrap_or(b"0"))?;
    let increment = float(args.at(2))?;
    let sum = value
        .zip(increment)
        .and_then(|(value, increment)| value.add(increment))
        .ok_or_else(|| Failure::text("ERR increment would produce NaN or Infinity"))?;
    let text = sum.decimal();
    cx.put(args.at(1), text.as_bytes(), kept(&entry))?;
    reply.bulk(text.as_bytes());
    Ok(())
}

/// `APPEND key value`
pub(super) fn append(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?;
    let old = value_of(&entry).unwrap_or_default();
    let value = check_length(old.len().saturating_add(args.at(2).len()))
        .map(|()| [old, args.at(2)].concat())?;
    cx.put(args.at(1), &value, kept(&entry))?;
    reply.count(value.len());
    Ok(())
}

/// `MERGE key operator operand`; members for `set-union`.
pub(super) fn merge(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let operator = String::from_utf8_lossy(args.at(2)).to_lowercase();
    if operator == isolith::merge::SET_UNION {
        cx.merge(args.at(1), &operator, &isolith::merge::encode_set(args.from(3)))?;
    } else if args.len() == 4 {
        cx.merge(args.at(1), &operator, args.at(3))?;
    } else {
        return Err(syntax());
    }
    reply.ok();
    Ok(())
}

/// `SETRANGE key offset value`
pub(super) fn setrange(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (offset, patch) = (integer(args.at(2))?, args.at(3));
    let offset =
        usize::try_from(offset).map_err(|_| Failure::text("ERR offset is out of range"))?;
    let entry = cx.entry(args.at(1))?;
    let old = value_of(&entry).unwrap_or_default();
    if patch.is_empty() {
        reply.count(old.len());
        return Ok(());
    }
    let end = offset.saturating_add(patch.len());
    check_length(end)?;
    cx.spend(end)?;
    let mut value = Vec::with_capacity(end.max(old.len()));
    value.extend_from_slice(old);
    value.resize(end.max(old.len()), 0);
    if let Some(place) = value.get_mut(offset..end) {
        place.copy_from_slice(patch);
    }
    cx.put(args.at(1), &value, kept(&entry))?;
    reply.count(value.len());
    Ok(())
}

/// Refuses what is longer than a string may be.
pub(super) fn check_length(length: usize) -> Outcome {
    if length > STRING_BYTES_MAX { Err(Failure::text(TOO_LARGE)) } else { Ok(()) }
}

/// The value, if there is one.
pub(super) fn value_of(entry: &Option<Entry>) -> Option<&[u8]> {
    entry.as_ref().map(|entry| &entry.value[..])
}

/// An integer argument.
pub(super) fn integer(text: &[u8]) -> Result<i64, Failure> {
    number::parse(text).ok_or_else(|| Failure::text(NOT_AN_INTEGER))
}
