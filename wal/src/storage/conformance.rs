//! One set of assertions for every implementation of the seam: what the floors above may rely on
//! whichever they are given.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::backend::{IoBackend, open_storage};
use super::faulty::{DiskKind, FaultyStorage};
use super::memory::MemoryStorage;
use super::syscall::SyscallStorage;
use super::*;

/// Runs every check below over one implementation. `$fresh` makes an empty storage and something
/// that keeps it alive.
macro_rules! conforms {
    ($implementation:ident, $fresh:expr) => {
        conforms!(@each $implementation, $fresh,
            reads_back_what_was_written,
            a_gap_reads_as_zero_and_a_read_ends_with_the_file,
            submitted_writes_land_whole_and_give_their_buffers_back,
            a_misaligned_submission_is_refused,
            a_file_opened_for_reading_refuses_writes,
            names_are_created_once_listed_sorted_and_removed,
            a_rename_replaces_its_target_and_open_handles_stay,
            directories_are_made_with_their_parents,
            a_file_is_not_a_directory_nor_the_reverse,
            paths_stay_below_the_root,
            a_lock_has_one_holder,
            a_file_is_linked_or_copied_into_another_storage,
            many_threads_write_one_file_at_once,
            a_dropped_write_harms_nobody,
            a_write_without_an_end_is_refused,
        );
    };
    (@each $implementation:ident, $fresh:expr, $($check:ident,)*) => {
        mod $implementation {
            use super::*;
            $(
                #[test]
                fn $check() {
                    let (storage, _alive) = $fresh;
                    super::$check(storage);
                }
            )*
        }
    };
}

conforms!(memory, (Arc::new(MemoryStorage::new()) as Arc<dyn Storage>, ()));
conforms!(faulty_fua, (FaultyStorage::new(DiskKind::Fua).as_storage(), ()));
conforms!(faulty_write_through, (FaultyStorage::new(DiskKind::WriteThrough).as_storage(), ()));
conforms!(syscall, {
    let directory = tempfile::tempdir().unwrap();
    (Arc::new(SyscallStorage::open(directory.path()).unwrap()) as Arc<dyn Storage>, directory)
});

conforms!(uring, {
    let directory = tempfile::tempdir().unwrap();
    // Where io_uring is forbidden, this runs over what takes its place, and says so.
    let (storage, choice) = open_storage(directory.path(), IoBackend::Auto).unwrap();
    eprintln!("{choice}");
    (storage, directory)
});

