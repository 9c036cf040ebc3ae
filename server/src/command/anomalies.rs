//! `isolith anomalies`: what isolation levels allow and forbid, seen and not believed. What is played
//! and judged is `isolith_testkit::laboratory`.

mod stress;

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use isolith::{Concurrency, Isolation};
use isolith_testkit::laboratory::catalogue;
use isolith_testkit::laboratory::drawing::draw;
use isolith_testkit::laboratory::embedded::Embedded;
use isolith_testkit::laboratory::examine::{Examined, Seen, examine, look};
use isolith_testkit::laboratory::explore::Limits;
use isolith_testkit::laboratory::faults::fault;
use isolith_testkit::laboratory::files::{self, FileError};
use isolith_testkit::laboratory::judge::Judge;
use isolith_testkit::laboratory::matrix::{
    self, Broken, Cell, Choice, Declared, Plan, Protection, declared,
};
use isolith_testkit::laboratory::play::Staging;
use isolith_testkit::laboratory::report;
use isolith_testkit::laboratory::resp::{self, Address};
use isolith_testkit::laboratory::scenario::{Scenario, schedule};
use isolith_testkit::laboratory::shrink::shrink;
use isolith_testkit::laboratory::target::{self, Target, Terms};
use isolith_testkit::picture::Picture;
use isolith_testkit::picture::terminal::Style;
use isolith_testkit::picture::text::harmless;

use super::{Exit, Failure, Outcome};

/// What to do with anomalies.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Anomalies {
    /// Tells the catalogue: each anomaly's definition, source, operations, and who forbids it.
    List {
        /// How to print it.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Prints a scenario of the catalogue as a file to start from.
    Show {
        /// Its name, as `list` tells it.
        name: String,
    },
    /// Plays every scenario at every level under every concurrency control, through all
    /// interleavings. Ends with 1 if a promise is broken.
    #[command(after_help = MATRIX_HELP)]
    Matrix(Matrix),
    /// Tells one anomaly step by step: who reads what, who waits for whom, how it ends and why.
    Explain(Single),
    /// Plays a scenario of your own through all its interleavings. Ends with 1 if an invariant does
    /// not hold, or a promise is broken.
    Explore(Single),
    /// Plays a scenario by one schedule.
    Replay(Single),
    /// Looks for the smallest scenario and schedule that still show what is wrong, and prints it.
    Shrink(Single),
    /// Runs random transactions on real threads and judges them while they run. Ends with 1 if a
    /// promise is broken.
    Stress(Box<stress::Stress>),
}

const MATRIX_HELP: &str = "\
Examples: isolith anomalies matrix
          isolith anomalies matrix g2-item p4 --isolation snapshot
          isolith anomalies matrix --concurrency mixed
          isolith anomalies matrix --target resp://127.0.0.1:6379 --format json";

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where and how much to play.
#[derive(Clone, Debug, Args)]
pub(crate) struct Playing {
    /// What to play on: `embedded` (the engine in memory, one step at a time), or the address of a
    /// server, resp://[user[:password]@]host:port[/db].
    #[arg(long, value_name = "TARGET", default_value = "embedded")]
    target: String,
    /// Interleavings of one scenario at one protection; where there are more, so many schedules are
    /// chosen at random. Default: 30000 (embedded), 200 (a server).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    max: Option<u64>,
    /// What random schedules are chosen by.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Leaves out schedules that show nothing new (partial-order reduction).
    #[arg(long)]
    reduce: bool,
    /// Makes handing in a commit and its decision moves of their own, and going on after a wait:
    /// more interleavings, of the embedded engine only.
    #[arg(long)]
    fine: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Writes the picture of what was found (or explained) as a page for a browser.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Writes a Rust test that does it again with the embedded engine.
    #[arg(long, value_name = "FILE")]
    rust: Option<PathBuf>,
}

