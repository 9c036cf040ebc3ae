//! Picks how a directory is read and written: io_uring where it works, plain system calls elsewhere.
//!
//! Containers often forbid io_uring (Docker's default seccomp profile does), some kernels have it
//! switched off, old ones have none. Any of setup, register and enter may be denied alone, so each
//! is tried before a choice is made; the choice and its reason are for the log.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::Storage;
use super::syscall::SyscallStorage;
use super::uring::{Denied, UringStorage, probe};

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// io_uring if it works, plain system calls if not.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// Plain system calls.
    Syscall,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring for the log's synced writes.
    Uring,
    /// Plain system calls.
    Syscall,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BackendKind::Uring => "io_uring",
            BackendKind::Syscall => "system calls",
        })
    }
}

/// The choice, and why it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendChoice {
    /// What is used.
    pub kind: BackendKind,
    /// Why, and how synced writes reach the disk: one line for people.
    pub why: String,
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.why)
    }
}

/// Opens a directory as a storage; it is made, durably, if it is not there.
///
/// # Errors
/// What the system says of the directory; `Unsupported` when [`IoBackend::Uring`] was asked for and
/// cannot be had, with the reason.
pub fn open_storage(
    root: &Path,
    backend: IoBackend,
) -> io::Result<(Arc<dyn Storage>, BackendChoice)> {
    let probed = match backend {
        IoBackend::Auto | IoBackend::Uring => Some(probe()),
        IoBackend::Syscall => None,
    };
    if let (IoBackend::Uring, Some(Err(denied))) = (backend, &probed) {
        let what = format!("io_uring was asked for and cannot be used: {}", explain(denied));
        return Err(io::Error::new(io::ErrorKind::Unsupported, what));
    }
    let files = SyscallStorage::open(root)?;
    let path = files.stable_path();
    let choice = |kind, reason: &str| BackendChoice { kind, why: format!("{reason}; {path}") };
    Ok(match probed {
        Some(Ok(lane)) => {
            let choice = choice(BackendKind::Uring, "io_uring works here");
            (Arc::new(UringStorage::new(files, lane)), choice)
        }
        Some(Err(denied)) => (Arc::new(files), choice(BackendKind::Syscall, &explain(&denied))),
        None => (Arc::new(files), choice(BackendKind::Syscall, "asked for")),
    })
}

/// Why io_uring cannot be used, and what could be done about it.
fn explain(denied: &Denied) -> String {
    let Denied { step, error } = denied;
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => format!(
            "{step} is forbidden ({error}), by a seccomp filter (Docker's default profile is one) \
             or by the sysctl kernel.io_uring_disabled"
        ),
        Some(libc::ENOSYS) => {
            format!(
                "{step} is not there ({error}): an old kernel, one without io_uring, or a filter"
            )
        }
        Some(libc::EOPNOTSUPP) => format!("this kernel's io_uring is too old: {step} is missing"),
        Some(libc::ENOMEM) => format!(
            "{step} got no memory ({error}): the limit on locked memory is too low (ulimit -l)"
        ),
        Some(libc::EMFILE | libc::ENFILE) => {
            format!("{step} got no descriptor ({error}): too many files are open (ulimit -n)")
        }
        _ => format!("{step} failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::tests::deny;
    use crate::storage::{BLOCK_BYTES, IoBuffer, Reach};

    /// What can be denied; nothing where all is denied already: the tests are skipped, and say so.
    fn steps() -> Vec<(&'static str, i64)> {
        if let Err(denied) = probe() {
            eprintln!("skipped: {}", explain(&denied));
            return Vec::new();
        }
        vec![
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("io_uring_enter", libc::SYS_io_uring_enter),
            ("io_uring_register", libc::SYS_io_uring_register),
        ]
    }

    /// Opens a fresh directory on a thread of its own to which some system calls are denied, and
    /// writes to it.
    fn open_denied(
        backend: IoBackend,
        call: i64,
        errno: i32,
    ) -> io::Result<(BackendChoice, Vec<u8>)> {
        let opened = std::thread::spawn(move || {
            let directory = tempfile::tempdir().unwrap();
            deny(&[call], errno);
            let (storage, choice) = open_storage(directory.path(), backend)?;
            let file = storage.create_new(Path::new("f"))?;
            let mut buffer = IoBuffer::zeroed(BLOCK_BYTES);
            buffer.fill(7);
            file.submit(0, buffer, Reach::Stable).wait().0?;
            let mut bytes = vec![0; 2 * BLOCK_BYTES];
            let read = file.read_at(0, &mut bytes)?;
            bytes.truncate(read);
            Ok((choice, bytes))
        });
        opened.join().expect("the thread ends well")
    }

    #[test]
    fn a_forbidden_io_uring_is_done_without_and_the_reason_is_said() {
        for (step, call) in steps() {
            for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENOMEM, libc::EINVAL] {
                let (choice, bytes) = open_denied(IoBackend::Auto, call, errno).unwrap();
                assert_eq!(choice.kind, BackendKind::Syscall);
                assert!(choice.why.contains(step), "{choice}");
                let told = match errno {
                    libc::ENOSYS => "old kernel",
                    libc::ENOMEM => "ulimit -l",
                    libc::EINVAL => "failed",
                    _ => "seccomp",
                };
                assert!(choice.why.contains(told), "{choice}");
                assert_eq!(bytes, [7; BLOCK_BYTES]);
            }
        }
    }

    #[test]
    fn a_forced_io_uring_that_is_forbidden_is_an_error() {
        for (step, call) in steps() {
            let error = open_denied(IoBackend::Uring, call, libc::EPERM).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported);
            let said = error.to_string();
            assert!(said.contains("asked for and cannot be used") && said.contains(step), "{said}");
        }
    }

    #[test]
    fn the_choice_follows_the_request() {
        let directory = tempfile::tempdir().unwrap();
        let (_, choice) = open_storage(directory.path(), IoBackend::Syscall).unwrap();
        assert_eq!(choice.kind, BackendKind::Syscall);
        assert!(choice.to_string().starts_with("system calls: asked for; "), "{choice}");
        let (_, choice) = open_storage(directory.path(), IoBackend::Auto).unwrap();
        println!("{choice}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = open_storage(file.path(), IoBackend::Auto).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    }
}
