//! MULTI, WATCH and EXEC exactly as Redis has them; BEGIN, COMMIT and ROLLBACK beyond it.

use isolith_testkit::server::{Client, REPLY_WAIT, Server, Value, pipeline, script};
use std::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn check(text: &str) {
    let server = Server::start(BINARY, &[]);
    script(&mut server.connect(), text);
}

#[test]
fn multi_queues_and_exec_runs() {
    check(
        r#"
        MULTI => +OK
        SET a 1 => +QUEUED
        INCR a => +QUEUED
        GET a => +QUEUED
        MGET a none => +QUEUED
        PING => +QUEUED
        EXEC => [+OK, :2, "2", ["2", nil], +PONG]
        EXEC => -ERR EXEC without MULTI
        DISCARD => -ERR DISCARD without MULTI
        MULTI => +OK
        EXEC => []
        MULTI => +OK
        SET a 9 => +QUEUED
        DISCARD => +OK
        GET a => "2"
        MULTI => +OK
        MULTI => -ERR MULTI calls can not be nested
        WATCH a => -ERR WATCH inside MULTI is not allowed
        UNWATCH => +QUEUED
        EXEC => [+OK]
        MULTI x => -ERR wrong number of arguments for 'multi' command
        "#,
    );
}

#[test]
fn errors_while_queueing_abort_errors_while_running_do_not() {
    check(
        r#"
        MULTI => +OK
        SET a 1 => +QUEUED
        FROB => -ERR unknown command 'FROB', with args beginning with: 
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        GET a => nil
        MULTI => +OK
        SET a => -ERR wrong number of arguments for 'set' command
        SET b 1 => +QUEUED
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        EXISTS a b => :0
        MULTI => +OK
        SET a word => +QUEUED
        INCR a => +QUEUED
        SET b 2 => +QUEUED
        EXEC => [+OK, -ERR value is not an integer or out of range, +OK]
        MGET a b => ["word", "2"]
        MULTI => +OK
        BEGIN => -ERR BEGIN inside MULTI is not allowed
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        MULTI => +OK
        COMMIT => -ERR COMMIT without BEGIN
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        "#,
    );
}

#[test]
fn exec_selects_and_flushes_within() {
    check(
        r#"
        SET old 1 => +OK
        MULTI => +OK
        FLUSHDB => +QUEUED
        SET new 1 => +QUEUED
        DBSIZE => +QUEUED
        SELECT 2 => +QUEUED
        SET two 2 => +QUEUED
        EXEC => [+OK, +OK, :1, +OK, +OK]
        GET two => "2"
        SELECT 0 => +OK
        KEYS * => ["new"]
        MULTI => +OK
        SET x 1 => +QUEUED
        FLUSHALL => +QUEUED
        EXISTS x => +QUEUED
        EXEC => [+OK, +OK, :0]
        DBSIZE => :0
        "#,
    );
}

/// What happens between WATCH and EXEC, and whether EXEC then answers nil.
#[test]
fn watch_sees_every_kind_of_change() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let (mut client, mut other) = (server.connect(), server.connect());
    for (before, between, changed) in [
        ("SET k 1", "", false),
        ("SET k 1", "GET k", false),
        ("SET k 1", "SET k 2", true),
        ("SET k 1", "SET k 1", true),
        ("SET k 1", "SET k 2\nSET k 1", true),
        ("SET k 1", "DEL k", true),
        ("SET k 1", "DEL k\nSET k 1", true),
        ("SET k 1", "EXPIRE k 1000", true),
        ("SET k 1", "FLUSHDB", true),
        ("SET k 1", "FLUSHALL\nSET k 1", true),
        ("SET k 1", "RENAME k l", true),
        ("SET k 1", "SELECT 1\nSET k 2\nFLUSHDB\nSELECT 0", false),
        ("SET k 1", "SET other 2", false),
        ("SET k 1", "BEGIN\nSET k 2\nROLLBACK", false),
        ("SET k 1", "BEGIN\nSET k 2\nCOMMIT", true),
        ("SET k 1", "MULTI\nSET k 2\nEXEC", true),
        ("DEL k", "", false),
        ("DEL k", "SET k 1", true),
        ("DEL k", "SET k 1\nDEL k", true),
    ] {
        client.send(&pipeline(&format!("FLUSHALL\n{before}\nWATCH k\nGET k\nMULTI\nSET done 1")));
        for _ in 0..6 {
            client.reply();
        }
        for line in between.lines() {
            let reply = other.line(line);
            assert!(!matches!(reply, Value::Error(_)), "{line}: {reply}");
        }
        let expected = if changed { "nil" } else { "[+OK]" };
        assert_eq!(client.line("EXEC").to_string(), expected, "{before}; {between:?}");
        assert_eq!(client.line("EXISTS done"), Value::Integer(i64::from(!changed)));
    }
}

