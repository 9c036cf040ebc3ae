//! What operators ask a server for: pauses, replies, slow commands, durability, its end.

use isolith_testkit::server::{Server, pipeline, script};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

#[test]
fn paused_commands_wait_and_others_do_not() {
    let server = Server::start(BINARY, &[]);
    let (mut operator, mut writer) = (server.connect(), server.connect());
    script(&mut operator, "CLIENT PAUSE 100000 WRITE => +OK");
    writer.send(&pipeline("GET a\nSET a 1\nGET a"));
    assert_eq!(writer.reply().to_string(), "nil");
    script(
        &mut operator,
        r#"
        GET a => nil
        MULTI => +OK
        GET a => +QUEUED
        DISCARD => +OK
        CLIENT PAUSE x => -ERR timeout is not an integer or out of range
        CLIENT PAUSE -1 => -ERR timeout is negative
        CLIENT UNPAUSE => +OK
        "#,
    );
    assert_eq!(writer.reply().to_string(), "+OK");
    assert_eq!(writer.reply().to_string(), "\"1\"");
    script(&mut operator, "CLIENT PAUSE 100000 ALL => +OK");
    writer.send(&pipeline("GET a"));
    script(&mut operator, "CLIENT UNPAUSE => +OK");
    assert_eq!(writer.reply().to_string(), "\"1\"");
    // A pause ends by itself, too.
    script(&mut operator, "CLIENT PAUSE 1 => +OK\nSET a 2 => +OK");
}

#[test]
fn replies_can_be_left_out() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    client.send(&pipeline(
        "CLIENT REPLY OFF\nSET a 1\nGET a\nINCR a\nMULTI\nINCR a\nEXEC\nnosuch\nCLIENT REPLY ON\nGET a\n\
         CLIENT REPLY SKIP\nINCR a\nINCR a\nCLIENT REPLY SKIP\nGET a\nPING",
    ));
    for expected in ["+OK", "\"3\"", ":5", "+PONG"] {
        assert_eq!(client.reply().to_string(), expected);
    }
}

#[test]
fn slow_commands_are_noted_and_secrets_are_not() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    script(
        &mut client,
        r#"
        SLOWLOG LEN => :0
        CONFIG SET slowlog-log-slower-than 0 => +OK
        GET a => nil
        AUTH default secret => +OK
        CONFIG SET slowlog-log-slower-than -1 => +OK
        SLOWLOG LEN => :1
        SLOWLOG GET x => -ERR value is not an integer or out of range
        SLOWLOG GET -2 => -ERR count should be greater than or equal to -1
        "#,
    );
    let log = client.line("SLOWLOG GET").to_string();
    assert!(log.contains("[\"GET\", \"a\"]"), "{log}");
    script(
        &mut client,
        "SLOWLOG RESET => +OK\nSLOWLOG LEN => :0\nCONFIG SET slowlog-max-len 1 => +OK\n\
         CONFIG SET slowlog-log-slower-than 0 => +OK\nPING => +PONG\nPING => +PONG\nSLOWLOG LEN => :1",
    );
}

#[test]
fn durability_can_be_waited_for() {
    let mut server = Server::start(BINARY, &["--durability", "buffered"]);
    let mut client = server.connect();
    script(
        &mut client,
        r#"
        SET a 1 => +OK
        WAITAOF 1 0 0 => [:1, :0]
        WAITAOF 2 0 0 => -ERR value is out of range, must be between 0 and 1
        WAITAOF 1 0 -1 => -ERR timeout is negative
        WAIT 0 0 => :0
        SAVE => +OK
        BGSAVE => +Background saving started
        MULTI => +OK
        SAVE => -ERR Command not allowed inside a transaction
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        SET b 1 => +OK
        SAVE => +OK
        "#,
    );
    server.kill();
    server.restart();
    script(&mut server.connect(), "MGET a b => [\"1\", \"1\"]");
}

#[test]
fn shutdown_ends_the_server_in_order() {
    let mut server = Server::start(BINARY, &["--durability", "buffered"]);
    let mut client = server.connect();
    script(
        &mut client,
        "SHUTDOWN ABORT => -ERR No shutdown in progress.\nSHUTDOWN maybe => -ERR syntax error\nSET a 1 => +OK",
    );
    client.send(&pipeline("SHUTDOWN NOSAVE"));
    assert!(client.is_closed());
    assert!(server.wait().success());
    server.restart();
    script(&mut server.connect(), "GET a => \"1\"");
}

#[test]
fn what_is_said_of_the_server_and_of_itself() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    script(
        &mut client,
        r#"
        LATENCY LATEST => []
        LATENCY HISTORY command => []
        LATENCY RESET => :0
        CLIENT TRACKING OFF => +OK
        CLIENT GETREDIR => :-1
        OBJECT ENCODING none => nil
        SET n 12 => +OK
        OBJECT ENCODING n => "int"
        OBJECT REFCOUNT n => :1
        OBJECT FREQ n => -ERR nothing is evicted here, so neither idle time nor access frequency is tracked
        MEMORY USAGE none => nil
        RANDOMKEY => "n"
        ACL CAT nosuch => -ERR Unknown category 'nosuch'
        COMMAND GETKEYS BITOP AND d a b => ["d", "a", "b"]
        "#,
    );
    assert!(client.line("CLIENT TRACKING ON").to_string().starts_with("-ERR"));
    assert!(client.line("LOLWUT").text().contains("Redis ver."));
    assert!(client.line("LATENCY DOCTOR").text().contains("SLOWLOG"));
    assert!(client.line("ACL CAT bitmap").to_string().contains("\"bitcount\""));
    let help = client.line("SLOWLOG HELP").to_string();
    assert!(help.contains("+GET [count]") && help.contains("+HELP"), "{help}");
    let last: i64 = match client.line("LASTSAVE") {
        isolith_testkit::server::Value::Integer(last) => last,
        other => panic!("{other}"),
    };
    assert!(last > 1_700_000_000, "{last}");
}

#[test]
fn every_key_can_be_drawn() {
    let server = Server::start(BINARY, &["--durability", "buffered"]);
    let mut client = server.connect();
    assert_eq!(client.line("RANDOMKEY").to_string(), "nil");
    let keys = ["", "a", "ab", "abc", "b", "key:1", "key:10", "key:2", "\u{ff}"];
    for key in keys {
        client.command(&["SET", key, "1"]);
    }
    let mut left: Vec<&str> = keys.to_vec();
    // Each is drawn with one chance in 64 at the least: that many draws miss none.
    for _ in 0..20_000 {
        let drawn = client.line("RANDOMKEY").text();
        left.retain(|key| *key != drawn);
        if left.is_empty() {
            return;
        }
    }
    panic!("never drawn: {left:?}");
}
