//! TLS, the Unix socket, the admin port and the configuration file, against the running server.

#![expect(clippy::disallowed_methods, reason = "a test's own files")]

use isolith_testkit::server::{Server, encode, run, script};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn fixture(name: &str) -> String {
    format!("{}/../tests/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).expect("a fixture")
}

/// A client that trusts the test authority, and shows a certificate if it is told to.
fn client(port: u16, shows: bool) -> StreamOwned<ClientConnection, TcpStream> {
    let mut authorities = RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(&pem("ca.pem")).expect("a certificate");
    authorities.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authorities);
    let config = match shows {
        false => builder.with_no_client_auth(),
        true => {
            let own = CertificateDer::from_pem_slice(&pem("client.pem")).expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(&pem("client.key")).expect("a key");
            builder.with_client_auth_cert(vec![own], key).expect("they belong together")
        }
    };
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it accepts connections");
    stream.set_read_timeout(Some(isolith_testkit::server::REPLY_WAIT)).expect("a socket");
    StreamOwned::new(connection, stream)
}

fn tls_port(server: &Server) -> u16 {
    let reply = server.connect().line("CONFIG GET tls-port").elements();
    reply[1].text().parse().expect("a port")
}

/// Sends a command and reads as many bytes as the reply is to have.
fn ask(stream: &mut (impl Read + Write), command: &[&str], expected: &[u8]) {
    stream.write_all(&encode(command)).expect("it takes what is sent");
    expect(stream, expected);
}

fn expect(stream: &mut impl Read, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).expect("a reply");
    assert!(got == expected, "{}", got[..got.len().min(200)].escape_ascii());
}

fn with_tls<'a>(cert: &'a str, key: &'a str) -> Vec<&'a str> {
    vec!["--tls-port", "0", "--tls-cert", cert, "--tls-key", key]
}

#[test]
fn commands_and_large_values_go_through_tls() {
    let (cert, key) = (fixture("server.pem"), fixture("server.key"));
    let server = Server::start(BINARY, &with_tls(&cert, &key));
    let port = tls_port(&server);
    let mut sealed = client(port, false);
    ask(&mut sealed, &["SET", "a", "1"], b"+OK\r\n");
    ask(&mut sealed, &["INCR", "a"], b":2\r\n");
    let large = "x".repeat(5_000_000);
    ask(&mut sealed, &["SET", "large", &large], b"+OK\r\n");
    ask(&mut sealed, &["GET", "large"], format!("$5000000\r\n{large}\r\n").as_bytes());
    // A pipeline, and what others see of it.
    sealed.write_all(&encode(&["INCR", "a"]).repeat(1000)).expect("it takes what is sent");
    let replies: String = (3..1003).map(|number| format!(":{number}\r\n")).collect();
    expect(&mut sealed, replies.as_bytes());
    script(&mut server.connect(), "GET a => \"1002\"");
    // An orderly end is told as such.
    ask(&mut sealed, &["QUIT"], b"+OK\r\n");
    assert_eq!(sealed.read(&mut [0; 16]).expect("an end, not a cut"), 0);
}

#[test]
fn what_is_not_tls_is_closed() {
    let (cert, key) = (fixture("server.pem"), fixture("server.key"));
    let server = Server::start(BINARY, &with_tls(&cert, &key));
    let mut plain =
        TcpStream::connect((Ipv4Addr::LOCALHOST, tls_port(&server))).expect("a connection");
    plain.write_all(&encode(&["PING"])).expect("it takes what is sent");
    let mut said = Vec::new();
    // An alert, or a cut; never an answer.
    let _ = plain.read_to_end(&mut said);
    assert!(!said.windows(4).any(|word| word == b"PONG"));
    script(&mut server.connect(), "PING => +PONG");
}

#[test]
fn clients_show_certificates_if_they_have_to() {
    let (cert, key, ca) = (fixture("server.pem"), fixture("server.key"), fixture("ca.pem"));
    let mut arguments = with_tls(&cert, &key);
    arguments.extend(["--tls-client-ca", &ca]);
    let server = Server::start(BINARY, &arguments);
    let port = tls_port(&server);
    ask(&mut client(port, true), &["PING"], b"+PONG\r\n");
    let mut nobody = client(port, false);
    let refused =
        nobody.write_all(&encode(&["PING"])).and_then(|()| nobody.read_exact(&mut [0; 7]));
    assert!(refused.is_err());
}

