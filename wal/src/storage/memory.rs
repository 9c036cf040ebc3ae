//! A storage that lives in memory and dies with the process: for databases without a directory, and
//! for tests.
//!
//! 1. It keeps a POSIX directory's promises to a running process: names are atomic, a file that was
//!    removed or replaced stays readable through the handles that are open.
//! 2. Syncs succeed and mean nothing.
//!
//! Lock order: the tree before a file's bytes; neither is held while the other kind waits.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::sparse::SparseBytes;
use super::{
    Access, DirectoryEntry, Finished, InFlight, IoBuffer, Reach, Storage, StorageFile, StorageLock,
    check_range, check_submission, normal,
};

/// A tree of files in memory. Clones are the same tree.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    tree: Arc<Mutex<Tree>>,
}

#[derive(Default)]
struct Tree {
    /// Every name but the root, by full path.
    nodes: BTreeMap<PathBuf, Node>,
}

enum Node {
    Directory,
    File(Arc<Contents>),
}

#[derive(Default)]
struct Contents {
    bytes: RwLock<SparseBytes>,
    /// The [`Lock`]s on this file: how many share it, [`ALONE`] if one has it alone.
    locked: Mutex<usize>,
}

impl MemoryStorage {
    /// An empty tree: a root without names.
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }
}

impl Tree {
    fn is_directory(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || matches!(self.nodes.get(path), Some(Node::Directory))
    }

    fn file(&self, path: &Path) -> io::Result<&Arc<Contents>> {
        match self.nodes.get(path) {
            Some(Node::File(contents)) => Ok(contents),
            _ if self.is_directory(path) => Err(io::ErrorKind::IsADirectory.into()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether a file of this name may be made: its directory must be there.
    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if self.is_directory(parent) => Ok(()),
            Some(parent) if self.nodes.contains_key(parent) => {
                Err(io::ErrorKind::NotADirectory.into())
            }
            Some(_) => Err(io::ErrorKind::NotFound.into()),
            None => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn create(&mut self, path: PathBuf) -> io::Result<Arc<Contents>> {
        if path.as_os_str().is_empty() || self.nodes.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.check_parent(&path)?;
        let contents = Arc::<Contents>::default();
        self.nodes.insert(path, Node::File(contents.clone()));
        Ok(contents)
    }
}

impl Storage for MemoryStorage {
    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn StorageFile>> {
        let contents = self.tree.lock().file(&normal(path)?)?.clone();
        Ok(Arc::new(File { contents, access }))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let contents = self.tree.lock().create(normal(path)?)?;
        Ok(Arc::new(File { contents, access: Access::ReadWrite }))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut tree = self.tree.lock();
        let mut parents: Vec<_> = path.ancestors().collect();
        parents.reverse();
        for directory in parents {
            match tree.nodes.get(directory) {
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                Some(Node::Directory) => {}
                None if directory.as_os_str().is_empty() => {}
                None => drop(tree.nodes.insert(directory.to_owned(), Node::Directory)),
            }
        }
        Ok(())
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let directory = normal(directory)?;
        let tree = self.tree.lock();
        if !tree.is_directory(&directory) {
            return Err(not_a_directory(tree.nodes.contains_key(&directory)));
        }
        let mut entries: Vec<_> = tree
            .nodes
            .iter()
            .filter(|(path, _)| path.parent() == Some(&directory))
            .filter_map(|(path, node)| {
                let name = path.file_name()?.to_string_lossy().into_owned();
                Some(match node {
                    Node::Directory => DirectoryEntry { name, bytes: 0, is_directory: true },
                    Node::File(contents) => {
                        let bytes = contents.bytes.read().len();
                        DirectoryEntry { name, bytes, is_directory: false }
                    }
                })
            })
            .collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut tree = self.tree.lock();
        tree.file(&path)?;
        tree.nodes.remove(&path);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        let mut tree = self.tree.lock();
        let contents = tree.file(&from)?.clone();
        if tree.is_directory(&to) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        tree.check_parent(&to)?;
        tree.nodes.remove(&from);
        tree.nodes.insert(to, Node::File(contents));
        Ok(())
    }

    fn sync_dir(&self, directory: &Path) -> io::Result<()> {
        let directory = normal(directory)?;
        let tree = self.tree.lock();
        match tree.is_directory(&directory) {
            true => Ok(()),
            false => Err(not_a_directory(tree.nodes.contains_key(&directory))),
        }
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let path = normal(path)?;
        let mut tree = self.tree.lock();
        let contents = match tree.nodes.contains_key(&path) {
            true => tree.file(&path)?.clone(),
            false => tree.create(path)?,
        };
        drop(tree);
        let mut locked = contents.locked.lock();
        if *locked > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *locked = ALONE;
        drop(locked);
        Ok(Box::new(Lock { contents }))
    }

    fn try_lock_shared(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let contents = self.tree.lock().file(&normal(path)?)?.clone();
        let mut locked = contents.locked.lock();
        if *locked == ALONE {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        *locked += 1;
        drop(locked);
        Ok(Box::new(Lock { contents }))
    }

    fn display(&self, path: &Path) -> String {
        format!("memory:{}", path.display())
    }
}

fn not_a_directory(exists: bool) -> io::Error {
    match exists {
        true => io::ErrorKind::NotADirectory.into(),
        false => io::ErrorKind::NotFound.into(),
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStorage({} names)", self.tree.lock().nodes.len())
    }
}

/// A lock that nobody shares.
const ALONE: usize = usize::MAX;

struct Lock {
    contents: Arc<Contents>,
}

impl StorageLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut locked = self.contents.locked.lock();
        *locked = if *locked == ALONE { 0 } else { *locked - 1 };
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock(in memory)")
    }
}

struct File {
    contents: Arc<Contents>,
    access: Access,
}

impl StorageFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.contents.bytes.read().len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        Ok(self.contents.bytes.read().read(offset, into))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(super::opened_for_reading());
        }
        check_range(offset, bytes.len())?;
        if !bytes.is_empty() {
            self.contents.bytes.write().write(offset, bytes);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn submit(&self, offset: u64, buffer: IoBuffer, _reach: Reach) -> Box<dyn InFlight> {
        let result =
            check_submission(offset, &buffer).and_then(|()| self.write_at(offset, &buffer));
        Box::new(Finished { result, buffer })
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File(in memory, {} bytes)", self.contents.bytes.read().len())
    }
}
