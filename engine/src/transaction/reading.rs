//! How a transaction reads a key: the plan (the table in the head of `transaction.rs`), its carrying
//! out, and what is remembered of it.

use std::cell::RefMut;

use isolith_index::{Base, Found, Operand, Slice, pin};
use isolith_txn::{Concurrency, LockMode, LockTarget, ReadSet, SpaceId, Watermarks, Write};
use isolith_wal::Lsn;

use super::Transaction;
use crate::error::{ConflictOn, Error, Result};
use crate::keyspace::{Entry, Keyspace};
use crate::merge::Seen;

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Intent {
    /// What the level makes of it.
    Plain,
    /// The key shall not change before the commit.
    Share,
    /// The key is going to be changed.
    Update,
    /// It does not matter: neither lock nor dependency.
    Hint,
}

/// How a read is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// At the read timestamp; tracked or not.
    AtTimestamp { track: bool },
    /// At the newest *visible*; tracked or not.
    AtVisible { track: bool },
    /// Under a lock, at the newest.
    Locked(LockMode),
    /// Under a lock, at the read timestamp, which nothing newer on the key may belie.
    LockedAtTimestamp(LockMode),
}

/// What a transaction has read, and nobody looks at unless it merges into some of it.
#[derive(Debug, Default)]
pub(super) struct Examined {
    keys: Vec<(SpaceId, Slice)>,
    bytes: usize,
    /// The intervals that it has examined: a key that was absent there was read, too.
    intervals: ReadSet,
}

impl Examined {
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.intervals.bytes()
    }

    pub(super) fn add(&mut self, space: SpaceId, key: &[u8]) {
        let again = |(last, known): &(SpaceId, Slice)| *last == space && **known == *key;
        if !self.keys.last().is_some_and(again) {
            self.keys.push((space, Slice::from(key)));
            self.bytes += key.len() + size_of::<(SpaceId, Slice)>();
        }
    }
}

impl Transaction {
    /// Whether what it reads is protected by locks rather than by validation.
    pub(super) fn locks_reads(&self) -> bool {
        matches!(self.concurrency, Concurrency::Locking(_))
            && self.isolation.protects_items()
            && !self.read_only
    }

