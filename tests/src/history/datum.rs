//! What JSON and EDN have in common: a value, as it stood in a file.
//!
//! Histories use few of these, but a reader that stumbles over the rest is of no use to anybody who
//! has a history from somewhere else. Equality is by kind and text: `1`, `1.0` and `"1"` differ.

use std::fmt::{self, Write};

/// A value of a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Datum {
    /// `nil`, `null`.
    Nil,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// Any other number, as it was written: a fraction, a ratio, a decimal, more than 64 bits.
    Number(String),
    /// A string.
    Text(String),
    /// A character of EDN.
    Character(char),
    /// A keyword of EDN, without its colon.
    Keyword(String),
    /// A symbol of EDN.
    Symbol(String),
    /// `(…)`
    List(Vec<Datum>),
    /// `[…]`
    Vector(Vec<Datum>),
    /// `#{…}`
    Set(Vec<Datum>),
    /// `{…}`, in the order of the file.
    Map(Vec<(Datum, Datum)>),
    /// `#tag …`, but not records: those are maps.
    Tagged(String, Box<Datum>),
}

impl Datum {
    /// A keyword, string or symbol: the ways in which histories write names.
    pub fn name(&self) -> Option<&str> {
        match self {
            Datum::Text(name) | Datum::Keyword(name) | Datum::Symbol(name) => Some(name),
            _ => None,
        }
    }

    /// A whole number.
    pub fn int(&self) -> Option<i64> {
        match self {
            Datum::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements of a list, vector or set.
    pub fn elements(&self) -> Option<&[Datum]> {
        match self {
            Datum::List(elements) | Datum::Vector(elements) | Datum::Set(elements) => {
                Some(elements)
            }
            _ => None,
        }
    }

    /// The entries of a map.
    pub fn entries(&self) -> Option<&[(Datum, Datum)]> {
        match self {
            Datum::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// What it is, for an error.
    pub fn kind(&self) -> &'static str {
        match self {
            Datum::Nil => "nil",
            Datum::Bool(_) => "a truth value",
            Datum::Int(_) => "a whole number",
            Datum::Number(_) => "a number that is not whole, or of more than 64 bits",
            Datum::Text(_) => "a string",
            Datum::Character(_) => "a character",
            Datum::Keyword(_) => "a keyword",
            Datum::Symbol(_) => "a symbol",
            Datum::List(_) | Datum::Vector(_) => "a list",
            Datum::Set(_) => "a set",
            Datum::Map(_) => "a map",
            Datum::Tagged(..) => "a tagged literal",
        }
    }

    /// Writes it as JSON. Keywords, symbols and characters become strings, sets arrays, tags go; a
    /// map's keys become strings, and numbers that JSON does not have become strings, too.
    pub fn write_json(&self, to: &mut String) {
        match self {
            Datum::Nil => to.push_str("null"),
            Datum::Bool(truth) => to.push_str(if *truth { "true" } else { "false" }),
            Datum::Int(number) => {
                let _ = write!(to, "{number}");
            }
            Datum::Number(text) if is_json_number(text) => to.push_str(text),
            Datum::Number(text)
            | Datum::Text(text)
            | Datum::Keyword(text)
            | Datum::Symbol(text) => write_json_string(text, to),
            Datum::Character(letter) => write_json_string(letter.encode_utf8(&mut [0; 4]), to),
            Datum::List(elements) | Datum::Vector(elements) | Datum::Set(elements) => {
                to.push('[');
                for (place, element) in elements.iter().enumerate() {
                    if place > 0 {
                        to.push(',');
                    }
                    element.write_json(to);
                }
                to.push(']');
            }
            Datum::Map(entries) => write_json_map(entries, to),
            Datum::Tagged(_, datum) => datum.write_json(to),
        }
    }

    /// Writes it as EDN: what is read from it is the same again.
    pub fn write_edn(&self, to: &mut String) {
        match self {
            Datum::Nil => to.push_str("nil"),
            Datum::Bool(truth) => to.push_str(if *truth { "true" } else { "false" }),
            Datum::Int(number) => {
                let _ = write!(to, "{number}");
            }
            Datum::Number(text) | Datum::Symbol(text) => to.push_str(text),
            Datum::Text(text) => write_edn_string(text, to),
            Datum::Character(letter) => write_edn_character(*letter, to),
            Datum::Keyword(name) => {
                to.push(':');
                to.push_str(name);
            }
            Datum::List(elements) => write_edn_elements("(", elements, ")", to),
            Datum::Vector(elements) => write_edn_elements("[", elements, "]", to),
            Datum::Set(elements) => write_edn_elements("#{", elements, "}", to),
            Datum::Map(entries) => {
                to.push('{');
                for (place, (key, value)) in entries.iter().enumerate() {
                    if place > 0 {
                        to.push_str(", ");
                    }
                    key.write_edn(to);
                    to.push(' ');
                    value.write_edn(to);
                }
                to.push('}');
            }
            Datum::Tagged(tag, datum) => {
                to.push('#');
                to.push_str(tag);
                to.push(' ');
                datum.write_edn(to);
            }
        }
    }
}

/// As EDN.
impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write_edn(&mut text);
        f.write_str(&text)
    }
}

fn write_json_map(entries: &[(Datum, Datum)], to: &mut String) {
    to.push('{');
    for (place, (key, value)) in entries.iter().enumerate() {
        if place > 0 {
            to.push(',');
        }
        match key.name() {
            Some(name) => write_json_string(name, to),
            None => {
                let mut text = String::new();
                key.write_json(&mut text);
                // A string already, or the text of something else.
                if text.starts_with('"') {
                    to.push_str(&text)
                } else {
                    write_json_string(&text, to)
                }
            }
        }
        to.push(':');
        value.write_json(to);
    }
    to.push('}');
}

/// A string of JSON, in its quotes.
pub(crate) fn write_json_string(text: &str, to: &mut String) {
    to.push('"');
    for letter in text.chars() {
        match letter {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(to, "\\u{:04x}", u32::from(control));
            }
            letter => to.push(letter),
        }
    }
    to.push('"');
}

fn write_edn_string(text: &str, to: &mut String) {
    to.push('"');
    for letter in text.chars() {
        match letter {
            '"' => to.push_str("\\\""),
            '\\' => to.push_str("\\\\"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            '\t' => to.push_str("\\t"),
            letter => to.push(letter),
        }
    }
    to.push('"');
}

fn write_edn_character(letter: char, to: &mut String) {
    to.push('\\');
    match letter {
        '\n' => to.push_str("newline"),
        '\r' => to.push_str("return"),
        '\t' => to.push_str("tab"),
        ' ' => to.push_str("space"),
        letter if letter.is_control() || letter.is_whitespace() => {
            let _ = write!(to, "u{:04x}", u32::from(letter));
        }
        letter => to.push(letter),
    }
}

fn write_edn_elements(open: &str, elements: &[Datum], close: &str, to: &mut String) {
    to.push_str(open);
    for (place, element) in elements.iter().enumerate() {
        if place > 0 {
            to.push(' ');
        }
        element.write_edn(to);
    }
    to.push_str(close);
}

/// Whether JSON has this number: digits, perhaps a fraction and an exponent.
fn is_json_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.trim_start_matches(['+', '-'])))
}
