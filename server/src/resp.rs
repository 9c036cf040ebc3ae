//! RESP, the Redis protocol: how bytes become commands and answers become bytes.
//!
//! [`request`] parses what a client sends; [`reply`] writes what it gets. Both are pure: no socket,
//! no clock, no state but their own.

pub(crate) mod reply;
pub(crate) mod request;

pub(crate) use reply::Reply;
pub(crate) use request::{Args, OwnedArgs, Parser, Step};
