//! Joins a chain with the range deletes: what a reader sees of one key.
//!
//! 1. The newest version at or below the read timestamp decides, unless a range delete at or below
//!    the read timestamp covers the key with a larger stamp. At equal stamps the version wins: within
//!    one commit it was written after the range delete. If it is a merge, the older ones that it
//!    builds on are found later, by the same rule ([`Merged`]).
//! 2. First the chain, then the range deletes: whoever finds the tombstone that a pruner put in a
//!    hidden version's place finds the range delete that hid it, or a newer one over the key. So a
//!    reader from before that range delete is told that it skipped something newer.
#![expect(unsafe_code, reason = "walks chains under the caller's pin")]

use isolith_wal::Lsn;

use crate::memtable::{Found, Lookup, Memtable};
use crate::merge::Merged;
use crate::node::NodePtr;
use crate::sync::Guard;
use crate::version::{Kind, VersionRef};

/// What a reader at `read` sees of the node's key.
#[inline]
pub(crate) fn lookup<'g>(
    memtable: &'g Memtable,
    node: NodePtr<'g>,
    read: Lsn,
    guard: &'g Guard,
) -> Lookup<'g> {
    // SAFETY: pinned by `guard`, which outlives the result.
    let seen = unsafe { node.newest_at(read) };
    let cover = memtable.range_deletes.cover(node.key(), read, guard);
    let skipped_newer = seen.skipped_newer || cover.skipped_newer;
    let Some(version) = seen.version else {
        return Lookup { found: Found::Absent, observed: cover.stamp, skipped_newer };
    };
    // SAFETY: reached through its chain under `guard`; node and memtable last for 'g.
    let version = unsafe { VersionRef::new(version) };
    let stamp = version.stamp();
    let hidden = match isolith_wal::planted!("range-delete-hides-its-own-commit") {
        true => cover.stamp >= stamp,
        false => cover.stamp > stamp,
    };
    let found = match version.kind() {
        Kind::Put if !hidden => Found::Put(version),
        Kind::Merge { .. } if !hidden => Found::Merged(Merged::new(version, cover.stamp)),
        _ => Found::Absent,
    };
    Lookup { found, observed: stamp.max(cover.stamp), skipped_newer }
}

/// What a reader at `read` sees of a key that has no node.
#[inline]
pub(crate) fn nothing<'g>(
    memtable: &'g Memtable,
    key: &[u8],
    read: Lsn,
    guard: &'g Guard,
) -> Lookup<'g> {
    if memtable.range_deletes.is_empty(guard) {
        return Lookup::NOTHING;
    }
    let cover = memtable.range_deletes.cover(key, read, guard);
    Lookup { found: Found::Absent, observed: cover.stamp, skipped_newer: cover.skipped_newer }
}

/// The stamp of the node's newest version, range deletes apart; [`Lsn::ZERO`] if there is none.
#[inline]
pub(crate) fn newest_version(node: NodePtr<'_>, _: &Guard) -> Lsn {
    // SAFETY: pinned by the guard.
    unsafe { node.newest() }
}

/// All versions of the node, newest first.
pub(crate) fn versions<'g>(
    node: NodePtr<'g>,
    _: &'g Guard,
) -> impl Iterator<Item = VersionRef<'g>> {
    // SAFETY: the head is loaded under the guard, which outlives the iterator.
    let newest = node.newest_version().map(|version| unsafe { VersionRef::new(version) });
    std::iter::successors(newest, |version| version.older())
}
