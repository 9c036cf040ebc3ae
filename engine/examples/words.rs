//! Loads a word list, dies by kill -9 half-way, and proves that every acknowledged word is there.
//!
//! ```text
//! cargo run --release -p isolith --example words -- DIRECTORY /usr/share/dict/words
//! ```
//!
//! The program runs itself twice as a child that loads the words with several threads, each put at
//! `Durability::Sync`, and prints each word *after* its put was acknowledged. The first child
//! finishes; the second, which writes other values, is killed half-way. Then the parent opens the
//! database and reads back all that was acknowledged.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use isolith::Database;

const THREADS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["load", directory, list, round] => load(directory, list, round),
        [directory, list] => demonstrate(directory, list),
        _ => Err("usage: words DIRECTORY WORDLIST".into()),
    }
}

fn words(list: &str) -> Result<Vec<String>, Box<dyn Error>> {
    #[expect(clippy::disallowed_methods, reason = "the example's own input, not the database's")]
    let text = std::fs::read(list)?;
    Ok(String::from_utf8(text)?.lines().map(str::to_owned).collect())
}

/// The child: puts every word, and says so once it is acknowledged.
fn load(directory: &str, list: &str, round: &str) -> Result<(), Box<dyn Error>> {
    let words = words(list)?;
    let db = Database::open(directory)?;
    let keyspace = db.keyspace("words")?;
    std::thread::scope(|scope| {
        for first in 0..THREADS {
            let (words, keyspace) = (&words, &keyspace);
            scope.spawn(move || {
                for word in words.iter().skip(first).step_by(THREADS) {
                    keyspace.put(word, format!("{word} in round {round}")).expect("the put");
                    // One write per line: a killed process leaves whole lines behind.
                    let line = format!("{word}\n");
                    std::io::stdout().lock().write_all(line.as_bytes()).expect("the pipe");
                }
            });
        }
    });
    db.close()?;
    Ok(())
}

fn child(directory: &str, list: &str, round: &str) -> Result<Child, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let arguments = ["load", directory, list, round];
    Ok(Command::new(program).args(arguments).stdout(Stdio::piped()).spawn()?)
}

/// Reads acknowledgements until the child ends, or kills it after `limit` of them.
fn acknowledged(mut child: Child, limit: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let output = child.stdout.take().ok_or("the child has no output")?;
    let mut words = Vec::new();
    for line in BufReader::new(output).lines() {
        words.push(line?);
        if words.len() == limit {
            child.kill()?; // SIGKILL; what it acknowledged until then is still in the pipe
        }
    }
    child.wait()?;
    Ok(words)
}

fn demonstrate(directory: &str, list: &str) -> Result<(), Box<dyn Error>> {
    let all = words(list)?;
    let first = acknowledged(child(directory, list, "1")?, usize::MAX)?;
    println!("round 1: {} of {} words acknowledged", first.len(), all.len());
    let second = acknowledged(child(directory, list, "2")?, all.len() / 2)?;
    println!("round 2: killed with -9 after {} acknowledgements", second.len());

    let mut expected: HashMap<&str, u8> = first.iter().map(|word| (word.as_str(), 1)).collect();
    expected.extend(second.iter().map(|word| (word.as_str(), 2)));
    let db = Database::open(directory)?;
    let keyspace = db.keyspace("words")?;
    let mut ahead = 0;
    for (word, round) in &expected {
        let value = keyspace.get(word)?.ok_or_else(|| format!("'{word}' is lost"))?;
        let newest = format!("{word} in round 2");
        if *value != *format!("{word} in round {round}").as_bytes() {
            // Not acknowledged yet when the child was killed, and durable all the same.
            if *value != *newest.as_bytes() {
                return Err(format!("'{word}' holds {}", value.escape_ascii()).into());
            }
            ahead += 1;
        }
    }
    println!(
        "all {} acknowledged words are there ({ahead} more had become durable before the kill)",
        expected.len()
    );
    Ok(())
}
