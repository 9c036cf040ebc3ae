//! The memtable against a map of versions.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;
use crate::merge::NoOperators;
use crate::scan::contains;
use crate::testing::{Letters, Random, assert_same};
use crate::version::{Kind, Value};

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

fn put(memtable: &Arc<Memtable>, key: &[u8], value: &[u8], stamp: u64) {
    let mut write = memtable.prepare(1);
    write.add(key, Kind::Put, Value::new(value), 0);
    write.install(at(stamp));
}

fn value(memtable: &Memtable, key: &[u8], read: u64) -> Option<Vec<u8>> {
    memtable.lookup(key, at(read), &pin()).put().map(|version| version.value().to_vec())
}

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

#[test]
fn readers_see_the_newest_version_at_their_timestamp() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"one", 10);
    put(&memtable, b"k", b"two", 20);
    let mut write = memtable.prepare(1);
    write.add(b"k", Kind::Delete, Value::empty(), 0);
    write.install(at(30));
    assert_eq!(value(&memtable, b"k", 9), None);
    assert_eq!(value(&memtable, b"k", 10).as_deref(), Some(&b"one"[..]));
    assert_eq!(value(&memtable, b"k", 29).as_deref(), Some(&b"two"[..]));
    assert_eq!(value(&memtable, b"k", 30), None);

    let guard = pin();
    let observed = |read| {
        let lookup = memtable.lookup(b"k", at(read), &guard);
        (lookup.observed, lookup.skipped_newer)
    };
    assert_eq!(observed(9), (Lsn::ZERO, true));
    assert_eq!(observed(25), (at(20), true));
    assert_eq!(observed(30), (at(30), false));
    assert_eq!(memtable.newest(b"k", &guard), at(30));
    assert_eq!(memtable.newest(b"other", &guard), Lsn::ZERO);
}

#[test]
fn prepared_writes_are_seen_by_nobody_until_installed() {
    let memtable = Arc::new(Memtable::new(1));
    let empty = memtable.bytes();
    let mut write = memtable.prepare(2);
    write.add(b"a", Kind::Put, Value::new(b"1"), 0);
    write.add_range_delete((Bound::Included(b"x"), Bound::Unbounded));
    assert_eq!(write.keys().collect::<Vec<_>>(), [b"a"]);
    assert_eq!(write.ranges().count(), 1);
    let guard = pin();
    let lookup = memtable.lookup(b"a", Lsn::MAX, &guard);
    assert!(lookup.put().is_none() && !lookup.skipped_newer && lookup.observed == Lsn::ZERO);
    drop(write);
    // The node stays, its version and the range delete are gone.
    assert_eq!(memtable.bytes(), empty + 17);
    assert_eq!(memtable.nodes(), 1);
    let mut seen = 0;
    memtable.scan(ALL, Direction::Forward, &guard, |node| {
        seen += 1;
        assert_eq!((node.key(), node.newest()), (&b"a"[..], Lsn::ZERO));
        ControlFlow::Continue(())
    });
    assert_eq!(seen, 1);
}

#[test]
fn put_after_delete_range_in_one_commit_survives() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"a", b"old", 1);
    put(&memtable, b"b", b"old", 1);
    let mut write = memtable.prepare(1);
    write.add_range_delete((Bound::Included(b"a"), Bound::Excluded(b"z")));
    write.add(b"b", Kind::Put, Value::new(b"new"), 0);
    write.install(at(2));
    assert_eq!(value(&memtable, b"a", 1).as_deref(), Some(&b"old"[..]));
    assert_eq!(value(&memtable, b"a", 2), None);
    assert_eq!(value(&memtable, b"b", 2).as_deref(), Some(&b"new"[..]));
    let guard = pin();
    assert_eq!(memtable.lookup(b"a", at(2), &guard).observed, at(2));
    assert_eq!(memtable.lookup(b"never", at(2), &guard).observed, at(2));
    assert!(memtable.lookup(b"never", at(1), &guard).skipped_newer);
    assert_eq!(memtable.newest(b"never", &guard), at(2));
}

#[test]
fn a_key_written_twice_in_one_commit_shows_the_later_value() {
    let memtable = Arc::new(Memtable::new(1));
    let mut write = memtable.prepare(2);
    write.add(b"k", Kind::Put, Value::new(b"first"), 0);
    write.add(b"k", Kind::Put, Value::new(b"second"), 0);
    write.install(at(1));
    assert_eq!(value(&memtable, b"k", 1).as_deref(), Some(&b"second"[..]));
    assert_eq!(write.prune(&PruneView::new(at(1), []), &NoOperators, &pin()).versions, 1);
    assert_eq!(value(&memtable, b"k", 1).as_deref(), Some(&b"second"[..]));
}

