//! The ordered map alone: order, bounds, splits, accounting, and scans beside inserts.

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize as Counter, Ordering::SeqCst};

use super::*;
use crate::hash::Hasher;
use crate::scan::contains;
use crate::sync::pin;
use crate::testing::{Random, assert_same};
use crate::{Direction, KeyRange};

fn insert(map: &Skiplist, key: &[u8]) {
    let guard = pin();
    map.insert(key, Hasher::new(1).hash(key) as u16, &guard);
}

fn keys(map: &Skiplist, range: KeyRange<'_>, direction: Direction) -> Vec<Vec<u8>> {
    let guard = pin();
    let mut keys = Vec::new();
    map.scan(range, direction, &guard, |node| {
        keys.push(node.key().to_vec());
        ControlFlow::Continue(())
    });
    keys
}

const ALL: KeyRange<'static> = (Bound::Unbounded, Bound::Unbounded);

/// Walks the whole structure and checks every rule that can be seen at rest; returns its bytes.
fn check(map: &Skiplist) -> usize {
    let _guard = pin();
    let mut bytes = LEVELS * size_of::<Cell>();
    let mut below: Option<Vec<NonNull<Cell>>> = None;
    for level in 0..LEVELS {
        let mut cells = Vec::new();
        let mut children = Vec::new();
        let mut at = Some(map.head(level));
        while let Some(cell) = at {
            cells.push(cell.as_non_null());
            // SAFETY: pinned by `_guard`.
            let page = unsafe { cell.page() };
            bytes += page.footprint() + if cells.len() > 1 { size_of::<Cell>() } else { 0 };
            let low = cell.low().map(NodePtr::key);
            let high = page.right().and_then(CellPtr::low).map(NodePtr::key);
            assert!(high.is_none_or(|high| low.is_none_or(|low| low < high)));
            assert!(page.shorts().is_sorted() || level > 0);
            if level == 0 {
                let sorted: Vec<&[u8]> = (0..page.count()).map(|at| page.node(at).key()).collect();
                assert!(sorted.is_sorted_by(|a, b| a < b), "a leaf ascends strictly");
                for key in sorted.into_iter().chain(page.logged().map(NodePtr::key)) {
                    assert!(low.is_none_or(|low| low <= key), "no key is below its leaf's bound");
                    assert!(high.is_none_or(|high| key < high), "no key is above its leaf's bound");
                }
                bytes += page.logged().map(|n| Node::footprint(n.key().len())).sum::<usize>();
                bytes += (0..page.count())
                    .map(|at| Node::footprint(page.node(at).key().len()))
                    .sum::<usize>();
            } else {
                children.extend((0..page.count()).map(|at| page.child(at).as_non_null()));
            }
            at = page.right();
        }
        if let Some(below) = below {
            assert_eq!(children, below, "level {level} has an entry for each cell below");
        }
        below = Some(cells);
    }
    bytes
}

fn scenarios() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let mut random = Random::from_environment("skiplist scenarios");
    let decimal = |n: u64| format!("user:{n:016}").into_bytes();
    vec![
        ("ascending", (0..5000).map(decimal).collect()),
        ("descending", (0..5000).rev().map(decimal).collect()),
        ("zigzag", (0..5000).map(|n| decimal(if n % 2 == 0 { n } else { 90_000 - n })).collect()),
        ("random words", (0..5000).map(|_| random.next().to_be_bytes().to_vec()).collect()),
        ("random decimals", (0..5000).map(|_| decimal(random.next() % 100_000)).collect()),
        (
            "nested prefixes",
            (0..3000)
                .map(|_| {
                    let len = random.below(600);
                    let mut key = vec![b'x'; len];
                    key.extend((0..random.below(4)).map(|_| random.below(3) as u8));
                    key
                })
                .collect(),
        ),
        ("long common start", {
            let start = "p".repeat(300);
            (0..3000).map(|_| format!("{start}{:06}", random.below(4000)).into_bytes()).collect()
        }),
    ]
}

#[test]
fn map_agrees_with_a_sorted_set() {
    for (name, inserted) in scenarios() {
        let accounting = Accounting::new();
        let map = Skiplist::new(Arc::clone(&accounting));
        let mut set = BTreeSet::new();
        for key in &inserted {
            insert(&map, key);
            set.insert(key.clone());
        }
        assert_eq!(accounting.nodes(), set.len(), "{name}");
        assert_eq!(accounting.bytes(), check(&map), "{name}");
        let sorted: Vec<Vec<u8>> = set.iter().cloned().collect();
        assert_same(&keys(&map, ALL, Direction::Forward), &sorted, name);
        let reversed: Vec<Vec<u8>> = sorted.iter().rev().cloned().collect();
        assert_same(&keys(&map, ALL, Direction::Reverse), &reversed, name);
        assert_eq!(accounting.nodes(), set.len(), "{name}");
        assert_eq!(accounting.bytes(), check(&map), "{name}");
    }
}

