//! What is left of a disk: the states in which a crash may legally leave it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::disk::{Disk, FileId, FileState, Progress, Unsynced, WriteId};
use super::names::{Change, Names, Node, Tree, What};
use crate::storage::sparse::SparseBytes;

/// The unit in which a disk writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// Which of the unsynced writes and names survive a crash. Whatever was synced always does.
///
/// All but the last are power cuts: what survives is on the medium, and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Survival {
    /// Nothing unsynced.
    Nothing,
    /// All of it, the writes in flight and those that failed included.
    Everything,
    /// Everything but the oldest write and the oldest change of a name.
    AllButFirst,
    /// Only the newest write and the newest change of a name (with what that change needs).
    LastOnly,
    /// All names, no bytes: files that are there and empty.
    NamesOnly,
    /// All bytes, no names.
    DataOnly,
    /// As the seed decides, write by write and sector by sector: whole, lost, torn, later ones
    /// without earlier ones, lengths without the bytes.
    Random(u64),
    /// The process was killed and the machine went on: completed writes and names are all there,
    /// and as unsynced as before, so that a second crash may still take them. Of the writes in
    /// flight, and of the call that crashed, each lands or not as the seed decides.
    ProcessKilled(u64),
}

impl Survival {
    /// The states at the edges, which find most faults.
    pub const EXTREMES: [Survival; 6] = [
        Survival::Nothing,
        Survival::Everything,
        Survival::AllButFirst,
        Survival::LastOnly,
        Survival::NamesOnly,
        Survival::DataOnly,
    ];
}

/// The disk after the crash.
pub(super) fn reboot(old: &Disk, survival: Survival) -> Disk {
    let mut new = Disk::new(old.kind);
    new.next_file = old.next_file + 1; // the crashed call may have made one
    new.next_write = old.next_write;
    new.capacity = old.capacity;
    match survival {
        Survival::ProcessKilled(seed) => {
            let mut dice = Dice::new(seed);
            new.names = names_after_kill(&old.names, &mut dice);
            new.files = old.files.clone();
            // Files by number, so that the seed always meets them in the same order.
            for state in new.files.values_mut() {
                state.settle(&mut dice);
            }
        }
        power_cut => {
            let verdict = Verdict::of(old, power_cut);
            let tree = names_after_power_cut(&old.names, &verdict);
            new.files = survivors(old, &tree, verdict);
            new.names = Names { now: tree.clone(), disk: tree, changes: Vec::new() };
        }
    }
    new
}

// ---- the process alone died

fn names_after_kill(old: &Names, dice: &mut Dice) -> Names {
    let mut names = Names { now: old.now.clone(), disk: old.disk.clone(), changes: Vec::new() };
    for Change { what, seen } in &old.changes {
        // Directories made by one call come in order: parents first, then perhaps no more.
        let parent_there = what_has_parent(what, &names);
        if !seen && (!parent_there || dice.is(1, 2)) {
            continue;
        }
        if !seen {
            what.apply(&mut names.now);
        }
        names.changes.push(Change { what: what.clone(), seen: true });
    }
    names
}

fn what_has_parent(what: &What, names: &Names) -> bool {
    match what {
        What::Create(path, _) => path.parent().is_some_and(|parent| names.is_directory(parent)),
        What::Remove(_) | What::Rename { .. } => true,
    }
}

impl FileState {
    /// Writes in flight land or not, in the page cache; failed ones are forgotten.
    fn settle(&mut self, dice: &mut Dice) {
        let (flying, settled) = std::mem::take(&mut self.writes)
            .into_iter()
            .partition(|write| write.progress == Progress::Flying);
        self.writes = settled;
        self.writes.retain(|write| write.progress == Progress::Completed);
        let flying: Vec<Unsynced> = flying;
        for mut write in flying {
            // A write to the page cache is cut between pages, not within.
            let whole = write.bytes.len();
            let cut = match dice.below(4) {
                0 => 0,
                1 => whole / 2 / 4096 * 4096,
                _ => whole,
            };
            if cut > 0 {
                write.bytes = write.bytes[..cut].into();
                write.progress = Progress::Completed;
                self.now.write(write.offset, &write.bytes);
                self.writes.push(write);
            }
        }
    }
}

// ---- the power went

/// What survives, as far as it can be said before looking at each sector.
struct Verdict {
    writes: Keep<WriteId>,
    names: Keep<usize>,
    dice: Dice,
}

/// One rule for a list of unsynced things.
enum Keep<T> {
    None,
    All,
    /// All but this one.
    Without(Option<T>),
    /// Only this one.
    Only(Option<T>),
    /// Everything up to here, and this one perhaps in part.
    UpTo(T),
    /// Everything from here on, and this one perhaps in part.
    From(T),
    /// Each for itself: whole, torn or lost.
    Each,
    /// Each sector for itself.
    EachSector,
}

/// What survives of one thing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Lost,
    Torn,
    Whole,
}

impl Verdict {
    fn of(old: &Disk, survival: Survival) -> Verdict {
        let mut ids: Vec<_> = old
            .files
            .values()
            .flat_map(|state| state.writes.iter().map(|write| write.id))
            .collect();
        ids.sort();
        let changes = old.names.changes.len();
        let (first, last) = (ids.first().copied(), ids.last().copied());
        let mut dice = Dice::new(match survival {
            Survival::Random(seed) => seed,
            _ => 0,
        });
        let (writes, names) = match survival {
            Survival::Nothing => (Keep::None, Keep::None),
            Survival::Everything => (Keep::All, Keep::All),
            Survival::AllButFirst => (Keep::Without(first), Keep::Without(Some(0))),
            Survival::LastOnly => (Keep::Only(last), Keep::Only(changes.checked_sub(1))),
            Survival::NamesOnly => (Keep::None, Keep::All),
            Survival::DataOnly => (Keep::All, Keep::None),
            Survival::Random(_) | Survival::ProcessKilled(_) => {
                let writes = match (dice.below(4), dice.pick(&ids)) {
                    (0, Some(id)) => Keep::UpTo(id),
                    (1, Some(id)) => Keep::From(id),
                    (2, _) => Keep::EachSector,
                    _ => Keep::Each,
                };
                let places: Vec<_> = (0..changes).collect();
                let names = match (dice.below(4), dice.pick(&places)) {
                    (0, Some(place)) => Keep::UpTo(place),
                    (1, _) => Keep::All,
                    _ => Keep::Each,
                };
                (writes, names)
            }
        };
        Verdict { writes, names, dice }
    }
}

