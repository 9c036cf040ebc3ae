//! The hash table alone: growth, races, and that a miss is an answer.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize as Counter, Ordering::SeqCst};

use super::*;
use crate::sync::pin;

/// Nodes that the test owns, freed at its end.
struct Nodes(Vec<NonNull<Node>>);

// SAFETY: nodes may be read by any thread.
unsafe impl Sync for Nodes {}

impl Nodes {
    fn new(count: usize) -> Nodes {
        Nodes((0..count).map(|n| Node::create(&n.to_le_bytes())).collect())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for &node in &self.0 {
            // SAFETY: created by `new`, used by nobody any more.
            unsafe { Node::free(node) };
        }
    }
}

fn find(table: &Sidecar, hasher: &Hasher, n: usize) -> Option<NonNull<Node>> {
    let key = n.to_le_bytes();
    let guard = pin();
    table.find(hasher.hash(&key), &key, &guard).map(NodePtr::as_non_null)
}

fn ensure(table: &Sidecar, hasher: &Hasher, nodes: &Nodes, n: usize) {
    table.ensure(hasher.hash(&n.to_le_bytes()), nodes.0[n], hasher, &pin());
}

#[test]
fn every_node_is_found_while_the_table_grows() {
    let nodes = Nodes::new(20_000);
    let hasher = Hasher::new(9);
    let accounting = Accounting::new();
    let table = Sidecar::new(Arc::clone(&accounting));
    for n in 0..nodes.0.len() {
        assert_eq!(find(&table, &hasher, n), None);
        ensure(&table, &hasher, &nodes, n);
        ensure(&table, &hasher, &nodes, n);
        assert_eq!(find(&table, &hasher, n), Some(nodes.0[n]));
        if n % 97 == 0 {
            assert!((0..=n).all(|n| find(&table, &hasher, n) == Some(nodes.0[n])));
        }
    }
    let guard = pin();
    let current = table.current(&guard);
    let previous = Sidecar::previous(current, &guard).map_or(0, Table::footprint);
    assert_eq!(accounting.bytes(), current.footprint() + previous);
    assert!(current.slots.len() <= 4 * nodes.0.len());
}

#[test]
fn colliding_hashes_share_a_run() {
    // Every key the same place and the same tag: only the keys themselves tell them apart.
    let nodes = Nodes::new(40);
    let hasher = Hasher::new(9);
    let table = Sidecar::new(Accounting::new());
    let guard = pin();
    for n in 0..40 {
        table.ensure(u64::MAX, nodes.0[n], &hasher, &guard);
    }
    for n in 0..40usize {
        let found = table.find(u64::MAX, &n.to_le_bytes(), &guard).map(NodePtr::as_non_null);
        assert_eq!(found, Some(nodes.0[n]));
    }
    assert!(table.find(u64::MAX, b"absent", &guard).is_none());
}

#[test]
fn a_miss_is_an_answer_while_the_table_grows() {
    const EACH: usize = 15_000;
    let nodes = Nodes::new(3 * EACH);
    let hasher = Hasher::new(5);
    for _ in 0..5 {
        let table = Sidecar::new(Accounting::new());
        let progress = [const { Counter::new(0) }; 3];
        std::thread::scope(|scope| {
            for (thread, progress) in progress.iter().enumerate() {
                let (table, hasher, nodes) = (&table, &hasher, &nodes);
                scope.spawn(move || {
                    for step in 0..EACH {
                        ensure(table, hasher, nodes, thread * EACH + step);
                        progress.store(step + 1, SeqCst);
                    }
                });
            }
            let (table, hasher, nodes, progress) = (&table, &hasher, &nodes, &progress);
            scope.spawn(move || {
                let mut turn = 0usize;
                loop {
                    let mut whole = true;
                    for (thread, progress) in progress.iter().enumerate() {
                        let count = progress.load(SeqCst);
                        whole &= count == EACH;
                        // The latest ones, and some from all over.
                        for back in 1..=count.min(8) {
                            let n = thread * EACH + count - back;
                            assert_eq!(find(table, hasher, n), Some(nodes.0[n]));
                            let n = thread * EACH + (turn * 7919 + back * 104_729) % count;
                            assert_eq!(find(table, hasher, n), Some(nodes.0[n]));
                        }
                    }
                    turn += 1;
                    if whole {
                        break;
                    }
                }
            });
        });
        assert!((0..3 * EACH).all(|n| find(&table, &hasher, n) == Some(nodes.0[n])));
    }
}

#[test]
fn racing_inserters_leave_one_entry() {
    let nodes = Nodes::new(3000);
    let hasher = Hasher::new(2);
    for _ in 0..10 {
        let table = Sidecar::new(Accounting::new());
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (table, hasher, nodes, barrier) = (&table, &hasher, &nodes, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for step in 0..3000 {
                        ensure(table, hasher, nodes, (step * [1, 7, 11, 13][thread]) % 3000);
                    }
                });
            }
        });
        let guard = pin();
        let table_now = table.current(&guard);
        if Sidecar::previous(table_now, &guard).is_none() {
            // Relaxed would do: the threads are joined.
            let entries = table_now.slots.iter().filter(|slot| slot.load(SeqCst) > FROZEN).count();
            assert_eq!(entries, 3000);
        }
        assert!((0..3000).all(|n| find(&table, &hasher, n) == Some(nodes.0[n])));
    }
}
