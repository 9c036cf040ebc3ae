//! Every command of the table, over a socket: replies, types and error texts as in Redis 7.

use isolith_testkit::server::{Server, Value, script};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn check(text: &str) {
    let server = Server::start(BINARY, &[]);
    script(&mut server.connect(), text);
}

/// Polls until the reply is `expected`: for what time brings. The harness's limit ends it.
fn until(client: &mut isolith_testkit::server::Client, command: &str, expected: &str) {
    let limit = std::time::Instant::now() + isolith_testkit::server::REPLY_WAIT;
    while client.line(command).to_string() != expected {
        assert!(std::time::Instant::now() < limit, "{command} never gave {expected}");
        std::thread::yield_now();
    }
}

#[test]
fn strings() {
    check(
        r#"
        GET a => nil
        SET a 1 => +OK
        GET a => "1"
        get a => "1"
        GET => -ERR wrong number of arguments for 'get' command
        GET a b => -ERR wrong number of arguments for 'get' command
        STRLEN a => :1
        STRLEN none => :0
        APPEND a 23 => :3
        APPEND new xyz => :3
        GET a => "123"
        GETRANGE new 0 0 => "x"
        GETRANGE new -2 -1 => "yz"
        GETRANGE new 1 100 => "yz"
        GETRANGE new 5 9 => ""
        GETRANGE new -1 -2 => ""
        GETRANGE none 0 -1 => ""
        GETRANGE new x 1 => -ERR value is not an integer or out of range
        SETRANGE new 1 AB => :3
        GET new => "xAB"
        SETRANGE pad 2 z => :3
        GET pad => "\x00\x00z"
        SETRANGE pad2 2 "" => :0
        EXISTS pad2 => :0
        SETRANGE pad -1 z => -ERR offset is out of range
        SETRANGE pad 536870912 z => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        GETSET a 9 => "123"
        GETSET fresh 9 => nil
        GETDEL fresh => "9"
        GETDEL fresh => nil
        SETNX a 1 => :0
        SETNX nx 1 => :1
        MSET m1 a m2 b m1 c => +OK
        MGET m1 m2 none a => ["c", "b", nil, "9"]
        MSET m1 => -ERR wrong number of arguments for 'mset' command
        MSET m1 a m2 => -ERR wrong number of arguments for 'mset' command
        MSETNX m9 a m1 b => :0
        EXISTS m9 => :0
        MSETNX m8 a m9 b => :1
        MSETNX m8 => -ERR wrong number of arguments for 'msetnx' command
        SET empty "" => +OK
        GET empty => ""
        EXISTS empty => :1
        "#,
    );
}

#[test]
fn counters() {
    check(
        r#"
        INCR n => :1
        INCR n => :2
        DECR n => :1
        INCRBY n 41 => :42
        DECRBY n 2 => :40
        DECR fresh => :-1
        INCRBY n x => -ERR value is not an integer or out of range
        SET s abc => +OK
        INCR s => -ERR value is not an integer or out of range
        SET s 01 => +OK
        INCR s => -ERR value is not an integer or out of range
        SET s 9223372036854775807 => +OK
        INCR s => -ERR increment or decrement would overflow
        GET s => "9223372036854775807"
        DECRBY n -9223372036854775808 => -ERR decrement would overflow
        SET s -9223372036854775808 => +OK
        DECR s => -ERR increment or decrement would overflow
        SET s 9223372036854775808 => +OK
        INCR s => -ERR value is not an integer or out of range
        SET ttl 5 EX 1000 => +OK
        INCR ttl => :6
        TTL ttl => :1000 | :999
        "#,
    );
}

