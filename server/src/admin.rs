//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever watches over processes.
//!
//! One thread, one request at a time, and little of each: whoever is slow is not waited for. It tells numbers
//! alone, nothing of keys and values, and asks nobody who they are.

use crate::shared::Shared;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt::{Display, Write as _};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks whether the server stops.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// How long a request may take to come, and its answer to go.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Serves until the server stops.
pub(crate) fn open(shared: Arc<Shared>, listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    tracing::info!("metrics and health on http://{}", listener.local_addr()?);
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        while !shared.stopping() {
            // Interrupted, or nothing: the loop looks again.
            let _ = poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&LOOK));
            if let Ok((stream, _)) = listener.accept()
                && let Err(error) = serve(&shared, stream)
            {
                tracing::debug!(%error, "a request to the admin port came to nothing");
            }
        }
    })?;
    Ok(())
}

fn serve(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let until = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => head.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, kind, body) = answer(shared, line);
    stream.set_write_timeout(Some(PATIENCE))?;
    let length = body.len();
    stream.write_all(
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}

const TEXT: &str = "text/plain; charset=utf-8";

/// Status, type and body for a request line.
fn answer(shared: &Shared, line: &[u8]) -> (&'static str, &'static str, String) {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != b"GET" {
        return ("405 Method Not Allowed", TEXT, "only GET\n".to_owned());
    }
    match path {
        b"/metrics" => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics(shared)),
        b"/healthz" => ("200 OK", TEXT, "alive\n".to_owned()),
        b"/readyz" => match unready(shared) {
            None => ("200 OK", TEXT, "ready\n".to_owned()),
            Some(why) => ("503 Service Unavailable", TEXT, format!("{why}\n")),
        },
        _ => ("404 Not Found", TEXT, "/metrics, /healthz, /readyz\n".to_owned()),
    }
}

/// Why commands would not be served as they should; `None`: they are.
fn unready(shared: &Shared) -> Option<String> {
    if shared.stopping() {
        return Some("stopping".to_owned());
    }
    let failure = shared.database.stats().files.and_then(|files| files.failure);
    failure.map(|why| format!("files cannot be written: {}", why.replace(char::is_control, " ")))
}

/// Prometheus's text format.
fn metrics(shared: &Shared) -> String {
    let mut text = Metrics(String::new());
    let stats = shared.database.stats();
    let uptime = shared.now_ms().saturating_sub(shared.since) / 1000;
    text.gauge("uptime_seconds", "Since the server was started.", uptime);
    text.gauge("clients", "Connections.", shared.clients.count());
    text.counter("connections_total", "Connections ever.", shared.clients.ever());
    let refused = shared.total(|counters| &counters.refused);
    text.counter("connections_refused_total", "Connections beyond --maxclients.", refused);
    let commands = shared.total(|counters| &counters.commands);
    text.counter("commands_total", "Commands run.", commands);
    let received = shared.total(|counters| &counters.received_bytes);
    text.counter("received_bytes_total", "Bytes received from clients.", received);
    let sent = shared.total(|counters| &counters.sent_bytes);
    text.counter("sent_bytes_total", "Bytes sent to clients.", sent);
    text.counter("commits_total", "Commits.", stats.commits);
    let conflicts = shared.total(|counters| &counters.conflicts);
    text.counter("conflicts_retried_total", "Conflicts that the server retried.", conflicts);
    text.gauge("memory_bytes", "Memory for keys and values.", stats.memory_bytes);
    text.gauge("memory_bytes_max", "Its limit (--memory).", stats.memory_bytes_max);
    text.gauge("snapshots", "Open snapshots and transactions.", stats.snapshots);
    text.counter(
        "snapshots_expired_total",
        "Snapshots that grew too old.",
        stats.snapshots_expired,
    );
    text.gauge("history_bytes", "Versions that only the past needs.", stats.history_bytes);
    text.counter("expired_keys_total", "Keys whose time was over.", stats.expired);
    text.gauge("locks_held", "Locks held.", stats.locks.held);
    text.gauge("locks_waiting", "Waits for locks under way.", stats.locks.waiting);
    text.counter("lock_waits_total", "Waits for locks.", stats.locks.waits);
    text.counter("lock_deadlocks_total", "Deadlocks broken.", stats.locks.deadlocks);
    text.counter(
        "lock_timeouts_total",
        "Waits for locks that took too long.",
        stats.locks.timeouts,
    );
    if let Some(log) = stats.log {
        text.counter("log_bytes_total", "Bytes written to the log.", log.bytes);
        text.counter("log_batches_total", "Batches written to the log.", log.batches);
        text.counter("log_synced_batches_total", "Those that were synced.", log.synced_batches);
        text.gauge("log_held_bytes", "Bytes of log that are still needed.", log.held_bytes);
    }
    if let Some(files) = stats.files {
        text.gauge("files", "Sorted files.", files.files);
        text.gauge("files_bytes", "Their bytes.", files.bytes);
        text.gauge("cache_bytes", "Memory for decompressed blocks of them.", files.cache_bytes);
        text.counter("flushes_total", "Memtables written to files.", files.flushes);
        text.counter("flushed_bytes_total", "Bytes written so.", files.flushed_bytes);
        text.counter("compactions_total", "Compactions.", files.compactions);
        let (read, written) = (files.compacted_bytes_in, files.compacted_bytes_out);
        text.counter("compaction_read_bytes_total", "Bytes read by compactions.", read);
        text.counter("compaction_written_bytes_total", "Bytes written by them.", written);
        text.counter("write_stalls_total", "Writes that waited for room.", files.stalls);
        let failed = u8::from(files.failure.is_some());
        text.gauge("files_failed", "1 if files cannot be written.", failed);
    }
    text.gauge("slow_commands", "Entries of SLOWLOG.", shared.slowlog.count());
    text.0
}

struct Metrics(String);

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.metric(name, help, "counter", value);
    }

    fn metric(&mut self, name: &str, help: &str, kind: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(
            self.0,
            "# HELP isolith_{name} {help}\n# TYPE isolith_{name} {kind}\nisolith_{name} {value}\n"
        );
    }
}
