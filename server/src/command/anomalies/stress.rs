//! `isolith anomalies stress`: random transactions by real threads, judged while they run.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, ValueEnum};
use isolith_testkit::history::convert::{Format, Parts};
use isolith_testkit::history::{Datum, History, Level};
use isolith_testkit::picture;
use isolith_testkit::picture::table::{Cell, Table};
use isolith_testkit::picture::terminal::Style;
use isolith_testkit::picture::text::{counted, harmless};
use isolith_testkit::resp::Address;
use isolith_testkit::stress::client::Failure as Trouble;
use isolith_testkit::stress::crash::Lives;
use isolith_testkit::stress::directory::{InDirectory, Own};
use isolith_testkit::stress::embedded::InMemory;
use isolith_testkit::stress::judge::Record;
use isolith_testkit::stress::killed::Killed;
use isolith_testkit::stress::mix::Mix;
use isolith_testkit::stress::resp::Network;
use isolith_testkit::stress::workload::Workload;
use isolith_testkit::stress::{self, Length, Options, Progress, Report};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::super::progress::Shown;
use super::super::{self as command, Exit, Failure, Outcome};

/// What to stress, and how.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Runs random transactions on real threads at mixed isolation levels and \
                  concurrency controls, and judges what each of them saw at its own level, while \
                  the next ones run.\n\n\
                  append: elements put behind lists. register: blind writes. rmw: writes of what \
                  was read. predicate: ranges in which keys come and go. bank: transfers, and \
                  readers of all accounts. long-fork: inserts, and readers of several keys. \
                  queue: items taken in order. Each keeps an invariant of its own besides.\n\n\
                  The seed decides what each thread does. How the threads interleave it does not \
                  decide, but for one thread.",
    after_help = "Exit codes: 0 all was judged and holds, 1 a violation, 2 the command line is \
                  wrong, 3 the target failed, 4 some of it could not be decided, or it was \
                  interrupted.\n\
                  Try: isolith anomalies stress --seconds 10\n\
                       isolith anomalies stress --workload bank --crash --transactions 20000\n\
                       isolith anomalies stress --crash --dir /tmp --transactions 20000\n\
                       isolith anomalies stress --mix serializable/auto:3,snapshot/optimistic:1\n\
                       isolith anomalies stress --target resp://127.0.0.1:6379 --workload rmw"
)]
pub(crate) struct Stress {
    /// What the transactions do: append, register, rmw, predicate, bank, long-fork or queue.
    #[arg(long, value_name = "NAME", default_value = "append", value_parser = str::parse::<Workload>)]
    workload: Workload,
    /// Transactions, rounded up to whole windows.
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    transactions: Option<u64>,
    /// For how long; 10 s if neither this nor --transactions is given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: Option<u64>,
    /// Threads that run transactions.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// How transactions are protected: level/control:weight with commas between; `all` is every
    /// level under every control. The default is all that the target has.
    #[arg(long, value_name = "MIX", value_parser = str::parse::<Mix>)]
    mix: Option<Mix>,
    /// What decides what each thread does; drawn and printed if not given.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Ends the database's life again and again (power cuts, killed processes, failing calls, orderly
    /// closes) on a disk in memory that keeps no more than it promised, and recovers. With --dir: the
    /// real process is killed.
    #[arg(long, conflicts_with = "target")]
    crash: bool,
    /// A directory for the database's files, in a new one within it that is removed if all holds. With
    /// --crash `isolith serve` runs there as a process of its own, which is killed (kill -9) in the
    /// middle of the load and started again.
    #[arg(long, value_name = "DIR", conflicts_with = "target")]
    dir: Option<PathBuf>,
    /// Writes the history as it is made, to be judged by `isolith check FILE --own-levels --closed`:
    /// .jsonl or .edn. With --crash, what a crash was allowed to take has not happened there.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// What to stress: `embedded` (the engine in memory), or the address of a server,
    /// resp://[user[:password]@]host:port[/db].
    #[arg(long, value_name = "TARGET", default_value = "embedded")]
    target: String,
    /// Transactions that are judged together; 20000 if not given, 2000 with --dir, 400 with --crash and over a network.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    window: Option<u32>,
    /// Threads that judge.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    judges: u16,
    /// Draws what was found as a page for a browser.
    #[arg(long, value_name = "PAGE")]
    html: Option<PathBuf>,
    /// How to print what came out.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Print {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A run with all that was left open filled in.
struct Run<'a> {
    arguments: &'a Stress,
    options: Options,
    target: String,
}

