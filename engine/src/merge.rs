//! Merges: changes that do not read, and so do not conflict.
//!
//! A transaction that adds one to a counter by reading and writing it conflicts with every other that
//! does so. [`Transaction::merge`](crate::Transaction::merge) writes down *that* one is to be added,
//! and leaves to whoever reads the key to find out what that comes to: two such transactions do not
//! disturb each other, at any isolation level. Reading the key makes a transaction depend on it as
//! any read does.
//!
//! What is done is up to a [`MergeOperator`], known by its name. Four are supplied; others are
//! registered with [`Builder::merge_operator`](crate::Builder::merge_operator).
//!
//! | name | operand | value |
//! |---|---|---|
//! | [`ADD_I64`] | a decimal integer of 64 bits | the sum, as decimal text; without a value it begins at 0 |
//! | [`MAX_I64`] | a decimal integer of 64 bits | the largest, as decimal text |
//! | [`APPEND`] | any bytes | the bytes of all operands, in commit order |
//! | [`SET_UNION`] | a set ([`encode_set`]) | the members of all |
//!
//! ```
//! use isolith::{Database, merge};
//!
//! let db = Database::in_memory();
//! let counters = db.keyspace("counters")?;
//! counters.merge("visits", merge::ADD_I64, "1")?;
//! counters.merge("visits", merge::ADD_I64, "41")?;
//! assert_eq!(counters.get("visits")?.as_deref(), Some(&b"42"[..]));
//! # Ok::<(), isolith::Error>(())
//! ```
//!
//! # What is promised
//!
//! - An operand that the operator refuses is refused when it comes in: [`Error::Merge`]. A value that
//!   it cannot merge into (text under [`ADD_I64`]) is not known then: *reading* the key fails with
//!   [`Error::Merge`] until the key is put or deleted. Nothing is lost by it.
//! - Merges apply in commit order. Where the order of two operands is to make no difference, the
//!   operator has to be commutative: [`APPEND`] is not.
//! - The sum of [`ADD_I64`] is exact also beyond 64 bits (up to 38 digits), so that it is the same in
//!   whatever order the operands come; whether it fits is for the reader to find out.
//! - A value that had expired when the merging transaction began counts as absent, and the result does
//!   not expire; otherwise it expires when the value would have.
//! - A merge of an operator that is not registered (the database was opened without it) is kept as it
//!   is, in the log and in memory, and a read that needs it fails with [`Error::UnknownOperator`].
//! - Under [`Isolation::Snapshot`](crate::Isolation::Snapshot) the first committer wins over who
//!   puts or deletes a key after it, and over who merges into a key that it has read: what is merged
//!   may have been made of what was read. At the levels that protect reads, reading is a dependency
//!   anyway; at read committed it is none: read with
//!   [`get_for_update`](crate::Transaction::get_for_update) there.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use isolith_index::{
    Base, Found, LentValue, MergeOperators, MergedValue, Operand, Slice, StoredValue, VersionRef,
};
use isolith_txn::Space;

use crate::core::Core;
use crate::error::{Error, OpenError, Result};
use crate::keyspace::Entry;
use crate::options::VALUE_BYTES_MAX;

pub use isolith_index::MergeError;

/// Adds decimal integers.
pub const ADD_I64: &str = "add-i64";
/// Keeps the largest of decimal integers.
pub const MAX_I64: &str = "max-i64";
/// Appends bytes.
pub const APPEND: &str = "append";
/// Unites sets of byte strings (see [`encode_set`]).
pub const SET_UNION: &str = "set-union";

/// Makes a new value of a key's value and an operand.
///
/// Laws, for all that it accepts:
/// - it depends on its arguments alone, for all time: what it says today of bytes that are in the log
///   it must say tomorrow;
/// - merging two operands one after the other is the same as merging what they
///   [combine](MergeOperator::combine) to;
/// - and if the order in which transactions commit shall not matter, two operands merge to the same
///   either way round.
///
/// It is called by readers, and by whoever prunes old versions, under an epoch pin: keep it short, and
/// do not use the database in it. Never inside the commit window. A panic in it goes on to the reader;
/// pruning takes it for a refusal.
pub trait MergeOperator: Send + Sync + 'static {
    /// The value that `operand` makes of `existing` (`None`: the key has no value).
    ///
    /// # Errors
    /// If it makes none: a read of the key fails with this.
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError>;

    /// One operand that does what two do, the earlier one first.
    ///
    /// # Errors
    /// If there is none: outside of a transaction the two then stay two.
    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError>;

    /// Whether an operand may come in. Unless it says otherwise: if it merges into no value.
    ///
    /// # Errors
    /// If it may not.
    fn check(&self, operand: &[u8]) -> Result<(), MergeError> {
        self.merge(None, operand).map(drop)
    }
}

