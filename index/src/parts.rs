//! The crate's parts, each by itself, for the loom models: small enough that all their interleavings
//! can be tried. Not part of the library.
#![allow(missing_docs, reason = "only the models see it")]
#![expect(unsafe_code, reason = "frees the nodes that the hash table does not own")]

use std::ops::{Bound, ControlFlow};
use std::ptr::NonNull;

use isolith_wal::Lsn;

use crate::accounting::Accounting;
use crate::hash::Hasher;
use crate::node::{Node, NodePtr};
use crate::range_deletes::{RangeDelete, RangeDeletes};
use crate::sidecar::Sidecar;
use crate::skiplist::Skiplist;
use crate::sync::pin;
use crate::{Direction, KeyRange, PruneView};

/// The ordered map.
pub struct Map(Skiplist);

impl Map {
    pub fn new() -> Map {
        Map(Skiplist::new(Accounting::new()))
    }

    /// The address of the key's node, which is put in if it is not there.
    pub fn insert(&self, key: u8) -> usize {
        let guard = pin();
        self.0.insert(&[key], 7, &guard).as_non_null().addr().get()
    }

    pub fn keys(&self, direction: Direction) -> Vec<u8> {
        let guard = pin();
        let mut keys = Vec::new();
        self.0.scan((Bound::Unbounded, Bound::Unbounded), direction, &guard, |node| {
            keys.push(node.key()[0]);
            ControlFlow::Continue(())
        });
        keys
    }
}

impl Default for Map {
    fn default() -> Map {
        Map::new()
    }
}

/// The hash table, over nodes of its own.
pub struct Table {
    table: Sidecar,
    hasher: Hasher,
    nodes: Vec<NonNull<Node>>,
}

// SAFETY: nodes may be used from any thread.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    /// A table of the least size, and nodes for the keys 0 to `nodes`, not in it. The seed lays the
    /// keys out.
    pub fn new(nodes: u8, seed: u64) -> Table {
        Table {
            table: Sidecar::new(Accounting::new()),
            hasher: Hasher::new(seed),
            nodes: (0..nodes).map(|key| Node::create(&[key])).collect(),
        }
    }

    pub fn ensure(&self, key: u8) {
        let guard = pin();
        let node = self.nodes[usize::from(key)];
        self.table.ensure(self.hasher.hash(&[key]), node, &self.hasher, &guard);
    }

    pub fn has(&self, key: u8) -> bool {
        let guard = pin();
        let found = self.table.find(self.hasher.hash(&[key]), &[key], &guard);
        found.map(NodePtr::as_non_null).inspect(|&node| {
            assert_eq!(node, self.nodes[usize::from(key)]);
        });
        found.is_some()
    }

    pub fn slots(&self) -> usize {
        self.table.slots(&pin())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for &node in &self.nodes {
            // SAFETY: created by `new`, used by nobody any more; the table does not look at them.
            unsafe { Node::free(node) };
        }
    }
}

/// The range deletes.
pub struct Ranges(RangeDeletes);

impl Ranges {
    pub fn new() -> Ranges {
        Ranges(RangeDeletes::new(Accounting::new()))
    }

    pub fn link(&self, range: KeyRange<'_>, stamp: Lsn) {
        let guard = pin();
        self.0.link(RangeDelete::new(range).expect("an interval with keys"), stamp, &guard);
    }

    pub fn cover(&self, key: &[u8], read: Lsn) -> Lsn {
        self.0.cover(key, read, &pin()).stamp
    }

    pub fn fold(&self, view: &PruneView) {
        self.0.fold(view, &pin());
    }
}

impl Default for Ranges {
    fn default() -> Ranges {
        Ranges::new()
    }
}
