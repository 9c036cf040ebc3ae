//! What leaves when, on a database whose log moves only when the test says so.

use super::*;
use crate::backups::Backups;
use crate::clients::Client;
use crate::terms::Defaults;
use crate::waits::{LockWait, Wakeups};
use isolith::storage::Reach;
use isolith::storage::faulty::{DiskKind, Fault, FaultyStorage, Operation};
use isolith::{
    Builder, Concurrency, Database, DeadlockPolicy, Durability, RangeLock, Transaction,
    TransactionOptions,
};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

mod away;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        // Relaxed: read by the same thread.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

pub(crate) fn connection(token: Token, client: Arc<Client>, core: &Waker) -> Connection {
    let wait = LockWait::new(token, client.clone(), Wakeups::new(core.clone()));
    Connection::new(token, Session::new(client, wait))
}

/// One connection of one core, without sockets.
pub(crate) struct Bench {
    pub(crate) shared: Shared,
    pub(crate) gates: Gates,
    pub(crate) connection: Connection,
    pub(crate) disk: FaultyStorage,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(FaultyStorage::new(DiskKind::Fua))
    }

    fn with(disk: FaultyStorage) -> Bench {
        let database = open(&disk);
        let waker = Waker::from(Arc::new(Wakes::default()));
        let address = "127.0.0.1:1".parse().expect("an address");
        let defaults = Defaults::new(Durability::Sync);
        let backups = Backups::start(database.clone(), None).expect("no thread");
        let wakers = vec![waker.clone()];
        let shared = Shared::new(database, defaults, address, "x".into(), backups, wakers, "none")
            .expect("keyspaces");
        let client = shared.clients.enter(String::new(), String::new(), 0, 2).expect("room");
        let connection = connection(Token::new(0, 0), client, &waker);
        Bench { gates: Gates::new(waker), shared, connection, disk }
    }

    /// A turn of the core.
    fn work(&mut self, act: impl FnOnce(&mut Connection, &mut Work<'_>)) {
        let Bench { shared, gates, connection, .. } = self;
        let mut joining = Vec::new();
        act(connection, &mut Work { shared, core: 0, gates, together: &mut joining, now_ms: 0 });
        end_turn(shared, gates, std::slice::from_mut(connection), joining);
    }

    fn receive(&mut self, lines: &str) {
        let lines = lines.replace('\n', "\r\n");
        self.work(|connection, work| connection.received(lines.as_bytes(), work));
    }

    /// What a turn of the core would send.
    fn sent(&mut self) -> String {
        let mut opened = Vec::new();
        self.gates.drive(&mut opened);
        for gate in opened {
            gate.marks.iter().for_each(|place| self.connection.opened(place.mark, &gate.outcome));
        }
        let Some(buffer) = self.connection.next_send() else { return String::new() };
        let text = String::from_utf8(buffer.clone()).expect("text");
        self.connection.sent(buffer);
        text.replace("\r\n", "\n")
    }
}

/// What is run together at the end of a turn.
pub(crate) fn end_turn(
    shared: &Shared,
    gates: &mut Gates,
    connections: &mut [Connection],
    mut joining: Vec<Token>,
) {
    while !joining.is_empty() {
        let tokens = std::mem::take(&mut joining);
        let mut from = 0;
        while from < tokens.len() {
            from += crate::together::run(&tokens[from..], shared, 0, &mut |token, act| {
                let mut work = Work { shared, core: 0, gates, together: &mut joining, now_ms: 0 };
                let one = connections.iter_mut().find(|connection| connection.token == token);
                one.into_iter().for_each(|connection| act(connection, &mut work));
            });
        }
    }
}

fn open(disk: &FaultyStorage) -> Database {
    Builder::in_memory()
        .storage(disk.as_storage())
        .segment_bytes(256 << 10)
        .stall_timeout(Duration::ZERO)
        // Nothing is written but by the test: `sync`.
        .threads(false)
        .open()
        .expect("a database")
}

#[test]
fn write_is_answered_when_it_is_durable_and_not_before() {
    let mut bench = Bench::new();
    bench.receive("SET a 1\n");
    assert_eq!(bench.sent(), "");
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n");
    assert!(!bench.connection.is_over());
}

