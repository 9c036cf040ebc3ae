//! Small histories in words, and what must be found in them.

use crate::history::{History, Key, Level, Operation, Order, Outcome, Transaction, Value};

use super::{Budget, Inference, Question, Verdict, Workload, judge};

/// A history in words, one transaction a line, in the order of invocation: `p1` its process, `@2-5`
/// its invocation and completion (without: one after the other), `abort`, `info`, `init`, `c7` a
/// commit timestamp, `level=…`; `ax3` appends 3 to x, `rx=1,2` reads it (`rx=` empty, `rx?` unknown),
/// `wx3`, `vx3` (`vx-` nil) write and read a register, `dx` deletes, `p:true{x1,y2}` reads by a
/// predicate (`true`, `=3`, `%2=1`).
pub(super) fn history(lines: &[&str]) -> History {
    let mut history = History::new();
    for (number, line) in lines.iter().enumerate() {
        let invoked = 2 * number as u32 + 1;
        let mut transaction = Transaction {
            invoked,
            completed: invoked + 1,
            line: number as u32 + 1,
            ..Transaction::of(number as u32)
        };
        let mut operations = Vec::new();
        for word in line.split_whitespace() {
            about(&mut transaction, word);
            operations.extend(operation(&mut history, word));
        }
        history.push(transaction, &operations);
    }
    history.finish();
    history
}

fn about(transaction: &mut Transaction, word: &str) {
    match word {
        "abort" => transaction.outcome = Outcome::Aborted,
        "info" => {
            transaction.outcome = Outcome::Unknown;
            transaction.completed = Transaction::NEVER;
        }
        "init" => transaction.initial = true,
        "untimed" => {
            transaction.invoked = 0;
            transaction.completed = Transaction::NEVER;
        }
        _ => {}
    }
    if let Some(process) = word.strip_prefix('p').and_then(|rest| rest.parse().ok()) {
        transaction.process = process;
    }
    if let Some(at) = word.strip_prefix('c').and_then(|rest| rest.parse().ok()) {
        transaction.commit = std::num::NonZeroU64::new(at);
    }
    if let Some(level) = word.strip_prefix("level=") {
        transaction.level = Level::parse(level);
    }
    if let Some((from, to)) = word.strip_prefix('@').and_then(|rest| rest.split_once('-')) {
        transaction.invoked = from.parse().unwrap();
        transaction.completed = to.parse().unwrap_or(Transaction::NEVER);
    }
}

fn number(text: &str) -> Value {
    text.parse().ok().and_then(Value::small).unwrap_or(Value::NIL)
}

fn operation(history: &mut History, word: &str) -> Option<Operation> {
    use crate::history::Predicate;
    if let Some((predicate, found)) = word.strip_prefix("p:").and_then(|rest| rest.split_once('{'))
    {
        let predicate = match predicate.split_once('=') {
            None => Predicate::All,
            Some(("", value)) => Predicate::Equals(number(value)),
            Some((modulus, rest)) => Predicate::Modulo(
                modulus.trim_start_matches('%').parse().unwrap(),
                rest.parse().unwrap(),
            ),
        };
        let found: Vec<(Key, Value)> = found
            .trim_end_matches('}')
            .split(',')
            .filter(|pair| !pair.is_empty())
            .map(|pair| (history.key(&pair[..1]), number(&pair[1..])))
            .collect();
        return Some(history.read_where(predicate, &found));
    }
    let (kind, rest) = word.split_at(1);
    if rest.is_empty() || !matches!(kind, "a" | "r" | "w" | "v" | "d" | "i") {
        return None;
    }
    let (name, rest) = rest.split_at(1);
    if !matches!(name, "x" | "y" | "z" | "t" | "u") || word == "untimed" {
        return None;
    }
    let key = history.key(name);
    Some(match (kind, rest) {
        (_, "?") => Operation::ReadUnknown { key },
        ("a", value) => Operation::Append { key, value: number(value) },
        ("r", list) => {
            let list = list.trim_start_matches('=');
            let list: Vec<Value> =
                list.split(',').filter(|each| !each.is_empty()).map(number).collect();
            history.read_list(key, &list)
        }
        ("w", value) => Operation::Write { key, value: number(value) },
        ("v", value) => Operation::Read { key, value: number(value) },
        ("i", value) => Operation::Insert { key, value: number(value) },
        _ => Operation::Delete { key },
    })
}

