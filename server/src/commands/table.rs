//! The table itself. Order here is order in the reference.

use super::{
    Group, Handler, Keys, Spec, connection, keys, keyspaces, server, strings, transactions,
};

const NO_KEYS: Keys = Keys { first: 0, last: 0, step: 0 };
const ONE_KEY: Keys = Keys { first: 1, last: 1, step: 1 };
const TWO_KEYS: Keys = Keys { first: 1, last: 2, step: 1 };
const ALL_KEYS: Keys = Keys { first: 1, last: -1, step: 1 };
const EVERY_OTHER: Keys = Keys { first: 1, last: -1, step: 2 };

/// Ours, since its first release.
const OURS: &str = "isolith 0.1.0";

impl Spec {
    const fn new(
        group: Group,
        name: &'static str,
        arity: i8,
        keys: Keys,
        since: &'static str,
    ) -> Spec {
        Spec {
            name,
            arity,
            keys,
            flags: &[],
            group,
            since,
            syntax: "",
            summary: "",
            note: "",
            handler: Handler::Container,
            subcommands: &[],
        }
    }

    const fn syntax(mut self, syntax: &'static str) -> Spec {
        self.syntax = syntax;
        self
    }

    const fn does(mut self, summary: &'static str) -> Spec {
        self.summary = summary;
        self
    }

    const fn note(mut self, note: &'static str) -> Spec {
        self.note = note;
        self
    }

    const fn runs(mut self, handler: Handler) -> Spec {
        self.handler = handler;
        self
    }

    const fn fast(mut self) -> Spec {
        self.flags = &["fast"];
        self
    }

    const fn with(mut self, subcommands: &'static [Spec]) -> Spec {
        self.subcommands = subcommands;
        self
    }
}

