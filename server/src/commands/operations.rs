//! What an operator asks for: durability, slow commands, an orderly end.

use super::connection::REDIS_RELEASE;
use super::strings::integer;
use super::{Outcome, by_name, is};
use crate::execute::{Flow, Try};
use crate::failure::{Failure, NOT_AN_INTEGER, syntax};
use crate::gates::{Class, Gate};
use crate::number;
use crate::resp::{Args, Reply};
use crate::session::{Mode, Session};
use crate::store::Cx;
use isolith::{Durability, Timestamp};

/// How many slow commands SLOWLOG GET gives if it is not told.
const SLOW_COUNT: usize = 10;

/// A reply that waits until everything up to `at` is on stable storage.
fn once_durable(session: &mut Session, this: Try<'_>, at: Timestamp) -> Flow {
    session.saw(at);
    let pending = this.shared.database.pending_durable(at);
    Flow::Gate(Gate::new(Class::Commit(Durability::Sync), at, pending))
}

/// True, and told, if the session is in a transaction: such commands are about what is committed.
fn within_transaction(session: &mut Session, reply: &mut Reply<'_>) -> bool {
    let within = !matches!(session.mode, Mode::Plain);
    if within {
        session.spoil();
        reply.error("ERR Command not allowed inside a transaction");
    }
    within
}

/// `SAVE`, `BGSAVE`, `BGREWRITEAOF`: everything is in the log; answered when that is on stable storage.
pub(super) fn save(
    session: &mut Session,
    this: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    if within_transaction(session, reply) {
        return Flow::Done;
    }
    match args.at(0) {
        name if is(name, "BGSAVE") => reply.simple("Background saving started"),
        _ => reply.ok(),
    }
    let visible = this.shared.database.visible();
    once_durable(session, this, visible)
}

/// `LASTSAVE`
pub(super) fn lastsave(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let saved = cx.shared.saved();
    reply.integer(i64::try_from(saved / 1000).unwrap_or(i64::MAX));
    Ok(())
}

/// `WAIT numreplicas timeout`
pub(super) fn wait(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    timeout(args.at(2))?;
    integer(args.at(1))?;
    reply.integer(0);
    Ok(())
}

fn timeout(text: &[u8]) -> Outcome {
    match number::parse(text) {
        None => Err(Failure::text("ERR timeout is not an integer or out of range")),
        Some(millis) if millis < 0 => Err(Failure::text("ERR timeout is negative")),
        Some(_) => Ok(()),
    }
}

/// `WAITAOF numlocal numreplicas timeout`
pub(super) fn waitaof(
    session: &mut Session,
    this: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    if within_transaction(session, reply) {
        return Flow::Done;
    }
    let range = "ERR value is out of range, must be between 0 and 1";
    let wrong = match (number::parse(args.at(1)), number::parse(args.at(2))) {
        (Some(0 | 1), Some(0..)) => match timeout(args.at(3)) {
            Err(Failure::Text(text)) => Some(text),
            _ => None,
        },
        (Some(_), Some(_)) => Some(range.into()),
        _ => Some(NOT_AN_INTEGER.into()),
    };
    if let Some(text) = wrong {
        reply.error(&text);
        return Flow::Done;
    }
    reply.array(2);
    reply.integer(1);
    reply.integer(0);
    let token = session.token;
    once_durable(session, this, token)
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]`
pub(super) fn shutdown(
    session: &mut Session,
    _: Try<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Flow {
    if within_transaction(session, reply) {
        return Flow::Done;
    }
    for word in args.from(1) {
        match word {
            _ if is(word, "ABORT") => {
                reply.error("ERR No shutdown in progress.");
                return Flow::Done;
            }
            _ if ["NOSAVE", "SAVE", "NOW", "FORCE"].iter().any(|known| is(word, known)) => {}
            _ => {
                reply.error(crate::failure::SYNTAX);
                return Flow::Done;
            }
        }
    }
    tracing::info!(client = %session.client.peer, "SHUTDOWN was asked for");
    // The same way as from outside; what is in hand is finished and answered.
    let own = rustix::process::getpid();
    if let Err(error) = rustix::process::kill_process(own, rustix::process::Signal::TERM) {
        reply.error(&format!("ERR Errors trying to SHUTDOWN: {error}"));
        return Flow::Done;
    }
    Flow::Close
}

/// `SLOWLOG GET [count]`
pub(super) fn slowlog_get(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let count = match args.get(2) {
        None => SLOW_COUNT,
        Some(count) => match integer(count)? {
            -1 => usize::MAX,
            count => usize::try_from(count)
                .map_err(|_| Failure::text("ERR count should be greater than or equal to -1"))?,
        },
    };
    let slow = cx.shared.slowlog.newest(count);
    reply.array(slow.len());
    for entry in slow {
        reply.array(6);
        reply.integer(entry.id as i64);
        reply.integer((entry.at / 1000) as i64);
        reply.integer(i64::try_from(entry.took.as_micros()).unwrap_or(i64::MAX));
        reply.array(entry.arguments.len());
        entry.arguments.iter().for_each(|argument| reply.bulk(argument));
        reply.bulk(entry.peer.as_bytes());
        reply.bulk(entry.name.as_bytes());
    }
    Ok(())
}

/// `SLOWLOG LEN`
pub(super) fn slowlog_len(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.count(cx.shared.slowlog.count());
    Ok(())
}

/// `SLOWLOG RESET`
pub(super) fn slowlog_reset(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    cx.shared.slowlog.clear();
    reply.ok();
    Ok(())
}

/// `LATENCY LATEST`, `LATENCY HISTORY event`: no event is ever sampled.
pub(super) fn no_events(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(0);
    Ok(())
}

/// `LATENCY RESET [event ...]`
pub(super) fn latency_reset(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.integer(0);
    Ok(())
}

/// `LATENCY DOCTOR`
pub(super) fn latency_doctor(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let slow = cx.shared.slowlog.newest(usize::MAX);
    let mut text = "No events are sampled here.".to_owned();
    match slow.iter().max_by_key(|entry| entry.took) {
        Some(worst) => text.push_str(&format!(
            " SLOWLOG has {} slow commands; the slowest ran for {} ms.",
            slow.len(),
            worst.took.as_millis()
        )),
        None => text.push_str(" SLOWLOG has no slow command."),
    }
    reply.text(&text);
    Ok(())
}

/// `LOLWUT [VERSION version]`
pub(super) fn lolwut(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let text = format!(
        "Twelve timestamps in a row,\nand none has seen the other's write: skew.\n\nRedis ver. \
         {REDIS_RELEASE}, isolith ver. {}\n",
        env!("CARGO_PKG_VERSION")
    );
    reply.text(&text);
    Ok(())
}

/// `… HELP`: what the table says of a command's subcommands.
pub(super) fn help(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let spec = by_name(args.at(0)).ok_or_else(syntax)?;
    reply.array(2 * spec.subcommands.len() + 3);
    let name = spec.name.to_uppercase();
    reply.simple(&format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
    let line = |spec: &super::Spec| spec.syntax.get(name.len() + 1..).unwrap_or_default();
    for sub in spec.subcommands {
        reply.simple(line(sub));
        reply.simple(&format!("    {}", sub.summary));
    }
    reply.simple("HELP");
    reply.simple("    Print this help.");
    Ok(())
}