impl<T: Ord + Copy> Keep<T> {
    fn judge(&self, one: T, dice: &mut Dice) -> Kept {
        let torn_at = |edge: &T, keep: bool| match (one == *edge, keep) {
            (true, _) => Kept::Torn,
            (false, true) => Kept::Whole,
            (false, false) => Kept::Lost,
        };
        match self {
            Keep::None => Kept::Lost,
            Keep::All => Kept::Whole,
            Keep::Without(none) => {
                if *none == Some(one) {
                    Kept::Lost
                } else {
                    Kept::Whole
                }
            }
            Keep::Only(only) => {
                if *only == Some(one) {
                    Kept::Whole
                } else {
                    Kept::Lost
                }
            }
            Keep::UpTo(edge) => torn_at(edge, one < *edge),
            Keep::From(edge) => torn_at(edge, one > *edge),
            Keep::Each => {
                [Kept::Lost, Kept::Torn, Kept::Whole, Kept::Whole][dice.below(4) as usize]
            }
            Keep::EachSector => Kept::Torn,
        }
    }
}

fn names_after_power_cut(names: &Names, verdict: &Verdict) -> Tree {
    // A clone, so that names and bytes are decided apart.
    let mut dice = Dice::new(verdict.dice.0 ^ 0x6e61_6d65);
    let judged =
        (0..names.changes.len()).map(|place| match verdict.names.judge(place, &mut dice) {
            Kept::Lost => false,
            Kept::Whole => true,
            Kept::Torn => dice.is(1, 2), // a name is there or not
        });
    let surviving: BTreeSet<usize> = names.with_needs(judged.collect());
    let mut tree = names.disk.clone();
    for place in surviving {
        names.changes[place].what.apply(&mut tree);
    }
    tree
}

/// The files that still have a name, with the bytes that they still have.
fn survivors(old: &Disk, tree: &Tree, mut verdict: Verdict) -> BTreeMap<FileId, FileState> {
    let named: HashSet<FileId> = tree
        .values()
        .filter_map(|node| match node {
            Node::File(file) => Some(*file),
            Node::Directory => None,
        })
        .collect();
    let mut files = BTreeMap::new();
    for (file, state) in old.files.iter().filter(|(file, _)| named.contains(file)) {
        let bytes = state.after_power_cut(&verdict.writes, &mut verdict.dice);
        let state = FileState { now: bytes.clone(), disk: bytes, writes: Vec::new() };
        files.insert(*file, state);
    }
    files
}

impl FileState {
    fn after_power_cut(&self, keep: &Keep<WriteId>, dice: &mut Dice) -> SparseBytes {
        let mut result = self.disk.clone();
        // What the file held after each write, had all of them landed: a surviving sector is a
        // sector of this.
        let mut view = self.disk.clone();
        for write in &self.writes {
            view.write(write.offset, &write.bytes);
            let range = write.range();
            let sectors = range.start / SECTOR_BYTES..range.end.div_ceil(SECTOR_BYTES);
            let mut tear = match keep.judge(write.id, dice) {
                Kept::Lost => Tear::Before(sectors.start),
                Kept::Whole => Tear::Before(sectors.end),
                Kept::Torn => Tear::roll(&sectors, dice),
            };
            for sector in sectors {
                if !tear.keeps(sector, dice) {
                    continue;
                }
                let from = sector * SECTOR_BYTES;
                let mut bytes = [0; SECTOR_BYTES as usize];
                let length = view.read(from, &mut bytes);
                result.write(from, &bytes[..length]);
            }
            // A length may be journaled before the bytes that it was for.
            let outruns = matches!(keep, Keep::Each | Keep::EachSector) && dice.is(1, 4);
            if outruns {
                result.extend_to(range.end);
            }
        }
        result
    }
}

/// How a torn write is torn.
enum Tear {
    /// The sectors before this one landed.
    Before(u64),
    /// This one and those behind it.
    Behind(u64),
    /// All but this one.
    Hole(u64),
    /// Each by the toss of a coin.
    Scattered,
}

impl Tear {
    fn roll(sectors: &std::ops::Range<u64>, dice: &mut Dice) -> Tear {
        let at = sectors.start + dice.below((sectors.end - sectors.start).max(1));
        match dice.below(4) {
            0 => Tear::Before(at),
            1 => Tear::Behind(at),
            2 => Tear::Hole(at),
            _ => Tear::Scattered,
        }
    }

    fn keeps(&mut self, sector: u64, dice: &mut Dice) -> bool {
        match self {
            Tear::Before(at) => sector < *at,
            Tear::Behind(at) => sector >= *at,
            Tear::Hole(at) => sector != *at,
            Tear::Scattered => dice.is(1, 2),
        }
    }
}

/// Randomness that is the same for the same seed for ever (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn is(&mut self, chances: u64, of: u64) -> bool {
        self.below(of) < chances
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let place = self.below(from.len().max(1) as u64) as usize;
        from.get(place).copied()
    }
}
