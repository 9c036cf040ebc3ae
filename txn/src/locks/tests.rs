//! Deadlocks and queues, text in, text out.
//!
//! Each line is `who does-what -> answer`; the answer ends with `, wakes a b` where wakers were called. `name is
//! AGE POLICY` makes an owner. What can be done: `S|U|X|M target` asks for a lock (a target is a key, or an
//! interval like `[a,c)`, `(a,]`; an end left out is open); `again` asks as before; `gives-up`, `ends`,
//! `commits`, `returns` (from a commit that did not come about), `count`, `holds KEY`.

mod compare;
mod cost;
mod plain;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Wake, Waker};

use isolith_index::{Kind, Memtable, Slice, Value};

use super::*;

#[derive(Default)]
pub(super) struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    pub(super) fn take(&self) -> u32 {
        self.0.swap(0, Ordering::SeqCst)
    }
}

struct Actor {
    owner: Option<LockOwner>,
    woken: Arc<Woken>,
    last: Option<(Target, LockMode)>,
}

#[derive(Clone)]
pub(super) enum Target {
    Key(Vec<u8>),
    Range(Interval),
}

impl Target {
    pub(super) fn lend(&self) -> LockTarget<'_> {
        match self {
            Target::Key(key) => LockTarget::Key(key),
            Target::Range(interval) => LockTarget::Range(interval),
        }
    }

    pub(super) fn parse(text: &str) -> Target {
        if !text.starts_with(['[', '(']) {
            return Target::Key(text.into());
        }
        let (lower, upper) = text[1..text.len() - 1].split_once(',').expect("two ends");
        let bound = |key: &str, included: bool| match (key, included) {
            ("", _) => std::ops::Bound::Unbounded,
            (key, true) => std::ops::Bound::Included(Slice::from(key)),
            (key, false) => std::ops::Bound::Excluded(Slice::from(key)),
        };
        let (lower, upper) =
            (bound(lower, text.starts_with('[')), bound(upper, text.ends_with(']')));
        Target::Range(Interval { lower, upper })
    }
}

fn mode(text: &str) -> Option<LockMode> {
    Some(match text {
        "S" => LockMode::Shared,
        "U" => LockMode::Update,
        "X" => LockMode::Exclusive,
        "M" => LockMode::Merge,
        _ => return None,
    })
}

pub(super) fn space(id: SpaceId) -> Arc<Space> {
    Arc::new(Space::new(id, Arc::new(Memtable::new(1))))
}

fn ages(holders: &[Holder]) -> String {
    holders.iter().map(|h| format!(" {}", h.age)).collect()
}

fn answer(step: &LockStep) -> String {
    match step {
        LockStep::Granted => "granted".into(),
        LockStep::Waiting => "waits".into(),
        LockStep::Refused(Refusal::Wounded { by }) => format!("wounded by {by}"),
        LockStep::Refused(Refusal::Refused { holders }) => format!("refused by{}", ages(holders)),
        LockStep::Refused(Refusal::Deadlock { cycle }) => format!("deadlock{}", ages(cycle)),
    }
}

