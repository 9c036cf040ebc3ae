//! Transactions: Redis's MULTI, WATCH and EXEC, and BEGIN … COMMIT beyond it.
//!
//! EXEC is one serializable transaction, run again until it commits; it answers nil only if a watched
//! key has changed. BEGIN's transaction is the client's own: it sees its conflicts, and retries.

use super::{Outcome, is, keys};
use crate::execute::{Flow, Later, Try};
use crate::failure::{self, Failure, Remedy, SYNTAX, syntax};
use crate::resp::{Args, Reply};
use crate::session::{
    Committing, Mode, Open, OpenTransaction, Queue, Session, Watched, WatchedKeys,
};
use crate::shared::lock;
use crate::store::{Cx, Store};
use crate::terms::{Misread, Terms};
use isolith::{Error, RangeLock, Transaction};
use std::collections::btree_map::Entry;
use std::time::Instant;

const NOT_KEPT: &str = "SNAPSHOTTOOOLD retry=never what was then is not kept: see --retention";
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
        Mode::Open(_) | Mode::Committing(_) | Mode::Aborted(_) => {
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
    // What a user may do can have changed since.
    for (spec, args) in &queue.commands {
        if let Some(text) = session.refused(this.shared, spec, args.lend()) {
            reply.error(&format!("EXECABORT Transaction discarded because of: {text}"));
            return Flow::Done;
        }
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
        let is_same = now.observed == then.stamp || isolith::planted!("watch-looks-for-presence");
        if now.value.is_none() && isolith::planted!("watch-misses-deletion") {
            continue;
        }
        if !is_same || now.value.is_some() != then.live {
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
        Mode::Open(_) | Mode::Committing(_) | Mode::Aborted(_) => {
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
                reply.error(&failure::describe(&error, None));
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

/// `BEGIN [ISOLATION level] [CONCURRENCY control] [DEADLOCK policy] [DURABILITY level] [READ ONLY]
/// [AT ms | SNAPSHOT id] [TIMEOUT ms] [LOCKTIMEOUT ms] [AGE n]`
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
        Mode::Open(_) | Mode::Committing(_) | Mode::Aborted(_) => {
            reply.error("ERR BEGIN inside BEGIN is not allowed; SAVEPOINT marks a place within");
            return Flow::Done;
        }
    }
    let terms = match Terms::parse(args.from(1)) {
        Ok(terms) => terms.or(&session.terms),
        Err(Misread(text)) => {
            reply.error(&text);
            return Flow::Done;
        }
    };
    let options = this.shared.defaults.settle(&terms);
    let transaction = if let Some(id) = terms.snapshot {
        let Some(snapshot) = lock(&this.shared.snapshots).get(id) else {
            reply.error("ERR no such snapshot");
            return Flow::Done;
        };
        Ok(OpenTransaction::ReadOnly(Box::new(snapshot)))
    } else if let Some(at) = terms.at {
        match this.shared.database.timestamp_at(at) {
            Some(timestamp) => {
                let snapshot = this.shared.database.snapshot_at(timestamp);
                snapshot.map(|snapshot| OpenTransaction::ReadOnly(Box::new(snapshot)))
            }
            None => {
                reply.error(NOT_KEPT);
                return Flow::Done;
            }
        }
    } else if options.read_only {
        this.shared.database.snapshot_after(session.token).map(|snapshot| {
            session.saw(snapshot.timestamp());
            OpenTransaction::ReadOnly(Box::new(snapshot))
        })
    } else {
        this.shared.database.begin_with(options).map(|mut txn| {
            txn.wake(Some(session.wait.waker()));
            session.client.age(Some(txn.age().bits()));
            OpenTransaction::ReadWrite(Box::new(txn))
        })
    };
    match transaction {
        Ok(transaction) => {
            let used = Instant::now();
            session.mode = Mode::Open(Open {
                transaction,
                durability: options.durability.unwrap_or(this.shared.defaults.durability),
                used,
                // What lies beyond the reach of clocks is no end.
                deadline: options.timeout.and_then(|timeout| used.checked_add(timeout)),
                savepoints: Vec::new(),
            });
            reply.ok();
            Flow::Done
        }
        Err(error) if failure::remedy(&error) == Remedy::Wait && this.patient => {
            Flow::Later(Later::Stalled)
        }
        Err(error) => {
            reply.error(&failure::describe(&error, None));
            Flow::Done
        }
    }
}

/// `COMMIT`
pub(super) fn commit(
    session: &mut Session,
    this: Try<'_>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    session.wait.begin();
    let mut committing = match std::mem::replace(&mut session.mode, Mode::Plain) {
        Mode::Open(Open { transaction: OpenTransaction::ReadOnly(snapshot), .. }) => {
            reply.ok();
            return Flow::Seen(snapshot.timestamp());
        }
        Mode::Open(Open { transaction: OpenTransaction::ReadWrite(txn), durability, .. }) => {
            let age = txn.age();
            Committing { steps: Box::new(txn.commit_steps()), durability, age }
        }
        Mode::Committing(committing) => committing,
        Mode::Aborted(aborted) => {
            reply.error(&aborted.error("begin again"));
            return Flow::Done;
        }
        other => {
            session.mode = other;
            session.spoil();
            reply.error("ERR COMMIT without BEGIN");
            return Flow::Done;
        }
    };
    let outcome = session.decide(&mut committing.steps);
    match outcome {
        Ok(Some(pending)) => {
            session.client.age(None);
            reply.ok();
            Flow::Gate(session.committed(pending, committing.durability))
        }
        Ok(None) => {
            let until = committing.steps.waits_until();
            session.mode = Mode::Committing(committing);
            Flow::Later(Later::Locked(until))
        }
        // It keeps what it was asked to commit until there is room.
        Err(error) if failure::remedy(&error) == Remedy::Wait && this.patient => {
            session.mode = Mode::Committing(committing);
            Flow::Later(Later::Stalled)
        }
        Err(error) => {
            session.client.age(None);
            reply.error(&failure::describe(&error, Some(committing.age)));
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
            Mode::Open(_) | Mode::Committing(_) | Mode::Aborted(_) => {
                session.end();
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
            // Nothing is read.
            Err(Failure::Elsewhere) => reply.error(SYNTAX),
            Err(Failure::Engine(error) | Failure::Unreadable(error)) => {
                let why = "rolling back to a savepoint failed";
                session.abort(failure::hint(&error, None), why);
                reply.error(&failure::describe(&error, None));
            }
        },
        _ => reply.error(SYNTAX),
    }
    Flow::Done
}

fn rollback_to(session: &mut Session, name: &[u8]) -> Outcome {
    let open = match &mut session.mode {
        Mode::Open(open) => open,
        Mode::Aborted(aborted) => return Err(Failure::text(aborted.error("send ROLLBACK"))),
        _ => return Err(Failure::text("ERR ROLLBACK without BEGIN")),
    };
    open.used = Instant::now();
    let unknown = || Failure::text("ERR no such savepoint");
    let OpenTransaction::ReadWrite(txn) = &mut open.transaction else { return Err(unknown()) };
    let at = open.savepoints.iter().rposition(|(known, _)| known == name).ok_or_else(unknown)?;
    // Later ones are gone; this one stays, as in SQL.
    open.savepoints.truncate(at + 1);
    if let Some((_, savepoint)) = open.savepoints.last()
        && !isolith::planted!("rollback-to-does-nothing")
    {
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
        Mode::Aborted(aborted) => reply.error(&aborted.error("send ROLLBACK")),
        _ => {
            session.spoil();
            reply.error("ERR SAVEPOINT without BEGIN");
        }
    }
    Flow::Done
}

/// `GETFORUPDATE key`
pub(super) fn get_for_update(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let value = cx.value_for_update(args.at(1))?;
    reply.bulk_or_null(value.as_deref());
    Ok(())
}

/// `GETFORSHARE key`
pub(super) fn get_for_share(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let value = cx.value_for_share(args.at(1))?;
    reply.bulk_or_null(value.as_deref());
    Ok(())
}

/// `LOCKRANGE start end [SHARED | EXCLUSIVE]`
pub(super) fn lock_range(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let lock = match (args.get(3), args.len()) {
        (None, _) => RangeLock::Shared,
        (Some(word), 4) if is(word, "SHARED") => RangeLock::Shared,
        (Some(word), 4) if is(word, "EXCLUSIVE") => RangeLock::Exclusive,
        _ => return Err(syntax()),
    };
    cx.lock_range(keys::bounds(args.at(1), args.at(2)), lock)?;
    reply.ok();
    Ok(())
}
