//! The live files of one keyspace, in levels, and which of them are to be compacted next.
//!
//! Level 0 has files as they were flushed: they overlap, newest first. Every further level is one sorted
//! run, ten times as large as the one above. The *base* is the topmost level below 0 that is in use:
//! targets are reckoned from the lowest level upwards (as RocksDB's dynamic levels are), so that the lowest
//! holds nine tenths of the data however much there is, and space amplification stays near 1.1.
//!
//! 1. From level 1 on, files ascend by key and their key ranges do not overlap: all versions of a key that
//!    a level has are in one file.
//! 2. For each key, what a level has of it is newer than what all lower levels have.
//! 3. [`pick`] is a pure function of the levels: the same levels give the same plan.

use std::fmt;

mod values;

pub use values::{ValueShare, ValueUsage, value_usage};

/// Levels there are.
pub const LEVELS: usize = 7;

/// What a pick looks at of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LevelFile {
    /// Its number.
    pub id: u64,
    /// Its length.
    pub bytes: u64,
    /// The smallest key that it says something about.
    pub smallest: Vec<u8>,
    /// The largest; none: it reaches to the last key of all.
    pub largest: Option<Vec<u8>>,
    /// Versions in it.
    pub entries: u64,
    /// Tombstones and range deletes among them: what gives space back once it meets what it hides.
    pub deletes: u64,
    /// What it refers to in value files, by their numbers.
    pub values: Vec<ValueShare>,
}

impl LevelFile {
    /// Whether some key may be in both.
    pub fn overlaps(&self, other: &LevelFile) -> bool {
        let reaches = |left: &LevelFile, right: &LevelFile| {
            left.largest.as_ref().is_none_or(|largest| *largest >= right.smallest)
        };
        reaches(self, other) && reaches(other, self)
    }
}

/// The files of each level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Levels<F> {
    /// Level 0 newest first, the others by key.
    pub levels: [Vec<F>; LEVELS],
}

impl<F> Default for Levels<F> {
    fn default() -> Self {
        Self { levels: [const { Vec::new() }; LEVELS] }
    }
}

/// When compaction is due.
#[derive(Clone, Copy, Debug)]
pub struct CompactionOptions {
    /// So many files of level 0 are compacted.
    pub level0_files: usize,
    /// Where the base level is not smaller than this, another one is begun above it.
    pub base_bytes_max: u64,
    /// How many times a level is as large as the one above.
    pub growth: u64,
    /// A file of which so many hundredths are deletes is compacted though its level has room.
    pub deletes_percent: u64,
    /// Values that files above the lowest level refer to are brought down once they are so many hundredths
    /// of that level: what they replace is garbage only then.
    pub values_above_percent: u64,
    /// Values are moved out of value files once so many hundredths of all of these are garbage.
    pub garbage_percent: u64,
    /// Whatever a compaction meets of a value file of which so many hundredths are garbage is moved in passing.
    pub garbage_passing_percent: u64,
}

impl Default for CompactionOptions {
    fn default() -> Self {
        Self {
            level0_files: 4,
            base_bytes_max: 256 << 20,
            growth: 10,
            deletes_percent: 50,
            // Together at rest: at most 1.12 / 0.88 = 1.27 times the live values.
            values_above_percent: 12,
            garbage_percent: 12,
            garbage_passing_percent: 50,
        }
    }
}

/// Why a plan was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Level 0 has too many files.
    Flushed,
    /// A level is too large.
    Full,
    /// A file is mostly deletes.
    Deletes,
    /// Upper levels refer to many values, which may be newer versions of what lower ones have.
    Values,
    /// Value files have much garbage.
    Garbage,
    /// Somebody asked for it.
    Asked,
}

/// A compaction: these files become files of another level.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Why.
    pub reason: Reason,
    /// The level of `upper`.
    pub from: usize,
    /// The level of `lower`, and of what is written.
    pub to: usize,
    /// The files that go down.
    pub upper: Vec<u64>,
    /// Those that they meet there.
    pub lower: Vec<u64>,
    /// Whether nothing below can hold a key of theirs: tombstones have done their work.
    pub bottom: bool,
    /// Value files, ascending: what the files refer to there is written anew.
    pub moved: Vec<u64>,
}

