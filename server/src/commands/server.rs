//! The server itself: INFO, CONFIG, COMMAND, TIME.

use super::accepted::{IGNORED, IMMUTABLE};
use super::connection::REDIS_RELEASE;
use super::{Handler, Keys, Outcome, Spec, all, by_name};
use crate::config::{self, parse_duration};
use crate::failure::Failure;
use crate::glob;
use crate::limits;
use crate::log;
use crate::resp::{Args, Reply};
use crate::shared::{Counter, Counters, DATABASES, Shared, lock};
use crate::store::Cx;
use crate::terms::Limit;
use crate::worker::KEEPALIVE;
use isolith::{Concurrency, Durability, Isolation};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Up to so many keys INFO counts exactly; beyond it estimates.
const COUNT_EXACTLY_MAX: usize = 1_000;

/// `TIME`
pub(super) fn time(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let now = cx.shared.now_ms();
    let mut digits = itoa::Buffer::new();
    reply.array(2);
    reply.bulk(digits.format(now / 1000).as_bytes());
    reply.bulk(digits.format(now % 1000 * 1000).as_bytes());
    Ok(())
}

/// `INFO [section [section ...]]`
pub(super) fn info(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let sections: Vec<String> =
        args.from(1).map(|name| String::from_utf8_lossy(name).to_lowercase()).collect();
    let wanted = |name: &str| {
        sections.is_empty()
            || sections.iter().any(|section| {
                section == name || matches!(section.as_str(), "all" | "default" | "everything")
            })
    };
    let mut text = String::new();
    for (name, write) in SECTIONS {
        if wanted(&name.to_lowercase()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let _ = write!(text, "# {name}\r\n");
            write(cx.shared, &mut text);
        }
    }
    reply.text(&text);
    Ok(())
}

/// `BACKUP name`
pub(super) fn backup(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let name = args.at(1);
    cx.shared.backups.begin(name).map_err(Failure::text)?;
    reply.simple("Backup started");
    Ok(())
}

type Section = fn(&Shared, &mut String);

const SECTIONS: &[(&str, Section)] = &[
    ("Server", info_server),
    ("Clients", info_clients),
    ("Memory", info_memory),
    ("Persistence", info_persistence),
    ("Stats", info_stats),
    ("Replication", info_replication),
    ("CPU", info_cpu),
    ("Cluster", info_cluster),
    ("Isolith", info_isolith),
    ("Locks", info_locks),
    ("Files", info_files),
    ("Keyspace", info_keyspace),
];

/// One `name:value` line. Writing to a String cannot fail.
fn field(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = write!(text, "{name}:{value}\r\n");
}

fn info_server(shared: &Shared, text: &mut String) {
    let uptime = shared.now_ms().saturating_sub(shared.since) / 1000;
    field(text, "redis_version", REDIS_RELEASE);
    field(text, "isolith_version", env!("CARGO_PKG_VERSION"));
    field(text, "redis_mode", "standalone");
    field(text, "os", std::env::consts::OS);
    field(text, "arch_bits", usize::BITS);
    field(text, "multiplexing_api", shared.driver);
    field(text, "process_id", std::process::id());
    field(text, "tcp_port", shared.address.port());
    field(text, "uptime_in_seconds", uptime);
    field(text, "uptime_in_days", uptime / 86_400);
}

fn info_clients(shared: &Shared, text: &mut String) {
    field(text, "connected_clients", shared.clients.count());
    field(text, "maxclients", shared.clients_max);
    let waiting = shared.clients.all().iter().filter(|client| client.waiting().is_some()).count();
    field(text, "blocked_clients", waiting);
}

fn info_memory(shared: &Shared, text: &mut String) {
    let stats = shared.database.stats();
    let cached = stats.files.map_or(0, |files| files.cache_bytes);
    field(text, "used_memory", stats.memory_bytes as u64 + cached);
    field(text, "used_memory_dataset", stats.memory_bytes);
    field(text, "maxmemory", stats.memory_bytes_max);
    field(text, "maxmemory_policy", "noeviction");
}

fn info_persistence(shared: &Shared, text: &mut String) {
    field(text, "loading", 0);
    field(text, "async_loading", 0);
    field(text, "aof_enabled", 1);
    field(text, "aof_last_write_status", "ok");
    field(text, "rdb_bgsave_in_progress", 0);
    field(text, "rdb_last_bgsave_status", "ok");
    let backups = shared.backups.state();
    field(text, "backup_in_progress", u8::from(backups.running.is_some()));
    let Some((name, made)) = backups.last else { return };
    field(text, "last_backup", name);
    match made {
        Ok(made) => {
            field(text, "last_backup_status", "ok");
            field(text, "last_backup_timestamp", made.timestamp);
        }
        // On one line: what a system says may have several.
        Err(error) => field(text, "last_backup_status", error.replace(['\r', '\n'], " ")),
    }
}

