//! Pages: the immutable sorted arrays of which every level of the map is a list, and the cells that
//! hold them.
//!
//! A **cell** is a place in a level that stays for good: its lower bound (the key of a node, or none
//! for the first cell of a level) and a pointer to its current **page**. A page is one allocation:
//!
//! | what | size | |
//! |---|---|---|
//! | header | 24 | right neighbour's cell and short key, counts |
//! | log | 8 × 8, level 0 only | nodes inserted since the page was made, as tagged addresses |
//! | prefix | padded to 8 | what all keys of the sorted part begin with |
//! | short keys | 8 × count | the next 8 bytes of each key, as a big-endian number |
//! | refs | 8 × count | level 0: the node. Above: the cell of the level below |
//!
//! Short keys are Graefe's poor man's normalized keys: a search compares numbers that lie side by
//! side, and looks at a node only where two keys agree in prefix and short key.
//!
//! 1. All but the log is written before the page is published, and never after.
//! 2. Log slots go from empty to a node once, the first empty one first. So two inserters of one key
//!    meet in one slot, and a full log is final.
//! 3. A page is replaced only when its log is full: what was put into a log is never lost. (Pages
//!    above level 0 have no log, and are replaced at each insertion.)
//! 4. A page covers the keys from its cell's lower bound to its right neighbour's. Its keys are in no
//!    other page that is current at that moment.
//! 5. Above level 0, entry `i` leads to the keys from its cell's lower bound up to the next entry's.
//!    Entry 0's bound is that of the page itself, so it is never compared.
#![expect(unsafe_code, reason = "pages are variable-length allocations behind raw pointers")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cmp::Ordering as Side;
use std::marker::PhantomData;
use std::ptr::NonNull;

use crate::node::{Entry, Node, NodePtr};
use crate::sync::{AtomicPtr, AtomicU64, Ordering, Published, prefetch};

/// Entries of a leaf's log. Eight fill one cache line; a consolidation is paid by as many inserts.
pub(crate) const LOG_ENTRIES: usize = if cfg!(loom) { 2 } else { 8 };
/// Sorted entries of a leaf, at most.
pub(crate) const LEAF_ENTRIES_MAX: usize = if cfg!(loom) { 2 } else { 48 };
/// Entries of a page above, at most.
pub(crate) const INNER_ENTRIES_MAX: usize = if cfg!(loom) { 3 } else { 64 };
/// Room for the entries of any page with its log, and one more.
pub(crate) const ENTRIES_ROOM: usize = 65;

const _: () = assert!(LEAF_ENTRIES_MAX + LOG_ENTRIES <= ENTRIES_ROOM);
const _: () = assert!(INNER_ENTRIES_MAX < ENTRIES_ROOM);

/// Longer common prefixes are not kept whole: keys that agree beyond are told apart at their nodes.
const PREFIX_BYTES_MAX: usize = 256;
/// A longer common prefix is not worth new short keys until it is this much longer.
const PREFIX_GAIN_MIN: usize = 4;

/// A place in a level.
pub(crate) struct Cell {
    page: AtomicPtr<Page>,
    /// The lower bound; null for the first cell of a level. Constant.
    low: *const Node,
}

impl Cell {
    pub(crate) fn new(low: Option<NonNull<Node>>, page: NonNull<Page>) -> Cell {
        Cell {
            page: AtomicPtr::new(page.as_ptr()),
            low: low.map_or(std::ptr::null(), |low| low.as_ptr().cast_const()),
        }
    }
}

/// A cell that is certain to live for `'m`: cells are freed with their map.
#[derive(Clone, Copy)]
pub(crate) struct CellPtr<'m> {
    cell: NonNull<Cell>,
    map: PhantomData<&'m Cell>,
}

