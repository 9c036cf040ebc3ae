//! What a keyspace can be asked for, and how the catalogue keeps it.
//!
//! The value of a keyspace's name is its number, and behind that its options, unless they are the defaults it
//! was created with (`docs/format.md`).
//!
//! 1. Options are as durable as the keyspace, and change by a commit of their own: who reads the log sees them
//!    in the same order as what was written under them.
//! 2. What is in a file says itself how it was written: options are for files that are written from now on.

use std::time::Duration;

use isolith_index::sstable::{Compression, PrefixExtractor, SstableOptions};
use isolith_txn::{Space, SpaceId};

use crate::error::{Error, Result};
use crate::merge::{NAME_BYTES_MAX, Operators};
use crate::options::{FOREVER, stored_expiry};
use crate::record;

/// The options of a keyspace, for [`Database::keyspace_with`](crate::Database::keyspace_with) and
/// [`Keyspace::set_options`](crate::Keyspace::set_options).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyspaceOptions {
    /// How blocks of files are compressed; a block that does not become an eighth smaller stays as it is.
    /// Default: LZ4.
    pub compression: Compression,
    /// Bits of each file's filter for a key, at most 64; 0: no filter, so that a key that is not there is
    /// looked for in every file that could have it. Ten let one in eighty such keys pass. Default: 10.
    pub filter_bits_per_key: usize,
    /// What is a key's prefix: files get a filter of those, too, and scans within one prefix pass by files
    /// that do not have it. Default: none.
    pub prefix_filter: Option<PrefixExtractor>,
    /// How long a value lives that is put without an expiry, in whole milliseconds. What merges make of no
    /// value does not expire. Default: for ever.
    pub ttl: Option<Duration>,
    /// The operator of merges that name none: see [`Keyspace::merge`](crate::Keyspace::merge). Opening the
    /// database for writing is refused where it is not registered. Default: none.
    pub merge_operator: Option<String>,
    /// A file's block is ended once it has so many bytes before compression, 256 to 1 MiB. Small ones make
    /// reads of single keys cheaper, large ones compress better. Default: 4096.
    pub block_bytes: usize,
    /// Values of so many bytes and more are kept apart from their keys; `Some(0)`: none are. `None`: as the
    /// database has it, [`Builder::large_values`](crate::Builder::large_values). Default: `None`.
    pub large_values: Option<usize>,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        let SstableOptions { block_bytes, compression, filter_bits_per_key, prefixes, .. } =
            SstableOptions::default();
        Self {
            compression,
            filter_bits_per_key,
            prefix_filter: prefixes,
            ttl: None,
            merge_operator: None,
            block_bytes,
            large_values: None,
        }
    }
}

/// How options stand behind a keyspace's number: given when it was created, or later.
const CREATED: u8 = 1;
const CHANGED: u8 = 2;
const COMPRESSION: u64 = 1;
const FILTER_BITS: u64 = 2;
const PREFIX_LENGTH: u64 = 3;
const PREFIX_UP_TO: u64 = 4;
const TTL: u64 = 5;
const MERGE_OPERATOR: u64 = 6;
const BLOCK_BYTES: u64 = 7;
const LARGE_VALUES: u64 = 8;

const FILTER_BITS_MAX: usize = 64;
const BLOCK_BYTES_MIN: usize = 256;
const BLOCK_BYTES_MAX: usize = 1 << 20;
const ZSTD_LEVELS: std::ops::RangeInclusive<i32> = -50..=22;
/// In the log a level is counted from here: it has to be positive.
const ZSTD_LEVEL_BASE: i32 = 64;

