//! A run as a [`Picture`].

use isolith::{Concurrency, Isolation};

use super::faults::Fault;
use super::judge::{Edge, Found, Judgement};
use super::play::{Came, End, Run, Staging};
use super::provenance::meant;
use super::scenario::Scenario;
use super::target::{AbortKind, Action, Hold, Reply, Span};
use crate::picture::{self, Event, Intent, Lane, Operation, Outcome, Picture, Refusal, Verdict};

/// The picture of a run of a scenario. `fault` is what is wrong with it, if anything; `replay` are
/// commands that show it again.
pub fn draw(
    scenario: &Scenario,
    staging: &Staging,
    run: &Run,
    judged: &Judgement,
    fault: Option<&Fault>,
    replay: Vec<String>,
) -> Picture {
    let (events, places) = events(run);
    let edges: Vec<picture::Edge> = judged.edges.iter().map(|edge| drawn(edge, &places)).collect();
    let shown = worth_showing(scenario, run, judged, fault);
    let cycle = shown.map_or_else(Vec::new, |found| {
        let place = |edge: &Edge| judged.edges.iter().position(|one| one == edge);
        found.cycle.iter().filter_map(place).collect()
    });
    let mut remarks = Vec::new();
    match (fault, shown) {
        (Some(fault @ (Fault::Broken(_) | Fault::Invariant(..))), _) => {
            remarks.push(format!("{fault}."));
        }
        (_, Some(found)) if !found.says.is_empty() => remarks.push(format!("{}.", found.says)),
        _ => {}
    }
    if let Some(found) = shown.filter(|found| found.full_name() != scenario.phenomenon) {
        remarks.push(format!("The judge calls it {}.", found.full_name()));
    }
    Picture {
        anomaly: picture::Anomaly {
            name: scenario.phenomenon.clone(),
            title: if scenario.title.is_empty() { &scenario.name } else { &scenario.title }.clone(),
            definition: scenario.about.clone(),
            source: scenario.source.clone(),
            forbidden_by: scenario.forbidden.iter().flatten().map(Isolation::to_string).collect(),
        },
        verdict: verdict(scenario, staging, run, fault, shown.is_some()),
        lanes: scenario.names().into_iter().map(|name| Lane { name: name.into() }).collect(),
        transactions: transactions(scenario, staging, run),
        initial: scenario
            .setup
            .iter()
            .map(|(key, value)| (key.clone().into_bytes(), value.to_string().into_bytes()))
            .collect(),
        expiring: scenario
            .expiring
            .iter()
            .map(|(key, units)| (key.clone().into_bytes(), *units))
            .collect(),
        keyspaces: scenario.spaces(),
        events,
        edges,
        cycle,
        remarks,
        replay,
        hot: hot(scenario, staging),
        left_out: 0,
    }
}

/// The keys that have been fought for before, where that makes a difference.
fn hot(scenario: &Scenario, staging: &Staging) -> Vec<Vec<u8>> {
    let auto = staging.terms.iter().any(|terms| terms.concurrency == Concurrency::Auto);
    let keys = if auto && staging.hot { scenario.keys() } else { Vec::new() };
    keys.into_iter().map(String::into_bytes).collect()
}

/// The finding that the picture is about.
fn worth_showing<'a>(
    scenario: &Scenario,
    run: &Run,
    judged: &'a Judgement,
    fault: Option<&Fault>,
) -> Option<&'a Found> {
    if let Some(Fault::Forbidden(_)) = fault {
        return judged.forbidden();
    }
    let happened = scenario.anomaly.as_ref().is_none_or(|anomaly| anomaly.holds(run));
    let named = || judged.found.iter().find(|found| found.name == scenario.phenomenon);
    named().or(judged.found.first()).filter(|_| happened || fault.is_some())
}

fn verdict(
    scenario: &Scenario,
    staging: &Staging,
    run: &Run,
    fault: Option<&Fault>,
    shown: bool,
) -> Verdict {
    if fault.is_some() {
        let mut levels: Vec<String> =
            staging.terms.iter().map(|terms| terms.isolation.to_string()).collect();
        levels.dedup();
        return Verdict::Forbidden(levels.join(", "));
    }
    let happened = scenario.anomaly.as_ref().map_or(shown, |anomaly| anomaly.holds(run));
    if happened { Verdict::Allowed } else { Verdict::Prevented(prevented(scenario, run)) }
}

/// How an anomaly was prevented in a run, as a clause.
pub fn prevented(scenario: &Scenario, run: &Run) -> String {
    let names = scenario.names();
    let aborted = (0..run.sessions.len()).find_map(|who| Some((who, run.abort(who)?)));
    if let Some((who, abort)) = aborted {
        return format!("{} was aborted ({}): {}", names[who], abort.kind, abort.said);
    }
    let waits = run.events.iter().find_map(|event| match &event.came {
        Came::Waits(others) => Some((event.session, others)),
        _ => None,
    });
    if let Some((who, others)) = waits {
        let others: Vec<&str> = others.iter().map(|other| names[*other]).collect();
        return match others.is_empty() {
            true => format!("{} had to wait", names[who]),
            false => format!("{} had to wait for {}", names[who], others.join(" and ")),
        };
    }
    "nobody read or overwrote what would have made it: what was read comes from one snapshot, or \
     the schedule is harmless"
        .into()
}

