//! Whether a refusal says the truth: who wounded is older, a holder is there, a member of a cycle is
//! in it, and a policy spares whom it has to spare.

use isolith::{Age, Concurrency, DeadlockPolicy, Error, Victim};

use crate::ensure;
use crate::finding::{Checked, Finding};
use crate::oracle::Why;

/// Why the transaction at place `who` was refused. `own` is its age, `controls` are those of all who
/// run beside each other; `alive` says whether another one of that age is under way.
pub fn why(
    error: &Error,
    own: Age,
    who: usize,
    controls: &[Concurrency],
    alive: &dyn Fn(&Age) -> bool,
) -> Checked<Why> {
    let policy = match controls[who] {
        Concurrency::Locking(policy) => policy,
        _ => DeadlockPolicy::WoundWait,
    };
    Ok(match error {
        Error::Conflict { .. } => Why::Conflict,
        Error::Wounded { by } => {
            ensure!(*by < own, "{own:?} was wounded by {by:?}, which is not older");
            Why::Wounded
        }
        Error::Deadlock { cycle } => {
            ensure!(cycle.len() > 1, "a cycle of one: {error:?}");
            let itself = cycle.iter().any(|link| link.age == own);
            ensure!(itself, "{own:?} is not in the cycle that it was the victim of: {error:?}");
            let fewest = Concurrency::Locking(DeadlockPolicy::Detect(Victim::FewestLocks));
            let older = cycle.iter().any(|link| link.age < own);
            let spared = !older && !controls.contains(&fewest);
            ensure!(!spared, "the oldest was the victim of a cycle: {error:?}");
            Why::Deadlock
        }
        Error::LockRefused { holders } => {
            let there = holders.iter().all(|holder| alive(&holder.age));
            ensure!(there && !holders.is_empty(), "no such holders: {error:?}");
            let told = match policy {
                DeadlockPolicy::NoWait => true,
                DeadlockPolicy::WaitDie => holders.iter().any(|holder| holder.age < own),
                _ => false,
            };
            ensure!(told, "{policy:?} of {own:?} does not refuse for this: {error:?}");
            Why::LockRefused
        }
        _ => return Err(Finding::new(format!("an unexpected error: {error:?}"))),
    })
}
