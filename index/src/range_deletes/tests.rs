//! The list and the skyline against a plain vector of range deletes.

use std::ops::Bound;

use super::*;
use crate::testing::Random;

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
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
                ranges.link(entry, at(stamp));
                naive.push((stamp, start, end));
            }
            if random.below(8) == 0 {
                needed.push(stamp);
            }
            if random.below(6) == 0 {
                // A horizon never moves down.
                horizon = horizon.max(stamp - random.below(4.min(stamp as usize)) as u64);
                let view = PruneView::new(at(horizon), needed.iter().map(|&n| at(n)));
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
        assert!(stretches <= 60, "at most two cuts for each key and length: {stretches}");
        assert!(recent >= 1);
    }
}

#[test]
fn thousands_of_range_deletes_leave_a_short_list() {
    let accounting = Accounting::new();
    let ranges = RangeDeletes::new(Arc::clone(&accounting));
    let guard = crate::sync::pin();
    for stamp in 1..=5000u64 {
        let (start, end) = (format!("{:05}", stamp * 2), format!("{:05}", stamp * 2 + 1));
        let bounds = (Bound::Included(start.as_bytes()), Bound::Excluded(end.as_bytes()));
        let entry = RangeDelete::new(bounds).expect("an interval with keys");
        accounting.add(entry.footprint());
        ranges.link(entry, at(stamp));
        if ranges.wants_fold() {
            ranges.fold(&PruneView::new(at(stamp), []), &guard);
        }
    }
    let (recent, stretches) = ranges.lens(&guard);
    assert!(recent <= RECENT_MAX + 1);
    assert!((9_900..=10_000).contains(&stretches), "{stretches}");
    assert_eq!(ranges.cover(b"00500", at(5000), &guard).stamp, at(250));
    assert_eq!(ranges.cover(b"00501", at(5000), &guard).stamp, Lsn::ZERO);
}
