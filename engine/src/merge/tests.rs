//! What the module's head promises of merges.

use std::sync::Arc;
use std::time::Duration;

use isolith_wal::{ManualClock, MemoryStorage, random_seed};

use super::*;
use crate::steps::Steps;
use crate::*;

fn text(value: Result<Option<Slice>>) -> String {
    match value {
        Ok(Some(value)) => value.escape_ascii().to_string(),
        Ok(None) => "nothing".into(),
        Err(error) => error.to_string(),
    }
}

fn with(isolation: Isolation, concurrency: Concurrency) -> TransactionOptions {
    TransactionOptions { isolation, concurrency, ..Default::default() }
}

fn all_modes() -> impl Iterator<Item = TransactionOptions> {
    let ways = [
        Concurrency::Optimistic,
        Concurrency::Auto,
        Concurrency::Locking(DeadlockPolicy::NoWait),
        Concurrency::Locking(DeadlockPolicy::WoundWait),
    ];
    Isolation::ALL
        .into_iter()
        .flat_map(move |level| ways.into_iter().map(move |way| with(level, way)))
}

#[test]
fn operators_make_of_values_what_their_names_say() {
    let merged = |operator: &dyn MergeOperator, existing: Option<&str>, operands: &[&[u8]]| {
        let mut value = existing.map(|text| text.as_bytes().to_vec());
        for operand in operands {
            match operator.merge(value.as_deref(), operand) {
                Ok(merged) => value = Some(merged),
                Err(why) => return why.to_string(),
            }
        }
        value.unwrap_or_default().escape_ascii().to_string()
    };
    assert_eq!(merged(&AddI64, None, &[b"5", b"-7"]), "-2");
    assert_eq!(merged(&AddI64, Some("9223372036854775807"), &[b"1"]), "9223372036854775808");
    assert_eq!(merged(&AddI64, Some("9223372036854775808"), &[b"-1"]), "9223372036854775807");
    for not in ["", "-", "+1", "01", "-0", "1.5", " 1", "x"] {
        assert_eq!(merged(&AddI64, Some(not), &[b"1"]), "not an integer", "{not:?}");
        assert!(AddI64.check(not.as_bytes()).is_err(), "{not:?}");
    }
    assert!(AddI64.check(b"9223372036854775808").is_err());
    assert_eq!(
        merged(&AddI64, Some(&i128::MAX.to_string()), &[b"1"]),
        "the sum has more than 38 digits"
    );
    assert_eq!(merged(&MaxI64, None, &[b"-5", b"-7"]), "-5");
    assert_eq!(merged(&MaxI64, Some("10"), &[b"9", b"11"]), "11");
    assert_eq!(merged(&Append, Some("a"), &[b"b", b"c"]), "abc");
    let set = encode_set(["b", "a", "b"]);
    assert_eq!(decode_set(&set).expect("a set"), [b"a", b"b"]);
    let united = SetUnion.merge(Some(&set), &encode_set(["c", "a"])).expect("sets");
    assert_eq!(decode_set(&united).expect("a set"), [b"a", b"b", b"c"]);
    assert_eq!(merged(&SetUnion, None, &[b"\x01\0\0"]), "a set that is cut short");
    assert_eq!(merged(&SetUnion, None, &[b"\xff\xff\xff\xffx"]), "a set that is cut short");
    let twice = [encode_set(["a"]), encode_set(["a"])].concat();
    assert_eq!(merged(&SetUnion, None, &[&twice]), "a set whose members do not ascend");
}

