//! The ordered map: a B-skiplist of copy-on-write pages.
//!
//! ```text
//!  level 2   [−∞ ………………………………………………… m ………]→
//!              │                          │
//!  level 1   [−∞ …… d ……… h ……]→[m …… q ……]→         pages above: (lower bound, cell below)
//!              │     │     │      │     │
//!  level 0   [···]→[···]→[···]→[···]→[···]→            leaves: nodes, sorted, and a log of new ones
//! ```
//!
//! Each level is a linked list of cells in key order, as in a skiplist; each cell holds a page of
//! some dozens of entries, as in a B-link tree (Lehman, Yao, 1981) or the B-skiplist. A level's page
//! has an entry for each cell of the level below: not by the toss of a coin but when the cell is made
//! by a split. An inserter that stops in between harms nobody: a search that finds no entry for a new
//! cell comes out to the left of it and walks right.
//!
//! **Insert**: find the leaf, look for the key, take the first empty slot of the leaf's log with one
//! compare-and-swap. **Consolidate**, when the log is full: sort log and array into a new page, or
//! two with a new cell for the right one, and put the (left) one into the cell with one
//! compare-and-swap; the loser throws its work away and looks again.
//!
//! 1. The first cell of each level is there from the start; cells and nodes are never removed. So a
//!    search may begin at any level and any cell to the left of its key.
//! 2. A cell's lower bound is constant. Its page's range only shrinks, from the right, by a split;
//!    the new right cell is reachable from the moment that the left page has shrunk.
//! 3. A node is in the map from the one compare-and-swap that puts it into a log (a consolidation
//!    moves it from a page to another in one step). So it is in exactly one current page, and a scan
//!    that begins afterwards meets it once.
//! 4. Whoever made a cell posts it to the level above, once.
#![expect(unsafe_code, reason = "follows and replaces pages behind raw pointers")]

use std::cmp::Ordering as Side;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::accounting::Accounting;
use crate::node::{Node, NodePtr};
use crate::page::{
    Append, Cell, CellPtr, Draft, INNER_ENTRIES_MAX, LEAF_ENTRIES_MAX, Logged, Page, PagePtr,
    Probe, free_page,
};
use crate::sync::{AtomicUsize, Guard, Ordering};

/// Levels. A page splits into halves of 24 or 32 and more, so ten hold more than memory does.
const LEVELS: usize = if cfg!(loom) { 3 } else { 10 };

/// The ordered map from keys to nodes.
pub(crate) struct Skiplist {
    /// The first cell of each level; `LEVELS` of them in one allocation, freed in `drop`.
    heads: NonNull<Cell>,
    /// Levels in use, at least 1.
    height: AtomicUsize,
    accounting: Arc<Accounting>,
}

// SAFETY: the map owns its cells, pages and nodes, none of which belongs to a thread; all that
// threads share is atomic or constant (invariants here and in `page`, `node`).
unsafe impl Send for Skiplist {}
// SAFETY: as above.
unsafe impl Sync for Skiplist {}

/// Where a search came out: a cell, and the page that it held at that moment.
#[derive(Clone, Copy)]
pub(crate) struct Place<'g> {
    pub(crate) cell: CellPtr<'g>,
    pub(crate) page: PagePtr<'g>,
    /// How the key that was looked for stands to the page.
    probe: Probe,
}

