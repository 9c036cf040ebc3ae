//! Every interleaving of small transactions, at each level and mixed, judged by brute force; and every
//! order of decision, acknowledgement, sync and reading.
//!
//! Everyday runs look at each n-th case, beginning with one that the seed chooses;
//! `ISOLITH_EFFORT=<n>` looks at all of them. The counts are printed (`--nocapture`).

use isolith::Isolation;
use isolith_testkit::acknowledged::{self, LEVELS, READERS, Stage};
use isolith_testkit::dice::{effort, run_seed, stride};
use isolith_testkit::explorer::{Explored, Explorer, level_mixes, schedules};
use isolith_testkit::programs::{Act, Key, Program, sequences};

/// Everything that can be done with the keys `a` and `b`.
const TWO_KEYS: [Act; 12] = [
    Act::Get(0),
    Act::Get(1),
    Act::ForUpdate(0),
    Act::Put(0),
    Act::Put(1),
    Act::Delete(0),
    Act::Scan(0, 1),
    Act::Scan(1, 2),
    Act::First,
    Act::Last,
    Act::DeleteRange(0, 1),
    Act::DeleteRange(1, 2),
];

/// The initial states: nothing, one key, both.
const PRESENT: [&[Key]; 3] = [&[], &[0], &[0, 1]];

/// What an everyday run looks at.
struct Everyday {
    /// Each n-th set of programs, levels and initial state.
    case: usize,
    /// Each n-th schedule of it.
    schedule: usize,
}

/// Explores programs from `all`, `count` at a time.
fn explore(name: &str, all: &[Vec<Act>], count: usize, everyday: Everyday) -> Explored {
    let every = stride(everyday.case);
    let thin = stride(everyday.schedule);
    let seed = run_seed(name) as usize;
    let offset = seed % every;
    let longest = all.iter().map(Vec::len).max().unwrap_or(0);
    // Schedules by the lengths of the programs.
    let shapes = longest.pow(count as u32);
    let lengths = |shape: usize| -> Vec<usize> {
        (0..count).map(|who| shape / longest.pow(who as u32) % longest + 1).collect()
    };
    let thinned = |shape| {
        let all = schedules(&lengths(shape));
        all.into_iter().skip(seed % thin).step_by(thin).collect::<Vec<_>>()
    };
    let by_shape: Vec<_> = (0..shapes).map(thinned).collect();
    let mixes = level_mixes(count);
    let mut explorer = Explorer::new().expect("a database in memory");
    let mut number = 0;
    let mut chosen = vec![0usize; count];
    loop {
        let acts: Vec<&Vec<Act>> = chosen.iter().map(|index| &all[*index]).collect();
        let changes = acts.iter().filter(|acts| acts.iter().any(|act| act.changes())).count();
        // Without somebody who changes something there is nothing to see.
        if changes > 0 {
            for mix in &mixes {
                for present in PRESENT {
                    number += 1;
                    if number % every != offset {
                        continue;
                    }
                    let program = |(acts, isolation): (&&Vec<Act>, &Isolation)| Program {
                        isolation: *isolation,
                        acts: acts.to_vec(),
                    };
                    let programs: Vec<Program> = acts.iter().zip(mix).map(program).collect();
                    let shape = (0..count)
                        .map(|who| (acts[who].len() - 1) * longest.pow(who as u32))
                        .sum::<usize>();
                    explorer.explore(present, &programs, &by_shape[shape]).unwrap();
                }
            }
        }
        // The next multiset: indices never ascend, since the transactions' order does not matter.
        let Some(place) = (0..count).find(|place| {
            let bound = if *place + 1 < count { chosen[place + 1] } else { all.len() - 1 };
            chosen[*place] < bound
        }) else {
            break;
        };
        chosen[place] += 1;
        chosen[..place].fill(0);
    }
    println!("{name}: {:?} (of {number} cases)", explorer.explored);
    explorer.explored
}

#[test]
fn two_transactions_of_two_operations_keep_their_levels() {
    let all = sequences(&TWO_KEYS, 2);
    let name = "two_transactions_of_two_operations_keep_their_levels";
    let explored = explore(name, &all, 2, Everyday { case: 20, schedule: 1 });
    assert!(explored.verdicts.committed > 0 && explored.verdicts.refused > 0);
}

#[test]
fn two_transactions_of_three_operations_keep_their_levels() {
    let alphabet = [
        Act::Get(0),
        Act::ForUpdate(1),
        Act::Put(0),
        Act::Put(1),
        Act::Scan(0, 1),
        Act::DeleteRange(0, 0),
    ];
    let name = "two_transactions_of_three_operations_keep_their_levels";
    explore(name, &sequences(&alphabet, 3), 2, Everyday { case: 40, schedule: 5 });
}

#[test]
fn three_transactions_keep_their_levels() {
    let alphabet =
        [Act::Get(0), Act::Get(1), Act::Put(0), Act::Put(1), Act::Scan(0, 1), Act::Delete(0)];
    let name = "three_transactions_keep_their_levels";
    explore(name, &sequences(&alphabet, 2), 3, Everyday { case: 50, schedule: 200 });
}

#[test]
fn readers_see_what_is_acknowledged_and_no_more() {
    let schedules = acknowledged::schedules();
    let mut stage = Stage::new().unwrap();
    let mut runs = 0u64;
    let every = stride(7);
    let offset = if every > 1 {
        run_seed("readers_see_what_is_acknowledged_and_no_more") as usize % every
    } else {
        0
    };
    for first in LEVELS {
        for second in LEVELS {
            for reader in READERS {
                for schedule in schedules.iter().skip(offset).step_by(every) {
                    runs += 1;
                    stage.run([first, second], reader, schedule).unwrap_or_else(|finding| {
                        panic!("{first:?}, {second:?}, {reader:?}, {schedule:?}: {finding}")
                    });
                }
            }
        }
    }
    println!(
        "readers_see_what_is_acknowledged_and_no_more: {runs} runs, {} schedules",
        schedules.len()
    );
}

#[test]
fn readers_find_their_versions_while_visible_runs_ahead() {
    let seed = run_seed("readers_find_their_versions_while_visible_runs_ahead");
    for round in 0..8 * effort() as u64 {
        acknowledged::lagging(seed ^ round, 1_000).unwrap();
    }
}
