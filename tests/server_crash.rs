//! kill -9 in a loop, under load, with a ledger of what was acknowledged: all of it is there after
//! every restart, and nothing that was never sent.

use isolith_testkit::server::{Client, Server, Value, encode, pipeline};
use std::sync::atomic::{AtomicU64, Ordering};

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");
const CLIENTS: u64 = 4;

/// What one client knows: writes 1..=acknowledged were acknowledged, up to `sent` were sent.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    acknowledged: u64,
    sent: u64,
}

/// Writes `client:number` = number, one after the other in pipelines of `depth`, until the server is
/// gone; counts all clients' acknowledgements in `total`.
fn write_on(
    address: std::net::SocketAddr,
    client: u64,
    from: u64,
    depth: u64,
    total: &AtomicU64,
) -> Ledger {
    let mut ledger = Ledger { acknowledged: from, sent: from };
    let Ok(mut connection) = Client::connect(address) else { return ledger };
    loop {
        let next = ledger.sent + 1;
        let mut bytes = Vec::new();
        for number in next..next + depth {
            bytes.extend(encode(&["SET", &format!("{client}:{number}"), &number.to_string()]));
        }
        ledger.sent += depth;
        if connection.try_send(&bytes).is_err() {
            return ledger;
        }
        for _ in 0..depth {
            match connection.try_reply() {
                Ok(Value::Simple(ok)) if ok == "OK" => {
                    ledger.acknowledged += 1;
                    // Relaxed: a count that only paces the test.
                    total.fetch_add(1, Ordering::Relaxed);
                }
                Ok(other) => panic!("a write was refused: {other}"),
                Err(_) => return ledger,
            }
        }
    }
}

fn check(server: &Server, ledgers: &[Ledger]) {
    let mut connection = server.connect();
    for (client, ledger) in ledgers.iter().enumerate() {
        let mut number = 1;
        while number <= ledger.sent {
            let last = (number + 499).min(ledger.sent);
            let keys = (number..=last).map(|number| format!("GET {client}:{number}\n"));
            connection.send(&pipeline(&keys.collect::<String>()));
            let mut gap = None;
            for number in number..=last {
                match connection.reply() {
                    Value::Null => {
                        assert!(
                            number > ledger.acknowledged,
                            "client {client}: write {number} was acknowledged and is lost; {ledger:?}"
                        );
                        gap.get_or_insert(number);
                    }
                    value => {
                        assert_eq!(value.text(), number.to_string());
                        assert_eq!(
                            gap, None,
                            "client {client}: {number} is there without an earlier one"
                        );
                    }
                }
            }
            number = last + 1;
        }
    }
}

fn kill_loop(arguments: &[&str], rounds: u64, depth: u64) {
    let mut server = Server::start(BINARY, arguments);
    let mut ledgers = vec![Ledger::default(); CLIENTS as usize];
    for round in 0..rounds {
        let address = server.address();
        let total = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let writers: Vec<_> = ledgers
                .iter()
                .enumerate()
                .map(|(client, ledger)| {
                    let (from, total) = (ledger.sent, &total);
                    scope.spawn(move || write_on(address, client as u64, from, depth, total))
                })
                .collect();
            // The moment of death differs in each round.
            // Relaxed: a count that only paces the test.
            while total.load(Ordering::Relaxed) < 50 + 37 * round
                && writers.iter().any(|writer| !writer.is_finished())
            {
                std::thread::yield_now();
            }
            server.kill();
            for (ledger, writer) in ledgers.iter_mut().zip(writers) {
                // Numbers that were sent before and lost are not sent again: `check` looks at each
                // round's own.
                *ledger = writer.join().expect("no panic");
            }
        });
        server.restart();
        check_round(&server, &mut ledgers);
    }
    assert_eq!(server.terminate().code(), Some(0));
    server.restart();
    check(&server, &ledgers);
}

/// Checks, then fills the gap of what was sent and not acknowledged, so that the next round begins
/// with all there.
fn check_round(server: &Server, ledgers: &mut [Ledger]) {
    check(server, ledgers);
    let mut connection = server.connect();
    for (client, ledger) in ledgers.iter_mut().enumerate() {
        for number in ledger.acknowledged + 1..=ledger.sent {
            let number = number.to_string();
            let reply = connection.command(&["SET", &format!("{client}:{number}"), &number]);
            assert_eq!(reply.to_string(), "+OK");
        }
        ledger.acknowledged = ledger.sent;
    }
}

#[test]
fn nothing_acknowledged_is_lost_one_at_a_time() {
    kill_loop(&[], 6, 1);
}

#[test]
fn nothing_acknowledged_is_lost_in_pipelines() {
    kill_loop(&["--threads", "2"], 6, 16);
}

#[test]
fn nothing_acknowledged_to_the_kernel_is_lost_with_the_process() {
    kill_loop(&["--durability", "os"], 4, 8);
}

#[test]
fn nothing_acknowledged_is_lost_without_io_uring() {
    kill_loop(&["--io", "syscall"], 4, 8);
}

/// Transfers between accounts: whatever moment it dies at, no money is made or lost.
#[test]
fn transactions_are_whole_or_not_there() {
    const ACCOUNTS: u64 = 8;
    let mut server = Server::start(BINARY, &["--threads", "2"]);
    for account in 0..ACCOUNTS {
        server.connect().line(&format!("SET account:{account} 1000"));
    }
    for round in 0..5 {
        let (address, total) = (server.address(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for client in 0..CLIENTS {
                let total = &total;
                scope.spawn(move || {
                    let Ok(mut connection) = Client::connect(address) else { return };
                    for step in client.. {
                        let (from, to) = (step % ACCOUNTS, (step * 3 + 1) % ACCOUNTS);
                        let lines = if client % 2 == 0 {
                            format!("MULTI\nDECRBY account:{from} 5\nINCRBY account:{to} 5\nEXEC")
                        } else {
                            format!("BEGIN\nDECRBY account:{from} 5\nINCRBY account:{to} 5\nCOMMIT")
                        };
                        if connection.try_send(&pipeline(&lines)).is_err() {
                            return;
                        }
                        for _ in 0..4 {
                            if connection.try_reply().is_err() {
                                return;
                            }
                        }
                        // Relaxed: a count that only paces the test.
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Relaxed: a count that only paces the test.
            while total.load(Ordering::Relaxed) < 40 + 23 * round {
                std::thread::yield_now();
            }
            server.kill();
        });
        server.restart();
        let mut connection = server.connect();
        let sum: i64 = (0..ACCOUNTS)
            .map(|account| connection.line(&format!("GET account:{account}")).text())
            .map(|text| text.parse::<i64>().expect("a number"))
            .sum();
        assert_eq!(sum, 1000 * ACCOUNTS as i64, "round {round}");
    }
}