/// What the matrix is of.
#[derive(Clone, Debug, Args)]
pub(crate) struct Matrix {
    /// Scenarios of the catalogue, or files; the whole catalogue if none is named.
    #[arg(value_name = "NAME|FILE")]
    subjects: Vec<String>,
    /// Levels, with commas between them; all, or mixed: every combination.
    #[arg(long, value_name = "LEVELS", default_value = "all", value_parser = parse_choices::<Isolation>)]
    isolation: Choices<Isolation>,
    /// Concurrency controls, with commas between them; all, or mixed: every combination.
    #[arg(long, value_name = "CONTROLS", default_value = "all", value_parser = parse_choices::<Concurrency>)]
    concurrency: Choices<Concurrency>,
    /// Threads that play; as many as there are cores (embedded) or one (a server) if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    playing: Playing,
}

/// One scenario, and how to protect it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Single {
    /// A scenario of the catalogue, or a file.
    #[arg(value_name = "NAME|FILE")]
    subject: String,
    /// The level of the sessions that have none of their own.
    #[arg(long, value_name = "LEVEL", default_value = "serializable")]
    isolation: Isolation,
    /// Their concurrency control.
    #[arg(long, value_name = "CONTROL", default_value = "optimistic")]
    concurrency: Concurrency,
    /// The terms of each session instead, as LEVEL/CONTROL,LEVEL/CONTROL,…
    #[arg(long, value_name = "TERMS", value_parser = parse_terms)]
    terms: Option<AllTerms>,
    /// Every key has been fought for before (what auto looks at).
    #[arg(long)]
    hot: bool,
    /// Who moves: numbers of sessions, from 1. The scenario's own schedule if not given.
    #[arg(long, value_name = "MOVES")]
    schedule: Option<String>,
    #[command(flatten)]
    playing: Playing,
}

/// Levels or controls of a matrix.
type Choices<T> = Vec<Choice<T>>;

/// The terms of each session.
#[derive(Clone, Debug)]
pub(crate) struct AllTerms(Vec<Terms>);

/// What can be chosen on the command line.
pub(crate) trait Each: Sized + std::str::FromStr {
    /// All of them.
    fn each() -> Vec<Self>;
}

impl Each for Isolation {
    fn each() -> Vec<Isolation> {
        Isolation::ALL.to_vec()
    }
}

impl Each for Concurrency {
    fn each() -> Vec<Concurrency> {
        Concurrency::ALL.to_vec()
    }
}

fn parse_choices<T: Each>(text: &str) -> Result<Choices<T>, String>
where
    T::Err: std::fmt::Display,
{
    let mut choices = Vec::new();
    for word in text.split(',').map(str::trim) {
        match word {
            "all" => choices.extend(T::each().into_iter().map(Choice::One)),
            "mixed" => choices.push(Choice::Mixed),
            word => choices.push(Choice::One(
                word.parse().map_err(|error: T::Err| format!("{error}; or all, or mixed"))?,
            )),
        }
    }
    Ok(choices)
}

fn parse_terms(text: &str) -> Result<AllTerms, String> {
    let one = |word: &str| {
        let (level, control) = word.split_once('/').ok_or("expected LEVEL/CONTROL")?;
        let isolation = level.trim().parse().map_err(|error| format!("{error}"))?;
        let concurrency = control.trim().parse().map_err(|error| format!("{error}"))?;
        Ok(Terms { isolation, concurrency })
    };
    text.split(',').map(one).collect::<Result<_, String>>().map(AllTerms)
}

/// Does it.
pub(crate) fn run(command: &Anomalies) -> Outcome {
    match command {
        Anomalies::List { format: Format::Text } => {
            print(&report::catalogue_text(&Style::of_stdout()))
        }
        Anomalies::List { format: Format::Json } => print(&(report::catalogue_json() + "\n")),
        Anomalies::Show { name } => print(&named(name)?.to_string()),
        Anomalies::Matrix(matrix) => play_matrix(matrix),
        Anomalies::Explain(single) => explain(&Prepared::of(single)?),
        Anomalies::Explore(single) => explore(&Prepared::of(single)?),
        Anomalies::Replay(single) => replay(&Prepared::of(single)?),
        Anomalies::Shrink(single) => shrink_it(&Prepared::of(single)?),
        Anomalies::Stress(arguments) => stress::run(arguments),
    }
}

