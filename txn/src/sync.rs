//! Atomics, locks and threads: those of std and `parking_lot`; loom's under `cfg(loom)`, shuttle's under
//! `cfg(shuttle)`.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use std::{
    hint,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    thread::{self, Thread},
};

#[cfg(not(any(loom, shuttle)))]
pub(crate) use parking_lot::Mutex;

#[cfg(loom)]
pub(crate) use loom::{
    hint,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    thread::{self, Thread},
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    hint,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    thread::{self, Thread},
};

#[cfg(any(loom, shuttle))]
pub(crate) use model::Mutex;

/// The tools' mutexes with `parking_lot`'s signature.
#[cfg(any(loom, shuttle))]
mod model {
    use std::sync::PoisonError;

    #[cfg(loom)]
    use loom::sync;
    #[cfg(shuttle)]
    use shuttle::sync;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> sync::MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