type Store = Arc<dyn Storage>;

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn contents(file: &dyn StorageFile) -> Vec<u8> {
    let mut bytes = vec![0xee; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    bytes
}

fn names(storage: &Store, directory: &str) -> Vec<String> {
    storage.list(path(directory)).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn block_of(byte: u8, blocks: usize) -> IoBuffer {
    let mut buffer = IoBuffer::with_capacity(blocks * BLOCK_BYTES);
    buffer.extend_from_slice(&vec![byte; blocks * BLOCK_BYTES]);
    buffer
}

fn kind<T>(result: io::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

fn reads_back_what_was_written(storage: Store) {
    let file = storage.create_new(path("a")).unwrap();
    assert!(file.is_empty().unwrap());
    file.write_at(0, b"hello").unwrap();
    file.write_at(2, b"LLO, world").unwrap();
    file.sync().unwrap();
    storage.sync_dir(path("")).unwrap();
    assert_eq!(contents(&*file), b"heLLO, world");
    let again = storage.open(path("a"), Access::ReadWrite).unwrap();
    assert_eq!(contents(&*again), b"heLLO, world");
    again.write_at(0, b"j").unwrap();
    assert_eq!(contents(&*file), b"jeLLO, world", "handles of one file see each other");
    file.write_at(0, b"").unwrap();
    file.write_at(1 << 20, b"").unwrap();
    assert_eq!(file.len().unwrap(), 12, "writing nothing extends nothing");
}

fn a_gap_reads_as_zero_and_a_read_ends_with_the_file(storage: Store) {
    let file = storage.create_new(path("a")).unwrap();
    file.write_at(70_000, b"end").unwrap();
    assert_eq!(file.len().unwrap(), 70_003);
    let mut bytes = [0xee; 16];
    assert_eq!(file.read_at(69_990, &mut bytes).unwrap(), 13);
    assert_eq!(&bytes[..13], b"\0\0\0\0\0\0\0\0\0\0end");
    assert_eq!(file.read_at(70_003, &mut bytes).unwrap(), 0);
    assert_eq!(file.read_at(1 << 40, &mut bytes).unwrap(), 0);
    assert_eq!(file.read_at(0, &mut []).unwrap(), 0);
}

fn submitted_writes_land_whole_and_give_their_buffers_back(storage: Store) {
    let file = storage.create_new(path("a")).unwrap();
    file.write_at(0, &vec![0; 16 * BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    for reach in [Reach::Stable, Reach::Kernel] {
        let flights: Vec<_> = (0..5u8)
            .map(|index| {
                let offset = u64::from(index) * 3 * BLOCK_BYTES as u64;
                file.submit(offset, block_of(index + 1, 3), reach)
            })
            .collect();
        for (index, flight) in flights.into_iter().enumerate() {
            let (result, buffer) = flight.wait();
            result.unwrap();
            assert_eq!(&buffer[..], &vec![index as u8 + 1; 3 * BLOCK_BYTES][..]);
        }
        let bytes = contents(&*file);
        for index in 0..5 {
            let range = index * 3 * BLOCK_BYTES..(index + 1) * 3 * BLOCK_BYTES;
            assert!(bytes[range].iter().all(|&byte| byte == index as u8 + 1));
        }
        // The other way round, over what the page cache may now hold.
        file.write_at(0, &vec![0; 16 * BLOCK_BYTES]).unwrap();
        assert!(contents(&*file).iter().all(|&byte| byte == 0));
        let (result, _) = file.submit(0, block_of(9, 1), reach).wait();
        result.unwrap();
        assert_eq!(contents(&*file)[..BLOCK_BYTES + 1], [vec![9; BLOCK_BYTES], vec![0]].concat());
    }
}

fn a_misaligned_submission_is_refused(storage: Store) {
    let file = storage.create_new(path("a")).unwrap();
    file.write_at(0, &[7; 2 * BLOCK_BYTES]).unwrap();
    let mut short = block_of(1, 1);
    short.resize(100);
    for (offset, buffer) in [(1, block_of(1, 1)), (0, short), (0, IoBuffer::new())] {
        let bytes = buffer.len();
        let (result, buffer) = file.submit(offset, buffer, Reach::Stable).wait();
        assert_eq!(kind(result), Some(ErrorKind::InvalidInput));
        assert_eq!(buffer.len(), bytes, "the buffer comes back with the error");
    }
    assert_eq!(contents(&*file), [7; 2 * BLOCK_BYTES]);
}

fn a_file_opened_for_reading_refuses_writes(storage: Store) {
    storage.create_new(path("a")).unwrap().write_at(0, &[7; BLOCK_BYTES]).unwrap();
    let file = storage.open(path("a"), Access::Read).unwrap();
    assert!(file.write_at(0, b"x").is_err());
    for reach in [Reach::Stable, Reach::Kernel] {
        assert!(file.submit(0, block_of(1, 1), reach).wait().0.is_err());
    }
    file.sync().unwrap();
    assert_eq!(contents(&*file), [7; BLOCK_BYTES]);
}

fn names_are_created_once_listed_sorted_and_removed(storage: Store) {
    assert!(names(&storage, "").is_empty());
    for name in ["b", "c", "a"] {
        storage.create_new(path(name)).unwrap().write_at(0, name.as_bytes()).unwrap();
    }
    assert_eq!(kind(storage.create_new(path("b"))), Some(ErrorKind::AlreadyExists));
    let listed = storage.list(path("")).unwrap();
    let expected = |name: &str| DirectoryEntry { name: name.into(), bytes: 1, is_directory: false };
    assert_eq!(listed, ["a", "b", "c"].map(expected));
    storage.remove(path("b")).unwrap();
    assert_eq!(kind(storage.remove(path("b"))), Some(ErrorKind::NotFound));
    assert_eq!(kind(storage.open(path("b"), Access::Read)), Some(ErrorKind::NotFound));
    assert_eq!(names(&storage, ""), ["a", "c"]);
    storage.create_new(path("b")).unwrap();
    assert!(storage.open(path("b"), Access::Read).unwrap().is_empty().unwrap());
}

fn a_rename_replaces_its_target_and_open_handles_stay(storage: Store) {
    let old = storage.create_new(path("old")).unwrap();
    old.write_at(0, b"old").unwrap();
    let new = storage.create_new(path("new")).unwrap();
    new.write_at(0, b"new").unwrap();
    storage.rename(path("new"), path("old")).unwrap();
    assert_eq!(names(&storage, ""), ["old"]);
    assert_eq!(contents(&*storage.open(path("old"), Access::Read).unwrap()), b"new");
    assert_eq!(contents(&*old), b"old", "the replaced file lives on in its handle");
    assert_eq!(contents(&*new), b"new");
    storage.remove(path("old")).unwrap();
    new.write_at(3, b"er").unwrap();
    assert_eq!(contents(&*new), b"newer", "so does a removed one");
    assert_eq!(kind(storage.rename(path("old"), path("x"))), Some(ErrorKind::NotFound));
    storage.create_new(path("here")).unwrap();
    assert_eq!(kind(storage.rename(path("here"), path("no/x"))), Some(ErrorKind::NotFound));
    assert_eq!(names(&storage, ""), ["here"]);
    storage.rename(path("here"), path("here")).unwrap();
    assert_eq!(names(&storage, ""), ["here"]);
}

fn directories_are_made_with_their_parents(storage: Store) {
    storage.create_dir(path("a/b/c")).unwrap();
    storage.create_dir(path("a/b/c")).unwrap();
    storage.create_dir(path("")).unwrap();
    let file = storage.create_new(path("a/b/c/f")).unwrap();
    file.write_at(0, b"x").unwrap();
    for directory in ["", "a", "a/b", "a/b/c", "./a/b"] {
        storage.sync_dir(path(directory)).unwrap();
    }
    let directory = DirectoryEntry { name: "b".into(), bytes: 0, is_directory: true };
    assert_eq!(storage.list(path("a")).unwrap(), [directory]);
    assert_eq!(names(&storage, "a/b/c"), ["f"]);
    storage.rename(path("a/b/c/f"), path("a/g")).unwrap();
    assert_eq!(names(&storage, "a"), ["b", "g"]);
    assert_eq!(kind(storage.list(path("none"))), Some(ErrorKind::NotFound));
    assert_eq!(kind(storage.sync_dir(path("none"))), Some(ErrorKind::NotFound));
    assert_eq!(kind(storage.create_new(path("none/f"))), Some(ErrorKind::NotFound));
}

fn a_file_is_not_a_directory_nor_the_reverse(storage: Store) {
    storage.create_dir(path("d")).unwrap();
    storage.create_new(path("f")).unwrap();
    assert_eq!(kind(storage.open(path("d"), Access::ReadWrite)), Some(ErrorKind::IsADirectory));
    assert_eq!(kind(storage.open(path("d"), Access::Read)), Some(ErrorKind::IsADirectory));
    assert_eq!(kind(storage.remove(path("d"))), Some(ErrorKind::IsADirectory));
    assert_eq!(kind(storage.create_new(path("d"))), Some(ErrorKind::AlreadyExists));
    assert_eq!(kind(storage.rename(path("f"), path("d"))), Some(ErrorKind::IsADirectory));
    assert_eq!(kind(storage.rename(path("d"), path("e"))), Some(ErrorKind::IsADirectory));
    assert_eq!(kind(storage.create_dir(path("f"))), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(storage.create_dir(path("f/g"))), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(storage.create_new(path("f/g"))), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(storage.list(path("f"))), Some(ErrorKind::NotADirectory));
    assert_eq!(kind(storage.sync_dir(path("f"))), Some(ErrorKind::NotADirectory));
    assert_eq!(names(&storage, ""), ["d", "f"]);
}

fn paths_stay_below_the_root(storage: Store) {
    for outside in ["/etc/passwd", "../x", "a/../../x"] {
        let outside = path(outside);
        let refused = Some(ErrorKind::InvalidInput);
        assert_eq!(kind(storage.open(outside, Access::Read)), refused);
        assert_eq!(kind(storage.create_new(outside)), refused);
        assert_eq!(kind(storage.create_dir(outside)), refused);
        assert_eq!(kind(storage.remove(outside)), refused);
        assert_eq!(kind(storage.rename(outside, path("x"))), refused);
        assert_eq!(kind(storage.list(outside)), refused);
        assert_eq!(kind(storage.sync_dir(outside)), refused);
        assert_eq!(kind(storage.try_lock(outside)), refused);
    }
    assert!(!storage.display(path("wal/x")).is_empty());
}

fn a_lock_has_one_holder(storage: Store) {
    let held = storage.try_lock(path("LOCK")).unwrap();
    assert_eq!(kind(storage.try_lock(path("LOCK"))), Some(ErrorKind::WouldBlock));
    assert_eq!(names(&storage, ""), ["LOCK"]);
    let other = storage.try_lock(path("OTHER")).unwrap();
    drop(held);
    let again = storage.try_lock(path("LOCK")).unwrap();
    assert_eq!(kind(storage.try_lock(path("LOCK"))), Some(ErrorKind::WouldBlock));
    drop((again, other));
}

fn many_threads_write_one_file_at_once(storage: Store) {
    const THREADS: usize = 4;
    const ROUNDS: usize = 6;
    let file = storage.create_new(path("a")).unwrap();
    file.write_at(0, &vec![0; THREADS * ROUNDS * BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let file = &file;
            scope.spawn(move || {
                let mut buffer = block_of(0, 1);
                let mut behind: Option<Box<dyn InFlight>> = None;
                for round in 0..ROUNDS {
                    buffer.fill((thread * ROUNDS + round + 1) as u8);
                    let offset = ((thread * ROUNDS + round) * BLOCK_BYTES) as u64;
                    let reach = if round % 2 == 0 { Reach::Stable } else { Reach::Kernel };
                    let flight = file.submit(offset, buffer, reach);
                    buffer = match behind.replace(flight) {
                        Some(flight) => {
                            let (result, buffer) = flight.wait();
                            result.unwrap();
                            buffer
                        }
                        None => block_of(0, 1),
                    };
                }
                behind.unwrap().wait().0.unwrap();
            });
        }
    });
    let bytes = contents(&*file);
    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        assert!(block.iter().all(|&byte| byte == index as u8 + 1), "block {index}");
    }
}

fn a_dropped_write_harms_nobody(storage: Store) {
    let file = storage.create_new(path("a")).unwrap();
    file.write_at(0, &vec![0; 8 * BLOCK_BYTES]).unwrap();
    file.sync().unwrap();
    for index in 0..4u8 {
        drop(file.submit(u64::from(index) * BLOCK_BYTES as u64, block_of(index, 1), Reach::Stable));
    }
    // Memory that the dropped buffers may have left is handed out again here.
    let noise: Vec<_> = (0..4).map(|_| block_of(0xaa, 1)).collect();
    let (result, _) = file.submit(7 * BLOCK_BYTES as u64, block_of(7, 1), Reach::Stable).wait();
    result.unwrap();
    drop(noise);
    let kept = file.clone();
    drop((file, storage));
    let bytes = contents(&*kept);
    for index in 0..4 {
        let block = &bytes[index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES];
        assert!(block.iter().all(|&byte| byte == index as u8 || byte == 0), "block {index}");
    }
}

fn a_write_without_an_end_is_refused(storage: Store) {
    let file = storage.create_new(path("a")).unwrap();
    assert_eq!(kind(file.write_at(u64::MAX - 3, b"12345")), Some(ErrorKind::InvalidInput));
    assert_eq!(kind(file.write_at(i64::MAX as u64, b"1")), Some(ErrorKind::InvalidInput));
    let last = u64::MAX / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let (result, _) = file.submit(last, block_of(1, 2), Reach::Stable).wait();
    assert_eq!(kind(result), Some(ErrorKind::InvalidInput));
    assert!(file.is_empty().unwrap());
}

fn a_file_is_linked_or_copied_into_another_storage(storage: Store) {
    let other = tempfile::tempdir().unwrap();
    let syscall = SyscallStorage::open(other.path()).unwrap();
    let memory = MemoryStorage::new();
    let file = storage.create_new(path("f")).unwrap();
    let bytes: Vec<u8> = (0..3 * BLOCK_BYTES).map(|at| (at / BLOCK_BYTES % 2) as u8).collect();
    file.write_at(0, &bytes).unwrap();
    for target in [&syscall as &dyn Storage, &memory] {
        link_or_copy(&*storage, path("f"), target, path("g")).unwrap();
        assert_eq!(contents(&*target.open(path("g"), Access::Read).unwrap()), bytes);
        let again = link_or_copy(&*storage, path("f"), target, path("g"));
        assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
        let missing = link_or_copy(&*storage, path("no"), target, path("h"));
        assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    }
    storage.remove(path("f")).unwrap();
    assert_eq!(contents(&*syscall.open(path("g"), Access::Read).unwrap()), bytes);
}

fn several_share_a_lock(storage: Store) {
    let missing = storage.try_lock_shared(path("LOCK"));
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
    let alone = storage.try_lock(path("LOCK")).unwrap();
    assert_eq!(storage.try_lock_shared(path("LOCK")).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(alone);
    let shared = [(); 2].map(|()| storage.try_lock_shared(path("LOCK")).unwrap());
    assert_eq!(storage.try_lock(path("LOCK")).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(shared);
    storage.try_lock(path("LOCK")).unwrap();
}

#[test]
fn several_share_a_lock_in_memory_and_in_a_directory() {
    several_share_a_lock(Arc::new(MemoryStorage::new()));
    let directory = tempfile::tempdir().unwrap();
    several_share_a_lock(open_storage(directory.path(), IoBackend::Auto).unwrap().0);
}
