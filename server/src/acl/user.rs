//! One user: how it proves itself, which commands it may run, on which keys.
//!
//! Rules are those of Redis, applied one after the other; what they come to for each command of the table is
//! reckoned then, so that a check is one look-up. Passwords are kept as their SHA-256 alone, as Redis does:
//! they are meant to be long and drawn by lot. They are compared in constant time.

use crate::commands::{self, Handler, Spec};
use crate::glob;
use crate::resp::Args;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::Write;
use subtle::ConstantTimeEq;

/// A password, hashed.
type Hash = [u8; 32];

/// Keys that match a pattern, and what may be done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyRule {
    pattern: Vec<u8>,
    read: bool,
    write: bool,
}

/// A user. It never changes: a change puts another in its place.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    enabled: bool,
    /// Any password will do.
    nopass: bool,
    passwords: Vec<Hash>,
    keys: Vec<KeyRule>,
    /// What was said of commands, in its order; `+@all` and `-@all` begin anew.
    rules: Vec<String>,
    /// The commands that may be run: see [`address`].
    allowed: HashSet<usize>,
}

/// Why a command may not be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The command is not this user's; its full name.
    Command(String),
    /// A key is not; which.
    Key(Vec<u8>),
    /// It works on a range of keys, and not all are.
    Range,
}

impl Denied {
    /// The text of the reply.
    pub(crate) fn text(&self) -> String {
        match self {
            Denied::Command(name) => {
                format!("NOPERM this user has no permissions to run the '{name}' command")
            }
            Denied::Key(_) => {
                "NOPERM this user has no permissions to access one of the keys used as arguments"
                    .to_owned()
            }
            Denied::Range => "NOPERM this user has no permissions to access all keys, which is \
                              what commands on ranges ask for"
                .to_owned(),
        }
    }
}

/// Names a command of the table: entries of a static never move.
fn address(spec: &'static Spec) -> usize {
    std::ptr::from_ref(spec) as usize
}

impl User {
    /// One that may do nothing, and is off.
    pub(crate) fn new(name: &str) -> User {
        User {
            name: name.to_owned(),
            enabled: false,
            nopass: false,
            passwords: Vec::new(),
            keys: Vec::new(),
            rules: vec!["-@all".to_owned()],
            allowed: HashSet::new(),
        }
    }

    /// The user that a client is before it says who it is, as long as nothing else is said: it may do
    /// everything.
    pub(crate) fn open_default() -> User {
        let mut user = User::new("default");
        for rule in ["on", "nopass", "~*", "+@all"] {
            // These are rules.
            let _ = user.apply(rule.as_bytes());
        }
        user
    }

    /// True if a client is this user without a word.
    pub(crate) fn is_open(&self) -> bool {
        self.enabled && self.nopass
    }

    /// True if any password will do.
    pub(crate) fn takes_any_password(&self) -> bool {
        self.nopass
    }

    /// True if it may do everything: nothing needs to be looked up.
    pub(crate) fn is_unrestricted(&self) -> bool {
        self.all_keys() && matches!(self.rules.as_slice(), [rule] if rule == "+@all")
    }

    fn all_keys(&self) -> bool {
        self.keys.iter().any(|rule| rule.pattern == b"*" && rule.read && rule.write)
    }

    /// Whether this password is right. How long it takes says nothing of the password.
    pub(crate) fn is_proven_by(&self, password: &[u8]) -> bool {
        let given: Hash = Sha256::digest(password).into();
        let mut right = subtle::Choice::from(u8::from(self.nopass));
        for hash in &self.passwords {
            right |= hash.ct_eq(&given);
        }
        self.enabled && right.into()
    }

