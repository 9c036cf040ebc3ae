//! Isolation levels, locks and waits through real sockets: what each level and concurrency control
//! promises, and that a core never waits for a lock that only its own connections could free.
//!
//! Nothing sleeps: a connection that waits is seen to wait through CLIENT WAITING.

use isolith_testkit::server::{Client, REPLY_WAIT, Server, Value, pipeline, script};
use std::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

/// A server of one core: the worst case for whoever waits on it.
fn one_core() -> Server {
    Server::start(BINARY, &["--threads", "1", "--durability", "buffered", "--lock-timeout", "60s"])
}

fn id(client: &mut Client) -> i64 {
    match client.line("CLIENT ID") {
        Value::Integer(id) => id,
        other => panic!("{other}"),
    }
}

/// A connection with its number.
struct Numbered {
    client: Client,
    id: i64,
}

impl Numbered {
    fn new(server: &Server) -> Numbered {
        let mut client = server.connect();
        Numbered { id: id(&mut client), client }
    }

    fn line(&mut self, line: &str) -> String {
        self.client.line(line).to_string()
    }

    fn send(&mut self, lines: &str) {
        self.client.send(&pipeline(lines));
    }

    fn reply(&mut self) -> String {
        self.client.reply().to_string()
    }

    /// Sends lines, and comes back once the connection waits for a lock.
    fn send_and_wait(&mut self, lines: &str, watcher: &mut Client) {
        self.send(lines);
        until(lines, || is_waiting(watcher, self.id));
    }
}

/// Asks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let limit = Instant::now() + REPLY_WAIT;
    while !is_so() {
        assert!(Instant::now() < limit, "never came about: {what}");
    }
}

fn is_waiting(watcher: &mut Client, id: i64) -> bool {
    !watcher.line(&format!("CLIENT WAITING {id}")).elements().is_empty()
}

/// A figure of INFO.
fn figure(watcher: &mut Client, name: &str) -> u64 {
    let info = watcher.line("INFO locks").text();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} is not in {info}")).parse().expect("a number")
}

const LEVELS: [&str; 4] = ["READ-COMMITTED", "REPEATABLE-READ", "SNAPSHOT", "SERIALIZABLE"];
const CONTROLS: [&str; 6] =
    ["OPTIMISTIC", "AUTO", "LOCKING", "LOCKING:WAIT-DIE", "LOCKING:NO-WAIT", "LOCKING:DETECT"];

/// Two transactions, the first one older, that read what `reads` says and write one key each. The
/// first commits; whether the second does, too.
fn second_commits(server: &Server, begin: &str, reads: &str, writes: [&str; 2]) -> bool {
    let (mut one, mut two) = (Numbered::new(server), Numbered::new(server));
    let ok = |reply: &str| !reply.starts_with('-');
    for client in [&mut one, &mut two] {
        assert_eq!(client.line(begin), "+OK");
        assert!(ok(&client.line(reads)));
    }
    // Where the second one's shared lock stands in the way, the policy says who gives way.
    one.send(writes[0]);
    two.send(writes[1]);
    two.send("COMMIT");
    let (written, committed) = (two.reply(), two.reply());
    let second = ok(&written) && ok(&committed);
    let first = ok(&one.reply()) && ok(&one.line("COMMIT"));
    // Somebody gets through, whatever the policy; only without waiting both may have been refused.
    assert!(first || second || begin.contains("NO-WAIT"), "{begin}: {written}, {committed}");
    first && second
}

/// Lost update and write skew, at every level under every control.
#[test]
fn each_level_keeps_its_promise_under_every_control() {
    let server = one_core();
    for level in LEVELS {
        for control in CONTROLS {
            let begin = format!("BEGIN ISOLATION {level} CONCURRENCY {control}");
            // Keys of its own: what is hot here is not hot there.
            let key = |name: &str| format!("{name}:{level}:{control}");
            let (a, b) = (key("a"), key("b"));
            // The second one waits for the lock of the first where it locks only writes: so the two
            // go one after the other there.
            let both = if control.starts_with("LOCKING") && !reads_are_locked(level) {
                one_after_the_other(&server, &begin, &format!("GET {a}"), &format!("SET {a} 1"))
            } else {
                second_commits(
                    &server,
                    &begin,
                    &format!("GET {a}"),
                    [&format!("SET {a} 1"), &format!("SET {a} 2")],
                )
            };
            assert_eq!(both, level == "READ-COMMITTED", "lost update: {begin}");
            let both = second_commits(
                &server,
                &begin,
                &format!("MGET {a} {b}"),
                [&format!("SET {a} 1"), &format!("SET {b} 1")],
            );
            assert_eq!(both, !reads_are_locked(level), "write skew: {begin}");
        }
    }
    assert_eq!(figure(&mut server.connect(), "locks_held"), 0);
}

fn reads_are_locked(level: &str) -> bool {
    matches!(level, "REPEATABLE-READ" | "SERIALIZABLE")
}

