//! `isolith backup` and `restore`: copies of databases that nobody serves.

use super::check::Print;
use super::database::{bytes, count, field, json, text};
use super::{Exit, Failure, Outcome};
use clap::Args;
use isolith::{BackupError, Checkpoint, CheckpointOptions, RestoreOptions, Timestamp};
use isolith_testkit::history::Datum;
use isolith_testkit::picture::text::{counted, harmless};
use std::path::{Path, PathBuf};

/// What to back up.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Copies a database that nobody has open for writing. Sorted files get a second name \
                  where both directories lie in one file system, and are copied elsewhere; the log that \
                  belongs to them is written anew. The backup is a database, and opens as one. A server \
                  backs up its own by BACKUP, while it serves.\n\n\
                  What is cut short leaves a file PARTIAL in DST, and is never opened.",
    after_help = "Exit codes: 0 done, 2 wrong options, 3 could not run (in use, damaged, DST not empty, \
                  disk full).\n\
                  Try: isolith backup isolith-data backups/monday"
)]
pub(crate) struct Backup {
    /// The database's directory.
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Where the backup goes: a directory that is empty or not there.
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// Copy the sorted files even where they could get a second name: damage to the one is then no
    /// damage to the other.
    #[arg(long)]
    copy: bool,
    /// How to print what was made; json is one object.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

/// What to restore.
#[derive(Clone, Debug, Args)]
#[command(
    long_about = "Makes a database out of a backup: as it was at the end of the backup, or at any commit \
                  since its files were written (backup and stats print which). With --log the logs of \
                  later backups, or of the database itself while nobody has it open, carry it further, as \
                  far as they go back to where the backup ends (serve --log-retained).",
    after_help = "Exit codes: 0 done, 2 wrong options, 3 could not run (out of reach, damaged, DST not \
                  empty, disk full).\n\
                  Try: isolith restore backups/monday isolith-data --log backups/tuesday --to 0:1234"
)]
pub(crate) struct Restore {
    /// The backup, or any database that nobody has open for writing.
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Where the database goes: a directory that is empty or not there.
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// The last commit that it is to have, as EPOCH:COUNTER; all that there are, if not given.
    #[arg(long, value_name = "TIMESTAMP")]
    to: Option<Timestamp>,
    /// A database whose log goes on where the backup ends. May be given several times, in any order.
    #[arg(long = "log", value_name = "DIR")]
    logs: Vec<PathBuf>,
    /// Copy the sorted files even where they could get a second name.
    #[arg(long)]
    copy: bool,
    /// How to print what was made; json is one object.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Print::Text)]
    format: Print,
}

/// Backs a database up.
pub(crate) fn backup(options: &Backup) -> Outcome {
    let how = CheckpointOptions { copy_files: options.copy };
    told(&options.target, isolith::backup(&options.source, &options.target, how), options.format)
}

/// Restores one.
pub(crate) fn restore(options: &Restore) -> Outcome {
    let how =
        RestoreOptions { to: options.to, logs: options.logs.clone(), copy_files: options.copy };
    told(&options.target, isolith::restore(&options.backup, &options.target, how), options.format)
}

fn told(target: &Path, made: Result<Checkpoint, BackupError>, format: Print) -> Outcome {
    let made = made.map_err(|error| Failure::could_not_run(harmless(&error.to_string())))?;
    let printed = match format {
        Print::Text => format!(
            "{}: every commit up to {} ({} files, {} linked and {} copied; a log of {}); can be \
             restored to any since {}\n",
            harmless(&target.display().to_string()),
            made.timestamp,
            counted(made.files),
            bytes(made.linked_bytes),
            bytes(made.copied_bytes),
            bytes(made.log_bytes),
            made.restorable_from,
        ),
        Print::Json => {
            let timestamp = |at: Timestamp| Datum::Text(at.to_string());
            json(vec![
                field("timestamp", timestamp(made.timestamp)),
                field("restorable-from", timestamp(made.restorable_from)),
                field("log-begins", timestamp(made.log_begins)),
                field("directory", text(&target.display().to_string())),
                field("files", count(made.files)),
                field("linked-bytes", count(made.linked_bytes)),
                field("copied-bytes", count(made.copied_bytes)),
                field("log-bytes", count(made.log_bytes)),
            ])
        }
    };
    super::print(&printed)?;
    Ok(Exit::Fine)
}
