//! The server's log: an event to a line on standard error, as text or as JSON, from a level on that can be
//! changed while it runs.

use clap::ValueEnum;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line for a human: time, level, what happened, and with what.
    Text,
    /// A JSON object: `timestamp`, `level`, `target`, and the event's fields under `fields`.
    Json,
}

/// What is written; by Redis's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// All there is.
    Debug,
    /// Each connection that comes to nothing, too.
    Verbose,
    /// What an operator wants to know.
    Notice,
    /// What an operator has to look after.
    Warning,
    Nothing,
}

impl Level {
    const ALL: [Level; 5] =
        [Level::Debug, Level::Verbose, Level::Notice, Level::Warning, Level::Nothing];

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Verbose => "verbose",
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Nothing => "nothing",
        }
    }

    /// By its name, in any case.
    pub(crate) fn parse(name: &str) -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.name().eq_ignore_ascii_case(name))
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Debug => LevelFilter::TRACE,
            Level::Verbose => LevelFilter::DEBUG,
            Level::Notice => LevelFilter::INFO,
            Level::Warning => LevelFilter::WARN,
            Level::Nothing => LevelFilter::OFF,
        }
    }
}

static HANDLE: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();
static LEVEL: AtomicU8 = AtomicU8::new(Level::Notice as u8);

/// Begins it. Once in a process.
pub(crate) fn start(format: Format, level: Level) {
    let (filter, handle) = reload::Layer::new(level.filter());
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        Format::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    let _ = HANDLE.set(handle);
    note(level);
}

/// Changes the level.
pub(crate) fn set_level(level: Level) {
    if let Some(handle) = HANDLE.get() {
        // It fails only if the log is gone.
        let _ = handle.reload(level.filter());
    }
    note(level);
}

fn note(level: Level) {
    // Relaxed, here and below: it is shown, and nothing depends on it.
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// The level.
pub(crate) fn level() -> Level {
    Level::ALL
        .into_iter()
        .find(|level| *level as u8 == LEVEL.load(Ordering::Relaxed))
        .unwrap_or(Level::Notice)
}
