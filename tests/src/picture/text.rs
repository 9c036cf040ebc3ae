//! Bytes that anybody may have chosen, as text that can do no harm: nothing in it moves a cursor,
//! changes a direction or hides; and text of a known width.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Characters of a key or a value where there is little room.
pub const SHORT_MAX: usize = 24;
/// The same where there is room.
pub const LONG_MAX: usize = 200;

/// Bytes for people: as they are where they are harmless text, else quoted, with escapes. What is
/// longer than `chars_max` characters is cut, and says how many bytes it had.
pub fn shown(bytes: &[u8], chars_max: usize) -> String {
    // No character takes more than four bytes: nothing beyond these can be shown.
    let looked_at = &bytes[..bytes.len().min(chars_max.saturating_mul(4))];
    let mut text = String::new();
    let mut quote = bytes.is_empty()
        || looked_at.first().is_some_and(u8::is_ascii_whitespace)
        || looked_at.last().is_some_and(u8::is_ascii_whitespace);
    let mut chars = 0;
    let mut cut = bytes.len() > looked_at.len();
    'all: for chunk in looked_at.utf8_chunks() {
        for char in chunk.valid().chars() {
            if chars == chars_max {
                cut = true;
                break 'all;
            }
            chars += 1;
            quote |= push(&mut text, char);
        }
        for byte in chunk.invalid() {
            if chars == chars_max {
                cut = true;
                break 'all;
            }
            chars += 1;
            quote = true;
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    let cut = if cut { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    if quote { format!("\"{text}\"{cut}") } else { format!("{text}{cut}") }
}

/// Text that somebody else wrote (a name, a message) without what could do harm.
pub fn harmless(text: &str) -> String {
    let mut clean = String::new();
    for char in text.chars() {
        match char {
            '\\' | '"' => clean.push(char),
            _ => {
                push(&mut clean, char);
            }
        }
    }
    clean
}

/// Adds a character; whether it had to be escaped.
fn push(text: &mut String, char: char) -> bool {
    match char {
        '"' | '\\' => {
            text.push('\\');
            text.push(char);
        }
        '\n' => text.push_str("\\n"),
        '\t' => text.push_str("\\t"),
        _ if hides(char) => text.extend(char.escape_unicode()),
        _ => {
            text.push(char);
            return false;
        }
    }
    true
}

/// Whether a character is not seen, or changes how others are seen.
fn hides(char: char) -> bool {
    char.is_control()
        || char.width().unwrap_or(0) == 0
        || (char.is_whitespace() && char != ' ')
        // Private use: whatever a font makes of it.
        || matches!(char, '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..)
}

/// Columns that text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Text cut to so many columns.
pub fn cut(text: &str, columns: usize, ellipsis: &str) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut kept = String::new();
    for char in text.chars() {
        if width(&kept) + char.width().unwrap_or(0) > room {
            break;
        }
        kept.push(char);
    }
    // Where there is no room even for the ellipsis, there is none for anything.
    if width(ellipsis) <= columns { kept + ellipsis } else { String::new() }
}

/// Text in lines of so many columns at most, broken at spaces where there are any.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(1);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if !line.is_empty() && width(&line) + 1 + width(&word) > columns {
            lines.push(std::mem::take(&mut line));
        }
        while width(&word) > columns {
            let head = cut(&word, columns, "");
            if head.is_empty() {
                break;
            }
            word = word[head.len()..].to_owned();
            lines.push(head);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines
}

/// A number with commas: `12,345`.
pub fn counted(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_is_and_everything_else_escaped() {
        let cases: [(&[u8], &str); 11] = [
            (b"x", "x"),
            (b"", "\"\""),
            (b"[1 2 3]", "[1 2 3]"),
            (b" x", "\" x\""),
            (b"a\"b", "\"a\\\"b\""),
            (b"a\\b", "\"a\\\\b\""),
            (b"\x1b[31m", "\"\\u{1b}[31m\""),
            (b"a\xffb", "\"a\\xffb\""),
            ("a\u{202e}b".as_bytes(), "\"a\\u{202e}b\""),
            ("zero\u{200b}width".as_bytes(), "\"zero\\u{200b}width\""),
            ("Größe 大".as_bytes(), "Größe 大"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(shown(bytes, 40), expected);
        }
    }

    #[test]
    fn long_values_are_cut_wherever_the_cut_falls() {
        assert_eq!(shown(b"abcdef", 3), "abc… (6 bytes)");
        assert_eq!(shown(b"abc", 3), "abc");
        assert_eq!(shown(&vec![b'x'; 1 << 20], 4), "xxxx… (1048576 bytes)");
        for length in 0..40 {
            let bytes = &"大ß\u{1f600}x".repeat(9).into_bytes()[..length];
            for max in 0..12 {
                // Whatever is cut in the middle of a character is shown as bytes.
                let text = shown(bytes, max);
                assert!(!text.is_empty(), "{length} {max}");
            }
        }
    }

    #[test]
    fn text_is_cut_and_wrapped_by_columns() {
        assert_eq!(cut("abcdef", 4, "…"), "abc…");
        assert_eq!(cut("大大大", 4, "…"), "大…");
        assert_eq!(cut("abc", 0, "…"), "");
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefgh", 3), ["abc", "def", "gh"]);
        assert_eq!(wrap("大大", 1), ["大大"], "what fits nowhere is left whole");
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(counted(1_234_567), "1,234,567");
        assert_eq!(counted(12), "12");
    }
}