#[test]
fn every_kind_of_bound_cuts_where_it_should() {
    let mut random = Random::from_environment("skiplist bounds");
    for (name, inserted) in scenarios() {
        let map = Skiplist::new(Accounting::new());
        let mut set = BTreeSet::new();
        for key in inserted.iter().take(700) {
            insert(&map, key);
            set.insert(key.clone());
        }
        for _ in 0..300 {
            let mut pick = || {
                let mut key = inserted[random.below(1000)].clone();
                match random.below(4) {
                    0 => key.push(0),
                    1 => drop(key.pop()),
                    _ => {}
                }
                match random.below(5) {
                    0 => Bound::Unbounded,
                    1 | 2 => Bound::Included(key),
                    _ => Bound::Excluded(key),
                }
            };
            let (start, end) = (pick(), pick());
            let range =
                (start.as_ref().map(|key| key.as_slice()), end.as_ref().map(|key| key.as_slice()));
            let mut expected: Vec<Vec<u8>> =
                set.iter().filter(|key| contains(range, key)).cloned().collect();
            let what = format!("{name}: {range:?}");
            assert_same(&keys(&map, range, Direction::Forward), &expected, &what);
            expected.reverse();
            assert_same(&keys(&map, range, Direction::Reverse), &expected, &what);
        }
    }
}

#[test]
fn ascending_keys_fill_their_leaves() {
    let accounting = Accounting::new();
    let map = Skiplist::new(Arc::clone(&accounting));
    for n in 0..10_000u32 {
        insert(&map, &n.to_be_bytes());
    }
    let nodes = 10_000 * Node::footprint(4);
    let per_key = (accounting.bytes() - nodes) / 10_000;
    assert!(per_key <= 20, "{per_key} bytes of pages a key");
}

#[test]
fn scan_stops_when_told() {
    let map = Skiplist::new(Accounting::new());
    for n in 0..500u32 {
        insert(&map, &n.to_be_bytes());
    }
    for direction in [Direction::Forward, Direction::Reverse] {
        let guard = pin();
        let mut seen = 0;
        map.scan(ALL, direction, &guard, |_| {
            seen += 1;
            if seen == 123 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(seen, 123);
    }
}

#[test]
fn racing_inserters_agree_on_one_node_for_each_key() {
    for round in 0..20u64 {
        let map = Skiplist::new(Accounting::new());
        let barrier = Barrier::new(4);
        let nodes: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u64)
                .map(|thread| {
                    let (map, barrier) = (&map, &barrier);
                    scope.spawn(move || {
                        let hasher = Hasher::new(round);
                        barrier.wait();
                        let mut nodes = vec![0; 2000];
                        for step in 0..2000u64 {
                            // The same keys, each thread in an order of its own.
                            let n = (step * [1, 3, 7, 11][thread as usize]) % 2000;
                            let key = (n * 0x9e37_79b9).to_le_bytes();
                            let guard = pin();
                            let node = map.insert(&key, hasher.hash(&key) as u16, &guard);
                            assert_eq!(node.key(), key);
                            nodes[n as usize] = node.as_non_null().addr().get();
                        }
                        nodes
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no inserter panics")).collect()
        });
        assert!(nodes.iter().all(|other| *other == nodes[0]));
        assert_eq!(keys(&map, ALL, Direction::Forward).len(), 2000);
        check(&map);
    }
}

#[test]
fn scans_beside_inserters_miss_nothing_that_was_there() {
    // Inserters publish how far they are; a scanner reads that first, then scans: everything up to
    // there must be in the scan, once, in order.
    const EACH: usize = 20_000;
    let mut random = Random::from_environment("scans beside inserters");
    let salt = random.next() | 1;
    let key = |thread: usize, n: usize| {
        (((thread * EACH + n) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt).to_be_bytes()
    };
    let map = Skiplist::new(Accounting::new());
    let progress = [Counter::new(0), Counter::new(0)];
    std::thread::scope(|scope| {
        for (thread, progress) in progress.iter().enumerate() {
            let map = &map;
            scope.spawn(move || {
                for n in 0..EACH {
                    insert(map, &key(thread, n));
                    progress.store(n + 1, SeqCst);
                }
            });
        }
        for direction in [Direction::Forward, Direction::Reverse] {
            let (map, progress) = (&map, &progress);
            scope.spawn(move || {
                loop {
                    let before = [0, 1].map(|thread: usize| progress[thread].load(SeqCst));
                    let mut seen = keys(map, ALL, direction);
                    if direction == Direction::Reverse {
                        seen.reverse();
                    }
                    assert!(seen.is_sorted_by(|a, b| a < b), "in order, nothing twice");
                    for (thread, &count) in before.iter().enumerate() {
                        for n in 0..count {
                            assert!(
                                seen.binary_search_by(|k| k.as_slice().cmp(&key(thread, n)))
                                    .is_ok(),
                                "key {n} of thread {thread} was there before the scan"
                            );
                        }
                    }
                    if before == [EACH; 2] {
                        break;
                    }
                }
            });
        }
    });
    check(&map);
}