#[test]
fn supplied_operators_keep_the_laws() {
    let numbers: [&[u8]; 5] = [b"0", b"1", b"-5", b"9223372036854775807", b"-9223372036854775808"];
    let sets =
        [encode_set([""; 0]), encode_set(["a"]), encode_set(["a", "b"]), encode_set(["b", "c"])];
    let sets: Vec<&[u8]> = sets.iter().map(|set| &**set).collect();
    let laws = |operator: &dyn MergeOperator, of: &[&[u8]], commutes: bool| {
        for existing in of.iter().map(|existing| Some(*existing)).chain([None]) {
            for a in of {
                for b in of {
                    let after = |operands: [&[u8]; 2]| {
                        let first = operator.merge(existing, operands[0]).expect("it takes it");
                        operator.merge(Some(&first), operands[1]).expect("it takes it")
                    };
                    let both = operator.combine(a, b).expect("it takes both");
                    assert_eq!(after([a, b]), operator.merge(existing, &both).expect("both"));
                    assert!(!commutes || after([a, b]) == after([b, a]));
                }
            }
        }
    };
    laws(&AddI64, &numbers, true);
    laws(&MaxI64, &numbers, true);
    laws(&Append, &numbers, false);
    laws(&SetUnion, &sets, true);
}

#[test]
fn merges_of_one_key_do_not_conflict_in_any_mode() {
    for one in all_modes() {
        for other in all_modes() {
            let db = Database::in_memory();
            let keyspace = db.keyspace("k").expect("a keyspace");
            keyspace.put("n", "1").expect("a put");
            let (mut a, mut b) =
                (db.begin_with(one).expect("begins"), db.begin_with(other).expect("begins"));
            a.merge(&keyspace, "n", ADD_I64, "10").expect("a merge");
            b.merge(&keyspace, "n", ADD_I64, "100").expect("a merge");
            keyspace.merge("n", ADD_I64, "1000").expect("nobody is in the way");
            b.commit().expect("nobody read it");
            a.commit().expect("nobody read it");
            assert_eq!(text(keyspace.get("n")), "1111", "{one:?} and {other:?}");
        }
    }
}

#[test]
fn who_reads_the_key_depends_on_it() {
    for level in Isolation::ALL {
        for early in [true, false] {
            let db = Database::in_memory();
            let keyspace = db.keyspace("k").expect("a keyspace");
            keyspace.put("n", "1").expect("a put");
            let mut reader = db.begin_with(with(level, Concurrency::Optimistic)).expect("begins");
            if early {
                assert_eq!(text(reader.get(&keyspace, "n")), "1");
            }
            reader.merge(&keyspace, "n", ADD_I64, "10").expect("a merge");
            if !early {
                assert_eq!(text(reader.get(&keyspace, "n")), "11");
            }
            keyspace.merge("n", ADD_I64, "100").expect("a merge");
            let refused = reader.commit().is_err();
            let depends = level != Isolation::ReadCommitted;
            assert_eq!(refused, depends, "{level} that reads early: {early}");
        }
    }
    // Under first-committer-wins a put conflicts with a newer merge, and a merge by an update read.
    let db = Database::in_memory();
    let keyspace = db.keyspace("k").expect("a keyspace");
    let snapshot = with(Isolation::Snapshot, Concurrency::Optimistic);
    for update in [false, true] {
        let mut writer = db.begin_with(snapshot).expect("begins");
        if update {
            writer.get_for_update(&keyspace, "n").expect("a read");
            writer.merge(&keyspace, "n", ADD_I64, "5").expect("a merge");
        } else {
            writer.put(&keyspace, "n", "5").expect("a put");
        }
        keyspace.merge("n", ADD_I64, "100").expect("a merge");
        assert!(matches!(writer.commit(), Err(Error::Conflict { .. })));
    }
}

#[test]
fn a_merge_respects_locks_on_the_key_and_locks_keep_merges_out() {
    let db = Builder::in_memory().lock_timeout(Duration::from_millis(20)).open().expect("opens");
    let keyspace = db.keyspace("k").expect("a keyspace");
    let locking = |policy| with(Isolation::Serializable, Concurrency::Locking(policy));
    let mut reader = db.begin_with(locking(DeadlockPolicy::NoWait)).expect("begins");
    assert_eq!(text(reader.get(&keyspace, "n")), "nothing");
    assert!(matches!(keyspace.merge("n", ADD_I64, "1"), Err(Error::LockTimeout { .. })));
    let mut merger = db.begin_with(locking(DeadlockPolicy::NoWait)).expect("begins");
    merger.merge(&keyspace, "n", ADD_I64, "1").expect("no lock is taken before the commit");
    assert!(matches!(merger.commit(), Err(Error::LockRefused { .. })));
    reader.merge(&keyspace, "n", ADD_I64, "5").expect("a merge");
    reader.commit().expect("it is alone");
    keyspace.merge("n", ADD_I64, "1").expect("nobody is in the way");
    assert_eq!(text(keyspace.get("n")), "6");
}

