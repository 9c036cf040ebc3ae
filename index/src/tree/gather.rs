//! Puts together what the layers say of one key, from the newest on.
//!
//! 1. Layers are told of in order, and within a file its versions at or below the read timestamp, newest
//!    first, until it [is decided](Gathered::is_decided).

use isolith_wal::Lsn;

use crate::memtable::{Found, Lookup};
use crate::merge::{MergeRun, Merged, StoredOperand, StoredValue};
use crate::range_deletes::Cover;
use crate::slice::Slice;
use crate::sstable::{FileError, FileValue};
use crate::version::Kind;

/// How far a lookup has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No layer said anything at or below the read timestamp.
    Nothing,
    /// Merges were found, and nothing under them yet.
    Open,
    /// What is further down does not matter.
    Decided,
}

/// What is known of a key.
#[derive(Debug)]
pub(super) struct Gathered<'g> {
    /// A run's operands are newest first until it is finished.
    found: Found<'g>,
    observed: Lsn,
    skipped_newer: bool,
    state: State,
    /// Whether a large value that a file has is left out where nothing is merged into it.
    keys_only: bool,
}

impl Default for Gathered<'_> {
    fn default() -> Self {
        Self {
            found: Found::Absent,
            observed: Lsn::ZERO,
            skipped_newer: false,
            state: State::Nothing,
            keys_only: false,
        }
    }
}

impl<'g> Gathered<'g> {
    /// For somebody who does not look at values.
    pub(super) fn keys_only(keys_only: bool) -> Self {
        Self { keys_only, ..Self::default() }
    }

    /// Whether layers further down do not matter.
    pub(super) fn is_decided(&self) -> bool {
        self.state == State::Decided
    }

    /// A memtable says this.
    pub(super) fn memtable(&mut self, lookup: Lookup<'g>) {
        self.skipped_newer |= lookup.skipped_newer;
        if lookup.observed == Lsn::ZERO {
            return;
        }
        let is_open = matches!(&lookup.found, Found::Merged(merged) if merged.is_open());
        if self.state == State::Nothing {
            (self.found, self.observed) = (lookup.found, lookup.observed);
        } else {
            match lookup.found {
                Found::Put(version) => {
                    let (expires_at, stamp) = (version.expires_at(), version.stamp());
                    self.base(StoredValue { value: version.slice(), expires_at, stamp });
                }
                Found::Merged(merged) => extend(self.run(), merged),
                // Memtables do not say the last three.
                Found::Absent | Found::Stored(_) | Found::Lent(_) | Found::Run(_) => {}
            }
        }
        self.state = if is_open { State::Open } else { State::Decided };
    }

    /// A version above the read timestamp was passed.
    pub(super) fn skipped_newer(&mut self) {
        self.skipped_newer = true;
    }

    /// A file has this version of the key. Gives whether the file's next older one matters.
    ///
    /// # Errors
    /// If its value cannot be read.
    pub(super) fn version(
        &mut self,
        key: &[u8],
        cover: Cover,
        (stamp, kind, time): (Lsn, Kind, u64),
        value: FileValue<'_>,
    ) -> Result<bool, FileError> {
        if stamp < cover.stamp {
            return Ok(false);
        }
        let mut buffer = Vec::new();
        let bytes = match value {
            FileValue::Large(..) if self.keys_only && self.state == State::Nothing => &[],
            value => value.read(key, &mut buffer)?,
        };
        if self.state == State::Nothing {
            self.observed = stamp;
        }
        match kind {
            Kind::Put => {
                self.base(StoredValue { value: Slice::copy(bytes), expires_at: time, stamp });
                self.state = State::Decided;
            }
            Kind::Delete => self.state = State::Decided,
            Kind::Merge { operator } => {
                let bytes = Slice::copy(bytes);
                self.run().operands.push(StoredOperand { operator, bytes, at_ms: time });
                self.state = State::Open;
            }
        }
        Ok(self.state == State::Open)
    }

    /// A file has no more versions that matter, and its range deletes say this.
    pub(super) fn end_of_file(&mut self, cover: Cover) {
        self.skipped_newer |= cover.skipped_newer;
        if cover.stamp == Lsn::ZERO {
            return;
        }
        if self.state == State::Nothing {
            self.observed = cover.stamp;
        }
        self.state = State::Decided;
    }

    fn base(&mut self, value: StoredValue) {
        match self.state {
            State::Nothing => self.found = Found::Stored(Box::new(value)),
            _ => self.run().base = Some(value),
        }
    }

    /// The run so far.
    fn run(&mut self) -> &mut MergeRun {
        if !matches!(self.found, Found::Run(_)) {
            let mut run = MergeRun { base: None, operands: Vec::new(), stamp: self.observed };
            if let Found::Merged(merged) = self.found {
                extend(&mut run, merged);
            }
            self.found = Found::Run(Box::new(run));
        }
        match &mut self.found {
            Found::Run(run) => run,
            _ => unreachable!("it was made a run just now"),
        }
    }

    /// What the reader sees.
    pub(super) fn finish(mut self) -> Lookup<'g> {
        if let Found::Run(run) = &mut self.found {
            run.operands.reverse();
        }
        let Gathered { found, observed, skipped_newer, .. } = self;
        Lookup { found, observed, skipped_newer }
    }
}

/// Puts the merges of a memtable, and their base, under a run that is newest first.
fn extend(run: &mut MergeRun, merged: Merged<'_>) {
    for version in merged.versions() {
        let (bytes, time) = (version.slice(), version.expires_at());
        match version.kind() {
            Kind::Merge { operator } => {
                run.operands.push(StoredOperand { operator, bytes, at_ms: time });
            }
            _ => {
                let stamp = version.stamp();
                run.base = Some(StoredValue { value: bytes, expires_at: time, stamp });
            }
        }
    }
}