#[test]
fn replies_behind_a_waiting_one_wait_too() {
    let mut bench = Bench::new();
    bench.receive("PING\nSET a 1\nPING\nGET a\nGET none\n");
    assert_eq!(bench.sent(), "+PONG\n");
    assert_eq!(bench.sent(), "");
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n+PONG\n$1\n1\n$-1\n");
}

#[test]
fn unacknowledged_write_is_seen_by_its_own_connection_alone() {
    let mut bench = Bench::new();
    bench.receive("SET a 1\n");
    bench.receive("GET a\nSTRLEN a\nMGET a b\nSCAN 0\n");
    let other = bench.shared.clients.enter(String::new(), String::new(), 0, 2).expect("room");
    let other = connection(Token::new(1, 0), other, Waker::noop());
    let own = std::mem::replace(&mut bench.connection, other);
    bench.receive("GET a\nDBSIZE\n");
    assert_eq!(bench.connection.next_send(), Some(b"$-1\r\n:0\r\n".to_vec()));
    bench.connection = own;
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n$1\n1\n:1\n*2\n$1\n1\n$-1\n*2\n$1\n0\n*1\n$1\na\n");
}

#[test]
fn waiting_transaction_shows_its_writes_to_the_next_one() {
    let mut bench = Bench::new();
    bench.receive("MULTI\nSET a 1\nINCR a\nEXEC\nBEGIN READ ONLY\nGET a\nCOMMIT\nINCR a\n");
    assert_eq!(bench.sent(), "+OK\n+QUEUED\n+QUEUED\n");
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "*2\n+OK\n:2\n+OK\n$1\n2\n+OK\n:3\n");
}

#[test]
fn failed_log_turns_waiting_replies_into_errors() {
    let mut bench = Bench::new();
    // A batch of two with a read in between; a read behind it; then something that depends on
    // nothing.
    bench.receive("SET a 1\nGET a\nINCR a\n");
    bench.receive("GET a\nPING\n");
    assert_eq!(bench.sent(), "");
    bench.disk.fail_next(Operation::Submit(Reach::Stable), "wal", Fault::Io);
    bench.disk.fail_next(Operation::Complete(Reach::Stable), "wal", Fault::Io);
    assert!(bench.shared.database.sync().is_err());
    let replies = bench.sent();
    let replies: Vec<&str> = replies.lines().collect();
    assert_eq!(replies.len(), 5, "{replies:?}");
    for reply in &replies[..3] {
        assert!(reply.starts_with("-COMMITUNKNOWN "), "{replies:?}");
    }
    assert!(replies[3].starts_with('-'), "what it saw is unknown, too: {replies:?}");
    assert_eq!(replies[4], "+PONG");
    // From now on: no writes, and reads of what was acknowledged.
    bench.receive("SET b 1\n");
    assert!(bench.sent().starts_with("-READONLY "));
    bench.receive("MULTI\nSET b 1\nEXEC\n");
    assert!(bench.sent().starts_with("+OK\n+QUEUED\n-READONLY "));
}

#[test]
fn batch_is_one_commit() {
    let mut bench = Bench::new();
    let before = bench.shared.database.stats().commits;
    bench.receive(&"INCR n\nSET k v\nGET n\n".repeat(20));
    bench.shared.database.sync().expect("a sync");
    let commits = bench.shared.database.stats().commits - before;
    assert_eq!(commits, 1);
    let replies = bench.sent();
    let expected: String = (1..=20)
        .map(|n: u32| {
            let text = n.to_string();
            format!(":{n}\n+OK\n${}\n{text}\n", text.len())
        })
        .collect();
    assert_eq!(replies, expected);
}

#[test]
fn batch_ends_where_something_else_begins() {
    let mut bench = Bench::new();
    bench.receive(
        "SET a 1\nINCR a\nSELECT 1\nSET a 9\nINCR a\nMULTI\nSET b 1\nEXEC\nSELECT 0\nGET a\n",
    );
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n:2\n+OK\n+OK\n:10\n+OK\n+QUEUED\n*1\n+OK\n+OK\n$1\n2\n");
}

