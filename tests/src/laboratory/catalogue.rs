//! The named anomalies, as scenarios: all of Hermitage's under its names, and more.

use super::scenario::{ParseError, Scenario, parse};

/// Their texts, weakest first.
const TEXTS: [&str; 27] = [
    include_str!("catalogue/g0.txt"),
    include_str!("catalogue/g1a.txt"),
    include_str!("catalogue/g1b.txt"),
    include_str!("catalogue/savepoint.txt"),
    include_str!("catalogue/g1c.txt"),
    include_str!("catalogue/otv.txt"),
    include_str!("catalogue/p4.txt"),
    include_str!("catalogue/p4c.txt"),
    include_str!("catalogue/p4-merge.txt"),
    include_str!("catalogue/p4-savepoint.txt"),
    include_str!("catalogue/p2.txt"),
    include_str!("catalogue/g-single.txt"),
    include_str!("catalogue/g-single-dependencies.txt"),
    include_str!("catalogue/g-single-write-1.txt"),
    include_str!("catalogue/g-single-write-2.txt"),
    include_str!("catalogue/pmp.txt"),
    include_str!("catalogue/pmp-write.txt"),
    include_str!("catalogue/g-nonadjacent.txt"),
    include_str!("catalogue/g2-item.txt"),
    include_str!("catalogue/g2-item-keyspaces.txt"),
    include_str!("catalogue/doctors.txt"),
    include_str!("catalogue/read-only.txt"),
    include_str!("catalogue/g2.txt"),
    include_str!("catalogue/g2-two-edges.txt"),
    include_str!("catalogue/stale-read.txt"),
    include_str!("catalogue/expiry.txt"),
    include_str!("catalogue/dropped.txt"),
];

/// Every scenario of the catalogue.
pub fn all() -> Vec<Scenario> {
    let parsed: Result<Vec<Scenario>, ParseError> =
        TEXTS.iter().map(|text| parse("", text)).collect();
    // The texts are part of the program, and a test reads each.
    parsed.unwrap_or_else(|error| unreachable!("the catalogue does not parse: {error}"))
}

/// One of them by its name, in any case.
pub fn find(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laboratory::explore::{Limits, explore};
    use crate::laboratory::judge::Judge;
    use crate::laboratory::play::{Given, Player, Staging};
    use crate::laboratory::target::Terms;
    use crate::laboratory::weak::{Sees, Weak};

    /// A scenario that no weak store shows: nobody loses what is only added.
    const NEVER_SHOWN: [&str; 1] = ["p4-merge"];

    #[test]
    fn each_is_written_as_it_is_read_and_complete() {
        for text in TEXTS {
            let scenario = parse("", text).unwrap_or_else(|why| panic!("{why}: {text}"));
            assert_eq!(parse("", &scenario.to_string()).unwrap(), scenario);
            assert!(scenario.is_sound(), "{}", scenario.name);
            let said = [&scenario.title, &scenario.phenomenon, &scenario.about, &scenario.source];
            assert!(said.iter().all(|text| !text.is_empty()), "{}", scenario.name);
            assert!(scenario.anomaly.is_some() && scenario.forbidden.is_some());
        }
        assert_eq!(find("G2-Item").map(|one| one.title).as_deref(), Some("write skew"));
    }

    /// Its own schedule shows each anomaly on one of the weak stores; and where the store shows it,
    /// the judge finds something to say.
    #[test]
    fn each_is_shown_by_a_weak_store_and_its_own_schedule() {
        let mut wrong = Vec::new();
        for scenario in all() {
            let staging = Staging::new(scenario.terms(Terms::default()));
            let judge = Judge::of(&scenario);
            let anomaly = scenario.anomaly.clone().unwrap();
            let shown = Sees::ALL.iter().any(|sees| {
                let mut store = Weak::new(*sees);
                let mut player = Player::new(&scenario, &staging, &mut store);
                let (run, played) = player.play(&mut Given::new(&scenario.schedule));
                played.unwrap();
                assert_eq!(run.moves, scenario.schedule, "{}", scenario.name);
                anomaly.holds(&run)
            });
            let mut everywhere = 0;
            for sees in Sees::ALL {
                let (mut store, limits) = (Weak::new(sees), Limits::default());
                explore(&scenario, &staging, &mut store, &limits, &mut |run, played| {
                    played.unwrap();
                    let judged = judge.judge(run, &staging);
                    if anomaly.holds(run) {
                        everywhere += 1;
                        if judged.forbidden().is_none() {
                            wrong.push(format!("{} {sees:?} {:?}", scenario.name, run.moves));
                        }
                    }
                    Ok(true)
                })
                .unwrap();
            }
            let never = NEVER_SHOWN.contains(&scenario.name.as_str());
            let own = scenario.name != "stale-read";
            if shown == (never || !own) {
                wrong.push(format!("{}: shown {shown}, {everywhere} runs", scenario.name));
            }
        }
        assert!(wrong.is_empty(), "{} {:#?}", wrong.len(), &wrong[..wrong.len().min(12)]);
    }
}
