//! [`Slice`]: the bytes that a user holds.
//!
//! A read must write no memory that threads share, so small values are copied; only values above
//! [`SHARED_BYTES_MIN`] are counted references to what the version holds. A slice never holds an
//! epoch pin: it may be kept for as long as one likes, on any thread.
//!
//! | bytes | how they are held | cost of a clone |
//! |---|---|---|
//! | 0 to 22 | in the slice itself | a copy of 24 bytes |
//! | 23 to 1024 | a box of their own | an allocation and a copy |
//! | above | a share of the version's bytes | an atomic increment |

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// Values longer than this are held by reference count, in versions and in slices.
pub const SHARED_BYTES_MIN: usize = 1024;

const INLINE_BYTES_MAX: usize = 22;

/// Bytes returned to a user: immutable, cheap to move (24 bytes), compared as byte strings.
#[derive(Clone)]
pub struct Slice(Held);

#[derive(Clone)]
enum Held {
    Inline { len: u8, bytes: [u8; INLINE_BYTES_MAX] },
    Boxed(Box<[u8]>),
    Shared(Arc<[u8]>),
}

const _: () = assert!(size_of::<Slice>() == 24);

impl Slice {
    /// A copy of `bytes`.
    #[inline]
    pub fn copy(bytes: &[u8]) -> Slice {
        if bytes.len() <= INLINE_BYTES_MAX {
            let mut held = [0; INLINE_BYTES_MAX];
            held[..bytes.len()].copy_from_slice(bytes);
            // At most 22, so it fits.
            return Slice(Held::Inline { len: bytes.len() as u8, bytes: held });
        }
        if bytes.len() <= SHARED_BYTES_MIN {
            return Slice(Held::Boxed(bytes.into()));
        }
        Slice(Held::Shared(bytes.into()))
    }

    /// A share of bytes that are counted already.
    pub fn share(bytes: Arc<[u8]>) -> Slice {
        Slice(Held::Shared(bytes))
    }

    /// The bytes as a vector of their own, without a copy where the slice owned them alone.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Held::Boxed(bytes) => bytes.into_vec(),
            _ => self.to_vec(),
        }
    }

    /// The counted bytes, if that is how they are held.
    pub(crate) fn shared(&self) -> Option<&Arc<[u8]>> {
        match &self.0 {
            Held::Shared(bytes) => Some(bytes),
            _ => None,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Held::Boxed(bytes) => bytes,
            Held::Shared(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Borrow<[u8]> for Slice {
    fn borrow(&self) -> &[u8] {
        self
    }
}

impl Default for Slice {
    fn default() -> Slice {
        Slice::copy(b"")
    }
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Slice {
        Slice::copy(bytes)
    }
}

impl<const N: usize> From<&[u8; N]> for Slice {
    fn from(bytes: &[u8; N]) -> Slice {
        Slice::copy(bytes)
    }
}

impl From<&str> for Slice {
    fn from(text: &str) -> Slice {
        Slice::copy(text.as_bytes())
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Slice {
        if (INLINE_BYTES_MAX + 1..=SHARED_BYTES_MIN).contains(&bytes.len()) {
            return Slice(Held::Boxed(bytes.into_boxed_slice()));
        }
        Slice::copy(&bytes)
    }
}

impl From<Slice> for Vec<u8> {
    fn from(slice: Slice) -> Vec<u8> {
        slice.into_vec()
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for Slice {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for Slice {}

impl PartialOrd for Slice {
    fn partial_cmp(&self, other: &Slice) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slice {
    fn cmp(&self, other: &Slice) -> Ordering {
        (**self).cmp(&**other)
    }
}

impl Hash for Slice {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_every_way_of_holding_them() {
        for len in [0, 1, 21, 22, 23, 24, 1023, 1024, 1025, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            for slice in [Slice::copy(&bytes), Slice::from(bytes.clone())] {
                assert_eq!(slice, bytes);
                assert_eq!(slice.clone(), slice);
                assert_eq!(slice.shared().is_some(), len > SHARED_BYTES_MIN);
                assert_eq!(slice.into_vec(), bytes);
            }
        }
    }

    #[test]
    fn slices_order_as_their_bytes() {
        let slices = [
            Slice::default(),
            Slice::from(b"\0"),
            Slice::from("a"),
            Slice::from(vec![b'b'; 2000]),
            Slice::from("c"),
        ];
        assert!(slices.is_sorted_by(|a, b| a < b));
    }
}
