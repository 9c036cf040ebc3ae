//! Tables: columns that line up on a terminal, and the same as JSON for programs.
//!
//! ```
//! use isolith_testkit::picture::table::{Cell, Table};
//! use isolith_testkit::picture::terminal::Style;
//!
//! let mut table = Table::new(&["phenomenon", "snapshot", "serializable"]);
//! table.row(vec!["G2-item".into(), Cell::new("12/70").warns(), Cell::new("0/70").fine()]);
//! assert_eq!(table.text(&Style::plain()).lines().last(), Some("G2-item     12/70     0/70"));
//! assert_eq!(table.json(), r#"[{"phenomenon":"G2-item","snapshot":"12/70","serializable":"0/70"}]"#);
//! ```

use std::fmt::Write as _;

use super::terminal::Style;
use super::text::{cut, harmless, width};

/// A table: heads, and rows of cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    heads: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Row {
    Cells(Vec<Cell>),
    /// A heading between rows, which the JSON has as a field of the rows that follow.
    Section(String),
}

/// What a cell says and how it is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    /// What a program gets, as JSON; the text if this is none.
    json: Option<String>,
    tone: Tone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Tone {
    #[default]
    Plain,
    Fine,
    Warns,
    Bad,
    Faint,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Cell {
        Cell::new(text)
    }
}

impl Cell {
    /// A cell of text.
    pub fn new(text: impl Into<String>) -> Cell {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// A number, which is one in the JSON, too.
    pub fn number(number: u64) -> Cell {
        Cell { json: Some(number.to_string()), ..Cell::new(super::text::counted(number)) }
    }

    /// The same, with what a program gets instead: a value that is JSON already.
    pub fn with_json(self, json: impl Into<String>) -> Cell {
        Cell { json: Some(json.into()), ..self }
    }

    /// As it should be.
    pub fn fine(self) -> Cell {
        Cell { tone: Tone::Fine, ..self }
    }

    /// Worth a look.
    pub fn warns(self) -> Cell {
        Cell { tone: Tone::Warns, ..self }
    }

    /// As it must not be.
    pub fn bad(self) -> Cell {
        Cell { tone: Tone::Bad, ..self }
    }

    /// Of little interest.
    pub fn faint(self) -> Cell {
        Cell { tone: Tone::Faint, ..self }
    }

    fn sgr(&self) -> &'static str {
        match self.tone {
            Tone::Plain => "",
            Tone::Fine => "32",
            Tone::Warns => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        }
    }
}

impl Table {
    /// A table with these columns; their names are the fields of the JSON, too.
    pub fn new(heads: &[&str]) -> Table {
        Table { heads: heads.iter().map(|head| head.to_string()).collect(), rows: Vec::new() }
    }

    /// Adds a row. Cells that are missing are empty, those beyond the columns are left out.
    pub fn row(&mut self, mut cells: Vec<Cell>) {
        cells.resize(self.heads.len(), Cell::default());
        self.rows.push(Row::Cells(cells));
    }

    /// Adds a heading: what the rows below it have in common.
    pub fn section(&mut self, name: impl Into<String>) {
        self.rows.push(Row::Section(name.into()));
    }

    /// As text, without a line that is wider than the terminal: the widest columns are cut.
    pub fn text(&self, style: &Style) -> String {
        let widths = self.widths(style.width);
        let mut text = String::new();
        let heads: Vec<(String, &str)> =
            self.heads.iter().map(|head| (harmless(head), "1")).collect();
        line(&mut text, style, &widths, &heads);
        let rule = widths.iter().map(|width| (style.glyph("─", "-").repeat(*width), "2"));
        line(&mut text, style, &widths, &rule.collect::<Vec<_>>());
        for row in &self.rows {
            match row {
                Row::Section(name) => {
                    let name = cut(&harmless(name), style.width, style.glyph("…", "~"));
                    let _ = writeln!(text, "{}", style.paint("1", &name));
                }
                Row::Cells(cells) => {
                    let cells: Vec<_> =
                        cells.iter().map(|cell| (harmless(&cell.text), cell.sgr())).collect();
                    line(&mut text, style, &widths, &cells);
                }
            }
        }
        text
    }