// ---- the supplied ones

/// An integer in the only way to write it.
fn integer(text: &[u8]) -> Result<i128, MergeError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain =
        digits.iter().all(u8::is_ascii_digit) && (digits.first() != Some(&b'0') || text == b"0");
    let number = std::str::from_utf8(text).ok().filter(|_| plain);
    let parse = |text: &str| match text.parse::<i64>() {
        Ok(number) => Some(i128::from(number)),
        Err(_) => text.parse().ok(),
    };
    number.and_then(parse).ok_or(MergeError::new("not an integer"))
}

fn integer_of_64_bits(text: &[u8]) -> Result<i64, MergeError> {
    let too_large = |_| MergeError::new("not an integer of 64 bits");
    i64::try_from(integer(text)?).map_err(too_large)
}

struct AddI64;

impl MergeOperator for AddI64 {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        let (existing, operand) = (existing.map_or(Ok(0), integer)?, integer(operand)?);
        let sum = existing.checked_add(operand);
        let sum = sum.ok_or(MergeError::new("the sum has more than 38 digits"))?;
        // Much faster than the other way, which hardly anybody needs.
        let text = i64::try_from(sum).map_or_else(|_| sum.to_string(), |sum| sum.to_string());
        Ok(text.into_bytes())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(Some(earlier), later)
    }

    fn check(&self, operand: &[u8]) -> Result<(), MergeError> {
        integer_of_64_bits(operand).map(drop)
    }
}

struct MaxI64;

impl MergeOperator for MaxI64 {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        let operand = integer_of_64_bits(operand)?;
        let existing = existing.map(integer_of_64_bits).transpose()?;
        Ok(existing.map_or(operand, |existing| existing.max(operand)).to_string().into_bytes())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(Some(earlier), later)
    }
}

struct Append;

impl MergeOperator for Append {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        Ok([existing.unwrap_or_default(), operand].concat())
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(Some(earlier), later)
    }
}

struct SetUnion;

impl MergeOperator for SetUnion {
    fn merge(&self, existing: Option<&[u8]>, operand: &[u8]) -> Result<Vec<u8>, MergeError> {
        let mut members = decode_set(operand)?;
        members.extend(existing.map_or(Ok(Vec::new()), decode_set)?);
        Ok(encode_set(members))
    }

    fn combine(&self, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.merge(Some(earlier), later)
    }
}

/// A set of byte strings, in any order and with repetitions, as [`SET_UNION`] has it: for each member,
/// ascending, its length (`u32`, little endian) and its bytes.
///
/// # Panics
/// If a member has 4 GiB or more.
pub fn encode_set<M: AsRef<[u8]>>(members: impl IntoIterator<Item = M>) -> Vec<u8> {
    let mut members: Vec<M> = members.into_iter().collect();
    members.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
    members.dedup_by(|a, b| a.as_ref() == b.as_ref());
    let mut set = Vec::with_capacity(members.iter().map(|m| 4 + m.as_ref().len()).sum());
    for member in &members {
        let member = member.as_ref();
        let length = u32::try_from(member.len()).expect("a member is shorter than 4 GiB");
        set.extend_from_slice(&length.to_le_bytes());
        set.extend_from_slice(member);
    }
    set
}

