//! What of a key stays: versions come by in order, and those that somebody may need go to the outputs.
//!
//! ```text
//!                 needed, or built on
//!   version ──┬─► put, tombstone ────────────────────────────► emit
//!             ├─► merge above the horizon, not the newest ───► emit; what it builds on stays
//!             └─► any other merge ──► run ──► settle ────────► emit: a put, or fewer merges
//! ```
//!
//! 1. Nothing but a run of merges is held in memory, and above the horizon no long one: a key may have any
//!    number of versions.
//! 2. A run has one base: the range delete that covers its topmost merge covers all of it.
//! 3. A run becomes a put where its base is known, and no other reader needs that base as it is or it is
//!    not much larger than the run. Else merges that nobody reads by themselves are combined. An operator
//!    that fails leaves the run as it is.
//! 4. Where a long run stays because it is above the horizon, its newest merge becomes a put, and a read of
//!    the newest has a short way. The others stay under it, for those who read the past.

use std::borrow::Cow;
use std::io;
use std::ops::Range;

use isolith_wal::Lsn;

use super::{CompactError, Compacted, CompactionRules, Outputs, RangeSweep, behind};
use crate::memtable::Beneath;
use crate::merge::{self, Base, MergeFailure, MergedValue, Operand};
use crate::prune::{GROWTH, MERGE_OVERHEAD, RUN_MAX};
use crate::sstable::{FileValue, SstableWriter, ValueWriter};
use crate::version::Kind;

/// A run above the horizon that takes more memory than this is written as it comes.
const RUN_BYTES_MAX: usize = 16 << 20;

/// Decides on versions, and writes the outputs.
pub(crate) struct Keeper<'r, O: Outputs> {
    rules: &'r CompactionRules<'r>,
    ranges: RangeSweep,
    output: Output<'r, O>,
    /// The first fence that is not behind.
    fence: usize,
    /// The key that came last.
    key: Option<Vec<u8>>,
    /// The stamp of its version that came last.
    newer: Option<Lsn>,
    /// A merge was written that builds on what follows down to this stamp.
    builds_on: Option<Lsn>,
    run: Run,
    done: Compacted,
}

/// The file that is being written.
struct Output<'o, O: Outputs> {
    outputs: &'o mut O,
    writer: Option<SstableWriter<O::Sink>>,
    values: Option<ValueWriter<O::Sink>>,
    /// A value on its way to another value file.
    buffer: Vec<u8>,
}

/// Merges at or below the horizon, newest first, and their base. Empty: none is at hand.
#[derive(Default)]
struct Run {
    merges: Vec<Version>,
    /// A put or a tombstone.
    base: Option<Version>,
    bytes: Vec<u8>,
    /// The run ends above what is below this stamp.
    cover: Lsn,
    /// Whether a merge was written that builds on the topmost.
    under: bool,
}

/// A version of a run.
#[derive(Clone)]
struct Version {
    stamp: Lsn,
    kind: Kind,
    time: u64,
    value: Range<usize>,
    /// Whether somebody reads it by itself.
    needed: bool,
}