/// Both read, the first writes, the second writes the same (and waits, or is refused), the first
/// commits: whether the second does, too.
fn one_after_the_other(server: &Server, begin: &str, read: &str, write: &str) -> bool {
    let mut watcher = server.connect();
    let (mut one, mut two) = (Numbered::new(server), Numbered::new(server));
    for client in [&mut one, &mut two] {
        assert_eq!(client.line(begin), "+OK");
        client.line(read);
    }
    assert_eq!(one.line(write), "+OK");
    if begin.contains("WAIT-DIE") || begin.contains("NO-WAIT") {
        let refused = two.line(write);
        assert!(refused.starts_with("-DEADLOCK retry=now age="), "{begin}: {refused}");
        assert_eq!(one.line("COMMIT"), "+OK");
        // The next try, with its age.
        let age = refused.split("age=").nth(1).and_then(|rest| rest.split(' ').next());
        assert_eq!(two.line("ROLLBACK"), "+OK");
        assert_eq!(two.line(&format!("{begin} AGE {}", age.expect("an age"))), "+OK");
        two.send(write);
    } else {
        two.send_and_wait(write, &mut watcher);
        assert_eq!(one.line("COMMIT"), "+OK");
    }
    let written = two.reply();
    let committed = written == "+OK" && two.line("COMMIT") == "+OK";
    // A next try reads afresh, and so loses nothing.
    committed && (begin.contains("READ-COMMITTED") || !is_retry(begin))
}

fn is_retry(begin: &str) -> bool {
    begin.contains("WAIT-DIE") || begin.contains("NO-WAIT")
}

/// A range that is read twice, and written into by another between.
#[test]
fn phantoms_come_where_the_level_lets_them() {
    let server = one_core();
    let mut watcher = server.connect();
    for level in LEVELS {
        for control in ["OPTIMISTIC", "AUTO", "LOCKING"] {
            let (mut one, mut two) = (Numbered::new(&server), Numbered::new(&server));
            let range = format!("RANGE p:{level}:{control}: p:{level}:{control};");
            let begin = format!("BEGIN ISOLATION {level} CONCURRENCY {control}");
            assert_eq!(one.line(&begin), "+OK");
            assert_eq!(one.line(&range), "[]");
            let insert = format!("SET p:{level}:{control}:x 1");
            let locked = level == "SERIALIZABLE" && control == "LOCKING";
            if locked {
                two.send_and_wait(&insert, &mut watcher);
            } else {
                assert_eq!(two.line(&insert), "+OK", "{begin}");
            }
            let seen = one.line(&range) != "[]";
            // The newest is read by who reads each statement afresh, or under locks of keys alone.
            let newest =
                level == "READ-COMMITTED" || (level, control) == ("REPEATABLE-READ", "LOCKING");
            assert_eq!(seen, newest, "{begin}");
            assert_eq!(one.line(&format!("SET seen:{level}:{control} 1")), "+OK");
            let committed = one.line("COMMIT");
            if level == "SERIALIZABLE" && !locked {
                assert!(committed.starts_with("-CONFLICT retry=now age="), "{begin}: {committed}");
            } else {
                assert_eq!(committed, "+OK", "{begin}");
            }
            if locked {
                assert_eq!(two.reply(), "+OK");
            }
        }
    }
}

#[test]
fn a_range_may_be_locked_at_every_level_under_every_control() {
    let server = one_core();
    let mut watcher = server.connect();
    let (mut one, mut two) = (Numbered::new(&server), Numbered::new(&server));
    for level in LEVELS {
        for control in CONTROLS {
            let begin = format!("BEGIN ISOLATION {level} CONCURRENCY {control}");
            for (mode, reads) in [("", true), ("SHARED", true), ("EXCLUSIVE", false)] {
                assert_eq!(one.line(&begin), "+OK");
                assert_eq!(one.line(&format!("LOCKRANGE a c {mode}")), "+OK");
                script(&mut two.client, "SET c 1 => +OK\nGET a => nil | \"1\"");
                assert_eq!(two.line("BEGIN CONCURRENCY LOCKING"), "+OK");
                if reads {
                    two.line("GET b");
                }
                two.send_and_wait("SET a 1\nCOMMIT", &mut watcher);
                assert_eq!(one.line("ROLLBACK"), "+OK");
                assert_eq!((two.reply(), two.reply()), ("+OK".into(), "+OK".into()));
            }
        }
    }
    script(
        &mut two.client,
        "LOCKRANGE a b => -ERR LOCKRANGE without BEGIN
         GETFORUPDATE a => -ERR GETFORUPDATE without BEGIN
         MULTI => +OK
         GETFORSHARE a => -ERR GETFORSHARE without BEGIN
         EXEC => -EXECABORT Transaction discarded because of previous errors.
         BEGIN READ ONLY => +OK
         GETFORSHARE a => \"1\"
         LOCKRANGE a b => -READONLY this transaction was begun as READ ONLY; ROLLBACK and begin another
         ROLLBACK => +OK
         BEGIN => +OK
         LOCKRANGE b a => +OK
         LOCKRANGE a b SIDEWAYS => -ERR syntax error
         GETFORUPDATE none => nil
         COMMIT => +OK",
    );
}

