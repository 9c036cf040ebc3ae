//! Files that are written and are made durable meanwhile.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use isolith_index::OpenFile;
use isolith_index::sstable::{FileId, Properties};
use parking_lot::Mutex;

use super::sink::Sink;
use super::{Done, Files, WorkError, file_name};

/// A file on its way to being durable and open.
pub(super) enum Ending {
    Here(Done<Option<OpenFile>>),
    Elsewhere(FileId, JoinHandle<Done<Option<OpenFile>>>),
}

/// Makes a file durable and opens it: on a thread of its own, if that is wanted and one is to be had. It goes
/// if that fails.
pub(super) fn end_file(
    files: &Arc<Files>,
    file: FileId,
    sink: Sink,
    properties: Properties,
    elsewhere: bool,
) -> Ending {
    if !elsewhere {
        return Ending::Here(end(files, file, (sink, properties)));
    }
    let written = Arc::new(Mutex::new(Some((sink, properties))));
    let take = |written: &Mutex<Option<_>>| written.lock().take();
    let named = thread::Builder::new().name("isolith-sync".into());
    let spawned = named.spawn({
        let (files, written) = (Arc::clone(files), Arc::clone(&written));
        move || take(&written).map_or(Ok(None), |written| end(&files, file, written))
    });
    match spawned {
        Ok(thread) => Ending::Elsewhere(file, thread),
        Err(_) => {
            Ending::Here(take(&written).map_or(Ok(None), |written| end(files, file, written)))
        }
    }
}

fn end(
    files: &Files,
    file: FileId,
    (sink, properties): (Sink, Properties),
) -> Done<Option<OpenFile>> {
    let ended = files.finish(file, sink, &properties);
    if ended.is_err() {
        files.doomed.lock().push(file_name(file));
    }
    ended
}

impl Ending {
    /// The file; none if there is nothing in it.
    pub(super) fn wait(self) -> Done<Option<OpenFile>> {
        match self {
            Ending::Here(ended) => ended,
            Ending::Elsewhere(file, thread) => thread.join().unwrap_or_else(|_| {
                // The panic hook has reported why.
                let source = io::Error::other("the thread that made it durable is gone");
                Err(WorkError::Io { what: file_name(file), source })
            }),
        }
    }
}
