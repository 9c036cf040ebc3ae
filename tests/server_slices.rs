//! Long commands hold up nobody: they are run a slice at a time, or by helpers, while others of the same core
//! are served.

use isolith_testkit::server::{Client, Server, Value, encode, script};
use rustix::process::{Signal, WaitOptions, waitpid};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");
const KEYS: usize = 200_000;

/// A figure of INFO.
fn figure(info: &str, name: &str) -> u64 {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {info}"))
}

fn info(client: &mut Client) -> String {
    client.line("INFO isolith").text()
}

/// Puts `KEYS` keys there: `key:000000` and so on.
fn fill(client: &mut Client) {
    for first in (0..KEYS).step_by(10_000) {
        let mut words = vec!["MSET".to_owned()];
        for number in first..first + 10_000 {
            words.extend([format!("key:{number:06}"), "v".to_owned()]);
        }
        assert_eq!(client.command(&words).to_string(), "+OK");
    }
}

/// Sends to all of them what the server then finds at one and the same time.
fn at_once(server: &Server, requests: &mut [(&mut Client, &[u8])]) {
    server.signal(Signal::STOP);
    let stopped = waitpid(Some(server.process()), WaitOptions::UNTRACED).expect("our child");
    assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    for (client, request) in requests {
        client.send(request);
    }
    server.signal(Signal::CONT);
}

