//! Parameters of Redis that mean nothing here, as CONFIG SET takes them: clients, frameworks and test suites
//! send them without looking at what a server is.

/// May be set, without an effect: they concern what isolith does not have, or does by itself.
pub(super) const IGNORED: &[&str] = &[
    "activedefrag",
    "appendfsync",
    "appendonly",
    "auto-aof-rewrite-percentage",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "hash-max-ziplist-entries",
    "hash-max-ziplist-value",
    "hz",
    "latency-monitor-threshold",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-server-del",
    "lazyfree-lazy-user-del",
    "lazyfree-lazy-user-flush",
    "list-max-listpack-size",
    "list-max-ziplist-size",
    "notify-keyspace-events",
    "rdbcompression",
    "save",
    "set-max-intset-entries",
    "set-max-listpack-entries",
    "set-max-listpack-value",
    "stop-writes-on-bgsave-error",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "zset-max-ziplist-entries",
    "zset-max-ziplist-value",
];

/// Are set when a Redis starts, and not afterwards.
pub(super) const IMMUTABLE: &[&str] = &[
    "aclfile",
    "appendfilename",
    "cluster-enabled",
    "daemonize",
    "dbfilename",
    "logfile",
    "pidfile",
    "supervised",
    "syslog-enabled",
    "tcp-backlog",
    "unixsocketperm",
];
