//! Values, versions, and the rule which version a reader sees.
//!
//! A version is one allocation: a header of 32 bytes, then the value's bytes, or for values above
//! [`SHARED_BYTES_MIN`] one pointer to counted bytes.
//!
//! | offset | size | what | who writes it |
//! |---|---|---|---|
//! | 0 | 8 | stamp: the commit's LSN | its only owner, before it is linked |
//! | 8 | 8 | next older version | its owner before it is linked, then the chain's pruner |
//! | 16 | 8 | expiry, unix ms, 0 = never; of a merge, when its transaction began | its only owner, before it is linked |
//! | 24 | 4 | length of the value | `Value::new` |
//! | 28 | 1 | kind | its only owner, before it is linked |
//! | 29 | 1 | 1 if the bytes are counted | `Value::new` |
//! | 30 | 2 | number of a merge's operator | its only owner, before it is linked |
//! | 32 | … | the bytes, or the counted bytes' address | `Value::new` |
//!
//! A [`Value`] *is* a version that nobody has linked yet, so a commit copies no bytes: what the user
//! wrote is copied once, into the place where readers will find it.
//!
//! 1. A version has one owner (a `Value`, a `Prepared`) until it is linked, and is read-only after,
//!    `next` excepted.
//! 2. A chain descends strictly by stamp. (If one commit wrote a key twice, both carry its stamp; the
//!    later hides the earlier from every reader, and the next pruning takes it.)
//! 3. A version that was unlinked keeps its `next`, so a reader that stands on it walks on; it is
//!    freed only through the epoch.
#![expect(unsafe_code, reason = "versions are variable-length allocations behind raw pointers")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use isolith_wal::Lsn;

use crate::slice::{SHARED_BYTES_MIN, Slice};
use crate::sync::{AtomicPtr, AtomicU64, Ordering, Published, prefetch};

/// What a version says of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The key has this value.
    Put,
    /// The key is gone: a tombstone.
    Delete,
    /// The key's value is what this operator makes of its older value and these bytes. The expiry of
    /// such a version is the time at which its transaction began, in unix milliseconds: a value that
    /// had expired by then counts as absent.
    Merge {
        /// The operator's number: what it means is the business of [`MergeOperators`].
        ///
        /// [`MergeOperators`]: crate::MergeOperators
        operator: u16,
    },
}

/// A [`Kind`] without what comes with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Put,
    Delete,
    Merge,
}

#[repr(C)]
pub(crate) struct Version {
    stamp: AtomicU64,
    next: AtomicPtr<Version>,
    expires_at: u64,
    len: u32,
    tag: Tag,
    counted: bool,
    operator: u16,
    value: Published,
}

const HEADER_BYTES: usize = size_of::<Version>();

/// What an `Arc<[u8]>` of so many bytes takes: two counts in front, and the whole in words.
fn counted_footprint(len: usize) -> usize {
    (2 * size_of::<usize>() + len).next_multiple_of(align_of::<usize>())
}

impl Version {
    fn layout(len: usize, counted: bool) -> Layout {
        let tail = if counted { size_of::<*const u8>() } else { len };
        // The longest value is far below `isize::MAX`, and the alignment is a power of two.
        Layout::from_size_align(HEADER_BYTES + tail, align_of::<Version>())
            .expect("a version's size fits the address space")
    }

    fn create(len: usize, counted: bool) -> NonNull<Version> {
        let layout = Version::layout(len, counted);
        // SAFETY: the layout holds at least the header, so its size is not zero.
        let Some(version) = NonNull::new(unsafe { alloc(layout) }.cast::<Version>()) else {
            handle_alloc_error(layout)
        };
        let header = Version {
            stamp: AtomicU64::new(0),
            next: AtomicPtr::new(std::ptr::null_mut()),
            expires_at: 0,
            len: u32::try_from(len).expect("a value is shorter than 4 GiB"),
            tag: Tag::Put,
            counted,
            operator: 0,
            value: Published::new(),
        };
        // SAFETY: fresh memory of a layout made for a `Version` at its start; nobody else has it.
        unsafe { version.write(header) };
        version
    }

