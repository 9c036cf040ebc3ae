//! The users' file: a line for each, as ACL LIST shows them.

#![expect(clippy::disallowed_methods, reason = "the server's own file, not the database's")]

use super::User;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// Longer is no users' file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads it. The error is a message for a human, with the line.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Arc<User>>, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(format!("{} is too large for a file of users", path.display()));
    }
    parse(&std::fs::read(path).map_err(failed)?)
        .map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))
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

/// Writes it: beside its place first, then into it, so that a crash leaves the old or the new.
pub(super) fn write(path: &Path, users: &[Arc<User>]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // Hashes of passwords are for nobody else to read.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    for user in users {
        file.write_all(&[&user.line()[..], b"\n"].concat())?;
    }
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
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
