//! A block: a sorted run of versions, with the common beginnings of keys taken out.
//!
//! ```text
//! block    │ base stamp, 8 │ entry │ entry │ … │ restart offsets, 4 each │ their number, 4 │
//! entry    │ head, 1 │ shared │ unshared │ value's length │ stamp - base │ [operator, 2] │ [time] │ key's end │ value │
//! ```
//!
//! Lengths, the stamp's difference and the time are LEB128. `shared` is how many bytes the key has in
//! common with the one before it; every [`RESTART_EVERY`]th entry is a *restart*, which shares nothing,
//! so that a search can begin there.
//!
//! 1. Entries ascend by key; those of one key descend by stamp. No two are alike in both.
//! 2. Decoding never panics and never reads outside of the block: a block that passed its checksum and
//!    does not hold together was written wrongly, and is told as [`Malformed`].

use std::cmp::Ordering;

use isolith_wal::Lsn;

use crate::version::Kind;

/// Entries from one restart to the next.
pub(crate) const RESTART_EVERY: usize = 16;
/// The longest head of an entry: one byte, four lengths of up to ten, an operator.
const HEAD_BYTES_MAX: usize = 1 + 5 * 10 + 2;

/// A block that does not hold together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

/// One version as a block has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry<'b> {
    pub(crate) stamp: Lsn,
    pub(crate) kind: Kind,
    /// Expiry of a put, or when the transaction of a merge began; 0: none.
    pub(crate) time: u64,
    pub(crate) value: &'b [u8],
    /// Whether the value is a [reference](crate::sstable::ValueRef) to the one that was put.
    pub(crate) large: bool,
}

const KIND_PUT: u8 = 0;
const KIND_DELETE: u8 = 1;
const KIND_MERGE: u8 = 2;
/// A put whose value is a reference.
const KIND_LARGE: u8 = 3;
const KIND_BITS: u8 = 3;
const HAS_TIME: u8 = 4;
/// In every entry of an index, and in no other: the two are not to be taken for each other.
const IN_INDEX: u8 = 8;

/// The order of versions: by key, and newest first.
pub(crate) fn order(left: (&[u8], Lsn), right: (&[u8], Lsn)) -> Ordering {
    left.0.cmp(right.0).then(right.1.cmp(&left.1))
}

/// Puts a block together.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    bytes: Vec<u8>,
    restarts: Vec<u32>,
    /// Entries since the last restart.
    run: usize,
    last_key: Vec<u8>,
    base: Lsn,
    restart_every: usize,
    in_index: bool,
}

impl BlockBuilder {
    /// An index: every entry is a restart.
    pub(crate) fn of_index() -> Self {
        Self { in_index: true, ..Self::new(1) }
    }

    /// A block with a restart every so many entries.
    pub(crate) fn new(restart_every: usize) -> Self {
        Self {
            bytes: vec![0; 8],
            restarts: Vec::new(),
            run: 0,
            last_key: Vec::new(),
            base: Lsn::ZERO,
            restart_every,
            in_index: false,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.restarts.is_empty()
    }

    /// Bytes of the block if it ended here.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + 4 * self.restarts.len() + 4
    }

