//! Reference models and the fault harness.

pub mod server;
