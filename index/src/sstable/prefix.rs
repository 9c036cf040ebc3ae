//! What the keys of a file begin with, for scans within one prefix: most files that have no such key are
//! passed by.
//!
//! ```text
//! prefix filter    │ lines of 64 bytes, as of keys │ kind, 1 │ delimiter, 1 │ length, 2 │
//! ```
//!
//! A filter says itself how its prefixes were cut off: each file may have been written under other options.
//!
//! 1. Every key in a range that [`PrefixExtractor::of_range`] gives a prefix for has that prefix. So a file
//!    whose filter denies it has no version of a key in the range; range deletes are not asked for here.

use std::ops::Bound;

use super::filter;
use crate::KeyRange;

/// How much of a key is its prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixExtractor {
    /// So many bytes from its beginning. Shorter keys have no prefix.
    Length(u16),
    /// Up to the first byte of this value, which belongs to it. Keys without have no prefix.
    UpTo(u8),
}

/// Bytes behind the lines.
const TRAILER_BYTES: usize = 4;
const KIND_LENGTH: u8 = 1;
const KIND_UP_TO: u8 = 2;

impl PrefixExtractor {
    /// The prefix of a key.
    pub fn prefix(self, key: &[u8]) -> Option<&[u8]> {
        match self {
            PrefixExtractor::Length(bytes) => key.get(..usize::from(bytes)),
            PrefixExtractor::UpTo(delimiter) => {
                let at = key.iter().position(|byte| *byte == delimiter)?;
                key.get(..=at)
            }
        }
    }

    /// The prefix that every key in the range has, if that can be told.
    pub(crate) fn of_range(self, range: KeyRange<'_>) -> Option<&[u8]> {
        let (Bound::Included(lower) | Bound::Excluded(lower)) = range.0 else { return None };
        let prefix = self.prefix(lower)?;
        // What lies from the prefix on, and below what comes behind all that begin with it, begins with it.
        let within = match range.1 {
            Bound::Included(upper) => upper.starts_with(prefix),
            Bound::Excluded(upper) => upper.starts_with(prefix) || is_right_behind(upper, prefix),
            Bound::Unbounded => prefix.iter().all(|byte| *byte == u8::MAX),
        };
        within.then_some(prefix)
    }

    fn encode(self) -> [u8; TRAILER_BYTES] {
        match self {
            PrefixExtractor::Length(bytes) => {
                let [low, high] = bytes.to_le_bytes();
                [KIND_LENGTH, 0, low, high]
            }
            PrefixExtractor::UpTo(delimiter) => [KIND_UP_TO, delimiter, 0, 0],
        }
    }

    fn decode(trailer: [u8; TRAILER_BYTES]) -> Option<PrefixExtractor> {
        match trailer {
            [KIND_LENGTH, 0, low, high] => {
                Some(PrefixExtractor::Length(u16::from_le_bytes([low, high])))
            }
            [KIND_UP_TO, delimiter, 0, 0] => Some(PrefixExtractor::UpTo(delimiter)),
            _ => None,
        }
    }
}

/// Whether `upper` is the smallest key above all that begin with `prefix`.
fn is_right_behind(upper: &[u8], prefix: &[u8]) -> bool {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX);
    let Some((last, before)) = kept.and_then(|at| prefix.get(..=at)?.split_last()) else {
        return false;
    };
    upper.split_last() == Some((&(last + 1), before))
}

/// The prefix filter over the hashes of these prefixes.
pub(super) fn build(
    extractor: PrefixExtractor,
    hashes: &[u64],
    bits_per_prefix: usize,
    into: &mut Vec<u8>,
) {
    filter::build(hashes, bits_per_prefix, into);
    into.extend_from_slice(&extractor.encode());
}

/// The extractor of a prefix filter; `None` if it is none.
pub(super) fn extractor_of(filter: &[u8]) -> Option<PrefixExtractor> {
    filter.last_chunk().and_then(|trailer| PrefixExtractor::decode(*trailer))
}

