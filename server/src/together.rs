//! Runs the writes that came in during one turn, each the last of what its client has sent, as one
//! transaction: clients that wait for each answer cost one commit a turn then, and not one each.
//!
//! 1. It is a batch like that of a pipeline (rule 4 of `execute.rs`): all of its commands came in before it
//!    began, and none is answered before it is committed. So it is one of the moments that each of them
//!    could have had alone, and they have an order in it: that in which they came in.
//! 2. One connection's command never does another's any harm. Where the batch cannot be, for the sake of one
//!    of them, that one is run by itself and the others together; the second time each by itself. After a
//!    conflict all are run again, a few times; then, and at once where a lock is in the way, each by itself:
//!    so that only those wait that have to.
//! 3. A connection holds the bytes of its command until the batch is committed, and runs nothing meanwhile.

use crate::batch::{Batch, BatchEnd};
use crate::connection::{BATCH_RUNS, Connection, Joined, Work};
use crate::execute::Try;
use crate::gates::Gate;
use crate::reactor::Token;
use crate::shared::Shared;
use std::task::Poll;

/// Runs something on a connection, if it is still there.
pub(crate) type With<'a> = dyn FnMut(Token, &mut dyn FnMut(&mut Connection, &mut Work<'_>)) + 'a;

/// Who has joined a batch, and where its reply begins.
type Members = Vec<(Token, usize)>;

/// How a try to run a batch ended.
enum End {
    Done,
    Again,
    /// This one cannot be part of it.
    Without(Token),
    /// Each by itself.
    Alone,
}

/// Runs the front commands of `tokens`, all of them or as many as one batch takes; returns how many.
pub(crate) fn run(tokens: &[Token], shared: &Shared, core: usize, with: &mut With<'_>) -> usize {
    let this = Try { shared, core, patient: true };
    let (mut runs, mut left_out) = (0, false);
    loop {
        let (count, end) = attempt(tokens, this, with);
        match end {
            End::Done => return count,
            End::Again if runs < BATCH_RUNS => runs += 1,
            End::Without(token) if !left_out => {
                left_out = true;
                with(token, &mut |connection, work| connection.run_alone(work));
            }
            End::Again | End::Without(_) | End::Alone => {
                for &token in &tokens[..count] {
                    with(token, &mut |connection, work| connection.run_alone(work));
                }
                return count;
            }
        }
    }
}

/// One try: how many of `tokens` were asked, and what became of them.
fn attempt(tokens: &[Token], this: Try<'_>, with: &mut With<'_>) -> (usize, End) {
    let Ok(mut batch) = Batch::begin(this.shared) else { return (tokens.len(), End::Alone) };
    let mut members = Members::new();
    let mut count = 0;
    for &token in tokens {
        if !batch.has_room() {
            break;
        }
        count += 1;
        let mut joined = Joined::Not;
        with(token, &mut |connection, work| joined = connection.join(&mut batch, work));
        match joined {
            Joined::At(before) => members.push((token, before)),
            Joined::Not => {}
            Joined::Failed => {
                take_back(&members, with);
                return (count, End::Without(token));
            }
        }
    }
    if members.is_empty() {
        return (count, End::Done);
    }
    match batch.commit(this) {
        BatchEnd::Gate(gate) => committed(gate, &members, this.shared, with),
        BatchEnd::Unknown(error) => {
            for &(token, before) in &members {
                with(token, &mut |connection, work| {
                    connection.joined_in_vain(&error, before, work);
                    go_on(connection, work);
                });
            }
        }
        BatchEnd::Conflict => {
            take_back(&members, with);
            return (count, End::Again);
        }
        BatchEnd::Refused => {
            take_back(&members, with);
            return (count, End::Alone);
        }
    }
    (count, End::Done)
}

/// All replies wait for the same; or for nothing: `Buffered` commits, and writes that wrote nothing.
fn committed(mut gate: Gate, members: &Members, shared: &Shared, with: &mut With<'_>) {
    let at = gate.at;
    let (mut waits, mut places) = (at > shared.database.acknowledged(), Vec::new());
    if !waits && let Some(&(token, _)) = members.first() {
        let mut poll = Poll::Pending;
        with(token, &mut |_, work| poll = work.gates.poll(&mut gate));
        waits = !matches!(poll, Poll::Ready(Ok(())));
    }
    for &(token, before) in members {
        with(token, &mut |connection, work| {
            places.extend(connection.joined(at, before, waits, work));
            go_on(connection, work);
        });
    }
    let (mut gate, mut places) = (Some(gate), Some(places));
    if waits && let Some(&(token, _)) = members.first() {
        with(token, &mut |_, work| {
            if let (Some(gate), Some(places)) = (gate.take(), places.take()) {
                work.gates.push(gate, places);
            }
        });
    }
}

/// What has come in behind the command.
fn go_on(connection: &mut Connection, work: &mut Work<'_>) {
    if connection.wants_to_run() {
        connection.go_on(work);
    }
}

fn take_back(members: &Members, with: &mut With<'_>) {
    for &(token, before) in members {
        with(token, &mut |connection, _| connection.leave(before));
    }
}

#[cfg(test)]
mod tests;