/// Every kind of command that may meet a lock, pipelined with others behind it, on the one core that
/// has to run the holder's COMMIT.
#[test]
fn whatever_meets_a_lock_waits_in_order_and_its_core_goes_on() {
    let server = one_core();
    let mut watcher = server.connect();
    let (mut holder, mut waiter) = (Numbered::new(&server), Numbered::new(&server));
    for (commands, replies) in [
        ("SET k 1", "+OK"),
        ("SET k 1\nGET k\nPING", "+OK \"1\" +PONG"),
        // A batch: what comes before the lock need not wait for it.
        ("SET free 1\nGET free\nINCR k\nGET k\nPING", "+OK \"1\" :8 \"8\" +PONG"),
        ("APPEND k 0\nSTRLEN k", ":2 :2"),
        ("MSET a 1 k 2 z 3\nMGET a k z", "+OK [\"1\", \"2\", \"3\"]"),
        ("DEL a k", ":2"),
        ("FLUSHALL\nDBSIZE", "+OK :0"),
        (
            "MULTI\nINCR k\nSELECT 3\nEXEC\nEXISTS k\nSELECT 0\nGET k",
            "+OK +QUEUED +QUEUED [:8, +OK] :0 +OK \"8\"",
        ),
        ("BEGIN\nINCR k\nCOMMIT\nGET k", "+OK :7 -CONFLICT \"7\""),
        ("BEGIN\nSET k x\nCOMMIT\nGET k", "+OK +OK +OK \"x\""),
        ("BEGIN CONCURRENCY LOCKING\nINCR k\nCOMMIT\nGET k", "+OK :8 +OK \"8\""),
        ("BEGIN CONCURRENCY LOCKING\nGETFORUPDATE k\nCOMMIT", "+OK \"7\" +OK"),
        ("BEGIN CONCURRENCY LOCKING\nGETFORSHARE k\nCOMMIT", "+OK \"7\" +OK"),
        (
            "BEGIN CONCURRENCY LOCKING\nRANGE a z LIMIT 5\nROLLBACK\nPING",
            "+OK [\"a\", \"1\", \"k\", \"7\"] +OK +PONG",
        ),
        ("BEGIN CONCURRENCY LOCKING\nDBSIZE\nSCAN 0\nCOMMIT", "+OK :2 [\"0\", [\"a\", \"k\"]] +OK"),
        ("BEGIN CONCURRENCY LOCKING\nSET b 1\nDEL a k\nEXISTS a b k\nCOMMIT", "+OK +OK :2 :1 +OK"),
        ("BEGIN CONCURRENCY LOCKING ISOLATION SNAPSHOT\nSET k 1\nCOMMIT", "+OK +OK +OK"),
    ] {
        script(
            &mut holder.client,
            "FLUSHALL => +OK
             MSET a 1 k 6 => +OK
             BEGIN CONCURRENCY LOCKING => +OK
             INCR k => :7",
        );
        waiter.send_and_wait(commands, &mut watcher);
        assert_eq!(figure(&mut watcher, "locks_waiting"), 1, "{commands}");
        let line = watcher.line(&format!("CLIENT LIST ID {}", waiter.id)).text();
        assert!(line.contains("flags=") && line.contains('b'), "{line}");
        // Whom it waits for is the holder, and no other.
        let list = watcher.line(&format!("CLIENT LIST ID {}", holder.id)).text();
        let age = list.trim().rsplit("tx-age=").next().expect("an age").to_owned();
        let waiting = watcher.line(&format!("CLIENT WAITING {} {}", holder.id, waiter.id));
        assert_eq!(waiting.to_string(), format!("[:{}, [:{age}]]", waiter.id), "{commands}");
        // The core is free for others.
        script(&mut watcher, "SET other 1 => +OK\nGET k => \"6\"\nDEL other => :1");
        assert_eq!(holder.line("COMMIT"), "+OK");
        assert!(!is_waiting(&mut watcher, waiter.id), "{commands}");
        let got: Vec<String> = replies_of(&mut waiter, commands.lines().count());
        assert_eq!(got.join(" "), replies, "{commands}");
        assert_eq!(figure(&mut watcher, "locks_held"), 0, "{commands}");
    }
}

/// Replies, conflicts without their particulars.
fn replies_of(client: &mut Numbered, count: usize) -> Vec<String> {
    let short = |reply: String| match reply.strip_prefix("-CONFLICT ") {
        Some(_) => "-CONFLICT".to_owned(),
        None => reply,
    };
    (0..count).map(|_| short(client.reply())).collect()
}

