//! What a client may take: long requests, replies that nobody reads, silence; and what becomes of those who take
//! more. Everybody else is served meanwhile.

use isolith_testkit::server::{Client, REPLY_WAIT, Server, Value, encode, launch, script, serve};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Instant;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn figure(client: &mut Client, section: &str, name: &str) -> u64 {
    let info = client.line(&format!("INFO {section}")).text();
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {info}"))
}

/// Waits until a figure of INFO is what it is to be.
fn until(client: &mut Client, section: &str, name: &str, wanted: u64) {
    let limit = Instant::now() + REPLY_WAIT;
    while figure(client, section, name) != wanted {
        assert!(Instant::now() < limit, "{name} does not become {wanted}");
    }
}

#[test]
fn arguments_and_requests_are_as_long_as_they_may_be() {
    let server = Server::start(BINARY, &["--proto-max-bulk-len", "2mb"]);
    let mut client = server.connect();
    script(
        &mut client,
        r#"CONFIG GET proto-max-bulk-len => ["proto-max-bulk-len", "2097152"]
        CONFIG SET client-query-buffer-limit 3mb => +OK
        CONFIG GET client-query-buffer-limit => ["client-query-buffer-limit", "3145728"]"#,
    );
    let value = vec![b'v'; 2 << 20];
    assert_eq!(client.command(&[&b"SET"[..], b"a", &value]).to_string(), "+OK");
    // Refused by what is declared: none of it has come.
    let mut long = server.connect();
    long.send(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2097153\r\n");
    assert_eq!(long.rest(), b"-ERR Protocol error: invalid bulk length\r\n");
    let mut long = server.connect();
    let _ = long.try_send(&encode(&[&b"MSET"[..], b"a", &value[1..], b"b", &value[1..]]));
    let said = String::from_utf8_lossy(&long.rest()).into_owned();
    assert_eq!(said, "-ERR Protocol error: request larger than client-query-buffer-limit\r\n");
    // What is queued behind a command that waits is no part of its request.
    script(&mut client, "CONFIG SET proto-max-bulk-len 512mb client-query-buffer-limit 1gb => +OK");
    let mut again = server.connect();
    let reply = again.command(&[&b"MSET"[..], b"a", &value[1..], b"b", &value]);
    assert_eq!(reply.to_string(), "+OK");
    assert_eq!(figure(&mut client, "stats", "protocol_errors"), 2);
    for wrong in ["proto-max-bulk-len 1", "timeout never", "client-output-buffer-limit normal"] {
        assert!(
            client.line(&format!("CONFIG SET {wrong}")).to_string().starts_with("-ERR CONFIG SET")
        );
    }
}

#[test]
fn replies_that_nobody_reads_end_the_connection() {
    let server = Server::start(BINARY, &["--threads", "1"]);
    let (mut other, mut greedy) = (server.connect(), server.connect());
    let value = vec![b'v'; 16 << 20];
    other.command(&[&b"SET"[..], b"big", &value]);
    // At once.
    other.command(&["CONFIG", "SET", "client-output-buffer-limit", "normal 8mb 0 0"]);
    greedy.send(&encode(&["GET", "big"]));
    until(&mut other, "stats", "client_output_buffer_limit_disconnections", 1);
    assert!(greedy.rest().len() < value.len());
    // After a time.
    other.command(&["CONFIG", "SET", "client-output-buffer-limit", "normal 0 8mb 1 pubsub 1 1 1"]);
    let shown = "normal 0 8388608 1 slave 0 0 0 pubsub 0 0 0";
    let Value::Array(got) = other.line("CONFIG GET client-output-buffer-limit") else { panic!() };
    assert_eq!(got[1].text(), shown);
    let mut greedy = server.connect();
    greedy.send(&[encode(&["GET", "big"]), encode(&["GET", "big"])].concat());
    until(&mut other, "stats", "client_output_buffer_limit_disconnections", 2);
    drop(greedy);
    // Who reads may ask for as much.
    for _ in 0..3 {
        assert_eq!(other.line("GET big"), Value::Bulk(value.clone()));
    }
    until(&mut other, "clients", "connected_clients", 1);
}

#[test]
fn who_says_nothing_is_let_go_and_who_waits_is_not() {
    let server =
        Server::start(BINARY, &["--threads", "1", "--timeout", "1", "--lock-timeout", "0"]);
    let (mut holder, mut waiter) = (server.connect(), server.connect());
    script(&mut holder, "BEGIN CONCURRENCY LOCKING => +OK\nSET a 1 => +OK");
    script(&mut waiter, "BEGIN CONCURRENCY LOCKING => +OK");
    waiter.send(&encode(&["SET", "a", "2"]));
    let (mut idle, mut half) = (server.connect(), server.connect());
    half.send(b"*3\r\n$3\r\nSET\r\n$1\r\na");
    script(&mut idle, "PING => +PONG");
    until(&mut holder, "stats", "idle_disconnections", 2);
    assert!(idle.is_closed() && half.is_closed());
    script(&mut holder, "CONFIG SET timeout 0 => +OK\nCOMMIT => +OK");
    assert_eq!(waiter.reply().to_string(), "+OK");
    script(&mut waiter, "COMMIT => +OK\nGET a => \"2\"");
}

#[test]
fn a_reset_in_the_middle_of_a_reply_harms_nobody() {
    let server = Server::start(BINARY, &["--threads", "1"]);
    let mut other = server.connect();
    let value = vec![b'v'; 8 << 20];
    other.command(&[&b"SET"[..], b"big", &value]);
    for request in [&b"GET big\r\nGET big\r\n"[..], b"RANGE - +\r\nSET a 1\r\nGET b"] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(server.address()).expect("a connection");
            stream.write_all(request).expect("it is sent");
            stream.read_exact(&mut [0; 100]).expect("the reply begins");
            // Closed so, the kernel resets it: what is on its way is lost, on both sides.
            socket2::SockRef::from(&stream)
                .set_linger(Some(std::time::Duration::ZERO))
                .expect("ours");
        }
        until(&mut other, "clients", "connected_clients", 1);
        assert_eq!(figure(&mut other, "isolith", "snapshots"), 0);
    }
    script(&mut other, "PING => +PONG");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a configuration is written as a user would")]
