//! The table beside its plain double: random programs of a few owners over a few keys and intervals, the
//! same answers, the same wake-ups, and every promise looked at after each step.
//!
//! `ISOLITH_SEED=n` repeats a run, `ISOLITH_PROGRAMS=n` sets how many programs.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Waker;

use isolith_index::{Kind, Value};
use isolith_wal::random_seed;

use super::plain::PlainTable;
use super::{Target, Woken, space};
use crate::locks::table::Table;
use crate::locks::*;

const OWNERS: usize = 6;
const STEPS: usize = 60;
const MODES: [LockMode; 4] =
    [LockMode::Shared, LockMode::Update, LockMode::Exclusive, LockMode::Merge];
const TARGETS: [&str; 14] = [
    "a", "b", "c", "c", "d", "[a,b]", "(a,b]", "[b,c)", "[c,d]", "(b,d)", "(,b)", "[c,]", "(,]",
    "[b,a]",
];
const KEYS: [&str; 6] = ["", "a", "aa", "b", "c", "d"];

const KINDS: [Kind; 3] = [Kind::Put, Kind::Delete, Kind::Merge { operator: 1 }];

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % below
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

fn identity(age: u64, serial: u64, policy: DeadlockPolicy) -> Arc<Identity> {
    Arc::new(Identity {
        age: Age::from_bits(age),
        serial,
        policy,
        state: AtomicU32::new(ACTIVE),
        slot: AtomicU32::new(NO_SLOT),
        count: atomic::AtomicUsize::new(0),
        bytes: atomic::AtomicUsize::new(0),
    })
}

/// One owner in both tables.
struct Actor {
    real: Arc<Identity>,
    plain: Arc<Identity>,
    real_woken: Arc<Woken>,
    plain_woken: Arc<Woken>,
    /// What it asked for last, if that waits.
    waits: Option<(usize, Target, LockMode)>,
}

impl Actor {
    fn new(age: u64, serial: u64, policy: DeadlockPolicy) -> Self {
        Self {
            real: identity(age, serial, policy),
            plain: identity(age, serial, policy),
            real_woken: Arc::default(),
            plain_woken: Arc::default(),
            waits: None,
        }
    }
}

struct Both {
    real: Table,
    plain: PlainTable,
    real_spaces: [Arc<Space>; 2],
    plain_spaces: [Arc<Space>; 2],
    actors: Vec<Actor>,
    serial: u64,
}

/// A refusal without the names of the locks, of which an owner may have several in the way.
fn outline(step: &LockStep) -> String {
    let ages = |holders: &[Holder]| holders.iter().map(|h| h.age.bits()).collect::<Vec<_>>();
    match step {
        LockStep::Refused(Refusal::Refused { holders }) => {
            format!("refused by {:?}", ages(holders))
        }
        LockStep::Refused(Refusal::Deadlock { cycle }) => format!("deadlock {:?}", ages(cycle)),
        other => format!("{other:?}"),
    }
}

impl Both {
    fn finish(&mut self, mut effects: Effects) {
        loop {
            for waker in effects.wake.drain(..) {
                waker.wake();
            }
            let Some(identity) = effects.stripped.pop() else { return };
            while self.real.release(&identity, 3, false, &mut effects) {}
        }
    }

    fn lock(&mut self, who: usize, at: usize, target: &Target, mode: LockMode) -> String {
        let actor = &mut self.actors[who];
        let (mut real_effects, mut plain_effects) = (Effects::default(), Effects::default());
        let real = self.real.lock(
            &actor.real,
            &self.real_spaces[at],
            target.lend(),
            mode,
            Some(&Waker::from(Arc::clone(&actor.real_woken))),
            &mut real_effects,
        );
        let plain = self.plain.lock(
            &actor.plain,
            &self.plain_spaces[at],
            target.lend(),
            mode,
            Some(&Waker::from(Arc::clone(&actor.plain_woken))),
            &mut plain_effects,
        );
        actor.waits = (real == LockStep::Waiting).then(|| (at, target.clone(), mode));
        assert_eq!(outline(&real), outline(&plain));
        self.finish(real_effects);
        self.finish(plain_effects);
        outline(&real)
    }

