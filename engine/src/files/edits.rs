//! The manifest as it is changed: an edit is durable first, and then true in memory. Where a failure leaves
//! open whether an edit was made, that is found out before the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use isolith_index::manifest::{Edit, Manifest, ManifestError, ManifestState};
use isolith_index::pin;
use isolith_txn::{Space, SpaceId};
use isolith_wal::{Lsn, Storage};

use super::{Done, Files, Pinned, WorkError, reaches};
use crate::core::Core;

/// Commits that brought files and that the manifest does not know: the log has them.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Nothing above this is released of the log.
    pub(super) above: Option<Lsn>,
    pub(super) edits: Vec<Edit>,
}

/// What an edit makes of memory, once it is known whether it was made.
pub(super) type Finish = Box<dyn FnOnce(&Files, bool) + Send>;

/// The manifest, as far as it is known what it says.
pub(super) struct Live {
    /// `None` after a failure: it is opened again before the next edit.
    pub(super) manifest: Option<Manifest>,
    /// Edits of which it is not known whether they were made.
    pub(super) uncertain: Option<(Vec<Edit>, Finish)>,
}

/// Whether the state has what an edit says, which was made together with `all`.
pub(super) fn holds(edit: &Edit, all: &[Edit], state: &ManifestState) -> bool {
    let space = |space: &SpaceId| state.spaces.get(space);
    match edit {
        Edit::AddFile { space: of, level, file } => space(of).is_some_and(|known| {
            known.levels.levels[usize::from(*level)]
                .iter()
                .any(|other| other.file.id == file.file.id)
        }),
        Edit::RemoveFile { id, .. } => {
            let moved =
                |edit: &Edit| matches!(edit, Edit::AddFile { file, .. } if file.file.id == *id);
            all.iter().any(moved) || state.files().all(|other| other.file.id != *id)
        }
        Edit::Flushed { space: of, through } => {
            space(of).is_some_and(|known| known.flushed >= *through)
        }
        Edit::DropSpace { space: of } => space(of).is_none(),
        Edit::LogFloor(floor) => state.log_floor >= *floor,
        // They come with others that tell.
        Edit::NextFile(_)
        | Edit::NextSpace(_)
        | Edit::Operator { .. }
        | Edit::ExpiringSpace(_)
        | Edit::SpaceOptions { .. } => true,
    }
}

impl Files {
    /// Makes edits durable, then has `finish` make them true here; or told that they were not made, clean
    /// up. Where a failure leaves open which of the two it is, that is found out before the next edit.
    pub(super) fn edit(&self, edits: Vec<Edit>, finish: Finish) -> Done<()> {
        let mut live = self.manifest.lock();
        self.settle(&mut live)?;
        let Some(manifest) = &mut live.manifest else {
            finish(self, false);
            return Err(ManifestError::Poisoned.into());
        };
        match manifest.append(&edits) {
            Ok(()) => {
                finish(self, true);
                Ok(())
            }
            // Nothing was written.
            Err(error @ ManifestError::Refused { .. }) => {
                finish(self, false);
                Err(error.into())
            }
            Err(error) => {
                *live = Live { manifest: None, uncertain: Some((edits, finish)) };
                Err(error.into())
            }
        }
    }

    /// After a failure: opens the manifest again, and finds out what became of the last edits.
    pub(super) fn settle(&self, live: &mut Live) -> Done<()> {
        if live.manifest.is_some() {
            return self.pay(live);
        }
        let opened = Manifest::open(Arc::clone(&self.storage), false)?;
        let manifest = opened.ok_or(ManifestError::Poisoned)?;
        if let Some((edits, finish)) = live.uncertain.take() {
            let state = manifest.state();
            finish(self, edits.iter().all(|edit| holds(edit, &edits, state)));
        }
        live.manifest = Some(manifest);
        self.pay(live)
    }

    /// Tells the manifest what it is owed.
    pub(super) fn pay(&self, live: &mut Live) -> Done<()> {
        let edits = std::mem::take(&mut self.owed.lock().edits);
        let Some(manifest) = live.manifest.as_mut().filter(|_| !edits.is_empty()) else {
            return Ok(());
        };
        if let Err(error) = manifest.append(&edits) {
            let owed = edits.clone();
            live.manifest = None;
            live.uncertain = Some((edits, Box::new(|files, made| files.paid(made, owed))));
            return Err(error.into());
        }
        self.paid(true, Vec::new());
        Ok(())
    }

