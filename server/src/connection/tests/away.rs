//! What is too long for one turn: walks in slices, and commands that a helper has.

use super::*;
use crate::commands::{Group, Handler, Keys, Spec};
use crate::failure::Failure;
use crate::walk::SLICE_KEYS;

impl Bench {
    /// Puts so many keys there: `k00000` and so on, each with a value of so many bytes.
    fn fill(&mut self, keys: usize, bytes: usize) {
        let keyspace = self.shared.keyspace(0).clone();
        let value = vec![b'v'; bytes];
        for number in 0..keys {
            let mut txn = other(&self.shared, Concurrency::Optimistic);
            txn.put(&keyspace, format!("k{number:05}"), &value).expect("fits");
            txn.commit().expect("nobody is in the way");
        }
    }

    /// Lets helpers do what waits for them, and the core take it back.
    fn help(&mut self) {
        self.shared.helpers.work_off(&self.shared);
        for returned in self.shared.helpers.returned(0) {
            self.work(|connection, work| connection.returned(returned, work));
        }
    }

    fn go_on(&mut self) {
        self.work(|connection, work| connection.go_on(work));
    }
}

#[test]
fn a_walk_takes_a_slice_at_a_time_and_sees_one_moment() {
    let mut bench = Bench::new();
    bench.fill(3 * SLICE_KEYS, 1);
    bench.receive("PING\nKEYS *0\nPING\n");
    assert!(bench.connection.walks() && !bench.connection.tries_soon());
    assert_eq!(bench.sent(), "+PONG\n");
    bench.go_on();
    assert!(bench.connection.walks());
    // What happens meanwhile is not part of it.
    bench.fill(0, 0);
    let keyspace = bench.shared.keyspace(0).clone();
    let mut txn = other(&bench.shared, Concurrency::Optimistic);
    txn.delete(&keyspace, format!("k{:05}", 3 * SLICE_KEYS - 6)).expect("fits");
    txn.put(&keyspace, "z0", "late").expect("fits");
    txn.commit().expect("nobody is in the way");
    bench.go_on();
    bench.go_on();
    assert!(!bench.connection.walks());
    let replies = bench.sent();
    let count = (3 * SLICE_KEYS).div_ceil(10);
    assert!(replies.starts_with(&format!("*{count}\n$6\nk00000\n")), "{}", &replies[..40]);
    assert_eq!(replies.lines().count(), 1 + 2 * count + 1);
    assert!(replies.ends_with(&format!("k{:05}\n+PONG\n", 3 * SLICE_KEYS - 6)));
    // Relaxed: this thread counted.
    assert_eq!(bench.shared.walks.load(Ordering::Relaxed), 0);
}

#[test]
fn a_wide_reply_is_given_as_it_is_taken() {
    let mut bench = Bench::new();
    // Sixteen times what waits for a client at most.
    bench.fill(256, 64 << 10);
    bench.receive("RANGE - +\nPING\n");
    let (mut replies, mut most) = (String::new(), 0);
    let mut turns = 0;
    while !bench.connection.input.is_empty() {
        bench.go_on();
        most = most.max(bench.connection.out.len());
        // The client takes something now and then.
        turns += 1;
        if turns % 50 == 0 {
            replies.push_str(&bench.sent());
        }
        assert!(turns < 10_000, "it comes to an end");
    }
    replies.push_str(&bench.sent());
    assert!(most < 2 * OUTPUT_BYTES_PAUSE, "{most} bytes");
    assert!(replies.starts_with("*512\n$6\nk00000\n"));
    assert!(replies.ends_with("v\n+PONG\n"));
    assert_eq!(replies.lines().count(), 1 + 4 * 256 + 1);
    assert_eq!(replies.len(), 5 + 256 * (3 + 7 + 7 + (64 << 10) + 1) + 6);
}

#[test]
fn every_way_of_a_walk_gives_what_a_whole_answer_gives() {
    let mut bench = Bench::new();
    bench.fill(1200, 1100);
    for command in [
        "RANGE - +",
        "RANGE k00100 k01100",
        "RANGE - + REV",
        "RANGE - + LIMIT 1199",
        "RANGE - + LIMIT 1200",
        "RANGE - + LIMIT 1201 REV",
        "RANGE k00005 + LIMIT 1000 REV",
        "RANGE - + LIMIT 0",
        "RANGE z +",
        "RANGE b a",
        "KEYS *",
        "KEYS *7",
        "KEYS k011*",
        "KEYS none*",
    ] {
        for protocol in ["HELLO 2", "HELLO 3"] {
            bench.receive(&format!("{protocol}\n"));
            bench.sent();
            let take = |bench: &mut Bench| {
                let mut all = bench.sent();
                while !bench.connection.input.is_empty() {
                    bench.go_on();
                    all.push_str(&bench.sent());
                }
                all
            };
            bench.receive(&format!("{command}\n"));
            let walked = take(&mut bench);
            bench.receive(&format!("MULTI\n{command}\nEXEC\n"));
            bench.help();
            bench.shared.database.sync().expect("a sync");
            let whole = take(&mut bench);
            assert_eq!(whole, format!("+OK\n+QUEUED\n*1\n{walked}"), "{command}");
        }
    }
}