/// The lines of a prefix filter.
pub(super) fn lines(filter: &[u8]) -> &[u8] {
    filter.get(..filter.len().saturating_sub(TRAILER_BYTES)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded<'k>(lower: &'k [u8], upper: &'k [u8]) -> KeyRange<'k> {
        (Bound::Included(lower), Bound::Excluded(upper))
    }

    #[test]
    fn a_key_is_cut_as_it_says() {
        assert_eq!(PrefixExtractor::Length(2).prefix(b"abc"), Some(&b"ab"[..]));
        assert_eq!(PrefixExtractor::Length(2).prefix(b"a"), None);
        assert_eq!(PrefixExtractor::UpTo(b':').prefix(b"user:1:x"), Some(&b"user:"[..]));
        assert_eq!(PrefixExtractor::UpTo(b':').prefix(b"user"), None);
    }

    /// All keys of up to three bytes, of which few differ: the prefix of a range is that of all its keys.
    #[test]
    fn the_prefix_of_a_range_is_that_of_every_key_in_it() {
        let bytes = [0, b':', b';', u8::MAX];
        let mut keys: Vec<Vec<u8>> = vec![Vec::new()];
        for length in 0..3 {
            let longer: Vec<_> = keys.iter().filter(|key| key.len() == length).cloned().collect();
            keys.extend(
                longer
                    .iter()
                    .flat_map(|key| bytes.iter().map(move |byte| [&key[..], &[*byte]].concat())),
            );
        }
        keys.sort_unstable();
        fn bounds(key: &[u8]) -> [Bound<&[u8]>; 2] {
            [Bound::Included(key), Bound::Excluded(key)]
        }
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let all: Vec<_> =
            keys.iter().flat_map(|key| bounds(key)).chain([Bound::Unbounded]).collect();
        let extractors =
            [PrefixExtractor::Length(1), PrefixExtractor::Length(2), PrefixExtractor::UpTo(b':')];
        let mut told = 0;
        for extractor in extractors {
            for range in all.iter().flat_map(|lower| all.iter().map(|upper| (*lower, *upper))) {
                let Some(prefix) = extractor.of_range(range) else { continue };
                told += 1;
                let inside = |key: &&&[u8]| {
                    !crate::sstable::is_below(range, key) && !crate::sstable::is_above(range, key)
                };
                for key in keys.iter().filter(inside) {
                    assert_eq!(extractor.prefix(key), Some(prefix), "{key:?} in {range:?}");
                }
            }
        }
        assert!(told > 1000, "{told} ranges have one");
    }

    #[test]
    fn ranges_of_one_prefix_are_found() {
        let users = PrefixExtractor::UpTo(b':');
        assert_eq!(users.of_range(excluded(b"user:", b"user;")), Some(&b"user:"[..]));
        assert_eq!(users.of_range(excluded(b"user:1", b"user:2")), Some(&b"user:"[..]));
        assert_eq!(users.of_range(excluded(b"user:1", b"user;2")), None);
        assert_eq!(users.of_range(excluded(b"user", b"user:2")), None);
        let two = PrefixExtractor::Length(2);
        assert_eq!(two.of_range(excluded(b"ab", b"ac")), Some(&b"ab"[..]));
        assert_eq!(two.of_range(excluded(b"a\xff", b"b")), Some(&b"a\xff"[..]));
        assert_eq!(two.of_range(excluded(b"ab", b"ac\0")), None);
        assert_eq!(
            two.of_range((Bound::Included(b"\xff\xff"), Bound::Unbounded)),
            Some(&b"\xff\xff"[..])
        );
    }

    #[test]
    fn an_extractor_comes_back_from_its_bytes() {
        for extractor in
            [PrefixExtractor::Length(300), PrefixExtractor::UpTo(0), PrefixExtractor::UpTo(u8::MAX)]
        {
            let mut filter = Vec::new();
            build(extractor, &[1, 2], 10, &mut filter);
            assert_eq!(extractor_of(&filter), Some(extractor));
            assert!(filter::may_have(lines(&filter), 1));
        }
        assert_eq!(extractor_of(&[9, 0, 0, 0]), None);
        assert_eq!(extractor_of(&[]), None);
    }
}
