//! Pictures of anomalies, looked at the way their readers do: on a terminal, in a real browser, and
//! as tests that run.
//!
//! The browser is chromium where there is one that starts; without one the test says so and passes.
//! What `ISOLITH_BROWSER` names has to be there and to start.
//! `ISOLITH_PICTURES=directory` keeps what was drawn, with screenshots. The tests that pictures were
//! made into lie in `tests/replayed`; `ISOLITH_PICTURES` keeps those, too.

#![expect(clippy::disallowed_methods, reason = "pictures are files for people, not the engine's")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use isolith::{Concurrency, DeadlockPolicy, Isolation, Victim};
use isolith_testkit::dice::Dice;
use isolith_testkit::laboratory::embedded::Embedded;
use isolith_testkit::laboratory::judge::Judge;
use isolith_testkit::laboratory::play::{Given, Player, Staging};
use isolith_testkit::laboratory::target::Terms;
use isolith_testkit::laboratory::{catalogue, drawing};
use isolith_testkit::picture::terminal::Style;
use isolith_testkit::picture::{Picture, samples};

// Formatted by whoever writes them, not by a tool: one reads them as they are written.
#[rustfmt::skip]
mod replayed {
    #[path = "../replayed/every_operation.rs"]
    mod every_operation;
    #[path = "../replayed/lost_update.rs"]
    mod lost_update;
    #[path = "../replayed/write_skew.rs"]
    mod write_skew;
}

/// Where to keep what is drawn, if somebody wants to look at it.
fn keep(name: &str, content: &str) -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("ISOLITH_PICTURES")?);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    std::fs::write(&path, content).unwrap();
    Some(path)
}

#[test]
fn every_sample_can_be_read_on_a_terminal() {
    for (name, picture) in samples::all() {
        let style = Style { colour: true, ..Style::plain() };
        let text = picture.text(&style);
        assert!(text.contains(&picture.verdict_sentence()[..10]), "{name}: {text}");
        keep(&format!("{name}.txt"), &text);
    }
}

/// The browser, if there is one that starts.
fn browser() -> Option<PathBuf> {
    if let Some(told) = std::env::var_os("ISOLITH_BROWSER") {
        return Some(told.into());
    }
    let directories = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let found = std::env::split_paths(&directories)
        .flat_map(|directory| names.map(|name| directory.join(name)))
        .find(|path| path.is_file());
    let Some(found) = found else {
        eprintln!("SKIPPED: no chromium here (Debian: `apt-get install chromium`)");
        return None;
    };
    Some(found)
}

/// What a browser makes of a page: its elements as text, and what it has to complain about.
struct Seen {
    dom: String,
    console: Vec<String>,
}

