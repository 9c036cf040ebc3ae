//! The `isolith` command: a standalone server that speaks the Redis protocol.
//!
//! | module | its one job |
//! |---|---|
//! | [`config`] | the command line |
//! | [`command`] | the subcommands that do not serve |
//! | [`server`], [`shutdown`] | starting the cores, and ending them |
//! | [`worker`] | one core's loop |
//! | [`admin`] | metrics and health, by HTTP |
//! | [`acceptors`], [`tls`] | other ways in: TLS, a Unix socket |
//! | [`reactor`] | the seam to the kernel's sockets, and its drivers: io_uring and epoll |
//! | [`connection`] | one socket: bytes in, replies out, in order |
//! | [`resp`] | bytes to commands, answers to bytes |
//! | [`session`], [`execute`], [`batch`] | what a connection has under way, and how a command is run |
//! | [`commands`] | the table, and what each command does |
//! | [`store`] | data as a command sees it |
//! | [`terms`] | what transactions are begun with |
//! | [`walk`], [`helpers`] | what is too long for one turn of a core |
//! | [`gates`], [`waits`] | replies that wait for the disk, commands that wait for a lock |
//! | [`shared`], [`clients`], [`scans`], [`slowlog`], [`pause`], [`snapshots`] | what the cores have in common |
//! | [`limits`] | what a client may take |
//! | [`log`] | what the server tells of itself |
//! | [`acl`] | users, and what they may do |
//! | [`backups`] | backups that clients ask for |
//!
//! Exit codes: [`command::Exit`]. Unsafe code is denied, but for the two modules that hand memory to
//! io_uring (`reactor/uring/{ring,buffers}.rs`).

mod config;

mod command;

mod server;
mod shutdown;

mod acceptors;
mod admin;
mod tls;
mod together;
mod worker;

mod reactor;

mod connection;

mod resp;

mod batch;
mod execute;
mod gates;
mod helpers;
mod session;
mod terms;
mod waits;
mod walk;

mod commands;
mod store;

mod extended;
mod failure;
mod files;
mod glob;
mod limits;
mod log;
mod number;

mod acl;
mod backups;
mod clients;
mod pause;
mod scans;
mod shared;
mod slowlog;
mod snapshots;

use command::{Exit, Failure, Outcome};
use config::{Command, CommandLine, Serve};
use std::io::Write;
use std::process::ExitCode;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    #[cfg(planted)]
    plant();
    // clap itself ends with 2 on a wrong command line.
    let line = CommandLine::of_process();
    let outcome = match line.command {
        Some(Command::Commands) => print_commands(),
        Some(Command::Serve(options)) => serve(&options),
        Some(Command::Anomalies(command)) => command::anomalies::run(&command),
        Some(Command::Backup(options)) => command::backup::backup(&options),
        Some(Command::Restore(options)) => command::backup::restore(&options),
        Some(Command::Check(options)) => command::check::run(&options),
        Some(Command::Dump(options)) => command::dump::dump(&options),
        Some(Command::Load(options)) => command::dump::load(&options),
        Some(Command::History(command)) => command::history::run(&command),
        Some(Command::Salvage(options)) => command::salvage::salvage(&options),
        Some(Command::Verify(options)) => command::database::verify(&options),
        Some(Command::Compact(options)) => command::database::compact(&options),
        Some(Command::Stats(options)) => command::database::stats(&options),
        None => serve(&line.serve),
    };
    let exit = outcome.unwrap_or_else(|failure| {
        eprintln!("isolith: {}", failure.message);
        failure.exit
    });
    ExitCode::from(exit.code())
}

/// Plants the bug that `ISOLITH_PLANT` names.
#[cfg(planted)]
fn plant() {
    if let Ok(bug) = std::env::var("ISOLITH_PLANT") {
        isolith::planted::plant(Some(bug.leak()));
    }
}

fn serve(options: &Serve) -> Outcome {
    log::start(options.log_format, options.log_level);
    server::serve(options).map(|()| Exit::Fine).map_err(Failure::could_not_run)
}

fn print_commands() -> Outcome {
    let text = commands::reference::markdown();
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(Exit::Fine),
        Err(error) => Err(Failure::could_not_run(format!("cannot print: {error}"))),
    }
}
