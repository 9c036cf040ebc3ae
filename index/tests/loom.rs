//! Models of the crate's races: loom runs each in every interleaving (up to the preemptions allowed)
//! and with every value that the memory model lets a load return.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_TARGET_DIR=target/loom cargo test
//! -p isolith-index --release --test loom`
//!
//! The thread that writes is the model's own and readers are spawned: loom runs the model's own first,
//! and goes back to let another in between only where that one then meets what the first wrote.
//!
//! Under `--cfg loom` pages hold two entries and a log of two, and tables begin with two slots, so
//! that a few inserts split and grow. Memory is kept until a model ends: when it may be freed is not
//! modelled here (see `sync`).
#![cfg(loom)]

use std::ops::Bound;
use std::sync::Arc;

use isolith_index::parts::{Map, Ranges, Table};
use isolith_index::{
    Direction, KeyRange, Kind, Memtable, NoOperators, PruneView, Value, collect, pin,
};
use isolith_wal::Lsn;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::thread;

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

/// Runs a model; its shared things are dropped, and what was retired is freed, within it.
fn model(body: impl Fn() + Send + Sync + 'static) {
    let runs = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    loom::model(move || {
        body();
        collect();
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    println!("{} interleavings", runs.load(std::sync::atomic::Ordering::Relaxed));
}

/// Seeds that lay the keys out differently in tables of two and four slots.
const SEEDS: [u64; 2] = [1, 2];

#[test]
fn sidecar_lookup_never_misses_while_the_table_grows() {
    for seed in SEEDS {
        model(move || {
            let table = Arc::new(Table::new(5, seed));
            table.ensure(0);
            table.ensure(1);
            let ensured = Arc::new(AtomicBool::new(false));
            let reader = {
                let (table, ensured) = (Arc::clone(&table), Arc::clone(&ensured));
                thread::spawn(move || {
                    let second = ensured.load(Ordering::Acquire);
                    assert!(table.has(0) && table.has(1));
                    assert!(!second || table.has(2));
                })
            };
            // The table is full: this grows it, and moves the first of its two chunks.
            table.ensure(2);
            ensured.store(true, Ordering::Release);
            // This moves the second, and cuts the old table.
            table.ensure(3);
            reader.join().expect("no panic");
            assert!((0..4).all(|key| table.has(key)));
            assert!(!table.has(4));
            assert!(table.slots() > 2);
        });
    }
}

#[test]
fn sidecar_inserters_on_the_old_table_are_not_lost_in_the_new() {
    for seed in SEEDS {
        model(move || {
            let table = Arc::new(Table::new(4, seed));
            table.ensure(0);
            // One slot is free: one inserter may take it while the other grows the table.
            let other = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    table.ensure(1);
                    assert!(table.has(1));
                })
            };
            table.ensure(2);
            assert!(table.has(2));
            other.join().expect("no panic");
            assert!((0..3).all(|key| table.has(key)));
            // Moves what is left and cuts the old table: nothing may be in it alone.
            table.ensure(3);
            assert!((0..4).all(|key| table.has(key)));
        });
    }
}

#[test]
fn sidecar_two_movers_and_a_reader_agree() {
    for seed in SEEDS {
        model(move || {
            let table = Arc::new(Table::new(5, seed));
            (0..2).for_each(|key| table.ensure(key));
            let mover = {
                let table = Arc::clone(&table);
                thread::spawn(move || table.ensure(3))
            };
            let reader = {
                let table = Arc::clone(&table);
                thread::spawn(move || assert!(table.has(0) && table.has(1)))
            };
            table.ensure(2);
            mover.join().expect("no panic");
            reader.join().expect("no panic");
            assert!((0..4).all(|key| table.has(key)));
        });
    }
}

/// A map whose next insert into the leaf splits it.
fn about_to_split() -> Arc<Map> {
    let map = Map::new();
    for key in [10, 20, 30, 40] {
        map.insert(key);
    }
    Arc::new(map)
}

fn check_scan(seen: &[u8], direction: Direction, must: &[u8]) {
    let mut ascending = seen.to_vec();
    if direction == Direction::Reverse {
        ascending.reverse();
    }
    assert!(ascending.is_sorted_by(|a, b| a < b), "in order, nothing twice: {seen:?}");
    assert!(must.iter().all(|key| ascending.contains(key)), "nothing is missed: {seen:?}");
}