#[test]
fn certificates_are_read_anew() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name);
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    std::fs::write(&cert, pem("server.pem")).expect("a file");
    std::fs::write(&key, pem("server.key")).expect("a file");
    let (cert, key) = (cert.to_str().expect("UTF-8"), key.to_str().expect("UTF-8"));
    let server = Server::start(BINARY, &with_tls(cert, key));
    let port = tls_port(&server);
    let mut before = client(port, false);
    ask(&mut before, &["PING"], b"+PONG\r\n");
    let shown = |stream: &StreamOwned<ClientConnection, TcpStream>| {
        stream.conn.peer_certificates().expect("a certificate")[0].clone().into_owned()
    };
    let first = shown(&before);
    // Another certificate of the same authority.
    std::fs::write(cert, pem("client.pem")).expect("a file");
    std::fs::write(key, pem("client.key")).expect("a file");
    server.signal(rustix::process::Signal::HUP);
    let limit = std::time::Instant::now() + isolith_testkit::server::REPLY_WAIT;
    loop {
        let mut stream = client(port, false);
        // The client refuses this one, which is not for servers; it has seen it, though.
        match stream.write_all(&encode(&["PING"])).and_then(|()| stream.read_exact(&mut [0; 7])) {
            Ok(()) => assert_eq!(shown(&stream), first),
            Err(_) => break,
        }
        assert!(std::time::Instant::now() < limit, "the old certificate is shown for ever");
    }
    // Who was there is still there.
    ask(&mut before, &["PING"], b"+PONG\r\n");
}

#[test]
fn a_wrong_certificate_is_told_at_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let dir = directory.path().join("data");
    let dir = dir.to_str().expect("a path in UTF-8");
    let (cert, key) = (fixture("README.md"), fixture("server.key"));
    let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--dir", dir];
    arguments.extend(with_tls(&cert, &key));
    let output = run(BINARY, &arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("README.md"), "{said}");
}

#[test]
fn a_unix_socket_is_another_way_in() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("isolith.sock");
    let place = path.to_str().expect("a path in UTF-8");
    let mut server = Server::start(BINARY, &["--unix-socket", place]);
    let mut stream = UnixStream::connect(&path).expect("it accepts connections");
    ask(&mut stream, &["SET", "a", "1"], b"+OK\r\n");
    ask(&mut stream, &["CLIENT", "KILL", "127.0.0.1:1"], b"-ERR No such client\r\n");
    // What a killed server leaves is no obstacle.
    server.kill();
    server.restart();
    let mut stream = UnixStream::connect(&path).expect("it accepts connections");
    ask(&mut stream, &["GET", "a"], b"$1\r\n1\r\n");
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it takes what is sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn metrics_and_health_are_served() {
    // Free a moment ago: nobody else takes ports that fast.
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let server = Server::start(BINARY, &["--admin", &format!("127.0.0.1:{port}")]);
    script(&mut server.connect(), "SET a 1 => +OK");
    assert!(get(port, "/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get(port, "/readyz").ends_with("\r\n\r\nready\n"));
    assert!(get(port, "/nothing").starts_with("HTTP/1.1 404"));
    let metrics = get(port, "/metrics");
    assert!(metrics.contains("\n# TYPE isolith_commits_total counter\n"), "{metrics}");
    let commands = metrics.lines().find_map(|line| line.strip_prefix("isolith_commands_total "));
    assert!(commands.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= 1));
}

#[test]
fn the_configuration_file_is_read_and_written() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("isolith.toml");
    std::fs::write(&path, "# ours\nlock-timeout = \"7s\" # long\nmaxclients = 50\n")
        .expect("a file");
    let place = path.to_str().expect("a path in UTF-8");
    let mut server = Server::start(BINARY, &["--config", place, "--maxclients", "60"]);
    script(
        &mut server.connect(),
        r#"
        CONFIG GET lock-timeout => ["lock-timeout", "7000"]
        CONFIG GET maxclients => ["maxclients", "60"]
        CONFIG SET lock-timeout 250 slowlog-max-len 7 => +OK
        CONFIG REWRITE => +OK
        "#,
    );
    assert_eq!(
        std::fs::read_to_string(&path).expect("the file"),
        "# ours\nlock-timeout = \"250ms\" # long\nmaxclients = 50\nslowlog-max-len = 7\n"
    );
    server.terminate();
    server.restart();
    script(
        &mut server.connect(),
        "CONFIG GET lock-timeout => [\"lock-timeout\", \"250\"]\nCONFIG GET slowlog-max-len => [\"slowlog-max-len\", \"7\"]",
    );
    let plain = Server::start(BINARY, &[]);
    script(
        &mut plain.connect(),
        "CONFIG REWRITE => -ERR The server is running without a config file",
    );
}
