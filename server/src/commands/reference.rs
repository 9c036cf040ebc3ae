//! `docs/commands.md`, from the table.

use super::{Group, Spec, all};
use std::fmt::Write;

/// The whole document.
pub(crate) fn markdown() -> String {
    let mut text = String::from(
        "# Commands\n\n\
         <!-- Made from the server's command table by `isolith commands`; a test keeps the two \
         equal. -->\n\n\
         isolith speaks RESP2 and RESP3 and follows Redis 7 in semantics, reply types and error \
         texts; what differs is said beside the command. Values are strings; sixteen databases \
         are sixteen keyspaces of the library, `db0` to `db15`. Each command that is not within \
         MULTI or BEGIN is a serializable transaction of its own, acknowledged when it is as \
         durable as the server was told (`--durability`, `sync` by default).\n\n\
         Errors begin with a code that a program can act on:\n\n\
         | code | meaning | then |\n|---|---|---|\n\
         | `ERR` | the command is wrong | do not repeat it |\n\
         | `EXECABORT` | the queue of MULTI had errors; nothing was done | mend the queue |\n\
         | `CONFLICT` | a BEGIN transaction met another; nothing was done | begin again |\n\
         | `DEADLOCK` | it lost its locks to an older one, was refused one, or was chosen to break a \
         deadlock; nothing was done | begin again |\n\
         | `LOCKTIMEOUT` | a lock was not to be had in time; the command did nothing | the same \
         command again, or ROLLBACK |\n\
         | `TXTIMEOUT` | the transaction has lasted too long; nothing was done | begin again |\n\
         | `SNAPSHOTTOOOLD` | what it reads is not kept any more (`--snapshot-age-max`) | \
         read anew, and be quicker |\n\
         | `ABORTED` | the open transaction is rolled back already | send ROLLBACK |\n\
         | `STALLED` | no room at the moment (log, memory); nothing was done | try again later |\n\
         | `READONLY` | a READ ONLY transaction, or a log that failed | reads go on |\n\
         | `COMMITUNKNOWN` | the log failed after the commit was decided | read back after a \
         restart |\n\n\
         Behind the code of an error that another try may mend stands what a program decides by: \
         `retry=now`; `retry=locks`, again with CONCURRENCY LOCKING, since without it would only fail \
         again; `retry=after:10`, in so many milliseconds; `retry=never`. Errors of a BEGIN transaction \
         have `age=17`, too: begun with `AGE 17`, the next try goes before every transaction that came \
         later, so that none starves. A transaction whose COMMIT failed is over; one that another \
         command ended (`CONFLICT`, `DEADLOCK`, `TXTIMEOUT`, `SNAPSHOTTOOOLD`) answers `ABORTED`, with \
         the same `retry=` and `age=`, until ROLLBACK or COMMIT.\n\n\
         A command that needs a lock of another transaction waits for it, at most for the lock \
         timeout; the commands behind it in its pipeline wait in order, other connections do not. \
         Commands outside of BEGIN wait in the same way where their writes meet such a lock; conflicts \
         among them are retried in the server and never shown. A client that goes while a command of its \
         transaction waits is rolled back at once.\n\n",
    );
    for group in Group::ALL {
        let title = match group {
            Group::Connection => "Connection",
            Group::Generic => "Keys",
            Group::String => "Strings",
            Group::Bitmap => "Bits",
            Group::Transactions => "Transactions of Redis",
            Group::Server => "Server",
            Group::Scripting => "Scripting",
            Group::Isolith => "Beyond Redis",
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "## {title}\n\n| command | since | what it does |\n|---|---|---|\n");
        for spec in all().filter(|spec| spec.group == group) {
            if spec.subcommands.is_empty() || spec.arity == -1 {
                row(&mut text, spec);
            }
            spec.subcommands.iter().for_each(|sub| row(&mut text, sub));
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

fn row(text: &mut String, spec: &Spec) {
    let syntax = spec.syntax.replace('|', "\\|");
    let _ = write!(text, "| `{syntax}` | {} | {}", spec.since, spec.summary);
    if !spec.note.is_empty() {
        let _ = write!(text, " *{}*", spec.note);
    }
    text.push_str(" |\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "reads a document of the repository")]
    fn document_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/commands.md");
        let document = std::fs::read(path).unwrap_or_default();
        assert!(
            document == markdown().as_bytes(),
            "docs/commands.md is not what the table says: `cargo run -- commands > docs/commands.md`"
        );
    }
}
