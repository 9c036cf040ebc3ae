//! The command line.

pub(crate) mod file;

use crate::clients::CLIENTS_MAX;
use crate::command::anomalies::Anomalies;
use crate::command::backup::{Backup, Restore};
use crate::command::check::Check;
use crate::command::database::{Compact, StatsCommand, VerifyCommand};
use crate::command::dump::{Dump, Load};
use crate::command::history::History;
use crate::command::salvage::Salvage;
use crate::limits::{self, Limits};
use crate::log;
use crate::terms::{self, Defaults};
use clap::{Args, Parser, Subcommand, ValueEnum};
use isolith::{Concurrency, Durability, Isolation};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A concurrent, transactional key-value store that speaks the Redis protocol.
///
/// Without a subcommand, `isolith` serves: the database in ./isolith-data on 127.0.0.1:6379. Use any
/// Redis client; every command is acknowledged only when it is on disk.
#[derive(Debug, Parser)]
#[command(
    name = "isolith",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 ended as asked, 1 a check found something, 2 the command line or \
                  a file is wrong, 3 could not run, 4 undecided.\n\
                  Try: redis-cli set greeting hello"
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serves a database over the Redis protocol (what happens without a subcommand, too).
    #[command(after_help = "SIGTERM and SIGINT close cleanly: what is in hand is finished and \
                            answered. After kill -9 everything acknowledged is still there.")]
    Serve(Box<Serve>),
    /// Judges recorded histories: can they come from a system that keeps an isolation level?
    Check(Check),
    /// Converts recorded histories, so that other checkers can judge them, too.
    #[command(subcommand)]
    History(History),
    /// Writes all pairs of a database to standard output, as of one moment.
    Dump(Dump),
    /// Reads pairs from standard input into a database.
    Load(Load),
    /// Copies a database to another directory.
    Backup(Backup),
    /// Makes a database out of a backup, as of its end or of a commit before or after it.
    Restore(Restore),
    /// Checks a database: every block of every file, and the log.
    Verify(VerifyCommand),
    /// Takes what is sound out of a damaged database into a new one, and tells what was lost.
    Salvage(Salvage),
    /// Writes a database anew, so that what was overwritten or deleted gives its space back.
    Compact(Compact),
    /// Tells what a database holds: its levels, its keyspaces, its log.
    Stats(StatsCommand),
    /// Prints the reference of all server commands, as Markdown.
    Commands,
    /// Shows what isolation levels allow and forbid: plays small concurrent transactions through all
    /// their interleavings, on the embedded engine or on a server.
    #[command(subcommand)]
    Anomalies(Anomalies),
}

