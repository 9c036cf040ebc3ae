//! What a transaction knows of a keyspace.

use std::sync::Arc;

use isolith_index::{Guard, LevelSet, Memtable, Prepared, Tree, View, pin};
use isolith_wal::Lsn;

use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// A keyspace's number: never given twice in one database.
pub type SpaceId = u32;

/// A keyspace as transactions see it: its number, its versions, and its life span.
#[derive(Debug)]
pub struct Space {
    /// The keyspace's number.
    pub id: SpaceId,
    /// The versions of its keys.
    pub tree: Tree,
    /// LSN at which it was dropped; all ones while it lives.
    dropped: AtomicU64,
    /// The newest commit that wrote here.
    written: AtomicU64,
    /// The first commit that wrote to the memtable that is active now; 0: none has.
    dirty_since: AtomicU64,
    /// Set once a value with an expiry was written; never cleared.
    expiring: AtomicBool,
    /// Set once somebody merged; never cleared.
    merging: AtomicBool,
    /// What a put lives that says nothing of it, in milliseconds; 0: for ever.
    ttl_ms: AtomicU64,
    /// The largest stamp that went from the files without leaving a trace on its key.
    forgotten: AtomicU64,
    /// Transactions that hold a lock here, or wait for one.
    lockers: AtomicU64,
}

impl Space {
    /// A living keyspace over an empty memtable.
    pub fn new(id: SpaceId, memtable: Arc<Memtable>) -> Self {
        Self::over(id, memtable, Arc::default())
    }

    /// A living keyspace over an empty memtable and what is in files.
    pub fn over(id: SpaceId, memtable: Arc<Memtable>, levels: Arc<LevelSet>) -> Self {
        Self {
            id,
            tree: Tree::new(memtable, levels),
            dropped: AtomicU64::new(u64::MAX),
            written: AtomicU64::new(0),
            dirty_since: AtomicU64::new(0),
            expiring: AtomicBool::new(false),
            merging: AtomicBool::new(false),
            ttl_ms: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            lockers: AtomicU64::new(0),
        }
    }

    /// The layers of its versions, as of now. First the timestamp, then the view: a reader that loads
    /// them in this order finds all that it is to see (protocol rule 6).
    #[inline]
    pub fn view<'g>(&'g self, guard: &'g Guard) -> &'g View {
        self.tree.view(guard)
    }

    /// Writes of up to so many keys, to be added to and installed.
    pub fn prepare(&self, capacity: usize) -> Prepared {
        self.view(&pin()).active().prepare(capacity)
    }

    /// The memtable that is written to, as of now.
    pub fn active(&self) -> Arc<Memtable> {
        Arc::clone(self.view(&pin()).active())
    }

    /// Whether a reader at `read` still sees the keyspace.
    pub fn exists_at(&self, read: Lsn) -> bool {
        // Acquire: pairs with the Release in `drop_at`. Who reads at or above the drop's LSN has
        // acquired it through *visible*.
        read.bits() < self.dropped.load(Ordering::Acquire)
    }

    /// Whether it was dropped by a decided commit. Exact inside the commit window.
    pub fn is_dropped(&self) -> bool {
        !self.exists_at(Lsn::MAX)
    }

    /// Marks the keyspace dropped. Called inside the commit window by the commit that drops it,
    /// before that commit becomes visible.
    pub fn drop_at(&self, lsn: Lsn) {
        // Release: pairs with the Acquire in `exists_at`.
        self.dropped.store(lsn.bits(), Ordering::Release);
    }

    /// Notes a commit that writes here. Called inside the commit window, before the commit becomes
    /// visible.
    pub fn note_write(&self, lsn: Lsn) {
        // Relaxed: who asks about a commit has seen it through *visible*, whose Release comes after.
        self.written.store(lsn.bits(), Ordering::Relaxed);
        // Relaxed: written only by the window's leader, and read under the window's mutex, or by somebody
        // who has seen the commit through *visible*.
        if self.dirty_since.load(Ordering::Relaxed) == 0 {
            self.dirty_since.store(lsn.bits(), Ordering::Relaxed);
        }
    }

    /// The first commit that wrote to the active memtable, as far as the caller knows of commits.
    pub fn dirty_since(&self) -> Option<Lsn> {
        // Relaxed: see `note_write`.
        let since = self.dirty_since.load(Ordering::Relaxed);
        (since != 0).then(|| Lsn::from_bits(since))
    }

