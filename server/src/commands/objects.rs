//! Keys as things: copied, moved between databases, drawn by lot, dumped, and asked what they weigh.

use super::payload;
use super::strings::{Scale, integer};
use super::{Outcome, is};
use crate::failure::{Failure, syntax};
use crate::number;
use crate::resp::{Args, Reply};
use crate::shared::DATABASES;
use crate::store::{Bounds, Cx};
use isolith::NEVER;
use std::hash::{BuildHasher, RandomState};
use std::ops::{Bound, ControlFlow};

const SAME: &str = "ERR source and destination objects are the same";

/// What an entry takes besides its bytes, about: its node, its version, its place in a page.
const ENTRY_BYTES: usize = 64;

/// A database's number.
fn database(text: &[u8]) -> Result<u8, Failure> {
    let index = integer(text)?;
    let index = u8::try_from(index).ok().filter(|db| *db < DATABASES);
    index.ok_or_else(|| Failure::text("ERR DB index is out of range"))
}

/// Runs `act` in another database.
fn within<T>(
    cx: &mut Cx<'_>,
    db: u8,
    act: impl FnOnce(&mut Cx<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let here = std::mem::replace(&mut cx.session.db, db);
    let outcome = act(cx);
    cx.session.db = here;
    outcome
}

/// `COPY source destination [DB index] [REPLACE]`
pub(super) fn copy(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (mut to, mut replace) = (cx.session.db, false);
    let mut words = args.from(3);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "REPLACE") => replace = true,
            _ if is(word, "DB") => to = database(words.next().ok_or_else(syntax)?)?,
            _ => return Err(syntax()),
        }
    }
    if to == cx.session.db && args.at(1) == args.at(2) {
        return Err(Failure::text(SAME));
    }
    let copied = match cx.entry(args.at(1))? {
        None => false,
        Some(entry) => within(cx, to, |cx| {
            let free = replace || !cx.is_there(args.at(2))?;
            if free {
                cx.put(args.at(2), &entry.value, Some(entry.expires_at.unwrap_or(NEVER)))?;
            }
            Ok(free)
        })?,
    };
    reply.integer(i64::from(copied));
    Ok(())
}

/// `MOVE key db`
pub(super) fn move_to(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let to = database(args.at(2))?;
    if to == cx.session.db {
        return Err(Failure::text(SAME));
    }
    let moved = match cx.entry(args.at(1))? {
        None => false,
        Some(entry) => within(cx, to, |cx| {
            let free = !cx.is_there(args.at(1))?;
            if free {
                cx.put(args.at(1), &entry.value, Some(entry.expires_at.unwrap_or(NEVER)))?;
            }
            Ok(free)
        })?,
    };
    if moved {
        cx.delete(args.at(1))?;
    }
    reply.integer(i64::from(moved));
    Ok(())
}

/// `RANDOMKEY`: goes down from the empty prefix, at each step to a prefix that one byte longer keys begin
/// with, chosen by lot.
pub(super) fn randomkey(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let dice = RandomState::new();
    let mut bounds: Bounds = (Bound::Unbounded, Bound::Unbounded);
    for step in 0u64.. {
        let Some(first) = edge(cx, bounds.clone(), false)? else { break };
        let last = edge(cx, bounds.clone(), true)?.unwrap_or_else(|| first.clone());
        let shared = first.iter().zip(&last).take_while(|(one, other)| one == other).count();
        let roll = dice.hash_one(step);
        let (Some(low), Some(high)) = (first.get(shared), last.get(shared)) else {
            // One key, or the first is the beginning of all others: itself, or one of them.
            if first == last || roll.is_multiple_of(2) {
                reply.bulk(&first);
                return Ok(());
            }
            bounds = (Bound::Excluded(first), bounds.1);
            continue;
        };
        let span = u64::from(high - low) + 1;
        let byte = *low + (roll % span) as u8;
        let from = [first.get(..shared).unwrap_or_default(), &[byte]].concat();
        // The first key from there on says which prefixes there are.
        let chosen = edge(cx, (Bound::Included(from), bounds.1.clone()), false)?.unwrap_or(last);
        let prefix = chosen.get(..=shared).unwrap_or(&chosen);
        bounds = (Bound::Included(prefix.to_vec()), super::keys::prefix_end(prefix));
    }
    reply.null();
    Ok(())
}

