//! Users: who may connect, who may do what, and what a client may do before it has said who it is.

use isolith_testkit::server::{Server, run, script};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

#[test]
fn a_password_is_asked_for() {
    let server = Server::start(BINARY, &["--requirepass", "secret"]);
    script(
        &mut server.connect(),
        r#"
        GET a => -NOAUTH Authentication required.
        MULTI => -NOAUTH Authentication required.
        nosuch => -ERR unknown command 'nosuch', with args beginning with:
        AUTH wrong => -WRONGPASS invalid username-password pair or user is disabled.
        AUTH nobody secret => -WRONGPASS invalid username-password pair or user is disabled.
        GET a => -NOAUTH Authentication required.
        AUTH secret => +OK
        GET a => nil
        ACL WHOAMI => "default"
        RESET => +RESET
        GET a => -NOAUTH Authentication required.
        AUTH default secret => +OK
        SET a 1 => +OK
        "#,
    );
    let mut client = server.connect();
    assert!(client.line("HELLO 3").to_string().starts_with("-NOAUTH HELLO must be called"));
    assert!(client.line("HELLO 3 AUTH default wrong").to_string().starts_with("-WRONGPASS"));
    assert!(client.line("HELLO 3 AUTH default secret").to_string().contains("\"proto\": :3"));
    script(&mut client, r#"GET a => "1""#);
    let log = client.line("ACL LOG").to_string();
    assert!(log.contains("\"reason\": \"auth\""), "{log}");
    // The two wrong ones of `default` are one entry.
    assert!(log.contains("\"count\": :2") && log.contains("\"count\": :1"), "{log}");
}

#[test]
fn without_a_password_there_is_none() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    assert!(client.line("AUTH x").to_string().contains("without any password configured"));
    script(
        &mut client,
        r#"
        AUTH default anything => +OK
        ACL WHOAMI => "default"
        ACL USERS => ["default"]
        ACL LIST => ["user default on nopass ~* +@all"]
        ACL SAVE => -ERR This Redis instance is not configured to use an ACL file. You may want to specify users via the ACL SETUSER command and then issue a CONFIG REWRITE (assuming you have a Redis configuration file set) in order to store users in the Redis configuration.
        "#,
    );
}

