//! Writes a memtable that is frozen to a file: every version that somebody may need.
//!
//! 1. What is there is written: [`Memtable::prune_range`] with the view of the moment goes over the
//!    memtable first, and nobody links versions any more.
//! 2. Stamps are written as they are.
//! 3. An epoch is pinned for a stretch of keys at a time, so that a large memtable holds up nothing.

use std::io;
use std::ops::{Bound, ControlFlow};

use isolith_wal::Lsn;

use crate::Direction;
use crate::memtable::Memtable;
use crate::sstable::{FileSink, SstableWriter};
use crate::sync::pin;

/// Keys that are written under one pin.
const KEYS_PER_PIN: usize = 512;

/// Adds all that a memtable holds to a file.
pub fn flush<S: FileSink>(memtable: &Memtable, writer: &mut SstableWriter<S>) -> io::Result<()> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let guard = pin();
        let lower = from.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (mut keys, mut last, mut result) = (0, None, Ok(()));
        let range = (lower, Bound::Unbounded);
        memtable.scan(range, Direction::Forward, &guard, |node| {
            let mut above: Option<Lsn> = None;
            for version in node.versions() {
                // One commit may have written a key twice: what came later hides the other.
                if above == Some(version.stamp()) {
                    continue;
                }
                above = Some(version.stamp());
                let (kind, time) = (version.kind(), version.expires_at());
                result = writer.add(node.key(), version.stamp(), kind, time, version.value());
                if result.is_err() {
                    return ControlFlow::Break(());
                }
            }
            keys += 1;
            if keys < KEYS_PER_PIN {
                return ControlFlow::Continue(());
            }
            last = Some(node.key().to_vec());
            ControlFlow::Break(())
        });
        result?;
        match last {
            Some(key) => from = Some(key),
            None => break,
        }
    }
    let guard = pin();
    memtable.range_deletes.each(&guard, |start, end, stamp| {
        writer.add_range_delete(start, end, stamp);
    });
    Ok(())
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