/// Opens a page. The browser gets a directory of its own, so that nothing of the user's is touched.
fn open(browser: &Path, page: &str, screenshot: Option<&Path>) -> Result<Seen, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("page.html");
    std::fs::write(&file, page).unwrap();
    let output = |name: &str| std::fs::File::create(directory.path().join(name)).unwrap();
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--hide-scrollbars", "--window-size=1180,2600", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", directory.path().join("profile").display()))
        .arg(match screenshot {
            Some(path) => format!("--screenshot={}", path.display()),
            None => "--dump-dom".into(),
        })
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(output("dom"))
        .stderr(output("log"));
    let mut child = command.spawn().unwrap();
    let given_up = Instant::now() + Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > given_up {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the browser does not come to an end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let read = |name: &str| {
        let bytes = std::fs::read(directory.path().join(name)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let log = read("log");
    if !status.success() {
        return Err(format!("{status}: {log}"));
    }
    let console = log.lines().filter(|line| line.contains("CONSOLE")).map(String::from).collect();
    Ok(Seen { dom: read("dom"), console })
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

/// Every element of a document as the browser writes it: its name, its attributes.
fn elements(dom: &str) -> Vec<(String, Vec<(String, String)>)> {
    let name_of = |text: &str| -> String {
        text.chars().take_while(|char| !" \t\n\"'<>/=".contains(*char)).collect()
    };
    let mut found = Vec::new();
    // The style is text, too, and the only one in which `<` and `>` would stand for themselves.
    let (head, rest) = dom.split_once("<style>").unwrap_or(("", dom));
    let (_, rest) = rest.split_once("</style>").unwrap_or(("", rest));
    for mut rest in [head, rest] {
        while let Some((_, after)) = rest.split_once('<') {
            rest = after;
            let element = name_of(rest);
            rest = &rest[element.len()..];
            let mut attributes = Vec::new();
            loop {
                rest = rest.trim_start();
                let name = name_of(rest);
                if name.is_empty() {
                    break;
                }
                rest = &rest[name.len()..];
                let value = rest.strip_prefix("=\"").and_then(|value| value.split_once('"'));
                let Some((value, after)) = value else { break };
                attributes.push((name, value.to_owned()));
                rest = after;
            }
            found.push((element, attributes));
        }
    }
    found
}

const ELEMENTS: &str = " html head meta title style body main header section figure figcaption \
                        footer div p h1 h2 b strong span cite code pre ol ul li table thead tbody \
                        tr th td details summary svg g a text path line rect circle ";

/// What has to be in the page of a picture, whatever is in the picture.
fn check(name: &str, picture: &Picture, seen: &Seen) {
    assert!(seen.console.is_empty(), "{name}: {:#?}", seen.console);
    let dom = &seen.dom;
    let elements = elements(dom);
    for (element, attributes) in &elements {
        let known = element.is_empty() || ELEMENTS.contains(&format!(" {element} "));
        assert!(known || element.starts_with('!'), "{name}: an element {element}: {dom}");
        for (attribute, value) in attributes {
            assert!(!attribute.starts_with("on"), "{name}: {element} {attribute}={value}");
            assert!(attribute != "href" || value.starts_with('#'), "{name}: a link to {value}");
        }
    }
    for one in ["<main>", "<h1>", "<title>", "</footer>"] {
        assert!(dom.contains(one), "{name}: {one}: {dom}");
    }
    // Every drawn edge has its explanation, in the words and where it is pointed at; so has every
    // transaction.
    let of_class = |class: &str| {
        let is = |(_, value): &(String, String)| value.split(' ').any(|one| one == class);
        elements.iter().filter(|(_, attributes)| attributes.iter().any(is)).count()
    };
    let drawn = count(dom, "<tr id=\"transaction-");
    assert_eq!(count(dom, "class=\"detail-e"), count(dom, "<li id=\"edge-"), "{name}");
    if !picture.edges.is_empty() {
        assert_eq!(count(dom, "class=\"detail-t"), drawn, "{name}");
        assert!(of_class("edge") > 0 && of_class("node") >= drawn, "{name}");
    }
    let all = picture.transactions.len();
    assert!(drawn == all || drawn >= 23 && dom.contains("Not shown: "), "{name}: {drawn} of {all}");
}

#[test]
fn pages_open_in_a_real_browser_without_complaints() {
    let Some(browser) = browser() else { return };
    // What is looked for would be found: a script, which the page's policy forbids.
    let page = samples::write_skew().html().replace("</main>", "<script>1</script></main>");
    match open(&browser, &page, None) {
        Ok(seen) => assert!(!seen.console.is_empty(), "a script went unnoticed: {}", seen.dom),
        // It may be there and unable to run: no permission for its sandbox, a limit on its memory.
        Err(why) if std::env::var_os("ISOLITH_BROWSER").is_none() => {
            eprintln!("SKIPPED: {} does not start here: {why}", browser.display());
            return;
        }
        Err(why) => panic!("{why}"),
    }
    let everyday = ["cycle-of-200", "hostile"];
    let longer = std::env::var_os("ISOLITH_EFFORT").is_some();
    for (name, picture) in samples::all() {
        let page = picture.html();
        let kept = keep(&format!("{name}.html"), &page);
        if longer || kept.is_some() || everyday.contains(&name) {
            check(name, &picture, &open(&browser, &page, None).unwrap());
        }
        if let Some(kept) = kept {
            open(&browser, &page, Some(&kept.with_extension("png"))).unwrap();
        }
    }
}

#[test]
fn elements_that_users_smuggle_in_are_seen() {
    let seen = elements("<p class=\"a <b>\" id=\"x\">&lt;i&gt;<img src=\"x\" onerror=\"1\"></p>");
    let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["p", "img", ""]);
    assert_eq!(seen[0].1[0], ("class".into(), "a <b>".into()));
    assert_eq!(seen[1].1[1].0, "onerror");
}

#[test]
fn a_page_is_one_file_and_asks_for_nothing() {
    for (name, picture) in samples::all() {
        let page = picture.html();
        for forbidden in ["http://", "https://", "url(", "@import", "src=\"", "<link", "<script"] {
            assert!(!page.contains(forbidden), "{name}: {forbidden}");
        }
        assert!(page.contains("default-src 'none'"), "{name}");
        // Where one may be pointed to there is something.
        let targets = page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next());
        for target in targets {
            assert!(page.contains(&format!("id=\"{target}\"")), "{name}: {target}");
        }
    }
}

/// The modules `replayed` above are these texts: so the tests that they hold run with this one, and
/// what is written is what runs.
#[test]
fn a_picture_becomes_a_test_that_runs() {
    let replayed = Path::new(env!("CARGO_MANIFEST_DIR")).join("replayed");
    let samples = [
        ("write_skew", samples::write_skew()),
        ("lost_update", samples::wounded()),
        ("every_operation", samples::every_operation()),
    ];
    for (name, picture) in samples {
        let source = picture.rust_test().unwrap();
        keep(&format!("{name}.rs"), &source);
        let stored = std::fs::read_to_string(replayed.join(format!("{name}.rs"))).unwrap();
        assert!(source == stored, "tests/replayed/{name}.rs is not what is written now:\n{source}");
    }
}

/// The scenarios of the catalogue, each by some schedule at each level under some control, as a crate
/// of tests: what a picture says happens again. It takes a build, so it is not of every day.
#[test]
fn pictures_of_the_catalogue_become_tests_that_run() {
    if std::env::var_os("ISOLITH_EFFORT").is_none() {
        eprintln!(
            "SKIPPED: the catalogue as Rust tests, which takes a build; ISOLITH_EFFORT=1 runs it"
        );
        return;
    }
    let controls = [
        (Concurrency::Optimistic, false),
        (Concurrency::Locking(DeadlockPolicy::WoundWait), false),
        (Concurrency::Locking(DeadlockPolicy::WaitDie), false),
        (Concurrency::Locking(DeadlockPolicy::Detect(Victim::Youngest)), false),
        (Concurrency::Auto, true),
    ];
    let mut target = Embedded::new().unwrap();
    let mut sources = Vec::new();
    let mut dice = Dice::new(7);
    for scenario in catalogue::all() {
        let judge = Judge::of(&scenario);
        for isolation in Isolation::ALL {
            let (concurrency, hot) = *dice.pick(&controls);
            let sessions = scenario.sessions.len();
            let terms = vec![Terms { isolation, concurrency }; sessions];
            let staging = Staging { hot, fine: dice.is(1, 2), ..Staging::new(terms) };
            let moves: Vec<usize> = (0..40).map(|_| dice.below(sessions)).collect();
            let mut player = Player::new(&scenario, &staging, &mut target);
            let (run, played) = player.play(&mut Given::new(&moves));
            played.unwrap();
            let judged = judge.judge(&run, &staging);
            let picture = drawing::draw(&scenario, &staging, &run, &judged, None, Vec::new());
            let source = picture.rust_test();
            let name = &scenario.name;
            sources.push(
                source.unwrap_or_else(|why| panic!("{name} at {isolation} {concurrency}: {why}")),
            );
        }
    }
    run_as_a_crate(&sources);
}

/// Builds and runs tests as a crate of their own, which knows nothing of this workspace but where the
/// engine is.
fn run_as_a_crate(sources: &[String]) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(scratch.path().join(name), text).unwrap();
    let mut all = String::from("//! Written by a test.\n");
    for (number, source) in sources.iter().enumerate() {
        write(&format!("replayed_{number}.rs"), source);
        all.push_str(&format!("mod replayed_{number};\n"));
    }
    write("all.rs", &all);
    write("lib.rs", "//! Nothing.\n");
    let engine = workspace.join("engine");
    write(
        "Cargo.toml",
        &format!(
            "[package]\nname = \"replayed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
             [lib]\npath = \"lib.rs\"\n[[test]]\nname = \"all\"\npath = \"all.rs\"\n[workspace]\n\
             [dependencies]\nisolith = {{ path = {:?} }}\n\
             [profile.dev]\nopt-level = 1\ndebug = \"line-tables-only\"\n",
            engine.display().to_string()
        ),
    );
    std::fs::copy(workspace.join("Cargo.lock"), scratch.path().join("Cargo.lock")).unwrap();
    // Beside the workspace's own output, so that what is built already is not built again.
    let target = std::env::current_exe().unwrap();
    let target = target.ancestors().nth(3).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--quiet", "--test", "all"])
        .current_dir(scratch.path())
        .env("CARGO_TARGET_DIR", target)
        .output()
        .unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    assert!(said.contains(&format!("{} passed", sources.len())), "{said}");
    assert!(!complained.contains("warning"), "{complained}");
}
