//! `resp://[user[:password]@]host[:port][/database]`; `resp+watch://…` for a server that has more than
//! `WATCH`, `MULTI` and `EXEC`, and is to be used through these.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// What an address begins with.
const BEGINS: &str = "resp://";
const WATCHES: &str = "resp+watch://";
/// The port of who says none.
const PORT: u16 = 6379;

/// Where a server is, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: u32,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    /// Whether it is to be used through `WATCH`, `MULTI` and `EXEC`, though it has more.
    watches: bool,
}

/// Text that is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAddress {
    why: String,
}

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = "resp://[user[:password]@]host[:port][/database]";
        write!(f, "not an address like {shape}: {}", self.why)
    }
}

impl std::error::Error for NoAddress {}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { host, port, database, watches, .. } = self;
        let scheme = if *watches { WATCHES } else { BEGINS };
        match host.contains(':') {
            true => write!(f, "{scheme}[{host}]:{port}")?,
            false => write!(f, "{scheme}{host}:{port}")?,
        }
        match database {
            0 => Ok(()),
            database => write!(f, "/{database}"),
        }
    }
}

impl Address {
    /// A server at this place, that asks for nothing.
    pub fn of(place: SocketAddr) -> Address {
        Address {
            host: place.ip().to_string(),
            port: place.port(),
            database: 0,
            user: None,
            password: None,
            watches: false,
        }
    }

    /// The database that connections begin in.
    pub fn database(&self) -> u32 {
        self.database
    }

    /// Whether a server is to be used through `WATCH`, `MULTI` and `EXEC`, though it may have more.
    pub fn watches(&self) -> bool {
        self.watches
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Address, NoAddress> {
        let wrong = |why: &str| NoAddress { why: why.to_owned() };
        let (rest, watches) = match (text.strip_prefix(BEGINS), text.strip_prefix(WATCHES)) {
            (Some(rest), _) => (rest, false),
            (_, Some(rest)) => (rest, true),
            _ if text.starts_with("rediss://") => {
                return Err(wrong("connections are not encrypted here"));
            }
            _ => return Err(wrong("it does not begin with resp:// or resp+watch://")),
        };
        let (who, rest) = match rest.rsplit_once('@') {
            Some((who, rest)) => (Some(who), rest),
            None => (None, rest),
        };
        let (place, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| wrong("the database is not a number"))?,
        };
        let (host, port) =
            split_place(place).ok_or_else(|| wrong("the host is not closed by ]"))?;
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let port = match port {
            None => PORT,
            Some(port) => {
                port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?
            }
        };
        let (user, password) = match who {
            None => (None, None),
            Some(who) => {
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                let decoded = |text: &str| match text {
                    "" => Ok(None),
                    text => {
                        decode(text).map(Some).ok_or_else(|| wrong("a % escape is cut or not hex"))
                    }
                };
                (decoded(user)?, decoded(password)?)
            }
        };
        Ok(Address { host: host.to_owned(), port, database, user, password, watches })
    }
}

/// Host and port; an IPv6 address stands in brackets.
fn split_place(place: &str) -> Option<(&str, Option<&str>)> {
    if let Some(inner) = place.strip_prefix('[') {
        let (host, rest) = inner.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    Some(match place.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (place, None),
    })
}

/// `%2F` is `/`.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
        bytes.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_shown_without_passwords() {
        for (text, shown) in [
            ("resp://localhost", "resp://localhost:6379"),
            ("resp://127.0.0.1:7000/3", "resp://127.0.0.1:7000/3"),
            ("resp+watch://h/1", "resp+watch://h:6379/1"),
            ("resp://[::1]:7000", "resp://[::1]:7000"),
            ("resp://[::1]", "resp://[::1]:6379"),
            ("resp://me:se%40cret@host:1/", "resp://host:1"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.to_string().parse::<Address>().unwrap().host, address.host);
        }
        let address: Address = "resp://me:se%40cret@host".parse().unwrap();
        assert_eq!(
            (address.user.as_deref(), address.password.as_deref()),
            (Some("me"), Some("se@cret"))
        );
        let address: Address = "resp://:secret@host".parse().unwrap();
        assert_eq!((address.user, address.password.as_deref()), (None, Some("secret")));
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (text, why) in [
            ("localhost:6379", "does not begin"),
            ("rediss://host", "not encrypted"),
            ("resp://", "no host"),
            ("resp://:6379", "no host"),
            ("resp://host:0x1", "port"),
            ("resp://host:65536", "port"),
            ("resp://host/db", "database"),
            ("resp://host/?x", "database"),
            ("resp://[::1", "]"),
            ("resp://[::1]x", "]"),
            ("resp://a:%4@host", "%"),
            ("resp://a:%zz@host", "%"),
        ] {
            let said = text.parse::<Address>().unwrap_err().to_string();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