/// The first key within bounds, or the last.
fn edge(cx: &mut Cx<'_>, bounds: Bounds, last: bool) -> Result<Option<Vec<u8>>, Failure> {
    let mut found = None;
    cx.scan(bounds, last, |key, _| {
        found = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// `OBJECT ENCODING key`
pub(super) fn encoding(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(2))?;
    reply.bulk_or_null(entry.map(|entry| match number::parse(&entry.value) {
        Some(_) => &b"int"[..],
        None if entry.value.len() <= 44 => b"embstr",
        None => b"raw",
    }));
    Ok(())
}

/// `OBJECT REFCOUNT key`
pub(super) fn refcount(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match cx.is_there(args.at(2))? {
        true => reply.integer(1),
        false => reply.null(),
    }
    Ok(())
}

/// `OBJECT IDLETIME key`, `OBJECT FREQ key`: nobody counts.
pub(super) fn untracked(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if cx.is_there(args.at(2))? {
        return Err(Failure::text(
            "ERR nothing is evicted here, so neither idle time nor access frequency is tracked",
        ));
    }
    reply.null();
    Ok(())
}

/// `MEMORY USAGE key [SAMPLES count]`
pub(super) fn memory_usage(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    match (args.get(3), args.get(4), args.len()) {
        (None, ..) => {}
        (Some(word), Some(count), 5) if is(word, "SAMPLES") => {
            if integer(count)? < 0 {
                return Err(syntax());
            }
        }
        _ => return Err(syntax()),
    }
    match cx.entry(args.at(2))? {
        Some(entry) => reply.count(args.at(2).len() + entry.value.len() + ENTRY_BYTES),
        None => reply.null(),
    }
    Ok(())
}

/// `SORT key …`, `SORT_RO key …`: there is nothing here that can be sorted, and so nothing but errors and
/// empty lists.
pub(super) fn sort(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let mut store = None;
    let mut words = args.from(2);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(syntax);
        match word {
            _ if is(word, "ASC") || is(word, "DESC") || is(word, "ALPHA") => {}
            _ if is(word, "LIMIT") => {
                integer(value()?)?;
                integer(value()?)?;
            }
            _ if is(word, "BY") || is(word, "GET") => drop(value()?),
            _ if is(word, "STORE") && cx.for_update => store = Some(value()?),
            _ => return Err(syntax()),
        }
    }
    if cx.is_there(args.at(1))? {
        return Err(Failure::text(
            "WRONGTYPE Operation against a key holding the wrong kind of value",
        ));
    }
    match store {
        Some(store) => {
            cx.delete(store)?;
            reply.integer(0);
        }
        None => reply.array(0),
    }
    Ok(())
}

/// `DUMP key`
pub(super) fn dump(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let entry = cx.entry(args.at(1))?;
    reply.bulk_or_null(entry.map(|entry| payload::write(&entry.value)).as_deref());
    Ok(())
}

/// `RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]`
pub(super) fn restore(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let (mut replace, mut absolute) = (false, false);
    let mut words = args.from(4);
    while let Some(word) = words.next() {
        match word {
            _ if is(word, "REPLACE") => replace = true,
            _ if is(word, "ABSTTL") => absolute = true,
            _ if is(word, "IDLETIME") => {
                if integer(words.next().ok_or_else(syntax)?)? < 0 {
                    return Err(Failure::text("ERR Invalid IDLETIME value, must be >= 0"));
                }
            }
            _ if is(word, "FREQ") => {
                let frequency = integer(words.next().ok_or_else(syntax)?)?;
                if !(0..=255).contains(&frequency) {
                    return Err(Failure::text("ERR Invalid FREQ value, must be >= 0 and <= 255"));
                }
            }
            _ => return Err(syntax()),
        }
    }
    if !replace && cx.is_there(args.at(1))? {
        return Err(Failure::text("BUSYKEY Target key name already exists."));
    }
    let ttl = integer(args.at(2))?;
    if ttl < 0 {
        return Err(Failure::text("ERR Invalid TTL value, must be >= 0"));
    }
    let value = payload::read(args.at(3)).map_err(Failure::text)?;
    let scale = Scale { seconds: false, absolute };
    let at = match ttl {
        0 => Some(NEVER),
        ttl => {
            let at = scale.apply(ttl, cx.now_ms()).and_then(|at| u64::try_from(at).ok());
            Some(at.ok_or_else(|| super::strings::invalid_expiry("restore"))?)
        }
    };
    match at.filter(|at| *at <= cx.now_ms()) {
        Some(_) => cx.delete(args.at(1))?,
        None => cx.put(args.at(1), &value, at)?,
    }
    reply.ok();
    Ok(())
}