/// How to serve.
#[derive(Clone, Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Serve {
    /// A file of options: TOML, with their names as keys (`memory = "2G"`). What is said here, or by the
    /// environment, goes before it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The database's directory; created if it is not there.
    #[arg(long, value_name = "DIR", default_value = "isolith-data")]
    pub(crate) dir: PathBuf,
    /// Where to listen: ADDRESS:PORT, ADDRESS or PORT. Beyond loopback only if clients have to prove who they
    /// are. Port 0 picks a free one; the address is printed.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6379", value_parser = parse_listen)]
    pub(crate) listen: SocketAddr,
    /// The password of the user `default`, who clients are before they say who they are.
    #[arg(long, value_name = "PASSWORD", env = "ISOLITH_REQUIREPASS", hide_env_values = true)]
    pub(crate) requirepass: Option<String>,
    /// The file of users, a line for each as ACL LIST shows them; ACL SAVE writes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) acl_file: Option<PathBuf>,
    /// The port for clients that speak TLS, on the address of --listen; 0 picks a free one.
    #[arg(long, value_name = "PORT", requires = "tls_cert", requires = "tls_key")]
    pub(crate) tls_port: Option<u16>,
    /// The server's certificate, and those up to its authority, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The authorities of which clients have to show a certificate, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// A Unix socket to listen on, too; open to the server's own user and group.
    #[arg(long, value_name = "PATH")]
    pub(crate) unix_socket: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served by HTTP, like 127.0.0.1:9121.
    #[arg(long, value_name = "ADDR", value_parser = parse_listen)]
    pub(crate) admin: Option<SocketAddr>,
    /// From how many microseconds on a command is slow (SLOWLOG); -1: none is.
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 10_000, allow_hyphen_values = true)]
    pub(crate) slowlog_log_slower_than: i64,
    /// How many slow commands are kept.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) slowlog_max_len: u32,
    /// The most connections at once.
    #[arg(long, value_name = "N", default_value_t = CLIENTS_MAX as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) maxclients: u32,
    /// Threads that serve clients, each with its own connections; as many as there are cores if
    /// not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Whether each thread that serves clients stays on a processor of its own; auto: where there are at least as
    /// many processors as threads.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Pin::Auto)]
    pub(crate) pin: Pin,
    /// How the log on standard error is written.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = log::Format::Text)]
    pub(crate) log_format: log::Format,
    /// What is written to it; CONFIG SET loglevel changes it.
    #[arg(long, value_name = "LEVEL", value_enum, env = "ISOLITH_LOG", default_value_t = log::Level::Notice)]
    pub(crate) log_level: log::Level,
    /// Seconds after which a connection that says nothing is closed; 0: never.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    pub(crate) timeout: String,
    /// The longest argument, like 8mb.
    #[arg(long, value_name = "SIZE", default_value = "512mb")]
    pub(crate) proto_max_bulk_len: String,
    /// The longest request.
    #[arg(long, value_name = "SIZE", default_value = "1gb")]
    pub(crate) client_query_buffer_limit: String,
    /// Replies that may wait for a client, like "normal 256mb 64mb 60": with more than the first it is
    /// disconnected at once, with more than the second for so many seconds, too; 0: no such limit.
    #[arg(long, value_name = "LIMITS", default_value = "normal 0 0 0")]
    pub(crate) client_output_buffer_limit: String,
    /// Threads that run commands which would hold up the others: those that wait for files, and those on very
    /// much data; 2 to 4, by the number of cores, if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) helpers: Option<u16>,
    /// When a write is acknowledged, unless a transaction says otherwise (BEGIN … DURABILITY).
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Sync)]
    pub(crate) durability: Level,
    /// Memory that the database may hold, like 512M or 2G; what does not fit is in files, and a write that has
    /// to wait for them does.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// Threads that compact files at once; as many as there are cores, at most 4, if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) background_threads: Option<u16>,
    /// Bytes of files that are written in a second, like 50M: compactions wait for it, flushes do not.
    /// No limit if not given.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) background_rate: Option<u64>,
    /// How the log is written; auto takes io_uring where the system allows it.
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = Io::Auto)]
    pub(crate) io: Io,
    /// How clients are served; auto takes io_uring where the system allows it.
    #[arg(long, value_name = "DRIVER", value_enum, default_value_t = Sockets::Auto)]
    pub(crate) driver: Sockets,
    /// What BEGIN transactions are protected from, unless they say otherwise: read-committed,
    /// repeatable-read, snapshot or serializable.
    #[arg(long, value_name = "LEVEL", default_value_t = Isolation::Serializable)]
    pub(crate) isolation: Isolation,
    /// How BEGIN transactions keep others from disturbing them, unless they say otherwise:
    /// optimistic, auto, or locking with a deadlock policy, like locking:wound-wait,
    /// locking:wait-die, locking:no-wait, locking:detect.
    #[arg(long, value_name = "CONTROL", default_value_t = Concurrency::Optimistic)]
    pub(crate) concurrency: Concurrency,
    /// How long a command waits for a lock, like 500ms or 5s (a bare number is seconds); 0: for ever.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_limit)]
    pub(crate) lock_timeout: Limit,
    /// How long a BEGIN transaction may last, unless it says otherwise; 0: for ever.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_limit)]
    pub(crate) transaction_timeout: Limit,
    /// After which an idle BEGIN transaction is rolled back (looked at every second); 0: never.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_limit)]
    pub(crate) transaction_idle: Limit,
    /// How long the past is kept for readers, like 10m; 0: only what open transactions still read.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_limit)]
    pub(crate) retention: Limit,
    /// How much of the log is kept though all of it is in files, like 1G: backups can then be carried on
    /// with it (isolith restore --log); 0: nothing.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_kept)]
    pub(crate) log_retained: u64,
    /// Where BACKUP puts its backups, each in a directory of its own. Without it BACKUP is refused. Best
    /// in the same file system as the database: then files need not be copied.
    #[arg(long, value_name = "DIR")]
    pub(crate) backup_dir: Option<PathBuf>,
    /// How old what a transaction reads may become: then it is refused, and holds no memory any more;
    /// 0: as old as it likes.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_limit)]
    pub(crate) snapshot_age_max: Limit,
}