#[test]
fn set_takes_all_its_options() {
    check(
        r#"
        SET k v NX => +OK
        SET k w NX => nil
        GET k => "v"
        SET k w XX => +OK
        SET none w XX => nil
        EXISTS none => :0
        SET k x GET => "w"
        SET new x GET => nil
        GET new => "x"
        SET new y NX GET => "x"
        GET new => "x"
        SET absent y XX GET => nil
        EXISTS absent => :0
        SET k v EX 100 => +OK
        TTL k => :100 | :99
        SET k v KEEPTTL => +OK
        TTL k => :100 | :99
        SET k v => +OK
        TTL k => :-1
        SET k v PX 100000 => +OK
        TTL k => :100 | :99
        SET k v EXAT 33177117420 => +OK
        EXPIRETIME k => :33177117420
        SET k v PXAT 33177117420001 => +OK
        PEXPIRETIME k => :33177117420001
        set k v ex 100 xx get => "v"
        SET k v EXAT 1 => +OK
        EXISTS k => :0
        SET k v NX XX => -ERR syntax error
        SET k v EX 1 PX 1 => -ERR syntax error
        SET k v EX 1 KEEPTTL => -ERR syntax error
        SET k v EX => -ERR syntax error
        SET k v NOPE => -ERR syntax error
        SET k v EX x => -ERR value is not an integer or out of range
        SET k v EX 0 => -ERR invalid expire time in 'set' command
        SET k v EX -1 => -ERR invalid expire time in 'set' command
        SET k v EX 9223372036854775807 => -ERR invalid expire time in 'set' command
        SET k v PX 9223372036854775807 => -ERR invalid expire time in 'set' command
        SET k => -ERR wrong number of arguments for 'set' command
        SETEX k 100 v => +OK
        TTL k => :100 | :99
        SETEX k 0 v => -ERR invalid expire time in 'setex' command
        PSETEX k 100000 v => +OK
        TTL k => :100 | :99
        PSETEX k -5 v => -ERR invalid expire time in 'psetex' command
        GETEX k => "v"
        TTL k => :100 | :99
        GETEX k PERSIST => "v"
        TTL k => :-1
        GETEX k EX 50 => "v"
        TTL k => :50 | :49
        GETEX k PXAT 33177117420001 => "v"
        PEXPIRETIME k => :33177117420001
        GETEX k EX => -ERR syntax error
        GETEX k EX 0 => -ERR invalid expire time in 'getex' command
        GETEX k PERSIST 1 => -ERR syntax error
        GETEX none EX 10 => nil
        GETEX k EXAT 1 => "v"
        GET k => nil
        "#,
    );
}

#[test]
fn keys_and_their_expiry() {
    check(
        r#"
        SET a 1 => +OK
        SET b 2 => +OK
        EXISTS a b a none => :3
        TOUCH a none => :1
        TYPE a => +string
        TYPE none => +none
        DEL a none a => :1
        UNLINK b => :1
        DEL => -ERR wrong number of arguments for 'del' command
        TTL none => :-2
        PTTL none => :-2
        EXPIRETIME none => :-2
        EXPIRE none 10 => :0
        SET k v => +OK
        TTL k => :-1
        PEXPIRETIME k => :-1
        EXPIRE k 100 => :1
        TTL k => :100 | :99
        EXPIRE k 200 NX => :0
        EXPIRE k 200 XX => :1
        EXPIRE k 100 GT => :0
        EXPIRE k 300 GT => :1
        EXPIRE k 400 LT => :0
        EXPIRE k 100 LT => :1
        PERSIST k => :1
        PERSIST k => :0
        PERSIST none => :0
        EXPIRE k 100 XX => :0
        EXPIRE k 100 GT => :0
        EXPIRE k 100 LT => :1
        PERSIST k => :1
        EXPIRE k 100 NX => :1
        EXPIRE k 1 NX XX => -ERR NX and XX, GT or LT options at the same time are not compatible
        EXPIRE k 1 GT LT => -ERR GT and LT options at the same time are not compatible
        EXPIRE k 1 NOW => -ERR Unsupported option NOW
        EXPIRE k x => -ERR value is not an integer or out of range
        EXPIRE k 9223372036854775807 => -ERR invalid expire time in 'expire' command
        PEXPIRE k 9223372036854775807 => -ERR invalid expire time in 'pexpire' command
        EXPIREAT k 33177117420 => :1
        EXPIRETIME k => :33177117420
        PEXPIREAT k 33177117420500 => :1
        PEXPIRETIME k => :33177117420500
        PEXPIRE k 100000 => :1
        GET k => "v"
        EXPIRE k -1 => :1
        GET k => nil
        SET k v => +OK
        EXPIREAT k 1 => :1
        EXISTS k => :0
        SET from v EX 100 => +OK
        RENAME from to => +OK
        TTL to => :100 | :99
        EXISTS from => :0
        RENAME from to => -ERR no such key
        SET other w => +OK
        RENAMENX to other => :0
        RENAMENX to newest => :1
        GET newest => "v"
        RENAME newest newest => +OK
        "#,
    );
}