#[test]
fn own_merges_are_seen_by_gets_and_ranges_from_both_ends() {
    for options in all_modes() {
        let db = Database::in_memory();
        let keyspace = db.keyspace("k").expect("a keyspace");
        for (key, value) in [("a", "1"), ("c", "3"), ("e", "5"), ("g", "7")] {
            keyspace.put(key, value).expect("a put");
        }
        let mut tx = db.begin_with(options).expect("begins");
        tx.delete(&keyspace, "e").expect("a delete");
        tx.put(&keyspace, "f", "6").expect("a put");
        tx.delete_range(&keyspace, "g".."h").expect("a range delete");
        for key in ["b", "c", "e", "f", "g"] {
            tx.merge(&keyspace, key, ADD_I64, "10").expect("a merge");
        }
        let save = tx.savepoint();
        tx.merge(&keyspace, "b", ADD_I64, "100").expect("a merge");
        tx.merge(&keyspace, "c", APPEND, "!").expect("another operator reads");
        tx.merge(&keyspace, "c", APPEND, "!").expect("a merge into an own put");
        let expected = "a=1 b=110 c=13!! e=10 f=16 g=10";
        let shown = |tx: &Transaction, reverse: bool| {
            let mut range = tx.range(&keyspace, ..);
            let pairs: Vec<_> =
                std::iter::from_fn(|| if reverse { range.next_back() } else { range.next() })
                    .map(|pair| pair.expect("a pair"))
                    .collect();
            let mut shown: Vec<String> = pairs
                .iter()
                .map(|(k, v)| format!("{}={}", k.escape_ascii(), v.escape_ascii()))
                .collect();
            if reverse {
                shown.reverse();
            }
            shown.join(" ")
        };
        assert_eq!(shown(&tx, false), expected);
        assert_eq!(shown(&tx, true), expected);
        assert_eq!(text(tx.get(&keyspace, "b")), "110");
        tx.rollback_to(save).expect("a savepoint");
        assert_eq!(shown(&tx, false), "a=1 b=10 c=13 e=10 f=16 g=10");
        assert_eq!(text(tx.get_for_update(&keyspace, "c")), "13");
        tx.commit().expect("it is alone");
        let tx = db.begin_read_only().expect("begins");
        assert_eq!(shown(&tx, true), "a=1 b=10 c=13 e=10 f=16 g=10", "{options:?}");
    }
}

#[test]
fn what_an_operator_refuses_is_refused_when_it_comes_in() {
    let db = Database::in_memory();
    let keyspace = db.keyspace("k").expect("a keyspace");
    let refused = keyspace.merge("n", ADD_I64, "one").expect_err("not a number");
    assert_eq!(refused.to_string(), "'add-i64' does not merge into key 'n' in 'k': not an integer");
    assert!(matches!(refused.retry(), Retry::Never));
    assert!(matches!(keyspace.merge("n", "mine", "1"), Err(Error::UnknownOperator { .. })));
    let mut tx = db.begin().expect("begins");
    tx.put(&keyspace, "n", "one").expect("a put");
    assert!(matches!(tx.merge(&keyspace, "n", ADD_I64, "1"), Err(Error::Merge { .. })));
    assert_eq!(text(tx.get(&keyspace, "n")), "one");
    tx.commit().expect("it is alone");
    // A value that it cannot merge into is found out by whoever reads.
    for _ in 0..100 {
        keyspace.merge("n", ADD_I64, "1").expect("it reads nothing");
    }
    let why = "'add-i64' does not merge into key 'n' in 'k': not an integer";
    assert_eq!(text(keyspace.get("n")), why);
    assert!(keyspace.range(..).next().expect("an item").is_err());
    assert!(db.snapshot().expect("a snapshot").get(&keyspace, "n").is_err());
    let tx = db.begin().expect("begins");
    assert!(
        tx.get(&keyspace, "n").is_err()
            && tx.range(&keyspace, ..).next().is_some_and(|r| r.is_err())
    );
    drop(tx);
    keyspace.put("n", "5").expect("a put");
    keyspace.merge("n", ADD_I64, "1").expect("a merge");
    assert_eq!(text(keyspace.get("n")), "6");
}