/// For tables: nothing is cut in a pipe.
fn wide() -> Style {
    let style = Style::of_stdout();
    match std::io::stdout().is_terminal() {
        true => style,
        false => Style { width: usize::from(u8::MAX), ..style },
    }
}

fn usage(message: impl Into<String>) -> Failure {
    Failure { exit: Exit::Usage, message: message.into() }
}

fn named(name: &str) -> Result<Scenario, Failure> {
    catalogue::find(name).ok_or_else(|| {
        let names: Vec<String> = catalogue::all().into_iter().map(|one| one.name).collect();
        usage(format!("'{name}' is none of the catalogue's: {}", names.join(", ")))
    })
}

/// A scenario of the catalogue, or one in a file.
fn subject(text: &str) -> Result<Scenario, Failure> {
    if let Some(scenario) = catalogue::find(text) {
        return Ok(scenario);
    }
    let path = PathBuf::from(text);
    if !path.exists() {
        return Err(usage(format!(
            "'{text}' is neither a file nor in the catalogue (isolith anomalies list)"
        )));
    }
    files::read_scenario(&path).map_err(of_file)
}

/// Prints, as all that there is to do.
fn print(text: &str) -> Outcome {
    super::print(text).map(|()| Exit::Fine)
}

fn of_target(failure: target::Failure) -> Failure {
    Failure::could_not_run(failure.to_string())
}

fn of_file(error: FileError) -> Failure {
    match error {
        FileError::Malformed(message) => usage(message),
        FileError::Unusable(message) => Failure::could_not_run(message),
    }
}

impl Playing {
    fn is_embedded(&self) -> bool {
        self.target == "embedded"
    }

    /// The target, where commands that show something again have to name it.
    fn other_target(&self) -> Option<&str> {
        (!self.is_embedded()).then_some(self.target.as_str())
    }

    fn address(&self) -> Result<Option<Address>, Failure> {
        if self.is_embedded() {
            return Ok(None);
        }
        let expected = "expected embedded or resp://[user[:password]@]host:port[/db]";
        let parsed = self.target.parse::<Address>();
        parsed
            .map(Some)
            .map_err(|why| usage(format!("--target {}: {why}; {expected}", self.target)))
    }

    fn limits(&self) -> Limits {
        let usual = if self.is_embedded() { 30_000 } else { 200 };
        let runs_max = self.max.unwrap_or(usual);
        Limits { runs_max, reduce: self.reduce, seed: self.seed }
    }

    /// Writes the page and the test that were asked for.
    fn write(&self, picture: &Picture) -> Result<(), Failure> {
        if let Some(path) = &self.html {
            files::write_text(path, &picture.html()).map_err(of_file)?;
        }
        if let Some(path) = &self.rust {
            let test = picture.rust_test().map_err(|why| {
                Failure::could_not_run(format!("it cannot be made a Rust test: {why}"))
            })?;
            files::write_text(path, &test).map_err(of_file)?;
        }
        Ok(())
    }
}

/// A target that is ready.
fn connect(address: Option<&Address>) -> Result<Box<dyn Target>, target::Failure> {
    match address {
        None => Ok(Box::new(Embedded::new()?)),
        Some(address) => resp::connect(address, resp::WAIT),
    }
}

/// What a target is and how it is used, where there is something to be said.
fn introduction(target: &dyn Target) -> String {
    let remarks = target.remarks();
    match remarks.is_empty() {
        true => String::new(),
        false => format!("{}\n- {}\n\n", target.label(), remarks.join("\n- ")),
    }
}