/// Every command, in groups.
pub(crate) static TABLE: &[Spec] = &[
    Spec::new(Group::Connection, "auth", -2, NO_KEYS, "1.0.0")
        .syntax("AUTH [username] password")
        .does("Proves who the client is.")
        .note(
            "There are no users yet: only `default` exists, and any password is right. \
            The server listens on loopback addresses alone.",
        )
        .runs(Handler::Plain(connection::auth))
        .fast(),
    Spec::new(Group::Connection, "client", -2, NO_KEYS, "2.4.0")
        .syntax("CLIENT subcommand")
        .does("Commands about connections.")
        .with(CLIENT),
    Spec::new(Group::Connection, "echo", 2, NO_KEYS, "1.0.0")
        .syntax("ECHO message")
        .does("Gives the message back.")
        .runs(Handler::Plain(connection::echo))
        .fast(),
    Spec::new(Group::Connection, "hello", -1, NO_KEYS, "6.0.0")
        .syntax("HELLO [protocol [AUTH username password] [SETNAME name]]")
        .does("Chooses RESP2 or RESP3, and tells about the server.")
        .runs(Handler::Plain(connection::hello))
        .fast(),
    Spec::new(Group::Connection, "ping", -1, NO_KEYS, "1.0.0")
        .syntax("PING [message]")
        .does("Answers PONG, or the message.")
        .runs(Handler::Plain(connection::ping))
        .fast(),
    Spec::new(Group::Connection, "quit", -1, NO_KEYS, "1.0.0")
        .syntax("QUIT")
        .does("Answers what is outstanding and closes the connection.")
        .runs(Handler::Control(connection::quit))
        .fast(),
    Spec::new(Group::Connection, "reset", 1, NO_KEYS, "6.2.0")
        .syntax("RESET")
        .does(
            "Makes the connection as good as new: its transaction, watched keys, \
            database, protocol and name.",
        )
        .runs(Handler::Control(connection::reset))
        .fast(),
    Spec::new(Group::Connection, "select", 2, NO_KEYS, "1.0.0")
        .syntax("SELECT index")
        .does("Chooses the database, 0 to 15.")
        .note("Database n is the keyspace `dbN` of the library.")
        .runs(Handler::Plain(connection::select))
        .fast(),
    Spec::new(Group::String, "append", 3, ONE_KEY, "2.0.0")
        .syntax("APPEND key value")
        .does("Puts the value behind the one that is there; gives the new length.")
        .runs(Handler::Write(strings::append))
        .fast(),
    Spec::new(Group::String, "decr", 2, ONE_KEY, "1.0.0")
        .syntax("DECR key")
        .does("Takes one from an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::decr))
        .fast(),
    Spec::new(Group::String, "decrby", 3, ONE_KEY, "1.0.0")
        .syntax("DECRBY key decrement")
        .does("Takes a number from an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::decrby))
        .fast(),
    Spec::new(Group::String, "get", 2, ONE_KEY, "1.0.0")
        .syntax("GET key")
        .does("Gives the value, or null.")
        .runs(Handler::Read(strings::get))
        .fast(),
    Spec::new(Group::String, "getdel", 2, ONE_KEY, "6.2.0")
        .syntax("GETDEL key")
        .does("Gives the value and deletes the key.")
        .runs(Handler::Write(strings::getdel))
        .fast(),
    Spec::new(Group::String, "getex", -2, ONE_KEY, "6.2.0")
        .syntax(
            "GETEX key [EX seconds | PX milliseconds | EXAT unix-seconds | PXAT \
            unix-milliseconds | PERSIST]",
        )
        .does("Gives the value and changes when it expires.")
        .runs(Handler::Write(strings::getex))
        .fast(),
    Spec::new(Group::String, "getrange", 4, ONE_KEY, "2.4.0")
        .syntax("GETRANGE key start end")
        .does(
            "Gives a part of the value, both ends included; negative places count from \
            its end.",
        )
        .runs(Handler::Read(strings::getrange)),
    Spec::new(Group::String, "getset", 3, ONE_KEY, "1.0.0")
        .syntax("GETSET key value")
        .does("Sets the value and gives the one before.")
        .runs(Handler::Write(strings::getset))
        .fast(),
    Spec::new(Group::String, "incr", 2, ONE_KEY, "1.0.0")
        .syntax("INCR key")
        .does("Adds one to an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::incr))
        .fast(),
    Spec::new(Group::String, "incrby", 3, ONE_KEY, "1.0.0")
        .syntax("INCRBY key increment")
        .does("Adds a number to an integer (0 if it is not there); gives the result.")
        .runs(Handler::Write(strings::incrby))
        .fast(),
    Spec::new(Group::String, "mget", -2, ALL_KEYS, "1.0.0")
        .syntax("MGET key [key ...]")
        .does("Gives the values of several keys as of one moment.")
        .runs(Handler::Read(strings::mget))
        .fast(),
    Spec::new(Group::String, "mset", -3, EVERY_OTHER, "1.0.1")
        .syntax("MSET key value [key value ...]")
        .does("Sets several keys at one moment.")
        .runs(Handler::Write(strings::mset)),
    Spec::new(Group::String, "msetnx", -3, EVERY_OTHER, "1.0.1")
        .syntax("MSETNX key value [key value ...]")
        .does("Sets several keys if none of them is there.")
        .runs(Handler::Write(strings::msetnx)),
    Spec::new(Group::String, "psetex", 4, ONE_KEY, "2.6.0")
        .syntax("PSETEX key milliseconds value")
        .does("Sets a value that expires.")
        .runs(Handler::Write(strings::psetex)),
    Spec::new(Group::String, "set", -3, ONE_KEY, "1.0.0")
        .syntax(
            "SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT \
            unix-seconds | PXAT unix-milliseconds | KEEPTTL]",
        )
        .does(
            "Sets the value: only if it is not there (NX) or only if it is (XX), giving \
            the one before (GET), with an expiry or keeping the one it has.",
        )
        .runs(Handler::Write(strings::set)),
    Spec::new(Group::String, "setex", 4, ONE_KEY, "2.0.0")
        .syntax("SETEX key seconds value")
        .does("Sets a value that expires.")
        .runs(Handler::Write(strings::setex)),
    Spec::new(Group::String, "setnx", 3, ONE_KEY, "1.0.0")
        .syntax("SETNX key value")
        .does("Sets the value if it is not there.")
        .runs(Handler::Write(strings::setnx))
        .fast(),
    Spec::new(Group::String, "setrange", 4, ONE_KEY, "2.2.0")
        .syntax("SETRANGE key offset value")
        .does(
            "Overwrites a part of the value, filling up with zero bytes; gives the \
            length.",
        )
        .runs(Handler::Write(strings::setrange)),
    Spec::new(Group::String, "strlen", 2, ONE_KEY, "2.2.0")
        .syntax("STRLEN key")
        .does("Gives the length of the value.")
        .runs(Handler::Read(strings::strlen))
        .fast(),
    Spec::new(Group::Generic, "dbsize", 1, NO_KEYS, "1.0.0")
        .syntax("DBSIZE")
        .does("Gives the number of keys.")
        .note("Counts them: exact, and linear in the number of keys.")
        .runs(Handler::Read(keys::dbsize)),
    Spec::new(Group::Generic, "del", -2, ALL_KEYS, "1.0.0")
        .syntax("DEL key [key ...]")
        .does("Deletes keys; gives how many were there.")
        .runs(Handler::Write(keys::del)),
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
        .fast(),
    Spec::new(Group::Generic, "expireat", -3, ONE_KEY, "1.2.0")
        .syntax("EXPIREAT key unix-seconds [NX | XX | GT | LT]")
        .does("Makes a key expire at a time.")
        .runs(Handler::Write(keys::expireat))
        .fast(),
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
        .runs(Handler::Write(keys::flushall)),
    Spec::new(Group::Generic, "flushdb", -1, NO_KEYS, "1.0.0")
        .syntax("FLUSHDB [ASYNC | SYNC]")
        .does("Deletes everything in the database.")
        .note("One deletion of the whole range. ASYNC and SYNC are the same.")
        .runs(Handler::Write(keys::flushdb)),
    Spec::new(Group::Generic, "keys", 2, NO_KEYS, "1.0.0")
        .syntax("KEYS pattern")
        .does("Gives the keys that match a glob pattern.")
        .note("In order. Only keys that begin as the pattern does are looked at.")
        .runs(Handler::Read(keys::keys)),
    Spec::new(Group::Generic, "persist", 2, ONE_KEY, "2.2.0")
        .syntax("PERSIST key")
        .does("Makes a key stay.")
        .runs(Handler::Write(keys::persist))
        .fast(),
    Spec::new(Group::Generic, "pexpire", -3, ONE_KEY, "2.6.0")
        .syntax("PEXPIRE key milliseconds [NX | XX | GT | LT]")
        .does("Makes a key expire.")
        .runs(Handler::Write(keys::pexpire))
        .fast(),
    Spec::new(Group::Generic, "pexpireat", -3, ONE_KEY, "2.6.0")
        .syntax("PEXPIREAT key unix-milliseconds [NX | XX | GT | LT]")
        .does("Makes a key expire at a time.")
        .runs(Handler::Write(keys::pexpireat))
        .fast(),
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
    Spec::new(Group::Generic, "rename", 3, TWO_KEYS, "1.0.0")
        .syntax("RENAME key newkey")
        .does("Moves a value to another key, with its expiry.")
        .runs(Handler::Write(keys::rename)),
    Spec::new(Group::Generic, "renamenx", 3, TWO_KEYS, "1.0.0")
        .syntax("RENAMENX key newkey")
        .does("Moves a value to another key if nothing is there.")
        .runs(Handler::Write(keys::renamenx))
        .fast(),
    Spec::new(Group::Generic, "scan", -2, NO_KEYS, "2.8.0")
        .syntax("SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]")
        .does("Gives some keys, and a cursor for the next ones; 0 begins, and ends.")
        .note(
            "A key that is there all the while is given. Keys come in order. A cursor \
            is good for itself and the step before it; after a restart, or once 16,384 \
            younger iterations were begun, it is refused as invalid.",
        )
        .runs(Handler::Read(keys::scan)),
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
        .runs(Handler::Write(keys::del)),
    Spec::new(Group::Transactions, "discard", 1, NO_KEYS, "2.0.0")
        .syntax("DISCARD")
        .does("Forgets what MULTI has queued, and what is watched.")
        .runs(Handler::Control(transactions::discard))
        .fast(),
    Spec::new(Group::Transactions, "exec", 1, NO_KEYS, "1.2.0")
        .syntax("EXEC")
        .does("Runs what MULTI has queued.")
        .note(
            "One serializable transaction. A command's error does not undo the others; \
            a conflict is retried in the server; null means that a watched key has \
            changed (written, deleted, expired; the same value again counts).",
        )
        .runs(Handler::Control(transactions::exec)),
    Spec::new(Group::Transactions, "multi", 1, NO_KEYS, "1.2.0")
        .syntax("MULTI")
        .does("Queues the commands that follow.")
        .runs(Handler::Control(transactions::multi))
        .fast(),
    Spec::new(Group::Transactions, "unwatch", 1, NO_KEYS, "2.2.0")
        .syntax("UNWATCH")
        .does("Watches nothing any more.")
        .runs(Handler::Plain(transactions::unwatch))
        .fast(),
    Spec::new(Group::Transactions, "watch", -2, ALL_KEYS, "2.2.0")
        .syntax("WATCH key [key ...]")
        .does("Makes the next EXEC do nothing if one of the keys changes before.")
        .note("FLUSHDB and FLUSHALL count as a change of a key that was not there, too.")
        .runs(Handler::Control(transactions::watch))
        .fast(),
    Spec::new(Group::Isolith, "begin", -1, NO_KEYS, OURS)
        .syntax(
            "BEGIN [ISOLATION READ-UNCOMMITTED | READ-COMMITTED | REPEATABLE-READ | SNAPSHOT | \
            SERIALIZABLE] [CONCURRENCY OPTIMISTIC | LOCKING | AUTO] [DEADLOCK WOUND-WAIT | \
            WAIT-DIE | NO-WAIT | DETECT] [DURABILITY SYNC | OS | BUFFERED] [READ ONLY [AT \
            unix-milliseconds]] [TIMEOUT milliseconds] [LOCKTIMEOUT milliseconds] [AGE age]",
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
            far as `--retention` keeps it. An idle transaction is rolled back after a time limit \
            (`--transaction-idle`); so is that of a lost connection.",
        )
        .runs(Handler::Control(transactions::begin)),
    Spec::new(Group::Isolith, "commit", 1, NO_KEYS, OURS)
        .syntax("COMMIT")
        .does("Commits the transaction; answers when it is as durable as was asked.")
        .note(
            "`-CONFLICT` means that nothing was done and that another try may succeed; \
            `-COMMITUNKNOWN` that the log failed, and that only a restart will tell.",
        )
        .runs(Handler::Control(transactions::commit)),
    Spec::new(Group::Isolith, "delrange", 3, NO_KEYS, OURS)
        .syntax("DELRANGE start end")
        .does("Deletes the keys from start (included) to end (excluded).")
        .note(
            "One deletion of the whole range, whatever it holds: nothing is read, so that it does not \
            tell how many keys there were. Bounds are those of RANGE.",
        )
        .runs(Handler::Write(keys::delete_range)),
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
        .runs(Handler::Inside(transactions::lock_range)),
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
        .runs(Handler::Write(strings::merge)),
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
        .runs(Handler::Read(keys::range)),
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
    Spec::new(Group::Server, "time", 1, NO_KEYS, "2.6.0")
        .syntax("TIME")
        .does("Gives the server's time: seconds and microseconds.")
        .note("To the millisecond.")
        .runs(Handler::Plain(server::time))
        .fast(),
    Spec::new(Group::Scripting, "function", -2, NO_KEYS, "7.0.0")
        .syntax("FUNCTION subcommand")
        .does("Commands about functions.")
        .with(FUNCTION),
];

static CLIENT: &[Spec] = &[
    Spec::new(Group::Connection, "getname", 2, NO_KEYS, "2.6.9")
        .syntax("CLIENT GETNAME")
        .does("Gives the connection's name.")
        .runs(Handler::Plain(connection::client_getname)),
    Spec::new(Group::Connection, "id", 2, NO_KEYS, "5.0.0")
        .syntax("CLIENT ID")
        .does("Gives the connection's number.")
        .runs(Handler::Plain(connection::client_id))
        .fast(),
    Spec::new(Group::Connection, "info", 2, NO_KEYS, "6.2.0")
        .syntax("CLIENT INFO")
        .does("Tells about the connection.")
        .runs(Handler::Plain(connection::client_info)),
    Spec::new(Group::Connection, "kill", -3, NO_KEYS, "2.4.0")
        .syntax(
            "CLIENT KILL address | [ID id] [ADDR address] [LADDR address] [SKIPME YES | \
            NO]",
        )
        .does("Closes connections.")
        .runs(Handler::Plain(connection::client_kill)),
    Spec::new(Group::Connection, "list", -2, NO_KEYS, "2.4.0")
        .syntax("CLIENT LIST [TYPE type] [ID id [id ...]]")
        .does("Tells about all connections.")
        .note(
            "`cmd` is the last command that was not on data; the flag `T` marks a BEGIN \
            transaction, `b` a command that waits for a lock; `tx-age` is the age of the transaction, 0 \
            if there is none.",
        )
        .runs(Handler::Plain(connection::client_list)),
    Spec::new(Group::Connection, "no-evict", 3, NO_KEYS, "7.0.0")
        .syntax("CLIENT NO-EVICT ON | OFF")
        .does("Accepted without effect.")
        .note("Clients are never evicted.")
        .runs(Handler::Plain(connection::client_switch)),
    Spec::new(Group::Connection, "no-touch", 3, NO_KEYS, "7.2.0")
        .syntax("CLIENT NO-TOUCH ON | OFF")
        .does("Accepted without effect.")
        .note("There is no time of last use.")
        .runs(Handler::Plain(connection::client_switch)),
    Spec::new(Group::Connection, "setinfo", 4, NO_KEYS, "7.2.0")
        .syntax("CLIENT SETINFO LIB-NAME name | LIB-VER version")
        .does("Tells the server which library the client uses.")
        .runs(Handler::Plain(connection::client_setinfo))
        .fast(),
    Spec::new(Group::Connection, "setname", 3, NO_KEYS, "2.6.9")
        .syntax("CLIENT SETNAME name")
        .does("Names the connection.")
        .runs(Handler::Plain(connection::client_setname))
        .fast(),
    Spec::new(Group::Isolith, "transaction", -2, NO_KEYS, OURS)
        .syntax("CLIENT TRANSACTION [RESET | term [term ...]]")
        .does("Sets what this connection's transactions are begun with, in the words of BEGIN.")
        .note(
            "Without any, tells what they are. What BEGIN says itself goes first; what neither says is \
            the server's default (CONFIG SET transaction-isolation, …). RESET forgets them.",
        )
        .runs(Handler::Plain(connection::client_transaction)),
    Spec::new(Group::Isolith, "waiting", -2, NO_KEYS, OURS)
        .syntax("CLIENT WAITING [id [id ...]]")
        .does(
            "Gives the connections whose command waits for a lock, each with the ages of the \
            transactions that stand in its way.",
        )
        .note(
            "A map from the connection's number (CLIENT ID) to an array of ages (`tx-age` in CLIENT \
            LIST), as of when it began to wait. Once a COMMIT or ROLLBACK is answered, nobody is given here \
            who could go on because of it.",
        )
        .runs(Handler::Plain(connection::client_waiting)),
];

static KEYSPACE: &[Spec] = &[
    Spec::new(Group::Isolith, "create", -3, NO_KEYS, OURS)
        .syntax("KEYSPACE CREATE name [option value ...]")
        .does("Makes a keyspace, with the options that are given and the defaults for others.")
        .note(
            "Options: `COMPRESSION` none, lz4 or zstd, with a level as `zstd:9`; `FILTER` bits for a key, \
            0 for no filter; `PREFIX` none, `length:` and bytes, or `upto:` and a character, the ends of \
            keys' prefixes; `TTL` milliseconds that a value lives that is set without an expiry, 0 for ever; \
            `MERGE` none or the operator of merges that name none; `BLOCK` bytes. One that is there with \
            the same options is fine; with others it is an error. It is at once, also within MULTI or BEGIN, \
            and its core waits for one sync. The commands on data reach `db0` to `db15` alone.",
        )
        .runs(Handler::Plain(keyspaces::create)),
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
        .runs(Handler::Plain(keyspaces::set)),
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
        .runs(Handler::Plain(server::config_get)),
    Spec::new(Group::Server, "resetstat", 2, NO_KEYS, "2.0.0")
        .syntax("CONFIG RESETSTAT")
        .does("Accepted without effect.")
        .runs(Handler::Plain(server::nothing)),
    Spec::new(Group::Server, "set", -4, NO_KEYS, "2.0.0")
        .syntax("CONFIG SET parameter value [parameter value ...]")
        .does("Sets what transactions are begun with that do not choose.")
        .note(
            "`transaction-isolation`, `transaction-concurrency` (like `locking:wait-die`), and in \
            milliseconds, 0 for no limit, `lock-timeout`, `transaction-timeout` and \
            `idle-transaction-timeout`: for transactions that begin from then on. Parameters of Redis \
            that mean nothing here are accepted without effect, `appendfsync` among them: durability is \
            chosen at start and by BEGIN. What does mean something is refused.",
        )
        .runs(Handler::Plain(server::config_set)),
];

static FUNCTION: &[Spec] = &[Spec::new(Group::Scripting, "flush", -2, NO_KEYS, "7.0.0")
    .syntax("FUNCTION FLUSH [ASYNC | SYNC]")
    .does("Accepted without effect.")
    .note("There are no functions. For test suites that begin with it.")
    .runs(Handler::Plain(server::nothing))];
