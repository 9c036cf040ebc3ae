//! The picture on a terminal: lanes side by side with time going down, then the edges, then the
//! account. Where the lanes do not fit beside each other they become one list.
//!
//! What is printed depends on the [`Style`] alone: the caller looks at the terminal, or does not.

use std::env;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use super::selection::Selection;
use super::text::{counted, cut, harmless, shown, width, wrap};
use super::words::Told;
use super::{EdgeKind, Event, Operation, Outcome, Picture};

/// Columns that a lane needs.
const LANE_MIN: usize = 20;
/// Columns that it gets at most.
const LANE_MAX: usize = 44;
/// Columns for the number of an event.
const NUMBER: usize = 5;
/// Columns where nobody says how many there are.
const WIDTH_DEFAULT: usize = 100;

/// How text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns that a line may take.
    pub width: usize,
    /// Whether lines may be drawn with more than ASCII. What users wrote is never changed by this.
    pub unicode: bool,
    /// Whether to use colours.
    pub colour: bool,
}

impl Style {
    /// For a file, a pipe, or somebody who said nothing.
    pub fn plain() -> Style {
        Style { width: WIDTH_DEFAULT, unicode: true, colour: false }
    }

    /// For standard output as it is: its width, its character set, and colours on a terminal that
    /// has not asked for none (`NO_COLOR`, `TERM=dumb`).
    pub fn of_stdout() -> Style {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        let columns = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col);
        let variable = |name: &str| env::var(name).ok();
        Style::of(terminal, columns.map(usize::from), &variable)
    }

    fn of(
        terminal: bool,
        columns: Option<usize>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Style {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let told = set("COLUMNS").and_then(|columns| columns.parse().ok());
        let columns = columns.filter(|columns| *columns > 0).or(told).unwrap_or(WIDTH_DEFAULT);
        let charset = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        // A pipe leads to a file or a program that reads UTF-8, unless somebody says otherwise.
        let unicode = match charset.map(|charset| charset.to_ascii_uppercase()) {
            Some(charset) => charset.contains("UTF-8") || charset.contains("UTF8"),
            None => !terminal,
        };
        let dumb = variable("TERM").is_some_and(|term| term == "dumb");
        Style { width: columns, unicode, colour: terminal && !dumb && set("NO_COLOR").is_none() }
    }

    /// Text in a colour (an SGR number), or as it is.
    pub fn paint(&self, sgr: &str, text: &str) -> String {
        let plain = !self.colour || sgr.is_empty() || text.is_empty();
        if plain { text.to_owned() } else { format!("\x1b[{sgr}m{text}\x1b[0m") }
    }

    /// The first if more than ASCII may be used, else the second.
    pub fn glyph(&self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }
}

/// The colour of a kind of edge.
fn colour(kind: EdgeKind) -> &'static str {
    match kind {
        EdgeKind::WriteWrite => "35",
        EdgeKind::WriteRead | EdgeKind::PredicateWriteRead => "32",
        EdgeKind::ReadWrite | EdgeKind::PredicateReadWrite => "31",
        EdgeKind::Process => "36",
        EdgeKind::RealTime => "34",
    }
}

impl Picture {
    /// The whole picture as text.
    pub fn text(&self, style: &Style) -> String {
        let selection = Selection::of(self);
        let mut text = String::new();
        for line in wrap(&self.title(), style.width) {
            let _ = writeln!(text, "{}", style.paint("1", &line));
        }
        if !self.anomaly.definition.is_empty() {
            let source = match harmless(&self.anomaly.source) {
                source if source.is_empty() => String::new(),
                source => format!(" ({source})"),
            };
            let definition = harmless(&self.anomaly.definition);
            paragraph(&mut text, style, "", &format!("{definition}{source}"));
        }
        text.push('\n');
        self.text_initial(&mut text, style);
        if let Some(protection) = self.protection_of_all() {
            paragraph(&mut text, style, "", &format!("All transactions: {protection}."));
        }
        if selection.lanes.len() * LANE_MIN + NUMBER <= style.width {
            self.text_lanes(&mut text, style, &selection);
        } else {
            self.text_list(&mut text, style, &selection);
        }
        if let Some(note) = selection.note(self) {
            paragraph(&mut text, style, "", &note);
            text.push('\n');
        }
        self.text_account(&mut text, style);
        for command in &self.replay {
            let _ = writeln!(text, "{} {}", style.glyph("↻", "$"), harmless(command));
        }
        // Whoever has no more than ASCII gets it whatever the words are made of.
        if style.unicode { text } else { ascii(&text) }
    }