#[test]
fn what_is_expired_is_gone_for_every_reader() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    script(
        &mut client,
        "SET k v PX 1 => +OK
         SET stays v => +OK",
    );
    until(&mut client, "GET k", "nil");
    script(
        &mut client,
        r#"EXISTS k => :0
           TTL k => :-2
           TYPE k => +none
           STRLEN k => :0
           MGET k stays => [nil, "v"]
           KEYS * => ["stays"]
           SCAN 0 => ["0", ["stays"]]
           RANGE - + => ["stays", "v"]
           DBSIZE => :1
           PERSIST k => :0
           SET k w XX => nil
           INCR k => :1
           TTL k => :-1"#,
    );
}

#[test]
fn databases_are_apart() {
    check(
        r#"
        SET k zero => +OK
        SELECT 1 => +OK
        GET k => nil
        SET k one => +OK
        DBSIZE => :1
        SELECT 15 => +OK
        SELECT 16 => -ERR DB index is out of range
        SELECT -1 => -ERR DB index is out of range
        SELECT x => -ERR value is not an integer or out of range
        SELECT 0 => +OK
        GET k => "zero"
        FLUSHDB => +OK
        DBSIZE => :0
        SELECT 1 => +OK
        GET k => "one"
        FLUSHALL ASYNC => +OK
        DBSIZE => :0
        FLUSHDB NOW => -ERR syntax error
        FLUSHALL SYNC NOW => -ERR syntax error
        SET k again => +OK
        DBSIZE => :1
        "#,
    );
}

#[test]
fn ranges_are_deleted_whatever_they_hold() {
    check(
        r#"
        MSET b 2 a 1 d 4 c 3 => +OK
        DELRANGE b d => +OK
        RANGE - + => ["a", "1", "d", "4"]
        DELRANGE d a => +OK
        DELRANGE a a => +OK
        DELRANGE x z => +OK
        MULTI => +OK
        DELRANGE - b => +QUEUED
        SET b 5 => +QUEUED
        RANGE - + => +QUEUED
        EXEC => [+OK, +OK, ["b", "5", "d", "4"]]
        BEGIN READ ONLY => +OK
        DELRANGE - + => -READONLY this transaction was begun as READ ONLY; ROLLBACK and begin another
        ROLLBACK => +OK
        BEGIN => +OK
        DELRANGE - + => +OK
        RANGE - + => []
        ROLLBACK => +OK
        DELRANGE c + => +OK
        RANGE - + => ["b", "5"]
        DELRANGE a => -ERR wrong number of arguments for 'delrange' command
        "#,
    );
}

#[test]
fn ranges_come_in_order_from_either_end() {
    check(
        r#"
        MSET b 2 a 1 d 4 c 3 => +OK
        RANGE - + => ["a", "1", "b", "2", "c", "3", "d", "4"]
        RANGE b d => ["b", "2", "c", "3"]
        RANGE b + LIMIT 2 => ["b", "2", "c", "3"]
        RANGE - + REV LIMIT 1 => ["d", "4"]
        RANGE - c REV => ["b", "2", "a", "1"]
        RANGE d b => []
        RANGE b b => []
        RANGE - + LIMIT 0 => []
        RANGE x z => []
        RANGE - + LIMIT -1 => -ERR value is not an integer or out of range
        RANGE - + LIMIT => -ERR syntax error
        RANGE - + NOW => -ERR syntax error
        RANGE - => -ERR wrong number of arguments for 'range' command
        HELLO 4 => -NOPROTO unsupported protocol version
        "#,
    );
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    client.line("HELLO 3");
    script(
        &mut client,
        r#"MSET b 2 a 1 => +OK
           RANGE - + => [["a", "1"], ["b", "2"]]
           GET none => nil"#,
    );
}