#[test]
fn others_of_the_same_core_are_served_while_keys_is_under_way() {
    let server = Server::start(BINARY, &["--threads", "1", "--durability", "buffered"]);
    let (mut walker, mut before, mut after) =
        (server.connect(), server.connect(), server.connect());
    fill(&mut walker);
    for client in [&mut walker, &mut before, &mut after] {
        script(client, "PING => +PONG");
    }
    let slices = figure(&info(&mut before), "slices");
    let (ask, walk) = (encode(&["INFO", "isolith"]), encode(&["KEYS", "*77777"]));
    at_once(&server, &mut [(&mut before, &ask), (&mut walker, &walk), (&mut after, &ask)]);
    // Whichever of the two came to the core behind KEYS was answered while that was under way.
    let seen = [before.reply().text(), after.reply().text()];
    let under_way = seen.iter().map(|info| figure(info, "walks_under_way"));
    assert_eq!(under_way.max(), Some(1), "{seen:?}");
    assert_eq!(walker.reply().to_string(), r#"["key:077777", "key:177777"]"#);
    let info = info(&mut before);
    assert_eq!(figure(&info, "walks_under_way"), 0);
    assert!(figure(&info, "slices") - slices >= KEYS as u64 / 512 - 1);
    assert_eq!(figure(&info, "slices"), {
        // A narrow one has none.
        script(&mut walker, "RANGE key:000007 key:000008 => [\"key:000007\", \"v\"]");
        figure(&self::info(&mut before), "slices")
    });
}

#[test]
fn a_range_that_nobody_reads_takes_no_memory_and_shows_one_moment() {
    let server = Server::start(BINARY, &["--threads", "1", "--durability", "buffered"]);
    let (mut reader, mut other) = (server.connect(), server.connect());
    let value = vec![b'v'; 1 << 20];
    for number in 0..200 {
        other.command(&[&b"SET"[..], format!("big:{number:03}").as_bytes(), &value]);
    }
    let before = resident_kib(&mut other);
    reader.send(&encode(&["RANGE", "-", "+"]));
    let limit = std::time::Instant::now() + isolith_testkit::server::REPLY_WAIT;
    while figure(&info(&mut other), "walks_under_way") == 0 {
        assert!(std::time::Instant::now() < limit);
    }
    for number in 0..200 {
        let key = format!("big:{number:03}");
        assert_eq!(other.command(&["SET", &key, "new"]).to_string(), "+OK");
    }
    // 200 MiB were asked for. They cannot all be in the sockets, so it is still under way.
    let after = resident_kib(&mut other);
    assert!(after < before + 64 * 1024, "{before} KiB before, {after} KiB after");
    assert_eq!(figure(&info(&mut other), "walks_under_way"), 1);
    let Value::Array(found) = reader.reply() else { panic!("an array") };
    assert_eq!(found.len(), 400);
    for (number, pair) in found.chunks(2).enumerate() {
        assert_eq!(pair[0].text(), format!("big:{number:03}"));
        assert_eq!(pair[1], Value::Bulk(value.clone()), "{number}");
    }
    script(&mut reader, "GET big:000 => \"new\"");
    assert_eq!(figure(&info(&mut other), "walks_under_way"), 0);
    // One who goes in the middle leaves nothing behind.
    for number in 0..200 {
        other.command(&[&b"SET"[..], format!("big:{number:03}").as_bytes(), &value]);
    }
    reader.send(&encode(&["RANGE", "-", "+", "REV"]));
    while figure(&info(&mut other), "walks_under_way") == 0 {
        assert!(std::time::Instant::now() < limit);
    }
    drop(reader);
    while figure(&info(&mut other), "walks_under_way") == 1 {
        assert!(std::time::Instant::now() < limit, "the walk outlives its client");
    }
    let held = other.line("INFO isolith").text();
    assert_eq!(figure(&held, "snapshots"), 0);
}

/// The server's resident memory in KiB.
fn resident_kib(client: &mut Client) -> u64 {
    let process = figure(&client.line("INFO server").text(), "process_id");
    let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).expect("it runs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4
}

#[test]
fn long_commands_are_run_by_helpers() {
    let server = Server::start(BINARY, &["--threads", "1", "--durability", "buffered"]);
    let mut client = server.connect();
    fill(&mut client);
    let big = vec![0xffu8; 8 << 20];
    client.command(&[&b"SET"[..], b"bits", &big]);
    let mut errands = figure(&info(&mut client), "errands");
    let mut helped = |client: &mut Client, command: &[&str]| {
        let reply = client.command(command);
        let now = figure(&info(client), "errands");
        assert_eq!(now, errands + 1, "{command:?}");
        errands = now;
        reply
    };
    assert_eq!(helped(&mut client, &["DBSIZE"]).to_string(), format!(":{}", KEYS + 1));
    assert_eq!(helped(&mut client, &["BITCOUNT", "bits"]).to_string(), format!(":{}", 64 << 20));
    assert_eq!(helped(&mut client, &["BITOP", "NOT", "inverse", "bits"]).to_string(), ":8388608");
    assert_eq!(helped(&mut client, &["GETRANGE", "bits", "7", "7"]), Value::Bulk(vec![0xff]));
    assert_eq!(helped(&mut client, &["GET", "bits"]), Value::Bulk(big.clone()));
    assert_eq!(helped(&mut client, &["SETRANGE", "far", "4000000", "x"]).to_string(), ":4000001");
    helped(&mut client, &["KEYSPACE", "CREATE", "mine"]);
    let keys: Vec<String> = (0..5_000).map(|number| format!("key:{number:06}")).collect();
    let words = |name: &'static str| -> Vec<&str> {
        [name].into_iter().chain(keys.iter().map(String::as_str)).collect()
    };
    let Value::Array(values) = helped(&mut client, &words("MGET")) else { panic!("an array") };
    assert_eq!(values, vec![Value::Bulk(b"v".to_vec()); 5_000]);
    assert_eq!(helped(&mut client, &words("DEL")).to_string(), ":5000");
    assert_eq!(helped(&mut client, &words("EXISTS")).to_string(), ":0");
    script(
        &mut client,
        "MULTI => +OK\nSET n 1 => +QUEUED\nKEYS *99999 => +QUEUED\nINCR n => +QUEUED",
    );
    let all = r#"[+OK, ["key:099999", "key:199999"], :2]"#;
    assert_eq!(helped(&mut client, &["EXEC"]).to_string(), all);
    script(&mut client, "BEGIN => +OK\nSET n 5 => +OK");
    assert_eq!(
        helped(&mut client, &["KEYS", "*99998"]).to_string(),
        r#"["key:099998", "key:199998"]"#
    );
    script(&mut client, "COMMIT => +OK\nGET n => \"5\"");
    // What is short is not.
    script(&mut client, "MGET n m => [\"5\", nil]\nINCR n => :6\nRANGE n o => [\"n\", \"6\"]");
    assert_eq!(figure(&info(&mut client), "errands"), errands);
}

#[test]
fn an_exec_at_a_helpers_is_one_moment_for_others() {
    let server = Server::start(BINARY, &["--threads", "2", "--durability", "buffered"]);
    let mut client = server.connect();
    fill(&mut client);
    let address = server.address();
    // Two keys that are always equal, whoever looks.
    script(&mut client, "MSET one 0 two 0 => +OK");
    let writer = std::thread::spawn(move || {
        let mut client = Client::connect(address).expect("a connection");
        for number in 1..=5 {
            let number = number.to_string();
            client.line("MULTI");
            client.command(&["SET", "one", &number]);
            client.line("DBSIZE");
            client.command(&["SET", "two", &number]);
            assert!(client.line("EXEC").to_string().starts_with("[+OK, :200002"));
        }
    });
    while !writer.is_finished() {
        let Value::Array(pair) = client.line("MGET one two") else { panic!("an array") };
        assert_eq!(pair[0], pair[1]);
    }
    writer.join().expect("no panic");
    script(&mut client, "MGET one two => [\"5\", \"5\"]");
}