    /// The place of the bytes, or of the address of the counted ones.
    ///
    /// # Safety
    /// `this` comes from [`Version::create`] and is not freed.
    unsafe fn tail(this: NonNull<Version>) -> *mut u8 {
        // SAFETY: every version's allocation reaches at least to the end of its header.
        unsafe { this.cast::<u8>().as_ptr().add(HEADER_BYTES) }
    }

    /// The value's bytes.
    ///
    /// # Safety
    /// `this` is filled by `Value::new`, and is neither freed nor written (but for `next`) while `'a`
    /// lasts.
    unsafe fn bytes<'a>(this: NonNull<Version>) -> &'a [u8] {
        // SAFETY: the header is readable (caller); `len` and `counted` are never written after
        // `create`. Inline: `len` bytes follow the header and were written by `Value::new`. Counted:
        // the tail holds an address from `Arc::into_raw` of `len` bytes, whose count this version
        // holds until it is freed.
        unsafe {
            (*this.as_ptr()).value.read();
            let len = (*this.as_ptr()).len as usize;
            let mut at = Version::tail(this).cast_const();
            if (*this.as_ptr()).counted {
                at = at.cast::<*const u8>().read();
            }
            std::slice::from_raw_parts(at, len)
        }
    }

    /// Bytes of memory that this version holds.
    ///
    /// # Safety
    /// As for [`Version::bytes`].
    pub(crate) unsafe fn footprint(this: NonNull<Version>) -> usize {
        // SAFETY: the header is readable (caller), `len` and `counted` are constant.
        let (len, counted) = unsafe { ((*this.as_ptr()).len as usize, (*this.as_ptr()).counted) };
        Version::layout(len, counted).size() + if counted { counted_footprint(len) } else { 0 }
    }

    /// Frees one version; returns its footprint. What it links to is left alone.
    ///
    /// # Safety
    /// `this` comes from `Value::new`, is freed once, and nobody uses it any more.
    pub(crate) unsafe fn free(this: NonNull<Version>) -> usize {
        // SAFETY: exclusive (caller). A counted tail is given back to the `Arc` that it came from,
        // once, as this is the only free; the layout is the one of `create`.
        unsafe {
            let footprint = Version::footprint(this);
            let (len, counted) = ((*this.as_ptr()).len as usize, (*this.as_ptr()).counted);
            if counted {
                let bytes: &[u8] = Version::bytes(this);
                drop(Arc::from_raw(std::ptr::from_ref(bytes)));
            }
            this.drop_in_place();
            dealloc(this.cast().as_ptr(), Version::layout(len, counted));
            footprint
        }
    }

    /// Its stamp.
    ///
    /// # Safety
    /// `this` is not freed.
    pub(crate) unsafe fn stamp(this: NonNull<Version>) -> Lsn {
        // SAFETY: the header is readable (caller).
        // Relaxed: written once before the version was linked; whoever has the pointer got it with
        // an Acquire that pairs with the linking Release in `Node::link`.
        Lsn::from_bits(unsafe { (*this.as_ptr()).stamp.load(Ordering::Relaxed) })
    }

    /// Whether it is a merge.
    ///
    /// # Safety
    /// `this` is not freed.
    pub(crate) unsafe fn is_merge(this: NonNull<Version>) -> bool {
        // SAFETY: the header is readable (caller), `tag` is constant once the version is linked.
        unsafe { (*this.as_ptr()).tag == Tag::Merge }
    }

    /// Whether a tombstone in its place would take less memory, itself or by what it builds on.
    ///
    /// # Safety
    /// As for [`Version::bytes`].
    pub(crate) unsafe fn outweighs_tombstone(this: NonNull<Version>) -> bool {
        // SAFETY: the header is readable (caller), `len` is constant.
        unsafe { (*this.as_ptr()).len > 0 || Version::is_merge(this) }
    }

