//! The server: their part of the table. Order here is order in the reference.

use super::{NO_KEYS, SECOND};
use crate::commands::{Group, Handler, Spec, objects, operations, server, users};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::Server, "acl", -2, NO_KEYS, "6.0.0")
        .syntax("ACL subcommand")
        .does("Commands about users.")
        .with(ACL),
    Spec::new(Group::Server, "bgrewriteaof", 1, NO_KEYS, "1.0.0")
        .syntax("BGREWRITEAOF")
        .does("As SAVE.")
        .runs(Handler::Control(operations::save))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "bgsave", -1, NO_KEYS, "1.0.0")
        .syntax("BGSAVE [SCHEDULE]")
        .does("As SAVE.")
        .note("Its reply is that of Redis, and comes when it is done.")
        .runs(Handler::Control(operations::save))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "command", -1, NO_KEYS, "2.8.13")
        .syntax("COMMAND [subcommand]")
        .does("Describes all commands.")
        .runs(Handler::Plain(server::command))
        .with(COMMAND),
    Spec::new(Group::Server, "config", -2, NO_KEYS, "2.0.0")
        .syntax("CONFIG subcommand")
        .does("Commands about the configuration.")
        .with(CONFIG),
    Spec::new(Group::Server, "info", -1, NO_KEYS, "1.0.0")
        .syntax("INFO [section [section ...]]")
        .does("Tells about the server, as lines of text.")
        .note("Beyond a thousand keys the numbers in the keyspace section are estimates.")
        .runs(Handler::Plain(server::info)),
    Spec::new(Group::Server, "lastsave", 1, NO_KEYS, "1.0.0")
        .syntax("LASTSAVE")
        .does("Gives when everything was on stable storage for the last time that somebody looked, in Unix seconds.")
        .runs(Handler::Plain(operations::lastsave))
        .fast()
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "latency", -2, NO_KEYS, "2.8.13")
        .syntax("LATENCY subcommand")
        .does("Commands about latency.")
        .with(LATENCY),
    Spec::new(Group::Server, "lolwut", -1, NO_KEYS, "5.0.0")
        .syntax("LOLWUT [VERSION version]")
        .does("Gives a poem.")
        .runs(Handler::Plain(operations::lolwut)),
    Spec::new(Group::Server, "memory", -2, NO_KEYS, "4.0.0")
        .syntax("MEMORY subcommand")
        .does("Commands about memory.")
        .with(MEMORY),
    Spec::new(Group::Server, "save", 1, NO_KEYS, "1.0.0")
        .syntax("SAVE")
        .does("Answers once everything that was committed before is on stable storage.")
        .runs(Handler::Control(operations::save))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "shutdown", -1, NO_KEYS, "1.0.0")
        .syntax("SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]")
        .does("Ends the server, as SIGTERM does.")
        .note("What is in hand is finished, and everything is kept, whatever the option. There is nothing that ABORT could stop.")
        .runs(Handler::Control(operations::shutdown))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "slowlog", -2, NO_KEYS, "2.2.12")
        .syntax("SLOWLOG subcommand")
        .does("Commands about slow commands.")
        .with(SLOWLOG),
    Spec::new(Group::Server, "time", 1, NO_KEYS, "2.6.0")
        .syntax("TIME")
        .does("Gives the server's time: seconds and microseconds.")
        .note("To the millisecond.")
        .runs(Handler::Plain(server::time))
        .fast(),
];

