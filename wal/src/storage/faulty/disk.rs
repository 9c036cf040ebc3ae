//! The state of a faulty disk, and what each call does to it.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::names::{Names, Node};
use super::trace::{Call, Fate, Operation, Outcome, When};
use super::{DiskKind, Fault};
use crate::storage::sparse::SparseBytes;
use crate::storage::{BLOCK_BYTES, DirectoryEntry, Reach};

/// A file whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct FileId(u64);

/// A write, in the order in which they were begun on the whole disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct WriteId(pub(super) u64);

/// All of a disk.
pub(super) struct Disk {
    pub(super) kind: DiskKind,
    pub(super) names: Names,
    /// Files that have, had or might get back a name.
    pub(super) files: BTreeMap<FileId, FileState>,
    pub(super) next_file: u64,
    pub(super) next_write: u64,
    /// How many bytes all named files may take, in whole blocks.
    pub(super) capacity: Option<u64>,
    pub(super) locked: HashSet<FileId>,
    pub(super) calls: Vec<Call>,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    faults: Vec<(When, Fault)>,
}

/// One file (model 1).
#[derive(Clone, Default)]
pub(super) struct FileState {
    /// What reads see.
    pub(super) now: SparseBytes,
    /// What surely survives.
    pub(super) disk: SparseBytes,
    /// What may survive, in the order in which it was completed; the uncompleted anywhere between.
    pub(super) writes: Vec<Unsynced>,
}

#[derive(Clone)]
pub(super) struct Unsynced {
    pub(super) id: WriteId,
    pub(super) offset: u64,
    pub(super) bytes: Arc<[u8]>,
    pub(super) progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Submitted, or cut off by the crash.
    Flying,
    /// The caller was told that it is written, and reads see it.
    Completed,
    /// The caller was told that it failed.
    Failed,
}

impl Unsynced {
    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes.len() as u64
    }
}

impl Disk {
    pub(super) fn new(kind: DiskKind) -> Disk {
        Disk {
            kind,
            names: Names::default(),
            files: BTreeMap::new(),
            next_file: 1,
            next_write: 1,
            capacity: None,
            locked: HashSet::new(),
            calls: Vec::new(),
            crash_at: None,
            crashed: false,
            faults: Vec::new(),
        }
    }

    /// Numbers a call, decides its fate, and notes how it ended.
    pub(super) fn call<T>(
        &mut self,
        operation: Operation,
        path: &Path,
        run: impl FnOnce(&mut Disk, Fate) -> io::Result<T>,
    ) -> io::Result<T> {
        self.numbered(operation, path, None, run)
    }

    /// The same for a read or a write.
    pub(super) fn call_at<T>(
        &mut self,
        operation: Operation,
        path: &Path,
        offset: u64,
        bytes: usize,
        run: impl FnOnce(&mut Disk, Fate) -> io::Result<T>,
    ) -> io::Result<T> {
        self.numbered(operation, path, Some((offset, bytes)), run)
    }

    fn numbered<T>(
        &mut self,
        operation: Operation,
        path: &Path,
        extent: Option<(u64, usize)>,
        run: impl FnOnce(&mut Disk, Fate) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.crashed {
            Fate::Crash.refuse()?;
        }
        let number = self.calls.len() as u64 + 1;
        let path = path.display().to_string();
        let fault = self.faults.iter().position(|(when, _)| when.is(number, operation, &path));
        let fate = match fault.map(|index| self.faults.remove(index)) {
            _ if self.crash_at == Some(number) => Fate::Crash,
            Some((_, fault)) => Fate::Fail(fault),
            None => Fate::Succeed,
        };
        self.crashed = fate == Fate::Crash;
        let result = run(self, fate);
        let outcome = match &result {
            _ if self.crashed => Outcome::Crashed,
            Ok(_) => Outcome::Done,
            Err(error) => Outcome::Failed(error.kind()),
        };
        self.calls.push(Call { number, operation, path, extent, outcome });
        // A call that asked for the impossible had nothing to do at the crash, but crashed.
        if self.crashed { Err(Fate::Crash.refuse().expect_err("a crash refuses")) } else { result }
    }

