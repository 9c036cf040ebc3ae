//! Real clients: `redis-cli`, `redis-benchmark` (Debian's redis-tools) and redis-py; and Redis itself
//! (Debian's redis-server) as the oracle of our replies. Where a program is not installed its test
//! says so and passes; CI installs them.

use isolith_testkit::redis::{Redis, there};
use isolith_testkit::server::{Server, Value};
use std::io::Write;
use std::process::{Command, Stdio};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

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

/// A random number generator whose runs can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*: any sequence will do.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// A command whose reply depends on nothing but the commands before it. Times are absolute and far
/// in the past or the future.
fn random_command(random: &mut Random) -> String {
    let keys = ["a", "b", "c", "d", "key:1", "key:2"];
    let values = ["1", "-7", "word", "9223372036854775807", "3.5", "007", "\"\"", "x y"];
    let numbers =
        ["0", "1", "-1", "2", "10", "-9223372036854775808", "x", "1e3", "999999999999999"];
    let times = ["33177117420", "33177117421", "1", "0", "-5", "9223372036854775807", "soon"];
    // Redis sets, and counts in DBSIZE until somebody looks, what is past already.
    let later = random.pick(&["33177117420000", "33177117421000", "0", "-5", "soon"]);
    let conditions = ["", "NX", "XX", "GT", "LT", "NX XX", "GT LT", "XX GT", "nope"];
    let (key, other) = (random.pick(&keys), random.pick(&keys));
    let (value, number) = (random.pick(&values), random.pick(&numbers));
    let (time, condition) = (random.pick(&times), random.pick(&conditions));
    let name = random.pick(&[
        "GET", "STRLEN", "TYPE", "EXISTS", "DEL", "INCR", "DECR", "GETDEL", "PERSIST", "TTL-ish",
    ]);
    match random.below(24) {
        0..=2 => format!("SET {key} {value}"),
        3 => format!("SET {key} {value} {}", random.pick(&["NX", "XX", "GET", "NX GET", "XX GET"])),
        4 => format!("SET {key} {value} {} {later}", random.pick(&["EXAT", "PXAT", "GET EXAT"])),
        5 => format!("SET {key} {value} KEEPTTL {}", random.pick(&["", "XX", "EX 1", "GET"])),
        6 => format!("{} {key} {number}", random.pick(&["INCRBY", "DECRBY"])),
        7 => format!("APPEND {key} {value}"),
        8 => format!("GETRANGE {key} {number} {}", random.pick(&numbers)),
        9 => format!("SETRANGE {key} {} {value}", random.pick(&["0", "3", "-1", "40", "x"])),
        10 => format!("MSET {key} {value} {other} {number}"),
        11 => format!("MSETNX {key} {value} {other} {number}"),
        12 => format!("MGET {key} {other} none"),
        13 => format!("{} {key} {other}", random.pick(&["RENAME", "RENAMENX"])),
        14 => format!("{} {key} {time} {condition}", random.pick(&["EXPIREAT", "PEXPIREAT"])),
        15 => format!("{} {key}", random.pick(&["EXPIRETIME", "PEXPIRETIME"])),
        16 => format!("GETEX {key} {}", random.pick(&["", "PERSIST", "EXAT 33177117422", "PX"])),
        17 => format!("{} {key} {value}", random.pick(&["GETSET", "SETNX", "ECHO", "TOUCH"])),
        18 => random.pick(&["MULTI", "EXEC", "DISCARD", "PING", "UNWATCH", "DBSIZE"]).to_owned(),
        19 => format!("WATCH {key}"),
        20 => format!("SELECT {}", random.pick(&["0", "1", "16", "x"])),
        21 => random.pick(&["EXEC", "MULTI", "FLUSHDB", "SELECT 0"]).to_owned(),
        22 => format!("{} {key} {value} extra", random.pick(&["GET", "INCR", "PING", "nosuch"])),
        _ if name == "TTL-ish" => format!("TTL none{key}"),
        _ => format!("{name} {key}"),
    }
}

#[test]
fn replies_are_those_of_redis() {
    let Some(redis) = Redis::start() else { return };
    let server = Server::start(BINARY, &["--durability", "buffered"]);
    let (mut ours, mut theirs) = (server.connect(), redis.connect());
    let (mut ours_other, mut theirs_other) = (server.connect(), redis.connect());
    let seed = std::env::var("ISOLITH_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42);
    eprintln!("ISOLITH_SEED={seed}");
    let mut random = Random(seed);
    let mut history = Vec::new();
    for _ in 0..20_000 {
        let command = random_command(&mut random);
        // A second connection now and then: it changes what the first one watches.
        let other =
            random.below(10) == 0 && !command.contains("FLUSH") && !command.contains("WATCH");
        if command == "FLUSHDB" {
            // To us it changes a watched key that is not there, too: docs/commands.md says so.
            assert_eq!(ours.line("UNWATCH"), theirs.line("UNWATCH"));
        }
        let (got, expected) = match other {
            true => (ours_other.line(&command), theirs_other.line(&command)),
            false => (ours.line(&command), theirs.line(&command)),
        };
        history.push(format!("{} {command} => {got}", if other { "2" } else { "1" }));
        let recent = &history[history.len().saturating_sub(40)..];
        assert_eq!(got.to_string(), expected.to_string(), "after\n{}", recent.join("\n"));
    }
}
