//! Nodes: one per key, each with its version chain.
//!
//! A node is one allocation: the chain's head, the length of the key, the pruner's bit, the key.
//!
//! | offset | size | what | who writes it |
//! |---|---|---|---|
//! | 0 | 8 | newest version, null = none yet | the window's leader, in `link`; the chain's pruner, in `replace` |
//! | 8 | 4 | length of the key | `create` |
//! | 12 | 4 | 1 while a pruner works on the chain | `try_lock`, `unlock` |
//! | 16 | … | the key | `create` |
//!
//! 1. A node is never unlinked or freed while its memtable lives. So a pointer to it may be kept
//!    without a pin, as long as the memtable is kept.
//! 2. `head` is written by two: the window's leader puts versions on top (`link`), and the chain's
//!    pruner may put another version of the same stamp in the newest one's place (`replace`): a
//!    tombstone, or what merges come to. Both exchange it for what they saw, so that neither undoes
//!    what the other did. It never goes back to no version, and its stamp never falls.
//! 3. One pruner per chain: whoever has the bit.
#![expect(unsafe_code, reason = "nodes are variable-length allocations behind raw pointers")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::NonNull;

use isolith_wal::Lsn;

use crate::sync::{AtomicPtr, AtomicU32, Ordering, Published};
use crate::version::{Seen, Version, newest_at};

#[repr(C)]
pub(crate) struct Node {
    head: AtomicPtr<Version>,
    key_len: u32,
    pruning: AtomicU32,
    key: Published,
}

const HEADER_BYTES: usize = size_of::<Node>();

impl Node {
    fn layout(key_len: usize) -> Layout {
        // Keys are at most 64 KiB, and the alignment is a power of two.
        Layout::from_size_align(HEADER_BYTES + key_len, align_of::<Node>())
            .expect("a node's size fits the address space")
    }

    /// Bytes of memory that the node of such a key takes, its versions apart.
    pub(crate) fn footprint(key_len: usize) -> usize {
        Node::layout(key_len).size()
    }

    /// A node for `key`, without versions. The caller owns it until it is put into the map.
    pub(crate) fn create(key: &[u8]) -> NonNull<Node> {
        let layout = Node::layout(key.len());
        // SAFETY: the layout holds at least the header, so its size is not zero.
        let Some(node) = NonNull::new(unsafe { alloc(layout) }.cast::<Node>()) else {
            handle_alloc_error(layout)
        };
        let header = Node {
            head: AtomicPtr::new(std::ptr::null_mut()),
            key_len: u32::try_from(key.len()).expect("a key is shorter than 4 GiB"),
            pruning: AtomicU32::new(0),
            key: Published::new(),
        };
        // SAFETY: fresh memory with room for the header and then the key, which cannot overlap it.
        unsafe {
            node.write(header);
            node.cast::<u8>()
                .as_ptr()
                .add(HEADER_BYTES)
                .copy_from_nonoverlapping(key.as_ptr(), key.len());
        }
        node
    }

    /// Frees the node and its whole chain; returns the bytes of memory that they took.
    ///
    /// # Safety
    /// `this` comes from [`Node::create`], is freed once, and no thread uses it or its versions any
    /// more.
    pub(crate) unsafe fn free(this: NonNull<Node>) -> usize {
        // SAFETY: exclusive (caller), so the chain does not change under the walk, and each linked
        // version is owned by this chain alone and is freed once.
        unsafe {
            let mut freed = 0;
            // Relaxed: the caller is alone with it.
            let mut at = NonNull::new((*this.as_ptr()).head.load(Ordering::Relaxed));
            while let Some(version) = at {
                at = Version::next(version);
                freed += Version::free(version);
            }
            let layout = Node::layout((*this.as_ptr()).key_len as usize);
            this.drop_in_place();
            dealloc(this.cast().as_ptr(), layout);
            freed + layout.size()
        }
    }
}

/// A node that is certain to live for `'m` (the memtable is borrowed or held for so long).
#[derive(Clone, Copy)]
pub(crate) struct NodePtr<'m> {
    node: NonNull<Node>,
    memtable: PhantomData<&'m Node>,
}