#[test]
fn a_commit_that_waits_is_judged_by_what_it_waited_for() {
    let server = one_core();
    let mut watcher = server.connect();
    let (mut holder, mut waiter) = (Numbered::new(&server), Numbered::new(&server));
    for (end, expected) in [("ROLLBACK", "[:2]"), ("COMMIT", "nil")] {
        // WATCH beside a holder: its uncommitted write is no change, its commit is one.
        script(
            &mut waiter.client,
            "SET k 1 => +OK\nWATCH k => +OK\nMULTI => +OK\nINCR k => +QUEUED",
        );
        script(&mut holder.client, "BEGIN CONCURRENCY LOCKING => +OK\nSET k 1 => +OK");
        waiter.send_and_wait("EXEC", &mut watcher);
        assert_eq!(holder.line(end), "+OK");
        assert_eq!(waiter.reply(), expected);
        script(&mut waiter.client, "EXEC => -ERR EXEC without MULTI");
    }
    // Deletion, and the same value again, by a holder that ends before EXEC.
    for change in ["DEL k", "SET k 1", "EXPIRE k 1000", "PEXPIRE k 0"] {
        script(&mut waiter.client, "SET k 1 => +OK\nWATCH k => +OK");
        assert_eq!(holder.line("BEGIN CONCURRENCY LOCKING"), "+OK");
        assert!(!holder.line(change).starts_with('-'));
        assert_eq!(holder.line("COMMIT"), "+OK");
        script(&mut waiter.client, "MULTI => +OK\nPING => +QUEUED\nEXEC => nil");
    }
    // Who only reads what is watched, and writes elsewhere, is not held up.
    script(&mut waiter.client, "SET k 1 => +OK\nWATCH k => +OK\nMULTI => +OK\nSET l 1 => +QUEUED");
    script(&mut holder.client, "BEGIN CONCURRENCY LOCKING => +OK\nSET k 2 => +OK");
    script(&mut waiter.client, "EXEC => [+OK]");
    assert_eq!(holder.line("COMMIT"), "+OK");
}

#[test]
fn each_deadlock_policy_breaks_a_circle_its_own_way() {
    let server = one_core();
    let mut watcher = server.connect();
    for policy in ["WOUND-WAIT", "WAIT-DIE", "NO-WAIT", "DETECT", "DETECT:FEWEST-LOCKS"] {
        let (mut old, mut young) = (Numbered::new(&server), Numbered::new(&server));
        let begin = format!("BEGIN DEADLOCK {policy}");
        for (client, key) in [(&mut old, "a"), (&mut young, "b")] {
            assert_eq!(client.line(&begin), "+OK");
            assert_eq!(client.line(&format!("SET {key} 1")), "+OK");
        }
        let lost = match policy {
            // The older one takes what it needs.
            "WOUND-WAIT" => {
                assert_eq!(old.line("SET b 2"), "+OK");
                young.line("SET a 2")
            }
            // The younger one does not wait for an older one.
            "WAIT-DIE" => {
                old.send_and_wait("SET b 2", &mut watcher);
                let lost = young.line("SET a 2");
                assert_eq!(old.reply(), "+OK");
                lost
            }
            // Nobody waits: the first to ask is refused.
            "NO-WAIT" => {
                let lost = young.line("SET a 2");
                assert_eq!(old.line("SET b 2"), "+OK");
                lost
            }
            _ => {
                old.send_and_wait("SET b 2", &mut watcher);
                let lost = young.line("SET a 2");
                assert_eq!(old.reply(), "+OK");
                lost
            }
        };
        assert!(lost.starts_with("-DEADLOCK retry=now age="), "{policy}: {lost}");
        let age = lost.split("age=").nth(1).and_then(|rest| rest.split(' ').next());
        let age = age.expect("an age").to_owned();
        let aborted = young.line("GET a");
        assert!(aborted.starts_with(&format!("-ABORTED retry=now age={age} ")), "{aborted}");
        assert_eq!(old.line("COMMIT"), "+OK");
        assert!(young.line("COMMIT").starts_with("-ABORTED retry=now age="));
        // With its age it goes before whoever has come since.
        let mut newcomer = Numbered::new(&server);
        script(&mut newcomer.client, "BEGIN DEADLOCK WOUND-WAIT => +OK\nSET a 3 => +OK");
        assert_eq!(young.line(&format!("BEGIN DEADLOCK WOUND-WAIT AGE {age}")), "+OK");
        assert_eq!(young.line("SET a 2"), "+OK");
        assert_eq!(young.line("COMMIT"), "+OK");
        assert!(newcomer.line("COMMIT").starts_with("-DEADLOCK retry=now age="));
        script(&mut watcher, "MGET a b => [\"2\", \"2\"]");
    }
    assert_eq!(figure(&mut watcher, "locks_held"), 0);
    assert!(figure(&mut watcher, "lock_wounds") > 0);
    assert!(figure(&mut watcher, "lock_refusals") > 0);
    assert!(figure(&mut watcher, "lock_deadlocks") > 0);
}

