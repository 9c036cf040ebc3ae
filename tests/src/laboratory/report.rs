//! What the laboratory found, as tables for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use isolith::Isolation;

use super::catalogue;
use super::examine::Examined;
use super::matrix::{Cell, Choice, Declared, Protection};
use super::play::Staging;
use super::scenario::Scenario;
use crate::picture::table::{self, Table, quoted};
use crate::picture::terminal::Style;

/// The levels that forbid a scenario's anomaly, in words.
fn forbidden_by(scenario: &Scenario) -> String {
    let Some(levels) = &scenario.forbidden else { return "-".into() };
    match levels.len() {
        0 => "none".into(),
        all if all == Isolation::ALL.len() => "every level".into(),
        _ => levels.iter().map(Isolation::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The catalogue as text: a paragraph for each.
pub fn catalogue_text(style: &Style) -> String {
    let mut text = String::new();
    for scenario in catalogue::all() {
        let Scenario { name, title, phenomenon, about, source, .. } = &scenario;
        let _ = writeln!(text, "{}  {title} ({phenomenon})", style.paint("1", name));
        let names = scenario.names();
        let mut lines = vec![about.clone()];
        for (place, session) in scenario.sessions.iter().enumerate() {
            let steps: Vec<String> =
                session.steps.iter().map(|step| step.show(&names, place)).collect();
            lines.push(format!("{}: {}", session.name, steps.join("; ")));
        }
        lines.push(format!("forbidden by: {}", forbidden_by(&scenario)));
        lines.push(format!("source: {source}"));
        for line in lines {
            let wrapped = crate::picture::text::wrap(&line, style.width.saturating_sub(4).max(20));
            for (at, part) in wrapped.iter().enumerate() {
                let _ = writeln!(text, "{}{part}", if at == 0 { "  " } else { "    " });
            }
        }
        text.push('\n');
    }
    text
}

/// The catalogue as JSON: an array of objects.
pub fn catalogue_json() -> String {
    let strings = |all: &mut dyn Iterator<Item = String>| {
        format!("[{}]", all.map(|one| quoted(&one)).collect::<Vec<_>>().join(","))
    };
    let objects: Vec<String> = catalogue::all()
        .iter()
        .map(|scenario| {
            let names = scenario.names();
            let sessions = scenario.sessions.iter().enumerate().map(|(place, session)| {
                let mut steps = session.steps.iter().map(|step| step.show(&names, place));
                let (name, steps) = (quoted(&session.name), strings(&mut steps));
                format!("{{\"session\":{name},\"steps\":{steps}}}")
            });
            let sessions = sessions.collect::<Vec<_>>().join(",");
            let levels = scenario.forbidden.iter().flatten().map(Isolation::to_string);
            format!(
                "{{\"name\":{},\"title\":{},\"phenomenon\":{},\"definition\":{},\"source\":{},\
                 \"forbidden_by\":{},\"sessions\":[{sessions}],\"text\":{}}}",
                quoted(&scenario.name),
                quoted(&scenario.title),
                quoted(&scenario.phenomenon),
                quoted(&scenario.about),
                quoted(&scenario.source),
                strings(&mut levels.collect::<Vec<_>>().into_iter()),
                quoted(&scenario.to_string()),
            )
        })
        .collect();
    format!("[{}]", objects.join(","))
}

/// The matrix as text: a table for each level, the phenomena by the controls.
pub fn matrix_text(cells: &[Cell], style: &Style) -> String {
    let mut text = String::new();
    let mut levels: Vec<String> = Vec::new();
    for cell in cells {
        let level = cell.protection.level();
        if !levels.contains(&level) {
            levels.push(level);
        }
    }
    for level in &levels {
        let of_level: Vec<&Cell> =
            cells.iter().filter(|cell| cell.protection.level() == *level).collect();
        let _ = writeln!(text, "{}", style.paint("1", level));
        text += &level_table(&of_level).text(style);
        text.push('\n');
    }
    text += LEGEND;
    text.push_str(&totals(cells));
    text
}

const LEGEND: &str = "\
observed/interleavings; * schedules chosen at random; - not applicable to this target; ! broken.
How it was prevented where a store without isolation shows it: a abort (conflict), v victim of a
deadlock policy, b block (somebody waited), s snapshot (older or newer values were read).
needless: aborted transactions that the judge would have let commit, of all aborted.
";

fn level_table(cells: &[&Cell]) -> Table {
    let mut controls: Vec<String> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for cell in cells {
        let control = cell.protection.control();
        if !controls.contains(&control) {
            controls.push(control);
        }
        if !names.contains(&cell.scenario.as_str()) {
            names.push(&cell.scenario);
        }
    }
    let short = |control: &String| {
        let word = control.strip_prefix("locking:").unwrap_or(control);
        word.strip_prefix("detect:").unwrap_or(word).to_owned()
    };
    let heads: Vec<String> = ["phenomenon".to_owned(), "declared".to_owned()]
        .into_iter()
        .chain(controls.iter().map(short))
        .collect();
    let mut table = Table::new(&heads.iter().map(String::as_str).collect::<Vec<_>>());
    let find = |name: &str, control: &String| {
        cells.iter().find(|cell| cell.scenario == name && cell.protection.control() == *control)
    };
    for name in &names {
        let declared = cells.iter().find(|cell| cell.scenario == *name).map(|cell| cell.declared);
        let declared = declared.map_or(String::new(), |declared| declared.to_string());
        let mut row: Vec<table::Cell> = vec![(*name).into(), declared.into()];
        row.extend(
            controls.iter().map(|control| find(name, control).map_or("".into(), |c| shown(c))),
        );
        table.row(row);
    }
    let mut row: Vec<table::Cell> = vec!["needless".into(), "".into()];
    for control in &controls {
        let of = || cells.iter().filter(|cell| cell.protection.control() == *control);
        let (needless, aborted) =
            of().fold((0, 0), |(n, a), cell| (n + cell.needless, a + cell.aborted));
        let percent = (needless * 100).checked_div(aborted);
        let percent = percent.map_or("-".into(), |percent| format!("{percent}%"));
        row.push(table::Cell::new(percent).faint());
    }
    table.row(row);
    table
}

fn shown(cell: &Cell) -> table::Cell {
    if !cell.applicable {
        return table::Cell::new("-").faint();
    }
    let random = if cell.complete { "" } else { "*" };
    let prevented = &cell.prevented;
    let how = [
        (prevented.abort, 'a'),
        (prevented.victim, 'v'),
        (prevented.block, 'b'),
        (prevented.snapshot, 's'),
    ];
    let how: String =
        how.into_iter().filter(|(count, _)| *count > 0).map(|(_, sign)| sign).collect();
    let broken = if cell.broken > 0 { "!" } else { "" };
    let text = format!("{}/{}{random}{broken} {how}", cell.observed, cell.runs);
    let text = table::Cell::new(text.trim_end());
    match cell.declared {
        _ if cell.broken > 0 => text.bad(),
        Declared::Forbidden => text.fine(),
        _ if cell.observed > 0 => text.warns(),
        _ => text.faint(),
    }
}

fn totals(cells: &[Cell]) -> String {
    let sum = |count: &dyn Fn(&Cell) -> u64| cells.iter().map(count).sum::<u64>();
    let broken = cells.iter().filter(|cell| cell.broken > 0).count();
    let never =
        |cell: &&Cell| cell.applicable && cell.declared == Declared::Allowed && cell.observed == 0;
    format!(
        "{} runs; {} cells, {broken} of them with a broken promise; {} that are allowed and never \
         observed; {} of {} aborts needless.\n",
        sum(&|cell| cell.runs),
        cells.len(),
        cells.iter().filter(never).count(),
        sum(&|cell| cell.needless),
        sum(&|cell| cell.aborted),
    )
}

/// The matrix as JSON: what the target is called, what users are told of it, and an object for each cell.
pub fn matrix_json(target: &str, remarks: &[String], cells: &[Cell]) -> String {
    let counts = |map: &mut dyn Iterator<Item = (String, u64)>| {
        let pairs: Vec<String> = map.map(|(name, n)| format!("{}:{n}", quoted(&name))).collect();
        format!("{{{}}}", pairs.join(","))
    };
    let objects: Vec<String> = cells
        .iter()
        .map(|cell| {
            let prevented = [
                ("abort", cell.prevented.abort),
                ("victim", cell.prevented.victim),
                ("block", cell.prevented.block),
                ("snapshot", cell.prevented.snapshot),
            ];
            let first = cell.first.as_ref().map_or("null".into(), |broken| {
                let schedule: Vec<String> =
                    broken.run.moves.iter().map(|who| (who + 1).to_string()).collect();
                let (what, schedule) = (broken.fault.to_string(), schedule.join(" "));
                let terms: Vec<String> =
                    broken.staging.terms.iter().map(|terms| quoted(&terms.to_string())).collect();
                format!(
                    "{{\"what\":{},\"schedule\":{},\"terms\":[{}]}}",
                    quoted(&what),
                    quoted(&schedule),
                    terms.join(",")
                )
            });
            format!(
                "{{\"scenario\":{},\"isolation\":{},\"concurrency\":{},\"applicable\":{},\
                 \"declared\":{},\"runs\":{},\"complete\":{},\"observed\":{},\"in_danger\":{},\
                 \"prevented\":{},\"aborted\":{},\"needless\":{},\"aborts\":{},\"met\":{},\
                 \"broken\":{},\"first_broken\":{first}}}",
                quoted(&cell.scenario),
                quoted(&cell.protection.level()),
                quoted(&cell.protection.control()),
                cell.applicable,
                quoted(&cell.declared.to_string()),
                cell.runs,
                cell.complete,
                cell.observed,
                cell.danger,
                counts(&mut prevented.into_iter().map(|(name, n)| (name.to_owned(), n))),
                cell.aborted,
                cell.needless,
                counts(&mut cell.aborts.iter().map(|(kind, n)| (kind.to_string(), *n))),
                counts(&mut cell.met.iter().map(|(name, n)| (name.clone(), *n))),
                cell.broken,
            )
        })
        .collect();
    let remarks: Vec<String> = remarks.iter().map(|remark| quoted(remark)).collect();
    format!(
        "{{\"target\":{},\"remarks\":[{}],\"cells\":[{}]}}",
        quoted(target),
        remarks.join(","),
        objects.join(",\n ")
    )
}

/// What an exploration found, as text.
pub fn examined_text(scenario: &Scenario, examined: &Examined, seed: u64) -> String {
    let Examined { explored, outcomes, observed, aborted, met, faults, .. } = examined;
    let mut text = format!("{}: {} interleavings", scenario.name, explored.runs);
    if !explored.complete {
        let _ = write!(text, ", not all of them: by schedules chosen with --seed {seed}");
    }
    if explored.cut > 0 {
        let _ = write!(text, " (and {} left in the middle: they show nothing new)", explored.cut);
    }
    let _ = writeln!(text, ", {outcomes} outcomes.");
    if scenario.anomaly.is_some() {
        let _ = writeln!(text, "The anomaly ({}) happened in {observed}.", examined.declared);
    }
    let _ = writeln!(
        text,
        "{} transactions were aborted, {} of them needlessly.",
        aborted.0, aborted.1
    );
    let listed = |map: &BTreeMap<String, u64>| {
        let all: Vec<String> = map.iter().map(|(name, count)| format!("{name} {count}")).collect();
        if all.is_empty() { "none".into() } else { all.join(", ") }
    };
    let _ = writeln!(text, "Phenomena, by runs: {}.", listed(met));
    let _ = writeln!(text, "Wrong, by runs: {}.", listed(faults));
    text
}

/// What an exploration found, as JSON.
pub fn examined_json(scenario: &Scenario, examined: &Examined, seed: u64) -> String {
    let counts = |map: &BTreeMap<String, u64>| {
        let pairs: Vec<String> =
            map.iter().map(|(name, count)| format!("{}:{count}", quoted(name))).collect();
        format!("{{{}}}", pairs.join(","))
    };
    let schedule = |seen: &Option<super::examine::Seen>| {
        seen.as_ref().map_or("null".into(), |seen| quoted(&moves(&seen.run.moves)))
    };
    format!(
        "{{\"scenario\":{},\"runs\":{},\"complete\":{},\"seed\":{seed},\"outcomes\":{},\
         \"declared\":{},\"observed\":{},\"aborted\":{},\"needless\":{},\"met\":{},\"wrong\":{},\
         \"first_wrong\":{},\"first_observed\":{}}}",
        quoted(&scenario.name),
        examined.explored.runs,
        examined.explored.complete,
        examined.outcomes,
        quoted(&examined.declared.to_string()),
        examined.observed,
        examined.aborted.0,
        examined.aborted.1,
        counts(&examined.met),
        counts(&examined.faults),
        schedule(&examined.first),
        schedule(&examined.shown),
    )
}

/// A schedule as it is written.
pub fn moves(schedule: &[usize]) -> String {
    schedule.iter().map(|who| (who + 1).to_string()).collect::<Vec<_>>().join(" ")
}

/// The command that plays a run again. `subject` is the scenario's name or file.
pub fn replay(
    subject: &str,
    protection: &Protection,
    staging: &Staging,
    schedule: &[usize],
    target: Option<&str>,
) -> String {
    let mut text = format!("isolith anomalies replay {subject} --schedule \"{}\"", moves(schedule));
    if let Choice::One(level) = protection.isolation {
        let _ = write!(text, " --isolation {level}");
    }
    if let Choice::One(control) = protection.concurrency {
        let _ = write!(text, " --concurrency {control}");
    }
    if protection.isolation == Choice::Mixed || protection.concurrency == Choice::Mixed {
        let terms: Vec<String> = staging
            .terms
            .iter()
            .map(|terms| format!("{}/{}", terms.isolation, terms.concurrency))
            .collect();
        let _ = write!(text, " --terms {}", terms.join(","));
    }
    if staging.hot {
        text += " --hot";
    }
    if staging.fine {
        text += " --fine";
    }
    if let Some(target) = target {
        let _ = write!(text, " --target {target}");
    }
    text
}
