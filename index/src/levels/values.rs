//! When large values are worth a compaction: to make the old ones garbage, and to give garbage back.
//!
//! A value is garbage once no live file refers to it. A newer version that lies in a level above makes it none
//! yet: only a compaction that meets both does. So there are two bounds, which together bound the space that is
//! taken at rest: what may lie above the lowest level, and what may be garbage.
//!
//! 1. A plan for garbage rewrites files where they are: all that they say stays on its level.
//! 2. Each such plan takes live bytes from a value file that it empties, and adds none there: they come to an
//!    end.

use std::collections::BTreeMap;

use super::{CompactionOptions, LEVELS, LevelFile, Levels, Plan, Reason, is_busy};
use crate::sstable::VALUE_FILE_OVERHEAD;

/// Values that one plan moves, about, at most.
const MOVED_BYTES_MAX: u64 = 256 << 20;

/// What a file refers to of one value file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValueShare {
    /// The value file's number.
    pub file: u64,
    /// Values.
    pub values: u64,
    /// Bytes that they take there.
    pub bytes: u64,
    /// The value file's length.
    pub of_bytes: u64,
}

/// What live files refer to of one value file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ValueUsage {
    /// The value file's length.
    pub bytes: u64,
    /// Values that are live.
    pub values: u64,
    /// Bytes that these take.
    pub live: u64,
}

impl ValueUsage {
    /// Bytes of values that nobody refers to.
    pub fn garbage(&self) -> u64 {
        self.stored().saturating_sub(self.live)
    }

    /// Bytes of all values, header and footer left out.
    fn stored(&self) -> u64 {
        self.bytes.saturating_sub(VALUE_FILE_OVERHEAD)
    }

    /// Hundredths of it, in millionths of the whole: a number that orders as the share does.
    fn share(&self) -> u128 {
        u128::from(self.garbage()) * 1_000_000 / u128::from(self.stored().max(1))
    }
}

/// What is live of each value file, by its number.
pub fn value_usage<'f>(
    files: impl IntoIterator<Item = &'f LevelFile>,
) -> BTreeMap<u64, ValueUsage> {
    let mut usage: BTreeMap<u64, ValueUsage> = BTreeMap::new();
    for share in files.into_iter().flat_map(|file| &file.values) {
        let known = usage.entry(share.file).or_default();
        known.bytes = share.of_bytes;
        known.values += share.values;
        known.live += share.bytes;
    }
    usage
}

/// The same of those that values can be moved out of.
fn movable<F: AsRef<LevelFile>>(levels: &Levels<F>, busy: &[u64]) -> BTreeMap<u64, ValueUsage> {
    let mut usage = value_usage(levels.levels.iter().flatten().map(AsRef::as_ref));
    usage.retain(|file, _| !busy.contains(file));
    usage
}

/// Bytes of values that a file refers to.
fn value_bytes(file: &LevelFile) -> u64 {
    file.values.iter().map(|share| share.bytes).sum()
}

/// The compaction that brings values down which may have made others garbage.
pub(super) fn brought_down<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    busy: &[u64],
) -> Option<Plan> {
    let lowest = (1..LEVELS).rev().find(|level| !levels.levels[*level].is_empty());
    let above = &levels.levels[..lowest.unwrap_or(1)];
    let bytes_above: u64 = above.iter().flatten().map(|file| value_bytes(file.as_ref())).sum();
    let below = lowest.map_or(&[][..], |lowest| &levels.levels[lowest]);
    let below = below.iter().map(|file| file.as_ref().bytes + value_bytes(file.as_ref()));
    let below: u64 = below.sum();
    let many = u128::from(bytes_above) * 100
        > u128::from(below) * u128::from(options.values_above_percent);
    if bytes_above == 0 || !many {
        return None;
    }
    let from =
        above.iter().position(|files| files.iter().any(|file| value_bytes(file.as_ref()) > 0))?;
    if from == 0 {
        return level0_plan(levels, options, Reason::Values, busy);
    }
    let files = levels.levels[from].iter().map(AsRef::as_ref);
    let plans =
        files.map(|file| (value_bytes(file), levels.plan(Reason::Values, from, from + 1, &[file])));
    let free = plans.filter(|(bytes, plan)| *bytes > 0 && !is_busy(plan, busy));
    free.max_by_key(|(bytes, _)| *bytes).map(|(_, plan)| plan)
}

