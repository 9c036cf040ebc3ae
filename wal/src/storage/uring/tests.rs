//! What a ring adds to the conformance tests: who owns a buffer, and what happens when the ring is
//! closed under us.

use super::*;
use crate::storage::BLOCK_BYTES;
use crate::storage::backend::{BackendKind, IoBackend, open_storage};
use crate::storage::tests::deny;

struct Fixture {
    directory: tempfile::TempDir,
    lanes: Arc<Lanes>,
    file: Arc<UringFile>,
}

/// A file of `blocks` zero blocks. `None` where io_uring is forbidden: the test is skipped, and says
/// so.
fn fixture(blocks: usize) -> Option<Fixture> {
    let lane = probe().inspect_err(|denied| eprintln!("skipped: {denied:?}")).ok()?;
    let directory = tempfile::tempdir().unwrap();
    let files = SyscallStorage::open(directory.path()).unwrap();
    let storage = UringStorage::new(files, lane);
    let descriptors = storage.files.create_file(Path::new("f")).unwrap();
    descriptors.write_at(0, &vec![0; blocks * BLOCK_BYTES]).unwrap();
    descriptors.sync().unwrap();
    let lanes = storage.lanes.clone();
    let file = Arc::new(UringFile { descriptors, lanes: lanes.clone() });
    Some(Fixture { directory, lanes, file })
}

fn block(byte: u8) -> IoBuffer {
    let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

fn submit(file: &UringFile, index: usize, byte: u8) -> Box<dyn InFlight> {
    file.submit((index * BLOCK_BYTES) as u64, block(byte), Reach::Stable)
}

/// The first byte of each block; the rest of the block must agree.
fn heads(file: &UringFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
    let whole = |block: &[u8]| block.iter().all(|&byte| byte == block[0]).then_some(block[0]);
    bytes.chunks(BLOCK_BYTES).map(|block| whole(block).expect("a block is whole")).collect()
}

#[test]
fn rings_are_used_again() {
    let Some(Fixture { lanes, file, directory: _directory }) = fixture(4) else { return };
    for round in 0..5 {
        let flights: Vec<_> = (0..4).map(|index| submit(&file, index, round * 4 + 1)).collect();
        for flight in flights {
            flight.wait().0.unwrap();
        }
    }
    assert_eq!(heads(&file), [17; 4]);
    let pool = lanes.pool.lock();
    assert_eq!((pool.alive, pool.idle.len(), pool.abandoned.len()), (4, 4, 0));
}

#[test]
fn more_writes_than_rings_go_by_system_calls() {
    let blocks = LANES_MAX + 8;
    let Some(Fixture { lanes, file, directory: _directory }) = fixture(blocks) else { return };
    let flights: Vec<_> = (0..blocks).map(|index| submit(&file, index, index as u8 + 1)).collect();
    assert_eq!(lanes.pool.lock().alive, LANES_MAX);
    for flight in flights {
        flight.wait().0.unwrap();
    }
    assert_eq!(heads(&file), (0..blocks).map(|index| index as u8 + 1).collect::<Vec<_>>());
    assert_eq!(lanes.pool.lock().idle.len(), LANES_MAX);
}

#[test]
fn a_dropped_write_keeps_its_buffer_and_lands_before_the_storage_closes() {
    let Some(Fixture { lanes, file, directory }) = fixture(8) else { return };
    for index in 0..8 {
        drop(submit(&file, index, index as u8 + 1));
        // The allocator would hand a freed buffer out again here, to be overwritten.
        let _noise: Vec<_> = (0..4).map(|_| block(0xaa)).collect();
    }
    assert!(lanes.pool.lock().alive <= 8);
    drop((lanes, file));
    let (storage, choice) = open_storage(directory.path(), IoBackend::Uring).unwrap();
    assert_eq!(choice.kind, BackendKind::Uring);
    let mut bytes = vec![0; 8 * BLOCK_BYTES];
    storage.open(Path::new("f"), Access::Read).unwrap().read_at(0, &mut bytes).unwrap();
    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        assert!(block.iter().all(|&byte| byte == index as u8 + 1), "block {index}");
    }
}

#[test]
fn abandoned_rings_come_back_when_their_write_is_over() {
    let Some(Fixture { lanes, file, directory: _directory }) = fixture(1) else { return };
    for round in 0..LANES_MAX * 2 {
        drop(submit(&file, 0, round as u8));
        // A write that is waited for, behind the dropped one.
        submit(&file, 0, round as u8).wait().0.unwrap();
    }
    assert!(lanes.pool.lock().alive < LANES_MAX, "they did not pile up");
}

#[test]
fn a_write_is_waited_for_on_another_thread_after_its_own_has_gone() {
    let Some(Fixture { file, directory: _directory, .. }) = fixture(16) else { return };
    for index in 0..16 {
        let submitter = file.clone();
        let flight = std::thread::spawn(move || submit(&submitter, index, index as u8 + 1));
        flight.join().unwrap().wait().0.unwrap();
    }
    assert_eq!(heads(&file), (1..=16).collect::<Vec<u8>>());
}

#[test]
fn a_ring_that_is_closed_to_a_thread_costs_no_write() {
    let Some(Fixture { lanes, file, directory: _directory }) = fixture(3) else { return };
    let writer = file.clone();
    let thread = std::thread::spawn(move || {
        let before = submit(&writer, 0, 1);
        deny(&[libc::SYS_io_uring_enter, libc::SYS_io_uring_setup], libc::EPERM);
        // Submitted before, waited for without the call that waits.
        before.wait().0.unwrap();
        // Not submitted: the ring says so, and the buffer comes back for a plain write.
        submit(&writer, 1, 2).wait().0.unwrap();
        submit(&writer, 2, 3).wait().0.unwrap();
    });
    thread.join().unwrap();
    assert_eq!(heads(&file), [1, 2, 3]);
    assert_eq!(
        lanes.pool.lock().alive,
        0,
        "the refused ring is closed, a new one was not to be had"
    );
}

#[test]
fn a_refused_write_is_an_error_with_its_buffer() {
    let Some(Fixture { file, directory: _directory, .. }) = fixture(1) else { return };
    // Past what a file system on a disk holds in one file; one in memory may take it.
    let (result, buffer) = file.submit(1 << 62, block(5), Reach::Stable).wait();
    assert_eq!(buffer[..], [5; BLOCK_BYTES]);
    if result.is_err() {
        assert_eq!(heads(&file), [0]);
    }
}

#[test]
fn a_forked_child_takes_nothing_from_its_parents_rings() {
    let Some(Fixture { lanes, file, directory: _directory }) = fixture(1) else { return };
    let flight = submit(&file, 0, 9);
    // What a child would see: a generation above that of the rings.
    let mut theirs = lanes.take().unwrap();
    theirs.pretend_forked();
    assert!(theirs.finish().is_none());
    let load = Load { descriptors: file.descriptors.clone(), offset: 0, buffer: block(1) };
    assert!(theirs.start(load).is_err(), "nor does it put anything in");
    flight.wait().0.unwrap();
    assert_eq!(heads(&file), [9]);
}
