//! Every interleaving of small transactions, at each pair of levels and concurrency controls, judged
//! by brute force; the anomalies that each level allows, witnessed; and every order of decision,
//! acknowledgement, sync and reading.
//!
//! Everyday runs look at each n-th case, beginning with one that the seed chooses;
//! `ISOLITH_EFFORT=<n>` looks at n times as many, up to all of them. The counts are printed
//! (`--nocapture`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use isolith::{CommitMode, Concurrency, Isolation};
use isolith_testkit::acknowledged::{self, LEVELS, READERS, Stage};
use isolith_testkit::anomalies::Anomaly;
use isolith_testkit::dice::{Dice, effort, part, run_seed, stride};
use isolith_testkit::enumeration::{self, Enumerated, Mix, without_policies, without_victims};
use isolith_testkit::explorer::{
    Ages, Beginning, Explored, Explorer, Upheaval, protection, protections,
};
use isolith_testkit::finding::{Checked, Finding};
use isolith_testkit::oracle;
use isolith_testkit::programs::{Act, Keys, Program, initial, sequences};

/// Reads, writes (of keys that are there, and inserts), deletes and a range, over two keys.
const TWO_KEYS: [Act; 7] = [
    Act::Get(0),
    Act::Get(1),
    Act::Put(0),
    Act::Put(1),
    Act::Delete(0),
    Act::Delete(1),
    Act::Scan(0, 1),
];

/// Of those what three operations are made of.
const SIX: [Act; 6] =
    [Act::Get(0), Act::Get(1), Act::Put(0), Act::Put(1), Act::Delete(0), Act::Scan(0, 1)];

/// What else can be done with them.
const EVERYTHING: [Act; 17] = [
    Act::Get(0),
    Act::Get(1),
    Act::ForUpdate(0),
    Act::ForUpdate(1),
    Act::ForShare(0),
    Act::Put(0),
    Act::Put(1),
    Act::Delete(0),
    Act::Delete(1),
    Act::Merge(0),
    Act::Merge(1),
    Act::Scan(0, 1),
    Act::Scan(1, 2),
    Act::First,
    Act::Last,
    Act::DeleteRange(0, 1),
    Act::LockRange(0, 1),
];

/// The initial states: nothing, one key, both.
const PRESENT: [Keys; 4] = [Keys::NONE, Keys::one(0), Keys::one(1), Keys::between(0, 1)];

/// Explores programs from `all`, as many at a time as the mixes are wide: each `every`-th case of
/// all programs, initial states and mixes.
fn explore(name: &str, all: &[Vec<Act>], mixes: &[Mix], every: usize) {
    match stride(every) {
        1 => explore_whole(name, all, mixes),
        _ => explore_upset(name, all, mixes, &[&[]], every),
    }
}

/// Explores all of them, or a part of all.
fn explore_whole(name: &str, all: &[Vec<Act>], mixes: &[Mix]) {
    let width = mixes[0].len();
    let (part, parts) = part();
    // By number: the digits are the initial state and the operations. Dealt out to the parts in turn.
    let numbers = PRESENT.len() * all.len().pow(width as u32);
    let (next, total) = (AtomicUsize::new(part - 1), Mutex::new(Enumerated::default()));
    let finding = Mutex::new(None::<Finding>);
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let work = || -> Checked {
        let mut explorer = Explorer::new()?;
        while finding.lock().unwrap().is_none() {
            // Relaxed: a counter of what is taken, and nothing else.
            let mut number = next.fetch_add(parts, Ordering::Relaxed);
            if number >= numbers {
                break;
            }
            let mut digit = |size: usize| {
                let digit = number % size;
                number /= size;
                digit
            };
            let present = PRESENT[digit(PRESENT.len())];
            let chosen: Vec<usize> = (0..width).map(|_| digit(all.len())).collect();
            let programs = |mix: &Mix| programs_of(all, mix, &chosen);
            let found = enumeration::enumerate(&mut explorer, present, mixes, &programs)?;
            total.lock().unwrap().add(&found);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                if let Err(found) = work() {
                    finding.lock().unwrap().get_or_insert(found);
                }
            });
        }
    });
    if let Some(finding) = finding.into_inner().unwrap() {
        panic!("{name}: {finding}");
    }
    let Enumerated { played, cases, histories } = total.into_inner().unwrap();
    println!(
        "{name}: part {part} of {parts}: {cases} cases, {histories} histories; played: {} cases, \
         {} histories, {} moves, {} waits, {:?}",
        played.cases, played.histories, played.moves, played.waits, played.verdicts
    );
}

