//! Scenario files in, pages and tests out.

use std::io::{Read, Write};
use std::path::Path;

use super::scenario::{Scenario, TEXT_BYTES_MAX, parse};

/// Why a file could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It cannot be read or written.
    Unusable(String),
    /// It does not say what it should.
    Malformed(String),
}

/// Reads a scenario from a file.
#[expect(clippy::disallowed_methods, reason = "a user's scenario is no part of a database")]
pub fn read_scenario(path: &Path) -> Result<Scenario, FileError> {
    let shown = path.display();
    let unusable = |error| FileError::Unusable(format!("{shown}: {error}"));
    let file = std::fs::File::open(path).map_err(unusable)?;
    let mut bytes = Vec::new();
    // One more than may be there, so that the parser sees that it is too long.
    file.take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unusable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        FileError::Malformed(format!("{shown}: line {line}: it is not UTF-8 text"))
    })?;
    let name =
        path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    parse(&name, &text).map_err(|error| FileError::Malformed(format!("{shown}: {error}")))
}

/// Writes a page, a test or a scenario.
#[expect(clippy::disallowed_methods, reason = "what a user asked for is no part of a database")]
pub fn write_text(path: &Path, text: &str) -> Result<(), FileError> {
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| FileError::Unusable(format!("{}: {error}", path.display())))
}
