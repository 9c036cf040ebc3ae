//! All cases of an enumeration, without those that cannot differ from one that was played.
//!
//! A case is programs, their protections and an initial state; it is played from each beginning that
//! matters, in every schedule. Which deadlock policy a transaction has, and who is older, is asked in one
//! place: where the lock table finds a lock in the way of a request (`txn/src/locks/table.rs`,
//! `request`), and what it decides there it counts. Which victim a policy prefers is asked only where it
//! has found, and counted, a circle. So
//! 1. if nothing was counted in any schedule of a case, it is the same with the ages the other way
//!    round, and with any other policies in place of its own;
//! 2. if no circle was counted, it is the same with the other choice of victims.
//!
//! Each schedule is the same then, move by move, and gives the same history: these cases are counted and
//! not played. (By induction over the moves: what a move does depends on the state before it, and on policy
//! and age only where the table decides; it never did.) `tests/interleavings.rs` compares such histories
//! themselves, for some of the cases.

use isolith::{Concurrency, DeadlockPolicy, Isolation, Victim};

use crate::explorer::{Ages, Beginning, Explored, Explorer};
use crate::finding::Checked;
use crate::programs::{Keys, Program};

/// Levels and controls of transactions that run beside each other.
pub type Mix = Vec<(Isolation, Concurrency)>;

/// What an enumeration has come to.
#[derive(Clone, Debug, Default)]
pub struct Enumerated {
    /// What was played.
    pub played: Explored,
    /// Cases, as sets of programs on an initial state from a beginning: those that were played and those
    /// that are the same as one that was.
    pub cases: u64,
    /// Their histories.
    pub histories: u64,
}

impl Enumerated {
    /// Adds others.
    pub fn add(&mut self, other: &Enumerated) {
        self.played.add(&other.played);
        self.cases += other.cases;
        self.histories += other.histories;
    }
}

/// The mix with one policy in the place of all.
pub fn without_policies(mix: &Mix) -> Mix {
    with_controls(mix, |control| match control {
        Concurrency::Locking(_) => Concurrency::Locking(DeadlockPolicy::default()),
        other => other,
    })
}

/// The mix with one choice of victims in the place of all.
pub fn without_victims(mix: &Mix) -> Mix {
    with_controls(mix, |control| match control {
        Concurrency::Locking(DeadlockPolicy::Detect(_)) => {
            Concurrency::Locking(DeadlockPolicy::Detect(Victim::default()))
        }
        other => other,
    })
}

fn with_controls(mix: &Mix, change: impl Fn(Concurrency) -> Concurrency) -> Mix {
    mix.iter().map(|(level, control)| (*level, change(*control))).collect()
}

/// Cases that are the same as one that was played.
struct Class {
    mix: Mix,
    hot: Keys,
    /// The order of ages, where that matters; then the mix still has its policies, but no victims.
    ages: Option<Ages>,
    histories: u64,
}

/// Enumerates the mixes over one set of operations on one initial state: `programs` gives the programs of
/// a mix, or nothing if it is the mirror image of another.
///
/// # Errors
/// The first finding.
pub fn enumerate(
    explorer: &mut Explorer,
    present: Keys,
    mixes: &[Mix],
    programs: &dyn Fn(&Mix) -> Option<Vec<Program>>,
) -> Checked<Enumerated> {
    let mut total = Enumerated::default();
    let mut known: Vec<Class> = Vec::new();
    let before = std::mem::take(&mut explorer.explored);
    for mix in mixes {
        let Some(programs) = programs(mix) else { continue };
        let (policies, victims) = (without_policies(mix), without_victims(mix));
        for beginning in Beginning::that_matter(present, &programs) {
            total.cases += 1;
            let Beginning { hot, ages, .. } = beginning;
            let same = known.iter().find(|class| {
                class.hot == hot
                    && match class.ages {
                        None => class.mix == policies,
                        Some(matter) => matter == ages && class.mix == victims,
                    }
            });
            if let Some(class) = same {
                total.histories += class.histories;
                continue;
            }
            let before = explorer.explored.clone();
            explorer.explore(beginning, &programs)?;
            let Explored { histories, fights, circles, .. } = explorer.explored;
            let histories = histories - before.histories;
            total.histories += histories;
            if fights == before.fights {
                known.push(Class { mix: policies.clone(), hot, ages: None, histories });
            } else if circles == before.circles && may_detect(mix) {
                known.push(Class { mix: victims.clone(), hot, ages: Some(ages), histories });
            }
        }
    }
    total.played = std::mem::replace(&mut explorer.explored, before);
    Ok(total)
}

fn may_detect(mix: &Mix) -> bool {
    let detects =
        |control: &Concurrency| matches!(control, Concurrency::Locking(DeadlockPolicy::Detect(_)));
    mix.iter().any(|(_, control)| detects(control))
}
