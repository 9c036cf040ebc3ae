//! Tells a forked child from the process that it came from.
//!
//! A forked child shares the parent's open files and inherits its memory, but none of its threads:
//! a database carried across a fork would write into the parent's log. Whoever opens one remembers
//! [`generation`] and compares it before writing.
//!
//! 1. The number never falls, and a child of `fork(2)` sees a larger one than its parent saw before
//!    the fork.
//! 2. A process that never asked before it forked has nothing to protect; its child may start at 0.
//! 3. A child made past libc (a raw `clone`), or by `vfork` until it execs, is not noticed.

#![expect(unsafe_code, reason = "pthread_atfork is a C function")]

use std::sync::atomic::{AtomicU64, Ordering};

/// 0: the hook is not known to be registered; otherwise the generation plus one.
static STATE: AtomicU64 = AtomicU64::new(0);

/// 0 in the process that asked first, larger in its forked children. One relaxed load.
pub fn generation() -> u64 {
    // Relaxed: the hook runs in the child's only thread, before `fork` returns to it.
    match STATE.load(Ordering::Relaxed) {
        0 => register(),
        state => state - 1,
    }
}

/// Registers the hook. Several threads may do it at once: then a fork counts more than once, which
/// still rises. There is no lock to be found held in a child that was forked meanwhile.
#[cold]
fn register() -> u64 {
    // SAFETY: pthread_atfork takes three optional function pointers. `child` is an `extern "C" fn`
    // without arguments, as asked for, lives as long as the program (libc unregisters it with the
    // library that holds it), and only touches an atomic, which is allowed after a fork.
    let failed = unsafe { libc::pthread_atfork(None, None, Some(child)) };
    if failed != 0 {
        // No memory for the registration: not registered, so the next call tries again.
        return 0;
    }
    // Relaxed: see `generation`. A child forked since the registration is above 0 already and
    // stays so.
    match STATE.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => 0,
        Err(state) => state - 1,
    }
}

extern "C" fn child() {
    // Relaxed: see `generation`. From 0 (registered, not yet noted) this gives generation 0, in a
    // child whose parent had not been answered.
    STATE.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forked_child_sees_a_larger_generation() {
        let before = generation();
        // SAFETY: the child only loads an atomic and leaves with `_exit`; both are allowed after a
        // fork of a process with threads.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                libc::_exit(i32::from(generation() <= before));
            }
            pid
        };
        assert!(pid > 0);
        let mut status = 0;
        // SAFETY: `status` is a live integer and `pid` a child of ours that nobody else reaps.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0);
        assert_eq!(generation(), before, "the parent's own generation stays");
    }
}
