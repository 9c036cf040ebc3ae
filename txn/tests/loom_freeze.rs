//! Models of a freeze that comes between the steps of a commit (protocol rules 6 and 14), run by loom over
//! the real requests, verdicts, keyspaces and memtables; the window is the model's own mutex.
//!
//! `RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 cargo test -p isolith-txn --release --test loom_freeze`
//!
//! Without `--cfg loom` this target is empty. Each model has been seen to fail on the breaks that its
//! comment names.

#![cfg(loom)]

use std::sync::Arc;

use isolith_index::{Kind, Memtable, Value, collect, pin};
use isolith_txn::{
    Interval, Isolation, LockTable, ReadSet, Recent, Request, Space, SpaceReads, SpaceWrites,
    Verdict, Watermarks, decide,
};
use isolith_wal::Lsn;
use loom::sync::Mutex;
use loom::thread;

fn lsn(counter: u64) -> Lsn {
    Lsn::new(1, counter)
}

/// The last commit before a model begins.
const BEFORE: u64 = 1;

/// What the window's leader owns.
struct Window {
    next: u64,
    recent: Recent,
}

struct World {
    space: Arc<Space>,
    marks: Watermarks,
    locks: LockTable,
    window: Mutex<Window>,
}

impl World {
    fn new() -> Arc<World> {
        let window = Window { next: BEFORE + 1, recent: Recent::new(lsn(BEFORE)) };
        Arc::new(World {
            space: Arc::new(Space::new(1, Arc::new(Memtable::new(1)))),
            marks: Watermarks::new(lsn(BEFORE)),
            locks: LockTable::new(),
            window: Mutex::new(window),
        })
    }

    fn writes(&self, key: &[u8]) -> Vec<SpaceWrites> {
        let mut prepared = self.space.prepare(1);
        prepared.add(key, Kind::Put, Value::new(b"v"), 0);
        vec![SpaceWrites::new(Arc::clone(&self.space), prepared)]
    }

    /// Puts a new memtable over the keyspace, between two rounds, and lets the ring go of what was
    /// written to the old one, as the engine does.
    fn freeze(&self) {
        let guard = pin();
        let mut window = self.window.lock().unwrap();
        let through = self.marks.visible();
        self.space.freeze(Arc::new(Memtable::new(2)), through, &guard);
        let empty = || SpaceWrites::new(Arc::clone(&self.space), self.space.prepare(0));
        drop(window.recent.forget(empty, &guard));
    }

    /// A commit, as the engine makes it: judged outside of the window, decided within, and made again
    /// if it was sent back. Its timestamp, if it is not refused.
    fn commit(&self, reads: Vec<SpaceReads>, writes: Vec<SpaceWrites>) -> Option<Lsn> {
        let level = Isolation::Serializable;
        let mut request = Request::new(level, lsn(BEFORE), writes, reads);
        for attempt in 0..4 {
            let guard = pin();
            if request.is_stale(&guard) {
                request = request.rebuilt(&guard);
            }
            let visible = self.marks.visible();
            let found = request.pre_validate(visible, attempt, &guard).expect("there are no files");
            if found.is_some() {
                return None;
            }
            let mut window = self.window.lock().unwrap();
            match decide(&request, &window.recent, &self.locks, &guard) {
                Verdict::SendBack => {}
                Verdict::Conflict(_) => return None,
                Verdict::Commit => {
                    let at = lsn(window.next);
                    window.next += 1;
                    window.recent.push(at, Arc::clone(&request.writes));
                    for writes in request.writes.iter() {
                        writes.space.note_write(at);
                        writes.prepared.install(at);
                    }
                    self.marks.publish(at);
                    return Some(at);
                }
                other => panic!("there is nothing for {other:?}"),
            }
        }
        panic!("one freeze sends nobody back so often");
    }

    /// The newest stamp on a key.
    fn newest(&self, key: &[u8]) -> Lsn {
        let guard = pin();
        self.space.view(&guard).newest(key, &guard).expect("there are no files")
    }