#[test]
fn conflicts_are_found_on_keys_and_under_range_deletes() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"a", b"1", 5);
    let mut write = memtable.prepare(2);
    write.add(b"new", Kind::Put, Value::new(b"1"), 0);
    write.add(b"a", Kind::Put, Value::new(b"2"), 0);
    assert_eq!(write.newest_above(at(4)), Some(1));
    assert_eq!(write.newest_above(at(5)), None);

    let mut watched = memtable.watch();
    watched.add(b"a");
    watched.add(b"absent");
    assert_eq!(watched.changed_since(at(5)), None);
    put(&memtable, b"absent", b"1", 6);
    assert_eq!(watched.changed_since(at(5)), Some(1));
    assert_eq!(watched.key(1), b"absent");
    assert_eq!(watched.changed_since(at(6)), None);

    let mut range = memtable.prepare(0);
    range.add_range_delete((Bound::Included(b"n"), Bound::Unbounded));
    range.install(at(7));
    assert_eq!(write.newest_above(at(6)), Some(0));
    assert_eq!(watched.changed_since(at(6)), None);
    let mut watched = memtable.watch();
    watched.add(b"nothing here");
    assert_eq!(watched.changed_since(at(6)), Some(0));
    assert_eq!(watched.changed_since(at(7)), None);

    let guard = pin();
    let newer = |start, end, above| {
        memtable.newer_in((Bound::Included(start), Bound::Excluded(end)), at(above), &guard)
    };
    assert_eq!(newer(b"a", b"b", 4), Some(at(5)));
    assert_eq!(newer(b"a", b"b", 5), Some(at(6)));
    assert_eq!(newer(b"a", b"b", 6), None);
    assert_eq!(newer(b"x", b"y", 6), Some(at(7)));
}

#[test]
fn merges_whose_base_may_lie_in_an_older_layer_do_not_become_puts() {
    for (beneath, expected) in [
        // The operator begins with a dash.
        (Beneath::Nothing, (true, 1)),
        (Beneath::Values, (false, 1)),
        (Beneath::Expiring, (false, 100)),
    ] {
        let memtable = Arc::new(Memtable::above(beneath, 1));
        for stamp in 1..=100 {
            let mut write = memtable.prepare(1);
            write.add(b"k", Kind::Merge { operator: 0 }, Value::new(b"x"), 0);
            write.install(at(stamp));
        }
        let guard = pin();
        let all = (Bound::Unbounded, Bound::Unbounded);
        let view = PruneView::new(at(100), [at(100)]);
        memtable.prune_range(all, &view, &Letters, &guard);
        let lookup = memtable.lookup(b"k", at(100), &guard);
        let seen = match lookup.found {
            Found::Put(version) => (true, version.value().len() - 100),
            Found::Merged(merged) => {
                let (base, run) = merged.parts();
                assert_eq!(run.iter().map(|operand| operand.bytes.len()).sum::<usize>(), 100);
                (base.is_some(), run.len())
            }
            _ => panic!("it has merges"),
        };
        assert_eq!(seen, expected, "{beneath:?}");
        // A range delete lies between: then there is no base, whatever is below.
        let mut write = memtable.prepare(1);
        write.add_range_delete(all);
        write.add(b"k", Kind::Merge { operator: 0 }, Value::new(b"y"), 0);
        write.install(at(101));
        let mut write = memtable.prepare(1);
        write.add(b"k", Kind::Merge { operator: 0 }, Value::new(b"z"), 0);
        write.install(at(102));
        memtable.prune_range(all, &PruneView::new(at(102), []), &Letters, &guard);
        let lookup = memtable.lookup(b"k", at(102), &guard);
        assert_eq!(
            lookup.put().map(|put| put.value().to_vec()),
            Some(b"-yz".to_vec()),
            "{beneath:?}"
        );
    }
}

#[test]
fn writes_and_reads_can_be_rebuilt_for_another_memtable() {
    let (old, new) = (Arc::new(Memtable::new(1)), Arc::new(Memtable::above(Beneath::Values, 2)));
    let mut write = old.prepare(3);
    write.add(b"a", Kind::Put, Value::new(b"1"), 7);
    write.add(b"b", Kind::Delete, Value::empty(), 0);
    write.add(b"c", Kind::Merge { operator: 3 }, Value::new(b"x"), 9);
    write.add_range_delete((Bound::Included(b"d"), Bound::Excluded(b"f")));
    let mut reads = old.watch();
    reads.add(b"a");
    reads.add(b"zz");
    let (rebuilt, reads) = (write.rebuilt(&new), reads.rebuilt(&new));
    drop(write);
    assert!(rebuilt.keys().eq([b"a", b"b", b"c"]));
    assert_eq!(rebuilt.ranges().len(), 1);
    rebuilt.install(at(5));
    let guard = pin();
    let put = new.lookup(b"a", at(5), &guard).put().expect("a put");
    assert_eq!((put.value(), put.expires_at()), (&b"1"[..], 7));
    assert_eq!(new.newest(b"e", &guard), at(5));
    assert_eq!(old.newest(b"a", &guard), Lsn::ZERO);
    assert_eq!(reads.changed_since(at(4)), Some(0));
    assert_eq!(reads.changed_since(at(5)), None);
}