    pub(super) fn plan(&mut self, when: When, fault: Fault) {
        self.faults.push((when, fault));
    }

    pub(super) fn create(&mut self, path: &Path, fate: Fate) -> io::Result<FileId> {
        let file = FileId(self.next_file);
        self.names.create(path, file, fate).inspect_err(|_| {
            // The crashing call may have made the file.
            self.files.insert(file, FileState::default());
        })?;
        self.next_file += 1;
        self.files.insert(file, FileState::default());
        Ok(file)
    }

    pub(super) fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.names.check_directory(directory)?;
        let entry = |(path, node): (&std::path::PathBuf, &Node)| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            (path.parent() == Some(directory)).then(|| match node {
                Node::Directory => DirectoryEntry { name, bytes: 0, is_directory: true },
                Node::File(file) => {
                    DirectoryEntry { name, bytes: self.length(*file), is_directory: false }
                }
            })
        };
        let mut entries: Vec<_> = self.names.now.iter().filter_map(entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn length(&self, file: FileId) -> u64 {
        self.files[&file].now.len()
    }

    pub(super) fn read(&self, file: FileId, offset: u64, into: &mut [u8]) -> usize {
        self.files[&file].now.read(offset, into)
    }

    pub(super) fn flip_bits(&mut self, file: FileId, offset: u64, mask: u8) -> io::Result<()> {
        let state = self.state(file);
        if offset >= state.now.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for image in [&mut state.now, &mut state.disk] {
            let mut byte = [0];
            if image.read(offset, &mut byte) == 1 {
                image.write(offset, &[byte[0] ^ mask]);
            }
        }
        for write in &mut state.writes {
            if write.range().contains(&offset) {
                let at = (offset - write.offset) as usize;
                Arc::make_mut(&mut write.bytes)[at] ^= mask;
            }
        }
        Ok(())
    }

    /// A write is on its way.
    pub(super) fn begin_write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> WriteId {
        let id = WriteId(self.next_write);
        self.next_write += 1;
        let progress = Progress::Flying;
        self.state(file).writes.push(Unsynced { id, offset, bytes: bytes.into(), progress });
        id
    }

    /// It was not even handed over; whether it lands is as open as with any failed write.
    pub(super) fn abandon_write(&mut self, file: FileId, id: WriteId) {
        if !self.crashed {
            self.state(file).set_progress(id, Progress::Failed);
        }
    }

    /// It is done, as far as `reach` and its fate go.
    pub(super) fn finish_write(
        &mut self,
        file: FileId,
        id: WriteId,
        reach: Reach,
        fate: Fate,
    ) -> io::Result<()> {
        if let Err(error) = fate.refuse() {
            self.abandon_write(file, id);
            return Err(error);
        }
        let free = self.capacity.map(|capacity| capacity.saturating_sub(self.used()));
        let state = self.state(file);
        let fits = state.complete(id, free);
        match (reach, self.kind) {
            (Reach::Kernel, _) => {}
            (Reach::Stable, DiskKind::Fua) => self.state(file).make_stable(|write| write == id),
            (Reach::Stable, DiskKind::WriteThrough) => {
                self.files.values_mut().for_each(|state| state.make_stable(|_| true));
            }
        }
        if fits { Ok(()) } else { Fate::Fail(Fault::NoSpace).refuse() }
    }

    pub(super) fn sync(&mut self, file: FileId, fate: Fate) -> io::Result<()> {
        let state = self.state(file);
        match fate {
            Fate::Crash => {}
            Fate::Succeed => {
                state.make_stable(|_| true);
                state.writes.retain(|write| write.progress == Progress::Flying);
            }
            // Model 4: what was to be synced is gone, and nobody will speak of it again.
            Fate::Fail(_) => state.writes.retain(|write| write.progress != Progress::Completed),
        }
        fate.refuse()
    }

    pub(super) fn drop_clean_pages(&mut self) {
        for state in self.files.values_mut() {
            let bytes = state.now.len();
            state.now = state.disk.clone();
            // The cached length of a file is no page.
            state.now.extend_to(bytes);
            for write in state.writes.iter().filter(|write| write.progress == Progress::Completed) {
                state.now.write(write.offset, &write.bytes);
            }
        }
    }

    /// The space that named files take, in whole blocks.
    pub(super) fn used(&self) -> u64 {
        let files = self.names.now.values().filter_map(|node| match node {
            Node::File(file) => Some(self.length(*file).next_multiple_of(BLOCK_BYTES as u64)),
            Node::Directory => None,
        });
        files.sum()
    }

    pub(super) fn unsynced_count(&self) -> usize {
        let writes: usize = self.files.values().map(|state| state.writes.len()).sum();
        writes + self.names.changes.len()
    }

    fn state(&mut self, file: FileId) -> &mut FileState {
        self.files.get_mut(&file).expect("a handle's file is never forgotten")
    }
}