/// Keeps the shorter.
struct Shortest;

impl MergeOperator for Shortest {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        assert!(operand != b"panic", "on purpose");
        Ok(existing.filter(|existing| existing.len() <= operand.len()).unwrap_or(operand).to_vec())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(Some(earlier), later)
    }

    fn check(&self, _: &[u8]) -> Result<(), MergeError> {
        Ok(())
    }
}

#[test]
fn merges_survive_reopening_and_wait_for_their_operator() {
    let clock = Arc::new(ManualClock::new(1_000));
    let builder = Database::builder("memory")
        .storage(Arc::new(MemoryStorage::new()))
        .segment_bytes(256 << 10)
        .clock(Arc::clone(&clock) as Arc<dyn Clock>);
    let named = || builder.clone().merge_operator("shortest", Shortest);
    let db = named().open().expect("opens");
    let keyspace = db.keyspace("k").expect("a keyspace");
    for n in 0..100 {
        keyspace.merge("n", ADD_I64, "1").expect("a merge");
        keyspace.merge("s", "shortest", "x".repeat(200 - n)).expect("a merge");
    }
    keyspace.put("old", "1").expect("a put");
    drop((keyspace, db));
    {
        let db = builder.clone().open().expect("opens without the operator");
        let keyspace = db.keyspace("k").expect("a keyspace");
        assert_eq!(text(keyspace.get("n")), "100");
        assert!(matches!(
            keyspace.get("s"),
            Err(Error::UnknownOperator { name }) if name == "shortest"
        ));
        assert!(matches!(keyspace.merge("s", "shortest", ""), Err(Error::UnknownOperator { .. })));
        keyspace.merge("n", ADD_I64, "1").expect("a merge");
    }
    let db = named().merge_operator("other", Shortest).open().expect("opens");
    let keyspace = db.keyspace("k").expect("a keyspace");
    assert_eq!(text(keyspace.get("n")), "101");
    assert_eq!(text(keyspace.get("s")), "x".repeat(101));
    drop((keyspace, db));
    for (name, what) in [("", "1 to 255"), (ADD_I64, "supplied"), ("shortest", "twice")] {
        let Err(error) = named().merge_operator(name, Shortest).open() else { panic!("{name}") };
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn an_operator_that_panics_harms_only_readers() {
    let db = Builder::in_memory().merge_operator("shortest", Shortest).open().expect("opens");
    let keyspace = db.keyspace("k").expect("a keyspace");
    for _ in 0..34 {
        keyspace.merge("s", "shortest", "panic").expect("it reads nothing, and pruning is calm");
    }
    let read = || keyspace.get("s");
    assert!(std::panic::catch_unwind(AssertUnwindSafe(read)).is_err());
    keyspace.put("s", "fine").expect("a put");
    assert_eq!(text(keyspace.get("s")), "fine");
}

#[test]
fn a_merge_into_a_value_that_has_expired_begins_anew() {
    let clock = Arc::new(ManualClock::new(1_000));
    let builder = Builder::in_memory().clock(Arc::clone(&clock) as Arc<dyn Clock>).threads(false);
    let db = builder.open().expect("opens");
    let keyspace = db.keyspace("k").expect("a keyspace");
    let until = PutOptions { expires_at: Some(1_500), ..Default::default() };
    keyspace.put_with("a", "1", until).expect("a put");
    keyspace.put_with("b", "1", until).expect("a put");
    keyspace.merge("a", ADD_I64, "10").expect("a merge");
    let mut begun_before = db.begin().expect("begins");
    let entry = keyspace.get_entry("a").expect("a read").expect("a value");
    assert_eq!((&*entry.value, entry.expires_at), (&b"11"[..], Some(1_500)));
    clock.set(1_500);
    assert_eq!(text(keyspace.get("a")), "nothing");
    keyspace.merge("b", ADD_I64, "10").expect("a merge");
    let entry = keyspace.get_entry("b").expect("a read").expect("a value");
    assert_eq!((&*entry.value, entry.expires_at), (&b"10"[..], None));
    begun_before.merge(&keyspace, "a", ADD_I64, "100").expect("a merge");
    assert_eq!(text(begun_before.get(&keyspace, "a")), "111");
    drop(begun_before);
    Steps::new(&db).upkeep();
    assert_eq!(db.stats().expired, 1, "a is swept, b is not");
    keyspace.merge("a", ADD_I64, "1").expect("a merge");
    assert_eq!(text(keyspace.get("a")), "1");
}

#[test]
fn a_counter_that_many_add_to_loses_nothing_and_stays_small() {
    for retention in [Duration::ZERO, Duration::from_secs(3600)] {
        let db = Builder::in_memory().retention(retention).open().expect("opens");
        let keyspace = db.keyspace("k").expect("a keyspace");
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        keyspace.merge("n", ADD_I64, "1").expect("a merge");
                    }
                });
            }
            scope.spawn(|| {
                let mut last = 0;
                while last < 10_000 {
                    let seen = keyspace.get("n").expect("a read").map_or(0, |seen| {
                        String::from_utf8_lossy(&seen).parse().expect("a number")
                    });
                    assert!(last <= seen);
                    last = seen;
                }
            });
        });
        assert_eq!(text(keyspace.get("n")), "10000");
        assert_eq!(db.stats().refusals, 0);
        let guard = isolith_index::pin();
        let active = keyspace.space().active();
        let found = active.lookup(b"n", Lsn::MAX, &guard).found;
        if let Found::Merged(merged) = found {
            assert!(merged.parts().1.len() < 300, "a read has a short way");
        }
    }
}

