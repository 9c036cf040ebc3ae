//! Targets across a network: servers that speak the Redis protocol.
//!
//! isolith (`isolith`) is driven through `BEGIN … COMMIT`, at every level and concurrency control, and
//! says itself whether a connection's command waits (`CLIENT WAITING`). Any other server (`watch`) is
//! driven through `WATCH`, `GET`, `MULTI`, `SET` and `EXEC` (isolith, too, where its address says so), which is optimistic and serializable over the
//! keys that are watched; that a step is blocked can only be guessed, from a labelled time.
//!
//! 1. Only keys below a prefix of the target's own are touched ([`Target::remarks`] tells it), and they are
//!    deleted after each run.
//! 2. Every wait for the server has an end, and every reply a largest size. A server that is down, hangs,
//!    dies or speaks something else is a [`Failure::Target`].

mod isolith;
mod keys;
#[cfg(test)]
mod tests;
mod watch;

use std::time::Duration;

use super::target::{Failure, Target};
pub use crate::resp::{Address, NoAddress};
use crate::resp::{Dialer, Server, Unusable};

/// How long anything may take that is not a wait for another transaction.
pub const WAIT: Duration = Duration::from_secs(10);

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Failure {
        Failure::Target(unusable.0)
    }
}

/// A connected target, of which nothing may take longer than `wait` that is not a wait for another
/// transaction.
pub fn connect(address: &Address, wait: Duration) -> Result<Box<dyn Target>, Failure> {
    let (dialer, mut control) = Dialer::find(address, wait)?;
    let server = Server::recognise(&mut control)?;
    let label = format!("{address} ({server})");
    Ok(match server.is_isolith() && !address.watches() {
        true => Box::new(isolith::Isolith::new(label, dialer, control, address.database())),
        false => Box::new(watch::Watching::new(label, dialer, control)),
    })
}
