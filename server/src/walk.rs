//! Wide reads, a slice at a time: KEYS and RANGE over more than a core may look at in one turn.
//!
//! 1. A walk reads one snapshot from its first slice to its last, so that what is answered was there at one
//!    moment, however long it took.
//! 2. What it holds is bounded: replies begin with how many there are, so it goes over the keys once to
//!    count them, keeping at most [`BODY_BYTES_MAX`] of what it meets. What fits is the reply. Of what
//!    does not, the rest is read again and given as the client takes it.
//! 3. A slice looks at [`SLICE_KEYS`] keys or [`SLICE_BYTES`] bytes; other connections are served between two.
//!
//! ```text
//!              all keys looked at, kept          all given
//!   Counting ─────────────────────────► done ◄───────────── Giving
//!      └──────────────────────────────────────────────────────▲
//!              all keys looked at, not all kept
//! ```

use crate::glob;
use crate::resp::Reply;
use crate::store::{Bounds, is_empty};
use isolith::{Error, Keyspace, Range, Slice, Snapshot, Timestamp};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Keys that one slice looks at.
pub(crate) const SLICE_KEYS: usize = 512;
/// Bytes of keys and values that one slice looks at, and a little more.
const SLICE_BYTES: usize = 128 * 1024;
/// What the first pass keeps of a reply.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What is asked for.
pub(crate) struct Wide {
    pub(crate) bounds: Bounds,
    pub(crate) reverse: bool,
    /// The most keys that are given.
    pub(crate) limit: usize,
    pub(crate) gives: Gives,
}

/// What is given of a key.
pub(crate) enum Gives {
    /// Itself, if it matches.
    Keys(Vec<u8>),
    /// Itself and its value.
    Pairs,
}

impl Wide {
    fn wants(&self, key: &[u8]) -> bool {
        match &self.gives {
            Gives::Keys(pattern) => glob::matches(pattern, key),
            Gives::Pairs => true,
        }
    }

    /// Writes what is given of a key that is wanted.
    fn tell(&self, key: &[u8], value: &[u8], reply: &mut Reply<'_>) {
        match &self.gives {
            Gives::Keys(_) => reply.bulk(key),
            Gives::Pairs => {
                if reply.resp3() {
                    reply.array(2);
                }
                reply.bulk(key);
                reply.bulk(value);
            }
        }
    }

    fn head(&self, count: usize, reply: &mut Reply<'_>) {
        let flat = matches!(self.gives, Gives::Pairs) && !reply.resp3();
        reply.array(if flat { 2 * count } else { count });
    }
}

/// A whole reply, put together from all keys.
pub(crate) struct Whole {
    wide: Wide,
    resp3: bool,
    count: usize,
    body: Vec<u8>,
    overflowed: bool,
}

impl Whole {
    pub(crate) fn new(wide: Wide, resp3: bool) -> Whole {
        Whole { wide, resp3, count: 0, body: Vec::new(), overflowed: false }
    }

    /// Takes a key. False: it is enough.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8]) -> bool {
        if self.count < self.wide.limit && self.wide.wants(key) {
            let mut reply = Reply::going_on(&mut self.body, self.resp3);
            self.wide.tell(key, value, &mut reply);
            self.overflowed |= reply.overflowed();
            self.count += 1;
        }
        self.count < self.wide.limit && !self.overflowed
    }

    /// Writes all of it.
    pub(crate) fn tell(self, reply: &mut Reply<'_>) {
        if self.overflowed {
            reply.overflow();
            return;
        }
        self.wide.head(self.count, reply);
        reply.raw(&self.body);
    }
}

/// How far a walk has come.
enum Stage {
    Counting,
    /// So many are still to be given.
    Giving(usize),
}

/// How a slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sliced {
    /// The reply is whole.
    Done,
    /// There is more to come.
    More,
    /// What was counted is not there to be given: the reply cannot be ended.
    Broken,
}

/// A wide read under way.
pub(crate) struct Walk {
    wide: Wide,
    snapshot: Snapshot,
    keyspace: Keyspace,
    resp3: bool,
    /// `None`: nothing can lie within the bounds.
    range: Option<Range<Snapshot>>,
    stage: Stage,
    /// Keys that are wanted, as far as they are counted.
    count: usize,
    /// What is kept of the reply: of the first `kept` keys, up to and including `last`.
    body: Vec<u8>,
    kept: usize,
    last: Option<Slice>,
    /// While it is among those that are under way.
    tally: Option<Tally>,
}