impl Plan {
    /// Whether the files can go down as they are: one file that meets nothing and has nothing to drop.
    pub fn is_move(&self) -> bool {
        self.upper.len() == 1
            && self.lower.is_empty()
            && !matches!(self.reason, Reason::Deletes | Reason::Garbage | Reason::Asked)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { reason, from, to, upper, lower, bottom, moved } = self;
        write!(f, "{reason:?}: {upper:?} of {from} + {lower:?} of {to}")?;
        if *bottom {
            f.write_str(", to the bottom")?;
        }
        if moved.is_empty() { Ok(()) } else { write!(f, ", values of {moved:?}") }
    }
}

fn bytes<F: AsRef<LevelFile>>(files: &[F]) -> u64 {
    files.iter().map(|file| file.as_ref().bytes).sum()
}

impl AsRef<LevelFile> for LevelFile {
    fn as_ref(&self) -> &LevelFile {
        self
    }
}

impl<F: AsRef<LevelFile>> Levels<F> {
    /// The plan that takes everything to the lowest level; none, where there is nothing.
    pub fn everything(&self) -> Option<Plan> {
        let ids = |files: &[F]| files.iter().map(|file| file.as_ref().id).collect::<Vec<_>>();
        let to = LEVELS - 1;
        let upper: Vec<u64> = self.levels[..to].iter().flat_map(|files| ids(files)).collect();
        let lower = ids(&self.levels[to]);
        let any = !upper.is_empty() || !lower.is_empty();
        let (reason, moved) = (Reason::Asked, Vec::new());
        any.then_some(Plan { reason, from: 0, to, upper, lower, bottom: true, moved })
    }

    /// The bytes that each level is to hold at most, from 1 on, and the base level.
    fn targets(&self, options: &CompactionOptions) -> ([u64; LEVELS], usize) {
        let topmost = (1..LEVELS).find(|level| !self.levels[*level].is_empty());
        let largest = (1..LEVELS).map(|level| bytes(&self.levels[level])).max().unwrap_or(0);
        let mut targets = [u64::MAX; LEVELS];
        let (mut base, mut target) = (LEVELS - 1, largest.max(1));
        while base > 1 && target > options.base_bytes_max {
            target = (target / options.growth).max(1);
            base -= 1;
            targets[base] = target;
        }
        // Above the base nothing is kept. What is still there goes down, and until it has, flushed files
        // do not go past it (invariant 2).
        targets[1..base].fill(0);
        (targets, topmost.map_or(base, |topmost| base.min(topmost)))
    }

    /// The files of a level that overlap one of these, widened until no file of the level is cut.
    fn meets(&self, level: usize, files: &[&LevelFile]) -> Vec<u64> {
        let overlaps = |file: &&F| files.iter().any(|other| file.as_ref().overlaps(other));
        self.levels[level].iter().filter(overlaps).map(|file| file.as_ref().id).collect()
    }

    /// Where a plan's outputs must be cut: the smallest keys of the files that stay in its level. Inputs
    /// that do not overlap may lie on both sides of one that none of them overlaps.
    pub fn fences(&self, plan: &Plan) -> Vec<&[u8]> {
        let level = self.levels.get(plan.to).map(Vec::as_slice).unwrap_or_default();
        let files = level.iter().map(AsRef::as_ref);
        let goes = |id: &u64| plan.lower.contains(id) || plan.upper.contains(id);
        let stays = files.filter(|file| !goes(&file.id));
        stays.map(|file| &*file.smallest).collect()
    }

    /// Whether some level below `level` may hold a key of these files.
    fn is_below(&self, level: usize, files: &[&LevelFile]) -> bool {
        self.levels[level + 1..]
            .iter()
            .flatten()
            .any(|file| files.iter().any(|other| file.as_ref().overlaps(other)))
    }

    /// The plan that takes these files of a level to another.
    fn plan(&self, reason: Reason, from: usize, to: usize, upper: &[&LevelFile]) -> Plan {
        let lower = self.meets(to, upper);
        let below = self.levels[to].iter().map(AsRef::as_ref);
        let mut all: Vec<_> = below.filter(|file| lower.contains(&file.id)).collect();
        all.extend(upper);
        let bottom = !self.is_below(to, &all);
        let upper = upper.iter().map(|file| file.id).collect();
        Plan { reason, from, to, upper, lower, bottom, moved: Vec::new() }
    }
}

