//! Backups that clients ask for: made one at a time by a thread of their own, so that no core waits.
//!
//! 1. Only where the server was told a directory for them, and only right below it: a client names the
//!    backup, and never a path.
//! 2. A backup that is under way when the server ends is given up: it stays behind marked as unfinished, and
//!    is never opened.

use crate::shared::lock;
use isolith::{Checkpoint, CheckpointOptions, Database};
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

/// The longest name of a backup, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Who makes backups, if anybody does.
pub(crate) struct Backups {
    names: Option<Mutex<Sender<String>>>,
    state: Arc<Mutex<State>>,
}

/// What INFO tells.
#[derive(Clone, Default)]
pub(crate) struct State {
    /// The backup that is being made.
    pub(crate) running: Option<String>,
    /// The last one that ended, and how.
    pub(crate) last: Option<(String, Result<Checkpoint, String>)>,
}

impl Backups {
    /// Starts the thread, if there is a directory.
    pub(crate) fn start(database: Database, directory: Option<PathBuf>) -> io::Result<Backups> {
        let state = Arc::<Mutex<State>>::default();
        let Some(directory) = directory else { return Ok(Backups { names: None, state }) };
        let (names, asked) = channel::<String>();
        let told = Arc::clone(&state);
        std::thread::Builder::new().name("backup".into()).spawn(move || {
            for name in asked {
                let path = directory.join(&name);
                let options = CheckpointOptions::default();
                let made = database.checkpoint_with(&path, options);
                match &made {
                    Ok(made) => {
                        tracing::info!(path = %path.display(), "backed up to {}", made.timestamp)
                    }
                    Err(error) => tracing::error!(path = %path.display(), "no backup: {error}"),
                }
                let made = made.map_err(|error| error.to_string());
                *lock(&told) = State { running: None, last: Some((name, made)) };
            }
        })?;
        Ok(Backups { names: Some(Mutex::new(names)), state })
    }

    /// Asks for a backup; refused with what is to be told to the client.
    pub(crate) fn begin(&self, name: &[u8]) -> Result<(), &'static str> {
        let Some(names) = &self.names else {
            return Err("ERR the server was started without --backup-dir: no backups are made");
        };
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        let name = std::str::from_utf8(name).ok().filter(|name| {
            let bytes = name.as_bytes();
            (1..=NAME_BYTES_MAX).contains(&bytes.len())
                && bytes.iter().all(is_plain)
                && !name.starts_with('.')
        });
        let Some(name) = name else {
            return Err(
                "ERR a backup's name has 1 to 128 letters, digits, '.', '_' or '-', and does \
                        not begin with '.'",
            );
        };
        let mut state = lock(&self.state);
        if state.running.is_some() {
            return Err("ERR a backup is being made: see INFO persistence");
        }
        if lock(names).send(name.to_owned()).is_err() {
            return Err("ERR the server is ending");
        }
        state.running = Some(name.to_owned());
        Ok(())
    }

    /// What there is to tell.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }
}