fn what_was_set_is_written_to_the_file_and_read_from_it() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("isolith.toml");
    std::fs::write(&path, "timeout = 9\n").expect("a file");
    let path = path.to_string_lossy().into_owned();
    let mut server = Server::start(BINARY, &["--config", &path]);
    let mut client = server.connect();
    script(&mut client, r#"CONFIG GET timeout => ["timeout", "9"]"#);
    client.command(&[
        "CONFIG",
        "SET",
        "client-output-buffer-limit",
        "normal 9mb 8mb 7",
        "loglevel",
        "Warning",
        "timeout",
        "11",
    ]);
    script(&mut client, "CONFIG REWRITE => +OK");
    assert_eq!(server.terminate().code(), Some(0));
    server.restart();
    let mut client = server.connect();
    script(
        &mut client,
        r#"CONFIG GET timeout => ["timeout", "11"]
        CONFIG GET loglevel => ["loglevel", "warning"]"#,
    );
    let limits = client.line("CONFIG GET client-output-buffer-limit").to_string();
    assert!(limits.contains("normal 9437184 8388608 7"), "{limits}");
    script(
        &mut client,
        "CONFIG SET loglevel loud => -ERR CONFIG SET failed (possibly related to argument 'loglevel') - argument(s) must be one of the following: debug, verbose, notice, warning, nothing",
    );
}

#[test]
fn the_log_is_a_line_for_each_event_and_json_if_asked_for() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = serve(BINARY.as_ref(), &directory.path().join("data"));
    command.args(["--log-format", "json"]);
    let (lines, said) = channel();
    let (mut child, address) =
        launch(command, move |line| drop(lines.send(line.to_owned()))).expect("it starts");
    let mut client = Client::connect(address).expect("a connection");
    script(&mut client, "CONFIG SET loglevel warning => +OK\nCONFIG SET loglevel verbose => +OK");
    client.send(&encode(&["SHUTDOWN"]));
    child.wait().expect("our child");
    let events: Vec<serde_json::Value> = said
        .iter()
        .map(|line| serde_json::from_str(&line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect();
    let ready = events.iter().find(|event| {
        event["fields"]["message"].as_str().is_some_and(|text| text.starts_with("ready on"))
    });
    let ready = ready.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!((&ready["level"], ready["timestamp"].is_string()), (&"INFO".into(), true));
    assert!(ready["fields"]["threads"].is_number());
}

#[test]
fn threads_are_pinned_as_asked() {
    let allowed = |server: &Server| {
        script(&mut server.connect(), "PING => +PONG");
        let tasks = format!("/proc/{}/task", server.process().as_raw_nonzero());
        let core = std::fs::read_dir(tasks).expect("it runs").find_map(|task| {
            let path = task.expect("a thread").path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?;
            (name.trim() == "core-0").then(|| std::fs::read_to_string(path.join("status")).ok())?
        });
        let status = core.expect("a core's thread");
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.expect("the kernel tells").trim().to_owned()
    };
    let own = std::fs::read_to_string("/proc/self/status").expect("proc");
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .expect("the kernel tells")
        .trim();
    assert_eq!(allowed(&Server::start(BINARY, &["--threads", "1", "--pin", "off"])), own);
    let pinned = allowed(&Server::start(BINARY, &["--threads", "1", "--pin", "on"]));
    assert!(pinned.parse::<u32>().is_ok(), "one processor: {pinned}");
}
