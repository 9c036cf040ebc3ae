//! What Redis does not have: their part of the table. Order here is order in the reference.

use super::{NO_KEYS, ONE_KEY, OURS};
use crate::commands::{Group, Handler, Spec, keys, keyspaces, past, server, strings, transactions};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::Isolith, "backup", 2, NO_KEYS, OURS)
        .syntax("BACKUP name")
        .does("Begins a backup of the whole database, and answers at once.")
        .note(
            "It goes to a directory of that name below the server's `--backup-dir`, which must not be \
            there or be empty; without that option it is refused. A name has letters, digits, `.`, `_` and \
            `-`, so that it leads nowhere else. It has every commit acknowledged before the call, up to \
            one timestamp, while clients read and write on. One is made at a time: INFO persistence says \
            when it is done (`backup_in_progress`, `last_backup_status`).",
        )
        .runs(Handler::Plain(server::backup))
        .marked(&["admin", "dangerous"]),
    Spec::new(Group::Isolith, "begin", -1, NO_KEYS, OURS)
        .syntax(
            "BEGIN [ISOLATION READ-UNCOMMITTED | READ-COMMITTED | REPEATABLE-READ | SNAPSHOT | \
            SERIALIZABLE] [CONCURRENCY OPTIMISTIC | LOCKING | AUTO] [DEADLOCK WOUND-WAIT | \
            WAIT-DIE | NO-WAIT | DETECT] [DURABILITY SYNC | OS | BUFFERED] [READ ONLY [AT \
            unix-milliseconds | SNAPSHOT id]] [TIMEOUT milliseconds] [LOCKTIMEOUT milliseconds] [AGE age]",
        )
        .does(
            "Begins an interactive transaction: the commands that follow run within it, \
            see its writes, and answer at once, or when the locks that they need are free.",
        )
        .note(
            "What it does not say is as CLIENT TRANSACTION or the server has it: serializable and \
            optimistic at first. READ-UNCOMMITTED is READ-COMMITTED. DEADLOCK is for LOCKING, and \
            implies it; `LOCKING:WAIT-DIE` says both. TIMEOUT ends the whole transaction, and with it \
            each wait for a lock; LOCKTIMEOUT ends a wait alone; 0 is no end. Conflicts and deadlocks are \
            the client's to retry: their errors carry `age=…` for the AGE of the next try. Where it is \
            READ-COMMITTED and OPTIMISTIC, two that change one value by what it is (INCR, APPEND, …) may \
            both commit, and one change is lost, unless GETFORUPDATE comes before it. READ ONLY \
            never waits and never conflicts. AT shows what was acknowledged by then, as \
            far as `--retention` keeps it; SNAPSHOT what SNAPSHOT OPEN has kept. An idle transaction is rolled back after a time limit \
            (`--transaction-idle`); so is that of a lost connection.",
        )
        .runs(Handler::Control(transactions::begin)),
    Spec::new(Group::Isolith, "changes", -3, NO_KEYS, OURS)
        .syntax("CHANGES FROM timestamp | NOW [COUNT count]")
        .does("Gives what the commits after a timestamp changed, in their order, and the timestamp to go on from.")
        .note(
            "Only what is on stable storage; 100 commits if COUNT does not say, and none beyond the first MiB. \
            `[timestamp, [[timestamp, [change ...]] ...]]`; a change is `put keyspace key value expires-at`, \
            `delete keyspace key`, `delete-range keyspace start end` (`[a` with, `(a` without the key, `-` and `+` \
            open), `merge keyspace key operator operand`, `created`, `dropped` or `loaded keyspace`. NOW gives \
            nothing but where to begin. As long as a connection goes on from where it was, the log keeps what it \
            has not been given; what is not kept any more is an error, never a gap. For users with all keys.",
        )
        .runs(Handler::Plain(past::changes))
        .marked(&["admin", "dangerous", "ranges", "away"]),
    Spec::new(Group::Isolith, "commit", 1, NO_KEYS, OURS)
        .syntax("COMMIT")
        .does("Commits the transaction; answers when it is as durable as was asked.")
        .note(
            "`-CONFLICT` means that nothing was done and that another try may succeed; \
            `-COMMITUNKNOWN` that the log failed, and that only a restart will tell.",
        )
        .runs(Handler::Control(transactions::commit))
        .marked(&["commits"]),
    Spec::new(Group::Isolith, "delrange", 3, NO_KEYS, OURS)
        .syntax("DELRANGE start end")
        .does("Deletes the keys from start (included) to end (excluded).")
        .note(
            "One deletion of the whole range, whatever it holds: nothing is read, so that it does not \
            tell how many keys there were. Bounds are those of RANGE.",
        )
        .runs(Handler::Write(keys::delete_range))
        .marked(&["ranges"]),
    Spec::new(Group::Isolith, "getforshare", 2, ONE_KEY, OURS)
        .syntax("GETFORSHARE key")
        .does("Gives the value, or null; nobody changes the key before the commit.")
        .note(
            "Within BEGIN, at every isolation level: by a shared lock, or, where the transaction is \
            optimistic, by validation at the commit if it writes anything.",
        )
        .runs(Handler::Inside(transactions::get_for_share)),
    Spec::new(Group::Isolith, "getforupdate", 2, ONE_KEY, OURS)
        .syntax("GETFORUPDATE key")
        .does(
            "Gives the value, or null, of a key that is going to be changed: of two transactions that \
            do so one waits, or is refused.",
        )
        .note(
            "Within BEGIN, at every isolation level: by an update lock, or, where the transaction is \
            optimistic, by validation at the commit, which then counts as a change of the key.",
        )
        .runs(Handler::Inside(transactions::get_for_update)),
    Spec::new(Group::Isolith, "keyspace", -2, NO_KEYS, OURS)
        .syntax("KEYSPACE subcommand")
        .does("Commands about keyspaces.")
        .with(KEYSPACE),
    Spec::new(Group::Isolith, "lockrange", -3, NO_KEYS, OURS)
        .syntax("LOCKRANGE start end [SHARED | EXCLUSIVE]")
        .does("Locks the keys from start to end, there or not, until the transaction ends.")
        .note(
            "Within BEGIN, and a lock whatever its CONCURRENCY. Bounds are those of RANGE. SHARED \
            (if nothing is said) keeps others from changing them, EXCLUSIVE from locking them, too.",
        )
        .runs(Handler::Inside(transactions::lock_range))
        .marked(&["ranges"]),
    Spec::new(Group::Isolith, "merge", -4, ONE_KEY, OURS)
        .syntax("MERGE key operator operand [member ...]")
        .does(
            "Changes a value without reading it: adds to it, appends to it, …; such transactions do not \
            disturb each other.",
        )
        .note(
            "Operators: `add-i64` and `max-i64` (decimal integers; 0 and nothing where there is no \
            value), `append`, `set-union` (the operands are members; the value is a set as the library \
            encodes it). At every isolation level a transaction that merges into a key and does not read \
            it conflicts with nobody on its account; it waits, at the commit, for who holds a lock on it. \
            An operand that is none is refused; a value that cannot be merged into, like text by \
            `add-i64`, makes reads of the key an error, until it is set or deleted.",
        )
        .runs(Handler::Write(strings::merge))
        .marked(&["blind"]),
    Spec::new(Group::Isolith, "range", -3, NO_KEYS, OURS)
        .syntax("RANGE start end [LIMIT count] [REV]")
        .does(
            "Gives the keys from start (included) to end (excluded) with their values, \
            in the order of their bytes.",
        )
        .note(
            "`-` as start and `+` as end leave that end open. REV gives the same keys \
            in descending order; start is the smaller end all the same. RESP2: key, \
            value, key, value; RESP3: an array of pairs. To page, go on from the last \
            key with a zero byte appended.",
        )
        .runs(Handler::Read(keys::range))
        .marked(&["ranges"]),
    Spec::new(Group::Isolith, "rollback", -1, NO_KEYS, OURS)
        .syntax("ROLLBACK [TO savepoint]")
        .does("Undoes the transaction; with TO, what came after the savepoint.")
        .note(
            "What was read stays read, and what was locked stays locked: rolling back to a savepoint \
            does not make a conflict go away.",
        )
        .runs(Handler::Control(transactions::rollback)),
    Spec::new(Group::Isolith, "savepoint", 2, NO_KEYS, OURS)
        .syntax("SAVEPOINT name")
        .does("Marks a place in the transaction for ROLLBACK TO.")
        .runs(Handler::Control(transactions::savepoint)),
    Spec::new(Group::Isolith, "snapshot", -2, NO_KEYS, OURS)
        .syntax("SNAPSHOT subcommand")
        .does("Commands about snapshots.")
        .with(SNAPSHOT),
];