#[test]
fn waits_and_transactions_have_an_end() {
    let server = one_core();
    let mut watcher = server.connect();
    let (mut holder, mut waiter) = (Numbered::new(&server), Numbered::new(&server));
    script(&mut holder.client, "BEGIN CONCURRENCY LOCKING => +OK\nSET k 1 => +OK");
    // One wait: the transaction goes on without it, and keeps what it has.
    for line in ["BEGIN CONCURRENCY LOCKING LOCKTIMEOUT 20", "SET a 1", "SAVEPOINT s"] {
        assert_eq!(waiter.line(line), "+OK");
    }
    for line in ["SET k 2", "DEL a k", "GETFORUPDATE k", "MSET b 1 k 1", "RANGE - +"] {
        let late = waiter.line(line);
        assert!(late.starts_with("-LOCKTIMEOUT retry=after:"), "{line}: {late}");
        assert!(late.contains(" age="), "{line}: {late}");
    }
    script(&mut waiter.client, "GET a => \"1\"\nGET b => nil\nCOMMIT => +OK\nGET a => \"1\"");
    // The whole transaction, in the midst of a wait.
    script(&mut waiter.client, "BEGIN CONCURRENCY LOCKING TIMEOUT 20 => +OK\nSET a 2 => +OK");
    let late = waiter.line("SET k 2");
    assert!(late.starts_with("-TXTIMEOUT retry=after:"), "{late}");
    assert!(waiter.line("COMMIT").starts_with("-ABORTED retry=after:"));
    script(&mut waiter.client, "GET a => \"1\"");
    // A commit.
    script(&mut waiter.client, "BEGIN LOCKTIMEOUT 20 => +OK\nSET k 2 => +OK");
    let late = waiter.line("COMMIT");
    assert!(late.starts_with("-LOCKTIMEOUT retry=after:"), "{late}");
    script(&mut waiter.client, "ROLLBACK => -ERR ROLLBACK without BEGIN");
    // Commands outside of BEGIN, by the server's default.
    script(&mut waiter.client, "CONFIG SET lock-timeout 20 => +OK");
    for lines in ["SET k 2", "INCR k", "MULTI\nSET k 2\nEXEC", "SET x 1\nSET k 2"] {
        waiter.send(lines);
        let replies = replies_of(&mut waiter, lines.lines().count());
        let late = replies.last().expect("a reply");
        assert!(late.starts_with("-LOCKTIMEOUT retry=after:"), "{lines}: {late}");
    }
    script(&mut waiter.client, "CONFIG SET lock-timeout 60000 => +OK\nGET x => \"1\"");
    assert_eq!(figure(&mut watcher, "locks_waiting"), 0);
    assert!(figure(&mut watcher, "lock_timeouts") >= 9);
    assert_eq!(holder.line("COMMIT"), "+OK");
    // A transaction whose client says nothing more: its locks go when its time is over.
    script(&mut holder.client, "BEGIN CONCURRENCY LOCKING TIMEOUT 50 => +OK\nSET k 3 => +OK");
    script(&mut waiter.client, "SET k 4 => +OK\nGET k => \"4\"");
    let gone = holder.line("GET k");
    assert!(gone.starts_with("-ABORTED retry=after:"), "{gone}");
    script(&mut holder.client, "ROLLBACK => +OK\nGET k => \"4\"");
}

#[test]
fn an_idle_transaction_gives_its_locks_back() {
    let server = one_core();
    let (mut holder, mut waiter) = (Numbered::new(&server), Numbered::new(&server));
    script(
        &mut holder.client,
        "CONFIG SET idle-transaction-timeout 100 => +OK
         BEGIN CONCURRENCY LOCKING => +OK
         SET k 3 => +OK",
    );
    script(&mut waiter.client, "SET k 4 => +OK");
    let gone = holder.line("COMMIT");
    assert!(gone.starts_with("-ABORTED retry="), "{gone}");
    assert!(gone.contains("the transaction was idle for 100 ms"), "{gone}");
}

/// However a connection ends while it waits, nothing of it stays.
#[test]
fn who_goes_while_waiting_leaves_no_lock_and_no_place_in_a_queue() {
    let server = one_core();
    let mut watcher = server.connect();
    let mut holder = Numbered::new(&server);
    for commands in [
        "BEGIN CONCURRENCY LOCKING\nSET own 1\nSET k 2",
        "BEGIN CONCURRENCY LOCKING\nSET own 1\nSET k 2\nCOMMIT",
        "BEGIN\nLOCKRANGE own own2\nSET k 2\nCOMMIT",
        "SET k 2",
        "SET own 1\nSET k 2\nSET k 3",
        "MULTI\nSET own 1\nSET k 2\nEXEC",
    ] {
        for killed in [true, false] {
            script(&mut holder.client, "BEGIN CONCURRENCY LOCKING => +OK\nSET k 1 => +OK");
            let mut dying = Numbered::new(&server);
            dying.send_and_wait(commands, &mut watcher);
            if killed {
                let kill = format!("CLIENT KILL ID {}", dying.id);
                assert_eq!(watcher.line(&kill).to_string(), ":1");
                until(commands, || dying.client.is_closed() || !dying.client.rest().is_empty());
            } else if commands.ends_with("SET own 1\nSET k 2") {
                // Nothing is left that could commit it: it is rolled back as soon as it is gone.
                drop(dying);
            } else {
                // What has come in is run and answered, gone or not: until its wait is over.
                dying.client.end();
                assert_eq!(holder.line("ROLLBACK"), "+OK");
                until(commands, || figure(&mut watcher, "locks_held") == 0);
                continue;
            }
            until(commands, || figure(&mut watcher, "locks_waiting") == 0);
            // The holder's alone.
            until(commands, || figure(&mut watcher, "locks_held") == 1);
            script(&mut watcher, "SET own 2 => +OK");
            assert_eq!(holder.line("ROLLBACK"), "+OK");
            assert_eq!(figure(&mut watcher, "locks_held"), 0);
            assert_ne!(watcher.line("GET k").to_string(), "\"1\"");
            watcher.line("DEL k");
        }
    }
}

