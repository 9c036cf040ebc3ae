//! Real clients: `redis-cli`, `redis-benchmark` (Debian's redis-tools) and redis-py. Where a client is
//! not installed its test says so and passes; CI installs them.

use isolith_testkit::server::{Server, Value};
use std::io::Write;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

/// True if `program` can be run; says so if not.
fn there(program: &str, arguments: &[&str]) -> bool {
    let found = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("SKIPPED: `{program} {}` does not run here", arguments.join(" "));
    }
    found
}

fn cli(server: &Server, arguments: &[&str], input: &str) -> String {
    let port = server.address().port().to_string();
    let mut child = Command::new("redis-cli")
        .args(["-p", &port])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli starts");
    let mut stdin = child.stdin.take().expect("the input is piped");
    stdin.write_all(input.as_bytes()).expect("redis-cli reads");
    drop(stdin);
    let output = child.wait_with_output().expect("redis-cli ends");
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn redis_cli() {
    if !there("redis-cli", &["--version"]) {
        return;
    }
    let server = Server::start(BINARY, &[]);
    assert_eq!(cli(&server, &["set", "greeting", "hello"], ""), "OK\n");
    assert_eq!(cli(&server, &["get", "greeting"], ""), "hello\n");
    assert_eq!(cli(&server, &["-3", "range", "-", "+"], ""), "greeting\nhello\n");
    let session = "MULTI\nSET n 1\nINCR n\nEXEC\nBEGIN\nINCR n\nROLLBACK\nGET n\n";
    assert_eq!(cli(&server, &[], session), "OK\nQUEUED\nQUEUED\nOK\n2\nOK\n3\nOK\n2\n");
    assert_eq!(cli(&server, &["--scan", "--pattern", "g*"], ""), "greeting\n");
    // Mass insertion, in the protocol and as inline lines.
    let words: String =
        (0..20_000).map(|number| format!("SET word:{number} {number}\r\n")).collect();
    let report = cli(&server, &["--pipe"], &words);
    assert!(report.contains("errors: 0, replies: 20000"), "{report}");
    assert_eq!(server.connect().line("GET word:19999").text(), "19999");
}

#[test]
fn redis_benchmark() {
    if !there("redis-benchmark", &["--version"]) {
        return;
    }
    let server = Server::start(BINARY, &[]);
    let port = server.address().port().to_string();
    for depth in ["1", "16"] {
        let output = Command::new("redis-benchmark")
            .args(["-p", &port, "-t", "get,set,incr,mset,ping", "-n", "2000", "-P", depth])
            .args(["-q", "--csv"])
            .output()
            .expect("redis-benchmark starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("\"SET\"") && text.contains("\"MSET (10 keys)\""), "{text}");
    }
    let Value::Integer(_) = server.connect().line("DBSIZE") else { panic!("a count") };
}

#[test]
fn redis_py() {
    if !there("python3", &["-c", "import redis"]) {
        return;
    }
    let server = Server::start(BINARY, &["--threads", "2"]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/clients/redis_py.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(server.address().port().to_string())
        .output()
        .expect("python3 starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
