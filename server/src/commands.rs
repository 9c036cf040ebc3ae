//! The command table: everything that is known of a command, in one place.
//!
//! Arity checks, `COMMAND`, the reference in `docs/commands.md` and the dispatch all come from
//! [`all`]. A handler is a plain function over [`Cx`], so that it does not know whether it runs
//! alone, in EXEC or after BEGIN.

use crate::execute::{Flow, Try};
use crate::failure::Failure;
use crate::resp::{Args, Reply};
use crate::session::Session;
use crate::store::Cx;
use std::borrow::Cow;
use std::sync::OnceLock;

mod accepted;
mod bits;
mod connection;
mod keys;
mod keyspaces;
mod objects;
mod operations;
mod past;
mod payload;
pub(crate) mod reference;
mod sequence;
mod server;
mod strings;
mod table;
mod transactions;
mod users;

pub(crate) use table::{HELP, all};

/// What a handler says: its reply is written, or this is why not.
pub(crate) type Outcome = Result<(), Failure>;

/// A command's work.
pub(crate) type Run = fn(&mut Cx<'_>, Args<'_>, &mut Reply<'_>) -> Outcome;

/// How a command is to be run.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// Touches no data.
    Plain(Run),
    /// Reads data, at one point.
    Read(Run),
    /// Reads and writes data, in a transaction.
    Write(Run),
    /// Reads or locks data, within BEGIN alone: elsewhere it would hold for no time at all.
    Inside(Run),
    /// Changes how the commands after it are run.
    Control(fn(&mut Session, Try<'_>, Args<'_>, &mut Reply<'_>) -> Flow),
    /// Has subcommands and does nothing itself.
    Container,
}

/// Which arguments are keys: from `first` to `last` (negative: from the end) in steps of `step`.
/// `first` 0: none.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) first: i8,
    pub(crate) last: i8,
    pub(crate) step: i8,
}

impl Keys {
    /// True if the command names keys.
    pub(crate) fn any(self) -> bool {
        self.first > 0
    }

    /// How many keys a command with `length` arguments names.
    pub(crate) fn count(self, length: usize) -> usize {
        self.positions(length).count()
    }

    /// Where they are.
    pub(crate) fn positions(self, length: usize) -> impl Iterator<Item = usize> {
        let last = match self.last {
            last if last < 0 => length.saturating_sub(last.unsigned_abs().into()),
            last => usize::try_from(last).unwrap_or(0),
        };
        let range = if self.any() { self.first as usize..(last + 1).min(length) } else { 0..0 };
        range.step_by(usize::try_from(self.step).unwrap_or(1).max(1))
    }
}

/// What a command may be marked with: what must be known of it by those who run it.
///
/// | mark | |
/// |---|---|
/// | `admin`, `dangerous` | categories, as Redis has them |
/// | `no-auth` | for clients that have not proven who they are, and for everybody |
/// | `secret` | has secrets in it: kept out of logs |
/// | `blind` | writes keys without telling what was in them |
/// | `ranges` | works on a range of keys instead of naming them |
/// | `commits` | may write although it is none of the commands that do |
/// | `unpausable` | goes on while clients are paused |
/// | `away` | waits for the disk, or is long: run by a helper (`helpers.rs`) |
pub(crate) const MARKS: [&str; 9] =
    ["admin", "dangerous", "no-auth", "secret", "blind", "ranges", "commits", "unpausable", "away"];

/// The categories of commands, as Redis has them; some have no command here.
pub(crate) const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// One command.
pub(crate) struct Spec {
    /// In small letters; a subcommand's without its container's.
    pub(crate) name: &'static str,
    /// How many arguments, the name included; negative: at least so many.
    pub(crate) arity: i8,
    pub(crate) keys: Keys,
    /// It takes about the same short time whatever there is.
    pub(crate) fast: bool,
    /// What else matters of it: see [`MARKS`].
    pub(crate) marks: &'static [&'static str],
    pub(crate) group: Group,
    /// The Redis release that has it first; for our own, ours.
    pub(crate) since: &'static str,
    /// How it is written.
    pub(crate) syntax: &'static str,
    pub(crate) summary: &'static str,
    /// What is different from Redis, or worth knowing.
    pub(crate) note: &'static str,
    pub(crate) handler: Handler,
    pub(crate) subcommands: &'static [Spec],
}

/// The groups, as in Redis's documentation; ours is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Connection,
    Generic,
    String,
    Bitmap,
    Transactions,
    Server,
    Scripting,
    Isolith,
}

impl Group {
    pub(crate) const ALL: [Group; 8] = [
        Group::Connection,
        Group::String,
        Group::Bitmap,
        Group::Generic,
        Group::Transactions,
        Group::Isolith,
        Group::Server,
        Group::Scripting,
    ];

