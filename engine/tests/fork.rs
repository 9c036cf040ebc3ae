//! A forked child must not touch the database that its parent has open: every operation there
//! answers `Forked`, its end disturbs nothing, and the parent goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use isolith::{
    Concurrency, Database, DeadlockPolicy, Durability, Error, IoBackend, PutOptions,
    TransactionOptions,
};

use child::{exit_code, in_a_child};

/// The only unsafe code: a child, and its end.
mod child {
    #![expect(unsafe_code, reason = "fork, _exit and waitpid are C functions")]

    /// A child of this process.
    pub(super) struct Child(libc::pid_t);

    /// Runs `body` in a forked child, which leaves with what it returns, without running what the
    /// process has registered for its exit.
    pub(super) fn in_a_child(body: impl FnOnce() -> i32) -> Child {
        // SAFETY: the child has this one thread alone. It calls no more than `body`, which allocates
        // (glibc keeps its allocator usable across a fork) and takes no lock that another thread of
        // the parent may hold: the operations that it tries look at the process first.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "no child could be made");
        if pid == 0 {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(99);
            // SAFETY: ends the process at once; nothing of it is used afterwards.
            unsafe { libc::_exit(code) }
        }
        Child(pid)
    }

    /// Waits for the child's end.
    pub(super) fn exit_code(child: Child) -> Option<i32> {
        let mut status = 0;
        // SAFETY: `status` is a live integer, and `child` was forked here and is reaped only here.
        let reaped = unsafe { libc::waitpid(child.0, &raw mut status, 0) };
        (reaped == child.0 && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status))
    }
}

/// The number of the first operation that did not answer `Forked`; 0 if all did.
fn first_not_refused(operations: &mut [&mut dyn FnMut() -> Result<(), Error>]) -> i32 {
    let refused = |result| matches!(result, Err(Error::Forked));
    let found = operations.iter_mut().position(|operation| !refused(operation()));
    found.map_or(0, |at| at as i32 + 1)
}