fn info_stats(shared: &Shared, text: &mut String) {
    field(text, "total_connections_received", shared.clients.ever());
    field(text, "total_commands_processed", shared.total(|counters| &counters.commands));
    field(text, "total_net_input_bytes", shared.total(|counters| &counters.received_bytes));
    field(text, "total_net_output_bytes", shared.total(|counters| &counters.sent_bytes));
    field(text, "rejected_connections", shared.total(|counters| &counters.refused));
    let closed = |figure: fn(&Counters) -> &Counter| shared.total(figure);
    field(text, "protocol_errors", closed(|counters| &counters.protocol_errors));
    let output = closed(|counters| &counters.output_closed);
    field(text, "client_output_buffer_limit_disconnections", output);
    field(text, "idle_disconnections", closed(|counters| &counters.idle_closed));
    field(text, "rejected_writes", closed(|counters| &counters.shed));
    field(text, "expired_keys", shared.database.stats().expired);
    field(text, "evicted_keys", 0);
}

fn info_replication(_: &Shared, text: &mut String) {
    field(text, "role", "master");
    field(text, "connected_slaves", 0);
}

fn info_cpu(_: &Shared, text: &mut String) {
    let usage = |name: &str, text: &mut String, time: rustix::time::ClockId| {
        let spent = rustix::time::clock_gettime(time);
        field(text, name, format_args!("{}.{:06}", spent.tv_sec, spent.tv_nsec / 1000));
    };
    usage("used_cpu_total", text, rustix::time::ClockId::ProcessCPUTime);
}

fn info_cluster(_: &Shared, text: &mut String) {
    field(text, "cluster_enabled", 0);
}

fn info_isolith(shared: &Shared, text: &mut String) {
    let stats = shared.database.stats();
    field(text, "threads", shared.wakers.len());
    field(text, "durability", durability_name(shared.defaults.durability));
    if let Some(backend) = shared.database.backend() {
        field(text, "log_io", backend.kind.to_string());
    }
    // Relaxed: a figure for a human.
    field(text, "walks_under_way", shared.walks.load(Ordering::Relaxed));
    field(text, "slices", shared.total(|counters| &counters.slices));
    let helpers = shared.helpers.figures();
    field(text, "errands", helpers.done);
    field(text, "errands_under_way", helpers.under_way);
    field(text, "errands_waiting", helpers.waiting);
    field(text, "commits", stats.commits);
    field(text, "conflicts_retried", shared.total(|counters| &counters.conflicts));
    field(text, "visible", stats.visible);
    field(text, "durable", stats.durable);
    field(text, "snapshots", stats.snapshots);
    field(text, "snapshots_expired", stats.snapshots_expired);
    if let Some(oldest) = stats.oldest_snapshot {
        field(text, "oldest_snapshot", oldest.timestamp);
        field(text, "oldest_snapshot_age_ms", oldest.age_ms);
        field(text, "oldest_snapshot_commits_behind", oldest.commits_behind);
        field(text, "oldest_snapshot_bytes_held", oldest.bytes_held.unwrap_or(0));
    }
    field(text, "history_bytes", stats.history_bytes);
    if let Some(floor) = stats.retention_floor {
        field(text, "retention_floor", floor);
        field(text, "retention_reach_ms", stats.retention_reach_ms.unwrap_or(0));
    }
    if let Some(log) = stats.log {
        field(text, "log_batches", log.batches);
        field(text, "log_bytes", log.bytes);
        field(text, "log_synced_batches", log.synced_batches);
    }
}

fn info_locks(shared: &Shared, text: &mut String) {
    let stats = shared.database.stats();
    field(text, "locks_held", stats.locks.held);
    field(text, "locks_waiting", stats.locks.waiting);
    field(text, "lock_waits", stats.locks.waits);
    field(text, "lock_wounds", stats.locks.wounds);
    field(text, "lock_deadlocks", stats.locks.deadlocks);
    field(text, "lock_refusals", stats.locks.refusals);
    field(text, "lock_timeouts", stats.locks.timeouts);
    field(text, "hot_keys", stats.hot_keys);
    field(text, "fights", stats.fights);
    field(text, "escalations", stats.escalations);
}

