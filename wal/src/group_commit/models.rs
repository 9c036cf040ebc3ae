//! Every interleaving of two or three threads that commit together, under loom. A lost wake-up shows
//! as a deadlock. Left out: the driver (it waits with deadlines) and preparing segments.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 CARGO_TARGET_DIR=target/loom \
//!     cargo test --release -p isolith-wal --lib models
//! ```

use std::task::Wake;

use loom::sync::atomic::AtomicBool;
use loom::thread;

use super::*;
use crate::log::{LogOptions, Record};
use crate::storage::memory::MemoryStorage;

fn model(depth_max: usize, scenario: impl Fn(Arc<Committers>) + Sync + Send + 'static) {
    loom::model(move || {
        let options = LogOptions {
            segment_bytes: 32 << 10,
            depth_max,
            queue_records_max: 4,
            threads: false,
            ..LogOptions::default()
        };
        let storage = Arc::new(MemoryStorage::new());
        let opened = Log::open(storage, options, &mut |_, _| Ok(())).unwrap();
        let next = Mutex::new(opened.first_new);
        let log = Arc::into_inner(opened.log).unwrap();
        scenario(Arc::new(Committers { log, next }));
    });
}

struct Committers {
    log: Log,
    /// Stands for the commit window.
    next: Mutex<Lsn>,
}

impl Committers {
    fn append(&self, level: Durability) -> Lsn {
        let credit = self.log.reserve(1, None).unwrap();
        let mut next = self.next.lock();
        let lsn = *next;
        self.log.append(lsn, Record::from(vec![1]), level, credit);
        *next = lsn.next();
        lsn
    }

    fn commit_is_closed(&self) -> bool {
        self.log.commit.pipeline.lock().is_closed()
    }

    fn commit(&self, level: Durability) {
        let lsn = self.append(level);
        self.log.wait(lsn, level).unwrap();
        match level {
            Durability::Sync => assert!(self.log.durable() >= lsn),
            _ => assert!(self.log.written() >= lsn),
        }
    }
}

fn two_threads(depth_max: usize, mine: Durability, theirs: Durability) {
    model(depth_max, move |committers| {
        let other = {
            let committers = committers.clone();
            thread::spawn(move || committers.commit(theirs))
        };
        committers.commit(mine);
        other.join().unwrap();
    });
}

#[test]
fn two_committers_at_depth_one() {
    two_threads(1, Durability::Sync, Durability::Sync);
}

#[test]
fn two_committers_at_depth_two() {
    two_threads(2, Durability::Sync, Durability::Sync);
}

#[test]
fn a_synced_and_an_unsynced_committer() {
    two_threads(2, Durability::Sync, Durability::Os);
}

#[test]
fn three_committers_at_depth_one() {
    model(1, |committers| {
        let others: Vec<_> = (0..2)
            .map(|_| {
                let committers = committers.clone();
                thread::spawn(move || committers.commit(Durability::Sync))
            })
            .collect();
        committers.commit(Durability::Sync);
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        // Relaxed: read after a join.
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_pending_future_is_woken() {
    model(1, |committers| {
        let lsn = committers.append(Durability::Sync);
        let leader = {
            let committers = committers.clone();
            thread::spawn(move || committers.log.wait(lsn, Durability::Sync).unwrap())
        };
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(woken.clone());
        let polled = committers.log.poll(lsn, Durability::Sync, &mut Context::from_waker(&waker));
        leader.join().unwrap();
        // Relaxed: after the join.
        assert!(polled.is_ready() || woken.0.load(Ordering::Relaxed));
    });
}

#[test]
fn a_synced_committer_beside_a_thread_that_writes_to_the_kernel() {
    model(2, |committers| {
        let other = {
            let committers = committers.clone();
            thread::spawn(move || committers.commit(Durability::Sync))
        };
        let lsn = committers.append(Durability::Os);
        let wrote = committers.log.write_to_kernel();
        assert!(!wrote || committers.log.written() >= lsn);
        other.join().unwrap();
        // Whatever the other has left.
        committers.log.write_to_kernel();
        assert!(committers.log.written() >= lsn);
    });
}

#[test]
fn a_close_waits_for_the_mark_of_a_log_that_stood_still() {
    model(1, |committers| {
        committers.commit(Durability::Sync);
        let driver = {
            let committers = committers.clone();
            thread::spawn(move || committers.log.write_mark(BatchKind::Mark).unwrap())
        };
        committers.log.shutdown().unwrap();
        driver.join().unwrap();
        assert!(committers.commit_is_closed());
    });
}

/// Visible is what was stored last.
struct Visible(AtomicU64);

impl crate::Horizon for Visible {
    fn seal(&self, _: Lsn) -> Lsn {
        // Acquire: pairs with the Release of whoever committed.
        Lsn::from_bits(self.0.load(Ordering::Acquire))
    }
    fn written(&self, _: Lsn) {}
    fn durable(&self, _: Lsn) {}
}

#[test]
fn a_leader_that_finds_nothing_wakes_those_who_waited_for_it() {
    model(1, |committers| {
        let visible = Arc::new(Visible(AtomicU64::new(0)));
        committers.log.set_horizon(visible.clone());
        let lsn = committers.append(Durability::Sync);
        let passer_by = {
            let committers = committers.clone();
            thread::spawn(move || drop(committers.log.write_out()))
        };
        // Release: pairs with the Acquire in `seal`.
        visible.0.store(lsn.bits(), Ordering::Release);
        committers.log.wait(lsn, Durability::Sync).unwrap();
        passer_by.join().unwrap();
    });
}

#[test]
fn a_reserver_and_a_committer_relieve_a_full_queue() {
    model(1, |committers| {
        // Four places: two are taken, two more are wanted by each.
        let first = committers.append(Durability::Buffered);
        committers.append(Durability::Buffered);
        let other = {
            let committers = committers.clone();
            thread::spawn(move || committers.commit(Durability::Sync))
        };
        committers.commit(Durability::Os);
        assert!(committers.log.written() >= first);
        other.join().unwrap();
    });
}
