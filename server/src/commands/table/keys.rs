//! Keys: their part of the table. Order here is order in the reference.

use super::{ALL_KEYS, NO_KEYS, ONE_KEY, SECOND, TWO_KEYS};
use crate::commands::{Group, Handler, Spec, keys, objects, operations};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::Generic, "copy", -3, TWO_KEYS, "6.2.0")
        .syntax("COPY source destination [DB index] [REPLACE]")
        .does("Copies a value to another key, with its expiry.")
        .runs(Handler::Write(objects::copy)),
    Spec::new(Group::Generic, "dbsize", 1, NO_KEYS, "1.0.0")
        .syntax("DBSIZE")
        .does("Gives the number of keys.")
        .note("Counts them: exact, and linear in the number of keys.")
        .runs(Handler::Read(keys::dbsize)),
    Spec::new(Group::Generic, "del", -2, ALL_KEYS, "1.0.0")
        .syntax("DEL key [key ...]")
        .does("Deletes keys; gives how many were there.")
        .runs(Handler::Write(keys::del))
        .marked(&["blind"]),
    Spec::new(Group::Generic, "dump", 2, ONE_KEY, "2.6.0")
        .syntax("DUMP key")
        .does("Gives the value as Redis's files have it, for RESTORE here or there.")
        .note("RDB format 10, never compressed.")
        .runs(Handler::Read(objects::dump)),
    Spec::new(Group::Generic, "exists", -2, ALL_KEYS, "1.0.0")
        .syntax("EXISTS key [key ...]")
        .does("Gives how many of the keys are there; one that is named twice counts twice.")
        .runs(Handler::Read(keys::exists))
        .fast(),
    Spec::new(Group::Generic, "expire", -3, ONE_KEY, "1.0.0")
        .syntax("EXPIRE key seconds [NX | XX | GT | LT]")
        .does(
            "Makes a key expire: only if it does not yet (NX), if it does (XX), if that \
            is later (GT) or earlier (LT).",
        )
        .runs(Handler::Write(keys::expire))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::Generic, "expireat", -3, ONE_KEY, "1.2.0")
        .syntax("EXPIREAT key unix-seconds [NX | XX | GT | LT]")
        .does("Makes a key expire at a time.")
        .runs(Handler::Write(keys::expireat))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::Generic, "expiretime", 2, ONE_KEY, "7.0.0")
        .syntax("EXPIRETIME key")
        .does("Gives when a key expires, in Unix seconds; -1 never, -2 not there.")
        .runs(Handler::Read(keys::expiretime))
        .fast(),
    Spec::new(Group::Generic, "flushall", -1, NO_KEYS, "1.0.0")
        .syntax("FLUSHALL [ASYNC | SYNC]")
        .does("Deletes everything in all databases.")
        .note(
            "One transaction over the sixteen databases; keyspaces with other names are \
            left alone. ASYNC and SYNC are the same.",
        )
        .runs(Handler::Write(keys::flushall))
        .marked(&["dangerous"]),
    Spec::new(Group::Generic, "flushdb", -1, NO_KEYS, "1.0.0")
        .syntax("FLUSHDB [ASYNC | SYNC]")
        .does("Deletes everything in the database.")
        .note("One deletion of the whole range. ASYNC and SYNC are the same.")
        .runs(Handler::Write(keys::flushdb))
        .marked(&["dangerous"]),
    Spec::new(Group::Generic, "keys", 2, NO_KEYS, "1.0.0")
        .syntax("KEYS pattern")
        .does("Gives the keys that match a glob pattern.")
        .note("In order. Only keys that begin as the pattern does are looked at.")
        .runs(Handler::Read(keys::keys))
        .marked(&["dangerous"]),
    Spec::new(Group::Generic, "move", 3, ONE_KEY, "1.0.0")
        .syntax("MOVE key db")
        .does("Moves a key to another database if it is not there.")
        .runs(Handler::Write(objects::move_to))
        .fast(),
    Spec::new(Group::Generic, "object", -2, NO_KEYS, "2.2.3")
        .syntax("OBJECT subcommand")
        .does("Commands about how values are kept.")
        .with(OBJECT),
    Spec::new(Group::Generic, "persist", 2, ONE_KEY, "2.2.0")
        .syntax("PERSIST key")
        .does("Makes a key stay.")
        .runs(Handler::Write(keys::persist))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::Generic, "pexpire", -3, ONE_KEY, "2.6.0")
        .syntax("PEXPIRE key milliseconds [NX | XX | GT | LT]")
        .does("Makes a key expire.")
        .runs(Handler::Write(keys::pexpire))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::Generic, "pexpireat", -3, ONE_KEY, "2.6.0")
        .syntax("PEXPIREAT key unix-milliseconds [NX | XX | GT | LT]")
        .does("Makes a key expire at a time.")
        .runs(Handler::Write(keys::pexpireat))
        .fast()
        .marked(&["blind"]),
    Spec::new(Group::Generic, "pexpiretime", 2, ONE_KEY, "7.0.0")
        .syntax("PEXPIRETIME key")
        .does("Gives when a key expires, in Unix milliseconds; -1 never, -2 not there.")
        .runs(Handler::Read(keys::pexpiretime))
        .fast(),
    Spec::new(Group::Generic, "pttl", 2, ONE_KEY, "2.6.0")
        .syntax("PTTL key")
        .does("Gives how many milliseconds a key still has; -1 never expires, -2 not there.")
        .runs(Handler::Read(keys::pttl))
        .fast(),
    Spec::new(Group::Generic, "randomkey", 1, NO_KEYS, "1.0.0")
        .syntax("RANDOMKEY")
        .does("Gives some key, or null.")
        .note("Every key may be given, but not each as often: the way goes down a tree of prefixes.")
        .runs(Handler::Read(objects::randomkey)),
    Spec::new(Group::Generic, "rename", 3, TWO_KEYS, "1.0.0")
        .syntax("RENAME key newkey")
        .does("Moves a value to another key, with its expiry.")
        .runs(Handler::Write(keys::rename)),
    Spec::new(Group::Generic, "renamenx", 3, TWO_KEYS, "1.0.0")
        .syntax("RENAMENX key newkey")
        .does("Moves a value to another key if nothing is there.")
        .runs(Handler::Write(keys::renamenx))
        .fast(),
    Spec::new(Group::Generic, "restore", -4, ONE_KEY, "2.6.0")
        .syntax("RESTORE key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]")
        .does("Sets a value that DUMP gave, here or there.")
        .note("Strings, up to RDB format 12 and compressed ones, too. IDLETIME and FREQ have no effect.")
        .runs(Handler::Write(objects::restore))
        .marked(&["blind", "dangerous"]),
    Spec::new(Group::Generic, "scan", -2, NO_KEYS, "2.8.0")
        .syntax("SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]")
        .does("Gives some keys, and a cursor for the next ones; 0 begins, and ends.")
        .note(
            "A key that is there all the while is given. Keys come in order. A cursor \
            is good for itself and the step before it; after a restart, or once 16,384 \
            younger iterations were begun, it is refused as invalid.",
        )
        .runs(Handler::Read(keys::scan)),
    Spec::new(Group::Generic, "sort", -2, ONE_KEY, "1.0.0")
        .syntax("SORT key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] [STORE destination]")
        .does("Sorts a list or a set.")
        .note("There are neither yet: a string is the error WRONGTYPE, nothing is the empty list.")
        .runs(Handler::Write(objects::sort))
        .marked(&["dangerous"]),
    Spec::new(Group::Generic, "sort_ro", -2, ONE_KEY, "7.0.0")
        .syntax("SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]")
        .does("As SORT, without STORE.")
        .runs(Handler::Read(objects::sort))
        .marked(&["dangerous"]),
    Spec::new(Group::Generic, "touch", -2, ALL_KEYS, "3.2.1")
        .syntax("TOUCH key [key ...]")
        .does("Gives how many of the keys are there.")
        .note("Nothing is evicted, so there is no time of last use to change.")
        .runs(Handler::Read(keys::exists))
        .fast(),
    Spec::new(Group::Generic, "ttl", 2, ONE_KEY, "1.0.0")
        .syntax("TTL key")
        .does("Gives how many seconds a key still has; -1 never expires, -2 not there.")
        .runs(Handler::Read(keys::ttl))
        .fast(),
    Spec::new(Group::Generic, "type", 2, ONE_KEY, "1.0.0")
        .syntax("TYPE key")
        .does("Gives `string`, or `none`.")
        .note("Every value is a string so far.")
        .runs(Handler::Read(keys::kind))
        .fast(),
    Spec::new(Group::Generic, "unlink", -2, ALL_KEYS, "4.0.0")
        .syntax("UNLINK key [key ...]")
        .does("Deletes keys; gives how many were there.")
        .runs(Handler::Write(keys::del))
        .marked(&["blind"]),
    Spec::new(Group::Generic, "wait", 3, NO_KEYS, "3.0.0")
        .syntax("WAIT numreplicas timeout")
        .does("Gives 0: there are no replicas.")
        .note("At once, whatever the timeout.")
        .runs(Handler::Plain(operations::wait)),
    Spec::new(Group::Generic, "waitaof", 4, NO_KEYS, "7.2.0")
        .syntax("WAITAOF numlocal numreplicas timeout")
        .does("Answers `1, 0` once everything that this connection wrote or saw is on stable storage.")
        .note("Whatever durability it was committed with. It waits as long as that takes: there is no timeout.")
        .runs(Handler::Control(operations::waitaof)),
];

static OBJECT: &[Spec] = &[
    Spec::new(Group::Generic, "encoding", 3, SECOND, "2.2.3")
        .syntax("OBJECT ENCODING key")
        .does("Gives `int`, `embstr` (up to 44 bytes) or `raw`.")
        .note("By the value alone: to Redis a value that APPEND or SETRANGE has made is `raw`.")
        .runs(Handler::Read(objects::encoding)),
    Spec::new(Group::Generic, "freq", 3, SECOND, "4.0.0")
        .syntax("OBJECT FREQ key")
        .does("Refused: nobody counts.")
        .runs(Handler::Read(objects::untracked)),
    Spec::new(Group::Generic, "idletime", 3, SECOND, "2.2.3")
        .syntax("OBJECT IDLETIME key")
        .does("Refused: nobody looks at the clock.")
        .runs(Handler::Read(objects::untracked)),
    Spec::new(Group::Generic, "refcount", 3, SECOND, "2.2.3")
        .syntax("OBJECT REFCOUNT key")
        .does("Gives 1: no value is shared.")
        .runs(Handler::Read(objects::refcount)),
];
