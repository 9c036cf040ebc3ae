//! Judges a recorded history at an isolation level, as an outsider who saw only what clients saw.
//!
//! The judge infers in which order the versions of each key were installed, draws Adya's dependency
//! graph over the transactions, and looks for cycles that the level forbids; besides, some reads are
//! wrong by themselves. The inference is Elle's (Kingsbury and Alvaro, "Elle: inferring isolation
//! anomalies from experimental observations", 2020); levels and cycles are Adya's ("Weak
//! consistency", 1999) with the additions named in [`anomaly`].
//!
//! 1. A violation is reported only with a witness that follows from the history: no false alarm.
//! 2. A history holds only if an order of versions is known, or was found, under which nothing is
//!    forbidden. Where neither is found within the budget it is undecided.
//! 3. Work is near linear in the history: the graph is cut into strongly connected components once,
//!    and cycles are looked for inside them only.
//! 4. Commit timestamps of an engine are never trusted: they may suggest an order of versions, which
//!    is then checked like any other, and where they contradict what was read, that is a finding.
//!
//! | module | its one job |
//! |---|---|
//! | [`anomaly`] | names, and which level forbids which |
//! | [`question`] | what is asked, and the answer |
//! | [`witness`] | why one transaction comes before another, in words |
//! | `guess` | which workload a history is of |
//! | [`simulated`] | histories of stores that keep a level |
//! | `graph` | edges, strongly connected components, real time |
//! | `dependencies` | from a workload's edges to its forbidden cycles |
//! | `clocks` | who has seen whom, for causality |
//! | `cycles` | the shortest cycle of each kind in a component |
//! | `append` | list-append: orders from reads |
//! | `unread` | appends that nobody read, under snapshot isolation |
//! | `items` | registers and predicates: versions from unique writes |
//! | `order` | the same: an order of versions that the level allows |
//! | `saturate` | the same: what follows about that order |
//! | `invariants` | bank, sets, counters and long forks |
//! | `linear` | compare-and-set registers: a complete search |

pub mod anomaly;
pub mod question;
pub mod simulated;
pub mod witness;

mod append;
mod clocks;
mod cycles;
mod dependencies;
mod graph;
mod guess;
mod invariants;
mod items;
mod linear;
mod order;
mod saturate;
mod unread;

pub use anomaly::{Anomaly, Phenomenon};
pub use question::{Budget, Found, Inference, Question, Report, Verdict, Workload};
pub use witness::{Dependency, Edge, Witness};

use crate::history::History;

/// Why a history is undecided in which nobody saw anything of anybody: such a history says nothing of
/// the system, and nothing against it.
pub const NOTHING_DEPENDS: &str = "no transaction depends on another";

/// Judges a history.
pub fn judge(history: &History, question: &Question) -> Report {
    match question.workload {
        Workload::Append => append::judge(history, question),
        Workload::Register | Workload::Predicate => order::judge(history, question),
        Workload::Bank => invariants::bank(history, question),
        Workload::Set => invariants::set(history),
        Workload::SetFull => invariants::set_full(history, question),
        Workload::Counter => invariants::counter(history, question),
        Workload::LongFork => invariants::long_fork(history),
        Workload::CompareAndSet => linear::judge(history, question),
    }
}

#[cfg(test)]
mod planting;
#[cfg(test)]
mod tests;
