//! The process: its command line, its exit codes, its signals.

use isolith_testkit::server::{Client, Server, Value, pipeline, run, script};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn help_teaches_the_command() {
    let help = run(BINARY, &["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for word in
        ["serve", "--dir", "--listen", "--threads", "--durability", "--memory", "Exit codes"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(run(BINARY, &["serve", "--help"]).status.success());
    assert!(run(BINARY, &["--version"]).status.success());
    assert!(run(BINARY, &["commands"]).stdout.starts_with(b"# Commands\n"));
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for arguments in [
        &["frobnicate"][..],
        &["--threads", "0"],
        &["--threads", "x"],
        &["--memory", "lots"],
        &["--durability", "eventually"],
        &["--listen", "nowhere"],
        &["--nope"],
    ] {
        let output = run(BINARY, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
    }
}

#[test]
fn addresses_beyond_loopback_are_refused_without_a_password() {
    for address in ["0.0.0.0:6379", "[::]:6379", "192.0.2.1:6379"] {
        let output = run(BINARY, &["serve", "--listen", address]);
        assert_eq!(output.status.code(), Some(3));
        assert!(said(&output).contains("not a loopback address"), "{}", said(&output));
        assert!(said(&output).contains("--requirepass"));
    }
}

#[test]
fn busy_port_is_told_and_touches_nothing() {
    let server = Server::start(BINARY, &[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let (address, data) = (server.address().to_string(), data.to_string_lossy().into_owned());
    // Another isolith, though both share ports among their own threads.
    let output = run(BINARY, &["serve", "--listen", &address, "--dir", &data]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains(&format!("cannot listen on {address}")), "{}", said(&output));
    assert!(!std::path::Path::new(&data).exists());
    // Anybody else.
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = other.local_addr().expect("an address").to_string();
    let output = run(BINARY, &["serve", "--listen", &address, "--dir", &data]);
    assert_eq!(output.status.code(), Some(3));
    script(&mut server.connect(), "PING => +PONG");
}

#[test]
fn directory_in_use_is_told() {
    let server = Server::start(BINARY, &[]);
    let data = server.directory().join("data").to_string_lossy().into_owned();
    let output = run(BINARY, &["serve", "--listen", "127.0.0.1:0", "--dir", &data]);
    assert_eq!(output.status.code(), Some(3));
    assert!(said(&output).contains("cannot open"), "{}", said(&output));
    script(&mut server.connect(), "PING => +PONG");
}

#[test]
fn foreign_directory_is_told_and_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("thesis.txt");
    std::fs::copy(BINARY, &file).expect("a file");
    let path = directory.path().to_string_lossy().into_owned();
    let output = run(BINARY, &["serve", "--listen", "127.0.0.1:0", "--dir", &path]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(file.exists());
}

#[test]
fn signals_close_cleanly_and_everything_is_kept() {
    for signal in [Signal::TERM, Signal::INT] {
        for level in ["sync", "os", "buffered"] {
            let mut server = Server::start(BINARY, &["--durability", level]);
            let mut client = server.connect();
            client.send(&pipeline(&"INCR n\n".repeat(500)));
            for number in 1..=500 {
                assert_eq!(client.reply(), Value::Integer(number));
            }
            // One client has begun something, one is half-way through a request.
            let (mut open, mut half) = (server.connect(), server.connect());
            script(&mut open, "BEGIN => +OK\nSET n lost => +OK");
            half.send(b"*3\r\n$3\r\nSET\r\n$1\r\nn\r\n$4\r\nlo");
            server.signal(signal);
            assert_eq!(server.wait().code(), Some(0), "{signal:?}");
            assert!(client.is_closed() && open.is_closed() && half.is_closed());
            server.restart();
            assert_eq!(server.connect().line("GET n").text(), "500", "{level}");
        }
    }
}

#[test]
fn replies_in_flight_are_delivered_when_it_stops() {
    let mut server = Server::start(BINARY, &["--threads", "2"]);
    let address = server.address();
    let clients: Vec<_> = (0..4)
        .map(|number| {
            std::thread::spawn(move || {
                let mut client = Client::connect(address).expect("a connection");
                let mut acknowledged = 0u64;
                loop {
                    let sent = client.try_send(&pipeline(&format!("INCR n{number}")));
                    match sent.and_then(|()| client.try_reply()) {
                        Ok(Value::Integer(value)) => acknowledged = value as u64,
                        Ok(other) => panic!("{other}"),
                        Err(_) => return (number, acknowledged),
                    }
                }
            })
        })
        .collect();
    let mut watcher = server.connect();
    let limit = std::time::Instant::now() + isolith_testkit::server::REPLY_WAIT;
    while watcher.line("GET n0") == Value::Null {
        assert!(std::time::Instant::now() < limit);
    }
    assert_eq!(server.terminate().code(), Some(0));
    server.restart();
    for client in clients {
        let (number, acknowledged) = client.join().expect("no panic");
        let kept: u64 = match server.connect().line(&format!("GET n{number}")) {
            Value::Null => 0,
            value => value.text().parse().expect("a number"),
        };
        // What was run was answered, unless the client was cut off in between.
        assert!(kept >= acknowledged && kept <= acknowledged + 1, "{kept} {acknowledged}");
    }
}

/// What INFO says of how clients are served.
fn driver(server: &Server) -> String {
    let info = server.connect().line("INFO server").text();
    let line = info.lines().find_map(|line| line.strip_prefix("multiplexing_api:"));
    line.expect("INFO tells it").trim().to_owned()
}

/// Denies io_uring to this thread and to what it starts, for good.
fn deny_io_uring() {
    let rules = BTreeMap::from([(libc::SYS_io_uring_setup, Vec::new())]);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    seccompiler::apply_filter(&program).expect("filters are allowed");
}

#[test]
fn the_driver_is_chosen_and_told() {
    assert_eq!(driver(&Server::start(BINARY, &["--driver", "epoll"])), "epoll");
    let auto = driver(&Server::start(BINARY, &["--driver", "auto"]));
    if auto == "io_uring" {
        assert_eq!(driver(&Server::start(BINARY, &["--driver", "uring"])), "io_uring");
    } else {
        eprintln!("skipped: io_uring is denied here, and auto took {auto}");
    }
    assert_eq!(run(BINARY, &["serve", "--driver", "select"]).status.code(), Some(2));
}

#[test]
fn where_io_uring_is_denied_epoll_serves_or_an_error_says_why() {
    let denied = std::thread::spawn(|| {
        deny_io_uring();
        let server = Server::start(BINARY, &["--driver", "auto"]);
        assert_eq!(driver(&server), "epoll");
        script(&mut server.connect(), "SET a 1 => +OK");

        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().join("data");
        let arguments = ["serve", "--driver", "uring", "--listen", "127.0.0.1:0", "--dir"];
        let output = run(BINARY, &[&arguments[..], &[&data.to_string_lossy()]].concat());
        assert_eq!(output.status.code(), Some(3));
        let said = said(&output);
        assert!(said.contains("cannot serve clients through io_uring: io_uring_setup:"), "{said}");
        assert!(!data.exists());
    });
    denied.join().expect("the thread");
}

#[test]
fn out_of_descriptors_it_rests_and_goes_on() {
    let server = Server::start(BINARY, &["--threads", "1"]);
    let process = server.process();
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero()));
    let few = open.expect("it is our child").count() as u64 + 10;
    let limit = Rlimit { current: Some(few), maximum: Some(few) };
    prlimit(Some(process), Resource::Nofile, limit).expect("it is our child");
    let mut clients: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(&pipeline("PING")));
    // Each that goes leaves room for another.
    for mut client in clients {
        assert_eq!(client.reply().to_string().trim_end(), "+PONG");
    }
    script(&mut server.connect(), "PING => +PONG");
}