#[test]
fn terms_come_from_begin_then_the_connection_then_the_server() {
    let server = Server::start(
        BINARY,
        &["--threads", "1", "--isolation", "snapshot", "--concurrency", "locking:wait-die"],
    );
    let (mut one, mut two) = (server.connect(), server.connect());
    script(
        &mut one,
        r#"
        CONFIG GET transaction-* => ["transaction-isolation", "snapshot", "transaction-concurrency", "locking:wait-die", "transaction-timeout", "0"]
        CONFIG GET *-timeout => ["lock-timeout", "5000", "transaction-timeout", "0", "idle-transaction-timeout", "60000"]
        CLIENT TRANSACTION => ["isolation", "snapshot", "concurrency", "locking:wait-die", "durability", "sync", "read-only", "no", "timeout", "0", "lock-timeout", "5000"]
        CLIENT TRANSACTION ISOLATION READ COMMITTED TIMEOUT 60000 => +OK
        CLIENT TRANSACTION CONCURRENCY OPTIMISTIC READ ONLY => +OK
        CLIENT TRANSACTION => ["isolation", "read-committed", "concurrency", "optimistic", "durability", "sync", "read-only", "yes", "timeout", "60000", "lock-timeout", "5000"]
        CLIENT TRANSACTION AGE 3 => -ERR AGE, AT and SNAPSHOT are for BEGIN: they belong to one transaction
        CLIENT TRANSACTION NONSENSE => -ERR syntax error at 'NONSENSE'
        BEGIN => +OK
        SET a 1 => -READONLY this transaction was begun as READ ONLY; ROLLBACK and begin another
        ROLLBACK => +OK
        BEGIN READ WRITE => +OK
        GET a => nil
        "#,
    );
    // Read committed: each statement sees what is committed.
    script(&mut two, "SET a 1 => +OK");
    script(&mut one, "GET a => \"1\"\nCOMMIT => +OK\nCLIENT TRANSACTION RESET => +OK");
    // The server's: a snapshot.
    script(&mut one, "BEGIN => +OK\nGET a => \"1\"");
    script(&mut two, "SET a 2 => +OK");
    script(&mut one, "GET a => \"1\"\nCOMMIT => +OK");
    script(
        &mut two,
        r#"
        CONFIG SET transaction-isolation read-committed transaction-concurrency auto => +OK
        CONFIG SET lock-timeout 2s transaction-timeout 1m => +OK
        CONFIG GET transaction-* => ["transaction-isolation", "read-committed", "transaction-concurrency", "auto", "transaction-timeout", "60000"]
        CONFIG GET lock-timeout => ["lock-timeout", "2000"]
        CONFIG SET lock-timeout soon => -ERR CONFIG SET failed (possibly related to argument 'lock-timeout') - expected a time, like 500ms, 5s, 2m or 0 for no limit
        CONFIG SET transaction-isolation snapshot transaction-concurrency hope => -ERR CONFIG SET failed (possibly related to argument 'transaction-concurrency') - 'hope' is none of optimistic, auto, locking, locking:wound-wait, locking:wait-die, locking:no-wait, locking:detect, locking:detect:fewest-locks
        CONFIG GET transaction-isolation => ["transaction-isolation", "read-committed"]
        "#,
    );
    script(&mut one, "BEGIN => +OK\nGET a => \"2\"");
    script(&mut two, "SET a 3 => +OK");
    script(&mut one, "GET a => \"3\"\nCOMMIT => +OK\nCLIENT TRANSACTION ISOLATION SNAPSHOT => +OK");
    script(&mut one, "RESET => +RESET\nBEGIN => +OK\nGET a => \"3\"\nROLLBACK => +OK");
}

