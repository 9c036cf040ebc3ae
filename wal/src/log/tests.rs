//! The log as its users see it: order, epochs, segments, stalls, closing.

use super::*;
use crate::storage::backend::{IoBackend, open_storage};
use crate::storage::memory::MemoryStorage;
use crate::test_log::{self, SlowStorage, copy, open, open_with, record_of, small};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, Wake, Waker};

fn append(log: &Log, lsn: Lsn, bytes: usize, durability: Durability) {
    let record = record_of(lsn, bytes);
    let credit = log.reserve(record.len(), Some(Duration::from_secs(10))).unwrap();
    log.append(lsn, record, durability, credit);
}

#[test]
fn records_come_back_in_order_after_a_clean_close() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, found) = open(&storage);
    assert!(found.is_empty() && opened.clean && opened.report.created);
    assert_eq!((opened.last, opened.first_new), (Lsn::ZERO, Lsn::new(0, 1)));
    let mut lsn = opened.first_new;
    for bytes in [0, 1, 100, 4096, 9000] {
        append(&opened.log, lsn, bytes, Durability::Sync);
        opened.log.wait(lsn, Durability::Sync).unwrap();
        assert_eq!(opened.log.durable(), lsn);
        lsn = lsn.next();
    }
    opened.log.shutdown().unwrap();

    let (again, found) = open(&storage);
    assert!(again.clean && again.report.torn_tail.is_none());
    assert_eq!(again.database, opened.database);
    assert_eq!((again.last, again.first_new), (Lsn::new(0, 5), Lsn::new(0, 6)));
    test_log::check_prefix(&found, 5);
    assert_eq!((again.log.durable(), again.log.written()), (again.last, again.last));
}

#[test]
fn an_open_after_a_crash_takes_a_new_epoch_every_time() {
    let storage = Arc::new(MemoryStorage::new());
    for epoch in 0..4u32 {
        let (opened, found) = open(&storage);
        assert_eq!(opened.clean, epoch == 0);
        assert_eq!(opened.first_new, Lsn::new(epoch, 1));
        assert_eq!(found.len(), 3 * epoch as usize);
        let mut lsn = opened.first_new;
        for _ in 0..3 {
            append(&opened.log, lsn, 50, Durability::Sync);
            opened.log.wait(lsn, Durability::Sync).unwrap();
            lsn = lsn.next();
        }
    }
}

#[test]
fn a_clean_close_goes_on_in_the_same_epoch_and_its_mark_counts_once() {
    let storage = Arc::new(MemoryStorage::new());
    for round in 0..30u64 {
        let (opened, found) = open(&storage);
        assert!(opened.clean);
        assert_eq!(opened.first_new, Lsn::new(0, round + 1));
        assert_eq!(found.len() as u64, round);
        append(&opened.log, opened.first_new, 300, Durability::Os);
        opened.log.shutdown().unwrap();
        opened.log.shutdown().unwrap();
    }
    // Opened and not closed, with nothing appended: that is no clean close.
    open(&storage);
    let (opened, found) = open(&storage);
    assert!(!opened.clean);
    assert_eq!((found.len(), opened.first_new), (30, Lsn::new(1, 1)));
}

#[test]
fn a_log_of_many_segments_comes_back_whole() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let mut lsn = opened.first_new;
    for round in 0..200 {
        append(&opened.log, lsn, 37 * (round % 97), Durability::Sync);
        if round % 3 == 0 {
            opened.log.wait(lsn, Durability::Sync).unwrap();
        }
        lsn = lsn.next();
    }
    opened.log.sync().unwrap();
    assert_eq!(opened.log.durable(), Lsn::new(0, 200));
    drop(opened);
    let (again, found) = open(&storage);
    test_log::check_prefix(&found, 200);
    assert!(again.report.segments > 3, "{:?}", again.report);
}