static SNAPSHOT: &[Spec] = &[
    Spec::new(Group::Isolith, "close", -3, NO_KEYS, OURS)
        .syntax("SNAPSHOT CLOSE id [id ...]")
        .does("Closes snapshots; gives how many there were. Transactions that read at one go on.")
        .runs(Handler::Plain(past::close)),
    Spec::new(Group::Isolith, "list", 2, NO_KEYS, OURS)
        .syntax("SNAPSHOT LIST")
        .does("Gives the snapshots that are open, each with its timestamp and its age in milliseconds.")
        .runs(Handler::Plain(past::list)),
    Spec::new(Group::Isolith, "open", 2, NO_KEYS, OURS)
        .syntax("SNAPSHOT OPEN")
        .does("Keeps the database as it is now; gives the number for BEGIN READ ONLY SNAPSHOT.")
        .note(
            "Any connection may read at it, until somebody closes it, or the server ends, or it is older than \
            `--snapshot-age-max`. It holds what it shows. 1024 at most.",
        )
        .runs(Handler::Plain(past::open)),
];

static KEYSPACE: &[Spec] = &[
    Spec::new(Group::Isolith, "create", -3, NO_KEYS, OURS)
        .syntax("KEYSPACE CREATE name [option value ...]")
        .does("Makes a keyspace, with the options that are given and the defaults for others.")
        .note(
            "Options: `COMPRESSION` none, lz4 or zstd, with a level as `zstd:9`; `FILTER` bits for a key, \
            0 for no filter; `PREFIX` none, `length:` and bytes, or `upto:` and a character, the ends of \
            keys' prefixes; `TTL` milliseconds that a value lives that is set without an expiry, 0 for ever; \
            `MERGE` none or the operator of merges that name none; `BLOCK` bytes; `LARGE` bytes from which on a value is kept apart \
            from its key, 0 for never, or default. One that is there with \
            the same options is fine; with others it is an error. It is at once, also within MULTI or BEGIN. \
            The commands on data reach `db0` to `db15` alone.",
        )
        .runs(Handler::Plain(keyspaces::create))
        .marked(&["admin", "dangerous", "away"]),
    Spec::new(Group::Isolith, "list", 2, NO_KEYS, OURS)
        .syntax("KEYSPACE LIST")
        .does("Gives the names of all keyspaces.")
        .runs(Handler::Plain(keyspaces::list)),
    Spec::new(Group::Isolith, "options", 3, NO_KEYS, OURS)
        .syntax("KEYSPACE OPTIONS name")
        .does("Gives the options of a keyspace, each with its value; null if it is not there.")
        .runs(Handler::Plain(keyspaces::options)),
    Spec::new(Group::Isolith, "set", -5, NO_KEYS, OURS)
        .syntax("KEYSPACE SET name option value [option value ...]")
        .does("Gives a keyspace other options, durably: for what is set, and files that are written, from now on.")
        .note("Others stay as they are. See KEYSPACE CREATE.")
        .runs(Handler::Plain(keyspaces::set))
        .marked(&["admin", "dangerous", "away"]),
];