fn a_child_is_refused_and_disturbs_nothing(io: IoBackend, threads: bool) {
    let directory = tempfile::tempdir().unwrap();
    let builder = Database::builder(directory.path().join("data"))
        .io(io)
        .threads(threads)
        .segment_bytes(1 << 20);
    let db = builder.clone().open().unwrap();
    let a = db.keyspace("a").unwrap();
    a.put("before", "fork").unwrap();

    // A writer is at work while the child is made and while it lives.
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU32::new(0));
    let writer = {
        let (a, stop, written) = (a.clone(), Arc::clone(&stop), Arc::clone(&written));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let n = written.load(Ordering::Relaxed);
                let durability = [Durability::Sync, Durability::Os, Durability::Buffered];
                let durability = Some(durability[n as usize % 3]);
                let options = PutOptions { durability, ..Default::default() };
                a.put_with(n.to_be_bytes(), n.to_string(), options).unwrap();
                written.store(n + 1, Ordering::Relaxed);
            }
        })
    };

    let snapshot = db.snapshot().unwrap();
    for _ in 0..10 {
        let reader = db.begin().unwrap();
        reader.get(&a, "before").unwrap();
        let mut open = db.begin().unwrap();
        open.put(&a, "from the child", "never").unwrap();
        let mut twin = Some(db.begin().unwrap());
        twin.as_mut().unwrap().put(&a, "from the child, too", "never").unwrap();
        let locking = TransactionOptions {
            concurrency: Concurrency::Locking(DeadlockPolicy::default()),
            ..Default::default()
        };
        let mut locker = db.begin_with(locking).unwrap();
        locker.put(&a, "locked", "never").unwrap();
        let mut range = a.range(..);
        range.next().unwrap().unwrap();
        // The child's copies, to be dropped there.
        let mut handles = Some((db.clone(), a.clone(), snapshot.clone()));

        let child = in_a_child(|| {
            let read_only = TransactionOptions { read_only: true, ..Default::default() };
            let code = first_not_refused(&mut [
                &mut || a.get("before").map(drop),
                &mut || a.get_with("before", |_| ()).map(drop),
                &mut || a.contains("before").map(drop),
                &mut || a.put("from the child", "never"),
                &mut || a.delete("before"),
                &mut || a.delete_range(..),
                &mut || a.compare_and_swap("x", None, Some(b"y")).map(drop),
                &mut || a.len().map(drop),
                &mut || range.next().map_or(Ok(()), |pair| pair.map(drop)),
                &mut || db.begin().map(drop),
                &mut || db.begin_with(read_only).map(drop),
                &mut || db.transact(|_| Ok(())),
                &mut || db.snapshot().map(drop),
                &mut || db.keyspace("a").map(drop),
                &mut || db.keyspace("new").map(drop),
                &mut || db.drop_keyspace("a").map(drop),
                &mut || db.get_after(&a, "before", db.visible()).map(drop),
                &mut || db.sync(),
                &mut || db.close(),
                &mut || snapshot.get(&a, "before").map(drop),
                &mut || reader.get(&a, "before").map(drop),
                &mut || open.put(&a, "k", "v"),
                &mut || locker.put(&a, "k", "v"),
                &mut || twin.take().map_or(Ok(()), |twin| twin.commit().map(drop)),
            ]);
            drop(handles.take());
            drop((reader, open, locker, range));
            code
        });
        assert_eq!(exit_code(child), Some(0), "the number of the operation that was not refused");
    }
    drop(snapshot);

    // The parent has gone on all the while, and its directory is locked still.
    let before = written.load(Ordering::Relaxed);
    while written.load(Ordering::Relaxed) < before + 10 {
        std::thread::yield_now();
    }
    assert!(builder.clone().open().is_err(), "the child has not unlocked the directory");
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    a.put("after", "fork").unwrap();
    db.close().unwrap();
    drop((a, db));

    let db = builder.open().unwrap();
    let a = db.keyspace("a").unwrap();
    for n in 0..written.load(Ordering::Relaxed) {
        let value = a.get(n.to_be_bytes()).unwrap();
        assert_eq!(value.as_deref(), Some(n.to_string().as_bytes()), "key {n}");
    }
    assert_eq!(a.get("before").unwrap().as_deref(), Some(&b"fork"[..]));
    assert_eq!(a.get("after").unwrap().as_deref(), Some(&b"fork"[..]));
    assert_eq!(a.get("from the child").unwrap(), None);
    assert_eq!(a.get("from the child, too").unwrap(), None);
    assert!(db.recovery().is_some_and(|report| report.torn_tail.is_none()));
}

/// One test: in the second half no thread of the parent may hold a lock that the child needs.
#[test]
fn a_forked_child_is_refused_and_disturbs_nothing_and_may_open_the_database_anew() {
    for io in [IoBackend::Auto, IoBackend::Syscall] {
        for threads in [true, false] {
            a_child_is_refused_and_disturbs_nothing(io, threads);
        }
    }
    a_child_may_open_the_database_anew();
}

/// A child may open what its parent has closed.
fn a_child_may_open_the_database_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    let db = Database::open(&path).unwrap();
    db.keyspace("a").unwrap().put("parent", "1").unwrap();
    drop(db);
    let child = in_a_child(|| {
        let Ok(db) = Database::open(&path) else { return 1 };
        let Ok(a) = db.keyspace("a") else { return 2 };
        match a.put("child", "2").and_then(|()| db.close()) {
            Ok(()) => 0,
            Err(_) => 3,
        }
    });
    assert_eq!(exit_code(child), Some(0));
    let a = Database::open(&path).unwrap().keyspace("a").unwrap();
    assert_eq!(a.get("parent").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(a.get("child").unwrap().as_deref(), Some(&b"2"[..]));
}