/// The members of a set that [`encode_set`] made, ascending.
///
/// # Errors
/// If it is none.
pub fn decode_set(set: &[u8]) -> Result<Vec<&[u8]>, MergeError> {
    let mut members: Vec<&[u8]> = Vec::new();
    let mut rest = set;
    while !rest.is_empty() {
        let (length, bytes) =
            rest.split_first_chunk().ok_or(MergeError::new("a set that is cut short"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (member, after) =
            bytes.split_at_checked(length).ok_or(MergeError::new("a set that is cut short"))?;
        if members.last().is_some_and(|last| *last >= member) {
            return Err(MergeError::new("a set whose members do not ascend"));
        }
        members.push(member);
        rest = after;
    }
    Ok(members)
}

// ---- by number

/// The supplied ones, by their numbers in the log: the first has number 1.
const SUPPLIED: [(&str, &dyn MergeOperator); 4] =
    [(ADD_I64, &AddI64), (MAX_I64, &MaxI64), (APPEND, &Append), (SET_UNION, &SetUnion)];
/// The number that the first of the others has in this process: in the log they go by name.
const FIRST_NAMED: u16 = 256;
/// The longest name.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// The operators of one database. Their numbers go up to [`FIRST_NAMED`] for the supplied ones.
#[derive(Clone, Default)]
pub(crate) struct Operators {
    named: Vec<Operator>,
}

/// One that goes by name; none behind the name if it is not registered.
type Operator = (Arc<str>, Option<Arc<dyn MergeOperator>>);

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.named.iter().map(|(name, _)| name)).finish()
    }
}

impl Operators {
    /// Registers one of the user's own.
    pub(crate) fn register(&mut self, name: &str, operator: Arc<dyn MergeOperator>) {
        self.named.push((name.into(), Some(operator)));
    }

    /// Refuses names that are none, or that are taken.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        for (at, (name, _)) in self.named.iter().enumerate() {
            let what = if name.is_empty() || name.len() > NAME_BYTES_MAX {
                "a name has 1 to 255 bytes"
            } else if SUPPLIED.iter().any(|(supplied, _)| *supplied == &**name) {
                "an operator of this name is supplied"
            } else if self.named[..at].iter().any(|(other, _)| other == name) {
                "it is registered twice"
            } else {
                continue;
            };
            return Err(OpenError::InvalidOperator { name: name.to_string(), what: what.into() });
        }
        Ok(())
    }

    /// The number of an operator that is there.
    pub(crate) fn number(&self, name: &str) -> Option<u16> {
        let supplied = SUPPLIED.iter().position(|(supplied, _)| *supplied == name);
        if let Some(at) = supplied {
            return Some(at as u16 + 1);
        }
        let at = self
            .named
            .iter()
            .position(|(other, operator)| &**other == name && operator.is_some())?;
        Some(FIRST_NAMED + at as u16)
    }

    /// The number of a name that the log has; it need not be registered.
    pub(crate) fn intern(&mut self, name: &str) -> Result<u16, &'static str> {
        let at = self.named.iter().position(|(other, _)| &**other == name);
        let at = at.unwrap_or(self.named.len());
        let number = u16::try_from(at + usize::from(FIRST_NAMED));
        let number = number.map_err(|_| "there are too many operators")?;
        if at == self.named.len() {
            self.named.push((name.into(), None));
        }
        Ok(number)
    }

    /// The number of a name that is registered, or that the log has had.
    pub(crate) fn interned(&self, name: &str) -> Option<u16> {
        let at = self.named.iter().position(|(other, _)| &**other == name)?;
        u16::try_from(at + usize::from(FIRST_NAMED)).ok()
    }

    /// Those that go by name, with their numbers.
    pub(crate) fn all_named(&self) -> impl Iterator<Item = (u16, &str)> {
        (FIRST_NAMED..).zip(self.named.iter().map(|(name, _)| &**name))
    }

    /// Gives the names the numbers that files have them under; others that are registered come after.
    pub(crate) fn number_as(
        &mut self,
        known: impl IntoIterator<Item = (u16, String)>,
    ) -> Result<(), &'static str> {
        let registered = std::mem::take(&mut self.named);
        for (number, name) in known {
            if self.intern(&name)? != number {
                return Err("the numbers of merge operators have gaps");
            }
        }
        for (name, operator) in registered {
            let number = self.intern(&name)?;
            self.named[usize::from(number - FIRST_NAMED)].1 = operator;
        }
        Ok(())
    }

    /// Numbers of names that may be lost, where they are not known: more than anybody has operators.
    pub(crate) fn numbers_in_doubt() -> std::ops::Range<u16> {
        FIRST_NAMED..4 * FIRST_NAMED
    }

    /// Whether a number stands for a supplied one.
    pub(crate) fn is_supplied(number: u16) -> bool {
        (1..=SUPPLIED.len()).contains(&usize::from(number))
    }

    /// The name of an operator, if it has one in the log.
    pub(crate) fn named(&self, number: u16) -> Option<&str> {
        let at = number.checked_sub(FIRST_NAMED)?;
        self.named.get(usize::from(at)).map(|(name, _)| &**name)
    }

    /// The name of an operator, for messages.
    pub(crate) fn name(&self, number: u16) -> &str {
        let supplied = usize::from(number).checked_sub(1).and_then(|at| SUPPLIED.get(at));
        supplied.map(|(name, _)| *name).or_else(|| self.named(number)).unwrap_or("?")
    }

    fn find(&self, number: u16) -> Option<&dyn MergeOperator> {
        match number.checked_sub(FIRST_NAMED) {
            Some(at) => self.named.get(usize::from(at))?.1.as_deref(),
            None => {
                let at = usize::from(number).checked_sub(1)?;
                SUPPLIED.get(at).map(|&(_, operator)| operator)
            }
        }
    }

    fn call(
        &self,
        number: u16,
        call: impl FnOnce(&dyn MergeOperator) -> Result<Vec<u8>, MergeError>,
    ) -> Result<Vec<u8>, MergeError> {
        let operator =
            self.find(number).ok_or(MergeError::new("the operator is not registered"))?;
        let bytes = call(operator)?;
        if bytes.len() > VALUE_BYTES_MAX {
            return Err(MergeError::new("the result is larger than a value may be"));
        }
        Ok(bytes)
    }
}