/// What is found in a history of a workload at a level: names, `ok`, or why it is undecided.
pub(super) fn found(workload: Workload, level: &str, lines: &[&str]) -> String {
    let mut question = Question::new(workload, Level::parse(level).unwrap());
    question.own_levels = lines.iter().any(|line| line.contains("level="));
    let history = history(lines);
    let report = judge(&history, &question);
    for found in &report.found {
        let prose = found.witness.prose(&history);
        assert!(!prose.is_empty(), "{}", found.anomaly);
    }
    match report.verdict {
        Verdict::Holds => "ok".to_owned(),
        Verdict::Undecided(why) => why,
        Verdict::Violated => report.names().join(" "),
    }
}

fn lists(level: &str, lines: &[&str]) -> String {
    found(Workload::Append, level, lines)
}

#[test]
fn a_serial_history_of_lists_holds() {
    let serial = ["ax1 ay1", "rx=1 ax2", "rx=1,2 ry=1", "ax3 rx=1,2,3"];
    for level in Level::all() {
        assert_eq!(lists(&level.to_string(), &serial), "ok", "{level}");
    }
}

#[test]
fn cycles_of_lists_are_named_as_elle_names_them() {
    let interleaved = ["ax1 ay2", "ay1 ax2", "rx=1,2 ry=1,2"];
    assert_eq!(lists("read-uncommitted", &interleaved), "G0");
    assert_eq!(lists("read-committed", &["@1-9 ax1 ry=1", "@1-9 ay1 rx=1"]), "G1c");
    assert_eq!(lists("read-uncommitted", &["@1-9 ax1 ry=1", "@1-9 ay1 rx=1"]), "ok");
    let skew = ["ax1 ay1", "@1-9 rx=1 ry="];
    assert_eq!(lists("snapshot", &skew), "G-single-item");
    assert_eq!(lists("read-atomic", &skew), "G-single-item");
    assert_eq!(lists("read-committed", &skew), "ok");
    let write_skew = ["@1-9 rx= ay1", "@1-9 ry= ax1"];
    assert_eq!(lists("serializable", &write_skew), "G2-item");
    assert_eq!(lists("repeatable-read", &write_skew), "G2-item");
    assert_eq!(lists("snapshot", &write_skew), "ok");
    let fork = ["@1-9 ax1", "@1-9 rx=1 ry=", "@1-9 ay1", "@1-9 ry=1 rx="];
    assert_eq!(lists("snapshot", &fork), "G-nonadjacent-item");
    assert_eq!(lists("causal", &fork), "ok");
}

#[test]
fn real_time_and_sessions_take_part_in_cycles() {
    let stale = ["p0 ax1", "p1 ax2", "p2 rx=1", "p3 rx=1,2"];
    assert_eq!(lists("serializable", &stale), "ok");
    assert_eq!(lists("strict-serializable", &stale), "G-single-item-realtime");
    assert_eq!(lists("strong-session-snapshot", &stale), "ok");
    let own = ["p0 ax1", "p1 ax2", "p1 rx=1", "p2 rx=1,2"];
    assert_eq!(lists("strong-session-snapshot", &own), "G-single-item-process");
    let backwards = ["p1 rx=1 ay1", "p2 ry=1", "p2 ax1"];
    assert_eq!(lists("strong-session-snapshot", &backwards), "G1c-process");
    // Concurrent transactions have no order.
    assert_eq!(lists("strict-serializable", &["@1-3 ax1", "@2-4 rx=", "@5-6 rx=1"]), "ok");
    assert_eq!(
        lists("strict-serializable", &["@1-2 ax1", "@3-4 rx=", "@5-6 rx=1"]),
        "G-single-item-realtime"
    );
}