/// The programs of these operations under this mix. None without somebody who changes something:
/// there is nothing to see; and none for mirror images: the order of two transactions does not
/// matter.
fn programs_of(all: &[Vec<Act>], mix: &Mix, chosen: &[usize]) -> Option<Vec<Program>> {
    let program = |who: usize| Program {
        isolation: mix[who].0,
        concurrency: mix[who].1,
        acts: all[chosen[who]].clone(),
    };
    let programs: Vec<Program> = (0..mix.len()).map(program).collect();
    let ordered =
        (1..mix.len()).all(|who| mix[who - 1] != mix[who] || chosen[who - 1] <= chosen[who]);
    (ordered && programs.iter().any(Program::changes)).then_some(programs)
}

/// The same with one of these things that befall the versions, over files if there are any.
fn explore_upset(
    name: &str,
    all: &[Vec<Act>],
    mixes: &[Mix],
    scripts: &[&[Upheaval]],
    every: usize,
) {
    let every = stride(every);
    let offset = run_seed(name) as usize % every;
    let width = mixes[0].len();
    let over_files = scripts.iter().any(|script| !script.is_empty());
    // Cases by number: the digits are the script, the initial state, the mix and the programs.
    let sizes = [vec![scripts.len(), PRESENT.len(), mixes.len()], vec![all.len(); width]].concat();
    let cases = sizes.iter().product::<usize>();
    let case = |mut number: usize| -> Option<(&[Upheaval], Keys, Vec<Program>)> {
        let mut digit = |size: usize| {
            let digit = number % size;
            number /= size;
            digit
        };
        let (script, present) = (scripts[digit(sizes[0])], PRESENT[digit(sizes[1])]);
        let mix = &mixes[digit(sizes[2])];
        let chosen: Vec<usize> = (0..width).map(|_| digit(all.len())).collect();
        programs_of(all, mix, &chosen).map(|programs| (script, present, programs))
    };
    let next = AtomicUsize::new(0);
    let (total, findings) = (Mutex::new(Explored::default()), Mutex::new(Vec::<Finding>::new()));
    let threads = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let explorer = if over_files { Explorer::over_files() } else { Explorer::new() };
                let mut explorer = explorer.expect("a database in memory");
                // Relaxed: a counter of what is taken, and nothing else.
                while findings.lock().unwrap().is_empty() {
                    let block = next.fetch_add(64, Ordering::Relaxed);
                    let numbers = (block..block + 64).map(|nth| scattered(nth, every, offset));
                    let mut numbers = numbers.take_while(|number| *number < cases).peekable();
                    if numbers.peek().is_none() {
                        break;
                    }
                    for (script, present, programs) in numbers.filter_map(case) {
                        explorer.upset_by(script);
                        for beginning in Beginning::that_matter(present, &programs) {
                            if let Err(finding) = explorer.explore(beginning, &programs) {
                                findings.lock().unwrap().push(finding);
                                return;
                            }
                        }
                    }
                }
                total.lock().unwrap().add(&explorer.explored);
            });
        }
    });
    if let Some(finding) = findings.into_inner().unwrap().first() {
        panic!("{name}: {finding}");
    }
    let total = total.into_inner().unwrap();
    let Explored { cases: looked_at, histories, moves, waits, verdicts, .. } = &total;
    println!(
        "{name}: {looked_at} of {cases} cases, {histories} histories, {moves} moves, {waits} waits, {verdicts:?}"
    );
}

/// The `nth` case of those that are looked at: one of each `every`, and not always the same one, so
/// that no digit of a case's number is always the same.
fn scattered(nth: usize, every: usize, offset: usize) -> usize {
    let within = Dice::new((nth * every + offset) as u64).below(every);
    nth * every + within
}

