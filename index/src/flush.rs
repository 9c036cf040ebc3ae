//! Writes a memtable that is frozen to files: every version that somebody may need.
//!
//! 1. Nobody links versions any more. The range deletes are taken first, all of them; versions that a
//!    pruner takes out meanwhile are not needed.
//! 2. Stamps are written as they are.
//! 3. An epoch is pinned for a stretch of keys at a time, so that a large memtable holds up nothing.

use std::ops::{Bound, ControlFlow};

use crate::Direction;
use crate::compact::{CompactError, Compacted, CompactionRules, Keeper, Outputs, RangeSweep};
use crate::memtable::{Memtable, NodeRef};
use crate::sstable::{FileRangeDelete, FileValue};
use crate::sync::pin;

/// Keys that are written under one pin.
const KEYS_PER_PIN: usize = 512;

/// Writes what is needed of a memtable, by the rules of a compaction.
///
/// # Errors
/// [`CompactError`]: then none of what was written is to be used.
pub fn flush_memtable<O: Outputs>(
    memtable: &Memtable,
    rules: &CompactionRules<'_>,
    outputs: &mut O,
) -> Result<Compacted, CompactError> {
    let mut range_deletes: Vec<FileRangeDelete> = Vec::new();
    memtable.range_deletes.each(&pin(), |start, end, stamp| {
        range_deletes.push((start.into(), end.map(Into::into), stamp));
    });
    let ranges = RangeSweep::new(range_deletes, b"", None);
    let mut keeper = Keeper::new(rules, ranges, outputs);
    each_stretch(memtable, |node| {
        for version in node.versions() {
            let (kind, time) = (version.kind(), version.expires_at());
            let value = FileValue::Here(version.value());
            keeper.version(node.key(), version.stamp(), kind, time, value)?;
        }
        match keeper.is_cancelled() {
            true => Err(CompactError::Cancelled),
            false => Ok(()),
        }
    })?;
    keeper.finish()
}

/// Visits the nodes in order, some under each pin.
fn each_stretch<E>(
    memtable: &Memtable,
    mut visit: impl FnMut(NodeRef<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let guard = pin();
        let lower = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut keys, mut last, mut result) = (0, None, Ok(()));
        memtable.scan((lower, Bound::Unbounded), Direction::Forward, &guard, |node| {
            result = visit(node);
            keys += 1;
            if result.is_ok() && keys < KEYS_PER_PIN {
                return ControlFlow::Continue(());
            }
            last = Some(node.key().to_vec());
            ControlFlow::Break(())
        });
        result?;
        match last {
            Some(key) => from = Some(key),
            None => return Ok(()),
        }
    }
}