    /// The next older version.
    ///
    /// # Safety
    /// `this` is not freed.
    pub(crate) unsafe fn next(this: NonNull<Version>) -> Option<NonNull<Version>> {
        // SAFETY: the header is readable (caller).
        // Acquire: pairs with the Release in `relink`: what merges were folded to is whole. (Of other
        // versions the chain's first Acquire, in `Node::newest_version`, has made the contents
        // visible already, since they were published on top of published ones.) And it keeps the
        // pruner's reads before its unlinking for whoever sees the new link.
        NonNull::new(unsafe { (*this.as_ptr()).next.load(Ordering::Acquire) })
    }

    /// Makes `next` what follows `this` in its chain.
    ///
    /// # Safety
    /// `this` is not freed; the caller is the chain's only pruner, and `next` is a version further
    /// down the same chain, or a new one that leads to such, or none.
    pub(crate) unsafe fn relink(this: NonNull<Version>, next: Option<NonNull<Version>>) {
        let next = next.map_or(std::ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: the header is readable (caller).
        // Release: pairs with the Acquire in `next`.
        unsafe { (*this.as_ptr()).next.store(next, Ordering::Release) }
    }

    /// Stamps a version that is about to be linked on top of `below`.
    ///
    /// # Safety
    /// The caller owns `this`: it is not linked yet.
    pub(crate) unsafe fn stamp_for_link(this: NonNull<Version>, stamp: Lsn, below: *mut Version) {
        // SAFETY: the header is readable, and no other thread has the version (caller).
        // Relaxed, both: the linking Release in `NodePtr::link` or `replace` follows and publishes
        // them.
        unsafe {
            (*this.as_ptr()).stamp.store(stamp.bits(), Ordering::Relaxed);
            (*this.as_ptr()).next.store(below, Ordering::Relaxed);
        }
    }
}

/// A value on its way into the store: what a writer hands in. Eight bytes, cheap to move.
///
/// The bytes are copied once, into the allocation that readers will see; a value above 1 KiB made
/// from an `Arc` or a counted [`Slice`] is not copied at all.
pub struct Value {
    /// None: empty, without an allocation (what a tombstone carries).
    version: Option<NonNull<Version>>,
}

// SAFETY: a value owns its version alone (invariant 1) and hands out shared borrows only; the bytes
// are plain or behind an `Arc`, both of which may go to and be read from other threads.
unsafe impl Send for Value {}
// SAFETY: as above; nothing is written through `&Value`.
unsafe impl Sync for Value {}

impl Value {
    /// No bytes, no allocation.
    pub const fn empty() -> Value {
        Value { version: None }
    }

