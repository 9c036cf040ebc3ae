//! What a client may take of the server: bounds that CONFIG SET moves while it runs, by Redis's names.
//!
//! | parameter | what is bounded | what happens beyond |
//! |---|---|---|
//! | `proto-max-bulk-len` | one argument, as it is declared | a protocol error; the connection ends |
//! | `client-query-buffer-limit` | one request, as it is declared, and what has come of it | the same |
//! | `client-output-buffer-limit normal HARD SOFT SECONDS` | replies that wait for the client | the connection ends: beyond HARD at once, beyond SOFT for SECONDS |
//! | `timeout` | seconds without a byte from the client | the connection ends |
//!
//! None of them is what memory depends on: buffers grow with what is received, and commands stop at a megabyte
//! of output (`connection.rs`). They are for an operator who wants to be rid of such clients.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One of the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Bytes of an argument.
    Bulk,
    /// Bytes of a request.
    Request,
    /// Bytes of output; 0: none, for this and the next.
    OutputHard,
    OutputSoft,
    OutputSoftSeconds,
    /// Seconds; 0: none.
    Idle,
}

const MIB: u64 = 1024 * 1024;
/// The longest argument there may be: as long as a value may be.
pub(crate) const BULK_BYTES_MAX: u64 = 512 * MIB;
/// The longest request there may be.
pub(crate) const REQUEST_BYTES_MAX: u64 = 1024 * MIB;

const OUTPUT: &str = "client-output-buffer-limit";

/// The parameters that are one number: name, which, the least and the most; whether it is of bytes.
const NUMBERS: [(&str, Limit, u64, u64, bool); 3] = [
    ("proto-max-bulk-len", Limit::Bulk, MIB, BULK_BYTES_MAX, true),
    ("client-query-buffer-limit", Limit::Request, MIB, REQUEST_BYTES_MAX, true),
    ("timeout", Limit::Idle, 0, i32::MAX as u64, false),
];

/// Their names.
pub(crate) const NAMES: [&str; 4] =
    ["proto-max-bulk-len", "client-query-buffer-limit", OUTPUT, "timeout"];

/// The bounds, as they are now.
pub(crate) struct Limits([AtomicU64; 6]);

impl Default for Limits {
    fn default() -> Limits {
        let limits = Limits(Default::default());
        limits.set(Limit::Bulk, BULK_BYTES_MAX);
        limits.set(Limit::Request, REQUEST_BYTES_MAX);
        limits
    }
}

/// What a parameter is to be.
pub(crate) type Setting = Vec<(Limit, u64)>;

impl Limits {
    /// One of them.
    pub(crate) fn value(&self, limit: Limit) -> u64 {
        // Relaxed: each is a number of its own, and a little later is soon enough.
        self.0[limit as usize].load(Ordering::Relaxed)
    }

    fn set(&self, limit: Limit, value: u64) {
        // Relaxed: see `value`.
        self.0[limit as usize].store(value, Ordering::Relaxed);
    }

    /// Makes it so.
    pub(crate) fn apply(&self, setting: &Setting) {
        setting.iter().for_each(|(limit, value)| self.set(*limit, *value));
    }

