//! The inputs of a compaction in one order: by key, newest first.
//!
//! Files that do not overlap make one *run*, so that there are few cursors however many files there are.
//!
//! 1. What comes out ascends strictly, but for versions that two files have both. A file that is not in
//!    order is damaged, and is told.

use std::collections::VecDeque;
use std::sync::Arc;

use isolith_wal::Lsn;

use super::CompactError;
use crate::block::order;
use crate::sstable::{FileCursor, FileSource, Sstable};

/// Files that ascend and do not overlap, and the place in them.
struct Run {
    files: VecDeque<Arc<Sstable>>,
    cursor: FileCursor,
    /// The version that the cursor is at.
    key: Vec<u8>,
    /// The key's first bytes, as a number that orders as they do.
    head: u64,
    stamp: Lsn,
}

/// All inputs.
pub(crate) struct Sources {
    runs: Vec<Run>,
    /// A heap of the runs that are not at their end: the first has the next version.
    heap: Vec<usize>,
    to: Option<Vec<u8>>,
}

impl Sources {
    /// The inputs from one key to another.
    pub(crate) fn new(
        inputs: &[Arc<Sstable>],
        from: &[u8],
        to: Option<Vec<u8>>,
    ) -> Result<Self, CompactError> {
        let mut files: Vec<_> = inputs.iter().filter(|file| is_within(file, from, &to)).collect();
        files.sort_by(|left, right| left.properties().smallest.cmp(&right.properties().smallest));
        let mut runs: Vec<VecDeque<Arc<Sstable>>> = Vec::new();
        for file in files {
            let follows = |run: &&mut VecDeque<Arc<Sstable>>| {
                let largest = run.back().and_then(|last| last.properties().largest.as_ref());
                largest.is_some_and(|largest| *largest < file.properties().smallest)
            };
            match runs.iter_mut().find(follows) {
                Some(run) => run.push_back(Arc::clone(file)),
                None => runs.push(VecDeque::from([Arc::clone(file)])),
            }
        }
        let mut sources = Self { runs: Vec::new(), heap: Vec::new(), to };
        for mut files in runs {
            let Some(file) = files.pop_front() else { continue };
            let mut cursor = FileCursor::new(file);
            let more = cursor.seek(from, Lsn::MAX).map_err(|error| damaged(&cursor, error))?;
            let (key, head, stamp) = (Vec::new(), 0, Lsn::MAX);
            let mut run = Run { files, cursor, key, head, stamp };
            if run.enter(more, sources.to.as_deref())? {
                sources.heap.push(sources.runs.len());
                sources.runs.push(run);
            }
        }
        for parent in (0..sources.heap.len() / 2).rev() {
            sources.sift_down(parent);
        }
        Ok(sources)
    }

    /// The next version.
    pub(crate) fn version(&self) -> Result<Option<FileSource<'_>>, CompactError> {
        let Some(&first) = self.heap.first() else { return Ok(None) };
        let cursor = &self.runs[first].cursor;
        cursor.version().map_err(|error| damaged(cursor, error))
    }

    /// Goes past it.
    pub(crate) fn advance(&mut self) -> Result<(), CompactError> {
        let Some(&first) = self.heap.first() else { return Ok(()) };
        let run = &mut self.runs[first];
        let more = run.cursor.advance().map_err(|error| damaged(&run.cursor, error))?;
        if !run.enter(more, self.to.as_deref())? {
            self.heap.swap_remove(0);
        }
        self.sift_down(0);
        Ok(())
    }

    fn is_before(&self, left: usize, right: usize) -> bool {
        let (left, right) = (&self.runs[self.heap[left]], &self.runs[self.heap[right]]);
        if left.head != right.head {
            return left.head < right.head;
        }
        order((&left.key, left.stamp), (&right.key, right.stamp)).is_lt()
    }

    fn sift_down(&mut self, mut parent: usize) {
        loop {
            let mut least = parent;
            for child in [2 * parent + 1, 2 * parent + 2] {
                if child < self.heap.len() && self.is_before(child, least) {
                    least = child;
                }
            }
            if least == parent {
                return;
            }
            self.heap.swap(parent, least);
            parent = least;
        }
    }
}

impl Run {
    /// Takes up the version that the cursor is at, or the first of the next file; false: there is none.
    fn enter(&mut self, mut more: bool, to: Option<&[u8]>) -> Result<bool, CompactError> {
        while !more {
            let Some(file) = self.files.pop_front() else { return Ok(false) };
            self.cursor = FileCursor::new(file);
            more = self.cursor.first().map_err(|error| damaged(&self.cursor, error))?;
        }
        let version = self.cursor.version().map_err(|error| damaged(&self.cursor, error))?;
        let Some((key, stamp, ..)) = version else { return Ok(false) };
        // Before the first version: the empty key at the largest stamp, which no version has.
        if order((&self.key, self.stamp), (key, stamp)).is_ge() {
            let error = self.cursor.out_of_order();
            return Err(damaged(&self.cursor, error));
        }
        if to.is_some_and(|to| key >= to) {
            return Ok(false);
        }
        if self.key != key {
            self.key.clear();
            self.key.extend_from_slice(key);
            self.head = head(key);
        }
        self.stamp = stamp;
        Ok(true)
    }
}

/// Whether a file has versions from one key to another.
fn is_within(file: &Sstable, from: &[u8], to: &Option<Vec<u8>>) -> bool {
    let properties = file.properties();
    properties.entries > 0
        && properties.largest.as_deref().is_none_or(|largest| largest >= from)
        && to.as_ref().is_none_or(|to| properties.smallest < *to)
}

fn head(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = key.len().min(8);
    head[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(head)
}

fn damaged(cursor: &FileCursor, error: crate::sstable::FileError) -> CompactError {
    CompactError::Input { file: cursor.id(), error }
}