    /// As `COMMAND DOCS` has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Group::Connection => "connection",
            Group::Generic => "generic",
            Group::String => "string",
            Group::Bitmap => "bitmap",
            Group::Transactions => "transactions",
            Group::Server => "server",
            Group::Scripting => "scripting",
            Group::Isolith => "isolith",
        }
    }
}

impl Spec {
    /// True if it may write more than one key.
    pub(crate) fn writes_many(&self) -> bool {
        matches!(self.handler, Handler::Write(_)) && (self.keys.first, self.keys.last) != (1, 1)
    }

    /// True if it may end in a commit.
    pub(crate) fn may_commit(&self) -> bool {
        matches!(self.handler, Handler::Write(_)) || self.is("commits")
    }

    /// True if it is marked so.
    pub(crate) fn is(&self, mark: &str) -> bool {
        debug_assert!(MARKS.contains(&mark));
        self.marks.contains(&mark)
    }

    /// The categories that it belongs to.
    pub(crate) fn categories(&self) -> Vec<&'static str> {
        let group = match self.group {
            Group::Connection => Some("connection"),
            Group::Generic => Some("keyspace"),
            Group::String => Some("string"),
            Group::Bitmap => Some("bitmap"),
            // Who may use transactions may not therefore do what operators do.
            Group::Isolith if self.is("admin") => None,
            Group::Transactions | Group::Isolith => Some("transaction"),
            Group::Scripting => Some("scripting"),
            Group::Server => None,
        };
        let access = match self.handler {
            Handler::Read(_) => Some("read"),
            Handler::Write(_) => Some("write"),
            _ => None,
        };
        let speed = if self.fast { "fast" } else { "slow" };
        let marked = ["admin", "dangerous"].into_iter().filter(|mark| self.is(mark));
        group.into_iter().chain(access).chain([speed]).chain(marked).collect()
    }

    /// True if `length` arguments fit.
    pub(crate) fn takes(&self, length: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity < 0 { length >= wanted } else { length == wanted }
    }
}