/// Tells what a server is, and what holds of it alone: beside the output, not in it.
fn told_about(target: &dyn Target) {
    for line in [target.label()].into_iter().chain(target.remarks()) {
        eprintln!("{}", harmless(&line));
    }
}

fn play_matrix(matrix: &Matrix) -> Outcome {
    let playing = &matrix.playing;
    let scenarios = match matrix.subjects.is_empty() {
        true => catalogue::all(),
        false => matrix.subjects.iter().map(|one| subject(one)).collect::<Result<_, _>>()?,
    };
    let address = playing.address()?;
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let usual = if playing.is_embedded() { cores } else { 1 };
    let plan = Plan {
        scenarios,
        protections: matrix::protections(&matrix.isolation, &matrix.concurrency),
        limits: playing.limits(),
        fine: playing.fine,
        threads: matrix.threads.map_or(usual, usize::from),
    };
    let (label, remarks) = {
        let target = connect(address.as_ref()).map_err(of_target)?;
        if playing.format == Format::Text {
            print(&introduction(&*target))?;
        }
        if address.is_some() {
            told_about(&*target);
        }
        (target.label(), target.remarks())
    };
    let factory = || connect(address.as_ref());
    let terminal = std::io::stderr().is_terminal();
    let progress = |done: usize, of: usize| {
        if terminal {
            let end = if done == of { "\r\x1b[K" } else { "" };
            eprint!("\r{done} of {of} cells{end}");
        }
    };
    // A panic inside the engine is a finding, and told as one.
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let cells = matrix::play(&plan, &factory, &progress).map_err(of_target);
    std::panic::set_hook(quiet);
    let cells = cells?;
    match playing.format {
        Format::Json => print(&(report::matrix_json(&label, &remarks, &cells) + "\n"))?,
        Format::Text => print(&report::matrix_text(&cells, &wide()))?,
    };
    let mut broken = cells.iter().filter_map(|cell| Some((cell, cell.first.as_deref()?)));
    let Some((cell, first)) = broken.next() else { return Ok(Exit::Fine) };
    let mut target = connect(address.as_ref()).map_err(of_target)?;
    let picture = smallest(cell, first, &mut *target, playing.other_target())?;
    if playing.format == Format::Text {
        let style = Style::of_stdout();
        let head = format!("\n{} at {}:\n\n", cell.scenario, cell.protection);
        print(&format!("{head}{}", picture.text(&style)))?;
    }
    Ok(Exit::Found.after(playing.write(&picture)))
}

/// The picture of a broken promise, shrunk.
fn smallest(
    cell: &Cell,
    broken: &Broken,
    target: &mut dyn Target,
    other: Option<&str>,
) -> Result<Picture, Failure> {
    let Broken { scenario, fault: first, declared, staging, run } = broken;
    let mut scenario = scenario.clone();
    scenario.schedule.clone_from(&run.moves);
    let replay = vec![report::replay(&scenario.name, &cell.protection, staging, &run.moves, other)];
    let label = first.label();
    let shows = |scenario: &Scenario, staging: &Staging, run: &_, played: &_| {
        let (_, found) = fault(scenario, staging, *declared, &Judge::of(scenario), run, played);
        found.is_some_and(|found| found.label() == label)
    };
    let shrunk = shrink(&scenario, staging, target, &shows).map_err(of_target)?;
    let judged = |scenario: &Scenario, staging: &Staging, run: &_, played: &_| {
        fault(scenario, staging, *declared, &Judge::of(scenario), run, played)
    };
    Ok(match shrunk {
        Some(small) => {
            let (judgement, found) =
                judged(&small.scenario, &small.staging, &small.run, &small.played);
            draw(&small.scenario, &small.staging, &small.run, &judgement, found.as_ref(), replay)
        }
        None => {
            let (judgement, _) = judged(&scenario, staging, run, &Ok(()));
            draw(&scenario, staging, run, &judgement, Some(first), replay)
        }
    })
}