// ---- against a model

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>, u64),
    Delete,
    Merge(&'static str, Vec<u8>, u64),
}

type View = Result<Option<(Vec<u8>, u64)>, ()>;

/// What changes of one key come to at `now`, one after the other.
fn apply<'c>(changes: impl Iterator<Item = &'c Change>, now: u64) -> View {
    let mut base = None;
    let mut run: Vec<(&str, &[u8], u64)> = Vec::new();
    for change in changes {
        match change {
            Change::Merge(operator, operand, at) => run.push((operator, operand, *at)),
            Change::Put(value, expires) => (base, run) = (Some((value.clone(), *expires)), vec![]),
            Change::Delete => (base, run) = (None, vec![]),
        }
    }
    if let Some((_, expires)) = base
        && expires != 0
        && let Some(first) = run.iter().position(|(_, _, at)| *at >= expires)
    {
        base = None;
        run.drain(..first);
    }
    if base.as_ref().is_some_and(|&(_, expires)| expires != 0 && expires <= now) {
        return Ok(None);
    }
    let mut value = base;
    for (operator, operand, _) in run {
        let (existing, expires) = value.map_or((None, 0), |(value, at)| (Some(value), at));
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i128>().ok();
        let merged = match operator {
            ADD_I64 => {
                let existing = existing.as_deref().map_or(Some(0), number).ok_or(())?;
                (existing + number(operand).ok_or(())?).to_string().into_bytes()
            }
            _ => [existing.unwrap_or_default(), operand.to_vec()].concat(),
        };
        value = Some((merged, expires));
    }
    Ok(value)
}

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];

struct Running {
    tx: Transaction,
    changes: Vec<(usize, Change)>,
    blind: bool,
    save: Option<(Savepoint, usize)>,
}