#[test]
fn expiry_is_part_of_the_version() {
    let memtable = Arc::new(Memtable::new(1));
    let mut write = memtable.prepare(1);
    write.add(b"k", Kind::Put, Value::new(b"v"), 1000);
    write.install(at(1));
    let guard = pin();
    let version = memtable.lookup(b"k", at(1), &guard).put().expect("a value");
    assert_eq!(version.expires_at(), 1000);
    assert!(version.live_at(999) && !version.live_at(1000));
}

#[test]
fn values_outlive_the_pin_the_version_and_the_memtable() {
    let memtable = Arc::new(Memtable::new(1));
    for (key, len) in [(b"s", 10), (b"m", 500), (b"l", 5000)] {
        put(&memtable, key, &vec![7; len], 1);
    }
    let slices: Vec<_> = {
        let guard = pin();
        [b"s", b"m", b"l"]
            .map(|key| memtable.lookup(key, at(1), &guard).put().expect("a value").slice())
            .to_vec()
    };
    drop(memtable);
    for (slice, len) in slices.iter().zip([10, 500, 5000]) {
        assert_eq!(*slice, vec![7; len]);
    }
}

/// Range-deletes every key, at `stamp`.
fn delete_all(memtable: &Arc<Memtable>, stamp: u64) {
    let mut write = memtable.prepare(0);
    write.add_range_delete(ALL);
    write.install(at(stamp));
}

#[test]
fn what_a_range_delete_hides_gives_its_memory_back() {
    let memtable = Arc::new(Memtable::new(1));
    let key = |n: u64| n.to_be_bytes();
    let keys = 1..=500u64;
    for n in keys.clone() {
        let mut write = memtable.prepare(1);
        write.add(&key(n), Kind::Put, Value::new(&[7; 2000]), 0);
        write.install(at(n));
    }
    let full = memtable.bytes();
    delete_all(&memtable, 501);
    let freed = memtable.prune_range(ALL, &PruneView::new(at(501), []), &NoOperators, &pin());
    let guard = pin();
    assert_eq!(freed.versions, 500);
    assert!(memtable.bytes() + 500 * 2000 < full, "{full}, then {}", memtable.bytes());
    for n in keys {
        // The validators' evidence, and what a reader is told, are as before.
        assert_eq!(memtable.newest(&key(n), &guard), at(501));
        let lookup = memtable.lookup(&key(n), at(501), &guard);
        assert!(lookup.put().is_none() && lookup.observed == at(501) && !lookup.skipped_newer);
        // One that read too late, at a timestamp that nobody held, is told so.
        let lookup = memtable.lookup(&key(n), at(500), &guard);
        assert!(lookup.put().is_none() && lookup.skipped_newer);
    }
    let again = memtable.prune_range(ALL, &PruneView::new(at(501), []), &NoOperators, &guard);
    assert_eq!(again, Freed::default(), "a tombstone is not replaced");
    put(&memtable, &key(1), b"new", 502);
    assert_eq!(value(&memtable, &key(1), 502).as_deref(), Some(&b"new"[..]));
    assert_eq!(value(&memtable, &key(1), 501), None);
}

#[test]
fn a_hidden_value_stays_until_nobody_can_need_it() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"old", 10);
    delete_all(&memtable, 20);
    let prune = |horizon, needed: &[u64]| {
        let view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
        memtable.prune_range(ALL, &view, &NoOperators, &pin()).versions
    };
    // The range delete is above the horizon; somebody reads before it; nobody does.
    assert_eq!(prune(9, &[]), 0);
    assert_eq!(prune(19, &[]), 0);
    assert_eq!(prune(30, &[10]), 0);
    assert_eq!(prune(30, &[5, 19, 25]), 0);
    assert_eq!(value(&memtable, b"k", 19).as_deref(), Some(&b"old"[..]));
    assert_eq!(prune(30, &[9, 20]), 1);
    assert_eq!(memtable.newest(b"k", &pin()), at(20));
}