/// Runs it.
pub(crate) fn run(arguments: &Stress) -> Outcome {
    let network = match arguments.target.as_str() {
        "embedded" => None,
        address => {
            let address: Address = address.parse().map_err(|error| {
                Failure::usage(format!("--target {}: {error}", harmless(address)))
            })?;
            let network = Network::connect(&address, NETWORK_WAIT);
            Some(network.map_err(Failure::could_not_run)?)
        }
    };
    match (network, &arguments.dir, arguments.crash) {
        (Some(mut network), ..) => {
            let run = Run::on_network(arguments, &network)?;
            eprintln!("{}", harmless(&network.remark()));
            run.run(&mut network).map_err(|failure| Failure {
                message: harmless(&network.told(&failure.message)),
                ..failure
            })
        }
        (None, Some(directory), crash) => in_directory(arguments, directory, crash),
        (None, None, true) => {
            let run = Run::new(arguments, "embedded, on a disk that crashes", Mix::all(), 400);
            let options = &run.options;
            let lives = Lives::new(options.seed, options.workload.shift(), options.threads == 1);
            run.run(&mut lives.map_err(trouble)?)
        }
        (None, None, false) => {
            let run = Run::new(arguments, "embedded, in memory", Mix::all(), 20_000);
            run.run(&mut InMemory::new(run.options.workload.shift()).map_err(trouble)?)
        }
    }
}

/// Runs it on real files. They are removed unless they may tell something.
fn in_directory(arguments: &Stress, directory: &Path, crash: bool) -> Outcome {
    let own = Own::within(directory).map_err(Failure::could_not_run)?;
    let path = own.path();
    let shown = path.display();
    let outcome = match crash {
        true => std::env::current_exe()
            .map_err(|error| Failure::could_not_run(format!("where isolith is: {error}")))
            .and_then(|binary| {
                let what = format!("isolith serve in {shown}, killed");
                let run = Run::new(arguments, &what, Mix::all(), 400);
                let killed = Killed::new(&binary, path, run.options.seed, NETWORK_WAIT);
                run.run(&mut killed.map_err(Failure::could_not_run)?)
            }),
        false => {
            let run = Run::new(arguments, &format!("embedded in {shown}"), Mix::all(), 2_000);
            InDirectory::new(path, run.options.workload.shift())
                .map_err(trouble)
                .and_then(|mut target| run.run(&mut target))
        }
    };
    match outcome {
        Ok(Exit::Found | Exit::Undecided) => eprintln!("isolith: the files are left in {shown}"),
        _ => own.remove().map_err(Failure::could_not_run)?,
    }
    outcome
}

/// How long a server may take for an answer that is no wait for a lock.
const NETWORK_WAIT: Duration = Duration::from_secs(10);

fn trouble(trouble: Trouble) -> Failure {
    Failure::could_not_run(match trouble {
        Trouble::Failed(why) | Trouble::Gone(why) => why,
        Trouble::Wrong(finding) => finding.to_string(),
        Trouble::Refused => "the database refuses to begin".to_owned(),
    })
}

