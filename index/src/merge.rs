//! Merges: what a run of operands comes to, for readers and for pruning.
//!
//! A merge says what is to be done to a key's value without knowing the value. Its result is found
//! when somebody reads: by walking on down the chain, through older merges, to the *base*.
//!
//! ```text
//!   40 merge +1 ──► 30 merge +5 ──► 20 put 7 ──► …         read at 40: 13, at 30: 12, at 20: 7
//! ```
//!
//! 1. The base is the first put or tombstone under the merges, or nothing, where the chain ends or a
//!    range delete comes in between. (Which range delete hides the base is decided once, by the newest
//!    that covers the key at or below the reader's timestamp: it is no newer than the topmost merge,
//!    or that would not be seen.)
//! 2. Merges apply from the oldest to the newest. One whose transaction began when the base had
//!    expired starts from nothing, and then the result never expires; otherwise it expires with the
//!    base. So the result is a function of the chain alone, whoever reads it and whenever.
//! 3. What operators do is other people's business ([`MergeOperators`]). They run under an epoch pin,
//!    never inside the commit window, and with no lock held but a chain's pruning bit, for which
//!    nobody waits.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use isolith_wal::Lsn;

use crate::slice::Slice;
use crate::version::{Kind, VersionRef};

/// Why an operator does not merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeError {
    why: Cow<'static, str>,
}

impl MergeError {
    /// An error that says why, for people.
    pub fn new(why: impl Into<Cow<'static, str>>) -> MergeError {
        MergeError { why: why.into() }
    }
}

impl fmt::Display for MergeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Error for MergeError {}

/// What operators do, by their numbers.
///
/// For all that `merge` and `combine` accept, merging two operands one after the other is the same as
/// merging what they combine to, and both depend on nothing but their arguments. Whether the order of
/// two operands matters is between the operator and its users.
pub trait MergeOperators {
    /// The value that `operand` makes of `existing` (None: the key has no value).
    ///
    /// # Errors
    /// If it cannot: a read that needs the result fails with this.
    fn merge(
        &self,
        operator: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError>;

    /// One operand that does what two do one after the other.
    ///
    /// # Errors
    /// If there is none: then the two stay two.
    fn combine(&self, operator: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError>;
}

/// No operator at all: every merge stays what it is.
#[derive(Clone, Copy, Debug)]
pub struct NoOperators;

impl MergeOperators for NoOperators {
    fn merge(&self, _: u16, _: Option<&[u8]>, _: &[u8]) -> Result<Vec<u8>, MergeError> {
        Err(MergeError::new("there are no operators"))
    }

    fn combine(&self, _: u16, _: &[u8], _: &[u8]) -> Result<Vec<u8>, MergeError> {
        Err(MergeError::new("there are no operators"))
    }
}

/// An operator that did not merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeFailure {
    /// Its number.
    pub operator: u16,
    /// What it said.
    pub error: MergeError,
}

/// What merges begin with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base<'a> {
    /// The value that was put.
    pub value: &'a [u8],
    /// When it expires, in unix milliseconds; 0 = never.
    pub expires_at: u64,
}

/// One merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operand<'a> {
    /// The operator's number.
    pub operator: u16,
    /// What is merged in.
    pub bytes: &'a [u8],
    /// When its transaction began, in unix milliseconds.
    pub at_ms: u64,
}

/// What merges come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MergedValue {
    /// The value.
    pub value: Vec<u8>,
    /// When it expires, in unix milliseconds; 0 = never.
    pub expires_at: u64,
}

/// How many of `run` (oldest first) are of no account, since a later one found the base expired; and
/// whether there is such a one at all.
fn dead<'a>(expires_at: u64, mut run: impl Iterator<Item = Operand<'a>>) -> Option<usize> {
    if expires_at == 0 { None } else { run.position(|operand| operand.at_ms >= expires_at) }
}

/// When what `run` (oldest first) makes of a base expires.
fn expires_at<'a>(base_expires_at: u64, run: impl Iterator<Item = Operand<'a>>) -> u64 {
    if dead(base_expires_at, run).is_some() { 0 } else { base_expires_at }
}

