//! Ends a life at every call, and at every call of the lives after it.

use isolith::storage::faulty::{Call, DiskKind, Fault, FaultyStorage, Survival};

use super::{Ended, Ledger, Life, Script, Step, live};
use crate::dice::Dice;
use crate::ensure;
use crate::finding::{Checked, Finding};
use crate::sizes::Sizes;

/// What to enumerate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kind of disk.
    pub disk: DiskKind,
    /// The life that is ended.
    pub script: Script,
    /// The life after it.
    pub after: Script,
    /// Look at each n-th call.
    pub stride: usize,
    /// Random states of the disk looked at for each crash, beside those at the edges.
    pub random: usize,
    /// End the second life at each n-th of its calls, too; 0 for never.
    pub nested: usize,
    /// How large memtables, files and segments are.
    pub sizes: Sizes,
    /// Decides what is random.
    pub seed: u64,
}

impl Plan {
    /// Whether a life may make its calls in another order than the rehearsal.
    fn may_shift(&self) -> bool {
        let files = |step: &Step| matches!(step, Step::Flush | Step::Compact);
        self.sizes != Sizes::PLAIN || self.script.steps.iter().any(files)
    }
}

/// What was enumerated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that the first life makes which change the disk.
    pub calls: u64,
    /// Of these, those that it was ended at.
    pub crashes: u64,
    /// States of the disk that were recovered from.
    pub recoveries: u64,
    /// Crashes of a second life, while it recovered or afterwards.
    pub nested: u64,
    /// Lives that made the calls before the crash in another order than the rehearsal, or fewer: when a
    /// file is removed that nobody reads any more depends on who else runs in this process.
    pub shifted: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: Counts) {
        self.calls += other.calls;
        self.crashes += other.crashes;
        self.recoveries += other.recoveries;
        self.nested += other.nested;
        self.shifted += other.shifted;
    }
}

/// The states to look at for one crash: those at the edges, the killed process, and random ones.
pub fn survivals(dice: &mut Dice, random: usize) -> Vec<Survival> {
    let mut all = Survival::EXTREMES.to_vec();
    all.push(Survival::ProcessKilled(dice.roll()));
    all.extend((0..random).map(|_| Survival::Random(dice.roll())));
    all
}

/// A whole life without a crash: its calls.
fn rehearse(
    disk: &FaultyStorage,
    ledger: &mut Ledger,
    script: &Script,
    sizes: Sizes,
) -> Checked<Vec<Call>> {
    let ended = live(disk, ledger, script, Life::CALM.with(sizes))?;
    ensure!(ended == Ended::Finished, "a disk crashed that was not told to");
    Ok(disk.calls())
}

/// Runs the plan. A finding tells the crash point and the states that led to it.
pub fn enumerate(plan: &Plan) -> Checked<Counts> {
    let calls =
        rehearse(&FaultyStorage::new(plan.disk), &mut Ledger::default(), &plan.script, plan.sizes)?;
    let changes: Vec<&Call> = calls.iter().filter(|call| call.operation.is_change()).collect();
    let mut counts = Counts { calls: changes.len() as u64, ..Counts::default() };
    let stride = plan.stride.max(1);
    let mut dice = Dice::new(plan.seed);
    let skip = dice.below(stride);
    for call in changes.into_iter().skip(skip).step_by(stride) {
        counts.crashes += 1;
        let disk = FaultyStorage::new(plan.disk);
        disk.crash_at(call.number);
        let mut ledger = Ledger::default();
        let ended = live(&disk, &mut ledger, &plan.script, Life::CALM.with(plan.sizes));
        let told = |finding: Finding| finding.after(format!("crash at {call}, {:?}", plan.disk));
        let ended = ended.map_err(told)?;
        if ended == Ended::Finished && plan.may_shift() {
            counts.shifted += 1;
            continue;
        }
        ensure!(ended == Ended::Crashed, "the life went on after the crash at {call}");
        let last = disk.calls().last().map(|call| (call.operation, call.path.clone()));
        let same = last == Some((call.operation, call.path.clone()));
        if !same {
            let told = "the life did not repeat itself";
            ensure!(plan.may_shift(), "{told}: {call} was expected, found {last:?}");
            counts.shifted += 1;
        }
        for survival in survivals(&mut dice, plan.random) {
            counts.recoveries += 1;
            let told = |finding: Finding| {
                finding.after(format!("crash at {call}, {:?}, left {survival:?}", plan.disk))
            };
            recover(&disk, &ledger, survival, plan, &mut dice, &mut counts).map_err(told)?;
        }
    }
    Ok(counts)
}

