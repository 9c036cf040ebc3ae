//! The bytes of a file kept in memory: chunks that are shared until written, and holes for zeros.
//!
//! 1. Chunks past the end of the list, and absent ones, read as zero.
//! 2. Bytes of a chunk past `len` are zero, so that a file that grows again shows no old bytes.
//!
//! A zero-written log segment of 64 MiB takes no memory until it is used, and a copy of a whole disk
//! (for the crash states of a test) costs a pointer per chunk.

use std::sync::Arc;

/// Small enough that a copied-on-write chunk is cheap, a multiple of a block.
const CHUNK_BYTES: usize = 16 << 10;

type Chunk = [u8; CHUNK_BYTES];

/// A file's bytes.
#[derive(Clone, Default)]
pub(super) struct SparseBytes {
    chunks: Vec<Option<Arc<Chunk>>>,
    len: u64,
}

impl SparseBytes {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Makes the file at least `bytes` long; what is new is zero.
    pub(super) fn extend_to(&mut self, bytes: u64) {
        self.len = self.len.max(bytes);
    }

    /// Fills `into` as far as the file goes; returns the bytes read.
    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> usize {
        let available = self.len.saturating_sub(offset);
        let bytes = usize::try_from(available).map_or(into.len(), |some| some.min(into.len()));
        for (index, within, piece) in pieces(offset, bytes) {
            let into = &mut into[piece];
            match self.chunks.get(index).and_then(Option::as_deref) {
                Some(chunk) => into.copy_from_slice(&chunk[within..within + into.len()]),
                None => into.fill(0),
            }
        }
        bytes
    }

    /// Writes `bytes`; a gap between the old end and `offset` reads as zero.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (index, within, piece) in pieces(offset, bytes.len()) {
            let from = &bytes[piece];
            if self.chunks.len() <= index {
                self.chunks.resize(index + 1, None);
            }
            match &mut self.chunks[index] {
                None if from.iter().all(|&byte| byte == 0) => {}
                slot => {
                    let chunk = slot.get_or_insert_with(|| Arc::new([0; CHUNK_BYTES]));
                    Arc::make_mut(chunk)[within..within + from.len()].copy_from_slice(from);
                }
            }
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }
}

/// Cuts `offset..offset + bytes` at chunk boundaries: the chunk, where in it, and which of the bytes.
fn pieces(
    offset: u64,
    bytes: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == bytes {
            return None;
        }
        let at = offset + done as u64;
        let (index, within) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
        let piece = done..bytes.min(done + CHUNK_BYTES - within);
        done = piece.end;
        Some((usize::try_from(index).expect("a file in memory fits in memory"), within, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_what_a_plain_vector_would() {
        let mut sparse = SparseBytes::default();
        let mut plain = Vec::new();
        let chunk = CHUNK_BYTES;
        for (round, (offset, bytes)) in
            [(0, 10), (chunk - 3, 7), (5 * chunk + 1, 2 * chunk), (chunk, 1), (0, 3 * chunk)]
                .into_iter()
                .enumerate()
        {
            let piece = vec![round as u8; bytes];
            sparse.write(offset as u64, &piece);
            if plain.len() < offset + bytes {
                plain.resize(offset + bytes, 0);
            }
            plain[offset..offset + bytes].copy_from_slice(&piece);
            let mut read = vec![0xee; plain.len() + 9];
            assert_eq!(sparse.read(0, &mut read), plain.len());
            assert_eq!(&read[..plain.len()], &plain[..]);
        }
        assert_eq!(sparse.read(plain.len() as u64 + 5, &mut [0; 4]), 0);
    }

    #[test]
    fn zeros_take_no_chunk_and_a_copy_does_not_follow() {
        let mut sparse = SparseBytes::default();
        sparse.write(0, &[0; 4 * CHUNK_BYTES]);
        assert_eq!(sparse.len(), 4 * CHUNK_BYTES as u64);
        assert!(sparse.chunks.iter().all(Option::is_none));
        let copy = sparse.clone();
        sparse.write(9, b"x");
        let mut byte = [7];
        copy.read(9, &mut byte);
        assert_eq!(byte, [0]);
    }
}
