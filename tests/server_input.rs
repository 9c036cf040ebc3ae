//! Hostile and broken input: each gets an error or a closed connection, never a crash, never an
//! allocation by a length that was only declared; and everyone else is served meanwhile.

use isolith_testkit::server::{Client, Server, encode, pipeline, script};
use std::io::ErrorKind;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

/// Sends `input` and reads all that comes back until the server closes.
fn last_words(server: &Server, input: &[u8]) -> String {
    let mut client = server.connect();
    // The server may close before everything is sent.
    let _ = client.try_send(input);
    String::from_utf8_lossy(&client.rest()).into_owned()
}

/// The server's resident memory in KiB.
fn resident_kib(client: &mut Client) -> u64 {
    let info = client.line("INFO server").text();
    let process = info.lines().find_map(|line| line.strip_prefix("process_id:"));
    let path = format!("/proc/{}/statm", process.expect("INFO tells the process"));
    let statm = std::fs::read_to_string(path).expect("the server runs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4
}

#[test]
fn protocol_errors_are_told_and_close() {
    let server = Server::start(BINARY, &[]);
    let mut bystander = server.connect();
    for (input, error) in [
        ("*1\r\n$9223372036854775808\r\n", "invalid bulk length"),
        ("*1\r\n$18446744073709551615\r\n", "invalid bulk length"),
        ("*1\r\n$536870913\r\n", "invalid bulk length"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("*1048577\r\n", "invalid multibulk length"),
        ("*9223372036854775808\r\n", "invalid multibulk length"),
        ("*x\r\n", "invalid multibulk length"),
        ("*1\r\nGET\r\n", "expected '$', got 'G'"),
        ("*1\r\n$3\r\nGETxx", "expected CRLF"),
        ("SET \"a\r\n", "unbalanced quotes in request"),
        ("\"\r\n", "unbalanced quotes in request"),
    ] {
        let said = last_words(&server, input.as_bytes());
        assert_eq!(said, format!("-ERR Protocol error: {error}\r\n"), "{input:?}");
        script(&mut bystander, "PING => +PONG");
    }
    let long = vec![b'a'; 70_000];
    assert!(last_words(&server, &long).contains("too big inline request"));
    assert!(last_words(&server, &[b"*", &long[..]].concat()).contains("too big mbulk count"));
    assert!(last_words(&server, &[b"*1\r\n$", &long[..]].concat()).contains("too big bulk count"));
}

#[test]
fn what_came_before_an_error_is_done_and_answered() {
    let server = Server::start(BINARY, &[]);
    let said = last_words(&server, b"SET a 1\r\nINCR a\r\n*1\r\n$x\r\nSET a 9\r\n");
    assert_eq!(said, "+OK\r\n:2\r\n-ERR Protocol error: invalid bulk length\r\n");
    script(&mut server.connect(), r#"GET a => "2""#);
}

#[test]
fn web_pages_cannot_post_commands() {
    let server = Server::start(BINARY, &[]);
    for head in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        let said = last_words(&server, format!("{head}\r\nSET a 1\r\n").as_bytes());
        assert!(!said.contains("OK"), "{said}");
    }
    script(&mut server.connect(), "EXISTS a => :0");
}

#[test]
fn declared_lengths_cost_nothing() {
    let server = Server::start(BINARY, &["--threads", "1"]);
    let mut bystander = server.connect();
    let before = resident_kib(&mut bystander);
    // 200 requests that promise 512 MiB in a million arguments each, and send three bytes.
    let mut held: Vec<Client> = Vec::new();
    for _ in 0..200 {
        let mut client = server.connect();
        client.send(b"*1048576\r\n$3\r\nSET\r\n$536870912\r\nabc");
        held.push(client);
    }
    script(&mut bystander, "PING => +PONG");
    let after = resident_kib(&mut bystander);
    assert!(after < before + 32 * 1024, "{before} KiB before, {after} KiB after");
}

#[test]
fn a_million_arguments_are_taken() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    let count = 1024 * 1024 - 1;
    let mut request = format!("*{}\r\n$6\r\nEXISTS\r\n", count + 1).into_bytes();
    request.extend_from_slice(&b"$1\r\na\r\n".repeat(count));
    script(&mut client, "SET a 1 => +OK");
    client.send(&request);
    assert_eq!(client.reply().to_string(), format!(":{count}"));
    // A million small writes in one command, and in one transaction.
    let mut request = format!("*{}\r\n$4\r\nMSET\r\n", 2 * 100_000 + 1).into_bytes();
    for number in 0..100_000 {
        request.extend_from_slice(format!("$7\r\nk{number:06}\r\n$1\r\nv\r\n").as_bytes());
    }
    client.send(&request);
    assert_eq!(client.reply().to_string(), "+OK");
    assert_eq!(client.line("DBSIZE").to_string(), ":100001");
}

#[test]
fn half_a_request_waits_and_disturbs_nobody() {
    let server = Server::start(BINARY, &["--threads", "1"]);
    let (mut slow, mut quick) = (server.connect(), server.connect());
    let request = encode(&["SET", "slow", "value"]);
    let (last, begun) = request.split_last().expect("a request");
    for byte in begun {
        slow.send(std::slice::from_ref(byte));
        script(&mut quick, "EXISTS slow => :0");
    }
    slow.send(std::slice::from_ref(last));
    assert_eq!(slow.reply().to_string(), "+OK");
    script(&mut quick, r#"GET slow => "value""#);
    // Half a request, then the end: nothing is done.
    slow.send(&request[..request.len() - 3]);
    slow.end();
    assert!(slow.is_closed());
    script(&mut quick, "PING => +PONG");
}

#[test]
fn requests_before_the_end_of_the_stream_are_answered() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    client.send(&pipeline(&"INCR n\nGET n\n".repeat(1000)));
    client.end();
    for number in 1..=1000 {
        assert_eq!(client.reply().to_string(), format!(":{number}"));
        assert_eq!(client.reply().to_string(), format!("\"{number}\""));
    }
    assert!(client.is_closed());
}

#[test]
fn garbage_never_harms() {
    let server = Server::start(BINARY, &[]);
    let mut bystander = server.connect();
    script(&mut bystander, "SET kept 1 => +OK");
    let seed = std::env::var("ISOLITH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    eprintln!("ISOLITH_SEED={seed}");
    let mut state: u64 = seed;
    let mut next = move || {
        // xorshift64*: any sequence will do.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    for _ in 0..200 {
        let length = next() as usize % 2000;
        let bytes: Vec<u8> = (0..length)
            .map(|_| match next() % 4 {
                0 => b"*$\r\n0123456789-"[next() as usize % 15],
                _ => (next() >> 56) as u8,
            })
            .collect();
        let mut client = server.connect();
        let _ = client.try_send(&bytes);
        drop(client);
    }
    script(&mut bystander, r#"GET kept => "1""#);
}

#[test]
fn a_client_that_does_not_read_is_held_back() {
    let server = Server::start(BINARY, &["--threads", "1"]);
    let (mut greedy, mut other) = (server.connect(), server.connect());
    let value = vec![b'v'; 1_000_000];
    other.command(&[&b"SET"[..], b"big", &value]);
    let before = resident_kib(&mut other);
    // 2,000 replies of a megabyte, and nobody reads them: at some point the server stops taking
    // requests, and has not made more than a few replies.
    greedy.send(&pipeline(&"GET big\n".repeat(2_000)));
    script(&mut other, "PING => +PONG");
    let after = resident_kib(&mut other);
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} KiB after");
    // It is all there as soon as somebody reads.
    for _ in 0..20 {
        assert_eq!(greedy.reply(), isolith_testkit::server::Value::Bulk(value.clone()));
    }
    drop(greedy);
    script(&mut other, "PING => +PONG");
}

#[test]
fn too_large_a_reply_is_an_error() {
    let server = Server::start(BINARY, &[]);
    let mut client = server.connect();
    let value = vec![b'v'; 64 << 20];
    client.command(&[&b"SET"[..], b"big", &value]);
    let reply = client.command(&["MGET"].iter().chain(&["big"; 20]).collect::<Vec<_>>());
    assert!(reply.to_string().starts_with("-ERR string exceeds maximum"), "a reply of 1.3 GB");
    script(&mut client, "PING => +PONG");
    client.line("MULTI");
    client.line("SET done 1");
    client.command(&["MGET"].iter().chain(&["big"; 20]).collect::<Vec<_>>());
    assert!(client.line("EXEC").to_string().starts_with("-ERR string exceeds maximum"));
    script(&mut client, "EXISTS done => :0");
}

#[test]
fn connections_come_and_go() {
    let server = Server::start(BINARY, &["--threads", "2"]);
    let mut client = server.connect();
    for _ in 0..500 {
        let mut passing = server.connect();
        passing.send(b"PING\r\n");
    }
    for _ in 0..20 {
        let mut many: Vec<Client> = (0..50).map(|_| server.connect()).collect();
        many.iter_mut().for_each(|client| client.send(b"PING\r\n"));
        many.iter_mut().for_each(|client| assert_eq!(client.reply().to_string(), "+PONG"));
    }
    let limit = std::time::Instant::now() + isolith_testkit::server::REPLY_WAIT;
    while !client.line("INFO clients").text().contains("connected_clients:1\r\n") {
        assert!(std::time::Instant::now() < limit, "connections that are gone are still counted");
    }
    match client.try_send(b"PING\r\n").and_then(|()| client.try_reply()) {
        Ok(reply) => assert_eq!(reply.to_string(), "+PONG"),
        Err(error) => assert_ne!(error.kind(), ErrorKind::ConnectionReset),
    }
}

#[test]
fn out_of_descriptors_is_survived() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The binary is started by a shell that lowers the limit first.
    let shell = directory.path().join("limited.sh");
    let text = format!("#!/bin/sh\nulimit -n 48\nexec {BINARY} \"$@\"\n");
    let mut file = tempfile::NamedTempFile::new_in(directory.path()).expect("a file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("a file");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(file.path(), permissions).expect("a file of ours");
    file.persist(&shell).expect("a file of ours");
    let shell = shell.to_string_lossy().into_owned();
    let server = Server::start(&shell, &["--threads", "1"]);
    let mut early = server.connect();
    script(&mut early, "SET a 1 => +OK");
    // More than it has descriptors for: the kernel lets them in, the server cannot yet.
    let mut crowd: Vec<Client> = (0..100).map(|_| server.connect()).collect();
    crowd.iter_mut().for_each(|client| client.send(b"PING\r\n"));
    script(&mut early, "SET a 2 => +OK\nGET a => \"2\"");
    // Those that go make room for those that wait.
    for client in &mut crowd {
        assert_eq!(client.reply().to_string(), "+PONG");
        client.end();
        assert!(client.is_closed());
    }
    script(&mut early, "PING => +PONG");
}

#[test]
fn data_outgrows_the_memory() {
    let server = Server::start(BINARY, &["--memory", "16M", "--durability", "buffered"]);
    let mut client = server.connect();
    let value = vec![b'v'; 64 << 10];
    for number in 0..1000 {
        let reply = client.command(&[&b"SET"[..], format!("k{number}").as_bytes(), &value]);
        assert_eq!(reply.to_string(), "+OK", "{number}");
    }
    script(
        &mut client,
        "DBSIZE => :1000\nSTRLEN k0 => :65536\nSTRLEN k500 => :65536\nDEL k500 => :1",
    );
    client.line("MULTI");
    client.command(&[&b"SET"[..], b"more", &value]);
    assert!(client.line("EXEC").to_string().contains("OK"));
    script(&mut client, "STRLEN more => :65536\nDBSIZE => :1000");
}