    /// A value with a copy of `bytes`.
    ///
    /// # Panics
    /// If there are 4 GiB of them or more; the engine's limit is far below.
    pub fn new(bytes: &[u8]) -> Value {
        if bytes.len() > SHARED_BYTES_MIN {
            return Value::counted(bytes.into());
        }
        let version = Version::create(bytes.len(), false);
        // SAFETY: the layout has room for `bytes.len()` bytes at the tail, which is fresh memory and
        // so does not overlap `bytes`.
        unsafe {
            Version::tail(version).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Value { version: Some(version) }
    }

    fn counted(bytes: Arc<[u8]>) -> Value {
        let version = Version::create(bytes.len(), true);
        // SAFETY: a counted version's tail is one pointer, at an offset that is a multiple of 8 in
        // memory aligned to 8. The count moves into the version and is given back in `free`.
        unsafe {
            Version::tail(version).cast::<*const u8>().write(Arc::into_raw(bytes).cast::<u8>());
        }
        Value { version: Some(version) }
    }

    /// The bytes for a user: copied if small, shared if large.
    pub fn slice(&self) -> Slice {
        match self.version {
            // SAFETY: this value owns the version, which is filled.
            Some(version) => unsafe { slice(version) },
            None => Slice::default(),
        }
    }

    /// Gives the version away, ready to be stamped and linked.
    pub(crate) fn into_version(self, kind: Kind, expires_at: u64) -> NonNull<Version> {
        let version = self.version.unwrap_or_else(|| Version::create(0, false));
        std::mem::forget(self);
        let (tag, operator) = match kind {
            Kind::Put => (Tag::Put, 0),
            Kind::Delete => (Tag::Delete, 0),
            Kind::Merge { operator } => (Tag::Merge, operator),
        };
        // SAFETY: owned and unlinked, so nobody reads the header while it is written.
        unsafe {
            (*version.as_ptr()).tag = tag;
            (*version.as_ptr()).operator = operator;
            (*version.as_ptr()).expires_at = expires_at;
        }
        version
    }
}

/// The value's bytes for a user.
///
/// # Safety
/// As for [`Version::bytes`], for the length of the call.
unsafe fn slice(version: NonNull<Version>) -> Slice {
    // SAFETY: readable and filled (caller). For a counted version the address is that of a live
    // `Arc<[u8]>`, whose count is raised for the slice before the slice owns it.
    unsafe {
        let bytes: &[u8] = Version::bytes(version);
        if !(*version.as_ptr()).counted {
            return Slice::copy(bytes);
        }
        Arc::increment_strong_count(std::ptr::from_ref(bytes));
        Slice::share(Arc::from_raw(std::ptr::from_ref(bytes)))
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        if let Some(version) = self.version {
            // SAFETY: owned, unlinked, and not used after.
            unsafe { Version::free(version) };
        }
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self.version {
            // SAFETY: owned and filled; nothing writes it while `self` is borrowed.
            Some(version) => unsafe { Version::bytes(version) },
            None => &[],
        }
    }
}

impl Clone for Value {
    fn clone(&self) -> Value {
        match self.version {
            Some(_) => Value::from(self.slice()),
            None => Value::empty(),
        }
    }
}

impl Default for Value {
    fn default() -> Value {
        Value::empty()
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value(b\"{}\")", self.escape_ascii())
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::new(bytes)
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Value {
        Value::new(bytes)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value::new(&bytes)
    }
}

impl From<Arc<[u8]>> for Value {
    fn from(bytes: Arc<[u8]>) -> Value {
        if bytes.len() > SHARED_BYTES_MIN { Value::counted(bytes) } else { Value::new(&bytes) }
    }
}

impl From<Slice> for Value {
    fn from(slice: Slice) -> Value {
        match slice.shared() {
            Some(bytes) => Value::from(Arc::clone(bytes)),
            None => Value::new(&slice),
        }
    }
}

/// A linked version, readable while its epoch pin lasts.
#[derive(Clone, Copy)]
pub struct VersionRef<'g> {
    version: NonNull<Version>,
    pinned: PhantomData<&'g Version>,
}

// SAFETY: like `&Version`: it only reads memory that is read-only or atomic (invariant 1). What keeps
// the memory is the guard's borrow, whichever thread the reference is on.
unsafe impl Send for VersionRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for VersionRef<'_> {}

impl<'g> VersionRef<'g> {
    /// # Safety
    /// `version` was reached through its chain under a pin that lasts for `'g`, in a memtable that
    /// lasts for `'g`.
    pub(crate) unsafe fn new(version: NonNull<Version>) -> VersionRef<'g> {
        VersionRef { version, pinned: PhantomData }
    }

    /// The LSN of the commit that wrote it.
    #[inline]
    pub fn stamp(self) -> Lsn {
        // SAFETY: `new`'s promise: not freed while `'g` lasts.
        unsafe { Version::stamp(self.version) }
    }

    /// What it says of its key.
    #[inline]
    pub fn kind(self) -> Kind {
        // SAFETY: `new`'s promise; tag and operator are constant once the version is linked.
        let (tag, operator) =
            unsafe { ((*self.version.as_ptr()).tag, (*self.version.as_ptr()).operator) };
        match tag {
            Tag::Put => Kind::Put,
            Tag::Delete => Kind::Delete,
            Tag::Merge => Kind::Merge { operator },
        }
    }

    /// Whether it is a merge.
    #[inline]
    pub(crate) fn is_merge(self) -> bool {
        // SAFETY: as in `kind`.
        unsafe { (*self.version.as_ptr()).tag == Tag::Merge }
    }

    /// The next older version of its key.
    pub(crate) fn older(self) -> Option<VersionRef<'g>> {
        // SAFETY: `new`'s promise: what a version links to was linked when the pin was taken or
        // later, so it is not freed while `'g` lasts (invariant 3).
        unsafe { Version::next(self.version).map(|version| VersionRef::new(version)) }
    }