#[test]
fn a_put_of_the_same_commit_as_the_range_delete_keeps_its_value() {
    let memtable = Arc::new(Memtable::new(1));
    put(&memtable, b"k", b"old", 1);
    let mut write = memtable.prepare(1);
    write.add_range_delete(ALL);
    write.add(b"k", Kind::Put, Value::new(b"new"), 0);
    write.install(at(2));
    assert_eq!(
        memtable.prune_range(ALL, &PruneView::new(at(2), []), &NoOperators, &pin()).versions,
        1
    );
    assert_eq!(value(&memtable, b"k", 2).as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_replayed_range_delete_gives_the_memory_back_in_the_next_sweep() {
    let memtable = Arc::new(Memtable::new(1));
    let view = PruneView::newest_only();
    for stamp in 1..=100u64 {
        let mut write = memtable.prepare(1);
        write.add(&stamp.to_be_bytes(), Kind::Put, Value::new(&[7; 900]), 0);
        write.install(at(stamp));
        write.prune(&view, &NoOperators, &pin());
    }
    let full = memtable.bytes();
    let mut write = memtable.prepare(0);
    write.add_range_delete(ALL);
    write.install(at(101));
    write.prune(&view, &NoOperators, &pin());
    memtable.prune_range(ALL, &PruneView::new(at(101), []), &NoOperators, &pin());
    assert!(memtable.bytes() + 100 * 900 <= full + 200, "{full}, then {}", memtable.bytes());
}

/// Two pruners replace heads beside a writer that puts new ones on top.
#[test]
fn racing_replacements_and_writers_lose_and_leak_nothing() {
    const STAMPS: u64 = if cfg!(miri) { 200 } else { 40_000 };
    let memtable = Arc::new(Memtable::new(1));
    let visible = std::sync::atomic::AtomicU64::new(0);
    let seen = || visible.load(std::sync::atomic::Ordering::Acquire);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while seen() < STAMPS {
                    memtable.prune_range(
                        ALL,
                        &PruneView::new(at(seen()), []),
                        &NoOperators,
                        &pin(),
                    );
                }
            });
        }
        // A reader without a slot: it is right, or is told that it may be wrong.
        scope.spawn(|| {
            while seen() < STAMPS {
                let guard = pin();
                let read = seen();
                let lookup = memtable.lookup(b"k", at(read), &guard);
                if !lookup.skipped_newer && read > 0 {
                    let value = lookup.put().map(|v| v.value().to_vec());
                    let expected = (read % 2 == 1).then(|| read.to_be_bytes().repeat(20));
                    assert_eq!((value, lookup.observed), (expected, at(read)));
                }
            }
        });
        for stamp in 1..=STAMPS {
            if stamp % 2 == 1 {
                put(&memtable, b"k", &stamp.to_be_bytes().repeat(20), stamp);
            } else {
                delete_all(&memtable, stamp);
            }
            visible.store(stamp, std::sync::atomic::Ordering::Release);
        }
    });
    let view = PruneView::new(at(STAMPS), []);
    memtable.prune_range(ALL, &view, &NoOperators, &pin());
    let other = Arc::new(Memtable::new(1));
    put(&other, b"k", b"", STAMPS - 1);
    delete_all(&other, STAMPS);
    other.prune_range(ALL, &view, &NoOperators, &pin());
    assert_eq!(memtable.bytes(), other.bytes(), "one tombstone, one range delete");
    // Other tests of the process may hold the epoch back for a while.
    while memtable.retired_bytes() > 0 {
        pin().flush();
        std::thread::yield_now();
    }
}

mod merges;

/// What the memtable ought to hold: all writes, by key and stamp.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, BTreeMap<u64, Option<Vec<u8>>>>,
    ranges: Vec<(u64, Vec<u8>, Vec<u8>)>,
}

impl Model {
    fn lookup(&self, key: &[u8], read: u64) -> (Option<Vec<u8>>, u64) {
        let version = self
            .versions
            .get(key)
            .and_then(|chain| chain.range(..=read).next_back())
            .map(|(&stamp, value)| (stamp, value.clone()));
        let range = self
            .ranges
            .iter()
            .filter(|(stamp, start, end)| *stamp <= read && start[..] <= *key && *key < end[..])
            .map(|&(stamp, ..)| stamp)
            .max()
            .unwrap_or(0);
        match version {
            Some((stamp, value)) if stamp >= range => (value, stamp),
            _ => (None, range),
        }
    }
}