/// Transfers of every kind at once, with counters beside them: nothing is lost, nobody hangs, and
/// commands outside of BEGIN never show a conflict.
#[test]
fn every_level_and_control_at_once_loses_nothing() {
    let server = Server::start(
        BINARY,
        &["--threads", "2", "--durability", "buffered", "--lock-timeout", "60s"],
    );
    let address = server.address();
    script(&mut server.connect(), "MSET a 1000 b 1000 n 0 => +OK");
    let terms = [
        "CONCURRENCY OPTIMISTIC",
        "CONCURRENCY AUTO",
        "DEADLOCK WOUND-WAIT",
        "DEADLOCK WAIT-DIE",
        "DEADLOCK NO-WAIT",
        "DEADLOCK DETECT",
        "ISOLATION REPEATABLE-READ DEADLOCK WOUND-WAIT",
        "ISOLATION SNAPSHOT CONCURRENCY AUTO",
    ];
    std::thread::scope(|scope| {
        for (number, terms) in terms.into_iter().enumerate() {
            scope.spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                let keys = if number % 2 == 0 { ("a", "b") } else { ("b", "a") };
                for _ in 0..30 {
                    transfer(&mut client, terms, keys);
                }
            });
        }
        for _ in 0..2 {
            scope.spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                for _ in 0..30 {
                    client.send(&pipeline(
                        "INCR n\nDECR a\nINCR a\nMULTI\nINCR n\nINCR b\nDECR b\nEXEC",
                    ));
                    for _ in 0..8 {
                        let reply = client.reply().to_string();
                        assert!(!reply.starts_with('-'), "{reply}");
                    }
                }
            });
        }
    });
    let mut client = server.connect();
    let numbers = client.line("MGET a b n").elements();
    let number = |at: usize| numbers[at].text().parse::<i64>().expect("a number");
    assert_eq!((number(0) + number(1), number(2)), (2000, 120));
    assert_eq!((figure(&mut client, "locks_held"), figure(&mut client, "locks_waiting")), (0, 0));
}

/// What a client library does: again with the age that the error gives, until it is done.
fn transfer(client: &mut Client, terms: &str, (from, to): (&str, &str)) {
    let mut age = String::new();
    loop {
        client.send(&pipeline(&format!("BEGIN {terms}{age}\nDECR {from}\nINCR {to}\nCOMMIT")));
        let replies: Vec<String> = (0..4).map(|_| client.reply().to_string()).collect();
        let last = &replies[3];
        if last == "+OK" {
            return;
        }
        assert!(last.contains("retry=now") || last.contains("retry=locks"), "{terms}: {replies:?}");
        let given = last.split("age=").nth(1).and_then(|rest| rest.split(' ').next());
        age = format!(" AGE {}", given.unwrap_or_else(|| panic!("{replies:?}")));
    }
}

#[test]
fn merges_disturb_each_other_at_no_level_under_no_control() {
    let server = one_core();
    let mut watcher = server.connect();
    for level in LEVELS {
        for control in CONTROLS {
            let (mut one, mut two) = (Numbered::new(&server), Numbered::new(&server));
            let key = format!("n:{level}:{control}");
            for client in [&mut one, &mut two] {
                let begin = format!("BEGIN ISOLATION {level} CONCURRENCY {control}");
                assert_eq!(client.line(&begin), "+OK");
                assert_eq!(client.line(&format!("MERGE {key} add-i64 2")), "+OK");
                assert_eq!(client.line(&format!("MERGE {key} ADD-I64 -1")), "+OK");
            }
            assert_eq!(one.line("COMMIT"), "+OK", "{level} {control}");
            assert_eq!(watcher.line(&format!("MERGE {key} add-i64 40")).to_string(), "+OK");
            assert_eq!(two.line("COMMIT"), "+OK", "{level} {control}");
            assert_eq!(watcher.line(&format!("GET {key}")).to_string(), "\"42\"");
        }
    }
    // Who holds a lock on the key is waited for.
    let (mut holder, mut waiter) = (Numbered::new(&server), Numbered::new(&server));
    for merges in
        ["MERGE k add-i64 1", "BEGIN\nMERGE k add-i64 1\nCOMMIT", "MULTI\nMERGE k add-i64 1\nEXEC"]
    {
        script(
            &mut holder.client,
            "SET k 6 => +OK\nBEGIN CONCURRENCY LOCKING => +OK\nINCR k => :7",
        );
        waiter.send_and_wait(merges, &mut watcher);
        assert_eq!(holder.line("COMMIT"), "+OK");
        for _ in merges.lines() {
            assert!(!waiter.reply().starts_with('-'));
        }
        script(&mut watcher, "GET k => \"8\"");
    }
    script(
        &mut watcher,
        r#"
        MERGE word append ab => +OK
        MERGE word append cd => +OK
        GET word => "abcd"
        MERGE top max-i64 3 => +OK
        MERGE top max-i64 2 => +OK
        INCR top => :4
        MERGE set set-union b a => +OK
        MERGE set set-union b c => +OK
        STRLEN set => :15
        MERGE set set-union => -ERR wrong number of arguments for 'merge' command
        MERGE top max-i64 3 4 => -ERR syntax error
        MERGE top frobnicate 1 => -ERR the merge operator 'frobnicate' is not registered: open the database with it
        MERGE top add-i64 one => -ERR 'add-i64' does not merge into key 'top' in 'db0': not an integer
        BEGIN => +OK
        MERGE top add-i64 one => -ERR 'add-i64' does not merge into key 'top' in 'db0': not an integer
        MERGE top add-i64 1 => +OK
        GET top => "5"
        SAVEPOINT s => +OK
        MERGE top add-i64 1 => +OK
        ROLLBACK TO s => +OK
        COMMIT => +OK
        GET top => "5"
        SET text word => +OK
        MERGE text add-i64 1 => +OK
        GET text => -ERR 'add-i64' does not merge into key 'text' in 'db0': not an integer
        MULTI => +OK
        INCR text => +QUEUED
        INCR top => +QUEUED
        EXEC => [-ERR 'add-i64' does not merge into key 'text' in 'db0': not an integer, :6]
        EXISTS text => :1
        DEL top text => :2
        GET text => nil
        "#,
    );
    assert_eq!(figure(&mut watcher, "locks_held"), 0);
}