#[test]
fn reads_of_lists_can_be_wrong_by_themselves() {
    assert_eq!(lists("read-committed", &["ax1 abort", "rx=1"]), "G1a");
    assert_eq!(lists("read-committed", &["ax1 ax2", "rx=1"]), "G1b");
    assert_eq!(lists("read-committed", &["ax1 abort", "ax2", "rx=1,2"]), "G1a dirty-update");
    assert_eq!(
        lists("read-committed", &["ax1", "ax2", "ax3", "rx=1,2", "rx=1,3"]),
        "incompatible-order"
    );
    assert_eq!(lists("read-committed", &["rx=1 ax1"]), "future-read");
    assert_eq!(lists("snapshot", &["ax1", "rx=1 ax2 rx=1"]), "internal");
    assert_eq!(lists("read-uncommitted", &["ax1", "rx=1,1"]), "duplicate-elements");
    assert_eq!(lists("read-uncommitted", &["ax1", "rx=1,2"]), "garbage-read");
    assert_eq!(lists("read-committed", &["ax0", "rx=0 ax1", "rx=0 ax2"]), "ok");
    assert_eq!(
        lists("snapshot", &["ax0", "@3-9 rx=0 ax1", "@3-9 rx=0 ax2", "rx=0,1,2"]),
        "lost-update G-single-item"
    );
}

#[test]
fn elements_of_a_transaction_stay_in_the_order_in_which_it_appended_them() {
    for level in ["read-committed", "snapshot", "strict-serializable"] {
        assert!(lists(level, &["ax1 ax2", "rx=2"]).starts_with("incompatible-order"), "{level}");
        assert_eq!(lists(level, &["ax1 ax2", "ax3 rx=2,1,3"]), "incompatible-order", "{level}");
        assert_eq!(lists(level, &["ax1 ax2", "rx=1,2"]), "ok", "{level}");
    }
    assert_eq!(lists("read-committed", &["ax1 ax2 abort", "rx=2"]), "G1a");
}

#[test]
fn what_is_read_behind_the_own_elements_was_seen() {
    let fractured = ["@1-9 ax1 ay1", "@1-9 ry= ax2 rx=1,2"];
    assert_eq!(lists("read-atomic", &fractured), "G-single-item");
    assert_eq!(lists("causal", &fractured), "G-single-item");
    assert_eq!(lists("read-committed", &fractured), "ok");
}

#[test]
fn a_session_is_seen_as_far_back_as_it_goes() {
    let forgotten = ["p0 ax1", "p0 ay1", "p0 rx="];
    assert_eq!(lists("strong-session-read-atomic", &forgotten), "G-single-item-process");
    let through_a_read = ["p0 ax1", "p0 ay1", "p0 ry=1 rx="];
    assert_eq!(lists("strong-session-read-atomic", &through_a_read), "G-single-item-process");
    assert_eq!(lists("read-atomic", &through_a_read), "ok");
}

#[test]
fn whatever_comes_after_what_was_read_is_newer() {
    let several = ["@1-9 p0 ax1", "@2-3 p1 ax2", "@4-7 p2 ax3 rx=3", "@5-8 p1 rx="];
    assert_eq!(lists("causal", &several), "G-single-item-process");
}

#[test]
fn strong_weak_levels_keep_real_time() {
    let stale = ["p0 ax1", "p1 rx="];
    for level in ["strong-read-atomic", "strong-causal"] {
        assert_eq!(lists(level, &stale), "G-single-item-realtime", "{level}");
        assert_eq!(lists(level, &["@1-3 p0 ax1", "@2-4 p1 rx="]), "ok", "{level}");
    }
    assert_eq!(lists("strong-read-committed", &stale), "ok");
    // Who is seen through another one began after it was acknowledged.
    let through = ["@1-2 p0 ax1", "@3-9 p1 ay1", "@1-9 p2 ry=1 rx="];
    assert_eq!(lists("strong-causal", &through), "G-single-item-realtime");
    assert_eq!(lists("strong-read-atomic", &through), "ok");
}