impl<'m> CellPtr<'m> {
    /// # Safety
    /// `cell` is not freed while `'m` lasts, and its creation happens before this call.
    pub(crate) unsafe fn new(cell: NonNull<Cell>) -> CellPtr<'m> {
        CellPtr { cell, map: PhantomData }
    }

    pub(crate) fn as_non_null(self) -> NonNull<Cell> {
        self.cell
    }

    /// The lower bound; none for a level's first cell.
    #[inline]
    pub(crate) fn low(self) -> Option<NodePtr<'m>> {
        // SAFETY: the cell lives (`new`), `low` is constant; a node lives as long as its memtable,
        // which holds the map; it was created before the cell was.
        unsafe { NonNull::new((*self.cell.as_ptr()).low.cast_mut()).map(|low| NodePtr::new(low)) }
    }

    /// The current page.
    ///
    /// # Safety
    /// The caller is pinned, and stays so for `'g`.
    #[inline]
    pub(crate) unsafe fn page<'g>(self) -> PagePtr<'g>
    where
        'm: 'g,
    {
        // SAFETY: the cell lives (`new`); its page is never null, and one that is replaced is freed
        // only when the pins of that time have ended (caller).
        // Acquire: pairs with the Release in `replace`; the page and what it refers to are whole.
        unsafe {
            let page = (*self.cell.as_ptr()).page.load(Ordering::Acquire);
            PagePtr::new(NonNull::new_unchecked(page))
        }
    }

    /// Puts `new` in the place of `old`, if that is still the current page.
    ///
    /// # Safety
    /// The caller is pinned since before it loaded `old`; `new` is whole, covers the same keys, and
    /// holds all that `old` held.
    pub(crate) unsafe fn replace(self, old: PagePtr<'_>, new: NonNull<Page>) -> bool {
        // SAFETY: the cell lives (`new`).
        let page = unsafe { &(*self.cell.as_ptr()).page };
        // Release: publishes the new page, and with a split the new cell behind it. Pairs with the
        // Acquire in `page`. Acquire on failure is not needed: the loser loads the page again.
        page.compare_exchange(old.page.as_ptr(), new.as_ptr(), Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }
}

/// How a key stands to a page's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Probe {
    /// It is below all keys that have the prefix.
    Below,
    /// It has the prefix, and then this short key.
    Short(u64),
    /// It is above all keys that have the prefix.
    Above,
}

/// A node in a log, with its place among the sorted entries.
#[derive(Clone, Copy)]
pub(crate) struct Logged<'g> {
    pub(crate) rank: usize,
    pub(crate) probe: Probe,
    /// There is one in every entry that is handed out.
    pub(crate) node: Option<NodePtr<'g>>,
}

impl<'g> Logged<'g> {
    pub(crate) fn key(&self) -> &'g [u8] {
        self.node.map_or(&[], NodePtr::key)
    }

    fn is_before(&self, other: &Logged<'_>) -> bool {
        self.rank < other.rank || self.rank == other.rank && self.key() < other.key()
    }
}

/// What an entry of a page refers to: a node on level 0, a cell above.
pub(crate) type Ref = NonNull<()>;

#[repr(C)]
pub(crate) struct Page {
    /// The cell to the right; null at the end of the level.
    right: *const Cell,
    /// Its lower bound's short key under this page's prefix, if it has the prefix.
    right_short: u64,
    count: u16,
    prefix_len: u16,
    level: u8,
    /// Whether the right cell's lower bound begins with this page's prefix. If not, it is above all
    /// keys that do.
    right_has_prefix: bool,
    page: Published,
}

const HEADER_BYTES: usize = size_of::<Page>();
const SLOT_BYTES: usize = size_of::<AtomicU64>();

/// Where the parts of a page lie.
struct Parts {
    prefix: usize,
    shorts: usize,
    refs: usize,
    end: usize,
}

impl Parts {
    #[inline(always)]
    fn of(level: u8, prefix_len: usize, count: usize) -> Parts {
        let log = if level == 0 { LOG_ENTRIES * SLOT_BYTES } else { 0 };
        let prefix = HEADER_BYTES + log;
        let shorts = prefix + prefix_len.next_multiple_of(8);
        let refs = shorts + 8 * count;
        Parts { prefix, shorts, refs, end: refs + 8 * count }
    }

    fn layout(&self) -> Layout {
        Layout::from_size_align(self.end, align_of::<Page>())
            .expect("a page's size fits the address space")
    }
}

/// The entries of a page that is to be.
pub(crate) struct Draft {
    pub(crate) level: u8,
    pub(crate) count: usize,
    pub(crate) refs: [Ref; ENTRIES_ROOM],
    pub(crate) shorts: [u64; ENTRIES_ROOM],
    /// How many bytes of prefix the short keys follow; all keys have these bytes in common. None:
    /// the short keys are not made yet.
    pub(crate) prefix_len: Option<usize>,
}