fn run(script: &str) {
    let table = Arc::new(LockTable::new());
    let space = space(1);
    let mut actors: BTreeMap<String, Actor> = BTreeMap::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (left, expected) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<_> = left.split_whitespace().collect();
        let name = words[0];
        if words[1] == "is" {
            let age = Age::from_bits(words[2].parse().unwrap());
            let owner = Some(table.owner(age, words[3].parse().unwrap()));
            actors.insert(name.into(), Actor { owner, woken: Arc::default(), last: None });
            continue;
        }
        let actor = actors.get_mut(name).expect("an owner by that name");
        let owner = actor.owner.as_ref().expect("it has not ended");
        let mut said = match (words[1], mode(words[1])) {
            (_, Some(mode)) => {
                let target = Target::parse(words[2]);
                let waker = Waker::from(Arc::clone(&actor.woken));
                actor.last = Some((target.clone(), mode));
                answer(&owner.lock(&space, target.lend(), mode, Some(&waker)))
            }
            ("again", _) => {
                let (target, mode) = actor.last.as_ref().expect("it has asked before");
                let waker = Waker::from(Arc::clone(&actor.woken));
                answer(&owner.lock(&space, target.lend(), *mode, Some(&waker)))
            }
            ("gives-up", _) => format!("waited for{}", ages(&owner.cancel_wait(true))),
            ("commits", _) => if owner.begin_commit() { "yes" } else { "no" }.into(),
            ("returns", _) => {
                owner.back_to_active();
                String::new()
            }
            ("count", _) => owner.lock_count().to_string(),
            ("holds", _) => match owner.holds(1, words[2].as_bytes()) {
                Some(mode) => mode.to_string(),
                None => "nothing".into(),
            },
            ("ends", _) => {
                actor.owner = None;
                String::new()
            }
            (what, _) => panic!("cannot {what}"),
        };
        let woken = actors.iter().filter(|(_, actor)| actor.woken.take() > 0);
        let woken: Vec<_> = woken.map(|(name, _)| name.as_str()).collect();
        if !woken.is_empty() {
            said += &format!(", wakes {}", woken.join(" "));
        }
        assert_eq!(said.trim_start_matches(", "), expected.trim(), "{line}");
    }
    let everybody_waits = actors.values().filter_map(|actor| actor.owner.as_ref()).count();
    drop(actors);
    let stats = table.stats();
    assert_eq!((stats.held, stats.waiting), (0, 0), "{everybody_waits} owners dropped");
    assert!(!space.has_lockers(), "everybody has left");
}