impl Walk {
    pub(crate) fn new(snapshot: Snapshot, keyspace: Keyspace, wide: Wide, resp3: bool) -> Walk {
        let mut walk = Walk {
            wide,
            snapshot,
            keyspace,
            resp3,
            range: None,
            stage: Stage::Counting,
            count: 0,
            body: Vec::new(),
            kept: 0,
            last: None,
            tally: None,
        };
        if walk.wide.limit > 0 {
            walk.range = walk.range(walk.wide.bounds.clone());
        }
        walk
    }

    fn range(&self, bounds: Bounds) -> Option<Range<Snapshot>> {
        (!is_empty(&bounds)).then(|| self.snapshot.range(&self.keyspace, bounds))
    }

    /// What it reads.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.snapshot.timestamp()
    }

    /// True if a part of the reply may have been written: an error can no longer take its place.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.stage, Stage::Giving(_))
    }

    /// Counts it among those that are under way.
    pub(crate) fn enter(&mut self, under_way: &Arc<AtomicUsize>) {
        self.tally.get_or_insert_with(|| Tally::new(under_way));
    }

    /// One slice.
    pub(crate) fn advance(&mut self, reply: &mut Reply<'_>) -> Result<Sliced, Error> {
        let (mut keys, mut bytes) = (0, 0);
        while keys < SLICE_KEYS && bytes < SLICE_BYTES {
            if let Stage::Giving(0) = self.stage {
                return Ok(Sliced::Done);
            }
            let next = self.range.as_mut().and_then(|range| match self.wide.reverse {
                true => range.next_back(),
                false => range.next(),
            });
            let Some((key, value)) = next.transpose()? else {
                match self.turn(reply) {
                    Sliced::More => continue,
                    ended => return Ok(ended),
                }
            };
            keys += 1;
            bytes += key.len() + value.len();
            if !self.wide.wants(&key) {
                continue;
            }
            match &mut self.stage {
                Stage::Counting => {
                    self.count(key, &value);
                    let is_enough = self.count == self.wide.limit;
                    if is_enough && self.turn(reply) == Sliced::Done {
                        return Ok(Sliced::Done);
                    }
                }
                Stage::Giving(left) => {
                    *left -= 1;
                    self.wide.tell(&key, &value, reply);
                }
            }
        }
        Ok(match self.stage {
            Stage::Giving(0) => Sliced::Done,
            _ => Sliced::More,
        })
    }

    /// Notes a key that is wanted, and keeps what is given of it if there is room.
    fn count(&mut self, key: Slice, value: &[u8]) {
        let room = BODY_BYTES_MAX.saturating_sub(self.body.len());
        if self.kept == self.count && key.len() + value.len() <= room {
            let mut reply = Reply::new(&mut self.body, self.resp3);
            self.wide.tell(&key, value, &mut reply);
            self.kept += 1;
            self.last = Some(key);
        }
        self.count += 1;
    }

    /// All keys have been looked at: begins the reply, with what is kept of it.
    fn turn(&mut self, reply: &mut Reply<'_>) -> Sliced {
        if let Stage::Giving(_) = self.stage {
            // The snapshot has what it had when they were counted, or a read has said why not.
            debug_assert!(false, "keys are missing that were counted");
            return Sliced::Broken;
        }
        self.wide.head(self.count, reply);
        reply.raw(&std::mem::take(&mut self.body));
        let left = self.count - self.kept;
        self.stage = Stage::Giving(left);
        if left == 0 {
            return Sliced::Done;
        }
        let (start, end) = self.wide.bounds.clone();
        let bounds = match (self.last.take(), self.wide.reverse) {
            (None, _) => (start, end),
            (Some(last), false) => (Bound::Excluded(last.to_vec()), end),
            (Some(last), true) => (start, Bound::Excluded(last.to_vec())),
        };
        self.range = self.range(bounds);
        Sliced::More
    }
}

/// One of the walks under way.
struct Tally(Arc<AtomicUsize>);

impl Tally {
    fn new(under_way: &Arc<AtomicUsize>) -> Tally {
        // Relaxed, here and below: a figure for a human.
        under_way.fetch_add(1, Ordering::Relaxed);
        Tally(under_way.clone())
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        // Relaxed: see `new`.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
