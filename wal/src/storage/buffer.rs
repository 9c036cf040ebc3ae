//! The buffer of direct I/O: owned bytes whose address is a multiple of [`BLOCK_BYTES`].
//!
//! 1. `start` is the offset of the first aligned address in `space`, so that `space[start..]` is
//!    aligned; the space is never reallocated in place, so the address holds until the next growth.
//! 2. `start + len <= space.len()`. Bytes past `len` are whatever was there before: they are zeroed
//!    when they come into view again.
//!
//! The aligned allocation is had by asking for one block more and starting inside it: safe code, and
//! at most 4 KiB a buffer. Buffers are made once and reused by the log.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::BLOCK_BYTES;

/// A growable byte buffer at a block-aligned address.
///
/// ```
/// use isolith_wal::{BLOCK_BYTES, IoBuffer};
/// let mut buffer = IoBuffer::with_capacity(100);
/// buffer.extend_from_slice(b"header");
/// buffer[0] = b'H';
/// buffer.pad_to_block();
/// assert_eq!(buffer.len(), BLOCK_BYTES);
/// assert_eq!(&buffer[..8], b"Header\0\0");
/// ```
#[derive(Default)]
pub struct IoBuffer {
    // A `Vec` and not a `Box<[u8]>`: moving the buffer must not claim its bytes while the kernel
    // reads them.
    space: Vec<u8>,
    start: usize,
    len: usize,
}

impl IoBuffer {
    /// An empty buffer that has allocated nothing.
    pub const fn new() -> IoBuffer {
        IoBuffer { space: Vec::new(), start: 0, len: 0 }
    }

    /// An empty buffer with room for `bytes`, rounded up to whole blocks.
    pub fn with_capacity(bytes: usize) -> IoBuffer {
        let mut buffer = IoBuffer::new();
        buffer.reserve(bytes);
        buffer
    }

    /// A buffer of `bytes` zeros.
    pub fn zeroed(bytes: usize) -> IoBuffer {
        let mut buffer = IoBuffer::with_capacity(bytes);
        buffer.resize(bytes);
        buffer
    }

    /// How many bytes fit without another allocation; a multiple of [`BLOCK_BYTES`].
    pub fn capacity(&self) -> usize {
        self.space.len().saturating_sub(self.start) / BLOCK_BYTES * BLOCK_BYTES
    }

    /// Makes room for `additional` bytes past the current length. The contents stay, the address
    /// may change.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len.checked_add(additional).expect("a buffer larger than memory");
        if needed <= self.capacity() {
            return;
        }
        // Doubling keeps appending linear.
        let blocks = needed.max(self.capacity() * 2).div_ceil(BLOCK_BYTES);
        let space = vec![0; (blocks + 1) * BLOCK_BYTES];
        let start = space.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "an address of bytes can always be aligned");
        let mut grown = IoBuffer { space, start, len: self.len };
        grown.copy_from_slice(self);
        *self = grown;
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        let from = self.start + self.len;
        self.space[from..from + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Cuts or extends to `bytes`; what is new is zero.
    pub fn resize(&mut self, bytes: usize) {
        if bytes > self.len {
            self.reserve(bytes - self.len);
            let (from, to) = (self.start + self.len, self.start + bytes);
            self.space[from..to].fill(0);
        }
        self.len = bytes;
    }

    /// Appends zeros up to the next block boundary, if the length is not on one.
    pub fn pad_to_block(&mut self) {
        self.resize(self.len.next_multiple_of(BLOCK_BYTES));
    }

    /// Forgets the contents, keeps the space.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Deref for IoBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.space[self.start..self.start + self.len]
    }
}

impl DerefMut for IoBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.space[self.start..self.start + self.len]
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IoBuffer({} of {} bytes)", self.len, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_aligned_through_every_growth() {
        let mut buffer = IoBuffer::new();
        let mut expected = Vec::new();
        for round in 0..40u8 {
            let piece = vec![round; usize::from(round) * 97];
            buffer.extend_from_slice(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(&buffer[..], &expected[..]);
            assert_eq!(buffer.capacity() % BLOCK_BYTES, 0);
            assert!(buffer.is_empty() || buffer.as_ptr().align_offset(BLOCK_BYTES) == 0);
        }
    }

    #[test]
    fn padding_is_zero_even_over_old_bytes() {
        let mut buffer = IoBuffer::with_capacity(2 * BLOCK_BYTES);
        buffer.extend_from_slice(&[0xff; 2 * BLOCK_BYTES]);
        let address = buffer.as_ptr();
        buffer.clear();
        buffer.extend_from_slice(b"abc");
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES);
        assert!(buffer[3..].iter().all(|&byte| byte == 0));
        assert_eq!(buffer.as_ptr(), address, "a cleared buffer is reused, not allocated again");
        buffer.pad_to_block();
        assert_eq!(buffer.len(), BLOCK_BYTES, "a full block needs no padding");
    }

    #[test]
    fn a_zeroed_buffer_is_zero_and_an_empty_one_takes_nothing() {
        assert!(IoBuffer::zeroed(5000).iter().all(|&byte| byte == 0));
        assert_eq!(IoBuffer::zeroed(5000).len(), 5000);
        assert_eq!(IoBuffer::new().capacity(), 0);
        let mut empty = IoBuffer::new();
        empty.pad_to_block();
        assert!(empty.is_empty());
    }
}