fn info_files(shared: &Shared, text: &mut String) {
    let stats = shared.database.stats();
    let Some(files) = stats.files else { return };
    field(text, "files", files.files);
    field(text, "files_bytes", files.bytes);
    field(text, "value_files", files.value_files);
    field(text, "value_files_bytes", files.value_bytes);
    field(text, "value_files_bytes_live", files.value_bytes_live);
    for (level, (number, bytes)) in files.levels.iter().enumerate() {
        field(text, &format!("files_level{level}"), format_args!("files={number},bytes={bytes}"));
    }
    field(text, "memtables_frozen", files.frozen);
    field(text, "flushes", files.flushes);
    field(text, "flushed_bytes", files.flushed_bytes);
    field(text, "compactions", files.compactions);
    field(text, "compaction_parts", files.compaction_parts);
    field(text, "compacted_bytes_in", files.compacted_bytes_in);
    field(text, "compacted_bytes_out", files.compacted_bytes_out);
    if let Some(bytes) = files.background_bytes_per_second {
        field(text, "background_bytes_per_second", bytes);
        field(text, "background_waits", files.background_waits);
        field(text, "background_waited_ms", files.background_waited_ms);
    }
    field(text, "moved_bytes", files.moved_bytes);
    field(text, "write_amplification", format_args!("{:.2}", files.write_amplification()));
    let space = files.space_amplification().unwrap_or(1.0);
    field(text, "space_amplification", format_args!("{space:.2}"));
    field(text, "write_stalls", files.stalls);
    // One line, whatever the system says.
    let failure = files.failure.unwrap_or_default().replace(char::is_control, " ");
    field(text, "files_last_error", failure);
    field(text, "log_floor", files.log_floor);
    if let Some(log) = stats.log {
        field(text, "log_held_segments", log.held_segments);
        field(text, "log_held_bytes", log.held_bytes);
    }
}

fn info_keyspace(shared: &Shared, text: &mut String) {
    for (number, keyspace) in shared.keyspaces().iter().enumerate() {
        // Some clients ask at every connect: counting is for what is small.
        let about = keyspace.approximate_len();
        let keys = match about {
            0..=COUNT_EXACTLY_MAX => keyspace.len().unwrap_or(about),
            about => about,
        };
        if keys > 0 {
            field(text, &format!("db{number}"), format_args!("keys={keys},expires=0,avg_ttl=0"));
        }
    }
}

/// As the command line has it.
pub(super) fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Sync => "sync",
        Durability::Os => "os",
        Durability::Buffered => "buffered",
    }
}

/// What CONFIG GET answers: the parameters that tools ask for, as they are here.
fn parameters(shared: &Shared) -> Vec<(&'static str, String)> {
    let fixed = |name, value: &str| (name, value.to_owned());
    [
        fixed(
            "appendfsync",
            match shared.defaults.durability {
                Durability::Sync => "always",
                Durability::Os => "everysec",
                Durability::Buffered => "no",
            },
        ),
        fixed("appendonly", "yes"),
        fixed("bind", &shared.address.ip().to_string()),
        fixed("databases", &DATABASES.to_string()),
        fixed("dir", &shared.directory.to_string_lossy()),
        fixed("durability", durability_name(shared.defaults.durability)),
        fixed("io-threads", &shared.wakers.len().to_string()),
        fixed("maxclients", &shared.clients_max.to_string()),
        fixed("maxmemory", &shared.database.stats().memory_bytes_max.to_string()),
        fixed("maxmemory-policy", "noeviction"),
        fixed("port", &shared.address.port().to_string()),
        fixed("replicaof", ""),
        fixed(LOG_LEVEL, log::level().name()),
        fixed(PASSWORD, ""),
        fixed("save", ""),
        fixed("slaveof", ""),
        fixed(REFUSALS, &shared.users.refusals_max().to_string()),
        fixed(SLOWER_THAN, &shared.slowlog.threshold().to_string()),
        fixed(SLOW_LENGTH, &shared.slowlog.entries_max().to_string()),
        fixed("tls-port", &shared.tls.as_ref().map_or(0, |(_, at)| at.port()).to_string()),
        fixed(
            "unixsocket",
            &shared.unix_socket.as_ref().map_or_else(String::new, |at| at.display().to_string()),
        ),
        fixed("tcp-keepalive", &KEEPALIVE.as_secs().to_string()),
        fixed(ISOLATION, &shared.defaults.isolation().to_string()),
        fixed(CONCURRENCY, &shared.defaults.concurrency().to_string()),
    ]
    .into_iter()
    .chain(limits::NAMES.iter().map(|name| (*name, shared.limits.show(name))))
    .chain(LIMITS.iter().map(|(name, limit)| {
        let millis = shared.defaults.limit(*limit).map_or(0, |limit| limit.as_millis());
        (*name, millis.to_string())
    }))
    .collect()
}