#[test]
fn a_record_larger_than_a_segment_has_one_of_its_own() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let mut lsn = opened.first_new;
    for bytes in [10, 70_000, 20, 300_000, 66_000, 30, 17_000, 17_000, 40] {
        append(&opened.log, lsn, bytes, Durability::Sync);
        if bytes != 66_000 {
            opened.log.wait(lsn, Durability::Sync).unwrap();
        }
        lsn = lsn.next();
    }
    // A credit for a large record that is never used leaves its segment to others.
    drop(opened.log.reserve(500_000, None).unwrap());
    for _ in 0..50 {
        append(&opened.log, lsn, 4000, Durability::Sync);
        opened.log.wait(lsn, Durability::Sync).unwrap();
        lsn = lsn.next();
    }
    opened.log.shutdown().unwrap();
    let (again, found) = open(&storage);
    assert!(again.clean);
    test_log::check_prefix(&found, 59);
    let sizes: Vec<_> = found.iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(sizes[..9], [10, 70_000, 20, 300_000, 66_000, 30, 17_000, 17_000, 40]);
}

#[test]
fn a_record_beyond_the_limit_is_refused() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let refused = opened.log.reserve(RECORD_BYTES_MAX + 1, None).unwrap_err();
    assert!(matches!(refused, ReserveError::TooLarge { bytes_max: RECORD_BYTES_MAX }));
}

/// Threads that commit at all levels, each checking what it was promised.
fn stress(storage: Arc<dyn Storage>, options: LogOptions, threads: u64, rounds: u64) -> LogStats {
    let opened = Log::open(storage.clone(), options.clone(), &mut |_, _| Ok(())).unwrap();
    let log = &opened.log;
    let next = Mutex::new(opened.first_new);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let next = &next;
            scope.spawn(move || {
                for round in 0..rounds {
                    let credit = log.reserve(200, Some(Duration::from_secs(60))).unwrap();
                    let level = match (thread + round) % 4 {
                        0 => Durability::Os,
                        1 if round % 5 == 0 => Durability::Buffered,
                        _ => Durability::Sync,
                    };
                    let lsn = {
                        let mut next = next.lock();
                        let lsn = *next;
                        log.append(lsn, record_of(lsn, 100), level, credit);
                        *next = lsn.next();
                        lsn
                    };
                    log.wait(lsn, level).unwrap();
                    match level {
                        Durability::Sync => assert!(log.durable() >= lsn),
                        Durability::Os => assert!(log.written() >= lsn),
                        Durability::Buffered => {}
                    }
                }
            });
        }
    });
    log.sync().unwrap();
    assert_eq!(log.durable(), Lsn::new(0, threads * rounds));
    let stats = log.stats();
    assert!(stats.in_flight_max as usize <= options.depth_max);
    drop(opened);
    let mut found = Vec::new();
    Log::open(storage, options, &mut |lsn, record| {
        found.push((lsn, record.to_vec()));
        Ok(())
    })
    .unwrap();
    test_log::check_prefix(&found, threads * rounds);
    stats
}

#[test]
fn many_threads_commit_and_every_acknowledged_record_is_durable() {
    for depth_max in [1, 2, 8] {
        let options = LogOptions { depth_max, ..small() };
        stress(Arc::new(MemoryStorage::new()), options, 8, 200);
    }
}

#[test]
fn many_threads_commit_to_a_disk_that_takes_its_time() {
    for (depth_max, yields) in [(1, 1), (1, 20), (3, 5), (8, 2)] {
        let options = LogOptions { depth_max, ..small() };
        let stats = stress(Arc::new(SlowStorage::with_yields(yields)), options, 8, 60);
        assert!(stats.batches < stats.records, "{stats:?}");
    }
}

#[test]
fn many_threads_commit_to_a_real_disk() {
    for backend in [IoBackend::Auto, IoBackend::Syscall] {
        let root = tempfile::tempdir().unwrap();
        let (storage, _) = open_storage(root.path(), backend).unwrap();
        stress(storage, LogOptions { depth_max: 4, ..small() }, 6, 40);
    }
}

#[test]
fn many_threads_commit_through_a_queue_of_few_places() {
    let options = LogOptions { queue_records_max: 3, batch_bytes_max: 4096, ..small() };
    stress(Arc::new(SlowStorage::with_yields(3)), options, 8, 60);
}