/// Merges `run`, oldest first, into `base` (invariant 2).
///
/// # Errors
/// The operator that could not.
///
/// # Panics
/// If there is nothing to merge.
pub fn fold(
    base: Option<Base<'_>>,
    run: &[Operand<'_>],
    operators: &dyn MergeOperators,
) -> Result<MergedValue, MergeFailure> {
    let mut value = base.map(|base| Cow::Borrowed(base.value));
    let mut expires_at = base.map_or(0, |base| base.expires_at);
    let mut rest = run;
    if let Some(dead) = dead(expires_at, run.iter().copied())
        && !isolith_wal::planted!("merged-over-expired")
    {
        (value, expires_at, rest) = (None, 0, &run[dead..]);
    }
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|operand| operand.operator == first.operator).count();
        let (group, after) = rest.split_at(same);
        value = Some(Cow::Owned(fold_same(value.as_deref(), group, operators)?));
        rest = after;
    }
    let value = value.expect("something is merged").into_owned();
    Ok(MergedValue { value, expires_at })
}

/// Merges operands of one operator. They are combined first: the value may be large.
fn fold_same(
    value: Option<&[u8]>,
    group: &[Operand<'_>],
    operators: &dyn MergeOperators,
) -> Result<Vec<u8>, MergeFailure> {
    let (first, later) = group.split_first().expect("something is merged");
    let operator = first.operator;
    let merge = |value: Option<&[u8]>, operand: &[u8]| {
        operators.merge(operator, value, operand).map_err(|error| MergeFailure { operator, error })
    };
    if let Ok(combined) = combine_all(group, operators) {
        return merge(value, &combined);
    }
    later
        .iter()
        .try_fold(merge(value, first.bytes)?, |value, later| merge(Some(&value), later.bytes))
}

/// One operand that does what these of one operator, oldest first, do one after the other. By halves:
/// each byte is then copied once for each doubling, though every operand may make the result longer.
pub(crate) fn combine_all<'a>(
    group: &[Operand<'a>],
    operators: &dyn MergeOperators,
) -> Result<Cow<'a, [u8]>, MergeError> {
    if let [one] = group {
        return Ok(Cow::Borrowed(one.bytes));
    }
    let (earlier, later) = group.split_at(group.len() / 2);
    let operator = later.first().expect("something is combined").operator;
    let (earlier, later) = (combine_all(earlier, operators)?, combine_all(later, operators)?);
    let (earlier, later) = match isolith_wal::planted!("merges-folded-backwards") {
        true => (later, earlier),
        false => (earlier, later),
    };
    operators.combine(operator, &earlier, &later).map(Cow::Owned)
}

/// A value that is yet to be made: the topmost of a run of merges, readable while the pin lasts.
#[derive(Clone, Copy)]
pub struct Merged<'g> {
    topmost: VersionRef<'g>,
    /// Versions with a smaller stamp are hidden by a range delete.
    cover: Lsn,
}

impl<'g> Merged<'g> {
    pub(crate) fn new(topmost: VersionRef<'g>, cover: Lsn) -> Merged<'g> {
        debug_assert!(topmost.is_merge() && cover <= topmost.stamp(), "it is seen, and a merge");
        Merged { topmost, cover }
    }

    /// The LSN of the newest commit that had a part in the value.
    pub fn stamp(self) -> Lsn {
        self.topmost.stamp()
    }

    /// The run and what is under it: newest first, the base last if there is one (a tombstone is
    /// none).
    pub(crate) fn versions(self) -> impl Iterator<Item = VersionRef<'g>> {
        let mut next = Some(self.topmost);
        std::iter::from_fn(move || {
            let version = next.filter(|version| version.stamp() >= self.cover)?;
            next = if version.is_merge() { version.older() } else { None };
            (version.kind() != Kind::Delete).then_some(version)
        })
    }

    /// Whether what is under the memtable goes into the value, too: nothing in it ends the run.
    pub(crate) fn is_open(self) -> bool {
        // A range delete that covers the key hides all that is older, wherever that is.
        self.cover == Lsn::ZERO && {
            let mut last = self.topmost;
            while last.is_merge() {
                match last.older() {
                    Some(older) => last = older,
                    None => return true,
                }
            }
            false
        }
    }