impl MergeOperators for Operators {
    fn merge(
        &self,
        operator: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        self.call(operator, |operator| operator.merge(existing, operand))
    }

    fn combine(&self, operator: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        self.call(operator, |operator| operator.combine(earlier, later))
    }
}

/// Operators for pruning, which takes a panic for a refusal: who prunes is not to blame for it.
pub(crate) struct Calm<'o>(pub(crate) &'o Operators);

impl Calm<'_> {
    fn calmly(call: impl FnOnce() -> Result<Vec<u8>, MergeError>) -> Result<Vec<u8>, MergeError> {
        // An operator is called through a shared reference and keeps to its own laws after a panic,
        // or its next call fails as well.
        let panicked = |_| Err(MergeError::new("the operator panicked"));
        catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(panicked)
    }
}

impl MergeOperators for Calm<'_> {
    fn merge(
        &self,
        operator: u16,
        existing: Option<&[u8]>,
        operand: &[u8],
    ) -> Result<Vec<u8>, MergeError> {
        Self::calmly(|| self.0.merge(operator, existing, operand))
    }

    fn combine(&self, operator: u16, earlier: &[u8], later: &[u8]) -> Result<Vec<u8>, MergeError> {
        Self::calmly(|| self.0.combine(operator, earlier, later))
    }
}

// ---- reading

/// A value as a reader finds it.
pub(crate) enum Seen<'g> {
    Put(VersionRef<'g>),
    Stored(Box<StoredValue>),
    Lent(&'g LentValue<'g>),
    Merged(MergedValue),
}

impl Seen<'_> {
    pub(crate) fn value(&self) -> &[u8] {
        match self {
            Seen::Put(version) => version.value(),
            Seen::Stored(stored) => &stored.value,
            Seen::Lent(lent) => lent.value,
            Seen::Merged(merged) => &merged.value,
        }
    }

    pub(crate) fn into_slice(self) -> Slice {
        match self {
            Seen::Put(version) => version.slice(),
            Seen::Stored(stored) => stored.value,
            Seen::Lent(lent) => Slice::from(lent.value),
            Seen::Merged(merged) => Slice::from(merged.value),
        }
    }

    pub(crate) fn into_entry(self) -> Entry {
        match self {
            Seen::Put(version) => Entry::of(version),
            Seen::Stored(stored) => Entry::of_stored(*stored),
            Seen::Lent(lent) => Entry::of_stored(lent.stored()),
            Seen::Merged(merged) => Entry::of_merged(merged),
        }
    }
}

/// Whether a value expires that a reader found, and when. No operator runs.
pub(crate) fn expires_at(found: Found<'_>) -> Option<u64> {
    let expires_at = match found {
        Found::Absent => 0,
        Found::Put(version) => version.expires_at(),
        Found::Merged(merged) => merged.expires_at(),
        Found::Stored(stored) => stored.expires_at,
        Found::Lent(lent) => lent.expires_at,
        Found::Run(run) => run.expires_at(),
    };
    (expires_at != 0).then_some(expires_at)
}