/// Counts wake-ups.
#[derive(Default)]
struct Counting(AtomicUsize);

impl Wake for Counting {
    fn wake(self: Arc<Self>) {
        // Relaxed: read by the same thread, or after a join.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn polling_does_no_io_and_the_driver_wakes_the_future() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(counting.clone());
    let mut context = Context::from_waker(&waker);
    let lsn = opened.first_new;
    append(log, lsn, 10, Durability::Sync);
    for _ in 0..3 {
        assert!(log.poll(lsn, Durability::Sync, &mut context).is_pending());
    }
    assert_eq!(log.futures.lock().len(), 1, "one waker, however often it is polled");
    assert_eq!(log.stats().batches, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| log.drive());
        log.wait(lsn, Durability::Sync).unwrap();
        while counting.0.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert!(matches!(log.poll(lsn, Durability::Sync, &mut context), Poll::Ready(Ok(()))));
        log.shutdown().unwrap();
    });
    assert_eq!(log.futures.lock().len(), 0);
}

#[test]
fn a_future_polled_while_a_batch_is_in_flight_is_driven_after_it() {
    let storage = SlowStorage::default();
    // No tick of the driver helps out.
    let options = LogOptions { depth_max: 1, buffered_delay: Duration::from_secs(3600), ..small() };
    let opened = Log::open(Arc::new(storage.clone()), options, &mut |_, _| Ok(())).unwrap();
    let log = &opened.log;
    let (first, second) = (opened.first_new, opened.first_new.next());
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(counting.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| log.drive());
        // The first one is unsynced, so that the second needs a flush, too.
        append(log, first, 10, Durability::Os);
        storage.pause();
        let leader = scope.spawn(|| log.wait(first, Durability::Os));
        storage.await_writes(1);
        append(log, second, 10, Durability::Sync);
        let mut context = Context::from_waker(&waker);
        assert!(log.poll(second, Durability::Sync, &mut context).is_pending());
        storage.resume();
        leader.join().unwrap().unwrap();
        // Nobody but the driver leads for it.
        while counting.0.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert!(log.poll(second, Durability::Sync, &mut context).is_ready());
        log.shutdown().unwrap();
    });
}

#[test]
fn the_driver_writes_what_nobody_waits_for_and_marks_the_end() {
    let storage = Arc::new(MemoryStorage::new());
    let options = LogOptions { buffered_delay: Duration::from_millis(2), ..small() };
    let (opened, _) = open_with(&storage, options);
    let log = &opened.log;
    std::thread::scope(|scope| {
        scope.spawn(|| log.drive());
        let mut lsn = opened.first_new;
        for _ in 0..3 {
            append(log, lsn, 10, Durability::Buffered);
            while log.written() < lsn {
                std::thread::yield_now();
            }
            lsn = lsn.next();
        }
        // Counted before the sync: the mark may follow it at once. The driver may be asleep by now.
        let batches = log.stats().batches;
        log.sync().unwrap();
        while log.stats().batches == batches {
            std::thread::yield_now();
        }
        log.shutdown().unwrap();
    });
    let stats = log.stats();
    drop(opened);
    let (again, found) = open(&storage);
    test_log::check_prefix(&found, 3);
    assert!(again.clean && stats.batches > stats.leads);
}

#[test]
fn futures_dropped_before_they_are_done_leave_nothing_behind() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    let counting = Arc::new(Counting::default());
    let mut lsn = opened.first_new;
    for _ in 0..10 {
        append(log, lsn, 10, Durability::Sync);
        let waker = Waker::from(counting.clone());
        assert!(log.poll(lsn, Durability::Os, &mut Context::from_waker(&waker)).is_pending());
        lsn = lsn.next();
    }
    log.sync().unwrap();
    assert_eq!(log.futures.lock().len(), 0);
    assert_eq!(Arc::strong_count(&counting), 1);
}

