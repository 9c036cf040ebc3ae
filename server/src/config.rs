//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use isolith::Durability;
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
    after_help = "Exit codes: 0 ended as asked, 2 the command line is wrong, 3 could not run.\n\
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
    Serve(Serve),
    /// Prints the reference of all server commands, as Markdown.
    Commands,
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// The database's directory; created if it is not there.
    #[arg(long, value_name = "DIR", default_value = "isolith-data")]
    pub(crate) dir: PathBuf,
    /// Where to listen: ADDRESS:PORT, ADDRESS or PORT. Only loopback addresses are allowed until
    /// there is authentication. Port 0 picks a free one; the address is printed.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6379", value_parser = parse_listen)]
    pub(crate) listen: SocketAddr,
    /// Threads that serve clients, each with its own connections; as many as there are cores if
    /// not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// When a write is acknowledged, unless a transaction says otherwise (BEGIN … DURABILITY).
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Level::Sync)]
    pub(crate) durability: Level,
    /// Memory for keys and values, like 512M or 2G; beyond it writes (but not deletes) are refused.
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(crate) memory: u64,
    /// How the log is written; auto takes io_uring where the system allows it.
    #[arg(long, value_name = "BACKEND", value_enum, default_value_t = Io::Auto)]
    pub(crate) io: Io,
    /// Seconds after which an idle BEGIN transaction is rolled back.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    pub(crate) transaction_idle: Duration,
}

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

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let text =
        text.strip_prefix("localhost").map_or(text.to_owned(), |rest| format!("{loopback}{rest}"));
    let address = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<u16>().map(|port| SocketAddr::new(loopback, port)))
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 6379)))
        .map_err(|_| "expected ADDRESS:PORT, like 127.0.0.1:6379 or [::1]:6379".to_owned())?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "{} is not a loopback address: refused until isolith has authentication. Use \
             127.0.0.1 or [::1], and a tunnel to reach it from elsewhere",
            address.ip()
        ));
    }
    Ok(address)
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<u32>().map_err(|_| "expected a number of seconds".to_owned())?;
    if seconds == 0 {
        Err("at least 1".to_owned())
    } else {
        Ok(Duration::from_secs(seconds.into()))
    }
}

/// The least memory that makes sense: the index alone wants some.
const MEMORY_BYTES_MIN: u64 = 1024 * 1024;

fn parse_size(text: &str) -> Result<u64, String> {
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
            Some(Command::Serve(Serve { threads: Some(3), .. }))
        ));
    }

    #[test]
    fn only_loopback_is_listened_on() {
        assert_eq!(parse_listen("7000"), Ok("127.0.0.1:7000".parse().expect("an address")));
        assert_eq!(parse_listen("localhost:0"), Ok("127.0.0.1:0".parse().expect("an address")));
        assert_eq!(parse_listen("::1"), Ok("[::1]:6379".parse().expect("an address")));
        for refused in ["0.0.0.0:6379", "[::]:6379", "10.0.0.1:1", "192.168.1.1"] {
            assert!(parse_listen(refused).is_err_and(|why| why.contains("loopback")), "{refused}");
        }
        assert!(parse_listen("nowhere:1").is_err());
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
