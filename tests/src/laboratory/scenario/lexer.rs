//! One line of a scenario's text as words, numbers and signs, each with its column.

use super::{NAME_BYTES_MAX, ParseError};

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A word: a name, a key, a keyword.
    Word(String),
    /// A number without its sign.
    Number(i64),
    /// A sign.
    Sign(&'static str),
    /// The end of the line.
    End,
}

impl Token {
    /// For a message.
    pub(super) fn show(&self) -> String {
        match self {
            Token::Word(word) => format!("'{}'", word.escape_debug()),
            Token::Number(number) => format!("'{number}'"),
            Token::Sign(sign) => format!("'{sign}'"),
            Token::End => "the end of the line".into(),
        }
    }
}

/// Longer ones first, where one begins another.
const SIGNS: [&str; 17] =
    ["..=", "..", "==", "!=", "<=", ">=", "<", ">", "=", "+", "-", "*", "/", "(", ")", ",", "."];

/// The pieces of `text`, whose first character stands in `column`; the last is the end.
pub(super) fn tokens(
    text: &str,
    line: usize,
    column: usize,
) -> Result<Vec<(usize, Token)>, ParseError> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = characters.get(at) {
        let place = column + at;
        let rest = &characters[at..];
        let length = |belongs: fn(&char) -> bool| rest.iter().take_while(|c| belongs(c)).count();
        if first.is_whitespace() {
            at += 1;
        } else if *first == '#' {
            break;
        } else if first.is_ascii_digit() {
            let digits: String = rest[..length(char::is_ascii_digit)].iter().collect();
            at += digits.len();
            let Ok(number) = digits.parse() else {
                let what = format!("the number {digits} is too large");
                return Err(ParseError { line, column: place, what });
            };
            found.push((place, Token::Number(number)));
        } else if first.is_alphabetic() || *first == '_' {
            let many = length(|c| c.is_alphanumeric() || *c == '_');
            let word: String = rest[..many].iter().collect();
            if word.len() > NAME_BYTES_MAX {
                let what = format!("a name has at most {NAME_BYTES_MAX} bytes");
                return Err(ParseError { line, column: place, what });
            }
            at += many;
            found.push((place, Token::Word(word)));
        } else {
            let begins = |sign: &&&str| sign.chars().eq(rest.iter().take(sign.len()).copied());
            let Some(sign) = SIGNS.iter().find(begins) else {
                let what = format!("'{}' means nothing here", first.escape_debug());
                return Err(ParseError { line, column: place, what });
            };
            at += sign.len();
            found.push((place, Token::Sign(sign)));
        }
    }
    found.push((column + characters.len(), Token::End));
    Ok(found)
}
