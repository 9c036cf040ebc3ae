//! Credits: whoever holds one finds room.

use std::time::Duration;

use super::*;
use crate::format::SegmentId;
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;

fn segment(capacity: u64) -> Segment {
    let file = MemoryStorage::new().create_new(std::path::Path::new("s")).unwrap();
    Segment { id: SegmentId(1), file, capacity, recycled: false }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// A record with its credit, outside the ledger.
struct Held {
    bytes: usize,
    own: Option<Segment>,
}

/// Invariant 1, against a writer that cuts batches as badly as it likes, with never a segment more
/// than was asked for.
#[test]
fn whoever_holds_a_credit_finds_room_however_batches_are_cut() {
    const SEGMENT: u64 = 64 << 10;
    let seeds = match std::env::var("ISOLITH_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..300).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut ledger = Ledger::new(SEGMENT, 1 << 20, 40);
        let mut left = [16 << 10, SEGMENT - BLOCK, 0][dice.below(3) as usize];
        ledger.move_to(left);
        let (mut credits, mut queue) = (Vec::<Held>::new(), VecDeque::<Held>::new());
        for _ in 0..400 {
            match dice.below(10) {
                0..=4 => {
                    let bytes = match dice.below(8) {
                        0 => dice.below(200_000),
                        1 | 2 => dice.below(20_000),
                        _ => dice.below(3000),
                    } as usize;
                    let mut own = None;
                    loop {
                        match ledger.reserve(bytes, own.is_some()) {
                            Ok(()) => break credits.push(Held { bytes, own }),
                            Err(Lack::Queue) => break,
                            Err(Lack::Space) => ledger.add_segment(segment(SEGMENT)),
                            Err(Lack::OwnSegment(capacity)) => {
                                let left_over = ledger.take_left_over(capacity);
                                own = Some(left_over.unwrap_or_else(|| segment(capacity)));
                            }
                        }
                    }
                }
                5 | 6 if !credits.is_empty() => {
                    let at = dice.below(credits.len() as u64) as usize;
                    queue.push_back(credits.swap_remove(at));
                }
                7 if !credits.is_empty() => {
                    let at = dice.below(credits.len() as u64) as usize;
                    let unused = credits.swap_remove(at);
                    ledger.discharge(unused.bytes);
                    ledger.leave_queue(unused.bytes, 1);
                    unused.own.into_iter().for_each(|own| ledger.add_segment(own));
                }
                // A mark.
                8 => match ledger.take_block(false) {
                    Some(Block::Here) => left -= BLOCK,
                    Some(Block::Next(segment)) => left = segment.capacity - 2 * BLOCK,
                    None => {}
                },
                _ => {
                    let Some(first) = queue.front_mut() else { continue };
                    let needed = batch_bytes(framed_bytes(first.bytes));
                    let alone = first.own.is_some();
                    if let Some(own) = first.own.take() {
                        left = own.capacity - BLOCK;
                        ledger.move_to(left);
                    } else if needed > left {
                        let next = ledger.next_segment(needed);
                        left =
                            next.unwrap_or_else(|| panic!("no room: ISOLITH_SEED={seed}")).capacity
                                - BLOCK;
                        ledger.move_to(left);
                    }
                    let most = if alone { 1 } else { dice.below(6) + 1 };
                    let mut payload = 0;
                    let mut taken = Vec::new();
                    while let Some(next) = queue.front() {
                        let longer = payload + framed_bytes(next.bytes);
                        let fits = batch_bytes(longer) <= left && next.own.is_none();
                        if taken.len() as u64 == most || !fits {
                            break;
                        }
                        payload = longer;
                        taken.extend(queue.pop_front());
                    }
                    assert!(!taken.is_empty(), "no room: ISOLITH_SEED={seed}");
                    for record in &taken {
                        ledger.discharge(record.bytes);
                        ledger.leave_queue(record.bytes, 1);
                    }
                    ledger.use_up(batch_bytes(payload));
                    left -= batch_bytes(payload);
                }
            }
            if !credits.is_empty() || !queue.is_empty() {
                // What every credit was promised holds again.
                assert!(ledger.room(ledger.largest()) >= ledger.charged + KEPT_BYTES, "{seed}");
            }
        }
    }
}

#[test]
fn a_large_record_waits_for_a_segment_for_the_others() {
    let mut ledger = Ledger::new(64 << 10, 1 << 20, 40);
    ledger.move_to(60 << 10);
    // Moving to its own segment wastes the one in use: there must be another.
    assert_eq!(ledger.reserve(30_000, false), Err(Lack::Space));
    ledger.add_segment(segment(64 << 10));
    assert_eq!(ledger.reserve(30_000, false), Err(Lack::OwnSegment(36_864)));
    assert_eq!(ledger.reserve(30_000, true), Ok(()));
    assert_eq!(ledger.reserve(30_000, true), Err(Lack::Space));
}

#[test]
fn credits_return_when_they_are_dropped() {
    let mut ledger = Ledger::new(64 << 10, 1000, 3);
    ledger.move_to(60 << 10);
    let space = Arc::new(Space::new(ledger));
    let take = |bytes| match space.attempt(bytes, &mut None) {
        Attempt::Taken { credit, .. } => Some(credit),
        _ => None,
    };
    let held: Vec<_> = (0..3).map(|_| take(100).unwrap()).collect();
    assert!(take(1).is_none(), "three records at most");
    drop(held);
    let held = take(2000).unwrap();
    assert!(take(1).is_none(), "nothing beside one that is larger than the queue");
    drop(held);
    assert!(take(1000).is_some());
}

#[test]
fn the_end_of_the_log_ends_every_wait() {
    let space = Arc::new(Space::new(Ledger::new(64 << 10, 1000, 3)));
    let Attempt::Lacks(Lack::Space, seen) = space.attempt(1, &mut None) else { panic!() };
    let soon = Instant::now() + Duration::from_millis(1);
    assert!(!space.wait_for_change(seen, soon));
    let far = Instant::now() + Duration::from_secs(1000);
    assert_eq!(space.wait_until_wanted(far), Some(true));
    space.close();
    assert!(space.wait_for_change(seen, far));
    assert_eq!(space.wait_until_wanted(far), None);
    assert!(!space.begin_preparing());
    assert!(matches!(space.attempt(1, &mut None), Attempt::Over(ReserveError::Closed)));
}

/// A wake-up that is lost on either side shows as a test that does not end.
#[test]
fn who_prepares_hears_of_each_segment_that_was_taken_and_who_lacks_one_of_each_that_is_there() {
    let mut ledger = Ledger::new(64 << 10, 1000, 3);
    ledger.move_to(0);
    let space = Arc::new(Space::new(ledger));
    let far = Instant::now() + Duration::from_secs(1000);
    let preparer = {
        let space = space.clone();
        std::thread::spawn(move || {
            while space.wait_until_wanted(far).is_some() {
                if space.begin_preparing() {
                    space.end_preparing(Ok(segment(64 << 10)));
                }
            }
        })
    };
    for _ in 0..200 {
        let credit = loop {
            match space.attempt(100, &mut None) {
                Attempt::Taken { credit, .. } => break credit,
                Attempt::Lacks(_, seen) => assert!(space.wait_for_change(seen, far)),
                Attempt::Over(_) => panic!("it is not closed"),
            }
        };
        // As a batch that begins the next segment and leaves nothing of it.
        let (bytes, _) = credit.spend();
        space.with(|ledger| ledger.next_segment(BLOCK).map(|_| ledger.discharge(bytes))).unwrap();
        space.leave_queue(bytes, 1);
    }
    space.close();
    preparer.join().unwrap();
}
