//! What is done about deadlocks: the policies, and the ages that they go by.

use std::fmt;
use std::str::FromStr;

/// How old a transaction is: the number of its first try, kept over retries. Smaller is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age(u64);

impl Age {
    /// The age with this number.
    pub const fn from_bits(bits: u64) -> Age {
        Age(bits)
    }

    /// Its number.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a transaction does about others that stand in its way, so that no circle of waiting lasts.
///
/// Policies mix: each transaction goes by its own. Whatever it is, nobody begins to wait without a
/// look for a circle through itself, because a mixture of policies can close one that none of them
/// would close alone.
///
/// Sources: Rosenkrantz, Stearns and Lewis (1978) for wound-wait and wait-die.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeadlockPolicy {
    /// Takes the locks of younger ones, which must try again; waits for older ones.
    #[default]
    WoundWait,
    /// Waits for younger ones; is refused where an older one stands in its way.
    WaitDie,
    /// Never waits: is refused where anybody stands in its way.
    NoWait,
    /// Waits for anybody; a circle is broken by refusing one of its members.
    Detect(Victim),
}

/// Who is refused when a circle of waiting is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Victim {
    /// The youngest: it has probably done the least, and it grows older with each try.
    #[default]
    Youngest,
    /// The one with the fewest locks; of equals, the youngest.
    FewestLocks,
}

/// Policies and their names.
const NAMES: [(DeadlockPolicy, &str); 5] = [
    (DeadlockPolicy::WoundWait, "wound-wait"),
    (DeadlockPolicy::WaitDie, "wait-die"),
    (DeadlockPolicy::NoWait, "no-wait"),
    (DeadlockPolicy::Detect(Victim::Youngest), "detect"),
    (DeadlockPolicy::Detect(Victim::FewestLocks), "detect:fewest-locks"),
];

impl fmt::Display for DeadlockPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.iter().find(|(policy, _)| policy == self).map(|(_, name)| *name);
        f.write_str(name.unwrap_or_default())
    }
}

/// A word that names no deadlock policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy(String);

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = NAMES.map(|(_, name)| name).join(", ");
        write!(f, "\"{}\" is no deadlock policy; there are {names}", self.0.escape_debug())
    }
}

impl std::error::Error for UnknownPolicy {}

impl FromStr for DeadlockPolicy {
    type Err = UnknownPolicy;

    /// Case is of no matter. `detect:youngest` is a long form of `detect`.
    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let name = if text.eq_ignore_ascii_case("detect:youngest") { "detect" } else { text };
        let found = NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        found.map(|(policy, _)| *policy).ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_and_policies_match() {
        for (policy, name) in NAMES {
            assert_eq!(policy.to_string(), name);
            assert_eq!(name.parse(), Ok(policy));
            assert_eq!(name.to_uppercase().parse(), Ok(policy));
        }
        assert_eq!("detect:youngest".parse(), Ok(DeadlockPolicy::Detect(Victim::Youngest)));
        let unknown = "hope".parse::<DeadlockPolicy>().unwrap_err().to_string();
        assert!(unknown.contains("\"hope\"") && unknown.contains("wait-die"), "{unknown}");
    }
}
