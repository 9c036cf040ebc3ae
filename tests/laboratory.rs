//! The catalogue through all its interleavings on the engine itself: what is promised is kept, what
//! is allowed happens; and that the exploration loses nothing by what it leaves out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use isolith::{Concurrency, Isolation};
use isolith_testkit::dice::effort;
use isolith_testkit::laboratory::catalogue;
use isolith_testkit::laboratory::embedded::Embedded;
use isolith_testkit::laboratory::examine::look;
use isolith_testkit::laboratory::explore::{Limits, explore, schedules};
use isolith_testkit::laboratory::faults::fault;
use isolith_testkit::laboratory::files::read_scenario;
use isolith_testkit::laboratory::judge::Judge;
use isolith_testkit::laboratory::matrix::{Cell, Choice, Declared, Plan, play, protections};
use isolith_testkit::laboratory::play::{Given, Player, Run, Staging};
use isolith_testkit::laboratory::scenario::{Scenario, parse};
use isolith_testkit::laboratory::shrink::shrink;
use isolith_testkit::laboratory::target::{Failure, Target, Terms};

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
    let cells = matrix(false, 1_000 * effort() as u64);
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
    assert_kept(&matrix(true, 40 * effort() as u64));
}

/// What can come of a scenario, and what is to be said to it, by all schedules or by those that
/// reduction leaves; with how many were played, whole or in part.
fn outcomes(
    scenario: &Scenario,
    staging: &Staging,
    reduce: bool,
    target: &mut Embedded,
) -> (BTreeSet<String>, u64) {
    let limits = Limits { reduce, runs_max: 1_000_000, ..Limits::default() };
    let judge = Judge::of(scenario);
    let mut seen = BTreeSet::new();
    let explored = explore(scenario, staging, target, &limits, &mut |run, played| {
        let (judged, fault) = fault(scenario, staging, Declared::Depends, &judge, run, &played);
        let happened = scenario.anomaly.as_ref().is_some_and(|anomaly| anomaly.holds(run));
        let found: BTreeSet<String> = judged.found.iter().map(|found| found.full_name()).collect();
        seen.insert(format!("{}; {happened} {fault:?} {found:?}", run.outcome()));
        Ok(true)
    });
    let explored = explored.unwrap();
    assert!(explored.complete, "{}", scenario.name);
    (seen, explored.runs + explored.cut)
}

/// Partial-order reduction leaves out schedules, and neither an outcome nor a verdict: for every small
/// scenario at every level under every control, and for all of them with an effort of 40.
#[test]
fn reduction_loses_no_outcome() {
    let schedules_max = 80 * (effort() * effort()) as u128;
    let small = |scenario: &Scenario| schedules(scenario, false) <= schedules_max;
    let (mut all, mut left) = (0, 0);
    let mut target = Embedded::new().unwrap();
    let mut by_control = BTreeMap::new();
    for scenario in catalogue::all().iter().chain(&fixtures()).filter(|scenario| small(scenario)) {
        for isolation in Isolation::ALL {
            for concurrency in Concurrency::ALL {
                let terms = scenario.terms(Terms { isolation, concurrency });
                for hot in [false, true] {
                    if hot && concurrency != Concurrency::Auto {
                        continue;
                    }
                    let staging = Staging { hot, ..Staging::new(terms.clone()) };
                    let (whole, runs) = outcomes(scenario, &staging, false, &mut target);
                    let (reduced, fewer) = outcomes(scenario, &staging, true, &mut target);
                    assert_eq!(reduced, whole, "{} {staging:?}", scenario.name);
                    (all, left) = (all + runs, left + fewer);
                    let at: &mut (u64, u64) =
                        by_control.entry(format!("{isolation} {concurrency}")).or_default();
                    *at = (at.0 + fewer, at.1 + runs);
                }
            }
        }
    }
    println!("{left} runs show what {all} show: {by_control:#?}");
    assert!(left * 10 < all * 7, "{left} of {all}: nothing to speak of is left out");
}

/// The scenarios of `tests/scenarios`.
fn fixtures() -> Vec<Scenario> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| read_scenario(path).unwrap()).collect()
}

#[test]
fn what_else_is_promised_is_kept() {
    let levels = Isolation::ALL.map(Choice::One);
    // Where a schedule is given, what must hold is about that one.
    let (one, all): (Vec<_>, Vec<_>) =
        fixtures().into_iter().partition(|scenario| !scenario.schedule.is_empty());
    let mut target = Embedded::new().unwrap();
    for scenario in &one {
        let staging = Staging::new(scenario.terms(Terms::default()));
        let (depends, moves) = (Declared::Depends, &scenario.schedule);
        let seen = look(scenario, &staging, depends, &mut target, moves).unwrap();
        assert_eq!(seen.fault, None, "{}", scenario.name);
    }
    for fine in [false, true] {
        let plan = Plan {
            scenarios: all.clone(),
            protections: protections(&levels, &controls()),
            limits: Limits { runs_max: 100 * effort() as u64, ..Limits::default() },
            fine,
            threads: 2,
        };
        let factory = || Embedded::new().map(|engine| Box::new(engine) as Box<dyn Target>);
        assert_kept(&play(&plan, &factory, &|_, _| {}).unwrap());
    }
}

