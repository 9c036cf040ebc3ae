//! Several connections of one core, without sockets, on a database whose log moves only when the test says so.

use crate::connection::tests::{Bench, connection, end_turn, other};
use crate::connection::{Connection, Work};
use crate::gates::Gates;
use crate::reactor::Token;
use crate::shared::Shared;
use isolith::storage::Reach;
use isolith::storage::faulty::{Fault, FaultyStorage, Operation};
use isolith::{Concurrency, DeadlockPolicy, RangeLock};
use std::task::Waker;

struct Room {
    shared: Shared,
    gates: Gates,
    clients: Vec<Connection>,
    disk: FaultyStorage,
}

impl Room {
    fn new(count: usize) -> Room {
        let Bench { shared, gates, disk, .. } = Bench::new();
        let clients = (0..count).map(|slot| {
            let client = shared.clients.enter(String::new(), String::new(), 0, count + 2);
            connection(Token::new(slot, 1), client.expect("room"), Waker::noop())
        });
        let clients = clients.collect();
        Room { shared, gates, clients, disk }
    }

    /// One turn, in which this comes in.
    fn turn(&mut self, received: &[(usize, &str)]) {
        let mut joining = Vec::new();
        let Room { shared, gates, clients, .. } = self;
        for &(client, lines) in received {
            let mut work = Work { shared, core: 0, gates, together: &mut joining, now_ms: 0 };
            clients[client].received(lines.replace('\n', "\r\n").as_bytes(), &mut work);
        }
        end_turn(shared, gates, clients, joining);
    }

    /// What is sent to each.
    fn sent(&mut self) -> Vec<String> {
        let mut opened = Vec::new();
        self.gates.drive(&mut opened);
        for gate in opened {
            for place in gate.marks {
                let client = self.clients.iter_mut().find(|client| client.token == place.token);
                client.expect("nobody has left").opened(place.mark, &gate.outcome);
            }
        }
        let sent = |client: &mut Connection| {
            let buffer = client.next_send().unwrap_or_default();
            let text = String::from_utf8(buffer.clone()).expect("text").replace("\r\n", "\n");
            client.sent(buffer);
            text
        };
        self.clients.iter_mut().map(sent).collect()
    }

    fn sync(&self) {
        self.shared.database.sync().expect("a sync");
    }

    fn commits(&self) -> u64 {
        self.shared.database.stats().commits
    }
}

#[test]
fn writes_of_several_clients_are_one_commit_and_answered_when_it_is_durable() {
    let mut room = Room::new(4);
    let before = room.commits();
    room.turn(&[(0, "SET a 1\n"), (1, "INCR n\n"), (2, "PING\nINCR n\n"), (3, "GET a\n")]);
    assert_eq!(room.commits() - before, 1);
    assert_eq!(room.sent(), ["", "", "+PONG\n", "$-1\n"], "and nobody else sees it earlier");
    room.sync();
    assert_eq!(room.sent(), ["+OK\n", ":1\n", ":2\n", ""]);
    assert!(room.clients.iter().all(|client| !client.wants_to_run()));
}

#[test]
fn what_comes_in_behind_a_write_in_the_same_turn_comes_after_it() {
    let mut room = Room::new(2);
    room.turn(&[(0, "INCR n\n"), (1, "INCR n\n"), (0, "GET n\nINCR n\nGET"), (0, " n\nINCR n\n")]);
    assert_eq!(room.sent(), ["", ""]);
    room.sync();
    assert_eq!(room.sent(), [":1\n$1\n2\n:3\n$1\n3\n:4\n", ":2\n"]);
}

#[test]
fn a_command_that_cannot_be_part_of_a_batch_does_the_others_no_harm() {
    let mut room = Room::new(5);
    let key = "k".repeat(70_000);
    let long = format!("*3\n$3\nSET\n$70000\n{key}\n$1\nv\n");
    let before = room.commits();
    room.turn(&[(0, "SET a 1\n"), (1, &long), (2, "INCR n\n"), (3, "INCR a b\n"), (4, "INCR n\n")]);
    assert_eq!(room.commits() - before, 1, "the others are still together");
    room.turn(&[(0, "INCR n\n"), (1, &long), (2, &long), (4, "INCR n\n")]);
    room.sync();
    let sent = room.sent();
    assert_eq!((&*sent[0], &*sent[4]), ("+OK\n:3\n", ":2\n:4\n"));
    assert_eq!(sent[1].matches("-ERR a key of 70000 bytes").count(), 2, "{}", sent[1]);
    assert!(sent[2].starts_with(":1\n-ERR a key of 70000 bytes"), "{}", sent[2]);
    assert!(sent[3].starts_with("-ERR wrong number of arguments"), "{}", sent[3]);
}

#[test]
fn a_lock_in_the_way_of_one_holds_up_no_other() {
    let mut room = Room::new(3);
    let mut holder = other(&room.shared, Concurrency::Locking(DeadlockPolicy::WaitDie));
    let keyspace = room.shared.keyspace(0).clone();
    holder.lock_range(&keyspace, "b"..="b", RangeLock::Exclusive).expect("nobody has it");
    room.turn(&[(0, "SET a 1\n"), (1, "SET b 1\n"), (2, "SET c 1\n")]);
    room.sync();
    assert_eq!(room.sent(), ["+OK\n", "", "+OK\n"]);
    assert!(room.clients[1].waits_for_lock());
    drop(holder);
    let mut joining = Vec::new();
    let Room { shared, gates, clients, .. } = &mut room;
    let mut work = Work { shared, core: 0, gates, together: &mut joining, now_ms: 0 };
    clients[1].go_on(&mut work);
    room.sync();
    assert_eq!(room.sent(), ["", "+OK\n", ""]);
}

#[test]
fn a_failed_log_is_told_to_each() {
    let mut room = Room::new(3);
    room.turn(&[(0, "SET a 1\n"), (1, "SET b 1\n"), (2, "INCR n\n")]);
    room.disk.fail_next(Operation::Submit(Reach::Stable), "wal", Fault::Io);
    room.disk.fail_next(Operation::Complete(Reach::Stable), "wal", Fault::Io);
    assert!(room.shared.database.sync().is_err());
    let sent = room.sent();
    assert!(sent.iter().all(|reply| reply.starts_with("-COMMITUNKNOWN ")), "{sent:?}");
    room.turn(&[(0, "SET a 1\n"), (1, "SET b 1\n")]);
    assert!(room.sent()[..2].iter().all(|reply| reply.starts_with("-READONLY ")));
}

#[test]
fn who_is_closed_in_the_same_turn_is_left_out() {
    let mut room = Room::new(2);
    let mut joining = Vec::new();
    let Room { shared, gates, clients, .. } = &mut room;
    let mut work = Work { shared, core: 0, gates, together: &mut joining, now_ms: 0 };
    for client in clients.iter_mut() {
        client.received(b"INCR n\r\n", &mut work);
    }
    clients[0].close_soon();
    end_turn(shared, gates, clients, joining);
    room.sync();
    assert_eq!(room.sent(), ["", ":1\n"]);
    assert!(room.clients[0].is_over());
}

#[test]
fn more_than_a_batch_takes_is_more_than_one() {
    let mut room = Room::new(300);
    let before = room.commits();
    let received: Vec<(usize, &str)> = (0..300).map(|client| (client, "INCR n\n")).collect();
    room.turn(&received);
    assert_eq!(room.commits() - before, 3);
    room.sync();
    let sent = room.sent();
    assert!((1..=300).zip(&sent).all(|(n, reply)| *reply == format!(":{n}\n")), "{sent:?}");
}