impl<'r, O: Outputs> Keeper<'r, O> {
    pub(crate) fn new(
        rules: &'r CompactionRules<'r>,
        ranges: RangeSweep,
        outputs: &'r mut O,
    ) -> Self {
        Self {
            rules,
            ranges,
            output: Output { outputs, writer: None, values: None, buffer: Vec::new() },
            fence: 0,
            key: None,
            newer: None,
            builds_on: None,
            run: Run::default(),
            done: Compacted::default(),
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.output.outputs.is_cancelled()
    }

    /// The next version: keys ascend, and stamps of one key descend.
    pub(crate) fn version(
        &mut self,
        key: &[u8],
        stamp: Lsn,
        kind: Kind,
        time: u64,
        value: FileValue<'_>,
    ) -> Result<(), CompactError> {
        if self.key.as_deref() != Some(key) {
            self.end_key()?;
            self.begin_key(key)?;
        }
        self.done.versions_in += 1;
        self.done.bytes_in += (key.len() + value.bytes_here()) as u64;
        let newer = self.newer.replace(stamp);
        // Within one commit, or in two files, what came first hides the other.
        if newer == Some(stamp) {
            return Ok(());
        }
        let view = self.rules.view;
        let needed =
            newer.is_none_or(|newer| view.keeps(stamp, newer)) && !self.ranges.hides(stamp, view);
        if !self.run.merges.is_empty() {
            if stamp >= self.run.cover {
                let bytes = read(value, key, &mut self.output.buffer)?;
                self.run.add(stamp, kind, time, bytes, needed);
                return match kind {
                    Kind::Merge { .. } => self.bound_run(),
                    Kind::Put | Kind::Delete => self.settle(Some(value)),
                };
            }
            self.settle(None)?;
        }
        let built_on = self.builds_on.is_some_and(|cover| stamp >= cover);
        self.builds_on = self.builds_on.filter(|_| built_on);
        if !needed && !built_on {
            return Ok(());
        }
        match kind {
            Kind::Merge { .. } if stamp <= view.horizon || newer.is_none() => {
                self.run.cover = self.ranges.cover(stamp);
                self.run.under = built_on;
                self.builds_on = None;
                let bytes = read(value, key, &mut self.output.buffer)?;
                self.run.add(stamp, kind, time, bytes, needed);
            }
            Kind::Merge { .. } => {
                self.builds_on = Some(self.ranges.cover(stamp));
                self.emit(stamp, kind, time, value, built_on)?;
            }
            Kind::Put | Kind::Delete => {
                self.builds_on = None;
                self.emit(stamp, kind, time, value, built_on)?;
            }
        }
        Ok(())
    }

    /// Writes a run that is above the horizon and has become too long.
    fn bound_run(&mut self) -> Result<(), CompactError> {
        let horizon = self.rules.view.horizon;
        let memory = self.run.bytes.len() + self.run.merges.len() * size_of::<Version>();
        if memory <= RUN_BYTES_MAX
            || self.run.merges.last().is_none_or(|last| last.stamp <= horizon)
        {
            return Ok(());
        }
        let run = std::mem::take(&mut self.run);
        let mut built_on = run.under;
        for merge in &run.merges {
            let value = FileValue::Here(run.value(merge));
            self.emit(merge.stamp, merge.kind, merge.time, value, built_on)?;
            built_on = true;
        }
        self.builds_on = Some(run.cover);
        self.run = run.emptied();
        Ok(())
    }

    fn begin_key(&mut self, key: &[u8]) -> Result<(), CompactError> {
        let fences = self.rules.fences;
        if fences.get(self.fence).is_some_and(|fence| *fence <= key) {
            while let Some(fence) = fences.get(self.fence).filter(|fence| **fence <= key) {
                self.cut(Some(fence))?;
                self.fence += 1;
            }
        } else if let Some(last) = &self.key
            && self.output.bytes() + self.ranges.output_bytes() >= self.rules.file_bytes
        {
            let end = behind(last);
            self.cut(Some(&end))?;
        }
        self.ranges.advance(key, self.rules);
        let last = self.key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        self.newer = None;
        self.builds_on = None;
        Ok(())
    }

    fn end_key(&mut self) -> Result<(), CompactError> {
        if self.run.merges.is_empty() { Ok(()) } else { self.settle(None) }
    }

    /// Ends the output at a key, excluded; none: there is no further one.
    fn cut(&mut self, end: Option<&[u8]>) -> Result<(), CompactError> {
        let mut range_deletes = self.ranges.cut(end, self.rules).peekable();
        if self.output.writer.is_none() && range_deletes.peek().is_none() {
            return Ok(());
        }
        let mut writer = self.output.take()?;
        for (start, end, stamp) in range_deletes {
            writer.add_range_delete(&start, end.as_deref(), stamp);
        }
        let (sink, properties) = writer.finish()?;
        self.output.outputs.finish(sink, properties)?;
        self.done.files += 1;
        Ok(())
    }

    /// Ends the last output.
    pub(crate) fn finish(mut self) -> Result<Compacted, CompactError> {
        self.end_key()?;
        for fence in self.rules.fences.iter().skip(self.fence) {
            self.cut(Some(fence))?;
        }
        self.cut(None)?;
        self.output.end_values()?;
        self.done.forgotten = self.done.forgotten.max(self.ranges.forgotten());
        Ok(self.done)
    }

    /// Writes a version. One on which a merge builds that was written stays what it is.
    fn emit(
        &mut self,
        stamp: Lsn,
        mut kind: Kind,
        mut time: u64,
        mut value: FileValue<'_>,
        built_on: bool,
    ) -> Result<(), CompactError> {
        let rules = self.rules;
        if kind == Kind::Put && time != 0 && time <= rules.expired_before && !built_on {
            value = FileValue::Here(&[]);
            if !rules.merges_above {
                (kind, time) = (Kind::Delete, 0);
            }
            self.done.expired += 1;
        }
        if kind == Kind::Delete && rules.is_bottom() && stamp <= rules.oldest() {
            self.done.forgotten = self.done.forgotten.max(stamp);
            return Ok(());
        }
        let key = self.key.as_deref().unwrap_or_default();
        self.done.versions_out += 1;
        match value {
            FileValue::Large(reference, _) if !rules.moves(reference) => {
                self.done.bytes_out += (key.len() + value.bytes_here()) as u64;
                self.output.writer()?.add_large(key, stamp, time, reference)?;
            }
            FileValue::Large(reference, _) => {
                let mut buffer = std::mem::take(&mut self.output.buffer);
                let moved = match value.read(key, &mut buffer) {
                    Ok(bytes) => {
                        self.done.bytes_moved += bytes.len() as u64;
                        self.done.bytes_out += (key.len() + bytes.len()) as u64;
                        self.output.add(key, (stamp, kind, time), bytes, rules)
                    }
                    // A reader is told. Nothing else is to wait for it.
                    Err(_) => {
                        self.output.outputs.cannot_move(reference.file);
                        self.done.bytes_out += (key.len() + value.bytes_here()) as u64;
                        self.output.writer()?.add_large(key, stamp, time, reference)
                    }
                };
                self.output.buffer = buffer;
                moved?;
            }
            FileValue::Here(bytes) => {
                self.done.bytes_out += (key.len() + bytes.len()) as u64;
                self.output.add(key, (stamp, kind, time), bytes, rules)?;
            }
        }
        Ok(())
    }

    /// Writes what is needed of the run, which ends here; with the value of its base as it came, if it has
    /// one.
    fn settle(&mut self, base_value: Option<FileValue<'_>>) -> Result<(), CompactError> {
        let run = std::mem::take(&mut self.run);
        let rules = self.rules;
        let base = run.base.as_ref();
        let put = base.filter(|base| base.kind == Kind::Put);
        let put = put.map(|put| Base { value: run.value(put), expires_at: put.time });
        let known = base.is_some() || run.cover > Lsn::ZERO || rules.is_bottom();
        let expires = if known {
            put.is_some_and(|put| put.expires_at != 0)
        } else {
            rules.beneath == Beneath::Expiring
        };
        let last_needed = run.merges.iter().rposition(|merge| merge.needed).unwrap_or(0);
        let base_needed = base.is_some_and(|base| base.needed);
        let mut built_on = run.under;
        let (mut at, mut fold_from) = (0, 0);
        while let Some((top, under)) = run.merges[at..].split_first() {
            let worth = if top.stamp > rules.view.horizon {
                at == 0 && run.is_long(at) && run.is_light(put, at)
            } else {
                let shared = base_needed || at < last_needed;
                !shared || run.is_long(at) || run.is_light(put, at)
            };
            if known && at >= fold_from && worth {
                match merge::fold(put, &run.operands(at..run.merges.len()), rules.operators) {
                    Ok(MergedValue { value, expires_at }) => {
                        let value = FileValue::Here(&value);
                        self.emit(top.stamp, Kind::Put, expires_at, value, built_on)?;
                        self.done.folded += 1;
                        built_on = false;
                        at += 1 + under.iter().take_while(|merge| !merge.needed).count();
                        continue;
                    }
                    // It would fail again.
                    Err(MergeFailure { operator, .. }) => {
                        let kind = Kind::Merge { operator };
                        let failing = run.merges.iter().rposition(|merge| merge.kind == kind);
                        fold_from = failing.map_or(run.merges.len(), |failing| failing + 1);
                    }
                }
            }
            let own = under.iter().take_while(|merge| !merge.needed && merge.kind == top.kind);
            let own = if expires { 0 } else { own.count() };
            let (combined, taken) = run.combine(at, own, rules);
            let combined = FileValue::Here(&combined);
            self.emit(top.stamp, top.kind, top.time, combined, built_on)?;
            built_on = true;
            at += 1 + taken;
        }
        if let Some(base) = base.filter(|base| base.needed || built_on) {
            let value = base_value.unwrap_or(FileValue::Here(run.value(base)));
            self.emit(base.stamp, base.kind, base.time, value, built_on)?;
        }
        self.run = run.emptied();
        Ok(())
    }
}

/// The bytes of a value, or which input they cannot be read through.
fn read<'v>(
    value: FileValue<'v>,
    key: &[u8],
    buffer: &'v mut Vec<u8>,
) -> Result<&'v [u8], CompactError> {
    let file = match value {
        FileValue::Here(bytes) => return Ok(bytes),
        FileValue::Large(_, file) => file.id(),
    };
    value.read(key, buffer).map_err(|error| CompactError::Input { file, error })
}