fn transactions(scenario: &Scenario, staging: &Staging, run: &Run) -> Vec<picture::Transaction> {
    let one = |(lane, name): (usize, &str)| picture::Transaction {
        name: name.to_owned(),
        lane,
        isolation: staging.terms[lane].isolation.to_string(),
        concurrency: staging.terms[lane].concurrency.to_string(),
        end: match &run.sessions[lane].end {
            Some((_, End::Committed(at))) => picture::End::Committed(*at),
            Some((_, End::RolledBack)) => picture::End::RolledBack,
            Some((_, End::Aborted(_))) => picture::End::Aborted,
            None => picture::End::Unknown,
        },
        place: String::new(),
    };
    scenario.names().into_iter().enumerate().map(one).collect()
}

/// The events that a picture shows, and where each of the run's stands among them.
fn events(run: &Run) -> (Vec<Event>, Vec<Option<usize>>) {
    let (mut shown, mut places) = (Vec::new(), Vec::new());
    for event in &run.events {
        let operation = event.action.as_ref().and_then(operation);
        let handed = event.action == Some(Action::HandIn) && matches!(event.came, Came::Done(_));
        match (operation, outcome(&event.came)) {
            (Some(operation), Some(outcome)) => {
                places.push(Some(shown.len()));
                let outcome = if handed { Outcome::Waits(Vec::new()) } else { outcome };
                shown.push(Event::new(event.session, operation, outcome));
            }
            _ => places.push(None),
        }
    }
    (shown, places)
}

fn operation(action: &Action) -> Option<Operation> {
    let bytes = |text: &String| text.clone().into_bytes();
    let value = |value: &i64| meant(*value).to_string().into_bytes();
    let lower = |span: &Span| Some(bytes(&span.lower));
    let upper = |span: &Span| {
        let mut upper = bytes(&span.upper);
        if span.inclusive {
            upper.push(0);
        }
        Some(upper)
    };
    Some(match action {
        Action::Begin => Operation::Begin,
        Action::Get(key, hold) => {
            let intent = match hold {
                Hold::No => Intent::Look,
                Hold::Share => Intent::Share,
                Hold::Update => Intent::Update,
            };
            Operation::Read { key: bytes(key), intent }
        }
        Action::Scan(span) => {
            Operation::Scan { predicate: span.to_string(), lower: lower(span), upper: upper(span) }
        }
        Action::Put(key, number, None) => {
            Operation::Write { key: bytes(key), value: value(number) }
        }
        Action::Put(key, number, Some(until)) => {
            Operation::WriteUntil { key: bytes(key), value: value(number), until: *until }
        }
        Action::Pass(units) => Operation::Pass(*units),
        Action::Drop(space) => Operation::DropKeyspace(space.clone()),
        Action::Merge(key, delta) => {
            Operation::Merge { key: bytes(key), operator: "add-i64".into(), operand: value(delta) }
        }
        Action::Delete(key) => Operation::Delete { key: bytes(key) },
        Action::DeleteRange(span) => {
            Operation::DeleteRange { lower: lower(span), upper: upper(span) }
        }
        Action::LockRange(span) => {
            Operation::LockRange { lower: lower(span), upper: upper(span), exclusive: false }
        }
        Action::HandIn | Action::Commit => Operation::Commit,
        Action::Rollback => Operation::Rollback,
        Action::Savepoint(number) => Operation::Savepoint(*number),
        Action::RollbackTo(number) => Operation::RollbackTo(*number),
    })
}

fn outcome(came: &Came) -> Option<Outcome> {
    let value = |value: &i64| meant(*value).to_string().into_bytes();
    Some(match came {
        Came::Done(Reply::Nothing | Reply::Committed(_)) => Outcome::Done,
        Came::Done(Reply::Value(found)) => Outcome::Value(found.as_ref().map(value)),
        Came::Done(Reply::Pairs(pairs)) => Outcome::Pairs(
            pairs.iter().map(|(key, found)| (key.clone().into_bytes(), value(found))).collect(),
        ),
        Came::Waits(others) => Outcome::Waits(others.clone()),
        Came::Aborted(abort) => Outcome::Refused {
            why: match abort.kind {
                AbortKind::Conflict => Refusal::Conflict,
                AbortKind::Wounded => Refusal::Wounded,
                AbortKind::Deadlock => Refusal::Deadlock,
                AbortKind::LockRefused => Refusal::LockRefused,
                AbortKind::Timeout => Refusal::Timeout,
                AbortKind::Dropped => Refusal::KeyspaceDropped,
            },
            by: abort.by.clone(),
            said: abort.said.clone(),
        },
        Came::Skipped => return None,
    })
}

fn drawn(edge: &Edge, places: &[Option<usize>]) -> picture::Edge {
    let place = |event: Option<usize>| event.and_then(|event| places.get(event).copied().flatten());
    picture::Edge {
        key: edge.key.clone().map(String::into_bytes),
        from_event: place(edge.from_event),
        to_event: place(edge.to_event),
        ..picture::Edge::new(edge.from, edge.to, edge.kind)
    }
}