/// Level 0 goes to the base level.
fn level0_plan<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    reason: Reason,
    busy: &[u64],
) -> Option<Plan> {
    let flushed: Vec<_> = levels.levels[0].iter().map(AsRef::as_ref).collect();
    let (_, base) = levels.targets(options);
    Some(levels.plan(reason, 0, base, &flushed)).filter(|plan| !is_busy(plan, busy))
}

/// The value files that are mostly garbage: what a compaction meets of them it moves.
pub(super) fn mostly_garbage<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    busy: &[u64],
) -> Vec<u64> {
    let percent = u128::from(options.garbage_passing_percent);
    let usage = movable(levels, busy).into_iter();
    usage.filter(|(_, usage)| usage.share() >= percent * 10_000).map(|(file, _)| file).collect()
}

/// The compaction that moves values out of the files with the most garbage, if all files together have much.
pub(super) fn reclaimed<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    busy: &[u64],
) -> Option<Plan> {
    let usage = movable(levels, busy);
    let all: u64 = usage.values().map(ValueUsage::stored).sum();
    let mut garbage: u64 = usage.values().map(ValueUsage::garbage).sum();
    let bound = u128::from(all) * u128::from(options.garbage_percent);
    if u128::from(garbage) * 100 <= bound {
        return None;
    }
    let mut worst: Vec<_> = usage.into_iter().filter(|(_, usage)| usage.garbage() > 0).collect();
    worst.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.share()));
    let plan = worst.iter().find_map(|(file, _)| rewrite(levels, options, *file, busy))?;
    // As many as it takes to have room again: a file is better rewritten once for many of them.
    let inputs = levels.levels.iter().flatten().map(AsRef::as_ref);
    let inputs: Vec<_> = inputs
        .filter(|file| plan.upper.contains(&file.id) || plan.lower.contains(&file.id))
        .collect();
    let met = |file: u64| -> u64 {
        let shares = inputs.iter().flat_map(|input| &input.values);
        shares.filter(|share| share.file == file).map(|share| share.bytes).sum()
    };
    let (mut moved, mut moved_bytes) = (Vec::new(), 0);
    for (file, usage) in worst {
        let bytes = met(file);
        if bytes == 0 {
            continue;
        }
        let enough = u128::from(garbage) * 200 <= bound || moved_bytes + bytes > MOVED_BYTES_MAX;
        if enough && !moved.is_empty() {
            break;
        }
        moved.push(file);
        moved_bytes += bytes;
        garbage = garbage.saturating_sub(usage.garbage());
    }
    moved.sort_unstable();
    Some(Plan { moved, ..plan })
}

/// The plan that takes values out of a value file: of the topmost level that refers to it, the file that does
/// so most.
fn rewrite<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    value_file: u64,
    busy: &[u64],
) -> Option<Plan> {
    let met = |file: &LevelFile| -> u64 {
        let shares = file.values.iter().filter(|share| share.file == value_file);
        shares.map(|share| share.bytes).sum()
    };
    if levels.levels[0].iter().any(|file| met(file.as_ref()) > 0)
        && let Some(plan) = level0_plan(levels, options, Reason::Garbage, busy)
    {
        return Some(plan);
    }
    (1..LEVELS).find_map(|level| {
        let files = levels.levels[level].iter().map(AsRef::as_ref);
        let free = files.filter(|file| met(file) > 0 && !busy.contains(&file.id));
        let most = free.max_by_key(|file| met(file))?;
        let (upper, bottom) = (vec![most.id], !levels.is_below(level, &[most]));
        let (reason, lower, moved) = (Reason::Garbage, Vec::new(), Vec::new());
        Some(Plan { reason, from: level, to: level, upper, lower, bottom, moved })
    })
}