const ISOLATION: &str = "transaction-isolation";
const CONCURRENCY: &str = "transaction-concurrency";
const LOG_LEVEL: &str = "loglevel";
const SLOWER_THAN: &str = "slowlog-log-slower-than";
/// Of the user `default`. Passwords are kept as hashes alone: nobody is given one.
const PASSWORD: &str = "requirepass";
const REFUSALS: &str = "acllog-max-len";
const SLOW_LENGTH: &str = "slowlog-max-len";
/// The most slow commands, and the most refusals, that are kept.
const SLOW_LENGTH_MAX: usize = 100_000;

/// The limits that can be set, in milliseconds; 0 is none.
const LIMITS: &[(&str, Limit)] = &[
    ("lock-timeout", Limit::Lock),
    ("transaction-timeout", Limit::Transaction),
    ("idle-transaction-timeout", Limit::Idle),
];

/// What CONFIG SET changes, for transactions that begin from now on.
enum Change {
    Isolation(Isolation),
    Concurrency(Concurrency),
    Limit(Limit, Option<Duration>),
    /// In microseconds; negative: nothing is slow.
    SlowerThan(i64),
    SlowLogLength(usize),
    Refusals(usize),
    /// Empty: none.
    Password(Vec<u8>),
    Clients(limits::Setting),
    LogLevel(log::Level),
}

impl Change {
    /// `None`: it is not one of these. The error is what is wrong with the value.
    fn parse(name: &str, value: &str) -> Option<Result<Change, String>> {
        let limit = LIMITS.iter().find(|(known, _)| *known == name);
        Some(match name {
            ISOLATION => value.parse().map(Change::Isolation).map_err(|error| error.to_string()),
            CONCURRENCY => {
                value.parse().map(Change::Concurrency).map_err(|error| error.to_string())
            }
            SLOWER_THAN => value
                .parse()
                .ok()
                .filter(|micros| *micros >= -1)
                .map(Change::SlowerThan)
                .ok_or_else(|| {
                    "argument must be between -1 and 9223372036854775807 inclusive".into()
                }),
            SLOW_LENGTH => entries(value).map(Change::SlowLogLength),
            REFUSALS => entries(value).map(Change::Refusals),
            LOG_LEVEL => log::Level::parse(value).map(Change::LogLevel).ok_or_else(|| {
                "argument(s) must be one of the following: debug, verbose, notice, warning, nothing"
                    .into()
            }),
            _ if limits::NAMES.contains(&name) => limits::parse(name, value)?.map(Change::Clients),
            _ => {
                let (_, limit) = limit?;
                parse_duration(value, 1).map(|to| Change::Limit(*limit, to))
            }
        })
    }

    fn make(self, shared: &Shared) -> Outcome {
        let defaults = &shared.defaults;
        match self {
            Change::Refusals(count) => shared.users.keep_refusals(count),
            Change::Password(password) => {
                shared.users.require(&password).map_err(Failure::text)?;
            }
            Change::SlowerThan(micros) => shared.slowlog.set_threshold(micros),
            Change::SlowLogLength(count) => shared.slowlog.set_entries_max(count),
            Change::Clients(setting) => shared.limits.apply(&setting),
            Change::LogLevel(level) => log::set_level(level),
            Change::Isolation(isolation) => defaults.set_isolation(isolation),
            Change::Concurrency(concurrency) => defaults.set_concurrency(concurrency),
            Change::Limit(limit, to) => defaults.set_limit(limit, to),
        }
        Ok(())
    }
}

/// How many entries a log keeps.
fn entries(value: &str) -> Result<usize, String> {
    let count = value.parse().ok().filter(|count| *count <= SLOW_LENGTH_MAX);
    count.ok_or_else(|| format!("argument must be between 0 and {SLOW_LENGTH_MAX} inclusive"))
}

