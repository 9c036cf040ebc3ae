//! The configuration file: TOML, with the names of the command line's options as keys.
//!
//! What stands in it is put before what was said on the command line, as if it had been said there first: the
//! later word holds. So every option can stand in the file, is checked in the same way, and an option beats a
//! variable of the environment, which beats the file, which beats the default.

use crate::files;
use clap::CommandFactory;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item, Value, value};

/// The arguments of the process, with those of the file that they name. The error is a message for a human.
pub(crate) fn with_file(arguments: Vec<OsString>) -> Result<Vec<OsString>, String> {
    let Some(path) = named(&arguments) else { return Ok(arguments) };
    let mut all = arguments;
    let from_file = arguments_of(&path)?;
    // Behind the program's name, and `serve`.
    let at = if all.get(1).is_some_and(|word| word == "serve") { 2 } else { 1 };
    all.splice(at..at, from_file);
    Ok(all)
}

/// The file that `--config` names, if it is the server that is to be run.
fn named(arguments: &[OsString]) -> Option<PathBuf> {
    let serves = |word: &OsStr| word == "serve" || word.as_encoded_bytes().starts_with(b"-");
    let words = arguments.get(1..).unwrap_or_default();
    if !words.first().is_some_and(|word| serves(word)) {
        return None;
    }
    let mut words = words.iter();
    let mut found = None;
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--config") => found = words.next().map(PathBuf::from).or(found),
            Some(word) => {
                found = word.strip_prefix("--config=").map(PathBuf::from).or(found);
            }
            None => {}
        }
    }
    found
}

fn arguments_of(path: &Path) -> Result<Vec<OsString>, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let text = String::from_utf8(files::read(path)?).map_err(|error| wrong(&error))?;
    let document: DocumentMut = text.parse().map_err(|error| wrong(&error))?;
    let command = super::CommandLine::command();
    let mut arguments = Vec::new();
    for (key, item) in document.iter() {
        let option = command.get_arguments().find(|option| option.get_long() == Some(key));
        let option = option
            .filter(|_| key != "config")
            .ok_or_else(|| wrong(&format!("`{key}` is no option of `isolith serve`")))?;
        let said_by_environment =
            option.get_env().is_some_and(|name| std::env::var_os(name).is_some());
        let text = match item {
            Item::Value(Value::String(text)) => text.value().clone(),
            Item::Value(Value::Integer(number)) => number.value().to_string(),
            Item::Value(Value::Boolean(word)) => word.value().to_string(),
            _ => return Err(wrong(&format!("`{key}` is to be a string, a number, true or false"))),
        };
        if !said_by_environment {
            arguments.push(format!("--{key}={text}").into());
        }
    }
    Ok(arguments)
}

/// Puts values into the file, and leaves the rest of it as it is, comments included. The error is a message
/// for a human.
pub(crate) fn rewrite(
    path: &Path,
    settings: impl Iterator<Item = (&'static str, String)>,
) -> Result<(), String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let text = String::from_utf8(files::read(path)?).map_err(|error| wrong(&error))?;
    let mut document: DocumentMut = text.parse().map_err(|error| wrong(&error))?;
    for (key, text) in settings {
        let new = text.parse::<i64>().map_or_else(|_| value(&text), value);
        match document.get_mut(key).and_then(Item::as_value_mut) {
            // What stands around it stays.
            Some(old) => {
                let around = old.decor().clone();
                if let Item::Value(mut new) = new {
                    *new.decor_mut() = around;
                    *old = new;
                }
            }
            None => {
                document.insert(key, new);
            }
        }
    }
    files::replace(path, document.to_string().as_bytes()).map_err(|error| wrong(&error))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
mod tests {
    use super::*;

    fn parsed(text: &str, words: &[&str]) -> Result<crate::config::Serve, String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("isolith.toml");
        std::fs::write(&path, text).expect("a file");
        let mut arguments: Vec<OsString> = ["isolith", "serve"].map(OsString::from).into();
        arguments.extend(["--config".into(), path.into_os_string()]);
        arguments.extend(words.iter().map(OsString::from));
        let line = crate::config::CommandLine::try_parse_from_file(with_file(arguments)?)?;
        match line.command {
            Some(crate::config::Command::Serve(serve)) => Ok(*serve),
            _ => Err("no serve".into()),
        }
    }

    #[test]
    fn options_beat_the_file_which_beats_the_defaults() {
        let text = "# a comment\nmemory = \"2G\"\nthreads = 3\nlisten = \"127.0.0.1:7000\"\n";
        let serve = parsed(text, &["--threads", "5"]).expect("options");
        assert_eq!((serve.memory, serve.threads, serve.listen.port()), (2 << 30, Some(5), 7000));
        assert_eq!(serve.durability, crate::config::Level::Sync);
    }

    #[test]
    fn mistakes_are_told() {
        for (text, why) in [
            ("memroy = \"2G\"", "`memroy` is no option"),
            ("memory = [1]", "`memory` is to be"),
            ("memory = \"lots\"", "expected a size"),
            ("memory =", "isolith.toml"),
            ("config = \"x\"", "`config` is no option"),
        ] {
            let error = parsed(text, &[]).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn rewriting_keeps_what_it_does_not_change() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("isolith.toml");
        let text = "# mine\nmemory = \"2G\" # much\nlock-timeout = \"5s\" # short\n";
        std::fs::write(&path, text).expect("a file");
        let settings = [("lock-timeout", "7ms".to_owned()), ("slowlog-max-len", "12".to_owned())];
        rewrite(&path, settings.into_iter()).expect("it is written");
        let text = std::fs::read_to_string(&path).expect("the file");
        assert_eq!(
            text,
            "# mine\nmemory = \"2G\" # much\nlock-timeout = \"7ms\" # short\nslowlog-max-len = 12\n"
        );
    }
}