    fn cancel(&mut self, who: usize, timed_out: bool) -> String {
        let actor = &mut self.actors[who];
        let (mut real_effects, mut plain_effects) = (Effects::default(), Effects::default());
        let real = self.real.cancel(&actor.real, timed_out, &mut real_effects);
        let plain = self.plain.cancel(actor.plain.serial, timed_out, &mut plain_effects);
        actor.waits = None;
        let ages = |holders: Vec<Holder>| holders.iter().map(|h| h.age).collect::<Vec<_>>();
        let (real, plain) = (ages(real), ages(plain));
        assert_eq!(real, plain);
        self.finish(real_effects);
        self.finish(plain_effects);
        format!("{real:?}")
    }

    fn end(&mut self, who: usize, random: &mut Random) {
        let actor = &mut self.actors[who];
        let (mut real_effects, mut plain_effects) = (Effects::default(), Effects::default());
        actor.real.state.store(OVER, Ordering::SeqCst);
        actor.plain.state.store(OVER, Ordering::SeqCst);
        let at_once = 1 + random.below(4);
        while self.real.release(&actor.real, at_once, true, &mut real_effects) {}
        self.plain.release(actor.plain.serial, &mut plain_effects);
        self.serial += 1;
        // A retry keeps its age; two of one age are not forbidden.
        let age = if random.below(3) == 0 { actor.real.age.bits() } else { self.serial };
        let policy = random.pick(&DeadlockPolicy::ALL);
        self.actors[who] = Actor::new(age, self.serial, policy);
        self.finish(real_effects);
        self.finish(plain_effects);
    }

    /// Whether somebody stands in the way of a few writes, `own` exempt.
    fn compare_writes(&self, random: &mut Random) {
        let own = random.below(OWNERS + 1);
        let own = self.actors.get(own);
        let (keys, range) = (random.below(4), Target::parse(random.pick(&TARGETS)));
        // A commit writes a key once. Not always in order.
        let mut keys: Vec<_> =
            (0..keys).map(|_| (random.pick(&KEYS), random.pick(&KINDS))).collect();
        let mut seen = Vec::new();
        keys.retain(|(key, _)| !seen.contains(key) && (seen.push(*key), true).1);
        let with_range = random.below(3) == 0;
        let writes = |space: &Arc<Space>| {
            let mut prepared = space.prepare(keys.len());
            for (key, kind) in &keys {
                prepared.add(key.as_bytes(), *kind, Value::new(b""), 0);
            }
            if let (Target::Range(range), true) = (&range, with_range) {
                prepared.add_range_delete((range.lower_ref(), range.upper_ref()));
            }
            [SpaceWrites::new(Arc::clone(space), prepared)]
        };
        let at = random.below(8) / 7;
        let real_writes = writes(&self.real_spaces[at]);
        let real = self.real.stands_in_the_way(own.map(|own| &*own.real), &real_writes);
        let plain_writes = writes(&self.plain_spaces[at]);
        let plain = self.plain.stands_in_the_way(own.map(|own| own.plain.serial), &plain_writes);
        assert_eq!(real, plain, "{real_writes:?}");
    }

    fn compare(&self) {
        self.real.check();
        self.plain.check();
        let mut plain_stats = self.plain.stats();
        let real_stats = self.real.stats();
        plain_stats.held = real_stats.held;
        assert_eq!(real_stats, plain_stats);
        for actor in &self.actors {
            assert_eq!(actor.real_woken.take() > 0, actor.plain_woken.take() > 0, "woken");
            assert_eq!(actor.real.state(), actor.plain.state());
            let count = self.plain.count_of(actor.plain.serial);
            assert_eq!(actor.real.count(), count, "{:?}", actor.real);
            for (space, key) in (1..=2).flat_map(|space| KEYS.map(|key| (space, key))) {
                assert_eq!(
                    self.real.holds(&actor.real, space, key.as_bytes()),
                    self.plain.holds(actor.plain.serial, space, key.as_bytes()),
                    "{space} {key:?} {:?}",
                    actor.real
                );
            }
            let ages = |wound: Option<Wound>| wound.map(|w| outline(&LockStep::Refused(w.into())));
            let plain = self.plain.wound_of(actor.plain.serial);
            assert_eq!(ages(self.real.wound_of(&actor.real)), ages(plain));
        }
        for (real, plain) in self.real_spaces.iter().zip(&self.plain_spaces) {
            assert_eq!(real.has_lockers(), plain.has_lockers());
        }
    }
}

