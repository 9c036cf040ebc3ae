//! Short stresses of every workload, in memory and through crashes: nothing is found.
//!
//! `ISOLITH_EFFORT=<n>` runs longer ones, `ISOLITH_SEED=<number>` repeats the threads' choices.

use isolith_testkit::dice::{effort, run_seed};
use isolith_testkit::stress::crash::Lives;
use isolith_testkit::stress::embedded::InMemory;
use isolith_testkit::stress::mix::Mix;
use isolith_testkit::stress::workload::Workload;
use isolith_testkit::stress::{Length, Options, Report, Target, run};

fn options(workload: Workload, threads: usize, seed: u64) -> Options {
    let length = Length::Transactions(2_000 * effort() as u64);
    Options { workload, length, threads, mix: Mix::all(), seed, window: 500, judges: 1 }
}

fn holds<T: Target>(target: &mut T, options: &Options) -> Report {
    let report = run(target, options, None, |_| {}).unwrap();
    let workload = options.workload;
    println!("{workload}: {:?} in {:?}", report.total(), report.judged);
    if let Some((_, violation)) = &report.violation {
        panic!("{workload}, window {}: {}", violation.window, violation.what);
    }
    assert_eq!(report.undecided, None, "{workload}");
    assert_eq!(report.held, report.windows, "{workload}");
    report
}

#[test]
fn every_workload_holds_at_every_mixture() {
    let seed = run_seed("every_workload_holds_at_every_mixture");
    for workload in Workload::ALL {
        let mut target = InMemory::new(workload.shift()).unwrap();
        let report = holds(&mut target, &options(workload, 4, seed));
        assert!(report.total().committed * 2 > report.total().all(), "{workload}: {report:?}");
    }
}

#[test]
fn every_workload_holds_through_crashes() {
    let seed = run_seed("every_workload_holds_through_crashes");
    for workload in Workload::ALL {
        for threads in [1, 4] {
            let mut target = Lives::new(seed, workload.shift(), threads == 1).unwrap();
            let options = Options { window: 200, ..options(workload, threads, seed) };
            let report = holds(&mut target, &options);
            assert!(report.recoveries > 0, "{workload}: no life ended");
        }
    }
}
