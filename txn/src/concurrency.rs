//! How a transaction keeps others from disturbing it.

use std::fmt;
use std::str::FromStr;

use crate::isolation::UnknownWord;
use crate::locks::{DeadlockPolicy, Victim};

/// How a transaction keeps what its isolation level promises. Transactions of different controls run
/// beside each other, and each gets what its level promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Concurrency {
    /// Run without locks, and check at commit that nothing was disturbed (backward validation).
    /// Nobody who only reads is ever aborted; who writes may have to run again.
    #[default]
    Optimistic,
    /// Lock first (strong strict two-phase locking): wait rather than run again.
    Locking(DeadlockPolicy),
    /// Optimistic, with locks for keys that have been fought for lately, and locks for everything
    /// after repeated aborts (after MOCC: Wang and Kimura, 2016).
    Auto,
}

impl Concurrency {
    /// Every control.
    pub const ALL: [Concurrency; 7] = [
        Concurrency::Optimistic,
        Concurrency::Locking(DeadlockPolicy::WoundWait),
        Concurrency::Locking(DeadlockPolicy::WaitDie),
        Concurrency::Locking(DeadlockPolicy::NoWait),
        Concurrency::Locking(DeadlockPolicy::Detect(Victim::Youngest)),
        Concurrency::Locking(DeadlockPolicy::Detect(Victim::FewestLocks)),
        Concurrency::Auto,
    ];
}

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concurrency::Optimistic => f.write_str("optimistic"),
            Concurrency::Locking(policy) => write!(f, "locking:{policy}"),
            Concurrency::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Concurrency {
    type Err = UnknownWord;

    /// The names as `Display` writes them, in any case; `locking` alone is `locking:wound-wait`.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let lower = word.to_ascii_lowercase();
        let found = match lower.as_str() {
            "optimistic" => Some(Concurrency::Optimistic),
            "auto" => Some(Concurrency::Auto),
            "locking" => Some(Concurrency::Locking(DeadlockPolicy::default())),
            other => other
                .strip_prefix("locking:")
                .and_then(|policy| policy.parse().ok())
                .map(Concurrency::Locking),
        };
        found.ok_or_else(|| {
            let expected = "optimistic, auto, locking, locking:wound-wait, locking:wait-die, \
                            locking:no-wait, locking:detect, locking:detect:fewest-locks";
            UnknownWord { word: word.into(), expected }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_control_is_read_as_it_is_written() {
        for control in Concurrency::ALL {
            assert_eq!(control.to_string().to_uppercase().parse(), Ok(control));
        }
        assert_eq!("locking".parse(), Ok(Concurrency::Locking(DeadlockPolicy::WoundWait)));
        assert!("locking:hope".parse::<Concurrency>().is_err());
        assert!("wound-wait".parse::<Concurrency>().is_err());
    }

    #[test]
    fn who_names_no_control_is_told_of_all() {
        let unknown = "hope".parse::<Concurrency>().unwrap_err().to_string();
        for control in Concurrency::ALL {
            let name = control.to_string();
            assert!(unknown.split([' ', ',']).any(|word| word == name), "{name}: {unknown}");
        }
    }
}
