//! Scenarios as text: what is read, written and refused.

use super::*;

const SKEW: &str = "\
# Two doctors.
name: doctors
title: write skew
forbidden: repeatable-read serializable
setup: x = 1, y = -1, s/x = 4 for 20

session t1: snapshot locking:no-wait
  get x as first
  scan x..=y as all
  put y = first - 2 * (x + 1) if count(all) == 2 and not x == absent
  commit
session t2
  get y for update
  get s/x
  put s/x = s/x + 1 for 7
  scan s/x..=s/z
  pass 3
  merge x + -1
  delete x..y
  savepoint here
  delete y
  rollback to here
session t3
  drop s

anomaly: t1.committed and t2.committed and t1.first == 1
invariant: x + y >= 0 or before(t1, t2)
invariant: count(x..z) < 3 and sum(t1.all) != 7
invariant: count(s/x..s/z) < 3 and s/x != t2.s/x
schedule: 1 2 1, 2
";

#[test]
fn a_scenario_is_read_as_it_is_written() {
    let scenario = parse("file", SKEW).unwrap();
    assert_eq!(scenario.name, "doctors");
    assert_eq!(
        scenario.setup,
        Contents::from([("s/x".into(), 4), ("x".into(), 1), ("y".into(), -1)])
    );
    assert_eq!(scenario.sessions[0].steps.len(), 4);
    assert_eq!(scenario.sessions[1].steps.last().unwrap().act, Act::Commit);
    assert_eq!(scenario.schedule, [0, 1, 0, 1]);
    assert_eq!(scenario.expiring, [("s/x".to_owned(), 20)].into());
    assert_eq!(scenario.spaces(), ["s"]);
    assert!(scenario.is_sound());
    let text = scenario.to_string();
    assert_eq!(parse("file", &text).unwrap(), scenario, "{text}");
}

#[test]
fn an_error_names_its_place_and_what_was_expected() {
    let errors = [
        ("", "line 1, column 1: expected at least one session"),
        ("session a\n get", "line 2, column 5: expected a key, found the end of the line"),
        ("session a\n  put x 1", "line 2, column 9: expected '=', found '1'"),
        ("session a\n  put x = y + 1", "line 2, column 11: 'a' has not read 'y' before this step"),
        ("session a\n get x ?", "line 2, column 8: '?' means nothing here"),
        ("get x", "before the first step"),
        ("session a\nsession a", "line 2, column 9: there is a session 'a' already"),
        ("session a: weird", "line 1, column 12: 'weird' is none of"),
        ("session a\n commit\n get x", "line 3, column 2: 'a' is over"),
        ("session a\n get x\ninvariant: b.x == 1", "line 3, column 12: there is no session 'b'"),
        ("session a\n get x\ninvariant: a.y == 1", "line 3, column 14: 'a' reads nothing called"),
        ("session a\n get x\ninvariant: x", "line 3, column 12: expected a condition"),
        ("session a\n get x\ninvariant: x and x", "line 3, column 14: 'and' joins two conditions"),
        ("session a\n scan c..a", "line 2, column 7: the range c..a is backwards"),
        (
            "session a\n get x\nschedule: 2",
            "line 3, column 11: expected numbers of sessions, 1 to 1",
        ),
        ("setup: x = 1, x = 2\nsession a", "line 1, column 15: 'x' has a value already"),
        ("setup: x = 999999999999999999999\nsession a", "column 12: the number"),
        ("sessions: a", "line 1, column 1: expected a header"),
        ("session a\n rollback to b", "line 2, column 14: no savepoint 'b' before this"),
        ("session a\n get x\n begin", "line 3, column 2: 'begin' is a session's first step"),
        ("session a\n get s/", "line 2, column 8: expected a key of this keyspace"),
        ("session a\n scan s/a..b", "line 2, column 12: both ends of a range lie in the same"),
        ("session a\n put x = 1 for 0", "line 2, column 16: units of time are from 1"),
        ("session a\n put x = 1 for ever", "line 2, column 16: expected a number of units"),
        ("setup: x = 1 for y\nsession a", "line 1, column 18: expected a number of units"),
        ("session a\n pass", "line 2, column 6: expected a number of units of time"),
        ("session a\n drop s/x", "line 2, column 8: expected the end of the line"),
        ("session a\n get x\n drop s", "line 3, column 2: a session that drops"),
        ("session a\n drop s\n get x", "line 3, column 2: 'a' is over"),
        ("session a\n drop s if 1 == 1", "line 2, column 2: 'drop' has no condition"),
        ("session a\n drop s\nsession b\n drop s", "line 4, column 2: 's' is dropped already"),
        ("session a\n put x = s/y", "line 2, column 10: 'a' has not read 's/y'"),
        ("forbidden: some\nsession a", "line 1, column 12: 'some' is none of"),
    ];
    for (text, expected) in errors {
        let error = parse("file", text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

#[test]
fn sizes_are_bounded() {
    let bad = |text: String| parse("file", &text).expect_err("too much").to_string();
    assert!(bad("#".repeat(TEXT_BYTES_MAX + 1)).contains("bytes"));
    let sessions: String = (0..=SESSIONS_MAX).map(|n| format!("session s{n}\n")).collect();
    assert!(bad(sessions).contains("sessions"));
    assert!(bad(format!("session a\n{}", "get x\n".repeat(STEPS_MAX))).contains("steps"));
    let keys: String = (0..=KEYS_MAX).map(|n| format!("session s{n}\n get k{n}\n")).collect();
    assert!(bad(keys).contains("at most"));
    let deep = format!("session a\n put x = {}1{}", "(".repeat(500), ")".repeat(500));
    assert!(bad(deep).contains("deeper"));
    let long = format!("session a\n put x = 1{}", " + 1".repeat(10_000));
    assert!(bad(long).contains("too long"));
    let minus = format!("session a\n put x = {}1", "-".repeat(10_000));
    assert!(bad(minus).contains("deeper"));
    assert!(bad(format!("session {}", "x".repeat(NAME_BYTES_MAX + 1))).contains("name"));
    let spaces: String = (0..=KEYSPACES_MAX).map(|n| format!("get s{n}/x\n")).collect();
    assert!(bad(format!("session a\n{spaces}")).contains("keyspaces"));
}

/// Whatever is read is answered, and never with a panic.
#[test]
fn mangled_text_is_refused_or_read() {
    let mut dice = crate::dice::Dice::new(7);
    for _ in 0..3_000 {
        let mut text: Vec<char> = SKEW.chars().collect();
        for _ in 0..1 + dice.below(4) {
            text.insert(0, ' ');
            let at = dice.below(text.len());
            match dice.below(3) {
                0 => drop(text.remove(at)),
                1 => text
                    .insert(at, *dice.pick(&['(', '.', '=', '\n', 'ß', '9', ':', '-', '\t', '/'])),
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(scenario) = parse("file", &text) {
            let again = scenario.to_string();
            assert_eq!(parse("file", &again).as_ref(), Ok(&scenario), "{text:?} {again:?}");
        }
    }
}