#[test]
fn a_password_is_set_while_it_runs() {
    let server = Server::start(BINARY, &[]);
    let (mut admin, mut early) = (server.connect(), server.connect());
    script(&mut early, "PING => +PONG");
    // Bytes, not text; never shown.
    let password = b"a\0\xffb";
    let reply = admin.command(&[&b"CONFIG"[..], b"SET", b"requirepass", password]);
    assert_eq!(reply.to_string(), "+OK");
    script(&mut admin, r#"CONFIG GET requirepass => ["requirepass", ""]"#);
    // Who is there already stays who it is; who comes has to say.
    script(&mut early, "PING => +PONG");
    let mut late = server.connect();
    script(&mut late, "PING => -NOAUTH Authentication required.");
    assert!(late.line("AUTH a").to_string().starts_with("-WRONGPASS"));
    assert_eq!(late.command(&[&b"AUTH"[..], password]).to_string(), "+OK");
    script(&mut late, "PING => +PONG\nCONFIG SET requirepass other => +OK");
    assert!(server.connect().command(&[&b"AUTH"[..], password]).to_string().starts_with("-WRONG"));
    script(&mut late, r#"CONFIG SET requirepass "" => +OK"#);
    script(&mut server.connect(), "PING => +PONG");
    let open = run(BINARY, &["serve", "--listen", "0.0.0.0:0", "--dir", "never-made"]);
    assert_eq!(open.status.code(), Some(3), "the same is refused at start");
    let server = Server::start(BINARY, &["--listen", "0.0.0.0:0", "--requirepass", "x"]);
    let mut client = isolith_testkit::server::Client::connect(std::net::SocketAddr::from((
        [127, 0, 0, 1],
        server.address().port(),
    )))
    .expect("it listens on all addresses");
    script(
        &mut client,
        r#"
        AUTH x => +OK
        CONFIG SET requirepass "" => -ERR CONFIG SET failed (possibly related to argument 'requirepass') - the server listens beyond this machine
        CONFIG SET requirepass y => +OK
        "#,
    );
}

#[test]
fn so_many_refusals_are_kept() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    let refused = |client: &mut isolith_testkit::server::Client, range: std::ops::Range<u32>| {
        for number in range {
            client.line(&format!("AUTH nobody{number} x"));
        }
        client.line("ACL LOG 100").elements().len()
    };
    script(&mut client, r#"CONFIG GET acllog-max-len => ["acllog-max-len", "128"]"#);
    script(&mut client, "CONFIG SET acllog-max-len 3 => +OK");
    assert_eq!(refused(&mut client, 0..5), 3);
    script(&mut client, "CONFIG SET acllog-max-len 0 => +OK");
    assert_eq!(refused(&mut client, 5..6), 0);
    script(
        &mut client,
        "CONFIG SET acllog-max-len 2 acllog-max-len 3 => -ERR CONFIG SET failed (possibly related to argument 'acllog-max-len') - duplicate parameter
         CONFIG SET acllog-max-len x => -ERR CONFIG SET failed (possibly related to argument 'acllog-max-len') - argument must be between 0 and 100000 inclusive
         CONFIG SET daemonize yes => -ERR CONFIG SET failed (possibly related to argument 'daemonize') - can't set immutable config
         ACL CAT read write => -ERR unknown subcommand or wrong number of arguments for 'CAT'. Try ACL HELP.
         ACL LOG 1 2 => -ERR unknown subcommand or wrong number of arguments for 'LOG'. Try ACL HELP.
         ACL HELP me => -ERR wrong number of arguments for 'acl|help' command
         ACL SETUSER u +config|get|save => -ERR Error in ACL SETUSER modifier '+config|get|save': Allowing first-arg of a subcommand is not supported
         ACL SETUSER u +get|a|b => -ERR Error in ACL SETUSER modifier '+get|a|b': Unknown command or category name in ACL",
    );
}

#[test]
fn users_may_do_what_their_rules_say() {
    let server = Server::start(BINARY, &[]);
    let mut admin = server.connect();
    script(
        &mut admin,
        r#"
        ACL SETUSER ann on >pw ~ann:* %R~shared:* +@all -@dangerous -config +config|get => +OK
        ACL SETUSER ann +nonsense => -ERR Error in ACL SETUSER modifier '+nonsense': Unknown command or category name in ACL
        ACL SETUSER ann nonsense => -ERR Error in ACL SETUSER modifier 'nonsense': Syntax error
        ACL SETUSER off >pw allkeys +@all => +OK
        SET shared:a 1 => +OK
        SET other 1 => +OK
        "#,
    );
    let mut ann = server.connect();
    script(
        &mut ann,
        r#"
        AUTH off pw => -WRONGPASS invalid username-password pair or user is disabled.
        AUTH ann pw => +OK
        SET ann:a 1 => +OK
        GET shared:a => "1"
        SET shared:a 2 => -NOPERM this user has no permissions to access one of the keys used as arguments
        GET other => -NOPERM this user has no permissions to access one of the keys used as arguments
        MGET ann:a other => -NOPERM this user has no permissions to access one of the keys used as arguments
        FLUSHALL => -NOPERM this user has no permissions to run the 'flushall' command
        CONFIG GET port2 => []
        CONFIG SET lock-timeout 1 => -NOPERM this user has no permissions to run the 'config|set' command
        MULTI => +OK
        GET other => -NOPERM this user has no permissions to access one of the keys used as arguments
        EXEC => -EXECABORT Transaction discarded because of previous errors.
        BEGIN => +OK
        SET other 2 => -NOPERM this user has no permissions to access one of the keys used as arguments
        SET ann:b 2 => +OK
        COMMIT => +OK
        GET ann:b => "2"
        MULTI => +OK
        SET ann:c 3 => +QUEUED
        "#,
    );
    assert!(ann.line("RANGE - +").to_string().starts_with("-NOPERM"));
    // What is taken away is gone at once, for what is queued, too.
    ann.line("DISCARD");
    script(&mut ann, "MULTI => +OK\nSET ann:c 3 => +QUEUED");
    script(&mut admin, "ACL SETUSER ann -set => +OK");
    assert!(ann.line("EXEC").to_string().starts_with("-EXECABORT"));
    script(
        &mut ann,
        "SET ann:a 2 => -NOPERM this user has no permissions to run the 'set' command",
    );
    // In a pipeline of writes, which otherwise are one transaction, as well.
    ann.send(&isolith_testkit::server::pipeline("INCR ann:n\nSET ann:a 9\nINCR ann:n"));
    let replies: Vec<String> = (0..3).map(|_| ann.reply().to_string()).collect();
    assert_eq!((replies[0].as_str(), replies[2].as_str()), (":1", ":2"));
    assert!(replies[1].starts_with("-NOPERM"), "{replies:?}");
    let log = admin.line("ACL LOG 1").to_string();
    assert!(log.contains("\"set\"") && log.contains("\"ann\""), "{log}");
    script(&mut admin, "ACL LOG RESET => +OK\nACL LOG => []\nACL DELUSER ann nobody => :1");
    assert!(ann.is_closed());
    script(
        &mut admin,
        "ACL DELUSER default => -ERR The 'default' user cannot be removed\nGET ann:a => \"1\"",
    );
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn users_are_kept_in_their_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("users.acl");
    std::fs::write(&file, "user default on >boss ~* +@all\nuser bob on >pw ~b* -@all +get\n")
        .expect("a file");
    let file = file.to_str().expect("a path in UTF-8");
    let mut server = Server::start(BINARY, &["--acl-file", file]);
    let mut boss = server.connect();
    script(
        &mut boss,
        r#"
        GET a => -NOAUTH Authentication required.
        AUTH boss => +OK
        ACL SETUSER eve on >pw ~e* +@read => +OK
        ACL SAVE => +OK
        ACL SETUSER eve off => +OK
        ACL SETUSER gone on => +OK
        ACL LOAD => +OK
        ACL USERS => ["bob", "default", "eve"]
        "#,
    );
    let text = std::fs::read_to_string(file).expect("the file");
    assert!(!text.contains("boss") && !text.contains(">pw"), "{text}");
    server.terminate();
    server.restart();
    script(
        &mut server.connect(),
        "AUTH eve pw => +OK\nGET e1 => nil\nSET e1 1 => -NOPERM this user has no permissions to run the 'set' command",
    );
    std::fs::write(file, "user eve on what\n").expect("a file");
    let mut boss = server.connect();
    boss.line("AUTH boss");
    let why = boss.line("ACL LOAD").to_string();
    assert!(why.contains("users.acl:1: Syntax error"), "{why}");
    script(&mut boss, r#"ACL USERS => ["bob", "default", "eve"]"#);
}

#[test]
fn who_has_not_said_who_it_is_gets_little() {
    let server = Server::start(BINARY, &["--requirepass", "secret"]);
    for (input, error) in [
        ("*11\r\n$3\r\nGET\r\n", "-ERR Protocol error: unauthenticated multibulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n$16385\r\n", "-ERR Protocol error: unauthenticated bulk length\r\n"),
    ] {
        let mut client = server.connect();
        client.send(input.as_bytes());
        assert_eq!(String::from_utf8_lossy(&client.rest()), error);
    }
    // Whoever asks and does not read is not waited for.
    let mut client = server.connect();
    let _ = client.try_send(&b"GET a\r\n".repeat(1000));
    assert!(client.rest().len() < 64 * 1024);
    // Nobody, by silence.
    assert!(server.connect().is_closed());
    // Proven, everything is as it was.
    let mut client = server.connect();
    script(&mut client, "AUTH secret => +OK");
    let long = "x".repeat(100_000);
    assert_eq!(client.command(&["SET", "a", &long]).to_string(), "+OK");
}

#[test]
fn nobody_from_elsewhere_without_a_password() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dir = directory.path().join("data");
    let dir = dir.to_str().expect("a path in UTF-8");
    let output = run(BINARY, &["serve", "--listen", "0.0.0.0:0", "--dir", dir]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("not a loopback address"), "{said}");
    assert!(!directory.path().join("data").exists());
}

#[test]
fn there_is_room_for_so_many() {
    let server = Server::start(BINARY, &["--maxclients", "2"]);
    let (mut one, mut two) = (server.connect(), server.connect());
    script(&mut one, "PING => +PONG");
    script(&mut two, "PING => +PONG");
    let mut three = server.connect();
    assert_eq!(three.rest(), b"-ERR max number of clients reached\r\n");
    script(&mut one, r#"CONFIG GET maxclients => ["maxclients", "2"]"#);
}
