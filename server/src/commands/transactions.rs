//! Transactions: Redis's MULTI, WATCH and EXEC, and BEGIN … COMMIT beyond it.
//!
//! EXEC is one serializable transaction, run again until it commits; it answers nil only if a watched
//! key has changed. BEGIN's transaction is the client's own: it sees its conflicts, and retries.

use super::{Outcome, is};
use crate::execute::{Flow, Try};
use crate::failure::{self, Failure, Remedy, SYNTAX};
use crate::gates::{Class, Gate};
use crate::resp::{Args, Reply};
use crate::session::{Mode, Open, OpenTransaction, Queue, Session, Watched, WatchedKeys};
use crate::store::{Cx, Store};
use isolith::{Durability, Error, Isolation, Transaction, TransactionOptions};
use std::collections::btree_map::Entry;
use std::time::Instant;

/// The most savepoints of one transaction.
const SAVEPOINTS_MAX: usize = 1024;

/// `MULTI`
pub(super) fn multi(session: &mut Session, _: Try<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Flow {
    match session.mode {
        Mode::Plain => {
            session.mode = Mode::Queueing(Queue::default());
            reply.ok();
        }
        Mode::Queueing(_) => reply.error("ERR MULTI calls can not be nested"),
        Mode::Open(_) | Mode::Aborted(_) => {
            reply.error("ERR MULTI inside BEGIN is not allowed: it is a transaction already");
        }
    }
    Flow::Done
}

/// `DISCARD`
pub(super) fn discard(
    session: &mut Session,
    _: Try<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    if let Mode::Queueing(_) = session.mode {
        session.mode = Mode::Plain;
        session.watched.clear();
        reply.ok();
    } else {
        reply.error("ERR DISCARD without MULTI");
    }
    Flow::Done
}

/// `EXEC`
pub(super) fn exec(
    session: &mut Session,
    this: Try<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    if !matches!(session.mode, Mode::Queueing(_)) {
        reply.error("ERR EXEC without MULTI");
        return Flow::Done;
    }
    let Mode::Queueing(queue) = std::mem::replace(&mut session.mode, Mode::Plain) else {
        return Flow::Done;
    };
    let watched = std::mem::take(&mut session.watched);
    if queue.spoilt {
        reply.error("EXECABORT Transaction discarded because of previous errors.");
        return Flow::Done;
    }
    let (db, resp3) = (session.db, session.resp3);
    let flow = session.transact(this, reply, |session, txn, reply| {
        (session.db, session.resp3) = (db, resp3);
        reply.speak(resp3);
        if changed(this, txn, &watched)? {
            reply.null_array();
            return Ok(true);
        }
        reply.array(queue.commands.len());
        for (spec, args) in &queue.commands {
            session.run(this.shared, spec, args.lend(), reply, Store::Transaction(txn))?;
        }
        Ok(true)
    });
    if !matches!(flow, Flow::Gate(_)) {
        (session.db, session.resp3) = (db, resp3);
    }
    if matches!(flow, Flow::Later(_)) {
        session.mode = Mode::Queueing(queue);
        session.watched = watched;
    }
    flow
}

/// True if a watched key is not what it was: another version (the same value again is one), or no
/// longer there because its time is over. The reads are part of the transaction, so what holds here
/// holds when it commits.
fn changed(this: Try<'_>, txn: &mut Transaction, watched: &WatchedKeys) -> Result<bool, Error> {
    for ((db, key), then) in watched {
        let now = txn.observe_entry(this.shared.keyspace(*db), key)?;
        if now.observed != then.stamp || now.value.is_some() != then.live {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `WATCH key [key ...]`
pub(super) fn watch(
    session: &mut Session,
    this: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    match session.mode {
        Mode::Plain => {}
        Mode::Queueing(_) => {
            reply.error("ERR WATCH inside MULTI is not allowed");
            return Flow::Done;
        }
        Mode::Open(_) | Mode::Aborted(_) => {
            reply.error("ERR WATCH inside BEGIN is not allowed: what it reads is watched already");
            return Flow::Done;
        }
    }
    let db = session.db;
    for key in args.from(1) {
        let Entry::Vacant(place) = session.watched.entry((db, key.to_vec())) else { continue };
        match this.shared.database.get_after(this.shared.keyspace(db), key, session.token) {
            Ok(read) => {
                place.insert(Watched { stamp: read.observed, live: read.value.is_some() });
                session.saw(read.observed);
            }
            Err(error) => {
                reply.error(&failure::describe(&error));
                return Flow::Done;
            }
        }
    }
    reply.ok();
    Flow::Done
}

/// `UNWATCH`
pub(super) fn unwatch(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.session.watched.clear();
    reply.ok();
    Ok(())
}

/// What BEGIN was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Wish {
    isolation: Isolation,
    durability: Option<Durability>,
    read_only: bool,
}

impl Wish {
    fn parse(args: Args<'_>) -> Option<Wish> {
        let mut wish =
            Wish { isolation: Isolation::Serializable, durability: None, read_only: false };
        let mut words = args.from(1);
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word {
                _ if is(word, "ISOLATION") && is(value, "SNAPSHOT") => {
                    wish.isolation = Isolation::Snapshot;
                }
                _ if is(word, "ISOLATION") && is(value, "SERIALIZABLE") => {
                    wish.isolation = Isolation::Serializable;
                }
                _ if is(word, "READ") && is(value, "ONLY") => wish.read_only = true,
                _ if is(word, "READ") && is(value, "WRITE") => wish.read_only = false,
                _ if is(word, "DURABILITY") => {
                    wish.durability = Some(match value {
                        _ if is(value, "SYNC") => Durability::Sync,
                        _ if is(value, "OS") => Durability::Os,
                        _ if is(value, "BUFFERED") => Durability::Buffered,
                        _ => return None,
                    });
                }
                _ => return None,
            }
        }
        Some(wish)
    }
}

/// `BEGIN [ISOLATION SNAPSHOT | SERIALIZABLE] [READ ONLY] [DURABILITY SYNC | OS | BUFFERED]`
pub(super) fn begin(
    session: &mut Session,
    this: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    match session.mode {
        Mode::Plain => {}
        Mode::Queueing(_) => {
            session.spoil();
            reply.error("ERR BEGIN inside MULTI is not allowed");
            return Flow::Done;
        }
        Mode::Open(_) | Mode::Aborted(_) => {
            reply.error("ERR BEGIN inside BEGIN is not allowed; SAVEPOINT marks a place within");
            return Flow::Done;
        }
    }
    let Some(wish) = Wish::parse(args) else {
        reply.error(SYNTAX);
        return Flow::Done;
    };
    let durability = wish.durability.unwrap_or(this.shared.durability);
    let transaction = if wish.read_only {
        this.shared.database.snapshot_after(session.token).map(|snapshot| {
            session.saw(snapshot.timestamp());
            OpenTransaction::ReadOnly(Box::new(snapshot))
        })
    } else {
        let options = TransactionOptions {
            isolation: wish.isolation,
            durability: Some(durability),
            ..TransactionOptions::default()
        };
        let begun = this.shared.database.begin_with(options);
        begun.map(|txn| OpenTransaction::ReadWrite(Box::new(txn)))
    };
    match transaction {
        Ok(transaction) => {
            let used = Instant::now();
            session.mode =
                Mode::Open(Open { transaction, durability, used, savepoints: Vec::new() });
            reply.ok();
            Flow::Done
        }
        Err(error) if failure::remedy(&error) == Remedy::Wait && this.patient => {
            Flow::Later(crate::execute::Later::Stalled)
        }
        Err(error) => {
            reply.error(&failure::describe(&error));
            Flow::Done
        }
    }
}

/// `COMMIT`
pub(super) fn commit(
    session: &mut Session,
    _: Try<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    match std::mem::replace(&mut session.mode, Mode::Plain) {
        Mode::Open(Open { transaction: OpenTransaction::ReadOnly(snapshot), .. }) => {
            reply.ok();
            Flow::Seen(snapshot.timestamp())
        }
        Mode::Open(Open { transaction: OpenTransaction::ReadWrite(txn), durability, .. }) => {
            match txn.commit_pending() {
                Ok(pending) => {
                    reply.ok();
                    let gate: Gate = session.committed(pending, durability);
                    debug_assert_eq!(gate.class, Class::Commit(durability));
                    Flow::Gate(gate)
                }
                Err(error) => {
                    reply.error(&failure::describe(&error));
                    Flow::Done
                }
            }
        }
        Mode::Aborted(why) => {
            reply.error(&format!("ABORTED {why}; nothing was done: begin again"));
            Flow::Done
        }
        other => {
            session.mode = other;
            session.spoil();
            reply.error("ERR COMMIT without BEGIN");
            Flow::Done
        }
    }
}

/// `ROLLBACK [TO savepoint]`
pub(super) fn rollback(
    session: &mut Session,
    _: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    match (args.get(1), args.get(2), args.len()) {
        (None, ..) => match session.mode {
            Mode::Open(_) | Mode::Aborted(_) => {
                session.mode = Mode::Plain;
                reply.ok();
            }
            _ => {
                session.spoil();
                reply.error("ERR ROLLBACK without BEGIN");
            }
        },
        (Some(to), Some(name), 3) if is(to, "TO") => match rollback_to(session, name) {
            Ok(()) => reply.ok(),
            Err(Failure::Text(text)) => reply.error(&text),
            Err(Failure::Engine(error)) => {
                session.abort("rolling back to a savepoint failed");
                reply.error(&failure::describe(&error));
            }
        },
        _ => reply.error(SYNTAX),
    }
    Flow::Done
}

fn rollback_to(session: &mut Session, name: &[u8]) -> Outcome {
    let open = match &mut session.mode {
        Mode::Open(open) => open,
        Mode::Aborted(why) => {
            return Err(Failure::text(format!("ABORTED {why}; nothing was done: send ROLLBACK")));
        }
        _ => return Err(Failure::text("ERR ROLLBACK without BEGIN")),
    };
    open.used = Instant::now();
    let unknown = || Failure::text("ERR no such savepoint");
    let OpenTransaction::ReadWrite(txn) = &mut open.transaction else { return Err(unknown()) };
    let at = open.savepoints.iter().rposition(|(known, _)| known == name).ok_or_else(unknown)?;
    // Later ones are gone; this one stays, as in SQL.
    open.savepoints.truncate(at + 1);
    if let Some((_, savepoint)) = open.savepoints.last() {
        txn.rollback_to(*savepoint)?;
    }
    Ok(())
}

/// `SAVEPOINT name`
pub(super) fn savepoint(
    session: &mut Session,
    _: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    match &mut session.mode {
        Mode::Open(open) => {
            open.used = Instant::now();
            match &mut open.transaction {
                OpenTransaction::ReadWrite(_) if open.savepoints.len() >= SAVEPOINTS_MAX => {
                    reply.error("ERR too many savepoints");
                }
                OpenTransaction::ReadWrite(txn) => {
                    open.savepoints.push((args.at(1).to_vec(), txn.savepoint()));
                    reply.ok();
                }
                // Nothing to take back: any place is as good.
                OpenTransaction::ReadOnly(_) => reply.ok(),
            }
        }
        Mode::Aborted(why) => {
            let text = format!("ABORTED {why}; nothing was done: send ROLLBACK");
            reply.error(&text);
        }
        _ => {
            session.spoil();
            reply.error("ERR SAVEPOINT without BEGIN");
        }
    }
    Flow::Done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Parser, Step};

    fn wish(line: &str) -> Option<Wish> {
        let mut parser = Parser::new();
        let line = format!("{line}\n");
        assert_eq!(parser.parse(line.as_bytes()), Ok(Step::Ready));
        Wish::parse(parser.args(line.as_bytes()))
    }

    #[test]
    fn begin_takes_its_words_in_any_order_and_case() {
        let default =
            Wish { isolation: Isolation::Serializable, durability: None, read_only: false };
        assert_eq!(wish("BEGIN"), Some(default));
        assert_eq!(
            wish("begin read only durability OS isolation snapshot"),
            Some(Wish {
                isolation: Isolation::Snapshot,
                durability: Some(Durability::Os),
                read_only: true
            })
        );
        for wrong in ["BEGIN READ", "BEGIN ISOLATION", "BEGIN ISOLATION CHAOS", "BEGIN NOW"] {
            assert_eq!(wish(wrong), None, "{wrong}");
        }
    }
}