/// Every pair of ways to protect a transaction, without its mirror image.
fn pairs() -> Vec<Mix> {
    let all = protections();
    let with = |first: usize| {
        let all = &all;
        (first..all.len()).map(move |second| vec![all[first], all[second]])
    };
    (0..all.len()).flat_map(with).collect()
}

fn equal(width: usize) -> Vec<Mix> {
    protections().into_iter().map(|protection| vec![protection; width]).collect()
}

#[test]
fn two_transactions_of_two_operations_keep_their_levels() {
    let name = "two_transactions_of_two_operations_keep_their_levels";
    explore(name, &sequences(&TWO_KEYS, 2), &pairs(), 300);
}

#[test]
fn two_transactions_of_two_operations_of_any_kind_keep_their_levels() {
    let name = "two_transactions_of_two_operations_of_any_kind_keep_their_levels";
    explore(name, &sequences(&EVERYTHING, 2), &pairs(), 40_000);
}

#[test]
fn two_transactions_of_three_operations_keep_their_level() {
    let name = "two_transactions_of_three_operations_keep_their_level";
    explore(name, &sequences(&SIX, 3), &equal(2), 2_000);
}

#[test]
fn two_transactions_of_three_operations_keep_their_levels() {
    let name = "two_transactions_of_three_operations_keep_their_levels";
    explore(name, &sequences(&SIX, 3), &pairs(), 100_000);
}

/// What enumerations leave out is the same as what they play.
#[test]
fn policies_and_ages_matter_only_where_a_lock_is_in_the_way() {
    let mut dice = Dice::new(run_seed("policies_and_ages_matter_only_where_a_lock_is_in_the_way"));
    let (acts, mixes) = (sequences(&EVERYTHING, 2), pairs());
    let mut explorer = Explorer::new().unwrap();
    let (mut quiet, mut without_circles) = (0, 0);
    while quiet < 40 * effort() || without_circles < 40 * effort() {
        let chosen = [dice.below(acts.len()), dice.below(acts.len())];
        let mix = dice.pick(&mixes);
        let Some(programs) = programs_of(&acts, mix, &chosen) else { continue };
        let beginnings = Beginning::that_matter(*dice.pick(&PRESENT), &programs);
        let beginning = *dice.pick(&beginnings);
        let (expected, fights, circles) = explorer.histories(beginning, &programs).unwrap();
        let same: &dyn Fn(&Mix) -> Mix = match (fights, circles) {
            (0, _) => &without_policies,
            (_, 0) => &without_victims,
            _ => continue,
        };
        let ages = match fights {
            0 => vec![Ages::Begun, Ages::Reversed],
            _ => vec![beginning.ages],
        };
        let others: Vec<&Mix> = mixes.iter().filter(|other| same(other) == same(mix)).collect();
        if others.len() == 1 {
            continue;
        }
        *(if fights == 0 { &mut quiet } else { &mut without_circles }) += 1;
        for (other, ages) in others.iter().flat_map(|one| ages.iter().map(move |ages| (one, ages)))
        {
            let Some(others) = programs_of(&acts, other, &chosen) else { continue };
            let beginning = Beginning { ages: *ages, ..beginning };
            let (mut found, ..) = explorer.histories(beginning, &others).unwrap();
            for traces in &mut found {
                for (trace, program) in traces.iter_mut().zip(&programs) {
                    trace.program.concurrency = program.concurrency;
                }
            }
            assert!(found == expected, "{programs:?}, {beginning:?}: {others:?}");
        }
    }
}

/// Programs that take something back: after one operation, or before one.
fn with_savepoints() -> Vec<Vec<Act>> {
    const ACTS: [Act; 8] = [
        Act::Get(0),
        Act::ForUpdate(0),
        Act::Put(0),
        Act::Put(1),
        Act::Delete(0),
        Act::Merge(0),
        Act::Scan(0, 1),
        Act::DeleteRange(0, 1),
    ];
    let pairs = || ACTS.into_iter().flat_map(|first| ACTS.map(|second| (first, second)));
    let before = pairs().map(|(one, two)| vec![Act::Savepoint, one, Act::RollbackTo, two]);
    let after = pairs().map(|(one, two)| vec![one, Act::Savepoint, two, Act::RollbackTo]);
    before.chain(after).collect()
}