#[test]
fn random_transactions_with_merges_read_as_the_model_does() {
    let seed = match std::env::var("ISOLITH_SEED") {
        Ok(seed) => seed.parse().expect("ISOLITH_SEED is a number"),
        Err(_) => random_seed(),
    };
    println!("ISOLITH_SEED={seed}");
    let mut random = seed | 1;
    let mut below = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    for round in 0..30 {
        let clock = Arc::new(ManualClock::new(1_000));
        let storage = Arc::new(MemoryStorage::new());
        let open = || {
            Database::builder("memory")
                .storage(Arc::clone(&storage) as Arc<dyn isolith_wal::Storage>)
                .clock(Arc::clone(&clock) as Arc<dyn Clock>)
                .durability(Durability::Buffered)
                .threads(false)
                .retention(Duration::from_millis(if round % 3 == 0 { 200 } else { 0 }))
                .open()
                .expect("opens")
        };
        let handles = || {
            let db = open();
            let keyspace = db.keyspace("k").expect("a keyspace");
            (db, keyspace)
        };
        let mut opened = Some(handles());
        let mut history: Vec<(Lsn, usize, Change)> = Vec::new();
        let mut running: Vec<Running> = Vec::new();
        let mut snapshots: Vec<(Snapshot, u64)> = Vec::new();
        let view =
            |history: &[(Lsn, usize, Change)], own: &[(usize, Change)], key, read: Lsn, now| {
                let committed = history.iter().filter(|(at, k, _)| *at <= read && *k == key);
                let own = own.iter().filter(|(k, _)| *k == key).map(|(_, change)| change);
                apply(committed.map(|(_, _, change)| change).chain(own), now)
            };
        let same = |seen: Result<Option<Entry>>, expected: View, what: &str| match (seen, expected)
        {
            (Ok(seen), Ok(expected)) => {
                let seen = seen.map(|e| (e.value.to_vec(), e.expires_at.unwrap_or(0)));
                assert_eq!(seen, expected, "{what}");
            }
            (Err(Error::Merge { .. }), Err(())) => {}
            (seen, expected) => panic!("{what}: {seen:?}, but {expected:?}"),
        };
        for step in 0..400 {
            clock.advance(below(30));
            if below(100) == 0 {
                running.clear();
                snapshots.clear();
                opened = None;
            }
            let (db, keyspace) = opened.get_or_insert_with(handles);
            let now = clock.unix_millis();
            if running.len() < 3 {
                let level =
                    if below(2) == 0 { Isolation::Snapshot } else { Isolation::Serializable };
                let tx = db.begin_with(with(level, Concurrency::Optimistic)).expect("begins");
                running.push(Running { tx, changes: Vec::new(), blind: true, save: None });
            }
            let at = below(running.len() as u64) as usize;
            let key = below(KEYS.len() as u64) as usize;
            let this = &mut running[at];
            let (name, begun) = (KEYS[key], this.tx.now_ms());
            let tx = &mut this.tx;
            match below(16) {
                0 => {
                    let expires = if below(2) == 0 { now + below(100) } else { 0 };
                    let value = ["7", "12", "words"][below(3) as usize];
                    tx.put_with(keyspace, name, value, (expires > 0).then_some(expires))
                        .expect("a put");
                    this.changes.push((key, Change::Put(value.into(), expires)));
                    this.blind = false;
                }
                1 => {
                    tx.delete(keyspace, name).expect("a delete");
                    this.changes.push((key, Change::Delete));
                    this.blind = false;
                }
                2 if below(3) == 0 => {
                    tx.delete_range(keyspace, name..).expect("a range delete");
                    this.changes.extend((key..KEYS.len()).map(|key| (key, Change::Delete)));
                    this.blind = false;
                }
                3..=8 => {
                    let operator = if below(4) == 0 { APPEND } else { ADD_I64 };
                    let operand = (below(100) + 1).to_string();
                    let reads = this.changes.iter().any(|(k, _)| *k == key);
                    match tx.merge(keyspace, name, operator, &operand) {
                        Ok(()) => {
                            let change = Change::Merge(operator, operand.into(), begun);
                            this.changes.push((key, change));
                        }
                        Err(Error::Merge { .. }) => {
                            let mut changes = this.changes.clone();
                            changes.push((key, Change::Merge(operator, operand.into(), begun)));
                            let read = tx.read_timestamp().unwrap_or(db.visible());
                            let view = view(&history, &changes, key, read, begun);
                            assert!(reads && view.is_err(), "step {step}: {view:?}");
                        }
                        Err(error) => panic!("{error}"),
                    }
                    // By another operator over an own merge: then it has read.
                    this.blind &= !reads;
                }
                9 | 10 => {
                    let seen = tx.get_entry(keyspace, name);
                    let read = tx.read_timestamp().unwrap_or(db.visible());
                    same(seen, view(&history, &this.changes, key, read, begun), "a get");
                    this.blind = false;
                }
                11 => {
                    let reverse = below(2) == 0;
                    let range = tx.range(keyspace, ..);
                    let pairs: Result<Vec<_>> =
                        if reverse { range.rev().collect() } else { range.collect() };
                    let read = tx.read_timestamp().expect("it has read");
                    let views: Result<Vec<_>, ()> = (0..KEYS.len())
                        .map(|key| view(&history, &this.changes, key, read, begun))
                        .collect();
                    match (pairs, views) {
                        (Ok(mut pairs), Ok(views)) => {
                            if reverse {
                                pairs.reverse();
                            }
                            let views = views.into_iter().enumerate();
                            let expected: Vec<_> = views
                                .filter_map(|(key, view)| Some((KEYS[key], view?.0)))
                                .map(|(key, value)| (Slice::from(key), Slice::from(value)))
                                .collect();
                            assert_eq!(pairs, expected, "a scan");
                        }
                        (Err(Error::Merge { .. }), Err(())) => {}
                        (pairs, views) => panic!("{pairs:?}, but {views:?}"),
                    }
                    this.blind = false;
                }
                12 => match this.save {
                    Some((save, changes)) if below(2) == 0 => {
                        tx.rollback_to(save).expect("a savepoint");
                        this.changes.truncate(changes);
                    }
                    _ => this.save = Some((tx.savepoint(), this.changes.len())),
                },
                13 | 14 => {
                    let Running { tx, changes, blind, .. } = running.swap_remove(at);
                    match tx.commit() {
                        Ok(info) => {
                            let changes = changes.into_iter();
                            if let Some(at) = info.timestamp {
                                history.extend(changes.map(|(key, change)| (at, key, change)));
                            }
                        }
                        Err(Error::Conflict { .. }) => assert!(!blind, "it only merged"),
                        Err(error) => panic!("{error}"),
                    }
                }
                _ => match below(6) {
                    0 => snapshots.push((db.snapshot().expect("a snapshot"), now)),
                    1 if !snapshots.is_empty() => {
                        snapshots.swap_remove(below(snapshots.len() as u64) as usize);
                    }
                    _ => {
                        let before = db.visible();
                        Steps::new(db).upkeep();
                        if db.visible() > before {
                            // Expired values were deleted: at one LSN each round.
                            for key in 0..KEYS.len() {
                                let [unexpired, now] =
                                    [0, now].map(|now| view(&history, &[], key, before, now));
                                if unexpired != Ok(None) && now == Ok(None) {
                                    history.push((db.visible(), key, Change::Delete));
                                }
                            }
                        }
                    }
                },
            }
            if step % 5 == 0 {
                for (snapshot, begun) in &snapshots {
                    for (key, name) in KEYS.iter().enumerate() {
                        let read = snapshot.timestamp();
                        let expected = view(&history, &[], key, read, *begun);
                        same(snapshot.get_entry(keyspace, name), expected, "a snapshot");
                    }
                }
                for (key, name) in KEYS.iter().enumerate() {
                    let expected = view(&history, &[], key, db.visible(), now);
                    same(keyspace.get_entry(name), expected, "the newest");
                }
            }
        }
    }
}
