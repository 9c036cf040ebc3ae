//! Which levels and concurrency controls the transactions of a run have, and how often.

use std::fmt;
use std::str::FromStr;

use isolith::{Concurrency, Isolation};

use crate::dice::Dice;

/// How a transaction is protected, and how often that is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its level.
    pub isolation: Isolation,
    /// Its concurrency control.
    pub concurrency: Concurrency,
    /// How often it is drawn, to the others.
    pub weight: u32,
}

/// The protections of a run. Not empty, and no weight is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    shares: Vec<Share>,
    total: u64,
}

impl Mix {
    /// Every level under every control, evenly.
    pub fn all() -> Mix {
        let shares = Isolation::ALL.iter().flat_map(|&isolation| {
            Concurrency::ALL.iter().map(move |&concurrency| Share {
                isolation,
                concurrency,
                weight: 1,
            })
        });
        Mix::of(shares.collect())
    }

    /// One protection for all.
    pub fn only(isolation: Isolation, concurrency: Concurrency) -> Mix {
        Mix::of(vec![Share { isolation, concurrency, weight: 1 }])
    }

    fn of(shares: Vec<Share>) -> Mix {
        let total = shares.iter().map(|share| u64::from(share.weight)).sum();
        Mix { shares, total }
    }

    /// The protections, as they were given.
    pub fn shares(&self) -> &[Share] {
        &self.shares
    }

    /// The place of a protection, drawn by weight.
    pub fn draw(&self, dice: &mut Dice) -> usize {
        let mut rest = dice.roll() % self.total;
        for (place, share) in self.shares.iter().enumerate() {
            match rest.checked_sub(u64::from(share.weight)) {
                Some(less) => rest = less,
                None => return place,
            }
        }
        0 // Not reached: the weights add up to the total.
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Mix::all() {
            return f.write_str("all");
        }
        for (place, share) in self.shares.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{}/{}", share.isolation, share.concurrency)?;
            if share.weight != 1 {
                write!(f, ":{}", share.weight)?;
            }
        }
        Ok(())
    }
}

impl FromStr for Mix {
    type Err = String;

    /// `all`, or `level/control:weight` with commas between; `:weight` may be left out, and either
    /// of level and control may be `all`.
    fn from_str(text: &str) -> Result<Mix, String> {
        if text.trim() == "all" {
            return Ok(Mix::all());
        }
        let mut shares = Vec::new();
        for part in text.split(',') {
            shares.extend(parse_part(part.trim())?);
        }
        Ok(Mix::of(shares))
    }
}

fn parse_part(part: &str) -> Result<Vec<Share>, String> {
    // A control has colons of its own: only a last part that is a number is a weight.
    let weighed = part.rsplit_once(':').and_then(|(rest, weight)| {
        let digits = !weight.is_empty() && weight.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| (rest, weight.parse::<u32>()))
    });
    let (protection, weight) = match weighed {
        Some((rest, Ok(weight @ 1..=1_000_000))) => (rest, weight),
        Some((_, _)) => return Err(format!("'{part}': a weight is from 1 to 1000000")),
        None => (part, 1),
    };
    let (level, control) = protection
        .split_once('/')
        .ok_or_else(|| format!("'{part}' is not level/control, as in serializable/auto:3"))?;
    let levels = match level {
        "all" => Isolation::ALL.to_vec(),
        word => vec![word.parse::<Isolation>().map_err(|error| error.to_string())?],
    };
    let controls = match control {
        "all" => Concurrency::ALL.to_vec(),
        word => vec![word.parse::<Concurrency>().map_err(|error| error.to_string())?],
    };
    let pairs = levels.iter().flat_map(|&isolation| {
        controls.iter().map(move |&concurrency| Share { isolation, concurrency, weight })
    });
    Ok(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_and_shown_alike() {
        for text in [
            "all",
            "serializable/auto:3,snapshot/optimistic,read-committed/locking:wound-wait",
            "repeatable-read/locking:detect:fewest-locks:7",
        ] {
            assert_eq!(text.parse::<Mix>().unwrap().to_string(), text);
        }
        assert_eq!("all/auto".parse::<Mix>().unwrap().shares().len(), 4);
        assert_eq!("all/all".parse::<Mix>().unwrap(), Mix::all());
    }

    #[test]
    fn a_mix_that_makes_no_sense_is_told() {
        for text in ["", "serializable", "serializable/auto:0", "x/auto", "snapshot/y", "all,all"] {
            assert!(text.parse::<Mix>().is_err(), "{text}");
        }
        assert!("snapshot/auto:99999999999".parse::<Mix>().is_err());
    }

    #[test]
    fn weights_are_kept() {
        let mix: Mix = "serializable/auto:3,snapshot/auto".parse().unwrap();
        let mut dice = Dice::new(1);
        let first = (0..4000).filter(|_| mix.draw(&mut dice) == 0).count();
        assert!((2800..3200).contains(&first), "{first}");
    }
}