impl Draft {
    pub(crate) fn new(level: u8) -> Draft {
        Draft {
            level,
            count: 0,
            refs: [NonNull::dangling(); ENTRIES_ROOM],
            shorts: [0; ENTRIES_ROOM],
            prefix_len: None,
        }
    }

    /// Adds entries of the page that is to be replaced.
    pub(crate) fn copy(&mut self, page: PagePtr<'_>, entries: std::ops::Range<usize>) {
        let to = self.count..self.count + entries.len();
        self.shorts[to.clone()].copy_from_slice(&page.shorts()[entries.clone()]);
        self.refs[to.clone()].copy_from_slice(&page.refs()[entries]);
        self.count = to.end;
    }

    /// Adds a new entry, whose key stands so to the old page's prefix.
    pub(crate) fn insert(&mut self, probe: Probe, to: Ref) {
        self.shorts[self.count] = match probe {
            Probe::Short(short) => short,
            Probe::Below | Probe::Above => {
                self.prefix_len = None;
                0
            }
        };
        self.refs[self.count] = to;
        self.count += 1;
    }

    /// Makes the page of the entries `from..to`.
    ///
    /// # Safety
    /// The refs are nodes (level 0) or cells (above) of one map that is borrowed for the call, in
    /// order; so is `right`.
    pub(crate) unsafe fn page(
        &self,
        from: usize,
        to: usize,
        right: Option<CellPtr<'_>>,
    ) -> NonNull<Page> {
        let refs = &self.refs[from..to];
        let level = self.level;
        let first = usize::from(level > 0);
        // SAFETY: live nodes or cells (caller).
        let key = |at: usize| unsafe { low_of(level, refs[at]) }.map_or(&[][..], NodePtr::key);
        let (common, sample) = if refs.len() > first {
            let (lowest, highest) = (key(first), key(refs.len() - 1));
            (common_prefix(lowest, highest).min(PREFIX_BYTES_MAX), lowest)
        } else {
            (0, &[][..])
        };
        // Keep the short keys where they still hold, unless much would be gained.
        let kept = self
            .prefix_len
            .filter(|&old| refs.len() > first && old <= common && common < old + PREFIX_GAIN_MIN);
        let prefix_len = kept.unwrap_or(common);
        let prefix = &sample[..prefix_len];
        let parts = Parts::of(level, prefix_len, refs.len());
        let right_low = right.and_then(CellPtr::low).map(NodePtr::key);
        let right_has_prefix = right_low.is_some_and(|low| low.starts_with(prefix));
        let header = Page {
            right: right.map_or(std::ptr::null(), |cell| cell.as_non_null().as_ptr()),
            right_short: if right_has_prefix {
                short(right_low.unwrap_or_default(), prefix_len)
            } else {
                0
            },
            count: refs.len() as u16,
            prefix_len: prefix_len as u16,
            level,
            right_has_prefix,
            page: Published::new(),
        };
        let layout = parts.layout();
        // SAFETY: the layout holds at least the header, so its size is not zero.
        let Some(page) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        // SAFETY: fresh memory that `parts` divides: header, log, prefix, short keys, refs, each
        // within the layout and at a multiple of 8 (the prefix at any address). `count` and
        // `prefix_len` fit u16, being at most ENTRIES_ROOM and PREFIX_BYTES_MAX.
        unsafe {
            page.cast::<Page>().write(header);
            if level == 0 {
                let log = page.add(HEADER_BYTES).cast::<AtomicU64>();
                for slot in 0..LOG_ENTRIES {
                    log.add(slot).write(AtomicU64::new(0));
                }
            }
            let padded = page.add(parts.prefix).as_ptr();
            padded.write_bytes(0, parts.shorts - parts.prefix);
            padded.copy_from_nonoverlapping(prefix.as_ptr(), prefix_len);
            let shorts = page.add(parts.shorts).cast::<u64>();
            if kept.is_some() {
                shorts
                    .as_ptr()
                    .copy_from_nonoverlapping(self.shorts[from..to].as_ptr(), refs.len());
            } else {
                for at in 0..refs.len() {
                    shorts.add(at).write(if at < first { 0 } else { short(key(at), prefix_len) });
                }
            }
            page.add(parts.refs)
                .cast::<Ref>()
                .as_ptr()
                .copy_from_nonoverlapping(refs.as_ptr(), refs.len());
        }
        page.cast()
    }
}

