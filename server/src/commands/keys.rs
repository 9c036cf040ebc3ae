//! Keys: whether they are there, until when, and in what order.

use super::strings::{Scale, integer, invalid_expiry};
use super::{Outcome, is};
use crate::failure::{Failure, syntax};
use crate::glob;
use crate::number;
use crate::resp::{Args, Reply};
use crate::scans::Position;
use crate::shared::lock;
use crate::store::{Bounds, Cx};
use crate::walk::{Gives, Wide};
use isolith::NEVER;
use std::ops::{Bound, ControlFlow};

/// What one SCAN looks at, at most: COUNT is a wish.
const SCAN_COUNT_MAX: i64 = 100_000;
/// The bounds of a whole database.
const ALL: Bounds = (Bound::Unbounded, Bound::Unbounded);

/// `DEL key [key ...]`, `UNLINK key [key ...]`
pub(super) fn del(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut deleted = 0;
    for key in args.from(1) {
        if cx.is_there(key)? {
            cx.delete(key)?;
            deleted += 1;
        }
    }
    reply.count(deleted);
    Ok(())
}

/// `EXISTS key [key ...]`, `TOUCH key [key ...]`: a key that is named twice counts twice.
pub(super) fn exists(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut there = 0;
    for key in args.from(1) {
        there += usize::from(cx.is_there(key)?);
    }
    reply.count(there);
    Ok(())
}

/// `TYPE key`
pub(super) fn kind(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.simple(if cx.entry(args.at(1))?.is_some() { "string" } else { "none" });
    Ok(())
}

/// `RENAME key newkey`
pub(super) fn rename(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    move_key(cx, args, true)?;
    reply.ok();
    Ok(())
}

/// `RENAMENX key newkey`
pub(super) fn renamenx(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let moved = move_key(cx, args, false)?;
    reply.integer(i64::from(moved));
    Ok(())
}

/// Moves a value with its expiry. False: the new name is taken.
fn move_key(cx: &mut Cx<'_>, args: Args<'_>, replace: bool) -> Result<bool, Failure> {
    let (from, to) = (args.at(1), args.at(2));
    let entry = cx.entry(from)?.ok_or_else(|| Failure::text("ERR no such key"))?;
    if !replace && cx.entry(to)?.is_some() {
        return Ok(false);
    }
    if from != to {
        cx.put(to, &entry.value, Some(entry.expires_at.unwrap_or(NEVER)))?;
        cx.delete(from)?;
    }
    Ok(true)
}