#[test]
fn snapshot_isolation_asks_for_an_order_of_appends_that_nobody_read() {
    let skew = ["@1-9 rx= ay1", "@1-9 ry= ax1"];
    assert_eq!(lists("snapshot", &skew), "ok");
    let conflict = ["@1-9 rx= ay1 az1", "@1-9 ry= ax1 az2"];
    assert_eq!(lists("snapshot", &conflict), "G-single-item");
    // One way round is fine, whoever was acknowledged first.
    for (first, second) in [("@1-8", "@2-9"), ("@1-9", "@2-8")] {
        let (first, second) = (format!("{first} az1 ax1"), format!("{second} rx= az2"));
        assert_eq!(lists("snapshot", &[&first, &second]), "ok");
    }
    let session = ["@1-9 p0 rx= ay1 ax1", "@2-3 p1 ax2", "@4-5 p1 ry="];
    assert_eq!(lists("snapshot", &session), "ok");
    assert_eq!(lists("strong-session-snapshot", &session), "G-single-item-process");
}

#[test]
fn whose_outcome_is_unknown_may_have_happened_or_not() {
    assert_eq!(lists("strict-serializable", &["ax1 info", "rx=", "rx=1"]), "ok");
    assert_eq!(lists("strict-serializable", &["ax1 info", "rx=", "ax2", "rx=2"]), "ok");
    assert_eq!(
        lists("strict-serializable", &["ax1 info", "rx=1", "rx="]),
        "G-single-item-realtime"
    );
}

#[test]
fn in_a_mixed_history_the_level_of_whoever_depends_decides() {
    let serializable = "level=serializable";
    let skew = |first: &str, second: &str| {
        let first = format!("@1-9 rx= ay1 level={first}");
        let second = format!("@1-9 ry= ax1 level={second}");
        lists("read-committed", &[&first, &second])
    };
    assert_eq!(skew("serializable", "serializable"), "G2-item");
    assert_eq!(skew("serializable", "repeatable-read"), "G2-item");
    assert_eq!(skew("serializable", "snapshot"), "ok");
    assert_eq!(skew("read-committed", "serializable"), "ok");
    let reader = format!("@1-9 rx=1 ry= {serializable}");
    assert_eq!(lists("read-committed", &["ax1 ay1", &reader]), "G-single-item");
    assert_eq!(lists("serializable", &["ax1 ay1", "@1-9 rx=1 ry= level=read-committed"]), "ok");
}

#[test]
fn commit_timestamps_are_checked_and_not_trusted() {
    assert_eq!(lists("serializable", &["c2 ax1", "c1 ax2", "rx=1,2"]), "timestamp-order");
    assert_eq!(lists("serializable", &["c1 ax1", "c2 ax2", "rx=1,2"]), "ok");
}

#[test]
fn nothing_is_said_about_a_history_without_dependencies() {
    assert_ne!(lists("serializable", &["ax1", "ay1"]), "ok");
    assert_ne!(lists("serializable", &["ax1", "ax1", "rx=1"]), "ok");
}

#[test]
fn a_witness_tells_why() {
    let history = history(&["ax1 ay1", "@1-9 rx=1 ry="]);
    let report = judge(&history, &Question::new(Workload::Append, Level::SNAPSHOT));
    let prose = report.found[0].witness.prose(&history);
    let expected = "  T1 = [read x = [1], read y = []], line 2
  T2 = [append x 1, append y 1], line 1
  T1 comes before T2, because T1 read y without 1, which T2 appended.
  However, T2 comes before T1, because T2 appended 1 to x and T1 read it: a contradiction.
";
    assert_eq!(prose, expected);
}

fn registers(level: &str, lines: &[&str]) -> String {
    found(Workload::Register, level, lines)
}

fn granted(level: &str, inference: Inference, lines: &[&str]) -> String {
    let history = history(lines);
    let question =
        Question { inference, ..Question::new(Workload::Register, Level::parse(level).unwrap()) };
    let report = judge(&history, &question);
    if report.verdict == Verdict::Holds { "ok".to_owned() } else { report.names().join(" ") }
}

#[test]
fn a_serial_history_of_registers_holds() {
    let serial = ["wx1 wy1", "vx1 wx2", "vx2 vy1", "wx3 vx3", "vx3 dx", "vy1 wz1"];
    for level in Level::all() {
        assert_eq!(registers(&level.to_string(), &serial), "ok", "{level}");
    }
}