/// The node whose key is an entry's lower bound.
///
/// # Safety
/// `to` is a live node (level 0) or cell (above), for `'g`.
#[inline(always)]
unsafe fn low_of<'g>(level: u8, to: Ref) -> Option<NodePtr<'g>> {
    // SAFETY: what the caller promises, by the level.
    unsafe {
        if level == 0 { Some(NodePtr::new(to.cast())) } else { CellPtr::new(to.cast()).low() }
    }
}

/// Bytes that two keys have in common at their start.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The 8 bytes of `key` behind its first `prefix_len`, as a number that orders like them; short ends
/// are filled with zeroes.
#[inline(always)]
fn short(key: &[u8], prefix_len: usize) -> u64 {
    let rest = &key[prefix_len.min(key.len())..];
    if let Some(eight) = rest.first_chunk::<8>() {
        return u64::from_be_bytes(*eight);
    }
    let mut padded = [0; 8];
    padded[..rest.len()].copy_from_slice(rest);
    u64::from_be_bytes(padded)
}

/// Whether `key` begins with the prefix of `len` bytes, which is given in words padded with zeroes.
/// Most prefixes are a word or two: comparing words is cheaper than calling a comparison of bytes.
#[inline(always)]
fn starts_with(key: &[u8], prefix: &[[u8; 8]], len: usize) -> bool {
    if key.len() < 8 * prefix.len() {
        return key.get(..len).is_some_and(|start| start == &prefix.as_flattened()[..len]);
    }
    let mut differ = 0;
    for (at, word) in prefix.iter().enumerate() {
        let theirs = u64::from_le_bytes(*word);
        let mut ours = [0; 8];
        ours.copy_from_slice(&key[8 * at..8 * at + 8]);
        let mut ours = u64::from_le_bytes(ours);
        if len < 8 * (at + 1) {
            // Little-endian: the first bytes are the low ones.
            ours &= !(u64::MAX << (8 * (len - 8 * at)));
        }
        differ |= ours ^ theirs;
    }
    differ == 0
}

/// Frees a page; returns its bytes. What it refers to is left alone.
///
/// # Safety
/// `page` comes from [`Draft::page`], is freed once, and nobody uses it any more.
pub(crate) unsafe fn free_page(page: NonNull<Page>) -> usize {
    // SAFETY: exclusive and live (caller); the layout is the one that it was made with, as `level`,
    // `prefix_len` and `count` are constant.
    unsafe {
        let layout = PagePtr::new(page).parts().layout();
        if (*page.as_ptr()).level == 0 {
            let log = page.cast::<u8>().add(HEADER_BYTES).cast::<AtomicU64>();
            for slot in 0..LOG_ENTRIES {
                log.add(slot).drop_in_place();
            }
        }
        dealloc(page.cast().as_ptr(), layout);
        layout.size()
    }
}

/// What became of an attempt to put a node into a log.
pub(crate) enum Append<'g> {
    /// The offered node is in.
    Done,
    /// Another node of the same key was in, or came first.
    Exists(NodePtr<'g>),
    /// No room: the page is to be replaced.
    Full,
}

/// A page that is certain to live for `'g`: a pin that is older than its retirement lasts so long.
#[derive(Clone, Copy)]
pub(crate) struct PagePtr<'g> {
    page: NonNull<Page>,
    pinned: PhantomData<&'g Page>,
}