    /// The value's bytes, lent while the pin lasts: a put's value or a merge's operand. Empty for a
    /// tombstone.
    #[inline]
    pub fn value(self) -> &'g [u8] {
        // SAFETY: `new`'s promise: linked, hence filled and read-only, and not freed while `'g`
        // lasts.
        unsafe { Version::bytes(self.version) }
    }

    /// The value for a user, free of the pin: copied up to 1 KiB, shared above.
    #[inline]
    pub fn slice(self) -> Slice {
        // SAFETY: as in `value`.
        unsafe { slice(self.version) }
    }

    /// When the value ends, in unix milliseconds; 0 = never. Of a merge: when its transaction began.
    #[inline]
    pub fn expires_at(self) -> u64 {
        // SAFETY: `new`'s promise; constant once linked.
        unsafe { (*self.version.as_ptr()).expires_at }
    }

    /// Whether a put's value still holds at `now_ms`: it ends at its expiry, that instant included.
    #[inline]
    pub fn live_at(self, now_ms: u64) -> bool {
        let expires_at = self.expires_at();
        expires_at == 0 || now_ms < expires_at
    }
}

impl fmt::Debug for VersionRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VersionRef")
            .field("stamp", &self.stamp())
            .field("kind", &self.kind())
            .field("len", &self.value().len())
            .field("expires_at", &self.expires_at())
            .finish()
    }
}

/// Where a walk down a chain ended.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// The newest version at or below the read timestamp.
    pub(crate) version: Option<NonNull<Version>>,
    /// Whether a newer one was passed on the way.
    pub(crate) skipped_newer: bool,
}

/// The visibility rule: the newest version of the chain from `newest` whose stamp is `<= read`.
///
/// # Safety
/// `newest` was loaded from its chain under a pin that lasts for the call.
#[inline]
pub(crate) unsafe fn newest_at(newest: Option<NonNull<Version>>, read: Lsn) -> Seen {
    let mut skipped_newer = false;
    let mut at = newest;
    while let Some(version) = at {
        // SAFETY: every version of the chain, and what an unlinked one points to, was linked when
        // the pin was taken or later, so none is freed before the pin ends (invariant 3).
        unsafe {
            if Version::stamp(version) <= read {
                return Seen { version: Some(version), skipped_newer };
            }
            at = Version::next(version);
        }
        skipped_newer = true;
    }
    Seen { version: None, skipped_newer }
}

/// Asks for a version's first lines: header and the first 160 bytes of the value.
#[inline(always)]
pub(crate) fn prefetch_version(version: *const Version) {
    let at = version.cast::<u8>();
    prefetch(at);
    prefetch(at.wrapping_add(64));
    prefetch(at.wrapping_add(128));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn value_keeps_its_bytes_whatever_their_length() {
        for len in [0, 1, 31, 1024, 1025, 100_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let value = Value::new(&bytes);
            assert_eq!(*value, bytes[..]);
            assert_eq!(value.slice(), bytes);
            let clone = value.clone();
            drop(value);
            assert_eq!(*clone, bytes[..]);
        }
        assert_eq!(*Value::empty(), []);
    }

    #[test]
    fn large_values_are_shared_not_copied() {
        let bytes: Arc<[u8]> = vec![7; 5000].into();
        let value = Value::from(Arc::clone(&bytes));
        let slice = value.slice();
        assert_eq!(Arc::strong_count(&bytes), 3);
        assert!(std::ptr::eq(&*slice, &*bytes));
        let second = Value::from(slice);
        drop(value);
        assert_eq!(Arc::strong_count(&bytes), 2);
        drop(second);
        assert_eq!(Arc::strong_count(&bytes), 1);
    }

    #[test]
    fn footprint_is_the_allocation() {
        let small = Value::new(&[1; 100]).into_version(Kind::Put, 0);
        let large = Value::new(&[1; 2001]).into_version(Kind::Put, 0);
        // SAFETY: both are owned here and freed once.
        unsafe {
            assert_eq!(Version::free(small), 132);
            assert_eq!(Version::free(large), 40 + 16 + 2008);
        }
    }
}
