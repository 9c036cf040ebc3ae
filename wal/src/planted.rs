//! Bugs on purpose. A build with `--cfg planted` can switch on one of them at a time, and the tests
//! show that their finders find it (`tests/planted.rs`). In every other build this module does not
//! exist and [`planted!`](crate::planted!) is the constant `false`.
//!
//! 1. At most one bug is planted, for the whole process.
//! 2. Whether its place in the code was reached is noted: a bug that was never reached was not looked
//!    for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};

static PLANTED: RwLock<Option<&'static str>> = RwLock::new(None);
static REACHED: AtomicBool = AtomicBool::new(false);

/// Plants a bug, or none.
pub fn plant(bug: Option<&'static str>) {
    *PLANTED.write().unwrap_or_else(PoisonError::into_inner) = bug;
    // Relaxed: a flag for the same test.
    REACHED.store(false, Ordering::Relaxed);
}

/// Whether the planted bug's place was reached since it was planted.
pub fn was_reached() -> bool {
    REACHED.load(Ordering::Relaxed)
}

/// Whether this bug is planted. Called by [`planted!`](crate::planted!).
pub fn is_planted(bug: &str) -> bool {
    let planted = PLANTED.read().unwrap_or_else(PoisonError::into_inner).is_some_and(|b| b == bug);
    if planted {
        REACHED.store(true, Ordering::Relaxed);
    }
    planted
}

/// Lets other threads run in the midst of a bug that only they would notice.
pub fn dawdle() {
    for _ in 0..4 {
        std::thread::yield_now();
    }
}
