//! The past: snapshots that clients keep, and the feed of what commits changed.

use super::strings::integer;
use super::{Outcome, is};
use crate::failure::{self, Failure, syntax};
use crate::number;
use crate::resp::{Args, Reply};
use crate::shared::lock;
use crate::store::Cx;
use isolith::{Change, Commit, KeyBound, Timestamp};
use std::ops::Bound;

/// Commits that one CHANGES gives if it is not told how many, and at most.
const COMMITS: usize = 100;
const COMMITS_MAX: usize = 10_000;
/// After so many bytes it gives no further commit.
const CHANGES_BYTES: usize = 1024 * 1024;

fn told(error: &isolith::Error) -> Failure {
    Failure::text(failure::describe(error, None))
}

fn shown(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.bits()).unwrap_or(i64::MAX)
}

/// `SNAPSHOT OPEN`
pub(super) fn open(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let snapshot = cx.shared.database.snapshot_after(cx.session.token);
    let snapshot = snapshot.map_err(|error| told(&error))?;
    let now = cx.shared.now_ms();
    let id = lock(&cx.shared.snapshots).keep(snapshot, now).ok_or_else(|| {
        Failure::text("ERR too many snapshots are open: SNAPSHOT LIST shows them")
    })?;
    reply.integer(id as i64);
    Ok(())
}

/// `SNAPSHOT CLOSE id [id ...]`
pub(super) fn close(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let ids: Result<Vec<i64>, Failure> = args.from(2).map(integer).collect();
    let mut snapshots = lock(&cx.shared.snapshots);
    let closed = ids?.into_iter().filter(|id| snapshots.close(*id as u64)).count();
    reply.count(closed);
    Ok(())
}

/// `SNAPSHOT LIST`
pub(super) fn list(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let now = cx.shared.now_ms();
    let snapshots = lock(&cx.shared.snapshots);
    reply.array(snapshots.count());
    for (id, timestamp, since) in snapshots.all() {
        reply.map(3);
        reply.bulk(b"id");
        reply.integer(id as i64);
        reply.bulk(b"timestamp");
        reply.integer(shown(timestamp));
        reply.bulk(b"age-ms");
        reply.integer(i64::try_from(now.saturating_sub(since)).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// `CHANGES FROM timestamp | NOW [COUNT count]`
pub(super) fn changes(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !is(args.at(1), "FROM") {
        return Err(syntax());
    }
    let count = match (args.get(3), args.get(4), args.len()) {
        (None, ..) => COMMITS,
        (Some(word), Some(count), 5) if is(word, "COUNT") => usize::try_from(integer(count)?)
            .map_err(|_| Failure::text(crate::failure::NOT_AN_INTEGER))?
            .min(COMMITS_MAX),
        _ => return Err(syntax()),
    };
    let from = match args.at(2) {
        word if is(word, "NOW") => cx.shared.database.durable(),
        word => {
            let bits = number::parse(word).and_then(|bits| u64::try_from(bits).ok());
            let bits = bits.ok_or_else(|| Failure::text(crate::failure::NOT_AN_INTEGER))?;
            Timestamp::from_bits(bits)
        }
    };
    // It goes on where it was: then what it has not given yet is still in the log.
    let feed = cx.session.changes.take().filter(|feed| feed.position() == from);
    let mut feed = match feed {
        Some(feed) => feed,
        None => Box::new(cx.shared.database.changes(from).map_err(|error| told(&error))?),
    };
    let mut body = Vec::new();
    let mut commits = Reply::new(&mut body, reply.resp3());
    let mut given = 0;
    while given < count && commits.mark() < CHANGES_BYTES {
        let Some(commit) = feed.next_commit().map_err(|error| told(&error))? else { break };
        tell(&commit, &mut commits);
        given += 1;
    }
    if commits.overflowed() {
        return Err(Failure::text("ERR a commit is larger than a reply may be"));
    }
    reply.array(2);
    reply.integer(shown(feed.position()));
    reply.array(given);
    reply.raw(&body);
    cx.session.changes = Some(feed);
    Ok(())
}

fn tell(commit: &Commit, reply: &mut Reply<'_>) {
    reply.array(2);
    reply.integer(shown(commit.timestamp));
    reply.array(commit.changes.len());
    for change in &commit.changes {
        tell_change(change, reply);
    }
}

fn tell_change(change: &Change, reply: &mut Reply<'_>) {
    let name = |keyspace: &isolith::ChangedKeyspace| {
        keyspace.name.as_deref().map_or_else(|| format!("#{}", keyspace.id), str::to_owned)
    };
    let words = |reply: &mut Reply<'_>, words: &[&[u8]]| {
        reply.array(words.len());
        words.iter().for_each(|word| reply.bulk(word));
    };
    match change {
        Change::Created(keyspace) => words(reply, &[b"created", name(keyspace).as_bytes()]),
        Change::Dropped { name } => words(reply, &[b"dropped", name.as_bytes()]),
        Change::Put { keyspace, key, value, expires_at } => {
            reply.array(5);
            for word in [&b"put"[..], name(keyspace).as_bytes(), &key[..], &value[..]] {
                reply.bulk(word);
            }
            match expires_at {
                Some(at) => reply.integer(i64::try_from(*at).unwrap_or(i64::MAX)),
                None => reply.null(),
            }
        }
        Change::Delete { keyspace, key } => {
            words(reply, &[b"delete", name(keyspace).as_bytes(), &key[..]]);
        }
        Change::DeleteRange { keyspace, range } => {
            let (lower, upper) = (end(&range.lower, b"-"), end(&range.upper, b"+"));
            words(reply, &[b"delete-range", name(keyspace).as_bytes(), &lower, &upper]);
        }
        Change::Merge { keyspace, key, operator, operand, .. } => {
            let keyspace = name(keyspace);
            let (name, key) = (keyspace.as_bytes(), &key[..]);
            words(reply, &[b"merge", name, key, operator.as_bytes(), &operand[..]]);
        }
        Change::BulkLoaded(keyspace) => words(reply, &[b"loaded", name(keyspace).as_bytes()]),
        _ => words(reply, &[b"other"]),
    }
}

/// An end of a range, as ZRANGEBYLEX of Redis writes them: `[` with the key, `(` without it.
fn end(bound: &KeyBound, open: &[u8]) -> Vec<u8> {
    match bound {
        Bound::Unbounded => open.to_vec(),
        Bound::Included(key) => [b"[", &key[..]].concat(),
        Bound::Excluded(key) => [b"(", &key[..]].concat(),
    }
}