#[test]
fn scan_visits_every_key_that_stays() {
    let server = Server::start(BINARY, &[]);
    let (mut client, mut other) = (server.connect(), server.connect());
    for number in 0..500 {
        client.line(&format!("SET key:{number} v"));
    }
    // Keys come and go during the iteration, on another connection.
    let (mut cursor, mut seen, mut step) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let reply = client.line(&format!("SCAN {cursor} COUNT 7")).elements();
        seen.extend(reply[1].clone().elements().iter().map(Value::text));
        cursor = reply[0].text();
        other.line(&format!("SET extra:{step} v"));
        other.line(&format!("DEL extra:{}", step / 2));
        step += 1;
        if cursor == "0" {
            break;
        }
    }
    let mut stayed: Vec<&String> = seen.iter().filter(|key| key.starts_with("key:")).collect();
    assert_eq!(stayed.len(), 500, "each once");
    stayed.dedup();
    assert_eq!(stayed.len(), 500);
    assert!(step >= 500 / 7);
    script(
        &mut client,
        r#"SCAN 0 MATCH key:49? COUNT 1000 => ["0", ["key:490", "key:491", "key:492", "key:493", "key:494", "key:495", "key:496", "key:497", "key:498", "key:499"]]
           SCAN 0 MATCH nothing:* => ["0", []]
           SCAN 0 MATCH key:499 TYPE string COUNT 1000 => ["0", ["key:499"]]
           SCAN 0 MATCH key:499 TYPE list COUNT 1000 => ["0", []]
           SCAN x => -ERR invalid cursor
           SCAN 77777777 => -ERR invalid cursor
           SCAN 0 COUNT 0 => -ERR syntax error
           SCAN 0 COUNT x => -ERR value is not an integer or out of range
           SCAN 0 MATCH => -ERR syntax error
           SCAN 0 FOO bar => -ERR syntax error
           KEYS key:1?2 => ["key:102", "key:112", "key:122", "key:132", "key:142", "key:152", "key:162", "key:172", "key:182", "key:192"]
           KEYS none* => []"#,
    );
    // A cursor is good on another connection, and once more after its answer was lost.
    let first = client.line("SCAN 0 COUNT 10").elements();
    let cursor = first[0].text();
    let second = other.line(&format!("SCAN {cursor} COUNT 10"));
    let again = client.line(&format!("SCAN {cursor} COUNT 10"));
    assert_eq!(second.elements()[1], again.elements()[1]);
}

#[test]
fn connection_commands() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    script(
        &mut client,
        r#"
        PING => +PONG
        PING hello => "hello"
        PING a b => -ERR wrong number of arguments for 'ping' command
        ECHO hello => "hello"
        AUTH secret => -ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?
        AUTH default anything => +OK
        AUTH alice secret => -WRONGPASS invalid username-password pair or user is disabled.
        CLIENT GETNAME => nil
        CLIENT SETNAME tester => +OK
        CLIENT GETNAME => "tester"
        CLIENT SETINFO LIB-NAME mylib => +OK
        CLIENT SETINFO lib-ver 1.2 => +OK
        CLIENT SETINFO COLOUR red => -ERR Unrecognized option 'COLOUR'
        CLIENT NO-EVICT ON => +OK
        CLIENT NO-TOUCH off => +OK
        CLIENT NO-EVICT maybe => -ERR syntax error
        CLIENT FROB => -ERR unknown subcommand 'FROB'. Try CLIENT HELP.
        CLIENT SETNAME => -ERR wrong number of arguments for 'client|setname' command
        CLIENT => -ERR wrong number of arguments for 'client' command
        FROB a b => -ERR unknown command 'FROB', with args beginning with: 'a' 'b' 
        HELLO x => -ERR Protocol version is not an integer or out of range
        HELLO 9 => -NOPROTO unsupported protocol version
        HELLO 2 FOO bar => -ERR Syntax error in HELLO option 'FOO'
        HELLO 3 AUTH alice x => -WRONGPASS invalid username-password pair or user is disabled.
        "#,
    );
    assert_eq!(
        client.command(&["CLIENT", "SETNAME", "two words"]).to_string(),
        "-ERR Client names cannot contain spaces, newlines or special characters."
    );
    let id = client.line("CLIENT ID");
    let list = client.line("CLIENT LIST").text();
    let Value::Integer(id) = id else { panic!("an id: {id}") };
    assert!(list.contains(&format!("id={id} ")), "{list}");
    assert!(list.contains("name=tester"), "{list}");
    assert!(list.contains("lib-name=mylib lib-ver=1.2"), "{list}");
    assert!(client.line("CLIENT INFO").text().starts_with(&format!("id={id} ")));
    assert!(client.line(&format!("CLIENT LIST ID {id}")).text().lines().count() == 1);
    assert_eq!(client.line("CLIENT LIST ID 999999").text(), "");

    let hello = client.line("HELLO 3 SETNAME third");
    let Value::Map(fields) = &hello else { panic!("RESP3 has maps: {hello}") };
    let field = |name: &str| {
        fields.iter().find(|(key, _)| key.text() == name).map(|(_, value)| value.to_string())
    };
    assert_eq!(field("proto").as_deref(), Some(":3"));
    assert_eq!(field("role").as_deref(), Some("\"master\""));
    assert_eq!(client.line("CLIENT GETNAME").text(), "third");
    assert_eq!(client.line("SELECT 3").text(), "OK");
    script(
        &mut client,
        "RESET => +RESET
         CLIENT GETNAME => nil",
    );
    assert!(matches!(client.line("CONFIG GET port"), Value::Array(_)), "RESET is RESP2 again");
    assert_eq!(client.line("QUIT").text(), "OK");
    assert!(client.is_closed());
}