impl<'m> NodePtr<'m> {
    /// # Safety
    /// `node` is not freed while `'m` lasts, and its creation happens before this call.
    #[inline(always)]
    pub(crate) unsafe fn new(node: NonNull<Node>) -> NodePtr<'m> {
        NodePtr { node, memtable: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn as_non_null(self) -> NonNull<Node> {
        self.node
    }

    /// The key.
    #[inline(always)]
    pub(crate) fn key(self) -> &'m [u8] {
        // SAFETY: not freed while `'m` lasts (`new`); length and key are written before the node is
        // shared and never again, and the allocation has `key_len` bytes behind the header.
        unsafe {
            (*self.node.as_ptr()).key.read();
            let len = (*self.node.as_ptr()).key_len as usize;
            let key = self.node.cast::<u8>().as_ptr().add(HEADER_BYTES);
            std::slice::from_raw_parts(key, len)
        }
    }

    /// The newest version. It may be pruned once it is no longer the newest, so a caller that
    /// follows the pointer must be pinned since before this call.
    #[inline(always)]
    pub(crate) fn newest_version(self) -> Option<NonNull<Version>> {
        // SAFETY: not freed while `'m` lasts (`new`).
        // Acquire: pairs with the Release in `link` and `replace`; the version's header and bytes are
        // whole.
        NonNull::new(unsafe { (*self.node.as_ptr()).head.load(Ordering::Acquire) })
    }

    /// The visibility rule on this chain.
    ///
    /// # Safety
    /// The caller is pinned, and stays so while it uses the result.
    #[inline]
    pub(crate) unsafe fn newest_at(self, read: Lsn) -> Seen {
        // SAFETY: pinned before the chain's head is loaded (caller).
        unsafe { newest_at(self.newest_version(), read) }
    }

    /// The stamp of the newest version; [`Lsn::ZERO`] if there is none.
    ///
    /// # Safety
    /// The caller is pinned.
    #[inline]
    pub(crate) unsafe fn newest(self) -> Lsn {
        match self.newest_version() {
            // SAFETY: pinned before the head was loaded (caller).
            Some(version) => unsafe { Version::stamp(version) },
            None => Lsn::ZERO,
        }
    }

    /// Puts `version` on top of the chain. For the window's leader: two calls on one chain at a time
    /// break its order (though no memory).
    ///
    /// # Safety
    /// The caller owns `version` and gives it up; it is pinned.
    #[inline]
    pub(crate) unsafe fn link(self, version: NonNull<Version>, stamp: Lsn) {
        // SAFETY: not freed while `'m` lasts (`new`).
        let head = unsafe { &(*self.node.as_ptr()).head };
        // Acquire: pairs with the Release in `replace`, whose version is published along with
        // `version`, and with the one below in an earlier link (those two the window's handover
        // orders already).
        let mut below = head.load(Ordering::Acquire);
        loop {
            debug_assert!(
                // SAFETY: pinned before the head was loaded (caller).
                NonNull::new(below).is_none_or(|below| unsafe { Version::stamp(below) } <= stamp),
                "a chain descends by stamp"
            );
            // SAFETY: `version` is the caller's and not linked yet.
            unsafe { Version::stamp_for_link(version, stamp, below) };
            // Release: publishes the version's header and bytes. Pairs with the Acquire in
            // `newest_version`. The exchange fails if the pruner has replaced `below` meanwhile: then
            // its version is what this goes on top of. It cannot succeed on another version at the
            // address of `below`: what is replaced is freed through the epoch, and this thread is
            // pinned since before it loaded `below`.
            match head.compare_exchange(
                below,
                version.as_ptr(),
                Ordering::Release,
                Ordering::Acquire,
            ) {
                Ok(_) => return,
                Err(newer) => below = newer,
            }
        }
    }

    /// Puts `version` in the place of the newest one, with its stamp and before `below`, if that is
    /// still `newest`. Returns whether it is done; then `newest` is the caller's to retire.
    ///
    /// # Safety
    /// The caller is the chain's pruner (it has the bit), and pinned since before it loaded `newest`
    /// from this chain. It owns `version`, and gives it up if this succeeds. `below` follows `newest`
    /// in this chain, at whatever distance.
    pub(crate) unsafe fn replace(
        self,
        newest: NonNull<Version>,
        version: NonNull<Version>,
        below: Option<NonNull<Version>>,
    ) -> bool {
        // SAFETY: `newest` is not freed, since the caller is pinned. `version` is not linked yet.
        unsafe {
            let below = below.map_or(std::ptr::null_mut(), NonNull::as_ptr);
            Version::stamp_for_link(version, Version::stamp(newest), below);
        }
        // SAFETY: not freed while `'m` lasts (`new`).
        let head = unsafe { &(*self.node.as_ptr()).head };
        // Release: publishes the version. Pairs with the Acquire in `newest_version` and `link`.
        // Relaxed: what came on top is not looked at.
        head.compare_exchange(
            newest.as_ptr(),
            version.as_ptr(),
            Ordering::Release,
            Ordering::Relaxed,
        )
        .is_ok()
    }

