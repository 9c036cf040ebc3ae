//! The ways to compress a block.
//!
//! 1. What a frame says of its length before compression is not believed beyond what its bytes can become.

use super::format::{Compression, FileError, damaged};

/// In a frame: not compressed.
pub(super) const NONE: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;

/// The most that LZ4 makes of a byte.
const LZ4_GROWTH: usize = 255;
/// The most that zstd makes of a byte: a block of 128 KiB of one repeated byte takes four.
const ZSTD_GROWTH: usize = 32 << 10;

/// What a frame says of its compression.
pub(super) fn tag(compression: Compression) -> u8 {
    match compression {
        Compression::None => NONE,
        Compression::Lz4 => LZ4,
        Compression::Zstd(_) => ZSTD,
    }
}

/// Whether so many compressed bytes can become so many.
pub(super) fn may_become(tag: u8, bytes: usize, raw: usize) -> bool {
    bytes_that_become(tag, raw).is_some_and(|(least, _)| least <= bytes)
}

/// How few and how many compressed bytes may become so many; `None`: nothing is compressed so.
pub(super) fn bytes_that_become(tag: u8, raw: usize) -> Option<(usize, usize)> {
    match tag {
        LZ4 => Some((raw / LZ4_GROWTH, raw)),
        ZSTD => Some((raw / ZSTD_GROWTH, raw)),
        _ => None,
    }
}

/// Compresses `raw` behind what `into` holds, where that is asked for and possible. Gives the length; what
/// lies behind it in `into` is to be cut off.
pub(super) fn compress(raw: &[u8], compression: Compression, into: &mut Vec<u8>) -> Option<usize> {
    let start = into.len();
    match compression {
        Compression::None => None,
        Compression::Lz4 => {
            into.resize(start + lz4_flex::block::get_maximum_output_size(raw.len()), 0);
            lz4_flex::block::compress_into(raw, into.get_mut(start..)?).ok()
        }
        Compression::Zstd(level) => zstd_compress(raw, level, into),
    }
}

/// Compressed bytes, whose checksum was found right.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'f> {
    pub(super) tag: u8,
    pub(super) bytes: &'f [u8],
    /// What they become.
    pub(super) raw: usize,
    /// Where the frame lies in its file.
    pub(super) offset: u64,
}

impl Packed<'_> {
    /// Undoes the compression.
    pub(crate) fn unpack(self, into: &mut Vec<u8>) -> Result<(), FileError> {
        let Packed { tag, bytes, raw, offset } = self;
        into.resize(raw, 0);
        let unpacked = match tag {
            LZ4 => lz4_flex::block::decompress_into(bytes, into).ok(),
            _ => zstd_decompress(bytes, into, offset)?,
        };
        match unpacked {
            Some(bytes) if bytes == raw => Ok(()),
            _ => Err(damaged(offset, "a block does not decompress")),
        }
    }
}

#[cfg(feature = "zstd")]
mod with_zstd {
    use std::cell::RefCell;

    use zstd::bulk::{Compressor, Decompressor};

    thread_local! {
        /// Their tables take time to make: each thread keeps its own.
        static COMPRESSOR: RefCell<Option<(i32, Compressor<'static>)>> = const { RefCell::new(None) };
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }

    pub(super) fn compress(raw: &[u8], level: i32, into: &mut [u8]) -> Option<usize> {
        COMPRESSOR.with_borrow_mut(|kept| {
            if kept.as_ref().is_none_or(|(known, _)| *known != level) {
                *kept = Some((level, Compressor::new(level).ok()?));
            }
            let (_, compressor) = kept.as_mut()?;
            compressor.compress_to_buffer(raw, into).ok()
        })
    }

    pub(super) fn decompress(bytes: &[u8], into: &mut [u8]) -> Option<usize> {
        DECOMPRESSOR.with_borrow_mut(|kept| {
            if kept.is_none() {
                *kept = Some(Decompressor::new().ok()?);
            }
            kept.as_mut()?.decompress_to_buffer(bytes, into).ok()
        })
    }
}

#[cfg(feature = "zstd")]
fn zstd_compress(raw: &[u8], level: i32, into: &mut Vec<u8>) -> Option<usize> {
    // No room is made for what would not pay.
    let start = into.len();
    into.resize(start + raw.len(), 0);
    with_zstd::compress(raw, level, into.get_mut(start..)?)
}

#[cfg(not(feature = "zstd"))]
fn zstd_compress(_: &[u8], _: i32, _: &mut Vec<u8>) -> Option<usize> {
    None
}

#[cfg(feature = "zstd")]
fn zstd_decompress(bytes: &[u8], into: &mut [u8], _: u64) -> Result<Option<usize>, FileError> {
    Ok(with_zstd::decompress(bytes, into))
}

#[cfg(not(feature = "zstd"))]
fn zstd_decompress(_: &[u8], _: &mut [u8], offset: u64) -> Result<Option<usize>, FileError> {
    Err(FileError::NeedsFeature { offset, feature: "zstd" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not compress, and what does, as one block each.
    fn blocks() -> [Vec<u8>; 3] {
        let mut state = 7u64;
        let noise = (0..4096).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        [noise.collect(), b"isolith ".repeat(512), vec![0; 40 << 20]]
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn zstd_comes_back_and_is_bounded() {
        for raw in blocks() {
            let mut packed = b"before".to_vec();
            let Some(bytes) = compress(&raw, Compression::Zstd(3), &mut packed) else {
                assert_eq!(raw.len(), 4096, "only noise does not fit");
                continue;
            };
            assert!(bytes < raw.len() && may_become(ZSTD, bytes, raw.len()));
            let packed = &packed[6..6 + bytes];
            let whole = Packed { tag: ZSTD, bytes: packed, raw: raw.len(), offset: 1 };
            let mut unpacked = Vec::new();
            whole.unpack(&mut unpacked).expect("as it was");
            assert!(unpacked == raw);
            for wrong in [raw.len() - 1, raw.len() + 1] {
                let damaged = Packed { raw: wrong, ..whole }.unpack(&mut unpacked);
                assert!(matches!(damaged, Err(FileError::Damaged { offset: 1, .. })));
            }
            let cut = Packed { bytes: &packed[..bytes - 1], ..whole }.unpack(&mut unpacked);
            assert!(matches!(cut, Err(FileError::Damaged { offset: 1, .. })));
        }
    }

    #[cfg(not(feature = "zstd"))]
    #[test]
    fn without_zstd_nothing_is_compressed_by_it_and_what_was_is_told() {
        for raw in blocks() {
            assert_eq!(compress(&raw, Compression::Zstd(3), &mut Vec::new()), None);
        }
        // A frame of zstd.
        let packed = Packed { tag: ZSTD, bytes: &[1; 9], raw: 9, offset: 1 };
        let told = packed.unpack(&mut Vec::new());
        let needs = matches!(told, Err(FileError::NeedsFeature { offset: 1, feature: "zstd" }));
        assert!(needs && may_become(ZSTD, 9, 9), "{told:?}");
    }
}
