//! What is wrong with a run, if anything.

use std::fmt;

use super::judge::{Found, Judge, Judgement};
use super::matrix::Declared;
use super::play::{Run, Staging};
use super::scenario::Scenario;
use super::target::Failure;

/// What is wrong with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The target broke a promise that is not about what was read or written.
    Broken(String),
    /// Something happened that the level of who met it forbids.
    Forbidden(Box<Found>),
    /// The scenario's anomaly happened, although its level is declared to forbid it.
    Declared(String),
    /// An invariant of the scenario does not hold.
    Invariant(usize, String),
}

impl Fault {
    /// The same for all runs that show the same fault.
    pub fn label(&self) -> String {
        match self {
            Fault::Broken(why) => format!("broken: {}", why.split(':').next().unwrap_or_default()),
            Fault::Forbidden(found) => found.full_name(),
            Fault::Declared(_) => "anomaly".into(),
            Fault::Invariant(number, _) => format!("invariant {number}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Broken(why) => f.write_str(why),
            Fault::Forbidden(found) if found.says.is_empty() => f.write_str(&found.full_name()),
            Fault::Forbidden(found) => write!(f, "{}: {}", found.full_name(), found.says),
            Fault::Declared(what) => f.write_str(what),
            Fault::Invariant(_, text) => write!(f, "the invariant {text} does not hold"),
        }
    }
}

/// What is wrong with a run that ended so.
pub fn fault(
    scenario: &Scenario,
    staging: &Staging,
    declared: Declared,
    judge: &Judge,
    run: &Run,
    played: &Result<(), Failure>,
) -> (Judgement, Option<Fault>) {
    if let Err(failure) = played {
        return (Judgement::default(), Some(Fault::Broken(failure.to_string())));
    }
    let judged = judge.judge(run, staging);
    if let Some(found) = judged.forbidden() {
        let fault = Fault::Forbidden(Box::new(found.clone()));
        return (judged, Some(fault));
    }
    let happened = scenario.anomaly.as_ref().is_some_and(|anomaly| anomaly.holds(run));
    if declared == Declared::Forbidden && happened {
        let what = format!("{} ({})", scenario.phenomenon, scenario.title);
        return (judged, Some(Fault::Declared(what)));
    }
    let names = scenario.names();
    let broken =
        scenario.invariants.iter().enumerate().find(|(_, invariant)| !invariant.holds(run));
    let fault =
        broken.map(|(at, invariant)| Fault::Invariant(at + 1, invariant.show(&names, None)));
    (judged, fault)
}