    /// Becomes the chain's pruner, unless somebody is.
    pub(crate) fn try_lock(self) -> bool {
        // SAFETY: not freed while `'m` lasts (`new`).
        let pruning = unsafe { &(*self.node.as_ptr()).pruning };
        // Acquire: pairs with the Release in `unlock`; the last pruner's links are seen, so that no
        // version is unlinked twice.
        pruning.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends what [`NodePtr::try_lock`] began.
    pub(crate) fn unlock(self) {
        // SAFETY: not freed while `'m` lasts (`new`).
        let pruning = unsafe { &(*self.node.as_ptr()).pruning };
        // Release: pairs with the Acquire in `try_lock`.
        pruning.store(0, Ordering::Release);
    }
}

/// A node's address with 16 bits of its key's hash above it, as the side-car's slots and the pages'
/// logs hold it: most keys that are not the one sought are told apart without touching their node.
///
/// 0 is no entry. An address never needs bits 48 to 63: user space ends below them on x86-64, and on
/// other 64-bit machines in the modes that Linux gives out unless asked; `new` checks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry(u64);

const ADDRESS_BITS: u32 = 48;

impl Entry {
    pub(crate) fn new(node: NonNull<Node>, tag: u16) -> Entry {
        let address = node.as_ptr().expose_provenance() as u64;
        assert!(address >> ADDRESS_BITS == 0, "an address has 48 bits");
        Entry(u64::from(tag) << ADDRESS_BITS | address)
    }

    /// The entry of these bits, unless they are none.
    #[inline(always)]
    pub(crate) fn from_bits(bits: u64) -> Option<Entry> {
        (bits != 0).then_some(Entry(bits))
    }

    #[inline(always)]
    pub(crate) fn bits(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub(crate) fn tag(self) -> u16 {
        (self.0 >> ADDRESS_BITS) as u16
    }

    /// The node.
    ///
    /// # Safety
    /// The bits come from [`Entry::new`], read with an Acquire that pairs with the Release that put
    /// them there; the node's memtable lasts for `'m`.
    #[inline(always)]
    pub(crate) unsafe fn node<'m>(self) -> NodePtr<'m> {
        let address = (self.0 & ((1 << ADDRESS_BITS) - 1)) as usize;
        // SAFETY: `new` exposed this address, which is not null; the node lives as long as its
        // memtable (invariant 1), and the caller's Acquire makes its creation visible.
        unsafe {
            NodePtr::new(NonNull::new_unchecked(std::ptr::with_exposed_provenance_mut(address)))
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::version::{Kind, Value};

    #[test]
    fn chain_shows_each_reader_its_version() {
        let guard = crate::sync::pin();
        let owned = Node::create(b"key");
        // SAFETY: freed at the end of this test, after the last use.
        let node = unsafe { NodePtr::new(owned) };
        for stamp in [10, 20, 30] {
            let version = Value::new(&[stamp as u8]).into_version(Kind::Put, 0);
            // SAFETY: the version is fresh, and this thread is pinned.
            unsafe { node.link(version, Lsn::new(0, stamp)) };
        }
        let seen = |read| {
            // SAFETY: pinned; nothing is pruned in this test.
            let seen = unsafe { node.newest_at(Lsn::new(0, read)) };
            // SAFETY: as above.
            let stamp = seen.version.map(|v| unsafe { Version::stamp(v) }.counter());
            (stamp, seen.skipped_newer)
        };
        assert_eq!(seen(9), (None, true));
        assert_eq!(seen(10), (Some(10), true));
        assert_eq!(seen(19), (Some(10), true));
        assert_eq!(seen(30), (Some(30), false));
        assert_eq!(seen(99), (Some(30), false));
        assert_eq!(node.key(), b"key");
        drop(guard);
        // SAFETY: created above, used by nobody any more.
        let freed = unsafe { Node::free(owned) };
        assert_eq!(freed, 16 + 3 + 3 * 33);
    }
}