/// A command that reads and writes a key locks it for writing at once: nothing is lost within it at any
/// level, and two of them do not stand in each other's way.
#[test]
fn commands_that_change_a_value_lock_it_for_that() {
    let server = one_core();
    let mut watcher = server.connect();
    let (mut one, mut two) = (Numbered::new(&server), Numbered::new(&server));
    for level in ["READ-COMMITTED", "REPEATABLE-READ", "SERIALIZABLE"] {
        for (command, replies) in [("INCR k", [":1", ":2"]), ("APPEND k x", [":1", ":2"])] {
            let begin = format!("BEGIN CONCURRENCY LOCKING ISOLATION {level}");
            watcher.line("DEL k");
            assert_eq!((one.line(&begin), two.line(&begin)), ("+OK".into(), "+OK".into()));
            assert_eq!(one.line(command), replies[0]);
            two.send_and_wait(command, &mut watcher);
            assert_eq!(one.line("COMMIT"), "+OK");
            assert_eq!(two.reply(), replies[1], "{level}: {command}");
            assert_eq!(two.line("COMMIT"), "+OK");
        }
    }
}

#[test]
fn the_past_can_be_read_as_long_as_it_is_kept() {
    let server = Server::start(BINARY, &["--threads", "1", "--retention", "60s"]);
    let (mut client, mut watcher) = (server.connect(), server.connect());
    let now = |client: &mut Client| {
        let time = client.line("TIME").elements();
        let part = |at: usize| time[at].text().parse::<u64>().expect("a number");
        part(0) * 1000 + part(1) / 1000
    };
    script(&mut client, "SET k old => +OK");
    // What was acknowledged is noted now and then: once it is, that time has it for good.
    let mut at = 0;
    until("the state is noted", || {
        at = now(&mut watcher);
        let begun = watcher.line(&format!("BEGIN READ ONLY AT {at}")).to_string() == "+OK";
        let seen = watcher.line("GET k").to_string();
        if begun {
            assert_eq!(watcher.line("COMMIT").to_string(), "+OK");
        }
        begun && seen == "\"old\""
    });
    script(&mut client, "SET k new => +OK");
    script(
        &mut watcher,
        &format!(
            "BEGIN READ ONLY AT {at} => +OK
             GET k => \"old\"
             COMMIT => +OK
             GET k => \"new\"
             BEGIN READ ONLY AT 1 => -SNAPSHOTTOOOLD retry=never what was then is not kept: see --retention"
        ),
    );
}

#[test]
fn what_has_read_for_too_long_is_not_told_to_do_the_same_again() {
    let server = Server::start(BINARY, &["--threads", "1", "--snapshot-age-max", "100ms"]);
    let (mut client, mut writer) = (server.connect(), server.connect());
    script(&mut client, "SET k old => +OK\n BEGIN => +OK\n GET k => \"old\"");
    script(&mut writer, "SET k new => +OK");
    let mut told = String::new();
    until("what the transaction reads is given up", || {
        told = client.line("GET k").to_string();
        told != "\"old\""
    });
    assert!(told.starts_with("-SNAPSHOTTOOOLD retry=never "), "{told}");
    let after = client.line("GET k").to_string();
    assert!(after.starts_with("-ABORTED retry=never "), "{after}");
    script(&mut client, "ROLLBACK => +OK\n GET k => \"new\"");
}

#[test]
fn a_transaction_is_seen_from_within_and_from_outside() {
    let server = one_core();
    let (mut one, mut watcher) = (Numbered::new(&server), server.connect());
    for begin in ["BEGIN", "BEGIN READ ONLY"] {
        assert_eq!(one.line(begin), "+OK");
        let list = format!("CLIENT LIST ID {}", one.id);
        for text in [one.client.line(&list).text(), watcher.line(&list).text()] {
            assert!(text.contains(" flags=T "), "{text}");
            assert_eq!(text.contains(" tx-age=0"), begin != "BEGIN", "{text}");
        }
        assert_eq!(one.line("ROLLBACK"), "+OK");
        assert!(watcher.line(&list).text().contains(" flags=N "));
    }
}
