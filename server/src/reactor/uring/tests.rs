//! Where io_uring is denied: what is said, and that nothing is left half done.

use super::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use std::collections::BTreeMap;

/// Makes system calls fail with `errno` on this thread, for good.
fn deny(calls: &[i64], errno: i32) {
    let rules: BTreeMap<i64, Vec<_>> = calls.iter().map(|&call| (call, Vec::new())).collect();
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let denied = SeccompAction::Errno(errno as u32);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, architecture);
    let program: BpfProgram = filter.and_then(TryInto::try_into).expect("a filter");
    seccompiler::apply_filter(&program).expect("filters are allowed");
}

#[test]
fn each_call_may_be_denied_and_is_named() {
    if let Err(denied) = rings(1) {
        eprintln!("skipped: {denied}");
        return;
    }
    for (call, step) in [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ] {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let thread = std::thread::spawn(move || {
                deny(&[call], errno);
                rings(1).expect_err("it is denied")
            });
            let denied = thread.join().expect("the thread");
            assert_eq!(denied.error.raw_os_error(), Some(errno), "{denied}");
            assert!(denied.to_string().starts_with(step), "{denied}");
        }
    }
}

#[test]
fn a_ring_that_is_closed_to_its_thread_is_an_error_and_frees_nothing_in_use() {
    let Some(ring) = testing::usual() else { return };
    let thread = std::thread::spawn(move || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let waker = Arc::new(CoreWaker::new().expect("an eventfd"));
        let mut driver = Uring::new(ring, listener, waker).expect("a driver");
        driver.accept(true).expect("it accepts");
        let client = std::net::TcpStream::connect(address).expect("somebody listens");
        let mut accepted = None;
        while accepted.is_none() {
            let mut visit = |completion: Completion<'_>| {
                if let Completion::Accepted(socket) = completion {
                    accepted = Some(socket);
                }
            };
            driver.poll(Some(Duration::from_secs(1)), &mut visit).expect("it works");
        }
        let token = Token::new(0, 0);
        driver.adopt(token, accepted.expect("a client")).expect("it is taken in");
        driver.send(token, vec![7; 64 << 20]);
        driver.poll(Some(Duration::ZERO), &mut |_| ()).expect("it works");
        deny(&[libc::SYS_io_uring_enter], libc::EPERM);
        let error = driver.poll(Some(Duration::ZERO), &mut |_| ()).expect_err("it is closed");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
        // The kernel still has the buffer: `drop` leaves it behind.
        drop(driver);
        client
    });
    let mut client = thread.join().expect("the thread");
    let mut read = Vec::new();
    let _ = std::io::Read::read_to_end(&mut client, &mut read);
    assert!(read.iter().all(|byte| *byte == 7));
}