    pub(super) fn paid(&self, made: bool, edits: Vec<Edit>) {
        let above = if made { None } else { self.owed.lock().above };
        *self.owed.lock() = Owed { above, edits };
    }

    /// Where the files are.
    pub(crate) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Whether the log is kept for longer than it is needed.
    pub(crate) fn retains_log(&self) -> bool {
        self.options.log_retained_bytes > 0
    }

    /// Keeps what is live now. Whoever drops it should [let go](Self::unpin) of what was superseded meanwhile.
    ///
    /// Three things are read one after the other, so that they fit: which keyspaces there are, then *visible*,
    /// then their files. A keyspace that is missing was dropped by a commit that is visible, or created since
    /// and is in no file. Files that a visible commit brought are among those of its keyspace.
    pub(crate) fn pin(&self, core: &Core) -> Done<Pinned> {
        // What a keyspace has in files changes under this lock, and only then is the log released.
        let mut live = self.manifest.lock();
        self.settle(&mut live)?;
        let manifest = live.manifest.as_ref().ok_or(ManifestError::Poisoned)?;
        let mut state = manifest.state().clone();
        let log =
            self.log.hold(state.log_floor).map_err(|gone| WorkError::Log(gone.to_string()))?;
        let spaces = core.all_spaces();
        let at = core.marks().visible().max(reaches(&state));
        let levels = spaces.iter().map(|space| Arc::clone(space.view(&pin()).levels())).collect();
        // One that has been dropped: the log says so, and its files may go at any time.
        state.spaces.retain(|id, _| spaces.iter().any(|space| space.id == *id));
        Ok(Pinned { state, at, _levels: levels, _log: log })
    }

    /// After something pinned was dropped: removes the files that were waited for.
    pub(crate) fn unpin(&self, core: &Core) -> Done<()> {
        self.remove_doomed();
        self.release_log(core)
    }

    /// The same, before new files are written.
    pub(super) fn settle_first(&self) -> Done<()> {
        self.settle(&mut self.manifest.lock())
    }

    /// Names of merge operators that the manifest does not know yet.
    pub(super) fn operator_edits(&self, core: &Core) -> Vec<Edit> {
        let live = self.manifest.lock();
        let known = live.manifest.as_ref().map(|manifest| &manifest.state().operators);
        let new = core.operators().all_named();
        new.filter(|(number, _)| known.is_none_or(|known| !known.contains_key(number)))
            .map(|(number, name)| Edit::Operator { number, name: name.to_owned() })
            .collect()
    }

    /// Says that a keyspace is about to be dropped, from before the decision on; and that this is over: the
    /// drop is durable, or was not decided. In between the log is not released.
    pub(crate) fn note_dropping(&self, dropping: bool) {
        let _changing = self.changing.lock();
        // Relaxed: under the mutex.
        self.dropping.store(dropping, Ordering::Relaxed);
    }

    /// A keyspace was dropped, durably: its files go when their last reader does.
    pub(crate) fn drop_space(&self, space: &Arc<Space>) -> Done<()> {
        let _flushing = self.flushing.lock();
        let _compacting = self.compacting.lock();
        let space = Arc::clone(space);
        let edits = vec![Edit::DropSpace { space: space.id }];
        self.edit(
            edits,
            Box::new(move |files, made| {
                if made {
                    files.frozen.lock().retain(|frozen| frozen.space.id != space.id);
                    let guard = pin();
                    let levels = space.view(&guard).levels();
                    levels.files().for_each(|file| file.supersede());
                    levels.value_files().iter().for_each(|file| file.supersede());
                }
            }),
        )?;
        self.remove_doomed();
        Ok(())
    }

    /// Forgets keyspaces whose drop the log tells of.
    pub(crate) fn forget_spaces(&self, spaces: &[SpaceId]) -> Result<(), ManifestError> {
        if spaces.is_empty() {
            return Ok(());
        }
        let mut live = self.manifest.lock();
        let edits: Vec<Edit> = spaces.iter().map(|&space| Edit::DropSpace { space }).collect();
        live.manifest.as_mut().map_or(Ok(()), |manifest| manifest.append(&edits))
    }
}