fn split_beside_a_scan(direction: Direction) {
    model(move || {
        let map = about_to_split();
        let inserted = Arc::new(AtomicBool::new(false));
        let scanner = {
            let (map, inserted) = (Arc::clone(&map), Arc::clone(&inserted));
            thread::spawn(move || {
                let must: &[u8] = if inserted.load(Ordering::Acquire) {
                    &[10, 15, 20, 30]
                } else {
                    &[10, 20, 30]
                };
                check_scan(&map.keys(direction), direction, must);
            })
        };
        map.insert(15);
        inserted.store(true, Ordering::Release);
        map.insert(17);
        scanner.join().expect("no panic");
        check_scan(&map.keys(direction), direction, &[10, 15, 17, 20, 30, 40]);
    });
}

#[test]
fn leaf_split_beside_a_forward_scan_loses_and_repeats_nothing() {
    split_beside_a_scan(Direction::Forward);
}

#[test]
fn leaf_split_beside_a_reverse_scan_loses_and_repeats_nothing() {
    split_beside_a_scan(Direction::Reverse);
}

#[test]
fn racing_inserters_of_one_key_share_one_node_across_a_split() {
    model(|| {
        let map = about_to_split();
        let other = {
            let map = Arc::clone(&map);
            thread::spawn(move || map.insert(25))
        };
        let mine = map.insert(25);
        assert_eq!(other.join().expect("no panic"), mine);
        check_scan(&map.keys(Direction::Forward), Direction::Forward, &[10, 20, 25, 30, 40]);
    });
}

#[test]
fn racing_inserters_of_two_keys_both_arrive_across_a_split() {
    model(|| {
        let map = about_to_split();
        let other = {
            let map = Arc::clone(&map);
            thread::spawn(move || {
                map.insert(5);
            })
        };
        map.insert(25);
        other.join().expect("no panic");
        for direction in [Direction::Forward, Direction::Reverse] {
            check_scan(&map.keys(direction), direction, &[5, 10, 20, 25, 30, 40]);
        }
    });
}

fn write(memtable: &Arc<Memtable>, stamp: u64) {
    let mut write = memtable.prepare(1);
    write.add(b"k", Kind::Put, Value::new(&stamp.to_le_bytes()), 0);
    write.install(at(stamp));
}

/// What a reader at `read` sees: the stamp in the version and the one in its bytes agree.
fn seen(memtable: &Memtable, read: u64) -> Option<u64> {
    let guard = pin();
    let version = memtable.lookup(b"k", at(read), &guard).put()?;
    let stamp = version.stamp().counter();
    assert_eq!(version.value(), stamp.to_le_bytes());
    Some(stamp)
}

#[test]
fn installed_versions_are_found_by_whoever_sees_the_mark() {
    model(|| {
        let memtable = Arc::new(Memtable::new(1));
        let visible = Arc::new(AtomicU64::new(0));
        let reader = {
            let (memtable, visible) = (Arc::clone(&memtable), Arc::clone(&visible));
            thread::spawn(move || {
                let read = visible.load(Ordering::Acquire);
                assert_eq!(seen(&memtable, read), (read > 0).then_some(read));
                // Whatever is seen beyond the mark is whole.
                seen(&memtable, 9);
            })
        };
        for stamp in 1..=2 {
            write(&memtable, stamp);
            visible.store(stamp, Ordering::Release);
        }
        reader.join().expect("no panic");
        assert_eq!(seen(&memtable, 9), Some(2));
    });
}

#[test]
fn two_writers_of_a_new_key_share_its_chain() {
    model(|| {
        let memtable = Arc::new(Memtable::new(1));
        let other = {
            let memtable = Arc::clone(&memtable);
            thread::spawn(move || {
                let mut write = memtable.prepare(1);
                write.add(b"k", Kind::Put, Value::new(&1u64.to_le_bytes()), 0);
                write
            })
        };
        let mut mine = memtable.prepare(1);
        mine.add(b"k", Kind::Put, Value::new(&2u64.to_le_bytes()), 0);
        let other = other.join().expect("no panic");
        other.install(at(1));
        mine.install(at(2));
        assert_eq!((seen(&memtable, 1), seen(&memtable, 2)), (Some(1), Some(2)));
        assert_eq!(memtable.nodes(), 1);
    });
}

#[test]
fn a_needed_version_stays_beside_pruner_and_writer() {
    model(|| {
        let memtable = Arc::new(Memtable::new(1));
        (1..=3).for_each(|stamp| write(&memtable, stamp));
        let writer = {
            let memtable = Arc::clone(&memtable);
            thread::spawn(move || write(&memtable, 4))
        };
        let reader = {
            let memtable = Arc::clone(&memtable);
            thread::spawn(move || assert_eq!(seen(&memtable, 2), Some(2)))
        };
        let view = PruneView::new(at(3), [at(2)]);
        let freed = memtable.prune_range(ALL, &view, &NoOperators, &pin());
        writer.join().expect("no panic");
        reader.join().expect("no panic");
        assert_eq!(freed.versions, 1);
        assert_eq!((seen(&memtable, 2), seen(&memtable, 3)), (Some(2), Some(3)));
        assert_eq!(seen(&memtable, 4), Some(4));
    });
}

