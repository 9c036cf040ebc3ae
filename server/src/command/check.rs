//! `isolith check`: recorded histories in, verdicts with their witnesses out.

use super::progress::Shown;
use super::{Exit, Outcome, history};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use isolith_testkit::checker::{
    self, Budget, Found, Inference, Question, Report, Verdict, Workload, witness,
};
use isolith_testkit::history::convert::Format;
use isolith_testkit::history::{Datum, History, Level, ReadError};
use isolith_testkit::picture;
use isolith_testkit::picture::text::{counted, harmless};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What to judge, and how.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Judges recorded histories: can they come from a system that keeps an isolation \
                  level?\n\n\
                  A history is what clients saw: which transactions they began, what those read \
                  and wrote, how they ended, and in which order. It comes as JSON (one Jepsen \
                  operation a line, or an array), as Jepsen's EDN, as the plain text \
                  r(key,value,session,transaction), or as dbcop's JSON.\n\n\
                  A violation is shown by the transactions that cannot all have happened, and \
                  why. What can neither be shown to hold nor to be violated is undecided.",
    after_help = "Exit codes: 0 all hold, 1 one is violated, 2 one is malformed, 3 one cannot be \
                  read, 4 one is undecided; of several the first of 1, 2, 3, 4.\n\
                  Try: isolith check history.jsonl --level snapshot\n\
                  docs/isolation.md has the formats, the levels and the names of anomalies."
)]
pub(crate) struct Check {
    /// The histories; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The level that is judged at, like read-committed, read-atomic, causal, repeatable-read,
    /// snapshot, serializable; with strong-session- or strong- before it the order of sessions or
    /// real time counts, too. strict-serializable is strong-serializable.
    #[arg(long, value_name = "LEVEL", default_value = "strict-serializable", value_parser = parse_level)]
    level: Level,
    /// Judge each transaction that names its level at that one, the others at --level.
    #[arg(long)]
    own_levels: bool,
    /// What the operations mean; guessed from them if not given.
    #[arg(long, value_name = "WORKLOAD", value_parser = workloads())]
    workload: Option<Workload>,
    /// How the histories are written; seen from their beginnings if not given.
    #[arg(long, value_name = "FORMAT", value_parser = history::formats())]
    from: Option<Format>,
    /// What may be taken for granted about the order in which a register's values replaced each
    /// other.
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    assume: Vec<Assumption>,
    /// Every write is in the history: a value that nobody wrote is garbage, not from before.
    #[arg(long)]
    closed: bool,
    /// What all balances of a bank add up to; what the first read found, if not given.
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true)]
    total: Option<i64>,
    /// A bank's balances may be negative.
    #[arg(long)]
    negative: bool,
    /// How many steps a search may take before a history is called undecided.
    #[arg(long, value_name = "STEPS", default_value_t = Budget::default().steps)]
    budget: u64,
    /// Draws the gravest anomaly of the first history that is violated as a page for a browser.
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    /// How to print the verdicts; json is an object a line.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Print {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What may be taken for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Assumption {
    /// A transaction that reads a key and writes it replaced what it read.
    WritesFollowReads,
    /// Each key alone keeps the order of each session.
    SequentialKeys,
    /// Each key alone keeps real time.
    LinearizableKeys,
}

fn parse_level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| {
        let names: Vec<String> = Level::all().map(|level| level.to_string()).collect();
        format!("no level is called so; there are {}", names.join(", "))
    })
}

fn workloads() -> impl TypedValueParser<Value = Workload> {
    PossibleValuesParser::new(Workload::ALL.map(Workload::name))
        .try_map(|name| Workload::parse(&name).ok_or("no workload"))
}

/// What became of a file.
enum Judged {
    Decided(Box<Decided>),
    Unreadable(ReadError),
    /// It was read, but not judged, and why.
    Refused(String),
}

/// A history and what was said of it.
struct Decided {
    history: History,
    workload: Workload,
    report: Report,
}

/// Judges every file, and prints what came out.
pub(crate) fn run(options: &Check) -> Outcome {
    let mut worst = Exit::Fine;
    let mut shown = Shown::new();
    let mut page = options.html.as_deref();
    for file in &options.files {
        let judged = judge(options, file, &mut shown);
        shown.clear();
        let name = file.display().to_string();
        let text = match options.format {
            Print::Text => judged.text(&name, options),
            Print::Json => judged.json(&name, options),
        };
        worst = worst.or_worse(judged.exit()).after(super::print(&text));
        if let (Some(path), Some(html)) = (page, judged.html(&name, options)) {
            worst = worst.after(history::write_page(path, &html));
            page = None;
        }
    }
    Ok(worst)
}

fn judge(options: &Check, file: &Path, shown: &mut Shown) -> Judged {
    let history = match history::read(file, options.from, shown) {
        Ok(history) => history,
        Err(error) => return Judged::Unreadable(error),
    };
    let Some(workload) = options.workload.or_else(|| Workload::of(&history)) else {
        return Judged::Refused(
            "its operations are not of one workload: say --workload".to_owned(),
        );
    };
    let assumed = |assumption| options.assume.contains(&assumption);
    let question = Question {
        own_levels: options.own_levels,
        closed: options.closed,
        inference: Inference {
            writes_follow_reads: assumed(Assumption::WritesFollowReads),
            sequential_keys: assumed(Assumption::SequentialKeys),
            linearizable_keys: assumed(Assumption::LinearizableKeys),
        },
        total: options.total,
        negative: options.negative,
        budget: Budget { steps: options.budget },
        ..Question::new(workload, options.level)
    };
    shown.show(|| {
        let count = counted(history.transactions().len() as u64);
        format!("{}: judging {count} transactions", file.display())
    });
    let report = checker::judge(&history, &question);
    Judged::Decided(Box::new(Decided { history, workload, report }))
}

