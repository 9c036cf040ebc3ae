//! The laboratory's targets across a network: isolith itself, and Redis (Debian's redis-server, where it
//! is installed).

use isolith::{Concurrency, DeadlockPolicy, Isolation, Victim};
use isolith_testkit::dice::{effort, run_seed};
use isolith_testkit::laboratory::resp::{self, Address};
use isolith_testkit::laboratory::target::{
    AbortKind, Action, Answer, Contents, Failure, Feature, Hold, Reply, Span, Start, Target, Terms,
};
use isolith_testkit::redis::Redis;
use isolith_testkit::server::{Server, script};
use isolith_testkit::stress::resp::Network;
use isolith_testkit::stress::workload::Workload;
use isolith_testkit::stress::{Length, Options, run};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_isolith");
/// No reply takes so long that does not wait for another transaction.
const WAIT: Duration = Duration::from_secs(30);

fn isolith() -> Server {
    Server::start(BINARY, &["--threads", "2", "--durability", "buffered"])
}

fn target(address: SocketAddr) -> Box<dyn Target> {
    let address: Address = format!("resp://{address}/3").parse().expect("an address");
    resp::connect(&address, WAIT).expect("a server")
}

fn terms(isolation: Isolation, concurrency: Concurrency) -> Terms {
    Terms { isolation, concurrency }
}

fn locking(policy: DeadlockPolicy) -> Terms {
    terms(Isolation::Serializable, Concurrency::Locking(policy))
}

/// Begins a run on `x` = 1 and `y` = 2, and a transaction in each session.
fn begin(target: &mut dyn Target, sessions: &[Terms]) {
    let setup = Contents::from([("x".to_owned(), 1), ("y".to_owned(), 2)]);
    let keys = ["x", "y", "z"].map(str::to_owned);
    start(target, &setup, &keys, &[], sessions);
    for session in 0..sessions.len() {
        assert_eq!(target.submit(session, &Action::Begin), done(Reply::Nothing));
    }
}

fn start(
    target: &mut dyn Target,
    setup: &Contents,
    keys: &[String],
    spaces: &[String],
    sessions: &[Terms],
) {
    let expiring = BTreeMap::new();
    let start = Start { setup, expiring: &expiring, keys, spaces, sessions, hot: false };
    target.start(&start).expect("it starts");
}

fn done(reply: Reply) -> Result<Answer, Failure> {
    Ok(Answer::Done(reply))
}

fn get(key: &str) -> Action {
    Action::Get(key.into(), Hold::No)
}

fn put(key: &str, value: i64) -> Action {
    Action::Put(key.into(), value, None)
}

fn value(value: i64) -> Result<Answer, Failure> {
    done(Reply::Value(Some(value)))
}

fn span(lower: &str, upper: &str, inclusive: bool) -> Span {
    Span { lower: lower.into(), upper: upper.into(), inclusive }
}

