//! Writes a memtable that is frozen to files: every version that somebody may need.
//!
//! 1. Nobody links versions any more. The range deletes are taken first, all of them; versions that a
//!    pruner takes out meanwhile are not needed.
//! 2. Stamps are written as they are.
//! 3. An epoch is pinned for a stretch of keys at a time, so that a large memtable holds up nothing.

use std::io;
use std::ops::{Bound, ControlFlow};

use isolith_wal::Lsn;

use crate::Direction;
use crate::compact::{CompactError, Compacted, CompactionRules, Keeper, Outputs, RangeSweep};
use crate::memtable::{Memtable, NodeRef};
use crate::sstable::{FileRangeDelete, FileSink, SstableWriter};
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
            keeper.version(node.key(), version.stamp(), kind, time, version.value())?;
        }
        match keeper.is_cancelled() {
            true => Err(CompactError::Cancelled),
            false => Ok(()),
        }
    })?;
    keeper.finish()
}

/// Adds all that a memtable holds to a file.
///
/// # Errors
/// If the file cannot be written.
pub fn flush<S: FileSink>(memtable: &Memtable, writer: &mut SstableWriter<S>) -> io::Result<()> {
    each_stretch(memtable, |node| {
        let mut above: Option<Lsn> = None;
        for version in node.versions() {
            let stamp = version.stamp();
            // One commit may have written a key twice: what came later hides the other.
            if above.replace(stamp) != Some(stamp) {
                let (kind, time) = (version.kind(), version.expires_at());
                writer.add(node.key(), stamp, kind, time, version.value())?;
            }
        }
        Ok::<_, io::Error>(())
    })?;
    memtable.range_deletes.each(&pin(), |start, end, stamp| {
        writer.add_range_delete(start, end, stamp);
    });
    Ok(())
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

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use isolith_wal::DatabaseId;

    use super::*;
    use crate::sstable::{FileId, FileRangeDelete, Sstable, SstableOptions};
    use crate::{Found, Kind, NoOperators, PruneView, Value};

    fn lsn(counter: u64) -> Lsn {
        Lsn::new(0, counter)
    }

    #[test]
    fn a_file_answers_as_the_memtable_did() {
        let memtable = Arc::new(Memtable::new(1));
        for commit in 1..=3_000u64 {
            let mut write = memtable.prepare(2);
            let key = format!("key{:04}", commit * 7919 % 1_000);
            match commit % 5 {
                0 => write.add(key.as_bytes(), Kind::Delete, Value::empty(), 0),
                _ => write.add(key.as_bytes(), Kind::Put, Value::new(key.as_bytes()), commit % 3),
            }
            if commit % 500 == 0 {
                let start = format!("key{:04}", commit / 10);
                let range = (Bound::Included(start.as_bytes()), Bound::Excluded(&b"key0400"[..]));
                write.add_range_delete(range);
            }
            write.install(lsn(commit));
        }
        let everything = PruneView::new(Lsn::ZERO, []);
        memtable.prune_range(
            (Bound::Unbounded, Bound::Unbounded),
            &everything,
            &NoOperators,
            &pin(),
        );
        let options = SstableOptions::default();
        let writer = SstableWriter::new(Vec::new(), DatabaseId(1), FileId(1), options);
        let mut writer = writer.expect("memory");
        flush(&memtable, &mut writer).expect("memory");
        let (bytes, _) = writer.finish().expect("memory");
        let file = Sstable::open(Box::new(bytes), DatabaseId(1), FileId(1)).expect("sound");
        assert_eq!(file.verify().expect("sound"), 3_000);
        let guard = pin();
        for number in 0..1_000 {
            let key = format!("key{number:04}");
            for read in [1, 499, 500, 1_200, 2_999, 3_000].map(lsn) {
                let covers = |(start, end, _): &&FileRangeDelete| {
                    **start <= *key.as_bytes()
                        && end.as_ref().is_none_or(|end| key.as_bytes() < &**end)
                };
                let cover = file.range_deletes().iter().filter(covers).map(|(.., stamp)| *stamp);
                let cover = cover.filter(|stamp| *stamp <= read).max().unwrap_or(Lsn::ZERO);
                let found = file.get(key.as_bytes(), read).expect("sound");
                let found = found.filter(|found| found.kind == Kind::Put && found.stamp >= cover);
                let expected = match memtable.lookup(key.as_bytes(), read, &guard).found {
                    Found::Put(version) => Some((version.stamp(), version.value().to_vec())),
                    _ => None,
                };
                assert_eq!(
                    found.map(|found| (found.stamp, found.value)),
                    expected,
                    "{key} {read:?}"
                );
            }
        }
    }
}