impl Judged {
    fn exit(&self) -> Exit {
        match self {
            Judged::Decided(decided) => match decided.report.verdict {
                Verdict::Holds => Exit::Fine,
                Verdict::Violated => Exit::Found,
                Verdict::Undecided(_) => Exit::Undecided,
            },
            Judged::Unreadable(error) if error.is_io() => Exit::CouldNotRun,
            Judged::Unreadable(_) | Judged::Refused(_) => Exit::Usage,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.exit() {
            Exit::Fine => "holds",
            Exit::Found => "violated",
            Exit::Usage => "malformed",
            Exit::CouldNotRun => "unreadable",
            Exit::Undecided => "undecided",
        }
    }

    /// What was found, as a page.
    fn html(&self, file: &str, options: &Check) -> Option<String> {
        match self {
            Judged::Decided(decided) => {
                let Decided { history, report, .. } = &**decided;
                let gravest = report.found.first()?;
                let mut picture = picture::recorded::of(history, options.level, gravest, file);
                if options.own_levels {
                    picture = picture.at_own_levels();
                }
                Some(picture.html())
            }
            _ => None,
        }
    }

    /// For people. Names come from a stranger's file: whatever would steer a terminal is shown.
    fn text(&self, file: &str, options: &Check) -> String {
        let mut text = format!("{}: {}", harmless(file), self.verdict());
        match self {
            Judged::Decided(decided) => {
                let Decided { history, workload, report } = &**decided;
                let own = if options.own_levels { " or its own level" } else { "" };
                let _ = writeln!(
                    text,
                    " at {}{own} ({workload}, {} transactions, {} operations)",
                    options.level,
                    counted(history.transactions().len() as u64),
                    counted(history.operation_count() as u64),
                );
                if let Verdict::Undecided(why) = &report.verdict {
                    let _ = writeln!(text, "  {}", harmless(why));
                }
                for found in &report.found {
                    write_found(&mut text, history, found);
                }
                for note in &report.notes {
                    let _ = writeln!(text, "  {}", harmless(note));
                }
            }
            Judged::Unreadable(error) => {
                let _ = writeln!(text, ": {}", harmless(&error.to_string()));
            }
            Judged::Refused(why) => {
                let _ = writeln!(text, ": {why}");
            }
        }
        text
    }

    /// For programs.
    fn json(&self, file: &str, options: &Check) -> String {
        let mut fields = vec![field("file", text(file)), field("verdict", text(self.verdict()))];
        match self {
            Judged::Decided(decided) => {
                let Decided { history, workload, report } = &**decided;
                let count = |count: usize| Datum::Int(count as i64);
                fields.push(field("level", text(&options.level.to_string())));
                fields.push(field("own-levels", Datum::Bool(options.own_levels)));
                fields.push(field("workload", text(&workload.to_string())));
                fields.push(field("transactions", count(history.transactions().len())));
                fields.push(field("operations", count(history.operation_count())));
                let found = report.found.iter().map(|found| found_json(history, found));
                fields.push(field("anomalies", Datum::Vector(found.collect())));
                let undecided = match &report.verdict {
                    Verdict::Undecided(why) => text(why),
                    _ => Datum::Nil,
                };
                fields.push(field("undecided-because", undecided));
                let notes = report.notes.iter().map(|note| text(note));
                fields.push(field("notes", Datum::Vector(notes.collect())));
            }
            Judged::Unreadable(error) => {
                fields.push(field("error", text(&error.fault.to_string())));
                fields.push(field("line", Datum::Int(error.place.line as i64)));
                fields.push(field("byte", Datum::Int(error.place.offset as i64)));
            }
            Judged::Refused(why) => fields.push(field("error", text(why))),
        }
        let mut json = String::new();
        Datum::Map(fields).write_json(&mut json);
        json.push('\n');
        json
    }
}

fn write_found(text: &mut String, history: &History, found: &Found) {
    let times = match found.count {
        1 => String::new(),
        count => format!(", {} times", counted(count as u64)),
    };
    let _ = writeln!(text, "\n  {}{times}", found.anomaly);
    for line in found.witness.prose(history).lines() {
        let _ = writeln!(text, "  {}", harmless(line));
    }
}

fn text(text: &str) -> Datum {
    Datum::Text(text.to_owned())
}

fn field(name: &str, value: Datum) -> (Datum, Datum) {
    (text(name), value)
}

fn found_json(history: &History, found: &Found) -> Datum {
    let place = |place: u32| Datum::Int(i64::from(place));
    let transactions = found.witness.transactions.iter().map(|at| {
        let transaction = &history.transactions()[*at];
        Datum::Map(vec![
            field("place", Datum::Int(*at as i64)),
            field("line", place(transaction.line)),
            field("text", text(&witness::transaction(history, *at))),
        ])
    });
    let value =
        |value| history.value_name(value).map_or(Datum::Nil, |name| text(&name.to_string()));
    let edges = found.witness.edges.iter().map(|edge| {
        let mut fields = vec![
            field("from", place(edge.from)),
            field("to", place(edge.to)),
            field("kind", text(&edge.kind.to_string())),
        ];
        if !edge.kind.is_order() {
            fields.push(field("key", text(&history.key_name(edge.key).to_string())));
            fields.push(field("before", value(edge.before)));
            fields.push(field("after", value(edge.after)));
        }
        Datum::Map(fields)
    });
    Datum::Map(vec![
        field("name", text(&found.anomaly.to_string())),
        field("count", Datum::Int(found.count as i64)),
        field("transactions", Datum::Vector(transactions.collect())),
        field("edges", Datum::Vector(edges.collect())),
        field("because", text(&found.witness.because)),
        field("prose", text(&found.witness.prose(history))),
    ])
}