#[test]
fn a_lock_is_handed_over_to_the_oldest_that_waits() {
    run("a is 1 detect
         b is 2 detect
         c is 3 detect
         a X k -> granted
         c X k -> waits
         b X k -> waits
         b again -> waits
         a ends -> wakes b
         c again -> waits
         b again -> granted
         b holds k -> exclusive
         b ends -> wakes c
         c again -> granted");
}

#[test]
fn an_upgrade_keeps_its_shared_lock_and_goes_ahead_of_the_queue() {
    run("a is 3 detect
         b is 4 detect
         w is 1 detect
         r is 2 detect
         a S k -> granted
         b S k -> granted
         w X k -> waits
         r S k -> waits
         a X k -> waits
         a holds k -> shared
         b ends -> wakes a
         a again -> granted
         a holds k -> exclusive
         a ends -> wakes w
         w again -> granted
         w ends -> wakes r
         r again -> granted");
}

#[test]
fn of_two_upgrades_one_is_refused_under_every_policy() {
    for (policy, first, second) in [
        ("detect", "waits", "deadlock 1 2"),
        ("wait-die", "waits", "refused by 1"),
        ("no-wait", "refused by 2", "refused by 1"),
        ("wound-wait", "granted", "wounded by 1"),
    ] {
        run(&format!(
            "a is 1 {policy}
             b is 2 {policy}
             a S k -> granted
             b S k -> granted
             a X k -> {first}
             b X k -> {second}"
        ));
    }
}

#[test]
fn update_locks_keep_two_writers_apart_before_they_deadlock() {
    run("a is 2 detect
         b is 1 detect
         r is 3 detect
         a U k -> granted
         r S k -> granted
         b U k -> waits
         a X k -> waits
         r ends -> wakes a
         a again -> granted
         a ends -> wakes b
         b again -> granted");
}

#[test]
fn merges_go_together_and_with_nobody_else() {
    run("a is 1 wait-die
         b is 2 wait-die
         c is 3 wait-die
         a M k -> granted
         b M k -> granted
         c S k -> refused by 1 2
         c M k -> granted
         a S k -> waits
         b ends ->
         c ends -> wakes a
         a holds k -> exclusive");
}

#[test]
fn a_long_queue_is_served_from_its_head() {
    // A search that followed every pair of the queue would take minutes.
    let table = Arc::new(LockTable::new());
    let space = space(1);
    let lock =
        |owner: &LockOwner| owner.lock(&space, LockTarget::Key(b"k"), LockMode::Exclusive, None);
    let policy = DeadlockPolicy::Detect(Victim::Youngest);
    let owners: Vec<_> = (0..3000).map(|_| table.owner(table.next_age(), policy)).collect();
    for (place, owner) in owners.iter().enumerate() {
        let expected = if place == 0 { LockStep::Granted } else { LockStep::Waiting };
        assert_eq!(lock(owner), expected);
    }
    assert_eq!(table.stats().waiting, 2999);
    for owner in owners {
        assert_eq!(lock(&owner), LockStep::Granted);
    }
}

#[test]
fn absent_keys_and_open_ends_are_locked_like_any_other() {
    run("a is 1 no-wait
         b is 2 no-wait
         a S (m,] -> granted
         b X m -> granted
         b X zzz -> refused by 1
         b X [a,m] -> granted
         b X [a,n) -> refused by 1
         a S m -> refused by 2
         a X q -> granted
         a count -> 2");
}

#[test]
fn the_interval_of_a_cursor_is_one_lock_whichever_way_it_moves() {
    run("a is 1 no-wait
         b is 2 no-wait
         a S [d,f] -> granted
         a S (f,h] -> granted
         a S [b,d) -> granted
         a count -> 1
         a S [c,g] -> granted
         a count -> 1
         b X h -> refused by 1
         b X i -> granted
         b X b -> refused by 1
         b X a -> granted
         a X e -> granted
         a count -> 2
         b S e -> refused by 1
         b S f -> granted");
}

#[test]
fn a_range_delete_waits_for_a_point_reader_within() {
    run("a is 1 detect
         b is 2 detect
         c is 3 detect
         a S k -> granted
         b X [a,z) -> waits
         c S b -> waits
         c S zz -> granted
         b gives-up -> waited for 1
         c S b -> granted
         b X [a,z) -> waits
         a ends ->
         c ends -> wakes b
         b again -> granted");
}

#[test]
fn who_waits_for_me_is_never_ahead_of_me() {
    run("a is 2 detect
         b is 1 detect
         a X c -> granted
         b X [a,z) -> waits
         a X d -> granted
         a ends -> wakes b
         b again -> granted");
}

#[test]
fn an_older_one_wounds_and_a_younger_one_waits() {
    run("a is 1 wound-wait
         b is 2 wound-wait
         c is 3 wound-wait
         b X k -> granted
         b X l -> granted
         c X l -> waits
         a X k -> granted, wakes c
         c again -> granted
         b X m -> wounded by 1
         b again -> wounded by 1
         b commits -> no
         b gives-up -> waited for
         c X k -> waits
         b ends ->
         a ends -> wakes c");
}

#[test]
fn a_parked_waiter_is_wounded_and_woken() {
    run("a is 1 wound-wait
         b is 2 wound-wait
         c is 3 wound-wait
         a X k -> granted
         c X l -> granted
         c X k -> waits
         b X l -> granted, wakes c
         c again -> wounded by 2
         a ends -> ");
}

#[test]
fn who_commits_is_waited_for_and_wounded_only_if_it_comes_back() {
    run("a is 1 wound-wait
         b is 2 wound-wait
         b X k -> granted
         b commits -> yes
         a X k -> waits
         b returns ->
         b X l -> wounded by 1, wakes a
         a again -> granted");
    run("a is 1 wound-wait
         b is 2 wound-wait
         b X k -> granted
         b commits -> yes
         a X k -> waits
         b ends -> wakes a
         a again -> granted");
}

#[test]
fn wait_die_is_refused_by_older_ones_and_waits_for_younger_ones() {
    run("a is 1 wait-die
         b is 2 wait-die
         c is 3 wait-die
         b X k -> granted
         c X k -> refused by 2
         a X k -> waits
         b ends -> wakes a
         a again -> granted");
}

#[test]
fn the_victim_of_a_circle_may_be_parked() {
    run("a is 1 detect
         b is 2 detect
         c is 3 detect
         a X p -> granted
         b X q -> granted
         c X r -> granted
         c X p -> waits
         b X r -> waits
         a X q -> waits, wakes b c
         c again -> deadlock 2 3 1
         b again -> granted
         b ends -> wakes a
         a again -> granted");
}

#[test]
fn the_victim_with_the_fewest_locks() {
    run("a is 1 detect:fewest-locks
         b is 2 detect:fewest-locks
         a X p -> granted
         b X q -> granted
         b X r -> granted
         b X p -> waits
         a X q -> deadlock 2 1
         a ends -> wakes b
         b again -> granted");
}

#[test]
fn an_older_waiter_that_goes_ahead_of_a_younger_one_closes_a_circle() {
    // b waits for a alone; then r, older than b, goes ahead of b, and waits for h, who waits for b.
    run("a is 9 detect
         b is 5 detect
         h is 7 detect
         r is 1 detect
         a X c -> granted
         h X d -> granted
         b S m -> granted
         b X c -> waits
         h X m -> waits
         r X [c,d] -> waits, wakes h
         h again -> deadlock 7 5 1
         a ends -> wakes r
         r again -> granted
         b again -> waits
         r ends -> wakes b");
}

#[test]
fn a_mixture_of_policies_closes_circles_that_none_would_alone() {
    // wait-die waits for the younger, wound-wait for the older: together they would wait for ever.
    run("a is 1 wait-die
         b is 2 wound-wait
         a X p -> granted
         b X q -> granted
         b X p -> waits
         a X q -> granted, wakes b
         b again -> deadlock 2 1");
}

#[test]
fn an_owner_dropped_while_it_waits_leaves_nothing_behind() {
    run("a is 1 detect
         b is 2 detect
         c is 3 detect
         a S k -> granted
         b X k -> waits
         c S k -> waits
         b ends -> wakes c
         c again -> granted");
}

#[test]
fn a_lock_that_was_handed_over_and_not_taken_is_given_back() {
    run("a is 1 detect
         b is 2 detect
         c is 3 detect
         b S k -> granted
         a S k -> granted
         b X k -> waits
         c X k -> waits
         a ends -> wakes b
         b holds k -> exclusive
         b gives-up -> waited for
         b holds k -> shared
         b X k -> granted
         b ends -> wakes c
         c gives-up -> waited for
         c holds k -> nothing");
}

#[test]
fn to_ask_for_what_is_held_leaves_the_wait_as_it_is() {
    run("a is 2 detect
         b is 1 detect
         c is 3 detect
         a X l -> granted
         a S [p,q] -> granted
         b X k -> granted
         a X k -> waits
         c X k -> waits
         a X l -> granted
         a S p -> granted
         b ends -> wakes a
         a S l -> granted
         a S [p,q) -> granted
         a holds k -> exclusive
         a X k -> granted
         a ends -> wakes c");
}

#[test]
fn what_was_handed_over_and_not_taken_is_not_held_yet() {
    run("a is 2 detect
         b is 1 detect
         a S k -> granted
         b S k -> granted
         a X k -> waits
         b ends -> wakes a
         a S k -> granted
         a holds k -> exclusive
         a U k -> granted
         a holds k -> update
         a gives-up -> waited for
         a holds k -> update");
}

#[test]
fn another_request_takes_the_place_of_the_one_that_waits() {
    run("a is 1 detect
         b is 2 detect
         a X k -> granted
         b X k -> waits
         b X l -> granted
         a ends ->
         b holds k -> nothing
         b X k -> granted");
}

#[test]
fn writes_are_stopped_by_what_others_hold_and_by_nothing_else() {
    let table = Arc::new(LockTable::new());
    let space = space(1);
    let writes = |keys: &[&str], range: Option<(&str, &str)>| {
        let mut prepared = space.prepare(keys.len());
        for key in keys {
            prepared.add(key.as_bytes(), Kind::Put, Value::new(b""), 0);
        }
        if let Some((lower, upper)) = range {
            let bound = |key: &'_ str| std::ops::Bound::Included(Slice::from(key));
            let (lower, upper) = (bound(lower), bound(upper));
            let interval = Interval { lower, upper };
            prepared.add_range_delete((interval.lower_ref(), interval.upper_ref()));
        }
        [SpaceWrites::new(Arc::clone(&space), prepared)]
    };
    let reader = table.owner(table.next_age(), DeadlockPolicy::WoundWait);
    let writer = table.owner(table.next_age(), DeadlockPolicy::Detect(Victim::Youngest));
    let stopped = |own: Option<&LockOwner>, keys: &[&str], range| {
        table.stands_in_the_way(own, &writes(keys, range))
    };
    assert!(!stopped(None, &["k"], None));
    for step in [
        reader.lock(&space, LockTarget::Key(b"k"), LockMode::Shared, None),
        reader.lock(&space, Target::parse("[p,q)").lend(), LockMode::Shared, None),
    ] {
        assert_eq!(step, LockStep::Granted);
    }
    assert!(stopped(None, &["a", "k"], None) && stopped(Some(&writer), &["p"], None));
    assert!(!stopped(Some(&reader), &["k", "p"], Some(("a", "z"))), "one's own locks are exempt");
    assert!(!stopped(None, &["a", "j", "q"], Some(("l", "o"))));
    assert!(stopped(None, &["a"], Some(("a", "k"))) && stopped(None, &[], Some(("o", "p"))));
    // A request that waits holds nothing.
    assert_eq!(
        reader.lock(&space, LockTarget::Key(b"w"), LockMode::Shared, None),
        LockStep::Granted
    );
    assert_eq!(
        writer.lock(&space, LockTarget::Key(b"w"), LockMode::Exclusive, None),
        LockStep::Waiting
    );
    drop(reader);
    assert_eq!(writer.holds(1, b"w"), Some(LockMode::Exclusive));
    assert!(!stopped(None, &["k", "p"], Some(("a", "v"))) && stopped(None, &["w"], None));
    // The locks of the wounded count for nothing.
    let older = table.owner(Age::from_bits(0), DeadlockPolicy::WoundWait);
    assert_eq!(
        older.lock(&space, LockTarget::Key(b"w"), LockMode::Shared, None),
        LockStep::Granted
    );
    assert!(stopped(Some(&writer), &["w"], None) && !stopped(Some(&older), &["w"], None));
    assert_eq!(writer.wounded_by(), Some(Wound::Older { by: Age::from_bits(0) }));
    assert_eq!(table.stats().wounds, 1);
}

/// Begins again, and locks a key, as soon as it is woken: on the thread of whoever wakes it.
struct BeginsAgain {
    owner: Arc<LockOwner>,
    space: Arc<Space>,
}

impl Wake for BeginsAgain {
    fn wake(self: Arc<Self>) {
        self.owner.begin_again();
        let step = self.owner.lock(&self.space, LockTarget::Key(b"new"), LockMode::Exclusive, None);
        assert_eq!(step, LockStep::Granted);
    }
}

#[test]
fn what_is_left_of_a_wound_never_takes_the_locks_of_who_has_begun_again() {
    let table = Arc::new(LockTable::new());
    let space = space(1);
    let [old, young, holder] =
        [1, 2, 3].map(|age| Arc::new(table.owner(Age::from_bits(age), DeadlockPolicy::WoundWait)));
    // More than a wounder takes out at once.
    for key in 0..1000u32 {
        let step =
            young.lock(&space, LockTarget::Key(&key.to_be_bytes()), LockMode::Exclusive, None);
        assert_eq!(step, LockStep::Granted);
    }
    assert_eq!(
        holder.lock(&space, LockTarget::Key(b"held"), LockMode::Exclusive, None),
        LockStep::Granted
    );
    assert!(holder.begin_commit(), "nobody takes its lock from now on");
    let waker = BeginsAgain { owner: Arc::clone(&young), space: Arc::clone(&space) };
    let waker = Waker::from(Arc::new(waker));
    let step = young.lock(&space, LockTarget::Key(b"held"), LockMode::Exclusive, Some(&waker));
    assert_eq!(step, LockStep::Waiting);
    let step = old.lock(&space, LockTarget::Key(&[0; 4]), LockMode::Shared, None);
    assert_eq!(step, LockStep::Granted);
    assert!(young.is_active());
    assert_eq!(young.holds(1, b"new"), Some(LockMode::Exclusive));
    assert_eq!(young.lock_count(), 1);
    drop(waker);
    drop((old, young, holder));
    assert_eq!(table.stats().held, 0);
    assert!(!space.has_lockers());
}