    /// As one line of JSON: an array with an object for each row.
    pub fn json(&self) -> String {
        let mut section = None;
        let mut rows = Vec::new();
        for row in &self.rows {
            match row {
                Row::Section(name) => section = Some(name),
                Row::Cells(cells) => {
                    let mut fields = Vec::new();
                    fields.extend(section.map(|name| ("section", quoted(name))));
                    for (head, cell) in self.heads.iter().zip(cells) {
                        let value = cell.json.clone().unwrap_or_else(|| quoted(&cell.text));
                        fields.push((head.as_str(), value));
                    }
                    let fields = fields.iter().map(|(name, value)| {
                        let name = quoted(name);
                        format!("{name}:{value}")
                    });
                    rows.push(format!("{{{}}}", fields.collect::<Vec<_>>().join(",")));
                }
            }
        }
        format!("[{}]", rows.join(","))
    }

    /// The widths of the columns: what they need, or less where the terminal has less.
    fn widths(&self, columns: usize) -> Vec<usize> {
        let mut widths: Vec<usize> = self.heads.iter().map(|head| width(&harmless(head))).collect();
        for row in &self.rows {
            let Row::Cells(cells) = row else { continue };
            for (widest, cell) in widths.iter_mut().zip(cells) {
                *widest = (*widest).max(width(&harmless(&cell.text)));
            }
        }
        let between = 2 * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + between > columns {
            match widths.iter_mut().max() {
                Some(widest) if *widest > 4 => *widest -= 1,
                _ => break,
            }
        }
        widths
    }
}

fn line(text: &mut String, style: &Style, widths: &[usize], cells: &[(String, &str)]) {
    let mut line = String::new();
    for (place, ((cell, sgr), columns)) in cells.iter().zip(widths).enumerate() {
        let kept = cut(cell, *columns, style.glyph("…", "~"));
        let blank = " ".repeat(columns - width(&kept));
        if place > 0 {
            line.push_str("  ");
        }
        let _ = write!(line, "{}{blank}", style.paint(sgr, &kept));
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

/// Text as JSON.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(char);
            }
            '\n' => quoted.push_str("\\n"),
            _ if char.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", char as u32);
            }
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["name", "rate"]);
        table.section("read-committed");
        table.row(vec!["fuzzy read".into(), Cell::number(12_345).bad()]);
        table.row(vec!["\"quoted\" \u{1b}[2J".into()]);
        table
    }

    #[test]
    fn columns_line_up_and_are_cut_where_there_is_no_room() {
        let style = Style { width: 40, unicode: true, colour: false };
        let expected = "\
name                rate
──────────────────  ──────
read-committed
fuzzy read          12,345
\"quoted\" \\u{1b}[2J
";
        assert_eq!(sample().text(&style), expected);
        for columns in 1..40 {
            for line in sample().text(&Style { width: columns, ..style }).lines() {
                assert!(width(line) <= columns.max(10), "{columns}: {line}");
            }
        }
    }

    #[test]
    fn programs_get_rows_as_objects() {
        let expected = "[{\"section\":\"read-committed\",\"name\":\"fuzzy read\",\"rate\":12345},\
                        {\"section\":\"read-committed\",\"name\":\"\\\"quoted\\\" \\u001b[2J\",\
                        \"rate\":\"\"}]";
        assert_eq!(sample().json(), expected);
        assert_eq!(Table::new(&["a"]).json(), "[]");
    }

    #[test]
    fn colours_come_only_when_asked_for() {
        let plain = sample().text(&Style::plain());
        let coloured = sample().text(&Style { colour: true, ..Style::plain() });
        assert!(!plain.contains('\u{1b}'));
        assert!(coloured.contains("\u{1b}[1;31m12,345\u{1b}[0m"));
    }
}
