//! The `isolith` command: a standalone server that speaks the Redis protocol.
//!
//! | module | its one job |
//! |---|---|
//! | [`config`] | the command line |
//! | [`server`], [`shutdown`] | starting the cores, and ending them |
//! | [`worker`] | one core's loop |
//! | [`reactor`] | the seam to the kernel's sockets, and the epoll driver behind it |
//! | [`connection`] | one socket: bytes in, replies out, in order |
//! | [`resp`] | bytes to commands, answers to bytes |
//! | [`session`], [`execute`] | what a connection has under way, and how a command is run |
//! | [`commands`] | the table, and what each command does |
//! | [`store`] | data as a command sees it |
//! | [`terms`] | what transactions are begun with |
//! | [`gates`], [`waits`] | replies that wait for the disk, commands that wait for a lock |
//! | [`shared`], [`clients`], [`scans`] | what the cores have in common |
//!
//! Exit codes: 0 ended as asked, 2 the command line is wrong, 3 could not run.

#![forbid(unsafe_code)]

mod config;

mod server;
mod shutdown;

mod worker;

mod reactor;

mod connection;

mod resp;

mod execute;
mod gates;
mod session;
mod terms;
mod waits;

mod commands;
mod store;

mod failure;
mod glob;
mod number;

mod clients;
mod scans;
mod shared;

use clap::Parser;
use config::{Command, CommandLine};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Could not run.
const COULD_NOT_RUN: u8 = 3;

fn main() -> ExitCode {
    // clap itself ends with 2 on a wrong command line.
    let line = CommandLine::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_max_level(tracing::Level::INFO)
        .with_target(false)
        .init();
    let outcome = match line.command {
        Some(Command::Commands) => std::io::stdout()
            .write_all(commands::reference::markdown().as_bytes())
            .map_err(|error| format!("cannot print: {error}")),
        Some(Command::Serve(options)) => server::serve(&options),
        None => server::serve(&line.serve),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("isolith: {message}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