#[test]
fn two_pruners_beside_a_writer_retire_each_version_once() {
    model(|| {
        let memtable = Arc::new(Memtable::new(1));
        write(&memtable, 1);
        let one = memtable.bytes();
        write(&memtable, 2);
        let version = memtable.bytes() - one;
        let prune = |memtable: &Memtable| {
            memtable.prune_range(ALL, &PruneView::newest_only(), &NoOperators, &pin()).versions
        };
        let pruner = {
            let memtable = Arc::clone(&memtable);
            thread::spawn(move || prune(&memtable))
        };
        write(&memtable, 3);
        let mine = prune(&memtable);
        let other = pruner.join().expect("no panic");
        let last = prune(&memtable);
        assert_eq!(mine + other + last, 2, "of three versions one stays");
        assert_eq!(memtable.bytes(), one);
        assert_eq!(memtable.retired_bytes(), 2 * version);
        assert_eq!(seen(&memtable, 3), Some(3));
        collect();
        assert_eq!(memtable.retired_bytes(), 0);
    });
}

#[test]
fn a_hidden_head_goes_beside_reader_and_writer() {
    model(|| {
        let memtable = Arc::new(Memtable::new(1));
        write(&memtable, 1);
        write(&memtable, 2);
        let mut delete = memtable.prepare(0);
        delete.add_range_delete(ALL);
        delete.install(at(3));
        let visible = Arc::new(AtomicU64::new(3));
        let writer = {
            let (memtable, visible) = (Arc::clone(&memtable), Arc::clone(&visible));
            thread::spawn(move || {
                write(&memtable, 4);
                visible.store(4, Ordering::Release);
            })
        };
        let reader = {
            let (memtable, visible) = (Arc::clone(&memtable), Arc::clone(&visible));
            thread::spawn(move || {
                // A snapshot that is needed, and the newest state.
                assert_eq!(seen(&memtable, 1), Some(1));
                let read = visible.load(Ordering::Acquire);
                assert_eq!(seen(&memtable, read), (read == 4).then_some(4));
            })
        };
        let view = PruneView::new(at(3), [at(1)]);
        let freed = memtable.prune_range(ALL, &view, &NoOperators, &pin());
        writer.join().expect("no panic");
        reader.join().expect("no panic");
        // Only 2 is seen by nobody. The first pruning gives up if a new head comes in between; a
        // second takes 2, or the tombstone that came in its place.
        let later = memtable.prune_range(ALL, &view, &NoOperators, &pin());
        assert!((1..=2).contains(&(freed.versions + later.versions)));
        assert_eq!((seen(&memtable, 1), seen(&memtable, 3)), (Some(1), None));
        assert_eq!(seen(&memtable, 4), Some(4));
    });
}

#[test]
fn racing_inserters_share_one_node_in_an_empty_leaf() {
    model(|| {
        let map = Arc::new(Map::new());
        let other = {
            let map = Arc::clone(&map);
            thread::spawn(move || map.insert(25))
        };
        let mine = map.insert(25);
        assert_eq!(other.join().expect("no panic"), mine);
        assert_eq!(map.keys(Direction::Forward), [25]);
    });
}

#[test]
fn range_deletes_are_seen_while_they_are_folded() {
    model(|| {
        let ranges = Arc::new(Ranges::new());
        for stamp in 1..=3 {
            ranges.link((Bound::Included(b"a"), Bound::Excluded(b"m")), at(stamp));
        }
        let writer = {
            let ranges = Arc::clone(&ranges);
            thread::spawn(move || ranges.link((Bound::Included(b"a"), Bound::Unbounded), at(4)))
        };
        let reader = {
            let ranges = Arc::clone(&ranges);
            thread::spawn(move || {
                assert_eq!(ranges.cover(b"b", at(1)), at(1));
                assert_eq!(ranges.cover(b"b", at(3)), at(3));
            })
        };
        ranges.fold(&PruneView::new(at(3), [at(1), at(2)]));
        writer.join().expect("no panic");
        reader.join().expect("no panic");
        let covers = [1, 2, 3, 4].map(|read| ranges.cover(b"b", at(read)).counter());
        assert_eq!(covers, [1, 2, 3, 4]);
        assert_eq!(ranges.cover(b"z", at(4)), at(4));
    });
}