#[test]
fn cycles_of_registers_are_named() {
    assert_eq!(registers("read-committed", &["@1-9 wx1 vy1", "@1-9 wy1 vx1"]), "G1c");
    assert_eq!(registers("read-uncommitted", &["@1-9 wx1 vy1", "@1-9 wy1 vx1"]), "ok");
    assert_eq!(registers("serializable", &["wy1 wx2", "@1-9 vx- vy1"]), "G-single-item");
    let skew = ["@1-9 vx- wy1", "@1-9 vy- wx1"];
    assert_eq!(registers("serializable", &skew), "G2-item");
    assert_eq!(registers("snapshot", &skew), "ok");
    assert_eq!(registers("snapshot", &["wx9", "@9-20 vx9 wx1", "@9-20 vx9 wx2"]), "lost-update");
    assert_eq!(registers("strict-serializable", &["wx1", "vx-", "vx1"]), "G-single-item-realtime");
}

#[test]
fn reads_of_registers_can_be_wrong_by_themselves() {
    assert_eq!(registers("read-committed", &["wx1 abort", "vx1"]), "G1a");
    assert_eq!(registers("read-committed", &["wx1 wx2", "vx1"]), "G1b");
    assert_eq!(registers("read-committed", &["wx1 abort", "wx2 vx1"]), "G1a");
    assert_eq!(registers("read-atomic", &["wx1", "wx2", "@1-9 vx1 vx2"]), "internal");
    assert_eq!(registers("read-committed", &["vx1 wx1"]), "future-read");
}

#[test]
fn blind_writes_are_put_into_an_order_that_the_level_allows() {
    // Either order of the two writes of x is fine.
    assert_eq!(registers("serializable", &["@1-9 wx1", "@1-9 wx2", "vx1"]), "ok");
    // Real time decides.
    assert_eq!(registers("serializable", &["wx1", "wx2", "vx1"]), "ok");
    assert_eq!(registers("strict-serializable", &["wx1", "wx2", "vx2"]), "ok");
    let stale = registers("strict-serializable", &["wx1", "wx2", "vx1"]);
    assert_eq!(stale, "G-single-item-realtime");
    // Two readers see two blind writes in opposite orders.
    let opposite =
        ["@1-99 wx1", "@1-99 wx2", "p3 @1-3 vx1", "p3 @4-5 vx2", "p4 @1-3 vx2", "p4 @4-5 vx1"];
    assert_eq!(registers("strong-session-serializable", &opposite), "G-single-item-process");
    assert_eq!(registers("serializable", &opposite), "ok");
    // Both orders of x contradict what was read of y.
    let torn = ["@1-9 wx1 wy1", "@1-9 wx2 wy2", "@1-9 vx1 vy2"];
    assert_eq!(registers("serializable", &torn), "G-single-item");
    assert_eq!(registers("read-committed", &torn), "ok");
}

#[test]
fn what_is_granted_about_keys_orders_their_versions() {
    let (none, linearizable, sequential, follow) = (
        Inference::default(),
        Inference { linearizable_keys: true, ..Inference::default() },
        Inference { sequential_keys: true, ..Inference::default() },
        Inference { writes_follow_reads: true, ..Inference::default() },
    );
    // As Elle judges the same.
    let backwards = ["p0 wx2", "p0 vx3", "p0 vx2"];
    assert_eq!(granted("strict-serializable", none, &backwards), "ok");
    assert_eq!(granted("strict-serializable", linearizable, &backwards), "cyclic-versions");
    let crossed = ["p0 wx1 wy2", "p1 wx2 wy1", "p0 vx2", "p1 vy2"];
    assert_eq!(granted("read-uncommitted", sequential, &crossed), "G0");
    let read_again = ["vy1 wx1 wy2", "vx1 vy1"];
    assert_eq!(granted("serializable", none, &read_again), "ok");
    assert_eq!(granted("serializable", follow, &read_again), "G-single-item");
    assert_eq!(
        granted("strict-serializable", sequential, &["p0 wx1", "p0 wx2", "p0 vx1"]),
        "cyclic-versions"
    );
}

fn predicates(level: &str, lines: &[&str]) -> String {
    found(Workload::Predicate, level, lines)
}