    /// Whether it may run a command.
    pub(crate) fn may(&self, spec: &'static Spec, args: Args<'_>) -> Result<(), Denied> {
        if !self.allowed.contains(&address(spec)) && !spec.is("no-auth") {
            return Err(Denied::Command(full_name(spec, args)));
        }
        if self.all_keys() {
            return Ok(());
        }
        let (reads, writes) = match spec.handler {
            // SET tells what was there if it is asked to.
            Handler::Write(_) => (!spec.is("blind") || tells_old(args), true),
            _ => (true, false),
        };
        if spec.is("ranges") {
            return Err(Denied::Range);
        }
        for place in spec.keys.positions(args.len()) {
            let key = args.at(place);
            // What one pattern lacks another may have.
            let matching = |rule: &&KeyRule| glob::matches(&rule.pattern, key);
            let mine: Vec<&KeyRule> = self.keys.iter().filter(matching).collect();
            let may_read = !reads || mine.iter().any(|rule| rule.read);
            let may_write = !writes || mine.iter().any(|rule| rule.write);
            if !may_read || !may_write {
                return Err(Denied::Key(key.to_vec()));
            }
        }
        Ok(())
    }

    /// Applies one rule. The error says what is wrong with it.
    pub(crate) fn apply(&mut self, rule: &[u8]) -> Result<(), String> {
        let syntax = || "Syntax error".to_owned();
        let word = String::from_utf8_lossy(rule).to_lowercase();
        match word.as_str() {
            "on" => self.enabled = true,
            "off" => self.enabled = false,
            "nopass" => {
                self.nopass = true;
                self.passwords.clear();
            }
            "resetpass" => {
                self.nopass = false;
                self.passwords.clear();
            }
            "allkeys" => return self.apply(b"~*"),
            "resetkeys" => self.keys.clear(),
            "allcommands" => return self.command_rule("+@all"),
            "nocommands" => return self.command_rule("-@all"),
            "reset" => *self = User::new(&self.name),
            // There are no channels, no selectors, and every payload is checked.
            "allchannels" | "resetchannels" | "clearselectors" | "sanitize-payload" => {}
            _ => match rule {
                [b'>', password @ ..] => self.add_password(Sha256::digest(password).into()),
                [b'<', password @ ..] => self.drop_password(Sha256::digest(password).into())?,
                [b'#', hash @ ..] => self.add_password(parse_hash(hash)?),
                [b'!', hash @ ..] => self.drop_password(parse_hash(hash)?)?,
                [b'~', pattern @ ..] => self.key_rule(pattern, true, true)?,
                [b'%', rest @ ..] => {
                    let tilde = rest.iter().position(|byte| *byte == b'~').ok_or_else(syntax)?;
                    let (access, pattern) = rest.split_at(tilde);
                    let access = access.to_ascii_uppercase();
                    let (read, write) = match access.as_slice() {
                        b"R" => (true, false),
                        b"W" => (false, true),
                        b"RW" | b"WR" => (true, true),
                        _ => return Err(syntax()),
                    };
                    self.key_rule(pattern.get(1..).unwrap_or_default(), read, write)?;
                }
                [b'&', ..] => {}
                [b'+' | b'-', _, ..] => self.command_rule(&word)?,
                [b'(', ..] => return Err("Selectors are not supported".to_owned()),
                _ => return Err(syntax()),
            },
        }
        Ok(())
    }

    fn add_password(&mut self, hash: Hash) {
        self.nopass = false;
        if !self.passwords.contains(&hash) {
            self.passwords.push(hash);
        }
    }

    fn drop_password(&mut self, hash: Hash) -> Result<(), String> {
        let before = self.passwords.len();
        self.passwords.retain(|known| *known != hash);
        if self.passwords.len() == before {
            return Err("The password you are trying to remove from the user does not exist".into());
        }
        Ok(())
    }

