//! Many keys at once, and about how many keys a range has.
//!
//! 1. Keys that ascend come by a file's blocks in order: each is read and unpacked once for all of them.
//! 2. An estimate reads no data: it asks a file's index, and walks at most [`NODES_MAX`] nodes of a memtable.

use std::ops::{Bound, ControlFlow};

use isolith_wal::Lsn;

use super::View;
use super::files::{LevelSet, ReadError, overlapping};
use super::gather::Gathered;
use crate::memtable::{Found, Lookup, Memtable};
use crate::skiplist::Target;
use crate::sstable::Probe;
use crate::sync::Guard;
use crate::version::Kind;
use crate::{Direction, KeyRange};

/// Nodes of a memtable that are counted one by one; of more the number is estimated.
const NODES_MAX: u32 = 1024;

/// About how many keys there are, and how many bytes of keys and values.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Estimate {
    /// Keys.
    pub keys: f64,
    /// Bytes of keys and values as they were put.
    pub bytes: f64,
}

impl Estimate {
    fn add(&mut self, other: Estimate) {
        self.keys += other.keys;
        self.bytes += other.bytes;
    }
}

impl View {
    /// What each of `keys` is at `read`, told with the key's place among them. They ascend; of those that
    /// do not, the answer is as right, and costs more.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn lookup_many<'g, K: AsRef<[u8]>>(
        &'g self,
        keys: &[K],
        read: Lsn,
        guard: &'g Guard,
        mut visit: impl FnMut(usize, Lookup<'g>),
    ) -> Result<(), ReadError> {
        let mut probes = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            let key = key.as_ref();
            let lookup = self.active.lookup(key, read, guard);
            let decided = lookup.observed != Lsn::ZERO && !matches!(lookup.found, Found::Merged(_));
            if decided || self.alone {
                visit(number, lookup);
                continue;
            }
            let mut gathered = Gathered::default();
            gathered.memtable(lookup);
            for memtable in &self.frozen {
                if gathered.is_decided() {
                    break;
                }
                gathered.memtable(memtable.lookup(key, read, guard));
            }
            if !gathered.is_decided() {
                self.levels.gather_with(&mut probes, key, read, &mut gathered)?;
            }
            visit(number, gathered.finish());
        }
        Ok(())
    }

    /// About how many keys there are in a range, and how many bytes they and their values take. What is
    /// written more than once, in several layers, counts as often, until it is compacted; what range deletes
    /// hide counts, too.
    ///
    /// # Errors
    /// The file that cannot be read.
    pub fn estimate(&self, range: KeyRange<'_>, guard: &Guard) -> Result<Estimate, ReadError> {
        let mut estimate = self.levels.estimate(range)?;
        for memtable in self.memtables() {
            estimate.add(memtable.estimate(range, guard));
        }
        Ok(estimate)
    }
}

impl LevelSet {
    /// Adds what the files say of a key at `read`, with a probe for each run that outlasts the call.
    fn gather_with(
        &self,
        probes: &mut Vec<Option<Probe>>,
        key: &[u8],
        read: Lsn,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), ReadError> {
        probes.resize_with(self.runs(), || None);
        for (run, probe) in probes.iter_mut().enumerate() {
            let Some(file) = LevelSet::file_at(self.run(run), key) else { continue };
            let probe = match probe {
                Some(probe) => {
                    probe.aim(key);
                    probe
                }
                None => probe.insert(Probe::new(key)),
            };
            file.told(file.gather(probe, key, read, gathered))?;
            if gathered.is_decided() {
                break;
            }
        }
        Ok(())
    }

    fn estimate(&self, range: KeyRange<'_>) -> Result<Estimate, ReadError> {
        let mut estimate = Estimate::default();
        for run in 0..self.runs() {
            for file in overlapping(self.run(run), range) {
                estimate.add(file.told(file.table().estimate(range))?);
            }
        }
        Ok(estimate)
    }
}

impl Memtable {
    /// About how many keys with a value there are in a range: exact up to [`NODES_MAX`] keys.
    fn estimate(&self, range: KeyRange<'_>, guard: &Guard) -> Estimate {
        let (mut nodes, mut keys, mut bytes) = (0, 0u32, 0);
        self.scan(range, Direction::Forward, guard, |node| {
            nodes += 1;
            let newest = node.versions().next();
            if let Some(version) = newest.filter(|version| version.kind() != Kind::Delete) {
                keys += 1;
                bytes += node.key().len() + version.value().len();
            }
            if nodes == NODES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let mut estimate = Estimate { keys: f64::from(keys), bytes: bytes as f64 };
        if nodes == NODES_MAX {
            let at = |bound: Bound<&[u8]>, otherwise| match bound {
                Bound::Included(key) | Bound::Excluded(key) => {
                    self.map.fraction(Target::At(key), guard)
                }
                Bound::Unbounded => otherwise,
            };
            let all = (at(range.1, 1.0) - at(range.0, 0.0)) * self.nodes() as f64;
            let more = (all / f64::from(nodes)).max(1.0);
            estimate = Estimate { keys: estimate.keys * more, bytes: estimate.bytes * more };
        }
        estimate
    }
}
