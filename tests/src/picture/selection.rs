//! What of a picture is drawn: of a large one, the transactions of the contradiction, from its
//! beginning and its end, and what they did. What is left out is counted and told.

use std::collections::BTreeSet;

use super::text::counted;
use super::{Event, Operation, Outcome, Picture};

/// Transactions that are drawn.
pub const TRANSACTIONS_MAX: usize = 24;
/// Events that are drawn.
pub const EVENTS_MAX: usize = 240;
/// Edges that are drawn.
pub const EDGES_MAX: usize = 60;

/// Places in the picture's lists, in the order in which they are drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Transactions: those of the cycle in its order, then the others.
    pub transactions: Vec<usize>,
    /// How many of them are in the cycle.
    pub in_cycle: usize,
    /// How many transactions of the cycle are not drawn, after the first so many that are.
    pub gap: Option<(usize, usize)>,
    /// Lanes.
    pub lanes: Vec<usize>,
    /// Events.
    pub events: Vec<usize>,
    /// Edges: those of the cycle first.
    pub edges: Vec<usize>,
}

impl Selection {
    /// What is drawn of this picture.
    pub fn of(picture: &Picture) -> Selection {
        let known = |transaction: &usize| *transaction < picture.transactions.len();
        let edge = |place: &usize| picture.edges.get(*place);
        let mut cycle: Vec<usize> = Vec::new();
        let mut met = BTreeSet::new();
        for one in picture.cycle.iter().filter_map(edge) {
            cycle.extend([one.from].into_iter().filter(|from| known(from) && met.insert(*from)));
        }
        let gap = cycle.len().checked_sub(TRANSACTIONS_MAX).filter(|hidden| *hidden > 0);
        let gap = gap.map(|hidden| {
            let (first, hidden) = (TRANSACTIONS_MAX / 2, hidden + 1);
            cycle.drain(first..first + hidden);
            (first, hidden)
        });
        let in_cycle = cycle.len();
        let mut transactions = cycle;
        // Those that others have to do with go before those that only happened to be there.
        let touched: BTreeSet<usize> =
            picture.edges.iter().flat_map(|edge| [edge.from, edge.to]).collect();
        let rest = (0..picture.transactions.len()).filter(|one| !met.contains(one));
        let (touched, lonely): (Vec<_>, Vec<_>) = rest.partition(|one| touched.contains(one));
        let room = TRANSACTIONS_MAX.saturating_sub(transactions.len());
        transactions.extend(touched.into_iter().chain(lonely).take(room));

        let drawn: BTreeSet<usize> = transactions.iter().copied().collect();
        let lanes: BTreeSet<usize> =
            drawn.iter().map(|one| picture.transactions[*one].lane).collect();
        let events = (0..picture.events.len()).filter(|place| {
            picture.events[*place].transaction.is_none_or(|one| drawn.contains(&one))
        });
        let mut edges: Vec<usize> = Vec::new();
        let both = |place: &usize| {
            edge(place).is_some_and(|one| drawn.contains(&one.from) && drawn.contains(&one.to))
        };
        edges.extend(picture.cycle.iter().copied().filter(both));
        let of_cycle: BTreeSet<usize> = picture.cycle.iter().copied().collect();
        let rest = (0..picture.edges.len()).filter(|place| !of_cycle.contains(place));
        edges.extend(rest.filter(both));
        edges.truncate(EDGES_MAX);
        Selection {
            in_cycle,
            gap,
            lanes: lanes.into_iter().collect(),
            events: events.take(EVENTS_MAX).collect(),
            edges,
            transactions,
        }
    }

    /// What is not drawn, if there is anything.
    pub fn note(&self, picture: &Picture) -> Option<String> {
        let mut missing = Vec::new();
        let mut count = |number: u64, what: &str, many: &str| {
            if number > 0 {
                let what = if number == 1 { what } else { many };
                missing.push(format!("{} {what}", counted(number)));
            }
        };
        let transactions = picture.transactions.len().saturating_sub(self.transactions.len());
        count(transactions as u64 + picture.left_out, "transaction", "transactions");
        let shown: BTreeSet<usize> = self.transactions.iter().copied().collect();
        let of_shown = |event: &&Event| event.transaction.is_none_or(|one| shown.contains(&one));
        let events = picture.events.iter().filter(of_shown).count() - self.events.len();
        count(events as u64, "event", "events");
        let edges = picture.edges.len().saturating_sub(self.edges.len());
        count(edges as u64, "dependency", "dependencies");
        match missing.as_slice() {
            [] => None,
            missing => Some(format!("Not shown: {}.", missing.join(", "))),
        }
    }

    /// Whether a lane is within a transaction when an event happens, that event aside.
    pub fn alive(&self, picture: &Picture, lane: usize, at: usize) -> bool {
        let of_lane = |event: &&Event| {
            let known = event.transaction.and_then(|one| picture.transactions.get(one));
            known.is_some_and(|known| known.lane == lane)
        };
        let before = picture.events[..at].iter().rev().find(of_lane);
        let after = picture.events[at..].iter().find(of_lane);
        match (before, after) {
            (Some(before), Some(after)) => !ends(before) && before.transaction == after.transaction,
            _ => false,
        }
    }
}

/// Whether an event is the last of its transaction.
pub fn ends(event: &Event) -> bool {
    match (&event.operation, &event.outcome) {
        (_, Outcome::Refused { .. }) => true,
        (Operation::Commit, Outcome::Waits(_)) => false,
        (Operation::Commit | Operation::Rollback, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::samples;
    use crate::picture::{Edge, EdgeKind};

    #[test]
    fn a_small_picture_is_drawn_whole() {
        let picture = samples::write_skew();
        let selection = Selection::of(&picture);
        assert_eq!(selection.transactions, [0, 1]);
        assert_eq!(selection.in_cycle, 2);
        assert_eq!(selection.events.len(), picture.events.len());
        assert_eq!(selection.note(&picture), None);
    }

    #[test]
    fn a_long_cycle_keeps_its_beginning_and_its_end() {
        let picture = samples::cycle(10_000);
        let selection = Selection::of(&picture);
        assert_eq!(selection.in_cycle, TRANSACTIONS_MAX - 1);
        assert_eq!(selection.gap, Some((12, 9_977)));
        assert_eq!(selection.transactions[11..13], [11, 9_989]);
        let note = selection.note(&picture).unwrap_or_default();
        assert!(note.contains("9,977 transactions"), "{note}");
    }

    #[test]
    fn places_that_do_not_exist_are_left_out() {
        let mut picture = samples::write_skew();
        picture.edges.push(Edge::new(0, 99, EdgeKind::WriteWrite));
        picture.cycle.extend([2, 77]);
        picture.transactions[0].lane = 55;
        let selection = Selection::of(&picture);
        assert_eq!(selection.transactions, [0, 1]);
        assert_eq!(selection.edges, [0, 1]);
    }
}