#[test]
fn levels_and_controls_mix() {
    // Two of each way to protect two sessions.
    let ways = Isolation::ALL.len() * Concurrency::ALL.len();
    let plan = Plan {
        scenarios: ["g0", "p4", "g2-item", "g2", "pmp", "p2"]
            .map(|one| catalogue::find(one).unwrap())
            .to_vec(),
        protections: protections(&[Choice::Mixed], &[Choice::Mixed]),
        limits: Limits { runs_max: (2 * ways * ways * effort()) as u64, ..Limits::default() },
        fine: false,
        threads: 2,
    };
    let factory = || Embedded::new().map(|engine| Box::new(engine) as Box<dyn Target>);
    let cells = play(&plan, &factory, &|_, _| {}).unwrap();
    assert_kept(&cells);
    assert!(cells.iter().all(|cell| cell.runs >= (ways * ways) as u64), "no way is left out");
}

/// Four sessions can be protected in 614,656 ways: some are chosen, and the bound is the cell's.
#[test]
fn a_mixture_of_many_keeps_to_its_bound() {
    let plan = Plan {
        scenarios: vec![catalogue::find("g-nonadjacent").unwrap()],
        protections: protections(&[Choice::Mixed], &[Choice::Mixed]),
        limits: Limits { runs_max: 500, ..Limits::default() },
        fine: false,
        threads: 1,
    };
    let factory = || Embedded::new().map(|engine| Box::new(engine) as Box<dyn Target>);
    let cells = play(&plan, &factory, &|_, _| {}).unwrap();
    assert_kept(&cells);
    assert_eq!(cells[0].runs, 500);
    assert!(!cells[0].complete);
}

/// Random schedules are the same for the same seed, and a schedule plays the same run again.
#[test]
fn runs_repeat() {
    let scenario = catalogue::find("read-only").unwrap();
    let staging = Staging::new(scenario.terms(Terms::default()));
    let sample = |seed| {
        let mut moves = Vec::new();
        let limits = Limits { runs_max: 20, reduce: false, seed };
        let mut target = Embedded::new().unwrap();
        explore(&scenario, &staging, &mut target, &limits, &mut |run, _| {
            moves.push((run.moves.clone(), run.outcome()));
            Ok(true)
        })
        .unwrap();
        moves
    };
    let first = sample(7);
    assert_eq!(first, sample(7));
    assert_ne!(first, sample(8));
    let mut target = Embedded::new().unwrap();
    for (moves, outcome) in first {
        let mut player = Player::new(&scenario, &staging, &mut target);
        let (run, played) = player.play(&mut Given::new(&moves));
        played.unwrap();
        assert_eq!((run.moves.clone(), run.outcome()), (moves, outcome));
    }
}

/// What does not belong to the finding goes, and the same is left every time.
#[test]
fn shrinking_leaves_what_matters() {
    let text = "\
setup: x = 1, y = 1, z = 1
session idle
  get z
  put z = 5
session t1
  get z
  get x
  get y
  put x = 0 if x + y == 2
session t2
  get x
  get y
  scan x..z as all
  put y = 0 if x + y == 2
  put w = 9
invariant: x + y >= 1
";
    let scenario = parse("long", text).unwrap();
    let terms = Terms { isolation: Isolation::Snapshot, concurrency: Concurrency::Optimistic };
    let staging = Staging::new(scenario.terms(terms));
    let shows = |scenario: &Scenario, _: &Staging, run: &Run, played: &Result<(), Failure>| {
        played.is_ok() && !scenario.invariants[0].holds(run)
    };
    let small = || {
        let mut target = Embedded::new().unwrap();
        shrink(&scenario, &staging, &mut target, &shows).unwrap().unwrap()
    };
    let shrunk = small();
    assert_eq!(shrunk, small());
    let text = shrunk.scenario.to_string();
    assert_eq!(shrunk.scenario.sessions.len(), 2, "{text}");
    let steps: usize = shrunk.scenario.sessions.iter().map(|one| one.steps.len()).sum();
    assert!(steps <= 8 && !text.contains('w') && !text.contains("idle"), "{text}");
    let changes = shrunk.run.moves.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes <= 2, "{:?}", shrunk.run.moves);
    assert_eq!(parse("long", &text).unwrap(), shrunk.scenario);
}