impl<'g> Place<'g> {
    /// The cell with its own page, wherever a search would go from there.
    ///
    /// # Safety
    /// The caller is pinned, and stays so for `'g`.
    pub(crate) unsafe fn first_of(cell: CellPtr<'g>) -> Place<'g> {
        // SAFETY: the caller's promise.
        Place { cell, page: unsafe { cell.page() }, probe: Probe::Below }
    }
}

/// Where a search is headed.
#[derive(Clone, Copy)]
pub(crate) enum Target<'k> {
    /// The page that covers the key.
    At(&'k [u8]),
    /// The page that covers what is right below the key.
    Below(&'k [u8]),
    /// The first page.
    First,
    /// The last page.
    Last,
}

impl Target<'_> {
    /// How the target's key stands to a page's prefix; whatever, if it has no key.
    #[inline(always)]
    fn probe(self, page: PagePtr<'_>) -> Probe {
        match self {
            Target::At(key) | Target::Below(key) => page.probe(key),
            Target::First | Target::Last => Probe::Below,
        }
    }

    /// Whether the target is to the right of a page.
    #[inline(always)]
    fn is_beyond(self, page: PagePtr<'_>, probe: Probe) -> bool {
        match self {
            Target::At(key) => page.right_bound(key, probe) != Side::Greater,
            Target::Below(key) => page.right_bound(key, probe) == Side::Less,
            Target::First => false,
            Target::Last => page.right().is_some(),
        }
    }

    /// The entry of a page above level 0 that leads on.
    #[inline(always)]
    fn child(self, page: PagePtr<'_>, probe: Probe) -> usize {
        match self {
            Target::At(key) => {
                let (rank, exact) = page.rank(key, probe);
                rank - 1 + usize::from(exact)
            }
            Target::Below(key) => page.rank(key, probe).0 - 1,
            Target::First => 0,
            Target::Last => page.count() - 1,
        }
    }
}

/// A node that is not in the map yet.
struct Offer(Option<NonNull<Node>>);

impl Drop for Offer {
    fn drop(&mut self) {
        if let Some(node) = self.0 {
            // SAFETY: made by `Node::create`, never shared: it lost the race for its key.
            unsafe { Node::free(node) };
        }
    }
}

impl Skiplist {
    pub(crate) fn new(accounting: Arc<Accounting>) -> Skiplist {
        // Given back to a box in `drop`.
        let heads = NonNull::from(Box::leak(Box::<[Cell]>::new_uninit_slice(LEVELS)));
        let heads = heads.cast::<Cell>();
        let mut bytes = LEVELS * size_of::<Cell>();
        for level in 0..LEVELS {
            let mut draft = Draft::new(level as u8);
            if level > 0 {
                // SAFETY: within the allocation of `LEVELS` cells.
                draft.insert(Probe::Below, unsafe { heads.add(level - 1) }.cast());
            }
            // SAFETY: the one ref is the cell that was written in the turn before.
            let page = unsafe { draft.page(0, draft.count, None) };
            // SAFETY: just made, not shared.
            bytes += unsafe { PagePtr::new(page) }.footprint();
            // SAFETY: within the allocation, not shared yet.
            unsafe { heads.add(level).write(Cell::new(None, page)) };
        }
        accounting.add(bytes);
        Skiplist { heads, height: AtomicUsize::new(1), accounting }
    }

    fn head(&self, level: usize) -> CellPtr<'_> {
        assert!(level < LEVELS, "more levels than memory can fill");
        // SAFETY: within the allocation, written in `new`, and alive as long as `self`.
        unsafe { CellPtr::new(self.heads.add(level)) }
    }

    /// Levels in use.
    pub(crate) fn height(&self) -> usize {
        // Relaxed: a stale height only makes a search begin lower and walk further to the right.
        self.height.load(Ordering::Relaxed)
    }

