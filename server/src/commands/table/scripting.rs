//! Scripts: their part of the table. Order here is order in the reference.

use super::NO_KEYS;
use crate::commands::{Group, Handler, Spec, server};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] =
    &[Spec::new(Group::Scripting, "function", -2, NO_KEYS, "7.0.0")
        .syntax("FUNCTION subcommand")
        .does("Commands about functions.")
        .with(FUNCTION)];

static FUNCTION: &[Spec] = &[Spec::new(Group::Scripting, "flush", -2, NO_KEYS, "7.0.0")
    .syntax("FUNCTION FLUSH [ASYNC | SYNC]")
    .does("Accepted without effect.")
    .note("There are no functions. For test suites that begin with it.")
    .runs(Handler::Plain(server::nothing))];
