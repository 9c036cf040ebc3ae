//! Scans of the ordered map: leaf by leaf, with the memory asked for ahead.
//!
//! Keys that are neighbours in order are strangers in memory. So a scan is a pipeline: while it
//! visits one key it asks for the versions of those a little ahead, for the nodes of those further
//! ahead, and near the end of a leaf for the next leaf, which it opens before it gets there:
//!
//! ```text
//!   this leaf      · · · · · v · · · · · · · V · · · · · · · N · ·│· · · next leaf
//!                            visited         version asked    node asked
//! ```
//!
//! 1. A leaf's entries are taken at one moment, when it is opened: its array and what is in its log.
//!    Its range then is what its page covered at that moment, and the next leaf begins (or, in
//!    reverse, ends) just there. So nothing that was in the map before the scan is missed, and
//!    nothing is met twice.
#![expect(unsafe_code, reason = "opens the next leaf behind a raw pointer")]

use std::cmp::Ordering as Side;
use std::ops::{Bound, ControlFlow};

use crate::node::NodePtr;
use crate::page::{ENTRIES_ROOM, PagePtr};
use crate::skiplist::{Place, Skiplist, Target};
use crate::sync::{Guard, prefetch};
use crate::version::prefetch_version;
use crate::{Direction, KeyRange};

/// How far ahead of the visit a node is asked for.
const NODES_AHEAD: usize = 16;
/// How far ahead of the visit a node's newest version is asked for.
const VERSIONS_AHEAD: usize = 8;
/// So many visits before a leaf's end, the next one's memory is asked for, its nodes are, it is
/// opened.
const NEXT_ASKED: usize = 28;
const NEXT_TOUCHED: usize = 22;
const NEXT_OPENED: usize = 16;
/// A scan of fewer keys is not worth the next leaf.
const VISITS_ALONE: usize = 4;

impl Skiplist {
    /// Visits the nodes of `range` in the given direction until `visit` breaks.
    ///
    /// Every node whose insertion happened before the call is visited, once, in order; one that is
    /// inserted meanwhile may be.
    pub(crate) fn scan<'g>(
        &'g self,
        range: KeyRange<'_>,
        direction: Direction,
        guard: &'g Guard,
        mut visit: impl FnMut(NodePtr<'g>) -> ControlFlow<()>,
    ) {
        let scan = Scan { map: self, direction, range, guard };
        let mut place = scan.first();
        let (mut run, mut next_run) = (&mut Run::new(), &mut Run::new());
        run.open(place.page, range, direction);
        run.prefetch_nodes();
        let mut visited = 0;
        loop {
            let mut next = None;
            let mut stage = Stage::Waiting;
            for at in 0..run.len {
                let left = run.len - at;
                if left <= NEXT_ASKED {
                    stage = match stage {
                        Stage::Waiting if visited >= VISITS_ALONE => {
                            next = scan.ask_next(place);
                            Stage::Asked
                        }
                        Stage::Asked if left <= NEXT_TOUCHED => {
                            touch(next);
                            Stage::Touched
                        }
                        Stage::Touched if left <= NEXT_OPENED => {
                            scan.open(next, next_run);
                            Stage::Opened
                        }
                        other => other,
                    };
                }
                if let Some(ahead) = node_ahead(run, next_run, at + NODES_AHEAD) {
                    prefetch(ahead.as_non_null().as_ptr());
                }
                if let Some(ahead) = node_ahead(run, next_run, at + VERSIONS_AHEAD)
                    && let Some(newest) = ahead.newest_version()
                {
                    prefetch_version(newest.as_ptr());
                }
                if let Some(node) = run.nodes[at]
                    && visit(node).is_break()
                {
                    return;
                }
                visited += 1;
            }
            if stage == Stage::Waiting {
                next = scan.ask_next(place);
            }
            if stage != Stage::Opened {
                scan.open(next, next_run);
                next_run.prefetch_nodes();
            }
            let Some(next) = next else { return };
            place = next;
            std::mem::swap(&mut run, &mut next_run);
            next_run.len = 0;
        }
    }
}

/// How far the next leaf is, while this one is visited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Asked,
    Touched,
    Opened,
}

/// What a scan was asked for.
struct Scan<'g, 'k> {
    map: &'g Skiplist,
    direction: Direction,
    range: KeyRange<'k>,
    guard: &'g Guard,
}

