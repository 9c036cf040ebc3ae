//! The list and the skylines against a plain vector of range deletes.

use std::cell::Cell;
use std::ops::Bound;

use super::*;
use crate::testing::Random;

thread_local! {
    /// Stretches that this thread has laid out: what folding costs.
    pub(super) static STRETCHES_MADE: Cell<usize> = const { Cell::new(0) };
}

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

fn link(ranges: &RangeDeletes, start: &str, end: &str, stamp: u64) {
    let bounds = (Bound::Included(start.as_bytes()), Bound::Excluded(end.as_bytes()));
    let entry = RangeDelete::new(bounds).expect("an interval with keys");
    ranges.accounting.add(entry.footprint());
    ranges.link(entry, at(stamp), &crate::sync::pin());
}

/// Disjoint range deletes of one key each, folded when a writer would fold them.
fn disjoint(ranges: &RangeDeletes, stamps: std::ops::RangeInclusive<u64>, guard: &Guard) {
    for stamp in stamps {
        // In no order, as far as a generator of the residues is none.
        let n = stamp * 7919 % 100_003;
        link(ranges, &format!("{:06}", n * 2), &format!("{:06}", n * 2 + 1), stamp);
        if ranges.wants_fold() {
            ranges.fold(&PruneView::new(at(stamp), []), guard);
        }
    }
}

#[test]
fn empty_intervals_are_no_range_deletes() {
    let new = |start, end| RangeDelete::new((start, end)).is_some();
    assert!(!new(Bound::Included(b"a".as_slice()), Bound::Excluded(b"a".as_slice())));
    assert!(!new(Bound::Excluded(b"a".as_slice()), Bound::Included(b"a".as_slice())));
    assert!(!new(Bound::Included(b"b".as_slice()), Bound::Excluded(b"a".as_slice())));
    assert!(new(Bound::Included(b"a".as_slice()), Bound::Included(b"a".as_slice())));
    assert!(new(Bound::Unbounded, Bound::Unbounded));
    assert!(!new(Bound::Unbounded, Bound::Excluded(b"".as_slice())));
}