    /// The place on `level` where the target is, from the top down.
    #[inline]
    pub(crate) fn descend<'g>(
        &'g self,
        target: Target<'_>,
        level: usize,
        _: &'g Guard,
    ) -> Place<'g> {
        let mut at = self.height().saturating_sub(1).max(level);
        let mut cell = self.head(at);
        loop {
            // SAFETY: `_` keeps this thread pinned for 'g, since before the page is loaded.
            let place = unsafe { settle(cell, target) };
            if at == level {
                return place;
            }
            cell = place.page.child(target.child(place.page, place.probe));
            at -= 1;
        }
    }

    /// About which part of the nodes lies to the left of the target, between 0 and 1: where the way from
    /// the top down comes by in each page, as if all pages of a level were equally full.
    pub(crate) fn fraction(&self, target: Target<'_>, _: &Guard) -> f64 {
        let mut at = self.height().saturating_sub(1);
        let mut cell = self.head(at);
        let (mut left, mut width) = (0.0, 1.0);
        loop {
            // SAFETY: `_` keeps this thread pinned, since before the page is loaded.
            let Place { page, probe, .. } = unsafe { settle(cell, target) };
            let entries = page.count().max(1) as f64;
            if at == 0 {
                let before = match target {
                    Target::At(key) | Target::Below(key) => page.rank(key, probe).0,
                    Target::First => 0,
                    Target::Last => page.count(),
                };
                return left + width * before as f64 / entries;
            }
            let child = target.child(page, probe);
            left += width * child as f64 / entries;
            width /= entries;
            cell = page.child(child);
            at -= 1;
        }
    }

    /// The node of `key`: the one that is there, or a new one.
    ///
    /// `tag` is 16 bits of the key's hash, always the same for the same key.
    pub(crate) fn insert<'g>(&'g self, key: &[u8], tag: u16, guard: &'g Guard) -> NodePtr<'g> {
        let target = Target::At(key);
        let mut offer = Offer(None);
        let mut place = self.descend(target, 0, guard);
        loop {
            let (rank, exact) = place.page.rank(key, place.probe);
            if exact {
                return place.page.node(rank);
            }
            match place.page.append(key, tag, || *offer.0.get_or_insert_with(|| Node::create(key)))
            {
                Append::Done => {
                    let node = offer.0.take().expect("a node was put in, so one was offered");
                    self.accounting.add(Node::footprint(key.len()));
                    self.accounting.add_node();
                    // SAFETY: in the map now, so it lives as long as `self`.
                    return unsafe { NodePtr::new(node) };
                }
                Append::Exists(node) => return node,
                Append::Full => {
                    self.consolidate(place, guard);
                    // SAFETY: pinned for 'g by `guard`.
                    place = unsafe { settle(place.cell, target) };
                }
            }
        }
    }

    /// Replaces a leaf whose log is full, unless somebody did.
    fn consolidate<'g>(&'g self, place: Place<'g>, guard: &'g Guard) {
        let old = place.page;
        let mut draft = Draft::new(0);
        draft.prefix_len = Some(old.prefix_len());
        let mut copied = 0;
        let mut appended = old.right().is_none() && old.count() > 0;
        let (logged, len) = old.logged_in_order();
        for Logged { rank, probe, node } in &logged[..len] {
            appended &= *rank == old.count();
            draft.copy(old, copied..*rank);
            copied = *rank;
            if let Some(node) = node {
                draft.insert(*probe, node.as_non_null().cast());
            }
        }
        draft.copy(old, copied..old.count());
        // Keys that come in ascending order leave full leaves behind.
        let middle = if appended { old.count() } else { draft.count / 2 };
        self.swap(place, &draft, LEAF_ENTRIES_MAX, middle, guard);
    }

    /// Posts a new cell of the level below.
    fn post<'g>(&'g self, level: usize, child: CellPtr<'g>, guard: &'g Guard) {
        // Relaxed: the levels are there from the start; see `height`.
        self.height.fetch_max(level + 1, Ordering::Relaxed);
        let low = child.low().expect("only a level's first cell has no lower bound").key();
        let target = Target::At(low);
        let mut place = self.descend(target, level, guard);
        loop {
            let old = place.page;
            let (rank, exact) = old.rank(low, place.probe);
            assert!(!exact, "a cell is posted once");
            let mut draft = Draft::new(level as u8);
            draft.prefix_len = Some(old.prefix_len());
            draft.copy(old, 0..rank);
            draft.insert(place.probe, child.as_non_null().cast());
            draft.copy(old, rank..old.count());
            let appended = old.right().is_none() && rank == old.count();
            let middle = if appended { old.count() } else { draft.count / 2 };
            if self.swap(place, &draft, INNER_ENTRIES_MAX, middle, guard) {
                return;
            }
            // SAFETY: pinned for 'g by `guard`.
            place = unsafe { settle(place.cell, target) };
        }
    }

    /// Puts the entries of `draft` in the place of a page: as one page if they are at most `max`,
    /// else as two that part at `middle`. False if somebody replaced the page before.
    fn swap<'g>(
        &'g self,
        place: Place<'g>,
        draft: &Draft,
        max: usize,
        middle: usize,
        guard: &'g Guard,
    ) -> bool {
        let right = place.page.right();
        if draft.count <= max {
            // SAFETY: the refs are nodes or cells of this map, in order: those of the old page and
            // the new ones in their places.
            let page = unsafe { draft.page(0, draft.count, right) };
            // SAFETY: `guard` pins since before the old page was loaded; the new one has all its
            // entries. On failure the new page was never shared.
            unsafe {
                let replaced = self.replace(place, page, guard);
                if !replaced {
                    free_page(page);
                }
                return replaced;
            }
        }
        // SAFETY: as above, for both halves. The new cell is made before the left page names it.
        unsafe {
            let right_page = draft.page(middle, draft.count, right);
            let low = match draft.level {
                0 => draft.refs[middle].cast(),
                // Entry `middle` is not the first of the old page, so it is no level's first cell.
                _ => CellPtr::new(draft.refs[middle].cast())
                    .low()
                    .expect("only a level's first cell has no lower bound")
                    .as_non_null(),
            };
            let cell = NonNull::from(Box::leak(Box::new(Cell::new(Some(low), right_page))));
            let cell_ptr = CellPtr::new(cell);
            let left_page = draft.page(0, middle, Some(cell_ptr));
            if !self.replace(place, left_page, guard) {
                // Never shared, both pages and the cell.
                free_page(left_page);
                free_page(right_page);
                drop(Box::from_raw(cell.as_ptr()));
                return false;
            }
            // `right_page` may have been replaced by now, but not freed: this thread is pinned.
            let right_bytes = PagePtr::new(right_page).footprint();
            self.accounting.add(right_bytes + size_of::<Cell>());
            self.post(draft.level as usize + 1, cell_ptr, guard);
        }
        true
    }

    /// Puts `page` into the place and retires the old one, unless somebody was first.
    ///
    /// # Safety
    /// As for [`CellPtr::replace`].
    unsafe fn replace(&self, place: Place<'_>, page: NonNull<Page>, guard: &Guard) -> bool {
        // SAFETY: not shared before the exchange; read before, as it may be retired after.
        let bytes = unsafe { PagePtr::new(page) }.footprint();
        self.accounting.add(bytes);
        // SAFETY: the caller's promise.
        if !unsafe { place.cell.replace(place.page, page) } {
            self.accounting.sub(bytes);
            return false;
        }
        let old = place.page.as_non_null();
        // SAFETY: the exchange unlinked the old page, by which alone it was reachable, and only one
        // exchange can have done so; a page owns nothing but its memory.
        unsafe {
            self.accounting.retire(guard, place.page.footprint(), move || free_page(old));
        }
        true
    }
}