impl KeyspaceOptions {
    /// Refuses what is out of bounds or contradicts itself, and what this database or build cannot do.
    pub(crate) fn check(&self, operators: &Operators) -> Result<()> {
        let invalid = |what: String| Err(Error::InvalidKeyspaceOptions { what });
        if let Compression::Zstd(level) = self.compression {
            if !ZSTD_LEVELS.contains(&level) {
                return invalid(format!("zstd has levels -50 to 22, and not {level}"));
            }
            if !cfg!(feature = "zstd") {
                return Err(Error::NeedsFeature { what: "zstd".into(), feature: "zstd" });
            }
        }
        if self.filter_bits_per_key > FILTER_BITS_MAX {
            return invalid(format!("a filter has at most {FILTER_BITS_MAX} bits for a key"));
        }
        if self.prefix_filter == Some(PrefixExtractor::Length(0)) {
            return invalid("a prefix of no bytes tells nothing apart".into());
        }
        if self.prefix_filter.is_some() && self.filter_bits_per_key == 0 {
            return invalid("a filter of prefixes contradicts filters of no bits".into());
        }
        if let Some(ttl) = self.ttl {
            if ttl.as_millis() == 0 || ttl > FOREVER {
                return invalid(
                    "values live a millisecond at least, a hundred years at most".into(),
                );
            }
            if ttl.subsec_nanos() % 1_000_000 != 0 {
                return invalid("values live for whole milliseconds".into());
            }
        }
        if !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.block_bytes) {
            return invalid(format!("blocks have {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX} bytes"));
        }
        match &self.merge_operator {
            Some(name) if operators.number(name).is_none() => {
                Err(Error::UnknownOperator { name: name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// How its files are written.
    pub(crate) fn of_files(&self, space: SpaceId) -> SstableOptions {
        SstableOptions {
            space,
            block_bytes: self.block_bytes,
            compression: self.compression,
            filter_bits_per_key: self.filter_bits_per_key,
            prefixes: self.prefix_filter,
        }
    }

    /// The size from which on values are kept apart; what the database has where this says nothing.
    pub(crate) fn large_values_or(&self, of_database: usize) -> usize {
        match self.large_values {
            Some(0) => usize::MAX,
            Some(bytes) => bytes,
            None => of_database,
        }
    }

    /// [`KeyspaceOptions::ttl`] as a keyspace has it: milliseconds, 0 for ever.
    pub(crate) fn ttl_ms(&self) -> u64 {
        self.ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let mut field = |tag: u64, value: u64| {
            record::varint(into, tag);
            record::varint(into, value);
        };
        field(
            COMPRESSION,
            match self.compression {
                Compression::None => 0,
                Compression::Lz4 => 1,
                Compression::Zstd(level) => {
                    2 + u64::try_from(level + ZSTD_LEVEL_BASE).unwrap_or_default()
                }
            },
        );
        field(FILTER_BITS, self.filter_bits_per_key as u64);
        field(BLOCK_BYTES, self.block_bytes as u64);
        match self.prefix_filter {
            Some(PrefixExtractor::Length(bytes)) => field(PREFIX_LENGTH, bytes.into()),
            Some(PrefixExtractor::UpTo(delimiter)) => field(PREFIX_UP_TO, delimiter.into()),
            None => {}
        }
        if let Some(bytes) = self.large_values {
            field(LARGE_VALUES, bytes as u64);
        }
        if self.ttl.is_some() {
            field(TTL, self.ttl_ms());
        }
        if let Some(name) = &self.merge_operator {
            field(MERGE_OPERATOR, name.len() as u64);
            into.extend_from_slice(name.as_bytes());
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        const WRONG: &str = "a keyspace's options were written wrongly";
        let mut options = Self::default();
        let mut rest = record::Operations::new(bytes);
        while !rest.is_empty() {
            let tag = rest.varint()?;
            if tag == MERGE_OPERATOR {
                let name = std::str::from_utf8(rest.bytes()?).map_err(|_| WRONG)?;
                if name.is_empty() || name.len() > NAME_BYTES_MAX {
                    return Err(WRONG);
                }
                options.merge_operator = Some(name.to_owned());
                continue;
            }
            let value = rest.varint()?;
            let size = || usize::try_from(value).map_err(|_| WRONG);
            match tag {
                COMPRESSION => {
                    options.compression = match value {
                        0 => Compression::None,
                        1 => Compression::Lz4,
                        level => {
                            let level = i32::try_from(level - 2).map_err(|_| WRONG)?;
                            Compression::Zstd(level.saturating_sub(ZSTD_LEVEL_BASE))
                        }
                    }
                }
                FILTER_BITS => options.filter_bits_per_key = size()?,
                BLOCK_BYTES => options.block_bytes = size()?,
                LARGE_VALUES => options.large_values = Some(size()?),
                PREFIX_LENGTH => {
                    let bytes = u16::try_from(value).map_err(|_| WRONG)?;
                    options.prefix_filter = Some(PrefixExtractor::Length(bytes));
                }
                PREFIX_UP_TO => {
                    let delimiter = u8::try_from(value).map_err(|_| WRONG)?;
                    options.prefix_filter = Some(PrefixExtractor::UpTo(delimiter));
                }
                TTL => options.ttl = Some(Duration::from_millis(value)),
                _ => return Err("a keyspace has an option that this isolith does not know"),
            }
        }
        let bounded = options.filter_bits_per_key <= FILTER_BITS_MAX
            && (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&options.block_bytes);
        if bounded { Ok(options) } else { Err(WRONG) }
    }
}

/// What stands behind a keyspace's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Definition {
    pub(crate) id: SpaceId,
    pub(crate) options: KeyspaceOptions,
    /// Whether it gives other options to a keyspace that is there.
    pub(crate) changes: bool,
}

impl Definition {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_le_bytes().to_vec();
        if self.changes || self.options != KeyspaceOptions::default() {
            bytes.push(if self.changes { CHANGED } else { CREATED });
            self.options.encode(&mut bytes);
        }
        bytes
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, &'static str> {
        let (id, rest) =
            value.split_first_chunk().ok_or("a keyspace's number is not four bytes long")?;
        let id = u32::from_le_bytes(*id);
        let (changes, options) = match rest.split_first() {
            None => (false, KeyspaceOptions::default()),
            Some((&CREATED, options)) => (false, KeyspaceOptions::decode(options)?),
            Some((&CHANGED, options)) => (true, KeyspaceOptions::decode(options)?),
            Some(_) => return Err("a keyspace's options are of a newer isolith"),
        };
        Ok(Self { id, options, changes })
    }
}

/// When a put expires, as versions store it: as it says, or else by what the keyspace says of such.
pub(crate) fn put_expiry(space: &Space, expires_at: Option<u64>, now: impl FnOnce() -> u64) -> u64 {
    match (expires_at, space.ttl_ms()) {
        (None, ttl) if ttl > 0 => stored_expiry(Some(now().saturating_add(ttl).min(u64::MAX - 1))),
        (expires_at, _) => stored_expiry(expires_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<KeyspaceOptions> {
        let default = KeyspaceOptions::default;
        vec![
            default(),
            KeyspaceOptions { compression: Compression::None, ..default() },
            KeyspaceOptions { compression: Compression::Zstd(22), ..default() },
            KeyspaceOptions { compression: Compression::Zstd(-50), ..default() },
            KeyspaceOptions {
                filter_bits_per_key: 0,
                ttl: Some(Duration::from_millis(1)),
                ..default()
            },
            KeyspaceOptions { prefix_filter: Some(PrefixExtractor::Length(u16::MAX)), ..default() },
            KeyspaceOptions { large_values: Some(0), ..default() },
            KeyspaceOptions { large_values: Some(usize::MAX), ..default() },
            KeyspaceOptions {
                prefix_filter: Some(PrefixExtractor::UpTo(0)),
                merge_operator: Some("append".into()),
                block_bytes: 1 << 20,
                ..default()
            },
        ]
    }

    #[test]
    fn a_definition_comes_back_from_its_bytes() {
        for options in all() {
            for changes in [false, true] {
                let definition = Definition { id: 7, options: options.clone(), changes };
                assert_eq!(Definition::decode(&definition.encode()), Ok(definition));
            }
        }
        let plain = Definition { id: 7, options: KeyspaceOptions::default(), changes: false };
        assert_eq!(plain.encode(), [7, 0, 0, 0], "a keyspace without options");
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_an_error_or_other_options_never_a_panic() {
        for options in all() {
            let bytes = Definition { id: 7, options, changes: true }.encode();
            for at in 0..bytes.len() {
                let _ = Definition::decode(&bytes[..at]);
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[at] ^= 1 << bit;
                    let _ = Definition::decode(&flipped).map(|read| read.encode());
                }
            }
        }
        assert!(Definition::decode(&[7, 0, 0, 0, 3]).is_err(), "options of another kind");
        assert!(Definition::decode(&[7, 0, 0, 0, 1, 99, 0]).is_err(), "an unknown option");
    }

    #[test]
    fn what_is_out_of_bounds_or_contradicts_itself_is_refused() {
        let default = KeyspaceOptions::default;
        let invalid = |options: KeyspaceOptions| {
            let refused = options.check(&Operators::default());
            assert!(matches!(refused, Err(Error::InvalidKeyspaceOptions { .. })), "{options:?}");
        };
        default().check(&Operators::default()).expect("the defaults");
        invalid(KeyspaceOptions { compression: Compression::Zstd(23), ..default() });
        invalid(KeyspaceOptions { filter_bits_per_key: 65, ..default() });
        let prefix_filter = Some(PrefixExtractor::Length(0));
        invalid(KeyspaceOptions { prefix_filter, ..default() });
        let prefix_filter = Some(PrefixExtractor::Length(1));
        invalid(KeyspaceOptions { prefix_filter, filter_bits_per_key: 0, ..default() });
        invalid(KeyspaceOptions { ttl: Some(Duration::ZERO), ..default() });
        invalid(KeyspaceOptions { ttl: Some(Duration::MAX), ..default() });
        invalid(KeyspaceOptions { ttl: Some(Duration::from_micros(1500)), ..default() });
        invalid(KeyspaceOptions { block_bytes: 255, ..default() });
        invalid(KeyspaceOptions { block_bytes: (1 << 20) + 1, ..default() });
        let unknown = KeyspaceOptions { merge_operator: Some("mine".into()), ..default() };
        let refused = unknown.check(&Operators::default());
        assert!(matches!(refused, Err(Error::UnknownOperator { .. })), "{refused:?}");
        #[cfg(not(feature = "zstd"))]
        {
            let zstd = KeyspaceOptions { compression: Compression::Zstd(3), ..default() };
            let refused = zstd.check(&Operators::default());
            assert!(matches!(refused, Err(Error::NeedsFeature { feature: "zstd", .. })));
        }
    }
}