#[test]
fn client_kill_closes_others() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let mut client = server.connect();
    let mut victims: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for (index, victim) in victims.iter_mut().enumerate() {
        let Value::Integer(id) = victim.line("CLIENT ID") else { panic!("an id") };
        let address = victim.local_address();
        let (command, reply) = match index % 2 {
            0 => (format!("CLIENT KILL ID {id}"), ":1"),
            _ => (format!("CLIENT KILL {address}"), "+OK"),
        };
        assert_eq!(client.line(&command).to_string(), reply);
        assert!(victim.is_closed());
    }
    script(
        &mut client,
        "CLIENT KILL TYPE pubsub => :0
         CLIENT KILL TYPE frob => -ERR Unknown client type 'frob'
         CLIENT KILL USER nobody => -ERR No such user 'nobody'
         ACL SETUSER worker on nopass +@all => +OK
         CLIENT KILL USER worker => :0
         CLIENT KILL 1.2.3.4:5 => -ERR No such client
         CLIENT KILL ID 0 => -ERR client-id should be greater than 0
         CLIENT KILL ID 999999 => :0
         PING => +PONG",
    );
    let mut worker = server.connect();
    script(&mut worker, "AUTH worker x => +OK");
    script(&mut client, "CLIENT KILL USER worker TYPE normal => :1\nPING => +PONG");
    assert!(worker.is_closed());
    let list = client.line("CLIENT LIST").text();
    assert!(list.contains(" cmd=client|list "), "{list}");
}

#[test]
fn server_commands() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    let info = client.line("INFO").text();
    for line in ["redis_version:", "loading:0", "role:master", "# Keyspace", "tcp_port:"] {
        assert!(info.contains(line), "{line} in {info}");
    }
    client.line("SET a 1");
    let files = client.line("INFO files").text();
    for name in ["files:", "files_bytes:", "flushes:", "write_amplification:", "log_held_bytes:"] {
        assert!(files.contains(name), "{name} in {files}");
    }
    let keyspace = client.line("INFO keyspace").text();
    assert!(keyspace.contains("db0:keys=1,") && !keyspace.contains("role:"), "{keyspace}");
    script(
        &mut client,
        r#"
        CONFIG GET save => ["save", ""]
        CONFIG GET appendonly => ["appendonly", "yes"]
        CONFIG GET databases save => ["databases", "16", "save", ""]
        CONFIG GET nothing => []
        CONFIG SET save "" => +OK
        CONFIG SET maxmemory 1 => -ERR CONFIG SET failed (possibly related to argument 'maxmemory') - can't set immutable config
        CONFIG SET frob 1 => -ERR Unknown option or number of arguments for CONFIG SET - 'frob'
        CONFIG RESETSTAT => +OK
        FUNCTION FLUSH => +OK
        COMMAND INFO get frob => [["get", :2, [+readonly, +fast], :1, :1, :1, [+@string, +@read, +@fast], [], [], []], nil]
        COMMAND GETKEYS MSET a 1 b 2 => ["a", "b"]
        COMMAND GETKEYS PING => -ERR The command has no key arguments
        COMMAND GETKEYS FROB => -ERR Invalid command specified
        "#,
    );
    let Value::Integer(count) = client.line("COMMAND COUNT") else { panic!("a count") };
    assert_eq!(client.line("COMMAND").elements().len() as i64, count);
    assert_eq!(client.line("COMMAND LIST").elements().len() as i64, count);
    assert_eq!(client.line("COMMAND DOCS").elements().len() as i64, 2 * count);
    let docs = client.line("COMMAND DOCS get").to_string();
    assert!(docs.contains("Gives the value, or null"), "{docs}");
    let time = client.line("TIME").elements();
    assert_eq!(time.len(), 2);
    assert!(time[0].text().parse::<u64>().is_ok_and(|seconds| seconds > 1_700_000_000));
}