    /// Where the intervals that it examines are recorded, if they are.
    pub(crate) fn tracked_intervals(&self) -> Option<RefMut<'_, ReadSet>> {
        if self.isolation.first_committer_wins() && !self.read_only {
            let seen = self.seen.borrow_mut();
            return Some(RefMut::map(seen, |seen| &mut seen.get_or_insert_default().intervals));
        }
        let tracked = self.isolation.protects_intervals() && !self.read_only && !self.locks_reads();
        tracked.then(|| self.reads.borrow_mut())
    }

    /// Notes that a scan returned a key that it found in the database.
    pub(crate) fn returned(&self, keyspace: &Keyspace, key: &[u8]) {
        let by_items = self.isolation.protects_items() && !self.isolation.protects_intervals();
        let untracked = isolith_wal::planted!("returned-keys-untracked");
        if by_items && !self.read_only && !self.locks_reads() && !untracked {
            self.reads.borrow_mut().point(keyspace.space(), key);
        }
    }

    /// Notes that something of others was read at a key, if that may matter.
    pub(super) fn note_seen(&self, keyspace: &Keyspace, key: &[u8]) -> bool {
        if !self.isolation.first_committer_wins() || self.read_only {
            return false;
        }
        let space = keyspace.space().id;
        let own = self.overlay(space).and_then(|own| own.lookup(key));
        let others = matches!(own, None | Some(Write::Merge { .. }));
        if others {
            self.seen.borrow_mut().get_or_insert_default().add(space, key);
        }
        others
    }

    /// Makes the transaction depend on the keys that it has read and merges into, where nothing else
    /// does: what is merged may have been made of what was read.
    pub(super) fn depend_on_merged(&self) {
        let mut seen = self.seen.borrow_mut();
        let Some(seen) = &mut *seen else { return };
        let merged = self.writes.overlays().iter().flat_map(|overlay| {
            let merges = overlay.entries().filter(|(_, w)| matches!(w, Write::Merge { .. }));
            merges.map(move |(key, _)| (&overlay.space, key))
        });
        let mut merged = merged.peekable();
        if merged.peek().is_none() {
            return;
        }
        seen.keys.sort_unstable_by(|(a, key), (b, other)| (a, &**key).cmp(&(b, &**other)));
        for (space, key) in merged {
            let found =
                seen.keys.binary_search_by(|(id, seen)| (id, &**seen).cmp(&(&space.id, key)));
            if found.is_ok() || seen.intervals.has_examined(space.id, key) {
                self.reads.borrow_mut().point(space, key);
            }
        }
    }

    /// Whether a key is fought for, as far as this transaction would do something about it.
    pub(super) fn is_hot(&self, keyspace: &Keyspace, key: &[u8]) -> bool {
        self.concurrency == Concurrency::Auto
            && self.open.heat().is_hot(keyspace.space().id, key, self.open.marks().visible())
    }

    /// How a read is to be made (the table in the head of `transaction.rs`).
    pub(super) fn plan(&self, keyspace: &Keyspace, key: &[u8], intent: Intent) -> Plan {
        use Concurrency::{Auto, Locking, Optimistic};
        let by_statement = self.isolation.reads_by_statement()
            && !isolith_wal::planted!("statements-share-a-timestamp");
        let protected = self.isolation.protects_items();
        let plain = |track| match by_statement {
            true => Plan::AtVisible { track },
            false => Plan::AtTimestamp { track },
        };
        if self.read_only {
            return Plan::AtTimestamp { track: false };
        }
        match (self.concurrency, intent) {
            (_, Intent::Hint) if self.locks_reads() => Plan::AtVisible { track: false },
            (_, Intent::Hint) => plain(false),
            (Locking(_), Intent::Plain) if protected => Plan::Locked(LockMode::Shared),
            (Locking(_), Intent::Plain) => plain(false),
            (Optimistic, Intent::Plain) => plain(protected),
            (Auto, Intent::Plain) if protected && self.is_hot(keyspace, key) => {
                // Who reads a key that is fought for is likely to write it: two shared locks would
                // only wait for each other.
                Plan::LockedAtTimestamp(LockMode::Update)
            }
            (Auto, Intent::Plain) => plain(protected),
            (Optimistic, _) => plain(!isolith_wal::planted!("for-update-untracked")),
            (Auto, _) if !self.is_hot(keyspace, key) => plain(true),
            (_, intent) => {
                let mode =
                    if intent == Intent::Share { LockMode::Shared } else { LockMode::Update };
                let newest = by_statement || self.locks_reads();
                if newest { Plan::Locked(mode) } else { Plan::LockedAtTimestamp(mode) }
            }
        }
    }

    /// Reads one key: the entry, and the newest LSN at or below the timestamp of the read on that
    /// key, deletions included (`Lsn::ZERO` if it never had a version, or the write is its own).
    pub(super) fn read(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        intent: Intent,
    ) -> Result<(Option<Entry>, Lsn)> {
        let read = self.read_by(keyspace, key, || self.plan(keyspace, key, intent))?;
        if intent != Intent::Hint && self.note_seen(keyspace, key) {
            self.check_size()?;
        }
        Ok(read)
    }

    pub(super) fn read_by(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        plan: impl FnOnce() -> Plan,
    ) -> Result<(Option<Entry>, Lsn)> {
        self.check_running()?;
        let space = keyspace.space();
        keyspace.check(&self.open)?;
        match self.writes.overlay(space.id).and_then(|own| own.lookup(key)) {
            Some(Write::Merge { operator, operand, at_ms }) => {
                let own = Operand { operator: *operator, bytes: operand, at_ms: *at_ms };
                let (base, observed) = self.read_others(keyspace, key, plan())?;
                Ok((Some(self.merged(keyspace, key, base.as_ref(), own)?), observed))
            }
            Some(own) => Ok((self.own_entry(own), Lsn::ZERO)),
            None => self.read_others(keyspace, key, plan()),
        }
    }

    /// What an own merge makes of what was found under it.
    pub(super) fn merged(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        base: Option<&Entry>,
        own: Operand<'_>,
    ) -> Result<Entry> {
        let base = base.map(Entry::as_base);
        self.open.fold(keyspace.space(), key, base, &[own]).map(Entry::of_merged)
    }

    /// The same, but for what the transaction has written itself.
    pub(super) fn read_others(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        plan: Plan,
    ) -> Result<(Option<Entry>, Lsn)> {
        let space = keyspace.space();
        let track = match plan {
            Plan::AtTimestamp { track } => track,
            Plan::AtVisible { track } => return self.read_visible(keyspace, key, track),
            Plan::Locked(mode) => return self.read_locked(keyspace, key, mode),
            Plan::LockedAtTimestamp(mode) => {
                self.lock_at_timestamp(keyspace, key, mode)?;
                self.isolation.protects_items()
            }
        };
        let read = self.read_at()?;
        self.check_keyspace(keyspace, read)?;
        let guard = pin();
        let found = space.view(&guard).lookup(key, read, &guard)?;
        self.believe()?;
        self.observe(found.observed);
        let untracked =
            isolith_wal::planted!("absent-key-untracked") && matches!(found.found, Found::Absent);
        if track && !self.read_only && !untracked {
            self.reads.borrow_mut().point(space, key);
            self.check_size()?;
        }
        let seen = self.open.see(space, key, found.found, || self.now)?;
        let entry = seen.map(Seen::into_entry);
        if let Plan::LockedAtTimestamp(_) = plan {
            self.locking.check(&self.open)?;
        }
        Ok((entry, found.observed))
    }

    /// What an own merge comes to in a scan that found `base` under it.
    pub(crate) fn merged_in_scan(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        base: Option<&Slice>,
    ) -> Result<Option<Slice>> {
        // What locks what it reads one by one has locked what was there, and this was not.
        if base.is_none() && self.locks_reads() && !self.isolation.protects_intervals() {
            return self.get(keyspace, key);
        }
        let own = self.overlay(keyspace.space().id).and_then(|own| own.lookup(key));
        let Some(Write::Merge { operator, operand, at_ms }) = own else { return Ok(None) };
        let own = Operand { operator: *operator, bytes: operand, at_ms: *at_ms };
        // The value is live, or the scan would not have found it; when it expires does not matter.
        let base = base.map(|value| Base { value, expires_at: 0 });
        let merged = self.open.fold(keyspace.space(), key, base, &[own])?;
        Ok(Some(Slice::from(merged.value)))
    }

    /// What an own write says of its key.
    pub(super) fn own_entry(&self, own: &Write) -> Option<Entry> {
        match own {
            Write::Put { value, expires_at } if *expires_at == 0 => {
                Some(Entry { value: value.slice(), expires_at: None })
            }
            Write::Put { value, expires_at } if *expires_at > self.now => {
                Some(Entry { value: value.slice(), expires_at: Some(*expires_at) })
            }
            // A merge does not say it by itself.
            Write::Put { .. } | Write::Delete | Write::Merge { .. } => None,
        }
    }

    /// A statement of its own: the newest that is visible, which is never older than what an earlier
    /// statement saw.
    pub(super) fn read_visible(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        track: bool,
    ) -> Result<(Option<Entry>, Lsn)> {
        if track {
            self.bear_witness()?;
        }
        let since = self.open.marks().visible();
        let (entry, observed) =
            keyspace.read_newest(key, Watermarks::visible, Some(self.now), |seen| {
                seen.map(Seen::into_entry)
            })?;
        self.observe(observed);
        if track {
            // All that is newer than both has changed the key since.
            self.reads.borrow_mut().point_at(keyspace.space(), key, observed.max(since));
            self.check_size()?;
        }
        Ok((entry, observed))
    }

    /// Locks the key, then reads the newest there is: it stays the newest while the lock is held.
    pub(super) fn read_locked(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        mode: LockMode,
    ) -> Result<(Option<Entry>, Lsn)> {
        let absent = || keyspace.space().active().lookup(key, Lsn::MAX, &pin()).put().is_none();
        if !(isolith_wal::planted!("absent-key-not-locked") && absent()) {
            self.lock(keyspace, LockTarget::Key(key), mode)?;
        }
        self.await_round();
        let at = self.open.marks().visible();
        self.check_keyspace(keyspace, at)?;
        let guard = pin();
        let found = keyspace.space().view(&guard).lookup(key, at, &guard)?;
        let seen = self.open.see(keyspace.space(), key, found.found, || self.now)?;
        let entry = seen.map(Seen::into_entry);
        self.observe(found.observed);
        self.reads.borrow_mut().space(keyspace.space());
        // After the read: a lock that was taken away meanwhile protected nothing.
        self.locking.check(&self.open)?;
        self.check_size()?;
        Ok((entry, found.observed))
    }

    /// Locks the key, and makes sure that what is read at the read timestamp is the newest: takes
    /// the timestamp now if there is none, else moves it forward if the level allows and all that was
    /// read before still holds (protocol rule 28).
    pub(super) fn lock_at_timestamp(
        &self,
        keyspace: &Keyspace,
        key: &[u8],
        mode: LockMode,
    ) -> Result<()> {
        self.lock(keyspace, LockTarget::Key(key), mode)?;
        self.await_round();
        if self.slot.borrow().is_none() {
            self.read_at()?;
            return Ok(());
        }
        let guard = pin();
        let newest = keyspace.space().view(&guard).newest(key, &guard)?;
        self.reach(keyspace, newest, || ConflictOn::Write(Slice::from(key)))
    }

    /// Makes sure that the read timestamp is not older than `newest`, the newest on what was just
    /// locked: moves it forward if need be and the level allows. Otherwise it is a conflict.
    pub(super) fn reach(
        &self,
        keyspace: &Keyspace,
        newest: Lsn,
        what: impl Fn() -> ConflictOn,
    ) -> Result<()> {
        if self.read_at()? >= newest || isolith_wal::planted!("locked-at-an-old-timestamp") {
            return Ok(());
        }
        if self.isolation.protects_items() {
            if self.advance()? {
                return Ok(());
            }
            self.torn.get_or_init(|| Box::new((keyspace.clone(), what(), newest)));
        }
        Err(self.conflict_on(keyspace, what(), Some(newest)))
    }

    /// Moves the read timestamp to *visible*. False: something that was read before has changed since
    /// the old one.
    pub(super) fn advance(&self) -> Result<bool> {
        let mut slot = self.slot.borrow_mut();
        let Some(slot) = &mut *slot else { return Ok(true) };
        let since = slot.timestamp();
        // First the timestamp, then the look: what was installed up to it is seen.
        slot.advance(self.open.marks(), Watermarks::visible);
        Ok(isolith_wal::planted!("moved-on-without-validation")
            || self.reads.borrow().is_unchanged_since(since, &pin())?)
    }

    /// The error for a dependency that was found to be broken before the commit.
    pub(super) fn conflict_on(
        &self,
        keyspace: &Keyspace,
        what: ConflictOn,
        other: Option<Lsn>,
    ) -> Error {
        let waste = self.reads.borrow().operations() + 1;
        self.open.conflict(keyspace.space().id, what, other, waste)
    }
}