#[test]
fn error_within_a_batch_is_that_commands_alone() {
    let mut bench = Bench::new();
    let key = "k".repeat(70_000);
    // The inline limit is 64 KiB: the key comes in an array.
    bench.receive(&format!(
        "SET a x\nINCR a\n*3\n$3\nSET\n$70000\n{key}\n$1\nv\nSET b 1\nMGET a b\n"
    ));
    bench.shared.database.sync().expect("a sync");
    let replies = bench.sent();
    let replies: Vec<&str> = replies.lines().collect();
    assert_eq!(&replies[..2], ["+OK", "-ERR value is not an integer or out of range"]);
    assert!(replies[2].starts_with("-ERR a key of 70000 bytes"), "{replies:?}");
    assert_eq!(replies[3..].join(" "), "+OK *2 $1 x $1 1");
}

#[test]
fn full_disk_parks_the_command_until_there_is_room() {
    let mut bench = Bench::new();
    bench.disk.set_space(Some(0));
    // Fill what is prepared.
    let value = "v".repeat(16 << 10);
    let mut written = 0;
    while !bench.connection.tries_soon() {
        bench.receive(&format!("SET k{written} {value}\n"));
        written += 1;
        assert!(written < 1000, "the disk is full at some time");
        let _ = bench.shared.database.sync();
        bench.sent();
    }
    assert!(!bench.connection.wants_to_receive(), "a parked client is not listened to");
    bench.work(|connection, work| connection.go_on(work));
    assert!(bench.connection.tries_soon());
    bench.disk.set_space(None);
    // Whoever prepares segments finds the room; without threads the next write does.
    let limit = Instant::now() + Duration::from_secs(30);
    while bench.connection.tries_soon() && Instant::now() < limit {
        bench.work(|connection, work| connection.go_on(work));
    }
    assert!(!bench.connection.tries_soon());
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n");
    assert!(bench.connection.wants_to_receive());
}

#[test]
fn a_commit_that_finds_no_room_is_parked_and_not_lost() {
    let mut bench = Bench::new();
    bench.disk.set_space(Some(0));
    let value = "v".repeat(16 << 10);
    let mut written = 0;
    while !bench.connection.tries_soon() {
        bench.receive(&format!("BEGIN\nGET k\nSET k{written} {value}\nCOMMIT\n"));
        written += 1;
        assert!(written < 1000, "the disk is full at some time");
        let _ = bench.shared.database.sync();
        bench.sent();
    }
    bench.receive("PING\n");
    bench.disk.set_space(None);
    let limit = Instant::now() + Duration::from_secs(30);
    while bench.connection.tries_soon() && Instant::now() < limit {
        bench.work(|connection, work| connection.go_on(work));
    }
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n+PONG\n");
    bench.receive("DBSIZE\n");
    assert_eq!(bench.sent(), format!(":{written}\n"));
}

#[test]
fn commands_stop_while_too_many_replies_wait() {
    let mut bench = Bench::new();
    // MULTI keeps them from becoming one batch.
    bench.receive(&"MULTI\nINCR n\nEXEC\n".repeat(MARKS_MAX + 10));
    assert!(!bench.connection.wants_to_receive());
    assert_eq!(bench.connection.marks.len(), MARKS_MAX);
    bench.shared.database.sync().expect("a sync");
    let first = bench.sent();
    assert!(first.ends_with(&format!("*1\n:{MARKS_MAX}\n")), "{}", first.len());
    assert!(bench.connection.wants_to_run());
    bench.work(|connection, work| connection.go_on(work));
    bench.shared.database.sync().expect("a sync");
    assert!(bench.sent().ends_with(&format!("*1\n:{}\n", MARKS_MAX + 10)));
    assert!(bench.connection.wants_to_receive());
}

#[test]
fn idle_connection_holds_no_buffer() {
    let mut bench = Bench::new();
    let value = "v".repeat(50_000);
    for _ in 0..3 {
        bench.receive(&format!("SET k {}", &value[..40_000]));
        assert!(bench.connection.input.capacity() >= 40_000);
        bench.receive(&format!("{}\nGET k\n", &value[..10_000]));
        bench.shared.database.sync().expect("a sync");
        assert!(bench.sent().len() > 50_000);
        assert_eq!(bench.connection.input.capacity(), 0);
    }
}