/// The cell at or to the right of `cell` whose page covers the target.
///
/// # Safety
/// The caller is pinned, and stays so for `'g`.
#[inline(always)]
unsafe fn settle<'g>(mut cell: CellPtr<'g>, target: Target<'_>) -> Place<'g> {
    loop {
        // SAFETY: pinned (caller).
        let page = unsafe { cell.page() };
        page.prefetch_head();
        let probe = target.probe(page);
        match page.right() {
            Some(right) if target.is_beyond(page, probe) => cell = right,
            _ => return Place { cell, page, probe },
        }
    }
}

impl Drop for Skiplist {
    fn drop(&mut self) {
        for level in (0..LEVELS).rev() {
            // SAFETY: `&mut self`: no thread uses the map any more. Every cell of a level is reached
            // once, from the first by the pages' links; every node is in one leaf (invariant 3).
            // Upper levels go first, since their lower bounds are nodes; nothing is read through a
            // freed cell or node. What was retired is not reachable from here.
            unsafe {
                let head = self.heads.add(level);
                let mut at = Some(CellPtr::new(head));
                while let Some(cell) = at {
                    let page = cell.page();
                    at = page.right();
                    if level == 0 {
                        for node in page.logged() {
                            Node::free(node.as_non_null());
                        }
                        for index in 0..page.count() {
                            Node::free(page.node(index).as_non_null());
                        }
                    }
                    free_page(page.as_non_null());
                    if cell.as_non_null() != head {
                        drop(Box::from_raw(cell.as_non_null().as_ptr()));
                    }
                }
            }
        }
        let heads = NonNull::slice_from_raw_parts(self.heads, LEVELS);
        // SAFETY: the allocation of `new`, given back once; all its cells were written there.
        drop(unsafe { Box::from_raw(heads.as_ptr()) });
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