/// The next compaction, if one is due. Files in `busy` are being compacted already: a plan that needs one
/// of them waits. Of value files in `busy` nothing is moved.
pub fn pick<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    busy: &[u64],
) -> Option<Plan> {
    let plan = fullest(levels, options, busy)
        .or_else(|| mostly_deletes(levels, options, busy))
        .or_else(|| values::brought_down(levels, options, busy));
    match plan {
        Some(plan) => Some(Plan { moved: values::mostly_garbage(levels, options, busy), ..plan }),
        None => values::reclaimed(levels, options, busy),
    }
}

/// The compaction of what is the furthest above its bounds.
fn fullest<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    busy: &[u64],
) -> Option<Plan> {
    let (targets, base) = levels.targets(options);
    let mut due: Vec<(f64, Plan)> = Vec::new();
    let flushed: Vec<_> = levels.levels[0].iter().map(AsRef::as_ref).collect();
    if flushed.len() >= options.level0_files {
        let score = flushed.len() as f64 / options.level0_files as f64;
        due.push((score, levels.plan(Reason::Flushed, 0, base, &flushed)));
    }
    for (level, target) in targets.into_iter().enumerate().take(LEVELS - 1).skip(1) {
        let files = &levels.levels[level];
        let score = bytes(files) as f64 / target.max(1) as f64;
        if files.is_empty() || score <= 1.0 {
            continue;
        }
        let plans = files.iter().map(AsRef::as_ref).map(|file| {
            let plan = levels.plan(Reason::Full, level, level + 1, &[file]);
            let below = &levels.levels[level + 1];
            let met = below.iter().map(AsRef::as_ref).filter(|file| plan.lower.contains(&file.id));
            let cost = met.map(|file| file.bytes).sum::<u64>() as f64 / file.bytes.max(1) as f64;
            (cost, plan)
        });
        // What is written for each byte that goes down is what counts.
        let cheapest = plans
            .filter(|(_, plan)| !is_busy(plan, busy))
            .min_by(|(left, _), (right, _)| left.total_cmp(right));
        if let Some((_, plan)) = cheapest {
            due.push((score, plan));
        }
    }
    due.retain(|(_, plan)| !is_busy(plan, busy));
    let fullest = due.into_iter().max_by(|(left, _), (right, _)| left.total_cmp(right));
    fullest.map(|(_, plan)| plan)
}

fn is_busy(plan: &Plan, busy: &[u64]) -> bool {
    plan.upper.iter().chain(&plan.lower).any(|file| busy.contains(file))
}