    /// Puts an empty memtable over all there is: everything up to `through`, which is *visible*, is in the
    /// layers beneath, and what comes later goes to the new one. Called between rounds, by whoever holds
    /// the window (protocol rule 14). Returns the first commit that wrote to what is frozen now.
    pub fn freeze(&self, fresh: Arc<Memtable>, through: Lsn, guard: &Guard) -> Option<Lsn> {
        let since = self.dirty_since();
        // Relaxed: see `note_write`.
        self.dirty_since.store(0, Ordering::Relaxed);
        self.tree.replace(self.view(guard).frozen_into(fresh, through));
        since
    }

    /// Lets a commit bring its own files: they are in `levels`, and `fresh` is put over them, so that every
    /// request that is under way is found stale and judged anew. Nothing was written to the memtable that
    /// was active, and none is frozen. Called within the window, before the commit becomes visible. Returns
    /// the memtable that was active.
    pub fn ingest(
        &self,
        lsn: Lsn,
        fresh: Arc<Memtable>,
        levels: Arc<LevelSet>,
        guard: &Guard,
    ) -> Arc<Memtable> {
        // Relaxed: see `note_write`.
        self.written.store(lsn.bits(), Ordering::Relaxed);
        let view = self.view(guard);
        let empty = Arc::clone(view.active());
        self.tree.replace(view.frozen_into(fresh, lsn.before()).flushed(&empty, levels));
        empty
    }

    /// Whether no commit after `since` wrote here, as far as the caller knows of commits: up to a
    /// *visible* that it has loaded, or all of them inside the commit window.
    pub fn is_unwritten_since(&self, since: Lsn) -> bool {
        // Relaxed: see `note_write`.
        self.written.load(Ordering::Relaxed) <= since.bits()
    }

    /// Notes that a value here may expire.
    pub fn note_expiring(&self) {
        // Relaxed: a hint for the sweep, which comes again. Loaded first: a write that everybody
        // makes must not bounce a cache line.
        if !self.expiring.load(Ordering::Relaxed) {
            self.expiring.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a value here may have expired.
    pub fn may_expire(&self) -> bool {
        // Relaxed: see `note_expiring`.
        self.expiring.load(Ordering::Relaxed)
    }

    /// Says what a put from now on lives that says nothing of it, in milliseconds; 0: for ever.
    pub fn set_ttl_ms(&self, ttl_ms: u64) {
        // Relaxed: a put beside this goes by one or the other.
        self.ttl_ms.store(ttl_ms, Ordering::Relaxed);
    }

    /// What a put lives that says nothing of it, in milliseconds; 0: for ever.
    pub fn ttl_ms(&self) -> u64 {
        // Relaxed: see `set_ttl_ms`.
        self.ttl_ms.load(Ordering::Relaxed)
    }

    /// Notes that a value here may be made of merges.
    pub fn note_merging(&self) {
        // Relaxed: see `note_expiring`. A compaction that misses it began before the merge was prepared,
        // and knows of no value as expired that the merge could have come in time for.
        if !self.merging.load(Ordering::Relaxed) {
            self.merging.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a value here may be made of merges.
    pub fn may_merge(&self) -> bool {
        // Relaxed: see `note_merging`.
        self.merging.load(Ordering::Relaxed)
    }

    /// Notes that versions up to this stamp are gone from the files without anything newer on their keys.
    /// Before the view that does not have them is published.
    pub fn note_forgotten(&self, stamp: Lsn) {
        // Relaxed: published by the Release of `Tree::replace`.
        self.forgotten.fetch_max(stamp.bits(), Ordering::Relaxed);
    }

    /// Whether something newer than `since` may have gone without a trace, for whoever was not registered
    /// at it all the time. Loaded after the view.
    pub fn has_forgotten_since(&self, since: Lsn) -> bool {
        // Relaxed: see `note_forgotten`.
        self.forgotten.load(Ordering::Relaxed) > since.bits()
    }

    /// Whether somebody may hold a lock here. The window's leader, which has begun its round, need not
    /// look for locks where this says no.
    pub fn has_lockers(&self) -> bool {
        // Relaxed: ordered by the fences of the round. A leader that misses a locker has begun its round
        // before that one looks at it (`CommitRound::begin`, `CommitRound::on`), so the locker sees the
        // round.
        self.lockers.load(Ordering::Relaxed) > 0
    }

    /// Somebody is about to put its first lock here into the table.
    pub(crate) fn add_locker(&self) {
        // Relaxed: ordered by the fence in `CommitRound::on`, which comes after; see `has_lockers`.
        self.lockers.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody's last lock here is out of the table.
    pub(crate) fn remove_locker(&self) {
        // Relaxed: who sees it gone may do what the lock forbade, and finds by its own means whether that
        // is allowed: validation looks at versions, never at locks.
        self.lockers.fetch_sub(1, Ordering::Relaxed);
    }
}