#[test]
fn a_full_queue_refuses_or_writes() {
    let storage = Arc::new(MemoryStorage::new());
    let options = LogOptions { queue_records_max: 4, threads: true, ..small() };
    let (opened, _) = open_with(&storage, options);
    let log = &opened.log;
    let mut lsn = opened.first_new;
    for _ in 0..4 {
        append(log, lsn, 10, Durability::Buffered);
        lsn = lsn.next();
    }
    let refused = log.reserve(10, None).unwrap_err();
    assert!(matches!(refused, ReserveError::Stalled { reason: StallReason::LogQueue }));
    assert_eq!(log.written(), Lsn::ZERO);
    // One who may wait writes it out.
    let credit = log.reserve(10, Some(Duration::from_secs(10))).unwrap();
    assert_eq!(log.written(), Lsn::new(0, 4));
    drop(credit);
    let credits: Vec<_> = (0..4).map(|_| log.reserve(10, None).unwrap()).collect();
    assert!(log.reserve(10, None).is_err());
    drop(credits);
    // A record larger than the queue goes in when it is empty, once there is a segment for those
    // after it. Its own segment is made once, however often it is not used.
    assert!(matches!(
        log.reserve(10 << 20, None),
        Err(ReserveError::Stalled { reason: StallReason::LogSpace { error: None, .. } })
    ));
    while let Preparation::Prepared = log.prepare(Duration::ZERO) {}
    for _ in 0..3 {
        assert!(log.reserve(10 << 20, None).is_ok());
    }
    assert_eq!(test_log::files(&*storage).len(), 3);
}

#[test]
fn times_without_end_are_no_trouble() {
    let storage = Arc::new(MemoryStorage::new());
    let options = LogOptions {
        buffered_delay: Duration::MAX,
        queue_records_max: 1,
        threads: true,
        ..small()
    };
    let (opened, _) = open_with(&storage, options);
    let log = &opened.log;
    std::thread::scope(|scope| {
        scope.spawn(|| log.drive());
        scope.spawn(|| while !matches!(log.prepare(Duration::MAX), Preparation::Over) {});
        let held = log.reserve(1, Some(Duration::MAX)).unwrap();
        let next = scope.spawn(|| log.reserve(1, Some(Duration::MAX)).map(drop));
        drop(held);
        next.join().unwrap().unwrap();
        log.shutdown().unwrap();
    });
}

#[test]
fn a_waiter_whose_record_is_sealed_later_is_not_forgotten() {
    // The horizon shows nothing for a while: leaders find nothing to seal.
    struct Late(AtomicBool, Mutex<Vec<Lsn>>, Lsn);
    impl Horizon for Late {
        fn seal(&self, last_end: Lsn) -> Lsn {
            // Relaxed: only the flag matters.
            if self.0.load(Ordering::Relaxed) { self.2 } else { last_end }
        }
        fn written(&self, end: Lsn) {
            self.1.lock().push(end);
        }
        fn durable(&self, end: Lsn) {
            self.1.lock().push(end);
        }
    }
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    let log = &opened.log;
    let lsn = opened.first_new;
    let late = Arc::new(Late(AtomicBool::new(false), Mutex::new(Vec::new()), lsn));
    log.set_horizon(late.clone());
    append(log, lsn, 10, Durability::Sync);
    std::thread::scope(|scope| {
        let waiters: Vec<_> =
            (0..4).map(|_| scope.spawn(|| log.wait(lsn, Durability::Sync))).collect();
        std::thread::yield_now();
        // Relaxed: see above.
        late.0.store(true, Ordering::Relaxed);
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
    });
    assert_eq!(*late.1.lock(), [lsn, lsn], "written, then durable");
}