    /// Adds the next version in [`order`].
    pub(crate) fn add(&mut self, key: &[u8], entry: Entry<'_>) {
        if self.is_empty() {
            // Differences wrap: the first stamp is as good a base as the smallest.
            self.base = entry.stamp;
            self.bytes[..8].copy_from_slice(&entry.stamp.bits().to_le_bytes());
        }
        let shared = match self.run.is_multiple_of(self.restart_every) {
            true => {
                // A block ends long before 4 GiB but for one huge entry, which is its last.
                self.restarts.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
                0
            }
            false => common(&self.last_key, key),
        };
        self.run += 1;
        let (kind, operator) = match entry.kind {
            Kind::Put if entry.large => (KIND_LARGE, None),
            Kind::Put => (KIND_PUT, None),
            Kind::Delete => (KIND_DELETE, None),
            Kind::Merge { operator } => (KIND_MERGE, Some(operator)),
        };
        let bytes = &mut self.bytes;
        bytes.reserve(HEAD_BYTES_MAX + key.len() - shared + entry.value.len());
        let time = if entry.time != 0 { HAS_TIME } else { 0 };
        bytes.push(kind | time | if self.in_index { IN_INDEX } else { 0 });
        put_number(bytes, shared as u64);
        put_number(bytes, (key.len() - shared) as u64);
        put_number(bytes, entry.value.len() as u64);
        put_number(bytes, zigzag(entry.stamp.bits().wrapping_sub(self.base.bits())));
        if let Some(operator) = operator {
            bytes.extend_from_slice(&operator.to_le_bytes());
        }
        if entry.time != 0 {
            put_number(bytes, entry.time);
        }
        bytes.extend_from_slice(&key[shared..]);
        bytes.extend_from_slice(entry.value);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
    }

    /// The key that was added last.
    pub(crate) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The whole block; the builder begins a new one.
    pub(crate) fn finish(&mut self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.bytes);
        for restart in &self.restarts {
            into.extend_from_slice(&restart.to_le_bytes());
        }
        let restarts = u32::try_from(self.restarts.len()).unwrap_or(u32::MAX);
        into.extend_from_slice(&restarts.to_le_bytes());
        self.bytes.truncate(8);
        self.restarts.clear();
        self.last_key.clear();
        self.run = 0;
    }
}

/// A block that can be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'b> {
    /// Base and entries; offsets of restarts count from its beginning.
    entries: &'b [u8],
    restarts: &'b [u8],
    base: u64,
}

impl<'b> Block<'b> {
    pub(crate) fn new(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let (rest, count) = bytes.split_last_chunk::<4>().ok_or(Malformed)?;
        let count = u32::from_le_bytes(*count) as usize;
        let restarts_bytes = count.checked_mul(4).ok_or(Malformed)?;
        let at = rest.len().checked_sub(restarts_bytes).ok_or(Malformed)?;
        let (entries, restarts) = rest.split_at(at);
        let base = u64::from_le_bytes(*entries.first_chunk().ok_or(Malformed)?);
        if count == 0 {
            return Err(Malformed);
        }
        Ok(Self { entries, restarts, base })
    }

    fn restarts(&self) -> usize {
        self.restarts.len() / 4
    }

    fn restart(&self, number: usize) -> usize {
        let at = 4 * number;
        self.restarts
            .get(at..at + 4)
            .and_then(|bytes| bytes.first_chunk())
            .map_or(usize::MAX, |bytes| u32::from_le_bytes(*bytes) as usize)
    }
}

/// The head of an entry, decoded where it lies.
struct Head<'b> {
    shared: usize,
    suffix: &'b [u8],
    entry: Entry<'b>,
    /// Where the next entry begins.
    end: usize,
}

impl<'b> Block<'b> {
    #[inline]
    fn head(&self, at: usize) -> Result<Head<'b>, Malformed> {
        let mut input = self.entries.get(at..).ok_or(Malformed)?;
        let flags = take(&mut input, 1)?[0];
        let shared = length(&mut input)?;
        let unshared = length(&mut input)?;
        let value = length(&mut input)?;
        let stamp = self.base.wrapping_add(unzigzag(number(&mut input)?));
        let kind = match flags & KIND_BITS {
            KIND_PUT | KIND_LARGE => Kind::Put,
            KIND_DELETE => Kind::Delete,
            KIND_MERGE => {
                let operator = take(&mut input, 2)?;
                Kind::Merge { operator: u16::from_le_bytes([operator[0], operator[1]]) }
            }
            _ => return Err(Malformed),
        };
        if flags & !(KIND_BITS | HAS_TIME | IN_INDEX) != 0 {
            return Err(Malformed);
        }
        let time = if flags & HAS_TIME == 0 { 0 } else { number(&mut input)? };
        let suffix = take(&mut input, unshared)?;
        let value = take(&mut input, value)?;
        let large = flags & KIND_BITS == KIND_LARGE;
        let entry = Entry { stamp: Lsn::from_bits(stamp), kind, time, value, large };
        Ok(Head { shared, suffix, entry, end: self.entries.len() - input.len() })
    }
}

