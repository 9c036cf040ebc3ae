//! The range deletes of a compaction: what covers the key that it is at, and which of them stay.
//!
//! A sweep over their bounds, along with the keys. Of each stretch between two bounds it knows the stamps
//! that cover it. A range delete is to its keys what a tombstone would be, so the same rule says which
//! stamps stay; what stays is put together again across stretches, and cut where an output ends.
//!
//! 1. A stretch keeps every stamp above the horizon, and for each needed timestamp the largest at or below
//!    it. So it keeps its newest.
//! 2. At the bottom, stamps at or below the oldest needed timestamp go: all that they hide has gone.

use std::collections::BTreeMap;

use isolith_wal::Lsn;

use super::CompactionRules;
use crate::prune::PruneView;
use crate::sstable::FileRangeDelete;

/// Range deletes, and how far the sweep has come.
pub(crate) struct RangeSweep {
    /// By where they begin.
    deletes: Vec<FileRangeDelete>,
    /// Those that end before the last key of all, by where.
    by_end: Vec<usize>,
    /// How many of `deletes` have begun, and how many of `by_end` have ended.
    begun: usize,
    ended: usize,
    /// How many with a stamp cover the stretch.
    covering: BTreeMap<Lsn, usize>,
    /// The stamps that stay, and since where.
    kept: BTreeMap<Lsn, Box<[u8]>>,
    /// What the output is to have.
    output: Vec<FileRangeDelete>,
    output_bytes: u64,
    forgotten: Lsn,
}

impl RangeSweep {
    /// The sweep over what these cover from `from` to `to`.
    pub(crate) fn new(mut deletes: Vec<FileRangeDelete>, from: &[u8], to: Option<&[u8]>) -> Self {
        for (start, end, _) in &mut deletes {
            if **start < *from {
                *start = from.into();
            }
            if let Some(to) = to
                && end.as_deref().is_none_or(|end| to < end)
            {
                *end = Some(to.into());
            }
        }
        // A damaged file may have one that ends before it begins.
        deletes.retain(|(start, end, _)| end.as_ref().is_none_or(|end| start < end));
        deletes.sort_unstable();
        let mut by_end: Vec<usize> = (0..deletes.len()).collect();
        by_end.retain(|&number| deletes[number].1.is_some());
        by_end.sort_unstable_by(|&left, &right| deletes[left].1.cmp(&deletes[right].1));
        Self {
            deletes,
            by_end,
            begun: 0,
            ended: 0,
            covering: BTreeMap::new(),
            kept: BTreeMap::new(),
            output: Vec::new(),
            output_bytes: 0,
            forgotten: Lsn::ZERO,
        }
    }

    /// The largest stamp at or below `read` that covers the key that the sweep is at; ZERO: none.
    pub(crate) fn cover(&self, read: Lsn) -> Lsn {
        self.covering.range(..=read).next_back().map_or(Lsn::ZERO, |(stamp, _)| *stamp)
    }

    /// Whether a version stamped `stamp` of that key is hidden wherever it would be needed.
    pub(crate) fn hides(&self, stamp: Lsn, view: &PruneView) -> bool {
        !self.covering.is_empty()
            && stamp <= view.horizon
            && view.first_reader(stamp).is_some_and(|reader| self.cover(reader) > stamp)
    }

    /// The next bound.
    fn next(&self) -> Option<&[u8]> {
        let start = self.deletes.get(self.begun).map(|(start, ..)| &**start);
        let end = self.by_end.get(self.ended).and_then(|&ended| self.deletes[ended].1.as_deref());
        match (start, end) {
            (Some(start), Some(end)) => Some(start.min(end)),
            (start, end) => start.or(end),
        }
    }

    /// Goes to a key.
    #[inline]
    pub(crate) fn advance(&mut self, key: &[u8], rules: &CompactionRules<'_>) {
        while self.next().is_some_and(|bound| bound <= key) {
            self.step(rules);
        }
    }