    fn text_initial(&self, text: &mut String, style: &Style) {
        if self.initial.is_empty() {
            return;
        }
        let pair = |(key, value): &(Vec<u8>, Vec<u8>)| {
            format!("{} = {}{}", shown(key, 24), shown(value, 24), self.lasting(key))
        };
        let mut pairs: Vec<String> = self.initial.iter().take(12).map(pair).collect();
        if self.initial.len() > 12 {
            pairs.push(format!("{} more", counted(self.initial.len() as u64 - 12)));
        }
        paragraph(text, style, "", &format!("At first: {}.", pairs.join(", ")));
    }

    fn text_lanes(&self, text: &mut String, style: &Style, selection: &Selection) {
        let lanes = &selection.lanes;
        let each = ((style.width - NUMBER) / lanes.len().max(1)).min(LANE_MAX);
        let ellipsis = style.glyph("…", "~");
        let cell = |text: &str| {
            let kept = cut(text, each - 1, ellipsis);
            let blank = each - width(&kept);
            (kept, " ".repeat(blank))
        };
        let mut heads = " ".repeat(NUMBER);
        for lane in lanes {
            let name = self.lanes.get(*lane).map_or(String::new(), |lane| harmless(&lane.name));
            let (name, blank) = cell(&name);
            let _ = write!(heads, "{}{blank}", style.paint("1;4", &name));
        }
        let _ = writeln!(text, "{}", heads.trim_end());
        for (number, place) in selection.events.iter().enumerate() {
            let event = &self.events[*place];
            let mut line = style.paint("2", &format!("{:>3}  ", number + 1));
            let Some(transaction) = event.transaction else {
                let _ = writeln!(text, "{line}{}", style.paint("2", &decides(style, each)));
                continue;
            };
            let own = self.transactions.get(transaction).map(|known| known.lane);
            for lane in lanes {
                if Some(*lane) == own {
                    let (kept, blank) = cell(&self.cell(style, event, transaction));
                    let _ = write!(line, "{}{blank}", style.paint(event_colour(event), &kept));
                } else {
                    let alive = selection.alive(self, *lane, *place);
                    let (kept, blank) = cell(if alive { style.glyph("│", "|") } else { "" });
                    let _ = write!(line, "{}{blank}", style.paint("2", &kept));
                }
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text.push('\n');
    }

    /// An event as it stands in its lane.
    fn cell(&self, style: &Style, event: &Event, transaction: usize) -> String {
        let mark = match (&event.outcome, &event.operation) {
            (Outcome::Refused { .. }, _) => style.glyph("✗", "x"),
            (Outcome::Waits(_), _) => style.glyph("┊", ":"),
            (_, Operation::Begin) => style.glyph("┌", "+"),
            (_, Operation::Commit) => style.glyph("●", "*"),
            (_, Operation::Rollback) => style.glyph("○", "o"),
            _ => style.glyph("├", "|"),
        };
        match event.operation {
            Operation::Begin => {
                let protection = match self.protection_of_all() {
                    Some(_) => String::new(),
                    None => self.protection(transaction),
                };
                let comma = if protection.is_empty() { " begins" } else { ": " };
                format!("{mark} {}{comma}{protection}", self.name(transaction))
            }
            _ => format!("{mark} {}", self.label(event)),
        }
    }

    fn text_list(&self, text: &mut String, style: &Style, selection: &Selection) {
        for (number, place) in selection.events.iter().enumerate() {
            let event = &self.events[*place];
            let sentence = self.sentence(event);
            let head = format!("{:>3}  ", number + 1);
            paragraph(text, style, &head, &sentence);
        }
        text.push('\n');
    }

    fn text_account(&self, text: &mut String, style: &Style) {
        let told = self.told();
        let names = |edge: &usize| {
            let edge = &self.edges[*edge];
            (self.name(edge.from), self.name(edge.to), edge.kind, self.why(edge))
        };
        for one in &told {
            match one {
                Told::Gap(count) => {
                    let count = counted(*count as u64);
                    let dots = style.glyph("…", "...");
                    let _ = writeln!(text, "{dots} {count} more, each before the next {dots}");
                }
                Told::Edge(edge, last) => {
                    let (from, to, kind, why) = names(edge);
                    let (line, head) = (style.glyph("──", "--"), style.glyph("─▶", "->"));
                    let arrow =
                        style.paint(colour(kind), &format!("{line} {} {head}", kind.short()));
                    let however = if *last && told.len() > 1 { "however " } else { "" };
                    let _ = writeln!(text, "{from} {arrow} {to}");
                    let sentence = format!("{however}{from} before {to}, because {why}");
                    paragraph(text, style, "   ", &sentence);
                }
            }
        }
        let mut closing = Vec::new();
        if !told.is_empty() {
            closing.push("A contradiction: each of them would have to come before itself.".into());
        }
        closing.extend(self.remarks.iter().map(|remark| harmless(remark)));
        paragraph(text, style, "", &closing.join(" "));
        let verdict = self.verdict_sentence();
        let shade = match self.verdict {
            super::Verdict::Forbidden(_) => "1;31",
            super::Verdict::Allowed => "1;33",
            super::Verdict::Prevented(_) => "1;32",
        };
        for line in wrap(&verdict, style.width) {
            let _ = writeln!(text, "{}", style.paint(shade, &line));
        }
    }
}

/// The engine's own move.
fn decides(style: &Style, columns: usize) -> String {
    let words = " the engine decides ";
    let line = style.glyph("╌", "-").repeat(columns.saturating_sub(width(words)) / 2);
    format!("{line}{words}{line}")
}

fn event_colour(event: &Event) -> &'static str {
    match (&event.outcome, &event.operation) {
        (Outcome::Refused { .. }, _) => "31",
        (Outcome::Waits(_), _) => "33",
        (_, Operation::Begin) => "1",
        (_, Operation::Commit) => "32",
        _ => "",
    }
}

/// Text in lines, each below the first moved in as far as `head` is wide.
fn paragraph(text: &mut String, style: &Style, head: &str, words: &str) {
    if words.is_empty() {
        return;
    }
    let room = style.width.saturating_sub(width(head)).max(20);
    for (number, line) in wrap(words, room).iter().enumerate() {
        let blank = " ".repeat(width(head));
        let _ = writeln!(text, "{}{line}", if number == 0 { head } else { &blank });
    }
}

/// The few characters of our own sentences that are not ASCII, as such; and those of others as what
/// they are called.
fn ascii(text: &str) -> String {
    let mut plain = String::new();
    for char in text.chars() {
        match char {
            '…' => plain.push_str("..."),
            '“' | '”' => plain.push('"'),
            '’' => plain.push('\''),
            '–' | '—' => plain.push('-'),
            '→' => plain.push_str("->"),
            '\x1b' | '\n' => plain.push(char),
            _ if char.is_ascii() => plain.push(char),
            _ => plain.extend(char.escape_unicode()),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::samples;

    fn style(width: usize) -> Style {
        Style { width, unicode: true, colour: false }
    }

    #[test]
    fn a_write_skew_in_lanes() {
        let text = samples::write_skew().text(&style(100));
        assert!(text.starts_with("write skew (G2-item)\n"), "{text}");
        assert!(text.contains("├ read x = 1"), "{text}");
        assert!(
            text.contains("T1 ── rw ─▶ T2\n   T1 before T2, because T1 read y = 1, which T2"),
            "{text}"
        );
        assert!(
            text.contains("however T2 before T1, because T2 read x = 1, which T1 overwrote with 0"),
            "{text}"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_unless_it_is_a_command() {
        for (_, picture) in samples::all() {
            for columns in [24, 40, 80, 200] {
                let text = picture.text(&style(columns));
                for line in text.lines().filter(|line| !line.starts_with('↻')) {
                    let fits = width(line) <= columns || width(line) <= 60;
                    assert!(fits, "{columns}: {line}");
                }
            }
        }
    }

    #[test]
    fn ascii_alone_is_enough() {
        for (_, picture) in samples::all() {
            let text = picture.text(&Style { width: 80, unicode: false, colour: false });
            assert!(text.is_ascii(), "{text}");
        }
    }

    #[test]
    fn nobody_elses_text_reaches_the_terminal_as_commands() {
        let text = samples::hostile().text(&style(120));
        let harmless = text.chars().all(|char| char == '\n' || !char.is_control());
        assert!(harmless, "{text:?}");
    }

    #[test]
    fn a_terminal_that_wants_no_colour_gets_none() {
        let none = |_: &str| None;
        let of = |terminal, pairs: &'static [(&'static str, &'static str)]| {
            let variable = move |name: &str| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
            };
            Style::of(terminal, Some(70), &variable)
        };
        assert_eq!(Style::of(false, None, &none), Style::plain());
        assert_eq!(of(true, &[("LANG", "C.UTF-8")]).width, 70);
        assert!(of(true, &[("LANG", "C.UTF-8")]).colour);
        assert!(of(true, &[("LANG", "C.UTF-8")]).unicode);
        assert!(!of(true, &[("LANG", "C.UTF-8"), ("NO_COLOR", "1")]).colour);
        assert!(of(true, &[("NO_COLOR", "")]).colour, "set and empty is not set");
        assert!(!of(true, &[("TERM", "dumb")]).colour);
        assert!(!of(true, &[("LANG", "de_DE.ISO-8859-1")]).unicode);
        assert!(!of(true, &[("LC_ALL", "C"), ("LANG", "C.UTF-8")]).unicode);
        assert!(!of(false, &[]).colour);
    }
}
