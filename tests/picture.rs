//! Pictures of anomalies, looked at the way their readers do: on a terminal, in a real browser, and
//! as tests that run.
//!
//! `ISOLITH_PICTURES=directory` keeps what was drawn.

use std::path::PathBuf;

use isolith_testkit::picture::samples;
use isolith_testkit::picture::terminal::Style;

/// Where to keep what is drawn, if somebody wants to look at it.
#[expect(clippy::disallowed_methods, reason = "pictures are files for people, not the engine's")]
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
