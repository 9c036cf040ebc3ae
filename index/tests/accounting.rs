//! What a memtable counts is what the allocator gave, to the byte, and nothing is left of it when it
//! is dropped. Alone in its program: the epoch lets one thread free what another left, and here only
//! one may be at it.
#![cfg(not(loom))]

mod counting;

use std::ops::Bound;
use std::sync::Arc;

use isolith_index::{Kind, Memtable, NoOperators, PruneView, Value, pin};
use isolith_wal::Lsn;

use counting::{LARGEST, LIVE_BYTES, settle};

fn at(counter: u64) -> Lsn {
    Lsn::new(0, counter)
}

fn live() -> isize {
    LIVE_BYTES.get()
}

fn below(state: &mut u64, bound: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 20) as usize % bound
}

/// Asserts that so many bytes are live as are counted, but for the epoch's own bags: there are a few
/// more or less of them at any moment.
#[track_caller]
fn assert_counted(counted: usize, live: isize, bag: isize, when: &str) {
    let off = counted as isize - live;
    assert!(
        off % bag == 0 && off.abs() <= 8 * bag,
        "{when}: {counted} bytes counted, {live} live; a bag of the epoch has {bag}"
    );
}

/// The size of the allocation in which the epoch keeps deferred work.
fn epoch_bag() -> isize {
    pin().flush();
    LARGEST.set(0);
    #[expect(unsafe_code, reason = "defer is unsafe for closures that are not Send")]
    // SAFETY: the closure has nothing and does nothing.
    unsafe {
        crossbeam_epoch::pin().defer_unchecked(|| ());
    }
    pin().flush();
    LARGEST.get()
}

#[test]
fn bytes_are_what_the_allocator_gave() {
    let bag = epoch_bag();
    assert!(bag > 0);
    for (round, value_bytes) in [(1u64, 50), (2, 900), (3, 3000)] {
        let before = live();
        let memtable = Arc::new(Memtable::new(round));
        assert_counted(memtable.bytes(), live() - before, bag, "empty");
        let mut state = 0x9e37_79b9 + round;
        let mut stamp = 0;
        // The vector is the test's own: it is there before anything is measured.
        let mut needed = Vec::with_capacity(1000);
        let before = live() - memtable.bytes() as isize;
        for step in 0..6000 {
            let mut write = memtable.prepare(4);
            for _ in 0..below(&mut state, 4) {
                let key = (below(&mut state, 4000)).to_string();
                let value = vec![7; below(&mut state, value_bytes)];
                match below(&mut state, 5) {
                    0 => write.add(key.as_bytes(), Kind::Delete, Value::empty(), 0),
                    _ => write.add(key.as_bytes(), Kind::Put, Value::new(&value), 0),
                }
            }
            if below(&mut state, 50) == 0 {
                let (a, b) =
                    ((below(&mut state, 4000)).to_string(), (below(&mut state, 4000)).to_string());
                write.add_range_delete((
                    Bound::Excluded(a.as_bytes()),
                    Bound::Included(b.as_bytes()),
                ));
            }
            if below(&mut state, 8) != 0 {
                stamp += 1;
                write.install(at(stamp));
                if needed.len() < 1000 && below(&mut state, 20) == 0 {
                    needed.push(at(stamp));
                }
                if below(&mut state, 3) != 0 {
                    let view = PruneView::new(at(stamp), needed.iter().copied());
                    write.prune(&view, &NoOperators, &pin());
                }
            }
            drop(write);
            if step % 1000 == 999 {
                settle(&memtable);
                assert_counted(memtable.bytes(), live() - before, bag, &format!("step {step}"));
            }
        }
        drop(memtable);
        for _ in 0..100 {
            pin().flush();
        }
        assert_counted(0, live() - before, bag, "dropped");
    }
}