#[test]
fn transactions_that_roll_back_to_savepoints_keep_their_levels() {
    let name = "transactions_that_roll_back_to_savepoints_keep_their_levels";
    let programs = [with_savepoints(), sequences(&SIX, 1)].concat();
    explore(name, &programs, &pairs(), 20_000);
}

/// What befalls the versions at every place of every history. What takes files is only sampled: it is
/// slow, since a flush gives readers time to let go.
const SCRIPTS: [&[Upheaval]; 2] = [&[Upheaval::Freeze], &[Upheaval::Freeze, Upheaval::Freeze]];

#[test]
fn two_transactions_keep_their_levels_whatever_is_frozen() {
    let name = "two_transactions_keep_their_levels_whatever_is_frozen";
    explore_upset(name, &sequences(&TWO_KEYS, 2), &pairs(), &SCRIPTS, 1_200_000);
}

#[test]
fn two_transactions_of_any_kind_keep_their_levels_whatever_is_frozen() {
    let name = "two_transactions_of_any_kind_keep_their_levels_whatever_is_frozen";
    explore_upset(name, &sequences(&EVERYTHING, 2), &pairs(), &SCRIPTS, 36_000_000);
}

#[test]
fn transactions_keep_their_levels_whatever_is_frozen_and_flushed_in_between() {
    let all = protections();
    let seed = run_seed("transactions_keep_their_levels_whatever_is_frozen_and_flushed_in_between");
    let mut dice = Dice::new(seed);
    let acts = sequences(&EVERYTHING, 2);
    let everything = [Upheaval::Freeze, Upheaval::Flush, Upheaval::Compact, Upheaval::Prune];
    let mut explorer = Explorer::over_files().expect("a database in memory");
    for _ in 0..120 * effort() {
        let programs: Vec<Program> = (0..2 + dice.below(2))
            .map(|_| {
                let (isolation, concurrency) = *dice.pick(&all);
                Program { isolation, concurrency, acts: dice.pick(&acts).clone() }
            })
            .collect();
        let script: Vec<Upheaval> =
            (0..2 + dice.below(6)).map(|_| *dice.pick(&everything)).collect();
        explorer.upset_by(&script);
        let present = *dice.pick(&PRESENT);
        let beginning = *dice.pick(&Beginning::that_matter(present, &programs));
        explorer.sample(beginning, &programs, &mut dice, 10).unwrap();
    }
    let (flushes, compactions) = explorer.flushes_and_compactions();
    assert!(flushes > 0 && compactions > 0, "{flushes} flushes, {compactions} compactions");
    println!(
        "transactions_keep_their_levels_whatever_is_frozen_and_flushed_in_between: {:?}",
        explorer.explored
    );
}

#[test]
fn three_transactions_keep_their_levels() {
    let all = protections();
    let seed = run_seed("three_transactions_keep_their_levels");
    let mut dice = Dice::new(seed);
    let acts = sequences(&EVERYTHING, 2);
    let mut explorer = Explorer::new().expect("a database in memory");
    for _ in 0..400 * effort() {
        let programs = [(); 3].map(|()| {
            let (isolation, concurrency) = *dice.pick(&all);
            Program { isolation, concurrency, acts: dice.pick(&acts).clone() }
        });
        let present = *dice.pick(&PRESENT);
        let beginning = *dice.pick(&Beginning::that_matter(present, &programs));
        explorer.sample(beginning, &programs, &mut dice, 50).unwrap();
    }
    println!("three_transactions_keep_their_levels: {:?}", explorer.explored);
}

