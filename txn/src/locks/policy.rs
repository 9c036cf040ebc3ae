//! What is done about deadlocks: the policies, and the ages that they go by.

use std::fmt;
use std::str::FromStr;

use crate::isolation::UnknownWord;

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

impl DeadlockPolicy {
    /// Every policy.
    pub const ALL: [DeadlockPolicy; 5] = [
        DeadlockPolicy::WoundWait,
        DeadlockPolicy::WaitDie,
        DeadlockPolicy::NoWait,
        DeadlockPolicy::Detect(Victim::Youngest),
        DeadlockPolicy::Detect(Victim::FewestLocks),
    ];

    fn name(self) -> &'static str {
        match self {
            DeadlockPolicy::WoundWait => "wound-wait",
            DeadlockPolicy::WaitDie => "wait-die",
            DeadlockPolicy::NoWait => "no-wait",
            DeadlockPolicy::Detect(Victim::Youngest) => "detect",
            DeadlockPolicy::Detect(Victim::FewestLocks) => "detect:fewest-locks",
        }
    }
}

impl fmt::Display for DeadlockPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DeadlockPolicy {
    type Err = UnknownWord;

    /// The names as `Display` writes them, in any case; `detect:youngest` is a long form of `detect`.
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        let name = if word.eq_ignore_ascii_case("detect:youngest") { "detect" } else { word };
        let mut all = DeadlockPolicy::ALL.into_iter();
        all.find(|policy| policy.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let expected = "wound-wait, wait-die, no-wait, detect, detect:fewest-locks";
            UnknownWord { word: word.into(), expected }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_read_as_it_is_written() {
        for policy in DeadlockPolicy::ALL {
            assert_eq!(policy.to_string().to_uppercase().parse(), Ok(policy));
        }
        assert_eq!("detect:youngest".parse(), Ok(DeadlockPolicy::Detect(Victim::Youngest)));
    }

    #[test]
    fn who_names_no_policy_is_told_of_all() {
        let unknown = "hope".parse::<DeadlockPolicy>().unwrap_err();
        let names = DeadlockPolicy::ALL.map(|policy| policy.to_string());
        assert_eq!(unknown.to_string(), format!("'hope' is none of {}", names.join(", ")));
    }
}