impl CommandLine {
    /// The command line of this process, with the file that it names. Ends the process if it is wrong.
    pub(crate) fn of_process() -> CommandLine {
        match file::with_file(std::env::args_os().collect()) {
            Ok(arguments) => CommandLine::parse_from(arguments),
            Err(why) => {
                eprintln!("isolith: {why}");
                std::process::exit(2);
            }
        }
    }

    #[cfg(test)]
    fn try_parse_from_file(arguments: Vec<std::ffi::OsString>) -> Result<CommandLine, String> {
        CommandLine::try_parse_from(arguments).map_err(|error| error.to_string())
    }
}

impl Serve {
    /// What clients may take. The error is a message for a human.
    pub(crate) fn limits(&self) -> Result<Limits, String> {
        let limits = Limits::default();
        for (name, value) in [
            ("timeout", &self.timeout),
            ("proto-max-bulk-len", &self.proto_max_bulk_len),
            ("client-query-buffer-limit", &self.client_query_buffer_limit),
            ("client-output-buffer-limit", &self.client_output_buffer_limit),
        ] {
            match limits::parse(name, value) {
                Some(Ok(setting)) => limits.apply(&setting),
                Some(Err(why)) => return Err(format!("--{name} {value}: {why}")),
                None => {}
            }
        }
        Ok(limits)
    }

    /// What transactions are begun with that do not choose.
    pub(crate) fn defaults(&self) -> Defaults {
        let defaults = Defaults::new(self.durability.into());
        defaults.set_isolation(self.isolation);
        defaults.set_concurrency(self.concurrency);
        for (which, Limit(limit)) in [
            (terms::Limit::Lock, self.lock_timeout),
            (terms::Limit::Transaction, self.transaction_timeout),
            (terms::Limit::Idle, self.transaction_idle),
        ] {
            defaults.set_limit(which, limit);
        }
        defaults
    }
}

/// A time after which something ends; `None`: it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<Duration>);

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// When it is on stable storage: survives power loss.
    Sync,
    /// When the kernel has it: survives a crash of the process.
    Os,
    /// At once; it is written within milliseconds: survives an orderly close.
    Buffered,
}

impl From<Level> for Durability {
    fn from(level: Level) -> Durability {
        match level {
            Level::Sync => Durability::Sync,
            Level::Os => Durability::Os,
            Level::Buffered => Durability::Buffered,
        }
    }
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Io {
    /// io_uring if it works here, system calls otherwise.
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Plain system calls.
    Syscall,
}

impl From<Io> for isolith::IoBackend {
    fn from(io: Io) -> isolith::IoBackend {
        match io {
            Io::Auto => isolith::IoBackend::Auto,
            Io::Uring => isolith::IoBackend::Uring,
            Io::Syscall => isolith::IoBackend::Syscall,
        }
    }
}

/// Whether threads stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pin {
    /// Where there are at least as many processors as threads.
    Auto,
    /// Always.
    On,
    /// Never: the system moves them as it likes.
    Off,
}