#[test]
fn a_walk_behind_a_commit_that_fails_ends_in_an_error() {
    for keys in [SLICE_KEYS / 2, 3 * SLICE_KEYS] {
        let mut bench = Bench::new();
        bench.fill(keys, 2000);
        bench.receive("SET a 1\nRANGE - +\nPING\n");
        while bench.connection.walks() && bench.connection.out.len() < OUTPUT_BYTES_PAUSE {
            bench.go_on();
        }
        assert_eq!(bench.sent(), "");
        bench.disk.fail_next(Operation::Submit(Reach::Stable), "wal", Fault::Io);
        bench.disk.fail_next(Operation::Complete(Reach::Stable), "wal", Fault::Io);
        assert!(bench.shared.database.sync().is_err());
        let replies = bench.sent();
        let replies: Vec<&str> = replies.lines().collect();
        // Where all of it waited, all of it is one error. Otherwise no more can follow.
        let is_whole = keys < SLICE_KEYS;
        assert_eq!(replies.len(), if is_whole { 3 } else { 2 }, "{keys}");
        assert!(replies[0].starts_with("-COMMITUNKNOWN ") && replies[1].starts_with('-'));
        assert_eq!(bench.connection.is_over(), !is_whole);
    }
}

#[test]
fn a_read_only_transaction_walks_at_its_own_moment() {
    let mut bench = Bench::new();
    bench.fill(2 * SLICE_KEYS, 1);
    bench.receive("BEGIN READ ONLY\n");
    bench.fill(2 * SLICE_KEYS + 500, 1);
    bench.receive("KEYS *\nCOMMIT\n");
    while bench.connection.walks() {
        bench.connection.expire_transaction(Duration::ZERO);
        bench.go_on();
    }
    let replies = bench.sent();
    assert!(replies.starts_with(&format!("+OK\n*{}\n", 2 * SLICE_KEYS)), "{}", &replies[..20]);
    assert!(replies.ends_with("\n+OK\n"));
}

#[test]
fn what_a_helper_has_is_answered_in_its_place() {
    let mut bench = Bench::new();
    bench.fill(3000, 1);
    let keys: String = (0..3000).map(|number| format!(" k{number:05}")).collect();
    bench.receive(&format!("SET a 1\nDEL{keys}\nPING\n"));
    assert_eq!(bench.shared.helpers.figures().waiting, 1);
    assert!(!bench.connection.tries_soon() && bench.connection.wants_to_receive());
    // Nothing runs meanwhile, whatever happens.
    bench.receive("PING\n");
    bench.go_on();
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n");
    bench.help();
    assert_eq!(bench.sent(), "", "it is committed, and not durable");
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), ":3000\n+PONG\n+PONG\n");
    assert_eq!(bench.shared.helpers.figures().done, 1);
}

#[test]
fn a_command_that_turns_out_long_begins_anew_with_a_helper() {
    let mut bench = Bench::new();
    bench.fill(3000, 1);
    // A core gets so far, and further than that: nothing of it may be left.
    bench.receive("MULTI\nSET a 1\nINCR a\nKEYS *5\nDBSIZE\nSELECT 1\nSET b 1\nEXEC\nGET b\n");
    assert_eq!(bench.shared.helpers.figures().waiting, 1);
    bench.help();
    bench.shared.database.sync().expect("a sync");
    let replies = bench.sent();
    assert!(replies.contains("+QUEUED\n*6\n+OK\n:2\n*300\n$6\nk00005\n"), "{}", replies.len());
    assert!(replies.ends_with(":3001\n+OK\n+OK\n$1\n1\n"), "{}", replies.len());
    // In a transaction of the client's own, which goes on behind it.
    bench.receive("SELECT 0\nBEGIN\nINCR a\nDBSIZE\nRANGE a b\nROLLBACK\nGET a\n");
    bench.help();
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n+OK\n:3\n:3001\n*2\n$1\na\n$1\n3\n+OK\n$1\n2\n");
}