#[test]
fn pipelines_are_answered_in_order() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    // Writes, reads of what was just written, errors, other keyspaces, transactions: in one write.
    let mut sent = Vec::new();
    let mut expected = Vec::new();
    for round in 0..200 {
        let lines = format!(
            "SET k {round}\nGET k\nINCR n\nPING\nGET n\nMGET k n\nINCR word\nSET word x\nDEL k\nGET k\n\
             MULTI\nINCR n\nEXEC\nSELECT 1\nINCR n\nSELECT 0\nSTRLEN word\n"
        );
        sent.extend(isolith_testkit::server::pipeline(&lines));
        let n = 2 * round + 1;
        let error = "-ERR value is not an integer or out of range";
        let incr = if round == 0 { ":1" } else { error };
        expected.extend(
            [
                "+OK",
                &format!("\"{round}\""),
                &format!(":{n}"),
                "+PONG",
                &format!("\"{n}\""),
                &format!("[\"{round}\", \"{n}\"]"),
                incr,
                "+OK",
                ":1",
                "nil",
                "+OK",
                "+QUEUED",
                &format!("[:{}]", n + 1),
                "+OK",
                &format!(":{}", round + 1),
                "+OK",
                ":1",
            ]
            .map(str::to_owned),
        );
    }
    client.send(&sent);
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(&client.reply().to_string(), expected, "reply {index}");
    }
}

#[test]
fn writes_and_reads_of_many_connections_agree() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let mut client =
                    isolith_testkit::server::Client::connect(address).expect("a connection");
                // Half of them pipelined, so that batches meet single commands on a hot key.
                for _ in 0..10 {
                    client.send(&isolith_testkit::server::pipeline(&"INCR hot\n".repeat(10)));
                    let mut last = 0;
                    for _ in 0..10 {
                        let Value::Integer(value) = client.reply() else { panic!("a number") };
                        assert!(value > last, "own increments are seen in order");
                        last = value;
                    }
                    client.line("INCR hot");
                }
            });
        }
    });
    assert_eq!(server.connect().line("GET hot").text(), (8 * 10 * 11).to_string());
}

#[test]
fn large_values_go_both_ways() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    let value: Vec<u8> = (0..20_000_000u32).map(|index| (index % 251) as u8).collect();
    assert_eq!(client.command(&[&b"SET"[..], b"big", &value]).text(), "OK");
    assert_eq!(client.command(&["STRLEN", "big"]), Value::Integer(value.len() as i64));
    assert_eq!(client.command(&["GET", "big"]), Value::Bulk(value.clone()));
    // Several of them in one pipeline: more than the output may hold.
    client.send(&isolith_testkit::server::pipeline("GET big\nGET big\nGET big\nPING"));
    for _ in 0..3 {
        assert_eq!(client.reply(), Value::Bulk(value.clone()));
    }
    assert_eq!(client.reply().text(), "PONG");
    let key = vec![b'k'; 65_536];
    assert_eq!(client.command(&[&b"SET"[..], &key, b"v"]).text(), "OK");
    let key = vec![b'k'; 65_537];
    let refused = client.command(&[&b"SET"[..], &key, b"v"]).to_string();
    assert!(refused.starts_with("-ERR a key of 65537 bytes"), "{refused}");
    assert_eq!(client.command(&[&b"GET"[..], &key]), Value::Null);
}

