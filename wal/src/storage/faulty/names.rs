//! Names on the disk: those that a running process sees, those that surely survive, and the changes
//! between them (model 5).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::FileId;
use super::trace::Fate;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Directory,
    File(FileId),
}

pub(super) type Tree = BTreeMap<PathBuf, Node>;

/// A change that its directory's sync has not confirmed.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) what: What,
    /// Whether the process saw it happen: false for the call that crashed.
    pub(super) seen: bool,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Create(PathBuf, Node),
    Remove(PathBuf),
    Rename { from: PathBuf, to: PathBuf, file: FileId },
}

impl What {
    fn paths(&self) -> Vec<&Path> {
        match self {
            What::Create(path, _) | What::Remove(path) => vec![path],
            What::Rename { from, to, .. } => vec![from, to],
        }
    }

    fn is_in(&self, directory: &Path) -> bool {
        self.paths().iter().any(|path| path.parent() == Some(directory))
    }

    /// Whether this change cannot stand without an earlier one.
    fn needs(&self, earlier: &What) -> bool {
        self.paths().iter().any(|path| match earlier {
            What::Create(directory, Node::Directory) => path.starts_with(directory),
            _ => earlier.paths().contains(path),
        })
    }

    pub(super) fn apply(&self, tree: &mut Tree) {
        match self {
            What::Create(path, node) => drop(tree.insert(path.clone(), *node)),
            What::Remove(path) => drop(tree.remove(path)),
            What::Rename { from, to, file } => {
                if from != to {
                    tree.remove(from);
                }
                tree.insert(to.clone(), Node::File(*file));
            }
        }
    }
}

/// The names of a disk.
#[derive(Clone, Default)]
pub(super) struct Names {
    /// What the process sees. The root has no entry.
    pub(super) now: Tree,
    /// What surely survives.
    pub(super) disk: Tree,
    /// From `disk` to `now`, oldest first.
    pub(super) changes: Vec<Change>,
}

impl Names {
    pub(super) fn exists(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.now.contains_key(path)
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.now.get(path) == Some(&Node::Directory)
    }

    /// The error for something that is not the directory it should be.
    pub(super) fn check_directory(&self, path: &Path) -> io::Result<()> {
        match (self.is_directory(path), self.exists(path)) {
            (true, _) => Ok(()),
            (false, true) => Err(io::ErrorKind::NotADirectory.into()),
            (false, false) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<FileId> {
        match self.now.get(path) {
            Some(Node::File(file)) => Ok(*file),
            _ if self.is_directory(path) => Err(io::ErrorKind::IsADirectory.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        self.check_directory(path.parent().ok_or(io::ErrorKind::IsADirectory)?)
    }

    pub(super) fn create(&mut self, path: &Path, file: FileId, fate: Fate) -> io::Result<()> {
        if self.exists(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.check_parent(path)?;
        self.change(What::Create(path.to_owned(), Node::File(file)), fate)
    }

    pub(super) fn create_dir(&mut self, path: &Path, fate: Fate) -> io::Result<()> {
        let mut directories: Vec<_> = path.ancestors().collect();
        directories.reverse();
        for directory in directories {
            if self.check_directory(directory).is_err_and(|e| e.kind() != io::ErrorKind::NotFound) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            if !self.exists(directory) {
                let what = What::Create(directory.to_owned(), Node::Directory);
                self.note(what, fate);
            }
        }
        fate.refuse()?;
        // The seam's promise: durable on return.
        self.confirm(|what| what.paths().iter().any(|changed| path.starts_with(changed)));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path, fate: Fate) -> io::Result<()> {
        self.file(path)?;
        self.change(What::Remove(path.to_owned()), fate)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, fate: Fate) -> io::Result<()> {
        let file = self.file(from)?;
        if self.is_directory(to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        self.check_parent(to)?;
        self.change(What::Rename { from: from.to_owned(), to: to.to_owned(), file }, fate)
    }

    pub(super) fn sync_dir(&mut self, directory: &Path, fate: Fate) -> io::Result<()> {
        self.check_directory(directory)?;
        fate.refuse()?;
        self.confirm(|what| what.is_in(directory));
        Ok(())
    }

    fn change(&mut self, what: What, fate: Fate) -> io::Result<()> {
        self.note(what, fate);
        fate.refuse()
    }

    /// A change that crashes may have happened; one that is made to fail has not.
    fn note(&mut self, what: What, fate: Fate) {
        let seen = fate == Fate::Succeed;
        if seen {
            what.apply(&mut self.now);
        }
        if seen || fate == Fate::Crash {
            self.changes.push(Change { what, seen });
        }
    }

    /// Makes the chosen changes, with the earlier ones that they need, sure.
    fn confirm(&mut self, chosen: impl Fn(&What) -> bool) {
        let chosen = self.changes.iter().map(|change| chosen(&change.what)).collect();
        let surviving = self.with_needs(chosen);
        let mut index = 0;
        self.changes.retain(|change| {
            let survives = surviving.contains(&index);
            if survives {
                change.what.apply(&mut self.disk);
            }
            index += 1;
            !survives
        });
    }

    /// The places in `changes` of those chosen and of all that they need.
    pub(super) fn with_needs(&self, chosen: Vec<bool>) -> BTreeSet<usize> {
        let mut surviving = BTreeSet::new();
        for later in (0..self.changes.len()).rev() {
            if chosen[later] {
                surviving.insert(later);
            }
            if surviving.contains(&later) {
                surviving.extend((0..later).filter(|&earlier| {
                    self.changes[later].what.needs(&self.changes[earlier].what)
                }));
            }
        }
        surviving
    }
}