    /// Goes past the next bound.
    fn step(&mut self, rules: &CompactionRules<'_>) {
        let Some(bound) = self.next().map(Box::<[u8]>::from) else { return };
        let mut changed = Vec::new();
        // What begins here comes first: of two that meet and have one stamp one is made.
        while let Some((start, _, stamp)) = self.deletes.get(self.begun)
            && *start == bound
        {
            *self.covering.entry(*stamp).or_default() += 1;
            changed.push(*stamp);
            self.begun += 1;
        }
        while let Some(&ended) = self.by_end.get(self.ended)
            && self.deletes[ended].1.as_ref() == Some(&bound)
        {
            let stamp = self.deletes[ended].2;
            if let Some(count) = self.covering.get_mut(&stamp) {
                *count -= 1;
                if *count == 0 {
                    self.covering.remove(&stamp);
                }
            }
            changed.push(stamp);
            self.ended += 1;
        }
        let horizon = rules.view.horizon;
        for stamp in changed.iter().filter(|stamp| **stamp > horizon) {
            self.keep(*stamp, self.covering.contains_key(stamp), &bound);
        }
        if changed.iter().any(|stamp| *stamp <= horizon) {
            self.choose(rules, &bound);
        }
    }

    /// Chooses among the stamps at or below the horizon, from `bound` on.
    fn choose(&mut self, rules: &CompactionRules<'_>, bound: &[u8]) {
        let needed = rules.view.needed.iter().filter(|needed| **needed <= rules.view.horizon);
        let mut chosen: Vec<Lsn> = needed.map(|needed| self.cover(*needed)).collect();
        chosen.dedup();
        let is_done = |stamp: Lsn| rules.is_bottom() && stamp <= rules.oldest();
        for stamp in chosen.iter().filter(|stamp| is_done(**stamp)) {
            self.forgotten = self.forgotten.max(*stamp);
        }
        chosen.retain(|stamp| *stamp > Lsn::ZERO && !is_done(*stamp));
        let kept: Vec<Lsn> =
            self.kept.range(..=rules.view.horizon).map(|(kept, _)| *kept).collect();
        for stamp in kept.into_iter().filter(|kept| chosen.binary_search(kept).is_err()) {
            self.keep(stamp, false, bound);
        }
        for stamp in chosen {
            self.keep(stamp, true, bound);
        }
    }

    /// Keeps a stamp from `bound` on, or no longer.
    fn keep(&mut self, stamp: Lsn, keep: bool, bound: &[u8]) {
        if keep {
            self.kept.entry(stamp).or_insert_with(|| bound.into());
        } else if let Some(start) = self.kept.remove(&stamp) {
            self.add((start, Some(bound.into()), stamp));
        }
    }

    fn add(&mut self, delete: FileRangeDelete) {
        let (start, end, _) = &delete;
        if end.as_ref().is_none_or(|end| start < end) {
            self.output_bytes +=
                16 + (start.len() + end.as_ref().map_or(0, |end| end.len())) as u64;
            self.output.push(delete);
        }
    }

    /// Bytes that the output's range deletes take so far, about.
    pub(crate) fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    /// The range deletes of an output that ends at `end`, excluded (none: there is no further one). The
    /// rest of what is cut goes to the next.
    pub(crate) fn cut(
        &mut self,
        end: Option<&[u8]>,
        rules: &CompactionRules<'_>,
    ) -> impl Iterator<Item = FileRangeDelete> {
        match end {
            Some(end) => self.advance(end, rules),
            None => {
                while self.next().is_some() {
                    self.step(rules);
                }
            }
        }
        let end: Option<Box<[u8]>> = end.map(Into::into);
        let mut kept = std::mem::take(&mut self.kept);
        for (stamp, start) in &mut kept {
            let next = end.clone().unwrap_or_default();
            let start = std::mem::replace(start, next);
            self.add((start, end.clone(), *stamp));
        }
        if end.is_some() {
            self.kept = kept;
        }
        self.output_bytes = 0;
        std::mem::take(&mut self.output).into_iter()
    }

    /// The largest stamp that went and left nothing newer.
    pub(crate) fn forgotten(&self) -> Lsn {
        self.forgotten
    }
}
