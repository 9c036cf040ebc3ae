//! What a check found wrong, as a value: a test unwraps it, and the planted bugs count on it.

use std::fmt;

/// A broken promise, told for people.
#[derive(Clone, PartialEq, Eq)]
pub struct Finding(String);

/// What every check of this library answers.
pub type Checked<T = ()> = Result<T, Finding>;

impl Finding {
    /// A finding that says `what`.
    pub fn new(what: impl Into<String>) -> Finding {
        Finding(what.into())
    }

    /// The same finding with what led to it put before it.
    pub fn after(self, context: impl fmt::Display) -> Finding {
        Finding(format!("{context}\n{}", self.0))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Finding {}

/// Leaves the function with a [`Finding`] if the condition does not hold.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::Finding::new(format!($($what)+)));
        }
    };
}

/// Leaves the function with a [`Finding`] if the two differ; `$what` says what was compared.
#[macro_export]
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($what:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if *found != *expected {
                    return Err($crate::Finding::new(format!(
                        "{}: found {found:?}, expected {expected:?}",
                        format_args!($($what)+)
                    )));
                }
            }
        }
    };
}

/// Runs a check; a panic in it is a finding, too.
pub fn catching<T>(check: impl FnOnce() -> Checked<T>) -> Checked<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("of an unknown kind");
            Err(Finding::new(format!("a panic: {text}")))
        }
    }
}
