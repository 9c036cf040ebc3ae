//! The connection: their part of the table. Order here is order in the reference.

use super::{NO_KEYS, OURS};
use crate::commands::{Group, Handler, Spec, connection, users};

/// The commands of this group.
pub(super) static COMMANDS: &[Spec] = &[
    Spec::new(Group::Connection, "auth", -2, NO_KEYS, "1.0.0")
        .syntax("AUTH [username] password")
        .does("Proves who the client is.")
        .note(
            "Until it is done, a client may only say who it is, if the user `default` has a password; and no \
            more than 10 arguments, 16 KiB and 10 seconds.",
        )
        .runs(Handler::Plain(users::auth))
        .fast()
        .marked(&["no-auth", "secret"]),
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
        .fast()
        .marked(&["no-auth", "secret"]),
    Spec::new(Group::Connection, "ping", -1, NO_KEYS, "1.0.0")
        .syntax("PING [message]")
        .does("Answers PONG, or the message.")
        .runs(Handler::Plain(connection::ping))
        .fast(),
    Spec::new(Group::Connection, "quit", -1, NO_KEYS, "1.0.0")
        .syntax("QUIT")
        .does("Answers what is outstanding and closes the connection.")
        .runs(Handler::Control(connection::quit))
        .fast()
        .marked(&["no-auth"]),
    Spec::new(Group::Connection, "reset", 1, NO_KEYS, "6.2.0")
        .syntax("RESET")
        .does(
            "Makes the connection as good as new: its transaction, watched keys, \
            database, protocol and name.",
        )
        .runs(Handler::Control(connection::reset))
        .fast()
        .marked(&["no-auth"]),
    Spec::new(Group::Connection, "select", 2, NO_KEYS, "1.0.0")
        .syntax("SELECT index")
        .does("Chooses the database, 0 to 15.")
        .note("Database n is the keyspace `dbN` of the library.")
        .runs(Handler::Plain(connection::select))
        .fast(),
];

static CLIENT: &[Spec] = &[
    Spec::new(Group::Connection, "getname", 2, NO_KEYS, "2.6.9")
        .syntax("CLIENT GETNAME")
        .does("Gives the connection's name.")
        .runs(Handler::Plain(connection::client_getname))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "getredir", 2, NO_KEYS, "6.0.0")
        .syntax("CLIENT GETREDIR")
        .does("Gives -1: nothing is tracked.")
        .runs(Handler::Plain(connection::client_getredir))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "id", 2, NO_KEYS, "5.0.0")
        .syntax("CLIENT ID")
        .does("Gives the connection's number.")
        .runs(Handler::Plain(connection::client_id))
        .fast()
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "info", 2, NO_KEYS, "6.2.0")
        .syntax("CLIENT INFO")
        .does("Tells about the connection.")
        .runs(Handler::Plain(connection::client_info))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "kill", -3, NO_KEYS, "2.4.0")
        .syntax(
            "CLIENT KILL address | [ID id] [TYPE NORMAL | MASTER | REPLICA | PUBSUB] [USER name] \
            [ADDR address] [LADDR address] [SKIPME YES | NO]",
        )
        .does("Closes connections.")
        .runs(Handler::Plain(connection::client_kill))
        .marked(&["admin", "dangerous", "unpausable"]),
    Spec::new(Group::Connection, "list", -2, NO_KEYS, "2.4.0")
        .syntax("CLIENT LIST [TYPE type] [ID id [id ...]]")
        .does("Tells about all connections.")
        .note(
            "`cmd` is the last command that was not on data; the flag `T` marks a BEGIN \
            transaction, `b` a command that waits for a lock; `tx-age` is the age of the transaction, 0 \
            if there is none.",
        )
        .runs(Handler::Plain(connection::client_list))
        .marked(&["admin", "dangerous", "unpausable"]),
    Spec::new(Group::Connection, "no-evict", 3, NO_KEYS, "7.0.0")
        .syntax("CLIENT NO-EVICT ON | OFF")
        .does("Accepted without effect.")
        .note("Clients are never evicted.")
        .runs(Handler::Plain(connection::client_switch))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "no-touch", 3, NO_KEYS, "7.2.0")
        .syntax("CLIENT NO-TOUCH ON | OFF")
        .does("Accepted without effect.")
        .note("There is no time of last use.")
        .runs(Handler::Plain(connection::client_switch))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "pause", -3, NO_KEYS, "3.0.0")
        .syntax("CLIENT PAUSE milliseconds [WRITE | ALL]")
        .does("Makes commands wait, those that write or all.")
        .note("CLIENT itself is never paused. EXEC and COMMIT count as writing.")
        .runs(Handler::Plain(connection::client_pause))
        .marked(&["admin", "dangerous", "unpausable"]),
    Spec::new(Group::Connection, "reply", 3, NO_KEYS, "3.2.0")
        .syntax("CLIENT REPLY ON | OFF | SKIP")
        .does("Sends replies, none, or none to the next command.")
        .runs(Handler::Plain(connection::client_reply))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "setinfo", 4, NO_KEYS, "7.2.0")
        .syntax("CLIENT SETINFO LIB-NAME name | LIB-VER version")
        .does("Tells the server which library the client uses.")
        .runs(Handler::Plain(connection::client_setinfo))
        .fast()
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "setname", 3, NO_KEYS, "2.6.9")
        .syntax("CLIENT SETNAME name")
        .does("Names the connection.")
        .runs(Handler::Plain(connection::client_setname))
        .fast()
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "tracking", -3, NO_KEYS, "6.0.0")
        .syntax("CLIENT TRACKING ON | OFF [option ...]")
        .does("Refused, but for OFF: nobody is told of keys that change.")
        .runs(Handler::Plain(connection::client_tracking))
        .marked(&["unpausable"]),
    Spec::new(Group::Isolith, "transaction", -2, NO_KEYS, OURS)
        .syntax("CLIENT TRANSACTION [RESET | term [term ...]]")
        .does("Sets what this connection's transactions are begun with, in the words of BEGIN.")
        .note(
            "Without any, tells what they are. What BEGIN says itself goes first; what neither says is \
            the server's default (CONFIG SET transaction-isolation, …). RESET forgets them.",
        )
        .runs(Handler::Plain(connection::client_transaction))
        .marked(&["unpausable"]),
    Spec::new(Group::Connection, "unpause", 2, NO_KEYS, "6.2.0")
        .syntax("CLIENT UNPAUSE")
        .does("Ends a pause.")
        .runs(Handler::Plain(connection::client_unpause))
        .marked(&["admin", "dangerous", "unpausable"]),
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
        .runs(Handler::Plain(connection::client_waiting))
        .marked(&["unpausable"]),
];