#[test]
fn every_durability_answers() {
    for level in ["sync", "os", "buffered"] {
        let server = Server::start(BINARY, &["--durability", level]);
        script(
            &mut server.connect(),
            &format!(
                "SET a 1 => +OK
                 GET a => \"1\"
                 INCR a => :2
                 CONFIG GET durability => [\"durability\", \"{level}\"]
                 BEGIN DURABILITY SYNC => +OK
                 SET b 1 => +OK
                 COMMIT => +OK
                 BEGIN DURABILITY BUFFERED => +OK
                 SET b 2 => +OK
                 COMMIT => +OK
                 GET b => \"2\""
            ),
        );
    }
}

#[test]
fn keyspaces_and_their_options() {
    check(
        r#"
        KEYSPACE OPTIONS none => nil
        KEYSPACE OPTIONS db3 => ["compression", "lz4", "filter", "10", "prefix", "none", "ttl", "0", "merge", "none", "block", "4096", "large", "default"]
        KEYSPACE SET db3 COMPRESSION zstd:9 TTL 60000 PREFIX upto:: MERGE add-i64 => +OK
        KEYSPACE OPTIONS db3 => ["compression", "zstd:9", "filter", "10", "prefix", "upto::", "ttl", "60000", "merge", "add-i64", "block", "4096", "large", "default"]
        KEYSPACE SET db3 FILTER 0 => -ERR a keyspace's options: a filter of prefixes contradicts filters of no bits
        KEYSPACE SET db3 PREFIX none FILTER 0 => +OK
        KEYSPACE SET db3 LARGE much => -ERR 'much' is no value of the option 'LARGE'
        KEYSPACE SET db3 LARGE 4096 => +OK
        KEYSPACE OPTIONS db3 => ["compression", "zstd:9", "filter", "0", "prefix", "none", "ttl", "60000", "merge", "add-i64", "block", "4096", "large", "4096"]
        KEYSPACE SET db3 LARGE default => +OK
        KEYSPACE SET db3 TTL soon => -ERR 'soon' is no value of the option 'TTL'
        KEYSPACE SET db3 SIZE 3 => -ERR '3' is no value of the option 'SIZE'
        KEYSPACE SET db3 MERGE mine => -ERR the merge operator 'mine' is not registered: open the database with it
        KEYSPACE SET db3 TTL => -ERR wrong number of arguments for 'keyspace|set' command
        KEYSPACE SET db3 TTL 1 BLOCK => -ERR syntax error
        KEYSPACE SET none TTL 1 => -ERR no such keyspace
        KEYSPACE CREATE logs COMPRESSION zstd PREFIX length:4 BLOCK 65536 => +OK
        KEYSPACE CREATE logs COMPRESSION zstd PREFIX length:4 BLOCK 65536 => +OK
        KEYSPACE CREATE logs => -ERR keyspace 'logs' is there already, with other options
        KEYSPACE OPTIONS logs => ["compression", "zstd:3", "filter", "10", "prefix", "length:4", "ttl", "0", "merge", "none", "block", "65536", "large", "default"]
        KEYSPACE LIST => ["db0", "db1", "db10", "db11", "db12", "db13", "db14", "db15", "db2", "db3", "db4", "db5", "db6", "db7", "db8", "db9", "logs"]
        SELECT 3 => +OK
        SET k 1 => +OK
        EXPIRETIME none => :-2
        PERSIST k => :1
        TTL k => :-1
        INCR k => :2
        APPEND k 0 => :2
        TTL k => :-1
        RENAME k l => +OK
        TTL l => :-1
        SET l 5 KEEPTTL => +OK
        TTL l => :-1
        INCR n => :1
        PERSIST n => :1
        MERGE n "" 4 => +OK
        GET n => "5"
        SET m 1 EX 100000 => +OK
        GETEX m PERSIST => "1"
        TTL m => :-1
        "#,
    );
}