/// How clients are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sockets {
    /// io_uring if it works here, epoll otherwise.
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll.
    Epoll,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let text =
        text.strip_prefix("localhost").map_or(text.to_owned(), |rest| format!("{loopback}{rest}"));
    let address = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<u16>().map(|port| SocketAddr::new(loopback, port)))
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 6379)))
        .map_err(|_| "expected ADDRESS:PORT, like 127.0.0.1:6379 or [::1]:6379".to_owned())?;
    Ok(address)
}

/// A time as the command line has it: a bare number is seconds.
fn parse_limit(text: &str) -> Result<Limit, String> {
    parse_duration(text, 1000).map(Limit)
}

/// A number with a unit, or without one: then of so many milliseconds each. 0 is no limit.
pub(crate) fn parse_duration(text: &str, bare_millis: u64) -> Result<Option<Duration>, String> {
    let expected = || "expected a time, like 500ms, 5s, 2m or 0 for no limit".to_owned();
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis = match unit.to_ascii_lowercase().as_str() {
        "" => bare_millis,
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let number = digits.parse::<u64>().map_err(|_| expected())?;
    let millis = number.checked_mul(millis).ok_or_else(expected)?;
    Ok((millis > 0).then(|| Duration::from_millis(millis)))
}

/// The least memory that makes sense: the index alone wants some.
const MEMORY_BYTES_MIN: u64 = 1024 * 1024;

pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || "expected a size, like 512M, 2G or 1073741824".to_owned();
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(expected()),
    };
    let number = digits.parse::<u64>().map_err(|_| expected())?;
    let bytes = number.checked_mul(1 << shift).ok_or("larger than any memory")?;
    if bytes < MEMORY_BYTES_MIN { Err("at least 1M".to_owned()) } else { Ok(bytes) }
}

/// A size, or 0.
fn parse_kept(text: &str) -> Result<u64, String> {
    if text == "0" { Ok(0) } else { parse_size(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn serving_needs_no_subcommand() {
        let line = CommandLine::try_parse_from(["isolith", "--dir", "x", "--memory", "2G"]);
        let line = line.expect("a command line");
        assert!(line.command.is_none());
        assert_eq!((line.serve.memory, line.serve.listen.port()), (2 << 30, 6379));
        let line = CommandLine::try_parse_from(["isolith", "serve", "--threads", "3"]);
        assert!(matches!(
            line.expect("a command line").command,
            Some(Command::Serve(options)) if options.threads == Some(3)
        ));
    }

    #[test]
    fn addresses_may_be_short() {
        assert_eq!(parse_listen("7000"), Ok("127.0.0.1:7000".parse().expect("an address")));
        assert_eq!(parse_listen("localhost:0"), Ok("127.0.0.1:0".parse().expect("an address")));
        assert_eq!(parse_listen("::1"), Ok("[::1]:6379".parse().expect("an address")));
        assert!(parse_listen("nowhere:1").is_err());
    }

    #[test]
    fn times_have_units() {
        let millis = |text| parse_duration(text, 1000).map(|limit| limit.map(|l| l.as_millis()));
        assert_eq!(millis("500ms"), Ok(Some(500)));
        assert_eq!(millis("2"), Ok(Some(2_000)));
        assert_eq!(millis("1H"), Ok(Some(3_600_000)));
        assert_eq!(millis("0"), Ok(None));
        for wrong in ["", "s", "-1s", "1.5s", "2 s", "9999999999999999999h", "5d"] {
            assert!(millis(wrong).is_err(), "{wrong}");
        }
        let line = CommandLine::try_parse_from([
            "isolith",
            "--isolation",
            "snapshot",
            "--concurrency",
            "locking:wait-die",
            "--lock-timeout",
            "250ms",
        ]);
        let defaults = line.expect("a command line").serve.defaults();
        assert_eq!(defaults.isolation(), Isolation::Snapshot);
        assert_eq!(defaults.concurrency().to_string(), "locking:wait-die");
        assert_eq!(defaults.lock_timeout(), Duration::from_millis(250));
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2gib"), Ok(2 << 30));
        assert_eq!(parse_size("1048576"), Ok(1 << 20));
        for wrong in ["", "M", "12X", "-1", "1.5G", "99999999T", "10K"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