#[test]
fn reads_by_a_predicate_depend_on_what_they_did_not_return() {
    let strict = "strict-serializable";
    // The histories of Elle's tests of closed predicates, in our words.
    assert_eq!(predicates("serializable", &["wx1 p:true{y2}", "wy2 p:true{x1}"]), "G1c");
    let phantoms = ["wx1 p:true{}", "wy2 p:true{}"];
    assert_eq!(predicates("serializable", &phantoms), "G2");
    assert_eq!(predicates("repeatable-read", &phantoms), "ok");
    let start = "init wx0 wy0";
    assert_eq!(predicates("serializable", &[start, "dx p:true{}", "dy p:true{}"]), "G1c");
    assert_eq!(predicates("serializable", &[start, "p:=0{x0} wx1", "p:=0{y0} wy1"]), "G1c");
    assert_eq!(predicates("serializable", &[start, "p:=1{} wx1", "p:=1{} wy1"]), "G2");
    let start = "init wx0 wz0";
    let circle = [start, "vz3 dx", "vx- iy2", "vy2 wz3"];
    assert_eq!(predicates("read-committed", &circle), "G1c");
    assert_eq!(predicates(strict, &[start, "dx iy1", "vy1 vz-"]), "G-single-item");
    assert_eq!(predicates(strict, &["init wu3", "p:%2=1{} p:=3{}"]), "predicate-read-miss");
    assert_eq!(predicates(strict, &["init wu1", "p:%2=0{} vu-"]), "G-single-item");
    let deleted = ["init wx0 wy0", "dy wz8 dx wt9", "p:true{z8,y0}"];
    assert_eq!(predicates("snapshot", &deleted), "G-single");
}

#[test]
fn what_simulated_stores_do_keeps_their_level() {
    use super::simulated::{Shape, Simulation};
    use crate::history::Base;
    for base in [Base::Serializable, Base::Snapshot, Base::ReadCommitted] {
        for (shape, workload) in [
            (Shape::Lists, Workload::Append),
            (Shape::Registers, Workload::Register),
            (Shape::Items, Workload::Predicate),
        ] {
            for (seed, unknown) in (0..20).flat_map(|seed| [(seed, 0), (seed, 20)]) {
                let simulation = Simulation {
                    shape,
                    base,
                    seed,
                    unknown,
                    transactions: 300,
                    ..Simulation::default()
                };
                let history = simulation.run();
                let question = Question {
                    closed: true,
                    budget: Budget { steps: 1_000_000 },
                    ..Question::new(workload, simulation.level())
                };
                let report = judge(&history, &question);
                let prose = report.found.first().map(|found| found.witness.prose(&history));
                assert_ne!(report.verdict, Verdict::Violated, "{simulation:?}: {prose:?}");
                // With everything known, commit timestamps suggest the right order.
                assert!(unknown > 0 || report.verdict == Verdict::Holds, "{simulation:?}");
            }
        }
    }
}

#[test]
fn blind_writes_are_put_into_an_order_without_commit_timestamps() {
    use super::simulated::{Shape, Simulation};
    for seed in 0..20 {
        let simulation = Simulation {
            shape: Shape::Registers,
            sessions: 4,
            transactions: 400,
            unknown: 20,
            seed,
            ..Simulation::default()
        };
        let timed = simulation.run();
        let history = timed.without_commits();
        let question = Question {
            closed: true,
            budget: Budget { steps: 1_000_000 },
            ..Question::new(Workload::Register, simulation.level())
        };
        assert_eq!(judge(&history, &question).verdict, Verdict::Holds, "{simulation:?}");
    }
}

#[test]
fn appends_that_nobody_read_are_bounded_by_the_budget() {
    let mut lines: Vec<String> = (1..=20).map(|value| format!("ax{value}")).collect();
    lines.extend((0..20).map(|reader| format!("@1-{} rx=", 100 + reader)));
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let history = history(&lines);
    let question = Question::new(Workload::Append, Level::parse("serializable").unwrap());
    assert_eq!(judge(&history, &question).verdict, Verdict::Holds);
    let question = Question { budget: Budget { steps: 1_000 }, ..question };
    let report = judge(&history, &question);
    let Verdict::Undecided(why) = report.verdict else { panic!("{report:?}") };
    assert!(why.starts_with("400 dependencies follow"), "{why}");
}

