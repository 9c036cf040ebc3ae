//! Targets across a network: servers that speak the Redis protocol.
//!
//! isolith ([`isolith`]) is driven through `BEGIN … COMMIT`, at every level and concurrency control, and
//! says itself whether a connection's command waits (`CLIENT WAITING`). Any other server ([`watch`]) is
//! driven through `WATCH`, `GET`, `MULTI`, `SET` and `EXEC`, which is optimistic and serializable over the
//! keys that are watched; that a step is blocked can only be guessed, from a labelled time.
//!
//! 1. Only keys below a prefix of the target's own are touched ([`Target::remarks`] tells it), and they are
//!    deleted after each run.
//! 2. Every wait for the server has an end, and every reply a largest size. A server that is down, hangs,
//!    dies or speaks something else is a [`Failure::Target`].

mod address;
mod dialer;
mod isolith;
mod keys;
#[cfg(test)]
mod tests;
mod watch;

pub use address::{Address, NoAddress};

use std::time::Duration;

use dialer::{Dialer, Line};

use super::target::{Failure, Target};
use crate::resp::Value;

/// How long anything may take that is not a wait for another transaction.
pub const WAIT: Duration = Duration::from_secs(10);

/// A connected target, of which nothing may take longer than `wait` that is not a wait for another
/// transaction.
pub fn connect(address: &Address, wait: Duration) -> Result<Box<dyn Target>, Failure> {
    let (dialer, mut control) = Dialer::find(address, wait)?;
    let server = Server::recognise(&mut control)?;
    let label = format!("{address} ({} {})", server.name, server.version);
    Ok(match server.name.as_str() {
        "isolith" => Box::new(isolith::Isolith::new(label, dialer, control)),
        _ => Box::new(watch::Watching::new(label, dialer, control)),
    })
}

/// What a server says about itself.
struct Server {
    name: String,
    version: String,
}

impl Server {
    /// Asks by `INFO`: `isolith_version:0.1.0` goes before the `redis_version` that it is like.
    fn recognise(control: &mut Line) -> Result<Server, Failure> {
        let reply = control.ask(&["INFO", "server"])?;
        let text = match &reply {
            Value::Error(text) => return Err(control.refused("INFO", text)),
            reply => match reply.bytes() {
                Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                None => return Err(control.unexpected("INFO", reply)),
            },
        };
        let versions = text.lines().filter_map(|line| {
            let (name, version) = line.split_once("_version:")?;
            Some((name, version.trim()))
        });
        let versions: Vec<_> =
            versions.filter(|(name, _)| !["gcc", "os", "proto"].contains(name)).collect();
        // Whoever is like Redis says Redis's version, too.
        let own = versions.iter().find(|(name, _)| *name != "redis");
        let (name, version) =
            own.or(versions.first()).copied().unwrap_or(("a server", "of no name"));
        Ok(Server { name: name.to_owned(), version: version.to_owned() })
    }
}