impl<'a> Run<'a> {
    fn new(arguments: &'a Stress, target: &str, mix: Mix, window: u32) -> Run<'a> {
        let seconds = arguments.seconds.unwrap_or(10);
        let length = match arguments.transactions {
            Some(count) => Length::Transactions(count),
            None => Length::Time(Duration::from_secs(seconds)),
        };
        let options = Options {
            workload: arguments.workload,
            length,
            threads: arguments.threads.into(),
            mix: arguments.mix.clone().unwrap_or(mix),
            seed: arguments.seed.unwrap_or_else(stress::random_seed),
            window: arguments.window.unwrap_or(window) as usize,
            judges: arguments.judges.into(),
        };
        Run { arguments, options, target: target.to_owned() }
    }

    fn on_network(arguments: &'a Stress, network: &Network) -> Result<Run<'a>, Failure> {
        let run = Run::new(arguments, network.label(), network.mix(), 400);
        if !network.runs(run.options.workload) {
            let (label, workload) = (network.label(), run.options.workload);
            let what = format!("{label}: {workload}: not applicable: it reads no ranges of keys");
            return Err(Failure::usage(harmless(&what)));
        }
        let missing = run.options.mix.shares().iter().find(|share| !network.offers(share));
        match missing {
            None => Ok(run),
            Some(share) => Err(Failure::usage(format!(
                "{}: {}/{}: not applicable",
                network.label(),
                share.isolation,
                share.concurrency
            ))),
        }
    }

    fn run<T: stress::Target>(&self, target: &mut T) -> Outcome {
        let text = self.arguments.format == Print::Text;
        let stop = interrupted()?;
        if text {
            command::print(&self.heading())?;
        }
        let mut recorder = self.arguments.record.as_deref().map(recorder).transpose()?;
        let mut write = |history: &History| match &mut recorder {
            Some(parts) => parts.write(history).map_err(|error| error.to_string()),
            None => Ok(()),
        };
        let record: Record<'_> = match self.arguments.record {
            Some(_) => Some(&mut write),
            None => None,
        };
        let mut shown = Shown::new();
        let show = |progress: &Progress| shown.show(|| so_far(progress));
        let report = stress::run_until(target, &self.options, record, &stop, show);
        shown.clear();
        let report = report.map_err(Failure::could_not_run)?;
        let flushed = recorder.as_mut().map_or(Ok(()), |parts| parts.flush());
        let recorded = match (&report.not_recorded, flushed) {
            (Some(why), _) => Err(why.clone()),
            (None, Err(error)) => Err(error.to_string()),
            (None, Ok(())) => Ok(()),
        };
        let recorded = recorded.map_err(|why| {
            let path = self.arguments.record.as_deref().unwrap_or(Path::new("")).display();
            Failure::could_not_run(format!("{path}: the history cannot be recorded: {why}"))
        });
        let printed = command::print(&if text { self.text(&report) } else { self.json(&report) });
        let drawn = self.arguments.html.as_ref().map_or(Ok(()), |page| self.draw(page, &report));
        Ok(exit(&report).after(printed).after(recorded).after(drawn))
    }

    fn heading(&self) -> String {
        let Options { workload, threads, mix, seed, .. } = &self.options;
        let threads_are = match threads {
            1 => "one thread: the seed repeats everything".to_owned(),
            many => {
                format!("{many} threads: the seed repeats what each does, not how they interleave")
            }
        };
        format!("{workload} on {}, mix {mix}\nseed {seed}, {threads_are}\n", harmless(&self.target))
    }

    fn table(&self, report: &Report) -> Table {
        let mut table =
            Table::new(&["level", "control", "transactions", "committed", "refused", "unknown"]);
        for (share, tally) in self.options.mix.shares().iter().zip(&report.tallies) {
            table.row(vec![
                Cell::new(share.isolation.to_string()),
                Cell::new(share.concurrency.to_string()),
                Cell::number(tally.all()),
                Cell::number(tally.committed),
                Cell::number(tally.aborted),
                Cell::number(tally.unknown),
            ]);
        }
        table
    }

    fn text(&self, report: &Report) -> String {
        let style = Style::of_stdout();
        let mut text = format!("\n{}\n", self.table(report).text(&style));
        let total = report.total();
        let all = counted(total.all());
        let seconds = report.judged.as_secs_f64();
        text.push_str(&format!(
            "{all} transactions of {:.1} operations in {seconds:.2} s, all judged: {}/s ({} \
             committed)\n",
            report.operations as f64 / total.all().max(1) as f64,
            counted((total.all() as f64 / seconds) as u64),
            counted(total.committed),
        ));
        if report.recoveries > 0 {
            text.push_str(&format!("{} recoveries\n", counted(report.recoveries)));
        }
        match (&report.violation, &report.undecided) {
            (Some((at, violation)), _) => text.push_str(&format!(
                "violated, found after {:.2} s in window {}:\n{}\n",
                at.as_secs_f64(),
                violation.window,
                harmless_lines(&violation.what)
            )),
            (None, Some((count, why))) => text.push_str(&format!(
                "undecided: {} of {} windows; the first: {}\n",
                counted(*count),
                counted(report.windows),
                harmless(why)
            )),
            (None, None) => {
                text.push_str(&format!("all {} windows hold\n", counted(report.windows)));
            }
        }
        if report.interrupted {
            text.push_str("interrupted: what was to come has not been run\n");
        }
        text
    }

    fn json(&self, report: &Report) -> String {
        let text = |text: &str| Datum::Text(text.to_owned());
        let field = |name: &str, value: Datum| (text(name), value);
        let count = |count: u64| Datum::Int(count as i64);
        let ms = |time: Duration| Datum::Int(time.as_millis() as i64);
        let total = report.total();
        let shares = self.options.mix.shares().iter().zip(&report.tallies).map(|(share, tally)| {
            Datum::Map(vec![
                field("level", text(&share.isolation.to_string())),
                field("control", text(&share.concurrency.to_string())),
                field("committed", count(tally.committed)),
                field("refused", count(tally.aborted)),
                field("unknown", count(tally.unknown)),
            ])
        });
        let violation = report.violation.as_ref().map_or(Datum::Nil, |(at, violation)| {
            let anomaly = violation.found.as_ref().map(|found| found.anomaly.to_string());
            Datum::Map(vec![
                field("found-after-ms", ms(*at)),
                field("window", count(violation.window)),
                field("anomaly", anomaly.map_or(Datum::Nil, |name| text(&name))),
                field("what", text(&violation.what)),
            ])
        });
        let undecided = report.undecided.as_ref().map_or(Datum::Nil, |(windows, why)| {
            Datum::Map(vec![field("windows", count(*windows)), field("first-because", text(why))])
        });
        let verdict = match exit(report) {
            Exit::Found => "violated",
            Exit::Undecided => "undecided",
            _ => "holds",
        };
        let mut json = String::new();
        Datum::Map(vec![
            field("verdict", text(verdict)),
            field("workload", text(self.options.workload.name())),
            field("target", text(&self.target)),
            field("mix", text(&self.options.mix.to_string())),
            field("seed", text(&self.options.seed.to_string())),
            field("threads", count(self.options.threads as u64)),
            field("transactions", count(total.all())),
            field("committed", count(total.committed)),
            field("refused", count(total.aborted)),
            field("unknown", count(total.unknown)),
            field("operations", count(report.operations)),
            field("windows", count(report.windows)),
            field("recoveries", count(report.recoveries)),
            field("load-ms", ms(report.loaded)),
            field("judged-ms", ms(report.judged)),
            field("interrupted", Datum::Bool(report.interrupted)),
            field("violation", violation),
            field("undecided", undecided),
            field("protections", Datum::Vector(shares.collect())),
        ])
        .write_json(&mut json);
        json.push('\n');
        json
    }

    /// The command that does it again, as far as the seed decides.
    fn again(&self) -> String {
        let Options { workload, threads, mix, seed, .. } = &self.options;
        let arguments = self.arguments;
        let mut command = format!("isolith anomalies stress --workload {workload}");
        let mut add = |words: String| command.push_str(&words);
        match (arguments.transactions, arguments.seconds) {
            (Some(count), _) => add(format!(" --transactions {count}")),
            (None, Some(seconds)) => add(format!(" --seconds {seconds}")),
            (None, None) => {}
        }
        add(format!(" --threads {threads} --mix {mix} --seed {seed}"));
        if arguments.crash {
            add(" --crash".to_owned());
        }
        if let Some(directory) = &arguments.dir {
            add(format!(" --dir {}", directory.display()));
        }
        if let Some(window) = arguments.window {
            add(format!(" --window {window}"));
        }
        if self.arguments.target != "embedded" {
            add(format!(" --target {}", self.target.split(' ').next().unwrap_or_default()));
        }
        command
    }

    fn draw(&self, page: &Path, report: &Report) -> Result<(), Failure> {
        let violation = report.violation.as_ref().map(|(_, violation)| violation);
        let drawn = violation.and_then(|violation| {
            let (history, found) = (violation.history.as_ref()?, violation.found.as_ref()?);
            let level = Level::STRICT_SERIALIZABLE;
            let mut picture = picture::recorded::of(history, level, found, "").at_own_levels();
            picture.replay = vec![self.again()];
            Some(picture.html())
        });
        match drawn {
            Some(html) => super::super::history::write_page(page, &html),
            None => Ok(()),
        }
    }
}

fn exit(report: &Report) -> Exit {
    match (&report.violation, &report.undecided) {
        (Some(_), _) => Exit::Found,
        (None, Some(_)) => Exit::Undecided,
        (None, None) if report.interrupted => Exit::Undecided,
        (None, None) => Exit::Fine,
    }
}

/// Set by SIGINT and SIGTERM; a second one ends the process at once.
fn interrupted() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let registered = flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        registered.map_err(|error| Failure::could_not_run(format!("signals: {error}")))?;
    }
    Ok(stop)
}

fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

/// Opens the file that the history is recorded in.
fn recorder(path: &Path) -> Result<Parts<BufWriter<File>>, Failure> {
    let format = Format::of_path(path).unwrap_or(Format::Jsonl);
    let file = super::super::history::create(path)
        .map_err(|error| Failure::could_not_run(format!("{}: {error}", path.display())))?;
    Parts::new(format, BufWriter::new(file)).ok_or_else(|| {
        Failure::usage("a stress is recorded as .jsonl or .edn; `isolith history convert` has more")
    })
}

/// How far it is.
fn so_far(progress: &Progress) -> String {
    let rate = progress.transactions as f64 / progress.elapsed.as_secs_f64();
    format!(
        "{} transactions, {}/s, {} of {} windows hold",
        counted(progress.transactions),
        counted(rate as u64),
        counted(progress.held),
        counted(progress.windows)
    )
}