/// A file that hides more than it holds.
fn mostly_deletes<F: AsRef<LevelFile>>(
    levels: &Levels<F>,
    options: &CompactionOptions,
    busy: &[u64],
) -> Option<Plan> {
    let below = levels.levels.iter().enumerate().skip(1).take(LEVELS - 2);
    let files = below.flat_map(|(level, files)| files.iter().map(move |file| (level, file)));
    files
        .map(|(level, file)| (level, file.as_ref()))
        .filter(|(_, file)| file.deletes * 100 >= file.entries.max(1) * options.deletes_percent)
        .map(|(level, file)| levels.plan(Reason::Deletes, level, level + 1, &[file]))
        .find(|plan| !is_busy(plan, busy))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `v3:20/100`: 20 of the 100 bytes of value file 3.
    fn share(text: &str) -> ValueShare {
        let (file, rest) = text[1..].split_once(':').expect("a value file");
        let (bytes, of) = rest.split_once('/').expect("a part of it");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let of_bytes = number(of) + crate::sstable::VALUE_FILE_OVERHEAD;
        ValueShare { file: number(file), values: 1, bytes: number(bytes), of_bytes }
    }

    /// Levels as text: a line each, `1: 7 a-c 20, 8 d-f 30`: level, number, keys, bytes; `!` after the
    /// bytes: nothing but deletes; behind that what it refers to in value files.
    fn levels(text: &str) -> Levels<LevelFile> {
        let mut levels = Levels::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (level, files) = line.split_once(':').expect("a level");
            let level: usize = level.parse().expect("a number");
            for file in files.split(',') {
                let mut words = file.split_whitespace();
                let id = words.next().expect("a number").parse().expect("a number");
                let (smallest, largest) = words.next().unwrap().split_once('-').expect("keys");
                let bytes = words.next().expect("bytes");
                let deletes = if bytes.ends_with('!') { 100 } else { 0 };
                levels.levels[level].push(LevelFile {
                    id,
                    bytes: bytes.trim_end_matches('!').parse().expect("bytes"),
                    smallest: smallest.into(),
                    largest: (largest != "∞").then(|| largest.into()),
                    entries: 100,
                    deletes,
                    values: words.map(share).collect(),
                });
            }
        }
        levels
    }

    const OPTIONS: CompactionOptions = CompactionOptions {
        level0_files: 4,
        base_bytes_max: 100,
        growth: 10,
        deletes_percent: 50,
        values_above_percent: 20,
        garbage_percent: 20,
        garbage_passing_percent: 50,
    };

    fn picked(text: &str, busy: &[u64]) -> String {
        let plan = pick(&levels(text), &OPTIONS, busy);
        plan.map_or_else(|| "nothing".into(), |plan| plan.to_string())
    }

    #[test]
    fn the_pick_follows_from_the_levels() {
        for (text, expected) in [
            ("", "nothing"),
            ("0: 1 a-z 10, 2 a-z 10, 3 a-z 10", "nothing"),
            (
                "0: 4 a-c 10, 3 b-d 10, 2 x-z 10, 1 a-b 10",
                "Flushed: [4, 3, 2, 1] of 0 + [] of 6, to the bottom",
            ),
            (
                "0: 9 a-c 10, 8 b-d 10, 7 a-c 10, 6 a-b 10
                 6: 1 a-b 40, 2 c-f 40, 3 g-k 10",
                "Flushed: [9, 8, 7, 6] of 0 + [1, 2] of 6, to the bottom",
            ),
            // The lowest level is beyond the base's bound: level 5 is begun.
            (
                "0: 9 a-c 10, 8 b-d 10, 7 a-c 10, 6 a-b 10
                 5: 4 x-z 1
                 6: 1 a-b 400, 2 c-f 400, 3 g-k 100",
                "Flushed: [9, 8, 7, 6] of 0 + [] of 5",
            ),
            // Level 5 may hold a tenth of level 6. The file that meets least goes first.
            (
                "5: 4 a-b 50, 5 e-f 60, 9 x-z 40
                 6: 1 a-b 400, 2 c-f 400, 3 x-z 100",
                "Full: [9] of 5 + [3] of 6, to the bottom",
            ),
            (
                "5: 4 a-b 50, 5 g-h 60
                 6: 1 a-b 400, 2 c-f 400, 3 x-z 100",
                "Full: [5] of 5 + [] of 6, to the bottom",
            ),
            // A range delete to the last key of all meets everything behind it.
            (
                "5: 4 a-b 10, 5 d-∞ 160
                 6: 1 a-b 400, 2 c-f 400, 3 x-z 100",
                "Full: [5] of 5 + [2, 3] of 6, to the bottom",
            ),
            (
                "5: 4 a-b 10!
                 6: 1 a-b 400, 2 c-f 400",
                "Deletes: [4] of 5 + [1] of 6, to the bottom",
            ),
        ] {
            assert_eq!(picked(text, &[]), expected, "{text}");
        }
    }

    #[test]
    fn values_come_down_before_they_are_many_beside_the_lowest_level() {
        for (text, expected) in [
            // A fifth of the lowest level, and more.
            ("0: 2 a-z 5 v9:20/20\n6: 1 a-m 10 v8:90/90", "nothing"),
            (
                "0: 2 a-z 5 v9:21/21\n6: 1 a-m 10 v8:90/90",
                "Values: [2] of 0 + [1] of 6, to the bottom",
            ),
            ("0: 2 a-z 5 v9:21/21", "Values: [2] of 0 + [] of 6, to the bottom"),
            // Small values weigh, too.
            ("0: 2 a-z 5 v9:21/21\n6: 1 a-m 100 v8:10/10", "nothing"),
            // Between the first and the last: the one with the most.
            (
                "5: 2 a-c 5 v9:60/130, 3 d-f 5 v9:70/130\n6: 1 a-z 600",
                "Values: [3] of 5 + [1] of 6, to the bottom",
            ),
        ] {
            assert_eq!(picked(text, &[]), expected, "{text}");
        }
    }

    #[test]
    fn the_worst_value_files_are_emptied_once_garbage_is_much() {
        for (text, busy, expected) in [
            ("6: 1 a-z 10 v7:80/100", vec![], "nothing"),
            (
                "6: 1 a-z 10 v7:79/100",
                vec![],
                "Garbage: [1] of 6 + [] of 6, to the bottom, values of [7]",
            ),
            // The worst first, until half of what is allowed is left.
            (
                "6: 1 a-z 10 v7:60/100 v8:55/100 v9:100/100",
                vec![],
                "Garbage: [1] of 6 + [] of 6, to the bottom, values of [7, 8]",
            ),
            (
                "6: 1 a-z 10 v4:900/1000 v7:10/100 v8:20/100",
                vec![],
                "Garbage: [1] of 6 + [] of 6, to the bottom, values of [7, 8]",
            ),
            // Of several files the one that refers to most of it.
            (
                "6: 1 a-c 10 v7:10/100, 2 d-f 10 v7:30/100, 3 g-z 10 v7:20/100",
                vec![],
                "Garbage: [2] of 6 + [] of 6, to the bottom, values of [7]",
            ),
            (
                "6: 1 a-c 10 v7:10/100, 2 d-f 10 v7:30/100, 3 g-z 10 v7:20/100",
                vec![2],
                "Garbage: [3] of 6 + [] of 6, to the bottom, values of [7]",
            ),
            // Level 0 goes down as a whole.
            (
                "0: 5 a-c 1 v7:1/100, 4 a-c 1\n6: 1 a-b 10 v8:90/100, 2 x-z 10",
                vec![],
                "Garbage: [5, 4] of 0 + [1] of 6, to the bottom, values of [7]",
            ),
            // In passing.
            (
                "0: 9 a-c 10, 8 b-d 10, 7 a-c 10, 6 a-b 10\n6: 1 a-b 40 v7:1/100 v8:51/100",
                vec![],
                "Flushed: [9, 8, 7, 6] of 0 + [1] of 6, to the bottom, values of [7]",
            ),
            // One that cannot be read is left alone, whatever is in it.
            ("6: 1 a-z 10 v4:1000/1000 v7:10/100 v8:70/1000", vec![8], "nothing"),
            // Keys below stay hidden.
            (
                "5: 1 a-c 10 v7:10/100\n6: 2 b-d 900",
                vec![],
                "Garbage: [1] of 5 + [] of 5, values of [7]",
            ),
        ] {
            assert_eq!(picked(text, &busy), expected, "{text}");
        }
    }

    #[test]
    fn files_that_are_being_compacted_are_left_alone() {
        let text = "5: 4 a-b 50, 5 e-f 60, 9 x-z 40
                    6: 1 a-b 400, 2 c-f 400, 3 x-z 100";
        assert_eq!(picked(text, &[3]), "Full: [5] of 5 + [2] of 6, to the bottom");
        assert_eq!(picked(text, &[1, 2, 3]), "nothing");
    }

    #[test]
    fn a_file_that_no_input_overlaps_is_a_fence() {
        let levels = levels(
            "0: 9 a-c 10, 8 b-d 10, 7 a-c 10, 6 x-z 10
                             6: 1 a-b 40, 2 f-k 40, 3 m-p 10, 4 y-z 10",
        );
        let plan = pick(&levels, &OPTIONS, &[]).expect("one is due");
        assert_eq!(plan.lower, [1, 4]);
        assert_eq!(levels.fences(&plan), [b"f", b"m"]);
    }

    #[test]
    fn a_file_that_meets_nothing_is_moved() {
        let text = "5: 4 a-b 50, 5 g-h 60
                    6: 1 a-b 400, 2 c-f 400, 3 x-z 100";
        let plan = pick(&levels(text), &OPTIONS, &[]).expect("one is due");
        assert!(plan.is_move());
    }
}