/// What the two commit modes answer is the same, to the last answer and refusal.
#[test]
fn the_serial_mode_answers_as_the_combining_mode_does() {
    let all = protections();
    let mut dice = Dice::new(run_seed("the_serial_mode_answers_as_the_combining_mode_does"));
    let mut combining = Explorer::with(CommitMode::Combining).unwrap();
    let mut serial = Explorer::with(CommitMode::Serial).unwrap();
    for _ in 0..20_000 * effort() {
        let programs: Vec<Program> = (0..2 + dice.below(2))
            .map(|_| {
                let (isolation, concurrency) = *dice.pick(&all);
                let acts = (0..1 + dice.below(4)).map(|_| *dice.pick(&EVERYTHING)).collect();
                Program { isolation, concurrency, acts }
            })
            .collect();
        let present = *dice.pick(&PRESENT);
        let beginning = *dice.pick(&Beginning::that_matter(present, &programs));
        let seed = dice.roll();
        let found = serial.history(beginning, &programs, seed).unwrap();
        let expected = combining.history(beginning, &programs, seed).unwrap();
        assert_eq!(found, expected, "{programs:?}, {beginning:?}, {seed}");
        oracle::judge(&initial(present), &found)
            .unwrap_or_else(|finding| panic!("{programs:?}, {beginning:?}, {seed}: {finding}"));
    }
}

/// Programs among which each anomaly has its witness.
const WITNESSES: [&[Act]; 12] = [
    &[Act::Get(0), Act::Put(0)],
    &[Act::Put(0)],
    &[Act::Get(0), Act::Get(1)],
    &[Act::Put(0), Act::Put(1)],
    &[Act::Get(0), Act::Put(1)],
    &[Act::Get(1), Act::Put(0)],
    &[Act::Scan(0, 0), Act::Put(1)],
    &[Act::Scan(1, 1), Act::Put(0)],
    &[Act::Scan(0, 1), Act::Scan(0, 1)],
    &[Act::Scan(0, 1), Act::Put(0)],
    &[Act::Scan(0, 1), Act::Put(1)],
    &[Act::Scan(0, 0), Act::Get(1), Act::Put(1)],
];

/// Anomalies that a level allows and a concurrency control never shows, and why.
const NOT_PRODUCED: [(Isolation, &str, Anomaly, &str); 0] = [];

#[test]
fn every_anomaly_that_a_level_allows_is_witnessed() {
    let mut explorer = Explorer::new().unwrap();
    let mut witnessed = BTreeMap::new();
    for (isolation, concurrency) in protections() {
        let program = |acts: &[Act]| Program { isolation, concurrency, acts: acts.to_vec() };
        for first in WITNESSES {
            for second in WITNESSES {
                for present in PRESENT {
                    let programs = [program(first), program(second)];
                    explorer.explore(Beginning::new(present), &programs).unwrap();
                }
            }
        }
        for anomaly in Anomaly::ALL {
            let found = explorer.explored.met.get(&(protection(isolation, concurrency), anomaly));
            witnessed
                .insert((isolation.to_string(), concurrency.to_string(), anomaly), found.copied());
        }
    }
    println!("{} histories", explorer.explored.histories);
    let mut missing = Vec::new();
    for isolation in Isolation::ALL {
        for anomaly in Anomaly::ALL {
            let mut line = format!("{:16} {:38}", isolation.to_string(), anomaly.to_string());
            for concurrency in Concurrency::ALL {
                let found = witnessed[&(isolation.to_string(), concurrency.to_string(), anomaly)];
                line += &format!(" {:>7}", found.map_or("-".into(), |count| count.to_string()));
                let excused = NOT_PRODUCED.iter().any(|(level, control, what, _)| {
                    (*level, *what) == (isolation, anomaly)
                        && concurrency.to_string().starts_with(control)
                });
                let allowed = anomaly.may_happen_at(isolation);
                assert!(allowed || found.is_none(), "{isolation}, {concurrency}: {anomaly}");
                if allowed && found.is_none() != excused {
                    missing.push((isolation, concurrency, anomaly, excused));
                }
            }
            println!("{line}");
        }
    }
    assert!(
        missing.is_empty(),
        "allowed and not witnessed, or excused and witnessed: {missing:#?}"
    );
}

#[test]
fn readers_see_what_is_acknowledged_and_no_more() {
    let schedules = acknowledged::schedules();
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
                let mut stage = Stage::new().unwrap();
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
