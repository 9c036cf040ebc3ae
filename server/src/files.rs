//! The server's own files: its configuration, its users, its certificates. Not the database's, which are
//! reached through the storage seam alone.

#![expect(clippy::disallowed_methods, reason = "the server's own files, not the database's")]

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Longer is no such file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Reads a file. The error is a message for a human.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("cannot read {}: {error}", path.display());
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(format!("{} is larger than 16 MiB", path.display()));
    }
    std::fs::read(path).map_err(failed)
}

/// Puts bytes in the place of a file: beside it first, then into its place, so that a crash leaves the old or
/// the new. For its owner alone: it may have secrets in it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