    fn key_rule(&mut self, pattern: &[u8], read: bool, write: bool) -> Result<(), String> {
        if self.all_keys() && pattern != b"*" {
            return Err(
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid \
                        and does not have any effect. Try 'resetkeys' to start with an empty list \
                        of patterns"
                    .to_owned(),
            );
        }
        let rule = KeyRule { pattern: pattern.to_vec(), read, write };
        // All keys are all that needs to be said.
        if rule.pattern == b"*" && read && write {
            self.keys.clear();
        }
        if !self.keys.contains(&rule) {
            self.keys.push(rule);
        }
        Ok(())
    }

    /// `+get`, `-@dangerous`, `+client|list`: in small letters.
    fn command_rule(&mut self, rule: &str) -> Result<(), String> {
        let unknown = || "Unknown command or category name in ACL".to_owned();
        let (sign, name) = rule.split_at(1);
        let chosen = match name.strip_prefix('@') {
            Some("all") => {
                self.rules.clear();
                commands::all().flat_map(leaves).collect()
            }
            Some(category) if commands::CATEGORIES.contains(&category) => {
                let has = |spec: &&'static Spec| spec.categories().contains(&category);
                commands::all().flat_map(leaves).filter(has).collect()
            }
            Some(_) => return Err(unknown()),
            None if name.rsplit_once('|').is_some_and(|(sub, _)| is_subcommand(sub)) => {
                return Err("Allowing first-arg of a subcommand is not supported".to_owned());
            }
            None => named(name).ok_or_else(unknown)?,
        };
        for spec in chosen {
            match sign {
                "+" => self.allowed.insert(address(spec)),
                _ => self.allowed.remove(&address(spec)),
            };
        }
        self.rules.retain(|known| known.get(1..) != Some(name));
        self.rules.push(rule.to_owned());
        Ok(())
    }