/// The stamps of the key's versions that hold memory for a value, ascending.
#[expect(unsafe_code, reason = "walks a chain")]
fn values(memtable: &Memtable, key: &[u8]) -> Vec<u64> {
    use crate::version::Version;
    let guard = pin();
    let node = memtable.sidecar.find(memtable.hasher.hash(key), key, &guard);
    let mut at = node.and_then(NodePtr::newest_version);
    let (mut stamps, mut above) = (Vec::new(), Lsn::MAX);
    while let Some(version) = at {
        // SAFETY: pinned since before the head was loaded.
        let (stamp, holds, next) = unsafe {
            let holds = Version::outweighs_tombstone(version);
            (Version::stamp(version), holds, Version::next(version))
        };
        // Above the horizon, what one commit wrote twice is there twice.
        if holds && stamp < above {
            stamps.push(stamp.counter());
        }
        (above, at) = (stamp, next);
    }
    stamps.reverse();
    stamps
}

#[test]
fn memtable_agrees_with_a_map_of_versions() {
    let mut random = Random::from_environment("memtable model");
    for round in 0..40 {
        let memtable = Arc::new(Memtable::new(random.next()));
        let mut model = Model::default();
        let mut needed: Vec<u64> = Vec::new();
        let mut horizon = 0;
        let keys = 2 + random.below(300);
        let key = |n: usize| format!("{:0width$}", n, width = 1 + round % 12).into_bytes();
        for stamp in 1..=300u64 {
            let mut write = memtable.prepare(0);
            // Some are abandoned: dropped without being installed, and not in the model.
            let installed = random.below(10) > 0;
            if random.below(12) == 0 {
                let (a, b) = (key(random.below(keys)), key(random.below(keys)));
                let (start, end) = if a < b { (a, b) } else { (b, a) };
                write.add_range_delete((Bound::Included(&start), Bound::Excluded(&end)));
                if installed {
                    model.ranges.push((stamp, start, end));
                }
            }
            for _ in 0..random.below(6) {
                let key = key(random.below(keys));
                let value = (random.below(4) > 0).then(|| vec![stamp as u8; 1 + random.below(200)]);
                match &value {
                    Some(bytes) => write.add(&key, Kind::Put, Value::new(bytes), 0),
                    None => write.add(&key, Kind::Delete, Value::empty(), 0),
                }
                let chain = model.versions.entry(key).or_default();
                if installed {
                    chain.insert(stamp, value);
                }
            }
            if !installed {
                continue;
            }
            write.install(at(stamp));
            if random.below(15) == 0 {
                needed.push(stamp);
            }
            if random.below(2) == 0 {
                horizon = horizon.max(stamp - random.below(5.min(stamp as usize)) as u64);
                let view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
                write.prune(&view, &NoOperators, &pin());
                if random.below(20) == 0 {
                    memtable.prune_range(ALL, &view, &NoOperators, &pin());
                    for (key, chain) in &model.versions {
                        let reads = needed.iter().copied().chain(horizon..=stamp);
                        let mut kept: Vec<u64> = reads
                            .filter(|&read| model.lookup(key, read).0.is_some())
                            .filter_map(|read| chain.range(..=read).next_back())
                            .map(|(&stamp, _)| stamp)
                            .collect();
                        kept.sort_unstable();
                        kept.dedup();
                        assert_eq!(values(&memtable, key), kept, "{key:?}, {view:?}");
                    }
                }
            }
        }
        let guard = pin();
        for read in needed.iter().copied().chain(horizon.max(1)..=300) {
            for n in 0..keys {
                let key = key(n);
                let lookup = memtable.lookup(&key, at(read), &guard);
                let (value, observed) = model.lookup(&key, read);
                assert_eq!(lookup.put().map(|v| v.value().to_vec()), value, "{n} at {read}");
                assert_eq!(lookup.observed, if observed == 0 { Lsn::ZERO } else { at(observed) });
            }
            let (start, end) = (key(random.below(keys)), key(random.below(keys)));
            let range = (Bound::Included(&*start), Bound::Excluded(&*end));
            let mut expected: Vec<_> = model
                .versions
                .keys()
                .filter(|key| contains(range, key))
                .map(|key| (key.clone(), model.lookup(key, read).0))
                .collect();
            for direction in [Direction::Forward, Direction::Reverse] {
                let mut seen = Vec::new();
                memtable.scan(range, direction, &guard, |node| {
                    let version = node.lookup(at(read)).put();
                    seen.push((node.key().to_vec(), version.map(|v| v.value().to_vec())));
                    ControlFlow::Continue(())
                });
                assert_same(&seen, &expected, &format!("{direction:?} at {read}"));
                expected.reverse();
            }
        }
        assert_eq!(memtable.nodes(), model.versions.len());
    }
}