static COMMAND: &[Spec] = &[
    Spec::new(Group::Server, "count", 2, NO_KEYS, "2.8.13")
        .syntax("COMMAND COUNT")
        .does("Gives the number of commands.")
        .runs(Handler::Plain(server::command_count)),
    Spec::new(Group::Server, "docs", -2, NO_KEYS, "7.0.0")
        .syntax("COMMAND DOCS [name [name ...]]")
        .does("Gives what this reference has.")
        .runs(Handler::Plain(server::command_docs)),
    Spec::new(Group::Server, "getkeys", -3, NO_KEYS, "2.8.13")
        .syntax("COMMAND GETKEYS command [argument ...]")
        .does("Gives the keys that a command names.")
        .runs(Handler::Plain(server::command_getkeys)),
    Spec::new(Group::Server, "info", -2, NO_KEYS, "2.8.13")
        .syntax("COMMAND INFO [name [name ...]]")
        .does("Gives arity, flags and key places of commands.")
        .runs(Handler::Plain(server::command_info)),
    Spec::new(Group::Server, "list", 2, NO_KEYS, "7.0.0")
        .syntax("COMMAND LIST")
        .does("Gives the names of all commands.")
        .runs(Handler::Plain(server::command_list)),
];

static CONFIG: &[Spec] = &[
    Spec::new(Group::Server, "get", -3, NO_KEYS, "2.0.0")
        .syntax("CONFIG GET pattern [pattern ...]")
        .does("Gives the parameters that match.")
        .note("Those that tools ask for; the rest of Redis's do not exist here.")
        .runs(Handler::Plain(server::config_get))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "resetstat", 2, NO_KEYS, "2.0.0")
        .syntax("CONFIG RESETSTAT")
        .does("Accepted without effect.")
        .runs(Handler::Plain(server::nothing))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "rewrite", 2, NO_KEYS, "2.8.0")
        .syntax("CONFIG REWRITE")
        .does("Writes what CONFIG SET has changed to the configuration file, and leaves the rest of it.")
        .runs(Handler::Plain(server::config_rewrite))
        .marked(&["admin", "dangerous", "away"]),
    Spec::new(Group::Server, "set", -4, NO_KEYS, "2.0.0")
        .syntax("CONFIG SET parameter value [parameter value ...]")
        .does("Sets parameters, all of them or none.")
        .note(
            "`transaction-isolation`, `transaction-concurrency` (like `locking:wait-die`), and in \
            milliseconds, 0 for no limit, `lock-timeout`, `transaction-timeout` and \
            `idle-transaction-timeout`: for transactions that begin from then on. `slowlog-log-slower-than` and \
            `slowlog-max-len`, `acllog-max-len`, `loglevel`, `timeout`, `proto-max-bulk-len`, \
             `client-query-buffer-limit` and `client-output-buffer-limit` (of class `normal`), as in Redis. \
             `requirepass`, until the server ends: of the user `default`, and never shown. Parameters of Redis \
             that mean nothing here are accepted without effect, `appendfsync` among them: durability is \
            chosen at start and by BEGIN. What does mean something is refused.",
        )
        .runs(Handler::Plain(server::config_set))
        .marked(&["admin", "dangerous", "secret"]),
];

static MEMORY: &[Spec] = &[Spec::new(Group::Server, "usage", -3, SECOND, "4.0.0")
    .syntax("MEMORY USAGE key [SAMPLES count]")
    .does("Gives how many bytes a key and its value take, about.")
    .runs(Handler::Read(objects::memory_usage))];