    /// What GETUSER says of it.
    pub(crate) fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        flags.extend(self.nopass.then_some("nopass"));
        flags
    }

    /// The passwords' hashes, in hexadecimal.
    pub(crate) fn hashes(&self) -> Vec<String> {
        let hex = |hash: &Hash| {
            hash.iter().fold(String::new(), |mut text, byte| {
                // Writing to a String cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        self.passwords.iter().map(hex).collect()
    }

    /// The rules on commands.
    pub(crate) fn command_rules(&self) -> String {
        self.rules.join(" ")
    }

    /// The rules on keys.
    pub(crate) fn key_rules(&self) -> Vec<u8> {
        let rule = |rule: &KeyRule| {
            let access: &[u8] = match (rule.read, rule.write) {
                (true, true) => b"~",
                (true, false) => b"%R~",
                _ => b"%W~",
            };
            [access, &rule.pattern].concat()
        };
        self.keys.iter().map(rule).collect::<Vec<_>>().join(&b' ')
    }

    /// A line from which it can be made again.
    pub(crate) fn line(&self) -> Vec<u8> {
        let mut line = format!("user {}", self.name).into_bytes();
        for flag in self.flags() {
            line.extend([b" ", flag.as_bytes()].concat());
        }
        for hash in self.hashes() {
            line.extend([b" #", hash.as_bytes()].concat());
        }
        let keys = self.key_rules();
        if !keys.is_empty() {
            line.extend([b" ", &keys[..]].concat());
        }
        line.extend([b" ", self.command_rules().as_bytes()].concat());
        line
    }
}

/// True for a SET that gives the value before.
fn tells_old(args: Args<'_>) -> bool {
    args.at(0).eq_ignore_ascii_case(b"set")
        && args.from(3).any(|word| word.eq_ignore_ascii_case(b"get"))
}

fn parse_hash(hex: &[u8]) -> Result<Hash, String> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = hex
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes.and_then(|bytes| Hash::try_from(bytes).ok()).ok_or_else(|| {
        "The password hash must be exactly 64 characters and contain only lowercase hexadecimal \
         characters"
            .to_owned()
    })
}

/// What can be run of a command: itself, or its subcommands.
fn leaves(spec: &'static Spec) -> impl Iterator<Item = &'static Spec> {
    let itself = !matches!(spec.handler, Handler::Container);
    itself.then_some(spec).into_iter().chain(spec.subcommands)
}

/// True for `client|list`.
fn is_subcommand(name: &str) -> bool {
    name.contains('|') && named(name).is_some()
}

/// The commands that `get`, `client` or `client|list` name.
fn named(name: &str) -> Option<Vec<&'static Spec>> {
    match name.split_once('|') {
        None => commands::by_name(name.as_bytes()).map(|spec| leaves(spec).collect()),
        Some((container, name)) => {
            let container = commands::by_name(container.as_bytes())?;
            let sub = container.subcommands.iter().find(|sub| sub.name == name)?;
            Some(vec![sub])
        }
    }
}

fn full_name(spec: &Spec, args: Args<'_>) -> String {
    match commands::by_name(args.at(0)) {
        Some(container) if !std::ptr::eq(container, spec) => {
            format!("{}|{}", container.name, spec.name)
        }
        _ => spec.name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Parser, Step};

    fn user(rules: &str) -> User {
        let mut user = User::new("u");
        rules.split_whitespace().for_each(|rule| {
            user.apply(rule.as_bytes()).unwrap_or_else(|why| panic!("{rule}: {why}"));
        });
        user
    }

    fn may(user: &User, line: &str) -> bool {
        let mut parser = Parser::new();
        let line = format!("{line}\n");
        assert_eq!(parser.parse(line.as_bytes()), Ok(Step::Ready));
        let args = parser.args(line.as_bytes());
        let spec = commands::find(args).unwrap_or_else(|why| panic!("{line}: {why}"));
        user.may(spec, args).is_ok()
    }

    #[test]
    fn rules_hold_in_their_order() {
        let user = user("on +@all -@dangerous +get -config +config|get ~a* %R~r* %W~w*");
        for (line, expected) in [
            ("get a", true),
            ("get b", false),
            ("get r1", true),
            ("set r1 x", false),
            ("set w1 x", true),
            ("get w1", false),
            ("incr w1", false),
            ("append a1 x", true),
            ("mget a1 r1", true),
            ("mget a1 b1", false),
            ("config get x", true),
            ("config set x y", false),
            ("flushall", false),
            ("range - +", false),
            ("ping", true),
            ("auth x", true),
        ] {
            assert_eq!(may(&user, line), expected, "{line}");
        }
        assert!(!may(&super::User::new("none"), "get a"));
        assert!(may(&super::User::new("none"), "quit"));
    }

    #[test]
    fn passwords_are_known_by_their_hash() {
        let mut user =
            user("on >one #2744ccd10c7533bd736ad890f9dd5cab2adb27b07d500b9493f29cdc420cb2e0");
        assert!(user.is_proven_by(b"one") && user.is_proven_by(b"me"));
        assert!(!user.is_proven_by(b"two") && !user.is_proven_by(b""));
        assert_eq!(user.apply(b"<one"), Ok(()));
        assert!(!user.is_proven_by(b"one"));
        assert!(user.apply(b"<one").is_err());
        assert!(user.apply(b"#abc").is_err());
        assert_eq!(user.apply(b"off"), Ok(()));
        assert!(!user.is_proven_by(b"me"));
    }

    #[test]
    fn a_line_makes_the_same_user() {
        for rules in ["on nopass ~* +@all", "off >x ~a* %R~b -@all +get +client|list", "on -@all"] {
            let first = user(rules);
            let line = String::from_utf8(first.line()).expect("text");
            let again = user(line.strip_prefix("user u ").expect("its name"));
            assert_eq!(again.line(), first.line());
            assert_eq!(again.allowed, first.allowed);
        }
        assert!(user("on nopass allkeys allcommands").is_unrestricted());
        assert!(!user("on nopass ~* +@all -get").is_unrestricted());
        assert!(!user("on nopass %R~* +@all").is_unrestricted());
    }
}