#[test]
fn a_future_polled_while_a_leader_finds_nothing_to_seal_is_driven() {
    /// Becomes visible, and is polled, just after the first leader has looked.
    struct Just {
        log: OnceLock<std::sync::Weak<Log>>,
        seals: AtomicUsize,
        waker: Waker,
        lsn: Lsn,
    }
    impl Horizon for Just {
        fn seal(&self, last_end: Lsn) -> Lsn {
            // Relaxed: one thread leads at a time.
            if self.seals.fetch_add(1, Ordering::Relaxed) > 0 {
                return self.lsn.max(last_end);
            }
            let log = self.log.get().unwrap().upgrade().unwrap();
            let mut context = Context::from_waker(&self.waker);
            assert!(log.poll(self.lsn, Durability::Sync, &mut context).is_pending());
            last_end
        }
        fn written(&self, _: Lsn) {}
        fn durable(&self, _: Lsn) {}
    }
    let storage = Arc::new(MemoryStorage::new());
    let options = LogOptions { buffered_delay: Duration::from_secs(3600), ..small() };
    let (opened, _) = open_with(&storage, options);
    let log = &opened.log;
    let counting = Arc::new(Counting::default());
    let waker = Waker::from(counting.clone());
    let lsn = opened.first_new;
    let just = Just { log: OnceLock::new(), seals: AtomicUsize::new(0), waker, lsn };
    just.log.set(Arc::downgrade(log)).unwrap();
    log.set_horizon(Arc::new(just));
    append(log, lsn, 10, Durability::Sync);
    std::thread::scope(|scope| {
        scope.spawn(|| log.drive());
        while !log.commit.has_driver() {
            std::thread::yield_now();
        }
        log.write_out();
        while counting.0.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(log.durable(), lsn);
        log.shutdown().unwrap();
    });
}

#[test]
fn watermarks_stand_at_sealed_ends_only() {
    #[derive(Default)]
    struct Ends {
        visible: AtomicU64,
        sealed: Mutex<Vec<Lsn>>,
        told: Mutex<Vec<(bool, Lsn)>>,
    }
    impl Horizon for Ends {
        fn seal(&self, last_end: Lsn) -> Lsn {
            // Relaxed: one thread.
            let visible = Lsn::from_bits(self.visible.load(Ordering::Relaxed));
            if visible > last_end {
                self.sealed.lock().push(visible);
            }
            visible
        }
        fn written(&self, end: Lsn) {
            self.told.lock().push((false, end));
        }
        fn durable(&self, end: Lsn) {
            self.told.lock().push((true, end));
        }
    }
    let storage = Arc::new(MemoryStorage::new());
    // Batches of one block: every sealed stretch needs several.
    let (opened, _) = open_with(&storage, LogOptions { batch_bytes_max: 4096, ..small() });
    let log = &opened.log;
    let ends = Arc::new(Ends::default());
    log.set_horizon(ends.clone());
    let mut lsn = opened.first_new;
    for round in 0..40u64 {
        append(log, lsn, 1000, if round % 3 == 0 { Durability::Sync } else { Durability::Os });
        // Relaxed: one thread.
        ends.visible.store(lsn.bits(), Ordering::Relaxed);
        if round % 13 == 12 {
            log.wait(lsn, Durability::Os).unwrap();
            let part = Lsn::new(0, lsn.counter() - 3);
            log.wait(part, Durability::Sync).unwrap();
        }
        lsn = lsn.next();
    }
    log.sync().unwrap();
    let sealed = ends.sealed.lock().clone();
    let told = ends.told.lock().clone();
    assert!(told.iter().all(|(_, end)| sealed.contains(end)), "{told:?} in {sealed:?}");
    assert!(told.is_sorted_by_key(|&(_, end)| end));
    assert_eq!(*told.last().unwrap(), (true, Lsn::new(0, 40)));
    drop(opened);
    let (_, found) = open(&storage);
    test_log::check_prefix(&found, 40);
}

#[test]
fn an_opened_copy_of_the_files_is_another_crash() {
    let storage = Arc::new(MemoryStorage::new());
    let (opened, _) = open(&storage);
    append(&opened.log, opened.first_new, 10, Durability::Sync);
    opened.log.wait(opened.first_new, Durability::Sync).unwrap();
    let copied = Arc::new(copy(&*storage));
    opened.log.shutdown().unwrap();
    assert!(!open(&copied).0.clean);
    assert!(open(&storage).0.clean);
}