impl FileState {
    fn set_progress(&mut self, id: WriteId, progress: Progress) {
        if let Some(write) = self.writes.iter_mut().find(|write| write.id == id) {
            write.progress = progress;
        }
    }

    /// Lets reads see the write, cut to what `free` bytes of new space hold. Returns whether all of
    /// it fitted.
    fn complete(&mut self, id: WriteId, free: Option<u64>) -> bool {
        let Some(index) = self.writes.iter().position(|write| write.id == id) else {
            return true; // nothing left of it: it was empty
        };
        let mut write = self.writes.remove(index);
        let mut fits = true;
        if let Some(free) = free {
            let end_max = self.now.len().next_multiple_of(BLOCK_BYTES as u64) + free;
            let room = usize::try_from(end_max.saturating_sub(write.offset)).unwrap_or(usize::MAX);
            if room < write.bytes.len() {
                write.bytes = write.bytes[..room].into();
                fits = false;
            }
        }
        if !write.bytes.is_empty() {
            // What failed here before is overwritten now, wherever it had got to.
            let range = write.range();
            self.forget(range, |older| older.progress == Progress::Failed);
            self.now.write(write.offset, &write.bytes);
            write.progress = Progress::Completed;
            self.writes.push(write);
        }
        fits
    }

    /// Brings completed writes to the disk.
    fn make_stable(&mut self, chosen: impl Fn(WriteId) -> bool) {
        let is_chosen =
            |write: &Unsynced| write.progress == Progress::Completed && chosen(write.id);
        let stable: Vec<_> = self.writes.iter().filter(|write| is_chosen(write)).cloned().collect();
        for write in stable {
            self.disk.write(write.offset, &write.bytes);
            // Older bytes of the same place cannot come after it any more.
            self.forget(write.range(), |older| older.progress != Progress::Flying);
        }
    }

    /// Takes a range out of writes, which may leave pieces of them before and behind it.
    fn forget(&mut self, range: Range<u64>, which: impl Fn(&Unsynced) -> bool) {
        let writes = std::mem::take(&mut self.writes);
        for write in writes {
            let own = write.range();
            if !which(&write) || own.end <= range.start || range.end <= own.start {
                self.writes.push(write);
                continue;
            }
            for piece in [own.start..range.start.min(own.end), range.end.max(own.start)..own.end] {
                if piece.start < piece.end {
                    let within =
                        (piece.start - own.start) as usize..(piece.end - own.start) as usize;
                    let bytes = write.bytes[within].into();
                    self.writes.push(Unsynced { offset: piece.start, bytes, ..write.clone() });
                }
            }
        }
    }
}