/// What an entry says beside its key and value.
#[derive(Clone, Copy, Debug)]
struct Saying {
    stamp: Lsn,
    kind: Kind,
    time: u64,
    /// The value's length: it ends where the entry does.
    value_bytes: usize,
    large: bool,
}

/// An entry that was passed on the way to the one behind it.
#[derive(Clone, Debug)]
struct Passed {
    at: usize,
    next: usize,
    saying: Saying,
    /// Where its key begins; it ends where the next one's begins.
    key: usize,
}

/// A place in a block: before the first entry, at one, or behind the last. It borrows nothing, so that it
/// can be kept beside the block's bytes; every call is given the same block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    /// The key of the entry that it is at.
    key: Vec<u8>,
    /// The rest of it; none: it is at none.
    saying: Option<Saying>,
    /// Where that entry begins, and where the next one does.
    at: usize,
    next: usize,
    /// On the way back: the entries before it in the restart's run, and their keys. Keys are found forwards
    /// only, so a run is gone through once and kept.
    passed: Vec<Passed>,
    passed_keys: Vec<u8>,
}

impl Position {
    /// At no entry of a new block.
    pub(crate) fn reset(&mut self) {
        self.saying = None;
        (self.at, self.next) = (0, 0);
        self.forget_passed();
    }

