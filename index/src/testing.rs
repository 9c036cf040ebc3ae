//! What the crate's tests share: seeded numbers that can be replayed, merge operators, files of memtables.

use std::io;
use std::ops::{Bound, ControlFlow};

use isolith_wal::Lsn;

use crate::Direction;
use crate::memtable::Memtable;
use crate::merge::{MergeError, MergeOperators};
use crate::sstable::{FileSink, SstableWriter, ValueWriter};
use crate::sync::pin;
use crate::version::Kind;

/// A small generator (SplitMix64): the same seed gives the same run.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by `ISOLITH_SEED` or else by the system; prints the seed, which the test harness shows
    /// when the test fails.
    pub(crate) fn from_environment(what: &str) -> Random {
        let seed = match std::env::var("ISOLITH_SEED") {
            Ok(seed) => seed.parse().expect("ISOLITH_SEED is a number"),
            Err(_) => isolith_wal::random_seed(),
        };
        println!("{what}: ISOLITH_SEED={seed}");
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Asserts that two sequences are the same; says where they part, not all that is in them.
#[track_caller]
pub(crate) fn assert_same<T: PartialEq + std::fmt::Debug>(seen: &[T], expected: &[T], what: &str) {
    let differs = seen.iter().zip(expected).position(|(a, b)| a != b);
    let at = differs.unwrap_or(seen.len().min(expected.len()));
    assert!(
        differs.is_none() && seen.len() == expected.len(),
        "{what}: {} seen, {} expected; at {at}: {:?} seen, {:?} expected",
        seen.len(),
        expected.len(),
        seen.get(at),
        expected.get(at)
    );
}

/// Operator 0 appends, operator 1 appends in brackets and cannot combine, operator 2 never can.
pub(crate) struct Letters;

impl MergeOperators for Letters {
    fn merge(
        &self,
        operator: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        match operator {
            0 => Ok([existing.unwrap_or(b"-"), operand].concat()),
            1 => Ok([b"(", existing.unwrap_or(b"-"), operand, b")"].concat()),
            _ => Err(MergeError::new("never")),
        }
    }

    fn combine(&self, operator: u16, a: &[u8], b: &[u8]) -> Result<Vec<u8>, MergeError> {
        if operator == 0 { Ok([a, b].concat()) } else { Err(MergeError::new("never")) }
    }
}

/// Adds all that a memtable holds to a file, whoever needs it; values of four bytes and more to `large`, if
/// there is one.
pub(crate) fn write_all<S: FileSink>(
    memtable: &Memtable,
    writer: &mut SstableWriter<S>,
    mut large: Option<&mut ValueWriter<S>>,
) -> io::Result<()> {
    let (guard, mut result) = (pin(), Ok(()));
    let all = (Bound::Unbounded, Bound::Unbounded);
    memtable.scan(all, Direction::Forward, &guard, |node| {
        let mut above: Option<Lsn> = None;
        for version in node.versions() {
            let stamp = version.stamp();
            // One commit may have written a key twice: what came later hides the other.
            if above.replace(stamp) != Some(stamp) {
                let (kind, time) = (version.kind(), version.expires_at());
                let (key, value) = (node.key(), version.value());
                result = match &mut large {
                    Some(large) if kind == Kind::Put && value.len() >= 4 => large
                        .add(key, value)
                        .and_then(|reference| writer.add_large(key, stamp, time, reference)),
                    _ => writer.add(key, stamp, kind, time, value),
                };
                if result.is_err() {
                    return ControlFlow::Break(());
                }
            }
        }
        ControlFlow::Continue(())
    });
    result?;
    memtable.range_deletes.each(&guard, |start, end, stamp| {
        writer.add_range_delete(start, end, stamp);
    });
    Ok(())
}

/// Where the filter lies in a file, its frame included (`docs/format.md`).
pub(crate) fn filter_of(file: &[u8]) -> std::ops::Range<usize> {
    let footer = &file[file.len() - 96..];
    let number = |at: usize| footer[at..at + 8].try_into().map_or(0, u64::from_le_bytes) as usize;
    number(0)..number(0) + number(8)
}