impl Core {
    /// The value that a reader found, unless it has expired by `now`, which is asked only for a value
    /// that can. Merges are made here, outside of any lock.
    #[inline]
    pub(crate) fn see<'g>(
        &self,
        space: &Space,
        key: &[u8],
        found: Found<'g>,
        now: impl FnOnce() -> u64,
    ) -> Result<Option<Seen<'g>>> {
        match found {
            Found::Absent => Ok(None),
            Found::Put(version) => {
                let live = version.expires_at() == 0 || version.live_at(now());
                Ok(live.then_some(Seen::Put(version)))
            }
            Found::Stored(stored) => {
                let live = stored.expires_at == 0 || stored.live_at(now());
                Ok(live.then_some(Seen::Stored(stored)))
            }
            Found::Lent(lent) => {
                let live = lent.expires_at == 0 || lent.live_at(now());
                Ok(live.then_some(Seen::Lent(lent)))
            }
            Found::Merged(merged) => {
                let (base, run) = merged.parts();
                self.see_merged(space, key, base, &run, || merged.expires_at(), now)
            }
            Found::Run(merged) => {
                let (base, run) = merged.parts();
                self.see_merged(space, key, base, &run, || merged.expires_at(), now)
            }
        }
    }

    /// The same for a value that is yet to be made.
    fn see_merged<'g>(
        &self,
        space: &Space,
        key: &[u8],
        base: Option<Base<'_>>,
        run: &[Operand<'_>],
        expires_at: impl FnOnce() -> u64,
        now: impl FnOnce() -> u64,
    ) -> Result<Option<Seen<'g>>> {
        if base.is_some_and(|base| base.expires_at != 0) {
            let expires_at = expires_at();
            if expires_at != 0 && expires_at <= now() {
                return Ok(None);
            }
        }
        Ok(Some(Seen::Merged(self.fold(space, key, base, run)?)))
    }

    /// What merges come to.
    pub(crate) fn fold(
        &self,
        space: &Space,
        key: &[u8],
        base: Option<Base<'_>>,
        run: &[Operand<'_>],
    ) -> Result<MergedValue> {
        isolith_index::fold(base, run, self.operators())
            .map_err(|failure| self.merge_error(space, key, failure.operator, failure.error))
    }

    /// The error for an operator that did not merge.
    pub(crate) fn merge_error(
        &self,
        space: &Space,
        key: &[u8],
        operator: u16,
        why: MergeError,
    ) -> Error {
        let operators = self.operators();
        let name = operators.name(operator).to_owned();
        match operators.find(operator) {
            Some(_) => Error::Merge {
                keyspace: self.name_of(space.id),
                key: Slice::from(key),
                operator: name,
                why,
            },
            None => Error::UnknownOperator { name },
        }
    }

    /// The number of an operator, for an operand that it takes.
    pub(crate) fn operator_for(
        &self,
        space: &Space,
        key: &[u8],
        name: &str,
        operand: &[u8],
    ) -> Result<u16> {
        let operators = self.operators();
        let own = match name.is_empty() {
            true => self.keyspace_options(space.id).merge_operator.clone(),
            false => None,
        };
        let name = own.as_deref().unwrap_or(name);
        let number = operators.number(name);
        let found = number.and_then(|number| Some((number, operators.find(number)?)));
        let Some((number, operator)) = found else {
            return Err(Error::UnknownOperator { name: name.to_owned() });
        };
        match operator.check(operand) {
            Ok(()) => Ok(number),
            Err(why) => Err(self.merge_error(space, key, number, why)),
        }
    }
}

impl Entry {
    pub(crate) fn of_stored(stored: StoredValue) -> Self {
        let StoredValue { value, expires_at, .. } = stored;
        Self { value, expires_at: (expires_at != 0).then_some(expires_at) }
    }

    pub(crate) fn of_merged(merged: MergedValue) -> Self {
        let MergedValue { value, expires_at } = merged;
        let value = Slice::from(value);
        Self { value, expires_at: (expires_at != 0).then_some(expires_at) }
    }

    /// What merges begin with.
    pub(crate) fn as_base(&self) -> Base<'_> {
        Base { value: &self.value, expires_at: self.expires_at.unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests;