impl<'g> Scan<'g, '_> {
    fn first(&self) -> Place<'g> {
        let target = match (self.direction, self.range) {
            (Direction::Forward, (Bound::Included(key) | Bound::Excluded(key), _)) => {
                Target::At(key)
            }
            (Direction::Forward, (Bound::Unbounded, _)) => Target::First,
            (Direction::Reverse, (_, Bound::Included(key))) => Target::At(key),
            (Direction::Reverse, (_, Bound::Excluded(key))) => Target::Below(key),
            (Direction::Reverse, (_, Bound::Unbounded)) => Target::Last,
        };
        self.map.descend(target, 0, self.guard)
    }

    /// The leaf after this one in the scan's direction; none if the range ends before it.
    fn next(&self, place: Place<'g>) -> Option<Place<'g>> {
        match self.direction {
            Direction::Forward => {
                let ends = match self.range.1 {
                    Bound::Unbounded => false,
                    Bound::Included(end) => right_bound(place.page, end) == Side::Greater,
                    Bound::Excluded(end) => right_bound(place.page, end) != Side::Less,
                };
                let cell = place.page.right().filter(|_| !ends)?;
                // The neighbour's cell begins where this page ends, whatever was split off to its
                // right meanwhile.
                // SAFETY: pinned for 'g by `guard`.
                Some(unsafe { Place::first_of(cell) })
            }
            Direction::Reverse => {
                // There are no links to the left: the leaf below this one's lower bound is looked
                // for from the top. It ends there or, if it was split off since, its right
                // neighbours lead there; `Target::Below` is the one that touches.
                let low = place.cell.low().map(NodePtr::key)?;
                match self.range.0 {
                    Bound::Included(start) | Bound::Excluded(start) if low <= start => None,
                    _ => {
                        let next = self.map.descend(Target::Below(low), 0, self.guard);
                        // The split that made this leaf's cell happened before the cell was found,
                        // and so before that page was loaded: it cannot reach beyond.
                        debug_assert_eq!(right_bound(next.page, low), Side::Equal);
                        Some(next)
                    }
                }
            }
        }
    }

    fn ask_next(&self, place: Place<'g>) -> Option<Place<'g>> {
        let next = self.next(place)?;
        next.page.prefetch_head();
        next.page.prefetch_rest();
        Some(next)
    }

    /// Opens a leaf that is not the first: one bound of the range lies behind.
    fn open(&self, next: Option<Place<'g>>, run: &mut Run<'g>) {
        let rest = match self.direction {
            Direction::Forward => (Bound::Unbounded, self.range.1),
            Direction::Reverse => (self.range.0, Bound::Unbounded),
        };
        if let Some(next) = next {
            run.open(next.page, rest, self.direction);
        }
    }
}

fn right_bound(page: PagePtr<'_>, key: &[u8]) -> Side {
    page.right_bound(key, page.probe(key))
}

fn rank(page: PagePtr<'_>, key: &[u8]) -> (usize, bool) {
    page.rank(key, page.probe(key))
}

/// Asks for the nodes that opening the leaf will look at.
fn touch(next: Option<Place<'_>>) {
    for node in next.into_iter().flat_map(|next| next.page.logged()) {
        prefetch(node.as_non_null().as_ptr());
    }
}

#[inline(always)]
fn node_ahead<'g>(run: &Run<'g>, next: &Run<'g>, at: usize) -> Option<NodePtr<'g>> {
    if at < run.len {
        return run.nodes[at];
    }
    let at = at - run.len;
    if at < next.len { next.nodes[at] } else { None }
}

/// The nodes of a leaf that are in a range, in the order of the scan.
struct Run<'g> {
    nodes: [Option<NodePtr<'g>>; ENTRIES_ROOM],
    len: usize,
}

impl<'g> Run<'g> {
    fn new() -> Run<'g> {
        Run { nodes: [None; ENTRIES_ROOM], len: 0 }
    }

    fn open(&mut self, page: PagePtr<'g>, range: KeyRange<'_>, direction: Direction) {
        self.len = 0;
        let from = match range.0 {
            Bound::Unbounded => 0,
            Bound::Included(start) => rank(page, start).0,
            Bound::Excluded(start) => {
                let (rank, exact) = rank(page, start);
                rank + usize::from(exact)
            }
        };
        let to = match range.1 {
            Bound::Unbounded => page.count(),
            Bound::Excluded(end) => rank(page, end).0,
            Bound::Included(end) => {
                let (rank, exact) = rank(page, end);
                rank + usize::from(exact)
            }
        };
        let (logged, len) = page.logged_in_order();
        let mut copied = from;
        for entry in logged[..len].iter().filter(|entry| contains(range, entry.key())) {
            let rank = entry.rank.min(to);
            self.copy(page, copied, rank);
            copied = copied.max(rank);
            self.nodes[self.len] = entry.node;
            self.len += 1;
        }
        self.copy(page, copied, to);
        if direction == Direction::Reverse {
            self.nodes[..self.len].reverse();
        }
    }

    #[inline(always)]
    fn copy(&mut self, page: PagePtr<'g>, from: usize, to: usize) {
        for at in from..to {
            self.nodes[self.len] = Some(page.node(at));
            self.len += 1;
        }
    }

    /// Asks for the first nodes.
    fn prefetch_nodes(&self) {
        for node in self.nodes[..self.len.min(NODES_AHEAD)].iter().flatten() {
            prefetch(node.as_non_null().as_ptr());
        }
    }
}

/// Whether `key` is in `range`.
pub(crate) fn contains(range: KeyRange<'_>, key: &[u8]) -> bool {
    let above = match range.0 {
        Bound::Included(start) => start <= key,
        Bound::Excluded(start) => start < key,
        Bound::Unbounded => true,
    };
    above
        && match range.1 {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        }
}
