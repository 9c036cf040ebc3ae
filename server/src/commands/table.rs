//! The table itself, in a file for each group. Order there is order in the reference.

use super::{Group, Handler, Keys, Spec};

mod bits;
mod connection;
mod isolith;
mod keys;
mod scripting;
mod server;
mod strings;
mod transactions;

const NO_KEYS: Keys = Keys { first: 0, last: 0, step: 0 };
const ONE_KEY: Keys = Keys { first: 1, last: 1, step: 1 };
const TWO_KEYS: Keys = Keys { first: 1, last: 2, step: 1 };
const ALL_KEYS: Keys = Keys { first: 1, last: -1, step: 1 };
/// The key of a subcommand.
const SECOND: Keys = Keys { first: 2, last: 2, step: 1 };
const BEHIND_TWO: Keys = Keys { first: 2, last: -1, step: 1 };
const EVERY_OTHER: Keys = Keys { first: 1, last: -1, step: 2 };

/// Ours, since its first release.
const OURS: &str = "isolith 0.1.0";

impl Spec {
    const fn new(
        group: Group,
        name: &'static str,
        arity: i8,
        keys: Keys,
        since: &'static str,
    ) -> Spec {
        Spec {
            name,
            arity,
            keys,
            fast: false,
            marks: &[],
            group,
            since,
            syntax: "",
            summary: "",
            note: "",
            handler: Handler::Container,
            subcommands: &[],
        }
    }

    const fn syntax(mut self, syntax: &'static str) -> Spec {
        self.syntax = syntax;
        self
    }

    const fn does(mut self, summary: &'static str) -> Spec {
        self.summary = summary;
        self
    }

    const fn note(mut self, note: &'static str) -> Spec {
        self.note = note;
        self
    }

    const fn runs(mut self, handler: Handler) -> Spec {
        self.handler = handler;
        self
    }

    const fn fast(mut self) -> Spec {
        self.fast = true;
        self
    }

    const fn marked(mut self, marks: &'static [&'static str]) -> Spec {
        self.marks = marks;
        self
    }

    const fn with(mut self, subcommands: &'static [Spec]) -> Spec {
        self.subcommands = subcommands;
        self
    }
}

/// Every command, by group, in the order of [`Group::ALL`].
static TABLE: [&[Spec]; Group::ALL.len()] = [
    connection::COMMANDS,
    strings::COMMANDS,
    bits::COMMANDS,
    keys::COMMANDS,
    transactions::COMMANDS,
    isolith::COMMANDS,
    server::COMMANDS,
    scripting::COMMANDS,
];

/// Every command.
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    TABLE.iter().flat_map(|group| group.iter())
}

/// `HELP` of every command that has subcommands. It is told of with none of them.
pub(crate) static HELP: Spec = Spec::new(Group::Server, "help", 2, NO_KEYS, "5.0.0")
    .syntax("… HELP")
    .does("Tells the subcommands.")
    .runs(Handler::Plain(super::operations::help))
    .marked(&["no-auth"]);