static ACL: &[Spec] = &[
    Spec::new(Group::Server, "cat", -2, NO_KEYS, "6.0.0")
        .syntax("ACL CAT [category]")
        .does("Gives the categories, or the commands of one.")
        .runs(Handler::Plain(users::categories)),
    Spec::new(Group::Server, "deluser", -3, NO_KEYS, "6.0.0")
        .syntax("ACL DELUSER username [username ...]")
        .does("Removes users, and closes their connections.")
        .runs(Handler::Plain(users::del_user))
        .marked(&["admin", "dangerous", "secret"]),
    Spec::new(Group::Server, "getuser", 3, NO_KEYS, "6.0.0")
        .syntax("ACL GETUSER username")
        .does("Tells what a user may do.")
        .runs(Handler::Plain(users::get_user))
        .marked(&["admin", "dangerous", "secret"]),
    Spec::new(Group::Server, "list", 2, NO_KEYS, "6.0.0")
        .syntax("ACL LIST")
        .does("Gives the users as lines of the file.")
        .runs(Handler::Plain(users::list))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "load", 2, NO_KEYS, "6.0.0")
        .syntax("ACL LOAD")
        .does("Takes all users from the file, which must be right as a whole.")
        .runs(Handler::Plain(users::load))
        .marked(&["admin", "dangerous", "away"]),
    Spec::new(Group::Server, "log", -2, NO_KEYS, "6.0.0")
        .syntax("ACL LOG [count | RESET]")
        .does("Gives who was refused what.")
        .runs(Handler::Plain(users::log))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "save", 2, NO_KEYS, "6.0.0")
        .syntax("ACL SAVE")
        .does("Writes all users to the file.")
        .runs(Handler::Plain(users::save))
        .marked(&["admin", "dangerous", "away"]),
    Spec::new(Group::Server, "setuser", -3, NO_KEYS, "6.0.0")
        .syntax("ACL SETUSER username [rule [rule ...]]")
        .does("Makes a user, or changes what one may do.")
        .note("Rules: `on`, `off`; `>password`, `<password`, `#hash`, `!hash` (SHA-256), `nopass`, `resetpass`; `~pattern`, `%R~pattern`, `%W~pattern`, `allkeys`, `resetkeys`; `+command`, `-command`, `+command|subcommand`, `+@category`, `-@category`, `allcommands`, `nocommands`; `reset`. They hold in their order, and for connections that are there already with their next command. There are no selectors and no channels. RANGE, DELRANGE and LOCKRANGE are for users with all keys.")
        .runs(Handler::Plain(users::set_user))
        .marked(&["admin", "dangerous", "secret"]),
    Spec::new(Group::Server, "users", 2, NO_KEYS, "6.0.0")
        .syntax("ACL USERS")
        .does("Gives the names of all users.")
        .runs(Handler::Plain(users::names))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "whoami", 2, NO_KEYS, "6.0.0")
        .syntax("ACL WHOAMI")
        .does("Gives who this connection is.")
        .runs(Handler::Plain(users::whoami)),
];

static LATENCY: &[Spec] = &[
    Spec::new(Group::Server, "doctor", 2, NO_KEYS, "2.8.13")
        .syntax("LATENCY DOCTOR")
        .does("Tells of the slow commands, in words.")
        .runs(Handler::Plain(operations::latency_doctor))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "history", 3, NO_KEYS, "2.8.13")
        .syntax("LATENCY HISTORY event")
        .does("Gives nothing: events are not sampled.")
        .runs(Handler::Plain(operations::no_events))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "latest", 2, NO_KEYS, "2.8.13")
        .syntax("LATENCY LATEST")
        .does("Gives nothing: events are not sampled.")
        .runs(Handler::Plain(operations::no_events))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "reset", -2, NO_KEYS, "2.8.13")
        .syntax("LATENCY RESET [event ...]")
        .does("Gives 0: there is nothing to forget.")
        .runs(Handler::Plain(operations::latency_reset))
        .marked(&["admin", "dangerous"]),
];

static SLOWLOG: &[Spec] = &[
    Spec::new(Group::Server, "get", -2, NO_KEYS, "2.2.12")
        .syntax("SLOWLOG GET [count]")
        .does("Gives the newest slow commands.")
        .note("What counts is the time that a command ran, without what it waited. Neighbouring writes of a pipeline that were one transaction are told as one, by the first of them. CONFIG SET slowlog-log-slower-than, slowlog-max-len.")
        .runs(Handler::Plain(operations::slowlog_get))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "len", 2, NO_KEYS, "2.2.12")
        .syntax("SLOWLOG LEN")
        .does("Gives how many there are.")
        .runs(Handler::Plain(operations::slowlog_len))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Server, "reset", 2, NO_KEYS, "2.2.12")
        .syntax("SLOWLOG RESET")
        .does("Forgets them.")
        .runs(Handler::Plain(operations::slowlog_reset))
        .marked(&["admin", "dangerous"]),
];
