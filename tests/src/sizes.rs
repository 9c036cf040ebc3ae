//! How large memtables, files and segments are in a test: as ever, or so small that every few steps
//! something is frozen, flushed, compacted and released; and an operator of the tests' own.

use isolith::Builder;
use isolith::merge::{MergeError, MergeOperator};

use crate::model::End;

/// Sizes of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// [`Builder::memory`]; `None` for the default.
    pub memory: Option<u64>,
    /// [`Builder::memtable_bytes`]; `None` for the default.
    pub memtable_bytes: Option<u64>,
    /// [`Builder::file_bytes`]; `None` for the default.
    pub file_bytes: Option<u64>,
    /// [`Builder::segment_bytes`].
    pub segment_bytes: u64,
    /// [`Builder::large_values`]; `None` for the default.
    pub large_values: Option<usize>,
}

impl Sizes {
    /// Memtables that nothing in a test fills, and segments as small as the log allows.
    pub const PLAIN: Sizes = Sizes {
        memory: None,
        memtable_bytes: None,
        file_bytes: None,
        segment_bytes: 32 << 10,
        large_values: None,
    };
    /// A few writes fill a memtable; the smallest files; the log is released again and again.
    pub const TINY: Sizes = Sizes {
        memory: Some(160 << 10),
        memtable_bytes: Some(2 << 10),
        file_bytes: Some(4 << 10),
        segment_bytes: 32 << 10,
        large_values: None,
    };
    /// The same, and nearly all values are apart from their keys.
    pub const APART: Sizes = Sizes { large_values: Some(4), ..Sizes::TINY };

    /// [`Sizes::TINY`] or [`Sizes::APART`], by the seed.
    pub fn tiny(seed: u64) -> Sizes {
        if seed.is_multiple_of(2) { Sizes::TINY } else { Sizes::APART }
    }

    /// A builder with these sizes, and with the tests' operator.
    pub fn of(self, mut builder: Builder) -> Builder {
        if let Some(bytes) = self.memory {
            builder = builder.memory(bytes);
        }
        if let Some(bytes) = self.memtable_bytes {
            builder = builder.memtable_bytes(bytes);
        }
        if let Some(bytes) = self.file_bytes {
            builder = builder.file_bytes(bytes);
        }
        if let Some(bytes) = self.large_values {
            builder = builder.large_values(bytes);
        }
        builder.segment_bytes(self.segment_bytes).merge_operator(PREPEND, Prepend)
    }
}

/// The name of [`Prepend`].
pub const PREPEND: &str = "testkit.prepend";

/// Puts the operand before what is there: an operator that the engine does not bring.
#[derive(Clone, Copy, Debug)]
pub struct Prepend;

impl MergeOperator for Prepend {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        Ok([operand, existing.unwrap_or_default()].concat())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        Ok([later, earlier].concat())
    }
}

impl End {
    /// The name of the operator that joins at this end.
    pub fn operator(self) -> &'static str {
        match self {
            End::Back => isolith::merge::APPEND,
            End::Front => PREPEND,
        }
    }
}