/// `CONFIG GET pattern [pattern ...]`
pub(super) fn config_get(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let patterns: Vec<Vec<u8>> = args.from(2).map(<[u8]>::to_ascii_lowercase).collect();
    let mut found = parameters(cx.shared);
    found
        .retain(|(name, _)| patterns.iter().any(|pattern| glob::matches(pattern, name.as_bytes())));
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// `CONFIG SET parameter value [parameter value ...]`
pub(super) fn config_set(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if !args.len().is_multiple_of(2) {
        return Err(Failure::text(super::wrong_arity("config|set")));
    }
    // All or nothing, as in Redis.
    let mut changes: Vec<(String, Change)> = Vec::new();
    let mut named = BTreeSet::new();
    for (name, value) in args.from(2).step_by(2).zip(args.from(3).step_by(2)) {
        let name = String::from_utf8_lossy(name).to_lowercase();
        let refused = |why: &str| {
            Failure::text(format!(
                "ERR CONFIG SET failed (possibly related to argument '{name}') - {why}"
            ))
        };
        if !named.insert(name.clone()) {
            return Err(refused("duplicate parameter"));
        }
        if name == PASSWORD {
            // As at start: nobody comes in from elsewhere without one.
            if value.is_empty() && !cx.shared.address.ip().is_loopback() {
                return Err(refused("the server listens beyond this machine"));
            }
            changes.push((name, Change::Password(value.to_vec())));
            continue;
        }
        match Change::parse(&name, &String::from_utf8_lossy(value)) {
            Some(Ok(change)) => changes.push((name, change)),
            Some(Err(wrong)) => return Err(refused(&wrong)),
            None if IGNORED.contains(&name.as_str()) => {}
            None => {
                let mut known = parameters(cx.shared).into_iter().map(|(known, _)| known);
                return Err(
                    match IMMUTABLE.contains(&&*name) || known.any(|known| known == name) {
                        true => refused("can't set immutable config"),
                        false => Failure::text(format!(
                            "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
                        )),
                    },
                );
            }
        }
    }
    for (name, change) in changes {
        change.make(cx.shared)?;
        lock(&cx.shared.config_changed).insert(name);
    }
    reply.ok();
    Ok(())
}

/// `CONFIG REWRITE`
pub(super) fn config_rewrite(cx: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let path = cx
        .shared
        .config_file
        .as_deref()
        .ok_or_else(|| Failure::text("ERR The server is running without a config file"))?;
    let changed = lock(&cx.shared.config_changed).clone();
    let now = parameters(cx.shared);
    let settings =
        OPTIONS.iter().filter(|(name, _)| changed.contains(*name)).filter_map(|(name, option)| {
            let (_, value) = now.iter().find(|(known, _)| known == name)?;
            let is_time = LIMITS.iter().any(|(known, _)| known == name);
            let unit = if is_time && value != "0" { "ms" } else { "" };
            Some((*option, format!("{value}{unit}")))
        });
    config::file::rewrite(path, settings).map_err(|error| {
        tracing::error!(%error, "the configuration is not written");
        Failure::text(format!("ERR Rewriting config file: {error}"))
    })?;
    reply.ok();
    Ok(())
}

/// The parameters that can be set, and the options that they are in the file and on the command line.
const OPTIONS: &[(&str, &str)] = &[
    (ISOLATION, "isolation"),
    (CONCURRENCY, "concurrency"),
    ("lock-timeout", "lock-timeout"),
    ("transaction-timeout", "transaction-timeout"),
    ("idle-transaction-timeout", "transaction-idle"),
    (SLOWER_THAN, SLOWER_THAN),
    (SLOW_LENGTH, SLOW_LENGTH),
    ("timeout", "timeout"),
    ("proto-max-bulk-len", "proto-max-bulk-len"),
    ("client-query-buffer-limit", "client-query-buffer-limit"),
    ("client-output-buffer-limit", "client-output-buffer-limit"),
    (LOG_LEVEL, "log-level"),
];

/// `CONFIG RESETSTAT`, `FUNCTION FLUSH`: there is nothing to do.
pub(super) fn nothing(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.ok();
    Ok(())
}

/// `COMMAND`
pub(super) fn command(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(all().count());
    all().for_each(|spec| describe(spec, None, reply));
    Ok(())
}

/// `COMMAND COUNT`
pub(super) fn command_count(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.count(all().count());
    Ok(())
}

/// `COMMAND LIST`
pub(super) fn command_list(_: &mut Cx<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    reply.array(all().count());
    all().for_each(|spec| reply.bulk(spec.name.as_bytes()));
    Ok(())
}

/// `COMMAND INFO [name [name ...]]`
pub(super) fn command_info(cx: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    if args.len() == 2 {
        return command(cx, args, reply);
    }
    reply.array(args.len() - 2);
    for name in args.from(2) {
        match by_name(name) {
            Some(spec) => describe(spec, None, reply),
            None => reply.null_array(),
        }
    }
    Ok(())
}

/// `COMMAND GETKEYS command [argument ...]`
pub(super) fn command_getkeys(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let spec = by_name(args.at(2)).ok_or_else(|| Failure::text("ERR Invalid command specified"))?;
    let length = args.len() - 2;
    if !spec.takes(length) {
        return Err(Failure::text("ERR Invalid number of arguments specified for command"));
    }
    if !spec.keys.any() {
        return Err(Failure::text("ERR The command has no key arguments"));
    }
    reply.array(spec.keys.count(length));
    spec.keys.positions(length).for_each(|place| reply.bulk(args.at(place + 2)));
    Ok(())
}

/// `COMMAND DOCS [name [name ...]]`
pub(super) fn command_docs(_: &mut Cx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Outcome {
    let asked: Vec<&Spec> = match args.len() {
        2 => all().collect(),
        _ => args.from(2).filter_map(by_name).collect(),
    };
    reply.map(asked.len());
    for spec in asked {
        reply.bulk(spec.name.as_bytes());
        document(spec, None, reply);
    }
    Ok(())
}

/// A subcommand's full name, as COMMAND has it: `client|list`.
fn full_name(spec: &Spec, container: Option<&Spec>) -> String {
    match container {
        Some(container) => format!("{}|{}", container.name, spec.name),
        None => spec.name.to_owned(),
    }
}

fn document(spec: &Spec, container: Option<&Spec>, reply: &mut Reply<'_>) {
    // What follows the name. Told as one argument: `redis-cli` shows it as it is.
    let name = spec.name.len() + container.map_or(0, |container| container.name.len() + 1);
    let arguments = spec.syntax.get(name..).unwrap_or_default().trim_start();
    let extra = usize::from(!arguments.is_empty()) + usize::from(!spec.subcommands.is_empty());
    reply.map(4 + extra);
    reply.bulk(b"summary");
    reply.bulk(spec.summary.trim_end_matches('.').as_bytes());
    reply.bulk(b"since");
    reply.bulk(spec.since.as_bytes());
    reply.bulk(b"group");
    reply.bulk(spec.group.name().as_bytes());
    reply.bulk(b"syntax");
    reply.bulk(spec.syntax.as_bytes());
    debug_assert!(container.is_none() || spec.subcommands.is_empty());
    if !arguments.is_empty() {
        reply.bulk(b"arguments");
        reply.array(1);
        reply.map(3);
        reply.bulk(b"name");
        reply.bulk(arguments.as_bytes());
        reply.bulk(b"type");
        reply.bulk(b"string");
        reply.bulk(b"display_text");
        reply.bulk(arguments.as_bytes());
    }
    if !spec.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(spec.subcommands.len());
        for sub in spec.subcommands {
            reply.bulk(full_name(sub, Some(spec)).as_bytes());
            document(sub, Some(spec), reply);
        }
    }
}

/// One entry of COMMAND: name, arity, flags, first, last, step, categories, tips, key
/// specifications, subcommands.
fn describe(spec: &Spec, container: Option<&Spec>, reply: &mut Reply<'_>) {
    reply.array(10);
    reply.bulk(full_name(spec, container).as_bytes());
    reply.integer(i64::from(spec.arity));
    let access = match spec.handler {
        Handler::Read(_) => Some("readonly"),
        Handler::Write(_) => Some("write"),
        _ => None,
    };
    let marks = spec.marks.iter().filter_map(|mark| match *mark {
        "admin" => Some("admin"),
        "no-auth" => Some("no_auth"),
        _ => None,
    });
    let flags: Vec<&str> =
        access.into_iter().chain(spec.fast.then_some("fast")).chain(marks).collect();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    let Keys { first, last, step } = spec.keys;
    [first, last, step].iter().for_each(|place| reply.integer(i64::from(*place)));
    let categories = spec.categories();
    reply.set(categories.len());
    categories.iter().for_each(|category| reply.simple(&format!("@{category}")));
    // Tips and key specifications: none are given.
    reply.array(0);
    reply.array(0);
    reply.array(spec.subcommands.len());
    spec.subcommands.iter().for_each(|sub| describe(sub, Some(spec), reply));
}