#[test]
fn protocol_error_comes_after_the_replies_before_it() {
    let mut bench = Bench::new();
    bench.receive("SET a 1\n*1\n$x\nSET b 1\n");
    assert_eq!(bench.sent(), "");
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n-ERR Protocol error: invalid bulk length\n");
    assert!(bench.connection.is_over());
}

#[test]
fn connection_that_ends_is_over_when_all_is_answered() {
    let mut bench = Bench::new();
    bench.receive("SET a 1\nGET a");
    bench.connection.ended();
    assert!(!bench.connection.is_over());
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n");
    assert!(bench.connection.is_over());
}

/// A client's lines, with all that ends batches, fails in them or changes how the next ones run.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let key = || prop_oneof![Just("a"), Just("b"), Just("c")];
    let line = prop_oneof![
        (key(), 0..3u8).prop_map(|(key, value)| format!("SET {key} {value}")),
        key().prop_map(|key| format!("SET {key} word")),
        key().prop_map(|key| format!("SET {key} 1 NX")),
        key().prop_map(|key| format!("INCR {key}")),
        key().prop_map(|key| format!("APPEND {key} 0")),
        key().prop_map(|key| format!("GET {key}")),
        key().prop_map(|key| format!("DEL {key}")),
        (key(), key()).prop_map(|(one, two)| format!("RENAME {one} {two}")),
        (key(), key()).prop_map(|(one, two)| format!("MGET {one} {two}")),
        (key(), key()).prop_map(|(one, two)| format!("MSET {one} x {two} y")),
        key().prop_map(|key| format!("WATCH {key}")),
        prop_oneof![
            Just("PING"),
            Just("MULTI"),
            Just("EXEC"),
            Just("DISCARD"),
            Just("BEGIN"),
            Just("BEGIN READ ONLY"),
            Just("COMMIT"),
            Just("ROLLBACK"),
            Just("SAVEPOINT s"),
            Just("ROLLBACK TO s"),
            Just("SELECT 0"),
            Just("SELECT 1"),
            Just("FLUSHDB"),
            Just("RANGE - +"),
            Just("NOPE"),
            Just("GET"),
            Just("HELLO 3"),
            Just("HELLO 2"),
        ]
        .prop_map(str::to_owned),
    ];
    proptest::collection::vec(line, 1..60)
}