/// A command's name as COMMAND and ACL have it, a subcommand's with its container: `client|list`.
pub(crate) fn full_name(spec: &'static Spec) -> Cow<'static, str> {
    let is_it = |sub: &Spec| std::ptr::eq(sub, spec);
    match all().find(|container| container.subcommands.iter().any(is_it)) {
        Some(container) => format!("{}|{}", container.name, spec.name).into(),
        None => spec.name.into(),
    }
}

/// Finds the command (or subcommand) that `args` name and checks its arity. The error is the text of
/// the reply.
pub(crate) fn find(args: Args<'_>) -> Result<&'static Spec, String> {
    let spec = by_name(args.at(0)).ok_or_else(|| unknown(args))?;
    if !spec.takes(args.len()) {
        return Err(wrong_arity(spec.name));
    }
    if spec.subcommands.is_empty() || args.len() < 2 {
        return Ok(spec);
    }
    let name = args.at(1);
    if is(name, "HELP") {
        return match args.len() {
            2 => Ok(&HELP),
            _ => Err(wrong_arity(&format!("{}|help", spec.name))),
        };
    }
    let sub = spec.subcommands.iter().find(|sub| name.eq_ignore_ascii_case(sub.name.as_bytes()));
    let sub = sub.ok_or_else(|| {
        format!(
            "ERR unknown subcommand '{}'. Try {} HELP.",
            shown(name, 128),
            spec.name.to_uppercase()
        )
    })?;
    if !sub.takes(args.len()) {
        return Err(wrong_arity(&format!("{}|{}", spec.name, sub.name)));
    }
    Ok(sub)
}

/// True for what a browser sends. A web page can make it talk to any port of this machine, and what
/// it posts could be inline commands; but it cannot help beginning with these words.
pub(crate) fn is_http(args: Args<'_>) -> bool {
    is(args.at(0), "POST") || is(args.at(0), "HOST:")
}

/// Finds a command by its name, in any case.
pub(crate) fn by_name(name: &[u8]) -> Option<&'static Spec> {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(Names::new).find(fold(name)?)
}

/// The commands by their folded names: a hash table that is at most a quarter full.
struct Names {
    places: Vec<Option<(u128, &'static Spec)>>,
}

impl Names {
    fn new() -> Names {
        let places = (4 * all().count()).next_power_of_two();
        let mut names = Names { places: vec![None; places] };
        for spec in all() {
            let Some(name) = fold(spec.name.as_bytes()) else { continue };
            let free = names.ways(name).find(|&at| names.places[at].is_none());
            if let Some(at) = free {
                names.places[at] = Some((name, spec));
            }
        }
        names
    }

    /// Where a name is looked for.
    fn ways(&self, name: u128) -> impl Iterator<Item = usize> + use<> {
        let mask = self.places.len() - 1;
        // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
        let mixed = (name ^ name >> 64) as u64;
        let first = (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        (0..=mask).map(move |step| (first + step) & mask)
    }

    fn find(&self, name: u128) -> Option<&'static Spec> {
        for at in self.ways(name) {
            match self.places[at] {
                Some((found, spec)) if found == name => return Some(spec),
                Some(_) => {}
                None => return None,
            }
        }
        None
    }
}

/// A name of at most 16 bytes as a number, its letters made small; a zero byte in it finds nothing.
fn fold(name: &[u8]) -> Option<u128> {
    let mut bytes = [0; 16];
    for (at, &byte) in name.iter().enumerate() {
        *bytes.get_mut(at).filter(|_| byte != 0)? = byte.to_ascii_lowercase();
    }
    Some(u128::from_le_bytes(bytes))
}

/// The reply to a wrong number of arguments.
pub(crate) fn wrong_arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

/// The reply to a subcommand whose arguments fit none of its forms.
fn subcommand_syntax(name: &str, container: &str) -> Failure {
    Failure::text(format!(
        "ERR unknown subcommand or wrong number of arguments for '{name}'. Try {container} HELP."
    ))
}

/// The reply to a command that is not in the table.
fn unknown(args: Args<'_>) -> String {
    let mut shown_args = String::new();
    for argument in args.from(1) {
        if shown_args.len() >= 128 {
            break;
        }
        shown_args.push_str(&format!("'{}' ", shown(argument, 128 - shown_args.len())));
    }
    format!(
        "ERR unknown command '{}', with args beginning with: {shown_args}",
        shown(args.at(0), 128)
    )
}

/// Bytes of a client, made fit for an error text.
fn shown(bytes: &[u8], length_max: usize) -> String {
    let cut = bytes.get(..length_max).unwrap_or(bytes);
    String::from_utf8_lossy(cut).into_owned()
}

/// True if `argument` is `word`, in any case. `word` in capitals.
fn is(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Parser, Step};

    fn found(line: &str) -> Result<&'static str, String> {
        let mut parser = Parser::new();
        let line = format!("{line}\n");
        assert_eq!(parser.parse(line.as_bytes()), Ok(Step::Ready));
        find(parser.args(line.as_bytes())).map(|spec| spec.name)
    }

    #[test]
    fn names_are_found_in_any_case() {
        assert_eq!(found("get k"), Ok("get"));
        assert_eq!(found("GeT k"), Ok("get"));
        assert_eq!(found("client SETNAME x"), Ok("setname"));
    }

    #[test]
    fn refusals_have_the_texts_of_redis() {
        assert_eq!(found("get"), Err("ERR wrong number of arguments for 'get' command".into()));
        assert_eq!(
            found("client setname"),
            Err("ERR wrong number of arguments for 'client|setname' command".into())
        );
        assert_eq!(
            found("client frob"),
            Err("ERR unknown subcommand 'frob'. Try CLIENT HELP.".into())
        );
        assert_eq!(
            found("frob a b"),
            Err("ERR unknown command 'frob', with args beginning with: 'a' 'b' ".into())
        );
        assert!(found("averyveryverylongnamethatisnone x").is_err());
        assert!(found("\"get\\x00\" x").is_err());
    }

    #[test]
    fn table_is_sound() {
        let mut names: Vec<&str> = all().map(|spec| spec.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a name is in the table twice");
        for spec in all() {
            assert_eq!(by_name(spec.name.as_bytes()).map(|found| found.name), Some(spec.name));
            for spec in spec.subcommands.iter().chain([spec]) {
                assert_eq!(spec.name, spec.name.to_lowercase());
                assert!(spec.arity != 0, "{}", spec.name);
                assert!(spec.marks.iter().all(|mark| MARKS.contains(mark)), "{}", spec.name);
                let categories = spec.categories();
                assert!(categories.iter().all(|category| CATEGORIES.contains(category)));
                if spec.group == Group::Isolith && categories.contains(&"admin") {
                    assert_eq!(categories, ["slow", "admin", "dangerous"], "{}", spec.name);
                }
                assert!(spec.summary.ends_with('.'), "{}", spec.name);
                assert!(
                    !matches!(spec.handler, Handler::Container) || !spec.subcommands.is_empty()
                );
            }
        }
    }

    #[test]
    fn key_positions_are_those_of_redis() {
        let mset = by_name(b"mset").map(|spec| spec.keys.positions(5).collect::<Vec<_>>());
        assert_eq!(mset, Some(vec![1, 3]));
        let del = by_name(b"del").map(|spec| spec.keys.positions(4).collect::<Vec<_>>());
        assert_eq!(del, Some(vec![1, 2, 3]));
        let ping = by_name(b"ping").map(|spec| spec.keys.count(2));
        assert_eq!(ping, Some(0));
    }
}