fn kind(answer: Result<Answer, Failure>) -> AbortKind {
    match answer {
        Ok(Answer::Aborted(abort)) => abort.kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn steps_are_commands_and_a_run_leaves_nothing() {
    let server = isolith();
    let mut client = server.connect();
    script(&mut client, "SELECT 3 => +OK\nSET x theirs => +OK");
    let mut target = target(server.address());
    assert!(target.label().contains("(isolith "), "{}", target.label());
    let [remark, _] = &target.remarks()[..] else { panic!("two remarks") };
    assert!(remark.contains("only keys that begin with isolith-laboratory:"), "{remark}");
    for level in Isolation::ALL {
        for control in Concurrency::ALL {
            assert!(target.offers(Feature::Terms(terms(level, control))));
            begin(&mut *target, &[terms(level, control)]);
            let mut does = |action: Action| target.submit(0, &action);
            assert_eq!(does(get("x")), value(1));
            assert_eq!(does(Action::Get("y".into(), Hold::Update)), value(2));
            assert_eq!(does(Action::Get("z".into(), Hold::Share)), done(Reply::Value(None)));
            assert_eq!(does(Action::Merge("x".into(), 10)), done(Reply::Nothing));
            assert_eq!(does(Action::Savepoint(0)), done(Reply::Nothing));
            assert_eq!(does(Action::DeleteRange(span("a", "zz", false))), done(Reply::Nothing));
            assert_eq!(does(Action::Scan(span("a", "zz", true))), done(Reply::Pairs(Vec::new())));
            assert_eq!(does(Action::RollbackTo(0)), done(Reply::Nothing));
            let pairs = vec![("x".to_owned(), 11), ("y".to_owned(), 2)];
            assert_eq!(does(Action::Scan(span("x", "y", true))), done(Reply::Pairs(pairs)));
            assert_eq!(does(Action::LockRange(span("x", "y", false))), done(Reply::Nothing));
            assert_eq!(does(Action::Delete("y".into())), done(Reply::Nothing));
            assert_eq!(does(put("z", -3)), done(Reply::Nothing));
            assert_eq!(does(Action::Commit), done(Reply::Committed(None)));
            let contents = [("x".to_owned(), 11), ("z".to_owned(), -3)];
            assert_eq!(target.finish(), Ok(Contents::from(contents)));
            script(&mut client, "KEYS * => [\"x\"]\nGET x => \"theirs\"");
        }
    }
}

/// Each keyspace is a database of its own, and a transaction is one in all of them.
#[test]
fn keyspaces_are_databases() {
    let server = isolith();
    let mut client = server.connect();
    let mut target = target(server.address());
    assert!(target.offers(Feature::Keyspaces) && !target.offers(Feature::Drops));
    let setup = Contents::from([("x".to_owned(), 1), ("a/x".to_owned(), 2), ("b/x".to_owned(), 3)]);
    let keys: Vec<String> = setup.keys().cloned().chain(["b/y".to_owned()]).collect();
    let spaces = ["a", "b"].map(str::to_owned);
    for terms in [Terms::default(), locking(DeadlockPolicy::WoundWait)] {
        start(&mut *target, &setup, &keys, &spaces, &[terms]);
        for (database, count) in [(3, 1), (4, 1), (5, 1), (6, 0)] {
            let asked = format!("SELECT {database} => +OK\nDBSIZE => :{count}");
            script(&mut client, &asked);
        }
        let mut does = |action: Action| target.submit(0, &action);
        assert_eq!(does(Action::Begin), done(Reply::Nothing));
        assert_eq!([does(get("b/x")), does(get("x")), does(get("a/x"))], [3, 1, 2].map(value));
        assert_eq!(does(put("b/y", 9)), done(Reply::Nothing));
        assert_eq!(does(Action::Delete("a/x".into())), done(Reply::Nothing));
        let pairs = vec![("b/x".to_owned(), 3), ("b/y".to_owned(), 9)];
        assert_eq!(does(Action::Scan(span("b/a", "b/z", false))), done(Reply::Pairs(pairs)));
        assert_eq!(does(Action::Commit), done(Reply::Committed(None)));
        let contents = [("x", 1), ("b/x", 3), ("b/y", 9)].map(|(key, value)| (key.into(), value));
        assert_eq!(target.finish(), Ok(Contents::from(contents)));
        for database in 3..6 {
            script(&mut client, &format!("SELECT {database} => +OK\nDBSIZE => :0"));
        }
    }
}

#[test]
fn who_waits_is_seen_to_wait_and_for_whom() {
    let server = isolith();
    let mut target = target(server.address());
    for policy in DeadlockPolicy::ALL {
        begin(&mut *target, &[locking(policy), locking(policy)]);
        assert_eq!(target.submit(0, &put("x", 7)), done(Reply::Nothing));
        let answer = target.submit(1, &put("x", 8));
        if matches!(policy, DeadlockPolicy::WaitDie | DeadlockPolicy::NoWait) {
            let Ok(Answer::Aborted(abort)) = answer else { panic!("{answer:?}") };
            assert_eq!((abort.kind, &abort.by[..]), (AbortKind::LockRefused, &[0][..]));
            assert_eq!(target.submit(0, &Action::Commit), done(Reply::Committed(None)));
        } else {
            assert_eq!(answer, Ok(Answer::Blocked), "{policy}");
            assert_eq!(target.poll(1), Ok(Answer::Blocked));
            assert_eq!((target.waits_for(1), target.can_move(1)), (vec![0], false));
            assert_eq!(target.submit(0, &Action::Commit), done(Reply::Committed(None)));
            assert!(target.can_move(1));
            assert_eq!(target.poll(1), done(Reply::Nothing));
            assert_eq!(target.submit(1, &Action::Rollback), done(Reply::Nothing));
        }
        let contents = [("x".to_owned(), 7), ("y".to_owned(), 2)];
        assert_eq!(target.finish(), Ok(Contents::from(contents)), "{policy}");
    }
}

#[test]
fn what_ends_a_transaction_is_told_with_its_reason() {
    let server = isolith();
    let mut target = target(server.address());
    // A circle; the younger one is the victim.
    let detect = locking(DeadlockPolicy::Detect(Victim::Youngest));
    begin(&mut *target, &[detect, detect]);
    assert_eq!(target.submit(0, &put("x", 3)), done(Reply::Nothing));
    assert_eq!(target.submit(1, &put("y", 4)), done(Reply::Nothing));
    assert_eq!(target.submit(0, &put("y", 5)), Ok(Answer::Blocked));
    assert_eq!(kind(target.submit(1, &put("x", 6))), AbortKind::Deadlock);
    assert_eq!(target.poll(0), done(Reply::Nothing));
    assert_eq!(target.submit(0, &Action::Commit), done(Reply::Committed(None)));
    let contents = [("x".to_owned(), 3), ("y".to_owned(), 5)];
    assert_eq!(target.finish(), Ok(Contents::from(contents)));
    // A wound.
    let wound = locking(DeadlockPolicy::WoundWait);
    begin(&mut *target, &[wound, wound]);
    assert_eq!(target.submit(0, &get("y")), value(2));
    assert_eq!(target.submit(1, &put("x", 4)), done(Reply::Nothing));
    assert_eq!(target.submit(0, &put("x", 5)), done(Reply::Nothing));
    let wounded = target.submit(1, &Action::Commit);
    let Ok(Answer::Aborted(abort)) = wounded else { panic!("{wounded:?}") };
    assert_eq!((abort.kind, &abort.by[..]), (AbortKind::Wounded, &[0][..]), "{}", abort.said);
    assert_eq!(target.submit(0, &Action::Commit), done(Reply::Committed(None)));
    // A conflict, in the same connections.
    let optimistic = terms(Isolation::Snapshot, Concurrency::Optimistic);
    begin(&mut *target, &[optimistic, optimistic]);
    for session in [0, 1] {
        assert_eq!(target.submit(session, &get("x")), value(1));
        assert_eq!(target.submit(session, &put("x", 2)), done(Reply::Nothing));
    }
    assert_eq!(target.submit(1, &Action::Commit), done(Reply::Committed(None)));
    assert_eq!(kind(target.submit(0, &Action::Commit)), AbortKind::Conflict);
}

#[test]
fn a_run_that_is_given_up_is_gone_when_the_next_begins() {
    let server = isolith();
    let mut client = server.connect();
    let mut target = target(server.address());
    let wound = locking(DeadlockPolicy::WoundWait);
    for _ in 0..20 {
        begin(&mut *target, &[wound, wound, wound]);
        assert_eq!(target.submit(0, &put("x", 4)), done(Reply::Nothing));
        assert_eq!(target.submit(1, &put("x", 5)), Ok(Answer::Blocked));
        assert_eq!(target.submit(2, &get("x")), Ok(Answer::Blocked));
        assert_eq!(target.waits_for(2), [0, 1]);
        target.abandon(true);
    }
    begin(&mut *target, &[wound]);
    assert_eq!(target.submit(0, &get("x")), value(1));
    drop(target);
    script(&mut client, "SELECT 3 => +OK\nKEYS * => []");
}

#[test]
fn a_lock_that_stays_is_found() {
    let server = isolith();
    let mut target = target(server.address());
    begin(&mut *target, &[locking(DeadlockPolicy::WoundWait)]);
    assert_eq!(target.submit(0, &put("x", 4)), done(Reply::Nothing));
    // As if the transaction were over.
    let Err(Failure::Broken(why)) = target.finish() else { panic!("the lock is overlooked") };
    assert!(why.contains("a lock is left behind"), "{why}");
}

#[test]
fn a_server_that_dies_ends_the_run() {
    let mut server = isolith();
    let mut target = target(server.address());
    begin(&mut *target, &[locking(DeadlockPolicy::WoundWait)]);
    server.kill();
    let Err(Failure::Target(why)) = target.submit(0, &get("x")) else { panic!("it answers") };
    assert!(why.contains("closed the connection") && why.contains("may be left there"), "{why}");
}

/// Every workload that the target has, in every mixture that it has.
fn stress(address: &str) {
    let address: Address = address.parse().expect("an address");
    let mut target = Network::connect(&address, WAIT).expect("a server");
    let seed = run_seed("stress");
    let mut workloads = Workload::ALL.to_vec();
    // A server tells no commit timestamps: the order of blind writes would have to be searched for.
    workloads.retain(|workload| target.runs(*workload) && *workload != Workload::Register);
    for workload in workloads {
        let length = Length::Transactions(400 * effort() as u64);
        let mix = target.mix();
        let options = Options { workload, length, threads: 4, mix, seed, window: 200, judges: 1 };
        let report = run(&mut target, &options, None, |_| {}).expect("it runs");
        if let Some((_, violation)) = &report.violation {
            panic!("{workload}, window {}: {}", violation.window, violation.what);
        }
        assert_eq!((report.held, report.undecided), (report.windows, None), "{workload}");
        assert!(report.tallies.iter().any(|tally| tally.committed > 0), "{workload}");
    }
}

#[test]
fn isolith_is_stressed() {
    let server = isolith();
    stress(&format!("resp://{}/3", server.address()));
    stress(&format!("resp+watch://{}/3", server.address()));
    script(&mut server.connect(), "SELECT 3 => +OK\nKEYS * => []");
}

#[test]
fn redis_is_stressed() {
    let Some(redis) = Redis::start() else { return };
    stress(&format!("resp://{}/3", redis.address()));
    script(&mut redis.connect(), "SELECT 3 => +OK\nKEYS * => []");
}

#[test]
fn redis_watches() {
    let Some(redis) = Redis::start() else { return };
    let mut client = redis.connect();
    script(&mut client, "SELECT 3 => +OK\nSET x theirs => +OK");
    let mut target = target(redis.address());
    assert!(target.label().contains("(redis "), "{}", target.label());
    let only = terms(Isolation::Serializable, Concurrency::Optimistic);
    for level in Isolation::ALL {
        for control in Concurrency::ALL {
            let is_offered = target.offers(Feature::Terms(terms(level, control)));
            assert_eq!(is_offered, terms(level, control) == only);
        }
    }
    assert!(!target.offers(Feature::Ranges) && !target.offers(Feature::Savepoints));
    for (second, conflict) in [(get("x"), true), (get("z"), false)] {
        begin(&mut *target, &[only, only]);
        assert_eq!(target.submit(0, &get("x")), value(1));
        target.submit(1, &second).expect("it reads");
        assert_eq!(target.submit(0, &put("x", 7)), done(Reply::Nothing));
        assert_eq!(target.submit(1, &Action::Merge("y".into(), 8)), done(Reply::Nothing));
        assert_eq!(target.submit(0, &Action::Commit), done(Reply::Committed(None)));
        let answer = target.submit(1, &Action::Commit);
        match conflict {
            true => assert_eq!(kind(answer), AbortKind::Conflict),
            false => assert_eq!(answer, done(Reply::Committed(None))),
        }
        let y = if conflict { 2 } else { 10 };
        let contents = [("x".to_owned(), 7), ("y".to_owned(), y)];
        assert_eq!(target.finish(), Ok(Contents::from(contents)));
    }
    begin(&mut *target, &[only]);
    assert_eq!(target.submit(0, &get("x")), value(1));
    assert_eq!(target.submit(0, &put("x", 7)), done(Reply::Nothing));
    assert_eq!(target.submit(0, &Action::Rollback), done(Reply::Nothing));
    begin(&mut *target, &[only]);
    assert_eq!(target.submit(0, &Action::Delete("x".into())), done(Reply::Nothing));
    assert_eq!(target.submit(0, &Action::Commit), done(Reply::Committed(None)));
    drop(target);
    script(&mut client, "KEYS * => [\"x\"]\nGET x => \"theirs\"");
}
