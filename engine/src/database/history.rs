//! What is promised of the past: the retention window, joined snapshots, and the end of those that are
//! too old.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use isolith_wal::{Durability, ManualClock};

use super::tests::reopenable;
use crate::steps::Steps;
use crate::*;

type State = BTreeMap<u8, Vec<u8>>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A database without threads whose commits are acknowledged at once, its clock, its upkeep.
fn open(adapt: impl FnOnce(Builder) -> Builder) -> (Database, Keyspace, Arc<ManualClock>, Steps) {
    let (builder, clock) = reopenable();
    let builder = builder.threads(false).durability(Durability::Buffered);
    let db = adapt(builder).open().unwrap();
    let (keyspace, steps) = (db.keyspace("a").unwrap(), Steps::new(&db));
    (db, keyspace, clock, steps)
}

fn read(snapshot: &Snapshot, keyspace: &Keyspace) -> Result<State> {
    let pairs = snapshot.range(keyspace, ..).collect::<Result<Vec<_>>>()?;
    let state: State = pairs.iter().map(|(key, value)| (key[0], value.to_vec())).collect();
    for key in 0..8 {
        let got = snapshot.get(keyspace, [key])?.map(|value| value.to_vec());
        assert_eq!(got.as_ref(), state.get(&key), "key {key} at {}", snapshot.timestamp());
    }
    Ok(state)
}