fn answers(pieces: &[&str], sync: bool) -> String {
    let mut bench = Bench::new();
    let mut answers = String::new();
    for piece in pieces {
        bench.work(|connection, work| connection.received(piece.as_bytes(), work));
        if sync {
            bench.shared.database.sync().expect("a sync");
            answers.push_str(&bench.sent());
        }
    }
    bench.shared.database.sync().expect("a sync");
    answers + &bench.sent()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Batches depend on how the bytes arrive, and on what is acknowledged when; answers do not.
    #[test]
    fn answers_do_not_depend_on_how_the_bytes_arrive(
        lines in lines(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
    ) {
        let text: String = lines.iter().flat_map(|line| [line, "\r\n"]).collect();
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        places.extend([0, text.len()]);
        places.sort_unstable();
        let pieces: Vec<&str> = places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        let one_by_one: Vec<&str> = text.split_inclusive('\n').collect();
        let expected = answers(&one_by_one, true);
        prop_assert_eq!(&expected, &answers(&[&text], false));
        prop_assert_eq!(&expected, &answers(&pieces, false));
        prop_assert_eq!(&expected, &answers(&pieces, true));
    }
}

/// A transaction of somebody else, acknowledged at once.
pub(crate) fn other(shared: &Shared, concurrency: Concurrency) -> Transaction {
    let durability = Some(Durability::Buffered);
    let options = TransactionOptions { concurrency, durability, ..TransactionOptions::default() };
    shared.database.begin_with(options).expect("a transaction")
}

#[test]
fn a_transaction_that_conflicts_too_often_takes_locks_and_waits_for_them() {
    let mut bench = Bench::new();
    let Bench { shared, connection, .. } = &mut bench;
    let keyspace = shared.keyspace(0);
    let this = Try { shared, core: 0, patient: true };
    let (mut runs, mut ages) = (0, Vec::new());
    let mut out = Vec::new();
    let mut run = |session: &mut Session| {
        session.transact(this, &mut Reply::new(&mut out, false), |_, txn, reply| {
            txn.get(keyspace, "k")?;
            runs += 1;
            if runs > 1 {
                ages.push(txn.age());
            }
            if txn.concurrency() == Concurrency::Optimistic {
                let mut rival = other(shared, Concurrency::Optimistic);
                rival.put(keyspace, "k", "other")?;
                rival.commit()?;
            }
            txn.put(keyspace, "k", "mine")?;
            reply.ok();
            Ok(true)
        })
    };
    assert!(matches!(run(&mut connection.session), Flow::Later(Later::Contention)));
    // Somebody younger holds it, and is about to commit: that is waited for.
    let mut holder = other(shared, Concurrency::Optimistic);
    holder.lock_range(keyspace, "k"..="k", RangeLock::Exclusive).expect("nobody has it");
    holder.put(keyspace, "k", "held").expect("fits");
    let flow = run(&mut connection.session);
    // By wound-wait an older one does not wait for a younger one: it has taken its lock.
    assert!(matches!(flow, Flow::Gate(_)));
    assert!(holder.commit().is_err());
    assert_eq!((runs, out.as_slice()), (17, &b"+OK\r\n"[..]));
    assert!(ages.windows(2).all(|pair| pair[0] == pair[1]), "one age for all runs: {ages:?}");
    let value = keyspace.get("k").expect("a read");
    assert_ne!(value.as_deref(), Some(&b"held"[..]));
}

#[test]
fn a_parked_command_goes_on_where_it_was_when_it_is_woken() {
    let mut bench = Bench::new();
    let keyspace = bench.shared.keyspace(0).clone();
    let mut holder = other(&bench.shared, Concurrency::Locking(DeadlockPolicy::WoundWait));
    holder.put(&keyspace, "k", "1").expect("nobody has it");
    bench.receive("SET k 2\nINCR k\nPING\n");
    assert!(bench.connection.waits_for_lock() && !bench.connection.tries_soon());
    assert!(bench.connection.wants_to_receive(), "so that its end is noticed");
    assert!(bench.connection.alarm().is_some());
    let age = holder.age().bits();
    assert_eq!(bench.connection.session.client.waiting(), Some(vec![age]));
    // More comes in, and waits. Being looked at without need changes nothing.
    bench.receive("ECHO more\n");
    bench.work(|connection, work| connection.go_on(work));
    assert_eq!(bench.sent(), "");
    assert_eq!(bench.shared.database.stats().locks.waiting, 1);
    drop(holder);
    // The waker has taken note before anybody runs.
    assert_eq!(bench.connection.session.client.waiting(), None);
    bench.work(|connection, work| connection.go_on(work));
    bench.shared.database.sync().expect("a sync");
    assert_eq!(bench.sent(), "+OK\n:3\n+PONG\n$4\nmore\n");
    assert_eq!(bench.connection.alarm(), None);
    let locks = bench.shared.database.stats().locks;
    assert_eq!((locks.held, locks.waiting), (0, 0));
}

#[test]
fn a_transaction_of_who_is_gone_is_not_waited_for() {
    for commands in
        ["BEGIN CONCURRENCY LOCKING\nSET a 1\nSET k 2\n", "BEGIN\nSET a 1\nSET k 2\nCOMMIT\n"]
    {
        let mut bench = Bench::new();
        let keyspace = bench.shared.keyspace(0).clone();
        let mut holder = other(&bench.shared, Concurrency::Locking(DeadlockPolicy::WoundWait));
        holder.put(&keyspace, "k", "1").expect("nobody has it");
        bench.receive(commands);
        assert!(bench.connection.waits_for_lock());
        assert!(!bench.connection.is_over());
        bench.sent();
        bench.connection.ended();
        // A COMMIT has come in: it is carried out. Without one there is nothing to wait for.
        let committing = commands.contains("COMMIT");
        assert_eq!(bench.connection.is_over(), !committing, "{commands}");
        bench.connection.close_soon();
        let locks = bench.shared.database.stats().locks;
        assert_eq!((locks.held, locks.waiting), (1, 0), "{commands}");
        assert!(bench.connection.is_over());
    }
}