impl<'g> PagePtr<'g> {
    /// # Safety
    /// `page` is whole, and not freed while `'g` lasts.
    #[inline(always)]
    pub(crate) unsafe fn new(page: NonNull<Page>) -> PagePtr<'g> {
        PagePtr { page, pinned: PhantomData }
    }

    pub(crate) fn as_non_null(self) -> NonNull<Page> {
        self.page
    }

    #[inline(always)]
    fn header(self) -> &'g Page {
        // SAFETY: whole and live for `'g` (`new`); nobody writes the header after `Draft::page`.
        let header = unsafe { &*self.page.as_ptr() };
        header.page.read();
        header
    }

    #[inline(always)]
    fn parts(self) -> Parts {
        let header = self.header();
        Parts::of(header.level, header.prefix_len.into(), header.count.into())
    }

    /// Bytes of memory that it takes.
    pub(crate) fn footprint(self) -> usize {
        self.parts().end
    }

    /// Sorted entries.
    #[inline(always)]
    pub(crate) fn count(self) -> usize {
        self.header().count.into()
    }

    pub(crate) fn prefix_len(self) -> usize {
        self.header().prefix_len.into()
    }

    /// The cell to the right.
    #[inline(always)]
    pub(crate) fn right(self) -> Option<CellPtr<'g>> {
        // SAFETY: a neighbour's cell is made before the page that names it, and lives with the map.
        NonNull::new(self.header().right.cast_mut()).map(|cell| unsafe { CellPtr::new(cell) })
    }

    #[inline(always)]
    fn prefix(self) -> &'g [u8] {
        // SAFETY: live and immutable for `'g` (`new`, invariant 1); the part lies within the page
        // and was written by `Draft::page`.
        unsafe {
            let at = self.page.cast::<u8>().add(self.parts().prefix);
            std::slice::from_raw_parts(at.as_ptr(), self.prefix_len())
        }
    }

    /// The prefix in whole words; what is behind it in the last one is zero.
    #[inline(always)]
    fn prefix_words(self) -> &'g [[u8; 8]] {
        // SAFETY: as in `prefix`: the part is padded to a multiple of 8, with zeroes.
        unsafe {
            let at = self.page.cast::<u8>().add(self.parts().prefix).cast::<[u8; 8]>();
            std::slice::from_raw_parts(at.as_ptr(), self.prefix_len().div_ceil(8))
        }
    }

    /// The short keys.
    #[inline(always)]
    pub(crate) fn shorts(self) -> &'g [u64] {
        // SAFETY: as in `prefix`; at a multiple of 8 from an address aligned to 8.
        unsafe {
            let at = self.page.cast::<u8>().add(self.parts().shorts).cast::<u64>();
            std::slice::from_raw_parts(at.as_ptr(), self.count())
        }
    }

    /// The refs.
    #[inline(always)]
    pub(crate) fn refs(self) -> &'g [Ref] {
        // SAFETY: as in `shorts`.
        unsafe {
            let at = self.page.cast::<u8>().add(self.parts().refs).cast::<Ref>();
            std::slice::from_raw_parts(at.as_ptr(), self.count())
        }
    }

    /// The log; empty above level 0.
    #[inline(always)]
    fn log(self) -> &'g [AtomicU64] {
        let len = if self.header().level == 0 { LOG_ENTRIES } else { 0 };
        // SAFETY: as in `prefix`; `Draft::page` put atomics there, which are written only as such.
        unsafe {
            let at = self.page.cast::<u8>().add(HEADER_BYTES).cast::<AtomicU64>();
            std::slice::from_raw_parts(at.as_ptr(), len)
        }
    }

    /// The nodes in the log at this moment, in the order of their keys.
    pub(crate) fn logged_in_order(self) -> ([Logged<'g>; LOG_ENTRIES], usize) {
        let nothing = Logged { rank: 0, probe: Probe::Below, node: None };
        let mut entries = [nothing; LOG_ENTRIES];
        let mut len = 0;
        for node in self.logged() {
            prefetch(node.as_non_null().as_ptr());
            entries[len].node = Some(node);
            len += 1;
        }
        // Insertion sort: there are eight at most. Ranks are mostly enough; two keys that fall between
        // the same sorted entries are compared whole.
        for sorted in 0..len {
            let mut new = entries[sorted];
            let key = new.key();
            new.probe = self.probe(key);
            new.rank = self.rank(key, new.probe).0;
            let mut at = sorted;
            while at > 0 && new.is_before(&entries[at - 1]) {
                entries[at] = entries[at - 1];
                at -= 1;
            }
            entries[at] = new;
        }
        (entries, len)
    }

    /// The nodes in the log, in the order in which they came.
    pub(crate) fn logged(self) -> impl Iterator<Item = NodePtr<'g>> {
        self.log()
            .iter()
            // Acquire: pairs with the Release in `append`; the node's key is whole.
            .map_while(|slot| Entry::from_bits(slot.load(Ordering::Acquire)))
            // SAFETY: only `append` writes a log, and only entries; nodes live with the memtable.
            .map(|entry| unsafe { entry.node() })
    }

    /// A sorted entry's node, on level 0.
    #[inline(always)]
    pub(crate) fn node(self, at: usize) -> NodePtr<'g> {
        debug_assert_eq!(self.header().level, 0);
        // SAFETY: on level 0 the refs are nodes, which live with the memtable.
        unsafe { NodePtr::new(self.refs()[at].cast()) }
    }

    /// A sorted entry's cell, above level 0.
    #[inline(always)]
    pub(crate) fn child(self, at: usize) -> CellPtr<'g> {
        debug_assert!(self.header().level > 0);
        // SAFETY: above level 0 the refs are cells, which live with the map.
        unsafe { CellPtr::new(self.refs()[at].cast()) }
    }

    /// Where `key` stands to the prefix, worked out once for all that is asked about it here.
    #[inline(always)]
    pub(crate) fn probe(self, key: &[u8]) -> Probe {
        let prefix_len = self.prefix_len();
        if starts_with(key, self.prefix_words(), prefix_len) {
            return Probe::Short(short(key, prefix_len));
        }
        // A key that ends within the prefix is below all that have it, as it compares here.
        match key.cmp(self.prefix()) {
            Side::Less => Probe::Below,
            _ => Probe::Above,
        }
    }

    /// How many sorted entries have a smaller key than `key` (above level 0: how many of the entries
    /// 1 and up, plus one), and whether the next one has just this key.
    #[inline(always)]
    pub(crate) fn rank(self, key: &[u8], probe: Probe) -> (usize, bool) {
        debug_assert_eq!(probe, self.probe(key), "a probe is of this page and key");
        let first = usize::from(self.header().level > 0);
        let shorts = self.shorts();
        let short = match probe {
            Probe::Short(short) => short,
            Probe::Below => return (first, false),
            Probe::Above => return (shorts.len(), false),
        };
        let from = first + lower_bound(&shorts[first..], short);
        if from == shorts.len() || shorts[from] != short {
            return (from, false);
        }
        self.rank_among_equals(key, short, from)
    }

    /// The end of `rank`: keys that agree with `key` so far, from entry `from` on, are compared whole.
    fn rank_among_equals(self, key: &[u8], short: u64, mut from: usize) -> (usize, bool) {
        let mut to = from + self.shorts()[from..].partition_point(|&other| other == short);
        while from < to {
            let middle = from.midpoint(to);
            // SAFETY: refs of this page's level, live for `'g`. Entry 0 above level 0 is not among
            // them, and so there is a node.
            let low = unsafe { low_of(self.header().level, self.refs()[middle]) };
            match low.map_or(&[][..], NodePtr::key).cmp(key) {
                Side::Less => from = middle + 1,
                Side::Equal => return (middle, true),
                Side::Greater => to = middle,
            }
        }
        (from, false)
    }

    /// How the right neighbour's lower bound compares with `key`; above all keys if there is none.
    #[inline(always)]
    pub(crate) fn right_bound(self, key: &[u8], probe: Probe) -> Side {
        let header = self.header();
        if header.right.is_null() {
            return Side::Greater;
        }
        match probe {
            Probe::Below => return Side::Greater,
            Probe::Short(_) if !header.right_has_prefix => return Side::Greater,
            Probe::Short(short) if header.right_short != short => {
                return header.right_short.cmp(&short);
            }
            _ => {}
        }
        let low = self.right().and_then(CellPtr::low);
        low.map_or(Side::Greater, |low| low.key().cmp(key))
    }

    /// Puts a node for `key` into the log, unless there is one in it. `offer` makes the node, and is
    /// called only if there is room.
    ///
    /// The caller has seen that the sorted part has no such key.
    pub(crate) fn append(
        self,
        key: &[u8],
        tag: u16,
        mut offer: impl FnMut() -> NonNull<Node>,
    ) -> Append<'g> {
        for slot in self.log() {
            // Acquire, both: pairs with the Release below in another's append.
            let mut bits = slot.load(Ordering::Acquire);
            if bits == 0 {
                let entry = Entry::new(offer(), tag);
                // Release: publishes the node's key. Pairs with the Acquire here and in `logged`.
                match slot.compare_exchange(0, entry.bits(), Ordering::Release, Ordering::Acquire) {
                    Ok(_) => return Append::Done,
                    Err(other) => bits = other,
                }
            }
            let Some(entry) = Entry::from_bits(bits) else { continue };
            if entry.tag() == tag {
                // SAFETY: an entry of this log, read with Acquire; nodes live with the memtable.
                let node = unsafe { entry.node() };
                if node.key() == key {
                    return Append::Exists(node);
                }
            }
        }
        Append::Full
    }

    /// Asks for the page's header, log and short keys: what a search looks at.
    #[inline(always)]
    pub(crate) fn prefetch_head(self) {
        self.prefetch_lines(0..7);
    }

    /// Asks for the rest, the refs, as far as a full leaf goes.
    #[inline(always)]
    pub(crate) fn prefetch_rest(self) {
        self.prefetch_lines(7..14);
    }

    #[inline(always)]
    fn prefetch_lines(self, lines: std::ops::Range<usize>) {
        let page = self.page.as_ptr().cast_const().cast::<u8>();
        for line in lines {
            prefetch(page.wrapping_add(64 * line));
        }
    }
}

