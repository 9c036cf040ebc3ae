//! Bugs that are planted one after the other, and the finders that must find each: what shows that
//! the other test targets can find anything.
//!
//! ```text
//! RUSTFLAGS="--cfg planted" CARGO_TARGET_DIR=target/planted cargo test -p isolith-testkit --test planted -- --nocapture
//! ```
//!
//! Without the flag no bug is compiled in anywhere, and this target says that it did nothing. The
//! list of bugs is told in `docs/testing.md`.

#[cfg(not(planted))]
#[test]
fn planted_bugs_are_skipped() {
    println!("skipped: build with RUSTFLAGS=\"--cfg planted\" to plant bugs");
}

#[cfg(planted)]
mod planted {
    use isolith::storage::faulty::Fault;
    use isolith::{Builder, CommitMode, Concurrency, Database, Isolation};
    use isolith_testkit::acknowledged::{self, LEVELS, READERS, Stage};
    use isolith_testkit::crash::enumerate::{Plan, enumerate, fail_each_call};
    use isolith_testkit::crash::{DISKS, Life, Script, damage};
    use isolith_testkit::dice::{Dice, run_seed};
    use isolith_testkit::explorer::{Beginning, Explorer, protections};
    use isolith_testkit::finding::catching;
    use isolith_testkit::freezes::across_a_freeze;
    use isolith_testkit::machine::{self, Setting};
    use isolith_testkit::operations::operation;
    use isolith_testkit::parts::in_parts;
    use isolith_testkit::programs::{Act, Keys, Program, sequences};
    use isolith_testkit::sizes::Sizes;
    use isolith_testkit::threads::{self, Load};
    use isolith_testkit::{Checked, Finding};
    use isolith_wal::planted;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    /// A short run of what the other targets do at length.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Finder {
        Model,
        Interleavings,
        Acknowledgements,
        Crashes,
        Failures,
        Damage,
        Circles,
        Bank,
        Counters,
        Overwriting,
        Freezes,
        Parts,
    }

    use Finder::{
        Acknowledgements, Bank, Circles, Counters, Crashes, Damage, Failures, Freezes,
        Interleavings, Model, Overwriting, Parts,
    };

    const FINDERS: [Finder; 12] = [
        Model,
        Interleavings,
        Circles,
        Acknowledgements,
        Crashes,
        Failures,
        Damage,
        Bank,
        Counters,
        Overwriting,
        Freezes,
        Parts,
    ];

    /// Each bug, and who must find it.
    const BUGS: [(&str, Finder); 69] = [
        ("acknowledge-before-sync", Crashes),
        ("missing-directory-sync", Crashes),
        ("unsynced-batch-counted-durable", Crashes),
        ("lsn-given-twice", Crashes),
        ("open-mark-left-out", Crashes),
        ("recovery-syncs-nothing", Crashes),
        ("close-writes-nothing", Crashes),
        ("torn-multi-keyspace-replay", Crashes),
        ("crc-not-checked", Damage),
        ("hole-accepted", Damage),
        ("failed-write-ignored", Failures),
        ("failed-sync-ignored", Failures),
        ("cached-bytes-trusted", Failures),
        ("os-acknowledged-unwritten", Acknowledgements),
        ("weak-not-raised", Acknowledgements),
        ("weak-raised-too-far", Acknowledgements),
        ("range-phantom", Interleavings),
        ("absent-key-untracked", Interleavings),
        ("read-misses-range-delete", Interleavings),
        ("put-misses-range-delete", Interleavings),
        ("range-delete-misses-put", Interleavings),
        ("first-committer-does-not-win", Interleavings),
        ("ring-not-consulted", Interleavings),
        ("points-validated-outside-alone", Interleavings),
        ("returned-keys-untracked", Interleavings),
        ("for-update-untracked", Interleavings),
        ("for-update-leaves-no-mark", Interleavings),
        ("statements-share-a-timestamp", Interleavings),
        ("locks-not-checked-by-committers", Interleavings),
        ("weak-writer-passes-locks", Interleavings),
        ("locks-released-before-installed", Interleavings),
        ("absent-key-not-locked", Interleavings),
        ("returned-keys-not-locked", Interleavings),
        ("scan-locks-only-what-it-found", Interleavings),
        ("range-delete-locks-nothing", Interleavings),
        ("upgrade-releases-shared", Interleavings),
        ("locked-at-an-old-timestamp", Interleavings),
        ("moved-on-without-validation", Interleavings),
        ("wounded-commits", Interleavings),
        ("older-ones-wounded", Interleavings),
        ("wrong-victim", Interleavings),
        ("lost-wake-up", Interleavings),
        ("abort-leaks-locks", Interleavings),
        ("circles-not-searched", Interleavings),
        ("circles-through-ranges-missed", Interleavings),
        ("circles-of-three-missed", Circles),
        ("round-not-awaited", Bank),
        ("own-write-missed-in-scan", Model),
        ("range-delete-hides-its-own-commit", Model),
        ("savepoint-keeps-range-delete", Model),
        ("expired-value-scanned", Model),
        ("dropped-keyspace-written", Model),
        ("newest-version-pruned", Model),
        ("merge-counts-as-blind", Interleavings),
        ("merges-folded-backwards", Model),
        ("merged-over-expired", Model),
        ("prune-forgets-s", Acknowledgements),
        ("snapshot-registered-without-recheck", Overwriting),
        ("read-without-recheck", Overwriting),
        ("batch-cut-beyond-visible", Overwriting),
        ("visible-before-installed", Counters),
        ("frozen-memtable-written", Freezes),
        ("frozen-not-validated", Freezes),
        ("ring-trusted-past-a-freeze", Freezes),
        ("part-ends-before-its-last-key", Parts),
        ("part-begins-with-the-last-key-before", Parts),
        ("part-overlooks-earlier-range-deletes", Parts),
        ("failed-part-overlooked", Parts),
        ("reference-to-the-end-of-its-value", Parts),
    ];

    fn model(seed: u64) -> Checked {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let programs = prop::collection::vec(operation(), 1..160);
        for _ in 0..2_500 {
            let tree = programs.new_tree(&mut runner).map_err(|why| Finding::new(why.message()))?;
            let (mode, retention_ms) = (CommitMode::Combining, 0);
            let sizes = Sizes::PLAIN;
            let setting = Setting { mode, logged: true, strict: true, retention_ms, sizes };
            machine::run(setting, &tree.current())?;
        }
        Ok(())
    }

    fn interleavings(seed: u64) -> Checked {
        let alphabet = [
            Act::Get(0),
            Act::ForUpdate(0),
            Act::Put(0),
            Act::Put(1),
            Act::Merge(0),
            Act::Scan(0, 1),
            Act::First,
            Act::DeleteRange(0, 1),
        ];
        let all = sequences(&alphabet, 2);
        let protections = protections();
        let mut dice = Dice::new(seed);
        let mut explorer = Explorer::new()?;
        for _ in 0..6_000 {
            let mut program = || {
                let (isolation, concurrency) = *dice.pick(&protections);
                Program { isolation, concurrency, acts: dice.pick(&all).clone() }
            };
            let programs = [program(), program()];
            let present =
                *dice.pick(&[Keys::NONE, Keys::one(0), Keys::one(1), Keys::between(0, 1)]);
            let beginning = *dice.pick(&Beginning::that_matter(present, &programs));
            explorer.explore(beginning, &programs)?;
        }
        Ok(())
    }

    /// Three that each want what the next one has.
    fn circles(seed: u64) -> Checked {
        let mut dice = Dice::new(seed);
        let mut explorer = Explorer::new()?;
        for control in Concurrency::ALL {
            let program = |acts: [Act; 2]| Program {
                isolation: Isolation::Serializable,
                concurrency: control,
                acts: acts.to_vec(),
            };
            let programs = [
                program([Act::Put(0), Act::Put(1)]),
                program([Act::Put(1), Act::Put(2)]),
                program([Act::Scan(2, 2), Act::Put(0)]),
            ];
            for beginning in Beginning::that_matter(Keys::NONE, &programs) {
                explorer.sample(beginning, &programs, &mut dice, 1_500)?;
            }
        }
        Ok(())
    }

    fn acknowledgements(seed: u64) -> Checked {
        let mut dice = Dice::new(seed);
        let schedules = acknowledged::schedules();
        let mut stage = Stage::new()?;
        for _ in 0..8_000 {
            let levels = [*dice.pick(&LEVELS), *dice.pick(&LEVELS)];
            let schedule = &schedules[dice.below(schedules.len())];
            stage.run(levels, *dice.pick(&READERS), schedule)?;
        }
        acknowledged::lagging(seed, 1_000)
    }

    fn plan(seed: u64) -> Plan {
        let (script, after) = (Script::every_corner(), Script::going_on());
        let sizes = Sizes::PLAIN;
        Plan { disk: DISKS[0], script, after, stride: 2, random: 2, nested: 0, sizes, seed }
    }

    fn crashes(seed: u64) -> Checked {
        for disk in DISKS {
            enumerate(&Plan { disk, ..plan(seed) })?;
        }
        Ok(())
    }

    fn failures(seed: u64) -> Checked {
        let plan = Plan { stride: 2, random: 0, ..plan(seed) };
        fail_each_call(&plan, &[Fault::Io], Life::FAULTY).map(drop)
    }

    fn damages(seed: u64) -> Checked {
        let mut dice = Dice::new(seed);
        let closed = damage::closed(&damage::synced_commits(24), true)?;
        let mut all = damage::flips(&closed.image, &mut dice, 8);
        all.extend(damage::blocks(&closed.image, &mut dice));
        closed.open_with_each(&all, 0).map(drop)
    }

    fn threaded() -> Checked<Database> {
        threads::threaded(Builder::in_memory())
    }

    fn find(finder: Finder, seed: u64) -> Checked {
        let mix = threads::strong();
        let load = |writers, transactions, keys| Load { mix, writers, transactions, keys, seed };
        match finder {
            Model => model(seed),
            Interleavings => interleavings(seed),
            Acknowledgements => acknowledgements(seed),
            Crashes => crashes(seed),
            Failures => failures(seed),
            Damage => damages(seed),
            Circles => circles(seed),
            Freezes => across_a_freeze(),
            Parts => in_parts(seed),
            Bank => threads::bank(&Database::in_memory(), &load(4, 6_000, 4)),
            Counters => threads::counters(&threaded()?, &load(4, 3_000, 2)),
            Overwriting => threads::overwriting(&threaded()?, &load(2, 6_000, 10), 8 << 20),
        }
    }

    #[test]
    fn every_planted_bug_is_found() {
        let seed = run_seed("every_planted_bug_is_found");
        planted::plant(None);
        for finder in FINDERS {
            find(finder, seed).unwrap_or_else(|finding| panic!("{finder:?}, sound: {finding}"));
        }
        // What a bug makes panic is told by the finding.
        std::panic::set_hook(Box::new(|_| {}));
        let only = std::env::var("ISOLITH_PLANT").ok();
        let mut missed = Vec::new();
        for (bug, finder) in BUGS {
            if only.as_ref().is_some_and(|only| only != bug) {
                continue;
            }
            planted::plant(Some(bug));
            // What only a race of threads shows is looked for more than once.
            let tries = if matches!(finder, Bank | Counters | Overwriting) { 5 } else { 1 };
            let found = catching(|| (0..tries).try_for_each(|again| find(finder, seed ^ again)));
            let reached = planted::was_reached();
            planted::plant(None);
            match found {
                Err(finding) if reached => {
                    let text = finding.to_string();
                    let told = text.lines().last().unwrap_or_default();
                    println!("{bug:38} {finder:?}: {}", &told[..told.floor_char_boundary(140)]);
                }
                Err(finding) => missed.push(format!("{bug}: not reached, but {finding}")),
                Ok(()) => {
                    missed.push(format!("{bug}: {finder:?} finds nothing (reached: {reached})"))
                }
            }
        }
        drop(std::panic::take_hook());
        assert!(missed.is_empty(), "not found: {missed:#?}");
    }
}