impl<O: Outputs> Output<'_, O> {
    /// Adds a version whose value is here; a large one goes to a value file.
    fn add(
        &mut self,
        key: &[u8],
        (stamp, kind, time): (Lsn, Kind, u64),
        value: &[u8],
        rules: &CompactionRules<'_>,
    ) -> io::Result<()> {
        if kind != Kind::Put || value.len() < rules.large_values {
            return self.writer()?.add(key, stamp, kind, time, value);
        }
        if self.values.as_ref().is_some_and(|values| values.bytes() >= rules.value_file_bytes) {
            self.end_values()?;
        }
        let values = match &mut self.values {
            Some(values) => values,
            none => none.insert(self.outputs.begin_values()?),
        };
        let reference = values.add(key, value)?;
        self.writer()?.add_large(key, stamp, time, reference)
    }

    fn end_values(&mut self) -> io::Result<()> {
        let Some(values) = self.values.take() else { return Ok(()) };
        let file = values.file();
        self.outputs.finish_values(file, values.finish()?)
    }

    fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, SstableWriter::bytes)
    }

    fn writer(&mut self) -> io::Result<&mut SstableWriter<O::Sink>> {
        match &mut self.writer {
            Some(writer) => Ok(writer),
            none => Ok(none.insert(self.outputs.begin()?)),
        }
    }

    fn take(&mut self) -> io::Result<SstableWriter<O::Sink>> {
        match self.writer.take() {
            Some(writer) => Ok(writer),
            None => self.outputs.begin(),
        }
    }
}