    /// Layers are disjoint in their stamps, and *visible* is the end of what there is.
    fn check_layers(&self, keys: &[&[u8]]) {
        let guard = pin();
        let view = self.space.view(&guard);
        for key in keys {
            let active = view.active().newest(key, &guard);
            assert!(active == Lsn::ZERO || active > view.below_max(), "{active:?} lies too high");
            for frozen in view.frozen() {
                let newest = frozen.newest(key, &guard);
                assert!(newest <= view.below_max(), "{newest:?} went into what is frozen");
            }
        }
    }
}

/// Runs a model; its shared things are dropped, and what was retired is freed, within it.
fn model(body: impl Fn() + Send + Sync + 'static) {
    loom::model(move || {
        body();
        collect();
    });
}

/// A commit that was prepared for a memtable that is frozen before its decision goes to the new one.
///
/// Fails if `decide` does not send back what is stale.
#[test]
fn nothing_goes_into_what_is_frozen() {
    model(|| {
        let world = World::new();
        let keeper = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.freeze())
        };
        let at = world.commit(Vec::new(), world.writes(b"k")).expect("nobody is in its way");
        keeper.join().unwrap();
        world.check_layers(&[b"k"]);
        assert_eq!(world.newest(b"k"), at);
    });
}

/// One commit depends on what another one changes, with a freeze before or after the change: the first
/// commits before the change, or not at all.
fn changed_beside_a_freeze(freezes_first: bool, depends: fn(&mut ReadSet, &Arc<Space>)) {
    model(move || {
        let world = World::new();
        let mut reads = ReadSet::default();
        depends(&mut reads, &world.space);
        let (reads, own) = (reads.into_spaces(), world.writes(b"other"));
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                if freezes_first {
                    world.freeze();
                }
                let at = world.commit(Vec::new(), world.writes(b"k"));
                if !freezes_first {
                    world.freeze();
                }
                at.expect("it depends on nothing")
            })
        };
        // Loom goes back here, and lets the other one go first.
        thread::yield_now();
        let own = world.commit(reads, own);
        let changed = other.join().unwrap();
        assert!(own.is_none_or(|own| own < changed), "{own:?} did not see {changed:?}");
        world.check_layers(&[b"k", b"other"]);
    });
}

/// What was read by itself is looked for in the active memtable and beneath it.
///
/// Fails if `pre_validate` does not look beneath.
#[test]
fn what_was_read_is_found_changed_though_it_is_frozen() {
    changed_beside_a_freeze(false, |reads, space| reads.point(space, b"k"));
    changed_beside_a_freeze(true, |reads, space| reads.point(space, b"k"));
}

/// The same of an interval: the ring has forgotten what was written to a frozen memtable.
///
/// Fails if `decide` does not send back what is stale.
#[test]
fn an_interval_is_found_changed_though_it_is_frozen() {
    let interval = |reads: &mut ReadSet, space: &Arc<Space>| {
        reads.interval(space, Interval::point(b"k"));
    };
    changed_beside_a_freeze(false, interval);
    changed_beside_a_freeze(true, interval);
}

/// Who takes its timestamp first and then the view finds all that it is to see, wherever it lies.
///
/// Fails with a Relaxed swap in `Tree::replace`.
#[test]
fn a_reader_finds_what_was_committed_before_and_after_a_freeze() {
    model(|| {
        let world = World::new();
        let reader = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let guard = pin();
                let read = world.marks.visible();
                // Loom lets the writer in between.
                thread::yield_now();
                let view = world.space.view(&guard);
                let lookup = view.lookup(b"k", read, &guard).expect("there are no files");
                let expected = if read > lsn(BEFORE) { read } else { Lsn::ZERO };
                assert_eq!(lookup.observed, expected, "at {read:?}");
            })
        };
        for _ in 0..2 {
            world.commit(Vec::new(), world.writes(b"k")).expect("nobody is in its way");
            world.freeze();
        }
        reader.join().unwrap();
    });
}