fn program(seed: u64, log: &mut Vec<String>) -> LockStats {
    let mut random = Random(seed);
    let mut both = Both {
        real: Table::default(),
        plain: PlainTable::default(),
        real_spaces: [space(1), space(2)],
        plain_spaces: [space(1), space(2)],
        actors: Vec::new(),
        serial: OWNERS as u64,
    };
    let one_policy = (random.below(2) == 0).then(|| random.pick(&DeadlockPolicy::ALL));
    for serial in 0..OWNERS as u64 {
        let policy = one_policy.unwrap_or_else(|| random.pick(&DeadlockPolicy::ALL));
        log.push(format!("{serial} is {policy}"));
        both.actors.push(Actor::new(serial, serial, policy));
    }
    for _ in 0..STEPS {
        let who = random.below(OWNERS);
        let state = both.actors[who].real.state();
        let note = match random.below(20) {
            0 => {
                both.end(who, &mut random);
                let actor = &both.actors[who];
                format!("ends, now {:?} {}", actor.real.age, actor.real.policy)
            }
            1 if both.actors[who].waits.is_some() => {
                let timed_out = random.below(2) == 0;
                format!("gives up {}", both.cancel(who, timed_out))
            }
            2 if both.actors[who].waits.is_none() && state == ACTIVE => {
                let actor = &both.actors[who];
                assert!(actor.real.exchange(ACTIVE, COMMITTING));
                assert!(actor.plain.exchange(ACTIVE, COMMITTING));
                "commits".into()
            }
            _ if state == COMMITTING => {
                if random.below(3) == 0 {
                    let actor = &both.actors[who];
                    assert!(actor.real.exchange(COMMITTING, ACTIVE));
                    assert!(actor.plain.exchange(COMMITTING, ACTIVE));
                    "returns".into()
                } else {
                    continue;
                }
            }
            3..=6 if both.actors[who].waits.is_some() => {
                let (at, target, mode) = both.actors[who].waits.clone().unwrap();
                format!("asks again: {}", both.lock(who, at, &target, mode))
            }
            _ if both.actors[who].waits.is_some() && random.below(8) > 0 => continue,
            _ => {
                let at = random.below(8) / 7;
                let (target, mode) = (random.pick(&TARGETS), random.pick(&MODES));
                log.push(format!("{who} {mode} {target} in {at}"));
                both.lock(who, at, &Target::parse(target), mode)
            }
        };
        log.push(format!("{who} {note}"));
        both.compare();
        both.compare_writes(&mut random);
    }
    // Everybody goes, and nobody is left waiting for somebody who has gone.
    for who in 0..OWNERS {
        both.end(who, &mut random);
        both.compare();
    }
    let stats = both.real.stats();
    assert_eq!((stats.held, stats.waiting), (0, 0));
    assert!(!both.real_spaces.iter().any(|space| space.has_lockers()));
    stats
}

#[test]
fn the_table_answers_as_its_plain_double() {
    let programs = std::env::var("ISOLITH_PROGRAMS").map_or(3000, |n| n.parse().unwrap());
    let seed = std::env::var("ISOLITH_SEED").map_or_else(|_| random_seed(), |s| s.parse().unwrap());
    let mut seen = LockStats::default();
    for seed in (0..programs).map(|n| seed.wrapping_add(n)) {
        let mut log = Vec::new();
        let done =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| program(seed, &mut log)));
        match done {
            Ok(stats) => {
                seen.waits += stats.waits;
                seen.wounds += stats.wounds;
                seen.deadlocks += stats.deadlocks;
                seen.refusals += stats.refusals;
                seen.timeouts += stats.timeouts;
            }
            Err(panic) => {
                eprintln!("ISOLITH_SEED={seed} ISOLITH_PROGRAMS=1\n{}", log.join("\n"));
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{programs} programs: {seen:?}");
    if programs >= 1000 {
        let least = seen.waits.min(seen.wounds).min(seen.deadlocks).min(seen.refusals);
        assert!(
            least.min(seen.timeouts) > programs / 10,
            "the programs are about something: {seen:?}"
        );
    }
}