#[test]
fn clocks_tell_the_same_as_a_search_for_each_reader() {
    use super::simulated::{Shape, Simulation};
    use crate::history::Base;
    let mut violated = 0;
    for seed in 0..60 {
        let shape = if seed % 2 == 0 { Shape::Lists } else { Shape::Registers };
        let workload = if seed % 2 == 0 { Workload::Append } else { Workload::Register };
        let base = if seed % 3 == 0 { Base::Snapshot } else { Base::ReadCommitted };
        let (transactions, unknown) = (10 + seed as usize, 50);
        let simulation =
            Simulation { shape, base, seed, transactions, unknown, ..Simulation::default() };
        let history = simulation.run();
        for order in [Order::Session, Order::RealTime] {
            let level = Level::new(Base::Causal, order);
            let question = Question::new(workload, level);
            let by_clocks = judge(&history, &question);
            // Where each transaction tells its level, there are none.
            let question = Question { own_levels: true, ..question };
            let by_search = judge(&history.clone().at_level(level), &question);
            assert_eq!(by_clocks.names(), by_search.names(), "{simulation:?} at {level}");
            violated += usize::from(by_clocks.verdict == Verdict::Violated);
        }
    }
    assert!(violated > 10, "only {violated} of 120 are violated");
}

/// What makes the one operation of a transaction, and how that ended.
type Single<'a> = (&'a dyn Fn(&mut History) -> Operation, Outcome);

/// A history of one operation a transaction, one after the other: what makes it, and how it ended.
fn single(make: &[Single<'_>]) -> History {
    let mut history = History::new();
    for (number, (operation, outcome)) in make.iter().enumerate() {
        let invoked = 2 * number as u32 + 1;
        let completed = if *outcome == Outcome::Unknown { Transaction::NEVER } else { invoked + 1 };
        let operation = operation(&mut history);
        let about =
            Transaction { invoked, completed, outcome: *outcome, ..Transaction::of(number as u32) };
        history.push(about, &[operation]);
    }
    history.finish();
    history
}

fn verdict(history: &History, workload: Workload) -> String {
    let report = judge(history, &Question::new(workload, Level::STRICT_SERIALIZABLE));
    match report.verdict {
        Verdict::Holds => "ok".to_owned(),
        Verdict::Undecided(why) => why,
        Verdict::Violated => report.names().join(" "),
    }
}

#[test]
fn balances_of_a_bank_sum_up() {
    use crate::history::Predicate;
    let read = |balances: &'static [i64]| {
        move |history: &mut History| {
            let found: Vec<(Key, Value)> = balances
                .iter()
                .enumerate()
                .map(|(account, balance)| {
                    (history.integer_key(account as i64), Value::small(*balance).unwrap())
                })
                .collect();
            history.read_where(Predicate::All, &found)
        }
    };
    let bank = |reads: &[&'static [i64]]| {
        let reads: Vec<_> = reads.iter().map(|balances| read(balances)).collect();
        let made: Vec<Single<'_>> = reads
            .iter()
            .map(|read| (read as &dyn Fn(&mut History) -> _, Outcome::Committed))
            .collect();
        verdict(&single(&made), Workload::Bank)
    };
    assert_eq!(bank(&[&[5, 5], &[3, 7]]), "ok");
    assert_eq!(bank(&[&[5, 5], &[4, 5]]), "wrong-total");
    assert_eq!(bank(&[&[5, 5], &[11, -1]]), "negative-balance");
    assert_eq!(bank(&[&[5, 5], &[5, 4, 1]]), "unexpected-account");
    assert_ne!(bank(&[]), "ok");
}