/// A single scenario, ready to be played.
struct Prepared<'a> {
    single: &'a Single,
    scenario: Scenario,
    protection: Protection,
    staging: Staging,
    address: Option<Address>,
}

impl<'a> Prepared<'a> {
    fn of(single: &'a Single) -> Result<Prepared<'a>, Failure> {
        let mut scenario = subject(&single.subject)?;
        let sessions = scenario.sessions.len();
        if let Some(text) = &single.schedule {
            scenario.schedule =
                schedule(text, sessions).map_err(|why| usage(format!("--schedule: {why}")))?;
        }
        let general = Terms { isolation: single.isolation, concurrency: single.concurrency };
        let mut terms = scenario.terms(general);
        let mut isolation = Choice::One(single.isolation);
        let mut concurrency = Choice::One(single.concurrency);
        if let Some(AllTerms(all)) = &single.terms {
            if all.len() != sessions {
                return Err(usage(format!("--terms: expected {sessions}, one for each session")));
            }
            terms.clone_from(all);
            (isolation, concurrency) = (Choice::Mixed, Choice::Mixed);
        }
        let protection = Protection { isolation, concurrency, hot: single.hot };
        let staging = Staging { terms, hot: single.hot, fine: single.playing.fine };
        let address = single.playing.address()?;
        Ok(Prepared { single, scenario, protection, staging, address })
    }

    fn target(&self) -> Result<Box<dyn Target>, Failure> {
        let target = connect(self.address.as_ref()).map_err(of_target)?;
        if self.address.is_some() {
            told_about(&*target);
        }
        if !self.scenario.fits(&*target, &self.staging.terms) {
            let terms: Vec<String> = self.staging.terms.iter().map(Terms::to_string).collect();
            let label = target.label();
            return Err(usage(format!(
                "{label} has not what {} needs, at {}",
                self.scenario.name,
                terms.join(", ")
            )));
        }
        Ok(target)
    }

    fn declared(&self) -> Declared {
        declared(&self.scenario, &self.protection)
    }

    fn picture(&self, seen: &Seen) -> Picture {
        let Seen { run, judged, fault } = seen;
        let (subject, other) = (&self.single.subject, self.single.playing.other_target());
        let replay =
            vec![report::replay(subject, &self.protection, &self.staging, &run.moves, other)];
        draw(&self.scenario, &self.staging, run, judged, fault.as_ref(), replay)
    }

    /// Shows a run, and writes what was asked for.
    fn show(&self, seen: &Seen) -> Outcome {
        let picture = self.picture(seen);
        let playing = &self.single.playing;
        if playing.format == Format::Text {
            print(&picture.text(&Style::of_stdout()))?;
        }
        let exit = if seen.fault.is_some() { Exit::Found } else { Exit::Fine };
        Ok(exit.after(playing.write(&picture)))
    }

    fn examine(&self, target: &mut dyn Target) -> Result<Examined, Failure> {
        let limits = self.single.playing.limits();
        examine(&self.scenario, &self.staging, &self.protection, target, &limits).map_err(of_target)
    }

    fn summary(&self, examined: &Examined) -> Outcome {
        let Playing { format, seed, .. } = &self.single.playing;
        match format {
            Format::Text => print(&report::examined_text(&self.scenario, examined, *seed)),
            Format::Json => print(&(report::examined_json(&self.scenario, examined, *seed) + "\n")),
        }
    }
}

/// Shows the run that tells most: one with a fault, one with the anomaly, or how it is prevented.
fn explain(prepared: &Prepared<'_>) -> Outcome {
    let mut target = prepared.target()?;
    if prepared.single.schedule.is_some() {
        return replay(prepared);
    }
    let examined = prepared.examine(&mut *target)?;
    let seen = match examined.first.clone().or(examined.shown.clone()) {
        Some(seen) => seen,
        None => look(
            &prepared.scenario,
            &prepared.staging,
            prepared.declared(),
            &mut *target,
            &prepared.scenario.schedule,
        )
        .map_err(of_target)?,
    };
    let exit = prepared.show(&seen)?;
    if prepared.single.playing.format == Format::Text {
        print("\n")?;
    }
    prepared.summary(&examined)?;
    Ok(exit)
}

fn explore(prepared: &Prepared<'_>) -> Outcome {
    let mut target = prepared.target()?;
    let examined = prepared.examine(&mut *target)?;
    prepared.summary(&examined)?;
    let Some(seen) = examined.first.as_ref().or(examined.shown.as_ref()) else {
        return Ok(Exit::Fine);
    };
    if prepared.single.playing.format == Format::Text {
        print("\n")?;
    }
    prepared.show(seen)
}

fn replay(prepared: &Prepared<'_>) -> Outcome {
    let mut target = prepared.target()?;
    let Prepared { scenario, staging, .. } = prepared;
    let seen = look(scenario, staging, prepared.declared(), &mut *target, &scenario.schedule)
        .map_err(of_target)?;
    if prepared.single.playing.format == Format::Json {
        let text = |text: &str| isolith_testkit::picture::table::quoted(text);
        let fault = seen.fault.as_ref().map_or("null".into(), |fault| text(&fault.to_string()));
        let found: Vec<String> =
            seen.judged.found.iter().map(|found| text(&found.full_name())).collect();
        print(&format!(
            "{{\"scenario\":{},\"schedule\":{},\"wrong\":{fault},\"met\":[{}],\"outcome\":{}}}\n",
            text(&scenario.name),
            text(&report::moves(&seen.run.moves)),
            found.join(","),
            text(&seen.run.outcome()),
        ))?;
    }
    prepared.show(&seen)
}

/// Shrinks what is wrong with the scenario, or else the anomaly that it shows.
fn shrink_it(prepared: &Prepared<'_>) -> Outcome {
    let mut target = prepared.target()?;
    let Prepared { scenario, staging, .. } = prepared;
    let declared = prepared.declared();
    let first = look(scenario, staging, declared, &mut *target, &scenario.schedule);
    let first = first.map_err(of_target)?;
    let shows_anomaly =
        |seen: &Seen| scenario.anomaly.as_ref().is_some_and(|anomaly| anomaly.holds(&seen.run));
    let seen = match first.fault.is_some() || shows_anomaly(&first) {
        true => Some(first),
        false => {
            let examined = prepared.examine(&mut *target)?;
            examined.first.or(examined.shown)
        }
    };
    let Some(seen) = seen else {
        print("There is nothing to shrink: nothing is wrong, and the anomaly does not happen.\n")?;
        return Ok(Exit::Fine);
    };
    let label = seen.fault.as_ref().map(|fault| fault.label());
    let shows = |scenario: &Scenario, staging: &Staging, run: &_, played: &_| {
        let (_, found) = fault(scenario, staging, declared, &Judge::of(scenario), run, played);
        let happened = || scenario.anomaly.as_ref().is_some_and(|anomaly| anomaly.holds(run));
        match &label {
            Some(label) => found.is_some_and(|found| found.label() == *label),
            None => happened(),
        }
    };
    let mut scenario = scenario.clone();
    scenario.schedule.clone_from(&seen.run.moves);
    let shrunk = shrink(&scenario, staging, &mut *target, &shows).map_err(of_target)?;
    let Some(small) = shrunk else {
        return Err(Failure {
            exit: Exit::Undecided,
            message: "it did not happen again, by the same schedule".into(),
        });
    };
    print(&small.scenario.to_string())?;
    let judge = Judge::of(&small.scenario);
    let (judged, found) =
        fault(&small.scenario, &small.staging, declared, &judge, &small.run, &small.played);
    let picture =
        draw(&small.scenario, &small.staging, &small.run, &judged, found.as_ref(), Vec::new());
    let exit = if label.is_some() { Exit::Found } else { Exit::Fine };
    Ok(exit.after(prepared.single.playing.write(&picture)))
}