    /// The entry that it is at.
    pub(crate) fn entry<'b>(&self, block: &Block<'b>) -> Option<(&[u8], Entry<'b>)> {
        let Saying { stamp, kind, time, value_bytes, large } = self.saying?;
        let value = block.entries.get(self.next.checked_sub(value_bytes)?..self.next)?;
        Some((&self.key, Entry { stamp, kind, time, value, large }))
    }

    /// The key of the entry that it is at.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether the entry that it is at is one of an index.
    pub(crate) fn is_of_index(&self, block: &Block<'_>) -> bool {
        block.entries.get(self.at).is_some_and(|flags| flags & IN_INDEX != 0)
    }

    fn forget_passed(&mut self) {
        self.passed.clear();
        self.passed_keys.clear();
    }

    fn restart_at(&mut self, block: &Block<'_>, number: usize) -> Result<(), Malformed> {
        let at = block.restart(number);
        if at < 8 || at >= block.entries.len() {
            return Err(Malformed);
        }
        self.key.clear();
        self.saying = None;
        (self.at, self.next) = (at, at);
        self.forget_passed();
        Ok(())
    }

    /// Goes to the next entry, and gives it; none if there is none.
    pub(crate) fn advance<'b>(
        &mut self,
        block: &Block<'b>,
    ) -> Result<Option<Entry<'b>>, Malformed> {
        self.forget_passed();
        self.step(block)
    }

    fn step<'b>(&mut self, block: &Block<'b>) -> Result<Option<Entry<'b>>, Malformed> {
        if self.next >= block.entries.len() {
            self.saying = None;
            self.at = self.next;
            return Ok(None);
        }
        let head = block.head(self.next)?;
        if head.shared > self.key.len() {
            return Err(Malformed);
        }
        self.key.truncate(head.shared);
        self.key.extend_from_slice(head.suffix);
        let Entry { stamp, kind, time, value, large } = head.entry;
        self.saying = Some(Saying { stamp, kind, time, value_bytes: value.len(), large });
        (self.at, self.next) = (self.next, head.end);
        Ok(Some(head.entry))
    }

    /// Goes to the first entry.
    pub(crate) fn first(&mut self, block: &Block<'_>) -> Result<bool, Malformed> {
        self.restart_at(block, 0)?;
        Ok(self.step(block)?.is_some())
    }

    /// Goes to the last entry.
    pub(crate) fn last(&mut self, block: &Block<'_>) -> Result<bool, Malformed> {
        self.at = block.entries.len();
        self.forget_passed();
        self.back(block)
    }

    /// Goes to the entry before this one; false if there is none.
    pub(crate) fn back(&mut self, block: &Block<'_>) -> Result<bool, Malformed> {
        if self.passed.is_empty() {
            let here = self.at;
            let Some(restart) = block.partition(|at| Ok(at < here))?.checked_sub(1) else {
                self.saying = None;
                return Ok(false);
            };
            self.restart_at(block, restart)?;
            while self.next < here {
                self.step(block)?;
                let Some(saying) = self.saying else { break };
                let (at, next, key) = (self.at, self.next, self.passed_keys.len());
                self.passed.push(Passed { at, next, saying, key });
                self.passed_keys.extend_from_slice(&self.key);
            }
        }
        let Some(Passed { at, next, saying, key }) = self.passed.pop() else {
            self.saying = None;
            return Ok(false);
        };
        self.key.clear();
        self.key.extend_from_slice(self.passed_keys.get(key..).unwrap_or_default());
        self.passed_keys.truncate(key);
        self.saying = Some(saying);
        (self.at, self.next) = (at, next);
        Ok(true)
    }

    /// Goes to the first entry at or after a place in [`order`]: the newest version of `key` at or
    /// below `stamp`, or the first of a later key. False if there is none.
    pub(crate) fn seek(
        &mut self,
        block: &Block<'_>,
        key: &[u8],
        stamp: Lsn,
    ) -> Result<bool, Malformed> {
        let before = block.partition(|at| {
            let head = block.head(at)?;
            Ok(order((head.suffix, head.entry.stamp), (key, stamp)).is_lt())
        })?;
        self.restart_at(block, before.saturating_sub(1))?;
        while let Some(entry) = self.step(block)? {
            if order((&self.key, entry.stamp), (key, stamp)).is_ge() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Block<'_> {
    /// How many restarts, from the first on, `before` holds of.
    fn partition(
        &self,
        mut before: impl FnMut(usize) -> Result<bool, Malformed>,
    ) -> Result<usize, Malformed> {
        let (mut low, mut high) = (0, self.restarts());
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.restart(middle))? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// How many bytes two keys begin with in common.
pub(crate) fn common(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// Appends a number as LEB128.
pub(crate) fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a LEB128 number off the front.
#[inline]
pub(crate) fn number(input: &mut &[u8]) -> Result<u64, Malformed> {
    let (first, rest) = input.split_first().ok_or(Malformed)?;
    *input = rest;
    // Nearly all are lengths below this.
    if *first < 0x80 { Ok(u64::from(*first)) } else { rest_of_number(*first, input) }
}

/// The rest of a number of several bytes.
fn rest_of_number(first: u8, input: &mut &[u8]) -> Result<u64, Malformed> {
    let (mut number, mut shift) = (u64::from(first & 0x7f), 7);
    while shift < 64 {
        let (byte, rest) = input.split_first().ok_or(Malformed)?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(Malformed);
        }
        number |= bits << shift;
        if *byte < 0x80 {
            return Ok(number);
        }
        shift += 7;
    }
    Err(Malformed)
}

/// Takes a length off the front: a number that fits what is left.
#[inline]
pub(crate) fn length(input: &mut &[u8]) -> Result<usize, Malformed> {
    usize::try_from(number(input)?).map_err(|_| Malformed)
}

/// Takes so many bytes off the front.
#[inline]
pub(crate) fn take<'b>(input: &mut &'b [u8], count: usize) -> Result<&'b [u8], Malformed> {
    let (taken, rest) = input.split_at_checked(count).ok_or(Malformed)?;
    *input = rest;
    Ok(taken)
}

/// A difference, small ones of either sign as small numbers.
fn zigzag(difference: u64) -> u64 {
    let signed = difference.cast_signed();
    ((signed << 1) ^ (signed >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}