    /// The base, and the merges, oldest first.
    pub fn parts(self) -> (Option<Base<'g>>, Vec<Operand<'g>>) {
        let mut base = None;
        let mut run = Vec::new();
        for version in self.versions() {
            let (bytes, time) = (version.value(), version.expires_at());
            match version.kind() {
                Kind::Merge { operator } => run.push(Operand { operator, bytes, at_ms: time }),
                _ => base = Some(Base { value: bytes, expires_at: time }),
            }
        }
        run.reverse();
        (base, run)
    }

    /// The value. Runs the operators, under the pin.
    ///
    /// # Errors
    /// The operator that could not.
    pub fn fold(self, operators: &dyn MergeOperators) -> Result<MergedValue, MergeFailure> {
        let (base, run) = self.parts();
        fold(base, &run, operators)
    }

    /// When the value expires, in unix milliseconds; 0 = never. Without a look at what the value is.
    pub fn expires_at(self) -> u64 {
        let (base, run) = self.parts();
        expires_at(base.map_or(0, |base| base.expires_at), run.iter().copied())
    }
}

impl fmt::Debug for Merged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, run) = self.parts();
        f.debug_struct("Merged")
            .field("stamp", &self.stamp())
            .field("base", &base)
            .field("run", &run)
            .finish()
    }
}

/// A value that was put, where a file has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LentValue<'v> {
    /// The bytes.
    pub value: &'v [u8],
    /// When it expires, in unix milliseconds; 0 = never.
    pub expires_at: u64,
    /// The LSN of the commit that put it.
    pub stamp: Lsn,
}

impl LentValue<'_> {
    /// The value with bytes of its own.
    pub fn stored(&self) -> StoredValue {
        let LentValue { value, expires_at, stamp } = *self;
        StoredValue { value: Slice::copy(value), expires_at, stamp }
    }

    /// Whether it still holds at `now_ms`: it ends at its expiry, that instant included.
    #[inline]
    pub fn live_at(&self, now_ms: u64) -> bool {
        self.expires_at == 0 || now_ms < self.expires_at
    }
}

/// A value that was put, out of a file: it holds on to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredValue {
    /// The bytes.
    pub value: Slice,
    /// When it expires, in unix milliseconds; 0 = never.
    pub expires_at: u64,
    /// The LSN of the commit that put it.
    pub stamp: Lsn,
}

impl StoredValue {
    /// Whether it still holds at `now_ms`: it ends at its expiry, that instant included.
    #[inline]
    pub fn live_at(&self, now_ms: u64) -> bool {
        self.expires_at == 0 || now_ms < self.expires_at
    }

    /// What merges begin with.
    pub fn as_base(&self) -> Base<'_> {
        Base { value: &self.value, expires_at: self.expires_at }
    }
}

/// One merge of a [`MergeRun`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredOperand {
    /// The operator's number.
    pub operator: u16,
    /// What is merged in.
    pub bytes: Slice,
    /// When its transaction began, in unix milliseconds.
    pub at_ms: u64,
}

impl StoredOperand {
    /// The same, borrowed.
    pub fn as_operand(&self) -> Operand<'_> {
        Operand { operator: self.operator, bytes: &self.bytes, at_ms: self.at_ms }
    }
}

/// A value that is yet to be made of a run of merges which is not in one memtable: a copy, which holds on
/// to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MergeRun {
    /// The put that the merges begin with; none: the key had no value.
    pub base: Option<StoredValue>,
    /// The merges, oldest first; never empty.
    pub operands: Vec<StoredOperand>,
    /// The LSN of the newest commit that had a part in the value.
    pub stamp: Lsn,
}

impl MergeRun {
    /// The base, and the merges, oldest first.
    pub fn parts(&self) -> (Option<Base<'_>>, Vec<Operand<'_>>) {
        let run = self.operands.iter().map(StoredOperand::as_operand).collect();
        (self.base.as_ref().map(StoredValue::as_base), run)
    }

