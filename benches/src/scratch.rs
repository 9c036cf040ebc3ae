//! A directory for one run of a bench: below `ISOLITH_BENCH_DIR`, or else the temporary directory, and
//! removed at its end.

use std::path::{Path, PathBuf};

/// The directory; dropping it removes it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A directory of this process's own; `bench` tells whose it is.
    ///
    /// # Panics
    /// If it cannot be made.
    pub fn new(bench: &str) -> Self {
        let parent =
            std::env::var_os("ISOLITH_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let path = parent.join(format!("isolith-{bench}-{}", std::process::id()));
        #[expect(clippy::disallowed_methods, reason = "the benchmark's own directory")]
        std::fs::create_dir_all(&path).expect("a directory to work in");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