    /// After which silence a client is let go.
    pub(crate) fn idle(&self) -> Option<Duration> {
        Some(self.value(Limit::Idle)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    /// True if there is more output than there may be at any time.
    pub(crate) fn is_over_hard(&self, bytes: usize) -> bool {
        let hard = self.value(Limit::OutputHard);
        hard > 0 && bytes as u64 > hard
    }

    /// True if there is more than there may be for long: see [`soft_time`](Limits::soft_time).
    pub(crate) fn is_over_soft(&self, bytes: usize) -> bool {
        let soft = self.value(Limit::OutputSoft);
        soft > 0 && bytes as u64 > soft
    }

    /// For how long.
    pub(crate) fn soft_time(&self) -> Duration {
        Duration::from_secs(self.value(Limit::OutputSoftSeconds))
    }

    /// As CONFIG GET has a parameter.
    pub(crate) fn show(&self, name: &str) -> String {
        match NUMBERS.iter().find(|(known, ..)| *known == name) {
            Some((_, limit, ..)) => self.value(*limit).to_string(),
            None => format!(
                "normal {} {} {} slave 0 0 0 pubsub 0 0 0",
                self.value(Limit::OutputHard),
                self.value(Limit::OutputSoft),
                self.value(Limit::OutputSoftSeconds)
            ),
        }
    }
}

/// Reads a parameter. `None`: it is none of these. The error is what is wrong with the value.
pub(crate) fn parse(name: &str, value: &str) -> Option<Result<Setting, String>> {
    if name == OUTPUT {
        return Some(parse_output(value));
    }
    let (_, limit, least, most, of_bytes) = NUMBERS.iter().find(|(known, ..)| *known == name)?;
    let number = if *of_bytes { parse_bytes(value) } else { value.parse().ok() };
    Some(match number {
        Some(number) if (*least..=*most).contains(&number) => Ok(vec![(*limit, number)]),
        Some(_) => Err(format!("argument must be between {least} and {most} inclusive")),
        None if *of_bytes => Err("argument must be a memory value".to_owned()),
        None => Err("argument couldn't be parsed into an integer".to_owned()),
    })
}

/// `normal HARD SOFT SECONDS`, and the like for the classes of clients that there are none of here.
fn parse_output(value: &str) -> Result<Setting, String> {
    let words: Vec<&str> = value.split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".to_owned());
    }
    let mut setting = Setting::new();
    for class in words.chunks(4) {
        let &[name, hard, soft, seconds] = class else { continue };
        let numbers = (parse_bytes(hard), parse_bytes(soft), seconds.parse::<u32>());
        let (Some(hard), Some(soft), Ok(seconds)) = numbers else {
            let why = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
            return Err(why.to_owned());
        };
        match name.to_ascii_lowercase().as_str() {
            "normal" => setting.extend([
                (Limit::OutputHard, hard),
                (Limit::OutputSoft, soft),
                (Limit::OutputSoftSeconds, u64::from(seconds)),
            ]),
            "slave" | "replica" | "pubsub" => {}
            _ => {
                let why = "Invalid client class specified in buffer limit configuration.";
                return Err(why.to_owned());
            }
        }
    }
    Ok(setting)
}

/// Bytes as Redis reads them: `1k` is a thousand, `1kb` 1,024.
fn parse_bytes(text: &str) -> Option<u64> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1024,
        "m" => 1_000_000,
        "mb" => MIB,
        "g" => 1_000_000_000,
        "gb" => 1024 * MIB,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_and_shown_as_by_redis() {
        let limits = Limits::default();
        for (name, value, shown) in [
            ("proto-max-bulk-len", "2mb", "2097152"),
            ("client-query-buffer-limit", "1048576", "1048576"),
            ("timeout", "7", "7"),
            (OUTPUT, "normal 1mb 512kb 3", "normal 1048576 524288 3 slave 0 0 0 pubsub 0 0 0"),
            (OUTPUT, "slave 9 9 9", "normal 1048576 524288 3 slave 0 0 0 pubsub 0 0 0"),
            (OUTPUT, "pubsub 0 0 0 NORMAL 0 0 0", "normal 0 0 0 slave 0 0 0 pubsub 0 0 0"),
        ] {
            let setting = parse(name, value).expect("known").expect(value);
            limits.apply(&setting);
            assert_eq!(limits.show(name), shown, "{value}");
        }
        for (name, wrong) in [
            ("proto-max-bulk-len", "1"),
            ("proto-max-bulk-len", "1gb"),
            ("client-query-buffer-limit", "lots"),
            ("timeout", "-1"),
            ("timeout", "1kb"),
            (OUTPUT, ""),
            (OUTPUT, "normal 1 2"),
            (OUTPUT, "nobody 1 2 3"),
            (OUTPUT, "normal 1 x 3"),
        ] {
            assert!(parse(name, wrong).expect("known").is_err(), "{wrong}");
        }
        assert!(parse("maxmemory", "1").is_none());
        assert!(NAMES.iter().all(|name| !limits.show(name).is_empty()));
    }
}