const EXPIRE: (&str, Scale) = ("expire", Scale { seconds: true, absolute: false });
const PEXPIRE: (&str, Scale) = ("pexpire", Scale { seconds: false, absolute: false });
const EXPIREAT: (&str, Scale) = ("expireat", Scale { seconds: true, absolute: true });
const PEXPIREAT: (&str, Scale) = ("pexpireat", Scale { seconds: false, absolute: true });

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub(super) fn expire(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set_expiry(cx, EXPIRE, args, reply)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub(super) fn pexpire(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set_expiry(cx, PEXPIRE, args, reply)
}

/// `EXPIREAT key unix-seconds [NX | XX | GT | LT]`
pub(super) fn expireat(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set_expiry(cx, EXPIREAT, args, reply)
}

/// `PEXPIREAT key unix-milliseconds [NX | XX | GT | LT]`
pub(super) fn pexpireat(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    set_expiry(cx, PEXPIREAT, args, reply)
}

fn set_expiry(
    cx: &mut Cx<'_>,
    (command, scale): (&str, Scale),
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Outcome {
    // Options first, then the time: clients may know which error comes first.
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for option in args.from(3) {
        match option {
            _ if is(option, "NX") => nx = true,
            _ if is(option, "XX") => xx = true,
            _ if is(option, "GT") => gt = true,
            _ if is(option, "LT") => lt = true,
            _ => {
                let option = String::from_utf8_lossy(option);
                return Err(Failure::text(format!("ERR Unsupported option {option}")));
            }
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Failure::text(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if gt && lt {
        return Err(Failure::text("ERR GT and LT options at the same time are not compatible"));
    }
    let amount = integer(args.at(2))?;
    let at = scale.apply(amount, cx.now_ms()).ok_or_else(|| invalid_expiry(command))?;
    let Some(entry) = cx.entry(args.at(1))? else {
        reply.integer(0);
        return Ok(());
    };
    // No expiry is later than every expiry.
    let current = entry.expires_at.map(|at| i64::try_from(at).unwrap_or(i64::MAX));
    let refused = (nx && current.is_some())
        || (xx && current.is_none())
        || (gt && current.is_none_or(|current| at <= current))
        || (lt && current.is_some_and(|current| at >= current));
    if refused {
        reply.integer(0);
        return Ok(());
    }
    match u64::try_from(at).ok().filter(|at| *at > cx.now_ms()) {
        Some(at) => cx.put(args.at(1), &entry.value, Some(at))?,
        None => cx.delete(args.at(1))?,
    }
    reply.integer(1);
    Ok(())
}

/// `PERSIST key`
pub(super) fn persist(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?.filter(|entry| entry.expires_at.is_some());
    if let Some(entry) = &entry {
        cx.put(args.at(1), &entry.value, Some(NEVER))?;
    }
    reply.integer(i64::from(entry.is_some()));
    Ok(())
}

/// `TTL key`: -2 no key, -1 no expiry.
pub(super) fn ttl(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let left = time_left(cx, args)?;
    reply.integer(left.map_or_else(|none| none, in_seconds));
    Ok(())
}

/// `PTTL key`
pub(super) fn pttl(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let left = time_left(cx, args)?;
    reply.integer(left.unwrap_or_else(|none| none));
    Ok(())
}

/// `EXPIRETIME key`
pub(super) fn expiretime(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let at = end_of(cx, args)?;
    reply.integer(at.map_or_else(|none| none, in_seconds));
    Ok(())
}

/// `PEXPIRETIME key`
pub(super) fn pexpiretime(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let at = end_of(cx, args)?;
    reply.integer(at.unwrap_or_else(|none| none));
    Ok(())
}

/// Milliseconds as seconds, rounded.
fn in_seconds(millis: i64) -> i64 {
    millis / 1000 + i64::from(millis % 1000 >= 500)
}

/// When a key ends, in unix milliseconds; or Redis's figure for why it does not.
fn end_of(cx: &mut Cx<'_>, args: Args<'_>) -> Result<Result<i64, i64>, Failure> {
    Ok(match cx.entry(args.at(1))? {
        None => Err(-2),
        Some(entry) => match entry.expires_at {
            None => Err(-1),
            Some(at) => Ok(i64::try_from(at).unwrap_or(i64::MAX)),
        },
    })
}

fn time_left(cx: &mut Cx<'_>, args: Args<'_>) -> Result<Result<i64, i64>, Failure> {
    let now = i64::try_from(cx.now_ms()).unwrap_or(i64::MAX);
    Ok(end_of(cx, args)?.map(|at| at.saturating_sub(now).max(0)))
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub(super) fn scan(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let invalid = || Failure::text("ERR invalid cursor");
    let cursor = std::str::from_utf8(args.at(1)).ok().and_then(|text| text.parse::<u64>().ok());
    let cursor = cursor.ok_or_else(invalid)?;
    let (mut pattern, mut count, mut strings) = (None, 10, true);
    let mut options = args.from(2);
    while let Some(option) = options.next() {
        let value = options.next().ok_or_else(syntax)?;
        match option {
            _ if is(option, "MATCH") => pattern = Some(value).filter(|value| *value != b"*"),
            _ if is(option, "COUNT") => count = integer(value)?,
            _ if is(option, "TYPE") => strings = is(value, "STRING"),
            _ => return Err(syntax()),
        }
    }
    if count < 1 {
        return Err(syntax());
    }
    let db = cx.session.db;
    let after = match cursor {
        0 => None,
        _ => {
            let known = lock(&cx.shared.scans).position(cursor);
            let position = known.filter(|position| position.db == db).ok_or_else(invalid)?;
            Some(position.after)
        }
    };
    // The store is ordered: only the keys that begin as the pattern does can match it.
    let prefix = pattern.map(glob::literal_prefix).unwrap_or_default();
    let start = match &after {
        Some(after) => Bound::Excluded(after.clone()),
        None => Bound::Included(prefix.clone()),
    };
    let mut left = count.min(SCAN_COUNT_MAX);
    let (mut found, mut last) = (Vec::new(), None);
    cx.scan((start, prefix_end(&prefix)), false, |key, _| {
        if strings && pattern.is_none_or(|pattern| glob::matches(pattern, key)) {
            found.push(key.to_vec());
        }
        left -= 1;
        if left == 0 {
            last = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    let next = match last {
        Some(after) => lock(&cx.shared.scans).advance(cursor, Position { db, after }),
        None => 0,
    };
    reply.array(2);
    reply.bulk(itoa::Buffer::new().format(next).as_bytes());
    reply.array(found.len());
    found.iter().for_each(|key| reply.bulk(key));
    Ok(())
}

/// Right after every key that begins with `prefix`.
pub(super) fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

/// `KEYS pattern`
pub(super) fn keys(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let pattern = args.at(1).to_vec();
    let prefix = glob::literal_prefix(&pattern);
    let bounds: Bounds = (Bound::Included(prefix.clone()), prefix_end(&prefix));
    let gives = Gives::Keys(pattern);
    cx.answer(Wide { bounds, reverse: false, limit: usize::MAX, gives }, reply)
}

/// The bounds of RANGE and LOCKRANGE: start included, end excluded, `-` and `+` for open ends.
pub(super) fn bounds(start: &[u8], end: &[u8]) -> Bounds {
    let start = match start {
        b"-" => Bound::Unbounded,
        start => Bound::Included(start.to_vec()),
    };
    let end = match end {
        b"+" => Bound::Unbounded,
        end => Bound::Excluded(end.to_vec()),
    };
    (start, end)
}

/// `DELRANGE start end`: bounds as those of RANGE.
pub(super) fn delete_range(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.delete_range(cx.session.db, bounds(args.at(1), args.at(2)))?;
    reply.ok();
    Ok(())
}

/// `RANGE start end [LIMIT n] [REV]`: start included, end excluded, `-` and `+` for open ends.
pub(super) fn range(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (mut limit, mut reverse) = (usize::MAX, false);
    let mut options = args.from(3);
    while let Some(option) = options.next() {
        match option {
            _ if is(option, "REV") => reverse = true,
            _ if is(option, "LIMIT") => {
                let value = options.next().ok_or_else(syntax)?;
                let value = number::parse(value).and_then(|value| usize::try_from(value).ok());
                limit = value.ok_or_else(|| Failure::text(crate::failure::NOT_AN_INTEGER))?;
            }
            _ => return Err(syntax()),
        }
    }
    let bounds = bounds(args.at(1), args.at(2));
    cx.answer(Wide { bounds, reverse, limit, gives: Gives::Pairs }, reply)
}

/// `DBSIZE`
pub(super) fn dbsize(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let count = cx.count()?;
    reply.count(usize::try_from(count).unwrap_or(usize::MAX));
    Ok(())
}

/// `FLUSHDB [ASYNC | SYNC]`
pub(super) fn flushdb(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    flush_mode(args)?;
    cx.delete_range(cx.session.db, ALL)?;
    reply.ok();
    Ok(())
}

/// `FLUSHALL [ASYNC | SYNC]`
pub(super) fn flushall(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    flush_mode(args)?;
    for db in 0..crate::shared::DATABASES {
        cx.delete_range(db, ALL)?;
    }
    reply.ok();
    Ok(())
}

fn flush_mode(args: Args<'_>) -> Outcome {
    match (args.get(1), args.len()) {
        (None, _) => Ok(()),
        (Some(mode), 2) if is(mode, "ASYNC") || is(mode, "SYNC") => Ok(()),
        _ => Err(syntax()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_prefix_is_right_behind_it() {
        assert_eq!(prefix_end(b""), Bound::Unbounded);
        assert_eq!(prefix_end(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Bound::Excluded(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), Bound::Unbounded);
    }
}