    /// The value. Runs the operators.
    ///
    /// # Errors
    /// The operator that could not.
    pub fn fold(&self, operators: &dyn MergeOperators) -> Result<MergedValue, MergeFailure> {
        let (base, run) = self.parts();
        fold(base, &run, operators)
    }

    /// When the value expires, in unix milliseconds; 0 = never. Without a look at what the value is.
    pub fn expires_at(&self) -> u64 {
        let run = self.operands.iter().map(StoredOperand::as_operand);
        expires_at(self.base.as_ref().map_or(0, |base| base.expires_at), run)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::testing::Letters;

    /// Text in, text out: a base `value` or `value@expiry` or nothing, then merges `operator:operand` or
    /// `operator:operand@time`, oldest first.
    fn folded(text: &str) -> String {
        let at = |word: &str| -> (String, u64) {
            let (word, at) = word.split_once('@').unwrap_or((word, "0"));
            (word.to_owned(), at.parse().expect("a time"))
        };
        let (base, run) = text.split_once('|').expect("a base and a run");
        let base = Some(at(base.trim())).filter(|(value, _)| !value.is_empty());
        let base =
            base.as_ref().map(|(value, at)| Base { value: value.as_bytes(), expires_at: *at });
        let run: Vec<_> = run
            .split_whitespace()
            .map(|word| {
                let (operator, operand) = word.split_once(':').expect("operator:operand");
                (operator.parse().expect("a number"), at(operand))
            })
            .collect();
        let run: Vec<_> = run
            .iter()
            .map(|(operator, (bytes, at_ms))| Operand {
                operator: *operator,
                bytes: bytes.as_bytes(),
                at_ms: *at_ms,
            })
            .collect();
        match fold(base, &run, &Letters) {
            Ok(MergedValue { value, expires_at }) => {
                format!("{}@{expires_at}", value.escape_ascii())
            }
            Err(MergeFailure { operator, error }) => format!("{operator}: {error}"),
        }
    }

    #[test]
    fn merges_apply_from_the_oldest_to_the_newest() {
        assert_eq!(folded("x | 0:a 0:b"), "xab@0");
        assert_eq!(folded("| 0:a 0:b"), "-ab@0");
        assert_eq!(folded("x | 0:a 1:b 0:c 0:d"), "(xab)cd@0");
        assert_eq!(folded("x | 1:a 1:b"), "((xa)b)@0");
        assert_eq!(folded("x | 0:a 2:b"), "2: never");
    }

    #[test]
    fn combining_many_copies_each_byte_a_few_times() {
        use std::cell::Cell;

        /// Appends, and counts the bytes that combining copies.
        struct Counted(Cell<usize>);

        impl MergeOperators for Counted {
            fn merge(
                &self,
                _: u16,
                existing: Option<&[u8]>,
                operand: &[u8],
            ) -> Result<Vec<u8>, MergeError> {
                Ok([existing.unwrap_or_default(), operand].concat())
            }

            fn combine(&self, _: u16, a: &[u8], b: &[u8]) -> Result<Vec<u8>, MergeError> {
                self.0.set(self.0.get() + a.len() + b.len());
                Ok([a, b].concat())
            }
        }

        let bytes: Vec<_> = (0..5_000u32).flat_map(u32::to_be_bytes).collect();
        let operand = |bytes| Operand { operator: 0, bytes, at_ms: 0 };
        let run: Vec<_> = bytes.chunks(4).map(operand).collect();
        let counted = Counted(Cell::new(0));
        assert_eq!(fold(None, &run, &counted).map(|merged| merged.value), Ok(bytes.clone()));
        assert!(counted.0.get() <= 13 * bytes.len(), "{} copied", counted.0.get());
    }

    #[test]
    fn a_merge_that_finds_the_base_expired_starts_from_nothing() {
        assert_eq!(folded("x@50 | 0:a@49"), "xa@50");
        assert_eq!(folded("x@50 | 0:a@50"), "-a@0");
        assert_eq!(folded("x@50 | 0:a@49 0:b@50 0:c@10"), "-bc@0");
        assert_eq!(folded("x@50 | 2:a@49 0:b@50"), "-b@0", "what is of no account does not fail");
        assert_eq!(folded("| 0:a@50"), "-a@0");
    }
}