/// xorshift64.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[test]
fn every_timestamp_within_the_window_reads_its_own_state_and_none_below() {
    let given = std::env::var("ISOLITH_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut random: u64 = given.unwrap_or_else(isolith_wal::random_seed).max(1);
    println!("ISOLITH_SEED={random}");
    for retention in [0, 40, 400] {
        let (db, a, clock, steps) = open(|builder| builder.retention(millis(retention)));
        let mut state = State::new();
        // The states by timestamp, and when each began to be the last.
        let mut states = vec![(db.acknowledged(), 1_000, state.clone())];
        let mut kept: Vec<(Snapshot, State)> = Vec::new();
        for _ in 0..600 {
            let now = 1_000 + next(&mut random) % 20 + states.last().unwrap().1 - 1_000;
            clock.set(now);
            let (key, value) = (next(&mut random) as u8 % 8, next(&mut random).to_le_bytes());
            match next(&mut random) % 8 {
                0 => {
                    a.delete([key]).unwrap();
                    state.remove(&key);
                }
                1 => {
                    a.delete_range([key]..[key + 3]).unwrap();
                    state.retain(|k, _| !(key..key + 3).contains(k));
                }
                _ => {
                    a.put([key], value).unwrap();
                    state.insert(key, value.to_vec());
                }
            }
            states.push((db.acknowledged(), now, state.clone()));
            match next(&mut random) % 16 {
                0 => steps.upkeep(),
                1 => kept.push((db.snapshot().unwrap(), state.clone())),
                2 if !kept.is_empty() => drop(kept.swap_remove(0)),
                _ => {}
            }
            for (snapshot, state) in &kept {
                let again = db.snapshot_at(snapshot.timestamp()).unwrap();
                assert_eq!(&read(&again, &a).unwrap(), state, "at {}", again.timestamp());
            }
            let (at, _, expected) = &states[next(&mut random) as usize % states.len()];
            let floor = db.stats().retention_floor;
            let in_window = floor.is_some_and(|floor| floor <= *at);
            match db.snapshot_at(*at) {
                Ok(snapshot) => {
                    assert_eq!(&read(&snapshot, &a).unwrap(), expected, "at {at}");
                    let live = kept.iter().any(|(snapshot, _)| snapshot.timestamp() == *at);
                    assert!(in_window || live || *at == db.acknowledged());
                }
                Err(Error::SnapshotTooOld { oldest }) => {
                    assert!(!in_window, "{at} is within the window from {floor:?}");
                    assert_eq!(oldest, floor.unwrap_or(db.acknowledged()));
                }
                Err(error) => panic!("{error}"),
            }
        }
        // The window is as long as was asked, whenever the upkeep came by.
        let now = states.last().unwrap().1;
        for pair in states.windows(2).filter(|pair| pair[1].1 > now.saturating_sub(retention)) {
            let (at, _, expected) = if retention == 0 { &pair[1] } else { &pair[0] };
            if retention > 0 || *at == db.acknowledged() {
                let snapshot = db.snapshot_at(*at).unwrap();
                assert_eq!(&read(&snapshot, &a).unwrap(), expected, "at {at}");
            }
        }
    }
}

#[test]
fn what_falls_out_of_the_window_is_freed() {
    let (db, a, clock, steps) = open(|builder| builder.retention(millis(1_000)));
    let before = db.stats().memory_bytes;
    for n in 0..200u32 {
        clock.advance(10);
        a.put("k", [n as u8; 1_000]).unwrap();
        steps.upkeep();
    }
    let stats = db.stats();
    assert!((100..=103).contains(&stats.history_versions), "{stats:?}");
    assert!((100_000..120_000).contains(&stats.history_bytes), "{stats:?}");
    assert_eq!(stats.retention_reach_ms, Some(1_000));
    let floor = stats.retention_floor.unwrap();
    assert_eq!(floor.counter(), db.acknowledged().counter() - 100);
    assert_eq!(db.timestamp_at(3_000), Some(db.acknowledged()));
    assert_eq!(db.timestamp_at(2_999).unwrap().counter(), db.acknowledged().counter() - 1);
    assert_eq!(db.timestamp_at(2_000), Some(floor));
    assert_eq!(db.timestamp_at(1_999), None);
    clock.advance(1_000);
    steps.upkeep();
    let stats = db.stats();
    assert_eq!((stats.history_versions, stats.history_bytes), (0, 0));
    assert_eq!(stats.retention_floor, Some(db.acknowledged()));
    assert!(a.get("k").unwrap().is_some());
    assert!(stats.memory_bytes < before + 20_000 || pruned_soon(&db, before + 20_000));
}

/// Whether the memory in use falls below `bytes` once the epoch has passed.
fn pruned_soon(db: &Database, bytes: usize) -> bool {
    (0..10_000).any(|_| {
        isolith_index::pin().flush();
        std::thread::yield_now();
        db.stats().memory_bytes < bytes
    })
}

#[test]
fn a_full_memory_stalls_writes_until_history_falls_out_of_the_window() {
    let (_, clock) = reopenable();
    // In memory: else history goes to files.
    let builder = Builder::in_memory().clock(Arc::clone(&clock) as _).threads(false);
    let db = builder.retention(millis(1_000)).memory(4 << 20).open().unwrap();
    let a = db.keyspace("a").unwrap();
    let full = (0..).find_map(|_| a.put("k", vec![7; 10_000]).err()).unwrap();
    assert!(matches!(full, Error::Stalled { reason: StallReason::Memory { .. } }), "{full}");
    clock.advance(2_000);
    let after = (0..1000).find(|_| a.put("k", vec![7; 10_000]).is_ok());
    assert!(after.is_some());
}

#[test]
fn a_live_snapshot_is_joined_and_outlives_its_source() {
    let (db, a, _, steps) = open(|builder| builder);
    a.put("k", "old").unwrap();
    let source = db.snapshot().unwrap();
    let at = source.timestamp();
    a.put("k", "new").unwrap();
    let joined = db.snapshot_at(at).unwrap();
    assert_eq!(db.stats().snapshots, 1, "one slot");
    drop(source);
    steps.upkeep();
    assert_eq!(joined.get(&a, "k").unwrap().as_deref(), Some(&b"old"[..]));
    let again = db.snapshot_at(at).unwrap();
    drop(joined);
    steps.upkeep();
    assert_eq!(again.get(&a, "k").unwrap().as_deref(), Some(&b"old"[..]));
    drop(again);
    assert_eq!(db.stats().snapshots, 0);
    assert!(matches!(db.snapshot_at(at), Err(Error::SnapshotTooOld { .. })));
}

#[test]
fn the_future_and_the_time_before_a_restart_are_refused() {
    let (builder, _) = reopenable();
    let builder = builder.retention(millis(60_000));
    let db = builder.clone().open().unwrap();
    let a = db.keyspace("a").unwrap();
    a.put("k", "1").unwrap();
    let before = db.acknowledged();
    a.put("k", "2").unwrap();
    let last = db.acknowledged();
    assert!(db.snapshot_at(before).is_ok());
    let ahead = Timestamp::new(last.epoch(), last.counter() + 1);
    match db.snapshot_at(ahead) {
        Err(Error::TimestampAhead { timestamp, acknowledged }) => {
            assert_eq!((timestamp, acknowledged), (ahead, last));
        }
        other => panic!("{other:?}"),
    }
    drop((a, db));
    let db = builder.open().unwrap();
    let a = db.keyspace("a").unwrap();
    match db.snapshot_at(before) {
        Err(Error::SnapshotTooOld { oldest }) => assert_eq!(oldest, last),
        other => panic!("{other:?}"),
    }
    a.put("k", "3").unwrap();
    let at = |timestamp| db.snapshot_at(timestamp).unwrap().get(&a, "k").unwrap();
    assert_eq!(at(last).as_deref(), Some(&b"2"[..]));
    assert_eq!(at(db.acknowledged()).as_deref(), Some(&b"3"[..]));
}

#[test]
fn an_expired_snapshot_is_refused_and_its_memory_is_freed() {
    let (db, a, clock, steps) = open(|builder| builder.snapshot_age_max(millis(5_000)));
    for key in 0..200u8 {
        a.put([key], [1; 1_000]).unwrap();
    }
    let old = db.snapshot().unwrap();
    let transaction = db.begin().unwrap();
    let mut range = old.range(&a, ..);
    assert!(range.next().unwrap().is_ok());
    clock.advance(3_000);
    steps.upkeep();
    for key in 0..200u8 {
        a.put([key], [2; 1_000]).unwrap();
    }
    let young = db.snapshot().unwrap();
    assert_eq!(transaction.get(&a, [0]).unwrap().unwrap()[0], 2, "it reads from now on");
    clock.advance(2_000);
    steps.upkeep();
    let stats = db.stats();
    let oldest = stats.oldest_snapshot.unwrap();
    assert_eq!((oldest.timestamp, oldest.reader), (old.timestamp(), Reader::Snapshot));
    assert_eq!((oldest.age_ms, oldest.commits_behind), (5_000, 200));
    assert_eq!(oldest.bytes_held, Some(stats.history_bytes));
    assert!(stats.history_bytes > 200_000 && stats.history_versions == 200, "{stats:?}");
    assert!(old.get(&a, [9]).is_ok() && range.next().unwrap().is_ok());

    clock.advance(1);
    steps.upkeep();
    let refused = |error: Error| match error {
        Error::SnapshotTooOld { oldest } => assert_eq!(oldest, db.acknowledged()),
        error => panic!("{error}"),
    };
    refused(old.get(&a, [9]).unwrap_err());
    refused(old.clone().contains(&a, [9]).unwrap_err());
    // What it had fetched by then it gives, and no more.
    let given = range.by_ref().take_while(Result::is_ok).count();
    assert!(given < 10, "{given}");
    assert!(range.next().is_none(), "it ends after the error");
    refused(old.range(&a, ..).next().unwrap().unwrap_err());
    refused(old.range(&a, ..).next_back().unwrap().unwrap_err());
    refused(db.snapshot_at(old.timestamp()).unwrap_err());
    assert_eq!(young.get(&a, [9]).unwrap().unwrap()[0], 2, "the young one goes on");
    let after = db.stats();
    assert_eq!((after.snapshots_expired, after.snapshots), (1, 2));
    assert_eq!(after.oldest_snapshot.unwrap().timestamp, young.timestamp());
    assert_eq!((after.history_versions, after.history_bytes), (0, 0));
    assert!(pruned_soon(&db, stats.memory_bytes - 190_000), "{:?}", db.stats());
}

#[test]
fn a_transaction_whose_snapshot_expired_neither_reads_nor_commits() {
    let (db, a, clock, steps) = open(|builder| builder.snapshot_age_max(millis(100)));
    for key in 0..200u8 {
        a.put([key], "1").unwrap();
    }
    let begin = || {
        let mut tx = db.begin().unwrap();
        tx.get(&a, [0]).unwrap();
        tx.put(&a, [1], "tx").unwrap();
        tx
    };
    let (reading, committing) = (begin(), begin());
    let mut range = reading.range(&a, ..);
    assert!(range.next().unwrap().is_ok());
    clock.advance(101);
    steps.upkeep();
    let too_old = |error: &Error| matches!(error, Error::SnapshotTooOld { .. });
    assert!(too_old(&reading.get(&a, [2]).unwrap_err()));
    let end = range.find_map(Result::err);
    assert!(end.is_some_and(|error| too_old(&error)));
    assert!(range.next().is_none());
    let error = committing.commit().unwrap_err();
    assert!(too_old(&error) && error.retry() == Retry::Never, "{error}");
    assert_eq!(a.get([1]).unwrap().as_deref(), Some(&b"1"[..]));
    // One that has read nothing has nothing to lose.
    let mut blind = db.begin().unwrap();
    blind.put(&a, [1], "blind").unwrap();
    clock.advance(101);
    steps.upkeep();
    blind.commit().unwrap();
}

#[test]
fn a_commit_under_way_does_not_expire() {
    let clock = Arc::new(ManualClock::new(0));
    let db = Builder::in_memory()
        .commit_mode(CommitMode::Stepped)
        .clock(Arc::clone(&clock) as Arc<dyn Clock>)
        .snapshot_age_max(millis(100))
        .open()
        .unwrap();
    let steps = Steps::new(&db);
    let a = steps.keyspace("a").unwrap();
    let mut tx = db.begin().unwrap();
    tx.get(&a, "k").unwrap();
    tx.put(&a, "k", "v").unwrap();
    let mut commit = tx.commit_steps();
    assert!(matches!(commit.step(), Step::Blocked(BlockedBy::Round)));
    clock.advance(1_000);
    steps.upkeep();
    assert_eq!(db.stats().snapshots_expired, 0);
    steps.round(1);
    assert!(matches!(commit.step(), Step::Ready(_)));
}

/// A chain that is longer than what a round allows keeps neither the other keyspaces' from being pruned
/// nor the sweep from coming back.
#[test]
fn a_long_chain_holds_up_no_other_keyspace() {
    let (db, a, clock, _) = open(|builder| builder.retention(millis(1_000)));
    let b = db.keyspace("b").unwrap();
    for _ in 0..10 {
        b.put("k", "old").unwrap();
    }
    let mut sweeps = crate::background::Sweeps::default();
    sweeps.round(db.core());
    assert_eq!(db.stats().history_versions, 9);
    clock.advance(2_000);
    const LONG: usize = 70_000;
    for _ in 0..LONG {
        a.put("k", "long").unwrap();
    }
    for _ in 0..8 {
        sweeps.round(db.core());
    }
    assert_eq!(db.stats().history_versions, LONG - 1, "the newest counts not, nor what went");
    clock.advance(2_000);
    let freed = (0..16).position(|_| {
        sweeps.round(db.core());
        // Ends of batches that the log has written may keep one each.
        db.stats().history_versions < 10
    });
    assert!(freed.is_some(), "{:?}", db.stats());
}

/// Threads: a writer that keeps two keys equal and counts a third up, the upkeep at work, and readers who
/// stay until they are refused. Whatever was read before that is one state, and the right one.
#[test]
fn readers_at_any_age_see_one_state_or_are_refused() {
    let db = Builder::in_memory()
        .retention(millis(30))
        .snapshot_age_max(millis(20))
        .durability(Durability::Buffered)
        .open()
        .unwrap();
    let a = db.keyspace("a").unwrap();
    let write = |n: u64| {
        let mut tx = db.begin().unwrap();
        for key in ["left", "right"] {
            tx.put(&a, key, n.to_be_bytes()).unwrap();
        }
        tx.commit().unwrap().timestamp.unwrap()
    };
    let number = |value: Option<Slice>| u64::from_be_bytes(value.unwrap()[..].try_into().unwrap());
    // The only writer: a commit's number is its timestamp's distance from the first one's.
    let first = write(0);
    let over = std::sync::atomic::AtomicBool::new(false);
    let over = &over;
    // Relaxed: who sees it late writes once more.
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 1.. {
                if over.load(relaxed) {
                    break;
                }
                write(n);
                // Now and then the upkeep comes by a chain that nobody adds to.
                if n % 1024 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let readers: Vec<_> = (0..2u64)
            .map(|reader| {
                let (db, a) = (&db, &a);
                scope.spawn(move || {
                    let mut random = 77 + reader;
                    let (mut given, mut refused) = (0, 0);
                    while given < 20 || refused < 20 {
                        let s = db.acknowledged();
                        let age = next(&mut random) % (s.counter() - first.counter() + 1);
                        let at = Timestamp::new(s.epoch(), s.counter() - age);
                        let source = match next(&mut random) % 3 {
                            0 => db.snapshot(),
                            _ => db.snapshot_at(at),
                        };
                        let snapshot = match source {
                            Ok(source) => {
                                let joined = db.snapshot_at(source.timestamp());
                                drop(source);
                                joined
                            }
                            refused => refused,
                        };
                        let Ok(snapshot) = snapshot else {
                            refused += 1;
                            continue;
                        };
                        let expected = snapshot.timestamp().counter() - first.counter();
                        let error = loop {
                            let read = || {
                                let left = number(snapshot.get(a, "left")?);
                                let pairs = snapshot.range(a, ..).collect::<Result<Vec<_>>>()?;
                                let right = number(Some(pairs[1].1.clone()));
                                assert_eq!((left, right, pairs.len()), (expected, expected, 2));
                                Ok(())
                            };
                            if let Err(error) = read() {
                                break error;
                            }
                        };
                        assert!(matches!(error, Error::SnapshotTooOld { .. }), "{error}");
                        given += 1;
                    }
                })
            })
            .collect();
        let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        over.store(true, relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
}
