//! The users' file: a line for each, as ACL LIST shows them.

use super::User;
use crate::files;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Reads it. The error is a message for a human, with the line.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Arc<User>>, String> {
    parse(&files::read(path)?).map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))
}

fn parse(text: &[u8]) -> Result<BTreeMap<String, Arc<User>>, (usize, String)> {
    let mut users = BTreeMap::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let wrong = |why: String| (number + 1, why);
        let mut words =
            line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
        if words.peek().is_none_or(|word| word.starts_with(b"#")) {
            continue;
        }
        let (head, name) = (words.next(), words.next());
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        let (Some(b"user"), Some(name)) = (head, name) else {
            return Err(wrong("expected `user NAME rules`".to_owned()));
        };
        let mut user = User::new(name);
        for rule in words {
            user.apply(rule).map_err(wrong)?;
        }
        if users.insert(name.to_owned(), Arc::new(user)).is_some() {
            return Err(wrong(format!("the user {name} is there twice")));
        }
    }
    Ok(users)
}

/// Writes it, as a whole or not at all.
pub(super) fn write(path: &Path, users: &[Arc<User>]) -> io::Result<()> {
    let lines: Vec<Vec<u8>> = users.iter().map(|user| [&user.line()[..], b"\n"].concat()).collect();
    files::replace(path, &lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("users.acl");
        let text =
            b"# people\n\nuser default off -@all\nuser ann on >secret ~a:* %R~b -@all +@read\n";
        let users = parse(text).expect("users");
        let all: Vec<Arc<User>> = users.values().cloned().collect();
        write(&path, &all).expect("it is written");
        let again = read(&path).expect("it is read");
        let lines = |users: &BTreeMap<String, Arc<User>>| -> Vec<Vec<u8>> {
            users.values().map(|user| user.line()).collect()
        };
        assert_eq!(lines(&again), lines(&users));
        assert!(again["ann"].is_proven_by(b"secret"));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line) in [("who", 1), ("user a on\nuser b nonsense", 2), ("user a\nuser a", 2)] {
            let error = parse(text.as_bytes()).expect_err("a mistake");
            assert_eq!(error.0, line, "{text}: {}", error.1);
        }
    }
}