#[test]
fn elements_of_a_set_stay() {
    let set = |lines: &[&str], workload| verdict(&history(lines), workload);
    assert_eq!(set(&["ax1", "ax2", "rx=1,2"], Workload::Set), "ok");
    assert_eq!(set(&["ax1", "ax2", "rx=2"], Workload::Set), "lost-element");
    assert_eq!(set(&["ax1", "rx=1,3"], Workload::Set), "garbage-read");
    assert_eq!(set(&["ax1 abort", "rx=1"], Workload::Set), "G1a");
    assert_eq!(set(&["ax1 info", "ax2", "rx=2"], Workload::Set), "ok");
    assert_eq!(set(&["ax1", "rx=1", "ax2", "rx=2,1"], Workload::SetFull), "ok");
    assert_eq!(set(&["ax1", "rx=1", "rx="], Workload::SetFull), "lost-element");
    assert_eq!(set(&["ax1", "rx=", "rx=1"], Workload::SetFull), "stale-element");
    assert_eq!(set(&["@1-9 ax1", "@2-3 rx=", "@10-11 rx=1"], Workload::SetFull), "ok");
}

#[test]
fn a_counter_lies_between_what_was_and_what_may_have_been_added() {
    let add = |amount: i64| {
        move |history: &mut History| {
            let key = history.key("c");
            Operation::Add { key, value: Value::small(amount).unwrap() }
        }
    };
    let read = |seen: i64| {
        move |history: &mut History| {
            let key = history.key("c");
            Operation::Read { key, value: Value::small(seen).unwrap() }
        }
    };
    let (one, two) = (add(1), add(2));
    let ends = [
        (3, Outcome::Committed, "ok"),
        (2, Outcome::Committed, "counter-bounds"),
        (1, Outcome::Unknown, "ok"),
        (3, Outcome::Unknown, "ok"),
        (4, Outcome::Unknown, "counter-bounds"),
        (3, Outcome::Aborted, "counter-bounds"),
    ];
    for (seen, outcome, expected) in ends {
        let read = read(seen);
        let history =
            single(&[(&one, Outcome::Committed), (&two, outcome), (&read, Outcome::Committed)]);
        assert_eq!(verdict(&history, Workload::Counter), expected, "{seen} {outcome:?}");
    }
}

#[test]
fn two_reads_fork() {
    let forks = |lines: &[&str]| verdict(&history(lines), Workload::LongFork);
    assert_eq!(forks(&["wx1", "wy1", "vx1 vy-", "vy1 vx1"]), "ok");
    assert_eq!(forks(&["vx1 vy-", "vy1 vx-"]), "long-fork");
    assert_eq!(forks(&["vx1 vy1 vz-", "vz1 vx1 vy-"]), "long-fork");
}

#[test]
fn compare_and_set_has_an_order_or_none() {
    let set = |old: i64, new: i64| {
        move |history: &mut History| {
            let key = history.key("r");
            let value =
                |value: i64| if value < 0 { Value::NIL } else { Value::small(value).unwrap() };
            history.compare_and_set(key, value(old), value(new))
        }
    };
    let read = |seen: i64| {
        move |history: &mut History| {
            let key = history.key("r");
            Operation::Read { key, value: Value::small(seen).unwrap() }
        }
    };
    let judge_of = |made: &[Single<'_>]| verdict(&single(made), Workload::CompareAndSet);
    let (made, raised, back) = (set(-1, 0), set(0, 1), set(1, 0));
    let (zero, one) = (read(0), read(1));
    let ok = Outcome::Committed;
    assert_eq!(judge_of(&[(&made, ok), (&raised, ok), (&one, ok), (&back, ok), (&zero, ok)]), "ok");
    assert_eq!(judge_of(&[(&made, ok), (&raised, ok), (&zero, ok)]), "not-linearizable");
    assert_eq!(judge_of(&[(&made, ok), (&raised, ok), (&raised, ok)]), "not-linearizable");
    // What crashed may happen later, or never.
    let crashed = Outcome::Unknown;
    assert_eq!(judge_of(&[(&made, ok), (&raised, crashed), (&zero, ok), (&one, ok)]), "ok");
    assert_eq!(
        judge_of(&[(&made, ok), (&raised, crashed), (&one, ok), (&zero, ok)]),
        "not-linearizable"
    );
    // Without real time a read may come before what it misses.
    let history = single(&[(&made, ok), (&raised, ok), (&zero, ok)]);
    let question = Question::new(Workload::CompareAndSet, Level::SERIALIZABLE);
    assert_eq!(judge(&history, &question).verdict, Verdict::Holds);
}