#[test]
fn readers_before_at_and_after_a_fold_see_the_same() {
    let mut random = Random::from_environment("range deletes");
    for round in 0..60 {
        let accounting = Accounting::new();
        let ranges = RangeDeletes::new(Arc::clone(&accounting));
        let guard = crate::sync::pin();
        let mut naive: Vec<(u64, Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        // Timestamps that readers hold on to; they are never above the horizon of a later fold.
        let mut needed: Vec<u64> = Vec::new();
        let mut horizon = 0;
        for stamp in 1..=120u64 {
            let key = |random: &mut Random| vec![random.below(20) as u8; 1 + random.below(2)];
            let (a, b) = (key(&mut random), key(&mut random));
            let (start, end) = if a <= b { (a, b) } else { (b, a) };
            let end = (random.below(10) > 0).then_some(end);
            let bounds = (
                Bound::Included(&*start),
                end.as_deref().map_or(Bound::Unbounded, Bound::Excluded),
            );
            if let Some(entry) = RangeDelete::new(bounds) {
                accounting.add(entry.footprint());
                ranges.link(entry, at(stamp), &guard);
                naive.push((stamp, start, end));
            }
            if random.below(8) == 0 {
                needed.push(stamp);
            }
            if random.below(6) == 0 {
                // A horizon never moves down.
                horizon = horizon.max(stamp - random.below(4.min(stamp as usize)) as u64);
                let mut view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
                if random.below(2) == 0 {
                    // The horizon is held back by history that is retained.
                    view = view.with_linked(at(stamp));
                }
                ranges.fold(&view, &guard);
                // From here on the readers that count are the needed ones, and from the horizon up.
                let mut reads = needed.clone();
                reads.extend(horizon..=stamp);
                for read in reads {
                    for key in 0..22u8 {
                        let key = [key];
                        let covers = |r: &&(u64, Vec<u8>, Option<Vec<u8>>)| {
                            r.1[..] <= key[..] && r.2.as_ref().is_none_or(|end| key[..] < end[..])
                        };
                        let expected = naive.iter().rev().filter(covers).find(|r| r.0 <= read);
                        let newer = naive.iter().filter(covers).any(|r| r.0 > read);
                        let cover = ranges.cover(&key, at(read), &guard);
                        let expected = expected.map_or(Lsn::ZERO, |r| at(r.0));
                        assert_eq!(
                            cover.stamp, expected,
                            "round {round}, read {read}, key {key:?}"
                        );
                        assert_eq!(cover.skipped_newer, newer, "round {round}, read {read}");
                    }
                }
                for _ in 0..20 {
                    let (a, b) = (key(&mut random), key(&mut random));
                    let expected = naive
                        .iter()
                        .rev()
                        .find(|r| r.1 < b && r.2.as_ref().is_none_or(|end| a < *end) && a < b)
                        .map_or(Lsn::ZERO, |r| at(r.0));
                    let bounds = (Bound::Included(&*a), Bound::Excluded(&*b));
                    assert_eq!(ranges.newest_overlapping(bounds, &guard), expected);
                }
            }
        }
        let (recent, stretches) = ranges.lens(&guard);
        assert!(stretches <= 2 * 60, "few cuts for each key and length: {stretches}");
        assert!(recent >= 1);
    }
}

#[test]
fn thousands_of_range_deletes_leave_a_short_list_and_few_skylines() {
    let ranges = RangeDeletes::new(Accounting::new());
    let guard = crate::sync::pin();
    disjoint(&ranges, 1..=5000, &guard);
    let (recent, stretches) = ranges.lens(&guard);
    assert!(recent <= RECENT_MAX + 1);
    assert!((9_900..=10_100).contains(&stretches), "{stretches}");
    let sizes: Vec<usize> = ranges.skylines(&guard).map(Skyline::len).collect();
    assert!(sizes.is_sorted_by(|above, below| GROWTH * above < *below), "{sizes:?}");
    for stamp in 1..=5000 {
        let n = stamp * 7919 % 100_003;
        let (key, gap) = (format!("{:06}", n * 2), format!("{:06}", n * 2 + 1));
        assert_eq!(ranges.cover(key.as_bytes(), Lsn::MAX, &guard).stamp, at(stamp));
        assert_eq!(ranges.cover(gap.as_bytes(), Lsn::MAX, &guard).stamp, Lsn::ZERO);
        let read = ranges.cover(key.as_bytes(), at(stamp - 1), &guard);
        assert!(read.stamp == Lsn::ZERO && read.skipped_newer);
    }
}

#[test]
fn folding_the_next_range_delete_costs_no_more_for_those_before_it() {
    let ranges = RangeDeletes::new(Accounting::new());
    let guard = crate::sync::pin();
    let cost = |stamps: std::ops::RangeInclusive<u64>| {
        let before = STRETCHES_MADE.get();
        let count = stamps.end() - stamps.start() + 1;
        disjoint(&ranges, stamps, &guard);
        (STRETCHES_MADE.get() - before) / count as usize
    };
    let (early, late) = (cost(1..=2_000), cost(2_001..=60_000));
    println!("stretches made for each range delete: {early} early, {late} late");
    // It was as many as there are.
    assert!(late <= 2 * early && late < 100, "{early} early, {late} late");
}

#[test]
fn one_range_delete_over_many_takes_their_memory_unless_somebody_needs_them() {
    for needed in [None, Some(at(1500))] {
        let ranges = RangeDeletes::new(Accounting::new());
        let guard = crate::sync::pin();
        disjoint(&ranges, 1..=3000, &guard);
        link(&ranges, "", "9", 3001);
        let full = ranges.accounting.bytes();
        ranges.fold(&PruneView::new(at(3001), needed), &guard);
        let held = ranges.accounting.bytes();
        let n = 1000 * 7919 % 100_003;
        let cover = ranges.cover(format!("{:06}", n * 2).as_bytes(), at(1500), &guard);
        assert!(cover.skipped_newer);
        match needed {
            None => assert!(held < 1000 && full > 100_000, "{full} bytes, then {held}"),
            Some(_) => assert_eq!(cover.stamp, at(1000)),
        }
        // The newest is in the list and in a skyline: once it is cut, it is in one place.
        link(&ranges, "x", "y", 3002);
        ranges.fold(&PruneView::new(at(3002), []), &guard);
        assert_eq!(ranges.cover(b"0", at(3001), &guard).stamp, at(3001));
        assert_eq!(ranges.lens(&guard).0, 1);
        assert!(ranges.accounting.bytes() < 1000);
    }
}

/// The list is short whatever history is retained: a reader would walk it.
#[test]
fn what_is_retained_is_folded_all_the_same() {
    let accounting = Accounting::new();
    let ranges = RangeDeletes::new(Arc::clone(&accounting));
    let guard = crate::sync::pin();
    let all = (Bound::Unbounded, Bound::Unbounded);
    for stamp in 1..=10_000 {
        let entry = RangeDelete::new(all).expect("it holds keys");
        accounting.add(entry.footprint());
        ranges.link(entry, at(stamp), &guard);
        if ranges.wants_fold() {
            let view = PruneView::new(at(0), []).with_linked(at(stamp));
            ranges.fold(&view, &guard);
        }
    }
    assert!(ranges.lens(&guard).0 <= RECENT_MAX + 1, "{:?}", ranges.lens(&guard));
    for read in [0, 1, 16, 17, 5_000, 9_999, 10_000] {
        assert_eq!(ranges.cover(b"k", at(read), &guard).stamp, at(read));
        assert_eq!(ranges.cover(b"k", at(read), &guard).skipped_newer, read < 10_000);
    }
}