/// The lives after one crash.
fn recover(
    crashed: &FaultyStorage,
    before: &Ledger,
    survival: Survival,
    plan: &Plan,
    dice: &mut Dice,
    counts: &mut Counts,
) -> Checked {
    let mut ledger = before.clone();
    ledger.crashed(survival);
    let disk = crashed.reboot(survival);
    let calls = rehearse(&disk, &mut ledger, &plan.after, plan.sizes)?;
    // What it recovered and what it was told is safe, whatever the next crash takes.
    let worst = Survival::Nothing;
    ledger.crashed(worst);
    let ended =
        live(&disk.reboot(worst), &mut ledger, &Script::default(), Life::CALM.with(plan.sizes));
    ended.map_err(|finding| finding.after("after the second life"))?;
    if plan.nested == 0 {
        return Ok(());
    }
    let changes: Vec<&Call> = calls.iter().filter(|call| call.operation.is_change()).collect();
    let skip = dice.below(plan.nested);
    for call in changes.into_iter().skip(skip).step_by(plan.nested) {
        counts.nested += 1;
        let mut ledger = before.clone();
        ledger.crashed(survival);
        let disk = crashed.reboot(survival);
        disk.crash_at(call.number);
        let told = |finding: Finding| finding.after(format!("then a crash at {call}"));
        live(&disk, &mut ledger, &plan.after, Life::CALM.with(plan.sizes)).map_err(told)?;
        if !disk.has_crashed() && plan.may_shift() {
            counts.shifted += 1;
            continue;
        }
        ensure!(disk.has_crashed(), "the second life did not reach {call}");
        let second = *dice.pick(&survivals(&mut dice.clone(), 3));
        ledger.crashed(second);
        let told = |finding: Finding| told(finding.after(format!("which left {second:?}")));
        let disk = disk.reboot(second);
        live(&disk, &mut ledger, &plan.after, Life::CALM.with(plan.sizes)).map_err(told)?;
        ledger.crashed(Survival::Nothing);
        let disk = disk.reboot(Survival::Nothing);
        live(&disk, &mut ledger, &Script::default(), Life::CALM.with(plan.sizes)).map_err(told)?;
    }
    Ok(())
}

/// Fails each call of a life once, without a crash: writes may be refused from then on, reads go on,
/// and after a reboot all that was promised is there.
pub fn fail_each_call(plan: &Plan, faults: &[Fault], life: Life) -> Checked<Counts> {
    let calls =
        rehearse(&FaultyStorage::new(plan.disk), &mut Ledger::default(), &plan.script, plan.sizes)?;
    let mut counts = Counts { calls: calls.len() as u64, ..Counts::default() };
    let mut dice = Dice::new(plan.seed);
    let stride = plan.stride.max(1);
    let skip = dice.below(stride);
    for call in calls.iter().skip(skip).step_by(stride) {
        for fault in faults {
            counts.crashes += 1;
            let told =
                |finding: Finding| finding.after(format!("{fault:?} at {call}, {:?}", plan.disk));
            let disk = FaultyStorage::new(plan.disk);
            disk.fail_call(call.number, *fault);
            let mut ledger = Ledger::default();
            live(&disk, &mut ledger, &plan.script, life.with(plan.sizes)).map_err(told)?;
            for survival in survivals(&mut dice, plan.random) {
                counts.recoveries += 1;
                let mut ledger = ledger.clone();
                ledger.crashed(survival);
                let disk = disk.reboot(survival);
                let told = |finding: Finding| told(finding.after(format!("then {survival:?}")));
                live(&disk, &mut ledger, &plan.after, Life::CALM.with(plan.sizes)).map_err(told)?;
            }
        }
    }
    Ok(counts)
}
