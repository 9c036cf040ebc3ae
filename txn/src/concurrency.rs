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

impl fmt::Display for Concurrency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Concurrency::Optimistic => "optimistic",
            Concurrency::Auto => "auto",
            Concurrency::Locking(DeadlockPolicy::WoundWait) => "locking:wound-wait",
            Concurrency::Locking(DeadlockPolicy::WaitDie) => "locking:wait-die",
            Concurrency::Locking(DeadlockPolicy::NoWait) => "locking:no-wait",
            Concurrency::Locking(DeadlockPolicy::Detect(Victim::Youngest)) => "locking:detect",
            Concurrency::Locking(DeadlockPolicy::Detect(Victim::FewestLocks)) => {
                "locking:detect:fewest-locks"
            }
        })
    }
}

impl FromStr for Concurrency {
    type Err = UnknownWord;

    /// The names as `Display` writes them, in any case; `locking` alone is `locking:wound-wait`.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let locking = Concurrency::Locking;
        Ok(match word.to_ascii_lowercase().as_str() {
            "optimistic" => Concurrency::Optimistic,
            "auto" => Concurrency::Auto,
            "locking" | "locking:wound-wait" => locking(DeadlockPolicy::WoundWait),
            "locking:wait-die" => locking(DeadlockPolicy::WaitDie),
            "locking:no-wait" => locking(DeadlockPolicy::NoWait),
            "locking:detect" | "locking:detect:youngest" => {
                locking(DeadlockPolicy::Detect(Victim::Youngest))
            }
            "locking:detect:fewest-locks" => locking(DeadlockPolicy::Detect(Victim::FewestLocks)),
            _ => {
                let expected = "optimistic, auto, locking, locking:wound-wait, locking:wait-die, \
                                locking:no-wait, locking:detect, locking:detect:fewest-locks";
                return Err(UnknownWord { word: word.into(), expected });
            }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_control_is_read_as_it_is_written() {
        let policies = [
            DeadlockPolicy::WoundWait,
            DeadlockPolicy::WaitDie,
            DeadlockPolicy::NoWait,
            DeadlockPolicy::Detect(Victim::Youngest),
            DeadlockPolicy::Detect(Victim::FewestLocks),
        ];
        let locking = policies.map(Concurrency::Locking);
        for control in [Concurrency::Optimistic, Concurrency::Auto].into_iter().chain(locking) {
            assert_eq!(control.to_string().to_uppercase().parse(), Ok(control));
        }
        assert_eq!("locking".parse(), Ok(Concurrency::Locking(DeadlockPolicy::WoundWait)));
        assert!("locking:hope".parse::<Concurrency>().is_err());
    }
}
