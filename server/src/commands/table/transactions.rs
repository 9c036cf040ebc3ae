//! Transactions of Redis: their part of the table. Order here is order in the reference.

use super::{ALL_KEYS, NO_KEYS};
use crate::commands::{Group, Handler, Spec, transactions};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::Transactions, "discard", 1, NO_KEYS, "2.0.0")
        .syntax("DISCARD")
        .does("Forgets what MULTI has queued, and what is watched.")
        .runs(Handler::Control(transactions::discard))
        .fast(),
    Spec::new(Group::Transactions, "exec", 1, NO_KEYS, "1.2.0")
        .syntax("EXEC")
        .does("Runs what MULTI has queued.")
        .note(
            "One serializable transaction. A command's error does not undo the others; \
            a conflict is retried in the server; null means that a watched key has \
            changed (written, deleted, expired; the same value again counts).",
        )
        .runs(Handler::Control(transactions::exec))
        .marked(&["commits"]),
    Spec::new(Group::Transactions, "multi", 1, NO_KEYS, "1.2.0")
        .syntax("MULTI")
        .does("Queues the commands that follow.")
        .runs(Handler::Control(transactions::multi))
        .fast(),
    Spec::new(Group::Transactions, "unwatch", 1, NO_KEYS, "2.2.0")
        .syntax("UNWATCH")
        .does("Watches nothing any more.")
        .runs(Handler::Plain(transactions::unwatch))
        .fast(),
    Spec::new(Group::Transactions, "watch", -2, ALL_KEYS, "2.2.0")
        .syntax("WATCH key [key ...]")
        .does("Makes the next EXEC do nothing if one of the keys changes before.")
        .note("FLUSHDB and FLUSHALL count as a change of a key that was not there, too.")
        .runs(Handler::Control(transactions::watch))
        .fast(),
];