impl Run {
    fn add(&mut self, stamp: Lsn, kind: Kind, time: u64, value: &[u8], needed: bool) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value);
        let version = Version { stamp, kind, time, value: start..self.bytes.len(), needed };
        match kind {
            Kind::Merge { .. } => self.merges.push(version),
            Kind::Put | Kind::Delete => self.base = Some(version),
        }
    }

    fn emptied(mut self) -> Run {
        self.merges.clear();
        self.bytes.clear();
        Run { base: None, ..self }
    }

    fn value(&self, version: &Version) -> &[u8] {
        &self.bytes[version.value.clone()]
    }

    fn operand(&self, merge: &Version) -> Operand<'_> {
        let operator = match merge.kind {
            Kind::Merge { operator } => operator,
            Kind::Put | Kind::Delete => unreachable!("only merges are in a run"),
        };
        Operand { operator, bytes: self.value(merge), at_ms: merge.time }
    }

    /// Some of the merges, oldest first.
    fn operands(&self, which: Range<usize>) -> Vec<Operand<'_>> {
        self.merges[which].iter().rev().map(|merge| self.operand(merge)).collect()
    }

    /// Whether the merges from `at` on are so many that they are folded whatever the base weighs.
    fn is_long(&self, at: usize) -> bool {
        self.merges.len() - at >= RUN_MAX
    }

    /// Whether the base weighs little beside them.
    fn is_light(&self, put: Option<Base<'_>>, at: usize) -> bool {
        let weight = |bytes: &[u8]| bytes.len() + MERGE_OVERHEAD;
        let run: usize = self.merges[at..].iter().map(|merge| weight(self.value(merge))).sum();
        put.is_none_or(|put| weight(put.value) <= GROWTH * run)
    }

    /// The merge at `at` and those of the next `own` that can be combined with it; and how many they are.
    fn combine(
        &self,
        at: usize,
        own: usize,
        rules: &CompactionRules<'_>,
    ) -> (Cow<'_, [u8]>, usize) {
        let all = at..at + 1 + own;
        if let Ok(combined) = merge::combine_all(&self.operands(all), rules.operators) {
            return (combined, own);
        }
        let top = self.operand(&self.merges[at]);
        let mut combined = Cow::Borrowed(top.bytes);
        for (taken, merge) in self.merges[at + 1..][..own].iter().enumerate() {
            match rules.operators.combine(top.operator, self.value(merge), &combined) {
                Ok(both) => combined = Cow::Owned(both),
                Err(_) => return (combined, taken),
            }
        }
        (combined, own)
    }
}