#[test]
fn who_waits_for_a_lock_at_a_helpers_is_woken() {
    let mut bench = Bench::new();
    bench.fill(1500, 1);
    let keyspace = bench.shared.keyspace(0).clone();
    let keys: String = (0..1500).map(|number| format!(" k{number:05}")).collect();
    for freed_while_away in [false, true] {
        let mut holder = other(&bench.shared, Concurrency::Locking(DeadlockPolicy::WoundWait));
        holder.put(&keyspace, "k00007", "held").expect("nobody has it");
        bench.receive(&format!("DEL{keys}\nPING\n"));
        bench.shared.helpers.work_off(&bench.shared);
        let holder = if freed_while_away { None } else { Some(holder) };
        for returned in bench.shared.helpers.returned(0) {
            bench.work(|connection, work| connection.returned(returned, work));
        }
        assert_eq!(bench.connection.waits_for_lock(), !freed_while_away);
        drop(holder);
        if !freed_while_away {
            bench.go_on();
        }
        bench.help();
        bench.shared.database.sync().expect("a sync");
        let deleted = if freed_while_away { 0 } else { 1500 };
        assert_eq!(bench.sent(), format!(":{deleted}\n+PONG\n"));
    }
}

#[test]
fn where_no_helper_takes_it_the_client_is_told() {
    let mut bench = Bench::new();
    bench.shared.helpers.close();
    let keys = " k".repeat(2000);
    bench.receive(&format!("SET k 1\nBEGIN\nMGET{keys}\nGET k\n"));
    bench.shared.database.sync().expect("a sync");
    let replies = bench.sent();
    let replies: Vec<&str> = replies.lines().collect();
    assert!(replies[2].starts_with("-BUSY retry=after:"), "{replies:?}");
    assert_eq!(replies[3..], ["$1", "1"], "and goes on");
}

#[test]
fn a_client_that_goes_while_a_helper_works_leaves_nothing() {
    let mut bench = Bench::new();
    bench.fill(3000, 1);
    bench.receive("BEGIN CONCURRENCY LOCKING\nSET a 1\nDBSIZE\n");
    bench.sent();
    bench.connection.ended();
    assert!(!bench.connection.is_over(), "it may still read");
    bench.connection.close_soon();
    assert!(!bench.connection.is_over(), "what is in hand is answered");
    bench.help();
    assert_eq!(bench.sent(), ":3001\n");
    assert!(bench.connection.is_over());
    assert_eq!(bench.shared.database.stats().locks.held, 0);
}

#[test]
fn writes_are_refused_while_too_many_replies_wait_for_the_disk() {
    let mut bench = Bench::new();
    bench.receive("SET a 1\nMULTI\nSET b 1\n");
    let at = bench.shared.database.visible();
    // Those of other connections.
    while bench.gates.has_room() {
        let pending = bench.shared.database.pending(at);
        bench.gates.push(
            crate::gates::Gate::new(crate::gates::Class::Seen, at, pending),
            vec![crate::gates::Place { token: Token::new(9, 9), mark: 0 }],
        );
    }
    bench.receive("EXEC\nDISCARD\nSET a 2\nSET a 3\nGET a\nPING\n");
    bench.shared.database.sync().expect("a sync");
    let replies = bench.sent();
    let replies: Vec<&str> = replies.lines().collect();
    assert_eq!(replies.len(), 10, "{replies:?}");
    for refused in [3, 5, 6] {
        assert!(replies[refused].starts_with("-BUSY retry=after:"), "{replies:?}");
    }
    // Nothing of it was done, and what reads is served.
    assert_eq!((replies[4], replies[9]), ("+OK", "+PONG"));
    bench.receive("SET a 4\nGET a\nEXISTS b\n");
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n$1\n4\n:0\n");
    assert_eq!(bench.shared.total(|counters| &counters.shed), 3);
}

#[test]
fn an_error_of_the_engine_is_answered_by_a_command_without_data() {
    static FAILS: Spec = Spec {
        name: "fails",
        arity: 1,
        keys: Keys { first: 0, last: 0, step: 0 },
        fast: false,
        marks: &[],
        group: Group::Server,
        since: "",
        syntax: "",
        summary: "",
        note: "",
        handler: Handler::Plain(|_, _, _| Err(Failure::Engine(isolith::Error::TransactionTimeout))),
        subcommands: &[],
    };
    let mut bench = Bench::new();
    let Bench { shared, connection, .. } = &mut bench;
    let (this, mut out) = (Try { shared, core: 0, patient: true }, Vec::new());
    connection.session.look_at_users(shared);
    let mut parser = Parser::new();
    assert_eq!(parser.parse(b"fails\r\n"), Ok(Step::Ready));
    let args = parser.args(b"fails\r\n");
    assert!(matches!(connection.session.execute(this, Ok(&FAILS), args, &mut out), Flow::Done));
    assert!(out.starts_with(b"-TXTIMEOUT ") && out.ends_with(b"\r\n"));
}