#[test]
fn watch_counts_expiry_as_a_change() {
    let server = Server::start(BINARY, &[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    script(&mut client, "SET k v PX 50 => +OK\nWATCH k => +OK");
    // The key was there when it was watched, unless this machine stood still: then it was absent,
    // and stays so.
    let was_there = client.line("EXISTS k") == Value::Integer(1);
    let limit = Instant::now() + REPLY_WAIT;
    while other.line("EXISTS k") == Value::Integer(1) {
        assert!(Instant::now() < limit);
    }
    script(&mut client, "MULTI => +OK\nPING => +QUEUED");
    let reply = client.line("EXEC").to_string();
    if was_there {
        assert_eq!(reply, "nil");
    }
}

#[test]
fn watch_ends_with_exec_discard_unwatch_and_reset() {
    let server = Server::start(BINARY, &[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    for end in ["MULTI\nEXEC", "MULTI\nDISCARD", "UNWATCH", "RESET"] {
        client.line("WATCH k");
        for line in end.lines() {
            client.line(line);
        }
        other.line("SET k 1");
        script(&mut client, "MULTI => +OK\nPING => +QUEUED\nEXEC => [+PONG]");
    }
    // Own writes count, too, as in Redis.
    script(
        &mut client,
        "WATCH k => +OK
         SET k 2 => +OK
         MULTI => +OK
         PING => +QUEUED
         EXEC => nil",
    );
    client.line("HELLO 3");
    script(
        &mut client,
        "WATCH k => +OK
         SET k 2 => +OK
         MULTI => +OK
         EXEC => nil",
    );
}

#[test]
fn concurrent_watch_transactions_lose_no_update() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let address = server.address();
    server.connect().line("SET n 0");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                for _ in 0..25 {
                    loop {
                        client.line("WATCH n");
                        let n: u64 = client.line("GET n").text().parse().expect("a number");
                        client.send(&pipeline(&format!("MULTI\nSET n {}\nEXEC", n + 1)));
                        let (_, _) = (client.reply(), client.reply());
                        if client.reply() != Value::Null {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(server.connect().line("GET n").text(), "100");
}

#[test]
fn conflicts_inside_exec_are_never_shown() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                for _ in 0..50 {
                    client.send(&pipeline("MULTI\nINCR a\nINCR b\nMGET a b\nEXEC"));
                    for _ in 0..4 {
                        client.reply();
                    }
                    let results = client.reply().elements();
                    assert_eq!(results[0], results[1], "both counters move together");
                }
            });
        }
    });
    script(&mut server.connect(), r#"MGET a b => ["200", "200"]"#);
}

#[test]
fn begin_runs_commands_inside() {
    check(
        r#"
        MSET a 1 b 2 => +OK
        BEGIN => +OK
        INCR a => :2
        SET c 3 => +OK
        DEL b => :1
        GET a => "2"
        RANGE - + => ["a", "2", "c", "3"]
        KEYS * => ["a", "c"]
        SCAN 0 => ["0", ["a", "c"]]
        DBSIZE => :2
        INCR word => :1
        SELECT 1 => +OK
        SET elsewhere 1 => +OK
        SELECT 0 => +OK
        MULTI => -ERR MULTI inside BEGIN is not allowed: it is a transaction already
        WATCH a => -ERR WATCH inside BEGIN is not allowed: what it reads is watched already
        BEGIN => -ERR BEGIN inside BEGIN is not allowed; SAVEPOINT marks a place within
        COMMIT => +OK
        MGET a b c => ["2", nil, "3"]
        COMMIT => -ERR COMMIT without BEGIN
        ROLLBACK => -ERR ROLLBACK without BEGIN
        SAVEPOINT s => -ERR SAVEPOINT without BEGIN
        BEGIN ISOLATION SNAPSHOT => +OK
        FLUSHALL => +OK
        DBSIZE => :0
        ROLLBACK => +OK
        DBSIZE => :3
        BEGIN => +OK
        SET a x => +OK
        INCR a => -ERR value is not an integer or out of range
        FROB => -ERR unknown command 'FROB', with args beginning with: 
        COMMIT => +OK
        GET a => "x"
        BEGIN => +OK
        SET a 1 => +OK
        SAVEPOINT one => +OK
        SET a 2 => +OK
        SAVEPOINT two => +OK
        SET a 3 => +OK
        ROLLBACK TO two => +OK
        GET a => "2"
        ROLLBACK TO one => +OK
        GET a => "1"
        ROLLBACK TO two => -ERR no such savepoint
        ROLLBACK TO one => +OK
        COMMIT => +OK
        GET a => "1"
        BEGIN READ ONLY => +OK
        GET a => "1"
        SET a 2 => -READONLY this transaction was begun as READ ONLY; ROLLBACK and begin another
        RANGE - + LIMIT 1 => ["a", "1"]
        COMMIT => +OK
        GET a => "1"
        BEGIN SIDEWAYS => -ERR syntax error at 'SIDEWAYS'
        BEGIN ISOLATION => -ERR syntax error: ISOLATION wants a value
        BEGIN => +OK
        RESET => +RESET
        COMMIT => -ERR COMMIT without BEGIN
        "#,
    );
}

#[test]
fn begin_is_isolated_and_conflicts_are_shown() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let (mut one, mut two) = (server.connect(), server.connect());
    script(&mut one, "MSET a 1 b 1 => +OK\nBEGIN => +OK\nGET a => \"1\"");
    script(&mut two, "SET a 2 => +OK");
    // Its snapshot does not move, and its commit is refused: what it read has changed.
    script(&mut one, "GET a => \"1\"\nSET b 2 => +OK");
    script(&mut two, "GET b => \"1\"");
    let refused = one.line("COMMIT").to_string();
    assert!(refused.starts_with("-CONFLICT "), "{refused}");
    script(&mut one, r#"MGET a b => ["2", "1"]"#);

    // Write skew: serializable refuses one of the two, snapshot lets both pass.
    for (isolation, second) in [("SERIALIZABLE", "-CONFLICT"), ("SNAPSHOT", "+OK")] {
        for client in [&mut one, &mut two] {
            client.line(&format!("BEGIN ISOLATION {isolation}"));
            client.line("MGET a b");
        }
        one.line("SET a 0");
        two.line("SET b 0");
        assert_eq!(one.line("COMMIT").to_string(), "+OK");
        let reply = two.line("COMMIT").to_string();
        assert!(reply.starts_with(second), "{isolation}: {reply}");
    }

    // Lost update: both levels refuse it.
    for isolation in ["SERIALIZABLE", "SNAPSHOT"] {
        for client in [&mut one, &mut two] {
            client.line(&format!("BEGIN ISOLATION {isolation}"));
            client.line("INCR n");
        }
        assert_eq!(one.line("COMMIT").to_string(), "+OK");
        assert!(two.line("COMMIT").to_string().starts_with("-CONFLICT "));
    }

    // A phantom: a range that was read, and found empty, is written to.
    one.line("BEGIN");
    assert_eq!(one.line("RANGE p q").to_string(), "[]");
    one.line("SET seen 1");
    two.line("SET pp 1");
    assert!(one.line("COMMIT").to_string().starts_with("-CONFLICT "));

    // A read-only transaction keeps its point in time and never conflicts.
    one.line("BEGIN READ ONLY");
    let before = one.line("RANGE - +");
    two.line("SET zz 1");
    assert_eq!(one.line("RANGE - +"), before);
    assert_eq!(one.line("COMMIT").to_string(), "+OK");
}

#[test]
fn a_lost_connection_rolls_back() {
    let server = Server::start(BINARY, &[]);
    let mut dying = server.connect();
    script(&mut dying, "BEGIN => +OK\nGET a => nil\nSET a 1 => +OK");
    drop(dying);
    let mut queueing = server.connect();
    script(&mut queueing, "MULTI => +OK\nSET a 1 => +QUEUED");
    drop(queueing);
    let mut client = server.connect();
    // The snapshots of the lost ones are given back, too.
    let limit = Instant::now() + REPLY_WAIT;
    while !client.line("INFO isolith").text().contains("snapshots:0\r\n") {
        assert!(Instant::now() < limit, "a lost transaction keeps its snapshot");
    }
    script(&mut client, "GET a => nil");
}

#[test]
fn an_idle_transaction_is_rolled_back_and_says_so() {
    let server = Server::start(BINARY, &["--transaction-idle", "1"]);
    let (mut client, mut other) = (server.connect(), server.connect());
    script(&mut client, "BEGIN => +OK\nGET a => nil\nSET a 1 => +OK");
    let limit = Instant::now() + REPLY_WAIT;
    while !other.line("INFO isolith").text().contains("snapshots:0\r\n") {
        assert!(Instant::now() < limit, "an idle transaction stays");
    }
    let aborted = "ABORTED retry=now age=1 the transaction was idle for 1 s; nothing was done";
    script(
        &mut client,
        &format!(
            "SET b 1 => -{aborted}: send ROLLBACK
             COMMIT => -{aborted}: begin again
             EXISTS a b => :0
             SET b 1 => +OK"
        ),
    );
}
