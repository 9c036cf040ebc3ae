//! The catalogue through all its interleavings on the engine itself: what is promised is kept, what
//! is allowed happens; and that the exploration loses nothing by what it leaves out.

use isolith::{Concurrency, Isolation};
use isolith_testkit::dice::effort;
use isolith_testkit::laboratory::catalogue;
use isolith_testkit::laboratory::embedded::Embedded;
use isolith_testkit::laboratory::explore::Limits;
use isolith_testkit::laboratory::matrix::{Cell, Choice, Declared, Plan, play, protections};
use isolith_testkit::laboratory::target::Target;

fn controls() -> Vec<Choice<Concurrency>> {
    Concurrency::ALL.map(Choice::One).to_vec()
}

/// All columns at whole or fine steps, with so many runs a cell at most.
fn matrix(fine: bool, runs_max: u64) -> Vec<Cell> {
    let levels = Isolation::ALL.map(Choice::One);
    let plan = Plan {
        scenarios: catalogue::all(),
        protections: protections(&levels, &controls()),
        limits: Limits { runs_max, ..Limits::default() },
        fine,
        threads: 2,
    };
    let factory = || Embedded::new().map(|engine| Box::new(engine) as Box<dyn Target>);
    play(&plan, &factory, &|_, _| {}).unwrap()
}

fn assert_kept(cells: &[Cell]) {
    for cell in cells {
        let first = cell.first.as_ref().map(|broken| (&broken.fault, &broken.run.moves));
        assert_eq!(cell.broken, 0, "{} {}: {first:?}", cell.scenario, cell.protection);
        if cell.declared == Declared::Forbidden {
            assert_eq!(cell.observed, 0, "{} {}", cell.scenario, cell.protection);
        }
    }
}

/// Allowed anomalies that this engine does not show, and why.
const NEVER: [(&str, &str); 3] = [
    ("pmp-write", "a range delete takes what is there when it commits"),
    ("pmp", "an optimistic transaction reads as of one moment, at repeatable read too"),
    ("g-single-write-1", "as of one moment"),
];

#[test]
fn what_is_forbidden_never_happens_and_what_is_allowed_does() {
    let cells = matrix(false, 2_000 * effort() as u64);
    assert_kept(&cells);
    let missing: Vec<String> = cells
        .iter()
        .filter(|cell| cell.declared == Declared::Allowed && cell.observed == 0)
        .filter(|cell| !NEVER.iter().any(|(name, _)| *name == cell.scenario))
        .map(|cell| format!("{} {}", cell.scenario, cell.protection))
        .collect();
    assert!(missing.is_empty(), "allowed, and never observed: {missing:#?}");
    let runs: u64 = cells.iter().map(|cell| cell.runs).sum();
    println!("{} cells, {runs} runs", cells.len());
}

#[test]
fn the_same_with_commits_decided_apart() {
    assert_kept(&matrix(true, 60 * effort() as u64));
}