/// How many of the ascending numbers are below `of`. Branch-free: the steps cannot be predicted.
#[inline(always)]
fn lower_bound(numbers: &[u64], of: u64) -> usize {
    let mut base = 0;
    let mut len = numbers.len();
    while len > 1 {
        let half = len / 2;
        base = if numbers[base + half - 1] < of { base + half } else { base };
        len -= half;
    }
    base + usize::from(len == 1 && numbers[base] < of)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lower_bound_counts_smaller_numbers() {
        for len in 0..50u64 {
            let numbers: Vec<u64> = (0..len).map(|i| 2 * i + 1).collect();
            for of in 0..=2 * len + 2 {
                let expected = numbers.iter().filter(|&&n| n < of).count();
                assert_eq!(lower_bound(&numbers, of), expected, "{len} numbers, {of}");
            }
        }
    }

    #[test]
    fn prefixes_are_told_as_bytes_tell_them() {
        let mut random = crate::testing::Random::from_environment("prefixes");
        for _ in 0..20_000 {
            let mut bytes = |max: usize| -> Vec<u8> {
                (0..random.below(max)).map(|_| random.below(2) as u8 * 255).collect()
            };
            let (key, prefix) = (bytes(40), bytes(20));
            let mut padded = prefix.clone();
            padded.resize(prefix.len().next_multiple_of(8), 0);
            let (words, _) = padded.as_chunks::<8>();
            assert_eq!(starts_with(&key, words, prefix.len()), key.starts_with(&prefix));
            let (key, _) = ([&prefix[..], &key[..]].concat(), ());
            assert!(starts_with(&key, words, prefix.len()));
        }
    }

    #[test]
    fn short_keys_order_like_their_bytes() {
        let mut keys: Vec<&[u8]> =
            vec![b"", b"\0", b"a", b"a\0", b"aa", b"abcdefgh", b"abcdefghi", b"b", b"\xff\xff"];
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| short(pair[0], 0) <= short(pair[1], 0)));
        assert_eq!(short(b"prefix1", 6), short(b"1", 0));
    }

    #[test]
    fn ranks_agree_with_a_sorted_vector() {
        // Keys with no, a short and a long common prefix, some that differ only after 8 more bytes.
        let sets: [Vec<Vec<u8>>; 4] = [
            (0..40u8).map(|i| vec![i * 6, 1]).collect(),
            (0..40u32).map(|i| format!("user:{:08}", i * 3).into_bytes()).collect(),
            (0..40u32)
                .map(|i| format!("same-start-{}{i:02}", "x".repeat(300)).into_bytes())
                .collect(),
            (0..40usize).map(|i| vec![b'a'; i]).collect(),
        ];
        for keys in sets {
            let nodes: Vec<NonNull<Node>> = keys.iter().map(|key| Node::create(key)).collect();
            let mut draft = Draft::new(0);
            for node in &nodes {
                draft.insert(Probe::Above, node.cast());
            }
            // SAFETY: live nodes, in order; the page is freed before them.
            let owned = unsafe { draft.page(0, nodes.len(), None) };
            // SAFETY: freed at the end of the loop body.
            let page = unsafe { PagePtr::new(owned) };
            for key in &keys {
                let below = key.split_last().map_or(vec![], |(_, rest)| rest.to_vec());
                let above = [&key[..], b"\0"].concat();
                for probe in [key.clone(), below, above, vec![], vec![0xff; 400]] {
                    let expected = keys.partition_point(|other| *other < probe);
                    let exact = keys.get(expected) == Some(&probe);
                    let rank = page.rank(&probe, page.probe(&probe));
                    assert_eq!(rank, (expected, exact), "{}", probe.escape_ascii());
                }
            }
            // SAFETY: the last uses were above; each is freed once.
            unsafe {
                free_page(owned);
                nodes.into_iter().for_each(|node| {
                    Node::free(node);
                });
            }
        }
    }
}
